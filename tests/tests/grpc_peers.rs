//! Peers over gRPC: what a node without QUIC originates becomes readable here, whatever its habits are, and
//! Hawser nodes without QUIC between them converge.

mod grpc_networks;
mod grpc_parts;
mod grpc_relays;

use std::time::Duration;

use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::{Cursor, OriginatorId, SecretKey};
use hawser_tests::harness::files::Record;
use hawser_tests::harness::network::{Metrics, Network, Node};
use hawser_tests::harness::scripted_peer::{
    Attack, GROUP, Habits, LONG_BYTES, Methods, ScriptedPeer, Seen, StreamEnd,
};
use hawser_tests::harness::{envelopes, raw, seed, strand, wait};
use prost::Message as _;

const REPORTS: &str = "/xmtp.xmtpv4.message_api.MisbehaviorApi/QueryMisbehaviorReports";
/// Nothing listens on this port.
const UNREACHABLE: &str = "http://127.0.0.1:1";

/// One Hawser node and some scripted peers in its registry.
async fn start(peers: &[&ScriptedPeer]) -> Network {
    let mut network = Network::new(1);
    peers.iter().for_each(|peer| network.register(peer.record()));
    network.start_all().await;
    network
}

/// Waits until a node has the strand of a peer, byte for byte.
async fn assert_follows(node: &Node, peer: &ScriptedPeer) {
    let wanted = peer.strand();
    let head = wanted.last_key_value().map_or(0, |(place, _)| *place);
    let client = node.client();
    wait::until_equal(&format!("the head of {} at {}", peer.id, node.id), &head, async || {
        Some(client.cursor().await.ok()?.get(peer.id).0)
    })
    .await;
    assert!(strand::read(&client, peer.id).await == wanted, "{} has other bytes", node.id);
}

