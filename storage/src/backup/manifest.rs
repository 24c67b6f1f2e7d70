//! The manifest of a backup: its facts and files, as lines of text that an operator can read.
//!
//! Others may write to the disk or bucket of a manifest, so it is untrusted: its length is bounded before it is
//! read, each manifest has one form only, and files have names that RocksDB gives.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use hawser_proto::merkle::TreeHash;
use hawser_proto::sign::{Digest, keccak256};
use hawser_proto::{OriginatorId, PublicKey, SecretKey, SequenceId, Signature};

use crate::hashed_text::{first_other_line, hashed_lines, split_last_line, with_hash};
use crate::hex::unhex;
use crate::settings::StoreIdentity;

/// The first line, which states the format of the others.
const TITLE: &str = "hawser backup 1";
/// The beginning of the first line in all versions.
const TITLE_OF_ANY: &str = "hawser backup ";
/// Domain of the node's signature under a manifest.
const SIGNED_AS: &[u8] = b"hawser backup|";
/// Largest manifest, bytes. A guess: a file's line has about 120 bytes, so one can name a hundred thousand files.
pub const MANIFEST_LEN_BYTES_MAX: u64 = 16 << 20;
/// Largest number of files of a backup. A guess: at 64 MiB a file this is more than 6 TiB.
const FILES_MAX: usize = 100_000;
/// Largest file of a backup, bytes. A guess: RocksDB's table files have some hundred MiB.
const FILE_LEN_BYTES_MAX: u64 = 1 << 40;
/// Longest name of a network, bytes. A guess.
const NETWORK_LEN_BYTES_MAX: usize = 256;
/// Largest number of digits in a file's name: those of the largest 64-bit number.
const NAME_DIGITS_MAX: usize = 20;

/// A BLAKE3 hash of a file's bytes. Files of a backup are stored under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileHash(pub [u8; 32]);

impl FileHash {
    /// Returns true for the text of a hash.
    pub(crate) fn is_name(text: &str) -> bool {
        unhex(text).is_some_and(|bytes| Self(bytes).to_string() == text)
    }
}

impl std::fmt::Display for FileHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A file of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFile {
    /// Name of the file in the data folder.
    pub name: String,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Hash of the content.
    pub hash: FileHash,
}

/// The end of one strand, and of its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupStrand {
    /// The originator.
    pub originator: OriginatorId,
    /// The highest place.
    pub head: SequenceId,
    /// Size and root of the tree; `None` for a tree without leaves.
    pub tree: Option<(u64, TreeHash)>,
}

/// The contents of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupManifest {
    /// The owner of the database.
    pub identity: StoreIdentity,
    /// The incarnation of the folder from which it was made.
    pub incarnation: [u8; 16],
    /// The time at which it was made, unix seconds.
    pub made_unix_s: u64,
    /// The strands, by originator ascending.
    pub strands: Vec<BackupStrand>,
    /// The files, by name ascending.
    pub files: Vec<BackupFile>,
}

/// A decoded manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadManifest {
    /// The contents.
    pub manifest: BackupManifest,
    /// True if the key in the manifest has signed it.
    pub is_signed: bool,
}

/// The reason for which bytes are not a valid manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are more than any manifest has.
    #[error("it is longer than {MANIFEST_LEN_BYTES_MAX} bytes")]
    TooLong,
    /// The bytes do not begin like a manifest.
    #[error("it is not the manifest of a backup")]
    NotAManifest,
    /// Another version of this program wrote it.
    #[error("another version of this program wrote it ({title:?}): use that version")]
    OtherVersion {
        /// Its first line.
        title: String,
    },
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
    /// A file's name is not that of a database file: it has several components, is absolute, or belongs to another
    /// kind of file.
    #[error("line {line} names a file that no database has")]
    Name {
        /// Number of the line, from 1.
        line: usize,
    },
    /// A file or a strand occurs twice, or they are not in order.
    #[error("line {line} repeats a name, or is out of order")]
    Order {
        /// Number of the line, from 1.
        line: usize,
    },
    /// The stated length of a file is too large.
    #[error("line {line} lists a file of more than {FILE_LEN_BYTES_MAX} bytes")]
    Length {
        /// Number of the line, from 1.
        line: usize,
    },
    /// The manifest lists too many files.
    #[error("it lists more than {FILES_MAX} files")]
    TooManyFiles,
    /// The manifest lacks files that every database has.
    #[error("it lists no whole database: CURRENT, or a RocksDB manifest, is not among its files")]
    NoDatabase,
    /// The signature is not by the key in the manifest.
    #[error("its signature is not by the key that it names")]
    Signature,
    /// Its file's name does not match its content, so it was copied or renamed.
    #[error("its file was renamed or copied: by its content it is {name}")]
    Renamed {
        /// The name that matches the content.
        name: String,
    },
}

