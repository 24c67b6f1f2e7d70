//! The operators' port.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hawser_api::{
    ChainState, ChainsView, DiskSpace, DiskView, NoPeers, PeerCounts, PeerState, PeerView,
    StrandState,
};
use hawser_engine::misbehavior::{Evidence, Misbehavior};
use hawser_engine::ports::NodeRecord;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::void::VoidStatement;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, StatementDifference};
use hawser_serve::ChainListStatus;
use hawser_storage::DiskReserveSettings;
use parking_lot::Mutex;
use serde_json::Value;
use tonic::Code;

use crate::common::*;

/// One peer that is ahead and one that is gone.
struct TwoPeers;

impl PeerView for TwoPeers {
    fn peers(&self) -> Vec<PeerState> {
        let ahead = [
            EnvelopeId::new(OriginatorId(200), SequenceId(5000)),
            EnvelopeId::new(NODE, SequenceId(1)),
        ];
        let peer = |node, connected| PeerState {
            node: OriginatorId(node),
            address: "peer.example:5050".into(),
            connected,
            transport: connected.then_some("grpc"),
            round_trip: connected.then(|| Duration::from_millis(20)),
            clock: if connected { ahead.into_iter().collect() } else { Default::default() },
            last_error: (!connected).then(|| "timed out".into()),
            failed_attempts: if connected { 0 } else { 4 },
            refused: u64::from(connected),
        };
        vec![peer(200, true), peer(300, false)]
    }

    fn strands(&self) -> Vec<StrandState> {
        vec![StrandState {
            originator: OriginatorId(200),
            source: Some(OriginatorId(300)),
            received: 17,
            searches: 2,
            refused: None,
            searched_through: None,
        }]
    }

    fn counts(&self) -> PeerCounts {
        PeerCounts {
            dials: 3,
            refused: vec![("bad_proof", 2)],
            replicated: vec![("stored", 10)],
            ..PeerCounts::default()
        }
    }
}

/// Name, type and help of each family.
fn families(page: &str) -> BTreeMap<String, (String, String)> {
    let mut families: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().1 = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().0 = kind.to_owned();
        }
    }
    families
}

/// The tables of the documentation: name and type.
fn documented() -> BTreeMap<String, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let name = cells.next()?.trim_end_matches('`').to_owned();
            // OpenMetrics has no type for such a counter.
            let kind = match cells.next()? {
                "plain counter" => "unknown",
                kind => kind,
            };
            Some((name, kind.to_owned()))
        })
        .filter(|(_, kind)| ["counter", "gauge", "histogram", "unknown"].contains(&kind.as_str()))
        .collect()
}

#[tokio::test]
async fn the_scrape_shows_what_the_documentation_lists() {
    let node = node_with(|_| {}, Arc::new(TwoPeers)).await;
    let (kind, page) = node.scrape("application/openmetrics-text").await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(page.ends_with("\n# EOF\n"));
    let families = families(&page);
    let exported: BTreeMap<String, String> =
        families.iter().map(|(name, (kind, _))| (name.clone(), kind.clone())).collect();
    assert_eq!(exported, documented());
    assert!(page.contains("role=\"primary\"} 1\n"), "alerts select nodes by this label: {page}");
    for (name, (_, help)) in families {
        assert!(help.len() > 10, "{name} needs a help text");
        let mut units = ["seconds", "bytes"].into_iter().filter(|unit| name.ends_with(*unit));
        let says_it = units.all(|unit| help.to_lowercase().contains(unit));
        assert!(says_it, "{name} does not say its unit: {help}");
    }
    assert_eq!(node.page("/").await.0, 200);
}

/// The lines that are no comments, without values: those may change between two scrapes.
fn samples(page: &str) -> Vec<&str> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0).collect()
}

