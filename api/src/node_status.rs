//! The status of a node: one health level, its reasons, and the observations behind them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use hawser_engine::Engine;
use hawser_engine::misbehavior::is_ahead;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId};
use hawser_serve::BuildInfo;
use hawser_serve::readiness::{Condition, Purpose, Readiness, ReadyPurposes};
use parking_lot::Mutex;
use serde::Serialize;

use crate::backup_status::BackupReport;
use crate::chain_status::ChainReport;
use crate::clock_warning;
use crate::conditions::READS_ONLY;
use crate::disk_trend::DiskTrend;
use crate::lag::LagTracker;
use crate::misbehavior_page::{self, FactCounts, KeptReports};
use crate::payer_report_status::{PayerReportCounts, StageReport};
use crate::views::{BackupsView, ChainState, ChainsView, DiskSpace, DiskView, PeerState, PeerView};

/// Envelopes that a strand may be behind before the node is degraded. A guess: seconds of a busy
/// network.
const LAG_ENVELOPES_MAX: u64 = 1000;
/// Seconds that a strand may be behind before the node is degraded. A guess: longer than the minute for which a gap
/// is searched, and the time to store the envelopes after it. Nodes of other software leave places empty in normal
/// operation.
const LAG_S_MAX: f64 = 90.0;

/// Observes a node. Cheap to clone; observing blocks on the disk.
#[derive(Clone)]
pub(crate) struct NodeObserver {
    pub(crate) engine: Engine,
    pub(crate) readiness: Readiness,
    pub(crate) peers: Arc<dyn PeerView>,
    pub(crate) disk: Option<Arc<dyn DiskView>>,
    pub(crate) chains: Option<Arc<dyn ChainsView>>,
    pub(crate) backups: Option<Arc<dyn BackupsView>>,
    /// `None` if this node does not work on payer reports.
    pub(crate) payer_reports: Option<Arc<PayerReportCounts>>,
    pub(crate) build: Arc<BuildInfo>,
    /// The moment of `build.started_ns`. The wall clock may be set while the process runs.
    pub(crate) started: Instant,
    pub(crate) newest: Arc<NewestTimes>,
    pub(crate) lags: Arc<LagTracker>,
    pub(crate) disk_trend: Arc<DiskTrend>,
}

/// The observations of one moment.
pub(crate) struct NodeStatus {
    pub(crate) ready: ReadyPurposes,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) level: HealthLevel,
    pub(crate) reasons: Vec<String>,
    pub(crate) originators: Vec<OriginatorReport>,
    pub(crate) peers: Vec<PeerReport>,
    pub(crate) chains: Vec<ChainState>,
    pub(crate) disk: DiskReport,
}

/// The health of a node; greater is worse. Operators see its number and its name as *verdict*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HealthLevel {
    /// Nothing to do.
    Ok,
    /// The node serves, and the operator should look at the reasons.
    Degraded,
    /// The node does not serve its purpose.
    Failing,
}

/// A strand in `/status`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OriginatorReport {
    pub(crate) originator_id: u32,
    /// The highest sequence id that is durable here.
    pub(crate) position: u64,
    /// The highest sequence id that this node or a peer holds.
    pub(crate) network_position: u64,
    /// Envelopes that a peer claims and this node lacks, without places that are declared void.
    pub(crate) lag_envelopes: u64,
    /// Time since a peer first claimed an envelope that this node lacks, seconds.
    pub(crate) lag_s: f64,
    /// The peer that the strand is pulled from; absent for this node's own strand and for those of the
    /// chains.
    pub(crate) source_node_id: Option<u32>,
    /// Envelopes that peers have sent; absent for a strand that is not pulled.
    pub(crate) received: Option<u64>,
    /// Searches for places that the strand passed over; absent for a strand that is not pulled.
    pub(crate) searches: Option<u64>,
    /// `position`, if a peer has sent an envelope behind it that no node takes; absent otherwise.
    pub(crate) refused_after: Option<u64>,
    /// Time of the newest envelope by its originator's clock.
    pub(crate) last_envelope_ns: Option<i64>,
    pub(crate) last_envelope_age_s: Option<f64>,
    /// Number of leaves of the strand's tree; below `position` while the tree is being built or an earlier place is
    /// undecided. Absent if it cannot be read.
    pub(crate) tree_size: Option<u64>,
    /// The newest cosigned checkpoint that the originator, or for a chain this node, signed; absent if there is none.
    pub(crate) checkpoint: Option<CheckpointReport>,
    /// Ranges of places that the originator has declared void, as they became known here.
    pub(crate) declared_void: Vec<VoidReport>,
}

