//! A meter of useless HTTP/2 frames, which carry nothing for a call: pings, settings, resets, window updates,
//! priorities, continuations, tiny pieces of data. Each costs this process work and the peer only a few bytes, and
//! the protocol sets no limit on them.
//!
//! A peer may send a burst of them, a number per second, and a further number for the bytes that it receives and
//! may have to acknowledge. A flood ends the connection. The meter reads frame heads only (RFC 9113 §4.1).
//!
//! Trailers of a request have no meaning in any protocol that is served. The library keeps their fields until the
//! stream ends, also when nothing reads the request any more, and some KiB of short fields take hundreds of KiB. So the
//! meter takes END_STREAM from trailers that have fields. The library then resets the stream (RFC 9113 §8.1) and keeps
//! nothing of it. It has decoded the fields before, on which the compression of later heads depends. Other calls of the
//! connection go on, which may be those of other clients of a proxy that forwards trailers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use crate::bucket::{Bucket, BucketSize};
use crate::filtered::{Filtered, ReadFilter};
use crate::head_timer::HeadClock;
use crate::read_turn::ReadTurn;
use crate::unflushed::UnflushedHeads;

/// First bytes of HTTP/2 with prior knowledge (RFC 9113 §3.4).
pub(crate) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's head, the place of the flags in it, two types of frames and two flags (RFC 9113 §4.1, §6.1,
/// §6.2).
const HEAD_LEN_BYTES: usize = 9;
const FLAGS_AT: usize = 4;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// A data frame below this length counts as useless, unless it ends its request. A guess: the head of a message
/// alone has 5 bytes, and many clients send it by itself.
const PIECE_LEN_BYTES_MIN: u32 = 64;
/// Allowance of useless frames: the burst, and a refill of 1,000 a second. Guesses: a client sends a few pings a
/// minute, and a balancer in front of thousands of clients some hundred resets a second.
const FRAMES: BucketSize = BucketSize { capacity: 10_000, window_ms: 10_000 };
/// Bytes sent to the peer that entitle it to one more useless frame. A guess: an answer of one
/// small message takes about 100, and some clients update two windows for it.
const BYTES_PER_FRAME: u64 = 32;

/// Bytes that a useless frame adds to a turn besides its own. A guess: answering a ping takes some tenths of a
/// microsecond, as reading this many bytes does.
const FRAME_COSTS_BYTES: usize = 256;

/// Bytes that the head of a request adds to a turn. A guess: what the request takes until it is answered. Without it a
/// turn could begin two thousand requests, and the library keeps room for as many for as long as the connection lasts.
const HEAD_COSTS_BYTES: usize = 1024;

/// Text of the error that ends the connection.
pub(crate) const FLOODED: &str = "too many HTTP/2 frames that carry nothing";

/// The meter of one connection. A plain value: bytes and time are arguments.
#[derive(Debug)]
pub(crate) struct FrameMeter {
    state: ParseState,
    /// The stream of the newest request. The first request of a connection that has switched to HTTP/2 passes the meter
    /// by, whole, so that it has no trailers.
    last_stream: u32,
    frames: Bucket,
    /// Useless frames that the peer may send for the bytes that it received.
    earned: u64,
    sent_bytes: u64,
    /// Useless frames since the connection began.
    useless: usize,
    /// Frames with which the heads of requests begin, since the connection began.
    heads: usize,
}

/// The head of a frame (RFC 9113 §4.1).
#[derive(Debug, Clone, Copy)]
struct FrameHead {
    /// Bytes of the frame's payload.
    len: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// The position in the bytes of a connection.
#[derive(Debug)]
enum ParseState {
    /// After this many bytes of the preface.
    Preface(usize),
    /// Inside the head of a frame.
    Head { head: [u8; HEAD_LEN_BYTES], have: usize },
    /// Before this many bytes of a frame's payload.
    Payload(u32),
    /// The connection does not speak HTTP/2.
    Other,
}

impl ParseState {
    /// Returns the position before a frame.
    fn before_frame() -> Self {
        Self::Head { head: [0; HEAD_LEN_BYTES], have: 0 }
    }
}

impl FrameHead {
    fn parse(head: [u8; HEAD_LEN_BYTES]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = head;
        let len = u32::from_be_bytes([0, a, b, c]);
        // The first bit of the stream's number is reserved.
        Self { len, kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) }
    }

    /// Returns true if the frame carries data of a call, which is bounded elsewhere.
    fn carries_data(&self) -> bool {
        self.kind == DATA && (self.flags & END_STREAM != 0 || self.len >= PIECE_LEN_BYTES_MIN)
    }
}

