//! Fills the strands of a running node from a snapshot. Readers get each envelope as soon
//! as it is verified and written.
//!
//! - `plan`: the next step, and the time limits of filling; - `chains`: the strands of the chains.
//!
//! A strand is filled in order from its durable head. Its follower continues while a chunk is being read, and pauses
//! while one is verified and written, so a slow source does not delay a strand that peers supply. Each envelope is
//! verified like one from a peer, so any part of a strand is valid by itself, even after a crash. If the snapshot omits
//! a sequence id, the follower asks peers whether it is missing and follows the strand until it has passed the
//! omission; meanwhile other strands are filled.
//!
//! A defect of the snapshot or its source suspends filling, and a source that is too slow ends it;
//! everything is then taken from peers. Publishing is no longer held back after the first such failure,
//! after a wait for followers, or after an hour.
//!
//! Checkpoints of the snapshot are passed to the checkpoint exchange, which compares them with the trees and
//! keeps contradictions as evidence.

mod chains;
mod plan;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hawser_api::FillingView;
use hawser_engine::Engine;
use hawser_engine::replication::EnvelopeVerifier;
use hawser_engine::runtime::replication::Replication;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{
    BootstrapChunk, BootstrapError, BootstrapManifest, Bootstraps, Change, Objects,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::checkpoints::{Evidence, MajorityTree};
use super::error::BootstrapFetchError;
use super::strand::{Commit, Envelopes, Gaps, Write, Writing, write_signed};
use super::verify::ReadChunk;
use crate::bucket::{ObjectsAt, StopCheck};
use crate::clock::now_unix_s;
use crate::error::RunError;
use crate::settings::place_of;
use crate::web::{WebObjects, with_host_only};

pub(in crate::service) use chains::ChainFill;

use chains::{AppendAt, FilledChain};
use plan::{FillPlan, FillStep, FillTimes};

/// The interval at which the stop of the node is checked. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

/// The filling task, which has its own thread.
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
    end: Arc<FillEnd>,
}

/// The reason why work with the source ended.
struct FillEnd {
    is_stopped: AtomicBool,
    times: Mutex<FillTimes>,
}

impl FillEnd {
    fn new(now: Instant) -> Self {
        Self { is_stopped: AtomicBool::new(false), times: Mutex::new(FillTimes::new(now)) }
    }

    /// Reads from the source within the time limit. The source could otherwise delay the chains, whose readers wait.
    fn read<T>(
        &self,
        read: impl FnOnce() -> Result<T, BootstrapError>,
    ) -> Result<T, BootstrapFetchError> {
        self.times.lock().begin_read(Instant::now());
        let read = read();
        if self.times.lock().end_read(Instant::now()) {
            // Reading from a folder cannot be interrupted, so this is noticed only afterwards.
            return Err(read.err().unwrap_or(BootstrapError::Stopped).into());
        }
        Ok(read?)
    }

    /// Finds and reads the newest manifest of a network.
    fn newest(
        &self,
        place: &Bootstraps,
        network: &str,
        now_unix_s: u64,
    ) -> Result<(String, BootstrapManifest), BootstrapFetchError> {
        self.read(|| place.newest(network, now_unix_s))
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    fn is_reached(&self) -> bool {
        self.is_stopped() || self.times.lock().is_late(Instant::now())
    }
}

/// The lengths in bytes of the chunks of all strands that lack something.
#[derive(Debug, Clone, Copy)]
struct FillProgress {
    done: u64,
    total: u64,
}

impl FillingView for FillParts {
    fn filling(&self) -> Option<String> {
        if !self.end.times.lock().holds(Instant::now()) {
            return None;
        }
        let FillProgress { done, total } = (*self.progress.lock())?;
        let (done, total) = (done / MIB, total.div_ceil(MIB));
        Some(format!("strands are filled from a snapshot: {done} of {total} MiB"))
    }
}

impl FillTask {
    /// Starts to fill, beginning with the strands of `chains`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Fails when the system cannot start a thread.
    pub(in crate::service) fn start(
        from: &str,
        engine: &Engine,
        replication: Replication,
        chains: ChainFill,
    ) -> std::io::Result<Self> {
        let parts = Arc::new(FillParts {
            from: from.to_owned(),
            engine: engine.clone(),
            replication,
            runtime: Handle::current(),
            progress: Mutex::default(),
            end: Arc::new(FillEnd::new(Instant::now())),
        });
        let of_thread = Arc::clone(&parts);
        let thread =
            thread::Builder::new().name("filling".into()).spawn(move || of_thread.run(chains))?;
        Ok(Self { parts, thread })
    }

    /// Returns the view for the API.
    pub(in crate::service) fn view(&self) -> Arc<dyn FillingView> {
        self.parts.clone()
    }

