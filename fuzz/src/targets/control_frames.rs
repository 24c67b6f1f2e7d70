//! Control frames of a peer.

use bytes::{Bytes, BytesMut};
use hawser_proto::frame::{ControlDecoder, FrameError};

use super::Target;
use crate::corpus;

pub(super) const TARGET: Target = Target { name: "control-frames", run, seeds, memory_factor: 32 };

fn seeds() -> Vec<Vec<u8>> {
    corpus::frames("control")
}

/// Where the network cut the stream changes nothing, and a frame has one form.
fn run(input: &[u8]) {
    let (written, end) = rewrite(input, input.len());
    assert_eq!(rewrite(input, 7), (written.clone(), end), "cut every 7 bytes");
    assert!(written.len() <= input.len(), "a frame grew");
    assert_eq!(rewrite(&written, written.len()), (written.clone(), Ok(())), "another form");
}

/// What the frames are once read, written again, and how the stream ended.
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
