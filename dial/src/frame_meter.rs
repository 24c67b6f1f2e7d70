//! The bound of HTTP/2 frames by which a server costs its caller work, and which carry nothing: pings, settings, window
//! updates, resets, tiny pieces of data, frames of unknown types, heads of responses that are not the last.
//!
//! Each costs the peer a few bytes. The HTTP library answers or drops each, or keeps it until the response comes, and
//! counts few of them. An honest peer sends some for each call and for each piece of a message, and a ping at times.
//! A hostile one is left. The meter reads frame heads only (RFC 9113 §4.1), so it is above TLS.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::events_left::EventsLeft;
use crate::short_chains::HostTls;

/// Lengths of a frame's head, and of what the caller sends before its first frame (RFC 9113 §3.4, §4.1).
const HEAD_LEN_BYTES: usize = 9;
const PREFACE_LEN_BYTES: usize = 24;
/// Types of frames, and two flags (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
/// A data frame below this length carries nothing. A guess, as for callers: the head of a message alone has 5 bytes.
const PIECE_LEN_BYTES_MIN: usize = 64;
/// Frames that may come at once, and the time after which one more may. Guesses, as for callers: they take a core some
/// ten milliseconds, and thousands of idle streams have their keep-alives.
const FRAMES_MAX: u32 = 10_000;
const FRAME_EVERY: Duration = Duration::from_millis(1);
/// Pings and settings that may come at once, and the time after which one more may. The library answers each of them.
/// Guesses, as for callers.
const ANSWERED_FRAMES_MAX: u32 = 250;
const ANSWERED_FRAME_EVERY: Duration = Duration::from_millis(100);
/// Further frames that a call explains. A guess: updates of two windows, a short message, its end.
const FRAMES_PER_CALL: u32 = 4;
/// Heads of the response to one call. An answer of gRPC has two, counting its trailers. A guess: proxies send a few
/// informational ones. The library keeps all of them, of 16 KiB each, until the response is read.
const HEADS_PER_CALL_MAX: u8 = 8;

/// Frames that one of data explains, and further ones for each KiB in it. A server gives room back for what it has
/// read, of the stream and of the connection: those of Go for each 4 KiB, and earlier ones for each piece.
const FRAMES_PER_DATA: u32 = 2;
const BYTES_PER_FRAME: usize = 1024;

/// The time of the last flood of a server that ended a connection to it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FrameFlood(Arc<Mutex<Option<Instant>>>);

impl FrameFlood {
    /// Returns the time of the last flood; `None` if there was none.
    #[must_use]
    pub fn last(&self) -> Option<Instant> {
        *self.0.lock()
    }

    /// Returns the error of a connection that a flood has ended, or that is not opened again for that.
    #[must_use]
    pub fn error() -> io::Error {
        io::Error::other("too many HTTP/2 frames that carry nothing")
    }
}

/// A connection, with or without TLS.
pub trait HostStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> HostStream for T {}

/// A connection behind the meter.
pub struct MeteredStream {
    inner: Box<dyn HostStream>,
    meter: FrameMeter,
    flood: FrameFlood,
}

impl MeteredStream {
    /// Ends reads with an error, and notes `flood`, once the server floods the connection.
    #[must_use]
    pub fn new(inner: Box<dyn HostStream>, flood: FrameFlood) -> Self {
        Self { inner, meter: FrameMeter::new(Instant::now()), flood }
    }

