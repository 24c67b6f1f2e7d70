//! The manifest of a snapshot: its strands, their checkpoints and their chunks, as lines of text.
//!
//! It is untrusted and not signed: readers check the signatures of the envelopes and checkpoints in it. Its length
//! is bounded before it is read, and each manifest has one form only.

use std::fmt::Write as _;

use hawser_proto::checkpoint::{CODEC_LEN_BYTES_MAX, CosignedCheckpoint, NETWORK_LEN_MAX};
use hawser_proto::void::{SIGNED_VOID_LEN, SignedVoid, VOIDS_OF_NODE_MAX};
use hawser_proto::{OriginatorId, SequenceId};

use super::chunk::CHUNK_LEN_BYTES_MAX;
use crate::backup::FileHash;
use crate::hashed_text::{first_other_line, hashed_lines, with_hash};
use crate::hex::unhex;

/// The first line of a manifest without strands of chains. Every version of this program reads it.
const TITLE: &str = "hawser snapshot 1";
/// The first line of a manifest with strands of chains, which older versions of this program refuse.
const TITLE_WITH_CHAINS: &str = "hawser snapshot 2";
/// The first line of a manifest with statements about void places, which older versions of this program refuse.
const TITLE_WITH_VOIDS: &str = "hawser snapshot 3";
const TITLES: [&str; 3] = [TITLE, TITLE_WITH_CHAINS, TITLE_WITH_VOIDS];
/// Largest manifest, bytes. A guess: a chunk's line has about 120 bytes, so a manifest can describe a terabyte.
pub(super) const LEN_BYTES_MAX: u64 = 16 << 20;
/// Largest number of strands. A guess: networks have far fewer nodes, and a reader keeps a head and a tree for each.
const STRANDS_MAX: usize = 10_000;
/// Largest number of checkpoints of a strand. A guess: that of its node, and some of observers.
pub(super) const CHECKPOINTS_MAX: usize = 8;

/// A range of a strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootstrapChunk {
    /// The place of its first envelope.
    pub from: SequenceId,
    /// The place of its last envelope.
    pub through: SequenceId,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Hash of the content.
    pub hash: FileHash,
}

/// A strand of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapStrand {
    /// The node that signed it, or the chain that ordered it.
    pub originator: OriginatorId,
    /// The highest place that the maker of the snapshot had. Places before it may be without an envelope.
    pub head: SequenceId,
    /// Checkpoints of the strand with sizes up to the head. They are not verified.
    pub checkpoints: Vec<CosignedCheckpoint>,
    /// Statements of the strand's node about void places. They are not verified.
    pub voids: Vec<SignedVoid>,
    /// Its envelopes, ascending.
    pub chunks: Vec<BootstrapChunk>,
}

impl BootstrapStrand {
    /// Returns true if a chain orders the strand, so that its envelopes have no signature of a node.
    #[must_use]
    pub fn is_of_chain(&self) -> bool {
        self.originator.is_of_chain()
    }
}

/// The contents of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapManifest {
    /// Name of the network.
    pub network: String,
    /// The creation time that the maker states, unix seconds.
    pub made_unix_s: u64,
    /// The strands, by originator ascending.
    pub strands: Vec<BootstrapStrand>,
}

/// The reason for which bytes are not a valid manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapManifestError {
    /// It is longer than any manifest.
    #[error("it is longer than {LEN_BYTES_MAX} bytes")]
    TooLong,
    /// It does not begin like a manifest.
    #[error("it is not the manifest of a snapshot, or another version of this program wrote it")]
    NotAManifest,
    /// The hash in its last line is not that of the lines before.
    #[error("its bytes are not those that were written: the hash at its end does not match")]
    Damaged,
    /// A line does not have the only allowed form.
    #[error("line {line} is not {wanted}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// The expected form.
        wanted: &'static str,
    },
    /// Its file's name does not match its content, so it was copied or renamed.
    #[error("its file was renamed or copied: by its content it is {name}")]
    Renamed {
        /// The name that matches the content.
        name: String,
    },
}

