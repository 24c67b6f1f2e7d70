//! The events of a batch that the log does not hold yet.

use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::RuleNumber;
use hawser_storage::{Change, LogEntry, SkipReason, Snapshot, is_void_run_in_tree};

use super::error::{ChainAppendError, ChainConflict};
use super::parts::ChainAppenderParts;
use crate::chain_strand::{ChainEntry, ChainEnvelope, ChainEvent};
use crate::facts::mark_of;
use crate::runtime::Priority;

/// A new entry of a chain strand.
pub(super) enum NewEntry {
    /// An envelope. The validity of an identity update is not known yet.
    Envelope(Box<ChainEnvelope>),
    /// Places that hold nothing.
    Void { originator: OriginatorId, first: SequenceId, through: SequenceId },
}

impl NewEntry {
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

    /// Returns the change that appends this entry as a valid one.
    pub(super) fn into_change(self) -> Change {
        match self {
            Self::Envelope(envelope) => append_valid(*envelope),
            Self::Void { originator, first, through } => {
                Change::Skip { originator, from: first, through, reason: SkipReason::Void }
            }
        }
    }
}

/// Returns the change that appends a valid envelope.
pub(super) fn append_valid(envelope: ChainEnvelope) -> Change {
    let ChainEnvelope { id, bytes, facts, .. } = envelope;
    Change::Append(LogEntry::valid(id, bytes, facts))
}

/// Returns the change that appends an invalid identity update.
pub(super) fn append_invalid(envelope: ChainEnvelope) -> Change {
    let mark = mark_of(RuleNumber::IDENTITY_UPDATE);
    Change::Append(LogEntry::invalid(envelope.id, envelope.bytes, mark))
}

/// Returns the entries for the events that the strand does not hold yet, in order. Parses each
/// event once, on all cores.
pub(super) fn new_entries(
    parts: &ChainAppenderParts,
    originator: OriginatorId,
    events: &[ChainEvent],
) -> Result<Vec<NewEntry>, ChainAppendError> {
    let snapshot = parts.store.snapshot();
    let stored = snapshot.head(originator)?;
    let mut head = stored;
    let mut wanted: Vec<ChainEvent> = Vec::with_capacity(events.len());
    let mut skips = Vec::new();
    let (events, beyond): (Vec<_>, Vec<_>) =
        events.iter().partition(|event| event.sequence <= SequenceId::MAX);
    log_beyond(originator, &beyond);
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
                log_skip(head, through);
                skips.push(NewEntry::Void { first: head.sequence.next(), through, originator });
            }
            head = event.sequence;
            wanted.push(event.clone());
        }
    }
    let newest_ns = wanted.iter().map(ChainEvent::originator_ns).max();
    newest_ns.into_iter().for_each(|ns| parts.clock.note(originator, ns));
    let make = move |events: Vec<ChainEvent>| {
        events
            .into_iter()
            .map(|event| NewEntry::of(ChainEntry::from_event(originator, &event)))
            .collect()
    };
    let mut entries = parts.workers.map(Priority::Normal, wanted, make);
    if !skips.is_empty() {
        entries.extend(skips);
        entries.sort_by_key(NewEntry::first);
    }
    Ok(entries)
}

/// Logs that a bootstrapped event skips the ids after `head` up to `through`.
fn log_skip(head: EnvelopeId, through: SequenceId) {
    tracing::info!(%head, %through, "bootstrapped events of the chain skip ids: their places are void");
    if !is_void_run_in_tree(head.sequence.next(), through) {
        tracing::warn!(code = "void_run_too_long", %head, %through, "a bootstrapped event of the chain skips more ids \
            than a tree has leaves for: the tree of the strand ends before them, so later events are served and not \
            proved");
    }
}

/// Logs that events have ids above those of places. They are passed over, because no later attempt could store them,
/// and the events around them would never be stored.
fn log_beyond(originator: OriginatorId, beyond: &[&ChainEvent]) {
    let Some(first) = beyond.first() else { return };
    let transaction = format!("{:x}", Bytes::copy_from_slice(&first.transaction_hash));
    tracing::warn!(
        code = "chain_event_without_place",
        envelope = %EnvelopeId::new(originator, first.sequence),
        transaction,
        events = beyond.len(),
        "events of the chain have ids above those of places: they are passed over"
    );
}

/// Compares an event with the entry that the log holds in its place.
fn compare(
    snapshot: &Snapshot<'_>,
    originator: OriginatorId,
    event: &ChainEvent,
) -> Result<(), ChainAppendError> {
    let at = EnvelopeId::new(originator, event.sequence);
    let held = snapshot.get(at)?;
    match event.is_held_as(originator, held.as_ref()) {
        true => Ok(()),
        false => refuse(at, held, event),
    }
}

/// Compares an event with an earlier one of the same batch in its place.
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
    refuse(at, earlier.and_then(|earlier| envelope_bytes(originator, earlier)), event)
}

/// Returns the envelope of an event; `None` if its place is void.
fn envelope_bytes(originator: OriginatorId, event: &ChainEvent) -> Option<Bytes> {
    match ChainEntry::from_event(originator, event) {
        ChainEntry::Envelope(envelope) => Some(envelope.bytes),
        ChainEntry::Void(_) => None,
    }
}

/// Refuses an event whose place is taken. A bootstrapped one is passed over instead: its id was the
/// operator's choice, and the first one counts.
fn refuse(at: EnvelopeId, held: Option<Bytes>, event: &ChainEvent) -> Result<(), ChainAppendError> {
    if event.bootstrapped {
        tracing::info!(envelope = %at, "a bootstrapped event has an id that is taken: the event is skipped");
        return Ok(());
    }
    let conflict = ChainConflict { at, held, came: event.clone() };
    Err(ChainAppendError::Conflict(Box::new(conflict)))
}
