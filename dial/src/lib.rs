//! Bounds on connections to hosts that others name.
//!
//! - [`look_up`]: the addresses of a name.
//!
//! Invariant: a host that never answers costs bounded memory and threads.

#![warn(missing_docs)]

mod look_up;

pub use look_up::look_up;
