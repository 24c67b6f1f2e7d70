//! An honest log in memory, for tests.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
use hawser_proto::merkle::{CompactRange, TreeHash, envelope_leaf};
use hawser_proto::pb::xmtp::mls::api::v1::WelcomeMessageInput;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_proto::{
    Address, Bytes, EnvelopeId, OriginatorId, PublicKey, SecretKey, SequenceId, minute_of,
};
use hawser_rules::fees::base_fee;
use hawser_rules::{NodeRecord, PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable};
use prost::Message as _;

use super::*;

pub(crate) const NODE: OriginatorId = OriginatorId(100);
pub(crate) const WITNESS: OriginatorId = OriginatorId(200);
pub(crate) const START_NS: i64 = 1_750_000_000_000_000_000;
const STEP_NS: i64 = 7_000_000_000;
const DAYS: u32 = 30;
pub(crate) const RATE: Rate = Rate {
    start_unix_s: 5,
    message_fee: PicoDollarPrice(1_000),
    storage_fee: PicoDollarsPerByteDay(3),
    congestion_fee: PicoDollarPrice(0),
    target_rate_per_minute: 0,
};

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32]).unwrap()
}

/// Returns the registry's record of a canonical node with this key.
pub(crate) fn record(id: OriginatorId, public_key: PublicKey) -> NodeRecord {
    NodeRecord {
        id,
        public_key,
        owner: Address([0; 20]),
        http_address: None,
        quic_address: None,
        canonical: true,
    }
}

/// The fields that a test changes.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) statement: pb::UnsignedOriginatorEnvelope,
}

pub(crate) fn draft(sequence: u64, ns: i64) -> Draft {
    draft_for(sequence, ns, NODE, &[1, 7])
}

pub(crate) fn draft_for(sequence: u64, ns: i64, target: OriginatorId, topic: &[u8]) -> Draft {
    let payload = Payload::WelcomeMessage(WelcomeMessageInput::default());
    drafted((sequence, ns), target, client(topic, payload, &[]), DAYS)
}

/// An envelope with this topic, payload, dependencies and days of retention, and a correct time.
pub(crate) fn draft_of(
    sequence: u64,
    topic: &[u8],
    payload: Payload,
    depends_on: &[(u32, u64)],
    days: u32,
) -> Draft {
    drafted((sequence, ns_of(sequence)), NODE, client(topic, payload, depends_on), days)
}

fn client(topic: &[u8], payload: Payload, depends_on: &[(u32, u64)]) -> pb::ClientEnvelope {
    let cursor = pb::Cursor { node_id_to_sequence_id: depends_on.iter().copied().collect() };
    let aad = pb::AuthenticatedData {
        target_topic: Bytes::copy_from_slice(topic),
        depends_on: (!depends_on.is_empty()).then_some(cursor),
    };
    pb::ClientEnvelope { aad: Some(aad), payload: Some(payload) }
}

fn drafted(
    (sequence, ns): (u64, i64),
    target: OriginatorId,
    client: pb::ClientEnvelope,
    days: u32,
) -> Draft {
    let payer = key(if sequence.is_multiple_of(3) { 8 } else { 9 });
    let payer = PayerEnvelope::sign(client.encode_to_vec().into(), target, days, &payer);
    let payer_envelope_bytes: Bytes = payer.encode_to_vec().into();
    let fee = base_fee(&RATE, payer_envelope_bytes.len() as u64, days).unwrap().0;
    let expiry = ns.unsigned_abs() / 1_000_000_000 + u64::from(days) * 86_400;
    Draft {
        statement: pb::UnsignedOriginatorEnvelope {
            originator_node_id: NODE.0,
            originator_sequence_id: sequence,
            originator_ns: ns,
            payer_envelope_bytes,
            base_fee_picodollars: fee,
            congestion_fee_picodollars: 0,
            expiry_unixtime: expiry,
        },
    }
}

impl Draft {
    pub(crate) fn seal(&self) -> Bytes {
        UnsealedEnvelope::new(&self.statement).seal(&key(1))
    }
}

