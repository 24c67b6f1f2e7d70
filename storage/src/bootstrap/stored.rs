//! The snapshots of one place: chunks by their hashes, and manifests.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use hawser_proto::{OriginatorId, SequenceId};
use parking_lot::Mutex;

use super::chunk::{CHUNK_LEN_BYTES_MAX, ChunkError, decode_chunk};
use super::error::{BootstrapError, at};
use super::manifest::{BootstrapChunk, BootstrapManifest, BootstrapManifestError, LEN_BYTES_MAX};
use crate::backup::FileHash;
use crate::objects::dated::{self, NewestManifest};
use crate::objects::{FolderObjects, FoundObject, HeldObjects, ObjectTag, Objects, SeenObjects};

/// Folder of the chunks of all snapshots.
const CHUNKS: &str = "chunks";
/// Folder of the manifests.
const MANIFESTS: &str = "snapshots";
/// Object with the names of all snapshots, for readers of places that cannot be listed, such as a web server. It is a
/// hint: a wrong name costs the reader one failed request.
const NAMES: &str = "snapshots/names";
/// Largest number of names in it; older ones are left out. A guess: daily snapshots of thirty years.
const NAMES_MAX: usize = 10_000;
/// Largest length of that object, bytes. Calculated: a line has at most 57.
const NAMES_LEN_BYTES_MAX: u64 = 64 * NAMES_MAX as u64;
/// Suffix of the name of a manifest's object.
const SUFFIX: &str = ".snapshot";
/// Number of networks that are named if a place has no snapshot of the wanted one. A guess: a place has those of one or
/// two.
const NETWORKS_NAMED_MAX: usize = 8;

/// Number of seconds among which one without a snapshot is looked for. A guess: a maker needs one.
const SECONDS_MAX: usize = 64;

/// Pause between two tries to take the lock of a folder's makers, and the number of tries. Guesses: a maker that holds
/// it looks at each of its chunks once, or removes it, and a minute is enough for a million of them.
const HOLD_PAUSE: Duration = Duration::from_millis(50);
const HOLD_TRIES: usize = 1200;

/// The snapshots of a place.
#[derive(Debug, Clone)]
pub struct Bootstraps {
    objects: Arc<dyn Objects>,
}

impl Bootstraps {
    /// Opens a place, which may still be empty.
    #[must_use]
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// Returns the names of all snapshots, oldest first, including damaged ones.
    ///
    /// No manifest is read. The owner of the place may fill it with the longest manifests, so callers read them one at
    /// a time and keep none.
    ///
    /// # Errors
    /// An error if the place cannot be read, or nothing at the place is for snapshots.
    pub fn names(&self) -> Result<Vec<String>, BootstrapError> {
        let folder = self.objects.location(MANIFESTS);
        if !self.objects.has_folder(MANIFESTS).map_err(at(&folder))? {
            return Err(BootstrapError::None { path: self.objects.location("") });
        }
        self.names_so_far()
    }

    /// Returns the names of all snapshots, as [`Self::names`] does, or none. For a place that was made with
    /// [`Self::make`] and may have no snapshot yet: [`Self::names`] would not find it in a bucket, which has no
    /// folders.
    fn names_so_far(&self) -> Result<Vec<String>, BootstrapError> {
        let folder = self.objects.location(MANIFESTS);
        dated::names(&*self.objects, MANIFESTS, SUFFIX).map_err(at(&folder))
    }

    /// Returns the newest usable snapshot of a network. Skips snapshots dated more than a day after `now_unix_s`.
    ///
    /// Manifests are read one at a time, newest first. The owner of the place may fill it with manifests, so the
    /// search ends after a number of them.
    ///
    /// # Errors
    /// An error if there is none, or if the place cannot be read. If unusable ones are found and no usable one, or too
    /// many of them, it is the error of the newest of these. If all are of other networks, it names these.
    pub fn newest(
        &self,
        network: &str,
        now_unix_s: u64,
    ) -> Result<(String, BootstrapManifest), BootstrapError> {
        self.newest_of(Some(network), now_unix_s)
    }

    /// Does what [`Self::newest`] does, for snapshots of any network.
    ///
    /// # Errors
    /// The errors of [`Self::newest`].
    pub fn newest_of_all(
        &self,
        now_unix_s: u64,
    ) -> Result<(String, BootstrapManifest), BootstrapError> {
        self.newest_of(None, now_unix_s)
    }

