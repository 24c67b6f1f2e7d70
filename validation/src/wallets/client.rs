//! An RPC client for contract wallets: asks a wallet by `eth_call` to verify a signature (ERC-1271, ERC-6492).
//!
//! Like published clients, this module uses the universal validator: the call is a contract creation with the
//! validator's code and the question as its arguments, and it returns one byte, 1 for yes. No contract has to be
//! deployed on the wallet's chain, and any block can be asked. Every other answer means no, and so does a call that the
//! chain runs and that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes, TxKind};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::SolValue;
use hawser_chain::endpoints::{AnswerTimes, Endpoints};
use hawser_chain::index::lookup;
use hawser_chain::send::{Chain, ConnectError, REVERTED_CODE, RequestError};
use hawser_mls::identity::WalletQuestion;
use parking_lot::Mutex;

use super::answer_key::answer_key;
use super::few::{FewReplies, ReplyCounts};
use crate::clock::system_unix_s;

/// The reason a contract wallet gave no answer. A later attempt may get one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// The network knows no contract wallets of this chain.
    #[error("the network does not support contract wallets of chain {0}")]
    UnknownChain(u64),
    /// No endpoint of the wallet's chain is configured.
    #[error("no RPC endpoint is configured for chain {0}")]
    NoEndpoint(u64),
    /// No endpoint of the chain gave a usable answer.
    #[error("chain {chain_id} cannot be queried now: {reason}")]
    NoAnswer {
        /// The wallet's chain (EIP-155).
        chain_id: u64,
        /// The error of the last endpoint that was tried.
        reason: String,
    },
}

/// Access to the chains of contract wallets.
#[tonic::async_trait]
pub trait WalletChains: Send + Sync + 'static {
    /// Returns the ids of all chains that can be asked, ascending.
    fn ids(&self) -> Vec<u64>;

    /// Returns the newest block of a chain, as its endpoints state it.
    ///
    /// # Errors
    /// Returns an error if the chain has no endpoint, or none of its endpoints answers.
    async fn newest_block(&self, chain_id: u64) -> Result<NewestBlock, WalletError>;

    /// Asks the wallet whether it accepts the signature at the block of the question.
    ///
    /// # Errors
    /// Returns an error if the chain has no endpoint, or none of its endpoints answers or has the state at that block.
    async fn ask(&self, question: &WalletQuestion) -> Result<ChainReply, WalletError>;
}

/// The number of a chain's newest block. Endpoints may be some blocks apart, and one may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestBlock {
    /// The highest block that more than half of the endpoints that reply have reached. Wallets are asked at it.
    pub reached: u64,
    /// The highest block that an endpoint states. An update is refused for a block that is too far in the future only
    /// if the block lies beyond this one. So an endpoint that states too low a block causes no refusal.
    pub stated: u64,
}

/// The reply of a chain to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainReply {
    /// The wallet's answer.
    Answer {
        /// True if it accepts the signature.
        agrees: bool,
        /// Time of the block at which it was asked, unix seconds.
        block_time_s: u64,
    },
    /// The chain does not have the block yet.
    NotYet {
        /// Time of the chain's newest block, unix seconds.
        newest_time_s: u64,
    },
}

/// The code of the universal validator: `validateSigOffchain` of `AmbireTech/signature-validator` at commit
/// 7706bda (MIT; its source is CC0-1.0), which published clients run.
static UNIVERSAL_VALIDATOR: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let text = include_str!("universal_validator.hex");
    hex::decode(text.trim()).expect("a test has read the same file")
});

/// Largest code in bytes that a call can create (EIP-3860). A question with a longer signature
/// cannot be asked on any chain.
const INIT_CODE_LEN_BYTES_MAX: usize = 49_152;

/// The time limits for the endpoints of a chain. Guesses: a call takes as long as a request, its result is waited for
/// once per identity update, and a recently failed endpoint needs time for a new connection.
const ANSWER_TIMES: AnswerTimes = AnswerTimes {
    time_max: Duration::from_secs(5),
    paused_max: Duration::from_secs(1),
    grace: Duration::from_secs(1),
};

