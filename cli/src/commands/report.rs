//! `hawser report`: payer reports as a running node sees them, and its work on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use hawser_chain::admin::agreed;
use hawser_chain::admin::settled::SettledLeaves;
use hawser_node::admin::{self, AdminRequest, ReportStep};
use hawser_node::error::RunError;
use hawser_rules::payer_report::ReportId;
use serde_json::{Value, json};

use super::asked_node;
use super::onchain::{self, ChainsNeeded};
use crate::args::onchain::NetworkArgs;
use crate::args::report::{
    ReportCommand, ReportIdArgs, ReportListArgs, ReportNodeArgs, ReportSettledArgs, ReportStepArgs,
};
use crate::{client, exit_codes, output};

/// Runs the command.
///
/// # Errors
/// When the node does not answer, does not know the report, or computes another one.
pub(super) async fn run(command: ReportCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        ReportCommand::List(args) => list(&args, as_json).await,
        ReportCommand::Show(args) => show(&args, as_json).await,
        ReportCommand::Explain(args) => explain(&args, as_json).await,
        ReportCommand::Settled(args) => settled(&args, as_json).await,
        ReportCommand::Generate(args) => take(ReportStep::Generate, &args, as_json),
        ReportCommand::Attest(args) => take(ReportStep::Attest, &args, as_json),
        ReportCommand::Submit(args) => take(ReportStep::Submit, &args, as_json),
        ReportCommand::Settle(args) => take(ReportStep::Settle, &args, as_json),
    }
}

/// Asks a running node to take a step, and prints the outcome for each report.
fn take(step: ReportStep, args: &ReportStepArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = asked_node::data_dir(&args.data, args.network.as_deref())?;
    let ReportStepArgs { about, dry_run, .. } = *args;
    let request = AdminRequest::PayerReports { step, about, dry_run };
    let Some(done) = admin::ask(&data_dir, &request, &mut |_| ())? else {
        return Err(super::no_node_on(&data_dir));
    };
    if as_json {
        output::line(&done);
    } else {
        for outcome in rows(&done, "outcomes") {
            let report = outcome["report"].as_str().map_or_else(String::new, |id| format!(" {id}"));
            output::line(format_args!(
                "{:<7} originator {}{report}: {}",
                text(outcome, "state"),
                outcome["originator_id"],
                text(outcome, "detail"),
            ));
        }
        if rows(&done, "outcomes").next().is_none() {
            output::line("there is no report for this step");
        }
        let left_off = done["left_off"].as_u64().unwrap_or(0);
        if left_off > 0 {
            output::line(format_args!("and {left_off} more, for which the reply has no room"));
        }
    }
    let count =
        |state: &str| rows(&done, "outcomes").filter(|it| text(it, "state") == state).count();
    match (count("failed"), count("refused")) {
        (0, 0) => Ok(()),
        (0, refused) => Err(RunError::refused(format!(
            "{} unlike what this node computes",
            output::count(refused, "report")
        ))),
        (failed, _) => Err(RunError::failed(format!(
            "{} failed: see the reasons above, and run the command again",
            output::count(failed, "step")
        ))),
    }
}

async fn list(args: &ReportListArgs, as_json: bool) -> Result<(), RunError> {
    let reports = ask_listed(args, "").await?;
    let rows = reports.as_array().map(Vec::as_slice).unwrap_or_default();
    for report in rows {
        if as_json {
            output::line(report);
            continue;
        }
        let report = output::printable_page(report);
        match is_unreadable(&report) {
            true => print_unreadable(&report),
            false => print(&report),
        }
    }
    if rows.is_empty() && !as_json {
        output::line("there are no payer reports");
    }
    list_verdict(rows)
}

/// Returns true if a row of the list names an originator whose reports the node cannot read.
fn is_unreadable(row: &Value) -> bool {
    text(row, "state") == "unreadable"
}

fn print_unreadable(row: &Value) {
    let about = &row["originator_id"];
    output::line(format_args!("originator {about}: not all reports can be read"));
    print_reasons(row);
}

