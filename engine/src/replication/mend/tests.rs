//! Peers that lie, forge, keep silent or leave while damaged places are searched for.

use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::sign::originator_digest;
use hawser_proto::{EnvelopeId, SecretKey};
use hawser_storage::{LogEntry, Validity};

use super::*;

const STRAND: OriginatorId = OriginatorId(200);
const A: OriginatorId = OriginatorId(300);
const B: OriginatorId = OriginatorId(400);

fn entry(place: u64, text: &str) -> LogEntry {
    let statement = Bytes::copy_from_slice(format!("{place} {text}").as_bytes());
    let key = SecretKey::from_bytes(&[1; 32]).unwrap();
    let signature = key.sign(originator_digest(&statement));
    let bytes = OriginatorEnvelope::encode(statement, Proof::Signature(signature));
    let id = EnvelopeId::new(STRAND, SequenceId(place));
    LogEntry { id, bytes, validity: Validity::Valid, facts: None }
}

fn search(places: std::ops::RangeInclusive<u64>) -> MendSearch {
    let leaf = |place| envelope_leaf(&entry(place, "right").bytes);
    let wanted = places.map(|place| (SequenceId(place), leaf(place))).collect();
    // In this order A is asked before B.
    let order = (0..).find(|order| rank(*order, A) < rank(*order, B)).unwrap();
    MendSearch::new(STRAND, wanted, RequestIds::of_turn(1), order)
}

#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn start() -> Instant {
    Instant::now()
}

fn request_of(effect: Option<MendEffect>, from: OriginatorId) -> RequestId {
    let Some(MendEffect::Want { peer, request, .. }) = effect else { panic!("{effect:?}") };
    assert_eq!(peer, from);
    request
}

fn send(
    search: &mut MendSearch,
    now: Instant,
    (peer, request): (OriginatorId, RequestId),
    items: Vec<StrandItem<VerifyResult>>,
) {
    search.handle_response(now, WantResponse { peer, request, items });
}

const PEERS: [(OriginatorId, SequenceId); 2] = [(A, SequenceId(9)), (B, SequenceId(9))];

#[test]
fn a_peer_with_other_bytes_is_passed_over_and_the_next_one_is_asked() {
    let (mut search, now) = (search(4..=6), start());
    search.handle_peers(now, &PEERS);
    let asked = request_of(search.poll_effect(), A);
    let other = ["right", "other", "right"];
    let items = (4..).zip(other).map(|(at, text)| StrandItem::Envelope(Ok(entry(at, text))));
    send(&mut search, now, (A, asked), items.chain([StrandItem::End]).collect());
    assert_eq!((search.refused(), search.poll_effect()), (1, None));
    search.handle_peers(now, &PEERS);
    let effect = search.poll_effect();
    let want = Want::envelopes(STRAND, SequenceId(4), Some(SequenceId(5)));
    let asked = request_of(effect, B);
    assert_eq!(effect, Some(MendEffect::Want { peer: B, request: asked, want }));
    send(&mut search, now, (B, asked), vec![StrandItem::Envelope(Ok(entry(5, "right")))]);
    assert_eq!(search.poll_effect(), Some(MendEffect::Stop { peer: B }), "it has all");
    let found = search.into_found();
    let right = (4..=6).map(|at| (SequenceId(at), entry(at, "right").bytes));
    assert_eq!(found, right.collect());
}

#[test]
fn forgers_lose_their_connection_and_silent_peers_their_turn() {
    let (mut search, now) = (search(4..=4), start());
    search.note_proven([A].into());
    search.handle_peers(now, &PEERS);
    let asked = request_of(search.poll_effect(), A);
    let violation = PeerViolation::ForgedSignature;
    send(&mut search, now, (A, asked), vec![StrandItem::Envelope(Err(violation))]);
    assert_eq!(search.poll_effect(), Some(MendEffect::Disconnect { peer: A, violation }));
    search.handle_peers(now, &PEERS);
    let asked = request_of(search.poll_effect(), B);
    search.handle_timeout(now);
    assert!(search.awaits(B, asked));
    search.handle_timeout(search.poll_timeout().unwrap());
    assert_eq!(search.poll_effect(), Some(MendEffect::Stop { peer: B }));
    search.handle_peers(now, &PEERS);
    assert_eq!((search.poll_effect(), search.poll_timeout()), (None, None), "all were asked");
    // A late answer changes nothing.
    send(&mut search, now, (B, asked), vec![StrandItem::Envelope(Ok(entry(4, "right")))]);
    assert!(search.into_found().is_empty());
}

