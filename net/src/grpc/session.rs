//! A session over gRPC: the wants of the engine's followers become calls, and the peer's heads are asked for
//! again and again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_dial::DialledNetworks;
use hawser_engine::ports::Registry;
use hawser_engine::replication::{LinkCommand, RequestId, Want, WantedItems};
use hawser_engine::runtime::replication::Link;
use hawser_proto::{Cursor, OriginatorId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::sleep;
use tracing::Instrument as _;

use super::answered_places::AnsweredPlaces;
use super::asked_peer::AskedPeer;
use super::call_error::PeerCallError;
use super::calls::WantCall;
use super::checkpoints::{CheckpointCalls, statements_about};
use super::client::{PeerClient, PeerHeads};
use super::page_limit::PageLimit;
use super::plain_text::{PlainTextPeers, is_tls};
use super::token::{PeerTokens, RefusalWarning};
use super::want_silence::{WantAnswer, WantSilence};
use crate::arrived_bytes::ArrivedBytes;
use crate::control::SessionError;
use crate::counters::PeerError;
use crate::registry_change;
use crate::session::NetState;
use crate::sessions::SessionGuard;

/// Interval at which the peer's heads are asked for. Also how a lost peer is noticed. As the clock frames
/// over QUIC.
const CLOCK_EVERY: Duration = Duration::from_secs(1);
/// Requests for the heads in a row that a peer, or a proxy in front of it, may answer with an error until the peer is
/// left. Specified in `docs/protocol/replication.md`, section *Over gRPC*; a guess: a proxy that restarts answers a few
/// calls so.
const REFUSED_CLOCKS_MAX: u32 = 3;
/// Times in a row that a peer may leave a want of its own strand unanswered before it is left. The follower
/// takes such a want back if the peer claims to hold envelopes and sends none for ten seconds. Guessed. Specified in
/// `docs/protocol/replication.md`, section *Over gRPC*.
const SILENT_MAX: u32 = 3;

/// The end of a session, or of an attempt at one.
pub(super) struct SessionEnd {
    /// The followers could ask the peer.
    pub(super) was_linked: bool,
    /// An immediate retry would most likely fail in the same way.
    pub(super) is_lasting: bool,
}

/// A running session over gRPC.
struct GrpcPeerSession<'a> {
    net: &'a NetState,
    peer: OriginatorId,
    client: PeerClient,
    link: Link,
    guard: Arc<SessionGuard>,
    is_tls: bool,
    calls: JoinSet<Result<(), SessionError>>,
    /// The call in force for each strand.
    wants: HashMap<OriginatorId, OpenCall>,
    /// The length of pages of each strand that was asked for.
    limits: HashMap<OriginatorId, Arc<Mutex<PageLimit>>>,
    /// The places of its own strand that the peer's streams have taken, also in earlier sessions.
    taken: AnsweredPlaces,
    /// The heads that the peer has sent last.
    heads: watch::Receiver<Cursor>,
    stated_heads: watch::Sender<Cursor>,
    /// The peer has answered the first request for its heads, and lacks the method.
    lacks_heads: bool,
}

/// A want that was sent, until the next one for the same strand.
struct OpenCall {
    task: AbortHandle,
    answer: Arc<Mutex<WantAnswer>>,
    silence: WantSilence,
}

