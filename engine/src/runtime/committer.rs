//! The one way into the log: durable first, then announced, then passed on to subscribers.

use std::collections::BTreeSet;
use std::sync::Arc;

use hawser_proto::checkpoint::SignedPrefix;
use hawser_proto::{Cursor, EnvelopeId, SequenceId};
use hawser_storage::{
    ChainCommit, Change, CommitError, HashedEnvelope, LogEntry, ReadError, Store,
};

use super::read::fan_out::FanOut;
use crate::committed::Committed;
use crate::read::backlog::Audience;
use crate::runtime::Heads;
use crate::runtime::counters::Counters;

/// Writes changes to the log, then announces them to everything that waits for the log to grow.
///
/// Invariant: one strand is committed by one caller at a time; different strands may be committed
/// at once, and the store then lets them share a sync.
#[derive(Clone)]
pub struct Committer {
    store: Store,
    heads: Heads,
    /// The heads as far as strands are verified.
    verified: Heads,
    streams: FanOut,
    counters: Arc<Counters>,
}

impl Committer {
    /// Creates a committer. `heads` gets the durable ends of strands, and the second one their verified ends.
    #[must_use]
    pub(super) fn new(
        store: Store,
        [heads, verified]: [&Heads; 2],
        streams: FanOut,
        counters: Arc<Counters>,
    ) -> Self {
        let (heads, verified) = (heads.clone(), verified.clone());
        Self { store, heads, verified, streams, counters }
    }

    /// Commits `changes` as a whole. Returns when they are durable; subscribers get them from another
    /// thread. Blocks for a sync of the disk.
    ///
    /// # Errors
    /// Nothing was written. See [`CommitError`] for what may be done about it.
    pub fn commit(&self, changes: Vec<Change>) -> Result<(), CommitError> {
        self.try_commit(changes).map_err(|(error, _)| error)
    }

    /// Commits as [`Committer::commit`], and gives the changes back if they were not written.
    ///
    /// # Errors
    /// The errors of [`Committer::commit`].
    pub(super) fn try_commit(
        &self,
        changes: Vec<Change>,
    ) -> Result<(), (CommitError, Vec<Change>)> {
        self.commit_by(Store::commit, changes, false)
    }

    /// Commits envelopes that are not verified yet, as [`Committer::try_commit`] does. Readers get them. The store
    /// records that they are unverified, and the checkpoint by which they are shown. `hashed` may have their hashes, in
    /// their order.
    ///
    /// # Errors
    /// The errors of [`Committer::commit`].
    pub(super) fn try_commit_shown(
        &self,
        changes: Vec<Change>,
        by: Option<&SignedPrefix>,
        hashed: &[HashedEnvelope],
    ) -> Result<(), (CommitError, Vec<Change>)> {
        let commit = |store: &Store, changes: &[Change]| match by {
            Some(prefix) => store.commit_shown_by(changes, prefix, hashed),
            None => store.commit_shown(changes),
        };
        self.commit_by(commit, changes, true)
    }

    fn commit_by(
        &self,
        commit: impl FnOnce(&Store, &[Change]) -> Result<(), CommitError>,
        changes: Vec<Change>,
        is_shown: bool,
    ) -> Result<(), (CommitError, Vec<Change>)> {
        if changes.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.counters.commit.measure(|| commit(&self.store, &changes)) {
            return Err((error, changes));
        }
        self.counters.group_envelopes.observe(changes.len() as u64);
        self.announce(Vec::new(), changes, is_shown);
        Ok(())
    }

    /// Announces that entries, which readers got before they were verified, are verified and durable up to `through`.
    /// The writer of the strand calls it after [`Store::commit_verified`].
    pub(super) fn announce_verified(&self, through: EnvelopeId, entries: Vec<LogEntry>) {
        self.note_verified(through);
        let verified = entries.into_iter().filter_map(Committed::from_entry).map(Arc::new);
        self.streams.publish(Audience::Strands, verified.collect(), &Cursor::new());
    }

    /// Announces durable envelopes that were never announced: their write had seemed to fail, but the disk has them. To
    /// be called after the log was read again, while nothing is committed.
    ///
    /// # Errors
    /// When the heads cannot be read; nothing was announced then.
    pub(super) fn catch_up(&self) -> Result<(), ReadError> {
        let (stored, known) = (self.store.snapshot().heads()?, self.heads.get());
        let gained: Vec<EnvelopeId> = stored.iter().filter(|head| !known.covers(*head)).collect();
        let verified = gained.iter().map(|head| self.store.verified_up_to(*head));
        let verified = verified.collect::<Result<Vec<_>, _>>()?;
        for (head, verified) in gained.iter().zip(verified) {
            tracing::warn!(%head, "the disk holds envelopes whose write had seemed to fail: they are announced now");
            self.heads.announce(*head);
            self.note_verified(verified);
        }
        if !gained.is_empty() {
            self.streams.lose(&Cursor::from_iter(gained));
        }
        Ok(())
    }

