//! The copy that a migration leaves, and the return to it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hawser_proto::SequenceId;
use hawser_storage::{
    FolderStanding, HostSettings, OpenError, RollbackError, Store, StoreSettings, discard_copies,
    kept_format, roll_back,
};

use crate::support::{OWN, extend, price, raw, settings};

fn format_of(path: &Path) -> u32 {
    let db = raw(path);
    let format = db.get_cf(db.cf_handle("meta").unwrap(), "format").unwrap().unwrap();
    u32::from_be_bytes(format.try_into().unwrap())
}

/// Makes a database with three envelopes, as a program of the format before this one leaves it.
fn make_older(path: &Path) -> u32 {
    let store = Store::open(&settings(path)).unwrap();
    extend(&store, OWN, 3);
    drop(store);
    lower_format(path)
}

/// Makes a database into one of the format before this one.
fn lower_format(path: &Path) -> u32 {
    let older = format_of(path) - 1;
    let mut db = raw(path);
    db.put_cf(db.cf_handle("meta").unwrap(), "format", older.to_be_bytes()).unwrap();
    db.drop_cf("pruned").unwrap();
    older
}

/// Returns true if a row says that the database may lack places.
fn may_lack_places(path: &Path) -> bool {
    let db = raw(path);
    db.get_cf(db.cf_handle("meta").unwrap(), "promoted").unwrap().is_some()
}

fn head(path: &Path) -> SequenceId {
    let store = Store::open(&settings(path)).unwrap();
    store.snapshot().head(OWN).unwrap()
}

#[test]
fn a_folder_returns_to_the_format_before_its_upgrade() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let older = make_older(folder);
    assert_eq!(kept_format(folder).unwrap(), None);
    let refused = roll_back(folder, price);
    assert!(matches!(refused, Err(RollbackError::NoCopy { .. })), "{refused:?}");

    let store = Store::open(&settings(folder)).unwrap();
    assert_eq!(kept_format(folder).unwrap(), Some(older));
    extend(&store, OWN, 2);
    let refused = roll_back(folder, price);
    assert!(matches!(refused, Err(RollbackError::Held { .. })), "{refused:?}");
    drop(store);
    fs::write(folder.join("notes.json"), "{}").unwrap();

    let done = roll_back(folder, price).unwrap();
    assert_eq!((done.format, done.newer.as_path()), (older, &*folder.join("after-upgrade")));
    let names = rocksdb::DB::list_cf(&rocksdb::Options::default(), folder).unwrap();
    assert!(!names.contains(&"pruned".to_owned()), "as the older program left it");
    assert_eq!(format_of(folder), older);
    assert!(format_of(&done.newer) > older, "the newer one stays");
    assert!(folder.join("notes.json").is_file(), "files of the node stay");
    // On another host nothing else shows that the node has signed further places.
    assert!(may_lack_places(folder) && !may_lack_places(&done.newer));

    // The next upgrade begins with what the older program had.
    assert_eq!(head(folder), SequenceId(3));
    assert_eq!(head(&done.newer), SequenceId(5));
    let refused = roll_back(folder, price);
    assert!(matches!(refused, Err(RollbackError::NewerInTheWay { .. })), "{refused:?}");
    assert_eq!(discard_copies(folder).unwrap(), 2);
    assert_eq!(discard_copies(folder).unwrap(), 0);
    assert_eq!(head(folder), SequenceId(3));
}

