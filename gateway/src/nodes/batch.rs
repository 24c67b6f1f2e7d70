//! Sends envelopes of several requests to one node in one call.
//!
//! A call starts as soon as a request waits and fewer than [`PROMPT_CALLS_MAX`] calls are under way. Beside these, up
//! to [`CALLS_MAX`], it waits up to [`GATHER_MAX`] for others to share it. So a busy gateway needs few calls: a call of
//! one envelope costs a node as much as two envelopes of a large one, and signatures are checked together from 12 on.
//! A refused call is sent again in halves, until only the requests at fault are refused. If the node cannot check some
//! envelopes now, it names them, and the other requests are sent again, in halves too. A call that the node has failed
//! may be stored, so it is not sent again here: each of its requests looks for its envelopes first, and then has a call
//! of its own.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join, join3};
use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, EnvelopeId, PublicKey, SecretKey, SequenceId};
use hawser_rules::{NodeRecord, PicoDollarPrice, RateTable};
use hawser_serve::{CheckedChannel, HeldCharge, MESSAGE_LEN_BYTES_MAX};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::answer::{AnswerError, ExpectedAnswer, VerifiedAnswer, len_bytes_max, verify};
use super::call::publish;
use super::error::NodeError;
use super::logged_envelope::LoggedEnvelope;
use super::observed::with_own_buffers;
use super::queue::{JobQueue, JobTaker, QueueClosedError, job_queue};
use super::report_count::ReportCount;
use super::reporter::Reporter;
use super::suspects::Suspects;
use super::wanted::WantedEnvelope;
use crate::metrics::OriginatorMetrics;
use crate::policy::CallerId;

/// Largest number of concurrent calls to a node. A guess: they cover the round trip to a distant node, and requests
/// still gather.
const CALLS_MAX: usize = 8;
/// Calls under way beside which a request waits for others. A guess: with fewer requests than this, none waits.
const PROMPT_CALLS_MAX: usize = 2;
/// Requests that start a call at once, and the longest wait for them. Guesses: a node answers 16 envelopes in less time
/// than two calls of 8, and 2 ms are a part of the time that a commit takes.
const GATHERED_JOBS: usize = 16;
const GATHER_MAX: Duration = Duration::from_millis(2);
/// Largest number of concurrent calls with requests of suspects: callers of sites that the node often refuses, or
/// fails. A guess.
const SUSPECT_CALLS_MAX: usize = 2;
/// Longest wait for a call without other requests; then another node is asked. A guess: most requests have their turn
/// by then. A node that fails every call, as one of the reference implementation that takes over an older network,
/// would otherwise have each request wait for the whole time of an attempt.
const LONE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Largest number of requests in a node's queue; further ones wait for a place in it. A guess.
const JOBS_MAX: usize = 4096;
/// Largest number of envelopes, and of bytes of client envelopes, of several requests in a call. A single request
/// may have more. Guesses: a node answers such a call within a few milliseconds, and it is far below the limit of a
/// message (25 MiB).
const CALL_ENVELOPES_MAX: usize = 256;
const CALL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest number of envelopes that are signed or verified on the calling task; more go to a blocking thread. A
/// guess: a signature takes about 50 µs, so a task is delayed by at most 0.2 ms.
const INLINE_ENVELOPES_MAX: usize = 4;
/// Time to wait for a newer price list when an answer has an unknown price. A guess: one read of the rates.
const RATES_TIMEOUT: Duration = Duration::from_secs(2);

/// The payer's key, and the terms on which it publishes.
pub(crate) struct PayerSettings {
    /// Key that signs all payer envelopes.
    pub(crate) key: SecretKey,
    /// The public part of `key`.
    pub(crate) public_key: PublicKey,
    /// Time for one call to a node.
    pub(crate) attempt_timeout: Duration,
    /// The price list for the verification of answers.
    pub(crate) rates: watch::Receiver<Arc<RateTable>>,
    /// Notified when an answer has a price that the list does not have.
    pub(crate) rates_wanted: Arc<Notify>,
}

