//! Checkpoints in binary form: as stored, and as nodes exchange them.
//!
//! A decoder compares every claimed count with the bytes that are left before it allocates for it. It also reads to the
//! last byte, so a checkpoint has one encoding only.

use bytes::{Buf, BufMut};

use super::cosigned::{COSIGNATURES_MAX, CosignedCheckpoint, WITNESSES_MAX};
use super::names::{WITNESS_NAME_LEN_MAX, WitnessName};
use super::statement::{Checkpoint, Cosignature, SignedCheckpoint};
use super::witness::WitnessCosignature;
use crate::ids::{OriginatorId, SequenceId};
use crate::merkle::TreeHash;
use crate::sign::{Signature, SignatureError};

/// Length of a signed checkpoint in bytes.
pub const CHECKPOINT_LEN: usize = 4 + 4 + 8 + 32 + 8 + 65;
/// Length of a cosignature in bytes.
const COSIGNATURE_LEN: usize = 4 + 8 + 65;
/// Length of a witness's cosignature in bytes, without its name.
const WITNESS_LEN: usize = 1 + 4 + 8 + 64;
/// Length of a checkpoint with all cosignatures that it may have, in bytes.
pub const CODEC_LEN_BYTES_MAX: usize = CHECKPOINT_LEN
    + 2
    + COSIGNATURES_MAX * COSIGNATURE_LEN
    + 2
    + WITNESSES_MAX * (WITNESS_LEN + WITNESS_NAME_LEN_MAX);

/// The reason bytes are no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointCodecError {
    /// The bytes end inside a field.
    #[error("the checkpoint is cut off")]
    Truncated,
    /// Bytes follow the last field.
    #[error("{0} bytes follow the checkpoint")]
    Trailing(usize),
    /// The size is larger than a strand can be.
    #[error("a strand has at most 2^63 - 1 places, not {0}")]
    Size(u64),
    /// A signature has another form than the accepted one.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The list claims more cosignatures than are accepted.
    #[error(
        "the checkpoint has {0} cosignatures: at most 256 of nodes and 64 of witnesses are allowed"
    )]
    TooMany(usize),
    /// The cosignatures are not in their order, or one signer has two.
    #[error("the cosignatures of the checkpoint are not in ascending order")]
    Order,
    /// A witness's name is not one that a note can carry.
    #[error("the name of a witness is malformed")]
    WitnessName,
}

type Result<T> = std::result::Result<T, CheckpointCodecError>;

impl SignedCheckpoint {
    /// Encodes the checkpoint.
    #[must_use]
    pub fn encode(&self) -> [u8; CHECKPOINT_LEN] {
        let Checkpoint { node, originator, size, root, time_ns } = self.checkpoint;
        let mut bytes = [0; CHECKPOINT_LEN];
        let mut rest = &mut bytes[..];
        rest.put_u32(node.0);
        rest.put_u32(originator.0);
        rest.put_u64(size);
        rest.put_slice(&root.0);
        rest.put_u64(time_ns);
        rest.put_slice(self.signature.as_bytes());
        bytes
    }

    /// Decodes a checkpoint, to the last byte. Does not verify the signature.
    ///
    /// # Errors
    /// Returns an error if the bytes are not the canonical encoding of a checkpoint.
    pub fn decode(mut bytes: &[u8]) -> Result<Self> {
        let signed = Self::read(&mut bytes)?;
        finish(bytes)?;
        Ok(signed)
    }

    fn read(bytes: &mut &[u8]) -> Result<Self> {
        let node = OriginatorId(u32(bytes)?);
        let originator = OriginatorId(u32(bytes)?);
        let size = u64(bytes)?;
        if size > SequenceId::MAX.0 {
            return Err(CheckpointCodecError::Size(size));
        }
        let root = TreeHash(array(bytes)?);
        let time_ns = u64(bytes)?;
        let checkpoint = Checkpoint { node, originator, size, root, time_ns };
        Ok(Self { checkpoint, signature: signature(bytes)? })
    }
}

