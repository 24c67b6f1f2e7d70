//! Pages of whole strands, merged by time, in turns of bounded work. Envelopes do not wait for their dependencies:
//! replication and auditors read these pages.
//!
//! A registered node may have had millions of envelopes stored that break rules, and readers get none of them. So rows
//! that a scan passes over count as work too, and the next turn continues after them.

mod entries;
mod in_entries;

use bytes::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Cursor, EnvelopeId, SequenceId};
use hawser_storage::{LogItem, LogScan, Snapshot, Validity};

use super::error::QueryError;
use super::limits::{BatchLimits, BatchSize, is_deliverable};
use super::memory::PageMemory;
use super::rows::{BYTES_PER_ROW, ROWS_PER_SEEK};
use entries::EntryBatches;

pub use entries::EnvelopeEntries;

/// A range of one strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogRange {
    /// The last place the reader has.
    pub(crate) after: EnvelopeId,
    /// The last place to read.
    pub(crate) through: SequenceId,
}

/// Envelopes in the order of delivery.
#[derive(Debug)]
pub(crate) struct LogPage {
    pub(crate) envelopes: Vec<(EnvelopeId, Bytes)>,
    /// The envelopes in batches instead, if the page was made so.
    pub(crate) batches: Vec<EnvelopeEntries>,
    /// The last place of each strand that the scan has reached. Envelopes up to there that are not in this page are
    /// never shown to readers, so the next page begins after it.
    pub(crate) reached: Cursor,
    /// The page reaches the end of every range.
    pub(crate) finished: bool,
}

/// Length of the longest envelope of one of several strands that waits in memory for its place in the page. A longer
/// one is read once more then: otherwise each strand could hold one of megabytes, and all of them together may take
/// more memory than a reader ever gets. A guess: nearly all are shorter.
const WAITING_LEN_BYTES_MAX: usize = 64 * 1024;

/// The work of opening a scan of a strand, in rows: it seeks in the log and in the marks.
const ROWS_PER_SCAN: usize = 2 * ROWS_PER_SEEK;

/// A page of whole strands while it is filled, in one turn or in several: the valid envelopes across originators by
/// time, each originator ascending. A page for which the memory ends early is shorter.
///
/// Every place is looked at once, whatever the number of turns: a turn begins where the one before it has stopped.
/// Between turns it holds its envelopes and one more of each strand, unless that is long, all of them taken from its
/// memory.
pub(crate) struct LogFilling {
    limits: BatchLimits,
    /// Envelopes of nodes that are marked invalid belong to the page too.
    with_marked: bool,
    /// A place that cannot be read ends the page before it, if there are envelopes.
    ends_before_damage: bool,
    memory: PageMemory,
    strands: Vec<StrandLane>,
    size: BatchSize,
    envelopes: Vec<(EnvelopeId, Bytes)>,
    /// The envelopes instead, if the page is made of entries.
    batches: Option<EntryBatches>,
    /// The ends of strands that have nothing more for the page.
    ended: Vec<EnvelopeId>,
}

/// The part of a strand's range that is not in the page.
struct StrandLane {
    /// The last place that was looked at.
    after: EnvelopeId,
    through: SequenceId,
    /// The envelope at `after`, if it is the next one of the page.
    next: Option<NextEnvelope>,
}

struct NextEnvelope {
    /// 0 if there is no other lane to merge with; the earliest time if the envelope does not decode.
    originator_ns: i64,
    len_bytes: usize,
    /// `None` for a long one of several lanes.
    bytes: Option<Bytes>,
}

/// The end of a part of a turn.
enum PartEnd {
    Done,
    /// The work of the turn is used up.
    Paused,
}

impl LogFilling {
    /// Begins a page of `ranges`, each of another originator. Reads nothing.
    pub(crate) fn new(
        ranges: impl IntoIterator<Item = LogRange>,
        limits: BatchLimits,
        memory: PageMemory,
    ) -> Self {
        let ranges = ranges.into_iter().filter(|range| range.after.sequence < range.through);
        let strands = ranges.map(|range| {
            let LogRange { after, through } = range;
            StrandLane { after, through, next: None }
        });
        let strands = strands.collect();
        let (envelopes, ended) = (Vec::new(), Vec::new());
        let (size, batches) = (BatchSize::default(), None);
        let (with_marked, ends_before_damage) = (false, false);
        Self {
            limits,
            with_marked,
            ends_before_damage,
            memory,
            strands,
            size,
            envelopes,
            batches,
            ended,
        }
    }

