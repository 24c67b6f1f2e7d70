//! A development network's chains in one process: two embedded chains with all contracts on them,
//! and the bridge between the two.
//!
//! For development and tests only: whoever reaches the ports controls the chains, and the keys of
//! all accounts are known to everybody. Both listen on this machine only.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::eips::BlockNumberOrTag;
use alloy::providers::Provider as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::deploy::{self, DeployError, Deployment, NATIVE_BALANCE, Node, RegisterError};
use crate::embedded::{EmbeddedChain, Genesis, Settings, StartError};
use crate::relay::{Policy, Relay, RelayError};
use crate::send::dev::DevChain;
use crate::send::{Chain, ConnectError, RpcFault, Sender};

/// The settlement chain's id.
pub const SETTLEMENT_ID: u64 = 31337;
/// The app chain's id.
pub const APP_ID: u64 = 31338;

/// The time of the first block of both chains, the same each time: 2025-01-01.
const GENESIS_TIME: u64 = 1_735_689_600;
/// Blocks on demand are at least a second apart, and a deployment makes some dozens at once. So
/// that they do not lie in the future, a new chain is deployed to so long ago.
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
    pub nodes: Vec<Node>,
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
        error: StartError,
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
    /// The bridge does not work.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// A chain has stopped answering.
    #[error(transparent)]
    Rpc(#[from] RpcFault),
}

/// The chains of a development network, running.
#[derive(Debug)]
pub struct Devnet {
    settlement: EmbeddedChain,
    app: EmbeddedChain,
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
        for chain in [&to_settlement, &to_app] {
            begin_in_the_past(chain).await?;
        }
        let deployer = deploy::deployer();
        let deployment = deploy::deploy(&to_settlement, &to_app, &deployer).await?;
        let admin = Sender::new(to_settlement.clone(), deployer);
        let registry = deployment.addresses.node_registry;
        deploy::register_nodes(&admin, registry, &settings.nodes).await?;
        for chain in [&to_settlement, &to_app] {
            arrive_in_the_present(chain).await?;
            if let Some(block_time) = settings.block_time {
                DevChain(chain).make_blocks_every(block_time).await?;
            }
        }
        let relay = Relay::of(&to_settlement, &to_app, &deployment.addresses).await?;
        let (end, ended) = oneshot::channel();
        let relay = tokio::spawn(relay.run(Policy::default(), async {
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
) -> Result<(EmbeddedChain, Chain), DevnetError> {
    let accounts = deploy::accounts();
    let balances = accounts.iter().map(|key| (key.address(), NATIVE_BALANCE)).collect();
    let chain = EmbeddedChain::start(Settings {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        data_dir: settings.data_dir.as_ref().map(|folder| folder.join(name)),
        genesis: Genesis { balances, time: Some(GENESIS_TIME), ..Genesis::default() },
        ..Settings::new(id)
    });
    let chain = chain.await.map_err(|error| DevnetError::Start { chain: name, error })?;
    let connection = Chain::connect(&format!("http://{}", chain.local_addr()), id).await?;
    Ok((chain, connection))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Lets a new chain's clock lag behind.
async fn begin_in_the_past(chain: &Chain) -> Result<(), RpcFault> {
    let (number, _) = block(chain, BlockNumberOrTag::Latest).await?;
    let past = now().saturating_sub(PAST.as_secs());
    if number == 0 { DevChain(chain).set_clock(past).await } else { Ok(()) }
}

/// Sets the clock right if it is behind. One that is ahead was moved by somebody, and is left.
async fn arrive_in_the_present(chain: &Chain) -> Result<(), RpcFault> {
    let (_, next) = block(chain, BlockNumberOrTag::Pending).await?;
    if next < now() { DevChain(chain).set_clock(now()).await } else { Ok(()) }
}

async fn block(chain: &Chain, at: BlockNumberOrTag) -> Result<(u64, u64), RpcFault> {
    let block = chain.provider().get_block_by_number(at).await;
    let block = block.map_err(|error| chain.fault("eth_getBlockByNumber", error))?;
    Ok(block.map_or((0, 0), |block| (block.header.number, block.header.timestamp)))
}
