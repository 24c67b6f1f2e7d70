//! The statements about void places that are known, on their way from sessions to the tasks and back, and the envelopes
//! that contradict them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Change, CommitError, Evidence, Misbehavior, Snapshot, Store};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::replication::KnownVoids;

/// The largest number of a peer's statements about this node that wait for a check, and the largest number of those
/// about others. Four times as many as a peer shows with one clock. Further ones are dropped, and shown again in the
/// next session.
const WAITING_MAX: usize = 64;
/// Places of a claim that is withdrawn once they are found, at most. A guess: the marks of all claims about a node are
/// then read in some seconds.
const HELD_PLACES_MAX: u64 = 256;

/// A statement with the peer that has shown it.
pub(super) type ShownVoid = (OriginatorId, SignedVoid);

/// The statements of peers that wait for a check, by peer, so that no peer takes room from another one.
#[derive(Default)]
struct WaitingVoids(BTreeMap<OriginatorId, Vec<SignedVoid>>);

impl WaitingVoids {
    /// Adds a statement. Returns false if too many of this peer wait.
    fn push(&mut self, (peer, signed): ShownVoid) -> bool {
        let of_peer = self.0.entry(peer).or_default();
        let has_room = of_peer.len() < WAITING_MAX;
        if has_room && !of_peer.contains(&signed) {
            of_peer.push(signed);
        }
        has_room
    }

    fn take(&mut self) -> Vec<ShownVoid> {
        let taken = std::mem::take(&mut self.0).into_iter();
        taken.flat_map(|(peer, all)| all.into_iter().map(move |signed| (peer, signed))).collect()
    }
}

/// The known statements, and the contradictions that were logged.
struct VoidRecords {
    known: KnownVoids,
    /// Statements of which a contradiction was logged: with `true` one that breaks the node's word.
    logged: HashSet<(VoidStatement, bool)>,
    /// Broken statements whose evidence could not be recorded: they are found again, and not logged again.
    unrecorded: HashSet<VoidStatement>,
}

/// The statements that are known, and those that peers have shown.
pub(super) struct VoidPorts {
    /// This node, which gives no evidence against itself.
    own: OriginatorId,
    book: Mutex<VoidRecords>,
    /// Held while statements are written, so that each row has all statements before it.
    writing: Mutex<()>,
    shown: Mutex<WaitingVoids>,
    /// Shown statements about this node, which its guard takes.
    own_shown: Mutex<WaitingVoids>,
    /// Wakes the task when a statement was shown.
    arrived: Notify,
    /// Wakes the guard when a statement about this node was shown.
    own_arrived: Notify,
}

impl VoidPorts {
    /// Begins with the statements that were recorded.
    pub(super) fn new(store: &Store) -> Self {
        let recorded = store.void_statements().unwrap_or_else(|error| {
            tracing::error!(code = "void_statements_unreadable", %error, "the statements about void places cannot be \
                read: peers show them again");
            Vec::new()
        });
        let own = store.identity().node;
        let known = KnownVoids::of_recorded(own, recorded);
        Self {
            own,
            book: Mutex::new(VoidRecords {
                known,
                logged: HashSet::new(),
                unrecorded: HashSet::new(),
            }),
            writing: Mutex::default(),
            shown: Mutex::default(),
            own_shown: Mutex::default(),
            arrived: Notify::new(),
            own_arrived: Notify::new(),
        }
    }

    /// Hands over a statement that a peer has shown to the node `own`, unchecked. Drops it if it is known, if it
    /// would not be kept, or if too many of the peer wait.
    pub(super) fn show(&self, peer: OriginatorId, signed: SignedVoid, own: OriginatorId) {
        if signed.statement.node == own {
            // Also one without room: the place counts.
            let is_known = self.book.lock().known.is_known(&signed.statement);
            if !is_known && self.own_shown.lock().push((peer, signed)) {
                self.own_arrived.notify_one();
            }
        } else if self.takes(&signed.statement) && self.shown.lock().push((peer, signed)) {
            self.arrived.notify_one();
        }
    }

