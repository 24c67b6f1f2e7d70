//! Reports of misbehaviour: this node makes reports of its evidence, and callers submit others.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, OriginatorId, SecretKey, SequenceId};
use hawser_rules::misbehavior::report::digest;
use hawser_rules::misbehavior::{
    Judgement, MisbehaviorKind, MisbehaviorVerdict, Report, ReportCase, proof_part, verify,
};
use hawser_storage::{
    CommitError, Misbehavior, NewReport, ReadError, Snapshot, Store, StoredEvidence, StoredReport,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;

use super::check_turns::CheckTurns;
use super::counters::{Counters, ReportsByKind};
use super::own_strand::OwnStrand;
use super::report_writes::{ReportWriteError, ReportWrites};
use super::stop::StopSignal;
use super::stoppable::{StoppableTask, blocking};
use super::{Engine, Ports};
use crate::reports::{
    EvidenceProgress, Fact, LoggedChain, ReportSubmission, ReportSubmissionError,
    StrandPlacesBetween, WaitingEvidence, check_submission, fact_of, report_of,
};

/// Pieces of evidence that are read at a time. A guess.
const EVIDENCE_AT_ONCE: usize = 64;
/// Their bytes. A guess.
const EVIDENCE_LEN_BYTES: usize = 16 * 1024 * 1024;
/// Length up to which a submitted proof is kept as it came. Specified (`docs/protocol/misbehavior.md`): the share of
/// each of 10,000 reports in 256 MiB, so that the bytes of such proofs do not run out before their number.
const PROOF_LEN_BYTES: usize = 26 * 1024;
/// Pause between two searches for claims that are too old to be kept. A guess.
const FORGET_EVERY: Duration = Duration::from_secs(60 * 60);
/// Pause after an error. A guess: a disk that cannot be written to does not come back sooner.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The reason a submission was not judged.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The report is refused for its form.
    #[error(transparent)]
    Refused(#[from] ReportSubmissionError),
    /// Checks take their share of the machine, and the submission has no place among those that wait, or has waited
    /// 30 s. Also returned for a report that proves nothing, once such reports have used up what may be written of
    /// them.
    #[error("misbehaviour reports have used up their share of this node: try again later")]
    Busy {
        /// Whole seconds, at least 1.
        retry_after_s: u64,
    },
    /// The report cannot be stored now.
    #[error(transparent)]
    Store(#[from] CommitError),
}

impl From<ReportWriteError> for SubmitError {
    fn from(error: ReportWriteError) -> Self {
        match error {
            ReportWriteError::ClaimsBusy { retry_after_s } => Self::Busy { retry_after_s },
            ReportWriteError::Commit(error) => Self::Store(error),
        }
    }
}

/// The reports of this node. Cheap to clone.
#[derive(Clone)]
pub struct Reports(Arc<ReportsState>);

struct ReportsState {
    key: SecretKey,
    own: OriginatorId,
    store: Store,
    ports: Ports,
    counters: Arc<Counters>,
    own_strand: OwnStrand,
    /// Counts up whenever there may be new evidence.
    evidence: watch::Sender<u64>,
    /// The evidence that reports were made of; `None` before it was read, and after an error.
    progress: Mutex<Option<EvidenceProgress>>,
    /// The turns of submissions at their checks.
    turns: CheckTurns,
    /// The writes of submissions that were judged.
    writes: ReportWrites,
}

/// A submission that is to be kept.
struct JudgedReport {
    new: NewReport,
    /// The fact that it proves; `None` if it proves none.
    proven: Option<Fact>,
}

impl Reports {
    pub(super) fn new(
        key: SecretKey,
        store: Store,
        ports: Ports,
        counters: Arc<Counters>,
        own_strand: OwnStrand,
    ) -> Self {
        Self(Arc::new(ReportsState {
            key,
            own: store.identity().node,
            store,
            ports,
            counters,
            own_strand,
            evidence: watch::Sender::new(0),
            progress: Mutex::new(None),
            turns: CheckTurns::new(),
            writes: ReportWrites::default(),
        }))
    }

    /// Notes that evidence has been recorded. The task then makes reports of it.
    pub(crate) fn note_evidence(&self) {
        self.0.evidence.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Checks what a report that a caller submits says of itself: its time, and in whose name it is. Costs less than
    /// decoding it did. [`submit`](Self::submit) refuses the same reports.
    ///
    /// # Errors
    /// [`ReportSubmissionError`] for the first fault found.
    pub fn check_form(&self, report: &Report) -> Result<(), ReportSubmissionError> {
        check_submission(report, self.0.now_ns())
    }

    /// Judges a report that a caller submits, and keeps it unless it is refuted. Signatures are checked on a
    /// separate thread, one report at a time, within a twentieth of a core. Callers take turns: `caller` is a number
    /// that the calls of one site share, an IPv4 address or an IPv6 /48. Reports that are to be kept at about the same
    /// time are written together. Dropping the future before that gives the report up.
    ///
    /// # Errors
    /// [`SubmitError`]; then nothing is kept.
    pub async fn submit(
        &self,
        caller: usize,
        report: Report,
    ) -> Result<ReportSubmission, SubmitError> {
        self.check_form(&report)?;
        let taken = self.0.turns.take(caller, report.envelopes().len(), report.len_bytes()).await;
        let turn = taken.map_err(|busy| SubmitError::Busy { retry_after_s: busy.retry_after_s })?;
        let state = self.0.clone();
        let accused = report.accused();
        let judged = blocking(move || {
            let judged = state.check(&report);
            drop(turn);
            judged
        });
        let JudgedReport { new, proven } = match judged.await {
            Ok(judged) => judged,
            Err(refuted) => return Ok(ReportSubmission::Refuted(refuted)),
        };
        let state = self.0.clone();
        if !self.0.writes.store(new, move |reports| state.store_submitted(reports)).await? {
            return Ok(ReportSubmission::Known);
        }
        if let Some(fact) = proven {
            tracing::warn!(%accused, %fact, "a client has proven that a node broke a rule");
        }
        Ok(ReportSubmission::Stored)
    }

    /// Stores reports of faults that this node has seen itself, as their host. Blocks on the disk.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) fn keep_own(&self, reports: Vec<Report>) -> Result<(), CommitError> {
        let (state, now_ns) = (&self.0, self.0.now_ns());
        let signed = reports.into_iter().filter_map(|report| {
            let bytes = report.to_bytes();
            // Refuted if the registry has lost the accused meanwhile.
            let fact = fact_of(&report, &bytes, &state.judge(&bytes, now_ns))?;
            Some(NewReport { fact, signature: state.sign(&bytes), report: bytes })
        });
        let stored = state.store.record_reports(now_ns, signed.collect(), None)?;
        count_stored(&state.counters.reports_made, &stored);
        Ok(())
    }

    /// Reads reports that were stored after `after_ns`; see [`hawser_storage::Snapshot::reports`]. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn read(
        &self,
        after_ns: u64,
        limit: usize,
        len_bytes_max: usize,
    ) -> Result<Vec<StoredReport>, ReadError> {
        self.0.store.snapshot().reports(after_ns, limit, len_bytes_max)
    }

    /// Makes reports of all evidence of which there are none yet and which can be judged. Blocks on the disk.
    ///
    /// # Errors
    /// When the database fails.
    pub fn report_evidence(&self) -> Result<(), CommitError> {
        while self.0.report_some()? {}
        Ok(())
    }

    /// Withdraws this node's claims that places of a node's strand are missing, and its reports of them, if `is_void`
    /// returns true for the first and the last of the places. Returns the number of claims. Blocks on the disk.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) fn withdraw_gaps(
        &self,
        node: OriginatorId,
        is_void: impl Fn(SequenceId, SequenceId) -> bool,
    ) -> Result<usize, CommitError> {
        // Meanwhile no report is made of a claim that is withdrawn.
        let _making = self.0.progress.lock();
        let is_over = |places: Option<StrandPlacesBetween>| {
            places.is_some_and(|it| it.originator == node && is_void(it.from, it.through))
        };
        let store = &self.0.store;
        store.withdraw_own_claims(node, Misbehavior::Gap.kind(), |report| {
            is_over(StrandPlacesBetween::of_report(report))
        })?;
        store.withdraw_claims(node, Misbehavior::Gap, |claim| {
            is_over(StrandPlacesBetween::of_evidence(claim))
        })
    }

    /// Removes claims of more than 30 days. Blocks on the disk.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget_old_claims(&self) -> Result<(), CommitError> {
        self.0.store.forget_old_claims(self.0.now_ns())
    }
}

