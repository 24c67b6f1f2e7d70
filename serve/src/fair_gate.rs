//! A gate that a bounded number of tasks may hold at once. Waiting callers take turns, one task each, so a caller
//! with many tasks delays mainly its own tasks. A single caller may have all places. Callers may belong to sites: these
//! take turns, and so do the callers of each.
//!
//! Not tokio's `Semaphore`: it gives places in the order of arrival, so that the tasks of one caller that has sent many
//! would all go before the next caller's one. A property test compares the order with its definition.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Largest number of tasks of one caller that wait at a gate, unless its user bounds them. A guess: far more than a
/// client has under way.
const WAITING_MAX: usize = 1024;

/// The gate, for callers with names of type `K` in sites with names of type `S`. Without sites, all callers are in one.
/// Clones share its places. Keeps nothing of a caller without a waiting task.
pub struct FairGate<K: Clone + Eq + Hash, S: Clone + Eq + Hash = ()>(Arc<Mutex<GateState<K, S>>>);

struct GateState<K: Clone + Eq + Hash, S: Clone + Eq + Hash> {
    free: usize,
    /// Largest number of waiting tasks of one caller.
    waiting_max: usize,
    /// The number of the newest task or turn.
    newest: u64,
    /// The waiting tasks of each caller. A caller without a waiting task has no entry.
    waiting: HashMap<K, CallerTasks<K, S>>,
    /// The sites of these callers.
    sites: HashMap<S, SiteTurns<K>>,
    /// These sites, each once, by the numbers of their turns. A site that gives up is removed without a search, because
    /// a flood from many addresses may give up at once.
    turns: BTreeMap<u64, S>,
}

/// The waiting tasks of one caller.
struct CallerTasks<K: Clone + Eq + Hash, S: Clone + Eq + Hash> {
    site: S,
    /// The number of the caller's turn in its site.
    turn: u64,
    /// The tasks by their numbers.
    tasks: BTreeMap<u64, oneshot::Sender<GatePass<K, S>>>,
}

/// The turns of one site's callers. There is at least one.
struct SiteTurns<K> {
    /// The number of the site's turn.
    turn: u64,
    /// The callers with waiting tasks, each once, by the numbers of their turns.
    callers: BTreeMap<u64, K>,
}

/// A place at a [`FairGate`]. Dropping it passes the place to the next waiting task.
pub struct GatePass<K: Clone + Eq + Hash, S: Clone + Eq + Hash = ()>(FairGate<K, S>);

/// A task that waits. Dropping it gives up the wait.
struct WaitingAtGate<K: Clone + Eq + Hash, S: Clone + Eq + Hash> {
    gate: FairGate<K, S>,
    caller: K,
    number: u64,
    pass: oneshot::Receiver<GatePass<K, S>>,
}

/// The error of a caller that has too many waiting tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{WAITING_MAX} requests of this caller wait already: try again later")]
pub struct GateFullError;

impl<K: Clone + Eq + Hash, S: Clone + Eq + Hash> Clone for FairGate<K, S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash> FairGate<K> {
    /// Creates a gate for `places` tasks at once.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self::with_waiting_max(places, WAITING_MAX)
    }

    /// Creates a gate for `places` tasks at once, at which any number of tasks may wait: its user bounds them.
    #[must_use]
    pub(crate) fn unbounded(places: usize) -> Self {
        Self::with_waiting_max(places, usize::MAX)
    }

    /// Waits for a place. Dropping the future gives up the wait.
    ///
    /// # Errors
    /// [`GateFullError`] if 1024 tasks of the caller wait here, unless the user of the gate bounds them.
    pub async fn enter(&self, caller: &K) -> Result<GatePass<K>, GateFullError> {
        self.enter_of(&(), caller).await
    }
}

impl<K: Clone + Eq + Hash, S: Clone + Eq + Hash> FairGate<K, S> {
    /// Creates a gate for `places` tasks at once, at which sites take turns. Any number of tasks may wait at it: its
    /// user bounds them.
    #[must_use]
    pub(crate) fn unbounded_by_site(places: usize) -> Self {
        Self::with_waiting_max(places, usize::MAX)
    }

