//! One strand of a copy: read, checked as a follower checks what peers send, and written.

use std::sync::mpsc;
use std::thread;

use hawser_engine::replication::{EnvelopeVerifier, PeerViolation};
use hawser_net::open_canonical;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, OriginatorId, SequenceId};
use hawser_storage::{
    BootstrapChunk, BootstrapError, BootstrapStrand, Bootstraps, Change, LogEntry, Store, Validity,
};

use super::error::BootstrapFetchError;
use super::report::{FetchedStrand, Reached};
use crate::service::import::gap;

/// Chunks that wait to be checked. One is checked meanwhile, and one read.
const WAITING: usize = 1;
/// Envelopes of one write. A guess: a write then has some MiB.
pub(super) const WRITE_ENVELOPES: usize = 4096;

pub(super) type Envelopes = Vec<(SequenceId, Bytes)>;

/// The way into the log.
pub(super) type Commit<'a> = &'a dyn Fn(Vec<Change>) -> Result<(), BootstrapFetchError>;

/// The rule for places that a copy has no envelope for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gaps {
    /// They are marked missing: no reader is served yet, and the node asks peers for them once it runs.
    Mark,
    /// Taking ends before them: peers are asked first.
    Stop,
}

/// Takes over what the log does not have yet, and marks gaps: no node runs on the log. Calls `note` with the bytes of each
/// chunk.
///
/// # Errors
/// The first thing that is wrong. Everything before it is in the log then.
pub(super) fn take_over(
    place: &Bootstraps,
    store: &Store,
    stated: &BootstrapStrand,
    verifier: &EnvelopeVerifier,
    commit: Commit<'_>,
    note: &mut dyn FnMut(u64),
) -> Result<FetchedStrand, BootstrapFetchError> {
    let originator = stated.originator;
    let held = store.snapshot().head(originator)?;
    let (before, wanted): (Vec<_>, Vec<_>) =
        stated.chunks.iter().copied().partition(|chunk| chunk.through <= held);
    before.iter().for_each(|chunk| note(chunk.len_bytes));
    let mut writing = Writing::new(commit, verifier, Gaps::Mark, held);
    each_chunk(place, originator, wanted, &mut |chunk, envelopes| {
        writing.take(envelopes)?;
        note(chunk.len_bytes);
        Ok(())
    })?;
    let Writing { head, reached, .. } = writing;
    let (covered, is_tree_short, of_chain) = (None, false, None);
    Ok(FetchedStrand { originator, head, reached, covered, is_tree_short, of_chain })
}

