//! What goes to a broadcaster contract, and what the contract says of it.

use alloy::primitives::{Address, B256, Bytes, FixedBytes, Log};
use alloy::rpc::types::{Filter, TransactionReceipt};
use alloy::sol_types::{SolCall as _, SolEvent as _};

use crate::contracts::GroupMessageBroadcaster::{MessageSent, addMessageCall};
use crate::contracts::IdentityUpdateBroadcaster::{IdentityUpdateCreated, addIdentityUpdateCall};
use crate::send::Call;

/// Whose payloads: the order of those of one topic is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Topic {
    Group([u8; 16]),
    Inbox([u8; 32]),
}

/// The two contracts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contracts {
    pub(super) groups: Address,
    pub(super) identities: Address,
}

impl Contracts {
    pub(super) fn of(self, topic: Topic) -> Address {
        match topic {
            Topic::Group(_) => self.groups,
            Topic::Inbox(_) => self.identities,
        }
    }

    /// The call that puts a payload on the chain.
    pub(super) fn call(self, topic: Topic, payload: Bytes) -> Call {
        let to = self.of(topic);
        match topic {
            Topic::Group(group) => {
                Call::new(to, &addMessageCall { groupId_: group.into(), message_: payload })
            }
            Topic::Inbox(inbox) => {
                let inbox = B256::from(inbox);
                Call::new(to, &addIdentityUpdateCall { inboxId_: inbox, identityUpdate_: payload })
            }
        }
    }

    /// What a call says, if it is one of ours.
    pub(super) fn read(self, to: Address, data: &[u8]) -> Option<(Topic, Bytes)> {
        if to == self.groups
            && let Ok(call) = addMessageCall::abi_decode(data)
        {
            return Some((Topic::Group(call.groupId_.0), call.message_));
        }
        let call =
            addIdentityUpdateCall::abi_decode(data).ok().filter(|_| to == self.identities)?;
        Some((Topic::Inbox(call.inboxId_.0), call.identityUpdate_))
    }

    /// The number that the contract gave to a payload of this topic, if it is in this receipt.
    pub(super) fn sequence_id(self, topic: Topic, receipt: &TransactionReceipt) -> Option<u64> {
        let contract = self.of(topic);
        let logs = receipt.inner.logs().iter().map(|log| &log.inner);
        logs.filter(|log| log.address == contract).find_map(|log| number(topic, log))
    }

    /// The events of this topic.
    pub(super) fn events(self, topic: Topic) -> Filter {
        let filter = Filter::new().address(self.of(topic));
        match topic {
            Topic::Group(group) => filter
                .event_signature(MessageSent::SIGNATURE_HASH)
                .topic1(B256::right_padding_from(&group)),
            Topic::Inbox(inbox) => filter
                .event_signature(IdentityUpdateCreated::SIGNATURE_HASH)
                .topic1(B256::from(inbox)),
        }
    }

    /// The number that an event gives to the payload of this call, if it is one for it.
    pub(super) fn number_of(self, topic: Topic, call: &Call, log: &Log) -> Option<u64> {
        let payload = match topic {
            Topic::Group(_) => MessageSent::decode_log(log).ok()?.data.message,
            Topic::Inbox(_) => IdentityUpdateCreated::decode_log(log).ok()?.data.update,
        };
        let is_it = log.address == self.of(topic) && self.call(topic, payload).data == call.data;
        is_it.then(|| number(topic, log)).flatten()
    }
}

fn number(topic: Topic, log: &Log) -> Option<u64> {
    match topic {
        Topic::Group(group) => {
            let event = MessageSent::decode_log(log).ok()?;
            (event.groupId == FixedBytes(group)).then_some(event.sequenceId)
        }
        Topic::Inbox(inbox) => {
            let event = IdentityUpdateCreated::decode_log(log).ok()?;
            (event.inboxId == B256::from(inbox)).then_some(event.sequenceId)
        }
    }
}
