//! The events that are read from a contract: their filters and their decoding.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::rpc::types::{Filter, Log};
use alloy::sol_types::{SolCall, SolEvent};
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::payer_report::SettledAmount;

use crate::admin::MicroDollars;
use crate::contracts::group_message_broadcaster::GroupMessageBroadcaster::{
    MessageSent, bootstrapMessagesCall,
};
use crate::contracts::identity_update_broadcaster::IdentityUpdateBroadcaster::{
    IdentityUpdateCreated, bootstrapIdentityUpdatesCall,
};
use crate::contracts::node_registry::NodeRegistry::{
    NodeAddedToCanonicalNetwork, NodeRemovedFromCanonicalNetwork,
};
use crate::contracts::payer_registry::PayerRegistry::{
    Deposit, UsageSettled, WithdrawalCancelled, WithdrawalRequested,
};
use crate::contracts::payer_report_manager::PayerReportManager::{
    PayerReportSubmitted, PayerReportSubsetSettled,
};

/// A kind of contract whose events are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventSource {
    /// The broadcaster of group messages.
    GroupMessages,
    /// The broadcaster of identity updates.
    IdentityUpdates,
    /// The payer registry: deposits, withdrawals and settled usage.
    PayerRegistry,
    /// The node registry: additions to the canonical network, and removals.
    NodeRegistry,
    /// The payer report manager: submitted reports and their settlements.
    PayerReports,
}

impl EventSource {
    /// Returns the name that logs and metrics use.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::GroupMessages => "group_messages",
            Self::IdentityUpdates => "identity_updates",
            Self::PayerRegistry => "payer_registry",
            Self::NodeRegistry => "node_registry",
            Self::PayerReports => "payer_reports",
        }
    }

    /// Returns the event signatures that are read: the first topics of their logs.
    #[must_use]
    pub fn topics(self) -> Vec<B256> {
        match self {
            Self::GroupMessages => vec![MessageSent::SIGNATURE_HASH],
            Self::IdentityUpdates => vec![IdentityUpdateCreated::SIGNATURE_HASH],
            Self::PayerRegistry => vec![
                Deposit::SIGNATURE_HASH,
                WithdrawalRequested::SIGNATURE_HASH,
                WithdrawalCancelled::SIGNATURE_HASH,
                UsageSettled::SIGNATURE_HASH,
            ],
            Self::NodeRegistry => vec![
                NodeAddedToCanonicalNetwork::SIGNATURE_HASH,
                NodeRemovedFromCanonicalNetwork::SIGNATURE_HASH,
            ],
            Self::PayerReports => {
                vec![PayerReportSubmitted::SIGNATURE_HASH, PayerReportSubsetSettled::SIGNATURE_HASH]
            }
        }
    }

    /// Returns the `eth_getLogs` filter without its block range.
    #[must_use]
    pub fn filter(self, address: Address) -> Filter {
        Filter::new().address(address).event_signature(self.topics())
    }

    /// Returns the selector of the bootstrap call, with which the contract's operator chooses sequence ids; `None` if
    /// the contract has no such call.
    #[must_use]
    pub(crate) fn bootstrap_selector(self) -> Option<[u8; 4]> {
        match self {
            Self::GroupMessages => Some(bootstrapMessagesCall::SELECTOR),
            Self::IdentityUpdates => Some(bootstrapIdentityUpdatesCall::SELECTOR),
            Self::PayerRegistry | Self::NodeRegistry | Self::PayerReports => None,
        }
    }

    /// Decodes one log. Returns `None` if it is not an event of this source: its signature is another one, or a value
    /// has bits beyond its type.
    ///
    /// A broadcaster's log of which only the sequence id can be read has taken a place of the strand. It becomes an
    /// event without identifier and payload, and every node leaves the place of such an event void.
    #[must_use]
    pub fn decode(self, log: &Log) -> Option<ContractEvent> {
        match self {
            Self::GroupMessages => ordered(log, |event: MessageSent| OrderedPayload {
                identifier: Bytes::copy_from_slice(event.groupId.as_slice()),
                sequence_id: event.sequenceId,
                payload: event.message,
            }),
            Self::IdentityUpdates => ordered(log, |event: IdentityUpdateCreated| OrderedPayload {
                identifier: Bytes::copy_from_slice(event.inboxId.as_slice()),
                sequence_id: event.sequenceId,
                payload: event.update,
            }),
            Self::PayerRegistry => balance_change(log),
            Self::NodeRegistry => membership_change(log),
            Self::PayerReports => report_change(log),
        }
    }
}

