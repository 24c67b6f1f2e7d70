//! The lines in the log about what nodes have signed, and about what peers ask for in vain. A node can break rules in
//! each envelope, and claims against it make room for newer ones, so its faults alone could fill a disk with lines.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};
use parking_lot::Mutex;

/// Lines about one node and fault in a period. A guess: they show that it goes on, and the evidence has the rest.
const LINES_MAX: u32 = 8;
const PERIOD: Duration = Duration::from_secs(60);

/// The lines about each node and fault. Bounded by the strands that are followed and the kinds of faults.
#[derive(Debug, Default)]
pub(super) struct FaultLines(Mutex<BTreeMap<(OriginatorId, &'static str), LinesInPeriod>>);

#[derive(Debug)]
struct LinesInPeriod {
    began_at: Instant,
    lines: u32,
    /// Lines that were left out and no later line has stated.
    left_out: u64,
}

impl FaultLines {
    /// Counts a line about a fault of a node. Returns the number of lines that were left out before it; `None` if this
    /// one is to be left out, too.
    pub(super) fn count(
        &self,
        now: Instant,
        node: OriginatorId,
        fault: &'static str,
    ) -> Option<u64> {
        let mut all = self.0.lock();
        let fresh = LinesInPeriod { began_at: now, lines: 0, left_out: 0 };
        let of_fault = all.entry((node, fault)).or_insert(fresh);
        if now.saturating_duration_since(of_fault.began_at) >= PERIOD {
            (of_fault.began_at, of_fault.lines) = (now, 0);
        }
        if of_fault.lines >= LINES_MAX {
            of_fault.left_out += 1;
            return None;
        }
        of_fault.lines += 1;
        Some(std::mem::take(&mut of_fault.left_out))
    }

    /// Writes a line about places of a node's strand that are marked missing. Returns false if it is left out: the node
    /// may have left out every other place.
    pub(super) fn name_missing(
        &self,
        now: Instant,
        node: OriginatorId,
        (from, through): (SequenceId, SequenceId),
    ) -> bool {
        let Some(left_out) = self.count(now, node, "missing") else { return false };
        tracing::warn!(
            originator_id = %node,
            %from,
            %through,
            left_out,
            "no peer has these envelopes: they are marked missing"
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_breaks_rules_without_end_fills_no_log() {
        let (lines, start) = (FaultLines::default(), Instant::now());
        let node = OriginatorId(300);
        let written = (0..1_000).filter_map(|_| lines.count(start, node, "time_ahead"));
        assert_eq!(written.collect::<Vec<_>>(), [0; 8]);
        assert_eq!(lines.count(start, node, "fee"), Some(0), "another fault");
        assert_eq!(lines.count(start, OriginatorId(200), "time_ahead"), Some(0), "another node");
        let later = start + PERIOD;
        assert_eq!(lines.count(later, node, "time_ahead"), Some(992));
        assert_eq!(lines.count(later, node, "time_ahead"), Some(0));
    }

    /// Played by a node that signs every other place of its strand.
    #[test]
    fn a_strand_that_lacks_every_other_place_fills_no_log() {
        let (lines, start) = (FaultLines::default(), Instant::now());
        let is_named = |place: u64| {
            let places = (SequenceId(place), SequenceId(place));
            lines.name_missing(start, OriginatorId(300), places)
        };
        let named = (2..2_000).step_by(2).filter(|place| is_named(*place)).count();
        assert_eq!(named, usize::try_from(LINES_MAX).unwrap());
    }
}
