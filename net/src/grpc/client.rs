//! The calls to one peer's API, each with a deadline, and with this node's token if it is one.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use std::sync::Arc;

use hawser_proto::checkpoint::{CODEC_LEN_BYTES_MAX, CosignedCheckpoint};
use hawser_proto::pb::hawser::checkpoint_api::{GetCheckpointRequest, GetCheckpointResponse};
use hawser_proto::pb::xmtp::xmtpv4::{message_api as api, metadata_api};
use hawser_proto::quic_address::QUIC_ADDRESS_HEADER;
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, QuicAddress, SequenceId};
use prost::Message;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status, Streaming};

use super::authorities::with_tls;
use super::messages::{EnvelopeList, OriginatorsFrame, PeerCodec};
use super::token::{PeerTokens, TOKEN_HEADER};
use crate::control::SessionError;
use crate::counters::PeerError;

/// Longest wait for a connection, TLS included, and for the answer to a call. Guessed: several round trips
/// on the worst link, and a page that is read from a cold disk.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(5);
const CALL_MAX: Duration = Duration::from_secs(10);
/// Largest message: the network's limit of 25 MiB, with room for what is around the envelopes. Specified in
/// `docs/protocol/api.md`.
const MESSAGE_BYTES_MAX: usize = 25 * 1024 * 1024 + 1024;
/// Largest vector clock. A guess: ten times the longest that nodes exchange over QUIC.
const CLOCK_BYTES_MAX: usize = 1024 * 1024;
/// Windows of a stream and of a connection: what a peer may send before its strand takes it. As over QUIC.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// Largest headers of an answer. A guess: hundred times what nodes send.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Interval of TCP's own probes on a silent connection. Guessed.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(10);

const SUBSCRIBE_ORIGINATORS: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeOriginators";
const SUBSCRIBE_ENVELOPES: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeEnvelopes";
const QUERY_ENVELOPES: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/QueryEnvelopes";
/// Longest answer with a checkpoint: one with all the cosignatures that it may have, in its field.
const CHECKPOINT_BYTES_MAX: usize = CODEC_LEN_BYTES_MAX + 16;

const GET_CHECKPOINT: &str = "/hawser.checkpoint_api.CheckpointApi/GetCheckpoint";
const GET_SYNC_CURSOR: &str = "/xmtp.xmtpv4.metadata_api.MetadataApi/GetSyncCursor";

/// A connection to one peer. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct PeerClient {
    channel: Channel,
    /// `None` for a replica, which is no node.
    tokens: Option<Arc<PeerTokens>>,
}

/// An answer to the question how far a peer is.
#[derive(Debug)]
pub(super) struct PeerHeads {
    /// The heads that it holds.
    pub(super) heads: Cursor,
    /// The QUIC address that the peer announces. Not verified.
    pub(super) quic_address: Option<QuicAddress>,
    /// Time that the answer took.
    pub(super) round_trip: Duration,
}

/// The reason a call ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerCallError {
    /// The peer broke a rule of the protocol.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer does not have this method.
    #[error("the peer does not have the method")]
    Unimplemented,
    /// The peer refuses, or the connection fails.
    #[error("{0}")]
    Failed(String),
    /// The peer has answered with an error for which its caller is not to blame.
    #[error("{0}")]
    Answered(String),
}

/// The messages of one stream. Dropping it cancels the call.
#[derive(Debug)]
pub(super) struct EnvelopeStream(Frames);

#[derive(Debug)]
enum Frames {
    Originators(Streaming<Result<OriginatorsFrame, PeerError>>),
    Envelopes(Streaming<Result<EnvelopeList, PeerError>>),
}

impl PeerClient {
    /// Connects to the API at `url`, over TLS for `https`: the certificate has to come from a public authority, or from one of
    /// `SSL_CERT_FILE`. With `checked`, it dials these addresses one after another without TLS, also when it connects again,
    /// and looks no name up; the peer still sees the authority of `url`.
    ///
    /// # Errors
    /// When the URL is none, or no server answers there.
    pub(super) async fn connect(
        url: &str,
        checked: Option<&[SocketAddr]>,
        tokens: Option<PeerTokens>,
    ) -> Result<Self, PeerCallError> {
        if let Some(addresses) = checked {
            let channel = within(CONNECT_MAX, connect_to(url, addresses)).await?;
            return Ok(Self { channel, tokens: tokens.map(Arc::new) });
        }
        let mut endpoint = endpoint(url)?;
        if is_tls(url) {
            endpoint = with_tls(endpoint).await.map_err(failed)?;
        }
        let channel = within(CONNECT_MAX, async { endpoint.connect().await.map_err(failed) });
        Ok(Self { channel: channel.await?, tokens: tokens.map(Arc::new) })
    }

