//! The thread that writes: everything signed by then goes into one write with one sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::Receiver;
use hawser_proto::Bytes;
use hawser_storage::{Change, CommitError, LogEntry};

use super::error::PublishError;
use super::request::PendingReply;
use crate::runtime::Committer;
use crate::runtime::counters::Counters;

/// Envelopes at which a group stops growing, when it is sequenced and when it is written. Guessed:
/// one write of some MiB, which a disk takes in about the time of its sync.
pub(super) const GROUP_ENVELOPES_MAX: usize = 4096;

/// Names a group of requests, in the order in which the groups are written.
pub(super) type Generation = u64;

/// A signed group of requests on its way to disk.
pub(super) struct SignedGroup {
    pub(super) generation: Generation,
    /// New envelopes of this node's strand, contiguous.
    pub(super) entries: Vec<LogEntry>,
    pub(super) answers: Vec<(PendingReply, Vec<Bytes>)>,
    pub(super) fresh: u64,
    pub(super) replayed: u64,
    pub(super) counters: Arc<Counters>,
}

/// Writes all groups that wait as one commit, then answers their requests. `stored` is the newest
/// generation that is done with.
pub(super) fn run(
    groups: &Receiver<SignedGroup>,
    committer: &Committer,
    stored: &AtomicU64,
    broken: &AtomicBool,
) {
    // The first failure. The places of that group are never filled, and answers behind it may rest on
    // bytes that are not stored.
    let mut failure: Option<CommitError> = None;
    while let Ok(first) = groups.recv() {
        let mut waiting = vec![first];
        let mut envelopes = waiting[0].entries.len();
        // Group commit: what was signed during the last sync shares the next one.
        while envelopes < GROUP_ENVELOPES_MAX {
            let Ok(next) = groups.try_recv() else { break };
            envelopes += next.entries.len();
            waiting.push(next);
        }
        let entries = waiting.iter_mut().flat_map(|group| std::mem::take(&mut group.entries));
        // A group without entries repeats what an earlier one was to store: if that has failed, so has
        // the repeat, although nothing is left to write.
        let result = match failure.take() {
            Some(error) => Err(error),
            None => committer.commit(entries.map(Change::Append).collect()),
        };
        if let Err(error) = &result {
            failure = Some(error.clone());
            // The places of this group are given out and will never be filled: every later group
            // would leave a gap, so this process publishes no more.
            broken.store(true, Ordering::Release);
        }
        let generation = waiting.last().map_or(0, |group| group.generation);
        stored.store(generation, Ordering::Release);
        for group in waiting {
            answer(group, result.as_ref().err());
        }
    }
}

fn answer(group: SignedGroup, error: Option<&CommitError>) {
    let Some(error) = error else {
        group.counters.published.inc_by(group.fresh);
        group.counters.replayed.inc_by(group.replayed);
        for (mut reply, answer) in group.answers {
            reply.stage.lap(&group.counters.commit_seconds);
            reply.admitted.lap(&group.counters.admitted_seconds);
            reply.send(Ok(answer));
        }
        return;
    };
    tracing::error!(code = "publish_commit_failed", %error, "publishes could not be stored");
    for (reply, _) in group.answers {
        let reason = format!("log cannot be written: {error}");
        reply.send(Err(PublishError::broken(reason)));
    }
}
