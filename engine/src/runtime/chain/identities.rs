//! Identity updates on their way into the log: each inbox by itself, each update against the valid
//! ones before it, and the ones whose verdict is not known yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use hawser_proto::envelope::{OriginatorEnvelope, Payload};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId, Topic, TopicKind};
use hawser_rules::RuleNumber;
use hawser_storage::{ChainCommit, Change, LogEntry, ReadError, Snapshot, Store, Validity};

use super::{ChainAppendError, Fresh, Parts, invalid, valid};
use crate::chain_strand::ChainEnvelope;
use crate::facts;
use crate::inbox::{InboxId, inbox_of};
use crate::ports::{IdentityJudge, IdentityVerdict};
use crate::runtime::workers::Priority;

const STRAND: OriginatorId = OriginatorId::IDENTITY_UPDATES;

/// Inboxes that are judged at once: few enough that publishes do not wait long for a core.
const INBOXES_AT_ONCE: usize = 32;

/// Envelopes of an inbox that are read at once.
const UPDATES_AT_ONCE: usize = 256;

/// What a look at the waiting identity updates has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Judged {
    /// Updates that readers get now.
    pub valid: u64,
    /// Updates that they never will.
    pub invalid: u64,
    /// Updates that still wait.
    pub waiting: u64,
}

/// Updates that wait for their verdict, by inbox. While one waits, all later ones of its inbox do.
#[derive(Debug, Default)]
pub(super) struct Identities {
    waiting: BTreeMap<InboxId, BTreeSet<SequenceId>>,
}

/// What becomes of new events.
#[derive(Default)]
pub(super) struct Standings {
    /// In no order.
    pub(super) changes: Vec<Change>,
    /// Those of them that wait.
    pub(super) waiting: Vec<(InboxId, SequenceId)>,
    /// How many identity updates are valid.
    pub(super) valid: u64,
    /// How many are not.
    pub(super) invalid: u64,
}

/// The new updates of one inbox, in order.
struct Work {
    inbox: InboxId,
    envelopes: Vec<(Box<ChainEnvelope>, IdentityUpdate)>,
    /// Whether earlier ones wait.
    waits: bool,
}

impl Identities {
    /// Reads what waits.
    pub(super) fn load(snapshot: &Snapshot<'_>) -> Result<Self, ReadError> {
        let mut identities = Self::default();
        for id in snapshot.waiting(STRAND)? {
            let stored = snapshot.get(id)?.and_then(update_of);
            if let Some((inbox, _)) = stored {
                identities.waiting.entry(inbox).or_default().insert(id.sequence);
            }
        }
        Ok(identities)
    }

    pub(super) fn inboxes(&self) -> u64 {
        self.waiting.len() as u64
    }

    pub(super) fn updates(&self) -> u64 {
        self.waiting.values().map(|places| places.len() as u64).sum()
    }

    /// Remembers what waits from now on.
    pub(super) fn note(&mut self, waiting: Vec<(InboxId, SequenceId)>) {
        for (inbox, sequence) in waiting {
            self.waiting.entry(inbox).or_default().insert(sequence);
        }
    }

    /// Judges new events: inboxes on all cores, the updates of each in order.
    pub(super) fn judge(
        &self,
        parts: &Parts,
        fresh: Vec<Fresh>,
    ) -> Result<Standings, ChainAppendError> {
        let mut standings = Standings::default();
        let mut work = self.by_inbox(fresh, &mut standings.changes);
        while !work.is_empty() {
            let rest = work.split_off(work.len().min(INBOXES_AT_ONCE));
            let (store, judge) = (parts.store.clone(), Arc::clone(&parts.judge));
            let judged = parts.workers.map(Priority::Normal, work, move |work| {
                work.into_iter().map(|work| work.judge(&store, &*judge)).collect()
            });
            for judged in judged {
                standings.extend(judged?);
            }
            work = rest;
        }
        Ok(standings)
    }

