//! The metrics of the watcher, in the text format of Prometheus.

use std::time::Duration;

use hawser_chain::admin::fees::OnchainReport;
use hawser_chain::admin::watcher::{Alarm, AlarmKind, EventCounts, Observation, WatchedEvent};
use hawser_proto::OriginatorId;

use super::totals::ReportTotals;
use crate::metrics_server::{MetricsPage, MetricsSource};

/// The last look, and the totals of all looks.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Observation,
    alarms: Vec<Alarm>,
    totals: ReportTotals,
    events: EventCounts,
    /// Time since the end of its last report for which an originator is active, seconds.
    active_window_s: u64,
    /// The time of the last look that succeeded, unix seconds; 0 before the first.
    looked_at: u64,
    /// Looks that failed, and those whose state could not be written.
    pub(super) failures: u64,
    /// Readings of events that failed.
    pub(super) event_failures: u64,
}

impl Watch {
    pub(super) fn new(active_window: Duration) -> Self {
        Self { active_window_s: active_window.as_secs(), ..Self::default() }
    }

    pub(super) fn note(&mut self, seen: Observation, alarms: Vec<Alarm>, now: u64) {
        self.totals.note(&seen.reports, seen.chain_time);
        (self.seen, self.alarms, self.looked_at) = (seen, alarms, now);
    }

    pub(super) fn note_events(&mut self, events: EventCounts) {
        self.events = events;
    }

    fn events(&self, page: &mut MetricsPage) {
        let help = "Readings of events that failed";
        page.family("xmtp_chain_watcher_event_failures_total", help, "counter");
        page.row("", self.event_failures);
        let Some(last_block) = self.events.last_block else { return };
        let help = "Last block whose events are counted";
        page.family("xmtp_chain_watcher_events_block", help, "gauge");
        page.row("", last_block);
        page.family("xmtp_chain_events_processed_total", "Events of the contracts", "counter");
        for kind in WatchedEvent::ALL {
            page.row(&format!("event_type=\"{}\"", kind.name()), self.events.of(kind));
        }
        let help = "Payers that were charged for settled usage, each time";
        page.family("xmtp_chain_usage_settled_total", help, "counter");
        page.row("", self.events.of(WatchedEvent::UsageSettled));
        let help = "Nodes that have attested the last submitted report";
        page.family("xmtp_chain_attesting_node_count", help, "gauge");
        for (originator, nodes) in &self.events.attesting {
            page.row(&format!("originator_id=\"{originator}\""), nodes);
        }
    }

    fn accounts(&self, page: &mut MetricsPage) {
        let seen = &self.seen;
        let help = "Time of the newest block, unix seconds";
        page.family("xmtp_chain_watcher_block_time_seconds", help, "gauge");
        page.row("", seen.chain_time);
        page.family("xmtp_chain_watcher_gas_price_wei", "Gas price, wei", "gauge");
        page.row("", seen.gas_price.0);
        let help = "Gas price of the app chain, wei";
        page.family("xmtp_chain_watcher_app_gas_price_wei", help, "gauge");
        if let Some(price) = seen.app_gas_price {
            page.row("", price.0);
        }
        let help = "Balance of a payer, millionths of a dollar";
        page.family("xmtp_chain_watcher_payer_microdollars", help, "gauge");
        for (payer, balance) in &seen.payers {
            page.row(&format!("payer=\"{payer}\""), balance.0);
        }
        page.family("xmtp_chain_watcher_sender_wei", "Balance of a sender, wei", "gauge");
        for (sender, wei) in &seen.senders {
            page.row(&format!("sender=\"{sender}\""), wei.0);
        }
        let help = "Balance of a sender on the app chain, wei";
        page.family("xmtp_chain_watcher_app_sender_wei", help, "gauge");
        for (sender, wei) in &seen.app_senders {
            page.row(&format!("sender=\"{sender}\""), wei.0);
        }
    }

