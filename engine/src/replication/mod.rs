//! Following the strands of other nodes: requests to peers, verification, and gap searches.
//!
//! - [`EnvelopeVerifier`] turns bytes from a peer into entries to store, or into the peer's
//!   violation;
//! - [`Follower`] follows one strand: a state machine without I/O;
//! - [`MendSearch`] searches peers for envelopes that the disk has damaged;
//! - [`SignedRuns`] decides which envelopes readers are shown before they are verified, [`ShownStrand`] the order
//!   of showing and verifying;
//! - [`PeerClock`] keeps the claimed heads of one peer, in bounded memory;
//! - [`CheckpointWatch`] compares the checkpoints that other nodes sign; [`OfferedCheckpoints`],
//!   [`CheckpointAllowance`] and [`ShownCheckpoints`] pace the checkpoints that a peer is shown, and those that it
//!   may show;
//! - [`KnownVoids`] keeps the statements of nodes about void places, in bounded memory;
//! - [`link`] holds the values that the engine and the transport exchange.
//!
//! `engine::runtime::replication` holds the tasks that drive these, and reads the strands that are
//! sent to peers. `net` moves the frames and decides nothing. See
//! `docs/decisions/0004-replication.md`.

mod ahead;
mod checkpoint_pace;
mod checkpoints;
mod follower;
pub mod link;
mod mend;
mod peer_clock;
mod ranges;
mod shown_checkpoints;
mod signed_runs;
mod stored_trees;
mod verify;
mod voids;

pub use ahead::{AskAgain, Incoming, ShownLimits, ShownStage, ShownStrand};
pub use checkpoint_pace::{
    CheckpointAllowance, CheckpointOffers, OfferKey, OfferedCheckpoints, SHOWN_TO_SIGNER,
};
pub(crate) use checkpoints::{CheckpointPair, pair_of};
pub use checkpoints::{CheckpointWatch, Finding, Trees};
pub use follower::{Effect, Follower, SplitLimits, StrandWrite, can_have_expired};
pub use link::{
    GapRanges, GapWants, LinkCommand, PeerViolation, RequestId, RequestIds, StrandItem, Want,
    WantResponse, WantedItems,
};
pub use mend::{MendEffect, MendSearch};
pub use peer_clock::PeerClock;
pub(crate) use ranges::RANGES_MAX;
pub use shown_checkpoints::ShownCheckpoints;
pub use signed_runs::{AcceptedRun, RunJudge, SignedRuns};
pub use stored_trees::StoredTrees;
pub use verify::{EnvelopeVerifier, VerifyResult};
pub use voids::{KnownVoids, VOIDS_MAX};
