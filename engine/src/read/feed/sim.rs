//! A node that commits continuously, and streams that open, close, lag and change: all in one thread, in an order
//! that a seed decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};
use hawser_storage::TopicRow;

use super::lanes::{LaneStep, WaveAdds};
use super::{Feed, LogFeed, PageRead, Read, SubscriptionEvent, TopicFeed, WaveId};
use crate::committed::Committed;
use crate::read::feed::Interest;
use crate::read::limits::{BatchLimits, BatchSize};
use crate::read::log_page::{LogPage, LogRange};
use crate::read::plan::Cursors;
use crate::read::queue::PopOutcome;
use crate::read::testing::{Dice, MemoryRows, id, topic};
use crate::runtime::Heads;
use crate::runtime::read::awaited::AwaitedPlaces;
use crate::runtime::read::hub::Hub;
use crate::runtime::read::listener::Listener;

pub(super) const TOPICS: u8 = 5;
const STRANDS: [u32; 4] = [0, 1, 100, 200];
/// Envelopes of a page: few, so that most reads take several pages.
const PAGE_ENVELOPES_MAX: usize = 6;

/// Kind of traffic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traffic {
    /// Length of each envelope. Large ones overflow queues soon.
    pub(super) len_bytes: usize,
    /// One envelope in this many depends on a chain envelope; 0 for none.
    pub(super) dependant_one_in: u64,
}

/// The node.
pub(super) struct Node {
    pub(super) traffic: Traffic,
    /// Bytes from which all envelopes are cut; the offset of one identifies it.
    buffer: Bytes,
    by_offset: Vec<Arc<Committed>>,
    rows: MemoryRows,
    /// Heads on disk. Heads that are announced and published follow.
    durable: Cursor,
    pub(super) heads: Heads,
    pub(super) hub: Hub,
    unpublished: BTreeMap<OriginatorId, VecDeque<Arc<Committed>>>,
    missing: Vec<EnvelopeId>,
    /// Envelopes that were found late: streams may deliver them or not.
    pub(super) late: BTreeSet<EnvelopeId>,
}

impl Node {
    pub(super) fn new(traffic: Traffic) -> Self {
        Self {
            traffic,
            buffer: vec![0; traffic.len_bytes + 100_000].into(),
            by_offset: Vec::new(),
            rows: MemoryRows::default(),
            durable: Cursor::new(),
            heads: Heads::new(Cursor::new()),
            hub: Hub::new(),
            unpublished: BTreeMap::new(),
            missing: Vec::new(),
            late: BTreeSet::new(),
        }
    }

    pub(super) fn all(&self) -> &[Arc<Committed>] {
        &self.by_offset
    }

    /// Returns the id of the envelope that these bytes are.
    fn known(&self, bytes: &Bytes) -> Arc<Committed> {
        let offset = bytes.as_ptr() as usize - self.buffer.as_ptr() as usize;
        Arc::clone(&self.by_offset[offset])
    }

    fn make(&mut self, dice: &mut Dice, id: EnvelopeId, may_depend: bool) -> Arc<Committed> {
        let offset = self.by_offset.len();
        let waits = |it: &&Arc<Committed>| it.depends_on.contains(&id);
        let waiting = self.by_offset.iter().rev().take(64).find(waits).map(|it| it.topic.clone());
        let any = topic(u8::try_from(dice.below(u64::from(TOPICS))).expect("few"));
        // A commit for which messages wait is mostly one of their group.
        let of = waiting.filter(|_| !dice.chance(4)).unwrap_or(any);
        let one_in = self.traffic.dependant_one_in;
        let depends_on = if may_depend && one_in > 0 && dice.chance(one_in) {
            let chain = OriginatorId(*dice.pick(&[0, 0, 0, 1]));
            // Mostly an existing place; sometimes one that is being written, or that never exists.
            let near = self.durable.get(chain).0 + 1 - dice.below(4).min(self.durable.get(chain).0);
            let ahead = if dice.chance(4) { dice.below(4) } else { 0 };
            let on = EnvelopeId::new(chain, SequenceId(near + ahead));
            // Mostly one of the same topic, as members of a group do it.
            let is_own =
                |it: &&Arc<Committed>| it.topic == of && it.id.originator == chain && it.id <= on;
            let own = self.by_offset.iter().rev().find(is_own).map(|it| it.id);
            vec![own.filter(|_| ahead == 0 && !dice.chance(4)).unwrap_or(on)]
        } else {
            Vec::new()
        };
        let committed = Arc::new(Committed {
            id,
            topic: of,
            originator_ns: i64::try_from(offset as u64 * 10 + dice.below(40)).expect("small"),
            depends_on,
            bytes: self.buffer.slice(offset..offset + self.traffic.len_bytes),
        });
        self.by_offset.push(Arc::clone(&committed));
        let row = TopicRow {
            id,
            originator_ns: committed.originator_ns,
            len_bytes: u32::try_from(self.traffic.len_bytes).expect("small"),
            depends_on: committed.depends_on.clone(),
            envelope: None,
        };
        self.rows.insert(committed.topic.clone(), row);
        committed
    }

