//! Rows about the database itself.

use super::Key;
use crate::family::Family;
use crate::projection::Projection;

/// Column family `meta`: a name → a value in the format of the name. Variants are in the order of their
/// names on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MetaKey {
    /// Envelopes whose fees wait for a newer price list, 12 bytes each: `[originator u32 BE][sequence u64 BE]`.
    DoubtedFees,
    /// `u32 BE`: the format of all other rows. Its key never changes.
    Format,
    /// `u64 BE`: number of the last run that was about to sign, see `host`; of a witness, the last count of its runs.
    Generation,
    /// `u64 BE`: head of the own strand, written with every commit to it.
    HighestSequence,
    /// 16 random bytes, created with the database.
    Incarnation,
    /// Parts of payer reports that were searched for late envelopes, as `StoredScan` writes them.
    LateScans,
    /// Searches for evidence about late releases, 45 bytes each.
    LateSearches,
    /// `u64 BE`: the first block that the reader of payer events has not rechecked.
    RecheckLedger,
    /// `u64 BE`: the first block that the reader of payer reports has not rechecked.
    RecheckPayerReports,
    /// `u64 BE`: the first block that the reader of the node registry's events has not rechecked.
    RecheckRegistry,
    /// UTF-8: the network's name.
    Network,
    /// `u32 BE`: id of the node that owns the database.
    NodeId,
    /// `u64 BE`: number of converted topic rows, then the key of the next one. Present while rows may have a format
    /// before 4.
    OlderTopicRows,
    /// `u32 BE`: version of the code that wrote a projection's rows.
    Projection(Projection),
    /// Present from the promotion of a replica's folder, or the restore of a backup, until a node signs from it: it may
    /// lack places that the node has signed. The value is empty.
    Promoted,
    /// 65 bytes: the node's public key, uncompressed.
    PublicKey,
    /// `i64 BE`, unix nanoseconds: the time up to which the recorded rates are all that honest nodes may have applied.
    RatesComplete,
    /// Present while projections are dropped and not yet rebuilt. The value is the processed part of the log, or
    /// empty if the next rebuild starts over, or `condemned` if the families have to be dropped first, or `part`
    /// with the set if the other projections are complete, followed by the processed part.
    Rebuilding,
    /// Amounts of payer reports that are kept until the reports are settled, as an older version wrote them: all in one
    /// row. See `amounts_page`.
    ReportAmounts,
    /// Position of the last evidence from which reports were made.
    ReportedEvidence,
    /// Envelopes whose dependencies a chain has yet to decide about, 32 bytes each.
    SuspectedDependencies,
    /// Statements of nodes about void places of their strands, 109 bytes each.
    VoidStatements,
    /// UTF-8: version of the program that wrote the format. Its key never changes.
    Writer,
}

impl MetaKey {
    const PLAIN: [Self; 22] = [
        Self::DoubtedFees,
        Self::Format,
        Self::Generation,
        Self::HighestSequence,
        Self::Incarnation,
        Self::LateScans,
        Self::LateSearches,
        Self::RecheckLedger,
        Self::RecheckPayerReports,
        Self::RecheckRegistry,
        Self::Network,
        Self::NodeId,
        Self::OlderTopicRows,
        Self::Promoted,
        Self::PublicKey,
        Self::RatesComplete,
        Self::Rebuilding,
        Self::ReportAmounts,
        Self::ReportedEvidence,
        Self::SuspectedDependencies,
        Self::VoidStatements,
        Self::Writer,
    ];
}

impl Key<'_> for MetaKey {
    const FAMILY: Family = Family::Meta;
    type Bytes = &'static [u8];

    fn encode(self) -> Self::Bytes {
        match self {
            Self::DoubtedFees => b"doubted_fees",
            Self::Format => b"format",
            Self::Generation => b"generation",
            Self::HighestSequence => b"highest_sequence",
            Self::Incarnation => b"incarnation",
            Self::LateScans => b"late_scans",
            Self::LateSearches => b"late_searches",
            Self::RecheckLedger => b"looked.ledger",
            Self::RecheckPayerReports => b"looked.payer_reports",
            Self::RecheckRegistry => b"looked.registry",
            Self::Network => b"network",
            Self::NodeId => b"node_id",
            Self::OlderTopicRows => b"older_topic_rows",
            Self::Projection(Projection::Congestion) => b"projection.congestion",
            Self::Projection(Projection::Expiry) => b"projection.expiry",
            Self::Projection(Projection::Inbox) => b"projection.inbox",
            Self::Projection(Projection::Receipt) => b"projection.receipt",
            Self::Projection(Projection::Topic) => b"projection.topic",
            Self::Projection(Projection::Usage) => b"projection.usage",
            Self::Projection(Projection::UsageByPayer) => b"projection.usage_by_payer",
            Self::Promoted => b"promoted",
            Self::PublicKey => b"public_key",
            Self::RatesComplete => b"rates_complete",
            Self::Rebuilding => b"rebuilding",
            Self::ReportAmounts => b"report_amounts",
            Self::ReportedEvidence => b"reported_evidence",
            Self::SuspectedDependencies => b"suspected_dependencies",
            Self::VoidStatements => b"void_statements",
            Self::Writer => b"writer",
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Projection::ALL
            .into_iter()
            .map(Self::Projection)
            .chain(Self::PLAIN)
            .find(|key| key.encode() == bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn all() -> Vec<MetaKey> {
        Projection::ALL.into_iter().map(MetaKey::Projection).chain(MetaKey::PLAIN).collect()
    }

    #[test]
    fn names_read_back_and_sort_as_the_keys() {
        for a in all() {
            round_trips(a);
            for b in all() {
                keeps_order(a, b);
            }
        }
        assert_eq!(MetaKey::decode(b"formal"), None);
    }

    #[test]
    fn the_names_are_pinned() {
        let mut keys = all();
        keys.sort();
        let names: Vec<_> =
            keys.into_iter().map(|key| std::str::from_utf8(key.encode()).unwrap()).collect();
        assert_eq!(
            names.join(" "),
            "doubted_fees format generation highest_sequence incarnation late_scans late_searches \
             looked.ledger looked.payer_reports looked.registry network node_id older_topic_rows projection.congestion \
             projection.expiry projection.inbox projection.receipt projection.topic projection.usage \
             projection.usage_by_payer promoted public_key rates_complete rebuilding report_amounts \
             reported_evidence suspected_dependencies void_statements writer"
        );
    }
}