impl std::fmt::Display for EventSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

/// The values of a broadcaster's event.
#[derive(Default)]
struct OrderedPayload {
    identifier: Bytes,
    sequence_id: u64,
    payload: Bytes,
}

/// Decodes a log of a broadcaster; if only its sequence id can be read, without identifier and payload.
fn ordered<E: SolEvent>(
    log: &Log,
    values: impl FnOnce(E) -> OrderedPayload,
) -> Option<ContractEvent> {
    let OrderedPayload { identifier, sequence_id, payload } = match decoded::<E>(log) {
        Some(event) => values(event),
        None => OrderedPayload { sequence_id: last_topic::<E>(log)?, ..OrderedPayload::default() },
    };
    let sequence_id = SequenceId(sequence_id);
    Some(ContractEvent::Payload { identifier, sequence_id, payload, bootstrapped: false })
}

/// Returns the last of the three topics of a broadcaster's event: the sequence id. Both broadcasters have it there.
fn last_topic<E: SolEvent>(log: &Log) -> Option<u64> {
    let [signature, _, sequence_id] = log.topics() else { return None };
    u64::try_from(U256::from_be_bytes(sequence_id.0))
        .ok()
        .filter(|_| *signature == E::SIGNATURE_HASH)
}

fn balance_change(log: &Log) -> Option<ContractEvent> {
    let change = |kind, payer, amount: alloy::primitives::aliases::U96| {
        ContractEvent::BalanceChanged { kind, payer, amount: MicroDollars::from(amount) }
    };
    match *log.topic0()? {
        Deposit::SIGNATURE_HASH => decoded::<Deposit>(log)
            .map(|event| change(BalanceChange::Deposit, event.payer, event.amount)),
        WithdrawalRequested::SIGNATURE_HASH => decoded::<WithdrawalRequested>(log)
            .map(|event| change(BalanceChange::WithdrawalRequested, event.payer, event.amount)),
        UsageSettled::SIGNATURE_HASH => decoded::<UsageSettled>(log)
            .map(|event| change(BalanceChange::UsageSettled, event.payer, event.amount)),
        WithdrawalCancelled::SIGNATURE_HASH => {
            decoded::<WithdrawalCancelled>(log).map(|event| ContractEvent::BalanceChanged {
                kind: BalanceChange::WithdrawalCancelled,
                payer: event.payer,
                amount: MicroDollars::default(),
            })
        }
        _ => None,
    }
}

fn membership_change(log: &Log) -> Option<ContractEvent> {
    let change = |node_id, is_member| ContractEvent::MembershipChanged {
        node_id: OriginatorId(node_id),
        is_member,
    };
    match *log.topic0()? {
        NodeAddedToCanonicalNetwork::SIGNATURE_HASH => {
            decoded::<NodeAddedToCanonicalNetwork>(log).map(|event| change(event.nodeId, true))
        }
        NodeRemovedFromCanonicalNetwork::SIGNATURE_HASH => {
            decoded::<NodeRemovedFromCanonicalNetwork>(log).map(|event| change(event.nodeId, false))
        }
        _ => None,
    }
}

