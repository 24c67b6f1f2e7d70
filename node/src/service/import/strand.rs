//! One strand of a database: verifies its rows like a follower verifies envelopes from peers, and converts them to
//! changes of the log.

use std::collections::BTreeMap;

use hawser_engine::replication::EnvelopeVerifier;
use hawser_net::open_canonical;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, OriginatorId, PayerAddress, SequenceId};
use hawser_storage::{Change, LogEntry, SkipReason, Validity};

/// One row of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceRow {
    pub(super) sequence: i64,
    /// True if the topic or the envelope is too long to be read, or the topic is missing.
    pub(super) is_long: bool,
    pub(super) topic: Vec<u8>,
    pub(super) expiry: i64,
    /// The payer's address as text.
    pub(super) payer: Option<String>,
    /// The envelope; `None` if the table of their bytes has no row.
    pub(super) envelope: Option<Bytes>,
}

impl SourceRow {
    /// Returns the length of everything in the row that may be long, in bytes.
    pub(super) fn len_bytes(&self) -> usize {
        let payer = self.payer.as_ref().map_or(0, String::len);
        let envelope = self.envelope.as_ref().map_or(0, Bytes::len);
        self.topic.len() + payer + envelope
    }

    /// Returns the payer that the row names.
    fn payer(&self) -> Option<PayerAddress> {
        self.payer.as_ref()?.parse().ok()
    }
}

/// The defect of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The envelope is described and its bytes are missing.
    #[error("the row is missing in the table gateway_envelopes_blob")]
    Half,
    /// The envelope or its topic is longer than any that a node takes.
    #[error("the envelope or its topic has more than 32 MiB, or the row has no topic")]
    Long,
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
    /// The BLAKE3 hash over sequence ids and BLAKE3 hashes of envelopes, in order.
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

/// The digest of a strand: the sequence ids and the hashes of its canonically encoded envelopes, in order.
#[derive(Debug, Default)]
pub(super) struct StrandDigest(blake3::Hasher);

impl StrandDigest {
    pub(super) fn add(&mut self, at: SequenceId, envelope: &blake3::Hash) {
        self.0.update(&at.0.to_be_bytes());
        self.0.update(envelope.as_bytes());
    }

    pub(super) fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// The results of a step for rows, each by the sequence id in the row.
pub(super) type RowResults<T> = Vec<(i64, Result<T, RowError>)>;

/// A row that was found good by itself, without the preceding rows.
#[derive(Debug)]
pub(super) struct CheckedRow {
    /// The hash of the canonically encoded envelope.
    hash: blake3::Hash,
    was_rewritten: bool,
    /// The entry for the log.
    entry: LogEntry,
}

/// Checks rows of one strand, each by itself: both signatures, the rules of the network, and the columns of the tables.
/// Does no I/O.
pub(super) fn check_rows(
    verifier: &EnvelopeVerifier,
    rows: &[SourceRow],
) -> RowResults<CheckedRow> {
    let opened: Vec<_> = rows.iter().map(|row| open(verifier.originator, row)).collect();
    let good = || rows.iter().zip(&opened).filter_map(|(row, it)| Some((row, it.as_ref().ok()?)));
    let bytes = good().map(|(_, opened)| opened.bytes.clone()).collect();
    let payers: Vec<_> = good().map(|(row, _)| row.payer()).collect();
    let mut entries = verifier.check_named(bytes, &payers).into_iter();
    let mut finish = |source: &SourceRow, opened: Result<OpenedRow, RowError>| {
        let was_rewritten = opened?.was_rewritten;
        let entry = entries.next().expect("one result for each opened row");
        let entry = entry.map_err(|_| RowError::Forged)?;
        require_described(source, &entry)?;
        Ok(CheckedRow { hash: blake3::hash(&entry.bytes), was_rewritten, entry })
    };
    rows.iter().zip(opened).map(|(row, opened)| (row.sequence, finish(row, opened))).collect()
}

/// A row that was decoded.
struct OpenedRow {
    /// The canonically encoded envelope.
    bytes: Bytes,
    was_rewritten: bool,
}

/// The import of one strand: takes checked rows in their order, and converts them to changes of the log. Does no I/O.
#[derive(Debug)]
pub(super) struct StrandImport {
    report: StrandReport,
    digest: StrandDigest,
    /// The end of the strand in the log, from an earlier run.
    held: SequenceId,
}

impl StrandImport {
    /// Begins with the first row of a strand. The log has the strand up to `held`.
    pub(super) fn new(originator: OriginatorId, held: SequenceId) -> Self {
        let report = StrandReport {
            originator,
            envelopes: 0,
            digest: [0; 32],
            head: SequenceId::NONE,
            missing: 0,
            rewritten: 0,
            invalid: BTreeMap::new(),
        };
        Self { report, digest: StrandDigest::default(), held }
    }

