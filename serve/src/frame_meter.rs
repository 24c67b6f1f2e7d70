//! A meter of useless HTTP/2 frames, which carry nothing for a call: pings, settings, resets, window updates,
//! priorities, continuations, tiny pieces of data. Each costs this process work and the peer only a few bytes, and
//! the protocol sets no limit on them.
//!
//! A peer may send a burst of them, a number per second, and a further number for the bytes that it receives and
//! may have to acknowledge. A flood ends the connection. The meter reads frame heads only (RFC 9113 §4.1).

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
/// Length of a frame's head, two types of frames and a flag (RFC 9113 §4.1, §6.1, §6.2).
const HEAD_LEN_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
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
    frames: Bucket,
    /// Useless frames that the peer may send for the bytes that it received.
    earned: u64,
    sent_bytes: u64,
    /// Useless frames since the connection began.
    useless: usize,
    /// Frames with heads of requests since the connection began.
    heads: usize,
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

impl FrameMeter {
    pub(crate) fn new() -> Self {
        Self {
            state: ParseState::Preface(0),
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

    /// Counts the frames that begin in `bytes`. Returns false if they exceed the allowance.
    fn received(&mut self, mut bytes: &[u8], now_ms: u64) -> bool {
        while let Some(&first) = bytes.first() {
            match &mut self.state {
                ParseState::Other => return true,
                ParseState::Preface(have) => {
                    if first != HTTP2_PREFACE[*have] {
                        self.state = ParseState::Other;
                        return true;
                    }
                    *have += 1;
                    if *have == HTTP2_PREFACE.len() {
                        self.state = ParseState::Head { head: [0; HEAD_LEN_BYTES], have: 0 };
                    }
                    bytes = &bytes[1..];
                }
                ParseState::Payload(left) => {
                    let skipped = bytes.len().min(*left as usize);
                    bytes = &bytes[skipped..];
                    *left -= u32::try_from(skipped).expect("not above `left`");
                    if *left == 0 {
                        self.state = ParseState::Head { head: [0; HEAD_LEN_BYTES], have: 0 };
                    }
                }
                ParseState::Head { head, have } => {
                    let taken = bytes.len().min(HEAD_LEN_BYTES - *have);
                    head[*have..*have + taken].copy_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    *have += taken;
                    if *have == HEAD_LEN_BYTES {
                        let head = *head;
                        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                        self.state = match len {
                            0 => ParseState::Head { head: [0; HEAD_LEN_BYTES], have: 0 },
                            len => ParseState::Payload(len),
                        };
                        self.heads = self.heads.wrapping_add(usize::from(head[3] == HEADERS));
                        if !carries(head[3], head[4], len) && !self.take(now_ms) {
                            return false;
                        }
                    }
                }
            }
        }
        true
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

/// Returns true if a frame carries data or headers of a call. Calls and their messages are bounded elsewhere.
fn carries(kind: u8, flags: u8, len: u32) -> bool {
    match kind {
        DATA => flags & END_STREAM != 0 || len >= PIECE_LEN_BYTES_MIN,
        HEADERS => true,
        _ => false,
    }
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
        let carries_on = self.meter.received(&buf.filled()[before..], now_ms);
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
        let [_, a, b, c] = len.to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 0];
        frame.resize(HEAD_LEN_BYTES + len as usize, 0xff);
        frame
    }

    fn begun() -> FrameMeter {
        let mut meter = FrameMeter::new();
        assert!(meter.received(HTTP2_PREFACE, 0));
        meter
    }

    /// Returns the number of copies of this frame that pass at once.
    fn passing(meter: &mut FrameMeter, frame: &[u8], now_ms: u64) -> u64 {
        (0..100_000).take_while(|_| meter.received(frame, now_ms)).count() as u64
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
            assert!(meter.received(&useless, 10), "a thousand a second");
        }
    }

    #[test]
    fn calls_and_their_messages_are_free() {
        let mut meter = begun();
        for useful in [frame(HEADERS, 4, 100), frame(DATA, 0, 64), frame(DATA, END_STREAM, 5)] {
            assert_eq!(passing(&mut meter, &useful, 0), 100_000);
        }
    }

    #[test]
    fn a_peer_that_is_sent_much_may_update_its_windows() {
        let mut meter = begun();
        for _ in 0..1_000_000 {
            meter.sent(70);
            assert!(meter.received(&frame(8, 0, 4), 0) && meter.received(&frame(8, 0, 4), 0));
        }
    }

    #[test]
    fn other_protocols_are_not_metered() {
        let mut meter = FrameMeter::new();
        for _ in 0..100_000 {
            assert!(meter.received(b"PRI * HTTP/1.1\r\n", 0));
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
            let bytes: Vec<u8> = frames.iter().flat_map(|(k, f, len)| frame(*k, *f, *len)).collect();
            let (mut whole, mut cut) = (begun(), begun());
            prop_assert!(whole.received(&bytes, 0));
            for piece in bytes.chunks(piece) {
                prop_assert!(cut.received(piece, 0));
            }
            prop_assert_eq!(whole.frames, cut.frames);
            let useless = frames.iter().filter(|(k, f, len)| !carries(*k, *f, *len)).count() as u64;
            let mut expected = Bucket::default();
            expected.take(FRAMES, useless, 0);
            prop_assert_eq!(whole.frames, expected);
        }
    }
}
