//! A gate that a bounded number of tasks may hold at once. Waiting callers take turns, one task each, so a caller
//! with many tasks delays mainly its own tasks.
//!
//! Not tokio's `Semaphore`: it gives places in the order of arrival, so that the tasks of one caller that has sent many
//! would all go before the next caller's one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::policy::CallerId;

/// Largest number of tasks of one caller that wait at a gate. A guess: far more than a client has under way.
const WAITING_MAX: usize = 1024;

/// The gate. Clones share its places.
#[derive(Clone)]
pub(crate) struct FairGate(Arc<Mutex<GateState>>);

struct GateState {
    free: usize,
    /// The waiting tasks of each caller, in order of arrival. A caller without a waiting task has no entry.
    waiting: HashMap<CallerId, VecDeque<oneshot::Sender<Pass>>>,
    /// The callers with waiting tasks, each once, the next one first.
    turns: VecDeque<CallerId>,
}

/// A place at the gate. Dropping it passes the place to the next waiting task.
pub(crate) struct Pass(FairGate);

/// The error of a caller that has too many waiting tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{WAITING_MAX} requests of this caller wait already: try again later")]
pub(crate) struct GateFullError;

impl FairGate {
    /// Creates a gate for `places` tasks at once.
    pub(crate) fn new(places: usize) -> Self {
        let (waiting, turns) = (HashMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(GateState { free: places, waiting, turns })))
    }

    /// Waits for a place. Dropping the future gives up the turn.
    ///
    /// # Errors
    /// [`GateFullError`] if [`WAITING_MAX`] tasks of the caller wait here.
    pub(crate) async fn enter(&self, caller: &CallerId) -> Result<Pass, GateFullError> {
        let pass = {
            let mut state = self.0.lock();
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                return Ok(Pass(self.clone()));
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
                let _ = next.send(Pass(self.clone()));
                return;
            }
        }
        state.free += 1;
    }
}

/// A tenant's way to a gate that all tenants share. Tenants take turns at the gate, and the callers of a tenant take
/// turns before it. So a tenant with many callers delays mainly these.
#[derive(Clone)]
pub(crate) struct TenantGate {
    /// As many places as the shared gate has, for this tenant's tasks alone.
    own: FairGate,
    shared: FairGate,
    tenant: CallerId,
}

/// A place at a shared gate.
pub(crate) struct TenantPass {
    // Dropped first, so that the place goes to the next tenant before the next task of this one comes.
    _shared: Pass,
    _own: Pass,
}

impl TenantGate {
    /// Creates the way of the tenant `name` to a gate with this number of places.
    pub(crate) fn new(shared: &FairGate, places: usize, name: &str) -> Self {
        let own = FairGate::new(places);
        Self { own, shared: shared.clone(), tenant: CallerId::of_name(name) }
    }

    /// Waits for a place. Dropping the future gives up the turn.
    ///
    /// # Errors
    /// [`GateFullError`] if too many tasks of the caller wait.
    pub(crate) async fn enter(&self, caller: &CallerId) -> Result<TenantPass, GateFullError> {
        let own = self.own.enter(caller).await?;
        let shared = self.shared.enter(&self.tenant).await?;
        Ok(TenantPass { _shared: shared, _own: own })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn caller(name: &str) -> CallerId {
        CallerId::of_name(name)
    }

    #[tokio::test]
    async fn a_caller_with_many_tasks_delays_another_by_one() {
        let gate = FairGate::new(1);
        let inside = gate.enter(&caller("inside")).await.unwrap();
        let (greedy, other) = (caller("greedy"), caller("other"));
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
    async fn a_tenant_with_many_callers_delays_another_tenant_by_one() {
        let gate = FairGate::new(1);
        let [red, blue] = ["red", "blue"].map(|name| TenantGate::new(&gate, 1, name));
        let inside = red.enter(&caller("inside")).await.unwrap();
        let callers: Vec<_> = (0..100).map(|number| caller(&number.to_string())).collect();
        let mut many: Vec<_> = callers.iter().map(|caller| Box::pin(red.enter(caller))).collect();
        assert!(many.iter_mut().all(|waits| waits.now_or_never().is_none()));
        // The same name in another tenant is another caller.
        let same = caller("0");
        let mut single = Box::pin(blue.enter(&same));
        assert!((&mut single).now_or_never().is_none());
        drop(inside);
        assert!(many.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let of_blue = (&mut single).now_or_never().unwrap().unwrap();
        drop(of_blue);
        assert!((&mut many[0]).now_or_never().is_some());
    }

    #[tokio::test]
    async fn tasks_that_give_up_keep_no_place() {
        let gate = FairGate::new(2);
        let inside = (gate.enter(&caller("a")).await, gate.enter(&caller("a")).await);
        let waiting = caller("b");
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
        let greedy = caller("greedy");
        let mut many: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(gate.enter(&greedy))).collect();
        many.iter_mut().for_each(|waits| assert!(waits.now_or_never().is_none()));
        assert!(matches!(gate.enter(&greedy).await, Err(GateFullError)));
        assert!(gate.enter(&caller("other")).now_or_never().is_none(), "others may wait");
        many.truncate(1);
        assert!(gate.enter(&greedy).now_or_never().is_none(), "those that gave up do not count");
    }

    /// A caller that repeatedly fills its queue and gives up all its tasks still has one turn in each round.
    #[tokio::test]
    async fn tasks_that_give_up_earn_no_further_turn() {
        let gate = FairGate::new(0);
        let greedy = caller("greedy");
        for _ in 0..3 {
            let mut many: Vec<_> =
                (0..WAITING_MAX).map(|_| Box::pin(gate.enter(&greedy))).collect();
            many.iter_mut().for_each(|waits| assert!(waits.now_or_never().is_none()));
        }
        assert_eq!(gate.0.lock().turns.len(), 1);
    }
}
