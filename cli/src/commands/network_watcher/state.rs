//! Cursors and contents as the nodes have reported them, and the state of the network that they show.
//!
//! **A node is not trusted.** Only originators that the registry or the protocol knows have rows, so a node can add
//! none. Originators beyond these are counted.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor;
use hawser_proto::void::VoidStatement;
use hawser_proto::{EnvelopeId, OriginatorId, PublicKey, SequenceId};

use super::finding::{
    ContentFinding, ContentQuestion, HeldContent, place_of_half, places_of_most, sides_of,
};
use super::sampling::{SampledStrand, Sampling, StatementKinds};
use crate::output;

/// Nodes that are watched, first those of the canonical network, of which those with higher ids are counted. The
/// registry takes at most 255 of these (`maxCanonicalNodes`).
pub(super) const NODES_MAX: usize = 256;

/// A record of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegistryEntry {
    pub(super) id: u32,
    pub(super) address: String,
    pub(super) is_canonical: bool,
    /// The node's key; `None` if the record has none that is one.
    pub(super) public_key: Option<PublicKey>,
}

/// The reason why a stream ended. A closed set: it is a label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StreamFault {
    /// No connection, or UNAVAILABLE. Its name is that of the reference implementation's watcher.
    Dial,
    /// The node ended the stream, or any other error. Its name is that of the reference implementation's watcher.
    Receive,
    /// No answer, or none for long.
    Silent,
    /// The node does not know the call.
    Unimplemented,
    /// The node refuses the call for now.
    Refused,
    /// A cursor is larger than any of an honest node.
    TooLarge,
    /// Cursors come faster than from any honest node.
    Flood,
}

impl StreamFault {
    pub(super) const ALL: [Self; 7] = [
        Self::Dial,
        Self::Receive,
        Self::Silent,
        Self::Unimplemented,
        Self::Refused,
        Self::TooLarge,
        Self::Flood,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::Receive => "stream_recv",
            Self::Silent => "silent",
            Self::Unimplemented => "unimplemented",
            Self::Refused => "refused",
            Self::TooLarge => "too_large",
            Self::Flood => "flood",
        }
    }
}

/// A node as it is seen.
#[derive(Debug, Default)]
pub(super) struct NodeView {
    pub(super) address: String,
    /// True if the registry counts it to the canonical network. Other nodes are shown, and neither judged, compared nor
    /// probed.
    pub(super) is_canonical: bool,
    /// True while a stream is open on which a cursor has come.
    pub(super) is_up: bool,
    /// The last cursor; `None` before the first. It stays when the node goes.
    pub(super) cursor: Option<BTreeMap<u32, u64>>,
    /// Unix time of the last cursor, seconds; 0 before the first.
    pub(super) updated_unix_s: u64,
    /// Originators of the last cursor that neither registry nor protocol knows.
    pub(super) unknown: usize,
    /// Entries of the last cursor with an id that no envelope can have.
    pub(super) impossible: usize,
    /// Entries that were lower than before.
    pub(super) went_back: u64,
    /// Ends of streams.
    pub(super) faults: BTreeMap<StreamFault, u64>,
    /// The last end of a stream; empty before the first.
    pub(super) last_fault: String,
    /// Number of unusable answers about contents.
    pub(super) content_faults: u64,
    /// The last of them; empty before the first.
    pub(super) last_content_fault: String,
}

/// The nodes as they are seen.
#[derive(Debug, Default)]
pub(super) struct NetworkView {
    /// Originators that have rows.
    pub(super) originators: BTreeSet<u32>,
    pub(super) nodes: BTreeMap<u32, NodeView>,
    /// The keys of the nodes.
    pub(super) public_keys: BTreeMap<u32, PublicKey>,
    /// The statements that nodes have shown about void places of their own strands.
    pub(super) voids: BTreeMap<u32, Vec<VoidStatement>>,
    /// The number of comparisons of contents with two answers at least, by originator.
    pub(super) compared: BTreeMap<u32, u64>,
    /// The places at which nodes without trees were compared.
    pub(super) sampling: Sampling,
    /// The last difference of each originator. A tree never changes, so it stays.
    pub(super) findings: BTreeMap<u32, ContentFinding>,
    /// Nodes of the canonical network beyond [`NODES_MAX`].
    pub(super) unwatched: usize,
    /// Readings of the registry that failed.
    pub(super) registry_errors: u64,
    /// The error of the last reading, if it failed.
    pub(super) registry_fault: Option<String>,
    has_registry: bool,
}

