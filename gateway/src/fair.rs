//! The gates at which a gateway's callers take turns (`hawser_serve::fair_gate`, `hawser_serve::network_gate`), and
//! the way of a tenant to one.

pub(crate) use hawser_serve::fair_gate::GateFullError;
use hawser_serve::network_gate::{NetworkGate, NetworkPass};

use crate::policy::CallerId;

/// A gate at which callers of the gateway take turns.
pub(crate) type FairGate = hawser_serve::fair_gate::FairGate<CallerId>;
/// A place at such a gate.
pub(crate) type Pass = hawser_serve::fair_gate::GatePass<CallerId>;

/// A gate at which networks of callers take turns, and so do the callers of each network. An owner of many addresses in
/// one network delays a caller of another network by one turn.
#[derive(Clone)]
pub(crate) struct CallerGate(NetworkGate<CallerId>);
/// A place at such a gate.
pub(crate) type CallerPass = NetworkPass<CallerId>;

impl CallerGate {
    /// Creates a gate for `places` tasks at once.
    pub(crate) fn new(places: usize) -> Self {
        Self(NetworkGate::new(places))
    }

    /// Waits for a place. Dropping the future gives up the turn.
    ///
    /// # Errors
    /// [`GateFullError`] if too many tasks of the caller wait.
    pub(crate) async fn enter(&self, caller: &CallerId) -> Result<CallerPass, GateFullError> {
        self.0.enter(caller.network_name(), caller).await
    }
}

/// A tenant's way to a gate that all tenants share. Tenants take turns at the gate, and the callers of a tenant take
/// turns before it. So a tenant with many callers delays mainly these.
#[derive(Clone)]
pub(crate) struct TenantGate {
    /// As many places as the shared gate has, for this tenant's tasks alone.
    own: CallerGate,
    shared: FairGate,
    tenant: CallerId,
}

/// A place at a shared gate.
pub(crate) struct TenantPass {
    // Dropped first, so that the place goes to the next tenant before the next task of this one comes.
    _shared: Pass,
    _own: CallerPass,
}

impl TenantGate {
    /// Creates the way of the tenant `name` to a gate with this number of places.
    pub(crate) fn new(shared: &FairGate, places: usize, name: &str) -> Self {
        let own = CallerGate::new(places);
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn caller(name: &str) -> CallerId {
        CallerId::of_name(name)
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
}
