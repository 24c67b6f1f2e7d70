//! The copies of one place: chunks by their hashes, and manifests.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{OriginatorId, SequenceId};

use super::chunk::{ChunkError, decode_chunk};
use super::error::{BootstrapError, at};
use super::manifest::{BootstrapChunk, BootstrapManifest, BootstrapManifestError, LEN_BYTES_MAX};
use crate::backup::FileHash;
use crate::objects::{FoundObject, Objects};

/// Folder of the chunks of all copies.
const CHUNKS: &str = "chunks";
/// Folder of the manifests.
const MANIFESTS: &str = "snapshots";
/// Ends the name of a manifest's object.
const SUFFIX: &str = ".snapshot";
/// Digits of the time in a copy's name, unix seconds.
const TIME_DIGITS: usize = 12;
/// Digits of the manifest's hash in a copy's name.
const HASH_DIGITS: usize = 16;
/// Lead over the reader's clock from which on a copy's time is in the future. A guess: more than clocks differ.
const LEAD_S_MAX: u64 = 24 * 60 * 60;

/// The copies of a place.
#[derive(Debug, Clone)]
pub struct Bootstraps {
    objects: Arc<dyn Objects>,
}

/// One copy of a place.
#[derive(Debug)]
pub struct ListedBootstrap {
    /// Its name. Names ascend with time.
    pub name: String,
    /// Its manifest, or the reason it cannot be used.
    pub manifest: Result<BootstrapManifest, BootstrapError>,
}

impl Bootstraps {
    /// Names a place, which need not hold any yet.
    #[must_use]
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// Returns all copies, oldest first, with damaged ones.
    ///
    /// # Errors
    /// When the place cannot be read.
    pub fn list(&self) -> Result<Vec<ListedBootstrap>, BootstrapError> {
        let folder = self.objects.location(MANIFESTS);
        if !self.objects.has_folder(MANIFESTS).map_err(at(&folder))? {
            return Err(BootstrapError::None { path: self.objects.location("") });
        }
        let name_of = |object: &str| {
            let name = object.strip_prefix(MANIFESTS)?.strip_prefix('/')?.strip_suffix(SUFFIX)?;
            is_name(name).then(|| name.to_owned())
        };
        let listed = self.objects.list(MANIFESTS).map_err(at(&folder))?;
        let mut names: Vec<_> = listed.iter().filter_map(|it| name_of(&it.name)).collect();
        names.sort_unstable();
        let list = names.into_iter();
        Ok(list.map(|name| ListedBootstrap { manifest: self.manifest(&name), name }).collect())
    }

    /// Returns the newest copy of a network that can be used. One that is more than a day ahead of `now_unix_s` is
    /// never it.
    ///
    /// # Errors
    /// When there is none, or the place cannot be read.
    pub fn newest(
        &self,
        network: &str,
        now_unix_s: u64,
    ) -> Result<(String, BootstrapManifest), BootstrapError> {
        for ListedBootstrap { name, manifest } in self.list()?.into_iter().rev() {
            if let Ok(manifest) = manifest
                && manifest.network == network
                && manifest.made_unix_s <= now_unix_s.saturating_add(LEAD_S_MAX)
            {
                return Ok((name, manifest));
            }
        }
        Err(BootstrapError::None { path: self.objects.location("") })
    }

    /// Reads the manifest of one copy.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be used.
    pub fn manifest(&self, name: &str) -> Result<BootstrapManifest, BootstrapError> {
        let wrong = |error| BootstrapError::Manifest { name: name.to_owned(), error };
        if !is_name(name) {
            return Err(BootstrapError::NotFound { name: name.to_owned() });
        }
        let object = manifest_name(name);
        let location = self.objects.location(&object);
        match self.objects.find(&object).map_err(at(&location))? {
            FoundObject::Absent => {
                return Err(BootstrapError::NotFound { name: name.to_owned() });
            }
            FoundObject::NotPlain => return Err(wrong(BootstrapManifestError::NotAManifest)),
            FoundObject::Plain(len) if len > LEN_BYTES_MAX => {
                return Err(wrong(BootstrapManifestError::TooLong));
            }
            FoundObject::Plain(_) => {}
        }
        let mut bytes = Vec::new();
        // It may grow after it was looked at.
        let mut source = self.objects.open(&object, LEN_BYTES_MAX + 1).map_err(at(&location))?;
        source.read_to_end(&mut bytes).map_err(at(&location))?;
        let manifest = BootstrapManifest::decode(&bytes).map_err(wrong)?;
        // A copy of an old manifest under a newer name would pass for a new one.
        let named = name_of(manifest.made_unix_s, &bytes);
        if named != name {
            return Err(wrong(BootstrapManifestError::Renamed { name: named }));
        }
        Ok(manifest)
    }

