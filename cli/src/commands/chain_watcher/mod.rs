//! `hawser chain-watcher`: alarms about the contracts, as a verdict, as metrics, or as a table.
//!
//! - `metrics`: the page of metrics; `totals`: the counters on it;
//! - `state`: what is kept from one look to the next, and in a file if the operator names one.

mod metrics;
mod state;
mod totals;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::Address;
use hawser_chain::admin::watcher::{
    Alarm, EventFollower, Observation, WatchLimits, Watched, judge, look,
};
use hawser_chain::admin::{Network, Wei, WeiPerGas};
use hawser_node::error::RunError;
use hawser_node::service::stop_signal::{StopOn, StopSignals};
use hawser_proto::minute::MINUTE_NS;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::args::watcher::ChainWatcherArgs;
use crate::clock::now_unix_s;
use crate::commands::onchain::{self, ChainsNeeded};
use crate::{exit_codes, metrics_server, output};
use metrics::Watch;
use state::WatcherState;

/// Time limit of a look. A guess: some hundred questions, at a slow endpoint.
const LOOK_MAX: Duration = Duration::from_secs(120);

/// Runs the command.
///
/// # Errors
/// When the settings of the chains are wrong, the chains cannot be read once, the state of `--once` cannot be written,
/// or the address cannot be listened on; and with the exit code of the verdict.
pub(super) async fn run(mut args: ChainWatcherArgs, as_json: bool) -> Result<(), RunError> {
    let listen = args.listen().map_err(RunError::usage)?;
    for note in args.without_effect() {
        output::note(note);
    }
    let mut known = WatcherState::load(args.state.as_deref())?;
    if args.once {
        let (seen, alarms) = look_in_turns(&mut args, &mut known).await?;
        print(&seen, &alarms, as_json);
        known.save()?;
        return verdict(&alarms);
    }
    onchain::require_settings(args.network())?;
    let mut ends = StopSignals::listen(StopOn::Signals).map_err(RunError::failed)?;
    let watch = Arc::new(Mutex::new(Watch::new(args.active_originator_window)));
    if let Some(address) = listen {
        metrics_server::start(address, watch.clone()).await?;
    }
    let printed = listen.is_none().then_some(as_json);
    tokio::select! {
        _ = ends.next() => Ok(()),
        never = look_forever(&mut args, &watch, &mut known, printed) => never,
    }
}

/// Looks at one endpoint after the other, until one has answered all questions.
async fn look_in_turns(
    args: &mut ChainWatcherArgs,
    known: &mut WatcherState,
) -> Result<(Observation, Vec<Alarm>), RunError> {
    let needed = ChainsNeeded::AppIfGiven;
    let (turns, mut turn) = (onchain::turns(args.network(), needed)?, 0);
    loop {
        let network = onchain::connect_in_turn(args.network(), needed, turn).await?;
        turn += 1;
        match look_once(&network, args, known).await {
            Err(error) if turn < turns => {
                output::note(format_args!("the chains could not be read: {}", error.text));
            }
            looked => return looked,
        }
    }
}

/// Looks repeatedly. Reports and counts a failed look, and tries again. `as_json` is the form of the output after each
/// look, if there is one.
async fn look_forever(
    args: &mut ChainWatcherArgs,
    watch: &Mutex<Watch>,
    known: &mut WatcherState,
    as_json: Option<bool>,
) -> Result<(), RunError> {
    let (mut network, mut turn) = (None, 0_usize);
    let mut events = EventFollower::new(args.deployment_block);
    loop {
        let looked = match &network {
            Some(network) => look_once(network, args, known).await,
            None => {
                let needed = ChainsNeeded::AppIfGiven;
                match onchain::connect_in_turn(args.network(), needed, turn).await {
                    Ok(connected) => look_once(network.insert(connected), args, known).await,
                    Err(error) => Err(error),
                }
            }
        };
        match looked {
            Ok((seen, alarms)) => {
                if let Some(as_json) = as_json {
                    if !as_json && std::io::stdout().is_terminal() {
                        // Clears the screen, so that the table stays in its place.
                        output::styled_line("\u{1b}[2J\u{1b}[H");
                    }
                    print(&seen, &alarms, as_json);
                }
                watch.lock().note(seen, alarms, now_unix_s());
                if let Err(error) = known.save() {
                    watch.lock().failures += 1;
                    output::note(format_args!("the state could not be written: {}", error.text));
                }
                if let Some(network) = &network {
                    count_events(network, &mut events, watch).await;
                }
            }
            Err(error) => {
                // Another endpoint may answer by then, and is asked first.
                (network, turn) = (None, turn.wrapping_add(1));
                watch.lock().failures += 1;
                output::note(format_args!("the chains could not be read: {}", error.text));
            }
        }
        tokio::time::sleep(args.every).await;
    }
}

