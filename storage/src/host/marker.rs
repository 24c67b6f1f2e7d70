//! The host marker's file: lines of text that an operator can read.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use hawser_proto::SequenceId;

use super::standing::{FolderFacts, FolderStanding, UnknownFolder};
use crate::settings::StoreIdentity;

/// The first line, which states the format of the others.
const TITLE: &str = "hawser host marker 1: do not copy, do not back up";
/// Position of the head's line. The first line has a fixed length, so the head can be overwritten in place.
const HEAD_AT: u64 = TITLE.len() as u64 + 1;
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

/// The result of reading the marker's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MarkerState {
    /// There is no file.
    Absent,
    /// The file is not a valid marker.
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
        let owner = format!("node {} of network {}", identity.node, identity.network);
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

    /// Replaces the file atomically and durably, and returns it open for [`write_head`].
    ///
    /// # Errors
    /// An error of the file system. The earlier file stays then.
    pub(super) fn replace(&self, path: &Path) -> io::Result<File> {
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        let parent = path.parent().unwrap_or(path);
        File::open(parent)?.sync_all()?;
        Ok(file)
    }

    fn text(&self) -> String {
        let mut text = format!("{TITLE}\n{}\n", head_line(self.head));
        let incarnation = u128::from_be_bytes(self.incarnation);
        let standing = self.unknown.map_or(NEWEST, UnknownFolder::label);
        writeln!(text, "owner={}", self.owner).expect("a string takes any text");
        writeln!(text, "incarnation={incarnation:032x}").expect("a string takes any text");
        writeln!(text, "generation={}", self.generation).expect("a string takes any text");
        writeln!(text, "inode={}", self.inode).expect("a string takes any text");
        writeln!(text, "standing={standing}").expect("a string takes any text");
        text
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
        let owner = field("owner")?.to_owned();
        let incarnation = u128::from_str_radix(field("incarnation")?, 16).ok()?.to_be_bytes();
        let generation = field("generation")?.parse().ok()?;
        let inode = field("inode")?.parse().ok()?;
        let unknown = match field("standing")? {
            NEWEST => None,
            label => Some(UnknownFolder::ALL.into_iter().find(|it| it.label() == label)?),
        };
        let marker = Self { owner, incarnation, generation, inode, head, unknown };
        lines.next().is_none().then_some(marker)
    }
}

/// Writes the head into an open marker. The write survives the end of the process. A power loss may lose the last
/// writes; the marker is then behind the log, which is safe.
///
/// # Errors
/// Of the file system.
pub(super) fn write_head(file: &File, head: SequenceId) -> io::Result<()> {
    file.write_all_at(head_line(head).as_bytes(), HEAD_AT)
}

/// Returns the line of the head, which has the same length for every head.
fn head_line(head: SequenceId) -> String {
    format!("head={:020}", head.0)
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
        let file = marker.replace(&path).unwrap();
        assert_eq!(Marker::read(&path).unwrap(), MarkerState::Read(marker.clone()));
        for head in [1, 10, SequenceId::MAX.0] {
            let head = SequenceId(head);
            write_head(&file, head).unwrap();
            assert_eq!(
                Marker::read(&path).unwrap(),
                MarkerState::Read(Marker { head, ..marker.clone() })
            );
        }
        for unknown in UnknownFolder::ALL {
            let marker = Marker::test(facts(), Some(unknown));
            marker.replace(&path).unwrap();
            assert_eq!(Marker::read(&path).unwrap(), MarkerState::Read(marker));
        }
    }

    #[test]
    fn the_text_is_pinned() {
        let marker =
            Marker { owner: "node 100 of network test".to_owned(), ..Marker::test(facts(), None) };
        assert_eq!(
            marker.text(),
            "hawser host marker 1: do not copy, do not back up\n\
             head=00000000000000000000\n\
             owner=node 100 of network test\n\
             incarnation=abababababababababababababababab\n\
             generation=3\n\
             inode=77\n\
             standing=newest\n"
        );
    }

    #[test]
    fn what_is_no_marker_is_not_guessed() {
        let whole = Marker::test(facts(), None).text();
        assert!(Marker::parse(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(Marker::parse(&whole[..end]), None, "{:?}", &whole[..end]);
        }
        for (from, to) in [("marker 1", "marker 2"), ("newest", "fine"), ("inode=77", "inode=-1")] {
            assert_eq!(Marker::parse(&whole.replace(from, to)), None, "{to}");
        }
        assert_eq!(Marker::parse(&format!("{whole}more=1\n")), None);
        let head =
            |head: u64| whole.replace(&head_line(SequenceId(0)), &head_line(SequenceId(head)));
        assert!(Marker::parse(&head(SequenceId::MAX.0)).is_some());
        assert_eq!(Marker::parse(&head(SequenceId::MAX.0 + 1)), None, "no place");
    }
}
