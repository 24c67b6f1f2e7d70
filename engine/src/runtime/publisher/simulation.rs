//! Publishing over a disk that hangs, fails and forgets, by seed.
//!
//! Real parts: the sequencing and the committing half of the path, each turn by turn; the committer; the
//! store, on RocksDB's memory environment; reading the log again. Simulated parts: the order of turns, in
//! which a sync that hangs is a committing half that has no turn; the outcome of each write; clients, who
//! repeat what they have published. A seed is a run.
//!
//! The test shows that no acknowledged id ever has other bytes or none, that one envelope has one id, and that
//! everything can be published once the disk works.

mod admissions;
mod groups;
mod large_requests;
mod look_ups;
mod thread_waits;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, LazyLock};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SecretKey, SequenceId};
use hawser_rules::{NodeRecord, PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable, Registry};
use hawser_storage::{ChainCommit, ChainPosition, Change, SkipReason, Store, WriteFault};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};

use super::PublishSettings;
use super::commit::{CommitThread, SignedGroup};
use super::error::PublishError;
use super::own_end::{self, OwnEnd};
use super::request::{InFlightShare, PendingReply, Published, Request};
use super::sequence::SequencerThread;
use super::size::PublishSize;
use super::state::PublisherState;
use crate::ports::{PayloadValidator, TrustingJudge};
use crate::read::testing::{self, Dice, StoppedClock};
use crate::runtime::chain::{ChainAppender, ChainAppenderParts};
use crate::runtime::chain_clock::ChainClock;
use crate::runtime::counters::{Counters, Stopwatch};
use crate::runtime::disk::Recovery;
use crate::runtime::own_clock::OwnClock;
use crate::runtime::own_strand::OwnStrand;
use crate::runtime::read::fan_out::FanOut;
use crate::runtime::read::hub::Hub;
use crate::runtime::{Committer, Heads, LedgerAppender, Ports, PublishCaller, Workers};
use crate::sequencer::Admitted;

/// Seeds of an ordinary run.
const SEEDS: u64 = 2_000;
/// Set this to try another number of them, as for the simulations in `tests`.
const COUNT_VARIABLE: &str = "HAWSER_SIM_SEEDS";
/// Set this to try one of them, as for the simulations in `tests`.
const VARIABLE: &str = "HAWSER_TEST_SEED";
/// Turns of one run.
const TURNS: u64 = 80;
/// Runs that use a store, one after the other. A guess: one opening in eight runs costs little, and deleted rows, which
/// RocksDB keeps in memory, stay few.
const STORE_RUNS_MAX: usize = 8;
/// Different envelopes that clients publish.
const ENVELOPES: usize = 24;
/// The size of a piece of a large request, so small that few envelopes make several pieces.
const PIECE: PublishSize = PublishSize { envelopes: 2, len_bytes: 1 << 20 };
/// Requests that may be in flight.
const IN_FLIGHT: usize = 1 << 20;
const NODE: OriginatorId = OriginatorId(100);
const START_NS: i64 = 1_750_000_000_000_000_000;
/// An application message of a group.
const CLIENT: &str = "0a13121100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa12250a230a210001000210aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000000000000101000000";

static ADMITTED: LazyLock<Vec<Admitted>> = LazyLock::new(|| {
    let payer = SecretKey::from_bytes(&[9; 32]).unwrap();
    let client = Bytes::from(hex::decode(CLIENT).unwrap());
    let admitted = |index| {
        let message = PayerEnvelope::sign(client.clone(), NODE, 30, &payer);
        Admitted {
            envelope: PayerEnvelope::from_message(message).unwrap(),
            payer: payer.public_key().address(),
            receipt: [index; 32],
            depends_on_ns: None,
        }
    };
    (0..ENVELOPES).map(|index| admitted(u8::try_from(index).unwrap())).collect()
});
static WORKERS: LazyLock<Workers> = LazyLock::new(|| Workers::start(2));

struct AnyPayload;

impl PayloadValidator for AnyPayload {
    fn key_package(&self, _: &Bytes) -> Result<(), String> {
        Ok(())
    }
}

