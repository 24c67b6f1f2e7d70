//! Reads a plan of many topics in the order of the log, as long as much of the log belongs to its topics.
//!
//! An originator ascends over all topics of a plan, so a page out of the topic index needs the first row of every topic
//! before its first envelope: a seek for each. The log has the envelopes of a strand in that order already. A reader of
//! thousands of topics mostly wants a large part of the log, and then a page costs one pass over some hundred
//! neighbouring rows. Where few rows are of the topics, the plan goes on with the index, behind what has gone out.
//!
//! A page of few rows is a first page, too, and comes before thousands of seeks. So as long as no row was found, the
//! plan looks at further places, fewer than it has topics: a tenth of the work of their seeks.
//!
//! The order is the one of the index: the same strands are merged in the same way. The index takes over at an envelope
//! that has to wait, at a row that does not decode, and if the log cannot be read.

use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::envelope::LayerError;
use hawser_proto::topic_place::TopicPlace;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic, TopicKind};
use hawser_storage::{LogItem, LogScan, Snapshot, TopicRow, Validity};

use super::{LogOrder, PagePlan, SORTED_TOPICS_MIN, in_index};
use crate::facts::chain_dependencies;
use crate::read::limits::{BatchLimits, is_deliverable};
use crate::read::log_page::LogRange;
use crate::read::page::{Filling, PlannedPage};
use crate::read::rows::{BYTES_PER_ROW, first_unsatisfied, is_awaited};

/// Bounds of a page. Its envelopes are read before their memory is taken, so they are as few as those that come with
/// rows of the index.
const PAGE: BatchLimits =
    BatchLimits { len_bytes: BatchLimits::BESIDE_LEN_BYTES, ..BatchLimits::STREAM };

/// Places of the log that a turn looks at, of all strands together. A guess: the work of one turn, a few milliseconds.
const PLACES_PER_TURN: usize = 2048;

/// The maximum number of strands that are merged. A guess: more leave too few places for each, and opening them would
/// be the work of a turn.
const STRANDS_MAX: usize = 32;

/// The plan continues in the order of the log while at least one place in this many has an envelope of the plan. A
/// guess: a place costs about a microsecond, and the seek for a topic in the index about ten.
const PLACES_PER_ENVELOPE_MAX: usize = 8;

/// The maximum number of entries that are looked up in the cursors of the topics to find the beginning of each strand.
/// A guess: a few milliseconds.
const CURSOR_ENTRIES_MAX: usize = 100_000;

/// Length of the longest envelope that a page keeps from its pass over the log. Longer ones are read once more, after
/// their memory was taken. A guess: nearly all are shorter.
const KEPT_LEN_BYTES_MAX: usize = 16 * 1024;

/// The end of a turn.
enum TurnEnd {
    /// All strands are at the ceiling.
    AtCeiling,
    /// The page is full, or a strand has had its places.
    Cut,
    /// The next envelope is one for the index.
    Stopped,
}

/// The strand whose envelope comes next.
enum NextStrand {
    /// The strand at this place.
    Strand(usize),
    /// The next envelope waits for another one that does not come from these strands.
    Waits,
    /// All strands are at the ceiling.
    AtCeiling,
}

/// The outcome of a search for the next envelope of a strand.
enum SearchOutcome {
    /// The envelope is known, or there is none up to the ceiling.
    Done,
    /// The strand has had its places of this turn.
    OutOfPlaces,
    /// The log cannot be read there, or a row does not decode.
    Unreadable,
}

impl PagePlan {
    /// Returns the next page in the order of the log; `None` if the plan goes on with the topic index. A page without
    /// envelopes that is not finished ends a turn in which none was found.
    ///
    /// Looks at a bounded number of places and bytes. Errors of the log are left to the index, whose page may need none
    /// of the rows that cannot be read.
    pub(crate) fn next_in_log(&mut self, snapshot: &Snapshot<'_>) -> Option<PlannedPage> {
        let (ranges, searched) = match std::mem::replace(&mut self.log_order, LogOrder::Over) {
            LogOrder::Untried => (self.log_ranges()?, Some(0)),
            LogOrder::Searching(ranges, turns) => (ranges, Some(turns)),
            LogOrder::Reading(ranges) => (ranges, None),
            LogOrder::Over => return None,
        };
        let turns_max = self.topics.len() / PLACES_PER_TURN;
        let may_search = searched.map(|turns| turns + 1).filter(|turns| *turns < turns_max);
        let mut filling = Filling::default();
        let mut turn = LogTurn::new(self, ranges, snapshot);
        let end = turn.fill(&mut filling);
        let is_dense = turn.taken * PLACES_PER_ENVELOPE_MAX >= turn.looked_at;
        let has_found = turn.taken > 0;
        let left: Vec<LogRange> = turn.strands.into_iter().map(|strand| strand.left).collect();
        left.iter().for_each(|range| self.out.advance(range.after));
        let unread = left.into_iter().filter(|it| it.after.sequence < it.through).collect();
        match (end, may_search) {
            (TurnEnd::AtCeiling, _) => filling.finished = true,
            (TurnEnd::Cut, _) if is_dense => self.log_order = LogOrder::Reading(unread),
            (TurnEnd::Cut, Some(turns)) if !has_found => {
                self.log_order = LogOrder::Searching(unread, turns);
                return Some(PlannedPage::empty(false));
            }
            (TurnEnd::Cut | TurnEnd::Stopped, _) => {}
        }
        let page = filling.into_page();
        (page.finished || !page.rows.is_empty()).then_some(page)
    }