#[tokio::test]
async fn a_scraper_gets_the_format_that_it_asks_for_and_the_same_samples() {
    let node = node_with(|_| {}, Arc::new(TwoPeers)).await;
    let (_, open) = node.scrape("application/openmetrics-text;version=1.0.0,*/*;q=0.1").await;
    for accept in ["*/*", "text/plain", "text/plain, application/openmetrics-text;q=0.5"] {
        let (kind, text) = node.scrape(accept).await;
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8", "{accept}");
        assert!(!text.contains("# EOF") && text.ends_with('\n'));
        assert_eq!(samples(&text), samples(&open), "{accept}");
        // Each sample belongs to the family whose type precedes it.
        let families = families(&text);
        assert_eq!(families["xmtp_published_total"].0, "counter");
        assert_eq!(families["xmtp_sync_messages_received_count"].0, "counter");
        assert!(families.values().all(|(kind, help)| !kind.is_empty() && !help.is_empty()));
        for name in samples(&text) {
            let name = name.split('{').next().unwrap();
            let parts = ["_bucket", "_sum", "_count"].map(|part| name.strip_suffix(part));
            let is_known = |name: &str| families.contains_key(name);
            assert!(is_known(name) || parts.into_iter().flatten().any(is_known), "{name}");
        }
    }
}

