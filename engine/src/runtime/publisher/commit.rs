//! The thread that writes: each write has all envelopes that are signed when it begins, and one sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use hawser_storage::{Change, CommitError, LogEntry};

use super::error::PublishError;
use super::in_flight::HeldReceipts;
use super::request::{InFlightShare, PendingReply, Published};
use super::size::{GROUP_MAX, PublishSize};
use crate::runtime::Committer;
use crate::runtime::counters::{Counters, Stopwatch};

/// Names a group of requests, in the order in which the groups are written.
pub(super) type Generation = u64;

/// A signed group of requests on its way to disk.
pub(super) struct SignedGroup {
    pub(super) generation: Generation,
    /// Number of times that the end of the strand has been read again after a failure.
    pub(super) epoch: u64,
    /// New envelopes of this node's strand, contiguous.
    pub(super) entries: Vec<LogEntry>,
    pub(super) answers: Vec<(PendingReply, Published)>,
    /// The share of the bytes in flight of the large request that has a piece here. Such a request may fail before its
    /// pieces are written: its places are in flight until then, and its answer waits.
    pub(super) _of_piece: Option<Arc<InFlightShare>>,
    /// The envelopes of its requests. Copies of them that are in flight find in memory what was signed here. Later
    /// look-ups find it on the disk.
    pub(super) _held: Vec<HeldReceipts>,
    pub(super) fresh: u64,
    pub(super) replayed: u64,
    pub(super) counters: Arc<Counters>,
}

/// The state of the thread that writes.
pub(super) struct CommitThread {
    committer: Committer,
    /// The newest generation that is done with.
    stored: Arc<AtomicU64>,
    /// Set when assigned places will never be filled; the sequencing thread reads it.
    broken: Arc<AtomicBool>,
    /// Signals to the sequencing thread that groups are finished. Pieces of large requests wait for that.
    written: Sender<()>,
    /// The last failure, and its epoch. Answers behind it may rest on bytes that are not stored. The
    /// sequencing thread begins the next epoch when all groups of this one have been answered.
    failure: Option<(u64, CommitError)>,
}

impl CommitThread {
    pub(super) fn new(
        committer: Committer,
        stored: Arc<AtomicU64>,
        broken: Arc<AtomicBool>,
        written: Sender<()>,
    ) -> Self {
        Self { committer, stored, broken, written, failure: None }
    }

    /// Runs until the sequencing thread has ended.
    pub(super) fn run(mut self, groups: &Receiver<SignedGroup>) {
        while let Some(first) = next_group(groups) {
            self.commit(first, groups);
        }
    }

    /// Writes all groups that wait as one commit, then answers their requests.
    pub(super) fn commit(&mut self, first: SignedGroup, groups: &Receiver<SignedGroup>) {
        let epoch = first.epoch;
        let mut size = PublishSize::of(first.entries.iter().map(|entry| entry.bytes.len()));
        let mut waiting = vec![first];
        // Group commit: what was signed during the last sync shares the next one.
        while !size.reaches(GROUP_MAX) {
            let Ok(next) = groups.try_recv() else { break };
            size.add(next.entries.iter().map(|entry| entry.bytes.len()));
            waiting.push(next);
        }
        debug_assert!(waiting.iter().all(|group| group.epoch == epoch), "epochs do not mix");
        let entries = waiting.iter_mut().flat_map(|group| std::mem::take(&mut group.entries));
        // A group without entries only repeats envelopes of an earlier group. If the earlier group failed, the repeat
        // fails too, although it has nothing to write.
        let result = match self.failure.take() {
            Some((of, error)) if of == epoch => Err(error),
            _ => {
                let mut changes = Vec::with_capacity(size.envelopes);
                changes.extend(entries.map(Change::Append));
                self.committer.commit(changes)
            }
        };
        if let Err(error) = &result {
            self.failure = Some((epoch, error.clone()));
            // The places of this group are given out and not filled: every later group would leave a
            // gap, until the end of the strand has been read again.
            self.broken.store(true, Ordering::Release);
        }
        let generation = waiting.last().map_or(0, |group| group.generation);
        self.stored.store(generation, Ordering::Release);
        // A message that waits already says the same.
        let _ = self.written.try_send(());
        for group in waiting {
            answer(group, result.as_ref().err());
        }
    }
}

/// Waits for a group; `None` when no more will come. If the thread slept until the group was queued, the requests of
/// the group have waited for the thread to get a core.
pub(super) fn next_group(groups: &Receiver<SignedGroup>) -> Option<SignedGroup> {
    if let Ok(group) = groups.try_recv() {
        return Some(group); // it has waited for an earlier write
    }
    let mut group = groups.recv().ok()?;
    let queued = group.answers.last().map(|(reply, _)| reply.queued);
    let waited = queued.map_or(Duration::ZERO, |queued| queued.elapsed());
    for (reply, _) in &mut group.answers {
        reply.thread_wait += waited;
    }
    Some(group)
}

fn answer(group: SignedGroup, error: Option<&CommitError>) {
    let Some(error) = error else {
        group.counters.published.inc_by(group.fresh);
        group.counters.replayed.inc_by(group.replayed);
        let now = Stopwatch::start();
        for (mut reply, answer) in group.answers {
            reply.stage.lap_at(now, &group.counters.commit_seconds);
            reply.admitted.lap_at(now, &group.counters.admitted_seconds);
            reply.send(Ok(answer));
        }
        return;
    };
    tracing::error!(code = "publish_commit_failed", %error, "publishes could not be stored");
    for (reply, _) in group.answers {
        reply.send(Err(PublishError::of_disk("log cannot be written")));
    }
}
