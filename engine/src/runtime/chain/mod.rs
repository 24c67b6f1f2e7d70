//! Chain events on their way into the log, through the same commits as everything else.

mod identities;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::RuleNumber;
use hawser_storage::{
    ChainCommit, Change, CommitError, LogEntry, ReadError, SkipReason, Snapshot, Store,
};

use super::chain_clock::ChainClock;
use super::committer::Committer;
use super::workers::{Priority, Workers};
use crate::chain_strand::{ChainEntry, ChainEnvelope, ChainEvent, ChainPosition};
use crate::facts::mark_of;
use crate::ports::IdentityJudge;
use crate::runtime::counters::Counters;

pub use identities::Judged;

use identities::{Identities, Standings};

/// Why chain events could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum ChainAppendError {
    /// The strand cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The strand cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The contract numbers its events without gaps, unless they were bootstrapped.
    #[error("event {got} cannot follow {head}: events are missing between them")]
    Gap {
        /// The last event held.
        head: EnvelopeId,
        /// The one that came.
        got: SequenceId,
    },
    /// The chain has another event in a place that is taken: it was reorganised below what is
    /// stored, or its endpoint lies. The strand keeps what it has and must not go on.
    #[error(
        "the chain has another event at {} than the log holds: it was reorganised below what is \
             stored, or an endpoint lies; compare endpoints before anything else", .0.at
    )]
    Conflict(Box<ChainConflict>),
}

/// Two events in one place: the evidence of a reorganisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainConflict {
    /// The place.
    pub at: EnvelopeId,
    /// The originator envelope that the log holds; `None` where the place was declared void.
    pub held: Option<Bytes>,
    /// The event that the chain has there now.
    pub came: ChainEvent,
}

/// Appends events to the two chain strands. Cheap to clone; all clones are the same. Each strand
/// is appended to by one caller at a time; others wait.
#[derive(Clone)]
pub struct ChainAppender {
    shared: Arc<Shared>,
}

/// What an appender is made of.
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) committer: Committer,
    pub(super) workers: Workers,
    pub(super) clock: ChainClock,
    pub(super) judge: Arc<dyn IdentityJudge>,
    pub(super) counters: Arc<Counters>,
}

struct Shared {
    parts: Parts,
    groups: Mutex<()>,
    identities: Mutex<Identities>,
}

impl ChainAppender {
    /// Puts the parts together, and reads which identity updates wait for their verdict.
    pub(super) fn new(parts: Parts) -> Result<Self, ReadError> {
        let identities = Identities::load(&parts.store.snapshot())?;
        parts.counters.identities.inboxes_waiting.set(identities.inboxes());
        let (groups, identities) = (Mutex::default(), Mutex::new(identities));
        Ok(Self { shared: Arc::new(Shared { parts, groups, identities }) })
    }

    /// Appends `events`, in the chain's order, to a chain strand, and notes where the chain's
    /// reader then is: all in one write. What is held already is left out, so that giving the
    /// same events again is harmless. Blocks for a sync of the disk, and judges identity updates
    /// on all cores.
    ///
    /// # Errors
    /// Nothing was written then.
    pub fn append(
        &self,
        originator: OriginatorId,
        events: &[ChainEvent],
        position: Option<ChainPosition>,
    ) -> Result<(), ChainAppendError> {
        if originator == OriginatorId::IDENTITY_UPDATES {
            self.append_identities(events, position)
        } else {
            let _one_at_a_time = lock(&self.shared.groups);
            let fresh = self.fresh(originator, events)?;
            let changes = fresh.into_iter().map(Fresh::into_change).collect();
            let commit = ChainCommit { originator, changes, resolved: Vec::new(), position };
            Ok(self.shared.parts.committer.commit_chain(commit)?)
        }
    }

    fn append_identities(
        &self,
        events: &[ChainEvent],
        position: Option<ChainPosition>,
    ) -> Result<(), ChainAppendError> {
        let parts = &self.shared.parts;
        let mut identities = lock(&self.shared.identities);
        let fresh = self.fresh(OriginatorId::IDENTITY_UPDATES, events)?;
        let standings = identities.judge(parts, fresh)?;
        let Standings { mut changes, waiting, valid, invalid } = standings;
        changes.sort_by_key(Change::end);
        let originator = OriginatorId::IDENTITY_UPDATES;
        let commit = ChainCommit { originator, changes, resolved: Vec::new(), position };
        parts.committer.commit_chain(commit)?;
        identities.note(waiting);
        let counters = &parts.counters.identities;
        counters.valid.inc_by(valid);
        counters.invalid.inc_by(invalid);
        counters.inboxes_waiting.set(identities.inboxes());
        Ok(())
    }

