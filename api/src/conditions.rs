//! The readiness conditions of a node, with reason and remedy for those that are not met.

use std::sync::Arc;
use std::time::Duration;

use hawser_engine::Engine;
use hawser_engine::own_strand::OwnStrandStatus;
use hawser_engine::runtime::PublishError;
use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_serve::readiness::{Check, Checks, Purpose};
use hawser_serve::tls::Tls;
use parking_lot::Mutex;

use crate::settings::ApiSettings;
use crate::strands_behind::StrandsBehind;
use crate::views::{BackupsView, ChainState, ChainsView, FillingView, PeerView, ReadingState};

/// Name of the condition that is never met at a replica, which only reads.
pub(crate) const READS_ONLY: &str = "reads_only";
/// Time after which a payer may retry when a chain is out of reach. A guess: endpoints are retried
/// every few seconds.
const RETRY_AFTER_CHAIN: Duration = Duration::from_secs(10);

/// The checks of a node. Also keeps the last result for the publish path, which cannot wait for a check.
pub(crate) struct NodeChecks {
    engine: Engine,
    chains: Option<Arc<dyn ChainsView>>,
    filling: Option<Arc<dyn FillingView>>,
    peers: Arc<dyn PeerView>,
    behind: StrandsBehind,
    /// The name of the first unmet condition of the chains at the last check.
    chain_fault: Mutex<Option<&'static str>>,
    tls: Option<Tls>,
    backups: Option<Arc<dyn BackupsView>>,
}

impl Checks for NodeChecks {
    fn run(&self, draining: bool) -> Vec<Check> {
        let mut checks = self.checks_of_start();
        checks.extend(self.checks_of_reading(draining));
        checks.extend(self.checks_of_publishing());
        checks.extend(self.checks_of_chains());
        checks.extend(self.filled());
        checks.push(self.rates_uncontested());
        checks.push(self.disk_sound());
        checks.extend(self.backup_place_reached());
        checks.extend(self.tls.as_ref().map(|tls| tls.check(Some(Purpose::Read))));
        checks
    }

    fn now_unix_s(&self) -> i64 {
        self.engine.ports().clock.now_ns() / 1_000_000_000
    }
}

impl NodeChecks {
    pub(crate) fn new(engine: Engine, settings: &ApiSettings, peers: Arc<dyn PeerView>) -> Self {
        let chains = settings.chains.clone();
        let behind = StrandsBehind::default();
        let tls = settings.tls.clone();
        let filling = settings.filling.clone();
        let (backups, chain_fault) = (settings.backups.clone(), Mutex::default());
        Self { engine, chains, filling, peers, behind, chain_fault, tls, backups }
    }

    /// Checks that no strand is being filled, and that the chains allowed publishing at the last evaluation.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`].
    pub(crate) fn admits_publishes(&self) -> Result<(), PublishError> {
        if let Some(reason) = self.filling.as_ref().and_then(|it| it.filling()) {
            return Err(PublishError::Unavailable { reason, retry_after: RETRY_AFTER_CHAIN });
        }
        // The reason is for operators: it names the endpoints without which this node stops.
        match *self.chain_fault.lock() {
            None => Ok(()),
            Some(name) => Err(PublishError::Unavailable {
                reason: format!("this node's condition {name} is not met: try another node"),
                retry_after: RETRY_AFTER_CHAIN,
            }),
        }
    }

    /// Returns the conditions that a start brings about.
    fn checks_of_start(&self) -> Vec<Check> {
        let engine = &self.engine;
        let stale = engine.store().stale_projections();
        let no_registry = engine.ports().registry.borrow().nodes().next().is_none();
        let no_rates = engine.ports().rates.borrow().rates().is_empty();
        vec![
            Check {
                name: "projections_current",
                purpose: Some(Purpose::Read),
                result: unless(!stale.is_empty(), || {
                    format!("to be rebuilt: {}", stale.join(", "))
                }),
                remedy: "wait: the node makes them anew once its log is whole; if it does not, docs/runbooks/disk.md",
            },
            Check {
                name: "registry_loaded",
                purpose: Some(Purpose::Start),
                result: unless(no_registry, || "no node record has been read".into()),
                remedy: "check where the node registry is read from",
            },
            Check {
                name: "rates_loaded",
                purpose: Some(Purpose::Start),
                result: unless(no_rates, || "no rate has been read".into()),
                remedy: "check where the rates are read from",
            },
        ]
    }

