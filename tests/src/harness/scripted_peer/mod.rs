//! A node that speaks gRPC only and is not Hawser: a scripted one, with the habits of other software as switches.
//!
//! It serves what nodes of the network serve to one another, on a port of this machine: the streams by
//! originators, pages, and its vector clock. Its strand is what a test makes of it.

mod answer;
mod habits;
mod server;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::void::VoidStatement;
use hawser_proto::{OriginatorId, SecretKey, SequenceId};
use parking_lot::Mutex;
use prost::Message as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::envelopes::{
    Frame, RETENTION_DAYS, client, group_message, group_payload, group_topic, payer, sign,
};
use super::files::Record;
use super::ports;
use state::{ScriptedPeerState, signed};

pub(crate) use answer::{oddly, originators_message};
pub use habits::{Attack, Habits, LONG_BYTES, Methods, StreamEnd};
pub use state::Seen;

/// The group that all envelopes of scripted peers are for.
pub const GROUP: [u8; 16] = [0x5c; 16];

/// A running peer. Dropping it closes its port.
#[derive(Debug)]
pub struct ScriptedPeer {
    /// Its id.
    pub id: OriginatorId,
    /// Its port.
    pub port: u16,
    key: SecretKey,
    state: Arc<ScriptedPeerState>,
    rng: StdRng,
    next: u64,
    time_ns: i64,
    server: AbortHandle,
}

impl ScriptedPeer {
    /// Starts it on a free port, with a key made from its id.
    pub fn start(id: u32, habits: Habits) -> Self {
        let mut scalar = [0x77; 32];
        scalar[..4].copy_from_slice(&id.to_be_bytes());
        Self::start_with_key(id, SecretKey::from_bytes(&scalar).unwrap(), habits)
    }

    /// Starts it on a free port, with this key.
    pub fn start_with_key(id: u32, key: SecretKey, habits: Habits) -> Self {
        let id = OriginatorId(id);
        let state = Arc::new(ScriptedPeerState {
            id,
            key: key.clone(),
            strand: watch::Sender::default(),
            older: Mutex::default(),
            voids: Mutex::default(),
            habits: Mutex::new(habits),
            seen: Mutex::default(),
        });
        let port = ports::free();
        let server = tokio::spawn(server::serve(port, state.clone())).abort_handle();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let time_ns = i64::try_from(now.as_nanos()).unwrap();
        let rng = StdRng::seed_from_u64(u64::from(id.0));
        Self { id, port, key, state, rng, next: 1, time_ns, server }
    }

    /// Returns its record in the registry.
    #[must_use]
    pub fn record(&self) -> Record {
        Record {
            id: self.id,
            key: self.key.public_key(),
            http_address: format!("http://127.0.0.1:{}", self.port),
            quic_address: None,
            canonical: true,
        }
    }

    /// Changes its habits, from the next message on.
    pub fn change(&self, change: impl FnOnce(&mut Habits)) {
        change(&mut self.state.habits.lock());
        self.state.strand.send_modify(|_| {});
    }

