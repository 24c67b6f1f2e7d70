//! Chooses the node for a topic, as functions of their arguments: no clock, no socket, and randomness is an
//! argument.
//!
//! The five strategies are those of XIP-79 as the network's gateways implement them. `stable` hashes a topic's
//! identifier without its kind, so the key packages and the welcomes of one installation go to the same node.

use std::collections::BTreeSet;
use std::time::Duration;

use hawser_proto::{OriginatorId, Topic};
use sha2::{Digest as _, Sha256};

/// The rule that assigns a node to a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The node that the hash of the topic's identifier selects. All gateways with the same node list choose the
    /// same node.
    #[default]
    Stable,
    /// The first usable node of the list, and no other.
    Manual(Vec<OriginatorId>),
    /// The first usable node of the list, then any other.
    Ordered(Vec<OriginatorId>),
    /// A random node.
    Random,
    /// The node with the shortest time to connect: one of the list if any of them was reached, otherwise any node.
    /// A random node while no time is known.
    Closest(Vec<OriginatorId>),
}

/// A node that the strategy may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Node id.
    pub id: OriginatorId,
    /// Time to establish the last measured connection; `None` if it failed or none was measured.
    pub connect_time: Option<Duration>,
}

impl Strategy {
    /// Chooses the node for a topic: one of `candidates` that is not in `banned`; `None` if the strategy has none.
    /// `candidates` ascend by id. Equal arguments give equal choices; `random` is any number.
    #[must_use]
    pub fn choose(
        &self,
        topic: &Topic,
        candidates: &[Candidate],
        banned: &BTreeSet<OriginatorId>,
        random: u64,
    ) -> Option<OriginatorId> {
        let usable = |id: &OriginatorId| {
            candidates.iter().any(|candidate| candidate.id == *id) && !banned.contains(id)
        };
        match self {
            Self::Stable => stable(topic, candidates, banned),
            Self::Manual(list) => list.iter().copied().find(usable),
            Self::Ordered(list) => {
                list.iter().copied().find(usable).or_else(|| any_usable(candidates, banned, random))
            }
            Self::Random => any_usable(candidates, banned, random),
            Self::Closest(list) => {
                closest(candidates, banned, list).or_else(|| any_usable(candidates, banned, random))
            }
        }
    }
}

