//! The control stream: frames in both directions.

use std::time::Duration;

use bytes::BytesMut;
use hawser_proto::Cursor;
use hawser_proto::frame::{
    Clock, CloseCode, ControlDecoder, ControlFrame, FrameError, MAX_CLOCK_ENTRIES,
    MAX_CONTROL_FRAME,
};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, WriteError};

use crate::counters::Refusal;

/// A peer that takes no control frames for this long does not work. Guessed.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// Why a stream, or a whole session, goes no further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// The peer did what it may not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The peer has closed the connection.
    #[error("closed by the peer: {0:?}")]
    Closed(CloseCode),
    /// The connection is gone, or the peer does not work.
    #[error("{0}")]
    Lost(String),
}

impl Broken {
    /// Whether it will most likely happen again at once.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Refused(_) => true,
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

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<ConnectionError> for Broken {
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

impl From<WriteError> for Broken {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            error => Self::Lost(error.to_string()),
        }
    }
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            error => Self::Lost(error.to_string()),
        }
    }
}

/// The reading half.
pub(crate) struct ControlReader {
    stream: RecvStream,
    decoder: ControlDecoder,
}

impl ControlReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: ControlDecoder::new() }
    }

    /// The next frame. A control stream has no end, so one that ends is broken. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<ControlFrame, Broken> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            let limit = usize::try_from(MAX_CONTROL_FRAME).unwrap_or(usize::MAX);
            match self.stream.read_chunk(limit, true).await? {
                Some(chunk) => self.decoder.push(chunk.bytes),
                None => {
                    self.decoder.finish()?;
                    return Err(Broken::Lost("the control stream has ended".to_owned()));
                }
            }
        }
    }
}

/// The writing half.
pub(crate) struct ControlWriter {
    stream: SendStream,
    buffer: BytesMut,
}

impl ControlWriter {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    pub(crate) async fn send(&mut self, frame: ControlFrame) -> Result<(), Broken> {
        frame.encode(&mut self.buffer).expect("lists are cut to size before they come here");
        let write = self.stream.write_all(&self.buffer);
        match tokio::time::timeout(WRITE_MAX, write).await {
            Ok(written) => written?,
            Err(_) => return Err(Broken::Lost("the peer takes no control frames".to_owned())),
        }
        self.buffer.clear();
        Ok(())
    }

    /// Says how far this node is, in as many frames as it takes.
    pub(crate) async fn send_clock(&mut self, clock: &Cursor) -> Result<(), Broken> {
        let ids: Vec<_> = clock.iter().collect();
        for part in ids.chunks(MAX_CLOCK_ENTRIES) {
            let entries = part.iter().copied().collect();
            self.send(ControlFrame::Clock(Clock { entries })).await?;
        }
        Ok(())
    }
}
