//! The calls to one peer's API, each with a deadline, and with this node's token if it is one.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hawser_dial::FrameFlood;
use hawser_proto::checkpoint::{CODEC_LEN_BYTES_MAX, CosignedCheckpoint};
use hawser_proto::frame::MAX_CLOCK_ENTRIES;
use hawser_proto::pb::hawser::checkpoint_api::{GetCheckpointRequest, GetCheckpointResponse};
use hawser_proto::pb::xmtp::xmtpv4::{message_api as api, metadata_api};
use hawser_proto::quic_address::QUIC_ADDRESS_HEADER;
use hawser_proto::void::{SIGNED_VOID_LEN, SignedVoid, VOIDS_OF_NODE_MAX};
use hawser_proto::{
    Bytes, Cursor, EnvelopeId, MARKED_HEADER, NODE_TOKEN_HEADER, OriginatorId, QuicAddress,
    SequenceId,
};
use prost::Message;
use tokio::time::sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::EncodeBody;
use tonic::codegen::http::header::{CONTENT_TYPE, TE};
use tonic::codegen::http::{HeaderValue, Method, Request, Version};
use tonic::codegen::{Service as _, tokio_stream};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstEncoder;

use super::answer::{Answer, LongMessages, MESSAGE_BYTES_MAX};
use super::authorities::trusted;
use super::call_error::{PeerCallError, within, within_arrivals};
use super::connector::PeerConnector;
use super::messages::{read, read_frame, read_list};
use super::plain_text::{is_tls, may_get_token};
use super::token::PeerTokens;
use crate::arrived_bytes::ArrivedBytes;
use crate::counters::PeerError;

/// Longest wait for a connection, TLS included, and for the answer to a call. Guessed: several round trips
/// on the worst link, and a page that is read from a cold disk.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(5);
const CALL_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a clock that comes behind other answers. Specified in `docs/protocol/replication.md`, section *Over
/// gRPC*: the longest envelope takes 400 s over a link of 64 KiB/s. Without this end, an answer that is lost beside a
/// busy stream would leave the session without a clock.
const LATE_CLOCK_MAX: Duration = Duration::from_secs(600);
/// Longest wait for the head of a stream. Some servers send it with the first message, which is a keep-alive if the
/// strand has no news. A guess: twice the 30 s after which nodes of the network send one. Specified in
/// `docs/protocol/replication.md`, section *Over gRPC*.
const HEAD_MAX: Duration = Duration::from_secs(60);
/// Pause after a page for which the peer was busy. A guess: a few of them are within the second for which a search
/// waits for further gaps. Specified in `docs/protocol/replication.md`, section *Over gRPC*.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Largest vector clock: as many entries as over QUIC, of 19 bytes each at most. The rest is for further fields. Each
/// entry of each clock is looked up, so one of a megabyte would keep a thread of the runtime busy for long.
const CLOCK_BYTES_MAX: usize = 20 * MAX_CLOCK_ENTRIES;
/// Windows of a stream and of a connection: the bytes that a peer may send before its strand takes them. As over QUIC.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// Largest length of the headers of an answer, in bytes. A guess: a hundred times the length that nodes send.
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
    /// `None` for a replica, which is no node, and for a peer at which others could read the token.
    tokens: Option<Arc<PeerTokens>>,
    /// Counts the bytes of answers as they arrive.
    arrived: ArrivedBytes,
    /// Counts all bytes that arrive on the connection.
    of_connection: ArrivedBytes,
}

/// A peer's answer about the heads of its strands.
#[derive(Debug)]
pub(super) struct PeerHeads {
    /// The heads that it holds; `None` if the peer lacks the method.
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
    /// one of `SSL_CERT_FILE`. Dials `addresses`, also when it connects again, and looks no name up; the peer sees the
    /// authority of `url`. Without TLS, `tokens` are used only if all `addresses` are private.
    ///
    /// # Errors
    /// When the URL is malformed, no server answers there, or the server floods the connection.
    pub(super) async fn connect(
        url: &str,
        addresses: &[SocketAddr],
        tokens: Option<PeerTokens>,
    ) -> Result<Self, PeerCallError> {
        let (origin, flood) = (uri(url)?, FrameFlood::default());
        let roots = if is_tls(url) { Some(trusted().await) } else { None };
        let of_connection = ArrivedBytes::default();
        let (noted, counted) = (flood.clone(), of_connection.clone());
        let connector = PeerConnector::new(origin.clone(), addresses, roots, noted, counted);
        let connector = connector.map_err(|error| failed(&error))?;
        let channel = within(CONNECT_MAX, connect_with(connector, origin)).await;
        let channel = channel.map_err(|error| named(&flood, error))?;
        let (long, arrived) = (LongMessages::new(), ArrivedBytes::default());
        let tokens = tokens.filter(|_| may_get_token(url, addresses)).map(Arc::new);
        Ok(Self { channel, flood, long, tokens, arrived, of_connection })
    }

