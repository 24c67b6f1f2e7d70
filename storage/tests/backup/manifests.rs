//! Manifests that are damaged, or that lie, are refused.

use std::fs;
use std::ops::ControlFlow;

use hawser_storage::{BackupError, ManifestError, ReadManifest, WantedBackup};
use proptest::prelude::*;

use super::NOW_UNIX_S;
use super::place::{Place, ended, lines_of};
use crate::support::price;

#[test]
fn a_manifest_with_a_flipped_bit_is_refused() {
    let place = Place::new();
    let backup = place.back_up(&place.with_strands(), 1);
    let path = place.manifest(&backup.name);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 7);
        assert!(ReadManifest::decode(&flipped).is_err(), "byte {at}");
        assert!(ReadManifest::decode(&whole[..at]).is_err(), "cut at {at}");
    }
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    let error = place.restore(&backup.name, "restored").unwrap_err();
    assert!(matches!(error, BackupError::Manifest { .. }), "{error}");
    // A list shows the manifest with its fault, and nothing is removed while a manifest cannot be read.
    assert_eq!(place.backups().names().unwrap(), std::slice::from_ref(&backup.name));
    assert!(place.backups().manifest(&backup.name).is_err());
    assert!(place.backups().prune(1, NOW_UNIX_S).is_err());
    let missing = place.restore("000000000001-0000000000000000", "restored").unwrap_err();
    assert!(matches!(missing, BackupError::NoBackup { .. }), "{missing}");
    let outside = place.restore("../manifests/x", "restored").unwrap_err();
    assert!(matches!(outside, BackupError::NoBackup { .. }), "{outside}");
}

#[test]
fn a_lying_manifest_is_refused_by_name_and_takes_no_memory() {
    let place = Place::new();
    let backup = place.back_up(&place.with_strands(), 1);
    let honest = lines_of(&place, &backup.name);
    let unsigned = WantedBackup { unsigned: true, ..WantedBackup::default() };
    let first_file = honest.iter().position(|line| line.starts_with("file=")).unwrap();
    let hash = "0".repeat(64);
    let with = |line: String| {
        let mut lines = honest.clone();
        lines[first_file] = line;
        lines
    };
    let file = |name: &str, len: &str| with(format!("file={name} {len} {hash}"));
    let mut twice = honest.clone();
    twice.insert(first_file, honest[first_file].clone());
    let mut many = honest.clone();
    many.splice(
        first_file..first_file,
        (0..100_001).map(|number| format!("file={number:06}.sst 1 {hash}")),
    );
    let replaced = |from: &str, to: &str| {
        honest.iter().map(|line| line.replacen(from, to, 1)).collect::<Vec<_>>()
    };
    let cases: Vec<(Vec<String>, &str)> = vec![
        (file("000001.sst", &(1u64 << 60).to_string()), "more than 1099511627776 bytes"),
        (file("000001.sst", &"9".repeat(30)), "a file's name, its length and its hash"),
        (file("000001.sst", "+1"), "in its only form"),
        (file("000001.sst", "01"), "in its only form"),
        (file("../x", "1"), "names a file that no database has"),
        (file("/etc/passwd", "1"), "names a file that no database has"),
        (file("a/000001.sst", "1"), "names a file that no database has"),
        (file("..", "1"), "names a file that no database has"),
        (file("", "1"), "names a file that no database has"),
        (file("MANIFEST-", "1"), "names a file that no database has"),
        (file(".sst", "1"), "names a file that no database has"),
        (file("000001.sst\0", "1"), "names a file that no database has"),
        (file("LOCK", "1"), "names a file that no database has"),
        (twice, "repeats a name"),
        (many, "more than 100000 files"),
        (with("strand=100 7 0 none extra".to_owned()), "line"),
        (replaced("file=CURRENT", "file=000000.sst"), ""),
        (replaced("hawser backup 1", "hawser backup 2"), "another version"),
        (replaced("hawser backup 1", "something else"), "not the manifest"),
        (replaced("signature=none", "signature=00"), "a signature"),
        (replaced("key=04", "key=05"), "the node's key"),
        (replaced("node=100", "node=4294967296"), "the node's id"),
        (Vec::new(), "not the manifest"),
    ];
    for (lines, wanted) in cases {
        let name = place.forge(&lines);
        let error = place.restore_wanted(&name, &unsigned, "restored").unwrap_err().to_string();
        let shown: String = lines.concat().chars().take(80).collect();
        assert!(error.contains(wanted), "{shown}: {error}");
        place.assert_nothing_at("restored");
    }
    // A million bytes more than any manifest are not read.
    let name = place.forge(&[]);
    fs::File::create(place.manifest(&name)).unwrap().set_len(1 << 40).unwrap();
    let error = place.restore_wanted(&name, &unsigned, "restored").unwrap_err();
    assert!(
        matches!(error, BackupError::Manifest { error: ManifestError::TooLong, .. }),
        "{error}"
    );
}

