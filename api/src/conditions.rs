//! Whether this node is ready, for what, and if not, why and what to do about it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hawser_engine::Engine;
use hawser_engine::runtime::PublishError;
use serde::Serialize;
use tokio::sync::watch;

use crate::outside::{ChainState, ChainsView, DiskView, StrandDoing};
use crate::settings::ApiSettings;

/// What a node can be ready for. Each one needs what those before it need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    Start,
    Read,
    Publish,
}

impl Purpose {
    pub(crate) const ALL: [Self; 3] = [Self::Start, Self::Read, Self::Publish];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Read => "read",
            Self::Publish => "publish",
        }
    }
}

/// One thing that has to be so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Condition {
    /// Stable: operators write alerts on it.
    pub(crate) name: &'static str,
    /// What needs it.
    #[serde(rename = "for")]
    pub(crate) purpose: Purpose,
    pub(crate) met: bool,
    /// Since when it is or is not met, unix seconds.
    pub(crate) since_unix_s: i64,
    /// Why it is not met.
    pub(crate) reason: Option<String>,
    /// What to do then.
    pub(crate) remedy: Option<&'static str>,
}

/// For what a node is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ready {
    start: bool,
    read: bool,
    publish: bool,
}

impl Ready {
    pub(crate) fn is_for(self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Start => self.start,
            Purpose::Read => self.read,
            Purpose::Publish => self.publish,
        }
    }

    pub(crate) fn of(conditions: &[Condition]) -> Self {
        let met = |purpose| conditions.iter().all(|it| it.met || it.purpose > purpose);
        Self {
            start: met(Purpose::Start),
            read: met(Purpose::Read),
            publish: met(Purpose::Publish),
        }
    }
}

/// The conditions of one node. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Conditions(Arc<Inner>);

struct Inner {
    engine: Engine,
    disk: Option<Arc<dyn DiskView>>,
    disk_free_bytes_min: u64,
    chains: Option<Arc<dyn ChainsView>>,
    draining: AtomicBool,
    disk_full: AtomicBool,
    /// Why the chains do not allow to publish, if they do not.
    chains_away: Mutex<Option<String>>,
    /// State and since when, by name.
    since: Mutex<BTreeMap<&'static str, (bool, i64)>>,
    ready: watch::Sender<Ready>,
}

/// A condition before it is known since when.
struct Check {
    name: &'static str,
    purpose: Purpose,
    result: Result<(), String>,
    remedy: &'static str,
}

impl Conditions {
    pub(crate) fn new(engine: Engine, settings: &ApiSettings) -> Self {
        let conditions = Self(Arc::new(Inner {
            engine,
            disk: settings.disk.clone(),
            disk_free_bytes_min: settings.disk_free_bytes_min,
            chains: settings.chains.clone(),
            draining: AtomicBool::new(false),
            disk_full: AtomicBool::new(false),
            chains_away: Mutex::default(),
            since: Mutex::default(),
            ready: watch::Sender::default(),
        }));
        conditions.look();
        conditions
    }

    /// Looks at everything, and tells those who watch if readiness has changed.
    pub(crate) fn look(&self) -> Vec<Condition> {
        let now_unix_s = self.0.engine.ports().clock.now_ns() / 1_000_000_000;
        let mut since = self.0.since.lock().unwrap_or_else(PoisonError::into_inner);
        let conditions: Vec<Condition> = self
            .checks()
            .into_iter()
            .map(|check| {
                let met = check.result.is_ok();
                let known = since.entry(check.name).or_insert((met, now_unix_s));
                if known.0 != met {
                    *known = (met, now_unix_s);
                }
                Condition {
                    name: check.name,
                    purpose: check.purpose,
                    met,
                    since_unix_s: known.1,
                    reason: check.result.err(),
                    remedy: (!met).then_some(check.remedy),
                }
            })
            .collect();
        let ready = Ready::of(&conditions);
        self.0.ready.send_if_modified(|known| {
            let modified = *known != ready;
            *known = ready;
            modified
        });
        conditions
    }

    /// What this node is ready for, now.
    pub(crate) fn ready(&self) -> Ready {
        Ready::of(&self.look())
    }

    /// Follows readiness, as far as somebody looks.
    pub(crate) fn watch(&self) -> watch::Receiver<Ready> {
        self.0.ready.subscribe()
    }

