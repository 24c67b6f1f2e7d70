//! Reports of nodes that do not answer as they should: the task that looks for them.

use std::sync::Arc;
use std::time::Duration;

use hawser_rules::misbehavior::MisbehaviorKind;
use hawser_rules::misbehavior::report::own_liveness_report;
use tokio::time::MissedTickBehavior;

use super::state::{ReplicationState, now};
use crate::liveness::{Complaint, LivenessWatch, OtherNode};
use crate::runtime::stop::StopSignal;
use crate::runtime::stoppable::blocking;

/// Interval of looks. A guess: a tenth of the silence that is a fault.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks at the other nodes of the network until it is stopped, and reports those that do not answer.
pub(super) async fn watch(state: Arc<ReplicationState>, mut stopped: StopSignal) {
    let mut watch = LivenessWatch::default();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped.stopped() => return,
            _ = looks.tick() => {}
        }
        let complaints = look(&state, &mut watch);
        if complaints.is_empty() {
            continue;
        }
        let state = state.clone();
        blocking(move || report(&state, &complaints)).await;
    }
}

fn look(state: &ReplicationState, watch: &mut LivenessWatch) -> Vec<Complaint> {
    let registry = state.ports.registry.borrow().clone();
    let wall_ns = state.ports.clock.now_ns();
    let is_member = registry.member(state.own).is_some();
    let is_clock_right = state.publisher.own_clock().check(wall_ns).is_ok();
    let heads = state.heads.get();
    let others = registry.nodes().filter(|node| node.canonical && node.id != state.own);
    let now = now();
    let seen = others.filter(|node| node.id.is_node()).map(|node| {
        let noted = state.liveness.of(node.id);
        let head = state.peers.own_head(node.id);
        let (is_connected, claimed) = (head.is_some(), head.unwrap_or_default());
        let has_address = node.http_address.is_some() || node.quic_address.is_some();
        let not_dialled_at = if has_address { noted.not_dialled_at } else { Some(now) };
        let dialled_at = noted.dialled_at.filter(|_| has_address);
        let held = heads.get(node.id);
        (node.id, OtherNode { is_connected, claimed, held, not_dialled_at, dialled_at, ..noted })
    });
    watch.look(now, wall_ns, is_member && is_clock_right, &seen.collect())
}

/// Keeps a report of each complaint. A report that cannot be stored now is made again in the next slot.
fn report(state: &ReplicationState, complaints: &[Complaint]) {
    let time_ns = u64::try_from(state.ports.clock.now_ns()).unwrap_or(0);
    let heads = state.heads.get();
    let reports = complaints.iter().filter_map(|&Complaint { accused, kind, waited }| {
        let name = kind.as_str_name();
        tracing::warn!(
            code = "node_not_answering",
            %accused,
            kind = name,
            waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            "another node does not answer as it should: this node reports it"
        );
        let counted = &state.engine_counters.liveness;
        match kind {
            MisbehaviorKind::SlowNode => counted.slow.inc(),
            MisbehaviorKind::FailedRequest => counted.failed.inc(),
            _ => counted.unresponsive.inc(),
        };
        let report =
            own_liveness_report(time_ns, accused, kind, heads.get(accused), waited.as_nanos());
        report.inspect_err(|error| tracing::warn!(%accused, %error, "no report can be made")).ok()
    });
    if let Err(error) = state.reports.keep_own(reports.collect()) {
        tracing::error!(code = "reports_failed", %error, "reports cannot be stored now");
    }
}
