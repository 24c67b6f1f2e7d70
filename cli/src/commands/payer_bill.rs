//! `hawser payer usage --verify`: a payer's bill, computed again from a log and compared with the reports on the chain.

use std::thread;

use hawser_audit::replay::{
    BillSettings, BillVerdict, BilledPart, BilledReport, LogSource, RepeatedCharges, SourceError,
    StrandBill, UnverifiedPart, bill,
};
use hawser_chain::admin::fees::OnchainReport;
use hawser_chain::admin::{Contract, agreed};
use hawser_chain::watch;
use hawser_node::error::RunError;
use hawser_node::files;
use hawser_proto::{Address, EnvelopeId, SequenceId};
use hawser_rules::payer_report::SettledAmount;
use hawser_rules::{PicoDollarPrice, RateTable, Registry};
use serde_json::{Value, json};

use super::audit::{StrandProgressBar, open_log};
use crate::args::payer::UsageArgs;
use crate::commands::onchain::{self, ChainsNeeded};
use crate::commands::report;
use crate::network_file::NetworkFile;
use crate::{exit_codes, output};

/// The units of amounts, for readers of text.
const UNITS: &str = "1,000,000,000,000 p$ are a dollar, and so are 1,000,000 µ$";

/// The keys, prices and reports that a bill is judged by, as the chain has them.
struct ChainFacts {
    registry: Registry,
    rates: RateTable,
    reports: Vec<OnchainReport>,
}

/// Runs the command.
///
/// # Errors
/// When the log or the chain cannot be read; and with the exit code of the verdict.
pub(super) fn run(args: &UsageArgs, as_json: bool) -> Result<(), RunError> {
    let from = &source(args)?;
    let facts = super::blocking(facts(args))?;
    let open = open_log(from)?;
    let log = open.view()?;
    let settings = BillSettings {
        payer: Address(args.payer.into_array()),
        registry: facts.registry,
        migration_key: args.migration_key,
        rates: facts.rates,
        threads: thread::available_parallelism().map_or(1, usize::from),
    };
    let failed = |error: SourceError| RunError::failed(format!("{from}: {error}"));
    let bills = bill_all(&*log, &facts.reports, &settings).map_err(failed)?;
    print(args, &bills, as_json)
}

/// Computes the bill at each originator, and shows the progress on the error output.
fn bill_all(
    log: &dyn LogSource,
    reports: &[OnchainReport],
    settings: &BillSettings,
) -> Result<Vec<StrandBill>, SourceError> {
    let heads = heads(log.heads()?, reports);
    let total = heads.iter().fold(0_u64, |sum, head| sum.saturating_add(head.sequence.0));
    let (mut bar, mut before) = (StrandProgressBar::new("billing"), 0_u64);
    let bill_of = |head: EnvelopeId| {
        let EnvelopeId { originator, sequence } = head;
        let of_strand = reports.iter().filter(|it| it.originator == originator);
        let billed: Vec<_> = of_strand.map(billed).collect();
        let found = bill(log, head, &billed, settings, |reached| {
            let done = before.saturating_add(reached.0);
            bar.show(originator, (done, total), || {
                format!("strand {originator} at {reached} of {sequence}; {done} of {total}")
            });
        });
        before = before.saturating_add(sequence.0);
        found
    };
    let bills = heads.into_iter().map(bill_of).collect();
    bar.finish();
    bills
}

/// Returns the log to read: `--from`, or the first node of the network file.
fn source(args: &UsageArgs) -> Result<String, RunError> {
    if let Some(from) = &args.from {
        return Ok(from.clone());
    }
    const REMEDY: &str =
        "give --from with a node's http://host:port, or with the data folder of a stopped node";
    let path = report::of_network(&args.network).ok_or_else(|| {
        RunError::usage(format!("--verify needs a log, and no network file names a node: {REMEDY}"))
    })?;
    let file = files::read(&path, NetworkFile::parse)?;
    let first = file
        .nodes
        .first()
        .ok_or_else(|| RunError::usage(format!("{} names no node: {REMEDY}", path.display())))?;
    Ok(format!("http://{}", first.grpc))
}

