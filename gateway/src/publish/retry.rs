//! One request's way through the nodes, as decisions: which are out, how often is tried. No I/O.

use std::collections::BTreeSet;

use hawser_proto::OriginatorId;

use super::FaultKind;

/// A refusal is believed when this many nodes say the same: one may be behind the chain, or lie.
const REFUSALS_MAX: usize = 2;

/// The nodes that have failed one request. Another request begins anew.
#[derive(Debug)]
pub struct Campaign {
    banned: BTreeSet<OriginatorId>,
    unable: BTreeSet<OriginatorId>,
    refusals: usize,
    attempts: usize,
    attempts_max: usize,
}

/// One try at one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// How many nodes had failed when it began.
    pub failed_before: usize,
}

/// What follows when a node has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another node.
    TryOthers,
    /// The caller hears of this failure.
    GiveUp,
}

impl Campaign {
    /// At most `attempts_max` rounds of tries, the first one included.
    #[must_use]
    pub fn new(attempts_max: usize) -> Self {
        Self {
            banned: BTreeSet::new(),
            unable: BTreeSet::new(),
            refusals: 0,
            attempts: 0,
            attempts_max,
        }
    }

    /// Who is not asked again.
    #[must_use]
    pub fn banned(&self) -> &BTreeSet<OriginatorId> {
        &self.banned
    }

    /// Who could not do it, which is worse than not wanting to: a refusal is about the envelopes.
    #[must_use]
    pub(crate) fn unable(&self) -> &BTreeSet<OriginatorId> {
        &self.unable
    }

    /// A node is tried.
    pub fn begin(&mut self) -> Attempt {
        Attempt { failed_before: self.attempts }
    }

    /// It has failed: it is out for this request.
    pub(crate) fn failed(
        &mut self,
        attempt: &Attempt,
        node: OriginatorId,
        kind: FaultKind,
    ) -> Next {
        self.banned.insert(node);
        // Groups of one request are tried at once: those that began together are one round.
        self.attempts = self.attempts.max(attempt.failed_before + 1);
        if kind == FaultKind::Refused {
            self.refusals += 1;
        } else {
            self.unable.insert(node);
        }
        if attempt.failed_before + 1 >= self.attempts_max || self.refusals >= REFUSALS_MAX {
            Next::GiveUp
        } else {
            Next::TryOthers
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u32) -> OriginatorId {
        OriginatorId(n * 100)
    }

    #[test]
    fn so_many_attempts_in_total_each_at_another_node() {
        let mut campaign = Campaign::new(5);
        for n in 1..=5 {
            let attempt = campaign.begin();
            assert_eq!(attempt.failed_before, usize::try_from(n).unwrap() - 1);
            assert!(!campaign.banned().contains(&node(n)));
            let next = campaign.failed(&attempt, node(n), FaultKind::Failed);
            assert_eq!(next, if n == 5 { Next::GiveUp } else { Next::TryOthers });
            assert!(campaign.banned().contains(&node(n)));
        }
    }

    #[test]
    fn two_nodes_that_refuse_are_believed() {
        let mut campaign = Campaign::new(5);
        let attempt = campaign.begin();
        assert_eq!(campaign.failed(&attempt, node(1), FaultKind::Refused), Next::TryOthers);
        let attempt = campaign.begin();
        assert_eq!(campaign.failed(&attempt, node(2), FaultKind::Refused), Next::GiveUp);
        assert!(campaign.unable().is_empty());
    }

    #[test]
    fn groups_that_fail_together_cost_one_attempt() {
        let mut campaign = Campaign::new(3);
        let (a, b) = (campaign.begin(), campaign.begin());
        assert_eq!(campaign.failed(&a, node(1), FaultKind::Failed), Next::TryOthers);
        assert_eq!(campaign.failed(&b, node(2), FaultKind::Timeout), Next::TryOthers);
        assert_eq!(campaign.begin().failed_before, 1);
    }
}
