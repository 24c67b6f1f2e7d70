//! A report with all that its judgement may depend on.

use hawser_proto::{Bytes, OriginatorId};

use super::chain_record::ChainRecord;
use crate::fees::RateTable;
use crate::registry::Registry;

/// A report, and all that its judgement may depend on.
#[derive(Clone, Copy)]
pub struct ReportCase<'a> {
    /// The bytes of an `UnsignedMisbehaviorReport`.
    pub report: &'a Bytes,
    /// The signature of the node that keeps the report, as sent; `None` if no node keeps it.
    pub host_signature: Option<&'a [u8]>,
    /// The node that the report was got from, if known: its signature has to be that node's.
    pub host: Option<OriginatorId>,
    /// The keys of all nodes, and the times in which they were not in the network.
    pub registry: &'a Registry,
    /// The history of rates; `None` if unknown.
    pub rates: Option<&'a RateTable>,
    /// The part of the chains that the caller knows.
    pub chain: &'a dyn ChainRecord,
    /// The time at which the report was held, by a clock that the caller trusts, unix nanoseconds.
    /// `None`: the reporter's word is taken for it.
    pub held_at_ns: Option<i64>,
}