/// Counts new events. A failure is reported, and does not affect the alarms.
async fn count_events(network: &Network, events: &mut EventFollower, watch: &Mutex<Watch>) {
    let read = tokio::time::timeout(LOOK_MAX, events.read(network)).await;
    let fault = match read {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} s", LOOK_MAX.as_secs())),
    };
    let mut watch = watch.lock();
    watch.note_events(events.counts().clone());
    if let Some(fault) = fault {
        watch.event_failures += 1;
        output::note(format_args!("events could not be read: {fault}"));
    }
}

async fn look_once(
    network: &Network,
    args: &ChainWatcherArgs,
    known: &mut WatcherState,
) -> Result<(Observation, Vec<Alarm>), RunError> {
    let watched = Watched {
        payers: args.payers.clone(),
        senders: args.senders.clone(),
        app_senders: args.app_senders.clone(),
    };
    let looked = tokio::time::timeout(LOOK_MAX, look(network, &watched, &mut known.older)).await;
    let late = |_| RunError::failed(format!("no answer within {} s", LOOK_MAX.as_secs()));
    let mut seen = looked.map_err(late)??;
    let now = now_unix_s();
    known.note(&seen.implementations, &seen.reports, now);
    seen.unreported_since.clone_from(known.unreported_since());
    let alarms = judge(&seen, &limits(args), known.accepted(), now);
    Ok((seen, alarms))
}

fn limits(args: &ChainWatcherArgs) -> WatchLimits {
    let limits = &args.limits;
    WatchLimits {
        payer_min: limits.payer_min,
        sender_min: Wei(limits.sender_min),
        app_sender_min: Wei(limits.app_sender_min),
        gas_price_max: WeiPerGas(limits.gas_price_max),
        app_gas_price_max: WeiPerGas(limits.app_gas_price_max),
        report_age_s_max: limits.report_age_max.as_secs(),
        settle_age_s_max: limits.settle_age_max.as_secs(),
        block_age_s_max: limits.block_age_max.as_secs(),
        rate_factor_max: limits.rate_factor_max,
    }
}

fn verdict(alarms: &[Alarm]) -> Result<(), RunError> {
    if alarms.is_empty() {
        return Ok(());
    }
    Err(exit_codes::answer(exit_codes::FAULTS, ""))
}

fn print(seen: &Observation, alarms: &[Alarm], as_json: bool) {
    if as_json {
        output::line(json_of(seen, alarms));
        return;
    }
    for (payer, balance) in &seen.payers {
        output::line(format_args!("payer {payer}   {balance}"));
    }
    for (sender, Wei(wei)) in &seen.senders {
        output::line(format_args!("sender {sender}  {wei} wei"));
    }
    for (sender, Wei(wei)) in &seen.app_senders {
        output::line(format_args!("sender {sender}  {wei} wei on the app chain"));
    }
    for (node, (count, newest)) in &seen.reports {
        let open = seen.open_reports(*node);
        let end = newest.last().map_or_else(String::new, |last| {
            format!(", the last one to {} at {}", last.end_sequence_id.0, time(last.end_minute))
        });
        let reports = output::count(*count, "report");
        output::line(format_args!("node {node}: {reports}, {open} not settled{end}"));
    }
    if let Some(price) = seen.app_gas_price {
        output::line(format_args!("gas {} wei on the app chain", price.0));
    }
    let paused = seen.paused.values().filter(|paused| **paused).count();
    output::line(format_args!(
        "gas {} wei, {}, {paused} of {} contracts paused",
        seen.gas_price.0,
        match seen.lacks_rates {
            true => "rates not watched".to_owned(),
            false => output::count(seen.rates.len(), "rate"),
        },
        seen.paused.len()
    ));
    for Alarm { kind, text } in alarms {
        output::line(format_args!("ALARM {}: {text}", kind.name()));
    }
    if alarms.is_empty() {
        output::line("no alarm");
    }
}

