//! Pruning: runs over the expiry index, and the task that makes one from time to time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::retention::unix_s;
use hawser_storage::{CommitError, Expiring, Family, PrunedBatch, ReadError, Store};

use super::Engine;
use super::pace::ShortTurns;
use super::report_history::readable_minute;
use super::scrub::damaged_family;
use super::stop::StopSignal;
use super::stoppable::{StoppableTask, blocking};
use crate::payer_reports::ChainReports;
use crate::pruning::{KeepReason, PruneRules, PruneVerdict, may_expire, of_expired};

/// Rows of the expiry index that one step looks at. A guess: a millisecond.
const STEP_VISITS: usize = 1024;
/// Envelopes that a dry run reads together. A guess: a millisecond. Otherwise the store reads in parts and pauses
/// between them, and gets all envelopes of a step, so that it can read one part ahead.
const DRY_PLACES: usize = 256;
/// Time from the start of a node to its first run, if the interval is longer. A guess: a node that starts has other
/// work.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// Time to the next run after one that left envelopes which could be removed. A guess: pruning continues soon, and
/// other work gets the disk in between.
const BACKLOG_AFTER: Duration = Duration::from_secs(60);
/// Runs of a round, at most, while envelopes are left that could be removed. A guess: an hour of runs, after which
/// what payer reports have held back is judged again.
const ROUND_RUNS_MAX: u32 = 60;
/// Rounds in which a strand's refused envelopes are not read again, at most. A guess: a day with the default interval.
const RESTS_MAX: u64 = 24;

/// Settings of pruning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneSettings {
    /// Time between two runs.
    pub every: Duration,
    /// Envelopes of one strand that go in one run, at most.
    pub places_max: u64,
    /// True to count what could be removed, and remove nothing.
    pub dry_run: bool,
}

impl Default for PruneSettings {
    /// Once an hour, and as many envelopes as the reference implementation takes in a run: ten batches of 10,000.
    fn default() -> Self {
        Self { every: Duration::from_secs(3600), places_max: 100_000, dry_run: false }
    }
}

/// The outcome of a run at one strand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StrandPruned {
    /// Removed envelopes; in a dry run those that could be removed.
    pub pruned: u64,
    /// Lengths of these envelopes together, bytes.
    pub bytes: u64,
    /// The lowest and the highest of their places.
    pub places: Option<(SequenceId, SequenceId)>,
    /// Envelopes that have expired and stay, by the reason.
    pub stays: BTreeMap<KeepReason, u64>,
    /// Envelopes that have not expired. Counted in a dry run only.
    pub not_expired: u64,
    /// The last row of the expiry index up to which every row was judged, and none was left to the next run.
    judged: Option<Expiring>,
}

impl StrandPruned {
    fn add(&mut self, place: SequenceId, len_bytes: usize) {
        self.pruned += 1;
        self.bytes += u64::try_from(len_bytes).unwrap_or(u64::MAX);
        let (first, last) = self.places.unwrap_or((place, place));
        self.places = Some((first.min(place), last.max(place)));
    }
}

/// The outcome of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// The time that expiries were compared with, unix seconds.
    pub now_unix_s: u64,
    /// True if nothing was removed.
    pub dry_run: bool,
    /// True if the run was broken off.
    pub is_partial: bool,
    /// The strands with envelopes that expire.
    pub strands: BTreeMap<OriginatorId, StrandPruned>,
}

impl PruneReport {
    /// Returns the number of removed envelopes; in a dry run of those that could be removed.
    #[must_use]
    pub fn pruned(&self) -> u64 {
        self.strands.values().map(|it| it.pruned).sum()
    }

    /// Returns the number of envelopes that could be removed and are still stored.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        let later = self.strands.values().filter_map(|it| it.stays.get(&KeepReason::Later)).sum();
        if self.dry_run { self.pruned().saturating_add(later) } else { later }
    }
}

/// Settings of a pruning run over all strands.
#[derive(Debug, Clone, Copy)]
pub struct PruneRun {
    /// This node's clock, unix seconds.
    pub own_unix_s: u64,
    /// Envelopes of one strand that go, at most.
    pub places_max: u64,
    /// Only count, including envelopes that have not expired.
    pub dry_run: bool,
}

impl PruneRun {
    /// Removes everything that may be removed. Calls `pace` after each write with the report so far; `pace` waits for
    /// as long as the work has to pause, and returns whether to continue. Blocks on the disk.
    ///
    /// # Errors
    /// When rows cannot be read or written. Envelopes removed before that stay removed, and the next run continues.
    pub fn run(
        self,
        store: &Store,
        pace: &mut dyn FnMut(&PruneReport) -> ControlFlow<()>,
    ) -> Result<PruneReport, CommitError> {
        self.run_behind(&PruneRounds::default(), store, pace)
    }

