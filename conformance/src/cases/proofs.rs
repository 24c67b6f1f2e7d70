//! Checkpoints, proofs and tiles: a service that other software does not have, so its cases are skipped there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_proto::checkpoint::{CosignedCheckpoint, SignedCheckpoint};
use hawser_proto::merkle::{
    self, ConsistencyProof, InclusionProof, PROOF_LEN_MAX, Subtree, TILE_WIDTH, Tile, TreeHash,
};
use hawser_proto::pb::hawser::checkpoint_api as api;
use hawser_proto::{EnvelopeId, PublicKey};
use tonic::{Code, Status};

use crate::case::Need::Payer;
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, optional, refused, same};
use crate::connection::CHECKPOINT_API;
use crate::context::{JudgedNodes, parse_envelope};
use crate::envelopes::new_group;

const AREA: Area = Area::EndToEnd;
const CHECKPOINTS: &str = "docs/protocol/checkpoints.md#checkpoints";
const PROOFS: &str = "docs/protocol/checkpoints.md#proofs";
const PAGES: &str = "docs/protocol/checkpoints.md#pages";
const CALLS: &str = "docs/protocol/api.md#proofs";
/// Interval between two polls for a checkpoint. A guess: nodes sign one about every second, and a poll may be charged.
const LOOK: Duration = Duration::from_millis(250);
/// A strand that no network has. A guess: registries count from small numbers up.
const NO_STRAND: u32 = 4_000_000_001;

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "checkpoint-covers-the-published",
        "a checkpoint under the key of the node's envelopes covers a published envelope soon after",
        CHECKPOINTS,
        |c| Box::pin(covers(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "inclusion-is-proved",
        "GetInclusion leads from a published envelope to the root of a signed checkpoint",
        PROOFS,
        |c| Box::pin(inclusion(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "checkpoints-only-add",
        "GetConsistency shows that a later checkpoint begins with an earlier one",
        PROOFS,
        |c| Box::pin(consistency(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "proofs-of-nothing-are-refused",
        "a place that is not in the tree, a tree that is not there and a strand without \
         checkpoints are refused",
        CALLS,
        |c| Box::pin(no_proofs(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "tiles-lead-to-the-signed-root",
        "the hashes of the tiles have a published envelope's leaf and give the root of the \
         signed note",
        PAGES,
        |c| Box::pin(tiles(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "pages-of-nothing-are-404",
        "a path that names no page of a tree is 404 and is kept by no cache",
        PAGES,
        |c| Box::pin(no_pages(c)),
    ),
];

/// An envelope that the node has signed.
struct Published {
    id: EnvelopeId,
    /// Index of its leaf, below the size of each tree that covers it.
    index: u64,
    leaf: TreeHash,
    /// The key that signed it.
    key: PublicKey,
}

async fn publish(c: &JudgedNodes) -> Checked<Published> {
    let bytes = c.send(&new_group(), 1).await?.remove(0);
    let envelope = parse_envelope(&bytes)?;
    let key = envelope.recover_originator();
    let key = key.map_err(|error| CaseError::new("a signature of the originator", error))?;
    let key = key.ok_or_else(|| CaseError::new("a signature", "a chain's proof"))?;
    let leaf = merkle::envelope_leaf(&bytes)
        .ok_or_else(|| CaseError::new("an originator envelope", "other bytes"))?;
    let index = merkle::leaf_index(envelope.id().sequence)
        .ok_or_else(|| CaseError::new("a sequence id from 1 on", envelope.id()))?;
    Ok(Published { id: envelope.id(), index, leaf, key })
}

async fn ask_checkpoint(
    c: &JudgedNodes,
    originator: u32,
    size_max: Option<u64>,
) -> Result<Bytes, Status> {
    let path = format!("{CHECKPOINT_API}/GetCheckpoint");
    let request = api::GetCheckpointRequest {
        originator_id: originator,
        node_id: Some(originator),
        size_max,
    };
    let answer: api::GetCheckpointResponse = c.target.unary(&path, request).await?;
    Ok(answer.checkpoint)
}

/// Checks that a checkpoint is the node's own, of the envelope's strand.
fn own(signed: SignedCheckpoint, of: &Published) -> Checked<SignedCheckpoint> {
    let stated = signed.checkpoint;
    same("node and originator", &[of.id.originator; 2], &[stated.node, stated.originator])?;
    signed.verify(&of.key).map_err(|error| CaseError::new("the key of the envelopes", error))?;
    Ok(signed)
}

/// Waits for a checkpoint of the node that covers an envelope.
async fn covering(c: &JudgedNodes, of: &Published) -> Checked<SignedCheckpoint> {
    let deadline = Instant::now() + c.target.answer_timeout();
    loop {
        let mut last = "none".to_owned();
        let answer = ask_checkpoint(c, of.id.originator.0, None).await;
        if answer.as_ref().err().map(Status::code) != Some(Code::NotFound) {
            let bytes = optional("CheckpointApi", answer)?;
            let found = CosignedCheckpoint::decode(&bytes)
                .map_err(|error| CaseError::new("a checkpoint in binary form", error))?;
            let signed = own(found.signed, of)?;
            if signed.checkpoint.size >= of.id.sequence.0 {
                return Ok(signed);
            }
            last = format!("one of {} leaves", signed.checkpoint.size);
        }
        if Instant::now() >= deadline {
            return Err(CaseError::new(format_args!("a checkpoint that covers {}", of.id), last));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn covers(c: &JudgedNodes) -> Checked {
    let first = covering(c, &publish(c).await?).await?;
    let second = covering(c, &publish(c).await?).await?;
    let (earlier, later) = (first.checkpoint, second.checkpoint);
    ensure(later.time_ns > earlier.time_ns, "a later time of the larger checkpoint", || {
        format!("{} after {}", later.time_ns, earlier.time_ns)
    })
}

/// Reads the hashes of a proof.
fn hashes(proof: &[Bytes]) -> Checked<Vec<TreeHash>> {
    ensure(proof.len() <= PROOF_LEN_MAX, format_args!("{PROOF_LEN_MAX} hashes at most"), || {
        proof.len().to_string()
    })?;
    let read: Option<Vec<_>> = proof.iter().map(|hash| TreeHash::from_slice(hash)).collect();
    read.ok_or_else(|| CaseError::new("hashes of 32 bytes", "others"))
}

async fn inclusion(c: &JudgedNodes) -> Checked {
    let published = publish(c).await?;
    let stated = covering(c, &published).await?.checkpoint;
    let path = format!("{CHECKPOINT_API}/GetInclusion");
    let request = api::GetInclusionRequest {
        originator_id: published.id.originator.0,
        sequence_id: published.id.sequence.0,
        size: Some(stated.size),
    };
    let answer: api::GetInclusionResponse = c.target.unary(&path, request).await?;
    same("size", &stated.size, &answer.size)?;
    same("leaf", &Some(published.leaf), &TreeHash::from_slice(&answer.leaf))?;
    InclusionProof(hashes(&answer.proof)?)
        .verify(published.leaf, published.index, stated.size, stated.root)
        .map_err(|error| CaseError::new("a proof that leads to the signed root", error))
}

async fn consistency(c: &JudgedNodes) -> Checked {
    let earlier = covering(c, &publish(c).await?).await?.checkpoint;
    let later = covering(c, &publish(c).await?).await?.checkpoint;
    let path = format!("{CHECKPOINT_API}/GetConsistency");
    let request = api::GetConsistencyRequest {
        originator_id: earlier.originator.0,
        from_size: earlier.size,
        to_size: Some(later.size),
    };
    let answer: api::GetConsistencyResponse = c.target.unary(&path, request).await?;
    same("size of the later tree", &later.size, &answer.to_size)?;
    ConsistencyProof(hashes(&answer.proof)?)
        .verify(earlier.size, later.size, earlier.root, later.root)
        .map_err(|error| {
            CaseError::new("a proof that the later tree begins with the earlier", error)
        })
}

async fn no_proofs(c: &JudgedNodes) -> Checked {
    let stated = covering(c, &publish(c).await?).await?.checkpoint;
    let originator_id = stated.originator.0;
    let inclusion = async |sequence_id, size| {
        let path = format!("{CHECKPOINT_API}/GetInclusion");
        let request = api::GetInclusionRequest { originator_id, sequence_id, size: Some(size) };
        c.target.unary::<_, api::GetInclusionResponse>(&path, request).await
    };
    let beyond = inclusion(stated.size + 1, stated.size).await;
    refused("a place behind the tree", beyond, Code::InvalidArgument, "")?;
    let large = inclusion(1, i64::MAX as u64).await;
    refused("a tree that is not there", large, Code::OutOfRange, "")?;
    let path = format!("{CHECKPOINT_API}/GetConsistency");
    let request = api::GetConsistencyRequest {
        originator_id,
        from_size: stated.size,
        to_size: Some(stated.size - 1),
    };
    let shrinking = c.target.unary::<_, api::GetConsistencyResponse>(&path, request).await;
    refused("a later tree that is smaller", shrinking, Code::InvalidArgument, "")?;
    let unknown = ask_checkpoint(c, NO_STRAND, None).await;
    refused("a strand that does not exist", unknown, Code::NotFound, "").map(|_| ())
}

/// A reader of the tiles of a tree of one size. Keeps the tiles that it has read.
struct Tiles<'a> {
    context: &'a JudgedNodes,
    /// The path of the log, without a slash at its end.
    log: String,
    size: u64,
    read: BTreeMap<(u8, u64), Vec<TreeHash>>,
}

impl Tiles<'_> {
    /// Reads `count` hashes of a level of tiles from number `from` on, which lie in one tile.
    async fn hashes(&mut self, level: u8, from: u64, count: u64) -> Checked<&[TreeHash]> {
        let wide = u64::from(TILE_WIDTH);
        let (index, within) = (from / wide, from % wide);
        if !self.read.contains_key(&(level, index)) {
            let hashes = (self.size >> (8 * u32::from(level))) - index * wide;
            let width = u16::try_from(hashes.min(wide)).expect("a tile is 256 hashes wide");
            let tile = Tile::new(level, index, width)
                .ok_or_else(|| CaseError::new("a size that a strand can have", self.size))?;
            let path = format!("{}/tile/{tile}", self.log);
            let answer = self.context.target.page(&path).await?;
            same(&format!("{path}: status"), &200, &answer.status)?;
            let bytes = 32 * usize::from(width);
            ensure(answer.body.len() == bytes, format_args!("{path}: {bytes} bytes"), || {
                answer.body.len().to_string()
            })?;
            let hashes = answer.body.chunks_exact(32).filter_map(TreeHash::from_slice).collect();
            self.read.insert((level, index), hashes);
        }
        let found = self.read.get(&(level, index)).map(Vec::as_slice).unwrap_or_default();
        let (from, count) = (usize::try_from(within).ok(), usize::try_from(count).ok());
        from.zip(count)
            .and_then(|(from, count)| found.get(from..from.checked_add(count)?))
            .ok_or_else(|| {
                CaseError::new("hashes within a tile", format!("number {within} of level {level}"))
            })
    }

    /// Returns the root, from the hashes of the complete subtrees: the bits of the size name them.
    async fn root(&mut self) -> Checked<TreeHash> {
        let mut peaks = BTreeMap::new();
        let size = self.size;
        for level in (0..63_u8).filter(|level| size >> level & 1 == 1) {
            let index = (size >> level) - 1;
            let (tile_level, height) = (level / 8, level % 8);
            let mut hashes = self.hashes(tile_level, index << height, 1 << height).await?.to_vec();
            while hashes.len() > 1 {
                hashes = hashes.chunks(2).map(|it| merkle::node_hash(it[0], it[1])).collect();
            }
            peaks.insert(Subtree { level, index }, hashes[0]);
        }
        merkle::root(self.size, |subtree| {
            let found = peaks.get(&subtree).copied();
            found.ok_or_else(|| CaseError::new("the subtrees of the size", format!("{subtree:?}")))
        })
    }
}

/// Waits for a note of the node that covers an envelope.
async fn covering_note(c: &JudgedNodes, of: &Published, log: &str) -> Checked<SignedCheckpoint> {
    let path = format!("{log}/checkpoint");
    let deadline = Instant::now() + c.target.answer_timeout();
    loop {
        let answer = c.target.page(&path).await?;
        let mut last = format!("status {}", answer.status);
        if answer.status == 200 {
            let note = std::str::from_utf8(&answer.body)
                .map_err(|_| CaseError::new("a note", "bytes that are no text"))?;
            let network = note.lines().next().unwrap_or_default();
            let network = network.strip_suffix(log).ok_or_else(|| {
                CaseError::new(format_args!("an origin that ends in {log}"), network)
            })?;
            let key = |node| (node == of.id.originator).then_some(of.key);
            let found = CosignedCheckpoint::from_note(note, network, key)
                .map_err(|error| CaseError::new("a note of a checkpoint", error))?;
            let signed = own(found.signed, of)?;
            if signed.checkpoint.size >= of.id.sequence.0 {
                return Ok(signed);
            }
            last = format!("a note of {} leaves", signed.checkpoint.size);
        }
        if Instant::now() >= deadline {
            return Err(CaseError::new(format_args!("a note that covers {}", of.id), last));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn tiles(c: &JudgedNodes) -> Checked {
    let published = publish(c).await?;
    // A node without the service has no pages either.
    covering(c, &published).await?;
    let originator = published.id.originator;
    let log = format!("/strands/{originator}/{originator}");
    let stated = covering_note(c, &published, &log).await?.checkpoint;
    let mut tiles = Tiles { context: c, log, size: stated.size, read: BTreeMap::new() };
    let leaf = tiles.hashes(0, published.index, 1).await?.first().copied();
    same("the leaf of the envelope", &Some(published.leaf), &leaf)?;
    same("the root of the note", &stated.root, &tiles.root().await?)
}

async fn no_pages(c: &JudgedNodes) -> Checked {
    let answer = ask_checkpoint(c, NO_STRAND, None).await;
    if answer.as_ref().err().map(Status::code) == Some(Code::Unimplemented) {
        return optional("CheckpointApi", answer).map(|_| ());
    }
    let log = format!("/strands/{NO_STRAND}/{NO_STRAND}");
    for path in [
        format!("{log}/checkpoint"),
        format!("{log}/tile/0/000"),
        format!("{log}/tile/0/0"),
        format!("{log}/tile/entries/000"),
        format!("{log}/checkpoint?x=1"),
        "/strands/01/1/checkpoint".to_owned(),
        "/strands/".to_owned(),
    ] {
        let answer = c.target.page(&path).await?;
        same(&format!("{path}: status"), &404, &answer.status)?;
        let kept = answer.header("cache-control").map(str::to_owned);
        same(&format!("{path}: cache-control"), &Some("no-store".to_owned()), &kept)?;
    }
    Ok(())
}
