//! Metrics of the engine. The service that exports them chooses names and labels.
//!
//! Counters, gauges and histograms are those of `prometheus-client`. Its histogram takes a short lock: measured with
//! 14 bounds, an observation costs 30 ns instead of the 20 ns of plain atomics, and a publish makes five of them.

use std::ops::Deref;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use hawser_proto::StatementDifference;
use hawser_rules::misbehavior::MisbehaviorKind;
use hawser_storage::Misbehavior;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::histogram::Histogram;

/// A level that never goes below 0.
pub type Gauge = prometheus_client::metrics::gauge::Gauge<u64, AtomicU64>;

/// Upper bounds of [`DurationHistogram`], seconds. A guess: from a read out of the cache to a disk that hangs.
const DURATION_BOUNDS_S: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// A histogram of durations in seconds.
#[derive(Debug)]
pub struct DurationHistogram(Histogram);

/// A histogram of the durations of a stage of publishing, in seconds, with bounds of its own.
#[derive(Debug)]
pub struct StageHistogram(DurationHistogram);

/// Returns the upper bounds of the stages of publishing, seconds. Up to a second they are those of the reference
/// implementation, so that nodes of both kinds can be summed; it has no finer and no coarser ones.
fn stage_bounds_s() -> Vec<f64> {
    let finer = DURATION_BOUNDS_S.into_iter().filter(|bound| *bound <= 0.005);
    let hundredths = (1..=30).chain((35..=100).step_by(5)).map(|it| f64::from(it) / 100.0);
    let coarser = DURATION_BOUNDS_S.into_iter().filter(|bound| *bound > 1.0);
    finer.chain(hundredths).chain(coarser).collect()
}

impl Default for DurationHistogram {
    fn default() -> Self {
        Self(Histogram::new(DURATION_BOUNDS_S))
    }
}

impl Default for StageHistogram {
    fn default() -> Self {
        Self(DurationHistogram(Histogram::new(stage_bounds_s())))
    }
}

impl Deref for StageHistogram {
    type Target = DurationHistogram;

    fn deref(&self) -> &DurationHistogram {
        &self.0
    }
}

impl DurationHistogram {
    /// Adds one observation.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }

    /// Returns the histogram for an export.
    #[must_use]
    pub fn histogram(&self) -> &Histogram {
        &self.0
    }
}

/// Upper bounds of [`SizeHistogram`]: powers of 2 up to the largest group that is committed at once.
const SIZE_BOUNDS: [f64; 13] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// A histogram of the sizes of groups.
#[derive(Debug)]
pub struct SizeHistogram(Histogram);

impl Default for SizeHistogram {
    fn default() -> Self {
        Self(Histogram::new(SIZE_BOUNDS))
    }
}

impl SizeHistogram {
    /// Adds one observation.
    pub fn observe(&self, size: u64) {
        self.0.observe(size as f64);
    }

    /// Returns the histogram for an export.
    #[must_use]
    pub fn histogram(&self) -> &Histogram {
        &self.0
    }
}

/// A stopwatch for one duration, or for stages that follow one another.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Observes the time since the start or the last lap, and starts the next lap.
    pub(crate) fn lap(&mut self, seconds: &DurationHistogram) {
        self.lap_at(Self::start(), seconds);
    }

    /// Ends a lap as [`lap`](Self::lap) does, at a moment at which many laps end: the clock is read once for them.
    pub(crate) fn lap_at(&mut self, now: Self, seconds: &DurationHistogram) {
        seconds.observe(now.0.saturating_duration_since(self.0));
        *self = now;
    }

    /// Returns the time since the start, or since the last lap.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Creates a stopwatch that was started `ago`.
    #[cfg(test)]
    pub(crate) fn started(ago: Duration) -> Self {
        Self(Instant::now() - ago)
    }
}

/// Metrics of an operation on the store.
#[derive(Debug, Default)]
pub struct Operation {
    /// Durations of all operations, failed ones too.
    pub seconds: DurationHistogram,
    /// Number of operations that returned an error.
    pub errors: Counter,
}

