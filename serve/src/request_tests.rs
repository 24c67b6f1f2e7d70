//! Tests of the body of a request: whole messages, and the memory that it is charged.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use futures_util::{FutureExt as _, StreamExt as _};
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;

use super::*;
use crate::budget::{ConnectionShare, MemoryBudget};
use crate::method::RpcMethod;
use crate::pace::CREDIT_NS;

fn metrics_of(kind: MethodKind) -> &'static MethodMetrics {
    Box::leak(Box::new(MethodMetrics::new(RpcMethod::new("/a.B/C", kind))))
}

fn body_of(pieces: Vec<Bytes>, kind: MethodKind) -> RequestBody {
    let pieces = pieces.into_iter().map(|piece| Ok::<_, Status>(Frame::data(piece)));
    let body = Body::new(StreamBody::new(tokio_stream::iter(pieces)));
    charged_body_of(body, kind, &MemoryBudget::new(usize::MAX / 4))
}

fn charged_body_of(body: Body, kind: MethodKind, budget: &MemoryBudget) -> RequestBody {
    let connection =
        budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
    let timeout = Duration::from_secs(30);
    RequestBody::new(body, Version::HTTP_2, metrics_of(kind), CallCharge::new(connection), timeout)
}

async fn read(mut body: RequestBody) -> (Vec<u8>, Option<Status>) {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap()),
            Err(status) => return (bytes, Some(status)),
        }
    }
    (bytes, None)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.unwrap().block_on(work)
}

