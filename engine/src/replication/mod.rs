//! How this node follows the strands of others: what is asked of whom, what is believed, and when
//! a gap is given up.
//!
//! - [`EnvelopeVerifier`] turns bytes of a peer into what may be stored, or into the peer's violation;
//! - [`Follower`] is one strand as this node follows it, a state machine without I/O;
//! - [`link`] is what the engine and the transport say to each other.
//!
//! `engine::runtime::replication` holds the tasks that drive this, and reads what is sent to
//! peers. `net` moves the frames and decides nothing. See `docs/decisions/0004-replication.md`.

mod follower;
pub mod link;
mod ranges;
mod verify;

pub use follower::{
    DECIDE_AFTER, Effect, Follower, RETRY_AFTER, SEARCH_FOR, STALL_AFTER, StrandWrite,
};
pub use link::{LinkCommand, PeerViolation, RequestId, StrandItem, Want, WantResponse};
pub use verify::{EnvelopeVerifier, VerifyError, VerifyResult};
