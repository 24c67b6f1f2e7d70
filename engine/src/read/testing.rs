//! Shared parts of the tests of reading: short names, rows in memory, envelopes in a store.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SecretKey, SequenceId, Topic};
use hawser_storage::{
    Change, Charge, Facts, InvalidRule, LogEntry, SkipReason, Store, StoreIdentity, TopicRow,
    Validity,
};
use prost::Message as _;

use super::error::QueryError;
use super::places::PlaceOwner;
use super::rows::{ROWS_PER_SEEK, Rows};
use crate::committed::Committed;
use crate::ports::Clock;

pub(crate) fn id(originator: u32, sequence: u64) -> EnvelopeId {
    EnvelopeId::new(OriginatorId(originator), SequenceId(sequence))
}

pub(crate) fn cursor(entries: &[(u32, u64)]) -> Cursor {
    entries.iter().map(|&(originator, sequence)| id(originator, sequence)).collect()
}

pub(crate) fn topic(name: u8) -> Topic {
    Topic::parse(vec![0, name].into()).expect("two bytes and a known kind")
}

/// Rows in memory, and the number of reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryRows {
    rows: BTreeMap<(Topic, EnvelopeId), TopicRow>,
    at: Option<(Topic, EnvelopeId)>,
    pub(crate) seeks: usize,
    pub(crate) reads: usize,
}

impl MemoryRows {
    pub(crate) fn insert(&mut self, topic: Topic, row: TopicRow) {
        self.rows.insert((topic, row.id), row);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Topic, &TopicRow)> {
        self.rows.iter().map(|((topic, _), row)| (topic, row))
    }

    /// Returns the owner of a place for the readers of a topic.
    pub(crate) fn owner_of(&self, topic: &Topic, place: EnvelopeId) -> PlaceOwner {
        match self.rows.keys().find(|(_, id)| *id == place) {
            Some((owner, _)) if owner == topic => PlaceOwner::Topic,
            Some(_) => PlaceOwner::Elsewhere,
            None => PlaceOwner::Unknown,
        }
    }

    fn step(&mut self, topic: &Topic, from: Bound<EnvelopeId>) -> Option<TopicRow> {
        self.reads += 1;
        let from = from.map(|id| (topic.clone(), id));
        let (key, row) = self.rows.range((from, Bound::Unbounded)).next()?;
        if key.0 != *topic {
            return None;
        }
        self.at = Some(key.clone());
        Some(row.clone())
    }
}

impl MemoryRows {
    fn step_back(&mut self, topic: &Topic, through: Bound<EnvelopeId>) -> Option<TopicRow> {
        self.reads += 1;
        let first = Bound::Included((topic.clone(), EnvelopeId::default()));
        let through = through.map(|id| (topic.clone(), id));
        let (key, row) = self.rows.range((first, through)).next_back()?;
        self.at = Some(key.clone());
        Some(row.clone())
    }
}

impl Rows for MemoryRows {
    fn looked_at(&self) -> usize {
        self.reads + ROWS_PER_SEEK * self.seeks
    }

    fn probe_newer(
        &mut self,
        _: &Topic,
        _: &dyn Fn(OriginatorId) -> SequenceId,
        _: &[EnvelopeId],
    ) -> bool {
        true
    }

    fn seek(&mut self, topic: &Topic, from: EnvelopeId) -> Result<Option<TopicRow>, QueryError> {
        self.seeks += 1;
        self.at = None;
        Ok(self.step(topic, Bound::Included(from)))
    }

    fn next_row(&mut self) -> Result<Option<TopicRow>, QueryError> {
        let Some((topic, id)) = self.at.take() else { return Ok(None) };
        Ok(self.step(&topic, Bound::Excluded(id)))
    }

    fn seek_back(
        &mut self,
        topic: &Topic,
        through: EnvelopeId,
    ) -> Result<Option<TopicRow>, QueryError> {
        self.seeks += 1;
        self.at = None;
        Ok(self.step_back(topic, Bound::Included(through)))
    }

    fn previous_row(&mut self) -> Result<Option<TopicRow>, QueryError> {
        let Some((topic, id)) = self.at.take() else { return Ok(None) };
        Ok(self.step_back(&topic, Bound::Excluded(id)))
    }
}

/// Random numbers from a seed: the same ones everywhere and for ever.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }
}

/// A clock whose time does not change.
#[derive(Debug)]
pub(crate) struct StoppedClock(pub(crate) i64);

impl Clock for StoppedClock {
    fn now_ns(&self) -> i64 {
        self.0
    }
}

/// A store in memory.
pub(crate) fn store() -> Store {
    let key = SecretKey::from_bytes(&[7; 32]).expect("a valid scalar");
    let identity = StoreIdentity {
        network: "test".into(),
        node: OriginatorId(100),
        public_key: key.public_key(),
    };
    Store::in_memory(identity, crate::price::price).expect("memory can be opened")
}

/// An envelope whose statement decodes; its content does not matter to readers.
pub(crate) fn committed(
    id: EnvelopeId,
    topic: Topic,
    originator_ns: i64,
    depends_on: Vec<EnvelopeId>,
) -> Committed {
    with_payer_layer(id, topic, originator_ns, depends_on, Bytes::new())
}

