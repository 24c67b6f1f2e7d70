//! The newest blocks of the endpoints, by which one that has stopped following the chain is told. A plain value; time is
//! an argument.
//!
//! While transactions of the account are under way, each endpoint gets them, and a chain that makes blocks only for
//! transactions makes some. So an endpoint whose newest block stays the same for long has stopped, and that it does not
//! show a receipt says nothing. An endpoint that lies cannot stop another one this way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The time without a new block after which an endpoint has stopped. A guess: twice the time after which a transaction
/// is replaced at a chain without blocks.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(20);

/// The newest block of each endpoint, by its display URL.
#[derive(Debug, Default)]
pub(super) struct EndpointHeads(BTreeMap<String, EndpointHead>);

#[derive(Debug)]
struct EndpointHead {
    block: u64,
    /// The time at which it was first seen, or at which transactions were under way again.
    since: Duration,
    is_stalled: bool,
}

impl EndpointHeads {
    /// Takes note of an endpoint's newest block. Returns true if the endpoint has stopped by now and had not before.
    pub(super) fn note(&mut self, endpoint: &str, block: u64, now: Duration) -> bool {
        let known = self.0.get_mut(endpoint).filter(|known| known.block == block);
        let Some(known) = known else {
            let head = EndpointHead { block, since: now, is_stalled: false };
            self.0.insert(endpoint.to_owned(), head);
            return false;
        };
        let was_stalled = known.is_stalled;
        known.is_stalled |= now.saturating_sub(known.since) >= STALLED_AFTER;
        known.is_stalled && !was_stalled
    }

    /// Takes note that transactions are under way again. Before, a chain may have had no reason for a block.
    pub(super) fn resume(&mut self, now: Duration) {
        for known in self.0.values_mut() {
            known.since = now;
        }
    }

    /// Returns the endpoints that have stopped and have had no new block since.
    pub(super) fn stalled(&self) -> BTreeSet<String> {
        let stalled = self.0.iter().filter(|(_, known)| known.is_stalled);
        stalled.map(|(endpoint, _)| endpoint.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_new_blocks_has_stopped_until_it_has_one() {
        let at = Duration::from_secs;
        let mut heads = EndpointHeads::default();
        assert!(!heads.note("old", 5, at(100)));
        assert!(!heads.note("live", 5, at(100)));
        assert!(!heads.note("old", 5, at(119)));
        assert!(!heads.note("live", 6, at(119)));
        assert!(heads.note("old", 5, at(120)), "it is told once");
        assert!(!heads.note("old", 5, at(121)));
        assert!(!heads.note("live", 6, at(121)));
        assert_eq!(heads.stalled(), BTreeSet::from(["old".to_owned()]));

        // Nothing was sent for a day: the live endpoint has had no reason for a block, and the other one none either.
        heads.resume(at(90_000));
        assert!(!heads.note("live", 6, at(90_001)));
        assert_eq!(heads.stalled(), BTreeSet::from(["old".to_owned()]));
        assert!(!heads.note("old", 7, at(90_002)));
        assert!(heads.stalled().is_empty());
    }
}
