//! The calls of the broadcaster contracts, and the events that answer them.

use alloy::primitives::{Address, B256, Bytes, FixedBytes, Log};
use alloy::rpc::types::{Filter, TransactionReceipt};
use alloy::sol_types::{SolCall as _, SolEvent as _};

use crate::contracts::GroupMessageBroadcaster::{MessageSent, addMessageCall};
use crate::contracts::IdentityUpdateBroadcaster::{IdentityUpdateCreated, addIdentityUpdateCall};
use crate::send::Call;

/// A group or an inbox. Payloads of one topic keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum PayloadTopic {
    Group([u8; 16]),
    Inbox([u8; 32]),
}

/// The addresses of the two broadcaster contracts.
#[derive(Debug, Clone, Copy)]
pub(super) struct BroadcasterContracts {
    pub(super) groups: Address,
    pub(super) identities: Address,
}

impl BroadcasterContracts {
    /// Returns the contract that orders payloads of this topic.
    pub(super) fn of(self, topic: PayloadTopic) -> Address {
        match topic {
            PayloadTopic::Group(_) => self.groups,
            PayloadTopic::Inbox(_) => self.identities,
        }
    }

    /// Returns the call that puts a payload on the chain.
    pub(super) fn call(self, topic: PayloadTopic, payload: Bytes) -> Call {
        let to = self.of(topic);
        match topic {
            PayloadTopic::Group(group) => {
                Call::new(to, &addMessageCall { groupId_: group.into(), message_: payload })
            }
            PayloadTopic::Inbox(inbox) => {
                let inbox = B256::from(inbox);
                Call::new(to, &addIdentityUpdateCall { inboxId_: inbox, identityUpdate_: payload })
            }
        }
    }

    /// Decodes a call; `None` if it does not broadcast a payload through one of these contracts.
    pub(super) fn read(self, to: Address, data: &[u8]) -> Option<(PayloadTopic, Bytes)> {
        if to == self.groups
            && let Ok(call) = addMessageCall::abi_decode(data)
        {
            return Some((PayloadTopic::Group(call.groupId_.0), call.message_));
        }
        let call =
            addIdentityUpdateCall::abi_decode(data).ok().filter(|_| to == self.identities)?;
        Some((PayloadTopic::Inbox(call.inboxId_.0), call.identityUpdate_))
    }

    /// Returns the sequence id that the contract assigned to a payload of this topic in this
    /// receipt.
    pub(super) fn sequence_id(
        self,
        topic: PayloadTopic,
        receipt: &TransactionReceipt,
    ) -> Option<u64> {
        let contract = self.of(topic);
        let logs = receipt.inner.logs().iter().map(|log| &log.inner);
        logs.filter(|log| log.address == contract).find_map(|log| sequence_id_in(topic, log))
    }

    /// Returns the filter for the events of this topic, without its block range.
    pub(super) fn events(self, topic: PayloadTopic) -> Filter {
        let filter = Filter::new().address(self.of(topic));
        match topic {
            PayloadTopic::Group(group) => filter
                .event_signature(MessageSent::SIGNATURE_HASH)
                .topic1(B256::right_padding_from(&group)),
            PayloadTopic::Inbox(inbox) => filter
                .event_signature(IdentityUpdateCreated::SIGNATURE_HASH)
                .topic1(B256::from(inbox)),
        }
    }

    /// Returns the sequence id in an event, if the event is about the payload of this call.
    pub(super) fn sequence_id_of(self, topic: PayloadTopic, call: &Call, log: &Log) -> Option<u64> {
        let payload = match topic {
            PayloadTopic::Group(_) => MessageSent::decode_log(log).ok()?.data.message,
            PayloadTopic::Inbox(_) => IdentityUpdateCreated::decode_log(log).ok()?.data.update,
        };
        let is_it = log.address == self.of(topic) && self.call(topic, payload).data == call.data;
        is_it.then(|| sequence_id_in(topic, log)).flatten()
    }
}

fn sequence_id_in(topic: PayloadTopic, log: &Log) -> Option<u64> {
    match topic {
        PayloadTopic::Group(group) => {
            let event = MessageSent::decode_log(log).ok()?;
            (event.groupId == FixedBytes(group)).then_some(event.sequenceId)
        }
        PayloadTopic::Inbox(inbox) => {
            let event = IdentityUpdateCreated::decode_log(log).ok()?;
            (event.inboxId == B256::from(inbox)).then_some(event.sequenceId)
        }
    }
}