impl BackupManifest {
    /// Returns the bytes of the manifest, signed with the node's key if it is given.
    ///
    /// # Errors
    /// An error if the manifest exceeds the bounds of [`ReadManifest::decode`], or has another key than this one.
    pub fn encode(&self, key: Option<&SecretKey>) -> Result<Vec<u8>, ManifestError> {
        let mut text = self.body();
        let signature = match key {
            None => "none".to_owned(),
            Some(key) if key.public_key() == self.identity.public_key => {
                hex::encode(key.sign(digest_of(text.as_bytes())).as_bytes())
            }
            Some(_) => return Err(ManifestError::Signature),
        };
        push(&mut text, format_args!("signature={signature}"));
        let bytes = ReadManifest::ended(text.as_bytes());
        // A manifest that cannot be read back must not be written.
        ReadManifest::decode(&bytes)?;
        Ok(bytes)
    }

    /// Returns the length of all files together, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.len_bytes))
    }

    /// Returns the lines before the signature.
    fn body(&self) -> String {
        let StoreIdentity { network, node, public_key } = &self.identity;
        let mut text = String::new();
        push(&mut text, format_args!("{TITLE}"));
        push(&mut text, format_args!("network={network}"));
        push(&mut text, format_args!("node={node}"));
        push(&mut text, format_args!("key={}", hex::encode(public_key.as_bytes())));
        push(&mut text, format_args!("incarnation={}", hex::encode(self.incarnation)));
        push(&mut text, format_args!("made={}", self.made_unix_s));
        for BackupStrand { originator, head, tree } in &self.strands {
            let (size, root) = match tree {
                None => (0, "none".to_owned()),
                Some((size, root)) => (*size, hex::encode(root.0)),
            };
            push(&mut text, format_args!("strand={originator} {head} {size} {root}"));
        }
        for BackupFile { name, len_bytes, hash } in &self.files {
            push(&mut text, format_args!("file={name} {len_bytes} {hash}"));
        }
        text
    }
}

impl ReadManifest {
    /// Appends the line with the hash to the lines of a manifest, for tests of readers.
    #[doc(hidden)]
    #[must_use]
    pub fn ended(lines: &[u8]) -> Vec<u8> {
        with_hash(lines)
    }

    /// Decodes a manifest. Takes memory in proportion to the length of the bytes, never to a number in them.
    ///
    /// # Errors
    /// [`ManifestError`] for the first mistake.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if u64::try_from(bytes.len()).is_ok_and(|len| len > MANIFEST_LEN_BYTES_MAX) {
            return Err(ManifestError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ManifestError::NotAManifest)?;
        let title = text.lines().next().unwrap_or_default();
        if !title.starts_with(TITLE_OF_ANY) {
            return Err(ManifestError::NotAManifest);
        }
        if title != TITLE {
            let title = title.chars().take(TITLE.len() + NAME_DIGITS_MAX).collect();
            return Err(ManifestError::OtherVersion { title });
        }
        let (text, signature) = split_end(text)?;
        let manifest = parse_body(text)?;
        // Each manifest has one form only: numbers without leading zeros or signs, hex in lower case, no further
        // text.
        let again = manifest.body();
        if again != text {
            let line = first_other_line(&again, text);
            return Err(ManifestError::Line { line, wanted: "in its only form" });
        }
        let is_signed = match signature {
            None => false,
            Some(signature) => {
                let by = signature.recover(digest_of(text.as_bytes()));
                if by != Ok(manifest.identity.public_key) {
                    return Err(ManifestError::Signature);
                }
                true
            }
        };
        Ok(Self { manifest, is_signed })
    }
}

/// Checks the hash at the end, and returns the lines before the signature with the signature.
fn split_end(text: &str) -> Result<(&str, Option<Signature>), ManifestError> {
    let rest = hashed_lines(text).ok_or(ManifestError::Damaged)?;
    let (body, signature) = split_last_line(rest).ok_or(ManifestError::Damaged)?;
    let line = body.lines().count() + 1;
    let wrong = ManifestError::Line { line, wanted: "a signature, or signature=none" };
    let signature = match signature.strip_prefix("signature=") {
        None => return Err(wrong),
        Some("none") => None,
        Some(text) => {
            let bytes = unhex::<65>(text).ok_or_else(|| wrong.clone())?;
            Some(Signature::from_bytes(&bytes).map_err(|_| wrong)?)
        }
    };
    Ok((body, signature))
}

