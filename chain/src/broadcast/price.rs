//! What a unit of gas costs now.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, U256, address, bytes};
use alloy::providers::Provider as _;
use alloy::rpc::types::{TransactionInput, TransactionRequest};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::endpoints::Endpoints;
use crate::send::{Chain, RequestError};

/// Where Arbitrum chains say their prices.
const ARB_GAS_INFO: Address = address!("0x000000000000000000000000000000000000006C");
/// Which of the words of `getPricesInWei()` is the whole price of a unit of gas.
const WORD_OF_TOTAL: usize = 5;
const FRESH_FOR: Duration = Duration::from_millis(250);
const ASK_MAX: Duration = Duration::from_secs(2);
/// Until the chain has said anything, in wei: on Arbitrum chains, and on others.
const FALLBACK_ARBITRUM: u128 = 100_000_000;
const FALLBACK: u128 = 10_000_000_000;

/// The price, asked for when somebody needs it.
#[derive(Debug, Default)]
pub(super) struct GasPrice {
    is_arbitrum: OnceCell<bool>,
    known: Mutex<Option<(Instant, u128)>>,
    asking: tokio::sync::Mutex<()>,
}

impl GasPrice {
    /// Wei for a unit of gas, with a tenth more. Who asks while somebody else does gets the same
    /// answer; when there is none, the last one counts.
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
                if let Ok(mut known) = self.known.lock() {
                    *known = Some((Instant::now(), price));
                }
                price
            }
            Ok(Err(fault)) => {
                tracing::warn!(%fault, "the price of gas is not known");
                self.last()
            }
            Err(_) => self.last(),
        }
    }

    /// What was said last.
    pub(super) fn last(&self) -> u128 {
        let fallback =
            if self.is_arbitrum.get() == Some(&true) { FALLBACK_ARBITRUM } else { FALLBACK };
        self.known.lock().ok().and_then(|known| *known).map_or(fallback, |(_, price)| price)
    }

    fn fresh(&self) -> Option<u128> {
        let known = *self.known.lock().ok()?;
        known.filter(|(at, _)| at.elapsed() < FRESH_FOR).map(|(_, price)| price)
    }

    async fn ask(&self, chain: &Chain) -> Result<u128, RequestError> {
        let is_arbitrum = self.is_arbitrum.get_or_try_init(|| chain.has_code(ARB_GAS_INFO)).await?;
        if *is_arbitrum {
            return arbitrum(chain).await;
        }
        let price = chain.provider().get_gas_price().await;
        price.map_err(|error| chain.fault("eth_gasPrice", error))
    }
}

async fn arbitrum(chain: &Chain) -> Result<u128, RequestError> {
    let request = TransactionRequest {
        to: Some(ARB_GAS_INFO.into()),
        input: TransactionInput::new(bytes!("41b247a8")), // getPricesInWei()
        ..TransactionRequest::default()
    };
    let returned = chain.provider().call(request).await;
    let returned = returned.map_err(|error| chain.fault("eth_call", error))?;
    let word = returned.chunks_exact(32).nth(WORD_OF_TOTAL).map(U256::from_be_slice);
    word.and_then(|word| u128::try_from(word).ok()).ok_or_else(|| RequestError::Malformed {
        endpoint: chain.endpoint().to_owned(),
        method: "eth_call",
        reason: "getPricesInWei() does not return six numbers".to_owned(),
    })
}
