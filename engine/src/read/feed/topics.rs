//! Streams by topic: a changeable set of topics, each on the disk lane or on the live lane.

mod live;
mod live_floors;
mod memory;
mod table;
mod topic_state;

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, Topic};

use super::catch_up::{CatchUpCause, CatchUpProgress, CursorMerger, TopicCatchUp};
use super::holds::{HeldLane, Holds, lane_of};
use super::outbox::Outbox;
use super::released::{ReleasedLanes, holds_of};
use super::tail::Tail;
use super::{CatchUpId, Read, SubscriptionEvent, WaveId};
use crate::committed::Committed;
use crate::read::limits::BatchLimits;
use crate::read::page::PageRow;
use crate::read::plan::{Cursors, PagePlan, PlanTopic};
use crate::read::rows::{first_unsatisfied, is_awaited};
use live_floors::LiveFloors;
use table::{TopicTable, topic_of};
use topic_state::{LastCommit, TopicState};

/// Everything that a stream of topics still owes its reader.
///
/// Each topic is live, or in one catch-up from disk. A catch-up reads all its topics up to the heads
/// at its start; envelopes that are committed to them meanwhile go into its tail. After its last
/// page the tail follows, and the topics are live. If the tail has grown too long, another catch-up
/// begins instead.
///
/// Causes of a catch-up: topics are added (a wave), or the hub's queue has overflowed. When a chain envelope
/// arrives for which envelopes had to wait, only those envelopes are read: their topics stay live.
#[derive(Debug)]
pub(crate) struct TopicFeed {
    cursors: Cursors,
    /// Topics that are live or become so, and those of history that is being read.
    topics: TopicTable,
    /// The number of topics of history among them.
    history: usize,
    live_floors: LiveFloors,
    /// True if the reader learns which topics of a wave are live.
    names_topics: bool,
    catch_ups: BTreeMap<CatchUpId, TopicCatchUp>,
    holds: Holds,
    released: ReleasedLanes,
    /// Heads up to which the hub's queue has been emptied, over all topics.
    popped: Cursor,
    /// Heads up to which live topics may have gone ahead of that, on disk.
    ahead: Cursor,
    last_catch_up: CatchUpId,
    /// The catch-up that was read last: catch-ups take turns, page by page.
    turn: CatchUpId,
    outbox: Outbox,
    /// Bounds of all tails together in bytes, and of each one in envelopes.
    queue: BatchLimits,
}

impl TopicFeed {
    /// Creates a stream that reads every topic from its cursor on. If a topic is named again, only
    /// the first one counts.
    pub(crate) fn new(
        cursors: Cursors,
        topics: impl IntoIterator<Item = (Topic, Arc<Cursor>)>,
    ) -> Self {
        let mut feed = Self::empty(cursors);
        feed.add(WaveId::INITIAL, topics);
        feed
    }

    /// Creates a stream without topics. Topics are added later, each with its own cursor. The reader
    /// learns which topics of a wave are live.
    pub(crate) fn changing() -> Self {
        Self { names_topics: true, ..Self::empty(Cursors::PerTopic) }
    }

    fn empty(cursors: Cursors) -> Self {
        Self {
            cursors,
            topics: TopicTable::default(),
            history: 0,
            live_floors: LiveFloors::default(),
            names_topics: false,
            catch_ups: BTreeMap::new(),
            holds: Holds::default(),
            released: ReleasedLanes::new(cursors),
            popped: Cursor::new(),
            ahead: Cursor::new(),
            last_catch_up: CatchUpId::BEGIN,
            turn: CatchUpId::BEGIN,
            outbox: Outbox::default(),
            queue: BatchLimits::QUEUE,
        }
    }

    /// Bounds the tails.
    pub(super) fn bound_tails(&mut self, queue: BatchLimits) {
        self.queue = queue;
    }

    /// Returns the topics of the stream, without topics that are read for their history only.
    pub(crate) fn topics(&self) -> impl Iterator<Item = Topic> {
        let live = self.topics.iter().filter(|(_, state)| !self.is_of_history(state));
        live.map(|(name, _)| topic_of(Bytes::copy_from_slice(name)))
    }

    /// Returns the number of [`topics`](Self::topics).
    pub(crate) fn len(&self) -> usize {
        self.topics.len() - self.history
    }

    /// Returns true if the topic is live in the stream or becomes so.
    pub(crate) fn contains(&self, topic: &Topic) -> bool {
        self.topics.get(topic).is_some_and(|state| !self.is_of_history(state))
    }

