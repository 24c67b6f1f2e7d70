//! Compares the projections of a stopped node with a rebuild from its log.

use std::path::Path;

use hawser_engine::facts;
use hawser_storage::Store;

use super::files;

/// Compares every projection of a stopped node, by digest, with a rebuild from its log. Works on a copy, so that the
/// node itself recovers from a crash later.
///
/// # Panics
/// Panics if a projection differs, or the log is empty.
pub fn assert_equal_a_rebuild(data_dir: &Path) {
    let copy = tempfile::tempdir().unwrap();
    files::copy_folder(data_dir, copy.path());
    let (store, identity) = Store::open_existing(copy.path(), hawser_engine::price::price).unwrap();
    assert_eq!(store.stale_projections(), [""; 0]);
    let stored = store.snapshot().projection_digests().unwrap();
    let derive = |_, bytes: &_, validity| facts::of_stored(bytes, validity, identity.node);
    let report = store.rebuild(&derive, &mut |_| {}).unwrap();
    assert!(report.projected > 0, "there was nothing to compare");
    assert_eq!(store.snapshot().projection_digests().unwrap(), stored);
}
