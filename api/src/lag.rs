//! Tracks the age of each strand's lag. Time is an argument.

use std::collections::{BTreeMap, VecDeque};

use hawser_proto::void::{LackedPlaces, SignedVoid};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use parking_lot::Mutex;

/// Largest number of positions of a strand. Beyond it every second one is dropped, so that memory is bounded and
/// the age of the oldest stays exact. A guess.
const CLAIMS_MAX: usize = 512;

/// Positions of peers that this node has not reached, by strand.
#[derive(Debug, Default)]
pub(crate) struct LagTracker(Mutex<BTreeMap<OriginatorId, StrandLag>>);

/// Claimed positions beyond this node's, each with the time of the first claim. Both ascend.
#[derive(Debug, Default)]
struct StrandLag(VecDeque<(SequenceId, i64)>);

impl LagTracker {
    /// Records that this node holds `held` and that a peer claims `furthest`. Places that are declared void are not
    /// lacked: `voids` are the statements that this node keeps. Returns the number of envelopes that this node lacks,
    /// and the seconds since the first claim of one of them; 0 if it lacks none. A claim counts as long as `furthest`
    /// reaches it.
    pub(crate) fn note(
        &self,
        now_ns: i64,
        held: EnvelopeId,
        furthest: SequenceId,
        voids: &[SignedVoid],
    ) -> (u64, f64) {
        let of_strand = voids.iter().map(|signed| signed.statement);
        let of_strand = of_strand.filter(|it| it.node == held.originator);
        let lacked = LackedPlaces::new(held.sequence, furthest, of_strand);
        let mut strands = self.0.lock();
        let lag_ns =
            strands.entry(held.originator).or_default().note(now_ns, lacked.held, furthest);
        (lacked.count, lag_ns as f64 / 1e9)
    }

    /// Forgets the claims about a strand. The age of a later claim begins at zero.
    pub(crate) fn forget(&self, originator: OriginatorId) {
        self.0.lock().remove(&originator);
    }
}

