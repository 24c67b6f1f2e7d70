//! Typed settings of a node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hawser_chain::spending::SpendingLimits;
use hawser_engine::runtime::replication::{CatchUp, MigratedStrands};
use hawser_engine::runtime::{PayerReportSettings, PruneSettings, ScrubSettings};
use hawser_net::{PeerTransport, PlainTextPeers, PrivatePeers};
use hawser_proto::checkpoint::WitnessSigner;
use hawser_proto::{QuicAddress, SecretKey};
use hawser_serve::tls::{Tls, TlsFiles};
use hawser_storage::{BUFFERS_BYTES_MAX, CACHE_BYTES_MIN, Durability};

use super::bootstrap::BootstrapTrust;
use super::chains::ChainSettings;
use super::error::SettingsError;
use super::limits::CallerLimitSettings;
use super::parse;
use super::reader::{CHECKED, LogSettings, SettingsReader, StopSettings};
use super::sources::{SettingOrigin, SettingSources};
use super::table::{chains, limits, node};
use super::wallets::WalletSettings;
use super::witness::WitnessSource;
use crate::log_control::LogControl;

/// Settings of a node process.
#[derive(Debug)]
pub struct NodeServiceSettings {
    /// The API for clients, gateways and peers.
    pub api: NodeApiSettings,
    /// The address of metrics, health and status; `None` disables them.
    pub metrics: Option<SocketAddr>,
    /// True if other nodes are followed.
    pub sync: bool,
    /// The transports by which peers are reached.
    pub peer_transport: PeerTransport,
    /// The peers that may be called without TLS.
    pub plain_text_peers: PlainTextPeers,
    /// The peers that are dialled in private networks.
    pub private_peers: PrivatePeers,
    /// The condition under which readers are shown strands of other nodes. A replica shows verified envelopes only.
    pub catch_up: CatchUp,
    /// Source and signer of the strands of the older network; `None` if they are not followed.
    pub migrated: Option<MigratedStrands>,
    /// The node's key. A replica has a constant one, because it signs nothing with it.
    pub signer: SecretKey,
    /// The witness identity with which a replica cosigns checkpoints; `None` if it is not a witness, and for a node.
    pub witness: Option<WitnessSigner>,
    /// The witnesses whose cosignatures are stored.
    pub witnesses: Vec<WitnessSource>,
    /// The source of snapshots from which strands are filled while the node runs; `None` for none.
    pub bootstrap_from: Option<String>,
    /// The operator's trust decisions about the chain strands of a snapshot.
    pub bootstrap_trust: BootstrapTrust,
    /// The folder whose snapshots are served to new nodes; `None` if none are served.
    pub snapshot_serve: Option<PathBuf>,
    /// The URLs that a replica follows; an empty list follows all nodes of the registry. `None` for a node.
    pub follow: Option<Vec<String>>,
    /// The database.
    pub store: DatabaseSettings,
    /// True if a repeated payer envelope gets the first reply again.
    pub idempotent_publish: bool,
    /// Contract wallets.
    pub wallets: WalletSettings,
    /// Files that substitute for the chains, or for parts of them.
    pub files: StandInFiles,
    /// The chains, except those for which a file substitutes.
    pub chains: ChainSettings,
    /// True if other software may have payloads validated over gRPC.
    pub validation_api: bool,
    /// True if contract events are read into the log.
    pub indexer: bool,
    /// The payer report worker; `None` if it is disabled.
    pub payer_reports: Option<PayerReportSettings>,
    /// The cost ceilings of the transactions of payer reports.
    pub report_spending: SpendingLimits,
    /// Pruning. With an interval of zero the node prunes on command only.
    pub prune: PruneSettings,
    /// Background scrubs; `None` if they are disabled.
    pub scrub: Option<ScrubSettings>,
    /// The limits on callers.
    pub limits: CallerLimitSettings,
    /// Log lines.
    pub log: LogSettings,
    /// The time limits of stopping.
    pub stop: StopSettings,
    /// Warnings to log at the start: settings without effect, unknown names.
    pub notes: Vec<String>,
    /// The commit from which the program was built; empty if unknown. Not a setting: the program sets it.
    pub commit: &'static str,
    /// Changes the filter of log lines at run time; `None` if that is impossible. Not a setting: the program sets it.
    pub log_control: Option<LogControl>,
}

