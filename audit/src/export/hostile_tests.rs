//! Damaged files, manifests that lie and links in the way are refused, and nothing is overwritten.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hawser_proto::{OriginatorId, SequenceId};
use parquet::file::metadata::KeyValue;
use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::writer::SerializedFileWriter;

use super::part::GROUP_ROWS;
use super::read::check_group;
use super::record::describe;
use super::table::{LOG, RowGroup};
use super::tests::{content, run};
use super::*;
use crate::replay::testing::{MemoryLog, NODE};
use crate::replay::{GapReason, StrandRow};

#[test]
fn damage_is_refused_and_nothing_is_overwritten() {
    let place = tempfile::tempdir().unwrap();
    let mut log = MemoryLog::honest(120);
    (log.head, log.last_held) = (60, 60);
    run(&log, place.path()).unwrap();
    (log.head, log.last_held) = (120, 120);
    let sound = content(place.path());
    for (path, bytes) in &sound {
        for at in [0, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            if path.ends_with("manifest.json") && damaged[at].is_ascii_whitespace() {
                continue;
            }
            fs::write(path, &damaged).unwrap();
            let before = content(place.path());
            let error = run(&log, place.path()).unwrap_err();
            assert!(
                matches!(error, ExportError::Malformed { .. } | ExportError::Io { .. }),
                "{error}"
            );
            assert_eq!(content(place.path()), before, "{path:?} at {at}");
        }
        fs::remove_file(path).unwrap();
        let error = run(&log, place.path()).unwrap_err();
        let is_manifest = path.ends_with("manifest.json");
        assert_eq!(matches!(error, ExportError::NotAnExport(_)), is_manifest, "{error}");
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(run(&log, place.path()).unwrap().rows, 60);
}

#[test]
fn a_manifest_that_lies_is_refused_though_its_digest_is_right() {
    let place = tempfile::tempdir().unwrap();
    let log = MemoryLog::honest(60);
    run(&log, place.path()).unwrap();
    let honest = Manifest::read(place.path()).unwrap().unwrap();
    let refused = |lie: &dyn Fn(&mut Manifest)| {
        let mut manifest = honest.clone();
        lie(&mut manifest);
        manifest.write(place.path()).unwrap();
        run(&log, place.path()).unwrap_err().to_string()
    };
    let other = refused(&|it| it.network = "mainnet".to_owned());
    assert!(other.contains("another log"), "{other}");
    let other = refused(&|it| it.log = "00".to_owned());
    assert!(other.contains("another log"), "{other}");
    for lie in [
        &(|it: &mut Manifest| it.strands[0].parts[0].from = SequenceId::NONE)
            as &dyn Fn(&mut Manifest),
        &|it: &mut Manifest| it.strands[0].parts[0].through = SequenceId(u64::MAX),
        &|it: &mut Manifest| {
            let again = it.strands[0].clone();
            it.strands.push(again);
        },
        &|it: &mut Manifest| {
            let again = it.usage[0].clone();
            it.usage.push(again);
        },
        &|it: &mut Manifest| it.usage[0].day += 1,
        &|it: &mut Manifest| it.strands[0].originator_id = OriginatorId(7),
    ] {
        let before = content(place.path());
        refused(lie);
        assert_eq!(content(place.path()).len(), before.len());
    }
    let ahead = refused(&|it| it.strands[0].parts[0].through = SequenceId(61));
    assert!(ahead.contains("the log has places to 60"), "{ahead}");

    // The log was restored, and has another envelope where the export ends.
    honest.write(place.path()).unwrap();
    let mut restored = log.clone();
    *restored.bytes_at(60) = restored.bytes_at(59).clone();
    let error = run(&restored, place.path()).unwrap_err();
    assert!(matches!(error, ExportError::OtherStrand { .. }), "{error}");

    let busy = fs::File::create(place.path().join(".lock")).unwrap();
    busy.lock().unwrap();
    assert!(matches!(run(&log, place.path()), Err(ExportError::Busy(_))));

    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("thesis.txt"), "mine").unwrap();
    assert!(matches!(run(&log, elsewhere.path()), Err(ExportError::NotAnExport(_))));
}

#[test]
fn hostile_files_are_refused_or_read_and_never_believed() {
    let log = MemoryLog::honest(30);
    let sound = encode_part(NODE, log.rows).unwrap();
    let mut refused = 0;
    let mut read = |bytes: &[u8]| {
        let reader = PartReader::from_bytes(bytes.to_vec().into());
        match reader.map(|it| it.collect::<Result<Vec<_>, _>>()) {
            Ok(Ok(rows)) => assert!(rows.len() <= 30),
            Ok(Err(_)) | Err(_) => refused += 1,
        }
    };
    // The footer and the heads of pages are at the end and between the columns: every byte of a step of a prime.
    for at in (0..sound.len()).step_by(7).chain(sound.len().saturating_sub(3_000)..sound.len()) {
        for flip in [0xff, 0x01, 0x80] {
            let mut bytes = sound.clone();
            bytes[at] ^= flip;
            read(&bytes);
        }
    }
    for len in [0, 1, 4, 7, 8, 12, sound.len() / 2, sound.len() - 1] {
        read(&sound[..len]);
    }
    // A footer that claims almost all memory.
    let mut bytes = sound.clone();
    let at = bytes.len() - 8;
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    read(&bytes);
    assert!(refused > 100, "{refused}");
}

/// Returns the bytes of a file with a row group for each of these strands.
fn groups_of(strands: &[OriginatorId]) -> Vec<u8> {
    let properties = Arc::new(LOG.properties());
    let schema = LOG.schema().unwrap();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    for strand in strands {
        let mut group = RowGroup::new(&LOG);
        for record in describe(*strand, false, MemoryLog::honest(3).rows) {
            group.push(record.values);
        }
        group.write(&mut writer).unwrap();
    }
    writer.into_inner().unwrap()
}

