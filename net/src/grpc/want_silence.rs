//! Judgement of a peer by wants that end without an answer, as a state machine without I/O.

use std::time::{Duration, Instant};

use hawser_engine::replication::Want;
use hawser_proto::SequenceId;
use hawser_proto::void::{LackedPlaces, VoidStatement};

/// Time for which a peer has to claim envelopes without sending one until its want counts as unanswered. Guessed: just
/// below the ten seconds after which the follower takes such a want back, and far above the age of wants that are taken
/// back for other reasons.
const SILENT_AFTER: Duration = Duration::from_secs(9);

/// The answer to a want, as far as silence goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum WantAnswer {
    /// No answer yet.
    #[default]
    Nothing,
    /// The end of a stream that has shown nothing new of the peer's own strand.
    EmptyEnd,
    /// Any other answer.
    Something,
}

/// The silence of a peer that was asked for a strand.
///
/// Silence is a fault only while the peer claims to hold the wanted places and the want is in force: a peer without
/// envelopes has nothing to send, however often it is asked, and one whose want was taken back must not send. A node
/// that was restored claims the gap that it left, too. It has nothing to send for places that it has declared void.
#[derive(Debug)]
pub(super) struct WantSilence {
    want: Want,
    /// Time since which the peer claims places behind the start of the want that are not declared void.
    owing_since: Option<Instant>,
    /// The time at which the want was taken back.
    ended_at: Option<Instant>,
    /// Wants for the strand in a row, before this one, to which nothing came.
    before: u32,
}

impl WantSilence {
    /// Begins with a want that is sent now, before a claim of the peer is noted. `before` is the number of wants in a
    /// row to which nothing came.
    pub(super) fn new(want: Want, before: u32) -> Self {
        Self { want, owing_since: None, ended_at: None, before }
    }

    /// Notes the head of the strand that the peer sends. `declared` are the statements about void places of the
    /// strand's own node that this node has verified.
    pub(super) fn note_claim(
        &mut self,
        now: Instant,
        claimed: SequenceId,
        declared: impl IntoIterator<Item = VoidStatement>,
    ) {
        let is_owing = LackedPlaces::new(self.want.after, claimed, declared).count > 0;
        self.owing_since = is_owing.then(|| self.owing_since.unwrap_or(now));
    }

    /// Notes that the want is in force no longer.
    pub(super) fn end(&mut self, now: Instant) {
        self.ended_at.get_or_insert(now);
    }

