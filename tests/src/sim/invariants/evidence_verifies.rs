//! The evidence that honest nodes record is judged alike by a stranger, who has the keys and the rates alone.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hawser_engine::reports::report_of;
use hawser_proto::OriginatorId;
use hawser_rules::RateTable;
use hawser_rules::misbehavior::report::digest;
use hawser_rules::misbehavior::{MisbehaviorVerdict, NoChain, ReportCase, verify};
use hawser_storage::{EvidenceTime, StoredEvidence};
use serde_json::{Value, json};

use crate::sim::strands::{key, public_key, rates};
use crate::sim::world::Sim;

/// A fault as a file of evidence has it.
#[derive(Debug)]
pub struct FiledFault {
    /// The name under which the node has recorded it.
    pub label: &'static str,
    /// The name of the verdict under which the node has recorded it.
    pub verdict: &'static str,
    /// The entry of the file.
    pub entry: Value,
}

impl Sim {
    /// Asserts that the report of each recorded fact has the verdict under which its node has recorded it.
    ///
    /// # Panics
    /// Panics if a report has another verdict, or cannot be made.
    pub fn assert_evidence_verifies(&self) {
        let registry = self.registry();
        let rates = RateTable::new(rates().to_vec(), None).unwrap();
        for (id, stored) in self.recorded_faults() {
            let (at, fault) = (stored.evidence.at, stored.evidence.misbehavior);
            let judgement = verify(&ReportCase {
                report: &report_on(&stored),
                host_signature: None,
                host: None,
                registry: &registry,
                rates: Some(&rates),
                chain: &NoChain,
                held_at_ns: i64::try_from(stored.at.server_time_ns).ok(),
            });
            let why = &judgement.facts[0];
            let expected = verdict_on(&stored);
            let label = fault.label();
            assert_eq!(judgement.verdict, expected, "the evidence of {id} on {at}, {label}: {why}");
        }
    }

    /// Returns the faults that honest nodes have recorded, as entries of an evidence file that their nodes have signed.
    ///
    /// # Panics
    /// Panics if a report cannot be made.
    #[must_use]
    pub fn filed_faults(&self) -> Vec<FiledFault> {
        let filed = |(id, stored): (OriginatorId, StoredEvidence)| {
            let report = report_on(&stored);
            let signature = key(id).sign(digest(&report));
            FiledFault {
                label: stored.evidence.misbehavior.label(),
                verdict: verdict_on(&stored).name(),
                entry: json!({
                    "report": BASE64_STANDARD.encode(&report),
                    "host_signature": BASE64_STANDARD.encode(signature.as_bytes()),
                    "host_node_id": id.0,
                    "server_time_ns": stored.at.server_time_ns,
                }),
            }
        };
        self.recorded_faults().into_iter().map(filed).collect()
    }

    /// Returns an evidence file of such entries, with the keys of the network and its rates.
    #[must_use]
    pub fn evidence_file(&self, faults: &[FiledFault]) -> String {
        let node = |id: &OriginatorId| {
            let public_key = hex::encode(public_key(*id).as_bytes());
            json!({ "node_id": id.0, "public_key": public_key })
        };
        let file = json!({
            "schema": "hawser-evidence/1",
            "reports": faults.iter().map(|fault| &fault.entry).collect::<Vec<_>>(),
            "registry": self.members.iter().map(node).collect::<Vec<_>>(),
            "rates": rates(),
            "rates_confirmed_ns": i64::MAX,
        });
        file.to_string()
    }

    /// Returns each fault that honest nodes have recorded once, with a node that has recorded it.
    fn recorded_faults(&self) -> Vec<(OriginatorId, StoredEvidence)> {
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        for id in self.honest() {
            let snapshot = self.nodes[&id].store.snapshot();
            let all = snapshot.evidence(EvidenceTime::default(), usize::MAX, usize::MAX).unwrap();
            for stored in all {
                if seen.insert((stored.evidence.at, stored.evidence.misbehavior.label())) {
                    found.push((id, stored));
                }
            }
        }
        found
    }
}

fn report_on(stored: &StoredEvidence) -> Bytes {
    report_of(stored).expect("it has room in a report").to_bytes()
}

fn verdict_on(stored: &StoredEvidence) -> MisbehaviorVerdict {
    match stored.evidence.misbehavior.is_claim() {
        true => MisbehaviorVerdict::Claim,
        false => MisbehaviorVerdict::Proven,
    }
}
