//! Rows of the tables `log` and `checkpoints` as lines of JSON, as engines pipe them to a program.

use std::io::{BufRead, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawser_proto::{Bytes, OriginatorId, SequenceId};
use hawser_rules::ENVELOPE_LEN_BYTES_MAX;
use serde::Deserialize;

use crate::export::ExportedRow;
use crate::export::read::RowFields;
use crate::replay::SourceError;

/// Length of the longest line, in bytes: the longest envelope in base64, and its other columns.
const LINE_LEN_BYTES_MAX: u64 = (ENVELOPE_LEN_BYTES_MAX as u64) / 3 * 4 + 1024 * 1024;

/// The columns that are read. Others may stand beside them.
#[derive(Debug, Deserialize)]
struct Line {
    originator_id: u32,
    #[serde(default)]
    sequence_id: u64,
    #[serde(default)]
    through_sequence_id: u64,
    /// Absent in a row of the table `checkpoints`, which alone has the last column.
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    mark: Option<String>,
    #[serde(default)]
    rule: Option<i64>,
    #[serde(default)]
    leaf_hash: Option<String>,
    #[serde(default)]
    bytes: Option<String>,
    #[serde(default)]
    originator_ns: Option<i64>,
    #[serde(default)]
    retention_days: Option<i64>,
    #[serde(default)]
    checkpoint: Option<String>,
}

/// Rows of a reader, a line for each. Ends after the first error.
pub struct LineReader<R> {
    reader: R,
    number: u64,
    line: Vec<u8>,
    has_failed: bool,
}

impl<R: BufRead> LineReader<R> {
    /// Reads lines.
    pub fn new(reader: R) -> Self {
        Self { reader, number: 0, line: Vec::new(), has_failed: false }
    }

    fn step(&mut self) -> Result<Option<(OriginatorId, ExportedRow)>, SourceError> {
        loop {
            self.number += 1;
            let fail = |error: String| SourceError(format!("line {}: {error}", self.number));
            self.line.clear();
            let mut bounded = (&mut self.reader).take(LINE_LEN_BYTES_MAX + 1);
            let read = bounded.read_until(b'\n', &mut self.line);
            match read.map_err(|error| fail(error.to_string()))? as u64 {
                0 => return Ok(None),
                read if read > LINE_LEN_BYTES_MAX => return Err(fail("it is too long".to_owned())),
                _ if self.line.trim_ascii().is_empty() => {}
                _ => return row(&self.line).map(Some).map_err(fail),
            }
        }
    }
}

fn row(line: &[u8]) -> Result<(OriginatorId, ExportedRow), String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let decode = |text: Option<String>, name: &str| {
        let bytes = text.map(|text| STANDARD.decode(text)).transpose();
        bytes.map_err(|error| format!("{name}: {error}"))
    };
    let originator = OriginatorId(line.originator_id);
    let Some(kind) = line.kind else {
        let checkpoint = decode(line.checkpoint, "checkpoint")?;
        let checkpoint = checkpoint.ok_or_else(|| "it has no kind".to_owned())?;
        return Ok((originator, ExportedRow::Checkpoint(checkpoint.into())));
    };
    let leaf = decode(line.leaf_hash, "leaf_hash")?;
    let fields = RowFields {
        kind: kind.as_bytes(),
        mark: line.mark.as_deref().map(str::as_bytes),
        rule: line.rule,
        leaf: leaf.as_deref(),
        bytes: decode(line.bytes, "bytes")?.map(Bytes::from),
        originator_ns: line.originator_ns,
        retention_days: line.retention_days,
    };
    let row = fields.row(SequenceId(line.sequence_id), SequenceId(line.through_sequence_id));
    let row = row.ok_or_else(|| "the row is not one of a log".to_owned())?;
    Ok((originator, row))
}

impl<R: BufRead> Iterator for LineReader<R> {
    type Item = Result<(OriginatorId, ExportedRow), SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let row = self.step();
        self.has_failed = row.is_err();
        row.transpose()
    }
}
