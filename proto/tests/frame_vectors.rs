//! The peer frames are the bytes that `docs/protocol/replication.md` says: `data/frames.jsonl` was
//! written from that page alone, and both directions are held against it.

use bytes::{Bytes, BytesMut};
use hawser_proto::frame::{
    BatchBuilder, BatchPush, ControlDecoder, ControlFrame, DataDecoder, DataFrame, FrameError,
    GapFrameReason, RefusalReason, Role, proof_preimage,
};
use hawser_proto::{Cursor, OriginatorId};
use serde_json::{Value, json};

/// The vectors of one stream that carry a field of this name.
fn vectors(stream: &str, field: &str) -> Vec<Value> {
    let vectors: Vec<Value> = include_str!("data/frames.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a vector a line"))
        .filter(|vector| vector["stream"] == stream && vector.get(field).is_some())
        .collect();
    assert!(!vectors.is_empty(), "no {stream} vector has {field}");
    vectors
}

fn bytes(value: &Value) -> Bytes {
    hex::decode(value.as_str().expect("hex is a string")).expect("vectors are hex").into()
}

fn control_frames(stream: Bytes) -> Result<Vec<ControlFrame>, FrameError> {
    let mut decoder = ControlDecoder::new();
    decoder.push(stream);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame()? {
        frames.push(frame);
    }
    decoder.finish().map(|()| frames)
}

fn data_frames(stream: Bytes) -> Result<Vec<DataFrame>, FrameError> {
    let mut decoder = DataDecoder::new();
    decoder.push(stream);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame()? {
        frames.push(frame);
    }
    decoder.finish().map(|()| frames)
}

fn clock_fields(clock: &Cursor) -> Value {
    clock.iter().map(|id| (id.originator.to_string(), json!(id.sequence.0))).collect()
}

fn control_fields(frame: &ControlFrame) -> Value {
    match frame {
        ControlFrame::Hello(hello) => json!({
            "type": "hello",
            "versions": hello.versions,
            "features": hello.features,
            "node_id": hello.node_id.0,
            "clock": clock_fields(&hello.clock),
        }),
        ControlFrame::Proof(proof) => json!({
            "type": "proof",
            "node_id": proof.node_id.0,
            "signature": hex::encode(proof.signature),
        }),
        ControlFrame::Want(want) => json!({
            "type": "want",
            "originator": want.originator.0,
            "after": want.after.0,
            "up_to": want.up_to.map(|id| id.0),
            "bytes_max": want.bytes_max,
        }),
        ControlFrame::Stop(stop) => json!({ "type": "stop", "originator": stop.originator.0 }),
        ControlFrame::Clock(clock) => {
            json!({ "type": "clock", "clock": clock_fields(&clock.entries) })
        }
        ControlFrame::Refused(refused) => json!({
            "type": "refused",
            "originator": refused.originator.0,
            "reason": match refused.reason {
                RefusalReason::UnknownOriginator => json!("unknown_originator"),
                RefusalReason::NotFromPeers => json!("not_from_peers"),
                RefusalReason::Busy => json!("busy"),
                RefusalReason::Other(code) => json!(code),
            },
        }),
        ControlFrame::Checkpoint(checkpoint) => {
            let of = checkpoint.signed.checkpoint;
            json!({
                "type": "checkpoint",
                "node": of.node.0,
                "originator": of.originator.0,
                "size": of.size,
                "cosigners": checkpoint.cosignatures.iter().map(|it| it.cosigner.0).collect::<Vec<_>>(),
            })
        }
        ControlFrame::Void(signed) => json!({
            "type": "void",
            "node": signed.statement.node.0,
            "from": signed.statement.from.0,
            "through": signed.statement.through.0,
            "time_ns": signed.statement.time_ns,
            "incarnation": hex::encode(signed.statement.incarnation),
        }),
    }
}

