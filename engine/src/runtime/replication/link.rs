//! The engine's end of a connection to one peer.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::void::SignedVoid;
use hawser_proto::{Bytes, Cursor, OriginatorId};
use tokio::sync::mpsc;

use super::peers::PeerKind;
use super::state::{ReplicationState, now};
use crate::replication::{LinkCommand, PeerClock, RequestId, StrandItem, WantResponse};

/// Commands that wait for one connection. Each strand has at most a few under way, so this serves
/// hundreds of strands. Guessed.
const COMMANDS_MAX: usize = 1024;

/// The engine's end of a connection to a peer. Dropping it reports to the strands that the peer has disconnected.
#[derive(Debug)]
pub struct Link {
    sink: ResponseSink,
    commands: mpsc::Receiver<LinkCommand>,
}

impl Link {
    pub(super) fn new(
        state: Arc<ReplicationState>,
        peer: OriginatorId,
        kind: PeerKind,
        clock: Option<&Cursor>,
    ) -> Self {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let mut claims = PeerClock::default();
        if let Some(clock) = clock {
            claims.merge(clock, state.known_originators());
        }
        let generation = state.peers.insert(peer, kind, sender, claims);
        state.publisher.own_clock().note_peer_up(peer, clock.unwrap_or(&Cursor::new()));
        Self { sink: ResponseSink { state, peer, generation }, commands }
    }

    /// Returns the next command for the connection, or `None` once another connection has taken the
    /// peer over. Cancel safe.
    pub async fn command(&mut self) -> Option<LinkCommand> {
        self.commands.recv().await
    }

    /// Hands over a checkpoint that the peer has shown. Drops it if the peer has used up its allowance: honest
    /// peers show everything again after a while.
    pub fn note_checkpoint(&self, checkpoint: CosignedCheckpoint) {
        self.sink.note_checkpoint(checkpoint);
    }

    /// Hands over a statement about void places that the peer has shown. Its signature is checked later; it is
    /// dropped if it is known, or too many wait.
    pub fn note_void(&self, signed: SignedVoid) {
        self.sink.note_void(signed);
    }

    /// Returns the sink through which responses of the peer enter the engine.
    #[must_use]
    pub fn sink(&self) -> &ResponseSink {
        &self.sink
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let ResponseSink { state, peer, generation } = &self.sink;
        state.peers.remove(*peer, *generation, || {
            state.liveness.note_lost(*peer, now());
            state.publisher.own_clock().note_peer_down(*peer);
        });
    }
}

/// No task follows the strand that a response belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node does not follow the strand")]
pub struct NotFollowedError;

/// Brings what one peer sends to the tasks of the strands. Cheap to clone.
#[derive(Clone)]
pub struct ResponseSink {
    state: Arc<ReplicationState>,
    peer: OriginatorId,
    generation: u64,
}

impl ResponseSink {
    /// Hands over what arrived in answer to `request`.
    ///
    /// Waits while the strand has more than it can store. The caller reads no more from the stream
    /// meanwhile, and QUIC slows the peer down.
    ///
    /// # Errors
    /// [`NotFollowedError`] if no task follows the strand, or its task has ended.
    pub async fn deliver(
        &self,
        originator: OriginatorId,
        request: RequestId,
        items: Vec<StrandItem<Bytes>>,
    ) -> Result<(), NotFollowedError> {
        let inbox = self.state.inbox(originator).ok_or(NotFollowedError)?;
        let response = WantResponse { peer: self.peer, request, items };
        inbox.send(response).await.map_err(|_| NotFollowedError)
    }

    /// Does what [`Link::note_checkpoint`] does.
    pub fn note_checkpoint(&self, checkpoint: CosignedCheckpoint) {
        if !self.state.checkpoints.show(self.peer, checkpoint) {
            self.state.engine_counters.checkpoint_exchange.dropped.inc();
        }
    }

    /// Does what [`Link::note_void`] does.
    pub fn note_void(&self, signed: SignedVoid) {
        self.state.voids.show(self.peer, signed, self.state.own);
    }

    /// Notes that the peer has answered a request for its own strand, after `took`, with an error that blames no
    /// caller.
    pub fn note_failed_request(&self, took: Duration) {
        self.state.liveness.note_failed(self.peer, now(), took);
    }

    /// Takes over the heads that the peer claims to hold. Of originators that this node does not know a
    /// few are kept and none is shown.
    pub fn note_clock(&self, entries: &Cursor) {
        self.state.publisher.own_clock().note_claims(self.peer, entries);
        let is_known = self.state.known_originators();
        self.state.peers.merge_clock(self.peer, self.generation, entries, is_known);
    }
}

impl std::fmt::Debug for ResponseSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseSink").field("peer", &self.peer).finish_non_exhaustive()
    }
}
