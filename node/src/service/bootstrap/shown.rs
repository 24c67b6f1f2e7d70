//! Takes over the strand of a node before its signatures are checked, because that node and most others have signed its
//! tree: `--catch-up checkpoints`. The node that starts from the folder verifies the places like those that peers have
//! shown it: it passes them on, and charges payers for them, only afterwards.
//!
//! The adversary is the maker of the snapshot, also together with the strand's node. Envelopes are written as they
//! come, into a folder from which no node starts. When the strand has reached the end of the signed tree, its own tree
//! must be that one: else the snapshot is refused, and the folder with it. If a place before the end has no envelope,
//! the signatures of what was written are checked here.
//!
//! Invariant: the unverified places of a strand are its last ones, and the row `shown_by` has the tree with which they
//! end. A folder in which a strand ends before that is not released.

use hawser_engine::facts;
use hawser_engine::replication::EnvelopeVerifier;
use hawser_proto::checkpoint::{Checkpoint, SignedCheckpoint, SignedPrefix};
use hawser_proto::merkle::ConsistencyProof;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{
    BootstrapChunk, BootstrapStrand, Bootstraps, Change, Facts, HashedEnvelope, LogEntry, LogItem,
    ReadError, Store, Validity,
};

use super::error::BootstrapFetchError;
use super::gather::beside_loads;
use super::report::StrandCounts;
use super::strand::{
    self, CheckedPart, Envelopes, Gaps, WRITE_ENVELOPES, WRITE_LEN_BYTES, Writing, check,
    require_signed,
};
use crate::service::strand_faults::StrandFaults;

/// A strand is verified first if its signed tree leaves out more than this part of the places before the tree's end.
/// A guess: peers bring an eighth of a strand in less time than it takes to verify all of it.
const LEFT_OUT_PART: u64 = 8;
/// The number of envelopes that are read together. If any of them must not be shown before it is verified, they are
/// read again one by one. A guess: few enough that an hourly payer report costs little.
const READ_TOGETHER: usize = 256;

/// A strand with a tree that its node and most others have signed.
pub(super) struct Showing<'a> {
    /// The location of the snapshot.
    pub(super) place: &'a Bootstraps,
    /// The new node's log.
    pub(super) store: &'a Store,
    /// The verifier of the strand's envelopes.
    pub(super) verifier: &'a EnvelopeVerifier,
    /// The tree, signed by the strand's node.
    pub(super) signed: SignedCheckpoint,
}

/// The result of taking over a strand before its signatures are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakenFirst {
    /// Nothing was written: the signatures have to be checked first.
    Nothing,
    /// The strand reaches this sequence id, the end of the signed tree, and has that tree.
    Whole(SequenceId, StrandCounts),
    /// The next sequence id has no envelope, so the strand cannot get the signed tree. [`verify_shown`] has to check
    /// the signatures of what was written.
    Cut(StrandCounts),
}

impl Showing<'_> {
    /// Takes over the strand up to the end of the tree. Calls `note` with the length in bytes of each chunk.
    ///
    /// # Errors
    /// [`BootstrapFetchError::OtherTree`] when the envelopes make another tree, and other errors. What was written
    /// before stays in the folder, which is not released.
    pub(super) fn take_over(
        &self,
        stated: &BootstrapStrand,
        note: &mut dyn FnMut(u64),
    ) -> Result<TakenFirst, BootstrapFetchError> {
        let end = SequenceId(self.signed.checkpoint.size);
        let head = self.store.snapshot().head(stated.originator)?;
        if !self.may_show(stated, head)? {
            return Ok(TakenFirst::Nothing);
        }
        let (head, reached) = self.load(stated, head, note)?;
        if head < end {
            return Ok(TakenFirst::Cut(reached));
        }
        require_tree(self.store, &self.signed.checkpoint)?;
        Ok(TakenFirst::Whole(head, reached))
    }

    /// Returns true if the strand may be continued behind `head` before its signatures are checked.
    fn may_show(
        &self,
        stated: &BootstrapStrand,
        head: SequenceId,
    ) -> Result<bool, BootstrapFetchError> {
        let (originator, end) = (stated.originator, self.signed.checkpoint.size);
        let left_out = stated.head.0.saturating_sub(end);
        if left_out > end / LEFT_OUT_PART || head.0 > end {
            return Ok(false);
        }
        let is_wanted = |it: &BootstrapChunk| head < it.through && it.from.0 <= end;
        let chunks: Vec<_> = stated.chunks.iter().copied().filter(is_wanted).collect();
        Ok(self.store.tree_edge(originator)?.size() == head.0 && are_joined(head, &chunks))
    }

    /// Writes the envelopes behind `head`, up to the end of the tree or to a place without an envelope. Returns the
    /// last sequence id and counts.
    fn load(
        &self,
        stated: &BootstrapStrand,
        head: SequenceId,
        note: &mut dyn FnMut(u64),
    ) -> Result<(SequenceId, StrandCounts), BootstrapFetchError> {
        let &Self { place, store, verifier, signed } = self;
        let size = signed.checkpoint.size;
        let prefix = SignedPrefix { size, signed, proof: ConsistencyProof(Vec::new()) };
        let ((head, mut reached), invalid) = beside_loads(
            verifier,
            read_first,
            |changes, hashed| Ok(store.file(changes, hashed)?),
            |filed| Ok(store.load(filed, Some(&prefix))?),
            |write| {
                let writing = Writing::new(write, Gaps::Stop, head, SequenceId(size));
                strand::take_over(place, stated, writing, note)
            },
        )?;
        reached.invalid += invalid;
        Ok((head, reached))
    }
}

