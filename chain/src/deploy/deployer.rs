//! Sends the transactions that deploy the contracts of one chain.
//!
//! Every step first checks whether it is done, so a run continues an incomplete deployment and
//! leaves a complete one unchanged.

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use tracing::debug;

use super::factory_proxy;
use super::layout::{Layout, factory_code, salt};
use super::plan::PlannedContract;
use super::update::Update;
use crate::admin::WeiPerGas;
use crate::broadcast::PRICE_FACTOR_MAX;
use crate::contracts::{Factory, FeeToken};
use crate::send::{Call, Chain, RequestError, SendError, Sender, ViewError};

/// Error of a deployment. A second run continues an incomplete deployment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeployError {
    /// Both chains have the same id, so a transaction for one would be valid on the other.
    #[error("the two chains need different ids, and both have {0}")]
    SameChain(u64),
    /// The deployer has sent other transactions first, so the addresses would differ.
    #[error(
        "{account} has sent {sent} transactions on chain {chain_id}, and its first two must create \
         the factory: use a fresh chain"
    )]
    DeployerUsed {
        /// The deployer.
        account: Address,
        /// The chain.
        chain_id: u64,
        /// The number of transactions that it has sent.
        sent: u64,
    },
    /// The factory is of another build than this program's.
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
    /// The price of gas is far higher than the one that was shown; nothing was sent.
    #[error(
        "{what}: gas costs up to {} wei now, and {} wei at most by the price that was shown: it was not sent. Run the \
         command again to see the present cost",
        .price.0, .price_max.0
    )]
    TooDear {
        /// The step of the deployment.
        what: String,
        /// The price of the step.
        price: WeiPerGas,
        /// The highest price that the deployer pays.
        price_max: WeiPerGas,
    },
    /// A contract could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A chain does not answer.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

/// Returns true if the error means that a contract has already read its parameter.
pub(super) fn is_no_change(error: &SendError) -> bool {
    error.revert().and_then(|revert| revert.name()) == Some("NoChange")
}

/// A transaction of a deployment that is mined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinedStep {
    /// The step of the deployment.
    pub what: String,
    /// The hash of the transaction.
    pub hash: B256,
    /// The number of its block; `None` if the receipt has none.
    pub block: Option<u64>,
}

/// Sends the transactions of a deployment to one chain.
#[derive(Debug)]
pub struct ChainDeployer {
    sender: Sender,
    /// The highest price of gas that is paid.
    price_max: WeiPerGas,
    mined: Vec<MinedStep>,
}

impl ChainDeployer {
    /// Waits until all transactions of an earlier run are mined.
    ///
    /// The caller must have exclusive use of the deployer's account: any other transaction would change the addresses.
    ///
    /// # Errors
    /// Fails when the chain does not answer, or a transaction of an earlier run is not mined in time.
    pub async fn new(chain: &Chain, deployer: &PrivateKeySigner) -> Result<Self, DeployError> {
        let sender = Sender::new(chain.clone(), deployer.clone());
        let what = "waiting for an earlier run's transactions".to_owned();
        sender.settled().await.map_err(|error| DeployError::Step { what, error })?;
        Ok(Self { sender, price_max: WeiPerGas(u128::MAX), mined: Vec::new() })
    }

    /// Makes the deployer send nothing at more than eight times a price of gas that its operator has agreed to: an
    /// endpoint may show a low price first, and a high one when transactions are sent.
    #[must_use]
    pub fn agreed_to(self, shown: WeiPerGas) -> Self {
        Self { price_max: shown.max(WeiPerGas(1)).times(PRICE_FACTOR_MAX), ..self }
    }

