//! The connections to peers, and their status for the API.

use std::sync::Arc;
use std::time::Duration;

use hawser_api::{NoPeers, PeerCounts, PeerState, PeerView, StrandState};
use hawser_engine::Engine;
use hawser_engine::ports::{NodeRecord, Registry};
use hawser_engine::runtime::replication::{
    Replication, ReplicationCounters, ReplicationSettings, ReplicationTasks, StrandCounters,
};
use hawser_net::{
    Endpoint, NetSettings, NetStartError, PeerError, PeerFailures, PeerStatus, PeerTransport,
};
use hawser_proto::{Cursor, OriginatorId};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::witnesses::WitnessTasks;
use crate::admin::{ORDER_LASTS_MAX, PartitionRequest};
use crate::error::RunError;
use crate::settings::WitnessSource;

/// The peer transport and its tasks.
pub(super) struct Peers {
    /// The status view; `None` if this node neither follows others nor is followed.
    view: Option<Arc<PeerStatusView>>,
    replication: Replication,
    tasks: ReplicationTasks,
    witnesses: WitnessTasks,
}

/// A view of the status of transport and replication.
pub(super) struct PeerStatusView {
    engine: Engine,
    replication: Replication,
    /// The endpoint; `None` after shutdown.
    endpoint: Mutex<Option<Endpoint>>,
}

impl Peers {
    /// Starts to listen, dial and follow strands. Without settings, only the guard of the node's own strand runs,
    /// which then has no peer to ask.
    ///
    /// # Errors
    /// Fails when the address cannot be listened on.
    pub(super) async fn start(
        settings: Option<NetSettings>,
        engine: &Engine,
        mut replication: ReplicationSettings,
        trusted: &[WitnessSource],
    ) -> Result<Self, NetStartError> {
        if let Some(witness) = &replication.witnesses.own {
            let key = witness.verifier_key();
            tracing::info!(key, "this replica is a witness: it cosigns checkpoints");
        }
        replication.migrated = replication.migrated.filter(|_| settings.is_some());
        let is_replica = engine.store().identity().node == OriginatorId::REPLICA;
        replication.witnesses.trusted = trusted.iter().map(|it| it.key.clone()).collect();
        let (replication, tasks) = Replication::start(engine, replication);
        // A replica signs no checkpoints that others could cosign.
        let asked: &[WitnessSource] = if is_replica { &[] } else { trusted };
        let Some(settings) = settings else {
            tracing::warn!(
                "sync.enable is off: this node neither follows others nor is followed over QUIC"
            );
            let witnesses = WitnessTasks::start(engine, &replication, asked);
            return Ok(Self { view: None, replication, tasks, witnesses });
        };
        let registry = engine.ports().registry.clone();
        let transport = settings.transport;
        let endpoint = match Endpoint::start(settings, registry, replication.clone()) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                tasks.stop().await;
                return Err(error);
            }
        };
        if transport == PeerTransport::Grpc {
            tracing::info!("peer-transport is grpc: this node opens no UDP port");
        } else {
            tracing::info!(address = %endpoint.local_addr(), "listening for peers over QUIC");
        }
        let witnesses = WitnessTasks::start(engine, &replication, asked);
        let endpoint = Mutex::new(Some(endpoint));
        let (engine, followed) = (engine.clone(), replication.clone());
        let view = Arc::new(PeerStatusView { engine, replication: followed, endpoint });
        Ok(Self { view: Some(view), replication, tasks, witnesses })
    }

    /// Returns the status view for the API.
    pub(super) fn view(&self) -> Arc<dyn PeerView> {
        match &self.view {
            Some(view) => view.clone(),
            None => Arc::new(NoPeers),
        }
    }

    /// Returns the same for the operator's commands; `None` if this node neither follows others nor is followed.
    pub(super) fn status_view(&self) -> Option<Arc<PeerStatusView>> {
        self.view.clone()
    }

    /// Returns the replication, which exchanges checkpoints.
    pub(super) fn replication(&self) -> &Replication {
        &self.replication
    }

    /// Closes the connections to all peers and stops the tasks.
    pub(super) async fn stop(self) {
        self.witnesses.stop().await;
        let endpoint = self.view.as_ref().and_then(|view| view.take());
        if let Some(endpoint) = endpoint {
            endpoint.shutdown().await;
        }
        self.tasks.stop().await;
    }
}

