//! The turns of callers at a bounded number of workers. Waiting tasks go round between callers, one task each, so a
//! newcomer waits for at most one task of each other caller. A single caller may have all workers.
//!
//! Not tokio's `Semaphore`: it gives workers in the order of arrival, so that the tasks of one caller that has sent
//! many would all go before the next caller's one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

/// The workers, and the tasks that wait for one. Clones share state. Keeps nothing of a caller without a waiting task.
#[derive(Clone)]
pub(crate) struct WorkerTurns(Arc<Mutex<WorkersState>>);

struct WorkersState {
    free: usize,
    /// The number of the newest task that has waited.
    newest: u64,
    /// The waiting tasks of each caller, by their numbers. A caller without a waiting task has no entry.
    waiting: HashMap<usize, BTreeMap<u64, oneshot::Sender<WorkerPlace>>>,
    /// The callers with waiting tasks, each once, the next one first.
    turns: VecDeque<usize>,
}

/// A worker that a task has. Dropping it passes the worker to the next waiting task.
pub(crate) struct WorkerPlace(WorkerTurns);

/// A task that waits. Dropping it gives up the wait.
struct WaitingTask {
    turns: WorkerTurns,
    caller: usize,
    number: u64,
    place: oneshot::Receiver<WorkerPlace>,
}

impl WorkerTurns {
    /// Creates turns at `workers`.
    pub(crate) fn new(workers: usize) -> Self {
        let (waiting, turns) = (HashMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(WorkersState { free: workers, newest: 0, waiting, turns })))
    }

    /// Waits for a worker in the caller's turn. `caller` is a number that the tasks of one address share. Dropping the
    /// future gives up the wait.
    ///
    /// # Errors
    /// None while `self` exists: a waiting task is forgotten only when it gives up.
    pub(crate) async fn take(&self, caller: usize) -> Result<WorkerPlace, RecvError> {
        let mut waiting = {
            let mut state = self.0.lock();
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                return Ok(WorkerPlace(self.clone()));
            }
            let (sender, place) = oneshot::channel();
            state.newest += 1;
            let number = state.newest;
            state.push(caller, number, sender);
            WaitingTask { turns: self.clone(), caller, number, place }
        };
        (&mut waiting.place).await
    }

    /// Passes a worker to the next waiting task, or frees it if no task waits.
    fn give_back(&self) {
        let next = {
            let mut state = self.0.lock();
            let next = state.pop();
            if next.is_none() {
                state.free += 1;
            }
            next
        };
        // If the task gives up meanwhile, `send` fails and drops the place, which calls this function again.
        if let Some(next) = next {
            let _ = next.send(WorkerPlace(self.clone()));
        }
    }
}

impl WorkersState {
    fn push(&mut self, caller: usize, number: u64, task: oneshot::Sender<WorkerPlace>) {
        let tasks = self.waiting.entry(caller).or_default();
        if tasks.is_empty() {
            self.turns.push_back(caller);
        }
        tasks.insert(number, task);
    }

    /// Takes the oldest task of the caller whose turn it is.
    fn pop(&mut self) -> Option<oneshot::Sender<WorkerPlace>> {
        let caller = self.turns.pop_front()?;
        let tasks = self.waiting.get_mut(&caller)?;
        let (_, next) = tasks.pop_first()?;
        if tasks.is_empty() {
            self.waiting.remove(&caller);
        } else {
            self.turns.push_back(caller);
        }
        debug_assert_eq!(self.turns.len(), self.waiting.len(), "each waiting caller has one turn");
        Some(next)
    }

    /// Takes a task that gives up, with its caller's turn if it was the last one.
    fn remove(&mut self, caller: usize, number: u64) -> Option<oneshot::Sender<WorkerPlace>> {
        let tasks = self.waiting.get_mut(&caller)?;
        let removed = tasks.remove(&number);
        if tasks.is_empty() {
            self.waiting.remove(&caller);
            self.turns.retain(|turn| *turn != caller);
        }
        removed
    }
}

impl Drop for WorkerPlace {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Drop for WaitingTask {
    fn drop(&mut self) {
        // Dropped without the lock: a place that was sent meanwhile goes on when `self.place` is dropped.
        let removed = self.turns.0.lock().remove(self.caller, self.number);
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const GREEDY: usize = 1;
    const OTHER: usize = 2;

    #[tokio::test]
    async fn a_caller_with_many_tasks_delays_another_by_one() {
        let workers = WorkerTurns::new(1);
        let busy = workers.take(0).await.unwrap();
        let mut many: Vec<_> = (0..100).map(|_| Box::pin(workers.take(GREEDY))).collect();
        assert!(many.iter_mut().all(|task| task.now_or_never().is_none()));
        let mut single = Box::pin(workers.take(OTHER));
        assert!((&mut single).now_or_never().is_none());
        drop(busy);
        let first = (&mut many[0]).now_or_never().unwrap().unwrap();
        assert!((&mut single).now_or_never().is_none());
        drop(first);
        let second = (&mut single).now_or_never().unwrap().unwrap();
        assert!((&mut many[1]).now_or_never().is_none());
        drop(second);
        assert!((&mut many[1]).now_or_never().is_some());
    }

    /// A caller that fills its queue and gives up again and again keeps no memory and earns no further turn.
    #[tokio::test]
    async fn tasks_that_give_up_leave_nothing_behind() {
        let workers = WorkerTurns::new(1);
        let busy = workers.take(0).await.unwrap();
        let mut last = Box::pin(workers.take(GREEDY));
        assert!((&mut last).now_or_never().is_none());
        for _ in 0..3 {
            let mut many: Vec<_> = (0..100).map(|_| Box::pin(workers.take(GREEDY))).collect();
            many.iter_mut().for_each(|task| assert!(task.now_or_never().is_none()));
        }
        let held = {
            let state = workers.0.lock();
            (state.waiting[&GREEDY].len(), state.turns.len())
        };
        assert_eq!(held, (1, 1));
        drop(busy);
        drop(last); // it has a worker by now, which it has not seen
        let state = workers.0.lock();
        assert_eq!((state.free, state.waiting.len(), state.turns.len()), (1, 0, 0));
    }
}
