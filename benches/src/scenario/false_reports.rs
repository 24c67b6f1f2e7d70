//! Publishing beside a flood of false reports of misbehaviour, and without, in turns.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::{EnvelopeId, OriginatorId, SecretKey, SequenceId};
use hawser_rules::misbehavior::MisbehaviorKind;
use hawser_rules::misbehavior::report::client_safety_report;
use prost::Message as _;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::Code;

use crate::error::BenchError;
use crate::micro::originator_bytes;
use crate::network::{Network, Node, node_key};
use crate::process;
use crate::rpc::{self, Connection};
use crate::scenario::publish;
use crate::stats::{self, verdict};
use crate::workload::Workload;

/// The promised share of publishes that the flood costs.
const LOSS_MAX: f64 = 0.05;
/// Different reports, which the callers send in turn. A guess: more than a node judges in a run.
const REPORTS: u64 = 4_000;
/// Callers at a time: twice as many as the submissions that may wait at a node.
const CALLERS: u32 = 64;
/// Submissions of one address. A node takes ten of an address in a minute, and refuses the others at once.
const PER_ADDRESS: u32 = 12;
/// The first address of a caller; others follow it. A node counts each IPv4 address as a site of its own.
const FIRST_ADDRESS: u32 = 0x7f10_0000;
/// Time after which a caller waits for an answer no longer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Time in which the node comes to rest between two measurements, and in which a flood begins.
const PAUSE: Duration = Duration::from_secs(2);

/// The parameters of a run.
pub(crate) struct Plan {
    pub(crate) publish: publish::Plan,
    pub(crate) rounds: u32,
    /// Submissions in a second, of all callers together.
    pub(crate) per_second: u32,
}

/// The figures of one way.
#[derive(Default)]
struct FloodFigures {
    per_second: Vec<f64>,
    p99_us: Vec<f64>,
    /// CPU time of an envelope in the node, microseconds, with all other work of the node.
    node_cpu_us: Vec<f64>,
}

/// Prints a line for each way, one for the flood, and the verdict. The ways change places from round to round, since a
/// machine may become slower meanwhile.
pub(crate) async fn run(plan: &Plan, hawser: &Path, data_dir: &Path) -> Result<(), BenchError> {
    // The second node is in the registry and never runs. The reports are about it.
    let network = Network::new(hawser, data_dir, 2)?;
    let node = network.start(0).await?;
    let caller = Caller::new(&node, network.id(1), plan)?;
    let mut ways = [FloodFigures::default(), FloodFigures::default()];
    let mut floods = FloodOutcome::default();
    for round in 0..plan.rounds {
        let first = usize::from(!round.is_multiple_of(2));
        for at in [first, 1 - first] {
            let flood = (at == 1).then(|| ReportFlood::start(caller.clone()));
            sleep(PAUSE).await;
            let published = publish::run(&plan.publish, &node, &[]).await;
            if let Some(flood) = flood {
                floods.add(&flood.stop()?);
            }
            let published = published?;
            ways[at].per_second.push(published.envelopes_per_second);
            ways[at].p99_us.push(published.latency.p99_us);
            ways[at].node_cpu_us.push(published.node_cpu_us.unwrap_or(f64::NAN));
        }
    }
    node.stop();
    print_ways(ways, &floods, plan.rounds)
}

/// Prints the figures.
///
/// # Errors
/// If the node has judged no report: then the flood has not reached what it is meant to load.
fn print_ways(
    ways: [FloodFigures; 2],
    floods: &FloodOutcome,
    rounds: u32,
) -> Result<(), BenchError> {
    let [alone, beside] =
        ways.map(|way| [way.per_second, way.p99_us, way.node_cpu_us].map(|it| stats::median(&it)));
    for (name, [per_second, p99_us, cpu_us]) in [("alone", alone), ("beside reports", beside)] {
        println!(
            "publishing {name}: {per_second:.0} envelopes/s, p99 {:.2} ms, {cpu_us:.1} us CPU of the node each \
             (medians of {rounds} rounds)",
            p99_us / 1e3
        );
    }
    let FloodOutcome { stored, refuted, limited, busy, late, failed, elapsed, cpu } = *floods;
    let sent = stored + refuted + limited + busy + late + failed;
    println!(
        "the flood: {:.0} reports/s, {stored} stored or known, {refuted} refuted, {limited} above the limit of an \
         address, {busy} above that of the node, {late} without an answer in time, {failed} failed; its own work took \
         {:.0} % of a core",
        stats::per_second(sent, elapsed),
        100.0 * cpu.as_secs_f64() / elapsed.as_secs_f64()
    );
    if stored + refuted == 0 {
        return Err("the node has judged none of the reports".into());
    }
    let loss = 1.0 - beside[0] / alone[0];
    let (promised, kept) = (100.0 * LOSS_MAX, verdict(loss < LOSS_MAX));
    println!("promised: less than {promised:.0} % fewer publishes: {kept}, {:.1} %", 100.0 * loss);
    Ok(())
}

