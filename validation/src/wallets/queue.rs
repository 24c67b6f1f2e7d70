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
    WALLETS_CONCURRENT_MAX,
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
}

impl Attempts {
    fn new() -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(WALLET_PAUSE_MIN)
            .with_max_delay(WALLET_PAUSE_MAX)
            .without_max_times()
            .build();
        Self { failures: 0, pauses, due: Instant::now() }
    }

    fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
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

    /// Returns the questions to ask now, at most [`WALLETS_CONCURRENT_MAX`], and the time to look
    /// again.
    pub(super) fn due(&self) -> (Vec<WalletQuestion>, Instant) {
        let (open, now) = (self.open.lock(), Instant::now());
        let due = open.iter().filter(|(_, attempts)| attempts.due <= now);
        let due = due.take(WALLETS_CONCURRENT_MAX).map(|(question, _)| question.clone()).collect();
        let next = open.values().map(|attempts| attempts.due).min();
        let latest = now + JUDGE_AGAIN_EVERY;
        (due, next.unwrap_or(latest).min(latest))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

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
