//! The strand of a source, with the proof that its node has signed it, and a follower that is shown it.

use hawser_engine::replication::{EnvelopeVerifier, StrandItem};
use hawser_engine::runtime::replication::{CatchUp, ReplicationSettings};
use hawser_proto::checkpoint::{Checkpoint, SignedCheckpoint, SignedPrefix};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, EnvelopeId, SecretKey, SequenceId, Signature};
use hawser_rules::Absences;
use hawser_rules::fees::base_fee;
use hawser_storage::{Change, LogEntry, Store, StoreIdentity, Validity};
use prost::Message as _;

use crate::common::{self, NODE, START_NS, client, frame, group_payload, group_topic, payer, rate};
use crate::follow::{Follower, SOURCE, key};

/// A place whose payer signature recovers to no key, where a strand has one.
pub const BAD: u64 = 13;
/// Length of a strand.
pub const ALL: u64 = 30;

/// Returns an envelope of the source; `is_bad` leaves its payer unknown.
pub fn envelope(sequence: u64, is_bad: bool) -> Bytes {
    let payload = group_payload(frame(1, 1, format!("{sequence}").as_bytes()));
    let group = u8::try_from(sequence % 3).unwrap();
    let client = client(&group_topic(group), None, payload);
    let mut paid = PayerEnvelope::sign(client, SOURCE, 60, &payer(group));
    if is_bad {
        let signature = paid.payer_signature.as_mut().unwrap();
        signature.bytes = unrecoverable(&signature.bytes);
    }
    let paid: Bytes = paid.encode_to_vec().into();
    let ns = START_NS + i64::try_from(sequence).unwrap();
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: SOURCE.0,
        originator_sequence_id: sequence,
        originator_ns: ns,
        base_fee_picodollars: base_fee(&rate(), paid.len() as u64, 60).unwrap().0,
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::try_from(ns / 1_000_000_000).unwrap() + 60 * 86_400,
        payer_envelope_bytes: paid,
    };
    outer(statement.encode_to_vec().into(), &key(SOURCE))
}

fn outer(statement: Bytes, key: &SecretKey) -> Bytes {
    let signature = key.sign(originator_digest(&statement));
    OriginatorEnvelope::encode(statement, Proof::Signature(signature))
}

/// Changes a signature so that it has its form and belongs to no key.
fn unrecoverable(signature: &Bytes) -> Bytes {
    let changed = (0..=255).map(|byte| {
        let mut bytes = signature.to_vec();
        bytes[1] = byte;
        Bytes::from(bytes)
    });
    let digest = originator_digest(&Bytes::from_static(b"any"));
    let belongs_to_none = |bytes: &Bytes| {
        Signature::from_bytes(bytes).is_ok_and(|signature| signature.recover(digest).is_err())
    };
    changed.into_iter().find(belongs_to_none).expect("half of all points are not on the curve")
}

/// The strand of the source, with its tree and the checkpoint of all of it.
pub struct Backlog {
    pub envelopes: Vec<Bytes>,
    pub tree: Store,
    pub signed: SignedCheckpoint,
}

impl Backlog {
    pub fn new(bad: Option<u64>) -> Self {
        let envelopes: Vec<_> = (1..=ALL).map(|it| envelope(it, bad == Some(it))).collect();
        let public_key = key(SOURCE).public_key();
        let identity = StoreIdentity { network: "test".into(), node: SOURCE, public_key };
        let tree = Store::in_memory(identity, hawser_engine::price::price).unwrap();
        let append = |(bytes, sequence): (&Bytes, u64)| {
            let id = EnvelopeId::new(SOURCE, SequenceId(sequence));
            let (bytes, validity) = (bytes.clone(), Validity::Valid);
            Change::Append(LogEntry { id, bytes, validity, facts: None })
        };
        let changes: Vec<_> = envelopes.iter().zip(1..).map(append).collect();
        tree.commit(&changes).unwrap();
        let root = tree.snapshot().root(SOURCE, ALL).unwrap();
        let of = Checkpoint { node: SOURCE, originator: SOURCE, size: ALL, root, time_ns: 1 };
        Self { envelopes, tree, signed: of.sign(&key(SOURCE)) }
    }

    pub fn plain(&self, from: u64, through: u64) -> Vec<StrandItem<Bytes>> {
        let place = |it: u64| usize::try_from(it).unwrap();
        let part = &self.envelopes[place(from) - 1..place(through)];
        part.iter().cloned().map(StrandItem::Envelope).collect()
    }

    /// The proof that the source has signed the beginning of the strand.
    pub fn prefix(&self, through: u64) -> SignedPrefix {
        let proof = self.tree.snapshot().consistency(SOURCE, through, ALL).unwrap();
        SignedPrefix { size: through, signed: self.signed, proof }
    }

    /// Returns the envelopes of [`plain`](Self::plain), behind the proof that the source has signed them.
    pub fn run(&self, from: u64, through: u64) -> Vec<StrandItem<Bytes>> {
        let mut items = self.plain(from, through);
        items.insert(0, StrandItem::Prefix(Box::new(self.prefix(through))));
        items
    }

    /// A follower that has verified everything before it was stored.
    pub async fn verified_first(&self) -> Store {
        let follower = Follower::start(common::store());
        let mut source = follower.connect(SOURCE, &[]);
        assert_eq!(source.want(SOURCE).await, (0, None));
        source.answer(self.plain(1, ALL)).await;
        follower.wait_for(SOURCE, ALL).await;
        assert_eq!(follower.replication.counters().verified_behind.get(), 0);
        follower.stop().await
    }

    /// A store to which everything was shown, with these envelopes, when its process was killed.
    pub fn killed_before_verifying(&self, envelopes: &[Bytes]) -> Store {
        let store = common::store();
        let read = verifier().read(envelopes.to_vec()).unwrap().into_iter();
        let changes: Vec<_> = read.map(|(entry, _)| Change::Append(entry)).collect();
        store.commit_shown(&changes).unwrap();
        store
    }

    /// The strand after a relay has put another signature on one place.
    pub fn relayed(&self, place: u64) -> Vec<Bytes> {
        let mut envelopes = self.envelopes.clone();
        let bytes = &mut envelopes[usize::try_from(place).unwrap() - 1];
        let (statement, _) = OriginatorEnvelope::open(bytes.clone()).unwrap();
        *bytes = outer(statement, &payer(9));
        envelopes
    }
}

pub fn verifier() -> EnvelopeVerifier {
    let key = key(SOURCE).public_key();
    EnvelopeVerifier { originator: SOURCE, key, own: NODE, absences: Absences::NONE }
}

pub fn showing() -> ReplicationSettings {
    ReplicationSettings { catch_up: CatchUp::Checkpoints, ..ReplicationSettings::default() }
}

pub async fn all_verified(follower: &Follower) {
    let store = follower.engine().store();
    let is_verified = || store.unverified().unwrap().is_empty();
    follower.until("everything is verified", is_verified).await;
}

pub fn assert_equal(a: &Store, b: &Store) {
    let (a, b) = (a.snapshot(), b.snapshot());
    assert_eq!(a.projection_digests().unwrap(), b.projection_digests().unwrap());
    assert_eq!(a.root(SOURCE, ALL).unwrap(), b.root(SOURCE, ALL).unwrap());
    for sequence in 1..=ALL {
        let id = EnvelopeId::new(SOURCE, SequenceId(sequence));
        assert_eq!(a.mark(id).unwrap(), b.mark(id).unwrap(), "{id}");
        assert_eq!(a.get(id).unwrap(), b.get(id).unwrap(), "{id}");
    }
}
