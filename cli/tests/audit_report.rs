//! `hawser audit report`: where the keys are from, and nodes that keep more reports than the command holds.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hawser_audit::Judged;
use hawser_audit::evidence_file::{FiledReport, RegistrySource};
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::merkle::TreeHash;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_server::{
    MisbehaviorApi, MisbehaviorApiServer,
};
use hawser_proto::{Bytes, OriginatorId, SecretKey};
use hawser_rules::misbehavior::{TreeEvidence, TreeFault};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::support::log_folder::{NODE, keys_of};
use crate::support::{run, stdout};

/// Writes an evidence file of one worthless report, with the key of the node made of `seed`.
fn write(place: &Path, name: &str, seed: u8, source: Option<RegistrySource>) -> String {
    let key = SecretKey::from_bytes(&[seed; 32]).unwrap();
    let keys = keys_of(NODE, &key);
    let report = Bytes::from_static(b"no report");
    let held = FiledReport { report, host_signature: None, host: None, server_time_ns: None };
    let mut file = Judged::file("test", &[held], &[], &keys);
    file.registry_source = source;
    let path = place.join(name);
    fs::write(&path, serde_json::to_string(&file).unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn source(byte: &str, chain_id: u64, block: Option<u64>) -> Option<RegistrySource> {
    Some(RegistrySource { contract: format!("0x{}", byte.repeat(20)), chain_id, block })
}

#[test]
fn the_registry_of_an_evidence_file_is_shown_and_compared_with_the_given_one() {
    let place = tempfile::tempdir().unwrap();
    let file = write(place.path(), "file", 1, source("11", 5, Some(9)));
    let output = run(&["audit", "report", &file]);
    let named = format!("registry: 0x{} of chain 5, read after block 9", "11".repeat(20));
    assert!(stdout(&output).contains(&named), "{output:?}");
    let output = run(&["audit", "report", "--json", &file]);
    let last: Value = serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["registry_source"]["chain_id"], &last["differences"]),
        (&5.into(), &Value::Null)
    );
    assert_eq!(last["registry_source"]["block"], 9);

    // The same contract at another time is no difference; other keys and another contract are.
    let same = write(place.path(), "same", 1, source("11", 5, None));
    let output = run(&["audit", "report", &file, "--registry", &same]);
    assert!(!stdout(&output).contains("the file"), "{output:?}");
    let other = write(place.path(), "other", 2, source("22", 5, None));
    let output = run(&["audit", "report", &file, "--registry", &other]);
    let shown = stdout(&output);
    assert!(shown.contains("the file has another key of node 200 than the given one"), "{shown}");
    assert!(shown.contains("the keys of another registry"), "{shown}");
    assert!(shown.contains(&format!("registry: 0x{} of chain 5\n", "22".repeat(20))), "{shown}");
    let output = run(&["audit", "report", "--json", &file, "--registry", &other]);
    let last: Value = serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap();
    assert_eq!(last["differences"].as_array().unwrap().len(), 2, "{last}");

    let broken = write(place.path(), "broken", 1, source("no address", 5, None));
    let output = run(&["audit", "report", &broken]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("contract"), "{output:?}");
}

/// Nothing listens at the address of the node: it is not asked.
#[test]
fn a_file_without_a_report_is_not_called_submitted() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("trees.evidence");
    let trees = json!([{ "fault": "other_tree", "pieces": ["AA=="] }]);
    let text = json!({ "schema": "hawser-evidence/1", "trees": trees });
    fs::write(&file, text.to_string()).unwrap();
    let submit = ["misbehavior", "submit", "--node", "127.0.0.1:1", file.to_str().unwrap()];
    let output = run(&submit);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let named = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(named.contains("1 piece on signed trees"), "{named}");
    assert!(named.contains("no report to submit"), "{named}");
}

