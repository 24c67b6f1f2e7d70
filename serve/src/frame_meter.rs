//! A meter of useless HTTP/2 frames, which carry nothing for a call: pings, settings, resets, window updates,
//! priorities, continuations, tiny pieces of data. Each costs this process work and the peer only a few bytes, and
//! the protocol sets no limit on them.
//!
//! A peer may send a burst of them, a number per second, and a further number for the bytes that it receives and
//! may have to acknowledge. Pings and settings have a smaller burst, because each is answered, and the answers entitle
//! the peer to nothing. Any other frame entitles it to a ping, with which clients measure round trips, and a long
//! answer to few of them. A flood ends the connection. The meter goes by frame heads (RFC 9113 §4.1).
//!
//! Trailers of a request have no meaning in any protocol that is served. The library keeps their fields until the
//! stream ends, also when nothing reads the request any more, and some KiB of short fields take hundreds of KiB. So the
//! meter takes END_STREAM from trailers that have fields. The library then resets the stream (RFC 9113 §8.1) and keeps
//! nothing of it. It has decoded the fields before, on which the compression of later heads depends. Other calls of the
//! connection go on, which may be those of other clients of a proxy that forwards trailers. So that no flag has been
//! passed on before the meter has seen the whole head of its frame, the beginning of a head waits for the rest.
//!
//! A frame of data without content or end is nothing to its call. The library counts a hundred of them in the life of a
//! connection, and then ends it, so one client of a proxy that passes them on would end the calls of all others. The
//! meter changes their type to one that no receiver knows, which the library skips (RFC 9113 §5.5).
//!
//! The library decodes the fields of each frame of a head as it comes, and keeps them until the head is whole. The
//! meter charges such a head, and ends a connection that takes too long for it, or whose share has no room for it.
//! Fields that the library keeps after that are charged, too ([`KeptFields`]).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::bucket::{Bucket, BucketSize};
use crate::charged_bytes::ChargedBytes;
use crate::filtered::{Filtered, ReadFilter};
use crate::frame_head::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLAGS_AT, FrameHead, HEAD_LEN_BYTES, HEADERS,
    HTTP2_PREFACE, KIND_AT, PING, PUSH_PROMISE, SETTINGS, UNASSIGNED,
};
use crate::head_timer::HeadClock;
use crate::kept_fields::KeptFields;
use crate::read_turn::ReadTurn;
use crate::unflushed::UnflushedHeads;

/// A data frame below this length counts as useless, unless it ends its request: one for each request that has begun.
/// A guess: the head of a message alone has 5 bytes, and many clients send it by itself.
const PIECE_LEN_BYTES_MIN: u32 = 64;
/// Allowance of useless frames: the burst, and a refill of 1,000 a second. Guesses: a client sends a few pings a
/// minute, and a balancer in front of thousands of clients some hundred resets a second.
const FRAMES: BucketSize = BucketSize { capacity: 10_000, window_ms: 10_000 };
/// Allowance of pings and settings, which the library answers: the burst, and a refill of 10 a second. Guesses: a
/// client sends settings once, and a ping every ten seconds at most. Clients that measure round trips send more
/// ([`BYTES_PER_PING`]). No balancer passes on those of its clients.
const ANSWERED_FRAMES: BucketSize = BucketSize { capacity: 250, window_ms: 25_000 };
/// Bytes sent to the peer, beside answers to pings, that entitle it to one more ping: the shortest frame with data or
/// fields. Clients that measure round trips send a ping for a frame of data if the one before is answered, hundreds in
/// a second on a near network, and some a window update with each. Others send one for a call that they cancel, if
/// data or fields have come since the last answer. So each has had such a frame since its last ping was answered.
const BYTES_PER_PING: u64 = HEAD_LEN_BYTES as u64 + 1;
/// The maximum number of pings to which sent bytes entitle a peer at a time. A guess: one is enough for the clients
/// above.
const EARNED_PINGS_MAX: u64 = 10;
/// Bytes sent to the peer that entitle it to one more useless frame that has no answer. A guess: an answer of one
/// small message takes about 100, and some clients update two windows for it.
const BYTES_PER_FRAME: u64 = 32;

