//! Registries that have another key for a node than before. They are taken only once the chain is steady.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_chain::watch::ListSnapshot;
use hawser_proto::{OriginatorId, PublicKey};
use hawser_rules::Registry;

use super::keys_of;

/// The time for which every reading has to show the same other keys. A guess: the settlement chain's blocks are final
/// in Ethereum before that, so no reorganisation takes the keys back.
const STEADY_AFTER: Duration = Duration::from_secs(15 * 60);

/// The readings of registries with other keys than before.
///
/// The contract changes no key of an id. So another key is a lie of the endpoints, or a reorganisation of the chain has
/// given the id to another node. The latter lasts, the chain goes on above it, and most endpoints show it.
#[derive(Debug, Default)]
pub(super) struct ChangedKeys {
    shown: Option<ShownKeys>,
}

#[derive(Debug)]
struct ShownKeys {
    keys: BTreeMap<OriginatorId, PublicKey>,
    /// The block of the first reading with these keys.
    block: u64,
    since: Instant,
}

impl ChangedKeys {
    /// Notes a reading whose keys are those of before.
    pub(super) fn note_same(&mut self) {
        self.shown = None;
    }

    /// Notes a reading with other keys than before. Returns true if they are to be taken: the readings have shown
    /// nothing else for [`STEADY_AFTER`], and the last one has succeeded at a later block than the first one, and is of
    /// most endpoints. A list that one of two endpoints shows may be read while the other one is away, and stays in use
    /// when the other one contradicts it.
    pub(super) fn note_other(&mut self, reading: &ListSnapshot<Registry>, now: Instant) -> bool {
        let keys: BTreeMap<_, _> = keys_of(&reading.value).collect();
        if let Some(shown) = self.shown.as_ref().filter(|shown| shown.keys == keys) {
            let has_lasted = now.saturating_duration_since(shown.since) >= STEADY_AFTER;
            let is_later = reading.error.is_none() && reading.block > shown.block;
            return has_lasted && is_later && reading.is_of_most;
        }
        self.shown = Some(ShownKeys { keys, block: reading.block, since: now });
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use hawser_proto::SecretKey;
    use hawser_rules::NodeRecord;

    use super::*;

    fn reading(seeds: [u8; 2], block: u64) -> ListSnapshot<Registry> {
        let record = |(id, seed): (u32, u8)| {
            let public_key = SecretKey::from_bytes(&[seed; 32]).unwrap().public_key();
            NodeRecord {
                id: OriginatorId(id),
                public_key,
                owner: public_key.address(),
                http_address: None,
                quic_address: None,
                canonical: true,
            }
        };
        let registry: Registry = [100, 200].into_iter().zip(seeds).map(record).collect();
        let (value, read_at) = (Arc::new(registry), SystemTime::now());
        ListSnapshot {
            value,
            block,
            is_of_most: true,
            read_at,
            error: None,
            failing_since: None,
            failures: 0,
        }
    }

    #[test]
    fn other_keys_are_taken_once_every_reading_has_shown_them_for_long_at_later_blocks() {
        let start = Instant::now();
        let mut keys = ChangedKeys::default();
        let early = start + STEADY_AFTER - Duration::from_secs(1);
        let late = start + STEADY_AFTER;
        assert!(!keys.note_other(&reading([2, 1], 7), start));
        assert!(!keys.note_other(&reading([2, 1], 9), early));
        assert!(!keys.note_other(&reading([2, 1], 7), late), "an endpoint that stands still");
        let failed = ListSnapshot { error: Some("lost".into()), ..reading([2, 1], 9) };
        assert!(!keys.note_other(&failed, late), "a failed reading repeats the last value");
        let contested = ListSnapshot { is_of_most: false, ..reading([2, 1], 9) };
        assert!(!keys.note_other(&contested, late), "one of two endpoints says so");
        assert!(keys.note_other(&reading([2, 1], 9), late));
    }

    #[test]
    fn the_time_begins_anew_with_each_change() {
        let start = Instant::now();
        let at = |count: u32| start + STEADY_AFTER * count;
        let mut keys = ChangedKeys::default();
        assert!(!keys.note_other(&reading([2, 1], 7), start));
        assert!(!keys.note_other(&reading([3, 1], 8), at(1)), "reorganised once more");
        keys.note_same();
        assert!(!keys.note_other(&reading([3, 1], 9), at(2)), "the keys of before in between");
        assert!(keys.note_other(&reading([3, 1], 10), at(3)));
    }
}
