//! The control stream of a session: one frame after another, in both directions.
//!
//! A frame costs far more time than its bytes: a peer could have a core work by sending one megabyte of frames in a
//! second. Frames that have arrived never make the reading task wait, so the task would keep its thread. So frames are
//! read at a pace. A faster peer is slowed down by its window, and breaks no rule.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use hawser_proto::frame::{
    ClockFrame, CloseCode, ControlDecoder, ControlFrame, FrameError, GAPS_ALONE, MAX_CLOCK_ENTRIES,
    MAX_CONTROL_FRAME,
};
use hawser_proto::{Cursor, one_line};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, WriteError};
use tokio::time::{Instant, sleep_until};

use crate::counters::PeerError;
use crate::streams::ReceivedStream;

/// A peer that accepts no control frame for this long is given up. Guessed: several round trips on
/// the worst link, and short enough that a stuck peer frees its session.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// Time of the pace that a frame takes, and one more for each [`BYTES_AS_FRAME`] of the stream. A guess: a frame costs
/// up to 20 µs, so a peer takes a twentieth of a core.
const FRAME_EVERY: Duration = Duration::from_micros(500);
const BYTES_AS_FRAME: u32 = 4096;
/// Frames as which a want counts. A guess: it has a stream opened and a short page read, a tenth of a millisecond each,
/// whether the peer takes them or replaces the want at once.
const WANT_AS_FRAMES: u32 = 4;
/// Frames as which a want for gaps alone counts. A guess: a thousand marks of the log take longer than a short page.
const GAPS_WANT_AS_FRAMES: u32 = 8;
/// Frames as which a statement about void places counts. A guess: its signature is checked, which takes less than a
/// tenth of a millisecond.
const VOID_AS_FRAMES: u32 = 4;
/// Time by which frames may be ahead of the pace. Calculated: a thousand frames at once, among them 250 wants. An
/// honest peer sends one for each of its strands when it connects.
const FRAMES_AHEAD: Duration = Duration::from_millis(512);

/// The reason a stream, or a whole session, ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    /// The peer broke the protocol, or was not let in.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer has closed the connection.
    #[error("closed by the peer: {0:?}")]
    Closed(CloseCode),
    /// The connection failed, or the peer does not respond.
    #[error("{0}")]
    Lost(String),
    /// This node dials no peer at the addresses of this one.
    #[error("{0}")]
    NotDialled(String),
}

impl SessionError {
    /// Returns the error of a look-up that has given no address to dial.
    pub(crate) fn of_look_up(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NotDialled(error.to_string()),
            _ => Self::Lost(error.to_string()),
        }
    }

    /// Returns true when an immediate retry would most likely fail in the same way.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Peer(_) => true,
            Self::Closed(code) => match code {
                CloseCode::ProtocolViolation
                | CloseCode::NoCommonVersion
                | CloseCode::UnknownNode
                | CloseCode::BadProof
                | CloseCode::BadEnvelope => true,
                CloseCode::Shutdown
                | CloseCode::WrongNode
                | CloseCode::HandshakeTimeout
                | CloseCode::Duplicate
                | CloseCode::Busy
                | CloseCode::Internal => false,
            },
            Self::Lost(_) | Self::NotDialled(_) => false,
        }
    }
}

impl From<FrameError> for SessionError {
    fn from(error: FrameError) -> Self {
        Self::Peer(error.into())
    }
}

impl From<ConnectionError> for SessionError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let code = CloseCode::from_code(close.error_code.into_inner());
                Self::Closed(code.unwrap_or(CloseCode::Shutdown))
            }
            error => Self::Lost(text_of(&error)),
        }
    }
}

/// Returns the text of an error as one line. It goes into logs and the status, and a peer whose QUIC closes the
/// connection has a text of its own in it.
fn text_of(error: &ConnectionError) -> String {
    one_line(&error.to_string())
}

impl From<WriteError> for SessionError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            error => Self::Lost(error.to_string()),
        }
    }
}

impl From<ReadError> for SessionError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            error => Self::Lost(error.to_string()),
        }
    }
}

/// The pace at which frames are read. Not a limit of a library: the cost of a frame is known after it was read, and no
/// frame is refused.
#[derive(Debug)]
struct FramePace {
    /// The time at which everything that was read is paid for.
    paid_at: Instant,
}

impl FramePace {
    fn new(now: Instant) -> Self {
        Self { paid_at: now }
    }

