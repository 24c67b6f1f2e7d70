//! Reading files of the table `log` again, and columns of others. They are untrusted: a stranger may have written them.
//!
//! Bounds: a file has the columns of this program and no compression; row groups and pages may claim no more rows and
//! bytes than this program writes, and the footer no more bytes than its rows explain; no two of their columns share
//! bytes; all rows are of one strand; a claimed length is compared with the present bytes before anything is allocated
//! by it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hawser_proto::{Bytes, OriginatorId, SequenceId};
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, get_column_reader, get_typed_column_reader};
use parquet::data_type::{BoolType, ByteArrayType, DataType, FixedLenByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{ChunkReader, FileReader, Length, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;

use super::columns::{ExportedRow, LogColumns, ReadRow};
use super::error::ExportError;
use super::part::{FileDigest, GROUP_LEN_BYTES, GROUP_ROWS, open_plain, verify};
use super::table::{Column, ColumnKind, LOG, Table, Value};
use crate::replay::StrandRow;

/// Length of the longest footer that is read, in bytes. A guess: a file has a few dozen row groups, and thousands only
/// where a log has nothing but pruned places.
const FOOTER_LEN_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Length of a footer that a file of any length may have, in bytes. A guess: ten times that of a file of one row group.
/// A footer may take a hundred times as much memory as it is long.
const FOOTER_LEN_BYTES_MIN: u64 = 64 * 1024;
/// Bytes of a file for each further byte of its footer. Calculated: each row group but the last one has half a MiB at
/// least, and less than 8 KiB of the footer.
const LEN_BYTES_PER_FOOTER_BYTE: u64 = 64;
/// Bytes of one column of a row group: this program's own bound, one envelope above it, and the headers of pages.
const CHUNK_LEN_BYTES_MAX: u64 = 2 * (GROUP_LEN_BYTES as u64) + 32 * 1024 * 1024;
/// The end of each file: the length of the footer, and the magic bytes.
const TAIL_LEN_BYTES: u64 = 8;

/// A file of the table `log`, row group after row group.
pub struct PartReader {
    path: PathBuf,
    reader: TableReader,
    next_group: usize,
    /// The strand of the first row.
    originator: Option<OriginatorId>,
    rows: VecDeque<(OriginatorId, ReadRow)>,
}

impl PartReader {
    /// Opens a file. Does not follow a link, and does not block on a pipe.
    ///
    /// # Errors
    /// When it cannot be read, or is not one that this program writes.
    pub fn open(path: &Path) -> Result<Self, ExportError> {
        Self::new(path, Bounded::of_file(open_plain(path)?))
    }

    /// Opens a file, and requires that it has the listed bytes. The rows come from the file that was compared, even if
    /// another one has its name since.
    ///
    /// # Errors
    /// When it cannot be read, has other bytes, or is not one that this program writes.
    pub(super) fn open_verified(path: &Path, listed: &FileDigest) -> Result<Self, ExportError> {
        Ok(Self::of_table(path, open_table_verified(path, listed, &LOG)?))
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// When they are not those of a file that this program writes.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, ExportError> {
        Self::new(Path::new("bytes"), Bounded::Memory(bytes))
    }

    fn new(path: &Path, file: Bounded) -> Result<Self, ExportError> {
        Ok(Self::of_table(path, open_table(path, file, &LOG)?))
    }

    fn of_table(path: &Path, reader: TableReader) -> Self {
        let (path, rows) = (path.to_owned(), VecDeque::new());
        Self { path, reader, next_group: 0, originator: None, rows }
    }

    /// Returns the last envelope of the file, if it has one. Reads from the end.
    pub(super) fn last_envelope(&mut self) -> Result<Option<(SequenceId, Bytes)>, ExportError> {
        let envelope = |(_, read): (OriginatorId, ReadRow)| match read.row {
            ExportedRow::Row(StrandRow::Envelope { sequence, bytes, .. }) => {
                Some((sequence, bytes))
            }
            _ => None,
        };
        for group in (0..self.reader.num_row_groups()).rev() {
            self.next_group = group;
            self.load()?;
            let last = std::mem::take(&mut self.rows).into_iter().rev().find_map(envelope);
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }

    /// Reads the next row group, if there is one.
    fn load(&mut self) -> Result<(), ExportError> {
        if self.next_group >= self.reader.num_row_groups() {
            return Ok(());
        }
        let at = self.next_group;
        self.next_group += 1;
        let malformed = |text: String| ExportError::malformed(&self.path, text);
        let rows = guarded(|| read_group(&self.reader, at)).map_err(malformed)?;
        let strand = self.originator.or_else(|| rows.first().map(|(originator, _)| *originator));
        if rows.iter().any(|(originator, _)| Some(*originator) != strand) {
            return Err(malformed("its rows are of several strands".to_owned()));
        }
        self.originator = strand;
        self.rows = rows.into();
        Ok(())
    }
}

impl Iterator for PartReader {
    type Item = Result<(OriginatorId, ReadRow), ExportError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.rows.is_empty() && self.next_group < self.reader.num_row_groups() {
            if let Err(error) = self.load() {
                self.next_group = usize::MAX;
                return Some(Err(error));
            }
        }
        self.rows.pop_front().map(Ok)
    }
}

/// A file of one table.
pub(super) type TableReader = SerializedFileReader<Bounded>;

/// Opens a file of a table, and requires that it has the listed bytes.
///
/// # Errors
/// When it cannot be read, has other bytes, or is not one that this program writes.
pub(super) fn open_table_verified(
    path: &Path,
    listed: &FileDigest,
    table: &Table,
) -> Result<TableReader, ExportError> {
    let mut file = open_plain(path)?;
    verify(&mut file, path, &[listed])?;
    open_table(path, Bounded::of_file(file), table)
}

fn open_table(path: &Path, file: Bounded, table: &Table) -> Result<TableReader, ExportError> {
    let malformed = |text: String| ExportError::malformed(path, text);
    file.check_footer().map_err(|error| malformed(error.to_string()))?;
    let reader = guarded(|| SerializedFileReader::new(file)).map_err(malformed)?;
    let found = reader.metadata().file_metadata().schema_descr().root_schema().clone();
    let expected = table.schema().map_err(ExportError::parquet(path))?;
    if found != *expected {
        let text = format!("its columns are not those of the exported table {}", table.name);
        return Err(malformed(text));
    }
    let mut read_to = 0;
    for group in reader.metadata().row_groups() {
        read_to = check_group(group, read_to).map_err(malformed)?;
    }
    Ok(reader)
}

/// Returns a reader of a column of a row group.
pub(super) fn column(
    group: &dyn RowGroupReader,
    table: &Table,
    name: &str,
    may_have_dictionary: bool,
) -> Result<ColumnReader, ParquetError> {
    let at = table.columns.iter().position(|column| column.name == name);
    let at = at.expect("the columns are those of the table");
    let pages = Pages {
        inner: group.get_column_page_reader(at)?,
        rows: u64::try_from(group.metadata().num_rows()).unwrap_or(0),
        may_have_dictionary,
        has_dictionary: false,
        value_len_bytes: if table.columns[at].kind == ColumnKind::Int { 8 } else { 4 },
    };
    let descr = group.metadata().column(at).column_descr_ptr();
    Ok(get_column_reader(descr, Box::new(pages)))
}

/// Calls a reader of the library, which may panic on bytes that no writer makes.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the file is damaged".to_owned()),
    }
}

