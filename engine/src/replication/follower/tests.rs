//! Tests of the follower: inputs, then assertions on its effects.

use hawser_proto::{Bytes, EnvelopeId};
use hawser_storage::{InvalidRule, Validity};
use proptest::prelude::*;

use super::filling::{FILL_EVERY, FILL_PAUSE};
use super::search::SEARCH_AGAIN_AFTER;
use super::*;
use crate::replication::link::Want;

mod answers;
mod disputes;
mod expiry;
mod filling;
mod long_gaps;
mod passed_on;
mod search;
mod second;
mod source;
mod split;
mod trials;

const SOURCE: OriginatorId = OriginatorId(200);
const OTHER: OriginatorId = OriginatorId(300);
const THIRD: OriginatorId = OriginatorId(400);

fn entry_of(originator: OriginatorId, sequence: u64) -> LogEntry {
    LogEntry {
        id: EnvelopeId::new(originator, SequenceId(sequence)),
        bytes: Bytes::copy_from_slice(&sequence.to_be_bytes()),
        validity: Validity::Invalid(InvalidRule(1)),
        facts: None,
    }
}

fn entry(sequence: u64) -> LogEntry {
    entry_of(SOURCE, sequence)
}

fn envelopes(sequences: impl IntoIterator<Item = u64>) -> Vec<StrandItem<VerifyResult>> {
    sequences.into_iter().map(|sequence| StrandItem::Envelope(Ok(entry(sequence)))).collect()
}

fn appends(sequences: impl IntoIterator<Item = u64>) -> Effect {
    let changes: Vec<Change> = sequences.into_iter().map(|s| Change::Append(entry(s))).collect();
    let Some(Change::Append(last)) = changes.last() else { panic!("nothing to append") };
    let through = last.id.sequence;
    Effect::Write(StrandWrite::Append { changes, through })
}

fn compares(from: OriginatorId, sequences: impl IntoIterator<Item = u64>) -> Effect {
    let entries = sequences.into_iter().map(entry).collect();
    Effect::Write(StrandWrite::Compare { from, entries })
}

fn skips(from: u64, through: u64, reason: SkipReason) -> Change {
    let (from, through) = (SequenceId(from), SequenceId(through));
    Change::Skip { originator: SOURCE, from, through, reason }
}

/// Rig of a follower with its clock and the open wants.
struct Rig {
    follower: Follower,
    now: Instant,
    asked: BTreeMap<OriginatorId, (RequestId, Want)>,
}

impl Rig {
    /// Holds `stored` envelopes; no peer is connected.
    fn new(stored: u64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
        let now = Instant::now();
        let follower = Follower::new(SOURCE, SequenceId(stored), [], now);
        Self { follower, now, asked: BTreeMap::new() }
    }

    /// Starts with the source connected.
    fn connected(stored: u64) -> Self {
        let mut rig = Self::new(stored);
        rig.up(SOURCE);
        rig
    }

    fn up(&mut self, peer: OriginatorId) -> Vec<Effect> {
        self.follower.handle_peer_up(self.now, peer, SequenceId::NONE);
        self.effects()
    }

    fn down(&mut self, peer: OriginatorId) -> Vec<Effect> {
        self.follower.handle_peer_down(self.now, peer);
        self.asked.remove(&peer);
        self.effects()
    }

    /// Lets a peer claim a head.
    fn claims(&mut self, peer: OriginatorId, head: u64) -> Vec<Effect> {
        self.follower.handle_head(self.now, peer, SequenceId(head));
        self.effects()
    }

    /// Answers the open want.
    fn answer(&mut self, peer: OriginatorId, items: Vec<StrandItem<VerifyResult>>) -> Vec<Effect> {
        let (request, _) = self.asked[&peer];
        self.deliver(peer, request, items)
    }

    fn deliver(
        &mut self,
        peer: OriginatorId,
        request: RequestId,
        items: Vec<StrandItem<VerifyResult>>,
    ) -> Vec<Effect> {
        self.follower.handle_response(self.now, WantResponse { peer, request, items });
        self.effects()
    }