    /// Reads a chunk, and returns its envelopes with the places that it states. Length, hash, strand and order are
    /// checked, and no envelope is.
    ///
    /// # Errors
    /// [`BootstrapError`] names the chunk.
    pub fn chunk(
        &self,
        originator: OriginatorId,
        chunk: &BootstrapChunk,
    ) -> Result<Vec<(SequenceId, Bytes)>, BootstrapError> {
        let &BootstrapChunk { from, through, len_bytes, hash } = chunk;
        let object = chunk_name(hash);
        let location = self.objects.location(&object);
        match self.objects.find(&object).map_err(at(&location))? {
            FoundObject::Absent => return Err(BootstrapError::Missing { originator, from }),
            FoundObject::Plain(found) if found == len_bytes => {}
            FoundObject::NotPlain | FoundObject::Plain(_) => {
                return Err(BootstrapError::Damaged { originator, from });
            }
        }
        let mut bytes = Vec::new();
        let mut source = self.objects.open(&object, len_bytes).map_err(at(&location))?;
        source.read_to_end(&mut bytes).map_err(at(&location))?;
        if blake3::hash(&bytes) != hash.0 {
            return Err(BootstrapError::Damaged { originator, from });
        }
        let wrong = |error| BootstrapError::Chunk { originator, from, error };
        let envelopes = decode_chunk(&Bytes::from(bytes), originator).map_err(wrong)?;
        let ends = (envelopes.first().map(|it| it.0), envelopes.last().map(|it| it.0));
        match ends {
            (Some(first), Some(last)) if (first, last) != (from, through) => {
                Err(wrong(ChunkError::Range { from: first, through: last }))
            }
            _ => Ok(envelopes),
        }
    }

    /// Prepares the place for another copy.
    pub(super) fn make(&self) -> Result<(), BootstrapError> {
        for folder in [CHUNKS, MANIFESTS] {
            self.objects.make_folder(folder).map_err(at(&self.objects.location(folder)))?;
        }
        Ok(())
    }

    /// Stores a chunk under its hash. Returns its hash, and true if the place did not have it.
    pub(super) fn put_chunk(&self, bytes: &[u8]) -> Result<(FileHash, bool), BootstrapError> {
        let hash = FileHash(*blake3::hash(bytes).as_bytes());
        let object = chunk_name(hash);
        let location = self.objects.location(&object);
        let len_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        // What has another length was cut off.
        if self.objects.find(&object).map_err(at(&location))? == FoundObject::Plain(len_bytes) {
            return Ok((hash, false));
        }
        self.put(&object, bytes).map_err(at(&location))?;
        Ok((hash, true))
    }

    /// Writes a manifest, after everything that it names is durable. Returns the copy's name.
    pub(super) fn put_manifest(
        &self,
        manifest: &BootstrapManifest,
    ) -> Result<String, BootstrapError> {
        let wrong = |error| BootstrapError::Manifest { name: "(new)".to_owned(), error };
        let bytes = manifest.encode().map_err(wrong)?;
        self.objects.sync_folder(CHUNKS).map_err(at(&self.objects.location(CHUNKS)))?;
        let name = name_of(manifest.made_unix_s, &bytes);
        let object = manifest_name(&name);
        self.put(&object, &bytes).map_err(at(&self.objects.location(&object)))?;
        Ok(name)
    }

    fn put(&self, object: &str, bytes: &[u8]) -> io::Result<()> {
        let mut new = self.objects.create(object)?;
        new.write_all(bytes)?;
        new.finish()
    }
}

fn manifest_name(name: &str) -> String {
    format!("{MANIFESTS}/{name}{SUFFIX}")
}

/// Returns the name of the object with a content: `chunks/ab/ab…`.
fn chunk_name(hash: FileHash) -> String {
    let hash = hash.to_string();
    format!("{CHUNKS}/{}/{hash}", &hash[..2])
}

/// Returns the name of the copy that was made at a time and has these bytes for its manifest.
fn name_of(made_unix_s: u64, bytes: &[u8]) -> String {
    let hash = FileHash(*blake3::hash(bytes).as_bytes()).to_string();
    format!("{made_unix_s:0TIME_DIGITS$}-{}", &hash[..HASH_DIGITS])
}

/// Returns true for names of the form that this program gives. None of them leads out of the folder, or holds what a
/// terminal would obey.
fn is_name(name: &str) -> bool {
    let is_hex = |it: u8| it.is_ascii_digit() || (b'a'..=b'f').contains(&it);
    name.split_once('-').is_some_and(|(time, hash)| {
        (TIME_DIGITS..=20).contains(&time.len())
            && time.bytes().all(|it| it.is_ascii_digit())
            && hash.len() == HASH_DIGITS
            && hash.bytes().all(is_hex)
    })
}