    /// Returns a connection to a host behind its meter, after the handshake of TLS if there is `tls`. The caller limits
    /// the time.
    ///
    /// # Errors
    /// The errors of [`HostTls::connect`].
    pub async fn over(tcp: TcpStream, tls: Option<HostTls>, flood: FrameFlood) -> io::Result<Self> {
        let stream: Box<dyn HostStream> = match tls {
            Some(tls) => Box::new(tls.connect(tcp).await?),
            None => Box::new(tcp),
        };
        Ok(Self::new(stream, flood))
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, into))?;
        let now = Instant::now();
        if self.meter.received(&into.filled()[before..], now) {
            return Poll::Ready(Ok(()));
        }
        *self.flood.0.lock() = Some(now);
        Poll::Ready(Err(FrameFlood::error()))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        self.meter.sent(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// The meter of one connection. A plain value: bytes and time are arguments.
#[derive(Debug)]
struct FrameMeter {
    received: FrameHeads,
    sent: FrameHeads,
    /// Heads that have come of the response to each open call, by its stream. This node's calls bound their number.
    heads: BTreeMap<u32, u8>,
    frames: EventsLeft,
    answered_frames: EventsLeft,
}

impl FrameMeter {
    fn new(now: Instant) -> Self {
        Self {
            received: FrameHeads::after(0),
            sent: FrameHeads::after(PREFACE_LEN_BYTES),
            heads: BTreeMap::new(),
            frames: EventsLeft::new(FRAMES_MAX, FRAME_EVERY, now),
            answered_frames: EventsLeft::new(ANSWERED_FRAMES_MAX, ANSWERED_FRAME_EVERY, now),
        }
    }

    /// Notes the calls that begin and end, and the data, in bytes that were sent to the peer.
    fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.sent.next(&mut bytes) {
            match frame.kind {
                HEADERS => {
                    self.heads.insert(frame.stream, 0);
                    self.frames.add(FRAMES_PER_CALL);
                    self.answered_frames.add(1);
                }
                DATA => {
                    let updates = u32::try_from(frame.len / BYTES_PER_FRAME).unwrap_or(u32::MAX);
                    self.frames.add(updates.saturating_add(FRAMES_PER_DATA));
                    self.answered_frames.add(1); // by such pings some servers measure how fast data comes
                }
                RST_STREAM => {
                    self.heads.remove(&frame.stream);
                }
                _ => {}
            }
        }
    }

    /// Counts the frames whose heads end in `bytes`. Returns false if the connection must end.
    fn received(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        let mut fits = true;
        while let Some(frame) = self.received.next(&mut bytes) {
            fits &= self.take(frame, now);
        }
        fits
    }

    /// Counts a frame. Returns false if it is one too many.
    fn take(&mut self, frame: FrameHead, now: Instant) -> bool {
        let fits = match frame.kind {
            DATA if frame.len >= PIECE_LEN_BYTES_MIN => {
                // Proxies cut messages where their own buffers end, and leave short pieces between long ones.
                self.frames.add(1);
                true
            }
            HEADERS => match self.heads.get_mut(&frame.stream) {
                Some(heads) => {
                    *heads = heads.saturating_add(1);
                    *heads <= HEADS_PER_CALL_MAX
                }
                None => self.frames.take(now),
            },
            PING | SETTINGS if frame.flags & ACK == 0 => self.answered_frames.take(now),
            _ => self.frames.take(now),
        };
        let is_end = matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0;
        if is_end || frame.kind == RST_STREAM {
            self.heads.remove(&frame.stream);
        }
        fits
    }
}

/// The head of a frame (RFC 9113 §4.1).
#[derive(Debug, Clone, Copy)]
struct FrameHead {
    /// Bytes of the frame's payload.
    len: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// The heads of frames in the bytes of one direction, which may be cut anywhere.
#[derive(Debug)]
struct FrameHeads {
    /// Bytes before the next head.
    skip: usize,
    head: [u8; HEAD_LEN_BYTES],
    /// Bytes of `head` that have been read.
    have: usize,
}

impl FrameHeads {
    /// Begins before as many bytes that are no frame.
    fn after(skip: usize) -> Self {
        Self { skip, head: [0; HEAD_LEN_BYTES], have: 0 }
    }

