//! Decides for one request which nodes are not tried again, and when the request has failed. Does no I/O.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::OriginatorId;

use crate::nodes::NodeError;
use crate::policy::CallerId;

/// Number of refusing nodes after which an envelope is refused, unless it is sent with a key package. A single node may
/// be behind the chain, or lie. A guess.
const REFUSALS_MAX: usize = 2;

/// The attempts of one request so far.
#[derive(Debug)]
pub(super) struct RetryState {
    caller: CallerId,
    banned: BTreeSet<OriginatorId>,
    unable: BTreeSet<OriginatorId>,
    /// The number of nodes that have refused an envelope without a key package beside it, by its index in the request.
    refusals: BTreeMap<usize, usize>,
    /// The refusals of envelopes, by their indexes in the request.
    refused: BTreeMap<usize, EnvelopeRefusals>,
    attempts_max: usize,
}

/// The refusals of one envelope: their number, and the last one with its node.
#[derive(Debug)]
struct EnvelopeRefusals {
    count: usize,
    node: OriginatorId,
    last: NodeError,
}

/// The reason for which an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptFailure {
    /// The node refused the envelopes.
    Refused,
    /// The node refused the envelopes, with a key package among them. Only nodes judge key packages, and several may
    /// ask one validation service, which may be broken or lie. So no number of such refusals is believed while another
    /// node is left.
    RefusedKeyPackages,
    /// The node failed for a reason of its own.
    Failed,
}

/// The decision after a node has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Other nodes are tried.
    TryOthers,
    /// The failure is reported to the caller.
    GiveUp,
}

impl RetryState {
    /// Starts a request of `caller` with at most `attempts_max` attempts for each envelope, the first one included.
    pub(super) fn new(caller: CallerId, attempts_max: usize) -> Self {
        Self {
            caller,
            banned: BTreeSet::new(),
            unable: BTreeSet::new(),
            refusals: BTreeMap::new(),
            refused: BTreeMap::new(),
            attempts_max,
        }
    }

    /// Returns the caller of the request.
    pub(super) fn caller(&self) -> &CallerId {
        &self.caller
    }

    /// Returns the nodes that are not tried again.
    pub(super) fn banned(&self) -> &BTreeSet<OriginatorId> {
        &self.banned
    }

    /// Returns the nodes that failed for a reason of their own. Nodes that refused are not among them: a refusal is
    /// about the envelopes.
    pub(super) fn unable(&self) -> &BTreeSet<OriginatorId> {
        &self.unable
    }

    /// Records that a node has failed the envelopes of these indexes, bans the node for this request, and decides the
    /// next step. The envelopes have failed at the same `failed_before` nodes before. Failures of other envelopes of
    /// the request, which are at other nodes at the same time, do not count for them.
    pub(super) fn failed(
        &mut self,
        envelopes: &[usize],
        failed_before: usize,
        node: OriginatorId,
        failure: AttemptFailure,
    ) -> NextStep {
        debug_assert!(failed_before < self.attempts_max, "no attempt starts after the last");
        self.banned.insert(node);
        match failure {
            AttemptFailure::Refused => {
                envelopes.iter().for_each(|index| *self.refusals.entry(*index).or_default() += 1);
            }
            AttemptFailure::RefusedKeyPackages => {}
            AttemptFailure::Failed => _ = self.unable.insert(node),
        }
        let is_refused =
            |index: &usize| self.refusals.get(index).is_some_and(|count| *count >= REFUSALS_MAX);
        if failed_before + 1 >= self.attempts_max || envelopes.iter().all(is_refused) {
            NextStep::GiveUp
        } else {
            NextStep::TryOthers
        }
    }

