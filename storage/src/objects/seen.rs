//! Versions of objects whose bytes a data folder's program has written or read back.
//!
//! Objects are named after the hash of their content, and others may write to the place as well: one that has the right
//! name and length may have other bytes. So an object that is there already is read back before a new manifest relies
//! on it, unless the place still has the version that this program has seen. A place without tags, such as a folder,
//! is always read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::named::Objects;
use super::tag::ObjectTag;
use crate::folder::open_plain;

/// Prefix of the name of the file about backups of a place, in a data folder.
pub(crate) const SEEN_IN_BACKUPS: &str = "seen-in-backups";
/// Prefix of the name of the file about snapshots of a place.
pub(crate) const SEEN_IN_SNAPSHOTS: &str = "seen-in-snapshots";
/// Prefix of the first line, which ends with the name of the place.
const TITLE: &str = "hawser-seen 1 ";
/// The longest file that is read, in bytes. Calculated: a line of a million objects.
const LEN_BYTES_MAX: u64 = 128 << 20;

/// The versions that were seen at one place. A loss costs one more read of each object.
#[derive(Debug)]
pub(crate) struct SeenObjects {
    /// The file; `None` keeps nothing.
    path: Option<PathBuf>,
    title: String,
    /// The last seen version of each object, by its name.
    tags: BTreeMap<String, ObjectTag>,
    /// The names that this run has found.
    met: BTreeSet<String>,
}

impl SeenObjects {
    /// Reads the file of a data folder. A missing file, one of another place and an unreadable one count as empty.
    pub(crate) fn read(data: Option<&Path>, kind: &str, objects: &dyn Objects) -> Self {
        let path = data.map(|data| data.join(file_name(kind, objects)));
        let title = format!("{TITLE}{}", objects.location("").display());
        let read = path.as_deref().and_then(|path| read_tags(path, &title).ok());
        Self { path, title, tags: read.unwrap_or_default(), met: BTreeSet::new() }
    }

    /// Notes that this run has met an object. Returns true if the place still has the version that was seen.
    ///
    /// # Errors
    /// When the place cannot be reached.
    pub(crate) fn meet(&mut self, objects: &dyn Objects, name: &str) -> io::Result<bool> {
        self.met.insert(name.to_owned());
        let Some(seen) = self.tags.get(name) else { return Ok(false) };
        Ok(objects.tag(name)?.as_ref() == Some(seen))
    }

    /// Notes the version of an object that this run has written, or has read back.
    pub(crate) fn note(&mut self, name: &str, tag: Option<ObjectTag>) {
        self.met.insert(name.to_owned());
        match tag {
            Some(tag) => drop(self.tags.insert(name.to_owned(), tag)),
            None => drop(self.tags.remove(name)),
        }
    }

    /// Writes the file, without objects that a complete run has not found.
    pub(crate) fn write(mut self, is_complete: bool) {
        if is_complete {
            self.tags.retain(|name, _| self.met.contains(name));
        }
        let Some(path) = &self.path else { return };
        // The next run reads the objects again if this fails.
        if let Err(error) = self.write_to(path) {
            tracing::debug!(path = %path.display(), %error, "seen versions of objects were not noted");
        }
    }

    fn write_to(&self, path: &Path) -> io::Result<()> {
        if self.tags.is_empty() {
            return remove(path);
        }
        let part = path.with_extension("part");
        let mut to = BufWriter::new(File::create(&part)?);
        writeln!(to, "{}", self.title)?;
        for (name, tag) in &self.tags {
            writeln!(to, "{name} {tag}")?;
        }
        to.into_inner()?.sync_all()?;
        fs::rename(part, path)
    }
}

/// Forgets the versions of objects that were seen in the backups of a place, so that the next backup reads all of them
/// back. For a caller that has found a damaged one.
///
/// # Errors
/// Of the file system.
pub fn forget_seen_in_backups(data: &Path, objects: &dyn Objects) -> io::Result<()> {
    remove(&data.join(file_name(SEEN_IN_BACKUPS, objects)))
}

/// Returns the name of the file about a place. Its hash keeps the files of several places apart.
fn file_name(kind: &str, objects: &dyn Objects) -> String {
    let place = objects.location("");
    let hash = blake3::hash(place.as_os_str().as_encoded_bytes()).to_hex();
    format!("{kind}-{}", &hash[..16])
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read_tags(path: &Path, title: &str) -> io::Result<BTreeMap<String, ObjectTag>> {
    let file = open_plain(path, File::options().read(true))?;
    let mut lines = BufReader::new(file.take(LEN_BYTES_MAX)).lines();
    let mut tags = BTreeMap::new();
    if lines.next().transpose()?.as_deref() != Some(title) {
        return Ok(tags);
    }
    for line in lines {
        let line = line?;
        let pair = line.split_once(' ').and_then(|(name, tag)| Some((name, ObjectTag::new(tag)?)));
        if let Some((name, tag)) = pair {
            tags.insert(name.to_owned(), tag);
        }
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::FolderObjects;

    fn tag(text: &str) -> Option<ObjectTag> {
        ObjectTag::new(text)
    }

    #[test]
    fn versions_are_kept_for_their_place_alone_and_as_long_as_runs_meet_them() {
        let data = tempfile::tempdir().unwrap();
        let (here, there) =
            (FolderObjects::new(Path::new("/a b")), FolderObjects::new(Path::new("/c")));
        let read = |objects| SeenObjects::read(Some(data.path()), SEEN_IN_BACKUPS, objects).tags;
        let mut seen = SeenObjects::read(Some(data.path()), SEEN_IN_BACKUPS, &here);
        seen.note("files/ab/abc", tag("one"));
        seen.note("files/cd/cde", tag("two"));
        seen.note("files/cd/cde", None);
        seen.write(true);
        assert_eq!(read(&here), [("files/ab/abc".to_owned(), tag("one").unwrap())].into());
        assert!(read(&there).is_empty());
        for (is_complete, left) in [(false, 1), (true, 0)] {
            let seen = SeenObjects::read(Some(data.path()), SEEN_IN_BACKUPS, &here);
            seen.write(is_complete);
            assert_eq!(read(&here).len(), left);
        }
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_none_counts_as_empty() {
        let data = tempfile::tempdir().unwrap();
        let here = FolderObjects::new(Path::new("/a"));
        let path = data.path().join(file_name(SEEN_IN_BACKUPS, &here));
        for text in ["", "noise", "hawser-seen 1 /b\nx y\n", "hawser-seen 1 /a\nx\n \n\u{fffd}"] {
            fs::write(&path, text).unwrap();
            let seen = SeenObjects::read(Some(data.path()), SEEN_IN_BACKUPS, &here);
            assert!(seen.tags.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn tags_of_services_are_bounded_and_lose_their_quotes() {
        assert_eq!(tag("\"abc-2\""), tag("abc-2"));
        for text in ["", "\"\"", "a b", "ä", "a\n", &"a".repeat(257)] {
            assert_eq!(tag(text), None, "{text:?}");
        }
    }
}
