//! A development network's chains: two of them with all contracts on them, and the bridge between
//! the two. They run in this process, or as two processes of anvil.
//!
//! For development and tests only: whoever reaches the ports controls the chains, and the keys of
//! all accounts are known to everybody. Both listen on this machine only.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::Address;
use alloy::providers::Provider as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::anvil::{Anvil, AnvilError, AnvilSettings};
use crate::control::DevChain;
use crate::deploy::{
    self, DeployError, Deployment, FundError, NATIVE_BALANCE, NodeRegistration, RegisterError,
};
use crate::embedded::{EmbeddedChain, EmbeddedSettings, EmbeddedStartError, Genesis};
use crate::relay::{Relay, RelayError, RelayPolicy};
use hawser_chain::send::{Chain, ConnectError, RequestError, Sender};

/// The settlement chain's id.
pub const SETTLEMENT_ID: u64 = 31337;
/// The app chain's id.
pub const APP_ID: u64 = 31338;

/// The time of the first block of both chains, the same each time: 2025-01-01.
const GENESIS_TIME: u64 = 1_735_689_600;
/// Blocks on demand of the embedded chain are at least a second apart, and a deployment makes some
/// dozens at once. So that they do not lie in the future, a new chain is deployed to so long ago.
const PAST: Duration = Duration::from_secs(300);

/// What the chains of a development network are started with.
#[derive(Debug, Clone, Default)]
pub struct DevnetSettings {
    /// The app chain's port; 0 takes a free one.
    pub app_port: u16,
    /// The settlement chain's port; 0 takes a free one.
    pub settlement_port: u16,
    /// Where the chains are kept. Without a folder they end with the process.
    pub data_dir: Option<PathBuf>,
    /// One block each time so many whole seconds have passed, instead of blocks on demand.
    pub block_time: Option<Duration>,
    /// Nodes that the registry shall have.
    pub nodes: Vec<NodeRegistration>,
    /// Who shall own what publishing costs.
    pub payer: Option<Address>,
    /// The anvil to run the chains with, instead of this process.
    pub anvil: Option<PathBuf>,
}

/// Why the chains of a development network do not run.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// A chain does not start.
    #[error("the {chain} chain: {error}")]
    Start {
        /// `app` or `settlement`.
        chain: &'static str,
        /// Why.
        error: EmbeddedStartError,
    },
    /// Anvil does not start.
    #[error("the {chain} chain: {error}")]
    Anvil {
        /// `app` or `settlement`.
        chain: &'static str,
        /// Why.
        error: AnvilError,
    },
    /// The folder for what anvil keeps cannot be made.
    #[error("{folder}: {source}")]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A chain that was just started does not answer.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The contracts are not all there.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// The nodes are not registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The payer cannot pay.
    #[error(transparent)]
    Fund(#[from] FundError),
    /// The bridge does not work.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// A chain has stopped answering.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

/// A chain, whoever runs it.
#[derive(Debug)]
enum RunningChain {
    Embedded(EmbeddedChain),
    Anvil(Anvil),
}

impl RunningChain {
    fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Embedded(chain) => chain.local_addr(),
            Self::Anvil(anvil) => anvil.local_addr(),
        }
    }

    fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }

    async fn stop(self) {
        match self {
            Self::Embedded(chain) => chain.stop().await,
            Self::Anvil(anvil) => anvil.stop().await,
        }
    }
}