    /// Appends to a strand on disk. The place is announced later.
    pub(super) fn commit(&mut self, dice: &mut Dice) {
        let originator = OriginatorId(*dice.pick(&STRANDS));
        for _ in 0..=dice.below(4) {
            let id = EnvelopeId::new(originator, self.durable.get(originator).next());
            if dice.chance(16) {
                self.missing.push(id);
            } else {
                let committed = self.make(dice, id, true);
                self.unpublished.entry(originator).or_default().push_back(committed);
            }
            self.durable.advance(id);
        }
    }

    pub(super) fn announce(&mut self, dice: &mut Dice) {
        let originator = OriginatorId(*dice.pick(&STRANDS));
        self.heads.announce(EnvelopeId::new(originator, self.durable.get(originator)));
    }

    /// Hands the hub some of the announced envelopes of one strand.
    pub(super) fn publish(&mut self, dice: &mut Dice) {
        let originator = OriginatorId(*dice.pick(&STRANDS));
        let heads = self.heads.get();
        let waiting = self.unpublished.entry(originator).or_default();
        let announced = waiting.iter().take_while(|item| heads.covers(item.id)).count();
        let count = announced.min(1 + dice.index(8));
        let batch: Vec<Arc<Committed>> = waiting.drain(..count).collect();
        // Missing places behind the last envelope are reached with it.
        let next = waiting.front().map(|item| item.id.sequence.previous());
        let reached = next.unwrap_or(heads.get(originator)).min(heads.get(originator));
        self.hub.publish(&batch, &[EnvelopeId::new(originator, reached)].into_iter().collect());
    }

    /// Finds an envelope that was marked missing; it is then handled like all others.
    pub(super) fn find(&mut self, dice: &mut Dice) {
        if self.missing.is_empty() || !self.heads.get().covers(self.missing[0]) {
            return;
        }
        let id = self.missing.remove(0);
        let waiting = self.unpublished.get(&id.originator);
        if waiting.and_then(VecDeque::front).is_some_and(|next| next.id < id) {
            return; // the committer of this strand has other things to do first
        }
        let found = self.make(dice, id, false);
        self.late.insert(id);
        self.hub.publish(&[found], &Cursor::new());
    }

    /// Announces and publishes everything on disk.
    pub(super) fn settle(&mut self) {
        for head in self.durable.iter() {
            self.heads.announce(head);
        }
        for waiting in self.unpublished.values_mut() {
            self.hub.publish(waiting.make_contiguous(), &Cursor::new());
            waiting.clear();
        }
        self.hub.publish(&[], &self.durable);
    }

    fn read_log(&self, ranges: &[LogRange], limits: BatchLimits) -> LogPage {
        let wanted = |item: &Arc<Committed>| {
            ranges.iter().any(|range| {
                let (after, through) = (range.after, range.through);
                let id = item.id;
                id.originator == after.originator && id > after && id.sequence <= through
            })
        };
        let durable = |item: &Arc<Committed>| self.durable.covers(item.id);
        let mut items: Vec<&Arc<Committed>> =
            self.by_offset.iter().filter(|item| wanted(item) && durable(item)).collect();
        items.sort_by_key(|item| item.id);
        let mut taken = BatchSize::default();
        let count = items.iter().take_while(|item| taken.try_add(limits, item.bytes.len())).count();
        let finished = count == items.len();
        let envelopes = items[..count].iter().map(|item| (item.id, item.bytes.clone())).collect();
        // As for a strand without skipped places.
        LogPage { envelopes, batches: Vec::new(), reached: Cursor::new(), finished }
    }
}

