//! A past that no publisher can make: a payer who was busy in each minute of a year, topics in which a hundred
//! originators have written, and a strand of marks.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hawser_engine::{facts, price};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope};
use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress, SecretKey, SequenceId};
use hawser_storage::{Change, LogEntry, SkipReason, Store, StoreIdentity};

use crate::error::BenchError;
use crate::micro::originator_bytes;
use crate::workload::Workload;

/// The originator of the busy payer's envelopes.
const BUSY: OriginatorId = OriginatorId(20_000);
/// The first of the originators that share topics.
const FIRST_OF_CROWD: u32 = 10_000;
/// The first of their topics: far from those that are published on.
const FIRST_TOPIC: u64 = 1 << 40;
/// The originator of the marks: a node that is not in the registry.
const MARKED: OriginatorId = OriginatorId(200);
const PAYLOAD_LEN: usize = 128;
/// Envelopes in one commit.
const BATCH: u64 = 1000;
const MINUTE_NS: i64 = 60_000_000_000;

/// The numbers of envelopes and marks that are written into a stopped node before a scenario begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeededHistory {
    /// Minutes in which the payer was busy: an envelope, and so a row of usage, in each.
    pub(crate) minutes: u64,
    /// Originators that share topics, with an envelope in each.
    pub(crate) crowd: u32,
    /// Topics that they share.
    pub(crate) crowded_topics: u64,
    /// Marks in the strand of a node that has left.
    pub(crate) marks: u64,
}

impl SeededHistory {
    /// Envelopes that it adds to the log.
    pub(crate) fn rows(self) -> u64 {
        self.minutes + u64::from(self.crowd) * self.crowded_topics
    }

    /// The `number`-th of the topics that are shared.
    pub(crate) fn topic(number: u64) -> u64 {
        FIRST_TOPIC + number
    }

    /// The address of the busy payer, as a request names it.
    pub(crate) fn payer() -> Result<String, BenchError> {
        Ok(workload(BUSY)?.payer().public_key().address().to_string())
    }

    /// Writes the missing envelopes of these strands into the folder of a stopped node.
    pub(crate) fn write(self, folder: &Path) -> Result<(), BenchError> {
        let (store, identity) = Store::open_existing(folder, price::price)?;
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let first_ns = i64::try_from(now_ns)? - i64::try_from(self.minutes)? * MINUTE_NS;
        let alone = [workload(BUSY)?.on_topic(Self::topic(u64::from(u32::MAX)))?];
        let strand =
            |originator| Strand { store: &store, identity: &identity, originator, first_ns };
        strand(BUSY).extend(self.minutes, &alone)?;
        for number in 0..self.crowd {
            let originator = OriginatorId(FIRST_OF_CROWD + number);
            if store.snapshot().head(originator)?.0 >= self.crowded_topics {
                continue; // An earlier run has signed and stored all of them.
            }
            let workload = workload(originator)?;
            let topics = 0..self.crowded_topics;
            let payers = topics.map(|topic| workload.on_topic(Self::topic(topic)));
            let payers = payers.collect::<Result<Vec<_>, BenchError>>()?;
            strand(originator).extend(self.crowded_topics, &payers)?;
        }
        mark(&store, self.marks)?;
        Ok(store.flush()?)
    }
}

/// Extends a strand to `places` places without envelopes. Neighbours have different reasons, so each has a mark of its
/// own.
fn mark(store: &Store, places: u64) -> Result<(), BenchError> {
    let held = store.snapshot().head(MARKED)?.0;
    for first in (held + 1..=places).step_by(usize::try_from(BATCH)?) {
        let skip = |sequence: u64| {
            let (from, through) = (SequenceId(sequence), SequenceId(sequence));
            let is_odd = !sequence.is_multiple_of(2);
            let reason = if is_odd { SkipReason::Missing } else { SkipReason::Void };
            Change::Skip { originator: MARKED, from, through, reason }
        };
        let last = places.min(first + BATCH - 1);
        store.commit(&(first..=last).map(skip).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn workload(originator: OriginatorId) -> Result<Workload, BenchError> {
    Workload::new(originator, 1, 1, PAYLOAD_LEN, [5; 32])
}

/// A strand of the past.
struct Strand<'a> {
    store: &'a Store,
    identity: &'a StoreIdentity,
    originator: OriginatorId,
    first_ns: i64,
}

impl Strand<'_> {
    /// Extends the strand to `places`, a minute apart, with these payer envelopes in turn.
    fn extend(&self, places: u64, payers: &[PayerEnvelope]) -> Result<(), BenchError> {
        let secret = blake3::derive_key("hawser-bench past", &self.originator.0.to_be_bytes());
        let key = SecretKey::from_bytes(&secret)?;
        let account = workload(self.originator)?.payer().public_key().address();
        let held = self.store.snapshot().head(self.originator)?.0;
        for first in (held + 1..=places).step_by(usize::try_from(BATCH)?) {
            let last = places.min(first + BATCH - 1);
            let changes = (first..=last).map(|sequence| {
                let payer = &payers[usize::try_from(sequence - 1)? % payers.len()];
                self.change(sequence, payer, account, &key)
            });
            self.store.commit(&changes.collect::<Result<Vec<_>, BenchError>>()?)?;
        }
        Ok(())
    }

    fn change(
        &self,
        sequence: u64,
        payer: &PayerEnvelope,
        account: PayerAddress,
        key: &SecretKey,
    ) -> Result<Change, BenchError> {
        let id = EnvelopeId::new(self.originator, SequenceId(sequence));
        let originator_ns = self.first_ns + i64::try_from(sequence)? * MINUTE_NS;
        let bytes = originator_bytes(id, originator_ns, payer, key);
        let envelope = OriginatorEnvelope::parse(bytes.clone())?;
        let facts = facts::of_statement(envelope.unsigned(), Some(account), self.identity.node);
        Ok(Change::Append(LogEntry::valid(id, bytes, facts)))
    }
}
