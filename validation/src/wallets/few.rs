//! The times for which only a few of a chain's endpoints reply. Their replies count after a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::Digest;
use parking_lot::Mutex;

use crate::limits::{WALLET_FEW_REPLIES_MAX, WALLET_PAUSE_MAX};

/// The time without replies of more than half of a chain's endpoints after which those that reply decide. As for
/// outcomes of transactions (decision 55): an endpoint that fails for a moment must not leave a verdict to another one
/// that lies.
const FEW_AFTER: Duration = Duration::from_secs(20);

/// Longest pause between two attempts at a question that belong to one silence. The queue asks earlier again.
const QUESTION_PAUSE_MAX: Duration = WALLET_PAUSE_MAX.saturating_mul(2);

/// Longest pause between two questions to a chain that belong to one silence. A guess: two failures of a moment that
/// are further apart are not one outage.
const CHAIN_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The endpoints of a chain that were asked a question. Each host and port counts once.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplyCounts {
    /// Endpoints that replied.
    pub(super) replied: usize,
    /// Endpoints that replied or refused the question, as an endpoint without the state of the block does.
    pub(super) responsive: usize,
    /// All endpoints that were asked.
    pub(super) hosts: usize,
}

/// Records of chains for which at most half of the endpoints answer, and of questions that at most half of them reply
/// to.
///
/// Each question has a record of its own, because an endpoint without old state replies only to some of them. Holds at
/// most [`WALLET_FEW_REPLIES_MAX`] questions: the one that was asked longest ago is forgotten first.
#[derive(Debug, Default)]
pub(super) struct FewReplies(Mutex<Silences>);

#[derive(Debug, Default)]
struct Silences {
    chains: BTreeMap<u64, Silence>,
    /// Silences about the newest block of a chain.
    heads: BTreeMap<u64, Silence>,
    questions: BTreeMap<Digest, Silence>,
}

/// A time in which too few endpoints replied.
#[derive(Debug)]
struct Silence {
    since: Instant,
    last: Instant,
}

impl FewReplies {
    /// Notes the replies to a question at `now`. Returns true if they suffice: they are more than half, or at most half
    /// of the endpoints have replied to the question, or have answered for the chain at all, for [`FEW_AFTER`].
    pub(super) fn suffice(
        &self,
        chain_id: u64,
        question: Digest,
        counts: ReplyCounts,
        now: Instant,
    ) -> bool {
        let is_most = |count: usize| 2 * count > counts.hosts;
        let mut silences = self.0.lock();
        let Silences { chains, questions, .. } = &mut *silences;
        let is_chain_silent = if is_most(counts.responsive) {
            chains.remove(&chain_id);
            false
        } else {
            note_silence(chains, chain_id, CHAIN_PAUSE_MAX, now)
        };
        if is_most(counts.replied) {
            questions.remove(&question);
            return true;
        }
        if questions.len() >= WALLET_FEW_REPLIES_MAX && !questions.contains_key(&question) {
            let oldest = questions.iter().min_by_key(|(_, silence)| silence.last);
            if let Some(oldest) = oldest.map(|(question, _)| *question) {
                questions.remove(&oldest);
            }
        }
        note_silence(questions, question, QUESTION_PAUSE_MAX, now) || is_chain_silent
    }

    /// Notes the number of a chain's `hosts` that stated their newest block at `now`. Returns true if they suffice:
    /// they are more than half, or at most half have stated one for [`FEW_AFTER`].
    pub(super) fn heads_suffice(
        &self,
        chain_id: u64,
        replied: usize,
        hosts: usize,
        now: Instant,
    ) -> bool {
        let mut silences = self.0.lock();
        let Silences { chains, heads, .. } = &mut *silences;
        if 2 * replied > hosts {
            chains.remove(&chain_id);
            heads.remove(&chain_id);
            return true;
        }
        // The questions that follow do not wait again.
        let is_chain_silent = note_silence(chains, chain_id, CHAIN_PAUSE_MAX, now);
        note_silence(heads, chain_id, CHAIN_PAUSE_MAX, now) || is_chain_silent
    }
}