fn message(len: usize) -> Vec<u8> {
    let mut message = vec![0];
    message.extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
    message.resize(5 + len, 9);
    message
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

fn cut(bytes: &[u8], len: usize) -> Vec<Bytes> {
    bytes.chunks(len).map(Bytes::copy_from_slice).collect()
}

proptest! {
    #[test]
    fn whole_messages_pass_as_they_are(
        lens in proptest::collection::vec(0usize..50, 0..6),
        piece in 1usize..40,
    ) {
        let bytes: Vec<u8> = lens.iter().flat_map(|&len| message(len)).collect();
        let body = body_of(cut(&bytes, piece), MethodKind::Bidi);
        let (passed, status) = run(read(body));
        prop_assert_eq!(passed, bytes);
        prop_assert!(status.is_none());
    }

    #[test]
    fn nothing_of_a_message_passes_before_all_of_it_is_here(
        len in 1usize..50,
        missing in 1usize..50,
        piece in 1usize..20,
    ) {
        let bytes = message(len);
        let bytes = &bytes[..bytes.len() - missing.min(len)];
        let body = body_of(cut(bytes, piece), MethodKind::Unary);
        let (passed, status) = run(read(body));
        prop_assert!(passed.is_empty());
        let status = status.unwrap();
        prop_assert_eq!(status.message(), "incomplete request message");
    }
}

#[tokio::test]
async fn a_claim_beyond_the_limit_is_refused_before_the_message_comes() {
    let mut head = message(0);
    head[1..].copy_from_slice(&(26 * 1024 * 1024u32).to_be_bytes());
    let (passed, status) = read(body_of(vec![head.into()], MethodKind::Unary)).await;
    assert!(passed.is_empty());
    assert_eq!(status.unwrap().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_message_that_grows_when_it_is_decoded_is_refused_before() {
    let budget = MemoryBudget::new(16 * 1024 * 1024);
    // 200 kB, and by the costs of a small request 64 times as much.
    let elements = framed(&[[0x0a, 100].as_slice(), &[1; 100]].concat().repeat(2000));
    let pieces = cut(&elements, 16 * 1024).into_iter();
    let pieces = pieces.map(|piece| Ok::<_, Status>(Frame::data(piece)));
    let body = Body::new(StreamBody::new(tokio_stream::iter(pieces)));
    let (passed, status) = read(charged_body_of(body, MethodKind::Unary, &budget)).await;
    assert!(passed.is_empty());
    let status = status.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.metadata().get("retry-after").is_some());
    assert_eq!(budget.used_bytes(), 0, "given back");
}

/// A read buffer that pieces keep alive.
struct ReadBuffer {
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An HTTP/1.1 client sends chunks as long as the pieces that are kept as they are. Behind each, in the same read
/// buffer, may be chunks of one byte, which are copied out of it.
#[tokio::test]
async fn pieces_over_http1_keep_no_read_buffer() {
    const PIECE_LEN_BYTES: usize = 16 * 1024;
    let alive = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&alive);
    // Five bytes are missing.
    let message = message(10 * PIECE_LEN_BYTES);
    let pieces: Vec<_> = message.chunks(PIECE_LEN_BYTES).take(10).map(Vec::from).collect();
    let pieces = pieces.into_iter().map(move |bytes| {
        counted.fetch_add(1, Ordering::Relaxed);
        let buffer = ReadBuffer { bytes, alive: Arc::clone(&counted) };
        Ok::<_, Status>(Frame::data(Bytes::from_owner(buffer)))
    });
    let pieces = tokio_stream::iter(pieces).chain(futures_util::stream::pending());
    let budget = MemoryBudget::new(usize::MAX / 4);
    let connection =
        budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
    let (metrics, charge) = (metrics_of(MethodKind::Unary), CallCharge::new(connection));
    let timeout = Duration::from_secs(30);
    let body = Body::new(StreamBody::new(pieces));
    let mut body = RequestBody::new(body, Version::HTTP_11, metrics, charge, timeout);
    assert!(body.frame().now_or_never().is_none());
    assert_eq!(body.kept_bytes(), 10 * PIECE_LEN_BYTES);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_unary_request_is_one_message() {
    let none = read(body_of(vec![], MethodKind::Unary)).await.1.unwrap();
    assert_eq!(none.message(), "missing request message");
    let two = [message(1), message(2)].concat();
    let two = read(body_of(vec![two.into()], MethodKind::Unary)).await.1.unwrap();
    assert_eq!(two.code(), Code::InvalidArgument);
}

/// A body that has begun with `bytes` and may go on. Uses the memory of `connection`.
fn arriving(bytes: Vec<u8>, ends: bool, connection: &Arc<ConnectionShare>) -> RequestBody {
    let pieces = tokio_stream::iter([Ok::<_, Status>(Frame::data(Bytes::from(bytes)))]);
    let body = if ends {
        Body::new(StreamBody::new(pieces))
    } else {
        Body::new(StreamBody::new(pieces.chain(futures_util::stream::pending())))
    };
    let charge = CallCharge::new(Arc::clone(connection));
    let metrics = metrics_of(MethodKind::ServerStream);
    RequestBody::new(body, Version::HTTP_2, metrics, charge, Duration::from_secs(30))
}

/// A caller begins requests of megabytes and ends none, so that a node receives bytes for nothing.
#[tokio::test(start_paused = true)]
async fn an_address_rests_for_a_request_that_ends_before_its_message() {
    let budget = MemoryBudget::new(64 * 1024 * 1024);
    let connection =
        budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
    let account = connection.paid_time().clone();
    account.begin_rests();
    tokio::time::advance(Duration::from_secs(1)).await;
    account.rest(Duration::from_nanos(CREDIT_NS));
    let rests = || account.next_turn().unwrap().after(1_000_000_000).is_some();
    for ends in [false, true] {
        let mut whole = arriving(message(1000), ends, &connection);
        assert_eq!(whole.receive(0).now_or_never().is_some(), ends);
        drop(whole);
        assert!(!rests(), "all of its message has come");
    }
    let mut begun = message(1000);
    begun.pop();
    let mut begun = arriving(begun, false, &connection);
    assert!(begun.receive(0).now_or_never().is_none());
    assert!(!rests(), "the rest of it may come");
    drop(begun);
    assert!(rests());
}

/// One byte behind the message, in a piece of its own, begins no second message. The message stays in memory.
#[test]
fn what_comes_behind_the_message_of_a_request_sets_none_of_its_memory_free() {
    let budget = MemoryBudget::new(64 * 1024 * 1024);
    let pieces =
        [message(100_000), vec![0]].map(|piece| Ok::<_, Status>(Frame::data(piece.into())));
    let pieces = tokio_stream::iter(pieces).chain(futures_util::stream::pending());
    let body = Body::new(StreamBody::new(pieces));
    let mut body = charged_body_of(body, MethodKind::ServerStream, &budget);
    let before = budget.used_bytes();
    let received = body.receive(0).now_or_never();
    let refused = received.expect("it does not wait for the end of the request").unwrap_err();
    assert!(body.whole.is_empty() || budget.used_bytes() - before >= 100_000);
    assert_eq!(refused.code(), Code::InvalidArgument);
}

/// A hundred topics of 17 bytes, as elements of a small request.
fn elements() -> Vec<u8> {
    framed(&[[0x0a, 17].as_slice(), &[1; 17]].concat().repeat(100))
}

#[tokio::test]
async fn nothing_is_charged_for_decoding_before_the_end_of_a_request() {
    const BUFFER_BYTES: usize = 8 * 1024;
    let budget = MemoryBudget::new(64 * 1024 * 1024);
    let connection =
        budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
    let idle_bytes = budget.used_bytes();
    let sent = elements();
    let mut body = arriving(sent.clone(), false, &connection);
    assert!(body.receive(BUFFER_BYTES).now_or_never().is_none(), "it has not ended");
    assert_eq!(budget.used_bytes(), idle_bytes + sent.len(), "what is here");
    drop(body);
    assert_eq!(budget.used_bytes(), idle_bytes);
    let mut body = arriving(sent.clone(), true, &connection);
    body.receive(BUFFER_BYTES).await.unwrap();
    assert!(budget.used_bytes() > idle_bytes + sent.len() + BUFFER_BYTES + 100 * 17);
    assert!(matches!(read(body).await, (passed, None) if passed == sent));
    assert_eq!(budget.used_bytes(), idle_bytes);
}

/// A request of megabytes in small fields takes a thread as long as they are counted.
#[tokio::test]
async fn a_long_request_is_scanned_beside_the_runtimes_threads() {
    let budget = MemoryBudget::new(64 * 1024 * 1024);
    let connection =
        budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
    let idle_bytes = budget.used_bytes();
    let sent = message(100_000);
    let occupied = long_work::occupy_workers().await;
    let mut body = arriving(sent.clone(), true, &connection);
    assert!(body.receive(0).now_or_never().is_none(), "it waits for a worker");
    assert_eq!(budget.used_bytes(), idle_bytes + sent.len(), "what is here is charged");
    drop(body);
    assert_eq!(budget.used_bytes(), idle_bytes, "its caller has gone");
    drop(occupied);
    let mut body = arriving(sent.clone(), true, &connection);
    body.receive(0).await.unwrap();
    assert!(budget.used_bytes() > idle_bytes + sent.len(), "and the memory to decode it");
    assert!(matches!(read(body).await, (passed, None) if passed == sent));
    assert_eq!(budget.used_bytes(), idle_bytes);
}

/// Returns content in gzip with empty blocks behind it (RFC 1951 §3.2.6). A decoder builds its tables for each of them.
/// A block has ten bits, so four of them have five bytes.
fn compressed_with_empty_blocks(content: &[u8], blocks: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    encoder.flush().unwrap(); // ends a block, and a byte
    let mut compressed = encoder.get_ref().clone();
    compressed
        .extend([0b0000_0010_u8, 0b0000_1000, 0b0010_0000, 0b1000_0000, 0].repeat(blocks / 4));
    compressed.extend([0b0000_0011, 0]);
    let mut sum = Crc::new();
    sum.update(content);
    compressed.extend(sum.sum().to_le_bytes());
    compressed.extend(sum.amount().to_le_bytes());
    compressed
}

/// The content shrinks well and the blocks do not, so that the message is no longer than its content.
#[tokio::test]
async fn blocks_behind_content_are_decompressed_beside_the_runtimes_threads() {
    let budget = MemoryBudget::new(64 * 1024 * 1024);
    let connection =
        budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
    let idle_bytes = budget.used_bytes();
    let content: Vec<u8> =
        (0_u16..24_000).flat_map(|number| [9, number.to_be_bytes()[0]]).collect();
    let compressed = compressed_with_empty_blocks(&content, 32_000);
    assert!(compressed.len() > 40_000 && compressed.len() < content.len());
    let sent = [&[1][..], &framed(&compressed)[1..]].concat();
    let occupied = long_work::occupy_workers().await;
    let mut body = arriving(sent.clone(), true, &connection).decompressing();
    {
        let mut receiving = Box::pin(body.receive(0));
        for _ in 0..100 {
            assert!((&mut receiving).now_or_never().is_none(), "it waits for a worker");
        }
    }
    drop(body);
    assert_eq!(budget.used_bytes(), idle_bytes, "its caller has gone");
    drop(occupied);
    let mut body = arriving(sent, true, &connection).decompressing();
    body.receive(0).await.unwrap();
    assert!(matches!(read(body).await, (passed, None) if passed == framed(&content)));
    assert_eq!(budget.used_bytes(), idle_bytes);
}

#[tokio::test]
async fn a_long_request_of_too_many_elements_is_refused_after_its_scan() {
    const FEW: [FieldCost; 1] =
        [FieldCost::each(1, 0, &[]).at_most(3, |count| Status::not_found(count.to_string()))];
    let budget = MemoryBudget::new(64 * 1024 * 1024);
    let connection =
        budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
    let idle_bytes = budget.used_bytes();
    let pieces = [Ok::<_, Status>(Frame::data(message(100_000).into()))];
    let body = Body::new(StreamBody::new(tokio_stream::iter(pieces)));
    let method = RpcMethod::new("/a.B/C", MethodKind::Unary).decoding(&FEW);
    let metrics = Box::leak(Box::new(MethodMetrics::new(method)));
    let charge = CallCharge::new(Arc::clone(&connection));
    let timeout = Duration::from_secs(30);
    let mut body = RequestBody::new(body, Version::HTTP_2, metrics, charge, timeout);
    let refused = body.receive(0).await.unwrap_err();
    assert!(!body.is_long(), "nothing is left to decode");
    assert_eq!(refused.code(), Code::NotFound, "the refusal of the method");
    drop(body);
    assert_eq!(budget.used_bytes(), idle_bytes);
}

/// A part of the memory that open streams hold.
const STEP_BYTES: usize = 16 * 1024;

/// A connection whose open streams hold its share but for one step.
fn with_open_streams() -> (MemoryBudget, Arc<ConnectionShare>, CallCharge) {
    let budget = MemoryBudget::new(64 * 1024 * 1024);
    let connection =
        budget.connection(std::net::Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
    let open = CallCharge::new(Arc::clone(&connection));
    while open.take(STEP_BYTES).is_ok() {}
    open.give_back(STEP_BYTES);
    (budget, connection, open)
}

/// Open streams hold the share of a connection when the next request comes. It is served when another one has been
/// decoded, instead of being refused.
#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_memory_to_decode_it() {
    let (_budget, connection, open) = with_open_streams();
    let mut body = arriving(elements(), true, &connection);
    let received = async {
        body.receive(8 * 1024).await.unwrap();
        read(body).await
    };
    let giving = async {
        sleep(Duration::from_secs(1)).await;
        open.give_back(16 * STEP_BYTES);
    };
    let ((passed, status), ()) = tokio::join!(received, giving);
    assert!(status.is_none(), "{status:?}");
    assert_eq!(passed, elements());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_no_memory_is_refused_after_its_wait() {
    let (budget, connection, _open) = with_open_streams();
    let mut body = arriving(elements(), true, &connection);
    let before_bytes = budget.used_bytes();
    let refused = body.receive(8 * 1024).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(body);
    assert_eq!(budget.used_bytes(), before_bytes, "given back");
}

/// Played by open streams that hold all memory, while another client waits that names the time for which it does.
#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_memory_is_refused_before_its_client_gives_up() {
    let (_budget, connection, _open) = with_open_streams();
    for (limit_ms, waits_ms) in [(1000, 500), (100_000, 5000)] {
        let began = Instant::now();
        let latest = memory_wait::wait_end_within(Duration::from_millis(limit_ms));
        let mut body = arriving(elements(), true, &connection).waiting_until(latest);
        let refused = body.receive(8 * 1024).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.metadata().contains_key("retry-after"));
        let waited_ms = began.elapsed().as_millis();
        assert!((waits_ms..waits_ms + 10).contains(&waited_ms), "{waited_ms} of {limit_ms} ms");
    }
}
