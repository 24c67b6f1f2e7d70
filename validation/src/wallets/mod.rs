//! Answers of contract wallets, for every part of a process that needs them.
//!
//! The state of a chain at one block gives one answer for ever, so answers are cached without expiry
//! under the digest of the whole question ([`WalletQuestion`]). [`client`] asks the chains; `queue`
//! holds what has no answer yet.

pub mod client;
mod queue;

use std::sync::Arc;

use hawser_mls::identity::WalletQuestion;
use hawser_proto::Digest;
use hawser_proto::sign::keccak256;
use quick_cache::sync::Cache;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

pub use client::{WalletChains, WalletError, WalletRpc};

use crate::limits::{JUDGE_AGAIN_EVERY, WALLET_ANSWERS_MAX, WALLETS_CONCURRENT_MAX};
use queue::QuestionQueue;

/// Identity updates that wait for answers of contract wallets. A node implements it on its log.
pub trait WaitingInboxes: Send + Sync + 'static {
    /// Returns the number of inboxes with an update that waits.
    fn inboxes_waiting(&self) -> u64;

    /// Judges the waiting updates again. Blocks on the disk and computes; called on a thread that
    /// may block.
    fn judge_again(&self);
}

/// The answers of contract wallets: cached ones at once, others from their chain.
pub struct Wallets {
    chains: Arc<dyn WalletChains>,
    answers: Cache<Digest, bool>,
    queue: QuestionQueue,
    permits: Semaphore,
}

impl Wallets {
    /// Asks wallets on these chains, at most [`WALLETS_CONCURRENT_MAX`] at once.
    #[must_use]
    pub fn new(chains: Arc<dyn WalletChains>) -> Self {
        Self {
            chains,
            answers: Cache::new(WALLET_ANSWERS_MAX),
            queue: QuestionQueue::default(),
            permits: Semaphore::new(WALLETS_CONCURRENT_MAX),
        }
    }

    /// Asks wallets over RPC at these pairs of chain id and URL; see [`WalletRpc::new`].
    #[must_use]
    pub fn over_rpc(endpoints: impl IntoIterator<Item = (u64, String)>) -> Self {
        Self::new(Arc::new(WalletRpc::new(endpoints)))
    }

    /// Returns the ids of the chains that can be asked, ascending.
    #[must_use]
    pub fn chain_ids(&self) -> Vec<u64> {
        self.chains.ids()
    }

    /// Returns the cached answer. Without one, queues the question for [`start`](Self::start)'s task
    /// if its chain has an endpoint.
    #[must_use]
    pub fn answer_or_queue(&self, question: &WalletQuestion) -> Option<bool> {
        let known = self.answers.get(&answer_key(question));
        if known.is_none() && self.reaches(question.chain_id) {
            self.queue.add(question);
        }
        known
    }

    /// Returns the answer of a wallet: the cached one, or its chain's, which is then cached.
    ///
    /// # Errors
    /// When the chain gives no answer now.
    pub async fn ask(&self, question: &WalletQuestion) -> Result<bool, WalletError> {
        let key = answer_key(question);
        if let Some(agrees) = self.answers.get(&key) {
            return Ok(agrees);
        }
        let _permit = self.permits.acquire().await;
        let agrees = self.chains.ask(question).await?;
        self.queue.remove(question);
        self.answers.insert(key, agrees);
        Ok(agrees)
    }

    /// Returns the number of a chain's newest block.
    ///
    /// # Errors
    /// When the chain gives no answer now.
    pub async fn newest_block(&self, chain_id: u64) -> Result<u64, WalletError> {
        let _permit = self.permits.acquire().await;
        self.chains.newest_block(chain_id).await
    }

    /// Describes for an operator the answer that an update waits for.
    #[must_use]
    pub fn describe(&self, question: &WalletQuestion) -> String {
        let WalletQuestion { chain_id, address, block_number, .. } = question;
        let how = if self.reaches(*chain_id) {
            String::new()
        } else {
            format!(", and that chain has no endpoint: --wallet-rpc {chain_id}=URL")
        };
        format!(
            "the contract wallet {address} has to be asked at block {block_number} of chain {chain_id}{how}"
        )
    }

    fn reaches(&self, chain_id: u64) -> bool {
        self.chains.ids().contains(&chain_id)
    }

