//! Inboxes of contract wallets (ERC-1271): what only a wallet's chain can tell holds up its own
//! inbox while that chain is away, and nothing else.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use alloy::primitives::Address;
use alloy::sol_types::SolValue as _;
use bytes::Bytes;
use hawser_chain::send::{Call, Chain, Sender};
use hawser_devchain::deploy;
use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings, Genesis};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::{Cursor, InboxId, OriginatorId};
use hawser_tests::harness::identities::{Account, adding, envelope, founding, key, topic};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{ports, strand, wait};

alloy::sol! {
    #[sol(rpc)]
    WalletHarness,
    "../contracts/artifacts/WalletHarness.json"
}

/// The wallet's chain.
const CHAIN_ID: u64 = 31_400;

/// The first contract of the first account.
fn wallet_address() -> Address {
    deploy::accounts()[0].address().create(0)
}

/// The key that signs for the wallet, which exists from the first block on.
fn wallet(signer: u8) -> Account {
    let address = wallet_address().into_array();
    Account::Contract { chain_id: CHAIN_ID, address, block_number: 1, key: key(signer) }
}

/// The chain, with a wallet on it that belongs to key 7.
async fn start_chain(port: u16) -> EmbeddedChain {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let payer = (deploy::accounts()[0].address(), deploy::NATIVE_BALANCE);
    let genesis = Genesis { balances: vec![payer], ..Genesis::default() };
    let settings = EmbeddedSettings { listen, genesis, ..EmbeddedSettings::new(CHAIN_ID) };
    let chain = EmbeddedChain::start(settings).await.unwrap();
    let rpc = Chain::connect(&format!("http://{listen}"), CHAIN_ID).await.unwrap();
    let owner = Address::from(key(7).public_key().address().0);
    let code = [&WalletHarness::BYTECODE[..], &owner.abi_encode()].concat();
    let sender = Sender::new(rpc, deploy::accounts().swap_remove(0));
    let receipt = sender.send(&Call::create(code.into())).await.unwrap();
    assert_eq!((receipt.block_number, receipt.contract_address), (Some(1), Some(wallet_address())));
    chain
}

/// The file that replaces the app chain.
struct Updates(PathBuf);

impl Updates {
    fn new(folder: &Path) -> Self {
        Self(folder.join("updates.jsonl"))
    }

    fn put(&self, update: IdentityUpdate) -> Bytes {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        self.put_at(update, now.as_secs())
    }

    /// Puts an update into a block of this time, unix seconds. The wallet's block may not be much later.
    fn put_at(&self, update: IdentityUpdate, block_time_s: u64) -> Bytes {
        let bytes = envelope(update);
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0).unwrap();
        let hex = hex::encode(&bytes);
        let line = serde_json::json!({
            "hex": hex, "expect_route": "chain:identity", "block_time": block_time_s,
        });
        writeln!(file, "{line}").unwrap();
        bytes
    }
}

/// Returns the updates of an inbox that the node shows, as the clients wrote them.
async fn shown(node: &Node, inbox: InboxId) -> Vec<Bytes> {
    let page = node.client().query_topics(&[topic(inbox)], &Cursor::new(), 0).await.unwrap();
    page.iter().map(strand::client_bytes_of).collect()
}

async fn until_shown(node: &Node, inbox: InboxId, updates: &[Bytes]) {
    let updates = updates.to_vec();
    wait::until_equal("the inbox is shown", &updates, async || Some(shown(node, inbox).await))
        .await;
}

async fn inbox_of(node: &Node, account: &Account) -> Option<String> {
    node.client().inbox_ids(&[&account.address()]).await.unwrap().remove(0)
}

