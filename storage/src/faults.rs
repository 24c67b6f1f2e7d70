//! Seeded mistakes for tests. Each fault is a change that a programmer could make by accident, and
//! `tests/tests/faults.rs` shows that a test of this workspace notices it.
//!
//! Compiled with the feature `faults` only; `scripts/test-faults` is the one user of it. A fault is
//! switched on for one thread, by [`with`], or for a whole process, by the environment variable
//! [`VARIABLE`].

use std::cell::Cell;
use std::sync::OnceLock;

/// The environment variable with the name of the fault, as [`SeededFault::name`] returns it.
pub const VARIABLE: &str = "HAWSER_FAULT";

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeededFault {
    /// A commit returns without its sync.
    LostSync,
    /// At every seventh place the log has bytes that differ from the committed ones.
    ChangedBytes,
    /// A second statement for a place counts as the first one again.
    HiddenConflict,
    /// The follower treats a strand as contiguous where one place is missing.
    SkippedPlace,
    /// The follower treats accepted envelopes as durable.
    AcceptedIsDurable,
    /// The follower does not check the signatures of originators.
    UncheckedSignature,
    /// The follower drops an envelope that arrives for a place marked missing.
    DroppedLateEnvelope,
    /// The sequencer gives the last id of a request to the next request again.
    DoubledId,
    /// The claims of a peer about unknown originators are kept without a bound.
    UnboundedClaims,
    /// The follower ends the search for a gap with the first answer.
    FirstAnswerEnds,
}

impl SeededFault {
    /// All faults.
    pub const ALL: [Self; 10] = [
        Self::LostSync,
        Self::ChangedBytes,
        Self::HiddenConflict,
        Self::SkippedPlace,
        Self::AcceptedIsDurable,
        Self::UncheckedSignature,
        Self::DroppedLateEnvelope,
        Self::DoubledId,
        Self::UnboundedClaims,
        Self::FirstAnswerEnds,
    ];

    /// Returns the name for [`VARIABLE`].
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

thread_local! {
    static OF_THREAD: Cell<Option<SeededFault>> = const { Cell::new(None) };
}

/// Runs `work` with the fault switched on for this thread. The fault stays on if `work` panics, as
/// the thread of a failed test ends.
pub fn with<T>(fault: SeededFault, work: impl FnOnce() -> T) -> T {
    OF_THREAD.set(Some(fault));
    let done = work();
    OF_THREAD.set(None);
    done
}

/// Returns true while the fault is switched on for this thread or this process.
#[must_use]
pub fn is_on(fault: SeededFault) -> bool {
    static OF_PROCESS: OnceLock<Option<SeededFault>> = OnceLock::new();
    let of_process = || {
        let name = std::env::var(VARIABLE).ok()?;
        let fault = SeededFault::ALL.into_iter().find(|fault| fault.name() == name);
        Some(fault.unwrap_or_else(|| panic!("{VARIABLE} names no fault: {name}")))
    };
    OF_THREAD.get() == Some(fault) || *OF_PROCESS.get_or_init(of_process) == Some(fault)
}
