//! A gate at which networks take turns, and within each network its callers. An owner of many addresses in one network
//! thus delays a caller of another one by one turn.

use std::collections::HashMap;
use std::sync::Arc;

use hawser_serve::fair::{FairGate, GateFullError, GatePass};
use parking_lot::Mutex;

use crate::places::ServiceCaller;

/// The gate. Clones share its places. Keeps nothing of a network without a task.
#[derive(Clone)]
pub(crate) struct NetworkGate(Arc<NetworkGateState>);

struct NetworkGateState {
    places: usize,
    /// The places, at which networks take turns.
    shared: FairGate<Arc<str>>,
    /// The networks with a task that waits for a place or has one.
    networks: Mutex<HashMap<Arc<str>, NetworkTurns>>,
}

/// The turns of the callers of one network.
struct NetworkTurns {
    /// As many places as the shared gate has, so that a single network may have all of them.
    gate: FairGate<Arc<str>>,
    tasks: usize,
}

/// A place at a [`NetworkGate`]. Dropping it passes the place to the next task.
pub(crate) struct NetworkPass {
    // Dropped first, so that the place goes to the next network before the next task of this one comes.
    _shared: GatePass<Arc<str>>,
    _own: GatePass<Arc<str>>,
    _task: NetworkTask,
}

/// A task of a network, which keeps the turns of its callers.
struct NetworkTask {
    gate: NetworkGate,
    network: Arc<str>,
}

impl NetworkGate {
    /// Creates a gate for `places` tasks at once.
    pub(crate) fn new(places: usize) -> Self {
        let (shared, networks) = (FairGate::new(places), Mutex::default());
        Self(Arc::new(NetworkGateState { places, shared, networks }))
    }

    /// Waits for a place. Dropping the future gives up the wait.
    ///
    /// # Errors
    /// [`GateFullError`] if too many tasks of the caller wait.
    pub(crate) async fn enter(&self, caller: &ServiceCaller) -> Result<NetworkPass, GateFullError> {
        let (own, task) = self.begin(&caller.network);
        let own = own.enter(&caller.name).await?;
        let shared = self.0.shared.enter(&caller.network).await?;
        Ok(NetworkPass { _shared: shared, _own: own, _task: task })
    }

    /// Returns the gate of a network, and a new task that keeps it.
    fn begin(&self, network: &Arc<str>) -> (FairGate<Arc<str>>, NetworkTask) {
        let mut networks = self.0.networks.lock();
        let new = || NetworkTurns { gate: FairGate::new(self.0.places), tasks: 0 };
        let turns = networks.entry(network.clone()).or_insert_with(new);
        turns.tasks += 1;
        (turns.gate.clone(), NetworkTask { gate: self.clone(), network: network.clone() })
    }
}

impl Drop for NetworkTask {
    fn drop(&mut self) {
        let mut networks = self.gate.0.networks.lock();
        let Some(turns) = networks.get_mut(&self.network) else { return };
        turns.tasks -= 1;
        if turns.tasks == 0 {
            networks.remove(&self.network);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn caller(network: &str, name: &str) -> ServiceCaller {
        ServiceCaller { network: network.into(), name: name.into() }
    }

    #[tokio::test]
    async fn a_network_with_many_callers_delays_another_network_by_one_turn() {
        let gate = NetworkGate::new(1);
        let inside = gate.enter(&caller("flood", "inside")).await.unwrap();
        let callers: Vec<_> = (0..100).map(|number| caller("flood", &number.to_string())).collect();
        let mut many: Vec<_> = callers.iter().map(|caller| Box::pin(gate.enter(caller))).collect();
        assert!(many.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let other = caller("other", "a");
        let mut single = Box::pin(gate.enter(&other));
        assert!((&mut single).now_or_never().is_none());
        drop(inside);
        assert!(many.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let of_other = (&mut single).now_or_never().unwrap().unwrap();
        drop(of_other);
        let of_flood = (&mut many[0]).now_or_never().unwrap().unwrap();
        assert_eq!(gate.0.networks.lock().len(), 1, "a network without a task is forgotten");
        drop((many, of_flood));
        assert!(gate.0.networks.lock().is_empty());
    }

    #[tokio::test]
    async fn a_caller_delays_another_one_of_its_network_by_one_turn() {
        let gate = NetworkGate::new(2);
        let [greedy, other] = ["greedy", "other"].map(|name| caller("network", name));
        let first = gate.enter(&greedy).await.unwrap();
        let second = gate.enter(&greedy).await.unwrap();
        let mut many: Vec<_> = (0..10).map(|_| Box::pin(gate.enter(&greedy))).collect();
        assert!(many.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let mut single = Box::pin(gate.enter(&other));
        assert!((&mut single).now_or_never().is_none());
        drop(first);
        let third = (&mut many[0]).now_or_never().unwrap().unwrap();
        drop(second);
        assert!((&mut single).now_or_never().is_some(), "the other caller is next");
        drop(third);
    }
}
