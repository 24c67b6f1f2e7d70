//! Imports one strand of a database: verifies its rows like a follower verifies envelopes from peers, and
//! converts them to changes of the log.

use std::collections::BTreeMap;

use hawser_engine::replication::EnvelopeVerifier;
use hawser_net::open_canonical;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, OriginatorId, SequenceId};
use hawser_storage::{Change, LogEntry, SkipReason, Validity};

/// One row of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceRow {
    pub(super) sequence: i64,
    /// Topic and expiry; `None` if the table that describes envelopes has no row.
    pub(super) described: Option<(Vec<u8>, i64)>,
    /// The payer's address as text.
    pub(super) payer: Option<String>,
    /// The envelope; `None` if the table of their bytes has no row.
    pub(super) envelope: Option<Bytes>,
}

/// The defect of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// One of the two rows of an envelope is missing.
    #[error("the row is missing in one of the two tables of envelopes")]
    Half,
    /// The rows are not ascending.
    #[error("the sequence id is out of order, or not a valid one")]
    Order,
    /// The bytes are not an envelope.
    #[error("the bytes do not decode as an envelope")]
    Malformed,
    /// The envelope has another id than its row.
    #[error("the envelope has another originator or sequence id than its row")]
    OtherPlace,
    /// The envelope is not signed with the key of its strand.
    #[error("the key of the node, or the one that --migration-key names, has not signed it")]
    Forged,
    /// The row describes the envelope incorrectly.
    #[error("topic, payer or expiry of the row are not those of the envelope")]
    Described,
}

/// An imported strand, equal in database and log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrandReport {
    /// The strand.
    pub originator: OriginatorId,
    /// The number of its envelopes.
    pub envelopes: u64,
    /// The BLAKE3 hash over sequence ids and envelopes, in order.
    pub digest: [u8; 32],
    /// Its last sequence id.
    pub head: SequenceId,
    /// The number of lower sequence ids without an envelope: they were never used, or were pruned.
    pub missing: u64,
    /// The number of envelopes whose outer layer was converted to the canonical encoding.
    pub rewritten: u64,
    /// The number of this run's envelopes that are hidden from readers, by the number of the rule that they break.
    pub invalid: BTreeMap<u8, u64>,
}

/// The digest of a strand: sequence ids and canonically encoded envelopes.
#[derive(Debug, Default)]
pub(super) struct StrandDigest(blake3::Hasher);

