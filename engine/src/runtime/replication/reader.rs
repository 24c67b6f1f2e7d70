//! Reads a strand for a peer: first from disk, then as it grows.

use std::sync::Arc;

use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{LogItem, ReadError, Store};
use tokio::sync::watch;

use crate::replication::StrandItem;
use crate::runtime::counters::Counters;

/// The log could not be read on; its cause is this node's disk.
#[derive(Debug, thiserror::Error)]
#[error("the strand cannot be read: {0}")]
pub struct StrandReadError(#[from] ReadError);

/// One strand on its way to one peer. Holds no more than what it reads at once.
///
/// Everything that is held is sent, also what this node has marked invalid: the peer judges for
/// itself.
#[derive(Debug)]
pub struct StrandReader {
    store: Store,
    heads: watch::Receiver<Arc<Cursor>>,
    originator: OriginatorId,
    position: SequenceId,
    up_to: Option<SequenceId>,
    bytes_max: usize,
    counters: Arc<Counters>,
}

impl StrandReader {
    pub(super) fn new(
        store: Store,
        heads: watch::Receiver<Arc<Cursor>>,
        originator: OriginatorId,
        after: SequenceId,
        up_to: Option<SequenceId>,
        bytes_max: usize,
        counters: Arc<Counters>,
    ) -> Self {
        Self { store, heads, originator, position: after, up_to, bytes_max, counters }
    }

    /// Everything up to there has been read, or told to be a gap.
    #[must_use]
    pub fn position(&self) -> SequenceId {
        self.position
    }

    /// What comes next, at least one item: envelopes and gaps in ascending order. Without an end
    /// to read to, waits for what does not exist yet; `None` once the end is reached, or the head
    /// if that is lower. Cancel safe.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<StrandItem<Bytes>>>, StrandReadError> {
        loop {
            let head = self.heads.borrow_and_update().get(self.originator);
            let through = self.up_to.map_or(head, |up_to| up_to.min(head));
            if self.position < through {
                let (items, position) = self.read(through).await?;
                self.position = position;
                return Ok(Some(items));
            }
            if self.up_to.is_some() || self.heads.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    async fn read(
        &self,
        through: SequenceId,
    ) -> Result<(Vec<StrandItem<Bytes>>, SequenceId), ReadError> {
        let (store, bytes_max) = (self.store.clone(), self.bytes_max);
        let counters = self.counters.clone();
        let after = EnvelopeId::new(self.originator, self.position);
        let page = move || read(&store, after, through, bytes_max);
        tokio::task::spawn_blocking(move || counters.strand_page.measure(page))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// Reads from behind `after` at most to `through`, and until there are `bytes_max`. Also tells up
/// to where the items speak of everything.
fn read(
    store: &Store,
    after: EnvelopeId,
    through: SequenceId,
    bytes_max: usize,
) -> Result<(Vec<StrandItem<Bytes>>, SequenceId), ReadError> {
    let snapshot = store.snapshot();
    let (mut items, mut position, mut bytes) = (Vec::new(), after.sequence, 0);
    for item in snapshot.log(after, through) {
        match item? {
            LogItem::Envelope { id, bytes: envelope, .. } => {
                if bytes > 0 && bytes + envelope.len() > bytes_max {
                    return Ok((items, position));
                }
                items.extend(pruned(position, id.sequence));
                bytes += envelope.len();
                position = id.sequence;
                items.push(StrandItem::Envelope(envelope));
            }
            LogItem::Skipped { from, through, .. } => {
                items.extend(pruned(position, from));
                items.push(StrandItem::Gap { from, to: through, expired: false });
                position = through;
            }
        }
    }
    items.extend(pruned(position, through.next()));
    Ok((items, through))
}

/// Places between `position` and `next` that are below the head and neither held nor marked: they
/// were held until their retention ran out.
fn pruned(position: SequenceId, next: SequenceId) -> Option<StrandItem<Bytes>> {
    let (from, to) = (position.next(), next.previous());
    (from <= to).then_some(StrandItem::Gap { from, to, expired: true })
}
