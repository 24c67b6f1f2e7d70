//! Plans pages of topics: the next envelopes, their order, and the originators that have to wait.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};
use hawser_storage::TopicRow;

use super::error::QueryError;
use super::limits::{BatchLimits, BatchSize};
use super::rows::{Rows, first_unsatisfied};

/// The most rows of one lane that are read at once. Guessed.
const CHUNK_ROWS_MAX: usize = 128;

/// The most rows of all lanes together that are read before the first page. Guessed: a page of
/// everything that has no limit of its own is mostly shorter.
const OPENING_ROWS_MAX: usize = 4096;

/// Rows of a topic that are stepped over before a seek. Guessed: most topics have few rows, and a
/// step is cheaper than a seek.
const STEPS_BEFORE_SEEK: usize = 8;

/// Strands of one topic after which the rows that are read first are halved no more: one is left of 128.
const LATER_LANES: usize = 7;

/// Form of the reader's position. Decides which lanes stop at an envelope that has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cursors {
    /// One cursor over all topics. The originator stops in all of them: otherwise the cursor would
    /// move past an envelope that was not delivered.
    Shared,
    /// One cursor for each topic. The originator stops in that topic alone.
    PerTopic,
}

/// A topic and the place to read it from.
#[derive(Debug, Clone)]
pub(crate) struct PlanTopic {
    pub(crate) topic: Topic,
    /// The reader has everything up to here.
    pub(crate) from: Arc<Cursor>,
    /// Places below `from` after which these originators are read instead: an envelope had to wait
    /// there.
    pub(crate) resume: Arc<[EnvelopeId]>,
}

/// An originator that could not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldOriginator {
    /// The topics, by their places in the plan, in which it has envelopes that wait. Where each topic
    /// has its own cursor this is one, and where they share one the originator stops in all of them.
    pub(crate) topics: Vec<usize>,
    /// The last place that has been delivered or left out.
    pub(crate) after: EnvelopeId,
    /// The chain envelope that it waits for.
    pub(crate) on: EnvelopeId,
}

/// One page of a plan.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlannedPage {
    /// Topics, by their places in the plan, and envelopes, in the order of delivery.
    pub(crate) rows: Vec<(usize, EnvelopeId)>,
    /// The same envelopes, those that came with their rows. The others are in the log.
    pub(crate) envelopes: Vec<Option<Bytes>>,
    /// Bytes of the envelopes on the wire.
    pub(crate) len_bytes: usize,
    /// The plan has reached its ceiling, except for originators that are held.
    pub(crate) finished: bool,
}

impl PlannedPage {
    /// Returns a page without envelopes.
    fn empty(finished: bool) -> Self {
        Self { rows: Vec::new(), envelopes: Vec::new(), len_bytes: 0, finished }
    }

    /// Drops the envelopes that came with their rows, so that the page takes little memory while it waits.
    pub(crate) fn drop_envelopes(&mut self) {
        self.envelopes.fill(None);
    }
}

/// Reads topics up to a ceiling, a page at a time.
///
/// Originators are merged by time, each one ascending over all topics. An envelope of a node goes
/// out when each chain envelope it depends on is covered by the reader's cursor, or lies at or below
/// the ceiling and everything before it in these topics has gone out. If its turn comes earlier, the
/// chain strand goes first. An envelope that depends on one above the ceiling is held.
///
/// Rows are read a few at a time, as pages need them. Between pages the source may be another, later
/// view of the same log. After an error the plan cannot be used any more.
#[derive(Debug)]
pub(crate) struct PagePlan {
    cursors: Cursors,
    topics: Vec<PlanTopic>,
    ceiling: Arc<Cursor>,
    /// Only originators that are resumed are read, up to where the reader is.
    resumed_only: bool,
    /// The entries of the ceiling, ascending.
    ends: Vec<EnvelopeId>,
    /// The number of topics whose beginnings have been read.
    opened: usize,
    lanes: Vec<Lane>,
    strands: BTreeMap<OriginatorId, StrandLanes>,
    held: Vec<HeldOriginator>,
}