impl BootstrapManifest {
    /// Returns the bytes of the manifest.
    ///
    /// # Errors
    /// An error if the manifest exceeds the bounds of [`BootstrapManifest::decode`].
    pub fn encode(&self) -> Result<Vec<u8>, BootstrapManifestError> {
        let bytes = Self::ended(self.body().as_bytes());
        // A manifest that cannot be read back must not be written.
        Self::decode(&bytes)?;
        Ok(bytes)
    }

    /// Appends the line with the hash to the lines of a manifest, for tests of readers.
    #[doc(hidden)]
    #[must_use]
    pub fn ended(lines: &[u8]) -> Vec<u8> {
        with_hash(lines)
    }

    /// Returns the length of all chunks together, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        let chunks = self.strands.iter().flat_map(|strand| &strand.chunks);
        chunks.fold(0, |sum, chunk| sum.saturating_add(chunk.len_bytes))
    }

    fn title(&self) -> &'static str {
        if self.strands.iter().any(|strand| !strand.voids.is_empty()) {
            TITLE_WITH_VOIDS
        } else if self.strands.iter().any(BootstrapStrand::is_of_chain) {
            TITLE_WITH_CHAINS
        } else {
            TITLE
        }
    }

    fn body(&self) -> String {
        let mut text = String::new();
        let mut push = |line: std::fmt::Arguments<'_>| {
            writeln!(text, "{line}").expect("a string takes any text");
        };
        push(format_args!("{}", self.title()));
        push(format_args!("network={}", self.network));
        push(format_args!("made={}", self.made_unix_s));
        for BootstrapStrand { originator, head, checkpoints, voids, chunks } in &self.strands {
            push(format_args!("strand={originator} {head}"));
            for checkpoint in checkpoints {
                push(format_args!("checkpoint={}", hex::encode(checkpoint.encode())));
            }
            for signed in voids {
                push(format_args!("void={}", hex::encode(signed.encode())));
            }
            for BootstrapChunk { from, through, len_bytes, hash } in chunks {
                push(format_args!("chunk={from} {through} {len_bytes} {hash}"));
            }
        }
        text
    }

    /// Decodes a manifest. Takes memory in proportion to the length of the bytes, never to a number in them.
    ///
    /// # Errors
    /// [`BootstrapManifestError`] for the first mistake.
    pub fn decode(bytes: &[u8]) -> Result<Self, BootstrapManifestError> {
        if u64::try_from(bytes.len()).is_ok_and(|len| len > LEN_BYTES_MAX) {
            return Err(BootstrapManifestError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BootstrapManifestError::NotAManifest)?;
        if !text.lines().next().is_some_and(|it| TITLES.contains(&it)) {
            return Err(BootstrapManifestError::NotAManifest);
        }
        let body = hashed_lines(text).ok_or(BootstrapManifestError::Damaged)?;
        let manifest = parse(body)?;
        // Each manifest has one form only: the title that fits its strands, numbers without leading zeros or signs,
        // hex in lower case, no further text.
        let again = manifest.body();
        if again != body {
            let line = first_other_line(&again, body);
            return Err(BootstrapManifestError::Line { line, wanted: "in its only form" });
        }
        Ok(manifest)
    }
}

