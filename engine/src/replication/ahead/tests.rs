//! The turn of verification beside the pages that readers are shown, and the end of waiting for it.

use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::merkle::{CompactRange, ConsistencyProof, TreeHash};
use hawser_proto::{EnvelopeId, SecretKey};
use hawser_storage::{InvalidRule, LogEntry};

use super::*;
use crate::replication::{Effect, RequestId};

const STRAND: OriginatorId = OriginatorId(200);

fn key() -> SecretKey {
    SecretKey::from_bytes(&[2; 32]).unwrap()
}

/// A strand whose node sends it in pages of one place.
struct Rig {
    ahead: ShownStrand,
    follower: Follower,
    request: RequestId,
    /// The tree of all places that were sent.
    edge: CompactRange,
    now: Instant,
}

impl Rig {
    fn new(ahead_max: u64) -> Self {
        Self::with_limits(ShownLimits { ahead_max, ..ShownLimits::default() })
    }

    fn with_limits(limits: ShownLimits) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
        let now = Instant::now();
        let none = SequenceId::NONE;
        let follower = Follower::new(STRAND, none, [], now);
        let ahead = ShownStrand::new(STRAND, key().public_key(), none, none);
        let mut ahead = ahead.with_runs_shown_first().with_limits(limits);
        ahead.note_absences_known();
        let (request, edge) = (RequestId(0), CompactRange::default());
        let mut rig = Self { ahead, follower, request, edge, now };
        rig.connect();
        rig
    }

    /// Connects the strand's node, which is asked for what comes next.
    fn connect(&mut self) {
        self.follower.handle_peer_up(self.now, STRAND, SequenceId(1_000));
        let effects = std::iter::from_fn(|| self.follower.poll_effect());
        let wanted = effects.filter_map(|effect| match effect {
            Effect::Want { request, .. } => Some(request),
            _ => None,
        });
        self.request = wanted.last().expect("it is asked");
    }

    /// Takes a page with the next place, which its node has signed. It is on disk at once.
    fn page(&mut self) {
        let (response, run) = self.judged();
        self.ahead.accept(self.now, &mut self.follower, response, run);
        self.follower.handle_durable(SequenceId(self.edge.size()));
    }

    /// Has a page with the next place judged.
    fn judged(&mut self) -> (WantResponse<Bytes>, AcceptedRun) {
        let before = self.edge.clone();
        let place = SequenceId(before.size() + 1);
        let leaf = TreeHash([u8::try_from(place.0).unwrap(); 32]);
        self.edge.append(leaf, |_, _| {});
        let (size, root) = (place.0, self.edge.root());
        let of = Checkpoint { node: STRAND, originator: STRAND, size, root, time_ns: 5 };
        let proof = ConsistencyProof(Vec::new());
        let prefix = SignedPrefix { size, signed: of.sign(&key()), proof };
        let bytes = Bytes::from_static(b"not read here");
        let items =
            vec![StrandItem::Prefix(Box::new(prefix.clone())), StrandItem::Envelope(bytes.clone())];
        let response = WantResponse { peer: STRAND, request: self.request, items };
        let is_idle = self.ahead.stage() == ShownStage::Verified;
        let (judge, response) =
            match self.ahead.take(self.now, &mut self.follower, response, is_idle) {
                Some(Incoming::Judge(judge, response)) => (*judge, response),
                other => panic!("a page with a proof is judged, not {other:?}"),
            };
        let judge = if judge.needs_tree() { judge.with_tree(before) } else { judge };
        let id = EnvelopeId::new(STRAND, place);
        let entry = LogEntry::invalid(id, bytes, InvalidRule(1));
        let run = judge.accept(&prefix, vec![(entry, leaf)]).expect("its node has signed it");
        (response, run)
    }

    /// Everything up to a place has come again and is on disk. The strand's node is asked for what follows.
    fn stored(&mut self, place: u64) {
        self.follower = Follower::new(STRAND, SequenceId(place), [], self.now);
        self.connect();
    }

    /// Has the strand's node answer, and returns the work that its answer calls for.
    fn answer(&mut self) -> Option<Incoming> {
        let response = WantResponse { peer: STRAND, request: self.request, items: Vec::new() };
        self.ahead.take(self.now, &mut self.follower, response, true)
    }

    /// Everything up to a place is verified, and the next one has a changed outer layer. Returns the peer that sent it.
    fn forged(&mut self, through: u64) -> Option<OriginatorId> {
        self.ahead.note_forged(self.now, &mut self.follower, SequenceId(through))
    }

    /// Returns the places to verify while pages are on their way to the log.
    fn beside_pages(&self) -> Option<(u64, u64)> {
        self.next_behind(false)
    }

    /// Returns the places of which readers are to lose what breaks a rule.
    fn withdrawal(&mut self) -> Option<(u64, u64)> {
        let next = self.ahead.next_withdrawal(self.now, &self.follower);
        next.map(|(after, through)| (after.0, through.0))
    }

    fn next_behind(&self, is_idle: bool) -> Option<(u64, u64)> {
        let next = self.ahead.next_behind(self.now, &self.follower, is_idle);
        next.map(|(after, through)| (after.0, through.0))
    }
}

