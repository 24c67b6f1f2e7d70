//! The node's access to both chains: registry, rates and payments from the settlement chain, and
//! chain strands from the app chain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use hawser_api::ChainsView;
use hawser_chain::admin::Contract;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{ChainReader, EventSource, HeadStatus, PushSettings, Sink, WalkSettings};
use hawser_chain::watch::{BalanceWatcher, ListSnapshot, PauseWatcher, WatchedAccount};
use hawser_engine::Engine;
use hawser_proto::OriginatorId;
use hawser_rules::{RateTable, Registry};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::NetworkState;
use super::changed_keys::ChangedKeys;
use super::kept_lists::{KeptLists, KeptListsFile, ListSource};
use super::membership::MembershipSink;
use super::payer_reports::PayerReportSink;
use super::sinks::{LedgerSink, StrandSink};
use super::status::{ChainStatuses, ReadChain};
use crate::files::deployment::KnownDeployment;
use crate::service::chain_gate::ChainGate;
use crate::service::payer_reports::ReportContractAt;
use crate::service::settlement::{
    APP, ChainSetupError, ListSnapshots, SETTLEMENT, SettlementLists, SettlementReader, address_of,
};
use crate::settings::{ChainReadSettings, NodeServiceSettings};

/// The ids of the chains of `hawser dev`. The first one is also that of anvil.
const DEVELOPMENT_CHAINS: [u64; 2] = [31_337, 31_338];

/// The reached chains, with their lists as first read.
#[derive(Default)]
pub(in crate::service) struct Chains {
    /// The payer report contract; `None` if its chain is missing or its events are not read.
    pub(in crate::service) report_contract: Option<ReportContractAt>,
    lists: SettlementLists,
    reached: Vec<ReachedChain>,
    /// The name of the registry for error messages.
    registry_name: String,
    /// The file that keeps the lists for a start without the chain; `None` if no list is read from the chain.
    kept_lists: Option<KeptListsFile>,
}

/// A chain, and the contracts whose events are read.
struct ReachedChain {
    endpoints: Endpoints,
    push: PushSettings,
    walks: Vec<WalkSettings>,
    disconnect_max: Duration,
    /// This node's account; `None` for a replica, which has none.
    account: Option<WatchedAccount>,
}

/// The contract that orders a chain's strand, and its chain.
pub(in crate::service) struct StrandContract {
    pub(in crate::service) endpoints: Endpoints,
    pub(in crate::service) source: EventSource,
    pub(in crate::service) address: Address,
    /// The first block that may contain an event of the strand.
    pub(in crate::service) first_block: u64,
}

/// Chains that are being read.
pub(in crate::service) struct RunningChains {
    readers: Vec<ChainReader>,
    statuses: Arc<ChainStatuses>,
    list_task: JoinHandle<()>,
}

/// The chains of the settings, before any request to one of them.
pub(in crate::service) struct KnownChains {
    deployment: KnownDeployment,
    /// `None` without a URL.
    settlement: Option<SettlementReader>,
    /// `None` without a URL, and if a file substitutes for the chain.
    app: Option<Endpoints>,
}

impl KnownChains {
    /// Determines ids, contracts and endpoints, and asks no chain. `None` if files substitute for both.
    ///
    /// # Errors
    /// Fails when a needed setting is missing or wrong.
    pub(in crate::service) async fn of(
        settings: &NodeServiceSettings,
    ) -> Result<Option<Self>, ChainSetupError> {
        let access = &settings.chains.contracts;
        if access.settlement.urls.is_empty() && access.app.urls.is_empty() {
            return Ok(None);
        }
        let deployment = KnownDeployment::of(access, &needed(settings)).await?;
        deployment.check_wallets(&settings.wallets)?;
        let mut known = Self { deployment, settlement: None, app: None };
        if !access.settlement.urls.is_empty() {
            let reader = SettlementReader::new(&settings.chains, &known.deployment)?;
            known.settlement = Some(reader);
        }
        if !access.app.urls.is_empty() && settings.files.chain.is_none() {
            known.app = Some(Endpoints::new(APP, &access.app.urls, known.deployment.app_id)?);
        }
        Ok(Some(known))
    }
}