/// Runs a session with the API at `address` until it fails, the peer is connected over QUIC, or its
/// registry record changes. `taken` is what the streams of the peer's own strand share over all sessions.
pub(super) async fn run(
    net: &NetState,
    peer: OriginatorId,
    address: &str,
    warning: &RefusalWarning,
    taken: &AnsweredPlaces,
) -> SessionEnd {
    let span = tracing::debug_span!("peer_session", %peer, direction = "grpc");
    async {
        let opened = tokio::select! {
            biased;
            () = net.sessions.wait_for(peer) => return SessionEnd { was_linked: false, is_lasting: false },
            () = net.sessions.wait_for_partition(peer) => return SessionEnd { was_linked: false, is_lasting: false },
            opened = GrpcPeerSession::open(net, peer, address, warning, taken) => opened,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => {
                tracing::debug!(node_id = %peer, address = host_of(address), %error, "no session with the peer over gRPC");
                count(net, peer, &error);
                net.note_not_reached(peer, &error, true);
                return SessionEnd { was_linked: false, is_lasting: error.is_lasting() };
            }
        };
        net.counters.sessions.inc();
        tracing::info!(node_id = %peer, address = host_of(address), "peer connected over gRPC");
        let error = tokio::select! {
            biased;
            () = net.sessions.wait_for(peer) => lost("the peer is connected over QUIC"),
            () = net.sessions.wait_for_partition(peer) => lost("the operator keeps this node apart from it"),
            () = moved(net, peer, address) => lost("its record in the registry has changed"),
            error = session.run() => error,
        };
        tracing::info!(node_id = %peer, reason = %error, "peer disconnected");
        count(net, peer, &error);
        // A peer that owes answers has no excuse for its silence.
        if matches!(&error, SessionError::Peer(reason) if !reason.is_silence()) {
            net.replication.note_sent_away(peer);
        }
        net.failures.disconnected(peer, &error);
        SessionEnd { was_linked: true, is_lasting: error.is_lasting() }
    }
    .instrument(span)
    .await
}

/// Returns the scheme, host and port of a URL. A URL that a replica follows may have keys in its user, path or query.
fn host_of(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "…".to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}")
}

/// Returns the networks in which the API at a URL is dialled: all for one that the operator of a replica has named.
fn networks_of(net: &NetState, url: &str) -> DialledNetworks {
    let is_named = net.observed.as_ref().is_some_and(|observed| observed.has(url));
    if is_named { DialledNetworks::All } else { net.dialled_networks() }
}

/// Waits until the registry has another API address for the peer, or the peer has left the network.
pub(super) async fn moved(net: &NetState, peer: OriginatorId, address: &str) {
    if net.observed.as_ref().is_some_and(|observed| observed.url(peer).is_some()) {
        return std::future::pending().await;
    }
    let mut registry = net.identity.registry.clone();
    let is_moved = |nodes: &Arc<Registry>| {
        let record = nodes.member(peer);
        record.and_then(|record| record.http_address.as_deref()) != Some(address)
    };
    registry_change::wait_for(&mut registry, is_moved).await;
}

/// Counts and logs a refusal.
fn count(net: &NetState, peer: OriginatorId, error: &SessionError) {
    if let SessionError::Peer(reason) = error {
        tracing::warn!(node_id = %peer, %reason, "peer refused");
        net.counters.refuse(*reason);
    }
}

fn lost(why: &str) -> SessionError {
    SessionError::Lost(why.to_owned())
}

impl<'a> GrpcPeerSession<'a> {
    /// Connects, asks for the peer's heads, and links it to the engine.
    async fn open(
        net: &'a NetState,
        peer: OriginatorId,
        address: &str,
        warning: &RefusalWarning,
        taken: &AnsweredPlaces,
    ) -> Result<Self, SessionError> {
        net.counters.dials.inc();
        let as_node = net.observed.is_none();
        // A replica shows no token.
        let plain_text = if as_node { net.plain_text } else { PlainTextPeers::All };
        let addresses = plain_text.addresses(address, networks_of(net, address)).await?;
        let tokens = as_node.then(|| PeerTokens::new(&net.identity, peer, warning.clone()));
        let client = PeerClient::connect(address, &addresses, tokens).await?;
        let own = net.identity.own;
        let voids = if as_node { statements_about(&client, own).await? } else { Vec::new() };
        let PeerHeads { heads, quic_address, round_trip } = client.first_heads().await?;
        let (guard, link) = net
            .sessions
            .link_grpc(peer, address, round_trip, || {
                // Before the link, with which the peer counts as having answered about this node's own strand.
                voids.into_iter().for_each(|signed| net.replication.note_void(peer, signed));
                net.replication.connect_unproven(peer, heads.as_ref())
            })
            .ok_or_else(|| lost("the peer is connected over QUIC"))?;
        guard.note_answer(round_trip, quic_address, client.refused_token());
        let (calls, wants, limits) = (JoinSet::new(), HashMap::new(), HashMap::new());
        let (guard, is_tls) = (Arc::new(guard), is_tls(address));
        let lacks_heads = heads.is_none();
        let (stated_heads, heads) = watch::channel(heads.unwrap_or_default());
        Ok(Self {
            net,
            peer,
            client,
            link,
            guard,
            is_tls,
            calls,
            wants,
            limits,
            taken: taken.clone(),
            heads,
            stated_heads,
            lacks_heads,
        })
    }