/// Returns the verdict on a list, with its exit code: a list without the reports about an originator is not whole.
fn list_verdict(rows: &[Value]) -> Result<(), RunError> {
    let unreadable = rows.iter().filter(|row| is_unreadable(row));
    let named: Vec<_> = unreadable.map(|row| row["originator_id"].to_string()).collect();
    if named.is_empty() {
        return Ok(());
    }
    let (count, named) = (output::count(named.len(), "originator"), named.join(", "));
    let text = format!("the node cannot read all reports about {count}: {named}");
    Err(exit_codes::answer(exit_codes::INCOMPLETE, text))
}

async fn show(args: &ReportIdArgs, as_json: bool) -> Result<(), RunError> {
    let report = one(args).await?;
    if as_json {
        output::line(&report);
        return Ok(());
    }
    let report = output::printable_page(&report);
    print(&report);
    if report["compared"] == true && report["equal"] == false {
        output::line("  this node's own amounts:");
    }
    for payer in rows(&report, "payers") {
        output::line(format_args!(
            "  {}: {} p$, {} µ$ when settled",
            text(payer, "payer"),
            amount_text(&payer["picodollars"]),
            amount_text(&payer["settled_microdollars"])
        ));
    }
    print_more(&report, "payers");
    Ok(())
}

async fn explain(args: &ReportIdArgs, as_json: bool) -> Result<(), RunError> {
    let report = one(args).await?;
    if as_json {
        output::line(&report);
    } else {
        let report = output::printable_page(&report);
        print(&report);
        for row in rows(&report, "minutes") {
            output::line(format_args!(
                "  minute {}, payer {}: {} p$ by the rates, {} p$ charged, up to envelope {}",
                row["minute"],
                text(row, "payer"),
                amount_text(&row["own_picodollars"]),
                amount_text(&row["stated_picodollars"]),
                row["last_sequence_id"]
            ));
        }
        print_more(&report, "minutes");
        for envelope in rows(&report, "envelopes") {
            output::line(format_args!("  envelope {}:{envelope}", report["originator_id"]));
        }
        print_more(&report, "envelopes");
    }
    verdict(&report)
}

/// Returns the verdict of an explained report, with its exit code.
fn verdict(report: &Value) -> Result<(), RunError> {
    match (report["compared"].as_bool(), report["equal"].as_bool()) {
        (Some(true), Some(true)) => Ok(()),
        (Some(true), _) => Err(RunError::refused("this node computes another report")),
        _ => Err(exit_codes::answer(
            exit_codes::INCOMPLETE,
            "this node cannot compute the report yet, so nothing was compared",
        )),
    }
}

/// The amounts that were taken from a payer for a report, microdollars.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TakenFromPayer {
    payer: Address,
    taken: u128,
    /// This node's own amount; `None` if it is not known.
    own: Option<u128>,
}

impl TakenFromPayer {
    fn differs(&self) -> bool {
        self.own.is_some_and(|own| own != self.taken)
    }
}

