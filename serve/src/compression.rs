//! Compression of response messages for callers that ask for it (gzip, RFC 1952).
//!
//! Small messages, and those that do not shrink, are sent uncompressed: most stored envelopes are encrypted.
//! Compression yields to other calls after each turn. [`COMPRESSION_RATE`] bounds the compression of a whole listener,
//! because each of many streams of the same envelopes may request it. Beyond the bound messages are sent uncompressed.
//!
//! A message leaves in two pieces, its head and its bytes, and one piece of the answer may have several messages. A
//! client that gives no room for the first piece keeps the others here, so they are charged until they are passed on.

use std::collections::VecDeque;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderName};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tonic::Status;

use crate::bucket::{Bucket, BucketSize};
use crate::call_share::CallCharge;
use crate::charged_bytes::ChargedBytes;
use crate::message_boundaries::HEAD_LEN_BYTES;
use crate::response_messages::PIECE_LEN_BYTES_MIN;

/// The name of the compression in headers (gRPC, Message-Encoding).
pub(crate) const GZIP: &str = "gzip";
/// The header of the compressions that a caller accepts. Specified: gRPC over HTTP/2, Message-Accept-Encoding.
pub(crate) const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Messages below this length are not compressed. A guess: they fit into one packet.
const MESSAGE_LEN_BYTES_MIN: usize = 1024;
/// Bytes that are compressed before other calls have their turn. A guess: they take about a millisecond.
const TURN_BYTES: usize = 128 * 1024;
/// Charge of a message that is being compressed, besides its plain and its compressed bytes. From the types: the
/// encoder's tables and buffers take about 300 KiB.
const ENCODER_BYTES: usize = 320 * 1024;

/// Bytes that a listener compresses in a second; also the burst after a pause. A guess: they take a fifth of a
/// core.
const COMPRESSION_RATE: BucketSize = BucketSize { capacity: 16 * 1024 * 1024, window_ms: 1000 };

/// The remaining bytes that a listener may compress now, shared by all its callers.
#[derive(Debug)]
pub(crate) struct CompressionAllowance {
    began: Instant,
    taken: Mutex<Bucket>,
}

impl CompressionAllowance {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), taken: Mutex::default() }
    }

    /// Returns true if another message may be compressed.
    fn is_left(&self) -> bool {
        self.taken.lock().wait_ms(COMPRESSION_RATE, 1, self.now_ms()) == Some(0)
    }

    /// Takes `bytes`, even more than are left: compression then pauses until the bucket has refilled.
    fn spend(&self, bytes: usize) {
        self.taken.lock().take(COMPRESSION_RATE, bytes as u64, self.now_ms());
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Returns true if a caller accepts compressed messages.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT_ENCODING).iter();
    let names = lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(','));
    names.map(str::trim).any(|name| name == GZIP)
}

/// A response body whose messages are compressed if that shortens them.
pub(crate) struct CompressedBody<B> {
    body: B,
    charge: CallCharge,
    allowance: Arc<CompressionAllowance>,
    /// The pieces of messages that are not passed on yet.
    pieces: VecDeque<Bytes>,
    have_bytes: usize,
    /// Bytes before those of the first piece, which keeps them in memory.
    taken_bytes: usize,
    current: Option<PlainMessage>,
    ready: VecDeque<Bytes>,
    /// The last frame, which waits for the messages before it.
    last: Option<Frame<Bytes>>,
    /// The charge of all bytes that are not passed on yet. The charge of the call ends with the first bytes of its
    /// answer.
    held: ChargedBytes,
}

/// A message that is being compressed.
struct PlainMessage {
    plain: Bytes,
    done_bytes: usize,
    encoder: GzEncoder<Vec<u8>>,
    charged_bytes: usize,
}

impl<B> CompressedBody<B> {
    pub(crate) fn new(body: B, charge: CallCharge, allowance: Arc<CompressionAllowance>) -> Self {
        let held = ChargedBytes::new(charge.connection().clone());
        Self {
            body,
            charge,
            allowance,
            pieces: VecDeque::new(),
            have_bytes: 0,
            taken_bytes: 0,
            current: None,
            ready: VecDeque::new(),
            last: None,
            held,
        }
    }

