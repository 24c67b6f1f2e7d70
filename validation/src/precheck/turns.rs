//! Turns of a gateway's callers at its questions to contract wallets. The operator pays for each question.
//!
//! Networks of callers take turns, and so do the callers of each, so an owner of many addresses leaves questions to
//! others. Some questions are reserved for callers to whose updates wallets have agreed lately: a flood from very many
//! networks leaves these to them.

use std::collections::HashMap;
use std::sync::Arc;

use hawser_serve::caller_table::CallerTable;
use hawser_serve::network_gate::NetworkGate;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::limits::{
    PRECHECK_KNOWN_FOR, PRECHECK_KNOWN_MAX, PRECHECK_TURN_WAIT_MAX,
    PRECHECK_WALLETS_PER_CALLER_MAX, PRECHECK_WALLETS_PER_TURN_MAX, PRECHECK_WALLETS_RESERVED,
    QUOTA_PERIOD, WALLET_TURN,
};

/// A caller of a gateway, with its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrecheckCaller<'a> {
    /// The name of the tenant; empty without tenants.
    pub tenant: &'a str,
    /// The name of its network. One person may own all callers of a network.
    pub network: &'a str,
    /// The name of the caller within the tenant.
    pub name: &'a str,
}

/// The error of a caller that may have no wallet asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PrecheckTurnError {
    /// The caller has had its questions of this period.
    #[error("too many contract wallets are asked for this caller: try again later")]
    OfCaller,
    /// The caller's turn did not come in time, because too many callers have questions.
    #[error("too many contract wallets are asked for all callers together: try again later")]
    OfAll,
}

/// A gate of callers by their names.
type CallerGate = NetworkGate<Arc<str>>;

/// The turns of all tenants.
pub(super) struct PrecheckTurns {
    /// The places of each tenant: those for all callers, and those for known ones.
    places: [usize; 2],
    of_tenants: Mutex<HashMap<Box<str>, TenantTurns>>,
    since: Instant,
}

/// The turns of the callers of one tenant. A place is free again [`WALLET_TURN`] after its question has begun.
struct TenantTurns {
    /// Places for all callers.
    open: CallerGate,
    /// Places for known callers.
    reserved: CallerGate,
    asked: AskedLately,
    /// The callers to whose updates wallets have agreed, with the time until which they are known, in ms.
    known: CallerTable<Box<str>, u64>,
}

/// The questions of each caller in one period. Holds only callers with questions, so at most as many as the places of
/// the period.
struct AskedLately {
    since: Instant,
    by_caller: HashMap<Box<str>, usize>,
}

impl PrecheckTurns {
    /// Creates the turns for this number of tenants. Each tenant has an equal share of the questions.
    pub(super) fn new(tenants: usize) -> Self {
        let for_all = PRECHECK_WALLETS_PER_TURN_MAX - PRECHECK_WALLETS_RESERVED;
        let of_each = |places: usize| (places / tenants.max(1)).max(1);
        let places = [for_all, PRECHECK_WALLETS_RESERVED].map(of_each);
        Self { places, of_tenants: Mutex::default(), since: Instant::now() }
    }

    /// Checks that the caller may have so many further questions in this period.
    ///
    /// # Errors
    /// [`PrecheckTurnError::OfCaller`] if it may not.
    pub(super) fn check(
        &self,
        caller: PrecheckCaller<'_>,
        questions: usize,
    ) -> Result<(), PrecheckTurnError> {
        self.at_tenant(caller, |turns| turns.asked.check(caller.name, questions))
    }

    /// Waits until a wallet may be asked for this caller, and counts the question.
    ///
    /// # Errors
    /// [`PrecheckTurnError`] if the caller has had its questions of this period, or if its turn does not come in time.
    pub(super) async fn wait(&self, caller: PrecheckCaller<'_>) -> Result<(), PrecheckTurnError> {
        let (open, reserved) = self.gates(caller);
        let [network, name]: [Arc<str>; 2] = [caller.network, caller.name].map(Arc::from);
        let turn = async {
            let Some(reserved) = &reserved else { return open.enter(&network, &name).await };
            tokio::select! {
                biased;
                pass = open.enter(&network, &name) => pass,
                pass = reserved.enter(&network, &name) => pass,
            }
        };
        let Ok(Ok(begun)) = timeout(PRECHECK_TURN_WAIT_MAX, turn).await else {
            return Err(PrecheckTurnError::OfAll);
        };
        self.at_tenant(caller, |turns| turns.asked.count(caller.name))?;
        tokio::spawn(async move {
            sleep(WALLET_TURN).await;
            drop(begun);
        });
        Ok(())
    }

    /// Records that all wallets have agreed to an update of this caller, which is known from then on.
    pub(super) fn note_agreed(&self, caller: PrecheckCaller<'_>) {
        let now_ms = self.now_ms();
        let known_for_ms = u64::try_from(PRECHECK_KNOWN_FOR.as_millis()).unwrap_or(u64::MAX);
        let ends_ms = now_ms.saturating_add(known_for_ms);
        self.at_tenant(caller, |turns| {
            turns.known.put(caller.name.into(), ends_ms, ends_ms, now_ms);
        });
    }

