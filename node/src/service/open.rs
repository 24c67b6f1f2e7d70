//! Opens the database of a node's settings and starts an engine on it.

use std::sync::Arc;

use hawser_api::{DiskView as _, RebuildPages};
use hawser_engine::ports::{NodeRecord, Registry};
use hawser_engine::runtime::{
    ChainAppender, EngineSettings, Ports, PublishSettings, PublisherThreads, SystemClock,
};
use hawser_engine::{Engine, price};
use hawser_proto::{Address, OriginatorId};
use hawser_rules::RateTable;
use hawser_storage::{
    DiskReserveSettings, FolderStanding, HostMarkerError, HostSettings, OpenError, ReadError,
    RebuildError, Store, StoreIdentity, StoreSettings,
};
use hawser_validation::wallets::Wallets;
use tokio::runtime::Handle;

use super::free_ports::{PortError, require_free};
use super::network::chains::Chains;
use super::network::stand_in_files::{
    self, ChainAppendFileError, RatesError, StandInReader, WatchedFile,
};
use super::network::{self, NetworkState, RecordRatesError, with_recorded};
use super::projections;
use super::settlement::ChainSetupError;
use super::system::{self, Disk, OpenFiles};
use super::unfinished_import::{UnfinishedImportError, require_finished};
use super::validation::{Identities, KeyPackages};
use super::witness_folder::{WitnessFolderError, WitnessRight};
use crate::clock::signed_now_unix_s;
use crate::error::RunError;
use crate::files::chain::ChainFile;
use crate::files::registry::{self, RegistryFileError};
use crate::files::{self, FileError};
use crate::settings::{DatabaseSettings, NodeServiceSettings, hosts_of};

