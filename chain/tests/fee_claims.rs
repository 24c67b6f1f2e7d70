//! Tests of the fees that nodes and the protocol claim and withdraw, on both kinds of development chain.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::SignerSync as _;
use alloy::sol_types::SolValue as _;
use hawser_chain::admin::fees::{self, Beneficiary};
use hawser_chain::admin::parameters::{self, Adoption};
use hawser_chain::admin::watcher::{self, AlarmKind, OlderReports, WatchLimits, Watched};
use hawser_chain::admin::{Account, AdminError, Contract, Contracts, agreed, nodes, payers};
use hawser_chain::contracts::payer_report_manager::PayerReportManager::PayerReportSignature;
use hawser_chain::contracts::{PayerReportManager, parameter};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::send::Call;
use hawser_proto::OriginatorId;
use serde_json::Value;

use crate::administration::{
    Administration, FEE_TOKEN, NODE, UNDERLYING, functions, key, new_node, usd,
};
use crate::pair::{self, ChainBackend};
use crate::proxy::Proxy;

crate::on_both_kinds_of_chain! {
    fees_are_claimed_once_and_paid_out
}

/// Submits a report about the fees of one payer or of none, signed by node 100, the only canonical node. Returns its
/// id.
async fn report(
    setup: &Administration,
    originator: u32,
    index: u64,
    payer: Address,
    picodollars: u128,
) -> B256 {
    let node_ids = vec![100];
    let leaf = (payer, U256::from(picodollars)).abi_encode();
    let hashed = |parts: &[&[u8]]| keccak256(parts.concat());
    let root = if picodollars == 0 {
        B256::ZERO
    } else {
        let inner = hashed(&[b"node|", hashed(&[b"leaf|", &leaf]).as_slice()]);
        hashed(&[b"root|", &U256::from(1).to_be_bytes::<32>(), inner.as_slice()])
    };
    let digest = PayerReportManager::getPayerReportDigestCall {
        originatorNodeId_: originator,
        startSequenceId_: index,
        endSequenceId_: index + 1,
        endMinuteSinceEpoch_: 1,
        payersMerkleRoot_: root,
        nodeIds_: node_ids.clone(),
    };
    let manager = setup.at(Contract::PayerReportManager);
    let digest = setup.pair.settlement.view(manager, &digest).await.unwrap();
    let signature = Bytes::from(key(1).sign_hash_sync(&digest).unwrap().as_bytes().to_vec());
    let submit = PayerReportManager::submitCall {
        originatorNodeId_: originator,
        startSequenceId_: index,
        endSequenceId_: index + 1,
        endMinuteSinceEpoch_: 1,
        payersMerkleRoot_: root,
        nodeIds_: node_ids,
        signatures_: vec![PayerReportSignature { nodeId: 100, signature }],
    };
    setup.admin.send(&Call::new(manager, &submit)).await.unwrap();
    if picodollars > 0 {
        let settle = PayerReportManager::settleCall {
            originatorNodeId_: originator,
            payerReportIndex_: U256::from(index),
            payerFees_: vec![leaf.into()],
            proofElements_: vec![U256::from(1).into()],
        };
        setup.admin.send(&Call::new(manager, &settle)).await.unwrap();
    }
    digest
}

/// Gives the protocol a share of 1 %, which `recipient` gets.
async fn the_protocol_gets_a_share(setup: &Administration, recipient: Address) {
    let shared = [
        (parameter::PAYER_REPORT_MANAGER_PROTOCOL_FEE_RATE, "100".to_owned()),
        (parameter::DISTRIBUTION_MANAGER_PROTOCOL_FEES_RECIPIENT, recipient.to_string()),
    ];
    let shared = shared.map(|(key, value)| parameters::assignment(key, &value).unwrap());
    let plan = parameters::set(&setup.network, &shared, Adoption::Planned).await.unwrap();
    setup.carry_out(&plan).await;
}

