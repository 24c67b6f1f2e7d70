//! One strand of a database: its rows are checked as a follower checks what peers send, and become changes
//! of the log.

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
    /// Topic and expiry; `None` without a row in the table that describes envelopes.
    pub(super) described: Option<(Vec<u8>, i64)>,
    /// Address of the payer as text.
    pub(super) payer: Option<String>,
    /// The envelope; `None` without a row in the table of their bytes.
    pub(super) envelope: Option<Bytes>,
}

/// The fault of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// One of its two halves is missing.
    #[error("the row is missing in one of the two tables of envelopes")]
    Half,
    /// The rows do not ascend.
    #[error("the sequence id is out of order, or not a valid one")]
    Order,
    /// The bytes are no envelope.
    #[error("the bytes do not decode as an envelope")]
    Malformed,
    /// The envelope says another place than its row.
    #[error("the envelope has another originator or sequence id than its row")]
    OtherPlace,
    /// The key of its strand has not signed the envelope.
    #[error("the key of the node, or the one that --migration-key names, has not signed it")]
    Forged,
    /// The row describes the envelope wrongly.
    #[error("topic, payer or expiry of the row are not those of the envelope")]
    Described,
}

/// A strand as it was taken over, the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrandReport {
    /// The strand.
    pub originator: OriginatorId,
    /// Its envelopes.
    pub envelopes: u64,
    /// BLAKE3 over places and envelopes, in order.
    pub digest: [u8; 32],
    /// Its last place.
    pub head: SequenceId,
    /// Places below without an envelope: they were never used, or were pruned.
    pub missing: u64,
    /// Envelopes whose outer layer was put into canonical form.
    pub rewritten: u64,
    /// Envelopes of this run that readers do not get, by the number of the rule that they break.
    pub invalid: BTreeMap<u8, u64>,
}

/// Digest of a strand: places and envelopes in canonical form.
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

/// One strand on its way. Does no I/O.
#[derive(Debug)]
pub(super) struct StrandImport {
    verifier: EnvelopeVerifier,
    /// The log holds everything up to this place from an earlier run.
    held: SequenceId,
    report: StrandReport,
    digest: StrandDigest,
}

/// A row that was opened and checked by itself, without the rows before it.
struct CheckedRow {
    at: SequenceId,
    /// The envelope in canonical form.
    bytes: Bytes,
    was_rewritten: bool,
    /// The entry to store; `None` if the log holds the place from an earlier run.
    entry: Option<LogEntry>,
}

impl StrandImport {
    /// Goes on after `held`: rows up to it count, and are neither checked nor written again.
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

    /// Takes the next rows. Returns the changes, in order; `threads` open and check them.
    ///
    /// # Errors
    /// The first row that is wrong, by its place.
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

    /// Opens and checks rows on several threads, each a part of them; results are in the order of the rows, with
    /// their places.
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

    /// Parses rows, and checks those that the log does not hold yet: signatures, rules, and the columns of the
    /// tables.
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

    /// Notes an envelope as the next one of the strand.
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

/// Returns the change for the places between two envelopes.
pub(in crate::service) fn gap(
    originator: OriginatorId,
    after: SequenceId,
    at: SequenceId,
) -> Option<Change> {
    (after.next() < at).then(|| Change::Skip {
        originator,
        from: after.next(),
        through: at.previous(),
        // Whether a node's place was never used or was pruned is not known: peers are asked for it. Places of the older
        // network are row numbers of another database, most of which are not used.
        reason: if originator.is_migrated() { SkipReason::Expired } else { SkipReason::Missing },
    })
}

/// Opens the envelope of a row, which has to be of its strand and place.
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

/// Checks that the columns about an envelope agree with the envelope itself, as far as readers see
/// them.
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
    // Of what readers do not get the payer alone counts.
    let is_topic = facts.topic.as_ref().is_none_or(|it| it.as_bytes()[..] == topic[..]);
    if is_topic && stated.is_none_or(|it| it == *expiry) && is_payer {
        return Ok(());
    }
    Err(RowError::Described)
}
