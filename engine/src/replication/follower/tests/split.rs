//! A long backlog that several peers send at once.

use super::*;
use crate::replication::follower::choice::{STALL_TIMEOUT, TRIAL};

const LIMITS: SplitLimits = SplitLimits {
    backlog_min: 100,
    first_part_places: 10,
    part_places_max: 40,
    held_bytes_max: 256 * 1024,
};
const PEERS: [OriginatorId; 3] = [SOURCE, OTHER, THIRD];

/// Behaviour of a peer that is asked for a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Sends,
    IsSilent,
    ClaimsGaps,
    EndsEarly,
    Refuses,
    Forges,
}

impl Rig {
    /// Holds nothing; three peers have proved their ids and claim `head`.
    fn behind(head: u64) -> Self {
        Self::behind_peers(head, true)
    }

    /// Holds nothing; three peers claim `head`. Those over gRPC do not prove their ids.
    fn behind_peers(head: u64, are_proven: bool) -> Self {
        let mut rig = Self::new(0);
        rig.follower =
            Follower::new(SOURCE, SequenceId::NONE, [], rig.now).with_split_limits(LIMITS);
        for peer in PEERS {
            rig.follower.handle_peer_up(rig.now, peer, SequenceId(head));
            if are_proven {
                rig.follower.handle_proven(peer);
            }
        }
        rig.effects();
        rig
    }

    /// Holds nothing, and has split the backlog.
    fn split(head: u64) -> Self {
        Self::split_among(head, true)
    }

    /// Holds nothing, and has split the backlog among peers that have proved their ids or have not.
    fn split_among(head: u64, are_proven: bool) -> Self {
        let mut rig = Self::behind_peers(head, are_proven);
        rig.follower.start_split(rig.now);
        rig.effects();
        assert!(rig.follower.is_split());
        rig
    }

    /// Lets a peer send all or the next `count` places of what it was asked for, to `head` at most.
    fn send_part(&mut self, peer: OriginatorId, head: u64, count: u64) -> Vec<Effect> {
        let Some((request, want)) = self.asked.get(&peer).copied() else { return Vec::new() };
        let end = want.up_to().map_or(head, |up_to| up_to.0.min(head));
        let first = want.after.0 + 1;
        let last = end.min(want.after.0 + count);
        if first > last {
            return Vec::new();
        }
        self.asked.remove(&peer);
        let rest = Want { after: SequenceId(last), ..want };
        if want.up_to().is_none() || last < end {
            self.asked.insert(peer, (request, rest));
        }
        self.deliver(peer, request, envelopes(first..=last))
    }

    fn do_habit(&mut self, habit: Habit, peer: OriginatorId, head: u64) -> Vec<Effect> {
        let Some((request, want)) = self.asked.get(&peer).copied() else { return Vec::new() };
        if want.up_to().is_none() && habit != Habit::Sends {
            return Vec::new();
        }
        let items = match habit {
            Habit::Sends => return self.send_part(peer, head, 7),
            Habit::IsSilent => return Vec::new(),
            Habit::ClaimsGaps => {
                let (from, to) = (want.after.next(), want.up_to().unwrap_or(SequenceId::MAX));
                vec![StrandItem::Gap { from, to, expired: false }]
            }
            Habit::EndsEarly => vec![StrandItem::End],
            Habit::Refuses => vec![StrandItem::Closed],
            Habit::Forges => vec![StrandItem::Envelope(Err(PeerViolation::ForgedSignature))],
        };
        self.asked.remove(&peer);
        self.deliver(peer, request, items)
    }

    /// Splits the backlog, and lets each peer end each part early. Returns the number of places that the source sends
    /// alone until the backlog can be split again.
    fn places_alone(&mut self, head: u64) -> u64 {
        self.follower.start_split(self.now);
        self.effects();
        self.end_parts_early(head)
    }

    /// Does the same with a backlog that is split.
    fn end_parts_early(&mut self, head: u64) -> u64 {
        while self.follower.is_split() {
            PEERS.iter().for_each(|peer| drop(self.do_habit(Habit::EndsEarly, *peer, head)));
            self.wait(Duration::from_millis(10));
        }
        let (source, before) = (self.follower.source().unwrap(), self.follower.accepted().0);
        while !self.follower.can_split() {
            let next = self.follower.accepted().0 + 1;
            self.answer(source, envelopes(next..next + 10));
            self.store();
        }
        self.follower.accepted().0 - before
    }
}