    /// Lets time pass, up to every timer in between.
    fn wait(&mut self, duration: Duration) -> Vec<Effect> {
        let (end, mut effects) = (self.now + duration, Vec::new());
        while let Some(at) = self.follower.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.follower.handle_timeout(self.now);
            effects.extend(self.effects());
        }
        self.now = end;
        effects
    }

    fn effects(&mut self) -> Vec<Effect> {
        let effects: Vec<Effect> = std::iter::from_fn(|| self.follower.poll_effect()).collect();
        for effect in &effects {
            match effect {
                Effect::Want { peer, request, want } => {
                    self.asked.insert(*peer, (*request, *want));
                }
                Effect::Stop { peer } | Effect::Disconnect { peer, .. } => {
                    self.asked.remove(peer);
                }
                Effect::Write(_)
                | Effect::Found { .. }
                | Effect::Arriving { .. }
                | Effect::ReadMissing { .. }
                | Effect::Expired { .. } => {}
            }
        }
        effects
    }

    /// Returns the open want at a peer: after, up to.
    fn asks(&self, peer: OriginatorId) -> Option<(u64, Option<u64>)> {
        self.asked.get(&peer).map(|(_, want)| (want.after.0, want.up_to().map(|id| id.0)))
    }
}

fn count_appends(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Write(StrandWrite::Append { .. })))
        .count()
}

#[test]
fn the_strand_is_asked_of_its_own_node_from_what_is_stored() {
    let mut rig = Rig::new(7);
    assert_eq!(rig.up(OTHER), []);
    rig.up(SOURCE);
    assert_eq!(rig.asks(SOURCE), Some((7, None)));
    assert_eq!(rig.asks(OTHER), None);
}

#[test]
fn contiguous_envelopes_are_appended_in_order() {
    let mut rig = Rig::connected(7);
    assert_eq!(rig.answer(SOURCE, envelopes([8, 9, 10])), [appends([8, 9, 10])]);
    assert_eq!(rig.follower.accepted(), SequenceId(10));
    assert_eq!(rig.follower.durable(), SequenceId(7));
    rig.follower.handle_durable(SequenceId(10));
    assert_eq!(rig.follower.durable(), SequenceId(10));
}

#[test]
fn a_node_that_has_left_is_asked_for_nothing_and_its_strand_comes_from_others() {
    let mut rig = Rig::connected(0);
    rig.answer(SOURCE, envelopes(1..=5));
    rig.follower.handle_durable(SequenceId(5));
    rig.follower.handle_membership(rig.now, false);
    rig.effects();
    assert_eq!(rig.asks(SOURCE), None);
    rig.up(OTHER);
    rig.claims(OTHER, 5);
    assert_eq!(rig.asks(OTHER), Some((5, None)));
    rig.up(THIRD);
    rig.claims(THIRD, 5);
    assert_eq!(rig.asks(THIRD), None, "one at a time");
    assert_eq!(rig.answer(OTHER, envelopes([6])), [appends([6])]);
    rig.follower.handle_durable(SequenceId(6));

    // One that claims more and shows nothing gives way to the next.
    rig.claims(OTHER, 1 << 60);
    rig.claims(THIRD, 8);
    rig.wait(source::FAILOVER);
    assert_eq!(rig.asks(THIRD), Some((6, None)));
    assert!(rig.answer(THIRD, envelopes([7, 8])).contains(&appends([7, 8])));
    assert_eq!(rig.asks(OTHER), None);
    rig.follower.handle_durable(SequenceId(8));
    rig.down(THIRD);
    assert_eq!(rig.asks(OTHER), Some((8, None)));

    // A gap is looked for at the others, and not at the node that has left.
    rig.up(THIRD);
    rig.answer(OTHER, envelopes([11]));
    assert_eq!(rig.asks(THIRD), Some((8, Some(10))));
    assert_eq!(rig.asks(SOURCE), None);

    rig.follower.handle_membership(rig.now, true);
    rig.effects();
    rig.answer(THIRD, envelopes([9, 10]));
    assert_eq!(rig.asks(SOURCE), Some((8, None)), "it is back");
}

#[test]
fn a_new_connection_is_asked_for_what_is_not_on_disk_and_repeats_are_compared() {
    let mut rig = Rig::connected(0);
    rig.answer(SOURCE, envelopes(1..=5));
    rig.follower.handle_durable(SequenceId(2));
    rig.down(SOURCE);
    rig.up(SOURCE);
    assert_eq!(rig.asks(SOURCE), Some((2, None)));
    let effects = rig.answer(SOURCE, envelopes(3..=6));
    assert_eq!(effects, [appends([6]), compares(SOURCE, [3, 4, 5])]);
}

