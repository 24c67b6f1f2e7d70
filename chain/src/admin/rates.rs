//! The rate registry: message prices, each with its start time.
//!
//! New rates are five parameters and a call that adopts them, so an interrupted run can leave only the parameters set.
//! A second run finds them and plans the rest. If one of them differs, one transaction sets all five: another
//! administrator may change one between the plan and the transaction, and the contract would adopt a mixture.

use alloy::eips::BlockId;
use alloy::primitives::{B256, U256};
use alloy::sol_types::SolError;
use hawser_rules::{PicoDollarPrice, PicoDollarsPerByteDay, Rate};

use super::{AdminError, Contract, Network, Plan, parameters};
use crate::contracts::parameter as names;
use crate::contracts::revert::Revert;
use crate::contracts::{RateRegistry, rate_registry};

/// Default time between adding rates and their start, in seconds. A guess: by then every node has read them.
pub const START_AFTER_SECONDS: u64 = 2 * 3600;
/// The largest distance of a start time from now, in seconds. A guess: a later one is taken for a time in another unit.
const YEAR_SECONDS: u64 = 366 * 24 * 3600;
/// The highest price, picodollars. Specified: nodes count amounts in signed 64-bit numbers, so at a higher price no
/// message has a fee, and none is taken.
pub(super) const PRICE_MAX: u64 = i64::MAX.unsigned_abs();
/// The highest target rate, in messages per minute. Specified: nodes read it as a signed 32-bit number.
pub(super) const TARGET_MAX: u64 = (1 << 31) - 1;

/// Entries read per call. Guess.
const PAGE: u64 = 100;
/// The largest number of entries that is read. A guess: one for each hour of a year. It bounds the work if a lying
/// endpoint returns entries without end.
const ENTRIES_MAX: u64 = 10_000;

/// The prices of a rate, without the time of its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prices {
    /// The fee per message.
    pub message_fee: PicoDollarPrice,
    /// The fee per byte and day of storage.
    pub storage_fee: PicoDollarsPerByteDay,
    /// The fee per unit of congestion.
    pub congestion_fee: PicoDollarPrice,
    /// The rate in messages per minute above which congestion begins; not a price.
    pub target_rate_per_minute: u64,
}

impl Prices {
    /// Returns the prices of a rate.
    #[must_use]
    pub fn of(rate: &Rate) -> Self {
        let Rate { message_fee, storage_fee, congestion_fee, target_rate_per_minute, .. } = *rate;
        Self { message_fee, storage_fee, congestion_fee, target_rate_per_minute }
    }

    /// Returns the rate of these prices that starts at a time, unix seconds.
    fn starting_at(self, start_unix_s: u64) -> Rate {
        let Self { message_fee, storage_fee, congestion_fee, target_rate_per_minute } = self;
        Rate { start_unix_s, message_fee, storage_fee, congestion_fee, target_rate_per_minute }
    }

    /// Returns the numbers of the contract: message fee, storage fee, congestion fee, target rate.
    pub(super) fn numbers(&self) -> [u64; 4] {
        let Self { message_fee, storage_fee, congestion_fee, target_rate_per_minute } = *self;
        [message_fee.0, storage_fee.0, congestion_fee.0, target_rate_per_minute]
    }
}

/// Returns all entries, oldest first.
///
/// # Errors
/// Fails when the registry cannot be read.
pub async fn list(network: &Network) -> Result<Vec<Rate>, AdminError> {
    Ok(list_at(network, BlockId::latest()).await?.0)
}

/// Returns all entries at the chain's newest block, oldest first, and the time of that block in unix seconds. The time
/// is `None` if the endpoint returns fewer entries than it counts, or counts more than are read.
///
/// # Errors
/// Fails when the registry or the block cannot be read.
pub async fn list_with_time(network: &Network) -> Result<(Vec<Rate>, Option<u64>), AdminError> {
    let block = network.settlement.newest_block().await?;
    let time_unix_s = network.settlement.block_time(block).await?;
    let (all, is_whole) = list_at(network, BlockId::number(block)).await?;
    Ok((all, is_whole.then_some(time_unix_s)))
}