/// An envelope that was published.
#[derive(Debug, Clone)]
pub(crate) struct PlacedEnvelope {
    pub(crate) envelope: pb::OriginatorEnvelope,
    /// The id at its node; `None` if it is on the chain.
    pub(crate) id: Option<EnvelopeId>,
    /// Sum of all fees; 0 if nothing is charged now. An honest node does not charge again for an
    /// envelope that it had stored before, but only the node says when that was, so the caller's budget pays for
    /// it.
    pub(crate) fee: PicoDollarPrice,
    /// The congestion fee that the node charges now; `None` on the chain, and for an envelope that was
    /// stored before.
    pub(crate) congestion_fee: Option<PicoDollarPrice>,
    /// A gateway of this payer has published the envelope for an earlier request, so it costs nothing.
    pub(crate) is_repeat: bool,
}

impl PlacedEnvelope {
    /// Returns the envelope as a repeat, which costs nothing.
    pub(crate) fn repeated(self) -> Self {
        Self { fee: PicoDollarPrice(0), congestion_fee: None, is_repeat: true, ..self }
    }
}

/// A node's answer to one request: for each of its envelopes, in order, the published envelope or the fault of the
/// answer.
pub(crate) type NodeAnswers = Vec<Result<PlacedEnvelope, AnswerError>>;

/// The envelopes of one request for this node.
struct PublishJob {
    caller: CallerId,
    clients: Vec<WantedEnvelope>,
    /// Cancelled when the caller hangs up.
    gone: CancellationToken,
    answer: oneshot::Sender<Result<NodeAnswers, NodeError>>,
    /// The memory of the request, charged until its last call has ended: a call continues for other callers after
    /// this one has hung up.
    held: Option<HeldCharge>,
}

impl PublishJob {
    fn bytes(&self) -> usize {
        self.clients.iter().map(|wanted| wanted.client.len()).sum()
    }
}

/// Sends envelopes to one node. Clones share the queues.
#[derive(Clone)]
pub(crate) struct Batcher {
    jobs: JobQueue<PublishJob>,
    /// Requests that are sent once more, alone. They do not wait for those of suspects, one of which may have had the
    /// node fail them.
    lone_jobs: JobQueue<PublishJob>,
    suspect_jobs: JobQueue<PublishJob>,
    caller: Arc<NodeCaller>,
}

/// Signs for one node, calls it and verifies its answers.
#[derive(Clone)]
struct NodeCaller {
    record: NodeRecord,
    channel: CheckedChannel,
    metrics: Arc<OriginatorMetrics>,
    payer: Arc<PayerSettings>,
    suspects: Suspects,
    reports: Arc<Mutex<ReportCount>>,
    reporter: Reporter,
    /// The highest sequence id of the node's right answers.
    newest: Arc<AtomicU64>,
}

/// The requests that may share a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestsPerCall {
    /// All waiting requests that fit into it.
    All,
    /// None: each request has a call of its own.
    One,
}

/// A payer envelope with its encoded bytes.
#[derive(Clone)]
struct SignedEnvelope {
    message: pb::PayerEnvelope,
    bytes: Bytes,
    /// Unix time.
    signed_ns: i64,
}

