//! The figures of the scrape and of the status are those of the parts that count them. A family or a field that shows
//! the value of its neighbour has the documented name, and misleads alerts and operators.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_api::{
    ApiSettings, ChainAccount, ChainBalances, ChainEndpoint, ChainState, ChainsView, ContractPause,
    ContractReading, DiskSpace, DiskView, NoPeers, PeerCounts, PeerState, PeerView, ReadingState,
    StrandState,
};
use hawser_proto::{Cursor, OriginatorId};
use serde_json::Value;

use crate::common::*;

/// Returns the samples of the scrape by their names with labels.
async fn samples(node: &Node) -> BTreeMap<String, f64> {
    let (_, page) = node.page("/metrics").await;
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

#[track_caller]
fn assert_shown(samples: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        assert_eq!(samples.get(*name), Some(value), "{name}");
    }
}

/// A chain whose contract is halted, and one that is in reach.
struct TwoChains;

impl ChainsView for TwoChains {
    fn chains(&self) -> Vec<ChainState> {
        let endpoint =
            |active| ChainEndpoint { shown: "https://rpc.example".into(), active, fault: None };
        let account = |native_wei, fee_token_microdollars| ChainAccount {
            address: "0xabc".into(),
            balances: Some(ChainBalances {
                native_wei,
                fee_token_microdollars,
                block: 1,
                read_unix_s: 1,
            }),
            fault: None,
        };
        let halted = ContractReading {
            contract: "0x02".into(),
            state: ReadingState::Halted("the chain contradicts the log".into()),
            read_block: Some(90),
            head_block: Some(107),
            behind_for: Some(Duration::from_secs(33)),
            pause: Some(ContractPause { is_paused: true, block: 80 }),
            events: 11,
            bytes: 12,
            pages: 13,
            failed_pages: 14,
            asking: Duration::from_secs(15),
            storing: Duration::from_secs(16),
            retries: 18,
            odd: vec![("doubled", 19)],
            gaps: 20,
            ..contract_at_head()
        };
        halted.queries_ms.observe(250.0);
        halted.batches_s.observe(3.0);
        let app = ChainState {
            head: Some(108),
            unseen_for: Some(Duration::from_secs(21)),
            pushed: false,
            endpoints: vec![endpoint(false), endpoint(true)],
            faults: vec![("unreachable", 22)],
            reorganisations: vec![("7-64", 23)],
            contracts: vec![halted, contract_at_head()],
            account: Some(account(24, None)),
            ..chain_in_reach("app")
        };
        let settlement =
            ChainState { account: Some(account(25, Some(26))), ..chain_in_reach("settlement") };
        vec![app, settlement]
    }
}