fn report_change(log: &Log) -> Option<ContractEvent> {
    match *log.topic0()? {
        PayerReportSubmitted::SIGNATURE_HASH => {
            let event = decoded::<PayerReportSubmitted>(log)?;
            Some(ContractEvent::ReportSubmitted(SubmittedReport {
                originator: OriginatorId(event.originatorNodeId),
                index: u64::try_from(event.payerReportIndex).ok()?,
                start: SequenceId(event.startSequenceId),
                end: SequenceId(event.endSequenceId),
                end_minute: event.endMinuteSinceEpoch,
                root: event.payersMerkleRoot,
                nodes: event.nodeIds.into_iter().map(OriginatorId).collect(),
            }))
        }
        PayerReportSubsetSettled::SIGNATURE_HASH => {
            let event = decoded::<PayerReportSubsetSettled>(log)?;
            Some(ContractEvent::ReportSettled {
                originator: OriginatorId(event.originatorNodeId),
                index: u64::try_from(event.payerReportIndex).ok()?,
                leaves: event.count.into(),
                left: event.remaining.into(),
                settled: SettledAmount(event.feesSettled.saturating_to()),
            })
        }
        _ => None,
    }
}

/// Decodes an event. A contract writes each value in its one form, so a value with bits beyond its type is none.
fn decoded<E: SolEvent>(log: &Log) -> Option<E> {
    E::decode_log_validate(&log.inner).ok().map(|log| log.data)
}

/// Returns true if both are the same log of the same block and transaction.
pub(super) fn is_same(log: &Log, other: &Log) -> bool {
    let place = |log: &Log| (log.block_hash, log.log_index, log.transaction_hash);
    place(log) == place(other) && log.inner == other.inner
}

/// A block, identified by number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRef {
    /// The block number.
    pub number: u64,
    /// The block hash.
    pub hash: B256,
}

/// A decoded event with its position on the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedEvent {
    /// The block that contains the log.
    pub block: BlockRef,
    /// The block's timestamp, unix seconds.
    pub block_time_s: u64,
    /// The log's index within the block.
    pub log_index: u64,
    /// The hash of the transaction that emitted the log.
    pub transaction: B256,
    /// The decoded content.
    pub decoded: ContractEvent,
}

/// The content of a contract's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContractEvent {
    /// A broadcaster ordered a payload.
    Payload {
        /// The group id or the inbox id.
        identifier: Bytes,
        /// The sequence id that the contract assigned.
        sequence_id: SequenceId,
        /// The payload as it was broadcast.
        payload: Bytes,
        /// True if the contract's operator chose the sequence id, in a call that may skip ids. Looked up only if the id
        /// does not follow the previous one.
        bootstrapped: bool,
    },
    /// A payer's balance changed.
    BalanceChanged {
        /// The reason.
        kind: BalanceChange,
        /// The payer.
        payer: Address,
        /// The unsigned amount; 0 for a cancelled withdrawal, whose event carries none.
        amount: MicroDollars,
    },
    /// A node was added to the canonical network or removed from it.
    MembershipChanged {
        /// The node's id.
        node_id: OriginatorId,
        /// True if it was added.
        is_member: bool,
    },
    /// A payer report was submitted.
    ReportSubmitted(SubmittedReport),
    /// Leaves of a payer report were settled.
    ReportSettled {
        /// The originator that the report is about.
        originator: OriginatorId,
        /// The index of the report among its originator's reports, from 0.
        index: u64,
        /// The number of settled leaves.
        leaves: u64,
        /// The number of leaves that remain to be settled.
        left: u64,
        /// The sum of the settled leaves; a larger one is the largest representable amount.
        settled: SettledAmount,
    },
}

/// A payer report as submitted to the contract. It may be malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmittedReport {
    /// The originator that the report is about.
    pub originator: OriginatorId,
    /// The index of the report among its originator's reports, from 0.
    pub index: u64,
    /// The start of its range, exclusive.
    pub start: SequenceId,
    /// The last sequence id of its range.
    pub end: SequenceId,
    /// The last minute of its range, since the unix epoch.
    pub end_minute: u32,
    /// The Merkle root over the payers' amounts.
    pub root: B256,
    /// The nodes that share the fees.
    pub nodes: Vec<OriginatorId>,
}

