//! Watches the balances of an account on one chain.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use alloy::eips::BlockId;
use alloy::primitives::Address;
use alloy::providers::Provider as _;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::newest::NewestReading;
use crate::admin::{MicroDollars, Wei};
use crate::contracts::FeeToken;
use crate::endpoints::Endpoints;
use crate::send::{Chain, ViewError};

/// The time between two readings. A guess: a balance lasts for days, and a request per minute costs an operator little.
const READ_EVERY: Duration = Duration::from_secs(60);

/// An account to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchedAccount {
    /// The account.
    pub address: Address,
    /// The fee token of its chain; `None` if the chain has none.
    pub fee_token: Option<Address>,
}

/// The balances of an account at one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountBalances {
    /// The balance of the chain's native token; larger balances saturate.
    pub native: Wei,
    /// The balance of the fee token; `None` if the chain has none, or if it could not be read. Larger balances than the
    /// contracts take saturate.
    pub fee_token: Option<MicroDollars>,
    /// The block at whose state both balances were read.
    pub block: u64,
    /// The time of the reading.
    pub read_at: SystemTime,
}

/// The last reading of an account, and the error of the last attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BalanceReading {
    /// The last successful reading; `None` before the first one. It is kept while readings fail.
    pub balances: Option<AccountBalances>,
    /// The error of the last attempt; `None` if it succeeded completely.
    pub error: Option<String>,
}

/// Keeps the balances of an account up to date until it is dropped. An endpoint can lie about them, so they are only
/// shown to the operator and decide nothing.
pub struct BalanceWatcher {
    account: WatchedAccount,
    reading: Arc<Mutex<BalanceReading>>,
    task: JoinHandle<()>,
}

impl BalanceWatcher {
    /// Starts to read. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(endpoints: Endpoints, account: WatchedAccount) -> Self {
        let reading = Arc::new(Mutex::new(BalanceReading::default()));
        let known = reading.clone();
        let mut newest = NewestReading::default();
        let task = tokio::spawn(async move {
            loop {
                let read = endpoints.ask(|chain| async move { read(&chain, account).await }).await;
                note(&mut known.lock(), &mut newest, read, Instant::now());
                tokio::time::sleep(READ_EVERY).await;
            }
        });
        Self { account, reading, task }
    }

    /// Returns the account's address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.account.address
    }

    /// Returns the last reading, without a request.
    #[must_use]
    pub fn reading(&self) -> BalanceReading {
        self.reading.lock().clone()
    }
}

impl Drop for BalanceWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A reading, with the error because of which it lacks the fee token.
type Read = (AccountBalances, Option<ViewError>);

/// Takes note of a reading. One at a lower block than that of the last one is a failure.
fn note(
    reading: &mut BalanceReading,
    newest: &mut NewestReading,
    read: Result<Read, ViewError>,
    now: Instant,
) {
    match read {
        Ok((balances, error)) => match newest.take(balances.block, now) {
            Ok(()) => {
                reading.balances = Some(balances);
                reading.error = error.map(|error| error.to_string());
            }
            Err(behind) => reading.error = Some(behind.to_string()),
        },
        Err(error) => reading.error = Some(error.to_string()),
    }
}

/// Reads both balances at the state of the newest block.
async fn read(chain: &Chain, account: WatchedAccount) -> Result<Read, ViewError> {
    let block = chain.newest_block().await?;
    let at = BlockId::number(block);
    let native = chain.provider().get_balance(account.address).block_id(at).await;
    let native = native.map_err(|error| chain.request_error("eth_getBalance", error))?;
    let (mut fee_token, mut fault) = (None, None);
    if let Some(token) = account.fee_token {
        let call = FeeToken::balanceOfCall { account: account.address };
        match chain.view_at(token, &call, at).await {
            Ok(balance) => fee_token = Some(MicroDollars::of_token(balance)),
            // Another endpoint may answer.
            Err(error @ ViewError::Rpc(_)) => return Err(error),
            // A wrong token address must not hide the native balance.
            Err(error) => fault = Some(error),
        }
    }
    let (native, read_at) = (Wei::of_chain(native), SystemTime::now());
    Ok((AccountBalances { native, fee_token, block, read_at }, fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_reading_leaves_the_last_one_and_says_why() {
        let (mut reading, mut newest) = (BalanceReading::default(), NewestReading::default());
        let mut note = |reading: &mut BalanceReading, read| {
            note(reading, &mut newest, read, Instant::now());
        };
        let balances = |wei| AccountBalances {
            native: Wei(wei),
            fee_token: None,
            block: 7,
            read_at: SystemTime::UNIX_EPOCH,
        };
        let no_code = || ViewError::NoCode { address: Address::ZERO, chain_id: 5 };
        note(&mut reading, Err(no_code()));
        assert_eq!((&reading.balances, reading.error.is_some()), (&None, true));
        note(&mut reading, Ok((balances(3), None)));
        assert_eq!(reading, BalanceReading { balances: Some(balances(3)), error: None });
        note(&mut reading, Err(no_code()));
        assert_eq!(reading.balances, Some(balances(3)));
        assert_eq!(reading.error, Some(no_code().to_string()));
        note(&mut reading, Ok((balances(4), Some(no_code()))));
        assert_eq!((&reading.balances, reading.error.is_some()), (&Some(balances(4)), true));
        note(&mut reading, Ok((AccountBalances { block: 6, ..balances(3) }, None)));
        assert_eq!(reading.balances, Some(balances(4)), "the endpoint is behind");
        assert!(reading.error.unwrap().contains("block 7 was read before"));
    }
}
