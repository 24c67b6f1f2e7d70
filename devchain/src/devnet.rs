//! The chains of a development network: two chains with all contracts, and the bridge between them. They run in this
//! process, or as two anvil processes.
//!
//! For development and tests only: any client that reaches the ports controls the chains, and the keys of all accounts
//! are public. Both chains listen on the loopback interface only.

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
    self, Deployment, DevDeployError, FundError, NATIVE_BALANCE, NodeRegistration, RegisterError,
};
use crate::embedded::{EmbeddedChain, EmbeddedSettings, EmbeddedStartError, Genesis};
use crate::relay::{Relay, RelayError, RelayPolicy};
use hawser_chain::send::{Chain, ConnectError, RequestError, Sender};

/// The chain id of the settlement chain.
pub const SETTLEMENT_ID: u64 = 31337;
/// The chain id of the app chain.
pub const APP_ID: u64 = 31338;

/// The time of the first block of both chains: 2025-01-01, a fixed date so that equal runs give equal blocks.
const GENESIS_TIME: u64 = 1_735_689_600;
/// The time by which the clock of a new embedded chain is set back for the deployment.
///
/// Blocks on demand are at least a second apart, and a deployment makes dozens of them at once. With the clock set
/// back, their timestamps are not in the future. A guess: several times the length of a deployment.
const PAST: Duration = Duration::from_secs(300);

/// Settings of the chains of a development network.
#[derive(Debug, Clone, Default)]
pub struct DevnetSettings {
    /// The app chain's port; 0 selects a free one.
    pub app_port: u16,
    /// The settlement chain's port; 0 selects a free one.
    pub settlement_port: u16,
    /// The folder of the chains. If `None`, the chains are lost when the process ends.
    pub data_dir: Option<PathBuf>,
    /// The interval between blocks, in whole seconds; `None` makes blocks on demand.
    pub block_time: Option<Duration>,
    /// Nodes to register.
    pub nodes: Vec<NodeRegistration>,
    /// The payer to fund for publishing.
    pub payer: Option<Address>,
    /// The anvil program that runs the chains; `None` uses the embedded chain.
    pub anvil: Option<PathBuf>,
}

/// Error of starting the chains of a development network.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// An embedded chain does not start.
    #[error("the {chain} chain: {error}")]
    Start {
        /// The chain's role: `app` or `settlement`.
        chain: &'static str,
        /// The error of its start.
        error: EmbeddedStartError,
    },
    /// Anvil does not start.
    #[error("the {chain} chain: {error}")]
    Anvil {
        /// The chain's role: `app` or `settlement`.
        chain: &'static str,
        /// The error of its start.
        error: AnvilError,
    },
    /// The folder for anvil's state cannot be created.
    #[error("{folder}: {source}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A chain that was just started does not answer.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The deployment is not complete.
    #[error(transparent)]
    Deploy(#[from] DevDeployError),
    /// The nodes are not registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The payer is not funded.
    #[error(transparent)]
    Fund(#[from] FundError),
    /// The relay failed.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// A chain has stopped answering.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

/// A chain in this process or in an anvil process.
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

/// The running chains of a development network, with the relay between them.
#[derive(Debug)]
pub struct Devnet {
    settlement: RunningChain,
    app: RunningChain,
    deployment: Deployment,
    relay: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Devnet {
    /// Starts both chains, deploys missing contracts, registers the nodes, and starts the relay. Takes about a second
    /// for new chains.
    ///
    /// # Errors
    /// The error of the step that failed. The data folder keeps earlier steps, and the next start continues after them.
    pub async fn start(settings: DevnetSettings) -> Result<Self, DevnetError> {
        let settlement = launch("settlement", SETTLEMENT_ID, settings.settlement_port, &settings);
        let (settlement, to_settlement) = settlement.await?;
        let (app, to_app) = launch("app", APP_ID, settings.app_port, &settings).await?;
        for (chain, running) in [(&to_settlement, &settlement), (&to_app, &app)] {
            if running.is_embedded() {
                set_clock_back(chain).await?;
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
                set_clock_to_now(chain).await?;
            }
            if let Some(block_time) = settings.block_time {
                DevChain(chain).make_blocks_every(block_time).await?;
            }
        }
        let relay = Relay::of(&to_settlement, &to_app, &deployment.addresses).await?;
        let (end, ended) = oneshot::channel();
        let relay = tokio::spawn(relay.run(RelayPolicy::default(), async {
            // A dropped sender also means that the task has to end.
            let _ = ended.await;
        }));
        Ok(Self { settlement, app, deployment, relay, end })
    }

    /// Returns the deployment with its addresses.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Returns the address of the settlement chain, HTTP and WebSocket.
    #[must_use]
    pub fn settlement_address(&self) -> SocketAddr {
        self.settlement.local_addr()
    }

    /// Returns the address of the app chain, HTTP and WebSocket.
    #[must_use]
    pub fn app_address(&self) -> SocketAddr {
        self.app.local_addr()
    }

    /// Stops the relay and both chains, and releases the folder.
    pub async fn stop(self) {
        let _ = self.end.send(());
        // An error means that the relay panicked, so it has ended.
        let _ = self.relay.await;
        self.app.stop().await;
        self.settlement.stop().await;
    }
}

/// Starts a chain and connects to it.
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
        signers: accounts,
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
    let anvil = Anvil::start(AnvilSettings {
        program: program.to_owned(),
        chain_id,
        port,
        state,
        idle_blocks: true,
    });
    anvil.await.map_err(|error| DevnetError::Anvil { chain: name, error })
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Sets the clock of a new chain back by [`PAST`].
async fn set_clock_back(chain: &Chain) -> Result<(), RequestError> {
    let (number, _) = block(chain, BlockNumberOrTag::Latest).await?;
    let past = now().saturating_sub(PAST.as_secs());
    if number == 0 { DevChain(chain).set_clock(past).await } else { Ok(()) }
}

/// Sets the clock to now if it is behind. A clock that is ahead is kept, because a developer moved it.
async fn set_clock_to_now(chain: &Chain) -> Result<(), RequestError> {
    let (_, next) = block(chain, BlockNumberOrTag::Pending).await?;
    if next < now() { DevChain(chain).set_clock(now()).await } else { Ok(()) }
}

/// Returns number and time of a block.
async fn block(chain: &Chain, at: BlockNumberOrTag) -> Result<(u64, u64), RequestError> {
    let block = chain.provider().get_block_by_number(at).await;
    let block = block.map_err(|error| chain.request_error("eth_getBlockByNumber", error))?;
    Ok(block.map_or((0, 0), |block| (block.header.number, block.header.timestamp)))
}