impl ContractEvent {
    /// Returns a BLAKE3 digest of the transaction and the log's content. Two events of one transaction have the same
    /// digest if their content is equal. No file or message has it.
    #[must_use]
    pub fn digest(&self, transaction: B256) -> B256 {
        let mut digest = blake3::Hasher::new();
        digest.update(&transaction[..]);
        match self {
            Self::Payload { identifier, sequence_id, payload, bootstrapped: _ } => {
                digest.update(&sequence_id.0.to_be_bytes());
                digest.update(&(identifier.len() as u64).to_be_bytes());
                digest.update(identifier);
                digest.update(payload);
            }
            Self::BalanceChanged { kind, payer, amount } => {
                digest.update(&[*kind as u8]);
                digest.update(payer.as_slice());
                digest.update(&amount.get().to_be_bytes());
            }
            Self::MembershipChanged { node_id, is_member } => {
                digest.update(&node_id.0.to_be_bytes());
                digest.update(&[u8::from(*is_member)]);
            }
            Self::ReportSubmitted(report) => {
                digest.update(&report.originator.0.to_be_bytes());
                digest.update(&report.index.to_be_bytes());
                digest.update(&report.start.0.to_be_bytes());
                digest.update(&report.end.0.to_be_bytes());
                digest.update(&report.end_minute.to_be_bytes());
                digest.update(report.root.as_slice());
                for node in &report.nodes {
                    digest.update(&node.0.to_be_bytes());
                }
            }
            Self::ReportSettled { originator, index, leaves, left, settled } => {
                digest.update(&originator.0.to_be_bytes());
                for number in [index, leaves, left, &settled.0] {
                    digest.update(&number.to_be_bytes());
                }
            }
        }
        B256::from(*digest.finalize().as_bytes())
    }
}

/// The reason why a payer's balance changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BalanceChange {
    /// A deposit for the payer.
    Deposit,
    /// The payer requested a withdrawal.
    WithdrawalRequested,
    /// The payer cancelled a withdrawal.
    WithdrawalCancelled,
    /// A payer report was settled.
    UsageSettled,
}

#[cfg(test)]
mod tests {
    use alloy::primitives::LogData;
    use alloy::primitives::aliases::U96;
    use serde_json::Value;

    use super::*;

    fn log_of(topics: Vec<B256>, data: Bytes) -> Log {
        let data = LogData::new_unchecked(topics, data);
        let inner = alloy::primitives::Log { address: Address::repeat_byte(7), data };
        Log { inner, ..Log::default() }
    }

    /// The logs of the golden vectors that nodes read, with their decoded values.
    fn vectors() -> Vec<(EventSource, Log, Value)> {
        let text = include_str!("../../../tests/vectors/contracts/event_logs.json");
        let vectors: Value = serde_json::from_str(text).unwrap();
        let read = |case: &Value| {
            let source = match case["contract"].as_str().unwrap() {
                "GroupMessageBroadcaster" => EventSource::GroupMessages,
                "IdentityUpdateBroadcaster" => EventSource::IdentityUpdates,
                "PayerRegistry" => EventSource::PayerRegistry,
                "NodeRegistry" => EventSource::NodeRegistry,
                "PayerReportManager" => EventSource::PayerReports,
                _ => return None,
            };
            let words = case["topics"].as_array().unwrap().iter();
            let topics: Vec<B256> = words.map(|it| it.as_str().unwrap().parse().unwrap()).collect();
            let is_read = source.topics().contains(&topics[0]);
            let log = log_of(topics, case["data"].as_str().unwrap().parse().unwrap());
            is_read.then(|| (source, log, case["decoded"].clone()))
        };
        vectors["cases"].as_array().unwrap().iter().filter_map(read).collect()
    }

