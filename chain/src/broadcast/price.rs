//! The current gas price. If several endpoints state one, no single endpoint decides it: see `crate::prices`.
//!
//! A transaction is signed at the lower median of the prices that endpoints state. The replacement of a transaction
//! that was too cheap or is stuck is signed at the upper median. The two medians differ only if the number of endpoints
//! is even. So with two endpoints a lie delays a transaction, and does not keep it from being mined. If the invented
//! price is too low, the replacement has the honest endpoint's price. If it is too high, only replacements have it, and
//! only up to the ceiling.
//!
//! A price of the last seconds is used at once and read again in the background, so that an endpoint that hangs delays
//! no transaction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, U256, address, bytes};
use alloy::providers::Provider as _;
use alloy::rpc::types::{TransactionInput, TransactionRequest};
use parking_lot::Mutex;

use super::outcome::{GasPriceReading, GasPriceReadings};
use crate::admin::WeiPerGas;
use crate::clock::now_unix_s;
use crate::endpoints::Endpoints;
use crate::prices::{self, MedianPrices};
use crate::send::{Chain, RequestError};

/// The precompiled contract in which Arbitrum chains publish their prices (`ArbGasInfo`).
const ARB_GAS_INFO: Address = address!("0x000000000000000000000000000000000000006C");
/// The index of the total price per unit of gas in the return value of `getPricesInWei()`.
const WORD_OF_TOTAL: usize = 5;
/// Age up to which a price is used without another request: the block time of Arbitrum chains.
const FRESH_FOR: Duration = Duration::from_millis(250);
/// Age up to which a price is used while it is read again. A guess: prices change little within it, and it is longer
/// than [`ASK_MAX`], the wait for an endpoint that hangs.
const USED_FOR: Duration = Duration::from_secs(10);
/// The time limit for an endpoint to state its price. If none does, the last known price is used. Guess.
const ASK_MAX: Duration = Duration::from_secs(2);
/// Prices before the first response: on Arbitrum chains, and on others. Guesses well above the usual prices.
const FALLBACK_ARBITRUM: WeiPerGas = WeiPerGas(100_000_000);
const FALLBACK: WeiPerGas = WeiPerGas(10_000_000_000);

