//! Reads, verifies and writes one strand of a snapshot. Envelopes of nodes are verified here like those that a follower
//! gets from peers; `chain` verifies those of chains.

use std::sync::mpsc;
use std::thread::{self, Scope};

use hawser_engine::replication::{EnvelopeVerifier, VerifyResult};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{
    BootstrapChunk, BootstrapError, BootstrapStrand, Bootstraps, Change, HashedEnvelope, LogEntry,
    Validity,
};

use super::error::BootstrapFetchError;
use super::report::StrandCounts;
use crate::service::import::gap;

/// The number of chunks that wait for verification, besides the one being verified and the one being read.
/// Chosen: one keeps the cores busy, and each further one takes the memory of a chunk.
const WAITING: usize = 1;
/// The number of writes that are verified or wait, besides the one being committed and the one that was started last.
/// Chosen: one keeps the disk and all cores busy, and each further one takes the memory of its envelopes.
const WRITES_WAITING: usize = 1;
/// The number of envelopes per write. A guess: a write then has some MiB. The more there are, the less a signature in
/// them costs (`docs/performance.md`, *Signatures in batches*).
pub(super) const WRITE_ENVELOPES: usize = 8192;
/// The length of the envelopes at which a write ends, in bytes. Chosen: a chunk of the usual length. Several writes are
/// verified at once, and the layers of an envelope can take ten times the memory of its bytes.
pub(super) const WRITE_LEN_BYTES: usize = 8 << 20;

/// Envelopes of a chunk, each with its place.
pub(super) type Envelopes = Vec<(SequenceId, Bytes)>;

/// A function that commits changes to the log.
pub(super) type Commit<'a> = &'a dyn Fn(Vec<Change>) -> Result<(), BootstrapFetchError>;

/// A function that takes work over from the thread that has prepared it.
pub(super) type WorkSink<'a, W> = &'a (dyn Fn(W) -> Result<(), BootstrapFetchError> + Sync);

/// A function that verifies and writes ascending envelopes after a sequence id, or starts to. Returns the number of
/// those that are known to break a rule.
pub(super) type Write<'a> =
    &'a dyn Fn(SequenceId, &[(SequenceId, Bytes)]) -> Result<u64, BootstrapFetchError>;

/// The entries of checked envelopes.
#[derive(Debug, Default)]
pub(super) struct CheckedPart {
    /// The entries, in the order of the envelopes.
    pub(super) entries: Vec<LogEntry>,
    /// The same envelopes with their leaves. Empty if they were not hashed.
    pub(super) hashed: Vec<HashedEnvelope>,
}

/// A function that checks ascending envelopes of a strand. Its error is a place whose envelope is not signed for it.
pub(super) type CheckFn =
    fn(&EnvelopeVerifier, &[(SequenceId, Bytes)]) -> Result<CheckedPart, SequenceId>;

/// The treatment of sequence ids for which a snapshot has no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gaps {
    /// The places are marked as missing; no reader is served yet. The running node asks peers for those in strands
    /// of nodes. The tree of a chain's strand shows that its places are void.
    Mark,
    /// Writing stops before them, because peers have to be asked first.
    Stop,
}

/// Takes over the chunks of a strand that contain needed envelopes, up to a gap at which writing stops. Calls `note`
/// with the length in bytes of each chunk. Returns the last sequence id and counts.
///
/// # Errors
/// The first error. Everything before it is then in the log.
pub(super) fn take_over(
    place: &Bootstraps,
    stated: &BootstrapStrand,
    mut writing: Writing<'_>,
    note: &mut dyn FnMut(u64),
) -> Result<(SequenceId, StrandCounts), BootstrapFetchError> {
    let (wanted, others): (Vec<_>, Vec<_>) =
        stated.chunks.iter().copied().partition(|chunk| writing.wants(chunk));
    others.iter().for_each(|chunk| note(chunk.len_bytes));
    each_chunk(place, stated.originator, wanted, &mut |chunk, envelopes| {
        let goes_on = writing.take(envelopes)?;
        note(chunk.len_bytes);
        Ok(goes_on)
    })?;
    Ok((writing.head, writing.reached))
}