    /// Makes envelopes of nodes that are marked invalid belong to the page.
    #[must_use]
    pub(crate) fn with_marked(mut self) -> Self {
        self.with_marked = true;
        self
    }

    /// Makes a place that cannot be read end the page before it: a stream passes on what is good, and fails with the
    /// next page. Callers of a query, whose page is all that they get, take a short one for the end.
    #[must_use]
    pub(crate) fn before_damage(mut self) -> Self {
        self.ends_before_damage = true;
        self
    }

    /// Makes the page of entries of messages if it is one of a single strand. Others need the time of each envelope.
    #[must_use]
    pub(crate) fn with_entries(mut self) -> Self {
        debug_assert!(!self.with_marked, "marked envelopes are asked for one by one");
        if self.strands.len() == 1 {
            self.batches = Some(EntryBatches::default());
        }
        self
    }

    /// Does a turn of about `work` rows, over a view of its own. Returns the page when it is complete.
    ///
    /// Bytes that go into the page are no work, because the page's limits and its memory bound them. Bytes of other
    /// envelopes are, and so are those of a long envelope that waits for its place. A turn exceeds its work by one
    /// envelope at most.
    pub(crate) fn fill(
        &mut self,
        snapshot: &Snapshot<'_>,
        work: usize,
    ) -> Result<Option<LogPage>, QueryError> {
        let mut left = work.max(1);
        if let Some(batches) = self.batches.take() {
            return self.fill_entries(batches, snapshot, left);
        }
        let mut open: Vec<OpenLane<'_>> =
            self.strands.drain(..).map(|lane| OpenLane { lane, scan: None }).collect();
        let finished = loop {
            match self.advance(&mut open, snapshot, &mut left) {
                Ok(PartEnd::Done) => {}
                Ok(PartEnd::Paused) => {
                    self.strands.extend(open.into_iter().map(|it| it.lane));
                    return Ok(None);
                }
                Err(error) if self.ends_before(&error) => break false,
                Err(error) => return Err(error),
            }
            let Some(index) = earliest(&open) else { break true };
            let lane = &mut open[index].lane;
            let next = lane.next.as_ref().expect("every lane stands on an envelope");
            let len_bytes = next.len_bytes;
            if !self.size.try_add(self.limits, len_bytes) {
                break false;
            }
            match lane.take_next(snapshot, &mut self.memory) {
                Ok(Some(bytes)) => self.envelopes.push((lane.after, bytes)),
                Ok(None) => self.size.remove(len_bytes),
                Err(error) if self.ends_before(&error) => break false,
                Err(error) => return Err(error),
            }
        };
        let left = open.iter().map(|it| it.lane.reached());
        let reached = left.chain(std::mem::take(&mut self.ended)).collect();
        let (envelopes, batches) = (std::mem::take(&mut self.envelopes), Vec::new());
        Ok(Some(LogPage { envelopes, batches, reached, finished }))
    }

    /// Returns true if the page so far is complete without the place that gave this error.
    fn ends_before(&self, error: &QueryError) -> bool {
        let is_cut = self.ends_before_damage || matches!(error, QueryError::NoMemory(_));
        is_cut && !self.envelopes.is_empty()
    }

    /// Moves every lane to its next envelope, and drops those that have none.
    fn advance<'s>(
        &mut self,
        open: &mut Vec<OpenLane<'s>>,
        snapshot: &'s Snapshot<'_>,
        left: &mut usize,
    ) -> Result<PartEnd, QueryError> {
        let mut index = 0;
        // Lanes only end: the last one needs no times, and all of its envelopes are its own.
        let choice = LaneChoice { with_marked: self.with_marked, merges: open.len() > 1 };
        while let Some(lane) = open.get_mut(index) {
            if lane.lane.next.is_none() {
                match lane.advance(snapshot, choice, &mut self.memory, left)? {
                    PartEnd::Paused => return Ok(PartEnd::Paused),
                    PartEnd::Done if lane.lane.next.is_none() => {
                        let ended = open.swap_remove(index).lane;
                        self.ended.push(EnvelopeId { sequence: ended.through, ..ended.after });
                        continue;
                    }
                    PartEnd::Done => {}
                }
            }
            index += 1;
        }
        Ok(PartEnd::Done)
    }

    /// Returns the bytes of memory that are taken for the page.
    pub(crate) fn taken_bytes(&self) -> usize {
        self.memory.taken_bytes()
    }

    /// Ends the page, which is complete: gives back the memory that it does not need. Returns the bytes that it keeps.
    pub(crate) fn end(mut self) -> usize {
        self.memory.give_back_unused();
        self.memory.taken_bytes()
    }
}

