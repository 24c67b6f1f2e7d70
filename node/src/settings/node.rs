//! The settings of a node: from command line, environment and file to typed values, checked once.
//!
//! - [`settings`]: every setting that has an effect; [`ignored`]: those that have none;
//! - [`Given`]: what was given, and where;
//! - [`NodeConfig::read`]: what it means, or [`Faults`]: everything that is wrong with it;
//! - [`effective`]: the same for people to look at;
//! - [`contracts`]: chains and contracts, for the commands that use them;
//! - [`gateway`]: the same for a gateway.

pub mod contracts;
mod effective;
mod fault;
mod file;
mod forms;
pub mod gateway;
mod given;
pub mod ignored;
mod nearest;
pub mod settings;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hawser_proto::SecretKey;
use hawser_storage::Durability;
use tracing::Level;

pub use effective::{Effective, Shown, effective};
pub use fault::{Fault, Faults};
pub use forms::duration;
pub use given::{Given, Origin};

use contracts::ChainsConfig;
use given::Value;
use nearest::nearest;
use settings::{Kind, Setting};

/// Everything a node is told at its start.
#[derive(Debug)]
pub struct NodeConfig {
    /// What clients, gateways and peers call.
    pub api: ApiConfig,
    /// Where metrics, health and status are served, if they are.
    pub metrics: Option<SocketAddr>,
    /// Whether other nodes are followed.
    pub sync: bool,
    /// The node's key.
    pub signer: SecretKey,
    /// Where the log lies.
    pub store: StoreConfig,
    /// Answer the same payer envelope again with the first result.
    pub idempotent_publish: bool,
    /// Chain ids and URLs where contract wallets are asked, in order of preference.
    pub wallet_rpcs: Vec<(u64, String)>,
    /// Files that stand for the chains, or for a part of them.
    pub files: FilesConfig,
    /// The chains, as far as no file stands for them.
    pub chains: ChainsConfig,
    /// Whether contracts are read into the log.
    pub indexer: bool,
    /// Log lines.
    pub log: LogConfig,
    /// How it stops.
    pub stop: StopConfig,
    /// What should be said once there is a log: settings without effect, unknown names.
    pub notes: Vec<String>,
}

/// The listener for clients, gateways and peers.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Whether there is one.
    pub enable: bool,
    /// TCP for the API, UDP for QUIC.
    pub address: SocketAddr,
    /// How long a stream may be silent.
    pub keep_alive: Duration,
    /// Whether gRPC reflection is answered.
    pub reflection: bool,
}

/// The database.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The folder.
    pub data_dir: PathBuf,
    /// The network's name.
    pub network: String,
    /// When an envelope counts as stored.
    pub durability: Durability,
}

/// Files that stand for the chains.
#[derive(Debug, Clone)]
pub struct FilesConfig {
    /// The node registry.
    pub registry: Option<PathBuf>,
    /// The price list.
    pub rates: Option<PathBuf>,
    /// The chain strands.
    pub chain: Option<PathBuf>,
}

/// Log lines.
#[derive(Debug, Clone, Copy)]
pub struct LogConfig {
    /// The least important ones.
    pub level: Level,
    /// One JSON object per line instead of text.
    pub json: bool,
}

/// How a node stops.
#[derive(Debug, Clone, Copy)]
pub struct StopConfig {
    /// How long it still serves after the signal.
    pub drain: Duration,
    /// How long the rest may take.
    pub grace: Duration,
}