/// Places that their originator has declared void, in `/status`.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct VoidReport {
    pub(crate) from: u64,
    pub(crate) through: u64,
    /// Time of the statement by its originator's clock.
    pub(crate) time_ns: u64,
}

impl From<&SignedVoid> for VoidReport {
    fn from(signed: &SignedVoid) -> Self {
        let VoidStatement { from, through, time_ns, .. } = signed.statement;
        Self { from: from.0, through: through.0, time_ns }
    }
}

/// A checkpoint in `/status`.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct CheckpointReport {
    pub(crate) node_id: u32,
    pub(crate) size: u64,
    /// Time of the checkpoint by its node's clock.
    pub(crate) time_ns: u64,
    /// Nodes whose cosignatures are held here.
    pub(crate) cosigned_by: usize,
    /// Nodes of the network that could have cosigned it.
    pub(crate) cosigners: usize,
}

/// A peer in `/status`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PeerReport {
    pub(crate) node_id: u32,
    pub(crate) address: String,
    pub(crate) connected: bool,
    /// `quic` or `grpc`, while there is a connection.
    pub(crate) transport: Option<&'static str>,
    pub(crate) round_trip_s: Option<f64>,
    pub(crate) last_error: Option<String>,
    pub(crate) failed_attempts: u64,
    pub(crate) refused: u64,
}

/// The disk in `/status`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DiskReport {
    pub(crate) log_bytes: u64,
    pub(crate) free_bytes: Option<u64>,
    pub(crate) total_bytes: Option<u64>,
    /// Days until the disk is full if it fills as in the last day; absent in the first hour, and while it does not
    /// fill.
    pub(crate) days_left: Option<f64>,
    pub(crate) scrub: ScrubPage,
}

/// Scrubs in `/status`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ScrubPage {
    running: bool,
    /// End of the last complete scrub; absent before the first one.
    finished_unix_s: Option<i64>,
    /// Rows that the last scrub has read.
    rows: u64,
    /// Bytes that the last scrub has read.
    bytes: u64,
    /// Damaged parts that were found since the start.
    damages: u64,
    /// Damaged parts that were repaired since the start.
    repaired: u64,
    /// Damaged parts that the last scrub has not repaired.
    left: u64,
}

/// The page at `/status`.
#[derive(Debug, Serialize)]
pub(crate) struct StatusPage {
    verdict: HealthLevel,
    reasons: Vec<String>,
    version: String,
    commit: String,
    /// Absent for a replica, which has no id.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<u32>,
    /// `primary` or `replica`, as in the metric `xmtp_node_info`.
    role: &'static str,
    network: String,
    started_unix_s: i64,
    uptime_s: u64,
    ready: BTreeMap<&'static str, bool>,
    conditions: Vec<Condition>,
    originators: Vec<OriginatorReport>,
    /// Inboxes with updates that wait for a contract wallet's chain.
    inboxes_waiting: u64,
    /// Updates, since the start, that were marked invalid because their contract wallet could not be asked in time.
    /// Other nodes may have received an answer.
    updates_unanswered: u64,
    /// Envelopes of other nodes, since the start, that readers could read before verification, and that failed it.
    envelopes_withdrawn: u64,
    peers: Vec<PeerReport>,
    chains: Vec<ChainReport>,
    /// The last counts of payer reports by stage; absent if this node does not work on them.
    #[serde(skip_serializing_if = "Option::is_none")]
    payer_reports: Option<StageReport>,
    disk: DiskReport,
    /// Absent if this process records no backups, as in tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    backups: Option<BackupReport>,
    /// Numbers of proven facts by accused node. `/misbehavior` shows the facts.
    misbehavior: BTreeMap<u32, FactCounts>,
    /// Reports of misbehaviour that this node keeps.
    misbehavior_reports: KeptReports,
}

