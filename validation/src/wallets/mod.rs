//! Answers of contract wallets, shared by all parts of a process.
//!
//! The answer at a given block never changes, so answers are cached without expiry under the digest of the whole
//! question ([`WalletQuestion`]), which `answer_key` computes. [`client`] asks the chains; `few` knows how long too few
//! of their endpoints have replied; `queue` holds the unanswered questions, `first_attempts` the times since which they
//! are, and `asking` has the task that asks them; [`rule`] decides what an update's event and these answers mean.

mod answer_key;
mod asking;
pub mod client;
mod few;
mod first_attempts;
mod queue;
pub mod rule;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hawser_mls::identity::WalletQuestion;
use hawser_proto::Digest;
use quick_cache::sync::Cache;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

pub use asking::WalletTask;
pub use client::{ChainReply, NewestBlock, WalletChains, WalletError, WalletRpc};
pub use rule::{WalletChainList, WalletDecision, WalletRefusal};

use crate::limits::{WALLET_ANSWERS_MAX, WALLETS_PER_CHAIN_MAX, WALLETS_PER_UPDATE_MAX};
use answer_key::answer_key;
use first_attempts::{FirstAttempts, FirstDays};
use queue::QuestionQueue;
use rule::{KnownAnswer, QuestionFacts};

/// Identity updates that wait for answers of contract wallets. A node implements it on its log.
pub trait WaitingInboxes: Send + Sync + 'static {
    /// Returns the number of inboxes with an update that waits.
    fn inboxes_waiting(&self) -> u64;

    /// Returns the latest time of the app chain that is known, unix seconds; 0 if none is.
    fn chain_time_s(&self) -> u64;

    /// Validates the waiting updates again. Blocks on the disk and takes CPU time; called on a thread that may block.
    fn judge_again(&self);
}

/// A cache of contract wallets' answers that asks their chains for missing ones.
pub struct Wallets {
    chains: Arc<dyn WalletChains>,
    listed: WalletChainList,
    answers: Cache<Digest, WalletAnswer>,
    /// The times since which answers have been missing: of the first failed attempt.
    firsts: FirstAttempts,
    /// The same for chains without an endpoint: of the first question about an event of the same day.
    unreached: FirstDays,
    queue: QuestionQueue,
    /// Permits for concurrent questions to each chain that has an endpoint.
    permits: BTreeMap<u64, Semaphore>,
    /// The latest time of the app chain that is known, unix seconds.
    chain_time_s: AtomicU64,
    /// Notified to validate waiting updates although no answer has arrived.
    judge_soon: Notify,
}

/// The answer of a wallet, with the time of the block at which it was asked, unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WalletAnswer {
    agrees: bool,
    block_time_s: u64,
}

impl Wallets {
    /// Creates a cache that asks wallets of the `listed` chains, at most [`WALLETS_PER_CHAIN_MAX`] of each chain at
    /// once.
    #[must_use]
    pub fn new(chains: Arc<dyn WalletChains>, listed: WalletChainList) -> Self {
        let permits = chains.ids().into_iter();
        let permits = permits.map(|id| (id, Semaphore::new(WALLETS_PER_CHAIN_MAX))).collect();
        Self {
            chains,
            listed,
            answers: Cache::new(WALLET_ANSWERS_MAX),
            firsts: FirstAttempts::default(),
            unreached: FirstDays::default(),
            queue: QuestionQueue::default(),
            permits,
            chain_time_s: AtomicU64::new(0),
            judge_soon: Notify::new(),
        }
    }

    /// Creates a cache that asks wallets over RPC, at these pairs of chain id and URL; see [`WalletRpc::new`].
    #[must_use]
    pub fn over_rpc(
        endpoints: impl IntoIterator<Item = (u64, String)>,
        listed: WalletChainList,
    ) -> Self {
        Self::new(Arc::new(WalletRpc::new(endpoints)), listed)
    }

    /// Returns the ids of the chains that can be asked, ascending.
    #[must_use]
    pub fn chain_ids(&self) -> Vec<u64> {
        self.chains.ids()
    }