impl FrameMeter {
    pub(crate) fn new() -> Self {
        Self {
            state: ParseState::Preface(0),
            last_stream: 0,
            frames: Bucket::default(),
            earned: 0,
            sent_bytes: 0,
            useless: 0,
            heads: 0,
        }
    }

    /// Counts bytes that were sent to the peer.
    fn sent(&mut self, len: usize) {
        self.sent_bytes += len as u64;
        self.earned = self.earned.saturating_add(self.sent_bytes / BYTES_PER_FRAME);
        self.sent_bytes %= BYTES_PER_FRAME;
        self.earned = self.earned.min(FRAMES.capacity);
    }

    /// Counts the frames that begin in `bytes`, and takes END_STREAM from trailers with fields. Returns false if the
    /// connection must end.
    fn received(&mut self, bytes: &mut [u8], now_ms: u64) -> bool {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.state {
                ParseState::Other => return true,
                ParseState::Preface(have) => {
                    if rest[0] != HTTP2_PREFACE[*have] {
                        self.state = ParseState::Other;
                        return true;
                    }
                    *have += 1;
                    at += 1;
                    if *have == HTTP2_PREFACE.len() {
                        self.state = ParseState::before_frame();
                    }
                }
                ParseState::Payload(left) => {
                    let skipped = rest.len().min(*left as usize);
                    at += skipped;
                    *left -= u32::try_from(skipped).expect("not above `left`");
                    if *left == 0 {
                        self.state = ParseState::before_frame();
                    }
                }
                ParseState::Head { head, have } => {
                    let taken = rest.len().min(HEAD_LEN_BYTES - *have);
                    head[*have..*have + taken].copy_from_slice(&rest[..taken]);
                    *have += taken;
                    at += taken;
                    if *have == HEAD_LEN_BYTES {
                        let head = FrameHead::parse(*head);
                        if !self.begin(head, &mut bytes[..at], now_ms) {
                            return false;
                        }
                    }
                }
            }
        }
        true
    }

    /// Counts a frame whose head is at the end of `read`. Returns false if the connection must end.
    fn begin(&mut self, head: FrameHead, read: &mut [u8], now_ms: u64) -> bool {
        self.state = match head.len {
            0 => ParseState::before_frame(),
            len => ParseState::Payload(len),
        };
        if head.kind != HEADERS {
            return head.carries_data() || self.take(now_ms);
        }
        // The numbers of streams rise (RFC 9113 §5.1.1). Calls are bounded elsewhere.
        if head.stream > self.last_stream {
            self.last_stream = head.stream;
            self.heads = self.heads.wrapping_add(1);
            return true;
        }
        let has_no_fields = head.len == 0 && head.flags & END_HEADERS != 0;
        (has_no_fields || clear_end(read)) && self.take(now_ms)
    }

    /// Takes one frame from the peer's allowance. Returns false if it is used up.
    fn take(&mut self, now_ms: u64) -> bool {
        self.useless = self.useless.wrapping_add(1);
        if let Some(left) = self.earned.checked_sub(1) {
            self.earned = left;
            return true;
        }
        let fits = self.frames.wait_ms(FRAMES, 1, now_ms) == Some(0);
        self.frames.take(FRAMES, 1, now_ms);
        fits
    }
}

/// Takes END_STREAM from the flags of a frame whose head is at the end of `read`. Returns false if an earlier read had
/// these flags.
fn clear_end(read: &mut [u8]) -> bool {
    let Some(at) = read.len().checked_sub(HEAD_LEN_BYTES - FLAGS_AT) else { return false };
    read[at] &= !END_STREAM;
    true
}

/// A connection behind a meter.
pub(crate) type Metered<T> = Filtered<T, MeteredReads>;

/// The meter of a connection, with the clock and the turn that it needs.
pub(crate) struct MeteredReads {
    meter: FrameMeter,
    since: Instant,
    turn: ReadTurn,
    flooded: Box<dyn Fn() + Send>,
    heads: HeadClock,
    unflushed: UnflushedHeads,
}

impl<T> Metered<T> {
    /// Ends reads with an error after calling `flooded` once the peer floods the connection, and notifies `unflushed`
    /// when everything is written.
    pub(crate) fn new(
        inner: T,
        unflushed: UnflushedHeads,
        flooded: impl Fn() + Send + 'static,
    ) -> Self {
        let flooded = Box::new(flooded);
        let (meter, turn, heads) = (FrameMeter::new(), ReadTurn::default(), HeadClock::default());
        let since = Instant::now();
        Self::with(inner, MeteredReads { meter, since, turn, flooded, heads, unflushed })
    }