/// The outcomes of the next writes.
struct Outcomes {
    dice: Dice,
    /// One in this number of writes fails; 0 for none.
    fails_one_in: u64,
}

impl Outcomes {
    fn next(&mut self) -> Option<WriteFault> {
        let fails = self.fails_one_in > 0 && self.dice.chance(self.fails_one_in);
        fails.then(|| *self.dice.pick(&[WriteFault::Lost, WriteFault::Kept]))
    }
}

/// The process: what a restart ends.
struct Process {
    heads: Heads,
    state: Arc<PublisherState>,
    sequencer: SequencerThread,
    committing: CommitThread,
    /// Groups that the sequencing half has handed over.
    handed: Receiver<SignedGroup>,
    /// Groups that the committing half finds at its next turn.
    ready: (Sender<SignedGroup>, Receiver<SignedGroup>),
    recovery: Recovery,
    requests: Vec<Request>,
    /// Requests that have to be looked up again before the next turn of the sequencing half.
    outdated: Vec<Request>,
    /// The requests for which that was done.
    looked_up: Receiver<Request>,
    in_flight: Arc<Semaphore>,
    awaited: Vec<Awaited>,
}

/// The answer to come.
type Answer = oneshot::Receiver<Result<Published, PublishError>>;

/// A request that a client waits for: its envelopes, and the answer.
type Awaited = (Vec<usize>, Answer);

impl Process {
    fn start(store: &Store) -> Self {
        let heads = Heads::new(store.snapshot().heads().unwrap());
        let counters = Arc::new(Counters::default());
        let fan_out = FanOut::start(Hub::new());
        let committer = Committer::new(store.clone(), [&heads, &heads], fan_out, counters.clone());
        let chain_clock = ChainClock::load(store.clone()).unwrap();
        let chain = ChainAppender::new(ChainAppenderParts {
            store: store.clone(),
            committer: committer.clone(),
            workers: WORKERS.clone(),
            clock: chain_clock.clone(),
            judge: Arc::new(TrustingJudge),
            counters: counters.clone(),
        });
        let recovery = Recovery {
            store: store.clone(),
            committer: committer.clone(),
            chain,
            ledger: LedgerAppender::new(store.clone()),
        };
        let ports = ports(store);
        let broken = Arc::new(AtomicBool::new(false));
        let stored = Arc::new(AtomicU64::new(0));
        let first = own_end::resume(store, NODE).unwrap();
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        let (to_sequencer, looked_up) = unbounded();
        let state = Arc::new(PublisherState {
            node: NODE,
            key: SecretKey::from_bytes(&[7; 32]).unwrap(),
            ports,
            store: store.clone(),
            heads: heads.clone(),
            workers: WORKERS.clone(),
            chain_clock,
            counters,
            in_flight: in_flight.clone(),
            line: Arc::default(),
            own_strand: OwnStrand::new(store.standing()),
            own_clock: OwnClock::default(),
            own_end: OwnEnd::default(),
            balances: None,
            payer_rates: None,
            draining: AtomicBool::new(false),
            broken: broken.clone(),
            stored: stored.clone(),
            rounds: AtomicU64::new(0),
            envelopes: Arc::default(),
            idempotent: true,
            to_sequencer: Mutex::new(Some(to_sequencer)),
        });
        let settings =
            PublishSettings { idempotent: true, require_balance: false, publishes_per_payer: None };
        let (to_committer, handed) = unbounded();
        Self {
            heads,
            sequencer: SequencerThread::new(state.clone(), settings, first, to_committer, PIECE),
            state,
            committing: CommitThread::new(committer, stored, broken, bounded(1).0),
            handed,
            ready: unbounded(),
            recovery,
            requests: Vec::new(),
            outdated: Vec::new(),
            looked_up,
            in_flight,
            awaited: Vec::new(),
        }
    }

    /// A request of a caller in a site of its own. It is large if it has more than three envelopes.
    fn request(&mut self, caller: usize, envelopes: Vec<usize>) {
        self.request_of(PublishCaller { site: caller, address: caller }, envelopes);
    }