/// Returns the entries at a block, and true if they are all that the endpoint counts there.
async fn list_at(network: &Network, block: BlockId) -> Result<(Vec<Rate>, bool), AdminError> {
    let counted = RateRegistry::getRatesCountCall {};
    let counted = network.view_at(Contract::RateRegistry, &counted, block).await?;
    let count = counted.saturating_to::<u64>().min(ENTRIES_MAX);
    let mut all = Vec::new();
    while let from = all.len() as u64
        && from < count
    {
        let page = RateRegistry::getRatesCall {
            fromIndex_: U256::from(from),
            count_: U256::from(PAGE.min(count - from)),
        };
        let page = network.view_at(Contract::RateRegistry, &page, block).await?;
        if page.is_empty() {
            break; // fewer entries than counted: never ask for ever
        }
        all.extend(page.into_iter().map(Rate::from));
    }
    let is_whole = counted == U256::from(all.len());
    Ok((all, is_whole))
}

/// Plans to add an entry. Without an explicit start, the prices begin at the start that an interrupted run has set, or
/// else [`START_AFTER_SECONDS`] from now.
///
/// `now` is the current time in unix seconds.
///
/// # Errors
/// [`AdminError`] if the contract would refuse the entry, the start is in the past or too far
/// ahead, no node could charge a price, or a registry cannot be read.
pub async fn add(
    network: &Network,
    prices: &Prices,
    start_time: Option<u64>,
    now: u64,
) -> Result<Plan, AdminError> {
    check_prices(prices)?;
    let last = list(network).await?.last().copied();
    if let Some(last) = last.filter(|last| Prices::of(last) == *prices) {
        if start_time.is_some_and(|start| start != last.start_unix_s) {
            return Err(would_revert(&RateRegistry::NoChange {}));
        }
        let since = last.start_unix_s;
        return Ok(Plan::nothing(format!("these are the newest rates already, from {since} on")));
    }
    let keys = names_of_all();
    let set = parameters::values(network, &keys).await?;
    let last_start = last.map(|last| last.start_unix_s);
    let start_time = match start_time {
        Some(start_time) => start_time,
        None => pending_start(prices, &set, last_start, now)
            .unwrap_or_else(|| default_start(last_start, now)),
    };
    check_start(start_time, last_start, now)?;
    let wanted = words(prices, start_time);
    let is_set = set[..] == wanted;
    let changes: Vec<_> = if is_set { Vec::new() } else { keys.into_iter().zip(wanted).collect() };
    let update = network.step(Contract::RateRegistry, &RateRegistry::updateRatesCall {})?;
    let [message_fee, storage_fee, congestion_fee, target_rate_per_minute] = prices.numbers();
    let note = format!(
        "from {start_time} (unix seconds) on: {message_fee} p$ a message, {storage_fee} p$ a byte \
         and day, {congestion_fee} p$ a unit of congestion above {target_rate_per_minute} messages \
         a minute"
    );
    Ok(parameters::setting(network, &changes)?.then(Plan::of([update])).note(note))
}

/// Returns the entry that any account can have the registry add behind `last`, by the parameters as they are set;
/// `None` if the registry would refuse it.
///
/// # Errors
/// Fails when the parameter registry cannot be read.
pub(super) async fn adoptable(network: &Network, last: &Rate) -> Result<Option<Rate>, AdminError> {
    Ok(adoptable_of(&parameters::values(network, &names_of_all()).await?, last))
}