    /// Returns up to `max` statements behind the first `sent`. Each is durable here.
    pub(super) fn after(&self, sent: usize, max: usize) -> Vec<SignedVoid> {
        self.book.lock().known.all().iter().skip(sent).take(max).copied().collect()
    }

    /// Returns the nodes that have declared places void.
    pub(super) fn nodes(&self) -> BTreeSet<OriginatorId> {
        self.book.lock().known.all().iter().map(|signed| signed.statement.node).collect()
    }

    /// Returns the statements of one node.
    pub(super) fn of(&self, node: OriginatorId) -> Vec<VoidStatement> {
        self.book.lock().known.of(node).copied().collect()
    }

    /// Returns the statements of other nodes.
    pub(super) fn of_others(&self) -> Vec<VoidStatement> {
        let book = self.book.lock();
        let all = book.known.all().iter().map(|signed| signed.statement);
        all.filter(|it| it.node != self.own).collect()
    }

    /// Returns the highest place that a node has declared void.
    pub(super) fn through(&self, node: OriginatorId) -> SequenceId {
        self.book.lock().known.through(node)
    }

    /// Returns the latest time of a node's statements about places above `held`, unix nanoseconds; `None` if there is
    /// none.
    pub(super) fn newest_ns(&self, node: OriginatorId, held: SequenceId) -> Option<u64> {
        self.book.lock().known.newest_ns(node, held)
    }

    /// Returns true if a node has declared each of these places void, or this node has held the envelope there. The
    /// strand has passed the held ones, which are few. A node may have left places out until it can say that they have
    /// expired: those were not held.
    pub(super) fn explain_all(
        &self,
        snapshot: &Snapshot<'_>,
        node: OriginatorId,
        from: SequenceId,
        through: SequenceId,
    ) -> bool {
        let undeclared = self.book.lock().known.undeclared(node, from, through);
        let len =
            |(from, through): &(SequenceId, SequenceId)| (through.0 - from.0).saturating_add(1);
        let places = undeclared.iter().map(len).fold(0, u64::saturating_add);
        let are_held = |(from, through): (SequenceId, SequenceId)| {
            snapshot.head(node).is_ok_and(|head| through <= head)
                && matches!(snapshot.has_unheld(EnvelopeId::new(node, from), through), Ok(false))
        };
        places <= HELD_PLACES_MAX && undeclared.into_iter().all(are_held)
    }

    /// Returns true if a node has declared these places void from this folder.
    pub(super) fn has_declared(&self, of: &VoidStatement) -> bool {
        let is_same = |it: &VoidStatement| VoidStatement { time_ns: of.time_ns, ..*it } == *of;
        self.book.lock().known.of(of.node).any(is_same)
    }

    /// Returns once a statement was shown.
    pub(super) async fn shown(&self) {
        self.arrived.notified().await;
    }

    /// Returns once a statement about this node was shown.
    pub(super) async fn own_shown(&self) {
        self.own_arrived.notified().await;
    }

    /// Takes the statements that were shown, each with its peer.
    pub(super) fn take_shown(&self) -> Vec<ShownVoid> {
        self.shown.lock().take()
    }

    /// Takes the statements about this node that were shown, each with its peer.
    pub(super) fn take_own_shown(&self) -> Vec<ShownVoid> {
        self.own_shown.lock().take()
    }

    /// Returns the peers whose statements about this node wait.
    pub(super) fn own_waiting(&self) -> BTreeSet<OriginatorId> {
        self.own_shown.lock().0.keys().copied().collect()
    }

    /// Returns true if the statement is not known, and there is room for it.
    pub(super) fn takes(&self, statement: &VoidStatement) -> bool {
        self.book.lock().known.takes(statement)
    }

