//! Dependencies of followed strands, compared with the chains as the log has them.

use std::cell::OnceCell;

use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_rules::misbehavior::{DEPENDENCY_LEAD_NS_MAX, DependencyState, dependency_state};
use hawser_storage::{Snapshot, SuspectedDependency};

use super::state::ReplicationState;
use super::suspected::KnownPlaces;
use crate::reports::LoggedChain;

/// Looks at the dependencies of envelopes that are about to be appended to one strand.
pub(super) struct DependencyWatch<'a> {
    state: &'a ReplicationState,
    snapshot: OnceCell<Snapshot<'a>>,
}

impl<'a> DependencyWatch<'a> {
    pub(super) fn new(state: &'a ReplicationState) -> Self {
        Self { state, snapshot: OnceCell::new() }
    }

    /// Looks at all dependencies of an envelope. Returns true if one is a place that its chain did not have yet at the
    /// envelope's time, and the log shows that by now. Notes a suspicion if the chain has yet to show it.
    pub(super) fn find_fault(
        &self,
        known: &mut KnownPlaces,
        at: EnvelopeId,
        originator_ns: i64,
        depends_on: &[EnvelopeId],
    ) -> bool {
        depends_on.iter().any(|&needed| self.find_fault_of(known, at, originator_ns, needed))
    }

    /// Looks at one dependency. Returns true if its chain did not have the place at the envelope's time. Most calls are
    /// answered from memory; a place whose time this node does not know yet is suspected, and judged later.
    fn find_fault_of(
        &self,
        known: &mut KnownPlaces,
        at: EnvelopeId,
        originator_ns: i64,
        needed: EnvelopeId,
    ) -> bool {
        let Some(chain) = OriginatorId::CHAINS.iter().position(|chain| *chain == needed.originator)
        else {
            return false;
        };
        let limit_ns = originator_ns.saturating_add(DEPENDENCY_LEAD_NS_MAX);
        let known = &mut known.0[chain];
        if known.is_some_and(|(place, ns)| needed.sequence <= place && ns <= limit_ns) {
            return false;
        }
        let head = self.state.heads.get().get(needed.originator);
        let newest_ns = self.state.chain_clock.newest_ns(needed.originator);
        // No place of the chain is younger than its newest one.
        if needed.sequence <= head && newest_ns.is_some_and(|newest_ns| newest_ns <= limit_ns) {
            return false;
        }
        let snapshot = self.snapshot.get_or_init(|| self.state.store.snapshot());
        match dependency_state(&LoggedChain(snapshot), needed, originator_ns) {
            DependencyState::Existed { block_ns } => {
                *known = block_ns.map(|block_ns| (needed.sequence, block_ns)).max(*known);
                false
            }
            DependencyState::Later { .. } | DependencyState::Absent { .. } => true,
            DependencyState::Unknown if is_never_decided(snapshot, needed) => false,
            DependencyState::Unknown => {
                self.state.suspected.push(SuspectedDependency { at, needed, originator_ns });
                false
            }
        }
    }
}

/// Returns true if the log has passed a place of a chain that has no event, such as a declared void: no later event of
/// the chain decides about the place.
pub(super) fn is_never_decided(snapshot: &Snapshot<'_>, needed: EnvelopeId) -> bool {
    snapshot.head(needed.originator).is_ok_and(|head| needed.sequence <= head)
}
