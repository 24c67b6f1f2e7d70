//! Order faults: times or sequence ids of one strand that are out of order.

use super::case::ReportCase;
use super::exhibits::{Exhibit, all_signed_by};
use super::judgement::{Fact, FaultJudgement, MisbehaviorVerdict};
use super::report::Report;

/// The largest backward step in time that is not a fault, in nanoseconds. Specified (`docs/protocol/misbehavior.md`):
/// other implementations take the time before they assign the sequence id.
pub const TIME_TOLERANCE_NS: i64 = 1_000_000_000;
/// The lead over a clock above which a time is in the future, in nanoseconds. Specified (same page).
pub const TIME_LEAD_NS_MAX: i64 = 5 * 60 * 1_000_000_000;

/// Judges one envelope with a time in the future, or two envelopes whose times or sequence ids are out of order.
pub(super) fn judge(
    case: &ReportCase<'_>,
    report: &Report,
    exhibits: &[Exhibit],
) -> FaultJudgement {
    if let Err(fact) = all_signed_by(exhibits, report.accused()) {
        return FaultJudgement::refuted(fact);
    }
    match exhibits {
        [one] => future(case, report, one),
        [one, other] => {
            let (earlier, later) = if one.id <= other.id { (one, other) } else { (other, one) };
            pair(case, report, earlier, later)
        }
        more => {
            let fact = Fact::malformed("a fault in order is shown by one or two envelopes");
            FaultJudgement::refuted(fact.with("envelopes", more.len() as u64))
        }
    }
}

/// Judges two envelopes of one originator, `earlier` at the lower place: their times, and the places between them.
fn pair(
    case: &ReportCase<'_>,
    report: &Report,
    earlier: &Exhibit,
    later: &Exhibit,
) -> FaultJudgement {
    if earlier.id == later.id {
        let text = "both envelopes are for the same place, which is no fault in order";
        return FaultJudgement::refuted(Fact::new("one_place", text).at(later.id));
    }
    let step_ns = i128::from(earlier.ns()) - i128::from(later.ns());
    if step_ns > i128::from(TIME_TOLERANCE_NS) {
        let text = "a later place has an earlier time";
        let fact = Fact::new("time_back", text)
            .at(later.id)
            .with("earlier_sequence", earlier.id.sequence.0)
            .with("earlier_ns", earlier.ns())
            .with("later_ns", later.ns())
            .with("step_ns", step_ns);
        return FaultJudgement::new(MisbehaviorVerdict::Proven, fact);
    }
    // The two envelopes may also be the previous one and one from the future.
    let lead = future(case, report, later);
    if lead.verdict != MisbehaviorVerdict::Refuted {
        return lead;
    }
    let between = later.id.sequence.0 - earlier.id.sequence.0 - 1;
    if between == 0 {
        let text = "the places follow each other, and their times are in order";
        let fact = Fact::new("in_order", text).at(later.id).with("step_ns", step_ns.max(0));
        return FaultJudgement::refuted(fact);
    }
    let text = "the reporter did not get the places between these two; an absence is not signed";
    let fact = Fact::new("gap", text)
        .at(later.id)
        .with("after", earlier.id.sequence.0)
        .with("places", between);
    FaultJudgement::new(MisbehaviorVerdict::Claim, fact)
}

/// Judges an envelope's time by the clock of the report's host and by chain data.
fn future(case: &ReportCase<'_>, report: &Report, envelope: &Exhibit) -> FaultJudgement {
    let ns = envelope.ns();
    let limit_ns = |clock_ns: i64| clock_ns.saturating_add(TIME_LEAD_NS_MAX);
    if let Some(block_ns) = case.chain.anchor_ns(envelope.id).filter(|&it| ns > limit_ns(it)) {
        let text = "a block that is older than the envelope's time speaks of the envelope";
        let fact = Fact::new("time_ahead_of_chain", text)
            .at(envelope.id)
            .with("originator_ns", ns)
            .with("block_ns", block_ns);
        return FaultJudgement::new(MisbehaviorVerdict::Proven, fact);
    }
    let reported_ns = i64::try_from(report.reporter_time_ns()).unwrap_or(i64::MAX);
    // The reporter may state any time, so the clock of the host is decisive.
    let clock_ns = case.held_at_ns.map_or(reported_ns, |held_ns| held_ns.max(reported_ns));
    if ns > limit_ns(clock_ns) {
        let text = "the time was in the future when the report was made, by the reporter's clock";
        let fact = Fact::new("time_ahead", text)
            .at(envelope.id)
            .with("originator_ns", ns)
            .with("clock_ns", clock_ns);
        return FaultJudgement::new(MisbehaviorVerdict::Claim, fact);
    }
    let text = "the time is not in the future";
    let fact = Fact::new("not_ahead", text)
        .at(envelope.id)
        .with("originator_ns", ns)
        .with("clock_ns", clock_ns);
    FaultJudgement::refuted(fact)
}
