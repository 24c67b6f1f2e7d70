//! The price list.

use alloy::primitives::{Address, U256};

use super::WatchError;
use crate::contracts::RateRegistry;
use crate::endpoints::Endpoints;

/// Entries in one answer.
const PAGE: usize = 100;

/// One entry of the price list, in force from its start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainRate {
    /// Unix seconds.
    pub start_time_s: u64,
    /// Picodollars for each message.
    pub message_fee: u64,
    /// Picodollars for each byte and day.
    pub storage_fee: u64,
    /// Picodollars for each unit of congestion.
    pub congestion_fee: u64,
    /// Messages a minute above which there is congestion.
    pub target_rate_per_minute: u64,
}

/// Reads what is not known yet. Nothing is kept of a list that could not be read to its end.
pub(super) async fn read(
    endpoints: &Endpoints,
    address: Address,
    known: &[ChainRate],
) -> Result<Vec<ChainRate>, WatchError> {
    let wrong = |fault: String| WatchError::Rates { address, fault };
    let count = endpoints
        .ask(|chain| async move { chain.view(address, &RateRegistry::getRatesCountCall {}).await });
    let count = count.await?;
    let count = usize::try_from(count).map_err(|_| wrong(format!("has {count} entries")))?;
    if count == 0 {
        return Err(wrong("has no entries: the first one has to be set".into()));
    }
    if count < known.len() {
        return Err(wrong(format!("has {count} entries and had {} before", known.len())));
    }
    let mut rates = known.to_vec();
    while rates.len() < count {
        let page = PAGE.min(count - rates.len());
        let call = RateRegistry::getRatesCall {
            fromIndex_: U256::from(rates.len()),
            count_: U256::from(page),
        };
        let call = &call;
        let entries = endpoints.ask(|chain| async move { chain.view(address, call).await }).await?;
        if entries.len() != page {
            return Err(wrong(format!("answers {} entries instead of {page}", entries.len())));
        }
        rates.extend(entries.iter().map(|entry| ChainRate {
            start_time_s: entry.startTime,
            message_fee: entry.messageFee,
            storage_fee: entry.storageFee,
            congestion_fee: entry.congestionFee,
            target_rate_per_minute: entry.targetRatePerMinute,
        }));
    }
    match rates.windows(2).find(|pair| pair[0].start_time_s >= pair[1].start_time_s) {
        Some(pair) => {
            let (first, second) = (pair[0].start_time_s, pair[1].start_time_s);
            Err(wrong(format!("has an entry from {second} on after one from {first} on")))
        }
        None => Ok(rates),
    }
}
