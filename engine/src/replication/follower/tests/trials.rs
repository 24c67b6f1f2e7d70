//! Several peers that are tried at once, and the ends of their trials.

use super::source::{FAILOVER, beside_liars};
use super::*;
use crate::replication::follower::choice::{
    ENVELOPE_WITHIN, FIRST_PAUSE, FIRST_TRIALS_MAX, FORGET_AFTER, NEXT_TRIAL_AFTER, STALL_TIMEOUT,
    TRIAL, TRIALS_MAX,
};

/// A claim of more places than any strand has.
const TOO_HIGH: u64 = 1 << 60;
const MOMENT: Duration = Duration::from_millis(50);

impl Rig {
    /// Lets a peer connect again. `is_noticed` says that the end of its connection comes first.
    fn connects_again(&mut self, peer: OriginatorId, head: u64, is_noticed: bool) {
        if is_noticed {
            self.down(peer);
        }
        self.asked.remove(&peer);
        self.follower.handle_peer_up(self.now, peer, SequenceId(head));
        self.effects();
    }

    /// The peers that are tried, in the order in which they were asked.
    fn tried(&self) -> Vec<OriginatorId> {
        self.follower.choice.trials.iter().map(|trial| trial.peer).collect()
    }
}

/// No trial of theirs would end with a doubt, and they would always be the ones that claim most.
#[test]
fn peers_that_connect_again_before_their_trials_end_keep_no_other_peer_out() {
    for is_noticed in [false, true] {
        let mut rig = beside_liars(20);
        rig.follower.handle_peer_up(rig.now, THIRD, SequenceId(9));
        rig.effects();
        let begin = rig.now;
        while rig.asks(THIRD).is_none() {
            rig.wait(MOMENT);
            let soon = rig.now + MOMENT * 2;
            let trials = rig.follower.choice.trials.iter();
            let ending = trials.filter(|trial| trial.until <= soon && trial.peer != THIRD);
            for liar in ending.map(|trial| trial.peer).collect::<Vec<_>>() {
                rig.connects_again(liar, TOO_HIGH, is_noticed);
            }
            assert!(rig.tried().len() <= FIRST_TRIALS_MAX);
            assert!(rig.now - begin < STALL_TIMEOUT + TRIAL * 4, "{:?}", rig.asked);
        }
        rig.send(THIRD, 8..=9);
        assert_eq!(rig.asked_without_end(), [THIRD]);
    }
}

/// The first peer has a moment alone. All at once would be as many copies of one envelope over a slow link.
#[test]
fn peers_that_were_never_doubted_are_tried_in_rounds_that_double() {
    let mut rig = beside_liars(20);
    rig.wait(STALL_TIMEOUT - MOMENT);
    assert_eq!(rig.tried(), []);
    rig.wait(MOMENT);
    let mut tried = vec![rig.tried().len()];
    for _ in 0..4 {
        rig.wait(NEXT_TRIAL_AFTER);
        tried.push(rig.tried().len());
    }
    assert_eq!(tried, [1, 3, 7, FIRST_TRIALS_MAX, FIRST_TRIALS_MAX]);
    let first = OriginatorId(500);
    assert_eq!(rig.asks(first), None, "its second is over, and the next one has its place");
}

/// The strand's own node is gone. No peer would be tried beside them.
#[test]
fn relays_that_connect_again_before_another_peer_is_tried_hold_no_strand_up() {
    for is_noticed in [false, true] {
        let mut rig = beside_liars(3);
        rig.follower.handle_peer_up(rig.now, THIRD, SequenceId(9));
        rig.effects();
        rig.down(SOURCE);
        let begin = rig.now;
        while rig.follower.source() != Some(THIRD) {
            let liar = rig.follower.source().expect("there are relays");
            rig.wait(STALL_TIMEOUT - MOMENT);
            rig.connects_again(liar, TOO_HIGH, is_noticed);
            assert!(rig.now - begin < STALL_TIMEOUT * 4, "{:?}", rig.asked);
        }
        rig.send(THIRD, 8..=9);
        assert_eq!(rig.asked_without_end(), [THIRD]);
    }
}

/// The link may be the cause, and there may be no other peer that holds the strand.
#[test]
fn a_peer_whose_connection_ends_in_its_trial_gets_the_shortest_pause_each_time() {
    let mut rig = Rig::three(7);
    rig.claims(OTHER, 9);
    rig.wait(FAILOVER);
    for time in 0..6 {
        assert_eq!(rig.asks(OTHER), Some((7, None)), "{time}");
        rig.connects_again(OTHER, 9, true);
        rig.wait(FIRST_PAUSE);
        assert_eq!(rig.asks(OTHER), None, "{time}");
        rig.wait(FAILOVER);
    }
    rig.send(OTHER, 8..=9);
    assert_eq!(rig.follower.source(), Some(OTHER));
}