    /// Returns the places of each strand that topics lack; `None` if the plan is not read in the order of the log.
    fn log_ranges(&self) -> Option<Vec<LogRange>> {
        let is_plain = !self.resumed_only && self.topics.iter().all(|it| it.resume.is_empty());
        if self.topics.len() <= SORTED_TOPICS_MIN || self.opened > 0 || !is_plain {
            return None;
        }
        let ends = self.ends.iter().copied().filter(|end| self.may_have(end.originator));
        let ends: Vec<EnvelopeId> = ends.collect();
        let mut lowest = vec![SequenceId::MAX; ends.len()];
        let (mut last, mut entries): (Option<&Arc<Cursor>>, usize) = (None, 0);
        for planned in &self.topics {
            // Most topics share their cursor with the one before.
            if last.is_some_and(|last| Arc::ptr_eq(last, &planned.from)) {
                continue;
            }
            last = Some(&planned.from);
            entries += ends.len();
            if entries > CURSOR_ENTRIES_MAX {
                return None;
            }
            for (lowest, end) in lowest.iter_mut().zip(&ends) {
                *lowest = (*lowest).min(planned.from.get(end.originator));
            }
        }
        let ranges = ends.iter().zip(lowest).filter(|(end, lowest)| *lowest < end.sequence);
        let ranges = ranges.map(|(end, lowest)| LogRange {
            after: EnvelopeId::new(end.originator, lowest),
            through: end.sequence,
        });
        let ranges: Vec<LogRange> = ranges.collect();
        (ranges.len() <= STRANDS_MAX).then_some(ranges)
    }

    /// Returns false for a strand of a chain if the plan has no topic of the strand's kind. Its valid envelopes are of
    /// this kind alone ([`ChainEntry`](crate::chain_strand::ChainEntry)), so there is nothing to send of it.
    fn may_have(&self, originator: OriginatorId) -> bool {
        let kind = match originator {
            OriginatorId::GROUP_MESSAGES => TopicKind::GroupMessages,
            OriginatorId::IDENTITY_UPDATES => TopicKind::IdentityUpdates,
            _ => return true,
        };
        self.topics.iter().any(|planned| planned.topic.kind() == kind)
    }

    /// Returns the place of a topic in the plan, whose topics are sorted.
    fn place_of(&self, topic: &Topic) -> Option<usize> {
        self.topics.binary_search_by(|planned| in_index(&planned.topic, topic)).ok()
    }

    /// Returns the row of a valid envelope with the place of its topic; `None` if it is none of this plan.
    fn row_in_log(
        &self,
        id: EnvelopeId,
        bytes: &Bytes,
    ) -> Result<Option<(usize, TopicRow)>, LayerError> {
        let place = TopicPlace::of_stored(bytes.clone())?;
        let Some(topic) = self.place_of(&place.topic) else { return Ok(None) };
        if id.sequence <= self.start(topic, id.originator) {
            return Ok(None);
        }
        // A copy, because envelopes of a scan share memory with those that are not kept.
        let kept = (bytes.len() <= KEPT_LEN_BYTES_MAX).then(|| Bytes::copy_from_slice(bytes));
        let row = TopicRow {
            id,
            originator_ns: place.originator_ns,
            len_bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            depends_on: chain_dependencies(id.originator, &place.depends_on),
            envelope: kept,
        };
        Ok(Some((topic, row)))
    }
}

/// A turn of reading in the order of the log.
struct LogTurn<'p, 's> {
    plan: &'p PagePlan,
    strands: Vec<StrandInLog<'s>>,
    /// Places that were looked at.
    looked_at: usize,
    /// Envelopes that the page has.
    taken: usize,
}

/// A strand within a turn.
struct StrandInLog<'s> {
    scan: LogScan<'s>,
    /// The rest of it. Everything before has gone out, or is not of the plan.
    left: LogRange,
    /// The next envelope of the plan, with the place of its topic.
    next: Option<(usize, TopicRow)>,
    /// Places that this turn may still look at.
    places: usize,
}