/// Reads the chain. A value counts only if more endpoints show it than show another one: a false report, rate or key
/// would make an honest bill look wrong.
async fn facts(args: &UsageArgs) -> Result<ChainFacts, RunError> {
    let reached = onchain::connect_to_all(&args.network, ChainsNeeded::Settlement).await?;
    let (network, endpoints) = (&reached.network, reached.settlement.endpoints());
    let registry = watch::registry_now(endpoints, network.at(Contract::NodeRegistry)?).await;
    let registry = registry.map_err(RunError::failed)?;
    let rates = watch::rates_now(endpoints, network.at(Contract::RateRegistry)?).await;
    let rates = rates.map_err(RunError::failed)?.rates().to_vec();
    let rates = RateTable::new(rates, None).map_err(RunError::failed)?;
    let reports = agreed::reports(network, endpoints).await?;
    Ok(ChainFacts { registry, rates, reports })
}

/// Returns the strands that payers pay for: those of nodes and of the older network, also those that the source hides
/// although reports are about them.
fn heads(mut heads: Vec<EnvelopeId>, reports: &[OnchainReport]) -> Vec<EnvelopeId> {
    heads.retain(|head| head.originator.is_signer());
    for report in reports {
        let originator = report.originator;
        if heads.iter().all(|head| head.originator != originator) {
            heads.push(EnvelopeId::new(originator, SequenceId::NONE));
        }
    }
    heads
}

fn billed(report: &OnchainReport) -> BilledReport {
    BilledReport {
        index: report.index,
        start: report.start_sequence_id,
        end: report.end_sequence_id,
        end_minute: report.end_minute,
        root: report.root,
        is_settled: report.is_settled,
    }
}

/// Sums of all strands.
struct BillTotals {
    settled_picodollars: PicoDollarPrice,
    unsettled_picodollars: PicoDollarPrice,
    settled_microdollars: SettledAmount,
    faults: u64,
    not_shown: u64,
    charged_again: u64,
    charged_again_picodollars: PicoDollarPrice,
    verdicts: [usize; 3],
    /// Settled reports that are not proven.
    settled_unproven: usize,
    /// Reports of which the chain states another end minute than the log gives.
    other_end_minutes: usize,
    /// True if the payer has envelopes in a strand of which a part could not be verified.
    has_unverified: bool,
}

impl BillTotals {
    fn of(bills: &[StrandBill]) -> Self {
        let parts = || bills.iter().flat_map(|bill| &bill.parts);
        let sum = |amounts: &mut dyn Iterator<Item = u64>| amounts.fold(0, u64::saturating_add);
        let fees = |amounts: &mut dyn Iterator<Item = PicoDollarPrice>| {
            amounts.fold(PicoDollarPrice(0), PicoDollarPrice::plus)
        };
        let settled = || parts().filter(|part| part.is_settled);
        let is_unproven = |part: &&BilledPart| part.verdict != BillVerdict::Proven;
        let open = parts().filter(|part| !part.is_settled).map(|part| part.picodollars);
        let later = bills.iter().map(|bill| bill.unreported_picodollars);
        let count = |verdict| parts().filter(|part| part.verdict == verdict).count();
        Self {
            settled_picodollars: fees(&mut settled().map(|part| part.picodollars)),
            unsettled_picodollars: fees(&mut open.chain(later)),
            settled_microdollars: SettledAmount(
                sum(&mut settled().map(|part| part.microdollars.0)),
            ),
            faults: sum(&mut bills.iter().map(|bill| bill.faults.count())),
            not_shown: sum(&mut bills.iter().map(|bill| bill.not_shown)),
            charged_again: sum(&mut bills.iter().map(|bill| bill.charged_again.count)),
            charged_again_picodollars: fees(
                &mut bills.iter().map(|bill| bill.charged_again.picodollars),
            ),
            verdicts: [BillVerdict::Proven, BillVerdict::OtherRoot, BillVerdict::NotShown]
                .map(count),
            settled_unproven: settled().filter(is_unproven).count(),
            other_end_minutes: parts().filter(|part| part.has_other_end_minute()).count(),
            has_unverified: bills
                .iter()
                .any(|bill| bill.envelopes > 0 && !bill.unverified.is_empty()),
        }
    }

