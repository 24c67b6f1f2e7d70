//! Fuzz target: data frames of a peer.

use bytes::{Bytes, BytesMut};
use hawser_proto::frame::{DataDecoder, DataFrame, FrameError};

use super::Target;
use crate::corpus;

pub(super) const TARGET: Target = Target { name: "data-frames", run, seeds, memory_factor: 32 };

fn seeds() -> Vec<Vec<u8>> {
    corpus::frames("data")
}

/// The cuts that the network makes change nothing, and the frames read are exactly the beginning of
/// what was sent.
fn run(input: &[u8]) {
    let (written, end) = rewrite(input, input.len());
    assert_eq!(rewrite(input, 7), (written.clone(), end), "cut every 7 bytes");
    assert!(input.starts_with(&written), "a frame has another form");
    assert_eq!(end.is_ok(), written.len() == input.len());
}

/// Reads all frames, writes them again, and returns both with the end of the stream.
fn rewrite(input: &[u8], cut: usize) -> (BytesMut, Result<(), FrameError>) {
    let (mut decoder, mut written) = (DataDecoder::new(), BytesMut::new());
    for chunk in input.chunks(cut.max(1)) {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Ok(Some(frame)) = decoder.next_frame() {
            frame.encode(&mut written);
            if let DataFrame::Batch(batch) = frame {
                assert_eq!(batch.envelopes().count(), batch.len());
                assert!(batch.envelopes().all(|envelope| !envelope.is_empty()));
            }
        }
    }
    (written, decoder.finish())
}
