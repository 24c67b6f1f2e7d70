//! Reads, verifies and writes one strand of a snapshot. Envelopes of nodes are verified here like those that a follower
//! gets from peers; `chain` verifies those of chains.

use std::sync::mpsc;
use std::thread;

use hawser_engine::replication::{EnvelopeVerifier, VerifyResult};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{
    BootstrapChunk, BootstrapError, BootstrapStrand, Bootstraps, Change, LogEntry, Validity,
};

use super::error::BootstrapFetchError;
use super::report::Reached;
use crate::service::import::gap;

/// The number of chunks that wait for verification, besides the one being verified and the one being read.
/// Chosen: one keeps the cores busy, and each further one takes the memory of a chunk.
const WAITING: usize = 1;
/// The number of writes that wait, besides the one being committed and the one being verified. Chosen: one keeps the
/// disk busy, and each further one takes the memory of its envelopes.
const WRITES_WAITING: usize = 1;
/// The number of envelopes per write. A guess: a write then has some MiB. The more there are, the less a signature in
/// them costs (`docs/performance.md`, *Signatures in batches*).
const WRITE_ENVELOPES: usize = 8192;

/// Envelopes of a chunk, each with its place.
pub(super) type Envelopes = Vec<(SequenceId, Bytes)>;

/// A function that commits changes to the log.
pub(super) type Commit<'a> = &'a dyn Fn(Vec<Change>) -> Result<(), BootstrapFetchError>;

/// A function that verifies and writes ascending envelopes after a sequence id. Returns the
/// number of those that break a rule.
pub(super) type Write<'a> =
    &'a dyn Fn(SequenceId, &[(SequenceId, Bytes)]) -> Result<u64, BootstrapFetchError>;

/// The treatment of sequence ids for which a snapshot has no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gaps {
    /// The places are marked as missing; no reader is served yet. The running node asks peers for those in strands
    /// of nodes. The tree of a chain's strand shows that its places are void.
    Mark,
    /// Writing stops before them, because peers have to be asked first.
    Stop,
}

/// Takes over the chunks of a strand that contain needed envelopes. Calls `note` with the length in bytes of each
/// chunk. Returns the last sequence id and counts.
///
/// # Errors
/// The first error. Everything before it is then in the log.
pub(super) fn take_over(
    place: &Bootstraps,
    stated: &BootstrapStrand,
    mut writing: Writing<'_>,
    note: &mut dyn FnMut(u64),
) -> Result<(SequenceId, Reached), BootstrapFetchError> {
    let (wanted, others): (Vec<_>, Vec<_>) =
        stated.chunks.iter().copied().partition(|chunk| writing.wants(chunk));
    others.iter().for_each(|chunk| note(chunk.len_bytes));
    each_chunk(place, stated.originator, wanted, &mut |chunk, envelopes| {
        writing.take(envelopes)?;
        note(chunk.len_bytes);
        Ok(())
    })?;
    Ok((writing.head, writing.reached))
}

