//! A payer report, its id, and the envelope that carries it.

use hawser_proto::envelope::Payload;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::keccak256;
use hawser_proto::{Bytes, Digest, OriginatorId, SequenceId, Topic};
use prost::Message as _;

use super::schedule::RangeEnd;
use super::tree::{EMPTY_ROOT, Hash, word};

/// The largest number of nodes in a report. Specified: the contract counts signatures in 8 bits.
pub const NODES_MAX: usize = 255;
/// The largest originator id, node id and minute. Specified: other implementations store them in signed 32-bit columns.
const SMALL_MAX: u32 = i32::MAX.unsigned_abs();
/// The retention of the envelopes of reports and attestations, in days. Specified.
pub const RETENTION_DAYS: u32 = 60;

/// The EIP-712 type of a report in the contract.
const TYPE: &[u8] =
    b"PayerReport(uint32 originatorNodeId,uint64 startSequenceId,uint64 endSequenceId,\
uint32 endMinuteSinceEpoch,bytes32 payersMerkleRoot,uint32[] nodeIds)";

/// The EIP-712 type of the domain separator, and the name and version in the contract's domain.
const DOMAIN_TYPE: &[u8] =
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
const CONTRACT_NAME: &[u8] = b"PayerReportManager";
const CONTRACT_VERSION: &[u8] = b"1";

/// The id of a report: the digest that nodes sign and the contract computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReportId(pub [u8; 32]);

impl ReportId {
    /// Returns the id as the digest to sign.
    #[must_use]
    pub fn digest(self) -> Digest {
        Digest(self.0)
    }

    /// Creates an id from exactly 32 bytes; `None` for another length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Display for ReportId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for ReportId {
    type Err = ReportIdError;

    /// Parses 64 hex digits, with or without the prefix `0x`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
        let mut id = [0; 32];
        if digits.len() != 64 {
            return Err(ReportIdError);
        }
        for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
            let digit =
                |digit: u8| char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
            let (high, low) = (digit(pair[0]), digit(pair[1]));
            *byte = high.zip(low).map(|(high, low)| high << 4 | low).ok_or(ReportIdError)?;
        }
        Ok(Self(id))
    }
}

/// Error of parsing a [`ReportId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a report id must have 64 hex digits")]
pub struct ReportIdError;

/// The contract's EIP-712 domain separator: reports for another chain or contract have other ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DomainSeparator([u8; 32]);

impl DomainSeparator {
    /// Creates a separator from the contract's answer; `None` for zero, which an uninitialised contract returns.
    #[must_use]
    pub fn new(word: [u8; 32]) -> Option<Self> {
        (word != [0; 32]).then_some(Self(word))
    }

    /// Returns the separator of the contract at an address of a chain, computed like in the contract (EIP-712).
    #[must_use]
    pub fn of_contract(chain_id: u64, address: [u8; 20]) -> Self {
        let mut padded = [0; 32];
        padded[12..].copy_from_slice(&address);
        let parts = [DOMAIN_TYPE, CONTRACT_NAME, CONTRACT_VERSION].map(|part| keccak256(&[part]).0);
        Self(keccak256(&[&parts[0], &parts[1], &parts[2], &word(chain_id), &padded]).0)
    }

    /// Returns the separator as the contract states it; never zero.
    #[must_use]
    pub fn get(self) -> [u8; 32] {
        self.0
    }
}

/// The nodes that share the fees of a report: at least one, ascending and without duplicates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIds(Vec<OriginatorId>);

