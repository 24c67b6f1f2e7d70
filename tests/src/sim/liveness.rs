//! Liveness in the simulated network: each node checks the others as a real one does and keeps signed reports. An
//! outside auditor, who has the registry alone, judges the reports of all nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hawser_engine::liveness::{Complaint, OtherNode};
use hawser_engine::reports::{Report, fact_of};
use hawser_proto::{Bytes, OriginatorId, SequenceId};
use hawser_rules::misbehavior::quorum::{LivenessRecord, Outage, SLOT_NS};
use hawser_rules::misbehavior::report::{digest, own_liveness_report};
use hawser_rules::misbehavior::{
    Judgement, MisbehaviorKind, MisbehaviorVerdict, NoChain, ReportCase, verify,
};
use hawser_rules::{NodeRecord, Registry};
use hawser_storage::NewReport;
use rand::RngExt as _;

use super::strands::{key, public_key};
use super::wire::{Event, Path};
use super::world::Sim;

/// Time between two checks of a node.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The greatest offset of a clock from the true time, in seconds: less than the length of a slot.
const CLOCK_OFFSET_S_MAX: i64 = 240;

/// A key that no node has.
const NO_NODE: OriginatorId = OriginatorId(9900);

/// The auditor's judgement on the reports of all nodes of a network.
#[derive(Debug, Default)]
pub struct LivenessFindings {
    /// The nodes that most others did not reach, and by how many of them at most in an hour.
    pub out_of_reach: BTreeMap<OriginatorId, usize>,
    /// Pairs of a node and one that it keeps reports about.
    pub accusations: BTreeSet<(OriginatorId, OriginatorId)>,
}

fn judge(
    registry: &Registry,
    host: OriginatorId,
    (report, signature): (&Bytes, &[u8; 65]),
    held_at_ns: i64,
) -> Judgement {
    verify(&ReportCase {
        report,
        host_signature: Some(signature),
        host: Some(host),
        registry,
        rates: None,
        chain: &NoChain,
        held_at_ns: Some(held_at_ns),
    })
}

impl Sim {
    /// Makes every node check the others from now on, by clocks that differ.
    pub fn watch_liveness(&mut self) {
        for node in self.members.clone() {
            let offset_s = self.rng.random_range(-CLOCK_OFFSET_S_MAX..=CLOCK_OFFSET_S_MAX);
            self.node(node).clock_offset_ns = offset_s * 1_000_000_000;
            self.plan(1_000, Event::Look { node });
        }
    }

    /// Runs one check of a node.
    pub(super) fn look_at_others(&mut self, id: OriginatorId) {
        self.queue.push(self.now + LOOK_EVERY, Event::Look { node: id });
        if !self.nodes[&id].is_running {
            return;
        }
        let now = self.now;
        let wall_ns = self.now_ns() + self.nodes[&id].clock_offset_ns;
        let mut others = BTreeMap::new();
        for other in self.members.clone().into_iter().filter(|other| *other != id) {
            let is_connected = self.connections[&Path { follower: id, server: other }].is_up;
            let held = self.nodes[&id].head(other);
            let node = self.node(id);
            let claimed = node.clocks.get(&other).map(|clock| clock.head(other));
            let follower = &mut node.following.get_mut(&other).expect("it is followed").follower;
            let seen = OtherNode {
                is_connected,
                lost_at: node.lost.get(&other).copied(),
                claimed: claimed.unwrap_or_default(),
                held,
                sent_away_at: node.sent_away.get(&other).copied(),
                partitioned_until: None,
                not_dialled_at: None,
                dialled_at: None,
                stalled_at: follower.take_stalled().then_some(now),
                failed: None,
            };
            others.insert(other, seen);
        }
        for complaint in self.node(id).liveness.look(now, wall_ns, true, &others) {
            let Complaint { accused, kind, waited } = complaint;
            let (time_ns, after) = (wall_ns.unsigned_abs(), self.nodes[&id].head(accused));
            let report = own_liveness_report(time_ns, accused, kind, after, waited.as_nanos());
            self.keep_report(id, id, &report.expect("it is well formed"));
        }
    }

    /// Makes a node keep false reports about another one, of silence in every slot since `since`: once with its own
    /// key, and once with a key that no node has.
    pub fn slander(&mut self, liar: OriginatorId, accused: OriginatorId, since: Duration) {
        let until_ns = self.now_ns().unsigned_abs();
        let slots = u64::try_from(since.as_nanos()).unwrap() / SLOT_NS;
        for slot in 0..slots {
            let time_ns = until_ns - slot * SLOT_NS;
            for (signer, after) in [(liar, 0), (NO_NODE, 1)] {
                let (kind, after) = (MisbehaviorKind::UnresponsiveNode, SequenceId(after));
                let report = own_liveness_report(time_ns, accused, kind, after, u128::MAX);
                self.keep_report(liar, signer, &report.expect("it is well formed"));
            }
        }
    }

    fn keep_report(&mut self, host: OriginatorId, signer: OriginatorId, report: &Report) {
        let (bytes, now_ns) = (report.to_bytes(), self.now_ns());
        let signature = *key(signer).sign(digest(&bytes)).as_bytes();
        let judgement = judge(&self.registry(), host, (&bytes, &signature), now_ns);
        let fact = fact_of(report, &bytes, &judgement).expect("nothing in it can be checked");
        let new = NewReport { fact, signature, report: bytes };
        self.node(host).store.record_reports(now_ns.unsigned_abs(), vec![new], None).unwrap();
    }

    /// Returns the registry of all nodes.
    pub(super) fn registry(&self) -> Registry {
        let record = |&id: &OriginatorId| NodeRecord {
            id,
            public_key: public_key(id),
            owner: public_key(id).address(),
            http_address: None,
            quic_address: None,
            canonical: true,
        };
        self.members.iter().map(record).collect()
    }

    /// Judges the reports of all nodes. A report of this kind alone proves nothing.
    ///
    /// # Panics
    /// Panics if a report counts as proof.
    #[must_use]
    pub fn judge_liveness(&self) -> LivenessFindings {
        let registry = self.registry();
        let mut record = LivenessRecord::default();
        let mut findings = LivenessFindings::default();
        for (&host, node) in &self.nodes {
            let kept = node.store.snapshot().reports(0, usize::MAX, usize::MAX).unwrap();
            for stored in kept {
                let report = Report::decode(&stored.kept.report).unwrap();
                let held_at_ns = i64::try_from(stored.server_time_ns).unwrap();
                let signed = (&stored.kept.report, &stored.kept.signature);
                let judgement = judge(&registry, host, signed, held_at_ns);
                assert_ne!(
                    judgement.verdict,
                    MisbehaviorVerdict::Proven,
                    "{host} proves {report:?}"
                );
                record.add(&report, &judgement);
                findings.accusations.insert((host, report.accused()));
            }
        }
        for Outage { node, witnesses, .. } in record.outages(&registry) {
            let most = findings.out_of_reach.entry(node).or_default();
            *most = witnesses.len().max(*most);
        }
        findings
    }
}
