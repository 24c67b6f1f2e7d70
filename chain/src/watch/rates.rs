//! Reads the rate registry.

use std::time::SystemTime;

use alloy::eips::BlockId;
use alloy::primitives::{Address, U256};
use hawser_rules::{Rate, RateTable};

use super::WatchError;
use super::agreement::{self, AgreedReading};
use crate::contracts::RateRegistry;
use crate::endpoints::Endpoints;
use crate::send::Chain;

/// The number of entries per call. Guess: some 20 kB of return data, far below the limits of providers.
const PAGE: usize = 100;
/// The number of entries that a list may have. A guess: one change a day for 27 years. Bounds the calls and the memory
/// that an endpoint can demand by the length that it states.
const ENTRIES_MAX: usize = 10_000;

/// A list as an endpoint states it. Two are equal if their rates are.
struct ReadList {
    rates: Vec<Rate>,
    /// The time of the block at which it was read, unix seconds; 0 if the endpoint does not say.
    block_unix_s: u64,
}

impl PartialEq for ReadList {
    fn eq(&self, other: &Self) -> bool {
        self.rates == other.rates
    }
}

/// Reads the entries after the known entries, all at one block. `known_block` is the block of the last reading. The
/// contract only appends entries. So only the newest known entry is compared: if it is unchanged, all known entries
/// are. A list without this entry, as after a reorganisation, is a change like any other. It replaces nothing if it is
/// of an older block, or if most endpoints contradict it. A list that cannot be read completely is discarded. The table
/// is confirmed as of the time before the reading: a rate may come to the chain during it. It is complete as of the
/// block, because this machine's clock may be ahead, and the endpoint behind; at no time if as many endpoints have
/// another list.
pub(super) async fn read(
    endpoints: &Endpoints,
    address: Address,
    known: &[Rate],
    known_block: u64,
) -> Result<AgreedReading<RateTable>, WatchError> {
    let known = ReadList { rates: known.to_vec(), block_unix_s: 0 };
    let asked_at = SystemTime::now();
    // Before the first reading nothing is known, and an empty list is never read.
    let agreed = agreement::read(endpoints, Some((&known, known_block)), |chain, block| {
        read_at(chain, address, block, &known.rates)
    })
    .await?;
    let AgreedReading { value: mut list, block, contested_by, is_of_most } = agreed;
    if contested_by > 0 {
        list.block_unix_s = 0;
    }
    let value = table_of(list, asked_at, address)?;
    Ok(AgreedReading { value, block, contested_by, is_of_most })
}

/// Reads all entries once, for a caller that does not come again.
pub(super) async fn read_now(
    endpoints: &Endpoints,
    address: Address,
) -> Result<RateTable, WatchError> {
    let asked_at = SystemTime::now();
    let reading = |chain, block| read_at(chain, address, block, &[]);
    table_of(agreement::read_now(endpoints, reading).await?, asked_at, address)
}

/// Makes the table of a list that was asked for at this time.
fn table_of(
    list: ReadList,
    asked_at: SystemTime,
    address: Address,
) -> Result<RateTable, WatchError> {
    let table = RateTable::new(list.rates, Some(unix_ns(asked_at)));
    let table = table.map(|table| table.of_block(list.block_unix_s));
    table.map_err(|error| WatchError::Rates { address, reason: error.to_string() })
}

/// Reads the list of one endpoint at one block. Starts with the `known` entries if the newest of them is still in its
/// place. Otherwise the chain was reorganised, or the entry was made up, then or now: then the whole list is read.
async fn read_at(
    chain: Chain,
    address: Address,
    block: u64,
    known: &[Rate],
) -> Result<ReadList, WatchError> {
    let wrong = |reason: String| WatchError::Rates { address, reason };
    let at = BlockId::number(block);
    let count = chain.view_at(address, &RateRegistry::getRatesCountCall {}, at).await?;
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count <= ENTRIES_MAX)
        .ok_or_else(|| wrong(format!("has {count} entries, and at most {ENTRIES_MAX} are read")))?;
    if count == 0 {
        return Err(wrong("has no entries: the first one has to be set".into()));
    }
    let mut rates: Vec<Rate> = Vec::new();
    if let Some(newest) = known.len().checked_sub(1)
        && newest < count
        && entries_at(&chain, address, at, newest, 1).await? == known[newest..]
    {
        rates.extend_from_slice(known);
    }
    while rates.len() < count {
        let page = PAGE.min(count - rates.len());
        for rate in entries_at(&chain, address, at, rates.len(), page).await? {
            let (last, next) = (rates.last().map(|rate| rate.start_unix_s), rate.start_unix_s);
            if let Some(last) = last.filter(|last| *last >= next) {
                return Err(wrong(format!("has an entry from {next} on after one from {last} on")));
            }
            rates.push(rate);
        }
    }
    // Prices are used without the time as well: only verdicts on other nodes need it.
    let block_unix_s = chain.block_time(block).await.unwrap_or(0);
    Ok(ReadList { rates, block_unix_s })
}

/// Reads `count` entries of one endpoint's list from an index on.
async fn entries_at(
    chain: &Chain,
    address: Address,
    at: BlockId,
    from: usize,
    count: usize,
) -> Result<Vec<Rate>, WatchError> {
    let call =
        RateRegistry::getRatesCall { fromIndex_: U256::from(from), count_: U256::from(count) };
    let entries = chain.view_at(address, &call, at).await?;
    if entries.len() != count {
        let reason = format!("answers {} entries instead of {count}", entries.len());
        return Err(WatchError::Rates { address, reason });
    }
    Ok(entries.into_iter().map(Rate::from).collect())
}

fn unix_ns(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
