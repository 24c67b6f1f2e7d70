//! Payload faults: envelopes that a node signed although they break a rule of the protocol.

use hawser_proto::envelope::{PayerEnvelope, UnsignedOriginatorEnvelope};

use super::case::ReportCase;
use super::exhibits::{Exhibit, Origin, all_signed_by};
use super::judgement::{Fact, FaultJudgement, MisbehaviorVerdict, Missing};
use super::report::Report;
use super::window::{self, FORMER_RATE, FORMER_RATE_TEXT};
use crate::elsewhere::is_taken_elsewhere;
use crate::envelope::{
    check_charges, check_charges_by_former, check_length, check_no_charges, check_statement,
    is_read_elsewhere, payer_signature,
};
use crate::fees::is_free;
use crate::violation::{RuleNumber, Violation};

/// The name of the finding that an envelope breaks a rule here, and that other software may read it otherwise.
const ODD_ENCODING: &str = "odd_encoding";
/// The number of the rule on base fees. Specified (`docs/protocol/misbehavior.md`).
const RULE_BASE_FEE: u8 = 10;
/// The number of the rule on congestion fees. Specified (same page).
const RULE_CONGESTION_FEE: u8 = 11;
/// The time within which a node notices its removal if its endpoints are honest, in nanoseconds. A guess: nodes read
/// the registry every few seconds.
const NOTICE_NS_MAX: i64 = 3_600_000_000_000;

/// Judges each envelope by the rules. If there are several, also judges the last one's congestion fee.
pub(super) fn judge(
    case: &ReportCase<'_>,
    report: &Report,
    exhibits: &[Exhibit],
) -> FaultJudgement {
    if let Some(chain) = exhibits.iter().find(|it| matches!(it.origin, Origin::Chain(_))) {
        let text = "the envelope has no signature, so it proves no node guilty (rule 13)";
        let worthless = Fact::new("chain_proof", text).at(chain.id);
        return judge_others(case, report, exhibits, worthless);
    }
    if let Err(worthless) = all_signed_by(exhibits, report.accused()) {
        return judge_others(case, report, exhibits, worthless);
    }
    let own: Vec<&Exhibit> = exhibits.iter().collect();
    judge_own(case, &own)
}

/// Judges the exhibits signed by the accused, in a report with an envelope that is not evidence. Such an envelope does
/// not affect the others. `worthless` is the fact about the first one, which refutes the report if the others do not
/// show a fault, and lack no data.
pub(super) fn judge_others(
    case: &ReportCase<'_>,
    report: &Report,
    exhibits: &[Exhibit],
    worthless: Fact,
) -> FaultJudgement {
    let own: Vec<&Exhibit> =
        exhibits.iter().filter(|it| it.is_signed_by(report.accused())).collect();
    let ruling = judge_own(case, &own);
    match ruling.verdict {
        MisbehaviorVerdict::Refuted => FaultJudgement::refuted(worthless),
        _ => ruling,
    }
}

/// Judges envelopes of the accused: each by itself, and the congestion fee of the last one if there are several.
fn judge_own(case: &ReportCase<'_>, exhibits: &[&Exhibit]) -> FaultJudgement {
    let (mut claimed, mut undecided, mut lacking) = (None, None, Vec::new());
    for exhibit in exhibits {
        match judge_one(case, exhibit) {
            PayloadFinding::Broken(fact) => {
                return FaultJudgement::new(MisbehaviorVerdict::Proven, fact);
            }
            PayloadFinding::Claimed(fact, missing) => {
                lacking.extend(missing);
                claimed = claimed.or(Some(fact));
            }
            PayloadFinding::Undecided(fact, missing) => {
                lacking.push(missing);
                undecided = undecided.or(Some((fact, missing)));
            }
            PayloadFinding::Nothing => {}
        }
    }
    let ruling = match exhibits {
        [one] => {
            let text = "the envelope breaks no rule that it can be judged by alone";
            FaultJudgement::refuted(Fact::new("no_rule_broken", text).at(one.id))
        }
        several => window::judge(case, several),
    };
    match (claimed, undecided) {
        // The others do not matter for the congestion fee of the last one.
        _ if ruling.verdict == MisbehaviorVerdict::Proven => ruling,
        (Some(fact), _) => {
            lacking.extend(ruling.missing);
            FaultJudgement::claim(fact, lacking)
        }
        (None, Some((fact, missing))) => FaultJudgement::inconclusive(fact, missing),
        (None, None) => ruling,
    }
}

enum PayloadFinding {
    /// The envelope breaks a rule.
    Broken(Fact),
    /// The envelope breaks a rule, and its signer may be innocent of that. Has the facts that decide about its fees, if
    /// these are unknown.
    Claimed(Fact, Option<Missing>),
    /// The facts that decide about the fees are unknown.
    Undecided(Fact, Missing),
    Nothing,
}

fn judge_one(case: &ReportCase<'_>, exhibit: &Exhibit) -> PayloadFinding {
    let (statement, excused) = match check_bytes(exhibit) {
        Ok(checked) => checked,
        Err(violation) => return broken(&violation, exhibit),
    };
    let named = |name, violation| Some(Fact { name, ..fact_of(violation, exhibit) });
    let absent = || absence_of(case, exhibit);
    let claim = match &excused {
        Some(late @ Violation::LateExpiry(_)) => absent().or_else(|| named("late_expiry", late)),
        Some(odd) => named(ODD_ENCODING, odd),
        None => absent(),
    };
    // Claims come last, because they are weaker evidence than any other rule. Wrong fees would be a proof, so what
    // would decide about them stays named.
    match (claim, judge_fees(case, exhibit, &statement)) {
        (_, PayloadFinding::Broken(fact)) => PayloadFinding::Broken(fact),
        (Some(claim), PayloadFinding::Undecided(_, missing)) => {
            PayloadFinding::Claimed(claim, Some(missing))
        }
        (Some(claim), _) => PayloadFinding::Claimed(claim, None),
        (None, finding) => finding,
    }
}

