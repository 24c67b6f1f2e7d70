//! Lanes whose chain envelope has arrived: each is read from disk separately, and then continues live.
//!
//! The rest of the stream keeps its position. So the end of a wait costs a seek for each topic that waited,
//! independently of the stream's other topics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};

use super::CatchUpId;
use super::holds::{HeldLane, Hold, Holds, lane_of};
use super::outbox::Outbox;
use super::tail::Tail;
use crate::committed::{Committed, with_own_name};
use crate::read::limits::BatchLimits;
use crate::read::page::PageRow;
use crate::read::plan::{Cursors, PagePlan, PlanTopic};
use crate::read::rows::first_unsatisfied;

/// Released lanes of a stream. Those of one read go together; the others wait for the next one.
///
/// Invariant: every lane here is live but for its hold, which stays in [`Holds`] until the lane has
/// been read.
#[derive(Debug)]
pub(super) struct ReleasedLanes {
    cursors: Cursors,
    ready: BTreeSet<HeldLane>,
    reading: Option<LaneRead>,
}

/// Lanes that are read together.
#[derive(Debug)]
struct LaneRead {
    id: CatchUpId,
    /// The lanes, and the places up to which they are read.
    lanes: BTreeMap<HeldLane, EnvelopeId>,
    /// `None` while a page is being read.
    plan: Option<Box<PagePlan>>,
    /// Envelopes of these lanes that were popped since the start.
    tail: Tail,
}

impl ReleasedLanes {
    pub(super) fn new(cursors: Cursors) -> Self {
        Self { cursors, ready: BTreeSet::new(), reading: None }
    }

    /// Takes lanes in that are to be read on.
    pub(super) fn add(&mut self, lanes: impl IntoIterator<Item = HeldLane>) {
        self.ready.extend(lanes);
    }

    /// Returns true if lanes are to be read and no read is under way.
    pub(super) fn is_ready(&self) -> bool {
        self.reading.is_none() && !self.ready.is_empty()
    }

    /// Plans a read of the lanes that are ready. `passed` returns the place up to which a topic's envelopes
    /// were delivered, except for held ones, and the last commit that the reader has.
    pub(super) fn start(
        &mut self,
        id: CatchUpId,
        holds: &mut Holds,
        mut passed: impl FnMut(&Topic) -> (Arc<Cursor>, SequenceId),
    ) {
        let mut lanes = BTreeMap::new();
        let mut planned: BTreeMap<Topic, (Arc<Cursor>, SequenceId, Vec<EnvelopeId>)> =
            BTreeMap::new();
        for lane in std::mem::take(&mut self.ready) {
            let Some((after, topics)) = holds.begin(&lane) else { continue };
            let mut through = after;
            for topic in topics.into_iter().chain(lane.0.clone()) {
                let begin = || {
                    let (from, commits) = passed(&topic);
                    (from, commits, Vec::new())
                };
                let (from, _, resume) = planned.entry(topic.clone()).or_insert_with(begin);
                through.sequence = through.sequence.max(from.get(lane.1));
                resume.push(after);
            }
            lanes.insert(lane, through);
        }
        let planned = planned.into_iter().map(|(topic, (from, commits, resume))| PlanTopic {
            topic,
            from,
            resume: resume.into(),
            commits: Some(commits),
        });
        let plan = Some(Box::new(PagePlan::of_resumed(self.cursors, planned)));
        self.reading = Some(LaneRead { id, lanes, plan, tail: Tail::default() });
    }

    /// Returns the name of the read, if its next page can be read.
    pub(super) fn readable(&self) -> Option<CatchUpId> {
        self.reading.as_ref().filter(|read| read.plan.is_some()).map(|read| read.id)
    }

    /// Takes out the plan of the read that is called `id`.
    pub(super) fn take_plan(&mut self, id: CatchUpId) -> Option<Box<PagePlan>> {
        self.reading.as_mut().filter(|read| read.id == id)?.plan.take()
    }

    /// Returns true if the page of `id` belongs to the read that is under way.
    pub(super) fn is_reading(&self, id: CatchUpId) -> bool {
        self.reading.as_ref().is_some_and(|read| read.id == id)
    }

