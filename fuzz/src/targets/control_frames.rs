//! Fuzz target: control frames of a peer.

use bytes::{Bytes, BytesMut};
use hawser_proto::frame::{ControlDecoder, FrameError};

use super::Target;
use crate::corpus;

pub(super) const TARGET: Target = Target { name: "control-frames", run, seeds, memory_factor: 32 };

fn seeds() -> Vec<Vec<u8>> {
    corpus::frames("control")
}

/// The cuts that the network makes change nothing, and the frames read are exactly the frames sent,
/// less the frames of unknown types.
fn run(input: &[u8]) {
    let (written, end) = rewrite(input, input.len());
    assert_eq!(rewrite(input, 7), (written.clone(), end), "cut every 7 bytes");
    let known = known_frames(input);
    assert!(known.starts_with(&written), "a frame has another form");
    assert!(end.is_err() || known.len() == written.len(), "a frame is lost");
}

/// The frames of version 1 in `input`, which may end inside one.
fn known_frames(mut input: &[u8]) -> Vec<u8> {
    let mut known = Vec::new();
    while let Some(&[kind, a, b, c, d]) = input.first_chunk() {
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).expect("fits");
        let (frame, rest) = input.split_at(input.len().min(5 + len));
        if matches!(kind, 1..=7 | 9) {
            known.extend_from_slice(frame);
        }
        input = rest;
    }
    known
}

/// Reads all frames, writes them again, and returns both with the end of the stream.
fn rewrite(input: &[u8], cut: usize) -> (BytesMut, Result<(), FrameError>) {
    let (mut decoder, mut written) = (ControlDecoder::new(), BytesMut::new());
    for chunk in input.chunks(cut.max(1)) {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Ok(Some(frame)) = decoder.next_frame() {
            frame.encode(&mut written).expect("what was read can be written");
        }
    }
    (written, decoder.finish())
}