/// Bytes that a useless frame adds to a turn besides its own. A guess: answering a ping takes some tenths of a
/// microsecond, as reading this many bytes does.
const FRAME_COSTS_BYTES: usize = 256;

/// Length below which a frame of data adds as much to a turn, unless it ends its request. Its place in the library's
/// table is longer than it is, so a turn has some hundred of them, which calls read before the next ones come. Padding
/// counts to the length of a frame and not to its data, so no other bound counts these frames.
const SHORT_DATA_LEN_BYTES: u32 = 256;

/// Bytes that the head of a request adds to a turn. A guess: what the request takes until it is answered. Without it a
/// turn could begin two thousand requests, and the library keeps room for as many for as long as the connection lasts.
const HEAD_COSTS_BYTES: usize = 1024;

/// The longest buffer for reading HTTP/1 that the charge of every connection covers, in bytes. The library begins with
/// 8 KiB, and takes twice as much for a head that comes in two parts.
const BUFFER_BYTES: usize = 16 * 1024;

/// Text of the error that ends the connection.
pub(crate) const FLOODED: &str = "too many HTTP/2 frames that carry nothing";

/// The meter of one connection. A plain value: bytes and time are arguments.
#[derive(Debug)]
pub(crate) struct FrameMeter {
    state: ParseState,
    /// The stream of the newest request. The first request of a connection that has switched to HTTP/2 passes the meter
    /// by, whole, so that it has no trailers.
    last_stream: u32,
    block: HeaderBlock,
    /// Header blocks of several frames, since the connection began.
    blocks: usize,
    frames: Bucket,
    answered_frames: Bucket,
    /// Bytes of answers to pings and settings that are to be sent, which entitle the peer to nothing.
    answer_bytes: u64,
    /// Useless frames without an answer that the peer may send for the bytes that it received.
    earned: u64,
    /// Pings and settings that the peer may send for the frames that it received.
    earned_pings: u64,
    /// Bytes sent since the last earned ping.
    unpinged_bytes: u64,
    sent_bytes: u64,
    /// Useless frames since the connection began.
    useless: usize,
    /// Frames with which the heads of requests begin, since the connection began.
    heads: usize,
    /// Frames of data, since the connection began, and the short ones among them that end no request.
    data: usize,
    short_data: usize,
    /// Begun requests that may yet end with a frame of little or no data.
    unended: u64,
    fields: KeptFields,
}

/// The newest header block: the fields of a head, or of trailers (RFC 9113 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderBlock {
    /// All of it is in its first frame, or has come.
    Whole,
    /// Further frames are to come.
    Begun,
    /// Its last frame is on its way.
    Ending,
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
    /// Returns true if the frame carries data of a call, which is bounded elsewhere.
    fn carries_data(&self) -> bool {
        self.kind == DATA && self.len >= PIECE_LEN_BYTES_MIN
    }

    fn ends_data(&self) -> bool {
        self.kind == DATA && self.flags & END_STREAM != 0
    }

    /// Returns the length of the frame that the library sends in answer to this one alone, if it sends one.
    fn answer_len_bytes(&self) -> Option<usize> {
        match self.kind {
            _ if self.flags & ACK != 0 => None,
            PING => Some(HEAD_LEN_BYTES + 8),
            SETTINGS => Some(HEAD_LEN_BYTES),
            _ => None,
        }
    }
}

impl FrameMeter {
    pub(crate) fn new() -> Self {
        Self {
            state: ParseState::Preface(0),
            last_stream: 0,
            block: HeaderBlock::Whole,
            blocks: 0,
            frames: Bucket::default(),
            answered_frames: Bucket::default(),
            answer_bytes: 0,
            earned: 0,
            earned_pings: 0,
            unpinged_bytes: 0,
            sent_bytes: 0,
            useless: 0,
            heads: 0,
            data: 0,
            short_data: 0,
            unended: 0,
            fields: KeptFields::default(),
        }
    }

