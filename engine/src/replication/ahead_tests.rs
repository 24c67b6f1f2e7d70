//! Waiting for what is shown and cannot be verified ends.

use hawser_proto::{EnvelopeId, SecretKey};

use super::*;

const STRAND: OriginatorId = OriginatorId(300);
const HEAD: SequenceId = SequenceId(5);

/// A strand with an unverified place whose outer layer nothing verifies, and a follower that asks for it again.
struct Waiting {
    strand: ShownStrand,
    follower: Follower,
    now: Instant,
}

impl Waiting {
    fn new() -> Self {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap().public_key();
        let now = Instant::now();
        let strand = ShownStrand::new(true, (STRAND, key), SequenceId(1), HEAD);
        let follower = Follower::new(STRAND, HEAD, [], now);
        let mut waiting = Self { strand, follower, now };
        let _ = waiting.strand.note_forged(SequenceId(1));
        assert!(!waiting.ask_again());
        waiting
    }

    /// Asks again. Returns true if what is not found then is given up.
    fn ask_again(&mut self) -> bool {
        let asked = self.strand.settle(self.now, &self.follower).expect("it is due");
        assert_eq!(asked.head, HEAD);
        let verified = SequenceId(1);
        self.follower = self.strand.ask_again(self.now, &self.follower, verified, HEAD);
        match self.strand.stage() {
            ShownStage::AskedAgain { gives_up, .. } => gives_up,
            stage => panic!("{stage:?}"),
        }
    }

    /// A peer shows something else, and it is asked again when it is due.
    fn miss(&mut self) -> bool {
        let error = CommitError::Conflict { at: EnvelopeId::new(STRAND, SequenceId(2)) };
        self.now += self.strand.ask_later(self.now, &error).expect("a peer can cause that");
        self.ask_again()
    }

    /// All of it is verified.
    fn end(&mut self) {
        self.follower = Follower::new(STRAND, HEAD, [], self.now);
        assert_eq!(self.strand.settle(self.now, &self.follower), None);
        assert_eq!(self.strand.stage(), ShownStage::Verified);
    }
}

#[test]
fn what_no_peer_sends_is_given_up_after_six_hours_and_not_before() {
    let mut waiting = Waiting::new();
    let begun = waiting.now;
    let mut passes = 0;
    while !waiting.miss() {
        assert!(waiting.now - begun < SHOWN_WAIT_MAX);
        passes += 1;
    }
    assert!(waiting.now - begun >= SHOWN_WAIT_MAX);
    assert!(passes > 600, "{passes} passes, half a minute apart at most");
    assert!(waiting.miss(), "and so is what is missed behind it");
    waiting.end();
    assert!(!waiting.strand.is_on(), "the strand is not shown first again");
}

#[test]
fn what_is_found_in_time_is_not_held_against_a_later_miss() {
    let mut waiting = Waiting::new();
    assert!(!waiting.miss());
    waiting.end();
    assert!(waiting.strand.is_on());
    let head = SequenceId(9);
    waiting.strand.stage = ShownStage::Shown { verified: HEAD };
    waiting.follower = Follower::new(STRAND, head, [], waiting.now);
    waiting.now += SHOWN_WAIT_MAX;
    let _ = waiting.strand.note_forged(HEAD);
    let asked = waiting.strand.settle(waiting.now, &waiting.follower);
    assert_eq!(asked, Some(AskAgain { verified: Some(HEAD), head }));
    waiting.follower = waiting.strand.ask_again(waiting.now, &waiting.follower, HEAD, head);
    assert_eq!(waiting.strand.stage(), ShownStage::AskedAgain { head, gives_up: false });
}
