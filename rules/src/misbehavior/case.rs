//! The inputs of the judgement of a report.

use hawser_proto::{Bytes, OriginatorId};

use super::chain_record::ChainRecord;
use crate::fees::RateTable;
use crate::registry::Registry;

/// A report with all inputs of its judgement.
#[derive(Clone, Copy)]
pub struct ReportCase<'a> {
    /// The bytes of an `UnsignedMisbehaviorReport`.
    pub report: &'a Bytes,
    /// The signature of the node that hosts the report, as received; `None` if no node hosts it.
    pub host_signature: Option<&'a [u8]>,
    /// The node from which the report was received, if known; the host signature has to be that node's.
    pub host: Option<OriginatorId>,
    /// The keys of all nodes, and their absences from the network.
    pub registry: &'a Registry,
    /// All past and current rates; `None` if unknown.
    pub rates: Option<&'a RateTable>,
    /// The chain data that the caller has.
    pub chain: &'a dyn ChainRecord,
    /// The time at which the report was received, by a clock that the caller trusts, unix nanoseconds. `None` uses the
    /// time that the reporter states.
    pub held_at_ns: Option<i64>,
}
