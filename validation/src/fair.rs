//! A gate that a bounded number of tasks may hold at once. Waiting callers take turns, one task each, so a caller
//! with many tasks delays mainly its own tasks. A single caller may have all places.
//!
//! Not tokio's `Semaphore`: it gives places in the order of arrival, so that the tasks of one caller that has sent many
//! would all go before the next caller's one.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Largest number of tasks of one caller that wait at a gate. A guess: far more than a client has under way.
const WAITING_MAX: usize = 1024;

/// The gate, for callers with names of type `K`. Clones share its places.
pub struct FairGate<K: Clone + Eq + Hash>(Arc<Mutex<GateState<K>>>);

struct GateState<K: Clone + Eq + Hash> {
    free: usize,
    /// The waiting tasks of each caller, in order of arrival. A caller without a waiting task has no entry.
    waiting: HashMap<K, VecDeque<oneshot::Sender<GatePass<K>>>>,
    /// The callers with waiting tasks, each once, the next one first.
    turns: VecDeque<K>,
}

/// A place at a [`FairGate`]. Dropping it passes the place to the next waiting task.
pub struct GatePass<K: Clone + Eq + Hash>(FairGate<K>);

/// The error of a caller that has too many waiting tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{WAITING_MAX} requests of this caller wait already: try again later")]
pub struct GateFullError;

impl<K: Clone + Eq + Hash> Clone for FairGate<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash> FairGate<K> {
    /// Creates a gate for `places` tasks at once.
    #[must_use]
    pub fn new(places: usize) -> Self {
        let (waiting, turns) = (HashMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(GateState { free: places, waiting, turns })))
    }

    /// Waits for a place. Dropping the future gives up the turn.
    ///
    /// # Errors
    /// [`GateFullError`] if 1024 tasks of the caller wait here.
    pub async fn enter(&self, caller: &K) -> Result<GatePass<K>, GateFullError> {
        let pass = {
            let mut state = self.0.lock();
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                return Ok(GatePass(self.clone()));
            }
            let (sender, receiver) = oneshot::channel();
            let queue = state.waiting.entry(caller.clone()).or_default();
            // A caller with waiting tasks is in `turns` already, even if the sweep below empties its queue.
            let has_turn = !queue.is_empty();
            if queue.len() >= WAITING_MAX {
                queue.retain(|waits| !waits.is_closed()); // tasks that gave up do not count
            }
            if queue.len() >= WAITING_MAX {
                return Err(GateFullError);
            }
            queue.push_back(sender);
            if !has_turn {
                state.turns.push_back(caller.clone());
            }
            receiver
        };
        // Not reached: this call keeps the gate alive, and the gate drops no sender whose receiver still waits.
        pass.await.map_err(|_| GateFullError)
    }

    /// Passes a place to the next waiting task, or frees it if no task waits.
    fn leave(&self) {
        let mut state = self.0.lock();
        while let Some(caller) = state.turns.pop_front() {
            let Some(queue) = state.waiting.get_mut(&caller) else { continue };
            while queue.front().is_some_and(oneshot::Sender::is_closed) {
                queue.pop_front();
            }
            let next = queue.pop_front();
            if queue.is_empty() {
                state.waiting.remove(&caller);
            } else {
                state.turns.push_back(caller);
            }
            if let Some(next) = next {
                drop(state);
                // If the task has given up meanwhile, `send` fails and drops the pass, which calls this function
                // again.
                let _ = next.send(GatePass(self.clone()));
                return;
            }
        }
        state.free += 1;
    }
}

impl<K: Clone + Eq + Hash> Drop for GatePass<K> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_caller_with_many_tasks_delays_another_by_one() {
        let gate = FairGate::new(1);
        let inside = gate.enter(&"inside").await.unwrap();
        let (greedy, other) = ("greedy", "other");
        let mut many: Vec<_> = (0..100).map(|_| Box::pin(gate.enter(&greedy))).collect();
        assert!(many.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let mut single = Box::pin(gate.enter(&other));
        assert!((&mut single).now_or_never().is_none());
        drop(inside);
        let first = (&mut many[0]).now_or_never().unwrap().unwrap();
        assert!((&mut single).now_or_never().is_none());
        drop(first);
        let second = (&mut single).now_or_never().unwrap().unwrap();
        assert!((&mut many[1]).now_or_never().is_none());
        drop(second);
        assert!((&mut many[1]).now_or_never().is_some());
    }

    #[tokio::test]
    async fn tasks_that_give_up_keep_no_place() {
        let gate = FairGate::new(2);
        let inside = (gate.enter(&"a").await, gate.enter(&"a").await);
        let waiting = "b";
        let mut waits: Vec<_> = (0..10).map(|_| Box::pin(gate.enter(&waiting))).collect();
        waits.iter_mut().for_each(|waits| assert!(waits.now_or_never().is_none()));
        let last = waits.split_off(9);
        drop(waits);
        drop(inside);
        drop(last);
        let state = gate.0.lock();
        assert_eq!((state.free, state.waiting.len(), state.turns.len()), (2, 0, 0));
    }

    #[tokio::test]
    async fn a_caller_may_have_only_so_many_waiting() {
        let gate = FairGate::new(0);
        let greedy = "greedy";
        let mut many: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(gate.enter(&greedy))).collect();
        many.iter_mut().for_each(|waits| assert!(waits.now_or_never().is_none()));
        assert!(matches!(gate.enter(&greedy).await, Err(GateFullError)));
        assert!(gate.enter(&"other").now_or_never().is_none(), "others may wait");
        many.truncate(1);
        assert!(gate.enter(&greedy).now_or_never().is_none(), "those that gave up do not count");
    }

    /// A caller that repeatedly fills its queue and gives up all its tasks still has one turn in each round.
    #[tokio::test]
    async fn tasks_that_give_up_earn_no_further_turn() {
        let gate = FairGate::new(0);
        let greedy = "greedy";
        for _ in 0..3 {
            let mut many: Vec<_> =
                (0..WAITING_MAX).map(|_| Box::pin(gate.enter(&greedy))).collect();
            many.iter_mut().for_each(|waits| assert!(waits.now_or_never().is_none()));
        }
        assert_eq!(gate.0.lock().turns.len(), 1);
    }
}