/// Checks a row group whose columns have to begin at `read_to` or behind it, one after the other: bytes that several
/// columns name would be read once for each. Returns the end of the last one.
pub(super) fn check_group(group: &RowGroupMetaData, mut read_to: u64) -> Result<u64, String> {
    let rows_max = i64::try_from(GROUP_ROWS).unwrap_or(i64::MAX);
    if !(0..=rows_max).contains(&group.num_rows()) {
        return Err(format!("a row group of {} rows", group.num_rows()));
    }
    for column in group.columns() {
        let len_bytes = u64::try_from(column.compressed_size()).unwrap_or(u64::MAX);
        if len_bytes > CHUNK_LEN_BYTES_MAX || column.compression() != Compression::UNCOMPRESSED {
            return Err(
                "a column is compressed, or too long: another program has rewritten the file"
                    .to_owned(),
            );
        }
        // A column without values has no place.
        if len_bytes > 0 {
            let start =
                column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let start = u64::try_from(start).ok().filter(|start| *start >= read_to);
            let end = start.and_then(|start| start.checked_add(len_bytes));
            read_to = end.ok_or_else(|| "two columns have bytes in common".to_owned())?;
        }
    }
    Ok(read_to)
}

/// Reads all columns of a row group.
fn read_group(
    reader: &TableReader,
    at: usize,
) -> Result<Vec<(OriginatorId, ReadRow)>, ParquetError> {
    let group = reader.get_row_group(at)?;
    let rows = usize::try_from(group.metadata().num_rows())
        .map_err(|error| ParquetError::General(error.to_string()))?;
    let read = |of: &Column| {
        let reader = column(&*group, &LOG, of.name, of.name != "bytes")?;
        Ok(column_values(reader, rows, of)?.into_iter())
    };
    let mut columns = LOG.columns.iter().map(read).collect::<Result<Vec<_>, ParquetError>>()?;
    let fail = |at: usize| ParquetError::General(format!("row {at} is none of a log"));
    let row = |at: usize| {
        let values: Option<Vec<Value>> = columns.iter_mut().map(Iterator::next).collect();
        values.and_then(|values| LogColumns::whole(values).read()).ok_or_else(|| fail(at))
    };
    (0..rows).map(row).collect()
}