    /// Takes bytes up to the end of the next head, or all of them.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        *bytes = &bytes[skipped..];
        let taken = bytes.len().min(HEAD_LEN_BYTES - self.have);
        self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
        self.have += taken;
        *bytes = &bytes[taken..];
        if self.have < HEAD_LEN_BYTES {
            return None;
        }
        self.have = 0;
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
        // The first bit of the stream's number is reserved.
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        Some(FrameHead { len: self.skip, kind, flags, stream })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, len: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, len, kind, flags, 0, 0, 0, stream];
        frame.resize(HEAD_LEN_BYTES + usize::from(len), 0xff);
        frame
    }

    /// Returns a meter of a connection on which call 1 was sent.
    fn asked(now: Instant) -> FrameMeter {
        let mut meter = FrameMeter::new(now);
        meter.sent(&[vec![0xff; PREFACE_LEN_BYTES], frame(HEADERS, 4, 1, 30)].concat());
        meter
    }

    /// Returns the number of copies of a frame that pass at once.
    fn passing(meter: &mut FrameMeter, frame: &[u8], now: Instant) -> u32 {
        let mut count = 0;
        while count < 100_000 && meter.received(frame, now) {
            count += 1;
        }
        count
    }

    #[test]
    fn frames_that_carry_nothing_are_bounded_and_come_back_with_time() {
        let start = Instant::now();
        for (useless, most, each_second) in [
            (frame(PING, 0, 0, 8), ANSWERED_FRAMES_MAX, 10),
            (frame(SETTINGS, 0, 0, 6), ANSWERED_FRAMES_MAX, 10),
            (frame(PING, ACK, 0, 8), FRAMES_MAX, 1_000),
            (frame(SETTINGS, ACK, 0, 0), FRAMES_MAX, 1_000),
            (frame(8, 0, 0, 4), FRAMES_MAX, 1_000),
            (frame(RST_STREAM, 0, 1, 4), FRAMES_MAX, 1_000),
            (frame(77, 0, 0, 100), FRAMES_MAX, 1_000),
            (frame(DATA, 0, 1, 63), FRAMES_MAX, 1_000),
            (frame(HEADERS, 4, 3, 9), FRAMES_MAX, 1_000),
        ] {
            let mut meter = asked(start);
            assert_eq!(passing(&mut meter, &useless, start), most, "{useless:?}");
            let later = start + Duration::from_secs(1);
            assert_eq!(passing(&mut meter, &useless, later), each_second, "{useless:?}");
        }
    }

    #[test]
    fn a_response_has_few_heads_and_its_call_explains_no_others() {
        let now = Instant::now();
        let mut meter = asked(now);
        let head = frame(HEADERS, 4, 1, 9);
        assert_eq!(passing(&mut meter, &head, now), u32::from(HEADS_PER_CALL_MAX));
    }

    /// A peer that answers fast, through a proxy that cuts its messages, and measures round trips.
    #[test]
    fn calls_and_their_messages_explain_what_comes_with_them() {
        let now = Instant::now();
        let mut meter = asked(now);
        let answer = [
            frame(8, 0, 0, 4),
            frame(PING, 0, 0, 8),
            frame(HEADERS, 4, 1, 30),
            frame(DATA, 0, 1, 200),
            frame(DATA, 0, 1, 7),
            frame(HEADERS, 4 | END_STREAM, 1, 20),
        ]
        .concat();
        for round in 0..20_000 {
            // However the bytes are cut.
            for piece in answer.chunks(1 + round % 40) {
                assert!(meter.received(piece, now), "round {round}");
            }
            assert!(meter.heads.is_empty(), "the call has ended");
            meter.sent(&frame(HEADERS, 4, 1, 30));
        }
    }
    /// A server that gives room back for each 4 KiB of a long request, as those of Go do.
    #[test]
    fn room_that_a_server_gives_back_for_what_it_was_sent_is_no_flood() {
        let now = Instant::now();
        let mut meter = asked(now);
        let mut data = vec![0, 0x40, 0, DATA, 0, 0, 0, 0, 1];
        data.resize(HEAD_LEN_BYTES + 16 * 1024, 0);
        let updates = frame(8, 0, 0, 4).repeat(8);
        for number in 0..5_000 {
            meter.sent(&data);
            assert!(meter.received(&updates, now), "{number}");
        }
    }
}
