//! Payer reports: the fees of one originator's payers over a range of its strand, as leaves of a tree. Nodes sign the
//! root, and the settlement chain deducts by it.
//!
//! Everything here is a pure function, so that every node computes the same bytes:
//!
//! - [`leaves`]: the amount of each payer, as a leaf; [`tree`]: the tree over them, with proofs of
//!   neighbouring leaves;
//! - [`report`]: a report, its id, and the envelope that carries it;
//! - [`attestation`]: nodes' signatures over a report id, and the selection of valid ones;
//! - [`schedule`]: when a node's workers run, where a report ends, and when the next one is due;
//! - [`mod@explain`]: explains why a report differs from the one that this node would write; [`mod@cause`]: the search
//!   for the cause of other amounts; [`own_usage`]: the usage that is searched; [`amount_cause`]: the causes.
//!
//! Specified in `docs/protocol/payer-reports.md`.

pub mod amount_cause;
pub mod attestation;
pub mod cause;
pub mod explain;
pub mod leaves;
pub mod own_usage;
pub mod report;
pub mod schedule;
pub mod tree;

pub use amount_cause::{AmountCause, AmountPart};
pub use attestation::{Attestation, AttestationError, Majority, majority};
pub use explain::{ReportDifference, compare, explain};
pub use hawser_proto::price::SettledAmount;
pub use leaves::{Leaves, PayerFee, PicoDollars, searched_trees_max};
pub use own_usage::{ChargedEnvelope, MinuteOfPayer, OwnUsage};
pub use report::{
    ContractReport, DomainSeparator, NodeIds, PayerReport, PayerReportError, ReportId, Submitted,
};
pub use schedule::{HourlyTask, Periods, RangeEnd, ReportDue, due, end_of_range, minute_of_hour};
pub use tree::{LeafProof, LeafProofError, Tree};

#[cfg(test)]
pub(crate) mod testing {
    //! Golden values of the contracts.

    use serde_json::Value;

    pub(crate) fn vectors(name: &str) -> Value {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/contracts/");
        serde_json::from_slice(&std::fs::read(format!("{folder}{name}.json")).unwrap()).unwrap()
    }

    pub(crate) fn list(value: &Value) -> &Vec<Value> {
        let list = value.as_array().unwrap();
        assert!(!list.is_empty(), "the vectors have cases");
        list
    }

    pub(crate) fn number(value: &Value) -> u64 {
        value.as_u64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
    }

    pub(crate) fn small(value: &Value) -> u32 {
        u32::try_from(number(value)).unwrap()
    }

    pub(crate) fn bytes(value: &Value) -> Vec<u8> {
        hex::decode(value.as_str().unwrap().trim_start_matches("0x")).unwrap()
    }

    pub(crate) fn word(value: &Value) -> [u8; 32] {
        bytes(value).try_into().unwrap()
    }
}
