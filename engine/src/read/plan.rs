//! Plans pages of topics: the next envelopes, their order, and the originators that have to wait.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};
use hawser_storage::TopicRow;

use super::error::ReadError;
use super::limits::{BatchLimits, BatchSize};
use super::rows::{Rows, first_unsatisfied};

/// The most rows of one lane that are read at once. Guessed.
const CHUNK_ROWS_MAX: usize = 128;

/// Rows of a topic that are stepped over before a seek. Guessed: most topics have few rows, and a
/// step is cheaper than a seek.
const STEPS_BEFORE_SEEK: usize = 8;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldOriginator {
    /// The topic, by its place in the plan; `None`: in all of them.
    pub(crate) topic: Option<usize>,
    /// The last place that has been delivered or left out.
    pub(crate) after: EnvelopeId,
    /// The chain envelope that it waits for.
    pub(crate) on: EnvelopeId,
}

/// One page of a plan.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Topics, by their places in the plan, and envelopes, in the order of delivery.
    pub(crate) rows: Vec<(usize, EnvelopeId)>,
    /// The plan has reached its ceiling, except for originators that are held.
    pub(crate) finished: bool,
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
pub(crate) struct Plan {
    cursors: Cursors,
    topics: Vec<PlanTopic>,
    ceiling: Arc<Cursor>,
    /// The entries of the ceiling, ascending.
    ends: Vec<EnvelopeId>,
    opened: bool,
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

impl Plan {
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
            ends,
            opened: false,
            lanes: Vec::new(),
            strands: BTreeMap::new(),
            held: Vec::new(),
        }
    }

    /// Returns the next page. A page that is not finished has at least one envelope.
    pub(crate) fn next_page(
        &mut self,
        rows: &mut impl Rows,
        limits: BatchLimits,
    ) -> Result<Page, ReadError> {
        self.open(rows, limits)?;
        let mut size = BatchSize::default();
        let mut page = Vec::new();
        while let Some(originator) = self.pick() {
            let len_bytes = self.head(originator).map_or(0, |row| row.len_bytes as usize);
            if !size.try_add(limits, len_bytes) {
                return Ok(Page { rows: page, finished: false });
            }
            page.extend(self.advance(rows, originator)?);
        }
        Ok(Page { rows: page, finished: true })
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

    /// Returns the originator whose turn it is.
    fn pick(&mut self) -> Option<OriginatorId> {
        self.hold_what_waits();
        let (_, originator) = self
            .strands
            .keys()
            .filter_map(|&originator| Some((self.head(originator)?.originator_ns, originator)))
            .min()?;
        // A chain strand never waits itself, so its turn ends this wait.
        Some(self.pending_chain(originator).unwrap_or(originator))
    }

    /// Stops every lane whose first row waits for an envelope above the ceiling.
    fn hold_what_waits(&mut self) {
        let originators: Vec<OriginatorId> =
            self.strands.keys().copied().filter(|originator| originator.is_node()).collect();
        for originator in originators {
            while let Some(on) = self.unreachable(originator) {
                self.hold(originator, on);
            }
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
        match self.cursors {
            Cursors::Shared => {
                self.held.push(HeldOriginator { topic: None, after, on });
                self.strands.remove(&originator);
            }
            Cursors::PerTopic => {
                self.held.push(HeldOriginator { topic: Some(topic), after, on });
                if let Some(strand) = self.strands.get_mut(&originator) {
                    strand.lanes.pop();
                }
            }
        }
    }

    fn head(&self, originator: OriginatorId) -> Option<&TopicRow> {
        self.head_lane(originator).map(|(_, row)| row)
    }

    fn head_lane(&self, originator: OriginatorId) -> Option<(&Lane, &TopicRow)> {
        let Reverse((_, lane)) = self.strands.get(&originator)?.lanes.peek()?;
        let lane = &self.lanes[*lane];
        Some((lane, lane.rows.front()?))
    }

    /// Takes the originator's first row and reads on behind it.
    fn advance(
        &mut self,
        rows: &mut impl Rows,
        originator: OriginatorId,
    ) -> Result<Option<(usize, EnvelopeId)>, ReadError> {
        let Some(strand) = self.strands.get_mut(&originator) else { return Ok(None) };
        let Some(Reverse((_, index))) = strand.lanes.pop() else { return Ok(None) };
        let lane = &mut self.lanes[index];
        let taken = lane.rows.pop_front().map(|row| (lane.topic, row.id));
        if lane.rows.is_empty() {
            let topic = &self.topics[lane.topic].topic;
            lane.fill(rows, topic, self.ceiling.get(originator))?;
        }
        if let Some(row) = lane.rows.front() {
            strand.lanes.push(Reverse((row.id.sequence, index)));
        }
        Ok(taken)
    }

    /// Reads the beginnings of all lanes.
    fn open(&mut self, rows: &mut impl Rows, limits: BatchLimits) -> Result<(), ReadError> {
        if self.opened {
            return Ok(());
        }
        self.opened = true;
        let chunk = limits.envelopes.div_ceil(self.topics.len().max(1)).clamp(1, CHUNK_ROWS_MAX);
        for topic in 0..self.topics.len() {
            self.open_topic(rows, topic, chunk)?;
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            if let Some(row) = lane.rows.front() {
                let strand = self.strands.entry(row.id.originator).or_default();
                strand.lanes.push(Reverse((row.id.sequence, index)));
            }
        }
        Ok(())
    }

    fn open_topic(
        &mut self,
        rows: &mut impl Rows,
        topic: usize,
        chunk: usize,
    ) -> Result<(), ReadError> {
        let first_lane = self.lanes.len();
        let mut steps = STEPS_BEFORE_SEEK;
        let mut row = self.seek_strand(rows, topic, 0)?;
        while let Some(found) = row {
            let id = found.id;
            let after_this = self.ends.partition_point(|end| end.originator <= id.originator);
            let (start, end) = (self.start(topic, id.originator), self.ceiling.get(id.originator));
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
    ) -> Result<Option<TopicRow>, ReadError> {
        for end in &self.ends[index..] {
            let start = self.start(topic, end.originator);
            if start < end.sequence {
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
            self.lanes.push(Lane { topic, rows: VecDeque::new(), next: None, chunk });
        }
        let lane = self.lanes.last_mut().expect("there is one now");
        lane.rows.push_back(row);
        let full = lane.rows.len() >= chunk;
        if full {
            lane.next = Some(EnvelopeId { sequence: id.sequence.next(), ..id });
        }
        full
    }

    /// Returns the place up to which the reader has `originator` in `topic`.
    fn start(&self, topic: usize, originator: OriginatorId) -> SequenceId {
        let topic = &self.topics[topic];
        let resumed = topic.resume.iter().find(|id| id.originator == originator);
        resumed.map_or_else(|| topic.from.get(originator), |id| id.sequence)
    }
}

impl Lane {
    /// Reads the next rows, up to `end`. Chunks grow, since a lane that is read once more is likely to
    /// be read to its end.
    fn fill(
        &mut self,
        rows: &mut impl Rows,
        topic: &Topic,
        end: SequenceId,
    ) -> Result<(), ReadError> {
        let Some(from) = self.next.take() else { return Ok(()) };
        self.chunk = (self.chunk * 4).min(CHUNK_ROWS_MAX);
        let mut row = rows.seek(topic, from)?;
        while let Some(found) = row {
            if found.id.originator != from.originator || found.id.sequence > end {
                return Ok(());
            }
            let next = EnvelopeId { sequence: found.id.sequence.next(), ..from };
            let ascends = self.rows.back().is_none_or(|last| last.id < found.id);
            debug_assert!(ascends, "rows of a topic ascend within their strand");
            self.rows.push_back(found);
            if self.rows.len() >= self.chunk {
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
