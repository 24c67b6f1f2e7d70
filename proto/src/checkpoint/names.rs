//! The names of logs and keys in notes, and the text that witnesses sign.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::statement::Checkpoint;
use crate::decimal::decimal;
use crate::ids::OriginatorId;

/// The longest name of a witness in bytes. A guess: names are short URLs.
pub const WITNESS_NAME_LEN_MAX: usize = 128;
/// The longest name of a network in bytes, as the setting of the node limits it.
pub const NETWORK_LEN_MAX: usize = 64;

/// The name of a key in a signed note: no white space, no `+`, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WitnessName(String);

impl WitnessName {
    /// Checks a name; `None` if a note cannot carry it, or it is longer than [`WITNESS_NAME_LEN_MAX`].
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
        let fits = (1..=WITNESS_NAME_LEN_MAX).contains(&name.len());
        (fits && name.chars().all(allowed)).then(|| Self(name.to_owned()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the origin of a node's checkpoints of a strand. Each node that observes a strand is a log of its own.
#[must_use]
pub fn origin(network: &str, originator: OriginatorId, node: OriginatorId) -> String {
    format!("{network}/strands/{originator}/{node}")
}

/// A path that begins with the end of an [`origin`]: `ORIGINATOR/NODE/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPath<'a> {
    /// The strand.
    pub originator: OriginatorId,
    /// The node that observes the strand.
    pub node: OriginatorId,
    /// The path below the log; empty for the log itself.
    pub rest: &'a str,
}

/// Reads the path of a log, or of something below it. `None` if it does not begin with two ids.
#[must_use]
pub fn log_of_path(path: &str) -> Option<LogPath<'_>> {
    let (originator, rest) = path.split_once('/')?;
    let (node, rest) = rest.split_once('/')?;
    let id = |text| decimal(text).and_then(|id| u32::try_from(id).ok()).map(OriginatorId);
    Some(LogPath { originator: id(originator)?, node: id(node)?, rest })
}

/// Returns the name of a node's key in notes that it cosigns.
#[must_use]
pub fn cosigner_name(network: &str, node: OriginatorId) -> String {
    format!("{network}/nodes/{node}")
}

/// Returns the text that witnesses sign: three lines, each with a line feed at its end.
#[must_use]
pub fn note_text(network: &str, checkpoint: &Checkpoint) -> String {
    let Checkpoint { node, originator, size, root, .. } = *checkpoint;
    format!("{}\n{size}\n{}\n", origin(network, originator, node), STANDARD.encode(root.0))
}

/// Returns the id of a key in a signed note: the first bytes of SHA-256 over name, type and key.
pub(super) fn key_id(name: &str, kind: &[u8], key: &[u8]) -> [u8; 4] {
    let mut hasher = Sha256::new();
    for part in [name.as_bytes(), b"\n", kind, key] {
        hasher.update(part);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    [digest[0], digest[1], digest[2], digest[3]]
}
