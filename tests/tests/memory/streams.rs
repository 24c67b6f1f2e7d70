//! Ten thousand streams of a hundred topics each, of clients that obey the protocol.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use hawser_proto::pb::xmtp::xmtpv4::{envelopes as pb, message_api as api};
use hawser_tests::harness::client::QUERY_API;
use hawser_tests::harness::network::Node;
use hawser_tests::harness::wait;
use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::client::Grpc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// The streams of all connections.
pub(crate) const STREAMS: u32 = CONNECTIONS * STREAMS_PER_CONNECTION;
const CONNECTIONS: u32 = 100;
const STREAMS_PER_CONNECTION: u32 = 100;
const TOPICS: u32 = 100;
/// Pause of a client that is refused without a stated pause, or whose connection has ended.
const PAUSE: Duration = Duration::from_secs(1);

/// The call that opens a stream of topics.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TopicsCall {
    /// All topics are in the request.
    SubscribeTopics,
    /// Topics are added by a request on the open stream, whose client answers pings.
    Subscribe,
}

/// Streams that are kept open: a client opens its stream again after any end.
pub(crate) struct Streams {
    counts: Arc<Counts>,
    _clients: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Streams that have all that is stored, now.
    live: AtomicU32,
    refused: AtomicU32,
    /// Streams that ended after they were live, or with their connection.
    ended: AtomicU32,
}

impl Streams {
    /// Opens all of them at once, on connections of this number of addresses.
    pub(crate) async fn reconnect(node: &Node, call: TopicsCall, addresses: u32) -> Self {
        let counts = Arc::new(Counts::default());
        let begin = Arc::new(Barrier::new(STREAMS as usize));
        let mut clients = JoinSet::new();
        for connection in 0..CONNECTIONS {
            let address = Ipv4Addr::new(127, 0, 2, u8::try_from(connection % addresses).unwrap());
            let endpoint =
                Endpoint::from_shared(format!("http://127.0.0.1:{}", node.port)).unwrap();
            let channel = endpoint.local_address(Some(address.into())).connect().await.unwrap();
            for stream in 0..STREAMS_PER_CONNECTION {
                let number = connection * STREAMS_PER_CONNECTION + stream;
                let (channel, counts, begin) = (channel.clone(), counts.clone(), begin.clone());
                clients.spawn(async move {
                    begin.wait().await;
                    loop {
                        let ended = keep_open(channel.clone(), call, number, &counts).await;
                        sleep(pause_after(&ended, &counts)).await;
                    }
                });
            }
        }
        Self { counts, _clients: clients }
    }

    /// Returns the number of times that clients came back after a refusal that named a pause, and that of those whose
    /// stream had ended.
    pub(crate) fn came_back(&self) -> (u32, u32) {
        let Counts { refused, ended, .. } = &*self.counts;
        (refused.load(Ordering::Relaxed), ended.load(Ordering::Relaxed))
    }

    /// Waits until all of them are live at the same time.
    pub(crate) async fn live(&self) {
        wait::until_equal("all streams are live", &STREAMS, async || {
            Some(self.counts.live.load(Ordering::Relaxed))
        })
        .await;
    }
}

impl fmt::Display for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { refused, ended, .. } = &*self.counts;
        let [refused, ended] = [refused, ended].map(|count| count.load(Ordering::Relaxed));
        write!(f, "{refused} were refused and {ended} ended on the way, and came back")
    }
}

/// Returns the time after which a client comes back.
fn pause_after(status: &Status, counts: &Counts) -> Duration {
    match status.code() {
        Code::ResourceExhausted => counts.refused.fetch_add(1, Ordering::Relaxed),
        // The connection has ended, which is what these clients know of it.
        Code::Unknown | Code::Unavailable | Code::Cancelled | Code::Internal => {
            counts.ended.fetch_add(1, Ordering::Relaxed)
        }
        _ => panic!("{status}"),
    };
    let seconds =
        status.metadata().get("retry-after").and_then(|it| it.to_str().ok()?.parse().ok());
    seconds.map_or(PAUSE, Duration::from_secs)
}