/// Topics or originators that a reader reads, and its cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Shared(BTreeSet<Topic>, Option<Cursor>),
    PerTopic(BTreeMap<Topic, Cursor>),
    Log(Option<BTreeSet<OriginatorId>>, Option<Cursor>),
}

/// One stream, driven by hand.
pub(super) struct Stream {
    pub(super) name: usize,
    pub(super) kind: Kind,
    feed: Feed,
    listener: Arc<Listener>,
    awaited: AwaitedPlaces,
    reading: Option<Read>,
    /// Deliveries in order since the stream began.
    pub(super) delivered: Vec<(Option<WaveId>, Arc<Committed>)>,
    /// The heads when each of them was delivered.
    pub(super) heads_then: Vec<Arc<Cursor>>,
    pub(super) caught_up: Vec<WaveId>,
    pub(super) waves: u64,
    pub(super) overflows: usize,
    /// Number of deliveries each time a topic was added later.
    pub(super) added_at: BTreeMap<Topic, Vec<usize>>,
    /// The heads when it was added last.
    pub(super) heads_at: BTreeMap<Topic, Arc<Cursor>>,
    /// Waves of history, which are independent of the other waves.
    pub(super) history: BTreeMap<WaveId, History>,
    /// The steps of a stream with a cursor per topic.
    pub(super) steps: Vec<LaneStep>,
}

/// A wave of history.
pub(super) struct History {
    pub(super) topics: BTreeMap<Topic, Cursor>,
    /// The heads when it began.
    pub(super) heads: Arc<Cursor>,
    pub(super) delivered: Vec<Arc<Committed>>,
    pub(super) is_complete: bool,
}

impl Stream {
    pub(super) fn open(name: usize, mut kind: Kind, node: &Node) -> Self {
        let feed = match &kind {
            Kind::Shared(topics, from) => {
                let from = Arc::new(from.clone().unwrap_or_default());
                let topics = topics.iter().map(|topic| (topic.clone(), Arc::clone(&from)));
                Feed::Topics(Box::new(TopicFeed::new(Cursors::Shared, topics)))
            }
            Kind::PerTopic(topics) => {
                let topics =
                    topics.iter().map(|(topic, from)| (topic.clone(), Arc::new(from.clone())));
                let mut feed = TopicFeed::changing();
                feed.add(WaveId::INITIAL, topics);
                Feed::Topics(Box::new(feed))
            }
            Kind::Log(wanted, from) => {
                Feed::Log(Box::new(LogFeed::new(wanted.clone(), from.clone().unwrap_or_default())))
            }
        };
        let listener = node.hub.listener();
        for interest in feed.interests() {
            node.hub.listen(interest, &listener);
        }
        let mut stream = Self {
            name,
            feed,
            listener,
            awaited: AwaitedPlaces::default(),
            reading: None,
            delivered: Vec::new(),
            heads_then: Vec::new(),
            caught_up: Vec::new(),
            waves: 1,
            overflows: 0,
            added_at: BTreeMap::new(),
            heads_at: BTreeMap::new(),
            history: BTreeMap::new(),
            steps: Vec::new(),
            kind: kind.clone(),
        };
        if let Kind::PerTopic(topics) = &kind {
            let adds = topics.iter().map(|(topic, from)| (topic.clone(), from.clone())).collect();
            stream.begun(WaveId::INITIAL, adds, false, node);
        }
        if let Kind::Shared(_, from @ None) | Kind::Log(_, from @ None) = &mut kind {
            stream.feed.skip_to(&node.heads.get());
            *from = Some(Cursor::clone(&node.heads.get()));
        }
        stream.kind = kind;
        stream
    }

    fn begun(&mut self, wave: WaveId, adds: Vec<(Topic, Cursor)>, history_only: bool, node: &Node) {
        let begun = WaveAdds { adds, history_only, heads: node.heads.get() };
        self.steps.push(LaneStep::Begun(wave, begun));
    }

    pub(super) fn close(&self, node: &Node) {
        for interest in self.feed.interests() {
            node.hub.unlisten(&interest, &self.listener);
        }
        self.awaited.leave(&node.hub, &self.listener);
    }

