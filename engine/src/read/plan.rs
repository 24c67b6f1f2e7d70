//! Plans pages of topics: the next envelopes, their order, and the originators that have to wait.

mod log_order;
mod strays;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};
use hawser_storage::TopicRow;
#[cfg(feature = "faults")]
use hawser_storage::faults::{self, SeededFault};

use super::error::QueryError;
use super::lane::{CHUNK_ROWS_MAX, LANE_BYTES, Lane, LaneTable, StrandLanes};
use super::limits::{BatchLimits, BatchSize};
use super::log_page::LogRange;
use super::memory::{HeldMemory, ReadMemory};
use super::page::{Filling, PlannedPage, Shares};
use super::rows::{Rows, first_unsatisfied, is_awaited};

/// The maximum number of rows of all lanes together that are read before the first page. A guess: a page of everything
/// without a limit is mostly shorter.
const OPENING_ROWS_MAX: usize = 4096;

/// Rows of a topic that are stepped over before a seek. Guessed: most topics have few rows, and a
/// step is cheaper than a seek.
const STEPS_BEFORE_SEEK: usize = 8;

/// Topics from which they are looked for in the order of the index. A guess: fewer are looked up in less time than a
/// message takes.
pub(crate) const SORTED_TOPICS_MIN: usize = 500;

/// Strands of one topic after which the rows that are read first are halved no more: one is left of 128.
const LATER_LANES: usize = 7;

/// Memory that a plan takes for a topic, in bytes. Counted from the types, with room to spare.
const TOPIC_BYTES: usize = 160;
/// Memory that a plan takes for a commit that it leaves out, in bytes. Counted from the types, with room to spare.
const LEFT_OUT_BYTES: usize = 96;

/// Form of the reader's position. Decides which lanes stop at an envelope that has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cursors {
    /// The reader has one cursor over all topics. The originator stops in all of them: otherwise the cursor would move
    /// past an envelope that was not delivered.
    Shared,
    /// The reader has a cursor for each topic. The originator stops in that topic alone.
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
    /// The last commit that the reader has, if `from` is not the reader's own cursor: that of a stream also covers what
    /// was there when its topics were read.
    pub(crate) commits: Option<SequenceId>,
}

/// An originator whose next envelope has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldOriginator {
    /// The topics whose envelopes wait, as places in the plan. This is one topic if each topic has its own cursor. If
    /// topics share a cursor, the originator stops in all of them.
    pub(crate) topics: Vec<usize>,
    /// The last place that has been delivered or left out.
    pub(crate) after: EnvelopeId,
    /// The chain envelope that it waits for.
    pub(crate) on: EnvelopeId,
}

/// Progress of a plan in the order of the log, before the beginnings of its topics are read.
#[derive(Debug)]
enum LogOrder {
    /// Nothing has been read.
    Untried,
    /// The rest of each strand, and the number of turns that have found nothing.
    Searching(Vec<LogRange>, usize),
    /// The rest of each strand.
    Reading(Vec<LogRange>),
    /// The plan goes on with the topic index.
    Over,
}

/// Reads topics up to a ceiling, a page at a time.
///
/// Originators are merged by time, each one ascending over all topics. An envelope of a node is
/// delivered when, for each chain envelope that it depends on, the reader's cursor covers it, or it
/// is at or below the ceiling and everything before it in these topics has been delivered. If the
/// node's envelope is due earlier by its time, the chain strand goes first. An envelope that depends
/// on one above the ceiling is held.
///
/// Rows are read a few at a time, as pages need them. Between pages the source may be another, later
/// view of the same log. After an error the plan cannot be used again.
#[derive(Debug)]
pub(crate) struct PagePlan {
    cursors: Cursors,
    topics: Vec<PlanTopic>,
    ceiling: Arc<Cursor>,
    /// Only originators that are resumed are read, up to where the reader is.
    resumed_only: bool,
    /// The entries of the ceiling, ascending.
    ends: Vec<EnvelopeId>,
    log_order: LogOrder,
    /// Everything up to here has gone out in the order of the log, and is not read again.
    out: Cursor,
    /// The number of topics whose beginnings have been read.
    opened: usize,
    lanes: LaneTable,
    strands: BTreeMap<OriginatorId, StrandLanes>,
    held: Vec<HeldOriginator>,
    /// The commits of the present page that a query does not show, each with the place of its topic in the plan.
    left_out: BTreeSet<(usize, EnvelopeId)>,
    /// The charge for its lanes, if the reader is charged for them between turns.
    charge: Option<HeldMemory>,
    /// The number of times that a charge was refused since envelopes went out.
    refusals: u32,
}

