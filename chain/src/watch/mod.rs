//! Keeps values of the settlement chain up to date: the node registry and the rates, as types of `hawser_rules`, the
//! pause states of contracts, the balances of an account, and that of a payer.
//!
//! Nodes and gateways read through this module, so both see the same records. The first reading has to succeed, unless
//! the caller has the list of an earlier run. If a later one fails, the last value is kept, with the error.
//!
//! A reading at a lower block than the last one is refused, if no endpoint has that block. A single endpoint may state
//! a false block number, so no endpoint is paused for this, and the refusals end after a time: see `OLDER_AFTER`.
//!
//! A reading that changes a list needs more endpoints for the change than against it. A reading that changes nothing
//! must not have more endpoints against it than for it: see `agreement`.

mod agreement;
mod balances;
mod deposits;
mod newest;
mod node_url;
mod pauses;
mod rates;
mod registry;

pub use balances::{AccountBalances, BalanceReading, BalanceWatcher, WatchedAccount};
pub use deposits::DepositWatcher;
pub use node_url::{NodeUrlError, check_node_url};
pub use pauses::{PauseState, PauseWatcher};

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use alloy::primitives::Address;
use hawser_rules::{RateTable, Registry};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::endpoints::{EndpointError as _, Endpoints, is_endpoints_fault};
use crate::send::ViewError;

/// The shortest interval between two readings, if the settings ask for no shorter one. A WebSocket may announce changes
/// without end, and each reading costs every endpoint some calls. A guess: a change is in use within moments.
const NOTIFIED_EVERY: Duration = Duration::from_secs(1);
/// The longest interval between attempts while reading fails. Guess.
const RETRY_EVERY: Duration = Duration::from_secs(10);
/// The time without a successful reading after which a reading at a lower block is accepted, and the whole list is read
/// again: the last block number was false, or the endpoints that had that block are gone. A guess: longer than the
/// restart of an endpoint, short compared with the lifetime of a registry.
const OLDER_AFTER: Duration = Duration::from_secs(600);

/// The time for which a list of an earlier run counts as having failed when it comes into use. Longer than any limit:
/// it is not known what has changed since that run.
const OF_EARLIER_RUN: Duration = Duration::from_secs(365 * 24 * 3600);

/// The last successful reading of a list, with the outcome of later attempts.
#[derive(Debug, Clone)]
pub struct ListSnapshot<T> {
    /// The value of the last successful reading.
    pub value: Arc<T>,
    /// The block at whose state it was read. No reading at a lower block replaces it, unless
    /// readings have failed for ten minutes.
    pub block: u64,
    /// True if more than half of the endpoints said this at that reading, each host once. Otherwise the others were
    /// silent, or as many said otherwise.
    pub is_of_most: bool,
    /// The time of the last successful reading.
    pub read_at: SystemTime,
    /// The error of the last attempt; `None` if it succeeded.
    pub error: Option<String>,
    /// The time of the first failure since the last success.
    pub failing_since: Option<Instant>,
    /// The number of failed attempts since the start.
    pub failures: u64,
}

impl<T> ListSnapshot<T> {
    /// Returns true if the value is that of an earlier run, because no reading of this one has succeeded yet.
    #[must_use]
    pub fn is_of_earlier_run(&self) -> bool {
        self.failing_since.is_some_and(|since| since.elapsed() >= OF_EARLIER_RUN)
    }
}

/// A list that an earlier run has read.
#[derive(Debug, Clone)]
pub struct EarlierList<T> {
    /// The value.
    pub value: T,
    /// The time at which it was kept.
    pub kept_at: SystemTime,
}

/// Error of reading a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The call of the contract failed.
    #[error("{0}")]
    View(#[from] ViewError),
    /// The endpoint is behind the block of the last reading.
    #[error(
        "the endpoint is behind: its newest block is {found}, and block {known} was read before"
    )]
    Behind {
        /// The newest block of the endpoint.
        found: u64,
        /// The block of the last reading.
        known: u64,
    },
    /// The contract's list is not a valid list of rates.
    #[error("the rate registry at {address} {reason}")]
    Rates {
        /// The contract's address.
        address: Address,
        /// The violated property.
        reason: String,
    },
    /// The reading differs from the last reading. Other endpoints do not confirm the reading, or more of them have a
    /// newer one.
    #[error(
        "of the endpoints {for_it} say what was read at block {block}, and {against} say otherwise: an endpoint lies or \
         is behind, so look at each of them"
    )]
    Contradicted {
        /// The block of the reading.
        block: u64,
        /// The number of endpoints that state the value that was read.
        for_it: usize,
        /// Endpoints that state something else.
        against: usize,
    },
}