    /// Ends the want. Returns the number of wants in a row to which nothing came.
    pub(super) fn count(mut self, now: Instant, answer: WantAnswer) -> u32 {
        self.end(now);
        let silent = self.ended_at.zip(self.owing_since);
        let silent_for = silent.map(|(end, since)| end.saturating_duration_since(since));
        let is_silent = match answer {
            WantAnswer::Something => return 0,
            WantAnswer::EmptyEnd => silent_for.is_some(),
            WantAnswer::Nothing => silent_for >= Some(SILENT_AFTER),
        };
        self.before + u32::from(is_silent && self.want.up_to().is_none())
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::OriginatorId;

    use super::*;

    fn want(after: u64) -> Want {
        Want::envelopes(OriginatorId(300), SequenceId(after), None)
    }

    /// A want that is sent now, to a peer that claims this head of a strand without void places.
    fn silence_of(now: Instant, want: Want, claimed: u64, before: u32) -> WantSilence {
        let mut silence = WantSilence::new(want, before);
        silence.note_claim(now, SequenceId(claimed), []);
        silence
    }

    fn void(from: u64, through: u64) -> VoidStatement {
        let (node, from, through) = (OriginatorId(300), SequenceId(from), SequenceId(through));
        VoidStatement { node, from, through, time_ns: 5, incarnation: [1; 16] }
    }

    #[test]
    fn an_idle_peer_is_never_silent_however_often_it_is_asked() {
        let (start, mut silent) = (Instant::now(), 0);
        for asked in 0..9 {
            let now = start + asked * Duration::from_secs(60);
            let silence = silence_of(now, want(7), 7, silent);
            silent = silence.count(now + Duration::from_secs(59), WantAnswer::Nothing);
        }
        assert_eq!(silent, 0);
    }

    #[test]
    fn a_peer_that_claims_and_sends_nothing_is_counted_once_for_each_want() {
        let (start, mut silent) = (Instant::now(), 0);
        for asked in 0..3 {
            let mut silence = silence_of(start, want(7), 7, silent);
            silence.note_claim(start + Duration::from_secs(1), SequenceId(8), []);
            silence.note_claim(start + Duration::from_secs(5), SequenceId(9), []);
            assert_eq!(silent, asked);
            silent = silence.count(start + Duration::from_secs(10), WantAnswer::Nothing);
        }
        assert_eq!(silent, 3);
        let claims = |sent: Duration, answer| {
            let silence = silence_of(start, want(7), 8, silent);
            silence.count(start + sent, answer)
        };
        let taken_back = claims(Duration::from_secs(8), WantAnswer::Nothing);
        assert_eq!(taken_back, 3, "taken back for another reason");
        let answered = claims(Duration::from_secs(60), WantAnswer::Something);
        assert_eq!(answered, 0, "an answer begins the count anew");
    }

    /// Each of them ends at once, so no want is ever in force for long.
    #[test]
    fn streams_that_end_empty_count_while_the_peer_claims_envelopes() {
        let start = Instant::now();
        let counted = |claimed: u64, answer| {
            let silence = silence_of(start, want(7), claimed, 1);
            silence.count(start + Duration::from_millis(1), answer)
        };
        assert_eq!(counted(8, WantAnswer::EmptyEnd), 2);
        assert_eq!(counted(7, WantAnswer::EmptyEnd), 1, "it has nothing to send");
        assert_eq!(counted(8, WantAnswer::Nothing), 1);
        assert_eq!(counted(8, WantAnswer::Something), 0);
    }

    #[test]
    fn places_that_are_declared_void_are_not_owed_and_those_behind_them_are() {
        let start = Instant::now();
        let counted = |claimed: u64, declared: &[VoidStatement], answer| {
            let mut silence = silence_of(start, want(7), claimed, 0);
            // The statement comes after the want was sent.
            let shown = start + Duration::from_secs(4);
            silence.note_claim(shown, SequenceId(claimed), declared.iter().copied());
            silence.count(start + Duration::from_secs(10), answer)
        };
        for answer in [WantAnswer::Nothing, WantAnswer::EmptyEnd] {
            assert_eq!(counted(900, &[void(8, 900)], answer), 0, "{answer:?}");
            assert_eq!(counted(900, &[void(8, 500), void(501, 900)], answer), 0, "{answer:?}");
            assert_eq!(counted(901, &[void(8, 900)], answer), 1, "{answer:?}: one behind them");
            assert_eq!(counted(900, &[void(9, 900)], answer), 1, "{answer:?}: one before them");
            assert_eq!(counted(900, &[], answer), 1, "{answer:?}: no statement");
            // Played by a node that signs places which it has declared void.
            assert_eq!(
                counted(900, &[void(8, 901)], answer),
                1,
                "{answer:?}: it claims one of them"
            );
        }
    }

    #[test]
    fn a_want_that_was_taken_back_grows_no_older() {
        let start = Instant::now();
        let mut silence = silence_of(start, want(7), 8, 0);
        silence.end(start + Duration::from_secs(1));
        assert_eq!(silence.count(start + Duration::from_secs(3600), WantAnswer::Nothing), 0);
    }

    #[test]
    fn part_of_a_strand_that_is_not_answered_is_no_silence() {
        let start = Instant::now();
        let part = Want::envelopes(OriginatorId(300), SequenceId(7), Some(SequenceId(9)));
        let silence = silence_of(start, part, 9, 0);
        assert_eq!(silence.count(start + Duration::from_secs(60), WantAnswer::Nothing), 0);
    }
}
