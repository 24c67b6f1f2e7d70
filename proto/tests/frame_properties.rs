//! The peer frames survive every way a network can cut, bend and lie about them.

use std::num::NonZeroU64;

use bytes::{Bytes, BytesMut};
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint, SignedPrefix};
use hawser_proto::frame::{
    BatchBuilder, BatchPush, ClockFrame, ControlDecoder, ControlFrame, DataDecoder, DataFrame,
    EncodeError, EndFrame, FrameError, GapFrame, GapFrameReason, Hello, MAX_BATCH_ENVELOPES,
    MAX_CLOCK_ENTRIES, MAX_ENVELOPE, NodeProof, RefusalReason, StopFrame, StreamHeader, WantFrame,
    WantRefused,
};
use hawser_proto::merkle::{ConsistencyProof, PROOF_LEN_MAX, TreeHash};
use hawser_proto::void::VoidStatement;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SecretKey, SequenceId};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

fn originators() -> impl Strategy<Value = OriginatorId> {
    any::<u32>().prop_map(OriginatorId)
}

fn sequences() -> impl Strategy<Value = SequenceId> {
    (0..=SequenceId::MAX.0).prop_map(SequenceId)
}

fn clocks() -> impl Strategy<Value = Cursor> {
    let entry = (originators(), sequences()).prop_map(|(o, s)| EnvelopeId::new(o, s));
    vec(entry, 0..20).prop_map(|entries| entries.into_iter().collect())
}

fn wants() -> impl Strategy<Value = WantFrame> {
    (originators(), sequences(), sequences(), any::<u32>()).prop_map(
        |(originator, a, b, bytes_max)| {
            let up_to = Some(a.max(b)).filter(|_| a != b);
            WantFrame { originator, after: a.min(b), up_to, bytes_max }
        },
    )
}

/// Checkpoints with cosignatures. Their signatures are real ones, in the one form that a frame carries.
fn checkpoints() -> impl Strategy<Value = CosignedCheckpoint> {
    let fields = (originators(), originators(), sequences(), any::<[u8; 32]>(), any::<u64>());
    (fields, btree_set(originators(), 0..5)).prop_map(
        |((node, originator, size, root, time_ns), cosigners)| {
            let key = SecretKey::from_bytes(&[7; 32]).expect("a key");
            let of = Checkpoint { node, originator, size: size.0, root: TreeHash(root), time_ns };
            let mut made = CosignedCheckpoint::from(of.sign(&key));
            for cosigner in cosigners {
                made.add_cosignature(of.cosign(cosigner, time_ns, &key));
            }
            made
        },
    )
}

fn prefixes() -> impl Strategy<Value = SignedPrefix> {
    let hashes = vec(any::<[u8; 32]>().prop_map(TreeHash), 0..=PROOF_LEN_MAX);
    (sequences(), checkpoints(), hashes).prop_map(|(size, of, hashes)| SignedPrefix {
        size: size.0,
        signed: of.signed,
        proof: ConsistencyProof(hashes),
    })
}

/// Statements about void places, with real signatures.
fn voids() -> impl Strategy<Value = ControlFrame> {
    let places = (1..=SequenceId::MAX.0, 1..=SequenceId::MAX.0);
    (originators(), places, any::<u64>(), any::<[u8; 16]>()).prop_map(
        |(node, (a, b), time_ns, incarnation)| {
            let key = SecretKey::from_bytes(&[7; 32]).expect("a key");
            let (from, through) = (SequenceId(a.min(b)), SequenceId(a.max(b)));
            let of = VoidStatement { node, from, through, time_ns, incarnation };
            ControlFrame::Void(of.sign(&key))
        },
    )
}

fn control_frames() -> impl Strategy<Value = ControlFrame> {
    prop_oneof![
        (btree_set(any::<u16>(), 1..=16), any::<u64>(), originators(), clocks()).prop_map(
            |(versions, features, node_id, clock)| ControlFrame::Hello(Hello {
                versions: versions.into_iter().collect(),
                features,
                node_id,
                clock,
            })
        ),
        (originators(), vec(any::<u8>(), 65)).prop_map(|(node_id, signature)| {
            let signature = signature.try_into().expect("65 bytes");
            ControlFrame::Proof(NodeProof { node_id, signature })
        }),
        wants().prop_map(ControlFrame::Want),
        originators().prop_map(|originator| ControlFrame::Stop(StopFrame { originator })),
        clocks().prop_map(|entries| ControlFrame::Clock(ClockFrame { entries })),
        (originators(), 1u8..9).prop_map(|(originator, code)| {
            let reason = match code {
                1 => RefusalReason::UnknownOriginator,
                2 => RefusalReason::NotFromPeers,
                3 => RefusalReason::Busy,
                other => RefusalReason::Other(other),
            };
            ControlFrame::Refused(WantRefused { originator, reason })
        }),
        checkpoints().prop_map(|it| ControlFrame::Checkpoint(Box::new(it))),
        voids(),
    ]
}

