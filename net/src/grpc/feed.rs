//! A gRPC peer's answers to one want, as items of a strand: a state machine without I/O.
//!
//! A stream of the network's API names no gaps and no end. This one finds both, so that the engine's
//! follower sees the same items as over QUIC.

use std::time::{Duration, Instant};

use hawser_dial::EventsLeft;
use hawser_engine::replication::{PeerViolation, StrandItem, Want, can_have_expired};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};

use super::answered_places::AnsweredPlaces;
use super::asked_peer::AskedPeer;
use super::canonical_envelope::{self, CanonicalEnvelope};
use crate::counters::PeerError;

/// Bytes of envelopes that go to the follower at once; a larger envelope goes alone. As over QUIC.
const BATCH_BYTES_MAX: usize = 512 * 1024;
/// Repeated envelopes, beyond one for each new one, after which a peer counts as out of order. A guess: a page, which a
/// peer may repeat between its reads from disk and its live envelopes. Specified in `docs/protocol/replication.md`,
/// section *Over gRPC*.
const REPEATS_MAX: u32 = 1000;
/// Second statements of one answer that go to the follower, which checks their signatures. A guess: one pair proves the
/// fault, and few checks cost less than the answer itself.
const SECONDS_MAX: u32 = 4;
/// Keep-alives that a peer may send at once, and the time after which it may send one more. Guessed: far
/// above what any peer is configured for.
const KEEP_ALIVES_MAX: u32 = 64;
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(500);

/// The answers to one want so far.
///
/// Invariant: items ascend, and cover every place from the start of the want to `position`. Second statements are for
/// places that an envelope before them has taken, of this answer or of an earlier one.
#[derive(Debug)]
pub(super) struct WantFeed {
    originator: OriginatorId,
    /// The last place that the items cover.
    position: SequenceId,
    up_to: Option<SequenceId>,
    asked: AskedPeer,
    /// Repeated envelopes for which no new one has made up.
    repeats: u32,
    taken: AnsweredPlaces,
    /// The number of second statements that may still go to the follower. 0 for a strand without a registered node:
    /// rows of the older network may come twice.
    seconds_left: u32,
    /// The keep-alives that the peer may still send: each costs this node a wake-up and the peer two bytes.
    keep_alives: EventsLeft,
    is_over: bool,
}

/// The items of one message.
#[derive(Debug, Default)]
pub(super) struct FeedItems {
    /// Items for the follower, in order.
    pub(super) batches: Vec<Vec<StrandItem<Bytes>>>,
    /// Envelopes that the peer had not written in canonical form.
    pub(super) rewritten: u64,
    /// The fault of the peer after these items, for which it is left.
    pub(super) violation: Option<PeerError>,
}

impl WantFeed {
    /// Creates the feed of one want, without answers.
    pub(super) fn new(want: Want, asked: AskedPeer, now: Instant) -> Self {
        Self::behind(want, asked, now, AnsweredPlaces::default())
    }

    /// Creates the feed of one want behind earlier answers, which have `taken` places. Repeated envelopes are compared
    /// with theirs, too.
    pub(super) fn behind(
        want: Want,
        asked: AskedPeer,
        now: Instant,
        taken: AnsweredPlaces,
    ) -> Self {
        Self {
            originator: want.originator,
            position: want.after,
            up_to: want.up_to(),
            asked,
            repeats: 0,
            taken,
            seconds_left: if want.originator.is_node() { SECONDS_MAX } else { 0 },
            keep_alives: EventsLeft::new(KEEP_ALIVES_MAX, KEEP_ALIVE_EVERY, now),
            is_over: false,
        }
    }

    /// Returns the last place that the items cover.
    pub(super) fn position(&self) -> SequenceId {
        self.position
    }

    /// Returns true once the end of the want has been reached or passed, or nothing more counts.
    pub(super) fn is_over(&self) -> bool {
        self.is_over || self.up_to.is_some_and(|up_to| self.position >= up_to)
    }

    /// Returns the number of places up to the end of the want that are not covered yet, as far as a page can have them.
    pub(super) fn places_left(&self) -> u32 {
        let left = self.up_to.map(|up_to| up_to.0.saturating_sub(self.position.0));
        left.and_then(|left| u32::try_from(left).ok()).unwrap_or(u32::MAX)
    }

