//! Scrubs: read everything back from the disk, and repair damage with the help of peers or from the log. The task
//! scrubs at an interval; an operator may ask for a scrub in between.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{
    Damage, Family, OverwrittenBlock, ReadError, RepairError, ScrubError, ScrubReport, Store,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::Engine;
use super::counters::Counters;
use super::pace::{PAUSE_MAX, Pace};
use super::projection_rebuild::ProjectionRebuild;
use super::publisher::Publisher;
use super::replication::Replication;
use super::stop::StopSignal;
use super::stoppable::{StoppableTask, blocking};
use crate::ports::Clock;

/// Time from the start of a node to its first scrub, if the interval is longer. A guess: a node that starts has other
/// work, and one that is started often still finds damage.
const FIRST_AFTER: Duration = Duration::from_secs(600);
/// Time to the next scrub after one that has found damage. A guess: peers may be back by then, and a disk that has
/// begun to lie goes on with it.
const DAMAGED_AFTER: Duration = Duration::from_secs(600);
/// Places before a damaged end that are read back with it, so that the damaged part is known from its begin. A guess: a
/// block has a dozen.
const PLACES_BEFORE_END: u64 = 1000;
/// Time from the start to the first scrub of a node that damage keeps from a part of its work. A guess: its peers have
/// connected by then.
const HINDERED_FIRST_AFTER: Duration = Duration::from_secs(5);
/// Time to the next scrub while it is kept from it. A guess: a scrub takes the disk from readers, and peers may come.
const HINDERED_AFTER: Duration = Duration::from_secs(60);
/// Time to the next scrub after one that made room for an operator's. A guess.
const BUSY_AFTER: Duration = Duration::from_secs(60);
/// Time between two looks if a compaction or a reader has met damage. A guess: the log takes as long to be read again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks, one in [`PAUSE_MAX`], for the log to be read again. A guess: it takes a second or two.
const REOPEN_LOOKS: u32 = 300;
/// Steps of one repair. Each mends a block of a table file, so this is some megabytes. A guess: beyond it the disk is
/// replaced.
const STEPS_MAX: usize = 1024;
/// Damages that are shown to operators at once. Further ones are counted. A guess: a status page stays readable.
const SHOWN_MAX: usize = 16;

/// Settings of scrubs in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubSettings {
    /// Time between two scrubs.
    pub every: Duration,
    /// Bytes that are read in a second, at most; 0 for no bound.
    pub bytes_per_s: u64,
}

/// The treatment of damage that a scrub finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrubMode {
    /// Reports it.
    Report,
    /// Repairs it, with the help of peers or from the log, and reports the rest.
    Repair,
}

/// Damage that could not be repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnrepairedDamage {
    /// The damaged part, which stays as it is.
    pub damage: Damage,
    /// The reason for which it was not repaired, for people.
    pub reason: String,
}

/// The outcome of a scrub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubDone {
    /// Everything that was read and found.
    pub report: ScrubReport,
    /// Number of damaged parts that have been put back.
    pub repaired: u64,
    /// The damaged parts that were not repaired, if the scrub was to repair them.
    pub left: Vec<UnrepairedDamage>,
}

/// The state of scrubs for operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// True while one is under way.
    pub is_running: bool,
    /// End of the last one that read everything, unix seconds.
    pub finished_unix_s: Option<i64>,
    /// Number of rows that it read.
    pub rows: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Damaged parts that are not put back, the first sixteen of them.
    pub left: Vec<UnrepairedDamage>,
    /// Number of all damaged parts that are not put back.
    pub left_count: u64,
}

/// The scrubs of one node. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Scrubs {
    parts: Arc<ScrubParts>,
}

struct ScrubParts {
    store: Store,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    /// The way to peers; `None` before replication has started.
    replication: Mutex<Option<Replication>>,
    /// Held by the one that is under way.
    working: Mutex<()>,
    /// Rebuilds projections.
    rebuild: ProjectionRebuild,
    /// The ends of strands that the start could not read.
    unread_ends: Mutex<Vec<EnvelopeId>>,
    /// Knows if the end of the own strand can be read now.
    publisher: Mutex<Option<Publisher>>,
    /// Operators who wait for the one in the background.
    operators: AtomicUsize,
    status: Mutex<ScrubStatus>,
}

