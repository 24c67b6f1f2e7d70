//! Pages of whole strands, merged by time. Nothing waits for a dependency: replication and auditors
//! read these.

use bytes::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{LogItem, LogScan, Snapshot, Validity};

use super::error::QueryError;
use super::limits::{BatchLimits, BatchSize, is_deliverable};
use super::memory::PageMemory;

/// A range of one strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogRange {
    /// The last place the reader has.
    pub(crate) after: EnvelopeId,
    /// The last place to read.
    pub(crate) through: SequenceId,
}

/// Envelopes in the order of delivery.
#[derive(Debug)]
pub(crate) struct LogPage {
    pub(crate) envelopes: Vec<(EnvelopeId, Bytes)>,
    /// The page reaches the end of every range.
    pub(crate) finished: bool,
}

/// Reads the valid envelopes of `ranges`, each of another originator: across originators by time,
/// each originator ascending. A page for which the memory ends early is shorter.
pub(crate) fn read_log(
    snapshot: &Snapshot<'_>,
    ranges: impl IntoIterator<Item = LogRange>,
    limits: BatchLimits,
    memory: &mut PageMemory<'_>,
) -> Result<LogPage, QueryError> {
    let mut strands = Vec::new();
    for range in ranges {
        if range.after.sequence < range.through {
            let scan = snapshot.log(range.after, range.through);
            strands.extend(StrandScan::start(range.after.originator, scan, memory)?);
        }
    }
    let mut size = BatchSize::default();
    let mut envelopes = Vec::new();
    while let Some(index) = earliest(&strands) {
        if !size.try_add(limits, strands[index].bytes.len()) {
            return Ok(LogPage { envelopes, finished: false });
        }
        let strand = strands.swap_remove(index);
        envelopes.push((strand.id, strand.bytes));
        match StrandScan::start(strand.id.originator, strand.scan, memory) {
            Ok(next) => strands.extend(next),
            Err(QueryError::NoMemory(_)) => return Ok(LogPage { envelopes, finished: false }),
            Err(error) => return Err(error),
        }
    }
    Ok(LogPage { envelopes, finished: true })
}

fn earliest(strands: &[StrandScan<'_>]) -> Option<usize> {
    (0..strands.len()).min_by_key(|&index| (strands[index].originator_ns, strands[index].id))
}

/// A scan of one strand, standing on an envelope.
struct StrandScan<'s> {
    id: EnvelopeId,
    originator_ns: i64,
    bytes: Bytes,
    scan: LogScan<'s>,
}

impl<'s> StrandScan<'s> {
    /// Moves to the next envelope of `originator` that readers get, if there is one.
    fn start(
        originator: OriginatorId,
        mut scan: LogScan<'s>,
        memory: &mut PageMemory<'_>,
    ) -> Result<Option<Self>, QueryError> {
        while let Some(item) = scan.next() {
            let LogItem::Envelope { id, bytes, validity: Validity::Valid } = item? else {
                continue;
            };
            if !is_deliverable(bytes.len()) {
                continue;
            }
            memory.add(1, bytes.len())?;
            debug_assert_eq!(id.originator, originator, "a scan keeps to its strand");
            let (_, originator_ns) = OriginatorEnvelope::open(bytes.clone())
                .and_then(|(unsigned, _)| OriginatorEnvelope::statement(unsigned))
                .map_err(|_| QueryError::Undecodable(id))?;
            return Ok(Some(Self { id, originator_ns, bytes, scan }));
        }
        Ok(None)
    }
}
