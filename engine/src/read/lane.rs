//! The lanes of a plan. A lane is the part of one topic that comes from one originator, with the
//! position of the reading.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, Topic};
use hawser_storage::TopicRow;

use super::error::QueryError;
use super::rows::Rows;

/// The maximum number of rows of one lane that are read at once. Guessed.
pub(super) const CHUNK_ROWS_MAX: usize = 128;

/// Memory that a plan takes for a lane with its first row, in bytes, without the places that the row depends on.
/// Counted from the types, with room to spare.
pub(super) const LANE_BYTES: usize = 256;

/// One originator in one topic.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) topic: usize,
    /// Rows that have been read and have not gone out.
    pub(super) rows: VecDeque<TopicRow>,
    /// The place to read on from; `None` at the end.
    next: Option<EnvelopeId>,
    /// The number of rows to read then.
    chunk: usize,
}

impl Lane {
    /// Begins a lane that is first read for `chunk` rows.
    pub(super) fn new(topic: usize, chunk: usize) -> Self {
        // Plans of many topics have many lanes, mostly of one row.
        Self { topic, rows: VecDeque::with_capacity(1), next: None, chunk }
    }

    /// Adds a row. Returns true if the lane is full now.
    pub(super) fn push(&mut self, row: TopicRow) -> bool {
        let id = row.id;
        self.rows.push_back(row);
        let full = self.rows.len() >= self.chunk;
        if full {
            self.next = Some(EnvelopeId { sequence: id.sequence.next(), ..id });
        }
        full
    }

    /// Drops envelopes, so that the lane takes little memory. All rows but the first are read again. So the next read
    /// has about twice the rows that were taken of the last one: a longer one would be done again for each page.
    pub(super) fn drop_envelopes(&mut self) {
        if let Some(second) = self.rows.get(1) {
            self.next = Some(second.id);
            let taken = self.chunk.saturating_sub(self.rows.len());
            // It grows fourfold before it is read.
            self.chunk = (taken / 2).max(1);
            self.rows.truncate(1);
        }
        // The room of a hundred rows that have gone out is many times that of the one that is left.
        self.rows.shrink_to_fit();
        if let Some(first) = self.rows.front_mut() {
            first.envelope = None;
        }
    }

    /// Reads the next rows, up to `end` and about `wanted` of them. Chunks grow, since a lane that is read
    /// once more is likely to be read to its end.
    pub(super) fn fill(
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

    /// Ends the lane before its end.
    pub(super) fn clear(&mut self) {
        (self.rows, self.next) = (VecDeque::new(), None);
    }

    /// Returns the memory of its rows beyond that of the first one, and of the places that all of them depend on.
    fn further_bytes(&self) -> usize {
        let named = self.rows.iter().map(|row| row.depends_on.capacity()).sum::<usize>();
        let further = self.rows.capacity().saturating_sub(1);
        further * size_of::<TopicRow>() + named * size_of::<EnvelopeId>()
    }
}

/// The lanes of one originator that have rows, by the sequence of the first row.
#[derive(Debug, Default)]
pub(super) struct StrandLanes {
    pub(super) lanes: BinaryHeap<Reverse<(SequenceId, usize)>>,
}

/// All lanes of a plan.
///
/// A plan of one page needs few of them. A page of `n` envelopes takes at most the `n` lowest places of a strand, so
/// it never reaches a lane whose first row comes after those of `n + 1` other lanes of its strand. Such lanes are
/// dropped while topics are opened, so memory depends on strands and the page, and not on topics.
#[derive(Debug)]
pub(super) struct LaneTable {
    pub(super) lanes: Vec<Lane>,
    /// Places in `lanes` of those that were dropped.
    free: Vec<usize>,
    /// While topics are opened: the lanes of each strand, the one with the highest first row on top.
    opening: BTreeMap<OriginatorId, BinaryHeap<(SequenceId, usize)>>,
    of_strand_max: usize,
}

impl LaneTable {
    /// Creates a table without lanes, which keeps at most `of_strand_max` lanes of each strand.
    pub(super) fn new(of_strand_max: usize) -> Self {
        let opening = BTreeMap::new();
        Self { lanes: Vec::new(), free: Vec::new(), opening, of_strand_max }
    }

    /// Forgets all lanes.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.of_strand_max);
    }

    /// Returns the number of lanes that are kept.
    pub(super) fn len(&self) -> usize {
        self.lanes.len() - self.free.len()
    }

    /// Returns an estimate of the memory of all lanes, in bytes, without the envelopes that came with their rows.
    pub(super) fn held_bytes(&self) -> usize {
        let further = self.lanes.iter().map(Lane::further_bytes);
        self.len() * LANE_BYTES + further.sum::<usize>()
    }

    /// Adds a lane of a topic that is being opened, unless no page gets to it.
    pub(super) fn add(&mut self, lane: Lane) {
        let Some(EnvelopeId { originator, sequence }) = lane.rows.front().map(|row| row.id) else {
            return;
        };
        let of_strand = self.opening.entry(originator).or_default();
        if of_strand.len() >= self.of_strand_max {
            if of_strand.peek().is_some_and(|(highest, _)| *highest < sequence) {
                return;
            }
            if let Some((_, highest)) = of_strand.pop() {
                self.lanes[highest].clear();
                self.free.push(highest);
            }
        }
        let index = match self.free.pop() {
            Some(index) => {
                self.lanes[index] = lane;
                index
            }
            None => {
                self.lanes.push(lane);
                self.lanes.len() - 1
            }
        };
        of_strand.push((sequence, index));
    }