    /// Sorts updates by inbox; what else there is needs no judge.
    fn by_inbox(&self, fresh: Vec<Fresh>, changes: &mut Vec<Change>) -> Vec<Work> {
        let mut places: HashMap<InboxId, usize> = HashMap::new();
        let mut work: Vec<Work> = Vec::new();
        for fresh in fresh {
            let Fresh::Envelope(mut envelope) = fresh else {
                changes.push(fresh.into_change());
                continue;
            };
            let Some((inbox, update)) = envelope.identity.take() else {
                changes.push(valid(*envelope));
                continue;
            };
            let place = *places.entry(inbox).or_insert_with(|| {
                let waits = self.waiting.contains_key(&inbox);
                work.push(Work { inbox, envelopes: Vec::new(), waits });
                work.len() - 1
            });
            work[place].envelopes.push((envelope, update));
        }
        work
    }

    /// Updates that wait, of some inboxes after `inbox`.
    pub(super) fn waiting_after(&self, inbox: Option<InboxId>) -> Vec<(InboxId, Vec<SequenceId>)> {
        let after = inbox.map_or(Bound::Unbounded, Bound::Excluded);
        self.waiting
            .range((after, Bound::Unbounded))
            .take(INBOXES_AT_ONCE)
            .map(|(&inbox, places)| (inbox, places.iter().copied().collect()))
            .collect()
    }

    /// Judges what waits in these inboxes, and commits what is known then.
    pub(super) fn judge_waiting(
        &mut self,
        parts: &Parts,
        inboxes: Vec<(InboxId, Vec<SequenceId>)>,
    ) -> Result<Judged, ChainAppendError> {
        let (store, judge) = (parts.store.clone(), Arc::clone(&parts.judge));
        let verdicts = parts.workers.map(Priority::Normal, inboxes, move |inboxes| {
            let verdicts = |(inbox, places)| verdicts(&store, &*judge, inbox, places);
            inboxes.into_iter().map(verdicts).collect()
        });
        let verdicts: Vec<Vec<LogEntry>> = verdicts.into_iter().collect::<Result<_, _>>()?;
        let mut resolved: Vec<LogEntry> = verdicts.into_iter().flatten().collect();
        resolved.sort_by_key(|entry| entry.id);
        let known: Vec<SequenceId> = resolved.iter().map(|entry| entry.id.sequence).collect();
        let is_invalid = |entry: &&LogEntry| matches!(entry.validity, Validity::Invalid(_));
        let invalid = resolved.iter().filter(is_invalid).count() as u64;
        let (originator, changes) = (STRAND, Vec::new());
        let commit = ChainCommit { originator, changes, resolved, position: None };
        parts.committer.commit_chain(commit)?;
        self.forget(&known);
        Ok(Judged { valid: known.len() as u64 - invalid, invalid, waiting: 0 })
    }

    fn forget(&mut self, known: &[SequenceId]) {
        let known: BTreeSet<SequenceId> = known.iter().copied().collect();
        self.waiting.retain(|_, places| {
            places.retain(|sequence| !known.contains(sequence));
            !places.is_empty()
        });
    }
}

impl Standings {
    fn extend(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.waiting.extend(other.waiting);
        self.valid += other.valid;
        self.invalid += other.invalid;
    }
}

impl Work {
    fn judge(self, store: &Store, judge: &dyn IdentityJudge) -> Result<Standings, ReadError> {
        let mut standings = Standings::default();
        let mut course = Course::new(store, judge, self.inbox);
        course.waits = self.waits;
        for (envelope, update) in self.envelopes {
            let id = envelope.id;
            standings.changes.push(match course.next(id, update)? {
                Validity::Valid => {
                    standings.valid += 1;
                    valid(*envelope)
                }
                Validity::Invalid(_) => {
                    standings.invalid += 1;
                    invalid(*envelope)
                }
                Validity::Waiting => {
                    standings.waiting.push((self.inbox, id.sequence));
                    Change::Append(LogEntry::waiting(id, envelope.bytes))
                }
            });
        }
        Ok(standings)
    }
}

/// One inbox while its next updates are judged, one after the other.
struct Course<'a> {
    store: &'a Store,
    judge: &'a dyn IdentityJudge,
    inbox: InboxId,
    /// The valid updates so far; read when the first verdict is needed.
    earlier: Option<Vec<IdentityUpdate>>,
    waits: bool,
}

impl<'a> Course<'a> {
    fn new(store: &'a Store, judge: &'a dyn IdentityJudge, inbox: InboxId) -> Self {
        Self { store, judge, inbox, earlier: None, waits: false }
    }

