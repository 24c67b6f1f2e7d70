//! The readiness conditions of a gateway, with reason and remedy for those that are not met.

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_serve::readiness::{Check, Checks};
use hawser_serve::tls::Tls;
use hawser_serve::{ChainListStatus, ChainListsView};
use parking_lot::Mutex;

use crate::chain::{ChainWriter, SenderFigures};
use crate::nodes::Nodes;
use crate::policy::Policies;
use crate::settings::{GatewayPorts, GatewaySettings};

/// The checks of a gateway. Each of them must pass for its only purpose, publishing.
pub(crate) struct GatewayChecks {
    nodes: Nodes,
    policies: Arc<Policies>,
    lists: Option<Arc<dyn ChainListsView>>,
    /// `None` without a chain.
    chain: Option<ChainState>,
    /// Each tenant's writer to the app chain, by the tenant's name.
    tenants: BTreeMap<String, Arc<dyn ChainWriter>>,
    tls: Option<Tls>,
}

/// The state of the app chain.
struct ChainState {
    writer: Arc<dyn ChainWriter>,
    /// The error of the last probe; `None` if the chain answered.
    error: Mutex<Option<String>>,
}

impl GatewayChecks {
    /// Creates the checks. The gateway is not ready while reads of a list have failed for longer than they may.
    pub(crate) fn new(
        settings: &GatewaySettings,
        ports: &GatewayPorts,
        nodes: Nodes,
        policies: Arc<Policies>,
    ) -> Self {
        let probed = ports.any_chain();
        Self {
            nodes,
            policies,
            lists: ports.lists.clone(),
            chain: probed.map(|writer| ChainState { writer, error: Mutex::default() }),
            tenants: ports.tenant_chains.clone(),
            tls: settings.tls.clone(),
        }
    }

    /// Returns, for each tenant, the reason why its payloads are not sent to the app chain now; `None` if they are
    /// sent.
    pub(crate) fn halted_tenants(&self) -> Vec<(&str, Option<String>)> {
        let reason =
            |writer: &Arc<dyn ChainWriter>| writer.halted().or_else(|| writer.ceiling_reached());
        self.tenants.iter().map(|(name, writer)| (name.as_str(), reason(writer))).collect()
    }

    /// Returns the figures of each sender of transactions: of the gateway's own account, or of each tenant's
    /// account.
    pub(crate) fn senders(&self) -> Vec<SenderFigures> {
        match &self.chain {
            Some(chain) if self.tenants.is_empty() => vec![chain.writer.figures()],
            _ => self.tenants.values().map(|writer| writer.figures()).collect(),
        }
    }

    /// Applies a check to the senders of transactions. With tenants the check fails only if it fails for all
    /// tenants: a fault of one tenant must not make the gateway unready for the others.
    fn sends(&self, fault: impl Fn(&dyn ChainWriter) -> Option<String>) -> Result<(), String> {
        let Some(chain) = &self.chain else { return Ok(()) };
        if self.tenants.is_empty() {
            return fault(&*chain.writer).map_or(Ok(()), Err);
        }
        let mut faults = Vec::new();
        for (name, writer) in &self.tenants {
            match fault(&**writer) {
                Some(reason) => faults.push(format!("{name}: {reason}")),
                None => return Ok(()),
            }
        }
        Err(faults.join("; "))
    }

    /// Records the result of a probe of the app chain.
    pub(crate) fn set_chain(&self, answer: Result<(), String>) {
        if let Some(chain) = &self.chain {
            *chain.error.lock() = answer.err();
        }
    }

    /// Returns the status of the lists that are read from the settlement chain; empty if they come from files.
    pub(crate) fn lists(&self) -> Vec<ChainListStatus> {
        self.lists.as_ref().map(|lists| lists.lists()).unwrap_or_default()
    }
}

impl Checks for GatewayChecks {
    fn run(&self, draining: bool) -> Vec<Check> {
        let check = |name, result, remedy| Check { name, purpose: None, result, remedy };
        let unless =
            |wrong: bool, reason: &str| if wrong { Err(reason.to_owned()) } else { Ok(()) };
        let mut checks = vec![
            check(
                "not_draining",
                unless(draining, "the gateway is shutting down"),
                "none: it was told to stop",
            ),
            check(
                "registry_loaded",
                unless(self.nodes.all().is_empty(), "no canonical node is known"),
                "check where the node registry is read from",
            ),
            check(
                "node_usable",
                unless(self.nodes.usable_count() == 0, "no node serves and keeps up"),
                "see the nodes in /status, and the network from here to them",
            ),
            check(
                "token_keys_known",
                unless(self.policies.lacks_keys(), "the keys of tokens were not fetched yet"),
                "check jwks_url in the policies, and what it answers",
            ),
        ];
        if let Some(chain) = &self.chain {
            let fault = chain.error.lock().clone();
            let result = fault.map_or(Ok(()), Err);
            checks.push(check("app_chain", result, "check the app chain's URLs"));
            checks.push(check(
                "app_chain_cost",
                self.sends(|writer| writer.ceiling_reached()),
                "see who publishes so much and what the endpoints say that gas costs, or raise the ceiling \
                 (--gas-price-max, --gas-cost-per-hour-max)",
            ));
            checks.push(check(
                "app_chain_sender",
                self.sends(|writer| writer.halted()),
                "see that Redis answers, and that no other process sends with the payer's key without it",
            ));
        }
        checks.extend(self.tls.as_ref().map(|tls| tls.check(None)));
        let lists = self.lists();
        if !lists.is_empty() {
            checks.push(check(
                "settlement_chain_lists_read",
                lists.iter().try_for_each(|list| list.read_lately()),
                "check the contracts' addresses and the settlement chain's URLs",
            ));
        }
        checks
    }

    fn now_unix_s(&self) -> i64 {
        crate::now_ns() / 1_000_000_000
    }
}
