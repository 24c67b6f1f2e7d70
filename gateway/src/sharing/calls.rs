//! The calls of Redis by which requests read and write the shared state. Requests that come at the same time share
//! a call.
//!
//! If no call is under way, a call is made at once. Requests that come meanwhile wait for its answer, but at most
//! [`GATHER_MAX`], and share the next call. So a busy gateway makes fewer calls than it has requests, and the round
//! trip to a distant Redis adds no queueing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use hawser_chain::redis_link::{CallTimeLimits, RedisLink, RedisLinkError, number};
use hawser_proto::one_line;
use hawser_serve::metrics::Counter;
use parking_lot::Mutex;
use redis::{FromRedisValue, Value};
use tokio::time::timeout;

use super::scripts;

/// Pause in which Redis is not asked after a failure, ms. A guess.
const PAUSE_MS: u64 = 1000;
/// Time after which the next call is made although the one before it has no answer. A guess: short compared with a
/// publish, and a Redis in the same data centre answers sooner.
const GATHER_MAX: Duration = Duration::from_millis(1);
/// Largest number of keys and arguments in a call of several groups; a larger group goes alone. A guess: about 100
/// requests, which block Redis for a few milliseconds.
const CALL_WORDS_MAX: usize = 4000;
/// Largest number of keys and arguments that wait for the next calls; further groups are dropped. A guess: about 50
/// MB, and more than requests ask within the time for an answer.
const QUEUED_WORDS_MAX: usize = 500_000;
/// Largest number of keys and arguments of calls whose late answers are awaited; late answers to further calls are
/// lost. A guess: about 20 MB, of some thousand requests.
const LATE_WORDS_MAX: usize = 200_000;
/// The largest answer of the Redis that gateways share, in bytes; for the link that a gateway is started with.
/// Calculated: a call has some thousand keys and arguments, and an answer has at most 200 bytes for each. Several late
/// answers may be awaited at a time, so a higher bound would add up.
pub const REDIS_ANSWER_LEN_BYTES_MAX: usize = 4 << 20;
/// The code with which a Redis that is a replica refuses to write. Specified: replication of Redis.
const REPLICA_CODE: &[u8] = b"READONLY";
/// Time for which a late answer is awaited. A guess: a Redis that does not answer for longer has been replaced.
const LATE_ANSWER_MAX: Duration = Duration::from_secs(60);

/// One operation of [`scripts::CALL`].
#[derive(Debug)]
pub(super) struct SharedOp {
    pub(super) name: &'static str,
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<Vec<u8>>,
}

/// The answer to an operation; `None` if the operation failed.
pub(super) type OpAnswer = Option<Value>;

/// Converts an answer; `None` if the operation failed or the answer has another form.
pub(super) fn read<T: FromRedisValue>(answer: OpAnswer) -> Option<T> {
    redis::from_redis_value(answer?).ok()
}

/// Returns true if an operation failed because this Redis is a replica: after a failover, the connection may still lead
/// to the former primary.
fn is_of_replica(answer: &Value) -> bool {
    match answer {
        Value::BulkString(text) => {
            text.windows(REPLICA_CODE.len()).any(|part| part == REPLICA_CODE)
        }
        _ => false,
    }
}

/// Receives the answers, one for each operation. It is dropped without a call if Redis is not asked or never
/// answers.
type AnswerReceiver = Box<dyn FnOnce(Vec<OpAnswer>) + Send>;

/// Operations that one call has to carry together, with the receiver of their answers, which may come late.
struct OpGroup {
    ops: Vec<SharedOp>,
    hear: AnswerReceiver,
    /// The group is sent in pauses as well.
    is_urgent: bool,
}

impl OpGroup {
    fn words(&self) -> usize {
        self.ops.iter().map(|op| op.keys.len() + op.arguments.len() + 3).sum()
    }
}

#[derive(Default)]
struct CallQueue {
    groups: VecDeque<OpGroup>,
    /// Number of keys and arguments of all groups.
    words: usize,
    /// A task is running that makes calls until no group is left.
    is_sending: bool,
}

impl CallQueue {
    /// Adds a group. Returns false, and drops it, beyond [`QUEUED_WORDS_MAX`].
    fn push(&mut self, group: OpGroup) -> bool {
        let words = self.words.saturating_add(group.words());
        let has_room = words <= QUEUED_WORDS_MAX;
        if has_room {
            self.words = words;
            self.groups.push_back(group);
        }
        has_room
    }

    /// Removes the groups of the next call, oldest first.
    fn next(&mut self) -> Vec<OpGroup> {
        let (mut next, mut words) = (Vec::new(), 0);
        while let Some(group) = self.groups.front() {
            let of_group = group.words();
            if words + of_group > CALL_WORDS_MAX && !next.is_empty() {
                break;
            }
            words += of_group;
            next.extend(self.groups.pop_front());
        }
        self.words -= words;
        next
    }
}

