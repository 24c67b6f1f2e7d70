//! The places at which strands are compared among nodes without trees.
//!
//! Such a node states one envelope at a time, so equal statements about one place say nothing about the others. The
//! places are spread over the strand: each further one halves a widest gap. After `2^k` places of a strand, any run of
//! different envelopes that is longer than a `2^k`th of the strand has been met, and a single one with probability
//! `2^k / length`.
//!
//! **A node that could predict the places** would answer honestly there and lie elsewhere. So all places are shifted by a
//! number that the watcher chooses at its start and tells no node.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

use super::finding::{ContentQuestion, HeldContent};

/// The places of all strands that were sampled.
#[derive(Debug)]
pub(super) struct Sampling {
    shift: u64,
    /// The number of sampled places by originator.
    pub(super) counts: BTreeMap<u32, u64>,
    /// The originator that was sampled last; the next one has the next turn.
    last: Option<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        // The keys of the hasher are random, and no node learns them.
        let shift = RandomState::new().build_hasher().finish();
        Self { shift, counts: BTreeMap::new(), last: None }
    }
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
            let place = sampled_place(*count, self.shift, strand.highest);
            *count += 1;
            let nodes = strand.held.iter().filter(|(_, held)| *held >= place);
            let nodes: Vec<u32> = nodes.map(|(node, _)| *node).collect();
            if nodes.len() >= 2 {
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

/// Returns the place with this number of those that spread over 1 to `highest` (a van der Corput sequence in base 2, times
/// `highest`), shifted by a part of a `2^64`th.
fn sampled_place(number: u64, shift: u64, highest: u64) -> u64 {
    let fraction = number.reverse_bits().wrapping_add(shift);
    let before = (u128::from(fraction) * u128::from(highest)) >> 64;
    // Less than `highest`, so it fits.
    u64::try_from(before).unwrap_or(u64::MAX).saturating_add(1)
}

/// The kinds of statements that the nodes of a round have made about each strand: a tree, or envelopes alone.
#[derive(Debug, Default)]
pub(super) struct StatementKinds(BTreeMap<u32, BTreeMap<u32, bool>>);

impl StatementKinds {
    /// Notes the statements about one place.
    pub(super) fn note(&mut self, originator: OriginatorId, held: &BTreeMap<u32, HeldContent>) {
        let nodes = self.0.entry(originator.0).or_default();
        for (node, content) in held {
            // A node whose tree ends before a place has trees for places before.
            *nodes.entry(*node).or_default() |= content.root.is_some();
        }
    }

    /// Returns the nodes of a strand that single places are to be compared of: those without trees, and one with trees,
    /// which stands for all of its kind. Fewer than two if there is nothing to compare.
    pub(super) fn without_trees(&self, originator: u32) -> BTreeSet<u32> {
        let Some(nodes) = self.0.get(&originator) else { return BTreeSet::new() };
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
    fn a_run_of_places_is_met_after_as_many_samples_as_it_fits_into_the_strand() {
        for shift in [0, 1, u64::MAX / 3, u64::MAX] {
            for (highest, samples) in [(40, 64), (64, 64), (1_000_000, 1024)] {
                let all = (0..samples).map(|number| sampled_place(number, shift, highest));
                let places: BTreeSet<u64> = all.collect();
                assert!(places.iter().all(|place| (1..=highest).contains(place)));
                let run = highest.div_ceil(samples);
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

    fn strand(held: &[(u32, u64)], highest: u64) -> SampledStrand {
        SampledStrand { held: held.to_vec(), highest }
    }

    #[test]
    fn strands_have_turns_and_only_nodes_that_claim_a_place_are_asked() {
        let mut sampling = Sampling { shift: 0, ..Sampling::default() };
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
        let first = asked(sampling.plan(&strands, 4));
        assert_eq!(first[0], (100, 1, vec![1, 2]));
        assert_eq!(first[2], (300, 1, vec![1, 2, 3]));
        assert_eq!(first[3], (100, 51, vec![1, 2]));
        let second = asked(sampling.plan(&strands, 2));
        assert_eq!(second, [(200, 51, vec![1, 2]), (300, 51, vec![1, 3])]);
        assert!(sampling.plan(&BTreeMap::new(), 8).is_empty());
        let alone = BTreeMap::from([(100, strand(&[(1, 100)], 100))]);
        assert!(sampling.plan(&alone, 8).is_empty(), "one node contradicts no other");
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
        kinds.note(OriginatorId(100), &of(&[(1, Some(1)), (2, None), (3, Some(1)), (4, None)]));
        kinds.note(OriginatorId(100), &of(&[(4, Some(1))]));
        kinds.note(OriginatorId(200), &of(&[(1, Some(1)), (3, Some(1))]));
        assert_eq!(kinds.without_trees(100), BTreeSet::from([1, 2]));
        assert!(kinds.without_trees(200).is_empty());
        assert!(kinds.without_trees(300).is_empty());
    }
}