#[test]
fn answers_to_what_is_no_longer_asked_change_nothing() {
    let mut rig = Rig::connected(0);
    let (old, _) = rig.asked[&SOURCE];
    rig.down(SOURCE);
    rig.up(SOURCE);
    assert!(!rig.follower.awaits(SOURCE, old));
    assert_eq!(rig.deliver(SOURCE, old, envelopes([1])), []);
    assert_eq!(rig.deliver(OTHER, old, envelopes([1])), []);
    assert_eq!(rig.follower.accepted(), SequenceId(0));
}

#[test]
fn a_gap_is_looked_for_at_every_peer_and_the_strand_goes_on_once_it_is_found() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    let effects = rig.answer(SOURCE, envelopes([1, 2, 6]));
    assert!(effects.contains(&Effect::Stop { peer: SOURCE }));
    assert_eq!(count_appends(&effects), 1);
    assert!(rig.follower.is_searching());
    assert_eq!(rig.follower.searches(), 1);
    assert_eq!(rig.asks(SOURCE), Some((2, Some(5))));
    assert_eq!(rig.asks(OTHER), Some((2, Some(5))));
    rig.up(THIRD);
    assert_eq!(rig.asks(THIRD), Some((2, Some(5))), "a peer that connects later is asked too");

    rig.follower.handle_durable(SequenceId(2));
    let effects = rig.answer(OTHER, envelopes([3, 4, 5]));
    assert!(effects.contains(&appends([3, 4, 5])));
    assert!(!rig.follower.is_searching());
    assert_eq!(rig.follower.searches(), 1, "operators see it also after its end");
    assert_eq!(rig.asks(THIRD), None, "no other peer needs to answer");
    assert_eq!(rig.asks(SOURCE), Some((2, None)), "from what is on disk");
    let effects = rig.answer(SOURCE, envelopes([3, 4, 5, 6]));
    assert!(effects.contains(&appends([6])));
}

#[test]
fn places_that_no_peer_has_for_a_minute_are_marked_missing_and_the_strand_goes_on() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.answer(SOURCE, envelopes([1, 4]));
    let before = rig.wait(SEARCH_FOR - Duration::from_secs(1));
    assert_eq!(count_appends(&before), 0);
    rig.answer(SOURCE, vec![StrandItem::End]);
    rig.answer(OTHER, vec![StrandItem::End]);
    let effects = rig.wait(Duration::from_secs(1));
    let changes = vec![skips(2, 3, SkipReason::Missing)];
    let missing = Effect::Write(StrandWrite::Append { changes, through: SequenceId(3) });
    assert!(effects.contains(&missing), "{effects:?}");
    rig.follower.handle_durable(SequenceId(3));
    assert_eq!(rig.answer(SOURCE, envelopes([2, 4])).len(), 2, "a late find, and what follows");
}

#[test]
fn nothing_is_marked_missing_while_no_peer_could_be_asked() {
    let mut rig = Rig::connected(0);
    rig.answer(SOURCE, envelopes([1, 4]));
    rig.down(SOURCE);
    assert_eq!(count_appends(&rig.wait(SEARCH_FOR * 10)), 0);
    assert!(rig.follower.is_searching());
    rig.up(SOURCE);
    rig.answer(SOURCE, vec![StrandItem::End]);
    assert_eq!(count_appends(&rig.wait(SEARCH_FOR)), 1);
}

#[test]
fn a_peer_that_does_not_have_it_is_asked_again_during_the_search() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.answer(SOURCE, envelopes([1, 4]));
    rig.answer(OTHER, vec![StrandItem::End]);
    assert_eq!(rig.asks(OTHER), Some((1, Some(3))));
    let wants = rig.wait(SEARCH_AGAIN_AFTER);
    assert!(matches!(wants[..], [Effect::Want { peer: OTHER, .. }]), "{wants:?}");
}

