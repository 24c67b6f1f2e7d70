//! The task that corrects booked amounts which were calculated before everything was known that they
//! depend on.

use std::time::Duration;

use hawser_storage::{CommitError, Store};
use tokio::time::Instant;

use super::Engine;
use super::stop::StopSignal;
use super::stoppable::{StoppableTask, blocking};
use crate::facts;

/// Time between two looks for work. Guessed: amounts are settled every few hours.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Steps that are taken between two pauses. Calculated from the longest ones, of some 40 ms: three seconds,
/// and a stop waits for them.
const STEPS_AT_ONCE: usize = 64;
/// Pause after an error. Guessed: a disk that cannot be read does not come back sooner.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Starts the task that prices marked minutes again, on one core and for half of the time at most: an originator can
/// cause this work by showing parts of its strand late. The strands take turns, so it delays its own corrections.
/// Stopping the task waits for its last write.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start_price_task(engine: &Engine) -> StoppableTask {
    let store = engine.store().clone();
    StoppableTask::start(|stopped| run(store, stopped))
}

/// Corrects booked amounts until it is stopped. Rests for as long as it has worked.
async fn run(store: Store, mut stopped: StopSignal) {
    let mut pause = LOOK_EVERY;
    loop {
        tokio::select! {
            () = stopped.stopped() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = LOOK_EVERY;
        if !store.has_unpriced() {
            continue;
        }
        let started = Instant::now();
        match correct(store.clone()).await {
            // Marked minutes wait while the marks of their strand change.
            Ok(0) => {}
            Ok(steps) => {
                tracing::info!(steps, "corrected booked amounts");
                pause = pause.max(started.elapsed());
            }
            Err(error) => {
                tracing::error!(code = "reprice_failed", %error, "booked amounts cannot be corrected");
                pause = RETRY_AFTER;
            }
        }
    }
}

async fn correct(store: Store) -> Result<usize, CommitError> {
    let work = move || {
        let own = store.identity().node;
        store.reprice(&|_, bytes, validity| facts::of_stored(bytes, validity, own), STEPS_AT_ONCE)
    };
    blocking(work).await
}