    fn with_waiting_max(places: usize, waiting_max: usize) -> Self {
        let (waiting, sites, turns) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        let state = GateState { free: places, waiting_max, newest: 0, waiting, sites, turns };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Waits for a place for a caller of this site. Dropping the future gives up the wait. A caller belongs to one
    /// site.
    ///
    /// # Errors
    /// [`GateFullError`] as for [`enter`](FairGate::enter).
    pub(crate) async fn enter_of(
        &self,
        site: &S,
        caller: &K,
    ) -> Result<GatePass<K, S>, GateFullError> {
        let mut waiting = {
            let mut state = self.0.lock();
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                return Ok(GatePass(self.clone()));
            }
            let (sender, pass) = oneshot::channel();
            let number = state.push(site, caller, sender)?;
            WaitingAtGate { gate: self.clone(), caller: caller.clone(), number, pass }
        };
        // Not reached: the gate drops no sender before its task has given up.
        (&mut waiting.pass).await.map_err(|_| GateFullError)
    }

    /// Passes a place to the next waiting task, or frees it if no task waits.
    fn leave(&self) {
        let next = {
            let mut state = self.0.lock();
            let next = state.pop();
            if next.is_none() {
                state.free += 1;
            }
            next
        };
        // If the task gives up meanwhile, `send` fails and drops the pass, which calls this function again.
        if let Some(next) = next {
            let _ = next.send(GatePass(self.clone()));
        }
    }
}

impl<K: Clone + Eq + Hash, S: Clone + Eq + Hash> GateState<K, S> {
    /// Puts a task behind the others of its caller. Returns its number.
    fn push(
        &mut self,
        site: &S,
        caller: &K,
        task: oneshot::Sender<GatePass<K, S>>,
    ) -> Result<u64, GateFullError> {
        let number = self.newest + 1;
        if let Some(of_caller) = self.waiting.get_mut(caller) {
            if of_caller.tasks.len() >= self.waiting_max {
                return Err(GateFullError);
            }
            of_caller.tasks.insert(number, task);
        } else {
            let tasks = BTreeMap::from([(number, task)]);
            let tasks = CallerTasks { site: site.clone(), turn: number, tasks };
            self.waiting.insert(caller.clone(), tasks);
            self.add_turn(site, caller, number);
        }
        self.newest = number;
        Ok(number)
    }

    /// Queues a caller behind the others of its site. Queues the site behind the other sites, unless it is queued
    /// already.
    fn add_turn(&mut self, site: &S, caller: &K, turn: u64) {
        if let Some(of_site) = self.sites.get_mut(site) {
            of_site.callers.insert(turn, caller.clone());
        } else {
            let callers = BTreeMap::from([(turn, caller.clone())]);
            self.sites.insert(site.clone(), SiteTurns { turn, callers });
            self.turns.insert(turn, site.clone());
        }
    }

    /// Takes the oldest task of the caller whose turn it is in the site whose turn it is.
    fn pop(&mut self) -> Option<oneshot::Sender<GatePass<K, S>>> {
        let (_, site) = self.turns.pop_first()?;
        let of_site = self.sites.get_mut(&site)?;
        let (_, caller) = of_site.callers.pop_first()?;
        let of_caller = self.waiting.get_mut(&caller)?;
        let (_, next) = of_caller.tasks.pop_first()?;
        self.newest += 1;
        if of_caller.tasks.is_empty() {
            self.waiting.remove(&caller);
        } else {
            of_caller.turn = self.newest;
            of_site.callers.insert(self.newest, caller);
        }
        if of_site.callers.is_empty() {
            self.sites.remove(&site);
        } else {
            of_site.turn = self.newest;
            self.turns.insert(self.newest, site);
        }
        debug_assert_eq!(self.turns.len(), self.sites.len(), "each waiting site has one turn");
        Some(next)
    }

    /// Takes a task that gives up. If it was its caller's last task, also takes the caller's turn.
    fn remove(&mut self, caller: &K, number: u64) -> Option<oneshot::Sender<GatePass<K, S>>> {
        let of_caller = self.waiting.get_mut(caller)?;
        let removed = of_caller.tasks.remove(&number);
        if of_caller.tasks.is_empty()
            && let Some(CallerTasks { site, turn, .. }) = self.waiting.remove(caller)
        {
            self.remove_turn(&site, turn);
        }
        removed
    }

    /// Takes the turn of a caller. If it was the last turn of the caller's site, also takes the site's turn.
    fn remove_turn(&mut self, site: &S, turn: u64) {
        let Some(of_site) = self.sites.get_mut(site) else { return };
        of_site.callers.remove(&turn);
        if of_site.callers.is_empty() {
            let turn = of_site.turn;
            self.sites.remove(site);
            self.turns.remove(&turn);
        }
    }
}

