//! Facts that a database of the reference implementation states of itself.

use std::collections::BTreeMap;

use hawser_proto::OriginatorId;

/// Facts of one database at one moment. Plain values, to be checked before anything is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SourceFacts {
    /// Tells this database from others.
    pub(super) fingerprint: String,
    /// Id and uncompressed public key of the node; `None` if no node has ever started on it.
    pub(super) node: Option<(i32, Vec<u8>)>,
    /// The strands, by originator.
    pub(super) strands: BTreeMap<OriginatorId, StrandFacts>,
    /// Messages that were accepted and have no envelope yet.
    pub(super) staged: i64,
    /// The highest place of the own strand that was ever given out.
    pub(super) counter: i64,
    /// Contracts whose events were read, by address in lower case.
    pub(super) contracts: Vec<String>,
    /// Numbers of further rows.
    pub(super) aside: AsideFacts,
}

/// Facts of one strand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StrandFacts {
    /// Rows that describe an envelope.
    pub(super) described: i64,
    /// The highest place of these.
    pub(super) head: i64,
    /// Rows with the bytes of an envelope.
    pub(super) stored: i64,
    /// The highest place that was ever recorded; 0 if none was.
    pub(super) recorded_head: i64,
}

/// Numbers of rows that are not taken over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AsideFacts {
    /// Events of payers' balances. A node reads them from the settlement chain.
    pub ledger_events: i64,
    /// Payer reports. They stand in the strands too, and are read from there and from the chain.
    pub reports: i64,
    /// Attestations of payer reports, in the same way.
    pub attestations: i64,
    /// Usage of payers by minute. Made anew from the envelopes.
    pub usage_minutes: i64,
    /// Contracts whose events were read, with a position. A node reads them from their first block.
    pub positions: i64,
}
