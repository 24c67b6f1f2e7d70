//! Seeded mistakes for tests. Each fault is a change that a programmer could make by accident, and
//! `tests/tests/faults.rs` shows that a test of this workspace notices it.
//!
//! Each invariant of the simulated network, a file in `tests/src/sim/invariants/`, has a fault here that names it. The
//! other faults say what notices them.
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
    /// A commit returns without its sync. The log of syncs shows an answer that none covers.
    LostSync,
    /// At every seventh place the log has bytes that differ from the committed ones. Breaks `nothing_forged`.
    ChangedBytes,
    /// At every seventh place the log has no bytes. Breaks `nothing_acknowledged_lost`.
    LostEnvelope,
    /// The mark of places without an envelope ends one place early. Breaks `no_gap`.
    ShortMark,
    /// A second statement for a place counts as the first one again. No conflict is reported.
    HiddenConflict,
    /// The record of evidence has the first of its envelopes twice, and not the last one. Breaks `evidence_verifies`.
    OtherEvidence,
    /// The follower treats a strand as contiguous where one place is missing. Its own assertion stops it.
    SkippedPlace,
    /// The follower treats accepted envelopes as durable. Breaks `durable_le_accepted`.
    AcceptedIsDurable,
    /// The follower does not check the signatures of originators. Breaks `same_bytes`.
    UncheckedSignature,
    /// The follower drops an envelope that arrives for a place marked missing. Breaks `equal_strands`.
    DroppedLateEnvelope,
    /// The sequencer gives the last id of a request to the next request again. Assertions stop the node.
    DoubledId,
    /// The claims of a peer about unknown originators are kept without a bound. Breaks `bounded_memory`.
    UnboundedClaims,
    /// The claim of a peer is kept one place too high. Breaks `cursors_on_disk`.
    ClaimTooHigh,
    /// The follower ends the search for a gap with the first answer. Breaks `none_passed_over`.
    FirstAnswerEnds,
    /// The search for a gap does not end while no peer holds the places. Breaks `all_running`.
    EndlessSearch,
    /// The job behind readers does not verify the last place that they were shown. Breaks `all_verified`.
    UnverifiedEnd,
    /// A query of topics passes over the first place behind the cursor of its reader. Breaks `readable`.
    PassedRow,
    /// A time counts as in the future if it is ahead of this node's clock by any amount. Breaks `no_honest_guilty`.
    ForgottenLead,
    /// Each fee counts as one that a rate explains. Breaks `liar_named`.
    UnjudgedFees,
}

impl SeededFault {
    /// All faults.
    pub const ALL: [Self; 19] = [
        Self::LostSync,
        Self::ChangedBytes,
        Self::LostEnvelope,
        Self::ShortMark,
        Self::HiddenConflict,
        Self::OtherEvidence,
        Self::SkippedPlace,
        Self::AcceptedIsDurable,
        Self::UncheckedSignature,
        Self::DroppedLateEnvelope,
        Self::DoubledId,
        Self::UnboundedClaims,
        Self::ClaimTooHigh,
        Self::FirstAnswerEnds,
        Self::EndlessSearch,
        Self::UnverifiedEnd,
        Self::PassedRow,
        Self::ForgottenLead,
        Self::UnjudgedFees,
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

/// Switches the fault of its thread off when it is dropped.
struct ThreadFault;

impl Drop for ThreadFault {
    fn drop(&mut self) {
        OF_THREAD.set(None);
    }
}

/// Runs `work` with the fault switched on for this thread. It is off afterwards, also if `work` panics.
pub fn with<T>(fault: SeededFault, work: impl FnOnce() -> T) -> T {
    let _off = ThreadFault;
    OF_THREAD.set(Some(fault));
    work()
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