/// Returns the call data in the test vectors.
fn vector(function: &str) -> Bytes {
    let text = include_str!("../../tests/vectors/contracts/calldata.json");
    let vectors: Value = serde_json::from_str(text).unwrap();
    let mut cases = vectors["cases"].as_array().unwrap().iter();
    let case = cases.find(|case| case["function"] == function).unwrap();
    case["calldata"].as_str().unwrap().parse().unwrap()
}

async fn fees_are_claimed_once_and_paid_out(kind: ChainBackend) {
    const DOLLAR: u128 = 1_000_000_000_000;
    let setup = Administration::new(kind).await;
    let network = &setup.network;
    let account = Account::Key(key(0));
    let payer = setup.admin.account();
    the_protocol_gets_a_share(&setup, payer).await;
    let deposit = payers::deposit(network, &account, payer, usd("25"), FEE_TOKEN).await.unwrap();
    setup.carry_out(&deposit).await;
    setup.carry_out(&nodes::add(network, &new_node(1)).await.unwrap()).await;
    setup.carry_out(&nodes::add(network, &new_node(2)).await.unwrap()).await;
    setup.carry_out(&nodes::add_canonical(network, NODE).await.unwrap()).await;
    let node = Beneficiary::Node(NODE);
    let owner = pair::sender(&setup.pair.settlement, 1);
    let stranger = pair::sender(&setup.pair.settlement, 3);
    assert!(fees::claim(network, node, &[]).await.unwrap().steps.is_empty(), "no reports yet");

    for index in 0..4 {
        report(&setup, 100, index, payer, DOLLAR).await;
    }
    let some = fees::claim(network, node, &[NODE]).await.unwrap();
    assert_eq!(functions(&some), ["DistributionManager.claim"]);
    let error = setup.carry_out_as(&stranger, &some).await.unwrap_err();
    assert_eq!(error.revert().unwrap().to_string(), "NotNodeOwner()");
    setup.carry_out_as(&owner, &some).await.unwrap();
    report(&setup, 100, 4, payer, DOLLAR).await;
    report(&setup, 200, 0, payer, 0).await;
    let seen = fees::reports(network, &[]).await.unwrap();
    let places: Vec<_> = seen.iter().map(|report| (report.originator.0, report.index)).collect();
    assert_eq!(places, [(100, 0), (100, 1), (100, 2), (100, 3), (100, 4), (200, 0)]);
    assert_eq!((seen[0].fees_settled, seen[0].share_of_node()), (usd("1"), usd("0.99")));
    let rest = fees::claim(network, node, &[]).await.unwrap();
    assert_eq!(rest.steps[0].call.data, vector("claim(uint32,uint32[],uint256[])"));
    setup.carry_out_as(&owner, &rest).await.unwrap();
    assert!(fees::claim(network, node, &[]).await.unwrap().steps.is_empty(), "each once");
    let unlisted = fees::claim(network, Beneficiary::Node(OriginatorId(200)), &[]).await.unwrap();
    assert!(unlisted.steps.is_empty());
    let plan = fees::claim(network, Beneficiary::Protocol, &[NODE]).await.unwrap();
    setup.carry_out_as(&stranger, &plan).await.unwrap();

    what_was_taken_over_is_claimed_too(&setup, payer).await;
    let owed = fees::owed(network).await.unwrap();
    assert_eq!(owed.nodes, [(NODE, usd("4.95")), (OriginatorId(200), usd("0"))]);
    assert_eq!(owed.protocol, usd("0.05"));
    assert_eq!((owed.available, owed.excess), (usd("0"), usd("5")));
    let claims = fees::claims(network, &[NODE]).await.unwrap();
    assert!(claims.iter().all(|claim| claim.nodes == BTreeSet::from([NODE]) && claim.protocol));
    let claims = fees::claims(network, &[OriginatorId(200)]).await.unwrap();
    assert!(claims[0].nodes.contains(&NODE) && !claims[0].protocol);

    let recipient = Address::repeat_byte(8);
    let plan = fees::withdraw(network, node, recipient, FEE_TOKEN).await.unwrap();
    setup.carry_out_as(&owner, &plan).await.unwrap();
    assert_eq!(payers::balance(network, recipient).await.unwrap().fee_tokens, usd("4.95"));
    let error = setup.carry_out_as(&owner, &plan).await.unwrap_err();
    assert_eq!(error.revert().unwrap().to_string(), "NoFeesOwed()");
    let plan =
        fees::withdraw(network, Beneficiary::Protocol, Address::ZERO, UNDERLYING).await.unwrap();
    setup.carry_out_as(&stranger, &plan).await.unwrap();
    assert_eq!(fees::owed_to(network, Beneficiary::Protocol).await.unwrap(), usd("0"));
    let error = fees::claim(network, Beneficiary::Node(OriginatorId(300)), &[]).await.unwrap_err();
    assert_eq!(error, AdminError::UnknownNode { node_id: OriginatorId(300) });
}

