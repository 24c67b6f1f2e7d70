//! A session with one peer: wants in both directions, clock gossip, checkpoints, and statements about void places.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_dial::DialledNetworks;
use hawser_engine::replication::{LinkCommand, OfferedCheckpoints, VOIDS_MAX};
use hawser_engine::runtime::replication::{Link, Replication};
use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::frame::{
    ClockFrame, CloseCode, ControlFrame, FEATURE_CHECKPOINTS, GAPS_ALONE, StopFrame, StreamCode,
    WantFrame, WantRefused,
};
use hawser_proto::{Cursor, OriginatorId};
use quinn::Connection;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::Instrument as _;

use crate::backoff::long_pause;
use crate::control::{ControlReader, ControlWriter, SessionError};
use crate::counters::{NetCounters, PeerError};
use crate::empty_frames::EmptyFrames;
use crate::failures::FailureLog;
use crate::grpc::plain_text::PlainTextPeers;
use crate::handshake::{LocalIdentity, ProvenConnection};
use crate::node_addresses::{NodeAddresses, unmapped};
use crate::open_wants::OpenWants;
use crate::peer_transport::PeerTransport;
use crate::private_peers::PrivatePeers;
use crate::receive::{self, FrameBounds, LongFrames, WaitingStreams};
use crate::replica_sources::ReplicaSources;
use crate::send::StrandSenders;
use crate::sessions::Sessions;
use crate::streams;

/// Interval of clock frames while this node's heads move. Specified in
/// `docs/protocol/replication.md`.
const CLOCK_EVERY: Duration = Duration::from_millis(500);
/// Statements about void places that a peer is shown with one clock. A guess: a node has few, and all that are kept are
/// shown within three minutes.
const VOIDS_WITH_CLOCK: usize = 16;

/// The state that all sessions of one endpoint share.
pub(crate) struct NetState {
    pub(crate) identity: LocalIdentity,
    pub(crate) transport: PeerTransport,
    pub(crate) plain_text: PlainTextPeers,
    pub(crate) private: PrivatePeers,
    /// `Some` for a replica.
    pub(crate) observed: Option<ReplicaSources>,
    pub(crate) replication: Replication,
    pub(crate) sessions: Sessions,
    pub(crate) node_addresses: NodeAddresses,
    pub(crate) counters: Arc<NetCounters>,
    pub(crate) failures: FailureLog,
    pub(crate) empty_frames: EmptyFrames,
}

impl NetState {
    /// Returns the networks in which this node now dials its peers.
    pub(crate) fn dialled_networks(&self) -> DialledNetworks {
        self.private.networks(self.identity.registry.borrow().node(self.identity.own))
    }

    /// Records an attempt to reach a peer that ended without a session. A peer that this node does not dial is not
    /// silent, unless it is dialled at another address. `is_registered` says that the peer's record names the address.
    pub(crate) fn note_not_reached(
        &self,
        peer: OriginatorId,
        why: &SessionError,
        is_registered: bool,
    ) {
        self.failures.not_reached(peer, why);
        match why {
            SessionError::NotDialled(_) => self.replication.note_not_dialled(peer),
            _ if is_registered => self.replication.note_dialled(peer),
            _ => {}
        }
    }

    /// Runs a session with a proven peer until its connection ends, within a span that names the peer
    /// and the direction of the connection.
    pub(crate) async fn run_session(&self, proven: ProvenConnection) {
        let is_dialled = proven.dialler == self.identity.own;
        let direction = if is_dialled { "outgoing" } else { "incoming" };
        let span = tracing::debug_span!("peer_session", peer = %proven.peer, direction);
        self.run_admitted(proven).instrument(span).await;
    }

    /// Admits the peer, runs its session, and closes the connection with the code of the error that ended it.
    async fn run_admitted(&self, proven: ProvenConnection) {
        let (peer, key, connection) = (proven.peer, proven.key, proven.connection.clone());
        let admitted = self.sessions.admit(&proven, &self.replication, Instant::now());
        let (guard, link) = match admitted {
            Ok(admitted) => admitted,
            Err(code) => {
                tracing::debug!(node_id = %peer, ?code, "peer refused before a session");
                streams::close(&connection, code);
                return;
            }
        };
        self.counters.sessions.inc();
        let remote = unmapped(connection.remote_address());
        tracing::info!(node_id = %peer, %remote, "peer connected");
        let mut session = QuicSession::new(self, proven, link);
        // Beside the session and not in it: a peer that reads its control frames slowly must not stay once it has left.
        let error = tokio::select! {
            biased;
            () = self.identity.left_network(peer, key) => SessionError::from(PeerError::UnknownNode),
            ended = session.run() => match ended {
                Ok(never) => match never {},
                Err(error) => error,
            },
        };
        tracing::info!(node_id = %peer, reason = %error, "peer disconnected");
        self.failures.disconnected(peer, &error);
        // Before the session is dropped: its streams would otherwise end as if they were complete.
        self.close(&connection, &error);
        drop(session);
        match &error {
            // One of the two has read in its registry that the other one has left. No rule is broken, and the other one
            // may be in the network again at any time.
            SessionError::Peer(PeerError::UnknownNode)
            | SessionError::Closed(CloseCode::UnknownNode) => {}
            SessionError::Peer(_) => {
                self.replication.note_sent_away(peer);
                self.sessions.avoid_after_violation(peer, Instant::now(), rand::random());
            }
            error if error.is_lasting() => {
                self.sessions.avoid(peer, Instant::now() + long_pause(rand::random()));
            }
            _ => {}
        }
        drop(guard); // only now may the peer be dialled again
    }

