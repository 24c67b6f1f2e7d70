//! What is sent to one node: the envelopes of requests that wait at the same time go in one call.
//!
//! A call begins as soon as there is something to send and fewer than [`CALLS_MAX`] are under way;
//! what comes meanwhile waits and goes together. So nobody waits for company, and a busy gateway
//! needs few calls. A call that the node refuses is sent again in halves, until only those requests
//! are refused that are at fault.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join};
use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::PublishPayerEnvelopesRequest;
use hawser_proto::{Bytes, SecretKey};
use hawser_rules::{NodeRecord, RateTable, Violation};
use prost::Message as _;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tonic::{Code, Status};

use super::verify::{AnswerFault, Asked, Verified, verify};
use super::{NodeFault, Placed};
use crate::nodes::Sending;

/// Calls under way to one node.
const CALLS_MAX: usize = 8;
/// Requests that wait for one node; who comes then waits longer.
const JOBS_MAX: usize = 4096;
const CALL_ENVELOPES_MAX: usize = 256;
const CALL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// More than this is signed and checked where it holds up nobody else.
const INLINE_ENVELOPES_MAX: usize = 4;
/// How long a price that nobody knows of is waited for.
const RATES_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of an envelope a log line shows.
const EVIDENCE_BYTES_MAX: usize = 16 * 1024;

/// Who pays, and for what.
pub(crate) struct Payer {
    pub(crate) key: SecretKey,
    pub(crate) retention_days: u32,
    pub(crate) attempt_timeout: Duration,
    pub(crate) rates: watch::Receiver<Arc<RateTable>>,
    /// Told when an answer has a price that is not known here.
    pub(crate) rates_wanted: Arc<Notify>,
}

struct Job {
    clients: Vec<Bytes>,
    answer: oneshot::Sender<Result<Vec<Placed>, NodeFault>>,
}

impl Job {
    fn bytes(&self) -> usize {
        self.clients.iter().map(Bytes::len).sum()
    }
}

/// Sends to one node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Batcher {
    jobs: mpsc::Sender<Job>,
    caller: Arc<Caller>,
}

/// One node, and how it is called.
#[derive(Clone)]
struct Caller {
    record: NodeRecord,
    sending: Sending,
    payer: Arc<Payer>,
}

/// An envelope as it is sent.
#[derive(Clone)]
struct Sealed {
    message: pb::PayerEnvelope,
    bytes: Bytes,
}

impl Batcher {
    pub(crate) fn begin(record: &NodeRecord, sending: Sending, payer: Arc<Payer>) -> Self {
        let (sender, jobs) = mpsc::channel(JOBS_MAX);
        let end = sending.end.clone();
        let caller = Arc::new(Caller { record: record.clone(), sending, payer });
        let batching = caller.clone().run(jobs);
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = batching => {}
            }
        });
        Self { jobs: sender, caller }
    }

    /// Publishes these envelopes, all or none of them, in this order.
    pub(crate) async fn publish(&self, clients: Vec<Bytes>) -> Result<Vec<Placed>, NodeFault> {
        let (answer, answered) = oneshot::channel();
        let gone = || NodeFault::Failed(Status::unavailable("the node is no longer used"));
        self.jobs.send(Job { clients, answer }).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Whether this is the node's statement about this envelope, and right.
    pub(crate) fn check(&self, client: &Bytes, envelope: pb::OriginatorEnvelope) -> Option<Placed> {
        let sealed = self.caller.seal(client.clone());
        let rates = self.caller.payer.rates.borrow().clone();
        let verified = self.caller.verify(&sealed, &envelope, &rates).ok()?;
        Some(self.caller.placed(envelope, verified))
    }
}

impl Caller {
    async fn run(self: Arc<Self>, mut jobs: mpsc::Receiver<Job>) {
        let calls = Arc::new(Semaphore::new(CALLS_MAX));
        let mut next = None;
        loop {
            let permit = calls.clone().acquire_owned().await.expect("it is never closed");
            let first = match next.take() {
                Some(job) => job,
                None => match jobs.recv().await {
                    Some(job) => job,
                    None => return,
                },
            };
            let mut together = Vec::new();
            next = gather(first, &mut jobs, &mut together);
            let caller = self.clone();
            tokio::spawn(async move {
                caller.settle(together).await;
                drop(permit);
            });
        }
    }

