//! Times of a range of a strand, so that joined ranges also have the faults at their borders.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use serde::{Deserialize, Serialize};

use crate::replay::judge::{has_ordered_times, is_late, time_back};
use crate::replay::{FaultKind, Faults};

/// Late places that are listed. A guess: people read the first hundred.
const LATE_MAX: usize = 1_000;
/// Earliest times that are kept. A guess: a border at which more places are late is named, and their number is too low.
const EARLIEST_MAX: usize = 1_000;

/// A place with a time before that of an earlier place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LatePlace {
    sequence_id: u64,
    ns: i64,
    /// The latest time before it.
    newest_ns: i64,
}

/// The times of a range.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Times {
    newest_ns: Option<i64>,
    /// The first late places, ascending.
    late: Vec<LatePlace>,
    late_count: u64,
    /// The earliest times of places that are not late, with their places, ascending. A range before this one may make
    /// them late.
    earliest: Vec<(i64, u64)>,
}

impl Times {
    /// Takes the time of the next place, which is not in the future.
    pub(super) fn take(&mut self, sequence: SequenceId, ns: i64) {
        match self.newest_ns.filter(|newest| is_late(ns, *newest)) {
            Some(newest_ns) => self.add_late(LatePlace { sequence_id: sequence.0, ns, newest_ns }),
            None => self.add_early((ns, sequence.0)),
        }
        self.newest_ns = Some(self.newest_ns.map_or(ns, |newest| newest.max(ns)));
    }

    fn add_late(&mut self, late: LatePlace) {
        self.late_count = self.late_count.saturating_add(1);
        if self.late.len() < LATE_MAX {
            self.late.push(late);
        }
    }

    fn add_early(&mut self, entry: (i64, u64)) {
        let is_full = self.earliest.len() >= EARLIEST_MAX;
        if is_full && self.earliest.last().is_some_and(|last| entry > *last) {
            return;
        }
        let at = self.earliest.partition_point(|other| *other < entry);
        self.earliest.insert(at, entry);
        self.earliest.truncate(EARLIEST_MAX);
    }

    /// Joins the times of the range behind this one.
    pub(super) fn join(&mut self, after: Self) {
        let mut late = after.late;
        let mut earliest = after.earliest;
        let mut late_count = after.late_count;
        if let Some(newest) = self.newest_ns {
            late.iter_mut().for_each(|entry| entry.newest_ns = entry.newest_ns.max(newest));
            let ends = earliest.partition_point(|(ns, _)| is_late(*ns, newest));
            late_count = late_count.saturating_add(ends as u64);
            late.extend(earliest.drain(..ends).map(|(ns, sequence_id)| LatePlace {
                sequence_id,
                ns,
                newest_ns: newest,
            }));
            late.sort_unstable();
        }
        self.late.append(&mut late);
        self.late.truncate(LATE_MAX);
        self.late_count = self.late_count.saturating_add(late_count);
        self.newest_ns = self.newest_ns.max(after.newest_ns);
        self.earliest.append(&mut earliest);
        self.earliest.sort_unstable();
        self.earliest.truncate(EARLIEST_MAX);
    }

    /// Adds the late places to the faults, unless times that go back are none in this strand.
    pub(super) fn add_to(&self, originator: OriginatorId, faults: &mut Faults) {
        if !has_ordered_times(originator) {
            return;
        }
        for late in &self.late {
            let id = EnvelopeId::new(originator, SequenceId(late.sequence_id));
            faults.add(time_back(id, late.ns, late.newest_ns));
        }
        let more = self.late_count.saturating_sub(self.late.len() as u64);
        faults.count_more(FaultKind::TimeBack, more);
    }

    /// Returns true if a program of this version can have made these.
    pub(super) fn is_sound(&self) -> bool {
        self.late.len() <= LATE_MAX
            && self.earliest.len() <= EARLIEST_MAX
            && self.late.is_sorted()
            && self.earliest.is_sorted()
            && self.late_count >= self.late.len() as u64
    }
}
