//! Nodes that answer as the reference implementation does: what they hold goes out as messages of the network's API,
//! with habits that the seed says, and followers read it with the decoders of `net`.
//!
//! The storage of such a node is not simulated: it follows the others as every node here does.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hawser_engine::misbehavior::is_evidence;
use hawser_engine::replication::{RequestId, StrandItem, Want, WantResponse};
use hawser_net::read_strand;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{Change, LogItem, SkipReason, UsageRow, Validity};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::members::{LIAR, members};
use super::running::own_entry;
use super::strands::Version;
use super::wire::Path;
use super::world::{Faults, Sim};
use crate::harness::envelopes::payer;
use crate::harness::scripted_peer::{oddly, originators_message};
use crate::harness::seed::rng;

/// The nodes that answer so. The first one has taken over the strands of the older network.
const REFERENCE: [OriginatorId; 2] = [LIAR, OriginatorId(400)];

/// A habit of the reference implementation that the protocol allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReferenceHabit {
    /// Sends some envelopes again.
    Repeats,
    /// Writes the outer layer with its fields in reverse order, and an unknown one.
    OddOuterForm,
    /// Sends messages without envelopes, with an arm and without one.
    KeepAlives,
    /// Ends streams by itself.
    EndsStreams,
    /// Has left out places of other nodes' strands for good.
    Drops,
    /// Orders envelopes that break a rule which it does not know, and some that only it decodes.
    KnowsFewerRules,
    /// Signs some envelopes an hour or two days after it has dated them, and computes their expiry then.
    SignsLate,
}

impl ReferenceHabit {
    /// All habits.
    pub const ALL: [Self; 7] = [
        Self::Repeats,
        Self::OddOuterForm,
        Self::KeepAlives,
        Self::EndsStreams,
        Self::Drops,
        Self::KnowsFewerRules,
        Self::SignsLate,
    ];
}

/// The habits of each node of the reference.
pub(super) type ReferenceHabits = BTreeMap<OriginatorId, BTreeSet<ReferenceHabit>>;

impl Sim {
    /// Five nodes, of which 300 and 400 answer as the reference implementation does. All are honest.
    #[must_use]
    pub fn beside_reference(seed: u64, faults: Faults) -> Self {
        let mut sim = Self::of(seed, faults, members(5));
        let mut chance = rng(seed, 12);
        let mut habits = || -> BTreeSet<ReferenceHabit> {
            ReferenceHabit::ALL.into_iter().filter(|_| chance.random()).collect()
        };
        sim.reference = REFERENCE.map(|node| (node, habits())).into();
        let (now, all) = (sim.now, sim.members.clone());
        for id in all {
            let node = sim.node(id);
            // All evidence would be against an honest node, or a strand without one.
            node.keeps_evidence = true;
            node.follow_older(LIAR, now);
        }
        sim
    }

    /// Returns the habits that some node has.
    #[must_use]
    pub fn habits(&self) -> BTreeSet<ReferenceHabit> {
        self.reference.values().flatten().copied().collect()
    }

    /// Lets node 300 take over an envelope of the older network at each of these places. The others stay empty.
    pub fn take_over(&mut self, originator: OriginatorId, places: &[u64]) {
        for &place in places {
            let (from, place) = (self.nodes[&LIAR].head(originator).next(), SequenceId(place));
            let reason = SkipReason::Missing;
            let skip = Change::Skip { originator, from, through: place.previous(), reason };
            let skip = (from < place).then_some(skip);
            let entry = Change::Append(own_entry(originator, place, Version::True));
            let changes: Vec<_> = skip.into_iter().chain([entry]).collect();
            self.node(LIAR).store.commit(&changes).unwrap();
        }
        self.wake_streams(LIAR, originator);
    }

    /// Asserts that every node holds the strands of the older network as node 300 does.
    ///
    /// # Panics
    /// Panics if a node does not.
    pub fn assert_older_strands(&self) {
        for originator in OriginatorId::MIGRATED {
            let wanted = self.held(LIAR, originator);
            for &node in &self.members {
                assert_eq!(self.held(node, originator), wanted, "{node}: {originator}");
            }
        }
    }

    /// Returns true if a node proves its id to its followers. One that is followed over gRPC does not.
    pub(super) fn proves_its_id(&self, node: OriginatorId) -> bool {
        !self.reference.contains_key(&node)
    }

    /// Returns what a node orders at a place of its own strand.
    pub(super) fn own_version(&self, node: OriginatorId, place: SequenceId) -> Version {
        if let Some(tens) = self.dated.get(&(node, place)) {
            return Version::Dated(*tens);
        }
        let habits = self.reference.get(&node).filter(|_| node.is_node());
        let has = |habit| habits.is_some_and(|it| it.contains(&habit));
        let is_lax = has(ReferenceHabit::KnowsFewerRules);
        let is_late = has(ReferenceHabit::SignsLate);
        match place.0 % 8 {
            3 if is_lax => Version::Commit,
            5 if is_lax => Version::Odd,
            6 if is_late => Version::SignedLate,
            7 if is_late => Version::KeptTooLong,
            _ => Version::True,
        }
    }