    fn reports(&self, page: &mut MetricsPage) {
        let all = &self.seen.reports;
        let of = |node: &OriginatorId| format!("originator_id=\"{node}\"");
        page.family("xmtp_chain_watcher_reports_open", "Reports not settled", "gauge");
        for node in all.keys() {
            page.row(&of(node), self.seen.open_reports(*node));
        }
        let now = self.looked_at;
        // The end of a report that lies about it would hide how old the last report is.
        let last_end_s = |newest: &[OnchainReport]| {
            newest.iter().rfind(|it| it.has_ended(now)).map(OnchainReport::stated_end_s)
        };
        let help = "End of the last report's range, if a further one is due, unix seconds";
        page.family("xmtp_chain_watcher_report_end_seconds", help, "gauge");
        for (node, (_, newest)) in all {
            // Otherwise an alert on its age would last for ever.
            let last = last_end_s(newest).filter(|_| self.seen.is_report_due(*node));
            page.row(&of(node), last.unwrap_or(0));
        }
        let help = "Fees settled of the newest reports, millionths of a dollar";
        page.family("xmtp_chain_watcher_settled_microdollars", help, "gauge");
        for (node, (_, newest)) in all {
            page.row(&of(node), newest.iter().map(|it| it.fees_settled.get()).sum::<u128>());
        }
        let help = "Originators whose last report ended a short time ago";
        page.family("xmtp_chain_active_originator_nodes", help, "gauge");
        let is_active = |end_s: u64| now.saturating_sub(end_s) <= self.active_window_s;
        let active = all.values().filter(|(_, newest)| last_end_s(newest).is_some_and(is_active));
        page.row("", active.count());
        self.ranges(page);
        self.totals.write_to(page);
        let submitted = self.totals.last_submission_s();
        let latest = submitted.or(all.values().filter_map(|(_, it)| last_end_s(it)).max());
        let help = "Time since the last report came to the chain, seconds";
        page.family("xmtp_chain_time_since_last_submission_seconds", help, "gauge");
        if let Some(latest) = latest {
            page.row("", now.saturating_sub(latest));
        }
    }

    fn ranges(&self, page: &mut MetricsPage) {
        let all = &self.seen.reports;
        let of = |node: &OriginatorId| format!("originator_id=\"{node}\"");
        let help = "Places between two of the newest reports, or in both";
        page.family("xmtp_chain_envelope_range_gap", help, "gauge");
        for (node, (_, newest)) in all {
            let pairs = newest.windows(2);
            let gaps = pairs.map(|it| it[1].start_sequence_id.0.abs_diff(it[0].end_sequence_id.0));
            page.row(&of(node), gaps.fold(0, u64::saturating_add));
        }
    }

    fn contracts(&self, page: &mut MetricsPage) {
        page.family("xmtp_chain_watcher_paused", "1 for a contract that is paused", "gauge");
        for (contract, is_paused) in &self.seen.paused {
            page.row(&format!("contract=\"{contract}\""), u8::from(*is_paused));
        }
        page.family("xmtp_chain_watcher_rates", "Entries of the price list", "gauge");
        page.row("", self.seen.rates.len());
    }
}

impl MetricsSource for Watch {
    const NOT_YET: &'static str = "the chains have not been read yet";

    fn has_looked(&self) -> bool {
        self.looked_at > 0
    }

    fn page(&self) -> String {
        let mut page = MetricsPage::default();
        let help = "Time of the last look, unix seconds";
        page.family("xmtp_chain_watcher_last_look_seconds", help, "gauge");
        page.row("", self.looked_at);
        page.family("xmtp_chain_watcher_look_failures_total", "Looks that failed", "counter");
        page.row("", self.failures);
        page.family("xmtp_chain_watcher_alarms", "Alarms of the last look by kind", "gauge");
        for kind in AlarmKind::ALL {
            let count = self.alarms.iter().filter(|alarm| alarm.kind == kind).count();
            page.row(&format!("kind=\"{}\"", kind.name()), count);
        }
        if self.has_looked() {
            self.accounts(&mut page);
            self.reports(&mut page);
            self.contracts(&mut page);
            self.events(&mut page);
        }
        page.into_text()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use alloy::primitives::Address;
    use hawser_chain::admin::{Contract, MicroDollars, SignedMicroDollars, Wei, WeiPerGas};
    use hawser_proto::SequenceId;

    use super::*;

    #[test]
    fn the_families_are_those_that_the_documentation_lists() {
        let docs = include_str!("../../../../docs/chain-watcher.md");
        let of = |beginning: &str, end: char, text: &str| -> BTreeSet<String> {
            let name =
                |line: &str| Some(line.strip_prefix(beginning)?.split_once(end)?.0.to_owned());
            text.lines().filter_map(name).collect()
        };
        let documented = of("| `xmtp_chain_", '`', docs);
        let mut watch = Watch::new(Duration::from_secs(60));
        watch.note(Observation::default(), Vec::new(), 1000);
        // Before events were read, there are no families of theirs.
        watch.events.last_block = Some(1);
        let page = watch.page();
        assert_eq!(of("# TYPE xmtp_chain_", ' ', &page), documented);
        for line in page.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').unwrap();
            let units = [("_seconds", "seconds"), ("_wei", "wei"), ("dollars", "dollar")];
            let mut of_name = units.into_iter().filter(|(ending, _)| name.ends_with(*ending));
            assert!(of_name.all(|(_, unit)| help.contains(unit)), "{name} has no unit: {help}");
        }
    }

