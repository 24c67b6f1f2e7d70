//! Payer reports on the settlement chain: their submissions and settlements, by position on the chain.

use hawser_proto::price::SettledAmount;
use hawser_proto::{OriginatorId, SequenceId};

use super::{Key, decode_u64, take};
use crate::family::Family;

/// Column family `payer_report`: `[block u64 BE][log index u64 BE]` → `[originator u32 BE][index u64 BE]`, and after
/// it `[0][start u64 BE][end u64 BE][minute u32 BE][root, 32 bytes][nodes, u32 BE each]` for a submission, or
/// `[1][leaves u64 BE][left u64 BE][microdollars u64 BE]` for a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PayerReportKey {
    pub(crate) block: u64,
    pub(crate) log_index: u64,
}

impl Key<'_> for PayerReportKey {
    const FAMILY: Family = Family::PayerReport;
    type Bytes = [u8; 16];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.block.to_be_bytes());
        key[8..].copy_from_slice(&self.log_index.to_be_bytes());
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (block, log_index) = take(bytes)?;
        Some(Self { block: u64::from_be_bytes(block), log_index: decode_u64(log_index)? })
    }
}

/// An event of the chain's contract of payer reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayerReportEvent {
    /// Number of the block.
    pub block: u64,
    /// Index of the event within the block.
    pub log_index: u64,
    /// The originator that the report is about.
    pub originator: OriginatorId,
    /// The report's place in the contract's list for this originator, from 0.
    pub index: u64,
    /// The change.
    pub change: PayerReportChange,
}

/// A change of a payer report on the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PayerReportChange {
    /// The report was submitted.
    Submitted {
        /// The sequence id before its range.
        start: SequenceId,
        /// The last sequence id of its range.
        end: SequenceId,
        /// The last minute of its range, since the unix epoch.
        end_minute: u32,
        /// The root of the tree over the payers' amounts.
        root: [u8; 32],
        /// The nodes that share the fees.
        nodes: Vec<OriginatorId>,
    },
    /// Some leaves of the report were settled.
    Settled {
        /// Number of these leaves.
        leaves: u64,
        /// Number of leaves that are left.
        left: u64,
        /// Sum of these leaves.
        microdollars: SettledAmount,
    },
}

impl PayerReportEvent {
    pub(crate) fn key(&self) -> PayerReportKey {
        PayerReportKey { block: self.block, log_index: self.log_index }
    }

    pub(crate) fn encode_value(&self) -> Vec<u8> {
        let mut value = [&self.originator.0.to_be_bytes()[..], &self.index.to_be_bytes()].concat();
        match &self.change {
            PayerReportChange::Submitted { start, end, end_minute, root, nodes } => {
                value.push(0);
                value.extend_from_slice(&start.0.to_be_bytes());
                value.extend_from_slice(&end.0.to_be_bytes());
                value.extend_from_slice(&end_minute.to_be_bytes());
                value.extend_from_slice(root);
                nodes.iter().for_each(|node| value.extend_from_slice(&node.0.to_be_bytes()));
            }
            PayerReportChange::Settled { leaves, left, microdollars } => {
                value.push(1);
                for number in [leaves, left, &microdollars.0] {
                    value.extend_from_slice(&number.to_be_bytes());
                }
            }
        }
        value
    }

    /// Decodes a row; `None` for malformed bytes.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let PayerReportKey { block, log_index } = PayerReportKey::decode(key)?;
        let (originator, rest) = take(value)?;
        let (index, rest) = take(rest)?;
        let (kind, rest) = rest.split_first()?;
        let change = match kind {
            0 => submitted(rest)?,
            1 => {
                let (leaves, rest) = take(rest)?;
                let (left, microdollars) = take(rest)?;
                PayerReportChange::Settled {
                    leaves: u64::from_be_bytes(leaves),
                    left: u64::from_be_bytes(left),
                    microdollars: SettledAmount(decode_u64(microdollars)?),
                }
            }
            _ => return None,
        };
        let originator = OriginatorId(u32::from_be_bytes(originator));
        Some(Self { block, log_index, originator, index: u64::from_be_bytes(index), change })
    }
}

fn submitted(bytes: &[u8]) -> Option<PayerReportChange> {
    let (start, rest) = take(bytes)?;
    let (end, rest) = take(rest)?;
    let (end_minute, rest) = take(rest)?;
    let (root, nodes) = take(rest)?;
    if !nodes.len().is_multiple_of(4) {
        return None;
    }
    let node = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).map(OriginatorId).ok();
    Some(PayerReportChange::Submitted {
        start: SequenceId(u64::from_be_bytes(start)),
        end: SequenceId(u64::from_be_bytes(end)),
        end_minute: u32::from_be_bytes(end_minute),
        root,
        nodes: nodes.chunks(4).map(node).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = PayerReportKey> {
        any::<(u64, u64)>().prop_map(|(block, log_index)| PayerReportKey { block, log_index })
    }

    fn changes() -> impl Strategy<Value = PayerReportChange> {
        let submitted = any::<(u64, u64, u32, [u8; 32], Vec<u32>)>().prop_map(|it| {
            let (start, end, end_minute, root, nodes) = it;
            let (start, end) = (SequenceId(start), SequenceId(end));
            let nodes = nodes.into_iter().map(OriginatorId).collect();
            PayerReportChange::Submitted { start, end, end_minute, root, nodes }
        });
        let settled = any::<[u64; 3]>().prop_map(|[leaves, left, microdollars]| {
            PayerReportChange::Settled { leaves, left, microdollars: SettledAmount(microdollars) }
        });
        prop_oneof![submitted, settled]
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
            keeps_order(a, PayerReportKey { block: a.block, ..b });
        }

        #[test]
        fn values_read_back(key in keys(), index in any::<u64>(), change in changes()) {
            let event = PayerReportEvent {
                block: key.block,
                log_index: key.log_index,
                originator: OriginatorId(7),
                index,
                change,
            };
            let value = event.encode_value();
            prop_assert_eq!(PayerReportEvent::decode(&key.encode(), &value), Some(event));
            prop_assert_eq!(PayerReportEvent::decode(&key.encode(), &value[..value.len() - 1]), None);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let change = PayerReportChange::Submitted {
            start: SequenceId(3),
            end: SequenceId(4),
            end_minute: 5,
            root: [6; 32],
            nodes: vec![OriginatorId(7)],
        };
        let event = PayerReportEvent {
            block: 1,
            log_index: 2,
            originator: OriginatorId(100),
            index: 9,
            change,
        };
        let key = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
        assert_eq!(event.key().encode(), key);
        let mut expected = vec![0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 9, 0];
        expected.extend([0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5]);
        expected.extend([6; 32]);
        expected.extend([0, 0, 0, 7]);
        assert_eq!(event.encode_value(), expected);
    }
}
