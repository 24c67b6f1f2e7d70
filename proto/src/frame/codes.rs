//! The numbers that end a connection or a stream.

/// Why a connection is closed: the application error code of QUIC's `CONNECTION_CLOSE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The node stops or restarts. Dial again, with a pause.
    Shutdown = 0,
    /// A frame was refused, or stood where it may not.
    ProtocolViolation = 1,
    /// No version of the frames is known to both.
    NoCommonVersion = 2,
    /// The registry has no such node, or it is not canonical.
    UnknownNode = 3,
    /// The peer has another id than the one that was dialled.
    WrongNode = 4,
    /// The peer's signature does not prove its id.
    BadProof = 5,
    /// Hello and proof took too long.
    HandshakeTimeout = 6,
    /// Another connection with the same peer is kept.
    Duplicate = 7,
    /// An envelope arrived whose originator did not sign it.
    BadEnvelope = 8,
    /// As many peers as this node serves. Dial again, with a pause.
    Busy = 9,
    /// This end failed through no fault of the peer's.
    Internal = 10,
}

impl CloseCode {
    const ALL: [Self; 11] = [
        Self::Shutdown,
        Self::ProtocolViolation,
        Self::NoCommonVersion,
        Self::UnknownNode,
        Self::WrongNode,
        Self::BadProof,
        Self::HandshakeTimeout,
        Self::Duplicate,
        Self::BadEnvelope,
        Self::Busy,
        Self::Internal,
    ];

    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The meaning of a number that a peer sent; `None` for one that is not known.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|known| u64::from(known.code()) == code)
    }
}

/// Why one stream of data ends before its time: the code of `RESET_STREAM` and `STOP_SENDING`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum StreamCode {
    /// The follower said [`Stop`](super::Stop), or wants no more.
    Stopped = 0,
    /// A newer [`Want`](super::Want) for the same originator took its place.
    Replaced = 1,
    /// The sender cannot read on. The connection stays.
    Internal = 2,
}

impl StreamCode {
    const ALL: [Self; 3] = [Self::Stopped, Self::Replaced, Self::Internal];

    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The meaning of a number that a peer sent; `None` for one that is not known.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|known| u64::from(known.code()) == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_consecutive_and_read_back() {
        for (number, code) in (0u32..).zip(CloseCode::ALL) {
            assert_eq!(code.code(), number);
            assert_eq!(CloseCode::from_code(number.into()), Some(code));
        }
        for (number, code) in (0u32..).zip(StreamCode::ALL) {
            assert_eq!(code.code(), number);
            assert_eq!(StreamCode::from_code(number.into()), Some(code));
        }
        assert_eq!(CloseCode::from_code(11), None);
        assert_eq!(CloseCode::from_code(u64::from(u32::MAX) + 2), None);
        assert_eq!(StreamCode::from_code(3), None);
    }
}
