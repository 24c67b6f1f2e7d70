//! Computes alarms from an [`Observation`]. A pure function: the time is an argument.

use std::collections::BTreeMap;

use alloy::primitives::Address;
use hawser_proto::OriginatorId;
use hawser_rules::Rate;

use super::Observation;
use crate::admin::contract::Contract;
use crate::admin::fees::OnchainReport;
use crate::admin::rates::{PRICE_MAX, Prices, TARGET_MAX};
use crate::admin::{MicroDollars, SignedMicroDollars, Wei, WeiPerGas};

/// Thresholds of the alarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchLimits {
    /// The smallest balance of a payer without an alarm.
    pub payer_min: MicroDollars,
    /// The smallest balance of a sender on the settlement chain without an alarm.
    pub sender_min: Wei,
    /// The smallest balance of a sender on the app chain without an alarm, of its native token.
    pub app_sender_min: Wei,
    /// The highest gas price of the settlement chain without an alarm.
    pub gas_price_max: WeiPerGas,
    /// The highest gas price of the app chain without an alarm.
    pub app_gas_price_max: WeiPerGas,
    /// The age in seconds of the last report's last minute above which the next report is overdue; and the time in
    /// seconds for which a node may have no report.
    pub report_age_s_max: u64,
    /// The age in seconds of an unsettled report's last minute above which the report is stuck.
    pub settle_age_s_max: u64,
    /// The highest age in seconds of the chain's newest block. It may be ahead of this machine's clock by as much.
    pub block_age_s_max: u64,
    /// The largest factor between a price and its predecessor without an alarm.
    pub rate_factor_max: u64,
}

impl Default for WatchLimits {
    /// Returns guessed thresholds, except for the ages: a report about another node is due after 12 hours and given up
    /// after 18, and each step runs once an hour. The gas prices are those above which nodes and gateways send nothing.
    fn default() -> Self {
        Self {
            payer_min: MicroDollars::new(10 * 1_000_000).expect("ten dollars fit into 96 bits"),
            sender_min: Wei(10_000_000_000_000_000),
            app_sender_min: Wei(1_000_000_000_000_000_000),
            gas_price_max: WeiPerGas(100_000_000_000),
            app_gas_price_max: WeiPerGas(100_000_000_000),
            report_age_s_max: 24 * 3600,
            settle_age_s_max: 24 * 3600,
            block_age_s_max: 15 * 60,
            rate_factor_max: 10,
        }
    }
}

/// The kind of an alarm. Its name is stable, because programs read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// A payer's balance is low.
    PayerLow,
    /// The ether balance of a sending account is low.
    SenderLow,
    /// The native balance of a sending account on the app chain is low.
    AppSenderLow,
    /// The gas price of the settlement chain is high.
    GasPrice,
    /// The gas price of the app chain is high.
    AppGasPrice,
    /// The newest block of the settlement chain is old, or far ahead of this machine's clock.
    ChainStopped,
    /// The next report about an originator is overdue.
    ReportOverdue,
    /// There is no report about a node, although it has been known for long.
    ReportMissing,
    /// A report has not been settled for too long.
    ReportStuck,
    /// A price differs too much from its predecessor or is out of bounds, or there is no price.
    Rate,
    /// A contract is paused.
    Paused,
    /// A contract's implementation differs from the accepted one.
    Upgraded,
}

impl AlarmKind {
    /// All kinds.
    pub const ALL: [Self; 12] = [
        Self::PayerLow,
        Self::SenderLow,
        Self::AppSenderLow,
        Self::GasPrice,
        Self::AppGasPrice,
        Self::ChainStopped,
        Self::ReportOverdue,
        Self::ReportMissing,
        Self::ReportStuck,
        Self::Rate,
        Self::Paused,
        Self::Upgraded,
    ];

    /// Returns the stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PayerLow => "payer_low",
            Self::SenderLow => "sender_low",
            Self::AppSenderLow => "app_sender_low",
            Self::GasPrice => "gas_price",
            Self::AppGasPrice => "app_gas_price",
            Self::ChainStopped => "chain_stopped",
            Self::ReportOverdue => "report_overdue",
            Self::ReportMissing => "report_missing",
            Self::ReportStuck => "report_stuck",
            Self::Rate => "rate",
            Self::Paused => "paused",
            Self::Upgraded => "upgraded",
        }
    }
}

