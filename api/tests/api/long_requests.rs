//! Requests of `Subscribe` that are long enough to be decoded beside the runtime's threads.

use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use pb::subscribe_request::v1::mutate::Subscription as Add;
use pb::subscribe_request::v1::{Mutate, Request as Ask};
use pb::subscribe_request::{V1, Version};
use pb::subscribe_response::v1::Response as Frame;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::common::*;

/// Time after which the test counts as hung and fails. Generous, for busy machines.
const HANGS_AFTER: Duration = Duration::from_secs(60);
/// Time in which the server hands over work, or takes note of work that is done. If it needs longer, the test checks
/// less, and passes.
const HANDED_OVER: Duration = Duration::from_millis(200);

/// Keeps the only thread that may block busy until the sender is dropped. The receiver is told when that begins.
fn busy_thread() -> (std_mpsc::Sender<()>, oneshot::Receiver<()>) {
    let (release, released) = std_mpsc::channel();
    let (begin, begun) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        _ = begin.send(());
        _ = released.recv(); // until `release` is dropped
    });
    (release, begun)
}

fn adding(mutate_id: u64, topic: Bytes) -> pb::SubscribeRequest {
    let adds = vec![Add { topic, last_seen: None }];
    let request = Some(Ask::Mutate(Mutate { adds, mutate_id, ..Mutate::default() }));
    pb::SubscribeRequest { version: Some(Version::V1(V1 { request })) }
}

/// Returns the next frame as text.
async fn next_frame(frames: &mut Streaming<pb::SubscribeResponse>) -> String {
    let frame = timeout(HANGS_AFTER, frames.message()).await.expect("the stream goes on");
    let version = frame.unwrap().expect("the stream does not end").version;
    let Some(pb::subscribe_response::Version::V1(v1)) = version else { return "none".into() };
    match v1.response.unwrap() {
        Frame::Envelopes(frame) => format!("{}: {}", frame.mutate_id, ids(&frame.envelopes)),
        Frame::Started(_) => "started".into(),
        Frame::TopicsLive(frame) => format!("live {}", frame.topics.len()),
        Frame::CatchupComplete(frame) => format!("complete {}", frame.mutate_id),
        frame => format!("{frame:?}"),
    }
}

/// Other callers keep the threads that decode long messages busy.
#[test]
fn live_topics_go_on_while_a_long_mutate_waits_to_be_decoded() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let node = node().await;
        let (requests, receiver) = mpsc::channel(4);
        let opened = node.query().await.subscribe(ReceiverStream::new(receiver)).await;
        let mut frames = opened.unwrap().into_inner();
        assert_eq!(next_frame(&mut frames).await, "started");
        requests.send(adding(1, topic_bytes(1))).await.unwrap();
        assert_eq!(next_frame(&mut frames).await, "live 1");
        assert_eq!(next_frame(&mut frames).await, "complete 1");

        let (first, begun) = busy_thread();
        begun.await.unwrap();
        let name = Bytes::from([vec![0], vec![7; 100_000]].concat());
        requests.send(adding(2, name)).await.unwrap();
        sleep(HANDED_OVER).await;
        // In front of the second thing that is done with the long message. The first one is to estimate its memory.
        let (second, begun) = busy_thread();
        drop(first);
        begun.await.unwrap();
        sleep(HANDED_OVER).await;
        node.publish(vec![message(1, "a")]).await;
        assert_eq!(next_frame(&mut frames).await, "0: 100:1");

        drop(second);
        assert_eq!(next_frame(&mut frames).await, "live 1");
        assert_eq!(next_frame(&mut frames).await, "complete 2");
    });
}