#[test]
fn verification_runs_beside_pages_once_half_of_the_bound_is_shown() {
    let mut rig = Rig::new(8);
    for _ in 0..3 {
        rig.page();
        assert_eq!(rig.beside_pages(), None);
    }
    assert_eq!(rig.next_behind(true), Some((0, 3)), "between pages it always has its turn");
    rig.page();
    assert_eq!(rig.beside_pages(), Some((0, 4)));
    assert!(!rig.ahead.is_waiting(&rig.follower), "pages are taken on");
    rig.ahead.note_verified(SequenceId(2));
    assert_eq!(rig.beside_pages(), None);
}

/// However small the pages are, and whatever was verified meanwhile.
#[test]
fn verification_runs_beside_pages_that_never_pause_after_a_bound_in_time() {
    const LITTLE: Duration = Duration::from_millis(1);
    let mut rig = Rig::new(AHEAD_MAX);
    rig.page();
    rig.now += PAGES_FIRST_FOR - LITTLE;
    rig.page();
    assert_eq!(rig.beside_pages(), None);
    rig.now += LITTLE;
    assert_eq!(rig.beside_pages(), Some((0, 2)));
    // From then on, until nothing is left to verify.
    rig.ahead.note_verified(SequenceId(1));
    rig.page();
    assert_eq!(rig.beside_pages(), Some((1, 3)));
    rig.ahead.note_verified(SequenceId(3));
    assert_eq!(rig.ahead.settle(rig.now, &rig.follower), None);
    assert_eq!(rig.ahead.stage(), ShownStage::Verified);
    // The time of the next backlog begins with it.
    rig.page();
    assert_eq!(rig.beside_pages(), None);
    rig.now += PAGES_FIRST_FOR;
    assert_eq!(rig.beside_pages(), Some((3, 4)));
}

#[test]
fn what_an_earlier_process_has_shown_is_verified_beside_pages_at_once() {
    let rig = Rig::new(AHEAD_MAX);
    let (verified, stored) = (SequenceId(1), SequenceId(4));
    let follower = Follower::new(STRAND, stored, [], rig.now);
    let mut ahead = ShownStrand::new(STRAND, key().public_key(), verified, stored);
    ahead.note_absences_known();
    let next = ahead.next_behind(rig.now, &follower, false);
    assert_eq!(next, Some((verified, stored)));
}