impl Chains {
    /// Connects to the chains for which no file substitutes.
    ///
    /// # Errors
    /// Fails when a setting is missing, or registry and rates cannot be read.
    pub(in crate::service) async fn reach(
        settings: &NodeServiceSettings,
    ) -> Result<Self, ChainSetupError> {
        Self::reach_with(settings, |_| KeptLists::default()).await
    }

    /// Connects to the chains like [`Self::reach`]. Lists that cannot be read now are those that this host has kept, if
    /// it has any: see [`Self::unread`].
    ///
    /// # Errors
    /// Fails when a setting is missing, or registry and rates can neither be read nor are kept.
    pub(in crate::service) async fn reach_or_kept(
        settings: &NodeServiceSettings,
    ) -> Result<Self, ChainSetupError> {
        Self::reach_with(settings, KeptListsFile::read).await
    }

    async fn reach_with(
        settings: &NodeServiceSettings,
        kept: fn(&KeptListsFile) -> KeptLists,
    ) -> Result<Self, ChainSetupError> {
        let mut chains = Self::default();
        let Some(KnownChains { deployment, settlement, app }) = KnownChains::of(settings).await?
        else {
            return Ok(chains);
        };
        if let Some(reader) = settlement {
            let lists = list_source(settings, &deployment).map(|source| {
                let key = settings.signer.public_key();
                KeptListsFile::new(&settings.store.state_dir, &key, source)
            });
            let kept = lists.as_ref().map(kept).unwrap_or_default();
            chains.kept_lists = lists;
            chains.reach_settlement(settings, &deployment, reader, kept).await?;
        }
        if let Some(endpoints) = app {
            chains.reach_app(settings, &deployment, endpoints)?;
        }
        Ok(chains)
    }

    /// Sets up the readers of the settlement chain, without those whose content the settings take from files.
    async fn reach_settlement(
        &mut self,
        settings: &NodeServiceSettings,
        deployment: &KnownDeployment,
        mut reader: SettlementReader,
        kept: KeptLists,
    ) -> Result<(), ChainSetupError> {
        let chains = &settings.chains;
        let first_block = deployment.settlement_first_block;
        let first_block = chains.settlement.first_block.unwrap_or(first_block);
        let mut walks = Vec::new();
        if settings.files.registry.is_none() {
            let address = reader.watch_registry(kept.registry).await?;
            let id = deployment.settlement_id;
            self.registry_name = format!("the node registry {address} on chain {id}");
            let (source, contract) = (EventSource::NodeRegistry, Contract::NodeRegistry);
            walks.push(walk(deployment, &chains.settlement, source, contract, first_block)?);
        }
        if settings.files.rates.is_none() {
            reader.watch_rates(None, kept.rates).await?;
        }
        if settings.indexer {
            let (source, contract) = (EventSource::PayerRegistry, Contract::PayerRegistry);
            walks.push(walk(deployment, &chains.settlement, source, contract, first_block)?);
            let (source, contract) = (EventSource::PayerReports, Contract::PayerReportManager);
            let walk = walk(deployment, &chains.settlement, source, contract, first_block)?;
            let (endpoints, address) = (reader.endpoints.clone(), walk.address);
            self.report_contract = Some(ReportContractAt { endpoints, address });
            walks.push(walk);
        }
        let push = reader.push_settings(chains.settlement.push_urls.clone());
        let disconnect_max = chains.settlement.disconnect_max;
        let account = account_of(settings, deployment.contracts.get(Contract::FeeToken));
        self.reached.push(ReachedChain {
            endpoints: reader.endpoints,
            push,
            walks,
            disconnect_max,
            account,
        });
        self.lists = reader.lists;
        Ok(())
    }

