//! Pages that streams read from disk: in turns, and into memory that their callers may have now.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::access::LogAccess;
use super::fetch::complete;
use super::page_threads::JobSize;
use crate::read::error::QueryError;
use crate::read::feed::{CatchUpId, PageRead, Read};
use crate::read::limits::BatchLimits;
use crate::read::log_page::{LogFilling, LogPage, LogRange};
use crate::read::memory::{PageMemory, answer_bytes};
use crate::read::page::{PageRow, PlannedPage};
use crate::read::places::owner_of;
use crate::read::plan::PagePlan;

/// Time for which a page waits for memory before its stream ends. A guess: callers that read nothing
/// lose theirs within it.
const MEMORY_WAIT_MAX: Duration = Duration::from_secs(60);
/// First pause of a page that waits for memory; doubled up to the last. Guesses.
const MEMORY_PAUSE_MIN: Duration = Duration::from_millis(20);
const MEMORY_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Rows that a stream looks at in one turn, with ten for each seek: of topics before its first page, of strands at any
/// time. Turns of all streams alternate, so a stream of few topics does not wait until one of many has found its first
/// page. Guessed: a turn takes about as long as a page.
const TURN_ROWS_MAX: usize = 5_000;

/// Reads a page in its stream's turn, and returns it with the memory that was taken for it.
/// A stream that may not have its memory now lets the next one go first, and holds none while it waits. The page of a
/// single strand is one of entries if it is wanted `in_entries`.
///
/// # Errors
/// [`QueryError`] if the log cannot be read, or the memory does not come.
pub(super) async fn read(
    log: LogAccess,
    read: Read,
    in_entries: bool,
) -> Result<(PageRead, usize), QueryError> {
    match read {
        Read::Topics(catch_up, plan) => read_topics(log, TopicsRead::new(catch_up, plan)).await,
        Read::Log(ranges) => read_strands(log, ranges, in_entries).await,
    }
}

/// A page of topics on its way: planned from the index, then read into memory of that size.
pub(super) struct TopicsRead {
    catch_up: CatchUpId,
    plan: Box<PagePlan>,
    /// The rows, once they are known.
    page: Option<PlannedPage>,
}

/// The outcome of a turn.
pub(super) enum TurnOutcome {
    Read(PageRead, usize),
    /// The page needs this number of bytes, more than its caller may have now.
    NoMemory(TopicsRead, usize),
}

/// Reads the next page of a plan, as [`read`] does.
///
/// # Errors
/// The errors of [`read`].
pub(super) async fn read_topics(
    log: LogAccess,
    mut read: TopicsRead,
) -> Result<(PageRead, usize), QueryError> {
    // Turns that only open topics end without a page, and the wait goes on over them.
    let mut wait = MemoryWait::after(read.plan.refusals());
    loop {
        let (of_turn, size) = (log.clone(), JobSize::of_topics(read.plan.topics().len()));
        match in_turn(&log, size, move || read.turn(&of_turn)).await? {
            TurnOutcome::Read(page, taken_bytes) => return Ok((page, taken_bytes)),
            TurnOutcome::NoMemory(again, bytes) => {
                read = again;
                wait.pause(bytes).await?;
            }
        }
    }
}

impl TopicsRead {
    pub(super) fn new(catch_up: CatchUpId, plan: Box<PagePlan>) -> Self {
        Self { catch_up, plan, page: None }
    }

    /// Plans the page, or a part of what comes before the first one, and reads it. Blocks on the disk.
    ///
    /// # Errors
    /// [`QueryError`] if the log cannot be read.
    pub(super) fn turn(self, log: &LogAccess) -> Result<TurnOutcome, QueryError> {
        log.counters.stream_page.measure(|| self.read(log))
    }

