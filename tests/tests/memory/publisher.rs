//! A publisher in good standing: small envelopes without pause, each of which has to be taken.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hawser_tests::harness::client::Client;
use hawser_tests::harness::network::Node;
use hawser_tests::harness::{envelopes, seed};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// Publishes before the attack begins, for comparison.
const BEFORE: usize = 200;
/// Pause between two publishes.
const PAUSE: Duration = Duration::from_millis(5);
/// The group that it publishes to.
pub(crate) const GROUP: [u8; 16] = [2; 16];
/// Length of a message.
const LEN_BYTES: usize = 300;

/// A publisher that goes on until it is stopped. It has a thread of its own: on the threads of the test, the tasks of
/// attackers would delay it, and their answers of megabytes would count as the node's time.
pub(crate) struct Publisher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Beside>,
}

/// Times of publishes, from the request to the answer.
#[derive(Debug, Clone, Default)]
struct Latencies(Vec<Duration>);

/// Experience of a publisher. Printed, and never judged: machines differ.
#[derive(Default)]
pub(crate) struct Beside {
    before: Latencies,
    during: Latencies,
}

impl Publisher {
    /// Publishes for a while on an idle node, then goes on in the background.
    pub(crate) async fn start(node: &Node) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (begin, begun) = oneshot::channel();
        let (port, target, ended) = (node.port, node.id, stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (client, seed) = (Client::new(port), seed::seed());
                let publish = async move |number: u64| {
                    let mut rng = seed::rng(seed, number);
                    let message = envelopes::group_message(GROUP, LEN_BYTES, &mut rng);
                    let signed = envelopes::sign(&message, target, &envelopes::payer(2));
                    let since = Instant::now();
                    let answer = client.publish(vec![signed]).await;
                    let took = since.elapsed();
                    assert_eq!(answer.map(|it| it.len()).map_err(|it| it.to_string()), Ok(1));
                    tokio::time::sleep(PAUSE).await;
                    took
                };
                let mut beside = Beside::default();
                for number in 0..BEFORE {
                    beside.before.0.push(publish(1_000_000 + number as u64).await);
                }
                let _ = begin.send(());
                while !ended.load(Ordering::Relaxed) {
                    let number = 2_000_000 + beside.during.0.len() as u64;
                    beside.during.0.push(publish(number).await);
                }
                beside
            })
        });
        begun.await.expect("each of its publishes is taken");
        Self { stop, thread }
    }

    /// Ends it.
    ///
    /// # Panics
    /// If one of its publishes was not taken.
    pub(crate) async fn stop(self) -> Beside {
        self.stop.store(true, Ordering::Relaxed);
        let Self { thread, .. } = self;
        tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap()
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
