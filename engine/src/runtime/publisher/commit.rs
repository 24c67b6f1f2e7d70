//! The thread that writes: whatever is signed by then goes into one write with one sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Receiver;
use hawser_proto::Bytes;
use hawser_storage::{Change, CommitError, LogEntry};

use super::{GROUP_ENVELOPES_MAX, PublishError, Reply};
use crate::runtime::committer::Committer;
use crate::runtime::counters::Counters;

/// A signed group of requests on its way to disk.
pub(super) struct Group {
    pub(super) generation: u64,
    /// New envelopes of this node's strand, contiguous.
    pub(super) entries: Vec<LogEntry>,
    pub(super) answers: Vec<(Reply, Vec<Bytes>)>,
    pub(super) fresh: u64,
    pub(super) replayed: u64,
    pub(super) counters: Arc<Counters>,
}

/// Writes everything that waits as one group, then answers all of it.
pub(super) fn run(
    groups: &Receiver<Group>,
    committer: &Committer,
    done: &AtomicU64,
    broken: &AtomicBool,
) {
    while let Ok(first) = groups.recv() {
        let mut waiting = vec![first];
        let mut envelopes = waiting[0].entries.len();
        while envelopes < GROUP_ENVELOPES_MAX {
            let Ok(next) = groups.try_recv() else { break };
            envelopes += next.entries.len();
            waiting.push(next);
        }
        let entries = waiting.iter_mut().flat_map(|group| std::mem::take(&mut group.entries));
        let result = committer.commit(entries.map(Change::Append).collect());
        if result.is_err() {
            broken.store(true, Ordering::Release);
        }
        let generation = waiting.last().map_or(0, |group| group.generation);
        done.store(generation, Ordering::Release);
        for group in waiting {
            answer(group, result.as_ref().err());
        }
    }
}

fn answer(group: Group, error: Option<&CommitError>) {
    let Some(error) = error else {
        group.counters.published.add(group.fresh);
        group.counters.replayed.add(group.replayed);
        for (mut reply, answer) in group.answers {
            reply.stage.lap(&group.counters.commit_seconds);
            reply.admitted.lap(&group.counters.admitted_seconds);
            reply.send(Ok(answer));
        }
        return;
    };
    tracing::error!(code = "publish_commit_failed", %error, "publishes could not be stored");
    for (reply, _) in group.answers {
        reply.send(Err(PublishError::Unavailable {
            reason: format!("log cannot be written: {error}"),
            retry_after: Duration::from_secs(60),
        }));
    }
}