impl NodeConfig {
    /// Makes typed settings of what was given.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub fn read(given: &Given) -> Result<Self, Faults> {
        let mut reader = Reader { given, faults: given.misplaced() };
        // All parts are read before anything is given up, so that all faults are found.
        let wallet_rpcs = reader.wallet_rpcs();
        let config = (
            reader.api(),
            reader.metrics(),
            reader.switch(&settings::SYNC_ENABLE),
            reader.signer(),
            reader.store(),
            reader.switch(&settings::IDEMPOTENT_PUBLISH),
            reader.files(),
            reader.chains(),
            reader.switch(&settings::INDEXER_ENABLE),
            reader.log(),
            reader.stop(),
            reader.switch(&settings::ALLOW_SECRET_FLAGS),
        );
        let notes = reader.notes();
        if let (files, Some(chains)) = (&config.6, &config.7) {
            reader.require_sources(files, chains);
        }
        let faults = Faults(reader.faults);
        if !faults.0.is_empty() {
            return Err(faults);
        }
        let (api, metrics, sync, signer, store, idempotent_publish, files, chains, indexer, ..) =
            config;
        let (.., log, stop, _) = config;
        Ok(Self {
            api: api.expect(CHECKED),
            metrics: metrics.expect(CHECKED),
            sync: sync.expect(CHECKED),
            signer: signer.expect(CHECKED),
            store: store.expect(CHECKED),
            idempotent_publish: idempotent_publish.expect(CHECKED),
            wallet_rpcs: wallet_rpcs.expect(CHECKED),
            files,
            chains: chains.expect(CHECKED),
            indexer: indexer.expect(CHECKED),
            log: log.expect(CHECKED),
            stop: stop.expect(CHECKED),
            notes,
        })
    }
}

/// Where the database lies, whatever the other settings are.
///
/// # Errors
/// When that, or the file with settings, is wrong.
pub fn data_dir(given: &Given) -> Result<PathBuf, Faults> {
    let mut reader = Reader { given, faults: given.misplaced() };
    match reader.path(&settings::DATA_DIR) {
        Some(path) if reader.faults.is_empty() => Ok(path),
        _ => Err(Faults(reader.faults)),
    }
}

/// Where this machine reaches the node's metrics, whatever the other settings are.
///
/// # Errors
/// When that, or the file with settings, is wrong.
pub fn metrics_address(given: &Given) -> Result<SocketAddr, Faults> {
    let mut reader = Reader { given, faults: given.misplaced() };
    let address = reader.ip(&settings::METRICS_ADDRESS);
    let port = reader.get(&settings::METRICS_PORT, forms::port);
    match (address, port) {
        (Some(address), Some(port)) if reader.faults.is_empty() => {
            let local = match address {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
                address => address,
            };
            Ok(SocketAddr::new(local, port))
        }
        _ => Err(Faults(reader.faults)),
    }
}

/// Why a part can be taken once there are no faults.
const CHECKED: &str = "whatever was not read has left a fault";

