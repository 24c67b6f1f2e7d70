//! What a gateway is told of the network: registry and price list, from files or from the
//! settlement chain, read again and again. What cannot be taken is reported, and what was known
//! stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use alloy::primitives::Address as ContractAddress;
use hawser_chain::admin::{AdminError, Contract, Contracts};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{ChainReader, PushSettings};
use hawser_chain::watch::{self as chain_watch, ListWatcher, WatchError};
use hawser_gateway::{ListsView, NodeRecord};
use hawser_rules::{RateTable, Registry};
use hawser_serve::ChainListStatus;
use tokio::sync::{Notify, watch};

use crate::failure::Failure;
use crate::files::deployment::Deployment;
use crate::files::{self, rates, registry};
use crate::service::world::sights::Lists;
use crate::settings::ContractSettings;

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
        Ok(registry.nodes().map(record).collect())
    })
}

/// The price list of a file.
///
/// # Errors
/// When it cannot be read now.
pub(super) fn rates_of_file(path: &Path) -> Result<watch::Receiver<Arc<RateTable>>, Failure> {
    follow(path, |path| Ok(files::read(path, rates::parse)?.confirmed(unix_ns(SystemTime::now()))))
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

/// The settlement chain as a gateway reads it.
pub(super) struct Settlement {
    endpoints: Endpoints,
    contracts: Contracts,
    bells: Vec<(ContractAddress, watch::Sender<u64>)>,
    lists: Lists,
}

impl ListsView for Lists {
    fn lists(&self) -> Vec<ChainListStatus> {
        self.states()
    }
}

impl Settlement {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// When what was given as a URL is none.
    pub(super) fn new(config: &ContractSettings, deployment: &Deployment) -> Result<Self, Failure> {
        let (urls, id) = (&config.settlement.urls, deployment.settlement_id);
        let endpoints = Endpoints::new("settlement", urls, id).map_err(Failure::usage)?;
        let contracts = deployment.contracts.clone();
        Ok(Self { endpoints, contracts, bells: Vec::new(), lists: Lists::default() })
    }

    /// The node registry.
    ///
    /// # Errors
    /// When it cannot be read now.
    pub(super) async fn nodes(
        &mut self,
        every: Duration,
    ) -> Result<watch::Receiver<Nodes>, Failure> {
        let (address, bell) = self.bell(Contract::NodeRegistry)?;
        let watched = chain_watch::registry(self.endpoints.clone(), address, every, bell);
        let watched = watched.await.map_err(|error| settlement(&error))?;
        self.lists.nodes = Some(watched.subscribe());
        Ok(mapped(watched, |registry: &Registry| registry.nodes().map(record).collect()))
    }

    /// The price list.
    ///
    /// # Errors
    /// When it cannot be read now.
    pub(super) async fn rates(
        &mut self,
        every: Duration,
        wanted: Arc<Notify>,
    ) -> Result<watch::Receiver<Arc<RateTable>>, Failure> {
        let (address, bell) = self.bell(Contract::RateRegistry)?;
        if let Some((_, ring)) = self.bells.last() {
            tokio::spawn(ring_when_wanted(ring.clone(), wanted));
        }
        let watched = chain_watch::rate_table(self.endpoints.clone(), address, every, bell);
        let watched = watched.await.map_err(|error| settlement(&error))?;
        self.lists.rates = Some(watched.subscribe());
        Ok(mapped(watched, RateTable::clone))
    }

    fn bell(
        &mut self,
        contract: Contract,
    ) -> Result<(ContractAddress, watch::Receiver<u64>), Failure> {
        let address = self.contracts.get(contract).ok_or(AdminError::NoAddress(contract));
        let address = address.map_err(Failure::from)?;
        let (bell, rung) = watch::channel(0);
        self.bells.push((address, bell));
        Ok((address, rung))
    }

    /// Listens to the chain from now on, so that changes are read when they are made. Also tells
    /// how reading goes.
    pub(super) fn listen(self, push_urls: Vec<String>) -> (ChainReader, Arc<dyn ListsView>) {
        let news = PushSettings { urls: push_urls, notify: self.bells };
        (ChainReader::start(self.endpoints, news, Vec::new()), Arc::new(self.lists))
    }
}

async fn ring_when_wanted(ring: watch::Sender<u64>, wanted: Arc<Notify>) {
    loop {
        wanted.notified().await;
        ring.send_modify(|rung| *rung += 1);
        tokio::time::sleep(RATES_AGAIN_AFTER).await;
    }
}

/// Passes each new value on as the gateway holds it, until the receiver is dropped. A failed reading changes nothing.
fn mapped<T: Send + Sync + 'static, U: Send + Sync + 'static>(
    watched: ListWatcher<T>,
    map: impl Fn(&T) -> U + Send + 'static,
) -> watch::Receiver<Arc<U>> {
    let mut snapshots = watched.subscribe();
    let first = map(&snapshots.borrow_and_update().value);
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        let _reading = watched;
        while snapshots.changed().await.is_ok() {
            let new = {
                let snapshot = snapshots.borrow_and_update();
                snapshot.error.is_none().then(|| Arc::new(map(&snapshot.value)))
            };
            if let Some(new) = new {
                sender.send_replace(new);
            }
        }
    });
    receiver
}

fn settlement(error: &WatchError) -> Failure {
    Failure::failed(format!("the settlement chain: {error}"))
}

fn record(record: &hawser_rules::NodeRecord) -> NodeRecord {
    NodeRecord {
        id: record.id,
        public_key: record.public_key,
        http_address: record.http_address.clone(),
        canonical: record.canonical,
    }
}

fn unix_ns(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
