//! Contract wallets: asking one, by `eth_call`, whether a signature is its own (ERC-1271, ERC-6492).
//!
//! The question is a contract that answers while it is being created, so nothing has to be deployed
//! on the wallet's chain and any block can be asked. A wallet that is deployed is asked itself; one
//! that is not yet is first deployed as the signature's wrapper says, inside the call; an account
//! with neither code nor wrapper has a key.

use std::collections::BTreeMap;
use std::fmt;

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes, TxKind};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::SolValue;
use tokio::sync::OnceCell;

use crate::contracts::artifact;
use crate::send::{Chain, ConnectError, RequestError};

/// The last bytes of a wrapped signature (ERC-6492).
const WRAPPED: [u8; 32] = {
    let mut magic = [0; 32];
    let mut at = 0;
    while at < 32 {
        (magic[at], magic[at + 1]) = (0x64, 0x92);
        at += 2;
    }
    magic
};

/// Longer signatures do not fit into the code that asks (EIP-3860), so no wallet can agree to one.
pub const SIGNATURE_LEN_BYTES_MAX: usize = 40_000;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletQuery {
    /// The wallet.
    pub wallet: Address,
    /// What should have been signed.
    pub digest: B256,
    /// What it should have been signed with, as it came.
    pub signature: Bytes,
    /// At which block; `None` for the newest.
    pub block_number: Option<u64>,
}

/// What the wallet said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalletAnswer {
    /// Whether the signature is its own.
    pub agrees: bool,
    /// The block at which it was asked.
    pub block_number: u64,
}

/// Why there is no answer. There may be one later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// The chain has no endpoint.
    #[error("no RPC endpoint is configured for chain {0}")]
    NoEndpoint(u64),
    /// No endpoint could be used. What the last of them said.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No endpoint answered. What the last of them said.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

/// The chains whose wallets can be asked.
#[derive(Debug, Default)]
pub struct WalletChains {
    chains: BTreeMap<u64, Vec<Endpoint>>,
}

/// One way to reach a chain, reached when it is first needed.
struct Endpoint {
    url: String,
    chain: OnceCell<Chain>,
}

/// URLs hold keys of providers.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({:?})", self.chain.get())
    }
}

impl WalletChains {
    /// Pairs of chain id and URL. Several URLs of one chain are tried in their order.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = (u64, String)>) -> Self {
        let mut chains: BTreeMap<u64, Vec<Endpoint>> = BTreeMap::new();
        for (chain_id, url) in endpoints {
            let endpoint = Endpoint { url, chain: OnceCell::new() };
            chains.entry(chain_id).or_default().push(endpoint);
        }
        Self { chains }
    }

    /// The chains that have an endpoint.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.chains.keys().copied()
    }

    /// Asks a wallet of chain `chain_id`.
    ///
    /// # Errors
    /// When none of the chain's endpoints answers, or none is known.
    pub async fn ask(
        &self,
        chain_id: u64,
        query: &WalletQuery,
    ) -> Result<WalletAnswer, WalletError> {
        let mut failed = WalletError::NoEndpoint(chain_id);
        for endpoint in self.chains.get(&chain_id).into_iter().flatten() {
            match endpoint.ask(chain_id, query).await {
                Ok(answer) => return Ok(answer),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// The number of the newest block of chain `chain_id`.
    ///
    /// # Errors
    /// When none of the chain's endpoints answers, or none is known.
    pub async fn newest(&self, chain_id: u64) -> Result<u64, WalletError> {
        let mut failed = WalletError::NoEndpoint(chain_id);
        for endpoint in self.chains.get(&chain_id).into_iter().flatten() {
            match endpoint.newest(chain_id).await {
                Ok(number) => return Ok(number),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

impl Endpoint {
    async fn chain(&self, chain_id: u64) -> Result<&Chain, ConnectError> {
        self.chain.get_or_try_init(|| Chain::connect(&self.url, chain_id)).await
    }

    async fn ask(&self, chain_id: u64, query: &WalletQuery) -> Result<WalletAnswer, WalletError> {
        Ok(ask(self.chain(chain_id).await?, query).await?)
    }

    async fn newest(&self, chain_id: u64) -> Result<u64, WalletError> {
        Ok(newest(self.chain(chain_id).await?).await?)
    }
}

/// Asks a wallet of this chain.
///
/// # Errors
/// When the chain does not answer, or does not know the block.
pub async fn ask(chain: &Chain, query: &WalletQuery) -> Result<WalletAnswer, RequestError> {
    let block_number = match query.block_number {
        Some(number) => number,
        None => newest(chain).await?,
    };
    let Some(code) = question(query) else {
        return Ok(WalletAnswer { agrees: false, block_number });
    };
    let request =
        TransactionRequest { to: Some(TxKind::Create), ..Default::default() }.input(code.into());
    let answer = chain.provider().call(request).block(BlockId::number(block_number)).await;
    let answer = answer.map_err(|error| chain.fault("eth_call", error))?;
    match answer[..] {
        [agrees @ (0 | 1)] => Ok(WalletAnswer { agrees: agrees == 1, block_number }),
        _ => Err(RequestError::Malformed {
            endpoint: chain.endpoint().to_owned(),
            method: "eth_call",
            reason: format!("{} bytes where one says yes or no", answer.len()),
        }),
    }
}

async fn newest(chain: &Chain) -> Result<u64, RequestError> {
    let newest = chain.provider().get_block_number().await;
    newest.map_err(|error| chain.fault("eth_blockNumber", error))
}

/// The code that asks, or `None` if no wallet can agree.
fn question(query: &WalletQuery) -> Option<Bytes> {
    let check = artifact::named("WalletSignatureCheck").expect("it is one of the contracts");
    if query.signature.len() > SIGNATURE_LEN_BYTES_MAX {
        return None;
    }
    let (wrapped, factory, factory_call, signature) = match query.signature.strip_suffix(&WRAPPED) {
        Some(wrapped) => {
            let (factory, call, signature) =
                <(Address, Bytes, Bytes)>::abi_decode_params(wrapped).ok()?;
            (true, factory, call, signature)
        }
        None => (false, Address::ZERO, Bytes::new(), query.signature.clone()),
    };
    let arguments = (query.wallet, query.digest, signature, wrapped, factory, factory_call);
    Some(check.init_code(&arguments))
}
