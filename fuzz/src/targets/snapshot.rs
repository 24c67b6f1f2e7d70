//! Fuzz target: snapshots for new nodes: manifests and chunks.

use bytes::Bytes;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::merkle::TreeHash;
use hawser_proto::void::VoidStatement;
use hawser_proto::{OriginatorId, SecretKey, SequenceId};
use hawser_storage::{
    BootstrapChunk, BootstrapManifest, BootstrapStrand, CHUNK_LEN_BYTES_MAX, FileHash,
    decode_chunk, encode_chunk,
};

use super::Target;

pub(super) const TARGET: Target = Target { name: "snapshot", run, seeds, memory_factor: 64 };

const STRAND: OriginatorId = OriginatorId(200);

/// Returns a statement of the strand's node about two places.
fn declared() -> VoidStatement {
    VoidStatement {
        node: STRAND,
        from: SequenceId(6),
        through: SequenceId(7),
        time_ns: 5,
        incarnation: [4; 16],
    }
}

/// Chunks, and manifests without their last line, which is a hash that no mutation would meet.
fn seeds() -> Vec<Vec<u8>> {
    let key = SecretKey::from_bytes(&[7; 32]).expect("a scalar");
    let checkpoint = Checkpoint {
        node: STRAND,
        originator: STRAND,
        size: 9,
        root: TreeHash([3; 32]),
        time_ns: 5,
    };
    let of_chain = Checkpoint { originator: OriginatorId::GROUP_MESSAGES, ..checkpoint };
    let of_chain = CosignedCheckpoint::from(of_chain.sign(&key));
    let mut checkpoint = CosignedCheckpoint::from(checkpoint.sign(&key));
    let cosignature = checkpoint.signed.checkpoint.cosign(OriginatorId(300), 6, &key);
    checkpoint.add_cosignature(cosignature);
    let chunk = |from, through| BootstrapChunk {
        from: SequenceId(from),
        through: SequenceId(through),
        len_bytes: 100,
        hash: FileHash([1; 32]),
    };
    let strand = |originator, checkpoints, chunks| BootstrapStrand {
        originator: OriginatorId(originator),
        head: SequenceId(12),
        checkpoints,
        voids: Vec::new(),
        chunks,
    };
    let with_void = BootstrapStrand {
        voids: vec![declared().sign(&key)],
        ..strand(200, Vec::new(), vec![chunk(1, 5), chunk(8, 12)])
    };
    let manifest = |strands| BootstrapManifest {
        network: "testnet".to_owned(),
        made_unix_s: 1_750_000_000,
        strands,
    };
    let manifests = [
        manifest(Vec::new()),
        manifest(vec![
            strand(100, Vec::new(), vec![chunk(1, 12)]),
            strand(200, vec![checkpoint], vec![chunk(1, 5), chunk(8, 12)]),
        ]),
        manifest(vec![
            strand(0, vec![of_chain], vec![chunk(1, 5), chunk(8, 9)]),
            strand(1, Vec::new(), vec![chunk(3, 12)]),
            strand(100, Vec::new(), Vec::new()),
        ]),
        manifest(vec![with_void]),
    ];
    let lines = manifests.iter().map(|manifest| {
        let mut bytes = manifest.encode().expect("it is within all bounds");
        let end = bytes.len() - 1;
        let line = bytes[..end].iter().rposition(|byte| *byte == b'\n');
        bytes.truncate(line.map_or(0, |at| at + 1));
        bytes
    });
    let envelope = |place: u64| (SequenceId(place), Bytes::from(vec![9; 40]));
    let chunks = [1..=1, 1..=3, 7..=20, 500..=540].into_iter().map(
        |places: std::ops::RangeInclusive<u64>| {
            encode_chunk(STRAND, &places.map(envelope).collect::<Vec<_>>())
        },
    );
    lines.chain(chunks).collect()
}

/// Anything that is read is written again as the same, and stays within its bounds.
fn run(input: &[u8]) {
    let chunk = Bytes::copy_from_slice(input);
    if let Ok(envelopes) = decode_chunk(&chunk, STRAND) {
        assert!(envelopes.is_sorted_by(|one, two| one.0 < two.0));
        assert_eq!(encode_chunk(STRAND, &envelopes), input);
    }
    let Ok(manifest) = BootstrapManifest::decode(&BootstrapManifest::ended(input)) else { return };
    for strand in &manifest.strands {
        assert!(strand.originator.is_node() || strand.is_of_chain());
        assert!(strand.voids.iter().all(|it| it.statement.node == strand.originator));
        let mut after = SequenceId::NONE;
        for chunk in &strand.chunks {
            assert!(after < chunk.from && chunk.from <= chunk.through);
            assert!(chunk.through <= strand.head && chunk.len_bytes <= CHUNK_LEN_BYTES_MAX);
            after = chunk.through;
        }
    }
    let again = manifest.encode().expect("what was read can be written");
    assert_eq!(again, BootstrapManifest::ended(input));
}
