//! Chain events on their way into the log, through the same commits as everything else.
//!
//! - [`ChainAppender`]: the way in, one batch at a time;
//! - `new_events`: the events of a batch that the log does not hold yet;
//! - `identities`, `replay`: identity updates are judged before they are valid.

mod error;
mod identities;
mod new_events;
mod parts;
mod replay;

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hawser_proto::{InboxId, OriginatorId, SequenceId};
use hawser_storage::{ChainCommit, Change, ReadError};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use crate::chain_strand::{ChainEvent, ChainPosition};
use crate::ports::InboxJudge;
use identities::{JudgedBatch, WaitingUpdates};
use new_events::{NewEntry, new_entries};
use replay::ReadBudget;

pub use error::{ChainAppendError, ChainConflict};
pub use identities::JudgedUpdates;
pub(super) use parts::ChainAppenderParts;

/// Bytes of logs of inboxes that one call of [`ChainAppender::judge_waiting`] begins to read. A signature from which
/// the signer has to be found counts as 2 KiB. A guess: about a second of one core, while such calls are seconds apart.
/// So an attacker whose inboxes are too large to be remembered delays the updates of those inboxes only.
pub const ROUND_BYTES_MAX: usize = 32 << 20;

/// Appends events to the two chain strands. Cheap to clone; all clones are the same. Each strand
/// is appended to by one caller at a time; others wait.
#[derive(Clone)]
pub struct ChainAppender {
    state: Arc<ChainAppenderState>,
}

struct ChainAppenderState {
    parts: ChainAppenderParts,
    /// Held while the strand of group messages is appended to.
    groups: Mutex<()>,
    /// Held while the strand of identity updates is appended to. `None` until it is used for the first time.
    identities: Mutex<Option<WaitingUpdates>>,
    /// True once these have been read.
    is_known: AtomicBool,
    /// Held while waiting updates are judged, by one caller at a time: where the next round begins.
    round: Mutex<Bound<InboxId>>,
}

impl ChainAppender {
    /// Creates an appender from its parts. Reads nothing yet.
    pub(super) fn new(parts: ChainAppenderParts) -> Self {
        let (groups, identities) = (Mutex::default(), Mutex::default());
        let (is_known, round) = (AtomicBool::new(false), Mutex::new(Bound::Unbounded));
        let state = ChainAppenderState { parts, groups, identities, is_known, round };
        Self { state: Arc::new(state) }
    }

    /// Reads again which identity updates wait for their verdict, after the log was read again. Calls
    /// `then` before anything more is appended or judged.
    ///
    /// # Errors
    /// When they cannot be read; `then` was not called.
    pub(super) fn reload(&self, then: impl FnOnce()) -> Result<(), ReadError> {
        let ChainAppenderState { parts, groups, identities, .. } = &*self.state;
        let _no_groups = groups.lock();
        let mut known = identities.lock();
        let waiting_updates = known.get_or_insert_default();
        waiting_updates.reload(&parts.store.snapshot(), &*parts.judge)?;
        self.state.is_known.store(true, Ordering::Release);
        parts.judge.forget_all();
        parts.counters.identities.inboxes_waiting.set(waiting_updates.inboxes());
        then();
        Ok(())
    }

    /// Appends `events`, in the chain's order, to a chain strand, and records the position of the
    /// chain's reader, in one write.
    ///
    /// Events that the log holds are left out, so giving the same events again is harmless. Blocks
    /// for a sync of the disk, and judges identity updates on all cores.
    ///
    /// # Errors
    /// [`ChainAppendError`]; nothing was written then.
    pub fn append(
        &self,
        originator: OriginatorId,
        events: &[ChainEvent],
        position: Option<ChainPosition>,
    ) -> Result<(), ChainAppendError> {
        if originator == OriginatorId::IDENTITY_UPDATES {
            self.append_identities(events, position)
        } else {
            let _one_at_a_time = self.state.groups.lock();
            let entries = new_entries(&self.state.parts, originator, events)?;
            let changes = entries.into_iter().map(NewEntry::into_change).collect();
            self.commit(originator, changes, position)
        }
    }

    fn append_identities(
        &self,
        events: &[ChainEvent],
        position: Option<ChainPosition>,
    ) -> Result<(), ChainAppendError> {
        let parts = &self.state.parts;
        let mut waiting_updates = self.waiting_updates()?;
        let entries = new_entries(parts, OriginatorId::IDENTITY_UPDATES, events)?;
        let batch = waiting_updates.judge(parts, entries)?;
        let JudgedBatch { mut changes, waiting, valid, invalid, judges, is_behind } = batch;
        // Judged by inbox; the strand has its own order.
        changes.sort_by_key(Change::end);
        self.commit(OriginatorId::IDENTITY_UPDATES, changes, position)?;
        judges.into_iter().for_each(InboxJudge::keep);
        waiting_updates.add(waiting);
        if is_behind {
            parts.judge.judge_soon();
        }
        let counters = &parts.counters.identities;
        counters.valid.inc_by(valid);
        counters.invalid.inc_by(invalid);
        counters.inboxes_waiting.set(waiting_updates.inboxes());
        Ok(())
    }