    /// Adjusts the charge to the bytes that are not passed on yet.
    fn charge_held(&mut self) {
        let of_current = self.current.as_ref().map_or(0, |message| message.plain.len());
        let of_ready: usize = self.ready.iter().map(Bytes::len).sum();
        self.held.set(self.have_bytes + self.taken_bytes + of_current + of_ready);
    }

    /// Begins the next message if all of it is in the pieces. Returns false otherwise.
    fn begin(&mut self) -> bool {
        if self.have_bytes < HEAD_LEN_BYTES {
            return false;
        }
        let mut head = [0; HEAD_LEN_BYTES];
        head.iter_mut().zip(self.pieces.iter().flatten()).for_each(|(to, byte)| *to = *byte);
        let length = [head[1], head[2], head[3], head[4]];
        let len_bytes = HEAD_LEN_BYTES + u32::from_be_bytes(length) as usize;
        if self.have_bytes < len_bytes {
            return false;
        }
        let message = self.take(len_bytes);
        let is_short = len_bytes < HEAD_LEN_BYTES + MESSAGE_LEN_BYTES_MIN;
        if head[0] != 0 || is_short || !self.allowance.is_left() {
            self.ready.push_back(alone(message));
            return true;
        }
        // Before memory is taken for the encoder. A message that goes as it is has no charge here if it goes at once.
        self.held.set(self.have_bytes + self.taken_bytes + message.len());
        let charged_bytes = len_bytes + ENCODER_BYTES;
        if self.charge.take(charged_bytes).is_err() {
            self.ready.push_back(alone(message));
            return true;
        }
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let plain = message.slice(HEAD_LEN_BYTES..);
        self.current = Some(PlainMessage { plain, done_bytes: 0, encoder, charged_bytes });
        true
    }

    /// Splits `len_bytes` off, copied together if they are in several pieces.
    fn take(&mut self, len_bytes: usize) -> Bytes {
        self.have_bytes -= len_bytes;
        if let Some(first) = self.pieces.front_mut().filter(|first| first.len() >= len_bytes) {
            let taken = first.split_to(len_bytes);
            self.taken_bytes += len_bytes;
            if first.is_empty() {
                self.pieces.pop_front();
                self.taken_bytes = 0;
            }
            return taken;
        }
        let mut taken = BytesMut::with_capacity(len_bytes);
        while taken.len() < len_bytes
            && let Some(mut piece) = self.pieces.pop_front()
        {
            let part = piece.split_to(piece.len().min(len_bytes - taken.len()));
            taken.extend_from_slice(&part);
            self.taken_bytes = 0;
            if !piece.is_empty() {
                self.taken_bytes = part.len();
                self.pieces.push_front(piece);
            }
        }
        taken.freeze()
    }

    /// Compresses a part of the current message. Returns true when it is done.
    fn turn(&mut self) -> bool {
        let Some(message) = &mut self.current else { return true };
        let end = message.plain.len().min(message.done_bytes + TURN_BYTES);
        self.allowance.spend(end - message.done_bytes);
        // Writing to memory does not fail.
        let _ = message.encoder.write_all(&message.plain[message.done_bytes..end]);
        message.done_bytes = end;
        let shrinks = message.encoder.get_ref().len() < end - end / 16;
        if shrinks && end < message.plain.len() {
            return false;
        }
        if let Some(message) = self.current.take() {
            self.charge.give_back(message.charged_bytes);
            let compressed = if shrinks { message.encoder.finish().ok() } else { None };
            match compressed.filter(|compressed| compressed.len() < message.plain.len()) {
                // Without the room that the encoder had for more: only the length is charged.
                Some(compressed) => self.push(1, compressed.into_boxed_slice().into()),
                None => self.push(0, alone(message.plain)),
            }
        }
        true
    }

    fn push(&mut self, flag: u8, body: Bytes) {
        let mut head = vec![flag];
        head.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.ready.extend([head.into(), body]);
    }
}

