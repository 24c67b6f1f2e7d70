//! Reads a strand for a peer: first from disk, then as it grows.

use std::sync::Arc;

use hawser_proto::checkpoint::{SignedCheckpoint, SignedPrefix};
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{LogItem, ReadError, SkipReason, Snapshot, Store};
use tokio::sync::{Semaphore, watch};

use crate::replication::StrandItem;
use crate::runtime::counters::Counters;

/// Pages that are read at a time for one peer. A guess: a page is a MiB and takes a millisecond, and a
/// second read under way keeps the connection busy.
const SESSION_READS_MAX: usize = 4;
/// Pages that are read at a time for all peers. A guess: a small part of tokio's blocking threads, of which
/// there are 512, so that other work finds one free.
const READS_MAX: usize = 16;

/// Bounds the pages that are read for one peer, and with those of all other peers.
///
/// The read of a replaced want cannot be taken back from the thread pool, so it keeps its place
/// until it has run. However often a peer replaces its wants, no more reads than these are queued for it.
#[derive(Debug, Clone)]
pub struct PageReads {
    session: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl PageReads {
    /// Returns the bound of a new session; `all` is that of all sessions.
    pub(super) fn new(all: Arc<Semaphore>) -> Self {
        Self { session: Arc::new(Semaphore::new(SESSION_READS_MAX)), all }
    }

    /// Returns the bound of all sessions.
    pub(super) fn of_all_sessions() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(READS_MAX))
    }

    /// Runs `read` on a blocking thread once there is room. Cancel safe; a read that has been queued is
    /// carried out in any case.
    async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        // That of the session comes first: a peer then waits for the other one with few reads at a time.
        let session = Arc::clone(&self.session).acquire_owned().await;
        let all = Arc::clone(&self.all).acquire_owned().await;
        let places = (session.expect("never closed"), all.expect("never closed"));
        let read = move || {
            let _places = places;
            read()
        };
        tokio::task::spawn_blocking(read)
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// The log could not be read on. The cause is this node's disk.
#[derive(Debug, thiserror::Error)]
#[error("the strand cannot be read: {0}")]
pub struct StrandReadError(#[from] ReadError);

/// Reads a strand for one peer. Holds no more in memory than one read returns.
///
/// Sends everything that this node holds, also envelopes that it has marked invalid: the peer
/// judges them itself.
#[derive(Debug)]
pub struct StrandReader {
    pub(super) store: Store,
    pub(super) heads: watch::Receiver<Arc<Cursor>>,
    pub(super) originator: OriginatorId,
    /// Everything up to here has been read.
    pub(super) position: SequenceId,
    /// The end to read to; `None` for everything that will come.
    pub(super) up_to: Option<SequenceId>,
    /// Bounds what is read at once. A larger envelope comes alone.
    pub(super) bytes_max: usize,
    pub(super) counters: Arc<Counters>,
    pub(super) reads: PageReads,
    /// Pages of a backlog come with the proof that their end is that of a signed beginning of the strand.
    pub(super) proves: bool,
    /// The last page was full, so the next one belongs to the same backlog.
    pub(super) is_in_backlog: bool,
}

impl StrandReader {
    /// Makes the pages of a backlog begin with a [`StrandItem::Prefix`], where the log can prove one.
    #[must_use]
    pub fn proving(mut self) -> Self {
        self.proves = true;
        self
    }

    /// Returns the place up to which everything has been read, or reported as a gap.
    #[must_use]
    pub fn position(&self) -> SequenceId {
        self.position
    }

    /// Returns what comes next, at least one item: envelopes and gaps in ascending order.
    ///
    /// Without an end to read to, waits for envelopes that do not exist yet. Returns `None` once
    /// the end is reached, or the head if that is lower. Cancel safe.
    ///
    /// # Errors
    /// [`StrandReadError`] if the log cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<StrandItem<Bytes>>>, StrandReadError> {
        loop {
            let head = self.heads.borrow_and_update().get(self.originator);
            let through = self.up_to.map_or(head, |up_to| up_to.min(head));
            if self.position < through {
                let page = self.read(through).await?;
                // A page that did not move on would be read for ever.
                assert!(page.position > self.position, "a page holds at least one place");
                (self.position, self.is_in_backlog) = (page.position, page.is_full);
                return Ok(Some(page.items));
            }
            if self.up_to.is_some() || self.heads.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    async fn read(&self, through: SequenceId) -> Result<Page, ReadError> {
        let (store, bytes_max) = (self.store.clone(), self.bytes_max);
        let counters = self.counters.clone();
        let after = EnvelopeId::new(self.originator, self.position);
        let proof = match (self.proves, self.is_in_backlog) {
            (false, _) => PageProof::None,
            (true, false) => PageProof::IfFull,
            (true, true) => PageProof::Always,
        };
        let page = move || read_page(&store, after, through, bytes_max, proof);
        self.reads.run(move || counters.strand_page.measure(page)).await
    }
}

/// The pages that come with a proof, where the log can prove one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PageProof {
    None,
    /// Proofs for full pages only. A backlog of one page gains nothing, because it is verified just as fast.
    IfFull,
    /// Proofs also for the last page of a backlog, which would otherwise wait until everything before it is verified.
    Always,
}

/// A part of a strand.
struct Page {
    items: Vec<StrandItem<Bytes>>,
    /// The place up to which the items account for everything.
    position: SequenceId,
    /// There is more than the page has room for.
    is_full: bool,
}

/// Reads what follows `after`, at most to `through` and until there are `bytes_max`.
fn read_page(
    store: &Store,
    after: EnvelopeId,
    through: SequenceId,
    bytes_max: usize,
    proof: PageProof,
) -> Result<Page, ReadError> {
    let snapshot = store.snapshot();
    let proves = proof != PageProof::None;
    let signed = if proves { signed_beyond(&snapshot, after)? } else { None };
    let end = signed.map_or(through, |signed| through.min(signed.checkpoint.last()));
    let (mut items, position) = read_items(&snapshot, after, end, bytes_max)?;
    let is_full = position < end;
    if let Some(signed) = signed
        && (is_full || proof == PageProof::Always)
        && items.iter().all(|item| matches!(item, StrandItem::Envelope(_)))
    {
        items.splice(0..0, prefix(&snapshot, after.originator, position, signed));
    }
    Ok(Page { items, position, is_full })
}

/// Returns the newest checkpoint that the strand's own node has signed, if it reaches beyond a place.
fn signed_beyond(
    snapshot: &Snapshot<'_>,
    after: EnvelopeId,
) -> Result<Option<SignedCheckpoint>, ReadError> {
    let newest = snapshot.checkpoint(after.originator, after.originator, u64::MAX)?;
    let newest = newest.map(|newest| newest.signed);
    Ok(newest.filter(|signed| signed.checkpoint.size > after.sequence.0))
}

/// Proves that the strand up to `position` is the beginning of a signed tree; `None` if this node's tree cannot, or is
/// another one.
fn prefix(
    snapshot: &Snapshot<'_>,
    originator: OriginatorId,
    position: SequenceId,
    signed: SignedCheckpoint,
) -> Option<StrandItem<Bytes>> {
    let of = signed.checkpoint;
    let proof = snapshot.consistency(originator, position.0, of.size).ok()?;
    let prefix = SignedPrefix { size: position.0, signed, proof };
    let root = snapshot.root(originator, position.0).ok()?;
    prefix.begins_with(root).is_ok().then(|| StrandItem::Prefix(Box::new(prefix)))
}

/// Reads envelopes and gaps as [`read_page`] does.
fn read_items(
    snapshot: &Snapshot<'_>,
    after: EnvelopeId,
    through: SequenceId,
    bytes_max: usize,
) -> Result<(Vec<StrandItem<Bytes>>, SequenceId), ReadError> {
    let (mut items, mut position, mut bytes) = (Vec::new(), after.sequence, 0);
    for item in snapshot.log(after, through) {
        match item? {
            LogItem::Envelope { id, bytes: envelope, .. } => {
                if bytes > 0 && bytes + envelope.len() > bytes_max {
                    return Ok((items, position));
                }
                debug_assert!(id.sequence > position, "a scan ascends");
                items.extend(lost(position, id.sequence));
                bytes += envelope.len();
                position = id.sequence;
                items.push(StrandItem::Envelope(envelope));
            }
            LogItem::Skipped { from, through, reason } => {
                items.extend(lost(position, from));
                // Only the strand's own node may state that places have expired there.
                let expired = reason == SkipReason::Pruned;
                items.push(StrandItem::Gap { from, to: through, expired });
                position = through;
            }
        }
    }
    items.extend(lost(position, through.next()));
    Ok((items, through))
}

/// Returns the gap between `position` and `next`. Places below the head that are neither held nor
/// marked are damage of this node's disk: another node may still have them.
fn lost(position: SequenceId, next: SequenceId) -> Option<StrandItem<Bytes>> {
    let (from, to) = (position.next(), next.previous());
    (from <= to).then_some(StrandItem::Gap { from, to, expired: false })
}