/// The chains of a development network, running.
#[derive(Debug)]
pub struct Devnet {
    settlement: RunningChain,
    app: RunningChain,
    deployment: Deployment,
    relay: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Devnet {
    /// Starts both chains, deploys what is not there, registers the nodes, and begins to carry
    /// messages between the chains. Takes about a second for new chains.
    ///
    /// # Errors
    /// Says what did not work. What was done stays in the folder, and the next start continues.
    pub async fn start(settings: DevnetSettings) -> Result<Self, DevnetError> {
        let settlement = launch("settlement", SETTLEMENT_ID, settings.settlement_port, &settings);
        let (settlement, to_settlement) = settlement.await?;
        let (app, to_app) = launch("app", APP_ID, settings.app_port, &settings).await?;
        for (chain, running) in [(&to_settlement, &settlement), (&to_app, &app)] {
            if running.is_embedded() {
                begin_in_the_past(chain).await?;
            }
        }
        let deployer = deploy::deployer();
        let deployment = deploy::deploy(&to_settlement, &to_app, &deployer).await?;
        let admin = Sender::new(to_settlement.clone(), deployer);
        let registry = deployment.addresses.node_registry;
        deploy::register_nodes(&admin, registry, &settings.nodes).await?;
        if let Some(payer) = settings.payer {
            deploy::fund_payer(&admin, &to_app, &deployment.addresses, payer).await?;
        }
        for (chain, running) in [(&to_settlement, &settlement), (&to_app, &app)] {
            if running.is_embedded() {
                arrive_in_the_present(chain).await?;
            }
            if let Some(block_time) = settings.block_time {
                DevChain(chain).make_blocks_every(block_time).await?;
            }
        }
        let relay = Relay::of(&to_settlement, &to_app, &deployment.addresses).await?;
        let (end, ended) = oneshot::channel();
        let relay = tokio::spawn(relay.run(RelayPolicy::default(), async {
            // Dropped or sent: both mean the end.
            let _ = ended.await;
        }));
        Ok(Self { settlement, app, deployment, relay, end })
    }

    /// What was deployed, and where.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Where the settlement chain listens, for HTTP and WebSocket.
    #[must_use]
    pub fn settlement_address(&self) -> SocketAddr {
        self.settlement.local_addr()
    }

    /// Where the app chain listens, for HTTP and WebSocket.
    #[must_use]
    pub fn app_address(&self) -> SocketAddr {
        self.app.local_addr()
    }

    /// Ends everything, and lets go of the folder.
    pub async fn stop(self) {
        let _ = self.end.send(());
        // A relayer that has panicked has nothing left to end.
        let _ = self.relay.await;
        self.app.stop().await;
        self.settlement.stop().await;
    }
}

async fn launch(
    name: &'static str,
    id: u64,
    port: u16,
    settings: &DevnetSettings,
) -> Result<(RunningChain, Chain), DevnetError> {
    let chain = match &settings.anvil {
        None => RunningChain::Embedded(embedded(name, id, port, settings).await?),
        Some(program) => RunningChain::Anvil(anvil(name, id, port, settings, program).await?),
    };
    let connection = Chain::connect(&format!("http://{}", chain.local_addr()), id).await?;
    Ok((chain, connection))
}

async fn embedded(
    name: &'static str,
    id: u64,
    port: u16,
    settings: &DevnetSettings,
) -> Result<EmbeddedChain, DevnetError> {
    let accounts = deploy::accounts();
    let balances = accounts.iter().map(|key| (key.address(), NATIVE_BALANCE)).collect();
    let chain = EmbeddedChain::start(EmbeddedSettings {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        data_dir: settings.data_dir.as_ref().map(|folder| folder.join(name)),
        genesis: Genesis { balances, time: Some(GENESIS_TIME), ..Genesis::default() },
        ..EmbeddedSettings::new(id)
    });
    chain.await.map_err(|error| DevnetError::Start { chain: name, error })
}

async fn anvil(
    name: &'static str,
    chain_id: u64,
    port: u16,
    settings: &DevnetSettings,
    program: &Path,
) -> Result<Anvil, DevnetError> {
    if let Some(folder) = &settings.data_dir {
        let failed = |source| DevnetError::Folder { folder: folder.clone(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let state = settings.data_dir.as_ref().map(|folder| folder.join(format!("{name}-anvil.json")));
    let anvil = Anvil::start(AnvilSettings { program: program.to_owned(), chain_id, port, state });
    anvil.await.map_err(|error| DevnetError::Anvil { chain: name, error })
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Lets a new chain's clock lag behind.
async fn begin_in_the_past(chain: &Chain) -> Result<(), RequestError> {
    let (number, _) = block(chain, BlockNumberOrTag::Latest).await?;
    let past = now().saturating_sub(PAST.as_secs());
    if number == 0 { DevChain(chain).set_clock(past).await } else { Ok(()) }
}

/// Sets the clock right if it is behind. One that is ahead was moved by somebody, and is left.
async fn arrive_in_the_present(chain: &Chain) -> Result<(), RequestError> {
    let (_, next) = block(chain, BlockNumberOrTag::Pending).await?;
    if next < now() { DevChain(chain).set_clock(now()).await } else { Ok(()) }
}

async fn block(chain: &Chain, at: BlockNumberOrTag) -> Result<(u64, u64), RequestError> {
    let block = chain.provider().get_block_by_number(at).await;
    let block = block.map_err(|error| chain.fault("eth_getBlockByNumber", error))?;
    Ok(block.map_or((0, 0), |block| (block.header.number, block.header.timestamp)))
}