async fn until_waiting(node: &Node, inboxes: f64) {
    wait::until_equal("so many inboxes wait", &inboxes, async || {
        Some(node.metrics().await.sum("xmtp_identity_inboxes_waiting", &[]))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_waits_for_its_wallets_chain_and_no_other_inbox_does() {
    let mut network = Network::new(1);
    let port = ports::free();
    let updates = Updates::new(network.nodes[0].folder());
    let (contract, forger) = (wallet(7), wallet(8));
    let [other, friend, late] = [11, 12, 13].map(Account::with_key);
    let (inbox, forged, plain) = (contract.inbox_id(1), forger.inbox_id(2), other.inbox_id(1));
    assert_ne!(inbox, forged);
    let held =
        [updates.put(founding(&contract, 1)), updates.put(adding(inbox, &contract, &friend))];
    updates.put(founding(&forger, 2));
    let first = updates.put(founding(&other, 1));
    network.nodes[0].arguments = vec![
        "--chain-file".into(),
        updates.0.display().to_string(),
        "--wallet-rpc".into(),
        format!("{CHAIN_ID}=http://127.0.0.1:{port}"),
        "--wallet-chains".into(),
        CHAIN_ID.to_string(),
    ];
    network.start_all().await;
    let node = &mut network.nodes[0];

    until_shown(node, plain, std::slice::from_ref(&first)).await;
    until_waiting(node, 2.0).await;
    let second = updates.put(adding(plain, &other, &late));
    until_shown(node, plain, &[first.clone(), second.clone()]).await;
    assert_eq!(inbox_of(node, &late).await, Some(plain.to_string()), "other inboxes go on");
    for waiting in [inbox, forged] {
        assert!(shown(node, waiting).await.is_empty());
        assert_eq!(
            node.client().newest(vec![topic(waiting).as_bytes().clone()]).await.unwrap(),
            [None]
        );
    }
    for account in [&contract, &friend] {
        assert_eq!(inbox_of(node, account).await, None);
    }
    let strand = [OriginatorId::IDENTITY_UPDATES];
    let all = node.client().query_originators(&strand, &Cursor::new(), 100).await.unwrap();
    let all: Vec<_> = all.iter().map(strand::client_bytes_of).collect();
    assert_eq!(all, [first, second], "no reader is shown a waiting update");

    // It goes on waiting after a restart, until the chain is there.
    assert!(node.terminate().success());
    node.start();
    node.ready().await;
    until_waiting(node, 2.0).await;
    assert!(shown(node, inbox).await.is_empty());
    let chain = start_chain(port).await;
    until_shown(node, inbox, &held).await;
    until_waiting(node, 0.0).await;
    for account in [&contract, &friend] {
        assert_eq!(inbox_of(node, account).await, Some(inbox.to_string()));
    }
    assert!(shown(node, forged).await.is_empty(), "the wallet has not signed that");

    // An answer is kept for good, so the chain is not needed again.
    chain.stop().await;
    assert!(node.terminate().success());
    node.start();
    node.ready().await;
    assert_eq!(shown(node, inbox).await, held);
    assert_eq!(inbox_of(node, &friend).await, Some(inbox.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_account_holds_an_inbox_with_a_chain_or_a_block_that_never_comes() {
    let mut network = Network::new(1);
    let updates = Updates::new(network.nodes[0].folder());
    let chain = start_chain(ports::free()).await;
    let victim = Account::with_key(21);
    let (inbox, address) = (victim.inbox_id(1), key(21).public_key().address().0);
    let claim = |chain_id, block_number| {
        let claim = Account::Contract { chain_id, address, block_number, key: key(9) };
        assert_eq!(claim.inbox_id(1), inbox, "it claims the victim's inbox");
        founding(&claim, 1)
    };
    // A chain without endpoints, and a block far away on a chain whose newest block is later than
    // the event by more than the margin.
    updates.put(claim(999_999, 1));
    updates.put_at(claim(CHAIN_ID, u64::MAX), 1_750_000_000);
    let own = updates.put(founding(&victim, 1));
    network.nodes[0].arguments = vec![
        "--chain-file".into(),
        updates.0.display().to_string(),
        "--wallet-rpc".into(),
        format!("{CHAIN_ID}=http://{}", chain.local_addr()),
        "--wallet-chains".into(),
        CHAIN_ID.to_string(),
    ];
    network.start_all().await;
    let node = &network.nodes[0];
    until_shown(node, inbox, std::slice::from_ref(&own)).await;
    until_waiting(node, 0.0).await;
    assert_eq!(inbox_of(node, &victim).await, Some(inbox.to_string()));
}
