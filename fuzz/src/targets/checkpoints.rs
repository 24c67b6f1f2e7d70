//! Fuzz target: checkpoints with cosignatures, as bytes, as notes and on their way to a witness; proofs; tiles.

use hawser_proto::checkpoint::{
    CheckpointSubmission, CosignedCheckpoint, cosignature_lines, read_cosignature_lines,
};
use hawser_proto::merkle::{
    ConsistencyProof, InclusionProof, TILE_WIDTH, Tile, TreeHash, empty_root,
};
use hawser_proto::{OriginatorId, PublicKey, SecretKey};

use super::Target;
use crate::corpus;

/// The network of the vectors.
const NETWORK: &str = "testnet";

pub(super) const TARGET: Target = Target { name: "checkpoints", run, seeds, memory_factor: 32 };

fn seeds() -> Vec<Vec<u8>> {
    let proof = ConsistencyProof(vec![empty_root(); 3]);
    let submission =
        CheckpointSubmission { old_size: 7, proof, note: "a\n\n\u{2014} b AAAA\n".into() };
    let mut seeds = corpus::checkpoints();
    seeds.push(submission.encode().into_bytes());
    seeds
}

/// Bytes that are read have one form, a note that is read is read again as the same, and no proof shows that
/// a tree with leaves is the empty one.
fn run(input: &[u8]) {
    if let Ok(read) = CosignedCheckpoint::decode(input) {
        assert_eq!(read.encode(), input, "a checkpoint has another form");
    }
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(read) = CosignedCheckpoint::from_note(text, NETWORK, key)
    {
        let again = read.to_note(NETWORK, key);
        assert_eq!(CosignedCheckpoint::from_note(&again, NETWORK, key), Ok(read));
    }
    if let Ok(read) = CheckpointSubmission::decode(input) {
        assert_eq!(read.encode().as_bytes(), input, "a submission has another form");
    }
    let lines = read_cosignature_lines(input);
    assert_eq!(read_cosignature_lines(cosignature_lines(&lines).as_bytes()), lines);
    if let Ok(path) = std::str::from_utf8(input)
        && let Some(tile) = Tile::of_path(path)
    {
        assert_eq!(tile.to_string(), path, "a tile has another path");
        assert!(tile.end() <= i64::MAX as u64 && tile.width() <= TILE_WIDTH);
    }
    let Some((numbers, rest)) = input.split_first_chunk::<24>() else { return };
    let number = |at: usize| {
        u64::from_be_bytes(numbers[at..at + 8].try_into().expect("there are three numbers"))
    };
    let hashes: Vec<TreeHash> = rest.chunks_exact(32).filter_map(TreeHash::from_slice).collect();
    let Some(&first) = hashes.first() else { return };
    let inclusion = InclusionProof(hashes.clone());
    assert!(inclusion.verify(first, number(0), number(8), empty_root()).is_err());
    let consistency = ConsistencyProof(hashes);
    assert!(consistency.verify(number(0).max(1), number(8), first, empty_root()).is_err());
}

/// The keys of the nodes of the vectors.
fn key(node: OriginatorId) -> Option<PublicKey> {
    let mut scalar = [0; 32];
    scalar[31] = match node.0 {
        100 => 11,
        200 => 22,
        300 => 33,
        _ => return None,
    };
    Some(SecretKey::from_bytes(&scalar).ok()?.public_key())
}
