//! The current gas price.

use std::time::{Duration, Instant};

use alloy::primitives::{Address, U256, address, bytes};
use alloy::providers::Provider as _;
use alloy::rpc::types::{TransactionInput, TransactionRequest};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::endpoints::Endpoints;
use crate::send::{Chain, RequestError};

/// The precompiled contract in which Arbitrum chains publish their prices (`ArbGasInfo`).
const ARB_GAS_INFO: Address = address!("0x000000000000000000000000000000000000006C");
/// The index of the total price per unit of gas in the return value of `getPricesInWei()`.
const WORD_OF_TOTAL: usize = 5;
/// Age up to which a price is used without another request: the block time of Arbitrum chains.
const FRESH_FOR: Duration = Duration::from_millis(250);
/// The time limit of the request, after which the last known price is used. Guess.
const ASK_MAX: Duration = Duration::from_secs(2);
/// Prices before the first response, in wei: on Arbitrum chains, and on others. Guesses well above
/// the usual prices.
const FALLBACK_ARBITRUM: u128 = 100_000_000;
const FALLBACK: u128 = 10_000_000_000;

/// The gas price, requested when a transaction needs it.
#[derive(Debug, Default)]
pub(super) struct GasPrice {
    is_arbitrum: OnceCell<bool>,
    known: Mutex<Option<(Instant, u128)>>,
    asking: tokio::sync::Mutex<()>,
}

impl GasPrice {
    /// Returns the price in wei per unit of gas plus a tenth. Concurrent callers share one request. If it
    /// fails, the last known price is used.
    pub(super) async fn current(&self, endpoints: &Endpoints) -> u128 {
        if let Some(fresh) = self.fresh() {
            return fresh;
        }
        let _asking = self.asking.lock().await;
        if let Some(fresh) = self.fresh() {
            return fresh;
        }
        let asked = endpoints.ask(|chain| async move { self.ask(&chain).await });
        match timeout(ASK_MAX, asked).await {
            Ok(Ok(price)) => {
                let price = price.saturating_add(price / 10).max(1);
                *self.known.lock() = Some((Instant::now(), price));
                price
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the price of gas cannot be read");
                self.last()
            }
            Err(_) => self.last(),
        }
    }

    /// Returns the last known price, without a request.
    pub(super) fn last(&self) -> u128 {
        let fallback =
            if self.is_arbitrum.get() == Some(&true) { FALLBACK_ARBITRUM } else { FALLBACK };
        self.known.lock().map_or(fallback, |(_, price)| price)
    }

    fn fresh(&self) -> Option<u128> {
        let known = *self.known.lock();
        known.filter(|(at, _)| at.elapsed() < FRESH_FOR).map(|(_, price)| price)
    }

    async fn ask(&self, chain: &Chain) -> Result<u128, RequestError> {
        let is_arbitrum = self.is_arbitrum.get_or_try_init(|| chain.has_code(ARB_GAS_INFO)).await?;
        if *is_arbitrum {
            return arbitrum(chain).await;
        }
        let price = chain.provider().get_gas_price().await;
        price.map_err(|error| chain.request_error("eth_gasPrice", error))
    }
}

async fn arbitrum(chain: &Chain) -> Result<u128, RequestError> {
    let request = TransactionRequest {
        to: Some(ARB_GAS_INFO.into()),
        input: TransactionInput::new(bytes!("41b247a8")), // getPricesInWei()
        ..TransactionRequest::default()
    };
    let returned = chain.provider().call(request).await;
    let returned = returned.map_err(|error| chain.request_error("eth_call", error))?;
    let word = returned.chunks_exact(32).nth(WORD_OF_TOTAL).map(U256::from_be_slice);
    word.and_then(|word| u128::try_from(word).ok()).ok_or_else(|| RequestError::Malformed {
        endpoint: chain.endpoint().to_owned(),
        method: "eth_call",
        reason: "the gas oracle's getPricesInWei() did not return six numbers".to_owned(),
    })
}
