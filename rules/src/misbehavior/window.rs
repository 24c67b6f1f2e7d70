//! Faults of congestion fees, which depend on all envelopes of five minutes.

use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope};
use hawser_proto::minute::EARLIER_MINUTES;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, EnvelopeId, minute_of};
use prost::Message as _;

use super::case::ReportCase;
use super::exhibits::Exhibit;
use super::judgement::{Fact, FaultJudgement, MisbehaviorVerdict, Missing};
use super::load::precedes_window;
use crate::congestion::congestion_units;
use crate::fees::{PicoDollarPrice, Rate, RateTable, congestion_fee, is_free};

/// The number of the rule on congestion fees under the window. Specified (`docs/protocol/misbehavior.md`).
pub(super) const RULE: u8 = 12;
/// The name of the finding that only a rate which another one had replaced explains a fee.
pub(super) const FORMER_RATE: &str = "former_rate";
/// The sentence of that finding.
pub(super) const FORMER_RATE_TEXT: &str = "only a former rate explains the fees, and the history does not say when the \
                                           newer one came to the chain";

/// The part of an envelope on which congestion fees depend.
#[derive(Debug, Clone, Copy)]
struct WindowPlace {
    id: EnvelopeId,
    ns: i64,
    /// The stated congestion fee.
    stated: PicoDollarPrice,
    /// True if the envelope counts towards congestion; `None` for one that does not decode.
    counts: Option<bool>,
}

impl WindowPlace {
    fn new(id: EnvelopeId, fields: &pb::UnsignedOriginatorEnvelope) -> Self {
        let payer = PayerEnvelope::parse(fields.payer_envelope_bytes.clone());
        Self {
            id,
            ns: fields.originator_ns,
            stated: PicoDollarPrice(fields.congestion_fee_picodollars),
            counts: payer.ok().map(|payer| !is_free(payer.client().topic().kind())),
        }
    }

    fn open(envelope: &Bytes) -> Option<Self> {
        let (statement, _) = OriginatorEnvelope::open(envelope.clone()).ok()?;
        let (id, _) = OriginatorEnvelope::statement(statement.clone()).ok()?;
        Some(Self::new(id, &pb::UnsignedOriginatorEnvelope::decode(statement).ok()?))
    }
}

/// Judges the congestion fee of the envelope with the highest sequence id by the envelopes before it.
pub(super) fn judge(case: &ReportCase<'_>, exhibits: &[&Exhibit]) -> FaultJudgement {
    let mut strand: Vec<WindowPlace> =
        exhibits.iter().map(|it| WindowPlace::new(it.id, &it.fields)).collect();
    strand.sort_by_key(|it| it.id);
    let Some((last, before)) = strand.split_last() else {
        return FaultJudgement::refuted(Fact::malformed("no envelopes"));
    };
    if last.counts == Some(false) {
        // No other envelope and no rate decides about it, and a fee that it states is a fault by itself.
        let fact = Fact::new("no_rule_broken", "a free envelope has no congestion fee");
        return FaultJudgement::refuted(fact.at(last.id).with("rule", RULE));
    }
    if let Err(fact) = check_window(&strand, last) {
        return FaultJudgement::inconclusive(fact, Missing::Window);
    }
    let (fewest, most) = counts(before, last);
    let fact = |name, text: &str| {
        Fact::new(name, text)
            .at(last.id)
            .with("rule", RULE)
            .with("congestion_fee", last.stated.0)
            .with("envelopes", strand.len() as u64)
            .with("in_current_minute", fewest[0])
    };
    let Some(rates) = case.rates.filter(|rates| rates.at(last.ns).is_ok()) else {
        let text = "without a history of rates the fees cannot be judged";
        let fact = Fact::new("rates_unknown", text).at(last.id);
        return FaultJudgement::inconclusive(fact, Missing::Rates);
    };
    let explains = |rate: &Rate| {
        let units = |counts| congestion_units(counts, rate.target_rate_per_minute);
        (units(fewest)..=units(most)).any(|units| congestion_fee(rate, units) == Ok(last.stated))
    };
    if rates.near(last.ns).any(explains) {
        let text = "the envelopes of the five minutes explain the congestion fee";
        return FaultJudgement::refuted(fact("no_rule_broken", text));
    }
    if !rates.is_complete_at(last.ns) {
        let text = "the history of rates ends before the envelope";
        return FaultJudgement::inconclusive(fact("rates_unknown", text), Missing::Rates);
    }
    if rates.begun(last.ns).any(explains) {
        return FaultJudgement::inconclusive(
            fact(FORMER_RATE, FORMER_RATE_TEXT),
            Missing::RateBlock,
        );
    }
    if !rates.is_overcharged(last.ns, last.stated, most) {
        // An honest node may have lost envelopes that it signed, or may have answered before it counted earlier
        // envelopes.
        let text =
            "the congestion fee is below the one that the envelopes of the five minutes give";
        return FaultJudgement::new(MisbehaviorVerdict::Claim, fact("congestion_too_low", text));
    }
    let text = "the congestion fee is above the one that any rate gives for the envelopes of the five minutes";
    FaultJudgement::new(MisbehaviorVerdict::Proven, fact("rule_broken", text))
}

