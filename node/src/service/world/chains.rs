//! Both chains as a node reads them: registry and rates from the settlement chain, the chain
//! strands from the app chain.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use alloy::primitives::Address as ContractAddress;
use hawser_api::ChainsView;
use hawser_chain::admin::Contract;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{ChainReader, EventSource, PushSettings, Sink, WalkSettings};
use hawser_chain::send::ConnectError;
use hawser_chain::watch::{self as chain_watch, ChainNode, ChainRate, Seen, WatchError, Watched};
use hawser_engine::Engine;
use hawser_engine::ports::{NodeRecord, Registry};
use hawser_proto::{Address, OriginatorId, PublicKey};
use hawser_rules::fees::{Rate, RateTable, RateTableError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Outlets;
use super::sights::{ChainSight, Lists, Sights};
use super::sinks::{LedgerSink, StrandSink};
use crate::config::NodeConfig;
use crate::config::contracts::{ReadingConfig, flag_of};
use crate::failure::Failure;
use crate::files::deployment::Deployment;

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
    /// What was read is no price list.
    #[error("the settlement chain: {0}")]
    Rates(#[from] RateTableError),
}

/// Chains that were reached, and what was first read of them.
#[derive(Default)]
pub(in crate::service) struct Chains {
    nodes: Option<Watched<Vec<ChainNode>>>,
    rates: Option<Watched<Vec<ChainRate>>>,
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
    pub(in crate::service) async fn reach(config: &NodeConfig) -> Result<Self, ChainsError> {
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
        config: &NodeConfig,
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
            let nodes = chain_watch::nodes(endpoints.clone(), address, every, rung);
            self.nodes = Some(nodes.await?);
        }
        if config.files.rates.is_none() {
            let address = at(deployment, Contract::RateRegistry)?;
            let (every, rung) = (chains.rates_refresh, bell(address));
            let rates = chain_watch::rates(endpoints.clone(), address, every, rung);
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
        config: &NodeConfig,
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
        Some(registry_of(&self.nodes.as_ref()?.seen().borrow().value))
    }

    /// What the registry is called.
    pub(in crate::service) fn registry_name(&self) -> &str {
        &self.registry_name
    }

    /// The price list as it was read, if it was.
    ///
    /// # Errors
    /// When it is none.
    pub(in crate::service) fn rates(&self) -> Option<Result<(RateTable, i64), ChainsError>> {
        let seen = self.rates.as_ref()?.seen().borrow().clone();
        let table = table_of(&seen);
        Some(table.map(|table| (table, unix_ns(seen.read_at))).map_err(ChainsError::from))
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
                    nodes: self.nodes.as_ref().map(Watched::seen),
                    rates: self.rates.as_ref().map(Watched::seen),
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
    reading: &ReadingConfig,
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
    nodes: Option<Watched<Vec<ChainNode>>>,
    rates: Option<Watched<Vec<ChainRate>>>,
    outlets: Outlets,
) {
    let of_nodes = async {
        let Some(nodes) = &nodes else { return };
        let mut seen = nodes.seen();
        while seen.changed().await.is_ok() {
            let now = seen.borrow_and_update().clone();
            if let Err(node) = outlets.take_registry(registry_of(&now.value)) {
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
        let mut seen = rates.seen();
        while seen.changed().await.is_ok() {
            let now = seen.borrow_and_update().clone();
            if now.fault.is_none() {
                take_rates(&outlets, now).await;
            }
        }
    };
    tokio::join!(of_nodes, of_rates);
}

/// Recording blocks for the disk.
async fn take_rates(outlets: &Outlets, seen: Seen<Vec<ChainRate>>) {
    let outlets = outlets.clone();
    let take = move || {
        let table = table_of(&seen).map_err(|error| error.to_string())?;
        let taken = outlets.take_rates(&table, unix_ns(seen.read_at));
        taken.map_err(|error| error.to_string())
    };
    let taken: Result<(), String> =
        tokio::task::spawn_blocking(take).await.expect("a panic ends the process");
    if let Err(error) = taken {
        tracing::error!(code = "rates_ignored", "the price list is not taken over: {error}");
    }
}

fn table_of(seen: &Seen<Vec<ChainRate>>) -> Result<RateTable, RateTableError> {
    let rate = |rate: &ChainRate| Rate {
        start_unix_s: rate.start_time_s,
        message_fee: rate.message_fee,
        storage_fee: rate.storage_fee,
        congestion_fee: rate.congestion_fee,
        target_rate_per_minute: rate.target_rate_per_minute,
    };
    RateTable::new(seen.value.iter().map(rate).collect(), None)
}

fn unix_ns(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The records that can be used. Whoever registered the others made a mistake, which is theirs.
fn registry_of(nodes: &[ChainNode]) -> Registry {
    let mut keys = BTreeSet::new();
    let record = |node: &ChainNode| {
        let usable = record_of(node).filter(|record| keys.insert(record.public_key.to_string()));
        if usable.is_none() {
            tracing::debug!(node_id = node.id, "a record of the node registry cannot be used");
        }
        usable
    };
    nodes.iter().filter_map(record).collect()
}

fn record_of(node: &ChainNode) -> Option<NodeRecord> {
    let id = OriginatorId(node.id);
    let uri = node.http_address.parse::<http::Uri>().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty());
    if !id.is_node() || !is_http {
        return None;
    }
    Some(NodeRecord {
        id,
        public_key: PublicKey::from_uncompressed(&node.public_key)?,
        owner: Address(node.signer.into_array()),
        http_address: node.http_address.clone(),
        quic_address: None,
        canonical: node.canonical,
    })
}
