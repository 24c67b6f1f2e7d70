//! Contract wallets' answers: those that are known, those that are wanted, and the task that asks
//! their chains and has waiting identity updates judged again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hawser_chain::wallets::{WalletChains as Chains, WalletError, WalletQuery};
use hawser_engine::runtime::ChainAppender;
use hawser_mls::identity::WalletQuestion;
use hawser_mls::service::{WalletChains, WalletUnavailable, WalletVerdict};
use hawser_proto::{Address, Bytes, Digest};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::recent::Recent;

/// What remembered answers may take.
const KNOWN_BYTES_MAX: usize = 16 << 20;
/// Questions that are kept for asking. When there are more, those go that have failed most often;
/// they come back when their update is judged again.
const WANTED_MAX: usize = 10_000;
/// Wallets that are asked at once, for whomever.
const AT_ONCE: usize = 8;
/// The longest pause before a chain that gave no answer is asked again.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How often what waits is judged again even if no answer has come.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// What is known of contract wallets.
pub(super) struct Wallets {
    chains: Chains,
    known: Mutex<Recent<WalletQuestion, bool>>,
    wanted: Mutex<BTreeMap<WalletQuestion, Wanted>>,
    news: Notify,
    asking: Semaphore,
}

/// When a question is asked next.
struct Wanted {
    failures: u32,
    due: Instant,
}

impl Wallets {
    pub(super) fn new(chains: Chains) -> Self {
        Self {
            chains,
            known: Mutex::new(Recent::new(KNOWN_BYTES_MAX)),
            wanted: Mutex::default(),
            news: Notify::new(),
            asking: Semaphore::new(AT_ONCE),
        }
    }

    /// The answer, if it is known; if not, it is sought from now on.
    pub(super) fn answer(&self, question: &WalletQuestion) -> Option<bool> {
        let known = lock(&self.known).get(question);
        if known.is_none() && self.reaches(question.chain_id) {
            self.want(question);
        }
        known
    }

    fn reaches(&self, chain_id: u64) -> bool {
        self.chains.ids().any(|id| id == chain_id)
    }