/// One originator in one topic.
#[derive(Debug)]
struct Lane {
    topic: usize,
    /// Rows that have been read and have not gone out.
    rows: VecDeque<TopicRow>,
    /// The place to read on from; `None` at the end.
    next: Option<EnvelopeId>,
    /// The number of rows to read then.
    chunk: usize,
}

/// The lanes of one originator that have rows, by the sequence of the first row.
#[derive(Debug, Default)]
struct StrandLanes {
    lanes: BinaryHeap<Reverse<(SequenceId, usize)>>,
}

impl PagePlan {
    /// Plans `topics`. If a topic is named again, only the first one counts.
    pub(crate) fn new(
        cursors: Cursors,
        topics: impl IntoIterator<Item = PlanTopic>,
        ceiling: Arc<Cursor>,
    ) -> Self {
        let mut known = HashSet::new();
        let topics = topics.into_iter().filter(|topic| known.insert(topic.topic.clone())).collect();
        let ends = ceiling.iter().collect();
        Self {
            cursors,
            topics,
            ceiling,
            resumed_only: false,
            ends,
            opened: 0,
            lanes: Vec::new(),
            strands: BTreeMap::new(),
            held: Vec::new(),
        }
    }

    /// Plans only the originators that are resumed, each from its place to where the reader of the
    /// topic is.
    pub(crate) fn of_resumed(
        cursors: Cursors,
        topics: impl IntoIterator<Item = PlanTopic>,
    ) -> Self {
        let topics: Vec<PlanTopic> = topics.into_iter().collect();
        let mut ceiling = Cursor::new();
        for topic in &topics {
            for EnvelopeId { originator, .. } in topic.resume.iter().copied() {
                ceiling.advance(EnvelopeId::new(originator, topic.from.get(originator)));
            }
        }
        Self { resumed_only: true, ..Self::new(cursors, topics, Arc::new(ceiling)) }
    }

    /// Returns the next page. A page that is not finished has at least one envelope.
    pub(crate) fn next_page(
        &mut self,
        rows: &mut impl Rows,
        limits: BatchLimits,
    ) -> Result<PlannedPage, QueryError> {
        self.fill_page(rows, limits, |plan| plan.pick(|_| true))
    }

    /// Returns the next page. No node's strand fills more than half of it while another strand has an
    /// envelope left. So the page is ordered by time within each half only.
    pub(crate) fn next_shared_page(
        &mut self,
        rows: &mut impl Rows,
        limits: BatchLimits,
    ) -> Result<PlannedPage, QueryError> {
        let half = limits.half();
        let mut shares: BTreeMap<OriginatorId, BatchSize> = BTreeMap::new();
        let mut served: BTreeSet<OriginatorId> = BTreeSet::new();
        self.fill_page(rows, limits, |plan| {
            loop {
                let unserved = plan.pick(|originator| !served.contains(&originator));
                let originator = unserved.or_else(|| plan.pick(|_| true))?;
                let is_shared = originator.is_node() && !served.contains(&originator);
                let share = shares.entry(originator).or_default();
                if !is_shared || share.try_add(half, plan.head_len_bytes(originator)) {
                    return Some(originator);
                }
                served.insert(originator);
            }
        })
    }

    /// Fills a page with the first rows of the strands that `next` picks, one after the other.
    fn fill_page(
        &mut self,
        rows: &mut impl Rows,
        limits: BatchLimits,
        mut next: impl FnMut(&Self) -> Option<OriginatorId>,
    ) -> Result<PlannedPage, QueryError> {
        self.open(rows, limits, usize::MAX)?;
        let mut size = BatchSize::default();
        let mut page = PlannedPage::empty(true);
        while let Some(originator) = next(self) {
            if !size.try_add(limits, self.head_len_bytes(originator)) {
                page.finished = false;
                break;
            }
            // One more than there is room for shows if there is more.
            let wanted = size.room(limits).saturating_add(1);
            if let Some((topic, row)) = self.advance(rows, originator, wanted)? {
                page.rows.push((topic, row.id));
                page.envelopes.push(row.envelope);
            }
        }
        page.len_bytes = size.len_bytes();
        Ok(page)
    }

