//! The tables of an export: their columns, and rows that wait to be written as a row group.

use std::io::Write;
use std::sync::Arc;

use hawser_proto::Bytes;
use parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};

/// Digits of an amount: those of the largest 64-bit number.
const AMOUNT_DIGITS: i32 = 20;
/// Bytes of an amount: the fewest that hold [`AMOUNT_DIGITS`] and a sign.
const AMOUNT_LEN_BYTES: i32 = 9;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnKind {
    /// `INT64`.
    Int,
    /// `DECIMAL(20, 0)`: an unsigned 64-bit number that may exceed 63 bits.
    Amount,
    /// UTF-8.
    Text,
    /// Bytes.
    Binary,
    /// A truth value.
    Flag,
}

impl ColumnKind {
    /// Returns the name of the type in the documentation.
    #[cfg(test)]
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Int => "INT64",
            Self::Amount => "DECIMAL(20,0)",
            Self::Text => "STRING",
            Self::Binary => "BINARY",
            Self::Flag => "BOOLEAN",
        }
    }
}

/// One column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: ColumnKind,
    /// True if each row has a value.
    pub(super) is_required: bool,
    /// True if few rows share a value: a dictionary would only cost.
    is_distinct: bool,
}

const fn required(name: &'static str, kind: ColumnKind) -> Column {
    Column { name, kind, is_required: true, is_distinct: false }
}

const fn optional(name: &'static str, kind: ColumnKind) -> Column {
    Column { name, kind, is_required: false, is_distinct: false }
}

const fn distinct(column: Column) -> Column {
    Column { is_distinct: true, ..column }
}

/// One table. Its rows are sorted by its first columns.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [Column],
    /// The number of columns that rows are sorted by.
    sorted_by: i32,
}

/// The columns of [`LOG`], in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogColumn {
    OriginatorId,
    SequenceId,
    ThroughSequenceId,
    Kind,
    Mark,
    Rule,
    OriginatorNs,
    Minute,
    Topic,
    TopicKind,
    Payer,
    LenBytes,
    PayerLenBytes,
    BaseFee,
    CongestionFee,
    RetentionDays,
    ExpiryUnixS,
    IsCharged,
    CountsForCongestion,
    LeafHash,
    Bytes,
}

/// The rows of the log.
pub(super) static LOG: Table = Table {
    name: "log",
    columns: &[
        required("originator_id", ColumnKind::Int),
        distinct(required("sequence_id", ColumnKind::Int)),
        distinct(required("through_sequence_id", ColumnKind::Int)),
        required("kind", ColumnKind::Text),
        optional("mark", ColumnKind::Text),
        optional("rule", ColumnKind::Int),
        distinct(optional("originator_ns", ColumnKind::Int)),
        optional("minute", ColumnKind::Int),
        optional("topic", ColumnKind::Binary),
        optional("topic_kind", ColumnKind::Int),
        optional("payer", ColumnKind::Text),
        optional("len_bytes", ColumnKind::Int),
        optional("payer_len_bytes", ColumnKind::Int),
        optional("base_fee_picodollars", ColumnKind::Amount),
        optional("congestion_fee_picodollars", ColumnKind::Amount),
        optional("retention_days", ColumnKind::Int),
        optional("expiry_unix_s", ColumnKind::Amount),
        optional("is_charged", ColumnKind::Flag),
        optional("counts_for_congestion", ColumnKind::Flag),
        distinct(optional("leaf_hash", ColumnKind::Binary)),
        distinct(optional("bytes", ColumnKind::Binary)),
    ],
    sorted_by: 2,
};

/// The tallies of payers.
pub(super) static USAGE: Table = Table {
    name: "usage",
    columns: &[
        required("originator_id", ColumnKind::Int),
        required("minute", ColumnKind::Int),
        required("payer", ColumnKind::Text),
        required("picodollars", ColumnKind::Amount),
        required("stated_picodollars", ColumnKind::Amount),
        required("messages", ColumnKind::Int),
        required("bytes", ColumnKind::Int),
        required("last_sequence_id", ColumnKind::Int),
    ],
    sorted_by: 3,
};

/// The messages that count for congestion.
pub(super) static CONGESTION: Table = Table {
    name: "congestion",
    columns: &[
        required("originator_id", ColumnKind::Int),
        required("minute", ColumnKind::Int),
        required("messages", ColumnKind::Int),
    ],
    sorted_by: 2,
};

