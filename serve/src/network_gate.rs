//! A gate at which networks take turns, and within each network its callers. An owner of many addresses in one network
//! thus delays a caller of another one by one turn.
//!
//! Not a [`FairGate`] with networks as sites: there, a network that has all places waits for more of them in the same
//! line as a network without one, and is served before it. Here its tasks wait before that line, so the other network
//! gets the first place that becomes free.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::fair_gate::{FairGate, GateFullError, GatePass};

/// The gate, for callers with names of type `K`. Clones share its places. Keeps nothing of a network without a task.
pub struct NetworkGate<K: Clone + Eq + Hash>(Arc<NetworkGateState<K>>);

struct NetworkGateState<K: Clone + Eq + Hash> {
    places: usize,
    /// The places, for which networks take turns. The own gate of a network bounds the number of its tasks here.
    shared: FairGate<Arc<str>>,
    /// The networks with a task that waits for a place or has one.
    networks: Mutex<HashMap<Arc<str>, NetworkTurns<K>>>,
}

/// The turns of the callers of one network.
struct NetworkTurns<K: Clone + Eq + Hash> {
    /// The gate of the network's callers. It has as many places as the shared gate, so that a single network may have
    /// all of them.
    gate: FairGate<K>,
    tasks: usize,
}

/// A place at a [`NetworkGate`]. Dropping it passes the place to the next task.
pub struct NetworkPass<K: Clone + Eq + Hash> {
    // Dropped first, so that the place goes to the next network before the next task of this one comes.
    _shared: GatePass<Arc<str>>,
    _own: GatePass<K>,
    _task: NetworkTask<K>,
}

/// A task of a network, which keeps the turns of its callers.
struct NetworkTask<K: Clone + Eq + Hash> {
    gate: NetworkGate<K>,
    network: Arc<str>,
}

impl<K: Clone + Eq + Hash> Clone for NetworkGate<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash> NetworkGate<K> {
    /// Creates a gate for `places` tasks at once.
    #[must_use]
    pub fn new(places: usize) -> Self {
        let (shared, networks) = (FairGate::unbounded(places), Mutex::default());
        Self(Arc::new(NetworkGateState { places, shared, networks }))
    }

    /// Waits for a place for a caller of this network. Dropping the future gives up the wait.
    ///
    /// # Errors
    /// [`GateFullError`] if too many tasks of the caller wait.
    pub async fn enter(
        &self,
        network: &Arc<str>,
        caller: &K,
    ) -> Result<NetworkPass<K>, GateFullError> {
        let (own, task) = self.begin(network);
        let own = own.enter(caller).await?;
        let shared = self.0.shared.enter(network).await?;
        Ok(NetworkPass { _shared: shared, _own: own, _task: task })
    }

    /// Returns the gate of a network, and a new task that keeps it.
    fn begin(&self, network: &Arc<str>) -> (FairGate<K>, NetworkTask<K>) {
        let mut networks = self.0.networks.lock();
        let new = || NetworkTurns { gate: FairGate::new(self.0.places), tasks: 0 };
        let turns = networks.entry(network.clone()).or_insert_with(new);
        turns.tasks += 1;
        (turns.gate.clone(), NetworkTask { gate: self.clone(), network: network.clone() })
    }
}

impl<K: Clone + Eq + Hash> Drop for NetworkTask<K> {
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

    fn networks() -> [Arc<str>; 2] {
        ["flood", "other"].map(Arc::from)
    }

    #[tokio::test]
    async fn a_network_with_many_callers_delays_another_network_by_one_turn() {
        let (gate, [flood, other]) = (NetworkGate::new(1), networks());
        let inside = gate.enter(&flood, &1000).await.unwrap();
        let callers: Vec<i32> = (0..100).collect();
        let mut many: Vec<_> =
            callers.iter().map(|caller| Box::pin(gate.enter(&flood, caller))).collect();
        assert!(many.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let mut single = Box::pin(gate.enter(&other, &0));
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
        let (gate, [network, _]) = (NetworkGate::new(2), networks());
        let (greedy, other) = (0, 1);
        let first = gate.enter(&network, &greedy).await.unwrap();
        let second = gate.enter(&network, &greedy).await.unwrap();
        let mut many: Vec<_> = (0..10).map(|_| Box::pin(gate.enter(&network, &greedy))).collect();
        assert!(many.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let mut single = Box::pin(gate.enter(&network, &other));
        assert!((&mut single).now_or_never().is_none());
        drop(first);
        let third = (&mut many[0]).now_or_never().unwrap().unwrap();
        drop(second);
        assert!((&mut single).now_or_never().is_some(), "the other caller is next");
        drop(third);
    }

    /// A gate may have more places than tasks of one caller may wait at a gate.
    #[tokio::test]
    async fn as_many_tasks_of_a_network_may_wait_for_others_as_there_are_places() {
        const PLACES: usize = 1500;
        let (gate, [flood, other]) = (NetworkGate::new(PLACES), networks());
        let mut inside = Vec::new();
        for caller in 0..PLACES {
            inside.push(gate.enter(&flood, &caller).await.unwrap());
        }
        let callers: Vec<usize> = (0..PLACES).collect();
        let mut many: Vec<_> =
            callers.iter().map(|caller| Box::pin(gate.enter(&other, caller))).collect();
        assert!(many.iter_mut().all(|waits| waits.now_or_never().is_none()), "none is refused");
    }
}