impl StrandDigest {
    pub(super) fn add(&mut self, at: SequenceId, bytes: &[u8]) {
        self.0.update(&at.0.to_be_bytes());
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    pub(super) fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// The state of importing one strand. Does no I/O.
#[derive(Debug)]
pub(super) struct StrandImport {
    verifier: EnvelopeVerifier,
    /// The last sequence id that the log has from an earlier run.
    held: SequenceId,
    report: StrandReport,
    digest: StrandDigest,
}

/// A row that was decoded and verified on its own, without the preceding rows.
struct CheckedRow {
    at: SequenceId,
    /// The canonically encoded envelope.
    bytes: Bytes,
    was_rewritten: bool,
    /// The entry to store; `None` if the log has the sequence id from an earlier run.
    entry: Option<LogEntry>,
}

impl StrandImport {
    /// Continues after `held`. Rows up to it are counted, but neither verified nor written again.
    pub(super) fn new(verifier: EnvelopeVerifier, held: SequenceId) -> Self {
        let report = StrandReport {
            originator: verifier.originator,
            envelopes: 0,
            digest: [0; 32],
            head: SequenceId::NONE,
            missing: 0,
            rewritten: 0,
            invalid: BTreeMap::new(),
        };
        Self { verifier, held, report, digest: StrandDigest::default() }
    }

    pub(super) fn originator(&self) -> OriginatorId {
        self.verifier.originator
    }

    /// Processes the next rows. Returns the changes in order; `threads` decode and verify them.
    ///
    /// # Errors
    /// The first invalid row, by its sequence id.
    pub(super) fn take(
        &mut self,
        rows: Vec<SourceRow>,
        threads: usize,
    ) -> Result<Vec<Change>, (i64, RowError)> {
        let mut changes = Vec::with_capacity(rows.len());
        for (sequence, checked) in self.check_on(&rows, threads) {
            let row = checked.map_err(|error| (sequence, error))?;
            let after = self.report.head.max(self.held);
            self.note(&row).map_err(|error| (sequence, error))?;
            let Some(entry) = row.entry else { continue };
            if let Validity::Invalid(rule) = entry.validity {
                *self.report.invalid.entry(rule.0).or_default() += 1;
            }
            changes.extend(gap(self.originator(), after, row.at));
            changes.push(Change::Append(entry));
        }
        Ok(changes)
    }

    /// Decodes and verifies rows on several threads. The results have the order of the rows, and their sequence ids.
    fn check_on(
        &self,
        rows: &[SourceRow],
        threads: usize,
    ) -> Vec<(i64, Result<CheckedRow, RowError>)> {
        let part = rows.len().div_ceil(threads.max(1)).max(1);
        std::thread::scope(|scope| {
            let parts = rows.chunks(part);
            let running: Vec<_> = parts.map(|part| scope.spawn(move || self.check(part))).collect();
            let joined = running.into_iter().flat_map(|it| match it.join() {
                Ok(results) => results,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.collect()
        })
    }

    /// Parses rows, and verifies those that the log does not have yet: signatures, rules,
    /// and the columns of the tables.
    fn check(&self, rows: &[SourceRow]) -> Vec<(i64, Result<CheckedRow, RowError>)> {
        let opened: Vec<_> = rows.iter().map(|row| open(self.originator(), row)).collect();
        let new = opened.iter().flatten().filter(|row| row.at > self.held);
        let checked = self.verifier.check(new.map(|row| row.bytes.clone()).collect());
        let mut entries = checked.into_iter();
        let finish = |(source, row): (&SourceRow, Result<CheckedRow, RowError>)| {
            let sequence = source.sequence;
            let checked = row.and_then(|mut row| {
                if row.at > self.held {
                    let entry = entries.next().expect("one result for each new row");
                    let entry = entry.map_err(|_| RowError::Forged)?;
                    require_described(source, &entry)?;
                    row.entry = Some(entry);
                }
                Ok(row)
            });
            (sequence, checked)
        };
        rows.iter().zip(opened).map(finish).collect()
    }

    /// Records an envelope as the next one of the strand.
    fn note(&mut self, row: &CheckedRow) -> Result<(), RowError> {
        let CheckedRow { at, bytes, was_rewritten, .. } = row;
        if *at <= self.report.head {
            return Err(RowError::Order);
        }
        self.digest.add(*at, bytes);
        self.report.envelopes += 1;
        self.report.rewritten += u64::from(*was_rewritten);
        self.report.missing += at.0 - self.report.head.0 - 1;
        self.report.head = *at;
        Ok(())
    }

    /// Returns the report about the imported strand.
    pub(super) fn finish(self) -> StrandReport {
        StrandReport { digest: self.digest.finish(), ..self.report }
    }
}

/// Returns the change that fills the sequence ids between two envelopes.
pub(in crate::service) fn gap(
    originator: OriginatorId,
    after: SequenceId,
    at: SequenceId,
) -> Option<Change> {
    (after.next() < at).then(|| Change::Skip {
        originator,
        from: after.next(),
        through: at.previous(),
        // It is unknown whether a node's sequence id was never used or was pruned, so peers are asked for it. Sequence
        // ids of the older network are row numbers of another database, most of which were never used.
        reason: if originator.is_migrated() { SkipReason::Expired } else { SkipReason::Missing },
    })
}

/// Decodes the envelope of a row, which must have this originator and sequence id.
fn open(originator: OriginatorId, row: &SourceRow) -> Result<CheckedRow, RowError> {
    let (Some(bytes), Some(_)) = (&row.envelope, &row.described) else {
        return Err(RowError::Half);
    };
    let at = SequenceId(u64::try_from(row.sequence).map_err(|_| RowError::Order)?);
    let outer = open_canonical(bytes.clone()).ok_or(RowError::Malformed)?;
    let (id, _) =
        OriginatorEnvelope::statement(outer.statement).map_err(|_| RowError::Malformed)?;
    if (id.originator, id.sequence) != (originator, at) {
        return Err(RowError::OtherPlace);
    }
    Ok(CheckedRow { at, bytes: outer.bytes, was_rewritten: outer.was_rewritten, entry: None })
}

/// Checks that the columns about an envelope agree with the envelope, as far as readers see them.
fn require_described(row: &SourceRow, entry: &LogEntry) -> Result<(), RowError> {
    let (Some(facts), Some((topic, expiry))) = (&entry.facts, &row.described) else {
        return Ok(());
    };
    let stated = facts.expiry_unix_s.and_then(|it| i64::try_from(it).ok());
    let is_payer = match (&facts.charge, &row.payer) {
        (Some(charge), Some(said)) => {
            let said = said.strip_prefix("0x").unwrap_or(said);
            hex::encode(charge.payer.0).eq_ignore_ascii_case(said)
        }
        _ => true,
    };
    // Of an envelope that is hidden from readers, only the payer is compared.
    let is_topic = facts.topic.as_ref().is_none_or(|it| it.as_bytes()[..] == topic[..]);
    if is_topic && stated.is_none_or(|it| it == *expiry) && is_payer {
        return Ok(());
    }
    Err(RowError::Described)
}