    /// Decides about a wallet's signature on an update whose event has this time, unix seconds, from cached
    /// answers. Does not ask for a missing answer: see [`look_for`](Self::look_for).
    #[must_use]
    pub fn decide(&self, question: &WalletQuestion, event_s: u64) -> WalletDecision {
        let key = answer_key(question);
        let decision = self.decision(question, key, event_s);
        if decision == WalletDecision::Refused(WalletRefusal::Unanswered) {
            self.firsts.note_decided(key); // the verdict on the update is final
        }
        decision
    }

    /// Returns true if an update whose event has this time, unix seconds, has to wait for the answer to this question.
    /// Decides about no update, so the question keeps its place among the first attempts.
    #[must_use]
    pub fn is_open(&self, question: &WalletQuestion, event_s: u64) -> bool {
        self.decision(question, answer_key(question), event_s) == WalletDecision::Open
    }

    /// Returns the decision about a question with this key, from cached answers.
    fn decision(&self, question: &WalletQuestion, key: Digest, event_s: u64) -> WalletDecision {
        self.note_chain_time(event_s);
        let (known, unanswered_for) = match self.answers.get(&key) {
            // Decided without the chain, which cannot answer such a question.
            _ if client::is_too_long(question) => {
                (KnownAnswer::Given { agrees: false, block_time_s: 0 }, Duration::ZERO)
            }
            Some(WalletAnswer { agrees, block_time_s }) => {
                (KnownAnswer::Given { agrees, block_time_s }, Duration::ZERO)
            }
            None => {
                let known = match self.queue.newest_time_s(question) {
                    Some(newest_time_s) => KnownAnswer::NotYet { newest_time_s },
                    None => KnownAnswer::Nothing,
                };
                (known, self.unanswered_for(key, question.chain_id, event_s))
            }
        };
        rule::decide(&QuestionFacts {
            is_listed: self.listed.contains(question.chain_id),
            event_s,
            chain_now_s: self.chain_time_s.load(Ordering::Relaxed),
            unanswered_for,
            known,
        })
    }

    /// Returns the time for which the answer to a question has been missing.
    fn unanswered_for(&self, key: Digest, chain_id: u64, event_s: u64) -> Duration {
        let now = Instant::now();
        if self.reaches(chain_id) {
            self.firsts.unanswered_for(key, now)
        } else {
            self.unreached.unanswered_for(chain_id, event_s, now)
        }
    }

    /// Queues the first [`WALLETS_PER_UPDATE_MAX`] open questions of an update for [`start`](Self::start)'s task. The
    /// others follow when the update is validated again with the answers. A question whose chain has no endpoint is not
    /// queued; the waiting time of its day starts now if it has not, so that it does not block its inbox for ever.
    /// `event_s` is the time of the update's event, unix seconds.
    pub fn look_for(&self, open: &[WalletQuestion], event_s: u64) {
        for question in open.iter().take(WALLETS_PER_UPDATE_MAX) {
            if self.reaches(question.chain_id) {
                self.queue.add(question, self.firsts.has(answer_key(question)), event_s);
            } else {
                self.unreached.note(question.chain_id, event_s, Instant::now());
            }
        }
    }

    /// Records a time that the app chain has reached, unix seconds.
    fn note_chain_time(&self, unix_s: u64) {
        self.chain_time_s.fetch_max(unix_s, Ordering::Relaxed);
    }

    /// Returns the answer of a wallet if it is known without its chain: the cached one, or false for a wallet of a
    /// chain that the network does not support, or for a signature that is too long for every chain.
    #[must_use]
    pub fn known(&self, question: &WalletQuestion) -> Option<bool> {
        if !self.listed.contains(question.chain_id) || client::is_too_long(question) {
            return Some(false);
        }
        self.answers.get(&answer_key(question)).map(|answer| answer.agrees)
    }