/// The bound holds also if a peer sends the places one by one.
#[test]
fn what_is_asked_for_again_and_does_not_come_is_looked_at_after_a_bound_in_time() {
    let mut rig = Rig::new(AHEAD_MAX);
    (0..5).for_each(|_| rig.page());
    assert_eq!(rig.withdrawal(), None, "it is verified first");
    assert_eq!(rig.forged(1), Some(STRAND));
    let (verified, head) = (SequenceId(1), SequenceId(5));
    let again = rig.ahead.settle(rig.now, &rig.follower);
    assert_eq!(again, Some(AskAgain { verified: Some(verified), head }));
    rig.follower = rig.ahead.ask_again(rig.now, &rig.follower, verified, head);
    assert_eq!(rig.withdrawal(), None);
    rig.now += WITHDRAW_AFTER;
    assert_eq!(rig.withdrawal(), Some((1, 5)));
    rig.ahead.note_not_withdrawn(rig.now);
    assert_eq!(rig.withdrawal(), None, "the disk gets a pause");
    rig.now += WITHDRAW_AFTER;
    rig.ahead.note_withdrawn(SequenceId(2));
    assert_eq!(rig.withdrawal(), Some((2, 5)));
    // The third place has come.
    rig.follower = Follower::new(STRAND, SequenceId(3), [], rig.now);
    assert_eq!(rig.withdrawal(), Some((3, 5)));
    rig.ahead.note_withdrawn(head);
    assert_eq!(rig.withdrawal(), None);
}

/// A relay that changes one place of many costs few of them, and does not put the look at the others off.
#[test]
fn what_follows_a_place_that_has_come_again_is_verified_from_the_log() {
    let mut rig = Rig::with_limits(ShownLimits { again_places: 2, ..ShownLimits::default() });
    (0..5).for_each(|_| rig.page());
    assert_eq!(rig.forged(1), Some(STRAND));
    let (verified, head) = (SequenceId(1), SequenceId(5));
    assert!(rig.ahead.settle(rig.now, &rig.follower).is_some());
    rig.follower = rig.ahead.ask_again(rig.now, &rig.follower, verified, head);
    assert_eq!(rig.withdrawal(), None);
    rig.stored(2);
    assert!(rig.ahead.go_on(rig.now, &rig.follower).is_none());
    assert!(matches!(rig.answer(), Some(Incoming::Verify(_))));
    rig.stored(3);
    assert!(rig.answer().is_none(), "what follows is in the log");
    rig.follower = rig.ahead.go_on(rig.now, &rig.follower).expect("two places have come");
    assert_eq!(rig.follower.durable(), head);
    assert_eq!(rig.next_behind(true), Some((3, 5)));
    rig.now += WITHDRAW_AFTER;
    assert_eq!(rig.withdrawal(), None, "it is verified first");
    assert_eq!(rig.forged(3), Some(STRAND), "who has sent it is known");
    assert!(rig.ahead.settle(rig.now, &rig.follower).is_some());
    rig.follower = rig.ahead.ask_again(rig.now, &rig.follower, SequenceId(3), head);
    assert_eq!(rig.withdrawal(), Some((3, 5)), "its time has begun with the first request");
    rig.stored(5);
    assert!(rig.ahead.go_on(rig.now, &rig.follower).is_none());
    assert!(rig.ahead.settle(rig.now, &rig.follower).is_none());
    assert_eq!(rig.ahead.stage(), ShownStage::Verified);
}

/// Otherwise a node that has dated back could have a relay change an outer layer, and would be believed about expired
/// places afterwards.
#[test]
fn a_follower_that_asks_again_knows_how_far_times_have_gone_back() {
    let mut rig = Rig::with_limits(ShownLimits { again_places: 2, ..ShownLimits::default() });
    (0..5).for_each(|_| rig.page());
    assert_eq!(rig.forged(1), Some(STRAND));
    let (verified, head) = (SequenceId(1), SequenceId(5));
    assert!(rig.ahead.settle(rig.now, &rig.follower).is_some());
    let before = Follower::new(STRAND, head, [], rig.now).stepped_back(7);
    let again = rig.ahead.ask_again(rig.now, &before, verified, head);
    assert_eq!(again.stepped_back_ns(), 7);
    let stored = Follower::new(STRAND, SequenceId(3), [], rig.now).stepped_back(8);
    let behind = rig.ahead.go_on(rig.now, &stored).expect("two places have come");
    assert_eq!(behind.stepped_back_ns(), 8);
}