/// An honest peer that was slow once would come behind peers that have yet to lie for the first time, for ever.
#[test]
fn a_pause_of_long_ago_counts_no_more() {
    // At the end of the next trial the pause is nearly as old as counts, or older.
    let recent = FORGET_AFTER - STALL_TIMEOUT - TRIAL - MOMENT;
    for (pause_ago, times) in [(recent, 1), (FORGET_AFTER, 0)] {
        let mut rig = Rig::three(7);
        rig.claims(OTHER, 9);
        rig.wait(STALL_TIMEOUT);
        assert_eq!(rig.tried(), [OTHER]);
        rig.wait(TRIAL);
        assert_eq!(rig.follower.choice.record(OTHER), (1, Duration::ZERO));
        rig.send(SOURCE, 8..=9);
        rig.wait(FIRST_PAUSE + pause_ago);
        rig.claims(OTHER, 12);
        assert_eq!(rig.follower.choice.record(OTHER), (times, Duration::ZERO));
        rig.wait(STALL_TIMEOUT);
        assert_eq!(rig.tried(), [OTHER]);
        rig.wait(TRIAL);
        let has_more_time = rig.asks(OTHER).is_some();
        assert_eq!(has_more_time, times > 0, "its trial is as long as the first one");
    }
}

/// A relay that has sent all that it claimed is at no fault.
#[test]
fn a_relay_that_owes_nothing_gets_no_pause_when_its_connection_ends() {
    let mut rig = Rig::new(7);
    rig.follower.handle_peer_up(rig.now, OTHER, SequenceId(9));
    rig.effects();
    rig.send(OTHER, 8..=9);
    rig.connects_again(OTHER, 9, true);
    assert_eq!(rig.asked_without_end(), [OTHER]);
    assert!(rig.follower.choice.doubts.is_empty());
}

#[test]
fn of_peers_that_were_doubted_as_often_the_one_with_most_time_gives_way() {
    let mut rig = beside_liars(4);
    let begin = rig.now;
    let is_second = |rig: &Rig, peer: &OriginatorId| rig.follower.choice.times(*peer) == 1;
    while rig.tried().len() < TRIALS_MAX || !rig.tried().iter().all(|it| is_second(&rig, it)) {
        rig.wait(MOMENT);
        assert!(rig.now - begin < TRIAL * 6, "{:?}", rig.follower.choice);
    }
    let tried = rig.tried();
    rig.follower.handle_peer_up(rig.now, THIRD, SequenceId(9));
    rig.effects();
    rig.wait(STALL_TIMEOUT + MOMENT);
    assert_eq!(rig.tried(), [&tried[1..], &[THIRD]].concat());
}

/// No trial of theirs ended with a pause, because an honest peer sent first. They would lead each time again.
#[test]
fn peers_that_others_outran_for_longer_are_tried_later() {
    let liar = OriginatorId(500);
    let outrun = |rig: &Rig, peer| rig.follower.choice.record(peer);
    let mut rig = beside_liars(7);
    for (peer, head) in [(OTHER, 12), (THIRD, 9)] {
        rig.follower.handle_peer_up(rig.now, peer, SequenceId(head));
    }
    rig.effects();
    rig.wait(STALL_TIMEOUT + NEXT_TRIAL_AFTER * 3);
    assert_eq!(rig.tried()[7..], [OTHER, THIRD], "they claim least");
    rig.wait(MOMENT);
    rig.send(THIRD, 8..=9);
    assert_eq!(rig.asked_without_end(), [THIRD]);
    assert_eq!(outrun(&rig, liar), (0, NEXT_TRIAL_AFTER * 3 + MOMENT), "that is no doubt");
    assert_eq!(outrun(&rig, OTHER), (0, MOMENT), "it was slower");

    // A new connection is no new beginning.
    rig.connects_again(liar, TOO_HIGH, true);
    rig.wait(STALL_TIMEOUT);
    assert_eq!(rig.tried(), [OTHER]);
    rig.send(OTHER, 10..=12);
    assert_eq!(outrun(&rig, OTHER), (0, Duration::ZERO), "it has sent something");

    // The connection of the source ends.
    rig.claims(THIRD, 12);
    rig.down(OTHER);
    assert_eq!(rig.asked_without_end(), [THIRD]);
    // Only the liars are left.
    rig.down(THIRD);
    assert_eq!(rig.asked_without_end().len(), 1);
}

/// A long envelope over a slow link. Asked again, its sender would begin it anew each time.
#[test]
fn a_source_whose_bytes_arrive_is_not_asked_again_for_ten_minutes() {
    let mut rig = Rig::connected(7);
    rig.follower.handle_proven(SOURCE);
    rig.claims(SOURCE, 9);
    let (begin, (first, _)) = (rig.now, rig.asked[&SOURCE]);
    while rig.asked[&SOURCE].0 == first {
        assert_eq!(rig.answer(SOURCE, Vec::new()), []);
        rig.wait(STALL_AFTER / 2);
        assert!(rig.now < begin + ENVELOPE_WITHIN * 2, "no envelope takes so long");
    }
    assert!(rig.now >= begin + ENVELOPE_WITHIN);
    assert!(!rig.follower.take_stalled(), "it was not silent twice");
    let again = rig.now;
    rig.wait(STALL_AFTER);
    assert!(rig.follower.take_stalled(), "no bytes have come since {again:?}");

    let mut beside = Rig::connected(7);
    beside.claims(SOURCE, 9);
    beside.follower.handle_peer_up(beside.now, OTHER, SequenceId(9));
    beside.effects();
    beside.answer(SOURCE, Vec::new());
    beside.wait(STALL_TIMEOUT);
    assert_eq!(beside.tried(), [OTHER], "bytes keep no other peer waiting");
}
