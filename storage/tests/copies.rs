//! Copies of the log for new nodes: several threads write chunks, and the manifest lists them in the order of the
//! strand.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hawser_storage::{
    BootstrapError, BootstrapManifestError, BootstrapReport, Bootstraps, Change,
    DiskReserveSettings, FolderObjects, LogEntry, Objects, Store,
};

use crate::support::*;

/// Bytes of a statement: longer than the bytes at which a chunk ends, so each envelope has a chunk of its own.
const LONG: usize = 9 << 20;

fn append_long(store: &Store, places: std::ops::RangeInclusive<u64>) {
    for place in places {
        let at = id(PEER, place);
        let bytes = signed(&format!("{place}{}", "x".repeat(LONG)), 1);
        store.commit(&[Change::Append(LogEntry { bytes, ..entry(at) })]).unwrap();
    }
}

/// Makes a copy, and stops it when this many chunks were read.
fn copy(
    store: &Store,
    to: &Arc<dyn Objects>,
    now_unix_s: u64,
    chunks: usize,
) -> Result<BootstrapReport, BootstrapError> {
    let mut read = 0;
    store.create_bootstrap(to.clone(), now_unix_s, &mut |_| {
        read += 1;
        if read > chunks { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

#[test]
fn chunks_that_threads_write_are_listed_in_order_and_a_later_copy_adds_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let to: Arc<dyn Objects> = Arc::new(FolderObjects::new(folder.path()));
    let store = in_memory();
    append_long(&store, 1..=5);
    let stopped = copy(&store, &to, 1, 2);
    assert!(matches!(stopped, Err(BootstrapError::Stopped)), "{stopped:?}");
    assert!(Bootstraps::new(to.clone()).names().unwrap().is_empty(), "a part is no copy");

    let made = copy(&store, &to, 2, usize::MAX).unwrap();
    let chunks = &made.manifest.strands[0].chunks;
    let places: Vec<(u64, u64)> = chunks.iter().map(|it| (it.from.0, it.through.0)).collect();
    assert_eq!(places, [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
    // The copy that was stopped has left some of them.
    assert!(made.chunks_new <= 5 && made.bytes_new <= made.manifest.len_bytes());
    for chunk in chunks {
        let read = Bootstraps::new(to.clone()).chunk(PEER, chunk).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(Some(&read[0].1), store.snapshot().get(id(PEER, read[0].0.0)).unwrap().as_ref());
    }
    append_long(&store, 6..=6);
    let later = copy(&store, &to, 3, usize::MAX).unwrap();
    assert_eq!((later.chunks_new, later.manifest.strands[0].chunks.len()), (1, 6));
}

/// One of the threads that write meets a fault of the disk, while the others write on.
#[test]
fn a_chunk_that_cannot_be_written_ends_the_copy_with_its_error() {
    let folder = tempfile::tempdir().unwrap();
    let to: Arc<dyn Objects> = Arc::new(FolderObjects::new(folder.path()));
    let store = in_memory();
    append_long(&store, 1..=4);
    let made = copy(&store, &to, 1, usize::MAX).unwrap();
    let hash = made.manifest.strands[0].chunks[1].hash.to_string();
    let path = folder.path().join("chunks").join(&hash[..2]).join(&hash);
    fs::remove_file(&path).unwrap();
    // A file cannot take the place of a folder.
    fs::create_dir(&path).unwrap();
    let failed = copy(&store, &to, 2, usize::MAX);
    let is_of_chunk = matches!(&failed, Err(BootstrapError::Io { path: of, .. }) if *of == path);
    assert!(is_of_chunk, "{failed:?}");
    let copies = Bootstraps::new(to.clone());
    assert_eq!(copies.names().unwrap(), [made.name], "the earlier copy stays, and no part is one");
    fs::remove_dir(&path).unwrap();
    assert_eq!(copy(&store, &to, 3, usize::MAX).unwrap().chunks_new, 1);
}

/// Returns the names of all whole chunks of a place.
fn chunks_of(to: &Arc<dyn Objects>) -> BTreeSet<String> {
    let all = to.list("chunks").unwrap().into_iter().map(|it| it.name);
    all.filter(|name| !name.ends_with(".part")).collect()
}

/// Returns the names of the chunks that a copy lists.
fn listed(report: &BootstrapReport) -> BTreeSet<String> {
    let chunks = report.manifest.strands.iter().flat_map(|strand| &strand.chunks);
    let hashes = chunks.map(|chunk| chunk.hash.to_string());
    hashes.map(|hash| format!("chunks/{}/{hash}", &hash[..2])).collect()
}

/// Opens a store in a folder, on whose disk `free` bytes are free. Nothing is written below 1000.
fn store_with_room(root: &Path, free: &Arc<AtomicU64>) -> Store {
    let store = Store::open(&settings(&root.join("data"))).unwrap();
    let seen = Arc::clone(free);
    let free_bytes = Arc::new(move || Some(seen.load(Ordering::SeqCst)));
    store.keep_room(DiskReserveSettings { free_bytes_min: 1000, free_bytes });
    store
}

/// Otherwise they would keep the node from writing, although it had room before the copy.
#[test]
fn a_copy_that_stops_at_the_watermark_removes_the_chunks_that_it_has_added() {
    let root = tempfile::tempdir().unwrap();
    let to: Arc<dyn Objects> = Arc::new(FolderObjects::new(&root.path().join("copies")));
    let free = Arc::new(AtomicU64::new(2000));
    let store = store_with_room(root.path(), &free);
    append_long(&store, 1..=2);
    let earlier = copy(&store, &to, 1, usize::MAX).unwrap();
    append_long(&store, 3..=5);
    let mut read = 0;
    let refused = store.create_bootstrap(to.clone(), 2, &mut |_| {
        read += 1;
        if read == 4 {
            free.store(999, Ordering::SeqCst);
        }
        ControlFlow::Continue(())
    });
    let Err(error @ BootstrapError::NoRoom { .. }) = &refused else { panic!("{refused:?}") };
    assert!(!error.to_string().contains("stay"), "{error}");
    assert_eq!(read, 4, "two chunks of the earlier copy, and two that this one has added");
    assert_eq!(chunks_of(&to), listed(&earlier));
    free.store(2000, Ordering::SeqCst);
    let later = copy(&store, &to, 3, usize::MAX).unwrap();
    assert_eq!(later.chunks_new, 3);
    assert_eq!(chunks_of(&to), listed(&later));
}

/// Nodes of one machine may make copies in one folder, and the chunks of a strand are the same.
#[test]
fn a_copy_that_stops_at_the_watermark_keeps_the_chunks_that_another_one_may_name() {
    let root = tempfile::tempdir().unwrap();
    let to: Arc<dyn Objects> = Arc::new(FolderObjects::new(&root.path().join("copies")));
    let free = Arc::new(AtomicU64::new(2000));
    let (store, other) = (store_with_room(root.path(), &free), in_memory());
    append_long(&store, 1..=4);
    append_long(&other, 1..=2);
    let (mut read, mut whole) = (0, None);
    let refused = store.create_bootstrap(to.clone(), 1, &mut |_| {
        read += 1;
        if read == 3 {
            whole = Some(copy(&other, &to, 2, usize::MAX).unwrap());
            free.store(999, Ordering::SeqCst);
        }
        ControlFlow::Continue(())
    });
    let Err(error @ BootstrapError::NoRoom { .. }) = &refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("written stay"), "{error}");
    assert!(chunks_of(&to).is_superset(&listed(&whole.unwrap())));
}

/// A copy that has stopped at the watermark removes what it has added, also a chunk that this one found.
#[test]
fn a_copy_names_no_chunk_that_was_removed_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let to: Arc<dyn Objects> = Arc::new(FolderObjects::new(folder.path()));
    let store = in_memory();
    append_long(&store, 1..=2);
    let mut read = 0;
    let failed = store.create_bootstrap(to.clone(), 1, &mut |_| {
        read += 1;
        if read == 2 {
            // A list fails while a file gets its name.
            let whole = |name: &String| !name.ends_with(".part");
            let first = (0..60_000).find_map(|_| {
                thread::sleep(Duration::from_millis(1));
                to.list("chunks").ok()?.into_iter().map(|it| it.name).find(whole)
            });
            to.remove(&first.expect("a thread writes the first chunk")).unwrap();
        }
        ControlFlow::Continue(())
    });
    let is_missing = matches!(&failed, Err(BootstrapError::Missing { from, .. }) if from.0 == 1);
    assert!(is_missing, "{failed:?}");
    assert!(Bootstraps::new(to).names().unwrap().is_empty());
}

/// A command that said that there is no snapshot would hide that it is damaged.
#[test]
fn the_fault_of_the_newest_manifest_is_told_if_no_copy_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let to: Arc<dyn Objects> = Arc::new(FolderObjects::new(folder.path()));
    let store = in_memory();
    extend(&store, PEER, 3);
    copy(&store, &to, 1, usize::MAX).unwrap();
    let copies = Bootstraps::new(to);
    let (name, manifest) = copies.newest_of_all(10).unwrap();
    let path = folder.path().join(format!("snapshots/{name}.snapshot"));
    let bytes = fs::read_to_string(&path).unwrap().replacen("made=1", "made=2", 1);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    for error in
        [copies.newest_of_all(10).unwrap_err(), copies.newest(&manifest.network, 10).unwrap_err()]
    {
        let BootstrapError::Manifest { name: of, error: BootstrapManifestError::Damaged } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(*of, name);
    }
    fs::remove_file(&path).unwrap();
    let error = copies.newest_of_all(10).unwrap_err();
    assert!(matches!(error, BootstrapError::None { .. }), "{error}");
}

/// An operator who mistyped the network would look for a fault of the place.
#[test]
fn the_networks_of_a_place_are_named_if_the_wanted_one_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let to: Arc<dyn Objects> = Arc::new(FolderObjects::new(folder.path()));
    let store = in_memory();
    extend(&store, PEER, 3);
    copy(&store, &to, 1, usize::MAX).unwrap();
    let copies = Bootstraps::new(to);
    assert!(copies.newest("testnet", 10).is_ok());
    let error = copies.newest("mainnet", 10).unwrap_err();
    let BootstrapError::OtherNetworks { wanted, found, .. } = &error else { panic!("{error}") };
    assert_eq!((wanted.as_str(), &found[..]), ("mainnet", &["testnet".to_owned()][..]));
    assert!(error.to_string().ends_with("\"mainnet\" (--network), only of \"testnet\""), "{error}");
}
