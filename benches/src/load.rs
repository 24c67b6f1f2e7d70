//! Publishing with a fixed number of requests in flight, and a check of the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::codegen::http::uri::PathAndQuery;

use crate::error::BenchError;
use crate::rpc::{self, Connection};
use crate::stats::Latencies;

/// One of this many answers is kept and checked after the run.
const SAMPLE_EVERY: u64 = 97;
/// The maximum number of kept answers for each request in flight.
const SAMPLES_MAX: usize = 64;

/// Requests of the run.
#[derive(Clone)]
pub(crate) struct Load {
    requests: Arc<Vec<Bytes>>,
    /// True to start over when all requests are sent; the answers are then not checked.
    endless: bool,
    /// Time after which no request is sent.
    time: Duration,
    path: PathAndQuery,
}

impl Load {
    /// Sends each request once, or as many as fit into `time`.
    pub(crate) fn once(requests: Vec<Bytes>, time: Duration) -> Self {
        Self { requests: Arc::new(requests), endless: false, time, path: rpc::PUBLISH }
    }

    /// Sends the same requests repeatedly, to a server that accepts that.
    pub(crate) fn endless(requests: Vec<Bytes>, time: Duration) -> Self {
        Self { requests: Arc::new(requests), endless: true, time, path: rpc::PUBLISH }
    }

    /// Sends the requests to another method, whose answers have as many entries as its requests.
    pub(crate) fn at(self, path: PathAndQuery) -> Self {
        Self { path, ..self }
    }

    /// Returns a load with the same requests that runs for `time`.
    pub(crate) fn again(self, time: Duration) -> Self {
        Self { time, ..self }
    }
}

/// Outcome of the run.
#[derive(Clone)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    /// Envelopes that were acknowledged.
    pub(crate) envelopes: u64,
    /// Times from sending a request to its answer.
    pub(crate) latencies: Latencies,
    /// Time from the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Some requests with their answers.
    samples: Vec<(Bytes, Bytes)>,
}

impl Outcome {
    fn new() -> Self {
        Self {
            requests: 0,
            envelopes: 0,
            latencies: Latencies::new(),
            elapsed: Duration::ZERO,
            samples: Vec::new(),
        }
    }

    /// Adds the outcome of another request in flight, or of a later load.
    pub(crate) fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.envelopes += other.envelopes;
        self.latencies.merge(&other.latencies);
        self.samples.extend(other.samples);
    }

    /// Checks that each kept answer has the sent envelopes, in order.
    ///
    /// # Errors
    /// Names the first answer that does not.
    pub(crate) fn check_samples(&self) -> Result<(), BenchError> {
        for (request, answer) in &self.samples {
            let sent = api::PublishPayerEnvelopesRequest::decode(request.clone())?.payer_envelopes;
            let answer = api::PublishPayerEnvelopesResponse::decode(answer.clone())?;
            let got = answer.originator_envelopes;
            if got.len() != sent.len() {
                return Err("an answer has not as many envelopes as the request".into());
            }
            for (sent, got) in sent.into_iter().zip(got) {
                let sent = PayerEnvelope::from_message(sent)?;
                let got = OriginatorEnvelope::parse(got.encode_to_vec().into())?;
                if got.unsigned().payer().as_bytes() != sent.as_bytes() {
                    return Err(format!("{} does not hold what was sent", got.id()).into());
                }
            }
        }
        Ok(())
    }
}

/// Sends `load` with `in_flight` requests at a time, spread over the connections.
///
/// # Errors
/// Returns an error if any request fails or is not answered in full.
pub(crate) async fn run(
    load: &Load,
    connections: &[Connection],
    in_flight: usize,
) -> Result<Outcome, BenchError> {
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for lane in 0..in_flight.max(1) {
        let connection = connections[lane % connections.len()].clone();
        tasks.spawn(send(load.clone(), connection, Arc::clone(&next), start + load.time));
    }
    let mut outcome = Outcome::new();
    while let Some(lane) = tasks.join_next().await {
        outcome.merge(lane??);
    }
    outcome.elapsed = start.elapsed();
    Ok(outcome)
}

async fn send(
    load: Load,
    mut connection: Connection,
    next: Arc<AtomicU64>,
    until: Instant,
) -> Result<Outcome, BenchError> {
    let mut outcome = Outcome::new();
    let count = load.requests.len() as u64;
    loop {
        let before = Instant::now();
        let at = next.fetch_add(1, Ordering::Relaxed);
        if before >= until || (at >= count && !load.endless) {
            return Ok(outcome);
        }
        let request = &load.requests[usize::try_from(at % count)?];
        let answer = connection.call(load.path.clone(), request.clone()).await?;
        outcome.latencies.record(before.elapsed());
        outcome.requests += 1;
        if load.endless {
            continue;
        }
        let sent = rpc::count_entries(request).ok_or("a prepared request is malformed")?;
        match rpc::count_entries(&answer) {
            Some(got) if got == sent => outcome.envelopes += got,
            _ => return Err(format!("{sent} envelopes sent, but not as many answered").into()),
        }
        if at.is_multiple_of(SAMPLE_EVERY) && outcome.samples.len() < SAMPLES_MAX {
            outcome.samples.push((request.clone(), answer));
        }
    }
}