    /// Counts bytes that were sent to the peer.
    fn sent(&mut self, len: usize) {
        let of_answers = self.answer_bytes.min(len as u64);
        self.answer_bytes -= of_answers;
        let of_calls = len as u64 - of_answers;
        self.unpinged_bytes += of_calls;
        self.earned_pings += self.unpinged_bytes / BYTES_PER_PING;
        self.unpinged_bytes %= BYTES_PER_PING;
        self.earned_pings = self.earned_pings.min(EARNED_PINGS_MAX);
        self.sent_bytes += of_calls;
        self.earned = self.earned.saturating_add(self.sent_bytes / BYTES_PER_FRAME);
        self.sent_bytes %= BYTES_PER_FRAME;
        self.earned = self.earned.min(FRAMES.capacity);
    }

    /// Counts the frames that begin in `bytes`, takes END_STREAM from trailers with fields, and has the library skip
    /// empty data. Returns false if the connection must end.
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
                    self.fields.read(&rest[..skipped]);
                    at += skipped;
                    *left -= u32::try_from(skipped).expect("not above `left`");
                    if *left == 0 {
                        self.end_frame();
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
        match (head.kind, head.flags & END_HEADERS != 0) {
            (HEADERS | PUSH_PROMISE, false) => {
                self.block = HeaderBlock::Begun;
                self.blocks = self.blocks.wrapping_add(1);
            }
            (CONTINUATION, true) => self.block = HeaderBlock::Ending,
            _ => {}
        }
        self.fields.begin(head);
        self.state = ParseState::Payload(head.len);
        if head.len == 0 {
            self.end_frame();
        }
        if head.kind == DATA && head.len == 0 && !head.ends_data() {
            if let Some(kind) = byte_of_head(read, KIND_AT) {
                *kind = UNASSIGNED;
            }
            return self.take(head, now_ms);
        }
        if head.kind == DATA {
            let is_short = head.len < SHORT_DATA_LEN_BYTES && !head.ends_data();
            self.data = self.data.wrapping_add(1);
            self.short_data = self.short_data.wrapping_add(usize::from(is_short));
        }
        if head.kind != HEADERS {
            let ends = head.ends_data() && self.take_end();
            return ends || head.carries_data() || self.take(head, now_ms);
        }
        // The numbers of streams rise (RFC 9113 §5.1.1). Calls are bounded elsewhere.
        if head.stream > self.last_stream {
            self.last_stream = head.stream;
            self.heads = self.heads.wrapping_add(1);
            self.unended += u64::from(head.flags & END_STREAM == 0);
            return true;
        }
        let has_no_fields = head.len == 0 && head.flags & END_HEADERS != 0;
        (has_no_fields || clear_end(read)) && self.take(head, now_ms)
    }

    /// Goes on behind a frame that is here.
    fn end_frame(&mut self) {
        self.state = ParseState::before_frame();
        if self.block == HeaderBlock::Ending {
            self.block = HeaderBlock::Whole;
        }
    }

    /// Returns the beginning of a frame's head that is not whole.
    fn begun_head(&self) -> &[u8] {
        match &self.state {
            ParseState::Head { head, have } => &head[..*have],
            _ => &[],
        }
    }

    /// Returns the number of the header block that is not whole.
    fn unfinished_block(&self) -> Option<usize> {
        (self.block != HeaderBlock::Whole).then_some(self.blocks)
    }

    /// Counts the end of a request. Returns false if as many have ended as were begun: the library drops or refuses an
    /// end of a stream that it has forgotten, and so counts few of them.
    fn take_end(&mut self) -> bool {
        let left = self.unended.checked_sub(1);
        self.unended = left.unwrap_or(0);
        left.is_some()
    }

