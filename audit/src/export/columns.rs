//! Checks of columns when rows are read again: each column must have the value that follows from the row's envelope, or
//! from its keeper's record.
//!
//! The attacker is the writer of an export who leaves the signed bytes as they are and alters a column from which bills
//! are summed.

use hawser_proto::merkle::TreeHash;
use hawser_proto::price::PicoDollarPrice;
use hawser_proto::{Address, Bytes, OriginatorId, SequenceId};

use super::record::values_of;
use super::table::{LOG, LogColumn, Value};
use crate::replay::{EnvelopeCharge, GapReason, PrunedRecord, StoredMark, StrandRow};

/// A row of the table `log` as it is checked again, beside its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportedRow {
    /// An envelope or a gap.
    Row(StrandRow),
    /// A place whose envelope was pruned, with its keeper's record. No signature covers the record.
    Pruned {
        /// The place.
        sequence: SequenceId,
        /// The recorded time of the originator, unix nanoseconds.
        originator_ns: Option<i64>,
        /// The recorded retention, days.
        retention_days: Option<u32>,
    },
    /// The leaf of a place that is declared empty.
    VoidLeaf(SequenceId, TreeHash),
    /// The leaf of another place without an envelope. The row does not determine its hash.
    Leaf(SequenceId),
    /// A checkpoint, in binary form: a row of another table, which lines of text may have.
    Checkpoint(Bytes),
    /// A statement about void places, likewise.
    VoidStatement(Bytes),
}

/// A row that was read, and all columns that state it; none for a row of another table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRow {
    /// The row.
    pub row: ExportedRow,
    /// The columns, which need not be those of the row's envelope.
    pub columns: Option<LogColumns>,
}

/// The values of a row of the table `log`, as a file or a line of text states them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogColumns {
    values: Vec<Value>,
    /// False for a line of text that names some columns alone: absent values are not compared.
    is_whole: bool,
}

/// The comparison of a row's columns with those that follow from its envelope or record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ColumnJudgement {
    /// The names of the columns that differ.
    pub(crate) differing: Vec<&'static str>,
    /// True if the envelope has a payer, and the row names none: nothing can differ.
    pub(crate) lacks_payer: bool,
    /// True if the row does not have all columns.
    pub(crate) lacks_columns: bool,
}

impl ColumnJudgement {
    /// Names the payer among the differing columns, if the row lacks the one of its envelope.
    pub(crate) fn with_payer(mut self) -> Self {
        if std::mem::take(&mut self.lacks_payer) {
            self.differing.push(LOG.columns[LogColumn::Payer as usize].name);
        }
        self
    }
}

impl LogColumns {
    /// Takes all values of a row, in the order of the table's columns.
    pub(super) fn whole(values: Vec<Value>) -> Self {
        assert_eq!(values.len(), LOG.columns.len(), "a row has a value for each column");
        Self { values, is_whole: true }
    }

    /// Takes the values of a line of text, which may lack columns. An engine writes no absent values, so a line is
    /// whole if it has the one that no envelope and no record lacks.
    pub(crate) fn of_line(values: Vec<Value>) -> Self {
        let columns = Self::whole(values);
        let kind = columns.bytes(LogColumn::Kind);
        let is_described = kind.is_some_and(|kind| matches!(&kind[..], b"envelope" | b"pruned"));
        let is_whole = !is_described || columns.flag(LogColumn::IsCharged).is_some();
        Self { is_whole, ..columns }
    }

    fn value(&self, column: LogColumn) -> &Value {
        &self.values[column as usize]
    }