    fn reach_app(
        &mut self,
        settings: &NodeServiceSettings,
        deployment: &KnownDeployment,
        endpoints: Endpoints,
    ) -> Result<(), ChainSetupError> {
        let chains = &settings.chains;
        let first_block = chains.app.first_block.unwrap_or(deployment.app_first_block);
        let walk = |source, contract| walk(deployment, &chains.app, source, contract, first_block);
        let mut walks = Vec::new();
        if settings.indexer {
            walks.push(walk(EventSource::GroupMessages, Contract::GroupMessageBroadcaster)?);
            walks.push(walk(EventSource::IdentityUpdates, Contract::IdentityUpdateBroadcaster)?);
        }
        let push = PushSettings { urls: chains.app.push_urls.clone(), notify: Vec::new() };
        let disconnect_max = chains.app.disconnect_max;
        // On this chain the fee token is the native token.
        let account = account_of(settings, None);
        self.reached.push(ReachedChain { endpoints, push, walks, disconnect_max, account });
        Ok(())
    }

    /// Returns the contract that orders a chain's strand; `None` if this node does not read
    /// the strand from the app chain.
    pub(in crate::service) fn contract_of(&self, strand: OriginatorId) -> Option<StrandContract> {
        let source = match strand {
            OriginatorId::GROUP_MESSAGES => EventSource::GroupMessages,
            OriginatorId::IDENTITY_UPDATES => EventSource::IdentityUpdates,
            _ => return None,
        };
        self.reached.iter().find_map(|chain| {
            let walk = chain.walks.iter().find(|walk| walk.source == source)?;
            let (address, first_block) = (walk.address, walk.first_block);
            Some(StrandContract {
                endpoints: chain.endpoints.clone(),
                source,
                address,
                first_block,
            })
        })
    }

    /// Returns the registry as first read; `None` if a file substitutes for it.
    pub(in crate::service) fn registry(&self) -> Option<Registry> {
        Some(Registry::clone(&self.lists.registry.as_ref()?.subscribe().borrow().value))
    }

    /// Returns the error for which lists of an earlier run are in use; `None` if all were read from the chain.
    pub(in crate::service) fn unread(&self) -> Option<String> {
        self.lists.unread()
    }

    /// Returns the name of the registry for error messages.
    pub(in crate::service) fn registry_name(&self) -> &str {
        &self.registry_name
    }

    /// Returns the rates as first read; `None` if a file substitutes for them.
    pub(in crate::service) fn rates(&self) -> Option<RateTable> {
        Some(RateTable::clone(&self.lists.rates.as_ref()?.subscribe().borrow().value))
    }

    /// Starts to read events (those of chain strands after the gate opens) and to publish new registries
    /// and rates. Needs a tokio runtime.
    pub(in crate::service) fn start(
        self,
        engine: &Engine,
        network: NetworkState,
        gate: &ChainGate,
    ) -> RunningChains {
        let (mut readers, mut statuses) = (Vec::new(), Vec::new());
        for ReachedChain { endpoints, push, walks, disconnect_max, account } in self.reached {
            // Node registry and report manager cannot be paused.
            let never = [EventSource::NodeRegistry, EventSource::PayerReports];
            let pausable = walks.iter().filter(|walk| !never.contains(&walk.source));
            let pausable = pausable.map(|walk| walk.address).collect();
            let pauses = PauseWatcher::start(endpoints.clone(), pausable);
            let balances = account.map(|it| BalanceWatcher::start(endpoints.clone(), it));
            let contracts =
                walks.into_iter().map(|walk| with_sink(engine, &network, gate, walk)).collect();
            let (name, id) = (endpoints.name(), endpoints.id());
            let reader = ChainReader::start(endpoints, push, contracts);
            let lists = match name {
                SETTLEMENT => self.lists.view(),
                _ => ListSnapshots::default(),
            };
            tokio::spawn(note_blocks(engine.clone(), (name, id), reader.view().subscribe_head()));
            let view = reader.view();
            statuses.push(ReadChain { name, view, disconnect_max, lists, pauses, balances });
            readers.push(reader);
        }
        let list_task = tokio::spawn(publish_lists(self.lists, self.kept_lists, network));
        RunningChains { readers, statuses: Arc::new(ChainStatuses(statuses)), list_task }
    }
}