    /// Makes a run that passes over what earlier ones have judged.
    fn run_behind(
        self,
        earlier: &PruneRounds,
        store: &Store,
        pace: &mut dyn FnMut(&PruneReport) -> ControlFlow<()>,
    ) -> Result<PruneReport, CommitError> {
        let chain = reports_about_strands(store)?;
        let mut rules = PruneRules::new(&chain, self.own_unix_s, self.places_max);
        let (now_unix_s, dry_run) = (rules.now_unix_s(), self.dry_run);
        let mut report = PruneReport { now_unix_s, dry_run, ..PruneReport::default() };
        let mut after = earlier.from;
        loop {
            let (goes, next) = self.look(store, (earlier, after), &mut rules, &mut report)?;
            let part_places = if dry_run { DRY_PLACES } else { STEP_VISITS };
            for part in goes.chunks(part_places) {
                if self.take(store, part, &mut rules, &mut report, pace)?.is_break() {
                    report.is_partial = true;
                    return Ok(report);
                }
            }
            if next.is_none() {
                return Ok(report);
            }
            if goes.is_empty() && pace(&report).is_break() {
                report.is_partial = true;
                return Ok(report);
            }
            after = next;
        }
    }

    /// Judges the next rows of the expiry index. Returns the envelopes that may be removed, and the place to continue
    /// from. Ends before the first row beyond the bound of its strand: the log may refuse some of the others, and that
    /// row is then within the bound.
    fn look(
        self,
        store: &Store,
        (earlier, after): (&PruneRounds, Option<Expiring>),
        rules: &mut PruneRules,
        report: &mut PruneReport,
    ) -> Result<(Vec<Expiring>, Option<Expiring>), ReadError> {
        let (mut goes, mut going) = (Vec::new(), BTreeSet::new());
        let (mut last, mut broken_off_at) = (after, None);
        let next = store.snapshot().expiring(after, STEP_VISITS, |at| {
            if earlier.has_judged(at) {
                last = Some(at);
                return ControlFlow::Continue(());
            }
            let verdict = rules.verdict(at);
            if verdict == PruneVerdict::NotExpired && !self.dry_run {
                return ControlFlow::Break(());
            }
            if verdict == PruneVerdict::Stays(KeepReason::Later)
                && going.contains(&at.id.originator)
            {
                broken_off_at = last;
                return ControlFlow::Break(());
            }
            last = Some(at);
            let strand = report.strands.entry(at.id.originator).or_default();
            let is_left = verdict == PruneVerdict::Stays(KeepReason::Later);
            if !is_left && !strand.stays.contains_key(&KeepReason::Later) {
                strand.judged = Some(at);
            }
            match verdict {
                PruneVerdict::Goes => {
                    going.insert(at.id.originator);
                    goes.push(at);
                }
                PruneVerdict::Stays(why) => *strand.stays.entry(why).or_default() += 1,
                PruneVerdict::NotExpired => strand.not_expired += 1,
            }
            ControlFlow::Continue(())
        })?;
        Ok((goes, broken_off_at.or(next)))
    }