/// Called with the bytes that were read. Waits as long as the work has to pause, and returns if it continues.
pub type ScrubPace<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

impl Scrubs {
    pub(super) fn new(store: Store, clock: Arc<dyn Clock>, counters: Arc<Counters>) -> Self {
        let (replication, working, status) = (Mutex::default(), Mutex::default(), Mutex::default());
        let operators = AtomicUsize::new(0);
        let rebuild = ProjectionRebuild::new(store.clone());
        let (unread_ends, publisher) = (Mutex::default(), Mutex::default());
        let parts = ScrubParts {
            store,
            clock,
            counters,
            replication,
            working,
            rebuild,
            unread_ends,
            publisher,
            operators,
            status,
        };
        Self { parts: Arc::new(parts) }
    }

    /// Sets the way to peers. The last call counts.
    pub(super) fn connect(&self, replication: Replication) {
        *self.parts.replication.lock() = Some(replication);
    }

    /// Takes note of damage that the start has met. The first scrub finds out how far it reaches.
    pub(super) fn note_start(&self, met: Vec<Damage>, publisher: Publisher) {
        *self.parts.publisher.lock() = Some(publisher);
        let mut status = self.parts.status.lock();
        let ends = met.iter().filter_map(|damage| damage.first).collect();
        *self.parts.unread_ends.lock() = ends;
        for damage in met {
            tracing::error!(
                code = "start_damaged",
                ?damage,
                "the disk has damaged what the start reads: the node goes on without it"
            );
            let reason = "met at the start: a scrub finds out how far it reaches".to_owned();
            status.left_count += 1;
            status.left.push(UnrepairedDamage { damage, reason });
        }
        self.parts.counters.scrub.left.set(status.left_count);
    }

    /// Takes note of damage that a reader has met, unless some of the family is known. The task then scrubs at once,
    /// and finds out how far it reaches.
    pub(super) fn note_read(&self, family: Family, cause: &ReadError) {
        let family = family.name();
        let mut status = self.parts.status.lock();
        if status.left.iter().any(|it| it.damage.family == family) {
            return;
        }
        let damage =
            Damage { family, first: None, last: None, file: None, cause: cause.to_string() };
        let reason = "met by a reader: a scrub finds out how far it reaches".to_owned();
        status.left_count += 1;
        if status.left.len() < SHOWN_MAX {
            status.left.push(UnrepairedDamage { damage, reason });
        }
        self.parts.counters.scrub.left.set(status.left_count);
        drop(status);
        self.parts.store.note_read_damage();
    }

    /// Reads the ends of strands that could not be read before, and forgets those that can be read now. Returns true
    /// while damage prevents a part of this node's work: such an end is left, or projections have to be rebuilt.
    fn look_for_hindrance(&self) -> bool {
        let ScrubParts { store, unread_ends, publisher, .. } = &*self.parts;
        let mut ends = unread_ends.lock();
        ends.retain(|end| store.snapshot().get(*end).is_err());
        let is_end_unread = publisher.lock().as_ref().is_some_and(|it| it.check_own_end().is_err());
        !ends.is_empty() || is_end_unread || store.has_stale_projections()
    }

    /// Stops the rebuild of projections, for which commits wait. The next start continues it.
    pub fn end_remake(&self) {
        self.parts.rebuild.end();
    }

    /// Returns the state for operators.
    #[must_use]
    pub fn status(&self) -> ScrubStatus {
        self.parts.status.lock().clone()
    }

    /// Makes a scrub for an operator. One in the background makes room.
    /// Blocks on the disk, and on peers: to be called from a blocking thread of a tokio runtime.
    ///
    /// # Errors
    /// When not everything could be read.
    pub fn run(&self, mode: ScrubMode, pace: &mut ScrubPace<'_>) -> Result<ScrubDone, ScrubError> {
        self.parts.operators.fetch_add(1, Ordering::AcqRel);
        let working = self.parts.working.lock();
        self.parts.operators.fetch_sub(1, Ordering::AcqRel);
        let done = self.work(mode, pace);
        drop(working);
        done
    }