impl Batcher {
    /// Starts the task that calls the node until `end`.
    pub(super) fn start(
        record: &NodeRecord,
        channel: CheckedChannel,
        metrics: Arc<OriginatorMetrics>,
        payer: Arc<PayerSettings>,
        reporter: Reporter,
        end: CancellationToken,
    ) -> Self {
        let (jobs, waiting) = job_queue(JOBS_MAX);
        let (lone_jobs, lone) = job_queue(JOBS_MAX);
        let (suspect_jobs, of_suspects) = job_queue(JOBS_MAX);
        let caller = Arc::new(NodeCaller {
            record: record.clone(),
            channel,
            metrics,
            payer,
            suspects: Suspects::default(),
            reports: Arc::default(),
            reporter,
            newest: Arc::default(),
        });
        let batching = caller.clone().run(waiting, CALLS_MAX, RequestsPerCall::All);
        let alone = caller.clone().run(lone, CALLS_MAX, RequestsPerCall::One);
        let suspected = caller.clone().run(of_suspects, SUSPECT_CALLS_MAX, RequestsPerCall::One);
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                _ = join3(batching, alone, suspected) => {}
            }
        });
        Self { jobs, lone_jobs, suspect_jobs, caller }
    }

    /// Publishes these client envelopes in this order, all or none of them. The node may answer wrongly for some.
    /// Returns `None` if the caller hangs up (`gone` is cancelled) before they are sent. `end` resolves when the
    /// attempt's time is over; envelopes that still wait then are not sent. `held` is the request's memory. With
    /// `per_call` one, or if the node has often refused the caller, no other request is in the call, and the wait for
    /// it is at most [`LONE_WAIT_MAX`].
    ///
    /// # Errors
    /// The failure of the call that had them, or the end of the attempt; see [`NodeError::may_be_published`].
    pub(crate) async fn publish(
        &self,
        caller: &CallerId,
        clients: Vec<WantedEnvelope>,
        held: Option<HeldCharge>,
        per_call: RequestsPerCall,
        gone: &CancellationToken,
        end: impl Future<Output = NodeError>,
    ) -> Option<Result<NodeAnswers, NodeError>> {
        let (answer, mut answered) = oneshot::channel();
        let mut end = pin!(end);
        let unused = || NodeError::Failed(Status::unavailable("the node is no longer used"));
        let jobs = match per_call {
            _ if self.caller.suspects.has(caller) => &self.suspect_jobs,
            RequestsPerCall::One => &self.lone_jobs,
            RequestsPerCall::All => &self.jobs,
        };
        let job = PublishJob { caller: caller.clone(), clients, gone: gone.clone(), answer, held };
        let not_called = |error: NodeError| Some(Err(NodeError::NotCalled(Box::new(error))));
        let outcome_of = |answer: Result<_, _>| match answer {
            Ok(answer) => Some(answer),
            // A job that is dropped after its caller has hung up was never sent.
            Err(_) if gone.is_cancelled() => None,
            // The gateway ends, or a bug has ended the call. A node that has left the registry keeps its queue for as
            // long as requests wait in it, because each of them holds the node.
            Err(_) => Some(Err(unused())),
        };
        let waiting = tokio::select! {
            waiting = jobs.put(job) => match waiting {
                Ok(waiting) => waiting,
                Err(QueueClosedError) => return not_called(unused()),
            },
            () = gone.cancelled() => return None,
            error = &mut end => return not_called(error),
        };
        let wait_max = if std::ptr::eq(jobs, &self.jobs) { Duration::MAX } else { LONE_WAIT_MAX };
        let mut late = pin!(tokio::time::sleep(wait_max).fuse());
        loop {
            tokio::select! {
                biased;
                answer = &mut answered => return outcome_of(answer),
                () = gone.cancelled() => match waiting.give_up() {
                    true => return None,
                    false => break,
                },
                error = &mut end => {
                    return if waiting.give_up() { not_called(error) } else { Some(Err(error)) };
                }
                () = &mut late => if waiting.give_up() {
                    return not_called(NodeError::Timeout(wait_max));
                },
            }
        }
        // The caller has hung up, and the node was called: the answer is awaited for the bill.
        tokio::select! {
            biased;
            answer = answered => outcome_of(answer),
            error = end => Some(Err(error)),
        }
    }

    /// Returns the highest sequence id of the node's right answers so far. What it is asked to publish from now on gets
    /// a higher one.
    pub(crate) fn newest(&self) -> SequenceId {
        SequenceId(self.caller.newest.load(Relaxed))
    }

    /// Returns the envelope with its fees; `None` if it is no correct answer of this node for the client envelope.
    pub(crate) fn verify(
        &self,
        wanted: WantedEnvelope,
        envelope: pb::OriginatorEnvelope,
    ) -> Option<PlacedEnvelope> {
        let sealed = self.caller.sign(wanted);
        let rates = self.caller.payer.rates.borrow().clone();
        let verified = self.caller.verify(&sealed, &envelope, &rates).ok()?;
        Some(self.caller.placed(envelope, verified))
    }
}