impl PeerStatusView {
    fn take(&self) -> Option<Endpoint> {
        self.endpoint.lock().take()
    }

    fn with_endpoint<T: Default>(&self, look: impl FnOnce(&Endpoint) -> T) -> T {
        let endpoint = self.endpoint.lock();
        endpoint.as_ref().map(look).unwrap_or_default()
    }

    /// Carries out an order to stay apart from peers. Returns the peers that the node keeps apart from.
    ///
    /// # Errors
    /// Fails when a peer is not in the registry, or the time cannot be used. Then nothing changes.
    pub(super) fn apart(&self, request: &PartitionRequest) -> Result<Value, RunError> {
        match request {
            PartitionRequest::Show => {}
            PartitionRequest::Keep { peers, for_s } => self.partition_from(peers, *for_s)?,
            PartitionRequest::End => self.with_endpoint(|endpoint| {
                for (peer, _) in endpoint.partitioned_peers() {
                    tracing::info!(node_id = %peer, "the operator lets the node connect to a peer again");
                    endpoint.heal_partition(peer);
                }
            }),
        }
        let kept = self.with_endpoint(Endpoint::partitioned_peers).into_iter();
        let shown = |(peer, left): (OriginatorId, Duration)| json!({ "node_id": peer.0, "left_s": left.as_secs() });
        Ok(json!({ "apart": kept.map(shown).collect::<Vec<_>>() }))
    }

    fn partition_from(&self, peers: &[u32], for_s: u64) -> Result<(), RunError> {
        let lasts = Duration::from_secs(for_s);
        if lasts.is_zero() || lasts > ORDER_LASTS_MAX {
            let max_s = ORDER_LASTS_MAX.as_secs();
            return Err(RunError::refused(format!(
                "{for_s} s: a node stays apart from 1 to {max_s} s"
            )));
        }
        let registry = self.engine.ports().registry.borrow().clone();
        let is_peer = |id: u32| {
            let id = OriginatorId(id);
            id != self.replication.own() && registry.nodes().any(|record| record.id == id)
        };
        if let Some(other) = peers.iter().find(|id| !is_peer(**id)) {
            return Err(RunError::refused(format!(
                "{other} is not the id of a peer in the registry"
            )));
        }
        self.with_endpoint(|endpoint| {
            for peer in peers.iter().map(|id| OriginatorId(*id)) {
                tracing::warn!(node_id = %peer, for_s, "the operator keeps this node apart from a peer");
                endpoint.partition_from(peer, lasts);
            }
        });
        Ok(())
    }
}

impl PeerView for PeerStatusView {
    fn peers(&self) -> Vec<PeerState> {
        let (connected, mut failures) =
            self.with_endpoint(|endpoint| (endpoint.peers(), endpoint.failures()));
        for (peer, left) in self.with_endpoint(Endpoint::partitioned_peers) {
            let why = format!(
                "the operator keeps this node apart from it for another {} s",
                left.as_secs()
            );
            failures.entry(peer).or_default().last_error = Some(why);
        }
        let clocks = self.replication.peer_clocks();
        let own = self.replication.own();
        let registry = self.engine.ports().registry.borrow().clone();
        let of_registry = |registry: &Registry| {
            let others = registry.nodes().filter(|it| it.id != own && it.canonical);
            let address = |it: &NodeRecord| {
                let address = it.quic_address.as_ref().or(it.http_address.as_ref());
                address.cloned().unwrap_or_default()
            };
            others.map(|record| (record.id, address(record))).collect::<Vec<_>>()
        };
        let observed = self.with_endpoint(|endpoint| endpoint.observed(&registry));
        observed
            .unwrap_or_else(|| of_registry(&registry))
            .into_iter()
            .map(|(node, address)| {
                let status = connected.iter().find(|status| status.node == node);
                let failed = failures.remove(&node).unwrap_or_default();
                state(node, &address, status, failed, &clocks)
            })
            .collect()
    }