impl NodeObserver {
    /// Observes the node now. Blocks on the disk.
    pub(crate) fn observe(&self) -> NodeStatus {
        let conditions = self.readiness.evaluate();
        let ready = ReadyPurposes::of(&conditions);
        let peers = self.peers.peers();
        let originators = self.originators(&peers);
        let (level, reasons) = assess(&conditions, &originators, &peers);
        NodeStatus {
            ready,
            level,
            reasons,
            originators,
            peers: peers.into_iter().map(PeerReport::from).collect(),
            chains: self.chains.as_ref().map(|chains| chains.chains()).unwrap_or_default(),
            disk: self.disk_report(),
            conditions,
        }
    }

    /// Returns the page at `/status`. Blocks on the disk.
    pub(crate) fn page(&self) -> StatusPage {
        let status = self.observe();
        let identity = self.engine.store().identity();
        let is_replica = identity.node == OriginatorId::REPLICA;
        StatusPage {
            verdict: status.level,
            reasons: status.reasons,
            version: self.build.version.clone(),
            commit: self.build.commit.clone(),
            node_id: (!is_replica).then_some(identity.node.0),
            role: if is_replica { "replica" } else { "primary" },
            network: identity.network.clone(),
            started_unix_s: self.build.started_unix_s(),
            uptime_s: self.started.elapsed().as_secs(),
            ready: Purpose::ALL
                .map(|purpose| (purpose.label(), status.ready.contains(purpose)))
                .into(),
            conditions: status.conditions,
            originators: status.originators,
            inboxes_waiting: self.engine.chain_appender().inboxes_waiting(),
            updates_unanswered: self.engine.counters().identities.unanswered.get(),
            envelopes_withdrawn: self.engine.counters().withdrawn.get(),
            peers: status.peers,
            chains: status.chains.iter().map(ChainReport::from).collect(),
            payer_reports: self.stage_report(),
            disk: status.disk,
            backups: self.backup_report(),
            misbehavior: misbehavior_page::counts(&self.engine),
            misbehavior_reports: misbehavior_page::kept_reports(&self.engine),
        }
    }

    /// Returns the last counts of payer reports; `None` if this node does not work on them.
    pub(crate) fn stage_report(&self) -> Option<StageReport> {
        self.payer_reports.as_ref().map(|counts| counts.report(self.now_s()))
    }

    /// Returns the report of backups from the records of this machine's commands. Reads three small files.
    pub(crate) fn backup_report(&self) -> Option<BackupReport> {
        let notes = self.backups.as_ref()?.backups();
        Some(BackupReport::new(notes, self.now_s()))
    }

    /// Records the positions of this node and its peers, from which the ages of lags follow. The time between two
    /// calls is the error of an age.
    pub(crate) fn note_lags(&self) {
        let (own, network) = self.positions(&self.peers.peers());
        let now_ns = self.engine.ports().clock.now_ns();
        let voids = self.void_statements();
        for furthest in network.iter() {
            let held = EnvelopeId { sequence: own.get(furthest.originator), ..furthest };
            self.lags.note(now_ns, held, furthest.sequence, &voids);
        }
    }

    /// Returns true if this machine's clock differs from other clocks, and warns when that begins: if `was_off` is
    /// false.
    pub(crate) fn warn_of_clock(&self, was_off: bool) -> bool {
        clock_warning::check_and_warn(&self.engine.clock_leads(), was_off)
    }

    /// Records the free space of the disk, for the estimate of the days left. Takes at most one sample in ten
    /// minutes.
    pub(crate) fn note_disk(&self) {
        let now_s = self.now_s();
        if !self.disk_trend.is_due(now_s) {
            return;
        }
        if let Some(space) = self.disk.as_ref().and_then(|disk| disk.space()) {
            self.disk_trend.note(now_s, space.free_bytes);
        }
    }

    /// Returns the time, unix seconds.
    pub(crate) fn now_s(&self) -> i64 {
        self.engine.ports().clock.now_ns() / 1_000_000_000
    }

    /// Returns the positions of this node, and the highest known ones.
    fn positions(&self, peers: &[PeerState]) -> (Arc<Cursor>, Cursor) {
        let own = self.engine.heads().get();
        let mut network = Cursor::clone(&own);
        peers.iter().for_each(|peer| network.merge(&peer.clock));
        (own, network)
    }

    /// Returns the statements about void places that this node has verified; none if they cannot be read.
    fn void_statements(&self) -> Vec<SignedVoid> {
        self.engine.store().void_statements().unwrap_or_default()
    }