    /// Makes a scrub in the background; `None` if another scrub is under way, or an operator wants one.
    fn run_behind(&self, pace: &mut ScrubPace<'_>) -> Option<Result<ScrubDone, ScrubError>> {
        let _working = self.parts.working.try_lock()?;
        let is_wanted = || self.parts.operators.load(Ordering::Acquire) > 0;
        let mut pace = |bytes| if is_wanted() { ControlFlow::Break(()) } else { pace(bytes) };
        match self.work(ScrubMode::Repair, &mut pace) {
            Err(ScrubError::Stopped) if is_wanted() => None,
            done => Some(done),
        }
    }

    fn work(&self, mode: ScrubMode, pace: &mut ScrubPace<'_>) -> Result<ScrubDone, ScrubError> {
        let counters = &self.parts.counters.scrub;
        let mut pace = |bytes| {
            counters.bytes.inc_by(bytes);
            pace(bytes)
        };
        self.parts.status.lock().is_running = true;
        let done = self.look(mode, &mut pace);
        let mut status = self.parts.status.lock();
        status.is_running = false;
        if let Ok(done) = &done {
            let left = match mode {
                ScrubMode::Repair => done.left.clone(),
                ScrubMode::Report => unrepaired(&done.report),
            };
            // Repaired parts may be compacted again.
            self.parts.store.hold_compactions(left.iter().map(|it| &it.damage));
            status.finished_unix_s = Some(self.parts.clock.now_ns() / 1_000_000_000);
            (status.rows, status.bytes) = (done.report.rows, done.report.bytes);
            status.left_count = (left.len() as u64).saturating_add(done.report.further);
            status.left = left;
            status.left.truncate(SHOWN_MAX);
            counters.left.set(status.left_count);
            counters
                .finished_unix_s
                .set(u64::try_from(status.finished_unix_s.unwrap_or(0)).unwrap_or(0));
        }
        done
    }

    /// Reads everything back, and treats the damage found by `mode`.
    fn look(&self, mode: ScrubMode, pace: &mut ScrubPace<'_>) -> Result<ScrubDone, ScrubError> {
        let mut done = ScrubDone::default();
        let repair = mode == ScrubMode::Repair;
        if repair {
            // This node waits for them, and everything may take hours.
            self.repair_ends(&mut done, pace)?;
        }
        (done.report, done.left) = (self.scrub_writable(pace)?, Vec::new());
        let damages = done.report.damages.clone();
        self.parts.counters.scrub.damages.inc_by(damages.len() as u64);
        for damage in damages {
            tracing::error!(code = "scrub_damage", ?damage, "the disk has damaged the database");
            if repair && !damage.is_of_projection() {
                self.repair_one(damage, &mut done, pace)?;
            }
        }
        if repair {
            self.remake_projections(&mut done);
        }
        Ok(done)
    }

    /// Repairs damage that prevents this node from reading the ends of strands. The next scrub finds unrepaired
    /// damage again.
    fn repair_ends(
        &self,
        done: &mut ScrubDone,
        pace: &mut ScrubPace<'_>,
    ) -> Result<(), ScrubError> {
        if !self.look_for_hindrance() {
            return Ok(());
        }
        let ends = self.parts.unread_ends.lock().clone();
        for end in ends {
            let first = SequenceId(end.sequence.0.saturating_sub(PLACES_BEFORE_END).max(1));
            let around = Damage {
                family: "log",
                first: Some(EnvelopeId { sequence: first, ..end }),
                last: Some(end),
                file: None,
                cause: String::new(),
            };
            for damage in self.parts.store.recheck(&around, pace)? {
                self.repair_one(damage, done, pace)?;
            }
        }
        Ok(())
    }

    /// Reads everything back. If a compaction has met damage before, the log is read again first, which another task
    /// does.
    fn scrub_writable(&self, pace: &mut ScrubPace<'_>) -> Result<ScrubReport, ScrubError> {
        let store = &self.parts.store;
        let is_stopped = |pace: &mut ScrubPace<'_>| pace(0).is_break();
        match store.scrub(pace) {
            Err(ScrubError::Database(error)) if store.is_poisoned() => {
                tracing::warn!(%error, "a scrub waits until the log has been read again");
                for _ in 0..REOPEN_LOOKS {
                    std::thread::sleep(PAUSE_MAX);
                    if is_stopped(pace) {
                        return Err(ScrubError::Stopped);
                    }
                    if !store.is_poisoned() {
                        return store.scrub(pace);
                    }
                }
                Err(ScrubError::Database(error))
            }
            done => done,
        }
    }