/// The calls of a gateway to Redis for one payer.
pub(super) struct SharedCalls {
    link: Arc<RedisLink>,
    /// Time for which a request waits for an answer.
    answer_max: Duration,
    /// Counts the calls that fail.
    failures: Counter,
    queue: Mutex<CallQueue>,
    since: Instant,
    /// The end of the pause after the last failure, ms after `since`; 0 if calls succeed.
    paused_until_ms: AtomicU64,
    /// True once an operation has failed. Only the first failure is logged.
    has_failed: AtomicBool,
    /// Number of keys and arguments of calls whose late answers are awaited.
    late_words: AtomicUsize,
}

impl fmt::Debug for SharedCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedCalls({:?})", self.link)
    }
}

impl SharedCalls {
    /// Makes calls through this link. A request waits at most `answer_max` for an answer.
    pub(super) fn new(link: Arc<RedisLink>, answer_max: Duration, failures: Counter) -> Self {
        Self {
            link,
            answer_max,
            failures,
            queue: Mutex::default(),
            since: Instant::now(),
            paused_until_ms: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            late_words: AtomicUsize::new(0),
        }
    }

    /// Returns a key of this name, with the prefix of the link.
    pub(super) fn key(&self, name: &str) -> String {
        self.link.key(name)
    }

    /// Returns the time for an answer, after which a request continues without it.
    pub(super) fn answer_max(&self) -> Duration {
        self.answer_max
    }

    /// Sends operations, unless calls are paused.
    pub(super) fn ask(
        self: &Arc<Self>,
        ops: Vec<SharedOp>,
        hear: impl FnOnce(Vec<OpAnswer>) + Send + 'static,
    ) {
        if !self.is_paused() {
            self.enqueue(OpGroup { ops, hear: Box::new(hear), is_urgent: false });
        }
    }

    /// Sends a correction of the counts, in pauses as well: otherwise Redis would count envelopes that were not
    /// published. Returns the time for which the answer is worth waiting for; zero in a pause.
    pub(super) fn tell(
        self: &Arc<Self>,
        ops: Vec<SharedOp>,
        hear: impl FnOnce(Vec<OpAnswer>) + Send + 'static,
    ) -> Duration {
        let wait = if self.is_paused() { Duration::ZERO } else { self.answer_max };
        self.enqueue(OpGroup { ops, hear: Box::new(hear), is_urgent: true });
        wait
    }

    fn enqueue(self: &Arc<Self>, group: OpGroup) {
        {
            let mut queue = self.queue.lock();
            if !queue.push(group) || std::mem::replace(&mut queue.is_sending, true) {
                return;
            }
        }
        tokio::spawn(self.clone().send_all());
    }

    /// Makes calls until no group is left.
    async fn send_all(self: Arc<Self>) {
        loop {
            let groups = {
                let mut queue = self.queue.lock();
                let groups = queue.next();
                if groups.is_empty() {
                    queue.is_sending = false;
                    return;
                }
                groups
            };
            let mut call = Box::pin(self.clone().call(groups));
            // Groups that come while this call is under way share the next one.
            if timeout(GATHER_MAX, &mut call).await.is_err() {
                tokio::spawn(call);
            }
        }
    }

    /// Makes one call, and passes its answers to the groups.
    async fn call(self: Arc<Self>, mut groups: Vec<OpGroup>) {
        if self.is_paused() {
            groups.retain(|group| group.is_urgent);
        }
        let (mut keys, mut arguments, mut hearing) = (Vec::new(), Vec::new(), Vec::new());
        for OpGroup { ops, hear, .. } in groups {
            hearing.push((ops.len(), hear));
            for op in ops {
                let counts = [op.keys.len(), op.arguments.len()];
                arguments.push(op.name.into());
                arguments.extend(counts.map(|count| number(count as u64)));
                keys.extend(op.keys);
                arguments.extend(op.arguments);
            }
        }
        if hearing.is_empty() {
            return;
        }
        // Beyond `LATE_WORDS_MAX` a late answer is not awaited, so the memory of calls that a hung Redis holds is
        // bounded.
        let limit = CallTimeLimits { answer: self.answer_max, late_answer: LATE_ANSWER_MAX };
        let (words, mut is_late) = (keys.len() + arguments.len(), false);
        let is_awaited = |error: &RedisLinkError| {
            self.pause(error);
            is_late = true;
            self.late_words.fetch_add(words, Relaxed) + words <= LATE_WORDS_MAX
        };
        let answer: Result<Vec<Value>, RedisLinkError> = self
            .link
            .eval_with_late_answer(limit, scripts::CALL, &keys, &arguments, is_awaited)
            .await;
        if is_late {
            self.late_words.fetch_sub(words, Relaxed);
        }
        match answer {
            Ok(answers) => {
                if answers.iter().any(is_of_replica) {
                    self.link.forget_connection();
                    self.pause(&"it is a replica, which takes no changes");
                } else if !is_late {
                    self.resume();
                }
                self.pass_on(answers, hearing);
            }
            // No pause: Redis is up and has refused this call, and the next one may succeed.
            Err(error) if error.is_answer() => self.refused(&error.to_string()),
            Err(error) if !is_late => self.pause(&error),
            Err(_) => {} // the pause began when the answer became late
        }
    }