    /// Returns the same connection with the bytes of its answers counted here as they arrive.
    pub(super) fn counted_in(&self, arrived: ArrivedBytes) -> Self {
        Self { arrived, ..self.clone() }
    }

    /// Asks for the heads that the peer holds, on a new connection. No other answer is on its way there, so late bytes
    /// do not prolong the wait: a server that sends any bytes would otherwise keep the attempt open, even after the
    /// peer got another URL.
    ///
    /// A peer that answers with the HTTP status 404 lacks the method, as for [`checkpoint`](Self::checkpoint).
    pub(super) async fn first_heads(&self) -> Result<PeerHeads, PeerCallError> {
        let asked_at = Instant::now();
        match within(CALL_MAX, self.heads()).await {
            Err(PeerCallError::NotFound) => {
                let round_trip = asked_at.elapsed();
                Ok(PeerHeads { heads: None, quic_address: None, round_trip })
            }
            answer => answer,
        }
    }

    /// Asks for the heads that the peer holds. A peer without this method claims nothing, and may hold anything. While
    /// other bytes arrive on the connection, the answer may be late: over a slow link it comes behind a long envelope.
    pub(super) async fn heads(&self) -> Result<PeerHeads, PeerCallError> {
        let asked_at = Instant::now();
        let request = metadata_api::GetSyncCursorRequest {};
        // What has arrived before tells nothing about this answer.
        let _ = self.of_connection.take_enough();
        let asked = self.asked(GET_SYNC_CURSOR, request, CLOCK_BYTES_MAX, None);
        let asked = within_arrivals(CALL_MAX, &self.of_connection, asked);
        let answer = within(LATE_CLOCK_MAX, asked).await;
        let answer = answer.map_err(|error| named(&self.flood, error).into_failure());
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
                | PeerCallError::Unauthenticated(_)
                | PeerCallError::Answered(_)
                | PeerCallError::Busy(_)
                | PeerCallError::TooManyLong,
            ) => Ok(None),
            // A server of the reference implementation answers so to a service that it does not have. If a proxy
            // answers so while the peer restarts, a request for its heads shows this, and ends the session.
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

    /// Asks for a page as [`query`](Self::query) does, and for shorter ones after errors and pages above the limit of a
    /// message. Sets `limit` to the limit of the last page. Returns `None` if the peer refuses the shortest one, too.
    ///
    /// # Errors
    /// When the peer breaks a rule of the protocol.
    pub(super) async fn page_that_fits(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        limit: &mut u32,
    ) -> Result<Option<(Vec<Bytes>, Answer)>, PeerError> {
        loop {
            let asked = self.query(originator, after, *limit).await;
            if matches!(&asked, Err(PeerCallError::Busy(_))) {
                sleep(BUSY_PAUSE).await;
            }
            match asked {
                Ok(page) => return Ok(Some(page)),
                // A peer need not cut its pages at the limit of a message.
                Err(PeerCallError::Peer(PeerError::Oversized)) if *limit > 1 => {
                    tracing::debug!(
                        limit = *limit,
                        "a page is too long, and is asked for again, shorter"
                    );
                    *limit = limit.div_ceil(10);
                }
                Err(PeerCallError::Peer(error)) => return Err(error),
                Err(
                    PeerCallError::Failed(error)
                    | PeerCallError::Answered(error)
                    | PeerCallError::Busy(error),
                ) if *limit > 1 => {
                    tracing::debug!(error, limit = *limit, "a page is asked for again, shorter");
                    *limit = limit.div_ceil(10);
                }
                Err(_) => return Ok(None),
            }
        }
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
    async fn unary<Q: Message + Clone + 'static>(
        &self,
        path: &'static str,
        request: Q,
        bytes_max: usize,
        flag: Option<&'static str>,
    ) -> Result<(Bytes, Answer), PeerCallError> {
        let answer = within(CALL_MAX, self.asked(path, request, bytes_max, flag)).await;
        answer.map_err(|error| named(&self.flood, error).into_failure())
    }