/// Prints the amounts that the chain took for a report beside the node's own. A report carries only their root, so the
/// settlements are the first to name them.
async fn settled(args: &ReportSettledArgs, as_json: bool) -> Result<(), RunError> {
    let id: ReportId = args.id.parse().map_err(RunError::usage)?;
    let file = of_network(&args.network);
    let report = ask(&args.node, file.as_deref(), &format!("?id={id}")).await?;
    let wanted = report["leaves_settled"].as_u64().unwrap_or(0);
    if wanted == 0 {
        return Err(RunError::not_found(
            "no leaf of this report is settled, so the chain names no amount",
        ));
    }
    // The chain of another network would have none of the node's reports.
    let chains = if args.node.metrics.is_some() { args.network.file() } else { file };
    let settlement = ChainsNeeded::Settlement;
    let reached =
        onchain::connect_beside_node(&args.network, chains.as_deref(), settlement).await?;
    let (network, endpoints) = (&reached.network, reached.settlement.endpoints());
    let found = agreed::settled_leaves(network, endpoints, id.0, wanted, args.blocks).await?;
    let is_whole = report["state"] == "settled" && found.leaves.len() as u64 == wanted;
    let own = own_amounts(&report);
    let rows = taken_from_payers(&found, own.as_ref(), is_whole);
    if as_json {
        let row = |it: &TakenFromPayer| {
            let own = it.own.map(|own| own.to_string());
            json!({
                "payer": it.payer.to_string(),
                "taken_microdollars": it.taken.to_string(),
                "own_microdollars": own,
            })
        };
        output::line(json!({
            "id": id.to_string(),
            "leaves_settled": wanted,
            "leaves_found": found.leaves.len(),
            "first_block": found.first_block,
            "endpoint": found.endpoint,
            "endpoints": found.shown_by,
            "payers": rows.iter().map(row).collect::<Vec<_>>(),
        }));
    } else {
        for TakenFromPayer { payer, taken, own } in &rows {
            let own = own.filter(|own| own != taken);
            let own = own.map(|own| format!(", {own} µ$ by this node's figures"));
            output::line(format_args!("{payer}: {taken} µ$ taken{}", own.unwrap_or_default()));
        }
        output::line(format_args!("by the settlements that {}", shown_by(&found)));
    }
    settled_verdict(&report, &found, own.is_some(), &rows)
}

/// Returns the words for the endpoints that show settlements.
fn shown_by(found: &SettledLeaves) -> String {
    match found.shown_by {
        0 | 1 => format!("{} alone shows", found.endpoint),
        several => format!("{} show", output::count(several, "endpoint")),
    }
}

/// Returns a node's own amounts of a report, microdollars; `None` if it does not know or show all of them.
fn own_amounts(report: &Value) -> Option<BTreeMap<Address, u64>> {
    let payers = report["payers"].as_array()?;
    let is_whole = report["payers_total"].as_u64() == Some(payers.len() as u64);
    if report["compared"] != true || !is_whole {
        return None;
    }
    let own = |it: &Value| {
        let amount = u64::try_from(amount(&it["settled_microdollars"])?).ok()?;
        Some((it["payer"].as_str()?.parse().ok()?, amount))
    };
    payers.iter().map(own).collect()
}

/// Returns the amounts of the payers that a report names, and, if all of its leaves are known, of those that it leaves
/// out.
fn taken_from_payers(
    found: &SettledLeaves,
    own: Option<&BTreeMap<Address, u64>>,
    is_whole: bool,
) -> Vec<TakenFromPayer> {
    let mut taken: BTreeMap<Address, u128> = BTreeMap::new();
    for (payer, amount) in &found.leaves {
        *taken.entry(*payer).or_default() += amount.get();
    }
    for payer in own.into_iter().filter(|_| is_whole).flat_map(BTreeMap::keys) {
        taken.entry(*payer).or_default();
    }
    let own_of = |payer: &Address| own.map(|own| u128::from(own.get(payer).copied().unwrap_or(0)));
    let row = |(payer, taken)| TakenFromPayer { payer, taken, own: own_of(&payer) };
    taken.into_iter().map(row).collect()
}