/// Returns a look as a line of JSON, with all that the table shows. Amounts are texts, because they may be larger than
/// the numbers that readers of JSON take.
fn json_of(seen: &Observation, alarms: &[Alarm]) -> Value {
    let alarm = |it: &Alarm| json!({ "alarm": it.kind.name(), "text": it.text });
    let code = seen.implementations.iter();
    let code = code.map(|(contract, code)| (contract.name(), code.to_string()));
    let paused = seen.paused.iter().filter(|(_, is_paused)| **is_paused);
    let reports = seen.reports.iter().map(|(originator, (count, newest))| {
        let last = newest.last();
        json!({
            "originator_id": originator.0,
            "reports": count,
            "open": seen.open_reports(*originator),
            "last_end_sequence_id": last.map(|last| last.end_sequence_id.0),
            "last_end_minute": last.map(|last| last.end_minute),
            "has_left": seen.left.contains(originator),
        })
    });
    json!({
        "alarms": alarms.iter().map(alarm).collect::<Vec<_>>(),
        "chain_time": seen.chain_time,
        "gas_price_wei": seen.gas_price.0.to_string(),
        "app_gas_price_wei": seen.app_gas_price.map(|price| price.0.to_string()),
        "payers": balances("microdollars", &seen.payers, |it| it.0.to_string()),
        "senders": balances("wei", &seen.senders, |it| it.0.to_string()),
        "app_senders": balances("wei", &seen.app_senders, |it| it.0.to_string()),
        "originators": reports.collect::<Vec<_>>(),
        "rates": (!seen.lacks_rates).then_some(seen.rates.len()),
        "paused": paused.map(|(contract, _)| contract.name()).collect::<Vec<_>>(),
        "implementations": code.collect::<std::collections::BTreeMap<_, _>>(),
    })
}

/// Returns the balances of accounts, each with its `number` in the field `unit`.
fn balances<A: Copy>(unit: &str, of: &[(Address, A)], number: impl Fn(A) -> String) -> Vec<Value> {
    let mut rows = Vec::with_capacity(of.len());
    for (address, amount) in of {
        let (address, amount) = (address.to_string(), number(*amount));
        rows.push(json!({ "address": address, unit: amount }));
    }
    rows
}

/// Returns the beginning of a minute since the unix epoch. The contract takes any minute, and not all are in the range
/// of times in nanoseconds.
fn time(minute: u32) -> String {
    let ns = i64::from(minute).checked_mul(MINUTE_NS);
    ns.map_or_else(|| format!("minute {minute}"), output::time)
}

#[cfg(test)]
mod tests {
    use hawser_chain::admin::fees::OnchainReport;
    use hawser_chain::admin::{Contract, MicroDollars, SignedMicroDollars};
    use hawser_proto::{OriginatorId, SequenceId};

    use super::*;

    /// A report may state any end, and an endpoint may make one up. The watcher would end with each look.
    #[test]
    fn the_last_minute_of_a_report_may_be_any_number() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time(153_722_867), "2262-04-11T23:47:00.000000000Z");
        assert_eq!(time(153_722_868), "minute 153722868");
        assert_eq!(time(u32::MAX), "minute 4294967295");
    }

    #[test]
    fn a_line_of_json_has_what_the_table_shows() {
        let account = Address::repeat_byte(1);
        let old = OnchainReport {
            originator: OriginatorId(100),
            index: 0,
            start_sequence_id: SequenceId::NONE,
            end_sequence_id: SequenceId(9),
            end_minute: 2,
            root: [1; 32],
            fees_settled: MicroDollars::default(),
            is_settled: false,
            protocol_fee_rate: 0,
            node_ids: vec![OriginatorId(100)],
        };
        let seen = Observation {
            gas_price: WeiPerGas(u128::MAX),
            app_gas_price: Some(WeiPerGas(6)),
            payers: vec![(account, SignedMicroDollars(-5))],
            senders: vec![(account, Wei(7))],
            reports: [(OriginatorId(100), (0, Vec::new()))].into(),
            older_open: [(OriginatorId(100), vec![old])].into(),
            paused: [(Contract::PayerRegistry, true), (Contract::NodeRegistry, false)].into(),
            ..Observation::default()
        };
        let line = json_of(&seen, &[]);
        assert_eq!(line["gas_price_wei"], u128::MAX.to_string());
        assert_eq!(line["app_gas_price_wei"], "6");
        let address = account.to_string();
        assert_eq!(line["payers"], json!([{ "address": address, "microdollars": "-5" }]));
        assert_eq!(line["senders"], json!([{ "address": address, "wei": "7" }]));
        assert_eq!(line["app_senders"], json!([]));
        assert_eq!(line["rates"], 0);
        let unwatched = Observation { lacks_rates: true, ..Observation::default() };
        assert_eq!(json_of(&unwatched, &[])["rates"], Value::Null);
        assert_eq!(json_of(&unwatched, &[])["app_gas_price_wei"], Value::Null);
        assert_eq!(line["paused"], json!([Contract::PayerRegistry.name()]));
        let originator = &line["originators"][0];
        assert_eq!(originator["originator_id"], 100);
        assert_eq!((&originator["reports"], &originator["open"]), (&json!(0), &json!(1)));
        assert_eq!(originator["last_end_minute"], Value::Null);
    }
}
