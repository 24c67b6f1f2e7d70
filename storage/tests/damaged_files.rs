//! Damage of each kind of file of a stopped node's folder, at its next start: the start names the file and the way on,
//! removes nothing, and signs nothing after a lost end.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::support::*;
use hawser_proto::SequenceId;
use hawser_storage::{
    FolderStanding, HostSettings, LogItem, OpenError, Store, StoreSettings, UnknownFolder,
};
use tempfile::TempDir;

/// A stopped node's folder, with rows in tables and behind them in the write-ahead log.
struct Stopped {
    root: TempDir,
}

impl Stopped {
    fn new() -> Self {
        let stopped = Self { root: tempfile::tempdir().unwrap() };
        let store = Store::open(&stopped.settings(true)).unwrap();
        store.adopt().unwrap();
        extend(&store, OWN, 50);
        store.flush().unwrap();
        drop(store);
        let store = stopped.open().unwrap();
        extend(&store, OWN, 5);
        drop(store);
        stopped
    }

    fn settings(&self, new_strand: bool) -> StoreSettings {
        let host = HostSettings { state_dir: self.root.path().join("state"), new_strand };
        // RocksDB opens the more tables at a start.
        StoreSettings { host: Some(host), open_files_max: 1000, ..settings(&self.data()) }
    }

