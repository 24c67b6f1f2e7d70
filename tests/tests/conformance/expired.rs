//! The case about expired places, at a node of ours that has some. Nothing expires within a run, so the test prunes.

use std::ops::ControlFlow;
use std::time::Duration;

use hawser_conformance::{Outcome, SuitePlan};
use hawser_engine::{facts, price};
use hawser_storage::Store;
use hawser_tests::harness::binary::hawser;
use hawser_tests::harness::envelopes::payer;
use hawser_tests::harness::faulty::FaultyNode;
use hawser_tests::harness::network::{Network, Node};

use crate::faults::OF_EXPIRED;
use crate::{cases_of, local};

/// Removes the first places of a strand from the folder of a node that has ended, as if they had expired.
fn prune(node: &Node, places: usize) {
    let (store, _) = Store::open_existing(&node.data_dir(), price::price).unwrap();
    let mut expired = Vec::new();
    let each = |it| {
        expired.push(it);
        ControlFlow::Continue(())
    };
    store.snapshot().expiring(None, places, each).unwrap();
    let done = store
        .prune(&expired, &|_, bytes, validity| facts::of_stored(bytes, validity, node.id))
        .unwrap();
    assert_eq!(done.pruned.len(), places);
}

/// Runs a command with success, and returns its error output.
async fn errors_of(arguments: &[&str]) -> String {
    let output = tokio::process::Command::new(hawser()).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_says_of_expired_places_is_judged() {
    let mut network = Network::start(1).await;
    let plan = |port: u16, case: &str| SuitePlan {
        payer: Some(payer(5)),
        node_id: Some(hawser_proto::OriginatorId(100)),
        only: vec![case.to_owned()],
        answer_timeout: Duration::from_secs(30),
        ..SuitePlan::new(&local(port))
    };
    let port = network.nodes[0].port;
    // Publishes, and waits until the node has signed a tree with what will be gone.
    let covered = plan(port, "checkpoint-covers-the-published");
    for _ in 0..2 {
        let report = hawser_conformance::run(&covered, |_| ()).await.unwrap();
        let wrong = cases_of(&report, |outcome| *outcome != Outcome::Passed);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    assert!(network.nodes[0].terminate().success());
    prune(&network.nodes[0], 3);
    network.start_all().await;

    // From a shell, what has expired would seem never to have been.
    let target = local(port);
    for command in [
        &["query", "originators", "100"][..],
        &["tail", "--originator", "100", "--from", "start", "--limit", "1"],
    ] {
        let errors = errors_of(&[command, &["--node", &target]].concat()).await;
        assert!(errors.contains("some have expired below 100:"), "{command:?}: {errors}");
    }

    let case = "oldest-names-what-has-expired";
    let faulty = FaultyNode::before(port).await;
    for good in [port, faulty.port] {
        let report = hawser_conformance::run(&plan(good, case), |_| ()).await.unwrap();
        let wrong = cases_of(&report, |outcome| *outcome != Outcome::Passed);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    for fault in OF_EXPIRED {
        faulty.set(Some(*fault));
        let report = hawser_conformance::run(&plan(faulty.port, case), |_| ()).await.unwrap();
        let wrong = cases_of(&report, |outcome| !matches!(outcome, Outcome::Failed(_)));
        assert!(wrong.is_empty(), "{fault:?}: {}", wrong.join("\n"));
    }
}