    fn pass_on(&self, answers: Vec<Value>, hearing: Vec<(usize, AnswerReceiver)>) {
        let mut answers = answers.into_iter();
        for (count, hear) in hearing {
            let of_group = answers.by_ref().take(count).map(|answer| match answer {
                Value::Array(_) => Some(answer),
                refused => {
                    self.refused(&one_line(&format!("{refused:?}")));
                    None
                }
            });
            let mut of_group: Vec<OpAnswer> = of_group.collect();
            of_group.resize_with(count, || None);
            hear(of_group);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_paused(&self) -> bool {
        self.now_ms() < self.paused_until_ms.load(Relaxed)
    }

    fn pause(&self, error: &dyn fmt::Display) {
        self.failures.inc();
        if self.paused_until_ms.swap(self.now_ms() + PAUSE_MS, Relaxed) == 0 {
            tracing::warn!(code = "redis_gone", %error, "Redis does not answer: each gateway applies \
                 only its own limits until it does");
        }
    }

    fn resume(&self) {
        if self.paused_until_ms.load(Relaxed) > 0 && self.paused_until_ms.swap(0, Relaxed) > 0 {
            tracing::info!("Redis answers again: gateways share limits, topics and envelope ids");
        }
    }

    fn refused(&self, error: &str) {
        if !self.has_failed.swap(true, Relaxed) {
            tracing::warn!(code = "redis_refuses", %error, "Redis answers with an error: a request, a \
                 topic or an envelope id is not shared");
        }
    }
}

#[cfg(test)]
#[path = "../../../dial/tests/scripted_redis/mod.rs"]
mod scripted_redis;

#[cfg(test)]
mod tests {
    use hawser_chain::redis_link::RedisAccess;
    use tokio::sync::oneshot;

    use super::*;

    /// After a failover, the first connection leads to a replica, and the second one to the new primary.
    #[tokio::test]
    async fn a_redis_that_became_a_replica_is_left_for_the_one_at_its_address() {
        let url = scripted_redis::start(|name, connections| match (name, connections) {
            ("EVAL", 1) => {
                let text = "READONLY You can't write against a read only replica.";
                format!("*1\r\n${}\r\n{text}\r\n", text.len()).into_bytes()
            }
            ("EVAL", _) => b"*1\r\n*1\r\n:7\r\n".to_vec(),
            ("SCRIPT", _) => b"$3\r\nabc\r\n".to_vec(),
            _ => b"+PONG\r\n".to_vec(),
        });
        let long = Duration::from_secs(60);
        let access =
            RedisAccess { url: url.await, key_prefix: String::new(), connect_timeout: long };
        let link = RedisLink::connect(&access, REDIS_ANSWER_LEN_BYTES_MAX).await.unwrap();
        let failures = Counter::default();
        let calls = Arc::new(SharedCalls::new(Arc::new(link), long, failures.clone()));
        let tell = async || {
            let (sender, receiver) = oneshot::channel();
            let op = SharedOp { name: "adjust", keys: Vec::new(), arguments: Vec::new() };
            // In pauses as well.
            calls.tell(vec![op], move |answers| {
                let _ = sender.send(answers); // the test waits for them
            });
            receiver.await.unwrap()
        };
        assert_eq!(tell().await, [None::<Value>]);
        assert_eq!(failures.get(), 1);
        assert_eq!(tell().await, [Some(Value::Array(vec![Value::Int(7)]))]);
        assert_eq!(failures.get(), 1);
    }

    fn group(name: &'static str, arguments: usize) -> OpGroup {
        let op = SharedOp { name, keys: Vec::new(), arguments: vec![Vec::new(); arguments] };
        OpGroup { ops: vec![op], hear: Box::new(drop), is_urgent: false }
    }

    fn names(groups: &[OpGroup]) -> Vec<&'static str> {
        groups.iter().map(|group| group.ops[0].name).collect()
    }

    #[test]
    fn groups_that_wait_share_a_call_in_their_order_as_far_as_it_has_room() {
        let mut queue = CallQueue::default();
        let half = CALL_WORDS_MAX / 2;
        for (name, len) in [("a", 1), ("b", half), ("c", half), ("d", 9 * half), ("e", 0)] {
            assert!(queue.push(group(name, len)));
        }
        assert_eq!(names(&queue.next()), ["a", "b"]);
        assert_eq!(names(&queue.next()), ["c"]);
        assert_eq!(names(&queue.next()), ["d"], "a large one goes alone");
        assert_eq!(names(&queue.next()), ["e"]);
        assert!(queue.next().is_empty());
        assert_eq!(queue.words, 0);
    }

    #[test]
    fn what_waits_for_a_call_is_bounded() {
        let mut queue = CallQueue::default();
        let pushed = (0..).take_while(|_| queue.push(group("a", CALL_WORDS_MAX))).count();
        assert!(pushed * CALL_WORDS_MAX <= QUEUED_WORDS_MAX);
        queue.next();
        assert!(queue.push(group("a", CALL_WORDS_MAX)));
    }
}
