//! Taking over the database of a node of the reference implementation: everything is there afterwards, no
//! place is signed twice, and what is not the node's whole database is refused.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use bytes::Bytes;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{OriginatorId, SecretKey};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::xmtpd_database::{Certificate, Postgres, Session};
use hawser_tests::harness::{envelopes, seed, strand, wait};
use prost::Message as _;
use rand::Rng;
use serde_json::Value;

/// Time of the first envelope: 2026-01-01, in unix nanoseconds.
const NS: i64 = 1_767_225_600_000_000_000;

/// Returns an envelope as a node signs it. Three payers take turns.
fn signed(node: OriginatorId, key: &SecretKey, sequence: u64, rng: &mut impl Rng) -> Bytes {
    let message = envelopes::group_message([5; 16], 200, rng);
    let payer = envelopes::payer(u8::try_from(1 + sequence % 3).unwrap());
    let payer = envelopes::sign(&message, node, &payer).encode_to_vec();
    let ns = NS + i64::try_from(sequence).unwrap() * 1000;
    let days = u64::from(envelopes::RETENTION_DAYS);
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: node.0,
        originator_sequence_id: sequence,
        originator_ns: ns,
        payer_envelope_bytes: payer.into(),
        base_fee_picodollars: 7,
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::try_from(ns / 1_000_000_000).unwrap() + days * 86_400,
    };
    let bytes: Bytes = statement.encode_to_vec().into();
    let signature = key.sign(originator_digest(&bytes));
    OriginatorEnvelope::encode(bytes, Proof::Signature(signature))
}

fn strand_of(node: &Node, count: u64) -> Vec<Bytes> {
    let mut rng = seed::rng(seed::seed(), u64::from(node.id.0));
    (1..=count).map(|sequence| signed(node.id, &node.key, sequence, &mut rng)).collect()
}

/// The command of an import with the settings of a node.
fn import(node: &Node, url: &str) -> Command {
    let mut command = import_by_environment(node);
    command.args(["--postgres", url]);
    command
}