    /// Records verified statements durably, and returns those that are new.
    pub(super) fn record(
        &self,
        store: &Store,
        verified: Vec<SignedVoid>,
    ) -> Result<Vec<SignedVoid>, CommitError> {
        let _one_at_a_time = self.writing.lock();
        let mut known = self.book.lock().known.clone();
        let added: Vec<_> = verified.into_iter().filter(|signed| known.add(*signed)).collect();
        if !added.is_empty() {
            store.record_void_statements(known.all())?;
            self.book.lock().known = known;
        }
        Ok(added)
    }

    /// Looks at envelopes on their way into the log, and logs those that contradict a statement of their node. Returns
    /// the evidence that a node broke its statements, once for each of them.
    pub(super) fn look_at(&self, changes: &[Change]) -> Vec<Evidence> {
        let book = self.book.lock();
        let declared = |change: &&Change| match change {
            Change::Append(entry) => book.known.covering(entry.id).next().is_some(),
            Change::Skip { .. } => false,
        };
        // Mostly there is no statement: a strand that catches up takes the lock once for each batch.
        let found: Vec<&Change> = changes.iter().filter(declared).collect();
        drop(book);
        let evidence = |change: &Change| match change {
            Change::Append(entry) => self.look_at_envelope(entry.id, &entry.bytes),
            Change::Skip { .. } => None,
        };
        found.into_iter().filter_map(evidence).collect()
    }

    /// Compares an envelope with the statements of its node. Returns the evidence if the envelope is the first that
    /// breaks a statement.
    pub(super) fn look_at_envelope(&self, id: EnvelopeId, bytes: &Bytes) -> Option<Evidence> {
        let mut statements: Vec<SignedVoid> =
            self.book.lock().known.covering(id).copied().collect();
        if statements.is_empty() {
            return None;
        }
        // The layers inside need not decode: their node has signed the statement around them.
        let originator_ns = OriginatorEnvelope::stated_ns(bytes)?;
        statements.retain(|of| self.log_contradiction(&of.statement, id, originator_ns));
        let broken = statements.iter().find(|of| of.statement.is_broken_by(originator_ns))?;
        let envelopes = vec![Bytes::copy_from_slice(&broken.encode()), bytes.clone()];
        let misbehavior = Misbehavior::VoidSigned;
        let is_others = id.originator != self.own;
        is_others.then_some(Evidence { misbehavior, at: id, from: None, envelopes })
    }

    /// Notes that this evidence of broken statements could not be recorded: it is to be found again.
    pub(super) fn note_unrecorded(&self, found: &[Evidence]) {
        let mut book = self.book.lock();
        for statement in found.iter().filter_map(|it| it.envelopes.first()) {
            if let Ok(signed) = SignedVoid::decode(statement) {
                book.unrecorded.insert(signed.statement);
            }
        }
    }