    /// Returns the chain.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        self.sender.chain()
    }

    /// Returns the deployer's address.
    #[must_use]
    pub fn account(&self) -> Address {
        self.sender.account()
    }

    /// Returns the transactions that this value has sent and that are mined, in their order.
    #[must_use]
    pub fn mined(&self) -> &[MinedStep] {
        &self.mined
    }

    /// Sends a call and waits for its receipt. `what` names the step in the error and in the log.
    ///
    /// # Errors
    /// [`DeployError::Step`]; [`DeployError::TooDear`] if it would cost more than was [agreed to](Self::agreed_to).
    pub async fn send(&mut self, what: &str, call: &Call) -> Result<(), DeployError> {
        let failed = |error| DeployError::Step { what: what.to_owned(), error };
        let quote = self.sender.quote(call).await.map_err(failed)?;
        let (price, price_max) = (quote.max_fee_per_gas, self.price_max);
        if price > price_max {
            return Err(DeployError::TooDear { what: what.to_owned(), price, price_max });
        }
        let receipt = self.sender.send_quoted(call, &quote).await.map_err(failed)?;
        debug!(what, hash = %receipt.transaction_hash, "deployment");
        let (hash, block) = (receipt.transaction_hash, receipt.block_number);
        self.mined.push(MinedStep { what: what.to_owned(), hash, block });
        Ok(())
    }

    /// Deploys the factory and the contracts of this chain, leaving out those that exist.
    pub(super) async fn deploy(
        &mut self,
        layout: &Layout,
        registry: Address,
        pieces: &[PlannedContract],
    ) -> Result<(), DeployError> {
        let code = factory_code(registry);
        self.create(0, "the factory", layout.factory_implementation, code.into()).await?;
        let code = factory_proxy::init_code(layout.factory_implementation);
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
        let sent = chain.transaction_count(account, BlockId::latest()).await?;
        if sent != nonce {
            let chain_id = chain.id();
            return Err(DeployError::DeployerUsed { account, chain_id, sent });
        }
        self.send(&format!("deploying {what}"), &Call::create(init_code.into())).await
    }

    /// Checks that the factory has made its first creation. Older versions of this program
    /// made it in a separate transaction.
    async fn initialize_factory(&mut self, layout: &Layout) -> Result<(), DeployError> {
        let factory = layout.factory;
        let begun = Factory::initializableImplementationCall {};
        if self.sender.chain().view(factory, &begun).await?.is_zero() {
            let call = Call::new(factory, &Factory::initializeCall {});
            self.send("initialising the factory", &call).await?;
        }
        let salt_ = salt("any");
        let compute = Factory::computeProxyAddressCall { caller_: layout.deployer, salt_ };
        let computed = self.sender.chain().view(factory, &compute).await?;
        if computed == layout.proxy(salt_) {
            Ok(())
        } else {
            Err(DeployError::OtherFactory { factory, chain_id: self.sender.chain().id() })
        }
    }

    /// Deploys a contract and its proxy, leaving out those that exist.
    async fn place(&mut self, layout: &Layout, piece: &PlannedContract) -> Result<(), DeployError> {
        if !self.sender.chain().has_code(piece.implementation).await? {
            let what = format!("deploying {}", piece.name);
            self.send(&what, &piece.deploys_implementation(layout)).await?;
        }
        let Some(front) = &piece.proxy else { return Ok(()) };
        if self.sender.chain().has_code(front.address).await? {
            return Ok(());
        }
        let what = format!("deploying the proxy of {}", piece.name);
        self.send(&what, &piece.deploys_proxy(layout, front)).await
    }

    /// Calls a contract's view function.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn view<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return, ViewError> {
        self.sender.chain().view(to, call).await
    }

    /// Returns the balance of an account in a token, in its smallest unit.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn balance(&self, token: Address, account: Address) -> Result<U256, ViewError> {
        self.view(token, &FeeToken::balanceOfCall { account }).await
    }

    /// Sets a contract's allowance over tokens of this account, unless it is already large enough.
    ///
    /// # Errors
    /// [`DeployError::Step`], or those of [`ChainDeployer::view`].
    pub async fn allow(
        &mut self,
        token: Address,
        spender: Address,
        value: U256,
    ) -> Result<(), DeployError> {
        let owner = self.sender.account();
        let allowed = self.view(token, &FeeToken::allowanceCall { owner, spender }).await?;
        if allowed >= value {
            return Ok(());
        }
        let approve = FeeToken::approveCall { spender, value };
        self.send("allowing a contract to take tokens", &Call::new(token, &approve)).await
    }

    /// Makes a contract read a parameter again. An unchanged parameter is not an error.
    pub(super) async fn update(&mut self, update: &Update) -> Result<(), DeployError> {
        match self.send(update.name, &update.call).await {
            Err(DeployError::Step { error, .. }) if is_no_change(&error) => Ok(()),
            done => done,
        }
    }
}