/// Returns the verdict on the amounts that were found, with its exit code.
fn settled_verdict(
    report: &Value,
    found: &SettledLeaves,
    is_computed: bool,
    rows: &[TakenFromPayer],
) -> Result<(), RunError> {
    let incomplete = |text: String| exit_codes::answer(exit_codes::INCOMPLETE, text);
    let wanted = report["leaves_settled"].as_u64().unwrap_or(0);
    let leaves = found.leaves.len() as u64;
    if leaves < wanted {
        let first = found.first_block;
        return Err(incomplete(format!(
            "only {leaves} of {wanted} settled leaves are in the blocks from {first} on: search more with --blocks"
        )));
    }
    let sum: u128 = found.leaves.iter().map(|(_, amount)| amount.get()).sum();
    let known = amount(&report["settled_microdollars"]).unwrap_or(0);
    // The node saturates a sum that does not fit.
    let is_saturated = known == i128::from(u64::MAX);
    if leaves > wanted || (i128::try_from(sum) != Ok(known) && !is_saturated) {
        return Err(incomplete(format!(
            "the settlements that {} have {leaves} leaves of {sum} µ$, and the node knows of {wanted} of {known} µ$: check \
             the endpoint, or wait until the node has read the newest settlement",
            shown_by(found)
        )));
    }
    if !is_computed {
        let text =
            "the node does not know all of its own amounts of this report, so nothing was compared";
        return Err(incomplete(text.to_owned()));
    }
    match rows.iter().filter(|row| row.differs()).count() {
        0 => Ok(()),
        differing => {
            let advice = match found.shown_by {
                0 | 1 => {
                    ": name more endpoints (--rpc-url URL,URL,URL), as one may lie about the payers of a sum"
                }
                _ => "",
            };
            Err(RunError::refused(format!(
                "{} with other amounts in the report than by this node's figures, by the settlements that {}{advice}",
                output::count(differing, "payer"),
                shown_by(found)
            )))
        }
    }
}

/// Prints how many rows of a list are not shown.
fn print_more(report: &Value, list: &str) {
    let total = report[format!("{list}_total")].as_u64().unwrap_or(0);
    let more = total.saturating_sub(rows(report, list).count() as u64);
    if more > 0 {
        output::line(format_args!("  and {more} more {list}"));
    }
}

async fn one(args: &ReportIdArgs) -> Result<Value, RunError> {
    let id: ReportId = args.id.parse().map_err(RunError::usage)?;
    ask_listed(&args.node, &format!("?id={id}")).await
}

async fn ask_listed(args: &ReportListArgs, query: &str) -> Result<Value, RunError> {
    let file = asked_node::network_file(args.network.as_deref(), false);
    ask(&args.node, file.as_deref(), query).await
}

/// Returns the network file whose first node is asked by a command that reads the chains of `network` too. Flags and
/// variables of chains may describe another network than that of the current folder.
pub(super) fn of_network(network: &NetworkArgs) -> Option<PathBuf> {
    asked_node::network_file(network.network.as_deref(), network.describe_a_network())
}

/// Asks the page on payer reports of a node: the one that is named, or the first one of the network file, or that of
/// the settings.
pub(super) async fn ask(
    args: &ReportNodeArgs,
    network: Option<&Path>,
    query: &str,
) -> Result<Value, RunError> {
    let metrics = asked_node::metrics(args.metrics.as_deref(), network, &args.sources())?;
    let path = format!("/payer-reports{query}");
    let answer = client::page(&metrics, &path).await?;
    match answer.status {
        200 => {}
        // The list of the pages that there are: a gateway or a watcher has no such page.
        404 if answer.body.starts_with("try /") => {
            return Err(client::no_page_of_a_node(&metrics, 404));
        }
        404 => return Err(RunError::not_found(format!("{metrics}: {}", answer.reason()))),
        status @ (400 | 503) => {
            let reason = answer.reason();
            return Err(RunError::failed(format!("{metrics}: status {status}: {reason}")));
        }
        status => return Err(client::no_page_of_a_node(&metrics, status)),
    }
    let page: Value = serde_json::from_str(&answer.body).map_err(|error| {
        RunError::failed(format!("{metrics}: the answer does not parse as payer reports: {error}"))
    })?;
    match answers(&page, query) {
        true => Ok(page),
        false => {
            Err(RunError::failed(format!("{metrics}: the answer is not a page of payer reports")))
        }
    }
}

/// Returns true if a page is the one that a query asks for. Another program would otherwise pass for a node without
/// reports.
fn answers(page: &Value, query: &str) -> bool {
    match query.split('=').next() {
        Some("?payer") => page["unsettled_picodollars"].is_string(),
        Some("?id") => page["state"].is_string(),
        _ => page.is_array(),
    }
}

