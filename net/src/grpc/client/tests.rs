//! Tests of the calls, with peers that answer wrongly.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use hawser_proto::SecretKey;
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::envelope_list::EnvelopeList;
use hawser_proto::merkle::TreeHash;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::void::VoidStatement;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::codegen::Service;
use tonic::codegen::http::{Response, StatusCode};
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::*;

/// A service that answers all its calls alike.
trait OneAnswer: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    fn answer(&self) -> Response<Body>;
}

/// The server of such a service.
#[derive(Clone)]
struct OneAnswerServer<T>(T);

impl<T: OneAnswer> NamedService for OneAnswerServer<T> {
    const NAME: &'static str = T::NAME;
}

impl<T: OneAnswer> Service<Request<Body>> for OneAnswerServer<T> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Ok(self.0.answer()))
    }
}

/// Starts a server with this service alone, and connects to it.
async fn client_of(service: impl OneAnswer) -> PeerClient {
    client_with(OneAnswerServer(service), None).await
}

/// As [`client_of`], with tokens.
async fn client_with<S>(service: S, tokens: Option<PeerTokens>) -> PeerClient
where
    S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future = Ready<Result<Response<Body>, Infallible>>,
        > + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let url = format!("http://{address}");
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    PeerClient::connect(&url, &[address], tokens).await.expect("it listens")
}

/// Answers as the reference implementation answers calls of services that it does not have.
#[derive(Clone)]
struct WithoutCheckpoints;

impl OneAnswer for WithoutCheckpoints {
    const NAME: &'static str = "hawser.checkpoint_api.CheckpointApi";

    fn answer(&self) -> Response<Body> {
        let mut page = Response::new(Body::empty());
        *page.status_mut() = StatusCode::NOT_FOUND;
        page
    }
}

/// The client reports the method as missing. Otherwise the peer would be asked again every three seconds.
#[tokio::test]
async fn a_peer_that_answers_with_http_404_has_no_checkpoints() {
    let client = client_of(WithoutCheckpoints).await;
    let answered = client.checkpoint(OriginatorId(200)).await;
    assert!(matches!(answered, Err(PeerCallError::Unimplemented)), "{answered:?}");
}

/// Answers the same way to calls for its heads, as an old node does, or a proxy while the peer behind it restarts.
#[derive(Clone)]
struct WithoutHeads;

impl OneAnswer for WithoutHeads {
    const NAME: &'static str = "xmtp.xmtpv4.metadata_api.MetadataApi";

    fn answer(&self) -> Response<Body> {
        WithoutCheckpoints.answer()
    }
}

/// Otherwise an old node could not be followed. Within a session the status tells that a proxy has lost the peer.
#[tokio::test]
async fn a_peer_that_answers_with_http_404_at_first_lacks_its_heads_and_claims_nothing() {
    let client = client_of(WithoutHeads).await;
    let first = client.first_heads().await;
    assert!(matches!(&first, Ok(PeerHeads { heads: None, quic_address: None, .. })), "{first:?}");
    let later = client.heads().await;
    assert!(matches!(later, Err(PeerCallError::NotFound)), "{later:?}");
}

/// A peer that refuses every token, and calls without one if it `wants` tokens. It says so behind its headers, as the
/// reference implementation does, and has no method.
#[derive(Clone)]
struct RefusesTokens {
    wants: bool,
    /// For each call, whether it had a token.
    calls: Arc<Mutex<Vec<bool>>>,
}

impl NamedService for RefusesTokens {
    const NAME: &'static str = "xmtp.xmtpv4.metadata_api.MetadataApi";
}

impl Service<Request<Body>> for RefusesTokens {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Request<Body>) -> Self::Future {
        let has_token = call.headers().contains_key(NODE_TOKEN_HEADER);
        self.calls.lock().push(has_token);
        let status = match has_token || self.wants {
            true => Status::unauthenticated(format!("no: {has_token}")),
            false => Status::unimplemented(""),
        };
        let ended = tokio_stream::once(Err::<metadata_api::GetSyncCursorResponse, _>(status));
        let body =
            EncodeBody::new_server(ProstEncoder::default(), ended, None, Default::default(), None);
        let mut response = Response::new(Body::new(body));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, grpc);
        ready(Ok(response))
    }
}

