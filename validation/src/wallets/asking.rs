//! The task that asks queued questions, and has waiting updates validated when answers arrive. Neither waits for the
//! other: a validation of tens of thousands of updates takes seconds.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::{WaitingInboxes, Wallets};
use crate::limits::JUDGE_AGAIN_EVERY;

/// Shortest pause between two validations of the waiting updates. Each run validates all of them, so one run for each
/// reply would cost n² validations for n questions. A guess: a small delay for clients, and little work.
pub(super) const JUDGE_PAUSE: Duration = Duration::from_secs(2);

/// The least pause after such a validation, in times of what it took. A guess: validations then take at most a quarter
/// of the time. The author of tens of thousands of waiting inboxes pays once, and they are validated for hours.
const JUDGE_PAUSE_TIMES: u32 = 3;

/// Longest time after which questions are looked for that a running validation adds. It may add thousands, and each
/// look looks at all of them. A guess: less than the pause between two validations.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Wallets {
    /// Starts the task that asks queued questions and validates waiting updates again when answers arrive.
    #[must_use]
    pub fn start(self: Arc<Self>, updates: Arc<dyn WaitingInboxes>) -> WalletTask {
        let (stop, stopped) = oneshot::channel();
        WalletTask { stop, task: tokio::spawn(self.run(updates, stopped)) }
    }

    async fn run(
        self: Arc<Self>,
        updates: Arc<dyn WaitingInboxes>,
        mut stop: oneshot::Receiver<()>,
    ) {
        // Updates that waited when this node last stopped.
        let judge_again = || tokio::spawn(self.clone().judge_again(updates.clone()));
        let mut judging = Some(judge_again());
        let (mut judged_at, mut pause) = (Instant::now(), JUDGE_PAUSE);
        let mut asked = JoinSet::new();
        let mut is_news = false;
        loop {
            let (due, next) = self.queue.start_due();
            for question in due {
                asked.spawn(self.clone().ask_queued(question));
            }
            let is_judging = judging.is_some();
            let wake = match (is_judging, is_news) {
                (true, _) => next.min(Instant::now() + LOOK_EVERY),
                (false, true) => next.min(judged_at + pause),
                (false, false) => next,
            };
            is_news |= tokio::select! {
                _ = &mut stop => break,
                rest = end_of(&mut judging) => {
                    judging = None;
                    (judged_at, pause) = (Instant::now(), rest);
                    false
                }
                Some(done) = asked.join_next() => done.expect("a panic ends the process"),
                () = self.queue.added(), if !is_judging => false,
                () = self.judge_soon.notified() => true,
                () = sleep_until(wake) => false,
            };
            while let Some(done) = asked.try_join_next() {
                is_news |= done.expect("a panic ends the process");
            }
            let since = judged_at.elapsed();
            let overdue = since >= JUDGE_AGAIN_EVERY && updates.inboxes_waiting() > 0;
            if judging.is_none() && ((is_news && since >= pause) || overdue) {
                judging = Some(judge_again());
                is_news = false; // what arrives from now on may come too late for this validation
            }
        }
        if judging.is_some() {
            end_of(&mut judging).await;
        }
    }

    /// Validates the waiting updates. Returns the shortest pause until the next time.
    async fn judge_again(self: Arc<Self>, updates: Arc<dyn WaitingInboxes>) -> Duration {
        self.note_chain_time(updates.chain_time_s());
        let began = Instant::now();
        let judging = tokio::task::spawn_blocking(move || updates.judge_again());
        judging.await.expect("a panic ends the process");
        pause_after(began.elapsed())
    }
}

/// Returns the result of a running validation; without one, never.
async fn end_of(judging: &mut Option<JoinHandle<Duration>>) -> Duration {
    match judging {
        Some(judging) => judging.await.expect("a panic ends the process"),
        None => pending().await,
    }
}

/// Returns the pause after a validation of the waiting updates that took so long.
pub(super) fn pause_after(took: Duration) -> Duration {
    took.saturating_mul(JUDGE_PAUSE_TIMES).clamp(JUDGE_PAUSE, JUDGE_AGAIN_EVERY)
}

/// The running task of [`Wallets::start`].
#[derive(Debug)]
pub struct WalletTask {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl WalletTask {
    /// Stops the task after the running validation.
    ///
    /// # Panics
    /// Panics if the task has panicked.
    pub async fn stop(self) {
        drop(self.stop);
        self.task.await.expect("a panic ends the process");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use hawser_mls::identity::WalletQuestion;
    use hawser_proto::{Address, Bytes, Digest};
    use parking_lot::Mutex;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;
    use crate::wallets::{ChainReply, NewestBlock, WalletChainList, WalletChains, WalletError};

    /// Chain 8453, which tells the wallet of each question and does not answer.
    struct TellingChain(UnboundedSender<Address>);

    #[tonic::async_trait]
    impl WalletChains for TellingChain {
        fn ids(&self) -> Vec<u64> {
            vec![8453]
        }

        async fn newest_block(&self, chain_id: u64) -> Result<NewestBlock, WalletError> {
            Err(WalletError::NoEndpoint(chain_id))
        }

        async fn ask(&self, question: &WalletQuestion) -> Result<ChainReply, WalletError> {
            self.0.send(question.address).expect("the test listens");
            Err(WalletError::NoEndpoint(question.chain_id))
        }
    }

    /// Updates whose validation takes until the sender of the channel is dropped.
    struct EndlessValidation(Mutex<mpsc::Receiver<()>>);

    impl WaitingInboxes for EndlessValidation {
        fn inboxes_waiting(&self) -> u64 {
            1
        }

        fn chain_time_s(&self) -> u64 {
            0
        }

        fn judge_again(&self) {
            let _ = self.0.lock().recv(); // an error, once there is no sender
        }
    }

    /// An attacker has tens of thousands of inboxes wait, all of which are validated together.
    #[tokio::test]
    async fn questions_are_asked_while_waiting_updates_are_validated() {
        let (tell, mut asked) = unbounded_channel();
        let chain = Arc::new(TellingChain(tell));
        let wallets = Arc::new(Wallets::new(chain, WalletChainList::default()));
        let question = |number| WalletQuestion {
            chain_id: 8453,
            address: Address([number; 20]),
            block_number: 1,
            digest: Digest([number; 32]),
            signature: Bytes::new(),
        };
        wallets.look_for(&[question(1)], 0);
        let (validating, ended) = mpsc::channel();
        let updates = Arc::new(EndlessValidation(Mutex::new(ended)));
        let task = wallets.clone().start(updates);
        let all_asked = async {
            while asked.recv().await != Some(Address([1; 20])) {}
            wallets.look_for(&[question(2)], 0); // as the validation does
            while asked.recv().await != Some(Address([2; 20])) {}
        };
        let all_asked = tokio::time::timeout(Duration::from_secs(60), all_asked).await;
        drop(validating);
        task.stop().await;
        assert!(all_asked.is_ok());
    }
}
