//! Reads a strand for a peer: first from disk, then as it grows.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::checkpoint::{SignedCheckpoint, SignedPrefix};
use hawser_proto::frame::MAX_ANSWERED_GAPS;
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{LogItem, ReadError, SkipReason, Snapshot, Store};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};

use crate::replication::StrandItem;
use crate::runtime::counters::Counters;
use crate::runtime::stoppable::blocking;

/// Pages that are read at a time for one peer. A guess: a page is a MiB and takes a millisecond, and a
/// second read under way keeps the connection busy.
const SESSION_READS_MAX: usize = 4;
/// Pages that are read at a time for all peers. A guess: a small part of tokio's 512 blocking threads, so that other
/// work finds a free one.
const READS_MAX: usize = 16;
/// Bytes of pages that are read for one peer and not yet written to it, of all its strands together. Calculated: the
/// window of a connection, which seven strands whose windows of 4 MiB are full leave open for the others. Beside a page
/// of a MiB of each of these the largest envelope (25 MiB) still has room, so a peer that reads has no strand held up
/// by its others.
const AHEAD_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// Room that a page takes before it is read, at least. A guess: hardly an envelope is larger, and one that is has to be
/// read twice.
const PAGE_ROOM_MIN: u32 = 64 * 1024;

/// Bytes of the first page of a want, at most; each page that the peer takes doubles the next one. A guess: a page that
/// is read in a tenth of a millisecond. A peer may replace its wants as fast as this node reads its frames, and each
/// costs a page that the peer does not take.
const FIRST_PAGE_BYTES: usize = 64 * 1024;

/// Pause of a peer's reads for each byte of a long envelope that was read and has no room yet. A guess: such reads take
/// a tenth of a core, and hold up no peer that takes its envelopes.
const UNUSED_NS_PER_BYTE: u64 = 4;

/// Length that a range of the log without envelopes counts with, so that the work for a page of gaps is bounded too.
const GAP_BYTES: usize = 64;

/// Gaps in the answer to a want for gaps alone, at most.
const GAPS_MAX: usize = MAX_ANSWERED_GAPS;
/// Marks that are read for such an answer, at most. Calculated: a strand has other marks, too, and four for each gap
/// take less time than a page.
const GAP_MARKS_MAX: usize = 4 * GAPS_MAX;

/// Bounds the pages that are read for one peer, and the pages of all peers together.
///
/// The read of a replaced want cannot be taken back from the thread pool, so it keeps its place
/// until it has run. However often a peer replaces its wants, no more reads than these are queued for it.
///
/// A page takes room before it is read, and gives it back when it is dropped. A peer with many wants that reads nothing
/// therefore makes this node hold [`bytes_ahead`](Self::bytes_ahead) up to a bound, and not a page for each want.
/// Strands have their turns in the order in which they ask.
#[derive(Debug, Clone)]
pub struct PageReads {
    session: Arc<Semaphore>,
    all: Arc<Semaphore>,
    /// A permit is a byte.
    room: Arc<Semaphore>,
    /// The time from which on pages of this session are read again.
    resumes_at: Arc<Mutex<Instant>>,
}

/// The room of a page, which is given back when this is dropped.
#[derive(Debug)]
struct PageRoom(OwnedSemaphorePermit);

impl PageRoom {
    fn bytes(&self) -> usize {
        self.0.num_permits()
    }

    /// Gives back the room that a page of this length does not use.
    fn shrink_to(&mut self, bytes: usize) {
        drop(self.0.split(self.bytes().saturating_sub(bytes)));
    }
}

impl PageReads {
    /// Returns the bound of a new session; `all` is that of all sessions.
    pub(super) fn new(all: Arc<Semaphore>) -> Self {
        let room = Arc::new(Semaphore::new(bytes_ahead_max()));
        let session = Arc::new(Semaphore::new(SESSION_READS_MAX));
        Self { session, all, room, resumes_at: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Returns the room of the pages that are being read or are held, including the part that the next one has already.
    #[must_use]
    pub fn bytes_ahead(&self) -> usize {
        bytes_ahead_max() - self.room.available_permits()
    }

    /// Waits for room for a page of this length; for a longer one than there may ever be, until no other page is held.
    /// Cancel safe.
    async fn room(&self, bytes: usize) -> PageRoom {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(PAGE_ROOM_MIN, AHEAD_BYTES_MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        PageRoom(room.expect("never closed"))
    }

    /// Returns the bound of all sessions.
    pub(super) fn of_all_sessions() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(READS_MAX))
    }

    /// Notes that an envelope of this length was read and not kept: its want may be replaced before there is room for
    /// it, and the next one be for the same place.
    fn note_unused(&self, bytes: usize) {
        let pause = Duration::from_nanos(UNUSED_NS_PER_BYTE.saturating_mul(bytes as u64));
        let mut resumes_at = self.resumes_at.lock();
        *resumes_at = (*resumes_at).max(Instant::now()) + pause;
    }

    /// Runs `read` on a blocking thread once there is room. Cancel safe; a read that has been queued is
    /// carried out in any case.
    async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        // That of the session comes first: a peer then waits for the other one with few reads at a time.
        let session = Arc::clone(&self.session).acquire_owned().await;
        let resumes_at = *self.resumes_at.lock();
        if resumes_at > Instant::now() {
            sleep_until(resumes_at).await;
        }
        let all = Arc::clone(&self.all).acquire_owned().await;
        let places = (session.expect("never closed"), all.expect("never closed"));
        let read = move || {
            let _places = places;
            read()
        };
        blocking(read).await
    }
}

