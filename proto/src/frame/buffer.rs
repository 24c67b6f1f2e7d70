//! Arriving bytes, cut into frames.

use bytes::{Bytes, BytesMut};

use super::{FrameError, HEAD_LEN};

/// Gathers chunks until a frame is whole. A frame within one chunk is a slice of it; one that spans
/// chunks is copied together once. What waits for more chunks has memory of its own: a peer may send nothing for
/// months, and the rest of a chunk would keep all that was read with it, or the memory of the last frame.
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
        self.gather();
        self.gathered.extend_from_slice(&chunk);
    }

    /// Copies the rest of the last chunk.
    fn gather(&mut self) {
        let rest = std::mem::take(&mut self.chunk);
        self.gathered.extend_from_slice(&rest);
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
            self.gather();
            return Ok(None);
        };
        let len_bytes = u32::from_be_bytes([l0, l1, l2, l3]);
        let max = limit(kind)?;
        if len_bytes > max {
            return Err(FrameError::TooLong { kind, len_bytes, max });
        }
        let len = usize::try_from(len_bytes).expect("the limits are far below any usize");
        if held.len() - HEAD_LEN < len {
            self.gather();
            return Ok(None);
        }
        let mut frame = self.split_to(HEAD_LEN + len);
        Ok(Some((kind, frame.split_off(HEAD_LEN))))
    }

    fn split_to(&mut self, len: usize) -> Bytes {
        if self.gathered.is_empty() {
            return self.chunk.split_to(len);
        }
        let frame = self.gathered.split_to(len).freeze();
        // The copy costs no more than that of the frame has. The rest of a longer one is taken soon.
        if self.gathered.len() <= len {
            self.gathered = BytesMut::from(&self.gathered[..]);
        }
        frame
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

    fn frame(body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len()).unwrap();
        [&[7][..], &len.to_be_bytes(), body].concat()
    }

    /// Played by a peer that sends the longest frame on each of its streams, and leaves these open.
    #[test]
    fn nothing_of_a_frame_is_kept_when_it_was_taken() {
        let begun = frame(&[1; 3]);
        for rest in [&[][..], &begun[..6]] {
            let bytes = [&frame(&[1; 90])[..], rest].concat();
            let mut buffer = FrameBuffer::default();
            bytes.chunks(50).for_each(|chunk| buffer.push(Bytes::copy_from_slice(chunk)));
            let (_, body) = next(&mut buffer).expect("a whole frame");
            assert!(body.try_into_mut().is_ok(), "its memory is shared");
            assert_eq!(buffer.held(), rest);
            buffer.push(Bytes::copy_from_slice(&begun[rest.len()..]));
            assert_eq!(next(&mut buffer), Some((7, Bytes::from_static(&[1; 3]))));
            assert!(buffer.is_empty());
        }
    }

    /// Played by a peer that ends each of a thousand streams within the head of a frame, and leaves these open.
    #[test]
    fn a_frame_that_has_begun_keeps_nothing_of_what_came_with_it() {
        let begun = frame(&[1; 90]);
        for len in [1, 50] {
            let packets = Bytes::from([&begun[..len], &[0; 1000]].concat());
            let mut buffer = FrameBuffer::default();
            buffer.push(packets.slice(..len));
            assert_eq!(next(&mut buffer), None);
            assert!(packets.is_unique(), "{len}");
            buffer.push(Bytes::copy_from_slice(&begun[len..]));
            assert_eq!(next(&mut buffer), Some((7, Bytes::from_static(&[1; 90]))));
        }
    }
}
