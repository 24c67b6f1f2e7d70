//! Places whose lists lag behind what was written.

use std::fs;
use std::sync::Arc;

use hawser_storage::{Backups, FolderObjects};

use super::place::{Defect, Defective, Place};
use super::{NOW_UNIX_S, go_on};
use crate::support::*;

/// S3 lists what is written at once. Lists of other services, and of mounted folders, may lag behind.
#[test]
fn pruning_keeps_the_files_of_backups_that_no_list_has_yet() {
    let place = Place::new();
    let store = place.with_strands();
    let lagging = |hidden: &str| {
        let hidden = Defect::ListsWithout(format!("{hidden}.manifest"));
        let objects = Defective(FolderObjects::new(&place.path("backups")), hidden);
        Backups::existing(Arc::new(objects)).unwrap()
    };
    let first = place.back_up(&store, 1000).name;
    assert_eq!(lagging(&first).names().unwrap(), Vec::<String>::new());
    assert_eq!(lagging(&first).prune(1, NOW_UNIX_S).unwrap().files, 0);
    place.backups().verify(&first, &mut go_on).unwrap();

    extend(&store, OWN, 5);
    let second = place.back_up(&store, 2000).name;
    assert_eq!(
        lagging(&second).prune(1, NOW_UNIX_S).unwrap().removed,
        std::slice::from_ref(&first)
    );
    assert_eq!(place.backups().names().unwrap(), std::slice::from_ref(&second));
    place.backups().verify(&second, &mut go_on).unwrap();

    // Noise in place of the noted names prevents neither pruning nor the next backup.
    for noise in [&b"\xff\n../../x\n"[..], &[b'\n'; 1 << 16]] {
        fs::write(place.path("backups/manifests/recent"), noise).unwrap();
        assert!(place.backups().prune(1, NOW_UNIX_S).unwrap().removed.is_empty());
    }
    let third = place.back_up(&store, 3000).name;
    let noted = fs::read_to_string(place.path("backups/manifests/recent")).unwrap();
    assert_eq!(noted, format!("{third}\n"));
}

/// A web server gives no list of its own, so a new node finds only the snapshots that are named.
#[test]
fn a_snapshot_that_no_list_has_yet_is_named_for_readers_without_lists() {
    let place = Place::new();
    let store = place.with_strands();
    let hidden = Defect::ListsWithout(".snapshot".to_owned());
    let objects = Defective(FolderObjects::new(&place.path("snapshots")), hidden);
    let made = store.create_bootstrap(Arc::new(objects), 5, &mut go_on).unwrap();
    let names = fs::read_to_string(place.path("snapshots/snapshots/names")).unwrap();
    assert_eq!(names, format!("snapshots/{}.snapshot\n", made.name));
}
