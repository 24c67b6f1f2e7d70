//! The judgement on liveness: many nodes, often enough, in one hour.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::OriginatorId;

use super::judgement::{Judgement, MisbehaviorVerdict};
use super::report::{Report, is_liveness};
use crate::registry::Registry;

/// Length of the time that is judged at once. Specified (`docs/protocol/misbehavior.md`).
const HOUR_NS: u64 = 12 * SLOT_NS;
/// Length of a slot, in nanoseconds: a node counts as a witness by the slots in which it reported. Specified (same page).
pub const SLOT_NS: u64 = 5 * 60 * 1_000_000_000;
/// Slots of an hour in which a witness has to have reported. Specified (same page).
const SLOTS_MIN: usize = 3;

/// A node that was out of reach for most others during an hour.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outage {
    /// The node.
    pub node: OriginatorId,
    /// Start of the hour, unix seconds.
    pub hour_unix_s: u64,
    /// The nodes that saw it, ascending.
    pub witnesses: Vec<OriginatorId>,
    /// The nodes that could have seen it: all others in the network at that time.
    pub others: usize,
}

/// Liveness reports that hosts made themselves, by accused node, hour and host.
#[derive(Debug, Clone, Default)]
pub struct LivenessRecord {
    /// The slots of the hour in which the host reported.
    slots: BTreeMap<(OriginatorId, u64, OriginatorId), BTreeSet<u64>>,
}

impl LivenessRecord {
    /// Takes a report and its judgement. Only reports count that their host signed and saw itself; a
    /// host has no voice about itself.
    pub fn add(&mut self, report: &Report, judgement: &Judgement) {
        let Some(host) = judgement.host.node().filter(|_| judgement.is_seen_by_host) else {
            return;
        };
        let is_counted = is_liveness(report.kind())
            && judgement.verdict != MisbehaviorVerdict::Refuted
            && host != report.accused();
        if is_counted {
            let time_ns = report.reporter_time_ns();
            let key = (report.accused(), time_ns / HOUR_NS, host);
            self.slots.entry(key).or_default().insert(time_ns / SLOT_NS);
        }
    }

    /// Returns the hours in which more than half of the other nodes in the network each reported a node in
    /// at least three slots of five minutes, by node and hour.
    #[must_use]
    pub fn outages(&self, registry: &Registry) -> Vec<Outage> {
        let mut witnesses: BTreeMap<(OriginatorId, u64), Vec<OriginatorId>> = BTreeMap::new();
        for ((node, hour, host), slots) in &self.slots {
            if slots.len() >= SLOTS_MIN {
                witnesses.entry((*node, *hour)).or_default().push(*host);
            }
        }
        let judged = witnesses.into_iter().filter_map(|((node, hour), hosts)| {
            let members = members_at(registry, hour.saturating_mul(HOUR_NS));
            let others = members.iter().filter(|member| **member != node).count();
            let witnesses: Vec<OriginatorId> =
                hosts.into_iter().filter(|host| members.contains(host)).collect();
            let hour_unix_s = hour.saturating_mul(HOUR_NS) / 1_000_000_000;
            let is_outage = 2 * witnesses.len() > others;
            is_outage.then_some(Outage { node, hour_unix_s, witnesses, others })
        });
        judged.collect()
    }
}

/// Returns the nodes that were in the network at a time, according to the registry's history.
fn members_at(registry: &Registry, ns: u64) -> BTreeSet<OriginatorId> {
    let ns = i64::try_from(ns).unwrap_or(i64::MAX);
    let nodes = registry.nodes().map(|record| record.id);
    nodes.filter(|id| registry.has_been_member(*id) && !registry.absences(*id).cover(ns)).collect()
}
