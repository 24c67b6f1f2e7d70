//! The calls to one peer's API, each with a deadline, and with this node's token if it is one.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hawser_proto::checkpoint::{CODEC_LEN_BYTES_MAX, CosignedCheckpoint};
use hawser_proto::frame::MAX_CLOCK_ENTRIES;
use hawser_proto::pb::hawser::checkpoint_api::{GetCheckpointRequest, GetCheckpointResponse};
use hawser_proto::pb::xmtp::xmtpv4::{message_api as api, metadata_api};
use hawser_proto::quic_address::QUIC_ADDRESS_HEADER;
use hawser_proto::void::{SIGNED_VOID_LEN, SignedVoid, VOIDS_OF_NODE_MAX};
use hawser_proto::{
    Bytes, Cursor, EnvelopeId, MARKED_HEADER, OriginatorId, QuicAddress, SequenceId,
};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::EncodeBody;
use tonic::codegen::http::header::{CONTENT_TYPE, TE};
use tonic::codegen::http::{HeaderValue, Method, Request, Version};
use tonic::codegen::{Service as _, tokio_stream};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstEncoder;

use super::answer::{Answer, LongMessages, MESSAGE_BYTES_MAX};
use super::authorities::tls_config;
use super::call_error::{PeerCallError, within};
use super::connector::PeerConnector;
use super::frame_meter::FrameFlood;
use super::messages::{read, read_frame, read_list};
use super::token::{PeerTokens, TOKEN_HEADER};
use crate::counters::PeerError;

/// Longest wait for a connection, TLS included, and for the answer to a call. Guessed: several round trips
/// on the worst link, and a page that is read from a cold disk.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(5);
const CALL_MAX: Duration = Duration::from_secs(10);
/// Largest vector clock: as many entries as over QUIC, of 19 bytes each at most. The rest is for further fields. Each
/// entry of each clock is looked up, so one of a megabyte would keep a thread of the runtime busy for long.
const CLOCK_BYTES_MAX: usize = 20 * MAX_CLOCK_ENTRIES;
/// Windows of a stream and of a connection: the bytes that a peer may send before its strand takes them. As over QUIC.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// Largest headers of an answer. A guess: hundred times what nodes send.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

const SUBSCRIBE_ORIGINATORS: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeOriginators";
const SUBSCRIBE_ENVELOPES: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeEnvelopes";
const QUERY_ENVELOPES: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/QueryEnvelopes";
/// Longest answer with a checkpoint: one with all the cosignatures that it may have, and all statements about void
/// places of a strand, each in its field.
const CHECKPOINT_BYTES_MAX: usize =
    CODEC_LEN_BYTES_MAX + 16 + VOIDS_OF_NODE_MAX * (SIGNED_VOID_LEN + 2);

const GET_CHECKPOINT: &str = "/hawser.checkpoint_api.CheckpointApi/GetCheckpoint";
const GET_SYNC_CURSOR: &str = "/xmtp.xmtpv4.metadata_api.MetadataApi/GetSyncCursor";

/// A connection to one peer. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct PeerClient {
    channel: Channel,
    flood: FrameFlood,
    long: LongMessages,
    /// `None` for a replica, which is no node.
    tokens: Option<Arc<PeerTokens>>,
}

/// An answer to the question how far a peer is.
#[derive(Debug)]
pub(super) struct PeerHeads {
    /// The heads that it holds; `None` if it has no method for this question.
    pub(super) heads: Option<Cursor>,
    /// The QUIC address that the peer announces. Not verified.
    pub(super) quic_address: Option<QuicAddress>,
    /// Time that the answer took.
    pub(super) round_trip: Duration,
}

/// A checkpoint that a peer shows, and the statements about void places of the same strand. Nothing is verified.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ShownCheckpoint {
    /// `None` if the peer has statements alone.
    pub(super) checkpoint: Option<CosignedCheckpoint>,
    pub(super) voids: Vec<SignedVoid>,
}