    fn read(mut self, log: &LogAccess) -> Result<TurnOutcome, QueryError> {
        let snapshot = log.store.snapshot();
        let planned = self.page.take().or_else(|| self.plan.next_in_log(&snapshot));
        let (mut page, is_begun) = match planned {
            Some(page) => (page, true),
            None => {
                let rows = &mut snapshot.topics_with_envelopes(BatchLimits::BESIDE_LEN_BYTES);
                let is_begun = self.plan.is_open();
                let page = self.plan.next_turn(rows, BatchLimits::STREAM, TURN_ROWS_MAX)?;
                self.plan.drop_envelopes();
                (page, is_begun)
            }
        };
        if let Err(bytes) = self.plan.charge(&log.memory) {
            if is_begun {
                // The lanes are at their next rows, which may depend on more places.
                page.drop_envelopes();
                self.page = Some(page);
            } else {
                // Nothing of these lanes has gone out yet, and a plan that waits holds nothing.
                self.plan.restart();
            }
            return Ok(TurnOutcome::NoMemory(self, bytes));
        }
        self.plan.leave_out_strays(&mut page, |topic, place| owner_of(&snapshot, topic, place))?;
        let bytes = answer_bytes(page.rows.len(), page.len_bytes);
        if bytes > 0 && !log.memory.take(bytes) {
            page.drop_envelopes();
            self.page = Some(page);
            return Ok(TurnOutcome::NoMemory(self, bytes));
        }
        let Self { catch_up, mut plan, .. } = self;
        if bytes > 0 {
            plan.note_going_out();
        }
        let finished = page.finished;
        // The plan may know a row from an earlier view, and its envelope has expired since.
        let envelopes = complete(&snapshot, page)?.into_iter();
        let envelopes: Vec<(PageRow, Bytes)> =
            envelopes.filter_map(|(row, bytes)| Some((row, bytes?))).collect();
        let read = PageRead::Topics { catch_up, plan, envelopes, finished };
        Ok(TurnOutcome::Read(read, bytes))
    }
}

/// Reads a page of whole strands. If the stream may not have the memory now, the page is begun anew after a pause, in
/// which none of it is held.
async fn read_strands(
    log: LogAccess,
    ranges: Vec<LogRange>,
    in_entries: bool,
) -> Result<(PageRead, usize), QueryError> {
    let mut wait = MemoryWait::default();
    loop {
        match page_of_strands(&log, ranges.clone(), in_entries).await {
            Err(QueryError::NoMemory(bytes)) => wait.pause(bytes).await?,
            read => return read,
        }
    }
}

/// Reads a page of whole strands, into memory that is taken before it is known how much it needs. What it does not need
/// is given back with the page.
///
/// # Errors
/// [`QueryError::NoMemory`] if the reader may not have it now: that of a usual page, or of an envelope that is larger.
/// Other errors if the log cannot be read. Nothing stays taken.
async fn page_of_strands(
    log: &LogAccess,
    ranges: Vec<LogRange>,
    in_entries: bool,
) -> Result<(PageRead, usize), QueryError> {
    let BatchLimits { envelopes, len_bytes } = BatchLimits::STRANDS;
    let most_bytes = answer_bytes(envelopes, len_bytes);
    let of_turn = log.clone();
    let first = in_turn(log, JobSize::Small, move || {
        if !of_turn.memory.take(most_bytes) {
            return Err(QueryError::NoMemory(most_bytes));
        }
        let memory = PageMemory::new(Arc::clone(&of_turn.memory), most_bytes);
        let filling = LogFilling::new(ranges, BatchLimits::STRANDS, memory).before_damage();
        let filling = if in_entries { filling.with_entries() } else { filling };
        fill_strands(&of_turn, filling)
    });
    let (mut filling, mut page) = first.await?;
    loop {
        if let Some(page) = page {
            return Ok((PageRead::Log(page), filling.end()));
        }
        let of_turn = log.clone();
        let turn = in_turn(log, JobSize::Small, move || fill_strands(&of_turn, filling));
        (filling, page) = turn.await?;
    }
}

