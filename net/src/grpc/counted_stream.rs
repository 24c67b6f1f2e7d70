//! Counts the bytes that arrive on a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::arrived_bytes::ArrivedBytes;

/// A connection whose arriving bytes are counted.
pub(super) struct CountedStream<T> {
    inner: T,
    arrived: ArrivedBytes,
}

impl<T> CountedStream<T> {
    pub(super) fn new(inner: T, arrived: ArrivedBytes) -> Self {
        Self { inner, arrived }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for CountedStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, into))?;
        self.arrived.add(into.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for CountedStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn all_that_arrives_on_a_connection_is_counted() {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let arrived = ArrivedBytes::default();
        let mut stream = CountedStream::new(near, arrived.clone());
        let sent = vec![7; 10 * 1024];
        far.write_all(&sent).await.unwrap();
        assert!(!arrived.take_enough(), "it was not read yet");
        let mut received = vec![0; sent.len()];
        stream.read_exact(&mut received).await.unwrap();
        assert_eq!(received, sent);
        assert!(arrived.take_enough());
    }
}