    /// Takes one frame from the peer's allowance. Returns false if it is used up.
    fn take(&mut self, head: FrameHead, now_ms: u64) -> bool {
        self.useless = self.useless.wrapping_add(1);
        let (bucket, size, earned) = match head.answer_len_bytes() {
            Some(len_bytes) => {
                self.answer_bytes += len_bytes as u64;
                (&mut self.answered_frames, ANSWERED_FRAMES, &mut self.earned_pings)
            }
            None => (&mut self.frames, FRAMES, &mut self.earned),
        };
        if let Some(left) = earned.checked_sub(1) {
            *earned = left;
            return true;
        }
        let fits = bucket.wait_ms(size, 1, now_ms) == Some(0);
        bucket.take(size, 1, now_ms);
        fits
    }
}

/// Takes END_STREAM from the flags of a frame whose head is at the end of `read`. Returns false if an earlier read had
/// these flags.
fn clear_end(read: &mut [u8]) -> bool {
    byte_of_head(read, FLAGS_AT).map(|flags| *flags &= !END_STREAM).is_some()
}

/// Returns a byte of the head that is at the end of `read`; `None` if an earlier read had it.
fn byte_of_head(read: &mut [u8], place: usize) -> Option<&mut u8> {
    let at = read.len().checked_sub(HEAD_LEN_BYTES - place)?;
    read.get_mut(at)
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
    head_timeout: Duration,
    unfinished: Option<UnfinishedBlock>,
    /// The head of a frame that came in parts, as far as the reader does not have it yet.
    whole_head: Vec<u8>,
    /// The length of the longest buffer for reading HTTP/1 that the connection is charged for.
    buffer_bytes: usize,
}

/// A header block of which frames are to come.
struct UnfinishedBlock {
    number: usize,
    /// The end of its time.
    late: Pin<Box<Sleep>>,
    _charged: Option<ChargedBytes>,
}

impl<T> Metered<T> {
    /// Ends reads with an error after calling `flooded` once the peer floods the connection, or if a header block takes
    /// longer than `head_timeout`. Notifies `unflushed` when everything is written.
    pub(crate) fn new(
        inner: T,
        head_timeout: Duration,
        unflushed: UnflushedHeads,
        flooded: impl Fn() + Send + 'static,
    ) -> Self {
        let reads = MeteredReads {
            meter: FrameMeter::new(),
            since: Instant::now(),
            turn: ReadTurn::default(),
            flooded: Box::new(flooded),
            heads: HeadClock::default(),
            unflushed,
            head_timeout,
            unfinished: None,
            whole_head: Vec::new(),
            buffer_bytes: BUFFER_BYTES,
        };
        Self::with(inner, reads)
    }

    /// Returns the clock of the heads of HTTP/1.1.
    pub(crate) fn heads(&self) -> HeadClock {
        self.filter().heads.clone()
    }
}

impl MeteredReads {
    /// Charges a header block, and begins its time, until it is whole.
    ///
    /// # Errors
    /// The error that ends the connection, if there is no memory for the block.
    fn follow_block(&mut self) -> io::Result<()> {
        let number = self.meter.unfinished_block();
        self.unfinished.take_if(|block| Some(block.number) != number);
        let Some(number) = number.filter(|_| self.unfinished.is_none()) else { return Ok(()) };
        let charged = self.unflushed.begin_unfinished().map_err(io::Error::other)?;
        let late = Box::pin(sleep(self.head_timeout));
        self.unfinished = Some(UnfinishedBlock { number, late, _charged: charged });
        Ok(())
    }

    /// Charges the connection for the buffer into which it reads HTTP/1. The library makes it longer for a peer that
    /// sends much at once, and keeps it while the connection is idle.
    fn follow_buffer(&mut self, len_bytes: usize) {
        if let Some(more) = len_bytes.checked_sub(self.buffer_bytes).filter(|more| *more > 0) {
            self.unflushed.keep(more);
            self.buffer_bytes = len_bytes;
        }
    }