    /// Removes some envelopes, or counts them. Those that have to stay make room for others.
    fn take(
        self,
        store: &Store,
        part: &[Expiring],
        rules: &mut PruneRules,
        report: &mut PruneReport,
        pace: &mut dyn FnMut(&PruneReport) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, CommitError> {
        let own = store.identity().node;
        let mut note = |done| {
            report.note(done, rules);
            pace(report)
        };
        if !self.dry_run {
            return store.prune_many(part, &|expired| of_expired(expired, own), &mut note);
        }
        let (mut could, snapshot) = (PrunedBatch::default(), store.snapshot());
        for Expiring { id, .. } in part {
            match snapshot.get(*id).ok().flatten().filter(may_expire) {
                Some(bytes) => could.pruned.push((*id, bytes.len())),
                None => could.refused.push(*id),
            }
        }
        Ok(note(could))
    }
}

/// Returns the payer reports on the chain about the strands that a store has, with the minutes of the envelopes at
/// their ends. An endpoint can invent reports about any number of other originators.
///
/// # Errors
/// When a row cannot be read.
fn reports_about_strands(store: &Store) -> Result<ChainReports, ReadError> {
    let new = store.new_report_events(None);
    let heads = new.snapshot.heads()?;
    let mut chain = ChainReports::default();
    new.read(|event| {
        if heads.get(event.originator) > SequenceId::NONE {
            chain.note(event, None, u32::MAX);
        }
    })?;
    // Of the reports that are kept, whose number is bounded.
    let ends: Vec<_> = chain.without_minute().collect();
    for (index, end) in ends {
        if let Some(minute) = readable_minute(&new.snapshot, end) {
            chain.set_minute(end.originator, index, minute);
        }
    }
    Ok(chain)
}

impl PruneReport {
    /// Counts the removed envelopes, and those that stay and make room for others.
    fn note(&mut self, done: PrunedBatch, rules: &mut PruneRules) {
        for (id, len_bytes) in done.pruned {
            self.strands.entry(id.originator).or_default().add(id.sequence, len_bytes);
        }
        for id in done.refused {
            rules.note_refused(id.originator);
            let strand = self.strands.entry(id.originator).or_default();
            *strand.stays.entry(KeepReason::Refused).or_default() += 1;
        }
    }
}

/// A round: runs that continue each other. While removable envelopes are left, the next run passes over the envelopes
/// that this round has judged. The end of a round forgets its judgements, so that reports that have come to the chain
/// meanwhile count.
///
/// Envelopes that have to stay for their bytes are read before they are refused, and a node may sign any number of
/// them. So a strand with more of them than a run may remove rests: each round makes up for as many as that, and until
/// all are made up for, the next rounds look at the strand's later rows only.
#[derive(Debug, Default)]
pub struct PruneRounds {
    strands: BTreeMap<OriginatorId, JudgedStrand>,
    /// The row behind which the next run of this round begins.
    from: Option<Expiring>,
    /// Runs of this round.
    runs: u32,
}

/// The part of a strand that earlier runs have judged.
#[derive(Debug, Default)]
struct JudgedStrand {
    /// The last judged row.
    through: Expiring,
    /// Refused envelopes that no round has made up for.
    refused: u64,
    /// Rounds that have ended since everything was judged.
    rounds: u64,
}

impl PruneRounds {
    /// Makes a run, as [`PruneRun::run`]. Returns its report, and true if the next run of the round should follow soon.
    /// A dry run removes nothing, so it looks at everything each time.
    ///
    /// # Errors
    /// As [`PruneRun::run`].
    pub fn run(
        &mut self,
        run: PruneRun,
        store: &Store,
        pace: &mut dyn FnMut(&PruneReport) -> ControlFlow<()>,
    ) -> Result<(PruneReport, bool), CommitError> {
        if run.dry_run {
            return Ok((run.run(store, pace)?, false));
        }
        // A run that fails ends the round: runs may fail for as long as the disk does, and no round would end then.
        let done = run.run_behind(self, store, pace);
        let report = done.inspect_err(|_| self.end_round(run.places_max))?;
        let goes_on = self.note(&report, run.places_max);
        Ok((report, goes_on))
    }

    fn has_judged(&self, at: Expiring) -> bool {
        self.strands.get(&at.id.originator).is_some_and(|it| at <= it.through)
    }

    /// Takes over the judgements of a run. Returns true if the round goes on soon.
    fn note(&mut self, report: &PruneReport, places_max: u64) -> bool {
        let mut from = None;
        for (&originator, found) in &report.strands {
            let Some(judged) = found.judged else { continue };
            let strand = self.strands.entry(originator).or_default();
            strand.through = strand.through.max(judged);
            let refused = found.stays.get(&KeepReason::Refused).copied().unwrap_or(0);
            strand.refused = strand.refused.saturating_add(refused);
            if found.stays.contains_key(&KeepReason::Later) {
                from = Some(from.map_or(judged, |first: Expiring| first.min(judged)));
            }
        }
        self.from = from;
        self.runs += 1;
        let goes_on = report.backlog() > 0 && report.pruned() > 0;
        if !goes_on || self.runs >= ROUND_RUNS_MAX {
            self.end_round(places_max);
        }
        goes_on
    }

    /// Forgets the judgements of this round, except for strands that rest.
    fn end_round(&mut self, places_max: u64) {
        (self.from, self.runs) = (None, 0);
        self.strands.retain(|_, strand| {
            strand.refused = strand.refused.saturating_sub(places_max);
            strand.rounds += 1;
            // Also if its node signs more of them in each round than a round makes up for.
            strand.refused > 0 && strand.rounds <= RESTS_MAX
        });
    }
}

/// Starts the task that prunes at an interval, at the pace of [`ShortTurns`]. Stopping it waits for its last write.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start_prune_task(engine: &Engine, settings: PruneSettings) -> StoppableTask {
    let engine = engine.clone();
    StoppableTask::start(|stopped| PruneWorker { engine, settings, stopped }.run())
}

#[derive(Clone)]
struct PruneWorker {
    engine: Engine,
    settings: PruneSettings,
    stopped: StopSignal,
}

