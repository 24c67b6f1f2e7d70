//! Checkpoints that a running node shows: collected over runs, and only authentic ones.

use std::path::Path;

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::Checkpoint;
use hawser_rules::Registry;
use hawser_rules::misbehavior::TIME_LEAD_NS_MAX;
use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::RowAccessor as _;

use super::tests::{SETTINGS, shown_by_node};
use super::*;
use crate::replay::testing::{MemoryLog, NODE, WITNESS, checkpoint, key, record, settings};

/// Exports what a node shows, and returns the report.
fn run(log: &MemoryLog, folder: &Path) -> ExportReport {
    let named = settings().registry;
    let third = record(OriginatorId(300), key(3).public_key());
    let registry: Registry = named.nodes().cloned().chain([third]).collect();
    let judged = ExportSettings { registry: Some(&registry), ..SETTINGS };
    export(&shown_by_node(log), folder, judged, |_| ()).unwrap()
}

/// The sizes of the exported checkpoints, and the numbers of their cosignatures, in their order.
fn exported(folder: &Path, originator: OriginatorId) -> Vec<(i64, i64)> {
    let manifest = Manifest::read(folder).unwrap().unwrap();
    let rows = |part: &TallyPart| {
        assert!(part.file.is_some() && part.next.is_none());
        let name = format!("checkpoints/originator={originator}/day={:05}.parquet", part.day);
        let file = std::fs::File::open(folder.join(name)).unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        rows.into_iter().map(|row| (row.get_long(3).unwrap(), row.get_long(6).unwrap()))
    };
    manifest.checkpoints.iter().flat_map(rows).collect()
}

#[test]
fn each_run_adds_the_newest_checkpoint_and_keeps_the_earlier_ones() {
    let place = tempfile::tempdir().unwrap();
    let log = MemoryLog::honest(300);
    let with = |count: usize| {
        let mut log = log.clone();
        log.checkpoints.truncate(count);
        log
    };
    run(&with(4), place.path());
    assert_eq!(exported(place.path(), NODE), [(40, 1)]);
    assert_eq!(run(&with(4), place.path()).tally_files, 0, "nothing is new");
    run(&with(5), place.path());
    run(&log, place.path());
    assert_eq!(exported(place.path(), NODE), [(40, 1), (50, 1), (300, 1)]);
    assert_eq!(run(&log, place.path()).tally_files, 0);
    // Further cosignatures of the same checkpoint are added, and missing ones stay.
    let mut cosigned = log.clone();
    let last = cosigned.checkpoints.last_mut().unwrap();
    let of = last.signed.checkpoint;
    last.add_cosignature(of.cosign(OriginatorId(300), 1, &key(3)));
    run(&cosigned, place.path());
    assert_eq!(exported(place.path(), NODE), [(40, 1), (50, 1), (300, 2)]);
    run(&log, place.path());
    assert_eq!(exported(place.path(), NODE), [(40, 1), (50, 1), (300, 2)]);
    // Further or different ones take neither the place of those that are held nor the room of later ones.
    let mut others = log.clone();
    let last = others.checkpoints.last_mut().unwrap();
    last.cosignatures.clear();
    for unnamed in 0..300 {
        last.add_cosignature(of.cosign(OriginatorId(90_000 + unnamed), 1, &key(4)));
    }
    run(&others, place.path());
    assert_eq!(exported(place.path(), NODE), [(40, 1), (50, 1), (300, 2)]);
}

#[test]
fn a_checkpoint_with_a_forged_signature_or_a_future_time_is_left_out_and_named() {
    let log = MemoryLog::honest(60);
    let of = checkpoint(60, log.root).signed.checkpoint;
    let mut forged = log.clone();
    forged.checkpoints.last_mut().unwrap().signed = of.sign(&key(5));
    let mut cosigned = log.clone();
    let last = cosigned.checkpoints.last_mut().unwrap();
    last.add_cosignature(of.cosign(WITNESS, 1, &key(5)));
    let mut future = log.clone();
    let last = future.checkpoints.last_mut().unwrap();
    let time_ns = u64::try_from(SETTINGS.now_ns + TIME_LEAD_NS_MAX + 1).unwrap();
    last.signed = Checkpoint { time_ns, ..of }.sign(&key(1));
    last.cosignatures.clear();
    for lie in [forged, cosigned, future] {
        let place = tempfile::tempdir().unwrap();
        let mut earlier = log.clone();
        earlier.checkpoints.truncate(2);
        run(&earlier, place.path());
        let report = run(&lie, place.path());
        let named = report.notes.iter().any(|note| note.contains("a checkpoint of strand 100"));
        assert!(named, "{report:?}");
        assert_eq!(exported(place.path(), NODE), [(20, 1)]);
    }
}