    /// Records the error of a node for the envelope with this index in the request. Returns the error to report if no
    /// other node is tried, with its node: the last refusal if two nodes have refused the envelope, whatever the other
    /// nodes did; otherwise this error.
    pub(super) fn reported(
        &mut self,
        index: usize,
        node: OriginatorId,
        error: NodeError,
    ) -> (OriginatorId, NodeError) {
        let earlier = self.refused.get(&index);
        if matches!(error, NodeError::Refused(_)) {
            let count = earlier.map_or(0, |it| it.count) + 1;
            let refusals = EnvelopeRefusals { count, node, last: error.clone() };
            self.refused.insert(index, refusals);
            return (node, error);
        }
        match earlier.filter(|it| it.count >= REFUSALS_MAX) {
            Some(refusals) => (refusals.node, refusals.last.clone()),
            None => (node, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn node(n: u32) -> OriginatorId {
        OriginatorId(n * 100)
    }

    fn begun(attempts_max: usize) -> RetryState {
        RetryState::new(CallerId::of_name("alice"), attempts_max)
    }

    #[test]
    fn so_many_attempts_in_total_each_at_another_node() {
        let mut state = begun(5);
        for (failed_before, n) in (1..=5).enumerate() {
            assert!(!state.banned().contains(&node(n)));
            let next = state.failed(&[0], failed_before, node(n), AttemptFailure::Failed);
            assert_eq!(next, if n == 5 { NextStep::GiveUp } else { NextStep::TryOthers });
            assert!(state.banned().contains(&node(n)));
        }
    }

    #[test]
    fn two_nodes_that_refuse_are_believed() {
        let (mut state, refused) = (begun(5), AttemptFailure::Refused);
        assert_eq!(state.failed(&[0], 0, node(1), refused), NextStep::TryOthers);
        assert_eq!(state.failed(&[0], 1, node(2), refused), NextStep::GiveUp);
        assert!(state.unable().is_empty());
    }

    /// Each of the two nodes may be behind, and the envelopes of each would be taken by the other one.
    #[test]
    fn two_nodes_that_refuse_different_envelopes_refuse_none_of_them() {
        let (mut state, refused) = (begun(5), AttemptFailure::Refused);
        assert_eq!(state.failed(&[0, 2], 0, node(1), refused), NextStep::TryOthers);
        assert_eq!(state.failed(&[1], 0, node(2), refused), NextStep::TryOthers);
        assert_eq!(state.failed(&[2], 1, node(3), refused), NextStep::GiveUp);
        assert_eq!(state.failed(&[0], 1, node(4), AttemptFailure::Failed), NextStep::TryOthers);
    }

    #[test]
    fn nodes_that_refuse_a_key_package_are_not_believed_while_another_one_is_left() {
        let mut state = begun(5);
        for (failed_before, n) in (1..=5).enumerate() {
            let failure = AttemptFailure::RefusedKeyPackages;
            let next = state.failed(&[0], failed_before, node(n), failure);
            assert_eq!(next, if n == 5 { NextStep::GiveUp } else { NextStep::TryOthers });
        }
        assert!(state.unable().is_empty(), "a refusal moves no topic");
    }

    /// The order of the nodes depends on the topic, and a client should learn the same in all.
    #[test]
    fn two_refusals_of_an_envelope_are_reported_whatever_another_node_does_and_when() {
        let refusal = || NodeError::Refused(Status::invalid_argument("no key package"));
        let is_refused = |failing: &[u32]| {
            let mut state = begun(5);
            let mut reported = None;
            for n in 1..=3 {
                let error = match failing.contains(&n) {
                    true => NodeError::WentDown,
                    false => refusal(),
                };
                // Another envelope of the request is refused by no node.
                let (_, other) = state.reported(1, node(n), NodeError::WentDown);
                assert!(matches!(other, NodeError::WentDown));
                reported = Some(state.reported(0, node(n), error));
            }
            let (of, error) = reported.unwrap();
            let is_refused = matches!(error, NodeError::Refused(_));
            assert!(!is_refused || !failing.contains(&(of.0 / 100)), "{of} has not refused it");
            is_refused
        };
        assert!([&[1][..], &[2], &[3], &[]].into_iter().all(is_refused));
        assert!(!is_refused(&[1, 2, 3]) && !is_refused(&[2, 3]), "one node may be wrong");
    }

    /// One node keeps silent about its part, while others fail the other part at once.
    #[test]
    fn envelopes_that_fail_often_leave_all_attempts_to_others_of_the_request() {
        let mut state = begun(3);
        for (failed_before, n) in (1..=3).enumerate() {
            let next = state.failed(&[0], failed_before, node(n), AttemptFailure::Failed);
            assert_eq!(next, if n == 3 { NextStep::GiveUp } else { NextStep::TryOthers });
        }
        for (failed_before, n) in (4..=6).enumerate() {
            let next = state.failed(&[1], failed_before, node(n), AttemptFailure::Failed);
            assert_eq!(next, if n == 6 { NextStep::GiveUp } else { NextStep::TryOthers });
        }
    }
}
