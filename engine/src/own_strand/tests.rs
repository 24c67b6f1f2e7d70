//! The decision about signing, with peers that are honest, late, silent or lying.

use super::*;
use crate::read::testing::Dice;

const A: OriginatorId = OriginatorId(200);
const B: OriginatorId = OriginatorId(300);
const C: OriginatorId = OriginatorId(400);
const START_NS: i64 = 1_750_000_000_000_000_000;
const OLD_NS: Option<i64> = Some(START_NS - 1);

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A guard with its clock and its folder.
struct Node {
    guard: OwnStrandGuard,
    start: Instant,
    now: Instant,
    held: u64,
    has_signed: bool,
    others: BTreeSet<OriginatorId>,
    claims: BTreeMap<OriginatorId, Option<SequenceId>>,
}

impl Node {
    #[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
    fn start(standing: FolderStanding, held: u64, others: &[OriginatorId]) -> Self {
        let start = Instant::now();
        let guard = OwnStrandGuard::new(standing, SequenceId::NONE, start, START_NS);
        let mut node = Self {
            guard,
            start,
            now: start,
            held,
            has_signed: false,
            others: others.iter().copied().collect(),
            claims: BTreeMap::new(),
        };
        node.look();
        node
    }

    fn unknown(held: u64, others: &[OriginatorId]) -> Self {
        Self::start(FolderStanding::Unknown(UnknownFolder::Older), held, others)
    }

    /// Replaces the guard by that of the same folder on a host that has signed up to a place.
    fn on_host(mut self, host_head: u64) -> Self {
        let unknown = FolderStanding::Unknown(UnknownFolder::Older);
        self.guard = OwnStrandGuard::new(unknown, SequenceId(host_head), self.start, START_NS);
        self.look();
        self
    }

    fn look(&mut self) {
        let seen = StrandObservation {
            held: SequenceId(self.held),
            has_signed: self.has_signed,
            others: self.others.clone(),
            claims: self.claims.clone(),
        };
        self.guard.observe(self.now, seen);
    }

    /// Moves to a time after the start, with every timer on the way.
    fn at(&mut self, time: Duration) {
        let until = self.start + time;
        while let Some(next) = self.guard.poll_timeout().filter(|next| *next <= until) {
            assert!(next > self.now, "a timer moves time on");
            self.now = next;
            self.look();
        }
        self.now = until;
        self.look();
    }

    fn claim(&mut self, peer: OriginatorId, head: u64) {
        self.claims.insert(peer, Some(SequenceId(head)));
        self.look();
    }

    /// A peer connects that cannot state its heads.
    fn states_no_head(&mut self, peer: OriginatorId) {
        self.claims.insert(peer, None);
        self.look();
    }

    fn gone(&mut self, peer: OriginatorId) {
        self.claims.remove(&peer);
        self.look();
    }

    /// A peer shows the next place, which is stored before the guard looks again.
    fn shown(&mut self, peer: OriginatorId) {
        self.held += 1;
        self.guard.note_shown(self.now, peer, SequenceId(self.held), OLD_NS);
        self.look();
    }

    fn confirm(&mut self, gap: u64) {
        let about = self.guard.status();
        self.guard.note_confirmation(self.now, START_NS, OperatorConfirmation { gap, about });
        self.look();
    }

    /// Carries out a release that is due; returns the first place to give out.
    fn first_place(&mut self) -> Option<u64> {
        let release = self.guard.release(self.now)?;
        self.held = release.skip_through.map_or(self.held, |through| through.0);
        self.guard.note_released();
        self.look();
        Some(self.held + 1)
    }

    fn quarantine(&self) -> Quarantine {
        match self.guard.status() {
            OwnStrandStatus::Quarantined(quarantine) => quarantine,
            other => panic!("{other:?}"),
        }
    }
}

