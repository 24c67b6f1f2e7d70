//! Cases about what a chain orders, against a network of `hawser dev`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hawser_conformance::{Outcome, SuitePlan};
use hawser_tests::harness::binary::hawser;
use hawser_tests::harness::faulty::FaultyNode;
use hawser_tests::harness::network::forget_settings;
use hawser_tests::harness::process::Process;
use hawser_tests::harness::{ports, wait};
use serde_json::Value;
use tempfile::TempDir;

use crate::faults::OF_CHAINS;
use crate::{cases_of, local};

/// A network with both chains and a gateway.
struct Dev {
    /// Ports of both nodes and of the gateway.
    ports: [u16; 3],
    process: Process,
    _folder: TempDir,
}

impl Dev {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base_port = ports::dev_base(2);
        let mut command = Command::new(hawser());
        command
            .args(["dev", "--nodes", "2", "--base-port", &base_port.to_string(), "--data-dir"])
            .arg(folder.path().join("dev"));
        forget_settings(&mut command);
        let mut process = Process::start("hawser dev", command, &folder.path().join("output"));
        let described = folder.path().join("dev").join("network.json");
        wait::until("the network is described", async || {
            if let Some(status) = process.ended() {
                panic!("hawser dev has ended: {status}");
            }
            described.is_file().then_some(())
        })
        .await;
        let ports = ports_of(&described);
        Self { ports, process, _folder: folder }
    }
}

fn ports_of(described: &Path) -> [u16; 3] {
    let network: Value = serde_json::from_slice(&std::fs::read(described).unwrap()).unwrap();
    let port = |part: &Value| {
        let address = part["grpc"].as_str().unwrap();
        address.rsplit_once(':').unwrap().1.parse().unwrap()
    };
    [port(&network["nodes"][0]), port(&network["nodes"][1]), port(&network["gateway"])]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_chain_orders_passes_and_fails_with_a_fault() {
    let mut dev = Dev::start().await;
    let [target, second, gateway] = dev.ports;
    let plan = |gateway: u16, ids: &[&str]| SuitePlan {
        second: Some(local(second)),
        gateway: Some(local(gateway)),
        only: ids.iter().map(|&id| id.to_owned()).collect(),
        answer_timeout: Duration::from_secs(30),
        ..SuitePlan::new(&local(target))
    };
    let faulty = FaultyNode::before(gateway).await;
    for (fault, ids) in OF_CHAINS {
        faulty.set(None);
        let report = hawser_conformance::run(&plan(faulty.port, ids), |_| ()).await.unwrap();
        let wrong = cases_of(&report, |outcome| *outcome != Outcome::Passed);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        faulty.set(Some(*fault));
        let report = hawser_conformance::run(&plan(faulty.port, ids), |_| ()).await.unwrap();
        let wrong = cases_of(&report, |outcome| !matches!(outcome, Outcome::Failed(_)));
        assert!(wrong.is_empty(), "{fault:?}: {}", wrong.join("\n"));
    }
    assert!(dev.process.terminate().success());
}