#[tokio::test]
async fn calls_and_envelopes_are_counted() {
    let node = node().await;
    let labels = r#"{grpc_type="unary",grpc_service="xmtp.xmtpv4.message_api.ReplicationApi",grpc_method="PublishPayerEnvelopes""#;
    let request = pb::PublishPayerEnvelopesRequest {
        payer_envelopes: vec![message(1, "a"), message(1, "b")],
    };
    let mut client = node.replication().await;
    client.publish_payer_envelopes(request.clone()).await.unwrap();
    client.publish_payer_envelopes(request).await.unwrap();
    client.publish_payer_envelopes(pb::PublishPayerEnvelopesRequest::default()).await.unwrap_err();
    let expected = [
        (format!("grpc_server_started_total{labels}}}"), 3.0),
        (format!("grpc_server_msg_received_total{labels}}}"), 3.0),
        (format!("grpc_server_msg_sent_total{labels}}}"), 2.0),
        (format!("grpc_server_handled_total{labels},grpc_code=\"code_0\"}}"), 2.0),
        (format!("grpc_server_handled_total{labels},grpc_code=\"invalid_argument\"}}"), 1.0),
        (format!("grpc_server_handling_seconds_count{labels}}}"), 3.0),
        (r#"xmtp_api_outgoing_envelopes_total{method="/xmtp.xmtpv4.message_api.ReplicationApi/PublishPayerEnvelopes"}"#.into(), 4.0),
        (r#"xmtp_sync_originator_sequence_id{originator_id="100"}"#.into(), 2.0),
        ("xmtp_published_total".into(), 2.0),
        ("xmtp_publish_replayed_total".into(), 2.0),
        (r#"xmtp_publish_seconds_count{stage="total"}"#.into(), 2.0),
        (r#"xmtp_publish_seconds_count{stage="admit"}"#.into(), 2.0),
        (r#"xmtp_publish_seconds_count{stage="commit"}"#.into(), 1.0),
        ("xmtp_commit_group_envelopes_sum".into(), 2.0),
        (r#"xmtp_commit_group_envelopes_bucket{le="1.0"}"#.into(), 0.0),
        (r#"xmtp_commit_group_envelopes_bucket{le="2.0"}"#.into(), 1.0),
        (r#"db_query_duration_seconds_count{query="commit",op="write"}"#.into(), 1.0),
        (r#"xmtp_ready{for="publish"}"#.into(), 1.0),
        ("xmtp_status_verdict".into(), 0.0),
    ];
    for (sample, value) in expected {
        node.until_sample(&sample, value).await;
    }
}

#[tokio::test]
async fn names_that_callers_invent_are_no_labels() {
    let node = node().await;
    let channel = node.channel().await;
    for path in ["/made.up/One", "/made.up/Two"] {
        assert_eq!(call_raw(&channel, path, framed(&[])).await.0, Code::Unimplemented);
    }
    let (_, page) = node.page("/metrics").await;
    assert!(!page.contains("made.up"));
    let unknown = r#"grpc_server_started_total{grpc_type="unary",grpc_service="unknown",grpc_method="unknown"}"#;
    assert_eq!(node.sample(unknown).await, Some(2.0));
}

#[tokio::test]
async fn readiness_names_what_is_missing_since_when_and_what_to_do() {
    let node = node().await;
    for path in ["/livez", "/startupz", "/readyz", "/readyz?for=read", "/readyz?for=publish"] {
        assert_eq!(node.page(path).await.0, 200, "{path}");
    }
    node.clock.advance(90);
    node.set_registry([NodeRecord { id: OriginatorId(200), ..record() }]);
    let (status, page) = node.page("/readyz?for=publish").await;
    assert_eq!(status, 503);
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["ready"], false);
    let missing = condition_of(&page, "registry_record").unwrap();
    assert_eq!(missing["met"], false);
    assert_eq!(missing["since_unix_s"], 1_750_000_090);
    assert_eq!(missing["reason"], "the registry has no node 100");
    assert!(missing["remedy"].as_str().unwrap().contains("register"));
    let fine = condition_of(&page, "log_writable").unwrap();
    assert_eq!((&fine["met"], &fine["since_unix_s"]), (&true.into(), &1_750_000_000.into()));

    let (status, page) = node.page("/readyz").await;
    let all: Value = serde_json::from_str(&page).unwrap();
    assert_eq!((status, &all["ready"], &all["for"]), (200, &true.into(), &"read".into()));
    let listed = all["conditions"].as_array().unwrap();
    assert!(listed.contains(missing), "readers are served, and operators see the rest: {page}");
    let (_, page) = node.page("/readyz?for=read").await;
    assert!(!page.contains("registry_record"), "{page}");
    assert_eq!(node.page("/readyz?for=nonsense").await.0, 400);
    assert_eq!(node.page("/nonsense").await.0, 404);
    assert_eq!(node.page("/livez").await.0, 200);
}

/// The strand's node was promoted, and has published nothing behind its gap.
#[tokio::test]
async fn a_gap_that_is_declared_void_is_no_lag() {
    let node = node_with(|_| {}, Arc::new(TwoPeers)).await;
    node.publish(vec![message(1, "a")]).await;
    let (from, through) = (SequenceId(1), SequenceId(5000));
    let (time_ns, incarnation) = (5, [1; 16]);
    let void = VoidStatement { node: OriginatorId(200), from, through, time_ns, incarnation };
    node.engine.store().record_void_statements(&[void.sign(&node_key())]).unwrap();
    let page = node.status().await;
    assert_eq!(page["reasons"], serde_json::json!(["peer 300: no connection: timed out"]));
    let other = &page["originators"][1];
    assert_eq!((&other["lag_envelopes"], &other["lag_s"]), (&0.into(), &0.0.into()));
    assert_eq!((&other["position"], &other["network_position"]), (&0.into(), &5000.into()));
    assert_eq!(other["declared_void"][0]["through"], 5000);
    node.until_sample(r#"xmtp_originator_lag_envelopes{originator_id="200"}"#, 0.0).await;
}

/// A host whose clock is set after the node's start: the difference of two times of that clock is below 0 then.
#[tokio::test]
async fn the_uptime_does_not_follow_the_wall_clock() {
    let node = node().await;
    node.clock.advance(-86_400);
    let (_, page) = node.page("/status").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    assert!(page["uptime_s"].as_u64().is_some(), "{page}");
}

#[tokio::test]
async fn status_is_one_verdict_with_its_reasons() {
    let node = node_with(|settings| settings.commit = "abc".into(), Arc::new(TwoPeers)).await;
    node.publish(vec![message(1, "a"), message(1, "b")]).await;
    node.until_sample(r#"xmtp_originator_lag_seconds{originator_id="200"}"#, 0.0).await;
    node.clock.advance(10);
    let (status, page) = node.page("/status").await;
    assert_eq!(status, 200);
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["verdict"], "degraded");
    let reasons: Vec<&str> =
        page["reasons"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    let expected =
        ["originator 200: 5000 envelopes behind for 10 s", "peer 300: no connection: timed out"];
    assert_eq!(reasons, expected);
    assert_eq!(page["version"], "1.2.3");
    assert_eq!(page["commit"], "abc");
    assert_eq!((&page["node_id"], &page["role"]), (&100.into(), &"primary".into()));
    assert_eq!(page["network"], "test");
    assert_eq!(page["ready"]["publish"], true);
    let own = &page["originators"][0];
    assert_eq!((&own["originator_id"], &own["position"]), (&100.into(), &2.into()));
    assert_eq!(own["lag_envelopes"], 0);
    assert!(own["last_envelope_age_s"].as_f64().unwrap() >= 9.0);
    let other = &page["originators"][1];
    assert_eq!((&other["position"], &other["network_position"]), (&0.into(), &5000.into()));
    assert_eq!((&other["lag_s"], &other["source_node_id"]), (&10.0.into(), &300.into()));
    assert_eq!(page["peers"][1]["last_error"], "timed out");
    assert_eq!(page["peers"][0]["round_trip_s"], 0.02);

    node.engine.store().fail_next_write();
    node.engine.publish(vec![message(1, "c")]).await.unwrap_err();
    let page = node.status().await;
    assert_eq!(page["verdict"], "failing");
    assert!(page["reasons"][0].as_str().unwrap().starts_with("log_writable"));
}

/// A disk whose room a test decides.
struct Disk(AtomicU64);

impl DiskView for Disk {
    fn space(&self) -> Option<DiskSpace> {
        let free_bytes = self.0.load(Ordering::Relaxed);
        Some(DiskSpace { free_bytes, total_bytes: 1 << 40 })
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_stops_publishing_before_it_is_full() {
    let disk = Arc::new(Disk(AtomicU64::new(1 << 35)));
    let view = disk.clone();
    let node = node_with(|settings| settings.disk = Some(view), Arc::new(NoPeers)).await;
    let view = disk.clone();
    node.engine.store().keep_room(DiskReserveSettings {
        free_bytes_min: 1 << 30,
        free_bytes: Arc::new(move || view.space().map(|space| space.free_bytes)),
    });
    let mut client = node.publishing().await;
    let mut publish = async |text: &str| {
        let request = pb::PublishPayerEnvelopesRequest { payer_envelopes: vec![message(1, text)] };
        client.publish_payer_envelopes(request).await.map(|_| ())
    };
    publish("room").await.unwrap();
    disk.0.store(1 << 20, Ordering::Relaxed);
    assert_eq!(node.page("/readyz?for=publish").await.0, 503);
    let refused = publish("no room").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(node.sample("xmtp_disk_free_bytes").await, Some(f64::from(1 << 20)));
    assert_eq!(node.sample("xmtp_disk_total_bytes").await, Some(1_099_511_627_776.0));
    disk.0.store(1 << 35, Ordering::Relaxed);
    assert_eq!(node.page("/readyz?for=publish").await.0, 200);
    publish("room again").await.unwrap();
}

/// A chain that is there, and whose rates a test decides about.
struct Chain(Mutex<ChainListStatus>);

impl Chain {
    fn rates(&self, failing_for_s: Option<u64>) {
        let mut list = self.0.lock();
        list.failing_for = failing_for_s.map(Duration::from_secs);
        list.fault = failing_for_s.map(|_| "the endpoint is tired".into());
        list.failures += u64::from(failing_for_s.is_some());
    }
}

impl ChainsView for Chain {
    fn chains(&self) -> Vec<ChainState> {
        let list = |name| ChainListStatus {
            name,
            age: Duration::from_secs(61),
            failing_for: None,
            failing_max: Duration::from_secs(60),
            fault: None,
            failures: 0,
        };
        vec![ChainState {
            lists: vec![list("node_registry"), self.0.lock().clone()],
            ..chain_in_reach("settlement")
        }]
    }
}

#[tokio::test]
async fn lists_that_could_not_be_read_for_long_stop_publishing_until_they_are_read() {
    let chain = Arc::new(Chain(Mutex::new(ChainListStatus {
        name: "rate_registry",
        age: Duration::from_secs(3601),
        failing_for: None,
        failing_max: Duration::from_secs(3300),
        fault: None,
        failures: 0,
    })));
    let view = chain.clone();
    let node = node_with(|settings| settings.chains = Some(view), Arc::new(NoPeers)).await;
    let listed = async || {
        let (status, page) = node.page("/readyz?for=publish").await;
        let page: Value = serde_json::from_str(&page).unwrap();
        let conditions = page["conditions"].as_array().unwrap();
        let unmet = conditions.iter().filter(|it| it["met"] == false).count();
        let listed = condition_of(&page, "settlement_chain_lists_read").unwrap().clone();
        assert_eq!(listed["for"], "publish");
        assert_eq!((status == 200, unmet == 0), (listed["met"] == true, listed["met"] == true));
        listed
    };
    let mut client = node.publishing().await;
    let mut publish = async |text: &str| {
        let request = pb::PublishPayerEnvelopesRequest { payer_envelopes: vec![message(1, text)] };
        client.publish_payer_envelopes(request).await.map(|_| ())
    };
    let failures = r#"xmtp_chain_list_failures_total{list="rate_registry"}"#;
    assert_eq!(listed().await["met"], true);
    chain.rates(Some(3300));
    assert_eq!(listed().await["met"], true, "longer than the chain may be out of reach");
    publish("by what was read last").await.unwrap();
    let status = node.status().await;
    assert_eq!(status["chains"][0]["lists"][1]["fault"], "the endpoint is tired");
    assert_eq!(node.sample(failures).await, Some(1.0));

    node.clock.advance(90);
    chain.rates(Some(3301));
    let condition = listed().await;
    assert_eq!(condition["met"], false);
    assert_eq!(condition["since_unix_s"], 1_750_000_090);
    let reason = "the rate_registry was last read 3601 s ago: the endpoint is tired";
    assert_eq!(condition["reason"], reason);
    assert!(condition["remedy"].as_str().unwrap().contains("RPC"));
    let refused = publish("a price may have changed").await.unwrap_err();
    let told = "this node's condition settlement_chain_lists_read is not met: try another node";
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, told), "no endpoint");
    assert_eq!(node.page("/readyz").await.0, 200, "it goes on reading");

    chain.rates(None);
    assert_eq!(listed().await["met"], true);
    publish("as before").await.unwrap();
    assert_eq!(node.sample(failures).await, Some(2.0), "they have happened");
}

#[tokio::test]
async fn operators_are_served_also_where_clients_are_not() {
    let node = node_with(|settings| settings.listen = None, Arc::new(NoPeers)).await;
    assert_eq!(node.api.address(), None);
    for path in ["/livez", "/startupz", "/readyz", "/metrics", "/status"] {
        assert_eq!(node.page(path).await.0, 200, "{path}");
    }
    node.publish(vec![message(1, "a")]).await;
    let head = r#"xmtp_sync_originator_sequence_id{originator_id="100"}"#;
    assert_eq!(node.sample(head).await, Some(1.0));
    node.api.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let node = node().await;
    let address = node.api.metrics_address().unwrap();
    let request =
        b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let answer = Http1Answer::read(exchange(address, request).await);
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn strands_and_peers_are_told_by_their_ids() {
    let node = node_with(|_| {}, Arc::new(TwoPeers)).await;
    let expected = [
        (r#"xmtp_peer_source{originator_id="200",via="300"}"#, 1.0),
        (r#"xmtp_sync_messages_received_count{originator_id="200"}"#, 17.0),
        (r#"xmtp_originator_searches_total{originator_id="200"}"#, 2.0),
        (r#"xmtp_sync_messages_received_error_count{originator_id="200"}"#, 1.0),
        (r#"xmtp_sync_failed_outgoing_sync_connections_counter{originator_id="300"}"#, 4.0),
        (r#"xmtp_originator_lag_envelopes{originator_id="200"}"#, 5000.0),
    ];
    for (sample, value) in expected {
        assert_eq!(node.sample(sample).await, Some(value), "{sample}");
    }
    let (_, page) = node.page("/metrics").await;
    assert!(
        !page.contains(r#"xmtp_peer_source{originator_id="100""#),
        "its own strand has no source"
    );
}

#[tokio::test]
async fn a_scrape_of_twenty_strands_stays_small() {
    struct Many;
    impl PeerView for Many {
        fn peers(&self) -> Vec<PeerState> {
            let ids = (1..=20).map(|it| EnvelopeId::new(OriginatorId(it * 100), SequenceId(7)));
            vec![PeerState {
                node: OriginatorId(200),
                address: String::new(),
                connected: true,
                transport: Some("quic"),
                round_trip: None,
                clock: ids.collect(),
                last_error: None,
                failed_attempts: 0,
                refused: 0,
            }]
        }

        fn strands(&self) -> Vec<StrandState> {
            Vec::new()
        }

        fn counts(&self) -> PeerCounts {
            PeerCounts::default()
        }
    }
    let node = node_with(|_| {}, Arc::new(Many)).await;
    let (_, page) = node.page("/metrics").await;
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
    assert!(page.contains(r#"xmtp_originator_lag_envelopes{originator_id="2000"} 7"#));
}

#[tokio::test]
async fn evidence_against_nodes_is_shown_and_counted() {
    let node = node().await;
    let (status, page) = node.page("/misbehavior").await;
    assert_eq!(status, 200);
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["misbehavior"].as_array().unwrap().len(), 0);
    let at = EnvelopeId::new(OriginatorId(300), SequenceId(7));
    let fault = |misbehavior| Evidence {
        misbehavior,
        at,
        from: Some(OriginatorId(200)),
        envelopes: vec![b"first".as_slice().into(), b"second".as_slice().into()],
    };
    let all = [Misbehavior::TwoStatements(StatementDifference::Metadata), Misbehavior::TimeAhead]
        .map(fault);
    node.engine.store().record_evidence(5, &all).unwrap();

    let page: Value = serde_json::from_str(&node.page("/misbehavior").await.1).unwrap();
    let first = &page["misbehavior"][0];
    assert_eq!((&first["position"], &first["kind"]), (&"5.0".into(), &5.into()));
    assert_eq!((&first["misbehaving_node_id"], &first["from_node_id"]), (&300.into(), &200.into()));
    assert_eq!((&first["verdict"], &first["severity"]), (&"proven".into(), &"metadata".into()));
    assert_eq!(first["envelopes"][1], hex::encode("second"));
    let rest: Value = serde_json::from_str(&node.page("/misbehavior?after=5.0").await.1).unwrap();
    assert_eq!(rest["misbehavior"].as_array().unwrap().len(), 1);
    assert_eq!(rest["misbehavior"][0]["verdict"], "claim");
    assert_eq!(node.page("/misbehavior?after=x").await.0, 400);

    let status = node.status().await;
    assert_eq!(status["misbehavior"]["300"]["proven"], 1);
    assert_eq!(status["misbehavior"]["300"]["claims"], 1);
    let metrics = node.page("/metrics").await.1;
    let line = r#"xmtp_misbehavior_facts{originator_id="300",verdict="proven"} 1"#;
    assert!(metrics.contains(line), "{metrics}");

    // Proof that finds no room is counted.
    let back = |sequence| Evidence {
        at: EnvelopeId::new(OriginatorId(300), SequenceId(sequence)),
        ..fault(Misbehavior::TimeBack)
    };
    let many: Vec<Evidence> = (1..=10_001).map(back).collect();
    node.engine.store().record_evidence(5, &many).unwrap();
    let metrics = node.page("/metrics").await.1;
    let line = r#"xmtp_misbehavior_left_out_total{originator_id="300",piece="evidence"} 2"#;
    assert!(metrics.contains(line), "{metrics}");
}

/// Two peers that hold as much of the strand of node 200, and the place behind which no node takes what both send.
struct TwoWitnesses(Option<u64>);

impl PeerView for TwoWitnesses {
    fn peers(&self) -> Vec<PeerState> {
        let held = EnvelopeId::new(OriginatorId(200), SequenceId(3));
        let [mut one, mut other] = TwoPeers.peers().try_into().unwrap();
        one.clock = [held].into_iter().collect();
        other.clock = [held].into_iter().collect();
        vec![one, other]
    }

    fn strands(&self) -> Vec<StrandState> {
        let mut strands = TwoPeers.strands();
        let both = [200, 300].map(OriginatorId).to_vec();
        strands[0].refused = self.0.map(|after| (SequenceId(after), both));
        strands
    }

    fn counts(&self) -> PeerCounts {
        PeerCounts::default()
    }
}

#[tokio::test]
async fn readiness_and_verdict_agree_on_a_strand_that_is_missing() {
    let node = node_with(|_| {}, Arc::new(TwoWitnesses(None))).await;
    let before = node.status().await;
    assert_eq!(before["ready"]["read"], true, "it has just heard of it");
    node.clock.advance(91);
    let after = node.status().await;
    assert_eq!((&after["ready"]["read"], &after["verdict"]), (&false.into(), &"failing".into()));
    assert!(after["reasons"][0].as_str().unwrap().starts_with("strands_current: "), "{after}");
    for sequence in 1..=3 {
        node.ordered_by_peer(sequence, 1, None);
    }
    assert_eq!(node.status().await["ready"]["read"], true, "it has caught up");
    // One peer alone that claims more makes the node degraded, and leaves it ready. So do two with what no node takes.
    let views: [Arc<dyn PeerView>; 2] = [Arc::new(TwoPeers), Arc::new(TwoWitnesses(Some(0)))];
    for view in views {
        let node = node_with(|_| {}, view).await;
        node.status().await;
        node.clock.advance(1000);
        let page = node.status().await;
        assert_eq!((&page["ready"]["read"], &page["verdict"]), (&true.into(), &"degraded".into()));
    }
}