/// Keeps a list up to date until it is dropped.
pub struct ListWatcher<T> {
    snapshots: watch::Receiver<ListSnapshot<T>>,
    task: JoinHandle<()>,
}

impl<T> ListWatcher<T> {
    /// Returns a receiver of each new snapshot. It keeps the last one after the watcher is dropped.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<ListSnapshot<T>> {
        self.snapshots.clone()
    }
}

impl<T> Drop for ListWatcher<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches the node registry: reads it at once, then at the interval `every` and whenever `notify` changes, at most
/// once a second.
///
/// Records without a valid key, or whose id is not one of a node, are kept by their ids alone. An address that is no
/// URL of a node is left out of its record. If several records have the same key, at most one keeps its addresses.
///
/// # Errors
/// Fails when the registry cannot be read now.
pub async fn registry(
    endpoints: Endpoints,
    address: Address,
    every: Duration,
    notify: watch::Receiver<u64>,
) -> Result<ListWatcher<Registry>, WatchError> {
    registry_or(endpoints, address, every, notify, None).await
}

/// Watches the node registry like [`registry()`]. If it cannot be read now, it starts with that of an earlier run, as
/// if every reading since then had failed.
///
/// # Errors
/// Fails when the registry cannot be read now, and there is none of an earlier run.
pub async fn registry_or(
    endpoints: Endpoints,
    address: Address,
    every: Duration,
    notify: watch::Receiver<u64>,
    earlier: Option<EarlierList<Registry>>,
) -> Result<ListWatcher<Registry>, WatchError> {
    let attempts = endpoints.count();
    let read = move |known: Option<KnownList<Registry>>| {
        let endpoints = endpoints.clone();
        async move { registry::read(&endpoints, address, known.as_ref()).await }
    };
    let first = first_reading(attempts, &read).await;
    Ok(watch_list("node registry", every, notify, first_snapshot(first, earlier)?, read))
}

/// Watches the rates: reads them at once, then at the interval `every` and whenever `notify` changes, at most once a
/// second. Each table carries the time at which its reading began: see [`RateTable::refreshed_ns`].
///
/// # Errors
/// Fails when the list cannot be read now, is empty, or does not ascend by start.
pub async fn rate_table(
    endpoints: Endpoints,
    address: Address,
    every: Duration,
    notify: watch::Receiver<u64>,
) -> Result<ListWatcher<RateTable>, WatchError> {
    rate_table_or(endpoints, address, every, notify, None).await
}

/// Watches the rates like [`rate_table`]. If they cannot be read now, it starts with those of an earlier run, as if
/// every reading since then had failed.
///
/// # Errors
/// The errors of [`rate_table`], if there are no rates of an earlier run.
pub async fn rate_table_or(
    endpoints: Endpoints,
    address: Address,
    every: Duration,
    notify: watch::Receiver<u64>,
    earlier: Option<EarlierList<RateTable>>,
) -> Result<ListWatcher<RateTable>, WatchError> {
    let attempts = endpoints.count();
    let read = move |known: Option<KnownList<RateTable>>| {
        let endpoints = endpoints.clone();
        async move {
            let known_block = known.as_ref().map_or(0, |known| known.block);
            let known_rates = known.as_ref().map_or(&[][..], |known| known.value.rates());
            rates::read(&endpoints, address, known_rates, known_block).await
        }
    };
    let first = first_reading(attempts, &read).await;
    Ok(watch_list("rate registry", every, notify, first_snapshot(first, earlier)?, read))
}

/// Reads the node registry once: of several endpoints, more have to show it than others, also as of their own newest
/// blocks. A single endpoint is believed.
///
/// # Errors
/// The errors of [`registry()`], and [`WatchError::Contradicted`] also if as many endpoints say otherwise.
pub async fn registry_now(endpoints: &Endpoints, address: Address) -> Result<Registry, WatchError> {
    registry::read_now(endpoints, address).await
}

/// Reads the rates once: of several endpoints, more have to show them than others, also as of their own newest blocks.
/// A single endpoint is believed.
///
/// # Errors
/// The errors of [`rate_table`], and [`WatchError::Contradicted`] also if as many endpoints say otherwise.
pub async fn rates_now(endpoints: &Endpoints, address: Address) -> Result<RateTable, WatchError> {
    rates::read_now(endpoints, address).await
}

/// The last successful reading of a list, with which the next one is compared.
struct KnownList<T> {
    value: Arc<T>,
    block: u64,
}

