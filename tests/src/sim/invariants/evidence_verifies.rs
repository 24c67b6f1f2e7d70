//! The evidence that honest nodes record is judged alike by a stranger, who has the keys and the rates alone.

use std::collections::BTreeSet;

use hawser_engine::price::recorded_rate;
use hawser_engine::reports::report_of;
use hawser_rules::RateTable;
use hawser_rules::misbehavior::{MisbehaviorVerdict, NoChain, ReportCase, verify};
use hawser_storage::EvidenceTime;

use crate::sim::strands::rates;
use crate::sim::world::Sim;

impl Sim {
    /// Asserts that the report of each recorded fact has the verdict under which its node has recorded it.
    ///
    /// # Panics
    /// Panics if a report has another verdict, or cannot be made.
    pub fn assert_evidence_verifies(&self) {
        let registry = self.registry();
        let rates = RateTable::new(rates().iter().map(recorded_rate).collect(), None).unwrap();
        let mut judged = BTreeSet::new();
        for id in self.honest() {
            let snapshot = self.nodes[&id].store.snapshot();
            let all = snapshot.evidence(EvidenceTime::default(), usize::MAX, usize::MAX).unwrap();
            for stored in all {
                let (at, fault) = (stored.evidence.at, stored.evidence.misbehavior);
                if !judged.insert((at, fault.label())) {
                    continue;
                }
                let report = report_of(&stored).expect("it has room in a report").to_bytes();
                let judgement = verify(&ReportCase {
                    report: &report,
                    host_signature: None,
                    host: None,
                    registry: &registry,
                    rates: Some(&rates),
                    chain: &NoChain,
                    held_at_ns: i64::try_from(stored.at.server_time_ns).ok(),
                });
                let expected = match fault.is_claim() {
                    true => MisbehaviorVerdict::Claim,
                    false => MisbehaviorVerdict::Proven,
                };
                let why = &judgement.facts[0];
                assert_eq!(judgement.verdict, expected, "{id} on {at}, {}: {why}", fault.label());
            }
        }
    }
}
