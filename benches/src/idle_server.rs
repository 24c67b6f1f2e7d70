//! A server with the node's gRPC stack that answers without any work: its cost is that of gRPC.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::{Read as _, Write as _};
use std::iter::{Repeat, repeat};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http, tokio_stream};
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::error::BenchError;
use crate::rpc::{PLAIN_STREAM, RawCodec};

/// Listens as [`listen`] does, and answers every publish request with `answer_len` zero bytes. A call of
/// [`PLAIN_STREAM`] is answered with as many bytes again and again.
pub(crate) async fn run(answer_len: usize) -> Result<(), BenchError> {
    let listener = listen().await?;
    Server::builder()
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .add_service(Idle { answer: vec![0; answer_len].into() })
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

/// Listens on a free port of the loopback interface, and prints the address as one line. The process ends when its
/// standard input does.
pub(crate) async fn listen() -> Result<TcpListener, BenchError> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new()); // ends with the parent
        std::process::exit(0);
    });
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    Ok(listener)
}

#[derive(Clone)]
struct Idle {
    answer: Bytes,
}

impl NamedService for Idle {
    const NAME: &'static str = "xmtp.xmtpv4.message_api.PublishApi";
}

impl UnaryService<Bytes> for Idle {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(self.answer.clone())))
    }
}

impl ServerStreamingService<Bytes> for Idle {
    type Response = Bytes;
    type ResponseStream = tokio_stream::Iter<Repeat<Result<Bytes, Status>>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(tokio_stream::iter(repeat(Ok(self.answer.clone()))))))
    }
}

impl Service<http::Request<Body>> for Idle {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let idle = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(RawCodec).max_decoding_message_size(25 * 1024 * 1024);
            if request.uri().path() == PLAIN_STREAM.path() {
                return Ok(grpc.server_streaming(idle, request).await);
            }
            Ok(grpc.unary(idle, request).await)
        })
    }
}