/// One file on a disk of the keeper would fill any disk of a reader.
#[test]
fn a_manifest_that_lists_one_file_ten_thousand_times_fills_no_disk() {
    let place = Place::new();
    let backup = place.back_up(&place.with_strands(), 1);
    let mut lines = lines_of(&place, &backup.name);
    lines.retain(|line| !line.starts_with("file=0"));
    let (hash, len_bytes) = ("0".repeat(64), 1_u64 << 40);
    let first_file = lines.iter().position(|line| line.starts_with("file=")).unwrap();
    let copies = (0..10_000).map(|number| format!("file={number:06}.sst {len_bytes} {hash}"));
    lines.splice(first_file..first_file, copies);
    let name = place.forge(&lines);
    let object = place.path("backups/files/00");
    fs::create_dir_all(&object).unwrap();
    fs::File::create(object.join(&hash)).unwrap().set_len(len_bytes).unwrap();

    let unsigned = WantedBackup { unsigned: true, ..WantedBackup::default() };
    let stop = &mut |_| ControlFlow::Break(());
    let (backups, target) = (place.backups(), place.path("restored"));
    let refused = backups.restore(&name, &unsigned, &target, price, stop).unwrap_err();
    assert!(matches!(refused, BackupError::NoDiskRoom { .. }), "{refused}");
    place.assert_nothing_at("restored");
    fs::create_dir(&target).unwrap();
    let refused = backups.fetch(&name, &target, stop).unwrap_err();
    assert!(matches!(refused, BackupError::NoDiskRoom { .. }), "{refused}");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn a_manifest_that_states_other_heads_than_the_database_has_is_refused() {
    let place = Place::new();
    let backup = place.back_up(&place.with_strands(), 1);
    let honest = lines_of(&place, &backup.name);
    let unsigned = WantedBackup { unsigned: true, ..WantedBackup::default() };
    let name = place.forge(&honest);
    place.restore_wanted(&name, &unsigned, "honest").unwrap();
    for (from, to, what) in [
        ("strand=100 20 ", "strand=100 21 ", "strand 100"),
        ("network=testnet", "network=mainnet", "network"),
    ] {
        let lines: Vec<_> = honest.iter().map(|line| line.replacen(from, to, 1)).collect();
        assert_ne!(lines, honest);
        let name = place.forge(&lines);
        let error = place.restore_wanted(&name, &unsigned, "restored").unwrap_err();
        assert!(
            matches!(&error, BackupError::Differs { what: it } if it.contains(what)),
            "{error}"
        );
        place.assert_nothing_at("restored");
    }
    let lines: Vec<_> =
        honest.iter().filter(|line| !line.starts_with("strand=200")).cloned().collect();
    let error = place.restore_wanted(&place.forge(&lines), &unsigned, "restored").unwrap_err();
    assert!(matches!(error, BackupError::Differs { .. }), "{error}");
}

proptest! {
    #[test]
    fn bytes_that_are_no_manifest_are_refused_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        lines in proptest::collection::vec("(network|node|key|made|strand|file|signature)=[ -~]{0,40}", 0..12),
    ) {
        prop_assert!(ReadManifest::decode(&bytes).is_err());
        let mut text = vec!["hawser backup 1".to_owned()];
        text.extend(lines);
        prop_assert!(ReadManifest::decode(&ended(&text)).is_err());
    }
}
