//! Short writes of an HTTP/2 connection, which wait for a longer one or for a flush.
//!
//! h2 passes each DATA frame of 256 bytes and more to the system by itself if the connection takes several slices at
//! once, so that no byte is copied. The answer to a publish is about that long, and there a system call costs more than
//! a copy. If the connection takes one slice, h2 copies frames of less than 1,024 bytes, and writes those of many
//! answers together. But then it writes the beginning of a longer frame apart from the rest. So the beginning waits
//! here, and is written with the rest.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first bytes of the preface of HTTP/2 (RFC 9113 §3.4). No method of HTTP/1 begins with them.
const PREFACE: &[u8] = b"PRI";
/// The longest write that waits, and the most bytes that wait together. A guess: twice the length that h2 copies.
const WAITING_LEN_BYTES_MAX: usize = 2048;

/// A connection whose short writes wait for a flush once the client has begun HTTP/2.
pub(crate) struct ShortWrites<T> {
    inner: T,
    /// The number of bytes of the preface that have been read; `None` if the client has begun with others.
    read: Option<usize>,
    /// Bytes that are to be written before any others.
    waiting: Vec<u8>,
}

impl<T> ShortWrites<T> {
    /// Wraps a connection from which nothing has been read.
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, read: Some(0), waiting: Vec::new() }
    }

    fn is_http2(&self) -> bool {
        self.read == Some(PREFACE.len())
    }

    /// Compares the first bytes that were read with the preface.
    fn note_read(&mut self, bytes: &[u8]) {
        let Some(read) = self.read.filter(|read| *read < PREFACE.len()) else { return };
        let rest = &PREFACE[read..];
        let len = rest.len().min(bytes.len());
        self.read = (rest[..len] == bytes[..len]).then_some(read + len);
    }

    /// Takes the first `written` bytes from those that wait. Returns how many were written beyond them.
    fn note_written(&mut self, written: usize) -> io::Result<usize> {
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        match written.checked_sub(self.waiting.len()) {
            // Idle connections keep no memory for it.
            Some(beyond) => {
                self.waiting = Vec::new();
                Ok(beyond)
            }
            None => {
                self.waiting.drain(..written);
                Ok(0)
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> ShortWrites<T> {
    /// Writes all bytes that wait.
    fn poll_write_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.waiting))?;
            self.note_written(written)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ShortWrites<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        this.note_read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ShortWrites<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_http2() && this.waiting.len() + bytes.len() <= WAITING_LEN_BYTES_MAX {
            this.waiting.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        while !this.waiting.is_empty() {
            let both = [IoSlice::new(&this.waiting), IoSlice::new(bytes)];
            let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, &both))?;
            let beyond = this.note_written(written)?;
            if beyond > 0 {
                return Poll::Ready(Ok(beyond));
            }
        }
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_write_waiting(cx))?;
        Pin::new(&mut this.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        !self.is_http2() && self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_waiting(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_waiting(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A client that has sent some bytes, and takes others in pieces.
    #[derive(Default)]
    struct Client {
        sent: Vec<u8>,
        /// The most bytes that each of the next writes takes; 0 for one that has to wait. Later writes take all.
        takes: VecDeque<usize>,
        /// The bytes of each write.
        taken: Vec<Vec<u8>>,
    }

    impl Client {
        fn of_http2() -> ShortWrites<Self> {
            let client = Self { sent: b"PRI * HTTP/2.0".to_vec(), ..Self::default() };
            let mut connection = ShortWrites::new(client);
            connection.note_read(b"PRI * HTTP/2.0");
            connection
        }
    }

    impl AsyncRead for Client {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            // One byte at a time.
            let sent: Vec<u8> = self.sent.drain(..1).collect();
            buf.put_slice(&sent);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Client {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let max = self.takes.pop_front().unwrap_or(usize::MAX);
            if max == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let bytes = slices.iter().flat_map(|slice| slice.iter().copied()).take(max);
            let bytes: Vec<u8> = bytes.collect();
            let len = bytes.len();
            self.taken.push(bytes);
            Poll::Ready(Ok(len))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn short_writes_of_http_2_wait_for_a_flush_and_the_beginning_of_a_long_one_for_the_rest()
    {
        let mut connection = Client::of_http2();
        assert!(!connection.is_write_vectored(), "h2 copies short frames");
        for byte in 1..=3 {
            connection.write_all(&[byte; 100]).await.unwrap();
        }
        assert_eq!(connection.inner.taken.len(), 0);
        connection.flush().await.unwrap();
        connection.write_all(&[4; 1024]).await.unwrap();
        connection.write_all(&[5; 15_000]).await.unwrap();
        let written: Vec<usize> = connection.inner.taken.iter().map(Vec::len).collect();
        assert_eq!(written, [300, 16_024]);
        connection.write_all(&[6]).await.unwrap();
        connection.shutdown().await.unwrap();
        assert_eq!(connection.inner.taken.last(), Some(&vec![6]));
        assert_eq!(connection.waiting.capacity(), 0);
    }

    #[tokio::test]
    async fn a_client_of_http_1_gets_each_write_at_once() {
        for (sent, is_http2) in [(&b"PRI * HTTP/2.0"[..], true), (b"PROPFIND /", false)] {
            let client = Client { sent: sent.to_vec(), ..Client::default() };
            let mut connection = ShortWrites::new(client);
            assert!(connection.is_write_vectored());
            connection.read_exact(&mut [0; 10]).await.unwrap();
            assert_eq!(connection.is_write_vectored(), !is_http2);
            connection.write_all(&[1]).await.unwrap();
            assert_eq!(connection.inner.taken.len(), usize::from(!is_http2));
        }
    }

    proptest! {
        #[test]
        fn every_byte_is_written_once_and_in_its_order(
            lens in prop::collection::vec((1..5_000_usize, any::<bool>()), 0..20),
            takes in prop::collection::vec(0..3_000_usize, 0..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut connection = Client::of_http2();
            connection.inner.takes = takes.into();
            let mut expected = Vec::new();
            runtime.block_on(async {
                for (len, is_flushed) in lens {
                    let from = expected.len();
                    let bytes: Vec<u8> = (from..from + len).map(|at| at.to_le_bytes()[0]).collect();
                    connection.write_all(&bytes).await.unwrap();
                    expected.extend(bytes);
                    assert!(connection.waiting.len() <= WAITING_LEN_BYTES_MAX);
                    if is_flushed {
                        connection.flush().await.unwrap();
                        assert_eq!(connection.inner.taken.concat().len(), expected.len());
                    }
                }
                connection.flush().await.unwrap();
            });
            prop_assert_eq!(connection.inner.taken.concat(), expected);
        }
    }
}
