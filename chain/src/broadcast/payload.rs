//! The calls of the broadcaster contracts, and the events that answer them.

use alloy::primitives::{Address, B256, Bytes, FixedBytes, Log};
use alloy::rpc::types::{Filter, TransactionReceipt};
use alloy::sol_types::{SolCall as _, SolEvent as _};
use hawser_proto::{GroupId, InboxId, SequenceId};

use crate::contracts::GroupMessageBroadcaster::{MessageSent, addMessageCall};
use crate::contracts::IdentityUpdateBroadcaster::{IdentityUpdateCreated, addIdentityUpdateCall};
use crate::send::Call;

/// A group or an inbox. Payloads of one topic keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum PayloadTopic {
    Group(GroupId),
    Inbox(InboxId),
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
                Call::new(to, &addMessageCall { groupId_: group.0.into(), message_: payload })
            }
            PayloadTopic::Inbox(inbox) => {
                let inbox = B256::from(inbox.0);
                Call::new(to, &addIdentityUpdateCall { inboxId_: inbox, identityUpdate_: payload })
            }
        }
    }

    /// Decodes a call; `None` if it does not broadcast a payload through one of these contracts.
    pub(super) fn read(self, to: Address, data: &[u8]) -> Option<(PayloadTopic, Bytes)> {
        if to == self.groups
            && let Ok(call) = addMessageCall::abi_decode(data)
        {
            return Some((PayloadTopic::Group(GroupId(call.groupId_.0)), call.message_));
        }
        let call =
            addIdentityUpdateCall::abi_decode(data).ok().filter(|_| to == self.identities)?;
        Some((PayloadTopic::Inbox(InboxId(call.inboxId_.0)), call.identityUpdate_))
    }

    /// Returns the sequence id that the contract assigned to the payload of this call in this receipt.
    pub(super) fn sequence_id(
        self,
        topic: PayloadTopic,
        call: &Call,
        receipt: &TransactionReceipt,
    ) -> Option<SequenceId> {
        let mut logs = receipt.inner.logs().iter();
        logs.find_map(|log| self.sequence_id_of(topic, call, &log.inner))
    }

    /// Returns the filter for the events of this topic, without its block range.
    pub(super) fn events(self, topic: PayloadTopic) -> Filter {
        let filter = Filter::new().address(self.of(topic));
        match topic {
            PayloadTopic::Group(group) => filter
                .event_signature(MessageSent::SIGNATURE_HASH)
                .topic1(B256::right_padding_from(&group.0)),
            PayloadTopic::Inbox(inbox) => filter
                .event_signature(IdentityUpdateCreated::SIGNATURE_HASH)
                .topic1(B256::from(inbox.0)),
        }
    }

    /// Returns the sequence id in an event, if the event is about the payload of this call.
    pub(super) fn sequence_id_of(
        self,
        topic: PayloadTopic,
        call: &Call,
        log: &Log,
    ) -> Option<SequenceId> {
        let payload = match topic {
            PayloadTopic::Group(_) => MessageSent::decode_log_validate(log).ok()?.data.message,
            PayloadTopic::Inbox(_) => {
                IdentityUpdateCreated::decode_log_validate(log).ok()?.data.update
            }
        };
        let is_it = log.address == self.of(topic) && self.call(topic, payload).data == call.data;
        is_it.then(|| sequence_id_in(topic, log)).flatten()
    }
}

fn sequence_id_in(topic: PayloadTopic, log: &Log) -> Option<SequenceId> {
    match topic {
        PayloadTopic::Group(group) => {
            let event = MessageSent::decode_log_validate(log).ok()?;
            (event.groupId == FixedBytes(group.0)).then_some(SequenceId(event.sequenceId))
        }
        PayloadTopic::Inbox(inbox) => {
            let event = IdentityUpdateCreated::decode_log_validate(log).ok()?;
            (event.inboxId == B256::from(inbox.0)).then_some(SequenceId(event.sequenceId))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn calls_are_those_of_the_vectors_and_are_read_back() {
        let text = include_str!("../../../tests/vectors/contracts/calldata.json");
        let vectors: Value = serde_json::from_str(text).unwrap();
        let contracts = BroadcasterContracts {
            groups: Address::repeat_byte(1),
            identities: Address::repeat_byte(2),
        };
        let bytes = |value: &Value| value.as_str().unwrap().parse::<Bytes>().unwrap();
        let mut compared = 0;
        for case in vectors["cases"].as_array().unwrap() {
            let (id, payload) = (&case["args"][0], &case["args"][1]);
            let topic = match case["function"].as_str().unwrap() {
                "addMessage(bytes16,bytes)" => {
                    PayloadTopic::Group(GroupId(bytes(id).to_vec().try_into().unwrap()))
                }
                "addIdentityUpdate(bytes32,bytes)" => {
                    PayloadTopic::Inbox(InboxId(bytes(id).to_vec().try_into().unwrap()))
                }
                _ => continue,
            };
            let call = contracts.call(topic, bytes(payload));
            assert_eq!(call.data, bytes(&case["calldata"]), "{case}");
            let to = contracts.of(topic);
            assert_eq!(contracts.read(to, &call.data), Some((topic, bytes(payload))), "{case}");
            compared += 1;
        }
        assert!(compared >= 2, "{compared}");
    }
}