#[test]
fn a_return_that_was_interrupted_is_finished_before_the_folder_is_opened() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let older = make_older(folder);
    drop(Store::open(&settings(folder)).unwrap());
    // As after a crash while the newer database was moved aside.
    let newer = folder.join("after-upgrade");
    fs::create_dir(&newer).unwrap();
    fs::rename(folder.join("CURRENT"), newer.join("CURRENT")).unwrap();
    fs::write(folder.join("rollback-unfinished"), format!("aside {older}\n")).unwrap();
    let refused = Store::open(&settings(folder)).map(drop);
    assert!(matches!(refused, Err(OpenError::RollbackUnfinished { .. })), "{refused:?}");
    for refused in [Store::open_existing(folder, price), Store::open_read_only(folder, price)] {
        let refused = refused.map(drop);
        assert!(matches!(refused, Err(OpenError::RollbackUnfinished { .. })), "{refused:?}");
    }
    let refused = discard_copies(folder);
    assert!(matches!(refused, Err(RollbackError::Unfinished { .. })), "{refused:?}");
    assert_eq!(roll_back(folder, price).unwrap().format, older);
    assert_eq!(format_of(folder), older);
    assert!(format_of(&newer) > older);

    // As after a crash while the copy was moved back: the newer one is aside already.
    let copy = folder.join(format!("before-upgrade-{older}"));
    fs::create_dir(&copy).unwrap();
    fs::rename(folder.join("CURRENT"), copy.join("CURRENT")).unwrap();
    fs::write(folder.join("rollback-unfinished"), format!("back {older}\n")).unwrap();
    assert_eq!(roll_back(folder, price).unwrap().format, older);
    assert_eq!(format_of(folder), older);
    assert_eq!(head(folder), SequenceId(3));
}

/// Two commands at once would each move what the other one has put into its place.
#[test]
fn one_return_at_a_time_moves_files() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let older = make_older(folder);
    drop(Store::open(&settings(folder)).unwrap());
    let names = || {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        entries.collect::<BTreeSet<_>>()
    };
    let (before, other) = (names(), fs::File::open(folder).unwrap());
    other.try_lock().unwrap();
    let refused = roll_back(folder, price);
    assert!(matches!(refused, Err(RollbackError::Held { .. })), "{refused:?}");
    let refused = discard_copies(folder);
    assert!(matches!(refused, Err(RollbackError::Held { .. })), "{refused:?}");
    assert_eq!(names(), before, "nothing was moved or removed");

    // The other one was interrupted, so this one finishes its return.
    fs::write(folder.join("rollback-unfinished"), format!("aside {older}\n")).unwrap();
    let refused = roll_back(folder, price);
    assert!(matches!(refused, Err(RollbackError::Held { .. })), "{refused:?}");
    drop(other);
    assert_eq!(roll_back(folder, price).unwrap().format, older);
    assert_eq!(head(folder), SequenceId(3));
}

#[test]
fn a_copy_that_is_not_whole_replaces_no_database() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let older = make_older(folder);
    drop(Store::open(&settings(folder)).unwrap());
    let copy = folder.join(format!("before-upgrade-{older}"));
    fs::remove_file(copy.join("CURRENT")).unwrap();
    let refused = roll_back(folder, price);
    assert!(matches!(refused, Err(RollbackError::Copy { .. })), "{refused:?}");
    assert_eq!(head(folder), SequenceId(3), "nothing has changed");
    // As after a crash while the copy was removed.
    fs::rename(&copy, folder.join("before-upgrade.old")).unwrap();
    let refused = roll_back(folder, price);
    assert!(matches!(refused, Err(RollbackError::NoCopy { .. })), "{refused:?}");
    assert_eq!(discard_copies(folder).unwrap(), 0);
    assert!(!folder.join("before-upgrade.old").exists());
}

/// Upgrades a folder up to the last write of the migration, which did not happen: the next start repeats it. Returns
/// the folder of the copy.
fn interrupt_upgrade(folder: &Path) -> PathBuf {
    let older = make_older(folder);
    drop(Store::open(&settings(folder)).unwrap());
    let db = raw(folder);
    db.put_cf(db.cf_handle("meta").unwrap(), "format", older.to_be_bytes()).unwrap();
    folder.join(format!("before-upgrade-{older}"))
}

/// Returns true if a copy has the database as it was before the first attempt to upgrade it.
fn is_of_first_attempt(copy: &Path) -> bool {
    let names = rocksdb::DB::list_cf(&rocksdb::Options::default(), copy).unwrap();
    !names.contains(&"pruned".to_owned())
}

#[test]
fn an_upgrade_that_was_interrupted_keeps_its_first_copy() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let copy = interrupt_upgrade(folder);
    drop(Store::open(&settings(folder)).unwrap());
    assert!(is_of_first_attempt(&copy));
}

