//! The places at which strands are compared among nodes without trees.
//!
//! Such a node states one envelope at a time, so equal statements about one place say nothing about the others. The
//! places are drawn level by level: level `k` divides the strand into `2^k` equal parts and draws one place in each.
//! After all places of level `k`, any run of different envelopes that is longer than two of its parts has been met, and
//! a single one with probability `2^(k+1) / length`.
//!
//! **A node that could predict the places** would answer honestly there and lie elsewhere. So each place is drawn
//! within its part at random, and a node cannot derive the next places from those that it was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

use super::finding::{ContentQuestion, HeldContent};

/// The places of all strands that were sampled.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    /// Draws the places. The keys of the hashes are random, and no node learns them.
    random: RandomState,
    /// The samples by originator.
    pub(super) counts: BTreeMap<u32, SampleCounts>,
    /// The originator that was sampled last; the next one has the next turn.
    last: Option<u32>,
}

/// The numbers of samples of one strand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SampleCounts {
    /// Places that were drawn.
    drawn: u64,
    /// Drawn places that two nodes claim to hold, and for which they were asked.
    pub(super) asked: u64,
}

/// A strand that can be sampled, with the claims of the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SampledStrand {
    /// The nodes to ask, with the places up to which they claim to hold the strand.
    pub(super) held: Vec<(u32, u64)>,
    /// The highest place to ask for.
    pub(super) highest: u64,
}

impl Sampling {
    /// Returns the next questions, at most `questions_max`, the strands in turns.
    pub(super) fn plan(
        &mut self,
        strands: &BTreeMap<u32, SampledStrand>,
        questions_max: usize,
    ) -> Vec<ContentQuestion> {
        let mut plan = Vec::new();
        for _ in 0..questions_max {
            let after = self.last.map_or(0, |last| last.saturating_add(1));
            let next = strands.range(after..).next().or_else(|| strands.iter().next());
            let Some((&originator, strand)) = next else { break };
            self.last = Some(originator);
            let count = self.counts.entry(originator).or_default();
            let random = self.random.hash_one((originator, count.drawn));
            let place = sampled_place(count.drawn, random, strand.highest);
            count.drawn += 1;
            let nodes = strand.held.iter().filter(|(_, held)| *held >= place);
            let nodes: Vec<u32> = nodes.map(|(node, _)| *node).collect();
            if nodes.len() >= 2 {
                count.asked += 1;
                let place = EnvelopeId::new(OriginatorId(originator), SequenceId(place));
                plan.push(ContentQuestion { place, nodes });
            }
        }
        plan
    }

    /// Forgets the strands that do not exist any more.
    pub(super) fn retain(&mut self, originators: &BTreeSet<u32>) {
        self.counts.retain(|originator, _| originators.contains(originator));
    }
}

/// Returns a place from 1 to `highest` for the sample with this number. `drawn`, which is uniformly distributed,
/// chooses within the part of the sample. The parts of a level are visited in bit-reversed order, which spreads a few
/// samples over the whole strand.
fn sampled_place(number: u64, drawn: u64, highest: u64) -> u64 {
    let nth = number.saturating_add(1);
    let level = nth.ilog2();
    let part = (nth - (1 << level)).reverse_bits();
    // Both in units of a `2^64`th of the strand. The part's low bits are zero, so the sum fits.
    let fraction = part + (drawn >> level);
    let before = (u128::from(fraction) * u128::from(highest)) >> 64;
    // Less than `highest`, so it fits.
    u64::try_from(before).unwrap_or(u64::MAX).saturating_add(1)
}

/// The kinds of statements that the nodes of a round have made about each strand: a tree, or envelopes alone.
#[derive(Debug, Default)]
pub(super) struct StatementKinds {
    /// True for each node with trees, by originator.
    stated: BTreeMap<u32, BTreeMap<u32, bool>>,
    /// The nodes that claim to hold something of a strand, by originator.
    claiming: BTreeMap<u32, BTreeSet<u32>>,
}

impl StatementKinds {
    /// Notes the statements about one place, for which these nodes were asked.
    pub(super) fn note(
        &mut self,
        originator: OriginatorId,
        asked: &[u32],
        held: &BTreeMap<u32, HeldContent>,
    ) {
        self.claiming.entry(originator.0).or_default().extend(asked);
        let nodes = self.stated.entry(originator.0).or_default();
        for (node, content) in held {
            // A node whose tree ends before a place has trees for places before.
            *nodes.entry(*node).or_default() |= content.root.is_some();
        }
    }

    /// Returns the nodes that have shown nothing of a strand which they claim to hold, although another node has, each
    /// with the first such strand. Strands of chains do not count: nodes of other software have no trees of them.
    pub(super) fn silent(&self) -> BTreeMap<u32, OriginatorId> {
        let mut silent = BTreeMap::new();
        for (&originator, stated) in &self.stated {
            if stated.is_empty() || !OriginatorId(originator).is_signer() {
                continue;
            }
            let claiming = self.claiming.get(&originator).into_iter().flatten();
            for node in claiming.filter(|node| !stated.contains_key(*node)) {
                silent.entry(*node).or_insert(OriginatorId(originator));
            }
        }
        silent
    }