impl NetworkView {
    /// Takes a reading of the registry. Returns the nodes to ask, by id: the canonical ones, and others that have an
    /// address, as long as there is room.
    pub(super) fn set_registry(&mut self, entries: &[RegistryEntry]) -> BTreeMap<u32, String> {
        let nodes = entries.iter().filter(|it| OriginatorId(it.id).is_node());
        let without_node =
            OriginatorId::CHAINS.into_iter().chain(OriginatorId::MIGRATED).map(|id| id.0);
        let (canonical, others): (Vec<_>, Vec<_>) = nodes.partition(|it| it.is_canonical);
        let mut canonical: BTreeMap<u32, &RegistryEntry> =
            canonical.into_iter().map(|it| (it.id, it)).collect();
        let beyond = canonical.keys().nth(NODES_MAX).copied();
        let unwatched = beyond.map(|first| canonical.split_off(&first));
        self.unwatched = unwatched.map_or(0, |it| it.len());
        // The strand of a node that has left is still held. Nodes in the network come first if there are too many.
        let left = others.iter().map(|it| it.id).take(NODES_MAX);
        self.originators = canonical.keys().copied().chain(left).chain(without_node).collect();
        let room = NODES_MAX - canonical.len();
        let others = others.into_iter().filter(|it| !it.address.is_empty()).take(room);
        let mut watched = canonical;
        for other in others {
            watched.entry(other.id).or_insert(other);
        }
        self.nodes.retain(|id, _| watched.contains_key(id));
        for (id, entry) in &watched {
            let node = self.nodes.entry(*id).or_default();
            node.is_canonical = entry.is_canonical;
            if node.address != entry.address {
                // It has not been asked there yet.
                node.is_up = false;
                node.address.clone_from(&entry.address);
            }
            if let Some(cursor) = &mut node.cursor {
                cursor.retain(|originator, _| self.originators.contains(originator));
            }
        }
        let keys = watched.iter().filter_map(|(id, entry)| Some((*id, entry.public_key?)));
        self.public_keys = keys.collect();
        let originators = &self.originators;
        self.voids.retain(|originator, _| originators.contains(originator));
        self.findings.retain(|originator, _| originators.contains(originator));
        self.compared.retain(|originator, _| originators.contains(originator));
        self.sampling.retain(originators);
        self.registry_fault = None;
        self.has_registry = true;
        watched.into_iter().map(|(id, entry)| (id, entry.address.clone())).collect()
    }

    /// Notes that the registry could not be read. The nodes that were read before stay in place.
    pub(super) fn note_registry_fault(&mut self, fault: &str) {
        self.registry_errors += 1;
        self.registry_fault = Some(output::plain(fault));
    }