/// Returns the places that the effects append, in order.
fn appended(effects: &[Effect]) -> Vec<u64> {
    let places = |effect: &Effect| match effect {
        Effect::Write(StrandWrite::Append { changes, .. }) => {
            changes.iter().map(|change| change.start().sequence.0).collect()
        }
        _ => Vec::new(),
    };
    effects.iter().flat_map(places).collect()
}

#[test]
fn each_peer_sends_another_part_and_the_strand_grows_in_order() {
    for are_proven in [true, false] {
        grows_in_order_from_parts(Rig::split_among(1_000, are_proven));
    }
}

fn grows_in_order_from_parts(mut rig: Rig) {
    let asked = PEERS.map(|peer| rig.asks(peer));
    assert_eq!(asked, [(0, Some(10)), (10, Some(20)), (20, Some(30))].map(Some));
    assert_eq!(appended(&rig.send_part(THIRD, 1_000, 10)), Vec::<u64>::new(), "it waits");
    assert_eq!(rig.asks(THIRD), Some((30, Some(50))), "twice as much as before");
    assert_eq!(appended(&rig.send_part(OTHER, 1_000, 3)), Vec::<u64>::new());
    assert!(rig.follower.held_bytes() > 0);
    let effects = rig.send_part(SOURCE, 1_000, 10);
    assert_eq!(
        appended(&effects),
        (1..=13).collect::<Vec<_>>(),
        "and what has come of the next one"
    );
    let effects = rig.send_part(OTHER, 1_000, 7);
    assert_eq!(appended(&effects), (14..=30).collect::<Vec<_>>());
    assert_eq!(rig.follower.held_bytes(), 0);
}

#[test]
fn the_end_of_the_strand_comes_from_the_source_alone() {
    let mut rig = Rig::split(1_000);
    let mut places = Vec::new();
    for _ in 0..200 {
        for peer in PEERS {
            places.extend(appended(&rig.send_part(peer, 1_000, 40)));
            rig.store();
        }
        rig.wait(Duration::from_millis(1));
        if !rig.follower.is_split() {
            break;
        }
    }
    assert!(!rig.follower.is_split());
    let last = rig.follower.accepted().0;
    assert_eq!(last, 975);
    // From what is on the disk.
    assert!(matches!(rig.asks(SOURCE), Some((after, None)) if after <= last));
    assert_eq!(places, (1..=last).collect::<Vec<_>>());
    assert_eq!([OTHER, THIRD].map(|peer| rig.asks(peer)), [None, None]);
}

#[test]
fn a_backlog_is_split_only_among_two_peers_or_more_and_by_a_claim_of_the_source() {
    let mut rig = Rig::behind(100);
    assert!(!rig.follower.can_split(), "it is short");
    rig.claims(OTHER, 1 << 60);
    rig.claims(THIRD, 1 << 60);
    assert!(!rig.follower.can_split(), "the source claims less");
    rig.follower.start_split(rig.now);
    rig.effects();
    assert_eq!(rig.asks(SOURCE), Some((0, None)), "nothing has changed");
    rig.claims(SOURCE, 101);
    assert!(rig.follower.can_split());
    let mut rig = Rig::new(0);
    rig.follower = Follower::new(SOURCE, SequenceId::NONE, [], rig.now).with_split_limits(LIMITS);
    rig.follower.handle_peer_up(rig.now, SOURCE, SequenceId(1_000));
    assert!(!rig.follower.can_split(), "one peer alone");
    rig.follower.handle_peer_up(rig.now, THIRD, SequenceId(100));
    assert!(!rig.follower.can_split(), "another one that claims less");
    rig.follower.handle_head(rig.now, THIRD, SequenceId(1_000));
    assert!(rig.follower.can_split());
}