    /// Serves the session until an error ends it. The clock of the peer is asked beside its calls, so that a silent
    /// stream does not hide a dead peer.
    async fn run(&mut self) -> SessionError {
        let (client, sink) = (self.client.clone(), self.link.sink().clone());
        let (guard, stated_heads) = (self.guard.clone(), self.stated_heads.clone());
        let lacks_heads = self.lacks_heads;
        let watch = async move {
            let mut refused = RefusedClocks::default();
            loop {
                sleep(CLOCK_EVERY).await;
                match client.heads().await {
                    // A proxy has answered in the peer's place before. A new session asks again for whatever seemed to
                    // be missing, and then the peer counts as having answered this node.
                    Ok(PeerHeads { heads: Some(_), .. }) if lacks_heads => {
                        return PeerCallError::Failed("the peer has its clock now".to_owned());
                    }
                    Ok(PeerHeads { heads, quic_address, round_trip }) => {
                        refused = RefusedClocks::default();
                        guard.note_answer(round_trip, quic_address, client.refused_token());
                        if let Some(heads) = heads {
                            sink.note_clock(&heads);
                            stated_heads.send_replace(heads);
                        }
                    }
                    // From a peer that has shown its heads, this is the answer of a proxy.
                    Err(PeerCallError::NotFound) if lacks_heads => {
                        refused = RefusedClocks::default();
                    }
                    Err(error) => {
                        refused.count(&error);
                        if refused.are_too_many() {
                            return error;
                        }
                    }
                }
            }
        };
        tokio::pin!(watch);
        let checkpoints = CheckpointCalls {
            peer: self.peer,
            client: self.client.clone(),
            sink: self.link.sink().clone(),
            heads: self.net.replication.heads().clone(),
        };
        let checkpoints = checkpoints.run();
        tokio::pin!(checkpoints);
        loop {
            tokio::select! {
                command = self.link.command() => match command {
                    Some(command) => {
                        if let Err(error) = self.handle(command) {
                            return error;
                        }
                    }
                    None => return lost("another link has taken over"),
                },
                Some(ended) = self.calls.join_next() => {
                    if let Some(error) = failure(ended) {
                        return error;
                    }
                }
                Ok(()) = self.heads.changed() => self.note_heads(),
                error = &mut watch => return error.into(),
                error = &mut checkpoints => return error.into(),
            }
        }
    }

    /// Carries out a command of the engine's follower.
    fn handle(&mut self, command: LinkCommand) -> Result<(), SessionError> {
        match command {
            LinkCommand::Want { request, want } => {
                let silent = self.end_call(want.originator);
                if is_left(self.peer, want.originator, silent) {
                    return Err(PeerError::Silent.into());
                }
                self.start_call(request, want, silent);
                Ok(())
            }
            LinkCommand::Stop { originator } => {
                if let Some(call) = self.wants.get_mut(&originator) {
                    call.task.abort();
                    call.silence.end(Instant::now());
                }
                Ok(())
            }
            LinkCommand::Disconnect { violation } => Err(PeerError::Envelope(violation).into()),
        }
    }

    /// Notes the heads that the peer claims now, of each strand that it is asked for.
    fn note_heads(&mut self) {
        let (now, heads) = (Instant::now(), self.heads.borrow_and_update());
        for (originator, call) in &mut self.wants {
            let declared = self.net.replication.void_statements_of(*originator);
            call.silence.note_claim(now, heads.get(*originator), declared);
        }
    }

    /// Ends the call for a strand. Returns the number of wants in a row to which nothing came.
    fn end_call(&mut self, originator: OriginatorId) -> u32 {
        let Some(call) = self.wants.remove(&originator) else { return 0 };
        call.task.abort();
        let answer = *call.answer.lock();
        call.silence.count(Instant::now(), answer)
    }