    /// Returns the answer of a wallet: the cached one, or its chain's, which is then cached.
    ///
    /// # Errors
    /// Returns an error if the network does not support the chain, or the chain does not answer now.
    pub async fn ask(&self, question: &WalletQuestion) -> Result<bool, WalletError> {
        let chain_id = question.chain_id;
        match self.reply(question).await? {
            ChainReply::Answer { agrees, .. } => Ok(agrees),
            ChainReply::NotYet { .. } => {
                let reason = format!("it does not have block {} yet", question.block_number);
                Err(WalletError::NoAnswer { chain_id, reason })
            }
        }
    }

    async fn reply(&self, question: &WalletQuestion) -> Result<ChainReply, WalletError> {
        if client::is_too_long(question) && self.listed.contains(question.chain_id) {
            // No chain has to be asked, and nothing is hashed.
            return Ok(ChainReply::Answer { agrees: false, block_time_s: 0 });
        }
        let key = answer_key(question);
        if let Some(WalletAnswer { agrees, block_time_s }) = self.answers.get(&key) {
            // A concurrent decision may have queued the question again just before the answer was cached.
            self.queue.remove(question);
            return Ok(ChainReply::Answer { agrees, block_time_s });
        }
        let _permit = self.permit(question.chain_id).await?;
        let reply = self.chains.ask(question).await?;
        if let ChainReply::Answer { agrees, block_time_s } = reply {
            self.answers.insert(key, WalletAnswer { agrees, block_time_s });
            self.firsts.remove(key);
            self.queue.remove(question);
        }
        Ok(reply)
    }