impl CosignedCheckpoint {
    /// Encodes the checkpoint with its cosignatures.
    ///
    /// # Panics
    /// Panics if the checkpoint has more cosignatures than [`COSIGNATURES_MAX`] or [`WITNESSES_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.signed.encode().to_vec();
        let count = |len: usize, max: usize| {
            assert!(len <= max, "cosignatures are added up to a bound");
            u16::try_from(len).expect("both bounds are below 2^16")
        };
        bytes.put_u16(count(self.cosignatures.len(), COSIGNATURES_MAX));
        for cosignature in &self.cosignatures {
            bytes.put_u32(cosignature.cosigner.0);
            bytes.put_u64(cosignature.time_ns);
            bytes.put_slice(cosignature.signature.as_bytes());
        }
        bytes.put_u16(count(self.witnesses.len(), WITNESSES_MAX));
        for witness in &self.witnesses {
            let name = witness.name.as_str().as_bytes();
            bytes.put_u8(u8::try_from(name.len()).expect("names are short"));
            bytes.put_slice(name);
            bytes.put_slice(&witness.key_id);
            bytes.put_u64(witness.time_unix_s);
            bytes.put_slice(&witness.signature);
        }
        bytes
    }

    /// Decodes a checkpoint with its cosignatures, to the last byte. Verifies no signature.
    ///
    /// # Errors
    /// Returns an error if the bytes are not the canonical encoding of a checkpoint with cosignatures.
    pub fn decode(mut bytes: &[u8]) -> Result<Self> {
        let bytes = &mut bytes;
        let signed = SignedCheckpoint::read(bytes)?;
        let mut cosignatures: Vec<Cosignature> = Vec::new();
        for _ in 0..count(bytes, COSIGNATURES_MAX, COSIGNATURE_LEN)? {
            let cosigner = OriginatorId(u32(bytes)?);
            let time_ns = u64(bytes)?;
            let cosignature = Cosignature { cosigner, time_ns, signature: signature(bytes)? };
            if cosignatures.last().is_some_and(|last| last.cosigner >= cosigner) {
                return Err(CheckpointCodecError::Order);
            }
            cosignatures.push(cosignature);
        }
        let mut witnesses: Vec<WitnessCosignature> = Vec::new();
        for _ in 0..count(bytes, WITNESSES_MAX, WITNESS_LEN)? {
            let witness = read_witness(bytes)?;
            if witnesses.last().is_some_and(|last| last.signer() >= witness.signer()) {
                return Err(CheckpointCodecError::Order);
            }
            witnesses.push(witness);
        }
        finish(bytes)?;
        Ok(Self { signed, cosignatures, witnesses })
    }
}

fn read_witness(bytes: &mut &[u8]) -> Result<WitnessCosignature> {
    let len = bytes.try_get_u8().map_err(|_| CheckpointCodecError::Truncated)?;
    let (name, rest) =
        bytes.split_at_checked(usize::from(len)).ok_or(CheckpointCodecError::Truncated)?;
    *bytes = rest;
    let name = std::str::from_utf8(name).ok().and_then(WitnessName::new);
    Ok(WitnessCosignature {
        name: name.ok_or(CheckpointCodecError::WitnessName)?,
        key_id: array(bytes)?,
        time_unix_s: u64(bytes)?,
        signature: array(bytes)?,
    })
}

/// Reads the length of a list whose items have at least `item_len` bytes, and refuses one that `max` or the remaining
/// bytes cannot hold.
fn count(bytes: &mut &[u8], max: usize, item_len: usize) -> Result<usize> {
    let count = usize::from(bytes.try_get_u16().map_err(|_| CheckpointCodecError::Truncated)?);
    if count > max {
        return Err(CheckpointCodecError::TooMany(count));
    }
    if bytes.len() < count * item_len {
        return Err(CheckpointCodecError::Truncated);
    }
    Ok(count)
}

fn u32(bytes: &mut &[u8]) -> Result<u32> {
    bytes.try_get_u32().map_err(|_| CheckpointCodecError::Truncated)
}

fn u64(bytes: &mut &[u8]) -> Result<u64> {
    bytes.try_get_u64().map_err(|_| CheckpointCodecError::Truncated)
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let mut array = [0; N];
    bytes.try_copy_to_slice(&mut array).map_err(|_| CheckpointCodecError::Truncated)?;
    Ok(array)
}

fn signature(bytes: &mut &[u8]) -> Result<Signature> {
    let signature = Signature::from_bytes(&array::<65>(bytes)?)?;
    signature.require_canonical()?;
    Ok(signature)
}

fn finish(bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() { Ok(()) } else { Err(CheckpointCodecError::Trailing(bytes.len())) }
}