/// Parses the lines behind the first one, which have one form and one order. Bounds the number of files before it keeps
/// them.
fn parse_body(text: &str) -> Result<BackupManifest, ManifestError> {
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line)).skip(1);
    let mut field = |name: &'static str, wanted: &'static str| {
        let (line, text) = lines.next().unwrap_or_default();
        let value = text.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
        value.map(|value| (line, value)).ok_or(ManifestError::Line { line, wanted })
    };
    let (line, network) = field("network", "the network's name")?;
    if network.len() > NETWORK_LEN_BYTES_MAX || network.chars().any(char::is_control) {
        return Err(ManifestError::Line { line, wanted: "the network's name" });
    }
    let (line, node) = field("node", "the node's id")?;
    let node = number(line, node, "the node's id")?;
    let (line, key) = field("key", "the node's key")?;
    let key = unhex::<65>(key).and_then(|bytes| PublicKey::from_uncompressed(&bytes));
    let public_key = key.ok_or(ManifestError::Line { line, wanted: "the node's key" })?;
    let (line, incarnation) = field("incarnation", "an incarnation")?;
    let incarnation =
        unhex(incarnation).ok_or(ManifestError::Line { line, wanted: "an incarnation" })?;
    let (line, made) = field("made", "a time")?;
    let made_unix_s = number(line, made, "a time")?;
    let (mut strands, mut files) = (Vec::<BackupStrand>::new(), Vec::<BackupFile>::new());
    for (line, text) in lines {
        if let Some(strand) = text.strip_prefix("strand=").filter(|_| files.is_empty()) {
            let strand = parse_strand(line, strand)?;
            if strands.last().is_some_and(|last| last.originator >= strand.originator) {
                return Err(ManifestError::Order { line });
            }
            strands.push(strand);
            continue;
        }
        let wanted = "a strand, or a file after the strands";
        let file = text.strip_prefix("file=").ok_or(ManifestError::Line { line, wanted })?;
        let file = parse_file(line, file)?;
        if files.last().is_some_and(|last| last.name >= file.name) {
            return Err(ManifestError::Order { line });
        }
        if files.len() == FILES_MAX {
            return Err(ManifestError::TooManyFiles);
        }
        files.push(file);
    }
    let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    if !names.contains("CURRENT") || !names.iter().any(|name| name.starts_with("MANIFEST-")) {
        return Err(ManifestError::NoDatabase);
    }
    let identity =
        StoreIdentity { network: network.to_owned(), node: OriginatorId(node), public_key };
    Ok(BackupManifest { identity, incarnation, made_unix_s, strands, files })
}

fn parse_strand(line: usize, text: &str) -> Result<BackupStrand, ManifestError> {
    const WANTED: &str = "an originator, its head, and size and root of its tree";
    let wrong = ManifestError::Line { line, wanted: WANTED };
    let mut parts = text.split(' ');
    let mut part = || parts.next().ok_or_else(|| wrong.clone());
    let originator = OriginatorId(number(line, part()?, WANTED)?);
    let head = SequenceId(number(line, part()?, WANTED)?);
    let size = number(line, part()?, WANTED)?;
    let tree = match part()? {
        "none" if size == 0 => None,
        _ if size == 0 => return Err(wrong),
        root => {
            let root = unhex(root).map(TreeHash);
            Some((size, root.ok_or_else(|| wrong.clone())?))
        }
    };
    if parts.next().is_some() {
        return Err(wrong);
    }
    Ok(BackupStrand { originator, head, tree })
}

fn parse_file(line: usize, text: &str) -> Result<BackupFile, ManifestError> {
    const WANTED: &str = "a file's name, its length and its hash";
    let wrong = ManifestError::Line { line, wanted: WANTED };
    // From the right, so that a name with a space is reported as a wrong name.
    let (rest, hash) = text.rsplit_once(' ').ok_or_else(|| wrong.clone())?;
    let (name, len) = rest.rsplit_once(' ').ok_or_else(|| wrong.clone())?;
    if !is_database_file(name) {
        return Err(ManifestError::Name { line });
    }
    let len_bytes = number(line, len, WANTED)?;
    if len_bytes > FILE_LEN_BYTES_MAX {
        return Err(ManifestError::Length { line });
    }
    let hash = FileHash(unhex(hash).ok_or(wrong)?);
    Ok(BackupFile { name: name.to_owned(), len_bytes, hash })
}

fn number<N: std::str::FromStr>(
    line: usize,
    text: &str,
    wanted: &'static str,
) -> Result<N, ManifestError> {
    text.parse().map_err(|_| ManifestError::Line { line, wanted })
}

/// Returns true for the names of RocksDB's database files: tables, blobs, write-ahead logs, its manifest and
/// options, and the pointer to the current manifest. No such name has a path separator, so none leads out of a
/// folder.
pub(super) fn is_database_file(name: &str) -> bool {
    let is_number = |text: &str| {
        (1..=NAME_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit())
    };
    let numbered = [".sst", ".blob", ".log"].iter().find_map(|it| name.strip_suffix(it));
    let versioned = ["MANIFEST-", "OPTIONS-"].iter().find_map(|it| name.strip_prefix(it));
    matches!(name, "CURRENT" | "IDENTITY") || numbered.or(versioned).is_some_and(is_number)
}

fn digest_of(body: &[u8]) -> Digest {
    keccak256(&[SIGNED_AS, body])
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes any text");
}