    /// Returns true if most of the page that came last is one node's, and another strand has an
    /// envelope that had no room in it.
    ///
    /// Such a page is better shared: one node may date its envelopes back and so put any number of
    /// them in front, and a reader of single pages would not get to those of the others.
    pub(crate) fn is_crowded(&self, page: &PlannedPage) -> bool {
        let mut counts: BTreeMap<OriginatorId, usize> = BTreeMap::new();
        page.rows.iter().for_each(|(_, id)| *counts.entry(id.originator).or_default() += 1);
        let has_more = |originator: OriginatorId| self.head(originator).is_some();
        let most = counts.into_iter().find(|(_, count)| *count > page.rows.len() / 2);
        most.is_some_and(|(most, _)| {
            let mut others = self.strands.keys().filter(|&&originator| originator != most);
            most.is_node() && !page.finished && others.any(|&originator| has_more(originator))
        })
    }

    /// Does one turn of a plan that takes many: reads the beginnings of up to `topics` topics, or a
    /// page once all have been read. Returns a page without envelopes in between.
    pub(crate) fn next_turn(
        &mut self,
        rows: &mut impl Rows,
        limits: BatchLimits,
        topics: usize,
    ) -> Result<PlannedPage, QueryError> {
        if self.open(rows, limits, topics)? {
            self.next_page(rows, limits)
        } else {
            Ok(PlannedPage::empty(false))
        }
    }

    /// Drops the envelopes of rows that have been read and have not gone out, so that a plan takes little
    /// memory between two pages. All but the first row of a lane are read again.
    pub(crate) fn drop_envelopes(&mut self) {
        for lane in &mut self.lanes {
            lane.drop_envelopes();
        }
    }

    /// Returns the topics as planned.
    pub(crate) fn topics(&self) -> &[PlanTopic] {
        &self.topics
    }

    /// Returns the originators that had to wait so far.
    pub(crate) fn held(&self) -> &[HeldOriginator] {
        &self.held
    }

    /// Returns the heads up to which the plan reads.
    pub(crate) fn ceiling(&self) -> &Arc<Cursor> {
        &self.ceiling
    }

    /// Returns the originator whose turn it is, among those that `may_go`. A chain strand goes
    /// regardless, if an envelope depends on it.
    fn pick(&self, may_go: impl Fn(OriginatorId) -> bool) -> Option<OriginatorId> {
        let (_, originator) = self
            .strands
            .keys()
            .filter(|&&originator| may_go(originator))
            .filter_map(|&originator| Some((self.head(originator)?.originator_ns, originator)))
            .min()?;
        // A chain strand never waits itself, so its turn ends this wait.
        Some(self.pending_chain(originator).unwrap_or(originator))
    }

    fn head_len_bytes(&self, originator: OriginatorId) -> usize {
        self.head(originator).map_or(0, |row| row.len_bytes as usize)
    }

    /// Stops every lane of an originator whose first row waits for an envelope above the ceiling. To
    /// be called when its first row has changed.
    fn hold_what_waits(&mut self, originator: OriginatorId) {
        while let Some(on) = self.unreachable(originator) {
            self.hold(originator, on);
        }
    }

    /// Returns the envelope above the ceiling that the originator's first row waits for.
    fn unreachable(&self, originator: OriginatorId) -> Option<EnvelopeId> {
        let (lane, row) = self.head_lane(originator)?;
        let from = &self.topics[lane.topic].from;
        let reachable = |on| from.covers(on) || self.ceiling.covers(on);
        first_unsatisfied(row.id, &row.depends_on, reachable)
    }

    /// Returns the chain strand that has to go on before the originator's first row may go out.
    fn pending_chain(&self, originator: OriginatorId) -> Option<OriginatorId> {
        let (lane, row) = self.head_lane(originator)?;
        let from = &self.topics[lane.topic].from;
        let is_out = |on: EnvelopeId| {
            from.covers(on)
                || self.head(on.originator).is_none_or(|row| row.id.sequence > on.sequence)
        };
        Some(first_unsatisfied(row.id, &row.depends_on, is_out)?.originator)
    }