/// Returns the entry that these parameters make; `None` if its prices are the last ones, it does not start after them,
/// or a number is too large.
fn adoptable_of(set: &[B256], last: &Rate) -> Option<Rate> {
    let number = |word: &B256| u64::try_from(U256::from_be_bytes(word.0)).ok();
    let numbers: Vec<u64> = set.iter().map(number).collect::<Option<_>>()?;
    let [message_fee, storage_fee, congestion_fee, target_rate_per_minute, start_time] =
        numbers[..]
    else {
        return None;
    };
    let prices = Prices {
        message_fee: PicoDollarPrice(message_fee),
        storage_fee: PicoDollarsPerByteDay(storage_fee),
        congestion_fee: PicoDollarPrice(congestion_fee),
        target_rate_per_minute,
    };
    let is_next = prices != Prices::of(last) && start_time > last.start_unix_s;
    is_next.then_some(prices.starting_at(start_time))
}

/// Returns the start time that an interrupted run has set together with the same prices.
fn pending_start(prices: &Prices, set: &[B256], last: Option<u64>, now: u64) -> Option<u64> {
    let start: u64 = U256::from_be_bytes(set.last()?.0).try_into().ok()?;
    let is_pending = words(prices, start)[..] == *set;
    (is_pending && start >= now && last.is_none_or(|last| start > last)).then_some(start)
}

fn default_start(last: Option<u64>, now: u64) -> u64 {
    let soon = now.saturating_add(START_AFTER_SECONDS);
    last.map_or(soon, |last| soon.max(last.saturating_add(1)))
}

/// Refuses prices that no node could charge, and a target rate that nodes would read as another one.
fn check_prices(prices: &Prices) -> Result<(), AdminError> {
    let [message_fee, storage_fee, congestion_fee, target] = prices.numbers();
    if target > TARGET_MAX {
        return Err(AdminError::TargetTooHigh { target });
    }
    let fees = [
        ("message fee", message_fee),
        ("storage fee", storage_fee),
        ("congestion fee", congestion_fee),
    ];
    match fees.into_iter().find(|(_, price)| *price > PRICE_MAX) {
        Some((what, price)) => Err(AdminError::PriceTooHigh { what, price }),
        None => Ok(()),
    }
}

fn check_start(start_time: u64, last: Option<u64>, now: u64) -> Result<(), AdminError> {
    match last {
        Some(last) if start_time <= last => {
            let error =
                RateRegistry::InvalidStartTime { startTime: start_time, lastStartTime: last };
            Err(would_revert(&error))
        }
        // The first entry may begin in the past: no message had a price before it.
        Some(_) if start_time < now => Err(AdminError::StartInPast { start_time, now }),
        _ if start_time > now.saturating_add(YEAR_SECONDS) => {
            Err(AdminError::StartTooFar { start_time, now })
        }
        _ => Ok(()),
    }
}

fn would_revert(error: &impl SolError) -> AdminError {
    let revert = Revert::decode(&error.abi_encode());
    AdminError::WouldRevert { contract: Contract::RateRegistry, revert }
}

/// Returns the parameter names in the order in which the contract reads them; the start time comes last.
fn names_of_all() -> [String; 5] {
    [
        names::RATE_REGISTRY_MESSAGE_FEE,
        names::RATE_REGISTRY_STORAGE_FEE,
        names::RATE_REGISTRY_CONGESTION_FEE,
        names::RATE_REGISTRY_TARGET_RATE_PER_MINUTE,
        names::RATE_REGISTRY_RATES_IN_EFFECT_AFTER,
    ]
    .map(str::to_owned)
}

fn words(prices: &Prices, start_time: u64) -> [B256; 5] {
    let [message_fee, storage_fee, congestion_fee, target_rate_per_minute] = prices.numbers();
    [message_fee, storage_fee, congestion_fee, target_rate_per_minute, start_time]
        .map(names::of_uint)
}