/// Reads settings one by one and collects what is wrong. Whatever returns `None` has left a fault.
struct Reader<'a> {
    given: &'a Given,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn api(&mut self) -> Option<ApiConfig> {
        let enable = self.api_enabled();
        let listen = self.ip(&settings::LISTEN_ADDRESS);
        let port = self.get(&settings::API_PORT, forms::port);
        let above_zero = |text: &str| forms::duration(text).filter(|time| !time.is_zero());
        let keep_alive = self.get(&settings::API_KEEP_ALIVE, above_zero);
        let reflection = self.switch(&settings::REFLECTION_ENABLE);
        Some(ApiConfig {
            enable: enable?,
            address: SocketAddr::new(listen?, port?),
            keep_alive: keep_alive?,
            reflection: reflection?,
        })
    }

    /// The deprecated name counts when the name itself is not given.
    fn api_enabled(&mut self) -> Option<bool> {
        let enable = self.switch(&settings::API_ENABLE)?;
        let old = self.switch(&settings::REPLICATION_ENABLE)?;
        let given = self.origin(&settings::API_ENABLE) != Origin::Default;
        Some(if given { enable } else { enable && old })
    }

    fn metrics(&mut self) -> Option<Option<SocketAddr>> {
        let enable = self.switch(&settings::METRICS_ENABLE);
        let address = self.ip(&settings::METRICS_ADDRESS);
        let port = self.get(&settings::METRICS_PORT, forms::port);
        let address = SocketAddr::new(address?, port?);
        Some(enable?.then_some(address))
    }

    fn signer(&mut self) -> Option<SecretKey> {
        self.get(&settings::SIGNER_PRIVATE_KEY, |text| SecretKey::from_hex(text).ok())
    }

    fn store(&mut self) -> Option<StoreConfig> {
        let data_dir = self.path(&settings::DATA_DIR);
        let network = self.get(&settings::NETWORK, forms::network);
        let durability = self.get(&settings::DURABILITY, |text| match text {
            "fsync" => Some(Durability::Fsync),
            "os" => Some(Durability::Os),
            _ => None,
        });
        Some(StoreConfig { data_dir: data_dir?, network: network?, durability: durability? })
    }

    fn files(&mut self) -> FilesConfig {
        let mut file = |setting| {
            let text = self.text(setting).map(|value| value.text.trim().to_owned());
            text.filter(|text| !text.is_empty()).map(PathBuf::from)
        };
        FilesConfig {
            registry: file(&settings::REGISTRY_FILE),
            rates: file(&settings::RATES_FILE),
            chain: file(&settings::CHAIN_FILE),
        }
    }

    /// Everything has to come from somewhere: from a file, or from a chain that is reached.
    fn require_sources(&mut self, files: &FilesConfig, chains: &ChainsConfig) {
        let contracts = &chains.contracts;
        if contracts.settlement.urls.is_empty() {
            if contracts.app.urls.is_empty() && files.registry.is_none() && files.rates.is_none() {
                self.fault(&contracts::SETTLEMENT_RPC, None);
                self.fault(&contracts::APP_RPC, None);
                return;
            }
            for (file, setting) in
                [(&files.registry, &settings::REGISTRY_FILE), (&files.rates, &settings::RATES_FILE)]
            {
                if file.is_none() {
                    self.fault(setting, None);
                }
            }
        } else if contracts.app.urls.is_empty() && files.chain.is_none() {
            self.fault(&contracts::APP_RPC, None);
        }
    }

    /// None by default: contract wallets are rare.
    fn wallet_rpcs(&mut self) -> Option<Vec<(u64, String)>> {
        if self.origin(&settings::WALLET_RPC) == Origin::Default {
            return Some(Vec::new());
        }
        self.get(&settings::WALLET_RPC, forms::chain_urls)
    }

    fn log(&mut self) -> Option<LogConfig> {
        let level = self.get(&settings::LOG_LEVEL, forms::level);
        let json = self.get(&settings::LOG_ENCODING, |text| match text {
            "console" => Some(false),
            "json" => Some(true),
            _ => None,
        });
        Some(LogConfig { level: level?, json: json? })
    }

    fn stop(&mut self) -> Option<StopConfig> {
        let drain = self.get(&settings::SHUTDOWN_DRAIN, forms::duration);
        let grace = self.get(&settings::SHUTDOWN_GRACE, forms::duration);
        Some(StopConfig { drain: drain?, grace: grace? })
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.given.notes();
        if self.origin(&settings::REPLICATION_ENABLE) != Origin::Default {
            notes.push("replication.enable is deprecated: it is called api.enable".into());
        }
        notes
    }

    fn origin(&self, setting: &Setting) -> Origin {
        match self.given.value(setting) {
            Ok(Some(value)) => value.origin,
            _ => Origin::Default,
        }
    }

    fn switch(&mut self, setting: &Setting) -> Option<bool> {
        self.get(setting, forms::switch)
    }

    fn ip(&mut self, setting: &Setting) -> Option<IpAddr> {
        self.get(setting, |text| text.parse().ok())
    }

    fn path(&mut self, setting: &Setting) -> Option<PathBuf> {
        self.get(setting, |text| (!text.is_empty()).then(|| text.into()))
    }

    /// A required setting.
    fn get<T>(&mut self, setting: &Setting, form: impl Fn(&str) -> Option<T>) -> Option<T> {
        let before = self.faults.len();
        let Some(value) = self.text(setting) else {
            if self.faults.len() == before {
                self.fault(setting, None);
            }
            return None;
        };
        let read = form(&value.text);
        if read.is_none() {
            let given = match setting.kind {
                Kind::Secret { .. } => "(secret, not shown)".to_owned(),
                Kind::Value | Kind::Urls | Kind::Switch => format!("{:?}", value.text.as_str()),
            };
            self.fault(setting, Some(given));
        }
        read
    }

    fn text(&mut self, setting: &Setting) -> Option<Value> {
        self.given.value(setting).unwrap_or_else(|fault| {
            self.faults.push(fault);
            None
        })
    }

    fn fault(&mut self, setting: &Setting, given: Option<String>) {
        let fault = Fault {
            name: format!("--{} ({})", setting.flag, setting.env),
            given,
            expected: setting.form.into(),
            example: setting.example.into(),
        };
        self.faults.push(fault);
    }
}

#[cfg(test)]
mod tests;