/// Returns the bytes of a file with one row group of these rows, and with a footer of so many bytes more.
fn file_of(rows: Vec<StrandRow>, further_bytes: usize) -> Vec<u8> {
    let properties = Arc::new(LOG.properties());
    let schema = LOG.schema().unwrap();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = RowGroup::new(&LOG);
    for record in describe(NODE, false, rows) {
        group.push(record.values);
    }
    group.write(&mut writer).unwrap();
    let further = KeyValue::new("further".to_owned(), "x".repeat(further_bytes));
    writer.append_key_value_metadata(further);
    writer.into_inner().unwrap()
}

fn footer_len_bytes(file: &[u8]) -> u64 {
    let at = file.len() - 8;
    u64::from(u32::from_le_bytes(file[at..at + 4].try_into().unwrap()))
}

/// Played by a stranger who sends an auditor a short file that is a footer and little else: the library makes a hundred
/// times its length of it in memory.
#[test]
fn a_footer_is_no_longer_than_the_rows_of_its_file_explain() {
    let honest = || MemoryLog::honest(3).rows;
    assert!(PartReader::from_bytes(file_of(honest(), 32 * 1024).into()).is_ok());
    let error = PartReader::from_bytes(file_of(honest(), 1024 * 1024).into()).err().unwrap();
    assert!(error.to_string().contains("a footer of"), "{error}");
}

/// The shortest rows are those of places that are missing, and each of these is a gap of its own.
#[test]
fn each_whole_row_group_of_an_export_makes_room_for_its_part_of_the_footer() {
    let [one, two] = [1, 2].map(|groups| footer_len_bytes(&groups_of(&[NODE; 2][..groups])));
    assert!(one < 16 * 1024, "{one} bytes");
    let gap = |at: u64| StrandRow::Gap {
        from: SequenceId(at),
        through: SequenceId(at),
        reason: GapReason::Missing,
    };
    let whole = file_of((1..=GROUP_ROWS as u64).map(gap).collect(), 0);
    let len_bytes = whole.len() as u64 - footer_len_bytes(&whole);
    assert!(two - one <= len_bytes / 64, "{} bytes for {len_bytes}", two - one);
    assert!(PartReader::from_bytes(whole.into()).is_ok());
}

#[test]
fn a_file_has_one_strand_and_names_no_bytes_twice() {
    let read = |strands: &[OriginatorId]| {
        let reader = PartReader::from_bytes(groups_of(strands).into()).unwrap();
        reader.collect::<Result<Vec<_>, _>>().map(|rows| rows.len())
    };
    assert_eq!(read(&[NODE, NODE]).unwrap(), 6);
    let error = read(&[NODE, OriginatorId(300)]).unwrap_err().to_string();
    assert!(error.contains("several strands"), "{error}");
    let bytes = hawser_proto::Bytes::from(groups_of(&[NODE, NODE]));
    let reader = SerializedFileReader::new(bytes).unwrap();
    let (first, second) = (reader.metadata().row_group(0), reader.metadata().row_group(1));
    let end = check_group(first, 0).unwrap();
    assert!(check_group(second, end).is_ok());
    // A footer that names the same group twice.
    assert!(check_group(first, end).unwrap_err().contains("bytes in common"));
}

#[test]
fn links_in_the_way_are_refused_and_what_they_lead_to_stays() {
    let log = MemoryLog::honest(30);
    let others = tempfile::tempdir().unwrap();
    let file = others.path().join("file");
    let refused = |name: &str, target: &Path| {
        fs::write(&file, "of others").unwrap();
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, &path).unwrap();
        let error = run(&log, place.path()).unwrap_err();
        assert!(matches!(&error, ExportError::InTheWay(at) if *at == path), "{name}: {error}");
        assert_eq!(fs::read(&file).unwrap(), b"of others", "{name}");
        assert_eq!(fs::read_dir(others.path()).unwrap().count(), 1, "{name}");
    };
    for name in [".lock", ".manifest.json.part"] {
        refused(name, &file);
        refused(name, &others.path().join("not there"));
    }
    let error = run(&log, &file).unwrap_err();
    assert!(matches!(&error, ExportError::InTheWay(at) if *at == file), "no folder: {error}");
    // Links that appear once the folder is an export.
    let mut short = log.clone();
    (short.head, short.last_held) = (10, 10);
    let place = tempfile::tempdir().unwrap();
    run(&short, place.path()).unwrap();
    let strand = place.path().join(format!("log/originator={}", NODE.0));
    let part = strand.join(format!(".from={:019}.parquet.part", 11));
    std::os::unix::fs::symlink(&file, &part).unwrap();
    let error = run(&log, place.path()).unwrap_err();
    assert!(matches!(&error, ExportError::InTheWay(at) if *at == part), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"of others");
    fs::remove_file(&part).unwrap();
    let moved = others.path().join("moved");
    fs::rename(&strand, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &strand).unwrap();
    let before = content(&moved);
    let error = run(&log, place.path()).unwrap_err();
    assert!(matches!(&error, ExportError::InTheWay(at) if *at == strand), "{error}");
    assert_eq!(content(&moved), before);
    // Files of an interrupted run do not prevent an export, and other links to them keep their content.
    let place = tempfile::tempdir().unwrap();
    let left = place.path().join(".manifest.json.part");
    fs::hard_link(&file, &left).unwrap();
    run(&log, place.path()).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"of others");
}
