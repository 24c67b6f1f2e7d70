//! Streams by topic: a changeable set of topics, each on the disk lane or on the live lane.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, Topic};

use super::holds::{HeldLane, Hold, Holds};
use super::outbox::Outbox;
use super::round::{Cause, Merger, Reading, Round};
use super::tail::Tail;
use super::{Read, RoundId, SubscriptionEvent, WaveId};
use crate::committed::Committed;
use crate::read::plan::{Cursors, Plan, PlanTopic};
use crate::read::rows::first_unsatisfied;

/// What a stream of topics still owes its reader.
///
/// Every topic is either live, or in one round of reading from disk. A round reads all its topics
/// up to the heads at its start; what is committed to them meanwhile goes into its tail. When the
/// page that ends it has come, the tail follows and the topics are live. If the tail grew too
/// long, another round begins instead.
///
/// What may cause a round: topics that are added (a wave); the hub's queue overflowed; a chain
/// envelope came for which something had to wait.
#[derive(Debug)]
pub(crate) struct TopicFeed {
    cursors: Cursors,
    topics: HashMap<Topic, State>,
    rounds: BTreeMap<RoundId, Round>,
    holds: Holds,
    /// How far the hub's queue has been emptied, over all topics.
    popped: Cursor,
    /// How far live topics may have gone ahead of that, on disk.
    ahead: Cursor,
    last_round: RoundId,
    /// The round that was read last: rounds take turns, page by page.
    turn: RoundId,
    outbox: Outbox,
}

/// One topic of the stream.
#[derive(Debug)]
struct State {
    /// Done with by way of disk, or before the stream began. Shared by most topics.
    floor: Arc<Cursor>,
    /// The round that reads it; `None` when it is live.
    round: Option<RoundId>,
}

impl TopicFeed {
    /// Reads every topic from its cursor on. Of a topic named again only the first counts.
    pub(crate) fn new(
        cursors: Cursors,
        topics: impl IntoIterator<Item = (Topic, Arc<Cursor>)>,
    ) -> Self {
        let mut feed = Self {
            cursors,
            topics: HashMap::new(),
            rounds: BTreeMap::new(),
            holds: Holds::default(),
            popped: Cursor::new(),
            ahead: Cursor::new(),
            last_round: RoundId(0),
            turn: RoundId(0),
            outbox: Outbox::default(),
        };
        feed.add(WaveId::INITIAL, topics);
        feed
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.keys()
    }

    pub(crate) fn contains(&self, topic: &Topic) -> bool {
        self.topics.contains_key(topic)
    }

    pub(crate) fn has_cursor_per_topic(&self) -> bool {
        self.cursors == Cursors::PerTopic
    }

    /// Adds topics as one wave, leaving out what is there already. The hub knows the listener of
    /// what is new by now. Where topics share a cursor, only at the beginning.
    pub(crate) fn add(
        &mut self,
        wave: WaveId,
        adds: impl IntoIterator<Item = (Topic, Arc<Cursor>)>,
    ) {
        let round = self.next_round();
        let mut topics = Vec::new();
        for (topic, floor) in adds {
            if !self.contains(&topic) {
                self.topics.insert(topic.clone(), State { floor, round: Some(round) });
                topics.push(topic);
            }
        }
        if topics.is_empty() {
            self.outbox.caught_up(wave);
        } else {
            self.start(round, Cause::Wave(wave), topics);
        }
    }

    /// Nothing more of `topic` is delivered. False if it was not there.
    pub(crate) fn remove(&mut self, topic: &Topic) -> bool {
        if self.cursors == Cursors::PerTopic {
            self.holds.take(Some(topic));
        }
        self.topics.remove(topic).is_some()
    }