    /// Returns the nodes that are compared at single places of a strand: those without trees, and one with trees, which
    /// stands for all others with trees. Returns fewer than two nodes if there is nothing to compare.
    pub(super) fn without_trees(&self, originator: u32) -> BTreeSet<u32> {
        let Some(nodes) = self.stated.get(&originator) else { return BTreeSet::new() };
        let of_kind = |has_trees: bool| {
            nodes.iter().filter(move |(_, has)| **has == has_trees).map(|(node, _)| *node)
        };
        let mut chosen: BTreeSet<u32> = of_kind(false).collect();
        if !chosen.is_empty() {
            chosen.extend(of_kind(true).next());
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::Bytes;
    use hawser_proto::merkle::TreeHash;

    use super::*;

    #[test]
    fn a_run_of_places_that_is_longer_than_two_parts_of_a_level_is_met() {
        let random = RandomState::new();
        let draws: [&dyn Fn(u64) -> u64; 3] =
            [&|_| 0, &|_| u64::MAX, &|number| random.hash_one(number)];
        for drawn in draws {
            for (highest, level) in [(40, 6), (64, 6), (1_000_000, 10)] {
                let parts = 1_u64 << level;
                let all = (parts - 1..2 * parts - 1)
                    .map(|number| sampled_place(number, drawn(number), highest));
                let places: BTreeSet<u64> = all.collect();
                assert!(places.iter().all(|place| (1..=highest).contains(place)));
                let run = (2 * highest).div_ceil(parts);
                let mut before = 0;
                for place in places.into_iter().chain([highest + 1]) {
                    assert!(place - before <= run + 1, "{run} places after {before} are not met");
                    before = place;
                }
            }
        }
        assert_eq!(sampled_place(5, 7, 1), 1);
        assert!(sampled_place(u64::MAX, u64::MAX, u64::MAX) >= 1);
    }

    /// Two watchers, or one after a restart, ask for different places, and no two places of one have the same distance
    /// to the starts of their parts, from which a node could derive the others.
    #[test]
    fn the_places_of_one_watcher_do_not_tell_others() {
        let highest = 1 << 40;
        let strands = BTreeMap::from([(100, strand(&[(1, highest), (2, highest)], highest))]);
        let asked = || -> Vec<u64> {
            let plan = Sampling::default().plan(&strands, 64);
            plan.into_iter().map(|it| it.place.sequence.0).collect()
        };
        let (first, second) = (asked(), asked());
        assert!(first.iter().zip(&second).all(|(a, b)| a != b), "{first:?} {second:?}");
        let offset = |(number, place): (u64, u64)| place - sampled_place(number, 0, highest);
        let offsets: BTreeSet<u64> = (0..).zip(first.iter().copied()).map(offset).collect();
        assert_eq!(offsets.len(), first.len());
    }

    fn strand(held: &[(u32, u64)], highest: u64) -> SampledStrand {
        SampledStrand { held: held.to_vec(), highest }
    }

    #[test]
    fn strands_have_turns_and_only_nodes_that_claim_a_place_are_asked() {
        let mut sampling = Sampling::default();
        let both = [(1, 100), (2, 100)];
        let strands = BTreeMap::from([
            (100, strand(&both, 100)),
            (200, strand(&both, 100)),
            (300, strand(&[(1, 100), (2, 10), (3, 100)], 100)),
        ]);
        let asked = |plan: Vec<ContentQuestion>| -> Vec<(u32, u64, Vec<u32>)> {
            let of = |it: ContentQuestion| (it.place.originator.0, it.place.sequence.0, it.nodes);
            plan.into_iter().map(of).collect()
        };
        let plan = asked(sampling.plan(&strands, 7));
        let turns: Vec<u32> = plan.iter().map(|(originator, ..)| *originator).collect();
        assert_eq!(turns, [100, 200, 300, 100, 200, 300, 100]);
        for (originator, place, nodes) in plan {
            let holds_all = originator != 300 || place <= 10;
            assert_eq!(nodes.contains(&2), holds_all, "{originator} {place} {nodes:?}");
            assert_eq!(nodes.contains(&3), originator == 300);
            assert!(nodes.contains(&1));
        }
        assert_eq!(asked(sampling.plan(&strands, 2)).first().map(|it| it.0), Some(200));
        assert!(sampling.plan(&BTreeMap::new(), 8).is_empty());
        let alone = BTreeMap::from([(100, strand(&[(1, 100)], 100))]);
        let before = sampling.counts[&100].asked;
        assert!(sampling.plan(&alone, 8).is_empty(), "one node contradicts no other");
        assert_eq!(sampling.counts[&100].asked, before, "only questions count");
    }

    #[test]
    fn one_node_with_trees_stands_for_all_of_its_kind() {
        let mut kinds = StatementKinds::default();
        let content = |root: Option<u8>| HeldContent {
            leaf: TreeHash([1; 32]),
            root: root.map(|byte| TreeHash([byte; 32])),
            checkpoint: Bytes::new(),
        };
        let of = |nodes: &[(u32, Option<u8>)]| -> BTreeMap<u32, HeldContent> {
            nodes.iter().map(|(node, root)| (*node, content(*root))).collect()
        };
        let mut note = |originator, stated: &[(u32, Option<u8>)]| {
            kinds.note(OriginatorId(originator), &[1, 2, 3, 4, 5], &of(stated));
        };
        note(100, &[(1, Some(1)), (2, None), (3, Some(1)), (4, None)]);
        note(100, &[(4, Some(1))]);
        note(200, &[(1, Some(1)), (2, None), (3, Some(1)), (5, None)]);
        note(300, &[]);
        note(0, &[(1, Some(1))]);
        assert_eq!(kinds.without_trees(100), BTreeSet::from([1, 2]));
        assert!(kinds.without_trees(0).is_empty());
        assert!(kinds.without_trees(300).is_empty());
        // Nothing is known of the strand of which no node shows anything, nor of a chain's.
        let silent = [(4, OriginatorId(200)), (5, OriginatorId(100))];
        assert_eq!(kinds.silent(), BTreeMap::from(silent));
    }
}