    fn strands(&self) -> Vec<StrandState> {
        let strands = self.replication.strands().into_iter();
        let state = |(originator, counters): (_, Arc<StrandCounters>)| StrandState {
            originator,
            source: counters.source(),
            received: counters.received.get(),
            searches: counters.searches.get(),
            refused: counters.refused(),
            searched_through: counters.searched_through(),
        };
        strands.map(state).collect()
    }

    fn counts(&self) -> PeerCounts {
        self.with_endpoint(|endpoint| {
            let counters = endpoint.counters();
            let refused = PeerError::ALL.map(|reason| (reason.label(), counters.refused(reason)));
            let subscribed = counters.subscriptions().into_iter();
            let subscribed = subscribed.map(|((it, rpc), count)| (it, rpc.label(), count));
            PeerCounts {
                dials: counters.dials.get(),
                sessions: counters.sessions.get(),
                bytes_sent: counters.bytes_sent.get(),
                bytes_received: counters.bytes_received.get(),
                envelopes_sent: counters.envelopes_sent.get(),
                rewritten: counters.rewritten.get(),
                subscribed: subscribed.collect(),
                replicated: replicated(self.replication.counters()),
                refused: refused.into(),
            }
        })
    }
}

fn replicated(counters: &ReplicationCounters) -> Vec<(&'static str, u64)> {
    vec![
        ("verified", counters.verified.get()),
        ("forged", counters.forged.get()),
        ("stored", counters.stored.get()),
        ("compared", counters.compared.get()),
        ("missing", counters.missing.get()),
        ("conflicts", counters.conflicts.get()),
        ("verified_behind", counters.verified_behind.get()),
    ]
}

fn state(
    node: OriginatorId,
    address: &str,
    status: Option<&PeerStatus>,
    failures: PeerFailures,
    clocks: &[(OriginatorId, Cursor)],
) -> PeerState {
    let clock = clocks.iter().find(|(peer, _)| *peer == node).map(|(_, clock)| clock.clone());
    PeerState {
        node,
        address: status.map_or_else(|| address.to_owned(), |status| status.remote.clone()),
        connected: status.is_some(),
        transport: status.map(|status| status.transport.label()),
        round_trip: status.map(|status| status.rtt),
        clock: clock.unwrap_or_default(),
        last_error: match status {
            Some(status) => status.refused_token.as_deref().map(token_refused),
            None => failures.last_error,
        },
        failed_attempts: failures.failed_attempts,
        refused: failures.refused,
    }
}

/// Returns the state of a peer that refuses this node's token in these words.
fn token_refused(why: &str) -> String {
    format!("called without a node token, which it refuses: {why}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Alerts and dashboards select by these values, and another test compares their selectors with the page.
    #[test]
    fn the_values_of_labels_are_those_that_the_page_lists() {
        let docs = include_str!("../../../docs/metrics.md");
        let listed = |family: &str| -> BTreeSet<&'static str> {
            let start = format!("| `{family}` |");
            let row = docs.lines().find(|line| line.starts_with(&start)).unwrap();
            let (_, values) = row.split_once('(').unwrap();
            values.split(')').next().unwrap().split(", ").collect()
        };
        let reasons = PeerError::ALL.into_iter().map(PeerError::label);
        let kinds: BTreeSet<_> = reasons.chain(["rule"]).collect();
        assert_eq!(listed("xmtp_verify_failures"), kinds);
        let counted = replicated(&ReplicationCounters::default()).into_iter();
        let results: BTreeSet<_> = counted.map(|(result, _)| result).collect();
        assert_eq!(listed("xmtp_replicated"), results);
    }
}