fn batch(envelopes: &[Vec<u8>]) -> DataFrame {
    let mut builder = BatchBuilder::new(u32::MAX);
    for envelope in envelopes {
        assert_eq!(builder.push(envelope), Ok(BatchPush::Taken));
    }
    let frame = builder.finish().expect("at least one envelope");
    let mut decoder = started();
    decoder.push(frame);
    decoder.next_frame().expect("a good batch").expect("a whole batch")
}

/// A decoder behind the header.
fn started() -> DataDecoder {
    let mut decoder = DataDecoder::new();
    decoder.push(encode_data(&[header(100, 0)]));
    assert!(matches!(decoder.next_frame(), Ok(Some(DataFrame::Header(_)))));
    decoder
}

fn header(originator: u32, after: u64) -> DataFrame {
    numbered(originator, after, 0)
}

/// The header that answers the want of this number; 0 for one without a number.
fn numbered(originator: u32, after: u64, want: u64) -> DataFrame {
    DataFrame::Header(StreamHeader {
        originator: OriginatorId(originator),
        after: SequenceId(after),
        want: NonZeroU64::new(want),
    })
}

/// Streams as a sender writes them: a header, what it has, and perhaps the end.
fn data_streams() -> impl Strategy<Value = Vec<DataFrame>> {
    let middle = prop_oneof![
        (proptest::option::of(prefixes()), vec(vec(any::<u8>(), 1..200), 1..5)).prop_map(
            |(prefix, envelopes)| {
                let prefix = prefix.map(|it| DataFrame::Prefix(Box::new(it)));
                prefix.into_iter().chain([batch(&envelopes)]).collect::<Vec<_>>()
            }
        ),
        (sequences(), sequences(), any::<bool>()).prop_map(|(a, b, held)| {
            let reason = if held { GapFrameReason::Expired } else { GapFrameReason::Missing };
            let from = a.min(b).max(SequenceId(1));
            vec![DataFrame::Gap(GapFrame { from, to: a.max(b).max(from), reason })]
        }),
    ];
    let headers = (any::<u32>(), 0..=SequenceId::MAX.0, prop_oneof![Just(0), any::<u64>()]);
    (headers, vec(middle, 0..6), proptest::option::of(sequences())).prop_map(
        |((originator, after, want), middle, through)| {
            let mut frames = vec![numbered(originator, after, want)];
            frames.extend(middle.into_iter().flatten());
            frames.extend(through.map(|through| DataFrame::End(EndFrame { through })));
            frames
        },
    )
}

fn encode_control(frames: &[ControlFrame]) -> Bytes {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut out).expect("within the limits"));
    out.freeze()
}

fn encode_data(frames: &[DataFrame]) -> Bytes {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out.freeze()
}

/// Cuts `stream` at these places, each taken modulo what is left.
fn chunks(mut stream: Bytes, cuts: &[usize]) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    for cut in cuts {
        chunks.push(stream.split_to(cut % (stream.len() + 1)));
    }
    chunks.push(stream);
    chunks
}

/// Feeds chunks to a decoder. Returns its frames and its last result.
fn control_run(chunks: Vec<Bytes>) -> (Vec<ControlFrame>, Result<(), FrameError>) {
    let (mut decoder, mut frames) = (ControlDecoder::new(), Vec::new());
    for chunk in chunks {
        decoder.push(chunk);
        while let Ok(Some(frame)) = decoder.next_frame() {
            frames.push(frame);
        }
    }
    (frames, decoder.finish())
}

fn data_run(chunks: Vec<Bytes>) -> (Vec<DataFrame>, Result<(), FrameError>) {
    let (mut decoder, mut frames) = (DataDecoder::new(), Vec::new());
    for chunk in chunks {
        decoder.push(chunk);
        while let Ok(Some(frame)) = decoder.next_frame() {
            frames.push(frame);
        }
    }
    (frames, decoder.finish())
}

