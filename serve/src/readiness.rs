//! The readiness of a process: named conditions, the purposes that need them, and the times of their last changes.
//!
//! A service implements [`Checks`]; [`Readiness`] evaluates them, records when each one changed, and notifies
//! watchers. Operators see conditions at `/readyz`; load balancers use [`HealthService`](crate::HealthService).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::Exposition;

/// Time between two evaluations that no request causes. A guess: watchers of health learn of a change with at most
/// this delay and [`REUSED_FOR`].
const EVALUATED_EVERY: Duration = Duration::from_millis(500);
/// Time after an evaluation for which its result answers callers. A guess: far below the intervals of load balancers,
/// and long beside the checks of a usual disk, so that callers without end cost few of them.
const REUSED_FOR: Duration = Duration::from_millis(100);
/// Time limit of the checks: with a disk that does not answer, the process is not ready. A guess:
/// far above the time of checks on a busy disk, and below the timeouts of load balancers.
const EVALUATED_WITHIN: Duration = Duration::from_secs(5);

/// A purpose that a process can be ready for. Each one includes the needs of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// The start is over.
    Start,
    /// Serving requests that only read.
    Read,
    /// Accepting envelopes.
    Publish,
    /// Has no effect on serving: operators see the condition, and the process stays ready.
    Notice,
}

impl Purpose {
    /// All purposes that a process can be ready for, from the least to the most demanding.
    pub const ALL: [Self; 3] = [Self::Start, Self::Read, Self::Publish];

    /// Returns the name that queries and labels use.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Read => "read",
            Self::Publish => "publish",
            Self::Notice => "notice",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Stable name: operators write alerts on it.
    pub name: &'static str,
    /// The first purpose that needs it; `None` if all do, as in a process with one purpose only.
    pub purpose: Option<Purpose>,
    /// The reason for operators, if the condition is not met.
    pub result: Result<(), String>,
    /// The operator's next step while the condition is not met.
    pub remedy: &'static str,
}

/// The conditions of a service.
pub trait Checks: Send + Sync + 'static {
    /// Runs every check. `draining` is true after [`Readiness::drain`].
    fn run(&self, draining: bool) -> Vec<Check>;

    /// Returns the wall clock, unix seconds.
    fn now_unix_s(&self) -> i64;
}

/// A condition with its history. Serialises as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// See [`Check::name`].
    pub name: &'static str,
    /// See [`Check::purpose`].
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// True if the last check passed.
    pub met: bool,
    /// Time of the first evaluation with this result, unix seconds.
    pub since_unix_s: i64,
    /// See [`Check::result`].
    pub reason: Option<String>,
    /// See [`Check::remedy`]; absent while the condition is met.
    pub remedy: Option<&'static str>,
}

impl Condition {
    /// Writes `xmtp_condition` for each of `conditions`.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn encode_all(conditions: &[Self], out: &mut Exposition<'_>) -> fmt::Result {
        out.gauges(
            "xmtp_condition",
            "1 if the condition is met",
            conditions.iter().map(|it| ([("name", it.name)], i64::from(it.met))),
        )
    }
}

/// The purposes that a process is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadyPurposes {
    start: bool,
    read: bool,
    publish: bool,
}

impl ReadyPurposes {
    /// Returns the purposes whose conditions are all met.
    #[must_use]
    pub fn of(conditions: &[Condition]) -> Self {
        let met = |purpose| conditions.iter().all(|it| it.met || it.purpose > Some(purpose));
        Self {
            start: met(Purpose::Start),
            read: met(Purpose::Read),
            publish: met(Purpose::Publish),
        }
    }

    /// Returns true if the process is ready for `purpose`.
    #[must_use]
    pub fn contains(self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Start => self.start,
            Purpose::Read => self.read,
            Purpose::Publish => self.publish,
            Purpose::Notice => true,
        }
    }
}

/// Readiness of one process. Cheap to clone; clones share state.
#[derive(Clone)]
pub struct Readiness(Arc<ReadinessState>);

struct ReadinessState {
    checks: Arc<dyn Checks>,
    draining: AtomicBool,
    /// The last result of each check and the time of its first evaluation, unix seconds.
    since: Mutex<BTreeMap<&'static str, (bool, i64)>>,
    ready: watch::Sender<ReadyPurposes>,
    /// The last finished evaluation for callers. A running one holds the lock, and callers wait for it.
    last: Arc<tokio::sync::Mutex<Option<Evaluated>>>,
}

/// The result of an evaluation that callers share.
#[derive(Debug, Clone, Copy)]
struct Evaluated {
    /// End of the evaluation.
    at: Instant,
    /// The process was draining before it.
    draining: bool,
    ready: ReadyPurposes,
}

