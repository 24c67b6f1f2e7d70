//! The node registry and the rates of the settlement chain, read by nodes and gateways through the same reader, so
//! that both see the same records.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::Address as ContractAddress;
use hawser_chain::admin::{Contract, Contracts};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::PushSettings;
use hawser_chain::send::ConnectError;
use hawser_chain::watch::{
    self as chain_watch, EarlierList, ListSnapshot, ListWatcher, WatchError,
};
use hawser_rules::fees::RATES_AGE_NS_MAX;
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

/// Error of setting up the reading of a chain.
#[derive(Debug, thiserror::Error)]
pub enum ChainSetupError {
    /// The addresses of the contracts cannot be determined.
    #[error(transparent)]
    Deployment(#[from] RunError),
    /// A URL is malformed.
    #[error(transparent)]
    Url(#[from] ConnectError),
    /// The address of a contract is missing.
    #[error(
        "the address of {contract} is not given: name the network (--contracts.environment) or the file with all \
         addresses (--contracts.config-file-path), or give --{}", flag_of(*.contract)
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
            // The settings may be right, and the endpoint wrong for a while. After a wrong setting the unit of systemd
            // does not start the node again.
            ChainSetupError::Watch(_) => Self::failed(error),
            ChainSetupError::Url(_) | ChainSetupError::NoAddress { .. } => Self::usage(error),
        }
    }
}

/// A reader of the node registry and the rates, or of one of them.
pub(super) struct SettlementReader {
    pub(super) endpoints: Endpoints,
    contracts: Contracts,
    refresh: RefreshIntervals,
    /// The channel that requests a read, for each watched contract.
    notify: Vec<(ContractAddress, watch::Sender<u64>)>,
    pub(super) lists: SettlementLists,
}

struct RefreshIntervals {
    registry: Duration,
    rates: Duration,
}

/// The watched lists. They are read while this value lives.
#[derive(Default)]
pub(super) struct SettlementLists {
    pub(super) registry: Option<ListWatcher<Registry>>,
    pub(super) rates: Option<ListWatcher<RateTable>>,
    limits: FailingLimits,
}

/// Times for which reads of the lists may fail.
#[derive(Debug, Clone, Copy, Default)]
struct FailingLimits {
    registry: Duration,
    rates: Duration,
}

impl FailingLimits {
    /// Returns the limits by these settings. The registry may drop a node at any time, so its limit is that of the
    /// chain.
    fn of(settings: &ChainSettings) -> Self {
        Self {
            registry: settings.settlement.disconnect_max,
            rates: rates_failing_max(settings.rates_refresh),
        }
    }
}

/// Returns the time for which reads of the rates may fail: they are good for an hour after their last read, and the
/// first read that fails comes an interval after it.
fn rates_failing_max(refresh: Duration) -> Duration {
    Duration::from_nanos(RATES_AGE_NS_MAX.unsigned_abs()).saturating_sub(refresh)
}

impl SettlementReader {
    /// Creates a reader without sending a request.
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
            lists: SettlementLists {
                limits: FailingLimits::of(settings),
                ..SettlementLists::default()
            },
        })
    }

    /// Starts to watch the node registry and reads it at once. If it cannot be read, the one of an earlier run is in
    /// use until it can. Returns its contract's address.
    ///
    /// # Errors
    /// Fails when the address is not given, or the registry cannot be read now and there is no earlier one.
    pub(super) async fn watch_registry(
        &mut self,
        earlier: Option<EarlierList<Registry>>,
    ) -> Result<ContractAddress, ChainSetupError> {
        let (address, notified) = self.notified(Contract::NodeRegistry)?;
        let every = self.refresh.registry;
        let endpoints = self.endpoints.clone();
        let watcher =
            chain_watch::registry_or(endpoints, address, every, notified, earlier).await?;
        self.lists.registry = Some(watcher);
        Ok(address)
    }

    /// Starts to watch the rates and reads them at once. If they cannot be read, those of an earlier run are in use
    /// until they can. They are also read whenever `requested` is notified, at most once a second.
    ///
    /// # Errors
    /// Fails when the address is not given, or the rates cannot be read now and there are no earlier ones.
    pub(super) async fn watch_rates(
        &mut self,
        requested: Option<Arc<Notify>>,
        earlier: Option<EarlierList<RateTable>>,
    ) -> Result<(), ChainSetupError> {
        let (address, notified) = self.notified(Contract::RateRegistry)?;
        if let (Some(requested), Some((_, notify))) = (requested, self.notify.last()) {
            tokio::spawn(forward_requests(requested, notify.clone()));
        }
        let every = self.refresh.rates;
        let endpoints = self.endpoints.clone();
        let watcher =
            chain_watch::rate_table_or(endpoints, address, every, notified, earlier).await?;
        self.lists.rates = Some(watcher);
        Ok(())
    }

    /// Returns the settings with which the chain's event reader announces changes of the lists.
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
    }
}