    /// Stops filling. Blocks until the current chunk is abandoned or written.
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

    fn run(&self, chains: ChainFill) {
        // The chain readers start when it is dropped, whether or not anything was filled.
        let mut chains = Some(chains);
        while !self.is_stopped() {
            let filled = self.fill(&mut chains);
            chains = None;
            *self.progress.lock() = None;
            let pause = match filled {
                Ok(()) => return,
                Err(_) if self.is_stopped() => return,
                Err(error) => self.note_failure(&error),
            };
            if self.end.times.lock().is_too_slow() {
                return;
            }
            self.wait(pause);
        }
    }

    /// Waits for `left`, or until the node stops.
    fn wait(&self, mut left: Duration) {
        while !left.is_zero() && !self.is_stopped() {
            thread::sleep(left.min(LOOK_EVERY));
            left = left.saturating_sub(LOOK_EVERY);
        }
    }

    /// Returns the text of an error. A path in it may be the source's address, of which only the host is shown.
    fn text_of(&self, error: &impl fmt::Display) -> String {
        with_host_only(&error.to_string(), &self.from)
    }

    /// Logs a failure, and returns the pause before the next attempt.
    fn note_failure(&self, error: &RunError) -> Duration {
        let mut times = self.end.times.lock();
        let (from, error) = (place_of(&self.from), self.text_of(error));
        let next = if times.is_too_slow() {
            "the snapshot comes too slowly: strands are taken from peers from now on"
        } else {
            "strands are taken from peers for now, and from the snapshot again after a pause"
        };
        tracing::warn!(code = "filling_failed", from, error, "{next}");
        times.fail()
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

    /// Fills all strands for which the newest snapshot has something new, those of chains first.
    fn fill(&self, chains: &mut Option<ChainFill>) -> Result<(), RunError> {
        let place = Bootstraps::new(self.open()?);
        let store = self.engine.store();
        let network = &store.identity().network;
        let (name, manifest) = self.end.newest(&place, network, now_unix_s())?;
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
        let mut plan = FillPlan::new(lacking.iter().copied());
        if let Some(chains) = chains.take() {
            self.show(&plan);
            let signed =
                |originator| evidence.majority_tree(originator, &registry, store.identity().node);
            self.fill_chains(&place, &manifest, &signed, &chains)?;
        }
        if lacking.is_empty() {
            return Ok(());
        }
        let (_, total) = plan.progress();
        tracing::info!(snapshot = name, strands = lacking.len(), total, "filling strands");
        self.follow(&mut plan, &place)?;
        for checkpoint in lacking.iter().flat_map(|stated| evidence.of_strand(stated.originator)) {
            // If its node does not show it yet, it will come from peers.
            let _ = self.replication.show_checkpoint(checkpoint.clone());
        }
        tracing::info!(snapshot = name, "the strands are filled");
        Ok(())
    }

    /// Executes the steps of the plan.
    fn follow(&self, plan: &mut FillPlan, place: &Bootstraps) -> Result<(), BootstrapFetchError> {
        let mut head_of = |originator| Ok(self.engine.store().snapshot().head(originator)?);
        loop {
            let step = plan.next::<BootstrapFetchError>(Instant::now(), &mut head_of)?;
            self.show(plan);
            match step {
                FillStep::Read { originator, chunk } => {
                    let envelopes = self.read_chunk(place, originator, &chunk)?;
                    match self.write_chunk(originator, envelopes, chunk.through)? {
                        Filled::Through => {}
                        Filled::BeforeGap(head) => plan.note_gap(originator, head, Instant::now()),
                        Filled::Refused => plan.give_up(originator),
                    }
                }
                FillStep::Wait => {
                    self.end.times.lock().release();
                    if self.is_stopped() {
                        return Err(BootstrapError::Stopped.into());
                    }
                    self.wait(LOOK_EVERY);
                }
                FillStep::End => return Ok(()),
            }
        }
    }

    fn show(&self, plan: &FillPlan) {
        let (done, total) = plan.progress();
        *self.progress.lock() = Some(FillProgress { done, total });
    }

    /// Fills the strands of chains up to the size that most nodes have signed according to `signed`. A strand that
    /// cannot be filled is read from the chain.
    ///
    /// # Errors
    /// Fails when the node stops, or the source is too slow.
    fn fill_chains(
        &self,
        place: &Bootstraps,
        manifest: &BootstrapManifest,
        signed: &dyn Fn(OriginatorId) -> Result<MajorityTree, BootstrapFetchError>,
        chains: &ChainFill,
    ) -> Result<(), BootstrapFetchError> {
        let (store, gate) = (self.engine.store(), chains.gate());
        let appender = self.engine.chain_appender();
        for stated in manifest.strands.iter().filter(|stated| stated.is_of_chain()) {
            let originator = stated.originator;
            let Some(contract) = chains.contract(originator) else { continue };
            let may_go_on = || !self.is_stopped() && gate.is_shut(Instant::now());
            let read: ReadChunk<'_> = &mut |chunk: &BootstrapChunk| {
                if !may_go_on() {
                    return Err(BootstrapError::Stopped.into());
                }
                self.read_chunk(place, originator, chunk)
            };
            let filled = signed(originator).and_then(|signed| {
                let append: AppendAt<'_> =
                    &|originator, events, position| appender.append(originator, events, position);
                let (runtime, signed, may_go_on) = (&self.runtime, &signed, &may_go_on);
                FilledChain { store, append, runtime, contract, signed, may_go_on }
                    .fill(stated, read)
            });
            match filled {
                Ok(()) => {
                    tracing::info!(originator_id = %originator, "the strand of a chain is filled")
                }
                Err(error) if self.is_stopped() || self.end.times.lock().is_too_slow() => {
                    return Err(error);
                }
                Err(error) => {
                    let error = self.text_of(&error);
                    let next = "the chain is read from where the strand ends";
                    tracing::warn!(code = "filling_failed", originator_id = %originator, error, "{next}");
                }
            }
        }
        Ok(())
    }

