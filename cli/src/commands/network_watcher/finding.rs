//! Statements of nodes about their envelopes at a place, and differences between the statements.

use std::collections::BTreeMap;
use std::fmt;

use hawser_proto::merkle::TreeHash;
use hawser_proto::{Bytes, EnvelopeId};

/// A question to some nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContentQuestion {
    /// The place.
    pub(super) place: EnvelopeId,
    /// The nodes that claim to hold it.
    pub(super) nodes: Vec<u32>,
}

/// A node's statement about a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldContent {
    /// The hash of the envelope there.
    pub(super) leaf: TreeHash,
    /// The root of the tree up to there, of a node that has trees.
    pub(super) root: Option<TreeHash>,
    /// A signed checkpoint of this size, if the node has sent one. Not verified; empty if it has none.
    pub(super) checkpoint: Bytes,
}

/// Nodes that state the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContentSide {
    /// The nodes, ascending.
    pub(super) nodes: Vec<u32>,
    /// The statement of the first of them.
    pub(super) content: HeldContent,
}

/// A difference between nodes at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContentFinding {
    /// The place that was asked for.
    pub(super) place: EnvelopeId,
    /// Two sides at least: those with most nodes first.
    pub(super) sides: Vec<ContentSide>,
    /// The first place that differs between the first two sides, if their trees showed it.
    pub(super) first_place: Option<u64>,
    /// The hash of the envelope there, as a node of each of these sides states it.
    pub(super) first_leaves: Vec<(u32, TreeHash)>,
}

impl ContentFinding {
    /// Returns true if the first two sides are of the same nodes as those of another finding.
    pub(super) fn is_between(&self, other: &Self) -> bool {
        let first_two = |finding: &Self| -> Vec<Vec<u32>> {
            finding.sides.iter().take(2).map(|side| side.nodes.clone()).collect()
        };
        first_two(self) == first_two(other)
    }
}

impl fmt::Display for ContentFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EnvelopeId { originator, sequence } = self.place;
        write!(f, "originator {originator} up to place {sequence}: ")?;
        for (at, ContentSide { nodes, content }) in self.sides.iter().enumerate() {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}node {} holds the envelope {}", nodes.join(", "), content.leaf)?;
            if let Some(root) = content.root {
                write!(f, " and the tree {root}")?;
            }
        }
        if let Some(first) = self.first_place {
            write!(f, "; place {first} is the first that differs: ")?;
            let leaf = |(node, leaf): &(u32, TreeHash)| format!("{leaf} at node {node}");
            let leaves: Vec<String> = self.first_leaves.iter().map(leaf).collect();
            write!(f, "{}", leaves.join(", "))?;
        }
        Ok(())
    }
}

/// Returns the places at which a strand is compared, by the claims of the nodes: the highest one that two of them hold,
/// the highest that half of them hold, and the highest that all hold. So neither a node that claims too much nor one
/// that holds little prevents the comparison of the others.
pub(super) fn places_of_most(held: &[(u32, u64)]) -> Vec<u64> {
    let places = descending(held);
    if places.len() < 2 {
        return Vec::new();
    }
    let mut chosen = vec![places[1], places[places.len() / 2], places[places.len() - 1]];
    chosen.dedup();
    chosen
}

/// Returns the highest place that half of the nodes claim to hold; `None` with fewer than two nodes.
pub(super) fn place_of_half(held: &[(u32, u64)]) -> Option<u64> {
    let places = descending(held);
    (places.len() >= 2).then(|| places[places.len() / 2])
}

fn descending(held: &[(u32, u64)]) -> Vec<u64> {
    let mut places: Vec<u64> = held.iter().map(|(_, place)| *place).collect();
    places.sort_unstable_by(|one, two| two.cmp(one));
    places
}