#[test]
fn a_part_that_is_found_further_up_narrows_the_search() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.answer(SOURCE, envelopes([1, 9]));
    let mut found = envelopes([2, 6, 7, 8]);
    found.push(StrandItem::End);
    assert!(rig.answer(OTHER, found).contains(&appends([2])));
    rig.answer(SOURCE, vec![StrandItem::End]);
    let effects = rig.wait(SEARCH_FOR);
    let changes = vec![skips(3, 5, SkipReason::Missing)];
    let missing = Effect::Write(StrandWrite::Append { changes, through: SequenceId(5) });
    assert!(effects.contains(&missing), "{effects:?}");
    // The next gap, 6 to 8, is the one that the other peer can close.
    rig.follower.handle_durable(SequenceId(5));
    rig.answer(SOURCE, envelopes([9]));
    assert_eq!(rig.asks(OTHER), Some((5, Some(8))));
    assert!(rig.answer(OTHER, envelopes([6, 7, 8])).contains(&appends([6, 7, 8])));
}

#[test]
fn missing_places_are_asked_of_later_peers_and_finds_are_compared() {
    let mut rig = Rig::new(9);
    rig.follower = Follower::new(
        SOURCE,
        SequenceId(9),
        [(2, 3), (6, 6)].map(|(a, b)| (SequenceId(a), SequenceId(b))),
        rig.now,
    );
    rig.up(SOURCE);
    assert_eq!(rig.asks(SOURCE), Some((9, None)), "what comes next is first");
    rig.up(OTHER);
    assert_eq!(rig.asks(OTHER), Some((1, Some(3))));
    let mut found = envelopes([3]);
    found.push(StrandItem::End);
    let effects = rig.answer(OTHER, found);
    assert!(effects.contains(&compares(OTHER, [3])));
    assert_eq!(rig.asks(OTHER), Some((5, Some(6))));
    rig.answer(OTHER, vec![StrandItem::End]);
    rig.up(THIRD);
    assert_eq!(rig.asks(THIRD), Some((1, Some(2))), "3 is not looked for any more");
    rig.wait(FILL_PAUSE);
    assert_eq!(rig.asks(SOURCE), Some((1, Some(2))), "it may hold them, too");
}

#[test]
fn places_that_their_own_node_has_pruned_are_not_searched() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    let gap =
        |from, to| StrandItem::Gap { from: SequenceId(from), to: SequenceId(to), expired: true };
    let mut items = vec![gap(1, 4), gap(5, 6)];
    assert_eq!(rig.answer(SOURCE, items.clone()), [], "nothing signed stands behind it yet");
    items = envelopes([7]);
    let changes = vec![skips(1, 6, SkipReason::Expired), Change::Append(entry(7))];
    assert_eq!(
        rig.answer(SOURCE, items),
        [Effect::Write(StrandWrite::Append { changes, through: SequenceId(7) })]
    );
    rig.follower.handle_durable(SequenceId(7));
    assert_eq!(rig.asks(OTHER), None, "no other peer is asked for it, then or later");
    let wants = rig.wait(FILL_EVERY * 2);
    assert!(!wants.iter().any(|it| matches!(it, Effect::Want { peer: OTHER, .. })), "{wants:?}");
}

#[test]
fn only_the_strands_own_node_can_say_that_something_has_expired() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.answer(SOURCE, envelopes([1, 9]));
    let gap = StrandItem::Gap { from: SequenceId(2), to: SequenceId(4), expired: true };
    let mut items = vec![gap];
    items.extend(envelopes([5]));
    rig.answer(OTHER, items);
    assert_eq!(rig.follower.accepted(), SequenceId(1));
    assert!(rig.follower.is_searching());
}

#[test]
fn a_gap_of_which_a_part_has_not_expired_is_searched_for() {
    let mut rig = Rig::connected(0);
    let gap =
        |from, to, expired| StrandItem::Gap { from: SequenceId(from), to: SequenceId(to), expired };
    let mut items = vec![gap(1, 4, true), gap(5, 5, false)];
    items.extend(envelopes([6]));
    rig.answer(SOURCE, items);
    assert_eq!(rig.asks(SOURCE), Some((0, Some(5))));
}