/// A relay over gRPC does not check what it passes on, and keeps its connection.
#[test]
fn a_relay_that_passes_on_a_forged_envelope_in_a_part_loses_the_part_at_once() {
    let mut rig = Rig::split_among(1_000, false);
    assert_eq!(rig.asks(OTHER), Some((10, Some(20))));
    let mut items = envelopes(11..=14);
    items.push(StrandItem::Envelope(Err(PeerViolation::ForgedSignature)));
    items.extend(envelopes(15..=20));
    let effects = rig.answer(OTHER, items);
    assert!(effects.contains(&Effect::Stop { peer: OTHER }), "{effects:?}");
    let is_left = |effect: &Effect| matches!(effect, Effect::Disconnect { .. });
    assert!(!effects.iter().any(is_left), "{effects:?}");
    assert_eq!(rig.asks(OTHER), Some((30, Some(40))), "another part may be sound");
    rig.send_part(THIRD, 1_000, 10);
    assert_eq!(rig.asks(THIRD), Some((14, Some(20))), "the rest of its part");
    rig.send_part(SOURCE, 1_000, 10);
    let effects = rig.send_part(THIRD, 1_000, 6);
    assert_eq!(appended(&effects), (15..=30).collect::<Vec<_>>());
    rig.send_part(OTHER, 1_000, 10);
    assert_eq!(rig.asks(OTHER), None, "another peer has sent what it did not");
    assert_eq!(rig.follower.accepted(), SequenceId(40));
    assert!(rig.follower.is_split());
}

/// A node of other software may be too busy for parts, and send its strand all the same.
#[test]
fn a_backlog_whose_parts_are_refused_comes_without_parts() {
    for are_proven in [true, false] {
        let mut rig = Rig::split_among(1_000, are_proven);
        for _ in 0..20 {
            if !rig.follower.is_split() {
                break;
            }
            PEERS.iter().for_each(|peer| drop(rig.do_habit(Habit::Refuses, *peer, 1_000)));
            rig.wait(RETRY_AFTER);
        }
        assert!(!rig.follower.is_split(), "{are_proven}");
        let source = rig.follower.source().unwrap();
        assert_eq!(rig.asks(source), Some((0, None)));
    }
}

#[test]
fn a_peer_that_shows_nothing_of_its_part_loses_it_to_another() {
    use Habit::{ClaimsGaps, EndsEarly, Forges, IsSilent, Refuses};
    for habit in [IsSilent, ClaimsGaps, EndsEarly, Refuses, Forges] {
        for (bad, are_proven) in PEERS.into_iter().flat_map(|peer| [(peer, true), (peer, false)]) {
            let mut rig = Rig::split_among(10_000, are_proven);
            let (begin, mut places) = (rig.now, Vec::new());
            while rig.follower.accepted().0 < 9_900 {
                for peer in PEERS {
                    let habit = if peer == bad { habit } else { Habit::Sends };
                    places.extend(appended(&rig.do_habit(habit, peer, 10_000)));
                }
                rig.store();
                places.extend(appended(&rig.wait(Duration::from_millis(10))));
                let waited = rig.now - begin;
                assert!(waited < Duration::from_secs(60), "{habit:?} {bad}: {:?}", rig.follower);
            }
            assert!(places.iter().copied().eq(1..=rig.follower.accepted().0), "{habit:?} {bad}");
        }
    }
}

#[test]
fn a_slow_peer_loses_the_first_part_and_gets_smaller_ones() {
    let mut rig = Rig::split(100_000);
    let begin = rig.now;
    while rig.follower.accepted().0 < 20_000 {
        rig.send_part(SOURCE, 100_000, 1);
        for peer in [OTHER, THIRD] {
            rig.send_part(peer, 100_000, 40);
        }
        rig.store();
        rig.wait(Duration::from_millis(100));
        // 70 s is what the fast ones need alone; the slow one would need 2000 s.
        assert!(rig.now - begin < Duration::from_secs(70), "{:?}", rig.follower.accepted());
    }
    assert!(rig.follower.is_split());
    if let Some((after, up_to)) = rig.asks(SOURCE) {
        assert!(up_to.unwrap() - after <= 10, "{after} {up_to:?}");
    }
}

/// Over a slow link, a page of long envelopes takes longer than a trial. Such peers would all get pauses, and the split
/// would end.
#[test]
fn a_peer_keeps_its_part_while_bytes_of_it_arrive_and_no_other_peer_waits() {
    let mut rig = Rig::split(1_000);
    let asked = PEERS.map(|peer| rig.asks(peer));
    for _ in 0..40 {
        for peer in PEERS {
            rig.answer(peer, Vec::new());
        }
        rig.wait(TRIAL / 4);
        assert_eq!(PEERS.map(|peer| rig.asks(peer)), asked);
    }
    for _ in 0..100 {
        for peer in PEERS {
            if rig.asked.contains_key(&peer) {
                rig.answer(peer, Vec::new());
            }
        }
        rig.wait(TRIAL / 4);
    }
    assert!(!rig.follower.is_split(), "no envelope has come for half a minute");

    let head = 1 << 40;
    let mut rig = Rig::split(head);
    for _ in 0..100 {
        for peer in [OTHER, THIRD] {
            rig.send_part(peer, head, 40);
        }
    }
    assert_eq!([OTHER, THIRD].map(|peer| rig.asks(peer)), [None, None], "they wait");
    for _ in 0..3 {
        rig.answer(SOURCE, Vec::new());
        rig.wait(TRIAL / 4);
    }
    let lead = Some((0, Some(10)));
    assert!([OTHER, THIRD].map(|peer| rig.asks(peer)).contains(&lead), "it has held them up");
}

