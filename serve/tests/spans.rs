//! The span of a request: its id, its method and the class of its peer, never a payload.
//!
//! A separate program, because it captures the log of the whole process.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hawser_serve::{CallMetrics, MethodKind, RpcMethod, ServeSettings, Server};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tracing_subscriber::fmt::format::FmtSpan;

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_request_has_a_span_without_its_payload() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_env_filter("hawser_serve=debug")
        .with_span_events(FmtSpan::NEW)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let (_, health) = tonic_health::server::health_reporter();
    let metrics =
        CallMetrics::new(&[RpcMethod::new("/grpc.health.v1.Health/Check", MethodKind::Unary)]);
    let settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let stop = CancellationToken::new();
    let server = Server::bind(settings, Routes::new(health), metrics, stop).await.unwrap();

    let url = format!("http://{}", server.address());
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut client = HealthClient::new(channel);
    for _ in 0..2 {
        let request = HealthCheckRequest { service: "a-secret-payload".to_owned() };
        assert_eq!(client.check(request).await.unwrap_err().code(), Code::NotFound);
    }

    let text = log.text();
    for id in 0..2 {
        let fields = r#"method="/grpc.health.v1.Health/Check" peer="loopback""#;
        let span = format!("request{{request_id={id} {fields}}}");
        assert!(text.contains(&span), "{text}");
    }
    assert!(!text.contains("a-secret-payload"), "{text}");
}