impl ReadinessState {
    /// Notifies watchers if this is a change.
    fn note(&self, ready: ReadyPurposes) {
        self.ready.send_if_modified(|known| std::mem::replace(known, ready) != ready);
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("ready", &*self.0.ready.borrow()).finish_non_exhaustive()
    }
}

impl Readiness {
    /// Evaluates `checks` a first time.
    #[must_use]
    pub fn new(checks: Arc<dyn Checks>) -> Self {
        let readiness = Self(Arc::new(ReadinessState {
            checks,
            draining: AtomicBool::new(false),
            since: Mutex::default(),
            ready: watch::Sender::default(),
            last: Arc::default(),
        }));
        readiness.evaluate();
        readiness
    }

    /// Runs every check and notifies watchers if readiness has changed. May block on the disk.
    pub fn evaluate(&self) -> Vec<Condition> {
        let state = &*self.0;
        let now_unix_s = state.checks.now_unix_s();
        // The lock is held over the checks, so that evaluations become visible in their order.
        let mut since = state.since.lock();
        let checks = state.checks.run(state.draining.load(Ordering::Acquire));
        let conditions: Vec<Condition> = checks
            .into_iter()
            .map(|check| {
                let met = check.result.is_ok();
                let (known, since_unix_s) = since.entry(check.name).or_insert((met, now_unix_s));
                if *known != met {
                    (*known, *since_unix_s) = (met, now_unix_s);
                }
                Condition {
                    name: check.name,
                    purpose: check.purpose,
                    met,
                    since_unix_s: *since_unix_s,
                    reason: check.result.err(),
                    remedy: (!met).then_some(check.remedy),
                }
            })
            .collect();
        let ready = ReadyPurposes::of(&conditions);
        state.note(ready);
        conditions
    }

    /// Evaluates, and returns the purposes that the process is ready for now. May block on the disk.
    pub fn ready(&self) -> ReadyPurposes {
        ReadyPurposes::of(&self.evaluate())
    }