impl StrandLag {
    fn note(&mut self, now_ns: i64, held: SequenceId, furthest: SequenceId) -> i64 {
        // The clock was set back since: these claims have an age again, and not only when the clock has caught up.
        let later = self.0.iter_mut().rev().take_while(|(_, claimed_ns)| *claimed_ns > now_ns);
        later.for_each(|(_, claimed_ns)| *claimed_ns = now_ns);
        // A peer that left, or lied, takes its claims along. The first of them covered the places before it as well.
        let kept = self.0.partition_point(|(sequence, _)| *sequence <= furthest);
        let since_ns = self.0.get(kept).map_or(now_ns, |(_, claimed_ns)| *claimed_ns);
        self.0.truncate(kept);
        while self.0.front().is_some_and(|(sequence, _)| *sequence <= held) {
            self.0.pop_front();
        }
        let known = self.0.back().map_or(held, |(sequence, _)| *sequence);
        if furthest > known {
            self.0.push_back((furthest, since_ns));
        }
        if self.0.len() > CLAIMS_MAX {
            let every_other = self.0.iter().copied().step_by(2).collect();
            self.0 = every_other;
        }
        debug_assert!(self.0.iter().is_sorted(), "claims and times ascend");
        debug_assert!(self.0.len() <= CLAIMS_MAX, "bounded");
        self.0.front().map_or(0, |(_, claimed_ns)| now_ns.saturating_sub(*claimed_ns).max(0))
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::void::VoidStatement;
    use proptest::prelude::*;

    use super::*;

    fn note(lag: &mut StrandLag, at: i64, held: u64, furthest: u64) -> i64 {
        lag.note(at, SequenceId(held), SequenceId(furthest))
    }

    #[test]
    fn the_lag_is_the_age_of_the_news_of_the_first_envelope_that_is_missing() {
        let mut lag = StrandLag::default();
        assert_eq!(note(&mut lag, 10, 5, 5), 0);
        assert_eq!(note(&mut lag, 20, 5, 7), 0);
        assert_eq!(note(&mut lag, 30, 5, 9), 10);
        assert_eq!(note(&mut lag, 40, 6, 9), 20, "7 is still missing");
        assert_eq!(note(&mut lag, 50, 8, 9), 20, "9 was heard of at 30");
        assert_eq!(note(&mut lag, 60, 9, 9), 0);
        assert_eq!(note(&mut lag, 70, 9, 12), 0);
        assert_eq!(note(&mut lag, 65, 9, 12), 0, "a clock that goes back");
    }

    /// The clock was an hour ahead, and is corrected while the strand is behind.
    #[test]
    fn the_lag_grows_again_when_the_clock_was_set_back() {
        let mut lag = StrandLag::default();
        assert_eq!(note(&mut lag, 3_600, 5, 7), 0);
        assert_eq!(note(&mut lag, 3_610, 5, 8), 10);
        assert_eq!(note(&mut lag, 10, 5, 9), 0);
        assert_eq!(note(&mut lag, 130, 5, 9), 120);
    }

    /// Played by a node that states a head which there is not, and leaves.
    #[test]
    fn what_no_peer_claims_any_more_is_no_lag() {
        let mut lag = StrandLag::default();
        assert_eq!(note(&mut lag, 10, 5, 7), 0);
        assert_eq!(note(&mut lag, 20, 5, 1_000_000), 10);
        assert_eq!(note(&mut lag, 30, 7, 1_000_000), 10, "8 was claimed with the last place");
        assert_eq!(note(&mut lag, 40, 7, 9), 20, "so was 9, which another peer claims");
        assert_eq!(note(&mut lag, 50, 7, 7), 0, "it lacks nothing");
        assert_eq!(note(&mut lag, 60, 7, 8), 0, "it was claimed just now");
        assert_eq!(note(&mut lag, 70, 7, 8), 10);
    }

    #[test]
    fn a_gap_that_is_declared_void_is_no_lag_and_what_follows_has_its_own_age() {
        const SECOND: i64 = 1_000_000_000;
        let node = OriginatorId(200);
        let (from, through) = (SequenceId(3), SequenceId(1_000_002));
        let of = VoidStatement { node, from, through, time_ns: 5, incarnation: [1; 16] };
        let voids = [of.sign(&SecretKey::from_bytes(&[7; 32]).unwrap())];
        let (lags, held) = (LagTracker::default(), EnvelopeId::new(node, SequenceId(2)));
        let note = |at: i64, furthest: SequenceId, voids: &[SignedVoid]| {
            lags.note(at * SECOND, held, furthest, voids)
        };
        assert_eq!(note(0, through, &[]), (1_000_000, 0.0));
        assert_eq!(note(60, through, &[]), (1_000_000, 60.0), "the statement has not come yet");
        assert_eq!(note(61, through, &voids), (0, 0.0));
        assert_eq!(note(3_600, through.next(), &voids), (1, 0.0), "it was claimed just now");
        assert_eq!(note(3_660, through.next(), &voids), (1, 60.0));
        let other = EnvelopeId { originator: OriginatorId(300), ..held };
        assert_eq!(lags.note(0, other, through, &voids).0, 1_000_000, "another strand");
    }

    #[test]
    fn a_steady_follower_is_not_seen_as_ever_further_behind() {
        let mut lag = StrandLag::default();
        for at in 1..1000 {
            assert!(note(&mut lag, at, at.unsigned_abs() - 1, at.unsigned_abs()) <= 1);
        }
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_the_lag_never_exceeds_its_age(steps in 1u64..3000) {
            let mut lag = StrandLag::default();
            for step in 1..=steps {
                let at = i64::try_from(step).unwrap();
                prop_assert_eq!(note(&mut lag, at, 0, step), at - 1);
                prop_assert!(lag.0.len() <= CLAIMS_MAX);
            }
        }
    }
}