    /// Takes a cursor of a node.
    pub(super) fn note_cursor(&mut self, node: u32, cursor: &Cursor, now_unix_s: u64) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        let before = node.cursor.take().unwrap_or_default();
        let mut known = BTreeMap::new();
        (node.unknown, node.impossible) = (0, 0);
        for (&originator, &sequence) in &cursor.node_id_to_sequence_id {
            if !self.originators.contains(&originator) {
                node.unknown += 1;
            } else if sequence <= SequenceId::MAX.0 {
                known.insert(originator, sequence);
            } else {
                node.impossible += 1;
                // This does not withdraw the node's earlier cursor.
                known.extend(before.get(&originator).map(|sequence| (originator, *sequence)));
            }
        }
        let lower = |(originator, sequence): &(&u32, &u64)| {
            known.get(originator).copied().unwrap_or_default() < **sequence
        };
        node.went_back += before.iter().filter(lower).count() as u64;
        node.cursor = Some(known);
        node.is_up = true;
        node.updated_unix_s = now_unix_s;
    }

    /// Notes the end of a node's stream. Its last cursor stays.
    pub(super) fn note_fault(&mut self, node: u32, fault: StreamFault, text: &str) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        node.is_up = false;
        *node.faults.entry(fault).or_default() += 1;
        node.last_fault = output::plain(text);
    }

    /// Returns true once the registry has been read, and each node has sent its cursor or failed.
    pub(super) fn is_settled(&self) -> bool {
        let is_known = |node: &NodeView| node.cursor.is_some() || !node.faults.is_empty();
        self.has_registry && self.nodes.values().all(is_known)
    }

    /// Returns true once the registry has been read.
    pub(super) fn has_registry(&self) -> bool {
        self.has_registry
    }

    /// Returns the nodes of the canonical network.
    pub(super) fn canonical(&self) -> impl Iterator<Item = (u32, &NodeView)> {
        self.nodes.iter().filter(|(_, node)| node.is_canonical).map(|(id, node)| (*id, node))
    }

    /// Returns the place of an originator that each node has reported, by node. A node whose cursor lacks the
    /// originator holds nothing of its strand, except strands of the older network: only nodes that are set to
    /// (`--migration-key`) follow these.
    pub(super) fn places(&self, originator: u32) -> impl Iterator<Item = (u32, u64)> {
        let lacking = match OriginatorId::MIGRATED.contains(&OriginatorId(originator)) {
            true => None,
            false => Some(0),
        };
        self.nodes.iter().filter_map(move |(id, node)| {
            let cursor = node.cursor.as_ref()?;
            Some((*id, cursor.get(&originator).copied().or(lacking)?))
        })
    }

    /// Returns the places of an originator as [`NetworkView::places`] does, of the canonical network alone.
    fn canonical_places(&self, originator: u32) -> impl Iterator<Item = (u32, u64)> {
        self.places(originator)
            .filter(move |(node, _)| self.nodes.get(node).is_some_and(|node| node.is_canonical))
    }

    /// Returns the lowest and the highest place of an originator in the canonical network, each with its node; `None`
    /// before the first cursor.
    pub(super) fn range(&self, originator: u32) -> Option<[(u32, u64); 2]> {
        let lowest = self.canonical_places(originator).min_by_key(|(_, place)| *place)?;
        // Of equals the first is taken, so that the answer does not depend on the number of nodes.
        let places = self.canonical_places(originator);
        let highest = places.reduce(|a, b| if b.1 > a.1 { b } else { a })?;
        Some([lowest, highest])
    }

    /// Returns the addresses of the nodes of the canonical network that answer.
    pub(super) fn addresses(&self) -> Vec<(u32, String)> {
        let up = self.canonical().filter(|(_, node)| node.is_up);
        up.map(|(id, node)| (id, node.address.clone())).collect()
    }

    /// Returns the questions of one comparison: for each originator a few places, with the nodes that claim to hold
    /// them.
    pub(super) fn content_plan(&self) -> Vec<ContentQuestion> {
        let mut plan = Vec::new();
        for &originator in &self.originators {
            let held = self.held(originator);
            for place in places_of_most(&held) {
                let nodes = held.iter().filter(|(_, held)| *held >= place);
                let nodes = nodes.map(|(node, _)| *node).collect();
                let place = EnvelopeId::new(OriginatorId(originator), SequenceId(place));
                plan.push(ContentQuestion { place, nodes });
            }
        }
        plan
    }

    /// Returns the claims of the nodes of the canonical network that answer and hold something of a strand.
    fn held(&self, originator: u32) -> Vec<(u32, u64)> {
        let is_up = |node: &u32| self.nodes.get(node).is_some_and(|node| node.is_up);
        self.canonical_places(originator)
            .filter(|(node, place)| is_up(node) && *place > 0)
            .collect()
    }

    /// Returns further questions about strands of which a node has no trees, at most `questions_max`. The places are up
    /// to the highest one that half of the nodes hold, so that neither nodes that claim too much nor nodes that hold
    /// little keep the others from being compared.
    pub(super) fn sample_plan(
        &mut self,
        kinds: &StatementKinds,
        questions_max: usize,
    ) -> Vec<ContentQuestion> {
        let sampled = |&originator: &u32| {
            let nodes = kinds.without_trees(originator);
            let mut held = self.held(originator);
            let highest = place_of_half(&held)?;
            held.retain(|(node, _)| nodes.contains(node));
            (held.len() >= 2).then_some((originator, SampledStrand { held, highest }))
        };
        let strands = self.originators.iter().filter_map(sampled).collect();
        self.sampling.plan(&strands, questions_max)
    }

    /// Records that a node's answer about its contents is unusable.
    pub(super) fn note_content_fault(&mut self, node: u32, text: &str) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        node.content_faults += 1;
        node.last_content_fault = output::plain(text);
    }

    /// Takes the answers of nodes about one place. Returns the difference, if there is one.
    pub(super) fn note_content(
        &mut self,
        place: EnvelopeId,
        held: &BTreeMap<u32, HeldContent>,
    ) -> Option<ContentFinding> {
        if held.len() >= 2 {
            *self.compared.entry(place.originator.0).or_default() += 1;
        }
        let sides = sides_of(held)?;
        Some(ContentFinding { place, sides, first_place: None, first_leaves: Vec::new() })
    }

    /// Records a difference in a strand in place of the last one, and returns it. If both are between the same sides,
    /// it keeps the first differing place that was found before, because trees only grow. If a node lied then, its tree
    /// may differ at an earlier place now.
    pub(super) fn note_difference(&mut self, mut finding: ContentFinding) -> ContentFinding {
        let (originator, place) = (finding.place.originator.0, finding.place.sequence.0);
        let earlier = self.findings.get(&originator).filter(|earlier| earlier.is_between(&finding));
        if let Some(earlier) = earlier.filter(|earlier| earlier.first_place <= Some(place))
            && finding.first_place.is_none()
        {
            finding.first_place = earlier.first_place;
            finding.first_leaves.clone_from(&earlier.first_leaves);
        }
        self.findings.insert(originator, finding.clone());
        finding
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::merkle::TreeHash;

    use super::super::finding::ContentSide;
    use super::*;

    fn view(nodes: &[u32]) -> NetworkView {
        let mut view = NetworkView::default();
        let entry = |id: &u32| RegistryEntry {
            id: *id,
            address: format!("http://node-{id}"),
            is_canonical: true,
            public_key: None,
        };
        view.set_registry(&nodes.iter().map(entry).collect::<Vec<_>>());
        view
    }

    fn cursor(entries: impl IntoIterator<Item = (u32, u64)>) -> Cursor {
        Cursor { node_id_to_sequence_id: entries.into_iter().collect() }
    }

    fn alarms(view: &NetworkView) -> Vec<&'static str> {
        view.judge(5000).iter().map(|alarm| alarm.kind.name()).collect()
    }

    #[test]
    fn invented_originators_get_no_rows_and_are_counted() {
        let mut view = view(&[100, 200]);
        view.note_cursor(100, &cursor([(100, 7)]), 1);
        let invented = (1000..51_000).map(|id| (id, 9));
        view.note_cursor(200, &cursor(invented.chain([(100, 7), (0, 3)])), 1);
        let rows: usize = view.nodes.values().map(|it| it.cursor.as_ref().unwrap().len()).sum();
        assert_eq!(rows, 3);
        assert_eq!(view.nodes[&200].unknown, 50_000);
        assert_eq!(alarms(&view), ["unknown_originators"]);
    }

    #[test]
    fn impossible_ids_change_no_maximum_and_take_nothing_back() {
        let mut view = view(&[100, 200]);
        view.note_cursor(100, &cursor([(100, 7)]), 1);
        view.note_cursor(200, &cursor([(100, 6)]), 1);
        view.note_cursor(200, &cursor([(100, u64::MAX)]), 2);
        assert_eq!(view.range(100), Some([(200, 6), (100, 7)]));
        assert_eq!((view.nodes[&200].impossible, view.nodes[&200].went_back), (1, 0));
        assert_eq!(alarms(&view), ["impossible_ids"]);
        let all = view.judge(5000);
        assert_eq!(all[0].text, "node 200 stated 1 sequence id that no envelope can have");
    }

    #[test]
    fn a_claim_beyond_the_originators_own_is_named_beside_it() {
        let mut view = view(&[100, 200]);
        view.note_cursor(100, &cursor([(100, 7)]), 1);
        view.note_cursor(200, &cursor([(100, SequenceId::MAX.0)]), 1);
        let all = view.judge(5000);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].text.contains("the head at node 200 is 9223372036854775807"), "{all:?}");
        assert!(all[0].text.ends_with("at the originator itself 7"), "{all:?}");
    }

    #[test]
    fn apart_means_more_than_the_bound() {
        let mut view = view(&[100, 200]);
        view.note_cursor(100, &cursor([(100, 5000)]), 1);
        view.note_cursor(200, &cursor([]), 1);
        assert!(alarms(&view).is_empty(), "an absent originator stands for 0");
        view.note_cursor(100, &cursor([(100, 5001)]), 1);
        assert_eq!(alarms(&view), ["divergence"]);
    }

    #[test]
    fn a_cursor_that_goes_back_is_counted_also_across_streams() {
        let mut view = view(&[100]);
        view.note_cursor(100, &cursor([(0, 5), (100, 9)]), 1);
        view.note_fault(100, StreamFault::Receive, "it\u{1b}[2J ended");
        assert_eq!(alarms(&view), ["node_down"]);
        assert!(view.judge(1)[0].text.ends_with("it [2J ended"));
        assert_eq!(view.range(100), Some([(100, 9), (100, 9)]), "its last cursor stays");
        view.note_cursor(100, &cursor([(100, 8)]), 2);
        assert_eq!(view.nodes[&100].went_back, 2);
        assert_eq!(alarms(&view), ["went_back"]);
    }

    #[test]
    fn a_registry_without_end_is_cut_and_said_so() {
        let ids: Vec<u32> = (0..1000).map(|place| 100 + 100 * place).collect();
        let mut view = view(&ids);
        assert_eq!((view.nodes.len(), view.unwatched), (NODES_MAX, 1000 - NODES_MAX));
        assert!(alarms(&view).contains(&"registry"));
        let left = RegistryEntry {
            id: 100,
            address: String::new(),
            is_canonical: false,
            public_key: None,
        };
        assert!(view.set_registry(&[left]).is_empty());
        assert!(view.nodes.is_empty() && view.originators.contains(&100));
        assert_eq!(alarms(&view), ["registry"], "nothing is watched");
    }

    #[test]
    fn a_node_outside_the_canonical_network_is_followed_and_changes_no_verdict() {
        let mut view = view(&[100, 200]);
        let entry = |id: u32, is_canonical| RegistryEntry {
            id,
            address: format!("http://node-{id}"),
            is_canonical,
            public_key: None,
        };
        let entries = [100, 200, 300, 400].map(|id| entry(id, id < 300));
        assert_eq!(view.set_registry(&entries).len(), 4);
        view.note_cursor(100, &cursor([(100, 7)]), 1);
        view.note_cursor(200, &cursor([(100, 6)]), 1);
        // One is far behind and one claims too much, invents and goes back; then both are down.
        view.note_cursor(300, &cursor([]), 1);
        view.note_cursor(400, &cursor([(100, 1_000_000), (5000, 1)]), 1);
        assert!(view.content_plan().iter().all(|it| it.nodes.iter().all(|node| *node < 300)));
        view.note_cursor(400, &cursor([(100, 900_000)]), 1);
        view.note_fault(300, StreamFault::Dial, "it is off");
        view.note_fault(400, StreamFault::Receive, "it is off");
        assert!(alarms(&view).is_empty(), "{:?}", view.judge(5000));
        assert_eq!(view.range(100), Some([(200, 6), (100, 7)]));
        assert_eq!(
            view.places(100).collect::<Vec<_>>(),
            [(100, 7), (200, 6), (300, 0), (400, 900_000)]
        );
        assert_eq!(view.addresses().len(), 2, "a probe asks neither");
        view.set_registry(&[100, 200, 300].map(|id| entry(id, true)));
        assert_eq!(alarms(&view), ["node_down"], "it belongs to the network now");
    }

    #[test]
    fn nodes_outside_the_canonical_network_take_no_room_of_it() {
        let mut view = NetworkView::default();
        let entry = |id: u32| RegistryEntry {
            id,
            address: format!("http://node-{id}"),
            is_canonical: id > 60_000,
            public_key: None,
        };
        let entries: Vec<_> = (1..=1000).map(|number| entry(100 * number)).collect();
        let watched = view.set_registry(&entries);
        assert_eq!(watched.len(), NODES_MAX);
        assert!(watched.keys().all(|id| *id > 60_000), "400 are canonical");
        assert_eq!(view.set_registry(&entries[..700]).len(), NODES_MAX);
        assert_eq!(view.canonical().count(), 100);
        assert_eq!(view.unwatched, 0);
    }

    #[test]
    fn a_registry_without_nodes_is_an_alarm_once_it_was_read() {
        let mut view = NetworkView::default();
        assert!(alarms(&view).is_empty(), "it was not read yet");
        view.set_registry(&[]);
        assert!(view.is_settled());
        assert_eq!(alarms(&view), ["registry"]);
        let node = RegistryEntry {
            id: 100,
            address: "http://a".into(),
            is_canonical: true,
            public_key: None,
        };
        view.set_registry(&[node]);
        assert_eq!(alarms(&view), ["node_down"]);
    }

    #[test]
    fn strands_of_the_older_network_are_compared_among_nodes_that_follow_them() {
        let mut view = view(&[100, 200, 300]);
        view.note_cursor(100, &cursor(OriginatorId::MIGRATED.map(|id| (id.0, 90_000))), 1);
        view.note_cursor(200, &cursor([]), 1);
        view.note_cursor(300, &cursor([(10, 85_000)]), 1);
        assert!(alarms(&view).is_empty());
        assert_eq!(view.range(10), Some([(300, 85_000), (100, 90_000)]));
        view.note_cursor(100, &cursor(OriginatorId::MIGRATED.map(|id| (id.0, 90_001))), 1);
        assert_eq!(alarms(&view), ["divergence"]);
    }

    #[test]
    fn the_first_place_that_differs_stays_as_found_unless_the_sides_differ_before_it() {
        let mut view = view(&[100, 200]);
        let side = |node: u32| ContentSide {
            nodes: vec![node],
            content: HeldContent {
                leaf: TreeHash([0; 32]),
                root: None,
                checkpoint: hawser_proto::Bytes::new(),
            },
        };
        let finding = |place, first_place| ContentFinding {
            place: EnvelopeId::new(OriginatorId(100), SequenceId(place)),
            sides: vec![side(100), side(200)],
            first_place,
            first_leaves: Vec::new(),
        };
        view.note_difference(finding(1000, Some(900)));
        assert_eq!(view.note_difference(finding(1001, None)).first_place, Some(900));
        assert_eq!(view.note_difference(finding(500, None)).first_place, None, "it is before");
        assert_eq!(view.note_difference(finding(1001, None)).first_place, None);
    }

    #[test]
    fn what_a_reading_no_longer_names_loses_its_rows() {
        let mut view = view(&[100, 200]);
        view.note_cursor(100, &cursor([(100, 1), (200, 2)]), 1);
        let only = RegistryEntry {
            id: 100,
            address: "http://b".into(),
            is_canonical: true,
            public_key: None,
        };
        assert_eq!(view.set_registry(&[only]), [(100, "http://b".to_owned())].into());
        assert_eq!(view.nodes[&100].cursor, Some([(100, 1)].into()));
        view.note_cursor(200, &cursor([(100, 1)]), 1);
        assert_eq!(view.nodes.len(), 1, "a node that left tells nothing");
    }
}
