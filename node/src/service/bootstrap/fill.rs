//! The strands of a node that runs, filled from a copy: readers get each envelope as soon as it was checked and written.
//!
//! A strand is filled in its order, from its durable head on. Its follower goes on while a chunk is being read, and rests
//! while one is checked and written, so a slow place keeps no strand from its peers. Each envelope is checked as one of a
//! peer is, so a beginning of a strand is as good as the whole, after a crash too. A strand is filled up to the first place
//! that the copy leaves out: whether a place is missing is for peers to say, and they give the rest.
//!
//! Whatever is wrong with the copy or its place ends filling for a while, and a place that is too slow ends it for good;
//! everything is taken from peers then. The first such failure also ends holding publishes back, as does an hour.
//!
//! Checkpoints of the copy are handed to the exchange of checkpoints, which compares them with the trees and keeps
//! what contradicts them as evidence.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hawser_api::FillingView;
use hawser_engine::Engine;
use hawser_engine::replication::EnvelopeVerifier;
use hawser_engine::runtime::replication::Replication;
use hawser_proto::OriginatorId;
use hawser_rules::Registry;
use hawser_storage::{
    BootstrapChunk, BootstrapError, BootstrapStrand, Bootstraps, Change, Objects,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::checkpoints::Evidence;
use super::error::BootstrapFetchError;
use super::strand::{Commit, Envelopes, Gaps, Writing};
use crate::bucket::{ObjectsAt, StopCheck};
use crate::error::RunError;
use crate::web::{WebObjects, shown};

/// The first pause after a failure; each further one is twice as long. A guess.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause. A guess.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// The longest time for a chunk to arrive. A guess: chunks of 8 MiB then come at 1.1 Mbit/s at least.
const CHUNK_MAX: Duration = Duration::from_secs(60);
/// The longest time from the start on that publishes are held back. A guess.
const HOLD_MAX: Duration = Duration::from_secs(3600);
/// Time between two looks if the node stops. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

/// Fills the strands on a thread of its own.
pub(in crate::service) struct FillTask {
    parts: Arc<FillParts>,
    thread: JoinHandle<()>,
}

struct FillParts {
    from: String,
    engine: Engine,
    replication: Replication,
    runtime: Handle,
    progress: Mutex<Option<FillProgress>>,
    begun: Instant,
    /// True for good after the first failure: publishes are no longer held back.
    has_failed: AtomicBool,
    /// True for good once a chunk took too long.
    is_too_slow: AtomicBool,
    end: Arc<FillEnd>,
}

/// The end of work with the place.
#[derive(Default)]
struct FillEnd {
    is_stopped: AtomicBool,
    /// The time until which the chunk that is being read has to be there.
    chunk_until: Mutex<Option<Instant>>,
}

impl FillEnd {
    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    fn is_reached(&self) -> bool {
        self.is_stopped() || self.chunk_until.lock().is_some_and(|until| Instant::now() >= until)
    }
}

/// Bytes of chunks, of the strands that lack something.
#[derive(Debug, Clone, Copy)]
struct FillProgress {
    done: u64,
    total: u64,
}

impl FillingView for FillParts {
    fn filling(&self) -> Option<String> {
        if self.has_failed.load(Ordering::Acquire) || self.begun.elapsed() >= HOLD_MAX {
            return None;
        }
        let FillProgress { done, total } = (*self.progress.lock())?;
        let (done, total) = (done / MIB, total.div_ceil(MIB));
        Some(format!("strands are filled from a snapshot: {done} of {total} MiB"))
    }
}

impl FillTask {
    /// Starts to fill. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub(in crate::service) fn start(
        from: &str,
        engine: &Engine,
        replication: Replication,
    ) -> std::io::Result<Self> {
        let parts = Arc::new(FillParts {
            from: from.to_owned(),
            engine: engine.clone(),
            replication,
            runtime: Handle::current(),
            progress: Mutex::default(),
            begun: Instant::now(),
            has_failed: AtomicBool::new(false),
            is_too_slow: AtomicBool::new(false),
            end: Arc::default(),
        });
        let of_thread = Arc::clone(&parts);
        let thread =
            thread::Builder::new().name("filling".into()).spawn(move || of_thread.run())?;
        Ok(Self { parts, thread })
    }

    /// Returns the view for the API.
    pub(in crate::service) fn view(&self) -> Arc<dyn FillingView> {
        self.parts.clone()
    }

    /// Ends filling. Blocks until the chunk under way was given up or is written.
    pub(in crate::service) fn stop(self) {
        self.parts.end.is_stopped.store(true, Ordering::Release);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl FillParts {
    fn is_stopped(&self) -> bool {
        self.end.is_stopped()
    }

    fn run(&self) {
        let mut pause = PAUSE_MIN;
        while !self.is_stopped() {
            let filled = self.fill();
            *self.progress.lock() = None;
            match filled {
                Ok(()) => return,
                Err(_) if self.is_stopped() => return,
                Err(error) => self.note_failure(&error),
            }
            if self.is_too_slow.load(Ordering::Acquire) {
                return;
            }
            let mut left = pause;
            while !left.is_zero() && !self.is_stopped() {
                thread::sleep(left.min(LOOK_EVERY));
                left = left.saturating_sub(LOOK_EVERY);
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn note_failure(&self, error: &RunError) {
        self.has_failed.store(true, Ordering::Release);
        let from = shown(&self.from);
        // A path in it may be the address.
        let error = error.to_string().replace(&self.from, from);
        let next = if self.is_too_slow.load(Ordering::Acquire) {
            "the snapshot comes too slowly: strands are taken from peers from now on"
        } else {
            "strands are taken from peers for now, and from the snapshot again after a pause"
        };
        tracing::warn!(code = "filling_failed", from, error, "{next}");
    }

    fn open(&self) -> Result<Arc<dyn Objects>, RunError> {
        let end = Arc::clone(&self.end);
        let stop: StopCheck = Arc::new(move || end.is_reached());
        if WebObjects::is_url(&self.from) {
            let web = WebObjects::new(&self.from, false, stop).map_err(RunError::usage)?;
            return Ok(Arc::new(web));
        }
        ObjectsAt::new(Path::new(&self.from), &|name| std::env::var(name).ok())?.open(stop)
    }

    /// Fills all strands that lack something the newest copy has.
    fn fill(&self) -> Result<(), RunError> {
        let place = Bootstraps::new(self.open()?);
        let store = self.engine.store();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let found = place.newest(&store.identity().network, now.as_secs());
        let (name, manifest) = found.map_err(BootstrapFetchError::from)?;
        let registry = self.engine.ports().registry.borrow().clone();
        let evidence = Evidence::of(&manifest, &registry)?;
        let mut lacking = Vec::new();
        for stated in &manifest.strands {
            let head = store.snapshot().head(stated.originator);
            let is_behind = head.map_err(BootstrapFetchError::from)? < stated.head;
            if is_behind
                && stated.originator != store.identity().node
                && registry.has_been_member(stated.originator)
            {
                lacking.push(stated);
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        let chunks = lacking.iter().flat_map(|stated| &stated.chunks);
        let total = chunks.fold(0_u64, |sum, chunk| sum.saturating_add(chunk.len_bytes));
        *self.progress.lock() = Some(FillProgress { done: 0, total });
        tracing::info!(snapshot = name, strands = lacking.len(), total, "filling strands");
        for stated in lacking {
            self.fill_strand(&place, stated, &registry)?;
            for checkpoint in evidence.of_strand(stated.originator) {
                // One beyond what its node may show now will come from peers.
                let _ = self.replication.show_checkpoint(checkpoint.clone());
            }
        }
        tracing::info!(snapshot = name, "the strands are filled");
        Ok(())
    }

    fn fill_strand(
        &self,
        place: &Bootstraps,
        stated: &BootstrapStrand,
        registry: &Registry,
    ) -> Result<(), BootstrapFetchError> {
        let originator = stated.originator;
        let store = self.engine.store();
        let Some(record) = registry.node(originator) else { return Ok(()) };
        let verifier = EnvelopeVerifier {
            originator,
            key: record.public_key,
            own: store.identity().node,
            absences: registry.absences(originator).clone(),
        };
        for chunk in &stated.chunks {
            if store.snapshot().head(originator)? < chunk.through {
                let envelopes = self.read_chunk(place, originator, chunk)?;
                if !self.write_chunk(&verifier, envelopes)? {
                    return Ok(());
                }
            }
            if let Some(progress) = &mut *self.progress.lock() {
                progress.done = progress.done.saturating_add(chunk.len_bytes);
            }
        }
        Ok(())
    }

    /// Reads a chunk, if it comes in time. The strand is followed meanwhile.
    fn read_chunk(
        &self,
        place: &Bootstraps,
        originator: OriginatorId,
        chunk: &BootstrapChunk,
    ) -> Result<Envelopes, BootstrapFetchError> {
        let until = Instant::now() + CHUNK_MAX;
        *self.end.chunk_until.lock() = Some(until);
        let read = place.chunk(originator, chunk);
        *self.end.chunk_until.lock() = None;
        if Instant::now() >= until {
            self.is_too_slow.store(true, Ordering::Release);
            // A folder is read to its end, however late that is.
            return Err(read.err().unwrap_or(BootstrapError::Stopped).into());
        }
        Ok(read?)
    }

    /// Writes what is behind the strand's head, while its follower rests. Returns false if the rest of the strand is left to
    /// the follower.
    fn write_chunk(
        &self,
        verifier: &EnvelopeVerifier,
        envelopes: Envelopes,
    ) -> Result<bool, BootstrapFetchError> {
        let originator = verifier.originator;
        let Some(resting) = self.runtime.block_on(self.replication.rest(originator)) else {
            tracing::warn!(code = "filling_failed", %originator, "the strand is left to its follower");
            return Ok(false);
        };
        let commit: Commit<'_> = &|changes: Vec<Change>| {
            if self.is_stopped() {
                return Err(BootstrapError::Stopped.into());
            }
            Ok(resting.append(changes)?)
        };
        // Its follower may have gone on since the last chunk.
        let head = self.engine.store().snapshot().head(originator)?;
        let goes_on = Writing::new(commit, verifier, Gaps::Stop, head).take(envelopes)?;
        if !goes_on {
            tracing::info!(%originator, "the snapshot leaves a place out: peers are asked for it, and for the rest");
        }
        Ok(goes_on)
    }
}