    /// Returns true if history of the topic is being read.
    pub(crate) fn reads_history(&self, topic: &Topic) -> bool {
        self.history > 0 && self.topics.get(topic).is_some_and(|state| self.is_of_history(state))
    }

    fn is_of_history(&self, state: &TopicState) -> bool {
        let of = |id: &CatchUpId| self.catch_ups.get(id).map(|catch_up| catch_up.cause);
        self.history > 0
            && matches!(state.catch_up.as_ref().and_then(of), Some(CatchUpCause::History(_)))
    }

    /// Returns the number of topics, including those that are read for their history only.
    pub(crate) fn held_topics(&self) -> usize {
        self.topics.len()
    }

    /// Returns true while topics are read from disk.
    pub(crate) fn is_catching_up(&self) -> bool {
        !self.catch_ups.is_empty()
    }

    /// Returns true if a delivery waits.
    pub(crate) fn has_events(&self) -> bool {
        self.outbox.has_events()
    }

    /// Returns true if each topic has its own cursor.
    pub(crate) fn has_cursor_per_topic(&self) -> bool {
        self.cursors == Cursors::PerTopic
    }

    /// Adds topics as one wave, except those that are there already. The hub has registered the listener of the new
    /// ones by now. If topics share a cursor, they are added only at the beginning.
    pub(crate) fn add(
        &mut self,
        wave: WaveId,
        adds: impl IntoIterator<Item = (Topic, Arc<Cursor>)>,
    ) {
        let catch_up = self.begin(wave, false);
        adds.into_iter().for_each(|(topic, floor)| self.add_to(catch_up, topic, floor));
        self.end(catch_up);
    }

    /// Begins a wave without topics. To be followed by [`add_to`](Self::add_to) for each of its topics
    /// and by [`end`](Self::end), before any other input. Topics of a `history` wave are read up to
    /// the heads and leave then; the hub routes nothing of them here.
    pub(crate) fn begin(&mut self, wave: WaveId, history: bool) -> CatchUpId {
        let id = self.next_catch_up();
        let cause = if history { CatchUpCause::History(wave) } else { CatchUpCause::Wave(wave) };
        self.start(id, cause, Vec::new());
        id
    }

    /// Adds a topic to a wave that has begun, unless it is in the stream.
    pub(crate) fn add_to(&mut self, id: CatchUpId, topic: Topic, floor: Arc<Cursor>) {
        let Some(catch_up) = self.catch_ups.get_mut(&id) else { return };
        let commits = LastCommit::at(floor.get(OriginatorId::GROUP_MESSAGES));
        if self.topics.insert(&topic, TopicState { floor, commits, catch_up: Some(id) }) {
            catch_up.topics.push(topic);
            self.history += usize::from(matches!(catch_up.cause, CatchUpCause::History(_)));
        }
    }

    /// Completes the set of topics of a wave. One without topics has caught up.
    pub(crate) fn end(&mut self, id: CatchUpId) {
        if let btree_map::Entry::Occupied(entry) = self.catch_ups.entry(id)
            && entry.get().topics.is_empty()
        {
            let wave = entry.remove().cause.wave();
            wave.into_iter().for_each(|wave| self.outbox.caught_up(wave));
        }
    }

    /// Removes a topic: nothing more of it is delivered. Returns false if it was not there; a topic of
    /// history stays.
    pub(crate) fn remove(&mut self, topic: &Topic) -> bool {
        if !self.contains(topic) {
            return false;
        }
        if self.cursors == Cursors::PerTopic {
            self.holds.take(Some(topic));
            self.released.remove(topic);
        }
        let was_there = self.topics.remove(topic);
        if self.topics.len() == 0 {
            self.live_floors = LiveFloors::default();
        }
        was_there
    }