/// The peer's clock or this node's is wrong: the peer's strand is followed all the same.
#[tokio::test]
async fn a_peer_that_refuses_the_token_is_called_without_one() {
    let calls = Arc::<Mutex<Vec<bool>>>::default();
    let service = RefusesTokens { wants: false, calls: calls.clone() };
    let client = client_with(service, Some(PeerTokens::of_test())).await;
    assert_eq!(client.refused_token(), None);
    for _ in 0..2 {
        assert!(client.heads().await.is_ok_and(|it| it.heads.is_none()));
    }
    assert_eq!(*calls.lock(), [true, false, false], "one call more");
    assert_eq!(client.refused_token().as_deref(), Some("Unauthenticated: no: true"));
}

/// Played by a host on the way to a peer of which one address is public: it could make calls as this node.
#[tokio::test]
async fn a_peer_at_a_public_address_gets_no_token_without_tls() {
    let calls = Arc::<Mutex<Vec<bool>>>::default();
    let service = RefusesTokens { wants: false, calls: calls.clone() };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let answers = listener.local_addr().expect("it is bound");
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let url = format!("http://peer.invalid:{}", answers.port());
    let public = SocketAddr::from(([8, 8, 8, 8], answers.port()));
    // The first address answers, so the other one is not dialled.
    for (addresses, has_token) in [(&[answers, public][..], false), (&[answers], true)] {
        let tokens = Some(PeerTokens::of_test());
        let client = PeerClient::connect(&url, addresses, tokens).await.expect("it listens");
        assert!(client.heads().await.is_ok_and(|it| it.heads.is_none()));
        assert_eq!(calls.lock().drain(..).next(), Some(has_token), "{addresses:?}");
        assert_eq!(client.refused_token().is_some(), has_token);
    }
}

/// The peer refuses calls with the token and calls without one. Only the first refused call is repeated without a
/// token.
#[tokio::test]
async fn a_peer_that_wants_tokens_and_refuses_them_costs_one_call_more() {
    let calls = Arc::<Mutex<Vec<bool>>>::default();
    let service = RefusesTokens { wants: true, calls: calls.clone() };
    let client = client_with(service, Some(PeerTokens::of_test())).await;
    for _ in 0..3 {
        let refused = client.heads().await.unwrap_err();
        assert!(matches!(&refused, PeerCallError::Failed(why) if why.ends_with("no: true")));
    }
    assert_eq!(*calls.lock(), [true, false, true, true]);
    assert_eq!(client.refused_token(), None, "it is the error of the session");
}

/// A peer that refuses its first pages with this status, as one does whose pages are above the limit of a message.
/// Without a status it sends these pages all the same.
#[derive(Clone)]
struct RefusesPages {
    status: Option<Status>,
    refused: usize,
    calls: Arc<Mutex<usize>>,
}

impl OneAnswer for RefusesPages {
    const NAME: &'static str = "xmtp.xmtpv4.message_api.ReplicationApi";

    fn answer(&self) -> Response<Body> {
        let mut calls = self.calls.lock();
        *calls += 1;
        let page_of = |envelope| Ok(EnvelopeList { envelopes: vec![envelope] });
        let page = match (*calls <= self.refused, &self.status) {
            (true, Some(status)) => Err(status.clone()),
            (true, None) => page_of(Bytes::from(vec![0; MESSAGE_BYTES_MAX])),
            (false, _) => page_of(Bytes::from_static(b"a long one")),
        };
        let page = tokio_stream::once(page);
        let body =
            EncodeBody::new_server(ProstEncoder::default(), page, None, Default::default(), None);
        let mut response = Response::new(Body::new(body));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, grpc);
        response
    }
}