    #[test]
    fn the_age_of_the_last_report_is_told_of_originators_of_which_a_further_one_is_due() {
        let report = |originator| OnchainReport {
            originator,
            index: 0,
            start_sequence_id: SequenceId::NONE,
            end_sequence_id: SequenceId(9),
            end_minute: 2,
            root: [1; 32],
            fees_settled: MicroDollars::default(),
            is_settled: true,
            protocol_fee_rate: 0,
            node_ids: vec![OriginatorId(100)],
        };
        let originators = [11, 100, 300].map(OriginatorId);
        let mut reports: BTreeMap<_, _> = originators.map(|it| (it, (1, vec![report(it)]))).into();
        // The contract takes any end minute.
        let lying = OnchainReport { end_minute: u32::MAX >> 1, ..report(OriginatorId(200)) };
        reports.insert(OriginatorId(200), (2, vec![report(OriginatorId(200)), lying]));
        let seen =
            Observation { reports, left: [OriginatorId(300)].into(), ..Observation::default() };
        let mut watch = Watch::new(Duration::from_secs(60));
        watch.note(seen, Vec::new(), 1000);
        let page = watch.page();
        for (originator, end_s) in [(11, 0), (100, 120), (200, 120), (300, 0)] {
            let name = "xmtp_chain_watcher_report_end_seconds";
            let row = format!("{name}{{originator_id=\"{originator}\"}} {end_s}\n");
            assert!(page.contains(&row), "{page}");
        }
    }

    /// A family with the value of its neighbour would have the right name, and mislead an alert.
    #[test]
    fn each_figure_of_a_look_is_its_own() {
        let account = Address::repeat_byte;
        let seen = Observation {
            chain_time: 11,
            gas_price: WeiPerGas(12),
            app_gas_price: Some(WeiPerGas(13)),
            payers: vec![(account(1), SignedMicroDollars(-14))],
            senders: vec![(account(2), Wei(15))],
            app_senders: vec![(account(3), Wei(16))],
            paused: [(Contract::NodeRegistry, false), (Contract::RateRegistry, true)].into(),
            ..Observation::default()
        };
        let alarm = Alarm { kind: AlarmKind::Paused, text: "RateRegistry is paused".to_owned() };
        let mut watch = Watch::new(Duration::from_secs(60));
        watch.note(seen, vec![alarm], 1000);
        (watch.failures, watch.event_failures, watch.events.last_block) = (17, 18, Some(19));
        watch.events.attesting = [(OriginatorId(100), 20)].into();
        let page = watch.page();
        for row in [
            "xmtp_chain_watcher_last_look_seconds 1000".to_owned(),
            "xmtp_chain_watcher_look_failures_total 17".to_owned(),
            "xmtp_chain_watcher_event_failures_total 18".to_owned(),
            "xmtp_chain_watcher_events_block 19".to_owned(),
            "xmtp_chain_attesting_node_count{originator_id=\"100\"} 20".to_owned(),
            "xmtp_chain_watcher_alarms{kind=\"paused\"} 1".to_owned(),
            "xmtp_chain_watcher_alarms{kind=\"upgraded\"} 0".to_owned(),
            "xmtp_chain_watcher_block_time_seconds 11".to_owned(),
            "xmtp_chain_watcher_gas_price_wei 12".to_owned(),
            "xmtp_chain_watcher_app_gas_price_wei 13".to_owned(),
            format!("xmtp_chain_watcher_payer_microdollars{{payer=\"{}\"}} -14", account(1)),
            format!("xmtp_chain_watcher_sender_wei{{sender=\"{}\"}} 15", account(2)),
            format!("xmtp_chain_watcher_app_sender_wei{{sender=\"{}\"}} 16", account(3)),
            "xmtp_chain_watcher_paused{contract=\"NodeRegistry\"} 0".to_owned(),
            "xmtp_chain_watcher_paused{contract=\"RateRegistry\"} 1".to_owned(),
            "xmtp_chain_watcher_rates 0".to_owned(),
        ] {
            assert!(page.contains(&format!("\n{row}\n")), "{row} is not in {page}");
        }
    }
}