fn print(report: &Value) {
    let leaves = match report["leaves_settled"].as_u64() {
        Some(1) => "1 leaf".to_owned(),
        _ => format!("{} leaves", report["leaves_settled"]),
    };
    output::line(format_args!(
        "{}: originator {}, {} to {}, minute {}: {}",
        text(report, "id"),
        report["originator_id"],
        report["start_sequence_id"],
        report["end_sequence_id"],
        report["end_minute"],
        text(report, "state"),
    ));
    output::line(format_args!(
        "  written by {}, attested by {} of {} needed; {leaves} settled, {} µ$",
        report["written_by"],
        rows(report, "attested_by").count(),
        report["attestations_needed"],
        amount_text(&report["settled_microdollars"]),
    ));
    print_reasons(report);
}

fn print_reasons(report: &Value) {
    for reason in rows(report, "reasons") {
        output::line(format_args!("  {}", reason.as_str().unwrap_or_default()));
    }
}

/// Returns an amount on a page of a node: text, or a number as nodes of earlier versions have it.
pub(super) fn amount(value: &Value) -> Option<i128> {
    match value.as_str() {
        Some(text) => text.parse().ok(),
        None => value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from)),
    }
}

/// Returns an amount on a page of a node, for people.
fn amount_text(value: &Value) -> String {
    amount(value).map_or_else(|| "?".to_owned(), |amount| amount.to_string())
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("?")
}