/// Error of opening a node.
#[derive(Debug, thiserror::Error)]
pub enum OpenNodeError {
    /// The registry cannot be used.
    #[error(transparent)]
    Registry(#[from] FileError<RegistryFileError>),
    /// The registry has no record with this node's key.
    #[error(
        "no node of {registry} has the key of this node, which belongs to {address}: register \
         the node, or bring the key of a registered one"
    )]
    NotRegistered {
        /// The name of the file or contract.
        registry: String,
        /// The address of the key.
        address: Address,
    },
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The projections cannot be rebuilt.
    #[error("the projections cannot be rebuilt: {0}")]
    Rebuild(#[from] RebuildError),
    /// The rates of a file cannot be used.
    #[error(transparent)]
    Rates(#[from] RatesError),
    /// The rates of the settlement chain cannot be recorded.
    #[error(transparent)]
    Record(#[from] RecordRatesError),
    /// The chain strands cannot be read.
    #[error(transparent)]
    Chain(#[from] ChainAppendFileError),
    /// The chains cannot be read.
    #[error(transparent)]
    Chains(#[from] ChainSetupError),
    /// The settlement chain cannot be read, and the folder is not a known one.
    #[error(
        "the settlement chain: {error}. The data folder is not known as the one that this host wrote last, so \
         the node does not start with the registry that it has read before"
    )]
    UnreadLists {
        /// The error of the reading.
        error: String,
    },
    /// The log cannot be read.
    #[error(
        "the records beside the log cannot be read: {0}. Keep the folder as it is; if the disk has damaged it, \
         follow \
         docs/runbooks/restore.md, which begins with moving it aside"
    )]
    Read(#[from] ReadError),
    /// The data folder contains an unfinished import.
    #[error(transparent)]
    Import(#[from] UnfinishedImportError),
    /// A port of the node cannot be listened on.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The key of the witness may have cosigned what the data folder lacks.
    #[error(transparent)]
    Witness(#[from] WitnessFolderError),
}

impl From<OpenNodeError> for RunError {
    fn from(error: OpenNodeError) -> Self {
        match error {
            OpenNodeError::Chains(error) => error.into(),
            OpenNodeError::Registry(error) => error.into(),
            OpenNodeError::Rates(RatesError::File(error)) => error.into(),
            OpenNodeError::Chain(error) if error.is_of_missing_file() => Self::not_found(error),
            OpenNodeError::NotRegistered { .. } => Self::not_found(error),
            OpenNodeError::Open(
                OpenError::Held { .. }
                | OpenError::OfBackups { .. }
                | OpenError::RollbackUnfinished { .. }
                | OpenError::Host(HostMarkerError::Held { .. })
                | OpenError::StrandExists { .. }
                | OpenError::OtherKey { .. }
                | OpenError::OtherNetwork { .. }
                | OpenError::OtherNode { .. },
            )
            | OpenNodeError::Witness(
                WitnessFolderError::Held { .. }
                | WitnessFolderError::OtherFolder { .. }
                | WitnessFolderError::SetBack { .. },
            )
            | OpenNodeError::Import(_) => Self::refused(error),
            _ => Self::failed(error),
        }
    }
}

/// An engine on an open database, ready for its listeners.
pub(super) struct OpenedNode {
    pub(super) engine: Engine,
    pub(super) threads: PublisherThreads,
    pub(super) inputs: StandInReader,
    pub(super) chains: Chains,
    pub(super) wallets: Arc<Wallets>,
    /// The right to cosign, of a replica that is a witness.
    pub(super) witness: Option<WitnessRight>,
    /// The operators' port since the rebuild of projections; `None` if there was none, or the settings have no port.
    pub(super) rebuild: Option<RebuildPages>,
}

/// Opens the database and starts the engine on it. Blocks on disk and network, and during a rebuild or the reading of a
/// long chain file. Must be called on a blocking thread of a tokio runtime.
///
/// # Errors
/// Fails when registry, rates, database or chains cannot be used.
pub(super) fn open(config: &NodeServiceSettings) -> Result<OpenedNode, OpenNodeError> {
    require_finished(&config.store.data_dir)?;
    let chains = Handle::current().block_on(Chains::reach_or_kept(config))?;
    let unread = chains.unread();
    let registry_file = config.files.registry.as_deref().map(WatchedFile::new);
    let registry = first_registry(config, &chains)?;
    let own = match &config.follow {
        Some(urls) => as_replica(config, urls),
        None => own_record(&registry, config, &chains)?.clone(),
    };
    if config.follow.is_none() {
        tracing::info!(
            node_id = own.id.0,
            address = %own.owner,
            canonical = own.canonical,
            nodes = registry.nodes().count(),
            "found this node in the registry"
        );
    }
    let store = open_store(&config.store, &own)?;
    if let Some(error) = unread {
        require_known(&store, error)?;
    }
    // Under the database lock, so that a second start of the same node is refused as such, and not for its port. A
    // start that fails at its ports has then written nothing to the log.
    require_free(config)?;
    let mut witness = claim_witness(config, &store)?;
    // This is checked again under the database lock, because an import may have started while the chains were asked.
    require_finished(&config.store.data_dir)?;
    let rebuild = rebuild_if_stale(config, &store)?;
    let mut rates_file = config.files.rates.as_deref().map(WatchedFile::new);
    let rates = first_rates(config, &chains, &store)?;
    // The first look reads it again: the disk may not have taken the rates.
    rates_file.iter_mut().for_each(WatchedFile::forget);
    let registry = match &config.files.registry {
        Some(_) => registry,
        None => with_recorded(registry, &store)?,
    };
    let network = NetworkState::new(own.id, store, registry, rates);
    let wallets = wallets_of(config);
    let (engine, threads) = start_engine(config, &network, wallets.clone())?;
    // Tasks that sign start before the peers are asked, and the folder of a machine that was set back is a known one.
    engine.wait_for_replication();
    let chain = match finish_start(config, &engine, witness.as_mut()) {
        Ok(chain) => chain,
        Err(error) => {
            // The process must not end while a thread is working on the database.
            engine.drain();
            threads.join();
            return Err(error);
        }
    };
    let inputs = StandInReader {
        network,
        registry_file,
        rates_file,
        rates_taken: None,
        chain,
        chain_error: String::new(),
    };
    Ok(OpenedNode { engine, threads, inputs, chains, wallets, witness, rebuild })
}

/// Reads the chain file. The key of a witness is bound to the folder last: a start that fails before it has cosigned
/// nothing.
fn finish_start(
    config: &NodeServiceSettings,
    engine: &Engine,
    witness: Option<&mut WitnessRight>,
) -> Result<Option<(ChainFile, ChainAppender)>, OpenNodeError> {
    let chain = read_chain(config, engine)?;
    if let Some(witness) = witness {
        witness.begin(engine.store())?;
    }
    Ok(chain)
}

pub(super) fn first_registry(
    config: &NodeServiceSettings,
    chains: &Chains,
) -> Result<Registry, OpenNodeError> {
    match &config.files.registry {
        Some(path) => Ok(files::read(path, registry::parse)?),
        None => Ok(chains.registry().expect(SOURCES)),
    }
}

pub(super) fn first_rates(
    config: &NodeServiceSettings,
    chains: &Chains,
    store: &Store,
) -> Result<RateTable, OpenNodeError> {
    match &config.files.rates {
        Some(path) => Ok(stand_in_files::load_rates(path, store)?),
        None => {
            let table = chains.rates().expect(SOURCES);
            Ok(network::first_rates(&table, store)?)
        }
    }
}

/// The message for a list without a source.
const SOURCES: &str = "the settings require a file or a chain";

pub(super) fn own_record<'a>(
    registry: &'a Registry,
    config: &NodeServiceSettings,
    chains: &Chains,
) -> Result<&'a NodeRecord, OpenNodeError> {
    let key = config.signer.public_key();
    registry.running_with(&key).ok_or_else(|| OpenNodeError::NotRegistered {
        registry: match &config.files.registry {
            Some(path) => path.display().to_string(),
            None => chains.registry_name().to_owned(),
        },
        address: key.address(),
    })
}

/// Returns a record for a replica, which is in no registry.
fn as_replica(config: &NodeServiceSettings, urls: &[String]) -> NodeRecord {
    let hosts = hosts_of(&urls.join(","));
    tracing::info!(follow = hosts, "this is a replica: it has no id, and signs nothing");
    let public_key = config.signer.public_key();
    NodeRecord {
        id: OriginatorId::REPLICA,
        public_key,
        owner: public_key.address(),
        http_address: None,
        quic_address: None,
        canonical: false,
    }
}

/// Opens the database, with its share of the files that may be open.
fn open_store(config: &DatabaseSettings, own: &NodeRecord) -> Result<Store, OpenError> {
    let settings = store_settings(config, own);
    tracing::info!(
        database = settings.open_files_max,
        connections = OpenFiles::of_process(config.open_files).connections,
        cache_bytes = settings.cache_bytes,
        "divided the files that may be open, and the memory"
    );
    // The setting is about a node's own strand, which a replica does not have.
    let host = (own.id != OriginatorId::REPLICA).then(|| HostSettings {
        state_dir: config.state_dir.clone(),
        new_strand: config.new_strand,
    });
    let store = Store::open(&StoreSettings { host, ..settings })?;
    keep_room(&store, config);
    Ok(store)
}

/// Lets a node start without the settlement chain, by the registry and the rates that this host has read before.
///
/// It serves what its folder holds, and follows the nodes that were registered then: a key never changes, so what is
/// verified stays so. It publishes nothing until the chain is read. An unknown folder is left alone: its quarantine
/// ends by the answers of most canonical nodes, and it is not known which those are now.
///
/// # Errors
/// [`OpenNodeError::UnreadLists`] for the folder of a node that may not be the one that this host wrote last.
fn require_known(store: &Store, error: String) -> Result<(), OpenNodeError> {
    let is_replica = store.identity().node == OriginatorId::REPLICA;
    if !is_replica && store.standing() != FolderStanding::Newest {
        return Err(OpenNodeError::UnreadLists { error });
    }
    tracing::warn!(
        code = "chain_lists_kept",
        %error,
        "the settlement chain cannot be read: the node serves readers by the registry and the rates that it has read before, \
         and publishes nothing until it has read them again"
    );
    Ok(())
}

/// Claims the key of a witness for this process; `None` if the process is no witness.
fn claim_witness(
    config: &NodeServiceSettings,
    store: &Store,
) -> Result<Option<WitnessRight>, OpenNodeError> {
    let Some(signer) = &config.witness else { return Ok(None) };
    let DatabaseSettings { network, state_dir, data_dir, .. } = &config.store;
    let mut witness = WitnessRight::new(network, state_dir, data_dir, signer.key());
    witness.claim(store)?;
    Ok(Some(witness))
}

/// Returns the settings of the database of `own`, which is opened without a check against the host marker.
pub(super) fn store_settings(config: &DatabaseSettings, own: &NodeRecord) -> StoreSettings {
    StoreSettings {
        path: config.data_dir.clone(),
        identity: StoreIdentity {
            network: config.network.clone(),
            node: own.id,
            public_key: own.public_key,
        },
        durability: config.durability,
        price: price::price,
        host: None,
        open_files_max: OpenFiles::of_process(config.open_files).database,
        cache_bytes: config.cache_bytes.unwrap_or_else(system::cache_bytes),
    }
}

/// Lets a store refuse writes while its disk has less free space than the settings ask for.
pub(super) fn keep_room(store: &Store, config: &DatabaseSettings) {
    let disk = Disk(config.data_dir.clone());
    store.keep_room(DiskReserveSettings {
        free_bytes_min: config.min_free_disk_bytes,
        free_bytes: Arc::new(move || disk.space().map(|space| space.free_bytes)),
    });
}

/// Rebuilds stale projections before the node serves. Damage and a full disk do not end the start: readers of
/// projections wait until a scrub has rebuilt them. Returns the operators' port, which says how far the rebuild is.
fn rebuild_if_stale(
    config: &NodeServiceSettings,
    store: &Store,
) -> Result<Option<RebuildPages>, OpenNodeError> {
    projections::keep_tallies(store);
    let stale = store.stale_projections();
    if stale.is_empty() {
        return Ok(None);
    }
    let pages = show_rebuild(config)?;
    tracing::info!(
        stale = stale.join(","),
        "rebuilding the projections from the log; this node serves when that is done"
    );
    let tell = |step: String| {
        if let Some(pages) = &pages {
            pages.tell(step);
        }
    };
    match projections::rebuild_before_start(store, &tell) {
        Ok(report) => {
            tracing::info!(envelopes = report.envelopes, "rebuilt the projections");
            Ok(pages)
        }
        // Readers of single strands are served. A scrub repairs the log with the help of peers,
        // and rebuilds once there is space.
        Err(error) if error.is_of_reading() || error.is_of_room() => {
            tracing::error!(
                code = "projections_stale",
                %error,
                "the projections cannot be rebuilt now"
            );
            Ok(pages)
        }
        Err(error) => Err(error.into()),
    }
}

/// Lets the operators' port say how far the rebuild is, which takes minutes or hours.
fn show_rebuild(config: &NodeServiceSettings) -> Result<Option<RebuildPages>, PortError> {
    let Some(address) = config.metrics else { return Ok(None) };
    let begun = RebuildPages::begin(address, signed_now_unix_s());
    let begun = Handle::current().block_on(begun);
    begun.map(Some).map_err(|source| PortError::tcp(address, source))
}

/// Returns the access to contract wallets.
pub(super) fn wallets_of(config: &NodeServiceSettings) -> Arc<Wallets> {
    Arc::new(Wallets::over_rpc(config.wallets.rpcs.clone(), config.wallets.list()))
}

pub(super) fn start_engine(
    config: &NodeServiceSettings,
    network: &NetworkState,
    wallets: Arc<Wallets>,
) -> Result<(Engine, PublisherThreads), ReadError> {
    let ports = Ports {
        clock: Arc::new(SystemClock),
        validator: Arc::new(KeyPackages),
        identities: Arc::new(Identities::new(wallets)),
        registry: network.registry.subscribe(),
        rates: network.rates.subscribe(),
    };
    let settings = EngineSettings {
        publish: PublishSettings {
            idempotent: config.idempotent_publish,
            require_balance: config.limits.require_balance,
            publishes_per_payer: config.limits.publishes_per_payer,
        },
        workers: std::thread::available_parallelism().map_or(1, usize::from),
    };
    Engine::start(config.signer.clone(), settings, ports, network.store.clone())
}

/// Appends the whole chain file, so that the first reader already sees all of it.
fn read_chain(
    config: &NodeServiceSettings,
    engine: &Engine,
) -> Result<Option<(ChainFile, ChainAppender)>, ChainAppendFileError> {
    let Some(path) = &config.files.chain else { return Ok(None) };
    let (mut file, appender) = (ChainFile::new(path), engine.chain_appender());
    let events = match stand_in_files::append_chain(&mut file, &appender) {
        Err(ChainAppendFileError::Append(error)) if error.is_of_disk() => {
            tracing::warn!(%error, "the events of the chain file cannot be stored now: tried again");
            0
        }
        appended => appended?,
    };
    let [groups, identities] = file.heads();
    tracing::info!(events, groups = groups.0, identities = identities.0, "read the chain file");
    Ok(Some((file, appender)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tempfile::TempDir;

    use super::*;
    use crate::files::rates::{RateRecord, RatesFile};
    use crate::files::registry::{RegistryFile, RegistryFileEntry};
    use crate::service::testing::{key, page};
    use crate::settings::SettingSources;

    /// Returns the settings of the only node of a network, which listens on no port.
    fn settings(folder: &TempDir) -> NodeServiceSettings {
        let public_key = key(100).public_key();
        let entry = RegistryFileEntry {
            node_id: OriginatorId(100),
            signer: public_key.address().to_string(),
            is_canonical: true,
            signing_public_key: public_key.to_string(),
            http_address: "http://127.0.0.1:5050".into(),
            quic_address: None,
            absences: Vec::new(),
        };
        let registry = RegistryFile { nodes: vec![entry], source: None };
        let rates = RatesFile { complete_until: None, rates: vec![RateRecord::FIRST] };
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(at("registry.json"), serde_json::to_string(&registry).unwrap()).unwrap();
        std::fs::write(at("rates.json"), serde_json::to_string(&rates).unwrap()).unwrap();
        let flags = [
            ("registry-file", at("registry.json")),
            ("rates-file", at("rates.json")),
            ("data-dir", at("data")),
            ("state-dir", at("state")),
            ("sync.enable", "false".to_owned()),
            ("api.enable", "false".to_owned()),
            ("metrics.enable", "false".to_owned()),
        ];
        let flags = flags.map(|(name, value)| (name.to_owned(), value));
        let secret = format!("0x{}", "01".repeat(32));
        let env = [("XMTPD_SIGNER_PRIVATE_KEY".to_owned(), secret)];
        NodeServiceSettings::read(&SettingSources::new(flags, env)).unwrap()
    }

    /// A new node serves readers while its disk has less free space than the settings ask for.
    #[tokio::test]
    async fn a_first_start_without_room_has_rates_by_which_nothing_is_published() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = settings(&folder);
        config.store.min_free_disk_bytes = 1 << 60;
        let opening = tokio::task::spawn_blocking(move || open(&config));
        let OpenedNode { engine, threads, inputs, .. } = opening.await.unwrap().unwrap();
        let rates = inputs.network.rates.borrow().clone();
        assert_eq!(rates.rates().len(), 1);
        assert!(!rates.covers(0) && !rates.is_complete_at(0), "{rates:?}");
        engine.drain();
        threads.join();
    }

    /// Played by a folder whose projections the disk has damaged, and at last by one without room to rebuild them.
    #[tokio::test]
    async fn a_start_that_rebuilds_has_the_operators_port_until_the_node_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let rebuilt = "rebuilt the projections, starting";
        let without_room = "the projections are not rebuilt, and the log says why";
        for (shown_at_last, min_free_disk_bytes) in
            [(None, 0), (Some(rebuilt), 0), (Some(without_room), 1 << 60)]
        {
            let mut config = settings(&folder);
            config.metrics = Some((Ipv4Addr::LOCALHOST, 0).into());
            config.store.min_free_disk_bytes = min_free_disk_bytes;
            let opening = tokio::task::spawn_blocking(move || open(&config));
            let OpenedNode { engine, threads, rebuild, .. } = opening.await.unwrap().unwrap();
            assert_eq!(rebuild.is_some(), shown_at_last.is_some());
            if let (Some(pages), Some(at_last)) = (rebuild, shown_at_last) {
                let address = pages.address();
                let shown = tokio::task::spawn_blocking(move || page(address, "/status")).await;
                let shown = shown.unwrap();
                assert!(shown.starts_with("HTTP/1.1 503 "), "{shown}");
                assert!(shown.ends_with(&format!("\r\n\r\n{at_last}\n")), "{shown}");
                pages.end().await;
            }
            if min_free_disk_bytes == 0 {
                engine.store().condemn_damaged(&["usage"]).unwrap();
            }
            engine.drain();
            threads.join();
        }
    }

    /// Played by a machine that was set back: its host knows the folder, and its peers alone know better. They are
    /// asked after the tasks that sign have started.
    #[tokio::test]
    async fn a_known_folder_signs_nothing_before_peers_are_asked() {
        let folder = tempfile::tempdir().unwrap();
        for is_known in [false, true] {
            let config = settings(&folder);
            let opening = tokio::task::spawn_blocking(move || open(&config));
            let OpenedNode { engine, threads, .. } = opening.await.unwrap().unwrap();
            assert_eq!(engine.store().standing() == FolderStanding::Newest, is_known);
            assert!(engine.may_sign().is_err());
            engine.store().adopt().unwrap();
            engine.drain();
            threads.join();
        }
    }
}
