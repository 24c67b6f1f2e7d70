//! Pages of a single strand in entries: each envelope is copied once, from the database's memory to its place in the
//! message.

use hawser_storage::{LogItem, Snapshot, Validity};

use super::entries::EntryBatches;
use super::{BYTES_PER_ROW, LogFilling, LogPage, ROWS_PER_SCAN};
use crate::read::error::QueryError;
use crate::read::limits::is_deliverable;

/// The reason that a page does not take an envelope.
enum EntryError {
    /// The envelope fits into no answer.
    TooLarge,
    Full,
    NoMemory(QueryError),
}

impl EntryError {
    /// Ends the page: returns false, since it does not reach the end of its range.
    ///
    /// # Errors
    /// [`QueryError::NoMemory`] if nothing is in the page yet.
    fn end_page(self, batches: &EntryBatches) -> Result<bool, QueryError> {
        match self {
            Self::NoMemory(error) if batches.is_empty() => Err(error),
            Self::NoMemory(_) | Self::Full | Self::TooLarge => Ok(false),
        }
    }
}

impl LogFilling {
    /// Does a turn of a page of a single strand, as [`fill`](Self::fill) does.
    pub(super) fn fill_entries(
        &mut self,
        mut batches: EntryBatches,
        snapshot: &Snapshot<'_>,
        mut left: usize,
    ) -> Result<Option<LogPage>, QueryError> {
        let mut lane = self.strands.pop().expect("a page in entries is of one strand");
        left = left.saturating_sub(ROWS_PER_SCAN).max(1);
        let mut scan = snapshot.log(lane.after, lane.through);
        let finished = loop {
            if left == 0 {
                self.strands.push(lane);
                self.batches = Some(batches);
                return Ok(None);
            }
            let mut refusal = None;
            let taken = scan.take_valid(|bytes| {
                refusal = self.add_entry(&mut batches, bytes).err();
                refusal.is_none()
            });
            if let Some(id) = taken {
                lane.after = id;
                left -= 1;
                continue;
            }
            if let Some(refusal @ (EntryError::Full | EntryError::NoMemory(_))) = refusal {
                break refusal.end_page(&batches)?;
            }
            let item = match scan.next() {
                Some(Ok(item)) => item,
                Some(Err(_)) if self.ends_before_damage && !batches.is_empty() => break false,
                Some(Err(error)) => return Err(error.into()),
                None => {
                    lane.after.sequence = lane.through;
                    break true;
                }
            };
            left -= 1;
            let (id, bytes, validity) = match item {
                LogItem::Envelope { id, bytes, validity } => (id, bytes, validity),
                LogItem::Skipped { through, .. } => {
                    lane.after.sequence = through.min(lane.through);
                    continue;
                }
            };
            if validity == Validity::Valid && is_deliverable(bytes.len()) {
                if let Err(refusal) = self.add_entry(&mut batches, &bytes) {
                    break refusal.end_page(&batches)?;
                }
            } else {
                left = left.saturating_sub(bytes.len() / BYTES_PER_ROW);
            }
            lane.after = id;
        };
        let reached = std::iter::once(lane.after).collect();
        let (envelopes, batches) = (Vec::new(), batches.end());
        Ok(Some(LogPage { envelopes, batches, reached, finished }))
    }

    /// Puts an envelope into the page, whose memory is taken first.
    fn add_entry(&mut self, batches: &mut EntryBatches, bytes: &[u8]) -> Result<(), EntryError> {
        if !is_deliverable(bytes.len()) {
            return Err(EntryError::TooLarge);
        }
        if !self.size.try_add(self.limits, bytes.len()) {
            return Err(EntryError::Full);
        }
        self.memory.add(1, bytes.len()).map_err(EntryError::NoMemory)?;
        batches.push(bytes);
        Ok(())
    }
}
