//! An export goes on only over the strand that was exported, and only over the files that were verified.

use std::fs;
use std::path::Path;
use std::process::Command;

use hawser_proto::merkle::TreeHash;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::Rate;

use super::tests::{SETTINGS, content, shown_by_node};
use super::*;
use crate::replay::testing::{MemoryLog, NODE, draft, ns_of, settings};
use crate::replay::{
    GapReason, LogIdentity, LogRows, LogSource, SourceError, StoredMark, StrandRow, StrandRows,
};

/// The last place of the first run.
const EXPORTED: u64 = 40;

/// A log with a row that cannot be read, or during whose export another user changes files.
struct Hostile<'a> {
    log: &'a MemoryLog,
    /// The last place that can be read before the row.
    unreadable_after: Option<u64>,
    at_heads: &'a dyn Fn(),
    at_rates: &'a dyn Fn(),
}

impl<'a> Hostile<'a> {
    fn of(log: &'a MemoryLog) -> Self {
        Self { log, unreadable_after: None, at_heads: &|| (), at_rates: &|| () }
    }
}

impl LogSource for Hostile<'_> {
    fn identity(&self) -> LogIdentity {
        self.log.identity()
    }

    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
        (self.at_heads)();
        self.log.heads()
    }

    fn last_held(&self, originator: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
        self.log.last_held(originator)
    }

    fn rows(&self, after: EnvelopeId, head: SequenceId) -> LogRows<'_> {
        match self.unreadable_after == Some(after.sequence.0) {
            true => Box::new(std::iter::once(Err(SourceError("a damaged block".to_owned())))),
            false => self.log.rows(after, head),
        }
    }

    fn beside(&self, originator: OriginatorId) -> Box<dyn StrandRows + '_> {
        self.log.beside(originator)
    }

    fn shows_gaps(&self) -> bool {
        self.log.shows_gaps()
    }

    fn unchecked(&self) -> Vec<String> {
        Vec::new()
    }

    fn rates(&self) -> Result<Vec<Rate>, SourceError> {
        (self.at_rates)();
        self.log.rates()
    }
}

/// Returns a log, and an export of its first places.
fn begun() -> (MemoryLog, tempfile::TempDir) {
    let place = tempfile::tempdir().unwrap();
    let log = MemoryLog::honest(60);
    let mut short = log.clone();
    (short.head, short.last_held) = (EXPORTED, EXPORTED);
    export(&short, place.path(), SETTINGS, |_| ()).unwrap();
    (log, place)
}

fn gap(reason: GapReason) -> StrandRow {
    StrandRow::Gap { from: SequenceId(EXPORTED), through: SequenceId(EXPORTED), reason }
}

fn row_at(log: &mut MemoryLog) -> &mut StrandRow {
    &mut log.rows[usize::try_from(EXPORTED).unwrap() - 1]
}

/// Returns a log with other envelopes, which the same node has signed.
fn other_log() -> MemoryLog {
    let later = |at: u64| (draft(at, ns_of(at) + 1).seal(), StoredMark::Valid);
    MemoryLog::of((1..=60).map(later).collect())
}

#[test]
fn a_strand_with_something_else_at_the_last_exported_place_is_refused_by_its_name() {
    type Change = fn(&mut MemoryLog);
    let changes: [(&str, Change); 9] = [
        ("another one", |log| *log.bytes_at(EXPORTED) = other_log().bytes_at(EXPORTED).clone()),
        ("no row", |log| drop(log.rows.remove(usize::try_from(EXPORTED).unwrap() - 1))),
        ("none there: missing", |log| *row_at(log) = gap(GapReason::Missing)),
        ("none there: void", |log| *row_at(log) = gap(GapReason::Void)),
        ("none there: pruned", |log| *row_at(log) = gap(GapReason::Pruned)),
        ("none there: expired", |log| *row_at(log) = gap(GapReason::Expired)),
        ("record of another one", |log| log.prune(EXPORTED).len_bytes += 1),
        ("record of another one", |log| log.prune(EXPORTED).originator_ns += 1),
        ("record of another one", |log| {
            *log.row_at(EXPORTED).1 = Some(TreeHash([5; 32]));
            log.prune(EXPORTED);
        }),
    ];
    for (text, change) in changes {
        let (mut log, place) = begun();
        change(&mut log);
        let before = content(place.path());
        let error = export(&log, place.path(), SETTINGS, |_| ()).unwrap_err();
        let ExportError::OtherStrand { originator_id, held, .. } = &error else {
            panic!("{text}: {error}")
        };
        assert_eq!((*originator_id, held.contains(text)), (NODE, true), "{error}");
        assert_eq!(content(place.path()), before, "{text}");
    }
}

#[test]
fn an_unreadable_row_at_the_last_exported_place_ends_the_run() {
    let (log, place) = begun();
    let before = content(place.path());
    let unreadable = Hostile { unreadable_after: Some(EXPORTED - 1), ..Hostile::of(&log) };
    let error = export(&unreadable, place.path(), SETTINGS, |_| ()).unwrap_err();
    assert!(matches!(&error, ExportError::Source(_)), "{error}");
    assert_eq!(content(place.path()), before);
}