    /// Takes the envelopes of one message; none is a keep-alive. `unix_ns` is the wall clock.
    pub(super) fn take(&mut self, now: Instant, unix_ns: i64, envelopes: Vec<Bytes>) -> FeedItems {
        let mut fed = FeedItems::default();
        if envelopes.is_empty() && !self.keep_alives.take(now) {
            fed.violation = Some(PeerError::KeepAlives);
            return fed;
        }
        let mut bytes = 0;
        for envelope in envelopes {
            let len = envelope.len();
            let items = if self.is_over() {
                let Some(second) = self.second_at_end(envelope) else { break };
                Ok(vec![second])
            } else {
                self.items(unix_ns, envelope, &mut fed.rewritten)
            };
            let mut items = match items {
                Ok(items) => items,
                Err(violation) => {
                    fed.violation = Some(violation);
                    break;
                }
            };
            match fed.batches.last_mut() {
                Some(batch) if bytes + len <= BATCH_BYTES_MAX => batch.append(&mut items),
                _ if items.is_empty() => continue,
                _ => {
                    fed.batches.push(items);
                    bytes = 0;
                }
            }
            bytes += len;
        }
        fed
    }

    /// Returns the items for one envelope: the places that the peer has passed over, and the envelope. Returns no items
    /// for an envelope that came before, unless it is a different statement for its place.
    fn items(
        &mut self,
        unix_ns: i64,
        envelope: Bytes,
        rewritten: &mut u64,
    ) -> Result<Vec<StrandItem<Bytes>>, PeerError> {
        let Some((outer, id, originator_ns)) = opened(envelope.clone()) else {
            return self.refuse(&envelope);
        };
        if id.originator != self.originator {
            return Err(PeerViolation::WrongOriginator.into());
        }
        if id.sequence == SequenceId::NONE || id.sequence > SequenceId::MAX {
            return Err(PeerViolation::OutOfOrder.into()); // no strand has such a place
        }
        if id.sequence <= self.position {
            self.repeats += 1;
            if self.repeats > REPEATS_MAX {
                return Err(PeerViolation::OutOfOrder.into());
            }
            let is_second = self.takes_second(id.sequence, &outer.statement);
            let second = is_second.then(|| Bytes::copy_from_slice(&outer.bytes));
            return Ok(second.map(StrandItem::Second).into_iter().collect());
        }
        self.repeats = self.repeats.saturating_sub(1);
        let next = self.position.next();
        self.position = id.sequence;
        let mut items = Vec::with_capacity(2);
        let is_beyond = self.up_to.is_some_and(|up_to| id.sequence > up_to);
        if next < id.sequence {
            // Times ascend within a strand, so a skipped place is at least as old as the envelope after it.
            let expired =
                self.asked == AskedPeer::OwnNode && can_have_expired(originator_ns, unix_ns);
            items.push(StrandItem::Gap { from: next, to: id.sequence.previous(), expired });
        }
        if is_beyond {
            self.is_over = true;
            return Ok(items);
        }
        *rewritten += u64::from(outer.was_rewritten);
        // The follower holds envelopes and counts their bytes. One that shares the memory of its message would
        // keep all of it, and a peer chooses what else a message has.
        items.push(StrandItem::Envelope(Bytes::copy_from_slice(&outer.bytes)));
        if self.originator.is_node() {
            self.taken.note(id.sequence, &outer.statement);
        }
        Ok(items)
    }

    /// Takes bytes that are no envelope. They are no fault of a relay, which may not have checked them: the follower
    /// gets and refuses them, and nothing behind them counts.
    fn refuse(&mut self, bytes: &Bytes) -> Result<Vec<StrandItem<Bytes>>, PeerError> {
        if self.asked != AskedPeer::Relay {
            return Err(PeerViolation::NotCanonical.into());
        }
        self.is_over = true;
        Ok(vec![StrandItem::Envelope(Bytes::copy_from_slice(bytes))])
    }

    /// Returns an envelope that came behind the end of the want if it is another statement for a place that was taken.
    /// Nothing else counts there, and nothing is a fault.
    fn second_at_end(&mut self, envelope: Bytes) -> Option<StrandItem<Bytes>> {
        let (outer, id, _) = opened(envelope)?;
        let is_second =
            id.originator == self.originator && self.takes_second(id.sequence, &outer.statement);
        is_second.then(|| StrandItem::Second(Bytes::copy_from_slice(&outer.bytes)))
    }