/// The database is migrated in part by then, and no other copy is as the earlier program knows it.
#[test]
fn a_first_copy_that_the_disk_fails_to_read_for_a_while_is_not_replaced() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let copy = interrupt_upgrade(folder);
    for name in ["MANIFEST-", "CURRENT"] {
        let files = fs::read_dir(&copy).unwrap().map(|file| file.unwrap().path());
        let is_named = |path: &PathBuf| path.to_string_lossy().contains(name);
        let file = files.filter(is_named).max().unwrap();
        let aside = place.path().join("aside");
        fs::rename(&file, &aside).unwrap();
        // The system fails to look up a link to itself.
        symlink(&file, &file).unwrap();
        let refused = Store::open(&settings(folder)).map(drop);
        let is_of_disk =
            matches!(refused, Err(OpenError::Database(_) | OpenError::Unreadable { .. }));
        assert!(is_of_disk, "{name}: {refused:?}");
        fs::remove_file(&file).unwrap();
        fs::rename(&aside, &file).unwrap();
    }
    drop(Store::open(&settings(folder)).unwrap());
    assert!(is_of_first_attempt(&copy));
}

#[test]
fn a_first_copy_that_has_lost_a_file_does_not_stop_the_upgrade() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let copy = interrupt_upgrade(folder);
    for file in fs::read_dir(&copy).unwrap().map(|file| file.unwrap().path()) {
        if file.to_string_lossy().contains("MANIFEST-") {
            fs::remove_file(file).unwrap();
        }
    }
    assert_eq!(head(folder), SequenceId(3));
    assert!(!is_of_first_attempt(&copy), "it is replaced");
}

/// All files of the database are aside, and a start would make a new one in the folder, which signs from place 1 on.
#[test]
fn a_note_that_the_disk_fails_to_look_up_is_not_absent() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let note = folder.join("rollback-unfinished");
    symlink(&note, &note).unwrap();
    for refused in [
        Store::open(&settings(folder)).map(drop),
        Store::open_existing(folder, price).map(drop),
        Store::open_read_only(folder, price).map(drop),
    ] {
        assert!(matches!(refused, Err(OpenError::Unreadable { .. })), "{refused:?}");
    }
    let refused = discard_copies(folder);
    assert!(matches!(refused, Err(RollbackError::Files { .. })), "{refused:?}");
    assert!(!folder.join("CURRENT").exists(), "no database was made");
}

#[test]
fn a_copy_that_is_older_than_the_last_run_of_the_earlier_program_is_replaced() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let older = make_older(folder);
    let store = Store::open(&settings(folder)).unwrap();
    // The migration was interrupted, and the earlier program has gone on.
    extend(&store, OWN, 2);
    drop(store);
    let db = raw(folder);
    db.put_cf(db.cf_handle("meta").unwrap(), "format", older.to_be_bytes()).unwrap();
    drop(db);
    assert_eq!(head(folder), SequenceId(5));
    assert_eq!(roll_back(folder, price).unwrap().format, older);
    assert_eq!(head(folder), SequenceId(5), "nothing of the last run is lost");
}

#[test]
fn a_host_does_not_take_a_folder_that_has_returned_for_its_newest_one() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("data");
    let open = |new_strand| {
        let host = HostSettings { state_dir: place.path().join("state"), new_strand };
        Store::open(&StoreSettings { host: Some(host), ..settings(&folder) }).unwrap()
    };
    let store = open(true);
    store.adopt().unwrap();
    extend(&store, OWN, 3);
    drop(store);
    lower_format(&folder);
    let upgraded = open(false);
    assert_eq!(upgraded.standing(), FolderStanding::Newest);
    extend(&upgraded, OWN, 2);
    drop(upgraded);
    roll_back(&folder, price).unwrap();
    let returned = open(false);
    let standing = returned.standing();
    assert!(
        matches!(standing, FolderStanding::Unknown(_)),
        "it may sign places twice: {standing:?}"
    );
}