/// The API for clients, gateways and peers.
#[derive(Debug, Clone)]
pub struct NodeApiSettings {
    /// True if the API is served.
    pub enable: bool,
    /// The address of the API on TCP, and of QUIC on UDP.
    pub address: SocketAddr,
    /// The address at which this node states that it is reached over QUIC; `None` if it states none.
    pub quic_address: Option<QuicAddress>,
    /// The time after which a keep-alive frame is sent on a silent stream.
    pub keep_alive: Duration,
    /// True if gRPC reflection is enabled.
    pub reflection: bool,
    /// True if misbehavior reports are accepted and returned.
    pub misbehavior: bool,
    /// The memory that callers may make the node use above its idle memory, in bytes.
    pub memory_limit_bytes: usize,
    /// The certificate of the API; `None` without TLS.
    pub tls: Option<TlsFiles>,
}

/// The smallest [`NodeApiSettings::memory_limit_bytes`]. A guess: a node with less refuses usual requests.
const MEMORY_LIMIT_BYTES_MIN: usize = 256 << 20;

/// The smallest number of files that the database may be allowed to keep open. A guess:
/// it reopens others for each read.
const OPEN_FILES_MIN: usize = 64;

impl NodeApiSettings {
    /// Checks that the certificate's files can be used, if there are any.
    ///
    /// # Errors
    /// A sentence with the file that cannot be used.
    pub fn check_certificate(&self) -> Result<(), String> {
        let checked = self.tls.clone().map(Tls::load).transpose();
        checked.map(drop).map_err(|error| error.to_string())
    }

    /// Returns the part of the memory that is charged to calls. The remainder is for the write buffers of
    /// the database, which callers fill too, and a tenth for the allocator. A database cache above the
    /// smallest size is additional memory.
    #[must_use]
    pub fn callers_bytes_max(&self) -> usize {
        self.memory_limit_bytes.saturating_sub(BUFFERS_BYTES_MAX) / 10 * 9
    }
}

/// The database of a node.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// The data folder.
    pub data_dir: PathBuf,
    /// The folder with this host's records of its nodes.
    pub state_dir: PathBuf,
    /// True if the operator states that the key has published nothing in this network yet.
    pub new_strand: bool,
    /// The name of the network. A database belongs to one network.
    pub network: String,
    /// The point at which an envelope counts as stored.
    pub durability: Durability,
    /// The size of the database's cache in bytes; `None` for a fraction of this machine's memory.
    pub cache_bytes: Option<usize>,
    /// The number of files that the database may keep open; `None` for a part of the process's limit.
    pub open_files: Option<usize>,
    /// The free disk space in bytes below which nothing is written; 0 for no bound. The default, 1 GiB, has room for
    /// what RocksDB writes besides new envelopes: 128 MiB of memory tables, their write-ahead logs of 256 MiB, and a
    /// compaction of both. A fraction of the disk would leave terabytes unused on large disks.
    pub min_free_disk_bytes: u64,
}

/// Files that substitute for the chains.
#[derive(Debug, Clone)]
pub struct StandInFiles {
    /// The node registry.
    pub registry: Option<PathBuf>,
    /// The rate table.
    pub rates: Option<PathBuf>,
    /// The chain strands.
    pub chain: Option<PathBuf>,
}

impl NodeServiceSettings {
    /// Reads and checks the settings of a node.
    ///
    /// # Errors
    /// [`SettingsError`] with all errors.
    pub fn read(sources: &SettingSources) -> Result<Self, SettingsError> {
        Self::read_as(sources, false)
    }

    /// Reads and checks the settings of a replica: those of a node, without its key.
    ///
    /// # Errors
    /// [`SettingsError`] with all errors.
    pub fn read_replica(sources: &SettingSources) -> Result<Self, SettingsError> {
        Self::read_as(sources, true)
    }