    /// Closes the connection of a node of the registry with the code of its error, and counts and logs a
    /// refusal.
    pub(crate) fn close(&self, connection: &Connection, error: &SessionError) {
        if let SessionError::Peer(reason) = error {
            let remote = unmapped(connection.remote_address());
            tracing::warn!(%remote, %reason, "peer refused");
        }
        self.close_stranger(connection, error);
    }

    /// Closes a connection without a line in the log, which unproven peers could fill.
    pub(crate) fn close_stranger(&self, connection: &Connection, error: &SessionError) {
        let code = match error {
            SessionError::Peer(reason) => {
                self.counters.refuse(*reason);
                reason.close_code()
            }
            SessionError::Closed(_) => CloseCode::Shutdown, // any code: the peer is gone already
            SessionError::Lost(_) | SessionError::NotDialled(_) => CloseCode::Internal,
        };
        streams::close(connection, code);
    }
}

/// A running session over QUIC.
struct QuicSession<'a> {
    net: &'a NetState,
    peer: OriginatorId,
    connection: Connection,
    reader: ControlReader,
    writer: ControlWriter,
    link: Link,
    wants: Arc<OpenWants>,
    bounds: FrameBounds,
    /// Tasks that read streams of the peer, whose number QUIC's stream limit bounds, and tasks whose stream was
    /// stopped, or that end a refused want, one for each want at most.
    incoming: JoinSet<Result<(), SessionError>>,
    senders: StrandSenders,
    /// Heads that the peer has been sent.
    sent_clock: Cursor,
    /// The peer has been sent a clock, which may be empty.
    has_sent_clock: bool,
    /// `None` for a peer that takes no checkpoints.
    offered: Option<OfferedCheckpoints>,
    /// Statements about void places that the peer was shown.
    sent_voids: usize,
    /// Statements that were known when the session began. The peer was shown those about itself at once.
    first_voids: usize,
    /// Statements about void places that the peer has shown.
    shown_voids: usize,
}

impl<'a> QuicSession<'a> {
    fn new(net: &'a NetState, proven: ProvenConnection, link: Link) -> Self {
        let ProvenConnection { connection, peer, features, reader, writer, .. } = proven;
        let takes_checkpoints = features.has(FEATURE_CHECKPOINTS);
        let (replication, counters) = (net.replication.clone(), net.counters.clone());
        let senders = StrandSenders::new(connection.clone(), replication, counters, features);
        let bounds = FrameBounds {
            long: LongFrames::new(),
            waiting: WaitingStreams::new(),
            empty: net.empty_frames.of(peer, Instant::now()),
            takes_prefixes: net.identity.takes_prefixes,
        };
        Self {
            net,
            peer,
            connection,
            reader,
            writer,
            link,
            wants: Arc::default(),
            bounds,
            incoming: JoinSet::new(),
            senders,
            sent_clock: Cursor::new(),
            has_sent_clock: false,
            offered: takes_checkpoints.then(|| OfferedCheckpoints::new(Instant::now())),
            sent_voids: 0,
            first_voids: 0,
            shown_voids: 0,
        }
    }