    /// Returns the newest snapshot of a network. Looks past snapshots that cannot be used and past those of other
    /// networks, but only past a bounded number: any writer of the place may have left them.
    fn newest_of(
        &self,
        network: Option<&str>,
        now_unix_s: u64,
    ) -> Result<(String, BootstrapManifest), BootstrapError> {
        let mut networks = BTreeSet::new();
        let read_wanted = |name: &str| -> Result<Option<_>, BootstrapError> {
            let manifest = self.manifest(name)?;
            if network.is_none_or(|network| manifest.network == network) {
                return Ok(Some((name.to_owned(), manifest)));
            }
            if networks.len() < NETWORKS_NAMED_MAX {
                networks.insert(manifest.network);
            }
            Ok(None)
        };
        let found = dated::newest(&self.names()?, 0, now_unix_s, read_wanted);
        let path = self.objects.location("");
        Err(match found {
            NewestManifest::Found(newest) => return Ok(newest),
            NewestManifest::TooManyUnusable(error) | NewestManifest::NoneWanted(Some(error)) => {
                error
            }
            NewestManifest::NoneWanted(None) => match network {
                Some(wanted) if !networks.is_empty() => BootstrapError::OtherNetworks {
                    path,
                    wanted: wanted.to_owned(),
                    found: networks.into_iter().collect(),
                },
                _ => BootstrapError::None { path },
            },
        })
    }