/// Parses the lines behind the first one, which have one form and one order.
fn parse(body: &str) -> Result<BootstrapManifest, BootstrapManifestError> {
    let wrong = |line, wanted| BootstrapManifestError::Line { line, wanted };
    let mut lines = body.lines().enumerate().map(|(index, line)| (index + 1, line)).skip(1);
    let mut field = |name: &str, wanted: &'static str| {
        let (line, text) = lines.next().unwrap_or_default();
        text.strip_prefix(name).ok_or(wrong(line, wanted)).map(|value| (line, value))
    };
    let (line, network) = field("network=", "the network's name")?;
    if network.is_empty()
        || network.len() > NETWORK_LEN_MAX
        || network.chars().any(char::is_control)
    {
        return Err(wrong(line, "the network's name"));
    }
    let (line, made) = field("made=", "a time")?;
    let made_unix_s = made.parse().map_err(|_| wrong(line, "a time"))?;
    let mut strands = Vec::<BootstrapStrand>::new();
    for (line, text) in lines {
        if let Some(text) = text.strip_prefix("strand=") {
            let strand = parse_strand(text).ok_or(wrong(line, "a strand and its head"))?;
            if strands.last().is_some_and(|last| last.originator >= strand.originator) {
                return Err(wrong(line, "a strand behind the one before it"));
            }
            if strands.len() == STRANDS_MAX {
                return Err(wrong(line, "within the 10,000 strands that a snapshot may have"));
            }
            strands.push(strand);
            continue;
        }
        let strand = strands.last_mut().ok_or(wrong(line, "a strand"))?;
        if let Some(text) = text.strip_prefix("checkpoint=") {
            let checkpoint = parse_checkpoint(text, strand);
            strand.checkpoints.push(checkpoint.ok_or(wrong(line, "a checkpoint of its strand"))?);
        } else if let Some(text) = text.strip_prefix("void=") {
            let signed = parse_void(text, strand);
            strand.voids.push(signed.ok_or(wrong(line, "a statement of its strand's node"))?);
        } else {
            let chunk = text.strip_prefix("chunk=").and_then(|text| parse_chunk(text, strand));
            strand.chunks.push(chunk.ok_or(wrong(line, "a chunk behind the one before it"))?);
        }
    }
    Ok(BootstrapManifest { network: network.to_owned(), made_unix_s, strands })
}

fn parse_strand(text: &str) -> Option<BootstrapStrand> {
    let (originator, head) = text.split_once(' ')?;
    let originator = OriginatorId(originator.parse().ok()?);
    let head = SequenceId(head.parse().ok()?);
    let is_possible = (originator.is_node() || originator.is_of_chain()) && head <= SequenceId::MAX;
    let (checkpoints, voids, chunks) = (Vec::new(), Vec::new(), Vec::new());
    is_possible.then_some(BootstrapStrand { originator, head, checkpoints, voids, chunks })
}

/// Parses a checkpoint line, which precedes the statements and the chunks of its strand.
fn parse_checkpoint(text: &str, strand: &BootstrapStrand) -> Option<CosignedCheckpoint> {
    if text.len() > 2 * CODEC_LEN_BYTES_MAX {
        return None;
    }
    let checkpoint = CosignedCheckpoint::decode(&hex::decode(text).ok()?).ok()?;
    let is_next = strand.chunks.is_empty()
        && strand.voids.is_empty()
        && strand.checkpoints.len() < CHECKPOINTS_MAX
        && checkpoint.signed.checkpoint.originator == strand.originator;
    is_next.then_some(checkpoint)
}

/// Parses the line of a statement about void places, which precedes the chunks of its strand.
fn parse_void(text: &str, strand: &BootstrapStrand) -> Option<SignedVoid> {
    if text.len() != 2 * SIGNED_VOID_LEN {
        return None;
    }
    let signed = SignedVoid::decode(&hex::decode(text).ok()?).ok()?;
    let is_next = strand.chunks.is_empty()
        && strand.voids.len() < VOIDS_OF_NODE_MAX
        && !strand.is_of_chain()
        && signed.statement.node == strand.originator;
    is_next.then_some(signed)
}

