//! The queue of questions to contract wallets that have no answer yet, with the time of each one's
//! next attempt.

use std::collections::BTreeMap;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use hawser_mls::identity::WalletQuestion;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::WalletError;
use crate::limits::{
    JUDGE_AGAIN_EVERY, WALLET_PAUSE_MAX, WALLET_PAUSE_MIN, WALLET_QUESTIONS_MAX,
    WALLETS_PER_CHAIN_MAX,
};

/// Open questions, at most [`WALLET_QUESTIONS_MAX`].
#[derive(Debug, Default)]
pub(super) struct QuestionQueue {
    open: Mutex<BTreeMap<WalletQuestion, Attempts>>,
    added: Notify,
}

/// The attempts at one question.
#[derive(Debug)]
struct Attempts {
    failures: u32,
    pauses: ExponentialBackoff,
    due: Instant,
    /// An attempt is under way.
    running: bool,
    /// Time of the newest block of the chain, which was before the block of the question, unix seconds.
    newest_time_s: Option<u64>,
}

impl Attempts {
    fn new() -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(WALLET_PAUSE_MIN)
            .with_max_delay(WALLET_PAUSE_MAX)
            .without_max_times()
            .build();
        Self { failures: 0, pauses, due: Instant::now(), running: false, newest_time_s: None }
    }

    fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.running = false;
        self.due = Instant::now() + self.pauses.next().unwrap_or(WALLET_PAUSE_MAX);
    }
}

impl QuestionQueue {
    /// Adds a question, due at once, unless it is queued already. A full queue drops the question
    /// that failed most often: it comes back when its update is judged again.
    pub(super) fn add(&self, question: &WalletQuestion) {
        let mut open = self.open.lock();
        if open.contains_key(question) {
            return;
        }
        if open.len() >= WALLET_QUESTIONS_MAX {
            let worst = open.iter().max_by_key(|(_, attempts)| attempts.failures);
            let worst = worst.map(|(question, _)| question.clone());
            worst.map(|question| open.remove(&question));
        }
        open.insert(question.clone(), Attempts::new());
        debug_assert!(open.len() <= WALLET_QUESTIONS_MAX, "one goes for each that comes");
        drop(open);
        self.added.notify_one();
    }

    /// Waits until a question is added.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Removes a question that has its answer.
    pub(super) fn remove(&self, question: &WalletQuestion) {
        self.open.lock().remove(question);
    }

    /// Postpones a question that got no answer.
    pub(super) fn failed(&self, question: &WalletQuestion, error: &WalletError) {
        let mut open = self.open.lock();
        let Some(attempts) = open.get_mut(question) else { return };
        if attempts.failures == 0 {
            tracing::warn!(
                code = "wallet_unavailable",
                chain_id = question.chain_id,
                block = question.block_number,
                "an identity update waits for a contract wallet: {error}"
            );
        }
        attempts.fail();
    }

    /// Postpones a question whose block the chain does not have yet.
    pub(super) fn not_yet(&self, question: &WalletQuestion, newest_time_s: u64) {
        let mut open = self.open.lock();
        let Some(attempts) = open.get_mut(question) else { return };
        attempts.newest_time_s = attempts.newest_time_s.max(Some(newest_time_s));
        attempts.fail();
    }

    /// Returns the time of the newest block of the chain when it did not have the question's block yet,
    /// unix seconds.
    pub(super) fn newest_time_s(&self, question: &WalletQuestion) -> Option<u64> {
        self.open.lock().get(question).and_then(|attempts| attempts.newest_time_s)
    }

    /// Returns the questions to ask now, which count as under way from then on, and the time to look
    /// again. Of each chain at most [`WALLETS_PER_CHAIN_MAX`] are under way. Those that failed least go
    /// first, and of equals the one that is due longest: an account that asks much waits behind itself.
    pub(super) fn start_due(&self) -> (Vec<WalletQuestion>, Instant) {
        let (mut open, now) = (self.open.lock(), Instant::now());
        let mut running: BTreeMap<u64, usize> = BTreeMap::new();
        for question in open.iter().filter(|(_, it)| it.running).map(|(question, _)| question) {
            *running.entry(question.chain_id).or_default() += 1;
        }
        let mut idle: Vec<_> = open.iter_mut().filter(|(_, attempts)| !attempts.running).collect();
        idle.sort_by_key(|(_, attempts)| (attempts.failures, attempts.due));
        let mut due = Vec::new();
        let mut next = now + JUDGE_AGAIN_EVERY;
        for (question, attempts) in idle {
            let of_chain = running.entry(question.chain_id).or_default();
            if *of_chain >= WALLETS_PER_CHAIN_MAX {
                continue; // the end of one of them is the time to look again
            }
            if attempts.due > now {
                next = next.min(attempts.due);
                continue;
            }
            *of_chain += 1;
            attempts.running = true;
            due.push(question.clone());
        }
        (due, next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hawser_proto::{Address, Bytes, Digest};

    use super::*;

    fn question(chain_id: u64, number: u8) -> WalletQuestion {
        WalletQuestion {
            chain_id,
            address: Address([number; 20]),
            block_number: 1,
            digest: Digest([number; 32]),
            signature: Bytes::new(),
        }
    }

    fn failure() -> WalletError {
        WalletError::NoAnswer { chain_id: 1, reason: "no".into() }
    }

    #[test]
    fn a_slow_chain_takes_no_room_of_another_and_newcomers_go_before_what_failed() {
        let queue = QuestionQueue::default();
        for number in 0..20 {
            queue.add(&question(1, number));
        }
        let (first, _) = queue.start_due();
        assert_eq!(first.len(), WALLETS_PER_CHAIN_MAX, "of one chain");
        queue.add(&question(2, 0));
        assert_eq!(
            queue.start_due().0,
            [question(2, 0)],
            "chain 1 is at its limit, chain 2 is not"
        );
        assert!(queue.start_due().0.is_empty(), "all are under way");
        // One that failed is due again, and goes behind those that were not asked yet.
        queue.failed(&first[0], &failure());
        queue.open.lock().get_mut(&first[0]).unwrap().due = Instant::now();
        let (next, _) = queue.start_due();
        assert_eq!(next.len(), 1);
        assert!(!first.contains(&next[0]), "{next:?}");
    }

    #[test]
    fn the_latest_time_of_a_chain_that_is_not_there_yet_is_kept() {
        let queue = QuestionQueue::default();
        let asked = question(1, 1);
        queue.add(&asked);
        assert_eq!(queue.newest_time_s(&asked), None);
        for newest_time_s in [7, 9, 8] {
            queue.not_yet(&asked, newest_time_s);
        }
        assert_eq!(queue.newest_time_s(&asked), Some(9), "an endpoint may lag behind another");
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut attempts = Attempts::new();
        let pauses = attempts.pauses.by_ref().take(10).map(|pause| pause.as_secs());
        assert_eq!(pauses.collect::<Vec<_>>(), [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        attempts.fail();
        let pause = attempts.due.duration_since(Instant::now());
        assert!(pause > Duration::from_secs(299), "{pause:?}");
    }
}