    /// Reads the manifest of one snapshot.
    ///
    /// # Errors
    /// An error if there is no snapshot of this name, or if its manifest cannot be used.
    pub fn manifest(&self, name: &str) -> Result<BootstrapManifest, BootstrapError> {
        let wrong = |error| BootstrapError::Manifest { name: name.to_owned(), error };
        if !dated::is_name(name) {
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
        // The object may have grown since its length was checked.
        let mut source = self.objects.open(&object, LEN_BYTES_MAX + 1).map_err(at(&location))?;
        source.read_to_end(&mut bytes).map_err(at(&location))?;
        let manifest = BootstrapManifest::decode(&bytes).map_err(wrong)?;
        // Otherwise an old manifest under a newer name would count as a new snapshot.
        let named = dated::name_of(manifest.made_unix_s, &bytes);
        if named != name {
            return Err(wrong(BootstrapManifestError::Renamed { name: named }));
        }
        Ok(manifest)
    }

    /// Reads a chunk, and returns its envelopes with the places that it states. Checks length, hash, strand and
    /// order, but not the envelopes.
    ///
    /// # Errors
    /// [`BootstrapError`] with the chunk.
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

    /// Returns true if the snapshots are in a folder of this machine.
    pub(super) fn is_in_folder(&self) -> bool {
        self.objects.folder().is_some()
    }

    /// Prepares the place for another snapshot.
    pub(super) fn make(&self) -> Result<(), BootstrapError> {
        for folder in [CHUNKS, MANIFESTS] {
            self.objects.make_folder(folder).map_err(at(&self.objects.location(folder)))?;
        }
        Ok(())
    }

    /// Stores a chunk under its hash, which is that of the bytes. Returns what the place had in its stead; `None` if it
    /// had the chunk.
    pub(super) fn put_chunk(
        &self,
        hash: FileHash,
        bytes: &[u8],
        seen: &Mutex<&mut SeenObjects>,
    ) -> Result<Option<FoundObject>, BootstrapError> {
        let object = chunk_name(hash);
        let location = self.objects.location(&object);
        let len_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        // An object of another length is an incomplete write.
        let found = self.objects.find(&object).map_err(at(&location))?;
        if found == FoundObject::Plain(len_bytes) && self.check_whole(&object, bytes, seen)? {
            return Ok(None);
        }
        let tag = self.put(&object, bytes).map_err(at(&location))?;
        seen.lock().note(&object, tag);
        Ok(Some(found))
    }

    /// Compares an object with these bytes: the disk or another writer may have changed it since. Returns true if they
    /// are the same, and remembers this version of the object as read. Reads no version twice.
    fn check_whole(
        &self,
        object: &str,
        bytes: &[u8],
        seen: &Mutex<&mut SeenObjects>,
    ) -> Result<bool, BootstrapError> {
        let location = self.objects.location(object);
        if seen.lock().meet(&*self.objects, object).map_err(at(&location))? {
            return Ok(true);
        }
        // The version is looked up before the bytes, because another writer may replace the object meanwhile.
        let tag = self.objects.tag(object).map_err(at(&location))?;
        let mut stored = Vec::with_capacity(bytes.len());
        // An object that cannot be opened or read counts as damaged too, and is replaced.
        let opened = self.objects.open(object, bytes.len() as u64);
        let read = opened.and_then(|mut source| source.read_to_end(&mut stored));
        let is_whole = read.is_ok() && stored == bytes;
        if is_whole {
            seen.lock().note(object, tag);
        }
        Ok(is_whole)
    }

    /// Returns a manifest with a second in which no other snapshot of the place was made: of two snapshots of one
    /// second, either would be the newest. A snapshot that is there already keeps its second. The owner of the place
    /// may have made snapshots of all seconds to come, so the search ends after a number of them.
    pub(super) fn with_own_second(
        &self,
        mut manifest: BootstrapManifest,
    ) -> Result<BootstrapManifest, BootstrapError> {
        let names = self.names_so_far()?;
        let wrong = |error| BootstrapError::Manifest { name: "(new)".to_owned(), error };
        for _ in 0..SECONDS_MAX {
            let second = manifest.made_unix_s;
            let is_there =
                names.contains(&dated::name_of(second, &manifest.encode().map_err(wrong)?));
            if is_there || names.iter().all(|name| dated::time_of(name) != Some(second)) {
                break;
            }
            manifest.made_unix_s = second.saturating_add(1);
        }
        Ok(manifest)
    }

    /// Writes a manifest as [`Self::put_manifest`] does, if the place has all chunks that it names: another maker may
    /// have [removed](Self::remove_added) one that was there. Nothing removes chunks from a bucket.
    ///
    /// # Errors
    /// [`BootstrapError::Missing`], and those of the place.
    pub(super) fn put_whole_manifest(
        &self,
        manifest: &BootstrapManifest,
    ) -> Result<String, BootstrapError> {
        let Some(manifests) = self.manifests_in_folder() else {
            return self.put_manifest(manifest);
        };
        let _held = hold(&manifests)?;
        for strand in &manifest.strands {
            for chunk in &strand.chunks {
                let object = chunk_name(chunk.hash);
                let found = self.objects.find(&object);
                let found = found.map_err(at(&self.objects.location(&object)))?;
                if found != FoundObject::Plain(chunk.len_bytes) {
                    let (originator, from) = (strand.originator, chunk.from);
                    return Err(BootstrapError::Missing { originator, from });
                }
            }
        }
        self.put_manifest(manifest)
    }

    /// Removes the chunks that a snapshot without a manifest has added to a folder. `before` has the names of all
    /// snapshots when it began. Returns false, and removes nothing, if another snapshot was made since, which may name
    /// one of them, or if the disk has no locks.
    ///
    /// # Errors
    /// Those of the place. Some chunks may be removed then.
    pub(super) fn remove_added(
        &self,
        added: &[FileHash],
        before: &[String],
    ) -> Result<bool, BootstrapError> {
        if added.is_empty() {
            return Ok(true);
        }
        let Some(manifests) = self.manifests_in_folder() else { return Ok(false) };
        let Some(_held) = hold(&manifests)? else { return Ok(false) };
        if self.names_so_far()? != before {
            return Ok(false);
        }
        for hash in added {
            let object = chunk_name(*hash);
            self.objects.remove(&object).map_err(at(&self.objects.location(&object)))?;
        }
        Ok(true)
    }

    /// Returns the names of all snapshots of a folder; none of a bucket.
    pub(super) fn names_in_folder(&self) -> Result<Vec<String>, BootstrapError> {
        if self.is_in_folder() { self.names_so_far() } else { Ok(Vec::new()) }
    }

    /// Returns the folder of the manifests, which has the lock of makers. That of the whole folder is of backups, and
    /// may be held for hours.
    fn manifests_in_folder(&self) -> Option<FolderObjects> {
        self.objects.folder().map(|folder| FolderObjects::new(&folder.join(MANIFESTS)))
    }

    /// Writes a manifest, after all chunks in it are durable. Returns the snapshot's name.
    pub(super) fn put_manifest(
        &self,
        manifest: &BootstrapManifest,
    ) -> Result<String, BootstrapError> {
        let wrong = |error| BootstrapError::Manifest { name: "(new)".to_owned(), error };
        let bytes = manifest.encode().map_err(wrong)?;
        self.objects.sync_folder(CHUNKS).map_err(at(&self.objects.location(CHUNKS)))?;
        let name = dated::name_of(manifest.made_unix_s, &bytes);
        let object = manifest_name(&name);
        self.put(&object, &bytes).map_err(at(&self.objects.location(&object)))?;
        Ok(name)
    }

    /// Writes the object with the names of all snapshots. `made` is the one just made, which the list of a bucket may
    /// not have yet.
    pub(super) fn put_names(&self, made: &str) -> Result<(), BootstrapError> {
        let mut names = self.names_so_far()?;
        if !names.iter().any(|name| name == made) {
            names.push(made.to_owned());
            names.sort_unstable();
        }
        let newest = names.iter().rev().take(NAMES_MAX).rev();
        let lines: String = newest.map(|name| format!("{}\n", manifest_name(name))).collect();
        self.put(NAMES, lines.as_bytes()).map_err(at(&self.objects.location(NAMES))).map(drop)
    }

    fn put(&self, object: &str, bytes: &[u8]) -> io::Result<Option<ObjectTag>> {
        let mut new = self.objects.create(object)?;
        new.write_all(bytes)?;
        new.finish()
    }
}

/// Waits until no other maker of snapshots in a folder names chunks in a manifest, or removes chunks, and prevents both
/// until the result is dropped. Returns `None` if the disk has no locks.
///
/// # Errors
/// When another maker does not end.
fn hold(manifests: &FolderObjects) -> Result<Option<Box<dyn HeldObjects + '_>>, BootstrapError> {
    let mut tries_left = HOLD_TRIES;
    loop {
        match manifests.lock() {
            Ok(held) => return Ok(Some(held)),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if tries_left == 0 => return Err(at(&manifests.location(""))(error)),
            Err(_) => {
                tries_left -= 1;
                thread::sleep(HOLD_PAUSE);
            }
        }
    }
}