/// Returns the snapshot of the first reading; of the list of an earlier run, if the reading has failed and there is
/// one.
fn first_snapshot<T>(
    first: Result<agreement::AgreedReading<T>, WatchError>,
    earlier: Option<EarlierList<T>>,
) -> Result<ListSnapshot<T>, WatchError> {
    match (first, earlier) {
        (Ok(first), _) => Ok(ListSnapshot {
            value: Arc::new(first.value),
            block: first.block,
            is_of_most: first.is_of_most,
            read_at: SystemTime::now(),
            error: None,
            failing_since: None,
            failures: 0,
        }),
        (Err(error), Some(EarlierList { value, kept_at })) => {
            let now = Instant::now();
            Ok(ListSnapshot {
                value: Arc::new(value),
                block: 0,
                is_of_most: false,
                read_at: kept_at,
                error: Some(error.to_string()),
                failing_since: Some(now.checked_sub(OF_EARLIER_RUN).unwrap_or(now)),
                failures: 1,
            })
        }
        (Err(error), None) => Err(error),
    }
}

fn watch_list<T, F, Fut>(
    name: &'static str,
    every: Duration,
    mut notify: watch::Receiver<u64>,
    first: ListSnapshot<T>,
    read: F,
) -> ListWatcher<T>
where
    T: Send + Sync + 'static,
    F: Fn(Option<KnownList<T>>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<agreement::AgreedReading<T>, WatchError>> + Send,
{
    let (sender, snapshots) = watch::channel(first);
    let task = tokio::spawn(async move {
        let mut is_notified = true;
        loop {
            // A change that is announced meanwhile has the list read afterwards.
            let rest = every.min(NOTIFIED_EVERY);
            tokio::time::sleep(rest).await;
            let is_failing = sender.borrow().error.is_some();
            let pause = if is_failing { every.min(RETRY_EVERY) } else { every };
            tokio::select! {
                () = tokio::time::sleep(pause.saturating_sub(rest)) => {}
                // A dropped sender ends the notifications, not the watcher.
                changed = notify.changed(), if is_notified => is_notified = changed.is_ok(),
                () = sender.closed() => return,
            }
            let failing = sender.borrow().failing_since.map(|since| since.elapsed());
            let block = sender.borrow().block;
            let known = (!may_be_older(failing))
                .then(|| KnownList { value: sender.borrow().value.clone(), block });
            let outcome = not_older(read(known).await, block, failing);
            sender.send_modify(|snapshot| update(name, snapshot, outcome));
        }
    });
    ListWatcher { snapshots, task }
}

/// Reads a list for the first time, in at most so many `attempts`. An answer that does not count has its endpoint
/// paused, so the next attempt asks another one: a start must not depend on the preferred endpoint.
async fn first_reading<T, F, Fut>(
    attempts: usize,
    read: &F,
) -> Result<agreement::AgreedReading<T>, WatchError>
where
    F: Fn(Option<KnownList<T>>) -> Fut,
    Fut: Future<Output = Result<agreement::AgreedReading<T>, WatchError>>,
{
    let is_silence = |error: &WatchError| error.request_error().is_some_and(is_endpoints_fault);
    for _ in 1..attempts {
        match read(None).await {
            // All endpoints were asked, and none answers.
            Err(error) if is_silence(&error) => return Err(error),
            Err(error) => tracing::debug!("another endpoint is asked: {error}"),
            first => return first,
        }
    }
    read(None).await
}

/// Returns true if readings have failed for so long that a reading at a lower block is accepted.
fn may_be_older(failing: Option<Duration>) -> bool {
    failing.is_some_and(|failing| failing >= OLDER_AFTER)
}

/// Refuses a reading older than the last one, unless readings have been failing for [`OLDER_AFTER`].
fn not_older<T>(
    outcome: Result<agreement::AgreedReading<T>, WatchError>,
    known: u64,
    failing: Option<Duration>,
) -> Result<agreement::AgreedReading<T>, WatchError> {
    match outcome {
        Ok(agreement::AgreedReading { block: found, .. })
            if found < known && !may_be_older(failing) =>
        {
            Err(WatchError::Behind { found, known })
        }
        outcome => outcome,
    }
}

fn update<T>(
    name: &str,
    snapshot: &mut ListSnapshot<T>,
    outcome: Result<agreement::AgreedReading<T>, WatchError>,
) {
    match outcome {
        Ok(reading) => {
            if snapshot.error.take().is_some() {
                tracing::info!("the {name} is read again");
            }
            snapshot.value = Arc::new(reading.value);
            (snapshot.block, snapshot.is_of_most) = (reading.block, reading.is_of_most);
            snapshot.read_at = SystemTime::now();
            snapshot.failing_since = None;
        }
        Err(error) => {
            if snapshot.error.is_none() {
                tracing::warn!(
                    "the {name} cannot be read from the chain, so its last state stays in use: {error}"
                );
            }
            snapshot.error = Some(error.to_string());
            snapshot.failing_since.get_or_insert_with(Instant::now);
            snapshot.failures += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn reading(value: &'static str, block: u64) -> agreement::AgreedReading<&'static str> {
        agreement::AgreedReading { value, block, contested_by: 0, is_of_most: true }
    }

    /// A WebSocket may announce logs of a contract without end.
    #[tokio::test(start_paused = true)]
    async fn changes_that_are_announced_without_end_cause_one_reading_a_second() {
        let hour = Duration::from_secs(3600);
        let (announced, notify) = watch::channel(0);
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let read = move |_: Option<KnownList<&'static str>>| {
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok::<_, WatchError>(reading("nodes", 7)))
        };
        let first = first_snapshot(read(None).await, None).unwrap();
        let _watcher = watch_list("list", hour, notify, first, read);
        for _ in 0..1000 {
            announced.send_modify(|count| *count += 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let count = count.load(Ordering::Relaxed);
        assert!((10..=12).contains(&count), "{count} readings in ten seconds");
    }

    /// Played by an endpoint that is away at the start, and answers later.
    #[tokio::test(start_paused = true)]
    async fn a_list_of_an_earlier_run_counts_as_failing_until_the_first_reading() {
        let away = || Err(WatchError::Behind { found: 1, known: 2 });
        assert!(first_snapshot::<&str>(away(), None).is_err());
        let earlier = EarlierList { value: "kept", kept_at: SystemTime::UNIX_EPOCH };
        let read = first_snapshot(Ok(reading("read", 7)), Some(earlier.clone())).unwrap();
        assert_eq!((*read.value, read.block, read.error), ("read", 7, None));
        let first = first_snapshot(away(), Some(earlier)).unwrap();
        assert_eq!((*first.value, first.block, first.is_of_most), ("kept", 0, false));
        assert!(first.error.is_some() && first.failures == 1);
        assert!(first.failing_since.unwrap().elapsed() >= OLDER_AFTER, "longer than any limit");
        assert!(first.is_of_earlier_run());
        let mut since_then = first_snapshot(Ok(reading("read", 7)), None).unwrap();
        update("list", &mut since_then, away());
        assert!(since_then.error.is_some() && !since_then.is_of_earlier_run());

        let (_announced, notify) = watch::channel(0);
        let answer = |_| std::future::ready(Ok::<_, WatchError>(reading("read", 7)));
        let hour = Duration::from_secs(3600);
        let watcher = watch_list("list", hour, notify, first, answer);
        let mut snapshots = watcher.subscribe();
        snapshots.changed().await.unwrap();
        let now = snapshots.borrow_and_update().clone();
        assert_eq!((*now.value, now.error, now.failing_since), ("read", None, None));
    }

    #[test]
    fn no_older_reading_replaces_a_newer_one() {
        for block in [7, 8] {
            let newer = reading("nodes", block);
            assert_eq!(not_older(Ok(newer.clone()), 7, None), Ok(newer));
        }
        let behind = WatchError::Behind { found: 6, known: 7 };
        let almost = Some(OLDER_AFTER - Duration::from_nanos(1));
        for failing in [None, Some(Duration::ZERO), almost] {
            assert_eq!(not_older(Ok(reading("nodes", 6)), 7, failing), Err(behind.clone()));
        }
        let mut snapshot = ListSnapshot {
            value: Arc::new("new"),
            block: 7,
            is_of_most: true,
            read_at: SystemTime::now(),
            error: None,
            failing_since: None,
            failures: 0,
        };
        update("list", &mut snapshot, not_older(Ok(reading("old", 6)), 7, None));
        assert_eq!((*snapshot.value, snapshot.block, snapshot.failures), ("new", 7, 1));
        assert_eq!(snapshot.error, Some(behind.to_string()));
    }

    #[test]
    fn a_block_that_was_made_up_holds_a_list_for_a_time_only() {
        let read_at = SystemTime::now();
        let mut snapshot = ListSnapshot {
            value: Arc::new("a lie"),
            block: u64::MAX,
            is_of_most: false,
            read_at,
            error: None,
            failing_since: None,
            failures: 0,
        };
        let honest = || Ok(reading("honest", 9));
        update("list", &mut snapshot, not_older(honest(), u64::MAX, None));
        assert_eq!((*snapshot.value, snapshot.block), ("a lie", u64::MAX));
        assert!(snapshot.failing_since.is_some(), "the time runs");
        update("list", &mut snapshot, not_older(honest(), u64::MAX, Some(OLDER_AFTER)));
        assert_eq!((*snapshot.value, snapshot.block, snapshot.error), ("honest", 9, None));
        assert_eq!(snapshot.failing_since, None);
    }
}