/// Does a turn of a page of strands. Returns the page once it is complete. Blocks on the disk.
///
/// # Errors
/// [`QueryError`]; the memory of the page is given back then.
fn fill_strands(
    log: &LogAccess,
    mut filling: LogFilling,
) -> Result<(LogFilling, Option<LogPage>), QueryError> {
    let snapshot = log.store.snapshot();
    let fill = || filling.fill(&snapshot, TURN_ROWS_MAX);
    match log.counters.stream_page.measure(fill) {
        Ok(page) => Ok((filling, page)),
        Err(error) => {
            log.memory.give_back(filling.taken_bytes());
            Err(error)
        }
    }
}

/// Runs work that may block on a thread for streams' pages, in the turn of the log's reader. A stream that ends before
/// its turn costs no work, and the memory that the work holds is freed with it.
pub(super) async fn in_turn<T: Send + 'static>(
    log: &LogAccess,
    size: JobSize,
    work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
) -> Result<T, QueryError> {
    let (done, result) = oneshot::channel();
    let memory = Arc::clone(&log.memory);
    // It owns the memory: a stream that ends before its turn is no longer charged.
    let work = move || {
        let began = memory.begin_work();
        let read = work();
        memory.end_work(began);
        read
    };
    let queued = Arc::new(Mutex::new(Some(work)));
    let _withdrawal = WithdrawOnDrop(Arc::clone(&queued));
    let waits = Arc::new(());
    log.page_threads.run_for(Arc::downgrade(&waits), log.memory.reader(), size, move || {
        let work = queued.lock().take();
        if let Some(work) = work {
            // Fails only if the stream has ended.
            _ = done.send(work());
        }
    });
    let read = result.await.expect("reading a page does not panic");
    drop(waits);
    read
}

/// Takes work out of the queue when its stream ends. A plan of thousands of topics, which is charged to the stream,
/// would wait there for its turn.
struct WithdrawOnDrop<W>(Arc<Mutex<Option<W>>>);

impl<W> Drop for WithdrawOnDrop<W> {
    fn drop(&mut self) {
        let work = self.0.lock().take();
        drop(work);
    }
}

/// The pauses of a stream that waits for memory.
// Not `backon`: nothing is drawn at random here, and each stream would hold a random generator.
pub(super) struct MemoryWait {
    waited: Duration,
    pause: Duration,
}

impl Default for MemoryWait {
    fn default() -> Self {
        Self { waited: Duration::ZERO, pause: MEMORY_PAUSE_MIN }
    }
}

impl MemoryWait {
    /// Returns a wait that has paused this number of times.
    fn after(pauses: u32) -> Self {
        let mut wait = Self::default();
        for _ in 0..pauses {
            if wait.next_pause().is_none() {
                break;
            }
        }
        wait
    }

    /// Returns the next pause; `None` if the stream has waited long enough.
    fn next_pause(&mut self) -> Option<Duration> {
        if self.waited >= MEMORY_WAIT_MAX {
            return None;
        }
        let pause = self.pause;
        self.waited += pause;
        self.pause = (2 * pause).min(MEMORY_PAUSE_MAX);
        Some(pause)
    }

