//! A connection with or without TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The bytes of a connection, decrypted.
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

/// A connection after its handshake. The first bytes of HTTP are read already and are read again by the server.
pub(crate) struct Encrypted {
    first: Vec<u8>,
    stream: TlsStream<TcpStream>,
}

impl Wire {
    /// Does the handshake, and waits for enough bytes to tell the version of HTTP: `begun` says if they are. The caller
    /// bounds the time.
    pub(crate) async fn encrypted(
        acceptor: &TlsAcceptor,
        stream: TcpStream,
        begun: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Self> {
        let mut stream = acceptor.accept(stream).await?;
        let mut first = Vec::new();
        while !begun(&first) {
            if stream.read_buf(&mut first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Self::Tls(Box::new(Encrypted { first, stream })))
    }
}

impl AsyncRead for Wire {
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

impl AsyncWrite for Wire {
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
