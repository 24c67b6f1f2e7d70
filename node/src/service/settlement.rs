//! Node registry and rate table of the settlement chain, read by node and gateway through one
//! reader, so that both see the same records.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::Address as ContractAddress;
use hawser_chain::admin::{Contract, Contracts};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::PushSettings;
use hawser_chain::send::ConnectError;
use hawser_chain::watch::{self as chain_watch, ListSnapshot, ListWatcher, WatchError};
use hawser_rules::{RateTable, Registry};
use hawser_serve::{ChainListStatus, ChainListsView};
use tokio::sync::{Notify, watch};

use crate::error::RunError;
use crate::files::deployment::KnownDeployment;
use crate::settings::ChainSettings;
use crate::settings::table::chains::flag_of;

/// Name of the chain with the registries, in logs and metrics.
pub(super) const SETTLEMENT: &str = "settlement";
/// The app chain's name in logs and metrics.
pub(super) const APP: &str = "app";
/// The shortest time between two requested reads of the rates: nodes that name unknown prices must
/// not make a gateway flood its RPC endpoint. A guess.
const REQUESTED_READ_EVERY: Duration = Duration::from_secs(1);

/// The reason a chain cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ChainSetupError {
    /// The addresses of the contracts cannot be found out.
    #[error(transparent)]
    Deployment(#[from] RunError),
    /// A URL is malformed.
    #[error(transparent)]
    Url(#[from] ConnectError),
    /// The address of a contract is not given.
    #[error(
        "the address of {contract} is not given: name the file with all addresses \
         (--contracts.config-file-path), or give --{}", flag_of(*.contract)
    )]
    NoAddress {
        /// The contract.
        contract: Contract,
    },
    /// The registry or the rates cannot be read.
    #[error("the settlement chain: {0}")]
    Watch(#[from] WatchError),
}

impl From<ChainSetupError> for RunError {
    fn from(error: ChainSetupError) -> Self {
        match error {
            ChainSetupError::Deployment(error) => error,
            ChainSetupError::Url(_) | ChainSetupError::NoAddress { .. } => Self::usage(error),
            ChainSetupError::Watch(_) => Self::failed(error),
        }
    }
}

/// Reads the registry and the rates of the settlement chain, or only the watched one of the two.
pub(super) struct SettlementReader {
    pub(super) endpoints: Endpoints,
    contracts: Contracts,
    refresh: RefreshIntervals,
    /// For each watched contract, the channel that asks for a read.
    notify: Vec<(ContractAddress, watch::Sender<u64>)>,
    pub(super) lists: SettlementLists,
}

struct RefreshIntervals {
    registry: Duration,
    rates: Duration,
}

/// The lists that are watched. They are read as long as this lives.
#[derive(Default)]
pub(super) struct SettlementLists {
    pub(super) registry: Option<ListWatcher<Registry>>,
    pub(super) rates: Option<ListWatcher<RateTable>>,
}

impl SettlementReader {
    /// Asks the chain nothing yet.
    ///
    /// # Errors
    /// Fails when a URL is malformed.
    pub(super) fn new(
        settings: &ChainSettings,
        deployment: &KnownDeployment,
    ) -> Result<Self, ChainSetupError> {
        let urls = &settings.contracts.settlement.urls;
        let endpoints = Endpoints::new(SETTLEMENT, urls, deployment.settlement_id)?;
        let refresh =
            RefreshIntervals { registry: settings.nodes_refresh, rates: settings.rates_refresh };
        Ok(Self {
            endpoints,
            contracts: deployment.contracts.clone(),
            refresh,
            notify: Vec::new(),
            lists: SettlementLists::default(),
        })
    }

    /// Reads the node registry now and from now on. Returns its contract's address.
    ///
    /// # Errors
    /// Fails when the address is not given, or the registry cannot be read now.
    pub(super) async fn watch_registry(&mut self) -> Result<ContractAddress, ChainSetupError> {
        let (address, notified) = self.notified(Contract::NodeRegistry)?;
        let every = self.refresh.registry;
        let watcher =
            chain_watch::registry(self.endpoints.clone(), address, every, notified).await?;
        self.lists.registry = Some(watcher);
        Ok(address)
    }

    /// Reads the rates now and from now on; also whenever `requested` is notified, at most once a
    /// second.
    ///
    /// # Errors
    /// Fails when the address is not given, or the rates cannot be read now.
    pub(super) async fn watch_rates(
        &mut self,
        requested: Option<Arc<Notify>>,
    ) -> Result<(), ChainSetupError> {
        let (address, notified) = self.notified(Contract::RateRegistry)?;
        if let (Some(requested), Some((_, notify))) = (requested, self.notify.last()) {
            tokio::spawn(forward_requests(requested, notify.clone()));
        }
        let every = self.refresh.rates;
        let watcher =
            chain_watch::rate_table(self.endpoints.clone(), address, every, notified).await?;
        self.lists.rates = Some(watcher);
        Ok(())
    }

    /// Settings with which the reader of the chain's events announces changes of the lists.
    pub(super) fn push_settings(&mut self, urls: Vec<String>) -> PushSettings {
        PushSettings { urls, notify: std::mem::take(&mut self.notify) }
    }

    fn notified(
        &mut self,
        contract: Contract,
    ) -> Result<(ContractAddress, watch::Receiver<u64>), ChainSetupError> {
        let address = address_of(&self.contracts, contract)?;
        let (notify, notified) = watch::channel(0);
        self.notify.push((address, notify));
        Ok((address, notified))
    }
}

/// Returns the address of a contract.
///
/// # Errors
/// Fails when it is not given.
pub(super) fn address_of(
    contracts: &Contracts,
    contract: Contract,
) -> Result<ContractAddress, ChainSetupError> {
    contracts.get(contract).ok_or(ChainSetupError::NoAddress { contract })
}

async fn forward_requests(requested: Arc<Notify>, notify: watch::Sender<u64>) {
    loop {
        requested.notified().await;
        notify.send_modify(|count| *count += 1);
        tokio::time::sleep(REQUESTED_READ_EVERY).await;
    }
}

impl SettlementLists {
    /// Returns a view of the reading that outlives it.
    pub(super) fn view(&self) -> ListSnapshots {
        ListSnapshots {
            registry: self.registry.as_ref().map(ListWatcher::subscribe),
            rates: self.rates.as_ref().map(ListWatcher::subscribe),
        }
    }
}

/// The last snapshots of the lists, for metrics and readiness.
#[derive(Default)]
pub(super) struct ListSnapshots {
    registry: Option<watch::Receiver<ListSnapshot<Registry>>>,
    rates: Option<watch::Receiver<ListSnapshot<RateTable>>>,
}

impl ChainListsView for ListSnapshots {
    fn lists(&self) -> Vec<ChainListStatus> {
        let registry =
            self.registry.as_ref().map(|snapshot| status("node_registry", &snapshot.borrow()));
        let rates = self.rates.as_ref().map(|snapshot| status("rate_registry", &snapshot.borrow()));
        registry.into_iter().chain(rates).collect()
    }
}

fn status<T>(name: &'static str, snapshot: &ListSnapshot<T>) -> ChainListStatus {
    ChainListStatus {
        name,
        age: snapshot.read_at.elapsed().unwrap_or_default(),
        failing_for: snapshot.failing_since.map(|since| since.elapsed()),
        fault: snapshot.error.clone(),
        failures: snapshot.failures,
    }
}