/// Checkpoints: statements of nodes about the trees of strands.
pub(super) static CHECKPOINTS: Table = Table {
    name: "checkpoints",
    columns: &[
        required("originator_id", ColumnKind::Int),
        required("minute", ColumnKind::Int),
        required("node_id", ColumnKind::Int),
        distinct(required("size", ColumnKind::Int)),
        distinct(required("time_ns", ColumnKind::Amount)),
        distinct(required("root", ColumnKind::Binary)),
        required("cosigned_by", ColumnKind::Int),
        required("witnessed_by", ColumnKind::Int),
        distinct(required("checkpoint", ColumnKind::Binary)),
    ],
    sorted_by: 2,
};

/// Statements of a strand's node about void places.
pub(super) static VOID_STATEMENTS: Table = Table {
    name: "void_statements",
    columns: &[
        required("originator_id", ColumnKind::Int),
        required("minute", ColumnKind::Int),
        distinct(required("sequence_id", ColumnKind::Int)),
        distinct(required("through_sequence_id", ColumnKind::Int)),
        distinct(required("time_ns", ColumnKind::Amount)),
        distinct(required("statement", ColumnKind::Binary)),
    ],
    sorted_by: 2,
};

/// The rates that the keeper of the log has recorded.
pub(super) static RATES: Table = Table {
    name: "rates",
    columns: &[
        distinct(required("start_unix_s", ColumnKind::Amount)),
        required("message_fee", ColumnKind::Amount),
        required("storage_fee", ColumnKind::Amount),
        required("congestion_fee", ColumnKind::Amount),
        required("target_rate_per_minute", ColumnKind::Amount),
    ],
    sorted_by: 1,
};

/// The tables. Each is a folder of an export.
pub(super) static TABLES: [&Table; 6] =
    [&LOG, &USAGE, &CONGESTION, &CHECKPOINTS, &VOID_STATEMENTS, &RATES];

/// The value of a row in a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Amount(u64),
    /// Text or binary.
    Bytes(Bytes),
    Flag(bool),
}

impl Value {
    /// Converts a number from outside, saturating at 63 bits: only columns of amounts hold larger ones.
    pub(crate) fn int(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }

    pub(super) fn text(text: &'static str) -> Self {
        Self::Bytes(Bytes::from_static(text.as_bytes()))
    }

    fn len_bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            _ => 8,
        }
    }
}

impl Table {
    /// Returns the schema, as files state it.
    pub(super) fn schema(&self) -> Result<TypePtr, ParquetError> {
        let fields = self.columns.iter().map(|column| column.schema().map(Arc::new));
        let fields = fields.collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(Type::group_type_builder(self.name).with_fields(fields).build()?))
    }

    /// Returns the properties that files are written with. They compress nothing: encrypted payloads do not shrink, and
    /// a reader need not trust a claimed length of the decompressed bytes.
    pub(super) fn properties(&self) -> WriterProperties {
        let sorted =
            |column_idx| SortingColumn { column_idx, descending: false, nulls_first: false };
        let mut properties = WriterProperties::builder()
            .set_created_by("hawser".to_owned())
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_sorting_columns(Some((0..self.sorted_by).map(sorted).collect()));
        for column in self.columns.iter().filter(|column| column.is_distinct) {
            let path = || ColumnPath::from(column.name);
            properties = properties.set_column_dictionary_enabled(path(), false);
            if column.kind == ColumnKind::Binary {
                let none = EnabledStatistics::None;
                properties = properties.set_column_statistics_enabled(path(), none);
            }
        }
        properties.build()
    }
}

impl Column {
    fn schema(&self) -> Result<Type, ParquetError> {
        let (physical, logical, len_bytes) = match self.kind {
            ColumnKind::Int => (PhysicalType::INT64, None, -1),
            ColumnKind::Amount => {
                let decimal = LogicalType::decimal(0, AMOUNT_DIGITS);
                (PhysicalType::FIXED_LEN_BYTE_ARRAY, Some(decimal), AMOUNT_LEN_BYTES)
            }
            ColumnKind::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String), -1),
            ColumnKind::Binary => (PhysicalType::BYTE_ARRAY, None, -1),
            ColumnKind::Flag => (PhysicalType::BOOLEAN, None, -1),
        };
        let is_amount = self.kind == ColumnKind::Amount;
        let repetition = if self.is_required { Repetition::REQUIRED } else { Repetition::OPTIONAL };
        Type::primitive_type_builder(self.name, physical)
            .with_repetition(repetition)
            .with_logical_type(logical)
            .with_length(len_bytes)
            .with_precision(if is_amount { AMOUNT_DIGITS } else { -1 })
            .with_scale(if is_amount { 0 } else { -1 })
            .build()
    }
}