    fn checks_of_reading(&self, draining: bool) -> Vec<Check> {
        let store = self.engine.store();
        let readable = store.snapshot().head(store.identity().node);
        vec![
            Check {
                name: "not_draining",
                purpose: Some(Purpose::Read),
                result: unless(draining, || "the node is shutting down".into()),
                remedy: "none: it was told to stop",
            },
            Check {
                name: "log_readable",
                purpose: Some(Purpose::Read),
                result: readable.map(|_| ()).map_err(|error| error.to_string()),
                remedy: "check the disk: docs/runbooks/disk.md",
            },
            Check {
                name: "strands_current",
                purpose: Some(Purpose::Read),
                result: self.strands_current(),
                remedy: "wait until it has caught up; if it does not, see the peers in /status",
            },
        ]
    }

    /// Returns the conditions without which the node publishes nothing.
    fn checks_of_publishing(&self) -> Vec<Check> {
        let engine = &self.engine;
        if engine.store().identity().node == OriginatorId::REPLICA {
            return self.checks_of_replica();
        }
        // A separate statement, so that the guard is dropped before `ready_to_publish` borrows the rates again.
        // With a writer waiting between the two, the second borrow would deadlock.
        let now_ns = engine.ports().clock.now_ns();
        let rates_in_force = engine.ports().rates.borrow().at(now_ns).map(|_| ());
        let rates_in_force = rates_in_force.map_err(|error| error.to_string());
        vec![
            Check {
                name: "registry_record",
                purpose: Some(Purpose::Publish),
                result: self.registry_record(),
                remedy: "register this node with this key, and have it made canonical",
            },
            Check {
                name: "rates_in_force",
                purpose: Some(Purpose::Publish),
                result: rates_in_force,
                remedy: "check the rates and this machine's clock",
            },
            self.log_writable(),
            self.disk_space(),
            Check {
                name: "own_strand",
                purpose: Some(Purpose::Publish),
                result: engine.may_sign().map_err(|error| error.to_string()),
                remedy: "wait for peers, or follow docs/runbooks/restore.md",
            },
            Check {
                name: "clock",
                purpose: Some(Purpose::Publish),
                result: engine.check_clock().map_err(|error| error.to_string()),
                remedy: "set this machine's clock; if it is right, check the chain's RPC endpoints",
            },
            Check {
                name: "sole_signer",
                purpose: Some(Purpose::Publish),
                result: unless(engine.own_strand_status() == OwnStrandStatus::Stopped, || {
                    "another process has signed with this node's key".into()
                }),
                remedy: "stop the other process, then follow docs/runbooks/restore.md",
            },
            Check {
                name: "publishing",
                purpose: Some(Purpose::Publish),
                result: engine.ready_to_publish().map_err(|error| match error {
                    PublishError::Unavailable { reason, .. } => reason,
                    other => other.to_string(),
                }),
                remedy: "see the other conditions and the log",
            },
        ]
    }

    /// Returns the checks of a replica: it stores and serves envelopes, and publishes nothing.
    fn checks_of_replica(&self) -> Vec<Check> {
        let reads_only = self.engine.ready_to_publish().map_err(|error| error.to_string());
        vec![
            Check {
                name: READS_ONLY,
                purpose: Some(Purpose::Publish),
                result: reads_only,
                remedy: "none: publish at a node of the network",
            },
            self.log_writable(),
            self.disk_space(),
        ]
    }

    fn log_writable(&self) -> Check {
        Check {
            name: "log_writable",
            purpose: Some(Purpose::Publish),
            result: match self.engine.store().write_fault() {
                None => Ok(()),
                Some(cause) => Err(format!("the log is read-only: {cause}")),
            },
            remedy: "check the disk: the node goes on by itself when it can write, and nothing \
                     acknowledged is lost",
        }
    }