    /// Returns the event that the decoded values of a vector describe.
    fn expected(values: &Value, signature: B256) -> ContractEvent {
        let bytes = |name: &str| values[name].as_str().unwrap().parse::<Bytes>().unwrap();
        let amount = |name: &str| match &values[name] {
            Value::String(text) => text.parse::<u128>().unwrap(),
            number => number.as_u64().unwrap().into(),
        };
        let number = |name: &str| u64::try_from(amount(name)).unwrap();
        let small = |name: &str| u32::try_from(number(name)).unwrap();
        let payload = |identifier, payload| ContractEvent::Payload {
            identifier: bytes(identifier),
            sequence_id: SequenceId(number("sequenceId")),
            payload: bytes(payload),
            bootstrapped: false,
        };
        let change = |kind, number| ContractEvent::BalanceChanged {
            kind,
            payer: values["payer"].as_str().unwrap().parse().unwrap(),
            amount: MicroDollars::new(number).unwrap(),
        };
        let paid = |kind| change(kind, amount("amount"));
        let originator = || OriginatorId(small("originatorNodeId"));
        match signature {
            MessageSent::SIGNATURE_HASH => payload("groupId", "message"),
            IdentityUpdateCreated::SIGNATURE_HASH => payload("inboxId", "update"),
            Deposit::SIGNATURE_HASH => paid(BalanceChange::Deposit),
            WithdrawalRequested::SIGNATURE_HASH => paid(BalanceChange::WithdrawalRequested),
            WithdrawalCancelled::SIGNATURE_HASH => change(BalanceChange::WithdrawalCancelled, 0),
            UsageSettled::SIGNATURE_HASH => paid(BalanceChange::UsageSettled),
            NodeAddedToCanonicalNetwork::SIGNATURE_HASH
            | NodeRemovedFromCanonicalNetwork::SIGNATURE_HASH => ContractEvent::MembershipChanged {
                node_id: OriginatorId(small("nodeId")),
                is_member: signature == NodeAddedToCanonicalNetwork::SIGNATURE_HASH,
            },
            PayerReportSubmitted::SIGNATURE_HASH => {
                let nodes = values["nodeIds"].as_array().unwrap().iter();
                let node = |id: &Value| OriginatorId(u32::try_from(id.as_u64().unwrap()).unwrap());
                ContractEvent::ReportSubmitted(SubmittedReport {
                    originator: originator(),
                    index: number("payerReportIndex"),
                    start: SequenceId(number("startSequenceId")),
                    end: SequenceId(number("endSequenceId")),
                    end_minute: small("endMinuteSinceEpoch"),
                    root: values["payersMerkleRoot"].as_str().unwrap().parse().unwrap(),
                    nodes: nodes.map(node).collect(),
                })
            }
            PayerReportSubsetSettled::SIGNATURE_HASH => ContractEvent::ReportSettled {
                originator: originator(),
                index: number("payerReportIndex"),
                leaves: number("count"),
                left: number("remaining"),
                settled: SettledAmount(u64::try_from(amount("feesSettled")).unwrap_or(u64::MAX)),
            },
            other => panic!("no event of the vectors that nodes read has the signature {other}"),
        }
    }

    #[test]
    fn logs_of_the_golden_vectors_are_read_as_they_say() {
        let mut read = std::collections::BTreeSet::new();
        for (source, log, values) in vectors() {
            let signature = log.topics()[0];
            assert_eq!(source.decode(&log), Some(expected(&values, signature)), "{values}");
            read.insert(signature);
        }
        for source in [
            EventSource::GroupMessages,
            EventSource::IdentityUpdates,
            EventSource::PayerRegistry,
            EventSource::PayerReports,
        ] {
            for signature in source.topics() {
                assert!(read.contains(&signature), "no vector has {signature}");
            }
        }
    }

    fn vector(signature: B256) -> (EventSource, Log) {
        let mut vectors = vectors().into_iter();
        let (source, log, _) = vectors.find(|(_, log, _)| log.topics()[0] == signature).unwrap();
        (source, log)
    }

    fn with_byte(log: &Log, at: usize, byte: u8) -> Log {
        let mut data = log.inner.data.data.to_vec();
        data[at] = byte;
        log_of(log.topics().to_vec(), data.into())
    }

    fn with_topic_byte(log: &Log, topic: usize, at: usize, byte: u8) -> Log {
        let mut topics = log.topics().to_vec();
        topics[topic].0[at] = byte;
        log_of(topics, log.inner.data.data.clone())
    }