/// A folder is restored, signs, and is restored again before any peer has received what it signed.
#[test]
fn places_that_this_host_signed_are_left_out_though_no_peer_holds_them() {
    for gap in [None, Some(GAP), Some(0)] {
        let mut node = Node::unknown(7, &[A, B]).on_host(GAP + 20);
        node.claim(A, 7);
        node.claim(B, 7);
        if let Some(gap) = gap {
            node.confirm(gap);
        }
        node.at(seconds(31.0));
        assert_eq!(node.first_place(), Some(GAP + 20 + gap.unwrap_or(GAP) + 1), "{gap:?}");
    }
}

#[test]
fn a_known_folder_signs_as_soon_as_every_peer_has_answered() {
    let mut node = Node::start(FolderStanding::Newest, 7, &[A, B]);
    assert_eq!(node.guard.status(), OwnStrandStatus::Asking);
    node.claim(A, 7);
    assert_eq!(node.first_place(), None);
    node.claim(B, 3);
    assert_eq!(node.first_place(), Some(8));
    assert_eq!(node.guard.status(), OwnStrandStatus::Ready);
}

/// All nodes of a network that start at once wait for each other no longer than that.
#[test]
fn a_known_folder_waits_for_absent_peers_only_for_a_moment() {
    let mut node = Node::start(FolderStanding::Newest, 0, &[A, B]);
    node.at(ASK_FOR - seconds(0.001));
    assert_eq!(node.first_place(), None);
    node.at(ASK_FOR);
    assert_eq!(node.first_place(), Some(1));
}

/// The flag may be wrong: a script repeats it for a key that is in use, while the peers that know are cut off.
#[test]
fn a_strand_that_is_declared_new_waits_for_a_majority_or_for_the_operator() {
    let mut alone = Node::start(FolderStanding::New, 0, &[]);
    assert_eq!(alone.first_place(), Some(1), "there is no other node to ask");

    let mut together = Node::start(FolderStanding::New, 0, &[A, B, C]);
    together.claim(A, 0);
    assert_eq!(together.first_place(), None, "one of three");
    together.claim(B, 0);
    assert_eq!(together.first_place(), Some(1));

    for confirmation in [None, Some(0), Some(GAP)] {
        let mut cut_off = Node::start(FolderStanding::New, 0, &[A, B]);
        cut_off.claim(A, 0);
        cut_off.at(ASK_FOR - seconds(0.001));
        assert_eq!(cut_off.guard.status(), OwnStrandStatus::Asking);
        cut_off.at(seconds(1e6));
        assert_eq!(cut_off.first_place(), None);
        let quarantine = cut_off.quarantine();
        assert_eq!(quarantine.reason, UnknownFolder::Unanswered);
        assert_eq!((quarantine.answered, quarantine.needed()), (1, Some(2)));
        match confirmation {
            Some(gap) => cut_off.confirm(gap),
            None => cut_off.claim(B, 0),
        }
        assert_eq!(cut_off.first_place(), Some(1 + confirmation.unwrap_or(0)), "{confirmation:?}");
    }
}

/// A peer whose software has no method for its heads may hold places of the strand.
#[test]
fn a_peer_that_cannot_tell_its_heads_has_not_answered() {
    let mut new = Node::start(FolderStanding::New, 0, &[A, B, C]);
    for peer in [A, B, C] {
        new.states_no_head(peer);
    }
    new.at(seconds(1e6));
    assert_eq!(new.first_place(), None);
    assert_eq!(new.quarantine().answered, 0);
    new.claim(A, 0);
    assert_eq!(new.first_place(), None, "one of three");
    new.claim(B, 0);
    assert_eq!(new.first_place(), Some(1), "both tell their heads by now");

    let mut restored = Node::unknown(5, &[A, B]);
    restored.states_no_head(A);
    restored.states_no_head(B);
    restored.at(seconds(1e6));
    assert_eq!(restored.first_place(), None);
    restored.confirm(GAP);
    assert_eq!(restored.first_place(), Some(5 + GAP + 1), "the operator may know better");

    // The folder that this host wrote last waits no longer for such peers than for silent ones.
    let mut newest = Node::start(FolderStanding::Newest, 5, &[A, B]);
    newest.states_no_head(A);
    newest.states_no_head(B);
    assert_eq!(newest.first_place(), None);
    newest.at(ASK_FOR);
    assert_eq!(newest.first_place(), Some(6));
}