    /// Counts frames in bytes that have come.
    ///
    /// # Errors
    /// The error that ends the connection, if the peer floods it, or if there is no memory for what the library keeps.
    fn count(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let FrameMeter { useless, heads, data, short_data, .. } = self.meter;
        let now_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let carries_on = self.meter.received(bytes, now_ms);
        let begun = self.meter.heads.wrapping_sub(heads);
        self.unflushed.read(begun);
        let begun_data = self.meter.data.wrapping_sub(data);
        self.unflushed.read_data(begun_data).map_err(io::Error::other)?;
        self.follow_block()?;
        let kept_bytes = self.meter.fields.take_owed_bytes();
        self.unflushed.keep_if_free(kept_bytes).map_err(io::Error::other)?;
        let answered = self.meter.useless.wrapping_sub(useless);
        let short = self.meter.short_data.wrapping_sub(short_data);
        let costs_bytes = (answered + short) * FRAME_COSTS_BYTES + begun * HEAD_COSTS_BYTES;
        self.turn.took(bytes.len() + costs_bytes);
        if matches!(self.meter.state, ParseState::Other) && !bytes.is_empty() {
            self.heads.arrived();
        }
        if carries_on {
            return Ok(());
        }
        (self.flooded)();
        Err(io::Error::other(FLOODED))
    }

    /// Ends the turn: no data is waiting.
    fn end_turn(&mut self) {
        self.turn.end();
        self.unflushed.end_turn();
    }

    /// Reads the rest of a frame's head, and passes all of it on.
    fn poll_head<T: AsyncRead + Unpin>(
        &mut self,
        inner: &mut T,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut head = self.meter.begun_head().to_vec();
        while head.len() < HEAD_LEN_BYTES {
            let mut rest = [0; HEAD_LEN_BYTES];
            let mut piece = ReadBuf::new(&mut rest[head.len()..]);
            let Poll::Ready(read) = Pin::new(&mut *inner).poll_read(cx, &mut piece) else {
                self.end_turn();
                return Poll::Pending;
            };
            read?;
            let came = piece.filled_mut();
            if came.is_empty() {
                return Poll::Ready(Ok(())); // the peer is gone
            }
            head.extend_from_slice(came);
            if head.len() < HEAD_LEN_BYTES {
                self.count(came)?;
            }
        }
        // Its parts were counted as the beginning of this head.
        self.meter.state = ParseState::before_frame();
        self.count(&mut head)?;
        self.whole_head = head;
        self.pass_head_on(buf);
        Poll::Ready(Ok(()))
    }

    /// Passes on as much of a frame's head as the reader has room for.
    fn pass_head_on(&mut self, buf: &mut ReadBuf<'_>) {
        let len = self.whole_head.len().min(buf.remaining());
        buf.put_slice(&self.whole_head[..len]);
        self.whole_head.drain(..len);
    }

    /// Completes when the header block that is not whole has had its time.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.unfinished {
            Some(block) => block.late.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> ReadFilter<T> for MeteredReads {
    fn poll_read(
        &mut self,
        inner: &mut T,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_late(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.unflushed.are_many_arriving() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.turn.yield_if_over(cx) {
            self.unflushed.end_turn();
            return Poll::Pending;
        }
        if !self.whole_head.is_empty() {
            self.pass_head_on(buf);
            return Poll::Ready(Ok(()));
        }
        if !self.meter.begun_head().is_empty() {
            return self.poll_head(inner, cx, buf);
        }
        if matches!(self.meter.state, ParseState::Other) {
            self.follow_buffer(buf.remaining());
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut *inner).poll_read(cx, buf) else {
            self.end_turn();
            return Poll::Pending;
        };
        read?;
        self.count(&mut buf.filled_mut()[before..])?;
        let waits = self.meter.begun_head().len();
        buf.set_filled(buf.filled().len() - waits);
        if waits > 0 && buf.filled().len() == before {
            return self.poll_head(inner, cx, buf);
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, len_bytes: usize) {
        self.meter.sent(len_bytes);
    }

    fn flushed(&mut self) {
        self.unflushed.flushed();
    }
}

#[cfg(test)]
#[path = "frame_meter_tests.rs"]
mod tests;