/// Otherwise a far peer would hold a near one up with each of its parts.
#[test]
fn a_peer_for_which_others_have_waited_gets_a_smaller_part() {
    let mut rig = Rig::split(1 << 40);
    rig.send_part(SOURCE, 1 << 40, 9);
    for _ in 0..100 {
        for peer in [OTHER, THIRD] {
            rig.send_part(peer, 1 << 40, 40);
        }
    }
    assert_eq!([OTHER, THIRD].map(|peer| rig.asks(peer)), [None, None], "they wait");
    rig.send_part(SOURCE, 1 << 40, 1);
    assert!(rig.follower.accepted().0 > 100, "{:?}", rig.follower.accepted());
    let places = |rig: &Rig, peer| rig.asks(peer).and_then(|(after, end)| Some(end? - after));
    assert_eq!(places(&rig, SOURCE), Some(5), "half of its first part");
    assert_eq!(places(&rig, OTHER), Some(40));
}

/// The near one is a peer over QUIC that sends without a pause, and the far one sends a page in each round trip, as
/// over gRPC.
#[test]
fn a_far_peer_makes_a_near_one_hardly_slower() {
    const HEAD: u64 = 60_000;
    /// Places that the near one sends in a millisecond: about 14 MB/s.
    const RATE: u64 = 20;
    const PAGE: u64 = 748;
    for (round_trip_ms, tenths) in [(100, 10), (200, 11), (400, 11), (800, 13)] {
        let mut rig = Rig::new(0);
        rig.follower = Follower::new(SOURCE, SequenceId::NONE, [], rig.now);
        for peer in [SOURCE, OTHER] {
            rig.follower.handle_peer_up(rig.now, peer, SequenceId(HEAD));
        }
        rig.follower.handle_proven(SOURCE);
        rig.follower.start_split(rig.now);
        rig.effects();
        let (begin, round_trip) = (rig.now, Duration::from_millis(round_trip_ms));
        let mut page: Option<(RequestId, Instant)> = None;
        while rig.follower.is_split() {
            let mut left = RATE;
            while let Some((after, up_to)) = rig.asks(SOURCE).filter(|_| left > 0) {
                let count = left.min(up_to.unwrap_or(HEAD) - after);
                rig.send_part(SOURCE, HEAD, count);
                left -= count;
            }
            let asked = rig.asked.get(&OTHER).map(|(request, _)| *request);
            page = match (asked, page) {
                (Some(request), Some((of, at))) if request == of && at <= rig.now => {
                    rig.send_part(OTHER, HEAD, PAGE);
                    Some((of, rig.now + round_trip))
                }
                (Some(request), Some((of, at))) if request == of => Some((of, at)),
                (asked, _) => asked.map(|request| (request, rig.now + round_trip)),
            };
            rig.store();
            rig.wait(Duration::from_millis(1));
        }
        let (took, places) = (rig.now - begin, rig.follower.accepted().0);
        assert!(places >= HEAD - 4_096, "the split has ended at {places}");
        let alone = Duration::from_millis(places / RATE);
        assert!(took * 10 <= alone * tenths, "{round_trip:?}: {took:?}, and {alone:?} alone");
    }
}

#[test]
fn what_waits_is_bounded_by_bytes() {
    let mut rig = Rig::split(1 << 40);
    for _ in 0..1_000 {
        for peer in [OTHER, THIRD] {
            rig.send_part(peer, 1 << 40, 40);
            assert!(rig.follower.held_bytes() <= LIMITS.held_bytes_max);
        }
        rig.follower.handle_backlog(rig.now);
    }
    assert_eq!(rig.follower.accepted(), SequenceId::NONE);
    assert!(rig.follower.held_bytes() > LIMITS.held_bytes_max / 4);
    rig.down(SOURCE);
    assert_eq!(rig.follower.accepted().0, 0);
    for _ in 0..20 {
        for peer in [OTHER, THIRD] {
            rig.send_part(peer, 1 << 40, 40);
        }
        rig.store();
        rig.wait(STALL_TIMEOUT);
        assert!(rig.follower.held_bytes() <= LIMITS.held_bytes_max);
    }
    assert!(rig.follower.accepted().0 > 60, "{}", rig.follower.accepted());
}

