//! Two gateways with one payer key and a real Redis, before real nodes and the real contracts: one is killed under
//! load, and everything that was acknowledged is there once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alloy::providers::Provider as _;
use hawser_chain::send::Chain;
use hawser_devchain::devnet::APP_ID;
use hawser_proto::pb::xmtp::mls::api::v1::GroupMessageInput;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::payer_api::PublishClientEnvelopesRequest;
use hawser_proto::pb::xmtp::xmtpv4::payer_api::payer_api_client::PayerApiClient;
use prost::Message as _;
use tonic::transport::Endpoint;

use crate::money_network::{MoneyNetwork, MoneySettings, NODES};
use crate::redis_server::RedisServer;
use crate::support::{Running, free_base, hawser, page, signal, until};

/// Clients and their envelopes: every fourth envelope is a commit.
const CLIENTS: u8 = 8;
const ENVELOPES: u32 = 24;
/// Acknowledged envelopes after which one gateway is killed.
const KILLED_AFTER: usize = 60;

struct Gateway {
    running: Option<Running>,
    port: u16,
}

impl Gateway {
    fn start(network: &MoneyNetwork, redis: &RedisServer) -> Self {
        let [port, metrics] = [(); 2].map(|()| free_base(0));
        let url = |address: std::net::SocketAddr| format!("http://{address}");
        let mut command = hawser();
        command.args(["gateway", "--listen-address", "127.0.0.1", "--shutdown-drain", "0s"]);
        command.args(["--api.port", &port.to_string()]);
        command.args(["--metrics.metrics-port", &metrics.to_string()]);
        command.arg("--payer.key-file").arg(&network.payers[0].key);
        command.args(["--contracts.config-file-path", &network.file("chain.json")]);
        let app = url(network.chains.app_address());
        command.args(["--contracts.app-chain.rpc-url", &app]);
        let settlement = url(network.chains.settlement_address());
        command.args(["--contracts.settlement-chain.rpc-url", &settlement]);
        command.args(["--redis.redis-url", &redis.url()]);
        command.arg("--allow-private-nodes");
        let mut running = Running::start(command, true);
        running.line("start", |line| line.contains("started gateway server"));
        until("the gateway is ready", || {
            page(&format!("127.0.0.1:{metrics}"), "/readyz").contains("200 OK")
        });
        Self { running: Some(running), port }
    }

    fn kill(&mut self) {
        let running = self.running.take().unwrap();
        signal(running.pid(), "KILL");
        assert!(!running.end().success());
    }
}

/// An envelope of a group: an application message, or a commit.
fn envelope(client: u8, number: u32) -> pb::ClientEnvelope {
    let (group, content_type) = ([client + 1; 16], if number % 4 == 3 { 3 } else { 1 });
    let mut body = format!("envelope {number} of client {client}").into_bytes();
    body.resize(120, b'.');
    let mut data = vec![0, 1, 0, 2, 16];
    data.extend(group);
    data.extend([0, 0, 0, 0, 0, 0, 0, 1, content_type, 0, 0]);
    data.extend((0x4000 | u16::try_from(body.len()).unwrap()).to_be_bytes());
    data.extend(body);
    let message =
        GroupMessageInput { version: Some(Version::V1(V1 { data: data.into(), ..V1::default() })) };
    let target_topic = [&[0][..], &group].concat().into();
    pb::ClientEnvelope {
        aad: Some(pb::AuthenticatedData { target_topic, depends_on: None }),
        payload: Some(pb::client_envelope::Payload::GroupMessage(message)),
    }
}

/// Publishes all envelopes of one client, each at the gateway whose turn it is, and again at the other one until it is
/// acknowledged.
async fn publish_all(client: u8, ports: [u16; 2], acknowledged: Arc<AtomicUsize>) {
    for number in 0..ENVELOPES {
        let envelopes = vec![envelope(client, number)];
        for attempt in usize::from(client).. {
            let url = format!("http://127.0.0.1:{}", ports[attempt % 2]);
            let endpoint = Endpoint::from_shared(url).unwrap();
            let request = PublishClientEnvelopesRequest { envelopes: envelopes.clone() };
            let published = async {
                let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
                let mut gateway = PayerApiClient::new(channel);
                let answer = gateway.publish_client_envelopes(request).await;
                answer.map_err(|status| status.to_string())
            };
            match published.await {
                Ok(_) => break,
                Err(error) => eprintln!("client {client} asks again: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(attempt < 1000, "it is never acknowledged");
        }
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts the client envelopes of a strand at a node.
fn count(network: &MoneyNetwork, originator: u32, times: &mut BTreeMap<Vec<u8>, u32>) {
    for held in network.strand(0, originator) {
        let client = held.unsigned().payer().client();
        if !client.topic().kind().is_reserved() {
            *times.entry(client.as_bytes().to_vec()).or_default() += 1;
        }
    }
}

#[test]
fn one_of_two_gateways_is_killed_and_all_that_was_acknowledged_is_there_once() {
    let redis = RedisServer::start();
    let network = MoneyNetwork::start(MoneySettings::default());
    let mut gateways = [Gateway::start(&network, &redis), Gateway::start(&network, &redis)];
    let ports = [gateways[0].port, gateways[1].port];
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| network.runtime.spawn(publish_all(client, ports, acknowledged.clone())))
        .collect();
    until("a part is published", || acknowledged.load(Ordering::Relaxed) >= KILLED_AFTER);
    gateways[0].kill();
    for client in clients {
        network.runtime.block_on(client).unwrap();
    }
    network.replicate();

    let mut times = BTreeMap::new();
    for originator in NODES.into_iter().chain([0]) {
        count(&network, originator, &mut times);
    }
    let expected = (0..CLIENTS).flat_map(|client| {
        (0..ENVELOPES).map(move |number| (envelope(client, number).encode_to_vec(), 1))
    });
    assert_eq!(times.len(), usize::from(CLIENTS) * ENVELOPES as usize);
    assert_eq!(times, expected.collect(), "each once: its payer is charged once");

    // One transaction for each commit, but for nonces that were filled, and no nonce is a hole.
    let commits = u64::from(CLIENTS) * u64::from(ENVELOPES / 4);
    let url = format!("http://{}", network.chains.app_address());
    let payer = network.payers[0].address;
    until("no transaction is under way", || {
        network.runtime.block_on(async {
            let chain = Chain::connect(&url, APP_ID).await.unwrap();
            let mined = chain.provider().get_transaction_count(payer).await.unwrap();
            let pending = chain.provider().get_transaction_count(payer).pending().await.unwrap();
            mined == pending && mined >= commits
        })
    });
    network.stop();
}