#[test]
fn a_fault_ends_the_connection_and_keeps_what_came_before_it() {
    for (bad, violation) in [
        (StrandItem::Envelope(Err(PeerViolation::ForgedSignature)), PeerViolation::ForgedSignature),
        (StrandItem::Envelope(Ok(entry_of(OTHER, 3))), PeerViolation::WrongOriginator),
        (
            StrandItem::Gap { from: SequenceId(2), to: SequenceId(3), expired: false },
            PeerViolation::OutOfOrder,
        ),
        (
            StrandItem::Gap { from: SequenceId(4), to: SequenceId(3), expired: false },
            PeerViolation::OutOfOrder,
        ),
    ] {
        let mut rig = Rig::connected(0);
        let mut items = envelopes([1, 2]);
        items.push(bad);
        items.extend(envelopes([3]));
        let effects = rig.answer(SOURCE, items);
        assert_eq!(effects, [Effect::Disconnect { peer: SOURCE, violation }, appends([1, 2])]);
        rig.up(SOURCE);
        assert_eq!(rig.asks(SOURCE), Some((0, None)), "the next connection begins anew");
    }
}

#[test]
fn more_than_was_asked_for_is_out_of_order() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.answer(SOURCE, envelopes([1, 3]));
    let violation = PeerViolation::OutOfOrder;
    let effects = rig.answer(OTHER, envelopes([3]));
    assert_eq!(effects, [Effect::Disconnect { peer: OTHER, violation }]);
    assert!(rig.follower.is_searching(), "the others go on");
}

/// A follower of a node's own strand, whose places 3 to 5 are marked missing.
fn own_strand_with_a_gap() -> Rig {
    let mut rig = Rig::connected(9);
    let missing = [(SequenceId(3), SequenceId(5))];
    rig.follower =
        Follower::new(SOURCE, SequenceId(9), missing, rig.now).reporting_finds([OTHER].into());
    rig.up(SOURCE);
    rig.up(OTHER);
    rig
}

fn finds(effects: &[Effect]) -> Vec<(OriginatorId, u64)> {
    let find = |effect: &Effect| match effect {
        Effect::Found { peer, sequence, .. } => Some((*peer, sequence.0)),
        _ => None,
    };
    effects.iter().filter_map(find).collect()
}

#[test]
fn a_find_is_a_place_that_was_asked_for_and_is_not_held() {
    let mut rig = own_strand_with_a_gap();
    assert_eq!(rig.asks(OTHER), Some((2, Some(5))), "the missing places");
    let effects = rig.answer(OTHER, envelopes([4]));
    assert_eq!(finds(&effects), [(OTHER, 4)], "a late find");
    let effects = rig.answer(SOURCE, envelopes([10, 11]));
    assert_eq!(finds(&effects), [(SOURCE, 11)], "the end of the strand");
    let effects = rig.answer(SOURCE, envelopes([14]));
    assert_eq!(finds(&effects), [(SOURCE, 14)], "a place behind a gap");
}

#[test]
fn bytes_of_the_own_strand_that_arrive_are_told() {
    let mut rig = own_strand_with_a_gap();
    assert_eq!(rig.answer(SOURCE, Vec::new()), [Effect::Arriving { peer: SOURCE }]);
}

#[test]
fn held_places_and_places_that_were_not_asked_for_are_no_finds() {
    for (peer, shown) in [(SOURCE, 9), (SOURCE, 1), (OTHER, 2), (OTHER, 6), (OTHER, 10)] {
        let mut rig = own_strand_with_a_gap();
        let effects = rig.answer(peer, envelopes([shown]));
        assert_eq!(finds(&effects), [], "{peer} shows {shown}");
        let violation = PeerViolation::OutOfOrder;
        assert_eq!(effects, [Effect::Disconnect { peer, violation }]);
    }
}

#[test]
fn a_stream_that_breaks_is_asked_for_again_after_a_while() {
    let mut rig = Rig::connected(0);
    assert_eq!(rig.answer(SOURCE, vec![StrandItem::Closed]), []);
    let effects = rig.wait(RETRY_AFTER);
    assert!(matches!(effects[..], [Effect::Want { peer: SOURCE, .. }]), "{effects:?}");
}

