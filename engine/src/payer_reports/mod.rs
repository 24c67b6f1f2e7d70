//! Payer reports as this node sees them: those on the chain, those that nodes have written, and the figures of
//! its own log that decide about them.
//!
//! Nothing is stored beside the log and the recorded events of the chain, so a step that a crash interrupts is
//! repeated. [`held`] finds the written reports, and [`on_chain`] the submitted and settled ones. [`figures`] computes
//! the same amounts again; [`explained`] shows them beside a report that differs. [`usage`] computes the balance that a
//! payer has left.

pub mod explained;
pub mod figures;
pub mod held;
mod late;
mod not_yet;
pub mod on_chain;
mod times;
pub mod usage;

use hawser_proto::OriginatorId;
use hawser_rules::Registry;
use hawser_rules::payer_report::{NodeIds, PayerReportError};

pub use explained::{ComparedReport, EXPLAINED_ROWS_MAX, recompute_explained};
pub(crate) use figures::AHEAD_MINUTES;
pub use figures::{
    FiguresError, Recomputed, draft, has_come, recompute, recompute_on_chain, recompute_to_attest,
};
pub(crate) use held::attestations_behind;
pub use held::{HeldReport, HeldReports, SkippedRead, UncountedEnvelope, held_reports};
pub(crate) use late::{LateMinutes, LateScan, late_places, may_fill, may_grow};
pub use not_yet::UndecidedError;
pub use on_chain::{ChainReport, ChainReports, SETTLED_KEPT};
pub(crate) use times::minute_at;
pub use usage::{PayerUsage, available_of, usage_of};

/// Returns the nodes that a report lists now: all canonical ones. The contract refuses every other list, so a node
/// without a valid key is listed as well: without it, one such record would end all reports.
///
/// # Errors
/// When it is empty.
pub fn nodes_of(registry: &Registry) -> Result<NodeIds, PayerReportError> {
    NodeIds::new(registry.canonical_ids())
}

/// Returns the originators that reports are written about: what was taken over from the older network, and all nodes of
/// the registry. It includes those without a valid key: usage of their strands stays settled.
#[must_use]
pub fn originators_of(registry: &Registry) -> Vec<OriginatorId> {
    OriginatorId::MIGRATED.into_iter().chain(registry.registered_ids()).collect()
}
