//! `hawser conformance` against a node of ours, and against one whose answers are wrong on purpose: a good node
//! passes, and each case can fail.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod chains;
mod endless;
mod expired;
mod faults;
mod hostile;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hawser_conformance::{Area, Outcome, RestartCommands, SuitePlan, SuiteReport, cases};
use hawser_tests::harness::binary::hawser;
use hawser_tests::harness::envelopes::payer;
use hawser_tests::harness::faulty::{AnswerFault, FaultyNode};
use hawser_tests::harness::files;
use hawser_tests::harness::gateway::Gateway;
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::wait::{self, POLL_EVERY};
use hawser_tests::harness::xmtpd_database::Certificate;
use tokio::io::AsyncWriteExt as _;

use faults::{FAULTS, OF_CHAINS, OF_EXTENSIONS, OF_PROPERTIES};

/// Two nodes with short intervals, and a gateway.
async fn network() -> (Network, Gateway) {
    let mut network = Network::new(2);
    network.add_arguments(&["--api.send-keep-alive-interval", "3s", "--reflection.enable"]);
    network.start_all().await;
    let gateway = Gateway::start(&network).await;
    (network, gateway)
}

pub(crate) fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Files by which the suite's commands ask the test to kill and to start a node, and wait until it has.
struct Requests {
    kill: PathBuf,
    start: PathBuf,
}

impl Requests {
    fn new(folder: &Path) -> Self {
        Self { kill: folder.join("kill"), start: folder.join("start") }
    }

    fn command(file: &Path) -> String {
        let file = file.display();
        format!("touch '{file}'; while [ -e '{file}' ]; do sleep 0.05; done")
    }