    /// Where the reader of the chain behind `originator` was at its last commit; `None` before the
    /// first one.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn position(&self, originator: OriginatorId) -> Result<Option<ChainPosition>, ReadError> {
        self.shared.parts.store.snapshot().chain_position(originator)
    }

    /// How far a strand is durable: the sequence id of the last event that was taken over.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn head(&self, originator: OriginatorId) -> Result<SequenceId, ReadError> {
        self.shared.parts.store.snapshot().head(originator)
    }

    /// Judges anew, in order, the identity updates that wait for their verdict, since more may be
    /// known by now. To be called when a wallet's chain has answered, and now and then. Blocks as
    /// [`ChainAppender::append`] does, and lets appends in between.
    ///
    /// # Errors
    /// What was known by then is written.
    pub fn judge_held(&self) -> Result<Judged, ChainAppendError> {
        let parts = &self.shared.parts;
        let counters = &parts.counters.identities;
        let mut judged = Judged::default();
        let mut after = None;
        loop {
            let mut identities = lock(&self.shared.identities);
            let inboxes = identities.waiting_after(after);
            after = inboxes.last().map(|(inbox, _)| *inbox);
            if after.is_none() {
                judged.waiting = identities.updates();
                return Ok(judged);
            }
            let known = identities.judge_waiting(parts, inboxes)?;
            judged.valid += known.valid;
            judged.invalid += known.invalid;
            counters.valid.inc_by(known.valid);
            counters.invalid.inc_by(known.invalid);
            counters.inboxes_waiting.set(identities.inboxes());
        }
    }

    /// How many inboxes have updates that wait for their verdict. Does not wait for an append that
    /// is under way.
    #[must_use]
    pub fn inboxes_waiting(&self) -> u64 {
        self.shared.parts.counters.identities.inboxes_waiting.get()
    }

    /// What of `events` is to be added, in order.
    fn fresh(
        &self,
        originator: OriginatorId,
        events: &[ChainEvent],
    ) -> Result<Vec<Fresh>, ChainAppendError> {
        let snapshot = self.shared.parts.store.snapshot();
        let stored = snapshot.head(originator)?;
        let mut head = stored;
        let mut wanted: Vec<ChainEvent> = Vec::with_capacity(events.len());
        let mut skips = Vec::new();
        for event in events {
            if event.sequence <= stored {
                compare(&snapshot, originator, event)?;
            } else if event.sequence <= head {
                compare_within(&wanted, originator, event)?;
            } else {
                if event.sequence != head.next() {
                    let head = EnvelopeId::new(originator, head);
                    if !event.bootstrapped {
                        return Err(ChainAppendError::Gap { head, got: event.sequence });
                    }
                    let through = event.sequence.previous();
                    tracing::info!(%head, %through, "the chain was bootstrapped and leaves ids out");
                    skips.push(Fresh::Void { first: head.sequence.next(), through, originator });
                }
                head = event.sequence;
                wanted.push(event.clone());
            }
        }
        let newest_ns = wanted.iter().map(ChainEvent::originator_ns).max();
        newest_ns.into_iter().for_each(|ns| self.shared.parts.clock.note(originator, ns));
        let make = move |events: Vec<ChainEvent>| {
            events
                .into_iter()
                .map(|event| Fresh::of(ChainEntry::from_event(originator, &event)))
                .collect()
        };
        let mut fresh = self.shared.parts.workers.map(Priority::Normal, wanted, make);
        if !skips.is_empty() {
            fresh.extend(skips);
            fresh.sort_by_key(Fresh::first);
        }
        Ok(fresh)
    }
}

/// What is to be added to a strand.
enum Fresh {
    Envelope(Box<ChainEnvelope>),
    Void { originator: OriginatorId, first: SequenceId, through: SequenceId },
}

impl Fresh {
    fn of(entry: ChainEntry) -> Self {
        match entry {
            ChainEntry::Envelope(envelope) => Self::Envelope(envelope),
            ChainEntry::Void(EnvelopeId { originator, sequence }) => {
                Self::Void { originator, first: sequence, through: sequence }
            }
        }
    }

    fn first(&self) -> SequenceId {
        match self {
            Self::Envelope(envelope) => envelope.id.sequence,
            Self::Void { first, .. } => *first,
        }
    }

    fn into_change(self) -> Change {
        match self {
            Self::Envelope(envelope) => valid(*envelope),
            Self::Void { originator, first, through } => {
                Change::Skip { originator, from: first, through, reason: SkipReason::Void }
            }
        }
    }
}

fn valid(envelope: ChainEnvelope) -> Change {
    let ChainEnvelope { id, bytes, facts, .. } = envelope;
    Change::Append(LogEntry::valid(id, bytes, facts))
}

/// A place that is taken keeps what it holds.
fn compare(
    snapshot: &Snapshot<'_>,
    originator: OriginatorId,
    event: &ChainEvent,
) -> Result<(), ChainAppendError> {
    let at = EnvelopeId::new(originator, event.sequence);
    let held = snapshot.get(at)?;
    let came = match ChainEntry::from_event(originator, event) {
        ChainEntry::Envelope(envelope) => Some(envelope.bytes),
        ChainEntry::Void(_) => None,
    };
    if held == came { Ok(()) } else { taken(at, held, event) }
}

/// The same for a place that an event of the same batch has taken.
fn compare_within(
    wanted: &[ChainEvent],
    originator: OriginatorId,
    event: &ChainEvent,
) -> Result<(), ChainAppendError> {
    let at = EnvelopeId::new(originator, event.sequence);
    let place = wanted.binary_search_by_key(&event.sequence, |event| event.sequence);
    let earlier = place.ok().map(|place| &wanted[place]);
    if earlier == Some(event) {
        return Ok(());
    }
    let held = earlier.map(|earlier| match ChainEntry::from_event(originator, earlier) {
        ChainEntry::Envelope(envelope) => Some(envelope.bytes),
        ChainEntry::Void(_) => None,
    });
    taken(at, held.flatten(), event)
}

fn taken(at: EnvelopeId, held: Option<Bytes>, event: &ChainEvent) -> Result<(), ChainAppendError> {
    if event.bootstrapped {
        tracing::info!(envelope = %at, "a bootstrapped event has an id that is taken: passed over");
        return Ok(());
    }
    let conflict = ChainConflict { at, held, came: event.clone() };
    Err(ChainAppendError::Conflict(Box::new(conflict)))
}

fn invalid(envelope: ChainEnvelope) -> Change {
    let mark = mark_of(RuleNumber::IDENTITY_UPDATE);
    Change::Append(LogEntry::invalid(envelope.id, envelope.bytes, mark))
}

/// Data under these locks is written whole, after what may fail.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