    /// Reads all settings of a node, or of a replica.
    fn read_as(sources: &SettingSources, is_replica: bool) -> Result<Self, SettingsError> {
        let mut reader = SettingsReader::of_server(sources).in_role(is_replica);
        // Every part is read before any is returned, so that all errors are found.
        let (wallets, plain_text_peers) = (reader.wallets(), reader.plain_text_peers());
        let (api, metrics) = reader.listeners();
        let (sync, catch_up) = (reader.switch(&node::SYNC_ENABLE), reader.catch_up(is_replica));
        let peer_transport = reader.peer_transport(is_replica);
        let signer = reader.signer(is_replica);
        let (follow, witness) = (reader.follow(), reader.witness());
        let witnesses = reader.trusted_witnesses();
        let (limits, payer_reports) = (reader.caller_limits(), reader.payer_reports());
        let snapshot_serve = reader.snapshot_serve(limits.as_ref());
        let (bootstrap_from, bootstrap_trust) = reader.bootstrap();
        let idempotent_publish = reader.switch(&node::IDEMPOTENT_PUBLISH);
        let (store, files, chains) = (reader.database(), reader.stand_in_files(), reader.chains());
        let indexer = reader.switch(&node::INDEXER_ENABLE);
        let validation_api = reader.switch(&limits::VALIDATION_API);
        let (prune, scrub) = (reader.prune(), reader.scrub());
        let (private, log, stop) = (reader.private_peers(), reader.log(), reader.stop());
        reader.switch(&node::ALLOW_SECRET_FLAGS);
        let (migrated, report_spending) = (reader.migrated(), reader.report_spending());
        let mut notes = sources.notes();
        if reader.origin(&node::REPLICATION_ENABLE) != SettingOrigin::Default {
            notes.push("replication.enable is deprecated: it is called api.enable".into());
        }
        notes.extend(quic_address_note(api.as_ref(), sync, peer_transport));
        if !is_replica {
            let follows = follow.as_ref().is_some_and(|urls| !urls.is_empty());
            notes.extend(replica_notes(follows, matches!(witness, Some(Some(_)))));
        }
        notes.extend(sources.note_of_replica().filter(|_| is_replica));
        if let Some(chains) = &chains {
            reader.require_sources(&files, chains);
            reader.require_balances(limits.as_ref(), chains, indexer);
        }
        reader.finish(|| Self {
            api: api.expect(CHECKED),
            metrics: metrics.expect(CHECKED),
            sync: sync.expect(CHECKED),
            peer_transport: peer_transport.expect(CHECKED),
            plain_text_peers: plain_text_peers.expect(CHECKED),
            private_peers: private.expect(CHECKED),
            catch_up: catch_up.expect(CHECKED),
            signer: signer.expect(CHECKED),
            follow: follow.filter(|_| is_replica),
            witness: witness.expect(CHECKED).filter(|_| is_replica),
            witnesses: witnesses.expect(CHECKED),
            bootstrap_from: bootstrap_from.filter(|_| !is_replica),
            bootstrap_trust: bootstrap_trust.expect(CHECKED),
            snapshot_serve,
            store: store.expect(CHECKED),
            idempotent_publish: idempotent_publish.expect(CHECKED),
            wallets: wallets.expect(CHECKED),
            files,
            chains: chains.expect(CHECKED),
            migrated: migrated.expect(CHECKED),
            validation_api: validation_api.expect(CHECKED),
            indexer: indexer.expect(CHECKED),
            limits: limits.expect(CHECKED),
            payer_reports: payer_reports.expect(CHECKED).filter(|_| !is_replica),
            report_spending: report_spending.expect(CHECKED),
            prune: prune.expect(CHECKED),
            scrub: scrub.expect(CHECKED),
            log: log.expect(CHECKED),
            stop: stop.expect(CHECKED),
            notes,
            commit: "",
            log_control: None,
        })
    }

    /// Returns the UDP address at which peers are accepted over QUIC. `None` if the node opens no UDP port.
    #[must_use]
    pub(crate) fn quic_listen(&self) -> Option<SocketAddr> {
        (self.sync && self.peer_transport != PeerTransport::Grpc).then_some(self.api.address)
    }

