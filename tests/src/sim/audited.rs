//! The logs that simulated nodes end with, replayed and compared as `hawser audit` does with data folders.

#[path = "../../../cli/src/commands/audit/source/folder.rs"]
mod folder;

use std::collections::BTreeSet;

use bytes::Bytes;
use hawser_audit::compare::{ComparedBy, compare};
use hawser_audit::export::{ExportSettings, Manifest, PartReader, StrandParts, export, log_path};
use hawser_audit::html::{self, PageFacts};
use hawser_audit::partition::{
    ChainsOfLog, ExpectedStrand, ExportedPayers, RangeVerdict, check_partition, merge,
};
use hawser_audit::replay::{
    CheckpointList, FaultKind, Faults, LogIdentity, LogRows, LogSource, LogWithSecond, Replay,
    ReplayReport, ReplaySettings, SecondCheckpoints, SourceError, StrandRows,
};
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Rate, RateTable};
use hawser_storage::LogItem;

use super::members::LIAR;
use super::scripted::Role;
use super::strands::{Version, key, rates, version_of};
use super::world::Sim;
use folder::FolderLog;

/// The nodes to which a scripted node shows different things, if it shows any.
const TOLD_APART: [OriginatorId; 2] = [OriginatorId(100), OriginatorId(200)];

/// A fault: its strand, place, kind and rule.
type FaultAt = (Option<OriginatorId>, SequenceId, FaultKind, Option<u8>);

/// The findings of the audits of honest nodes' logs.
#[derive(Debug, Default)]
pub struct AuditFindings {
    /// The kinds of the faults that a log shows by itself.
    pub by_log: BTreeSet<FaultKind>,
    /// The kinds of the further faults that a log shows beside a checkpoint which node 300 has signed.
    pub by_checkpoint: BTreeSet<FaultKind>,
    /// The number of places of node 300's strand that logs lack.
    pub lacking: u64,
    /// The number of places of node 300's strand at which two logs hold different envelopes.
    pub differing: usize,
    /// The number of logs whose tallies were compared.
    pub tallied: usize,
}

impl Sim {
    /// Asserts that an audit of each honest node's log names each lie that the log holds, and nothing else. So do a
    /// comparison of two logs, the page about an audit, and the parts of an export.
    ///
    /// # Panics
    /// Panics if an audit leaves a lie out, or accuses an honest node.
    pub fn assert_audits(&self, findings: &mut AuditFindings) {
        let rates = RateTable::new(rates().to_vec(), None);
        let mut settings = ReplaySettings {
            registry: self.registry(),
            rates: Some(rates.expect("they ascend")),
            threads: 1,
            now_ns: self.now_ns(),
        };
        for node in self.honest() {
            self.nodes[&node].extend_trees();
            let log = FolderLog::new(&self.nodes[&node].store).unwrap();
            let has_absences = log.add_absences(&mut settings.registry).unwrap();
            assert!(!has_absences, "{node} knows of a node that has left");
            let lies = self.lies_held_by(node);
            let report = replayed(&log, &settings);
            self.assert_report(node, &report, &lies);
            findings.by_log.extend(lies.iter().map(|lie| lie.2));
            findings.lacking += self.places_lacking_at(node);
            let is_tallied = !report.unchecked.iter().any(|text| text.starts_with("tallies"));
            findings.tallied += usize::from(is_tallied);
            for follower in TOLD_APART {
                let (second, fault) = self.shown_about(node, follower);
                let read = SecondCheckpoints::read(&second, &log, &settings.registry).unwrap();
                let report = replayed(&LogWithSecond::new(&log, &read), &settings);
                let expected: BTreeSet<FaultAt> = lies.iter().copied().chain(fault).collect();
                self.assert_report(node, &report, &expected);
                findings.by_checkpoint.extend(fault.map(|it| it.2));
            }
            if TOLD_APART.contains(&node) {
                self.assert_parts(&log, &settings, &lies);
            }
            findings.differing += self.assert_compared(self.honest()[0], node);
        }
    }

    /// Asserts that the report on a node's log, and the page about it, name these faults and no others.
    fn assert_report(
        &self,
        node: OriginatorId,
        report: &ReplayReport,
        expected: &BTreeSet<FaultAt>,
    ) {
        let faults = report.all_faults();
        assert_eq!(named(&faults), *expected, "the audit of {node}: {:?}", faults.kept());
        assert_eq!(faults.count(), expected.len() as u64, "the audit of {node}");
        let verdict = verdict_on(expected);
        assert_eq!(report.verdict(), verdict, "the audit of {node}: {:?}", report.incomplete);
        for strand in &report.strands {
            let lacking: u64 = strand.figures.absent.values().sum();
            let is_liars = strand.originator_id == LIAR;
            let expected = if is_liars { self.places_lacking_at(node) } else { 0 };
            assert_eq!(lacking, expected, "{node} lacks places of {}", strand.originator_id);
        }
        let facts = PageFacts { keys: "the network's", tool: "a test", now_ns: self.now_ns() };
        let page = html::page(report, facts);
        assert!(page.contains(&format!("<title>Audit: {verdict}</title>")), "{page}");
        for (_, place, kind, _) in expected {
            let kind = kind.name();
            let row = format!("<td class=\"mono\">{LIAR}:{place}</td><td class=\"mono\">{kind}");
            assert!(page.contains(&row), "no {row} in {page}");
        }
        assert_eq!(page.contains("<h2>Faults</h2>"), !expected.is_empty(), "{page}");
    }

