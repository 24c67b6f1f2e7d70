//! Causal faults: envelopes with dependencies that their signer cannot have seen.
//!
//! A dependency on a node's strand is proven by the envelope alone. What a chain shows about a dependency is a claim:
//! the chain may have had the event on a branch that it took back, and an endpoint may have shown the signer an event
//! that no chain has. Nothing that the signer stated tells this from a lie.
//!
//! A circle of envelopes that depend on each other needs no rule of its own. An envelope in it that depends on a node's
//! strand is a fault of its signer in any case. A rule about circles would also prove a node guilty whose envelope is
//! in the circle only because an envelope of another node depends on it.

use hawser_proto::envelope::UnsignedOriginatorEnvelope;
use hawser_proto::{EnvelopeId, SequenceId};

use super::case::ReportCase;
use super::chain_record::{ChainRecord, PlaceAnswer};
use super::exhibits::{Exhibit, Origin};
use super::judgement::{Fact, FaultJudgement, MisbehaviorVerdict, Missing};
use super::report::Report;

/// The accepted lead of a chain's clock over an originator's, in nanoseconds. Specified
/// (`docs/protocol/misbehavior.md`).
pub const DEPENDENCY_LEAD_NS_MAX: i64 = 5 * 60 * 1_000_000_000;

/// The state of a chain's place at the time of an envelope that depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DependencyState {
    /// The chain had it, or may have had it by its own clock.
    Existed {
        /// The time of its block, unix nanoseconds; `None` for the place 0, which every strand begins after.
        block_ns: Option<i64>,
    },
    /// Its block is younger than the envelope.
    Later {
        /// The time of the block, unix nanoseconds.
        block_ns: i64,
    },
    /// A block that is younger than the envelope does not have it, and none before.
    Absent {
        /// The time of that block, unix nanoseconds.
        final_ns: i64,
    },
    /// The chain's record does not decide it.
    Unknown,
}

/// Returns the state of a chain's place at the time of an envelope, unix nanoseconds.
#[must_use]
pub fn dependency_state(
    chain: &dyn ChainRecord,
    needed: EnvelopeId,
    originator_ns: i64,
) -> DependencyState {
    if needed.sequence == SequenceId::NONE {
        return DependencyState::Existed { block_ns: None };
    }
    let limit_ns = originator_ns.saturating_add(DEPENDENCY_LEAD_NS_MAX);
    match chain.place(needed) {
        PlaceAnswer::At { block_ns } if block_ns > limit_ns => DependencyState::Later { block_ns },
        PlaceAnswer::At { block_ns } => DependencyState::Existed { block_ns: Some(block_ns) },
        PlaceAnswer::NotYet { final_ns } if final_ns > limit_ns => {
            DependencyState::Absent { final_ns }
        }
        PlaceAnswer::NotYet { .. } | PlaceAnswer::Unknown => DependencyState::Unknown,
    }
}

/// Judges the dependencies of the accused's envelopes.
pub(super) fn judge(
    case: &ReportCase<'_>,
    report: &Report,
    exhibits: &[Exhibit],
) -> FaultJudgement {
    if let Some(chain) = exhibits.iter().find(|it| matches!(it.origin, Origin::Chain(_))) {
        let worthless = Fact::new("not_of_accused", "a chain's envelope depends on nothing");
        return judge_others(case, report, exhibits, worthless.at(chain.id));
    }
    let Some(first) = of_accused(report, exhibits).into_iter().next() else {
        let fact = Fact::new("not_of_accused", "the accused signed none of the envelopes");
        return FaultJudgement::refuted(fact.with("node", report.accused().0));
    };
    let text = "every dependency was there before the envelope";
    let otherwise = Fact::new("dependencies_hold", text).at(first.id);
    judge_others(case, report, exhibits, otherwise)
}

/// Judges the dependencies of the accused's envelopes, each by itself, whatever other envelopes the report has.
/// `otherwise` is the fact that refutes the report if these dependencies show no fault, and none of them is unknown.
pub(super) fn judge_others(
    case: &ReportCase<'_>,
    report: &Report,
    exhibits: &[Exhibit],
    otherwise: Fact,
) -> FaultJudgement {
    let (mut claimed, mut unknown) = (None, None);
    for exhibit in of_accused(report, exhibits) {
        for needed in dependencies(exhibit) {
            if needed.originator.is_node() {
                let text =
                    "the envelope depends on a node's strand; only chains can be depended on";
                let fact = named("depends_on_node", text, exhibit, needed);
                return FaultJudgement::new(MisbehaviorVerdict::Proven, fact);
            }
            match dependency_state(case.chain, needed, exhibit.ns()) {
                DependencyState::Existed { .. } => {}
                DependencyState::Later { block_ns } => {
                    let text =
                        "by the chain as it is now, the named place came to be after the envelope";
                    let fact = named("dependency_later", text, exhibit, needed);
                    claimed.get_or_insert(fact.with("block_ns", block_ns));
                }
                DependencyState::Absent { final_ns } => {
                    let text = "by the chain as it is now, the named place did not exist after the envelope";
                    let fact = named("dependency_absent", text, exhibit, needed);
                    claimed.get_or_insert(fact.with("block_ns", final_ns));
                }
                DependencyState::Unknown => {
                    let text = "nothing known here says when the place that is named came to be";
                    unknown.get_or_insert(named("dependency_unknown", text, exhibit, needed));
                }
            }
        }
    }
    match (claimed, unknown) {
        (Some(fact), _) => FaultJudgement::new(MisbehaviorVerdict::Claim, fact),
        (None, Some(fact)) => FaultJudgement::inconclusive(fact, Missing::Chain),
        (None, None) => FaultJudgement::refuted(otherwise),
    }
}

/// Returns the exhibits that the accused has signed.
fn of_accused<'a>(report: &Report, exhibits: &'a [Exhibit]) -> Vec<&'a Exhibit> {
    exhibits.iter().filter(|it| it.is_signed_by(report.accused())).collect()
}

fn named(name: &'static str, text: &str, exhibit: &Exhibit, needed: EnvelopeId) -> Fact {
    Fact::new(name, text)
        .at(exhibit.id)
        .with("originator_ns", exhibit.ns())
        .with("needed_originator", needed.originator.0)
        .with("needed_sequence", needed.sequence.0)
}

/// Returns the dependencies of an envelope; none for one that does not decode, which is a separate fault.
fn dependencies(exhibit: &Exhibit) -> Vec<EnvelopeId> {
    let parsed = UnsignedOriginatorEnvelope::parse(exhibit.statement.clone());
    parsed.map(|it| it.payer().client().depends_on().to_vec()).unwrap_or_default()
}