    /// Keeps an envelope whose lane is being read. Does nothing for other lanes: their envelopes are
    /// on disk when their read starts. One that depends on a place which `has_come`, and which its reader does not
    /// have, may be a stray: then the lane is read on from disk, where that is decided.
    pub(super) fn keep(
        &mut self,
        lane: HeldLane,
        item: &Arc<Committed>,
        kept_bytes: usize,
        limits: BatchLimits,
        known: impl Fn(EnvelopeId) -> bool,
        has_come: impl Fn(EnvelopeId) -> bool,
    ) {
        let Some(read) = self.reading.as_mut().filter(|it| it.lanes.contains_key(&lane)) else {
            return;
        };
        if read.tail.note(&lane, &item.topic) {
            return;
        }
        match first_unsatisfied(item.id, &item.depends_on, known) {
            None => read.tail.push(item, kept_bytes, limits),
            Some(on) if has_come(on) => read.tail.lose(),
            Some(on) => read.tail.hold(lane, item, on),
        }
    }

    /// Takes a page of the read that is under way.
    pub(super) fn handle_page(
        &mut self,
        plan: Box<PagePlan>,
        envelopes: Vec<(PageRow, Bytes)>,
        finished: bool,
        holds: &mut Holds,
        outbox: &mut Outbox,
    ) {
        let Some(read) = &mut self.reading else { return };
        for (row, bytes) in envelopes {
            let topic = &plan.topics()[row.topic].topic;
            let lane = lane_of(self.cursors, topic, row.id.originator);
            if read.lanes.contains_key(&lane) {
                outbox.push_of_topic(None, row.dated(), bytes);
                holds.advance(&lane, row.id);
            }
        }
        if !finished {
            read.plan = Some(plan);
        } else if let Some(read) = self.reading.take() {
            self.end(read, &plan, holds, outbox);
        }
    }

    /// Ends a read: its lanes go on live, unless they have stopped again or too much has come.
    fn end(&mut self, mut read: LaneRead, plan: &PagePlan, holds: &mut Holds, outbox: &mut Outbox) {
        for (lane, hold) in holds_of(self.cursors, plan) {
            if read.lanes.remove(&lane).is_some() {
                holds.stop_again(lane, hold);
            }
        }
        if read.tail.is_lost() {
            read.lanes.iter().for_each(|(lane, through)| holds.advance(lane, *through));
            self.add(read.lanes.into_keys());
            return;
        }
        let (items, mut stopped) = read.tail.take();
        for item in items {
            if read.lanes.contains_key(&lane_of(self.cursors, &item.topic, item.id.originator)) {
                outbox.push_of_topic(None, item.dated(), item.bytes.clone());
            }
        }
        for lane in read.lanes.into_keys() {
            match stopped.remove(&lane) {
                Some(hold) => holds.stop_again(lane, hold),
                None => _ = holds.remove(&lane),
            }
        }
    }

    /// Cancels all reads, because the topics are read completely from disk. Pages still on their way
    /// then belong to no read.
    pub(super) fn cancel(&mut self) {
        self.ready.clear();
        self.reading = None;
    }

    /// Drops what is kept for the lanes that are being read. They are read on from disk.
    pub(super) fn lose_tail(&mut self) {
        if let Some(read) = &mut self.reading {
            read.tail.lose();
        }
    }

    /// Forgets the lanes of a topic that has left the stream.
    pub(super) fn remove(&mut self, topic: &Topic) {
        let first = (Some(topic.clone()), OriginatorId(0));
        let last = (Some(topic.clone()), OriginatorId(u32::MAX));
        let lanes = first..=last;
        let gone: Vec<HeldLane> = self.ready.range(lanes.clone()).cloned().collect();
        gone.iter().for_each(|lane| _ = self.ready.remove(lane));
        if let Some(read) = &mut self.reading {
            let gone: Vec<HeldLane> =
                read.lanes.range(lanes).map(|(lane, _)| lane.clone()).collect();
            gone.iter().for_each(|lane| _ = read.lanes.remove(lane));
        }
    }

    /// Returns the bytes kept in memory until pages have come, as on the wire.
    pub(super) fn kept_bytes(&self) -> usize {
        self.reading.as_ref().map_or(0, |read| read.tail.len_bytes())
    }
}

/// Returns the lanes that had to wait in a plan. They have [names of their own](with_own_name): those of a plan share
/// one buffer.
pub(super) fn holds_of(cursors: Cursors, plan: &PagePlan) -> Vec<(HeldLane, Hold)> {
    let held = plan.held().iter().filter_map(|held| {
        let topic = |&place: &usize| with_own_name(&plan.topics()[place].topic);
        let lane = lane_of(cursors, &topic(held.topics.first()?), held.after.originator);
        let topics = match cursors {
            Cursors::Shared => held.topics.iter().map(topic).collect(),
            Cursors::PerTopic => BTreeSet::new(),
        };
        Some((lane, Hold { after: held.after, on: held.on, topics }))
    });
    held.collect()
}
