//! Tests of exports: an export is the log, row for row, in any number of runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hawser_proto::envelope::UnsealedEnvelope;
use hawser_proto::merkle::TreeHash;
use hawser_proto::{Address, OriginatorId, SequenceId};
use hawser_rules::Registry;
use hawser_rules::fees::base_fee;
use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::{Field, RowAccessor as _};

use super::table::{TABLES, Table};
use super::*;
use crate::replay::testing::{MemoryLog, NODE, RATE, START_NS, draft, key, ns_of, settings};
use crate::replay::{GapReason, StoredMark, StrandRow, Usage};

/// Exports are made an hour after the logs begin.
pub(super) const SETTINGS: ExportSettings<'_> = ExportSettings {
    threads: 2,
    with_payers: true,
    registry: None,
    rates: None,
    now_ns: START_NS + 3_600_000_000_000,
};

pub(super) fn run(log: &MemoryLog, folder: &Path) -> Result<ExportReport, ExportError> {
    export(log, folder, SETTINGS, |_| ())
}

/// Returns the rows of all files of a strand.
fn rows(folder: &Path, originator: OriginatorId) -> Vec<ExportedRow> {
    let manifest = Manifest::read(folder).unwrap().unwrap();
    let parts = manifest.strand(originator).map_or(&[][..], |strand| &strand.parts);
    let read = |part: &LogPart| {
        let reader = PartReader::open(&log_path(folder, originator, part.from)).unwrap();
        reader.map(|row| row.unwrap().1.row).collect::<Vec<_>>()
    };
    parts.iter().flat_map(read).collect()
}

fn expected(log: &MemoryLog) -> Vec<ExportedRow> {
    log.rows.iter().cloned().map(ExportedRow::Row).collect()
}

/// Returns every file of a folder with its content, but the lock.
pub(super) fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(content(&path)),
            false if path.ends_with(".lock") => {}
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

#[test]
fn an_export_is_the_log_and_a_later_run_adds_only_what_is_new() {
    let place = tempfile::tempdir().unwrap();
    let log = MemoryLog::honest(1_300);
    let mut short = log.clone();
    (short.head, short.last_held) = (700, 700);
    let first = run(&short, place.path()).unwrap();
    assert_eq!((first.rows, first.parts), (700, 1));
    assert!(first.tally_files > 0, "{first:?}");
    let before = content(place.path());

    let second = run(&log, place.path()).unwrap();
    assert_eq!((second.rows, second.parts), (600, 1));
    assert_eq!(rows(place.path(), NODE), expected(&log));
    let part = log_path(place.path(), NODE, SequenceId(1));
    assert_eq!(content(place.path())[&part], before[&part]);

    let all = content(place.path());
    let third = run(&log, place.path()).unwrap();
    assert_eq!(third, ExportReport::default(), "nothing is new");
    assert_eq!(content(place.path()), all);
    assert!(all.keys().all(|path| !path.to_string_lossy().ends_with(".part")));
}

#[test]
fn gaps_and_leaves_keep_their_reasons_and_what_waits_is_left_to_a_later_run() {
    let place = tempfile::tempdir().unwrap();
    let mut log = MemoryLog::honest(40);
    let gap = |from, through, reason| StrandRow::Gap {
        from: SequenceId(from),
        through: SequenceId(through),
        reason,
    };
    let leaf = |at| StrandRow::Leaf { sequence: SequenceId(at), leaf: TreeHash([5; 32]) };
    let beside =
        [gap(11, 13, GapReason::Void), leaf(11), leaf(12), gap(14, 14, GapReason::Missing)];
    let tail = [gap(15, 16, GapReason::Expired), leaf(15)];
    drop(log.rows.splice(10..16, beside.into_iter().chain(tail)));
    // Row 30 has place 31 again.
    let StrandRow::Envelope { sequence: SequenceId(31), mark, .. } = &mut log.rows[30] else {
        panic!("another row")
    };
    *mark = StoredMark::Waiting;
    let report = run(&log, place.path()).unwrap();
    assert_eq!(report.rows, 30);
    assert!(report.notes[0].contains("31 waits"), "{report:?}");
    let head = || Manifest::read(place.path()).unwrap().unwrap().strand(NODE).unwrap().head;
    assert_eq!(head(), None, "no place up to the head is missing");
    let found = rows(place.path(), NODE);
    assert_eq!(found[11], ExportedRow::VoidLeaf(SequenceId(11), TreeHash([5; 32])));
    assert_eq!(found[15], ExportedRow::Leaf(SequenceId(15)));
    assert_eq!(found[13], ExportedRow::Row(gap(14, 14, GapReason::Missing)));
    log.rows[30] = MemoryLog::honest(40).rows[30].clone();
    assert_eq!(run(&log, place.path()).unwrap().rows, 10);
    assert_eq!(rows(place.path(), NODE).len(), 40);
    assert_eq!(head(), Some(SequenceId(40)));
    // An envelope behind the head is reported as long as the folder holds it, and has no row.
    let beyond = || {
        let manifest = Manifest::read(place.path()).unwrap().unwrap();
        manifest.strand(NODE).unwrap().beyond_head
    };
    for last_held in [40, 777, 777, 40] {
        log.last_held = last_held;
        assert_eq!(run(&log, place.path()).unwrap().rows, 0);
        assert_eq!(beyond(), Some(last_held).filter(|last| *last > 40).map(SequenceId));
    }
}

