//! Fetching envelopes that the disk has damaged from peers, while the strand's follower rests; and the rest of one
//! whose strand is taken from elsewhere.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::merkle::TreeHash;
use hawser_proto::{Bytes, OriginatorId, PublicKey, SequenceId};
use hawser_rules::{Absences, Registry};
use hawser_storage::{Change, CommitError, LogEntry};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::checking::verify_all;
use super::evidence::StrandWatch;
use super::refused::name_refused;
use super::state::{ReplicationState, changed, now};
use super::strand_read::read_strand;
use super::task::StrandTask;
use super::writes;
use crate::replication::{
    EnvelopeVerifier, LinkCommand, MendEffect, MendSearch, PeerViolation, StrandItem, VerifyResult,
    WantResponse,
};
use crate::runtime::stop::{self, StopSignal};

/// Time to wait until the follower of a strand rests. A guess: it ends its commit before.
const REST_WITHIN: Duration = Duration::from_secs(30);

/// Follows a strand until it is stopped, and rests while damaged places of it are fetched: a peer answers one want
/// for a strand at a time. `inbox` and `key` are those of the first turn. Another key in the registry begins a new one,
/// but not of this node's own strand: nothing in it was signed with another key. Closes the inbox at its end.
pub(super) async fn follow(
    state: Arc<ReplicationState>,
    originator: OriginatorId,
    (key, source): (PublicKey, OriginatorId),
    inbox: mpsc::Receiver<WantResponse<Bytes>>,
    mut stopped: StopSignal,
) {
    let (mut inbox, mut key) = (inbox, key);
    let mut registry = state.ports.registry.clone();
    loop {
        if originator != state.own {
            let verified = state.relayed.get().get(originator);
            state.former_keys.note_key(&state.store, originator, verified, key).await;
        }
        let (stop, signal) = stop::channel();
        let task = StrandTask::follow(state.clone(), originator, key, source, inbox, signal);
        tokio::pin!(task);
        let goes_on = tokio::select! {
            () = &mut task => {
                state.close_inbox(originator);
                return;
            }
            () = stopped.stopped() => false,
            () = state.rests(originator, true) => true,
            other = other_key(&mut registry, originator, key), if originator != state.own => {
                key = other;
                true
            }
        };
        stop.stop();
        task.await;
        // Late answers to its wants must not count as answers to later ones.
        state.stop_wants(originator);
        state.close_inbox(originator);
        if !goes_on {
            return;
        }
        let next_turn = async {
            state.rests(originator, false).await;
            open_inbox(&state, originator).await
        };
        inbox = tokio::select! {
            () = stopped.stopped() => return,
            inbox = next_turn => inbox,
        };
    }
}

/// Waits until the registry has another key for a strand than `key`, and returns it: a reorganisation of the chain has
/// given the node's id to another node.
async fn other_key(
    registry: &mut watch::Receiver<Arc<Registry>>,
    originator: OriginatorId,
    key: PublicKey,
) -> PublicKey {
    loop {
        let known = registry.borrow_and_update().node(originator).map(|record| record.public_key);
        if let Some(other) = known.filter(|known| *known != key) {
            return other;
        }
        changed(registry).await;
    }
}

/// Ends the rest of a follower when the fetch ends, however it does.
struct FetchTurn<'a>(&'a ReplicationState, OriginatorId);

impl Drop for FetchTurn<'_> {
    fn drop(&mut self) {
        let Self(state, originator) = self;
        state.stop_wants(*originator);
        state.close_inbox(*originator);
        state.mending.send_replace(None);
    }
}

/// Keeps the follower of a strand at rest until it is dropped, so that another writer may commit to the strand.
#[must_use = "the follower goes on when it is dropped"]
pub struct RestingStrand {
    state: Arc<ReplicationState>,
    originator: OriginatorId,
    watch: Mutex<StrandWatch>,
}

impl RestingStrand {
    /// Appends changes as the follower does: counted, and with evidence of the faults that they show. Blocks for a sync
    /// of the disk.
    ///
    /// # Errors
    /// Nothing was written. See [`CommitError`].
    ///
    /// # Panics
    /// If the changes are not contiguous.
    pub fn append(&self, changes: Vec<Change>) -> Result<(), CommitError> {
        let is_of_strand = |change: &Change| change.originator() == self.originator;
        assert!(changes.iter().all(is_of_strand), "another strand does not rest");
        writes::append(&self.state, &mut self.watch.lock(), changes).map_err(|(error, _)| error)
    }
}

