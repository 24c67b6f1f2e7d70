//! A load of publishes that keeps every request with its answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use hawser_proto::OriginatorId;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use rand::RngExt as _;
use tokio::task::JoinHandle;

use super::client::Client;
use super::envelopes::{self, sign};
use super::seed;

/// One request with its answer.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The payer.
    pub payer: u8,
    /// The client envelopes, in request order.
    pub client_bytes: Vec<Bytes>,
    /// The answer, envelope by envelope; `None` when there was none.
    pub answer: Option<Vec<Bytes>>,
}

impl Attempt {
    /// Returns the request to send, with the same bytes each time.
    #[must_use]
    pub fn request(&self, target: OriginatorId) -> Vec<pb::PayerEnvelope> {
        let payer = envelopes::payer(self.payer);
        self.client_bytes.iter().map(|bytes| sign(bytes, target, &payer)).collect()
    }
}

/// All requests of a load.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// The requests, in no particular order.
    pub attempts: Vec<Attempt>,
}

impl Ledger {
    /// Iterates over the acknowledged envelopes, as the node answered them.
    pub fn acknowledged(&self) -> impl Iterator<Item = &Bytes> {
        self.attempts.iter().filter_map(|attempt| attempt.answer.as_ref()).flatten()
    }

    /// Removes and returns the requests without an answer.
    #[must_use]
    pub fn take_unanswered(&mut self) -> Vec<Attempt> {
        let (unanswered, answered) =
            self.attempts.drain(..).partition(|attempt| attempt.answer.is_none());
        self.attempts = answered;
        unanswered
    }

    /// Adds the requests of another load.
    pub fn extend(&mut self, other: Self) {
        self.attempts.extend(other.attempts);
    }
}

/// Parameters of the load: publishers and envelopes.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The node's API.
    pub address: SocketAddr,
    /// The node's id.
    pub target: OriginatorId,
    /// Connections, each with one request at a time. Odd ones send batches.
    pub connections: u8,
    /// The maximum number of envelopes of a batch.
    pub batch_max: usize,
    /// Lengths of message bodies.
    pub body_len: std::ops::Range<usize>,
    /// The groups that are written to, in turn.
    pub groups: Vec<[u8; 16]>,
    /// Seed of all random choices.
    pub seed: u64,
    /// Number of envelopes after which publishers stop, approximately.
    pub envelopes_max: u64,
}

impl Plan {
    /// Returns a mixed load at a port of this machine, without a limit on its envelopes.
    #[must_use]
    pub fn new(port: u16, target: OriginatorId, seed: u64) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, port).into(), target, seed)
    }

    /// Returns a mixed load at any address, without a limit on its envelopes.
    #[must_use]
    pub fn at(address: SocketAddr, target: OriginatorId, seed: u64) -> Self {
        Self {
            address,
            target,
            connections: 6,
            batch_max: 20,
            body_len: 16..700,
            groups: (1..=8).map(|group| [group; 16]).collect(),
            seed,
            envelopes_max: u64::MAX,
        }
    }

    /// Starts publishing. `again` is sent first: requests of an earlier load that had no answer.
    #[must_use]
    pub fn start(self, again: Vec<Attempt>) -> Load {
        let shared = Arc::new(LoadState::default());
        let mut again_of: Vec<Vec<Attempt>> = vec![Vec::new(); usize::from(self.connections)];
        for (place, attempt) in again.into_iter().enumerate() {
            again_of[place % usize::from(self.connections)].push(attempt);
        }
        let connections = (0..self.connections).zip(again_of);
        let tasks = connections
            .map(|(number, again)| {
                tokio::spawn(publish_until_stopped(self.clone(), number, again, shared.clone()))
            })
            .collect();
        Load { shared, tasks }
    }
}

#[derive(Debug, Default)]
struct LoadState {
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

/// Publishers at work.
#[derive(Debug)]
pub struct Load {
    shared: Arc<LoadState>,
    tasks: Vec<JoinHandle<Ledger>>,
}

impl Load {
    /// Returns the count of acknowledged envelopes.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Returns true if all publishers have ended by themselves.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.tasks.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the requests in flight, stops, and returns all requests.
    ///
    /// # Panics
    /// Panics if a publisher panicked.
    pub async fn stop(self) -> Ledger {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join().await
    }

    /// Waits until all envelopes are sent, or the node is gone.
    ///
    /// # Panics
    /// Panics if a publisher panicked.
    pub async fn join(self) -> Ledger {
        let mut ledger = Ledger::default();
        for task in self.tasks {
            ledger.extend(task.await.unwrap());
        }
        ledger
    }
}

/// Publishes until the first request without an answer, which means that the node is gone. A refusal of an envelope's
/// content fails the test, because a load has valid envelopes only.
async fn publish_until_stopped(
    plan: Plan,
    number: u8,
    again: Vec<Attempt>,
    shared: Arc<LoadState>,
) -> Ledger {
    let client = Client::at(plan.address);
    let mut rng = seed::rng(plan.seed, number.into());
    let mut again = again.into_iter();
    let mut ledger = Ledger::default();
    while !shared.stop.load(Ordering::Relaxed)
        && shared.acknowledged.load(Ordering::Relaxed) < plan.envelopes_max
    {
        let mut attempt = again.next().unwrap_or_else(|| {
            let batch =
                if number.is_multiple_of(2) { 1 } else { rng.random_range(1..=plan.batch_max) };
            let client_bytes = (0..batch).map(|_| {
                let group = plan.groups[rng.random_range(0..plan.groups.len())];
                let body_len = rng.random_range(plan.body_len.clone());
                envelopes::group_message(group, body_len, &mut rng)
            });
            Attempt { payer: number + 1, client_bytes: client_bytes.collect(), answer: None }
        });
        match client.publish(attempt.request(plan.target)).await {
            Ok(answer) => {
                assert_eq!(answer.len(), attempt.client_bytes.len(), "an answer for each");
                shared.acknowledged.fetch_add(answer.len() as u64, Ordering::Relaxed);
                attempt.answer = Some(answer);
                ledger.attempts.push(attempt);
            }
            Err(status) => {
                assert_ne!(status.code(), tonic::Code::InvalidArgument, "{status}");
                println!("publishing at node {} ends: {status}", plan.target);
                ledger.attempts.push(attempt);
                break;
            }
        }
    }
    // Requests that should have been sent again and were not are still unanswered.
    ledger.attempts.extend(again);
    ledger
}