    /// Asks for the heads that the peer holds. A peer without this method claims nothing.
    pub(super) async fn heads(&self) -> Result<PeerHeads, PeerCallError> {
        let asked_at = Instant::now();
        let request = metadata_api::GetSyncCursorRequest {};
        let answer = self.answer(GET_SYNC_CURSOR, request, CLOCK_BYTES_MAX).await;
        let (heads, quic_address) = match answer {
            Ok(answer) => {
                let told = answer.metadata().get(QUIC_ADDRESS_HEADER);
                let told = told.and_then(|it| QuicAddress::parse(it.to_str().ok()?));
                let metadata_api::GetSyncCursorResponse { latest_sync } = answer.into_inner()?;
                (latest_sync.as_ref().map(Cursor::from).unwrap_or_default(), told)
            }
            Err(PeerCallError::Unimplemented) => (Cursor::new(), None),
            Err(error) => return Err(error),
        };
        Ok(PeerHeads { heads, quic_address, round_trip: asked_at.elapsed() })
    }

    /// Asks for the newest checkpoint that the peer holds of a strand. `None` if it holds none, or shows none now: a limit
    /// on callers is no fault, and whether the connection has failed is told by the next clock.
    ///
    /// # Errors
    /// When the answer is no checkpoint.
    pub(super) async fn checkpoint(
        &self,
        originator: OriginatorId,
    ) -> Result<Option<CosignedCheckpoint>, PeerCallError> {
        let request = GetCheckpointRequest { originator_id: originator.0, ..Default::default() };
        match self.unary(GET_CHECKPOINT, request, CHECKPOINT_BYTES_MAX).await {
            Ok(GetCheckpointResponse { checkpoint }) => {
                let read = CosignedCheckpoint::decode(&checkpoint);
                read.map(Some).map_err(|_| PeerError::Protocol.into())
            }
            Err(
                PeerCallError::Unimplemented
                | PeerCallError::Failed(_)
                | PeerCallError::Answered(_),
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for one page of a strand, behind `after`. An empty one means that the peer holds nothing there.
    pub(super) async fn query(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        limit: u32,
    ) -> Result<Vec<Bytes>, PeerCallError> {
        let query = Some(query(originator, after));
        let request = api::QueryEnvelopesRequest { query, limit };
        let page: EnvelopeList = self.unary(QUERY_ENVELOPES, request, MESSAGE_BYTES_MAX).await?;
        Ok(page.envelopes)
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
        let frames = self.streaming(SUBSCRIBE_ORIGINATORS, request).await?;
        Ok(EnvelopeStream(Frames::Originators(frames)))
    }

    /// Opens `SubscribeEnvelopes`, the older method with the same answers.
    pub(super) async fn subscribe_envelopes(
        &self,
        originator: OriginatorId,
        after: SequenceId,
    ) -> Result<EnvelopeStream, PeerCallError> {
        let request = api::SubscribeEnvelopesRequest { query: Some(query(originator, after)) };
        let frames = self.streaming(SUBSCRIBE_ENVELOPES, request).await?;
        Ok(EnvelopeStream(Frames::Envelopes(frames)))
    }

    async fn unary<Q, A>(
        &self,
        path: &'static str,
        request: Q,
        max: usize,
    ) -> Result<A, PeerCallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        Ok(self.answer(path, request, max).await?.into_inner()?)
    }

    /// The answer to one call, with its metadata.
    async fn answer<Q, A>(
        &self,
        path: &'static str,
        request: Q,
        max: usize,
    ) -> Result<Response<Result<A, PeerError>>, PeerCallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        within(CALL_MAX, async {
            let mut grpc = self.grpc(max).await?;
            let path = PathAndQuery::from_static(path);
            Ok(grpc.unary(self.signed(request), path, PeerCodec::<Q, A>::new()).await?)
        })
        .await
    }

    async fn streaming<Q, A>(
        &self,
        path: &'static str,
        request: Q,
    ) -> Result<Streaming<Result<A, PeerError>>, PeerCallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        within(CALL_MAX, async {
            let mut grpc = self.grpc(MESSAGE_BYTES_MAX).await?;
            let path = PathAndQuery::from_static(path);
            let codec = PeerCodec::<Q, A>::new();
            let answer = grpc.server_streaming(self.signed(request), path, codec).await?;
            Ok(answer.into_inner())
        })
        .await
    }