    /// Returns the address that is announced to peers for QUIC. `None` if they use that of its
    /// registered URL, or if it opens no UDP port.
    #[must_use]
    pub(crate) fn announced_quic_address(&self) -> Option<QuicAddress> {
        self.api.quic_address.clone().filter(|_| self.quic_listen().is_some())
    }
}

/// Returns the notes about settings of a replica that were given to a node.
fn replica_notes(follows: bool, has_witness_key: bool) -> impl Iterator<Item = String> {
    let given = [(follows, "follow"), (has_witness_key, "witness-key")];
    let given = given.into_iter().filter(|(is_given, _)| *is_given);
    given.map(|(_, name)| format!("{name} has no effect on a node: it is for hawser audit watch"))
}

fn quic_address_note(
    api: Option<&NodeApiSettings>,
    sync: Option<bool>,
    transport: Option<PeerTransport>,
) -> Option<String> {
    let has_quic = transport? != PeerTransport::Grpc && sync?;
    let is_announced = api?.quic_address.is_some();
    (is_announced && !has_quic)
        .then(|| "quic-address has no effect: this node opens no UDP port".to_owned())
}

/// Returns the data folder, even if other settings are invalid.
///
/// # Errors
/// Fails when this setting, or the file with settings, is wrong.
pub fn data_dir(sources: &SettingSources) -> Result<PathBuf, SettingsError> {
    let mut reader = SettingsReader::new(sources);
    let path = reader.path(&node::DATA_DIR);
    reader.finish(|| path.expect(CHECKED))
}

/// Returns the state folder of this host, even if other settings are invalid.
///
/// # Errors
/// Fails when this setting, or the file with settings, is wrong.
pub fn state_dir(sources: &SettingSources) -> Result<PathBuf, SettingsError> {
    let mut reader = SettingsReader::new(sources);
    let path = reader.state_dir();
    reader.finish(|| path.expect(CHECKED))
}

/// Returns a path with all symbolic links of its existing part resolved.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest = Vec::new();
    for existing in path.ancestors() {
        if let Ok(existing) = existing.canonicalize() {
            return rest.into_iter().rev().fold(existing, |path, name| path.join(name));
        }
        rest.extend(existing.file_name());
    }
    path
}

/// Returns this user's default folder for programs' state, by the XDG Base Directory Specification.
fn usual_state_dir() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    let home = || folder("HOME").map(|home| home.join(".local/state"));
    let state = folder("XDG_STATE_HOME").filter(|it| it.is_absolute()).or_else(home);
    state.map(|state| state.join("hawser"))
}

/// Returns the address at which this machine reaches the node's metrics, even if other settings are invalid.
///
/// # Errors
/// Fails when these settings, or the file with settings, are wrong.
pub fn metrics_address(sources: &SettingSources) -> Result<SocketAddr, SettingsError> {
    let mut reader = SettingsReader::new(sources);
    let address = reader.ip(&node::METRICS_ADDRESS);
    let port = reader.get(&node::METRICS_PORT, parse::port);
    reader.finish(|| {
        let address = match address.expect(CHECKED) {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
            address => address,
        };
        SocketAddr::new(address, port.expect(CHECKED))
    })
}