#[test]
fn a_confirmation_about_a_new_key_does_not_cover_a_strand_that_a_peer_shows() {
    for is_confirmed_first in [true, false] {
        let mut node = Node::start(FolderStanding::New, 0, &[A, B]);
        node.at(ASK_FOR);
        let confirmation = OperatorConfirmation { gap: 0, about: node.guard.status() };
        node.claim(A, 3);
        if is_confirmed_first {
            node.guard.note_confirmation(node.now, START_NS, confirmation);
        }
        node.shown(A);
        if !is_confirmed_first {
            node.guard.note_confirmation(node.now, START_NS, confirmation);
            node.look();
        }
        assert_eq!(node.quarantine().reason, UnknownFolder::Contradicted);
        node.gone(A);
        node.at(seconds(1e6));
        assert_eq!(node.first_place(), None, "{is_confirmed_first}");
        node.confirm(GAP);
        assert_eq!(node.first_place(), Some(1 + GAP + 1));
    }
}

#[test]
fn a_peer_that_shows_more_sends_a_known_folder_to_quarantine() {
    for standing in [FolderStanding::Newest, FolderStanding::New] {
        let mut node = Node::start(standing, 0, &[A, B]);
        node.claim(A, 2);
        assert_eq!(node.guard.source(), Some(A));
        let claimed = OwnStrandStatus::Claimed { peer: A, head: SequenceId(2) };
        assert_eq!(node.guard.status(), claimed);
        node.at(ASK_FOR + seconds(1.0));
        assert_eq!(node.first_place(), None, "it is being asked");
        node.shown(A);
        assert_eq!(node.quarantine().reason, UnknownFolder::Contradicted);
        node.shown(A);
        assert_eq!(node.guard.source(), None);
        node.at(seconds(60.0));
        assert_eq!(node.first_place(), None, "one of two others is no majority");
        node.claim(B, 0);
        assert_eq!(node.first_place(), Some(2 + GAP + 1));
    }
}

#[test]
fn what_is_shown_after_the_first_publish_stops_the_node_until_the_operator_speaks() {
    for is_stored_at_once in [false, true] {
        let mut node = Node::start(FolderStanding::Newest, 7, &[A, B]);
        node.at(seconds(2.0));
        assert_eq!(node.first_place(), Some(8));
        (node.held, node.has_signed) = (8, true);
        node.claim(A, 9);
        node.guard.note_shown(node.now, A, SequenceId(9), OLD_NS);
        node.held += u64::from(is_stored_at_once);
        node.look();
        assert_eq!(node.guard.status(), OwnStrandStatus::Stopped);
        node.held = 9;
        node.claim(B, 9);
        node.at(seconds(1e6));
        assert_eq!(node.first_place(), None, "for good");
        node.confirm(GAP);
        assert_eq!(node.first_place(), Some(9 + GAP + 1));
    }

    // Before the first publish nothing can have been signed twice.
    let mut node = Node::start(FolderStanding::Newest, 7, &[A, B]);
    node.at(seconds(2.0));
    assert_eq!(node.first_place(), Some(8));
    node.claim(A, 8);
    node.shown(A);
    assert_eq!(node.quarantine().reason, UnknownFolder::Contradicted);
}