proptest! {
    #[test]
    fn control_frames_come_out_as_they_went_in_however_they_are_cut(
        frames in vec(control_frames(), 0..6),
        cuts in vec(0usize..400, 0..12),
    ) {
        let (read, end) = control_run(chunks(encode_control(&frames), &cuts));
        prop_assert_eq!(read, frames);
        prop_assert_eq!(end, Ok(()));
    }

    #[test]
    fn data_frames_come_out_as_they_went_in_however_they_are_cut(
        frames in data_streams(),
        cuts in vec(0usize..900, 0..12),
    ) {
        let (read, end) = data_run(chunks(encode_data(&frames), &cuts));
        prop_assert_eq!(read, frames);
        prop_assert_eq!(end, Ok(()));
    }

    #[test]
    fn frames_fed_at_once_without_draining_are_the_same(
        frames in data_streams(),
        cuts in vec(0usize..900, 0..6),
    ) {
        let mut decoder = DataDecoder::new();
        chunks(encode_data(&frames), &cuts).into_iter().for_each(|chunk| decoder.push(chunk));
        for frame in frames {
            prop_assert_eq!(decoder.next_frame(), Ok(Some(frame)));
        }
        prop_assert_eq!(decoder.next_frame(), Ok(None));
    }

    #[test]
    fn a_cut_stream_yields_a_prefix_and_is_unfinished_between_frames_only(
        frames in data_streams(),
        at in any::<prop::sample::Index>(),
    ) {
        let stream = encode_data(&frames);
        let cut = stream.slice(..at.index(stream.len()));
        let (read, end) = data_run(vec![cut.clone()]);
        prop_assert_eq!(&read[..], &frames[..read.len()]);
        let whole = encode_data(&read) == cut;
        prop_assert_eq!(end, if whole { Ok(()) } else { Err(FrameError::Unfinished) });
    }

    /// Every frame has one encoding: frames that are decoded from altered bytes encode to the same bytes.
    #[test]
    fn bent_data_is_refused_or_means_exactly_what_it_says(
        frames in data_streams(),
        flips in vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
    ) {
        let mut stream = encode_data(&frames).to_vec();
        for (at, bit) in flips {
            let at = at.index(stream.len());
            stream[at] ^= 1 << bit;
        }
        let (read, end) = data_run(vec![stream.clone().into()]);
        let again = encode_data(&read);
        prop_assert_eq!(&again[..], &stream[..again.len()]);
        prop_assert_eq!(end.is_ok(), again.len() == stream.len());
    }

    #[test]
    fn random_bytes_never_panic_and_cuts_do_not_change_the_verdict(
        stream in vec(any::<u8>(), 5..300),
        kinds in vec((any::<prop::sample::Index>(), 0u8..0x48), 0..8),
        cuts in vec(0usize..300, 0..6),
    ) {
        let mut stream = stream;
        for (at, kind) in kinds {
            let at = at.index(stream.len() - 4);
            stream[at..at + 4].copy_from_slice(&[kind, 0, 0, 0]); // a head that is likely taken
        }
        let stream = Bytes::from(stream);
        prop_assert_eq!(control_run(vec![stream.clone()]), control_run(chunks(stream.clone(), &cuts)));
        prop_assert_eq!(data_run(vec![stream.clone()]), data_run(chunks(stream.clone(), &cuts)));
    }
}

#[test]
fn a_refused_stream_stays_refused() {
    let mut decoder = DataDecoder::new();
    decoder.push(Bytes::from_static(&[0x47, 0, 0, 0, 0]));
    let error = FrameError::Unknown { kind: 0x47 };
    assert_eq!(decoder.next_frame(), Err(error));
    decoder.push(encode_data(&[header(100, 0)]));
    assert_eq!(decoder.next_frame(), Err(error));
    assert_eq!(decoder.finish(), Err(error));
}

#[test]
fn a_clock_fits_up_to_its_limit_and_leaves_the_buffer_alone_beyond_it() {
    let clock = |count: usize| -> Cursor {
        let originators = (1u32..).take(count);
        originators.map(|o| EnvelopeId::new(OriginatorId(o), SequenceId::MAX)).collect()
    };
    let hello = |count| {
        ControlFrame::Hello(Hello {
            versions: (1..=16).collect(),
            features: u64::MAX,
            node_id: OriginatorId(u32::MAX),
            clock: clock(count),
        })
    };
    let largest = hello(MAX_CLOCK_ENTRIES);
    let (read, end) = control_run(vec![encode_control(std::slice::from_ref(&largest))]);
    assert_eq!((read, end), (vec![largest], Ok(())));

    let mut out = BytesMut::from(&b"kept"[..]);
    let count = MAX_CLOCK_ENTRIES + 1;
    assert_eq!(hello(count).encode(&mut out), Err(EncodeError::Clock { count }));
    assert_eq!(out, &b"kept"[..]);
}