/// Sums of the columns of tallies, by payer.
type Sums = BTreeMap<(u32, String), (u64, i64, i64)>;

fn read(path: &Path) -> Vec<parquet::record::Row> {
    let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    reader.get_row_iter(None).unwrap().map(Result::unwrap).collect()
}

fn amount(row: &parquet::record::Row, at: usize) -> u64 {
    let Field::Decimal(amount) = row.get_column_iter().nth(at).unwrap().1 else { panic!("none") };
    assert_eq!((amount.precision(), amount.scale()), (20, 0));
    amount.data().iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

#[test]
fn the_tallies_follow_from_the_rows_of_the_log() {
    let place = tempfile::tempdir().unwrap();
    let log = MemoryLog::honest(900);
    run(&log, place.path()).unwrap();
    let manifest = Manifest::read(place.path()).unwrap().unwrap();
    let mut of_tallies = Sums::new();
    for part in &manifest.usage {
        let path = manifest::tally_path(place.path(), "usage", part.originator_id, part.day);
        for row in read(&path) {
            let minute = u32::try_from(row.get_long(1).unwrap()).unwrap();
            let payer = row.get_string(2).unwrap().clone();
            let sums = (amount(&row, 4), row.get_long(5).unwrap(), row.get_long(6).unwrap());
            assert!(of_tallies.insert((minute, payer), sums).is_none());
        }
    }
    let mut of_log = Sums::new();
    for row in read(&log_path(place.path(), NODE, SequenceId(1))) {
        assert!(row.get_bool(17).unwrap());
        let minute = u32::try_from(row.get_long(7).unwrap()).unwrap();
        let sums = of_log.entry((minute, row.get_string(10).unwrap().clone())).or_default();
        let fee = base_fee(&RATE, row.get_long(12).unwrap().try_into().unwrap(), 30).unwrap().0;
        assert_eq!((amount(&row, 13), row.get_long(15).unwrap()), (fee, 30));
        *sums = (
            sums.0 + amount(&row, 13) + amount(&row, 14),
            sums.1 + 1,
            sums.2 + row.get_long(11).unwrap(),
        );
    }
    assert_eq!(of_tallies, of_log);
    assert_eq!(of_log.len(), log.usage.len());
    let days: Vec<u32> = manifest.congestion.iter().map(|part| part.day).collect();
    let counted: i64 = days
        .iter()
        .flat_map(|day| read(&manifest::tally_path(place.path(), "congestion", NODE, *day)))
        .map(|row| row.get_long(2).unwrap())
        .sum();
    assert_eq!(counted, 900);
}

#[test]
fn corrected_tallies_replace_the_old_ones_and_lost_ones_leave_an_empty_day() {
    let place = tempfile::tempdir().unwrap();
    let mut log = MemoryLog::honest(100);
    run(&log, place.path()).unwrap();
    log.usage.values_mut().next().unwrap().picodollars.0 += 5;
    assert_eq!(run(&log, place.path()).unwrap().tally_files, 1);
    log.usage.insert((0, Address([1; 20])), Usage::default());
    log.congestion.clear();
    let report = run(&log, place.path()).unwrap();
    assert_eq!((report.rows, report.tally_files), (0, 2));
    let manifest = Manifest::read(place.path()).unwrap().unwrap();
    let rows = |part: &TallyPart| part.file.as_ref().unwrap().rows;
    assert_eq!(manifest.congestion.iter().map(rows).sum::<u64>(), 0);
    assert_eq!(manifest.usage.iter().map(rows).sum::<u64>(), log.usage.len() as u64);
    manifest.verify_files(place.path()).unwrap();
}

#[test]
fn a_run_that_was_interrupted_is_gone_on_with() {
    let place = tempfile::tempdir().unwrap();
    let mut log = MemoryLog::honest(200);
    (log.head, log.last_held) = (100, 100);
    run(&log, place.path()).unwrap();
    let before = Manifest::read(place.path()).unwrap().unwrap();
    (log.head, log.last_held) = (200, 200);
    log.usage.values_mut().next().unwrap().picodollars.0 += 5;
    run(&log, place.path()).unwrap();
    let after = Manifest::read(place.path()).unwrap().unwrap();

    // Interrupted before the manifest named the second file, and while one of the tallies was replaced.
    let mut between = before.clone();
    for (old, new) in between.usage.iter_mut().zip(&after.usage) {
        old.next = new.file.clone();
    }
    between.write(place.path()).unwrap();
    fs::write(place.path().join("log/originator=100/.noise.part"), "half").unwrap();
    run(&log, place.path()).unwrap();
    assert_eq!(Manifest::read(place.path()).unwrap().unwrap(), after);
    assert_eq!(rows(place.path(), NODE).len(), 200);
}

#[test]
fn a_pruned_place_keeps_what_its_keeper_has_recorded() {
    let place = tempfile::tempdir().unwrap();
    let mut log = MemoryLog::honest(20);
    log.prune(7);
    run(&log, place.path()).unwrap();
    let (originator_ns, retention_days) = (Some(ns_of(7)), Some(30));
    let pruned = ExportedRow::Pruned { sequence: SequenceId(7), originator_ns, retention_days };
    let found = rows(place.path(), NODE);
    assert_eq!((found.len(), &found[6]), (20, &pruned));
    assert_eq!(found[7], expected(&log)[7]);
}

/// Returns the log as the API of its node shows it.
pub(super) fn shown_by_node(log: &MemoryLog) -> MemoryLog {
    let mut shown = MemoryLog { is_node: true, ..log.clone() };
    shown.rows.retain(|row| matches!(row, StrandRow::Envelope { mark: StoredMark::Valid, .. }));
    for row in &mut shown.rows {
        let StrandRow::Envelope { mark, leaf, .. } = row else { panic!("another row") };
        (*mark, *leaf) = (StoredMark::Unknown, None);
    }
    shown
}

#[test]
fn a_node_gives_the_rows_of_its_folder_and_a_gap_where_it_shows_none() {
    let registry = settings().registry;
    let judged = ExportSettings { registry: Some(&registry), ..SETTINGS };
    let mut log = MemoryLog::honest(40);
    for at in [11, 12] {
        *log.row_at(at).0 = StoredMark::Invalid(4);
    }
    let (of_folder, of_node) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = export(&log, of_folder.path(), judged, |_| ()).unwrap();
    let shown = export(&shown_by_node(&log), of_node.path(), judged, |_| ()).unwrap();
    assert_eq!((whole.rows, shown.rows), (40, 39));
    let signed_by = key(1).public_key().to_string();
    assert_eq!(whole.judged, BTreeMap::from([(NODE, signed_by.clone())]));
    // Its checkpoints; it shows no tallies.
    assert_eq!((shown.judged, shown.tally_files), (whole.judged, 1));
    assert!(shown.notes[0].starts_with("tallies"), "{:?}", shown.notes);
    let (from, through, reason) = (SequenceId(11), SequenceId(12), GapReason::NotShown);
    let gap = ExportedRow::Row(StrandRow::Gap { from, through, reason });
    assert_eq!(rows(of_node.path(), NODE)[10], gap);
    let columns_of = |folder: &Path| {
        let manifest = Manifest::read(folder).unwrap().unwrap();
        let part = &manifest.strand(NODE).unwrap().parts[0];
        assert_eq!(part.judged_by.as_ref(), Some(&signed_by));
        let found = cells(&log_path(folder, NODE, SequenceId(1)));
        let shown = found.iter().filter(|row| !(11..=12).contains(&row.get_long(1).unwrap()));
        let of = |row: &parquet::record::Row| {
            let columns = row.get_column_iter();
            let columns =
                columns.filter(|(name, _)| !["mark", "leaf_hash"].contains(&name.as_str()));
            columns.map(|(_, field)| field.clone()).collect::<Vec<Field>>()
        };
        shown.map(of).collect::<Vec<_>>()
    };
    assert_eq!(columns_of(of_node.path()), columns_of(of_folder.path()));
    assert_eq!(columns_of(of_node.path()).len(), 38);
    let again = export(&shown_by_node(&log), of_node.path(), judged, |_| ()).unwrap();
    assert_eq!((again.rows, again.judged.len()), (0, 0));
}

#[test]
fn what_the_keys_refuse_is_named_and_not_exported() {
    let registry = settings().registry;
    let judged = ExportSettings { registry: Some(&registry), ..SETTINGS };
    let log = MemoryLog::honest(20);
    let refused = |lie: &dyn Fn(&mut MemoryLog)| {
        let mut folder = log.clone();
        lie(&mut folder);
        let texts = [shown_by_node(&folder), folder].map(|source| {
            let place = tempfile::tempdir().unwrap();
            let error = export(&source, place.path(), judged, |_| ()).unwrap_err();
            assert!(!log_path(place.path(), NODE, SequenceId(1)).exists(), "{error}");
            error.to_string()
        });
        assert_eq!(texts[0], texts[1]);
        texts[0].clone()
    };
    let forged = refused(&|log| {
        let statement = draft(7, ns_of(7)).statement;
        *log.bytes_at(7) = UnsealedEnvelope::new(&statement).seal(&key(9));
    });
    assert!(forged.starts_with("100:7: forged: signed by 0x"), "{forged}");
    let moved = refused(&|log| *log.bytes_at(7) = log.bytes_at(8).clone());
    assert!(moved.starts_with("100:7: wrong_place: "), "{moved}");
    let noise = refused(&|log| *log.bytes_at(7) = "noise".into());
    assert!(noise.starts_with("100:7: not_canonical: "), "{noise}");

    // Rows that go back, which only a node can give; and a strand whose key is not known.
    let place = tempfile::tempdir().unwrap();
    let mut back = shown_by_node(&log);
    back.rows.swap(6, 7);
    let error = export(&back, place.path(), judged, |_| ()).unwrap_err();
    assert!(error.to_string().contains("place 7 came after 8"), "{error}");
    let nameless = Registry::default();
    for registry in [None, Some(&nameless)] {
        let unjudged = ExportSettings { registry, ..SETTINGS };
        let report = export(&shown_by_node(&log), place.path(), unjudged, |_| ()).unwrap();
        assert_eq!(report.rows, 0);
        assert!(report.notes[0].starts_with("strand 100: the registry"), "{report:?}");
    }
    let unnamed = ExportSettings { registry: Some(&nameless), ..SETTINGS };
    let report = export(&log, place.path(), unnamed, |_| ()).unwrap();
    assert_eq!((report.rows, report.judged.len(), report.unchecked.len()), (20, 0, 1));
}

/// Rows of a file, as maps of columns.
fn cells(path: &Path) -> Vec<parquet::record::Row> {
    let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    reader.get_row_iter(None).unwrap().map(Result::unwrap).collect()
}

#[test]
fn checkpoints_and_rates_stand_beside_the_log_and_are_replaced_when_they_grow() {
    let place = tempfile::tempdir().unwrap();
    let log = MemoryLog::honest(300);
    let mut early = log.clone();
    early.checkpoints.truncate(10);
    run(&early, place.path()).unwrap();
    let manifest = |folder: &Path| Manifest::read(folder).unwrap().unwrap();
    let rows =
        |parts: &[TallyPart]| parts.iter().map(|it| it.file.as_ref().unwrap().rows).sum::<u64>();
    assert_eq!(rows(&manifest(place.path()).checkpoints), 10);
    run(&log, place.path()).unwrap();
    let manifest = manifest(place.path());
    assert_eq!(rows(&manifest.checkpoints), log.checkpoints.len() as u64);
    assert_eq!(rows(&manifest.rates), log.rates.len() as u64);
    let day = manifest.checkpoints[0].day;
    let path = place.path().join(format!("checkpoints/originator={}/day={day:05}.parquet", NODE.0));
    let found = cells(&path);
    for (row, checkpoint) in found.iter().zip(&log.checkpoints) {
        let of = checkpoint.signed.checkpoint;
        assert_eq!(row.get_long(2).unwrap(), i64::from(of.node.0));
        assert_eq!(row.get_long(3).unwrap(), i64::try_from(of.size).unwrap());
        assert_eq!(row.get_bytes(5).unwrap().data(), of.root.0);
        assert_eq!(row.get_bytes(8).unwrap().data(), checkpoint.encode());
    }
    // One that is not the one that was written is found before anything is changed.
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(run(&log, place.path()), Err(ExportError::Malformed { .. })));
}

#[test]
fn the_documentation_lists_every_column() {
    let page = fs::read_to_string("../docs/audit-export.md").unwrap();
    for table in TABLES {
        let Table { name, columns, .. } = table;
        let part =
            page.split(&format!("## The table `{name}`")).nth(1).expect("a part of the page");
        let part = part.split("\n## ").next().unwrap();
        let row = |line: &str| {
            Some(line.strip_prefix("| `")?.split(" | ").take(3).collect::<Vec<_>>().join(" "))
        };
        let documented: Vec<String> = part.lines().filter_map(row).collect();
        let of = |column: &super::table::Column| {
            let needed = if column.is_required { "yes" } else { "no" };
            format!("{}` {} {needed}", column.name, column.kind.name())
        };
        assert_eq!(documented, columns.iter().map(of).collect::<Vec<_>>(), "{name}");
    }
}