pub(crate) fn ns_of(sequence: u64) -> i64 {
    START_NS + i64::try_from(sequence).unwrap() * STEP_NS
}

/// A log in memory, with the records that are kept beside it.
#[derive(Clone)]
pub(crate) struct MemoryLog {
    pub(crate) rows: Vec<StrandRow>,
    pub(crate) usage: BTreeMap<(u32, Address), Usage>,
    pub(crate) congestion: BTreeMap<u32, u64>,
    pub(crate) root: TreeHash,
    pub(crate) checkpoints: Vec<CosignedCheckpoint>,
    pub(crate) voids: Vec<SignedVoid>,
    pub(crate) head: u64,
    pub(crate) last_held: u64,
    pub(crate) rates: Vec<Rate>,
    /// The keeper's note about the time up to which these are complete, unix nanoseconds.
    pub(crate) rates_until_ns: Option<i64>,
    /// The absences by which the keeper has judged, encoded.
    pub(crate) judged_by: Option<Vec<u8>>,
    /// True for the view of a node's API, which shows neither gaps nor tallies nor trees.
    pub(crate) is_node: bool,
    /// False for a folder that has to rebuild its tallies.
    pub(crate) has_tallies: bool,
    /// True for a folder whose stored tree cannot be read.
    pub(crate) has_unreadable_tree: bool,
    /// The first place of the rows that cannot be read, for a damaged folder.
    pub(crate) unreadable_from: Option<u64>,
}

impl MemoryLog {
    /// Makes the log of an honest node: `len` envelopes, and a checkpoint after every tenth.
    pub(crate) fn honest(len: u64) -> Self {
        Self::of((1..=len).map(|at| (draft(at, ns_of(at)).seal(), StoredMark::Valid)).collect())
    }

    pub(crate) fn of(envelopes: Vec<(Bytes, StoredMark)>) -> Self {
        let len = envelopes.len() as u64;
        let (mut rows, mut tree) = (Vec::new(), CompactRange::default());
        let (mut usage, mut congestion) = (BTreeMap::<_, Usage>::new(), BTreeMap::new());
        let mut checkpoints = Vec::new();
        for (at, (bytes, mark)) in (1..).zip(envelopes) {
            let leaf = envelope_leaf(&bytes).unwrap();
            tree.append(leaf, |_, _| {});
            if mark.is_booked()
                && let Some((minute, payer, one)) = charge(&bytes)
            {
                usage.entry((minute, payer)).or_default().add(one);
                *congestion.entry(minute).or_default() += 1;
            }
            rows.push(StrandRow::Envelope {
                sequence: SequenceId(at),
                bytes,
                mark,
                leaf: Some(leaf),
            });
            if at % 10 == 0 {
                checkpoints.push(checkpoint(at, tree.root()));
            }
        }
        let (root, rates) = (tree.root(), vec![RATE]);
        let (head, last_held) = (len, len);
        let (is_node, has_tallies, has_unreadable_tree) = (false, true, false);
        Self {
            rows,
            usage,
            congestion,
            root,
            checkpoints,
            voids: Vec::new(),
            head,
            last_held,
            rates,
            rates_until_ns: None,
            judged_by: None,
            is_node,
            has_tallies,
            has_unreadable_tree,
            unreadable_from: None,
        }
    }

    pub(crate) fn bytes_at(&mut self, sequence: u64) -> &mut Bytes {
        let at = usize::try_from(sequence).unwrap() - 1;
        let StrandRow::Envelope { bytes, .. } = &mut self.rows[at] else { panic!("no envelope") };
        bytes
    }