    /// Counts a frame that costs as much as `as_frames` small ones.
    fn note_frame(&mut self, now: Instant, as_frames: u32) {
        self.paid_at = self.paid_at.max(now) + FRAME_EVERY * as_frames;
    }

    /// Counts bytes of the stream.
    fn note_bytes(&mut self, now: Instant, len: usize) {
        let frames = u32::try_from(len).unwrap_or(u32::MAX);
        self.paid_at = self.paid_at.max(now) + FRAME_EVERY * frames / BYTES_AS_FRAME;
    }

    /// Returns the time from which on the next frame is read; `None` for at once.
    fn waits_until(&self, now: Instant) -> Option<Instant> {
        let ahead = self.paid_at.saturating_duration_since(now);
        ahead.checked_sub(FRAMES_AHEAD).filter(|wait| !wait.is_zero()).map(|wait| now + wait)
    }
}

/// Returns the number of small frames as which a frame counts.
fn as_frames(frame: &ControlFrame) -> u32 {
    match frame {
        ControlFrame::Want(want) if want.bytes_max == GAPS_ALONE => GAPS_WANT_AS_FRAMES,
        ControlFrame::Want(_) => WANT_AS_FRAMES,
        ControlFrame::Void(_) => VOID_AS_FRAMES,
        _ => 1,
    }
}

/// The receiving half of a control stream.
pub(crate) struct ControlReader {
    stream: ReceivedStream,
    decoder: ControlDecoder,
    pace: FramePace,
}

impl ControlReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        let (stream, decoder) = (ReceivedStream::new(stream), ControlDecoder::new());
        Self { stream, decoder, pace: FramePace::new(Instant::now()) }
    }

    /// Reads the next frame, at the pace of all frames. Cancel safe.
    ///
    /// # Errors
    /// When the peer breaks the protocol, or the stream ends: a control stream lasts as long as its
    /// connection.
    pub(crate) async fn next(&mut self) -> Result<ControlFrame, SessionError> {
        loop {
            if let Some(at) = self.pace.waits_until(Instant::now()) {
                sleep_until(at).await;
            }
            if let Some(frame) = self.decoder.next_frame()? {
                self.pace.note_frame(Instant::now(), as_frames(&frame));
                return Ok(frame);
            }
            let limit = usize::try_from(MAX_CONTROL_FRAME).unwrap_or(usize::MAX);
            match self.stream.read_chunk(limit, true).await? {
                Some(chunk) => {
                    self.pace.note_bytes(Instant::now(), chunk.bytes.len());
                    self.decoder.push(chunk.bytes);
                }
                None => {
                    self.decoder.finish()?;
                    return Err(SessionError::Lost("the control stream has ended".to_owned()));
                }
            }
        }
    }
}

/// The sending half of a control stream.
pub(crate) struct ControlWriter {
    stream: SendStream,
    buffer: BytesMut,
}

impl ControlWriter {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// Writes one frame and waits until QUIC has taken it.
    ///
    /// # Errors
    /// When the connection fails, or the peer accepts nothing for [`WRITE_MAX`].
    pub(crate) async fn send(&mut self, frame: ControlFrame) -> Result<(), SessionError> {
        frame.encode(&mut self.buffer).expect("callers split clocks and offer few versions");
        let write = self.stream.write_all(&self.buffer);
        match tokio::time::timeout(WRITE_MAX, write).await {
            Ok(written) => written?,
            Err(_) => {
                return Err(SessionError::Lost(
                    "the peer does not read its control frames".to_owned(),
                ));
            }
        }
        self.buffer.clear();
        Ok(())
    }