/// Returns encoded submissions of well-formed reports, each about other places. One half has a statement with the
/// signature of another key, which a judge refutes. The other half claims a gap between two honest envelopes, which a
/// judge has to store.
fn false_reports(accused: OriginatorId, payload_len: usize) -> Result<Vec<Bytes>, BenchError> {
    let now_ns = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let (key, forger) = (node_key(accused)?, SecretKey::from_bytes(&[7; 32])?);
    let workload = Workload::new(accused, 1, 2 * REPORTS, payload_len, [0; 32])?;
    let envelope = |place: u64, topic: u64, key: &SecretKey| -> Result<Bytes, BenchError> {
        let id = EnvelopeId::new(accused, SequenceId(place));
        Ok(originator_bytes(id, now_ns, &workload.on_topic(topic)?, key))
    };
    let submission = |number: u64| -> Result<Bytes, BenchError> {
        let (place, topic) = (4 * number + 1, 2 * number);
        let (kind, other) = match number % 2 {
            0 => (MisbehaviorKind::DuplicateSequenceId, envelope(place, topic + 1, &forger)?),
            _ => (MisbehaviorKind::OutOfOrder, envelope(place + 2, topic + 1, &key)?),
        };
        let both = [envelope(place, topic, &key)?, other];
        let report = client_safety_report(u64::try_from(now_ns)?, accused, kind, &both)?;
        let request = api::SubmitMisbehaviorReportRequest { report: Some(report.into_message()) };
        Ok(request.encode_to_vec().into())
    };
    (0..REPORTS).map(submission).collect()
}

/// A flood that runs until it is stopped, on a thread of its own.
struct ReportFlood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<FloodOutcome, BenchError>>,
}

/// The answers to the submissions of a flood.
#[derive(Debug, Clone, Copy, Default)]
struct FloodOutcome {
    /// Kept by the node, or known to it.
    stored: u64,
    refuted: u64,
    /// Refused because of the number of reports from the address.
    limited: u64,
    /// Refused because too many submissions wait.
    busy: u64,
    /// Without an answer within [`ANSWER_MAX`].
    late: u64,
    /// Failed in another way, or no connection was made.
    failed: u64,
    elapsed: Duration,
    /// CPU time of the flood's own thread.
    cpu: Duration,
}

impl FloodOutcome {
    fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.refuted += other.refuted;
        self.limited += other.limited;
        self.busy += other.busy;
        self.late += other.late;
        self.failed += other.failed;
        self.elapsed += other.elapsed;
        self.cpu += other.cpu;
    }
}

impl ReportFlood {
    fn start(caller: Caller) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let caller = Caller { stop: stop.clone(), ..caller };
        Self { stop, thread: std::thread::spawn(move || flood(&caller)) }
    }

    /// Ends the flood and returns what was answered.
    fn stop(self) -> Result<FloodOutcome, BenchError> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the flood has panicked")?
    }
}

/// Has all callers submit until the end of the flood.
fn flood(caller: &Caller) -> Result<FloodOutcome, BenchError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (began, cpu) = (Instant::now(), process::thread_cpu_time()?);
    let answers = runtime.block_on(async {
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            callers.spawn(caller.clone().run(number));
        }
        callers.join_all().await
    });
    let mut outcome = FloodOutcome::default();
    answers.iter().for_each(|of_caller| outcome.add(of_caller));
    outcome.elapsed = began.elapsed();
    outcome.cpu = process::thread_cpu_time()?.saturating_sub(cpu);
    Ok(outcome)
}

/// One caller of a flood. Clones share the addresses and the reports that come next.
#[derive(Clone)]
struct Caller {
    node: SocketAddr,
    submissions: Arc<Vec<Bytes>>,
    next_submission: Arc<AtomicUsize>,
    next_address: Arc<AtomicU32>,
    /// Time between two submissions of this caller.
    every: Duration,
    stop: Arc<AtomicBool>,
}

impl Caller {
    fn new(node: &Node, accused: OriginatorId, plan: &Plan) -> Result<Self, BenchError> {
        let submissions = false_reports(accused, plan.publish.shape.payload_len)?;
        Ok(Self {
            node: node.api(),
            submissions: Arc::new(submissions),
            next_submission: Arc::default(),
            next_address: Arc::default(),
            every: Duration::from_secs(u64::from(CALLERS)) / plan.per_second.max(1),
            stop: Arc::default(),
        })
    }

    /// Submits reports at an even pace, with another address after every few of them.
    async fn run(self, number: u32) -> FloodOutcome {
        let mut outcome = FloodOutcome::default();
        sleep(self.every * number / CALLERS).await;
        let mut due = interval(self.every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut connection, mut submitted) = (None, 0);
        while !self.stop.load(Ordering::Relaxed) {
            due.tick().await;
            if connection.is_none() || submitted == PER_ADDRESS {
                (connection, submitted) = (self.connect().await, 0);
            }
            submitted += 1;
            match &mut connection {
                Some(connection) => self.submit(connection, &mut outcome).await,
                None => outcome.failed += 1,
            }
        }
        outcome
    }

    /// Connects from an address that no caller has had.
    async fn connect(&self) -> Option<Connection> {
        let number = self.next_address.fetch_add(1, Ordering::Relaxed) % 0x00e0_0000;
        let from = Ipv4Addr::from(FIRST_ADDRESS + number);
        let opened = timeout(ANSWER_MAX, Connection::open_from(self.node, Some(from.into())));
        opened.await.ok()?.ok()
    }

    async fn submit(&self, connection: &mut Connection, outcome: &mut FloodOutcome) {
        let at = self.next_submission.fetch_add(1, Ordering::Relaxed) % self.submissions.len();
        let call = connection.call(rpc::SUBMIT_REPORT, self.submissions[at].clone());
        let count = match timeout(ANSWER_MAX, call).await {
            Err(_) => &mut outcome.late,
            Ok(Ok(_)) => &mut outcome.stored,
            Ok(Err(status)) => match status.code() {
                Code::InvalidArgument => &mut outcome.refuted,
                Code::ResourceExhausted => &mut outcome.limited,
                Code::Unavailable => &mut outcome.busy,
                _ => &mut outcome.failed,
            },
        };
        *count += 1;
    }
}