    /// Starts the task that asks queued questions and has waiting updates judged again when answers
    /// arrive.
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
        judge_again(&updates).await; // updates that waited when this node last stopped
        let mut judged_at = Instant::now();
        loop {
            let (due, next) = self.queue.due();
            if due.is_empty() {
                tokio::select! {
                    _ = &mut stop => return,
                    () = self.queue.added() => continue,
                    () = sleep_until(next) => {}
                }
            }
            let answered = tokio::select! {
                _ = &mut stop => return,
                answered = self.clone().ask_all(due) => answered,
            };
            let overdue = judged_at.elapsed() >= JUDGE_AGAIN_EVERY && updates.inboxes_waiting() > 0;
            if answered || overdue {
                judge_again(&updates).await;
                judged_at = Instant::now();
            }
        }
    }

    /// Asks these questions at once and returns whether at least one was answered.
    async fn ask_all(self: Arc<Self>, questions: Vec<WalletQuestion>) -> bool {
        let mut asked = JoinSet::new();
        for question in questions {
            let wallets = self.clone();
            asked.spawn(async move {
                let answer = wallets.ask(&question).await;
                answer.map_err(|error| wallets.queue.failed(&question, &error)).is_ok()
            });
        }
        asked.join_all().await.into_iter().any(|answered| answered)
    }
}

/// Returns the cache key of a question: a digest, so that a long signature is neither kept nor
/// weighed, and every entry takes the same room.
fn answer_key(question: &WalletQuestion) -> Digest {
    let WalletQuestion { chain_id, address, block_number, digest, signature } = question;
    // Only the signature has no fixed length, and it comes last.
    keccak256(&[
        &chain_id.to_be_bytes(),
        &address.0,
        &block_number.to_be_bytes(),
        &digest.0,
        signature,
    ])
}

async fn judge_again(updates: &Arc<dyn WaitingInboxes>) {
    let updates = updates.clone();
    let judging = tokio::task::spawn_blocking(move || updates.judge_again());
    judging.await.expect("a panic ends the process");
}

/// The running task of [`Wallets::start`].
#[derive(Debug)]
pub struct WalletTask {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl WalletTask {
    /// Stops the task after the judgement that is under way.
    ///
    /// # Panics
    /// When the task has panicked.
    pub async fn stop(self) {
        drop(self.stop);
        self.task.await.expect("a panic ends the process");
    }
}

#[cfg(test)]
mod tests {
    use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings};
    use hawser_proto::{Bytes, SecretKey};

    use super::*;

    const CHAIN_ID: u64 = 31_338;

    /// A question about an account with a key, which no contract has to answer.
    fn question(chain_id: u64, signer: u8) -> WalletQuestion {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let digest = keccak256(&[b"what was signed"]);
        let signer = SecretKey::from_bytes(&[signer; 32]).unwrap();
        let mut signature = *signer.sign(digest).as_bytes();
        signature[64] += 27;
        WalletQuestion {
            chain_id,
            address: key.public_key().address(),
            block_number: 0,
            digest,
            signature: Bytes::copy_from_slice(&signature),
        }
    }

    #[tokio::test]
    async fn an_answer_is_sought_once_and_then_known() {
        let chain = EmbeddedChain::start(EmbeddedSettings::new(CHAIN_ID)).await.unwrap();
        let url = format!("http://{}", chain.local_addr());
        let wallets = Arc::new(Wallets::over_rpc([(CHAIN_ID, url)]));
        let (right, wrong) = (question(CHAIN_ID, 7), question(CHAIN_ID, 8));
        for _ in 0..2 {
            let answers = (wallets.answer_or_queue(&right), wallets.answer_or_queue(&wrong));
            assert_eq!(answers, (None, None));
        }
        let (due, _) = wallets.queue.due();
        assert_eq!(due.len(), 2);
        assert!(wallets.clone().ask_all(due).await);
        assert_eq!(wallets.answer_or_queue(&right), Some(true));
        assert_eq!(wallets.answer_or_queue(&wrong), Some(false));
        assert!(wallets.queue.due().0.is_empty());

        let later = WalletQuestion { block_number: 1_000, ..right };
        assert_eq!(wallets.answer_or_queue(&later), None);
        let due = wallets.queue.due().0;
        assert!(!wallets.clone().ask_all(due).await, "that block is not there yet");
        assert!(wallets.queue.due().0.is_empty(), "it is asked again after a pause");
    }

    #[tokio::test]
    async fn a_chain_without_endpoint_is_named_and_never_asked() {
        let wallets = Arc::new(Wallets::over_rpc([]));
        let question = question(8453, 7);
        assert_eq!(wallets.answer_or_queue(&question), None);
        assert!(wallets.queue.due().0.is_empty());
        let text = wallets.describe(&question);
        assert!(text.contains("--wallet-rpc 8453=URL"), "{text}");
    }
}
