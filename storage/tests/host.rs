//! The host marker: a folder is recognized as the one that this host wrote last only if it is.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::support::*;
use hawser_proto::SequenceId;
use hawser_storage::{
    AdoptError, Durability, FolderStanding, HostMarkerError, HostSettings, OpenError, Store,
    StoreSettings, UnknownFolder, host_dir,
};
use tempfile::TempDir;

/// A host with a data folder, and a place beside it for copies.
struct Host {
    root: TempDir,
}

impl Host {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn settings(&self, data: &str, new_strand: bool) -> StoreSettings {
        let host = HostSettings { state_dir: self.path("state"), new_strand };
        StoreSettings { host: Some(host), ..settings(&self.path(data)) }
    }

    fn open(&self, data: &str) -> Store {
        Store::open(&self.settings(data, false)).unwrap()
    }

    /// Opens the folder with commits that do not wait for the disk.
    fn open_unsynced(&self) -> Store {
        let durability = Durability::Os;
        Store::open(&StoreSettings { durability, ..self.settings("data", false) }).unwrap()
    }

    fn open_new(&self, data: &str) -> Result<Store, OpenError> {
        Store::open(&self.settings(data, true))
    }

    /// A host with a strand of some envelopes, whose node has stopped.
    fn with_strand(envelopes: u64) -> Self {
        let host = Self::new();
        let store = host.open_new("data").unwrap();
        assert_eq!(store.standing(), FolderStanding::New);
        store.adopt().unwrap();
        extend(&store, OWN, envelopes);
        drop(store);
        host
    }

    fn marker(&self) -> PathBuf {
        host_dir(&self.path("state"), &identity()).join("marker")
    }

    fn copy(&self, from: &str, to: &str) {
        copy(&self.path(from), &self.path(to));
    }

    /// Replaces the files of the folder by those of a copy; the folder itself stays.
    fn put_back(&self, from: &str, to: &str) {
        for file in fs::read_dir(self.path(to)).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        self.copy(from, to);
    }
}

/// Copies the files of a folder. The database of a running process adds and removes files at any time, so the copy
/// is repeated until the list of files has not changed meanwhile.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    loop {
        let before = names(from);
        names(to).iter().for_each(|name| fs::remove_file(to.join(name)).unwrap());
        let all_copied = before.iter().all(|name| match fs::copy(from.join(name), to.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            copied => copied.is_ok() || panic!("{copied:?}"),
        });
        if all_copied && names(from) == before {
            return;
        }
    }
}

fn names(folder: &Path) -> BTreeSet<OsString> {
    fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect()
}

fn unknown(reason: UnknownFolder) -> FolderStanding {
    FolderStanding::Unknown(reason)
}

#[test]
fn the_folder_that_this_host_wrote_last_is_the_newest_after_stops_and_crashes() {
    let host = Host::with_strand(3);
    for head in 4..8 {
        let store = host.open("data");
        assert_eq!(store.standing(), FolderStanding::Newest);
        extend(&store, OWN, 1);
        assert_eq!(head_of(&store), head);
        if head % 2 == 0 {
            store.flush().unwrap();
        }
    }
}

#[test]
fn a_folder_without_a_marker_is_unknown_until_it_is_adopted() {
    let host = Host::new();
    let store = host.open("data");
    assert_eq!(store.standing(), unknown(UnknownFolder::Empty));
    // Envelopes that peers have sent do not prove that the folder is the newest.
    extend(&store, OWN, 3);
    drop(store);
    let store = host.open("data");
    assert_eq!(store.standing(), unknown(UnknownFolder::NoMarker));
    store.adopt().unwrap();
    assert_eq!(store.standing(), FolderStanding::Newest);
    drop(store);
    assert_eq!(host.open("data").standing(), FolderStanding::Newest);
    fs::remove_file(host.marker()).unwrap();
    assert_eq!(host.open("data").standing(), unknown(UnknownFolder::NoMarker));
}

#[test]
fn an_older_folder_that_was_put_back_is_noticed() {
    let host = Host::with_strand(3);
    host.copy("data", "backup");
    extend(&host.open("data"), OWN, 2);
    host.put_back("backup", "data");
    assert_eq!(host.open("data").standing(), unknown(UnknownFolder::Older));

    // Even if nothing was published since: the backup is from before the last run.
    let host = Host::with_strand(3);
    host.copy("data", "backup");
    drop(host.open("data"));
    host.put_back("backup", "data");
    assert_eq!(host.open("data").standing(), unknown(UnknownFolder::Older));
}