fn parse_chunk(text: &str, strand: &BootstrapStrand) -> Option<BootstrapChunk> {
    let mut parts = text.split(' ');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (from, through) = (SequenceId(number()?), SequenceId(number()?));
    let len_bytes = number()?;
    let hash = FileHash(unhex(parts.next()?)?);
    let after = strand.chunks.last().map_or(SequenceId::NONE, |last| last.through);
    let is_next = parts.next().is_none()
        && after < from
        && from <= through
        && through <= strand.head
        && len_bytes <= CHUNK_LEN_BYTES_MAX;
    is_next.then_some(BootstrapChunk { from, through, len_bytes, hash })
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::checkpoint::Checkpoint;
    use hawser_proto::merkle::TreeHash;
    use hawser_proto::void::VoidStatement;

    use super::*;

    fn sample() -> BootstrapManifest {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let node = OriginatorId(200);
        let checkpoint =
            Checkpoint { node, originator: node, size: 9, root: TreeHash([3; 32]), time_ns: 5 };
        let mut checkpoint = CosignedCheckpoint::from(checkpoint.sign(&key));
        let cosignature = checkpoint.signed.checkpoint.cosign(OriginatorId(300), 6, &key);
        assert!(checkpoint.add_cosignature(cosignature));
        let chunk = |from, through| BootstrapChunk {
            from: SequenceId(from),
            through: SequenceId(through),
            len_bytes: 100,
            hash: FileHash([1; 32]),
        };
        let empty = BootstrapStrand {
            originator: OriginatorId(100),
            head: SequenceId::NONE,
            checkpoints: Vec::new(),
            voids: Vec::new(),
            chunks: Vec::new(),
        };
        let full = BootstrapStrand {
            originator: node,
            head: SequenceId(12),
            checkpoints: vec![checkpoint],
            voids: Vec::new(),
            chunks: vec![chunk(1, 5), chunk(8, 12)],
        };
        let network = "testnet".to_owned();
        BootstrapManifest { network, made_unix_s: 1_750_000_000, strands: vec![empty, full] }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let manifest = sample();
        let bytes = manifest.encode().unwrap();
        assert_eq!(BootstrapManifest::decode(&bytes), Ok(manifest));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 7);
            assert!(BootstrapManifest::decode(&flipped).is_err(), "byte {at}");
            assert!(BootstrapManifest::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    /// The sample with a strand of a chain before the others.
    fn sample_with_chain() -> BootstrapManifest {
        let mut manifest = sample();
        let mut chain = manifest.strands[1].clone();
        chain.originator = OriginatorId::GROUP_MESSAGES;
        chain.checkpoints.clear();
        manifest.strands.insert(0, chain);
        manifest
    }

    #[test]
    fn strands_of_chains_have_a_form_of_their_own() {
        let manifest = sample_with_chain();
        let bytes = manifest.encode().unwrap();
        assert!(bytes.starts_with(TITLE_WITH_CHAINS.as_bytes()), "older versions refuse it");
        assert_eq!(BootstrapManifest::decode(&bytes), Ok(manifest));
        assert!(sample().encode().unwrap().starts_with(TITLE.as_bytes()), "older versions read it");
        // A manifest with the title of the other kind is refused.
        for (manifest, from, to) in
            [(sample_with_chain(), TITLE_WITH_CHAINS, TITLE), (sample(), TITLE, TITLE_WITH_CHAINS)]
        {
            let text = manifest.body().replacen(from, to, 1);
            let error = BootstrapManifest::decode(&BootstrapManifest::ended(text.as_bytes()));
            let wanted = "in its only form";
            assert_eq!(error, Err(BootstrapManifestError::Line { line: 1, wanted }));
        }
    }

    /// The statement of a node about places 13 to 20, as a line.
    fn void_line(node: u32) -> String {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let (node, from, through) = (OriginatorId(node), SequenceId(13), SequenceId(20));
        let of = VoidStatement { node, from, through, time_ns: 5, incarnation: [4; 16] };
        format!("void={}\n", hex::encode(of.sign(&key).encode()))
    }

    #[test]
    fn statements_about_void_places_have_a_form_of_their_own_and_a_bound() {
        let honest = sample().body();
        let with = |lines: &str, before: &str| {
            let text = honest.replacen(before, &format!("{lines}{before}"), 1);
            assert_ne!(text, honest, "{before}");
            let text = text.replacen(TITLE, TITLE_WITH_VOIDS, 1);
            BootstrapManifest::decode(&BootstrapManifest::ended(text.as_bytes()))
        };
        let (own, chunk) = (void_line(200), "chunk=1 5");
        let read = with(&own.repeat(VOIDS_OF_NODE_MAX), chunk).unwrap();
        assert_eq!(read.strands[1].voids.len(), VOIDS_OF_NODE_MAX);
        let bytes = read.encode().unwrap();
        assert!(bytes.starts_with(TITLE_WITH_VOIDS.as_bytes()), "older versions refuse it");
        assert_eq!(BootstrapManifest::decode(&bytes), Ok(read));
        let wanted = "a statement of its strand's node";
        for (lines, before) in [
            (own.repeat(VOIDS_OF_NODE_MAX + 1), chunk),
            (void_line(300), chunk),
            (own.replace('\n', "00\n"), chunk),
            ("void=\n".to_owned(), chunk),
            (own.clone(), "chunk=8 12"),
        ] {
            match with(&lines, before).unwrap_err() {
                BootstrapManifestError::Line { wanted: found, .. } => assert_eq!(found, wanted),
                other => panic!("{before}: {other}"),
            }
        }
        let behind = with(&own, "checkpoint=").unwrap_err();
        assert!(behind.to_string().contains("a checkpoint of its strand"), "{behind}");
    }

    /// A reader would keep a head and a tree for each.
    #[test]
    fn a_manifest_that_lists_more_strands_than_a_network_has_is_refused() {
        let listed = |count: u32| {
            let strands: String = (0..count).map(|at| format!("strand={} 0\n", 100 + at)).collect();
            let text = format!("{TITLE}\nnetwork=testnet\nmade=1\n{strands}");
            BootstrapManifest::decode(&BootstrapManifest::ended(text.as_bytes()))
        };
        let most = u32::try_from(STRANDS_MAX).unwrap();
        assert_eq!(listed(most).unwrap().strands.len(), STRANDS_MAX);
        let error = listed(most + 1).unwrap_err();
        assert!(matches!(error, BootstrapManifestError::Line { line: 10_004, .. }), "{error}");
    }

    #[test]
    fn a_lying_manifest_is_refused_by_its_line() {
        let honest = sample().body();
        let cases = [
            ("strand=200", "strand=2"),
            ("strand=200", "strand=100"),
            ("strand=200 12", "strand=200 11"),
            ("strand=200 12", "strand=200 9223372036854775808"),
            ("chunk=8 12", "chunk=5 12"),
            ("chunk=8 12", "chunk=08 12"),
            ("chunk=8 12", "chunk=8 7"),
            ("chunk=8 12 100", "chunk=8 12 67108865"),
            ("chunk=8 12 100", "chunk=8 12 +100"),
            ("chunk=8", "file=8"),
            ("checkpoint=", "checkpoint=00"),
            ("network=testnet", "network="),
            ("network=testnet", "network=a\u{7}"),
            ("made=1", "made=-1"),
            (TITLE, TITLE_WITH_CHAINS),
            (TITLE, TITLE_WITH_VOIDS),
            (TITLE, "hawser snapshot 4"),
        ];
        for (from, to) in cases {
            let text = honest.replacen(from, to, 1);
            assert_ne!(text, honest, "{from}");
            let bytes = BootstrapManifest::ended(text.as_bytes());
            let error = BootstrapManifest::decode(&bytes).unwrap_err();
            let is_named = matches!(
                error,
                BootstrapManifestError::Line { .. } | BootstrapManifestError::NotAManifest
            );
            assert!(is_named, "{to}: {error}");
        }
    }
}
