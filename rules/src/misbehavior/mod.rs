//! Judges reports of misbehaviour: a pure function for nodes, auditors and third parties.
//!
//! [`verify`] depends only on its arguments, so all parties with the same registry, rates and chain data come to the
//! same judgement. In reading order:
//!
//! - [`report`]: the bytes of a report, their bounds, and the signature of the node that keeps it;
//! - [`judgement`]: verdicts, and the facts that they rest on;
//! - `case`, `chain_record`: the inputs of a judgement;
//! - `exhibits`: the envelopes of a report, with their signatures checked;
//! - `statements`, `order`, `causal`, `payload`, `window`, `chain`, `liveness`: one kind of fault each; `load`: the
//!   envelopes by minute that `window` needs; `proof_part`: the envelopes that a proof needs;
//! - [`trees`]: evidence based on signed trees, for which reports have no field; `late_release`, `other_report`: its
//!   judgement on payer reports, whose root is that of a tree of amounts;
//! - [`quorum`]: the judgement on liveness, which needs the reports of many.
//!
//! Specified in `docs/protocol/misbehavior.md`.

mod case;
mod causal;
mod chain;
mod chain_record;
mod difference;
mod exhibits;
#[cfg(test)]
mod fee_tests;
pub mod judgement;
mod late_release;
#[cfg(test)]
mod late_release_tests;
mod liveness;
mod load;
mod lone_envelope;
mod order;
mod other_report;
#[cfg(test)]
mod other_report_tests;
#[cfg(test)]
mod part_tests;
mod payload;
mod proof_part;
pub mod quorum;
#[cfg(test)]
mod quorum_tests;
pub mod report;
mod statements;
#[cfg(test)]
mod tests;
pub mod trees;
#[cfg(test)]
mod trees_tests;
mod window;

use hawser_proto::Signature;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;

pub use case::ReportCase;
pub use causal::{DEPENDENCY_LEAD_NS_MAX, DependencyState, dependency_state};
pub use chain_record::{ChainRecord, EventAnswer, NoChain, PlaceAnswer};
pub use difference::difference;
pub use hawser_proto::StatementDifference;
pub use judgement::{Fact, Host, Judgement, MisbehaviorVerdict, Missing};
pub use late_release::late_release_pieces;
pub use load::{LOAD_MINUTES, StrandLoad, precedes_window};
pub use order::{TIME_LEAD_NS_MAX, TIME_TOLERANCE_NS};
pub use other_report::other_report_pieces;
pub use proof_part::proof_part;
pub use report::{MisbehaviorKind, Report, ReportError};
pub use trees::{ShownLeaf, TreeEvidence, TreeFault, verify_trees};
pub use window::proves_overcharge;

use exhibits::Exhibit;
use judgement::FaultJudgement;

/// Judges a report. The result depends only on the arguments.
///
/// Costs at most three signature recoveries per envelope, and two checks of signatures per key package. Reports have up
/// to 64 envelopes, or 1,000 for congestion, and up to 8 MiB; a longer report is refuted without being decoded.
#[must_use]
pub fn verify(case: &ReportCase<'_>) -> Judgement {
    let host = host_of(case);
    let report = match Report::decode(case.report) {
        Ok(report) => report,
        Err(error) => return Judgement::refuted(host, None, Fact::of_report(&error)),
    };
    let about = Some((report.accused(), report.kind()));
    if !report.accused().is_node() || !case.registry.is_registered(report.accused()) {
        return Judgement::refuted(host, about, Fact::unknown_node(report.accused()));
    }
    let ruling = match report.failure() {
        report::ReportedFailure::Liveness(failure) => liveness::judge(&report, failure),
        report::ReportedFailure::Safety(envelopes) => {
            match exhibits::open(envelopes, case.registry) {
                Ok(exhibits) => judge_exhibits(case, &report, &exhibits),
                Err(worthless) => judge_others(case, &report, envelopes, worthless),
            }
        }
    };
    Judgement::of(host, &report, ruling)
}

fn judge_exhibits(case: &ReportCase<'_>, report: &Report, exhibits: &[Exhibit]) -> FaultJudgement {
    match report.kind() {
        MisbehaviorKind::DuplicateSequenceId => statements::judge(report, exhibits),
        MisbehaviorKind::OutOfOrder => order::judge(case, report, exhibits),
        MisbehaviorKind::CausalOrdering => causal::judge(case, report, exhibits),
        MisbehaviorKind::InvalidPayload => payload::judge(case, report, exhibits),
        MisbehaviorKind::BlockchainInconsistency => chain::judge(case, exhibits, None),
        // `Report::decode` accepts envelopes only for the five kinds above.
        MisbehaviorKind::Unspecified
        | MisbehaviorKind::UnresponsiveNode
        | MisbehaviorKind::SlowNode
        | MisbehaviorKind::FailedRequest => {
            FaultJudgement::refuted(Fact::malformed("the kind has no envelopes"))
        }
    }
}

/// Judges a report with an envelope that is not evidence. Where one envelope shows the fault, the others are judged
/// without it. `worthless` is the fact about the first such envelope.
fn judge_others(
    case: &ReportCase<'_>,
    report: &Report,
    envelopes: &[OriginatorEnvelope],
    worthless: Fact,
) -> FaultJudgement {
    let others = || exhibits::open_each(envelopes, case.registry);
    match report.kind() {
        MisbehaviorKind::CausalOrdering => causal::judge_others(case, report, &others(), worthless),
        MisbehaviorKind::InvalidPayload => {
            payload::judge_others(case, report, &others(), worthless)
        }
        MisbehaviorKind::BlockchainInconsistency => chain::judge(case, &others(), Some(worthless)),
        // Two envelopes show the fault together, or the kind has no envelopes.
        MisbehaviorKind::DuplicateSequenceId
        | MisbehaviorKind::OutOfOrder
        | MisbehaviorKind::Unspecified
        | MisbehaviorKind::UnresponsiveNode
        | MisbehaviorKind::SlowNode
        | MisbehaviorKind::FailedRequest => FaultJudgement::refuted(worthless),
    }
}

/// Finds the node with whose key the report was signed as its host. If several nodes have this key, the first one
/// counts, because the signature does not name its node, and must not make two witnesses.
fn host_of(case: &ReportCase<'_>) -> Host {
    let Some(bytes) = case.host_signature else { return Host::None };
    let digest = report::digest(case.report);
    let signer = Signature::canonicalize(bytes).ok().and_then(|it| it.recover(digest).ok());
    let Some(signer) = signer else { return Host::Unknown };
    let known = case.registry.nodes().find(|record| record.public_key == signer);
    match known {
        Some(record) if case.host.is_none_or(|host| host == record.id) => Host::Node(record.id),
        Some(record) => Host::Other(record.id),
        None => Host::Unknown,
    }
}