    async fn grpc(&self, bytes_max: usize) -> Result<Grpc<Channel>, PeerCallError> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(bytes_max);
        grpc.ready().await.map_err(|error| PeerCallError::Failed(describe(&error)))?;
        Ok(grpc)
    }

    fn signed<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        let Some(tokens) = &self.tokens else { return request };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let token = tokens.token(since.as_secs());
        let value = MetadataValue::try_from(token).expect("a token is ASCII");
        request.metadata_mut().insert(TOKEN_HEADER, value);
        request
    }
}

/// Connects to the first of some addresses that answers, and shows it the authority of `url`. An address that is silent
/// leaves time for the others.
async fn connect_to(url: &str, addresses: &[SocketAddr]) -> Result<Channel, PeerCallError> {
    debug_assert!(!is_tls(url), "a certificate is for the name");
    let origin: Uri = url.parse().map_err(|error| PeerCallError::Failed(format!("{error}")))?;
    let share = CONNECT_MAX / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = PeerCallError::Failed("the peer has no address".to_owned());
    for address in addresses {
        // Without the zone of a link-local address, which no URL has.
        let address = SocketAddr::new(address.ip(), address.port());
        let endpoint = endpoint(&format!("http://{address}"))?;
        match endpoint.origin(origin.clone()).connect_timeout(share).connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) => last = failed(error),
        }
    }
    Err(last)
}

/// Returns how a server at `url` is connected to, without TLS.
fn endpoint(url: &str) -> Result<Endpoint, PeerCallError> {
    Ok(Endpoint::from_shared(url.to_owned())
        .map_err(failed)?
        .connect_timeout(CONNECT_MAX)
        .tcp_keepalive(Some(TCP_KEEP_ALIVE))
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: tonic::transport::Error) -> PeerCallError {
    PeerCallError::Failed(describe(&error))
}

impl EnvelopeStream {
    /// Returns the envelopes of the next message, none for a keep-alive; `None` when the peer has ended the
    /// stream. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, PeerCallError> {
        let envelopes = match &mut self.0 {
            Frames::Originators(frames) => match frames.message().await? {
                Some(frame) => frame?.envelopes.unwrap_or_default().envelopes,
                None => return Ok(None),
            },
            Frames::Envelopes(frames) => match frames.message().await? {
                Some(list) => list?.envelopes,
                None => return Ok(None),
            },
        };
        Ok(Some(envelopes))
    }
}

/// Returns whether calls to this URL are protected by TLS.
pub(super) fn is_tls(url: &str) -> bool {
    url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

impl From<Status> for PeerCallError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::Unimplemented,
            // The local decoder's answer to a message above its limit.
            Code::OutOfRange => Self::Peer(PeerError::Oversized),
            code => {
                let text = format!("{code:?}: {}", shortened(status.message()));
                // What the transport makes of a lost connection has the error of the connection as its source.
                let is_answer = std::error::Error::source(&status).is_none();
                if is_answer && is_own_failure(code) {
                    Self::Answered(text)
                } else {
                    Self::Failed(text)
                }
            }
        }
    }
}

/// Returns true for codes that say that the server failed. Specified (`docs/protocol/misbehavior.md`); a method that is
/// not implemented is handled before.
fn is_own_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Internal | Code::Unknown | Code::DataLoss | Code::Aborted
    )
}

impl From<PeerCallError> for SessionError {
    fn from(error: PeerCallError) -> Self {
        match error {
            PeerCallError::Peer(error) => Self::Peer(error),
            error => Self::Lost(error.to_string()),
        }
    }
}

/// Bytes of a peer's own text that are kept for logs and status. Guessed: two lines.
const TEXT_BYTES_MAX: usize = 200;

fn shortened(text: &str) -> String {
    let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|&at| text.is_char_boundary(at));
    text[..end.unwrap_or(0)].escape_debug().to_string()
}

/// Returns an error with its causes, because the outermost error of the transport names no reason.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    shortened(&text)
}

pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, PeerCallError>>,
) -> Result<T, PeerCallError> {
    let silent = || PeerCallError::Failed(format!("no answer within {} s", limit.as_secs()));
    timeout(limit, call).await.unwrap_or_else(|_| Err(silent()))
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