    /// Returns the verdict with its exit code.
    fn verdict(&self) -> (&'static str, Option<u8>) {
        let [_, other, not_shown] = self.verdicts;
        match (self.faults, other, not_shown) {
            (0, 0, 0) if !self.has_unverified => ("proven", None),
            (0, 0, _) => ("incomplete", Some(exit_codes::INCOMPLETE)),
            _ => ("differs", Some(exit_codes::FAULTS)),
        }
    }
}

fn print(args: &UsageArgs, bills: &[StrandBill], as_json: bool) -> Result<(), RunError> {
    let totals = BillTotals::of(bills);
    let (verdict, code) = totals.verdict();
    if as_json {
        output::line(json!({
            "payer": args.payer.to_string(),
            "verdict": verdict,
            "settled_picodollars": totals.settled_picodollars.0.to_string(),
            "unsettled_picodollars": totals.unsettled_picodollars.0.to_string(),
            "settled_microdollars": totals.settled_microdollars.0.to_string(),
            "not_shown": totals.not_shown,
            "other_end_minutes": totals.other_end_minutes,
            "charged_again": totals.charged_again,
            "charged_again_picodollars": totals.charged_again_picodollars.0.to_string(),
            "originators": bills.iter().map(json_of).collect::<Vec<_>>(),
        }));
    } else {
        output::line(format_args!("payer {}", args.payer));
        bills.iter().for_each(print_strand);
        output::line(format_args!("settled by the log: {} p$", totals.settled_picodollars.0));
        output::line(format_args!("taken for it: {}", totals.settled_microdollars));
        if let Some(line) = unproven_line(totals.settled_unproven) {
            output::line(line);
        }
        output::line(format_args!("not settled yet: {} p$", totals.unsettled_picodollars.0));
        if totals.charged_again > 0 {
            output::line(format_args!(
                "charged more than once: {}, for {} p$ too much",
                output::count(totals.charged_again, "envelope"),
                totals.charged_again_picodollars.0
            ));
        }
        if let Some(line) = not_shown_line(totals.not_shown) {
            output::line(line);
        }
        let [proven, other, hidden] = totals.verdicts;
        output::line(format_args!(
            "reports: {proven} proven, {other} with another root, {hidden} with places that were not shown"
        ));
        if totals.other_end_minutes > 0 {
            output::line(format_args!(
                "end minutes: {} with another one than that of the last envelope",
                output::count(totals.other_end_minutes, "report")
            ));
        }
        output::line(UNITS);
        output::line(format_args!("verdict: {verdict}"));
    }
    match code {
        None => Ok(()),
        Some(code) => Err(exit_codes::answer(code, "")),
    }
}

/// Returns the line about settled reports that are not proven, if there are some. The chain took what their writers had
/// computed, and the sum is that of the log.
fn unproven_line(reports: usize) -> Option<String> {
    let reports = (reports > 0).then(|| output::count(reports, "settled report"))?;
    Some(format!(
        "not proven: {reports}, for which other amounts may have been taken (`hawser report settled ID` names them)"
    ))
}

/// Returns the line about places that the source did not show, if there are some. A node may hide envelopes behind the
/// last report, and no root shows that.
fn not_shown_line(places: u64) -> Option<String> {
    let places = (places > 0).then(|| output::count(places, "place"))?;
    Some(format!("not shown: {places}, so the log may have more fees than the sums above"))
}

