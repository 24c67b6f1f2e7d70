//! Snapshots for new nodes, as files that callers download.
//!
//! Hostile callers may request other files, download many at once, or read slowly. So the view opens only files of
//! a snapshot. [`DOWNLOADS_MAX`] downloads run at once, [`DOWNLOADS_OF_ADDRESS_MAX`] of them for one address and
//! [`DOWNLOADS_OF_SITE_MAX`] for all addresses of a site, each for [`DOWNLOAD_MAX`] at most. Together they read
//! [`RATE_BYTES_S`] bytes a second from the disk. A download holds one piece of its file in memory.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hawser_serve::CallCharge;
use hawser_serve::address::ClientAddress;
use hawser_serve::public_pages::{PageFuture, PublicPages, pieces, refusal};
use http::request::Parts;
use http::{Response, StatusCode};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tonic::body::Body;

use crate::callers::Callers;
use crate::error::{CallError, into_status};
use crate::metrics::HandlerMetrics;
use crate::node_api::NodeApi;
use crate::read_workers::ReadWorkers;
use crate::tree_pages::refused;
use crate::views::{SnapshotFile, SnapshotsView};

/// Prefix of all paths. A new node has it as the address of its snapshots.
const PREFIX: &str = "/snapshot/";
/// Bytes that are read at once. A guess: few system calls, and little memory.
const PIECE_BYTES: usize = 256 * 1024;
/// Bytes that all downloads together may read in a second: twice the default rate at which a snapshot is created.
const RATE_BYTES_S: u64 = 64 << 20;
/// Downloads at once. A guess: a new node has one, and few nodes are new.
const DOWNLOADS_MAX: usize = 8;
/// Downloads of one address at once. A guess: one may not have ended yet when the next one begins.
const DOWNLOADS_OF_ADDRESS_MAX: usize = 2;
/// Downloads of all addresses of a site at once: of an IPv6 /48, whose owner has more addresses than there are places.
/// A guess: a slow reader leaves as many as it has to the other addresses of its site, and the site leaves half of all
/// places to others.
const DOWNLOADS_OF_SITE_MAX: usize = 4;
/// Longest duration of a download, equal to the bound of the readers of snapshots: 64 MiB, the longest file, at 1
/// Mbit/s.
const DOWNLOAD_MAX: Duration = Duration::from_secs(600);
/// Seconds after which a caller may try again when too many downloads run. A guess.
const RETRY_AFTER_S: u64 = 1;

/// The files of snapshots. Cheap to clone; clones share state.
#[derive(Clone)]
pub(crate) struct SnapshotPages {
    view: Arc<dyn SnapshotsView>,
    callers: Callers,
    reads: ReadWorkers,
    metrics: Arc<HandlerMetrics>,
    downloads: Arc<Downloads>,
}

impl SnapshotPages {
    /// Shares limits, threads and metrics with the calls of a node.
    pub(crate) fn new(api: &NodeApi, view: Arc<dyn SnapshotsView>) -> Self {
        Self {
            view,
            callers: api.callers.clone(),
            reads: api.reads.clone(),
            metrics: api.metrics.clone(),
            downloads: Arc::default(),
        }
    }

    async fn page(&self, head: Parts, charge: CallCharge) -> Result<Response<Body>, CallError> {
        let caller = self.callers.charge_page(&head).await?;
        let Some(slot) = self.downloads.clone().take(caller.address, Instant::now()) else {
            let reason = "too many snapshots are being downloaded";
            let refused = refusal(StatusCode::SERVICE_UNAVAILABLE, Some(RETRY_AFTER_S), reason);
            return Ok(refused.map(Body::new));
        };
        charge.take(PIECE_BYTES)?;
        let name = match head.uri.query() {
            None => head.uri.path().strip_prefix(PREFIX).unwrap_or_default().to_owned(),
            Some(_) => String::new(),
        };
        let view = self.view.clone();
        let found = self.reads.run(&charge, move || Ok(view.open(&name))).await?;
        let SnapshotFile { file, len_bytes } = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                let reason = "no file of a snapshot has this path";
                return Ok(refusal(StatusCode::NOT_FOUND, None, reason).map(Body::new));
            }
            Err(error) => {
                // Callers can cause this at will, so it is logged below the default level.
                tracing::debug!(%error, "a file of a snapshot cannot be read");
                let reason = "the file of the snapshot cannot be read";
                return Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, None, reason).map(Body::new));
            }
        };
        let reads = self.reads.clone();
        let file = DownloadFile::until(file, slot.until);
        let download = Download { file, left_bytes: len_bytes, charge, reads, slot };
        Ok(pieces(len_bytes, stream::try_unfold(download, Download::next)))
    }
}