impl NodeIds {
    /// Creates the list from ids in any order. It is sorted because the contract accepts only ascending ids.
    ///
    /// # Errors
    /// [`PayerReportError`] if the list is empty or too long, or has a duplicate or an id that is too large.
    pub fn new(ids: impl IntoIterator<Item = OriginatorId>) -> Result<Self, PayerReportError> {
        let mut ids: Vec<OriginatorId> = ids.into_iter().collect();
        if ids.is_empty() {
            return Err(PayerReportError::NoNodes);
        }
        if ids.len() > NODES_MAX {
            return Err(PayerReportError::TooManyNodes(ids.len()));
        }
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PayerReportError::NodeTwice(pair[0]));
        }
        small("node id", ids[ids.len() - 1].0)?;
        Ok(Self(ids))
    }

    /// Returns the ids, ascending.
    #[must_use]
    pub fn get(&self) -> &[OriginatorId] {
        &self.0
    }

    /// Returns the ids as numbers, ascending, for messages and calls of the contract.
    #[must_use]
    pub fn numbers(&self) -> Vec<u32> {
        self.0.iter().map(|node| node.0).collect()
    }

    /// Returns true if the node is listed.
    #[must_use]
    pub fn contains(&self, node: OriginatorId) -> bool {
        self.0.binary_search(&node).is_ok()
    }

    /// Returns the number of attestations that the contract requires: more than half of the nodes.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.0.len() / 2 + 1
    }
}

/// Error of creating or decoding a payer report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayerReportError {
    /// A number is too large for other implementations' columns.
    #[error("the {what} {number} is too large")]
    TooLarge {
        /// The name of the field.
        what: &'static str,
        /// Its value.
        number: u64,
    },
    /// The originator is 0, for which no report exists.
    #[error("originator 0 is a chain and has no payer reports")]
    Originator,
    /// The range ends before it begins.
    #[error("the range ends at {end}, before its start {start}")]
    Reversed {
        /// The start of the range, exclusive.
        start: SequenceId,
        /// The last sequence id of the range.
        end: SequenceId,
    },
    /// The range is empty, but the root is not that of a tree without leaves.
    #[error("the range is empty, but the root is not the root of a tree without payers")]
    RootOfNothing,
    /// The root does not have 32 bytes. Holds its length.
    #[error("the root has {0} bytes instead of 32")]
    Root(usize),
    /// No node is listed.
    #[error("no node is listed")]
    NoNodes,
    /// A node is listed more than once. Holds its id.
    #[error("node {0} is listed twice")]
    NodeTwice(OriginatorId),
    /// More nodes are listed than [`NODES_MAX`]. Holds their number.
    #[error("{0} nodes are listed, above {NODES_MAX}")]
    TooManyNodes(usize),
}

fn small(what: &'static str, number: u32) -> Result<u32, PayerReportError> {
    match number {
        0..=SMALL_MAX => Ok(number),
        _ => Err(PayerReportError::TooLarge { what, number: number.into() }),
    }
}

fn sequence(what: &'static str, number: u64) -> Result<SequenceId, PayerReportError> {
    match SequenceId(number) {
        id if id <= SequenceId::MAX => Ok(id),
        _ => Err(PayerReportError::TooLarge { what, number }),
    }
}

/// The outcome of submitting a report to the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// The contract has taken the report now.
    Now,
    /// The contract had taken it before: another node was faster.
    Before,
    /// The contract has taken another report that starts at the same place.
    Superseded,
}

/// A payer report as the contract stores it, and how far it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContractReport {
    /// The start of the range, exclusive.
    pub start: SequenceId,
    /// The last sequence id of the range.
    pub end: SequenceId,
    /// The Merkle root over the amounts per payer.
    pub root: Hash,
    /// The number of settled leaves.
    pub offset: u64,
    /// True if all leaves are settled.
    pub is_settled: bool,
}

/// The payers' fees over a range of one strand. Well-formed, and not necessarily correct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayerReport {
    originator: OriginatorId,
    start: SequenceId,
    end: RangeEnd,
    root: Hash,
    nodes: NodeIds,
}

impl PayerReport {
    /// Creates a report. `start` is exclusive.
    ///
    /// # Errors
    /// [`PayerReportError`] if it is not well-formed.
    pub fn new(
        originator: OriginatorId,
        start: SequenceId,
        end: RangeEnd,
        root: Hash,
        nodes: NodeIds,
    ) -> Result<Self, PayerReportError> {
        small("originator id", originator.0)?;
        small("end minute", end.minute)?;
        if originator == OriginatorId(0) {
            return Err(PayerReportError::Originator);
        }
        sequence("start", start.0)?;
        sequence("end", end.sequence.0)?;
        if end.sequence < start {
            return Err(PayerReportError::Reversed { start, end: end.sequence });
        }
        if end.sequence == start && root != EMPTY_ROOT {
            return Err(PayerReportError::RootOfNothing);
        }
        Ok(Self { originator, start, end, root, nodes })
    }