impl Operation {
    /// Runs `operation` and counts it.
    ///
    /// # Errors
    /// The errors of `operation`.
    pub fn measure<T, E>(&self, operation: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let mut watch = Stopwatch::start();
        let result = operation();
        watch.lap(&self.seconds);
        self.errors.inc_by(u64::from(result.is_err()));
        result
    }
}

/// Operations of readers, by kind.
#[derive(Debug, Default)]
pub struct ReadCounters {
    /// A page of topics, for a query.
    pub query_topics: Operation,
    /// A page of strands, for a query.
    pub query_originators: Operation,
    /// The newest envelopes of topics.
    pub newest: Operation,
    /// The inboxes of addresses.
    pub inboxes: Operation,
    /// The usage of a payer.
    pub usage: Operation,
    /// A page for a stream.
    pub stream_page: Operation,
}

/// Streams to readers.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Bytes in the queues of streams, counted once for each stream.
    pub waiting_bytes: Gauge,
    /// Events that streams have been woken for: envelopes in their queues, and pages.
    pub wakeups: Counter,
    /// Moves of a slow stream from its queue back to disk.
    pub demotions: Counter,
}

/// Outcomes of identity updates since the start.
#[derive(Debug, Default)]
pub struct IdentityCounters {
    /// Updates judged valid, which readers get.
    pub valid: Counter,
    /// Updates judged invalid, which readers never get.
    pub invalid: Counter,
    /// Identity updates among them whose contract wallet could not be asked in time.
    pub unanswered: Counter,
    /// Inboxes with updates that are not judged yet.
    pub inboxes_waiting: Gauge,
}

/// Checkpoints that peers have shown since the start.
#[derive(Debug, Default)]
pub struct CheckpointExchangeCounters {
    /// Checkpoints that agree with this node's tree and are newer than the last one.
    pub agreed: Counter,
    /// Checkpoints whose root differs from this node's tree.
    pub differing: Counter,
    /// Checkpoints that contradict an earlier one of the same node.
    pub contradicting: Counter,
    /// Checkpoints of nodes that the registry does not have, or about strands that are not watched.
    pub unknown: Counter,
    /// Checkpoints and cosignatures that the named node has not signed.
    pub forged: Counter,
    /// Checkpoints beyond a peer's allowance.
    pub dropped: Counter,
    /// Cosignatures that this node has given.
    pub cosigned: Counter,
    /// Nodes' checkpoints of a strand that could not be read on this node's disk, each node and strand once.
    pub unreadable: Counter,
}

/// Scrubs since the start.
#[derive(Debug, Default)]
pub struct ScrubCounters {
    /// Bytes of rows that were read back.
    pub bytes: Counter,
    /// Damaged parts that were found.
    pub damages: Counter,
    /// Damaged parts that were put back.
    pub repaired: Counter,
    /// Damaged parts that the last scrub has left.
    pub left: Gauge,
    /// End of the last scrub, unix seconds; 0 before.
    pub finished_unix_s: Gauge,
}

/// Reports that this node has made of others that do not answer, since the start.
#[derive(Debug, Default)]
pub struct LivenessCounters {
    /// Reports about nodes without a connection, or with claims and without envelopes.
    pub unresponsive: Counter,
    /// Reports about nodes that were behind with their own strand for long.
    pub slow: Counter,
    /// Reports about nodes that answered requests with errors of their own.
    pub failed: Counter,
}

/// The kinds of misbehaviour that reports name, in the order of the schema. The first one counts every kind that
/// this version does not know.
const REPORTED_KINDS: [MisbehaviorKind; 9] = [
    MisbehaviorKind::Unspecified,
    MisbehaviorKind::UnresponsiveNode,
    MisbehaviorKind::SlowNode,
    MisbehaviorKind::FailedRequest,
    MisbehaviorKind::OutOfOrder,
    MisbehaviorKind::DuplicateSequenceId,
    MisbehaviorKind::CausalOrdering,
    MisbehaviorKind::InvalidPayload,
    MisbehaviorKind::BlockchainInconsistency,
];