    /// Makes such a call without a limit on its time.
    ///
    /// A peer that refuses the token of this node is called once more without one, as [`PeerTokens`] remembers it.
    async fn asked<Q: Message + Clone + 'static>(
        &self,
        path: &'static str,
        request: Q,
        bytes_max: usize,
        flag: Option<&'static str>,
    ) -> Result<(Bytes, Answer), PeerCallError> {
        let now = Instant::now();
        let token = self.tokens.as_ref().and_then(|it| it.token_at(now, unix_s()));
        let shown = self.tokens.as_ref().filter(|_| token.is_some());
        let first = self.only(path, request.clone(), bytes_max, flag, token).await;
        match (first, shown) {
            (Err(PeerCallError::Unauthenticated(why)), Some(tokens))
                if tokens.may_be_left_out(now) =>
            {
                let without = self.only(path, request, bytes_max, flag, None).await;
                match tokens.note_refused(now, &why, without.as_ref().err()) {
                    true => without,
                    false => Err(PeerCallError::Unauthenticated(why)),
                }
            }
            (Ok(answer), Some(tokens)) => {
                tokens.note_accepted(now);
                Ok(answer)
            }
            (answer, _) => answer,
        }
    }

    /// Makes one call, and reads its one message.
    async fn only<Q: Message + 'static>(
        &self,
        path: &'static str,
        request: Q,
        bytes_max: usize,
        flag: Option<&'static str>,
        token: Option<String>,
    ) -> Result<(Bytes, Answer), PeerCallError> {
        let mut answer = self.call(path, request, bytes_max, flag, token).await?;
        let message = answer.only().await?;
        Ok((message, answer))
    }

    async fn stream<Q: Message + 'static>(
        &self,
        path: &'static str,
        request: Q,
        method: StreamMethod,
    ) -> Result<EnvelopeStream, PeerCallError> {
        let token = self.tokens.as_ref().and_then(|it| it.token_of_stream(unix_s()));
        let call = self.call(path, request, MESSAGE_BYTES_MAX, None, token);
        let answer = within(HEAD_MAX, call).await;
        let answer =
            answer.map_err(|error| named(&self.flood, error).into_failure())?.into_stream();
        Ok(EnvelopeStream { answer, flood: self.flood.clone(), method })
    }

    /// Returns the text with which the peer has refused this node's token, while this node calls it without a token.
    pub(super) fn refused_token(&self) -> Option<String> {
        self.tokens.as_ref()?.refused()
    }

    /// Makes a call, with the header `flag` set. Returns its answer as soon as the headers have arrived.
    async fn call<Q: Message + 'static>(
        &self,
        path: &'static str,
        message: Q,
        bytes_max: usize,
        flag: Option<&'static str>,
        token: Option<String>,
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
        if let Some(token) = token {
            headers.insert(NODE_TOKEN_HEADER, token.parse().expect("a token is ASCII"));
        }
        if let Some(flag) = flag {
            headers.insert(flag, HeaderValue::from_static("1"));
        }
        let mut channel = self.channel.clone();
        poll_fn(|context| channel.poll_ready(context)).await?;
        let response = channel.call(request).await;
        let response = response.map_err(|error| Status::from_error(error.into()))?;
        let answer = Answer::new(response, bytes_max, self.long.clone())?;
        Ok(answer.counted_in(self.arrived.clone()))
    }
}

/// Connects, and shows the peer the authority of `origin`.
async fn connect_with(connector: PeerConnector, origin: Uri) -> Result<Channel, PeerCallError> {
    // The connector dials the address and speaks TLS itself, because the library's own TLS would bypass the frame
    // meter.
    let endpoint = Endpoint::from_static("http://peer")
        .origin(origin)
        .connect_timeout(CONNECT_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX);
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// Returns the error of a call, by its cause if that is a flood: the library tells that the connection is lost.
fn named(flood: &FrameFlood, error: PeerCallError) -> PeerCallError {
    if flood.last().is_some() { PeerError::EmptyFrames.into() } else { error }
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
        let message = self.answer.next().await;
        let message = message.map_err(|error| named(&self.flood, error).into_failure())?;
        let Some(message) = message else { return Ok(None) };
        let envelopes = match self.method {
            StreamMethod::Originators => read_frame(message)?,
            StreamMethod::Envelopes => read_list(message)?,
        };
        Ok(Some(envelopes))
    }
}

/// Returns the wall clock, unix seconds.
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
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
mod tests;