    fn request_of(&mut self, caller: PublishCaller, envelopes: Vec<usize>) {
        let admitted = envelopes.iter().map(|&index| ADMITTED[index].clone()).collect();
        let answer = self.request_for(caller, admitted);
        self.awaited.push((envelopes, answer));
    }

    fn request_for(&mut self, caller: PublishCaller, envelopes: Vec<Admitted>) -> Answer {
        let (request, answer) = admitted(&self.state, caller, envelopes);
        self.requests.push(request);
        answer
    }

    fn sequence(&mut self, requests_max: usize) {
        self.look_up_again();
        let count = requests_max.min(self.requests.len());
        let mut size = PublishSize::default();
        let taken: Vec<Request> = self.requests.drain(..count).collect();
        let small = taken.into_iter().filter_map(|it| self.sequencer.take(it, &mut size));
        let small = small.collect();
        self.sequencer.sequence_group(small);
        self.outdated.extend(self.sequencer.take_outdated());
    }

    /// Does what other threads do for the sequencing half.
    fn look_up_again(&mut self) {
        for request in std::mem::take(&mut self.outdated) {
            self.state.look_up_again(request);
        }
        self.requests.extend(self.looked_up.try_iter());
    }

    fn commit(&mut self, groups_max: usize) {
        for group in self.handed.try_iter().take(groups_max) {
            self.ready.0.send(group).unwrap();
        }
        if let Ok(first) = self.ready.1.try_recv() {
            self.committing.commit(first, &self.ready.1);
        }
    }
}

/// A request that has been looked up. It may wait while groups are stored, or fail: what was looked up is then of
/// before.
fn admitted(
    state: &PublisherState,
    caller: PublishCaller,
    envelopes: Vec<Admitted>,
) -> (Request, Answer) {
    let (sender, answer) = oneshot::channel();
    let permit = state.in_flight.clone().try_acquire_owned().unwrap();
    let watch = Stopwatch::start();
    let in_flight = Arc::new(InFlightShare::of(permit));
    let reply = PendingReply::new(sender, in_flight, watch);
    let held = state.hold(envelopes.iter().map(|it| it.receipt));
    let earlier = state.look_up(held).unwrap();
    let is_large = envelopes.len() > 3;
    (Request { caller, is_large, envelopes, earlier, reply }, answer)
}

fn ports(store: &Store) -> Ports {
    let key = store.identity().public_key;
    let record = NodeRecord {
        id: NODE,
        public_key: key,
        owner: key.address(),
        http_address: Some("http://127.0.0.1:5050".into()),
        quic_address: None,
        canonical: true,
    };
    let registry = Arc::new([record].into_iter().collect::<Registry>());
    Ports {
        clock: Arc::new(StoppedClock(START_NS)),
        validator: Arc::new(AnyPayload),
        identities: Arc::new(TrustingJudge),
        registry: watch::channel(registry).1,
        rates: watch::channel(Arc::new(RateTable::new(vec![rate()], None).unwrap())).1,
    }
}

fn rate() -> Rate {
    Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(1000),
        storage_fee: PicoDollarsPerByteDay(3),
        congestion_fee: PicoDollarPrice(0),
        target_rate_per_minute: 0,
    }
}

/// A run.
struct Sim {
    dice: Dice,
    store: Store,
    outcomes: Arc<Mutex<Outcomes>>,
    process: Process,
    /// Everything that a client was promised.
    acknowledged: BTreeMap<SequenceId, Bytes>,
    ids: HashMap<usize, SequenceId>,
    /// Answers with an error, and times that the log was read again.
    refused: u64,
    reopened: u64,
    chain_block: u64,
}

impl Sim {
    fn new(seed: u64) -> Self {
        Self::over(testing::store(), seed)
    }