    /// Locks the identity updates that wait for their verdict, and reads them at its first call: that takes a look at
    /// each mark of the strand, which no start of a node has to wait for.
    fn waiting_updates(&self) -> Result<MappedMutexGuard<'_, WaitingUpdates>, ReadError> {
        let ChainAppenderState { parts, identities, .. } = &*self.state;
        let mut known = identities.lock();
        if known.is_none() {
            let waiting = WaitingUpdates::load(&parts.store.snapshot(), &*parts.judge)?;
            parts.counters.identities.inboxes_waiting.set(waiting.inboxes());
            *known = Some(waiting);
            self.state.is_known.store(true, Ordering::Release);
        }
        Ok(MutexGuard::map(known, |known| known.as_mut().expect("was read above")))
    }

    fn commit(
        &self,
        originator: OriginatorId,
        changes: Vec<Change>,
        position: Option<ChainPosition>,
    ) -> Result<(), ChainAppendError> {
        let follows = |pair: &[Change]| pair[1].start().sequence == pair[0].end().sequence.next();
        assert!(changes.windows(2).all(follows), "a strand is contiguous before it is appended");
        let commit = ChainCommit { originator, changes, resolved: Vec::new(), position };
        Ok(self.state.parts.committer.commit_chain(commit)?)
    }

    /// Returns the position of the chain's reader behind `originator` at its last commit; `None`
    /// before the first one.
    ///
    /// # Errors
    /// If the row cannot be read.
    pub fn position(&self, originator: OriginatorId) -> Result<Option<ChainPosition>, ReadError> {
        self.state.parts.store.snapshot().chain_position(originator)
    }

    /// Returns the durable head of a strand: the sequence id of the last event that was appended.
    ///
    /// # Errors
    /// If the row cannot be read.
    pub fn head(&self, originator: OriginatorId) -> Result<SequenceId, ReadError> {
        self.state.parts.store.snapshot().head(originator)
    }

    /// Judges again, in order, the identity updates that wait for their verdict.
    ///
    /// To be called when a wallet's chain has answered, when the [judge](crate::ports::IdentityJudge::judge_soon)
    /// asks for it, and from time to time. Blocks as [`ChainAppender::append`] does, and lets appends in
    /// between: they never wait until the log of an inbox is read, or until many updates are judged that have gathered
    /// in one. A call reads [`ROUND_BYTES_MAX`] of such logs, judges a bounded part of such updates, and leaves the
    /// rest to the next one.
    ///
    /// # Errors
    /// [`ChainAppendError`]. Verdicts that were known by then are written.
    pub fn judge_waiting(&self) -> Result<JudgedUpdates, ChainAppendError> {
        let mut round = self.state.round.lock();
        let parts = &self.state.parts;
        self.waiting_updates()?.read_again(&parts.store, &*parts.judge);
        let budget = Arc::new(ReadBudget::new(ROUND_BYTES_MAX));
        let mut judged = JudgedUpdates::default();
        let first = std::mem::replace(&mut *round, Bound::Unbounded);
        let mut left = self.judge_from(first, Bound::Unbounded, &budget, &mut judged)?;
        if let (None, Bound::Included(first)) = (left, first) {
            // The round began in the middle.
            left =
                self.judge_from(Bound::Unbounded, Bound::Excluded(first), &budget, &mut judged)?;
        }
        if let Some(inbox) = left {
            *round = Bound::Included(inbox);
            self.state.parts.judge.judge_soon();
        }
        judged.waiting = self.waiting_updates()?.updates();
        Ok(judged)
    }

    /// Judges the inboxes of a range. Returns the first one that was left because of the budget.
    fn judge_from(
        &self,
        mut from: Bound<InboxId>,
        to: Bound<InboxId>,
        budget: &Arc<ReadBudget>,
        judged: &mut JudgedUpdates,
    ) -> Result<Option<InboxId>, ChainAppendError> {
        let parts = &self.state.parts;
        let counters = &parts.counters.identities;
        loop {
            let inboxes = self.waiting_updates()?.some((from, to));
            let Some(last) = inboxes.last() else { return Ok(None) };
            let prepared = inboxes.prepare(parts, budget)?;
            let left = prepared.left.iter().min().copied();
            // Taken for some inboxes at a time: an append waits for those at most.
            let mut waiting_updates = self.waiting_updates()?;
            let known = waiting_updates.judge_waiting(parts, prepared)?;
            judged.valid += known.valid;
            judged.invalid += known.invalid;
            counters.valid.inc_by(known.valid);
            counters.invalid.inc_by(known.invalid);
            counters.inboxes_waiting.set(waiting_updates.inboxes());
            if left.is_some() {
                return Ok(left);
            }
            from = Bound::Excluded(last);
        }
    }

    /// Returns false until the waiting identity updates have been read, which the first append to the strand or the
    /// first judgement does.
    #[must_use]
    pub fn knows_waiting(&self) -> bool {
        self.state.is_known.load(Ordering::Acquire)
    }

    /// Returns the number of inboxes with updates that wait for their verdict; 0 as long as that is
    /// [not known](Self::knows_waiting). Does not wait for an append that is under way.
    #[must_use]
    pub fn inboxes_waiting(&self) -> u64 {
        self.state.parts.counters.identities.inboxes_waiting.get()
    }
}