/// Such a copy is a snapshot of the disk, or was made while the node was running.
#[test]
fn a_copy_from_the_middle_of_a_run_is_noticed_although_the_run_crashed() {
    let host = Host::with_strand(3);
    let store = host.open("data");
    extend(&store, OWN, 2);
    host.copy("data", "backup");
    extend(&store, OWN, 1);
    drop(store);
    host.put_back("backup", "data");
    assert_eq!(host.open("data").standing(), unknown(UnknownFolder::Older));
}

/// With commits that do not wait for the disk, power loss may take the same places from the log and from the marker.
#[test]
fn a_machine_that_starts_again_before_all_commits_were_on_its_disk_does_not_know_its_folder() {
    let host = Host::with_strand(3);
    let note = host.marker().with_file_name("unsynced");
    assert!(!note.exists(), "every commit has waited for the disk");
    extend(&host.open_unsynced(), OWN, 1);
    assert!(note.exists());
    // The process has crashed, and the machine runs on.
    assert_eq!(host.open_unsynced().standing(), FolderStanding::Newest);
    // The machine has started again.
    fs::write(&note, "another run").unwrap();
    for _ in 0..2 {
        assert_eq!(host.open_unsynced().standing(), unknown(UnknownFolder::Unsynced));
        let store = host.open("data");
        assert_eq!(store.standing(), unknown(UnknownFolder::Unsynced));
        assert!(store.may_lack_places().unwrap(), "no word of an operator makes it complete");
        // An operator stops the node in order while it is in quarantine.
        store.flush().unwrap();
        store.note_on_disk().unwrap();
    }
    host.copy("data", "copy");
    let copy = host.open("copy");
    assert_eq!(copy.standing(), unknown(UnknownFolder::Copied));
    assert!(copy.may_lack_places().unwrap(), "it lacks what the folder lacks");
    drop(copy);
    let store = host.open_unsynced();
    store.adopt().unwrap();
    assert!(!store.may_lack_places().unwrap());
    extend(&store, OWN, 1);
    store.flush().unwrap();
    store.note_on_disk().unwrap();
    drop(store);
    assert!(!note.exists(), "the node has stopped in order");
    assert_eq!(host.open_unsynced().standing(), FolderStanding::Newest);
    assert!(note.exists());
    assert_eq!(host.open("data").standing(), FolderStanding::Newest);
    assert!(!note.exists(), "commits wait for the disk again");
}

#[test]
fn a_copy_in_another_folder_is_noticed_and_cannot_run_beside_the_first() {
    let host = Host::with_strand(3);
    host.copy("data", "copy");
    assert_eq!(host.open("copy").standing(), unknown(UnknownFolder::Copied));
    let running = host.open("data");
    assert_eq!(running.standing(), FolderStanding::Newest);
    let second = Store::open(&host.settings("copy", false)).map(drop);
    let held = matches!(second, Err(OpenError::Host(HostMarkerError::Held { .. })));
    assert!(held, "{second:?}");
}

#[test]
fn a_new_folder_of_a_node_that_has_run_here_is_no_new_strand() {
    let host = Host::with_strand(3);
    assert_eq!(host.open("other").standing(), unknown(UnknownFolder::OtherFolder));
    for folder in ["other", "data", "yet-another"] {
        let refused = host.open_new(folder).map(drop);
        assert!(matches!(refused, Err(OpenError::StrandExists { .. })), "{folder}: {refused:?}");
    }
    assert_eq!(host.open("data").standing(), FolderStanding::Newest, "a refusal changes nothing");

    // Without the host's marker, the strand in the folder still contradicts a new one.
    fs::remove_file(host.marker()).unwrap();
    let refused = host.open_new("data").map(drop);
    assert!(matches!(refused, Err(OpenError::StrandExists { .. })), "{refused:?}");
}

#[test]
fn the_word_that_a_strand_is_new_may_be_repeated_before_its_first_envelope() {
    let host = Host::new();
    drop(host.open_new("data").unwrap());
    let store = host.open_new("data").unwrap();
    assert_eq!(store.standing(), FolderStanding::New);
    store.adopt().unwrap();
    drop(store);
    assert_eq!(host.open_new("data").unwrap().standing(), FolderStanding::Newest);
}

