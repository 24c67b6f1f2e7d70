//! Whole strands, merged by time. Nothing waits here: this is what replication and auditors read.

use bytes::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{LogItem, LogScan, Snapshot, Validity};

use super::error::ReadError;
use super::limits::{Limits, Taken};

/// A piece of one strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The last place the reader has.
    pub(crate) after: EnvelopeId,
    /// The last place to read.
    pub(crate) through: SequenceId,
}

/// Envelopes in the order of delivery.
#[derive(Debug)]
pub(crate) struct LogPage {
    pub(crate) envelopes: Vec<(EnvelopeId, Bytes)>,
    /// Nothing of the stretches is left.
    pub(crate) finished: bool,
}

/// Reads the valid envelopes of `stretches`, each of another originator: across originators by
/// time, each one ascending.
pub(crate) fn read_log(
    snapshot: &Snapshot<'_>,
    stretches: impl IntoIterator<Item = Stretch>,
    limits: Limits,
) -> Result<LogPage, ReadError> {
    let mut strands = Vec::new();
    for stretch in stretches {
        if stretch.after.sequence < stretch.through {
            let scan = snapshot.log(stretch.after, stretch.through);
            strands.extend(Strand::start(stretch.after.originator, scan)?);
        }
    }
    let mut taken = Taken::default();
    let mut envelopes = Vec::new();
    while let Some(index) = earliest(&strands) {
        if !taken.take(limits, strands[index].bytes.len()) {
            return Ok(LogPage { envelopes, finished: false });
        }
        let strand = strands.swap_remove(index);
        envelopes.push((strand.id, strand.bytes));
        strands.extend(Strand::start(strand.id.originator, strand.scan)?);
    }
    Ok(LogPage { envelopes, finished: true })
}

fn earliest(strands: &[Strand<'_>]) -> Option<usize> {
    (0..strands.len()).min_by_key(|&index| (strands[index].originator_ns, strands[index].id))
}

/// One strand, standing on an envelope.
struct Strand<'s> {
    id: EnvelopeId,
    originator_ns: i64,
    bytes: Bytes,
    scan: LogScan<'s>,
}

impl<'s> Strand<'s> {
    /// Moves to the next valid envelope of `originator`, if there is one.
    fn start(originator: OriginatorId, mut scan: LogScan<'s>) -> Result<Option<Self>, ReadError> {
        while let Some(item) = scan.next() {
            let LogItem::Envelope { id, bytes, validity: Validity::Valid } = item? else {
                continue;
            };
            debug_assert_eq!(id.originator, originator, "a scan keeps to its strand");
            let (_, originator_ns) = OriginatorEnvelope::open(bytes.clone())
                .and_then(|(unsigned, _)| OriginatorEnvelope::statement(unsigned))
                .map_err(|_| ReadError::Undecodable(id))?;
            return Ok(Some(Self { id, originator_ns, bytes, scan }));
        }
        Ok(None)
    }
}
