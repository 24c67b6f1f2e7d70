//! The attacks, each bounded in number and time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::envelope::Payload;
use hawser_proto::pb::xmtp::identity::associations as identity;
use hawser_proto::pb::xmtp::xmtpv4::{envelopes as pb, message_api as api};
use hawser_proto::{OriginatorId, TopicKind};
use hawser_tests::harness::client::{PUBLISH_API, QUERY_API};
use hawser_tests::harness::{envelopes, raw, seed};
use prost::Message as _;
use prost::encoding::encode_varint;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::{LARGE_ENVELOPES, LARGE_GROUP, LARGE_LEN};

/// Time for which connections that hold something are kept open: the node answers, and computes,
/// meanwhile.
const HOLD: Duration = Duration::from_secs(8);
/// Time for one write or answer; a node that has had enough may close, or not read on.
const EXCHANGE: Duration = Duration::from_secs(20);
const RESOURCE_EXHAUSTED: i32 = 8;
const INVALID_ARGUMENT: i32 = 3;
const MIB: usize = 1024 * 1024;

/// A hostile caller at a separate address.
#[derive(Clone)]
pub(crate) struct Attacker {
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) metrics_port: u16,
    pub(crate) node: OriginatorId,
}

impl Attacker {
    async fn connect(&self) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((self.address, 0).into()).unwrap();
        socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await.ok()
    }

    /// Sends bytes and returns the connection, which is not read.
    async fn send(&self, bytes: &[u8]) -> Option<TcpStream> {
        let mut stream = self.connect().await?;
        // A node may close in the middle of what it refuses, or stop reading.
        let _ = timeout(EXCHANGE, stream.write_all(bytes)).await;
        Some(stream)
    }

    /// Sends calls that fit into the node's windows, on a connection of their own, and returns it. It is not read.
    async fn send_in_window(&self, calls: &[u8]) -> Option<TcpStream> {
        let mut stream = self.send(&raw::http2_preface_without_windows()).await?;
        // The node's settings come with the connection's window. What is sent before is more than that has room for.
        let _ = timeout(EXCHANGE, stream.read(&mut [0; 1024])).await;
        let _ = timeout(EXCHANGE, stream.write_all(calls)).await;
        Some(stream)
    }

    /// Makes a gRPC-Web call and returns the answer: it has no flow control to obey.
    async fn call(&self, path: &str, message: &[u8]) -> Vec<u8> {
        let call = raw::grpc_web_call(path, &raw::grpc_message(message));
        let Some(mut stream) = self.send(&call).await else { return Vec::new() };
        let mut answer = Vec::new();
        let _ = timeout(EXCHANGE, stream.read_to_end(&mut answer)).await;
        answer
    }

    /// Asserts that calls of a method have begun. An attack that the node takes for something else would show nothing.
    async fn assert_begun(&self, path: &str) {
        let (_, page) = raw::get(self.metrics_port, "/metrics").await.unwrap();
        let (_, method) = path.rsplit_once('/').unwrap();
        let label = format!("grpc_method=\"{method}\"");
        let mut begun = page.lines().filter(|line| line.starts_with("grpc_server_started_total{"));
        let is_begun = begun.any(|line| line.contains(&label) && !line.ends_with(" 0"));
        assert!(is_begun, "no call of {method} has arrived");
    }

    /// Makes a call that has to be refused: as too much, or with `status`. Returns true if the refusal could be read.
    async fn refused(&self, path: &str, message: &[u8], status: i32) -> bool {
        let answer = self.call(path, message).await;
        let refused = raw::grpc_status(&answer);
        let text = String::from_utf8_lossy(&answer[..answer.len().min(2000)]).into_owned();
        // Under pressure the connection may be closed before the status is read.
        let is_expected = |refused| refused == RESOURCE_EXHAUSTED || refused == status;
        assert!(refused.is_none_or(is_expected), "{path}: {text}");
        assert!(answer.len() < 16 * 1024, "{path}: a refusal of {} bytes", answer.len());
        refused.is_some()
    }

    async fn publish_refused(&self, request: &api::PublishPayerEnvelopesRequest) -> bool {
        let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
        self.refused(&path, &request.encode_to_vec(), INVALID_ARGUMENT).await
    }

    /// Returns the number of refusals that could be read, as all attacks of calls that are refused.
    pub(crate) async fn newest_many_times(&self) -> usize {
        let topic = envelopes::group_topic(LARGE_GROUP).as_bytes().clone();
        let request = api::GetNewestEnvelopeRequest { topics: vec![topic; 2000] }.encode_to_vec();
        let mut told = 0;
        for _ in 0..5 {
            let path = format!("{QUERY_API}/GetNewestEnvelope");
            told += usize::from(self.refused(&path, &request, RESOURCE_EXHAUSTED).await);
        }
        told
    }

    pub(crate) async fn empty_envelopes(&self) -> usize {
        let request = [0x0a, 0].repeat(1_000_000);
        let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
        let mut told = 0;
        for _ in 0..5 {
            told += usize::from(self.refused(&path, &request, INVALID_ARGUMENT).await);
        }
        // Just as many as the handler takes.
        let request = [0x0a, 0].repeat(10_000);
        told + usize::from(self.refused(&path, &request, INVALID_ARGUMENT).await)
    }

    /// Opens `connections` with `calls` each of the same request, and reads nothing.
    async fn unread(&self, connections: usize, calls: u32, path: &str, request: &[u8]) {
        let message = raw::grpc_message(request);
        let mut bytes = raw::http2_preface_without_windows();
        for call in 0..calls {
            bytes.extend(raw::http2_request(path, &message, 2 * call + 1));
        }
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(self.send(&bytes).await);
        }
        sleep(HOLD).await;
        self.assert_begun(path).await;
    }

    pub(crate) async fn unread_queries(&self) {
        let path = format!("{QUERY_API}/QueryEnvelopes");
        self.unread(4, 90, &path, &large_query()).await;
    }

    /// Asks for answers that may be compressed, on connections that give no room for a byte of them.
    pub(crate) async fn unread_answers_for_gzip(&self) {
        let message = raw::grpc_message(&large_query());
        let path = format!("{QUERY_API}/QueryEnvelopes");
        let mut bytes = raw::http2_preface_with_empty_windows();
        for call in 0..90 {
            bytes.extend(raw::http2_request_for_gzip(&path, &message, 2 * call + 1));
        }
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(self.send(&bytes).await);
        }
        sleep(HOLD).await;
        self.assert_begun(&path).await;
    }

    pub(crate) async fn unread_streams(&self) {
        let path = format!("{QUERY_API}/SubscribeTopics");
        self.unread(4, 100, &path, &large_subscription()).await;
    }

    /// Opens streams one after the other, reads what is stored for each, and keeps it open.
    pub(crate) async fn read_streams(&self, streams: usize) {
        let path = format!("{QUERY_API}/SubscribeTopics");
        let call = raw::grpc_web_call(&path, &raw::grpc_message(&large_subscription()));
        let mut buffer = vec![0; MIB];
        let mut open = Vec::new();
        for _ in 0..streams {
            let mut stream = self.send(&call).await.unwrap();
            let mut rest = LARGE_ENVELOPES * LARGE_LEN;
            while rest > 0 {
                let read = timeout(EXCHANGE, stream.read(&mut buffer)).await.unwrap().unwrap();
                assert!(read > 0, "the stream goes on");
                rest = rest.saturating_sub(read);
            }
            open.push(stream);
        }
        sleep(HOLD).await;
    }

    pub(crate) async fn unfinished_requests(&self) {
        let message = raw::grpc_message(&vec![0x7f; 24 * MIB]);
        let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
        let call = raw::grpc_web_call(&path, &message);
        let mut open = Vec::new();
        for _ in 0..60 {
            let mut stream = self.connect().await;
            if let Some(stream) = &mut stream {
                // As much as the node takes at once.
                let _ =
                    timeout(Duration::from_millis(250), stream.write_all(&call[..call.len() - 1]))
                        .await;
            }
            open.push(stream);
        }
        sleep(HOLD).await;
    }

    /// Opens connections that each send as much of requests as flow control lets them, and end none.
    pub(crate) async fn filled_windows(&self, connections: usize) {
        // Each call has what any client may send at once, and all together a connection's window.
        let message = &raw::grpc_message(&vec![0x7f; 20 * MIB])[..60_000];
        let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
        let calls =
            (0..30).map(|call| raw::http2_request_without_end(&path, message, 2 * call + 1));
        let bytes: Arc<[u8]> = calls.flatten().collect();
        let mut floods = JoinSet::new();
        for _ in 0..connections {
            let (attacker, bytes) = (self.clone(), bytes.clone());
            floods.spawn(async move {
                let mut stream = attacker.send(&raw::http2_preface_without_windows()).await?;
                // The node's settings come with the connection's window.
                let _ = timeout(EXCHANGE, stream.read(&mut [0; 1024])).await;
                let _ = timeout(EXCHANGE, stream.write_all(&bytes)).await;
                sleep(HOLD).await;
                Some(stream)
            });
        }
        floods.join_all().await;
    }

    /// Opens connections that each ask for a thousand answers without a body, and read none.
    pub(crate) async fn unread_heads(&self, connections: usize) {
        let mut bytes = raw::http2_preface_without_table();
        bytes.extend((0..1000).flat_map(|call| raw::http2_preflight(2 * call + 1)));
        let mut open = Vec::new();
        for _ in 0..connections {
            let socket = TcpSocket::new_v4().unwrap();
            // As little as possible waits in the sockets.
            socket.set_recv_buffer_size(4096).unwrap();
            socket.bind((self.address, 0).into()).unwrap();
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
            let Ok(mut stream) = socket.connect(to).await else { continue };
            let _ = timeout(EXCHANGE, stream.write_all(&bytes)).await;
            open.push(stream);
        }
        sleep(HOLD).await;
    }

    /// Opens connections that each have a hundred heads of 14 KB, whose answers are read, and then stay open. A value
    /// of a byte in each head is to stay in the library's table of fields, with the buffer around it.
    pub(crate) async fn kept_fields(&self, connections: usize) {
        // `POST http:/`, then `:authority: a` for the table, and a long field that stays out of it.
        let mut head = b"\x83\x86\x84\x41\x01a\x00\x01f\x7f\xa8\x6c".to_vec();
        head.resize(head.len() + 13_991, b'x');
        let mut bytes = raw::http2_preface_without_windows();
        bytes.extend((0..100).flat_map(|call| raw::http2_frame(1, 5, 2 * call + 1, &head)));
        let bytes: Arc<[u8]> = bytes.into();
        let mut floods = JoinSet::new();
        for _ in 0..connections {
            let (attacker, bytes) = (self.clone(), bytes.clone());
            floods.spawn(async move {
                let Some(stream) = attacker.connect().await else { return };
                let (mut reading, mut writing) = stream.into_split();
                let mut nowhere = tokio::io::sink();
                let reads = timeout(HOLD, tokio::io::copy(&mut reading, &mut nowhere));
                let _ = tokio::join!(reads, timeout(EXCHANGE, writing.write_all(&bytes)));
            });
        }
        floods.join_all().await;
    }

    /// Sends requests whose lists are longer than the messages around them, which a decoder notices last: reports of
    /// ten million envelopes, and queries from a cursor of a million entries.
    pub(crate) async fn false_lengths(&self) -> usize {
        let report = beyond(5, &[0x0a, 0].repeat(10_000_000));
        let entries = (0..1_000_000).map(|originator| (originator, 1)).collect();
        let cursor = pb::Cursor { node_id_to_sequence_id: entries };
        let query = beyond(3, &cursor.encode_to_vec());
        let mut told = 0;
        for _ in 0..3 {
            let path = format!("{QUERY_API}/QueryEnvelopes");
            told += usize::from(self.refused(&path, &query, INVALID_ARGUMENT).await);
            let path = "/xmtp.xmtpv4.message_api.MisbehaviorApi/SubmitMisbehaviorReport";
            told += usize::from(self.refused(path, &report, INVALID_ARGUMENT).await);
        }
        told
    }

    pub(crate) async fn growing_publishes(&self) -> usize {
        let mut rng = seed::rng(seed::seed(), 3);
        let fine = envelopes::group_message([3; 16], 100, &mut rng);
        let signed = envelopes::sign(&fine, self.node, &envelopes::payer(3));
        let request = |envelope: pb::PayerEnvelope, count| api::PublishPayerEnvelopesRequest {
            payer_envelopes: vec![envelope; count],
        };
        // A signature as long as a request may be.
        let mut long = signed.clone();
        long.payer_signature.as_mut().unwrap().bytes = vec![1; 20 * MIB].into();
        let mut told = usize::from(self.publish_refused(&request(long, 1)).await);
        // Every envelope is wrong, and each has its line.
        let mut wrong = signed.clone();
        wrong.target_originator += 1;
        told += usize::from(self.publish_refused(&request(wrong, 9_000)).await);
        // More dependencies than there are originators.
        let entries = (0..400_000).map(|originator| (originator, 1)).collect();
        let cursor = pb::Cursor { node_id_to_sequence_id: entries };
        let topic = envelopes::group_topic([3; 16]);
        let client = envelopes::client(topic.as_bytes(), Some(cursor), None);
        let many = envelopes::sign(&client, self.node, &envelopes::payer(3));
        for _ in 0..5 {
            told += usize::from(self.publish_refused(&request(many.clone(), 1)).await);
        }
        // Updates of many small parts, which a node refuses by their kind.
        let update = identity::IdentityUpdate {
            actions: vec![identity::IdentityAction::default(); 8_000],
            ..Default::default()
        };
        let topic = hawser_proto::Topic::new(TopicKind::IdentityUpdates, &[3; 32]).unwrap();
        let payload = Some(Payload::IdentityUpdate(update));
        let client = envelopes::client(topic.as_bytes(), None, payload);
        let updates = envelopes::sign(&client, self.node, &envelopes::payer(3));
        told + usize::from(self.publish_refused(&request(updates, 1_000)).await)
    }

    /// Returns a request of as many new envelopes as it may have, different for each number.
    pub(crate) fn largest_publish(&self, number: u64) -> Vec<u8> {
        let mut rng = seed::rng(seed::seed(), number);
        let payer = envelopes::payer(4);
        let mut sign = |_| {
            let message = envelopes::group_message([4; 16], 100, &mut rng);
            envelopes::sign(&message, self.node, &payer)
        };
        let payer_envelopes = (0..10_000).map(&mut sign).collect();
        api::PublishPayerEnvelopesRequest { payer_envelopes }.encode_to_vec()
    }

    /// Sends publishes, all at once.
    pub(crate) async fn publishes(&self, requests: Vec<Vec<u8>>) {
        let mut callers = JoinSet::new();
        for request in requests {
            let attacker = self.clone();
            callers.spawn(async move {
                let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
                let status = raw::grpc_status(&attacker.call(&path, &request).await);
                let is_expected = |it| [0, RESOURCE_EXHAUSTED].contains(&it);
                assert!(status.is_none_or(is_expected), "{status:?}");
            });
        }
        callers.join_all().await;
    }

    /// Publishes as many envelopes as a request may have. Returns the request.
    pub(crate) async fn published(&self) -> Vec<u8> {
        let request = self.largest_publish(4);
        let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
        let answer = self.call(&path, &request).await;
        assert_eq!(raw::grpc_status(&answer), Some(0), "they are new");
        request
    }

    /// Repeats a publish that is stored, four at a time.
    pub(crate) async fn repeats(&self, request: Vec<u8>) {
        let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
        let since = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let (attacker, path, request) = (self.clone(), path.clone(), request.clone());
            callers.spawn(async move {
                while since.elapsed() < HOLD {
                    let answer = attacker.call(&path, &request).await;
                    let status = raw::grpc_status(&answer);
                    assert!(
                        status.is_none_or(|it| [0, RESOURCE_EXHAUSTED].contains(&it)),
                        "{status:?}"
                    );
                }
            });
        }
        callers.join_all().await;
    }

    /// Opens connections that each have a stream with one long ping, and use them no more.
    pub(crate) async fn long_pings(&self, connections: usize) {
        use api::subscribe_request::v1::Request;
        use api::subscribe_request::{V1, Version};
        let ping = Request::Ping(api::Ping { nonce: 1 });
        let version = Some(Version::V1(V1 { request: Some(ping) }));
        let mut message = api::SubscribeRequest { version }.encode_to_vec();
        // Field 15 by length, which is not known. The whole fits into the window of a call, so that flow control has
        // no say.
        let padding = vec![0_u8; 950 * 1024];
        message.push(0x7a);
        prost::encode_length_delimiter(padding.len(), &mut message).unwrap();
        message.extend(padding);
        let path = format!("{QUERY_API}/Subscribe");
        let call = raw::http2_request_without_end(&path, &raw::grpc_message(&message), 1);
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(self.send_in_window(&call).await);
        }
        sleep(HOLD).await;
        self.assert_begun(&path).await;
    }

    /// Opens connections that each have a stream of requests whose answers wait, fill it with frames of one byte, give
    /// the stream up, and stay open: some at once, because a stream that is not read is charged for its window.
    pub(crate) async fn unread_frames(&self, connections: usize) {
        use api::subscribe_request::v1::Request;
        use api::subscribe_request::{V1, Version};
        const AT_ONCE: usize = 50;
        let ping = Request::Ping(api::Ping { nonce: 1 });
        let version = Some(Version::V1(V1 { request: Some(ping) }));
        let ping = raw::grpc_message(&api::SubscribeRequest { version }.encode_to_vec());
        let path = format!("{QUERY_API}/Subscribe");
        // The node takes some of these pings, reads 64 KiB ahead, and then no more.
        let pings = ping.repeat(160 * 1024 / ping.len());
        let call: Arc<[u8]> = raw::http2_request_without_end(&path, &pings, 1).into();
        // With a few more of them, the library would end the connection.
        let frames: Arc<[u8]> = raw::http2_frame(0, 0, 1, &[0]).repeat(4050).into();
        let mut open = Vec::new();
        for _ in 0..connections / AT_ONCE {
            let mut floods = JoinSet::new();
            for _ in 0..AT_ONCE {
                let (attacker, call, frames) = (self.clone(), call.clone(), frames.clone());
                floods.spawn(async move { attacker.unread_stream(&call, &frames).await });
            }
            open.extend(floods.join_all().await);
        }
        sleep(HOLD).await;
        self.assert_begun(&path).await;
    }

    /// Begins a call, sends more frames once the node reads no further ones, and gives the call up.
    async fn unread_stream(&self, call: &[u8], frames: &[u8]) -> Option<TcpStream> {
        let mut stream = self.send(&raw::http2_preface_with_empty_windows()).await?;
        // The node's settings come with the connection's window.
        let _ = timeout(EXCHANGE, stream.read(&mut [0; 1024])).await;
        for bytes in [call, frames, &raw::http2_frame(3, 0, 1, &[0, 0, 0, 8])] {
            let _ = timeout(EXCHANGE, stream.write_all(bytes)).await;
            sleep(Duration::from_millis(500)).await;
        }
        Some(stream)
    }

    pub(crate) async fn registrations(&self) {
        let filter = |number: u32| {
            let mut topic = vec![0; 33];
            topic[1..5].copy_from_slice(&number.to_be_bytes());
            let entries = (0..20).map(|originator| (originator, u64::from(number))).collect();
            let last_seen = Some(pb::Cursor { node_id_to_sequence_id: entries });
            api::subscribe_topics_request::TopicFilter { topic: topic.into(), last_seen }
        };
        let path = format!("{QUERY_API}/SubscribeTopics");
        let filters = (0..4_000).map(filter).collect();
        let request = api::SubscribeTopicsRequest { filters }.encode_to_vec();
        // It fits into the window of a call, so that flow control has no say.
        let call = raw::http2_request(&path, &raw::grpc_message(&request), 1);
        let mut open = Vec::new();
        for _ in 0..60 {
            open.push(self.send_in_window(&call).await);
        }
        sleep(HOLD).await;
        self.assert_begun(&path).await;
    }
}

/// Returns a request whose field 1 is a message that ends within its field `number`, a message with this content. What
/// follows that end is no tag, for a reader that goes on there.
fn beyond(number: u8, content: &[u8]) -> Vec<u8> {
    let mut begun = vec![number << 3 | 2];
    encode_varint(content.len() as u64 + 3, &mut begun);
    begun.extend([0x7a, 1]);
    let around = u8::try_from(begun.len()).unwrap();
    [&[0x0a, around][..], &begun, &[7], content].concat()
}

/// Returns a request for a stream of the large envelopes, from the first one on.
fn large_subscription() -> Vec<u8> {
    let filter = api::subscribe_topics_request::TopicFilter {
        topic: envelopes::group_topic(LARGE_GROUP).as_bytes().clone(),
        last_seen: Some(pb::Cursor::default()),
    };
    api::SubscribeTopicsRequest { filters: vec![filter] }.encode_to_vec()
}

/// Returns a query for all large envelopes.
fn large_query() -> Vec<u8> {
    let topics = vec![envelopes::group_topic(LARGE_GROUP).as_bytes().clone()];
    let query = api::EnvelopesQuery { topics, ..Default::default() };
    api::QueryEnvelopesRequest { query: Some(query), limit: 0 }.encode_to_vec()
}