impl ShownCheckpoint {
    /// Reads an answer. `None` if a part of it has another form, if there are more statements than nodes keep, or if
    /// there is nothing.
    fn read(answer: &GetCheckpointResponse) -> Option<Self> {
        let GetCheckpointResponse { checkpoint, void_statements } = answer;
        if void_statements.len() > VOIDS_OF_NODE_MAX {
            return None;
        }
        let checkpoint = match checkpoint.is_empty() && !void_statements.is_empty() {
            true => None,
            false => Some(CosignedCheckpoint::decode(checkpoint).ok()?),
        };
        let voids = void_statements.iter().map(|bytes| SignedVoid::decode(bytes).ok());
        Some(Self { checkpoint, voids: voids.collect::<Option<_>>()? })
    }
}

/// The messages of one stream. Dropping it cancels the call.
#[derive(Debug)]
pub(super) struct EnvelopeStream {
    answer: Answer,
    flood: FrameFlood,
    method: StreamMethod,
}

/// The method whose messages a stream has.
#[derive(Debug, Clone, Copy)]
enum StreamMethod {
    Originators,
    Envelopes,
}

impl PeerClient {
    /// Connects to the API at `url`, over TLS for `https`: the certificate has to come from a public authority, or from
    /// one of `SSL_CERT_FILE`. With `checked`, it dials these addresses one after another without TLS, also when it
    /// connects again, and looks no name up; the peer still sees the authority of `url`.
    ///
    /// # Errors
    /// When the URL is none, or no server answers there, or it floods the connection.
    pub(super) async fn connect(
        url: &str,
        checked: Option<&[SocketAddr]>,
        tokens: Option<PeerTokens>,
    ) -> Result<Self, PeerCallError> {
        let (origin, flood) = (uri(url)?, FrameFlood::default());
        let channel = match checked {
            Some(addresses) => {
                debug_assert!(!is_tls(url), "a certificate is for the name");
                within(CONNECT_MAX, connect_to(&origin, addresses, &flood)).await
            }
            None => {
                let tls = if is_tls(url) { Some(tls_config().await) } else { None };
                let tls = tls.transpose().map_err(|error| failed(&error))?;
                let connector = PeerConnector::new(origin.clone(), tls, flood.clone());
                let connector = connector.map_err(|error| failed(&error))?;
                within(CONNECT_MAX, connect_with(connector, origin, CONNECT_MAX)).await
            }
        };
        let channel = channel.map_err(|error| flood.named(error))?;
        Ok(Self { channel, flood, long: LongMessages::new(), tokens: tokens.map(Arc::new) })
    }

    /// Asks for the heads that the peer holds. A peer without this method claims nothing, and may hold anything.
    pub(super) async fn heads(&self) -> Result<PeerHeads, PeerCallError> {
        let asked_at = Instant::now();
        let request = metadata_api::GetSyncCursorRequest {};
        let answer = self.unary(GET_SYNC_CURSOR, request, CLOCK_BYTES_MAX, None).await;
        let (heads, quic_address) = match answer {
            Ok((message, answer)) => {
                let metadata_api::GetSyncCursorResponse { latest_sync } = read(message)?;
                let address = answer.header(QUIC_ADDRESS_HEADER).and_then(QuicAddress::parse);
                (Some(latest_sync.as_ref().map(Cursor::from).unwrap_or_default()), address)
            }
            Err(PeerCallError::Unimplemented) => (None, None),
            Err(error) => return Err(error),
        };
        Ok(PeerHeads { heads, quic_address, round_trip: asked_at.elapsed() })
    }

