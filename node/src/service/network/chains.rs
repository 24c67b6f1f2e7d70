//! Both chains as a node reads them: registry and rates from the settlement chain, the chain
//! strands from the app chain.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::Address as ContractAddress;
use hawser_api::ChainsView;
use hawser_chain::admin::Contract;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{ChainReader, EventSource, PushSettings, Sink, WalkSettings};
use hawser_chain::send::ConnectError;
use hawser_chain::watch::{self as chain_watch, ListSnapshot, ListWatcher, WatchError};
use hawser_engine::Engine;
use hawser_proto::OriginatorId;
use hawser_rules::{RateTable, Registry};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Outlets;
use super::sights::{ChainSight, Lists, Sights};
use super::sinks::{LedgerSink, StrandSink};
use crate::failure::Failure;
use crate::files::deployment::Deployment;
use crate::settings::ChainReadSettings;
use crate::settings::NodeServiceSettings;
use crate::settings::table::chains::flag_of;

/// What the chain is called that has the registries.
const SETTLEMENT: &str = "settlement";

/// Why the chains cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ChainsError {
    /// Where the contracts are is not known.
    #[error(transparent)]
    Deployment(#[from] Failure),
    /// What was given as a URL is none.
    #[error(transparent)]
    Url(#[from] ConnectError),
    /// Nobody said where a contract is.
    #[error(
        "where {contract} is was not said: give the file with all addresses \
         (--contracts.config-file-path), or --{}", flag_of(*.contract)
    )]
    NoAddress {
        /// Which one.
        contract: Contract,
    },
    /// The registry or the rates cannot be read.
    #[error("the settlement chain: {0}")]
    Watch(#[from] WatchError),
}

/// Chains that were reached, and what was first read of them.
#[derive(Default)]
pub(in crate::service) struct Chains {
    nodes: Option<ListWatcher<Registry>>,
    rates: Option<ListWatcher<RateTable>>,
    /// The chains themselves, with what is read of them.
    reached: Vec<Reached>,
    /// What the registry is, for people.
    registry_name: String,
}

/// A chain, and what is read of it.
struct Reached {
    endpoints: Endpoints,
    news: PushSettings,
    walks: Vec<WalkSettings>,
    disconnect_max: Duration,
}

/// Chains that are being read.
pub(in crate::service) struct RunningChains {
    readers: Vec<ChainReader>,
    views: Arc<Sights>,
    keeper: JoinHandle<()>,
}

impl Chains {
    /// Reaches what no file stands for.
    ///
    /// # Errors
    /// When something has not been said, or registry and rates cannot be read.
    pub(in crate::service) async fn reach(
        config: &NodeServiceSettings,
    ) -> Result<Self, ChainsError> {
        let said = &config.chains.contracts;
        let mut chains = Self::default();
        if said.settlement.urls.is_empty() && said.app.urls.is_empty() {
            return Ok(chains);
        }
        let deployment = Deployment::of(said).await?;
        if !said.settlement.urls.is_empty() {
            chains.reach_settlement(config, &deployment).await?;
        }
        if !said.app.urls.is_empty() && config.files.chain.is_none() {
            chains.reach_app(config, &deployment)?;
        }
        Ok(chains)
    }

    async fn reach_settlement(
        &mut self,
        config: &NodeServiceSettings,
        deployment: &Deployment,
    ) -> Result<(), ChainsError> {
        let chains = &config.chains;
        let id = deployment.settlement_id;
        let endpoints = Endpoints::new(SETTLEMENT, &chains.contracts.settlement.urls, id)?;
        let mut bells = Vec::new();
        let mut bell = |address| {
            let (bell, rung) = watch::channel(0);
            bells.push((address, bell));
            rung
        };
        if config.files.registry.is_none() {
            let address = at(deployment, Contract::NodeRegistry)?;
            self.registry_name = format!("the node registry {address} on chain {id}");
            let (every, rung) = (chains.nodes_refresh, bell(address));
            let nodes = chain_watch::registry(endpoints.clone(), address, every, rung);
            self.nodes = Some(nodes.await?);
        }
        if config.files.rates.is_none() {
            let address = at(deployment, Contract::RateRegistry)?;
            let (every, rung) = (chains.rates_refresh, bell(address));
            let rates = chain_watch::rate_table(endpoints.clone(), address, every, rung);
            self.rates = Some(rates.await?);
        }
        let mut walks = Vec::new();
        if config.indexer && deployment.contracts.get(Contract::PayerRegistry).is_some() {
            let first_block = deployment.settlement_first_block;
            let first_block = chains.settlement.first_block.unwrap_or(first_block);
            let (subject, contract) = (EventSource::PayerRegistry, Contract::PayerRegistry);
            walks.push(walk(deployment, &chains.settlement, subject, contract, first_block)?);
        }
        let news = PushSettings { urls: chains.settlement.push_urls.clone(), notify: bells };
        let disconnect_max = chains.settlement.disconnect_max;
        self.reached.push(Reached { endpoints, news, walks, disconnect_max });
        Ok(())
    }