impl PublicPages for SnapshotPages {
    fn prefix(&self) -> &'static str {
        PREFIX
    }

    fn show(&self, head: Parts, charge: CallCharge) -> PageFuture {
        let pages = self.clone();
        Box::pin(async move {
            let page = pages.page(head, charge).await;
            page.unwrap_or_else(|error| refused(&into_status(error)).map(Body::new))
        })
    }

    fn answered(&self, status: StatusCode) {
        self.metrics.page_answered(status);
    }
}

impl std::fmt::Debug for SnapshotPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotPages").finish_non_exhaustive()
    }
}

/// A running download.
struct Download {
    file: DownloadFile,
    /// Bytes that are still to be sent.
    left_bytes: u64,
    charge: CallCharge,
    reads: ReadWorkers,
    slot: DownloadSlot,
}

impl Download {
    /// Reads the next piece, when it is the download's turn.
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        if self.left_bytes == 0 {
            return Ok(None);
        }
        let left = usize::try_from(self.left_bytes).unwrap_or(usize::MAX);
        let len = left.min(PIECE_BYTES);
        let due = self.slot.downloads.reserve(len as u64, Instant::now());
        if due >= self.slot.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep_until(due).await;
        let Some(mut file) = self.file.take() else { return Err(io::ErrorKind::TimedOut.into()) };
        let read = move || {
            let mut bytes = vec![0; len];
            let done = file.read_exact(&mut bytes);
            Ok((file, done.map(|()| Bytes::from(bytes))))
        };
        let (file, bytes) = self.reads.run(&self.charge, read).await.map_err(io::Error::other)?;
        self.file.put_back(file);
        self.left_bytes -= len as u64;
        Ok(Some((bytes?, self)))
    }
}

/// The file of a download. It is closed when the time of the download is over, also if its caller reads nothing: the
/// body of an answer is not polled then, and notices no time.
struct DownloadFile {
    state: Arc<Mutex<FileState>>,
    closing: AbortHandle,
}

enum FileState {
    Open(File),
    /// A thread has the file.
    Reading,
    Closed,
}

impl DownloadFile {
    /// Keeps a file open until `end`, or until this is dropped.
    fn until(file: File, end: Instant) -> Self {
        let state = Arc::new(Mutex::new(FileState::Open(file)));
        let of_task = state.clone();
        let closing = tokio::spawn(async move {
            sleep_until(end).await;
            *of_task.lock() = FileState::Closed;
        });
        Self { state, closing: closing.abort_handle() }
    }

    /// Takes the file out to read from it; `None` if the time is over.
    fn take(&self) -> Option<File> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, FileState::Reading) {
            FileState::Open(file) => Some(file),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Puts the file back. Closes it if the time is over.
    fn put_back(&self, file: File) {
        let mut state = self.state.lock();
        if matches!(*state, FileState::Reading) {
            *state = FileState::Open(file);
        }
    }
}

impl Drop for DownloadFile {
    fn drop(&mut self) {
        self.closing.abort();
    }
}

/// The running downloads, and their common pace.
#[derive(Default)]
struct Downloads {
    state: Mutex<DownloadState>,
}

#[derive(Default)]
struct DownloadState {
    running: Vec<RunningDownload>,
    next_id: u64,
    /// The time from which the next piece may be read.
    free: Option<Instant>,
}

struct RunningDownload {
    id: u64,
    address: ClientAddress,
    until: Instant,
}

/// The place of a download among those that run. Dropping it frees the place.
struct DownloadSlot {
    downloads: Arc<Downloads>,
    id: u64,
    /// End of the place: a caller that reads slowly cannot keep it for longer.
    until: Instant,
}

impl Downloads {
    /// Takes a place for an address; `None` if none is free.
    fn take(self: Arc<Self>, address: ClientAddress, now: Instant) -> Option<DownloadSlot> {
        let mut state = self.state.lock();
        state.running.retain(|it| it.until > now);
        let addresses = || state.running.iter().map(|it| it.address);
        let of_address = addresses().filter(|it| *it == address).count();
        let of_site = addresses().filter(|it| it.site() == address.site()).count();
        if state.running.len() >= DOWNLOADS_MAX
            || of_site >= DOWNLOADS_OF_SITE_MAX
            || of_address >= DOWNLOADS_OF_ADDRESS_MAX
        {
            return None;
        }
        let (id, until) = (state.next_id, now + DOWNLOAD_MAX);
        state.next_id += 1;
        state.running.push(RunningDownload { id, address, until });
        drop(state);
        Some(DownloadSlot { downloads: self, id, until })
    }

