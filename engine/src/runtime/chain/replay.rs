//! Replays one inbox: its next identity updates are judged against the valid ones before them.

use std::sync::atomic::{AtomicUsize, Ordering};

use hawser_proto::envelope::{OriginatorEnvelope, Payload};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::{Bytes, EnvelopeId, InboxId, OriginatorId, SequenceId, Topic, TopicKind};
use hawser_rules::RuleNumber;
use hawser_storage::{LogEntry, ReadError, Snapshot, Store, Validity};

use crate::facts;
use crate::ports::{IdentityJudge, IdentityVerdict, InboxJudge};
use crate::runtime::counters::IdentityCounters;

/// The strand of identity updates.
pub(super) const STRAND: OriginatorId = OriginatorId::IDENTITY_UPDATES;

/// Envelopes of an inbox that are read at once. Guessed: 3 MB for the longest payloads of a chain.
const UPDATES_AT_ONCE: usize = 16;

/// The most of an inbox's log that may be read while a batch of events waits for it, in bytes of cost. A guess: some
/// 30 ms, and more than honest inboxes have. Beyond it the inbox waits, and its log is read beside the strand.
const CATCH_UP_BYTES_MAX: usize = 1 << 20;

/// The part of it that each inbox has in any case. A guess: logs of honest inboxes have some kilobytes. With all gas of
/// the chain, an attacker has some 200 such logs read in a second, which takes 0.4 s of one core
/// (`docs/performance.md`).
const SMALL_LOG_BYTES: usize = 64 << 10;

/// The cost of a signature from which the judge had to find the signer, in bytes of a log that take as long: some
/// 50 µs, and 27 ns for a byte (`docs/performance.md`).
const SIGNER_COST_BYTES: usize = 2 << 10;

/// The maximum number of signatures of one action of an update: that of an existing member, and that of the new one.
const ACTION_SIGNERS_MAX: usize = 2;

/// An inbox while its next updates are judged, one after the other.
///
/// Invariant: once an update waits, every later one of its inbox waits too, because its state
/// before them is not known.
pub(super) struct InboxReplay<'a> {
    parts: JudgeParts<'a>,
    inbox: InboxId,
    limit: ReadLimit<'a>,
    /// The judge of the inbox; opened when the first verdict is needed.
    judge: Option<Box<dyn InboxJudge>>,
    waits: bool,
    /// The log is too long to be read at once, or more updates wait than are judged at once.
    is_behind: bool,
}

/// The parts of the engine that judging an inbox uses.
#[derive(Clone, Copy)]
pub(super) struct JudgeParts<'a> {
    pub(super) store: &'a Store,
    pub(super) judge: &'a dyn IdentityJudge,
    pub(super) counters: &'a IdentityCounters,
}

/// The part of an inbox's log that may be read before its updates are judged.
#[derive(Clone, Copy)]
pub(super) enum ReadLimit<'a> {
    /// The whole log.
    Whole,
    /// While a batch of events waits: [`SMALL_LOG_BYTES`], and up to [`CATCH_UP_BYTES_MAX`] from the budget of the
    /// batch.
    OfBatch(&'a ReadBudget),
}

impl ReadLimit<'_> {
    /// Returns true if a log may be read up to this cost.
    fn allows(self, cost: usize) -> bool {
        match self {
            Self::Whole => true,
            Self::OfBatch(_) if cost <= SMALL_LOG_BYTES => true,
            Self::OfBatch(budget) => cost <= CATCH_UP_BYTES_MAX && budget.is_left(),
        }
    }

    /// Pays for an update that costs so much, after which the part that was read costs `cost`.
    fn pay(self, update: usize, cost: usize) {
        match self {
            Self::OfBatch(budget) if cost > SMALL_LOG_BYTES => budget.take(update),
            Self::Whole | Self::OfBatch(_) => {}
        }
    }
}

impl<'a> InboxReplay<'a> {
    /// Begins after the stored state. `waits` is true if an earlier update waits for its verdict.
    pub(super) fn new(
        parts: JudgeParts<'a>,
        inbox: InboxId,
        waits: bool,
        limit: ReadLimit<'a>,
    ) -> Self {
        Self { parts, inbox, limit, judge: None, waits, is_behind: false }
    }

