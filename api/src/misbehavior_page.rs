//! The page at `/misbehavior`: evidence against nodes, for operators.

use std::collections::BTreeMap;

use hawser_engine::Engine;
use hawser_engine::misbehavior::{Evidence, EvidenceTime, Misbehavior, StoredEvidence};
use hawser_engine::reports::ReportClass;
use hawser_serve::pages::parameter;
use serde::Serialize;

/// Largest number of facts on a page. A guess: the operator requests the next page after the last one.
const PIECES_MAX: usize = 100;
/// Bytes of evidence after which a page ends. Specified: that of the API's answers on misbehaviour.
const LEN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One page of evidence, oldest first. Empty at the end.
#[derive(Debug, Serialize)]
pub(crate) struct MisbehaviorPage {
    misbehavior: Vec<EvidenceReport>,
}

/// A fact in `/misbehavior`.
#[derive(Debug, Serialize)]
struct EvidenceReport {
    /// The position: time in unix nanoseconds, a point, a counter. `after=` takes it.
    position: String,
    server_time_ns: u64,
    misbehaving_node_id: u32,
    sequence_id: u64,
    /// Number of the kind in the API's schema.
    kind: u8,
    fault: &'static str,
    /// `proven` by the envelopes, or `claim` by this node's clock.
    verdict: &'static str,
    /// The part in which two statements for one place differ; `None` for other faults.
    severity: Option<&'static str>,
    /// Number of the broken rule; `None` for other faults.
    rule: Option<u8>,
    from_node_id: Option<u32>,
    /// The signed originator envelopes, or the checkpoints, in hex.
    envelopes: Vec<String>,
}

impl From<StoredEvidence> for EvidenceReport {
    fn from(stored: StoredEvidence) -> Self {
        let StoredEvidence { at: EvidenceTime { server_time_ns, counter }, evidence } = stored;
        let Evidence { misbehavior, at, from, envelopes } = evidence;
        Self {
            position: format!("{server_time_ns}.{counter}"),
            server_time_ns,
            misbehaving_node_id: at.originator.0,
            sequence_id: at.sequence.0,
            kind: misbehavior.kind(),
            fault: misbehavior.label(),
            verdict: if misbehavior.is_claim() { "claim" } else { "proven" },
            severity: match misbehavior {
                Misbehavior::TwoStatements(severity) => Some(severity.name()),
                _ => None,
            },
            rule: match misbehavior {
                Misbehavior::Invalid(rule) => Some(rule),
                _ => None,
            },
            from_node_id: from.map(|from| from.0),
            envelopes: envelopes.iter().map(hex::encode).collect(),
        }
    }
}

/// The number of facts about one node, as `/status` shows it.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct FactCounts {
    pub(crate) proven: u64,
    pub(crate) claims: u64,
}

/// Returns the number of facts about each node that there is evidence against.
pub(crate) fn counts(engine: &Engine) -> BTreeMap<u32, FactCounts> {
    let counts = engine.store().evidence_counts().into_iter();
    counts
        .map(|(node, it)| (node.0, FactCounts { proven: it.proven(), claims: it.claims() }))
        .collect()
}

/// The numbers of misbehaviour reports that this node keeps, in `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct KeptReports {
    /// Reports about this node itself. Other nodes and clients have submitted all of them.
    pub(crate) against_this_node: u64,
    /// Counts by accused node.
    pub(crate) by_node: BTreeMap<u32, ReportCounts>,
}

/// The number of reports about one node, as `/status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct ReportCounts {
    /// Reports whose evidence proves them, made by this node or submitted to it.
    pub(crate) proven: u64,
    /// Reports by this node that prove nothing to others.
    pub(crate) own_claims: u64,
    /// Liveness reports by this node: about a node that does not answer as required.
    pub(crate) own_liveness: u64,
    /// Reports by others that prove nothing.
    pub(crate) submitted: u64,
}

impl ReportCounts {
    fn all(self) -> u64 {
        let Self { proven, own_claims, own_liveness, submitted } = self;
        proven + own_claims + own_liveness + submitted
    }
}

/// Returns the number of reports that this node keeps.
pub(crate) fn kept_reports(engine: &Engine) -> KeptReports {
    let mut by_node: BTreeMap<u32, ReportCounts> = BTreeMap::new();
    for ((accused, class), reports) in engine.store().report_counts() {
        let counts = by_node.entry(accused.0).or_default();
        match class {
            ReportClass::Equivocation | ReportClass::Proven => counts.proven += reports,
            ReportClass::OwnClaim => counts.own_claims += reports,
            ReportClass::OwnLiveness => counts.own_liveness += reports,
            ReportClass::Foreign => counts.submitted += reports,
        }
    }
    by_node.retain(|_, counts| counts.all() > 0);
    let own = by_node.get(&engine.store().identity().node.0).copied();
    KeptReports { against_this_node: own.unwrap_or_default().all(), by_node }
}

/// Reads the page after a position. Blocks on the disk.
///
/// # Errors
/// An error if the evidence cannot be read.
pub(crate) fn page(
    engine: &Engine,
    after: EvidenceTime,
) -> Result<MisbehaviorPage, impl std::fmt::Display> {
    let found = engine.store().snapshot().evidence(after, PIECES_MAX, LEN_BYTES_MAX);
    found.map(|found| MisbehaviorPage {
        misbehavior: found.into_iter().map(EvidenceReport::from).collect(),
    })
}

/// Returns the position in the query's `after=`, or the start without it; `None` if it is malformed.
pub(crate) fn position_of(query: &str) -> Option<EvidenceTime> {
    let Some(text) = parameter(query, "after") else { return Some(EvidenceTime::default()) };
    let (time, counter) = text.split_once('.').unwrap_or((text, "65535"));
    Some(EvidenceTime { server_time_ns: time.parse().ok()?, counter: counter.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_time_and_a_counter() {
        let at = |server_time_ns, counter| Some(EvidenceTime { server_time_ns, counter });
        assert_eq!(position_of(""), at(0, 0));
        assert_eq!(position_of("after=7.3"), at(7, 3));
        assert_eq!(position_of("x=1&after=7"), at(7, u16::MAX), "after all of that time");
        for malformed in ["after=", "after=x", "after=7.x", "after=-1", "after=7.65536"] {
            assert_eq!(position_of(malformed), None, "{malformed}");
        }
    }
}
