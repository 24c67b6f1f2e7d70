//! The results of paid probes, as the metrics show them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::metrics_server::MetricsPage;

/// The part of a probe that a node has failed in. A closed set: it is a label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProbePhase {
    /// No connection.
    Connect,
    /// The node has not taken the envelope.
    Publish,
    /// The node has not shown the envelope in time.
    Read,
}

impl ProbePhase {
    const ALL: [Self; 3] = [Self::Connect, Self::Publish, Self::Read];

    fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Read => "read",
        }
    }
}

/// The last probes. Empty without probes.
#[derive(Debug, Default)]
pub(super) struct ProbeView {
    /// Probes by the node at which they were published, or were to be.
    sent: BTreeMap<u32, u64>,
    /// The time until the node answered, in its last probe that succeeded.
    publish_times: BTreeMap<u32, Duration>,
    /// The time until another node showed the envelope, by the first and the other node.
    delays: BTreeMap<(u32, u32), Duration>,
    failures: BTreeMap<(u32, ProbePhase), u64>,
}

impl ProbeView {
    /// Notes that a probe begins at a node, and forgets nodes that are not watched any more.
    pub(super) fn note_begin(&mut self, at: u32, watched: &BTreeSet<u32>) {
        self.sent.retain(|node, _| watched.contains(node));
        self.publish_times.retain(|node, _| watched.contains(node));
        self.delays.retain(|(first, other), _| watched.contains(first) && watched.contains(other));
        self.failures.retain(|(node, _), _| watched.contains(node));
        *self.sent.entry(at).or_default() += 1;
    }

    /// Notes the time until a node has answered with the published envelope.
    pub(super) fn note_published(&mut self, at: u32, after: Duration) {
        self.publish_times.insert(at, after);
    }

    /// Notes the time from sending an envelope to the first node until another one showed it.
    pub(super) fn note_shown(&mut self, first: u32, other: u32, after: Duration) {
        self.delays.insert((first, other), after);
    }

    /// Notes that a node has failed in a phase.
    pub(super) fn note_failure(&mut self, node: u32, phase: ProbePhase) {
        *self.failures.entry((node, phase)).or_default() += 1;
    }

    /// Writes the families, if there was a probe.
    pub(super) fn write_to(&self, page: &mut MetricsPage) {
        if self.sent.is_empty() {
            return;
        }
        page.family("xmtpd_network_watcher_probes_total", "Probes by their first node", "counter");
        for (node, count) in &self.sent {
            page.row(&format!("originator_node_id=\"{node}\""), count);
        }
        let help = "Seconds until the first node has answered, in its last probe";
        page.family("xmtpd_network_watcher_probe_publish_seconds", help, "gauge");
        for (node, time) in &self.publish_times {
            page.row(&format!("originator_node_id=\"{node}\""), time.as_secs_f64());
        }
        let help =
            "Seconds from sending at the first node until another one shows it, in the last probe";
        page.family("xmtpd_network_watcher_probe_delay_seconds", help, "gauge");
        for ((first, other), delay) in &self.delays {
            let labels = format!("publisher_node_id=\"{other}\",originator_node_id=\"{first}\"");
            page.row(&labels, delay.as_secs_f64());
        }
        let help = "Probes in which a node has failed, by phase";
        page.family("xmtpd_network_watcher_probe_failures_total", help, "counter");
        for node in self.sent.keys() {
            for phase in ProbePhase::ALL {
                let count = self.failures.get(&(*node, phase)).copied().unwrap_or_default();
                let phase = phase.name();
                page.row(&format!("publisher_node_id=\"{node}\",phase=\"{phase}\""), count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_times_are_shown_and_failures_are_counted_while_a_node_is_watched() {
        let page = |view: &ProbeView| {
            let mut page = MetricsPage::default();
            view.write_to(&mut page);
            page.into_text()
        };
        let mut view = ProbeView::default();
        assert_eq!(page(&view), "");
        let watched = BTreeSet::from([100, 200]);
        for _ in 0..2 {
            view.note_begin(100, &watched);
            view.note_failure(200, ProbePhase::Read);
        }
        view.note_begin(200, &watched);
        view.note_published(100, Duration::from_millis(3));
        view.note_shown(100, 200, Duration::from_secs(9));
        view.note_shown(100, 200, Duration::from_millis(250));
        let text = page(&view);
        for line in [
            "xmtpd_network_watcher_probes_total{originator_node_id=\"100\"} 2",
            "xmtpd_network_watcher_probe_publish_seconds{originator_node_id=\"100\"} 0.003",
            "xmtpd_network_watcher_probe_delay_seconds{publisher_node_id=\"200\",originator_node_id=\"100\"} 0.25",
            "xmtpd_network_watcher_probe_failures_total{publisher_node_id=\"200\",phase=\"read\"} 2",
            "xmtpd_network_watcher_probe_failures_total{publisher_node_id=\"100\",phase=\"connect\"} 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
        }
        view.note_begin(200, &BTreeSet::from([200]));
        assert!(!page(&view).contains("\"100\""), "it has left the network");
    }
}