/// Otherwise a hostile node could have a peer of other software lose its connection whenever a place is mended.
#[test]
fn a_relay_that_has_not_checked_what_it_passes_on_loses_its_want_and_not_its_connection() {
    for violation in
        [PeerViolation::NotCanonical, PeerViolation::ChainProof, PeerViolation::ForgedSignature]
    {
        let now = start();
        let bad = || vec![StrandItem::Envelope(Err(violation))];
        let mut relayed = search(4..=4);
        relayed.handle_peers(now, &PEERS);
        let asked = request_of(relayed.poll_effect(), A);
        send(&mut relayed, now, (A, asked), bad());
        assert_eq!(relayed.poll_effect(), Some(MendEffect::Stop { peer: A }));
        relayed.handle_peers(now, &PEERS);
        request_of(relayed.poll_effect(), B);

        // The strand's own node has made what it sends.
        let mut own = search(4..=4);
        own.handle_peers(now, &[(STRAND, SequenceId(9))]);
        let asked = request_of(own.poll_effect(), STRAND);
        send(&mut own, now, (STRAND, asked), bad());
        let lost = MendEffect::Disconnect { peer: STRAND, violation };
        assert_eq!(own.poll_effect(), Some(lost));
    }
}

#[test]
fn places_that_were_not_asked_for_break_the_protocol() {
    for wrong in [3, 8] {
        let (mut search, now) = (search(4..=6), start());
        search.handle_peers(now, &PEERS);
        let asked = request_of(search.poll_effect(), A);
        send(&mut search, now, (A, asked), vec![StrandItem::Envelope(Ok(entry(wrong, "right")))]);
        let violation = PeerViolation::OutOfOrder;
        assert_eq!(search.poll_effect(), Some(MendEffect::Disconnect { peer: A, violation }));
    }
}

/// The rows of a damaged block may stand for large envelopes, which are in other files.
#[test]
fn a_search_without_room_asks_no_further_peer() {
    let (mut search, now) = (search(4..=6), start());
    search.held_bytes = HELD_BYTES_MAX - entry(4, "right").bytes.len();
    search.handle_peers(now, &PEERS);
    let asked = request_of(search.poll_effect(), A);
    let items = [4, 5, 6].map(|at| StrandItem::Envelope(Ok(entry(at, "right"))));
    send(&mut search, now, (A, asked), items.into());
    assert_eq!(search.poll_effect(), Some(MendEffect::Stop { peer: A }));
    search.handle_peers(now, &PEERS);
    assert_eq!((search.poll_effect(), search.poll_timeout()), (None, None));
    assert_eq!(search.into_found().into_keys().collect::<Vec<_>>(), [SequenceId(4)]);
}

#[test]
fn peers_that_claim_less_or_have_gone_are_not_waited_for() {
    let (mut search, now) = (search(4..=6), start());
    search.handle_peers(now, &[(A, SequenceId(3))]);
    assert_eq!(search.poll_effect(), None);
    search.handle_peers(now, &PEERS);
    request_of(search.poll_effect(), A);
    search.handle_peers(now, &PEERS[1..]);
    request_of(search.poll_effect(), B);
    search.handle_unsent();
    assert_eq!(search.poll_timeout(), None);
}

/// Such a peer delays the strand no longer than one that sends places without an end.
#[test]
fn a_peer_whose_bytes_arrive_keeps_its_turn_for_a_while() {
    let (mut search, begin) = (search(4..=4), start());
    search.handle_peers(begin, &PEERS);
    let asked = request_of(search.poll_effect(), A);
    let mut now = begin;
    while search.awaits(A, asked) {
        assert!(now < begin + 2 * WANT_WITHIN, "it sends bytes for ever");
        send(&mut search, now, (A, asked), Vec::new());
        send(&mut search, now, (B, asked), Vec::new());
        now += ANSWER_WITHIN / 2;
        search.handle_timeout(now);
    }
    assert_eq!(now, begin + WANT_WITHIN);
    assert_eq!(search.poll_effect(), Some(MendEffect::Stop { peer: A }));
}

/// The first search has ended, and its peer still answers.
#[test]
fn an_answer_to_an_earlier_search_ends_no_later_one() {
    let (mut first, mut second, now) = (search(4..=4), search(4..=4), start());
    second.requests = RequestIds::of_turn(2);
    first.handle_peers(now, &PEERS);
    second.handle_peers(now, &PEERS);
    let (early, late) = (request_of(first.poll_effect(), A), request_of(second.poll_effect(), A));
    for item in [StrandItem::End, StrandItem::Closed, gap(4, 4), gap(9, 9)] {
        send(&mut second, now, (A, early), vec![item]);
        assert!(second.awaits(A, late) && second.poll_effect().is_none());
    }
    send(&mut second, now, (A, late), vec![StrandItem::Envelope(Ok(entry(4, "right")))]);
    assert_eq!(second.into_found().len(), 1);
}