    /// Waits for a permit to ask the chain.
    async fn permit(&self, chain_id: u64) -> Result<Option<SemaphorePermit<'_>>, WalletError> {
        if !self.listed.contains(chain_id) {
            return Err(WalletError::UnknownChain(chain_id));
        }
        match self.permits.get(&chain_id) {
            Some(permits) => Ok(permits.acquire().await.ok()),
            None => Ok(None), // the chain has no endpoint, and says so
        }
    }

    /// Returns the number of a chain's newest block.
    ///
    /// # Errors
    /// Returns an error if the network does not support the chain, or the chain does not answer now.
    pub async fn newest_block(&self, chain_id: u64) -> Result<NewestBlock, WalletError> {
        let _permit = self.permit(chain_id).await?;
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
        self.permits.contains_key(&chain_id)
    }

    /// Notifies the task of [`start`](Self::start) to validate the waiting updates soon. For updates that wait for
    /// something other than a wallet.
    pub fn judge_soon(&self) {
        self.judge_soon.notify_one();
    }

    /// Asks a queued question. Returns true if the reply may decide a waiting update.
    async fn ask_queued(self: Arc<Self>, question: WalletQuestion) -> bool {
        let is_news = match self.reply(&question).await {
            Ok(ChainReply::Answer { .. }) => return true,
            Ok(ChainReply::NotYet { newest_time_s }) => {
                self.queue.not_yet(&question, newest_time_s);
                true
            }
            Err(error) => {
                self.queue.failed(&question, &error);
                false
            }
        };
        self.firsts.note(answer_key(&question), Instant::now());
        is_news
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings};
    use hawser_mls::identity::{MemberIdentifier, wallet_questions};
    use hawser_proto::pb::xmtp::identity::associations as pb;
    use hawser_proto::sign::keccak256;
    use hawser_proto::{Bytes, SecretKey};
    use pb::identity_action::Kind;
    use pb::signature::Signature as Signed;

    use super::asking::{JUDGE_PAUSE, pause_after};
    use super::*;
    use crate::identity::IdentityValidator;
    use crate::limits::{
        JUDGE_AGAIN_EVERY, WALLET_ANSWER_MAX_S, WALLET_ASKED_MIN, WALLET_BLOCK_AHEAD_MAX_S,
    };

    const CHAIN_ID: u64 = 31_338;

    /// A question about an account with a key, for which no contract is asked.
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

    fn over_rpc(endpoints: impl IntoIterator<Item = (u64, String)>) -> Arc<Wallets> {
        Arc::new(Wallets::over_rpc(endpoints, WalletChainList::with([CHAIN_ID])))
    }

    /// Returns the time of events, unix seconds: about that of the chain's first block.
    fn now_s() -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }

    /// Decides, and queues an open question as the validation of updates does.
    fn decide(wallets: &Wallets, question: &WalletQuestion, event_s: u64) -> WalletDecision {
        let decision = wallets.decide(question, event_s);
        if decision == WalletDecision::Open {
            wallets.look_for(std::slice::from_ref(question), event_s);
        }
        decision
    }

    async fn ask_all(wallets: &Arc<Wallets>) -> Vec<bool> {
        let mut news = Vec::new();
        for question in wallets.queue.start_due().0 {
            news.push(wallets.clone().ask_queued(question).await);
        }
        news
    }

    #[test]
    fn validations_that_take_long_leave_most_of_the_time_to_others() {
        assert_eq!(pause_after(Duration::ZERO), JUDGE_PAUSE);
        assert_eq!(pause_after(Duration::from_secs(10)), Duration::from_secs(30));
        assert_eq!(pause_after(Duration::from_secs(3600)), JUDGE_AGAIN_EVERY);
    }

    #[tokio::test]
    async fn an_answer_is_sought_once_and_then_known() {
        let chain = EmbeddedChain::start(EmbeddedSettings::new(CHAIN_ID)).await.unwrap();
        let wallets = over_rpc([(CHAIN_ID, format!("http://{}", chain.local_addr()))]);
        let (right, wrong) = (question(CHAIN_ID, 7), question(CHAIN_ID, 8));
        let decide_now = |question: &WalletQuestion| decide(&wallets, question, now_s());
        for _ in 0..2 {
            let decisions = (decide_now(&right), decide_now(&wrong));
            assert_eq!(decisions, (WalletDecision::Open, WalletDecision::Open));
        }
        assert_eq!(ask_all(&wallets).await, [true, true]);
        assert_eq!(decide_now(&right), WalletDecision::Agrees);
        assert_eq!(decide_now(&wrong), WalletDecision::Refused(WalletRefusal::Disagrees));
        assert!(wallets.queue.start_due().0.is_empty());

        // A question that is queued although its answer is cached leaves the queue each time.
        for _ in 0..2 {
            wallets.queue.add(&right, false, 0);
            assert_eq!(ask_all(&wallets).await, [true]);
        }

        // A block that does not exist yet is asked for again after a pause, and only while its time may be early
        // enough.
        let later = WalletQuestion { block_number: u64::MAX, ..right };
        assert_eq!(decide_now(&later), WalletDecision::Open);
        assert_eq!(ask_all(&wallets).await, [true]);
        assert!(wallets.queue.start_due().0.is_empty());
        assert_eq!(decide_now(&later), WalletDecision::Open);
        let old = decide(&wallets, &later, now_s() - 2 * WALLET_BLOCK_AHEAD_MAX_S);
        assert_eq!(old, WalletDecision::Refused(WalletRefusal::BlockAhead));
    }

    /// An update that names many wallets, or one wallet at many blocks, has its questions asked in parts.
    #[test]
    fn an_update_takes_few_places_of_the_queue() {
        let wallets = over_rpc([(CHAIN_ID, "http://127.0.0.1:9".into())]);
        let many: Vec<_> = (0..600)
            .map(|block_number| WalletQuestion { block_number, ..question(CHAIN_ID, 7) })
            .collect();
        wallets.look_for(&many, 0);
        wallets.look_for(&many, 0);
        let (mut asked, _) = wallets.queue.start_due();
        asked.sort();
        assert_eq!(asked, many[..WALLETS_PER_UPDATE_MAX], "each once");
        wallets.queue.remove(&many[0]);
        wallets.look_for(&many[1..], 0);
        assert_eq!(wallets.queue.start_due().0, [many[4].clone()], "the next one follows");
    }

    /// If each question took a place in the memory of first attempts, a later update would wait while that is full.
    #[tokio::test(start_paused = true)]
    async fn a_flood_about_a_chain_without_an_endpoint_prolongs_no_wait() {
        let wallets = over_rpc([]);
        let event_s = 1_800_000_000;
        let mut flood = question(8453, 7);
        for number in 0..crate::limits::WALLET_FIRSTS_MAX as u64 {
            flood.block_number = number;
            wallets.look_for(std::slice::from_ref(&flood), event_s);
        }
        let late = question(8453, 8);
        assert_eq!(decide(&wallets, &late, event_s), WalletDecision::Open);
        tokio::time::advance(WALLET_ASKED_MIN).await;
        wallets.note_chain_time(event_s + WALLET_ANSWER_MAX_S);
        let unanswered = WalletDecision::Refused(WalletRefusal::Unanswered);
        assert_eq!(wallets.decide(&late, event_s), unanswered);
        let earlier = wallets.decide(&late, event_s - 86_400);
        assert_eq!(earlier, WalletDecision::Open, "of another day, about which none was asked");
    }

    #[tokio::test]
    async fn a_chain_without_endpoint_is_named_and_never_asked() {
        let wallets = over_rpc([]);
        let question = question(8453, 7);
        assert_eq!(decide(&wallets, &question, 1), WalletDecision::Open);
        assert!(wallets.queue.start_due().0.is_empty());
        let text = wallets.describe(&question);
        assert!(text.contains("--wallet-rpc 8453=URL"), "{text}");
    }

    #[tokio::test]
    async fn a_chain_that_the_network_does_not_know_is_never_asked() {
        let chain = EmbeddedChain::start(EmbeddedSettings::new(CHAIN_ID)).await.unwrap();
        let url = format!("http://{}", chain.local_addr());
        let wallets = Wallets::over_rpc([(CHAIN_ID, url)], WalletChainList::default());
        let question = question(CHAIN_ID, 7);
        let refused = WalletDecision::Refused(WalletRefusal::UnknownChain);
        assert_eq!(decide(&wallets, &question, 1), refused);
        assert!(wallets.queue.start_due().0.is_empty());
        assert_eq!(wallets.ask(&question).await, Err(WalletError::UnknownChain(CHAIN_ID)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_is_silent_is_waited_for_until_the_chains_clock_is_past_the_deadline()
    {
        let wallets = over_rpc([]);
        let question = question(8453, 7);
        let event_s = 1_800_000_000;
        assert_eq!(decide(&wallets, &question, event_s), WalletDecision::Open);
        wallets.note_chain_time(event_s + WALLET_ANSWER_MAX_S);
        assert_eq!(decide(&wallets, &question, event_s), WalletDecision::Open, "it was just asked");
        tokio::time::advance(WALLET_ASKED_MIN).await;
        let unanswered = WalletDecision::Refused(WalletRefusal::Unanswered);
        assert_eq!(decide(&wallets, &question, event_s), unanswered);
        assert_eq!(decide(&wallets, &question, event_s + 1), WalletDecision::Open, "a later event");
    }

    /// Chain 8453, which gives this reply to each question.
    struct OneReply(Result<ChainReply, WalletError>);

    #[tonic::async_trait]
    impl WalletChains for OneReply {
        fn ids(&self) -> Vec<u64> {
            vec![8453]
        }

        async fn newest_block(&self, chain_id: u64) -> Result<NewestBlock, WalletError> {
            Err(WalletError::NoEndpoint(chain_id))
        }

        async fn ask(&self, _question: &WalletQuestion) -> Result<ChainReply, WalletError> {
            self.0.clone()
        }
    }

    fn on_chain_8453(reply: Result<ChainReply, WalletError>) -> Arc<Wallets> {
        Arc::new(Wallets::new(Arc::new(OneReply(reply)), WalletChainList::default()))
    }

    /// One inbox that waits, and the number of times that its updates were judged.
    #[derive(Default)]
    struct Judgements(AtomicU64);

    impl WaitingInboxes for Judgements {
        fn inboxes_waiting(&self) -> u64 {
            1
        }

        fn chain_time_s(&self) -> u64 {
            0
        }

        fn judge_again(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_replies_are_judged_together() {
        let wallets = on_chain_8453(Ok(ChainReply::NotYet { newest_time_s: 1 }));
        for signer in 1..=40 {
            let decision = decide(&wallets, &question(8453, signer), 1_800_000_000);
            assert_eq!(decision, WalletDecision::Open);
        }
        let updates = Arc::new(Judgements::default());
        let task = wallets.clone().start(updates.clone());
        tokio::time::sleep(JUDGE_PAUSE / 2).await;
        assert!(wallets.queue.start_due().0.is_empty(), "all were asked");
        assert_eq!(updates.0.load(Ordering::Relaxed), 1, "at the start");
        tokio::time::sleep(JUDGE_PAUSE).await;
        assert_eq!(updates.0.load(Ordering::Relaxed), 2, "with all the replies");
        task.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_for_an_answer_begins_with_the_first_attempt() {
        let wallets = on_chain_8453(Err(WalletError::NoEndpoint(8453)));
        let question = question(8453, 7);
        let event_s = 1_800_000_000;
        let decide = || decide(&wallets, &question, event_s);
        assert_eq!(decide(), WalletDecision::Open);
        wallets.note_chain_time(event_s + WALLET_ANSWER_MAX_S);
        tokio::time::advance(2 * WALLET_ASKED_MIN).await;
        assert_eq!(decide(), WalletDecision::Open, "it has only been queued");
        assert_eq!(ask_all(&wallets).await, [false]);
        assert_eq!(decide(), WalletDecision::Open, "it was just asked");
        tokio::time::advance(WALLET_ASKED_MIN).await;
        assert_eq!(decide(), WalletDecision::Refused(WalletRefusal::Unanswered));
    }

    /// An update by which a contract wallet of chain 8453 founds an inbox.
    fn founding() -> pb::IdentityUpdate {
        let owner = MemberIdentifier::Ethereum(format!("0x{:040x}", 1));
        let signed = pb::SmartContractWalletSignature {
            account_id: format!("eip155:8453:{owner}"),
            block_number: 7,
            signature: Bytes::from_static(&[1]),
        };
        let signature = pb::Signature { signature: Some(Signed::Erc6492(signed)) };
        let kind = Kind::CreateInbox(pb::CreateInbox {
            initial_identifier: owner.to_string(),
            nonce: 1,
            initial_identifier_signature: Some(signature),
            ..pb::CreateInbox::default()
        });
        pb::IdentityUpdate {
            actions: vec![pb::IdentityAction { kind: Some(kind) }],
            client_timestamp_ns: 1,
            inbox_id: owner.inbox_id(1),
        }
    }

    /// A flood of questions fills the memory of first attempts, in which decided ones give way.
    #[tokio::test(start_paused = true)]
    async fn an_update_behind_another_one_keeps_its_first_attempt_until_it_is_decided() {
        let chains = Arc::new(OneReply(Err(WalletError::NoEndpoint(8453))));
        let mut wallets = Wallets::new(chains, WalletChainList::default());
        wallets.firsts = FirstAttempts::with_max(1);
        let wallets = Arc::new(wallets);
        let (validator, update) = (IdentityValidator::new(wallets.clone()), founding());
        let (event_s, asked) = (1_800_000_000, wallet_questions(&update).unwrap());
        assert_eq!(asked.len(), 1);
        validator.look_ahead(&update, event_s);
        assert_eq!(ask_all(&wallets).await, [false]);
        wallets.note_chain_time(event_s + WALLET_ANSWER_MAX_S);
        tokio::time::advance(WALLET_ASKED_MIN).await;
        validator.look_ahead(&update, event_s);
        let (flood, now) = (answer_key(&question(8453, 9)), Instant::now());
        wallets.firsts.note(flood, now);
        assert!(!wallets.firsts.has(flood), "the update still waits");
        let unanswered = WalletDecision::Refused(WalletRefusal::Unanswered);
        assert_eq!(wallets.decide(&asked[0], event_s), unanswered);
        tokio::time::advance(Duration::from_secs(60)).await;
        wallets.firsts.note(flood, Instant::now());
        assert!(wallets.firsts.has(flood), "the update is decided");
    }
}