/// Returns true if envelopes of one strand prove that the last of them states a higher congestion fee than any rate in
/// force gives, as [`verify`](super::verify) judges it. Their signatures are not checked.
#[must_use]
pub fn proves_overcharge(envelopes: &[Bytes], rates: &RateTable) -> bool {
    let opened: Option<Vec<WindowPlace>> = envelopes.iter().map(WindowPlace::open).collect();
    let mut strand = opened.unwrap_or_default();
    strand.sort_by_key(|it| it.id);
    let Some((last, before)) = strand.split_last() else { return false };
    let is_known = rates.at(last.ns).is_ok() && rates.is_complete_at(last.ns);
    last.counts == Some(true)
        && is_known
        && check_window(&strand, last).is_ok()
        && rates.is_overcharged(last.ns, last.stated, counts(before, last).1)
}

/// Checks that no envelope of the five minutes is missing.
fn check_window(strand: &[WindowPlace], last: &WindowPlace) -> Result<(), Fact> {
    let gap = strand.windows(2).find(|pair| pair[0].id.sequence.next() != pair[1].id.sequence);
    if let Some(pair) = gap {
        let fact =
            Fact::new("window_gap", "places between these envelopes are left out, or repeat");
        return Err(fact.at(pair[1].id).with("after", pair[0].id.sequence.0));
    }
    match strand.first() {
        Some(first) if first.id.sequence.0 <= 1 || precedes_window(first.ns, last.ns) => Ok(()),
        first => {
            let text =
                "the envelopes begin within the five minutes, so earlier ones may be left out";
            let fact = Fact::new("window_start", text).at(last.id);
            let first = first.map_or(0, |it| it.id.sequence.0);
            let begins = minute_of(last.ns).saturating_sub(EARLIER_MINUTES);
            Err(fact.with("first", first).with("minute", begins))
        }
    }
}

/// Returns the smallest and the largest possible count of envelopes in each minute, that of the current one first.
///
/// Implementations differ in whether an envelope counts itself and whether an invalid one counts, and an envelope whose
/// time does not match its sequence id may or may not have counted.
fn counts(before: &[WindowPlace], last: &WindowPlace) -> ([u64; 5], [u64; 5]) {
    let (mut fewest, mut most) = ([0; 5], [0; 5]);
    let current = minute_of(last.ns);
    for place in before {
        let age = current.saturating_sub(minute_of(place.ns));
        let Some(age) = usize::try_from(age).ok().filter(|age| *age < fewest.len()) else {
            continue;
        };
        if place.counts != Some(false) {
            most[age] += 1;
        }
        if place.counts == Some(true) && place.ns <= last.ns {
            fewest[age] += 1;
        }
    }
    most[0] += 1;
    (fewest, most)
}