    /// What an update waits for.
    pub(super) fn describe(&self, question: &WalletQuestion) -> String {
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

    fn want(&self, question: &WalletQuestion) {
        let mut wanted = lock(&self.wanted);
        if wanted.contains_key(question) {
            return;
        }
        if wanted.len() >= WANTED_MAX {
            let worst = wanted.iter().max_by_key(|(_, wanted)| wanted.failures);
            let worst = worst.map(|(question, _)| question.clone());
            worst.map(|question| wanted.remove(&question));
        }
        wanted.insert(question.clone(), Wanted { failures: 0, due: Instant::now() });
        drop(wanted);
        self.news.notify_one();
    }

    fn note(&self, question: WalletQuestion, agrees: bool) {
        lock(&self.wanted).remove(&question);
        let weight = 256 + question.signature.len();
        lock(&self.known).put(question, agrees, weight);
    }

    fn failed(&self, question: &WalletQuestion, error: &WalletUnavailable) {
        let mut wanted = lock(&self.wanted);
        let Some(wanted) = wanted.get_mut(question) else { return };
        if wanted.failures == 0 {
            tracing::warn!(
                code = "wallet_unavailable",
                chain_id = question.chain_id,
                block = question.block_number,
                "an identity update waits for a contract wallet: {error}"
            );
        }
        wanted.failures += 1;
        let pause = Duration::from_secs(1 << wanted.failures.min(16));
        wanted.due = Instant::now() + pause.min(PAUSE_MAX);
    }

    /// What is to be asked now, and when to look again.
    fn due(&self) -> (Vec<WalletQuestion>, Instant) {
        let (wanted, now) = (lock(&self.wanted), Instant::now());
        let due = wanted.iter().filter(|(_, wanted)| wanted.due <= now);
        let due = due.take(AT_ONCE).map(|(question, _)| question.clone()).collect();
        let next = wanted.values().map(|wanted| wanted.due).min();
        (due, next.unwrap_or(now + LOOK_EVERY).min(now + LOOK_EVERY))
    }

    /// Asks for answers that are wanted, and has what waited for them judged.
    pub(super) fn start(self: Arc<Self>, appender: ChainAppender) -> Asking {
        let (stop, stopped) = oneshot::channel();
        Asking { stop, task: tokio::spawn(self.run(appender, stopped)) }
    }

    async fn run(self: Arc<Self>, appender: ChainAppender, mut stop: oneshot::Receiver<()>) {
        judge_held(&appender).await; // what waited when this node last stopped
        let mut looked = Instant::now();
        loop {
            let (due, next) = self.due();
            if due.is_empty() {
                tokio::select! {
                    _ = &mut stop => return,
                    () = self.news.notified() => continue,
                    () = sleep_until(next) => {}
                }
            }
            let answered = tokio::select! {
                _ = &mut stop => return,
                answered = self.clone().ask_all(due) => answered,
            };
            let late = looked.elapsed() >= LOOK_EVERY && appender.inboxes_waiting() > 0;
            if answered || late {
                judge_held(&appender).await;
                looked = Instant::now();
            }
        }
    }

    /// Whether anybody has answered.
    async fn ask_all(self: Arc<Self>, questions: Vec<WalletQuestion>) -> bool {
        let mut asked = JoinSet::new();
        for question in questions {
            let wallets = self.clone();
            asked.spawn(async move {
                let WalletQuestion { chain_id, address, block_number, digest, signature } =
                    question.clone();
                let verdict =
                    wallets.ask(chain_id, address, Some(block_number), digest, signature).await;
                verdict.map_err(|error| wallets.failed(&question, &error)).is_ok()
            });
        }
        asked.join_all().await.into_iter().any(|answered| answered)
    }
}

#[tonic::async_trait]
impl WalletChains for Wallets {
    async fn ask(
        &self,
        chain_id: u64,
        address: Address,
        block_number: Option<u64>,
        digest: Digest,
        signature: Bytes,
    ) -> Result<WalletVerdict, WalletUnavailable> {
        let question = |block_number| WalletQuestion {
            chain_id,
            address,
            block_number,
            digest,
            signature: signature.clone(),
        };
        if let Some(block_number) = block_number
            && let Some(agrees) = lock(&self.known).get(&question(block_number))
        {
            return Ok(WalletVerdict { agrees, block_number });
        }
        let query = WalletQuery {
            wallet: address.0.into(),
            digest: digest.0.into(),
            signature: signature.clone().into(),
            block_number,
        };
        let _place = self.asking.acquire().await;
        let answer = self.chains.ask(chain_id, &query).await.map_err(|error| match error {
            WalletError::NoEndpoint(chain_id) => WalletUnavailable::NoEndpoint(chain_id),
            other => WalletUnavailable::NoAnswer { chain_id, reason: other.to_string() },
        })?;
        self.note(question(answer.block_number), answer.agrees);
        Ok(WalletVerdict { agrees: answer.agrees, block_number: answer.block_number })
    }
}

async fn judge_held(appender: &ChainAppender) {
    let appender = appender.clone();
    let judged = tokio::task::spawn_blocking(move || appender.judge_held());
    match judged.await.expect("a panic ends the process") {
        Ok(judged) if judged.valid + judged.invalid > 0 => tracing::info!(
            valid = judged.valid,
            invalid = judged.invalid,
            waiting = judged.waiting,
            "identity updates that waited were judged"
        ),
        Ok(_) => {}
        Err(error) => tracing::error!(
            code = "identity_judging_failed",
            "identity updates that wait could not be judged, and will be again: {error}"
        ),
    }
}

/// The task that asks.
pub(super) struct Asking {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Asking {
    /// Ends it, after a judgement that is under way.
    pub(super) async fn stop(self) {
        drop(self.stop);
        self.task.await.expect("a panic ends the process");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings};
    use hawser_proto::SecretKey;
    use hawser_proto::sign::keccak256;

    use super::*;

    const CHAIN_ID: u64 = 31_338;

    /// An account with a key needs no contract to be asked.
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
        let wallets = Arc::new(Wallets::new(Chains::new([(CHAIN_ID, url)])));
        let (right, wrong) = (question(CHAIN_ID, 7), question(CHAIN_ID, 8));
        for _ in 0..2 {
            assert_eq!((wallets.answer(&right), wallets.answer(&wrong)), (None, None));
        }
        let (due, _) = wallets.due();
        assert_eq!(due.len(), 2);
        assert!(wallets.clone().ask_all(due).await);
        assert_eq!(wallets.answer(&right), Some(true));
        assert_eq!(wallets.answer(&wrong), Some(false));
        assert!(wallets.due().0.is_empty());

        let later = WalletQuestion { block_number: 1_000, ..right };
        assert_eq!(wallets.answer(&later), None);
        assert!(!wallets.clone().ask_all(wallets.due().0).await, "that block is not there yet");
        assert!(wallets.due().0.is_empty(), "it is asked again after a pause");
    }

    #[tokio::test]
    async fn a_chain_without_endpoint_is_named_and_never_asked() {
        let wallets = Arc::new(Wallets::new(Chains::default()));
        let question = question(8453, 7);
        assert_eq!(wallets.answer(&question), None);
        assert!(wallets.due().0.is_empty());
        let text = wallets.describe(&question);
        assert!(text.contains("--wallet-rpc 8453=URL"), "{text}");
    }
}
