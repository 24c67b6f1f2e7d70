//! Takes over the strand of a node before its signatures are checked, because that node and most others have signed its
//! tree: `--catch-up checkpoints`. The node that starts from the folder verifies the places like those that peers have
//! shown it: it passes them on, and charges payers for them, only afterwards.
//!
//! The adversary is the maker of the snapshot, also together with the strand's node. The chunks are read twice. Only if
//! the first pass shows that they are the beginning of the signed tree, without a gap, the second one writes them. The
//! names of chunks are the hashes of their bytes, so both passes read the same.
//!
//! Invariant: the unverified places of a strand are its last ones, and the row `shown_by` has the tree with which they
//! end. A folder in which a strand ends before that is not released.

use hawser_engine::replication::EnvelopeVerifier;
use hawser_proto::checkpoint::{SignedCheckpoint, SignedPrefix};
use hawser_proto::merkle::{ConsistencyProof, envelope_leaf};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{
    BootstrapChunk, BootstrapStrand, Bootstraps, Facts, HashedEnvelope, LogEntry, Store, Validity,
};

use super::error::BootstrapFetchError;
use super::report::StrandCounts;
use super::strand::{self, CheckedPart, Gaps, Writing, beside_checks, check, each_chunk};

/// A strand is verified first if its signed tree leaves out more than this part of the places before the tree's end.
/// A guess: peers bring an eighth of a strand in less time than it takes to verify all of it.
const LEFT_OUT_PART: u64 = 8;
/// The number of envelopes that are read together. They are read again one by one if one of them must not be shown
/// first. A guess: few enough that an hourly payer report costs little.
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

impl Showing<'_> {
    /// Takes over the strand up to the end of the tree. Calls `note` with the length in bytes of each chunk. Returns
    /// the last sequence id and counts; `None` if the strand has to be verified first, because a sequence id up to
    /// there has no envelope, or too many are behind it. Nothing is written then.
    ///
    /// # Errors
    /// [`BootstrapFetchError::OtherTree`] before anything is written, and other errors. Everything before these is in
    /// the log.
    pub(super) fn take_over(
        &self,
        stated: &BootstrapStrand,
        note: &mut dyn FnMut(u64),
    ) -> Result<Option<(SequenceId, StrandCounts)>, BootstrapFetchError> {
        let &Self { place, store, verifier, signed } = self;
        let end = SequenceId(signed.checkpoint.size);
        let head = store.snapshot().head(stated.originator)?;
        let left_out = stated.head.0.saturating_sub(end.0);
        if left_out > end.0 / LEFT_OUT_PART || head > end || !self.has_tree(stated, head)? {
            return Ok(None);
        }
        let proof = ConsistencyProof(Vec::new());
        let prefix = SignedPrefix { size: end.0, signed, proof };
        let ((head, mut reached), invalid) = beside_checks(
            verifier,
            read_first,
            |changes, hashed| Ok(store.commit_shown_by(&changes, &prefix, &hashed)?),
            |write| {
                let writing = Writing::new(write, Gaps::Stop, head, end);
                strand::take_over(place, stated, writing, note)
            },
        )?;
        reached.invalid += invalid;
        Ok(Some((head, reached)))
    }

    /// Reads the envelopes behind `head`, and returns true if the log's tree with them is the signed one. Returns false
    /// if a sequence id has no envelope. Writes nothing.
    ///
    /// # Errors
    /// [`BootstrapFetchError::OtherTree`], [`BootstrapFetchError::Forged`] for bytes that are no envelope, and those of
    /// reading.
    fn has_tree(
        &self,
        stated: &BootstrapStrand,
        head: SequenceId,
    ) -> Result<bool, BootstrapFetchError> {
        let (originator, of) = (stated.originator, self.signed.checkpoint);
        let end = SequenceId(of.size);
        let mut tree = self.store.tree_edge(originator)?;
        let is_wanted = |it: &BootstrapChunk| head < it.through && it.from <= end;
        let chunks: Vec<_> = stated.chunks.iter().copied().filter(is_wanted).collect();
        if tree.size() != head.0 || !are_joined(head, &chunks) {
            return Ok(false);
        }
        let mut is_whole = true;
        each_chunk(self.place, originator, chunks, &mut |_, envelopes| {
            for (at, bytes) in envelopes.iter().filter(|(at, _)| head < *at && *at <= end) {
                let no_envelope = || BootstrapFetchError::Forged { originator, place: *at };
                let leaf = envelope_leaf(bytes).ok_or_else(no_envelope)?;
                is_whole &= at.0 == tree.size() + 1;
                if is_whole {
                    tree.append(leaf, |_, _| {});
                }
            }
            Ok(())
        })?;
        if !is_whole || tree.size() < of.size {
            return Ok(false);
        }
        if tree.root() != of.root {
            let (node, size) = (of.node, of.size);
            return Err(BootstrapFetchError::OtherTree { originator, node, size });
        }
        Ok(true)
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
    let mut whole = CheckedPart::default();
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
    let snapshot = store.snapshot();
    Ok(snapshot.head(originator)?.0.saturating_sub(snapshot.verified_head(originator)?.0))
}

/// Requires that all signatures of a strand were checked, so that verified envelopes may follow.
///
/// # Errors
/// [`BootstrapFetchError::ShownPart`].
pub(super) fn require_verified(
    store: &Store,
    originator: OriginatorId,
) -> Result<(), BootstrapFetchError> {
    let snapshot = store.snapshot();
    let (verified, head) = (snapshot.verified_head(originator)?, snapshot.head(originator)?);
    match verified < head {
        true => Err(BootstrapFetchError::ShownPart { originator, verified, head }),
        false => Ok(()),
    }
}

/// Requires that a strand with unverified places ends with the tree that nodes vouch for. A part of it was compared
/// with the tree, too, but the row `shown_by` would name a tree that the folder does not have.
///
/// # Errors
/// [`BootstrapFetchError::ShownPart`].
pub(super) fn require_whole(
    store: &Store,
    originator: OriginatorId,
) -> Result<(), BootstrapFetchError> {
    let snapshot = store.snapshot();
    let head = snapshot.head(originator)?;
    match snapshot.shown_by(originator)? {
        Some(prefix) if prefix.size == head.0 => Ok(()),
        Some(_) | None => require_verified(store, originator),
    }
}

#[cfg(test)]
mod tests;