    fn start_call(&mut self, request: RequestId, want: Want, silent: u32) {
        let (answer, arrived) = (Arc::<Mutex<WantAnswer>>::default(), ArrivedBytes::default());
        // A range begins anywhere in the strand, and a relay may send what another node has signed twice.
        let is_shared = want.originator == self.peer && want.items == WantedItems::Envelopes(None);
        let call = WantCall {
            client: self.client.counted_in(arrived.clone()),
            arrived,
            sink: self.link.sink().clone(),
            counters: self.net.counters.clone(),
            request,
            want,
            asked: AskedPeer::of(self.peer, want.originator, self.is_tls),
            was_silent: silent > 0,
            answer: answer.clone(),
            limit: self.limits.entry(want.originator).or_default().clone(),
            taken: if is_shared { self.taken.clone() } else { AnsweredPlaces::default() },
        };
        let task = self.calls.spawn(call.run().in_current_span());
        let mut silence = WantSilence::new(want, silent);
        let declared = self.net.replication.void_statements_of(want.originator);
        silence.note_claim(Instant::now(), self.heads.borrow().get(want.originator), declared);
        self.wants.insert(want.originator, OpenCall { task, answer, silence });
    }
}

/// Returns true if a peer is left that has not answered so many wants for a strand in a row. The peer may hold
/// envelopes of another node's strand that it cannot send, through no fault of its own.
fn is_left(peer: OriginatorId, strand: OriginatorId, silent: u32) -> bool {
    silent >= SILENT_MAX && strand == peer
}

/// Requests for the heads in a row that were answered with an error. Any other failure counts as too many: the
/// connection is lost, or the peer has broken a rule.
#[derive(Debug, Default)]
struct RefusedClocks(u32);

impl RefusedClocks {
    fn count(&mut self, error: &PeerCallError) {
        let is_answer = matches!(error, PeerCallError::Answered(_) | PeerCallError::Busy(_));
        self.0 = if is_answer { self.0 + 1 } else { REFUSED_CLOCKS_MAX };
    }

    fn are_too_many(&self) -> bool {
        self.0 >= REFUSED_CLOCKS_MAX
    }
}

/// Returns the error for which a call ends its session. A call that was cancelled has none.
fn failure(ended: Result<Result<(), SessionError>, JoinError>) -> Option<SessionError> {
    match ended {
        Ok(result) => result.err(),
        Err(error) if error.is_cancelled() => None,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_was_cancelled_ends_no_session() {
        let mut calls = JoinSet::new();
        calls.spawn(std::future::pending::<Result<(), SessionError>>()).abort();
        assert_eq!(failure(calls.join_next().await.unwrap()), None);
        calls.spawn(async { Err(lost("it is gone")) });
        assert_eq!(failure(calls.join_next().await.unwrap()), Some(lost("it is gone")));
    }

    /// A hostile node could have a relay hold such envelopes, and the relay's own strand would be late.
    #[test]
    fn silence_about_the_strand_of_another_node_ends_no_session() {
        let (peer, other) = (OriginatorId(300), OriginatorId(400));
        assert!(is_left(peer, peer, SILENT_MAX));
        assert!(!is_left(peer, peer, SILENT_MAX - 1));
        assert!(!is_left(peer, other, u32::MAX));
    }

    /// Sessions of less than a minute would follow each other with growing pauses.
    #[test]
    fn few_errors_in_a_row_in_place_of_the_heads_end_no_session() {
        let answered = || PeerCallError::Answered("Unavailable: the proxy restarts".to_owned());
        let busy = || PeerCallError::Busy("ResourceExhausted: no turn".to_owned());
        let mut refused = RefusedClocks::default();
        for error in [answered(), busy()] {
            refused.count(&error);
            assert!(!refused.are_too_many(), "{error}");
        }
        refused.count(&answered());
        assert!(refused.are_too_many());
        for error in [
            PeerCallError::Failed("the connection is lost".to_owned()),
            PeerCallError::NotFound,
            PeerCallError::Peer(PeerError::Oversized),
        ] {
            let mut refused = RefusedClocks::default();
            refused.count(&error);
            assert!(refused.are_too_many(), "{error}");
        }
    }

    #[test]
    fn of_the_url_of_a_peer_only_the_host_is_logged() {
        for (url, shown) in [
            ("https://user:secret@a.example:5050/secret?key=secret", "https://a.example:5050"),
            ("http://[::1]:5050", "http://[::1]:5050"),
            ("https://a.example?secret", "https://a.example"),
            ("secret", "…"),
        ] {
            assert_eq!(host_of(url), shown, "{url}");
        }
    }
}
