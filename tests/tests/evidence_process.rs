//! The evidence of simulated networks, judged by a process that has nothing of the simulation but a file.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use hawser_tests::harness::binary::hawser;
use hawser_tests::sim::{Role, Sim};
use serde_json::Value;

/// Each seed of the first ones plays another role. Roles that harm no strand leave no evidence, but end connections.
#[test]
fn evidence_of_simulated_liars_has_the_same_verdicts_in_a_separate_process() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("evidence.json");
    let mut judged = BTreeSet::new();
    for seed in 0..Role::ALL.len() as u64 {
        let mut sim = Sim::scripted(seed);
        sim.publish(12, Duration::from_secs(30));
        sim.run_for(Duration::from_secs(45));
        let faults = sim.filed_faults();
        if faults.is_empty() {
            continue;
        }
        std::fs::write(&path, sim.evidence_file(&faults)).unwrap();
        let mut command = Command::new(hawser());
        command.args(["audit", "report", "--json"]).arg(&path).arg("--registry").arg(&path);
        let output = command.current_dir(place.path()).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> =
            shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // The last line is about all of them.
        assert_eq!(lines.len(), faults.len() + 1, "seed {seed}: {shown}");
        for (fault, line) in faults.iter().zip(&lines) {
            assert_eq!(line["verdict"], fault.verdict, "seed {seed}, {}: {line}", fault.label);
            assert_eq!(line["misbehaving_node_id"], 300, "seed {seed}, {}: {line}", fault.label);
            judged.insert((fault.label, fault.verdict));
        }
    }
    let verdicts: BTreeSet<_> = judged.iter().map(|(_, verdict)| *verdict).collect();
    assert_eq!(verdicts, BTreeSet::from(["claim", "proven"]), "{judged:?}");
}