#[test]
fn turns_of_a_process_have_no_id_in_common() {
    let ids = |turn| {
        let mut ids = RequestIds::of_turn(turn);
        (0..1000).map(|_| ids.next()).collect::<BTreeSet<_>>()
    };
    let turns = [0, 1, 2, (1 << 24) - 1];
    let all: BTreeSet<_> = turns.into_iter().flat_map(ids).collect();
    assert_eq!(all.len(), 1000 * turns.len());
}

fn gap(from: u64, to: u64) -> StrandItem<VerifyResult> {
    StrandItem::Gap { from: SequenceId(from), to: SequenceId(to), expired: false }
}

#[test]
fn a_peer_that_drips_has_its_time_and_the_next_one_is_asked_then() {
    let (mut search, began) = (search(1..=100), start());
    let peers = [(A, SequenceId(100)), (B, SequenceId(100))];
    search.handle_peers(began, &peers);
    let asked = request_of(search.poll_effect(), A);
    let mut now = began;
    for place in 1..=100 {
        now += ANSWER_WITHIN - Duration::from_secs(1);
        search.handle_timeout(now);
        if !search.awaits(A, asked) {
            break;
        }
        send(&mut search, now, (A, asked), vec![gap(place, place)]);
    }
    assert!(now < began + WANT_WITHIN + ANSWER_WITHIN, "{:?}", now - began);
    assert_eq!(search.poll_effect(), Some(MendEffect::Stop { peer: A }));
    search.handle_peers(now, &peers);
    request_of(search.poll_effect(), B);
}

#[test]
fn a_search_among_many_silent_peers_ends() {
    let (mut search, began) = (search(4..=6), start());
    let peers: Vec<_> = (300..400).map(|id| (OriginatorId(id), SequenceId(9))).collect();
    let (mut now, mut wants) = (began, 0);
    loop {
        search.handle_peers(now, &peers);
        while let Some(effect) = search.poll_effect() {
            wants += usize::from(matches!(effect, MendEffect::Want { .. }));
        }
        let Some(until) = search.poll_timeout() else { break };
        now = until;
        search.handle_timeout(now);
    }
    assert_eq!(now, began + SEARCH_WITHIN);
    assert!(0 < wants && wants < peers.len(), "{wants} wants");
}

/// Searches among ten peers with low ids, which use up all of their time, and one peer that has the envelope. Returns
/// true if it is found.
fn is_found_among_hostile_peers(order: u64) -> bool {
    let hostile = (100..110).map(OriginatorId);
    let peers: Vec<_> = hostile.chain([B]).map(|peer| (peer, SequenceId(9))).collect();
    let mut search = search(4..=4);
    search.order = order;
    let mut now = start();
    loop {
        search.handle_peers(now, &peers);
        let Some(MendEffect::Want { peer, request, .. }) = search.poll_effect() else { break };
        if peer == B {
            let right = vec![StrandItem::Envelope(Ok(entry(4, "right")))];
            send(&mut search, now, (peer, request), right);
            break;
        }
        while search.awaits(peer, request) {
            now += ANSWER_WITHIN / 2;
            search.handle_timeout(now);
            send(&mut search, now, (peer, request), Vec::new());
        }
        assert_eq!(search.poll_effect(), Some(MendEffect::Stop { peer }));
    }
    !search.into_found().is_empty()
}

/// Nodes choose their ids. If the lowest ones came first, these ten would use up each search, and the place would never
/// be mended.
#[test]
fn hostile_peers_with_low_ids_hold_up_few_searches_for_damaged_places() {
    let orders = 0..100;
    let found = orders.filter(|order| is_found_among_hostile_peers(*order)).count();
    assert!((75..100).contains(&found), "the honest one is last in one of eleven: {found}");
}

#[test]
fn gaps_that_are_repeated_reversed_or_not_asked_for_break_the_protocol() {
    for wrong in [gap(4, 4), gap(3, 5), gap(6, 5), gap(7, 8)] {
        let (mut search, now) = (search(4..=6), start());
        search.handle_peers(now, &PEERS);
        let asked = request_of(search.poll_effect(), A);
        send(&mut search, now, (A, asked), vec![gap(4, 4), wrong]);
        let violation = PeerViolation::OutOfOrder;
        assert_eq!(search.poll_effect(), Some(MendEffect::Disconnect { peer: A, violation }));
    }
    // A gap beyond the end of the want is the sender's own.
    let (mut search, now) = (search(4..=6), start());
    search.handle_peers(now, &PEERS);
    let asked = request_of(search.poll_effect(), A);
    send(&mut search, now, (A, asked), vec![gap(4, 4), gap(5, 9), StrandItem::End]);
    assert_eq!((search.poll_effect(), search.poll_timeout()), (None, None));
}