    /// Asks for the newest checkpoint that the peer holds of a strand, and for the statements beside it. `None` if it
    /// holds neither, or shows none now: a limit on callers is no fault, and the next clock shows if the connection has
    /// failed.
    ///
    /// # Errors
    /// When the answer is no checkpoint, or no statements, or the peer does not have the method
    /// ([`PeerCallError::Unimplemented`]).
    pub(super) async fn checkpoint(
        &self,
        originator: OriginatorId,
    ) -> Result<Option<ShownCheckpoint>, PeerCallError> {
        let request = GetCheckpointRequest { originator_id: originator.0, ..Default::default() };
        match self.unary(GET_CHECKPOINT, request, CHECKPOINT_BYTES_MAX, None).await {
            Ok((message, _)) => {
                let shown = ShownCheckpoint::read(&read(message)?).ok_or(PeerError::Protocol)?;
                Ok(Some(shown))
            }
            Err(
                PeerCallError::Failed(_)
                | PeerCallError::Answered(_)
                | PeerCallError::Busy(_)
                | PeerCallError::TooManyLong,
            ) => Ok(None),
            // A server of the reference implementation answers so to a service that it does not have. If a proxy
            // answers so while the peer restarts, the next request for its heads gets this answer and ends the session.
            Err(PeerCallError::NotFound) => Err(PeerCallError::Unimplemented),
            Err(error @ (PeerCallError::Peer(_) | PeerCallError::Unimplemented)) => Err(error),
        }
    }

    /// Asks for one page of a strand, behind `after`. An empty one means that the peer holds nothing there. A Hawser
    /// peer also sends envelopes that it has marked invalid, as over QUIC. The memory of a long page counts until its
    /// answer is dropped.
    pub(super) async fn query(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        limit: u32,
    ) -> Result<(Vec<Bytes>, Answer), PeerCallError> {
        let query = Some(query(originator, after));
        let request = api::QueryEnvelopesRequest { query, limit };
        let marked = Some(MARKED_HEADER);
        let (message, answer) =
            self.unary(QUERY_ENVELOPES, request, MESSAGE_BYTES_MAX, marked).await?;
        Ok((read_list(message)?, answer))
    }

    /// Opens `SubscribeOriginators` for everything of a strand after `after`, including envelopes
    /// yet to come.
    pub(super) async fn subscribe_originators(
        &self,
        originator: OriginatorId,
        after: SequenceId,
    ) -> Result<EnvelopeStream, PeerCallError> {
        let filter = api::subscribe_originators_request::OriginatorFilter {
            originator_node_ids: vec![originator.0],
            last_seen: Some(position(originator, after).to_pb()),
        };
        let request = api::SubscribeOriginatorsRequest { filter: Some(filter) };
        self.stream(SUBSCRIBE_ORIGINATORS, request, StreamMethod::Originators).await
    }

    /// Opens `SubscribeEnvelopes`, the older method with the same answers.
    pub(super) async fn subscribe_envelopes(
        &self,
        originator: OriginatorId,
        after: SequenceId,
    ) -> Result<EnvelopeStream, PeerCallError> {
        let request = api::SubscribeEnvelopesRequest { query: Some(query(originator, after)) };
        self.stream(SUBSCRIBE_ENVELOPES, request, StreamMethod::Envelopes).await
    }

    /// Makes a call whose answer has one message, and returns the message, not decoded, with its answer.
    async fn unary<Q: Message + 'static>(
        &self,
        path: &'static str,
        request: Q,
        bytes_max: usize,
        flag: Option<&'static str>,
    ) -> Result<(Bytes, Answer), PeerCallError> {
        within(CALL_MAX, async {
            let mut answer = self.call(path, request, bytes_max, flag).await?;
            let message = answer.only().await?;
            Ok((message, answer))
        })
        .await
        .map_err(|error| self.flood.named(error))
    }

    async fn stream<Q: Message + 'static>(
        &self,
        path: &'static str,
        request: Q,
        method: StreamMethod,
    ) -> Result<EnvelopeStream, PeerCallError> {
        let answer = within(CALL_MAX, self.call(path, request, MESSAGE_BYTES_MAX, None)).await;
        let answer = answer.map_err(|error| self.flood.named(error))?.into_stream();
        Ok(EnvelopeStream { answer, flood: self.flood.clone(), method })
    }

    /// Makes a call, with the header `flag` set. Returns its answer, of which the headers have come.
    async fn call<Q: Message + 'static>(
        &self,
        path: &'static str,
        message: Q,
        bytes_max: usize,
        flag: Option<&'static str>,
    ) -> Result<Answer, PeerCallError> {
        let message = tokio_stream::once(Ok::<_, Status>(message));
        let body = EncodeBody::new_client(ProstEncoder::<Q>::default(), message, None, None);
        let mut request = Request::new(Body::new(body));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Some(token) = self.tokens.as_ref().and_then(|it| it.token(since.as_secs())) {
            headers.insert(TOKEN_HEADER, token.parse().expect("a token is ASCII"));
        }
        if let Some(flag) = flag {
            headers.insert(flag, HeaderValue::from_static("1"));
        }
        let mut channel = self.channel.clone();
        poll_fn(|context| channel.poll_ready(context)).await?;
        let response = channel.call(request).await;
        let response = response.map_err(|error| Status::from_error(error.into()))?;
        Answer::new(response, bytes_max, self.long.clone())
    }
}