fn bytes_ahead_max() -> usize {
    usize::try_from(AHEAD_BYTES_MAX).expect("an address has 32 bits at least")
}

/// The log could not be read on. The cause is this node's disk.
#[derive(Debug, thiserror::Error)]
#[error("the strand cannot be read: {0}")]
pub struct StrandReadError(#[from] ReadError);

/// The next items of a strand. Its room counts against the bound of the session until it is dropped, which is to be
/// when its items are written to the peer.
#[derive(Debug)]
pub struct StrandPage {
    /// At least one item, unless only gaps were asked for: envelopes and gaps in ascending order.
    pub items: Vec<StrandItem<Bytes>>,
    _room: PageRoom,
}

/// The part of a strand that is read for a peer, behind the place from which it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrandPart {
    /// Everything up to this place; without one also everything that will come.
    Items(Option<SequenceId>),
    /// The gaps up to this place alone: one page, which may be empty. Each place in a gap of it is not held. Of other
    /// places it says nothing.
    Gaps(SequenceId),
}

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
    /// The part that is read, behind that place.
    pub(super) part: StrandPart,
    /// Bounds the bytes of a page.
    pub(super) bytes_max: usize,
    /// Bytes of the next page, at most. A larger envelope comes alone.
    pub(super) page_bytes: usize,
    pub(super) counters: Arc<Counters>,
    pub(super) reads: PageReads,
    /// The proof with which the next page comes.
    pub(super) proof: PageProof,
}

impl StrandReader {
    /// Returns the length of the first page if pages have at most so many bytes.
    pub(super) fn first_page_bytes(bytes_max: usize) -> usize {
        bytes_max.min(FIRST_PAGE_BYTES)
    }

    /// Makes the pages of a backlog begin with a [`StrandItem::Prefix`], where the log can prove one.
    #[must_use]
    pub fn proving(mut self) -> Self {
        self.proof = PageProof::IfFull;
        self
    }

    /// Returns the place up to which everything has been read, or reported as a gap.
    #[must_use]
    pub fn position(&self) -> SequenceId {
        self.position
    }

