//! Tests of starting and stopping the chains of a development network.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, U256};
use alloy::providers::Provider as _;
use hawser_chain::contracts::{FeeToken, NodeRegistry, RateRegistry, SettlementChainGateway};
use hawser_chain::send::{Call, Chain, Sender};
use hawser_devchain::deploy::{self, NodeRegistration};
use hawser_devchain::devnet::{APP_ID, Devnet, DevnetError, DevnetSettings, SETTLEMENT_ID};

async fn settlement(devnet: &Devnet) -> Chain {
    let url = format!("http://{}", devnet.settlement_address());
    Chain::connect(&url, SETTLEMENT_ID).await.unwrap()
}

async fn app(devnet: &Devnet) -> Chain {
    Chain::connect(&format!("http://{}", devnet.app_address()), APP_ID).await.unwrap()
}

async fn head_time(chain: &Chain) -> u64 {
    let head = chain.provider().get_block_by_number(BlockNumberOrTag::Latest).await.unwrap();
    head.unwrap().header.timestamp
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn kept_in(folder: &std::path::Path) -> DevnetSettings {
    DevnetSettings { data_dir: Some(folder.to_owned()), ..DevnetSettings::default() }
}

async fn native(devnet: &Devnet, account: Address) -> U256 {
    app(devnet).await.provider().get_balance(account).await.unwrap()
}

#[tokio::test]
async fn nothing_lies_in_the_future() {
    let devnet = Devnet::start(DevnetSettings::default()).await.unwrap();
    let chain = settlement(&devnet).await;
    assert!(head_time(&chain).await <= now());
    assert!(head_time(&app(&devnet).await).await <= now());
    let registry = devnet.deployment().addresses.rate_registry;
    let rates = RateRegistry::getRatesCall { fromIndex_: U256::ZERO, count_: U256::ONE };
    let rates = chain.view(registry, &rates).await.unwrap();
    assert!(rates[0].startTime <= now(), "the first prices are in effect");
    // From here on the chain's clock equals the machine's.
    let sender = Sender::new(chain.clone(), deploy::accounts().swap_remove(1));
    let before = now();
    let gift =
        Call { to: Some(Address::repeat_byte(1)), data: Default::default(), value: U256::ONE };
    sender.send(&gift).await.unwrap();
    assert!(head_time(&chain).await >= before);
    devnet.stop().await;
}

#[tokio::test]
async fn messages_left_at_the_bridge_are_delivered_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let devnet = Devnet::start(kept_in(folder.path())).await.unwrap();
    let addresses = devnet.deployment().addresses.clone();
    let recipient = Address::repeat_byte(7);
    let sender = Sender::new(settlement(&devnet).await, deploy::deployer());
    let gateway = addresses.settlement_chain_gateway;
    let amount = U256::from(2_000_000);
    let approve = FeeToken::approveCall { spender: gateway, value: amount };
    sender.send(&Call::new(addresses.fee_token, &approve)).await.unwrap();
    let deposit = SettlementChainGateway::depositCall {
        chainId_: U256::from(APP_ID),
        recipient_: recipient,
        amount_: amount,
        gasLimit_: U256::ZERO,
        maxFeePerGas_: U256::ZERO,
    };
    sender.send(&Call::new(gateway, &deposit)).await.unwrap();
    devnet.stop().await;

    let devnet = Devnet::start(kept_in(folder.path())).await.unwrap();
    assert_eq!(devnet.deployment().transactions, 0);
    assert_eq!(devnet.deployment().addresses, addresses);
    let arrived = U256::from(2_000_000_000_000_000_000_u64);
    while native(&devnet, recipient).await.is_zero() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(native(&devnet, recipient).await, arrived);
    devnet.stop().await;

    let devnet = Devnet::start(kept_in(folder.path())).await.unwrap();
    assert_eq!(native(&devnet, recipient).await, arrived, "and not again");
    devnet.stop().await;
}

#[tokio::test]
async fn nodes_are_registered_and_blocks_come_at_an_interval() {
    let mut public_key = [5; 65];
    public_key[0] = 4;
    let owner = Address::repeat_byte(3);
    let http_address = "http://127.0.0.1:5050".to_owned();
    let node = NodeRegistration { id: 100, owner, public_key, http_address, is_canonical: true };
    let block_time = Some(Duration::from_secs(1));
    let settings = DevnetSettings { nodes: vec![node], block_time, ..DevnetSettings::default() };
    let devnet = Devnet::start(settings).await.unwrap();
    let chain = settlement(&devnet).await;
    let registry = devnet.deployment().addresses.node_registry;
    let nodes = chain.view(registry, &NodeRegistry::getAllNodesCall {}).await.unwrap();
    assert_eq!(nodes.len(), 1);
    assert!(nodes[0].node.isCanonical);
    let begin = chain.provider().get_block_number().await.unwrap();
    while chain.provider().get_block_number().await.unwrap() < begin + 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    devnet.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_told() {
    let first = Devnet::start(DevnetSettings::default()).await.unwrap();
    let app_port = first.app_address().port();
    let error = Devnet::start(DevnetSettings { app_port, ..DevnetSettings::default() }).await;
    let error = error.unwrap_err();
    assert!(matches!(error, DevnetError::Start { chain: "app", .. }), "{error}");
    assert!(error.to_string().contains(&app_port.to_string()), "{error}");
    first.stop().await;
}