/// Reads chunks in order, the next one while the previous one is processed.
///
/// # Errors
/// The errors of `take`, and of reading.
fn each_chunk(
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
        // The other side has ended with its own error.
        if chunks_to.send((chunk, envelopes)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Writes the envelopes of a strand to the log. The caller has proved that they belong there.
pub(super) struct Writing<'a> {
    write: Write<'a>,
    gaps: Gaps,
    head: SequenceId,
    through: SequenceId,
    reached: Reached,
}

impl<'a> Writing<'a> {
    /// Starts after `head`, the last sequence id in the log, and ends with `through`.
    pub(super) fn new(write: Write<'a>, gaps: Gaps, head: SequenceId, through: SequenceId) -> Self {
        Self { write, gaps, head, through, reached: Reached::default() }
    }

    /// Returns true if a chunk may contain a needed envelope.
    fn wants(&self, chunk: &BootstrapChunk) -> bool {
        self.head < chunk.through && chunk.from <= self.through
    }

    /// Verifies and writes the needed envelopes of a chunk. Returns false if it stopped at a gap.
    ///
    /// # Errors
    /// The first error.
    pub(super) fn take(&mut self, envelopes: Envelopes) -> Result<bool, BootstrapFetchError> {
        let is_wanted = |place: SequenceId| self.head < place && place <= self.through;
        let new: Envelopes = envelopes.into_iter().filter(|(place, _)| is_wanted(*place)).collect();
        for part in new.chunks(WRITE_ENVELOPES) {
            let whole = self.before_gap(part);
            if let Some((last, _)) = whole.last() {
                self.reached.invalid += (self.write)(self.head, whole)?;
                self.reached.envelopes += whole.len() as u64;
                self.reached.missing += last.0 - self.head.0 - whole.len() as u64;
                self.head = *last;
            }
            if whole.len() < part.len() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the envelopes up to the first gap at which writing has to stop.
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
}

/// Writes envelopes that must be signed by the originator of their strand. Gaps between them are marked.
///
/// # Errors
/// [`BootstrapFetchError::Forged`], and those of `commit`.
pub(super) fn write_signed(
    verifier: &EnvelopeVerifier,
    commit: Commit<'_>,
    mut head: SequenceId,
    envelopes: &[(SequenceId, Bytes)],
) -> Result<u64, BootstrapFetchError> {
    let mut invalid = 0;
    let mut changes = Vec::with_capacity(envelopes.len());
    for ((place, _), entry) in envelopes.iter().zip(require_signed(verifier, envelopes)?) {
        invalid += u64::from(matches!(entry.validity, Validity::Invalid(_)));
        changes.extend(gap(verifier.originator, head, *place));
        head = *place;
        changes.push(Change::Append(entry));
    }
    commit(changes)?;
    Ok(invalid)
}

/// Calls `work` with a function that hands over changes, and commits these in order on a thread of its own, so that
/// further envelopes are verified meanwhile. Ends when all of them are committed.
///
/// # Errors
/// The first error of `commit`, or else that of `work`.
pub(super) fn beside_commits<T>(
    commit: impl FnMut(Vec<Change>) -> Result<(), BootstrapFetchError> + Send,
    work: impl FnOnce(Commit<'_>) -> Result<T, BootstrapFetchError>,
) -> Result<T, BootstrapFetchError> {
    let (changes_to, changes) = mpsc::sync_channel::<Vec<Change>>(WRITES_WAITING);
    thread::scope(|scope| {
        let writing = scope.spawn(move || changes.into_iter().try_for_each(commit));
        let worked = {
            // The receiver is gone after an error of `commit`, which is returned in place of this one.
            let hand_over = |of: Vec<Change>| {
                changes_to.send(of).map_err(|_| BootstrapFetchError::from(BootstrapError::Stopped))
            };
            work(&hand_over)
        };
        drop(changes_to);
        match writing.join() {
            Ok(written) => written.and(worked),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Verifies envelopes on all cores and returns them as log entries, in order.
///
/// # Errors
/// [`BootstrapFetchError::Forged`].
pub(super) fn require_signed(
    verifier: &EnvelopeVerifier,
    envelopes: &[(SequenceId, Bytes)],
) -> Result<Vec<LogEntry>, BootstrapFetchError> {
    let originator = verifier.originator;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let checked = check_on(verifier, envelopes, threads);
    checked.map_err(|place| BootstrapFetchError::Forged { originator, place })
}

/// Verifies ids, signatures and rules on several threads; the entries have the order of the envelopes.
///
/// # Errors
/// A place whose envelope is not signed for it.
fn check_on(
    verifier: &EnvelopeVerifier,
    envelopes: &[(SequenceId, Bytes)],
    threads: usize,
) -> Result<Vec<LogEntry>, SequenceId> {
    let part = envelopes.len().div_ceil(threads.max(1)).max(1);
    thread::scope(|scope| {
        let parts = envelopes.chunks(part);
        let running: Vec<_> =
            parts.map(|part| scope.spawn(move || check(verifier, part))).collect();
        let mut entries = Vec::with_capacity(envelopes.len());
        for part in running {
            match part.join() {
                Ok(checked) => entries.append(&mut checked?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(entries)
    })
}

/// Verifies envelopes and returns them as log entries. Their form is the canonical one, as the verifier requires.
///
/// # Errors
/// A place whose envelope is not signed for it.
fn check(
    verifier: &EnvelopeVerifier,
    envelopes: &[(SequenceId, Bytes)],
) -> Result<Vec<LogEntry>, SequenceId> {
    let batch = envelopes.iter().map(|(_, bytes)| bytes.clone()).collect();
    let checked = envelopes.iter().zip(verifier.check(batch));
    let at_place = |((place, _), entry): (&(SequenceId, Bytes), VerifyResult)| match entry {
        Ok(entry) if entry.id == EnvelopeId::new(verifier.originator, *place) => Ok(entry),
        Ok(_) | Err(_) => Err(*place),
    };
    checked.map(at_place).collect()
}

#[cfg(test)]
mod tests {
    use hawser_storage::SkipReason;

    use super::*;

    fn change(place: u64) -> Vec<Change> {
        let (from, through) = (SequenceId(place), SequenceId(place));
        vec![Change::Skip {
            originator: OriginatorId(200),
            from,
            through,
            reason: SkipReason::Missing,
        }]
    }

    #[test]
    fn all_changes_are_committed_in_order_also_before_an_error() {
        let mut committed = Vec::new();
        let failed = beside_commits(
            |changes: Vec<Change>| {
                committed.extend(changes);
                Ok(())
            },
            |commit| {
                (1..=9).try_for_each(|place| commit(change(place)))?;
                Err::<(), _>(BootstrapFetchError::NothingTaken)
            },
        );
        assert!(matches!(failed, Err(BootstrapFetchError::NothingTaken)));
        assert_eq!(committed, (1..=9).flat_map(change).collect::<Vec<_>>());
    }

    #[test]
    fn a_commit_that_fails_ends_the_work_with_its_error() {
        let failed = beside_commits(
            |_| Err(BootstrapFetchError::NothingTaken),
            |commit| (1..).try_for_each(|place| commit(change(place))),
        );
        assert!(matches!(failed, Err(BootstrapFetchError::NothingTaken)));
    }
}