    /// Reports the strands of this node and of its peers, by originator.
    fn originators(&self, peers: &[PeerState]) -> Vec<OriginatorReport> {
        let (own, network) = self.positions(peers);
        let now_ns = self.engine.ports().clock.now_ns();
        let strands = self.peers.strands();
        let snapshot = self.engine.store().snapshot();
        let voids = self.void_statements();
        let report = |furthest: EnvelopeId| {
            let held = EnvelopeId { sequence: own.get(furthest.originator), ..furthest };
            let last_ns = self.newest.time_of(&self.engine, held);
            let strand = strands.iter().find(|strand| strand.originator == furthest.originator);
            let (lag_envelopes, lag_s) = self.lags.note(now_ns, held, furthest.sequence, &voids);
            OriginatorReport {
                originator_id: furthest.originator.0,
                position: held.sequence.0,
                network_position: furthest.sequence.0,
                lag_envelopes,
                lag_s,
                source_node_id: strand.and_then(|strand| strand.source).map(|source| source.0),
                received: strand.map(|strand| strand.received),
                searches: strand.map(|strand| strand.searches),
                refused_after: strand
                    .filter(|strand| !strand.refused_behind(held.sequence).is_empty())
                    .map(|_| held.sequence.0),
                last_envelope_ns: last_ns,
                last_envelope_age_s: last_ns.map(|ns| now_ns.saturating_sub(ns) as f64 / 1e9),
                tree_size: snapshot.tree_size(furthest.originator).ok(),
                checkpoint: self.checkpoint(furthest.originator),
                declared_void: {
                    let node = furthest.originator;
                    let of = voids.iter().filter(|it| it.statement.node == node);
                    of.map(VoidReport::from).collect()
                },
            }
        };
        network.iter().map(report).collect()
    }

    /// Returns the newest checkpoint of a strand by its originator; of a chain's strand by this node.
    fn checkpoint(&self, originator: OriginatorId) -> Option<CheckpointReport> {
        let own = self.engine.store().identity().node;
        let node = if originator.is_node() { originator } else { own };
        let snapshot = self.engine.store().snapshot();
        let found = snapshot.cosigned_checkpoint(originator, node).ok().flatten()?;
        let of = found.signed.checkpoint;
        let registry = self.engine.ports().registry.borrow().clone();
        let others = registry.nodes().filter(|it| it.canonical && it.id != node);
        Some(CheckpointReport {
            node_id: node.0,
            size: of.size,
            time_ns: of.time_ns,
            cosigned_by: found.cosignatures.len(),
            cosigners: others.count(),
        })
    }

    fn scrub_page(&self) -> ScrubPage {
        let status = self.engine.scrubs().status();
        let counters = &self.engine.counters().scrub;
        ScrubPage {
            running: status.is_running,
            finished_unix_s: status.finished_unix_s,
            rows: status.rows,
            bytes: status.bytes,
            damages: counters.damages.get(),
            repaired: counters.repaired.get(),
            left: status.left_count,
        }
    }

    fn disk_report(&self) -> DiskReport {
        let space = self.disk.as_ref().and_then(|disk| disk.space());
        let left = |space: DiskSpace| self.disk_trend.days_left(self.now_s(), space.free_bytes);
        DiskReport {
            log_bytes: self.engine.store().disk_bytes(),
            free_bytes: space.map(|space| space.free_bytes),
            total_bytes: space.map(|space| space.total_bytes),
            days_left: space.and_then(left),
            scrub: self.scrub_page(),
        }
    }
}

impl From<PeerState> for PeerReport {
    fn from(peer: PeerState) -> Self {
        Self {
            node_id: peer.node.0,
            address: peer.address,
            connected: peer.connected,
            transport: peer.transport,
            round_trip_s: peer.round_trip.map(|round_trip| round_trip.as_secs_f64()),
            last_error: peer.last_error,
            failed_attempts: peer.failed_attempts,
            refused: peer.refused,
        }
    }
}