fn json_of(bill: &StrandBill) -> Value {
    let counts = bill.faults.counts().iter().map(|(kind, count)| (kind.name(), *count));
    json!({
        "originator_id": bill.originator_id,
        "envelopes": bill.envelopes,
        "stated_picodollars": bill.stated_picodollars.0.to_string(),
        "unreported_picodollars": bill.unreported_picodollars.0.to_string(),
        "not_shown": bill.not_shown,
        "charged_again": bill.charged_again,
        "unverified": bill.unverified,
        "reports": bill.parts,
        "faults": counts.collect::<std::collections::BTreeMap<_, _>>(),
        "first_faults": bill.faults.kept(),
    })
}

fn print_strand(bill: &StrandBill) {
    output::line(format_args!(
        "originator {}: {}, {} p$ as stated, {} p$ after the last report",
        bill.originator_id,
        output::count(bill.envelopes, "envelope"),
        bill.stated_picodollars.0,
        bill.unreported_picodollars.0
    ));
    if !bill.unverified.is_empty() {
        let parts: Vec<_> =
            bill.unverified.iter().map(|part| UnverifiedPart::text(*part)).collect();
        let is_migrated = bill.originator_id.is_migrated();
        let remedy = if is_migrated { " (give its key with --migration-key)" } else { "" };
        output::line(format_args!("  not verified: {}{remedy}", parts.join("; ")));
    }
    for part in &bill.parts {
        let verdict = match part.verdict {
            BillVerdict::Proven => "proven",
            BillVerdict::OtherRoot => "the log gives another root",
            BillVerdict::NotShown => "not proven: places were not shown",
        };
        let state = if part.is_settled { "settled" } else { "not settled" };
        output::line(format_args!(
            "  report {}, to minute {}: {} p$, {}, {state}: {verdict}",
            part.index,
            part.log_end_minute.unwrap_or(part.end_minute),
            part.picodollars.0,
            part.microdollars
        ));
        if part.has_other_end_minute() {
            output::line(format_args!(
                "    the chain states minute {} as its end, and the nodes that attested it have signed that",
                part.end_minute
            ));
        }
    }
    for line in repeat_lines(&bill.charged_again) {
        output::line(line);
    }
    bill.faults.kept().iter().for_each(|fault| output::line(format_args!("  {fault}")));
}

