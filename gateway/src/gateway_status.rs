//! The status of a gateway for operators: readiness, nodes and lists.

use std::sync::Arc;

use hawser_serve::readiness::{Condition, Readiness};
use hawser_serve::{BuildInfo, ChainListReport, ChainListStatus};
use serde::Serialize;

use crate::conditions::GatewayChecks;
use crate::nodes::{Health, Node, Nodes};

/// A node in the page `/status`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeReport {
    pub(crate) id: u32,
    address: String,
    /// The last answer of the node's health check; absent before the first one.
    serves: Option<bool>,
    /// The version that the node reports.
    version: Option<String>,
    pub(crate) usable: bool,
    pub(crate) lag_s: u64,
    pub(crate) gap_s: u64,
}

/// The page `/status`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct GatewayStatus {
    pub(crate) ready: bool,
    version: String,
    commit: String,
    started_unix_s: i64,
    /// Address of the payer, whose account pays the fees.
    payer: String,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) nodes: Vec<NodeReport>,
    lists: Vec<ChainListReport>,
}

/// Observes a gateway. Cheap to clone.
#[derive(Clone)]
pub(crate) struct GatewayObserver {
    pub(crate) nodes: Nodes,
    pub(crate) checks: Arc<GatewayChecks>,
    pub(crate) readiness: Readiness,
    pub(crate) build: Arc<BuildInfo>,
    /// Address of the payer, whose account pays the fees.
    pub(crate) payer: Arc<str>,
}

impl std::fmt::Debug for GatewayObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GatewayObserver")
    }
}

impl GatewayObserver {
    /// Returns the status of the gateway now.
    pub(crate) fn status(&self) -> GatewayStatus {
        let conditions = self.readiness.evaluate();
        GatewayStatus {
            ready: conditions.iter().all(|condition| condition.met),
            version: self.build.version.clone(),
            commit: self.build.commit.clone(),
            started_unix_s: self.build.started_unix_s(),
            payer: self.payer.to_string(),
            conditions,
            nodes: self.nodes.all().values().map(|node| self.report(node)).collect(),
            lists: self.lists().iter().map(ChainListReport::from).collect(),
        }
    }

    /// Returns the lists that are read from the settlement chain.
    pub(crate) fn lists(&self) -> Vec<ChainListStatus> {
        self.checks.lists()
    }

    fn report(&self, node: &Arc<Node>) -> NodeReport {
        let lag = self.nodes.lag(node.id());
        NodeReport {
            id: node.id().0,
            address: node.address.clone(),
            serves: match *node.health.borrow() {
                Health::Unknown => None,
                Health::Up => Some(true),
                Health::Down => Some(false),
            },
            version: node.version(),
            usable: self.nodes.is_usable(node),
            lag_s: lag.late.as_secs(),
            gap_s: lag.gap.as_secs(),
        }
    }
}
