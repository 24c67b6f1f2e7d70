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

/// Starts the task that extends the trees of a folder that an earlier version of this program wrote, and trees that
/// were held up by a place that was found late. It takes at most half of one core. A node that stops before the end
/// continues at its next start. Stopping the task waits for its last write.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start_trees_task(engine: &Engine) -> StoppableTask {
    let (store, counters) = (engine.store().clone(), engine.counters().clone());
    StoppableTask::start(|stopped| run(store, counters, stopped))
}

/// Extends trees that are behind until it is stopped. Between two turns it rests for as long as the last one took.
async fn run(store: Store, counters: Arc<Counters>, mut stopped: StopSignal) {
    let mut logged_at: Option<Instant> = None;
    loop {
        let started = Instant::now();
        let pause = match take_steps(store.clone()).await {
            Ok(Some(behind)) => {
                counters.tree_leaves_behind.set(leaves_of(behind.iter()));
                let wanted = leaves_of(behind.iter().filter(|it| !it.waits));
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
            Ok(None) => started.elapsed(),
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

/// Returns the number of places that these trees lack. A node may sign any place up to the last one that there is, so
/// the places behind the gaps of a few strands are more than a number holds.
fn leaves_of<'a>(behind: impl Iterator<Item = &'a TreeBehind>) -> u64 {
    behind.map(|it| it.head.0.saturating_sub(it.size)).fold(0, u64::saturating_add)
}

/// Takes some steps. Returns the trees that are still behind; `None` if a tree cannot be read and other trees need
/// further steps: these steps follow without a pause.
///
/// # Errors
/// When a tree cannot be read or extended, and all others are complete.
async fn take_steps(store: Store) -> Result<Option<Vec<TreeBehind>>, CommitError> {
    let work = move || -> Result<Option<Vec<TreeBehind>>, CommitError> {
        let is_done = store.extend_trees(STEPS_AT_ONCE)?;
        match store.trees_behind() {
            Ok(behind) => Ok(Some(behind)),
            Err(_) if !is_done => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    blocking(work).await
}

#[cfg(test)]
mod tests {
    use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
    use hawser_storage::{Change, Family, InvalidRule, LogEntry, SkipReason};

    use super::*;
    use crate::read::testing;

    /// Three nodes sign the last place that there is, and no peer has the places before it.
    #[test]
    fn strands_that_end_with_the_last_place_of_all_are_counted() {
        let store = testing::store();
        let before = SequenceId::MAX.previous();
        for originator in [300, 400, 500].map(OriginatorId) {
            let (from, reason) = (SequenceId(1), SkipReason::Missing);
            let gap = Change::Skip { originator, from, through: before, reason };
            let id = EnvelopeId::new(originator, SequenceId::MAX);
            let last = LogEntry::invalid(id, Bytes::from_static(b"envelope"), InvalidRule(1));
            store.commit(&[gap, Change::Append(last)]).unwrap();
        }
        assert_eq!(store.extend_trees(STEPS_AT_ONCE), Ok(true), "all of them wait");
        let behind = store.trees_behind().unwrap();
        assert_eq!(behind.len(), 3);
        assert_eq!(leaves_of(behind[..1].iter()), SequenceId::MAX.0);
        assert_eq!(leaves_of(behind.iter()), u64::MAX);
    }
    /// The disk has damaged a mark of one strand, and another one needs more steps than a turn has.
    #[tokio::test]
    async fn a_tree_that_cannot_be_read_makes_no_other_one_wait() {
        const PLACES: u64 = 17_000;
        let (damaged, long) = (OriginatorId(300), OriginatorId(400));
        let store = testing::store();
        for (originator, last) in [(damaged, 3), (long, PLACES)] {
            let append = |place| {
                let id = EnvelopeId::new(originator, SequenceId(place));
                let bytes = Bytes::from_static(b"envelope");
                Change::Append(LogEntry::invalid(id, bytes, InvalidRule(1)))
            };
            let (from, through) = (SequenceId(1), SequenceId(1));
            let gap = Change::Skip { originator, from, through, reason: SkipReason::Missing };
            let changes: Vec<_> = std::iter::once(gap).chain((2..=last).map(append)).collect();
            store.commit(&changes).unwrap();
            store.commit(&[append(1)]).unwrap();
        }
        let key = [&damaged.0.to_be_bytes()[..], &1_u64.to_be_bytes()].concat();
        store.put_raw_row(Family::Mark, &key, &[0xff]);
        assert_eq!(take_steps(store.clone()).await, Ok(None), "the other one goes on at once");
        let failed = take_steps(store.clone()).await;
        assert!(matches!(failed, Err(CommitError::Read(_))), "{failed:?}");
        let sizes = [damaged, long].map(|strand| store.tree_edge(strand).unwrap().size());
        assert_eq!(sizes, [0, PLACES]);
    }
}
