//! Deploys all contracts on two development chains, at the same addresses on every fresh pair.
//!
//! The order follows the dependencies of the contracts: factory, parameter registry, tokens, registries, gateways; then
//! parameters, the contracts' copies of them, test tokens, and the transfer of parameters over the bridge. Every step
//! first checks if it is done, so a run continues an incomplete deployment and leaves a complete one as it is.
//!
//! The administrator of all contracts is [`deployer`], whose key is public: for development only.

mod accounts;
mod layout;
mod nodes;
mod payers;
mod plan;
mod setup;

use alloy::primitives::Address;
use alloy::providers::Provider as _;
use alloy::signers::local::PrivateKeySigner;
use tracing::debug;

use crate::control::DevChain;
use crate::relay::{ARB_SYS, RelayError};
use hawser_chain::addresses::Addresses;
use hawser_chain::contracts::Factory;
use hawser_chain::send::{Call, Chain, RequestError, SendError, Sender, ViewError};
use layout::{Layout, contract, proxy_code};
use plan::{DeploymentPlan, PlannedContract};

pub use accounts::{NATIVE_BALANCE, accounts, deployer};
pub use nodes::{NodeRegistration, RegisterError, register_nodes};
pub use payers::{FundError, fund_payer};

/// A complete deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Addresses of the contracts.
    pub addresses: Addresses,
    /// The inbox where the settlement chain's gateway leaves messages for the app chain.
    pub inbox: Address,
    /// Transactions that this run sent; 0 if the deployment was complete.
    pub transactions: u64,
}