impl<'p, 's> LogTurn<'p, 's> {
    /// Opens a scan of each range.
    fn new(plan: &'p PagePlan, ranges: Vec<LogRange>, snapshot: &'s Snapshot<'_>) -> Self {
        let places = PLACES_PER_TURN / ranges.len().max(1);
        let strands = ranges.into_iter().map(|left| StrandInLog {
            scan: snapshot.log(left.after, left.through),
            left,
            next: None,
            places,
        });
        Self { plan, strands: strands.collect(), looked_at: 0, taken: 0 }
    }

    /// Fills a page, across originators by time, each originator ascending.
    fn fill(&mut self, filling: &mut Filling) -> TurnEnd {
        loop {
            for strand in &mut self.strands {
                match strand.search(self.plan, &mut self.looked_at) {
                    SearchOutcome::Done => {}
                    SearchOutcome::OutOfPlaces => return TurnEnd::Cut,
                    SearchOutcome::Unreadable => return TurnEnd::Stopped,
                }
            }
            let strand = match self.pick() {
                NextStrand::Strand(index) => &mut self.strands[index],
                NextStrand::Waits => return TurnEnd::Stopped,
                NextStrand::AtCeiling => return TurnEnd::AtCeiling,
            };
            let (topic, row) = strand.next.take().expect("a strand with an envelope is picked");
            if !filling.size.try_add(PAGE, row.len_bytes as usize) {
                return TurnEnd::Cut;
            }
            strand.left.after = row.id;
            self.taken += 1;
            filling.push(topic, row);
        }
    }

    /// Returns the strand whose turn it is. A chain strand goes first, if an envelope depends on it.
    fn pick(&self) -> NextStrand {
        let firsts = self.strands.iter().enumerate().filter_map(|(index, strand)| {
            let (topic, row) = strand.next.as_ref()?;
            Some((row.originator_ns, row.id.originator, index, topic, row))
        });
        let first =
            firsts.min_by_key(|(originator_ns, originator, ..)| (*originator_ns, *originator));
        let Some((_, _, index, topic, row)) = first else { return NextStrand::AtCeiling };
        let from = &self.plan.topics[*topic].from;
        let comes = |on| !is_awaited(on) || from.covers(on) || self.plan.ceiling.covers(on);
        if first_unsatisfied(row.id, &row.depends_on, comes).is_some() {
            return NextStrand::Waits;
        }
        let is_out = |on| from.covers(on) || self.is_out(on);
        match first_unsatisfied(row.id, &row.depends_on, is_out) {
            None => NextStrand::Strand(index),
            Some(on) => self.place_of(on.originator).map_or(NextStrand::Waits, NextStrand::Strand),
        }
    }

    /// Returns true if everything of the plan up to `on`, which is not above the ceiling, has gone out.
    fn is_out(&self, on: EnvelopeId) -> bool {
        match self.place_of(on.originator) {
            Some(index) => {
                let next = self.strands[index].next.as_ref();
                next.is_none_or(|(_, row)| row.id.sequence > on.sequence)
            }
            // It is at the ceiling, or has nothing of the plan.
            None => true,
        }
    }

    /// Returns the place of a strand in this turn.
    fn place_of(&self, originator: OriginatorId) -> Option<usize> {
        self.strands.iter().position(|strand| strand.left.after.originator == originator)
    }
}

impl StrandInLog<'_> {
    /// Moves on to the next envelope of the plan.
    fn search(&mut self, plan: &PagePlan, looked_at: &mut usize) -> SearchOutcome {
        while self.next.is_none() && self.left.after.sequence < self.left.through {
            if self.places == 0 {
                return SearchOutcome::OutOfPlaces;
            }
            let (id, bytes, validity) = match self.scan.next() {
                Some(Ok(LogItem::Envelope { id, bytes, validity })) => (id, bytes, validity),
                Some(Ok(LogItem::Skipped { through, .. })) => {
                    self.left.after.sequence = through.min(self.left.through);
                    self.places -= 1;
                    *looked_at += 1;
                    continue;
                }
                Some(Err(_)) => return SearchOutcome::Unreadable,
                None => {
                    self.left.after.sequence = self.left.through;
                    return SearchOutcome::Done;
                }
            };
            self.places = self.places.saturating_sub(1 + bytes.len() / BYTES_PER_ROW);
            *looked_at += 1;
            if validity != Validity::Valid || !is_deliverable(bytes.len()) {
                self.left.after = id;
                continue;
            }
            match plan.row_in_log(id, &bytes) {
                Ok(Some(found)) => self.next = Some(found),
                Ok(None) => self.left.after = id,
                Err(_) => return SearchOutcome::Unreadable,
            }
        }
        SearchOutcome::Done
    }
}

#[cfg(test)]
#[path = "log_order_tests.rs"]
mod tests;
