//! The judgement of liveness: an outage needs reports of most nodes, repeated within one hour.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::OriginatorId;

use super::judgement::{Judgement, MisbehaviorVerdict};
use super::report::{Report, is_liveness};
use crate::registry::Registry;

/// The period that is judged at once, in nanoseconds. Specified (`docs/protocol/misbehavior.md`).
const HOUR_NS: u64 = 12 * SLOT_NS;
/// The length of a slot in nanoseconds. A node is a witness if it reported in enough slots. Specified (same page).
pub const SLOT_NS: u64 = 5 * 60 * 1_000_000_000;
/// The number of slots in an hour in which a witness must have reported. Specified (same page).
const SLOTS_MIN: usize = 3;

/// An hour in which a node was unreachable for most others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outage {
    /// The node that most others reported.
    pub node: OriginatorId,
    /// The start of the hour, unix seconds.
    pub hour_unix_s: u64,
    /// The nodes that reported it, ascending.
    pub witnesses: Vec<OriginatorId>,
    /// The number of all others in the network at that time. Those without a valid key can report nothing, and count.
    pub others: usize,
}

/// The liveness reports that hosts made themselves, by accused node, hour and host.
#[derive(Debug, Clone, Default)]
pub struct LivenessRecord {
    /// The slots of the hour in which the host reported.
    slots: BTreeMap<(OriginatorId, u64, OriginatorId), BTreeSet<u64>>,
}

impl LivenessRecord {
    /// Adds a report with its judgement. It counts only if its host signed it and saw the fault itself, and
    /// if the host is not the accused.
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

    /// Returns the outages, ordered by node and hour: hours in which more than half of the other nodes in the network
    /// each reported a node in at least three five-minute slots.
    #[must_use]
    pub fn outages(&self, registry: &Registry) -> Vec<Outage> {
        let mut witnesses: BTreeMap<(OriginatorId, u64), Vec<OriginatorId>> = BTreeMap::new();
        for ((node, hour, host), slots) in &self.slots {
            if slots.len() >= SLOTS_MIN {
                witnesses.entry((*node, *hour)).or_default().push(*host);
            }
        }
        let judged = witnesses.into_iter().filter_map(|((node, hour), hosts)| {
            let begin_ns = i64::try_from(hour.saturating_mul(HOUR_NS)).unwrap_or(i64::MAX);
            let members: BTreeSet<OriginatorId> = registry.members_at(begin_ns).collect();
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
