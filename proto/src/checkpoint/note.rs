//! Checkpoints as text: C2SP `signed-note` and `tlog-checkpoint`.
//!
//! The text has the three lines of a `tlog-checkpoint`: origin, size and root. The nodes' signatures have a
//! signature type of their own, because they are made with secp256k1 over the digest and carry the time.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::cosigned::CosignedCheckpoint;
use super::names::{NETWORK_LEN_MAX, WitnessName, cosigner_name, key_id, note_text, origin};
use super::statement::{Checkpoint, Cosignature, SignedCheckpoint};
use super::witness::WitnessCosignature;
use crate::decimal::decimal;
use crate::ids::{OriginatorId, SequenceId};
use crate::merkle::TreeHash;
use crate::sign::{PublicKey, Signature};

/// The longest note in bytes. A checkpoint with the most cosignatures fits.
pub const NOTE_LEN_BYTES_MAX: usize = 128 * 1024;
/// Signature type of a node's signature (C2SP signed-note: a type without a byte of its own).
const CHECKPOINT_TYPE: &[u8] = b"\xffhawser/checkpoint-secp256k1/v1";
/// Signature type of a node's cosignature.
const COSIGNATURE_TYPE: &[u8] = b"\xffhawser/cosignature-secp256k1/v1";
/// Begins every signature line: an em dash and a space.
pub(super) const LINE_START: &str = "\u{2014} ";

/// The reason a text is not a note of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The text is longer than [`NOTE_LEN_BYTES_MAX`].
    #[error("a note has at most 131072 bytes, not {0}")]
    TooLong(usize),
    /// The text does not consist of the lines of a note.
    #[error("the text is not a signed note")]
    NoNote,
    /// The first line is not the origin of a strand's checkpoints.
    #[error("the first line of the note is not NETWORK/strands/ORIGINATOR/NODE")]
    Origin,
    /// The checkpoint is of another network.
    #[error("the checkpoint is of another network")]
    OtherNetwork,
    /// The second line is not a size in canonical decimal form.
    #[error("the second line of the note is not the size of a tree")]
    Size,
    /// The third line is not a root in canonical base64.
    #[error("the third line of the note is not the root of a tree")]
    Root,
    /// A signature line is malformed.
    #[error("signature line {0} is malformed")]
    Signature(usize),
    /// A signature line of a node's key has a signature in another form than the accepted one.
    #[error("signature line {0} has no signature of its key: it is in another form")]
    OtherForm(usize),
    /// The key of the node has not signed the note, or has signed it twice.
    #[error("the note must have exactly one signature of its node")]
    Unsigned,
}

impl CosignedCheckpoint {
    /// Writes the note. `key_of` returns the key that the registry holds for a node; a signature of a node without a
    /// known key is left out.
    #[must_use]
    pub fn to_note(
        &self,
        network: &str,
        key_of: impl Fn(OriginatorId) -> Option<PublicKey>,
    ) -> String {
        let SignedCheckpoint { checkpoint, signature } = &self.signed;
        let Checkpoint { node, originator, .. } = *checkpoint;
        let mut note = note_text(network, checkpoint);
        note.push('\n');
        let mut line = |name: &str, id: [u8; 4], time: u64, signature: &[u8]| {
            let bytes = [&id[..], &time.to_be_bytes(), signature].concat();
            let _ = writeln!(note, "{LINE_START}{name} {}", STANDARD.encode(bytes));
        };
        if let Some(key) = key_of(node) {
            let name = origin(network, originator, node);
            let id = key_id(&name, CHECKPOINT_TYPE, key.as_bytes());
            line(&name, id, checkpoint.time_ns, signature.as_bytes());
        }
        for Cosignature { cosigner, time_ns, signature } in &self.cosignatures {
            let Some(key) = key_of(*cosigner) else { continue };
            let name = cosigner_name(network, *cosigner);
            let id = key_id(&name, COSIGNATURE_TYPE, key.as_bytes());
            line(&name, id, *time_ns, signature.as_bytes());
        }
        for witness in &self.witnesses {
            line(witness.name.as_str(), witness.key_id, witness.time_unix_s, &witness.signature);
        }
        note
    }