impl RunningChains {
    /// Returns the view for the API.
    pub(in crate::service) fn view(&self) -> Arc<dyn ChainsView> {
        self.statuses.clone()
    }

    /// Stops reading, and waits until batches in progress are stored.
    pub(in crate::service) async fn stop(self) {
        self.list_task.abort();
        for reader in self.readers {
            reader.stop().await;
        }
    }
}

/// Returns the contracts that a node with these settings reads, on the chains that have a URL.
pub(in crate::service) fn needed(settings: &NodeServiceSettings) -> Vec<Contract> {
    let access = &settings.chains.contracts;
    let (files, indexer) = (&settings.files, settings.indexer);
    let (settlement, app) = (!access.settlement.urls.is_empty(), !access.app.urls.is_empty());
    let app = app && files.chain.is_none() && indexer;
    let reads = [
        (Contract::NodeRegistry, settlement && files.registry.is_none()),
        (Contract::RateRegistry, settlement && files.rates.is_none()),
        (Contract::PayerRegistry, settlement && indexer),
        (Contract::PayerReportManager, settlement && indexer),
        (Contract::GroupMessageBroadcaster, app),
        (Contract::IdentityUpdateBroadcaster, app),
    ];
    reads.into_iter().filter_map(|(contract, read)| read.then_some(contract)).collect()
}

fn with_sink(
    engine: &Engine,
    network: &NetworkState,
    gate: &ChainGate,
    walk: WalkSettings,
) -> (WalkSettings, Arc<dyn Sink>) {
    let strand = |originator| {
        let (appender, gate) = (engine.chain_appender(), gate.clone());
        StrandSink { appender, originator, gate }
    };
    let sink: Arc<dyn Sink> = match walk.source {
        EventSource::GroupMessages => Arc::new(strand(OriginatorId::GROUP_MESSAGES)),
        EventSource::IdentityUpdates => Arc::new(strand(OriginatorId::IDENTITY_UPDATES)),
        EventSource::PayerRegistry => Arc::new(LedgerSink(engine.ledger_appender())),
        EventSource::NodeRegistry => Arc::new(MembershipSink::new(network.clone())),
        EventSource::PayerReports => Arc::new(PayerReportSink(network.store.clone())),
    };
    (walk, sink)
}

/// Returns this node's account on a chain; `None` for a replica, whose key is not an account of its operator.
fn account_of(
    settings: &NodeServiceSettings,
    fee_token: Option<Address>,
) -> Option<WatchedAccount> {
    let address = Address::from(settings.signer.public_key().address().0);
    settings.follow.is_none().then_some(WatchedAccount { address, fee_token })
}

fn walk(
    deployment: &KnownDeployment,
    reading: &ChainReadSettings,
    source: EventSource,
    contract: Contract,
    first_block: u64,
) -> Result<WalkSettings, ChainSetupError> {
    Ok(WalkSettings {
        source,
        address: address_of(&deployment.contracts, contract)?,
        first_block,
        page_blocks: reading.page_blocks,
        confirmations: reading.confirmations,
    })
}