    /// Commits the next part of a chain strand: its changes, verdicts on envelopes that waited and
    /// the position of the chain's reader, as a whole. Resolved envelopes reach queries; streams
    /// that have passed their places do not go back.
    ///
    /// # Errors
    /// Nothing was written. See [`CommitError`].
    pub fn commit_chain(&self, commit: ChainCommit) -> Result<(), CommitError> {
        let ChainCommit { changes, resolved, position, .. } = &commit;
        if changes.is_empty() && resolved.is_empty() && position.is_none() {
            return Ok(());
        }
        self.counters.commit.measure(|| self.store.commit_chain(&commit))?;
        if !commit.changes.is_empty() {
            self.counters.group_envelopes.observe(commit.changes.len() as u64);
        }
        self.announce(commit.resolved, commit.changes, false);
        Ok(())
    }

    /// Waits until subscribers have been handed everything that was committed before.
    pub async fn streams_settled(&self) {
        self.streams.settled().await;
    }

    /// Announces changes that are durable now: heads first, so that a subscriber which the hub reaches finds the
    /// envelope covered by them. Streams of whole strands get only verified envelopes. Waits for no stream.
    fn announce(&self, resolved: Vec<LogEntry>, changes: Vec<Change>, is_shown: bool) {
        let mut shown = Vec::with_capacity(resolved.len() + changes.len());
        // Envelopes that waited come before new ones, because the hub passes on only ascending places.
        shown.extend(resolved.into_iter().filter_map(Committed::from_entry).map(Arc::new));
        // The last place of each run of one strand. Mostly a commit is one run.
        let mut ends: Vec<EnvelopeId> = Vec::with_capacity(1);
        for change in changes {
            let end = change.end();
            match ends.last_mut() {
                Some(last) if last.originator == end.originator => *last = end,
                _ => ends.push(end),
            }
            if let Change::Append(entry) = change {
                shown.extend(Committed::from_entry(entry).map(Arc::new));
            }
        }
        let mut behind = BTreeSet::new();
        for end in &ends {
            // The strand has one writer, so both heads come from its last commit.
            let was_verified =
                self.verified.get().get(end.originator) == self.heads.get().get(end.originator);
            self.heads.announce(*end);
            let verified = match was_verified && !is_shown {
                true => *end,
                false => self.read_verified(*end, is_shown),
            };
            self.note_verified(verified);
            if verified != *end {
                behind.insert(end.originator);
            }
        }
        let ends = Cursor::from_iter(ends);
        if behind.is_empty() {
            return self.streams.publish(Audience::All, shown, &ends);
        }
        let (shown_first, verified) =
            shown.into_iter().partition(|it| behind.contains(&it.id.originator));
        self.streams.publish(Audience::All, verified, &Cursor::new());
        self.streams.publish(Audience::Topics, shown_first, &ends);
    }

    /// Reads how far a strand is verified up to `end`.
    fn read_verified(&self, end: EnvelopeId, is_shown: bool) -> EnvelopeId {
        // If the verified end cannot be read, only envelopes that the caller has verified count as verified.
        let unknown = EnvelopeId { sequence: SequenceId::NONE, ..end };
        let unknown = if is_shown { unknown } else { end };
        self.store.verified_up_to(end).unwrap_or(unknown)
    }

    fn note_verified(&self, through: EnvelopeId) {
        if through.sequence != SequenceId::NONE {
            self.verified.announce(through);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::testing::{append, committed, cursor, id, store, topic};
    use crate::runtime::read::hub::Hub;

    #[test]
    fn a_strand_is_announced_as_far_as_it_is_verified_also_after_a_restart() {
        let change = |sequence| append(&committed(id(200, sequence), topic(1), 0, vec![]));
        let store = store();
        let after_start = |heads: &[(u32, u64)], verified: &[(u32, u64)]| {
            let (heads, verified) = (Heads::new(cursor(heads)), Heads::new(cursor(verified)));
            let streams = FanOut::start(Hub::new());
            let counters = Arc::new(Counters::default());
            let committer = Committer::new(store.clone(), [&heads, &verified], streams, counters);
            (committer, heads, verified)
        };
        let (committer, heads, verified) = after_start(&[], &[]);
        committer.commit(vec![change(1)]).unwrap();
        assert_eq!(*verified.get(), cursor(&[(200, 1)]));
        committer.try_commit_shown(vec![change(2), change(3)], None, &[]).unwrap();
        assert_eq!((&*heads.get(), &*verified.get()), (&cursor(&[(200, 3)]), &cursor(&[(200, 1)])));
        // The next process begins with what is stored.
        let (committer, heads, verified) = after_start(&[(200, 3)], &[(200, 1)]);
        committer.commit(vec![change(4)]).unwrap();
        assert_eq!((&*heads.get(), &*verified.get()), (&cursor(&[(200, 4)]), &cursor(&[(200, 1)])));
        // The row still says 1: it is not read while nothing is shown ahead.
        committer.announce_verified(id(200, 4), Vec::new());
        committer.commit(vec![change(5)]).unwrap();
        assert_eq!(*verified.get(), cursor(&[(200, 5)]));
    }
}