/// An envelope of which all parts decode that put it in its place in its topic.
pub(crate) fn placed(
    id: EnvelopeId,
    topic: Topic,
    originator_ns: i64,
    depends_on: Vec<EnvelopeId>,
) -> Committed {
    let client = pb::ClientEnvelope {
        aad: Some(pb::AuthenticatedData {
            target_topic: topic.as_bytes().clone(),
            depends_on: Some(Cursor::from_iter(depends_on.iter().copied()).to_pb()),
        }),
        payload: None,
    };
    let payer = pb::PayerEnvelope {
        unsigned_client_envelope: client.encode_to_vec().into(),
        ..Default::default()
    };
    with_payer_layer(id, topic, originator_ns, depends_on, payer.encode_to_vec().into())
}

/// An envelope around these bytes of a payer envelope.
fn with_payer_layer(
    id: EnvelopeId,
    topic: Topic,
    originator_ns: i64,
    depends_on: Vec<EnvelopeId>,
    payer_envelope_bytes: Bytes,
) -> Committed {
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: id.originator.0,
        originator_sequence_id: id.sequence.0,
        originator_ns,
        payer_envelope_bytes,
        ..Default::default()
    };
    let bytes =
        OriginatorEnvelope::encode(statement.encode_to_vec().into(), Proof::Transaction([1; 32]));
    Committed { id, topic, originator_ns, depends_on, bytes }
}

/// An envelope of strand 100 for a queue, which uses its id and length alone.
pub(crate) fn queued(sequence: u64, len_bytes: usize) -> Arc<Committed> {
    Arc::new(Committed {
        id: EnvelopeId::new(OriginatorId(100), SequenceId(sequence)),
        topic: Topic::parse(vec![0, 1].into()).unwrap(),
        originator_ns: 0,
        depends_on: Vec::new(),
        bytes: vec![0; len_bytes].into(),
    })
}

pub(crate) fn append(committed: &Committed) -> Change {
    Change::Append(LogEntry {
        id: committed.id,
        bytes: committed.bytes.clone(),
        validity: Validity::Valid,
        facts: Some(Facts {
            topic: Some(committed.topic.clone()),
            originator_ns: committed.originator_ns,
            depends_on: committed.depends_on.clone(),
            expiry_unix_s: None,
            receipt: None,
            charge: None,
            counts_for_congestion: false,
            addresses: Vec::new(),
        }),
    })
}

/// Returns an envelope for which a payer is charged, and which counts for the congestion of its minute. Its bytes have
/// its place and time, and nothing that was paid for.
pub(crate) fn charged(id: EnvelopeId, originator_ns: i64, charge: Charge) -> LogEntry {
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: id.originator.0,
        originator_sequence_id: id.sequence.0,
        originator_ns,
        ..Default::default()
    };
    let proof = Proof::Transaction([1; 32]);
    let bytes = OriginatorEnvelope::encode(statement.encode_to_vec().into(), proof);
    let facts = Facts {
        topic: None,
        originator_ns,
        depends_on: Vec::new(),
        expiry_unix_s: None,
        receipt: None,
        charge: Some(charge),
        counts_for_congestion: true,
        addresses: Vec::new(),
    };
    LogEntry::valid(id, bytes, facts)
}

pub(crate) fn append_invalid(committed: &Committed) -> Change {
    Change::Append(LogEntry {
        id: committed.id,
        bytes: committed.bytes.clone(),
        validity: Validity::Invalid(InvalidRule(1)),
        facts: None,
    })
}

pub(crate) fn missing(id: EnvelopeId) -> Change {
    Change::Skip {
        originator: id.originator,
        from: id.sequence,
        through: id.sequence,
        reason: SkipReason::Missing,
    }
}

/// Returns the id of the envelope that these bytes are.
pub(crate) fn id_of(bytes: &Bytes) -> EnvelopeId {
    let (unsigned, _) = OriginatorEnvelope::open(bytes.clone()).expect("made by these tests");
    OriginatorEnvelope::statement(unsigned).expect("made by these tests").0
}

pub(crate) fn ids_of(envelopes: &[Bytes]) -> Vec<EnvelopeId> {
    envelopes.iter().map(id_of).collect()
}

/// Returns the envelopes of `all` that a reader of `topics` may see: for each originator those above
/// the cursor, up to the first envelope that has to wait. Envelopes of one `lane` stop together.
pub(crate) fn visible<'a, L: Ord>(
    all: impl IntoIterator<Item = &'a Arc<Committed>>,
    from: impl Fn(&Topic) -> Option<Cursor>,
    heads: &Cursor,
    lane: impl Fn(&Committed) -> L,
) -> BTreeSet<EnvelopeId> {
    let mut wanted: Vec<_> = all
        .into_iter()
        .filter_map(|item| Some((item, from(&item.topic)?)))
        .filter(|(item, from)| !from.covers(item.id) && heads.covers(item.id))
        .collect();
    wanted.sort_by_key(|(item, _)| item.id);
    let mut stopped = BTreeSet::new();
    let mut visible = BTreeSet::new();
    for (item, from) in wanted {
        let waits = item.id.originator.is_node()
            && item
                .depends_on
                .iter()
                .any(|&on| !on.originator.is_node() && !from.covers(on) && !heads.covers(on));
        if waits {
            stopped.insert(lane(item));
        }
        if !stopped.contains(&lane(item)) {
            visible.insert(item.id);
        }
    }
    visible
}