    fn disk_space(&self) -> Check {
        Check {
            name: "disk_space",
            purpose: Some(Purpose::Publish),
            result: self.engine.store().check_room().map_err(|error| error.to_string()),
            remedy: "prune, or extend the disk: the node goes on by itself",
        }
    }

    /// Returns the check of strands that are filled from a snapshot; `None` for a node without one.
    fn filled(&self) -> Option<Check> {
        Some(Check {
            name: "filled",
            purpose: Some(Purpose::Publish),
            result: self.filling.as_ref()?.filling().map_or(Ok(()), Err),
            remedy: "wait: readers are served meanwhile",
        })
    }

    /// Returns the check of the backup place; `None` without records of backups.
    fn backup_place_reached(&self) -> Option<Check> {
        let silent = self.backups.as_ref()?.backups().unreachable;
        Some(Check {
            name: "backup_place_reached",
            purpose: Some(Purpose::Notice),
            result: silent
                .map_or(Ok(()), |it| Err(format!("{} does not answer: {}", it.place, it.error))),
            remedy: "make the folder or bucket reachable, then run `hawser backup verify` or `backup create` again",
        })
    }

    /// Returns the check that the price list proves fees. Otherwise the node prices by it, and accuses no other node.
    fn rates_uncontested(&self) -> Check {
        let is_contested = !self.engine.ports().rates.borrow().is_complete_at(0);
        Check {
            name: "rates_uncontested",
            purpose: Some(Purpose::Notice),
            result: unless(is_contested, || {
                "no fee is judged: the endpoints contradict each other about the price list, or do not tell \
                 its time, or it lacks a recorded rate"
                    .into()
            }),
            remedy: "compare the lists of the endpoints, and that of another node: docs/runbooks/chains.md",
        }
    }

    fn disk_sound(&self) -> Check {
        let status = self.engine.scrubs().status();
        let first = status.left.first().map(|left| {
            let of = |place: Option<EnvelopeId>| place.map(|it| it.to_string());
            let (first, last) = (of(left.damage.first), of(left.damage.last));
            let places = first.zip(last).map(|(first, last)| format!(" from {first} to {last}"));
            let (family, reason) = (left.damage.family, &left.reason);
            format!("{family}{}: {reason}", places.unwrap_or_default())
        });
        let count = status.left_count;
        let has_met = count == 0 && self.engine.store().holds_compactions();
        let unscrubbed =
            "a write has met damage that no scrub has found yet, and files are not merged";
        let result = unless(has_met, || unscrubbed.to_owned());
        let result = result.and(unless(count > 0, || {
            let first = first.unwrap_or_default();
            format!("damaged by the disk and not repaired: {count}; the first is {first}")
        }));
        Check {
            name: "disk_sound",
            purpose: Some(Purpose::Notice),
            result,
            remedy: "`hawser scrub --repair`, and docs/runbooks/disk.md; without `--scrub-interval 0` the node scrubs by itself",
        }
    }

    fn checks_of_chains(&self) -> Vec<Check> {
        let chains = self.chains.as_ref().map(|chains| chains.chains()).unwrap_or_default();
        let checks: Vec<Check> = chains.iter().flat_map(checks_of_chain).collect();
        let mut needed = checks.iter().filter(|check| check.purpose <= Some(Purpose::Publish));
        let unmet = needed.find(|check| check.result.is_err());
        *self.chain_fault.lock() = unmet.map(|check| check.name);
        checks
    }

    fn strands_current(&self) -> Result<(), String> {
        let now_ns = self.engine.ports().clock.now_ns();
        let own = self.engine.heads().get();
        let voids = self.engine.store().void_statements().unwrap_or_default();
        let (peers, strands) = (self.peers.peers(), self.peers.strands());
        self.behind.note(now_ns, &own, &peers, &voids, &strands).map_or(Ok(()), Err)
    }

