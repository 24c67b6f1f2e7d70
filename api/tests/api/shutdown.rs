//! The order of a shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use hawser_api::{BackupNotes, BackupsView, NoPeers};
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetSyncCursorRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use http_body_util::StreamBody;
use hyper::body::Frame;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::common::*;

/// Time in which a stop has to end that nothing delays. A bound for a test that fails, and no promise.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[tokio::test]
async fn streams_get_what_was_committed_and_then_hear_why_they_end() {
    let node = node().await;
    let filters =
        vec![pb::subscribe_topics_request::TopicFilter { topic: topic_bytes(1), last_seen: None }];
    let request = pb::SubscribeTopicsRequest { filters };
    let mut topics = node.replication().await.subscribe_topics(request).await.unwrap().into_inner();
    let mut cursor = MetadataApiClient::new(node.channel().await)
        .subscribe_sync_cursor(GetSyncCursorRequest {})
        .await
        .unwrap()
        .into_inner();
    topics.message().await.unwrap().unwrap(); // started
    topics.message().await.unwrap().unwrap(); // caught up
    node.publish(vec![message(1, "owed")]).await;
    let address = node.address();
    let ending = tokio::spawn(node.api.shutdown(Duration::ZERO));

    use pb::subscribe_topics_response::Response;
    let Some(Response::Envelopes(owed)) = topics.message().await.unwrap().unwrap().response else {
        panic!("an envelope was owed")
    };
    assert_eq!(ids(&owed.envelopes), "100:1");
    let end = topics.message().await.unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "server is shutting down"));
    let end = loop {
        match cursor.message().await {
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "server is shutting down"));
    drop((topics, cursor));
    ending.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}

/// The client of the stream keeps it open without a further request.
#[tokio::test]
async fn an_open_stream_of_reflection_ends_with_the_others() {
    let node = node_with(|settings| settings.reflection = true, Arc::new(NoPeers)).await;
    let mut client = ServerReflectionClient::new(node.channel().await);
    let services = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(services) };
    let requests = stream::iter([request]).chain(stream::pending());
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    let ending = tokio::spawn(node.api.shutdown(Duration::ZERO));
    let end = tokio::time::timeout(WAIT_MAX, answers.message()).await.unwrap().unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "server is shutting down"));
    drop(answers);
    tokio::time::timeout(WAIT_MAX, ending).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_unary_call_that_has_begun_is_finished() {
    let node = node().await;
    let channel = node.channel().await;
    let request = pb::PublishPayerEnvelopesRequest { payer_envelopes: vec![message(1, "text")] };
    let mut begin = framed(&request.encode_to_vec());
    let end = begin.split_off(begin.len() / 2);
    let (sender, rest) = tokio::sync::oneshot::channel::<()>();
    let pieces = stream::iter([Ok(Frame::data(Bytes::from(begin)))]).chain(stream::once(async {
        rest.await.unwrap();
        Ok::<_, tonic::Status>(Frame::data(Bytes::from(end)))
    }));
    let body = tonic::body::Body::new(StreamBody::new(pieces));
    let path = "/xmtp.xmtpv4.message_api.PublishApi/PublishPayerEnvelopes";
    let call = tokio::spawn(async move { call_body(&channel, path, body).await });
    let open = r#"xmtp_api_open_connections_gauge{style="unary",method="/xmtp.xmtpv4.message_api.PublishApi/PublishPayerEnvelopes"}"#;
    node.until_sample(open, 1.0).await;

    let (address, engine) = (node.address(), node.engine.clone());
    let ending = tokio::spawn(node.api.shutdown(Duration::ZERO));
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sender.send(()).unwrap();
    assert_eq!(call.await.unwrap().0, Code::Ok);
    assert_eq!(engine.heads().get().get(NODE).0, 1);
    ending.await.unwrap();
}

/// Records on a disk that ceases to answer, until the sender is dropped.
struct SilentDisk {
    is_silent: AtomicBool,
    answers: Mutex<Receiver<()>>,
}

impl BackupsView for SilentDisk {
    fn backups(&self) -> BackupNotes {
        if self.is_silent.load(Ordering::Relaxed) {
            let _ = self.answers.lock().recv();
        }
        BackupNotes::default()
    }
}

/// The process has a time limit for its stop, in the same task.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_answer_holds_up_no_shutdown() {
    let (answering, answers) = channel();
    let answers = Mutex::new(answers);
    let disk = Arc::new(SilentDisk { is_silent: AtomicBool::new(false), answers });
    let view = disk.clone();
    let node = node_with(move |settings| settings.backups = Some(view), Arc::new(NoPeers)).await;
    disk.is_silent.store(true, Ordering::Relaxed);
    let ending = tokio::spawn(node.api.shutdown(Duration::ZERO));
    let ended = tokio::time::timeout(WAIT_MAX, ending).await;
    drop(answering);
    ended.unwrap().unwrap();
}

#[tokio::test]
async fn calls_are_served_while_it_drains() {
    let node = node().await;
    let mut client = node.replication().await;
    node.api.drain();
    assert_eq!(node.page("/readyz").await.0, 503);
    let envelopes = pb::PublishPayerEnvelopesRequest { payer_envelopes: vec![message(1, "late")] };
    let answer = client.publish_payer_envelopes(envelopes).await.unwrap().into_inner();
    assert_eq!(ids(&answer.originator_envelopes), "100:1");
}

#[tokio::test]
async fn dropping_the_handle_ends_everything() {
    let node = node().await;
    let address = node.address();
    let operators = node.api.metrics_address().unwrap();
    drop(node.api);
    for address in [address, operators] {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
