//! Looks after one node all the time: whether it serves, how far it is, what it runs, how long it
//! takes to connect to it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use hawser_proto::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::{GetSyncCursorRequest, GetVersionRequest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Health, Node, Nodes};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A single failure may be a connection that had to be made anew.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(150);
/// Two of these in a row make a node that is silent one that is gone.
const LOOK_TIMEOUT: Duration = Duration::from_secs(4);
const CURSOR_EVERY: u32 = 5;
/// A node that was not seen to restart runs what it ran before.
const VERSION_EVERY: u32 = 600;

pub(super) fn begin(nodes: Nodes, node: &Arc<Node>, end: CancellationToken) {
    let watcher = Watcher { nodes, node: Arc::downgrade(node), rounds: 0, measured: None };
    tokio::spawn(async move {
        tokio::select! {
            () = end.cancelled() => {}
            () = watcher.run() => {}
        }
    });
}

struct Watcher {
    nodes: Nodes,
    /// Not an owner: the node ends when nobody uses it.
    node: Weak<Node>,
    rounds: u32,
    measured: Option<Instant>,
}

impl Watcher {
    async fn run(mut self) {
        while let Some(node) = self.node.upgrade() {
            let came_up = self.look(&node).await;
            if came_up || (self.rounds.is_multiple_of(VERSION_EVERY) && !node.is_down()) {
                ask_version(&node, came_up).await;
            }
            if self.rounds.is_multiple_of(CURSOR_EVERY) && !node.is_down() {
                self.ask_cursor(&node).await;
            }
            self.measure(&node).await;
            self.rounds = self.rounds.wrapping_add(1);
            drop(node);
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether it serves and did not before.
    async fn look(&self, node: &Node) -> bool {
        let mut healthy = is_serving(node).await;
        if !healthy {
            sleep(LOOK_AGAIN_AFTER).await;
            healthy = is_serving(node).await;
        }
        let now = if healthy { Health::Up } else { Health::Down };
        let before = node.health.send_replace(now);
        let node_id = node.id().0;
        match (before, now) {
            (Health::Up | Health::Unknown, Health::Down) => {
                tracing::warn!(node_id, "a node does not serve: others are used");
            }
            (Health::Down, Health::Up) => tracing::info!(node_id, "a node serves again"),
            _ => {}
        }
        before != now && now == Health::Up
    }

    /// Nodes that don't tell are taken to be as far as the others.
    async fn ask_cursor(&self, node: &Node) {
        let mut client = MetadataApiClient::new(node.aside.clone());
        let asked = timeout(LOOK_TIMEOUT, client.get_sync_cursor(GetSyncCursorRequest {})).await;
        if let Ok(Ok(told)) = asked
            && let Some(cursor) = told.into_inner().latest_sync
        {
            self.nodes.told_cursor(node.id(), &Cursor::from(&cursor));
        }
    }

    async fn measure(&mut self, node: &Node) {
        let make = &self.nodes.0.make;
        let Some(every) = make.connect_time_every else { return };
        if self.measured.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.measured = Some(Instant::now());
        let time = connect_time(&node.record.http_address, make.connect_timeout).await;
        // Whoever cannot be reached is not the closest, but somebody has to be.
        let is_last = || self.nodes.all().values().all(|it| it.id() == node.id() || !it.is_timed());
        if time.is_some() || !is_last() {
            node.set_connect_time(time);
        }
    }
}

/// Nodes that don't tell are used all the same. What one told before is forgotten if it may have
/// restarted since.
async fn ask_version(node: &Node, may_be_another: bool) {
    let mut client = MetadataApiClient::new(node.aside.clone());
    let asked = timeout(LOOK_TIMEOUT, client.get_version(GetVersionRequest {})).await;
    let told = asked.ok().and_then(Result::ok).map(|told| told.into_inner().version);
    if told.is_some() || may_be_another {
        node.tells_version(told.as_deref());
    }
}

async fn is_serving(node: &Node) -> bool {
    let mut client = HealthClient::new(node.aside.clone());
    let asked = timeout(LOOK_TIMEOUT, client.check(HealthCheckRequest::default())).await;
    matches!(asked, Ok(Ok(told)) if told.get_ref().status() == ServingStatus::Serving)
}

async fn connect_time(address: &str, limit: Duration) -> Option<Duration> {
    let uri: http::Uri = address.parse().ok()?;
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let target =
        (uri.host()?.trim_matches(['[', ']']).to_owned(), uri.port_u16().unwrap_or(default));
    let since = Instant::now();
    timeout(limit, TcpStream::connect(target)).await.ok()?.ok()?;
    Some(since.elapsed())
}
