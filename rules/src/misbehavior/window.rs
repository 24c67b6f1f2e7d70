//! Faults of congestion fees, which depend on all envelopes of five minutes.

use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::minute_of;

use super::case::ReportCase;
use super::exhibits::Exhibit;
use super::judgement::{Fact, MisbehaviorVerdict, Missing, Ruling};
use crate::congestion::congestion_units;
use crate::fees::is_free;

/// The number of the rule on congestion fees under the window. Specified (`docs/protocol/misbehavior.md`).
const RULE: u8 = 12;
/// The number of minutes before the current one that count. Specified (`docs/protocol/fees.md`).
const MINUTES_BEFORE: u32 = 4;

/// Judges the congestion fee of the envelope with the highest sequence id by the envelopes before it.
pub(super) fn judge(case: &ReportCase<'_>, exhibits: &[Exhibit]) -> Ruling {
    let mut strand: Vec<&Exhibit> = exhibits.iter().collect();
    strand.sort_by_key(|it| it.id);
    let Some((last, before)) = strand.split_last() else {
        return Ruling::refuted(Fact::malformed("no envelopes"));
    };
    let stated = last.fields.congestion_fee_picodollars;
    if let Err(fact) = check_window(&strand, last) {
        return Ruling::inconclusive(fact, Missing::Window);
    }
    let (fewest, most) = counts(before, last);
    let is_free_of_charge = counts_towards_congestion(last) == Some(false);
    let Some(rates) = case.rates.filter(|rates| rates.at(last.ns()).is_ok()) else {
        let text = "without a history of rates the fees cannot be judged";
        let fact = Fact::new("rates_unknown", text).at(last.id);
        return Ruling::inconclusive(fact, Missing::Rates);
    };
    let is_explained = is_free_of_charge
        || rates.near(last.ns()).any(|rate| {
            let units = |counts| congestion_units(counts, rate.target_rate_per_minute);
            (units(fewest)..=units(most)).any(|units| rate.congestion_fee(units) == Ok(stated))
        });
    let fact = |name, text: &str| {
        Fact::new(name, text)
            .at(last.id)
            .with("rule", RULE)
            .with("congestion_fee", stated)
            .with("envelopes", strand.len() as u64)
            .with("in_current_minute", fewest[0])
    };
    if is_explained {
        let text = "the envelopes of the five minutes explain the congestion fee";
        return Ruling::refuted(fact("no_rule_broken", text));
    }
    if !rates.covers(last.ns()) {
        let text = "the history of rates ends before the envelope";
        return Ruling::inconclusive(fact("rates_unknown", text), Missing::Rates);
    }
    let text = "no rate in force gives this congestion fee for the envelopes of the five minutes";
    Ruling::new(MisbehaviorVerdict::Proven, fact("rule_broken", text))
}

/// Checks that no envelope of the five minutes is missing.
fn check_window(strand: &[&Exhibit], last: &Exhibit) -> Result<(), Fact> {
    let gap = strand.windows(2).find(|pair| pair[0].id.sequence.next() != pair[1].id.sequence);
    if let Some(pair) = gap {
        let fact =
            Fact::new("window_gap", "places between these envelopes are left out, or repeat");
        return Err(fact.at(pair[1].id).with("after", pair[0].id.sequence.0));
    }
    let begins = minute_of(last.ns()).saturating_sub(MINUTES_BEFORE);
    match strand.first() {
        Some(first) if first.id.sequence.0 <= 1 || minute_of(first.ns()) < begins => Ok(()),
        first => {
            let text =
                "the envelopes begin within the five minutes, so earlier ones may be left out";
            let fact = Fact::new("window_start", text).at(last.id);
            let first = first.map_or(0, |it| it.id.sequence.0);
            Err(fact.with("first", first).with("minute", begins))
        }
    }
}

/// Returns the smallest and the largest possible count of envelopes in each minute, that of the current one first.
///
/// Implementations differ in whether an envelope counts itself and whether an invalid one counts, and an envelope whose
/// time does not match its sequence id may or may not have counted.
fn counts(before: &[&Exhibit], last: &Exhibit) -> ([u64; 5], [u64; 5]) {
    let (mut fewest, mut most) = ([0; 5], [0; 5]);
    let current = minute_of(last.ns());
    for exhibit in before {
        let age = current.saturating_sub(minute_of(exhibit.ns()));
        let Some(age) = usize::try_from(age).ok().filter(|age| *age < fewest.len()) else {
            continue;
        };
        let counted = counts_towards_congestion(exhibit);
        if counted != Some(false) {
            most[age] += 1;
        }
        if counted == Some(true) && exhibit.ns() <= last.ns() {
            fewest[age] += 1;
        }
    }
    most[0] += 1;
    (fewest, most)
}

/// Returns true if an envelope counts towards congestion; `None` for one that does not decode.
fn counts_towards_congestion(exhibit: &Exhibit) -> Option<bool> {
    let payer = PayerEnvelope::parse(exhibit.fields.payer_envelope_bytes.clone()).ok()?;
    Some(!is_free(payer.client().topic().kind()))
}
