//! The last node of each topic.
//!
//! Topics stay at their node, because a reader that is far behind can miss messages of a topic that is spread over
//! several nodes.

use hawser_proto::{OriginatorId, Topic};
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};

use crate::sharing::TopicKey;

/// Largest number of topics. A guess: at about 50 bytes each they take 10 MB. The strategy chooses a node again for
/// a topic that was removed.
const TOPICS_MAX: usize = 200_000;

/// The last node of each topic. The least used topics are removed first.
#[derive(Debug)]
pub(super) struct TopicPlacements(Cache<TopicKey, OriginatorId>);

impl Default for TopicPlacements {
    fn default() -> Self {
        Self(Cache::new(TOPICS_MAX))
    }
}

impl TopicPlacements {
    pub(super) fn get(&self, topic: &Topic) -> Option<OriginatorId> {
        self.0.get(&topic_key(topic))
    }

    pub(super) fn set(&self, topic: &Topic, node: OriginatorId) {
        self.0.insert(topic_key(topic), node);
    }

    /// Records the node of a topic that another gateway has written.
    pub(super) fn learn(&self, topic: TopicKey, node: OriginatorId) {
        self.0.insert(topic, node);
    }
}

/// Returns the key of a topic: the first 16 bytes of the SHA-256 of kind and identifier. The kind is included, so
/// that a failure that moves an installation's key packages moves no other topic with the same identifier. Such
/// topics still get the same node from the strategy.
pub(crate) fn topic_key(topic: &Topic) -> TopicKey {
    let hash = Sha256::digest(topic.as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&hash[..16]);
    key
}

#[cfg(test)]
mod tests {
    use hawser_proto::TopicKind;

    use super::*;

    #[test]
    fn topics_in_use_stay_where_they_were_and_the_memory_is_bounded() {
        let placements = TopicPlacements::default();
        let name = |n: usize| Topic::new(TopicKind::GroupMessages, &n.to_be_bytes()).unwrap();
        for n in 0..TOPICS_MAX * 2 {
            placements.set(&name(n), OriginatorId(100));
            assert_eq!(placements.get(&name(0)), Some(OriginatorId(100)), "used all the time");
        }
        assert!(placements.0.len() <= TOPICS_MAX);
        placements.set(&name(0), OriginatorId(200));
        assert_eq!(placements.get(&name(0)), Some(OriginatorId(200)));
        let packages = Topic::new(TopicKind::KeyPackages, name(0).identifier()).unwrap();
        assert_eq!(placements.get(&packages), None, "another topic of the same identifier");
    }
}
