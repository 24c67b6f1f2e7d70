//! The suite against ports that break what lies below the API: heads and frames without an end or of false lengths, and
//! windows that are never opened.

use std::convert::Infallible;

use bytes::Bytes;
use hawser_conformance::http::framed;
use hawser_conformance::wire::{Number32, SubscribeFrame, SubscribeV1};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use prost::Message as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::endless::{CASES, judged, wrong};
use crate::local;

/// Behaviour of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hostile {
    /// A header block whose frames never end.
    EndlessHeaders,
    /// Settings without an end, each of which has to be acknowledged.
    EndlessSettings,
    /// Pings without an end, each of which has to be answered.
    EndlessPings,
    /// A frame of 16 MiB, which was not allowed, and of which no more comes.
    HugeFrame,
    /// No byte of a request may be sent.
    NoWindow,
    /// The end of the connection before the first answer.
    GoAway,
    /// Answers whose heads have a megabyte.
    HugeHeads,
    /// A message that claims 4 GiB.
    FalseLength,
    /// A message that claims to be compressed and is not.
    FalseFlag,
}

const BELOW_HTTP: [Hostile; 6] = [
    Hostile::EndlessHeaders,
    Hostile::EndlessSettings,
    Hostile::EndlessPings,
    Hostile::HugeFrame,
    Hostile::NoWindow,
    Hostile::GoAway,
];
const IN_HTTP: [Hostile; 3] = [Hostile::HugeHeads, Hostile::FalseLength, Hostile::FalseFlag];

/// Types of frames (RFC 9113 §6).
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, 0], &stream.to_be_bytes(), payload].concat()
}

/// Speaks HTTP/2 to the first answer, and then as the case sets. A caller of HTTP/1.1 gets a head without an end.
async fn speak(mut stream: TcpStream, hostile: Hostile) -> std::io::Result<()> {
    let mut first = [0; 3];
    stream.read_exact(&mut first).await?;
    if &first != b"PRI" {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
        loop {
            stream.write_all(&b"a: b\r\n".repeat(1000)).await?;
        }
    }
    // Fields without a name in the table: each is a name and a value of one byte.
    let fields = [0, 1, b'a', 1, b'b'].repeat(3_000);
    match hostile {
        Hostile::NoWindow => {
            // SETTINGS_INITIAL_WINDOW_SIZE is 0.
            stream.write_all(&frame(SETTINGS, 0, &[0, 4, 0, 0, 0, 0])).await?;
        }
        Hostile::GoAway => {
            stream.write_all(&frame(SETTINGS, 0, &[])).await?;
            stream.write_all(&frame(GOAWAY, 0, &[0; 8])).await?;
        }
        Hostile::HugeFrame => {
            stream.write_all(&frame(SETTINGS, 0, &[])).await?;
            stream.write_all(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1, 7, 7, 7]).await?;
        }
        Hostile::EndlessHeaders => {
            stream.write_all(&frame(SETTINGS, 0, &[])).await?;
            stream.write_all(&frame(HEADERS, 1, &fields)).await?;
            loop {
                stream.write_all(&frame(CONTINUATION, 1, &fields)).await?;
            }
        }
        Hostile::EndlessPings => {
            stream.write_all(&frame(SETTINGS, 0, &[])).await?;
            loop {
                stream.write_all(&frame(PING, 0, &[7; 8]).repeat(1000)).await?;
            }
        }
        _ => loop {
            stream.write_all(&frame(SETTINGS, 0, &[]).repeat(1000)).await?;
        },
    }
    // It listens, and says nothing more.
    let mut ignored = [0; 4096];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

type StreamedBody = BoxBody<Bytes, Infallible>;

fn body(pieces: impl IntoIterator<Item = Bytes, IntoIter: Send + Sync + 'static>) -> StreamedBody {
    let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    StreamBody::new(tokio_stream::iter(frames)).boxed()
}

/// The first frame of `Subscribe`, without which a case would end there.
fn started(request: &Request<Incoming>) -> Option<Bytes> {
    let v1 = SubscribeV1 { started: Some(Number32 { value: 30_000 }), ..SubscribeV1::default() };
    let started = framed(&SubscribeFrame { v1: Some(v1) }.encode_to_vec());
    request.uri().path().ends_with("/Subscribe").then(|| started.into())
}

async fn answer(
    request: Request<Incoming>,
    hostile: Hostile,
) -> Result<Response<StreamedBody>, Infallible> {
    let content_type = request.headers().get("content-type").cloned();
    let first = started(&request);
    let with = |piece: Vec<u8>| body(first.clone().into_iter().chain([Bytes::from(piece)]));
    let mut response = Response::new(match hostile {
        Hostile::FalseLength => with(vec![0, 0xff, 0xff, 0xff, 0xff, 7, 7, 7]),
        Hostile::FalseFlag => with([&[1, 0, 0, 0, 3][..], &[7; 3]].concat()),
        _ => body(first.clone()),
    });
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("application/grpc");
    headers.insert("content-type", content_type.unwrap_or(plain));
    match hostile {
        Hostile::FalseFlag => {
            headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        Hostile::HugeHeads => {
            for number in 0..250 {
                let name = HeaderName::try_from(format!("x-{number}")).unwrap();
                headers.insert(name, HeaderValue::try_from("y".repeat(4_000)).unwrap());
            }
        }
        _ => {}
    }
    Ok(response)
}

async fn serve(listener: TcpListener, hostile: Hostile) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            // The suite hangs up, which is no fault here.
            if BELOW_HTTP.contains(&hostile) {
                let _ = speak(stream, hostile).await;
            } else {
                let service = service_fn(move |request| answer(request, hostile));
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
}

/// Asserts that each case fails by its own waits and limits, and that the suite reports all of them in bounded
/// memory.
async fn fails_every_case(all: &[Hostile]) {
    for hostile in all {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = local(listener.local_addr().unwrap().port());
        let serving = tokio::spawn(serve(listener, *hostile));
        let cases = judged(&target, CASES, &["--limit", "5"]).await;
        serving.abort();
        assert_eq!(wrong(&cases), Vec::<&Value>::new(), "{hostile:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_break_their_protocol_fail_every_case() {
    fails_every_case(&BELOW_HTTP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_lengths_that_are_false_fail_every_case() {
    fails_every_case(&IN_HTTP).await;
}