/// Checks the signatures of the unverified places of a strand, in the order of their places, and writes the verdicts.
/// `faults` records what the envelopes show of their node. Returns the number of envelopes that break a rule.
///
/// # Errors
/// [`BootstrapFetchError::Forged`], and those of reading and writing. Everything before is verified.
pub(super) fn verify_shown(
    store: &Store,
    verifier: &EnvelopeVerifier,
    faults: &mut StrandFaults,
) -> Result<u64, BootstrapFetchError> {
    let (originator, own) = (verifier.originator, verifier.own);
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, own);
    let mut invalid = 0;
    loop {
        let (verified, head) = ends(store, originator)?;
        if verified >= head {
            return Ok(invalid);
        }
        let envelopes = read_unverified(store, EnvelopeId::new(originator, verified), head)?;
        let entries = require_signed(verifier, &envelopes)?;
        let changes: Vec<Change> = entries.iter().cloned().map(Change::Append).collect();
        faults.record(store, &changes)?;
        invalid += store.commit_verified(originator, &entries, &derive)?.invalid;
    }
}

/// Reads the next envelopes behind `after`: at least one, and as many as are verified together.
///
/// # Errors
/// [`BootstrapFetchError::Read`], also if the log lacks the next one.
fn read_unverified(
    store: &Store,
    after: EnvelopeId,
    head: SequenceId,
) -> Result<Envelopes, BootstrapFetchError> {
    let (mut envelopes, mut len_bytes) = (Envelopes::new(), 0);
    for item in store.snapshot().log(after, head) {
        let LogItem::Envelope { id, bytes, .. } = item? else { break };
        len_bytes += bytes.len();
        envelopes.push((id.sequence, bytes));
        if len_bytes >= WRITE_LEN_BYTES || envelopes.len() == WRITE_ENVELOPES {
            break;
        }
    }
    match envelopes.is_empty() {
        true => {
            let next = EnvelopeId { sequence: after.sequence.next(), ..after };
            Err(ReadError::unreadable_envelope(next).into())
        }
        false => Ok(envelopes),
    }
}

/// Returns true if no place is left out between `head` and the first chunk, and between chunks.
fn are_joined(head: SequenceId, chunks: &[BootstrapChunk]) -> bool {
    // An earlier run may have written a part of the first chunk.
    chunks.first().is_none_or(|it| it.from <= head.next())
        && chunks.windows(2).all(|pair| pair[1].from == pair[0].through.next())
}

/// Reads envelopes without checking signatures. Verifies those that must not be shown first, such as payer reports. No
/// payer is charged by the entries.
///
/// # Errors
/// A place whose envelope belongs to another one, or is not signed for it, as far as signatures are checked.
fn read_first(
    verifier: &EnvelopeVerifier,
    envelopes: &[(SequenceId, Bytes)],
) -> Result<CheckedPart, SequenceId> {
    let (entries, hashed) =
        (Vec::with_capacity(envelopes.len()), Vec::with_capacity(envelopes.len()));
    let mut whole = CheckedPart { entries, hashed };
    for part in envelopes.chunks(READ_TOGETHER) {
        let bytes = part.iter().map(|(_, bytes)| bytes.clone()).collect();
        let read = match verifier.read(bytes) {
            Some(read) => read,
            None => read_singly(verifier, part)?,
        };
        for (entry, hashed) in read {
            whole.entries.push(entry);
            whole.hashed.push(hashed);
        }
    }
    let at = |place: &SequenceId| EnvelopeId::new(verifier.originator, *place);
    let mut placed = envelopes.iter().zip(&whole.entries);
    match placed.find(|((place, _), entry)| entry.id != at(place)) {
        Some(((place, _), _)) => Err(*place),
        None => Ok(whole),
    }
}