    /// Returns the clock of the heads of HTTP/1.1.
    pub(crate) fn heads(&self) -> HeadClock {
        self.filter().heads.clone()
    }
}

impl<T: AsyncRead + Unpin> ReadFilter<T> for MeteredReads {
    fn poll_read(
        &mut self,
        inner: &mut T,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn.yield_if_over(cx) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(inner).poll_read(cx, buf) else {
            self.turn.end();
            return Poll::Pending;
        };
        read?;
        let (useless, heads) = (self.meter.useless, self.meter.heads);
        let now_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let carries_on = self.meter.received(&mut buf.filled_mut()[before..], now_ms);
        let begun = self.meter.heads.wrapping_sub(heads);
        self.unflushed.read(begun);
        let answered = self.meter.useless.wrapping_sub(useless);
        let costs_bytes = answered * FRAME_COSTS_BYTES + begun * HEAD_COSTS_BYTES;
        self.turn.took(buf.filled().len() - before + costs_bytes);
        if matches!(self.meter.state, ParseState::Other) && buf.filled().len() > before {
            self.heads.arrived();
        }
        if carries_on {
            return Poll::Ready(Ok(()));
        }
        (self.flooded)();
        Poll::Ready(Err(io::Error::other(FLOODED)))
    }

    fn wrote(&mut self, len_bytes: usize) {
        self.meter.sent(len_bytes);
    }

    fn flushed(&mut self) {
        self.unflushed.flushed();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::read_turn::TURN_BYTES;

    fn frame(kind: u8, flags: u8, len: u32) -> Vec<u8> {
        frame_of(kind, flags, 0, len)
    }

    fn frame_of(kind: u8, flags: u8, stream: u32, len: u32) -> Vec<u8> {
        let [_, a, b, c] = len.to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.resize(HEAD_LEN_BYTES + len as usize, 0xff);
        frame
    }

    fn begun() -> FrameMeter {
        let mut meter = FrameMeter::new();
        assert!(meter.received(&mut HTTP2_PREFACE.to_vec(), 0));
        meter
    }

    /// Returns the number of copies of this frame that pass at once.
    fn passing(meter: &mut FrameMeter, frame: &[u8], now_ms: u64) -> u64 {
        (0..100_000).take_while(|_| meter.received(&mut frame.to_vec(), now_ms)).count() as u64
    }

    #[test]
    fn frames_that_carry_nothing_are_bounded_and_come_back_with_time() {
        for useless in [
            frame(6, 0, 8),
            frame(4, 0, 0),
            frame(3, 0, 4),
            frame(8, 0, 4),
            frame(2, 0, 5),
            frame(9, 0, 10),
            frame(DATA, 0, 0),
            frame(DATA, 0, 1),
            frame(77, 0, 100),
        ] {
            let mut meter = begun();
            assert_eq!(passing(&mut meter, &useless, 0), FRAMES.capacity, "{useless:?}");
            assert!(meter.received(&mut useless.clone(), 10), "a thousand a second");
        }
    }

    #[test]
    fn calls_and_their_messages_are_free() {
        let mut meter = begun();
        for useful in [frame(DATA, 0, 64), frame(DATA, END_STREAM, 5)] {
            assert_eq!(passing(&mut meter, &useful, 0), 100_000);
        }
        for stream in 1..100_000 {
            assert!(meter.received(&mut frame_of(HEADERS, END_HEADERS, stream, 100), 0));
        }
    }

    #[test]
    fn trailers_with_fields_do_not_end_their_request() {
        let request = frame_of(HEADERS, END_HEADERS, 1, 20);
        let at = request.len() + FLAGS_AT;
        for (flags, len) in
            [(END_STREAM | END_HEADERS, 20), (END_STREAM, 20), (END_STREAM, 0), (END_HEADERS, 20)]
        {
            let sent = [request.clone(), frame_of(HEADERS, flags, 1, len)].concat();
            let (mut meter, mut read) = (begun(), sent.clone());
            assert!(meter.received(&mut read, 0));
            assert_eq!((meter.heads, meter.useless), (1, 1), "they begin no request");
            assert_eq!(read[at], flags & !END_STREAM);
            read[at] = flags;
            assert!(read == sent, "nothing else changes");
        }
        // The library has the flags already.
        let (mut meter, mut trailers) = (begun(), frame_of(HEADERS, END_STREAM, 1, 20));
        assert!(meter.received(&mut request.clone(), 0));
        let (passed_on, rest) = trailers.split_at_mut(FLAGS_AT + 1);
        assert!(meter.received(passed_on, 0));
        assert!(!meter.received(rest, 0));
    }

    #[test]
    fn trailers_without_fields_end_their_request_and_are_bounded() {
        let mut meter = begun();
        assert!(meter.received(&mut frame_of(HEADERS, END_HEADERS, 1, 20), 0));
        let sent = frame_of(HEADERS, END_STREAM | END_HEADERS, 1, 0);
        let mut read = sent.clone();
        assert!(meter.received(&mut read, 0));
        assert_eq!(read, sent);
        assert_eq!(passing(&mut meter, &sent, 0), FRAMES.capacity - 1);
    }

    #[test]
    fn a_peer_that_is_sent_much_may_update_its_windows() {
        let mut meter = begun();
        for _ in 0..1_000_000 {
            meter.sent(70);
            assert_eq!((0..2).filter(|_| meter.received(&mut frame(8, 0, 4), 0)).count(), 2);
        }
    }

    #[test]
    fn other_protocols_are_not_metered() {
        let mut meter = FrameMeter::new();
        for _ in 0..100_000 {
            assert!(meter.received(&mut b"PRI * HTTP/1.1\r\n".to_vec(), 0));
        }
    }

    /// A peer sends pings without pause: its connection answers some hundred, and then other tasks have a turn.
    #[tokio::test]
    async fn frames_that_carry_nothing_make_a_turn_shorter() {
        use futures_util::FutureExt as _;
        use tokio::io::AsyncReadExt as _;

        let pings = [HTTP2_PREFACE, &frame(6, 0, 8).repeat(5000)].concat();
        let mut stream =
            Metered::new(std::io::Cursor::new(pings), UnflushedHeads::default(), || {});
        let (mut piece, mut read_bytes) = ([0; 1024], 0);
        while let Some(read) = stream.read(&mut piece).now_or_never() {
            read_bytes += read.unwrap();
        }
        assert!((100 * 17..400 * 17).contains(&read_bytes), "{read_bytes} bytes in one turn");
    }

    /// A peer sends data without pause: other tasks have turns in between.
    #[tokio::test]
    async fn one_connection_reads_a_bounded_number_of_bytes_in_a_turn() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        use tokio::io::AsyncReadExt as _;

        let sent = vec![7; 16 * TURN_BYTES];
        let read_bytes = Arc::new(AtomicUsize::new(0));
        let seen = read_bytes.clone();
        let reading = tokio::spawn(async move {
            let mut stream =
                Metered::new(std::io::Cursor::new(sent), UnflushedHeads::default(), || {});
            let mut piece = [0; 8192];
            while let Ok(len @ 1..) = stream.read(&mut piece).await {
                read_bytes.fetch_add(len, Ordering::Relaxed);
            }
        });
        let next_turn = || {
            let mut is_next = false;
            std::future::poll_fn(move |cx| {
                cx.waker().wake_by_ref();
                if std::mem::replace(&mut is_next, true) { Poll::Ready(()) } else { Poll::Pending }
            })
        };
        let beside = tokio::spawn(async move {
            let mut last = 0;
            while last < 16 * TURN_BYTES {
                next_turn().await;
                let now = seen.load(Ordering::Relaxed);
                // Two turns, because this task checks for the first time after its second turn.
                assert!(now - last <= 2 * (TURN_BYTES + 8192), "{last}, then {now}");
                last = now;
            }
        });
        reading.await.unwrap();
        beside.await.unwrap();
    }

