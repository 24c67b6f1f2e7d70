//! The reports of many nodes together: each fact once, and the outages that most of them saw.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::Registry;
use hawser_rules::misbehavior::MisbehaviorVerdict;
use hawser_rules::misbehavior::quorum::{LivenessRecord, Outage};

use crate::judged::Judged;

/// Findings about one node.
#[derive(Debug, Clone, Default)]
pub struct NodeFindings {
    /// Proven faults. Each is listed once, by the first report of it. If several reports show two statements for one
    /// place, the first of those counts whose statements differ most.
    pub proven: Vec<Judged>,
    /// Reports that prove nothing, by kind.
    pub claims: BTreeMap<i32, ClaimCount>,
    /// Hours in which more than half of the other nodes reported that they did not reach it.
    pub outages: Vec<Outage>,
}

/// The reports of one kind about a node that prove nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimCount {
    /// Their number.
    pub reports: usize,
    /// The hosts that keep them.
    pub hosts: BTreeSet<OriginatorId>,
}

/// A proven fault, without the envelopes of its report.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ProvenFault {
    accused: OriginatorId,
    /// The number of the kind of misbehaviour in the schema.
    kind: i32,
    /// The number of the broken rule; 0 if there is none.
    rule: u8,
    place: SequenceId,
}

/// The reports of a network.
#[derive(Debug, Default)]
pub struct NetworkAudit {
    findings: BTreeMap<OriginatorId, NodeFindings>,
    /// The place of each fault in the findings about its node.
    faults: BTreeMap<ProvenFault, usize>,
    /// The steps back in time, by node and later place: the earlier place, and the place in the findings about the
    /// node. No two steps of a node have places in common.
    steps: BTreeMap<(OriginatorId, SequenceId), (SequenceId, usize)>,
    /// Bytes of reports that have been counted, by host: a host that repeats itself counts once.
    seen: BTreeSet<(Option<OriginatorId>, [u8; 32])>,
    liveness: LivenessRecord,
    /// Reports that their own evidence contradicts, by the host that keeps them.
    refuted: BTreeMap<Option<OriginatorId>, usize>,
}

impl NetworkAudit {
    /// Takes a judged report. A report that is taken twice counts once.
    pub fn add(&mut self, judged: Judged) {
        let host = judged.judgement.host.node();
        let digest = hawser_proto::sign::keccak256(&[&judged.held.report]).0;
        if !self.seen.insert((host, digest)) {
            return;
        }
        let (Some(accused), Some(kind)) = (judged.judgement.accused, judged.judgement.kind) else {
            *self.refuted.entry(host).or_default() += 1;
            return;
        };
        if let Some(report) = &judged.report {
            self.liveness.add(report, &judged.judgement);
        }
        let number = i32::from(kind);
        match judged.judgement.verdict {
            MisbehaviorVerdict::Refuted => *self.refuted.entry(host).or_default() += 1,
            MisbehaviorVerdict::Proven => self.add_proven(accused, number, judged),
            MisbehaviorVerdict::Claim | MisbehaviorVerdict::Inconclusive => {
                let claims = &mut self.findings.entry(accused).or_default().claims;
                let claims = claims.entry(number).or_default();
                claims.reports += 1;
                claims.hosts.extend(host);
            }
        }
    }

    /// Takes a proven fault. A graver proof of a known one takes the place of the known proof.
    fn add_proven(&mut self, accused: OriginatorId, kind: i32, judged: Judged) {
        let it = &judged.judgement;
        if let Some(earlier) = it.step_behind() {
            return self.add_step(accused, earlier, judged);
        }
        // The other envelopes of the report do not count: a reporter who adds some to a known fault does not make a
        // second one. Neither does a third statement for one place, however far it differs.
        let rule = if it.difference.is_some() { 0 } else { it.detail() };
        let fault = ProvenFault { accused, kind, rule, place: it.place };
        let proven = &mut self.findings.entry(accused).or_default().proven;
        match self.faults.entry(fault) {
            Entry::Vacant(place) => {
                place.insert(proven.len());
                proven.push(judged);
            }
            Entry::Occupied(place) => {
                let known = &mut proven[*place.get()];
                if it.difference > known.judgement.difference {
                    *known = judged;
                }
            }
        }
    }

    /// Takes a proven step back in time that lies behind `earlier`. Different hosts may show one step by different
    /// pairs of envelopes, whose ranges of places overlap. The first pair stays, unless a later one lies within it.
    fn add_step(&mut self, accused: OriginatorId, earlier: SequenceId, judged: Judged) {
        let later = judged.judgement.place;
        let proven = &mut self.findings.entry(accused).or_default().proven;
        let mut behind = self.steps.range((accused, earlier.next())..);
        let known = behind.next().map(|(ends, begins)| (*ends, *begins));
        let known = known.filter(|((node, _), (from, _))| *node == accused && *from < later);
        let Some((key, (from, at))) = known else {
            self.steps.insert((accused, later), (earlier, proven.len()));
            return proven.push(judged);
        };
        if from <= earlier && later <= key.1 && (from, key.1) != (earlier, later) {
            self.steps.remove(&key);
            self.steps.insert((accused, later), (earlier, at));
            proven[at] = judged;
        }
    }

    /// Returns the findings by node, and the number of refuted reports by host. Outages are judged by the
    /// membership in `registry`.
    #[must_use]
    pub fn finish(
        mut self,
        registry: &Registry,
    ) -> (BTreeMap<OriginatorId, NodeFindings>, BTreeMap<Option<OriginatorId>, usize>) {
        for outage in self.liveness.outages(registry) {
            self.findings.entry(outage.node).or_default().outages.push(outage);
        }
        (self.findings, self.refuted)
    }
}