    /// Returns the gates of this caller: that of all callers, and, if it is known, that of known ones.
    fn gates(&self, caller: PrecheckCaller<'_>) -> (CallerGate, Option<CallerGate>) {
        let now_ms = self.now_ms();
        self.at_tenant(caller, |turns| {
            let is_known = turns.known.get(caller.name).is_some_and(|ends_ms| now_ms < *ends_ms);
            (turns.open.clone(), is_known.then(|| turns.reserved.clone()))
        })
    }

    /// Returns the result of `work` with the turns of the caller's tenant.
    fn at_tenant<T>(
        &self,
        caller: PrecheckCaller<'_>,
        work: impl FnOnce(&mut TenantTurns) -> T,
    ) -> T {
        let mut of_tenants = self.of_tenants.lock();
        let new = || TenantTurns::new(self.places);
        work(of_tenants.entry(caller.tenant.into()).or_insert_with(new))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl TenantTurns {
    fn new(places: [usize; 2]) -> Self {
        let [open, reserved] = places.map(CallerGate::new);
        let known = CallerTable::new(PRECHECK_KNOWN_MAX);
        Self { open, reserved, asked: AskedLately::now(), known }
    }
}

impl AskedLately {
    fn now() -> Self {
        Self { since: Instant::now(), by_caller: HashMap::new() }
    }

    fn check(&mut self, caller: &str, questions: usize) -> Result<(), PrecheckTurnError> {
        if self.since.elapsed() >= QUOTA_PERIOD {
            *self = Self::now();
        }
        let asked = self.by_caller.get(caller).copied().unwrap_or_default();
        if asked + questions > PRECHECK_WALLETS_PER_CALLER_MAX {
            return Err(PrecheckTurnError::OfCaller);
        }
        Ok(())
    }

    fn count(&mut self, caller: &str) -> Result<(), PrecheckTurnError> {
        self.check(caller, 1)?;
        *self.by_caller.entry(caller.into()).or_default() += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn of<'a>(tenant: &'a str, network: &'a str, name: &'a str) -> PrecheckCaller<'a> {
        PrecheckCaller { tenant, network, name }
    }

    /// Begins a question for each of these callers.
    fn flood(turns: &Arc<PrecheckTurns>, callers: impl Iterator<Item = (String, String)>) {
        for (network, name) in callers {
            let turns = turns.clone();
            tokio::spawn(async move { turns.wait(of("", &network, &name)).await });
        }
    }

    /// Lets the tasks run until all of them wait.
    async fn settle() {
        for _ in 0..1000 {
            tokio::task::yield_now().await; // the runtime runs some tens of tasks between two of these
        }
    }

    /// A tenant cannot use up the questions of another one, and equal names in two tenants are two callers.
    #[tokio::test(start_paused = true)]
    async fn each_tenant_has_a_share_of_the_questions() {
        let turns = PrecheckTurns::new(2);
        let names: Vec<_> = (0..PRECHECK_WALLETS_PER_TURN_MAX).map(|it| it.to_string()).collect();
        let at_once = |name: &&String| turns.wait(of("red", name, name)).now_or_never().is_some();
        let begun = names.iter().take_while(at_once).count();
        assert_eq!(begun, (PRECHECK_WALLETS_PER_TURN_MAX - PRECHECK_WALLETS_RESERVED) / 2);
        let of_blue = turns.wait(of("blue", "0", "0")).now_or_never();
        assert_eq!(of_blue, Some(Ok(())));
    }

    /// One host may have an IPv6 /48, which is 65,536 addresses of callers.
    #[tokio::test(start_paused = true)]
    async fn many_callers_of_one_network_leave_the_next_question_to_another_network() {
        let turns = Arc::new(PrecheckTurns::new(1));
        let callers = 0..3 * PRECHECK_WALLETS_PER_TURN_MAX;
        flood(&turns, callers.map(|number| ("flood".to_owned(), number.to_string())));
        settle().await;
        // In a task, as callers are: the runtime looks at the test itself only after some tens of tasks.
        let waits = tokio::spawn(async move {
            let since = Instant::now();
            turns.wait(of("", "other", "a")).await.unwrap();
            since.elapsed()
        });
        let waited = waits.await.unwrap();
        assert!(waited < 2 * WALLET_TURN, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_from_many_networks_leaves_questions_to_known_callers() {
        let turns = Arc::new(PrecheckTurns::new(1));
        let (known, new) = (of("", "k", "known"), of("", "n", "new"));
        turns.note_agreed(known);
        let callers = 0..10 * PRECHECK_WALLETS_PER_TURN_MAX;
        flood(&turns, callers.map(|number| (number.to_string(), number.to_string())));
        settle().await;
        assert_eq!(turns.wait(known).now_or_never(), Some(Ok(())));
        assert_eq!(turns.wait(new).await, Err(PrecheckTurnError::OfAll));
        tokio::time::advance(PRECHECK_KNOWN_FOR).await;
        assert!(turns.gates(known).1.is_none(), "no wallet has agreed lately");
    }
}
