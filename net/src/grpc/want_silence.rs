//! Judgement of a peer by wants that end without an answer, as a state machine without I/O.

use std::time::{Duration, Instant};

use hawser_engine::replication::Want;
use hawser_proto::SequenceId;

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
/// envelopes has nothing to send, however often it is asked, and one whose want was taken back must not send.
#[derive(Debug)]
pub(super) struct WantSilence {
    want: Want,
    /// Time since which the peer claims places behind the start of the want.
    owing_since: Option<Instant>,
    /// The time at which the want was taken back.
    ended_at: Option<Instant>,
    /// Wants for the strand in a row, before this one, to which nothing came.
    before: u32,
}

impl WantSilence {
    /// Begins with a want that is sent now. `claimed` is the head of the strand that the peer has sent, and `before`
    /// the number of wants in a row to which nothing came.
    pub(super) fn new(now: Instant, want: Want, claimed: SequenceId, before: u32) -> Self {
        let mut silence = Self { want, owing_since: None, ended_at: None, before };
        silence.note_claim(now, claimed);
        silence
    }

    /// Notes the head of the strand that the peer sends.
    pub(super) fn note_claim(&mut self, now: Instant, claimed: SequenceId) {
        let is_owing = claimed > self.want.after;
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

    #[test]
    fn an_idle_peer_is_never_silent_however_often_it_is_asked() {
        let (start, mut silent) = (Instant::now(), 0);
        for asked in 0..9 {
            let now = start + asked * Duration::from_secs(60);
            let silence = WantSilence::new(now, want(7), SequenceId(7), silent);
            silent = silence.count(now + Duration::from_secs(59), WantAnswer::Nothing);
        }
        assert_eq!(silent, 0);
    }

    #[test]
    fn a_peer_that_claims_and_sends_nothing_is_counted_once_for_each_want() {
        let (start, mut silent) = (Instant::now(), 0);
        for asked in 0..3 {
            let mut silence = WantSilence::new(start, want(7), SequenceId(7), silent);
            silence.note_claim(start + Duration::from_secs(1), SequenceId(8));
            silence.note_claim(start + Duration::from_secs(5), SequenceId(9));
            assert_eq!(silent, asked);
            silent = silence.count(start + Duration::from_secs(10), WantAnswer::Nothing);
        }
        assert_eq!(silent, 3);
        let claims = |sent: Duration, answer| {
            let silence = WantSilence::new(start, want(7), SequenceId(8), silent);
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
            let silence = WantSilence::new(start, want(7), SequenceId(claimed), 1);
            silence.count(start + Duration::from_millis(1), answer)
        };
        assert_eq!(counted(8, WantAnswer::EmptyEnd), 2);
        assert_eq!(counted(7, WantAnswer::EmptyEnd), 1, "it has nothing to send");
        assert_eq!(counted(8, WantAnswer::Nothing), 1);
        assert_eq!(counted(8, WantAnswer::Something), 0);
    }

    #[test]
    fn a_want_that_was_taken_back_grows_no_older() {
        let start = Instant::now();
        let mut silence = WantSilence::new(start, want(7), SequenceId(8), 0);
        silence.end(start + Duration::from_secs(1));
        assert_eq!(silence.count(start + Duration::from_secs(3600), WantAnswer::Nothing), 0);
    }

    #[test]
    fn part_of_a_strand_that_is_not_answered_is_no_silence() {
        let start = Instant::now();
        let part = Want::envelopes(OriginatorId(300), SequenceId(7), Some(SequenceId(9)));
        let silence = WantSilence::new(start, part, SequenceId(9), 0);
        assert_eq!(silence.count(start + Duration::from_secs(60), WantAnswer::Nothing), 0);
    }
}