    /// Its records so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.state.seen.lock().clone()
    }

    /// Originates envelopes with bodies of some length.
    pub fn originate(&mut self, count: u64, body_len: usize) {
        let made: Vec<_> = (0..count).map(|_| self.envelope(1000, body_len)).collect();
        self.state.strand.send_modify(|strand| strand.extend(made));
    }

    /// Originates one envelope whose time is `step_ns` after the one before, or earlier than it.
    pub fn originate_after(&mut self, step_ns: i64) {
        let made = self.envelope(step_ns, 50);
        self.state.strand.send_modify(|strand| strand.extend([made]));
    }

    /// Originates one envelope that breaks rule 7, which other software does not apply: it depends on a node's one.
    pub fn originate_marked(&mut self) {
        let on_node = pb::Cursor { node_id_to_sequence_id: [(self.id.0, 1)].into() };
        let frame = Frame::application(GROUP, 50).encode(&mut self.rng);
        let topic = group_topic(GROUP);
        let message = client(topic.as_bytes(), Some(on_node), Some(group_payload(frame)));
        let made = self.sequenced(1000, &message);
        self.state.strand.send_modify(|strand| strand.extend([made]));
    }

    /// Signs another statement for a place, as a node that was set back to a backup does.
    pub fn sign_again(&self, place: u64) {
        self.state.strand.send_modify(|strand| {
            let envelope = strand.get_mut(&place).unwrap();
            *envelope = answer::other_story(envelope, &self.key);
        });
    }

    /// Skips places, as after aborted transactions.
    pub fn burn(&mut self, count: u64) {
        self.next += count;
    }

    /// Leaves out the next places, declares them void, and claims them, as a node of this software does that was
    /// restored. From then on it has the method for checkpoints.
    pub fn declare_void(&mut self, count: u64) {
        let from = SequenceId(self.next);
        self.burn(count);
        let statement = VoidStatement {
            node: self.id,
            from,
            through: SequenceId(self.next).previous(),
            time_ns: u64::try_from(self.time_ns).unwrap(),
            incarnation: [1; 16],
        };
        self.state.voids.lock().push(statement.sign(&self.key));
    }

    /// Takes over messages of the older network at these places, which `signer` signs: they have expired, counted from
    /// when they were first sent, and cost `fee` each.
    pub fn take_over(&mut self, originator: u32, places: &[u64], signer: &SecretKey, fee: u64) {
        let originator = OriginatorId(originator);
        let made = places.iter().map(|&place| {
            let client = group_message(GROUP, 60, &mut self.rng);
            let statement = pb::UnsignedOriginatorEnvelope {
                originator_node_id: originator.0,
                originator_sequence_id: place,
                originator_ns: self.time_ns,
                payer_envelope_bytes: sign(&client, originator, &payer(8)).encode_to_vec().into(),
                base_fee_picodollars: fee,
                congestion_fee_picodollars: 0,
                expiry_unixtime: 1_700_000_000 + place,
            };
            (place, signed(&statement, signer))
        });
        let made: Vec<_> = made.collect();
        self.state.older.lock().entry(originator).or_default().extend(made);
        self.state.strand.send_modify(|_| {});
    }

    /// Holds the strand of another peer too, as far as it goes now.
    pub fn hold(&self, other: &Self) {
        self.state.older.lock().insert(other.id, other.strand());
        self.state.strand.send_modify(|_| {});
    }

    /// A strand that was taken over, as a node stores it.
    #[must_use]
    pub fn taken_over(&self, originator: u32) -> BTreeMap<u64, Bytes> {
        self.state.with_strand(OriginatorId(originator), Clone::clone)
    }

    /// The strand as a node stores it: in canonical form.
    #[must_use]
    pub fn strand(&self) -> BTreeMap<u64, Bytes> {
        self.state.strand.borrow().clone()
    }

    fn envelope(&mut self, step_ns: i64, body_len: usize) -> (u64, Bytes) {
        let message = group_message(GROUP, body_len, &mut self.rng);
        self.sequenced(step_ns, &message)
    }

    fn sequenced(&mut self, step_ns: i64, message: &Bytes) -> (u64, Bytes) {
        self.time_ns += step_ns;
        let payer_envelope = sign(message, self.id, &payer(7)).encode_to_vec();
        let dated_s = u64::try_from(self.time_ns / 1_000_000_000).unwrap();
        let signed_s = dated_s + self.state.habits.lock().signs_after_s;
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: self.id.0,
            originator_sequence_id: self.next,
            originator_ns: self.time_ns,
            payer_envelope_bytes: payer_envelope.into(),
            // The fee differs from the price list, which is allowed.
            base_fee_picodollars: 1,
            congestion_fee_picodollars: 2,
            expiry_unixtime: signed_s + u64::from(RETENTION_DAYS) * 86_400,
        };
        let bytes = signed(&statement, &self.key);
        self.next += 1;
        (statement.originator_sequence_id, bytes)
    }
}

impl Drop for ScriptedPeer {
    fn drop(&mut self) {
        self.server.abort();
    }
}