    /// A run over a store without rows.
    fn over(store: Store, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        store.record_rates(&[rate()]).unwrap();
        let fails_one_in = 3 + dice.below(12);
        let outcomes = Outcomes { dice: Dice::new(!seed), fails_one_in };
        let outcomes = Arc::new(Mutex::new(outcomes));
        let ours = outcomes.clone();
        store.set_write_faults(Some(Arc::new(move || ours.lock().next())));
        Self {
            dice,
            process: Process::start(&store),
            store,
            outcomes,
            acknowledged: BTreeMap::new(),
            ids: HashMap::new(),
            refused: 0,
            reopened: 0,
            chain_block: 0,
        }
    }

    fn turn(&mut self) {
        match self.dice.below(20) {
            0..=6 => {
                let count = match self.dice.chance(6) {
                    true => 4 + self.dice.index(9),
                    false => 1 + self.dice.index(3),
                };
                let envelopes = (0..count).map(|_| self.dice.index(ENVELOPES)).collect();
                let caller = self.dice.index(3);
                self.process.request(caller, envelopes);
            }
            7..=11 => {
                let count = 1 + self.dice.index(3);
                self.process.sequence(count);
            }
            12..=15 => {
                let count = 1 + self.dice.index(4);
                self.process.commit(count);
            }
            16 => self.commit_of_another_strand(),
            17 | 18 => self.recover(),
            _ if self.dice.chance(4) => self.restart(),
            _ => look_ups::begin_anew(&self.process.state),
        }
        self.take_answers();
    }

    /// Another writer meets the same disk.
    fn commit_of_another_strand(&mut self) {
        self.chain_block += 1;
        let position = ChainPosition { block: self.chain_block, hash: [1; 32] };
        let (originator, changes, resolved) = (OriginatorId(0), Vec::new(), Vec::new());
        let commit = ChainCommit { originator, changes, resolved, position: Some(position) };
        let _ = self.process.recovery.committer.commit_chain(commit);
    }

    fn recover(&mut self) {
        if self.store.is_poisoned() {
            self.process.recovery.run().unwrap();
            self.reopened += 1;
            self.check_log();
        }
    }

    /// Ends the process in the middle of everything, and starts another one.
    fn restart(&mut self) {
        self.outcomes.lock().fails_one_in = 1;
        self.commit_of_another_strand();
        self.outcomes.lock().fails_one_in = 3 + self.dice.below(12);
        self.process.recovery.run().unwrap();
        self.process = Process::start(&self.store);
        self.check_log();
    }

    fn take_answers(&mut self) {
        for (envelopes, mut answer) in std::mem::take(&mut self.process.awaited) {
            match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.process.awaited.push((envelopes, answer));
                }
                Err(oneshot::error::TryRecvError::Closed) | Ok(Err(_)) => self.refused += 1,
                Ok(Ok(published)) => self.acknowledge(&envelopes, published.envelopes),
            }
        }
    }

    fn acknowledge(&mut self, envelopes: &[usize], stored: Vec<Bytes>) {
        assert_eq!(envelopes.len(), stored.len());
        for (&envelope, bytes) in envelopes.iter().zip(stored) {
            let parsed = OriginatorEnvelope::parse(bytes.clone()).unwrap();
            let sequence = parsed.unsigned().id().sequence;
            let earlier = self.ids.insert(envelope, sequence);
            assert!(earlier.is_none_or(|it| it == sequence), "envelope {envelope} has two ids");
            let held = self.store.snapshot().get(EnvelopeId::new(NODE, sequence)).unwrap();
            assert_eq!(held.as_ref(), Some(&bytes), "{sequence} was acknowledged, and is not held");
            let earlier = self.acknowledged.insert(sequence, bytes.clone());
            assert!(earlier.is_none_or(|it| it == bytes), "{sequence} has two contents");
        }
    }

    /// Holds the log against everything that was promised.
    fn check_log(&self) {
        let snapshot = self.store.snapshot();
        for (&sequence, bytes) in &self.acknowledged {
            let held = snapshot.get(EnvelopeId::new(NODE, sequence)).unwrap();
            assert_eq!(held.as_ref(), Some(bytes), "{sequence} was acknowledged");
        }
        let head = snapshot.head(NODE).unwrap();
        let held = snapshot.log(EnvelopeId::new(NODE, SequenceId::NONE), head).count();
        assert_eq!(held as u64, head.0, "the strand is contiguous");
    }

    /// Repairs the simulated disk, and publishes everything again.
    fn settle(&mut self) {
        self.outcomes.lock().fails_one_in = 0;
        self.recover();
        for _ in 0..2 {
            // The first round may find groups on their way that have failed.
            for envelope in 0..ENVELOPES {
                self.process.request(0, vec![envelope]);
            }
            while !self.process.awaited.is_empty() {
                self.process.sequence(5);
                self.process.commit(usize::MAX);
                self.take_answers();
            }
        }
        assert_eq!(self.ids.len(), ENVELOPES, "everything can be published");
        assert!(self.process.state.envelopes.is_empty(), "what is answered is in flight no more");
        self.check_log();
        let announced = self.process.heads.get().get(NODE);
        assert_eq!(self.store.snapshot().head(NODE).unwrap(), announced, "peers are told of all");
    }
}