#[test]
fn an_envelope_that_was_signed_since_the_start_is_a_second_process() {
    let now_ns = Some(START_NS + 60_000_000_000);
    let mut ready = Node::start(FolderStanding::Newest, 7, &[]);
    ready.first_place().unwrap();
    for mut node in [ready, Node::unknown(7, &[A, B])] {
        // It may fill a place that was left out, far below the head.
        node.guard.note_shown(node.now, A, SequenceId(5), now_ns);
        node.look();
        assert_eq!(node.guard.status(), OwnStrandStatus::Stopped);
        for peer in [A, B] {
            node.claim(peer, 0);
        }
        node.at(seconds(1e6));
        assert_eq!(node.first_place(), None);
    }
    let mut node = Node::unknown(7, &[A]);
    node.guard.note_shown(node.now, A, SequenceId(5), Some(START_NS + 1_000_000_000));
    node.look();
    assert_eq!(node.quarantine().reason, UnknownFolder::Older, "clocks differ by that much");
}

#[test]
fn an_unknown_folder_signs_after_a_majority_and_above_everything_that_was_shown() {
    let mut node = Node::unknown(5, &[A, B, C]);
    node.claim(A, 7);
    node.claim(B, 6);
    let quarantine = node.quarantine();
    assert_eq!((quarantine.answered, quarantine.needed()), (0, Some(2)));
    node.at(seconds(1.0));
    node.shown(A);
    assert_eq!(node.quarantine().answered, 1, "node 300 claims no more than is held");
    node.shown(A);
    assert_eq!(node.quarantine().answered, 2);
    assert_eq!(node.first_place(), None, "a second process has had no time to be seen");
    node.at(LISTEN_FOR);
    assert_eq!(node.first_place(), Some(7 + GAP + 1));
}

#[test]
fn without_peers_to_ask_the_operator_decides() {
    let mut node = Node::unknown(5, &[]);
    assert_eq!(node.quarantine().needed(), None);
    node.at(seconds(1e6));
    assert_eq!(node.first_place(), None);
    node.confirm(0);
    assert_eq!(node.first_place(), Some(6), "nothing is lost, says the operator");

    let stopped = FolderStanding::Unknown(UnknownFolder::Stopped);
    let mut node = Node::start(stopped, 5, &[A, B]);
    node.claim(A, 0);
    node.claim(B, 0);
    node.at(seconds(1e6));
    assert_eq!(node.first_place(), None, "peers cannot know that the other process has ended");
    node.confirm(GAP);
    assert_eq!(node.first_place(), Some(5 + GAP + 1));
}

#[test]
fn a_confirmation_that_no_quarantine_needs_is_no_licence_for_later() {
    let mut node = Node::start(FolderStanding::Newest, 7, &[A, B]);
    node.confirm(0);
    node.claim(A, 8);
    node.shown(A);
    assert_eq!(node.first_place(), None);
}

#[test]
fn a_confirmation_that_is_repeated_excuses_no_second_process_and_does_not_wait_again() {
    let mut node = Node::unknown(7, &[A, B]);
    node.claim(A, 8);
    node.confirm(0);
    for second in 1..=29 {
        node.at(seconds(f64::from(second)));
        // Each one shows something new, so that it is asked for longer.
        let held = node.held;
        node.claim(A, held + 2);
        node.shown(A);
        node.guard.note_confirmation(
            node.now,
            START_NS + i64::from(second) * 1_000_000_000,
            OperatorConfirmation { gap: 5, about: node.guard.status() },
        );
        assert_eq!(node.guard.release(node.now), None);
    }
    node.at(seconds(30.0));
    assert!(node.guard.release(node.now).is_some(), "the confirmation has waited for its time");

    let mut node = Node::unknown(7, &[A, B]);
    node.confirm(0);
    let about = node.guard.status();
    node.guard.note_confirmation(
        node.now,
        START_NS + 3_600_000_000_000,
        OperatorConfirmation { gap: 0, about },
    );
    let later = Some(START_NS + 60_000_000_000);
    node.guard.note_shown(node.now, A, SequenceId(8), later);
    assert_eq!(
        node.guard.status(),
        OwnStrandStatus::Stopped,
        "signed since the first confirmation"
    );
    node.guard.note_confirmation(node.now, START_NS, OperatorConfirmation { gap: 0, about });
    assert_eq!(
        node.guard.status(),
        OwnStrandStatus::Stopped,
        "that confirmation was about the quarantine"
    );
    node.confirm(0);
    assert_eq!(node.quarantine().reason, UnknownFolder::Stopped);
}

