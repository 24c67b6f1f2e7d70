//! One session for each peer, and no more of anything than there is room for.

use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::common::envelopes::{envelope, key};
use crate::common::network::{Network, Node, UNREACHABLE, eventually};
use crate::common::raw::RawPeer;
use hawser_net::{PeerError, PeerTransport, PrivatePeers};
use hawser_proto::frame::{ClockFrame, CloseCode, ControlFrame, MAX_CLOCK_ENTRIES};
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

const PEER: OriginatorId = OriginatorId(300);
/// An address of this machine, with a port that the system chooses.
const UNBOUND: &str = "127.0.0.1:0";

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_dial_each_other_keep_one_connection() {
    let mut network = Network::new();
    let (left, right) = (network.start(100), network.start(200));
    for text in 0..50 {
        left.publish(text).await;
        right.publish(text).await;
    }
    left.wait_for(200, 50).await;
    right.wait_for(100, 50).await;
    let remote = |node: &Node| {
        node.endpoint.peers().iter().map(|peer| peer.remote.clone()).collect::<Vec<_>>()
    };
    assert_eq!(remote(&left), [right.endpoint.local_addr().to_string()]);
    assert_eq!(remote(&right), [left.endpoint.local_addr().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_connections_that_a_peer_opens_the_newer_is_kept() {
    let (_network, node) = Network::with_peer(PEER);
    let mut first = RawPeer::join(&node, 300).await;
    let _strand = first.answer(300, &[envelope(PEER, 1)]).await;
    node.wait_for(300, 1).await;
    let mut second = RawPeer::join(&node, 300).await;
    assert_eq!(first.closed().await, Some(CloseCode::Duplicate));
    assert_eq!(second.hear_want(300).await.after.0, 1, "it is asked for what follows");
    let refused: u64 = PeerError::ALL.map(|r| node.endpoint.counters().refused(r)).iter().sum();
    assert_eq!(refused, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_so() {
    let (_network, node) = Network::with_peer(PEER);
    let mut peer = RawPeer::join(&node, 300).await;
    peer.hear_want(300).await;
    node.stop().await;
    assert_eq!(peer.closed().await, Some(CloseCode::Shutdown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_the_operator_keeps_apart_is_neither_dialled_nor_admitted() {
    let mut network = Network::new();
    let (left, right) = (network.start(100), network.start(200));
    right.publish(0).await;
    left.wait_for(200, 1).await;
    left.endpoint.partition_from(right.id, Duration::from_secs(3600));
    eventually("the session has ended", || left.endpoint.peers().is_empty()).await;
    assert_eq!(left.endpoint.partitioned_peers()[0].0, right.id);
    right.publish(1).await;
    // The other one has no such order, and each of its connections is refused.
    let dials = right.endpoint.counters().dials.get();
    eventually("it dials again", || right.endpoint.counters().dials.get() >= dials + 2).await;
    assert!(left.endpoint.peers().is_empty());
    assert_eq!(left.held(200).len(), 1);
    left.endpoint.heal_partition(right.id);
    left.wait_for(200, 2).await;
    assert!(left.endpoint.partitioned_peers().is_empty());
}

/// Played by a peer behind a gateway that gives it another port in the middle of a session.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_moves_to_another_port_keeps_its_session() {
    let (_network, node) = Network::with_peer(PEER);
    let mut peer = RawPeer::join(&node, PEER.0).await;
    let mut strand = peer.answer(PEER.0, &[envelope(PEER, 1)]).await;
    node.wait_for(PEER.0, 1).await;
    let before = node.endpoint.peers()[0].remote.clone();
    peer.move_to_another_port();
    strand.send_batch(&[envelope(PEER, 2)]).await;
    node.wait_for(PEER.0, 2).await;
    assert_ne!(node.endpoint.peers()[0].remote, before);
    assert_eq!(node.endpoint.counters().sessions.get(), 1);
}

/// A proof belongs to the TLS session of its connection, and data before the handshake to no session.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_neither_early_data_nor_datagrams() {
    let (_network, node) = Network::with_peer(PEER);
    let mut peer = RawPeer::connect(node.endpoint.local_addr()).await;
    peer.greet(PEER).await; // all that TLS sends has arrived
    assert!(!peer.may_send_early());
    assert_eq!(peer.connection.max_datagram_size(), None);
}

/// More silent connections than there are slots, each from a separate address.
#[tokio::test(flavor = "multi_thread")]
async fn silent_strangers_keep_no_honest_peer_out() {
    let mut network = Network::new();
    network.register(PEER, UNREACHABLE);
    let (node, honest) = (network.start(100), network.start(200));
    honest.publish(0).await;
    node.wait_for(200, 1).await;
    let address = node.endpoint.local_addr();
    let mut strangers = Vec::new();
    for number in 1..=96 {
        let from = Ipv4Addr::new(127, 0, 1, number);
        strangers.push(RawPeer::connect_from(from, address).await.unwrap());
    }
    let mut peer = RawPeer::join(&node, PEER.0).await;
    peer.hear_want(PEER.0).await;
    assert_eq!(peer.connection.close_reason(), None);
    assert_eq!(strangers[0].closed().await, Some(CloseCode::Busy), "the oldest gives way");
    let busy = || node.endpoint.counters().refused(PeerError::Busy);
    eventually("so do the next ones", || busy() >= 96 - 64).await;
    // An open session is not affected.
    honest.publish(1).await;
    node.wait_for(200, 2).await;
}

/// Each of more addresses than there are slots opens a connection while a node's handshake is under way.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_take_no_slot_of_an_address_that_a_node_has() {
    let mut network = Network::new();
    network.register(PEER, UNREACHABLE);
    let (node, honest) = (network.start(100), network.start(200));
    honest.publish(0).await;
    node.wait_for(200, 1).await; // so the address that all nodes have here is known
    let address = node.endpoint.local_addr();
    for attempt in 0.. {
        let mut peer = RawPeer::connect(address).await;
        peer.greet(PEER).await;
        let mut strangers = Vec::new();
        for number in 1..=96 {
            let from = Ipv4Addr::new(127, 0, 3, number);
            strangers.push(RawPeer::connect_from(from, address).await.unwrap());
        }
        if peer.connection.close_reason().is_some() {
            let code = peer.closed().await;
            assert_eq!(code, Some(CloseCode::HandshakeTimeout), "no stranger has its slot");
            assert!(
                attempt < 20,
                "this machine opens 96 connections in no attempt within five seconds"
            );
            continue;
        }
        peer.prove_after_greeting(PEER, &key(PEER), node.id).await;
        peer.hear_want(PEER.0).await;
        assert_eq!(strangers[0].closed().await, Some(CloseCode::Busy), "they have each other's");
        break;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_few_connections_that_prove_nothing() {
    let (_network, node) = Network::with_peer(PEER);
    let address = node.endpoint.local_addr();
    let mut strangers = Vec::new();
    for _ in 0..12 {
        strangers.push(RawPeer::connect(address).await);
    }
    for stranger in &strangers[..4] {
        assert_eq!(stranger.closed().await, Some(CloseCode::Busy));
    }
    let mut peer = RawPeer::join(&node, PEER.0).await;
    peer.hear_want(PEER.0).await;
}

/// Each handshake takes time of a core, also one that its dialler gives up at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_dials_without_end_is_turned_away_and_others_are_not() {
    let (_network, node) = Network::with_peer(PEER);
    let address = node.endpoint.local_addr();
    let from = Ipv4Addr::new(127, 0, 2, 1);
    let mut accepted = 0;
    while RawPeer::connect_from(from, address).await.is_ok() {
        accepted += 1;
        assert!(accepted < 2_000, "it is accepted again and again");
    }
    assert!(node.endpoint.counters().refused(PeerError::Busy) >= 1);
    let mut peer = RawPeer::join(&node, PEER.0).await;
    peer.hear_want(PEER.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_opens_data_streams_only_after_its_proof() {
    let (_network, node) = Network::with_peer(PEER);
    let mut peer = RawPeer::connect(node.endpoint.local_addr()).await;
    peer.greet(PEER).await;
    let opened = tokio::select! {
        biased;
        _ = peer.connection.open_uni() => true,
        () = std::future::ready(()) => false,
    };
    assert!(!opened, "it has proved nothing");
    peer.prove_after_greeting(PEER, &key(PEER), node.id).await;
    let _strand = peer.answer(PEER.0, &[envelope(PEER, 1)]).await;
    node.wait_for(PEER.0, 1).await;
}

/// A million originators that do not exist, in as few frames as possible.
#[tokio::test(flavor = "multi_thread")]
async fn claims_about_invented_originators_are_neither_kept_nor_shown() {
    const FRAMES: u32 = 256;
    let per_frame = u32::try_from(MAX_CLOCK_ENTRIES).unwrap();
    let (_network, node) = Network::with_peer(PEER);
    let mut peer = RawPeer::join(&node, PEER.0).await;
    let claim = |originator, head| EnvelopeId::new(OriginatorId(originator), SequenceId(head));
    for frame in 0..FRAMES {
        let first = 1_000 + frame * per_frame;
        let entries = (first..first + per_frame).map(|originator| claim(originator, 7)).collect();
        peer.say(ControlFrame::Clock(ClockFrame { entries })).await;
    }
    let entries: Cursor = [claim(PEER.0, 9)].into_iter().collect();
    peer.say(ControlFrame::Clock(ClockFrame { entries: entries.clone() })).await;
    eventually("the last claim has arrived", || {
        let clocks = node.replication.peer_clocks();
        clocks.iter().any(|(_, clock)| clock.get(PEER) == SequenceId(9))
    })
    .await;
    assert_eq!(node.replication.peer_clocks(), [(PEER, entries)]);
    assert!(node.replication.strands().len() <= 1, "only strands of the registry are followed");
}

/// A hostile node registers an address at which others find services of their own machines. It costs them no packet.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_at_a_public_address_dials_a_private_one_only_if_its_operator_says_so() {
    let (udp, tcp) = (UdpSocket::bind(UNBOUND).unwrap(), TcpListener::bind(UNBOUND).unwrap());
    udp.set_nonblocking(true).unwrap();
    tcp.set_nonblocking(true).unwrap();
    for transport in [PeerTransport::Quic, PeerTransport::Grpc] {
        let is_dialled = || match transport == PeerTransport::Grpc {
            true => tcp.accept().is_ok(),
            false => udp.recv(&mut [0; 2048]).is_ok(),
        };
        for private in [PrivatePeers::OfPrivateNodes, PrivatePeers::All] {
            let mut network = Network::new();
            (network.transport, network.private) = (transport, private);
            network.urls.insert(PEER, format!("http://{}", tcp.local_addr().unwrap()));
            network.urls.insert(OriginatorId(100), "https://node.example".to_owned());
            network.register(PEER, udp.local_addr().unwrap());
            let node = network.start(100);
            if private == PrivatePeers::All {
                eventually("the peer is dialled", is_dialled).await;
            } else {
                let failures = || node.endpoint.failures().remove(&PEER).unwrap_or_default();
                eventually("an attempt has failed", || failures().failed_attempts > 0).await;
                let why = failures().last_error.unwrap_or_default();
                assert!(why.starts_with("127.0.0.1 "), "{why}");
                assert!(why.contains("--allow-private-nodes"), "{why}");
                assert!(!is_dialled(), "{transport:?}");
            }
            node.stop().await;
        }
    }
}

/// An API without any method.
#[derive(Clone)]
struct EmptyApi;

impl NamedService for EmptyApi {
    const NAME: &'static str = "none";
}

impl Service<Request<Body>> for EmptyApi {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        std::future::ready(Ok(Status::unimplemented("").into_http()))
    }
}

/// Played by a balancer in front of the peer, or by a host on the way to its URL. Neither knows the peer's key.
#[tokio::test(flavor = "multi_thread")]
async fn what_answers_over_grpc_keeps_out_no_peer_that_proves_its_id() {
    let listener = tokio::net::TcpListener::bind(UNBOUND).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_service(EmptyApi);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let mut network = Network::new();
    network.transport = PeerTransport::Auto;
    network.urls.insert(PEER, url);
    network.register(PEER, UNREACHABLE);
    let node = network.start(100);
    let refused = || node.endpoint.counters().refused(PeerError::NoMethod);
    eventually("what answers at its URL is refused", || refused() > 0).await;
    let mut peer = RawPeer::join(&node, 300).await;
    let _strand = peer.answer(300, &[envelope(PEER, 1)]).await;
    node.wait_for(300, 1).await;
}