/// The age in seconds from which an endpoint's newest block shows that it gets no new blocks. Guess: chains of wallets
/// have blocks at least once a minute.
const BEHIND_S_MAX: u64 = 600;

/// Gas of the call that asks a wallet. Part of the protocol: a wallet can read its remaining gas and run out of it, so
/// all nodes of a network use the same value. 2^24 is the most that a transaction can have (EIP-7825): nodes that hold
/// calls to that limit accept it, and the usual caps on calls are higher (go-ethereum: 50 million).
const CALL_GAS: u64 = 1 << 24;

/// Parts of the messages, in lower case, by which Ethereum nodes report that a call ran and failed. There is no
/// standard: these are the texts of go-ethereum, Nethermind, Erigon, reth, anvil and Arbitrum's node.
const GIVEN_UP: [&str; 10] = [
    "revert",
    "out of gas",
    "outofgas",
    "opcode",
    "stack underflow",
    "stack overflow",
    "stack limit",
    "invalid jump",
    "invalidjump",
    "initcode size",
];

/// RPC client for contract wallets. Every chain has its endpoints with failover.
#[derive(Debug, Default)]
pub struct WalletRpc {
    chains: BTreeMap<u64, Result<Endpoints, ConnectError>>,
    few: FewReplies,
}

impl WalletRpc {
    /// Creates a client for pairs of chain id and URL; several URLs of one chain are used in their order. Connects on
    /// first use. An unusable URL is logged and left out.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = (u64, String)>) -> Self {
        let mut urls: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for (chain_id, url) in endpoints {
            urls.entry(chain_id).or_default().push(url);
        }
        let chains = urls.into_iter().map(|(chain_id, urls)| (chain_id, usable(chain_id, urls)));
        Self { chains: chains.collect(), few: FewReplies::default() }
    }

    fn endpoints(&self, chain_id: u64) -> Result<&Endpoints, WalletError> {
        let known = self.chains.get(&chain_id).ok_or(WalletError::NoEndpoint(chain_id))?;
        known
            .as_ref()
            .map_err(|error| WalletError::NoAnswer { chain_id, reason: error.to_string() })
    }
}

/// Returns the endpoints of a chain. A chain whose URLs are all unusable is kept with the error, so that its updates
/// wait as they do when its endpoints are down.
fn usable(chain_id: u64, mut urls: Vec<String>) -> Result<Endpoints, ConnectError> {
    let mut unusable = None;
    urls.retain(|url| match Endpoints::new("wallet", std::slice::from_ref(url), chain_id) {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(code = "wallet_endpoint", chain_id, %error, "an endpoint is not usable");
            unusable = Some(error);
            false
        }
    });
    match unusable {
        Some(error) if urls.is_empty() => Err(error),
        _ => Endpoints::new("wallet", &urls, chain_id),
    }
}

#[tonic::async_trait]
impl WalletChains for WalletRpc {
    fn ids(&self) -> Vec<u64> {
        self.chains.keys().copied().collect()
    }

    async fn newest_block(&self, chain_id: u64) -> Result<NewestBlock, WalletError> {
        let endpoints = self.endpoints(chain_id)?;
        let asked = endpoints.each_until_majority_with_paused(ANSWER_TIMES, |chain| async move {
            let newest = lookup::newest_of(&chain).await?;
            Ok((newest.block.number, newest.time_s))
        });
        let heads = asked.await.map_err(no_answer(chain_id))?;
        let (stated, hosts) = (heads.len(), hosts_of(endpoints));
        if !self.few.heads_suffice(chain_id, stated, hosts, Instant::now()) {
            return Err(too_few(chain_id, stated, hosts));
        }
        newest_together(&heads, system_unix_s()).ok_or_else(|| WalletError::NoAnswer {
            chain_id,
            reason: "no endpoint answers in time".to_owned(),
        })
    }

