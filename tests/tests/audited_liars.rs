//! Audits of the logs that honest nodes end with beside a scripted liar.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hawser_audit::replay::FaultKind;
use hawser_tests::sim::{AuditFindings, Role, Sim};

/// Runs of each role.
const RUNS_OF_ROLE: u64 = 2;

/// Returns the kind of fault that an audit finds in the log of an honest node beside this role, and the one that it
/// finds beside a checkpoint which the liar has signed.
fn fault_kinds(role: Role) -> (Option<FaultKind>, Option<FaultKind>) {
    match role {
        Role::TimeBack => (Some(FaultKind::TimeBack), None),
        Role::TimeAhead => (Some(FaultKind::TimeAhead), None),
        Role::WrongFees | Role::Overcharger => (Some(FaultKind::Fee), None),
        Role::CommitViaNode | Role::ReservedTopic | Role::Unpaid => {
            (Some(FaultKind::BrokenRule), None)
        }
        Role::Equivocator | Role::UnsignedEquivocator | Role::IdReuse | Role::TwoCheckpoints => {
            (None, Some(FaultKind::CheckpointRoot))
        }
        // Nodes refuse what these send, or keep it as evidence beside the log. A gap is no fault of a strand.
        Role::Forger
        | Role::Withholder
        | Role::Reorderer
        | Role::FalseChain
        | Role::LyingRelay
        | Role::TwiceTeller => (None, None),
    }
}

/// An auditor has the keys and the rates of the network, and in some audits a checkpoint that node 300 shows to one of
/// two nodes.
#[test]
fn audits_of_honest_logs_name_each_lie_that_they_hold_and_nothing_else() {
    let mut of_roles: BTreeMap<Role, AuditFindings> = BTreeMap::new();
    for seed in 0..Role::ALL.len() as u64 * RUNS_OF_ROLE {
        let mut sim = Sim::scripted(seed);
        println!("seed {seed}: {:?} among {} nodes", sim.role(), sim.honest().len() + 1);
        sim.publish(12, Duration::from_secs(30));
        sim.run_for(Duration::from_secs(45));
        sim.assert_liar_named();
        sim.let_nodes_crash();
        sim.publish(4, Duration::from_secs(20));
        sim.run_for(Duration::from_secs(40));
        sim.settle_hostile();
        sim.assert_audits(of_roles.entry(sim.role()).or_default());
    }
    println!("{of_roles:#?}");
    let roles: BTreeSet<Role> = of_roles.keys().copied().collect();
    assert_eq!(roles, BTreeSet::from(Role::ALL));
    for (role, found) in &of_roles {
        let (by_log, by_checkpoint) = fault_kinds(*role);
        assert_eq!(found.by_log, BTreeSet::from_iter(by_log), "{role:?}");
        assert_eq!(found.by_checkpoint, BTreeSet::from_iter(by_checkpoint), "{role:?}");
    }
    assert!(of_roles[&Role::Withholder].lacking > 0, "no log lacks what was withheld");
    assert!(of_roles[&Role::Equivocator].differing > 0, "no two logs differ");
    assert!(of_roles.values().any(|found| found.tallied > 0), "no tallies were compared");
}
