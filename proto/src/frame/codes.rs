//! The numbers that end a connection or a stream.

/// The application error code of QUIC's `CONNECTION_CLOSE`: the reason a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The node stops or restarts. Dial again, with a pause.
    Shutdown = 0,
    /// A frame was malformed or out of place.
    ProtocolViolation = 1,
    /// Both ends have no frame version in common.
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
    /// This node already serves as many peers as it accepts. Dial again, with a pause.
    Busy = 9,
    /// This node failed; the peer did not break the protocol.
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

    /// Returns the number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Returns the code of a number that a peer sent; `None` for an unknown one.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|known| u64::from(known.code()) == code)
    }
}

/// The code of `RESET_STREAM` and `STOP_SENDING`: the reason one data stream ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum StreamCode {
    /// The follower sent [`StopFrame`](super::StopFrame), or dropped its want.
    Stopped = 0,
    /// A newer [`WantFrame`](super::WantFrame) for the same originator took its place.
    Replaced = 1,
    /// The sender cannot read its log further. The connection stays open.
    Internal = 2,
}

impl StreamCode {
    const ALL: [Self; 3] = [Self::Stopped, Self::Replaced, Self::Internal];

    /// Returns the number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Returns the code of a number that a peer sent; `None` for an unknown one.
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
