//! A connection with or without TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::filtered::{Filtered, ReadFilter};
use crate::read_turn::ReadTurn;
use crate::socket::Socket;

/// Largest number of encrypted bytes of an answer that wait for the socket. A guess: one record of the largest
/// size. They are not charged; bytes that wait for encryption are.
const UNSENT_BYTES_MAX: usize = 16 * 1024;
/// Additional memory of an encrypted connection, bytes: an incomplete record, [`UNSENT_BYTES_MAX`], keys and state.
/// From the sizes that rustls allows.
pub(crate) const ENCRYPTED_BYTES: usize = 40 * 1024;

/// The bytes of a connection, decrypted.
pub(crate) enum DecryptedStream {
    Plain(Socket),
    Tls(Box<Encrypted>),
}

/// A connection after its handshake. The first bytes of HTTP are buffered, and the server reads them from there.
pub(crate) struct Encrypted {
    first: Vec<u8>,
    stream: TlsStream<InTurns<Socket>>,
}

impl DecryptedStream {
    /// Does the handshake, and waits until `begun` returns true for the first bytes: they then determine the version of
    /// HTTP. The caller bounds the time.
    pub(crate) async fn encrypted(
        acceptor: &TlsAcceptor,
        stream: Socket,
        begun: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Self> {
        let limit =
            |tls: &mut rustls::ServerConnection| tls.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        let mut stream =
            acceptor.accept_with(Filtered::with(stream, ReadTurn::default()), limit).await?;
        let mut first = Vec::new();
        while !begun(&first) {
            if stream.read_buf(&mut first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Self::Tls(Box::new(Encrypted { first, stream })))
    }
}

/// A socket that is read in turns, even if more data has arrived. The other bounds on a connection apply above TLS,
/// where TLS records without content never arrive.
type InTurns<T> = Filtered<T, ReadTurn>;

impl<T: AsyncRead + Unpin> ReadFilter<T> for ReadTurn {
    fn poll_read(
        &mut self,
        inner: &mut T,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.yield_if_over(cx) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(inner).poll_read(cx, buf);
        match read {
            Poll::Pending => self.end(),
            Poll::Ready(_) => self.took(buf.filled().len() - before),
        }
        read
    }
}

impl AsyncRead for DecryptedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(encrypted) if encrypted.first.is_empty() => {
                Pin::new(&mut encrypted.stream).poll_read(cx, buf)
            }
            Self::Tls(encrypted) => {
                let len = encrypted.first.len().min(buf.remaining());
                buf.put_slice(&encrypted.first[..len]);
                encrypted.first.drain(..len);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for DecryptedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(encrypted) => encrypted.stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::read_turn::TURN_BYTES;

    #[test]
    fn a_socket_that_is_never_empty_lets_others_have_their_turn() {
        let mut socket = Filtered::with(tokio::io::repeat(7), ReadTurn::default());
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            let mut taken = 0;
            loop {
                let mut piece = [0; 4096];
                let mut buf = ReadBuf::new(&mut piece);
                if Pin::new(&mut socket).poll_read(&mut cx, &mut buf).is_pending() {
                    break;
                }
                taken += buf.filled().len();
                assert!(taken <= TURN_BYTES);
            }
            assert_eq!(taken, TURN_BYTES);
        }
    }
}