    fn registry_record(&self) -> Result<(), String> {
        let engine = &self.engine;
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
}

/// Returns the conditions about one chain: reached, no WebSocket of another chain, contracts read to its head, lists
/// fresh, contracts not paused. The latter three only if the node reads such a contract or list.
fn checks_of_chain(chain: &ChainState) -> Vec<Check> {
    let [reached, indexed, listed, running, own_push] = match chain.name {
        "app" => [
            "app_chain_reached",
            "app_chain_indexed",
            "app_chain_lists_read",
            "app_chain_contracts_run",
            "app_chain_websocket_own",
        ],
        _ => [
            "settlement_chain_reached",
            "settlement_chain_indexed",
            "settlement_chain_lists_read",
            "settlement_chain_contracts_run",
            "settlement_chain_websocket_own",
        ],
    };
    let mut checks = vec![
        Check {
            name: reached,
            purpose: Some(Purpose::Publish),
            result: reached_lately(chain),
            remedy: "check the chain's RPC endpoints, or give another one",
        },
        Check {
            name: own_push,
            purpose: Some(Purpose::Notice),
            result: chain.foreign_push.clone().map_or(Ok(()), Err),
            remedy: "correct the WebSocket's URL, or take it out of the settings: the chain is polled meanwhile",
        },
    ];
    if !chain.contracts.is_empty() {
        checks.push(Check {
            name: indexed,
            purpose: Some(Purpose::Publish),
            result: indexed_lately(chain),
            remedy: "wait if the blocks that are read grow; if not, docs/runbooks/chains.md, and for a strand that has \
                     halted docs/runbooks/halted-strand.md",
        });
    }
    if chain.contracts.iter().any(|contract| contract.pause.is_some()) {
        checks.push(Check {
            name: running,
            purpose: Some(Purpose::Notice),
            result: contracts_run(chain),
            remedy: "none at this node: the operators of the network have paused it",
        });
    }
    if !chain.lists.is_empty() {
        checks.push(Check {
            name: listed,
            purpose: Some(Purpose::Publish),
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
    for reading in &chain.contracts {
        let contract = &reading.contract;
        if let ReadingState::Halted(reason) = &reading.state {
            return Err(format!("{contract} is not read any further: {reason}"));
        }
        // A chain whose head is known but whose blocks are not read counts as unreachable.
        if reading.behind_for.is_some_and(|behind| behind > chain.disconnect_max) {
            let reason = match &reading.state {
                ReadingState::Stuck(reason) => reason.as_str(),
                _ => "it is being read",
            };
            let (read, head) = (reading.read_block.unwrap_or(0), reading.head_block.unwrap_or(0));
            return Err(format!("{contract} is read up to block {read} of {head}: {reason}"));
        }
    }
    Ok(())
}

/// Checks that the lists were read recently, each by its own limit: since then the registry may have dropped a node,
/// or a price may have risen.
fn listed_lately(chain: &ChainState) -> Result<(), String> {
    chain.lists.iter().try_for_each(|list| list.read_lately())
}

/// Checks that no contract is paused. A paused broadcaster accepts no commits or identity updates, and a paused
/// payer registry no deposits. The node continues to work.
fn contracts_run(chain: &ChainState) -> Result<(), String> {
    let paused = chain.contracts.iter().filter_map(|reading| {
        let pause = reading.pause.filter(|pause| pause.is_paused)?;
        Some(format!("{} is paused, as of block {}", reading.contract, pause.block))
    });
    let paused: Vec<_> = paused.collect();
    unless(!paused.is_empty(), || paused.join("; "))
}

fn unless(wrong: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if wrong { Err(reason()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_websocket_of_another_chain_is_told_and_stops_no_publishing() {
        let mut chain = ChainState {
            name: "app",
            head: Some(5),
            head_time_s: Some(1_750_000_000),
            unseen_for: Some(Duration::ZERO),
            disconnect_max: Duration::from_secs(60),
            pushed: false,
            foreign_push: None,
            endpoints: Vec::new(),
            faults: Vec::new(),
            reorganisations: Vec::new(),
            contracts: Vec::new(),
            lists: Vec::new(),
            account: None,
        };
        assert!(checks_of_chain(&chain).iter().all(|check| check.result.is_ok()));
        chain.foreign_push = Some("it serves chain 7".into());
        let unmet = checks_of_chain(&chain).into_iter().filter(|check| check.result.is_err());
        let unmet: Vec<_> = unmet.map(|check| (check.name, check.purpose)).collect();
        assert_eq!(unmet, [("app_chain_websocket_own", Some(Purpose::Notice))]);
    }
}
