//! The head of an HTTP/2 frame (RFC 9113 §4.1), with the types and flags that the listener goes by.

/// First bytes of HTTP/2 with prior knowledge (RFC 9113 §3.4).
pub(crate) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's head, the places of the type and of the flags in it, types of frames and their flags (RFC 9113
/// §4.1, §6).
pub(crate) const HEAD_LEN_BYTES: usize = 9;
pub(crate) const KIND_AT: usize = 3;
pub(crate) const FLAGS_AT: usize = 4;
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const CONTINUATION: u8 = 9;
/// A type of frames that is not assigned, and is ignored for that (RFC 9113 §5.5, §11.2).
pub(crate) const UNASSIGNED: u8 = 0xff;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIORITY: u8 = 0x20;

/// The head of a frame (RFC 9113 §4.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameHead {
    /// Bytes of the frame's payload.
    pub(crate) len: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl FrameHead {
    /// Reads the bytes of a head.
    pub(crate) fn parse(head: [u8; HEAD_LEN_BYTES]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = head;
        let len = u32::from_be_bytes([0, a, b, c]);
        // The first bit of the stream's number is reserved.
        Self { len, kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) }
    }
}
