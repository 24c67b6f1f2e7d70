//! What replication counts.

use crate::counters::Counter;

/// Everything that the followers count, for whoever exports it.
#[derive(Debug, Default)]
pub struct ReplicationCounters {
    /// Envelopes of other nodes that were checked and may be stored.
    pub verified: Counter,
    /// Envelopes that were refused, and the connection with them.
    pub forged: Counter,
    /// Envelopes stored, valid or marked invalid.
    pub stored: Counter,
    /// Envelopes that were stored in a place that had been marked missing, or came again.
    pub compared: Counter,
    /// Places marked missing.
    pub missing: Counter,
    /// Second statements that an originator signed for one sequence id. The first one is kept.
    pub conflicts: Counter,
}