/// Reads the values of a column.
fn column_values(
    reader: ColumnReader,
    rows: usize,
    of: &Column,
) -> Result<Vec<Value>, ParquetError> {
    fn each<T>(
        values: Vec<Option<T>>,
        value: impl FnMut(T) -> Result<Value, ParquetError>,
    ) -> Result<Vec<Value>, ParquetError> {
        let mut value = value;
        values.into_iter().map(|it| it.map_or(Ok(Value::Null), &mut value)).collect()
    }
    match of.kind {
        ColumnKind::Int => {
            each(values::<Int64Type>(reader, rows, of.is_required)?, |it| Ok(Value::Int(it)))
        }
        ColumnKind::Flag => {
            each(values::<BoolType>(reader, rows, of.is_required)?, |it| Ok(Value::Flag(it)))
        }
        ColumnKind::Amount => {
            each(values::<FixedLenByteArrayType>(reader, rows, of.is_required)?, |it| {
                let amount = it.data().split_first().filter(|(first, _)| **first == 0);
                let amount = amount.and_then(|(_, amount)| <[u8; 8]>::try_from(amount).ok());
                let fail = || ParquetError::General(format!("{}: an impossible amount", of.name));
                amount.map(|amount| Value::Amount(u64::from_be_bytes(amount))).ok_or_else(fail)
            })
        }
        ColumnKind::Text | ColumnKind::Binary => {
            // A dictionary may repeat a long value in each row.
            let (mut last, mut len_bytes) = (Bytes::new(), 0);
            each(values::<ByteArrayType>(reader, rows, of.is_required)?, |it| {
                len_bytes += it.len() as u64;
                if len_bytes > CHUNK_LEN_BYTES_MAX {
                    let text = format!("{}: more bytes than a row group has", of.name);
                    return Err(ParquetError::General(text));
                }
                if last != it.data() {
                    last = Bytes::copy_from_slice(it.data());
                }
                Ok(Value::Bytes(last.clone()))
            })
        }
    }
}