    /// Delivers everything that is ready. Returns true if there was anything.
    pub(super) fn drain(&mut self, node: &Node) -> bool {
        let mut progress = false;
        while let Some(event) = self.feed.poll_event() {
            progress = true;
            match event {
                SubscriptionEvent::CaughtUp(wave) => {
                    self.steps.push(LaneStep::CaughtUp(wave));
                    match self.history.get_mut(&wave) {
                        Some(history) => history.is_complete = true,
                        None => self.caught_up.push(wave),
                    }
                }
                SubscriptionEvent::TopicsLive { wave, topics } => {
                    self.steps.push(LaneStep::Live(wave, topics));
                }
                SubscriptionEvent::Entries { .. } => unreachable!("no page here is made of them"),
                SubscriptionEvent::Envelopes { wave, envelopes } => {
                    assert!(
                        !envelopes.is_empty() && envelopes.len() <= BatchLimits::STREAM.envelopes
                    );
                    let items = envelopes.iter().map(|bytes| node.known(bytes));
                    self.steps.extend(items.map(|item| LaneStep::Envelope(wave, item)));
                    if let Some(history) = wave.and_then(|wave| self.history.get_mut(&wave)) {
                        assert!(!history.is_complete, "nothing comes after the end of a wave");
                        history.delivered.extend(envelopes.iter().map(|bytes| node.known(bytes)));
                        continue;
                    }
                    for bytes in &envelopes {
                        self.delivered.push((wave, node.known(bytes)));
                        self.heads_then.push(node.heads.get());
                    }
                }
            }
        }
        progress
    }

    /// Does one step that a driver may do next. Returns true if there was one.
    pub(super) fn step(&mut self, node: &mut Node, dice: &mut Dice) -> bool {
        if self.drain(node) {
            return true;
        }
        self.awaited.update(&self.feed, &node.hub, &self.listener);
        match dice.below(3) {
            0 => self.pop(node, dice) || self.read(node, dice),
            _ => self.read(node, dice) || self.pop(node, dice),
        }
    }

    fn read(&mut self, node: &mut Node, dice: &mut Dice) -> bool {
        let Some(read) = self.reading.take() else {
            self.reading = self.feed.poll_read(&node.heads.get());
            return self.reading.is_some();
        };
        let limits =
            BatchLimits { envelopes: 1 + dice.index(PAGE_ENVELOPES_MAX), ..BatchLimits::STREAM };
        let page = match read {
            Read::Log(ranges) => PageRead::Log(node.read_log(&ranges, limits)),
            Read::Topics(catch_up, mut plan) => {
                let topics = 1 + dice.index(3);
                let page = plan.next_turn(&mut node.rows, limits, topics);
                let mut page = page.expect("memory does not fail");
                plan.leave_out_strays(&mut page, |of, at| Ok(node.rows.owner_of(of, at)))
                    .expect("memory does not fail");
                let bytes = |id| {
                    let found = node.by_offset.iter().find(|item| item.id == id);
                    found.expect("rows have envelopes").bytes.clone()
                };
                let envelopes = page.rows.iter().map(|&row| (row, bytes(row.id))).collect();
                PageRead::Topics { catch_up, plan, envelopes, finished: page.finished }
            }
        };
        self.feed.handle_page(page);
        true
    }

    fn pop(&mut self, node: &Node, dice: &mut Dice) -> bool {
        assert!(self.listener.len_bytes() <= BatchLimits::QUEUE.len_bytes, "queues are bounded");
        match self.listener.pop(BatchLimits { envelopes: 1 + dice.index(9), ..BatchLimits::STREAM })
        {
            PopOutcome::Overflowed => {
                self.overflows += 1;
                self.feed.handle_overflow();
                self.awaited.ask_again(&node.hub, &self.listener);
                true
            }
            PopOutcome::Items(items, reached) => {
                self.feed.handle_live(&items);
                let progress = !items.is_empty() || !reached.is_empty();
                reached.into_iter().for_each(|place| self.feed.handle_reached(place));
                progress
            }
        }
    }