/// Returns the lines about the payer envelopes that were charged again, and about those that were not compared.
fn repeat_lines(found: &RepeatedCharges) -> Vec<String> {
    let mut lines: Vec<String> = found
        .kept
        .iter()
        .map(|it| {
            format!(
                "  envelope {} was charged again as {}: {} p$",
                it.first, it.again, it.picodollars.0
            )
        })
        .collect();
    let unnamed = found.count.saturating_sub(found.kept.len() as u64);
    if unnamed > 0 {
        lines
            .push(format!("  charged again and not named: {}", output::count(unnamed, "envelope")));
    }
    if found.not_compared > 0 {
        lines.push(format!(
            "  not compared with earlier ones, because there are too many: {}",
            output::count(found.not_compared, "envelope")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use hawser_audit::replay::{ChargedAgain, Faults};
    use hawser_chain::admin::MicroDollars;
    use hawser_proto::OriginatorId;

    use super::*;

    fn report(originator: u32) -> OnchainReport {
        OnchainReport {
            originator: OriginatorId(originator),
            index: 0,
            start_sequence_id: SequenceId::NONE,
            end_sequence_id: SequenceId(9),
            end_minute: 1,
            root: [1; 32],
            fees_settled: MicroDollars::default(),
            is_settled: true,
            protocol_fee_rate: 0,
            node_ids: vec![OriginatorId(100)],
        }
    }

    fn strand_bill(envelopes: u64) -> StrandBill {
        StrandBill {
            originator_id: OriginatorId(10),
            envelopes,
            stated_picodollars: PicoDollarPrice(0),
            parts: Vec::new(),
            unreported_picodollars: PicoDollarPrice(0),
            not_shown: 0,
            charged_again: RepeatedCharges::default(),
            unverified: Vec::new(),
            faults: Faults::default(),
        }
    }

    /// A verdict covers only the data that was verified for this payer.
    #[test]
    fn a_bill_is_proven_only_if_the_payers_strands_were_verified() {
        let verdict = |envelopes, unverified: &[UnverifiedPart]| {
            let unverified = unverified.to_vec();
            let bill = StrandBill { unverified, ..strand_bill(envelopes) };
            let shown = json_of(&bill)["unverified"].as_array().unwrap().len();
            assert_eq!(shown, bill.unverified.len());
            BillTotals::of(&[bill]).verdict()
        };
        let unverified = [UnverifiedPart::OriginatorSignatures];
        assert_eq!(verdict(5, &[]), ("proven", None));
        assert_eq!(verdict(5, &unverified), ("incomplete", Some(exit_codes::INCOMPLETE)));
        assert_eq!(verdict(0, &unverified), ("proven", None), "another payer's strand");
    }

    #[test]
    fn repeats_that_are_not_named_and_envelopes_that_are_not_compared_are_told() {
        let picodollars = PicoDollarPrice(50);
        let again = ChargedAgain { first: SequenceId(3), again: SequenceId(7), picodollars };
        let lines = |count, not_compared| {
            let kept = vec![again];
            repeat_lines(&RepeatedCharges { count, picodollars, kept, not_compared })
        };
        let named = "  envelope 3 was charged again as 7: 50 p$";
        assert_eq!(lines(1, 0), [named]);
        let unnamed = "  charged again and not named: 2 envelopes";
        let left = "  not compared with earlier ones, because there are too many: 1 envelope";
        assert_eq!(lines(3, 1), [named, unnamed, left]);
        assert!(repeat_lines(&RepeatedCharges::default()).is_empty());
    }

    /// The chain took what the report says, and not what the log gives.
    #[test]
    fn amounts_of_reports_that_are_not_proven_are_told_to_be_of_the_log_alone() {
        let part = |is_settled, verdict| BilledPart {
            index: 0,
            end_minute: 1,
            log_end_minute: Some(1),
            picodollars: PicoDollarPrice(7_000_000),
            microdollars: SettledAmount(7),
            is_settled,
            verdict,
        };
        let parts = vec![
            part(true, BillVerdict::Proven),
            part(true, BillVerdict::OtherRoot),
            part(false, BillVerdict::OtherRoot),
        ];
        let totals = BillTotals::of(&[StrandBill { parts, ..strand_bill(3) }]);
        assert_eq!((totals.settled_microdollars, totals.settled_unproven), (SettledAmount(14), 1));
        assert!(unproven_line(1).unwrap().starts_with("not proven: 1 settled report, "));
        assert_eq!(unproven_line(0), None);
    }

    #[test]
    fn places_that_were_not_shown_are_told_beside_sums_that_lack_them() {
        assert_eq!(not_shown_line(0), None);
        let line = "not shown: 1 place, so the log may have more fees than the sums above";
        assert_eq!(not_shown_line(1).as_deref(), Some(line));
        assert!(not_shown_line(u64::MAX).unwrap().contains(" places, "));
    }

    #[test]
    fn a_bill_has_the_strands_of_the_older_network_and_those_that_are_hidden() {
        let at =
            |originator, sequence| EnvelopeId::new(OriginatorId(originator), SequenceId(sequence));
        let shown = vec![at(0, 5), at(1, 6), at(10, 7), at(100, 8)];
        let found = heads(shown, &[report(10), report(13), report(100), report(200)]);
        assert_eq!(found, [at(10, 7), at(100, 8), at(13, 0), at(200, 0)]);
    }
}
