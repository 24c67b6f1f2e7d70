//! What operators are shown: whether the gateway is ready, its nodes, and its numbers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hawser_serve::ChainListStatus;
use hawser_serve::pages::{Page, Pages, json, open_metrics, plain};
use http::StatusCode;
use serde::Serialize;

use crate::metrics::Metrics;
use crate::nodes::{Health, Nodes};
use crate::policy::Policies;
use crate::settings::ListsView;

/// One thing that has to be so.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Condition {
    pub(crate) name: &'static str,
    pub(crate) met: bool,
    /// Since when it is or is not met, unix seconds.
    since_unix_s: i64,
    reason: Option<String>,
    remedy: Option<&'static str>,
}

/// A node as the gateway sees it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeSight {
    pub(crate) id: u32,
    address: String,
    serves: Option<bool>,
    /// What it says that it runs.
    version: Option<String>,
    pub(crate) usable: bool,
    pub(crate) lag_s: u64,
}

/// A list that is read from the settlement chain, again and again.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ListSight {
    pub(crate) name: &'static str,
    /// Seconds since it was read.
    pub(crate) age_s: f64,
    pub(crate) failures: u64,
    fault: Option<String>,
}

impl From<&ChainListStatus> for ListSight {
    fn from(list: &ChainListStatus) -> Self {
        Self {
            name: list.name,
            age_s: list.age.as_secs_f64(),
            failures: list.failures,
            fault: list.fault.clone(),
        }
    }
}

/// All that can be seen at one moment.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sight {
    pub(crate) ready: bool,
    pub(crate) version: String,
    pub(crate) commit: String,
    pub(crate) started_unix_s: i64,
    /// Whose signatures pay.
    payer: String,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) nodes: Vec<NodeSight>,
    pub(crate) lists: Vec<ListSight>,
}

/// Looks at the gateway. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Observer(Arc<Inner>);

struct Inner {
    nodes: Nodes,
    policies: Arc<Policies>,
    lists: Option<Arc<dyn ListsView>>,
    list_failing_max: Duration,
    has_chain: bool,
    version: String,
    commit: String,
    payer: String,
    started_unix_s: i64,
    draining: AtomicBool,
    /// What the chain said last; none if it answers.
    chain: Mutex<Option<String>>,
    since: Mutex<BTreeMap<&'static str, (bool, i64)>>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// What does not change.
pub(crate) struct About {
    pub(crate) version: String,
    pub(crate) commit: String,
    pub(crate) payer: String,
    pub(crate) has_chain: bool,
    pub(crate) list_failing_max: Duration,
}

impl Observer {
    pub(crate) fn new(
        nodes: Nodes,
        policies: Arc<Policies>,
        lists: Option<Arc<dyn ListsView>>,
        about: About,
    ) -> Self {
        let About { version, commit, payer, has_chain, list_failing_max } = about;
        Self(Arc::new(Inner {
            nodes,
            policies,
            lists,
            list_failing_max,
            has_chain,
            version,
            commit,
            payer,
            started_unix_s: crate::now_ns() / 1_000_000_000,
            draining: AtomicBool::new(false),
            chain: Mutex::default(),
            since: Mutex::default(),
        }))
    }

    /// From now on the gateway is not ready, although it still serves.
    pub(crate) fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// What the chain said just now.
    pub(crate) fn told_chain(&self, answer: Result<(), String>) {
        *self.0.chain.lock().unwrap_or_else(PoisonError::into_inner) = answer.err();
    }

    fn lists(&self) -> Vec<ChainListStatus> {
        self.0.lists.as_ref().map(|lists| lists.lists()).unwrap_or_default()
    }

    /// At least one node can be used, the chain answers, what is known of the network is not too
    /// old, and nobody has said stop.
    pub(crate) fn is_ready(&self) -> bool {
        self.checks().into_iter().all(|(_, result, _)| result.is_ok())
    }