fn manifest_name(name: &str) -> String {
    format!("{MANIFESTS}/{name}{SUFFIX}")
}

/// Returns the largest length in bytes of the object with this name; `None` for a name that no object of a snapshot
/// has. `object` is untrusted: a name with a length leads out of no folder.
pub(super) fn len_bytes_max_of(object: &str) -> Option<u64> {
    if object == NAMES {
        return Some(NAMES_LEN_BYTES_MAX);
    }
    let (folder, name) = object.split_once('/')?;
    match folder {
        MANIFESTS => {
            name.strip_suffix(SUFFIX).filter(|name| dated::is_name(name)).map(|_| LEN_BYTES_MAX)
        }
        CHUNKS => {
            let (start, hash) = name.split_once('/')?;
            let is_chunk = FileHash::is_name(hash) && hash.get(..2) == Some(start);
            is_chunk.then_some(CHUNK_LEN_BYTES_MAX)
        }
        _ => None,
    }
}

/// Returns the name of the object with this hash: `chunks/ab/ab…`.
fn chunk_name(hash: FileHash) -> String {
    let hash = hash.to_string();
    format!("{CHUNKS}/{}/{hash}", &hash[..2])
}

#[cfg(test)]
mod tests {
    use super::super::manifest::BootstrapStrand;
    use super::*;
    use crate::objects::dated::UNUSABLE_MAX;
    use crate::objects::{FolderObjects, SEEN_IN_SNAPSHOTS};