    pub(super) fn skip_to(&mut self, heads: &Arc<Cursor>) {
        for catch_up in std::mem::take(&mut self.catch_ups).into_values() {
            catch_up.cause.wave().into_iter().for_each(|wave| self.outbox.caught_up(wave));
        }
        // A reader without a cursor has what came before by other ways.
        let commits = LastCommit::at(heads.get(OriginatorId::GROUP_MESSAGES));
        for state in self.topics.states_mut() {
            *state = TopicState { floor: Arc::clone(heads), commits, catch_up: None };
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<SubscriptionEvent> {
        self.outbox.pop()
    }

    pub(super) fn poll_read(&mut self, heads: &Arc<Cursor>) -> Option<Read> {
        if self.released.is_ready() {
            let id = self.next_catch_up();
            let mut merger = CursorMerger::new(Arc::new(self.popped.clone()));
            let topics = &self.topics;
            self.released.start(id, &mut self.holds, |topic| {
                let state = topics.get(topic).expect("released lanes are of topics of this stream");
                (merger.merge(&state.floor), state.commits.place())
            });
        }
        let readable = |(id, catch_up): (&CatchUpId, &TopicCatchUp)| {
            (!matches!(catch_up.reading, CatchUpProgress::Parked(_))).then_some(*id)
        };
        let after = (Bound::Excluded(self.turn), Bound::Unbounded);
        let next = self.catch_ups.range(after).find_map(readable);
        let next = next.or_else(|| self.catch_ups.iter().find_map(readable));
        // Those after the last one come first.
        let id = next.into_iter().chain(self.released.readable());
        let id = id.min_by_key(|&id| (id <= self.turn, id))?;
        self.turn = id;
        if let Some(plan) = self.released.take_plan(id) {
            return Some(Read::Topics(id, plan));
        }
        let mut catch_up = self.catch_ups.remove(&id)?;
        let plan = match catch_up.reading {
            CatchUpProgress::Paused(plan) => plan,
            _ => Box::new(self.plan(id, &mut catch_up.topics, heads)),
        };
        catch_up.reading = CatchUpProgress::Page(Arc::clone(plan.ceiling()));
        self.catch_ups.insert(id, catch_up);
        Some(Read::Topics(id, plan))
    }

    /// Plans the topics of a catch-up that are still in the stream. Lanes that had to wait are read
    /// from the place where they stopped.
    fn plan(&mut self, id: CatchUpId, topics: &mut Vec<Topic>, heads: &Arc<Cursor>) -> PagePlan {
        topics
            .retain(|topic| self.topics.get(topic).is_some_and(|state| state.catch_up == Some(id)));
        let shared = (self.cursors == Cursors::Shared).then(|| self.holds.take(None));
        let planned: Vec<PlanTopic> = topics
            .iter()
            .map(|topic| {
                let state = self.topics.get(topic).expect("the others have just been left out");
                PlanTopic {
                    topic: topic.clone(),
                    from: Arc::clone(&state.floor),
                    resume: shared.clone().unwrap_or_else(|| self.holds.take(Some(topic))),
                    commits: Some(state.commits.place()),
                }
            })
            .collect();
        PagePlan::new(self.cursors, planned, Arc::clone(heads))
    }

    pub(super) fn handle_page(
        &mut self,
        id: CatchUpId,
        plan: Box<PagePlan>,
        envelopes: Vec<(PageRow, Bytes)>,
        finished: bool,
    ) {
        if self.released.is_reading(id) {
            let (holds, outbox) = (&mut self.holds, &mut self.outbox);
            return self.released.handle_page(plan, envelopes, finished, holds, outbox);
        }
        // A read of released lanes may have been given up since.
        let Some(catch_up) = self.catch_ups.get_mut(&id) else { return };
        for (row, bytes) in envelopes {
            let state = self.topics.get_mut(&plan.topics()[row.topic].topic);
            if let Some(state) = state.filter(|state| state.catch_up == Some(id)) {
                state.note(row.id);
                self.outbox.push_of_topic(catch_up.cause.wave(), row.dated(), bytes);
            }
        }
        if finished {
            self.end_pages(id, &plan);
        } else {
            catch_up.reading = CatchUpProgress::Paused(plan);
        }
    }

    /// Ends the reading: everything up to the ceiling is delivered, except held envelopes.
    fn end_pages(&mut self, id: CatchUpId, plan: &PagePlan) {
        if matches!(self.catch_ups.get(&id), Some(catch_up) if catch_up.is_history()) {
            return self.end_history(id);
        }
        let mut merger = CursorMerger::new(Arc::clone(plan.ceiling()));
        for planned in plan.topics() {
            if let Some(state) = self.topics.get_mut(&planned.topic)
                && state.catch_up == Some(id)
            {
                state.floor = merger.merge(&state.floor);
            }
        }
        self.live_floors.add(plan.ceiling());
        for (lane, hold) in holds_of(self.cursors, plan) {
            if lane.0.as_ref().is_none_or(|topic| self.is_in(topic, id)) {
                self.holds.insert(lane, hold);
            }
        }
        if let Some(catch_up) = self.catch_ups.get_mut(&id) {
            catch_up.reading = CatchUpProgress::Parked(Arc::clone(plan.ceiling()));
        }
        self.end_catch_up(id);
        let parked: Vec<CatchUpId> = self.catch_ups.keys().copied().collect();
        parked.into_iter().for_each(|id| self.end_catch_up(id));
    }

    /// Ends the reading of history. Envelopes that wait for a chain envelope are left out, and the reader's cursor
    /// stays before them.
    fn end_history(&mut self, id: CatchUpId) {
        let Some(catch_up) = self.catch_ups.remove(&id) else { return };
        for topic in &catch_up.topics {
            if self.is_in(topic, id) {
                self.topics.remove(topic);
                self.history -= 1;
            }
        }
        self.report(catch_up.cause, catch_up.topics);
    }

    /// Reports the end of a wave to the reader, with `topics`.
    fn report(&mut self, cause: CatchUpCause, topics: Vec<Topic>) {
        let Some(wave) = cause.wave() else { return };
        if self.names_topics {
            self.outbox.topics_live(wave, topics);
        }
        self.outbox.caught_up(wave);
    }

    /// Makes the topics of a parked catch-up live, if that is possible now.
    fn end_catch_up(&mut self, id: CatchUpId) {
        let Some(mut catch_up) = self.catch_ups.remove(&id) else { return };
        let CatchUpProgress::Parked(ceiling) = &catch_up.reading else {
            self.catch_ups.insert(id, catch_up);
            return;
        };
        if catch_up.tail.is_lost() || !self.joins_in_order(&catch_up, ceiling) {
            catch_up.reading = CatchUpProgress::NotStarted;
            catch_up.tail = Tail::default();
            self.catch_ups.insert(id, catch_up);
        } else if self.waits_for_others(&catch_up) {
            self.catch_ups.insert(id, catch_up);
        } else {
            self.go_live(id, catch_up);
        }
    }

    /// Returns true if a wave has to wait for topics that were live before it. Live topics ascend
    /// together, so the wave does not join them while an overflow has put them behind it.
    fn waits_for_others(&self, catch_up: &TopicCatchUp) -> bool {
        let is_behind = |other: &TopicCatchUp| other.cause == CatchUpCause::Overflow;
        catch_up.cause.wave().is_some() && self.catch_ups.values().any(is_behind)
    }

    /// Returns true if the tail of a wave follows everything that live topics have delivered. They
    /// may have gone ahead on disk, and an originator ascends over all topics of a stream.
    fn joins_in_order(&self, catch_up: &TopicCatchUp, ceiling: &Cursor) -> bool {
        let passed = |id| ceiling.covers(id) || self.popped.covers(id);
        catch_up.cause.wave().is_none() || self.ahead.iter().all(passed)
    }

    fn go_live(&mut self, id: CatchUpId, catch_up: TopicCatchUp) {
        let wave = catch_up.cause.wave();
        let (items, holds) = catch_up.tail.take();
        let to_read = self.deliver_tail(id, wave, &items);
        for (lane, hold) in holds {
            if lane.0.as_ref().is_none_or(|topic| self.is_in(topic, id)) {
                self.holds.insert(lane, hold);
            }
        }
        let mut topics = catch_up.topics;
        topics.retain(|topic| {
            let Some(state) = self.topics.get_mut(topic).filter(|it| it.catch_up == Some(id))
            else {
                return false;
            };
            // No floor is needed for the tail: its envelopes are at or below `popped`.
            state.catch_up = None;
            if self.cursors == Cursors::PerTopic {
                self.released.add(self.holds.free(Some(topic), &self.popped));
            }
            true
        });
        if self.cursors == Cursors::Shared {
            self.released.add(self.holds.free(None, &self.popped));
        }
        self.released.add(to_read);
        if let (CatchUpCause::Overflow, Some(ceiling)) =
            (catch_up.cause, catch_up.reading.ceiling())
        {
            self.ahead.merge(ceiling);
        }
        self.report(catch_up.cause, topics);
    }

    pub(super) fn handle_live(&mut self, items: &[Arc<Committed>]) {
        for item in items {
            self.handle_item(item);
            self.popped.advance(item.id);
        }
        self.release();
    }

    /// Notes that the hub's queue has been emptied of everything up to `reached` in its strand.
    pub(super) fn handle_reached(&mut self, reached: EnvelopeId) {
        self.popped.advance(reached);
        self.release();
    }

    /// Hands over lanes whose chain envelope has arrived. Those of a catch-up follow when they are live.
    fn release(&mut self) {
        for lane in self.holds.ready(&self.popped) {
            let is_live = match &lane.0 {
                Some(topic) => self.topics.get(topic).is_some_and(|it| it.catch_up.is_none()),
                None => self.catch_ups.is_empty(),
            };
            if is_live {
                self.released.add([lane]);
            }
        }
    }

    fn handle_item(&mut self, item: &Arc<Committed>) {
        let Some(state) = self.topics.get(&item.topic) else { return };
        let Some(id) = state.catch_up else { return self.handle_item_of_live(item) };
        let lane = self.lane(item);
        let (kept_bytes, queue) = (self.kept_bytes(), self.queue);
        let catch_up =
            self.catch_ups.get_mut(&id).expect("a catch-up lasts as long as its topics are in it");
        let Some(ceiling) = catch_up.reading.ceiling().filter(|_| !catch_up.is_history()) else {
            return;
        };
        if ceiling.covers(item.id) || state.floor.covers(item.id) {
            return;
        }
        if catch_up.tail.note(&lane, &item.topic) {
            return;
        }
        let is_there = |on| self.popped.covers(on) || state.floor.covers(on) || ceiling.covers(on);
        let has_come = |on| !is_awaited(on) || is_there(on);
        // Only after the last page is it known which envelopes the reader has by then.
        match first_unsatisfied(item.id, &item.depends_on, has_come) {
            None => catch_up.tail.push(item, kept_bytes, queue),
            Some(on) => catch_up.tail.hold(lane, item, on),
        }
    }

    /// Drops what is kept until pages have come. It is read from disk.
    pub(super) fn lose_tails(&mut self) {
        for catch_up in self.catch_ups.values_mut() {
            if catch_up.reading.ceiling().is_some() && !catch_up.is_history() {
                catch_up.tail.lose();
            }
        }
        self.released.lose_tail();
    }

    pub(super) fn handle_overflow(&mut self) {
        self.lose_tails();
        self.released.cancel();
        // In order, so that equal inputs give equal streams.
        let live = self.topics.topics(|state| state.catch_up.is_none());
        self.read_again(CatchUpCause::Overflow, live);
    }

    /// Returns the chain envelopes that lanes wait for: of each strand the lowest.
    pub(super) fn awaited(&self) -> Vec<EnvelopeId> {
        self.holds.awaited()
    }

    /// Moves live topics to disk, from the place where they are.
    fn read_again(&mut self, cause: CatchUpCause, topics: Vec<Topic>) {
        if topics.is_empty() {
            return;
        }
        let id = self.next_catch_up();
        let mut merger = CursorMerger::new(Arc::new(self.popped.clone()));
        for topic in &topics {
            let state = self.topics.get_mut(topic).expect("only topics of this stream are given");
            state.floor = merger.merge(&state.floor);
            state.catch_up = Some(id);
        }
        self.start(id, cause, topics);
    }

    fn start(&mut self, id: CatchUpId, cause: CatchUpCause, topics: Vec<Topic>) {
        let catch_up = TopicCatchUp {
            cause,
            topics,
            reading: CatchUpProgress::NotStarted,
            tail: Tail::default(),
        };
        self.catch_ups.insert(id, catch_up);
    }

    fn next_catch_up(&mut self) -> CatchUpId {
        let is_taken = |id| self.catch_ups.contains_key(&id) || self.released.is_reading(id);
        let mut id = self.last_catch_up.next();
        while is_taken(id) {
            id = id.next();
        }
        self.last_catch_up = id;
        id
    }

    /// Returns the bytes kept in memory until pages have come, as on the wire.
    pub(super) fn kept_bytes(&self) -> usize {
        let tails = self.catch_ups.values().map(|catch_up| catch_up.tail.len_bytes());
        tails.sum::<usize>() + self.released.kept_bytes()
    }

    fn is_in(&self, topic: &Topic, catch_up: CatchUpId) -> bool {
        self.topics.get(topic).is_some_and(|state| state.catch_up == Some(catch_up))
    }

    fn lane(&self, item: &Committed) -> HeldLane {
        lane_of(self.cursors, &item.topic, item.id.originator)
    }
}