    /// Decodes a report from a peer.
    ///
    /// # Errors
    /// [`PayerReportError`] if it is not well-formed.
    pub fn from_message(message: &pb::PayerReport) -> Result<Self, PayerReportError> {
        let root = &message.payers_merkle_root;
        let root = root.as_ref().try_into().map_err(|_| PayerReportError::Root(root.len()))?;
        // The number is checked before the list is copied.
        if message.active_node_ids.len() > NODES_MAX {
            return Err(PayerReportError::TooManyNodes(message.active_node_ids.len()));
        }
        let end = RangeEnd {
            minute: message.end_minute_since_epoch,
            sequence: SequenceId(message.end_sequence_id),
        };
        Self::new(
            OriginatorId(message.originator_node_id),
            SequenceId(message.start_sequence_id),
            end,
            root,
            NodeIds::new(message.active_node_ids.iter().copied().map(OriginatorId))?,
        )
    }

    /// Returns the originator that the report is about.
    #[must_use]
    pub fn originator(&self) -> OriginatorId {
        self.originator
    }

    /// Returns the start of the range, exclusive; 0 for the first report.
    #[must_use]
    pub fn start(&self) -> SequenceId {
        self.start
    }

    /// Returns the last sequence id of the range, and its minute.
    #[must_use]
    pub fn end(&self) -> RangeEnd {
        self.end
    }

    /// Returns the root of the tree over the payers' amounts.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Returns the nodes that share the fees.
    #[must_use]
    pub fn nodes(&self) -> &NodeIds {
        &self.nodes
    }

    /// Returns the id: the digest of the contract.
    #[must_use]
    pub fn id(&self, domain: DomainSeparator) -> ReportId {
        let range = (self.start, self.end);
        contract_digest(domain, self.originator, range, &self.root, self.nodes.get())
    }

    /// Returns the report as a protobuf message.
    #[must_use]
    pub fn to_message(&self) -> pb::PayerReport {
        pb::PayerReport {
            originator_node_id: self.originator.0,
            start_sequence_id: self.start.0,
            end_sequence_id: self.end.sequence.0,
            end_minute_since_epoch: self.end.minute,
            payers_merkle_root: Bytes::copy_from_slice(&self.root),
            active_node_ids: self.nodes.numbers(),
        }
    }

    /// Returns the client envelope that carries the report, on the topic of reports about its originator.
    #[must_use]
    pub fn client_envelope(&self) -> Bytes {
        let topic = Topic::payer_reports(self.originator);
        envelope(topic, Payload::PayerReport(self.to_message()))
    }
}

/// Returns the digest of a report as the contract computes it, of any values. It differs from the digest of an EIP-712
/// library: the node ids are hashed as an ABI encoding that begins with the offset and the length.
fn contract_digest(
    domain: DomainSeparator,
    originator: OriginatorId,
    (start, end): (SequenceId, RangeEnd),
    root: &Hash,
    nodes: &[OriginatorId],
) -> ReportId {
    let mut words = Vec::with_capacity(32 * (nodes.len() + 2));
    words.extend_from_slice(&word(0x20));
    words.extend_from_slice(&word(nodes.len() as u64));
    nodes.iter().for_each(|id| words.extend_from_slice(&word(id.0.into())));
    let fields = keccak256(&[
        &keccak256(&[TYPE]).0,
        &word(originator.0.into()),
        &word(start.0),
        &word(end.sequence.0),
        &word(end.minute.into()),
        root,
        &keccak256(&[&words]).0,
    ]);
    ReportId(keccak256(&[&[0x19, 0x01], &domain.0, &fields.0]).0)
}

/// Returns the client envelope of a payload on a topic.
pub(super) fn envelope(topic: Topic, payload: Payload) -> Bytes {
    let aad = pb::AuthenticatedData { target_topic: topic.into_bytes(), depends_on: None };
    let client = pb::ClientEnvelope { aad: Some(aad), payload: Some(payload) };
    client.encode_to_vec().into()
}

#[cfg(test)]
mod tests;