fn rows<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use hawser_chain::admin::MicroDollars;
    use hawser_node::error::RunErrorKind;

    use super::*;

    /// A script cannot take a report that was not compared for an equal one.
    #[test]
    fn each_verdict_has_its_exit_code() {
        let kind = |compared, equal| {
            verdict(&json!({ "compared": compared, "equal": equal })).map_err(|error| error.kind)
        };
        assert_eq!(kind(true, true), Ok(()));
        assert_eq!(kind(true, false), Err(RunErrorKind::Refused));
        let unknown = RunErrorKind::Answer(exit_codes::INCOMPLETE);
        assert_eq!(kind(false, false), Err(unknown));
        assert_eq!(verdict(&json!({})).map_err(|error| error.kind), Err(unknown));
    }

    #[test]
    fn the_page_of_another_program_is_not_a_node_without_reports() {
        let row = json!({ "state": "settled" });
        let usage = json!({ "unsettled_picodollars": "7" });
        let pages = [("", json!([row])), ("?id=0x1", row.clone()), ("?payer=0x1", usage)];
        for (query, page) in &pages {
            assert!(answers(page, query), "{query}");
            for other in [json!(null), json!({}), json!({ "reports": [] }), json!(7)] {
                assert!(!answers(&other, query), "{query}: {other}");
            }
        }
        assert!(answers(&json!([]), ""), "it has none yet");
    }

    /// A script cannot take a list for whole that lacks the reports about an originator.
    #[test]
    fn a_list_without_the_reports_about_an_originator_has_the_exit_code_of_an_incomplete_answer() {
        let row = |about: u32, state: &str| json!({ "originator_id": about, "state": state });
        assert_eq!(list_verdict(&[row(100, "equal")]).map_err(|error| error.kind), Ok(()));
        let error = list_verdict(&[row(100, "equal"), row(200, "unreadable")]).unwrap_err();
        assert_eq!(error.kind, RunErrorKind::Answer(exit_codes::INCOMPLETE));
        assert!(error.text.ends_with("1 originator: 200"), "{}", error.text);
    }

    #[test]
    fn amounts_of_nodes_are_text_or_numbers_of_any_size() {
        for (shown, expected) in [
            (json!("18446744073709551615"), "18446744073709551615"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!("-9223372036854775809"), "-9223372036854775809"),
            (json!(-5), "-5"),
            (json!("\u{1b}[2J"), "?"),
            (json!(1.5), "?"),
            (Value::Null, "?"),
        ] {
            assert_eq!(amount_text(&shown), expected, "{shown}");
        }
    }

    /// A settlement names the payers whose amounts a report makes up, and those that it leaves out.
    #[test]
    fn amounts_that_a_settled_report_names_are_compared_by_payer() {
        let payer = Address::repeat_byte;
        let micro = |number| MicroDollars::new(number).unwrap();
        let found = |leaves: &[(u8, u128)]| SettledLeaves {
            leaves: leaves.iter().map(|(of, amount)| (payer(*of), micro(*amount))).collect(),
            first_block: 1,
            endpoint: "http://a:1".to_owned(),
            shown_by: 1,
        };
        let own = |amounts: &[(u8, u64)]| {
            let row = |(of, amount): &(u8, u64)| {
                let of = payer(*of).to_string();
                json!({ "payer": of, "settled_microdollars": amount.to_string() })
            };
            let payers: Vec<_> = amounts.iter().map(row).collect();
            json!({
                "compared": true, "payers_total": payers.len(), "payers": payers,
                "state": "settled", "leaves_settled": 2, "settled_microdollars": "12",
            })
        };
        let judged = |leaves: &[(u8, u128)], report: &Value| {
            let (found, own) = (found(leaves), own_amounts(report));
            let rows = taken_from_payers(&found, own.as_ref(), true);
            let verdict = settled_verdict(report, &found, own.is_some(), &rows);
            let differing = rows.into_iter().filter(TakenFromPayer::differs);
            let differing: Vec<_> = differing.map(|row| (row.payer, row.taken, row.own)).collect();
            (verdict.map_err(|error| error.kind), differing)
        };
        let equal = own(&[(1, 5), (2, 7)]);
        assert_eq!(judged(&[(1, 5), (2, 7)], &equal), (Ok(()), vec![]));
        let lying =
            (Err(RunErrorKind::Refused), vec![(payer(1), 6, Some(5)), (payer(2), 6, Some(7))]);
        assert_eq!(judged(&[(1, 6), (2, 6)], &equal), lying);
        let other =
            (Err(RunErrorKind::Refused), vec![(payer(2), 0, Some(7)), (payer(3), 7, Some(0))]);
        assert_eq!(judged(&[(1, 5), (3, 7)], &equal), other);
        let unknown = Err(RunErrorKind::Answer(exit_codes::INCOMPLETE));
        assert_eq!(judged(&[(1, 5)], &equal).0, unknown, "a leaf is missing");
        assert_eq!(judged(&[(1, 5), (2, 8)], &equal).0, unknown, "another sum than the node knows");
        let mut cut = equal.clone();
        cut["payers_total"] = json!(3);
        assert_eq!(judged(&[(1, 5), (2, 7)], &cut), (unknown, vec![]), "the node shows a part");
    }

    /// The endpoint may have moved an amount from one payer to another, so that an honest node seems to have lied.
    #[test]
    fn amounts_that_differ_are_told_with_the_endpoint_that_alone_shows_them() {
        let found = SettledLeaves {
            leaves: vec![(Address::repeat_byte(1), MicroDollars::new(6).unwrap())],
            first_block: 1,
            endpoint: "http://a:1".to_owned(),
            shown_by: 1,
        };
        let row = |own| TakenFromPayer { payer: Address::repeat_byte(1), taken: 6, own: Some(own) };
        let verdict = |sum: &str, own| {
            let report = json!({ "leaves_settled": 1, "settled_microdollars": sum });
            settled_verdict(&report, &found, true, &[row(own)]).map_err(|error| error.text)
        };
        assert_eq!(verdict("6", 6), Ok(()));
        for (sum, own) in [("6", 5), ("7", 6)] {
            let text = verdict(sum, own).unwrap_err();
            assert!(text.contains("http://a:1"), "{text}");
        }
        let found = SettledLeaves { shown_by: 2, ..found.clone() };
        let report = json!({ "leaves_settled": 1, "settled_microdollars": "6" });
        let text = settled_verdict(&report, &found, true, &[row(5)]).unwrap_err().text;
        assert!(text.contains("2 endpoints show") && !text.contains("http://a:1"), "{text}");
    }
}