    fn checks(&self) -> Vec<(&'static str, Result<(), String>, &'static str)> {
        let inner = &*self.0;
        let unless =
            |wrong: bool, reason: &str| if wrong { Err(reason.to_owned()) } else { Ok(()) };
        let draining = inner.draining.load(Ordering::Acquire);
        let mut checks = vec![
            (
                "not_draining",
                unless(draining, "the gateway is shutting down"),
                "none: it was told to stop",
            ),
            (
                "registry_loaded",
                unless(inner.nodes.all().is_empty(), "no canonical node is known"),
                "check where the node registry is read from",
            ),
            (
                "node_usable",
                unless(inner.nodes.usable_count() == 0, "no node serves and keeps up"),
                "see the nodes in /status, and the network from here to them",
            ),
            (
                "token_keys_known",
                unless(inner.policies.lacks_keys(), "the keys of tokens were not fetched yet"),
                "check jwks_url in the policies, and what it answers",
            ),
        ];
        if inner.has_chain {
            let fault = inner.chain.lock().unwrap_or_else(PoisonError::into_inner).clone();
            checks.push(("app_chain", fault.map_or(Ok(()), Err), "check the app chain's URLs"));
        }
        let lists = self.lists();
        if !lists.is_empty() {
            checks.push((
                "settlement_chain_lists_read",
                lists.iter().try_for_each(|list| list.read_lately(inner.list_failing_max)),
                "check the contracts' addresses and the settlement chain's URLs",
            ));
        }
        checks
    }

    pub(crate) fn look(&self) -> Sight {
        let now = crate::now_ns() / 1_000_000_000;
        let checks = self.checks();
        let mut since = self.0.since.lock().unwrap_or_else(PoisonError::into_inner);
        let conditions: Vec<Condition> = checks
            .into_iter()
            .map(|(name, result, remedy)| {
                let met = result.is_ok();
                let known = since.entry(name).or_insert((met, now));
                if known.0 != met {
                    *known = (met, now);
                }
                Condition {
                    name,
                    met,
                    since_unix_s: known.1,
                    reason: result.err(),
                    remedy: (!met).then_some(remedy),
                }
            })
            .collect();
        Sight {
            ready: conditions.iter().all(|condition| condition.met),
            version: self.0.version.clone(),
            commit: self.0.commit.clone(),
            started_unix_s: self.0.started_unix_s,
            payer: self.0.payer.clone(),
            conditions,
            nodes: self.nodes(),
            lists: self.lists().iter().map(ListSight::from).collect(),
        }
    }

    fn nodes(&self) -> Vec<NodeSight> {
        let all = self.0.nodes.all();
        let node = |node: &Arc<crate::nodes::Node>| NodeSight {
            id: node.id().0,
            address: node.record.http_address.clone(),
            serves: match *node.health.borrow() {
                Health::Unknown => None,
                Health::Up => Some(true),
                Health::Down => Some(false),
            },
            version: node.version(),
            usable: self.0.nodes.is_usable(node),
            lag_s: self.0.nodes.lag(node.id()).as_secs(),
        };
        all.values().map(node).collect()
    }
}

/// The operators' port.
pub(crate) struct GatewayPages {
    pub(crate) metrics: Metrics,
    pub(crate) observer: Observer,
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    conditions: Vec<Condition>,
}

impl Pages for GatewayPages {
    fn show(&self, path: &str, _: &str) -> Page {
        match path {
            "/" | "/metrics" => open_metrics(self.metrics.page()),
            "/livez" | "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" | "/startupz" => {
                let Sight { ready, conditions, .. } = self.observer.look();
                let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                json(status, &Readiness { ready, conditions })
            }
            "/status" => json(StatusCode::OK, &self.observer.look()),
            _ => {
                plain(StatusCode::NOT_FOUND, "try /metrics, /livez, /startupz, /readyz, /status\n")
            }
        }
    }
}
