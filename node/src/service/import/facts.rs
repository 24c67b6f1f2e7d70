//! Facts about a database of the reference implementation, as read from its tables.

use std::collections::BTreeMap;

use hawser_proto::OriginatorId;

/// The schema version that this program reads (xmtpd of July 2026).
pub(super) const SCHEMA: i64 = 23;

/// The facts about one database at one time: plain values, checked before anything is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SourceFacts {
    /// A value that identifies this database.
    pub(super) fingerprint: String,
    /// The id and the uncompressed public key of the node; `None` if no node has ever started on it.
    pub(super) node: Option<(i32, Vec<u8>)>,
    /// The strands, by originator.
    pub(super) strands: BTreeMap<OriginatorId, StrandFacts>,
    /// The number of accepted messages that have no envelope yet.
    pub(super) staged: i64,
    /// The highest sequence id of the own strand that was ever assigned.
    pub(super) counter: i64,
    /// Contracts whose events were read, by address in lower case.
    pub(super) contracts: Vec<String>,
    /// The numbers of rows that are not imported.
    pub(super) aside: SkippedRows,
}

/// A table that shows how far a strand went, besides those of envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TailEvidence {
    /// The usage of payers, which xmtpd writes together with each envelope.
    Usage,
    /// The payer reports of all nodes, some of which may be about envelopes that this database has not received yet.
    Reports,
}

impl TailEvidence {
    /// Returns the name of the table.
    pub(super) const fn table(self) -> &'static str {
        match self {
            Self::Usage => "unsettled_usage",
            Self::Reports => "payer_reports",
        }
    }
}

/// The facts about one strand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StrandFacts {
    /// The number of rows that describe an envelope.
    pub(super) described: i64,
    /// The highest sequence id of these rows.
    pub(super) head: i64,
    /// The number of rows with the bytes of an envelope.
    pub(super) stored: i64,
    /// The highest sequence id that was ever recorded; 0 if none was.
    pub(super) recorded_head: i64,
    /// The highest sequence id that each other table knows.
    pub(super) evidence: BTreeMap<TailEvidence, i64>,
}

/// The numbers of rows that are not imported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SkippedRows {
    /// Events of payers' balances, which a node reads from the settlement chain.
    pub ledger_events: i64,
    /// Payer reports, which are read from the strands and from the chain.
    pub reports: i64,
    /// Attestations of payer reports, which are read in the same way.
    pub attestations: i64,
    /// Usage of payers by minute, which is computed from the envelopes.
    pub usage_minutes: i64,
    /// Contracts with a reading position. A node reads them from their first block.
    pub positions: i64,
}
