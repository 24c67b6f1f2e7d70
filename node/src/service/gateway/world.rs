//! What a gateway is told of the network: registry and price list, from files or from the
//! settlement chain, read again and again. What cannot be taken is reported, and what was known
//! stays.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hawser_chain::admin::{self, Network};
use hawser_gateway::NodeRecord;
use hawser_proto::fees::{Rate, RateTable};
use hawser_proto::{OriginatorId, PublicKey};
use tokio::sync::{Notify, watch};

use crate::failure::Failure;
use crate::files::{self, rates, registry};

/// How often files are looked at.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// Whoever wants newer rates gets them, but not more often than this.
const RATES_AGAIN_AFTER: Duration = Duration::from_secs(1);

type Nodes = Arc<Vec<NodeRecord>>;

/// The registry of a file.
///
/// # Errors
/// When it cannot be read now.
pub(super) fn nodes_of_file(path: &Path) -> Result<watch::Receiver<Nodes>, Failure> {
    follow(path, |path| {
        let registry = files::read(path, registry::parse)?;
        let record = |record: &hawser_engine::ports::NodeRecord| NodeRecord {
            id: record.id,
            public_key: record.public_key,
            http_address: record.http_address.clone(),
            canonical: record.canonical,
        };
        Ok(registry.nodes().map(record).collect())
    })
}

/// The price list of a file.
///
/// # Errors
/// When it cannot be read now.
pub(super) fn rates_of_file(path: &Path) -> Result<watch::Receiver<Arc<RateTable>>, Failure> {
    follow(path, |path| Ok(files::read(path, rates::parse)?.confirmed(now_ns())))
}

/// Reads a file now, and again whenever it says something else.
fn follow<T: PartialEq + Send + Sync + 'static>(
    path: &Path,
    read: impl Fn(&Path) -> Result<T, Failure> + Send + 'static,
) -> Result<watch::Receiver<Arc<T>>, Failure> {
    let (sender, receiver) = watch::channel(Arc::new(read(path)?));
    let path: PathBuf = path.to_owned();
    tokio::spawn(async move {
        let mut complained = false;
        while !sender.is_closed() {
            tokio::time::sleep(POLL_EVERY).await;
            match read(&path) {
                Ok(new) => {
                    complained = false;
                    sender.send_if_modified(|known| {
                        let changed = **known != new;
                        if changed {
                            *known = Arc::new(new);
                        }
                        changed
                    });
                }
                Err(error) if !complained => {
                    complained = true;
                    tracing::error!(code = "file_ignored", "a file is not taken over: {error}");
                }
                Err(_) => {}
            }
        }
    });
    Ok(receiver)
}

/// The registry of the settlement chain.
///
/// # Errors
/// When it cannot be read now.
pub(super) async fn nodes_of_chain(
    network: Arc<Network>,
    every: Duration,
) -> Result<watch::Receiver<Nodes>, Failure> {
    let read = move || {
        let network = network.clone();
        async move {
            let records = admin::nodes::list(&network).await.map_err(Failure::failed)?;
            Ok(records.iter().filter_map(record).collect::<Vec<_>>())
        }
    };
    watched("node registry", every, Arc::new(Notify::new()), read).await
}

/// The price list of the settlement chain.
///
/// # Errors
/// When it cannot be read now.
pub(super) async fn rates_of_chain(
    network: Arc<Network>,
    every: Duration,
    wanted: Arc<Notify>,
) -> Result<watch::Receiver<Arc<RateTable>>, Failure> {
    let read = move || {
        let network = network.clone();
        async move {
            let asked_ns = now_ns();
            let entries = admin::rates::list(&network).await.map_err(Failure::failed)?;
            let rate = |entry: &admin::rates::Rates| Rate {
                start_unix_s: entry.start_time,
                message_fee: entry.prices.message_fee,
                storage_fee: entry.prices.storage_fee,
                congestion_fee: entry.prices.congestion_fee,
                target_rate_per_minute: entry.prices.target_rate_per_minute,
            };
            let rates = entries.iter().map(rate).collect();
            RateTable::new(rates, Some(asked_ns)).map_err(Failure::failed)
        }
    };
    watched("rate registry", every, wanted, read).await
}

/// Reads now, then every so often, and sooner when somebody wants it.
async fn watched<T, F>(
    what: &'static str,
    every: Duration,
    wanted: Arc<Notify>,
    read: impl Fn() -> F + Send + 'static,
) -> Result<watch::Receiver<Arc<T>>, Failure>
where
    T: Send + Sync + 'static,
    F: Future<Output = Result<T, Failure>> + Send,
{
    let first = read().await.map_err(|failure| failure.while_doing(what))?;
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = wanted.notified() => tokio::time::sleep(RATES_AGAIN_AFTER / 10).await,
                () = sender.closed() => return,
            }
            match read().await {
                Ok(new) => {
                    sender.send_replace(Arc::new(new));
                }
                Err(error) => {
                    tracing::warn!("the {what} cannot be read, what is known stays: {error}");
                    tokio::time::sleep(RATES_AGAIN_AFTER).await;
                }
            }
        }
    });
    Ok(receiver)
}

/// A record that can be used. Whoever registered another made a mistake, which is theirs.
fn record(node: &admin::nodes::NodeRecord) -> Option<NodeRecord> {
    let id = OriginatorId(node.node_id);
    let uri = node.http_address.parse::<http::Uri>().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty());
    let public_key = PublicKey::from_uncompressed(&node.signing_public_key);
    let Some(public_key) = public_key.filter(|_| id.is_node() && is_http) else {
        tracing::debug!(node_id = id.0, "a record of the node registry cannot be used");
        return None;
    };
    let http_address = node.http_address.clone();
    Some(NodeRecord { id, public_key, http_address, canonical: node.is_canonical })
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
