//! The metrics of the network watcher. Names and labels are those of the reference implementation's, where it has them.

use hawser_node::AddressFrom;

use super::alarm::NetworkAlarmKind;
use super::probe_view::ProbeView;
use super::state::{NetworkView, NodeView, StreamFault};
use crate::metrics_server::{MetricsPage, MetricsSource};

/// The nodes as they are seen, the probes, the bound of the alarm about divergence, and the rule of calls to nodes.
#[derive(Debug)]
pub(super) struct WatcherPage {
    pub(super) view: NetworkView,
    pub(super) probes: ProbeView,
    pub(super) divergence_max: u64,
    pub(super) addresses: AddressFrom,
}

impl MetricsSource for WatcherPage {
    const NOT_YET: &'static str = "the registry has not been read yet";

    fn has_looked(&self) -> bool {
        self.view.has_registry()
    }

    fn page(&self) -> String {
        let mut page = MetricsPage::default();
        self.watcher(&mut page);
        self.nodes(&mut page);
        self.cursors(&mut page);
        self.originators(&mut page);
        self.probes.write_to(&mut page);
        page.into_text()
    }
}

impl WatcherPage {
    fn watcher(&self, page: &mut MetricsPage) {
        let view = &self.view;
        page.family("xmtpd_network_watcher_build_info", "1, with the version", "gauge");
        page.row(&format!("version=\"{}\"", env!("HAWSER_VERSION").escape_default()), 1);
        page.family("xmtpd_network_watcher_known_nodes", "Nodes that are watched", "gauge");
        page.row("", view.nodes.len());
        let help = "Nodes of the network beyond those that are watched";
        page.family("xmtpd_network_watcher_unwatched_nodes", help, "gauge");
        page.row("", view.unwatched);
        let help = "Readings of the registry that failed";
        page.family("xmtpd_network_watcher_registry_errors_total", help, "counter");
        page.row("", view.registry_errors);
        page.family("xmtpd_network_watcher_alarms", "Alarms by kind", "gauge");
        let alarms = view.judge(self.divergence_max);
        for kind in NetworkAlarmKind::ALL {
            let count = alarms.iter().filter(|alarm| alarm.kind == kind).count();
            page.row(&format!("kind=\"{}\"", kind.name()), count);
        }
    }

    fn nodes(&self, page: &mut MetricsPage) {
        let mut each = |name: &str, help, kind, value: &dyn Fn(&NodeView) -> u64| {
            page.family(&format!("xmtpd_network_watcher_{name}"), help, kind);
            for (id, node) in &self.view.nodes {
                page.row(&format!("publisher_node_id=\"{id}\""), value(node));
            }
        };
        let up = "1 while a stream is open on which a cursor has come";
        each("node_up", up, "gauge", &|node| u64::from(node.is_up));
        let canonical = "1 if the node belongs to the canonical network";
        each("node_canonical", canonical, "gauge", &|node| u64::from(node.is_canonical));
        let last = "Unix time of the last cursor; 0 before the first";
        each("node_last_update_seconds", last, "gauge", &|node| node.updated_unix_s);
        let back = "Entries of cursors that were lower than before";
        each("cursor_regressions_total", back, "counter", &|node| node.went_back);
        let unknown = "Originators of the last cursor that there are not";
        each("unknown_originators", unknown, "gauge", &|node| node.unknown as u64);
        let impossible = "Entries of the last cursor with an id that no envelope can have";
        each("impossible_ids", impossible, "gauge", &|node| node.impossible as u64);
        let content = "Answers about contents that were none";
        each("content_errors_total", content, "counter", &|node| node.content_faults);
        let name = "xmtpd_network_watcher_node_stream_errors_total";
        page.family(name, "Ends of streams by reason", "counter");
        for (id, node) in &self.view.nodes {
            for fault in StreamFault::ALL {
                let labels = format!("publisher_node_id=\"{id}\",reason=\"{}\"", fault.name());
                page.row(&labels, node.faults.get(&fault).copied().unwrap_or_default());
            }
        }
    }

    fn cursors(&self, page: &mut MetricsPage) {
        let view = &self.view;
        let labels = |node: u32, originator: u32| {
            format!("publisher_node_id=\"{node}\",originator_node_id=\"{originator}\"")
        };
        page.family("xmtpd_network_watcher_cursor", "The last place that a node stated", "gauge");
        for &originator in &view.originators {
            for (node, place) in view.places(originator) {
                page.row(&labels(node, originator), place);
            }
        }
        let help =
            "Places between a node and the furthest of the canonical network, without void ones";
        page.family("xmtpd_network_watcher_cursor_lag", help, "gauge");
        for &originator in &view.originators {
            let Some([_, (_, most)]) = view.range(originator) else { continue };
            for (node, place) in view.places(originator) {
                // A node outside the canonical network may state a higher place.
                page.row(&labels(node, originator), view.lacked(originator, place, most));
            }
        }
    }