/// A later version has written it beside a fault that this one knows.
#[test]
fn a_fault_that_this_version_does_not_know_is_inconclusive_and_the_others_are_judged() {
    let place = tempfile::tempdir().unwrap();
    let key = SecretKey::from_bytes(&[1; 32]).unwrap();
    let signed = |root: u8| {
        let (node, root) = (OriginatorId(NODE), TreeHash([root; 32]));
        let of = Checkpoint { node, originator: node, size: 7, root, time_ns: 7 };
        Bytes::copy_from_slice(&of.sign(&key).encode())
    };
    let pieces = vec![signed(1), signed(2)];
    let held = TreeEvidence { fault: TreeFault::TwoCheckpoints, pieces };
    let mut file = Judged::file("test", &[], &[held.clone(), held], &keys_of(NODE, &key));
    file.trees[0].fault = "of_a_later_version".to_owned();
    let path = place.path().join("later");
    let path = path.to_str().unwrap();
    let report = ["audit", "report", "--json", path, "--registry", path];
    for (counts, code) in
        [(json!({ "proven": 1, "inconclusive": 1 }), 0), (json!({ "inconclusive": 1 }), 6)]
    {
        fs::write(path, serde_json::to_string(&file).unwrap()).unwrap();
        let output = run(&report);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let shown = stdout(&output);
        let total: Value = serde_json::from_str(shown.lines().last().unwrap()).unwrap();
        assert_eq!(total["counts"], counts);
        assert!(shown.contains("of_a_later_version"), "{shown}");
        file.trees.truncate(1);
    }
    // A file that is malformed behind them is refused before the first verdict.
    file.trees.push(file.trees[0].clone());
    file.trees[1].fault = "two_checkpoints".to_owned();
    file.trees[1].pieces = vec!["?".to_owned()];
    fs::write(path, serde_json::to_string(&file).unwrap()).unwrap();
    let output = run(&report);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()), "{output:?}");
}

/// Keeps reports of 4 MiB, five on a page, and fails behind the last one if the test says so.
struct Keeper {
    reports: u64,
    fails: bool,
    asked: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl MisbehaviorApi for Keeper {
    async fn submit_misbehavior_report(
        &self,
        _: Request<pb::SubmitMisbehaviorReportRequest>,
    ) -> Result<Response<pb::SubmitMisbehaviorReportResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn query_misbehavior_reports(
        &self,
        request: Request<pb::QueryMisbehaviorReportsRequest>,
    ) -> Result<Response<pb::QueryMisbehaviorReportsResponse>, Status> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let after = request.into_inner().after_ns;
        if self.fails && after >= self.reports {
            return Err(Status::internal("the disk is gone"));
        }
        let report = |server_time_ns| pb::MisbehaviorReport {
            server_time_ns,
            unsigned_misbehavior_report: Bytes::from(vec![0; 4 << 20]),
            signature: None,
        };
        let last = self.reports.min(after + 5);
        let reports = (after + 1..=last).map(report).collect();
        Ok(Response::new(pb::QueryMisbehaviorReportsResponse { reports }))
    }
}

fn keep(runtime: &Runtime, reports: u64, fails: bool) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::<AtomicU64>::default();
    let keeper = Keeper { reports, fails, asked: asked.clone() };
    let server = Server::builder()
        .add_service(MisbehaviorApiServer::new(keeper).max_encoding_message_size(32 << 20));
    runtime.spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (address, asked)
}

#[test]
fn all_reports_of_a_node_are_judged_page_by_page_however_many_it_keeps() {
    let place = tempfile::tempdir().unwrap();
    let keys = write(place.path(), "keys", 1, None);
    let runtime = Runtime::new().unwrap();
    // 320 MiB.
    let (address, asked) = keep(&runtime, 80, false);
    let url = format!("http://{address}");
    let report = ["audit", "report", "--json", &url, "--registry", &keys];
    let output = run(&report);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let last: Value = serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap();
    assert_eq!(last["counts"], serde_json::json!({ "refuted": 80 }));
    assert_eq!(asked.load(Ordering::Relaxed), 17);

    // Reports that were read before an error are judged.
    let (address, _) = keep(&runtime, 5, true);
    let url = format!("http://{address}");
    let output = run(&["audit", "report", "--json", &url, "--registry", &keys]);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    let last: Value = serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap();
    assert_eq!(last["counts"], serde_json::json!({ "refuted": 5 }));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not read to its end"), "{output:?}");

    let (address, _) = keep(&runtime, 0, false);
    let url = format!("http://{address}");
    let output = run(&["audit", "report", &url, "--registry", &keys]);
    assert_eq!(output.status.code(), Some(4), "there is nothing to judge: {output:?}");
}