/// Returns the finding that an envelope breaks a rule by its bytes. An envelope that does not decode here, but may
/// decode elsewhere, proves nothing: its signer may run other software or a newer version, and any payer can write such
/// an envelope.
fn broken(violation: &Violation, exhibit: &Exhibit) -> PayloadFinding {
    let fact = fact_of(violation, exhibit);
    let payer_envelope = &exhibit.fields.payer_envelope_bytes;
    match violation {
        Violation::Undecodable(_) if is_read_elsewhere(exhibit.id.originator, payer_envelope) => {
            PayloadFinding::Claimed(Fact { name: ODD_ENCODING, ..fact }, None)
        }
        _ => PayloadFinding::Broken(fact),
    }
}

/// Returns the finding that an envelope lies in an absence of its node which the node should have noticed, if it does.
///
/// That proves nothing: an endpoint may keep the removal from an honest node, and the judge's registry may be older
/// than the node's return. A node acknowledges envelopes until it learns of its removal; such ones are marked only.
fn absence_of(case: &ReportCase<'_>, exhibit: &Exhibit) -> Option<Fact> {
    let absences = case.registry.absences(exhibit.id.originator);
    let noticed_ns = exhibit.ns().saturating_sub(NOTICE_NS_MAX);
    let is_absent = absences.cover(noticed_ns) && absences.cover(exhibit.ns());
    is_absent.then(|| Fact { name: "absent", ..fact_of(&Violation::Absent, exhibit) })
}

fn judge_fees(
    case: &ReportCase<'_>,
    exhibit: &Exhibit,
    statement: &UnsignedOriginatorEnvelope,
) -> PayloadFinding {
    if is_free(statement.payer().client().topic().kind()) {
        return match check_no_charges(statement) {
            Ok(()) => PayloadFinding::Nothing,
            Err(violation) => PayloadFinding::Broken(fact_of(&violation, exhibit)),
        };
    }
    let ns = statement.originator_ns();
    let undecided = |name, text: &str, missing| {
        let fact = Fact::new(name, text).at(exhibit.id).with("originator_ns", ns);
        PayloadFinding::Undecided(fact, missing)
    };
    let unknown = |text: &str| undecided("rates_unknown", text, Missing::Rates);
    let Some(rates) = case.rates else {
        return unknown("without a history of rates the fees cannot be judged");
    };
    if rates.at(ns).is_err() {
        return unknown("the history of rates begins after the envelope");
    }
    if check_charges(statement, rates).is_ok() {
        return PayloadFinding::Nothing;
    }
    if !rates.is_complete_at(ns) {
        return unknown("the history of rates ends before the envelope");
    }
    match check_charges_by_former(statement, rates) {
        Ok(()) => undecided(FORMER_RATE, FORMER_RATE_TEXT, Missing::RateBlock),
        Err(violation) => PayloadFinding::Broken(fact_of(&violation, exhibit)),
    }
}

/// Checks all rules that depend only on the bytes and the signer's key, in the order in which followers mark envelopes.
/// Returns the statement, and beside it a broken rule that proves nothing: a late expiry, because a node of other
/// software computes the expiry when it signs, or a rule that the envelope [does not break](is_taken_elsewhere) for
/// other software. Apart from that rule and a late expiry, the envelope breaks no rule.
fn check_bytes(
    exhibit: &Exhibit,
) -> Result<(UnsignedOriginatorEnvelope, Option<Violation>), Violation> {
    check_length(exhibit.len_bytes)?;
    let statement = UnsignedOriginatorEnvelope::parse(exhibit.statement.clone())?;
    let Origin::Signed(key) = &exhibit.origin else { return Err(Violation::Target) };
    let payer = payer_of(statement.payer());
    match check_statement(&statement, payer, key) {
        Ok(()) => Ok((statement, None)),
        Err(late @ Violation::LateExpiry(_)) => Ok((statement, Some(late))),
        Err(odd @ (Violation::GroupMessage(_) | Violation::PayerSignature(_)))
            if is_taken_elsewhere(&statement) =>
        {
            Ok((statement, Some(odd)))
        }
        Err(violation) => Err(violation),
    }
}

/// Returns the account that the payer signature recovers to.
pub(super) fn payer_of(envelope: &PayerEnvelope) -> Result<hawser_proto::Address, Violation> {
    Ok(payer_signature(envelope)?.recover(envelope.digest())?.address())
}

fn fact_of(violation: &Violation, exhibit: &Exhibit) -> Fact {
    let RuleNumber(rule) = match violation {
        Violation::BaseFee(_) => RuleNumber(RULE_BASE_FEE),
        Violation::CongestionFee(_) => RuleNumber(RULE_CONGESTION_FEE),
        violation => violation.rule().unwrap_or(RuleNumber(0)),
    };
    let fields = &exhibit.fields;
    let fact = Fact::new("rule_broken", violation.to_string())
        .at(exhibit.id)
        .with("rule", rule)
        .with("originator_ns", exhibit.ns());
    match rule {
        RULE_BASE_FEE | RULE_CONGESTION_FEE => fact
            .with("base_fee", fields.base_fee_picodollars)
            .with("congestion_fee", fields.congestion_fee_picodollars),
        9 => fact.with("expiry_unix_s", fields.expiry_unixtime),
        _ => fact,
    }
}