    /// Prunes a place as an honest node does, and returns the record, which a test may falsify.
    pub(crate) fn prune(&mut self, sequence: u64) -> &mut PrunedRecord {
        let (bytes, leaf) = (self.bytes_at(sequence).clone(), *self.row_at(sequence).1);
        let (_, payer, usage) = charge(&bytes).unwrap();
        let envelope = hawser_proto::envelope::OriginatorEnvelope::parse(bytes).unwrap();
        let statement = envelope.unsigned();
        let charge = EnvelopeCharge {
            payer,
            size_bytes: statement.payer().as_bytes().len() as u64,
            retention_days: DAYS,
            stated_picodollars: usage.stated_picodollars,
        };
        let record = PrunedRecord {
            originator_ns: statement.originator_ns(),
            len_bytes: usage.bytes,
            charge: Some(charge),
            counts_for_congestion: true,
        };
        let row = &mut self.rows[usize::try_from(sequence).unwrap() - 1];
        *row = StrandRow::Pruned { sequence: SequenceId(sequence), record, leaf };
        let StrandRow::Pruned { record, .. } = row else { panic!("no record") };
        record
    }

    pub(crate) fn row_at(&mut self, sequence: u64) -> (&mut StoredMark, &mut Option<TreeHash>) {
        let at = usize::try_from(sequence).unwrap() - 1;
        let StrandRow::Envelope { mark, leaf, .. } = &mut self.rows[at] else { panic!("none") };
        (mark, leaf)
    }
}

fn charge(bytes: &Bytes) -> Option<(u32, Address, Usage)> {
    let envelope = hawser_proto::envelope::OriginatorEnvelope::parse(bytes.clone()).ok()?;
    let statement = envelope.unsigned();
    let payer = statement.payer();
    let signature = hawser_proto::Signature::from_bytes(payer.signature_bytes()?).ok()?;
    let size_bytes = payer.as_bytes().len() as u64;
    let usage = Usage {
        picodollars: base_fee(&RATE, size_bytes, payer.retention_days()).unwrap(),
        messages: 1,
        bytes: bytes.len() as u64,
        last_sequence: statement.id().sequence,
        stated_picodollars: statement.base_fee().plus(statement.congestion_fee()),
    };
    let payer = signature.recover(payer.digest()).ok()?.address();
    Some((minute_of(statement.originator_ns()), payer, usage))
}

/// The statement of the log's node about these places, at the time of place `at`, signed with this key.
pub(crate) fn declared(from: u64, through: u64, at: u64, seed: u8) -> SignedVoid {
    let (from, through) = (SequenceId(from), SequenceId(through));
    let time_ns = ns_of(at).unsigned_abs();
    VoidStatement { node: NODE, from, through, time_ns, incarnation: [4; 16] }.sign(&key(seed))
}

pub(crate) fn checkpoint(size: u64, root: TreeHash) -> CosignedCheckpoint {
    let time_ns = ns_of(size).unsigned_abs() + 1_000_000;
    let statement = Checkpoint { node: NODE, originator: NODE, size, root, time_ns };
    let mut cosigned = CosignedCheckpoint::from(statement.sign(&key(1)));
    assert!(cosigned.add_cosignature(statement.cosign(WITNESS, time_ns + 5, &key(2))));
    cosigned
}

impl LogSource for MemoryLog {
    fn identity(&self) -> LogIdentity {
        LogIdentity { network: "testnet".to_owned(), node: NODE, log: vec![7; 16] }
    }

    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
        let head = EnvelopeId::new(NODE, SequenceId(self.head));
        Ok((self.head > 0).then_some(head).into_iter().collect())
    }

    fn last_held(&self, _: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
        Ok(Some(SequenceId(self.last_held)))
    }

    fn rows(&self, after: EnvelopeId, head: SequenceId) -> LogRows<'_> {
        let place = |row: &StrandRow| match row {
            StrandRow::Envelope { sequence, .. }
            | StrandRow::Pruned { sequence, .. }
            | StrandRow::Leaf { sequence, .. } => *sequence,
            StrandRow::Gap { from, .. } => *from,
        };
        let is_due = move |row: &&StrandRow| place(row) > after.sequence && place(row) <= head;
        let unreadable_from = self.unreadable_from.unwrap_or(u64::MAX);
        let read = move |row: StrandRow| match place(&row).0 < unreadable_from {
            true => Ok(row),
            false => Err(SourceError("a block is damaged".to_owned())),
        };
        Box::new(self.rows.iter().filter(is_due).cloned().map(read))
    }

    fn beside(&self, _: OriginatorId) -> Box<dyn StrandRows + '_> {
        Box::new(self.clone())
    }

    fn shows_gaps(&self) -> bool {
        !self.is_node
    }

    fn dates_chains_by_blocks(&self) -> bool {
        !self.is_node
    }

    fn unchecked(&self) -> Vec<String> {
        Vec::new()
    }

    fn rates(&self) -> Result<Vec<Rate>, SourceError> {
        Ok(self.rates.clone())
    }

    fn rates_complete_until_ns(&self) -> Result<Option<i64>, SourceError> {
        Ok(self.rates_until_ns)
    }
}