/// Returns the worst level of all findings, and the findings, worst first.
fn assess(
    conditions: &[Condition],
    originators: &[OriginatorReport],
    peers: &[PeerState],
) -> (HealthLevel, Vec<String>) {
    // A replica is sound without publishing.
    let unmet = conditions.iter().filter(|it| !it.met && it.name != READS_ONLY).map(|it| {
        // A node that only cannot publish still serves readers. A broken log affects readers, too, and a second
        // process with the same key does harm as long as it runs.
        let publish_only = it.purpose >= Some(Purpose::Publish)
            && !["log_writable", "sole_signer"].contains(&it.name);
        let level = if publish_only { HealthLevel::Degraded } else { HealthLevel::Failing };
        (level, format!("{}: {}", it.name, it.reason.as_deref().unwrap_or("not met")))
    });
    let lags =
        |it: &&OriginatorReport| it.lag_envelopes > LAG_ENVELOPES_MAX || it.lag_s > LAG_S_MAX;
    let behind = originators.iter().filter(lags).map(|it| {
        let OriginatorReport { originator_id, lag_envelopes, lag_s, .. } = it;
        let text = format!(
            "originator {originator_id}: {lag_envelopes} envelopes behind for {lag_s:.0} s"
        );
        (HealthLevel::Degraded, text)
    });
    let down = peers.iter().filter(|peer| !peer.connected).map(|peer| {
        let why = peer.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        (HealthLevel::Degraded, format!("peer {}: no connection{why}", peer.node))
    });
    let mut all: Vec<_> = unmet.chain(behind).chain(down).collect();
    all.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    let level = all.first().map_or(HealthLevel::Ok, |(level, _)| *level);
    (level, all.into_iter().map(|(_, reason)| reason).collect())
}

/// A cache of the times of newest envelopes, one entry for each originator.
#[derive(Debug, Default)]
pub(crate) struct NewestTimes {
    known: Mutex<BTreeMap<u32, (SequenceId, Option<i64>)>>,
}

impl NewestTimes {
    /// Returns the time of the envelope at `head`, or the last known time if that place is a gap or the envelope's
    /// time is in the future: such a time must not make a stalled strand look fresh.
    fn time_of(&self, engine: &Engine, head: EnvelopeId) -> Option<i64> {
        let now_ns = engine.ports().clock.now_ns();
        let mut known = self.known.lock();
        let entry = known.entry(head.originator.0).or_default();
        if entry.0 != head.sequence {
            let read = engine.store().snapshot().get(head).ok().flatten();
            let time = read.and_then(|stored| OriginatorEnvelope::stated_ns(&stored));
            let time = time.filter(|&ns| !is_ahead(ns, now_ns));
            *entry = (head.sequence, time.or(entry.1));
        }
        entry.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(name: &'static str, purpose: Purpose, met: bool) -> Condition {
        let reason = (!met).then(|| "because".to_owned());
        Condition { name, purpose: Some(purpose), met, since_unix_s: 0, reason, remedy: None }
    }

    fn lag(lag_envelopes: u64) -> OriginatorReport {
        OriginatorReport {
            originator_id: 200,
            position: 0,
            network_position: lag_envelopes,
            lag_envelopes,
            lag_s: 0.0,
            source_node_id: None,
            received: None,
            searches: None,
            refused_after: None,
            last_envelope_ns: None,
            last_envelope_age_s: None,
            tree_size: None,
            checkpoint: None,
            declared_void: Vec::new(),
        }
    }

    #[test]
    fn the_worst_finding_decides_and_comes_first() {
        let fine = condition("not_draining", Purpose::Read, true);
        let verdict = assess(std::slice::from_ref(&fine), &[lag(1000)], &[]);
        assert_eq!(verdict, (HealthLevel::Ok, vec![]));

        let rates = condition("rates_in_force", Purpose::Publish, false);
        let (verdict, reasons) = assess(&[fine, rates.clone()], &[lag(1001)], &[]);
        assert_eq!(verdict, HealthLevel::Degraded);
        assert_eq!(
            reasons,
            ["rates_in_force: because", "originator 200: 1001 envelopes behind for 0 s"]
        );
        let searched = OriginatorReport { lag_s: 65.0, ..lag(1) };
        assert_eq!(assess(&[], &[searched], &[]).0, HealthLevel::Ok, "a gap is searched");
        let long = OriginatorReport { lag_s: 91.0, ..lag(1) };
        assert_eq!(assess(&[], &[long], &[]).0, HealthLevel::Degraded);

        let paused = condition("app_chain_contracts_run", Purpose::Notice, false);
        assert_eq!(assess(&[paused], &[], &[]).0, HealthLevel::Degraded);
        let log = condition("log_writable", Purpose::Publish, false);
        let (verdict, reasons) = assess(&[rates, log], &[], &[]);
        assert_eq!(verdict, HealthLevel::Failing);
        assert_eq!(reasons[0], "log_writable: because");
    }
}
