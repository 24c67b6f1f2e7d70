//! The node at which each topic was published last.
//!
//! Topics stay at their node, because a reader that is far behind can lose messages of a topic that
//! is spread over nodes.

use hawser_proto::{OriginatorId, Topic};
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};

use crate::sharing::TopicKey;

/// Topics that are remembered. A guess: at about 50 bytes each this takes 10 MB. A topic that is
/// forgotten is placed by the strategy again.
const TOPICS_MAX: usize = 200_000;

/// The last node of each topic; those that are not used are forgotten first.
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

    /// Takes the node of a topic from another gateway.
    pub(super) fn learn(&self, topic: TopicKey, node: OriginatorId) {
        self.0.insert(topic, node);
    }
}

/// Returns the key of a whole topic, kind included: a failure that moves an installation's key
/// packages moves no group whose id happens to be the same. Topics of one identifier meet by the
/// strategy, which only a node that fails overrules.
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