    /// Serves the session until an error ends it. The end of the connection is an error, too.
    async fn run(&mut self) -> Result<Infallible, SessionError> {
        self.send_voids_of_peer().await?;
        let mut clock = tokio::time::interval(CLOCK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = self.link.command() => match command {
                    Some(command) => self.handle_command(command).await?,
                    None => return Err(SessionError::Lost("another link has taken over".to_owned())),
                },
                frame = self.reader.next() => self.handle_frame(frame?).await?,
                stream = self.connection.accept_uni() => {
                    let stream = stream?;
                    self.bounds.empty.take(Instant::now())?;
                    let (wants, sink) = (self.wants.clone(), self.link.sink().clone());
                    let (counters, bounds) = (self.net.counters.clone(), self.bounds.clone());
                    let read = receive::read(stream, wants, sink, counters, bounds);
                    self.incoming.spawn(read.in_current_span());
                }
                read = next_finished(&mut self.incoming) => read?,
                () = self.senders.reap() => {}
                _ = clock.tick() => {
                    self.send_clock().await?;
                    self.send_checkpoints().await?;
                    self.send_voids().await?;
                }
            }
        }
    }

    /// Carries out a command of the engine's follower.
    async fn handle_command(&mut self, command: LinkCommand) -> Result<(), SessionError> {
        match command {
            LinkCommand::Want { request, want } => {
                self.wants.open(request, want);
                let bytes_max = if want.is_for_gaps() {
                    self.bounds.empty.explain_gaps();
                    GAPS_ALONE
                } else {
                    self.bounds.empty.explain(1);
                    receive::BATCH_BYTES_MAX
                };
                let (originator, after, up_to) = (want.originator, want.after, want.up_to());
                let frame = WantFrame { originator, after, up_to, bytes_max };
                self.writer.send(ControlFrame::Want(frame)).await
            }
            LinkCommand::Stop { originator } => {
                self.wants.close(originator);
                self.writer.send(ControlFrame::Stop(StopFrame { originator })).await
            }
            LinkCommand::Disconnect { violation } => Err(PeerError::Envelope(violation).into()),
        }
    }

    /// Answers a control frame of the peer.
    async fn handle_frame(&mut self, frame: ControlFrame) -> Result<(), SessionError> {
        match frame {
            ControlFrame::Hello(_) | ControlFrame::Proof(_) => Err(PeerError::Protocol.into()),
            ControlFrame::Want(want) => match self.senders.start(want) {
                Ok(()) => Ok(()),
                Err(reason) => {
                    let refused = WantRefused { originator: want.originator, reason };
                    self.writer.send(ControlFrame::Refused(refused)).await
                }
            },
            ControlFrame::Stop(stop) => {
                self.senders.stop(stop.originator, StreamCode::Stopped);
                Ok(())
            }
            ControlFrame::Clock(clock) => {
                self.link.sink().note_clock(&clock.entries);
                Ok(())
            }
            ControlFrame::Checkpoint(checkpoint) => {
                if self.offered.is_some() {
                    self.link.note_checkpoint(*checkpoint);
                }
                Ok(())
            }
            ControlFrame::Void(signed) => {
                self.shown_voids += 1;
                if self.shown_voids > VOIDS_MAX {
                    return Err(PeerError::Protocol.into());
                }
                self.link.note_void(signed);
                Ok(())
            }
            ControlFrame::Refused(refused) => {
                if let Some(request) = self.wants.refused(refused.originator) {
                    // Delivery waits for the strand's queue; a task of its own keeps the session going.
                    let sink = self.link.sink().clone();
                    self.incoming
                        .spawn(receive::close(sink, refused.originator, request).in_current_span());
                }
                Ok(())
            }
        }
    }

    /// Sends the heads that have moved since the last clock frame.
    async fn send_clock(&mut self) -> Result<(), SessionError> {
        let now = self.net.replication.heads().get();
        let moved: Cursor = now.iter().filter(|id| !self.sent_clock.covers(*id)).collect();
        self.sent_clock.merge(&moved);
        let is_first = !std::mem::replace(&mut self.has_sent_clock, true);
        if is_first && moved.is_empty() {
            return self.writer.send(ControlFrame::Clock(ClockFrame { entries: moved })).await;
        }
        self.writer.send_clock(&moved).await
    }

    /// Shows the peer checkpoints that it was not shown.
    async fn send_checkpoints(&mut self) -> Result<(), SessionError> {
        let Some(offered) = &mut self.offered else { return Ok(()) };
        let offers = self.net.replication.checkpoint_offers();
        for offer in offered.next(Instant::now(), self.peer, &offers) {
            let checkpoint = Box::new(CosignedCheckpoint::clone(&offer));
            self.writer.send(ControlFrame::Checkpoint(checkpoint)).await?;
        }
        Ok(())
    }

    /// Shows the peer statements about void places that it was not shown. A peer of an older version skips them.
    async fn send_voids(&mut self) -> Result<(), SessionError> {
        let unsent = self.net.replication.void_statements_after(self.sent_voids, VOIDS_WITH_CLOCK);
        for signed in unsent {
            let is_sent = signed.statement.node == self.peer && self.sent_voids < self.first_voids;
            if !is_sent {
                self.writer.send(ControlFrame::Void(signed)).await?;
            }
            self.sent_voids += 1;
        }
        Ok(())
    }

    /// Shows the peer the statements about its own strand, before the first clock: with that clock, the peer's question
    /// for the end of its own strand counts as answered.
    async fn send_voids_of_peer(&mut self) -> Result<(), SessionError> {
        let known = self.net.replication.void_statements_after(0, VOIDS_MAX);
        self.first_voids = known.len();
        for signed in known.into_iter().filter(|it| it.statement.node == self.peer) {
            self.writer.send(ControlFrame::Void(signed)).await?;
        }
        Ok(())
    }
}

/// Returns the result of the next task that ends; pending while there is none. Cancel safe.
async fn next_finished(
    incoming: &mut JoinSet<Result<(), SessionError>>,
) -> Result<(), SessionError> {
    match incoming.join_next().await {
        Some(Ok(read)) => read,
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        None => std::future::pending().await,
    }
}