    /// Stops the lane whose row comes first, or the whole strand.
    fn hold(&mut self, originator: OriginatorId, on: EnvelopeId) {
        let Some((lane, row)) = self.head_lane(originator) else { return };
        let after = EnvelopeId::new(originator, row.id.sequence.previous());
        let topic = lane.topic;
        let topics = match self.cursors {
            Cursors::Shared => {
                let lanes = self.strands.remove(&originator).unwrap_or_default().lanes;
                lanes.into_iter().map(|Reverse((_, lane))| self.lanes[lane].topic).collect()
            }
            Cursors::PerTopic => {
                if let Some(strand) = self.strands.get_mut(&originator) {
                    strand.lanes.pop();
                }
                vec![topic]
            }
        };
        self.held.push(HeldOriginator { topics, after, on });
    }

    fn head(&self, originator: OriginatorId) -> Option<&TopicRow> {
        self.head_lane(originator).map(|(_, row)| row)
    }

    fn head_lane(&self, originator: OriginatorId) -> Option<(&Lane, &TopicRow)> {
        let Reverse((_, lane)) = self.strands.get(&originator)?.lanes.peek()?;
        let lane = &self.lanes[*lane];
        Some((lane, lane.rows.front()?))
    }

    /// Takes the originator's first row and reads on behind it: up to `wanted` rows, if there is none left.
    fn advance(
        &mut self,
        rows: &mut impl Rows,
        originator: OriginatorId,
        wanted: usize,
    ) -> Result<Option<(usize, TopicRow)>, QueryError> {
        let Some(strand) = self.strands.get_mut(&originator) else { return Ok(None) };
        let Some(Reverse((_, index))) = strand.lanes.pop() else { return Ok(None) };
        let lane = &mut self.lanes[index];
        let taken = lane.rows.pop_front().map(|row| (lane.topic, row));
        if lane.rows.is_empty() {
            let topic = &self.topics[lane.topic].topic;
            let end = if self.resumed_only { &self.topics[lane.topic].from } else { &self.ceiling };
            lane.fill(rows, topic, end.get(originator), wanted)?;
        }
        if let Some(row) = lane.rows.front() {
            strand.lanes.push(Reverse((row.id.sequence, index)));
        }
        if strand.lanes.is_empty() {
            self.strands.remove(&originator);
        } else {
            self.hold_what_waits(originator);
        }
        Ok(taken)
    }

    /// Reads the beginnings of the lanes of up to `topics` topics. Returns true once all have been
    /// read.
    fn open(
        &mut self,
        rows: &mut impl Rows,
        limits: BatchLimits,
        topics: usize,
    ) -> Result<bool, QueryError> {
        let first = self.opened;
        if first == self.topics.len() {
            return Ok(true);
        }
        let share = limits.envelopes.min(OPENING_ROWS_MAX).div_ceil(self.topics.len());
        // The row behind the page shows that there is more, without another seek.
        let chunk = if self.topics.len() == 1 { share + 1 } else { share };
        let chunk = chunk.clamp(1, CHUNK_ROWS_MAX);
        self.opened = first.saturating_add(topics).min(self.topics.len());
        for topic in first..self.opened {
            self.open_topic(rows, topic, chunk)?;
        }
        if self.opened < self.topics.len() {
            return Ok(false);
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            if let Some(row) = lane.rows.front() {
                let strand = self.strands.entry(row.id.originator).or_default();
                strand.lanes.push(Reverse((row.id.sequence, index)));
            }
        }
        let nodes: Vec<OriginatorId> =
            self.strands.keys().copied().filter(|originator| originator.is_node()).collect();
        nodes.into_iter().for_each(|originator| self.hold_what_waits(originator));
        Ok(true)
    }