fn seeds() -> std::ops::Range<u64> {
    let number =
        |name| Some(std::env::var(name).ok()?.parse::<u64>().expect("the variable holds a number"));
    match number(VARIABLE) {
        Some(seed) => seed..seed + 1,
        None => 0..number(COUNT_VARIABLE).unwrap_or(SEEDS),
    }
}

/// The number of events in some runs.
#[derive(Default)]
struct Counts {
    acknowledged: u64,
    refused: u64,
    reopened: u64,
}

/// Runs one seed after the other.
fn run(seeds: impl Iterator<Item = u64>) -> Counts {
    let mut counts = Counts::default();
    let mut used: Option<Store> = None;
    for (runs, seed) in seeds.enumerate() {
        println!("seed {seed} (again with {VARIABLE}={seed})");
        // Opening a store is a good part of the time of a run.
        let used_again = used.take().filter(|_| !runs.is_multiple_of(STORE_RUNS_MAX));
        let emptied = used_again.and_then(|store| {
            let identity = store.identity().clone();
            store.emptied(identity)
        });
        let mut sim = Sim::over(emptied.unwrap_or_else(testing::store), seed);
        (0..TURNS).for_each(|_| sim.turn());
        counts.acknowledged += sim.acknowledged.len() as u64;
        sim.settle();
        counts.refused += sim.refused;
        counts.reopened += sim.reopened;
        used = Some(sim.store);
    }
    counts
}

#[test]
fn no_acknowledged_id_ever_has_other_bytes_or_none_whatever_syncs_do() {
    let (even, odd) = std::thread::scope(|scope| {
        let odd = scope.spawn(|| run(seeds().filter(|seed| seed % 2 == 1)));
        let even = run(seeds().filter(|seed| seed % 2 == 0));
        (even, odd.join().unwrap())
    });
    let acknowledged = even.acknowledged + odd.acknowledged;
    let (refused, reopened) = (even.refused + odd.refused, even.reopened + odd.reopened);
    println!("{acknowledged} ids acknowledged, {refused} requests failed, {reopened} reopened");
    let few = seeds().count() < 50;
    assert!(few || (refused > 0 && reopened > 0 && acknowledged > 0), "nothing went wrong");
}

/// Another process with the key can sign the last place of the strand, and declare places up to it void.
#[test]
fn a_strand_without_a_place_left_refuses_publishes() {
    let mut sim = Sim::new(0);
    sim.outcomes.lock().fails_one_in = 0;
    let (from, reason) = (SequenceId(1), SkipReason::Missing);
    let through = SequenceId(SequenceId::MAX.0 - 1);
    sim.store.commit(&[Change::Skip { originator: NODE, from, through, reason }]).unwrap();
    sim.process = Process::start(&sim.store);
    for envelopes in [vec![0, 1], vec![0], vec![1], vec![0]] {
        sim.process.request(0, envelopes);
        sim.process.sequence(1);
        sim.process.commit(usize::MAX);
        sim.take_answers();
    }
    assert_eq!(sim.ids, HashMap::from([(0, SequenceId::MAX)]), "the last place is given out");
    assert_eq!(sim.refused, 2);
}