    proptest! {
        /// The result does not depend on how the bytes are cut into pieces.
        #[test]
        fn frames_are_found_however_the_bytes_arrive(
            frames in proptest::collection::vec((0u8..10, 0u8..2, 0u32..300), 0..40),
            piece in 1usize..50,
        ) {
            // Each on a stream of its own, so that there are no trailers.
            let frames: Vec<_> = (1..).zip(frames).collect();
            let sent = frames.iter().flat_map(|(stream, (k, f, len))| frame_of(*k, *f, *stream, *len));
            let mut bytes: Vec<u8> = sent.collect();
            let (mut whole, mut cut) = (begun(), begun());
            prop_assert!(whole.received(&mut bytes, 0));
            for piece in bytes.chunks_mut(piece) {
                prop_assert!(cut.received(piece, 0));
            }
            prop_assert_eq!(whole.frames, cut.frames);
            let is_useless = |(stream, (kind, flags, len)): &&(u32, (u8, u8, u32))| {
                let head = FrameHead { len: *len, kind: *kind, flags: *flags, stream: *stream };
                head.kind != HEADERS && !head.carries_data()
            };
            let useless = frames.iter().filter(is_useless).count() as u64;
            let mut expected = Bucket::default();
            expected.take(FRAMES, useless, 0);
            prop_assert_eq!(whole.frames, expected);
        }
    }
}