    /// A contract writes no such log. An endpoint may invent such a log, and another implementation of a contract may
    /// write one.
    #[test]
    fn a_log_with_a_value_beyond_its_type_is_no_event() {
        for (signature, topic) in [
            (MessageSent::SIGNATURE_HASH, 2),
            (IdentityUpdateCreated::SIGNATURE_HASH, 2),
            (Deposit::SIGNATURE_HASH, 1),
            (WithdrawalRequested::SIGNATURE_HASH, 1),
            (WithdrawalCancelled::SIGNATURE_HASH, 1),
            (UsageSettled::SIGNATURE_HASH, 2),
            (PayerReportSubmitted::SIGNATURE_HASH, 1),
            (PayerReportSubmitted::SIGNATURE_HASH, 3),
            (PayerReportSubsetSettled::SIGNATURE_HASH, 1),
        ] {
            let (source, log) = vector(signature);
            let dirty = with_topic_byte(&log, topic, 0, 1);
            assert_eq!(source.decode(&dirty), None, "topic {topic} of {signature}");
        }
        for (signature, words) in [
            (Deposit::SIGNATURE_HASH, 1),
            (WithdrawalRequested::SIGNATURE_HASH, 3),
            (WithdrawalCancelled::SIGNATURE_HASH, 1),
            (UsageSettled::SIGNATURE_HASH, 1),
            (PayerReportSubmitted::SIGNATURE_HASH, 2),
            (PayerReportSubsetSettled::SIGNATURE_HASH, 3),
        ] {
            let (source, log) = vector(signature);
            for word in 0..words {
                let dirty = with_byte(&log, word * 32, 1);
                assert_eq!(source.decode(&dirty), None, "word {word} of {signature}");
            }
        }
    }

    /// The contract has given the id away, so no later event fills the place.
    #[test]
    fn a_broadcasters_log_of_which_only_the_id_can_be_read_takes_its_place() {
        for signature in [MessageSent::SIGNATURE_HASH, IdentityUpdateCreated::SIGNATURE_HASH] {
            let (source, log) = vector(signature);
            let Some(ContractEvent::Payload { sequence_id, .. }) = source.decode(&log) else {
                panic!("{source}");
            };
            let bare = ContractEvent::Payload {
                identifier: Bytes::new(),
                sequence_id,
                payload: Bytes::new(),
                bootstrapped: false,
            };
            let topics = log.topics().to_vec();
            // Without data; a payload that begins, or ends, behind the data; and an offset that overflows.
            let mut unreadable = vec![log_of(topics.clone(), Bytes::new())];
            unreadable.extend([30, 60, 0].map(|at| with_byte(&log, at, 0xff)));
            // The last 16 bytes of a group's id are beyond its type.
            let is_group = source == EventSource::GroupMessages;
            unreadable.extend(is_group.then(|| with_topic_byte(&log, 1, 31, 1)));
            for log in unreadable {
                assert_eq!(source.decode(&log).as_ref(), Some(&bare), "{log:?}");
                let unplaced = with_topic_byte(&log, 2, 0, 1);
                assert_eq!(source.decode(&unplaced), None, "an id beyond 64 bits is none");
                let foreign = with_topic_byte(&log, 0, 0, 0);
                assert_eq!(source.decode(&foreign), None, "another event");
            }
            let short = log_of(topics[..2].to_vec(), log.inner.data.data.clone());
            assert_eq!(source.decode(&short), None, "an event without an id");
        }
    }

    /// Leaves have 96 bits. A report with such an amount would otherwise never count as settled.
    #[test]
    fn a_settlement_of_more_than_fits_is_read_with_the_largest_amount() {
        let event = PayerReportSubsetSettled {
            originatorNodeId: 100,
            payerReportIndex: U256::from(4),
            count: 1,
            remaining: 0,
            feesSettled: U96::MAX,
        };
        let LogData { data, .. } = event.encode_log_data();
        let log = log_of(event.encode_topics().into_iter().map(|topic| topic.0).collect(), data);
        let settled = ContractEvent::ReportSettled {
            originator: OriginatorId(100),
            index: 4,
            leaves: 1,
            left: 0,
            settled: SettledAmount(u64::MAX),
        };
        assert_eq!(EventSource::PayerReports.decode(&log), Some(settled));
    }
}
