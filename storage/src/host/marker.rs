//! The host marker's file: lines of text that an operator can read.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use hawser_proto::SequenceId;

use super::standing::{FolderFacts, FolderStanding, UnknownFolder};
use crate::settings::StoreIdentity;

/// The first line, which states the format of the others.
const TITLE: &str = "hawser host marker 1: do not copy, do not back up";
/// Position of the head's line. The first line has a fixed length, so head and check can be overwritten in place.
const HEAD_AT: u64 = TITLE.len() as u64 + 1;
/// Beginning of every owner. Markers of earlier versions have no check before it.
const OWNER: &str = "node ";
/// Value of `standing` for a folder that may sign.
const NEWEST: &str = "newest";
/// Largest marker, bytes. A guess: markers have a few hundred bytes.
const LEN_BYTES_MAX: u64 = 4096;

/// The contents of a marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    owner: String,
    pub(super) incarnation: [u8; 16],
    pub(super) generation: u64,
    pub(super) inode: u64,
    pub(super) head: SequenceId,
    /// The reason why the folder may not sign at the next start; `None` if it may.
    pub(super) unknown: Option<UnknownFolder>,
}

/// The marker's file, open for heads.
#[derive(Debug)]
pub(super) struct MarkerFile {
    file: File,
    /// The contents of the file.
    marker: Marker,
}

/// The result of reading the marker's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MarkerState {
    /// There is no file.
    Absent,
    /// The file is not a valid marker, or was changed since it was written.
    Damaged,
    /// The file is a valid marker.
    Read(Marker),
}

impl Marker {
    /// Returns the marker of a folder.
    pub(super) fn of(
        identity: &StoreIdentity,
        facts: FolderFacts,
        standing: FolderStanding,
    ) -> Self {
        let owner = format!("{OWNER}{} of network {}", identity.node, identity.network);
        let FolderFacts { incarnation, generation, inode, head } = facts;
        let unknown = match standing {
            FolderStanding::Newest | FolderStanding::New | FolderStanding::Unjudged => None,
            FolderStanding::Unknown(reason) => Some(reason),
        };
        Self { owner, incarnation, generation, inode, head, unknown }
    }