    /// Takes the next rows of the strand. Returns the changes for those that the log lacks, in order.
    ///
    /// # Errors
    /// The first bad row, by its sequence id.
    pub(super) fn take(
        &mut self,
        rows: RowResults<CheckedRow>,
    ) -> Result<Vec<Change>, (i64, RowError)> {
        let mut changes = Vec::with_capacity(rows.len());
        for (sequence, row) in rows {
            let taken = row.and_then(|row| self.take_row(row, &mut changes));
            taken.map_err(|error| (sequence, error))?;
        }
        Ok(changes)
    }

    fn take_row(&mut self, row: CheckedRow, changes: &mut Vec<Change>) -> Result<(), RowError> {
        let CheckedRow { hash, was_rewritten, entry } = row;
        let (at, last) = (entry.id.sequence, self.report.head);
        if at <= last {
            return Err(RowError::Order);
        }
        if let Validity::Invalid(rule) = entry.validity {
            *self.report.invalid.entry(rule.0).or_default() += 1;
        }
        self.digest.add(at, &hash);
        self.report.envelopes += 1;
        self.report.rewritten += u64::from(was_rewritten);
        self.report.missing += at.0 - last.0 - 1;
        self.report.head = at;
        if at > self.held {
            changes.extend(gap(entry.id.originator, last.max(self.held), at));
            changes.push(Change::Append(entry));
        }
        Ok(())
    }