    fn reach_app(
        &mut self,
        config: &NodeServiceSettings,
        deployment: &Deployment,
    ) -> Result<(), ChainsError> {
        let chains = &config.chains;
        let endpoints = Endpoints::new("app", &chains.contracts.app.urls, deployment.app_id)?;
        let first_block = chains.app.first_block.unwrap_or(deployment.app_first_block);
        let walk =
            |subject, contract| walk(deployment, &chains.app, subject, contract, first_block);
        let mut walks = Vec::new();
        if config.indexer {
            walks.push(walk(EventSource::GroupMessages, Contract::GroupMessageBroadcaster)?);
            walks.push(walk(EventSource::IdentityUpdates, Contract::IdentityUpdateBroadcaster)?);
        }
        let news = PushSettings { urls: chains.app.push_urls.clone(), notify: Vec::new() };
        let disconnect_max = chains.app.disconnect_max;
        self.reached.push(Reached { endpoints, news, walks, disconnect_max });
        Ok(())
    }

    /// The registry as it was read, if it was.
    pub(in crate::service) fn registry(&self) -> Option<Registry> {
        Some(Registry::clone(&self.nodes.as_ref()?.subscribe().borrow().value))
    }

    /// What the registry is called.
    pub(in crate::service) fn registry_name(&self) -> &str {
        &self.registry_name
    }

    /// The price list as it was read, if it was, with the time of the reading in unix nanoseconds.
    pub(in crate::service) fn rates(&self) -> Option<(RateTable, i64)> {
        let table = RateTable::clone(&self.rates.as_ref()?.subscribe().borrow().value);
        let read_ns = confirmed_ns(&table);
        Some((table, read_ns))
    }

    /// Keeps everything current from now on. To be called within a tokio runtime.
    pub(in crate::service) fn start(self, engine: &Engine, outlets: Outlets) -> RunningChains {
        let (mut readers, mut views) = (Vec::new(), Vec::new());
        for Reached { endpoints, news, walks, disconnect_max } in self.reached {
            let contracts = walks.into_iter().map(|walk| with_sink(engine, walk)).collect();
            let name = endpoints.name();
            let reader = ChainReader::start(endpoints, news, contracts);
            let lists = match name {
                SETTLEMENT => Lists {
                    nodes: self.nodes.as_ref().map(ListWatcher::subscribe),
                    rates: self.rates.as_ref().map(ListWatcher::subscribe),
                },
                _ => Lists::default(),
            };
            views.push(ChainSight { name, view: reader.view(), disconnect_max, lists });
            readers.push(reader);
        }
        let keeper = tokio::spawn(keep(self.nodes, self.rates, outlets));
        RunningChains { readers, views: Arc::new(Sights(views)), keeper }
    }
}

impl RunningChains {
    /// What the API shows, if there is a chain.
    pub(in crate::service) fn view(&self) -> Arc<dyn ChainsView> {
        self.views.clone()
    }

    /// Ends reading, and waits for what is being stored.
    pub(in crate::service) async fn stop(self) {
        self.keeper.abort();
        for reader in self.readers {
            reader.stop().await;
        }
    }
}

fn with_sink(engine: &Engine, walk: WalkSettings) -> (WalkSettings, Arc<dyn Sink>) {
    let strand = |originator| StrandSink { appender: engine.chain_appender(), originator };
    let sink: Arc<dyn Sink> = match walk.source {
        EventSource::GroupMessages => Arc::new(strand(OriginatorId::GROUP_MESSAGES)),
        EventSource::IdentityUpdates => Arc::new(strand(OriginatorId::IDENTITY_UPDATES)),
        EventSource::PayerRegistry => Arc::new(LedgerSink(engine.ledger_appender())),
    };
    (walk, sink)
}

fn at(deployment: &Deployment, contract: Contract) -> Result<ContractAddress, ChainsError> {
    deployment.contracts.get(contract).ok_or(ChainsError::NoAddress { contract })
}

fn walk(
    deployment: &Deployment,
    reading: &ChainReadSettings,
    subject: EventSource,
    contract: Contract,
    first_block: u64,
) -> Result<WalkSettings, ChainsError> {
    Ok(WalkSettings {
        source: subject,
        address: at(deployment, contract)?,
        first_block,
        page_blocks: reading.page_blocks,
        confirmations: reading.confirmations,
    })
}

/// Hands on what is new until the sources end.
async fn keep(
    nodes: Option<ListWatcher<Registry>>,
    rates: Option<ListWatcher<RateTable>>,
    outlets: Outlets,
) {
    let of_nodes = async {
        let Some(nodes) = &nodes else { return };
        let mut seen = nodes.subscribe();
        while seen.changed().await.is_ok() {
            let now = seen.borrow_and_update().clone();
            if let Err(node) = outlets.take_registry(Registry::clone(&now.value)) {
                tracing::error!(
                    code = "registry_ignored",
                    "the node registry has another key for node {node} than before: what was \
                     known stays"
                );
            }
        }
    };
    let of_rates = async {
        let Some(rates) = &rates else { return };
        let mut seen = rates.subscribe();
        while seen.changed().await.is_ok() {
            let now = seen.borrow_and_update().clone();
            if now.error.is_none() {
                take_rates(&outlets, now).await;
            }
        }
    };
    tokio::join!(of_nodes, of_rates);
}

/// Recording blocks for the disk.
async fn take_rates(outlets: &Outlets, seen: ListSnapshot<RateTable>) {
    let outlets = outlets.clone();
    let take = move || {
        let table = &seen.value;
        outlets.take_rates(table, confirmed_ns(table)).map_err(|error| error.to_string())
    };
    let taken: Result<(), String> =
        tokio::task::spawn_blocking(take).await.expect("a panic ends the process");
    if let Err(error) = taken {
        tracing::error!(code = "rates_ignored", "the price list is not taken over: {error}");
    }
}

fn confirmed_ns(table: &RateTable) -> i64 {
    table.refreshed_ns().expect("a list of a chain says when it was read")
}