impl NodeCaller {
    /// Takes jobs from the queue and starts calls with them, at most `calls_max` concurrently.
    async fn run(
        self: Arc<Self>,
        mut jobs: JobTaker<PublishJob>,
        calls_max: usize,
        together_max: RequestsPerCall,
    ) {
        let calls = Arc::new(Semaphore::new(calls_max));
        loop {
            let permit = calls.clone().acquire_owned().await.expect("it is never closed");
            jobs.wait_for(1).await;
            let under_way = calls_max - calls.available_permits() - 1;
            if together_max == RequestsPerCall::All && under_way >= PROMPT_CALLS_MAX {
                let _ = tokio::time::timeout(GATHER_MAX, jobs.wait_for(GATHERED_JOBS)).await;
            }
            let first = jobs.next().await;
            let together = match together_max {
                RequestsPerCall::All => gather(first, &mut jobs),
                RequestsPerCall::One => vec![first],
            };
            let caller = self.clone();
            tokio::spawn(async move {
                caller.settle(together).await;
                drop(permit);
            });
        }
    }

    /// Sends jobs in one call and answers each one. If the node refuses them, halves the jobs and calls again: a bad
    /// envelope must not fail the requests of other callers. If the node names envelopes that it cannot check, halves
    /// the other jobs, because a node may name one envelope at a time. So there is at most one call for each job. If it
    /// fails them, tells each job that it was not alone.
    /// Cancels the call when the attempts of all its jobs have ended, to free their memory.
    fn settle(&self, mut jobs: Vec<PublishJob>) -> BoxFuture<'_, ()> {
        async move {
            // Leaves out jobs whose attempt has ended or whose caller has hung up.
            jobs.retain(|job| !job.answer.is_closed() && !job.gone.is_cancelled());
            if jobs.is_empty() {
                return;
            }
            let clients: Vec<_> = jobs.iter().flat_map(|job| job.clients.clone()).collect();
            let ended = async {
                for job in &mut jobs {
                    job.answer.closed().await;
                }
            };
            let called = tokio::select! {
                biased;
                called = self.call(clients) => called,
                () = ended => return,
            };
            match called {
                Ok(mut results) => {
                    debug_assert_eq!(
                        results.len(),
                        jobs.iter().map(|job| job.clients.len()).sum::<usize>(),
                        "one result for each envelope"
                    );
                    for job in jobs {
                        self.suspects.note_published(&job.caller);
                        let rest = results.split_off(job.clients.len().min(results.len()));
                        let own = std::mem::replace(&mut results, rest);
                        drop(job.held);
                        let _ = job.answer.send(Ok(own));
                    }
                }
                Err(NodeError::Refused(_)) if jobs.len() > 1 => {
                    let second = jobs.split_off(jobs.len() / 2);
                    join(self.settle(jobs), self.settle(second)).await;
                }
                Err(error @ NodeError::Unable(_)) if jobs.len() > 1 => {
                    let counts: Vec<_> = jobs.iter().map(|job| job.clients.len()).collect();
                    let mut others = Vec::new();
                    for (job, error) in jobs.into_iter().zip(error.of_requests(&counts)) {
                        match error {
                            Some(error) => _ = job.answer.send(Err(error)),
                            None => others.push(job),
                        }
                    }
                    let second = others.split_off(others.len() / 2);
                    join(self.settle(others), self.settle(second)).await;
                }
                Err(error) if jobs.len() > 1 && error.may_be_of_one_envelope() => {
                    let error = error.with_others();
                    jobs.into_iter().for_each(|job| _ = job.answer.send(Err(error.clone())));
                }
                Err(error) => {
                    for job in jobs {
                        if is_of_caller(&error) {
                            self.suspects.note_refused(&job.caller);
                        }
                        let _ = job.answer.send(Err(error.clone()));
                    }
                }
            }
        }
        .boxed()
    }

    /// Makes one call and returns one result for each envelope, in the order of `clients`.
    async fn call(&self, clients: Vec<WantedEnvelope>) -> Result<NodeAnswers, NodeError> {
        self.metrics.calls.inc();
        let sealed = self.sign_all(clients).await;
        let messages = sealed.iter().map(|sealed| sealed.message.clone()).collect();
        let call = publish(self.channel.clone(), messages, answer_len_bytes_max(&sealed));
        match tokio::time::timeout(self.payer.attempt_timeout, call).await {
            Ok(Ok(Ok(answer))) => Ok(self.verify_all(sealed, answer).await),
            Ok(Ok(Err(error))) => {
                self.report(&error, None);
                Err(NodeError::WrongAnswer(error))
            }
            Ok(Err(status)) => Err(NodeError::of_status(status, self.payer.attempt_timeout)),
            Err(_) => Err(NodeError::Timeout(self.payer.attempt_timeout)),
        }
    }

    fn sign(&self, wanted: WantedEnvelope) -> SignedEnvelope {
        let WantedEnvelope { client, retention_days } = wanted;
        let signed_ns = crate::now_ns();
        let message = PayerEnvelope::sign(client, self.record.id, retention_days, &self.payer.key);
        let bytes = message.encode_to_vec().into();
        SignedEnvelope { message, bytes, signed_ns }
    }

    async fn sign_all(&self, clients: Vec<WantedEnvelope>) -> Vec<SignedEnvelope> {
        if clients.len() <= INLINE_ENVELOPES_MAX {
            return clients.into_iter().map(|client| self.sign(client)).collect();
        }
        let caller = self.clone();
        let signing = move || clients.into_iter().map(|client| caller.sign(client)).collect();
        tokio::task::spawn_blocking(signing).await.expect("signing does not panic")
    }

    async fn verify_all(
        &self,
        sealed: Vec<SignedEnvelope>,
        answer: Vec<pb::OriginatorEnvelope>,
    ) -> NodeAnswers {
        let pairs: Vec<_> = sealed.into_iter().zip(answer).collect();
        let results = self.verify_pairs(pairs.clone()).await;
        // The node may have a newer price list than this gateway.
        let is_unconfirmed = |result: &Result<VerifiedAnswer, AnswerError>| {
            result.as_ref().is_ok_and(|verified| verified.unconfirmed.is_some())
        };
        let results = if results.iter().any(is_unconfirmed) && self.newer_rates().await {
            self.verify_pairs(pairs.clone()).await
        } else {
            results
        };
        for (result, (_, envelope)) in results.iter().zip(&pairs) {
            if let Err(error) = result {
                self.report(error, Some(envelope));
            }
        }
        let placed = results.into_iter().zip(pairs);
        placed
            .map(|(result, (_, envelope))| result.map(|verified| self.placed(envelope, verified)))
            .collect()
    }

    async fn verify_pairs(
        &self,
        pairs: Vec<(SignedEnvelope, pb::OriginatorEnvelope)>,
    ) -> Vec<Result<VerifiedAnswer, AnswerError>> {
        let rates = self.payer.rates.borrow().clone();
        if pairs.len() <= INLINE_ENVELOPES_MAX {
            let verify = |(sealed, answer)| self.verify(sealed, answer, &rates);
            return pairs.iter().map(|(sealed, answer)| verify((sealed, answer))).collect();
        }
        let caller = self.clone();
        let verifying = move || {
            let verify = |(sealed, answer)| caller.verify(sealed, answer, &rates);
            pairs.iter().map(|(sealed, answer)| verify((sealed, answer))).collect()
        };
        tokio::task::spawn_blocking(verifying).await.expect("verifying does not panic")
    }

    fn verify(
        &self,
        sealed: &SignedEnvelope,
        answer: &pb::OriginatorEnvelope,
        rates: &RateTable,
    ) -> Result<VerifiedAnswer, AnswerError> {
        let expected = ExpectedAnswer {
            node: self.record.id,
            key: &self.record.public_key,
            payer: &self.payer.public_key,
            client: &sealed.message.unsigned_client_envelope,
            payer_envelope: &sealed.bytes,
            signed_ns: sealed.signed_ns,
        };
        verify(&expected, answer, rates, crate::now_ns())
    }

    /// Asks for a newer price list, and returns true if one arrived in time.
    async fn newer_rates(&self) -> bool {
        let mut rates = self.payer.rates.clone();
        rates.mark_unchanged();
        self.payer.rates_wanted.notify_one();
        matches!(tokio::time::timeout(RATES_TIMEOUT, rates.changed()).await, Ok(Ok(())))
    }

    fn placed(&self, envelope: pb::OriginatorEnvelope, verified: VerifiedAnswer) -> PlacedEnvelope {
        tracing::debug!(envelope = %verified.id, "durable at its node");
        self.newest.fetch_max(verified.id.sequence.0, Relaxed);
        if let Some(fault) = &verified.unconfirmed {
            tracing::debug!(envelope = %verified.id, %fault, "the price list may lack its rate");
        }
        let of_now = !verified.was_stored && verified.unconfirmed.is_none();
        PlacedEnvelope {
            // It may wait for the rest of its request, and the node chooses what else the message has.
            envelope: with_own_buffers(&envelope),
            id: Some(verified.id),
            fee: verified.fee,
            congestion_fee: of_now.then_some(verified.congestion_fee),
            is_repeat: false,
        }
    }

    /// Logs a wrong answer with the envelope as evidence, and passes it to the reporter: the node's signature may
    /// prove the fault.
    fn report(&self, error: &AnswerError, envelope: Option<&pb::OriginatorEnvelope>) {
        self.reporter.offer(self.record.id, error, envelope);
        let Some(left_out) = self.reports.lock().note(Instant::now()) else { return };
        let evidence = envelope.map(LoggedEnvelope::of).unwrap_or_default();
        tracing::error!(
            code = "node_answered_wrongly",
            node_id = self.record.id.0,
            fault = %error,
            evidence = evidence.hex,
            evidence_bytes = evidence.len_bytes,
            left_out,
            "a node's answer does not match the request"
        );
    }
}