    /// Rebuilds projections that are damaged, or that an earlier rebuild did not finish. They are derived from
    /// the log, so the log has to be whole.
    fn remake_projections(&self, done: &mut ScrubDone) {
        let damages = done.report.damages.iter();
        let damaged: Vec<_> = damages.filter(|it| it.is_of_projection()).cloned().collect();
        if damaged.is_empty() && !self.parts.store.has_stale_projections() {
            return;
        }
        let is_stopped = done.left.iter().any(|it| it.damage.stops_rebuilds());
        let failed = if is_stopped || done.report.further > 0 {
            Some("projections are rebuilt once the log is whole".to_owned())
        } else {
            let families: Vec<_> = damaged.iter().map(|damage| damage.family).collect();
            self.parts.rebuild.run(&families).err().map(|error| error.to_string())
        };
        let Some(reason) = failed else {
            let count = damaged.len() as u64;
            self.parts.counters.scrub.repaired.inc_by(count);
            done.repaired += count;
            return;
        };
        tracing::error!(
            code = "projections_stale",
            %reason,
            "the projections cannot be rebuilt now"
        );
        let left =
            damaged.into_iter().map(|damage| UnrepairedDamage { damage, reason: reason.clone() });
        done.left.extend(left);
    }

    /// Puts one damaged part back, or notes the reason why it is not.
    fn repair_one(
        &self,
        damage: Damage,
        done: &mut ScrubDone,
        pace: &mut ScrubPace<'_>,
    ) -> Result<(), ScrubError> {
        match self.put_back(&damage, pace)? {
            Ok(()) => {
                tracing::warn!(code = "scrub_repaired", ?damage, "a damaged part is whole again");
                self.parts.counters.scrub.repaired.inc();
                done.repaired += 1;
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::error!(
                    code = "scrub_unrepaired",
                    ?damage,
                    %reason,
                    "a damaged part stays: readers of its rows get an error"
                );
                done.left.push(UnrepairedDamage { damage, reason });
            }
        }
        Ok(())
    }

    /// Puts one part back, a block at a time, and reads it again. A block that is not whole then is as it was.
    fn put_back(
        &self,
        damage: &Damage,
        pace: &mut ScrubPace<'_>,
    ) -> Result<Result<(), RepairError>, ScrubError> {
        let store = &self.parts.store;
        let mut brought = BTreeMap::new();
        let mut parts = vec![damage.clone()];
        for _ in 0..STEPS_MAX {
            let Some(part) = parts.pop() else { return Ok(Ok(())) };
            if let Err(error) = self.bring(&part, &mut brought) {
                return Ok(Err(error));
            }
            let overwritten = match store.put_back(&part, &brought) {
                Ok(overwritten) => overwritten,
                Err(error) => return Ok(Err(error)),
            };
            let still = match store.recheck(&part, pace) {
                Ok(still) => still,
                Err(error) => {
                    if let Err(reason) = restored(overwritten.as_ref()) {
                        tracing::error!(code = "scrub_restore_failed", %reason,
                            "a block that could not be repaired cannot be restored to its earlier bytes");
                    }
                    return Err(error);
                }
            };
            let is_same = |it: &Damage| (&it.first, &it.cause) == (&part.first, &part.cause);
            let is_damaged = overwritten.as_ref().is_some_and(|it| it.is_in(&still));
            if is_damaged || still.iter().any(is_same) {
                if let Err(error) = restored(overwritten.as_ref()) {
                    return Ok(Err(error));
                }
                let file = part.file.unwrap_or_default();
                return Ok(Err(RepairError::NotInPlace { file }));
            }
            parts.extend(still);
        }
        Ok(Err(RepairError::TooLarge))
    }