/// Reads chunks in order, the next one while the previous one is processed. Ends when `take` returns false.
///
/// # Errors
/// The errors of `take`, and of reading.
fn each_chunk(
    place: &Bootstraps,
    originator: OriginatorId,
    wanted: Vec<BootstrapChunk>,
    take: &mut dyn FnMut(BootstrapChunk, Envelopes) -> Result<bool, BootstrapFetchError>,
) -> Result<(), BootstrapFetchError> {
    let (chunks_to, chunks) = mpsc::sync_channel(WAITING);
    thread::scope(|scope| {
        let reading = scope.spawn(move || read(place, originator, wanted, &chunks_to));
        for (chunk, envelopes) in chunks {
            if !take(chunk, envelopes)? {
                break;
            }
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
    reached: StrandCounts,
}

impl<'a> Writing<'a> {
    /// Starts after `head`, the last sequence id in the log, and ends with `through`.
    pub(super) fn new(write: Write<'a>, gaps: Gaps, head: SequenceId, through: SequenceId) -> Self {
        Self { write, gaps, head, through, reached: StrandCounts::default() }
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
        let mut left = &new[..];
        while !left.is_empty() {
            let (part, others) = left.split_at(write_len(left));
            left = others;
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

/// Returns the number of envelopes in the next write. At least one of them is left.
fn write_len(left: &[(SequenceId, Bytes)]) -> usize {
    let mut len_bytes = 0;
    let fits = |(_, bytes): &&(SequenceId, Bytes)| {
        let is_full = len_bytes >= WRITE_LEN_BYTES;
        len_bytes += bytes.len();
        !is_full
    };
    left.iter().take(WRITE_ENVELOPES).take_while(fits).count()
}

/// Writes envelopes that must be signed by the originator of their strand. Gaps between them are marked.
///
/// # Errors
/// [`BootstrapFetchError::Forged`], and those of `commit`.
pub(super) fn write_signed(
    verifier: &EnvelopeVerifier,
    commit: Commit<'_>,
    head: SequenceId,
    envelopes: &[(SequenceId, Bytes)],
) -> Result<u64, BootstrapFetchError> {
    let entries = require_signed(verifier, envelopes)?;
    let (changes, invalid) = changes_of(verifier.originator, head, entries);
    commit(changes)?;
    Ok(invalid)
}

/// Returns the changes that append entries after `head`, with marks of the gaps between them, and the number of entries
/// that break a rule.
fn changes_of(
    originator: OriginatorId,
    mut head: SequenceId,
    entries: Vec<LogEntry>,
) -> (Vec<Change>, u64) {
    let (mut changes, mut invalid) = (Vec::with_capacity(entries.len()), 0);
    for entry in entries {
        invalid += u64::from(matches!(entry.validity, Validity::Invalid(_)));
        changes.extend(gap(originator, head, entry.id.sequence));
        head = entry.id.sequence;
        changes.push(Change::Append(entry));
    }
    (changes, invalid)
}

/// Calls `work` with a function that starts to check envelopes with `check_part`, such as [`check_signed`], and commits
/// them in order. The next write is checked while others are, and while one is committed, so no core waits for the last
/// part of a write. Ends when all of them are committed. Returns the result of `work` with the number of envelopes that
/// break a rule.
///
/// # Errors
/// The first one of [`BootstrapFetchError::Forged`] and those of `commit`, or else that of `work`. Everything before it
/// is committed.
pub(super) fn beside_checks<T>(
    verifier: &EnvelopeVerifier,
    check_part: CheckFn,
    mut commit: impl FnMut(Vec<Change>, Vec<HashedEnvelope>) -> Result<(), BootstrapFetchError> + Send,
    work: impl FnOnce(Write<'_>) -> Result<T, BootstrapFetchError>,
) -> Result<(T, u64), BootstrapFetchError> {
    let mut invalid = 0;
    let worked = thread::scope(|scope| {
        beside_commits(
            WRITES_WAITING,
            |running: RunningChecks| {
                let head = running.head;
                let CheckedPart { entries, hashed } = running.end(verifier.originator)?;
                let (changes, of_write) = changes_of(verifier.originator, head, entries);
                invalid += of_write;
                commit(changes, hashed)
            },
            |hand_over| {
                let write: Write<'_> = &|head, envelopes| {
                    let checks = (verifier, check_part);
                    hand_over(RunningChecks::start(scope, checks, head, envelopes))?;
                    Ok(0)
                };
                work(write)
            },
        )
    })?;
    Ok((worked, invalid))
}

/// The envelopes of one write, which are being checked.
struct RunningChecks {
    /// The place before them.
    head: SequenceId,
    /// The results of the parts, in order.
    parts: Vec<mpsc::Receiver<Result<CheckedPart, SequenceId>>>,
}

impl RunningChecks {
    /// Starts to check ascending envelopes after `head`, a part of them on a thread for each core.
    fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        (verifier, check_part): (&'scope EnvelopeVerifier, CheckFn),
        head: SequenceId,
        envelopes: &[(SequenceId, Bytes)],
    ) -> Self {
        let start = |part: &[(SequenceId, Bytes)]| {
            let (checked_to, checked) = mpsc::sync_channel(1);
            let part = in_own_memory(part);
            scope.spawn(move || {
                // The receiver is gone after an error, which ends the work.
                let _ = checked_to.send(check_part(verifier, &part));
            });
            checked
        };
        let parts = envelopes.chunks(part_len(envelopes.len(), cores())).map(start).collect();
        Self { head, parts }
    }

    /// Waits for the entries, in the order of the envelopes.
    ///
    /// # Errors
    /// [`BootstrapFetchError::Forged`].
    fn end(self, originator: OriginatorId) -> Result<CheckedPart, BootstrapFetchError> {
        let mut whole = CheckedPart::default();
        for part in self.parts {
            // A thread without a result has panicked, which its scope passes on.
            let checked = part.recv().map_err(|_| BootstrapError::Stopped)?;
            let forged = |place| BootstrapFetchError::Forged { originator, place };
            let mut checked = checked.map_err(forged)?;
            whole.entries.append(&mut checked.entries);
            whole.hashed.append(&mut checked.hashed);
        }
        Ok(whole)
    }
}

/// Copies envelopes into memory that no other thread reads. All parts of an envelope that is read share its memory, and
/// count the references to it: threads that count those to one chunk would wait for one another.
fn in_own_memory(envelopes: &[(SequenceId, Bytes)]) -> Envelopes {
    let mut copied: Vec<u8> =
        Vec::with_capacity(envelopes.iter().map(|(_, bytes)| bytes.len()).sum());
    envelopes.iter().for_each(|(_, bytes)| copied.extend_from_slice(bytes));
    let (copied, mut end) = (Bytes::from(copied), 0);
    let copy_of = |(place, bytes): &(SequenceId, Bytes)| {
        let from = end;
        end += bytes.len();
        (*place, copied.slice(from..end))
    };
    envelopes.iter().map(copy_of).collect()
}

/// Calls `work` with a function that hands over writes, and commits these in order on a thread of its own, so that
/// further envelopes are verified meanwhile. `waiting` writes may wait for the one that is being committed. Ends when
/// all of them are committed.
///
/// # Errors
/// The first error of `commit`, or else that of `work`.
pub(super) fn beside_commits<W: Send, T>(
    waiting: usize,
    commit: impl FnMut(W) -> Result<(), BootstrapFetchError> + Send,
    work: impl FnOnce(WorkSink<'_, W>) -> Result<T, BootstrapFetchError>,
) -> Result<T, BootstrapFetchError> {
    let (writes_to, writes) = mpsc::sync_channel::<W>(waiting);
    thread::scope(|scope| {
        let writing = scope.spawn(move || writes.into_iter().try_for_each(commit));
        let worked = {
            // The receiver is gone after an error of `commit`, which is returned in place of this one.
            let hand_over = |write: W| {
                writes_to
                    .send(write)
                    .map_err(|_| BootstrapFetchError::from(BootstrapError::Stopped))
            };
            work(&hand_over)
        };
        drop(writes_to);
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
    let checked = check_on(verifier, envelopes, cores());
    checked.map_err(|place| BootstrapFetchError::Forged { originator, place })
}

/// Verifies the envelopes of a chunk, as many at a time as are written together: a chunk of a liar may have so many
/// that all of them decoded at once would take ten times its length in memory.
///
/// # Errors
/// [`BootstrapFetchError::Forged`].
pub(super) fn require_all_signed(
    verifier: &EnvelopeVerifier,
    envelopes: &[(SequenceId, Bytes)],
) -> Result<(), BootstrapFetchError> {
    let mut left = envelopes;
    while !left.is_empty() {
        let (part, others) = left.split_at(write_len(left));
        require_signed(verifier, part)?;
        left = others;
    }
    Ok(())
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
    thread::scope(|scope| {
        let parts = envelopes.chunks(part_len(envelopes.len(), threads));
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

/// Returns the number of cores of this machine.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the number of envelopes of each part, so that there are at most so many parts.
fn part_len(envelopes: usize, parts: usize) -> usize {
    envelopes.div_ceil(parts.max(1)).max(1)
}

/// Verifies envelopes like [`check`], for [`beside_checks`].
///
/// # Errors
/// A place whose envelope is not signed for it.
pub(super) fn check_signed(
    verifier: &EnvelopeVerifier,
    envelopes: &[(SequenceId, Bytes)],
) -> Result<CheckedPart, SequenceId> {
    let entries = check(verifier, envelopes)?;
    Ok(CheckedPart { entries, hashed: Vec::new() })
}

/// Verifies envelopes and returns them as log entries. Their form is the canonical one, as the verifier requires.
///
/// # Errors
/// A place whose envelope is not signed for it.
pub(super) fn check(
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
    use hawser_proto::envelope::{OriginatorEnvelope, Proof};
    use hawser_proto::sign::originator_digest;
    use hawser_rules::Absences;
    use hawser_storage::SkipReason;

    use super::*;
    use crate::service::testing::key;

    /// Returns an envelope that its node has signed, and that breaks a rule, because it has no payer.
    fn signed(place: u8) -> (SequenceId, Bytes) {
        let statement = Bytes::from(vec![1 << 3, 100, 2 << 3, place]);
        let signature = key(100).sign(originator_digest(&statement));
        let bytes = OriginatorEnvelope::encode(statement, Proof::Signature(signature));
        (SequenceId(u64::from(place)), bytes)
    }

    /// Verifies and commits writes. Returns the result, and the places that were committed.
    fn write_all(
        writes: &[Envelopes],
    ) -> (Result<(SequenceId, u64), BootstrapFetchError>, Vec<u64>) {
        let (originator, own) = (OriginatorId(100), OriginatorId(400));
        let (key, absences) = (key(100).public_key(), Absences::NONE);
        let verifier = EnvelopeVerifier { originator, key, own, absences };
        let mut committed = Vec::new();
        let written = beside_checks(
            &verifier,
            check_signed,
            |changes: Vec<Change>, _| {
                committed.extend(changes.into_iter().map(|change| match change {
                    Change::Append(entry) => entry.id.sequence.0,
                    Change::Skip { from, .. } => from.0,
                }));
                Ok(())
            },
            |write| {
                let mut head = SequenceId::NONE;
                for envelopes in writes {
                    write(head, envelopes)?;
                    head = envelopes[envelopes.len() - 1].0;
                }
                Ok(head)
            },
        );
        (written, committed)
    }

    /// The next writes are being verified when the forged envelope is found.
    #[test]
    fn writes_are_committed_in_order_up_to_the_first_one_that_is_forged() {
        let places = |from: u8, through: u8| (from..=through).map(signed).collect::<Envelopes>();
        let mut writes = vec![places(1, 5), places(6, 6), places(8, 20), places(21, 90)];
        let (written, committed) = write_all(&writes);
        assert_eq!(written.unwrap(), (SequenceId(90), 89));
        assert_eq!(committed, (1..=90).collect::<Vec<u64>>(), "the seventh as missing");
        // The envelope of another place.
        writes[2][4].1 = signed(99).1;
        let (written, committed) = write_all(&writes);
        let is_named =
            matches!(written, Err(BootstrapFetchError::Forged { place: SequenceId(12), .. }));
        assert!(is_named, "{written:?}");
        assert_eq!(committed, (1..=6).collect::<Vec<u64>>());
    }

    #[test]
    fn copies_of_envelopes_are_equal_and_share_no_memory_with_them() {
        let chunk = Bytes::from((0..=99).collect::<Vec<u8>>());
        let envelopes: Envelopes = [(3, 10..40), (5, 40..41), (9, 60..100)]
            .map(|(at, of)| (SequenceId(at), chunk.slice(of)))
            .to_vec();
        let copies = in_own_memory(&envelopes);
        assert_eq!(copies, envelopes);
        drop(envelopes);
        assert!(chunk.is_unique());
    }

    #[test]
    fn a_write_is_bounded_by_its_envelopes_and_by_their_length() {
        let of = |len_bytes: usize, count: usize| -> Envelopes {
            vec![(SequenceId(1), Bytes::from(vec![0; len_bytes])); count]
        };
        assert_eq!(write_len(&of(1, WRITE_ENVELOPES + 1)), WRITE_ENVELOPES);
        assert_eq!(write_len(&of(WRITE_LEN_BYTES / 2, 3)), 2);
        assert_eq!(write_len(&of(WRITE_LEN_BYTES + 1, 2)), 1);
    }

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
            1,
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
            0,
            |_: Vec<Change>| Err(BootstrapFetchError::NothingTaken),
            |commit| (1..).try_for_each(|place| commit(change(place))),
        );
        assert!(matches!(failed, Err(BootstrapFetchError::NothingTaken)));
    }
}