/// Groups nodes by their statements. Returns `None` unless two of them contradict each other.
///
/// Nodes without trees state one envelope alone, so they stand beside the nodes with trees that state the same one.
pub(super) fn sides_of(held: &BTreeMap<u32, HeldContent>) -> Option<Vec<ContentSide>> {
    let mut sides: Vec<ContentSide> = Vec::new();
    let (with, without): (Vec<_>, Vec<_>) = held.iter().partition(|(_, it)| it.root.is_some());
    for (node, content) in with.into_iter().chain(without) {
        let is_same = |side: &&mut ContentSide| {
            side.content.leaf == content.leaf
                && (content.root.is_none() || side.content.root == content.root)
        };
        match sides.iter_mut().find(is_same) {
            Some(side) => side.nodes.push(*node),
            None => {
                sides.push(ContentSide { nodes: vec![*node], content: content.clone() });
            }
        }
    }
    sides.iter_mut().for_each(|side| side.nodes.sort_unstable());
    // The sort is stable, so that equal numbers stay in the order of the nodes.
    sides.sort_by_key(|side| std::cmp::Reverse(side.nodes.len()));
    (sides.len() > 1).then_some(sides)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(statements: &[(u32, u8, Option<u8>)]) -> BTreeMap<u32, HeldContent> {
        let hash = |byte: u8| TreeHash([byte; 32]);
        let content = |leaf, root: Option<u8>| HeldContent {
            leaf: hash(leaf),
            root: root.map(hash),
            checkpoint: Bytes::new(),
        };
        statements.iter().map(|(node, leaf, root)| (*node, content(*leaf, *root))).collect()
    }

    fn sides(statements: &[(u32, u8, Option<u8>)]) -> Option<Vec<Vec<u32>>> {
        let sides = sides_of(&held(statements))?;
        Some(sides.into_iter().map(|side| side.nodes).collect())
    }

    #[test]
    fn only_contradictions_are_differences() {
        assert_eq!(sides(&[]), None);
        assert_eq!(sides(&[(1, 7, Some(9))]), None);
        assert_eq!(sides(&[(1, 7, Some(9)), (2, 7, Some(9)), (3, 7, None)]), None);
        assert_eq!(sides(&[(1, 7, None), (2, 7, None)]), None);
        assert_eq!(
            sides(&[(1, 7, None), (2, 8, None), (3, 8, None)]),
            Some(vec![vec![2, 3], vec![1]])
        );
        // The same envelope at the end, and another one before it.
        assert_eq!(sides(&[(1, 7, Some(9)), (2, 7, Some(8))]), Some(vec![vec![1], vec![2]]));
        let mixed = [(1, 7, None), (2, 8, Some(9)), (3, 7, Some(5))];
        assert_eq!(sides(&mixed), Some(vec![vec![1, 3], vec![2]]));
    }

    #[test]
    fn neither_a_claim_of_too_much_nor_of_little_hides_the_others() {
        assert_eq!(places_of_most(&[]), [0_u64; 0]);
        assert_eq!(places_of_most(&[(1, 9)]), [0_u64; 0]);
        assert_eq!(places_of_most(&[(1, 9), (2, 9), (3, 9)]), [9]);
        assert_eq!(places_of_most(&[(1, u64::MAX), (2, 9), (3, 8), (4, 1)]), [9, 8, 1]);
        assert_eq!(places_of_most(&[(1, 40), (2, 9)]), [9]);
        assert_eq!(place_of_half(&[(1, 9)]), None);
        assert_eq!(place_of_half(&[(1, 40), (2, 9)]), Some(9));
        assert_eq!(place_of_half(&[(1, u64::MAX), (2, 9), (3, 8), (4, 7), (5, 1)]), Some(8));
    }

    #[test]
    fn both_statements_are_told() {
        let place = EnvelopeId::new(hawser_proto::OriginatorId(100), hawser_proto::SequenceId(9));
        let sides = sides_of(&held(&[(1, 0xaa, Some(1)), (2, 0xbb, Some(2))])).unwrap();
        let first_leaves = vec![(1, TreeHash([3; 32])), (2, TreeHash([4; 32]))];
        let text = ContentFinding { place, sides, first_place: Some(3), first_leaves }.to_string();
        for part in
            ["originator 100 up to place 9", &"aa".repeat(32), &"bb".repeat(32), "place 3 is"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}