/// Reports of misbehaviour that were stored since the start, by kind.
#[derive(Debug, Default)]
pub struct ReportsByKind([Counter; REPORTED_KINDS.len()]);

impl ReportsByKind {
    /// Counts one report.
    pub(crate) fn count(&self, kind: MisbehaviorKind) {
        let known = REPORTED_KINDS.iter().position(|reported| *reported == kind);
        self.0[known.unwrap_or(0)].inc();
    }

    /// Returns the number of reports of each kind, with the name of the kind in the schema.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counters = REPORTED_KINDS.iter().zip(&self.0);
        counters.map(|(kind, counter)| (kind.as_str_name(), counter.get()))
    }
}

/// The faults of a node that has signed two statements, each with the name of what differs. Of a pruned place only the
/// leaf is left, and of a tree only its root: an originator that waits for pruning, or shows two trees, is counted too.
const SECOND_STATEMENTS: [(Misbehavior, &str); 6] = [
    (
        Misbehavior::TwoStatements(StatementDifference::Encoding),
        StatementDifference::Encoding.name(),
    ),
    (
        Misbehavior::TwoStatements(StatementDifference::Metadata),
        StatementDifference::Metadata.name(),
    ),
    (Misbehavior::TwoStatements(StatementDifference::Content), StatementDifference::Content.name()),
    (Misbehavior::OtherLeaf, "leaf"),
    (Misbehavior::OtherThanPruned, "pruned"),
    (Misbehavior::TwoCheckpoints, "checkpoint"),
];

/// Second statements of nodes that were found since the start, by what differs.
#[derive(Debug, Default)]
pub struct SecondStatementCounters([Counter; SECOND_STATEMENTS.len()]);

impl SecondStatementCounters {
    /// Counts a fault that was recorded, if it is a second statement.
    pub(crate) fn count(&self, fault: Misbehavior) {
        let place = SECOND_STATEMENTS.iter().position(|(counted, _)| *counted == fault);
        if let Some(place) = place {
            self.0[place].inc();
        }
    }

    /// Returns the number of second statements of each kind, with the name of what differs.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counters = SECOND_STATEMENTS.iter().zip(&self.0);
        counters.map(|((_, difference), counter)| (*difference, counter.get()))
    }
}

/// Requests for cosignatures to the witnesses that the operator names, since the start.
#[derive(Debug, Default)]
pub struct WitnessCounters {
    /// Cosignatures that the witness's key has made.
    pub cosigned: Counter,
    /// Rounds that ended with anything else.
    pub failed: Counter,
}