    #[cfg(test)]
    pub(super) fn test(facts: FolderFacts, unknown: Option<UnknownFolder>) -> Self {
        let FolderFacts { incarnation, generation, inode, head } = facts;
        Self { owner: "node 100".to_owned(), incarnation, generation, inode, head, unknown }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// An error if the file exists and cannot be read.
    pub(super) fn read(path: &Path) -> io::Result<MarkerState> {
        let text = match fs::metadata(path) {
            Ok(found) if found.len() > LEN_BYTES_MAX => return Ok(MarkerState::Damaged),
            Ok(_) => fs::read(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(MarkerState::Absent);
            }
            Err(error) => return Err(error),
        };
        let marker = std::str::from_utf8(&text).ok().and_then(Self::parse);
        Ok(marker.map_or(MarkerState::Damaged, MarkerState::Read))
    }

    /// Replaces the file atomically and durably, and returns it open for heads.
    ///
    /// # Errors
    /// An error of the file system. The earlier file stays then.
    pub(super) fn replace(self, path: &Path) -> io::Result<MarkerFile> {
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        let parent = path.parent().unwrap_or(path);
        File::open(parent)?.sync_all()?;
        Ok(MarkerFile { file, marker: self })
    }

    fn text(&self) -> String {
        format!("{TITLE}\n{}{}", self.beginning(), self.rest())
    }

    /// Returns what is overwritten for each head: the head, and the check of the whole marker. It has the same length
    /// for every head. The check stands in the line of the owner, which earlier versions do not look at, so that they
    /// still read the marker when an operator returns to them.
    fn beginning(&self) -> String {
        format!("head={:020}\nowner=[{}] ", self.head.0, self.check())
    }

    /// Returns the marker behind its check.
    fn rest(&self) -> String {
        let Self { owner, incarnation, generation, inode, unknown, .. } = self;
        let incarnation = u128::from_be_bytes(*incarnation);
        let standing = unknown.map_or(NEWEST, UnknownFolder::label);
        format!(
            "{owner}\nincarnation={incarnation:032x}\ngeneration={generation}\ninode={inode}\nstanding={standing}\n"
        )
    }

    /// Returns the check of the marker: with a changed digit, another folder or another state of this one would look
    /// like the newest, or the newest like an older one.
    fn check(&self) -> String {
        let hash = blake3::hash(format!("{}\n{}", self.head.0, self.rest()).as_bytes()).to_hex();
        hash[..8].to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != TITLE {
            return None;
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
        // No node can sign a higher place, and no folder could ever reach it.
        let head =
            Some(SequenceId(field("head")?.parse().ok()?)).filter(|it| *it <= SequenceId::MAX)?;
        let (check, owner) = split_check(field("owner")?)?;
        let incarnation = u128::from_str_radix(field("incarnation")?, 16).ok()?.to_be_bytes();
        let generation = field("generation")?.parse().ok()?;
        let inode = field("inode")?.parse().ok()?;
        let unknown = match field("standing")? {
            NEWEST => None,
            label => Some(UnknownFolder::ALL.into_iter().find(|it| it.label() == label)?),
        };
        let owner = owner.to_owned();
        let marker = Self { owner, incarnation, generation, inode, head, unknown };
        let is_whole = check.is_none_or(|check| check == marker.check());
        (lines.next().is_none() && is_whole).then_some(marker)
    }
}

impl MarkerFile {
    /// Writes the head. The write survives the end of the process. A power loss may lose the last writes; the marker is
    /// then behind the log, which is safe.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn write_head(&mut self, head: SequenceId) -> io::Result<()> {
        self.marker.head = head;
        self.file.write_all_at(self.marker.beginning().as_bytes(), HEAD_AT)
    }

    /// Makes the head durable.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Splits the check off the owner. A marker of an earlier version has none.
fn split_check(owner: &str) -> Option<(Option<&str>, &str)> {
    if owner.starts_with(OWNER) {
        return Some((None, owner));
    }
    let (check, owner) = owner.strip_prefix('[')?.split_once("] ")?;
    Some((Some(check), owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> FolderFacts {
        FolderFacts { incarnation: [0xab; 16], generation: 3, inode: 77, head: SequenceId(0) }
    }

    #[test]
    fn a_marker_reads_back_with_the_head_that_was_written_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marker");
        assert_eq!(Marker::read(&path).unwrap(), MarkerState::Absent);
        let marker = Marker::test(facts(), None);
        let mut file = marker.clone().replace(&path).unwrap();
        assert_eq!(Marker::read(&path).unwrap(), MarkerState::Read(marker.clone()));
        for head in [1, 10, SequenceId::MAX.0] {
            let head = SequenceId(head);
            file.write_head(head).unwrap();
            assert_eq!(
                Marker::read(&path).unwrap(),
                MarkerState::Read(Marker { head, ..marker.clone() })
            );
        }
        for unknown in UnknownFolder::ALL {
            let marker = Marker::test(facts(), Some(unknown));
            marker.clone().replace(&path).unwrap();
            assert_eq!(Marker::read(&path).unwrap(), MarkerState::Read(marker));
        }
    }

    /// Returns a marker with this line of the owner, which has no check in earlier versions.
    fn earlier(owner: &str) -> String {
        format!(
            "hawser host marker 1: do not copy, do not back up\n\
             head=00000000000000000000\n\
             owner={owner}\n\
             incarnation=abababababababababababababababab\n\
             generation=3\n\
             inode=77\n\
             standing=newest\n"
        )
    }

    #[test]
    fn the_text_is_pinned() {
        let marker =
            Marker { owner: "node 100 of network test".to_owned(), ..Marker::test(facts(), None) };
        assert_eq!(marker.text(), earlier("[c71fb232] node 100 of network test"));
    }

    /// A program of an earlier version has written it, or an operator has returned to one for a while.
    #[test]
    fn a_marker_of_an_earlier_version_is_read_and_gets_a_check_with_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marker");
        fs::write(&path, earlier("node 100")).unwrap();
        let marker = Marker::test(facts(), None);
        assert_eq!(Marker::read(&path).unwrap(), MarkerState::Read(marker.clone()));
        marker.clone().replace(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\nowner=[") && text.contains("] node 100\n"), "{text}");
        assert_eq!(Marker::read(&path).unwrap(), MarkerState::Read(marker));
    }

    #[test]
    fn a_changed_byte_of_a_marker_is_noticed() {
        let marker = Marker { head: SequenceId(42), ..Marker::test(facts(), None) };
        let whole = marker.text().into_bytes();
        for at in 0..whole.len() {
            for change in 1..=u8::MAX {
                let mut text = whole.clone();
                text[at] ^= change;
                let parsed = std::str::from_utf8(&text).ok().and_then(Marker::parse);
                // Such as another case of a hexadecimal digit.
                let is_same = parsed.is_none_or(|parsed| parsed == marker);
                assert!(is_same, "{:?}", String::from_utf8_lossy(&text));
            }
        }
    }

    #[test]
    fn what_is_no_marker_is_not_guessed() {
        let whole = Marker::test(facts(), None).text();
        assert!(Marker::parse(&whole).is_some());
        let earlier = earlier("node 100");
        for whole in [&whole, &earlier] {
            for end in 0..whole.len() {
                assert_eq!(Marker::parse(&whole[..end]), None, "{:?}", &whole[..end]);
            }
            let changes = [("marker 1", "marker 2"), ("newest", "fine"), ("inode=77", "inode=-1")];
            for (from, to) in changes {
                assert_eq!(Marker::parse(&whole.replace(from, to)), None, "{to}");
            }
            assert_eq!(Marker::parse(&format!("{whole}more=1\n")), None);
        }
        let head = |head: u64| Marker { head: SequenceId(head), ..Marker::test(facts(), None) };
        assert!(Marker::parse(&head(SequenceId::MAX.0).text()).is_some());
        assert_eq!(Marker::parse(&head(SequenceId::MAX.0 + 1).text()), None, "no place");
    }
}