impl Drop for RestingStrand {
    fn drop(&mut self) {
        self.state.close_inbox(self.originator);
        self.state.filling.send_replace(None);
    }
}

/// Pauses the follower of a strand. Returns `None` if it does not pause within moments. Not cancel safe: to be awaited
/// to its end.
pub(super) async fn rest(
    state: &Arc<ReplicationState>,
    originator: OriginatorId,
) -> Option<RestingStrand> {
    state.filling.send_replace(Some(originator));
    let Ok(inbox) = timeout(REST_WITHIN, open_inbox(state, originator)).await else {
        state.filling.send_replace(None);
        return None;
    };
    // No peer is asked for anything. Late responses are dropped, because no task follows the strand.
    drop(inbox);
    // From here on dropping it ends the rest.
    let watch = Mutex::default();
    let mut resting = RestingStrand { state: state.clone(), originator, watch };
    let read = timeout(REST_WITHIN, read_strand(state, originator)).await.ok()?;
    // The follower has to verify all places that are shown to readers first.
    let is_verified = read.verified >= state.heads.get().get(originator);
    resting.watch = Mutex::new(StrandWatch::new(read.times, read.load, read.gap));
    if !is_verified {
        return None;
    }
    Some(resting)
}

/// The check of envelopes that peers send for damaged places.
pub(super) enum MendCheck {
    /// A node has signed it.
    OfSignatures(Arc<EnvelopeVerifier>),
    /// The strand's tree alone says which envelope is the right one.
    OfTree { originator: OriginatorId },
}

impl MendCheck {
    pub(super) fn of_signatures(
        state: &ReplicationState,
        originator: OriginatorId,
        key: PublicKey,
    ) -> Self {
        // Its membership marks envelopes, and keeps none of them out of their places.
        let absences = Absences::NONE;
        let verifier = EnvelopeVerifier { originator, key, own: state.own, absences };
        Self::OfSignatures(Arc::new(verifier))
    }

    fn originator(&self) -> OriginatorId {
        match self {
            Self::OfSignatures(verifier) => verifier.originator,
            Self::OfTree { originator } => *originator,
        }
    }
}

/// Fetches envelopes of a strand from peers: those that `check` lets pass, and that the strand's tree has if it has the
/// place. Each connected peer is asked once, in an order that is drawn here. One call at a time. Of this node's own
/// strand it ends when the guard takes that from a peer: a peer's claim counts for seconds, and the node must not sign
/// claimed places because of a repair.
pub(super) async fn fetch(
    state: &ReplicationState,
    check: &MendCheck,
    mut wanted: BTreeMap<SequenceId, Option<TreeHash>>,
) -> BTreeMap<SequenceId, Bytes> {
    let originator = check.originator();
    if matches!(check, MendCheck::OfTree { .. }) {
        // Without a leaf of the tree an envelope of a chain cannot be proven.
        wanted.retain(|_, leaf| leaf.is_some());
    }
    let Some(mut inbox) = begin_fetch(state, originator).await else { return BTreeMap::new() };
    let _turn = FetchTurn(state, originator);
    let order = RandomState::new().hash_one(originator);
    let mut search = MendSearch::new(originator, wanted, state.begin_turn(), order);
    let mut peers = state.peers.subscribe();
    loop {
        let table = peers.borrow_and_update().clone();
        let heads: Vec<_> = table.iter().map(|(id, peer)| (*id, peer.head(originator))).collect();
        let proven = table.iter().filter(|(_, peer)| peer.kind.is_proven);
        search.note_proven(proven.map(|(id, _)| *id).collect());
        search.handle_peers(now(), &heads);
        while let Some(effect) = search.poll_effect() {
            let (peer, command) = match effect {
                MendEffect::Want { peer, request, want } => {
                    (peer, LinkCommand::Want { request, want })
                }
                MendEffect::Stop { peer } => (peer, LinkCommand::Stop { originator }),
                MendEffect::Disconnect { peer, violation } => {
                    (peer, LinkCommand::Disconnect { violation })
                }
            };
            let sent = table.get(&peer).is_some_and(|it| it.commands.try_send(command).is_ok());
            if !sent && matches!(command, LinkCommand::Want { .. }) {
                search.handle_unsent();
                search.handle_peers(now(), &heads);
            }
        }
        let Some(until) = search.poll_timeout() else { break };
        tokio::select! {
            _ = peers.changed() => {}
            () = state.taken(originator, true) => break,
            response = inbox.recv() => {
                let Some(response) = response else { break };
                if search.awaits(response.peer, response.request) {
                    let checked = checked(state, check, response).await;
                    name_refused(state, originator, &table, std::slice::from_ref(&checked));
                    search.handle_response(now(), checked);
                }
            }
            () = sleep_until(until.into()) => search.handle_timeout(now()),
        }
    }
    if search.refused() > 0 {
        let refused = search.refused();
        tracing::warn!(
            code = "repair_refused",
            originator_id = %originator,
            refused,
            "peers offer other envelopes for damaged places than the tree of their strand has"
        );
    }
    search.into_found()
}