fn data_fields(frame: &DataFrame) -> Value {
    match frame {
        DataFrame::Header(header) => {
            let mut fields = json!({
                "type": "header",
                "originator": header.originator.0,
                "after": header.after.0,
            });
            header.want.into_iter().for_each(|want| fields["want"] = json!(want));
            fields
        }
        DataFrame::Batch(batch) => {
            assert_eq!(batch.envelopes().count(), batch.len());
            json!({
                "type": "batch",
                "envelopes": batch.envelopes().map(hex::encode).collect::<Vec<_>>(),
            })
        }
        DataFrame::Gap(gap) => json!({
            "type": "gap",
            "from": gap.from.0,
            "to": gap.to.0,
            "reason": match gap.reason {
                GapFrameReason::Missing => "missing",
                GapFrameReason::Expired => "expired",
            },
        }),
        DataFrame::End(end) => json!({ "type": "end", "through": end.through.0 }),
        DataFrame::Prefix(prefix) => {
            let of = prefix.signed.checkpoint;
            json!({
                "type": "prefix",
                "size": prefix.size,
                "of": of.size,
                "node": of.node.0,
                "originator": of.originator.0,
                "hashes": prefix.proof.0.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        }
    }
}

#[test]
fn control_frames_are_the_pinned_bytes() {
    for vector in vectors("control", "frame") {
        let [frame] = &control_frames(bytes(&vector["hex"])).expect("a good vector")[..] else {
            panic!("one frame: {vector}");
        };
        assert_eq!(control_fields(frame), vector["frame"]);

        let skipped = vector.get("skipped").map(bytes).unwrap_or_default();
        let mut encoded = BytesMut::from(&skipped[..]);
        frame.encode(&mut encoded).expect("what a frame held fits a frame");
        assert_eq!(encoded, bytes(&vector["hex"]), "{}", vector["name"]);
    }
}

#[test]
fn data_frames_are_the_pinned_bytes() {
    for vector in vectors("data", "frames") {
        let frames = data_frames(bytes(&vector["hex"])).expect("a good vector");
        let fields: Vec<_> = frames.iter().map(data_fields).collect();
        assert_eq!(json!(fields), vector["frames"], "{}", vector["name"]);

        let mut encoded = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut encoded));
        assert_eq!(encoded, bytes(&vector["hex"]), "{}", vector["name"]);
    }
}

#[test]
fn the_builder_writes_the_same_batches() {
    let mut batches = 0;
    for vector in vectors("data", "frames") {
        for frame in data_frames(bytes(&vector["hex"])).expect("a good vector") {
            let DataFrame::Batch(batch) = &frame else { continue };
            let mut builder = BatchBuilder::new(u32::MAX);
            for envelope in batch.envelopes() {
                assert_eq!(builder.push(&envelope), Ok(BatchPush::Taken));
            }
            let mut encoded = BytesMut::new();
            frame.encode(&mut encoded);
            assert_eq!(builder.finish(), Some(encoded.freeze()), "{}", vector["name"]);
            batches += 1;
        }
    }
    assert!(batches > 0, "no vector has a batch");
}

#[test]
fn violations_are_refused_with_their_reason() {
    for vector in vectors("control", "error") {
        let error = control_frames(bytes(&vector["hex"])).expect_err("a bad vector");
        assert_eq!(vector["error"], error.to_string(), "{}", vector["name"]);
    }
    for vector in vectors("data", "error") {
        let error = data_frames(bytes(&vector["hex"])).expect_err("a bad vector");
        assert_eq!(vector["error"], error.to_string(), "{}", vector["name"]);
    }
}

#[test]
fn proofs_sign_the_pinned_bytes() {
    for vector in vectors("none", "exporter") {
        let role = match vector["role"].as_str() {
            Some("dialler") => Role::Dialler,
            Some("acceptor") => Role::Acceptor,
            other => panic!("role {other:?}"),
        };
        let id = |field: &str| {
            let id = vector[field].as_u64().expect("an id");
            OriginatorId(id.try_into().expect("ids have 32 bits"))
        };
        let exporter = bytes(&vector["exporter"])[..].try_into().expect("32 bytes");
        let preimage = proof_preimage(role, id("own"), id("peer"), &exporter);
        assert_eq!(preimage[..], bytes(&vector["hex"]), "{}", vector["name"]);
    }
}