    /// Adds and removes topics of a stream with a cursor per topic.
    pub(super) fn change(&mut self, node: &Node, adds: Vec<(Topic, Cursor)>, removes: &[Topic]) {
        self.drain(node);
        let (Feed::Topics(feed), Kind::PerTopic(topics)) = (&mut self.feed, &mut self.kind) else {
            return;
        };
        for topic in removes {
            if feed.remove(topic) {
                node.hub.unlisten(&Interest::Topic(topic.clone()), &self.listener);
                topics.remove(topic);
                self.steps.push(LaneStep::Removed(topic.clone()));
            }
        }
        let mut fresh = Vec::new();
        for (topic, from) in adds {
            if !topics.contains_key(&topic) && !feed.reads_history(&topic) {
                node.hub.listen(Interest::Topic(topic.clone()), &self.listener);
                let added = self.added_at.entry(topic.clone()).or_default();
                added.push(self.delivered.len());
                self.heads_at.insert(topic.clone(), node.heads.get());
                topics.insert(topic.clone(), from.clone());
                fresh.push((topic, Arc::new(from)));
            }
        }
        let adds = fresh.iter().map(|(topic, from)| (topic.clone(), Cursor::clone(from))).collect();
        let wave = WaveId(self.waves);
        feed.add(wave, fresh);
        self.begun(wave, adds, false, node);
        self.waves += 1;
    }

    /// Reads the history of topics that are not in the stream.
    pub(super) fn read_history(&mut self, node: &Node, adds: Vec<(Topic, Cursor)>) {
        self.drain(node);
        let Feed::Topics(feed) = &mut self.feed else { return };
        let is_free = |(topic, _): &(Topic, _)| !feed.contains(topic) && !feed.reads_history(topic);
        let topics: BTreeMap<Topic, Cursor> = adds.into_iter().filter(is_free).collect();
        // Numbered far from the other waves.
        let wave = WaveId(1_000_000 + self.history.len() as u64);
        let begun = feed.begin(wave, true);
        for (topic, from) in &topics {
            feed.add_to(begun, topic.clone(), Arc::new(from.clone()));
        }
        feed.end(begun);
        let adds = topics.iter().map(|(topic, from)| (topic.clone(), from.clone())).collect();
        self.begun(wave, adds, true, node);
        let (heads, delivered) = (node.heads.get(), Vec::new());
        self.history.insert(wave, History { topics, heads, delivered, is_complete: false });
    }

    /// Returns the number of deliveries when `topic` was added last.
    pub(super) fn added(&self, topic: &Topic) -> usize {
        self.added_at.get(topic).and_then(|added| added.last()).copied().unwrap_or(0)
    }

    /// Returns the number of waves after the first that brought more than one page.
    pub(super) fn paged_waves(&self) -> usize {
        let mut counts: BTreeMap<WaveId, usize> = BTreeMap::new();
        for wave in self.delivered.iter().filter_map(|(wave, _)| *wave) {
            *counts.entry(wave).or_default() += 1;
        }
        let is_paged = |(wave, count): &(&WaveId, &usize)| {
            **wave > WaveId::INITIAL && **count > PAGE_ENVELOPES_MAX
        };
        counts.iter().filter(is_paged).count()
    }

    /// Returns the bytes kept for later deliveries.
    pub(super) fn kept_bytes(&self) -> usize {
        match &self.feed {
            Feed::Topics(feed) => feed.kept_bytes() + self.listener.len_bytes(),
            Feed::Log(feed) => feed.kept_bytes() + self.listener.len_bytes(),
        }
    }
}

/// Returns a random non-empty set of topics.
pub(super) fn some_topics(dice: &mut Dice) -> BTreeSet<Topic> {
    let first = topic(u8::try_from(dice.below(u64::from(TOPICS))).expect("few"));
    (0..TOPICS).filter(|_| dice.chance(2)).map(topic).chain([first]).collect()
}

/// Returns a cursor within the existing places, sometimes beyond them.
pub(super) fn some_cursor(node: &Node, dice: &mut Dice) -> Cursor {
    let heads = node.heads.get();
    let mut cursor = Cursor::new();
    for strand in STRANDS {
        let head = heads.get(OriginatorId(strand)).0;
        let beyond = if dice.chance(10) { 8 } else { 1 };
        if dice.chance(2) {
            cursor.advance(id(strand, dice.below(head + beyond)));
        }
    }
    cursor
}