#[test]
fn an_envelope_that_has_expired_since_does_not_end_the_export() {
    let expired_ns = ns_of(60) + 31 * 86_400 * 1_000_000_000;
    let later = ExportSettings { now_ns: expired_ns, ..SETTINGS };
    let (mut log, place) = begun();
    log.prune(EXPORTED);
    let report = export(&log, place.path(), SETTINGS, |_| ()).unwrap();
    assert_eq!(
        (report.rows, report.unchecked.len()),
        (20, 0),
        "its record tells that it is the same"
    );
    for reason in [GapReason::Pruned, GapReason::Expired] {
        let (mut log, place) = begun();
        *row_at(&mut log) = gap(reason);
        let report = export(&log, place.path(), later, |_| ()).unwrap();
        assert_eq!(report.rows, 20);
        assert!(report.unchecked[0].starts_with("strand 100: that it is"), "{report:?}");
    }
    // A node shows nothing there.
    let registry = settings().registry;
    let (log, place) = begun();
    let mut shown = shown_by_node(&log);
    drop(shown.rows.remove(usize::try_from(EXPORTED).unwrap() - 1));
    let now = ExportSettings { registry: Some(&registry), ..SETTINGS };
    let error = export(&shown, place.path(), now, |_| ()).unwrap_err();
    assert!(matches!(&error, ExportError::OtherStrand { .. }), "{error}");
    let later = ExportSettings { registry: Some(&registry), ..later };
    let report = export(&shown, place.path(), later, |_| ()).unwrap();
    assert_eq!((report.rows, report.unchecked.len()), (20, 1), "{report:?}");
}

#[test]
fn a_strand_that_ends_with_a_gap_is_compared_at_the_envelope_before_it() {
    let (mut log, place) = begun();
    let (from, through) = (SequenceId(41), SequenceId(60));
    log.rows.truncate(usize::try_from(EXPORTED).unwrap());
    log.rows.push(StrandRow::Gap { from, through, reason: GapReason::Missing });
    assert_eq!(export(&log, place.path(), SETTINGS, |_| ()).unwrap().parts, 1);
    *log.bytes_at(EXPORTED) = other_log().bytes_at(EXPORTED).clone();
    let error = export(&log, place.path(), SETTINGS, |_| ()).unwrap_err();
    assert!(matches!(&error, ExportError::OtherStrand { .. }), "{error}");
}

/// Puts the rows of a log into the place of an exported file, as another user could who may write into the folder.
fn replace(path: &Path, log: &MemoryLog, places: usize) {
    fs::write(path, encode_part(NODE, log.rows[..places].to_vec()).unwrap()).unwrap();
}

#[test]
fn a_file_that_was_replaced_after_its_verification_is_not_believed() {
    // The log is another one, and so is the file by the time that the two are compared.
    let (_, place) = begun();
    let path = log_path(place.path(), NODE, SequenceId(1));
    let other = other_log();
    let swap = || replace(&path, &other, 40);
    let source = Hostile { at_heads: &swap, ..Hostile::of(&other) };
    let error = export(&source, place.path(), SETTINGS, |_| ()).unwrap_err();
    assert!(matches!(&error, ExportError::Malformed { path: at, .. } if *at == path), "{error}");
    assert!(!log_path(place.path(), NODE, SequenceId(41)).exists());

    // The rows of which tallies are derived are those of the verified file.
    let settings = settings();
    let (registry, rates) = (Some(&settings.registry), settings.rates.as_ref());
    let judged = ExportSettings { registry, rates, ..SETTINGS };
    let place = tempfile::tempdir().unwrap();
    let path = log_path(place.path(), NODE, SequenceId(1));
    let shown = shown_by_node(&MemoryLog::honest(60));
    let swap = || replace(&path, &other, 60);
    let source = Hostile { at_rates: &swap, ..Hostile::of(&shown) };
    let error = export(&source, place.path(), judged, |_| ()).unwrap_err();
    assert!(error.to_string().contains("the file differs"), "{error}");
}

#[test]
fn a_link_or_a_pipe_in_the_place_of_a_file_is_refused() {
    let (_, place) = begun();
    let path = log_path(place.path(), NODE, SequenceId(1));
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("file");
    fs::rename(&path, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &path).unwrap();
    let refused = |path: &Path| matches!(PartReader::open(path), Err(ExportError::InTheWay(_)));
    assert!(refused(&path));
    assert!(PartReader::open(&moved).is_ok());
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(refused(&path));
}

#[test]
fn more_strands_than_a_network_has_are_refused() {
    let (_, place) = begun();
    let mut manifest = Manifest::read(place.path()).unwrap().unwrap();
    let strand = |originator_id| StrandParts {
        originator_id,
        parts: Vec::new(),
        head: None,
        beyond_head: None,
    };
    manifest.strands = (0..=10_000).map(OriginatorId).map(strand).collect();
    let refused = Manifest::parse(&manifest.to_text()).unwrap_err();
    assert!(refused.contains("at most 10000"), "{refused}");
    manifest.strands.pop();
    assert!(Manifest::parse(&manifest.to_text()).is_ok());
}