    /// Sends jobs in one call, and tells each one what became of it.
    fn settle(&self, mut jobs: Vec<Job>) -> BoxFuture<'_, ()> {
        async move {
            jobs.retain(|job| !job.answer.is_closed()); // whoever asked has gone
            if jobs.is_empty() {
                return;
            }
            let clients: Vec<Bytes> = jobs.iter().flat_map(|job| job.clients.clone()).collect();
            match self.call(clients).await {
                Ok(mut results) => {
                    for job in jobs {
                        let rest = results.split_off(job.clients.len().min(results.len()));
                        let own = std::mem::replace(&mut results, rest);
                        let own: Result<Vec<_>, _> = own.into_iter().collect();
                        let _ = job.answer.send(own.map_err(NodeFault::Wrong));
                    }
                }
                Err(NodeFault::Refused(_)) if jobs.len() > 1 => {
                    let second = jobs.split_off(jobs.len() / 2);
                    join(self.settle(jobs), self.settle(second)).await;
                }
                Err(fault) => {
                    for job in jobs {
                        let _ = job.answer.send(Err(fault.clone()));
                    }
                }
            }
        }
        .boxed()
    }

    /// One call, and one result for each envelope.
    async fn call(
        &self,
        clients: Vec<Bytes>,
    ) -> Result<Vec<Result<Placed, AnswerFault>>, NodeFault> {
        self.sending.numbers.calls.inc();
        let asked = clients.len();
        let sealed = self.seal_all(clients).await;
        let messages = sealed.iter().map(|sealed| sealed.message.clone()).collect();
        let request = PublishPayerEnvelopesRequest { payer_envelopes: messages };
        let mut client = self.sending.client.clone();
        let call = client.publish_payer_envelopes(request);
        let answer = match tokio::time::timeout(self.payer.attempt_timeout, call).await {
            Ok(Ok(answer)) => answer.into_inner().originator_envelopes,
            Ok(Err(status)) => return Err(fault_of(status, self.payer.attempt_timeout)),
            Err(_) => return Err(NodeFault::Timeout(self.payer.attempt_timeout)),
        };
        if answer.len() != asked {
            let fault = AnswerFault::Count { asked, got: answer.len() };
            self.report(&fault, None);
            return Err(NodeFault::Wrong(fault));
        }
        Ok(self.verify_all(sealed, answer).await)
    }

    fn seal(&self, client: Bytes) -> Sealed {
        let Payer { key, retention_days, .. } = &*self.payer;
        let message = PayerEnvelope::sign(client, self.record.id, *retention_days, key);
        let bytes = message.encode_to_vec().into();
        Sealed { message, bytes }
    }

    async fn seal_all(&self, clients: Vec<Bytes>) -> Vec<Sealed> {
        if clients.len() <= INLINE_ENVELOPES_MAX {
            return clients.into_iter().map(|client| self.seal(client)).collect();
        }
        let caller = self.clone();
        let sealing = move || clients.into_iter().map(|client| caller.seal(client)).collect();
        tokio::task::spawn_blocking(sealing).await.expect("signing does not panic")
    }

    async fn verify_all(
        &self,
        sealed: Vec<Sealed>,
        answer: Vec<pb::OriginatorEnvelope>,
    ) -> Vec<Result<Placed, AnswerFault>> {
        let pairs: Vec<_> = sealed.into_iter().zip(answer).collect();
        let results = self.judge(pairs.clone()).await;
        let pricey = |fault: &AnswerFault| {
            matches!(
                fault,
                AnswerFault::Violation(Violation::BaseFee(_) | Violation::CongestionFee(_))
            )
        };
        let results = if results.iter().any(|result| result.as_ref().is_err_and(pricey))
            && self.newer_rates().await
        {
            self.judge(pairs.clone()).await
        } else {
            results
        };
        for (result, (_, envelope)) in results.iter().zip(&pairs) {
            if let Err(fault) = result {
                self.report(fault, Some(envelope));
            }
        }
        let placed = results.into_iter().zip(pairs);
        placed
            .map(|(result, (_, envelope))| result.map(|verified| self.placed(envelope, verified)))
            .collect()
    }

    async fn judge(
        &self,
        pairs: Vec<(Sealed, pb::OriginatorEnvelope)>,
    ) -> Vec<Result<Verified, AnswerFault>> {
        let rates = self.payer.rates.borrow().clone();
        if pairs.len() <= INLINE_ENVELOPES_MAX {
            let judge = |(sealed, answer)| self.verify(sealed, answer, &rates);
            return pairs.iter().map(|(sealed, answer)| judge((sealed, answer))).collect();
        }
        let caller = self.clone();
        let judging = move || {
            let judge = |(sealed, answer)| caller.verify(sealed, answer, &rates);
            pairs.iter().map(|(sealed, answer)| judge((sealed, answer))).collect()
        };
        tokio::task::spawn_blocking(judging).await.expect("checking does not panic")
    }

    fn verify(
        &self,
        sealed: &Sealed,
        answer: &pb::OriginatorEnvelope,
        rates: &RateTable,
    ) -> Result<Verified, AnswerFault> {
        let asked = Asked {
            node: self.record.id,
            key: &self.record.public_key,
            payer_envelope: &sealed.bytes,
        };
        verify(&asked, answer, rates, crate::now_ns())
    }

    /// The price list may be older than a price. True if there is a newer one.
    async fn newer_rates(&self) -> bool {
        let mut rates = self.payer.rates.clone();
        rates.mark_unchanged();
        self.payer.rates_wanted.notify_one();
        matches!(tokio::time::timeout(RATES_TIMEOUT, rates.changed()).await, Ok(Ok(())))
    }

    fn placed(&self, envelope: pb::OriginatorEnvelope, verified: Verified) -> Placed {
        Placed {
            envelope,
            node: self.record.id,
            fee_picodollars: verified.fee_picodollars,
            congestion_fee_picodollars: verified.congestion_fee_picodollars,
        }
    }

    /// Says what a node has signed that it should not have.
    fn report(&self, fault: &AnswerFault, envelope: Option<&pb::OriginatorEnvelope>) {
        let evidence = envelope.map(pb::OriginatorEnvelope::encode_to_vec).unwrap_or_default();
        let shown = &evidence[..evidence.len().min(EVIDENCE_BYTES_MAX)];
        tracing::error!(
            code = "node_answered_wrongly",
            node_id = self.record.id.0,
            %fault,
            evidence = hex::encode(shown),
            evidence_bytes = evidence.len(),
            "a node has answered something else than it was asked for"
        );
    }
}