impl PagePlan {
    /// Plans `topics`. If a topic is named again, only the first one counts.
    pub(crate) fn new(
        cursors: Cursors,
        topics: impl IntoIterator<Item = PlanTopic>,
        ceiling: Arc<Cursor>,
    ) -> Self {
        let mut known = HashSet::new();
        let mut topics: Vec<PlanTopic> =
            topics.into_iter().filter(|topic| known.insert(topic.topic.clone())).collect();
        if topics.len() > SORTED_TOPICS_MIN {
            // In the order of the index, so that a seek finds what the last one has brought into memory.
            topics.sort_unstable_by(|a, b| in_index(&a.topic, &b.topic));
        }
        let ends = ceiling.iter().collect();
        Self {
            cursors,
            topics,
            ceiling,
            resumed_only: false,
            ends,
            log_order: LogOrder::Untried,
            out: Cursor::new(),
            opened: 0,
            lanes: LaneTable::new(usize::MAX),
            strands: BTreeMap::new(),
            held: Vec::new(),
            left_out: BTreeSet::new(),
            charge: None,
            refusals: 0,
        }
    }

    /// Plans a single page of at most `envelopes`, with one cursor over all topics. Its memory does not grow with
    /// the envelopes of the topics beyond that page.
    pub(crate) fn of_one_page(
        topics: impl IntoIterator<Item = PlanTopic>,
        ceiling: Arc<Cursor>,
        envelopes: usize,
    ) -> Self {
        // One further row shows if there is a next page.
        let lanes = LaneTable::new(envelopes.saturating_add(1));
        Self { lanes, ..Self::new(Cursors::Shared, topics, ceiling) }
    }

    /// Starts over with the same topics, after what has gone out in the order of the log.
    pub(crate) fn restart(&mut self) {
        self.opened = 0;
        self.lanes.clear();
        self.strands.clear();
        self.held.clear();
        self.charge = None;
    }

    /// Returns true if the beginnings of all topics have been read. From then on only the places on which first rows of
    /// lanes depend take more memory.
    pub(crate) fn is_open(&self) -> bool {
        self.opened == self.topics.len()
    }

    /// Charges its lanes to the reader until it is dropped or restarted.
    ///
    /// # Errors
    /// The bytes of the lanes, if the reader may not have them now. The charge is then as before.
    pub(crate) fn charge(&mut self, memory: &Arc<dyn ReadMemory>) -> Result<(), usize> {
        let bytes = self.lanes_bytes();
        let charge = self.charge.get_or_insert_with(|| HeldMemory::new(Arc::clone(memory)));
        charge.hold(bytes).map_err(|_| {
            self.refusals = self.refusals.saturating_add(1);
            bytes
        })
    }

    /// Returns the number of times that a charge was refused since envelopes went out.
    pub(crate) fn refusals(&self) -> u32 {
        self.refusals
    }

    /// Records that envelopes go out.
    pub(crate) fn note_going_out(&mut self) {
        self.refusals = 0;
    }

    /// Returns an estimate of the memory of its lanes, in bytes, without the envelopes that came with their rows.
    /// Visits all lanes.
    pub(crate) fn lanes_bytes(&self) -> usize {
        self.lanes.held_bytes()
    }

    /// Returns an estimate of the plan's memory, in bytes, without the envelopes that came with its rows, for a page
    /// that is planned in many turns: by the number of its lanes, because a look at all of them in each turn would cost
    /// as much as the turn.
    pub(crate) fn held_bytes(&self) -> usize {
        self.topics.len() * TOPIC_BYTES
            + self.lanes.len() * LANE_BYTES
            + self.left_out.len() * LEFT_OUT_BYTES
    }

    /// Returns the bytes of the envelopes that came with its rows.
    #[cfg(test)]
    pub(crate) fn beside_bytes(&self) -> usize {
        let rows = self.lanes.lanes.iter().flat_map(|lane| &lane.rows);
        rows.filter(|row| row.envelope.is_some()).map(|row| row.len_bytes as usize).sum()
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
        let mut filling = Filling::default();
        self.fill(rows, limits, &mut filling, usize::MAX)?;
        Ok(filling.into_page())
    }

    /// Goes on with a page until it is full, the plan is at its end, or about `work` rows were looked at. Returns
    /// true if the page is complete.
    pub(crate) fn fill(
        &mut self,
        rows: &mut impl Rows,
        limits: BatchLimits,
        filling: &mut Filling,
        work: usize,
    ) -> Result<bool, QueryError> {
        let before = rows.looked_at();
        if !self.open(rows, limits, work)? {
            return Ok(false);
        }
        while let Some(originator) = self.next_originator(filling.shares.as_mut(), limits) {
            if !filling.size.try_add(limits, self.head_len_bytes(originator)) {
                return Ok(true);
            }
            if let Some((topic, row)) = self.advance(rows, originator, filling.wanted(limits))? {
                filling.push(topic, row);
            }
            if rows.looked_at() - before >= work {
                return Ok(false);
            }
        }
        filling.finished = true;
        Ok(true)
    }