    #[test]
    fn objects_of_snapshots_are_told_from_all_other_names() {
        let hash = "ab".repeat(32);
        let name = "000001700000000-0123456789abcdef";
        let chunk = format!("chunks/ab/{hash}");
        for (object, len_bytes_max) in [
            (NAMES.to_owned(), NAMES_LEN_BYTES_MAX),
            (manifest_name(name), LEN_BYTES_MAX),
            (chunk.clone(), CHUNK_LEN_BYTES_MAX),
        ] {
            assert_eq!(len_bytes_max_of(&object), Some(len_bytes_max), "{object}");
        }
        for object in [
            "",
            "/",
            "snapshots",
            "snapshots/",
            "snapshots/../names",
            "snapshots/.snapshot",
            "../snapshots/names",
            "chunks/ab",
            "lock",
            "node.key",
            &format!("/{chunk}"),
            &format!("{chunk}/"),
            &format!("{chunk}.0123456789abcdef.part"),
            &chunk.to_uppercase(),
            &chunk.replacen("ab", "cd", 1),
            &chunk.replacen("ab", "..", 1),
            &manifest_name("..-0123456789abcdef"),
        ] {
            assert_eq!(len_bytes_max_of(object), None, "{object}");
        }
    }

    /// The disk may have changed a chunk since an earlier snapshot.
    #[test]
    fn a_damaged_chunk_of_a_folder_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = Bootstraps::new(Arc::new(FolderObjects::new(folder.path())));
        place.make().unwrap();
        let mut seen = SeenObjects::read(None, SEEN_IN_SNAPSHOTS, &*place.objects);
        let seen = Mutex::new(&mut seen);
        let hash = FileHash(*blake3::hash(b"a chunk").as_bytes());
        let put = || place.put_chunk(hash, b"a chunk", &seen).unwrap();
        assert_eq!(put(), Some(FoundObject::Absent));
        assert_eq!(put(), None, "it is there");
        let path = folder.path().join(chunk_name(hash));
        for damaged in [&b"A chunk"[..], b"a chun", b"a chunk and more"] {
            std::fs::write(&path, damaged).unwrap();
            assert!(matches!(put(), Some(FoundObject::Plain(_))), "earlier snapshots may name it");
            assert_eq!(std::fs::read(&path).unwrap(), b"a chunk");
        }
    }

    /// The newest snapshot is the one that was made last, also of two that were made in one second.
    #[test]
    fn copies_of_one_second_have_an_order() {
        let folder = tempfile::tempdir().unwrap();
        let place = Bootstraps::new(Arc::new(FolderObjects::new(folder.path())));
        place.make().unwrap();
        let put = |head: u64| {
            let strand = BootstrapStrand {
                originator: OriginatorId(100),
                head: SequenceId(head),
                chunks: Vec::new(),
                checkpoints: Vec::new(),
                voids: Vec::new(),
            };
            let (network, strands) = ("testnet".to_owned(), vec![strand]);
            let manifest = BootstrapManifest { network, made_unix_s: 50, strands };
            place.put_manifest(&place.with_own_second(manifest).unwrap()).unwrap()
        };
        for head in 1..10 {
            let name = put(head);
            assert_eq!(place.newest("testnet", 50).unwrap().0, name);
        }
        assert_eq!(put(1), place.names().unwrap()[0], "it is there already");
    }

    #[test]
    fn a_place_full_of_bad_manifests_ends_the_search_for_the_newest_one() {
        let folder = tempfile::tempdir().unwrap();
        let place = Bootstraps::new(Arc::new(FolderObjects::new(folder.path())));
        place.make().unwrap();
        let put = |network: &str, made_unix_s| {
            let (network, strands) = (network.to_owned(), Vec::new());
            place.put_manifest(&BootstrapManifest { network, made_unix_s, strands }).unwrap()
        };
        let good = put("testnet", 1);
        put("other", 2);
        let bad = |made_unix_s: u64| {
            let name = format!("{made_unix_s:012}-0123456789abcdef");
            place.put(&manifest_name(&name), b"noise").unwrap();
        };
        // The times in the names are in the future, so none of these manifests is read.
        (0..100).for_each(|less| bad(u64::MAX - less));
        let unusable_max = u64::try_from(UNUSABLE_MAX).unwrap();
        (1..unusable_max).for_each(|more| bad(1000 + more));
        assert_eq!(place.newest("testnet", 10_000).unwrap().0, good);
        bad(1000 + unusable_max);
        let error = place.newest("testnet", 10_000).unwrap_err();
        let BootstrapError::Manifest { name, .. } = &error else { panic!("{error}") };
        assert!(name.starts_with("000000001064-"), "{error}");
    }
}