    /// Fetches the envelopes that were lost with a damaged part from peers, and adds them to `brought`.
    fn bring(
        &self,
        part: &Damage,
        brought: &mut BTreeMap<EnvelopeId, Bytes>,
    ) -> Result<(), RepairError> {
        let mut wanted: BTreeMap<OriginatorId, BTreeMap<_, _>> = BTreeMap::new();
        for place in self.parts.store.lost_places(part)? {
            if !brought.contains_key(&place.id) {
                let strand = wanted.entry(place.id.originator).or_default();
                strand.insert(place.id.sequence, place.leaf);
            }
        }
        let replication = self.parts.replication.lock().clone();
        let Some(replication) = replication else { return Ok(()) };
        for (originator, places) in wanted {
            let found = Handle::current().block_on(replication.fetch(originator, places));
            let found = found.into_iter();
            brought.extend(
                found.map(|(sequence, bytes)| (EnvelopeId::new(originator, sequence), bytes)),
            );
        }
        Ok(())
    }
}

impl std::fmt::Debug for Scrubs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scrubs").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Writes the bytes of a block back that has not become whole.
fn restored(overwritten: Option<&OverwrittenBlock>) -> Result<(), RepairError> {
    overwritten.map_or(Ok(()), OverwrittenBlock::restore)
}

/// Returns the damage found by a scrub that does not repair.
fn unrepaired(report: &ScrubReport) -> Vec<UnrepairedDamage> {
    let left = |damage: &Damage| UnrepairedDamage {
        damage: damage.clone(),
        reason: "not tried: the scrub was not told to repair".to_owned(),
    };
    report.damages.iter().map(left).collect()
}

/// Starts the task that scrubs at an interval, for at most half of the time. Stopping it waits for its last write.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start_scrub_task(engine: &Engine, settings: ScrubSettings) -> StoppableTask {
    let scrubs = engine.scrubs().clone();
    StoppableTask::start(|stopped| ScrubWorker { scrubs, settings, stopped }.run())
}

#[derive(Clone)]
struct ScrubWorker {
    scrubs: Scrubs,
    settings: ScrubSettings,
    stopped: StopSignal,
}

impl ScrubWorker {
    async fn run(self) {
        let mut stopped = self.stopped.clone();
        let scrubs = self.scrubs.clone();
        let is_hindered = blocking(move || scrubs.look_for_hindrance()).await;
        let first_after = if is_hindered { HINDERED_FIRST_AFTER } else { FIRST_AFTER };
        let mut pause = self.settings.every.min(first_after);
        loop {
            tokio::select! {
                () = stopped.stopped() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.damage_met() => {}
            }
            let worker = self.clone();
            pause = blocking(move || worker.run_once()).await;
        }
    }

    /// Returns when a compaction or a reader has met damage.
    async fn damage_met(&self) {
        while !self.scrubs.parts.store.take_met_damage() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Makes one scrub. Returns the time to the next one.
    fn run_once(&self) -> Duration {
        let every = self.settings.every;
        let mut pace = Pace::new(self.stopped.clone());
        let done = self.scrubs.run_behind(&mut |bytes| pace.pause(self.time_of(bytes)));
        match done {
            None => every.min(BUSY_AFTER),
            Some(Ok(done)) => {
                if self.scrubs.look_for_hindrance() {
                    every.min(HINDERED_AFTER)
                } else if done.report.damages.is_empty() {
                    every
                } else {
                    every.min(DAMAGED_AFTER)
                }
            }
            Some(Err(ScrubError::Stopped | ScrubError::InMemory)) => every,
            Some(Err(error)) => {
                tracing::error!(code = "scrub_failed", %error, "the scrub failed: the database was not read back");
                every.min(DAMAGED_AFTER)
            }
        }
    }

    /// Returns the time that reading this number of bytes takes at the pace.
    fn time_of(&self, bytes: u64) -> Duration {
        let nanos =
            u128::from(bytes) * 1_000_000_000 / u128::from(self.settings.bytes_per_s.max(1));
        let is_bounded = self.settings.bytes_per_s > 0;
        if is_bounded {
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        } else {
            Duration::ZERO
        }
    }
}

/// Returns the family with the damage that a read has met. The database does not name the family of a damaged file:
/// `otherwise` is returned then.
pub(super) fn damaged_family(cause: &ReadError, otherwise: Family) -> Family {
    let named = match cause {
        ReadError::Corrupt { family, .. } => Some(*family),
        ReadError::Database(_) | ReadError::Rebuilding { .. } => None,
    };
    Family::ALL.into_iter().find(|family| Some(family.name()) == named).unwrap_or(otherwise)
}