impl StrandRows for MemoryLog {
    fn has_tallies(&self) -> bool {
        !self.is_node && self.has_tallies
    }

    fn usage(
        &self,
        minutes: RangeInclusive<u32>,
        each: &mut dyn FnMut(u32, Address, Usage),
    ) -> Result<(), SourceError> {
        let rows = self.usage.iter().filter(|((minute, _), _)| minutes.contains(minute));
        rows.for_each(|(&(minute, payer), &usage)| each(minute, payer, usage));
        Ok(())
    }

    fn congestion(
        &self,
        minutes: RangeInclusive<u32>,
        each: &mut dyn FnMut(u32, u64),
    ) -> Result<(), SourceError> {
        self.congestion.range(minutes).for_each(|(&minute, &messages)| each(minute, messages));
        Ok(())
    }

    fn judged_by(&self) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.judged_by.clone())
    }

    fn root(&self, size: u64) -> Result<Option<TreeHash>, SourceError> {
        if self.is_node {
            return Ok(None);
        }
        if self.has_unreadable_tree {
            return Err(SourceError("a node of the tree is damaged".to_owned()));
        }
        if size >= self.head {
            return Ok((size == self.head).then_some(self.root));
        }
        let mut tree = CompactRange::default();
        for row in &self.rows {
            if let StrandRow::Envelope { leaf: Some(leaf), .. }
            | StrandRow::Pruned { leaf: Some(leaf), .. } = row
                && tree.size() < size
            {
                tree.append(*leaf, |_, _| {});
            }
        }
        Ok(Some(tree.root()))
    }

    fn void_statements(&self) -> Result<Vec<SignedVoid>, SourceError> {
        Ok(self.voids.clone())
    }

    fn checkpoint_nodes(&self) -> Result<Vec<OriginatorId>, SourceError> {
        Ok(vec![NODE])
    }

    fn checkpoint_after(
        &self,
        _: OriginatorId,
        size: u64,
    ) -> Result<Option<CosignedCheckpoint>, SourceError> {
        let is_next = |it: &&CosignedCheckpoint| it.signed.checkpoint.size > size;
        let next = match self.is_node {
            true => self.checkpoints.last().filter(is_next), // it shows the newest one alone
            false => self.checkpoints.iter().find(is_next),
        };
        Ok(next.cloned())
    }

    fn checkpoint_up_to(
        &self,
        _: OriginatorId,
        size_max: u64,
    ) -> Result<Option<CosignedCheckpoint>, SourceError> {
        let is_within = |it: &&CosignedCheckpoint| it.signed.checkpoint.size <= size_max;
        let within = self.checkpoints.iter().rev().find(is_within);
        Ok(within.filter(|_| self.is_node).cloned())
    }
}

pub(crate) fn settings() -> ReplaySettings {
    let keys = [(NODE, 1), (WITNESS, 2)];
    ReplaySettings {
        registry: keys.into_iter().map(|(id, seed)| record(id, key(seed).public_key())).collect(),
        rates: RateTable::new(vec![RATE], None).ok(),
        threads: 2,
        now_ns: ns_of(1_000_000),
    }
}
