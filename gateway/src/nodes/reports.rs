//! Reports wrong answers of nodes to other nodes, as far as the signed envelope proves them.
//!
//! A caller's publish waits for none of this. An answer takes the place of its node and kind of fault, and goes
//! into a bounded queue. One task judges it as the host will, and submits what stands. A node that lies in each answer
//! causes one report an hour for each kind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::SubmitMisbehaviorReportRequest;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_client::MisbehaviorApiClient;
use hawser_proto::{Bytes, OriginatorId};
use hawser_rules::misbehavior::report::client_safety_report;
use hawser_rules::misbehavior::{Kind, MisbehaviorVerdict, NoChain, Report, ReportCase};
use hawser_rules::{RateTable, Registry, misbehavior};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::answer::AnswerError;
use super::node::Node;
use super::set::Nodes;
use crate::metrics::GatewayMetrics;

/// Answers that wait to be judged. A guess: each node has one place for each of two kinds.
const WAITING_MAX: usize = 16;
/// Bytes of an envelope that is reported. A guess: the queue holds at most 16 MiB, and a host takes 3 MiB a minute.
const EVIDENCE_BYTES_MAX: usize = 1024 * 1024;
/// Hosts that are to accept a report, so that one host cannot hide it. Specified (misbehaviour, *What clients do*).
const HOSTS_WANTED: usize = 2;
/// Hosts that are asked at most. A guess.
const HOSTS_ASKED_MAX: usize = 5;
/// Time for a host to answer. A guess: a host checks a report within milliseconds.
const HOST_TIMEOUT: Duration = Duration::from_secs(10);
/// Least time between two reports. A guess: hosts take 10 a minute and 100 an hour from an address, which several
/// gateways may have in common.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// Time for which a node is not reported again for the same kind of fault. A guess: one report proves as much as many.
const REPORTED_FOR: Duration = Duration::from_secs(60 * 60);
/// Time after which a report is tried again that no host has accepted. A guess.
const FAILED_FOR: Duration = Duration::from_secs(10 * 60);
/// Time after which another answer of the same node is judged if the last one proved nothing. A guess: a node that
/// mixes lies without proof with others cannot hide these for long, and costs one judgement a second.
const UNPROVEN_FOR: Duration = Duration::from_secs(1);

/// The outcome of reporting a wrong answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportOutcome {
    /// Another node has accepted the report.
    Sent,
    /// The answer proves nothing against its node.
    Unproven,
    /// The node was reported for the same kind of fault a short time ago, or is about to be.
    Repeated,
    /// The queue is full, or the envelope is too long.
    Dropped,
    /// No other node has accepted the report.
    Failed,
}

impl ReportOutcome {
    pub(crate) const ALL: [Self; 5] =
        [Self::Sent, Self::Unproven, Self::Repeated, Self::Dropped, Self::Failed];

    /// Returns the name in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Unproven => "unproven",
            Self::Repeated => "repeated",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }

    /// Returns the time after which the task judges an answer of the same node and kind again.
    fn pause(self) -> Duration {
        match self {
            Self::Sent | Self::Repeated => REPORTED_FOR,
            Self::Failed => FAILED_FOR,
            Self::Unproven | Self::Dropped => UNPROVEN_FOR,
        }
    }
}

/// A wrong answer that waits to be judged.
#[derive(Debug)]
struct Accusation {
    accused: OriginatorId,
    kind: Kind,
    /// The signed envelope, in memory of its own.
    envelope: Bytes,
    seen_ns: i64,
}

/// The place of a node and a kind of fault.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// An answer waits or is judged.
    Taken,
    /// Answers are not judged until this time.
    FreeAt(Instant),
}

/// Takes wrong answers. Clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    queue: mpsc::Sender<Accusation>,
    places: Arc<Mutex<BTreeMap<(OriginatorId, Kind), Place>>>,
    metrics: Arc<GatewayMetrics>,
}

/// The task that judges and submits. It does nothing before it is started.
pub(crate) struct ReportTask {
    waiting: mpsc::Receiver<Accusation>,
    reporter: Reporter,
}

/// Returns a reporter and its task.
pub(crate) fn reporter(metrics: Arc<GatewayMetrics>) -> (Reporter, ReportTask) {
    let (queue, waiting) = mpsc::channel(WAITING_MAX);
    let reporter = Reporter { queue, places: Arc::default(), metrics };
    (reporter.clone(), ReportTask { waiting, reporter })
}