/// Has the follower of a strand rest. Returns the strand's inbox; `None` if the follower does not pause, or the guard
/// takes the strand from a peer: the strand is left alone then.
async fn begin_fetch(
    state: &ReplicationState,
    originator: OriginatorId,
) -> Option<mpsc::Receiver<WantResponse<Bytes>>> {
    let inbox = async {
        state.taken(originator, false).await;
        state.mending.send_replace(Some(originator));
        open_inbox(state, originator).await
    };
    let inbox = timeout(REST_WITHIN, inbox).await.ok();
    if inbox.is_none() {
        state.mending.send_replace(None);
    }
    inbox
}

async fn open_inbox(
    state: &ReplicationState,
    originator: OriginatorId,
) -> mpsc::Receiver<WantResponse<Bytes>> {
    loop {
        let closed = state.inbox_closed.notified();
        tokio::pin!(closed);
        // Before the look: a follower that closes it in between is not missed.
        closed.as_mut().enable();
        if let Some(inbox) = state.open_inbox(originator) {
            return inbox;
        }
        closed.await;
    }
}

/// Checks a response; signatures beside other work.
async fn checked(
    state: &ReplicationState,
    check: &MendCheck,
    response: WantResponse<Bytes>,
) -> WantResponse<VerifyResult> {
    match check {
        MendCheck::OfSignatures(verifier) => {
            let mut checked = verify_all(state, verifier, vec![response]).await;
            checked.pop().expect("one for each response")
        }
        MendCheck::OfTree { originator } => {
            let WantResponse { peer, request, items } = response;
            let of_tree = |item: StrandItem<Bytes>| item.map(|bytes| open(*originator, bytes));
            WantResponse { peer, request, items: items.into_iter().map(of_tree).collect() }
        }
    }
}

/// Opens an envelope that a chain has ordered. The search compares it with the tree, which proves the statement and the
/// transaction's hash behind it. Where there is no transaction, the leaf could be that of another statement: one that
/// ends with the hash's bytes.
fn open(originator: OriginatorId, bytes: Bytes) -> VerifyResult {
    let not_canonical = |_| PeerViolation::NotCanonical;
    let (statement, proof) = OriginatorEnvelope::open(bytes.clone()).map_err(not_canonical)?;
    let Proof::Transaction(_) = proof else { return Err(PeerViolation::NotCanonical) };
    let (id, _) = OriginatorEnvelope::statement(statement).map_err(not_canonical)?;
    match id.originator == originator {
        true => Ok(LogEntry::waiting(id, bytes)), // its bytes alone are taken
        false => Err(PeerViolation::WrongOriginator),
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::merkle::envelope_leaf;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope;
    use hawser_proto::sign::{Digest, SecretKey};
    use prost::Message as _;

    use super::*;

    /// A liar moves the transaction's hash into the statement, where its bytes are one more field, and signs.
    #[test]
    fn a_statement_that_ends_with_a_transaction_has_the_same_leaf_and_is_refused() {
        let chain = OriginatorId(0);
        let event = UnsignedOriginatorEnvelope {
            originator_node_id: chain.0,
            originator_sequence_id: 7,
            payer_envelope_bytes: vec![9; 40].into(),
            ..Default::default()
        };
        let statement = event.encode_to_vec();
        // A field that no schema has, with 30 bytes.
        let mut hash = [0; 32];
        hash[..2].copy_from_slice(&[(15 << 3) | 2, 30]);
        let real = OriginatorEnvelope::encode(statement.clone().into(), Proof::Transaction(hash));
        let signature = SecretKey::from_bytes(&[1; 32]).unwrap().sign(Digest([2; 32]));
        let forged = OriginatorEnvelope::encode(
            [statement, hash.to_vec()].concat().into(),
            Proof::Signature(signature),
        );
        assert_eq!(envelope_leaf(&real), envelope_leaf(&forged));
        assert!(open(chain, real).is_ok());
        assert!(matches!(open(chain, forged), Err(PeerViolation::NotCanonical)));
    }
}
