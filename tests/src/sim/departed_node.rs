//! A node that leaves the network and continues to sign. The others learn of it at different times, also while they are
//! behind or down.

use hawser_engine::facts;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::{Absence, Absences, RuleNumber};
use hawser_storage::{InvalidRule, LogItem, TimeRule, Validity};

use super::node::Node;
use super::strands::{START_NS, Version, envelope, judge};
use super::wire::Path;
use super::world::Sim;

/// The node that leaves.
pub(super) const DEPARTED: OriginatorId = OriginatorId(500);
/// The last place of its strand in the second in which it leaves: ten envelopes a second.
const LAST: SequenceId = SequenceId(9);
/// The mark of everything later.
const ABSENT: InvalidRule = InvalidRule(17);

/// Returns the registry's record of the absence: the node left in the first second.
fn departure() -> Absences {
    let from_s = u64::try_from(START_NS / 1_000_000_000).unwrap();
    Absences::new(vec![Absence { from_s, until_s: None }]).unwrap()
}

impl Node {
    pub(super) fn knows_departure_of(&self, originator: OriginatorId) -> bool {
        originator == DEPARTED && !self.absences.is_empty()
    }

    /// Returns the absences of a node that this one knows of.
    pub(super) fn absences_of(&self, originator: OriginatorId) -> Absences {
        if originator == DEPARTED { self.absences.clone() } else { Absences::NONE }
    }
}

impl Sim {
    /// Returns the nodes that stay in the network.
    pub(super) fn remaining(&self) -> Vec<OriginatorId> {
        self.members.iter().copied().filter(|id| *id != DEPARTED).collect()
    }

    /// Returns true if one end of a connection knows that the other has left.
    pub(super) fn is_refused(&self, path: Path) -> bool {
        self.nodes[&path.follower].knows_departure_of(path.server)
            || self.nodes[&path.server].knows_departure_of(path.follower)
    }

    pub(super) fn learn_of_departure(&mut self, id: OriginatorId) {
        let now = self.now;
        let node = self.node(id);
        node.absences = departure();
        node.is_outdated = true;
        if let Some(following) = node.following.get_mut(&DEPARTED) {
            following.follower.handle_membership(now, false);
        }
        for path in self.paths().into_iter().filter(|path| path.joins(id, DEPARTED)) {
            self.break_off(path, 1);
        }
        self.route_effects(id, DEPARTED);
        self.judge_anew(id, DEPARTED);
    }

    /// Judges a strand again after all earlier results are on disk, as its task does.
    pub(super) fn judge_anew(&mut self, id: OriginatorId, originator: OriginatorId) {
        let node = self.node(id);
        if originator != DEPARTED || !node.is_outdated {
            return;
        }
        let following = node.following.get(&DEPARTED);
        if following.is_some_and(|it| it.writing.is_some() || !it.waiting.is_empty()) {
            return;
        }
        node.is_outdated = false;
        let absences = node.absences.clone();
        let rule = TimeRule {
            originator,
            rule: ABSENT,
            is_broken_at: &|ns| absences.cover(ns),
            replaces: &|InvalidRule(rule)| RuleNumber(rule).may_be_booked(),
            judge: &|bytes| judge(originator, id, bytes).expect("it is signed").validity,
            basis: &absences.to_bytes(),
        };
        let derive = |_, bytes: &_, validity| facts::of_stored(bytes, validity, id);
        node.store.judge_times(&rule, &derive).unwrap();
    }

    /// Asserts that the strand of the departed node is the same at all others, marks and tallies too, and
    /// that no envelope of it is valid that it signed after it had left. Returns the numbers of held places
    /// from before and after.
    pub(super) fn assert_departed_strand(&self) -> [usize; 2] {
        let remaining = self.remaining();
        let strand = |node: OriginatorId| -> Vec<_> {
            let items = self.nodes[&node].log(DEPARTED, SequenceId::NONE).into_iter();
            let envelope = |item| match item {
                LogItem::Envelope { id, bytes, validity } => Some((id, bytes, validity)),
                LogItem::Skipped { .. } => None,
            };
            items.filter_map(envelope).collect()
        };
        let first = strand(remaining[0]);
        for &node in &remaining {
            assert_eq!(strand(node), first, "{node}");
        }
        let mut counts = [0; 2];
        for (id, bytes, validity) in first {
            assert_eq!(bytes, envelope(DEPARTED, id.sequence, Version::True), "{id}");
            let is_later = id.sequence > LAST;
            let expected = if is_later { Validity::Invalid(ABSENT) } else { Validity::Valid };
            assert_eq!(validity, expected, "{id}");
            counts[usize::from(is_later)] += 1;
        }
        counts
    }
}