    /// Logs a contradiction, once for each statement. Returns true if it was not logged before, or its evidence could
    /// not be recorded then.
    fn log_contradiction(&self, of: &VoidStatement, id: EnvelopeId, originator_ns: i64) -> bool {
        let is_broken = of.is_broken_by(originator_ns);
        let mut book = self.book.lock();
        if !book.logged.insert((*of, is_broken)) {
            return is_broken && book.unrecorded.remove(of);
        }
        drop(book);
        let VoidStatement { from, through, time_ns, .. } = *of;
        if is_broken {
            tracing::error!(code = "void_place_signed", envelope = %id, %from, %through, time_ns, "a node has signed an \
                envelope for a place that it had declared void, by the times that it stated: a claim against it");
        } else {
            tracing::warn!(code = "void_place_found", envelope = %id, %from, %through, time_ns, "a node has declared a \
                place void for which it had signed an envelope: it had lost it, or withholds it; the envelope stays");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::envelope::{OriginatorEnvelope, Proof};
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_rules::PicoDollarPrice;
    use hawser_storage::StoreIdentity;
    use prost::Message as _;

    use super::*;

    const OWN: OriginatorId = OriginatorId(100);

    fn ports() -> (Store, VoidPorts) {
        let public_key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        let identity = StoreIdentity { network: "test".into(), node: OWN, public_key };
        let store = Store::in_memory(identity, |_, _| PicoDollarPrice(0)).unwrap();
        let ports = VoidPorts::new(&store);
        (store, ports)
    }

    fn declared(node: OriginatorId, place: u64) -> SignedVoid {
        let (from, through) = (SequenceId(place), SequenceId(place));
        let of = VoidStatement { node, from, through, time_ns: 5, incarnation: [1; 16] };
        of.sign(&SecretKey::from_bytes(&[7; 32]).unwrap())
    }

    #[test]
    fn a_peer_that_floods_takes_no_room_from_others_and_none_from_what_is_about_this_node() {
        let (_, ports) = ports();
        let (flood, honest, node) = (OriginatorId(200), OriginatorId(300), OriginatorId(400));
        for place in 1..=5_000 {
            ports.show(flood, declared(node, place), OWN);
            ports.show(flood, declared(OWN, place), OWN);
        }
        ports.show(honest, declared(node, 9_000), OWN);
        ports.show(honest, declared(OWN, 9_000), OWN);
        assert_eq!(ports.own_waiting(), BTreeSet::from([flood, honest]));
        for (taken, about) in [(ports.take_shown(), node), (ports.take_own_shown(), OWN)] {
            assert_eq!(taken.len(), WAITING_MAX + 1);
            assert!(taken.contains(&(honest, declared(about, 9_000))));
        }
        assert_eq!(ports.own_waiting(), BTreeSet::new());
    }

    /// Played by a node that fills a declared place with bytes that do not decode here.
    #[test]
    fn an_envelope_whose_layers_do_not_decode_breaks_a_statement_all_the_same() {
        let (store, ports) = ports();
        let id = EnvelopeId::new(OriginatorId(400), SequenceId(7));
        let of = declared(id.originator, 7);
        ports.record(&store, vec![of]).unwrap();
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: id.originator.0,
            originator_sequence_id: 7,
            originator_ns: 300_000_000_006,
            payer_envelope_bytes: Bytes::from_static(&[0x08, 5]),
            ..Default::default()
        };
        let proof = Proof::Transaction([1; 32]);
        let bytes = OriginatorEnvelope::encode(statement.encode_to_vec().into(), proof);
        let evidence = ports.look_at_envelope(id, &bytes).expect("it is too late by a nanosecond");
        assert_eq!(evidence.envelopes, [Bytes::copy_from_slice(&of.encode()), bytes.clone()]);
        assert_eq!(ports.look_at_envelope(id, &bytes), None, "it is broken once");
        ports.note_unrecorded(std::slice::from_ref(&evidence));
        assert!(ports.book.lock().logged.contains(&(of.statement, true)), "one line is enough");
        assert_eq!(ports.look_at_envelope(id, &bytes), Some(evidence));
        assert_eq!(ports.look_at_envelope(id, &bytes), None, "it is found once more");
    }

    #[test]
    fn what_is_not_recorded_waits_again_when_it_is_shown_again_and_what_is_known_does_not() {
        let (store, ports) = ports();
        let shown = (OriginatorId(200), declared(OWN, 7));
        ports.show(shown.0, shown.1, OWN);
        assert_eq!(ports.take_own_shown(), [shown]);
        ports.show(shown.0, shown.1, OWN);
        assert_eq!(ports.take_own_shown(), [shown]);
        assert_eq!(ports.record(&store, vec![shown.1]).unwrap(), [shown.1]);
        ports.show(shown.0, shown.1, OWN);
        assert_eq!(ports.take_own_shown(), []);
        assert_eq!(VoidPorts::new(&store).through(OWN), SequenceId(7), "it outlives a restart");
    }
}