    /// Sends this node's durable heads, split over as many frames as needed.
    pub(crate) async fn send_clock(&mut self, clock: &Cursor) -> Result<(), SessionError> {
        let ids: Vec<_> = clock.iter().collect();
        for part in ids.chunks(MAX_CLOCK_ENTRIES) {
            let entries = part.iter().copied().collect();
            self.send(ControlFrame::Clock(ClockFrame { entries })).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::frame::WantFrame;
    use hawser_proto::void::VoidStatement;
    use hawser_proto::{OriginatorId, SecretKey, SequenceId};
    use quinn::{ConnectionClose, TransportErrorCode};

    use super::*;

    /// In a log of text, a line break would begin a line of the peer's own.
    #[test]
    fn the_text_with_which_a_peer_closes_a_connection_is_short_and_one_line() {
        let reason = format!("\u{1b}[2J\nERROR forged\u{9b}{}", "x".repeat(1_000)).into();
        let error_code = TransportErrorCode::NO_ERROR;
        let closed = ConnectionClose { error_code, frame_type: None, reason };
        let error = SessionError::from(ConnectionError::ConnectionClosed(closed));
        let SessionError::Lost(text) = &error else { panic!("{error:?}") };
        assert!(text.contains(" [2J ERROR forged xxx"), "{text}");
        assert!(!text.contains(char::is_control) && text.chars().count() < 320, "{text}");
    }

    /// Takes what has arrived for a time, as the reader does. Returns the number of frames.
    fn frames_within(pace: &mut FramePace, start: Instant, time: Duration) -> u32 {
        costly_within(pace, start, time, 1)
    }

    /// Takes frames that each cost as much as `as_frames` small ones. Returns their number.
    fn costly_within(pace: &mut FramePace, start: Instant, time: Duration, as_frames: u32) -> u32 {
        let (mut now, mut frames) = (start, 0);
        while now <= start + time {
            match pace.waits_until(now) {
                Some(at) => now = at,
                None => {
                    pace.note_frame(now, as_frames);
                    frames += 1;
                }
            }
        }
        frames
    }

    #[test]
    fn a_flood_of_frames_is_read_at_a_pace_and_a_burst_at_once() {
        let start = Instant::now();
        let mut pace = FramePace::new(start);
        let at_once = frames_within(&mut pace, start, Duration::ZERO);
        assert!((1_000..1_100).contains(&at_once), "{at_once}");
        let later = frames_within(&mut pace, start, Duration::from_secs(10));
        assert!((19_900..20_100).contains(&later), "{later}");
        let rested = start + Duration::from_secs(60);
        assert_eq!(frames_within(&mut pace, rested, Duration::ZERO), at_once, "no more than once");
    }

    #[test]
    fn wants_without_a_pause_are_read_at_a_slower_pace_and_those_for_all_strands_at_once() {
        let start = Instant::now();
        let mut pace = FramePace::new(start);
        let at_once = costly_within(&mut pace, start, Duration::ZERO, WANT_AS_FRAMES);
        assert!((250..300).contains(&at_once), "{at_once}");
        let later = costly_within(&mut pace, start, Duration::from_secs(10), WANT_AS_FRAMES);
        assert!((4_950..5_050).contains(&later), "{later}");
    }

    #[test]
    fn a_want_counts_as_several_frames_and_one_for_gaps_alone_as_more() {
        let (originator, after) = (OriginatorId(300), SequenceId::NONE);
        let want = |bytes_max| {
            let up_to = Some(SequenceId(9));
            ControlFrame::Want(WantFrame { originator, after, up_to, bytes_max })
        };
        let clock = ControlFrame::Clock(ClockFrame { entries: Cursor::new() });
        let counts = [clock, want(1), want(GAPS_ALONE)].map(|frame| as_frames(&frame));
        assert_eq!(counts, [1, WANT_AS_FRAMES, 2 * WANT_AS_FRAMES]);
    }

    /// Played by a peer that shows forged statements as fast as it can, and connects again before it has shown too many
    /// in one session.
    #[test]
    fn statements_without_a_pause_are_read_at_a_slower_pace() {
        let (node, from, through) = (OriginatorId(300), SequenceId(1), SequenceId(9));
        let of = VoidStatement { node, from, through, time_ns: 5, incarnation: [1; 16] };
        let forged = of.sign(&SecretKey::from_bytes(&[7; 32]).unwrap());
        let counts_as = as_frames(&ControlFrame::Void(forged));
        let start = Instant::now();
        let mut pace = FramePace::new(start);
        let at_once = costly_within(&mut pace, start, Duration::ZERO, counts_as);
        assert!((250..300).contains(&at_once), "{at_once}");
        let later = costly_within(&mut pace, start, Duration::from_secs(10), counts_as);
        assert!((4_950..5_050).contains(&later), "{later}");
    }

    #[test]
    fn long_frames_and_unknown_ones_are_read_at_a_pace_too() {
        let start = Instant::now();
        let mut pace = FramePace::new(start);
        let mut bytes = 0;
        while pace.waits_until(start).is_none() {
            pace.note_bytes(start, 64 * 1024);
            bytes += 64 * 1024;
        }
        assert!((4 << 20..5 << 20).contains(&bytes), "{bytes}");
    }
}