#[test]
fn the_confirmation_waits_for_what_peers_show_and_not_for_long() {
    let mut node = Node::unknown(5, &[A]);
    node.claim(A, 1000);
    node.shown(A);
    node.confirm(0);
    assert_eq!(node.first_place(), None);
    for second in 1..30 {
        node.at(seconds(f64::from(second)));
        node.shown(A);
        assert_eq!(node.first_place(), None);
    }
    node.at(seconds(30.0));
    assert_eq!(node.first_place(), Some(36));
}

#[test]
fn a_claim_that_is_never_shown_holds_the_node_up_once_and_briefly() {
    for standing in [FolderStanding::Newest, FolderStanding::Unknown(UnknownFolder::Empty)] {
        let mut node = Node::start(standing, 5, &[A, B]);
        node.claim(A, 1_000_000_000);
        node.claim(B, 5);
        node.at(seconds(4.0));
        // Neither by going away nor by coming back does it gain anything.
        node.gone(A);
        node.claim(A, 2_000_000_000);
        assert_eq!(node.guard.source(), Some(A));
        node.at(LISTEN_FOR - seconds(0.001));
        assert_eq!(node.first_place(), None);
        node.at(LISTEN_FOR);
        assert_eq!(node.guard.source(), None);
        assert!(node.first_place().is_some());
        node.claim(A, 3_000_000_000);
        assert_eq!(node.guard.status(), OwnStrandStatus::Ready, "it is not believed any more");
    }
}

/// An envelope of 3 MiB takes 50 seconds over a link of 64 KiB/s. A liar may send any bytes.
#[test]
fn bytes_that_arrive_prolong_a_claim_within_a_bound() {
    for (arrive_for, counts_for) in [(0, 10), (5, 15), (50, 60), (600, 75)] {
        let mut node = Node::start(FolderStanding::Newest, 7, &[A, B]);
        node.claim(A, 8);
        for second in 1..counts_for {
            node.at(seconds(f64::from(second)));
            if second <= arrive_for {
                node.guard.note_arriving(node.now, A);
                node.look();
            }
            assert_eq!(node.first_place(), None, "{second} of {counts_for}");
        }
        node.at(seconds(f64::from(counts_for)));
        assert_eq!(node.first_place(), Some(8), "{counts_for}");
    }
}

/// A peer claims a little more than exists, again and again. The envelopes on their way to the disk fulfil each
/// claim.
#[test]
fn claims_that_are_fulfilled_at_once_keep_publishers_out_a_few_times_only() {
    let mut node = Node::start(FolderStanding::Newest, 7, &[A, B]);
    node.claim(A, 7);
    node.claim(B, 7);
    assert_eq!(node.first_place(), Some(8));
    node.has_signed = true;
    let mut kept_out = 0;
    for _ in 0..1000 {
        node.claim(A, node.held + 1);
        kept_out += u32::from(node.guard.status() != OwnStrandStatus::Ready);
        node.held += 1;
        node.look();
        assert_eq!(node.guard.status(), OwnStrandStatus::Ready);
    }
    assert!(kept_out <= 10, "{kept_out}");
    node.claim(B, node.held + 1);
    assert_eq!(node.guard.source(), Some(B), "the word of another peer counts still");
}

#[test]
fn another_source_is_asked_when_one_stalls() {
    let mut node = Node::unknown(5, &[A, B]);
    node.claim(A, 100);
    node.claim(B, 7);
    assert_eq!(node.guard.source(), Some(A), "the highest claim");
    node.at(seconds(10.0));
    assert_eq!(node.guard.source(), Some(B));
    node.shown(B);
    node.shown(B);
    assert_eq!(node.first_place(), Some(7 + GAP + 1));
}