    fn originators(&self, page: &mut MetricsPage) {
        let view = &self.view;
        let ranges: Vec<_> =
            view.originators.iter().filter_map(|id| Some((id, view.range(*id)?))).collect();
        page.family("xmtpd_network_watcher_cursor_max", "The highest place of a strand", "gauge");
        for (id, [_, (_, most)]) in &ranges {
            page.row(&format!("originator_node_id=\"{id}\""), most);
        }
        let help = "Places between the lowest and the highest node, without void ones";
        page.family("xmtpd_network_watcher_cursor_divergence", help, "gauge");
        for (id, [(_, least), (_, most)]) in &ranges {
            let divergence = view.lacked(**id, *least, *most);
            page.row(&format!("originator_node_id=\"{id}\""), divergence);
        }
        let help = "Comparisons of what nodes hold, with two answers at least";
        page.family("xmtpd_network_watcher_content_comparisons_total", help, "counter");
        for id in &view.originators {
            let count = view.compared.get(id).copied().unwrap_or_default();
            page.row(&format!("originator_node_id=\"{id}\""), count);
        }
        let help = "Places that nodes without trees were asked for";
        page.family("xmtpd_network_watcher_content_sampled_places_total", help, "counter");
        for id in &view.originators {
            let count = view.sampling.counts.get(id).copied().unwrap_or_default().asked;
            page.row(&format!("originator_node_id=\"{id}\""), count);
        }
        let help = "1 if nodes hold different envelopes of the strand";
        page.family("xmtpd_network_watcher_content_differs", help, "gauge");
        for id in &view.originators {
            let differs = u8::from(view.findings.contains_key(id));
            page.row(&format!("originator_node_id=\"{id}\""), differs);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::state::RegistryEntry;
    use super::*;

    #[test]
    fn the_families_are_those_that_the_documentation_lists() {
        let docs = include_str!("../../../../docs/network-watcher.md");
        let of = |beginning: &str, end: char, text: &str| -> BTreeSet<String> {
            let name =
                |line: &str| Some(line.strip_prefix(beginning)?.split_once(end)?.0.to_owned());
            text.lines().filter_map(name).collect()
        };
        let documented = of("| `xmtpd_network_watcher_", '`', docs);
        let mut page = WatcherPage {
            view: NetworkView::default(),
            probes: ProbeView::default(),
            divergence_max: 1,
            addresses: AddressFrom::Operator,
        };
        // Without probes there are no families of theirs.
        page.probes.note_begin(100, &BTreeSet::from([100]));
        assert_eq!(of("# TYPE xmtpd_network_watcher_", ' ', &page.page()), documented);
    }

    /// A family with the value of its neighbour would have the right name, and mislead an alert.
    #[test]
    fn each_figure_of_a_node_is_its_own() {
        let node = |places: &[(u32, u64)]| NodeView {
            is_canonical: true,
            cursor: Some(places.iter().copied().collect()),
            ..NodeView::default()
        };
        let ahead = NodeView {
            is_up: true,
            updated_unix_s: 11,
            unknown: 12,
            impossible: 13,
            went_back: 14,
            faults: [(StreamFault::Silent, 15), (StreamFault::Flood, 16)].into(),
            content_faults: 17,
            ..node(&[(200, 60)])
        };
        let entry = |id, is_canonical| RegistryEntry {
            id,
            address: "http://node.example".to_owned(),
            is_canonical,
            public_key: None,
        };
        let mut view = NetworkView::default();
        view.set_registry(&[entry(200, true), entry(300, true), entry(400, false)]);
        view.nodes.insert(200, ahead);
        view.nodes.insert(300, node(&[(200, 42)]));
        view.compared.insert(200, 19);
        (view.unwatched, view.registry_errors) = (20, 21);
        let (probes, addresses) = (ProbeView::default(), AddressFrom::Operator);
        let page = WatcherPage { view, probes, divergence_max: 1, addresses }.page();
        for row in [
            "known_nodes 3",
            "unwatched_nodes 20",
            "registry_errors_total 21",
            "alarms{kind=\"divergence\"} 1",
            "node_up{publisher_node_id=\"200\"} 1",
            "node_up{publisher_node_id=\"300\"} 0",
            "node_canonical{publisher_node_id=\"300\"} 1",
            "node_canonical{publisher_node_id=\"400\"} 0",
            "node_last_update_seconds{publisher_node_id=\"200\"} 11",
            "unknown_originators{publisher_node_id=\"200\"} 12",
            "impossible_ids{publisher_node_id=\"200\"} 13",
            "cursor_regressions_total{publisher_node_id=\"200\"} 14",
            "node_stream_errors_total{publisher_node_id=\"200\",reason=\"silent\"} 15",
            "node_stream_errors_total{publisher_node_id=\"200\",reason=\"flood\"} 16",
            "content_errors_total{publisher_node_id=\"200\"} 17",
            "cursor{publisher_node_id=\"300\",originator_node_id=\"200\"} 42",
            "cursor_lag{publisher_node_id=\"200\",originator_node_id=\"200\"} 0",
            "cursor_lag{publisher_node_id=\"300\",originator_node_id=\"200\"} 18",
            "cursor_max{originator_node_id=\"200\"} 60",
            "cursor_divergence{originator_node_id=\"200\"} 18",
            "content_comparisons_total{originator_node_id=\"200\"} 19",
            "content_differs{originator_node_id=\"200\"} 0",
        ] {
            let row = format!("\nxmtpd_network_watcher_{row}\n");
            assert!(page.contains(&row), "{row} is not in {page}");
        }
    }
}
