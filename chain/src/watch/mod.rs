//! What the settlement chain says of the network as a whole, kept current: the nodes and the
//! prices. The first reading has to succeed; what is known stays known when a later one does not.

mod nodes;
mod rates;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use alloy::primitives::Address;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::endpoints::Endpoints;
use crate::send::ViewError;

pub use nodes::ChainNode;
pub use rates::ChainRate;

/// How soon it is read again what could not be read, if not sooner anyway.
const AGAIN: Duration = Duration::from_secs(10);

/// What was read, and when.
#[derive(Debug, Clone)]
pub struct Seen<T> {
    /// As it was read last.
    pub value: Arc<T>,
    /// When that was.
    pub read_at: SystemTime,
    /// Why it was not read since, if that was tried.
    pub fault: Option<String>,
    /// When that was tried first.
    pub failing_since: Option<Instant>,
    /// Readings that have failed since the start.
    pub failures: u64,
}

/// Why a list was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The contract was not read.
    #[error("{0}")]
    View(#[from] ViewError),
    /// What it says is no price list.
    #[error("the rate registry at {address} {fault}")]
    Rates {
        /// Where it is.
        address: Address,
        /// What is wrong.
        fault: String,
    },
}

/// What is kept current.
pub struct Watched<T> {
    seen: watch::Receiver<Seen<T>>,
    task: JoinHandle<()>,
}

impl<T> Watched<T> {
    /// Whoever wants to know.
    #[must_use]
    pub fn seen(&self) -> watch::Receiver<Seen<T>> {
        self.seen.clone()
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The node registry, read at once and then every `every`, or sooner when `nudge` changes.
///
/// # Errors
/// When it cannot be read now.
pub async fn nodes(
    endpoints: Endpoints,
    registry: Address,
    every: Duration,
    nudge: watch::Receiver<u64>,
) -> Result<Watched<Vec<ChainNode>>, WatchError> {
    let read = move |_: Option<Arc<Vec<ChainNode>>>| {
        let endpoints = endpoints.clone();
        async move { nodes::read(&endpoints, registry).await }
    };
    watched("node registry", every, nudge, read).await
}

/// The price list, read at once and then every `every`, or sooner when `nudge` changes: ascending
/// by start, and never empty.
///
/// # Errors
/// When it cannot be read now, or is none.
pub async fn rates(
    endpoints: Endpoints,
    registry: Address,
    every: Duration,
    nudge: watch::Receiver<u64>,
) -> Result<Watched<Vec<ChainRate>>, WatchError> {
    let read = move |known: Option<Arc<Vec<ChainRate>>>| {
        let endpoints = endpoints.clone();
        async move {
            let known = known.as_deref().map_or(&[][..], Vec::as_slice);
            rates::read(&endpoints, registry, known).await
        }
    };
    watched("rate registry", every, nudge, read).await
}

async fn watched<T, F, Fut>(
    what: &'static str,
    every: Duration,
    mut nudge: watch::Receiver<u64>,
    read: F,
) -> Result<Watched<T>, WatchError>
where
    T: Send + Sync + 'static,
    F: Fn(Option<Arc<T>>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T, WatchError>> + Send,
{
    let value = Arc::new(read(None).await?);
    let read_at = SystemTime::now();
    let first = Seen { value, read_at, fault: None, failing_since: None, failures: 0 };
    let (sender, seen) = watch::channel(first);
    let task = tokio::spawn(async move {
        let mut nudges = true;
        loop {
            let fails = sender.borrow().fault.is_some();
            let pause = if fails { every.min(AGAIN) } else { every };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = nudge.changed(), if nudges => nudges = changed.is_ok(),
                () = sender.closed() => return,
            }
            let known = sender.borrow().value.clone();
            let now = read(Some(known)).await;
            sender.send_modify(|seen| take(what, seen, now));
        }
    });
    Ok(Watched { seen, task })
}

fn take<T>(what: &str, seen: &mut Seen<T>, now: Result<T, WatchError>) {
    match now {
        Ok(value) => {
            if seen.fault.take().is_some() {
                tracing::info!("the {what} is read again");
            }
            seen.value = Arc::new(value);
            seen.read_at = SystemTime::now();
            seen.failing_since = None;
        }
        Err(error) => {
            if seen.fault.is_none() {
                tracing::warn!("the {what} cannot be read, what is known stays: {error}");
            }
            seen.fault = Some(error.to_string());
            seen.failing_since.get_or_insert_with(Instant::now);
            seen.failures += 1;
        }
    }
}