    /// Returns the report on the rows that were taken.
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
fn open(originator: OriginatorId, row: &SourceRow) -> Result<OpenedRow, RowError> {
    if row.is_long {
        return Err(RowError::Long);
    }
    let bytes = row.envelope.as_ref().ok_or(RowError::Half)?;
    let at = SequenceId(u64::try_from(row.sequence).map_err(|_| RowError::Order)?);
    let outer = open_canonical(bytes.clone()).ok_or(RowError::Malformed)?;
    let (id, _) =
        OriginatorEnvelope::statement(outer.statement).map_err(|_| RowError::Malformed)?;
    if (id.originator, id.sequence) != (originator, at) {
        return Err(RowError::OtherPlace);
    }
    Ok(OpenedRow { bytes: outer.bytes, was_rewritten: outer.was_rewritten })
}

/// Checks that the columns about an envelope agree with the envelope, as far as readers see them.
fn require_described(row: &SourceRow, entry: &LogEntry) -> Result<(), RowError> {
    let Some(facts) = &entry.facts else { return Ok(()) };
    let stated = facts.expiry_unix_s.and_then(|it| i64::try_from(it).ok());
    let is_payer = match (&facts.charge, &row.payer) {
        (Some(charge), Some(said)) => {
            let said = said.strip_prefix("0x").unwrap_or(said);
            hex::encode(charge.payer.0).eq_ignore_ascii_case(said)
        }
        _ => true,
    };
    // Of an envelope that is hidden from readers, only the payer is compared.
    let is_topic = facts.topic.as_ref().is_none_or(|it| it.as_bytes()[..] == row.topic[..]);
    if is_topic && stated.is_none_or(|it| it == row.expiry) && is_payer {
        return Ok(());
    }
    Err(RowError::Described)
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
    use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope;
    use hawser_rules::Absences;

    use super::*;

    const OWN: OriginatorId = OriginatorId(100);
    const S: u64 = 1_700_000_000;
    const DAYS: u8 = 60;
    /// An application message in a group.
    const CLIENT: &str = "0a13121100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa12250a230a210001000210\
                          aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000000000000101000000";

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32]).unwrap()
    }

    fn verifier() -> EnvelopeVerifier {
        let key = key(1).public_key();
        EnvelopeVerifier { originator: OWN, key, own: OWN, absences: Absences::NONE }
    }

    /// Returns a row as xmtpd writes it.
    fn row(place: u64, payer: &SecretKey, expiry_unix_s: u64) -> SourceRow {
        let client = Bytes::from(hex::decode(CLIENT).unwrap());
        let signed = PayerEnvelope::sign(client.clone(), OWN, DAYS.into(), payer);
        let signature = signed.payer_signature.unwrap().bytes;
        let head = [0x0a, u8::try_from(client.len()).unwrap()];
        let tail = [0x18, 100, 0x20, DAYS];
        let parts: [&[u8]; 5] = [&head, &client, &[0x12, 67, 0x0a, 65], &signature, &tail];
        let bytes = UnsealedEnvelope::new(&UnsignedOriginatorEnvelope {
            originator_node_id: OWN.0,
            originator_sequence_id: place,
            originator_ns: i64::try_from(S * 1_000_000_000 + place).unwrap(),
            payer_envelope_bytes: parts.concat().into(),
            base_fee_picodollars: 7,
            congestion_fee_picodollars: 0,
            expiry_unixtime: expiry_unix_s,
        })
        .seal(&key(1));
        let envelope = OriginatorEnvelope::parse(bytes.clone()).unwrap();
        let topic = envelope.unsigned().payer().client().topic().as_bytes().to_vec();
        SourceRow {
            sequence: i64::try_from(place).unwrap(),
            is_long: false,
            topic,
            expiry: i64::try_from(expiry_unix_s).unwrap(),
            payer: Some(payer.public_key().address().to_string()),
            envelope: Some(bytes),
        }
    }

    /// Three payers take turns. One envelope breaks a rule, and one row names no payer.
    fn rows() -> Vec<SourceRow> {
        let expiry = S + u64::from(DAYS) * 86_400;
        let payer = |place: u64| key(u8::try_from(2 + place % 3).unwrap());
        let mut rows: Vec<_> = (1..=90)
            .map(|place| row(place, &payer(place), expiry + 2 * 86_400 * u64::from(place == 9)))
            .collect();
        rows[20].payer = None;
        rows
    }

    #[test]
    fn rows_become_the_entries_that_a_follower_makes() {
        let (verifier, rows) = (verifier(), rows());
        let mut strand = StrandImport::new(OWN, SequenceId::NONE);
        let changes = strand.take(check_rows(&verifier, &rows)).unwrap();
        let report = strand.finish();
        assert_eq!((report.envelopes, report.head), (90, SequenceId(90)));
        assert_eq!(report.invalid.values().sum::<u64>(), 1);

        let followed = rows.iter().map(|row| {
            let bytes = row.envelope.clone().unwrap();
            Change::Append(verifier.check(vec![bytes]).remove(0).unwrap())
        });
        assert_eq!(changes, followed.collect::<Vec<_>>());
        let is_charged = |change: &&Change| match change {
            Change::Append(entry) => entry.facts.as_ref().is_some_and(|it| it.charge.is_some()),
            Change::Skip { .. } => false,
        };
        assert_eq!(changes.iter().filter(is_charged).count(), 90);
    }

    #[test]
    fn rows_of_an_earlier_run_are_checked_again_and_not_written_again() {
        let (verifier, mut rows) = (verifier(), rows());
        rows.remove(40);
        let of = |held, rows: &[SourceRow]| {
            let mut strand = StrandImport::new(OWN, SequenceId(held));
            strand.take(check_rows(&verifier, rows)).map(|changes| (changes, strand.finish()))
        };
        let (all, report) = of(0, &rows).unwrap();
        assert_eq!((all.len(), report.missing), (90, 1), "89 envelopes and a gap");
        // The earlier run has ended before, within and after the gap.
        for (held, rest) in [(40, 50), (41, 49), (60, 30), (90, 0)] {
            let (changes, again) = of(held, &rows).unwrap();
            assert_eq!((changes.len(), &again), (rest, &report), "held up to {held}");
            assert_eq!(changes, all[all.len() - rest..]);
        }
        rows[10].expiry += 1;
        assert_eq!(of(90, &rows).unwrap_err(), (11, RowError::Described));
    }

    #[test]
    fn a_bad_row_is_named_among_good_ones() {
        let forged = SourceRow { envelope: rows()[30].envelope.clone(), ..rows()[31].clone() };
        let other_payer = SourceRow { payer: rows()[30].payer.clone(), ..rows()[31].clone() };
        let half = SourceRow { envelope: None, ..rows()[31].clone() };
        let long = SourceRow { envelope: None, is_long: true, ..rows()[31].clone() };
        for (bad, reason) in [
            (forged, RowError::OtherPlace),
            (other_payer, RowError::Described),
            (half, RowError::Half),
            (long, RowError::Long),
            (rows()[29].clone(), RowError::Order),
        ] {
            let mut rows = rows();
            let at = bad.sequence;
            rows[31] = bad;
            let mut strand = StrandImport::new(OWN, SequenceId::NONE);
            let refused = strand.take(check_rows(&verifier(), &rows));
            assert_eq!(refused, Err((at, reason)));
        }
    }
}
