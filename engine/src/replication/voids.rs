//! The statements about void places that this node knows (`docs/protocol/replication.md`, *Void places*).

use hawser_proto::void::{SignedVoid, VOIDS_OF_NODE_MAX, VoidStatement};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

/// Statements of all nodes that are kept, and that a peer may show in one session. Specified in
/// `docs/protocol/replication.md`. With it the row of all of them has half a megabyte.
pub const VOIDS_MAX: usize = 4_096;

/// The statements that are known, in the order in which they became known. The first ones of a node stay: a node gains
/// nothing by signing more of them. Those of other nodes leave room for all that this node may sign itself: without its
/// own, it might sign the same places twice after it was restored twice.
#[derive(Debug, Clone)]
pub struct KnownVoids {
    own: OriginatorId,
    all: Vec<SignedVoid>,
}

impl KnownVoids {
    /// Takes over the recorded statements of the node `own`.
    #[must_use]
    pub fn of_recorded(own: OriginatorId, recorded: Vec<SignedVoid>) -> Self {
        Self { own, all: recorded }
    }

    /// Returns true if [`add`](Self::add) would take the statement: it is not known, and there is room for it.
    #[must_use]
    pub fn takes(&self, statement: &VoidStatement) -> bool {
        let of_node = self.of(statement.node);
        let kept_free = if statement.node == self.own { 0 } else { VOIDS_OF_NODE_MAX };
        // The same statement with another signature says nothing more.
        !self.is_known(statement)
            && of_node.count() < VOIDS_OF_NODE_MAX
            && self.all.len() < VOIDS_MAX - kept_free
    }

    /// Adds a statement, whose signature the caller has verified. Returns false if it is known, or there is no room.
    pub fn add(&mut self, signed: SignedVoid) -> bool {
        let is_new = self.takes(&signed.statement);
        if is_new {
            self.all.push(signed);
        }
        is_new
    }

    /// Returns all statements.
    #[must_use]
    pub fn all(&self) -> &[SignedVoid] {
        &self.all
    }

    /// Returns the statements of one node.
    pub fn of(&self, node: OriginatorId) -> impl Iterator<Item = &VoidStatement> {
        self.all.iter().map(|it| &it.statement).filter(move |it| it.node == node)
    }

    /// Returns true if this statement is known, also with another signature.
    #[must_use]
    pub fn is_known(&self, statement: &VoidStatement) -> bool {
        self.of(statement.node).any(|it| it == statement)
    }

    /// Returns the highest place that a node has declared void; [`SequenceId::NONE`] if there is none.
    #[must_use]
    pub fn through(&self, node: OriginatorId) -> SequenceId {
        self.of(node).map(|it| it.through).max().unwrap_or_default()
    }

    /// Returns the latest time of a node's statements about places above `held`, unix nanoseconds; `None` if there is
    /// none.
    #[must_use]
    pub fn newest_ns(&self, node: OriginatorId, held: SequenceId) -> Option<u64> {
        self.of(node).filter(|it| it.through > held).map(|it| it.time_ns).max()
    }

    /// Returns the ranges of places from one to another that a node has not declared void, in one statement or in
    /// several.
    #[must_use]
    pub fn undeclared(
        &self,
        node: OriginatorId,
        from: SequenceId,
        through: SequenceId,
    ) -> Vec<(SequenceId, SequenceId)> {
        let mut declared: Vec<_> = self.of(node).map(|it| (it.from, it.through)).collect();
        declared.sort_unstable();
        let (mut next, mut ranges) = (from, Vec::new());
        for (first, last) in declared.into_iter().filter(|(first, _)| *first <= through) {
            if next < first {
                ranges.push((next, first.previous()));
            }
            next = next.max(last.next());
        }
        if next <= through {
            ranges.push((next, through));
        }
        ranges
    }