    async fn ask(&self, question: &WalletQuestion) -> Result<ChainReply, WalletError> {
        let endpoints = self.endpoints(question.chain_id)?;
        let responsive = &Mutex::new(BTreeSet::new());
        let asked = endpoints
            .each_until_majority_with_paused(ANSWER_TIMES, |chain| async move {
                let reply = ask(&chain, question).await;
                if matches!(reply, Ok(_) | Err(RequestError::Refused { .. })) {
                    responsive.lock().insert(chain.endpoint().to_owned());
                }
                reply
            })
            .await;
        let replies = asked.map_err(no_answer(question.chain_id))?;
        let (chain_id, replied, hosts) = (question.chain_id, replies.len(), hosts_of(endpoints));
        let counts = ReplyCounts { replied, responsive: responsive.lock().len(), hosts };
        if !self.few.suffice(chain_id, answer_key(question), counts, Instant::now()) {
            return Err(too_few(chain_id, replied, hosts));
        }
        together(&replies, hosts, system_unix_s()).ok_or_else(|| WalletError::NoAnswer {
            chain_id,
            reason: "its endpoints do not agree on the wallet's answer".to_owned(),
        })
    }
}

/// Returns the number of endpoints that differ in host or port.
fn hosts_of(endpoints: &Endpoints) -> usize {
    let all = endpoints.status().into_iter().map(|endpoint| endpoint.display_url);
    all.collect::<BTreeSet<_>>().len()
}

fn too_few(chain_id: u64, replied: usize, hosts: usize) -> WalletError {
    let reason = format!("only {replied} of its {hosts} endpoints answer");
    WalletError::NoAnswer { chain_id, reason }
}

/// Combines the newest blocks of the endpoints of one chain, of which each is a number and a time. Returns `None`
/// without any. `now_s` and the times are unix seconds.
///
/// The block that most endpoints have reached is counted without the endpoints whose newest block is older than
/// [`BEHIND_S_MAX`]. If these are the majority, they count: the chain itself may then have no newer block, and one of
/// the others may have invented its own.
fn newest_together(heads: &[(u64, u64)], now_s: u64) -> Option<NewestBlock> {
    let is_current = |time_s: u64| time_s.saturating_add(BEHIND_S_MAX) > now_s;
    let current = heads.iter().filter(|(_, time_s)| is_current(*time_s)).count();
    let do_all_count = heads.len() - current > current;
    let counted = heads.iter().filter(|(_, time_s)| do_all_count || is_current(*time_s));
    let mut numbers: Vec<u64> = counted.map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    let reached = *numbers.get(numbers.len().checked_sub(1)? / 2)?;
    let stated = heads.iter().map(|(number, _)| *number).max()?;
    Some(NewestBlock { reached, stated })
}

/// Combines the replies of the endpoints of one chain, of which `hosts` differ in host or port. Returns `None` if they
/// contradict each other or do not suffice. `now_s` is unix seconds.
///
/// One endpoint may lie, so an answer counts if more than half of the replies give it.
///
/// - A reply that the endpoint does not have the block yet is one of them. Otherwise a liar alone could answer for a
///   block in the future. These replies win in the same way, with the lowest time of a newest block, because a later
///   time could end the wait for the block too early.
/// - An endpoint whose newest block is older than [`BEHIND_S_MAX`] does not count as one that waits for the block,
///   unless such endpoints are more than half: the chain itself may then have no newer block, and a liar may invent
///   its next one.
fn together(replies: &[EndpointReply], hosts: usize, now_s: u64) -> Option<ChainReply> {
    let (mut answers, mut newest, mut odd) = (Vec::new(), Vec::new(), 0);
    for reply in replies {
        match reply {
            EndpointReply::Reply(answer @ ChainReply::Answer { .. }) => answers.push(*answer),
            EndpointReply::Reply(ChainReply::NotYet { newest_time_s }) => {
                newest.push(*newest_time_s)
            }
            EndpointReply::Odd => odd += 1,
        }
    }
    let is_current = |newest_time_s: &u64| newest_time_s.saturating_add(BEHIND_S_MAX) > now_s;
    let still = newest.iter().filter(|newest_time_s| !is_current(newest_time_s)).count();
    if !answers.is_empty() && 2 * still <= replies.len() {
        newest.retain(is_current);
    }
    let all = answers.len() + newest.len() + odd;
    let is_most = |count: usize| 2 * count > all;
    let is_of_most =
        |answer: &&ChainReply| is_most(answers.iter().filter(|other| other == answer).count());
    let agreed = answers.iter().find(is_of_most).copied();
    let earliest = newest.iter().min().filter(|_| is_most(newest.len()));
    let not_yet = earliest.map(|&newest_time_s| ChainReply::NotYet { newest_time_s });
    // The chain does not support such calls: for clients too, its wallets do not agree.
    let unsupported =
        || (odd == hosts).then_some(ChainReply::Answer { agrees: false, block_time_s: 0 });
    agreed.or(not_yet).or_else(unsupported)
}

