//! The turns of submitters at the check of their reports: one report at a time, within the budget of all checks.
//! Submitters take turns of one report each. A submitter with many waiting reports gives up places to the other
//! submitters.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::fair_queue::FairQueue;
use crate::reports::CheckBudget;

/// Submissions that may wait for their check. A guess: seconds of the budget. When all places are taken, a further one
/// takes the place of the newest one of the submitter with the most, if that has at least two more than its own.
const WAITING_MAX: usize = 32;
/// The longest wait for a check. A guess: the places of a dozen submitters with reports of 3 MiB.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The turns. Clones share state. Keeps at most [`WAITING_MAX`] submissions.
#[derive(Clone)]
pub(super) struct CheckTurns(Arc<CheckTurnsState>);

struct CheckTurnsState {
    queue: Mutex<CheckQueue>,
    budget: Mutex<CheckBudget>,
    since: Instant,
}

#[derive(Default)]
struct CheckQueue {
    is_taken: bool,
    waiting: FairQueue<usize, oneshot::Sender<CheckTurn>>,
}

/// The turn of a submission, whose check is paid. Dropping it passes the turn on.
pub(super) struct CheckTurn(CheckTurns);

/// The error of a submission that has no place, or has waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many reports wait for their check: try again in {retry_after_s} s")]
pub(super) struct ChecksBusyError {
    /// Whole seconds, at least 1.
    pub(super) retry_after_s: u64,
}

impl CheckTurns {
    /// Creates the turns, with a whole budget.
    pub(super) fn new() -> Self {
        let (queue, budget) = (Mutex::default(), Mutex::default());
        Self(Arc::new(CheckTurnsState { queue, budget, since: Instant::now() }))
    }

    /// Waits for the turn of a submission of `caller`, a number that the calls of one site share, and for the budget
    /// to check this number of envelopes and bytes. Dropping the future gives up the wait.
    ///
    /// # Errors
    /// [`ChecksBusyError`] if all places are taken, a submitter with fewer takes this one, or 30 s have passed.
    pub(super) async fn take(
        &self,
        caller: usize,
        envelopes: usize,
        len_bytes: usize,
    ) -> Result<CheckTurn, ChecksBusyError> {
        let taking = async {
            let turn = self.wait(caller).await?;
            self.pay(envelopes, len_bytes).await;
            Some(turn)
        };
        match timeout(WAIT_MAX, taking).await {
            Ok(Some(turn)) => Ok(turn),
            Ok(None) | Err(_) => Err(self.busy()),
        }
    }

    /// Waits for the submitter's turn; `None` if the queue has no place for it, or gives its place to another
    /// submitter.
    async fn wait(&self, caller: usize) -> Option<CheckTurn> {
        let (turn, displaced) = {
            let mut queue = self.0.queue.lock();
            if !queue.is_taken {
                queue.is_taken = true;
                return Some(CheckTurn(self.clone()));
            }
            let displaced = queue.make_room(caller)?;
            let (sender, turn) = oneshot::channel();
            queue.waiting.push(caller, sender);
            (turn, displaced)
        };
        drop(displaced); // its submission learns that it has lost its place
        turn.await.ok()
    }

    /// Waits for the budget, and takes a check from it. Called by the holder of the turn alone.
    async fn pay(&self, envelopes: usize, len_bytes: usize) {
        loop {
            let wait_ns = {
                let mut budget = self.0.budget.lock();
                let wait_ns = budget.wait_ns(self.elapsed_ns());
                if wait_ns == 0 {
                    budget.take(envelopes, len_bytes);
                    return;
                }
                wait_ns
            };
            sleep(Duration::from_nanos(wait_ns)).await;
        }
    }

    fn busy(&self) -> ChecksBusyError {
        let wait_ns = self.0.budget.lock().wait_ns(self.elapsed_ns());
        ChecksBusyError { retry_after_s: wait_ns.div_ceil(1_000_000_000).max(1) }
    }

    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.0.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn pass_on(&self) {
        let next = {
            let mut queue = self.0.queue.lock();
            queue.forget_gone();
            let next = queue.waiting.pop();
            queue.is_taken = next.is_some();
            next
        };
        // If the submission gives up meanwhile, `send` fails and drops the turn, which calls this function again.
        if let Some(next) = next {
            let _ = next.send(CheckTurn(self.clone()));
        }
    }
}