    /// Returns the fault of each lie of node 300 in a node's log.
    fn lies_held_by(&self, node: OriginatorId) -> BTreeSet<FaultAt> {
        let fault = |(place, bytes): (SequenceId, Bytes)| {
            let version = version_of(EnvelopeId::new(LIAR, place), &bytes);
            let (kind, rule) = fault_of(version.expect("node 300 has signed it"))?;
            Some((Some(LIAR), place, kind, rule))
        };
        self.held(node, LIAR).into_iter().filter_map(fault).collect()
    }

    /// Returns the number of places of node 300's strand that a node has passed over.
    fn places_lacking_at(&self, node: OriginatorId) -> u64 {
        let lacking = |item: &LogItem| match item {
            LogItem::Skipped { from, through, .. } => through.0 - from.0 + 1,
            LogItem::Envelope { .. } => 0,
        };
        self.nodes[&node].log(LIAR, SequenceId::NONE).iter().map(lacking).sum()
    }

    /// Returns the checkpoint that node 300 shows to a follower, of the size that its strand has at a node, and the
    /// fault that it is if the node holds another tree.
    fn shown_about(
        &self,
        node: OriginatorId,
        follower: OriginatorId,
    ) -> (OneCheckpointLog, Option<FaultAt>) {
        let snapshot = self.nodes[&node].store.snapshot();
        let size = snapshot.tree_size(LIAR).unwrap();
        assert!(size > 0, "{node} holds nothing of node 300");
        let root = snapshot.root(LIAR, size).unwrap();
        let time_ns = self.now_ns().unsigned_abs();
        let agreed = Checkpoint { node: LIAR, originator: LIAR, size, root, time_ns };
        let shown = self.as_scripted(agreed.sign(&key(LIAR)), follower);
        let fault = (Some(LIAR), SequenceId(size), FaultKind::CheckpointRoot, None);
        let is_other = shown.checkpoint.root != root;
        (OneCheckpointLog(shown.into()), is_other.then_some(fault))
    }

    /// Asserts that a comparison of two nodes' logs names the places of node 300's strand at which they hold different
    /// envelopes, and nothing else. Returns their number.
    fn assert_compared(&self, first: OriginatorId, second: OriginatorId) -> usize {
        let log = |id: OriginatorId| FolderLog::new(&self.nodes[&id].store).unwrap();
        let found = compare(&log(first), &log(second), ComparedBy::Rows).unwrap();
        for strand in found.iter().filter(|strand| strand.originator_id != LIAR) {
            assert!(strand.is_equal(), "{first} and {second}: {strand:?}");
        }
        let told: BTreeSet<SequenceId> =
            found.iter().flat_map(|strand| &strand.other).map(|it| it.sequence_id).collect();
        let (mine, other) = (self.held(first, LIAR), self.held(second, LIAR));
        let differing: BTreeSet<SequenceId> = mine
            .into_iter()
            .filter(|(place, bytes)| other.get(place).is_some_and(|it| it != bytes))
            .map(|(place, _)| place)
            .collect();
        assert_eq!(told, differing, "{first} and {second}");
        told.len()
    }