fn unusable(chain: &Chain, reason: String) -> RequestError {
    let endpoint = chain.endpoint().to_owned();
    // Refused, not malformed: the endpoint may well answer another question.
    RequestError::Refused { endpoint, method: "eth_call", code: 0, message: reason }
}

fn no_answer(chain_id: u64) -> impl Fn(RequestError) -> WalletError {
    move |fault| WalletError::NoAnswer { chain_id, reason: fault.to_string() }
}

/// The reply of one endpoint to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointReply {
    /// The reply of the chain at this endpoint.
    Reply(ChainReply),
    /// A result that the validator cannot return: the endpoint did not run it.
    Odd,
}

/// Asks a wallet of this chain.
///
/// # Errors
/// Returns an error if the chain does not answer, or has pruned the state at the block.
pub async fn ask(chain: &Chain, question: &WalletQuestion) -> Result<EndpointReply, RequestError> {
    let Some(code) = code_that_asks(question) else {
        let reply = ChainReply::Answer { agrees: false, block_time_s: 0 };
        return Ok(EndpointReply::Reply(reply));
    };
    let number = question.block_number;
    let called = call(chain, code, number).await;
    let Some(block) = lookup::block_of(chain, number).await? else {
        let newest = lookup::newest_of(chain).await?;
        if newest.block.number < number {
            let newest_time_s = newest.time_s;
            return Ok(EndpointReply::Reply(ChainReply::NotYet { newest_time_s }));
        }
        return Err(unusable(chain, format!("it does not know block {number}")));
    };
    let block_time_s = block.time_s;
    Ok(match called? {
        Some(agrees) => EndpointReply::Reply(ChainReply::Answer { agrees, block_time_s }),
        None => EndpointReply::Odd,
    })
}

/// Returns the call that runs this code. Every property that a wallet can read is the same at every node, independently
/// of an endpoint's defaults: gas and sender are set, and without a price the gas is free.
fn request_of(code: Bytes) -> TransactionRequest {
    let request = TransactionRequest {
        from: Some(Address::ZERO),
        to: Some(TxKind::Create),
        gas: Some(CALL_GAS),
        ..Default::default()
    };
    request.input(code.into())
}

/// Runs the validator. `None` if the result is not an answer of the validator.
async fn call(chain: &Chain, code: Bytes, number: u64) -> Result<Option<bool>, RequestError> {
    let answer = chain.provider().call(request_of(code)).block(BlockId::number(number)).await;
    match answer.map_err(|error| chain.request_error("eth_call", error)) {
        Ok(answer) => Ok(match answer[..] {
            [agrees @ (0 | 1)] => Some(agrees == 1),
            _ => None,
        }),
        Err(error) if is_given_up(&error) => Ok(Some(false)),
        Err(error) => Err(error),
    }
}

/// Returns true if the endpoint ran the call and the call failed. For clients this error is final: they never accept
/// the signature.
fn is_given_up(error: &RequestError) -> bool {
    let RequestError::Refused { code, message, .. } = error else { return false };
    let message = message.to_lowercase();
    *code == REVERTED_CODE || GIVEN_UP.iter().any(|text| message.contains(text))
}

/// Returns the validator's code with the question as its arguments, or `None` if it is longer than chains accept.
fn code_that_asks(question: &WalletQuestion) -> Option<Bytes> {
    if is_too_long(question) {
        return None;
    }
    let signature: Bytes = question.signature.clone().into();
    let (wallet, digest) = (Address::from(question.address.0), B256::from(question.digest.0));
    let arguments = (wallet, digest, signature).abi_encode_params();
    let code = [&UNIVERSAL_VALIDATOR[..], &arguments].concat();
    debug_assert!(code.len() <= INIT_CODE_LEN_BYTES_MAX, "it is as long as computed");
    Some(code.into())
}