    /// Returns the lanes of each strand, the one with the lowest first row on top. To be called once all topics have
    /// been opened.
    pub(super) fn take_opened(&mut self) -> BTreeMap<OriginatorId, StrandLanes> {
        let opened = std::mem::take(&mut self.opening).into_iter();
        let turned = opened.map(|(originator, lanes)| {
            (originator, StrandLanes { lanes: lanes.into_iter().map(Reverse).collect() })
        });
        turned.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::limits::BatchLimits;
    use super::super::plan::{Cursors, PagePlan, PlanTopic};
    use super::super::testing::{MemoryRows, cursor, id, topic};
    use super::*;

    /// A stream takes a few envelopes of each of its topics into a page, and drops after it what was read beyond them.
    #[test]
    fn pages_of_many_topics_read_little_more_than_they_give() {
        const TOPICS: u8 = 200;
        const ENVELOPES: u64 = 20_000;
        let by_turns = |name: u64, nth: u64| nth * u64::from(TOPICS) + name + 1;
        let (mut plan, mut rows) = plan_of(TOPICS, ENVELOPES / u64::from(TOPICS), &[], by_turns);
        let mut given = 0;
        loop {
            let page = plan.next_turn(&mut rows, BatchLimits::STREAM, usize::MAX).unwrap();
            plan.drop_envelopes();
            given += page.rows.len();
            if page.finished {
                break;
            }
        }
        assert_eq!(given as u64, ENVELOPES);
        assert!(rows.reads <= 4 * given, "{} rows were read", rows.reads);
    }

    /// Plans topics with so many rows each, the nth one of a topic at the place that `place_of` returns. Every row but
    /// the first one depends on the other places.
    fn plan_of(
        topics: u8,
        each: u64,
        depends_on: &[EnvelopeId],
        place_of: impl Fn(u64, u64) -> u64,
    ) -> (PagePlan, MemoryRows) {
        let mut rows = MemoryRows::default();
        for name in 0..topics {
            for nth in 0..each {
                let sequence = place_of(name.into(), nth);
                let row = TopicRow {
                    id: id(100, sequence),
                    originator_ns: i64::try_from(sequence).unwrap(),
                    len_bytes: 100,
                    depends_on: if nth == 0 { Vec::new() } else { depends_on.to_vec() },
                    envelope: None,
                };
                rows.insert(topic(name), row);
            }
        }
        let planned = |name| PlanTopic {
            topic: topic(name),
            from: Arc::default(),
            resume: Arc::default(),
            commits: None,
        };
        let heads = Arc::new(cursor(&[(0, 5), (1, 5), (100, u64::from(topics) * each)]));
        (PagePlan::new(Cursors::PerTopic, (0..topics).map(planned), heads), rows)
    }

    /// Played by a payer who has each message depend on places of all strands of chains and of the older network, and
    /// by a client with many streams of the topics.
    #[test]
    fn what_first_rows_depend_on_is_charged_and_what_waits_for_a_commit_keeps_none_of_it() {
        const TOPICS: u8 = 100;
        let named: Vec<EnvelopeId> = [0, 1, 10, 11, 12, 13].map(|strand| id(strand, 5)).to_vec();
        let limits = BatchLimits { envelopes: TOPICS.into(), ..BatchLimits::STREAM };
        let held_bytes = |depends_on: &[EnvelopeId]| {
            let by_turns = |name: u64, nth: u64| nth * u64::from(TOPICS) + name + 1;
            let (mut plan, mut rows) = plan_of(TOPICS, 2, depends_on, by_turns);
            let page = plan.next_turn(&mut rows, limits, usize::MAX).unwrap();
            assert_eq!(page.rows.len(), usize::from(TOPICS), "the first row of each topic");
            plan.drop_envelopes();
            plan.lanes_bytes()
        };
        let without_bytes = held_bytes(&[]);
        let named_bytes = usize::from(TOPICS) * named.len() * size_of::<EnvelopeId>();
        assert_eq!(held_bytes(&named), without_bytes + named_bytes);
        let never: Vec<EnvelopeId> = named.iter().map(|on| id(on.originator.0, 6)).collect();
        assert_eq!(held_bytes(&never), without_bytes, "these lanes have ended");
    }

    /// Played by payers who send their messages of each topic in one go, and by a client with many streams of the
    /// topics: each lane in turn reads a hundred rows ahead.
    #[test]
    fn lanes_keep_no_room_for_rows_that_have_gone_out() {
        const TOPICS: u8 = 50;
        let (mut plan, mut rows) = plan_of(TOPICS, 300, &[], |name, nth| 300 * name + nth + 1);
        let mut most_bytes = 0;
        loop {
            let page = plan.next_turn(&mut rows, BatchLimits::STREAM, usize::MAX).unwrap();
            plan.drop_envelopes();
            most_bytes = most_bytes.max(plan.lanes_bytes());
            if page.finished {
                break;
            }
        }
        let most_of_topic = most_bytes / usize::from(TOPICS);
        assert!(most_of_topic < 600, "{most_of_topic} bytes of each topic");
    }
}
