//! Changes of streams whose address holds much memory. Some are under way at a time, and the others wait for them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hawser_api::{ApiSettings, NoPeers};
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use pb::subscribe_request::v1::mutate::Subscription as Add;
use pb::subscribe_request::v1::{Mutate, Request as Ask};
use pb::subscribe_request::{V1, Version};
use pb::subscribe_response::v1::Response as Frame;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::common::*;

const LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// Changes of forty topics take some 13 KB each, and a thirty-second of the limit at a time: forty of them.
const CHANGES: u32 = 60;
const TOPICS: u32 = 40;
/// Time after which the test fails. Generous, for busy machines. A change waits for half a minute for others of its
/// address that never end, so twenty of them wait for ten minutes.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// One stream of an open connection.
struct ChangingStream {
    requests: mpsc::Sender<pb::SubscribeRequest>,
    frames: Streaming<pb::SubscribeResponse>,
}

impl ChangingStream {
    async fn open(mut client: QueryApiClient<Channel>) -> Self {
        let (requests, receiver) = mpsc::channel(1);
        let opened = client.subscribe(ReceiverStream::new(receiver)).await;
        Self { requests, frames: opened.unwrap().into_inner() }
    }

    /// Changes the topics, and reads up to the end of their past.
    async fn change(&mut self, mutate: Mutate) {
        let changed = mutate.mutate_id;
        let version = Some(Version::V1(V1 { request: Some(Ask::Mutate(mutate)) }));
        self.requests.send(pb::SubscribeRequest { version }).await.unwrap();
        loop {
            let frame = self.frames.message().await.unwrap().expect("the stream goes on");
            let Some(pb::subscribe_response::Version::V1(v1)) = frame.version else { continue };
            if let Some(Frame::CatchupComplete(complete)) = v1.response
                && complete.mutate_id == changed
            {
                return;
            }
        }
    }
}

/// Returns the topics of the change with this number.
fn topics(change: u32) -> impl Iterator<Item = Bytes> {
    let name = |number: u32| Bytes::from([&[0][..], &number.to_be_bytes(), &[7; 28]].concat());
    (change * TOPICS..(change + 1) * TOPICS).map(name)
}

fn adding(mutate_id: u32, topics: impl IntoIterator<Item = Bytes>) -> Mutate {
    let adds = topics.into_iter().map(|topic| Add { topic, last_seen: None }).collect();
    Mutate { adds, mutate_id: mutate_id.into(), ..Mutate::default() }
}

/// Returns a node, and a stream of the callers' address that holds more than a quarter of the memory for callers: by
/// long names.
async fn node_with_large_address() -> (Node, ChangingStream) {
    let budget = |settings: &mut ApiSettings| settings.callers_bytes_max = LIMIT_BYTES;
    let node = node_with(budget, Arc::new(NoPeers)).await;
    let mut large = ChangingStream::open(node.query().await).await;
    for wave in 1..=20_u8 {
        let name = Bytes::from([vec![0, wave], vec![7; 250_000]].concat());
        large.change(adding(wave.into(), [name])).await;
    }
    let used_bytes = node.sample("xmtp_api_memory_bytes").await.unwrap();
    assert!(used_bytes > 4.0 * 1024.0 * 1024.0, "{used_bytes}");
    (node, large)
}

#[tokio::test]
async fn changes_do_not_wait_for_streams_that_have_caught_up() {
    let (node, _large) = node_with_large_address().await;
    let client = node.query().await;
    let changing = async {
        let mut streams = Vec::new();
        for change in 0..CHANGES {
            let mut stream = ChangingStream::open(client.clone()).await;
            stream.change(adding(1, topics(change))).await;
            streams.push(stream);
        }
    };
    timeout(HANGS_AFTER, changing).await.expect("none waits, though all streams are open");
}

#[tokio::test]
async fn changes_do_not_wait_for_earlier_ones_of_their_stream_that_have_ended() {
    let (node, _large) = node_with_large_address().await;
    let mut stream = ChangingStream::open(node.query().await).await;
    let changing = async {
        for change in 0..CHANGES {
            stream.change(adding(change + 1, topics(change))).await;
        }
        // These have no wave.
        for change in 0..CHANGES {
            let (removes, mutate_id) = (topics(change).collect(), u64::from(change + 1));
            stream.change(Mutate { removes, mutate_id, ..Mutate::default() }).await;
        }
    };
    timeout(HANGS_AFTER, changing).await.expect("none waits, though the stream is open");
}