    /// Does as is asked, for ever.
    async fn serve(&self, node: &mut Node) {
        loop {
            if self.kill.exists() {
                node.kill();
                std::fs::remove_file(&self.kill).unwrap();
            }
            if self.start.exists() {
                node.start();
                node.ready().await;
                std::fs::remove_file(&self.start).unwrap();
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

/// Topics of the stream that may have a million: the same code, in seconds.
const STREAM_TOPICS: u32 = 20_000;

/// Everything allowed.
fn plan(network: &Network, requests: &Requests, ports: [u16; 3]) -> SuitePlan {
    let [target, second, gateway] = ports;
    SuitePlan {
        second: Some(local(second)),
        gateway: Some(local(gateway)),
        payer: Some(payer(5)),
        node_id: Some(network.nodes[0].id),
        destructive: true,
        load: true,
        restart: Some(RestartCommands {
            kill: Requests::command(&requests.kill),
            start: Requests::command(&requests.start),
        }),
        answer_timeout: Duration::from_secs(30),
        stream_topics: STREAM_TOPICS,
        ..SuitePlan::new(&local(target))
    }
}

async fn run(plan: &SuitePlan, requests: &Requests, node: &mut Node) -> SuiteReport {
    tokio::select! {
        report = hawser_conformance::run(plan, |_| ()) => report.unwrap(),
        () = requests.serve(node) => unreachable!("it serves for ever"),
    }
}

pub(crate) fn cases_of(report: &SuiteReport, wanted: impl Fn(&Outcome) -> bool) -> Vec<String> {
    let verdicts = report.results.iter().filter(|verdict| wanted(&verdict.outcome));
    let text = |outcome: &Outcome| outcome.reason().unwrap_or_default();
    verdicts
        .map(|verdict| {
            format!("{} {}: {}", verdict.outcome.name(), verdict.case.id, text(&verdict.outcome))
        })
        .collect()
}

/// Cases under load are left to operators: they measure times. Those about chains have their own test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_ours_passes_every_case() {
    let (mut network, gateway) = network().await;
    let requests = Requests::new(network.nodes[0].folder());
    let ports = [network.nodes[0].port, network.nodes[1].port, gateway.port];
    let plan = SuitePlan { load: false, ..plan(&network, &requests, ports) };
    let report = run(&plan, &requests, &mut network.nodes[0]).await;
    let wrong = cases_of(&report, |outcome| match outcome {
        Outcome::Passed => false,
        Outcome::Skipped(reason) => {
            reason != "needs --load" && reason != "the gateway has no chain"
        }
        Outcome::Failed(_) | Outcome::Finding(..) => true,
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(report.counts(None).passed > 90, "{}", report.summary());
    // Under load for what they leave behind or hold, and not for their times.
    let only = ["a-report-is-kept", "a-stream-of-a-million-topics"].map(str::to_owned);
    let plan = SuitePlan { load: true, only: only.to_vec(), ..plan };
    let report = run(&plan, &requests, &mut network.nodes[0]).await;
    let wrong = cases_of(&report, |outcome| *outcome != Outcome::Passed);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A publish whose answer is lost is stored all the same, and its caller publishes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_after_a_crash_is_no_lost_envelope() {
    let mut network = Network::start(2).await;
    let requests = Requests::new(network.nodes[0].folder());
    let faulty = FaultyNode::before(network.nodes[0].port).await;
    let plan = SuitePlan {
        only: vec!["a-crash-loses-nothing".into()],
        ..plan(&network, &requests, [faulty.port; 3])
    };
    let node = &mut network.nodes[0];
    let restarting = async {
        wait::until("the kill is asked for", async || requests.kill.exists().then_some(())).await;
        node.kill();
        faulty.set(Some(AnswerFault::LostAnswer));
        std::fs::remove_file(&requests.kill).unwrap();
        wait::until("the start is asked for", async || requests.start.exists().then_some(())).await;
        node.start();
        node.ready().await;
        std::fs::remove_file(&requests.start).unwrap();
        std::future::pending::<()>().await;
    };
    let report = tokio::select! {
        report = hawser_conformance::run(&plan, |_| ()) => report.unwrap(),
        () = restarting => unreachable!("it waits for ever"),
    };
    assert_eq!(report.counts(None).passed, 1, "{:?}", cases_of(&report, |_| true));
}

/// Without a key, a second node and a gateway nothing is published, and what is left passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_nothing_is_published() {
    let mut network = Network::new(1);
    network.add_arguments(&["--api.send-keep-alive-interval", "3s"]);
    network.start_all().await;
    let plan = SuitePlan::new(&local(network.nodes[0].port));
    let report = hawser_conformance::run(&plan, |_| ()).await.unwrap();
    let wrong =
        cases_of(&report, |outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Finding(..)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let head = network.nodes[0].client().cursor().await.unwrap().get(network.nodes[0].id);
    assert_eq!(head.0, 0, "nothing was published");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_tls_passes_too() {
    let mut network = Network::new(1);
    network.add_arguments(&["--api.send-keep-alive-interval", "3s"]);
    let made = Certificate::new("127.0.0.1");
    let node = &mut network.nodes[0];
    for (name, flag, pem) in
        [("tls.pem", "--tls-cert", &made.certificate), ("tls.key", "--tls-key", &made.key)]
    {
        let file = node.folder().join(name);
        std::fs::write(&file, pem).unwrap();
        node.arguments.push(format!("{flag}={}", file.display()));
    }
    network.start_all().await;
    let url = format!("https://{}", local(network.nodes[0].port));
    let authorities = Some(Bytes::from(made.certificate));
    let node_id = Some(network.nodes[0].id);
    let plan = SuitePlan { payer: Some(payer(5)), node_id, authorities, ..SuitePlan::new(&url) };
    let report = hawser_conformance::run(&plan, |_| ()).await.unwrap();
    let wrong =
        cases_of(&report, |outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Finding(..)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(report.counts(None).passed > 80, "{}", report.summary());
    let stranger = hawser_conformance::run(&SuitePlan::new(&url), |_| ()).await;
    assert!(stranger.is_err(), "a certificate of an authority that is not trusted");
}

/// A gateway has the same files and options for TLS as a node, and uses a new certificate while it runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_tls_passes_and_uses_a_new_certificate() {
    let network = Network::start(1).await;
    let folder = network.nodes[0].folder();
    let (certificate, key) = (folder.join("gateway-tls.pem"), folder.join("gateway-tls.key"));
    let write = |made: &Certificate| {
        std::fs::write(&key, &made.key).unwrap();
        std::fs::write(&certificate, &made.certificate).unwrap();
    };
    let (first, second) = (Certificate::new("127.0.0.1"), Certificate::new("127.0.0.1"));
    write(&first);
    let options =
        [format!("--tls-cert={}", certificate.display()), format!("--tls-key={}", key.display())];
    let gateway = Gateway::start_with(&network, &[options[0].as_str(), options[1].as_str()]).await;
    let only = ["gateway-publishes-for-its-users", "gateway-lists-nodes"].map(str::to_owned);
    let plan = |trusted: &Certificate| SuitePlan {
        gateway: Some(format!("https://{}", local(gateway.port))),
        authorities: Some(Bytes::from(trusted.certificate.clone())),
        only: only.to_vec(),
        ..SuitePlan::new(&local(network.nodes[0].port))
    };
    let passes = |report: &SuiteReport| {
        let wrong = cases_of(report, |outcome| *outcome != Outcome::Passed);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!(report.counts(None).passed, only.len());
    };
    passes(&hawser_conformance::run(&plan(&first), |_| ()).await.unwrap());
    let stranger = hawser_conformance::run(&plan(&second), |_| ()).await;
    assert!(stranger.is_err(), "a certificate of an authority that is not trusted");
    write(&second);
    let report = wait::until("the new certificate is in use", async || {
        hawser_conformance::run(&plan(&second), |_| ()).await.ok()
    });
    passes(&report.await);
}

/// The control of the faults: a stand-in with no switch on changes nothing, so a failure below a switch is the work of
/// that switch. Left out are the cases of the area *performance*, since no test asserts on time, and the case of
/// [`OF_CHAINS`], which has this control in its own test.
async fn passes_without_a_fault(all: &SuitePlan, requests: &Requests, node: &mut Node) {
    let of_chains: Vec<&str> = OF_CHAINS.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
    let is_timed = |area| area == Area::Performance;
    let only: Vec<String> = cases::all()
        .filter(|case| !is_timed(case.area) && !of_chains.contains(&case.id))
        .map(|case| case.id.to_owned())
        .collect();
    let count = only.len();
    let report = run(&SuitePlan { only, ..all.clone() }, requests, node).await;
    let wrong = cases_of(&report, |outcome| *outcome != Outcome::Passed);
    assert!(wrong.is_empty(), "without a fault: {}", wrong.join("\n"));
    assert_eq!(report.counts(None).passed, count);
}

/// A case that fails at a stand-in proves something only if it passes at the same stand-in without the fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_case_passes_without_a_fault_and_fails_with_one() {
    let (mut network, gateway) = network().await;
    let requests = Requests::new(network.nodes[0].folder());
    let nodes = [network.nodes[0].port, network.nodes[1].port, gateway.port];
    let mut faulty = Vec::new();
    for port in nodes {
        faulty.push(FaultyNode::before(port).await);
    }
    let all = plan(&network, &requests, [faulty[0].port, faulty[1].port, faulty[2].port]);
    passes_without_a_fault(&all, &requests, &mut network.nodes[0]).await;
    let mut wrong = Vec::new();
    for (fault, ids) in FAULTS {
        faulty.iter().for_each(|node| node.set(Some(*fault)));
        let only = ids.iter().map(|id| (*id).to_owned()).collect();
        let plan = SuitePlan { only, answer_timeout: Duration::from_secs(2), ..all.clone() };
        let report = run(&plan, &requests, &mut network.nodes[0]).await;
        assert_eq!(report.results.len(), ids.len(), "{fault:?}");
        wrong.extend(
            cases_of(&report, |outcome| !matches!(outcome, Outcome::Failed(_)))
                .into_iter()
                .map(|text| format!("{fault:?}: {text}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The test above shows that these cases pass at the same stand-in without a fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_case_fails_for_the_property_that_it_is_about() {
    let network = Network::start(1).await;
    for (fault, id, reason) in OF_PROPERTIES {
        let faulty = FaultyNode::before(network.nodes[0].port).await;
        faulty.set(Some(*fault));
        let plan = SuitePlan {
            only: vec![(*id).to_owned()],
            destructive: true,
            answer_timeout: Duration::from_secs(2),
            ..SuitePlan::new(&local(faulty.port))
        };
        let report = hawser_conformance::run(&plan, |_| ()).await.unwrap();
        let failed = cases_of(&report, |outcome| matches!(outcome, Outcome::Failed(_)));
        let is_meant = failed.len() == 1 && failed[0].contains(*reason);
        assert!(is_meant, "{fault:?}: {:?}", cases_of(&report, |_| true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_defect_that_is_known_of_other_software_is_a_finding() {
    let network = Network::start(1).await;
    let faulty = FaultyNode::before(network.nodes[0].port).await;
    faulty.set(Some(AnswerFault::RefusesConnect));
    let plan = SuitePlan {
        payer: Some(payer(5)),
        node_id: Some(network.nodes[0].id),
        only: vec!["connect-json-reads".into(), "connect-errors-are-json".into()],
        ..SuitePlan::new(&local(faulty.port))
    };
    let report = hawser_conformance::run(&plan, |_| ()).await.unwrap();
    assert_eq!(report.counts(None).findings, 2, "{:?}", cases_of(&report, |_| true));
}

/// An HTTP server answers for a service that it does not know with status 404 and a page, which gRPC maps to
/// UNIMPLEMENTED.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_other_software_lacks_neither_pass_nor_fail() {
    let network = Network::start(1).await;
    let faulty = FaultyNode::before(network.nodes[0].port).await;
    faulty.set(Some(AnswerFault::MissingServices));
    let plan = |ids: &[&str]| SuitePlan {
        payer: Some(payer(5)),
        node_id: Some(network.nodes[0].id),
        load: true,
        only: ids.iter().map(|&id| id.to_owned()).collect(),
        ..SuitePlan::new(&local(faulty.port))
    };
    let report = hawser_conformance::run(&plan(OF_EXTENSIONS), |_| ()).await.unwrap();
    assert_eq!(report.results.len(), OF_EXTENSIONS.len());
    let wrong =
        cases_of(&report, |outcome| !matches!(outcome, Outcome::Skipped(_) | Outcome::Finding(..)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Cases about other services pass.
    let others = ["unknown-methods", "published-is-read-at-once"];
    let report = hawser_conformance::run(&plan(&others), |_| ()).await.unwrap();
    let wrong = cases_of(&report, |outcome| *outcome != Outcome::Passed);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Behaviour of a port that is no node.
#[derive(Debug, Clone, Copy)]
enum Nonsense {
    Silence,
    Noise,
    Closing,
}

async fn speak(listener: tokio::net::TcpListener, nonsense: Nonsense) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            match nonsense {
                Nonsense::Silence => tokio::time::sleep(Duration::from_secs(600)).await,
                Nonsense::Noise => while stream.write_all(&[0xff; 1000]).await.is_ok() {},
                Nonsense::Closing => {}
            }
        });
    }
}

/// A case that hangs, panics or passes at such a port would show here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_no_node_fails_every_case() {
    for nonsense in [Nonsense::Silence, Nonsense::Noise, Nonsense::Closing] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let speaking = tokio::spawn(speak(listener, nonsense));
        let answer_timeout = Duration::from_millis(300);
        let plan = SuitePlan {
            payer: Some(payer(5)),
            node_id: Some(hawser_proto::OriginatorId(100)),
            answer_timeout,
            destructive: true,
            ..SuitePlan::new(&local(port))
        };
        let report = hawser_conformance::run(&plan, |_| ()).await.unwrap();
        speaking.abort();
        let wrong = cases_of(&report, |outcome| match outcome {
            Outcome::Failed(failure) => failure.got.contains("a panic"),
            Outcome::Skipped(_) => false,
            Outcome::Passed | Outcome::Finding(..) => true,
        });
        assert!(wrong.is_empty(), "{nonsense:?}: {}", wrong.join("\n"));
    }
}

/// Runs the program, and returns its exit code and standard output.
async fn program(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(hawser());
    let output = command.arg("conformance").args(arguments).output().await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_and_files_tell_programs_the_result() {
    let network = Network::start(1).await;
    let faulty = FaultyNode::before(network.nodes[0].port).await;
    let target = local(faulty.port);
    let one = ["--target", &target, "--only", "version-is-semantic"];
    let (code, text) = program(&one).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("passed   end-to-end   version-is-semantic"), "{text}");
    assert!(!text.contains('\x1b'), "no colours without a terminal");

    faulty.set(Some(AnswerFault::Altered));
    let (code, json) = program(&[&one[..], &["--json"]].concat()).await;
    let result: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &result["cases"][0]["outcome"]), (Some(8), &"failed".into()));
    let file = network.nodes[0].folder().join("result.xml");
    let out = ["--format", "junit", "--out", file.to_str().unwrap()];
    let (code, text) = program(&[&one[..], &out].concat()).await;
    assert_eq!(code, Some(8), "{text}");
    let xml = std::fs::read_to_string(&file).unwrap();
    assert!(xml.contains("failures=\"1\"") && xml.contains("<failure message="), "{xml}");
    // A folder has the name of the file, so the result cannot be written there. It is shown instead.
    let folder = network.nodes[0].folder().join("taken");
    std::fs::create_dir(&folder).unwrap();
    let out = ["--format", "json", "--out", folder.to_str().unwrap()];
    let (code, text) = program(&[&one[..], &out].concat()).await;
    assert!(code.is_some_and(|code| ![0, 8].contains(&code)), "{code:?}: {text}");
    assert!(text.contains("\"outcome\":\"failed\""), "{text}");

    assert_eq!(program(&["--target", "127.0.0.1:9"]).await.0, Some(1));
    assert_eq!(program(&["--target", "nonsense"]).await.0, Some(2));
    assert_eq!(program(&["--target", &target, "--only", "nonsense"]).await.0, Some(2));
    // A payer's signature is for one node, which the target does not choose.
    let key = network.nodes[0].folder().join("payer.key");
    files::write_key(&key, &payer(5));
    let paid = ["--target", &target, "--payer-key-file", key.to_str().unwrap()];
    assert_eq!(program(&paid).await.0, Some(2));
    let plan = SuitePlan { payer: Some(payer(5)), ..SuitePlan::new(&target) };
    let refused = hawser_conformance::run(&plan, |_| ()).await.unwrap_err();
    assert!(refused.to_string().contains("--node-id"), "{refused}");
    assert_eq!(program(&[]).await.0, Some(2));
    let (code, listed) = program(&["--list", "--json"]).await;
    assert_eq!((code, listed.lines().count()), (Some(0), cases::all().count()));
}

/// A case that no fault makes fail would prove nothing.
#[test]
fn every_case_is_named_below_a_fault() {
    let all = FAULTS.iter().chain(OF_CHAINS);
    let of_properties = OF_PROPERTIES.iter().map(|(_, id, _)| *id);
    let named: Vec<&str> =
        all.flat_map(|(_, ids)| ids.iter().copied()).chain(of_properties).collect();
    let set: BTreeSet<&str> = named.iter().copied().collect();
    assert_eq!(set.len(), named.len(), "a case is named once");
    let cases: BTreeSet<&str> = cases::all().map(|case| case.id).collect();
    assert_eq!(set, cases);
}