#[tokio::test]
async fn each_figure_of_a_chain_is_its_own() {
    let view = Arc::new(TwoChains);
    let node = node_with(|settings| settings.chains = Some(view), Arc::new(NoPeers)).await;
    let expected = [
        (r#"xmtp_chain_head_age_seconds{chain="app"}"#, 21.0),
        (r#"xmtp_chain_head_age_seconds{chain="settlement"}"#, 0.0),
        (r#"xmtp_chain_head_block{chain="app"}"#, 108.0),
        (r#"xmtp_chain_pushed{chain="app"}"#, 0.0),
        (r#"xmtp_chain_pushed{chain="settlement"}"#, 1.0),
        (r#"xmtp_account_balance_wei{chain="app"}"#, 24.0),
        (r#"xmtp_account_balance_wei{chain="settlement"}"#, 25.0),
        (r#"xmtp_account_fee_token_microdollars{chain="settlement"}"#, 26.0),
        (r#"xmtp_chain_reorgs_total{chain="app",depth_bucket="7-64"}"#, 23.0),
        (r#"xmtp_rpc_errors_total{chain="app",kind="unreachable"}"#, 22.0),
        (r#"xmtp_rpc_active{chain="app",endpoint_index="0"}"#, 0.0),
        (r#"xmtp_rpc_active{chain="app",endpoint_index="1"}"#, 1.0),
        (r#"xmtp_indexer_log_streamer_logs{contract_address="0x02"}"#, 11.0),
        (r#"xmtp_indexer_bytes_indexer{contract_address="0x02"}"#, 12.0),
        (r#"xmtp_indexer_log_streamer_current_block{contract_address="0x02"}"#, 90.0),
        (r#"xmtp_indexer_log_streamer_max_block{contract_address="0x02"}"#, 107.0),
        (r#"xmtp_indexer_log_streamer_block_lag{contract_address="0x02"}"#, 17.0),
        (r#"xmtp_indexer_lag_seconds{contract_address="0x02"}"#, 33.0),
        (r#"xmtp_indexer_lag_seconds{contract_address="0x01"}"#, 0.0),
        (r#"xmtp_indexer_halted{contract_address="0x02"}"#, 1.0),
        (r#"xmtp_indexer_halted{contract_address="0x01"}"#, 0.0),
        (r#"xmtp_chain_contract_paused{contract_address="0x02"}"#, 1.0),
        (
            r#"xmtp_indexer_log_streamer_get_logs_requests{contract_address="0x02",success="true"}"#,
            13.0,
        ),
        (
            r#"xmtp_indexer_log_streamer_get_logs_requests{contract_address="0x02",success="false"}"#,
            14.0,
        ),
        (r#"xmtp_indexer_get_logs_seconds{contract_address="0x02"}"#, 15.0),
        (r#"xmtp_indexer_storing_seconds{contract_address="0x02"}"#, 16.0),
        (r#"xmtp_indexer_retryable_storage_error_count{contract_address="0x02"}"#, 18.0),
        (r#"xmtp_indexer_odd_logs_total{contract_address="0x02",kind="doubled"}"#, 19.0),
        (r#"xmtp_indexer_gaps_total{contract_address="0x02"}"#, 20.0),
        (r#"xmtp_indexer_log_streamer_get_logs_duration_sum{contract_address="0x02"}"#, 250.0),
        (r#"xmtp_indexer_log_processing_time_seconds_sum{contract_address="0x02"}"#, 3.0),
    ];
    assert_shown(&samples(&node).await, &expected);
}

/// A peer with a connection and one without, and counts of which no two are equal.
struct CountingPeers;

impl PeerView for CountingPeers {
    fn peers(&self) -> Vec<PeerState> {
        let peer = |node, connected| PeerState {
            node: OriginatorId(node),
            address: "https://peer.example".to_owned(),
            connected,
            transport: connected.then_some("quic"),
            round_trip: connected.then(|| Duration::from_millis(250)),
            clock: Cursor::new(),
            last_error: None,
            failed_attempts: u64::from(node),
            refused: u64::from(node) + 1,
        };
        vec![peer(200, true), peer(300, false), peer(400, false)]
    }

    fn strands(&self) -> Vec<StrandState> {
        Vec::new()
    }

    fn counts(&self) -> PeerCounts {
        PeerCounts {
            dials: 31,
            sessions: 32,
            bytes_sent: 33,
            bytes_received: 34,
            envelopes_sent: 35,
            rewritten: 36,
            subscribed: vec![(OriginatorId(200), "originators", 37)],
            replicated: vec![("stored", 38)],
            refused: vec![("bad_proof", 39)],
        }
    }
}

#[tokio::test]
async fn each_figure_of_the_peers_is_its_own() {
    let node = node_with(|_| {}, Arc::new(CountingPeers)).await;
    let expected = [
        ("xmtp_sync_outgoing_sync_connections", 1.0),
        ("xmtp_sync_failed_outgoing_sync_connections", 2.0),
        (r#"xmtp_peer_up{node_id="200"}"#, 1.0),
        (r#"xmtp_peer_up{node_id="300"}"#, 0.0),
        (r#"xmtp_peer_transport{node_id="200",transport="quic"}"#, 1.0),
        (r#"xmtp_peer_rtt_seconds{node_id="200"}"#, 0.25),
        (r#"xmtp_sync_failed_outgoing_sync_connections_counter{originator_id="300"}"#, 300.0),
        (r#"xmtp_sync_messages_received_error_count{originator_id="300"}"#, 301.0),
        ("xmtp_peer_dials_total", 31.0),
        ("xmtp_peer_sessions_total", 32.0),
        (r#"xmtp_peer_bytes_total{direction="out"}"#, 33.0),
        (r#"xmtp_peer_bytes_total{direction="in"}"#, 34.0),
        ("xmtp_peer_envelopes_sent_total", 35.0),
        ("xmtp_peer_envelopes_rewritten_total", 36.0),
        (r#"xmtp_sync_subscribe_rpc_total{rpc="originators",originator_id="200"}"#, 37.0),
        (r#"xmtp_replicated_total{result="stored"}"#, 38.0),
        (r#"xmtp_verify_failures_total{kind="bad_proof"}"#, 39.0),
    ];
    let samples = samples(&node).await;
    assert_shown(&samples, &expected);
    assert!(!samples.contains_key(r#"xmtp_peer_rtt_seconds{node_id="300"}"#), "not measured");
}

/// A disk of a few bytes.
struct SmallDisk;

impl DiskView for SmallDisk {
    fn space(&self) -> Option<DiskSpace> {
        Some(DiskSpace { free_bytes: 54, total_bytes: 55 })
    }
}

#[tokio::test]
async fn each_figure_on_the_page_of_the_status_is_its_own() {
    let view = Arc::new(TwoChains);
    let disk = Arc::new(SmallDisk);
    let adjust = |settings: &mut ApiSettings| {
        settings.chains = Some(view);
        settings.disk = Some(disk);
    };
    let node = node_with(adjust, Arc::new(CountingPeers)).await;
    let counters = node.engine.counters();
    counters.identities.unanswered.inc_by(51);
    counters.withdrawn.inc_by(52);
    counters.identities.inboxes_waiting.set(53);
    let status = node.status().await;
    assert_eq!(status["updates_unanswered"], 51);
    assert_eq!(status["envelopes_withdrawn"], 52);
    assert_eq!(status["inboxes_waiting"], 53);
    assert_eq!(status["disk"]["free_bytes"], 54);
    assert_eq!(status["disk"]["total_bytes"], 55);

    let (app, settlement) = (&status["chains"][0], &status["chains"][1]);
    assert_eq!((&app["name"], &settlement["name"]), (&"app".into(), &"settlement".into()));
    assert_eq!(app["head"], 108);
    assert_eq!((&app["unseen_s"], &settlement["unseen_s"]), (&21.0.into(), &0.0.into()));
    assert_eq!((&app["pushed"], &settlement["pushed"]), (&false.into(), &true.into()));
    let endpoints = &app["endpoints"];
    assert_eq!(endpoints[0]["endpoint"], "https://rpc.example");
    assert_eq!((&endpoints[0]["active"], &endpoints[1]["active"]), (&false.into(), &true.into()));
    let halted = &app["contracts"][0];
    assert_eq!((&halted["contract"], &halted["state"]), (&"0x02".into(), &"halted".into()));
    assert_eq!(halted["reason"], "the chain contradicts the log");
    assert_eq!((&halted["read_block"], &halted["lag_blocks"]), (&90.into(), &17.into()));
    assert_eq!((&halted["paused"], &halted["paused_read_block"]), (&true.into(), &80.into()));
    assert_eq!(halted["lag_s"], 33.0);
    assert_eq!(app["contracts"][1]["state"], "at_head");

    let (up, down) = (&status["peers"][0], &status["peers"][1]);
    assert_eq!((&up["node_id"], &down["node_id"]), (&200.into(), &300.into()));
    assert_eq!((&up["connected"], &down["connected"]), (&true.into(), &false.into()));
    assert_eq!((&up["transport"], &down["transport"]), (&"quic".into(), &Value::Null));
    assert_eq!(up["round_trip_s"], 0.25);
    assert_eq!((&up["failed_attempts"], &up["refused"]), (&200.into(), &201.into()));
}

#[tokio::test]
async fn each_counter_of_the_engine_is_its_own() {
    let node = node().await;
    let (counters, reader) = (node.engine.counters(), node.engine.reader());
    let (reads, streams, shown) =
        (reader.counters(), reader.streams(), &counters.checkpoint_exchange);
    let counted = [
        ("xmtp_published_total", &counters.published),
        ("xmtp_publish_replayed_total", &counters.replayed),
        ("xmtp_pruned_total", &counters.pruned),
        ("xmtp_pruned_bytes_total", &counters.pruned_bytes),
        ("xmtp_scrub_bytes_total", &counters.scrub.bytes),
        ("xmtp_scrub_damages_total", &counters.scrub.damages),
        ("xmtp_scrub_repaired_total", &counters.scrub.repaired),
        ("xmtp_checkpoints_signed_total", &counters.checkpoints),
        (r#"xmtp_checkpoints_shown_total{result="agreed"}"#, &shown.agreed),
        (r#"xmtp_checkpoints_shown_total{result="contradicting"}"#, &shown.contradicting),
        (r#"xmtp_checkpoints_shown_total{result="differing"}"#, &shown.differing),
        (r#"xmtp_checkpoints_shown_total{result="dropped"}"#, &shown.dropped),
        (r#"xmtp_checkpoints_shown_total{result="forged"}"#, &shown.forged),
        (r#"xmtp_checkpoints_shown_total{result="unknown"}"#, &shown.unknown),
        ("xmtp_checkpoints_cosigned_total", &shown.cosigned),
        ("xmtp_checkpoints_unreadable_total", &shown.unreadable),
        (r#"xmtp_witness_requests_total{result="cosigned"}"#, &counters.witnesses.cosigned),
        (r#"xmtp_witness_requests_total{result="failed"}"#, &counters.witnesses.failed),
        ("xmtp_envelopes_withdrawn_total", &counters.withdrawn),
        ("xmtp_evidence_unreadable_total", &counters.evidence_unreadable),
        (r#"xmtp_verify_failures_total{kind="rule"}"#, &counters.invalid),
        (r#"xmtp_identity_updates_total{verdict="valid"}"#, &counters.identities.valid),
        (r#"xmtp_identity_updates_total{verdict="invalid"}"#, &counters.identities.invalid),
        ("xmtp_identity_updates_unanswered_total", &counters.identities.unanswered),
        (r#"xmtp_liveness_reports_total{kind="failed_request"}"#, &counters.liveness.failed),
        (r#"xmtp_liveness_reports_total{kind="slow_node"}"#, &counters.liveness.slow),
        (
            r#"xmtp_liveness_reports_total{kind="unresponsive_node"}"#,
            &counters.liveness.unresponsive,
        ),
        ("xmtp_subscriber_demotions_total", &streams.demotions),
        ("xmtp_subscriber_wakeups_total", &streams.wakeups),
        (r#"db_query_errors_total{query="commit",op="write"}"#, &counters.commit.errors),
        (r#"db_query_errors_total{query="strand_page",op="read"}"#, &counters.strand_page.errors),
        (r#"db_query_errors_total{query="stream_page",op="read"}"#, &reads.stream_page.errors),
        (r#"db_query_errors_total{query="query_topics",op="read"}"#, &reads.query_topics.errors),
        (
            r#"db_query_errors_total{query="query_originators",op="read"}"#,
            &reads.query_originators.errors,
        ),
        (r#"db_query_errors_total{query="newest",op="read"}"#, &reads.newest.errors),
        (r#"db_query_errors_total{query="inboxes",op="read"}"#, &reads.inboxes.errors),
        (r#"db_query_errors_total{query="usage",op="read"}"#, &reads.usage.errors),
    ];
    for (count, (_, counter)) in (1001..).zip(counted) {
        counter.inc_by(count);
    }
    let samples = samples(&node).await;
    for (count, (name, _)) in (1001_u32..).zip(counted) {
        assert_eq!(samples.get(name), Some(&f64::from(count)), "{name}");
    }
}

#[tokio::test]
async fn each_level_and_each_time_of_the_engine_is_its_own() {
    let node = node().await;
    node.publish(vec![message(1, "a")]).await;
    node.engine.note_block("app", 1_750_000_000 - 7000, Instant::now());
    let counters = node.engine.counters();
    let streams = node.engine.reader().streams();
    let levels = [
        ("xmtp_prune_backlog", &counters.prune_backlog),
        ("xmtp_scrub_left", &counters.scrub.left),
        ("xmtp_scrub_finished_timestamp_seconds", &counters.scrub.finished_unix_s),
        ("xmtp_tree_leaves_behind", &counters.tree_leaves_behind),
        ("xmtp_identity_inboxes_waiting", &counters.identities.inboxes_waiting),
        ("xmtp_subscriber_lag_bytes", &streams.waiting_bytes),
    ];
    for (level, (_, gauge)) in (1001..).zip(levels) {
        gauge.set(level);
    }
    // What the publish took is less than a second, or a few on a slow machine: hundreds tell the stages apart.
    let stages = [
        (r#"xmtp_publish_seconds_sum{stage="total"}"#, &counters.publish_seconds),
        (r#"xmtp_publish_seconds_sum{stage="admit"}"#, &counters.admit_seconds),
        (r#"xmtp_publish_seconds_sum{stage="sequence"}"#, &counters.sequence_seconds),
        (r#"xmtp_publish_seconds_sum{stage="commit"}"#, &counters.commit_seconds),
        ("xmtp_api_wait_for_gateway_publish_seconds_sum", &counters.admitted_seconds),
    ];
    for (at, (_, stage)) in (1..).zip(stages) {
        stage.observe(Duration::from_secs(at * 100));
    }
    counters.commit.seconds.observe(Duration::from_secs(600));
    counters.group_envelopes.observe(700);
    let samples = samples(&node).await;
    for (level, (name, _)) in (1001_u32..).zip(levels) {
        assert_eq!(samples.get(name), Some(&f64::from(level)), "{name}");
    }
    let hundreds = |name: &str| (samples[name] / 100.0).floor();
    for (at, (name, _)) in (1_u32..).zip(stages) {
        assert_eq!(hundreds(name), f64::from(at), "{name}");
    }
    assert_eq!(hundreds("xmtp_api_stage_envelope_seconds_sum"), 2.0);
    assert_eq!(hundreds("xmtp_api_staged_envelope_processing_delay_seconds_sum"), 3.0);
    assert_eq!(hundreds("xmtp_fsync_seconds_sum"), 6.0);
    assert_eq!(hundreds(r#"db_query_duration_seconds_sum{query="commit",op="write"}"#), 6.0);
    assert_eq!(hundreds("xmtp_commit_group_envelopes_sum"), 7.0);
    let newest = r#"xmtp_originator_last_envelope_seconds{originator_id="100"}"#;
    assert_eq!(samples[newest], 1_750_000_000.0);
    let lead_s = samples[r#"xmtp_clock_offset_seconds{source="app"}"#];
    assert!((6000.0..=7000.0).contains(&lead_s), "ahead of the block, in seconds: {lead_s}");
}
