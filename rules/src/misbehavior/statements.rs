//! Duplicate statements: two different envelopes with the same id.

use super::difference::{changed, difference};
use super::exhibits::{Exhibit, all_signed_by};
use super::judgement::{Fact, FaultJudgement, MisbehaviorVerdict};
use super::report::Report;

/// Judges two envelopes with the same id.
pub(super) fn judge(report: &Report, exhibits: &[Exhibit]) -> FaultJudgement {
    let [one, other] = exhibits else {
        let count = exhibits.len() as u64;
        let fact = Fact::malformed("two statements are exactly two envelopes");
        return FaultJudgement::refuted(fact.with("envelopes", count));
    };
    if let Err(fact) = all_signed_by(exhibits, report.accused()) {
        return FaultJudgement::refuted(fact);
    }
    if one.id != other.id {
        let fact = Fact::new("two_places", "the envelopes are for two different places")
            .at(one.id)
            .with("other_sequence", other.id.sequence.0);
        return FaultJudgement::refuted(fact);
    }
    let Some(difference) = difference(&one.statement, &other.statement) else {
        let text = "both envelopes are the same statement, signed twice";
        return FaultJudgement::refuted(Fact::new("one_statement", text).at(one.id));
    };
    let fields: Vec<&str> = changed(&one.fields, &other.fields).map(|(field, _)| field).collect();
    let text = match fields.as_slice() {
        [] => "the accused signed the same fields for one place in two encodings".to_owned(),
        fields => format!(
            "the accused signed two statements for one place, which differ in {}",
            fields.join(", ")
        ),
    };
    let fact = Fact::new("two_statements", text)
        .at(one.id)
        .with("first_ns", one.ns())
        .with("second_ns", other.ns());
    FaultJudgement {
        difference: Some(difference),
        ..FaultJudgement::new(MisbehaviorVerdict::Proven, fact)
    }
}