/// A strand's own node can sign an envelope almost as long as a message, which a relay can only send by itself.
#[tokio::test]
async fn a_page_that_is_refused_is_asked_for_again_shorter() {
    for (status, pause) in [
        (Status::resource_exhausted("long"), BUSY_PAUSE),
        (Status::out_of_range("long"), Duration::ZERO),
    ] {
        for (refused, last, has_page) in [(0, 100, true), (2, 1, true), (3, 1, false)] {
            let began = Instant::now();
            let calls = Arc::<Mutex<usize>>::default();
            let (status, counted) = (Some(status.clone()), calls.clone());
            let client = client_of(RefusesPages { status, refused, calls: counted }).await;
            let mut limit = 100;
            let asked = client.page_that_fits(OriginatorId(200), SequenceId(7), &mut limit).await;
            let page = asked.expect("the peer breaks no rule").map(|(page, _)| page.len());
            assert_eq!((page, limit), (has_page.then_some(1), last), "{refused} are refused");
            assert_eq!(*calls.lock(), (refused + 1).min(3));
            let pauses = u32::try_from(refused).unwrap();
            assert!(began.elapsed() >= pause * pauses, "{:?}", began.elapsed());
        }
    }
}

/// Other software cuts no page by its length. A node with long envelopes would otherwise cost each peer that passes
/// them on its session.
#[tokio::test]
async fn a_page_that_is_too_long_for_a_message_is_asked_for_again_shorter() {
    for (long, is_read) in [(2, true), (3, false)] {
        let calls = Arc::<Mutex<usize>>::default();
        let counted = calls.clone();
        let client = client_of(RefusesPages { status: None, refused: long, calls: counted }).await;
        let mut limit = 100;
        match client.page_that_fits(OriginatorId(200), SequenceId(7), &mut limit).await {
            Ok(Some((page, _))) if is_read => assert_eq!(page.len(), 1),
            // No envelope is as long.
            Err(PeerError::Oversized) if !is_read => {}
            other => panic!("{long} are too long: {other:?}"),
        }
        assert_eq!((limit, *calls.lock()), (1, 3));
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    [&[0, 0, len, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// Reads the preface of HTTP/2, and the frames up to the first one of a request.
async fn read_request(stream: &mut TcpStream) {
    stream.read_exact(&mut [0; 24]).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; len as usize]).await.unwrap();
        if head[3] == 1 {
            return;
        }
    }
}

/// The library would read such frames for as long as they come, and keep the fields of each head of a response
/// that is not the last.
#[tokio::test]
async fn a_peer_that_floods_a_connection_with_frames_that_carry_nothing_is_left() {
    for flood in [
        frame(6, 0, 0, &[0; 8]),                      // pings
        frame(6, 1, 0, &[0; 8]),                      // answers to pings
        frame(4, 0, 0, &[]),                          // settings
        frame(8, 0, 0, &[0, 0, 0, 1]),                // updates of a window
        frame(2, 0, 1, &[0; 5]),                      // priorities
        frame(77, 0, 0, &[0; 8]),                     // frames of an unknown type
        frame(1, 4, 1, &[0x08, 3, b'1', b'0', b'0']), // heads of responses with the status 100
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}");
        let frames = flood.repeat(1000);
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
            read_request(&mut stream).await;
            let (mut read, mut write) = stream.into_split();
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
            });
            while write.write_all(&frames).await.is_ok() {}
        });
        let client = PeerClient::connect(&url, &[address], None).await.unwrap();
        let left = client.heads().await;
        assert!(
            matches!(left, Err(PeerCallError::Peer(PeerError::EmptyFrames))),
            "{flood:?}: {left:?}"
        );
        // The connection is not made again.
        let left = client.heads().await;
        assert!(matches!(left, Err(PeerCallError::Peer(PeerError::EmptyFrames))), "{left:?}");
    }
}

/// Connects to a server that reads calls and answers none.
async fn client_of_silent() -> PeerClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("http://{address}");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    });
    PeerClient::connect(&url, &[address], None).await.unwrap()
}

/// A server that has taken over a peer's earlier URL would keep this node from the present one. An answer that is lost
/// beside a busy stream would leave a session without a clock.
#[tokio::test]
async fn a_clock_that_never_comes_is_given_up_however_much_else_arrives() {
    let client = client_of_silent().await;
    let arrived = client.of_connection.clone();
    tokio::time::pause();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            arrived.add(64 * 1024);
        }
    });
    let began = tokio::time::Instant::now();
    let first = client.first_heads().await;
    assert!(matches!(first, Err(PeerCallError::Failed(_))), "{first:?}");
    assert_eq!(began.elapsed().as_secs(), CALL_MAX.as_secs(), "nothing else was asked for");
    let began = tokio::time::Instant::now();
    let later = client.heads().await;
    assert!(matches!(later, Err(PeerCallError::Failed(_))), "{later:?}");
    assert_eq!(began.elapsed().as_secs(), LATE_CLOCK_MAX.as_secs());
}