    /// From now on this node is not ready for anything new, although it still serves.
    pub(crate) fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
        self.look();
    }

    /// Whether disk and chains allow to publish, when somebody last looked.
    ///
    /// # Errors
    /// For the publisher.
    pub(crate) fn room(&self) -> Result<(), PublishError> {
        if self.0.disk_full.load(Ordering::Acquire) {
            let (reason, retry_after) = ("disk is nearly full".into(), Duration::from_secs(60));
            return Err(PublishError::Unavailable { reason, retry_after });
        }
        match &*self.0.chains_away.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(reason) => Err(PublishError::Unavailable {
                reason: reason.clone(),
                retry_after: Duration::from_secs(10),
            }),
        }
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks = self.checks_of_start();
        checks.extend(self.checks_of_reading());
        checks.extend(self.checks_of_publishing());
        checks.extend(self.checks_of_chains());
        checks
    }

    fn checks_of_start(&self) -> Vec<Check> {
        let Inner { engine, .. } = &*self.0;
        let stale = engine.store().stale_projections();
        let no_registry = engine.ports().registry.borrow().nodes().next().is_none();
        let no_rates = engine.ports().rates.borrow().rates().is_empty();
        vec![
            Check {
                name: "projections_current",
                purpose: Purpose::Start,
                result: unless(!stale.is_empty(), || {
                    format!("to be rebuilt: {}", stale.join(", "))
                }),
                remedy: "wait for the rebuild, or run `hawser rebuild`",
            },
            Check {
                name: "registry_loaded",
                purpose: Purpose::Start,
                result: unless(no_registry, || "no node record has been read".into()),
                remedy: "check where the node registry is read from",
            },
            Check {
                name: "rates_loaded",
                purpose: Purpose::Start,
                result: unless(no_rates, || "no rate has been read".into()),
                remedy: "check where the rates are read from",
            },
        ]
    }

    fn checks_of_reading(&self) -> Vec<Check> {
        let Inner { engine, draining, .. } = &*self.0;
        let store = engine.store();
        let readable = store.snapshot().head(store.identity().node);
        vec![
            Check {
                name: "not_draining",
                purpose: Purpose::Read,
                result: unless(draining.load(Ordering::Acquire), || {
                    "the node is shutting down".into()
                }),
                remedy: "none: it was told to stop",
            },
            Check {
                name: "log_readable",
                purpose: Purpose::Read,
                result: readable.map(|_| ()).map_err(|error| error.to_string()),
                remedy: "check the disk; restore from a backup or from peers",
            },
        ]
    }

    fn checks_of_publishing(&self) -> Vec<Check> {
        let Inner { engine, .. } = &*self.0;
        // By itself: within the list it would be held on to while the engine looks at the rates
        // again, and whoever changes them in between would wait for ever, and everybody for them.
        let now_ns = engine.ports().clock.now_ns();
        let rates_in_force = engine.ports().rates.borrow().at(now_ns).map(|_| ());
        let rates_in_force = rates_in_force.map_err(|error| error.to_string());
        vec![
            Check {
                name: "registry_record",
                purpose: Purpose::Publish,
                result: self.registry_record(),
                remedy: "register this node with this key, and have it made canonical",
            },
            Check {
                name: "rates_in_force",
                purpose: Purpose::Publish,
                result: rates_in_force,
                remedy: "check the rates and this machine's clock",
            },
            Check {
                name: "log_writable",
                purpose: Purpose::Publish,
                result: unless(engine.store().is_poisoned(), || {
                    "a write to the log has failed".into()
                }),
                remedy: "check the disk, then restart: nothing acknowledged is lost",
            },
            Check {
                name: "disk_space",
                purpose: Purpose::Publish,
                result: self.disk_space(),
                remedy: "prune, or extend the disk",
            },
            Check {
                name: "publishing",
                purpose: Purpose::Publish,
                result: engine.ready_to_publish().map_err(|error| match error {
                    PublishError::Unavailable { reason, .. } => reason,
                    other => other.to_string(),
                }),
                remedy: "see the other conditions and the log",
            },
        ]
    }

    fn checks_of_chains(&self) -> Vec<Check> {
        let chains = self.0.chains.as_ref().map(|chains| chains.chains()).unwrap_or_default();
        let checks: Vec<Check> = chains.iter().flat_map(checks_of_chain).collect();
        let away = checks.iter().find_map(|check| check.result.as_ref().err());
        *self.0.chains_away.lock().unwrap_or_else(PoisonError::into_inner) = away.cloned();
        checks
    }

    fn registry_record(&self) -> Result<(), String> {
        let Inner { engine, .. } = &*self.0;
        let identity = engine.store().identity();
        let registry = engine.ports().registry.borrow();
        match registry.node(identity.node) {
            None => Err(format!("the registry has no node {}", identity.node)),
            Some(record) if !record.canonical => {
                Err(format!("node {} is not canonical in the registry", identity.node))
            }
            Some(record) if record.public_key != identity.public_key => {
                Err(format!("the registry holds another key for node {}", identity.node))
            }
            Some(_) => Ok(()),
        }
    }

    fn disk_space(&self) -> Result<(), String> {
        let Inner { disk, disk_free_bytes_min, disk_full, .. } = &*self.0;
        let space = disk.as_ref().and_then(|disk| disk.space());
        let low = space.filter(|space| space.free_bytes < *disk_free_bytes_min);
        disk_full.store(low.is_some(), Ordering::Release);
        match low {
            None => Ok(()),
            Some(space) => Err(format!(
                "{} bytes are free, at least {disk_free_bytes_min} are wanted",
                space.free_bytes
            )),
        }
    }
}

