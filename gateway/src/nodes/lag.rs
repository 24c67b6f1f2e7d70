//! Tracks how far each node is behind the others, by the cursors that they report. Plain values;
//! time is an argument.
//!
//! A sequence id counts only when two nodes report it: a node that lies about its cursor must not
//! make all others look late.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use hawser_proto::{Cursor, OriginatorId, SequenceId};

/// Time for which heads are remembered, and the largest lag that is reported. A guess: five times the
/// lag at which a node counts as unusable.
const REMEMBERED: Duration = Duration::from_secs(300);

/// The cursors that nodes have reported.
#[derive(Debug, Default)]
pub(crate) struct NodeLags {
    cursors: BTreeMap<OriginatorId, Cursor>,
    /// For each originator the times at which two nodes had reached a sequence id, ascending in both.
    heads: BTreeMap<OriginatorId, VecDeque<(Instant, SequenceId)>>,
}

impl NodeLags {
    /// Records the cursor that a node reports, without originators that are not `known`: a node may
    /// name any number of them.
    pub(crate) fn record(
        &mut self,
        node: OriginatorId,
        cursor: &Cursor,
        known: impl Fn(OriginatorId) -> bool,
        now: Instant,
    ) {
        let cursor = cursor.iter().filter(|id| known(id.originator)).collect();
        self.cursors.insert(node, cursor);
        let originators: Vec<_> = self.cursors[&node].iter().map(|id| id.originator).collect();
        for originator in originators {
            let head = self.known_to_two(originator);
            if head == SequenceId::NONE {
                continue;
            }
            let heads = self.heads.entry(originator).or_default();
            if heads.back().is_none_or(|(_, last)| *last < head) {
                heads.push_back((now, head));
            }
            debug_assert!(heads.iter().is_sorted(), "heads ascend in time and sequence id");
            while heads.len() > 1 && now.duration_since(heads[0].0) > REMEMBERED {
                heads.pop_front();
            }
        }
    }

    /// Forgets a node that has left the network.
    pub(crate) fn forget(&mut self, node: OriginatorId) {
        self.cursors.remove(&node);
        self.heads.remove(&node);
    }

    /// Returns the time since which two other nodes hold an envelope that this one does not; zero for
    /// a node without a reported cursor.
    pub(crate) fn lag(&self, node: OriginatorId, now: Instant) -> Duration {
        let Some(cursor) = self.cursors.get(&node) else { return Duration::ZERO };
        let late = self.heads.iter().filter_map(|(originator, heads)| {
            let missing = heads.iter().find(|(_, head)| *head > cursor.get(*originator))?;
            Some(now.duration_since(missing.0))
        });
        late.max().unwrap_or_default()
    }

    /// Returns the highest sequence id that two nodes report.
    fn known_to_two(&self, originator: OriginatorId) -> SequenceId {
        let mut reported: Vec<_> =
            self.cursors.values().map(|cursor| cursor.get(originator)).collect();
        reported.sort_unstable();
        reported.len().checked_sub(2).map_or(SequenceId::NONE, |second| reported[second])
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::EnvelopeId;

    use super::*;

    const A: OriginatorId = OriginatorId(100);
    const B: OriginatorId = OriginatorId(200);
    const C: OriginatorId = OriginatorId(300);

    fn record(lags: &mut NodeLags, node: OriginatorId, sequence: u64, now: Instant) {
        let cursor = [EnvelopeId::new(A, SequenceId(sequence))].into_iter().collect();
        lags.record(node, &cursor, |originator| originator == A, now);
    }

    #[test]
    fn a_node_is_late_since_two_others_had_more() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lags = NodeLags::default();
        for node in [A, B, C] {
            record(&mut lags, node, 5, at(0));
        }
        record(&mut lags, A, 6, at(1));
        assert_eq!(lags.lag(C, at(2)), Duration::ZERO, "only one node has more");
        record(&mut lags, B, 7, at(3));
        assert_eq!(lags.lag(C, at(70)), Duration::from_secs(67));
        assert_eq!(lags.lag(A, at(70)), Duration::ZERO);
        record(&mut lags, C, 6, at(71));
        assert_eq!(lags.lag(C, at(71)), Duration::ZERO);
    }

    #[test]
    fn one_node_cannot_make_all_others_late() {
        let start = Instant::now();
        let mut lags = NodeLags::default();
        for (node, sequence) in [(A, 5), (B, 5), (C, u64::MAX / 2)] {
            record(&mut lags, node, sequence, start);
        }
        let later = start + Duration::from_secs(1000);
        assert!([A, B, C].into_iter().all(|node| lags.lag(node, later) == Duration::ZERO));
    }

    #[test]
    fn unknown_originators_leave_nothing_behind() {
        let mut lags = NodeLags::default();
        for round in 1..4 {
            let many = (0..1000).map(|n| OriginatorId(1_000_000 * round + n));
            let many: Cursor = many.map(|it| EnvelopeId::new(it, SequenceId(9))).collect();
            for node in [A, B] {
                lags.record(node, &many, |originator| originator == A, Instant::now());
            }
        }
        assert!(lags.heads.is_empty());
        assert!(lags.cursors.values().all(|cursor| cursor.iter().count() == 0));
    }

    #[test]
    fn claims_are_bounded_and_the_oldest_is_kept() {
        let start = Instant::now();
        let mut lags = NodeLags::default();
        record(&mut lags, C, 1, start);
        for second in 0..1000 {
            let now = start + Duration::from_secs(second);
            record(&mut lags, A, second + 2, now);
            record(&mut lags, B, second + 2, now);
        }
        assert!(lags.heads[&A].len() <= 302);
        assert!(lags.lag(C, start + Duration::from_secs(1000)) >= REMEMBERED);
        lags.forget(C);
        assert_eq!(lags.lag(C, start + Duration::from_secs(1000)), Duration::ZERO);
    }
}