    /// Returns true if a statement differs from the one that has taken its place, a few times in all.
    fn takes_second(&mut self, place: SequenceId, statement: &[u8]) -> bool {
        let is_second = self.seconds_left > 0 && self.taken.has_other(place, statement);
        self.seconds_left -= u32::from(is_second);
        is_second
    }
}

/// Opens an envelope. Returns it with its id and its time; `None` if it has no canonical form.
fn opened(envelope: Bytes) -> Option<(CanonicalEnvelope, EnvelopeId, i64)> {
    let outer = canonical_envelope::open(envelope)?;
    let (id, originator_ns) = OriginatorEnvelope::statement(outer.statement.clone()).ok()?;
    Some((outer, id, originator_ns))
}

#[cfg(test)]
pub(super) mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::envelope::{Proof, UnsealedEnvelope};
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_proto::sign::originator_digest;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    pub(in crate::grpc) const NODE: OriginatorId = OriginatorId(300);
    pub(in crate::grpc) const NOW_NS: i64 = 1_750_000_000_000_000_000;

    pub(in crate::grpc) fn envelope_at(
        originator: OriginatorId,
        sequence: u64,
        originator_ns: i64,
    ) -> Bytes {
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: originator.0,
            originator_sequence_id: sequence,
            originator_ns,
            ..Default::default()
        };
        UnsealedEnvelope::new(&statement).seal(&SecretKey::from_bytes(&[7; 32]).unwrap())
    }

    fn envelope(sequence: u64) -> Bytes {
        envelope_at(NODE, sequence, NOW_NS)
    }

    fn want(after: u64, up_to: Option<u64>) -> Want {
        let (after, up_to) = (SequenceId(after), up_to.map(SequenceId));
        Want::envelopes(NODE, after, up_to)
    }

    fn feed(after: u64, up_to: Option<u64>) -> WantFeed {
        feed_of(AskedPeer::OwnNodeUnprotected, after, up_to)
    }

    fn feed_of(asked: AskedPeer, after: u64, up_to: Option<u64>) -> WantFeed {
        WantFeed::new(want(after, up_to), asked, Instant::now())
    }

    fn take(feed: &mut WantFeed, envelopes: Vec<Bytes>) -> FeedItems {
        feed.take(Instant::now(), NOW_NS, envelopes)
    }

    fn gap(from: u64, to: u64, expired: bool) -> StrandItem<Bytes> {
        StrandItem::Gap { from: SequenceId(from), to: SequenceId(to), expired }
    }

    fn item(sequence: u64) -> StrandItem<Bytes> {
        StrandItem::Envelope(envelope(sequence))
    }

    #[test]
    fn places_that_are_passed_over_are_a_gap() {
        let mut feed = feed(2, None);
        let fed = take(&mut feed, [3, 4, 7].map(envelope).into());
        assert_eq!(fed.batches, [[item(3), item(4), gap(5, 6, false), item(7)]]);
        assert_eq!(take(&mut feed, vec![envelope(9)]).batches, [[gap(8, 8, false), item(9)]]);
        assert!(!feed.is_over());
    }

    #[test]
    fn what_came_before_is_passed_over_until_it_comes_too_often() {
        let mut feed = feed(2, None);
        let fed = take(&mut feed, [1, 2, 3, 3, 2, 4].map(envelope).into());
        assert_eq!((fed.batches, fed.violation), (vec![vec![item(3), item(4)]], None));
        let fed = take(&mut feed, vec![envelope(4); 1000]);
        assert_eq!(fed.violation, Some(PeerViolation::OutOfOrder.into()));
        let twice = (1..=1100).map(envelope).flat_map(|it| [it.clone(), it]).collect();
        let fed = take(&mut self::feed(0, None), twice);
        assert_eq!(fed.violation, None, "it may send each envelope twice for ever");
    }

    fn other(sequence: u64) -> Bytes {
        envelope_at(NODE, sequence, NOW_NS + 1)
    }

    #[test]
    fn few_second_statements_for_places_that_were_taken_go_to_the_follower() {
        let second = |sequence| StrandItem::Second(other(sequence));
        let mut feed = feed(2, None);
        let fed = take(&mut feed, vec![envelope(3), other(3), envelope(3), envelope(4), other(3)]);
        let expected = vec![item(3), second(3), item(4), second(3)];
        assert_eq!((fed.batches, fed.violation), (vec![expected], None));
        // No envelope of this answer has taken it.
        assert!(take(&mut feed, vec![other(2)]).batches.is_empty());
        let fed = take(&mut feed, vec![other(4); 900]);
        assert_eq!((fed.batches, fed.violation), (vec![vec![second(4), second(4)]], None));
        assert_eq!(take(&mut feed, vec![envelope(5), other(5)]).batches, [[item(5)]]);

        let mut long = self::feed(0, None);
        take(&mut long, (1..=200).map(envelope).collect());
        let fed = take(&mut long, vec![other(100), other(101)]);
        assert_eq!(fed.batches, [[second(101)]]);
    }

    /// A node that was set back to a backup signs its last places again, and shows them from the start.
    #[test]
    fn a_second_statement_in_a_later_answer_goes_to_the_follower_and_a_repeat_does_not() {
        let taken = AnsweredPlaces::default();
        let answer = |after| {
            let asked = AskedPeer::OwnNodeUnprotected;
            WantFeed::behind(want(after, None), asked, Instant::now(), taken.clone())
        };
        take(&mut answer(0), [1, 2, 3].map(envelope).into());
        let sent = vec![envelope(1), other(2), envelope(3), envelope(4)];
        let fed = take(&mut answer(3), sent);
        let expected = vec![StrandItem::Second(other(2)), item(4)];
        assert_eq!((fed.batches, fed.violation), (vec![expected], None));
        // The follower has stored nothing behind place 1, and takes what comes now.
        let fed = take(&mut answer(1), vec![other(2), other(3)]);
        let expected = [other(2), other(3)].map(StrandItem::Envelope);
        assert_eq!(fed.batches, [expected]);
        let fed = take(&mut answer(3), vec![other(2), envelope(3), envelope(4)]);
        assert_eq!(fed.batches, [[StrandItem::Second(envelope(3)), item(4)]]);
        assert!(take(&mut feed(3, None), vec![other(2)]).batches.is_empty(), "not of this peer");
    }

    #[test]
    fn a_second_statement_for_the_last_place_of_a_want_goes_to_the_follower() {
        let second = |sequence| StrandItem::Second(other(sequence));
        let mut feed = feed(2, Some(4));
        let fed = take(&mut feed, vec![envelope(3), envelope(4), other(4), other(3), envelope(5)]);
        let expected = vec![item(3), item(4), second(4), second(3)];
        assert_eq!((fed.batches, fed.violation), (vec![expected], None));
        assert!(feed.is_over());
        for behind in [envelope(4), other(5), Bytes::from_static(b"no envelope")] {
            let mut feed = self::feed(3, Some(4));
            let fed = take(&mut feed, vec![envelope(4), behind, other(4)]);
            assert_eq!((fed.batches, fed.violation), (vec![vec![item(4)]], None), "it ends there");
        }
    }

    /// Returns an envelope with its outer bytes and its signature in other forms.
    fn in_other_form(envelope: &Bytes) -> Bytes {
        let mut message = pb::OriginatorEnvelope::decode(envelope.clone()).unwrap();
        let Some(pb::originator_envelope::Proof::OriginatorSignature(signature)) =
            &mut message.proof
        else {
            panic!("it is signed")
        };
        let mut bytes = signature.bytes.to_vec();
        *bytes.last_mut().unwrap() += 27;
        signature.bytes = bytes.into();
        [&message.encode_to_vec()[..], &[0x7a, 1, 9]].concat().into()
    }

    /// The reference repeats itself, writes envelopes in other forms, and burns ids. Rows of the older network may come
    /// twice.
    #[test]
    fn habits_of_the_reference_are_no_second_statements() {
        let odd = |sequence| in_other_form(&envelope(sequence));
        let resigned = |sequence| {
            let (statement, _) = OriginatorEnvelope::open(envelope(sequence)).unwrap();
            let key = SecretKey::from_bytes(&[8; 32]).unwrap();
            let signature = key.sign(originator_digest(&statement));
            OriginatorEnvelope::encode(statement, Proof::Signature(signature))
        };
        let mut feed = feed(2, None);
        let sent = vec![envelope(1), odd(2), other(2), odd(3), envelope(3), odd(3), resigned(3)];
        let fed = take(&mut feed, sent);
        assert_eq!((fed.batches, fed.violation), (vec![vec![item(3)]], None));
        // Places 4 and 5 are burned.
        let fed = take(&mut feed, vec![envelope(6), other(4), other(5), odd(6), envelope(3)]);
        assert_eq!(fed.batches, [[gap(4, 5, false), item(6)]]);

        let older = OriginatorId::MIGRATED[1];
        let row = |originator_ns| envelope_at(older, 1, originator_ns);
        let want = Want::envelopes(older, SequenceId::NONE, None);
        let mut feed = WantFeed::new(want, AskedPeer::OwnNodeUnprotected, Instant::now());
        let fed = take(&mut feed, vec![row(NOW_NS), row(NOW_NS + 1)]);
        assert_eq!(fed.batches, [[StrandItem::Envelope(row(NOW_NS))]]);
    }

    #[test]
    fn a_want_with_an_end_takes_nothing_behind_it() {
        let mut whole = feed(2, Some(4));
        let fed = take(&mut whole, [3, 4, 5].map(envelope).into());
        assert_eq!(fed.batches, [[item(3), item(4)]]);
        assert!(whole.is_over());
        let mut passed = feed(2, Some(4));
        assert_eq!(
            take(&mut passed, [3, 9].map(envelope).into()).batches,
            [[item(3), gap(4, 8, false)]]
        );
        assert!(passed.is_over());
        let mut short = feed(2, Some(4));
        assert_eq!(short.places_left(), 2);
        take(&mut short, vec![envelope(3)]);
        assert!(!short.is_over());
        assert_eq!(short.places_left(), 1);
    }

    #[test]
    fn only_old_places_of_the_strands_own_node_may_have_expired() {
        let old = NOW_NS - 2 * 24 * 3600 * 1_000_000_000; // the shortest retention
        for (asked, originator_ns, expired) in [
            (AskedPeer::OwnNode, old, true),
            (AskedPeer::OwnNode, old + 1, false),
            (AskedPeer::OwnNodeUnprotected, old, false),
            (AskedPeer::Relay, old, false),
        ] {
            let mut feed = feed_of(asked, 0, None);
            let fed = take(&mut feed, vec![envelope_at(NODE, 5, originator_ns)]);
            assert_eq!(fed.batches[0][0], gap(1, 4, expired), "{asked:?} {originator_ns}");
        }
    }

    #[test]
    fn what_came_before_a_violation_counts() {
        let other = envelope_at(OriginatorId(400), 5, NOW_NS);
        let proof = Proof::Transaction([1; 32]);
        let of_chain = OriginatorEnvelope::encode(Bytes::from_static(&[8, 1]), proof);
        for (bad, violation) in [
            (other, PeerViolation::WrongOriginator),
            (Bytes::from_static(b"no envelope"), PeerViolation::NotCanonical),
            (Bytes::new(), PeerViolation::NotCanonical),
            (of_chain, PeerViolation::WrongOriginator),
            (envelope(0), PeerViolation::OutOfOrder),
            (envelope(u64::MAX), PeerViolation::OutOfOrder),
        ] {
            let mut feed = feed(2, None);
            let fed = take(&mut feed, vec![envelope(3), bad, envelope(4)]);
            assert_eq!(fed.batches, [[item(3)]]);
            assert_eq!(fed.violation, Some(violation.into()));
        }
    }

    /// Other software stores and passes on what a hostile node has given it.
    #[test]
    fn what_a_relay_passes_on_that_is_no_envelope_goes_to_the_follower_and_ends_the_want() {
        for bad in [Bytes::from_static(b"no envelope"), Bytes::new()] {
            for up_to in [None, Some(9)] {
                let mut feed = feed_of(AskedPeer::Relay, 2, up_to);
                let fed = take(&mut feed, vec![envelope(3), bad.clone(), envelope(4)]);
                let expected = vec![item(3), StrandItem::Envelope(bad.clone())];
                assert_eq!((fed.batches, fed.violation), (vec![expected], None));
                assert!(feed.is_over());
                assert!(take(&mut feed, vec![envelope(5)]).batches.is_empty());
            }
        }
        // What a peer chooses itself stays a fault.
        let foreign = envelope_at(OriginatorId(400), 3, NOW_NS);
        for (bad, violation) in
            [(foreign, PeerViolation::WrongOriginator), (envelope(0), PeerViolation::OutOfOrder)]
        {
            let fed = take(&mut feed_of(AskedPeer::Relay, 2, None), vec![bad]);
            assert_eq!(fed.violation, Some(violation.into()));
        }
    }

    #[test]
    fn an_envelope_keeps_nothing_of_its_message() {
        let (envelope, padding) = (envelope(3), [0; 10_000]);
        let message = Bytes::from([&envelope[..], &padding].concat());
        let fed = take(&mut feed(2, None), vec![message.slice(..envelope.len())]);
        assert_eq!(fed.batches, [[item(3)]]);
        assert!(message.is_unique(), "an item of the feed shares its memory");
    }

    #[test]
    fn keep_alives_are_free_as_long_as_they_are_rare() {
        let start = Instant::now();
        let mut feed = WantFeed::new(want(0, None), AskedPeer::OwnNodeUnprotected, start);
        let mut at = |seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            feed.take(now, NOW_NS, Vec::new()).violation
        };
        assert!((0..10_000).all(|seconds| at(seconds).is_none()));
        let flood: Vec<_> = (0..100).map(|_| at(10_000)).collect();
        assert_eq!(flood.iter().filter(|it| it.is_none()).count(), KEEP_ALIVES_MAX as usize);
        assert_eq!(flood.last(), Some(&Some(PeerError::KeepAlives)));
        assert_eq!(at(10_001), None, "time makes up for it");
    }

    #[test]
    fn a_large_message_goes_on_in_parts() {
        let large = |sequence| {
            let statement = pb::UnsignedOriginatorEnvelope {
                originator_node_id: NODE.0,
                originator_sequence_id: sequence,
                payer_envelope_bytes: vec![0; 200 * 1024].into(),
                ..Default::default()
            };
            UnsealedEnvelope::new(&statement).seal(&SecretKey::from_bytes(&[7; 32]).unwrap())
        };
        let fed = take(&mut feed(0, None), (1..=7).map(large).collect());
        assert_eq!(fed.batches.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2, 1]);
    }

    proptest! {
        #[test]
        fn items_ascend_and_cover_every_place_whatever_a_peer_sends(
            messages in proptest::collection::vec(proptest::collection::vec(0u64..30, 0..8), 0..12),
            after in 0u64..10,
            end in 0u64..20,
        ) {
            let up_to = (end > after).then_some(end);
            let mut feed = feed(after, up_to);
            let mut last = after;
            for message in messages {
                if feed.is_over() {
                    break;
                }
                let fed = take(&mut feed, message.into_iter().map(envelope).collect());
                for item in fed.batches.into_iter().flatten() {
                    last = match item {
                        StrandItem::Gap { from, to, .. } => {
                            prop_assert!(from.0 == last + 1 && to >= from);
                            to.0
                        }
                        StrandItem::Envelope(bytes) => {
                            let (statement, _) = OriginatorEnvelope::open(bytes).unwrap();
                            let id = OriginatorEnvelope::statement(statement).unwrap().0;
                            prop_assert_eq!(id.sequence.0, last + 1);
                            prop_assert!(up_to.is_none_or(|up_to| id.sequence.0 <= up_to));
                            id.sequence.0
                        }
                        StrandItem::Second(_)
                        | StrandItem::Prefix(_)
                        | StrandItem::End
                        | StrandItem::Closed => unreachable!("equal statements give none of these"),
                    };
                }
                if fed.violation.is_some() {
                    break;
                }
                prop_assert!(last <= feed.position().0 || feed.is_over());
            }
        }

        /// Random bytes alone are hardly ever an envelope, and would be refused at once.
        #[test]
        fn any_bytes_are_looked_at_without_harm(
            changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..100),
        ) {
            let mut bytes = envelope(1).to_vec();
            let len = bytes.len();
            for (at, byte) in changes {
                bytes[at % len] = byte;
            }
            let _ = take(&mut feed(0, None), vec![bytes.into(), envelope(2)]);
        }
    }
}