#[test]
fn what_is_missing_is_asked_for_also_while_shown_places_are_asked_for_again() {
    let mut rig = Rig::new(AHEAD_MAX);
    let (place, verified, head) = (SequenceId(2), SequenceId(3), SequenceId(5));
    let before = Follower::new(STRAND, verified, [(place, place)], rig.now);
    let mut again = rig.ahead.ask_again(rig.now, &before, verified, head);
    // The strand is taken from the first peer, and the missing place is asked of the second one.
    for peer in [STRAND, OriginatorId(300)] {
        again.handle_peer_up(rig.now, peer, verified);
    }
    let mut effects = std::iter::from_fn(|| again.poll_effect());
    let is_asked = |effect: Effect| match effect {
        Effect::Want { want, .. } => want.up_to() == Some(place),
        _ => false,
    };
    assert!(effects.any(is_asked));
}

/// An answer without items only says that more bytes of an answer have arrived.
#[test]
fn an_answer_without_items_is_not_put_aside() {
    let mut rig = Rig::new(AHEAD_MAX);
    rig.page();
    assert!(rig.answer().is_none());
    assert!(!rig.ahead.is_waiting(&rig.follower), "pages are taken on");
}

/// Over a slow link, the next page of long envelopes takes longer than a source may show nothing.
#[test]
fn a_source_whose_bytes_arrive_while_places_are_shown_is_not_taken_for_silent() {
    for arrives in [true, false] {
        let mut rig = Rig::new(AHEAD_MAX);
        rig.page();
        for _ in 0..60 {
            rig.now += Duration::from_millis(250);
            if arrives {
                assert!(rig.answer().is_none());
            }
            rig.follower.handle_timeout(rig.now);
        }
        assert_eq!(rig.follower.awaits(STRAND, rig.request), arrives, "{arrives}");
    }
}

#[test]
fn a_page_of_a_peer_that_goes_while_it_is_judged_does_not_keep_the_next_one_away() {
    let mut rig = Rig::new(AHEAD_MAX);
    rig.page();
    let before = rig.edge.clone();
    let (response, run) = rig.judged();
    rig.follower.handle_peer_down(rig.now, STRAND);
    rig.ahead.accept(rig.now, &mut rig.follower, response, run);
    assert_eq!(rig.follower.accepted(), SequenceId(1), "it is asked for again");
    (rig.edge, rig.now) = (before, rig.now + Duration::from_secs(1));
    rig.connect();
    rig.page();
    assert_eq!(rig.next_behind(true), Some((0, 2)));
    assert_eq!(rig.forged(1), Some(STRAND));
}

/// The peer would otherwise be chosen again while its connection ends, and each time that it reconnects.
#[test]
fn a_peer_that_has_sent_a_changed_outer_layer_comes_behind_others() {
    let mut rig = Rig::new(AHEAD_MAX);
    rig.page();
    rig.page();
    let (liar, honest, head) = (STRAND, OriginatorId(300), SequenceId(2));
    assert_eq!(rig.forged(0), Some(liar));
    let again = rig.ahead.settle(rig.now, &rig.follower);
    assert_eq!(again, Some(AskAgain { verified: Some(SequenceId::NONE), head }));
    let mut again = rig.ahead.ask_again(rig.now, &rig.follower, SequenceId::NONE, head);
    again.handle_peer_up(rig.now, liar, SequenceId(9));
    again.handle_peer_up(rig.now, honest, head);
    assert_eq!(again.source(), Some(honest));
}

/// The strand's node, against which a dispute can bring proof, can have the strand begin anew.
#[test]
fn a_strand_that_begins_anew_keeps_its_disputes_with_peers() {
    let mut rig = Rig::new(8);
    (0..3).for_each(|_| rig.page());
    let (holder, first) = (OriginatorId(300), SequenceId(1));
    rig.follower.handle_disputed(rig.now, holder, SequenceId::NONE, first);
    let mut anew = rig.ahead.ask_again(rig.now, &rig.follower, first, SequenceId(3));
    anew.handle_peer_up(rig.now, holder, SequenceId::NONE);
    let effects = std::iter::from_fn(|| anew.poll_effect());
    let wanted = effects.filter_map(|effect| match effect {
        Effect::Want { want, .. } => want.up_to(),
        _ => None,
    });
    assert_eq!(wanted.collect::<Vec<_>>(), [first]);
}