#[test]
fn a_source_that_is_ahead_and_silent_is_asked_anew() {
    let mut rig = Rig::connected(5);
    assert_eq!(rig.wait(STALL_AFTER * 5), [], "nothing says that there is more");
    rig.claims(SOURCE, 6);
    let effects = rig.wait(STALL_AFTER);
    assert!(
        matches!(effects[..], [Effect::Stop { peer: SOURCE }, Effect::Want { .. }]),
        "{effects:?}"
    );
    rig.answer(SOURCE, envelopes([6]));
    assert_eq!(rig.wait(STALL_AFTER * 5), []);
}

#[test]
fn claims_never_move_the_head_of_the_strand() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    let end = SequenceId::MAX;
    rig.answer(SOURCE, vec![StrandItem::Gap { from: SequenceId(1), to: end, expired: true }]);
    rig.claims(SOURCE, end.0);
    rig.wait(SEARCH_FOR * 2);
    assert_eq!(rig.follower.accepted(), SequenceId(0));
}

#[derive(Debug, Clone)]
enum Input {
    Up(u32),
    Down(u32),
    Claims(u32, u64),
    Pieces(u32, Vec<StrandItem<u64>>),
    Run(u32, u64),
    Durable,
    Wait(u64),
}

fn items() -> impl Strategy<Value = StrandItem<u64>> {
    prop_oneof![
        6 => (0u64..24).prop_map(StrandItem::Envelope),
        2 => (0u64..24, 0u64..24, any::<bool>()).prop_map(|(from, to, expired)| StrandItem::Gap {
            from: SequenceId(from),
            to: SequenceId(to),
            expired,
        }),
        1 => Just(StrandItem::End),
        1 => Just(StrandItem::Closed),
    ]
}

fn inputs() -> impl Strategy<Value = Input> {
    let peer = || (2u32..5).prop_map(|n| n * 100);
    prop_oneof![
        2 => peer().prop_map(Input::Up),
        1 => peer().prop_map(Input::Down),
        1 => (peer(), 0u64..40).prop_map(|(peer, head)| Input::Claims(peer, head)),
        6 => (peer(), proptest::collection::vec(items(), 0..6))
            .prop_map(|(peer, items)| Input::Pieces(peer, items)),
        6 => (peer(), 1u64..6).prop_map(|(peer, len)| Input::Run(peer, len)),
        1 => Just(Input::Durable),
        2 => (0u64..90).prop_map(Input::Wait),
    ]
}

proptest! {
    /// For every input from peers, each place is taken once and in order.
    #[test]
    fn places_are_taken_in_order_whatever_peers_do(
        inputs in proptest::collection::vec(inputs(), 1..60),
    ) {
        let mut rig = Rig::new(0);
        let mut next = SequenceId(1);
        for input in inputs {
            let effects = match input {
                Input::Up(peer) => rig.up(OriginatorId(peer)),
                Input::Down(peer) => rig.down(OriginatorId(peer)),
                Input::Claims(peer, head) => rig.claims(OriginatorId(peer), head),
                Input::Wait(seconds) => rig.wait(Duration::from_secs(seconds)),
                Input::Durable => {
                    rig.follower.handle_durable(rig.follower.accepted());
                    Vec::new()
                }
                Input::Pieces(peer, items) if rig.asked.contains_key(&OriginatorId(peer)) => {
                    let items = items.into_iter().map(|item| item.map(|s| Ok(entry(s))));
                    rig.answer(OriginatorId(peer), items.collect())
                }
                Input::Run(peer, len) if rig.asked.contains_key(&OriginatorId(peer)) => {
                    let first = rig.follower.accepted().next().0;
                    rig.answer(OriginatorId(peer), envelopes(first..first + len))
                }
                Input::Pieces(..) | Input::Run(..) => Vec::new(),
            };
            for effect in effects {
                let Effect::Write(StrandWrite::Append { changes, through }) = effect else { continue };
                for change in changes {
                    let (from, to) = match change {
                        Change::Append(entry) => (entry.id.sequence, entry.id.sequence),
                        Change::Skip { from, through, .. } => (from, through),
                    };
                    prop_assert_eq!(from, next);
                    prop_assert!(from <= to);
                    next = to.next();
                }
                prop_assert_eq!(through.next(), next);
            }
            prop_assert_eq!(rig.follower.accepted().next(), next);
            prop_assert!(rig.follower.durable() <= rig.follower.accepted());
        }
    }
}
