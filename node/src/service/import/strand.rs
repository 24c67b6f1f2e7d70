//! One strand of a database: verifies its rows like a follower verifies envelopes from peers, and converts them to
//! changes of the log afterwards.

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
    /// The number of envelopes that are hidden from readers, by the number of the rule that they break.
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

/// The check of one strand, before anything is written. Does no I/O.
#[derive(Debug)]
pub(super) struct StrandCheck {
    verifier: EnvelopeVerifier,
    report: StrandReport,
    digest: StrandDigest,
    invalid: Vec<SequenceId>,
}

/// A strand of which every row was found good.
#[derive(Debug, Clone)]
pub(super) struct CheckedStrand {
    pub(super) report: StrandReport,
    /// The envelopes that break a rule, ascending.
    invalid: Vec<SequenceId>,
}

/// A row that was decoded, without the preceding rows.
struct OpenedRow {
    at: SequenceId,
    /// The canonically encoded envelope.
    bytes: Bytes,
    was_rewritten: bool,
}

impl StrandCheck {
    /// Begins with the first row of a strand.
    pub(super) fn new(verifier: EnvelopeVerifier) -> Self {
        let report = StrandReport {
            originator: verifier.originator,
            envelopes: 0,
            digest: [0; 32],
            head: SequenceId::NONE,
            missing: 0,
            rewritten: 0,
            invalid: BTreeMap::new(),
        };
        Self { verifier, report, digest: StrandDigest::default(), invalid: Vec::new() }
    }

    pub(super) fn originator(&self) -> OriginatorId {
        self.verifier.originator
    }

    /// Checks the next rows on `threads`: their signatures, the rules of the network, and the columns of the tables.
    ///
    /// # Errors
    /// The first bad row, by its sequence id.
    pub(super) fn take(
        &mut self,
        rows: &[SourceRow],
        threads: usize,
    ) -> Result<(), (i64, RowError)> {
        let checked = on_threads(rows, threads, |part| self.check(part));
        for (row, checked) in rows.iter().zip(checked) {
            let noted = checked.and_then(|(opened, validity)| self.note(&opened, validity));
            noted.map_err(|error| (row.sequence, error))?;
        }
        Ok(())
    }

    fn check(&self, rows: &[SourceRow]) -> Vec<Result<(OpenedRow, Validity), RowError>> {
        let opened: Vec<_> = rows.iter().map(|row| open(self.originator(), row)).collect();
        let bytes = opened.iter().flatten().map(|row| row.bytes.clone());
        let mut entries = self.verifier.check(bytes.collect()).into_iter();
        let finish = |(source, opened): (&SourceRow, Result<OpenedRow, RowError>)| {
            let opened = opened?;
            let entry = entries.next().expect("one result for each opened row");
            let entry = entry.map_err(|_| RowError::Forged)?;
            require_described(source, &entry)?;
            Ok((opened, entry.validity))
        };
        rows.iter().zip(opened).map(finish).collect()
    }

    /// Records an envelope as the next one of the strand.
    fn note(&mut self, row: &OpenedRow, validity: Validity) -> Result<(), RowError> {
        let OpenedRow { at, bytes, was_rewritten } = row;
        if *at <= self.report.head {
            return Err(RowError::Order);
        }
        if let Validity::Invalid(rule) = validity {
            *self.report.invalid.entry(rule.0).or_default() += 1;
            self.invalid.push(*at);
        }
        self.digest.add(*at, bytes);
        self.report.envelopes += 1;
        self.report.rewritten += u64::from(*was_rewritten);
        self.report.missing += at.0 - self.report.head.0 - 1;
        self.report.head = *at;
        Ok(())
    }

    /// Returns the checked strand.
    pub(super) fn finish(self) -> CheckedStrand {
        let report = StrandReport { digest: self.digest.finish(), ..self.report };
        CheckedStrand { report, invalid: self.invalid }
    }
}

/// Converts the rows of a checked strand to changes of the log. Does no I/O.
#[derive(Debug)]
pub(super) struct StrandConversion {
    verifier: EnvelopeVerifier,
    invalid: Vec<SequenceId>,
    /// The last converted sequence id, or the last one that the log has from an earlier run.
    last: SequenceId,
}

impl StrandConversion {
    /// Continues after `held`, the end of the log.
    pub(super) fn new(
        verifier: EnvelopeVerifier,
        checked: &CheckedStrand,
        held: SequenceId,
    ) -> Self {
        Self { verifier, invalid: checked.invalid.clone(), last: held }
    }

    pub(super) fn originator(&self) -> OriginatorId {
        self.verifier.originator
    }

    /// Returns the last sequence id that needs no row any more.
    pub(super) fn last(&self) -> SequenceId {
        self.last
    }

    /// Converts the next rows on `threads`. Returns the changes in order.
    ///
    /// # Errors
    /// The first row that is not the one that was checked, by its sequence id.
    pub(super) fn take(
        &mut self,
        rows: &[SourceRow],
        threads: usize,
    ) -> Result<Vec<Change>, (i64, RowError)> {
        let mut changes = Vec::with_capacity(rows.len());
        let entries = on_threads(rows, threads, |part| {
            part.iter().map(|row| self.entry(row)).collect::<Vec<_>>()
        });
        for (row, entry) in rows.iter().zip(entries) {
            let entry = entry.map_err(|error| (row.sequence, error))?;
            let at = entry.id.sequence;
            if at <= self.last {
                return Err((row.sequence, RowError::Order));
            }
            changes.extend(gap(self.originator(), self.last, at));
            changes.push(Change::Append(entry));
            self.last = at;
        }
        Ok(changes)
    }

    /// Returns the entry of a row. The first pass has verified both signatures, and that the payer's column is right
    /// where an envelope has a charge. So the keys of these are not recovered a second time.
    fn entry(&self, row: &SourceRow) -> Result<LogEntry, RowError> {
        let opened = open(self.originator(), row)?;
        let payer = row.payer.as_ref().and_then(|it| it.parse().ok());
        let was_valid = self.invalid.binary_search(&opened.at).is_err();
        if let Some(payer) = payer.filter(|_| was_valid) {
            let entry = self.verifier.entry_of_checked(opened.bytes.clone(), payer);
            let entry = entry.map_err(|_| RowError::Forged)?;
            if entry.facts.as_ref().is_some_and(|facts| facts.charge.is_some()) {
                return Ok(entry);
            }
        }
        let entry = self.verifier.check(vec![opened.bytes]).pop();
        entry.expect("one result for each envelope").map_err(|_| RowError::Forged)
    }
}

/// Applies `work` to parts of rows on several threads. Returns the results in the order of the rows.
fn on_threads<T: Send>(
    rows: &[SourceRow],
    threads: usize,
    work: impl Fn(&[SourceRow]) -> Vec<T> + Sync,
) -> Vec<T> {
    let part = rows.len().div_ceil(threads.max(1)).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let running: Vec<_> =
            rows.chunks(part).map(|part| scope.spawn(move || work(part))).collect();
        let joined = running.into_iter().flat_map(|it| match it.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
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
fn open(originator: OriginatorId, row: &SourceRow) -> Result<OpenedRow, RowError> {
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
    Ok(OpenedRow { at, bytes: outer.bytes, was_rewritten: outer.was_rewritten })
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