impl<K: Clone + Eq + Hash, S: Clone + Eq + Hash> Drop for GatePass<K, S> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl<K: Clone + Eq + Hash, S: Clone + Eq + Hash> Drop for WaitingAtGate<K, S> {
    fn drop(&mut self) {
        // Dropped without the lock: a pass that was sent meanwhile goes on when `self.pass` is dropped.
        let removed = self.gate.0.lock().remove(&self.caller, self.number);
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures_util::stream::FuturesUnordered;
    use futures_util::{FutureExt as _, StreamExt as _};
    use proptest::prelude::*;

    use super::*;

    /// The order of turns by its definition: plain lists, which are searched.
    #[derive(Default)]
    struct PlainTurns {
        /// The waiting tasks, oldest first: caller and number. A caller is its site and its name there.
        tasks: Vec<((u8, u8), usize)>,
        /// The callers of these tasks and their sites, the next one first.
        callers: Vec<(u8, u8)>,
        sites: Vec<u8>,
    }

    impl PlainTurns {
        fn push(&mut self, caller: (u8, u8), number: usize) {
            self.tasks.push((caller, number));
            self.add_turns(caller);
        }

        fn add_turns(&mut self, caller: (u8, u8)) {
            if !self.callers.contains(&caller) {
                self.callers.push(caller);
            }
            if !self.sites.contains(&caller.0) {
                self.sites.push(caller.0);
            }
        }

        fn pop(&mut self) -> Option<usize> {
            let site = *self.sites.first()?;
            let caller = *self.callers.iter().find(|caller| caller.0 == site)?;
            let (_, number) = *self.tasks.iter().find(|task| task.0 == caller)?;
            self.tasks.retain(|task| task.1 != number);
            self.sites.retain(|it| *it != site);
            self.callers.retain(|it| *it != caller);
            if self.tasks.iter().any(|task| task.0 == caller) {
                self.add_turns(caller);
            } else if self.tasks.iter().any(|task| task.0.0 == site) {
                self.sites.push(site);
            }
            Some(number)
        }

        fn remove(&mut self, number: usize) {
            self.tasks.retain(|task| task.1 != number);
            let tasks = &self.tasks;
            self.callers.retain(|caller| tasks.iter().any(|task| task.0 == *caller));
            self.sites.retain(|site| tasks.iter().any(|task| task.0.0 == *site));
        }
    }

    #[derive(Debug, Clone)]
    enum GateStep {
        Enter {
            caller: (u8, u8),
        },
        /// The waiting task at this index gives up.
        GiveUp(usize),
        /// The pass at this index is dropped. This number of tasks give up before they notice that they have its place.
        Leave {
            pass: usize,
            unnoticed: u8,
        },
    }

    fn gate_steps() -> impl Strategy<Value = Vec<GateStep>> {
        let step = prop_oneof![
            3 => (0..3_u8, 0..3_u8).prop_map(|caller| GateStep::Enter { caller }),
            1 => any::<usize>().prop_map(GateStep::GiveUp),
            2 => (any::<usize>(), 0..3_u8)
                .prop_map(|(pass, unnoticed)| GateStep::Leave { pass, unnoticed }),
        ];
        proptest::collection::vec(step, 1..150)
    }

    /// Returns the key at an index, counted round; `None` for an empty map.
    fn key_at<V>(map: &BTreeMap<usize, V>, index: usize) -> Option<usize> {
        map.keys().nth(index.checked_rem(map.len())?).copied()
    }

    proptest! {
        /// Tasks get places as the definition of turns says, whatever leaves and gives up. No place is lost or given
        /// twice, no task waits beside a free place, and at the end the gate holds nothing.
        #[test]
        fn tasks_get_places_in_the_defined_order(places in 0_usize..4, steps in gate_steps()) {
            let gate = FairGate::<(u8, u8), u8>::unbounded_by_site(places);
            let mut turns = PlainTurns::default();
            let (mut waiting, mut inside) = (BTreeMap::new(), BTreeMap::new());
            let mut expected = BTreeSet::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    GateStep::Enter { caller } => {
                        let gate = gate.clone();
                        let enters = async move { gate.enter_of(&caller.0, &caller).await };
                        waiting.insert(number, enters.boxed_local());
                        if expected.len() < places {
                            expected.insert(number);
                        } else {
                            turns.push(caller, number);
                        }
                    }
                    GateStep::GiveUp(index) => {
                        if let Some(number) = key_at(&waiting, index) {
                            waiting.remove(&number);
                            turns.remove(number);
                        }
                    }
                    GateStep::Leave { pass, mut unnoticed } => {
                        let Some(left) = key_at(&inside, pass) else { continue };
                        inside.remove(&left);
                        expected.remove(&left);
                        while let Some(next) = turns.pop() {
                            if unnoticed == 0 {
                                expected.insert(next);
                                break;
                            }
                            unnoticed -= 1;
                            waiting.remove(&next);
                        }
                    }
                }
                let entered: Vec<_> = waiting
                    .iter_mut()
                    .filter_map(|(number, waits)| Some((*number, waits.now_or_never()?)))
                    .collect();
                for (number, pass) in entered {
                    waiting.remove(&number);
                    inside.insert(number, pass.unwrap());
                }
                prop_assert!(inside.keys().eq(&expected), "{:?}, not {expected:?}", inside.keys());
            }
            drop((waiting, inside));
            let state = gate.0.lock();
            prop_assert_eq!(state.free, places);
            prop_assert!(state.waiting.is_empty() && state.sites.is_empty());
            prop_assert!(state.turns.is_empty());
        }
    }

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
    async fn a_site_with_many_callers_delays_another_by_one_task_and_its_callers_take_turns() {
        let gate = FairGate::unbounded_by_site(1);
        let gate = &gate;
        let inside = gate.enter_of(&"flood", &1000).await.unwrap();
        let enter = |site: &'static str, caller: usize| async move {
            let pass = gate.enter_of(&site, &caller).await.unwrap();
            (site, caller, pass)
        };
        let greedy = (0..3).map(|_| ("flood", 0));
        let callers = greedy.chain((1..4).map(|caller| ("flood", caller))).chain([("other", 9)]);
        let mut waiting = FuturesUnordered::new();
        for (site, caller) in callers {
            let mut waits = Box::pin(enter(site, caller));
            assert!((&mut waits).now_or_never().is_none());
            waiting.push(waits);
        }
        drop(inside);
        let mut order = Vec::new();
        while let Some((site, caller, pass)) = waiting.next().await {
            order.push((site, caller));
            drop(pass);
        }
        let callers: Vec<_> = order.iter().map(|(_, caller)| *caller).collect();
        assert_eq!(callers, [0, 9, 1, 2, 3, 0, 0], "{order:?}");
        let state = gate.0.lock();
        assert_eq!((state.free, state.waiting.len(), state.sites.len()), (1, 0, 0));
        assert!(state.turns.is_empty());
    }

    #[tokio::test]
    async fn callers_that_give_up_leave_their_site_its_turn() {
        let gate = FairGate::unbounded_by_site(0);
        let callers: Vec<usize> = (0..10).collect();
        let mut waiting: Vec<_> =
            callers.iter().map(|caller| Box::pin(gate.enter_of(&"site", caller))).collect();
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        drop(waiting.split_off(5));
        drop(waiting.remove(0));
        let held = {
            let state = gate.0.lock();
            (state.waiting.len(), state.sites["site"].callers.len(), state.turns.len())
        };
        assert_eq!(held, (4, 4, 1));
        drop(waiting);
        let state = gate.0.lock();
        assert_eq!((state.waiting.len(), state.sites.len(), state.turns.len()), (0, 0, 0));
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

    #[tokio::test]
    async fn any_number_may_wait_if_the_user_of_the_gate_bounds_them() {
        let gate = FairGate::unbounded(0);
        let caller = "caller";
        let mut many: Vec<_> = (0..=WAITING_MAX).map(|_| Box::pin(gate.enter(&caller))).collect();
        assert!(many.iter_mut().all(|waits| waits.now_or_never().is_none()));
    }

    /// A caller that repeatedly fills its queue and gives up keeps no memory and earns no further turn, although no
    /// place becomes free.
    #[tokio::test]
    async fn tasks_that_give_up_leave_nothing_behind() {
        let gate = FairGate::new(0);
        let greedy = "greedy";
        for _ in 0..3 {
            let mut many: Vec<_> =
                (0..WAITING_MAX).map(|_| Box::pin(gate.enter(&greedy))).collect();
            many.iter_mut().for_each(|waits| assert!(waits.now_or_never().is_none()));
            many.truncate(1);
            let held = {
                let state = gate.0.lock();
                (state.waiting[greedy].tasks.len(), state.turns.len())
            };
            assert_eq!(held, (1, 1));
        }
        let state = gate.0.lock();
        assert_eq!((state.waiting.len(), state.turns.len()), (0, 0));
    }
}