/// Nodes also report on originators migrated from the older network, which no registry lists.
async fn what_was_taken_over_is_claimed_too(setup: &Administration, payer: Address) {
    report(setup, 11, 0, payer, 0).await;
    let claim = fees::claim(&setup.network, Beneficiary::Node(NODE), &[]).await.unwrap();
    assert_eq!(functions(&claim), ["DistributionManager.claim"]);
    let claims = fees::claims(&setup.network, &[]).await.unwrap();
    let places: Vec<_> =
        claims.iter().map(|it| (it.report.originator.0, it.report.index)).collect();
    assert_eq!(places[5..], [(200, 0), (11, 0)]);
    let (watched, mut older) = (Watched::default(), OlderReports::default());
    let seen = watcher::look(&setup.network, &watched, &mut older).await.unwrap();
    assert_eq!(seen.reports.keys().copied().collect::<Vec<_>>(), [11, 100, 200].map(OriginatorId));
    assert!(!seen.lacks_rates && !seen.rates.is_empty());

    // The variables of the reference implementation's watcher name two contracts only.
    let mut few = setup.network.clone();
    (few.app, few.contracts) = (None, Contracts::default());
    for contract in [Contract::PayerReportManager, Contract::PayerRegistry] {
        few.contracts.set(contract, setup.network.contracts.get(contract).unwrap());
    }
    let watched = Watched { payers: vec![payer], ..Watched::default() };
    let of_few = watcher::look(&few, &watched, &mut older).await.unwrap();
    assert_eq!(of_few.reports, seen.reports);
    let balance = payers::balance(&setup.network, payer).await.unwrap().balance;
    assert_eq!(of_few.payers, [(payer, balance)]);
    assert!(of_few.lacks_rates && of_few.rates.is_empty());
    assert_eq!((seen.app_gas_price.is_some(), of_few.app_gas_price), (true, None));
    let (limits, now) = (WatchLimits::default(), of_few.chain_time);
    let alarms = watcher::judge(&of_few, &limits, &BTreeMap::new(), now);
    assert!(alarms.iter().all(|alarm| alarm.kind != AlarmKind::Rate), "{alarms:?}");
}

/// A network with node 100, the only canonical one, and a report about it.
async fn with_a_report() -> Administration {
    let setup = Administration::new(ChainBackend::Embedded).await;
    setup.carry_out(&nodes::add(&setup.network, &new_node(1)).await.unwrap()).await;
    setup.carry_out(&nodes::add_canonical(&setup.network, NODE).await.unwrap()).await;
    report(&setup, 100, 0, setup.admin.account(), 0).await;
    setup
}