impl Reporter {
    /// Takes a wrong answer of a node that was called. Returns at once.
    pub(super) fn offer(
        &self,
        accused: OriginatorId,
        error: &AnswerError,
        envelope: Option<&pb::OriginatorEnvelope>,
    ) {
        let refused = match (kind_of(error), envelope) {
            (Some(kind), Some(envelope)) => self.put(accused, kind, envelope).err(),
            _ => Some(ReportOutcome::Unproven),
        };
        if let Some(outcome) = refused {
            self.count(outcome);
        }
    }

    /// Puts an answer into the queue.
    ///
    /// # Errors
    /// The outcome of an answer for which there is no place.
    fn put(
        &self,
        accused: OriginatorId,
        kind: Kind,
        envelope: &pb::OriginatorEnvelope,
    ) -> Result<(), ReportOutcome> {
        let mut places = self.places.lock();
        let is_free = match places.get(&(accused, kind)) {
            None => true,
            Some(Place::Taken) => false,
            Some(Place::FreeAt(time)) => *time <= Instant::now(),
        };
        if !is_free {
            return Err(ReportOutcome::Repeated);
        }
        if envelope.encoded_len() > EVIDENCE_BYTES_MAX {
            return Err(ReportOutcome::Dropped);
        }
        let queued = self.queue.try_reserve().map_err(|_| ReportOutcome::Dropped)?;
        // Encoded anew: a part of the answer would hold the memory of the whole.
        let envelope = envelope.encode_to_vec().into();
        queued.send(Accusation { accused, kind, envelope, seen_ns: crate::now_ns() });
        places.insert((accused, kind), Place::Taken);
        Ok(())
    }

    /// Frees the place of an answer after the pause of its outcome.
    fn settle(&self, accused: OriginatorId, kind: Kind, outcome: ReportOutcome) {
        let free_at = Place::FreeAt(Instant::now() + outcome.pause());
        let before = self.places.lock().insert((accused, kind), free_at);
        debug_assert!(matches!(before, Some(Place::Taken)), "it was taken for this answer");
        self.count(outcome);
    }

    fn count(&self, outcome: ReportOutcome) {
        self.metrics.reports[outcome as usize].inc();
    }
}

impl ReportTask {
    /// Judges and submits until `end`. `nodes` are the hosts.
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
            let (registry, rates) = (registry.borrow().clone(), rates.borrow().clone());
            let judging = move || judged(&accusation, &registry, &rates, crate::now_ns());
            let report =
                tokio::task::spawn_blocking(judging).await.expect("judging does not panic");
            let outcome = match report {
                None => ReportOutcome::Unproven,
                Some(report) => {
                    sleep_until(next_at).await;
                    next_at = Instant::now() + REPORT_EVERY;
                    submit(&nodes, report).await
                }
            };
            self.reporter.settle(accused, kind, outcome);
        }
    }
}

/// Returns the kind of fault that an envelope may prove which is wrong in this way; `None` if it proves none, because its
/// node has not signed it.
fn kind_of(error: &AnswerError) -> Option<Kind> {
    match error {
        AnswerError::Layer(_)
        | AnswerError::NoSequenceId
        | AnswerError::OtherPayerEnvelope
        | AnswerError::Violation(_) => Some(Kind::InvalidPayload),
        AnswerError::Time { .. } => Some(Kind::OutOfOrder),
        AnswerError::Count { .. }
        | AnswerError::NoSignature
        | AnswerError::Signature(_)
        | AnswerError::Signer(_)
        | AnswerError::Originator(_) => None,
    }
}

/// Makes the report of an answer if a host has to accept it: the accused has signed what breaks a rule, or a time that
/// is in the future by this clock. Other faults, such as a retention that the payer did not ask for, are in no signature.
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

/// Submits a report to other nodes than the accused, one after the other in random order.
async fn submit(nodes: &Nodes, report: Report) -> ReportOutcome {
    let (accused, kind) = (report.accused(), report.kind());
    let mut hosts = nodes.usable();
    hosts.retain(|host| host.id() != accused);
    hosts.sort_by_cached_key(|_| rand::random::<u64>());
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
            "no other node has accepted a report of a node's wrong answer"
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