impl SettlementLists {
    /// Returns the error for which a list of an earlier run is in use; `None` if all were read in this one.
    pub(super) fn unread(&self) -> Option<String> {
        unread(self.registry.as_ref()).or_else(|| unread(self.rates.as_ref()))
    }

    /// Returns a view of the lists that remains valid after the reader ends.
    pub(super) fn view(&self) -> ListSnapshots {
        ListSnapshots {
            registry: self.registry.as_ref().map(ListWatcher::subscribe),
            rates: self.rates.as_ref().map(ListWatcher::subscribe),
            limits: self.limits,
        }
    }
}

fn unread<T>(list: Option<&ListWatcher<T>>) -> Option<String> {
    let snapshots = list?.subscribe();
    let snapshot = snapshots.borrow();
    snapshot.error.clone().filter(|_| snapshot.is_of_earlier_run())
}

/// The last snapshots of the lists, for metrics and readiness.
#[derive(Default)]
pub(super) struct ListSnapshots {
    registry: Option<watch::Receiver<ListSnapshot<Registry>>>,
    rates: Option<watch::Receiver<ListSnapshot<RateTable>>>,
    limits: FailingLimits,
}

impl ChainListsView for ListSnapshots {
    fn lists(&self) -> Vec<ChainListStatus> {
        let FailingLimits { registry: registry_max, rates: rates_max } = self.limits;
        let registry = self.registry.as_ref();
        let registry = registry.map(|it| status("node_registry", &it.borrow(), registry_max));
        let rates = self.rates.as_ref();
        let rates = rates.map(|it| status("rate_registry", &it.borrow(), rates_max));
        registry.into_iter().chain(rates).collect()
    }
}

fn status<T>(
    name: &'static str,
    snapshot: &ListSnapshot<T>,
    failing_max: Duration,
) -> ChainListStatus {
    ChainListStatus {
        name,
        age: snapshot.read_at.elapsed().unwrap_or_default(),
        failing_for: snapshot.failing_since.map(|since| since.elapsed()),
        failing_max,
        fault: snapshot.error.clone(),
        failures: snapshot.failures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RunErrorKind;

    /// An endpoint that lies for a while must not keep a node down that its supervisor starts again.
    #[test]
    fn what_an_endpoint_states_is_no_fault_of_the_settings() {
        let kind = |error: ChainSetupError| RunError::from(error).kind;
        let stated = WatchError::Behind { found: 1, known: 2 };
        assert_eq!(kind(ChainSetupError::Watch(stated)), RunErrorKind::Failed);
        let malformed = ConnectError::Url { given: "no url".into(), reason: "no scheme".into() };
        assert_eq!(kind(ChainSetupError::Url(malformed)), RunErrorKind::Usage);
    }

    #[test]
    fn rates_count_as_up_to_date_for_an_hour_after_their_last_read() {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        assert_eq!(rates_failing_max(minutes(5)), minutes(55));
        assert_eq!(rates_failing_max(minutes(90)), Duration::ZERO, "they are older already");
    }
}