/// Opens a stream, counts it as live while it is, and returns the status that ended it.
async fn keep_open(channel: Channel, call: TopicsCall, number: u32, counts: &Counts) -> Status {
    match call {
        TopicsCall::SubscribeTopics => {
            let mut stream = match catch_up(channel, number).await {
                Ok(stream) => stream,
                Err(status) => return status,
            };
            counts.live.fetch_add(1, Ordering::Relaxed);
            let ended = loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break Status::unavailable("the stream ended"),
                    Err(status) => break status,
                }
            };
            counts.live.fetch_sub(1, Ordering::Relaxed);
            ended
        }
        TopicsCall::Subscribe => {
            let mut is_live = false;
            let ended = change_once(channel, number, || {
                is_live = true;
                counts.live.fetch_add(1, Ordering::Relaxed);
            })
            .await;
            if is_live {
                counts.live.fetch_sub(1, Ordering::Relaxed);
            }
            ended
        }
    }
}

/// Opens a stream with requests, adds its topics at once, and answers its pings until it ends. Calls `live` when the
/// topics have caught up.
async fn change_once(channel: Channel, number: u32, mut live: impl FnMut()) -> Status {
    use api::subscribe_request::v1::mutate::Subscription;
    use api::subscribe_request::v1::{Mutate, Request};
    use api::subscribe_request::{V1, Version};
    use api::subscribe_response::Version as Answered;
    use api::subscribe_response::v1::Response;

    let request = |request| {
        let version = Some(Version::V1(V1 { request: Some(request) }));
        api::SubscribeRequest { version }
    };
    let add = |index: u32| {
        let (topic, last_seen) = place(number, index);
        Subscription { topic, last_seen }
    };
    let adds = (0..TOPICS).map(add).collect();
    let mutate = Mutate { adds, mutate_id: 1, ..Mutate::default() };
    // Room for the topics and a few answers to pings, which come one at a time.
    let (requests, sent) = mpsc::channel(4);
    requests.send(request(Request::Mutate(mutate))).await.unwrap();
    let opened = QueryApiClient::new(channel).subscribe(ReceiverStream::new(sent)).await;
    let mut stream = match opened {
        Ok(stream) => stream.into_inner(),
        Err(status) => return status,
    };
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Status::unavailable("the stream ended"),
            Err(status) => return status,
        };
        let Some(Answered::V1(v1)) = message.version else { continue };
        match v1.response {
            Some(Response::CatchupComplete(_)) => live(),
            Some(Response::Ping(ping)) => {
                let pong = api::Pong { nonce: ping.nonce };
                if requests.send(request(Request::Pong(pong))).await.is_err() {
                    return Status::unavailable("the stream ended");
                }
            }
            _ => {}
        }
    }
}

/// Returns a topic of a stream, and a cursor of its own: another place of the node's strand, which it has.
fn place(number: u32, index: u32) -> (Bytes, Option<pb::Cursor>) {
    let mut topic = vec![0; 17];
    topic[1..9].copy_from_slice(&(u64::from(number) << 32 | u64::from(index)).to_be_bytes());
    let entries = [(100, u64::from(index))].into();
    (topic.into(), Some(pb::Cursor { node_id_to_sequence_id: entries }))
}

/// Opens a stream and waits until it has all that is stored.
async fn catch_up(
    channel: Channel,
    number: u32,
) -> Result<Streaming<api::SubscribeTopicsResponse>, Status> {
    use api::subscribe_topics_response::{Response, SubscriptionStatus};
    let filter = |index: u32| {
        let (topic, last_seen) = place(number, index);
        api::subscribe_topics_request::TopicFilter { topic, last_seen }
    };
    let request = api::SubscribeTopicsRequest { filters: (0..TOPICS).map(filter).collect() };
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<_, api::SubscribeTopicsResponse>::default();
    let path = format!("{QUERY_API}/SubscribeTopics").parse().unwrap();
    let mut stream = grpc.server_streaming(Request::new(request), path, codec).await?.into_inner();
    loop {
        let ended = || Status::unavailable("the stream ended");
        let message = stream.message().await?.ok_or_else(ended)?;
        if let Some(Response::StatusUpdate(update)) = message.response
            && update.status() == SubscriptionStatus::CatchupComplete
        {
            return Ok(stream);
        }
    }
}