impl ReportsState {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.ports.clock.now_ns()).unwrap_or(0)
    }

    fn judge(&self, bytes: &Bytes, held_at_ns: u64) -> Judgement {
        let snapshot = self.store.snapshot();
        let (registry, rates) =
            (self.ports.registry.borrow().clone(), self.ports.rates.borrow().clone());
        verify(&ReportCase {
            report: bytes,
            host_signature: None,
            host: None,
            registry: &registry,
            rates: Some(&rates),
            chain: &LoggedChain(&snapshot),
            held_at_ns: Some(i64::try_from(held_at_ns).unwrap_or(i64::MAX)),
        })
    }

    fn sign(&self, report: &[u8]) -> [u8; 65] {
        *self.key.sign(digest(report)).as_bytes()
    }

    /// Judges a submission, and signs it if it is to be kept.
    ///
    /// # Errors
    /// The fact that refutes it.
    fn check(&self, report: &Report) -> Result<JudgedReport, Fact> {
        self.show_own(report);
        let bytes = report.to_bytes();
        let mut judgement = self.judge(&bytes, self.now_ns());
        let Some(fact) = fact_of(report, &bytes, &judgement) else {
            return Err(judgement.facts.swap_remove(0));
        };
        let is_proven = judgement.verdict == MisbehaviorVerdict::Proven;
        if is_proven && report.kind() == MisbehaviorKind::DuplicateSequenceId {
            self.show_second(report);
        }
        let kept = if is_proven { self.kept_of(report, bytes, &judgement) } else { bytes };
        let proven = is_proven.then(|| judgement.facts.swap_remove(0));
        Ok(JudgedReport {
            new: NewReport { fact, signature: self.sign(&kept), report: kept },
            proven,
        })
    }

    /// Returns the bytes of a submitted proof that are kept. Room for proofs is never freed, so a long report is kept
    /// without the envelopes that prove nothing.
    fn kept_of(&self, report: &Report, bytes: Bytes, judgement: &Judgement) -> Bytes {
        if bytes.len() <= PROOF_LEN_BYTES {
            return bytes;
        }
        let registry = self.ports.registry.borrow().clone();
        proof_part(report, judgement, &registry).map_or(bytes, |part| part.to_bytes())
    }

    /// Tells the guard of this node's own strand of an envelope above its end that this node's key has signed: the
    /// folder lacks it, or another process has the key. The caller may be the only holder of the envelope. Looks at the
    /// highest place alone, so that a report of forged envelopes costs one check of a signature.
    fn show_own(&self, report: &Report) {
        // Read after the report has come, so that it covers all that this process has shown to readers.
        let Ok(head) = self.store.snapshot().head(self.own) else { return };
        let stated = report.envelopes().iter().filter_map(|envelope| {
            let statement = envelope.unsigned_originator_envelope.clone();
            let (id, originator_ns) = OriginatorEnvelope::statement(statement).ok()?;
            let is_above = id.sequence > head && id.sequence <= SequenceId::MAX;
            (id.originator == self.own && is_above).then_some((
                id.sequence,
                originator_ns,
                envelope,
            ))
        });
        if let Some((sequence, originator_ns, envelope)) = stated.max_by_key(|(place, ..)| *place)
            && self.has_signed(envelope)
        {
            self.own_strand.note_shown(self.own, sequence, Some(originator_ns));
        }
    }

    /// Tells the guard of this node's own strand of statements that this folder does not hold, although it holds their
    /// places. The report is proven, so the key that the registry has for this node has signed them. If a statement was
    /// made since the start, another process has the key, and its strand is behind this node's. No peer shows the
    /// envelopes of that process, because peers hold this node's.
    fn show_second(&self, report: &Report) {
        let key = self.store.identity().public_key;
        let is_own_key =
            self.ports.registry.borrow().node(self.own).is_some_and(|it| it.public_key == key);
        if !is_own_key {
            return;
        }
        let snapshot = self.store.snapshot();
        for envelope in report.envelopes() {
            let statement = &envelope.unsigned_originator_envelope;
            let Ok((id, originator_ns)) = OriginatorEnvelope::statement(statement.clone()) else {
                continue;
            };
            if id.originator != self.own {
                continue;
            }
            // What is pruned or unreadable here says nothing about which of two statements this process has made.
            let Ok(Some(held)) = snapshot.get(id) else { continue };
            if OriginatorEnvelope::open(held).is_ok_and(|(held, _)| held != *statement) {
                // Only its time counts. The guard may not know yet that its place is held, and would take the place for
                // one that the folder lacks.
                self.own_strand.note_shown(self.own, SequenceId::NONE, Some(originator_ns));
            }
        }
    }

    /// Returns true if an envelope has a signature of this node's key, in the one form that every node accepts.
    fn has_signed(&self, envelope: &pb::OriginatorEnvelope) -> bool {
        match OriginatorEnvelope::open(envelope.encode_to_vec().into()) {
            Ok((statement, Proof::Signature(signature))) => signature
                .recover(originator_digest(&statement))
                .is_ok_and(|signer| signer == self.store.identity().public_key),
            Ok((_, Proof::Transaction(_))) | Err(_) => false,
        }
    }

    /// Stores submissions that were judged, as one write, and returns those that were new.
    fn store_submitted(&self, reports: Vec<NewReport>) -> Result<Vec<StoredReport>, CommitError> {
        let stored = self.store.record_reports(self.now_ns(), reports, None)?;
        count_stored(&self.counters.reports_submitted, &stored);
        Ok(stored)
    }

    /// Makes reports of the next evidence. Returns false at the end of it. Evidence for which the registry or the rates
    /// have to be read first is passed over until then.
    fn report_some(&self) -> Result<bool, CommitError> {
        let mut slot = self.progress.lock();
        let mut progress = match slot.take() {
            Some(progress) => progress,
            None => EvidenceProgress::new(self.store.reported_evidence()?),
        };
        let before = progress.reported();
        let (found, is_end) = self.next_evidence(&mut progress)?;
        let mut reports = Vec::with_capacity(found.len());
        for stored in &found {
            let is_own = stored.evidence.at.originator == self.own;
            if !is_own && !self.can_judge(&WaitingEvidence::of(stored)) {
                progress.note_waiting(stored);
                continue;
            }
            progress.note_judged(stored.at);
            // The schema has no report of checkpoints: the evidence is served as it is.
            if !is_own && stored.evidence.misbehavior.kind() != 0 {
                reports.extend(self.report_on(stored));
            }
        }
        let reported = progress.reported();
        if !reports.is_empty() || reported != before {
            let reported = (reported != before).then_some(reported);
            let stored = self.store.record_reports(self.now_ns(), reports, reported)?;
            count_stored(&self.counters.reports_made, &stored);
        }
        *slot = Some(progress);
        Ok(!is_end)
    }

    /// Reads the next evidence: pieces that have waited and can be judged now, or else later ones. Returns true as well
    /// if there are no more.
    fn next_evidence(
        &self,
        progress: &mut EvidenceProgress,
    ) -> Result<(Vec<StoredEvidence>, bool), ReadError> {
        let snapshot = self.store.snapshot();
        let due = progress.waiting().filter(|waiting| self.can_judge(waiting));
        let due: Vec<_> = due.take(EVIDENCE_AT_ONCE).copied().collect();
        let had_due = !due.is_empty();
        let (mut found, mut len_bytes) = (Vec::new(), 0);
        for waiting in due {
            if len_bytes >= EVIDENCE_LEN_BYTES {
                break;
            }
            match piece_at(&snapshot, &waiting)? {
                Some(stored) => {
                    len_bytes += stored.evidence.envelopes.iter().map(Bytes::len).sum::<usize>();
                    found.push(stored);
                }
                // It has made room for newer claims.
                None => progress.note_judged(waiting.at),
            }
        }
        if !had_due {
            found = snapshot.evidence(progress.scanned(), EVIDENCE_AT_ONCE, EVIDENCE_LEN_BYTES)?;
        }
        let is_end = !had_due && found.is_empty();
        Ok((found, is_end))
    }

    /// Makes the report of a piece of evidence; `None` if the evidence does not support one.
    fn report_on(&self, stored: &StoredEvidence) -> Option<NewReport> {
        let at = stored.evidence.at;
        let report = match report_of(stored) {
            Ok(report) => report,
            Err(error) => {
                tracing::warn!(envelope = %at, %error, "evidence is too large for a report");
                return None;
            }
        };
        let bytes = report.to_bytes();
        let judgement = self.judge(&bytes, stored.at.server_time_ns);
        let Some(fact) = fact_of(&report, &bytes, &judgement) else {
            tracing::debug!(envelope = %at, why = %judgement.facts[0], "evidence makes no report");
            return None;
        };
        Some(NewReport { fact, signature: self.sign(&bytes), report: bytes })
    }

    /// Returns true if the registry has the accused, and the rates are complete up to the time of the evidence, which
    /// is after that of its envelopes.
    fn can_judge(&self, waiting: &WaitingEvidence) -> bool {
        let at_ns = i64::try_from(waiting.at.server_time_ns).unwrap_or(i64::MAX);
        self.ports.registry.borrow().node(waiting.accused).is_some()
            && (!waiting.is_fee || self.ports.rates.borrow().is_complete_at(at_ns))
    }
}