/// A finding that the operator should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// The kind.
    pub kind: AlarmKind,
    /// The finding as a sentence for people.
    pub text: String,
}

/// Returns the alarms of an observation at `now`, unix seconds. `before` holds the last accepted implementation of each
/// contract; a contract that is missing there is new and raises no alarm.
#[must_use]
pub fn judge(
    seen: &Observation,
    limits: &WatchLimits,
    before: &BTreeMap<Contract, Address>,
    now: u64,
) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut alarm = |kind, text: String| alarms.push(Alarm { kind, text });
    for (kind, text) in of_chains(seen, limits, now) {
        alarm(kind, text);
    }
    for (payer, balance) in &seen.payers {
        if *balance < SignedMicroDollars::from(limits.payer_min) {
            alarm(AlarmKind::PayerLow, format!("payer {payer} has {balance} left"));
        }
    }
    for (sender, balance) in &seen.senders {
        if *balance < limits.sender_min {
            alarm(AlarmKind::SenderLow, format!("account {sender} has {} wei left", balance.0));
        }
    }
    for (sender, balance) in &seen.app_senders {
        if *balance < limits.app_sender_min {
            let text = format!("account {sender} has {} wei left on the app chain", balance.0);
            alarm(AlarmKind::AppSenderLow, text);
        }
    }
    for (node, (_, reports)) in &seen.reports {
        for (kind, text) in of_reports(*node, reports, seen.is_report_due(*node), limits, now) {
            alarm(kind, text);
        }
    }
    for (node, older) in &seen.older_open {
        if let Some(text) = of_older(*node, older, limits, now) {
            alarm(AlarmKind::ReportStuck, text);
        }
    }
    for (node, since) in &seen.unreported_since {
        let age_s = now.saturating_sub(*since);
        if age_s > limits.report_age_s_max {
            let hours = age_s / 3600;
            let text = format!("there is no report about node {node}, known for {hours} h");
            alarm(AlarmKind::ReportMissing, text);
        }
    }
    if !seen.lacks_rates {
        for text in of_rates(&seen.rates, seen.rate_to_adopt, limits.rate_factor_max, now) {
            alarm(AlarmKind::Rate, text);
        }
    }
    for (contract, _) in seen.paused.iter().filter(|(_, is_paused)| **is_paused) {
        alarm(AlarmKind::Paused, format!("{contract} is paused"));
    }
    for (contract, code) in &seen.implementations {
        if let Some(known) = before.get(contract).filter(|known| *known != code) {
            alarm(
                AlarmKind::Upgraded,
                format!("{contract} has the code at {code}, and had {known}"),
            );
        }
    }
    alarms
}

/// Returns the alarms about the newest block and the gas prices.
fn of_chains(seen: &Observation, limits: &WatchLimits, now: u64) -> Vec<(AlarmKind, String)> {
    let mut alarms = Vec::new();
    // Not of the app chain: chains of its kind make blocks for transactions only, so an old one shows nothing.
    let block_age_s = now.saturating_sub(seen.chain_time);
    if block_age_s > limits.block_age_s_max {
        let text = format!("the newest block is {block_age_s} s old");
        alarms.push((AlarmKind::ChainStopped, text));
    }
    // By a clock that is far behind, no report and no block would ever be old.
    let ahead_s = seen.chain_time.saturating_sub(now);
    if ahead_s > limits.block_age_s_max {
        let text = format!("the newest block is {ahead_s} s ahead of this machine's clock");
        alarms.push((AlarmKind::ChainStopped, text));
    }
    if seen.gas_price > limits.gas_price_max {
        alarms.push((AlarmKind::GasPrice, format!("gas costs {} wei", seen.gas_price.0)));
    }
    if let Some(price) = seen.app_gas_price.filter(|price| *price > limits.app_gas_price_max) {
        let text = format!("gas costs {} wei on the app chain", price.0);
        alarms.push((AlarmKind::AppGasPrice, text));
    }
    alarms
}

