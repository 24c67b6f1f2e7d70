//! The time of an event.

use alloy::rpc::types::Log;

/// Returns the time of a log, unix seconds: that of its block's header, if the header is known, or the one that the log
/// carries; `None` without either.
///
/// Every reader of logs decides by this rule. The header's time can be proven by the block's hash, and some endpoints
/// write another time, or zero, into their logs.
pub(super) fn event_time_s(header_time_s: Option<u64>, log: &Log) -> Option<u64> {
    header_time_s.or(log.block_timestamp)
}
