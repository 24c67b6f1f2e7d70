//! Reads the rate registry.

use std::time::SystemTime;

use alloy::eips::BlockId;
use alloy::primitives::{Address, U256};
use hawser_rules::{Rate, RateTable};

use super::WatchError;
use crate::contracts::RateRegistry;
use crate::endpoints::Endpoints;
use crate::send::ViewError;

/// The number of entries per call. Guess: some 20 kB of return data, far below the limits of providers.
const PAGE: usize = 100;

/// Reads the entries after the known ones, all at one block, and returns them with its number. The contract only
/// appends entries. A list that cannot be read completely is discarded.
pub(super) async fn read(
    endpoints: &Endpoints,
    address: Address,
    known: &[Rate],
) -> Result<(RateTable, u64), WatchError> {
    let wrong = |reason: String| WatchError::Rates { address, reason };
    let count = endpoints.ask(|chain| async move {
        let block = chain.newest_block().await?;
        let call = RateRegistry::getRatesCountCall {};
        let count = chain.view_at(address, &call, BlockId::number(block)).await?;
        Ok::<_, ViewError>((count, block))
    });
    let (count, block) = count.await?;
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
        let entries = endpoints
            .ask(|chain| async move { chain.view_at(address, call, BlockId::number(block)).await });
        let entries = entries.await?;
        if entries.len() != page {
            return Err(wrong(format!("answers {} entries instead of {page}", entries.len())));
        }
        rates.extend(entries.iter().map(|entry| Rate {
            start_unix_s: entry.startTime,
            message_fee: entry.messageFee,
            storage_fee: entry.storageFee,
            congestion_fee: entry.congestionFee,
            target_rate_per_minute: entry.targetRatePerMinute,
        }));
    }
    if let Some(pair) = rates.windows(2).find(|pair| pair[0].start_unix_s >= pair[1].start_unix_s) {
        let (first, second) = (pair[0].start_unix_s, pair[1].start_unix_s);
        return Err(wrong(format!("has an entry from {second} on after one from {first} on")));
    }
    let table = RateTable::new(rates, Some(unix_ns(SystemTime::now())));
    table.map(|table| (table, block)).map_err(|error| wrong(error.to_string()))
}

fn unix_ns(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