impl SettingsReader<'_> {
    /// Reads which peers may be called without TLS: all of them, or those in private networks.
    fn plain_text_peers(&mut self) -> Option<PlainTextPeers> {
        Some(match self.switch(&node::ALLOW_INSECURE_PEERS)? {
            true => PlainTextPeers::All,
            false => PlainTextPeers::Private,
        })
    }

    /// Reads which peers are dialled in private networks. A registry file allows none: its addresses may be those that
    /// the peers have registered on the chain.
    fn private_peers(&mut self) -> Option<PrivatePeers> {
        Some(match self.switch(&node::ALLOW_PRIVATE_NODES)? {
            true => PrivatePeers::All,
            false => PrivatePeers::OfPrivateNodes,
        })
    }

    fn peer_transport(&mut self, is_replica: bool) -> Option<PeerTransport> {
        let transport = self.get(&node::PEER_TRANSPORT, |text| match text {
            "auto" => Some(PeerTransport::Auto),
            "quic" => Some(PeerTransport::Quic),
            "grpc" => Some(PeerTransport::Grpc),
            _ => None,
        })?;
        Some(if is_replica { PeerTransport::Grpc } else { transport })
    }

    /// Reads the catch-up rule. For a replica it is always [`CatchUp::Verified`]: others ask it for what it has
    /// verified, and it follows over gRPC, where no backlog is proven.
    fn catch_up(&mut self, is_replica: bool) -> Option<CatchUp> {
        let catch_up = self.get(&node::CATCH_UP, |text| match text {
            "verified" => Some(CatchUp::Verified),
            "checkpoints" => Some(CatchUp::Checkpoints),
            _ => None,
        })?;
        Some(if is_replica { CatchUp::Verified } else { catch_up })
    }

    /// Reads the key of a node. The key of a replica is not read from any source.
    fn signer(&mut self, is_replica: bool) -> Option<SecretKey> {
        if is_replica {
            return SecretKey::from_bytes(&[1; 32]).ok();
        }
        self.get(&node::SIGNER_PRIVATE_KEY, |text| SecretKey::from_hex(text).ok())
    }

    fn follow(&mut self) -> Option<Vec<String>> {
        self.unless_default(&node::FOLLOW, parse::web_urls)
    }

    /// Reads the settings of the API and the address of the operator port.
    fn listeners(&mut self) -> (Option<NodeApiSettings>, Option<Option<SocketAddr>>) {
        let (api, metrics) = (self.api(), self.metrics());
        let served = api.as_ref().filter(|api| api.enable).map(|api| api.address);
        self.require_two_ports(served, metrics);
        (api, metrics)
    }

    fn api(&mut self) -> Option<NodeApiSettings> {
        let enable = self.api_enabled();
        let listen = self.ip(&node::LISTEN_ADDRESS);
        let port = self.get(&node::API_PORT, parse::port);
        let one = |text: &str| QuicAddress::parse(text).map(|address| vec![address]);
        let quic_address = self.unless_default(&node::QUIC_ADDRESS, one);
        let keep_alive = self.duration_above_zero(&node::API_KEEP_ALIVE);
        let reflection = self.switch(&node::REFLECTION_ENABLE);
        let misbehavior = self.switch(&node::MISBEHAVIOR_API);
        let memory_limit_bytes = self.memory_limit();
        let tls = self.tls();
        Some(NodeApiSettings {
            enable: enable?,
            address: SocketAddr::new(listen?, port?),
            quic_address: quic_address?.pop(),
            keep_alive: keep_alive?,
            reflection: reflection?,
            misbehavior: misbehavior?,
            memory_limit_bytes: memory_limit_bytes?,
            tls,
        })
    }

    /// Reads the files of the API's certificate, if it has one.
    pub(super) fn tls(&mut self) -> Option<TlsFiles> {
        let mut file = |setting| self.protecting_file(setting);
        let (cert, key) = (file(&node::TLS_CERT), file(&node::TLS_KEY));
        let client_ca = file(&node::TLS_CLIENT_CA);
        match (cert, key) {
            (Some(cert), Some(key)) => return Some(TlsFiles { cert, key, client_ca }),
            (Some(_), None) => self.error(&node::TLS_KEY, None),
            (None, Some(_)) => self.error(&node::TLS_CERT, None),
            // An operator who asks for certificates must not serve callers without.
            (None, None) if client_ca.is_some() => self.error(&node::TLS_CERT, None),
            (None, None) => {}
        }
        None
    }

    pub(super) fn memory_limit(&mut self) -> Option<usize> {
        self.get(&node::API_MEMORY_LIMIT, |text| {
            parse::size(text).filter(|bytes| *bytes >= MEMORY_LIMIT_BYTES_MIN)
        })
    }

    /// Reads the switch of the API. The deprecated name is used if the current one is not given.
    fn api_enabled(&mut self) -> Option<bool> {
        let enable = self.switch(&node::API_ENABLE)?;
        let old = self.switch(&node::REPLICATION_ENABLE)?;
        let given = self.origin(&node::API_ENABLE) != SettingOrigin::Default;
        Some(if given { enable } else { enable && old })
    }

    /// Reads the settings of the database.
    fn database(&mut self) -> Option<DatabaseSettings> {
        let data_dir = self.path(&node::DATA_DIR);
        let state_dir = self.state_dir();
        if let (Some(data), Some(state)) = (&data_dir, &state_dir)
            && real(state).starts_with(real(data))
        {
            // A copy of the data folder would bring its own marker along, and sign places a second time.
            let given = format!("{} inside the data folder {}", state.display(), data.display());
            self.error(&node::STATE_DIR, Some(given));
        }
        let new_strand = self.switch(&node::NEW_STRAND);
        let network = self.get(&node::NETWORK, parse::network);
        let durability = self.get(&node::DURABILITY, |text| match text {
            "fsync" => Some(Durability::Fsync),
            "os" => Some(Durability::Os),
            _ => None,
        });
        let min_free_disk = self.get(&node::MIN_FREE_DISK, |text| match text {
            "0" => Some(0),
            size => parse::size(size).map(|bytes| bytes as u64),
        });
        let cache_bytes = self.get(&node::DATABASE_CACHE, |text| match text {
            "auto" => Some(None),
            size => parse::size(size).filter(|bytes| *bytes >= CACHE_BYTES_MIN).map(Some),
        });
        let open_files = self.get(&node::DATABASE_OPEN_FILES, |text| match text {
            "auto" => Some(None),
            number => number.parse().ok().filter(|files| *files >= OPEN_FILES_MIN).map(Some),
        });
        Some(DatabaseSettings {
            cache_bytes: cache_bytes?,
            open_files: open_files?,
            data_dir: data_dir?,
            state_dir: state_dir?,
            new_strand: new_strand?,
            network: network?,
            durability: durability?,
            min_free_disk_bytes: min_free_disk?,
        })
    }

    /// Reads the configured state folder, or else returns the user's default one.
    fn state_dir(&mut self) -> Option<PathBuf> {
        let given = self.non_empty(&node::STATE_DIR).map(PathBuf::from);
        let found = given.or_else(usual_state_dir);
        if found.is_none() {
            self.error(&node::STATE_DIR, None);
        }
        found
    }

    fn stand_in_files(&mut self) -> StandInFiles {
        let mut file = |setting| self.non_empty(setting).map(PathBuf::from);
        StandInFiles {
            registry: file(&node::REGISTRY_FILE),
            rates: file(&node::RATES_FILE),
            chain: file(&node::CHAIN_FILE),
        }
    }

    /// Requires the chain with the payers' balances if publishes depend on them.
    fn require_balances(
        &mut self,
        limits: Option<&CallerLimitSettings>,
        chains: &ChainSettings,
        indexer: Option<bool>,
    ) {
        let wanted = limits.is_some_and(|limits| limits.require_balance);
        let followed = !chains.contracts.settlement.urls.is_empty() && indexer == Some(true);
        if wanted && !followed {
            let given = "\"true\" without the settlement chain, where balances are, or without indexer.enable";
            self.error(&limits::REQUIRE_BALANCE, Some(given.to_owned()));
        }
    }

    /// Requires a source for each input: a file, or a chain that can be reached.
    fn require_sources(&mut self, files: &StandInFiles, chains: &ChainSettings) {
        let contracts = &chains.contracts;
        if contracts.settlement.urls.is_empty() {
            if contracts.app.urls.is_empty() && files.registry.is_none() && files.rates.is_none() {
                self.error(&chains::SETTLEMENT_RPC, None);
                self.error(&chains::APP_RPC, None);
                return;
            }
            for (file, setting) in
                [(&files.registry, &node::REGISTRY_FILE), (&files.rates, &node::RATES_FILE)]
            {
                if file.is_none() {
                    self.error(setting, None);
                }
            }
        } else if contracts.app.urls.is_empty() && files.chain.is_none() {
            self.error(&chains::APP_RPC, None);
        }
    }
}