/// Returns a message without the rest of its piece, which may be megabytes: until the message is written, it would
/// keep them in memory, and nothing is charged for them. A long message comes last in its piece, behind less than its
/// length.
fn alone(message: Bytes) -> Bytes {
    match message.len() < PIECE_LEN_BYTES_MIN {
        true => Bytes::copy_from_slice(&message),
        false => message,
    }
}

impl<B: HttpBody<Data = Bytes, Error = Status> + Unpin> CompressedBody<B> {
    fn poll_compressed(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.current.is_some() {
                if self.turn() {
                    continue;
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.begin() {
                continue;
            }
            if let Some(last) = self.last.take() {
                return Poll::Ready(Some(Ok(last)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => {
                        self.have_bytes += piece.len();
                        self.pieces.push_back(piece);
                    }
                    Err(trailers) => self.last = Some(trailers),
                },
                other => return Poll::Ready(other),
            }
        }
    }
}

impl<B: HttpBody<Data = Bytes, Error = Status> + Unpin> HttpBody for CompressedBody<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = self.poll_compressed(cx);
        self.charge_held();
        polled
    }

    fn is_end_stream(&self) -> bool {
        let waits = self.have_bytes > 0 || self.current.is_some() || self.last.is_some();
        !waits && self.ready.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl<B> Drop for CompressedBody<B> {
    fn drop(&mut self) {
        if let Some(message) = self.current.take() {
            self.charge.give_back(message.charged_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;
    use crate::budget::MemoryBudget;

    /// Sends some messages of one kind to a caller that wants them compressed. Returns their flags and lengths.
    async fn sent(allowance: &Arc<CompressionAllowance>, count: usize) -> Vec<(u8, usize)> {
        let message = b"the same again ".repeat(1000);
        let head = [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..]].concat();
        let framed = Bytes::from([head, message].concat());
        let frames = (0..count).map(move |_| Ok::<_, Status>(Frame::data(framed.clone())));
        let budget = MemoryBudget::new(1 << 30);
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let charge = CallCharge::new(budget.connection(address, budget.account(None)).unwrap());
        let body = StreamBody::new(tokio_stream::iter(frames));
        let compressed = CompressedBody::new(body, charge, allowance.clone());
        let mut bytes = compressed.collect().await.unwrap().to_bytes();
        let mut sent = Vec::new();
        while !bytes.is_empty() {
            let head = bytes.split_to(HEAD_LEN_BYTES);
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            sent.push((head[0], bytes.split_to(length as usize).len()));
        }
        sent
    }

    #[tokio::test]
    async fn many_listeners_together_are_compressed_for_up_to_a_bound() {
        let allowance = Arc::new(CompressionAllowance::new());
        let first = sent(&allowance, 10).await;
        assert_eq!(first.len(), 10);
        assert!(first.iter().all(|&(flag, len)| flag == 1 && len < 1000), "{first:?}");
        assert!(
            allowance.taken.lock().full_at_ms(COMPRESSION_RATE) > 0,
            "what was compressed is counted"
        );
        allowance.spend(1 << 50);
        assert_eq!(sent(&allowance, 10).await, [(0, 15_000); 10], "all of it comes, as it is");
    }

    /// Returns bytes without a pattern that gzip finds.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    /// Played by a client that gives its calls no room for answers, and takes one frame.
    #[tokio::test]
    async fn what_is_not_passed_on_is_charged() {
        const LEN: usize = 1 << 20;
        let framed = |message: &[u8]| {
            let len = u32::try_from(message.len()).unwrap().to_be_bytes();
            [&[0_u8][..], &len, message].concat()
        };
        // A short message of a stream comes together with the page behind it.
        let piece = Bytes::from([framed(b"short"), framed(&noise(LEN))].concat());
        let budget = MemoryBudget::new(1 << 30);
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let charge = CallCharge::new(budget.connection(address, budget.account(None)).unwrap());
        let before = budget.used_bytes();
        let body = StreamBody::new(tokio_stream::iter([Ok::<_, Status>(Frame::data(piece))]));
        let mut compressed =
            CompressedBody::new(body, charge, Arc::new(CompressionAllowance::new()));
        let short_len = HEAD_LEN_BYTES + 5;
        // The whole piece stays until its last message is taken.
        for (len, left_bytes) in
            [(short_len, short_len + HEAD_LEN_BYTES + LEN), (HEAD_LEN_BYTES, LEN), (LEN, 0)]
        {
            let frame = compressed.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap().len(), len);
            assert_eq!(budget.used_bytes(), before + left_bytes);
        }
        assert!(compressed.frame().await.is_none());
    }

    /// Played by a client that takes a part of a short message, and has the page behind it compressed meanwhile.
    #[tokio::test]
    async fn a_short_message_that_waits_keeps_nothing_of_a_long_one_behind_it() {
        let framed = |message: &[u8]| {
            let len = u32::try_from(message.len()).unwrap().to_be_bytes();
            [&[0_u8][..], &len, message].concat()
        };
        let pages = [(vec![7; 1 << 20], 1), (noise(MESSAGE_LEN_BYTES_MIN - 1), 0)];
        for (short_len, (page, flag)) in [5, 5_000].into_iter().zip(pages) {
            let short = noise(short_len);
            let piece = Bytes::from([framed(&short), framed(&page)].concat());
            let address = std::net::Ipv4Addr::LOCALHOST.into();
            let budget = MemoryBudget::new(1 << 30);
            let share = budget.connection(address, budget.account(None)).unwrap();
            let frames = [Ok::<_, Status>(Frame::data(piece.clone()))];
            let body = StreamBody::new(tokio_stream::iter(frames));
            let allowance = Arc::new(CompressionAllowance::new());
            let mut compressed = CompressedBody::new(body, CallCharge::new(share), allowance);
            let mut waiting = Vec::new();
            while let Some(frame) = compressed.frame().await {
                waiting.push(frame.unwrap().into_data().unwrap());
            }
            let sent = waiting.concat();
            assert_eq!(sent[..HEAD_LEN_BYTES + short_len], framed(&short));
            assert_eq!(sent[HEAD_LEN_BYTES + short_len], flag);
            assert!(piece.is_unique(), "what waits shares the memory of the piece");
            for message in waiting.into_iter().filter(|it| it.len() > HEAD_LEN_BYTES) {
                let len = message.len();
                assert_eq!(message.try_into_mut().map(|it| it.capacity()), Ok(len));
            }
        }
    }

    /// Played when callers hold so much that any further charge closes the largest of them.
    #[tokio::test]
    async fn a_message_that_goes_as_it_is_closes_no_other_caller() {
        const LIMIT: usize = 64 << 20;
        let budget = MemoryBudget::new(LIMIT);
        let [large, small] = [1, 2].map(|last| {
            let address = std::net::IpAddr::from([192, 0, 2, last]);
            budget.connection(address, budget.account(None)).unwrap()
        });
        large.take_anyway(LIMIT / 8 * 7 - budget.used_bytes());
        let piece = Bytes::from([&[0_u8, 0, 0, 0, 5][..], b"short"].concat());
        let body = StreamBody::new(tokio_stream::iter([Ok::<_, Status>(Frame::data(piece))]));
        let charge = CallCharge::new(small);
        let mut compressed =
            CompressedBody::new(body, charge, Arc::new(CompressionAllowance::new()));
        let frame = compressed.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap().len(), HEAD_LEN_BYTES + 5);
        assert!(!large.close.is_cancelled());
    }

    #[tokio::test]
    async fn what_is_never_taken_is_given_back() {
        let budget = MemoryBudget::new(1 << 30);
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let share = budget.connection(address, budget.account(None)).unwrap();
        let before = budget.used_bytes();
        // The head states 64 KiB.
        let piece = Bytes::from([&[0_u8, 0, 1, 0, 0][..], &noise(1 << 16)].concat());
        let body = StreamBody::new(tokio_stream::iter([Ok::<_, Status>(Frame::data(piece))]));
        let charge = CallCharge::new(share.clone());
        let mut compressed =
            CompressedBody::new(body, charge, Arc::new(CompressionAllowance::new()));
        assert!(compressed.frame().await.is_some(), "its head");
        assert!(budget.used_bytes() > before);
        drop(compressed);
        assert_eq!(budget.used_bytes(), before);
    }
}