fn checks_of_chain(chain: &ChainState) -> Vec<Check> {
    let (reached, indexed, listed) = match chain.name {
        "app" => ("app_chain_reached", "app_chain_indexed", "app_chain_lists_read"),
        _ => {
            ("settlement_chain_reached", "settlement_chain_indexed", "settlement_chain_lists_read")
        }
    };
    let mut checks = vec![Check {
        name: reached,
        purpose: Purpose::Publish,
        result: reached_lately(chain),
        remedy: "check the chain's RPC endpoints, or give another one",
    }];
    if !chain.strands.is_empty() {
        checks.push(Check {
            name: indexed,
            purpose: Purpose::Publish,
            result: indexed_lately(chain),
            remedy: "see the log: a strand that has halted needs a decision (`hawser recut`), any other \
                     one time",
        });
    }
    if !chain.lists.is_empty() {
        checks.push(Check {
            name: listed,
            purpose: Purpose::Publish,
            result: listed_lately(chain),
            remedy: "check the contracts' addresses and the chain's RPC endpoints",
        });
    }
    checks
}

fn reached_lately(chain: &ChainState) -> Result<(), String> {
    let ChainState { name, disconnect_max, .. } = chain;
    let faults = chain.endpoints.iter().filter_map(|it| it.fault.as_deref());
    let faults = faults.collect::<Vec<_>>().join("; ");
    match chain.unseen_for {
        Some(unseen) if unseen <= *disconnect_max => Ok(()),
        Some(unseen) => Err(format!(
            "the {name} chain has not been reached for {} s: {faults}",
            unseen.as_secs()
        )),
        None => Err(format!("the {name} chain has not been reached yet: {faults}")),
    }
}

fn indexed_lately(chain: &ChainState) -> Result<(), String> {
    for strand in &chain.strands {
        let contract = &strand.contract;
        if let StrandDoing::Halted(reason) = &strand.doing {
            return Err(format!("{contract} is not read any further: {reason}"));
        }
        // Heads without what is in the blocks are no better than no heads.
        if strand.behind_for.is_some_and(|behind| behind > chain.disconnect_max) {
            let reason = match &strand.doing {
                StrandDoing::Stuck(reason) => reason.as_str(),
                _ => "it is being read",
            };
            let (read, head) = (strand.read_block.unwrap_or(0), strand.head_block.unwrap_or(0));
            return Err(format!("{contract} is read up to block {read} of {head}: {reason}"));
        }
    }
    Ok(())
}

/// A node may have been taken out, or a price raised, while nobody could read it.
fn listed_lately(chain: &ChainState) -> Result<(), String> {
    chain.lists.iter().try_for_each(|list| list.read_lately(chain.disconnect_max))
}

fn unless(wrong: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if wrong { Err(reason()) } else { Ok(()) }
}