    fn open_topic(
        &mut self,
        rows: &mut impl Rows,
        topic: usize,
        chunk: usize,
    ) -> Result<(), QueryError> {
        let first_lane = self.lanes.len();
        let mut steps = STEPS_BEFORE_SEEK;
        let mut row = self.seek_strand(rows, topic, 0)?;
        while let Some(found) = row {
            let id = found.id;
            let after_this = self.ends.partition_point(|end| end.originator <= id.originator);
            let (start, end) = (self.start(topic, id.originator), self.end(topic, id.originator));
            row = if id.sequence > end || start >= end {
                self.seek_strand(rows, topic, after_this)?
            } else if id.sequence <= start && steps > 0 {
                steps -= 1;
                rows.next_row()?
            } else if id.sequence <= start {
                rows.seek(&self.topics[topic].topic, EnvelopeId::new(id.originator, start.next()))?
            } else if self.push(first_lane, topic, found, chunk) {
                self.seek_strand(rows, topic, after_this)?
            } else {
                rows.next_row()?
            };
        }
        Ok(())
    }

    /// Returns the first row of `topic` in the strands from the `index`th on.
    fn seek_strand(
        &self,
        rows: &mut impl Rows,
        topic: usize,
        index: usize,
    ) -> Result<Option<TopicRow>, QueryError> {
        for end in &self.ends[index..] {
            let start = self.start(topic, end.originator);
            if start < self.end(topic, end.originator) {
                let from = EnvelopeId::new(end.originator, start.next());
                return rows.seek(&self.topics[topic].topic, from);
            }
        }
        Ok(None)
    }

    /// Puts a row into its lane, among those from `first_lane` on. Returns true if the lane is full
    /// now.
    fn push(&mut self, first_lane: usize, topic: usize, row: TopicRow, chunk: usize) -> bool {
        let id = row.id;
        let fits = self.lanes[first_lane..]
            .last()
            .and_then(|lane| lane.rows.back())
            .is_some_and(|last| last.id.originator == id.originator);
        if !fits {
            // Of several strands in one topic, each later one is likely to have less of the first page.
            let chunk = (chunk >> (self.lanes.len() - first_lane).min(LATER_LANES)).max(1);
            self.lanes.push(Lane { topic, rows: VecDeque::new(), next: None, chunk });
        }
        let lane = self.lanes.last_mut().expect("there is one now");
        lane.rows.push_back(row);
        let full = lane.rows.len() >= lane.chunk;
        if full {
            lane.next = Some(EnvelopeId { sequence: id.sequence.next(), ..id });
        }
        full
    }

    /// Returns the place up to which `originator` is read in `topic`.
    fn end(&self, topic: usize, originator: OriginatorId) -> SequenceId {
        let end = if self.resumed_only { &self.topics[topic].from } else { &self.ceiling };
        end.get(originator)
    }

    /// Returns the place up to which the reader has `originator` in `topic`.
    fn start(&self, topic: usize, originator: OriginatorId) -> SequenceId {
        let topic = &self.topics[topic];
        let resumed = topic.resume.iter().find(|id| id.originator == originator);
        resumed.map_or_else(|| topic.from.get(originator), |id| id.sequence)
    }
}

impl Lane {
    fn drop_envelopes(&mut self) {
        if let Some(second) = self.rows.get(1) {
            self.next = Some(second.id);
            self.rows.truncate(1);
        }
        if let Some(first) = self.rows.front_mut() {
            first.envelope = None;
        }
    }

    /// Reads the next rows, up to `end` and about `wanted` of them. Chunks grow, since a lane that is read
    /// once more is likely to be read to its end.
    fn fill(
        &mut self,
        rows: &mut impl Rows,
        topic: &Topic,
        end: SequenceId,
        wanted: usize,
    ) -> Result<(), QueryError> {
        let Some(from) = self.next.take() else { return Ok(()) };
        self.chunk = (self.chunk * 4).min(CHUNK_ROWS_MAX);
        let chunk = self.chunk.min(wanted.max(1));
        let mut row = rows.seek(topic, from)?;
        while let Some(found) = row {
            if found.id.originator != from.originator || found.id.sequence > end {
                return Ok(());
            }
            let next = EnvelopeId { sequence: found.id.sequence.next(), ..from };
            let ascends = self.rows.back().is_none_or(|last| last.id < found.id);
            debug_assert!(ascends, "rows of a topic ascend within their strand");
            self.rows.push_back(found);
            if self.rows.len() >= chunk {
                self.next = Some(next);
                return Ok(());
            }
            row = rows.next_row()?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