/// Takes waiting jobs as long as they fit into one call with `first`. One that does not fit starts the next call.
fn gather(first: PublishJob, jobs: &mut JobTaker<PublishJob>) -> Vec<PublishJob> {
    let (mut envelopes, mut bytes) = (first.clients.len(), first.bytes());
    let mut together = vec![first];
    while let Some(job) = jobs.next_if(|job| {
        envelopes += job.clients.len();
        bytes += job.bytes();
        envelopes <= CALL_ENVELOPES_MAX && bytes <= CALL_BYTES_MAX
    }) {
        together.push(job);
    }
    together
}

/// Returns true if the error of a lone request may be about its envelopes, and not about the payer, which all callers
/// share.
fn is_of_caller(error: &NodeError) -> bool {
    matches!(error, NodeError::Refused(status) if status.code() != Code::FailedPrecondition)
        || error.may_be_of_one_envelope()
}

/// Returns the largest accepted length of an answer, in bytes. The bytes that a node may add are bounded, so an answer
/// takes memory in proportion to its request, which is charged.
fn answer_len_bytes_max(sent: &[SignedEnvelope]) -> usize {
    let all: usize = sent.iter().map(|sealed| len_bytes_max(&sealed.bytes)).sum();
    all.saturating_add(len_bytes_max(&Bytes::new())).min(MESSAGE_LEN_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(envelopes: usize, len: usize) -> PublishJob {
        let (answer, _) = oneshot::channel();
        let caller = CallerId::of_name("alice");
        let wanted = WantedEnvelope { client: vec![0; len].into(), retention_days: 60 };
        let clients = vec![wanted; envelopes];
        PublishJob { caller, clients, gone: CancellationToken::new(), answer, held: None }
    }

    #[test]
    fn a_call_takes_what_waits_up_to_its_bounds_and_loses_nothing() {
        let (queue, mut jobs) = job_queue(100);
        let put = |job| queue.put(job).now_or_never().unwrap().unwrap();
        let _waiting: Vec<_> = (0..5).map(|_| put(job(100, 10))).collect();
        let first = jobs.next().now_or_never().unwrap();
        assert_eq!(gather(first, &mut jobs).len(), 2);
        let large = job(1, CALL_BYTES_MAX * 2);
        assert_eq!(gather(large, &mut jobs).len(), 1, "a large one goes alone");
        let left = std::iter::from_fn(|| jobs.next_if(|_| true)).count();
        assert_eq!(left, 3, "those that did not fit");
    }

    #[test]
    fn an_answer_has_room_by_its_request() {
        let sealed = |len: usize| {
            let (message, bytes) = (pb::PayerEnvelope::default(), vec![0; len].into());
            SignedEnvelope { message, bytes, signed_ns: 0 }
        };
        let of_ten = answer_len_bytes_max(&[1000; 10].map(sealed));
        assert!((12_000..20_000).contains(&of_ten), "{of_ten}");
        assert_eq!(answer_len_bytes_max(&[sealed(25 << 20)]), MESSAGE_LEN_BYTES_MAX);
    }
}