    /// Returns all statements that are about this place: one that is dated far ahead must not hide another one.
    pub fn covering(&self, id: EnvelopeId) -> impl Iterator<Item = &SignedVoid> {
        let covers = move |of: &VoidStatement| of.node == id.originator && of.covers(id.sequence);
        self.all.iter().filter(move |it| covers(&it.statement))
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;

    use super::*;

    fn signed(node: u32, from: u64, through: u64) -> SignedVoid {
        let (node, from, through) = (OriginatorId(node), SequenceId(from), SequenceId(through));
        let of = VoidStatement { node, from, through, time_ns: 5, incarnation: [1; 16] };
        of.sign(&SecretKey::from_bytes(&[7; 32]).unwrap())
    }

    fn known_to(own: u32) -> KnownVoids {
        KnownVoids::of_recorded(OriginatorId(own), Vec::new())
    }

    #[test]
    fn a_node_that_signs_many_takes_no_room_from_others_and_the_first_ones_stay() {
        let mut known = known_to(9_999);
        let taken = (1..=1_000).filter(|&place| known.add(signed(100, place, place))).count();
        assert_eq!(taken, VOIDS_OF_NODE_MAX);
        assert!(!known.add(signed(100, 1, 1)), "it is known");
        assert!(known.add(signed(200, 1, SequenceId::MAX.0)));
        let other_signature = SignedVoid {
            signature: signed(300, 1, 1).signature,
            ..signed(200, 1, SequenceId::MAX.0)
        };
        assert!(!known.add(other_signature), "another signature makes no other statement");
        let at = |node, place| EnvelopeId::new(OriginatorId(node), SequenceId(place));
        let covering = |id| known.covering(id).count();
        assert_eq!([at(100, 1), at(100, 64), at(100, 65), at(300, 1)].map(covering), [1, 1, 0, 0]);
        assert_eq!(known.through(OriginatorId(100)), SequenceId(64));
        assert_eq!(known.through(OriginatorId(300)), SequenceId::NONE);
        assert_eq!(known.of(OriginatorId(200)).count(), 1);
    }

    #[test]
    fn a_range_is_covered_if_each_of_its_places_is() {
        let mut known = known_to(9_999);
        for (from, through) in [(3, 10), (8, 20), (22, 30)] {
            assert!(known.add(signed(100, from, through)));
        }
        let undeclared = |node, from, through| -> Vec<(u64, u64)> {
            let of = known.undeclared(OriginatorId(node), SequenceId(from), SequenceId(through));
            of.into_iter().map(|(from, through)| (from.0, through.0)).collect()
        };
        for (from, through) in [(3, 20), (5, 9), (22, 22)] {
            assert!(undeclared(100, from, through).is_empty(), "from {from} to {through}");
        }
        assert_eq!(undeclared(100, 2, 20), [(2, 2)], "one before");
        assert_eq!(undeclared(100, 3, 21), [(21, 21)], "one behind");
        assert_eq!(undeclared(100, 3, 30), [(21, 21)], "one between");
        assert_eq!(undeclared(100, 1, 40), [(1, 2), (21, 21), (31, 40)]);
        assert_eq!(undeclared(100, 31, 40), [(31, 40)]);
        assert_eq!(undeclared(200, 3, 20), [(3, 20)]);
    }

    /// Played by very many nodes of the registry, or by 63 that sign 64 each.
    #[test]
    fn all_nodes_together_have_a_bound_too_and_leave_room_for_what_this_node_signs() {
        let own = 9_999;
        let mut known = known_to(own);
        let ids = (1..=VOIDS_MAX + 10).map(|node| u32::try_from(node).unwrap());
        let taken = ids.filter(|&node| known.add(signed(node, 1, 1))).count();
        assert_eq!(taken, VOIDS_MAX - VOIDS_OF_NODE_MAX);
        assert_eq!((1..=100).filter(|&place| known.add(signed(own, place, place))).count(), 64);
        assert_eq!(known.all().len(), VOIDS_MAX);
        let mut full = KnownVoids::of_recorded(OriginatorId(8_888), known.all().to_vec());
        assert!(!full.add(signed(8_888, 1, 1)), "peers take no more in a session");
    }
}