    /// Parses a note of `network`. Verifies no signature. A signature line belongs to a node if its name and key id are
    /// those of a key that `key_of` returns, and to a witness if it has the length of a witness's signature. Other
    /// lines are left out.
    ///
    /// # Errors
    /// Returns an error if the text is not a note of a checkpoint, or lacks the signature of the node that its origin
    /// names.
    pub fn from_note(
        note: &str,
        network: &str,
        key_of: impl Fn(OriginatorId) -> Option<PublicKey>,
    ) -> Result<Self, NoteError> {
        if note.len() > NOTE_LEN_BYTES_MAX {
            return Err(NoteError::TooLong(note.len()));
        }
        let (text, lines) = note.split_once("\n\n").ok_or(NoteError::NoNote)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::NoNote)?;
        if note.chars().any(|c| c.is_ascii_control() && c != '\n') {
            return Err(NoteError::NoNote);
        }
        let mut checkpoint = read_text(text, network)?;
        let own_name = origin(network, checkpoint.originator, checkpoint.node);
        let own_id =
            key_of(checkpoint.node).map(|key| key_id(&own_name, CHECKPOINT_TYPE, key.as_bytes()));
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for (number, line) in (1..).zip(lines.split('\n')) {
            let line = read_line(line, number).ok_or(NoteError::Signature(number))?;
            if line.name == own_name && Some(line.id) == own_id {
                own.push(line.node_signature()?);
            } else {
                others.push(line);
            }
        }
        let [(time_ns, signature)] = own[..] else { return Err(NoteError::Unsigned) };
        checkpoint.time_ns = time_ns;
        let mut read = Self::from(SignedCheckpoint { checkpoint, signature });
        for line in others {
            line.add_to(&mut read, network, &key_of)?;
        }
        Ok(read)
    }
}

/// One signature line.
struct Line<'a> {
    /// Number of the line, from 1.
    number: usize,
    name: &'a str,
    id: [u8; 4],
    time: u64,
    signature: Vec<u8>,
}

impl Line<'_> {
    /// Reads the signature as that of a node, with its time.
    fn node_signature(&self) -> Result<(u64, Signature), NoteError> {
        let signature = Signature::from_bytes(&self.signature);
        let signature = signature.and_then(|it| it.require_canonical().map(|()| it));
        Ok((self.time, signature.map_err(|_| NoteError::OtherForm(self.number))?))
    }

    /// Adds the line if it is a cosignature.
    fn add_to(
        self,
        note: &mut CosignedCheckpoint,
        network: &str,
        key_of: impl Fn(OriginatorId) -> Option<PublicKey>,
    ) -> Result<(), NoteError> {
        let cosigner = self
            .name
            .strip_prefix(network)
            .and_then(|rest| rest.strip_prefix("/nodes/"))
            .and_then(decimal)
            .and_then(|id| u32::try_from(id).ok())
            .map(OriginatorId);
        if let Some(cosigner) = cosigner {
            let id =
                key_of(cosigner).map(|key| key_id(self.name, COSIGNATURE_TYPE, key.as_bytes()));
            if id == Some(self.id) {
                let (time_ns, signature) = self.node_signature()?;
                note.add_cosignature(Cosignature { cosigner, time_ns, signature });
            }
            return Ok(());
        }
        if let (Some(name), Ok(signature)) =
            (WitnessName::new(self.name), self.signature.try_into())
        {
            let (key_id, time_unix_s) = (self.id, self.time);
            note.add_witness(WitnessCosignature { name, key_id, time_unix_s, signature });
        }
        Ok(())
    }
}

/// Parses the three lines of the text. The text has no time, so the time of the result is 0.
fn read_text(text: &str, network: &str) -> Result<Checkpoint, NoteError> {
    let mut lines = text.split('\n');
    let origin = lines.next().ok_or(NoteError::NoNote)?;
    let mut names = origin.split('/');
    let of = names.next().filter(|name| (1..=NETWORK_LEN_MAX).contains(&name.len()));
    let of = of.ok_or(NoteError::Origin)?;
    if names.next() != Some("strands") {
        return Err(NoteError::Origin);
    }
    let mut id = || {
        let id = names.next().and_then(decimal).and_then(|id| u32::try_from(id).ok());
        id.map(OriginatorId).ok_or(NoteError::Origin)
    };
    let (originator, node) = (id()?, id()?);
    if names.next().is_some() {
        return Err(NoteError::Origin);
    }
    if of != network {
        return Err(NoteError::OtherNetwork);
    }
    let size = lines.next().and_then(decimal).filter(|&size| size <= SequenceId::MAX.0);
    let size = size.ok_or(NoteError::Size)?;
    let root = lines.next().and_then(|line| STANDARD.decode(line).ok());
    let root = root.and_then(|root| TreeHash::from_slice(&root)).ok_or(NoteError::Root)?;
    // Extension lines are refused: a witness signs the whole text, the node's digest does not cover them.
    if lines.next().is_some() {
        return Err(NoteError::NoNote);
    }
    Ok(Checkpoint { node, originator, size, root, time_ns: 0 })
}

fn read_line(line: &str, number: usize) -> Option<Line<'_>> {
    let (name, signature) = line.strip_prefix(LINE_START)?.split_once(' ')?;
    let bytes = STANDARD.decode(signature).ok()?;
    let (id, rest) = bytes.split_first_chunk::<4>()?;
    // Signatures of other types may be shorter than a time.
    let (time, signature) = match rest.split_first_chunk::<8>() {
        Some((time, signature)) => (u64::from_be_bytes(*time), signature.to_vec()),
        None => (0, Vec::new()),
    };
    (!name.is_empty()).then_some(Line { number, name, id: *id, time, signature })
}
