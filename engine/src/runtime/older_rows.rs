//! The task that upgrades stored rows after a start, while the node serves. It first reads the topics of the newest
//! envelopes into memory, then brings a folder of an older format up to date.

use std::time::Duration;

use hawser_proto::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_storage::{CommitError, Family, ReadError, RecentTopicsWalk, Store};
use tokio::time::Instant;

use super::Engine;
use super::scrub::Scrubs;
use super::stop::StopSignal;
use super::stoppable::{StoppableTask, blocking};

/// Steps between two pauses. Calculated from the longest ones, of a millisecond: a stop waits for a tenth of
/// a second.
const STEPS_AT_ONCE: usize = 100;
/// Time between two lines of progress. A guess: often enough for an operator who waits.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Pause after an error. A guess: a disk that cannot be read does not come back sooner.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Starts the task that reads the topics of the last envelopes, so that readers who have these envelopes cost no
/// search. Then it puts small envelopes beside topic rows that an earlier version of this program wrote without them.
/// It takes at most half of one core, and ends when no such row is left. A node that stops before continues at its next
/// start. Stopping the task waits for its last write.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start_older_rows_task(engine: &Engine) -> StoppableTask {
    let (store, scrubs) = (engine.store().clone(), engine.scrubs().clone());
    StoppableTask::start(|stopped| run(store, scrubs, stopped))
}

/// Remembers the newest topics, and then converts rows of an older format. Both rest for as long as they have worked.
async fn run(store: Store, scrubs: Scrubs, mut stopped: StopSignal) {
    let mut walk = RecentTopicsWalk::default();
    while !stopped.is_stopped() {
        let started = Instant::now();
        match remember(store.clone(), walk).await {
            (again, Ok(true)) => walk = again,
            (_, Ok(false)) => break,
            (again, Err(error)) => {
                tracing::warn!(%error, "the newest topics of a strand cannot be read: readers search the disk for them");
                walk = again;
            }
        }
        tokio::time::sleep(started.elapsed()).await;
    }
    let (mut logged_at, mut has_told_damage): (Option<Instant>, bool) = (None, false);
    while let Some(progress) = store.older_topic_rows() {
        if logged_at.is_none_or(|logged_at| logged_at.elapsed() >= TELL_EVERY) {
            logged_at = Some(Instant::now());
            tracing::info!(
                rows = progress.looked_at,
                of_about = progress.total_estimate,
                "putting envelopes beside the topic rows of an older format"
            );
        }
        let started = Instant::now();
        let pause = match take_steps(store.clone()).await {
            Ok(true) => {
                tracing::info!("all topic rows have their envelopes beside them");
                return;
            }
            Ok(false) => started.elapsed(),
            Err(error) => {
                tracing::error!(code = "older_rows_failed", %error, "rows of an older format cannot be converted, and stay as they are");
                // Once: if the scrub cannot repair it, another one would not either, and it comes again by itself.
                if let CommitError::Read(error) = &error
                    && error.is_damage()
                    && !std::mem::replace(&mut has_told_damage, true)
                {
                    scrubs.note_read(Family::Topic, error);
                }
                RETRY_AFTER
            }
        };
        tokio::select! {
            () = stopped.stopped() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Takes a step of the walk, which it gives back. Returns true if there is more to do.
async fn remember(
    store: Store,
    mut walk: RecentTopicsWalk,
) -> (RecentTopicsWalk, Result<bool, ReadError>) {
    let step = move || {
        let topic_of = |bytes: &Bytes| {
            let envelope = OriginatorEnvelope::parse(bytes.clone()).ok()?;
            Some(envelope.unsigned().payer().client().topic().clone())
        };
        let has_more = store.remember_topics(&mut walk, topic_of);
        (walk, has_more)
    };
    blocking(step).await
}

async fn take_steps(store: Store) -> Result<bool, CommitError> {
    blocking(move || store.convert_topic_rows(STEPS_AT_ONCE)).await
}