    /// Returns the next items of the strand. The first page is short, and the next ones are longer and longer.
    ///
    /// Without an end to read to, waits for envelopes that do not exist yet; always for room in the session. Returns
    /// `None` once the end is reached, or the head if that is lower. Cancel safe.
    ///
    /// # Errors
    /// [`StrandReadError`] if the log cannot be read.
    pub async fn next(&mut self) -> Result<Option<StrandPage>, StrandReadError> {
        let up_to = match self.part {
            StrandPart::Items(up_to) => up_to,
            StrandPart::Gaps(up_to) => return Ok(self.gaps(up_to).await?),
        };
        loop {
            let head = self.heads.borrow_and_update().get(self.originator);
            let through = up_to.map_or(head, |up_to| up_to.min(head));
            if self.position < through {
                let (page, room) = self.read(through).await?;
                // A page that did not move on would be read for ever.
                assert!(page.position > self.position, "a page holds at least one place");
                (self.position, self.proof) = (page.position, self.proof.after(page.is_full));
                self.page_bytes = self.page_bytes.saturating_mul(2).min(self.bytes_max);
                return Ok(Some(StrandPage { items: page.items, _room: room }));
            }
            if up_to.is_some() || self.heads.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Reads the gaps of the range. Returns `None` once that was done.
    async fn gaps(&mut self, up_to: SequenceId) -> Result<Option<StrandPage>, ReadError> {
        if self.position >= up_to {
            return Ok(None);
        }
        let room = self.reads.room(GAPS_MAX * GAP_BYTES).await;
        let (store, heads) = (self.store.clone(), self.heads.clone());
        let counters = self.counters.clone();
        let after = EnvelopeId::new(self.originator, self.position);
        // The room goes with the read, as that of a page.
        let read = move || {
            let read = || {
                let snapshot = store.snapshot();
                // The head now or later: this node may have received places while the read waited for its turn.
                let head = heads.borrow().get(after.originator);
                read_gaps(&snapshot, after, up_to, head)
            };
            (counters.strand_page.measure(read), room)
        };
        let (gaps, mut room) = self.reads.run(read).await;
        let items = gaps?;
        room.shrink_to(items.len() * GAP_BYTES);
        self.position = up_to;
        Ok(Some(StrandPage { items, _room: room }))
    }

    /// Reads the next page, at most up to `through`, when this want has room in memory for it.
    async fn read(&self, through: SequenceId) -> Result<(SendPage, PageRoom), ReadError> {
        let proof = self.proof;
        let (mut room, after) = (self.reads.room(self.page_bytes).await, self.position);
        loop {
            let (store, counters) = (self.store.clone(), self.counters.clone());
            let reads = self.reads.clone();
            let after = EnvelopeId::new(self.originator, after);
            let bytes_max = self.page_bytes;
            // The room goes with the read: a want may be replaced before that has run.
            let page = move || {
                let bound = PageBound { bytes_max, room: room.bytes() };
                let read = || read_page(&store, after, through, bound, proof);
                let page = counters.strand_page.measure(read);
                if let Ok(StrandRead::NoRoom { bytes }) = page {
                    reads.note_unused(bytes);
                }
                (page, room)
            };
            let (page, mut taken) = self.reads.run(page).await;
            match page? {
                StrandRead::Page(page) => {
                    taken.shrink_to(page.bytes);
                    return Ok((page, taken));
                }
                StrandRead::NoRoom { bytes } => {
                    // A strand that waits holds no page, so no two wait for each other.
                    drop(taken);
                    room = self.reads.room(bytes).await;
                }
            }
        }
    }
}

/// The condition on which a page comes with the proof that its end is that of a signed beginning of the strand, where
/// the log can prove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageProof {
    /// The peer takes no proofs.
    None,
    /// The page may begin a backlog, and does if it is full. A backlog of one page gains nothing, because it is
    /// verified just as fast.
    IfFull,
    /// The page before was full, so this one belongs to the same backlog. The last one would otherwise wait until
    /// everything before it is verified.
    Always,
}

impl PageProof {
    /// Returns the condition for the page after one that was full or not.
    fn after(self, is_full: bool) -> Self {
        match self {
            Self::None => Self::None,
            Self::IfFull | Self::Always if is_full => Self::Always,
            Self::IfFull | Self::Always => Self::IfFull,
        }
    }
}

/// A part of a strand.
struct SendPage {
    items: Vec<StrandItem<Bytes>>,
    /// The place up to which the items account for everything.
    position: SequenceId,
    /// There is more than the page has room for.
    is_full: bool,
    /// Length of the items.
    bytes: usize,
}

impl SendPage {
    /// Adds the next item. Gaps without an envelope between them are one: a peer bounds them by the envelopes that it
    /// gets. Only if all of its places have expired, it says so.
    fn add(&mut self, item: StrandItem<Bytes>) {
        if let StrandItem::Gap { to: last, expired: are_expired, .. } = item
            && let Some(StrandItem::Gap { to, expired, .. }) = self.items.last_mut()
        {
            (*to, *expired) = (last, *expired && are_expired);
            return;
        }
        self.items.push(item);
    }
}

/// The result of a read.
enum StrandRead {
    Page(SendPage),
    /// The first envelope is longer than the room, and was not kept.
    NoRoom {
        /// The room that it needs.
        bytes: usize,
    },
}

/// The bound of a page.
#[derive(Debug, Clone, Copy)]
struct PageBound {
    /// Length of the items. A larger envelope comes alone.
    bytes_max: usize,
    /// Room that was taken for it.
    room: usize,
}

impl PageBound {
    /// Returns true if an item of this length begins a page. The longest one does in all the room that there is.
    fn takes_first(self, bytes: usize) -> bool {
        bytes <= self.room || self.room == bytes_ahead_max()
    }
}

/// Reads what follows `after`, at most to `through` and up to the bound.
fn read_page(
    store: &Store,
    after: EnvelopeId,
    through: SequenceId,
    bound: PageBound,
    proof: PageProof,
) -> Result<StrandRead, ReadError> {
    let snapshot = store.snapshot();
    let proves = proof != PageProof::None;
    let signed = if proves { signed_beyond(&snapshot, after) } else { None };
    let end = signed.map_or(through, |signed| through.min(signed.checkpoint.last()));
    let mut page = match read_items(&snapshot, after, end, bound)? {
        StrandRead::Page(page) => page,
        read @ StrandRead::NoRoom { .. } => return Ok(read),
    };
    if let Some(signed) = signed
        && (page.is_full || proof == PageProof::Always)
        && page.items.iter().all(|item| matches!(item, StrandItem::Envelope(_)))
    {
        page.items.splice(0..0, prefix(&snapshot, after.originator, page.position, signed));
    }
    Ok(StrandRead::Page(page))
}

/// Returns the newest readable checkpoint that the strand's own node has signed, if it reaches beyond a place. Without
/// one the page is sent without a proof.
fn signed_beyond(snapshot: &Snapshot<'_>, after: EnvelopeId) -> Option<SignedCheckpoint> {
    let newest = snapshot.readable_checkpoint(after.originator, after.originator).newest?;
    Some(newest.signed).filter(|signed| signed.checkpoint.size > after.sequence.0)
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

/// Reads envelopes and gaps as [`read_page`] does. Ends before what cannot be read, unless that is the first item.
fn read_items(
    snapshot: &Snapshot<'_>,
    after: EnvelopeId,
    through: SequenceId,
    bound: PageBound,
) -> Result<StrandRead, ReadError> {
    let mut page =
        SendPage { items: Vec::new(), position: after.sequence, is_full: false, bytes: 0 };
    for item in snapshot.log(after, through) {
        let item = match item {
            Ok(item) => item,
            // The peer gets what stands before the damage. The next read begins at it, and fails.
            Err(_) if page.bytes > 0 => return Ok(StrandRead::Page(page)),
            Err(error) => return Err(error),
        };
        let (from, to, bytes, item) = match item {
            LogItem::Envelope { id, bytes, .. } => {
                let place = id.sequence;
                (place, place, bytes.len(), StrandItem::Envelope(bytes))
            }
            LogItem::Skipped { from, through, reason } => {
                // Only the strand's own node may state that places have expired there.
                let expired = reason == SkipReason::Pruned;
                (from, through, GAP_BYTES, StrandItem::Gap { from, to: through, expired })
            }
        };
        if page.bytes == 0 && !bound.takes_first(bytes) {
            return Ok(StrandRead::NoRoom { bytes });
        }
        if page.bytes > 0 && page.bytes + bytes > bound.bytes_max {
            page.is_full = true;
            return Ok(StrandRead::Page(page));
        }
        debug_assert!(from > page.position, "a scan ascends");
        lost(page.position, from).into_iter().for_each(|lost| page.add(lost));
        page.add(item);
        (page.position, page.bytes) = (to, page.bytes + bytes);
    }
    lost(page.position, through.next()).into_iter().for_each(|lost| page.add(lost));
    page.position = through;
    Ok(StrandRead::Page(page))
}

/// Reads the gaps behind `after` and up to `up_to`: places that are marked missing, and those behind the head. Gaps
/// side by side are one. The last ones of many are left out.
fn read_gaps(
    snapshot: &Snapshot<'_>,
    after: EnvelopeId,
    up_to: SequenceId,
    head: SequenceId,
) -> Result<Vec<StrandItem<Bytes>>, ReadError> {
    let end = up_to.min(head);
    let missing = snapshot.missing_after(after, GAP_MARKS_MAX)?;
    let within = missing.into_iter().take_while(|(from, _)| *from <= end);
    let within = within.map(|(from, to)| (from, to.min(end)));
    let first_unheld = head.max(after.sequence).next();
    let behind = (first_unheld <= up_to).then_some((first_unheld, up_to));
    let mut gaps: Vec<(SequenceId, SequenceId)> = Vec::new();
    for (from, to) in within.chain(behind) {
        let has_room = gaps.len() < GAPS_MAX;
        match gaps.last_mut() {
            Some((_, last)) if last.next() == from => *last = to,
            _ if has_room => gaps.push((from, to)),
            _ => break,
        }
    }
    let gap = |(from, to)| StrandItem::Gap { from, to, expired: false };
    Ok(gaps.into_iter().map(gap).collect())
}

/// Returns the gap between `position` and `next`. Places below the head that are neither held nor
/// marked are damage of this node's disk: another node may still have them.
fn lost(position: SequenceId, next: SequenceId) -> Option<StrandItem<Bytes>> {
    let (from, to) = (position.next(), next.previous());
    (from <= to).then_some(StrandItem::Gap { from, to, expired: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn long_envelopes_that_are_read_for_nothing_delay_the_reads_of_their_peer_alone() {
        let all = PageReads::of_all_sessions();
        let (hostile, honest) = (PageReads::new(all.clone()), PageReads::new(all));
        let start = Instant::now();
        (0..10).for_each(|_| hostile.note_unused(25_000_000));
        honest.run(|| ()).await;
        assert!(start.elapsed() < Duration::from_secs(1));
        hostile.run(|| ()).await;
        assert!(start.elapsed() >= Duration::from_secs(1));
    }
}