impl CheckQueue {
    /// Makes room for a submission. If all places are taken, returns the submission that has lost its place; `None` if
    /// no submission gives way.
    fn make_room(&mut self, caller: usize) -> Option<Option<oneshot::Sender<CheckTurn>>> {
        self.forget_gone();
        if self.waiting.len() < WAITING_MAX {
            return Some(None);
        }
        let own = self.waiting.len_of(caller);
        self.waiting.pop_of_longest(own + 2).map(Some)
    }

    /// Removes the submissions that have given up.
    fn forget_gone(&mut self) {
        self.waiting.retain(|waiting| !waiting.is_closed());
    }
}

impl Drop for CheckTurn {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    const GREEDY: usize = 1;
    const OTHER: usize = 2;

    #[tokio::test(start_paused = true)]
    async fn a_few_submitters_leave_places_and_turns_to_others() {
        let turns = CheckTurns::new();
        let checking = turns.take(0, 1, 0).await.unwrap();
        let mut many: Vec<_> = (0..40).map(|_| Box::pin(turns.take(GREEDY, 1, 0))).collect();
        for (number, one) in many.iter_mut().enumerate() {
            let has_place = one.now_or_never().is_none();
            assert_eq!(has_place, number < WAITING_MAX, "{number}");
        }
        let mut single = Box::pin(turns.take(OTHER, 1, 0));
        assert!((&mut single).now_or_never().is_none(), "it has a place");
        let displaced = (&mut many[WAITING_MAX - 1]).now_or_never().unwrap();
        assert_eq!(displaced.err(), Some(ChecksBusyError { retry_after_s: 1 }));
        drop(checking);
        let first = (&mut many[0]).now_or_never().unwrap().unwrap();
        assert!((&mut single).now_or_never().is_none());
        drop(first);
        let second = (&mut single).now_or_never().unwrap().unwrap();
        assert!((&mut many[1]).now_or_never().is_none());
        drop(second);
        assert!((&mut many[1]).now_or_never().is_some());
    }

    /// Checks that use up the budget delay those of other submitters, and have none of them refused.
    #[tokio::test(start_paused = true)]
    async fn a_submission_waits_for_the_budget_in_its_turn() {
        let turns = CheckTurns::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        let callers = [GREEDY; 10].into_iter().chain([OTHER]);
        let checks = callers.map(|caller| {
            let (turns, order) = (turns.clone(), order.clone());
            async move {
                let turn = turns.take(caller, 64, 0).await.unwrap();
                order.lock().push(caller);
                drop(turn);
            }
        });
        let began = Instant::now();
        join_all(checks).await;
        assert!(began.elapsed() > Duration::from_millis(500), "the budget bounds them");
        let order = order.lock();
        // Three make the burst, the fourth has the turn and waits for the budget, and the fifth is the first in line.
        assert_eq!(order.iter().position(|caller| *caller == OTHER), Some(5), "{order:?}");
        assert_eq!(order.len(), 11);
    }

    #[tokio::test(start_paused = true)]
    async fn submissions_that_give_up_or_wait_too_long_keep_no_place() {
        let turns = CheckTurns::new();
        let checking = turns.take(0, 1, 0).await.unwrap();
        for _ in 0..3 {
            let mut many: Vec<_> =
                (0..WAITING_MAX).map(|_| Box::pin(turns.take(GREEDY, 1, 0))).collect();
            many.iter_mut().for_each(|one| assert!(one.now_or_never().is_none()));
        }
        let began = Instant::now();
        assert!(turns.take(OTHER, 1, 0).await.is_err());
        assert!(began.elapsed() >= WAIT_MAX);
        drop(checking);
        let queue = turns.0.queue.lock();
        assert!(queue.waiting.is_empty() && !queue.is_taken);
    }
}
