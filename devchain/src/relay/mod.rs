//! The relay carries messages between two development chains, as a rollup and its bridge would.
//!
//! - A *ticket*, left at the settlement chain's inbox by the gateway there, becomes a call of the
//!   app chain's gateway from the sender's alias. The alias is credited the value of the call: the app
//!   chain's native token is the fee token. The ticket's payment for gas is spent.
//! - A *withdrawal*, left at the app chain's system contract, is paid out of the inbox.
//!
//! The relay reads its progress from the chains alone, so a restart neither loses a message nor
//! delivers one twice: the inbox records each paid withdrawal, and a delivered ticket is a
//! transaction that ends with the ticket's number (see the module `mark`). A message whose call reverts
//! stays, and is tried again after the next block, so a paused gateway loses no message.

mod events;
mod mark;
mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::time::Duration;

use alloy::primitives::{Address, B256, U256, address};
use tracing::{info, warn};

use crate::control::DevChain;
use events::{AppEvents, EventReader, SettlementEvents};
use hawser_chain::addresses::Addresses;
use hawser_chain::contracts::{ERC20Inbox, SettlementChainGateway};
use hawser_chain::send::{Call, Chain, RequestError, SendError, ViewError};

pub use mark::alias;
pub use message::{ARB_SYS, BridgeMessage, BridgeMessageId};

/// The account that may release withdrawals. It has no key: on a development chain the relay can act for any account.
pub const RELAYER: Address = address!("0x72656c617965722072656c617965722072656c61");
/// The pause between two reads of the chains. A guess: short enough for interactive tests.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The pause after a chain did not answer. A guess.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The delivery options of the relay. Tests change the defaults to provoke failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayPolicy {
    /// Delivers the newest message first instead of the oldest.
    pub newest_first: bool,
    /// Gives the first attempt of each message too little gas, so that it is mined and fails.
    pub fail_once: bool,
}

/// One attempt to deliver a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub id: BridgeMessageId,
    /// The result.
    pub outcome: DeliveryOutcome,
}

/// The result of an attempt to deliver a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// This transaction delivered the message.
    Delivered(B256),
    /// The call reverted for this reason. The message is kept for another attempt.
    Reverted(String),
    /// The message is not for a gateway, and the relay does not carry it.
    Foreign,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id;
        match &self.outcome {
            DeliveryOutcome::Delivered(hash) => write!(f, "{id} delivered by {hash}"),
            DeliveryOutcome::Reverted(reason) => write!(f, "{id} waits: {reason}"),
            DeliveryOutcome::Foreign => write!(f, "{id} is not for a gateway and stays"),
        }
    }
}

/// Error of the relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// A contract could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A chain does not answer.
    #[error(transparent)]
    Rpc(#[from] RequestError),
    /// A delivery was not sent, or is not known to be mined.
    #[error("{id}: {error}")]
    Send {
        /// The message.
        id: BridgeMessageId,
        /// The error of the delivery.
        error: SendError,
    },
    /// The inbox accepts releases from another account only.
    #[error("the inbox at {inbox} belongs to another relayer, {relayer}")]
    OtherRelayer {
        /// The address of the inbox.
        inbox: Address,
        /// The account that may release.
        relayer: Address,
    },
}

/// Carries messages between two chains. A pair of chains must have at most one relay.
#[derive(Debug)]
pub struct Relay {
    settlement: Chain,
    app: Chain,
    inbox: Address,
    app_gateway: Address,
    from_settlement: EventReader<SettlementEvents>,
    from_app: EventReader<AppEvents>,
    /// Messages with at least one attempt by this value, for [`RelayPolicy::fail_once`].
    tried: BTreeSet<BridgeMessageId>,
}

impl Relay {
    /// Returns a relay for a deployment whose gateway knows its inbox.
    ///
    /// # Errors
    /// Returns an error if the contracts cannot be read, or the inbox belongs to another relayer.
    pub async fn of(
        settlement: &Chain,
        app: &Chain,
        addresses: &Addresses,
    ) -> Result<Self, RelayError> {
        let get_inbox = SettlementChainGateway::getInboxCall { chainId_: U256::from(app.id()) };
        let inbox = settlement.view(addresses.settlement_chain_gateway, &get_inbox).await?;
        Self::between(settlement, app, inbox, addresses.app_chain_gateway).await
    }

    /// Returns a relay between an inbox on the settlement chain and a gateway on the app chain.
    ///
    /// # Errors
    /// Returns an error if the inbox cannot be read, or belongs to another relayer.
    pub async fn between(
        settlement: &Chain,
        app: &Chain,
        inbox: Address,
        app_gateway: Address,
    ) -> Result<Self, RelayError> {
        let relayer = settlement.view(inbox, &ERC20Inbox::relayerCall {}).await?;
        if relayer != RELAYER {
            return Err(RelayError::OtherRelayer { inbox, relayer });
        }
        Ok(Self {
            settlement: settlement.clone(),
            app: app.clone(),
            inbox,
            app_gateway,
            from_settlement: EventReader::new(SettlementEvents { inbox }),
            from_app: EventReader::new(AppEvents { gateway: app_gateway }),
            tried: BTreeSet::new(),
        })
    }

    /// Returns the waiting messages: tickets first, oldest first in each direction.
    ///
    /// # Errors
    /// Returns an error if a chain does not answer.
    pub async fn pending(
        &mut self,
    ) -> Result<BTreeMap<BridgeMessageId, BridgeMessage>, RelayError> {
        self.refresh().await?;
        Ok(self.waiting())
    }

