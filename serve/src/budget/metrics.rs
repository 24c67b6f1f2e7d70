//! The budget in the format of scrapes.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::MemoryBudget;
use crate::metrics::Exposition;

impl Collector for MemoryBudget {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition::new(encoder);
        let gauge = |bytes: usize| Some(i64::try_from(bytes).unwrap_or(i64::MAX));
        out.gauge(
            "xmtp_api_memory_bytes",
            "Memory charged to callers now, bytes: requests, answers, streams",
            gauge(self.used_bytes()),
        )?;
        out.gauge(
            "xmtp_api_memory_limit_bytes",
            "The most memory that is charged to callers, bytes",
            gauge(self.0.limit_bytes),
        )?;
        out.counter(
            "xmtp_api_memory_refused",
            "Connections, requests and answers refused because their caller held too much",
            self.0.refused.get(),
        )?;
        out.gauge(
            "xmtp_api_rest_multiple",
            "Rest of connections that do not publish, in multiples of their turns; 0 while no publisher is late",
            Some(self.0.turns.rest_multiple()),
        )?;
        out.counters(
            "xmtp_api_connections_closed",
            "Connections, and calls behind proxies, closed for what their peers made this process hold",
            [
                ([("reason", "memory_short")], self.0.closed.get()),
                ([("reason", "unread")], self.0.unread.get()),
            ],
        )
    }
}