    /// Asserts that two halves of an export, which are checked apart from each other as engines of several machines do,
    /// have these faults together, except for those that need the envelopes before a place.
    fn assert_parts(
        &self,
        log: &FolderLog<'_>,
        settings: &ReplaySettings,
        lies: &BTreeSet<FaultAt>,
    ) {
        let place = tempfile::tempdir().unwrap();
        let (threads, with_payers, now_ns) = (1, true, settings.now_ns);
        let options = ExportSettings { threads, with_payers, registry: None, rates: None, now_ns };
        export(log, place.path(), options, |_| ()).unwrap();
        let manifest = Manifest::read(place.path()).unwrap().expect("the export has one");
        let strand = |parts: &StrandParts| ExpectedStrand {
            originator_id: parts.originator_id,
            through: parts.through(),
            rows: parts.rows(),
            checkpoints: 0,
            statements: 0,
            head: parts.head,
            beyond_head: parts.beyond_head,
        };
        let listed: Vec<ExpectedStrand> = manifest.strands.iter().map(strand).collect();
        let mut rows = Vec::new();
        for strand in &manifest.strands {
            for part in &strand.parts {
                let path = log_path(place.path(), strand.originator_id, part.from);
                rows.extend(PartReader::open(&path).unwrap().map(Result::unwrap));
            }
        }
        let behind = rows.split_off(rows.len() / 2);
        let mut ranges: Vec<RangeVerdict> = Vec::new();
        for half in [rows, behind] {
            let half = half.into_iter().map(Ok::<_, SourceError>);
            let (payers, chains) = (ExportedPayers::Named, ChainsOfLog::default());
            ranges.extend(check_partition(half, settings, payers, &chains).unwrap());
        }
        let merged = merge(ranges, Some(&listed)).unwrap();
        // A rate allows the fee of this role, and only a replay counts the envelopes before it.
        let is_left = self.role() == Role::Overcharger;
        let expected = if is_left { BTreeSet::new() } else { lies.clone() };
        assert_eq!(named(&merged.faults), expected, "{:?}", merged.faults.kept());
        assert_eq!(merged.verdict, verdict_on(&expected), "{:?}", merged.incomplete);
    }
}

/// Returns the faults of a report.
fn named(faults: &Faults) -> BTreeSet<FaultAt> {
    let at = faults.kept().iter();
    at.map(|it| (it.originator_id, it.sequence_id, it.kind, it.rule)).collect()
}

/// Returns the verdict on a log with these faults.
fn verdict_on(faults: &BTreeSet<FaultAt>) -> &'static str {
    let are_claims = faults.iter().all(|fault| fault.2.is_claim());
    match faults.is_empty() {
        true => "clean",
        false if are_claims => "claim",
        false => "faulty",
    }
}

/// Replays a whole log.
fn replayed(log: &dyn LogSource, settings: &ReplaySettings) -> ReplayReport {
    let mut replay = Replay::new(log, settings, None).expect("it begins");
    let report = replay.run(|_, _| true).expect("the strands can be read");
    report.expect("it was not interrupted")
}

/// Returns the kind of fault that a statement is, and the rule that it breaks. A second statement for a place is none
/// by itself.
fn fault_of(version: Version) -> Option<(FaultKind, Option<u8>)> {
    match version {
        Version::Past => Some((FaultKind::TimeBack, None)),
        Version::Future => Some((FaultKind::TimeAhead, None)),
        Version::Overpriced | Version::Congested => Some((FaultKind::Fee, None)),
        Version::Unpaid => Some((FaultKind::BrokenRule, Some(2))),
        Version::Reserved => Some((FaultKind::BrokenRule, Some(5))),
        Version::Commit => Some((FaultKind::BrokenRule, Some(6))),
        Version::True | Version::Other => None,
        _ => unreachable!("no role signs {version:?}"),
    }
}

/// A second source, which shows one checkpoint of node 300's strand.
struct OneCheckpointLog(CosignedCheckpoint);

impl LogSource for OneCheckpointLog {
    fn identity(&self) -> LogIdentity {
        unreachable!("only its heads and checkpoints are read")
    }

    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
        Ok(vec![EnvelopeId::new(LIAR, SequenceId(self.0.signed.checkpoint.size))])
    }

    fn last_held(&self, _: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
        unreachable!("only its heads and checkpoints are read")
    }

    fn rows(&self, _: EnvelopeId, _: SequenceId) -> LogRows<'_> {
        unreachable!("only its heads and checkpoints are read")
    }

    fn beside(&self, originator: OriginatorId) -> Box<dyn StrandRows + '_> {
        let shown = std::slice::from_ref(&self.0);
        let shown = if originator == LIAR { shown } else { &shown[..0] };
        Box::new(OneCheckpointRows(CheckpointList::new(shown)))
    }

    fn shows_gaps(&self) -> bool {
        unreachable!("only its heads and checkpoints are read")
    }

    fn unchecked(&self) -> Vec<String> {
        unreachable!("only its heads and checkpoints are read")
    }

    fn rates(&self) -> Result<Vec<Rate>, SourceError> {
        unreachable!("only its heads and checkpoints are read")
    }
}

/// The checkpoints that such a source shows of a strand.
struct OneCheckpointRows<'a>(CheckpointList<'a>);

impl StrandRows for OneCheckpointRows<'_> {
    fn checkpoint_nodes(&self) -> Result<Vec<OriginatorId>, SourceError> {
        Ok(self.0.nodes())
    }

    fn checkpoint_after(
        &self,
        node: OriginatorId,
        size: u64,
    ) -> Result<Option<CosignedCheckpoint>, SourceError> {
        Ok(self.0.after(node, size).cloned())
    }
}