/// The reason why a deployment is not complete. A second run continues it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeployError {
    /// Both chains have the same id, so a transaction for one would be valid on the other.
    #[error("the two chains need different ids, and both have {0}")]
    SameChain(u64),
    /// The deployer sent other transactions first, so the addresses would differ.
    #[error(
        "{account} has sent {sent} transactions on chain {chain_id}, and its first two must create \
         the factory: use a fresh chain"
    )]
    DeployerUsed {
        /// The deployer.
        account: Address,
        /// The chain.
        chain_id: u64,
        /// Transactions that it sent.
        sent: u64,
    },
    /// The factory has another build than this one.
    #[error(
        "the factory at {factory} on chain {chain_id} was built by another version: use a fresh chain"
    )]
    OtherFactory {
        /// Address of the factory.
        factory: Address,
        /// The chain.
        chain_id: u64,
    },
    /// A transaction was not sent, or failed.
    #[error("{what}: {error}")]
    Step {
        /// The step of the deployment.
        what: String,
        /// The error of the transaction.
        error: SendError,
    },
    /// The parameters did not arrive on the app chain.
    #[error("parameters have not arrived on the app chain: {told}")]
    NotBridged {
        /// The results of the messages.
        told: String,
    },
    /// A contract could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A chain does not answer.
    #[error(transparent)]
    Rpc(#[from] RequestError),
    /// The relay failed.
    #[error(transparent)]
    Relay(#[from] RelayError),
}

/// Sends the transactions of a deployment to one chain.
struct ChainDeployer {
    sender: Sender,
    transactions: u64,
}

/// Deploys all missing contracts on two development chains.
///
/// The caller must hold the deployer's account for itself: a foreign transaction would change addresses.
///
/// # Errors
/// The step that failed. A second run continues there.
pub async fn deploy(
    settlement: &Chain,
    app: &Chain,
    deployer: &PrivateKeySigner,
) -> Result<Deployment, DeployError> {
    if settlement.id() == app.id() {
        return Err(DeployError::SameChain(app.id()));
    }
    let plan = DeploymentPlan::new(deployer.address(), settlement.id(), app.id());
    let registry = plan.addresses.app_chain_parameter_registry;
    let mut on_settlement = ChainDeployer::new(settlement, deployer).await?;
    on_settlement.deploy(&plan.layout, registry, &plan.settlement).await?;
    let mut on_app = ChainDeployer::new(app, deployer).await?;
    on_app.deploy(&plan.layout, registry, &plan.app).await?;
    if !app.has_code(ARB_SYS).await? {
        DevChain(app).set_code(ARB_SYS, &contract("ArbSys").deployed_code).await?;
    }
    setup::set_up(&plan, &mut on_settlement, &mut on_app).await?;
    let transactions = on_settlement.transactions + on_app.transactions;
    Ok(Deployment { addresses: plan.addresses, inbox: plan.inbox, transactions })
}

impl ChainDeployer {
    /// Waits until all transactions of an earlier run are mined.
    async fn new(chain: &Chain, deployer: &PrivateKeySigner) -> Result<Self, DeployError> {
        let sender = Sender::new(chain.clone(), deployer.clone());
        let what = "waiting for an earlier run's transactions".to_owned();
        sender.settled().await.map_err(|error| DeployError::Step { what, error })?;
        Ok(Self { sender, transactions: 0 })
    }

    async fn send(&mut self, what: &str, call: &Call) -> Result<(), DeployError> {
        let sent = self.sender.send(call).await;
        let receipt = sent.map_err(|error| DeployError::Step { what: what.to_owned(), error })?;
        debug!(what, hash = %receipt.transaction_hash, "deployment");
        self.transactions += 1;
        Ok(())
    }

    async fn deploy(
        &mut self,
        layout: &Layout,
        registry: Address,
        pieces: &[PlannedContract],
    ) -> Result<(), DeployError> {
        let code = contract("Factory").init_code(&(registry,));
        self.create(0, "the factory", layout.factory_implementation, code.into()).await?;
        let code = proxy_code(layout.factory_implementation);
        self.create(1, "the factory's proxy", layout.factory, code.into()).await?;
        self.initialize_factory(layout).await?;
        for piece in pieces {
            self.place(layout, piece).await?;
        }
        Ok(())
    }

    /// Creates a contract by the deployer's transaction with this nonce, unless it exists.
    async fn create(
        &mut self,
        nonce: u64,
        what: &str,
        address: Address,
        init_code: Vec<u8>,
    ) -> Result<(), DeployError> {
        let chain = self.sender.chain();
        if chain.has_code(address).await? {
            return Ok(());
        }
        let account = self.sender.account();
        let sent = chain.provider().get_transaction_count(account).await;
        let sent = sent.map_err(|error| chain.request_error("eth_getTransactionCount", error))?;
        if sent != nonce {
            let chain_id = chain.id();
            return Err(DeployError::DeployerUsed { account, chain_id, sent });
        }
        self.send(&format!("deploying {what}"), &Call::create(init_code.into())).await
    }

    async fn initialize_factory(&mut self, layout: &Layout) -> Result<(), DeployError> {
        let factory = layout.factory;
        let begun = Factory::initializableImplementationCall {};
        if self.sender.chain().view(factory, &begun).await?.is_zero() {
            let call = Call::new(factory, &Factory::initializeCall {});
            self.send("initialising the factory", &call).await?;
        }
        let salt_ = layout::salt("any");
        let compute = Factory::computeProxyAddressCall { caller_: layout.deployer, salt_ };
        let computed = self.sender.chain().view(factory, &compute).await?;
        if computed == layout.proxy(salt_) {
            Ok(())
        } else {
            Err(DeployError::OtherFactory { factory, chain_id: self.sender.chain().id() })
        }
    }

    /// Deploys a contract and its proxy, as far as they are missing.
    async fn place(&mut self, layout: &Layout, piece: &PlannedContract) -> Result<(), DeployError> {
        if !self.sender.chain().has_code(piece.implementation).await? {
            let deploy = Factory::deployImplementationCall { bytecode_: piece.init_code.clone() };
            let what = format!("deploying {}", piece.name);
            self.send(&what, &Call::new(layout.factory, &deploy)).await?;
        }
        let Some(front) = &piece.proxy else { return Ok(()) };
        if self.sender.chain().has_code(front.address).await? {
            return Ok(());
        }
        let deploy = Factory::deployProxyCall {
            implementation_: piece.implementation,
            salt_: front.salt,
            initializeCallData_: front.initialize.clone(),
        };
        let what = format!("deploying the proxy of {}", piece.name);
        self.send(&what, &Call::new(layout.factory, &deploy)).await
    }
}