    fn next(&mut self, id: EnvelopeId, update: IdentityUpdate) -> Result<Validity, ReadError> {
        if self.waits {
            return Ok(Validity::Waiting);
        }
        if !is_hex_of(&update.inbox_id, &self.inbox) {
            return Ok(refused(id, "it names another inbox than its topic"));
        }
        let earlier = match &mut self.earlier {
            Some(earlier) => earlier,
            none => none.insert(earlier(self.store, self.inbox)?),
        };
        Ok(match self.judge.judge(self.inbox, earlier, &update) {
            IdentityVerdict::Valid => {
                earlier.push(update);
                Validity::Valid
            }
            IdentityVerdict::Invalid(reason) => refused(id, &reason),
            IdentityVerdict::Waiting(reason) => {
                tracing::info!(envelope = %id, reason, "an identity update waits for its verdict");
                self.waits = true;
                Validity::Waiting
            }
        })
    }
}

fn refused(id: EnvelopeId, reason: &str) -> Validity {
    tracing::info!(envelope = %id, reason, "an identity update is not valid: nobody gets it");
    Validity::Invalid(facts::mark_of(RuleNumber::IDENTITY_UPDATE))
}

/// What is known by now about updates of an inbox that wait, in order, up to the first that still
/// has to.
fn verdicts(
    store: &Store,
    judge: &dyn IdentityJudge,
    inbox: InboxId,
    places: Vec<SequenceId>,
) -> Result<Vec<LogEntry>, ReadError> {
    let mut course = Course::new(store, judge, inbox);
    let mut verdicts = Vec::new();
    for sequence in places {
        let id = EnvelopeId::new(STRAND, sequence);
        let bytes = store.snapshot().get(id)?.ok_or_else(|| unreadable(id))?;
        let (_, update) = update_of(bytes.clone()).ok_or_else(|| unreadable(id))?;
        match course.next(id, update)? {
            Validity::Waiting => break,
            Validity::Invalid(rule) => verdicts.push(LogEntry::invalid(id, bytes, rule)),
            Validity::Valid => {
                let facts = facts::of_stored(&bytes, Validity::Valid, store.identity().node)
                    .ok_or_else(|| unreadable(id))?;
                verdicts.push(LogEntry::valid(id, bytes, facts));
            }
        }
    }
    Ok(verdicts)
}

/// The valid updates of an inbox, in order.
fn earlier(store: &Store, inbox: InboxId) -> Result<Vec<IdentityUpdate>, ReadError> {
    let topic = Topic::new(TopicKind::IdentityUpdates, &inbox).expect("an inbox id is not empty");
    let snapshot = store.snapshot();
    let mut rows = snapshot.topics();
    let mut ids = Vec::new();
    let mut row = rows.seek(topic.as_bytes(), EnvelopeId::new(STRAND, SequenceId::NONE))?;
    while let Some(found) = row.filter(|row| row.id.originator == STRAND) {
        ids.push(found.id);
        row = rows.next_row()?;
    }
    let mut updates = Vec::with_capacity(ids.len());
    for ids in ids.chunks(UPDATES_AT_ONCE) {
        for (bytes, &id) in snapshot.get_many(ids)?.into_iter().zip(ids) {
            let (_, update) = bytes.and_then(update_of).ok_or_else(|| unreadable(id))?;
            updates.push(update);
        }
    }
    Ok(updates)
}

/// The inbox and the update of a stored envelope.
fn update_of(bytes: Bytes) -> Option<(InboxId, IdentityUpdate)> {
    let envelope = OriginatorEnvelope::parse(bytes).ok()?;
    let client = envelope.unsigned().payer().client();
    let Payload::IdentityUpdate(update) = client.payload() else { return None };
    Some((inbox_of(client.topic().identifier())?, update.clone()))
}

fn unreadable(id: EnvelopeId) -> ReadError {
    ReadError::unreadable_envelope(id)
}

/// Whether `text` is `bytes` in lower-case hexadecimal.
fn is_hex_of(text: &str, bytes: &[u8]) -> bool {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let pairs = bytes
        .iter()
        .flat_map(|&byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
    text.bytes().eq(pairs)
}