/// Returns true if the signature is too long for a question on any chain. Such a signature counts as refused.
pub(super) fn is_too_long(question: &WalletQuestion) -> bool {
    // Address, digest, the place of the signature and its length take a word each, and the signature fills its last
    // one.
    const WORD: usize = 32;
    let signature = question.signature.len().next_multiple_of(WORD);
    UNIVERSAL_VALIDATOR.len() + 4 * WORD + signature > INIT_CODE_LEN_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use hawser_proto::Digest;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::wallets::{WalletChainList, Wallets};

    fn question(signature_len_bytes: usize) -> WalletQuestion {
        WalletQuestion {
            chain_id: 1,
            address: hawser_proto::Address([1; 20]),
            block_number: 2,
            digest: Digest([3; 32]),
            signature: vec![4; signature_len_bytes].into(),
        }
    }

    fn refused(code: i64, message: &str) -> RequestError {
        let (endpoint, message) = (String::new(), message.to_owned());
        RequestError::Refused { endpoint, method: "eth_call", code, message }
    }

    #[test]
    fn the_validator_is_the_one_that_clients_run() {
        assert_eq!(UNIVERSAL_VALIDATOR.len(), 1792);
        assert_eq!(
            hex::encode(Sha256::digest(&*UNIVERSAL_VALIDATOR)),
            "ee4f10dc27735f5f8fd686ddf765fe4f124a45dd339581347f53a1b0c8dfe24c"
        );
    }

    /// Played by requests of megabytes to the validation service. To hash them would take a thread of the runtime for
    /// tens of milliseconds, each time.
    #[tokio::test]
    async fn a_signature_that_no_chain_takes_is_refused_without_being_hashed() {
        let wallets = Wallets::over_rpc([], WalletChainList::default());
        let (short, long) = (question(65), question(8 << 20));
        assert_eq!((wallets.known(&short), wallets.known(&long)), (None, Some(false)));
        assert_eq!(wallets.ask(&long).await, Ok(false), "no endpoint is needed");
        assert_eq!(wallets.ask(&short).await, Err(WalletError::NoEndpoint(1)));
        let unlisted = WalletQuestion { chain_id: 84_532, ..long };
        assert_eq!(wallets.ask(&unlisted).await, Err(WalletError::UnknownChain(84_532)));
    }

    #[test]
    fn a_question_ends_where_a_chain_takes_no_more_code() {
        // 1792 bytes of the validator, 4 words before the signature, which fills words.
        let longest = (INIT_CODE_LEN_BYTES_MAX - 1792 - 4 * 32) / 32 * 32;
        assert!(longest > 40_000);
        assert!(code_that_asks(&question(longest)).is_some());
        assert_eq!(code_that_asks(&question(longest + 1)), None);
        assert_eq!(code_that_asks(&question(200_000)), None);
    }

    #[test]
    fn a_wallet_sees_the_same_call_whatever_the_defaults_of_an_endpoint() {
        let request = request_of(Bytes::from_static(&[1]));
        assert_eq!((request.from, request.gas), (Some(Address::ZERO), Some(16_777_216)));
        let prices = (request.gas_price, request.max_fee_per_gas, request.max_priority_fee_per_gas);
        assert_eq!(prices, (None, None, None));
    }

    #[test]
    fn the_newest_block_is_one_that_more_than_half_of_the_endpoints_have_reached() {
        let now_s = 1_800_000_000;
        let newest = |numbers: &[u64]| {
            let heads: Vec<_> = numbers.iter().map(|number| (*number, now_s)).collect();
            newest_together(&heads, now_s).map(|NewestBlock { reached, stated }| (reached, stated))
        };
        assert_eq!(newest(&[]), None);
        assert_eq!(newest(&[5]), Some((5, 5)));
        assert_eq!(newest(&[5, 6]), Some((5, 6)));
        assert_eq!(newest(&[6, u64::MAX, 5]), Some((6, u64::MAX)));
        assert_eq!(newest(&[0, 5, 6]), Some((5, 6)));
        assert_eq!(newest(&[8, 5, 7, 6]), Some((6, 8)));
        let behind_s = now_s - BEHIND_S_MAX;
        let stands_still = newest_together(&[(5, behind_s), (100, now_s)], now_s);
        assert_eq!(stands_still, Some(NewestBlock { reached: 100, stated: 100 }));
        let all_do = newest_together(&[(5, behind_s), (6, behind_s)], now_s);
        assert_eq!(all_do, Some(NewestBlock { reached: 5, stated: 6 }));
        // The chain has had no block for a while, and one of three endpoints invents some.
        let invented = newest_together(&[(5, behind_s), (1 << 60, now_s), (6, behind_s)], now_s);
        assert_eq!(invented, Some(NewestBlock { reached: 6, stated: 1 << 60 }));
    }

    #[test]
    fn endpoints_have_to_agree_on_an_answer_and_the_one_furthest_behind_tells_the_time() {
        let answer = |agrees| ChainReply::Answer { agrees, block_time_s: 9 };
        let (yes, no) = (answer(true), answer(false));
        let not_yet = |newest_time_s| EndpointReply::Reply(ChainReply::NotYet { newest_time_s });
        let together = |replies: &[EndpointReply]| together(replies, 2, 10);
        let (yes_reply, no_reply) = (EndpointReply::Reply(yes), EndpointReply::Reply(no));
        assert_eq!(together(&[yes_reply, yes_reply]), Some(yes));
        assert_eq!(together(&[yes_reply, no_reply]), None, "one of them lies");
        assert_eq!(together(&[no_reply, yes_reply, no_reply]), Some(no));
        let later = ChainReply::Answer { agrees: true, block_time_s: 10 };
        assert_eq!(together(&[yes_reply, EndpointReply::Reply(later)]), None);
        assert_eq!(together(&[no_reply]), Some(no), "the other one is silent");
        assert_eq!(together(&[not_yet(7), yes_reply]), None, "a block of the liar's own, perhaps");
        assert_eq!(together(&[yes_reply, not_yet(u64::MAX)]), None, "a time of its own, perhaps");
        let not_there = Some(ChainReply::NotYet { newest_time_s: 7 });
        assert_eq!(together(&[not_yet(7), yes_reply, not_yet(u64::MAX)]), not_there);
        assert_eq!(together(&[not_yet(7), EndpointReply::Odd]), None, "the other one has it");
        assert_eq!(together(&[not_yet(7), yes_reply, yes_reply]), Some(yes));
        let stands_still = super::together(&[not_yet(7), yes_reply], 2, 7 + BEHIND_S_MAX);
        assert_eq!(stands_still, Some(yes));
        let still_too = [not_yet(7), yes_reply, not_yet(8)];
        let invented = super::together(&still_too, 3, 8 + BEHIND_S_MAX);
        assert_eq!(invented, not_there, "the chain has had no block for a while");
        assert_eq!(together(&[EndpointReply::Odd, yes_reply]), None);
        let furthest_behind = ChainReply::NotYet { newest_time_s: 5 };
        assert_eq!(together(&[not_yet(7), not_yet(5)]), Some(furthest_behind));
        let unsupported = ChainReply::Answer { agrees: false, block_time_s: 0 };
        assert_eq!(together(&[EndpointReply::Odd, EndpointReply::Odd]), Some(unsupported));
        assert_eq!(together(&[EndpointReply::Odd]), None, "the other one may support it");
    }

    #[test]
    fn a_failed_call_is_an_answer_and_a_missing_block_is_not() {
        for message in [
            "execution reverted: SignatureValidator: deployment",
            "out of gas",
            "invalid opcode: INVALID",
            "stack underflow (0 <=> 2)",
            "EVM error: InvalidJump",
            "max initcode size exceeded",
        ] {
            assert!(is_given_up(&refused(-32000, message)), "{message}");
        }
        assert!(is_given_up(&refused(3, "")));
        for message in [
            "header not found",
            "missing trie node 00",
            "rate limit exceeded",
            "busy",
            "intrinsic gas too low",
            "exceeds block gas limit",
        ] {
            assert!(!is_given_up(&refused(-32000, message)), "{message}");
        }
    }
}
