//! The time of an event.

use alloy::rpc::types::Log;

/// Returns the time of a log, unix seconds: that of its block's header, if the header is known, or the one that the log
/// carries; `None` without either.
///
/// Every reader of logs decides by this rule. The header's time can be proven by the block's hash, and some endpoints
/// write another time, or zero, into their logs.
pub(super) fn event_time_s(header_time_s: Option<u64>, log: &Log) -> Option<u64> {
    header_time_s.or_else(|| time_in_log_s(log))
}

/// Returns the time that a log carries, unix seconds. Zero counts as none: an endpoint that does not know the time
/// writes it, and nodes that read the same event from other endpoints would make another envelope of it.
pub(super) fn time_in_log_s(log: &Log) -> Option<u64> {
    log.block_timestamp.filter(|time_s| *time_s > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_decides_and_zero_in_a_log_is_no_time() {
        let log = |block_timestamp| Log { block_timestamp, ..Log::default() };
        assert_eq!(event_time_s(Some(100), &log(Some(7))), Some(100));
        assert_eq!(event_time_s(None, &log(Some(7))), Some(7));
        assert_eq!(event_time_s(None, &log(Some(0))), None);
        assert_eq!(event_time_s(None, &log(None)), None);
        assert_eq!(event_time_s(Some(0), &log(None)), Some(0), "the header of a first block");
    }
}
