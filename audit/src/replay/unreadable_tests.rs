//! Rows that cannot be read end the audit of their strand. The tallies of what stands behind them are no faults.

use super::testing::{MemoryLog, settings};
use super::tests::{named, replay};
use super::*;

/// The folder keeps the tallies of minutes whose envelopes it cannot read.
#[test]
fn rows_that_cannot_be_read_are_named_and_nothing_behind_them() {
    let (whole, settings) = (MemoryLog::honest(1_300), settings());
    for from in [1, 2, 300, 513, 1_300] {
        let damaged = MemoryLog { unreadable_from: Some(from), ..whole.clone() };
        let mut first = Replay::new(&damaged, &settings, None).unwrap();
        let report = first.run(|_, _| true).unwrap().expect("nothing pauses it");
        assert_eq!(named(&report), [(FaultKind::Unreadable, from, None)]);
        assert_eq!((report.verdict(), report.strands[0].reached.0), ("faulty", from - 1));
        // A later run begins the strand again.
        let state = first.state().clone();
        let mut second = Replay::new(&whole, &settings, Some(state)).unwrap();
        let report = second.run(|_, _| true).unwrap().expect("nothing pauses it");
        assert_eq!((named(&report), report.strands[0].reached.0), (vec![], 1_300), "{from}");
    }
}

#[test]
fn wrong_tallies_before_rows_that_cannot_be_read_are_still_named() {
    let mut log = MemoryLog::honest(500);
    log.usage.values_mut().next().unwrap().picodollars.0 -= 1;
    log.unreadable_from = Some(300);
    let kinds = named(&replay(&log, &settings())).into_iter().map(|(kind, ..)| kind);
    let mut kinds: Vec<_> = kinds.collect();
    kinds.sort_unstable();
    let mut expected = [FaultKind::Unreadable, FaultKind::Usage];
    expected.sort_unstable();
    assert_eq!(kinds, expected);
}

#[test]
fn a_tree_that_cannot_be_read_is_named() {
    let log = MemoryLog { has_unreadable_tree: true, ..MemoryLog::honest(50) };
    assert_eq!(named(&replay(&log, &settings())), [(FaultKind::Unreadable, 51, None)]);
}