#[test]
fn a_gap_that_every_peer_claims_is_searched_for_as_ever_and_the_split_goes_on_behind_it() {
    let mut rig = Rig::split(1_000);
    for peer in PEERS {
        rig.answer(peer, vec![StrandItem::End]);
    }
    let mut tries = 0;
    while rig.follower.is_split() {
        PEERS.iter().for_each(|peer| drop(rig.do_habit(Habit::EndsEarly, *peer, 1_000)));
        rig.wait(Duration::from_millis(10));
        tries += 1;
        assert!(tries < 1_000);
    }
    assert!(!rig.follower.can_split(), "not before the gap is passed");
    let source = rig.follower.source().unwrap();
    assert_eq!(rig.asks(source), Some((0, None)));
    rig.answer(source, envelopes(6..=20));
    assert!(rig.follower.is_searching());
    for peer in PEERS {
        rig.answer(peer, vec![StrandItem::End]);
    }
    rig.wait(SEARCH_FOR);
    assert_eq!(rig.follower.accepted(), SequenceId(5), "marked missing");
    let source = rig.follower.source().unwrap();
    rig.answer(source, envelopes(6..=40));
    rig.store();
    assert!(!rig.follower.can_split(), "a strand with many gaps would be split at each of them");
    rig.answer(source, envelopes(41..=110));
    rig.store();
    assert!(rig.follower.can_split());
}

/// Each split that ends so has cost a stream of the source, and parts that waited.
#[test]
fn after_several_such_parts_in_a_row_the_source_sends_more_and_more_places_alone() {
    let head = 1 << 40;
    let mut rig = Rig::behind(head);
    for doublings in (0..=6).chain([6]) {
        let (least, sent) = (LIMITS.backlog_min << doublings, rig.places_alone(head));
        assert!((least..=least + 50).contains(&sent), "{sent} places, at least {least}");
    }
    // A split that brings as many places begins anew.
    rig.follower.start_split(rig.now);
    rig.effects();
    let begun = rig.follower.accepted().0;
    while rig.follower.accepted().0 < begun + (LIMITS.backlog_min << 6) {
        PEERS.iter().for_each(|peer| drop(rig.send_part(*peer, head, 40)));
        rig.store();
    }
    assert!(rig.follower.is_split());
    let sent = rig.end_parts_early(head);
    assert!((100..=200).contains(&sent), "{sent} places");
}

proptest! {
    /// Peers do anything, and one is honest at the end.
    #[test]
    fn a_split_backlog_has_no_gap_and_no_repeat_whatever_peers_do(
        steps in prop::collection::vec((0usize..3, 0u8..9, 1u64..50), 1..300),
        are_proven in any::<bool>(),
    ) {
        let head = 2_000;
        let mut rig = Rig::behind_peers(head, are_proven);
        let mut places = Vec::new();
        for (peer, step, count) in steps {
            let peer = PEERS[peer];
            if rig.follower.can_split() {
                rig.follower.start_split(rig.now);
                places.extend(appended(&rig.effects()));
            }
            let effects = match step {
                0..4 => rig.send_part(peer, head, count),
                4 => rig.do_habit(Habit::Refuses, peer, head),
                5 => rig.do_habit(Habit::Forges, peer, head),
                6 => rig.down(peer),
                7 => {
                    rig.follower.handle_peer_up(rig.now, peer, SequenceId(head));
                    rig.asked.remove(&peer);
                    if are_proven {
                        rig.follower.handle_proven(peer);
                    }
                    rig.effects()
                }
                _ => rig.wait(Duration::from_millis(count * 20)),
            };
            places.extend(appended(&effects));
            rig.store();
        }
        rig.follower.handle_peer_up(rig.now, THIRD, SequenceId(head));
        rig.asked.remove(&THIRD);
        rig.effects();
        for _ in 0..1_000 {
            places.extend(appended(&rig.send_part(THIRD, head, 50)));
            rig.store();
            places.extend(appended(&rig.wait(Duration::from_millis(200))));
        }
        prop_assert!(places.iter().copied().eq(1..=head), "{:?}", rig.follower);
    }
}