impl From<rate_registry::RateRegistry::Rates> for Rate {
    fn from(rates: rate_registry::RateRegistry::Rates) -> Self {
        Self {
            start_unix_s: rates.startTime,
            message_fee: PicoDollarPrice(rates.messageFee),
            storage_fee: PicoDollarsPerByteDay(rates.storageFee),
            congestion_fee: PicoDollarPrice(rates.congestionFee),
            target_rate_per_minute: rates.targetRatePerMinute,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICES: Prices = Prices {
        message_fee: PicoDollarPrice(1),
        storage_fee: PicoDollarsPerByteDay(2),
        congestion_fee: PicoDollarPrice(3),
        target_rate_per_minute: 4,
    };

    #[test]
    fn a_start_that_was_set_but_not_adopted_is_kept() {
        let set = words(&PRICES, 500);
        assert_eq!(pending_start(&PRICES, &set, Some(400), 450), Some(500));
        assert_eq!(pending_start(&PRICES, &set, None, 450), Some(500));
        assert_eq!(pending_start(&PRICES, &set, Some(500), 450), None, "it is not after the last");
        assert_eq!(pending_start(&PRICES, &set, Some(400), 501), None, "it is past");
        let other = Prices { message_fee: PicoDollarPrice(9), ..PRICES };
        assert_eq!(pending_start(&other, &set, Some(400), 450), None, "other prices were meant");
    }

    #[test]
    fn parameters_make_an_entry_that_the_registry_would_take() {
        let other = Prices { message_fee: PicoDollarPrice(9), ..PRICES };
        let last = other.starting_at(400);
        assert_eq!(adoptable_of(&words(&PRICES, 401), &last), Some(PRICES.starting_at(401)));
        assert_eq!(adoptable_of(&words(&PRICES, 400), &last), None, "it is not after the last");
        assert_eq!(adoptable_of(&words(&other, 401), &last), None, "a new time alone is no change");
        let mut set = words(&PRICES, 401);
        set[0] = B256::repeat_byte(1);
        assert_eq!(adoptable_of(&set, &last), None, "the registry takes 64 bits");
        assert_eq!(adoptable_of(&set[1..], &last), None, "an endpoint leaves one out");
    }

    #[test]
    fn prices_that_no_node_can_charge_are_refused_by_name() {
        let highest = Prices {
            message_fee: PicoDollarPrice(PRICE_MAX),
            storage_fee: PicoDollarsPerByteDay(PRICE_MAX),
            congestion_fee: PicoDollarPrice(PRICE_MAX),
            target_rate_per_minute: TARGET_MAX,
        };
        assert_eq!(check_prices(&highest), Ok(()));
        assert_eq!(check_prices(&Prices { target_rate_per_minute: 0, ..highest }), Ok(()));
        for target in [TARGET_MAX + 1, 1 << 32, (1 << 32) + 6000, u64::MAX] {
            let refused = check_prices(&Prices { target_rate_per_minute: target, ..highest });
            assert_eq!(refused, Err(AdminError::TargetTooHigh { target }));
        }
        let beyond = PRICE_MAX + 1;
        for (prices, what) in [
            (Prices { message_fee: PicoDollarPrice(beyond), ..PRICES }, "message fee"),
            (Prices { storage_fee: PicoDollarsPerByteDay(beyond), ..PRICES }, "storage fee"),
            (Prices { congestion_fee: PicoDollarPrice(u64::MAX), ..PRICES }, "congestion fee"),
        ] {
            let refused = check_prices(&prices).unwrap_err().to_string();
            assert!(refused.contains(what), "{refused}");
        }
    }

    #[test]
    fn the_start_is_after_the_last_one_and_not_in_the_past() {
        assert_eq!(default_start(Some(100), 1000), 1000 + START_AFTER_SECONDS);
        assert_eq!(default_start(Some(90_000), 1000), 90_001);
        let refused = |start, last| check_start(start, last, 1000).unwrap_err().to_string();
        assert_eq!(
            refused(5, Some(7)),
            "RateRegistry would revert: InvalidStartTime(startTime: 5, lastStartTime: 7)"
        );
        assert!(refused(999, Some(7)).contains("in the past"));
        assert!(refused(1_750_000_000_000, None).contains("seconds"));
        assert_eq!(check_start(0, None, 1000), Ok(()));
        assert_eq!(check_start(1000, Some(7), 1000), Ok(()));
    }
}