/// Extends a silence to `now`, or begins it anew after more than `pause_max`. Returns true if it has lasted for
/// [`FEW_AFTER`].
fn note_silence<K: Ord>(
    silences: &mut BTreeMap<K, Silence>,
    key: K,
    pause_max: Duration,
    now: Instant,
) -> bool {
    let silence = silences.entry(key).or_insert(Silence { since: now, last: now });
    if now.duration_since(silence.last) > pause_max {
        silence.since = now;
    }
    silence.last = now;
    now.duration_since(silence.since) >= FEW_AFTER
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// One of two endpoints replies, and the other one does not have the state.
    const PRUNED: ReplyCounts = ReplyCounts { replied: 1, responsive: 2, hosts: 2 };
    /// One of two endpoints replies, and the other one is down.
    const DOWN: ReplyCounts = ReplyCounts { replied: 1, responsive: 1, hosts: 2 };
    const ALL: ReplyCounts = ReplyCounts { replied: 2, responsive: 2, hosts: 2 };

    fn question(number: usize) -> Digest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Digest(bytes)
    }

    #[test]
    fn few_replies_suffice_only_after_the_others_were_silent_for_a_while() {
        let (few, start) = (FewReplies::default(), Instant::now());
        let asked = |number, counts, after: Duration| {
            few.suffice(1, question(number), counts, start + after)
        };
        let of = |replied, hosts| ReplyCounts { replied, responsive: replied, hosts };
        assert!(asked(0, of(1, 1), Duration::ZERO), "there is no other endpoint");
        assert!(asked(0, of(2, 3), Duration::ZERO));
        assert!(!asked(1, DOWN, Duration::ZERO));
        assert!(!asked(1, DOWN, FEW_AFTER / 2));
        assert!(asked(1, ALL, FEW_AFTER / 2), "the other one is back");
        assert!(!asked(1, DOWN, FEW_AFTER), "and gone again");
        assert!(!asked(2, of(1, 3), FEW_AFTER + SECOND));
        assert!(asked(3, DOWN, 2 * FEW_AFTER), "no other one has been heard meanwhile");
        assert!(!few.suffice(2, question(4), DOWN, start + 2 * FEW_AFTER), "on another chain");
    }

    /// The state of an old block is pruned at one of two endpoints, and both reply about newer blocks.
    #[test]
    fn replies_to_other_questions_do_not_end_the_silence_about_one() {
        let (few, start) = (FewReplies::default(), Instant::now());
        let asked = |number, counts, after: Duration| {
            few.suffice(1, question(number), counts, start + after)
        };
        assert!(!asked(1, PRUNED, Duration::ZERO));
        for number in 10..20 {
            assert!(asked(number, ALL, FEW_AFTER / 2));
        }
        assert!(asked(1, PRUNED, FEW_AFTER));
        assert!(!asked(2, PRUNED, FEW_AFTER), "the chain is not silent");
    }

    /// One of two endpoints alone may state any newest block.
    #[test]
    fn few_newest_blocks_suffice_only_after_a_while_and_the_next_question_then_does_not_wait() {
        let (few, start) = (FewReplies::default(), Instant::now());
        let stated = |replied, after: Duration| few.heads_suffice(1, replied, 2, start + after);
        let asked = |number, counts, after: Duration| {
            few.suffice(1, question(number), counts, start + after)
        };
        assert!(!stated(1, Duration::ZERO));
        assert!(!stated(1, FEW_AFTER / 2));
        assert!(!few.heads_suffice(2, 1, 2, start + FEW_AFTER), "another chain");
        assert!(stated(1, FEW_AFTER));
        assert!(asked(1, DOWN, FEW_AFTER));
        assert!(stated(2, FEW_AFTER + SECOND), "the other one is back");
        assert!(!asked(2, DOWN, FEW_AFTER + SECOND) && !stated(1, FEW_AFTER + SECOND));
        // An endpoint that refuses to state its block is heard when it is asked about a wallet.
        assert!(!asked(3, PRUNED, 2 * FEW_AFTER));
        assert!(stated(1, 2 * FEW_AFTER + SECOND), "it was silent about its block all the time");
    }

    #[test]
    fn a_silence_of_long_ago_is_forgotten() {
        let (few, start) = (FewReplies::default(), Instant::now());
        let asked = |number, counts, after: Duration| {
            few.suffice(1, question(number), counts, start + after)
        };
        assert!(!asked(1, PRUNED, Duration::ZERO));
        assert!(asked(1, PRUNED, WALLET_PAUSE_MAX + SECOND), "the queue's longest pause");
        let later = WALLET_PAUSE_MAX + 2 * SECOND + QUESTION_PAUSE_MAX;
        assert!(!asked(1, PRUNED, later));
        assert!(!asked(2, DOWN, later));
        assert!(!asked(3, DOWN, later + CHAIN_PAUSE_MAX + SECOND));
    }

    #[test]
    fn the_question_asked_longest_ago_is_forgotten_first() {
        let (few, start) = (FewReplies::default(), Instant::now());
        let asked =
            |number, after: Duration| few.suffice(1, question(number), PRUNED, start + after);
        for number in 0..WALLET_FEW_REPLIES_MAX {
            assert!(!asked(number, if number == 5 { Duration::ZERO } else { SECOND }));
        }
        assert!(!asked(WALLET_FEW_REPLIES_MAX, SECOND));
        assert_eq!(few.0.lock().questions.len(), WALLET_FEW_REPLIES_MAX);
        assert!(asked(4, 2 * FEW_AFTER));
        assert!(!asked(5, 2 * FEW_AFTER), "it was the oldest");
        assert_eq!(few.0.lock().questions.len(), WALLET_FEW_REPLIES_MAX);
    }
}