/// Reports the blocks that appear at a chain's head and show its clock to the engine, until the reader has ended.
/// `chain` is the chain's name and id.
async fn note_blocks(
    engine: Engine,
    chain: (&'static str, u64),
    mut head: watch::Receiver<HeadStatus>,
) {
    let (name, id) = chain;
    let mut noted = None;
    while head.changed().await.is_ok() {
        let appeared = head.borrow_and_update().appeared;
        if let Some((time_s, at)) = appeared.filter(|_| appeared != noted) {
            let age_ns = i64::try_from(at.elapsed().as_nanos()).unwrap_or(i64::MAX);
            let wall_ns = engine.ports().clock.now_ns().saturating_sub(age_ns);
            if shows_clock(id, time_s, wall_ns) {
                engine.note_block(name, time_s, at);
            }
            noted = appeared;
        }
    }
}

/// Returns true if a block with this time shows the clock of its chain. `wall_ns` is the time by this machine's clock
/// when the block appeared.
///
/// A development chain dates blocks at least a second apart, however fast it makes them, and its time can be moved. So
/// its blocks may be ahead of every clock. A block that is not ahead counts: this machine's clock may be ahead of it.
fn shows_clock(chain_id: u64, time_s: u64, wall_ns: i64) -> bool {
    let is_ahead = i128::from(time_s) * 1_000_000_000 > i128::from(wall_ns);
    !is_ahead || !DEVELOPMENT_CHAINS.contains(&chain_id)
}

/// Returns the contracts of the lists that are read from the settlement chain; `None` if files substitute for both. A
/// list of a file has no contract: the next start may be without the file.
fn list_source(settings: &NodeServiceSettings, deployment: &KnownDeployment) -> Option<ListSource> {
    let files = &settings.files;
    let address = |is_of_file: bool, contract| {
        let found = deployment.contracts.get(contract).filter(|_| !is_of_file);
        found.map(|it| it.to_string()).unwrap_or_default()
    };
    let is_read = files.registry.is_none() || files.rates.is_none();
    is_read.then(|| ListSource {
        network: settings.store.network.clone(),
        chain_id: deployment.settlement_id,
        node_registry: address(files.registry.is_some(), Contract::NodeRegistry),
        rate_registry: address(files.rates.is_some(), Contract::RateRegistry),
    })
}

/// Publishes every new registry and rate table until the watchers end, and keeps them for the next start.
async fn publish_lists(lists: SettlementLists, kept: Option<KeptListsFile>, network: NetworkState) {
    let registries = async {
        let Some(watcher) = &lists.registry else { return };
        let (mut snapshots, mut keys) = (watcher.subscribe(), ChangedKeys::default());
        while snapshots.changed().await.is_ok() {
            let snapshot = snapshots.borrow_and_update().clone();
            take_registry(&network, &snapshot, &mut keys);
        }
    };
    let rates = async {
        let Some(watcher) = &lists.rates else { return };
        let mut snapshots = watcher.subscribe();
        while snapshots.changed().await.is_ok() {
            let snapshot = snapshots.borrow_and_update().clone();
            if snapshot.error.is_none() {
                take_rates(&network, snapshot).await;
            }
        }
    };
    let keeping = async {
        let Some(file) = kept else { return };
        file.follow(network.clone()).await;
    };
    tokio::join!(registries, rates, keeping);
}

/// Publishes the records of a reading of the node registry. If they have other keys than before, `keys` decides when.
fn take_registry(network: &NetworkState, reading: &ListSnapshot<Registry>, keys: &mut ChangedKeys) {
    let records = || Registry::clone(&reading.value);
    let Err(node) = network.take_records(records()) else { return keys.note_same() };
    if keys.note_other(reading, Instant::now()) {
        tracing::warn!(
            code = "registry_keys_changed",
            "the settlement chain has had another key for node {node} for long: it was reorganised, and the node \
             is now verified by the new key"
        );
        network.take_other_keys(records());
        keys.note_same();
    } else {
        tracing::error!(
            code = "registry_ignored",
            "the node registry has another key for node {node} than before: the registry stays as it was, until \
             every reading has shown the same keys for 15 minutes, and most endpoints show them"
        );
    }
}

/// Records and publishes rates, on a thread for blocking work.
async fn take_rates(network: &NetworkState, snapshot: ListSnapshot<RateTable>) {
    let network = network.clone();
    let take = move || network.take_rates(&snapshot.value);
    let taken = tokio::task::spawn_blocking(take).await.expect("a panic ends the process");
    if let Err(error) = taken {
        tracing::error!(
            code = "rates_ignored",
            "the new price list cannot be used, and the last one stays in force: {error}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SettingSources;

    const ADDRESS: &str = "0x1fe3B81F281872354f846930Da5D49263080eBB8";

    /// Returns the settings of a node with two URLs at which nothing listens.
    fn settings_with(flags: &[(&str, &str)]) -> NodeServiceSettings {
        let always = [
            ("contracts.settlement-chain.rpc-url", "http://127.0.0.1:1"),
            ("contracts.app-chain.rpc-url", "http://127.0.0.1:1"),
        ];
        let flags = always.iter().chain(flags);
        let flags = flags.map(|(flag, value)| ((*flag).to_owned(), (*value).to_owned()));
        let key = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
        let env = [("XMTPD_SIGNER_PRIVATE_KEY".to_owned(), key.to_owned())];
        let sources = SettingSources::new(flags.collect::<Vec<_>>(), env);
        NodeServiceSettings::read(&sources).unwrap()
    }

    /// Reaches the chains of such a node. Returns the error, if there is one.
    async fn refusal(flags: &[(&str, &str)]) -> Option<String> {
        Chains::reach(&settings_with(flags)).await.err().map(|error| error.to_string())
    }

    /// Returns a text of addresses with the ids of both chains and these keys.
    fn text(keys: &[&str]) -> String {
        let addresses = keys.iter().map(|key| format!(r#","{key}":"{ADDRESS}""#));
        let addresses = addresses.collect::<String>();
        format!(r#"{{"settlementChainId":5,"appChainId":6{addresses}}}"#)
    }

    #[tokio::test]
    async fn a_node_starts_with_the_addresses_that_it_reads_and_no_others() {
        let files = [("registry-file", "registry.json"), ("rates-file", "rates.json")];
        let read = text(&["payerRegistry", "groupMessageBroadcaster", "identityUpdateBroadcaster"]);
        let given = [
            ("contracts.config-json", read.as_str()),
            ("contracts.settlement-chain.payer-report-manager-address", ADDRESS),
        ];
        assert_eq!(refusal(&[&files[..], &given].concat()).await, None);
        let nothing = text(&[]);
        let unread = [("contracts.config-json", nothing.as_str()), ("indexer.enable", "false")];
        assert_eq!(refusal(&[&files[..], &unread].concat()).await, None);
    }

    /// Played by an operator who takes the file away, and starts the node while the chain is away.
    #[tokio::test]
    async fn a_list_of_a_file_is_never_kept_as_that_of_its_contract() {
        let addresses = text(&["nodeRegistry", "rateRegistry"]);
        let always = [("contracts.config-json", addresses.as_str()), ("indexer.enable", "false")];
        for (files, lacks) in [
            (&[][..], [false, false]),
            (&[("registry-file", "list.json")][..], [true, false]),
            (&[("rates-file", "list.json")][..], [false, true]),
        ] {
            let settings = settings_with(&[&always[..], files].concat());
            let access = &settings.chains.contracts;
            let deployment = KnownDeployment::of(access, &needed(&settings)).await.unwrap();
            let source = list_source(&settings, &deployment).unwrap();
            let found = [source.node_registry.is_empty(), source.rate_registry.is_empty()];
            assert_eq!(found, lacks, "{files:?}");
        }
    }

    /// While clients register, a development chain makes several blocks a second and dates them a second apart.
    #[test]
    fn blocks_of_a_development_chain_that_are_ahead_show_no_clock() {
        const WALL_NS: i64 = 1_700_000_000_400_000_000;
        for (chain_id, ahead) in [(31_337, false), (31_338, false), (84_532, true)] {
            let shown = |time_s| shows_clock(chain_id, time_s, WALL_NS);
            assert!(shown(1_600_000_000) && shown(1_700_000_000), "chain {chain_id}");
            assert_eq!([shown(1_700_000_001), shown(u64::MAX)], [ahead; 2], "chain {chain_id}");
        }
    }

    #[tokio::test]
    async fn a_node_names_all_addresses_that_it_lacks() {
        let some = text(&["rateRegistry", "feeToken"]);
        let error = refusal(&[("contracts.config-json", &some)]).await.unwrap();
        for key in [
            "`nodeRegistry`",
            "`payerRegistry`",
            "`payerReportManager`",
            "`groupMessageBroadcaster`",
            "`identityUpdateBroadcaster`",
            "--contracts.settlement-chain.payer-registry-address",
        ] {
            assert!(error.contains(key), "{key} is not in {error}");
        }
        assert!(
            !error.contains("rateRegistry") && !error.contains("distributionManager"),
            "{error}"
        );
    }
}