/// Returns the alarms about the reports on one originator, oldest first. `is_due` is true if further ones are due.
fn of_reports(
    node: OriginatorId,
    reports: &[OnchainReport],
    is_due: bool,
    limits: &WatchLimits,
    now: u64,
) -> Vec<(AlarmKind, String)> {
    let ended = |report: &OnchainReport| match report.has_ended(now) {
        true => format!("ended {} h ago", age_s(report, now) / 3600),
        false => "states an end that has not come".to_owned(),
    };
    let stuck = reports.iter().filter(|report| !report.is_settled);
    let stuck = stuck.filter(|report| is_old(report, limits.settle_age_s_max, now)).map(|report| {
        let (index, ended) = (report.index, ended(report));
        let text = format!("report {index} about originator {node} {ended} and is not settled");
        (AlarmKind::ReportStuck, text)
    });
    let overdue =
        reports.last().filter(|last| is_due && is_old(last, limits.report_age_s_max, now));
    let overdue = overdue.map(|last| {
        let text = format!("the last report about originator {node} {}", ended(last));
        (AlarmKind::ReportOverdue, text)
    });
    stuck.chain(overdue).collect()
}

/// Returns the alarm text about the unsettled reports on one originator that are older than the newest ones; `None` if
/// none is stuck.
fn of_older(
    node: OriginatorId,
    older: &[OnchainReport],
    limits: &WatchLimits,
    now: u64,
) -> Option<String> {
    let mut stuck = older.iter().filter(|report| is_old(report, limits.settle_age_s_max, now));
    let first = stuck.next()?;
    let others = match stuck.count() {
        0 => String::new(),
        more => format!(", nor are later ones: {more}"),
    };
    Some(format!("old report {} about originator {node} is not settled{others}", first.index))
}

/// Returns the seconds since the end that a report states.
fn age_s(report: &OnchainReport, now: u64) -> u64 {
    now.saturating_sub(report.stated_end_s())
}

/// Returns true if a report ended longer ago than this. A report that lies about its end would hide how old it is.
fn is_old(report: &OnchainReport, age_s_max: u64, now: u64) -> bool {
    age_s(report, now) > age_s_max || !report.has_ended(now)
}

