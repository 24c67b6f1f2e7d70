//! Tallies of a source that has none are those that its folder would have.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::{PicoDollarPrice, Rate};

use super::record::{RecordKind, describe};
use super::table::{LogColumn, Value};
use super::tests::{SETTINGS, content, shown_by_node};
use super::*;
use crate::replay::odd_tests::logs;
use crate::replay::testing::{MemoryLog, NODE, RATE, draft, ns_of, settings};
use crate::replay::{StoredMark, StrandRow};

/// Returns the files of the two tables of tallies, by their names.
fn tallies(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = content(folder).into_iter();
    let names = all.map(|(path, bytes)| (path.strip_prefix(folder).unwrap().to_owned(), bytes));
    names.filter(|(name, _)| name.starts_with("usage") || name.starts_with("congestion")).collect()
}

fn noted(folder: &Path) -> StrandTallies {
    Manifest::read(folder).unwrap().unwrap().tallies_of(NODE)
}

#[test]
fn a_node_gives_the_tallies_of_its_folder_in_whatever_number_of_runs() {
    let place = tempfile::tempdir().unwrap();
    let [of_folder, of_node, stale] =
        ["of-folder", "of-node", "stale"].map(|name| place.path().join(name));
    let settings = settings();
    let rates = settings.rates.as_ref();
    let judged = ExportSettings { registry: Some(&settings.registry), rates, ..SETTINGS };
    // Two days.
    let mut log = MemoryLog::of(
        (1..=14_000).map(|at| (draft(at, ns_of(at)).seal(), StoredMark::Valid)).collect(),
    );
    let honest = log.clone();
    for at in [11, 12] {
        // Not charged: neither the folder nor the node counts them.
        *log.row_at(at).0 = StoredMark::Invalid(3);
    }
    let mut envelopes = Vec::new();
    for row in &log.rows {
        let StrandRow::Envelope { bytes, mark, .. } = row else { panic!("another row") };
        envelopes.push((bytes.clone(), *mark));
    }
    let log = MemoryLog { checkpoints: honest.checkpoints, ..MemoryLog::of(envelopes) };
    export(&log, &of_folder, SETTINGS, |_| ()).unwrap();
    assert_eq!(
        (noted(&of_folder).origin, noted(&of_folder).through),
        (TallyOrigin::Stored, SequenceId(14_000))
    );
    let expected = tallies(&of_folder);
    assert!(expected.len() >= 4, "{:?}", expected.keys());

    let mut shown = shown_by_node(&log);
    shown.head = 9_000;
    export(&shown, &of_node, judged, |_| ()).unwrap();
    assert_eq!(noted(&of_node).through, SequenceId(9_000));
    assert_ne!(tallies(&of_node), expected);
    shown.head = 14_000;
    let report = export(&shown, &of_node, judged, |_| ()).unwrap();
    assert!(report.tally_files > 0, "{report:?}");
    assert_eq!(tallies(&of_node), expected);
    let StrandTallies { origin, through, not_shown, rates, missing, .. } = noted(&of_node);
    assert_eq!((origin, through, not_shown), (TallyOrigin::Derived, SequenceId(14_000), 2));
    assert_eq!((rates.is_some(), missing), (true, None));
    let again = export(&shown, &of_node, judged, |_| ()).unwrap();
    assert_eq!((again.rows, again.tally_files), (0, 0));

    // A folder whose tallies have to be rebuilt has rates of its own, and records of pruned places.
    let mut none = log.clone();
    none.has_tallies = false;
    none.prune(30);
    export(&none, &stale, SETTINGS, |_| ()).unwrap();
    assert_eq!(noted(&stale).origin, TallyOrigin::Derived);
    assert_eq!(tallies(&stale), expected);
}