#[test]
fn what_was_marked_unknown_stays_so_until_it_is_adopted() {
    for reason in [UnknownFolder::Contradicted, UnknownFolder::Stopped] {
        let host = Host::with_strand(3);
        let store = host.open("data");
        store.mark_unknown(reason).unwrap();
        assert_eq!(store.standing(), unknown(reason));
        extend(&store, OWN, 1);
        drop(store);
        let store = host.open("data");
        assert_eq!(store.standing(), unknown(reason));
        store.adopt().unwrap();
        drop(store);
        assert_eq!(host.open("data").standing(), FolderStanding::Newest);
    }
}

/// The host remembers the place for every later folder, also when a folder is marked as unknown, or adopted.
#[test]
fn the_host_remembers_the_highest_place_that_it_signed() {
    let host = Host::with_strand(3);
    host.copy("data", "backup");
    extend(&host.open("data"), OWN, 2);
    for _ in 0..2 {
        host.put_back("backup", "data");
        let store = host.open("data");
        assert_eq!((head_of(&store), store.host_head()), (3, SequenceId(5)));
        // The folder is marked as unknown, and the marker is written again.
        store.mark_unknown(UnknownFolder::Stopped).unwrap();
        assert_eq!(store.host_head(), SequenceId(5));
    }
    let store = host.open("data");
    let behind = store.adopt();
    assert!(
        matches!(behind, Err(AdoptError::Marker(HostMarkerError::Behind { .. }))),
        "{behind:?}"
    );
    extend(&store, OWN, 2);
    store.adopt().unwrap();
    extend(&store, OWN, 1);
    drop(store);
    assert_eq!(host.open("data").host_head(), SequenceId(6));
}

/// The generation is written to the folder first. After a crash in between, or with an unwritable state folder,
/// neither the folder nor an older copy of it may be misjudged.
#[test]
fn a_crash_between_the_folder_and_the_marker_leaves_both_right() {
    let host = Host::with_strand(3);
    host.copy("data", "backup");
    let before = fs::read(host.marker()).unwrap();
    for _ in 0..3 {
        drop(host.open("data"));
        // As if the crash had come before the marker was written.
        fs::write(host.marker(), &before).unwrap();
    }
    assert_eq!(host.open("data").standing(), FolderStanding::Newest);
    extend(&host.open("data"), OWN, 1);
    host.put_back("backup", "data");
    assert_eq!(host.open("data").standing(), unknown(UnknownFolder::Older));
}

#[test]
fn a_marker_that_cannot_be_read_or_written_protects_all_the_same() {
    let host = Host::with_strand(3);
    fs::write(host.marker(), "head=").unwrap();
    assert_eq!(host.open("data").standing(), unknown(UnknownFolder::DamagedMarker));

    let file = host.path("file");
    fs::write(&file, "no folder").unwrap();
    let settings = HostSettings { state_dir: file, new_strand: false };
    let settings = StoreSettings { host: Some(settings), ..host.settings("data", false) };
    let refused = Store::open(&settings).map(drop);
    let unusable = matches!(refused, Err(OpenError::Host(HostMarkerError::Unusable { .. })));
    assert!(unusable, "{refused:?}");
}

/// A changed head would take an older copy for the newest folder, and other changes would name a wrong reason.
#[test]
fn a_changed_digit_of_the_marker_is_damage_and_no_other_state_or_folder() {
    let host = Host::with_strand(3);
    let whole = fs::read_to_string(host.marker()).unwrap();
    for field in ["head=", "incarnation=", "generation=", "inode="] {
        let line = whole.lines().find(|line| line.starts_with(field)).unwrap();
        let digit = if line.ends_with('1') { '2' } else { '1' };
        let changed = format!("{}{digit}", &line[..line.len() - 1]);
        fs::write(host.marker(), whole.replace(line, &changed)).unwrap();
        let standing = host.open("data").standing();
        assert_eq!(standing, unknown(UnknownFolder::DamagedMarker), "{changed}");
    }
    fs::write(host.marker(), whole).unwrap();
    assert_eq!(host.open("data").standing(), FolderStanding::Newest);
}

fn head_of(store: &Store) -> u64 {
    store.snapshot().head(OWN).unwrap().0
}

/// A witness has no host marker. Its record in the state folder has the number.
#[test]
fn runs_are_counted_in_the_folder_so_an_older_copy_has_a_lower_number() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(&settings(folder.path())).unwrap();
    let store = open();
    assert_eq!(store.run_number().unwrap(), 0);
    assert_eq!(store.count_run().unwrap(), 1);
    extend(&store, OWN, 1);
    drop(store);
    let store = open();
    assert_eq!(store.run_number().unwrap(), 1);
    assert_eq!(store.count_run().unwrap(), 2);
    assert_eq!(store.run_number().unwrap(), 2);
}