/// Returns an alarm text for each rate in force at `now` or later that is out of bounds, also of the one that can be
/// adopted at any time. Past rates are ignored.
fn of_rates(rates: &[Rate], to_adopt: Option<Rate>, factor_max: u64, now: u64) -> Vec<String> {
    let Some(in_force) = rates.iter().rposition(|rate| rate.start_unix_s <= now) else {
        return vec!["no rate is in force".to_owned()];
    };
    let adopted = rates.len();
    let rates: Vec<Rate> = rates.iter().copied().chain(to_adopt).collect();
    let mut wrong = Vec::new();
    for (place, rate) in rates.iter().enumerate().skip(in_force) {
        let when = if place == in_force {
            "in force"
        } else if place < adopted {
            "announced"
        } else {
            "set and not adopted yet"
        };
        let start = rate.start_unix_s;
        let prices = Prices::of(rate).numbers();
        let [message_fee, storage_fee, congestion_fee, target_rate] = prices;
        if message_fee == 0 && storage_fee == 0 {
            wrong.push(format!("the rate {when} from {start} on is free"));
        }
        let highest = message_fee.max(storage_fee).max(congestion_fee);
        if highest > PRICE_MAX {
            wrong.push(format!(
                "a fee of the rate {when} from {start} on is {highest}, more than any node can charge"
            ));
        }
        if target_rate > TARGET_MAX {
            wrong.push(format!(
                "the target rate {when} from {start} on is {target_rate}, which nodes read as another number"
            ));
        }
        let Some(before) = place.checked_sub(1).map(|before| Prices::of(&rates[before]).numbers())
        else {
            continue;
        };
        let names = ["message fee", "storage fee", "congestion fee", "target rate"];
        for ((name, new), old) in names.into_iter().zip(prices).zip(before) {
            let (low, high) = (new.min(old), new.max(old));
            if high > low.saturating_mul(factor_max) {
                wrong.push(format!("the {name} {when} from {start} on is {new}, and was {old}"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hawser_proto::SequenceId;
    use hawser_rules::{PicoDollarPrice, PicoDollarsPerByteDay};

    use super::*;

    const NOW: u64 = 1_750_000_000;

    fn report(index: u64, age_s: u64, is_settled: bool) -> OnchainReport {
        OnchainReport {
            originator: OriginatorId(100),
            index,
            start_sequence_id: SequenceId::NONE,
            end_sequence_id: SequenceId(1),
            end_minute: u32::try_from((NOW - age_s) / 60).unwrap(),
            root: [0; 32],
            fees_settled: crate::admin::MicroDollars::new(5).unwrap(),
            is_settled,
            protocol_fee_rate: 0,
            node_ids: vec![OriginatorId(100)],
        }
    }

    fn rate(start_unix_s: u64, message_fee: u64) -> Rate {
        Rate {
            start_unix_s,
            message_fee: PicoDollarPrice(message_fee),
            storage_fee: PicoDollarsPerByteDay(200),
            congestion_fee: PicoDollarPrice(300),
            target_rate_per_minute: 6000,
        }
    }

    /// Returns an observation that raises no alarm.
    fn healthy() -> Observation {
        Observation {
            chain_time: NOW - 5,
            gas_price: WeiPerGas(1),
            app_gas_price: Some(WeiPerGas(100_000_000_000)),
            payers: vec![(Address::ZERO, SignedMicroDollars(11_000_000))],
            senders: vec![(Address::ZERO, Wei(u128::MAX))],
            app_senders: vec![(Address::ZERO, Wei(u128::MAX))],
            reports: [
                (OriginatorId(100), (1, vec![report(0, 3600, true)])),
                (OriginatorId(200), (0, vec![])),
            ]
            .into(),
            older_open: BTreeMap::new(),
            left: BTreeSet::new(),
            unreported_since: [(OriginatorId(200), NOW - 24 * 3600)].into(),
            rates: vec![rate(0, 100), rate(NOW + 60, 200)],
            rate_to_adopt: None,
            lacks_rates: false,
            paused: [(Contract::PayerRegistry, false)].into(),
            implementations: [(Contract::PayerRegistry, Address::repeat_byte(1))].into(),
        }
    }

    fn kinds(seen: &Observation) -> Vec<AlarmKind> {
        let before = [(Contract::PayerRegistry, Address::repeat_byte(1))].into();
        judge(seen, &WatchLimits::default(), &before, NOW).iter().map(|it| it.kind).collect()
    }

    #[test]
    fn nothing_is_told_of_a_healthy_network_and_each_fault_by_its_name() {
        assert_eq!(kinds(&healthy()), []);
        type Fault = fn(&mut Observation);
        let faults: [(AlarmKind, Fault); 15] = [
            (AlarmKind::PayerLow, |it| it.payers[0].1 = SignedMicroDollars(-1)),
            (AlarmKind::SenderLow, |it| it.senders[0].1 = Wei(0)),
            (AlarmKind::AppSenderLow, |it| it.app_senders[0].1 = Wei(0)),
            (AlarmKind::GasPrice, |it| it.gas_price = WeiPerGas(u128::MAX)),
            (AlarmKind::AppGasPrice, |it| it.app_gas_price = Some(WeiPerGas(100_000_000_001))),
            (AlarmKind::ChainStopped, |it| it.chain_time = 0),
            (AlarmKind::ChainStopped, |it| it.chain_time = NOW + 15 * 60 + 1),
            (AlarmKind::ChainStopped, |it| it.chain_time = u64::MAX),
            (AlarmKind::ReportOverdue, |it| {
                _ = it.reports.insert(OriginatorId(300), (1, vec![report(0, 99_000, true)]))
            }),
            (AlarmKind::ReportMissing, |it| {
                _ = it.unreported_since.insert(OriginatorId(200), NOW - 24 * 3600 - 1);
            }),
            (AlarmKind::Rate, |it| it.rates.push(rate(NOW + 90, 2001))),
            (AlarmKind::Rate, |it| it.rates.clear()),
            (AlarmKind::Rate, |it| it.rate_to_adopt = Some(rate(NOW - 90, 2001))),
            (AlarmKind::Paused, |it| _ = it.paused.insert(Contract::AppChainGateway, true)),
            (AlarmKind::Upgraded, |it| {
                it.implementations.insert(Contract::PayerRegistry, Address::repeat_byte(2));
            }),
        ];
        for (kind, fault) in faults {
            let mut seen = healthy();
            fault(&mut seen);
            assert_eq!(kinds(&seen), [kind]);
        }
        let mut early = healthy();
        early.chain_time = NOW + 15 * 60;
        assert_eq!(kinds(&early), [], "clocks differ");
        let mut stuck = healthy();
        stuck
            .reports
            .insert(OriginatorId(300), (2, vec![report(0, 99_000, false), report(1, 60, false)]));
        assert_eq!(kinds(&stuck), [AlarmKind::ReportStuck], "the newest one has time");
    }

    /// More reports have come since than a look reads.
    #[test]
    fn a_report_that_is_not_settled_is_stuck_however_many_newer_ones_there_are() {
        let mut seen = healthy();
        let old = |index| report(index, 99_000, false);
        seen.older_open.insert(OriginatorId(100), vec![old(3), old(5), report(6, 60, false)]);
        assert_eq!(kinds(&seen), [AlarmKind::ReportStuck]);
        assert_eq!(seen.open_reports(OriginatorId(100)), 3);
        let text = of_older(OriginatorId(100), &[old(3), old(5)], &WatchLimits::default(), NOW);
        let wanted = "old report 3 about originator 100 is not settled, nor are later ones: 1";
        assert_eq!(text.as_deref(), Some(wanted));
        seen.older_open.insert(OriginatorId(100), vec![report(6, 60, false)]);
        assert_eq!(kinds(&seen), [], "it has time");
    }

    /// Nodes of the reference implementation attest any end minute, and write no further report before it is over.
    #[test]
    fn a_report_that_states_an_end_far_ahead_silences_no_alarm() {
        let mut seen = healthy();
        let ended = |end_minute, is_settled| {
            let report = OnchainReport { end_minute, ..report(0, 60, is_settled) };
            (1, vec![report])
        };
        seen.reports.insert(OriginatorId(300), ended(u32::MAX >> 1, true));
        assert_eq!(kinds(&seen), [AlarmKind::ReportOverdue]);
        seen.reports.insert(OriginatorId(300), ended(u32::MAX >> 1, false));
        assert_eq!(kinds(&seen), [AlarmKind::ReportStuck, AlarmKind::ReportOverdue]);
        let soon = u32::try_from((NOW + 1800) / 60).unwrap();
        seen.reports.insert(OriginatorId(300), ended(soon, false));
        assert_eq!(kinds(&seen), [], "the clock of the watcher is behind");
    }

    #[test]
    fn a_strand_of_the_older_network_may_rest_and_its_reports_are_settled_all_the_same() {
        let mut seen = healthy();
        seen.reports.insert(OriginatorId(11), (1, vec![report(0, 99_000, true)]));
        assert_eq!(kinds(&seen), [], "nothing more is taken over");
        seen.reports.insert(OriginatorId(13), (1, vec![report(0, 99_000, false)]));
        assert_eq!(kinds(&seen), [AlarmKind::ReportStuck]);
    }

    #[test]
    fn no_report_is_due_about_a_node_that_has_left_and_its_last_ones_are_settled_all_the_same() {
        let mut seen = healthy();
        seen.left.insert(OriginatorId(300));
        seen.reports.insert(OriginatorId(300), (1, vec![report(0, 99_000, true)]));
        assert_eq!(kinds(&seen), [], "otherwise the alarm would last for ever");
        seen.reports.insert(OriginatorId(300), (1, vec![report(0, 99_000, false)]));
        assert_eq!(kinds(&seen), [AlarmKind::ReportStuck]);
    }

    #[test]
    fn a_rate_is_judged_from_its_announcement_on_and_not_when_it_is_past() {
        let of = |rates: &[Rate]| of_rates(rates, None, 10, NOW).len();
        assert_eq!(of(&[rate(0, 1), rate(10, 1000), rate(NOW, 1000)]), 0, "the jump is past");
        assert_eq!(of(&[rate(0, 1), rate(NOW, 1000)]), 1, "in force");
        assert_eq!(of(&[rate(0, 1), rate(NOW + 1, 1000)]), 1, "announced");
        assert_eq!(of(&[rate(0, 1000), rate(NOW + 1, 99)]), 1, "far too cheap");
        assert_eq!(of(&[rate(NOW + 1, 1)]), 1, "nothing is in force yet");
        let (message_fee, storage_fee) = (PicoDollarPrice(0), PicoDollarsPerByteDay(0));
        assert_eq!(of(&[Rate { message_fee, storage_fee, ..rate(0, 1) }]), 1);
        assert_eq!(of(&[rate(0, 1), rate(NOW + 1, PRICE_MAX)]), 1, "no product overflows");
        assert_eq!(of(&[rate(0, PRICE_MAX)]), 0);
        assert_eq!(of(&[rate(0, PRICE_MAX + 1)]), 1, "no node can charge it");
        let target = |target_rate_per_minute| of(&[Rate { target_rate_per_minute, ..rate(0, 1) }]);
        assert_eq!(target(TARGET_MAX), 0);
        assert_eq!(target(TARGET_MAX + 1), 1, "to nodes it is negative, so congestion is free");
    }
}