    /// Waits a while.
    ///
    /// # Errors
    /// [`QueryError::NoMemory`] if it has waited long enough for `bytes`.
    pub(super) async fn pause(&mut self, bytes: usize) -> Result<(), QueryError> {
        let pause = self.next_pause().ok_or(QueryError::NoMemory(bytes))?;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// A charge that a stream tries again after pauses, while it goes on with other events.
pub(super) struct MemoryRetry {
    wait: MemoryWait,
    /// The time of the next try.
    at: Instant,
}

impl MemoryRetry {
    /// Returns a charge that is to be tried now.
    pub(super) fn now() -> Self {
        Self { wait: MemoryWait::default(), at: Instant::now() }
    }

    /// Returns the time of the next try.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Tries the charge if it is time. Returns true if it was taken.
    ///
    /// # Errors
    /// The error of the charge, if the stream has waited for it long enough.
    pub(super) fn attempt(
        &mut self,
        charge: impl FnOnce() -> Result<(), QueryError>,
    ) -> Result<bool, QueryError> {
        if Instant::now() < self.at {
            return Ok(false);
        }
        let Err(error) = charge() else { return Ok(true) };
        let pause = self.wait.next_pause().ok_or(error)?;
        self.at = Instant::now() + pause;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::Barrier;

    use hawser_proto::{Cursor, EnvelopeId, SequenceId, Topic};

    use super::super::hub::Hub;
    use super::super::page_threads::STREAM_PAGES_AT_ONCE;
    use super::*;
    use crate::read::plan::{Cursors, PlanTopic};
    use crate::read::testing::{append, committed, cursor, id, store, topic};
    use crate::read::{ReadMemory, ReaderId};
    use crate::runtime::Heads;

    /// Memory that counts the turns of a reader.
    #[derive(Debug, Default)]
    struct CountedTurns(Mutex<Vec<Duration>>);

    impl ReadMemory for CountedTurns {
        fn take(&self, _: usize) -> bool {
            true
        }

        fn give_back(&self, _: usize) {}

        fn begin_work(&self) -> Duration {
            Duration::from_secs(7)
        }

        fn end_work(&self, began: Duration) {
            self.0.lock().push(began);
        }
    }

    /// Memory that has so many bytes left.
    #[derive(Debug)]
    struct LimitedMemory(Mutex<usize>);

    impl ReadMemory for LimitedMemory {
        fn take(&self, bytes: usize) -> bool {
            let mut left = self.0.lock();
            let rest = left.checked_sub(bytes);
            *left = rest.unwrap_or(*left);
            rest.is_some()
        }

        fn give_back(&self, bytes: usize) {
            *self.0.lock() += bytes;
        }
    }

    /// Played by payers who have the third message of each topic depend on a commit, while others hold the memory.
    #[test]
    fn a_stream_whose_next_rows_depend_on_more_waits_for_their_memory() {
        const TOPICS: u64 = 400;
        const PLENTY: usize = 64 << 20;
        let name = |n: u64| Topic::parse([&[0][..], &n.to_be_bytes()].concat().into()).unwrap();
        let message = |place: u64| {
            let n = (place - 1) % TOPICS;
            let depends_on = if place > 2 * TOPICS { vec![id(0, n + 1)] } else { Vec::new() };
            committed(id(100, place), name(n), 0, depends_on)
        };
        let commits = (0..TOPICS).map(|n| committed(id(0, n + 1), name(n), 0, Vec::new()));
        let stored = commits.chain((1..=3 * TOPICS).map(message));
        let store = store();
        store.commit(&stored.map(|it| append(&it)).collect::<Vec<_>>()).unwrap();
        let (from, resume) = (Arc::new(cursor(&[(0, TOPICS)])), Arc::<[EnvelopeId]>::default());
        let planned = |n| PlanTopic {
            topic: name(n),
            from: Arc::clone(&from),
            resume: Arc::clone(&resume),
            commits: None,
        };
        let heads = Arc::new(cursor(&[(0, TOPICS), (100, 3 * TOPICS)]));
        let plan = PagePlan::new(Cursors::PerTopic, (0..TOPICS).map(planned), heads);
        let memory = Arc::new(LimitedMemory(Mutex::new(PLENTY)));
        let log = LogAccess::new(store, Heads::new(Cursor::new()), Hub::new());
        let log = log.charged_to(memory.clone());
        let (mut got, mut refusals) = (Vec::new(), 0_u32);
        let mut read = TopicsRead::new(CatchUpId::BEGIN, Box::new(plan));
        loop {
            read = match read.turn(&log).unwrap() {
                TurnOutcome::NoMemory(again, _) => {
                    refusals += 1;
                    *memory.0.lock() = if refusals.is_multiple_of(2) { PLENTY } else { 0 };
                    again
                }
                TurnOutcome::Read(PageRead::Topics { plan, envelopes, finished, .. }, _) => {
                    got.extend(envelopes.iter().map(|(row, _)| row.id));
                    if finished {
                        break;
                    }
                    *memory.0.lock() = if got.is_empty() { PLENTY } else { 0 };
                    TopicsRead::new(CatchUpId::BEGIN, plan)
                }
                TurnOutcome::Read(PageRead::Log(_), _) => panic!("it is a page of topics"),
            };
        }
        assert!(refusals >= 2, "each page but the first one waits");
        assert!(got.into_iter().eq((1..=3 * TOPICS).map(|place| id(100, place))));
    }

    /// Other nodes read one strand with each stream, and few copies leave the cores to publishers.
    #[tokio::test]
    async fn a_page_of_a_single_strand_is_in_entries_if_they_are_wanted() {
        let store = store();
        let change =
            |(strand, place)| append(&committed(id(strand, place), topic(1), 1, Vec::new()));
        store.commit(&[(100, 1), (100, 2), (200, 1)].map(change)).unwrap();
        let log = LogAccess::new(store, Heads::new(Cursor::new()), Hub::new());
        let range = |strand, last| LogRange { after: id(strand, 0), through: SequenceId(last) };
        let (one, both) = (vec![range(100, 2)], vec![range(100, 2), range(200, 1)]);
        let wanted = [(one.clone(), true, (0, 1)), (one, false, (2, 0)), (both, true, (3, 0))];
        for (ranges, in_entries, lens) in wanted {
            let (page, _) = read(log.clone(), Read::Log(ranges), in_entries).await.unwrap();
            let PageRead::Log(page) = page else { panic!("it is one of strands") };
            assert_eq!((page.envelopes.len(), page.batches.len()), lens);
            assert!(page.finished);
        }
    }

    /// Opening streams of many topics takes most of a flood's time.
    #[tokio::test]
    async fn the_reader_is_told_of_the_work_of_each_turn() {
        let memory = Arc::new(CountedTurns::default());
        let log = LogAccess::new(store(), Heads::new(Cursor::new()), Hub::new());
        let log = log.charged_to(memory.clone());
        for _ in 0..2 {
            in_turn(&log, JobSize::Small, || Ok(())).await.unwrap();
        }
        assert_eq!(*memory.0.lock(), [Duration::from_secs(7); 2]);
    }

    /// A client can open streams and end them while they wait, faster than their turns come.
    #[tokio::test]
    async fn work_of_a_stream_that_ends_before_its_turn_is_dropped_at_once() {
        let charged = Arc::new(CountedTurns::default());
        let log = LogAccess::new(store(), Heads::new(Cursor::new()), Hub::new());
        let log = log.charged_to(charged.clone());
        let barrier = Arc::new(Barrier::new(STREAM_PAGES_AT_ONCE + 1));
        for _ in 0..STREAM_PAGES_AT_ONCE {
            let barrier = Arc::clone(&barrier);
            log.page_threads.run(ReaderId::default(), JobSize::Small, move || _ = barrier.wait());
        }
        let memory = Arc::new(());
        let of_work = Arc::clone(&memory);
        let mut turn = Box::pin(in_turn(&log, JobSize::Small, move || {
            drop(of_work);
            Ok(())
        }));
        tokio::select! {
            biased;
            _ = &mut turn => panic!("no thread is free"),
            () = ready(()) => {}
        }
        let counts = || (Arc::strong_count(&memory), Arc::strong_count(&charged));
        assert_eq!(counts(), (2, 3), "it waits for its turn");
        drop(turn);
        assert_eq!(counts(), (1, 2), "neither its work nor what it is charged for is kept");
        barrier.wait();
    }
}
