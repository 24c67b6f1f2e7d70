//! Power loss and wrong clocks, as the harness plays them to processes: the tests with nodes depend on it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use hawser_tests::harness::clock::WallClock;
use hawser_tests::harness::power::{Loss, SyncLog, contains, cut, written};

/// Synced bytes stay, bytes that were only written go, and a file whose name was never synced goes as a whole.
#[test]
fn only_what_was_synced_survives() {
    let folder = tempfile::tempdir().unwrap();
    let log = SyncLog::new(folder.path().join("syncs"));
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let writer = "
        printf 0123456789 > data/synced && sync data/synced
        printf abc >> data/synced
        printf 0123456789 > data/written
        sync data
        sleep 0.05
        printf 0123456789 > data/unnamed && sync data/unnamed
    ";
    let mut command = Command::new("sh");
    command.args(["-ec", writer]).current_dir(folder.path());
    log.watch(&mut command);
    assert!(command.status().unwrap().success());
    assert_eq!(log.len(), 3);
    assert_eq!(cut(&data, &log), Loss { bytes: 13, files: 1 });
    assert_eq!(fs::read(data.join("synced")).unwrap(), b"0123456789");
    assert_eq!(fs::read(data.join("written")).unwrap(), b"");
    assert!(!data.join("unnamed").exists());
}

#[test]
fn the_framing_of_a_write_ahead_log_is_taken_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("000001.log");
    let record = |kind: u8, content: &[u8]| {
        let len = u16::try_from(content.len()).unwrap().to_le_bytes();
        [&[1, 2, 3, 4], &len[..], &[kind], content].concat()
    };
    let first = record(2, &[7; 32 * 1024 - 7]);
    let second = record(4, &[8; 100]);
    fs::write(&path, [first, second].concat()).unwrap();
    let whole = written(&path, u64::MAX);
    assert_eq!(whole.len(), 32 * 1024 - 7 + 100);
    assert!(contains(&whole, &[[7; 50], [8; 50]].concat()));
    assert!(!contains(&written(&path, 32 * 1024), &[8]));
}

#[test]
fn a_process_sees_the_clock_that_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let clock = WallClock::new(folder.path().join("clock"));
    let year = || -> i32 {
        let mut command = Command::new("date");
        command.args(["--utc", "+%Y"]);
        clock.arm(&mut command);
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim().parse().unwrap()
    };
    let decades = Duration::from_secs(40 * 366 * 24 * 3600);
    let now = year();
    clock.set_ahead(decades);
    assert!(year() >= now + 40);
    clock.set_behind(decades);
    assert!(year() <= now - 39);
    clock.set_right();
    assert!(year() <= now + 1);
}