    /// Evaluates as [`ready`](Self::ready) does, on a thread that may block, one evaluation at a time. If the checks do
    /// not end within 5 s, the process counts as ready for nothing.
    ///
    /// An evaluation answers all callers that come while it runs and in the 100 ms after it, so that hostile callers
    /// cause at most ten in a second. The beginning of a drain ends this time.
    pub async fn current(&self) -> ReadyPurposes {
        let readiness = self.clone();
        let evaluated = async {
            let mut last = readiness.0.last.clone().lock_owned().await;
            let draining = readiness.is_draining();
            if let Some(known) = *last
                && known.draining == draining
                && known.at.elapsed() < REUSED_FOR
            {
                return Ok(known.ready);
            }
            tokio::task::spawn_blocking(move || {
                let ready = readiness.ready();
                *last = Some(Evaluated { at: Instant::now(), draining, ready });
                ready
            })
            .await
        };
        match timeout(EVALUATED_WITHIN, evaluated).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(_)) | Err(_) => {
                let ready = ReadyPurposes::default();
                self.0.note(ready);
                ready
            }
        }
    }

    /// Returns a receiver of each change of readiness.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<ReadyPurposes> {
        self.0.ready.subscribe()
    }

    /// Marks the process as draining: it still serves, but is ready for nothing new.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
        self.evaluate();
    }

    /// Returns true after [`drain`](Self::drain).
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Evaluates every 500 ms until `end`, so that watchers learn of changes that no request triggers.
    pub async fn keep_current(self, end: CancellationToken) {
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                () = sleep(EVALUATED_EVERY) => { self.current().await; }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicU64};

    use futures_util::FutureExt as _;

    use super::*;

    struct Fake {
        now_unix_s: AtomicI64,
        writable: AtomicBool,
    }

    impl Checks for Arc<Fake> {
        fn run(&self, draining: bool) -> Vec<Check> {
            let check = |name, purpose, fine: bool| {
                let result = if fine { Ok(()) } else { Err("because".to_owned()) };
                Check { name, purpose, result, remedy: "mend it" }
            };
            vec![
                check("draining", Some(Purpose::Read), !draining),
                check("writable", Some(Purpose::Publish), self.writable.load(Ordering::Relaxed)),
                check("told", Some(Purpose::Notice), false),
            ]
        }

        fn now_unix_s(&self) -> i64 {
            self.now_unix_s.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_last_change() {
        let fake =
            Arc::new(Fake { now_unix_s: AtomicI64::new(5), writable: AtomicBool::new(true) });
        let readiness = Readiness::new(Arc::new(fake.clone()));
        let mut watcher = readiness.subscribe();
        assert!(watcher.borrow_and_update().contains(Purpose::Publish), "a notice is no need");
        fake.now_unix_s.store(7, Ordering::Relaxed);
        assert_eq!(readiness.evaluate()[1].since_unix_s, 5);
        assert!(!watcher.has_changed().unwrap());

        fake.writable.store(false, Ordering::Relaxed);
        let writable = readiness.evaluate().remove(1);
        assert_eq!((writable.met, writable.since_unix_s), (false, 7));
        assert_eq!(writable.remedy, Some("mend it"));
        assert!(watcher.borrow_and_update().contains(Purpose::Read));
        assert!(!readiness.ready().contains(Purpose::Publish));

        readiness.drain();
        assert!(watcher.has_changed().unwrap());
        assert!(!watcher.borrow().contains(Purpose::Read));
        assert!(watcher.borrow().contains(Purpose::Start));
    }

    struct Hanging(std::sync::mpsc::Sender<()>, Mutex<std::sync::mpsc::Receiver<()>>, AtomicBool);

    impl Checks for Hanging {
        fn run(&self, _: bool) -> Vec<Check> {
            if self.2.load(Ordering::Relaxed) {
                let _ = self.0.send(());
                let _ = self.1.lock().recv();
            }
            Vec::new()
        }

        fn now_unix_s(&self) -> i64 {
            0
        }
    }

    #[tokio::test]
    async fn checks_that_hang_block_no_task_and_mean_not_ready() {
        let ((entered, enters), (release, released)) =
            (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let checks = Arc::new(Hanging(entered, Mutex::new(released), AtomicBool::new(false)));
        let readiness = Readiness::new(checks.clone());
        assert!(readiness.current().await.contains(Purpose::Read));
        sleep(REUSED_FOR).await; // otherwise that evaluation answers the next callers too
        checks.2.store(true, Ordering::Relaxed);
        let (first, second) = tokio::join!(readiness.current(), readiness.current());
        assert_eq!((first, second), (ReadyPurposes::default(), ReadyPurposes::default()));
        assert!(!readiness.subscribe().borrow().contains(Purpose::Read));
        assert_eq!(enters.try_iter().count(), 1, "one evaluation, whatever the number of callers");
        checks.2.store(false, Ordering::Relaxed);
        release.send(()).unwrap();
        assert!(readiness.current().await.contains(Purpose::Read));
    }

    /// Checks that count their evaluations. The second evaluation ends when the sender is dropped.
    struct Counting {
        evaluations: AtomicU64,
        gate: Mutex<std::sync::mpsc::Receiver<()>>,
    }

    impl Checks for Counting {
        fn run(&self, _: bool) -> Vec<Check> {
            if self.evaluations.fetch_add(1, Ordering::SeqCst) == 1 {
                let _ = self.gate.lock().recv();
            }
            Vec::new()
        }

        fn now_unix_s(&self) -> i64 {
            0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_callers_shares_an_evaluation_and_its_result_for_a_moment() {
        let (release, gate) = std::sync::mpsc::channel();
        let checks = Arc::new(Counting { evaluations: AtomicU64::new(0), gate: Mutex::new(gate) });
        let readiness = Readiness::new(checks.clone());
        let evaluations = || checks.evaluations.load(Ordering::SeqCst);
        let (first, wakes) = (readiness.clone(), readiness.subscribe());
        let first = tokio::spawn(async move { first.current().await });
        while evaluations() < 2 {
            tokio::task::yield_now().await;
        }
        let mut crowd: Vec<_> = (0..100).map(|_| Box::pin(readiness.current())).collect();
        for caller in &mut crowd {
            assert!(caller.now_or_never().is_none());
        }
        drop(release);
        assert!(first.await.unwrap().contains(Purpose::Publish));
        for caller in crowd {
            assert!(caller.await.contains(Purpose::Publish));
        }
        for _ in 0..100 {
            assert!(readiness.current().await.contains(Purpose::Publish));
        }
        assert_eq!(evaluations(), 2, "one for all of them");
        tokio::time::advance(REUSED_FOR).await;
        readiness.current().await;
        assert_eq!(evaluations(), 3, "later callers get a newer one");
        assert!(!wakes.has_changed().unwrap(), "watchers heard of no change");
    }

    #[tokio::test(start_paused = true)]
    async fn no_caller_gets_a_result_from_before_the_drain() {
        let fake =
            Arc::new(Fake { now_unix_s: AtomicI64::new(5), writable: AtomicBool::new(true) });
        let readiness = Readiness::new(Arc::new(fake));
        assert!(readiness.current().await.contains(Purpose::Read));
        readiness.drain();
        assert!(!readiness.current().await.contains(Purpose::Read));
    }

    #[test]
    fn a_condition_without_a_purpose_counts_for_all() {
        let condition = Condition {
            name: "x",
            purpose: None,
            met: false,
            since_unix_s: 0,
            reason: None,
            remedy: None,
        };
        assert_eq!(ReadyPurposes::of(std::slice::from_ref(&condition)), ReadyPurposes::default());
        let text = serde_json::to_string(&condition).unwrap();
        assert!(!text.contains("for"), "{text}");
    }
}