fn transport(metrics: &Metrics, peer: impl ToString, transport: &str) -> f64 {
    let labels =
        [&format!(r#"node_id="{}""#, peer.to_string())[..], &format!(r#"transport="{transport}""#)];
    metrics.sum("xmtp_peer_transport", &labels)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_without_quic_originates_becomes_readable_also_after_a_restart() {
    let mut peer = ScriptedPeer::start(300, Habits::default());
    peer.originate(1200, 60);
    let mut network = start(&[&peer]).await;
    assert_follows(&network.nodes[0], &peer).await;
    peer.originate(30, 60);
    assert_follows(&network.nodes[0], &peer).await;

    network.nodes[0].kill();
    peer.originate(30, 60);
    network.start_all().await;
    assert_follows(&network.nodes[0], &peer).await;
    let topic = envelopes::group_topic(GROUP);
    let first = network.nodes[0].client().query_topics(&[topic], &Cursor::new(), 10).await.unwrap();
    assert_eq!(first, peer.strand().into_values().take(10).collect::<Vec<_>>());
    assert_eq!(transport(&network.nodes[0].metrics().await, 300, "grpc"), 1.0);
    assert_eq!(peer.seen().without_token, 0);
}

/// The clock of one of both hosts is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_refuses_this_nodes_token_is_followed_without_one() {
    let mut peer = ScriptedPeer::start(300, Habits { refuses_tokens: true, ..Habits::default() });
    peer.originate(60, 60);
    let network = start(&[&peer]).await;
    let node = &network.nodes[0];
    assert_follows(node, &peer).await;
    let (_, page) = raw::get(node.metrics_port, "/status").await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&page).unwrap();
    let told = status["peers"][0]["last_error"].as_str().unwrap_or_default();
    assert!(told.starts_with("called without a node token"), "{status}");
    let refused = node.metrics().await.sum("xmtp_peer_token_refused", &[r#"node_id="300""#]);
    assert_eq!(refused, 1.0);
}

/// Peers refuse the token of a node that is not canonical, and serve calls without one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_for_its_membership_follows_without_a_token_and_shows_one_afterwards() {
    let mut peer = ScriptedPeer::start(300, Habits::default());
    peer.originate(60, 60);
    let calls = |seen: &Seen| seen.calls.values().sum::<u64>();
    let mut network = Network::new(1);
    network.register(peer.record());
    network.set_canonical(0, false);
    let node = &mut network.nodes[0];
    node.start();
    node.readable().await;
    assert_follows(node, &peer).await;
    let seen = peer.seen();
    assert_eq!(seen.without_token, calls(&seen), "{:?}", seen.calls);
    network.set_canonical(0, true);
    wait::until("a call with a token", async || {
        let seen = peer.seen();
        (seen.without_token < calls(&seen)).then_some(())
    })
    .await;
    peer.originate(30, 60);
    assert_follows(&network.nodes[0], &peer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn habits_of_other_software_are_no_offences() {
    let usual = Habits::default;
    let habits = [
        Habits { methods: Methods::Older, ..usual() },
        Habits { methods: Methods::OlderSaidLate, ..usual() },
        Habits { tells_clock: false, ..usual() },
        Habits { methods: Methods::Older, tells_clock: false, answers_404: true, ..usual() },
        Habits { greets: false, keep_alive: Duration::from_millis(400), ..usual() },
        Habits { ends_after: Some((8, StreamEnd::Ok)), ..usual() },
        Habits { ends_after: Some((8, StreamEnd::NoStatus)), ..usual() },
        Habits { repeats: true, ..usual() },
        Habits { odd_outer_form: true, ..usual() },
        Habits { signs_after_s: 3_600, ..usual() },
        usual(),
    ];
    let mut peers: Vec<_> =
        (2..).zip(habits).map(|(id, habits)| ScriptedPeer::start(id * 100, habits)).collect();
    peers.iter_mut().for_each(|peer| peer.originate(20, 60));
    // Times that stand still and step back.
    for step_ns in [0, -50_000, 0, 1000] {
        peers.iter_mut().for_each(|peer| peer.originate_after(step_ns));
    }
    // In one message of more than 4 MiB, which is where gRPC's usual limit is.
    peers.last_mut().unwrap().originate(40, 150_000);
    let network = start(&peers.iter().collect::<Vec<_>>()).await;
    for peer in &peers {
        assert_follows(&network.nodes[0], peer).await;
    }
    peers.iter_mut().for_each(|peer| peer.originate(5, 60));
    for peer in &peers {
        assert_follows(&network.nodes[0], peer).await;
    }
    assert!(peers.last().unwrap().seen().frame_bytes_max > 4 << 20);
    let metrics = network.nodes[0].metrics().await;
    assert_eq!(metrics.sum("xmtp_verify_failures_total", &[]), 0.0, "{}", metrics.text());
    assert_eq!(metrics.sum("xmtp_peer_envelopes_rewritten_total", &[]), 29.0);
    for peer in &peers {
        let made = reports(&network.nodes[0], peer.id, pb::Misbehavior::DuplicateSequenceId).await;
        assert_eq!(made, 0, "{} has told one story", peer.id);
    }
}

/// Returns the number of reports that a node has made of failed requests to another node.
async fn failed_requests(node: &Node, accused: OriginatorId) -> usize {
    reports(node, accused, pb::Misbehavior::FailedRequest).await
}

/// Returns the number of reports of a kind that a node has made about another node.
async fn reports(node: &Node, accused: OriginatorId, kind: pb::Misbehavior) -> usize {
    let request = pb::QueryMisbehaviorReportsRequest { after_ns: 0 };
    let kept: pb::QueryMisbehaviorReportsResponse =
        node.client().unary(REPORTS, request).await.expect("the node answers");
    let reports = kept.reports.into_iter().map(|report| {
        pb::UnsignedMisbehaviorReport::decode(report.unsigned_misbehavior_report)
            .expect("a kept report decodes")
    });
    let is_meant = |report: &pb::UnsignedMisbehaviorReport| {
        report.misbehaving_node_id == accused.0
            && report.r#type() == kind
            && report.submitted_by_node
    };
    reports.filter(is_meant).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_cannot_tell_what_it_holds_does_not_confirm_a_new_key() {
    does_not_confirm(Habits { tells_clock: false, ..Habits::default() }).await;
}

/// The proxy in front of the peer answers first. The peer itself counts as soon as it is reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_page_in_place_of_what_a_peer_holds_does_not_confirm_a_new_key() {
    let habits = Habits { tells_clock: false, answers_404: true, ..Habits::default() };
    does_not_confirm(habits).await;
}

/// Starts a node with a new key beside a peer without a clock. The node has to wait until the peer has one.
async fn does_not_confirm(habits: Habits) {
    let peer = ScriptedPeer::start(300, habits);
    let mut network = Network::new(1);
    network.register(peer.record());
    let node = &mut network.nodes[0];
    node.start();
    node.readable().await;
    wait::until("the peer is connected", async || {
        (transport(&node.metrics().await, 300, "grpc") == 1.0).then_some(())
    })
    .await;
    wait::until("it waits for an answer", async || {
        let (_, page) = raw::get(node.metrics_port, "/readyz?for=publish").await.ok()?;
        page.contains("0 of 1 other nodes have answered").then_some(())
    })
    .await;
    peer.change(|habits| habits.tells_clock = true);
    node.ready().await;
}

/// The node takes the place of one of other software, without its database. Its only peer is of that software, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_replaces_another_takes_the_strand_from_a_peer_of_other_software() {
    const LAST: u64 = 20;
    let peer = ScriptedPeer::start(300, Habits::default());
    let mut network = Network::new(1);
    network.register(peer.record());
    let node = &mut network.nodes[0];
    let key = node.key.clone();
    let mut replaced = ScriptedPeer::start_with_key(node.id.0, key, Habits::default());
    replaced.originate(LAST, 60);
    peer.hold(&replaced);
    node.is_new = false;
    node.start();
    node.ready().await;
    let client = node.client();
    assert!(strand::read(&client, node.id).await == replaced.strand(), "it has other bytes");
    let mut rng = seed::rng(seed::seed(), 1);
    let message = envelopes::group_message(GROUP, 60, &mut rng);
    let message = envelopes::sign(&message, node.id, &envelopes::payer(0));
    let published = client.publish(vec![message]).await.unwrap().remove(0);
    let place = strand::id_of(&published).sequence.0;
    assert!(place > LAST && strand::is_gap(place - LAST - 1), "{place}");
}

/// Checks two results, each of which takes a node a minute: burned ids are marked as missing, all of them in the same
/// minute, and a peer that answers no request for its strand is reported. Of the ids that lie far apart the node asks
/// for several at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn burned_ids_are_marked_and_a_peer_without_methods_for_strands_is_reported() {
    let habits = Habits { page_takes: Duration::from_millis(150), ..Habits::default() };
    let mut peer = ScriptedPeer::start(300, habits);
    let mut useless =
        ScriptedPeer::start(400, Habits { methods: Methods::Neither, ..Habits::default() });
    useless.originate(5, 60);
    for _ in 0..3 {
        peer.originate(5, 60);
        peer.burn(3);
    }
    peer.originate(5, 60);
    for _ in 0..6 {
        peer.burn(1);
        peer.originate(1, 70 * 1024);
    }
    let mut network = start(&[&peer, &useless]).await;
    assert_follows(&network.nodes[0], &peer).await;
    let metrics = network.nodes[0].metrics().await;
    assert_eq!(metrics.sum("xmtp_replicated_total", &[r#"result="missing""#]), 15.0);
    assert!(peer.seen().pages_max >= 4, "{:?}", peer.seen());
    assert!(pages(&peer) > 0);
    wait::until("the peer without methods is reported", async || {
        (failed_requests(&network.nodes[0], useless.id).await > 0).then_some(())
    })
    .await;
    assert_eq!(failed_requests(&network.nodes[0], peer.id).await, 0);
    // Once more after a restart, between what comes next.
    network.nodes[0].kill();
    let before = pages(&peer);
    network.start_all().await;
    wait::until("it is asked again", async || (pages(&peer) > before).then_some(())).await;
    peer.originate(5, 60);
    assert_follows(&network.nodes[0], &peer).await;
}

/// Returns the number of pages that a peer was asked for.
fn pages(peer: &ScriptedPeer) -> u64 {
    let seen = peer.seen();
    let pages = seen.calls.iter().find(|(path, _)| path.ends_with("/QueryEnvelopes"));
    pages.map_or(0, |(_, count)| *count)
}

/// Each new session would ask it for as much again, and for its other strands, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_has_no_room_for_pages_keeps_its_session() {
    let mut peer = ScriptedPeer::start(300, Habits { is_busy: true, ..Habits::default() });
    peer.originate(2, 60);
    peer.burn(3);
    peer.originate(2, 60);
    let network = start(&[&peer]).await;
    wait::until("it is asked for the burned ids in several wants", async || {
        (pages(&peer) >= 6).then_some(())
    })
    .await;
    let metrics = network.nodes[0].metrics().await;
    assert_eq!(metrics.sum("xmtp_peer_sessions_total", &[]), 1.0, "{}", metrics.text());
    assert_eq!(failed_requests(&network.nodes[0], peer.id).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_peer_is_counted_and_left_and_costs_other_strands_nothing() {
    let attacks = [
        (Attack::Garbage, "protocol"),
        (Attack::ForeignOriginator, "wrong_originator"),
        (Attack::Forged, "forged_signature"),
        (Attack::KeepAlives, "keep_alives"),
        (Attack::HugeFrame, "oversized"),
        (Attack::EmptyEnds, "silent"),
    ];
    let mut good = ScriptedPeer::start(200, Habits::default());
    let mut hostile: Vec<_> = (3..)
        .zip(attacks)
        .map(|(id, (attack, _))| {
            let attack = Some(attack);
            ScriptedPeer::start(id * 100, Habits { attack, ..Habits::default() })
        })
        .collect();
    hostile.iter_mut().for_each(|peer| peer.originate(3, 60));
    good.originate(50, 60);
    let network = start(&hostile.iter().chain([&good]).collect::<Vec<_>>()).await;
    assert_follows(&network.nodes[0], &good).await;
    for (attack, reason) in attacks {
        wait::until(&format!("{attack:?} is counted"), async || {
            let metrics = network.nodes[0].metrics().await;
            let kind = format!(r#"kind="{reason}""#);
            (metrics.sum("xmtp_verify_failures_total", &[&kind]) > 0.0).then_some(())
        })
        .await;
    }
    let heads = network.nodes[0].client().cursor().await.unwrap();
    for peer in &hostile {
        assert_eq!(heads.get(peer.id).0, 0, "nothing of {} is stored", peer.id);
        peer.change(|habits| habits.attack = None);
    }
    good.originate(50, 60);
    assert_follows(&network.nodes[0], &good).await;
    for peer in &hostile {
        assert_follows(&network.nodes[0], peer).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_statements_for_one_place_in_one_answer_are_reported_and_the_strand_goes_on() {
    let habits = Habits { tells_two_stories: true, ..Habits::default() };
    let mut peer = ScriptedPeer::start(200, habits);
    peer.originate(20, 60);
    let network = start(&[&peer]).await;
    let node = &network.nodes[0];
    assert_follows(node, &peer).await;
    wait::until("the second statements are reported", async || {
        let made = reports(node, peer.id, pb::Misbehavior::DuplicateSequenceId).await;
        (made > 0).then_some(())
    })
    .await;
    peer.originate(5, 60);
    assert_follows(node, &peer).await;
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("xmtp_verify_failures_total", &[]), 0.0, "{}", metrics.text());
}

/// Played by a node that was set back to a backup, and shows what it has signed since in streams of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_statement_in_a_later_stream_is_reported_and_the_log_keeps_the_first() {
    let habits =
        Habits { ends_after: Some((5, StreamEnd::Ok)), forgets_cursors: true, ..Habits::default() };
    let mut peer = ScriptedPeer::start(200, habits);
    peer.originate(5, 60);
    let first = peer.strand();
    let network = start(&[&peer]).await;
    let node = &network.nodes[0];
    assert_follows(node, &peer).await;
    peer.sign_again(3);
    wait::until("the second statement is reported", async || {
        let made = reports(node, peer.id, pb::Misbehavior::DuplicateSequenceId).await;
        (made > 0).then_some(())
    })
    .await;
    assert!(strand::read(&node.client(), peer.id).await == first, "it has other bytes");
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("xmtp_verify_failures_total", &[]), 0.0, "{}", metrics.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strand_is_taken_elsewhere_while_its_own_node_attacks() {
    let relay = ScriptedPeer::start(200, Habits::default());
    let mut hostile: Vec<_> = (3..)
        .zip(Attack::ALL)
        .map(|(id, attack)| {
            let attack = Some(attack);
            ScriptedPeer::start(id * 100, Habits { attack, ..Habits::default() })
        })
        .collect();
    for peer in &mut hostile {
        peer.originate(30, 60);
        relay.hold(peer);
    }
    let network = start(&hostile.iter().chain([&relay]).collect::<Vec<_>>()).await;
    for peer in &hostile {
        assert_follows(&network.nodes[0], peer).await;
    }
}

/// A gateway, or a server of something else, at the registered address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_methods_for_strands_is_named_and_its_strand_taken_elsewhere() {
    let relay = ScriptedPeer::start(200, Habits::default());
    let mut peer =
        ScriptedPeer::start(300, Habits { methods: Methods::Neither, ..Habits::default() });
    peer.originate(5, 60);
    relay.hold(&peer);
    let mut network = start(&[&peer, &relay]).await;
    assert_follows(&network.nodes[0], &peer).await;
    wait::until("it is counted and named", async || {
        let metrics = network.nodes[0].metrics().await;
        let counted = metrics.sum("xmtp_verify_failures_total", &[r#"kind="no_method""#]);
        (counted > 0.0).then_some(())
    })
    .await;
    let output = network.nodes[0].process().output();
    let named = output.lines().find(|line| line.contains("lacks a method"));
    assert!(named.is_some_and(|line| line.contains("300")), "{output}");
    // It is asked again after a pause.
    peer.change(|habits| habits.methods = Methods::Both);
    peer.originate(5, 60);
    assert_follows(&network.nodes[0], &peer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_claims_more_and_sends_nothing_is_left_and_asked_again() {
    let mut peer =
        ScriptedPeer::start(300, Habits { attack: Some(Attack::Silence), ..Habits::default() });
    peer.originate(3, 60);
    let network = start(&[&peer]).await;
    // The session that ends is counted. The gauge of connections may rise again at any time.
    wait::until("the peer is left", async || {
        let metrics = network.nodes[0].metrics().await;
        let left = metrics.sum("xmtp_verify_failures_total", &[r#"kind="silent""#]);
        let asked = peer
            .seen()
            .calls
            .iter()
            .any(|(path, count)| path.ends_with("/SubscribeOriginators") && *count >= 3);
        (asked && left >= 1.0).then_some(())
    })
    .await;
    peer.change(|habits| habits.attack = None);
    assert_follows(&network.nodes[0], &peer).await;
}

/// A host at the registered address takes every connection, and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_says_nothing_at_all_is_named_and_its_strand_taken_elsewhere() {
    let host = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", host.local_addr().unwrap());
    let accepting = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = host.accept().await {
            held.push(connection);
        }
    });
    let relay = ScriptedPeer::start(300, Habits::default());
    let mut away = ScriptedPeer::start(400, Habits::default());
    away.originate(5, 60);
    relay.hold(&away);
    let mut network = Network::new(1);
    network.add_arguments(&["--peer-transport", "grpc"]);
    network.register(relay.record());
    network.register(Record { http_address: silent, ..away.record() });
    network.start_all().await;
    let node = &network.nodes[0];
    assert_follows(node, &away).await;
    let named = wait::until("an attempt is counted", async || {
        let (_, page) = raw::get(node.metrics_port, "/status").await.ok()?;
        let status: serde_json::Value = serde_json::from_str(&page).ok()?;
        let peers = status["peers"].as_array()?;
        let peer = peers.iter().find(|it| it["node_id"] == 400)?;
        (peer["failed_attempts"].as_u64()? > 0).then(|| peer.clone())
    })
    .await;
    let error = named["last_error"].as_str().unwrap_or_default();
    assert!(error.contains("no answer within"), "{named}");
    accepting.abort();
}

/// Node 400 is registered and cannot be reached. Other software shows a strand live only if it is in its list of
/// originators, which may be minutes old: what comes later is in new calls alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strand_that_a_peer_shows_in_new_calls_alone_goes_on_and_is_no_offence() {
    let relay = ScriptedPeer::start(300, Habits { has_old_list: true, ..Habits::default() });
    let mut away = ScriptedPeer::start(400, Habits::default());
    away.originate(3, 60);
    relay.hold(&away);
    let mut network = Network::new(1);
    network.register(relay.record());
    network.register(Record { http_address: UNREACHABLE.to_owned(), ..away.record() });
    network.start_all().await;
    let node = &network.nodes[0];
    assert_follows(node, &away).await;
    for _ in 0..2 {
        away.originate(2, 60);
        relay.hold(&away);
        assert_follows(node, &away).await;
    }
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("xmtp_peer_sessions_total", &[]), 1.0, "{}", metrics.text());
    assert_eq!(metrics.sum("xmtp_verify_failures_total", &[]), 0.0, "{}", metrics.text());
    assert_eq!(failed_requests(node, relay.id).await, 0);
}

/// The nodes of these strands are registered and cannot be reached. The peer claims to hold them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_long_messages_and_ends_none_fills_bounded_memory() {
    const AWAY: [u32; 5] = [400, 500, 600, 700, 800];
    /// Long messages that are gathered at a time from one peer.
    const LONG_MAX: usize = 2;
    /// The window of a stream, and what the peer's own server holds of it.
    const OF_STREAM: usize = 6 << 20;
    let mut peer = ScriptedPeer::start(300, Habits { sends_long: true, ..Habits::default() });
    let mut network = Network::new(1);
    network.register(peer.record());
    for (seed, id) in (0x23..).zip(AWAY) {
        let key = SecretKey::from_bytes(&[seed; 32]).unwrap();
        peer.take_over(id, &[1], &key, 1);
        let (id, key) = (OriginatorId(id), key.public_key());
        let http_address = UNREACHABLE.to_owned();
        network.register(Record { id, key, http_address, ..peer.record() });
    }
    network.start_all().await;
    wait::until("calls that wait for memory are stopped", async || {
        (peer.seen().long_stopped >= (AWAY.len() - LONG_MAX) as u64).then_some(())
    })
    .await;
    let held = peer.seen().long_bytes_max;
    assert!(held > LONG_BYTES, "{held} bytes: the attack was one");
    assert!(held <= LONG_MAX * LONG_BYTES + AWAY.len() * OF_STREAM, "{held} bytes were taken");
    // Its other strands go on, and all when it ends its messages.
    peer.originate(5, 60);
    assert_follows(&network.nodes[0], &peer).await;
    peer.change(|habits| habits.sends_long = false);
    let client = network.nodes[0].client();
    for id in AWAY {
        wait::until_equal(&format!("the head of {id}"), &1, async || {
            Some(client.cursor().await.ok()?.get(OriginatorId(id)).0)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_errors_are_malformed_is_asked_again() {
    let attack = Some(Attack::BadDetails);
    let mut peer = ScriptedPeer::start(300, Habits { attack, ..Habits::default() });
    peer.originate(5, 60);
    let network = start(&[&peer]).await;
    wait::until("it was asked twice", async || {
        let calls = peer.seen().calls;
        let asked = calls.iter().find(|(path, _)| path.ends_with("/SubscribeOriginators"));
        asked.is_some_and(|(_, count)| *count >= 2).then_some(())
    })
    .await;
    peer.change(|habits| habits.attack = None);
    assert_follows(&network.nodes[0], &peer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strands_of_the_older_network_come_from_the_node_that_took_them_over() {
    let signer = SecretKey::from_bytes(&[0x21; 32]).unwrap();
    let mut peer = ScriptedPeer::start(300, Habits::default());
    peer.originate(20, 60);
    // Numbers of rows of another database: most are not used.
    peer.take_over(10, &[3, 4, 900, 50_000_000_000], &signer, 1);
    peer.take_over(11, &[1], &signer, 1);
    peer.take_over(13, &[77, 78], &SecretKey::from_bytes(&[0x22; 32]).unwrap(), 1);
    let mut network = Network::new(1);
    network.register(peer.record());
    let key = signer.public_key().to_string();
    network.add_arguments(&["--migration-client.from-node-id", "300", "--migration-key", &key]);
    network.start_all().await;
    assert_follows(&network.nodes[0], &peer).await;
    let client = network.nodes[0].client();
    for strand in [10, 11] {
        let wanted = peer.taken_over(strand);
        wait::until_equal(&format!("strand {strand}"), &wanted, async || {
            Some(strand::read(&client, OriginatorId(strand)).await)
        })
        .await;
    }
    // More of it comes while the node runs.
    peer.take_over(11, &[2, 9], &signer, 1);
    wait::until_equal("strand 11", &peer.taken_over(11), async || {
        Some(strand::read(&client, OriginatorId(11)).await)
    })
    .await;
    assert!(strand::read(&client, OriginatorId(13)).await.is_empty(), "another key signed it");
    let metrics = network.nodes[0].metrics().await;
    let invalid = r#"xmtp_verify_failures_total{kind="rule"} 0"#;
    assert!(metrics.text().lines().any(|line| line == invalid), "{}", metrics.text());
}