/// Counts reports that were new.
fn count_stored(counted: &ReportsByKind, stored: &[StoredReport]) {
    for StoredReport { kept, .. } in stored {
        // This node has encoded each of them.
        if let Ok(report) = Report::decode(&kept.report) {
            counted.count(report.kind());
        }
    }
}

/// Reads a piece of evidence that has waited; `None` if it is not kept any more.
fn piece_at(
    snapshot: &Snapshot<'_>,
    waiting: &WaitingEvidence,
) -> Result<Option<StoredEvidence>, ReadError> {
    let next = snapshot.evidence(waiting.before, 1, 1)?.pop();
    Ok(next.filter(|stored| stored.at == waiting.at))
}

/// Starts the task that turns evidence into reports, beginning with evidence of earlier runs. Stopping it waits for its
/// last write.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start_report_task(engine: &Engine) -> StoppableTask {
    let (engine, reports) = (engine.clone(), engine.reports().clone());
    StoppableTask::start(|stopped| run(engine, reports, stopped))
}

/// Reports new evidence, and the rest again when the registry or the rates change; removes old claims.
async fn run(engine: Engine, reports: Reports, mut stopped: StopSignal) {
    let mut evidence = reports.0.evidence.subscribe();
    let ports = &reports.0.ports;
    let (mut registry, mut rates) = (ports.registry.clone(), ports.rates.clone());
    // Not at once: a clock that is far ahead is noticed when chains and peers have sent their times.
    let mut forget =
        tokio::time::interval_at(tokio::time::Instant::now() + FORGET_EVERY, FORGET_EVERY);
    loop {
        evidence.borrow_and_update();
        registry.borrow_and_update();
        rates.borrow_and_update();
        let made = {
            let reports = reports.clone();
            blocking(move || reports.report_evidence()).await
        };
        if let Err(error) = &made {
            tracing::error!(code = "reports_failed", %error, "reports cannot be stored now");
        }
        tokio::select! {
            () = stopped.stopped() => return,
            _ = forget.tick() => {
                if let Err(error) = engine.check_clock() {
                    tracing::warn!(%error, "no old claim about a node is removed, because this node's clock cannot be trusted");
                    continue;
                }
                let reports = reports.clone();
                if let Err(error) = blocking(move || reports.forget_old_claims()).await {
                    tracing::warn!(%error, "old claims about nodes cannot be removed now: tried again in an hour");
                }
            }
            // Reports without a judgement wait for the registry or the rates. A sender that was dropped changes
            // nothing any more.
            Ok(()) = evidence.changed(), if made.is_ok() => {}
            Ok(()) = registry.changed(), if made.is_ok() => {}
            Ok(()) = rates.changed(), if made.is_ok() => {}
            () = tokio::time::sleep(RETRY_AFTER), if made.is_err() => {}
        }
    }
}