    /// Asserts that all nodes have booked the same for every strand, and all of the strands of the reference, as its
    /// nodes do. Returns the number of envelopes that these have ordered against a rule.
    ///
    /// # Panics
    /// When one has not.
    pub fn assert_equal_bills(&mut self) -> usize {
        self.assert_equal_tallies();
        let node = &self.nodes[&self.honest()[0]];
        let marked = |originator: OriginatorId| {
            let items = node.log(originator, SequenceId::NONE);
            let is_held = |item: &LogItem| matches!(item, LogItem::Envelope { .. });
            let held = items.iter().filter(|item| is_held(item)).count() as u64;
            let mut booked = 0;
            let add = |about: OriginatorId, _: u32, row: UsageRow| {
                booked += if about == originator { row.messages } else { 0 };
            };
            node.store.snapshot().usage_of_payer(payer(3).public_key().address(), add).unwrap();
            assert_eq!(booked, held, "envelopes of {originator}");
            let is_marked = |item: &LogItem| {
                matches!(item, LogItem::Envelope { validity: Validity::Invalid(_), .. })
            };
            let is_guilt = |item: &LogItem| match item {
                LogItem::Envelope { bytes, validity: Validity::Invalid(rule), .. } => {
                    rule.0 == 9 && is_evidence(*rule, bytes)
                }
                _ => false,
            };
            assert!(!items.iter().any(is_guilt), "a late expiry is evidence against {originator}");
            items.iter().filter(|item| is_marked(item)).count()
        };
        REFERENCE.into_iter().map(marked).sum()
    }

    /// Returns the last place of a strand that a node shows.
    pub(super) fn shown_head(&self, server: OriginatorId, originator: OriginatorId) -> SequenceId {
        if !self.reference.contains_key(&server) {
            return self.nodes[&server].verified_head(originator);
        }
        let shown = self.shown(server, originator, SequenceId::NONE);
        shown.last().map_or(SequenceId::NONE, |(place, _)| *place)
    }

    /// Returns the envelopes behind a place that a node of the reference shows.
    fn shown(
        &self,
        server: OriginatorId,
        originator: OriginatorId,
        after: SequenceId,
    ) -> Vec<(SequenceId, Bytes)> {
        let drops = self.reference[&server].contains(&ReferenceHabit::Drops);
        let is_dropped = |place: SequenceId| {
            drops && originator.is_node() && originator != server && place.0 % 7 == 4
        };
        let items = self.nodes[&server].log(originator, after).into_iter();
        let envelope = |item| match item {
            LogItem::Envelope { id, bytes, .. } if !is_dropped(id.sequence) => {
                Some((id.sequence, bytes))
            }
            _ => None,
        };
        items.filter_map(envelope).collect()
    }

    /// Sends the next few envelopes as messages, read as a follower over gRPC reads them.
    ///
    /// # Panics
    /// Panics if a follower takes a habit for a broken rule.
    pub(super) fn serve_as_reference(
        &mut self,
        path: Path,
        originator: OriginatorId,
        request: RequestId,
    ) {
        let Some(stream) = self.connections[&path].streams.get(&originator) else { return };
        if stream.request != request {
            return; // a later want has taken its place
        }
        let (want, position) = (stream.want, stream.position);
        let behind = self.shown(path.server, originator, position);
        let page = behind.len().min(self.rng.random_range(1..8));
        let is_whole = page == behind.len();
        let reached = behind[..page].last().map_or(position, |(place, _)| *place);
        let before = self.shown(path.server, originator, SequenceId::NONE);
        let before = before.into_iter().rfind(|(place, _)| *place <= position);
        let habits = self.reference[&path.server].clone();
        let page = behind.into_iter().take(page).map(|(_, bytes)| bytes).collect();
        let messages = messages(&habits, before.map(|(_, bytes)| bytes), page, &mut self.rng);
        let rest = Want { after: position, ..want };
        let (mut items, read) = read_strand(rest, self.now, self.now_ns(), messages);
        assert_eq!(read, Ok(()), "{}: {habits:?}", path.server);
        let is_answered = want.up_to().is_some_and(|up_to| is_whole || reached >= up_to);
        let ends = habits.contains(&ReferenceHabit::EndsStreams)
            && want.up_to().is_none()
            && !items.is_empty()
            && self.one_in(4);
        if is_answered {
            items.push(StrandItem::End);
        } else if ends {
            items.push(StrandItem::Closed);
        }
        self.send(path, originator, WantResponse { peer: path.server, request, items });
        let stream = self.connection(path).streams.get_mut(&originator).expect("it was there");
        stream.position = reached;
        stream.is_idle = is_whole;
        if is_answered || ends {
            self.connection(path).streams.remove(&originator);
        } else if !is_whole {
            self.plan_serving(path, originator, request);
        }
    }
}

/// A keep-alive with an arm, and one without.
const KEEP_ALIVES: [&[u8]; 2] = [&[0x0a, 0], &[]];

/// Returns a page as messages of a stream.
fn messages(
    habits: &BTreeSet<ReferenceHabit>,
    before: Option<Bytes>,
    page: Vec<Bytes>,
    rng: &mut StdRng,
) -> Vec<Bytes> {
    let has = |habit| habits.contains(&habit);
    let mut messages = Vec::new();
    let mut last = before;
    for envelope in page {
        if has(ReferenceHabit::KeepAlives) && rng.random() {
            let keep_alive = KEEP_ALIVES[rng.random_range(0..KEEP_ALIVES.len())];
            messages.push(Bytes::from_static(keep_alive));
        }
        let mut envelopes = Vec::new();
        if has(ReferenceHabit::Repeats) && rng.random() {
            envelopes.extend(last);
        }
        envelopes.push(envelope.clone());
        last = Some(envelope);
        if has(ReferenceHabit::OddOuterForm) {
            envelopes.iter_mut().for_each(|it| *it = oddly(it));
        }
        messages.push(originators_message(envelopes).into());
    }
    messages
}
