//! The socket of a connection. It is registered at the runtime on which the connection's task runs.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The runtime on which a connection's task runs: the runtime of all connections, or the publishers' runtime. A caller
/// changes it before it polls the task there. The task is then polled at once, and polls its socket for everything that
/// it waits for. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct CurrentRuntime {
    is_publishers: Arc<AtomicBool>,
}

impl CurrentRuntime {
    /// Records that the task moves to the publishers' runtime.
    pub(crate) fn enter_publishers(&self) {
        self.is_publishers.store(true, Ordering::Release);
    }

    /// Records that the task moves back to the runtime of all connections.
    pub(crate) fn leave_publishers(&self) {
        self.is_publishers.store(false, Ordering::Release);
    }

    fn is_publishers(&self) -> bool {
        self.is_publishers.load(Ordering::Acquire)
    }
}

/// A socket that only its connection's task polls.
#[derive(Debug)]
pub(crate) struct Socket {
    /// `None` after it could not be registered.
    stream: Option<TcpStream>,
    runtime: CurrentRuntime,
    /// True if the stream is registered at the publishers' runtime.
    at_publishers: bool,
}

impl Socket {
    /// Wraps a stream that is registered at the runtime of all connections.
    pub(crate) fn new(stream: TcpStream, runtime: CurrentRuntime) -> Self {
        Self { stream: Some(stream), runtime, at_publishers: false }
    }

    /// Returns the stream, registered at the runtime that polls it. A runtime notices events of its own sockets only.
    ///
    /// # Errors
    /// The system's error if it cannot be registered there. The connection is then broken.
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let publishers = self.runtime.is_publishers();
        if self.at_publishers != publishers {
            self.at_publishers = publishers;
            if let Some(stream) = self.stream.take() {
                self.stream = Some(TcpStream::from_std(stream.into_std()?)?);
            }
        }
        let broken = || io::Error::from(io::ErrorKind::NotConnected);
        self.stream.as_mut().map(Pin::new).ok_or_else(broken)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut().stream() {
            Ok(stream) => stream.poll_read(cx, buf),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut().stream() {
            Ok(stream) => stream.poll_write(cx, bytes),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut().stream() {
            Ok(stream) => stream.poll_write_vectored(cx, slices),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().stream() {
            Ok(stream) => stream.poll_flush(cx),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().stream() {
            Ok(stream) => stream.poll_shutdown(cx),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}
