//! Streams whose buffers end with them, also after their connection.
//!
//! QUIC keeps a closed connection for up to a minute and a half, because its peer states a part of that time (RFC 9000
//! §10.2). Whatever the connection has buffered of its streams stays as long, unless they are stopped and reset. A peer
//! that connects again and again would otherwise leave some 40 MiB behind each time.

use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use hawser_proto::frame::{CloseCode, StreamCode};
use quinn::{Connection, RecvStream, SendStream, VarInt};

/// A stream from a peer. Dropping it frees what has arrived and was not read.
#[derive(Debug)]
pub(crate) struct ReceivedStream(RecvStream);

impl ReceivedStream {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self(stream)
    }
}

impl Deref for ReceivedStream {
    type Target = RecvStream;

    fn deref(&self) -> &RecvStream {
        &self.0
    }
}

impl DerefMut for ReceivedStream {
    fn deref_mut(&mut self) -> &mut RecvStream {
        &mut self.0
    }
}

impl Drop for ReceivedStream {
    fn drop(&mut self) {
        // Fails if everything was read, or the stream was stopped before.
        let _ = self.0.stop(VarInt::from_u32(StreamCode::Stopped.code()));
    }
}

/// A stream to a peer. Dropping it when the connection has ended frees what the peer has not acknowledged.
#[derive(Debug)]
pub(crate) struct SentStream {
    stream: SendStream,
    connection: Connection,
}

impl SentStream {
    /// Takes a stream of this connection.
    pub(crate) fn new(stream: SendStream, connection: Connection) -> Self {
        Self { stream, connection }
    }
}

impl Deref for SentStream {
    type Target = SendStream;

    fn deref(&self) -> &SendStream {
        &self.stream
    }
}

impl DerefMut for SentStream {
    fn deref_mut(&mut self) -> &mut SendStream {
        &mut self.stream
    }
}

impl Drop for SentStream {
    fn drop(&mut self) {
        if self.connection.close_reason().is_some() {
            // Fails if the peer has acknowledged everything, or the stream was reset before.
            let _ = self.stream.reset(VarInt::from_u32(StreamCode::Stopped.code()));
        }
    }
}

/// Converts a close code to QUIC's integer type.
pub(crate) fn close_code(code: CloseCode) -> VarInt {
    VarInt::from_u32(code.code())
}

/// Closes a connection. Frees the bytes that have arrived on streams that were not accepted, also if the connection has
/// ended before.
pub(crate) fn close(connection: &Connection, code: CloseCode) {
    connection.close(close_code(code), b"");
    // A connection that has ended still gives out these streams, and then its error.
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(Ok(stream)) = pin!(connection.accept_uni()).poll(&mut context) {
        drop(ReceivedStream::new(stream));
    }
    while let Poll::Ready(Ok((_, stream))) = pin!(connection.accept_bi()).poll(&mut context) {
        drop(ReceivedStream::new(stream));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::threaded_ends::{ThreadedEnd, connect};

    #[test]
    fn what_a_peer_has_not_acknowledged_goes_with_its_connection() {
        let (node, peer) = (ThreadedEnd::new(1), ThreadedEnd::new(2));
        let (connection, _dialled) = connect(&node, &peer);
        let stream = node.runtime.block_on(connection.open_uni()).unwrap();
        drop(peer.runtime); // from now on it acknowledges nothing
        let bytes = Bytes::from(vec![7; 64 * 1024]);
        let mut sent = SentStream::new(stream, connection.clone());
        node.runtime.block_on(sent.write_chunk(bytes.clone())).unwrap();
        assert!(!bytes.is_unique(), "it may have to be sent again");
        close(&connection, CloseCode::Busy);
        drop(sent);
        assert!(bytes.is_unique());
    }

    #[test]
    fn what_was_not_accepted_goes_with_its_connection() {
        let (node, peer) = (ThreadedEnd::new(1), ThreadedEnd::new(2));
        let (connection, dialled) = connect(&node, &peer);
        let _streams = peer.runtime.block_on(async {
            let streams = [dialled.open_uni().await.unwrap(), dialled.open_uni().await.unwrap()];
            let [first, mut second] = streams;
            second.write_all(b"both are open now").await.unwrap();
            [first, second]
        });
        let _first = node.runtime.block_on(connection.accept_uni()).unwrap();
        close(&connection, CloseCode::Busy);
        assert!(node.runtime.block_on(connection.accept_uni()).is_err(), "none is left");
    }
}