    /// Reads a chunk. The strand is followed meanwhile.
    fn read_chunk(
        &self,
        place: &Bootstraps,
        originator: OriginatorId,
        chunk: &BootstrapChunk,
    ) -> Result<Envelopes, BootstrapFetchError> {
        self.end.read(|| place.chunk(originator, chunk))
    }

    /// Writes the envelopes after the strand's head while its follower pauses.
    fn write_chunk(
        &self,
        originator: OriginatorId,
        envelopes: Envelopes,
        through: SequenceId,
    ) -> Result<Filled, BootstrapFetchError> {
        let Some(resting) = self.runtime.block_on(self.replication.rest(originator)) else {
            tracing::warn!(code = "filling_failed", originator_id = %originator, "the strand cannot be filled from a snapshot: its follower takes it from peers");
            return Ok(Filled::Refused);
        };
        // The current registry is used, because filling takes hours, in which nodes leave the network and return.
        let registry = self.engine.ports().registry.borrow().clone();
        let Some(record) = registry.node(originator) else { return Ok(Filled::Refused) };
        let verifier = EnvelopeVerifier {
            originator,
            key: record.public_key,
            own: self.engine.store().identity().node,
            absences: registry.absences(originator).clone(),
        };
        let commit: Commit<'_> = &|changes: Vec<Change>| {
            if self.is_stopped() {
                return Err(BootstrapError::Stopped.into());
            }
            Ok(resting.append(changes)?)
        };
        let write: Write<'_> = &|head, envelopes| write_signed(&verifier, commit, head, envelopes);
        // The follower may have advanced since the last chunk.
        let head = self.engine.store().snapshot().head(originator)?;
        Writing::new(write, Gaps::Stop, head, SequenceId(u64::MAX)).take(envelopes)?;
        let head = self.engine.store().snapshot().head(originator)?;
        Ok(if head < through { Filled::BeforeGap(head) } else { Filled::Through })
    }
}

/// The result of writing a chunk.
enum Filled {
    /// The strand has reached the end of the chunk.
    Through,
    /// The snapshot omits the sequence id after this head.
    BeforeGap(SequenceId),
    /// The strand's follower does not pause, or the registry has no key for the strand.
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The source is slow, so that the chains, whose readers wait, would be read late.
    #[test]
    fn names_and_manifests_have_the_limit_that_chunks_have() {
        let end = Arc::new(FillEnd::new(Instant::now()));
        let is_limited = Arc::new(AtomicBool::new(false));
        let (of_stop, seen) = (Arc::clone(&end), Arc::clone(&is_limited));
        // Asked before the first byte is waited for. No server is needed.
        let stop: StopCheck = Arc::new(move || {
            let in_a_minute = Instant::now() + plan::READ_MAX;
            seen.fetch_or(of_stop.times.lock().is_late(in_a_minute), Ordering::AcqRel);
            true
        });
        let web = WebObjects::new("http://127.0.0.1:1", false, stop).unwrap();
        assert!(end.newest(&Bootstraps::new(Arc::new(web)), "test", 0).is_err());
        assert!(is_limited.load(Ordering::Acquire), "the time for names and manifests is limited");
        let in_an_hour = Instant::now() + crate::service::chain_gate::HOLD_MAX;
        assert!(!end.times.lock().is_late(in_an_hour), "nothing is read any more");
    }
}