/// Reads a column, with `None` for each absent value.
pub(super) fn values<T: DataType>(
    reader: ColumnReader,
    rows: usize,
    is_required: bool,
) -> Result<Vec<Option<T::T>>, ParquetError> {
    let mut reader = get_typed_column_reader::<T>(reader);
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let to = (!is_required).then_some(&mut levels);
    let (read, _, _) = reader.read_records(rows, to, None, &mut values)?;
    let short = || ParquetError::General(format!("a column has {read} of {rows} rows"));
    if read != rows {
        return Err(short());
    }
    let mut values = values.into_iter();
    if is_required {
        let found: Vec<Option<T::T>> = values.map(Some).collect();
        return if found.len() == rows { Ok(found) } else { Err(short()) };
    }
    levels
        .into_iter()
        .map(|level| if level == 0 { Ok(None) } else { values.next().map(Some).ok_or_else(short) })
        .collect()
}

/// Bytes of a file. A read never asks for more than there are.
pub(super) enum Bounded {
    File(File, u64),
    Memory(Bytes),
}

impl Bounded {
    fn of_file(file: File) -> Self {
        let len_bytes = Length::len(&file);
        Self::File(file, len_bytes)
    }

    /// Checks that the file ends as a Parquet file does, and the length that its footer states, by what this program
    /// writes: most of a file are rows.
    fn check_footer(&self) -> Result<(), ParquetError> {
        let none =
            || ParquetError::General("the file is no Parquet file, or lacks its end".to_owned());
        let start = Length::len(self).checked_sub(TAIL_LEN_BYTES).ok_or_else(none)?;
        let tail = self.get_bytes(start, 8)?;
        if tail[4..] != *b"PAR1" {
            return Err(none());
        }
        let claimed = tail[..4].iter().rev().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        let most = FOOTER_LEN_BYTES_MIN + start / LEN_BYTES_PER_FOOTER_BYTE;
        if claimed > start || claimed > most.min(FOOTER_LEN_BYTES_MAX) {
            return Err(ParquetError::General(format!("a footer of {claimed} bytes")));
        }
        Ok(())
    }
}

impl Length for Bounded {
    fn len(&self) -> u64 {
        match self {
            Self::File(_, len_bytes) => *len_bytes,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }
}

impl ChunkReader for Bounded {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        match self {
            Self::File(file, _) => Ok(Box::new(file.get_read(start)?)),
            Self::Memory(bytes) => Ok(Box::new(bytes.get_read(start)?)),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let len_bytes = Length::len(self);
        let end = start.checked_add(length as u64);
        if end.is_none_or(|end| end > len_bytes) {
            let text = format!("{length} bytes from {start}, of a file of {len_bytes}");
            return Err(ParquetError::EOF(text));
        }
        match self {
            Self::File(file, _) => file.get_bytes(start, length),
            Self::Memory(bytes) => bytes.get_bytes(start, length),
        }
    }
}

/// Pages of a column. Their claimed lengths are compared with the present bytes before they are decoded.
struct Pages {
    inner: Box<dyn PageReader>,
    /// Rows of the row group.
    rows: u64,
    /// The least length of a value, in bytes.
    value_len_bytes: u64,
    /// False for the bytes of envelopes: one of them, repeated, would cost much more to check than to send.
    may_have_dictionary: bool,
    has_dictionary: bool,
}

impl Pages {
    fn check(&mut self, page: &Page) -> Result<(), ParquetError> {
        let values = u64::from(page.num_values());
        let is_sound = match page {
            Page::DictionaryPage { buf, encoding, .. } => {
                let is_first = !std::mem::replace(&mut self.has_dictionary, true);
                is_first
                    && self.may_have_dictionary
                    && is_plain(*encoding)
                    && values.saturating_mul(self.value_len_bytes) <= buf.len() as u64
            }
            Page::DataPage { encoding, .. } => {
                let is_known = is_plain(*encoding) || *encoding == Encoding::RLE_DICTIONARY;
                is_known
                    && values <= self.rows
                    && (*encoding == Encoding::PLAIN || self.has_dictionary)
            }
            Page::DataPageV2 { .. } => false,
        };
        match is_sound {
            true => Ok(()),
            false => Err(ParquetError::General("a page that this program never writes".to_owned())),
        }
    }
}

fn is_plain(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY)
}

impl Iterator for Pages {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.inner.get_next_page()?;
        if let Some(page) = &page {
            self.check(page)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.inner.skip_next_page()
    }
}
