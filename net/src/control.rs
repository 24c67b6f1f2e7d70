//! The control stream of a session: one frame after another, in both directions.

use std::time::Duration;

use bytes::BytesMut;
use hawser_proto::Cursor;
use hawser_proto::frame::{
    ClockFrame, CloseCode, ControlDecoder, ControlFrame, FrameError, MAX_CLOCK_ENTRIES,
    MAX_CONTROL_FRAME,
};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, WriteError};

use crate::counters::PeerError;

/// A peer that accepts no control frame for this long is given up. Guessed: several round trips on
/// the worst link, and short enough that a stuck peer frees its session.
const WRITE_MAX: Duration = Duration::from_secs(10);

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
}

impl SessionError {
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
            Self::Lost(_) => false,
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
            error => Self::Lost(error.to_string()),
        }
    }
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

/// The receiving half of a control stream.
pub(crate) struct ControlReader {
    stream: RecvStream,
    decoder: ControlDecoder,
}

impl ControlReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: ControlDecoder::new() }
    }

    /// Reads the next frame. Cancel safe.
    ///
    /// # Errors
    /// When the peer breaks the protocol, or the stream ends: a control stream lasts as long as its
    /// connection.
    pub(crate) async fn next(&mut self) -> Result<ControlFrame, SessionError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            let limit = usize::try_from(MAX_CONTROL_FRAME).unwrap_or(usize::MAX);
            match self.stream.read_chunk(limit, true).await? {
                Some(chunk) => self.decoder.push(chunk.bytes),
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
