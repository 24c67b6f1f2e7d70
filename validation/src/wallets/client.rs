//! The chains of contract wallets over RPC: asks a wallet, by `eth_call`, whether a signature is its
//! own (ERC-1271, ERC-6492).
//!
//! The call creates a contract whose constructor asks the wallet and returns the answer, so nothing
//! has to be deployed on the wallet's chain and any block can be asked. The contract calls a wallet
//! that is deployed; it first deploys one that is not, as the signature's wrapper says, inside the
//! call; an account with neither code nor wrapper is checked as a key.

use std::collections::BTreeMap;

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes, TxKind};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::SolValue;
use hawser_chain::contracts::artifact;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::send::{Chain, ConnectError, RequestError};
use hawser_mls::identity::WalletQuestion;

/// Why a contract wallet gave no answer. A later attempt may get one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// No endpoint of the wallet's chain is configured.
    #[error("no RPC endpoint is configured for chain {0}")]
    NoEndpoint(u64),
    /// No endpoint of the chain gave a usable answer.
    #[error("chain {chain_id} cannot be asked now: {reason}")]
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

    /// Returns the number of the newest block of a chain.
    ///
    /// # Errors
    /// When the chain has no endpoint or none answers.
    async fn newest_block(&self, chain_id: u64) -> Result<u64, WalletError>;

    /// Returns whether the wallet accepts the signature at the block of the question.
    ///
    /// # Errors
    /// When the chain has no endpoint, none answers, or none knows the state at that block.
    async fn ask(&self, question: &WalletQuestion) -> Result<bool, WalletError>;
}

/// Largest signature in bytes that is put to a wallet. A longer one does not fit into the code that
/// asks (EIP-3860 allows 49,152 bytes), so no wallet can accept it.
pub const SIGNATURE_LEN_BYTES_MAX: usize = 40_000;

/// Suffix of a wrapped signature: `6492` sixteen times (ERC-6492).
const WRAPPED: [u8; 32] = {
    let mut magic = [0; 32];
    let mut at = 0;
    while at < 32 {
        (magic[at], magic[at + 1]) = (0x64, 0x92);
        at += 2;
    }
    magic
};

/// RPC client for contract wallets. Every chain has its endpoints with failover.
#[derive(Debug, Default)]
pub struct WalletRpc {
    chains: BTreeMap<u64, Result<Endpoints, ConnectError>>,
}

impl WalletRpc {
    /// Takes pairs of chain id and URL; several URLs of one chain are used in their order. Connects
    /// on first use. A URL that cannot be used is logged and left out.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = (u64, String)>) -> Self {
        let mut urls: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for (chain_id, url) in endpoints {
            urls.entry(chain_id).or_default().push(url);
        }
        let chains = urls.into_iter().map(|(chain_id, urls)| (chain_id, usable(chain_id, urls)));
        Self { chains: chains.collect() }
    }

    fn endpoints(&self, chain_id: u64) -> Result<&Endpoints, WalletError> {
        let known = self.chains.get(&chain_id).ok_or(WalletError::NoEndpoint(chain_id))?;
        known
            .as_ref()
            .map_err(|error| WalletError::NoAnswer { chain_id, reason: error.to_string() })
    }
}

/// Keeps a chain whose URLs are all unusable, with the error: its updates wait, as they do when its
/// endpoints are down.
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

    async fn newest_block(&self, chain_id: u64) -> Result<u64, WalletError> {
        let endpoints = self.endpoints(chain_id)?;
        let asked = endpoints.ask_each(|chain| async move {
            let newest = chain.provider().get_block_number().await;
            newest.map_err(|error| chain.request_error("eth_blockNumber", error))
        });
        asked.await.map_err(no_answer(chain_id))
    }

    async fn ask(&self, question: &WalletQuestion) -> Result<bool, WalletError> {
        let endpoints = self.endpoints(question.chain_id)?;
        // One endpoint may have pruned a block, or not have it yet, that the next one knows.
        let asked = endpoints.ask_each(|chain| async move { ask(&chain, question).await });
        asked.await.map_err(no_answer(question.chain_id))
    }
}

fn no_answer(chain_id: u64) -> impl Fn(RequestError) -> WalletError {
    move |fault| WalletError::NoAnswer { chain_id, reason: fault.to_string() }
}

/// Asks a wallet of this chain.
///
/// # Errors
/// When the chain does not answer, or does not know the block.
pub async fn ask(chain: &Chain, question: &WalletQuestion) -> Result<bool, RequestError> {
    let Some(code) = code_that_asks(question) else { return Ok(false) };
    let request =
        TransactionRequest { to: Some(TxKind::Create), ..Default::default() }.input(code.into());
    let block = BlockId::number(question.block_number);
    let answer = chain.provider().call(request).block(block).await;
    let answer = answer.map_err(|error| chain.request_error("eth_call", error))?;
    match answer[..] {
        [agrees @ (0 | 1)] => Ok(agrees == 1),
        _ => Err(RequestError::Malformed {
            endpoint: chain.endpoint().to_owned(),
            method: "eth_call",
            reason: format!("{} bytes where one says yes or no", answer.len()),
        }),
    }
}

/// Returns the code whose constructor asks the wallet, or `None` if no wallet can accept the
/// signature.
fn code_that_asks(question: &WalletQuestion) -> Option<Bytes> {
    let check = artifact::named("WalletSignatureCheck").expect("it is one of the contracts");
    let given: Bytes = question.signature.clone().into();
    if given.len() > SIGNATURE_LEN_BYTES_MAX {
        return None;
    }
    let (wrapped, factory, factory_call, signature) = match given.strip_suffix(&WRAPPED) {
        Some(wrapped) => {
            let (factory, call, signature) =
                <(Address, Bytes, Bytes)>::abi_decode_params(wrapped).ok()?;
            (true, factory, call, signature)
        }
        None => (false, Address::ZERO, Bytes::new(), given.clone()),
    };
    let (wallet, digest) = (Address::from(question.address.0), B256::from(question.digest.0));
    let arguments = (wallet, digest, signature, wrapped, factory, factory_call);
    Some(check.init_code(&arguments))
}