    pub(super) fn skip_to(&mut self, heads: &Arc<Cursor>) {
        for round in std::mem::take(&mut self.rounds).into_values() {
            round.cause.wave().into_iter().for_each(|wave| self.outbox.caught_up(wave));
        }
        for state in self.topics.values_mut() {
            *state = State { floor: Arc::clone(heads), round: None };
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<SubscriptionEvent> {
        self.outbox.pop()
    }

    pub(super) fn poll_read(&mut self, heads: &Arc<Cursor>) -> Option<Read> {
        let readable = |(id, round): (&RoundId, &Round)| {
            (!matches!(round.reading, Reading::Parked(_))).then_some(*id)
        };
        let after = (Bound::Excluded(self.turn), Bound::Unbounded);
        let next = self.rounds.range(after).find_map(readable);
        let id = next.or_else(|| self.rounds.iter().find_map(readable))?;
        self.turn = id;
        let mut round = self.rounds.remove(&id)?;
        let plan = match round.reading {
            Reading::Paused(plan) => plan,
            _ => Box::new(self.plan(id, &mut round.topics, heads)),
        };
        round.reading = Reading::Page(Arc::clone(plan.ceiling()));
        self.rounds.insert(id, round);
        Some(Read::Topics(id, plan))
    }

    /// Plans what is left of a round's topics, those that had to wait from where they stopped.
    fn plan(&mut self, id: RoundId, topics: &mut Vec<Topic>, heads: &Arc<Cursor>) -> Plan {
        topics.retain(|topic| self.topics.get(topic).is_some_and(|state| state.round == Some(id)));
        let shared = (self.cursors == Cursors::Shared).then(|| self.holds.take(None));
        let planned: Vec<PlanTopic> = topics
            .iter()
            .map(|topic| PlanTopic {
                topic: topic.clone(),
                from: Arc::clone(&self.topics[topic].floor),
                resume: shared.clone().unwrap_or_else(|| self.holds.take(Some(topic))),
            })
            .collect();
        Plan::new(self.cursors, planned, Arc::clone(heads))
    }

    pub(super) fn handle_page(
        &mut self,
        id: RoundId,
        plan: Box<Plan>,
        envelopes: Vec<(usize, EnvelopeId, Bytes)>,
        finished: bool,
    ) {
        let round = self.rounds.get_mut(&id).expect("a round lasts until its last page");
        for (place, _, bytes) in envelopes {
            let state = self.topics.get(&plan.topics()[place].topic);
            if state.is_some_and(|state| state.round == Some(id)) {
                self.outbox.push(round.cause.wave(), bytes);
            }
        }
        if finished {
            self.end_pages(id, &plan);
        } else {
            round.reading = Reading::Paused(plan);
        }
    }

    /// Everything up to the ceiling is done with, except for what is held.
    fn end_pages(&mut self, id: RoundId, plan: &Plan) {
        let mut merger = Merger::new(Arc::clone(plan.ceiling()));
        for planned in plan.topics() {
            if let Some(state) = self.topics.get_mut(&planned.topic)
                && state.round == Some(id)
            {
                state.floor = merger.merge(&state.floor);
            }
        }
        for held in plan.held() {
            let topic = held.topic.map(|place| &plan.topics()[place].topic);
            if topic.is_none_or(|topic| self.is_in(topic, id)) {
                let hold = Hold { after: held.after, on: held.on };
                self.holds.insert((topic.cloned(), held.after.originator), hold);
            }
        }
        if let Some(round) = self.rounds.get_mut(&id) {
            round.reading = Reading::Parked(Arc::clone(plan.ceiling()));
        }
        self.end_round(id);
        let parked: Vec<RoundId> = self.rounds.keys().copied().collect();
        parked.into_iter().for_each(|id| self.end_round(id));
    }

    /// Makes the topics of a parked round live, if that is possible now.
    fn end_round(&mut self, id: RoundId) {
        let Some(mut round) = self.rounds.remove(&id) else { return };
        let Reading::Parked(ceiling) = &round.reading else {
            self.rounds.insert(id, round);
            return;
        };
        if round.tail.is_lost() || !self.joins_in_order(&round, ceiling) {
            round.reading = Reading::NotStarted;
            round.tail = Tail::default();
            self.rounds.insert(id, round);
        } else if self.waits_for_others(&round) {
            self.rounds.insert(id, round);
        } else {
            self.go_live(id, round);
        }
    }

    /// Live topics ascend together, so a wave does not join them while they are behind it,
    fn waits_for_others(&self, round: &Round) -> bool {
        let is_behind = |other: &Round| other.cause == Cause::Overflow;
        round.cause.wave().is_some() && self.rounds.values().any(is_behind)
    }

    /// nor with envelopes that belong before what they have delivered.
    fn joins_in_order(&self, round: &Round, ceiling: &Cursor) -> bool {
        let passed = |id| ceiling.covers(id) || self.popped.covers(id);
        round.cause.wave().is_none() || self.ahead.iter().all(passed)
    }

    fn go_live(&mut self, id: RoundId, round: Round) {
        let wave = round.cause.wave();
        let (items, holds) = round.tail.take();
        for item in &items {
            // A hold of the pages is further behind than those of the tail.
            if self.is_in(&item.topic, id) && !self.holds.contains(&self.lane(item)) {
                self.outbox.push(wave, item.bytes.clone());
            }
        }
        for (lane, hold) in holds {
            if lane.0.as_ref().is_none_or(|topic| self.is_in(topic, id)) {
                self.holds.insert(lane, hold);
            }
        }
        for topic in &round.topics {
            if let Some(state) = self.topics.get_mut(topic)
                && state.round == Some(id)
            {
                // Its share of the tail is at or below what was popped.
                state.round = None;
            }
        }
        if let (Cause::Overflow, Some(ceiling)) = (round.cause, round.reading.ceiling()) {
            self.ahead.merge(ceiling);
        }
        if let Some(wave) = wave {
            self.outbox.caught_up(wave);
        }
    }

    pub(super) fn handle_live(&mut self, items: &[Arc<Committed>]) {
        for item in items {
            self.handle_item(item);
            self.popped.advance(item.id);
        }
    }

    fn handle_item(&mut self, item: &Arc<Committed>) {
        let Some(state) = self.topics.get(&item.topic) else { return };
        let lane = self.lane(item);
        let known = |on| self.popped.covers(on) || state.floor.covers(on);
        let Some(id) = state.round else {
            if state.floor.covers(item.id) || self.holds.contains(&lane) {
                return;
            }
            match first_unsatisfied(item.id, &item.depends_on, known) {
                None => self.outbox.push(None, item.bytes.clone()),
                Some(on) => {
                    let sequence = item.id.sequence.previous();
                    let after = EnvelopeId { sequence, ..item.id };
                    self.holds.insert(lane, Hold { after, on });
                }
            }
            return;
        };
        let kept_bytes = self.kept_bytes();
        let round =
            self.rounds.get_mut(&id).expect("a round lasts as long as its topics are in it");
        let Some(ceiling) = round.reading.ceiling() else { return };
        if ceiling.covers(item.id) || state.floor.covers(item.id) || round.tail.holds(&lane) {
            return;
        }
        let known = |on| known(on) || ceiling.covers(on);
        match first_unsatisfied(item.id, &item.depends_on, known) {
            None => round.tail.push(item, kept_bytes),
            Some(on) => round.tail.hold(lane, item.id, on),
        }
    }

    pub(super) fn handle_overflow(&mut self) {
        for round in self.rounds.values_mut() {
            if round.reading.ceiling().is_some() {
                round.tail.lose();
            }
        }
        let live = self.topics.iter().filter(|(_, state)| state.round.is_none());
        let live = live.map(|(topic, _)| topic.clone()).collect();
        self.read_again(Cause::Overflow, live);
    }

    pub(super) fn waits(&self) -> bool {
        self.holds.waits()
    }

    pub(super) fn handle_heads(&mut self, heads: &Cursor) {
        let ready = self.holds.ready(heads);
        if ready.is_empty() {
            return;
        }
        let mut topics: Vec<Topic> = match self.cursors {
            Cursors::Shared => self.topics.keys().cloned().collect(),
            Cursors::PerTopic => ready.into_iter().filter_map(|(topic, _)| topic).collect(),
        };
        self.restart_parked(&topics);
        // Other rounds that a topic is in begin with what is held, or end by holding it anew.
        topics.retain(|topic| self.topics.get(topic).is_some_and(|state| state.round.is_none()));
        topics.dedup();
        self.read_again(Cause::Chain, topics);
    }

    /// A round that has read what now can go on has to read it again.
    fn restart_parked(&mut self, topics: &[Topic]) {
        for id in topics.iter().filter_map(|topic| self.topics.get(topic)?.round) {
            if let Some(round) = self.rounds.get_mut(&id)
                && matches!(round.reading, Reading::Parked(_))
            {
                round.reading = Reading::NotStarted;
                round.tail = Tail::default();
            }
        }
    }

    /// Moves live topics to the disk lane, from where they are.
    fn read_again(&mut self, cause: Cause, topics: Vec<Topic>) {
        if topics.is_empty() {
            return;
        }
        let id = self.next_round();
        let mut merger = Merger::new(Arc::new(self.popped.clone()));
        for topic in &topics {
            let state = self.topics.get_mut(topic).expect("only topics of this stream are given");
            *state = State { floor: merger.merge(&state.floor), round: Some(id) };
        }
        self.start(id, cause, topics);
    }

    fn start(&mut self, id: RoundId, cause: Cause, topics: Vec<Topic>) {
        let round = Round { cause, topics, reading: Reading::NotStarted, tail: Tail::default() };
        self.rounds.insert(id, round);
    }

    fn next_round(&mut self) -> RoundId {
        self.last_round = RoundId(self.last_round.0 + 1);
        self.last_round
    }

    /// What is put aside in memory until pages have come, as it would be on the wire.
    pub(super) fn kept_bytes(&self) -> usize {
        self.rounds.values().map(|round| round.tail.len_bytes()).sum()
    }

    fn is_in(&self, topic: &Topic, round: RoundId) -> bool {
        self.topics.get(topic).is_some_and(|state| state.round == Some(round))
    }

    fn lane(&self, item: &Committed) -> HeldLane {
        match self.cursors {
            Cursors::Shared => (None, item.id.originator),
            Cursors::PerTopic => (Some(item.topic.clone()), item.id.originator),
        }
    }
}