#[test]
fn tallies_without_rates_are_none_and_other_rates_make_others() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings();
    let without = ExportSettings { registry: Some(&settings.registry), ..SETTINGS };
    let shown = shown_by_node(&MemoryLog::honest(100));
    let report = export(&shown, place.path(), without, |_| ()).unwrap();
    assert!(report.notes[0].contains("--rates"), "{report:?}");
    let StrandTallies { origin, missing, .. } = noted(place.path());
    assert_eq!((origin, missing.is_some()), (TallyOrigin::None, true));
    assert!(tallies(place.path()).is_empty());
    let with = |rate| {
        let rates = hawser_rules::RateTable::new(vec![rate], None).unwrap();
        let with = ExportSettings { rates: Some(&rates), ..without };
        export(&shown, place.path(), with, |_| ()).unwrap();
        tallies(place.path())
    };
    let first = with(RATE);
    let expensive = with(Rate { message_fee: PicoDollarPrice(RATE.message_fee.0 + 1), ..RATE });
    assert_ne!(first, expensive);
    // A run without rates leaves the tallies and the rates that give them, and reports this.
    let path = manifest::tally_path(place.path(), "rates", OriginatorId(0), 0);
    let rates = fs::read(&path).unwrap();
    let report = export(&shown, place.path(), without, |_| ()).unwrap();
    assert!(report.notes[0].contains("the places to 100 are left"), "{report:?}");
    assert_eq!(tallies(place.path()), expensive);
    assert_eq!(fs::read(&path).unwrap(), rates);
    assert_eq!(with(RATE), first);
    assert_eq!(noted(place.path()).missing, None);
}

#[test]
fn an_interrupted_run_derives_its_tallies_again() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings();
    let rates = settings.rates.as_ref();
    let judged = ExportSettings { registry: Some(&settings.registry), rates, ..SETTINGS };
    let mut shown = shown_by_node(&MemoryLog::honest(200));
    shown.head = 100;
    export(&shown, place.path(), judged, |_| ()).unwrap();
    let old = tallies(place.path());
    let before = Manifest::read(place.path()).unwrap().unwrap();
    shown.head = 200;
    export(&shown, place.path(), judged, |_| ()).unwrap();
    let after = Manifest::read(place.path()).unwrap().unwrap();
    // The log is there and named, and no file of tallies has its name yet.
    let mut between = after.clone();
    for (table, (name, parts)) in between.tables_mut().into_iter().enumerate() {
        for (part, was) in parts.iter_mut().zip(before.tables()[table].1) {
            (part.next, part.file) = (part.file.take(), was.file.clone());
            let path = manifest::tally_path(place.path(), name, part.originator_id, part.day);
            let name = path.strip_prefix(place.path()).unwrap();
            old.get(name).into_iter().for_each(|bytes| fs::write(&path, bytes).unwrap());
        }
    }
    between.tallies = before.tallies.clone();
    between.write(place.path()).unwrap();
    export(&shown, place.path(), judged, |_| ()).unwrap();
    assert_eq!(Manifest::read(place.path()).unwrap().unwrap(), after);
}

/// A node of other software shows such envelopes like any others.
#[test]
fn what_only_other_software_decodes_is_charged_in_each_table_and_has_no_topic() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings();
    let rates = settings.rates.as_ref();
    let judged = ExportSettings { registry: Some(&settings.registry), rates, ..SETTINGS };
    let [plain, odd] = logs();
    let of = |name: &str, log: &MemoryLog, settings| {
        let to = place.path().join(name);
        export(log, &to, settings, |_| ()).unwrap();
        tallies(&to)
    };
    let expected = of("plain", &plain, SETTINGS);
    assert!(!expected.is_empty());
    let stale = MemoryLog { has_tallies: false, ..odd.clone() };
    assert_eq!(of("stale", &stale, SETTINGS), expected);
    let mut shown = MemoryLog { is_node: true, ..odd.clone() };
    for row in &mut shown.rows {
        let StrandRow::Envelope { mark, leaf, .. } = row else { panic!("another row") };
        (*mark, *leaf) = (StoredMark::Unknown, None);
    }
    assert_eq!(of("shown", &shown, judged), expected);

    let described = |log: &MemoryLog| describe(NODE, true, log.rows.clone()).into_iter();
    let mut odd_rows = 0;
    for (plain, odd) in described(&plain).zip(described(&odd)) {
        for column in [
            LogColumn::Payer,
            LogColumn::LenBytes,
            LogColumn::PayerLenBytes,
            LogColumn::BaseFee,
            LogColumn::RetentionDays,
            LogColumn::IsCharged,
            LogColumn::CountsForCongestion,
        ] {
            let [plain, odd] = [&plain, &odd].map(|row| &row.values[column as usize]);
            assert_eq!(plain, odd, "{column:?}");
        }
        assert_eq!(odd.values[LogColumn::IsCharged as usize], Value::Flag(true));
        let topic = &odd.values[LogColumn::Topic as usize];
        let is_odd = odd.kind == RecordKind::Envelope(StoredMark::Invalid(1));
        assert_eq!(*topic == Value::Null, is_odd, "{topic:?}");
        odd_rows += usize::from(is_odd);
    }
    assert_eq!(odd_rows, 7);
}