    /// Returns the time at which the next `len_bytes` may be read.
    ///
    /// A caller who hangs up leaves its reservation unused, and may repeat this without end. So the wait is bounded
    /// by the time for one piece of each running download.
    fn reserve(&self, len_bytes: u64, now: Instant) -> Instant {
        let mut state = self.state.lock();
        let wait_max = time_of(DOWNLOADS_MAX as u64 * PIECE_BYTES as u64);
        let due = state.free.map_or(now, |free| free.clamp(now, now + wait_max));
        state.free = Some(due + time_of(len_bytes));
        due
    }
}

/// Returns the time to read this many bytes at the common rate.
fn time_of(len_bytes: u64) -> Duration {
    Duration::from_micros(len_bytes * 1_000_000 / RATE_BYTES_S)
}

impl Drop for DownloadSlot {
    fn drop(&mut self) {
        self.downloads.state.lock().running.retain(|it| it.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address in a site of its own.
    fn address(number: u64) -> ClientAddress {
        ClientAddress::V6(number << 16)
    }

    #[test]
    fn downloads_are_bounded_by_address_and_in_all_and_end_in_time() {
        let (downloads, now) = (Arc::new(Downloads::default()), Instant::now());
        let take = |number, now| downloads.clone().take(address(number), now);
        let mut held: Vec<_> = (0..4).flat_map(|it| [take(it, now), take(it, now)]).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(take(9, now).is_none(), "as many as run at once");
        held.truncate(6);
        assert!(take(0, now).is_none(), "as many as an address may have");
        assert!(take(9, now).is_some());
        // A slow reader loses its place.
        let later = now + DOWNLOAD_MAX;
        let again = take(0, later).unwrap();
        held.clear();
        assert_eq!(downloads.state.lock().running.len(), 1, "an ended place is freed once");
        assert_eq!(again.until, later + DOWNLOAD_MAX);
    }

    /// The owner of an IPv6 /48 has 65,536 addresses.
    #[test]
    fn all_addresses_of_a_site_leave_downloads_to_others() {
        let (downloads, now) = (Arc::new(Downloads::default()), Instant::now());
        let take = |address| downloads.clone().take(address, now);
        let held: Vec<_> = (0..20).filter_map(|it| take(ClientAddress::V6(it))).collect();
        assert_eq!(held.len(), DOWNLOADS_OF_SITE_MAX);
        assert!(take(address(1)).is_some());
    }

    /// A provider gives each of its customers a /64.
    #[test]
    fn a_slow_reader_leaves_downloads_to_other_addresses_of_its_site() {
        let (downloads, now) = (Arc::new(Downloads::default()), Instant::now());
        let take = |number| downloads.clone().take(ClientAddress::V6(number), now);
        let held = [take(1), take(1), take(1)];
        assert_eq!(held.each_ref().map(Option::is_some), [true, true, false]);
        assert!(take(2).is_some());
    }

    /// Its place is free for the next download from then on. A caller of other calls on the same connection could leave
    /// any number of open files behind.
    #[tokio::test(start_paused = true)]
    async fn a_file_is_closed_at_the_end_of_its_time_also_if_it_is_not_read() {
        let open =
            || DownloadFile::until(tempfile::tempfile().unwrap(), Instant::now() + DOWNLOAD_MAX);
        let (idle, read) = (open(), open());
        idle.put_back(idle.take().unwrap());
        let taken = read.take().unwrap();
        tokio::time::sleep(2 * DOWNLOAD_MAX).await;
        assert!(matches!(*idle.state.lock(), FileState::Closed));
        assert!(idle.take().is_none());
        read.put_back(taken);
        assert!(read.take().is_none(), "a thread had it at that moment");
    }

    #[test]
    fn pieces_of_all_downloads_follow_one_pace() {
        let (downloads, now) = (Downloads::default(), Instant::now());
        let piece = PIECE_BYTES as u64;
        assert_eq!(downloads.reserve(piece, now), now);
        assert_eq!(downloads.reserve(piece / 2, now), now + time_of(piece));
        assert_eq!(downloads.reserve(1, now), now + time_of(piece) + time_of(piece / 2));
        let later = now + Duration::from_secs(10);
        assert_eq!(downloads.reserve(1, later), later, "idle time is not saved up");
    }

    /// Each request reserves a piece before its caller hangs up.
    #[test]
    fn callers_who_hang_up_delay_others_by_a_bounded_time() {
        let (downloads, now) = (Downloads::default(), Instant::now());
        for _ in 0..1_000_000 {
            downloads.reserve(PIECE_BYTES as u64, now);
        }
        assert!(downloads.reserve(1, now) <= now + Duration::from_millis(40));
    }
}
