//! Arriving bytes, cut into frames.

use bytes::{Bytes, BytesMut};

use super::{FrameError, HEAD_LEN};

/// Gathers chunks until a frame is whole. A frame within one chunk is a slice of it; one that spans
/// chunks is copied together once.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer {
    /// The rest of the last chunk; empty while `gathered` is not.
    chunk: Bytes,
    /// Grows with the bytes that arrive, at most doubling ahead of them.
    gathered: BytesMut,
}

impl FrameBuffer {
    pub(super) fn push(&mut self, chunk: Bytes) {
        if self.is_empty() {
            self.chunk = chunk;
            return;
        }
        let rest = std::mem::take(&mut self.chunk);
        self.gathered.extend_from_slice(&rest);
        self.gathered.extend_from_slice(&chunk);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunk.is_empty() && self.gathered.is_empty()
    }

    /// Returns the number of bytes that have arrived and are in no frame yet.
    pub(super) fn len(&self) -> usize {
        self.held().len()
    }

    fn held(&self) -> &[u8] {
        if self.gathered.is_empty() { &self.chunk } else { &self.gathered }
    }

    /// Returns type and body of the next frame once it is complete. `limit` gives the longest body of
    /// a type, or refuses the type; it is called as soon as the frame's head is there.
    pub(super) fn next_frame(
        &mut self,
        limit: impl FnOnce(u8) -> Result<u32, FrameError>,
    ) -> Result<Option<(u8, Bytes)>, FrameError> {
        let held = self.held();
        let Some(&[kind, l0, l1, l2, l3]) = held.first_chunk::<HEAD_LEN>() else {
            return Ok(None);
        };
        let len_bytes = u32::from_be_bytes([l0, l1, l2, l3]);
        let max = limit(kind)?;
        if len_bytes > max {
            return Err(FrameError::TooLong { kind, len_bytes, max });
        }
        let len = usize::try_from(len_bytes).expect("the limits are far below any usize");
        if held.len() - HEAD_LEN < len {
            return Ok(None);
        }
        let mut frame = self.split_to(HEAD_LEN + len);
        Ok(Some((kind, frame.split_off(HEAD_LEN))))
    }

    fn split_to(&mut self, len: usize) -> Bytes {
        if self.gathered.is_empty() {
            self.chunk.split_to(len)
        } else {
            self.gathered.split_to(len).freeze()
        }
    }
}

/// The input of a frame decoder. The first error closes the buffer for good, because the bytes
/// after a refused frame can no longer be divided into frames.
#[derive(Debug, Default)]
pub(super) struct FrameInput {
    buffer: FrameBuffer,
    failed: Option<FrameError>,
}

impl FrameInput {
    /// Takes the next chunk. Drops it after an error.
    pub(super) fn push(&mut self, chunk: Bytes) {
        if self.failed.is_none() {
            self.buffer.push(chunk);
        }
    }

    /// Returns the number of bytes that wait for their frame.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Reads from the buffer with `next`.
    ///
    /// # Errors
    /// The first error of `next`, in this call and in all later ones.
    pub(super) fn read<T>(
        &mut self,
        next: impl FnOnce(&mut FrameBuffer) -> Result<Option<T>, FrameError>,
    ) -> Result<Option<T>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        next(&mut self.buffer).inspect_err(|error| {
            self.failed = Some(*error);
            self.buffer = FrameBuffer::default();
        })
    }

    /// Checks that the stream ended between two frames.
    ///
    /// # Errors
    /// [`FrameError::Unfinished`] inside of a frame, or the first error.
    pub(super) fn finish(&self) -> Result<(), FrameError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.buffer.is_empty() => Ok(()),
            None => Err(FrameError::Unfinished),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(buffer: &mut FrameBuffer) -> Option<(u8, Bytes)> {
        buffer.next_frame(|_| Ok(100)).expect("within the limit")
    }

    #[test]
    fn a_frame_within_one_chunk_is_not_copied() {
        let chunk = Bytes::from_static(&[7, 0, 0, 0, 3, 1, 2, 3, 8, 0, 0, 0, 0]);
        let mut buffer = FrameBuffer::default();
        buffer.push(chunk.clone());
        let (kind, body) = next(&mut buffer).expect("a whole frame");
        assert_eq!((kind, &body[..]), (7, &[1, 2, 3][..]));
        assert_eq!(body.as_ptr(), chunk[5..].as_ptr());
        assert_eq!(next(&mut buffer), Some((8, Bytes::new())));
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_claimed_length_reserves_nothing() {
        let mut buffer = FrameBuffer::default();
        buffer.push(Bytes::from_static(&[7, 0xff]));
        buffer.push(Bytes::from_static(&[0xff, 0xff, 0xff, 0]));
        assert_eq!(buffer.next_frame(|_| Ok(u32::MAX)), Ok(None));
        assert!(buffer.gathered.capacity() <= 128, "{}", buffer.gathered.capacity());
    }
}