    /// Returns the originator whose envelope comes next in a page. If the page has shares, an originator whose
    /// envelopes fill half of it waits for the others.
    fn next_originator(
        &self,
        shares: Option<&mut Shares>,
        limits: BatchLimits,
    ) -> Option<OriginatorId> {
        let Some(Shares { sizes, served }) = shares else { return self.pick(|_| true) };
        loop {
            let unserved = self.pick(|originator| !served.contains(&originator));
            let originator = unserved.or_else(|| self.pick(|_| true))?;
            let is_shared = originator.is_node() && !served.contains(&originator);
            let share: &mut BatchSize = sizes.entry(originator).or_default();
            if !is_shared || share.try_add(limits.half(), self.head_len_bytes(originator)) {
                return Some(originator);
            }
            served.insert(originator);
        }
    }

    /// Returns true if most of the page that came last is one node's, and another strand has an
    /// envelope that had no room in it.
    ///
    /// Such a page is better shared: one node may date its envelopes back and so put any number of
    /// them in front, and a reader of single pages would not get to those of the others.
    pub(crate) fn is_crowded(&self, page: &PlannedPage) -> bool {
        let mut counts: BTreeMap<OriginatorId, usize> = BTreeMap::new();
        page.rows.iter().for_each(|row| *counts.entry(row.id.originator).or_default() += 1);
        let has_more = |originator: OriginatorId| self.head(originator).is_some();
        let most = counts.into_iter().find(|(_, count)| *count > page.rows.len() / 2);
        most.is_some_and(|(most, _)| {
            let mut others = self.strands.keys().filter(|&&originator| originator != most);
            most.is_node() && !page.finished && others.any(|&originator| has_more(originator))
        })
    }

    /// Does one turn of a plan that takes many: reads the beginnings of topics, until about `work` rows were looked
    /// at, or a page once all have been read. Returns a page without envelopes in between.
    pub(crate) fn next_turn(
        &mut self,
        rows: &mut impl Rows,
        limits: BatchLimits,
        work: usize,
    ) -> Result<PlannedPage, QueryError> {
        if self.open(rows, limits, work)? {
            self.next_page(rows, limits)
        } else {
            Ok(PlannedPage::empty(false))
        }
    }

    /// Drops the envelopes of rows that were read and not sent, so that a plan takes little memory between
    /// two pages. The next page reads all rows of a lane again, except for the first one.
    pub(crate) fn drop_envelopes(&mut self) {
        for lane in &mut self.lanes.lanes {
            lane.drop_envelopes();
        }
    }

    /// Returns the topics as planned.
    pub(crate) fn topics(&self) -> &[PlanTopic] {
        &self.topics
    }

    /// Returns the topic of the envelope that comes next: behind a page that is full, the first one without room there.
    pub(crate) fn next_topic(&self) -> Option<&Topic> {
        let (lane, _) = self.head_lane(self.pick(|_| true)?)?;
        Some(&self.topics[lane.topic].topic)
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
            .iter()
            .filter(|&(&originator, _)| may_go(originator))
            .filter_map(|(&originator, strand)| {
                let (_, row) = self.head_of(strand)?;
                Some((row.originator_ns, originator))
            })
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
        let reachable = |on| !is_awaited(on) || from.covers(on) || self.ceiling.covers(on);
        first_unsatisfied(row.id, &row.depends_on, reachable)
    }

    /// Returns the chain strand that has to advance before the originator's first row may be sent.
    fn pending_chain(&self, originator: OriginatorId) -> Option<OriginatorId> {
        let (lane, row) = self.head_lane(originator)?;
        let from = &self.topics[lane.topic].from;
        let is_out = |on: EnvelopeId| {
            from.covers(on)
                || self.head(on.originator).is_none_or(|row| row.id.sequence > on.sequence)
        };
        Some(first_unsatisfied(row.id, &row.depends_on, is_out)?.originator)
    }