/// Two chains with the same id and the same contracts play one chain behind several endpoints. A payer's bill is judged
/// by the reports of most of them.
#[tokio::test]
async fn a_report_that_one_endpoint_makes_up_is_not_believed_beside_others() {
    let (liar, honest) = (with_a_report().await, with_a_report().await);
    let manager = Contract::PayerReportManager;
    assert_eq!(liar.at(manager), honest.at(manager), "the chains look the same");
    report(&liar, 100, 1, liar.admin.account(), 0).await;
    let of_honest = fees::reports(&honest.network, &[]).await.unwrap();
    assert_eq!(of_honest.len(), 1);

    let url = |setup: &Administration| setup.pair.settlement.endpoint().to_owned();
    let read = async |urls: Vec<String>| {
        let endpoints = Endpoints::new("settlement", &urls, pair::SETTLEMENT_ID).unwrap();
        agreed::reports(&liar.network, &endpoints).await
    };
    assert_eq!(read(vec![url(&liar)]).await.unwrap().len(), 2, "a single one is believed");
    let counts = [(&liar, 2), (&honest, 1)];
    let mut shown = counts.map(|(setup, count)| format!("{}: reports: {count}", url(setup)));
    shown.sort();
    let of_two = read(vec![url(&liar), url(&honest)]).await;
    let contradicted = AdminError::ReportsContradicted { shown: shown.into() };
    assert_eq!(of_two, Err(contradicted), "which of the two lies is unknown");
    // The same host and port would count once.
    let third = url(&honest).replace("127.0.0.1", "localhost");
    let of_three = read(vec![url(&liar), url(&honest), third]).await;
    assert_eq!(of_three.as_ref(), Ok(&of_honest));

    let silent = Proxy::start(honest.pair.settlement.endpoint(), 0).await;
    silent.set(|faults| faults.dead = true);
    let beside_it = read(vec![silent.url(), url(&honest)]).await;
    assert_eq!(beside_it, Ok(of_honest), "half of them are silent, and are asked three times");
    assert!(read(vec![silent.url()]).await.is_err(), "none answers");
}

/// An endpoint that makes up reports without end would have a command read and hold all of them.
#[tokio::test]
async fn no_more_reports_are_read_at_an_endpoint_than_most_of_them_show() {
    let (liar, honest) = (with_a_report().await, with_a_report().await);
    report(&liar, 100, 1, liar.admin.account(), 0).await;
    let lying = Proxy::start(liar.pair.settlement.endpoint(), 0).await;
    let other = Proxy::start(honest.pair.settlement.endpoint(), 0).await;
    let third = honest.pair.settlement.endpoint().replace("127.0.0.1", "localhost");
    let urls = [lying.url(), other.url(), third];
    let endpoints = Endpoints::new("settlement", &urls, pair::SETTLEMENT_ID).unwrap();
    let agreed = agreed::reports(&liar.network, &endpoints).await.unwrap();
    assert_eq!(agreed.len(), 1);
    // The longest call is the one that names the reports to read.
    assert!(other.longest_call() > 0);
    assert_eq!(lying.longest_call(), other.longest_call());
}

/// A node seems to have lied if the chain took other amounts for its report than the endpoint in use shows.
#[tokio::test]
async fn amounts_that_one_endpoint_hides_are_those_that_most_endpoints_show() {
    let setup = Administration::new(ChainBackend::Embedded).await;
    setup.carry_out(&nodes::add(&setup.network, &new_node(1)).await.unwrap()).await;
    setup.carry_out(&nodes::add_canonical(&setup.network, NODE).await.unwrap()).await;
    let payer = setup.admin.account();
    let id = report(&setup, 100, 0, payer, 1_000_000_000_000).await;

    let direct = setup.pair.settlement.endpoint().to_owned();
    let (lying, honest) = (Proxy::start(&direct, 0).await, Proxy::start(&direct, 0).await);
    lying.set(|faults| faults.forked_at = Some(0));
    let read = async |urls: Vec<String>| {
        let endpoints = Endpoints::new("settlement", &urls, pair::SETTLEMENT_ID).unwrap();
        agreed::settled_leaves(&setup.network, &endpoints, id.0, 1, 1_000_000).await
    };
    let taken = vec![(payer, usd("1"))];
    let of_three = read(vec![lying.url(), honest.url(), direct.clone()]).await.unwrap();
    assert_eq!((&of_three.leaves, of_three.shown_by), (&taken, 2));
    assert!(lying.spoilt() > 0, "it was asked, too");
    let alone = read(vec![direct.clone()]).await.unwrap();
    assert_eq!((&alone.leaves, alone.shown_by), (&taken, 1), "a single one is believed");
    let of_two = read(vec![lying.url(), direct]).await;
    assert!(matches!(of_two, Err(AdminError::ReportsContradicted { .. })), "{of_two:?}");
}