/// All metrics of the engine.
#[derive(Debug, Default)]
pub struct Counters {
    /// Envelopes sequenced here and acknowledged.
    pub published: Counter,
    /// Envelopes answered with the result of an earlier publish.
    pub replayed: Counter,
    /// Publish requests refused for their content.
    pub refused: Counter,
    /// Publish requests refused for the node's own state.
    pub unavailable: Counter,
    /// Envelopes in one synced write to the log.
    pub group_envelopes: SizeHistogram,
    /// Synced writes to the log, from handing over to durable.
    pub commit: Operation,
    /// Pages of a strand for a peer.
    pub strand_page: Operation,
    /// Publishes, from request to acknowledgement.
    pub publish_seconds: StageHistogram,
    /// Stage admit: from request to checked envelopes.
    pub admit_seconds: StageHistogram,
    /// Stage sequence: until the envelopes have sequence ids and signatures.
    pub sequence_seconds: StageHistogram,
    /// Stage commit: from signing to durable commit.
    pub commit_seconds: StageHistogram,
    /// Stages sequence and commit together: from checked envelopes to durable commit.
    pub admitted_seconds: StageHistogram,
    /// Envelopes of other nodes that were stored and marked invalid.
    pub invalid: Counter,
    /// Invalid envelopes that readers were shown before verification, and get no more.
    pub withdrawn: Counter,
    /// Checkpoints signed since the start.
    pub checkpoints: Counter,
    /// Checkpoints that peers show.
    pub checkpoint_exchange: CheckpointExchangeCounters,
    /// Envelopes that the disk has damaged, so that they were compared with no other one and recorded as no evidence.
    pub evidence_unreadable: Counter,
    /// Second statements of nodes, as they are recorded.
    pub second_statements: SecondStatementCounters,
    /// Reports of nodes that do not answer.
    pub liveness: LivenessCounters,
    /// Reports of misbehaviour that this node has made and stored.
    pub reports_made: ReportsByKind,
    /// Reports of misbehaviour that callers have submitted and this node has stored.
    pub reports_submitted: ReportsByKind,
    /// Requests to witnesses.
    pub witnesses: WitnessCounters,
    /// Places of strands that their trees do not cover, for any reason.
    pub tree_leaves_behind: Gauge,
    /// Envelopes pruned since the start.
    pub pruned: Counter,
    /// Lengths of these envelopes together, bytes.
    pub pruned_bytes: Counter,
    /// Envelopes that could go and are still held, as of the last run of pruning.
    pub prune_backlog: Gauge,
    /// Scrubs of the disk.
    pub scrub: ScrubCounters,
    /// Identity updates of the chain.
    pub identities: IdentityCounters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_report_is_counted_by_itself() {
        let counted = ReportsByKind::default();
        counted.count(MisbehaviorKind::OutOfOrder);
        counted.count(MisbehaviorKind::BlockchainInconsistency);
        counted.count(MisbehaviorKind::BlockchainInconsistency);
        counted.count(MisbehaviorKind::Unspecified);
        let found: Vec<_> = counted.all().filter(|(_, count)| *count > 0).collect();
        assert_eq!(
            found,
            [
                ("MISBEHAVIOR_UNSPECIFIED", 1),
                ("MISBEHAVIOR_OUT_OF_ORDER", 1),
                ("MISBEHAVIOR_BLOCKCHAIN_INCONSISTENCY", 2)
            ]
        );
        assert_eq!(counted.all().count(), 9);
    }

    /// An alert names some of the kinds.
    #[test]
    fn second_statements_are_counted_by_what_differs_and_other_faults_are_not() {
        let counted = SecondStatementCounters::default();
        for fault in [
            Misbehavior::TwoStatements(StatementDifference::Content),
            Misbehavior::OtherLeaf,
            Misbehavior::OtherLeaf,
            Misbehavior::TwoCheckpoints,
            Misbehavior::TwoObservations,
            Misbehavior::OtherTree,
            Misbehavior::TimeBack,
        ] {
            counted.count(fault);
        }
        let expected = [
            ("encoding", 0),
            ("metadata", 0),
            ("content", 1),
            ("leaf", 2),
            ("pruned", 0),
            ("checkpoint", 1),
        ];
        assert_eq!(counted.all().collect::<Vec<_>>(), expected);
    }

    /// A dashboard names bounds, and sums nodes of both kinds bound by bound.
    #[test]
    fn stages_have_the_bounds_of_the_reference_up_to_a_second() {
        let bounds = stage_bounds_s();
        assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        let reference: Vec<_> = bounds.iter().filter(|it| (0.005..=1.0).contains(*it)).collect();
        assert_eq!(reference.len(), 1 + 30 + 14);
        for bound in [0.005, 0.01, 0.02, 0.07, 0.29, 0.3, 0.35, 0.95, 1.0] {
            assert!(bounds.contains(&bound), "{bound} is not in {bounds:?}");
        }
        let stage = StageHistogram::default();
        stage.observe(Duration::from_millis(300));
        assert!(format!("{stage:?}").contains("(0.3, 1)"), "{stage:?}");
    }

    #[test]
    fn an_operation_that_fails_is_counted_as_both() {
        let operation = Operation::default();
        assert_eq!(operation.measure(|| Ok::<_, ()>(7)), Ok(7));
        assert_eq!(operation.measure(|| Err::<(), _>("no")), Err("no"));
        assert!(format!("{:?}", operation.seconds).contains("count: 2"), "{operation:?}");
        assert_eq!(operation.errors.get(), 1);
    }
}