/// What waits already and fits into one call; returns what came and does not fit.
fn gather(first: Job, jobs: &mut mpsc::Receiver<Job>, together: &mut Vec<Job>) -> Option<Job> {
    let (mut envelopes, mut bytes) = (first.clients.len(), first.bytes());
    together.push(first);
    while let Ok(job) = jobs.try_recv() {
        envelopes += job.clients.len();
        bytes += job.bytes();
        if envelopes > CALL_ENVELOPES_MAX || bytes > CALL_BYTES_MAX {
            return Some(job);
        }
        together.push(job);
    }
    None
}

fn fault_of(status: Status, waited: Duration) -> NodeFault {
    match status.code() {
        // The same everywhere, and for the same reason each time.
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            NodeFault::Refused(status)
        }
        Code::DeadlineExceeded => NodeFault::Timeout(waited),
        _ => NodeFault::Failed(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(envelopes: usize, len: usize) -> Job {
        let (answer, _) = oneshot::channel();
        Job { clients: vec![vec![0; len].into(); envelopes], answer }
    }

    #[test]
    fn a_call_takes_what_waits_up_to_its_bounds_and_loses_nothing() {
        let (sender, mut jobs) = mpsc::channel(100);
        for _ in 0..5 {
            sender.try_send(job(100, 10)).unwrap();
        }
        let mut together = Vec::new();
        let first = jobs.try_recv().unwrap();
        let next = gather(first, &mut jobs, &mut together);
        assert_eq!(together.len(), 2);
        assert!(next.is_some());
        assert_eq!(jobs.len(), 2);
        let mut together = Vec::new();
        assert!(gather(job(1, CALL_BYTES_MAX * 2), &mut jobs, &mut together).is_some());
        assert_eq!(together.len(), 1, "a large one goes alone");
    }

    #[test]
    fn only_refusals_for_a_rule_are_final() {
        let wait = Duration::from_secs(1);
        let kind = |status| fault_of(status, wait).kind();
        use super::super::FaultKind;
        assert_eq!(kind(Status::invalid_argument("")), FaultKind::Refused);
        assert_eq!(kind(Status::unavailable("")), FaultKind::Failed);
        assert_eq!(kind(Status::resource_exhausted("")), FaultKind::Failed);
        assert_eq!(kind(Status::deadline_exceeded("")), FaultKind::Timeout);
    }
}