    fn int(&self, column: LogColumn) -> Option<i64> {
        match self.value(column) {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    fn number(&self, column: LogColumn) -> Option<u64> {
        self.int(column).and_then(|number| u64::try_from(number).ok())
    }

    fn days(&self) -> Option<u32> {
        self.int(LogColumn::RetentionDays).and_then(|days| u32::try_from(days).ok())
    }

    fn bytes(&self, column: LogColumn) -> Option<&Bytes> {
        match self.value(column) {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn flag(&self, column: LogColumn) -> Option<bool> {
        match self.value(column) {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    /// Returns the row and its strand; `None` if the values form no row.
    pub(crate) fn read(self) -> Option<(OriginatorId, ReadRow)> {
        let row = self.row()?;
        Some((self.originator()?, ReadRow { row, columns: Some(self) }))
    }

    fn originator(&self) -> Option<OriginatorId> {
        self.int(LogColumn::OriginatorId).and_then(|id| u32::try_from(id).ok()).map(OriginatorId)
    }

    fn place(&self, column: LogColumn) -> Option<SequenceId> {
        self.number(column).filter(|place| *place > 0).map(SequenceId)
    }

    fn leaf(&self) -> Option<TreeHash> {
        self.bytes(LogColumn::LeafHash).and_then(|leaf| TreeHash::from_slice(leaf))
    }

    fn row(&self) -> Option<ExportedRow> {
        let from = self.place(LogColumn::SequenceId)?;
        let through = self.place(LogColumn::ThroughSequenceId)?;
        let leaf = self.leaf();
        if leaf.is_none() && self.bytes(LogColumn::LeafHash).is_some() {
            return None;
        }
        let gap = |reason| (through >= from).then_some(StrandRow::Gap { from, through, reason });
        let mark = self.bytes(LogColumn::Mark).map(|mark| &mark[..]);
        let row = match &self.bytes(LogColumn::Kind)?[..] {
            b"envelope" if from == through => {
                let mark = match mark? {
                    b"valid" => StoredMark::Valid,
                    b"invalid" => {
                        StoredMark::Invalid(u8::try_from(self.int(LogColumn::Rule)?).ok()?)
                    }
                    b"waiting" => StoredMark::Waiting,
                    b"unknown" => StoredMark::Unknown,
                    _ => return None,
                };
                let bytes = self.bytes(LogColumn::Bytes)?.clone();
                StrandRow::Envelope { sequence: from, bytes, mark, leaf }
            }
            b"leaf" if mark == Some(b"void") => {
                return leaf.map(|leaf| ExportedRow::VoidLeaf(from, leaf));
            }
            b"leaf" => return Some(ExportedRow::Leaf(from)),
            b"pruned" if from == through => {
                return Some(ExportedRow::Pruned {
                    sequence: from,
                    originator_ns: self.int(LogColumn::OriginatorNs),
                    retention_days: self.days(),
                });
            }
            b"pruned" => return None, // each pruned place has a record of its own
            kind => gap(gap_reason(kind)?)?,
        };
        Some(ExportedRow::Row(row))
    }

    /// Compares the columns with those that an envelope gives. `payer` is the account that its payer's signature
    /// recovers to; `None` if it was not recovered, and the column is not compared.
    pub(crate) fn judge_envelope(
        &self,
        originator: OriginatorId,
        row: StrandRow,
        payer: Option<Option<Address>>,
    ) -> ColumnJudgement {
        let mut expected = values_of(originator, row, payer.flatten());
        let stated = self.value(LogColumn::Payer);
        let at = LogColumn::Payer as usize;
        let lacks_payer = payer.is_some() && *stated == Value::Null && expected[at] != Value::Null;
        if payer.is_none() || lacks_payer {
            expected[at] = stated.clone();
        }
        let lacks_payer = lacks_payer && self.is_whole;
        ColumnJudgement { lacks_payer, ..self.judge(&expected) }
    }

    /// Compares the columns of a row without an envelope with those that its kind and its record leave it.
    pub(crate) fn judge_other(&self, row: &ExportedRow) -> ColumnJudgement {
        let originator = self.originator().unwrap_or(OriginatorId(0));
        let expected = match row {
            ExportedRow::Row(row) => Ok(values_of(originator, row.clone(), None)),
            ExportedRow::VoidLeaf(sequence, leaf) => {
                Ok(self.leaf_values(originator, *sequence, *leaf))
            }
            ExportedRow::Leaf(sequence) => {
                let values = |leaf| self.leaf_values(originator, *sequence, leaf);
                self.leaf().map(values).ok_or("leaf_hash")
            }
            ExportedRow::Pruned { sequence, originator_ns: Some(originator_ns), .. } => {
                let (sequence, leaf) = (*sequence, self.leaf());
                let row = |record| StrandRow::Pruned { sequence, record, leaf };
                let values = |record| values_of(originator, row(record), None);
                self.record(*originator_ns).map(values)
            }
            // The lack of a time is a fault by itself, and the others are no rows of this table.
            ExportedRow::Pruned { .. }
            | ExportedRow::Checkpoint(_)
            | ExportedRow::VoidStatement(_) => {
                return ColumnJudgement::default();
            }
        };
        match expected {
            Ok(expected) => self.judge(&expected),
            Err(column) if self.is_whole => {
                ColumnJudgement { differing: vec![column], ..ColumnJudgement::default() }
            }
            Err(_) => ColumnJudgement { lacks_columns: true, ..ColumnJudgement::default() },
        }
    }

    /// Returns the values of a leaf's row. The mark repeats the reason of the gap, which is another row.
    fn leaf_values(
        &self,
        originator: OriginatorId,
        sequence: SequenceId,
        leaf: TreeHash,
    ) -> Vec<Value> {
        let mut values = values_of(originator, StrandRow::Leaf { sequence, leaf }, None);
        if self.bytes(LogColumn::Mark).is_some_and(|mark| gap_reason(mark).is_some()) {
            values[LogColumn::Mark as usize] = self.value(LogColumn::Mark).clone();
        }
        values
    }

    /// Returns the record of a pruned place.
    ///
    /// # Errors
    /// The name of a column that each record has, if it has no value.
    fn record(&self, originator_ns: i64) -> Result<PrunedRecord, &'static str> {
        let charge = || {
            let text = self.bytes(LogColumn::Payer)?.strip_prefix(b"0x")?;
            let payer = <[u8; 20]>::try_from(hex::decode(text).ok()?).ok()?;
            let &Value::Amount(stated) = self.value(LogColumn::BaseFee) else {
                return None;
            };
            Some(EnvelopeCharge {
                payer: Address(payer),
                size_bytes: self.number(LogColumn::PayerLenBytes)?,
                retention_days: self.days()?,
                stated_picodollars: PicoDollarPrice(stated),
            })
        };
        let counts = self.flag(LogColumn::CountsForCongestion);
        Ok(PrunedRecord {
            originator_ns,
            len_bytes: self.number(LogColumn::LenBytes).ok_or("len_bytes")?,
            charge: charge(),
            counts_for_congestion: counts.ok_or("counts_for_congestion")?,
        })
    }

    fn judge(&self, expected: &[Value]) -> ColumnJudgement {
        let is_compared = |stated: &Value| self.is_whole || *stated != Value::Null;
        let pairs = self.values.iter().zip(expected).zip(LOG.columns);
        let differing = pairs
            .filter(|((stated, expected), _)| is_compared(stated) && stated != expected)
            .map(|(_, column)| column.name)
            .collect();
        ColumnJudgement { differing, lacks_payer: false, lacks_columns: !self.is_whole }
    }
}

/// Returns the reason of a gap by its name.
fn gap_reason(name: &[u8]) -> Option<GapReason> {
    let reasons = [
        GapReason::Missing,
        GapReason::Expired,
        GapReason::Void,
        GapReason::Pruned,
        GapReason::NotShown,
    ];
    reasons.into_iter().find(|reason| reason.name().as_bytes() == name)
}

/// Returns rows of a log as a reader of their export gets them.
#[cfg(test)]
pub(crate) fn read_back(
    originator: OriginatorId,
    rows: Vec<StrandRow>,
) -> Vec<(OriginatorId, ReadRow)> {
    let records = super::record::describe(originator, true, rows).into_iter();
    records.map(|it| LogColumns::whole(it.values).read().expect("it is a row")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::testing::{MemoryLog, NODE};

    /// Returns the columns that differ once one value of a row is replaced.
    fn altered(row: &StrandRow, column: LogColumn, value: Value) -> Vec<&'static str> {
        let (_, read) = read_back(NODE, vec![row.clone()]).remove(0);
        let mut columns = read.columns.expect("it is a row of a file");
        columns.values[column as usize] = value;
        let row = columns.row().expect("it is still a row");
        columns.judge_other(&row).differing
    }

    #[test]
    fn the_places_of_the_columns_are_those_of_the_table() {
        let named = [
            (LogColumn::OriginatorId, "originator_id"),
            (LogColumn::SequenceId, "sequence_id"),
            (LogColumn::ThroughSequenceId, "through_sequence_id"),
            (LogColumn::Kind, "kind"),
            (LogColumn::Mark, "mark"),
            (LogColumn::Rule, "rule"),
            (LogColumn::OriginatorNs, "originator_ns"),
            (LogColumn::Minute, "minute"),
            (LogColumn::Topic, "topic"),
            (LogColumn::TopicKind, "topic_kind"),
            (LogColumn::Payer, "payer"),
            (LogColumn::LenBytes, "len_bytes"),
            (LogColumn::PayerLenBytes, "payer_len_bytes"),
            (LogColumn::BaseFee, "base_fee_picodollars"),
            (LogColumn::CongestionFee, "congestion_fee_picodollars"),
            (LogColumn::RetentionDays, "retention_days"),
            (LogColumn::ExpiryUnixS, "expiry_unix_s"),
            (LogColumn::IsCharged, "is_charged"),
            (LogColumn::CountsForCongestion, "counts_for_congestion"),
            (LogColumn::LeafHash, "leaf_hash"),
            (LogColumn::Bytes, "bytes"),
        ];
        assert_eq!(named.len(), LOG.columns.len());
        for (column, name) in named {
            assert_eq!(LOG.columns[column as usize].name, name);
        }
    }

    #[test]
    fn rows_without_an_envelope_carry_no_column_that_their_kind_does_not_have() {
        let (from, through) = (SequenceId(3), SequenceId(9));
        let gap = StrandRow::Gap { from, through, reason: GapReason::Void };
        let leaf = StrandRow::Leaf { sequence: from, leaf: TreeHash([1; 32]) };
        let mut log = MemoryLog::honest(9);
        log.prune(7);
        let pruned = log.rows[6].clone();
        for row in [&gap, &leaf, &pruned] {
            assert_eq!(altered(row, LogColumn::Rule, Value::Null), Vec::<&str>::new());
        }
        let charged = altered(&gap, LogColumn::IsCharged, Value::Flag(true));
        assert_eq!(charged, ["is_charged"]);
        let charged = altered(&leaf, LogColumn::BaseFee, Value::Amount(5));
        assert_eq!(charged, ["base_fee_picodollars"]);
        let void = altered(&leaf, LogColumn::Mark, Value::text("void"));
        assert_eq!(void, Vec::<&str>::new(), "the reason of its gap");
        assert_eq!(altered(&leaf, LogColumn::Mark, Value::text("valid")), ["mark"]);
        // The minute follows from the recorded time, and a charge is whole or absent.
        assert_eq!(altered(&pruned, LogColumn::OriginatorNs, Value::Int(5)), ["minute"]);
        assert!(altered(&pruned, LogColumn::Payer, Value::Null).contains(&"is_charged"));
        let payer = altered(&pruned, LogColumn::Payer, Value::text("0x5"));
        assert!(payer.contains(&"payer"), "{payer:?}");
        assert_eq!(altered(&pruned, LogColumn::LenBytes, Value::Null), ["len_bytes"]);
    }
}