/// Returns the random number of a topic, equal at every call with the same seed. Envelopes of a topic that are
/// published concurrently, before the topic has a node, so go to the same node.
pub(crate) fn random_of(topic: &Topic, seed: u64) -> u64 {
    let hash = Sha256::new().chain_update(seed.to_be_bytes()).chain_update(topic.identifier());
    hash.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Places the candidates evenly on the ring of 32-bit numbers, and returns the first one above the topic's hash
/// that is not banned.
fn stable(
    topic: &Topic,
    candidates: &[Candidate],
    banned: &BTreeSet<OriginatorId>,
) -> Option<OriginatorId> {
    let count = u32::try_from(candidates.len()).ok().filter(|count| *count > 0)?;
    let spacing = u64::from(u32::MAX / count);
    let hash = u64::from(position(topic.identifier()));
    let first = (0..candidates.len()).find(|place| *place as u64 * spacing > hash).unwrap_or(0);
    let around = candidates[first..].iter().chain(&candidates[..first]);
    around.map(|candidate| candidate.id).find(|id| !banned.contains(id))
}

/// Returns the position of an identifier on the ring: the first four bytes of its SHA-256.
fn position(identifier: &[u8]) -> u32 {
    let hash = Sha256::digest(identifier);
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

fn any_usable(
    candidates: &[Candidate],
    banned: &BTreeSet<OriginatorId>,
    random: u64,
) -> Option<OriginatorId> {
    let usable: Vec<_> =
        candidates.iter().map(|candidate| candidate.id).filter(|id| !banned.contains(id)).collect();
    let count = u64::try_from(usable.len()).ok().filter(|count| *count > 0)?;
    usize::try_from(random % count).ok().map(|index| usable[index])
}

fn closest(
    candidates: &[Candidate],
    banned: &BTreeSet<OriginatorId>,
    preferred: &[OriginatorId],
) -> Option<OriginatorId> {
    let quickest = |only: &dyn Fn(OriginatorId) -> bool| {
        let reached = candidates.iter().filter_map(|candidate| {
            let usable = !banned.contains(&candidate.id) && only(candidate.id);
            candidate.connect_time.filter(|_| usable).map(|time| (time, candidate.id))
        });
        reached.min().map(|(_, id)| id)
    };
    quickest(&|id| preferred.contains(&id)).or_else(|| quickest(&|_| true))
}

#[cfg(test)]
mod tests {
    use hawser_proto::TopicKind;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn nodes(count: u32) -> Vec<Candidate> {
        let node = |n| Candidate { id: OriginatorId(n * 100), connect_time: None };
        (1..=count).map(node).collect()
    }

    fn topic(identifier: &[u8]) -> Topic {
        Topic::new(TopicKind::GroupMessages, identifier).unwrap()
    }

    /// Returns the order in which nodes are chosen if each chosen node is banned afterwards.
    fn order(strategy: &Strategy, topic: &Topic, nodes: &[Candidate]) -> Vec<u32> {
        let mut banned = BTreeSet::new();
        let mut order = Vec::new();
        while let Some(node) = strategy.choose(topic, nodes, &banned, 7) {
            assert!(banned.insert(node), "a banned node was chosen");
            order.push(node.0);
        }
        order
    }

    #[test]
    fn the_stable_order_equals_the_published_one() {
        let check = |identifier: &[u8], hash, of_three: [u32; 3], of_five: [u32; 5]| {
            assert_eq!(position(identifier), hash);
            let topic = topic(identifier);
            assert_eq!(order(&Strategy::Stable, &topic, &nodes(3)), of_three);
            assert_eq!(order(&Strategy::Stable, &topic, &nodes(5)), of_five);
        };
        check(&[0xaa; 16], 0xbc14_43a0, [100, 200, 300], [500, 100, 200, 300, 400]);
        check(&[1; 32], 0x72cd_6e84, [300, 100, 200], [400, 500, 100, 200, 300]);
        check(&[2; 32], 0x7587_7bb4, [300, 100, 200], [400, 500, 100, 200, 300]);
        check(&[0; 16], 0x3747_08ff, [200, 300, 100], [300, 400, 500, 100, 200]);
        // No topic has an empty identifier, but the rule has a value for it.
        assert_eq!(position(&[]), 0xe3b0_c442);
    }

    #[test]
    fn key_packages_and_welcomes_of_an_installation_meet() {
        let (welcomes, packages) = (
            Topic::new(TopicKind::Welcomes, &[3; 32]).unwrap(),
            Topic::new(TopicKind::KeyPackages, &[3; 32]).unwrap(),
        );
        let choose =
            |topic| Strategy::Stable.choose(topic, &nodes(9), &BTreeSet::new(), 0).unwrap();
        assert_eq!(choose(&welcomes), choose(&packages));
    }

    #[test]
    fn lists_are_taken_in_their_order() {
        let list = vec![OriginatorId(300), OriginatorId(900), OriginatorId(100)];
        let topic = topic(&[1]);
        assert_eq!(order(&Strategy::Manual(list.clone()), &topic, &nodes(3)), [300, 100]);
        assert_eq!(order(&Strategy::Ordered(list), &topic, &nodes(3)), [300, 100, 200]);
    }

    #[test]
    fn the_closest_is_the_quickest_of_those_that_were_reached() {
        let mut nodes = nodes(4);
        nodes[0].connect_time = Some(Duration::from_millis(9));
        nodes[2].connect_time = Some(Duration::from_millis(3));
        nodes[3].connect_time = Some(Duration::from_millis(5));
        let topic = topic(&[1]);
        assert_eq!(order(&Strategy::Closest(vec![]), &topic, &nodes), [300, 400, 100, 200]);
        let preferred = Strategy::Closest(vec![OriginatorId(100), OriginatorId(200)]);
        assert_eq!(order(&preferred, &topic, &nodes), [100, 300, 400, 200]);
    }

    proptest! {
        #[test]
        fn every_strategy_finds_each_node_that_it_may_take(
            count in 1u32..12,
            identifier in proptest::collection::vec(any::<u8>(), 1..40),
            banned in proptest::collection::btree_set(1u32..12, 0..12),
            random in any::<u64>(),
        ) {
            let nodes = nodes(count);
            let banned: BTreeSet<_> = banned.into_iter().map(|n| OriginatorId(n * 100)).collect();
            let left = nodes.iter().filter(|node| !banned.contains(&node.id)).count();
            // No connection to these nodes was measured.
            let closest = Strategy::Closest(vec![OriginatorId(100)]);
            let ordered = Strategy::Ordered(vec![]);
            for strategy in [Strategy::Stable, Strategy::Random, ordered, closest] {
                let chosen = strategy.choose(&topic(&identifier), &nodes, &banned, random);
                prop_assert_eq!(chosen.is_some(), left > 0);
                prop_assert!(chosen.is_none_or(|id| !banned.contains(&id)));
            }
        }
    }
}
