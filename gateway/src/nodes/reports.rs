//! Reports wrong answers of nodes to other nodes, if the signed envelope proves the fault.
//!
//! Publishing waits for none of this. An answer takes the place of its node and kind of fault, and goes into a bounded
//! queue. A single task judges the answer as the receiving node will, and submits a report if the answer justifies
//! one. A node that lies in each answer causes one report an hour for each kind of fault.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::pb::xmtp::xmtpv4::message_api::SubmitMisbehaviorReportRequest;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_client::MisbehaviorApiClient;
use hawser_rules::misbehavior::report::client_safety_report;
use hawser_rules::misbehavior::{MisbehaviorVerdict, NoChain, Report, ReportCase};
use hawser_rules::{RateTable, Registry, misbehavior};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::node::Node;
use super::report_outcome::ReportOutcome;
use super::reporter::{Accusation, Reporter};
use super::set::Nodes;
use crate::metrics::GatewayMetrics;

/// Number of nodes that should accept a report, so that a single one cannot hide it. Specified (misbehaviour, *What
/// clients do*).
const HOSTS_WANTED: usize = 2;
/// Largest number of nodes to which a report is submitted. A guess.
const HOSTS_ASKED_MAX: usize = 5;
/// Time for a node to answer a submission. A guess: a node checks a report within milliseconds.
const HOST_TIMEOUT: Duration = Duration::from_secs(10);
/// Least time between two reports. A guess: nodes accept 10 a minute and 100 an hour from an address, which several
/// gateways may share.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// The task that judges answers and submits reports. It does nothing before [`start`](Self::start).
pub(crate) struct ReportTask {
    waiting: mpsc::Receiver<Accusation>,
    reporter: Reporter,
}

/// Creates a reporter and its task.
pub(crate) fn reporter(metrics: Arc<GatewayMetrics>) -> (Reporter, ReportTask) {
    let (reporter, waiting) = Reporter::new(metrics);
    (reporter.clone(), ReportTask { waiting, reporter })
}

impl ReportTask {
    /// Starts to judge answers and to submit reports to `nodes`, until `end`.
    pub(crate) fn start(
        self,
        nodes: Nodes,
        registry: watch::Receiver<Arc<Registry>>,
        rates: watch::Receiver<Arc<RateTable>>,
        end: CancellationToken,
    ) {
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = self.run(nodes, registry, rates) => {}
            }
        });
    }

    async fn run(
        mut self,
        nodes: Nodes,
        registry: watch::Receiver<Arc<Registry>>,
        rates: watch::Receiver<Arc<RateTable>>,
    ) {
        let mut next_at = Instant::now();
        while let Some(accusation) = self.waiting.recv().await {
            let (accused, kind) = (accusation.accused, accusation.kind);
            let accusation = Arc::new(accusation);
            let judge = async || {
                let accusation = accusation.clone();
                let (registry, rates) = (registry.borrow().clone(), rates.borrow().clone());
                let judging = move || judged(&accusation, &registry, &rates, crate::now_ns());
                tokio::task::spawn_blocking(judging).await.expect("judging does not panic")
            };
            // First without its turn, so that answers that prove nothing hold up no others.
            let mut report = judge().await;
            if report.is_some() && Instant::now() < next_at {
                sleep_until(next_at).await;
                // The hosts judge by the registry and the time of then.
                report = judge().await;
            }
            let outcome = match report {
                None => ReportOutcome::Unproven,
                Some(report) => {
                    next_at = Instant::now() + REPORT_EVERY;
                    submit(&nodes, report).await
                }
            };
            self.reporter.settle(accused, kind, outcome);
        }
    }
}

/// Returns the report of an answer if an honest node has to accept it: the accused node has signed an envelope that
/// breaks a rule, or a time that is in the future by this machine's clock. Other faults are not proven by the
/// signature, such as a retention that the payer did not ask for.
fn judged(
    accusation: &Accusation,
    registry: &Registry,
    rates: &RateTable,
    now_ns: i64,
) -> Option<Report> {
    let Accusation { accused, kind, envelope, seen_ns } = accusation;
    let seen_ns = u64::try_from(*seen_ns).ok()?;
    let report = client_safety_report(seen_ns, *accused, *kind, std::slice::from_ref(envelope));
    let report = report.ok()?;
    let judgement = misbehavior::verify(&ReportCase {
        report: &report.to_bytes(),
        host_signature: None,
        host: None,
        registry,
        rates: Some(rates),
        chain: &NoChain,
        held_at_ns: Some(now_ns),
    });
    let stands =
        matches!(judgement.verdict, MisbehaviorVerdict::Proven | MisbehaviorVerdict::Claim);
    stands.then_some(report)
}

