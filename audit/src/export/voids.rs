//! Statements of a strand's node about void places, beside the exported strand.
//!
//! The attacker is the keeper of the log, or the maker of a snapshot, who adds statements that the node has not signed.

use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_proto::{Bytes, OriginatorId, PublicKey};

use super::table::Value;
use crate::replay::void::STATEMENTS_MAX;
use crate::replay::{SourceError, StrandRows};

/// Returns the statements that a source has of a strand's node, by time, and at most as many as nodes keep. With the
/// node's key, leaves out those that it has not signed, and adds a sentence for people to `notes` for each.
///
/// # Errors
/// When the source cannot read them.
pub(super) fn of_strand(
    beside: &dyn StrandRows,
    originator: OriginatorId,
    key: Option<&PublicKey>,
    notes: &mut Vec<String>,
) -> Result<Vec<SignedVoid>, SourceError> {
    let mut all = beside.void_statements()?;
    all.retain(|signed| signed.statement.node == originator);
    all.truncate(STATEMENTS_MAX);
    all.retain(|signed| {
        let VoidStatement { from, through, .. } = signed.statement;
        let judged = key.map_or(Ok(()), |key| signed.verify(key));
        if let Err(error) = &judged {
            notes.push(format!(
                "strand {originator}: the statement that places {from} to {through} are void: {error}"
            ));
        }
        judged.is_ok()
    });
    all.sort_by_key(|signed| (signed.statement.time_ns, signed.encode()));
    Ok(all)
}

/// Returns the row of a statement.
pub(super) fn row(minute: u32, signed: &SignedVoid) -> Vec<Value> {
    let VoidStatement { node, from, through, time_ns, .. } = signed.statement;
    vec![
        Value::int(u64::from(node.0)),
        Value::int(u64::from(minute)),
        Value::int(from.0),
        Value::int(through.0),
        Value::Amount(time_ns),
        Value::Bytes(Bytes::copy_from_slice(&signed.encode())),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use parquet::file::reader::FileReader as _;
    use parquet::file::serialized_reader::SerializedFileReader;
    use parquet::record::RowAccessor as _;

    use super::super::tests::{SETTINGS, shown_by_node};
    use super::super::{ExportReport, ExportSettings, Manifest, export};
    use super::*;
    use crate::replay::testing::{MemoryLog, NODE, declared, settings};

    /// Exports a log, judged by the keys of its network.
    fn judged(log: &MemoryLog, folder: &Path) -> ExportReport {
        let registry = settings().registry;
        let judged = ExportSettings { registry: Some(&registry), ..SETTINGS };
        export(log, folder, judged, |_| ()).unwrap()
    }

    /// The ranges of the exported statements, and their bytes.
    fn exported(folder: &Path) -> Vec<(i64, i64, Vec<u8>)> {
        let manifest = Manifest::read(folder).unwrap().unwrap();
        let mut found = Vec::new();
        for part in &manifest.void_statements {
            let day = part.day;
            let name = format!("void_statements/originator={}/day={day:05}.parquet", NODE.0);
            let reader =
                SerializedFileReader::new(fs::File::open(folder.join(name)).unwrap()).unwrap();
            for row in reader.get_row_iter(None).unwrap().map(Result::unwrap) {
                assert_eq!(row.get_long(0).unwrap(), i64::from(NODE.0));
                let (from, through) = (row.get_long(2).unwrap(), row.get_long(3).unwrap());
                found.push((from, through, row.get_bytes(5).unwrap().data().to_vec()));
            }
        }
        found
    }

    #[test]
    fn statements_stand_beside_the_log_and_a_later_run_adds_new_ones() {
        let place = tempfile::tempdir().unwrap();
        let mut log = MemoryLog::honest(60);
        judged(&log, place.path());
        assert!(!place.path().join("void_statements").exists(), "older programs read the export");
        let (late, early) = (declared(70, 80, 60, 1), declared(61, 65, 50, 1));
        log.voids = vec![late, early];
        let report = judged(&log, place.path());
        assert_eq!((report.rows, report.tally_files), (0, 1));
        let row = |from, through, signed: SignedVoid| (from, through, signed.encode().to_vec());
        assert_eq!(exported(place.path()), [row(61, 65, early), row(70, 80, late)]);
        assert_eq!(judged(&log, place.path()), ExportReport::default(), "nothing is new");
        // A snapshot has them too, whatever it shows of the log.
        let of_snapshot = tempfile::tempdir().unwrap();
        judged(&shown_by_node(&log), of_snapshot.path());
        assert_eq!(exported(of_snapshot.path()), exported(place.path()));
    }

    #[test]
    fn a_statement_that_the_node_has_not_signed_is_left_out_and_named_if_keys_are_given() {
        let place = tempfile::tempdir().unwrap();
        let mut log = MemoryLog::honest(60);
        log.voids = vec![declared(70, 80, 60, 5)];
        let report = judged(&log, place.path());
        let named = report.notes.iter().any(|note| note.contains("places 70 to 80 are void"));
        assert!(named && exported(place.path()).is_empty(), "{report:?}");
        let mut of_other = declared(70, 80, 60, 1);
        of_other.statement.node = OriginatorId(NODE.0 + 1);
        log.voids = vec![of_other];
        let unjudged = tempfile::tempdir().unwrap();
        export(&log, unjudged.path(), SETTINGS, |_| ()).unwrap();
        assert_eq!(exported(unjudged.path()), [], "it is about another strand");
    }

    #[test]
    fn no_more_are_exported_than_nodes_keep() {
        let mut log = MemoryLog::honest(1);
        log.voids =
            (0..STATEMENTS_MAX as u64 + 9).map(|at| declared(at + 5, at + 5, 1, 1)).collect();
        let all = of_strand(&log, NODE, None, &mut Vec::new()).unwrap();
        assert_eq!(all.len(), STATEMENTS_MAX);
    }
}
