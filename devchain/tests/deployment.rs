//! Tests of a deployment: it has the same addresses every time, continues after an interruption, and leaves a
//! complete deployment unchanged.

use alloy::primitives::{Address, U256};
use alloy::providers::Provider as _;
use hawser_chain::addresses::Addresses;
use hawser_chain::contracts::{
    AppChainParameterRegistry, DistributionManager, FeeToken, GroupMessageBroadcaster,
    MockUnderlyingFeeToken, NodeRegistry, PayerRegistry, PayerReportManager, RateRegistry,
    SettlementChainGateway, SettlementChainParameterRegistry, artifact, parameter,
};
use hawser_chain::deploy::DeployError;
use hawser_chain::send::{Call, Chain, Sender};
use hawser_devchain::deploy::{self, DevDeployError, NodeRegistration, RegisterError};

use crate::pair::{self, ChainBackend, Pair, sender};

crate::on_both_kinds_of_chain! {
    two_fresh_pairs_get_the_same_addresses
    a_complete_deployment_is_left_as_it_is
    a_deployment_that_was_cut_short_is_finished
    every_contract_says_what_it_is
    first_values_are_in_effect
    every_account_has_tokens
    a_deployer_that_was_used_is_refused
    one_chain_for_both_is_refused
    nodes_are_registered_in_their_order
}

async fn two_fresh_pairs_get_the_same_addresses(kind: ChainBackend) {
    let (_first, one) = Pair::deployed(kind).await;
    let (_second, other) = Pair::deployed(kind).await;
    assert_eq!(one, other);
    assert!(one.transactions > 40);
    assert_eq!(Addresses::parse(&one.addresses.to_json().to_string()).unwrap(), one.addresses);
}

async fn a_complete_deployment_is_left_as_it_is(kind: ChainBackend) {
    let (pair, first) = Pair::deployed(kind).await;
    // A second run keeps an administrator's changes.
    let admin = sender(&pair.settlement, 0);
    let registry = first.addresses.settlement_chain_parameter_registry;
    let set = SettlementChainParameterRegistry::set_0Call {
        key_: parameter::PAYER_REGISTRY_MINIMUM_DEPOSIT.to_owned(),
        value_: parameter::of_uint(0_u8),
    };
    admin.send(&Call::new(registry, &set)).await.unwrap();
    let heads = [head(&pair.settlement).await, head(&pair.app).await];

    let again = pair.deploy().await;
    assert_eq!(again.transactions, 0);
    assert_eq!(again.addresses, first.addresses);
    assert_eq!([head(&pair.settlement).await, head(&pair.app).await], heads);
}

/// Interrupts a deployment repeatedly, after one to four transactions of each run.
async fn a_deployment_that_was_cut_short_is_finished(kind: ChainBackend) {
    let (_reference, complete) = Pair::deployed(kind).await;
    let pair = Pair::start(kind).await;
    let key = deploy::deployer();
    let mut runs = 0;
    let finished = loop {
        runs += 1;
        assert!(runs < 200, "no progress");
        if let Some(deployment) = interrupted(&pair, runs).await {
            break deployment;
        }
    };
    assert!(runs > 10, "it was cut short {runs} times");
    assert_eq!(finished.addresses, complete.addresses);
    let sent =
        [sent_by(&pair.settlement, key.address()).await, sent_by(&pair.app, key.address()).await];
    let whole: u64 = sent.iter().sum();
    assert_eq!(whole, complete.transactions, "nothing was sent twice");
    assert_eq!(pair.deploy().await.transactions, 0);
}

/// Runs a deployment and aborts it at a different time in each run. Returns `None` if it was aborted.
async fn interrupted(pair: &Pair, run: u32) -> Option<deploy::Deployment> {
    let before = pair_sent(pair).await;
    let (settlement, app) = (pair.settlement.clone(), pair.app.clone());
    let running = tokio::spawn(async move {
        deploy::deploy(&settlement, &app, &deploy::deployer()).await.unwrap()
    });
    while !running.is_finished() {
        if pair_sent(pair).await > before + u64::from(run % 4) {
            running.abort();
        }
        tokio::task::yield_now().await;
    }
    match running.await {
        Ok(deployment) => Some(deployment),
        Err(error) if error.is_cancelled() => None,
        Err(error) => panic!("{error}"),
    }
}

async fn pair_sent(pair: &Pair) -> u64 {
    let deployer = deploy::deployer().address();
    sent_by(&pair.settlement, deployer).await + sent_by(&pair.app, deployer).await
}