/// The head of its answer comes with the first message. While a strand has no news, its session ended otherwise.
#[tokio::test]
async fn the_head_of_a_stream_may_take_longer_than_other_answers() {
    let client = client_of_silent().await;
    tokio::time::pause();
    for (waited, has_ended) in [(2 * CALL_MAX, false), (2 * HEAD_MAX, true)] {
        let opened = client.subscribe_originators(OriginatorId(200), SequenceId(7));
        match tokio::time::timeout(waited, opened).await {
            Err(_) if !has_ended => {}
            Ok(Err(PeerCallError::Failed(_))) if has_ended => {}
            other => panic!("{waited:?}: {other:?}"),
        }
    }
}

/// A server whose clock has this number of entries, each as long as an entry can be.
#[derive(Clone)]
struct LongClock(u32);

impl OneAnswer for LongClock {
    const NAME: &'static str = "xmtp.xmtpv4.metadata_api.MetadataApi";

    fn answer(&self) -> Response<Body> {
        let entries = (0..self.0).map(|number| (u32::MAX - number, u64::MAX));
        let latest_sync = Some(pb::Cursor { node_id_to_sequence_id: entries.collect() });
        let clock = metadata_api::GetSyncCursorResponse { latest_sync };
        let clock = tokio_stream::once(Ok::<_, Status>(clock));
        let body = EncodeBody::new_client(ProstEncoder::default(), clock, None, None);
        let mut response = Response::new(Body::new(body));
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("0"));
        response
    }
}

/// A hostile peer would have this node look up a megabyte of invented originators every second.
#[tokio::test]
async fn a_clock_with_more_entries_than_nodes_exchange_over_quic_is_not_read() {
    let most = u32::try_from(MAX_CLOCK_ENTRIES).expect("it fits");
    for (entries, is_read) in [(most, true), (2 * most, false)] {
        let client = client_of(LongClock(entries)).await;
        match client.heads().await {
            Ok(PeerHeads { heads, .. }) if is_read => {
                assert_eq!(heads.map(|heads| heads.len()), Some(MAX_CLOCK_ENTRIES));
            }
            Err(PeerCallError::Peer(PeerError::Oversized)) if !is_read => {}
            other => panic!("{entries} entries: {other:?}"),
        }
    }
}

#[test]
fn an_answer_with_noise_or_more_statements_than_nodes_keep_is_no_checkpoint() {
    let key = SecretKey::from_bytes(&[7; 32]).expect("a key");
    let node = OriginatorId(200);
    let of = Checkpoint { node, originator: node, size: 9, root: TreeHash([3; 32]), time_ns: 5 };
    let signed = CosignedCheckpoint::from(of.sign(&key));
    let (from, through) = (SequenceId(10), SequenceId(20));
    let stated = VoidStatement { node, from, through, time_ns: 5, incarnation: [4; 16] };
    let stated = stated.sign(&key);
    let bytes = Bytes::copy_from_slice(&stated.encode());
    let answer = |checkpoint: Bytes, void_statements| {
        ShownCheckpoint::read(&GetCheckpointResponse { checkpoint, void_statements })
    };
    let checkpoint = || Bytes::from(signed.encode());
    let shown = answer(checkpoint(), vec![bytes.clone()]).expect("it is one");
    assert_eq!((shown.checkpoint, shown.voids), (Some(signed.clone()), vec![stated]));
    let most = vec![bytes.clone(); VOIDS_OF_NODE_MAX];
    assert!(answer(checkpoint(), most.clone()).is_some());
    assert!(answer(checkpoint(), [most, vec![bytes.clone()]].concat()).is_none());
    assert!(answer(checkpoint(), vec![bytes.slice(1..)]).is_none());
    let alone = answer(Bytes::new(), vec![bytes]).expect("the peer has no checkpoint");
    assert_eq!((alone.checkpoint, alone.voids), (None, vec![stated]));
    assert!(answer(Bytes::new(), Vec::new()).is_none());
}
