//! Tests of a gateway whose operator has a service that names and refuses callers.

use std::thread;

use hawser_gateway::policy::config::PolicyFile;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tonic::{Code, Request};

use super::fixture::{Net, commit};
use super::policies::{parse, publish_from, publish_with_key};
use super::refusals::{OTHER, SPENT};

/// Starts a service of the operator that answers each question with this function, and returns its URL.
async fn service(answer: impl Fn(&str) -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/decide", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            let len = head.split("content-length: ").nth(1).unwrap();
            let len: usize = len.split("\r\n").next().unwrap().parse().unwrap();
            let mut question = vec![0; len];
            stream.read_exact(&mut question).await.unwrap();
            let body = answer(&String::from_utf8(question).unwrap());
            let head = format!("HTTP/1.1 200 _\r\ncontent-length: {}\r\n", body.len());
            let reply = format!("{head}connection: close\r\n\r\n{body}");
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    url
}

#[tokio::test]
async fn a_caller_that_the_webhook_refuses_takes_nothing_from_all_callers_together() {
    let allows = |question: &str| !question.contains(r#""caller":"1.2.3.4""#);
    let url = service(move |question| format!(r#"{{"allow": {}}}"#, allows(question))).await;
    for total in ["envelopes_per_hour = 3", "envelopes_per_hour_by_kind = { message = 3 }"] {
        let policies = parse(&format!("[webhook]\nurl = {url:?}\n[total]\n{total}"));
        let net = Net::with(1, |settings| settings.policies = policies, |_| {}).await;
        for _ in 0..10 {
            let refused = publish_from(&net, SPENT, "refused").await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{total}");
        }
        for text in ["a", "b", "c"] {
            publish_from(&net, OTHER, text).await.unwrap();
        }
        let refused = publish_from(&net, OTHER, "d").await.unwrap_err();
        assert!(refused.message().contains("all callers together"), "{}", refused.message());
    }
}

#[tokio::test]
async fn callers_are_those_whom_the_webhook_names_by_their_credentials() {
    let url = service(|question| {
        let answer = match question {
            r#"{"credential":"key of alice"}"# => r#"{"allow": true, "caller": "alice"}"#,
            _ if question.contains("credential") => r#"{"allow": false}"#,
            _ => r#"{"allow": true}"#,
        };
        answer.to_owned()
    });
    let webhook = format!("kind = \"webhook\"\n[webhook]\nurl = {:?}", url.await);
    let text = format!("[identity]\n{webhook}\n[default]\nenvelopes_per_day = 1");
    let policies = PolicyFile::parse(&text).unwrap();
    let net = Net::with(1, |settings| settings.policies = policies, |_| {}).await;
    for key in [None, Some("a guess")] {
        let refused = publish_with_key(&net, key, "a").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{key:?}");
    }
    publish_with_key(&net, Some("key of alice"), "a").await.unwrap();
    let refused = publish_with_key(&net, Some("key of alice"), "b").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(net.nodes[0].calls(), 1, "what is refused reaches no node");
    let (_, csv) = net.page("/usage.csv").await;
    assert!(csv.contains(",\"alice\",message,1,"), "{csv}");
}

/// The gateway runs on the thread of the test. It prices the envelopes of a request directly after it has read them.
#[tokio::test]
async fn a_long_request_that_has_waited_for_the_webhook_is_read_beside_the_runtimes_threads() {
    let url = service(|_| r#"{"allow": true, "caller": "alice"}"#.to_owned()).await;
    let text = format!("kind = \"webhook\"\n[webhook]\nurl = {url:?}\n[default]\ngas_per_hour = 1");
    let policies = PolicyFile::parse(&format!("[identity]\n{text}")).unwrap();
    let net = Net::with(1, |settings| settings.policies = policies, |_| {}).await;
    let envelopes = vec![commit(1, &"x".repeat(200)); 1000];
    let mut request = Request::new(api::PublishClientEnvelopesRequest { envelopes });
    request.metadata_mut().insert("x-api-key", "key of alice".parse().unwrap());
    let refused = net.client().await.publish_client_envelopes(request).await.unwrap_err();
    assert!(refused.message().contains("units of gas an hour"), "{}", refused.message());
    let readers = net.chain.price_readers.lock().clone();
    assert!(!readers.is_empty() && !readers.contains(&thread::current().id()), "{readers:?}");
}
