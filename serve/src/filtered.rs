//! A connection whose reads pass through a filter.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A filter between a connection and its reader.
pub(crate) trait ReadFilter<T> {
    /// Reads from `inner` with the promises of [`AsyncRead::poll_read`].
    fn poll_read(
        &mut self,
        inner: &mut T,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>>;

    /// Counts bytes that were written to the peer.
    fn wrote(&mut self, _len_bytes: usize) {}

    /// Records that everything that was to be written has been handed on.
    fn flushed(&mut self) {}
}

/// A connection that is read through a filter. Writes bypass the filter.
pub(crate) struct Filtered<T, F> {
    inner: T,
    filter: F,
}

impl<T, F> Filtered<T, F> {
    /// Wraps `inner`, whose reads then pass through `filter`.
    pub(crate) fn with(inner: T, filter: F) -> Self {
        Self { inner, filter }
    }

    /// Returns the filter.
    pub(crate) fn filter(&self) -> &F {
        &self.filter
    }
}

impl<T: Unpin, F: ReadFilter<T> + Unpin> AsyncRead for Filtered<T, F> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.filter.poll_read(&mut this.inner, cx, buf)
    }
}

impl<T: AsyncWrite + Unpin, F: ReadFilter<T> + Unpin> AsyncWrite for Filtered<T, F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.filter.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices))?;
        self.filter.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.filter.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
