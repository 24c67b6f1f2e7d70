//! Replays one inbox: its next identity updates are judged against the valid ones before them.

use hawser_proto::envelope::{OriginatorEnvelope, Payload};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::{Bytes, EnvelopeId, InboxId, OriginatorId, SequenceId, Topic, TopicKind};
use hawser_rules::RuleNumber;
use hawser_storage::{LogEntry, ReadError, Store, Validity};

use crate::facts;
use crate::ports::{IdentityJudge, IdentityVerdict};
use crate::runtime::counters::IdentityCounters;

/// The strand of identity updates.
pub(super) const STRAND: OriginatorId = OriginatorId::IDENTITY_UPDATES;

/// Envelopes of an inbox that are read at once. Guessed: bounds memory for a long inbox.
const UPDATES_AT_ONCE: usize = 256;

/// One inbox while its next updates are judged, one after the other.
///
/// Invariant: once an update waits, every later one of its inbox waits too, because its state
/// before them is not known.
pub(super) struct InboxReplay<'a> {
    parts: JudgeParts<'a>,
    inbox: InboxId,
    /// The valid updates so far; read when the first verdict is needed.
    earlier: Option<Vec<IdentityUpdate>>,
    waits: bool,
}

/// The parts of the engine that judging an inbox uses.
#[derive(Clone, Copy)]
pub(super) struct JudgeParts<'a> {
    pub(super) store: &'a Store,
    pub(super) judge: &'a dyn IdentityJudge,
    pub(super) counters: &'a IdentityCounters,
}

impl<'a> InboxReplay<'a> {
    /// Begins behind what is stored. `waits` says that an earlier update waits for its verdict.
    pub(super) fn new(parts: JudgeParts<'a>, inbox: InboxId, waits: bool) -> Self {
        Self { parts, inbox, earlier: None, waits }
    }

    /// Judges the next update of the inbox, whose block has this time, unix nanoseconds.
    pub(super) fn next(
        &mut self,
        id: EnvelopeId,
        update: IdentityUpdate,
        event_ns: i64,
    ) -> Result<Validity, ReadError> {
        if self.waits {
            return Ok(Validity::Waiting);
        }
        if !is_hex_of(&update.inbox_id, &self.inbox.0) {
            return Ok(invalid(id, "it names another inbox than its topic"));
        }
        let earlier = match &mut self.earlier {
            Some(earlier) => earlier,
            none => none.insert(valid_updates(self.parts.store, self.inbox)?),
        };
        Ok(match self.parts.judge.judge(self.inbox, earlier, &update, event_ns) {
            IdentityVerdict::Valid => {
                earlier.push(update);
                Validity::Valid
            }
            IdentityVerdict::Invalid(reason) => invalid(id, &reason),
            IdentityVerdict::Unanswered(reason) => {
                self.parts.counters.unanswered.inc();
                tracing::warn!(
                    code = "identity_unanswered",
                    envelope = %id,
                    inbox = %self.inbox,
                    event_unix_s = event_ns / 1_000_000_000,
                    "an identity update counts as invalid here, and other nodes may differ: {reason}"
                );
                Validity::Invalid(facts::mark_of(RuleNumber::IDENTITY_UPDATE))
            }
            IdentityVerdict::Waiting(reason) => {
                tracing::info!(envelope = %id, reason, "an identity update waits for its verdict");
                self.waits = true;
                Validity::Waiting
            }
        })
    }
}

fn invalid(id: EnvelopeId, reason: &str) -> Validity {
    tracing::info!(envelope = %id, reason, "an identity update is not valid: readers never get it");
    Validity::Invalid(facts::mark_of(RuleNumber::IDENTITY_UPDATE))
}

/// Judges the updates of an inbox that wait at `places`, ascending. Returns those whose verdict is
/// known now, up to the first that still waits.
pub(super) fn resolve_waiting(
    parts: JudgeParts<'_>,
    inbox: InboxId,
    places: Vec<SequenceId>,
) -> Result<Vec<LogEntry>, ReadError> {
    debug_assert!(places.is_sorted(), "updates are judged in order");
    let store = parts.store;
    let mut replay = InboxReplay::new(parts, inbox, false);
    let mut resolved = Vec::new();
    for sequence in places {
        let id = EnvelopeId::new(STRAND, sequence);
        let bytes = store.snapshot().get(id)?.ok_or_else(|| unreadable(id))?;
        let StoredUpdate { update, event_ns, .. } =
            update_of(bytes.clone()).ok_or_else(|| unreadable(id))?;
        match replay.next(id, update, event_ns)? {
            Validity::Waiting => break,
            Validity::Invalid(rule) => resolved.push(LogEntry::invalid(id, bytes, rule)),
            Validity::Valid => {
                let facts = facts::of_stored(&bytes, Validity::Valid, store.identity().node)
                    .ok_or_else(|| unreadable(id))?;
                resolved.push(LogEntry::valid(id, bytes, facts));
            }
        }
    }
    Ok(resolved)
}

/// Reads the valid updates of an inbox through the topic index, in order.
fn valid_updates(store: &Store, inbox: InboxId) -> Result<Vec<IdentityUpdate>, ReadError> {
    let topic = Topic::new(TopicKind::IdentityUpdates, &inbox.0).expect("an inbox id is not empty");
    let snapshot = store.snapshot();
    let mut rows = snapshot.topics();
    let mut ids = Vec::new();
    let mut row = rows.seek(topic.as_bytes(), EnvelopeId::new(STRAND, SequenceId::NONE))?;
    while let Some(found) = row.filter(|row| row.id.originator == STRAND) {
        ids.push(found.id);
        row = rows.next_row()?;
    }
    assert!(ids.is_sorted(), "rows of a topic ascend within their strand");
    let mut updates = Vec::with_capacity(ids.len());
    for ids in ids.chunks(UPDATES_AT_ONCE) {
        for (bytes, &id) in snapshot.get_many(ids)?.into_iter().zip(ids) {
            let stored = bytes.and_then(update_of).ok_or_else(|| unreadable(id))?;
            updates.push(stored.update);
        }
    }
    Ok(updates)
}

/// An update as it is stored.
pub(super) struct StoredUpdate {
    pub(super) inbox: InboxId,
    pub(super) update: IdentityUpdate,
    /// Time of its block, unix nanoseconds.
    pub(super) event_ns: i64,
}

/// Returns the update of a stored envelope; `None` if it carries none.
pub(super) fn update_of(bytes: Bytes) -> Option<StoredUpdate> {
    let envelope = OriginatorEnvelope::parse(bytes).ok()?;
    let event_ns = envelope.unsigned().originator_ns();
    let client = envelope.unsigned().payer().client();
    let Payload::IdentityUpdate(update) = client.payload() else { return None };
    let inbox = InboxId::from_slice(client.topic().identifier())?;
    Some(StoredUpdate { inbox, update: update.clone(), event_ns })
}

fn unreadable(id: EnvelopeId) -> ReadError {
    ReadError::unreadable_envelope(id)
}

/// Returns true if `text` is `bytes` in lower-case hexadecimal. Compared without a copy.
fn is_hex_of(text: &str, bytes: &[u8]) -> bool {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let pairs = bytes
        .iter()
        .flat_map(|&byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
    text.bytes().eq(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_digits_of_the_whole_name_an_inbox() {
        assert!(is_hex_of("00ff1a", &[0x00, 0xff, 0x1a]));
        for other in ["00FF1A", "00ff1", "00ff1a0", "0x00ff1a", ""] {
            assert!(!is_hex_of(other, &[0x00, 0xff, 0x1a]), "{other}");
        }
    }
}