/// The values of a column, without the absent ones.
#[derive(Debug)]
enum Values {
    Int(Vec<i64>),
    Amount(Vec<FixedLenByteArray>),
    Bytes(Vec<ByteArray>),
    Flag(Vec<bool>),
}

/// Rows that wait to be written. Keeps its memory for the rows of further groups.
#[derive(Debug)]
pub(super) struct RowGroup {
    table: &'static Table,
    columns: Vec<Values>,
    /// For each column and row 1 if there is a value and 0 if not.
    levels: Vec<Vec<i16>>,
    rows: usize,
    len_bytes: usize,
}

impl RowGroup {
    pub(super) fn new(table: &'static Table) -> Self {
        let values = |column: &Column| match column.kind {
            ColumnKind::Int => Values::Int(Vec::new()),
            ColumnKind::Amount => Values::Amount(Vec::new()),
            ColumnKind::Text | ColumnKind::Binary => Values::Bytes(Vec::new()),
            ColumnKind::Flag => Values::Flag(Vec::new()),
        };
        let columns: Vec<Values> = table.columns.iter().map(values).collect();
        let levels = vec![Vec::new(); columns.len()];
        Self { table, columns, levels, rows: 0, len_bytes: 0 }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the length of all values together, in bytes.
    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Adds a row.
    ///
    /// # Panics
    /// For a row of another table: rows are made by this program.
    pub(super) fn push(&mut self, row: Vec<Value>) {
        assert_eq!(row.len(), self.columns.len(), "a row has a value for each column");
        for (at, value) in row.into_iter().enumerate() {
            let column = &self.table.columns[at];
            self.len_bytes += value.len_bytes();
            self.levels[at].push(i16::from(value != Value::Null));
            match (&mut self.columns[at], value) {
                (_, Value::Null) => assert!(!column.is_required, "{} has a value", column.name),
                (Values::Int(values), Value::Int(number)) => values.push(number),
                (Values::Amount(values), Value::Amount(number)) => {
                    // One allocation: there are three amounts in each row.
                    let bytes = [&[0_u8][..], &number.to_be_bytes()].concat();
                    values.push(FixedLenByteArray::from(bytes));
                }
                (Values::Bytes(values), Value::Bytes(bytes)) => {
                    values.push(ByteArray::from(bytes));
                }
                (Values::Flag(values), Value::Flag(flag)) => values.push(flag),
                (_, other) => panic!("{other:?} in column {}", column.name),
            }
        }
        self.rows += 1;
    }

    /// Writes the rows, and forgets them.
    pub(super) fn write<W: Write + Send>(
        &mut self,
        to: &mut SerializedFileWriter<W>,
    ) -> Result<(), ParquetError> {
        let Self { table, columns, levels, rows, len_bytes } = self;
        (*rows, *len_bytes) = (0, 0);
        let mut group = to.next_row_group()?;
        for ((column, values), levels) in table.columns.iter().zip(columns).zip(levels) {
            let mut writer = group
                .next_column()?
                .ok_or_else(|| ParquetError::General("a column is missing".to_owned()))?;
            values.write(&mut writer, (!column.is_required).then_some(&levels[..]))?;
            writer.close()?;
            values.clear();
            levels.clear();
        }
        group.close()?;
        Ok(())
    }
}

impl Values {
    fn clear(&mut self) {
        match self {
            Self::Int(values) => values.clear(),
            Self::Amount(values) => values.clear(),
            Self::Bytes(values) => values.clear(),
            Self::Flag(values) => values.clear(),
        }
    }

    fn write(
        &self,
        to: &mut SerializedColumnWriter<'_>,
        levels: Option<&[i16]>,
    ) -> Result<usize, ParquetError> {
        match self {
            Self::Int(values) => to.typed::<Int64Type>().write_batch(values, levels, None),
            Self::Amount(values) => {
                to.typed::<FixedLenByteArrayType>().write_batch(values, levels, None)
            }
            Self::Bytes(values) => to.typed::<ByteArrayType>().write_batch(values, levels, None),
            Self::Flag(values) => to.typed::<BoolType>().write_batch(values, levels, None),
        }
    }
}