/// Reads envelopes like [`read_first`], one by one, and verifies together those that cannot be read so.
///
/// # Errors
/// A place whose envelope is not signed for it.
fn read_singly(
    verifier: &EnvelopeVerifier,
    envelopes: &[(SequenceId, Bytes)],
) -> Result<Vec<(LogEntry, HashedEnvelope)>, SequenceId> {
    let mut unread = Vec::new();
    let mut read = Vec::with_capacity(envelopes.len());
    for (place, bytes) in envelopes {
        let one = verifier.read(vec![bytes.clone()]).and_then(|mut one| one.pop());
        if one.is_none() {
            unread.push((*place, bytes.clone()));
        }
        read.push(one.ok_or(*place));
    }
    let mut checked = check(verifier, &unread)?.into_iter();
    let mut verified = |place: SequenceId| {
        let entry = checked.next().expect("one entry for each envelope that was not read");
        // Each of them is an envelope, because the verifier has read its outer layer.
        let hashed = HashedEnvelope::new(&entry.bytes);
        hashed.map(|hashed| (unbooked(entry), hashed)).ok_or(place)
    };
    read.into_iter().map(|one| one.or_else(&mut verified)).collect()
}

/// Returns an entry by which no payer is charged. The node charges payers when it verifies the strand in its order,
/// also for an envelope that breaks a rule.
fn unbooked(entry: LogEntry) -> LogEntry {
    let LogEntry { id, bytes, validity, facts } = entry;
    let facts = facts.filter(|_| validity == Validity::Valid).map(Facts::unbooked);
    LogEntry { id, bytes, validity, facts }
}

/// Returns the number of the last places of a strand whose signatures are not checked.
///
/// # Errors
/// When a row cannot be read.
pub(super) fn unverified(
    store: &Store,
    originator: OriginatorId,
) -> Result<u64, BootstrapFetchError> {
    let (verified, head) = ends(store, originator)?;
    Ok(head.0.saturating_sub(verified.0))
}

/// Returns the last verified sequence id of a strand and its last one.
fn ends(
    store: &Store,
    originator: OriginatorId,
) -> Result<(SequenceId, SequenceId), BootstrapFetchError> {
    let snapshot = store.snapshot();
    Ok((snapshot.verified_head(originator)?, snapshot.head(originator)?))
}

/// Requires that all signatures of a strand were checked, so that verified envelopes may follow.
///
/// # Errors
/// [`BootstrapFetchError::ShownPart`].
pub(super) fn require_verified(
    store: &Store,
    originator: OriginatorId,
) -> Result<(), BootstrapFetchError> {
    let (verified, head) = ends(store, originator)?;
    match verified < head {
        true => Err(BootstrapFetchError::ShownPart { originator, verified, head }),
        false => Ok(()),
    }
}

/// Requires that a strand with unverified places ends with the tree that nodes vouch for, and has that tree.
///
/// # Errors
/// [`BootstrapFetchError::ShownPart`], and [`BootstrapFetchError::OtherTree`].
pub(super) fn require_whole(
    store: &Store,
    originator: OriginatorId,
) -> Result<(), BootstrapFetchError> {
    let snapshot = store.snapshot();
    let head = snapshot.head(originator)?;
    match snapshot.shown_by(originator)? {
        Some(prefix) if prefix.size == head.0 => require_tree(store, &prefix.signed.checkpoint),
        Some(_) | None => require_verified(store, originator),
    }
}

/// Requires that a strand has a signed tree.
///
/// # Errors
/// [`BootstrapFetchError::OtherTree`].
fn require_tree(store: &Store, of: &Checkpoint) -> Result<(), BootstrapFetchError> {
    let &Checkpoint { node, originator, size, root, .. } = of;
    match store.snapshot().root(originator, size)? == root {
        true => Ok(()),
        false => Err(BootstrapFetchError::OtherTree { originator, node, size }),
    }
}

#[cfg(test)]
mod tests;