impl PruneWorker {
    async fn run(self) {
        let mut stopped = self.stopped.clone();
        let every = self.settings.every;
        let (mut pause, mut rounds) = (every.min(FIRST_AFTER), PruneRounds::default());
        loop {
            tokio::select! {
                () = stopped.stopped() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let worker = self.clone();
            let (again, has_backlog) = blocking(move || worker.run_once(rounds)).await;
            rounds = again;
            pause = if has_backlog { every.min(BACKLOG_AFTER) } else { every };
        }
    }

    /// Makes one run. Gives the rounds back, and returns true if envelopes are left that could be removed.
    fn run_once(&self, mut rounds: PruneRounds) -> (PruneRounds, bool) {
        let engine = &self.engine;
        // Expiries are compared with no clock that is known to be wrong.
        if let Err(error) = engine.check_clock() {
            tracing::warn!(code = "prune_clock_ahead", %error, "nothing is pruned, because this node's clock cannot be trusted");
            return (rounds, false);
        }
        let PruneSettings { places_max, dry_run, .. } = self.settings;
        let own_unix_s = unix_s(engine.ports().clock.now_ns());
        let run = PruneRun { own_unix_s, places_max, dry_run };
        let mut turns = ShortTurns::begin(engine.store());
        let done = rounds.run(run, engine.store(), &mut |_| {
            if self.stopped.is_stopped() {
                return ControlFlow::Break(());
            }
            turns.pause(engine.store());
            ControlFlow::Continue(())
        });
        let has_backlog = match done {
            Ok((report, goes_on)) => {
                engine.note_pruned(&report);
                goes_on
            }
            Err(error) => {
                tracing::error!(code = "prune_failed", %error, "pruning failed: expired envelopes are still stored");
                self.note_damage(&error);
                false
            }
        };
        (rounds, has_backlog)
    }

    /// Has damage searched for and repaired at once. Each run ends there, and what expires later stays: the next
    /// regular scrub may be a week away.
    fn note_damage(&self, error: &CommitError) {
        let CommitError::Read(cause) = error else { return };
        // A run reads the payer reports on the chain first, which no scrub repairs.
        if cause.is_damage() && reports_about_strands(self.engine.store()).is_ok() {
            // What a run reads besides the index keeps the envelope alone.
            self.engine.scrubs().note_read(damaged_family(cause, Family::Expiry), cause);
        }
    }
}

impl Engine {
    /// Counts a run of pruning in the metrics, and logs what it removed.
    pub fn note_pruned(&self, report: &PruneReport) {
        let bytes = report.strands.values().map(|it| it.bytes).sum();
        if !report.dry_run {
            self.counters().pruned.inc_by(report.pruned());
            self.counters().pruned_bytes.inc_by(bytes);
        }
        if !report.is_partial {
            self.counters().prune_backlog.set(report.backlog());
        }
        if report.pruned() > 0 {
            let (envelopes, dry_run) = (report.pruned(), report.dry_run);
            tracing::info!(envelopes, bytes, dry_run, "pruned expired envelopes");
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::EnvelopeId;

    use super::*;

    #[test]
    fn damage_is_named_by_the_family_that_has_it() {
        let id = EnvelopeId::new(OriginatorId(200), SequenceId(7));
        assert_eq!(
            damaged_family(&ReadError::unreadable_envelope(id), Family::Expiry),
            Family::Log
        );
        let of_index = ReadError::Corrupt { family: Family::Expiry.name(), key_hex: String::new() };
        assert_eq!(damaged_family(&of_index, Family::Expiry), Family::Expiry);
    }

    /// The strand's node signs more of them in each round than a run may remove. What payer reports held back among
    /// them has to be judged again nevertheless.
    #[test]
    fn a_strand_is_judged_again_within_a_day_however_many_envelopes_stay() {
        const PLACES_MAX: u64 = 10;
        let node = OriginatorId(200);
        let at = |place| {
            let id = EnvelopeId::new(node, SequenceId(place));
            Expiring { expiry_unix_s: place, id, ..Expiring::default() }
        };
        let (mut rounds, mut judged) = (PruneRounds::default(), Vec::new());
        for place in 1..=60 {
            if !rounds.has_judged(at(1)) {
                judged.push(place);
            }
            let strand = StrandPruned {
                stays: [(KeepReason::Refused, 2 * PLACES_MAX)].into(),
                judged: Some(at(place)),
                ..StrandPruned::default()
            };
            let report = PruneReport { strands: [(node, strand)].into(), ..PruneReport::default() };
            assert!(!rounds.note(&report, PLACES_MAX));
        }
        assert_eq!(judged, [1, 26, 51], "it rests for {RESTS_MAX} rounds");
    }
}