/// Reads chunks in order, the next one while the one before it is taken.
///
/// # Errors
/// Those of `take`, and of reading.
pub(super) fn each_chunk(
    place: &Bootstraps,
    originator: OriginatorId,
    wanted: Vec<BootstrapChunk>,
    take: &mut dyn FnMut(BootstrapChunk, Envelopes) -> Result<(), BootstrapFetchError>,
) -> Result<(), BootstrapFetchError> {
    let (chunks_to, chunks) = mpsc::sync_channel(WAITING);
    thread::scope(|scope| {
        let reading = scope.spawn(move || read(place, originator, wanted, &chunks_to));
        for (chunk, envelopes) in chunks {
            take(chunk, envelopes)?;
        }
        match reading.join() {
            Ok(read) => read.map_err(BootstrapFetchError::from),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn read(
    place: &Bootstraps,
    originator: OriginatorId,
    wanted: Vec<BootstrapChunk>,
    chunks_to: &mpsc::SyncSender<(BootstrapChunk, Envelopes)>,
) -> Result<(), BootstrapError> {
    for chunk in wanted {
        let envelopes = place.chunk(originator, &chunk)?;
        // The other side has ended with an error of its own.
        if chunks_to.send((chunk, envelopes)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Envelopes of a strand on their way into the log.
pub(super) struct Writing<'a> {
    commit: Commit<'a>,
    verifier: &'a EnvelopeVerifier,
    gaps: Gaps,
    head: SequenceId,
    reached: Reached,
}

impl<'a> Writing<'a> {
    /// Starts behind `head`, the last place in the log.
    pub(super) fn new(
        commit: Commit<'a>,
        verifier: &'a EnvelopeVerifier,
        gaps: Gaps,
        head: SequenceId,
    ) -> Self {
        Self { commit, verifier, gaps, head, reached: Reached::default() }
    }

    /// Checks and writes the envelopes of a chunk that are behind the head. Returns false if it has stopped at a gap, and
    /// nothing more is to be taken.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn take(&mut self, envelopes: Envelopes) -> Result<bool, BootstrapFetchError> {
        let new: Envelopes =
            envelopes.into_iter().filter(|(place, _)| *place > self.head).collect();
        for part in new.chunks(WRITE_ENVELOPES) {
            let whole = self.before_gap(part);
            let changes = self.check(whole)?;
            (self.commit)(changes)?;
            if whole.len() < part.len() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the envelopes up to the first gap at which to stop.
    fn before_gap<'e>(&self, envelopes: &'e [(SequenceId, Bytes)]) -> &'e [(SequenceId, Bytes)] {
        let mut next = self.head.next();
        let has_followed = |(place, _): &&(SequenceId, Bytes)| {
            let follows = *place == next;
            next = place.next();
            follows
        };
        match self.gaps {
            Gaps::Mark => envelopes,
            Gaps::Stop => {
                let whole = envelopes.iter().take_while(has_followed).count();
                &envelopes[..whole]
            }
        }
    }

    fn check(
        &mut self,
        envelopes: &[(SequenceId, Bytes)],
    ) -> Result<Vec<Change>, BootstrapFetchError> {
        let originator = self.verifier.originator;
        let mut changes = Vec::with_capacity(envelopes.len());
        for ((place, _), entry) in envelopes.iter().zip(require_signed(self.verifier, envelopes)?) {
            self.reached.envelopes += 1;
            self.reached.invalid += u64::from(matches!(entry.validity, Validity::Invalid(_)));
            self.reached.missing += place.0 - self.head.0 - 1;
            changes.extend(gap(originator, self.head, *place));
            self.head = *place;
            changes.push(Change::Append(entry));
        }
        Ok(changes)
    }
}

/// Checks envelopes on all cores, and returns them as entries of the log, in order.
///
/// # Errors
/// [`BootstrapFetchError::Forged`].
pub(super) fn require_signed(
    verifier: &EnvelopeVerifier,
    envelopes: &[(SequenceId, Bytes)],
) -> Result<Vec<LogEntry>, BootstrapFetchError> {
    let originator = verifier.originator;
    let forged = |place| BootstrapFetchError::Forged { originator, place };
    for (place, bytes) in envelopes {
        if !is_at(bytes, originator, *place) {
            return Err(forged(*place));
        }
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let batch = envelopes.iter().map(|(_, bytes)| bytes.clone()).collect();
    let checked = envelopes.iter().zip(check_on(verifier, batch, threads));
    checked.map(|((place, _), entry)| entry.map_err(|_| forged(*place))).collect()
}

/// Checks signatures and rules on several threads; results are in the order of the batch.
fn check_on(
    verifier: &EnvelopeVerifier,
    batch: Vec<Bytes>,
    threads: usize,
) -> Vec<Result<LogEntry, PeerViolation>> {
    let part = batch.len().div_ceil(threads.max(1)).max(1);
    let parts: Vec<Vec<Bytes>> = batch.chunks(part).map(<[Bytes]>::to_vec).collect();
    thread::scope(|scope| {
        let running: Vec<_> =
            parts.into_iter().map(|part| scope.spawn(|| verifier.check(part))).collect();
        let joined = running.into_iter().flat_map(|it| match it.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}

/// Returns true if the envelope says that it belongs to this place, in the only form of its bytes.
fn is_at(bytes: &Bytes, originator: OriginatorId, place: SequenceId) -> bool {
    let Some(outer) = open_canonical(bytes.clone()) else { return false };
    let Ok((id, _)) = OriginatorEnvelope::statement(outer.statement) else { return false };
    !outer.was_rewritten && (id.originator, id.sequence) == (originator, place)
}