    /// Stops the lane whose row comes first, or the whole strand. The plan does not read on there, and keeps no row.
    fn hold(&mut self, originator: OriginatorId, on: EnvelopeId) {
        let Some((lane, row)) = self.head_lane(originator) else { return };
        let after = EnvelopeId::new(originator, row.id.sequence.previous());
        let topic = lane.topic;
        let topics = match self.cursors {
            Cursors::Shared => {
                let lanes = self.strands.remove(&originator).unwrap_or_default().lanes;
                let stop = |Reverse((_, lane)): Reverse<(SequenceId, usize)>| {
                    self.lanes.lanes[lane].clear();
                    self.lanes.lanes[lane].topic
                };
                lanes.into_iter().map(stop).collect()
            }
            Cursors::PerTopic => {
                let strand = self.strands.get_mut(&originator);
                if let Some(Reverse((_, lane))) = strand.and_then(|strand| strand.lanes.pop()) {
                    self.lanes.lanes[lane].clear();
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
        self.head_of(self.strands.get(&originator)?)
    }

    fn head_of(&self, strand: &StrandLanes) -> Option<(&Lane, &TopicRow)> {
        let Reverse((_, lane)) = strand.lanes.peek()?;
        let lane = &self.lanes.lanes[*lane];
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
        let lane = &mut self.lanes.lanes[index];
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

    /// Reads the beginnings of the lanes of topics, until about `work` rows were looked at: of one topic at least.
    /// Returns true once all have been read.
    fn open(
        &mut self,
        rows: &mut impl Rows,
        limits: BatchLimits,
        work: usize,
    ) -> Result<bool, QueryError> {
        if self.is_open() {
            return Ok(true);
        }
        let share = limits.envelopes.min(OPENING_ROWS_MAX).div_ceil(self.topics.len());
        // The row behind the page shows that there is more, without another seek.
        let chunk = if self.topics.len() == 1 { share + 1 } else { share };
        let chunk = chunk.clamp(1, CHUNK_ROWS_MAX);
        let before = rows.looked_at();
        while self.opened < self.topics.len() {
            self.open_topic(rows, self.opened, chunk)?;
            self.opened += 1;
            if rows.looked_at() - before >= work && self.opened < self.topics.len() {
                return Ok(false);
            }
        }
        self.strands = self.lanes.take_opened();
        let nodes: Vec<OriginatorId> =
            self.strands.keys().copied().filter(|originator| originator.is_node()).collect();
        nodes.into_iter().for_each(|originator| self.hold_what_waits(originator));
        Ok(true)
    }

    /// Finds the first rows of a topic in each strand behind the reader's cursor. Steps over a few rows below the
    /// cursor before it seeks, because a seek costs as much as several steps.
    fn open_topic(
        &mut self,
        rows: &mut impl Rows,
        topic: usize,
        chunk: usize,
    ) -> Result<(), QueryError> {
        let after = |originator| self.start(topic, originator);
        if !rows.probe_newer(&self.topics[topic].topic, &after, &self.ends) {
            return Ok(());
        }
        let mut lanes: Vec<Lane> = Vec::new();
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
            } else if push(&mut lanes, topic, found, chunk) {
                self.seek_strand(rows, topic, after_this)?
            } else {
                rows.next_row()?
            };
        }
        lanes.into_iter().for_each(|lane| self.lanes.add(lane));
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

    /// Returns the place up to which `originator` is read in `topic`.
    fn end(&self, topic: usize, originator: OriginatorId) -> SequenceId {
        let end = if self.resumed_only { &self.topics[topic].from } else { &self.ceiling };
        end.get(originator)
    }

    /// Returns the place up to which the reader has `originator` in `topic`.
    fn start(&self, topic: usize, originator: OriginatorId) -> SequenceId {
        let topic = &self.topics[topic];
        let resumed = topic.resume.iter().find(|id| id.originator == originator);
        let start = resumed.map_or_else(|| topic.from.get(originator), |id| id.sequence);
        #[cfg(feature = "faults")]
        if faults::is_on(SeededFault::PassedRow) && start > SequenceId::NONE {
            return start.next();
        }
        start.max(self.out.get(originator))
    }
}

/// Compares topics by their places in the index.
pub(crate) fn in_index(a: &Topic, b: &Topic) -> Ordering {
    a.as_bytes().len().cmp(&b.as_bytes().len()).then_with(|| a.cmp(b))
}

/// Puts a row into its lane, among those of its topic. Returns true if the lane is full now.
fn push(lanes: &mut Vec<Lane>, topic: usize, row: TopicRow, chunk: usize) -> bool {
    let last = lanes.last().and_then(|lane| lane.rows.back());
    if last.is_none_or(|last| last.id.originator != row.id.originator) {
        // If a topic has several strands, each later one is likely to have less of the first page.
        let chunk = (chunk >> lanes.len().min(LATER_LANES)).max(1);
        lanes.push(Lane::new(topic, chunk));
    }
    lanes.last_mut().expect("there is one now").push(row)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