impl StrandLane {
    /// Takes the next envelope. Returns `None` if it is one that was pruned since the turn in which it was found.
    ///
    /// # Errors
    /// [`QueryError`] if a long one cannot be read once more, or there is no memory for it. The lane stays as it is.
    fn take_next(
        &mut self,
        snapshot: &Snapshot<'_>,
        memory: &mut PageMemory,
    ) -> Result<Option<Bytes>, QueryError> {
        let next = self.next.as_mut().expect("the lane stands on an envelope");
        let bytes = match next.bytes.take() {
            Some(bytes) => Some(bytes),
            None => {
                memory.add(1, next.len_bytes)?;
                snapshot.get(self.after)?
            }
        };
        self.next = None;
        Ok(bytes)
    }

    /// Returns the last examined place. Every envelope up to it is in the page or is not to be delivered.
    fn reached(&self) -> EnvelopeId {
        match self.next {
            None => self.after,
            Some(_) => EnvelopeId { sequence: self.after.sequence.previous(), ..self.after },
        }
    }
}

fn earliest(open: &[OpenLane<'_>]) -> Option<usize> {
    let key = |lane: &StrandLane| lane.next.as_ref().map(|next| (next.originator_ns, lane.after));
    (0..open.len()).min_by_key(|&index| key(&open[index].lane))
}

/// The envelopes that the lanes of a page take, and the facts about them that the lanes need.
#[derive(Debug, Clone, Copy)]
struct LaneChoice {
    /// Envelopes of nodes that are marked invalid belong to the page too.
    with_marked: bool,
    /// There are several lanes, which are merged by time.
    merges: bool,
}

/// A lane within a turn.
struct OpenLane<'s> {
    lane: StrandLane,
    /// Opened when the lane first moves in this turn.
    scan: Option<LogScan<'s>>,
}

impl<'s> OpenLane<'s> {
    /// Moves to the next envelope that the page may have. There is none if `next` is still empty when it is done.
    fn advance(
        &mut self,
        snapshot: &'s Snapshot<'_>,
        choice: LaneChoice,
        memory: &mut PageMemory,
        left: &mut usize,
    ) -> Result<PartEnd, QueryError> {
        let Self { lane, scan } = self;
        while *left > 0 {
            let scan = scan.get_or_insert_with(|| {
                // The first item of a turn is looked at also if opening the scan takes all of its work.
                *left = left.saturating_sub(ROWS_PER_SCAN).max(1);
                snapshot.log(lane.after, lane.through)
            });
            let Some(item) = scan.next().transpose()? else { return Ok(PartEnd::Done) };
            let (id, bytes, validity) = match item {
                LogItem::Envelope { id, bytes, validity } => (id, bytes, validity),
                LogItem::Skipped { through, .. } => {
                    lane.after.sequence = through.min(lane.through);
                    *left -= 1;
                    continue;
                }
            };
            debug_assert_eq!(id.originator, lane.after.originator, "a scan keeps to its strand");
            *left -= 1;
            let is_asked_for = match validity {
                Validity::Valid => true,
                Validity::Invalid(_) => choice.with_marked && id.originator.is_node(),
                Validity::Waiting => false,
            };
            if !is_asked_for || !is_deliverable(bytes.len()) {
                lane.after = id;
                *left = left.saturating_sub(bytes.len() / BYTES_PER_ROW);
                continue;
            }
            let len_bytes = bytes.len();
            let is_kept = !choice.merges || len_bytes <= WAITING_LEN_BYTES_MAX;
            if is_kept {
                memory.add(1, len_bytes)?;
            }
            let originator_ns = match choice.merges {
                // Damage that no checksum shows goes out at its place, as in pages of topics and of a single strand. As
                // an error it would keep readers of all strands from everything behind it.
                true => OriginatorEnvelope::time_of_stored(bytes.clone()).unwrap_or(i64::MIN),
                false => 0,
            };
            if !is_kept {
                *left = left.saturating_sub(len_bytes / BYTES_PER_ROW);
            }
            let bytes = is_kept.then_some(bytes);
            (lane.after, lane.next) = (id, Some(NextEnvelope { originator_ns, len_bytes, bytes }));
            return Ok(PartEnd::Done);
        }
        Ok(PartEnd::Paused)
    }
}

#[cfg(test)]
#[path = "log_page_tests.rs"]
mod tests;