/// Submits a report to nodes other than the accused, one after another in random order, until [`HOSTS_WANTED`] have
/// accepted it.
async fn submit(nodes: &Nodes, report: Report) -> ReportOutcome {
    let (accused, kind) = (report.accused(), report.kind());
    let mut hosts = nodes.usable_at_random();
    hosts.retain(|host| host.id() != accused);
    let message = report.into_message();
    assert!(!message.submitted_by_node, "a gateway is no node");
    let request = SubmitMisbehaviorReportRequest { report: Some(message) };
    let mut accepted = Vec::new();
    for host in hosts.iter().take(HOSTS_ASKED_MAX) {
        match timeout(HOST_TIMEOUT, submit_to(host, request.clone())).await {
            Ok(Ok(())) => accepted.push(host.id().0),
            Ok(Err(status)) => {
                tracing::debug!(host = host.id().0, code = ?status.code(), "a report was refused");
            }
            Err(_) => tracing::debug!(host = host.id().0, "a report was not answered"),
        }
        if accepted.len() == HOSTS_WANTED {
            break;
        }
    }
    let kind = kind.as_str_name();
    if accepted.is_empty() {
        tracing::warn!(
            code = "report_not_taken",
            node_id = accused.0,
            kind,
            "no other node has accepted the report of a node's wrong answer"
        );
        return ReportOutcome::Failed;
    }
    tracing::info!(node_id = accused.0, kind, hosts = ?accepted, "a wrong answer is reported");
    ReportOutcome::Sent
}

async fn submit_to(host: &Node, request: SubmitMisbehaviorReportRequest) -> Result<(), Status> {
    let mut client = MisbehaviorApiClient::new(host.query_channel.clone());
    client.submit_misbehavior_report(request).await.map(drop)
}

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::UnsealedEnvelope;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_proto::{Address, Bytes, OriginatorId, SecretKey};
    use hawser_rules::{NodeRecord, PicoDollarPrice, PicoDollarsPerByteDay, Rate};
    use prost::Message as _;
    use tokio::time::sleep;

    use super::super::answer::AnswerError;
    use super::*;
    use crate::policy::config::PolicyFile;
    use crate::select::Strategy;

    fn key(id: u32) -> SecretKey {
        SecretKey::from_bytes(&[u8::try_from(id).unwrap(); 32]).unwrap()
    }

    fn registry(ids: &[u32]) -> Arc<Registry> {
        let record = |id: &u32| NodeRecord {
            id: OriginatorId(*id),
            public_key: key(*id).public_key(),
            owner: Address([1; 20]),
            http_address: Some("http://node.example".to_owned()),
            quic_address: None,
            canonical: true,
        };
        Arc::new(ids.iter().map(record).collect())
    }

    /// Returns a signed envelope whose payer envelope does not decode.
    fn signed_nonsense(id: u32) -> pb::OriginatorEnvelope {
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: id,
            originator_sequence_id: 1,
            originator_ns: crate::now_ns(),
            payer_envelope_bytes: Bytes::from_static(b"nonsense"),
            ..pb::UnsignedOriginatorEnvelope::default()
        };
        pb::OriginatorEnvelope::decode(UnsealedEnvelope::new(&statement).seal(&key(id))).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_waits_for_its_turn_is_judged_by_the_registry_of_then() {
        let metrics = Arc::new(GatewayMetrics::new(&PolicyFile::default()));
        let (reporter, task) = reporter(metrics.clone());
        let known = watch::Sender::new(registry(&[100, 101]));
        let rate = Rate {
            start_unix_s: 0,
            message_fee: PicoDollarPrice(1),
            storage_fee: PicoDollarsPerByteDay(1),
            congestion_fee: PicoDollarPrice(1),
            target_rate_per_minute: 1,
        };
        let rates = watch::Sender::new(Arc::new(RateTable::new(vec![rate], None).unwrap()));
        let nodes = Nodes::new(Strategy::Stable, None);
        task.start(nodes, known.subscribe(), rates.subscribe(), CancellationToken::new());
        for id in [100, 101] {
            let envelope = signed_nonsense(id);
            reporter.offer(OriginatorId(id), &AnswerError::NoSequenceId, Some(&envelope));
        }
        let count = |outcome: ReportOutcome| metrics.reports[outcome as usize].get();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(count(ReportOutcome::Failed), 1, "there is no node to report the first one to");
        // Meanwhile the second node leaves the registry, so no host has the key to its answer.
        known.send_replace(registry(&[100]));
        sleep(2 * REPORT_EVERY).await;
        assert_eq!(count(ReportOutcome::Failed), 1);
        assert_eq!(count(ReportOutcome::Unproven), 1);
    }
}
