//! Runs of envelopes that a strand's own node has signed as a whole: the decision to show them before each one is
//! verified.
//!
//! A peer can lie about all of it: the tree, the proof, the checkpoint, the envelopes. A run counts only if the
//! tree that was accepted before, with the leaves of the run, is the beginning of a tree that the strand's own node
//! has signed. So this node has stated these bytes in this order. The signatures on the envelopes are no part of a
//! leaf, and payers' signatures are not checked. A refused run is verified envelope by envelope, so a lie gains
//! nothing.

use hawser_proto::checkpoint::{SignedCheckpoint, SignedPrefix};
use hawser_proto::merkle::{CompactRange, TreeHash};
use hawser_proto::{OriginatorId, PublicKey, SequenceId};
use hawser_storage::LogEntry;

/// Ranges of unverified places whose senders are remembered. A guess: with more ranges, the earliest senders are not
/// disconnected for a bad one; nothing else depends on it.
const SENDERS_MAX: usize = 64;

/// The runs of one strand that were accepted, and not all verified yet. Does no I/O. Keeps the edge of the tree and no
/// envelopes.
#[derive(Debug)]
pub struct SignedRuns {
    originator: OriginatorId,
    key: PublicKey,
    /// The tree at the last place that was accepted; `None` if that is not known.
    edge: Option<CompactRange>,
    /// The last proof that was verified, with the signature of its checkpoint.
    trusted: Option<SignedPrefix>,
    /// The senders of unverified places, ascending.
    senders: Vec<RunSender>,
}

/// The peer that sent consecutive runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RunSender {
    /// The first place of the runs.
    from: SequenceId,
    /// Their last place.
    through: SequenceId,
    peer: OriginatorId,
}

/// A run of envelopes that a tree signed by their originator contains. Their own signatures are not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedRun {
    /// The entries, not verified.
    pub entries: Vec<LogEntry>,
    edge: CompactRange,
    prefix: SignedPrefix,
}

/// The facts by which one run is judged, beside its bytes.
#[derive(Debug, Clone)]
pub struct RunJudge {
    originator: OriginatorId,
    key: PublicKey,
    accepted: SequenceId,
    edge: Option<CompactRange>,
    trusted: Option<SignedCheckpoint>,
}

impl SignedRuns {
    /// Creates a value without runs. `key` is the key of the strand's node.
    #[must_use]
    pub fn new(originator: OriginatorId, key: PublicKey) -> Self {
        Self { originator, key, edge: None, trusted: None, senders: Vec::new() }
    }

    /// Takes over the proof that the runs of an earlier process were accepted by.
    pub fn remember(&mut self, trusted: SignedPrefix) {
        self.trusted = Some(trusted);
    }

    /// Returns true if the last run ended at this place.
    #[must_use]
    pub fn end_at(&self, accepted: SequenceId) -> bool {
        self.edge.as_ref().is_some_and(|edge| edge.size() == accepted.0)
    }

    /// Returns the judge of the run behind `accepted`. Before the first run it [needs the tree](RunJudge::needs_tree).
    #[must_use]
    pub fn judge(&self, accepted: SequenceId) -> RunJudge {
        let edge = self.edge.clone().filter(|edge| edge.size() == accepted.0);
        let (originator, key) = (self.originator, self.key);
        let trusted = self.trusted.as_ref().map(|prefix| prefix.signed);
        RunJudge { originator, key, accepted, edge, trusted }
    }

    /// Takes over a run whose places are on their way to readers. Returns its entries.
    pub fn note(&mut self, peer: OriginatorId, run: AcceptedRun) -> Vec<LogEntry> {
        let AcceptedRun { entries, edge, prefix } = run;
        let last = SequenceId(edge.size());
        match self.senders.last_mut() {
            Some(sender) if sender.peer == peer => sender.through = last,
            _ => {
                let from = entries.first().map_or(last, |entry| entry.id.sequence);
                self.senders.push(RunSender { from, through: last, peer });
            }
        }
        if self.senders.len() > SENDERS_MAX {
            self.senders.remove(0);
        }
        (self.edge, self.trusted) = (Some(edge), Some(prefix));
        entries
    }

    /// Returns the proof that the last run was accepted by; `None` before the first run.
    #[must_use]
    pub fn trusted(&self) -> Option<&SignedPrefix> {
        self.trusted.as_ref()
    }

    /// Returns the peer that has sent an unverified place, if it is known.
    #[must_use]
    pub fn sender_of(&self, place: SequenceId) -> Option<OriginatorId> {
        let has = |it: &&RunSender| (it.from..=it.through).contains(&place);
        self.senders.iter().find(has).map(|it| it.peer)
    }

    /// Forgets the senders of envelopes that are now verified.
    pub fn note_verified(&mut self, verified: SequenceId) {
        self.senders.retain(|it| it.through > verified);
    }

    /// Forgets all runs: their places are verified.
    pub fn clear(&mut self) {
        (self.edge, self.senders) = (None, Vec::new());
    }
}

impl RunJudge {
    /// Returns true if the tree of the strand has to be read.
    #[must_use]
    pub fn needs_tree(&self) -> bool {
        self.edge.is_none()
    }

    /// Takes the tree of the strand as it is stored.
    #[must_use]
    pub fn with_tree(self, edge: CompactRange) -> Self {
        Self { edge: Some(edge), ..self }
    }

    /// Judges a run, given the entries that [`EnvelopeVerifier::read`](super::EnvelopeVerifier::read) has read of
    /// it, in order. `None` if the strand's node has not signed them, or the tree does not end at the run's
    /// beginning.
    #[must_use]
    pub fn accept(
        self,
        prefix: &SignedPrefix,
        read: Vec<(LogEntry, TreeHash)>,
    ) -> Option<AcceptedRun> {
        let of = prefix.signed.checkpoint;
        if (of.node, of.originator) != (self.originator, self.originator) || read.is_empty() {
            return None;
        }
        let mut edge = self.edge.filter(|edge| edge.size() == self.accepted.0)?;
        let mut entries = Vec::with_capacity(read.len());
        for (entry, leaf) in read {
            if entry.id.sequence.0 != edge.size() + 1 {
                return None;
            }
            edge.append(leaf, |_, _| {});
            entries.push(entry);
        }
        // The hashes first: a signature costs more than they do.
        let is_beginning = prefix.size == edge.size() && prefix.begins_with(edge.root()).is_ok();
        let is_signed =
            || self.trusted == Some(prefix.signed) || prefix.signed.verify(&self.key).is_ok();
        let is_shown = is_beginning && is_signed();
        is_shown.then(|| AcceptedRun { entries, edge, prefix: prefix.clone() })
    }
}

#[cfg(test)]
mod tests;
