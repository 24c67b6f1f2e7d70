//! The task that extends trees which are behind their strands, while the node serves.

use std::sync::Arc;
use std::time::Duration;

use hawser_storage::{CommitError, Store, TreeBehind};
use tokio::time::Instant;

use super::Engine;
use super::counters::Counters;
use super::stop::StopSignal;
use super::stoppable::{StoppableTask, blocking};

/// Steps between two pauses. Calculated from the longest ones, of a few milliseconds: a stop waits for a tenth of a
/// second.
const STEPS_AT_ONCE: usize = 32;
/// Time between two looks for work. A guess: a place that is found late is proved a moment later.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two lines of progress. A guess: an operator who waits wants to see progress.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Pause after an error. A guess: a disk that cannot be read does not come back sooner.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Extends the trees of a folder that an earlier version of this program wrote, and trees that were held up by a
/// place that was found late. Takes at most half of one core. A node that stops before the end continues at its
/// next start.
#[derive(Debug)]
#[must_use = "the task runs until it is stopped"]
pub struct TreesTask(StoppableTask);

impl TreesTask {
    /// Starts the task.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(engine: &Engine) -> Self {
        let (store, counters) = (engine.store().clone(), engine.counters().clone());
        Self(StoppableTask::start(|stopped| run(store, counters, stopped)))
    }

    /// Stops the task and returns when its last write is done.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

/// Extends trees that are behind until it is stopped. Between two turns it rests for as long as the last one took.
async fn run(store: Store, counters: Arc<Counters>, mut stopped: StopSignal) {
    let mut logged_at: Option<Instant> = None;
    loop {
        let started = Instant::now();
        let pause = match take_steps(store.clone()).await {
            Ok(behind) => {
                let leaves = behind.iter().map(|it| it.head.0 - it.size).sum();
                counters.tree_leaves_behind.set(leaves);
                let wanted: u64 =
                    behind.iter().filter(|it| !it.waits).map(|it| it.head.0 - it.size).sum();
                if wanted > 0 && logged_at.is_none_or(|logged_at| logged_at.elapsed() >= TELL_EVERY)
                {
                    logged_at = Some(Instant::now());
                    tracing::info!(
                        leaves = wanted,
                        "adding missing leaves to the trees of strands"
                    );
                }
                if wanted > 0 { started.elapsed() } else { LOOK_EVERY }
            }
            Err(error) => {
                tracing::error!(code = "trees_failed", %error, "the trees of strands cannot be completed, and stay behind");
                RETRY_AFTER
            }
        };
        tokio::select! {
            () = stopped.stopped() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Takes some steps. Returns the trees that are still behind.
async fn take_steps(store: Store) -> Result<Vec<TreeBehind>, CommitError> {
    let work = move || {
        store.bring_up_trees(STEPS_AT_ONCE)?;
        Ok(store.trees_behind()?)
    };
    blocking(work).await
}
