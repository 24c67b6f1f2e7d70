//! The listener by itself, without services behind it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use hawser_serve::{CallMetrics, ServeSettings, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

async fn server(adjust: impl FnOnce(&mut ServeSettings)) -> Server {
    let mut settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    adjust(&mut settings);
    let (routes, stats) = (Routes::default(), CallMetrics::new(&[]));
    Server::bind(settings, routes, stats, CancellationToken::new()).await.unwrap()
}

/// Sends `bytes` and waits until the other end closes.
async fn until_closed(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[tokio::test]
async fn connections_without_a_whole_head_are_closed() {
    let server = server(|settings| settings.head_timeout = Duration::from_millis(30)).await;
    for bytes in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM", "POST /a", "POST /a HTTP/1.1\r\nhost: x"] {
        let answer = until_closed(&server, bytes.as_bytes()).await;
        assert!(answer.is_empty(), "{bytes:?}: {answer:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_order() {
    let server = server(|settings| settings.idle_timeout = Duration::from_millis(30)).await;
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" as &[u8], &[0, 0, 0, 4, 0, 0, 0, 0, 0]];
    let answer = until_closed(&server, &preface.concat()).await;
    let mut frames = answer.as_slice();
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = frames {
        kinds.push(*kind);
        frames = &frames[9 + u32::from_be_bytes([0, *a, *b, *c]) as usize..];
    }
    assert!(kinds.contains(&7), "GOAWAY: {kinds:?}");
}

#[tokio::test]
async fn a_silent_stream_outlives_every_limit() {
    let (reporter, health) = tonic_health::server::health_reporter();
    let short = Duration::from_millis(20);
    let mut settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    (settings.idle_timeout, settings.head_timeout, settings.body_timeout) = (short, short, short);
    let (routes, stats) = (Routes::new(health), CallMetrics::new(&[]));
    let stop = CancellationToken::new();
    let server = Server::bind(settings, routes, stats, stop).await.unwrap();

    let url = format!("http://{}", server.address());
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: String::new() };
    let mut stream = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    tokio::time::sleep(20 * short).await;
    reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    let told = stream.message().await.unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn pings_of_an_idle_client_are_answered_and_not_held_against_it() {
    let server = server(|_| {}).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answered = 0;
    for number in 0..200u64 {
        let mut ping = vec![0, 0, 8, 6, 0, 0, 0, 0, 0];
        ping.extend(number.to_be_bytes());
        stream.write_all(&ping).await.unwrap();
        while answered <= number {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut body = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut body).await.unwrap();
            assert_ne!(head[3], 7, "no GOAWAY");
            if (head[3], head[4] & 1) == (6, 1) {
                assert_eq!(body, number.to_be_bytes());
                answered += 1;
            }
        }
    }
}

#[tokio::test]
async fn without_services_everything_is_unimplemented() {
    let server = server(|_| {}).await;
    let channel =
        Endpoint::from_shared(format!("http://{}", server.address())).unwrap().connect_lazy();
    let request = http::Request::post("/a.B/C")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(http_body_util::Full::from(vec![0; 5]))) // an empty message
        .unwrap();
    let response = tower::ServiceExt::oneshot(channel.clone(), request).await.unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::Unimplemented);
    drop(channel);
    server.close().await;
}