/// The command of an import that takes the database from the environment.
fn import_by_environment(node: &Node) -> Command {
    let of_node = node.command();
    let mut command = Command::new(of_node.get_program());
    command.args(["--json", "import", "xmtpd"]);
    command.args(of_node.get_args().skip(1));
    for (name, value) in of_node.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn taken_over(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asserts that an import is refused for a reason, and that nothing of the database is kept.
fn assert_refused(node: &Node, url: &str, reason: &str) {
    let output = import(node, url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(reason), "{reason}: {said}");
    assert!(!node.data_dir().exists(), "nothing is kept: {said}");
}

/// Publishes messages one by one; returns their places. The same `author` sends the same messages.
async fn publish(node: &Node, author: u64, count: u64) -> Vec<u64> {
    let mut rng = seed::rng(seed::seed(), author);
    let message = |_| envelopes::group_message([7; 16], 64, &mut rng);
    let messages: Vec<Bytes> = (0..count).map(message).collect();
    let mut places = Vec::new();
    for message in messages {
        let message = envelopes::sign(&message, node.id, &envelopes::payer(0));
        let answer = node.client().publish(vec![message]).await.unwrap().remove(0);
        places.push(strand::id_of(&answer).sequence.0);
    }
    places
}

/// Stores whole strands of both nodes, and closes the session.
async fn fill(session: Session, network: &Network, counts: [u64; 2]) -> [Vec<Bytes>; 2] {
    let strands = [0, 1].map(|index| strand_of(&network.nodes[index], counts[index]));
    for (node, envelopes) in network.nodes.iter().zip(&strands) {
        session.insert(node.id, envelopes.iter().cloned()).await;
    }
    session.set_counter(i64::try_from(counts[0]).unwrap()).await;
    session.close().await;
    strands
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_above_what_database_and_peers_have() {
    let Some(postgres) = Postgres::start().await else { return };
    let mut network = Network::start(2).await;
    publish(&network.nodes[0], 1, 8).await;
    publish(&network.nodes[1], 2, 5).await;
    network.converged().await;
    let (own, other) = (network.nodes[0].id, network.nodes[1].id);
    let before = strand::read_all(&network.nodes[0].client()).await;
    let node = &mut network.nodes[0];
    assert!(node.terminate().success());
    fs::remove_dir_all(node.data_dir()).unwrap();
    fs::remove_dir_all(node.state_dir()).unwrap();

    // The database is older than what the peer has, one place was never used, and one envelope is not in
    // canonical form.
    let session = postgres.create("taken", own, &node.key.public_key()).await;
    let mut held = before[&own.0].clone();
    held.retain(|place, _| *place <= 6 && *place != 3);
    session.insert(own, held.into_values()).await;
    session.insert(other, before[&other.0].values().cloned()).await;
    let other_form = "UPDATE gateway_envelopes_blob SET originator_envelope = originator_envelope || '\\x7a0109' \
                      WHERE originator_node_id = 200 AND originator_sequence_id = 2;
                      INSERT INTO payer_reports VALUES ('\\x01', 100, 6);";
    session.change(other_form).await;
    session.set_counter(7).await;
    session.close().await;

    let report = taken_over(&import(node, &postgres.url("taken")).output().unwrap());
    let strands = report["strands"].as_array().unwrap();
    let seen: Vec<_> = strands
        .iter()
        .map(|it| {
            ["originator", "envelopes", "head", "missing", "rewritten"]
                .map(|name| it[name].as_u64())
        })
        .collect();
    assert_eq!(seen[0], [100, 5, 6, 1, 0].map(Some));
    assert_eq!(seen[1], [200, 5, 5, 0, 1].map(Some));
    assert_eq!(report["payer_reports"], 1);
    assert_eq!(report["own_places_unused"], 1, "the counter stands at 7");

    node.start();
    node.ready().await;
    assert_eq!(publish(node, 1, 2).await, [1, 2], "repeats get the answers that xmtpd has given");
    let behind = publish(node, 3, 1).await;
    // Above what the peer has shown.
    assert!(strand::is_gap(behind[0] - 8 - 1), "{behind:?}");
    network.converged().await;
    let after = strand::read_all(&network.nodes[0].client()).await;
    assert_eq!(after[&other.0], before[&other.0]);
    assert!(before[&own.0].iter().all(|(place, bytes)| after[&own.0].get(place) == Some(bytes)));
    assert_eq!(after, strand::read_all(&network.nodes[1].client()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_killed_goes_on_and_no_node_starts_before_its_end() {
    let Some(postgres) = Postgres::start().await else { return };
    let mut network = Network::new(2);
    let key = network.nodes[0].key.public_key();
    let session = postgres.create("large", network.nodes[0].id, &key).await;
    let strands = fill(session, &network, [30_000, 20_000]).await;
    let url = postgres.url("large");

    let mut running = import(&network.nodes[0], &url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let data_dir = network.nodes[0].data_dir();
    wait::until("the log has its first rows", async || {
        assert_eq!(running.try_wait().unwrap(), None, "it has ended before it could be killed");
        (log_bytes(&data_dir) > 64 << 10).then_some(())
    })
    .await;
    running.kill().unwrap();
    running.wait().unwrap();

    let refused = network.nodes[0].command().output().unwrap();
    assert_eq!(refused.status.code(), Some(3));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("has not come to its end"), "{said}");

    // Rows that are written already are checked again.
    let session = wait::until("the killed process's session has ended", async || {
        let session = postgres.open("large").await;
        let others = "SELECT count(*) FROM pg_stat_activity \
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let others: i64 = session.client.query_one(others, &[]).await.unwrap().get(0);
        if others == 0 { Some(session) } else { None }
    })
    .await;
    let expiry = "UPDATE gateway_envelopes_meta SET expiry = expiry + $1 \
                  WHERE originator_node_id = 100 AND originator_sequence_id = 11";
    session.client.execute(expiry, &[&1i64]).await.unwrap();
    session.close().await;
    let output = import(&network.nodes[0], &url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("originator 100, place 11: topic, payer or expiry"), "{said}");
    assert!(said.contains("has what an earlier run has written"), "{said}");
    let session = postgres.open("large").await;
    session.client.execute(expiry, &[&-1i64]).await.unwrap();
    session.close().await;

    let report = taken_over(&import(&network.nodes[0], &url).output().unwrap());
    assert_eq!(report["resumed"], true);
    assert_eq!(report["strands"][0]["envelopes"], 30_000);
    assert_eq!(report["strands"][1]["envelopes"], 20_000);

    let again = import(&network.nodes[0], &url).output().unwrap();
    assert_eq!(again.status.code(), Some(3));
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("is not empty"), "a finished import is not repeated: {said}");

    network.nodes[0].is_new = false;
    network.nodes[0].start();
    network.nodes[0].readable().await;
    let client = network.nodes[0].client();
    for (node, envelopes) in network.nodes.iter().zip(&strands) {
        let held = strand::read(&client, node.id).await;
        assert!(held.values().eq(envelopes), "node {}", node.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strands_of_the_older_network_are_taken_over_when_their_signer_is_named() {
    let Some(postgres) = Postgres::start().await else { return };
    let mut network = Network::new(2);
    let signer = SecretKey::from_bytes(&[0x21; 32]).unwrap();
    let key = network.nodes[0].key.public_key();
    let session = postgres.create("older", network.nodes[0].id, &key).await;
    let mut rng = seed::rng(seed::seed(), 10);
    // Numbers of rows of another database: most are not used.
    for (originator, places) in [(10, vec![3, 4, 900, 1_200_000]), (11, vec![1]), (13, vec![77])] {
        let originator = OriginatorId(originator);
        let envelopes = places.into_iter().map(|it| signed(originator, &signer, it, &mut rng));
        session.insert(originator, envelopes.collect::<Vec<_>>()).await;
    }
    fill(session, &network, [5, 3]).await;
    let url = postgres.url("older");

    let report = taken_over(&import(&network.nodes[0], &url).output().unwrap());
    assert_eq!(report["strands"].as_array().unwrap().len(), 2);
    assert_eq!(report["left_out"][0], serde_json::json!({ "originator": 10, "envelopes": 4 }));
    fs::remove_dir_all(network.nodes[0].data_dir()).unwrap();

    let other = envelopes::payer(9).public_key().to_string();
    let output =
        import(&network.nodes[0], &url).args(["--migration-key", &other]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("originator 10, place 3") && said.contains("has not signed"), "{said}");
    assert!(!network.nodes[0].data_dir().exists(), "nothing is kept");

    network.add_arguments(&["--migration-key", &signer.public_key().to_string()]);
    let report = taken_over(&import(&network.nodes[0], &url).output().unwrap());
    let strand = &report["strands"][0];
    let seen = ["originator", "envelopes", "head", "missing"].map(|name| strand[name].as_u64());
    assert_eq!(seen, [10, 4, 1_200_000, 1_199_996].map(Some));
    assert_eq!(report["left_out"].as_array().unwrap().len(), 0);

    // The other node follows them.
    network.nodes[0].is_new = false;
    network.start_all().await;
    let clients = [0, 1].map(|index| network.nodes[index].client());
    for (strand, count) in [(10, 4), (11, 1), (13, 1)] {
        let imported = strand::read(&clients[0], OriginatorId(strand)).await;
        assert_eq!(imported.len(), count);
        wait::until_equal(&format!("strand {strand}"), &imported, async || {
            Some(strand::read(&clients[1], OriginatorId(strand)).await)
        })
        .await;
    }
    let metrics = network.nodes[0].metrics().await;
    let invalid = r#"xmtp_verify_failures_total{kind="rule"} 0"#;
    assert!(metrics.text().lines().any(|line| line == invalid), "{}", metrics.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_is_reached_over_tls_with_the_checks_that_are_asked_for() {
    let certificate = Certificate::new("localhost");
    let Some(postgres) = Postgres::start_with_tls(&certificate).await else { return };
    let network = Network::new(2);
    let node = &network.nodes[0];
    let session = postgres.create("safe", node.id, &node.key.public_key()).await;
    fill(session, &network, [5, 3]).await;
    let folder = tempfile::tempdir().unwrap();
    let root = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let own = root("own.pem", &certificate.certificate);
    let other = root("other.pem", &Certificate::new("localhost").certificate);
    let by_address = postgres.url("safe");
    let by_name = by_address.replace("127.0.0.1", "localhost");
    for (url, refused) in [
        (format!("{by_address}?sslmode=require"), None),
        (format!("{by_address}?sslmode=require&sslrootcert={other}"), Some("certificate")),
        (format!("{by_address}?sslmode=verify-ca&sslrootcert={other}"), Some("certificate")),
        (format!("{by_address}?sslmode=verify-ca&sslrootcert={own}"), None),
        (format!("{by_address}?sslmode=verify-full&sslrootcert={own}"), Some("certificate")),
        (format!("{by_name}?sslmode=verify-full&sslrootcert={other}"), Some("certificate")),
        (format!("{by_name}?sslmode=verify-full&sslrootcert={own}"), None),
        (format!("{by_name}?sslmode=verify-full"), Some("cert")),
    ] {
        let output = import(node, &url).output().unwrap();
        let Some(reason) = refused else {
            assert_eq!(taken_over(&output)["strands"][0]["envelopes"], 5, "{url}");
            fs::remove_dir_all(node.data_dir()).unwrap();
            continue;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{url}: {said}");
        assert!(!node.data_dir().exists(), "nothing is kept");
    }
    let Some(plain) = Postgres::start().await else { return };
    plain.create("safe", node.id, &node.key.public_key()).await.close().await;
    let output = import(node, &format!("{}?sslmode=require", plain.url("safe"))).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("does not support TLS"), "{said}");
}

/// Signs a strand on all cores.
fn long_strand(node: &Node, count: u64) -> Vec<Bytes> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = count.div_ceil(threads as u64).max(1);
    std::thread::scope(|scope| {
        let starts = (1..=count).step_by(usize::try_from(part).unwrap());
        let running: Vec<_> = starts
            .map(|start| {
                scope.spawn(move || {
                    let mut rng = seed::rng(seed::seed(), start);
                    let places = start..=count.min(start + part - 1);
                    places.map(|it| signed(node.id, &node.key, it, &mut rng)).collect::<Vec<_>>()
                })
            })
            .collect();
        running.into_iter().flat_map(|it| it.join().unwrap()).collect()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints a rate: docs/performance.md"]
async fn an_import_of_a_long_strand_takes_all_of_it() {
    let Some(postgres) = Postgres::start().await else { return };
    let network = Network::new(2);
    let node = &network.nodes[0];
    let count: u32 = std::env::var("HAWSER_ENVELOPES").map_or(200_000, |it| it.parse().unwrap());
    let session = postgres.create("long", node.id, &node.key.public_key()).await;
    for some in long_strand(node, count.into()).chunks(10_000) {
        session.insert(node.id, some.iter().cloned()).await;
    }
    session.set_counter(count.into()).await;
    session.change("ANALYZE").await;
    session.close().await;

    let began = Instant::now();
    let report = taken_over(&import(node, &postgres.url("long")).output().unwrap());
    let took_s = began.elapsed().as_secs_f64();
    assert_eq!(report["strands"][0]["envelopes"], count);
    let rate = f64::from(count) / took_s;
    println!(
        "{count} envelopes in {took_s:.1} s, the process's start and the comparison included: {rate:.0} /s"
    );
}

/// Returns the size of the database's write-ahead logs.
fn log_bytes(data_dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(data_dir) else { return 0 };
    let logs = entries.flatten().filter(|it| it.path().extension().is_some_and(|it| it == "log"));
    logs.filter_map(|it| Some(it.metadata().ok()?.len())).sum()
}

/// Checks that a session that ends while the import looks holds nothing up, such as that of an operator who has just
/// typed its last command. The import by `other` is refused for another reason then.
async fn assert_waits_for_an_ending_session(postgres: &Postgres, other: &Node, url: &str) {
    let ending = postgres.open("node").await;
    let running = import(other, url).stderr(Stdio::piped()).spawn().unwrap();
    wait::until("the import is connected", async || {
        let text = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'hawser import'";
        ending.client.query_opt(text, &[]).await.unwrap()
    })
    .await;
    ending.close().await;
    let said = running.wait_with_output().unwrap().stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("belongs to node 100"), "{said}");
    assert!(!other.data_dir().exists(), "nothing is kept: {said}");
}

/// Changes of a database, each with the change that undoes it and a part of the reason for which it is refused.
const ALTERED: &[(&str, &str, &str)] = &[
    (
        "DELETE FROM gateway_envelopes_blob WHERE originator_sequence_id = 5 AND originator_node_id = 200",
        "DELETE FROM gateway_envelopes_meta WHERE originator_sequence_id = 5 AND originator_node_id = 200;
         UPDATE gateway_envelopes_latest SET originator_sequence_id = 4 WHERE originator_node_id = 200",
        "the database is cut off",
    ),
    (
        "UPDATE gateway_envelopes_blob SET originator_sequence_id = 7 \
         WHERE originator_sequence_id = 3 AND originator_node_id = 200",
        "UPDATE gateway_envelopes_blob SET originator_sequence_id = 3 \
         WHERE originator_sequence_id = 7 AND originator_node_id = 200",
        "originator 200, place 3: the row is missing in the table gateway_envelopes_blob",
    ),
    (
        "UPDATE gateway_envelopes_meta SET originator_sequence_id = 0 \
         WHERE originator_sequence_id = 3 AND originator_node_id = 200",
        "UPDATE gateway_envelopes_meta SET originator_sequence_id = 3 \
         WHERE originator_sequence_id = 0 AND originator_node_id = 200",
        "originator 200 has 4 rows in gateway_envelopes_meta, and 3 at places from 1 on",
    ),
    (
        "UPDATE gateway_envelopes_latest SET originator_sequence_id = 9 WHERE originator_node_id = 100",
        "UPDATE gateway_envelopes_latest SET originator_sequence_id = 5 WHERE originator_node_id = 100",
        "the database is cut off",
    ),
    (
        "INSERT INTO unsettled_usage VALUES (1, 100, 29000000, 6)",
        "DELETE FROM unsettled_usage",
        "ends at 5, and the table unsettled_usage knows its place 6",
    ),
    (
        "INSERT INTO payer_reports VALUES ('\\x02', 100, 9)",
        "DELETE FROM payer_reports",
        "ends at 5, and the table payer_reports knows its place 9",
    ),
    (
        "INSERT INTO staged_originator_envelopes VALUES (6, '\\x00')",
        "DELETE FROM staged_originator_envelopes",
        "1 messages were accepted",
    ),
    (
        "INSERT INTO latest_block SELECT 'made' || n, 1 FROM generate_series(1, 10001) AS n",
        "DELETE FROM latest_block WHERE contract_address LIKE 'made%'",
        "more than 10000 originators or contracts in a table",
    ),
    (
        "UPDATE schema_migrations SET dirty = true",
        "UPDATE schema_migrations SET dirty = false",
        "version 0, and version 23 is needed",
    ),
    (
        "ALTER TABLE gateway_envelopes_latest ALTER COLUMN originator_node_id TYPE bigint",
        "ALTER TABLE gateway_envelopes_latest ALTER COLUMN originator_node_id TYPE integer",
        "have version 23 and another form",
    ),
    (
        "ALTER TABLE payer_reports RENAME TO reports",
        "ALTER TABLE reports RENAME TO payer_reports",
        "have version 23 and another form",
    ),
    (
        "UPDATE node_info SET public_key = set_byte(public_key, 9, 1)",
        "UPDATE node_info SET node_id = 300",
        "another key of node 100",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_nodes_whole_database_is_refused_and_nothing_of_it_is_kept() {
    let Some(postgres) = Postgres::start().await else { return };
    let network = Network::new(2);
    let (node, other) = (&network.nodes[0], &network.nodes[1]);
    let url = postgres.url("node");
    let session = postgres.create("node", node.id, &node.key.public_key()).await;
    fill(session, &network, [5, 5]).await;

    let live = postgres.open("node").await;
    assert_refused(node, &url, "other sessions have the database open");
    live.close().await;
    assert_waits_for_an_ending_session(&postgres, other, &url).await;
    for (change, undo, reason) in ALTERED {
        let session = postgres.open("node").await;
        session.change(change).await;
        session.close().await;
        assert_refused(node, &url, reason);
        let session = postgres.open("node").await;
        session.change(undo).await;
        session.close().await;
    }
    assert_refused(node, &url, "belongs to node 300");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_row_is_refused_and_nothing_of_the_database_is_kept() {
    let Some(postgres) = Postgres::start().await else { return };
    let network = Network::new(2);
    let (node, other) = (&network.nodes[0], &network.nodes[1]);
    let url = postgres.url("altered");
    let session = postgres.create("altered", node.id, &node.key.public_key()).await;
    let strands = fill(session, &network, [5, 9000]).await;
    let forged = signed(other.id, &envelopes::payer(9), 8500, &mut seed::rng(1, 1));
    for (column, value, reason) in [
        ("originator_envelope", forged.to_vec(), "the key of the node"),
        ("originator_envelope", strands[1][10].to_vec(), "the envelope has another"),
        ("originator_envelope", vec![1, 2, 3], "the bytes do not decode as an envelope"),
        ("topic", vec![0, 1, 2], "topic, payer or expiry"),
        ("originator_envelope", vec![0; 33 << 20], "the envelope or its topic has more than"),
        ("topic", vec![0; 33 << 20], "the envelope or its topic has more than"),
    ] {
        let table = if column == "topic" { "meta" } else { "blob" };
        let place = "WHERE originator_node_id = 200 AND originator_sequence_id = 8500";
        let session = postgres.open("altered").await;
        let select = format!("SELECT {column} FROM gateway_envelopes_{table} {place}");
        let good: Vec<u8> = session.client.query_one(&select, &[]).await.unwrap().get(0);
        let update = format!("UPDATE gateway_envelopes_{table} SET {column} = $1 {place}");
        session.client.execute(&update, &[&value]).await.unwrap();
        session.close().await;

        assert_refused(node, &url, &format!("originator 200, place 8500: {reason}"));

        let session = postgres.open("altered").await;
        session.client.execute(&update, &[&good]).await.unwrap();
        session.close().await;
    }
    // Without that strand, which the node then takes from its peers.
    let exchange = async |envelope: Vec<u8>| {
        let session = postgres.open("altered").await;
        let update = "UPDATE gateway_envelopes_blob SET originator_envelope = $1 \
                      WHERE originator_node_id = 200 AND originator_sequence_id = 8500";
        session.client.execute(update, &[&envelope]).await.unwrap();
        session.close().await;
    };
    exchange(forged.to_vec()).await;
    let report = taken_over(&import(node, &url).args(["--leave-out", "200"]).output().unwrap());
    assert_eq!(report["strands"].as_array().map(Vec::len), Some(1));
    let left_out = serde_json::json!([{ "originator": 200, "envelopes": 9000 }]);
    assert_eq!(report["left_out"], left_out);
    fs::remove_dir_all(node.data_dir()).unwrap();
    exchange(strands[1][8499].to_vec()).await;
    // As for xmtpd, the environment may name another database than the one in its connection string.
    let mut by_environment = import_by_environment(node);
    by_environment.env("XMTPD_DB_WRITER_CONNECTION_STRING", postgres.url("postgres"));
    by_environment.env("XMTPD_DB_NAME_OVERRIDE", "altered");
    let report = taken_over(&by_environment.output().unwrap());
    assert_eq!(
        (&report["resumed"], &report["strands"][1]["envelopes"]),
        (&false.into(), &9000.into())
    );
}