/// Connects to the first of some addresses that answers, without TLS, and shows it the authority of `origin`. An
/// address that is silent leaves time for the others.
async fn connect_to(
    origin: &Uri,
    addresses: &[SocketAddr],
    flood: &FrameFlood,
) -> Result<Channel, PeerCallError> {
    let share = CONNECT_MAX / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = PeerCallError::Failed("the peer has no address".to_owned());
    for address in addresses {
        // Without the zone of a link-local address, which no URL has.
        let address = SocketAddr::new(address.ip(), address.port());
        let target = uri(&format!("http://{address}"))?;
        let connector = PeerConnector::new(target, None, flood.clone());
        let connector = connector.map_err(|error| failed(&error))?;
        match connect_with(connector, origin.clone(), share).await {
            Ok(channel) => return Ok(channel),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects within `limit`, and shows the peer the authority of `origin`.
async fn connect_with(
    connector: PeerConnector,
    origin: Uri,
    limit: Duration,
) -> Result<Channel, PeerCallError> {
    // The connector has the address, and TLS, of which the library would know no meter.
    let endpoint = Endpoint::from_static("http://peer")
        .origin(origin)
        .connect_timeout(limit)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX);
    Ok(endpoint.connect_with_connector(connector).await?)
}

fn uri(url: &str) -> Result<Uri, PeerCallError> {
    url.parse::<Uri>().map_err(|error| failed(&error))
}

fn failed(error: &dyn std::error::Error) -> PeerCallError {
    PeerCallError::Failed(error.to_string())
}

impl EnvelopeStream {
    /// Returns the envelopes of the next message, none for a keep-alive; `None` when the peer has ended the
    /// stream. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, PeerCallError> {
        let message = self.answer.next().await.map_err(|error| self.flood.named(error))?;
        let Some(message) = message else { return Ok(None) };
        let envelopes = match self.method {
            StreamMethod::Originators => read_frame(message)?,
            StreamMethod::Envelopes => read_list(message)?,
        };
        Ok(Some(envelopes))
    }
}

/// Returns true if calls to this URL are protected by TLS.
pub(super) fn is_tls(url: &str) -> bool {
    url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

fn position(originator: OriginatorId, after: SequenceId) -> Cursor {
    [EnvelopeId::new(originator, after)].into_iter().collect()
}

fn query(originator: OriginatorId, after: SequenceId) -> api::EnvelopesQuery {
    api::EnvelopesQuery {
        originator_node_ids: vec![originator.0],
        last_seen: Some(position(originator, after).to_pb()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::task::{Context, Poll};

    use hawser_proto::SecretKey;
    use hawser_proto::checkpoint::Checkpoint;
    use hawser_proto::merkle::TreeHash;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_proto::void::VoidStatement;
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
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let server = Server::builder().add_service(OneAnswerServer(service));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        PeerClient::connect(&url, None, None).await.expect("it listens")
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
            let url = format!("http://{}", listener.local_addr().unwrap());
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
            let client = PeerClient::connect(&url, None, None).await.unwrap();
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
        let of =
            Checkpoint { node, originator: node, size: 9, root: TreeHash([3; 32]), time_ns: 5 };
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
}
