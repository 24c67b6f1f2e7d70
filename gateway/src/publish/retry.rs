//! Decides for one request which nodes are not tried again, and when the request has failed. Does no I/O.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::OriginatorId;

use crate::nodes::NodeError;
use crate::policy::CallerId;

/// Number of refusing nodes after which the request is refused, unless it has a key package. A single node may be
/// behind the chain, or lie. A guess.
const REFUSALS_MAX: usize = 2;

/// The attempts of one request so far.
#[derive(Debug)]
pub(super) struct RetryState {
    caller: CallerId,
    banned: BTreeSet<OriginatorId>,
    unable: BTreeSet<OriginatorId>,
    refusals: usize,
    /// The refusals of envelopes, by their indexes in the request.
    refused: BTreeMap<usize, EnvelopeRefusals>,
    attempts: usize,
    attempts_max: usize,
}

/// The refusals of one envelope: their number, and the last one with its node.
#[derive(Debug)]
struct EnvelopeRefusals {
    count: usize,
    node: OriginatorId,
    last: NodeError,
}

/// One attempt at one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    /// Rounds of attempts that had failed when this one started.
    pub(super) failed_before: usize,
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
    /// Starts a request of `caller` with at most `attempts_max` rounds of attempts, the first one included.
    pub(super) fn new(caller: CallerId, attempts_max: usize) -> Self {
        Self {
            caller,
            banned: BTreeSet::new(),
            unable: BTreeSet::new(),
            refusals: 0,
            refused: BTreeMap::new(),
            attempts: 0,
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

    /// Starts an attempt.
    pub(super) fn begin(&self) -> Attempt {
        Attempt { failed_before: self.attempts }
    }

    /// Records a failed attempt, bans its node for this request, and decides the next step.
    pub(super) fn failed(
        &mut self,
        attempt: &Attempt,
        node: OriginatorId,
        failure: AttemptFailure,
    ) -> NextStep {
        self.banned.insert(node);
        // The groups of a request are tried concurrently; attempts that started together are one round.
        self.attempts = self.attempts.max(attempt.failed_before + 1);
        debug_assert!(self.attempts <= self.attempts_max, "no attempt starts after the last");
        match failure {
            AttemptFailure::Refused => self.refusals += 1,
            AttemptFailure::RefusedKeyPackages => {}
            AttemptFailure::Failed => _ = self.unable.insert(node),
        }
        if attempt.failed_before + 1 >= self.attempts_max || self.refusals >= REFUSALS_MAX {
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
        for n in 1..=5 {
            let attempt = state.begin();
            assert_eq!(attempt.failed_before, usize::try_from(n).unwrap() - 1);
            assert!(!state.banned().contains(&node(n)));
            let next = state.failed(&attempt, node(n), AttemptFailure::Failed);
            assert_eq!(next, if n == 5 { NextStep::GiveUp } else { NextStep::TryOthers });
            assert!(state.banned().contains(&node(n)));
        }
    }

    #[test]
    fn two_nodes_that_refuse_are_believed() {
        let mut state = begun(5);
        let attempt = state.begin();
        assert_eq!(state.failed(&attempt, node(1), AttemptFailure::Refused), NextStep::TryOthers);
        let attempt = state.begin();
        assert_eq!(state.failed(&attempt, node(2), AttemptFailure::Refused), NextStep::GiveUp);
        assert!(state.unable().is_empty());
    }

    #[test]
    fn nodes_that_refuse_a_key_package_are_not_believed_while_another_one_is_left() {
        let mut state = begun(5);
        for n in 1..=5 {
            let attempt = state.begin();
            let next = state.failed(&attempt, node(n), AttemptFailure::RefusedKeyPackages);
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

    #[test]
    fn groups_that_fail_together_cost_one_attempt() {
        let mut state = begun(3);
        let (a, b) = (state.begin(), state.begin());
        assert_eq!(state.failed(&a, node(1), AttemptFailure::Failed), NextStep::TryOthers);
        assert_eq!(state.failed(&b, node(2), AttemptFailure::Failed), NextStep::TryOthers);
        assert_eq!(state.begin().failed_before, 1);
    }
}