async fn sent_by(chain: &Chain, account: Address) -> u64 {
    chain.provider().get_transaction_count(account).await.unwrap()
}

async fn head(chain: &Chain) -> u64 {
    chain.provider().get_block_number().await.unwrap()
}

async fn every_contract_says_what_it_is(kind: ChainBackend) {
    let (pair, deployment) = Pair::deployed(kind).await;
    let json = deployment.addresses.to_json();
    let mut asked = 0;
    for artifact in
        artifact::all().iter().filter(|artifact| artifact.abi.function("contractName").is_some())
    {
        let key = format!("{}{}", artifact.name[..1].to_lowercase(), &artifact.name[1..]);
        let Some(address) = json.get(&key).and_then(|address| address.as_str()) else { continue };
        let on_app = key.starts_with("appChain") || key.ends_with("Broadcaster");
        let chain = if on_app { &pair.app } else { &pair.settlement };
        let name = NodeRegistry::contractNameCall {};
        assert_eq!(chain.view(address.parse().unwrap(), &name).await.unwrap(), artifact.name);
        asked += 1;
    }
    assert!(asked >= 13, "{asked}");
}

async fn first_values_are_in_effect(kind: ChainBackend) {
    let (pair, deployment) = Pair::deployed(kind).await;
    let (settlement, app, at) = (&pair.settlement, &pair.app, &deployment.addresses);
    let deployer = deploy::deployer().address();
    let nodes = at.node_registry;
    assert_eq!(settlement.view(nodes, &NodeRegistry::adminCall {}).await.unwrap(), deployer);
    let most = settlement.view(nodes, &NodeRegistry::maxCanonicalNodesCall {}).await.unwrap();
    assert_eq!(most, 100);
    let payers = at.payer_registry;
    let settler = settlement.view(payers, &PayerRegistry::settlerCall {}).await.unwrap();
    assert_eq!(settler, at.payer_report_manager);
    let to = settlement.view(payers, &PayerRegistry::feeDistributorCall {}).await.unwrap();
    assert_eq!(to, at.distribution_manager);
    let least = settlement.view(payers, &PayerRegistry::minimumDepositCall {}).await.unwrap();
    assert_eq!(U256::from(least), U256::from(10_000_000));
    let lock = settlement.view(payers, &PayerRegistry::withdrawLockPeriodCall {}).await.unwrap();
    assert_eq!(lock, 172_800);
    let share = PayerReportManager::protocolFeeRateCall {};
    assert_eq!(settlement.view(at.payer_report_manager, &share).await.unwrap(), 0);
    let recipient = DistributionManager::protocolFeesRecipientCall {};
    let recipient = settlement.view(at.distribution_manager, &recipient).await.unwrap();
    assert_eq!(recipient, Address::ZERO);
    let rates = RateRegistry::getRatesCall { fromIndex_: U256::ZERO, count_: U256::ONE };
    let rates = settlement.view(at.rate_registry, &rates).await.unwrap().remove(0);
    let prices =
        (rates.messageFee, rates.storageFee, rates.congestionFee, rates.targetRatePerMinute);
    assert_eq!(prices, (100, 200, 300, 6000));
    assert!(rates.startTime > 0);
    for broadcaster in [at.group_message_broadcaster, at.identity_update_broadcaster] {
        let least = GroupMessageBroadcaster::minPayloadSizeCall {};
        let most = GroupMessageBroadcaster::maxPayloadSizeCall {};
        let paused = GroupMessageBroadcaster::pausedCall {};
        assert_eq!(app.view(broadcaster, &least).await.unwrap(), 78);
        assert_eq!(app.view(broadcaster, &most).await.unwrap(), 262_144);
        assert!(!app.view(broadcaster, &paused).await.unwrap());
    }
    // Only the gateway may set parameters of the app chain.
    let registry = at.app_chain_parameter_registry;
    let is_admin = |account_| AppChainParameterRegistry::isAdminCall { account_ };
    assert!(app.view(registry, &is_admin(at.app_chain_gateway)).await.unwrap());
    assert!(!app.view(registry, &is_admin(deployer)).await.unwrap());
    let get_inbox = SettlementChainGateway::getInboxCall { chainId_: U256::from(app.id()) };
    let inbox = settlement.view(at.settlement_chain_gateway, &get_inbox).await.unwrap();
    assert_eq!(inbox, deployment.inbox);
}