    /// Judges the next update of the inbox, whose block has this time, unix nanoseconds.
    pub(super) fn next(
        &mut self,
        id: EnvelopeId,
        update: &IdentityUpdate,
        event_ns: i64,
    ) -> Result<Validity, ReadError> {
        if self.waits {
            look_ahead(self.parts.judge, self.inbox, update, event_ns);
            return Ok(Validity::Waiting);
        }
        if !is_hex_of(&update.inbox_id, &self.inbox.0) {
            return Ok(invalid(id, "it names another inbox than its topic"));
        }
        if self.judge.is_none() {
            let judge = self.judge.insert(self.parts.judge.open(self.inbox));
            let read = catch_up(self.parts.store, self.inbox, &mut **judge, self.limit)?;
            if read.end != CatchUpEnd::Whole {
                let inbox = self.inbox;
                tracing::info!(envelope = %id, %inbox, "an identity update waits until the log of its inbox is read");
                // A log that cannot be read now is read again in a later round, without haste.
                (self.waits, self.is_behind) = (true, read.end == CatchUpEnd::Limit);
                return Ok(Validity::Waiting);
            }
        }
        let judge = self.judge.as_mut().expect("it was opened above");
        Ok(match judge.judge(id.sequence, update, event_ns) {
            IdentityVerdict::Valid => Validity::Valid,
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

    /// Returns the results after all updates were judged.
    pub(super) fn end(self) -> ReplayEnd {
        ReplayEnd { judge: self.judge, is_behind: self.is_behind }
    }
}

/// Begins to look up the data that the verdict on an update needs while the update waits behind another one of its
/// inbox.
pub(super) fn look_ahead(
    judge: &dyn IdentityJudge,
    inbox: InboxId,
    update: &IdentityUpdate,
    event_ns: i64,
) {
    if is_hex_of(&update.inbox_id, &inbox.0) {
        judge.look_ahead(update, event_ns);
    }
}

/// The remains of an inbox when its updates were judged.
pub(super) struct ReplayEnd {
    /// State of the inbox after its updates; the caller keeps it once the verdicts are committed.
    pub(super) judge: Option<Box<dyn InboxJudge>>,
    /// The inbox waits until its log is read, or until more of its updates are judged.
    pub(super) is_behind: bool,
}

/// An inbox whose log was read while no strand waited for it.
pub(super) struct PreparedInbox {
    pub(super) inbox: InboxId,
    judge: Box<dyn InboxJudge>,
}

/// An inbox before its updates are judged.
pub(super) enum Preparation {
    /// The log of the inbox has been read.
    Ready(PreparedInbox),
    /// The log of the inbox is too long to be read now.
    Left(InboxId),
    /// The log of the inbox cannot be read.
    Unreadable,
}

/// The cost of logs that may be read in one round or for one batch, in bytes: those of the logs, and
/// [`SIGNER_COST_BYTES`] for each signer that had to be found. The log that exceeds a round is read to its end, so that
/// each round reads one at least. Also the bytes of waiting updates that may be judged together.
#[derive(Debug)]
pub(super) struct ReadBudget(AtomicUsize);

impl ReadBudget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    fn is_left(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    fn take(&self, bytes: usize) {
        let less = |left: usize| Some(left.saturating_sub(bytes));
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, less).expect("it returns a value");
    }
}

/// Reads the log of an inbox, however long, as far as its remembered state does not have it. Only for an inbox
/// with updates that wait: nothing valid is added to it then.
pub(super) fn prepare(
    parts: JudgeParts<'_>,
    inbox: InboxId,
    budget: &ReadBudget,
) -> Result<Preparation, ReadError> {
    if !budget.is_left() {
        return Ok(Preparation::Left(inbox));
    }
    let mut judge = parts.judge.open(inbox);
    let read = catch_up(parts.store, inbox, &mut *judge, ReadLimit::Whole)?;
    budget.take(read.cost);
    if read.end == CatchUpEnd::Unreadable {
        judge.keep(); // the part below the damage is not read in each round
        return Ok(Preparation::Unreadable);
    }
    Ok(Preparation::Ready(PreparedInbox { inbox, judge }))
}

fn invalid(id: EnvelopeId, reason: &str) -> Validity {
    tracing::info!(envelope = %id, reason, "an identity update is not valid: readers never get it");
    Validity::Invalid(facts::mark_of(RuleNumber::IDENTITY_UPDATE))
}

/// The verdicts on updates that waited.
pub(super) struct ResolvedInbox {
    pub(super) entries: Vec<LogEntry>,
    pub(super) end: ReplayEnd,
}

/// Judges the updates of an inbox that wait at `places`, ascending. Returns those whose verdict is known now, up to the
/// first that still waits, cannot be read, or for which nothing is left of `budget`. Judges one at least.
pub(super) fn resolve_waiting(
    parts: JudgeParts<'_>,
    inbox: PreparedInbox,
    places: Vec<SequenceId>,
    budget: &ReadBudget,
) -> Result<ResolvedInbox, ReadError> {
    debug_assert!(places.is_sorted(), "updates are judged in order");
    let store = parts.store;
    let PreparedInbox { inbox, judge } = inbox;
    let unread = InboxReplay::new(parts, inbox, false, ReadLimit::Whole);
    let mut replay = InboxReplay { judge: Some(judge), ..unread };
    let mut entries = Vec::new();
    for sequence in places {
        if !entries.is_empty() && !budget.is_left() {
            replay.is_behind = true;
            break;
        }
        let id = EnvelopeId::new(STRAND, sequence);
        let Some((bytes, stored)) = waiting_update(store, inbox, id) else { break };
        budget.take(bytes.len());
        let StoredUpdate { update, event_ns, .. } = stored;
        match replay.next(id, &update, event_ns)? {
            Validity::Waiting => break,
            Validity::Invalid(rule) => entries.push(LogEntry::invalid(id, bytes, rule)),
            Validity::Valid => {
                let facts = facts::of_stored(&bytes, Validity::Valid, store.identity().node)
                    .ok_or_else(|| unreadable(id))?;
                entries.push(LogEntry::valid(id, bytes, facts));
            }
        }
    }
    Ok(ResolvedInbox { entries, end: replay.end() })
}

/// Reads an update that waits; `None` if that fails. The update then continues to wait, and so do the later updates of
/// its inbox.
fn waiting_update(store: &Store, inbox: InboxId, id: EnvelopeId) -> Option<(Bytes, StoredUpdate)> {
    let read = || -> Result<_, ReadError> {
        let bytes = store.snapshot().get(id)?.ok_or_else(|| unreadable(id))?;
        let stored = update_of(bytes.clone()).ok_or_else(|| unreadable(id))?;
        Ok((bytes, stored))
    };
    read().inspect_err(|error| tell_unreadable(inbox, error)).ok()
}

/// Tells the operator that the updates of an inbox wait for the repair of the disk.
fn tell_unreadable(inbox: InboxId, error: &ReadError) {
    tracing::error!(
        code = "identity_log_unreadable",
        %inbox,
        "identity updates of an inbox wait, because an earlier one cannot be read: {error}"
    );
}

/// Adds the valid updates that the log has and the judge does not, through the topic index, in order. Starts over
/// if the log does not have the last update that the judge knows. Stops when more than `limit` allows has to be read,
/// and before an update that cannot be read: one inbox waits for its repair, and not the strand.
fn catch_up(
    store: &Store,
    inbox: InboxId,
    judge: &mut dyn InboxJudge,
    limit: ReadLimit<'_>,
) -> Result<CaughtUp, ReadError> {
    let topic = Topic::new(TopicKind::IdentityUpdates, &inbox.0).expect("an inbox id is not empty");
    let snapshot = store.snapshot();
    let mut rows = snapshot.topics();
    let mut row = rows.seek(topic.as_bytes(), EnvelopeId::new(STRAND, judge.known()))?;
    if judge.known() != SequenceId::NONE {
        if row.as_ref().is_some_and(|row| row.id == EnvelopeId::new(STRAND, judge.known())) {
            row = rows.next_row()?;
        } else {
            judge.start_over();
            row = rows.seek(topic.as_bytes(), EnvelopeId::new(STRAND, SequenceId::NONE))?;
        }
    }
    let (mut ids, mut len_bytes_all) = (Vec::new(), 0_usize);
    while let Some(found) = row.filter(|row| row.id.originator == STRAND) {
        let len_bytes = usize::try_from(found.len_bytes).unwrap_or(usize::MAX);
        len_bytes_all = len_bytes_all.saturating_add(len_bytes);
        // Neither the other rows nor any envelope of a log that is too long need be read.
        if !limit.allows(len_bytes_all) {
            return Ok(CaughtUp { cost: 0, end: CatchUpEnd::Limit });
        }
        ids.push(found.id);
        row = rows.next_row()?;
    }
    assert!(ids.is_sorted(), "rows of a topic ascend within their strand");
    let mut cost = 0;
    let end = add_updates(&snapshot, &ids, judge, limit, &mut cost).unwrap_or_else(|error| {
        tell_unreadable(inbox, &error);
        CatchUpEnd::Unreadable
    });
    Ok(CaughtUp { cost, end })
}

/// Adds these updates of the log in order, as far as `limit` allows, and counts them in `cost`.
fn add_updates(
    snapshot: &Snapshot<'_>,
    ids: &[EnvelopeId],
    judge: &mut dyn InboxJudge,
    limit: ReadLimit<'_>,
    cost: &mut usize,
) -> Result<CatchUpEnd, ReadError> {
    for ids in ids.chunks(UPDATES_AT_ONCE) {
        for (bytes, &id) in snapshot.get_many(ids)?.into_iter().zip(ids) {
            let bytes = bytes.ok_or_else(|| unreadable(id))?;
            let len_bytes = bytes.len();
            if !limit.allows(cost.saturating_add(len_bytes)) {
                return Ok(CatchUpEnd::Limit);
            }
            let stored = update_of(bytes).ok_or_else(|| unreadable(id))?;
            // The number of signers is known after the work is done, so the most that it can cost has to fit before.
            let cost_of = |signers: usize| {
                len_bytes.saturating_add(signers.saturating_mul(SIGNER_COST_BYTES))
            };
            let most = cost_of(stored.update.actions.len().saturating_mul(ACTION_SIGNERS_MAX));
            if !limit.allows(cost.saturating_add(most)) {
                return Ok(CatchUpEnd::Limit);
            }
            let update = cost_of(judge.add(id.sequence, &stored.update));
            *cost = cost.saturating_add(update);
            limit.pay(update, *cost);
        }
    }
    Ok(CatchUpEnd::Whole)
}

/// The part of an inbox's log that was read.
struct CaughtUp {
    /// Its cost in bytes, as [`ReadBudget`] counts it.
    cost: usize,
    end: CatchUpEnd,
}

/// The reason why a read of an inbox's log ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CatchUpEnd {
    /// The judge knows the whole log.
    Whole,
    /// The limit allows no more.
    Limit,
    /// The next update of the log cannot be read.
    Unreadable,
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