#[test]
fn a_peer_that_drips_makes_room_for_another_one() {
    let mut node = Node::unknown(0, &[A, B]);
    node.claim(A, 10_000);
    node.claim(B, 9_000);
    for turn in 1..=24 {
        node.at(seconds(f64::from(turn) * 5.0));
        if node.guard.source() == Some(A) {
            node.shown(A);
        }
    }
    assert_eq!(node.guard.source(), Some(B));
    node.held = 9_000;
    node.look();
    assert_eq!(node.guard.source(), Some(A), "it may still hold more");
}

/// Peers that hold some part of the strand, come and go, show it slowly, or lie about it. In all these cases no
/// place is signed twice, and a majority of honest peers is enough to sign again.
#[test]
fn no_place_is_signed_twice_and_no_minority_stops_the_node() {
    for seed in 0..2000 {
        simulate(seed);
    }
}

fn simulate(seed: u64) {
    let mut dice = Dice::new(seed);
    let peers: Vec<OriginatorId> = (0..=dice.below(5))
        .map(|index| OriginatorId(200 + 100 * u32::try_from(index).unwrap()))
        .collect();
    let liars = dice.below(peers.len().div_ceil(2) as u64);
    let signed = dice.below(50);
    let is_known = dice.below(3) == 0;
    let held = if is_known { signed } else { dice.below(signed + 1) };
    let holds: Vec<u64> = peers.iter().map(|_| dice.below(signed + 1)).collect();
    let standing = if is_known {
        FolderStanding::Newest
    } else {
        FolderStanding::Unknown(UnknownFolder::Older)
    };
    let mut node = Node::start(standing, held, &peers);
    let is_liar = |index: usize| (index as u64) < liars;
    // Quiet for long enough in the end that every turn can be taken.
    for step in 0..4000u64 {
        node.at(Duration::from_millis(step * 100));
        for (index, peer) in peers.iter().enumerate() {
            let coming = step == 1000 || dice.below(40) == 0;
            let going = step < 1000 && dice.below(60) == 0;
            if going {
                node.gone(*peer);
            } else if coming {
                let lie = 1 + dice.below(1 << 40);
                node.claim(*peer, if is_liar(index) { lie } else { holds[index] });
            }
        }
        if let Some(source) = node.guard.source()
            && let Some(index) = peers.iter().position(|peer| *peer == source)
            && !is_liar(index)
            && holds[index] > node.held
            && dice.below(3) == 0
        {
            node.shown(source);
        }
        if let Some(first) = node.first_place() {
            assert!(first > signed, "seed {seed}: place {first} of {signed} is signed twice");
            let is_whole = is_known && first == signed + 1;
            assert!(is_whole || first > GAP, "seed {seed}: {first} follows no declared gap");
            assert!(!is_known || is_whole, "seed {seed}: a restart leaves nothing out");
            return;
        }
    }
    panic!("seed {seed}: never ready: {:?}", node.guard.status());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn a_place_that_another_folder_has_declared_counts_as_shown() {
    let start = Instant::now();
    let mut guard = OwnStrandGuard::new(FolderStanding::Newest, SequenceId::NONE, start, 0);
    guard.note_declared(SequenceId(100), i64::MIN);
    let seen = || StrandObservation { held: SequenceId(5), ..StrandObservation::default() };
    guard.observe(start, seen());
    assert!(matches!(guard.status(), OwnStrandStatus::Quarantined(_)));
    let about = guard.status();
    guard.note_confirmation(start, 0, OperatorConfirmation { gap: GAP, about });
    let through = Some(SequenceId(100 + GAP));
    assert_eq!(guard.release(start), Some(Release { skip_through: through }));
    // One that was made while this process runs is of another process.
    guard.note_declared(SequenceId(200), i64::MAX);
    guard.observe(start, seen());
    assert_eq!(guard.status(), OwnStrandStatus::Stopped);
}