#[test]
fn versions_are_some_few_and_ascending() {
    let encode = |versions: Vec<u16>| {
        let hello =
            Hello { versions, features: 0, node_id: OriginatorId(100), clock: Cursor::new() };
        ControlFrame::Hello(hello).encode(&mut BytesMut::new())
    };
    assert_eq!(encode(vec![1, 9]), Ok(()));
    for bad in [vec![], vec![2, 1], vec![1, 1], (0..17).collect()] {
        let count = bad.len();
        assert_eq!(encode(bad), Err(EncodeError::Versions { count }));
    }
}

/// Played by a payer who publishes the longest envelope: a node sends it to each of its peers, and then short ones.
#[test]
fn a_builder_keeps_nothing_of_a_frame_that_was_taken() {
    let mut builder = BatchBuilder::new(10);
    assert_eq!(builder.push(&[1; 500]), Ok(BatchPush::Taken));
    let frame = builder.finish().expect("one envelope");
    assert!(frame.try_into_mut().is_ok(), "its memory is shared");
}

#[test]
fn a_batch_ends_before_the_envelope_that_would_pass_its_size() {
    let mut builder = BatchBuilder::new(10);
    assert_eq!(builder.finish(), None);
    assert_eq!(builder.push(&[1; 6]), Ok(BatchPush::Taken));
    assert_eq!(builder.push(&[2; 5]), Ok(BatchPush::Full));
    assert_eq!(builder.push(&[3; 4]), Ok(BatchPush::Taken));
    assert_eq!(builder.push(&[4; 1]), Ok(BatchPush::Full));
    assert_eq!(builder.len(), 2);
    let first = builder.finish().expect("two envelopes");

    assert!(builder.is_empty());
    assert_eq!(
        builder.push(&[5; 500]),
        Ok(BatchPush::Taken),
        "the first is taken whatever its length"
    );
    assert_eq!(builder.push(&[6; 1]), Ok(BatchPush::Full));
    let second = builder.finish().expect("one envelope");
    assert_eq!(builder.push(&[7; 5]), Ok(BatchPush::Taken), "the size begins anew with each batch");
    assert_eq!(builder.push(&[8; 5]), Ok(BatchPush::Taken));

    let mut decoder = started();
    decoder.push(first);
    decoder.push(second);
    let mut next = || match decoder.next_frame() {
        Ok(Some(DataFrame::Batch(batch))) => batch.envelopes().collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(next(), [vec![1; 6], vec![3; 4]]);
    assert_eq!(next(), [vec![5; 500]]);
}

#[test]
fn the_longest_envelope_fits_and_a_longer_one_is_refused() {
    let len = usize::try_from(MAX_ENVELOPE).expect("fits");
    let mut builder = BatchBuilder::new(1);
    let error = EncodeError::Envelope { len_bytes: len + 1 };
    assert_eq!(builder.push(&vec![1; len + 1]), Err(error));
    assert_eq!(builder.push(&[]), Err(EncodeError::EmptyEnvelope));
    assert_eq!(builder.push(&vec![1; len]), Ok(BatchPush::Taken));
    let mut decoder = started();
    for chunk in chunks(builder.finish().expect("one"), &[1_000_000; 8]) {
        assert_eq!(decoder.next_frame(), Ok(None));
        decoder.push(chunk);
    }
    let Ok(Some(DataFrame::Batch(batch))) = decoder.next_frame() else { panic!("no batch") };
    assert!(batch.envelopes().map(|e| e.len()).eq([len]));
}

#[test]
fn a_batch_takes_no_more_envelopes_than_a_receiver_accepts() {
    let mut builder = BatchBuilder::new(u32::MAX);
    for _ in 0..MAX_BATCH_ENVELOPES {
        assert_eq!(builder.push(&[1]), Ok(BatchPush::Taken));
    }
    assert_eq!(builder.push(&[1]), Ok(BatchPush::Full));
    let mut decoder = started();
    decoder.push(builder.finish().expect("many"));
    let Ok(Some(DataFrame::Batch(batch))) = decoder.next_frame() else { panic!("no batch") };
    assert_eq!(u32::try_from(batch.len()), Ok(MAX_BATCH_ENVELOPES));
}

#[test]
fn a_full_frame_of_many_envelopes_stays_within_its_limit() {
    let envelope = vec![7; 1 << 20];
    let mut builder = BatchBuilder::new(u32::MAX);
    while builder.push(&envelope) == Ok(BatchPush::Taken) {}
    assert_eq!(builder.len(), 31); // 32 of them and their lengths pass 32 MiB
    let mut decoder = started();
    decoder.push(builder.finish().expect("many"));
    assert!(matches!(decoder.next_frame(), Ok(Some(DataFrame::Batch(_)))));
}
