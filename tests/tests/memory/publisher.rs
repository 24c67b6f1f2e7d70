//! A publisher in good standing: small envelopes without pause, each of which has to be taken.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hawser_tests::harness::network::Node;
use hawser_tests::harness::{envelopes, seed};
use tokio::task::JoinHandle;

/// Publishes before the attack begins, for comparison.
const BEFORE: usize = 200;
/// Pause between two publishes.
const PAUSE: Duration = Duration::from_millis(5);
/// The group that it publishes to.
pub(crate) const GROUP: [u8; 16] = [2; 16];
/// Length of a message.
const LEN_BYTES: usize = 300;

/// A task that publishes until it is stopped.
pub(crate) struct Publisher {
    stop: Arc<AtomicBool>,
    before: Latencies,
    task: JoinHandle<Latencies>,
}

/// Times of publishes, from the request to the answer.
#[derive(Debug, Clone, Default)]
struct Latencies(Vec<Duration>);

/// Experience of a publisher. Printed, and never judged: machines differ.
pub(crate) struct Beside {
    before: Latencies,
    during: Latencies,
}

impl Publisher {
    /// Publishes for a while on an idle node, then goes on in the background.
    pub(crate) async fn start(node: &Node) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, target, ended) = (node.client(), node.id, stop.clone());
        let seed = seed::seed();
        let publish = async move |number: u64| {
            let mut rng = seed::rng(seed, number);
            let message = envelopes::group_message(GROUP, LEN_BYTES, &mut rng);
            let signed = envelopes::sign(&message, target, &envelopes::payer(2));
            let since = Instant::now();
            let answer = client.publish(vec![signed]).await;
            assert_eq!(answer.map(|stored| stored.len()).map_err(|it| it.to_string()), Ok(1));
            tokio::time::sleep(PAUSE).await;
            since.elapsed().saturating_sub(PAUSE)
        };
        let mut before = Latencies::default();
        for number in 0..BEFORE {
            before.0.push(publish(1_000_000 + number as u64).await);
        }
        let task = tokio::spawn(async move {
            let mut during = Latencies::default();
            while !ended.load(Ordering::Relaxed) {
                during.0.push(publish(2_000_000 + during.0.len() as u64).await);
            }
            during
        });
        Self { stop, before, task }
    }

    /// Ends it.
    ///
    /// # Panics
    /// If one of its publishes was not taken.
    pub(crate) async fn stop(self) -> Beside {
        self.stop.store(true, Ordering::Relaxed);
        Beside { before: self.before, during: self.task.await.unwrap() }
    }
}

impl Latencies {
    fn at(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted
            .get((sorted.len() * percent / 100).min(sorted.len() - 1))
            .copied()
            .unwrap_or_default()
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "none");
        }
        write!(f, "{} publishes, p50 {:?}, p99 {:?}", self.0.len(), self.at(50), self.at(99))
    }
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "before {}; during {}", self.before, self.during)
    }
}