    fn open(&self) -> Result<Store, OpenError> {
        Store::open(&self.settings(false))
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Returns the newest file whose name passes.
    fn file(&self, is_it: impl Fn(&str) -> bool) -> PathBuf {
        let names = names(&self.data());
        self.data().join(names.iter().rev().find(|name| is_it(name)).unwrap())
    }

    fn current(&self) -> PathBuf {
        self.data().join("CURRENT")
    }

    fn manifest(&self) -> PathBuf {
        self.file(|name| name.starts_with("MANIFEST-"))
    }

    fn wal(&self) -> PathBuf {
        self.file(|name| name.ends_with(".log"))
    }

    fn options(&self) -> PathBuf {
        self.file(|name| name.starts_with("OPTIONS-"))
    }

    fn identity(&self) -> PathBuf {
        self.data().join("IDENTITY")
    }

    /// A table of the log. The properties at a table's end name its family.
    fn table(&self) -> PathBuf {
        let is_of_log = |name: &str| {
            let bytes = fs::read(self.data().join(name)).unwrap();
            name.ends_with(".sst") && bytes.windows(7).any(|it| it == b"namelog")
        };
        self.file(is_of_log)
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(folder).unwrap().map(|it| it.unwrap());
    let files = files.filter(|it| it.file_type().unwrap().is_file());
    files.map(|it| it.file_name().into_string().unwrap()).collect()
}

/// Returns the names of the files with rows, and of the list of them.
fn rows_of(folder: &Path) -> BTreeSet<String> {
    let has_rows = |name: &String| {
        name.starts_with("MANIFEST-") || name.ends_with(".sst") || name.ends_with(".log")
    };
    names(folder).into_iter().filter(has_rows).collect()
}

/// Flips a bit in the last record of a manifest about a family.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let name = b"leveldb.BytewiseComparator";
    let at = bytes.windows(name.len()).rposition(|it| it == name).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 10).unwrap();
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

fn empty(path: &Path) {
    fs::write(path, "").unwrap();
}

fn overwrite(path: &Path) {
    fs::write(path, "other bytes\n").unwrap();
}

/// Length of the footer of a table file.
const FOOTER_LEN_BYTES: usize = 53;
/// Length of what follows each block: its compression and its checksum.
const TRAILER_LEN_BYTES: usize = 5;

fn footer(table: &[u8]) -> Range<usize> {
    table.len() - FOOTER_LEN_BYTES..table.len()
}

/// Returns the end of the list of blocks, which is before the footer.
fn block_list(table: &[u8]) -> Range<usize> {
    let end = footer(table).start - TRAILER_LEN_BYTES;
    end - 20..end
}

fn index(table: &[u8]) -> Range<usize> {
    block(table, b"rocksdb.index")
}

/// Returns the end of the last part of the index, which is before the list of these parts.
fn index_part(table: &[u8]) -> Range<usize> {
    let end = index(table).start - TRAILER_LEN_BYTES;
    end - 8..end
}

fn properties(table: &[u8]) -> Range<usize> {
    block(table, b"rocksdb.properties")
}

/// Returns the value of one property: the name of the table's family.
fn family_name(table: &[u8]) -> Range<usize> {
    let at = table.windows(7).rposition(|it| it == b"namelog").unwrap();
    at + 4..at + 7
}

/// Returns the place of a block. Its name in the list of blocks is followed by offset and length, as varints.
fn block(table: &[u8], name: &[u8]) -> Range<usize> {
    let at = table.windows(name.len()).rposition(|it| it == name).unwrap();
    let mut bytes = table[at + name.len()..].iter();
    let mut number = || {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = usize::from(*bytes.next().unwrap());
            value |= (byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    let (start, len) = (number(), number());
    start..start + len
}

type FileOf = fn(&Stopped) -> PathBuf;
type Damaging = fn(&Path);

/// The supervisor of a node starts it again and again.
#[test]
fn a_file_without_which_no_row_is_known_stops_each_start_which_names_it_and_removes_nothing() {
    let cases: [(&str, FileOf, Damaging); 9] = [
        ("CURRENT", Stopped::current, remove),
        ("CURRENT", Stopped::current, empty),
        ("CURRENT", Stopped::current, overwrite),
        ("MANIFEST", Stopped::manifest, remove),
        ("MANIFEST", Stopped::manifest, empty),
        ("MANIFEST", Stopped::manifest, flip),
        (".sst", Stopped::table, remove),
        (".sst", Stopped::table, empty),
        (".sst", Stopped::table, cut),
    ];
    for (index, (part, file_of, damage)) in cases.into_iter().enumerate() {
        let stopped = Stopped::new();
        let file = file_of(&stopped);
        damage(&file);
        let before = rows_of(&stopped.data());
        for _ in 0..3 {
            let refused = stopped.open().map(drop).unwrap_err();
            let text = refused.to_string();
            let is_damage = matches!(refused, OpenError::Corrupt { .. });
            assert!(is_damage && text.contains(part), "{index} {part}: {text}");
            assert!(text.contains("docs/runbooks/restore.md"), "{index} {part}: {text}");
            let after = rows_of(&stopped.data());
            assert!(before.is_subset(&after), "{index} {part}: {before:?}, {after:?}");
        }
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if part == ".sst" {
            let text = stopped.open().map(drop).unwrap_err().to_string();
            assert!(text.contains(&name), "{name}: {text}");
        }
    }
}

/// Asserts that a folder with a damaged table of the log is refused for its damage, or that each read of it returns
/// what was written or an error. `what` is the case; with `names_table` the refusal has the name of the file.
fn assert_no_silent_loss(stopped: &Stopped, table: &Path, what: &str, names_table: bool) {
    let (damaged, before) = (fs::read(table).unwrap(), rows_of(&stopped.data()));
    match stopped.open() {
        Err(refused) => {
            let text = refused.to_string();
            assert!(matches!(refused, OpenError::Corrupt { .. }), "{what}: {refused:?}");
            assert!(text.contains("docs/runbooks/restore.md"), "{what}: {text}");
            for words in ["empty folder", "new folder", "another folder"] {
                assert!(!text.contains(words), "{what}: {text}");
            }
            let name = table.file_name().unwrap().to_str().unwrap();
            assert!(!names_table || text.contains(name), "{what}: {text}");
            let after = rows_of(&stopped.data());
            assert!(before.is_subset(&after), "{what}: {before:?}, {after:?}");
        }
        Ok(store) => {
            let snapshot = store.snapshot();
            assert_eq!(snapshot.head(OWN).unwrap(), SequenceId(55), "{what}");
            let scan = snapshot.log(id(OWN, 0), SequenceId(55));
            if let Ok(items) = scan.collect::<Result<Vec<_>, _>>() {
                let is_envelope = |it: &&LogItem| matches!(it, LogItem::Envelope { .. });
                assert_eq!(items.iter().filter(is_envelope).count(), 55, "{what}: a silent hole");
            }
            for place in 1..=55 {
                let one = snapshot.get(id(OWN, place));
                assert!(!matches!(one, Ok(None)), "{what}: place {place} has vanished");
            }
        }
    }
    assert_eq!(fs::read(table).unwrap(), damaged, "{what}: the table is kept as it is");
}

/// RocksDB reads these parts before any row. A read that takes the rows behind one as absent would be a silent hole.
#[test]
fn a_flipped_bit_in_what_finds_the_rows_of_the_log_is_told_and_hides_none() {
    type PartOf = fn(&[u8]) -> Range<usize>;
    // RocksDB reads the properties before it compares their checksum. If they do not parse, it names no file.
    let parts: [(&str, PartOf, bool); 6] = [
        ("footer", footer, true),
        ("list of blocks", block_list, true),
        ("index", index, true),
        ("part of the index", index_part, true),
        ("properties", properties, false),
        ("name of the family", family_name, true),
    ];
    for (part, part_of, names_table) in parts {
        let stopped = Stopped::new();
        let table = stopped.table();
        let whole = fs::read(&table).unwrap();
        let place = part_of(&whole);
        for at in [place.start, place.start + place.len() / 2, place.end - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(&table, bytes).unwrap();
            for _ in 0..2 {
                let what = format!("{part}, byte {at} of {}", whole.len());
                assert_no_silent_loss(&stopped, &table, &what, names_table);
            }
        }
        fs::write(&table, &whole).unwrap();
        let store = stopped.open().unwrap();
        assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(55), "{part}: put back");
        let all = store.snapshot().log(id(OWN, 0), SequenceId(55)).all(|it| it.is_ok());
        assert!(all, "{part}: put back");
    }
}

/// It has one line, the name of the manifest.
#[test]
fn a_lost_current_is_written_again_and_nothing_is_lost() {
    let stopped = Stopped::new();
    remove(&stopped.current());
    stopped.open().map(drop).unwrap_err();
    let for_commands = [
        Store::open_existing(&stopped.data(), price).map(drop),
        Store::open_read_only(&stopped.data(), price).map(drop),
    ];
    for refused in for_commands {
        assert!(matches!(refused, Err(OpenError::Corrupt { .. })), "{refused:?}");
    }
    let manifests = || names(&stopped.data()).into_iter().filter(|it| it.starts_with("MANIFEST-"));
    assert_eq!(manifests().count(), 1);
    let name = manifests().next().unwrap();
    fs::write(stopped.current(), format!("{name}\n")).unwrap();
    let store = stopped.open().unwrap();
    assert_eq!(store.standing(), FolderStanding::Newest);
    assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(55));
    extend(&store, OWN, 1);
}

/// The commits in it were acknowledged, so the folder is not the newest one any more.
#[test]
fn after_a_lost_write_ahead_log_the_node_is_in_quarantine() {
    for damage in [remove, empty] {
        let stopped = Stopped::new();
        damage(&stopped.wal());
        match stopped.open() {
            Ok(store) => {
                assert_eq!(store.standing(), FolderStanding::Unknown(UnknownFolder::Older));
            }
            Err(error) => {
                assert!(error.to_string().contains("docs/runbooks/restore.md"), "{error}");
            }
        }
    }
}

#[test]
fn files_that_only_describe_the_database_may_be_damaged() {
    let cases: [(FileOf, Damaging); 6] = [
        (Stopped::options, remove),
        (Stopped::options, empty),
        (Stopped::options, overwrite),
        (Stopped::identity, remove),
        (Stopped::identity, empty),
        (Stopped::identity, overwrite),
    ];
    for (index, (file_of, damage)) in cases.into_iter().enumerate() {
        let stopped = Stopped::new();
        damage(&file_of(&stopped));
        let store = stopped.open().unwrap_or_else(|error| panic!("{index}: {error}"));
        assert_eq!(store.standing(), FolderStanding::Newest, "{index}");
        assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(55), "{index}");
        extend(&store, OWN, 1);
    }
}

/// A crash while the first start creates the database leaves its first manifest.
#[test]
fn a_start_that_was_cut_short_before_its_first_row_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("MANIFEST-000001"), "").unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 1);
}