/// The gas price, requested when a transaction needs it.
#[derive(Debug, Default)]
pub(super) struct GasPrice {
    /// True for an endpoint that serves the contract of Arbitrum chains, by host and port. Each is asked, because one
    /// may lie.
    is_arbitrum: Mutex<BTreeMap<String, bool>>,
    /// The last prices, with a tenth added.
    known: Mutex<Option<(Instant, MedianPrices)>>,
    readings: Mutex<GasPriceReadings>,
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl GasPrice {
    /// Returns the prices plus a tenth. Those of the last seconds are returned without a wait, and read again in the
    /// background. Concurrent callers share the requests. If they fail, the last known prices are used.
    pub(super) async fn current(self: &Arc<Self>, endpoints: &Endpoints) -> MedianPrices {
        if let Some(fresh) = self.younger_than(FRESH_FOR) {
            return fresh;
        }
        if let Some(usable) = self.younger_than(USED_FOR) {
            self.read_later(endpoints);
            return usable;
        }
        let _asking = self.asking.lock().await;
        match self.younger_than(FRESH_FOR) {
            Some(fresh) => fresh,
            None => self.read(endpoints).await,
        }
    }

    /// Starts to read the prices, unless they are being read.
    fn read_later(self: &Arc<Self>, endpoints: &Endpoints) {
        let Ok(asking) = self.asking.clone().try_lock_owned() else { return };
        let (price, endpoints) = (self.clone(), endpoints.clone());
        tokio::spawn(async move {
            price.read(&endpoints).await;
            drop(asking);
        });
    }

    /// Reads the prices from the endpoints.
    async fn read(&self, endpoints: &Endpoints) -> MedianPrices {
        let asked = |chain: Chain| async move { self.ask(&chain).await };
        let stated = endpoints.each_until_majority(ASK_MAX, prices::GRACE, asked).await;
        let stated = stated.map(MedianPrices::of).unwrap_or_else(|error| {
            tracing::warn!(%error, "the price of gas cannot be read");
            None
        });
        let Some(stated) = stated else { return self.last_or_default() };
        self.count_read(stated.lower);
        let more = |WeiPerGas(price)| WeiPerGas(price.saturating_add(price / 10).max(1));
        let prices = MedianPrices { lower: more(stated.lower), upper: more(stated.upper) };
        *self.known.lock() = Some((Instant::now(), prices));
        prices
    }

    /// Returns the prices that were read, for metrics.
    pub(super) fn readings(&self) -> GasPriceReadings {
        *self.readings.lock()
    }

    fn count_read(&self, price: WeiPerGas) {
        let mut readings = self.readings.lock();
        readings.last = Some(GasPriceReading { unix_s: now_unix_s(), price });
        readings.read += 1;
    }

    /// Returns the last known prices after a request that has failed. Counts a use of the default.
    fn last_or_default(&self) -> MedianPrices {
        if self.known.lock().is_none() {
            self.readings.lock().defaults += 1;
        }
        self.last()
    }

    /// Returns the last known prices, without a request.
    pub(super) fn last(&self) -> MedianPrices {
        let known = *self.known.lock();
        known.map_or_else(|| self.fallback(), |(_, prices)| prices)
    }

    /// Sets the last known prices, which include the tenth.
    #[cfg(test)]
    pub(super) fn set(&self, prices: MedianPrices) {
        *self.known.lock() = Some((Instant::now(), prices));
    }

    fn fallback(&self) -> MedianPrices {
        let is_arbitrum = self.is_arbitrum.lock();
        let all_are = !is_arbitrum.is_empty() && is_arbitrum.values().all(|it| *it);
        let price = if all_are { FALLBACK_ARBITRUM } else { FALLBACK };
        MedianPrices { lower: price, upper: price }
    }

    fn younger_than(&self, age: Duration) -> Option<MedianPrices> {
        let known = *self.known.lock();
        known.filter(|(at, _)| at.elapsed() < age).map(|(_, prices)| prices)
    }

    async fn ask(&self, chain: &Chain) -> Result<WeiPerGas, RequestError> {
        let known = self.is_arbitrum.lock().get(chain.endpoint()).copied();
        let is_arbitrum = match known {
            Some(known) => known,
            None => chain.has_code(ARB_GAS_INFO).await?,
        };
        self.is_arbitrum.lock().insert(chain.endpoint().to_owned(), is_arbitrum);
        if is_arbitrum {
            return arbitrum(chain).await;
        }
        let price = chain.provider().get_gas_price().await;
        price.map(WeiPerGas).map_err(|error| chain.request_error("eth_gasPrice", error))
    }
}

async fn arbitrum(chain: &Chain) -> Result<WeiPerGas, RequestError> {
    let request = TransactionRequest {
        to: Some(ARB_GAS_INFO.into()),
        input: TransactionInput::new(bytes!("41b247a8")), // getPricesInWei()
        ..TransactionRequest::default()
    };
    let returned = chain.provider().call(request).await;
    let returned = returned.map_err(|error| chain.request_error("eth_call", error))?;
    let word = returned.chunks_exact(32).nth(WORD_OF_TOTAL).map(U256::from_be_slice);
    let price = word.and_then(|word| u128::try_from(word).ok()).map(WeiPerGas);
    price.ok_or_else(|| RequestError::Malformed {
        endpoint: chain.endpoint().to_owned(),
        method: "eth_call",
        reason: "the gas oracle's getPricesInWei() did not return six numbers".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::*;

    /// Starts an endpoint that answers as soon as `opens` is true: with chain id 7, and with 7 to each other question.
    async fn endpoint(opens: watch::Receiver<bool>) -> Endpoints {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut opens = opens.clone();
                tokio::spawn(async move {
                    let (mut part, mut text) = (vec![0; 4096], String::new());
                    while let Ok(len @ 1..) = stream.read(&mut part).await {
                        text += &String::from_utf8_lossy(&part[..len]);
                        let Some((_, body)) = text.split_once("\r\n\r\n") else { continue };
                        let Ok(asked) = serde_json::from_str::<Value>(body) else { continue };
                        text.clear();
                        if opens.wait_for(|opens| *opens).await.is_err() {
                            return;
                        }
                        let result = if asked["method"] == "eth_getCode" { "0x" } else { "0x7" };
                        let body = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result });
                        let body = body.to_string();
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}", body.len());
                        let answer = format!("{head}\r\n\r\n{body}");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Endpoints::new("app", &[url], 7).unwrap()
    }

    #[tokio::test]
    async fn a_price_of_the_last_seconds_is_used_at_once_and_read_again_meanwhile() {
        let opens = watch::Sender::new(false);
        let endpoints = endpoint(opens.subscribe()).await;
        let price = Arc::new(GasPrice::default());
        let known = MedianPrices { lower: WeiPerGas(70), upper: WeiPerGas(80) };
        *price.known.lock() = Some((Instant::now() - FRESH_FOR, known));
        for _ in 0..3 {
            // The endpoint hangs, and nothing waits for it.
            assert_eq!(price.current(&endpoints).now_or_never(), Some(known));
        }
        opens.send_replace(true);
        drop(price.asking.lock().await);
        assert_eq!(price.last(), MedianPrices { lower: WeiPerGas(7), upper: WeiPerGas(7) });
        assert_eq!(price.readings().read, 1, "the three shared one reading");
    }

    #[tokio::test]
    async fn a_price_that_cannot_be_read_is_a_counted_default_and_no_reading() {
        let dead = ["http://127.0.0.1:1".to_owned()];
        let endpoints = Endpoints::new("app", &dead, 1).unwrap();
        let price = Arc::new(GasPrice::default());
        assert_eq!(price.readings(), GasPriceReadings::default());
        let fallback = MedianPrices { lower: FALLBACK, upper: FALLBACK };
        assert_eq!(price.current(&endpoints).await, fallback);
        assert_eq!(price.readings(), GasPriceReadings { last: None, read: 0, defaults: 1 });

        // A price that was read before is used instead, however old.
        let old = Instant::now() - USED_FOR;
        let known = MedianPrices { lower: WeiPerGas(7), upper: WeiPerGas(8) };
        *price.known.lock() = Some((old, known));
        price.count_read(WeiPerGas(6));
        assert_eq!(price.current(&endpoints).await, known);
        let readings = price.readings();
        assert_eq!((readings.read, readings.defaults), (1, 1));
        assert_eq!(readings.last.map(|last| last.price), Some(WeiPerGas(6)));
    }
}