    /// Attempts to deliver every waiting message once.
    ///
    /// # Errors
    /// Fails if a chain does not answer. Deliveries already made in this step remain.
    pub async fn step(&mut self, policy: RelayPolicy) -> Result<Vec<Delivery>, RelayError> {
        let mut waiting: Vec<_> = self.pending().await?.into_iter().collect();
        if policy.newest_first {
            waiting.reverse();
        }
        let mut deliveries = Vec::new();
        for (id, message) in waiting {
            let is_first_try = self.tried.insert(id);
            let starved = policy.fail_once && is_first_try;
            deliveries.push(Delivery { id, outcome: self.deliver(id, &message, starved).await? });
        }
        Ok(deliveries)
    }

    /// Carries messages until `end` completes. Logs a result only when it changes.
    pub async fn run(mut self, policy: RelayPolicy, end: impl Future<Output = ()>) {
        let mut last = BTreeMap::new();
        tokio::pin!(end);
        loop {
            let pause = match self.step_if_moved(policy).await {
                Ok(deliveries) => {
                    deliveries.iter().for_each(|delivery| log_change(&mut last, delivery));
                    LOOK_EVERY
                }
                Err(error) => {
                    warn!(%error, "messages between the chains wait");
                    LOOK_AGAIN_AFTER
                }
            };
            tokio::select! {
                () = &mut end => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Makes a step only after a new block: without one, a reverted call would revert again.
    async fn step_if_moved(&mut self, policy: RelayPolicy) -> Result<Vec<Delivery>, RelayError> {
        if self.refresh().await? { self.step(policy).await } else { Ok(Vec::new()) }
    }

    /// Reads new events of both chains. Returns true if there was a new block.
    async fn refresh(&mut self) -> Result<bool, RequestError> {
        let settlement = self.from_settlement.refresh(&self.settlement).await?;
        let app = self.from_app.refresh(&self.app).await?;
        Ok(settlement || app)
    }

    fn waiting(&self) -> BTreeMap<BridgeMessageId, BridgeMessage> {
        let tickets = self.from_settlement.except(&self.from_app.done);
        let withdrawals = self.from_app.except(&self.from_settlement.done);
        let tickets = tickets.map(|(number, message)| (BridgeMessageId::Ticket(number), message));
        let withdrawals =
            withdrawals.map(|(number, message)| (BridgeMessageId::Withdrawal(number), message));
        tickets.chain(withdrawals).collect()
    }

    async fn deliver(
        &self,
        id: BridgeMessageId,
        message: &BridgeMessage,
        starved: bool,
    ) -> Result<DeliveryOutcome, RelayError> {
        let sent = match id {
            BridgeMessageId::Ticket(_) if message.to != self.app_gateway => {
                return Ok(DeliveryOutcome::Foreign);
            }
            BridgeMessageId::Ticket(number) => self.deliver_ticket(number, message, starved).await,
            BridgeMessageId::Withdrawal(number) => self.release(number, message, starved).await,
        };
        match sent {
            Ok(hash) => Ok(DeliveryOutcome::Delivered(hash)),
            Err(SendError::WouldRevert(revert)) => {
                Ok(DeliveryOutcome::Reverted(revert.to_string()))
            }
            Err(SendError::Reverted { reason, .. }) => Ok(DeliveryOutcome::Reverted(reason)),
            Err(error) => Err(RelayError::Send { id, error }),
        }
    }

    async fn deliver_ticket(
        &self,
        number: u64,
        message: &BridgeMessage,
        starved: bool,
    ) -> Result<B256, SendError> {
        let app = DevChain(&self.app);
        let sender = alias(message.sender);
        let call = Call {
            to: Some(message.to),
            data: mark::marked(&message.data, number),
            value: message.value,
        };
        // The balance is set and not added to, so that an attempt after a kill at this point sets the same balance.
        app.set_balance(sender, message.value).await?;
        send(app, sender, &call, starved).await
    }

    async fn release(
        &self,
        number: u64,
        message: &BridgeMessage,
        starved: bool,
    ) -> Result<B256, SendError> {
        let release = ERC20Inbox::releaseWithdrawalCall {
            messageId_: U256::from(number),
            destination_: message.to,
            value_: message.value,
            data_: message.data.clone(),
        };
        send(DevChain(&self.settlement), RELAYER, &Call::new(self.inbox, &release), starved).await
    }
}

async fn send(
    chain: DevChain<'_>,
    account: Address,
    call: &Call,
    starved: bool,
) -> Result<B256, SendError> {
    let receipt = if starved {
        chain.send_starved(account, call).await?
    } else {
        chain.send_as(account, call).await?
    };
    Ok(receipt.transaction_hash)
}

/// Logs a result unless it equals that of the last attempt.
fn log_change(last: &mut BTreeMap<BridgeMessageId, DeliveryOutcome>, delivery: &Delivery) {
    let before = last.insert(delivery.id, delivery.outcome.clone());
    if before.as_ref() == Some(&delivery.outcome) {
        return;
    }
    match &delivery.outcome {
        DeliveryOutcome::Delivered(_) => {
            last.remove(&delivery.id);
            info!("{delivery}");
        }
        DeliveryOutcome::Reverted(_) | DeliveryOutcome::Foreign => warn!("{delivery}"),
    }
}
