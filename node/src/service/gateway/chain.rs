//! The app chain, as the gateway writes to it.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, FixedBytes};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionReceipt;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolEvent as _;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hawser_chain::admin::{Contract, Network, Side};
use hawser_chain::contracts::GroupMessageBroadcaster::{MessageSent, addMessageCall};
use hawser_chain::contracts::IdentityUpdateBroadcaster::{
    IdentityUpdateCreated, addIdentityUpdateCall,
};
use hawser_chain::send::{Call, SendError, Sender};
use hawser_gateway::chain::{ChainFault, ChainWriter, OnChain};
use hawser_gateway::routing::ChainTopic;
use hawser_proto::Bytes;
use zeroize::Zeroizing;

use crate::config::gateway::GatewayConfig;
use crate::failure::Failure;

const RECEIPT_MAX: Duration = Duration::from_secs(30);

struct Writer {
    sender: Sender,
    groups: Address,
    identities: Address,
}

/// Begins to write for the payer's account.
///
/// # Errors
/// When nobody said where the contracts are.
pub(super) async fn writer(
    config: &GatewayConfig,
    network: &Network,
) -> Result<Arc<dyn ChainWriter>, Failure> {
    let at = |contract| network.at(contract).map_err(Failure::usage);
    let secret = Zeroizing::new(config.payer.to_bytes());
    let key = PrivateKeySigner::from_slice(secret.as_slice()).map_err(Failure::failed)?;
    let chain = network.chain(Side::App).map_err(Failure::usage)?.clone();
    Ok(Arc::new(Writer {
        sender: Sender::new(chain, key).waiting(RECEIPT_MAX),
        groups: at(Contract::GroupMessageBroadcaster)?,
        identities: at(Contract::IdentityUpdateBroadcaster)?,
    }))
}

impl ChainWriter for Writer {
    fn publish(
        &self,
        topic: ChainTopic,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<OnChain, ChainFault>> {
        async move {
            let call = self.call(topic, payload);
            let receipt = self.sender.send(&call).await.map_err(told)?;
            let hash = receipt.transaction_hash.0;
            let reason = || "the contract did not say so".to_owned();
            let sequence_id = self
                .sequence_id(topic, &receipt)
                .ok_or_else(|| ChainFault::Failed { hash, reason: reason() })?;
            Ok(OnChain { sequence_id, transaction_hash: hash })
        }
        .boxed()
    }

    fn reachable(&self) -> BoxFuture<'_, Result<(), String>> {
        async move {
            let asked = self.sender.chain().provider().get_block_number().await;
            asked.map(|_| ()).map_err(|_| "the app chain does not answer".to_owned())
        }
        .boxed()
    }
}

impl Writer {
    fn call(&self, topic: ChainTopic, payload: Bytes) -> Call {
        match topic {
            ChainTopic::Group(group) => {
                let call = addMessageCall { groupId_: group.into(), message_: payload.into() };
                Call::new(self.groups, &call)
            }
            ChainTopic::Inbox(inbox) => {
                let call = addIdentityUpdateCall {
                    inboxId_: inbox.into(),
                    identityUpdate_: payload.into(),
                };
                Call::new(self.identities, &call)
            }
        }
    }

    fn sequence_id(&self, topic: ChainTopic, receipt: &TransactionReceipt) -> Option<u64> {
        let logs = receipt.logs().iter().map(|log| &log.inner);
        match topic {
            ChainTopic::Group(group) => {
                let mut logs = logs.filter(|log| log.address == self.groups);
                let events = logs.find_map(|log| MessageSent::decode_log(log).ok())?;
                (events.groupId == FixedBytes(group)).then_some(events.sequenceId)
            }
            ChainTopic::Inbox(inbox) => {
                let mut logs = logs.filter(|log| log.address == self.identities);
                let event = logs.find_map(|log| IdentityUpdateCreated::decode_log(log).ok())?;
                (event.inboxId == B256::from(inbox)).then_some(event.sequenceId)
            }
        }
    }
}

fn told(error: SendError) -> ChainFault {
    let reason = error.to_string();
    match error {
        SendError::WouldRevert(_) => ChainFault::Invalid(reason),
        SendError::Reverted { hash, .. } => ChainFault::Failed { hash: hash.0, reason },
        SendError::NotMined { hash, .. } => ChainFault::Pending { hash: hash.0, reason },
        _ => ChainFault::NotSent(reason),
    }
}