async fn every_account_has_tokens(kind: ChainBackend) {
    let (pair, deployment) = Pair::deployed(kind).await;
    let token = deployment.addresses.fee_token;
    let balance = async |account| {
        pair.settlement.view(token, &FeeToken::balanceOfCall { account }).await.unwrap()
    };
    let mut sum = U256::ZERO;
    for key in deploy::accounts() {
        let tokens = balance(key.address()).await;
        assert!(tokens >= U256::from(10_000_000_000_u64));
        sum += tokens;
    }
    // The inbox backs the native tokens of the accounts on the app chain.
    let backing = balance(deployment.inbox).await;
    let native = deploy::NATIVE_BALANCE * U256::from(10);
    assert!(backing * U256::from(1_000_000_000_000_u64) >= native);
    let supply = pair.settlement.view(token, &FeeToken::totalSupplyCall {}).await.unwrap();
    assert_eq!(supply, sum + backing);
    let held = MockUnderlyingFeeToken::balanceOfCall { account: token };
    let held =
        pair.settlement.view(deployment.addresses.underlying_fee_token, &held).await.unwrap();
    assert_eq!(held, supply);
}

async fn a_deployer_that_was_used_is_refused(kind: ChainBackend) {
    let pair = Pair::start(kind).await;
    let deployer = Sender::new(pair.settlement.clone(), deploy::deployer());
    let to = Some(Address::repeat_byte(1));
    let gift = Call { to, data: Default::default(), value: U256::ONE };
    deployer.send(&gift).await.unwrap();
    let error = deploy::deploy(&pair.settlement, &pair.app, &deploy::deployer()).await.unwrap_err();
    let used = DevDeployError::Contracts(DeployError::DeployerUsed {
        account: deployer.account(),
        chain_id: pair.settlement.id(),
        sent: 1,
    });
    assert_eq!(error, used);
}

async fn one_chain_for_both_is_refused(kind: ChainBackend) {
    let pair = Pair::start(kind).await;
    let error = deploy::deploy(&pair.app, &pair.app, &deploy::deployer()).await.unwrap_err();
    assert_eq!(error, DevDeployError::Contracts(DeployError::SameChain(pair::APP_ID)));
}

async fn nodes_are_registered_in_their_order(kind: ChainBackend) {
    let (pair, deployment) = Pair::deployed(kind).await;
    let registry = deployment.addresses.node_registry;
    let admin = sender(&pair.settlement, 0);
    let owner = deploy::accounts()[3].address();
    let node = |id: u32, key: u8, is_canonical| {
        let mut public_key = [key; 65];
        public_key[0] = 4;
        let http_address = format!("http://127.0.0.1:{id}");
        NodeRegistration { id, owner, public_key, http_address, is_canonical }
    };
    let register =
        async |nodes: &[NodeRegistration]| deploy::register_nodes(&admin, registry, nodes).await;
    register(&[node(200, 2, false), node(100, 1, true)]).await.unwrap();
    let all = async || {
        let all = NodeRegistry::getAllNodesCall {};
        let all = pair.settlement.view(registry, &all).await.unwrap();
        let row = |n: &hawser_chain::contracts::node_registry::NodeRegistry::NodeWithId| {
            (n.nodeId, n.node.isCanonical, n.node.httpAddress.clone())
        };
        all.iter().map(row).collect::<Vec<_>>()
    };
    let first = (100, true, "http://127.0.0.1:100".to_owned());
    assert_eq!(all().await, [first, (200, false, "http://127.0.0.1:200".to_owned())]);
    let signer = Address::from_raw_public_key(&node(100, 1, true).public_key[1..]);
    assert!(pair::native_balance(&pair.settlement, signer).await > U256::ZERO);

    // A second registration with changes in every field that may change.
    let moved =
        NodeRegistration { http_address: "http://elsewhere:1".to_owned(), ..node(100, 1, false) };
    register(&[moved.clone(), node(200, 2, true)]).await.unwrap();
    let expected = [
        (100, false, "http://elsewhere:1".to_owned()),
        (200, true, "http://127.0.0.1:200".to_owned()),
    ];
    assert_eq!(all().await, expected);
    let before = head(&pair.settlement).await;
    register(&[moved, node(200, 2, true)]).await.unwrap();
    assert_eq!(head(&pair.settlement).await, before, "nothing to do");

    let other = register(&[node(100, 9, true)]).await.unwrap_err();
    assert_eq!(other, RegisterError::OtherKey { id: 100 });
    let gap = register(&[node(400, 4, true)]).await.unwrap_err();
    assert_eq!(gap, RegisterError::OtherId { id: 400, next: 300 });
}
