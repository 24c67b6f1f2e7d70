//! Tests of views of contracts while one endpoint lies or does not answer: an upgrade takes no addresses from it, and
//! balances are read from the others.

use alloy::primitives::Address;
use hawser_chain::admin::funding::{self, Funding};
use hawser_chain::admin::pauses::{self, PauseChange};
use hawser_chain::admin::upgrades::{self, MigratorChoice, NewCode};
use hawser_chain::admin::{
    Account, AdminError, Contract, Contracts, MicroDollars, Network, SignedMicroDollars,
};
use hawser_chain::contracts::{FeeToken, PayerRegistry};
use hawser_chain::deploy::{DeploymentPlan, have_parameters_arrived};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::send::Chain;
use hawser_chain::watch::{BalanceWatcher, DepositWatcher, WatchedAccount};
use hawser_devchain::deploy;

use crate::broadcaster::until;
use crate::pair::{self, APP_ID, ChainBackend, Pair, SETTLEMENT_ID};
use crate::proxy::Proxy;

/// Otherwise, the new code would refer to the neighbouring contracts that an endpoint names.
#[tokio::test]
async fn an_upgrade_refuses_other_contracts_than_the_operators_beside_the_upgraded_one() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let liar = Proxy::start(pair.settlement.endpoint(), 1).await;
    let mut network = Network {
        settlement: Chain::connect(&liar.url(), SETTLEMENT_ID).await.unwrap(),
        app: Some(pair.app.clone()),
        app_id: APP_ID,
        contracts: Contracts::from(&deployment.addresses),
    };
    let plan = async |network: &Network, contract: Contract| {
        upgrades::plan(network, contract, NewCode::ThisBuild, MigratorChoice::Exact).await
    };
    assert!(plan(&network, Contract::PayerRegistry).await.unwrap().is_done());
    liar.set(|faults| faults.feigns = true);
    let error = plan(&network, Contract::PayerRegistry).await.unwrap_err();
    assert!(
        matches!(error, AdminError::OtherBeside { getter: "parameterRegistry", .. }),
        "{error}"
    );
    liar.set(|faults| faults.feigns = false);
    for (contract, other) in [
        (Contract::PayerRegistry, Contract::FeeToken),
        (Contract::FeeToken, Contract::UnderlyingFeeToken),
        (Contract::DistributionManager, Contract::PayerReportManager),
        (Contract::SettlementChainGateway, Contract::AppChainGateway),
        (Contract::AppChainGateway, Contract::SettlementChainGateway),
    ] {
        let mut elsewhere = network.clone();
        elsewhere.contracts.set(other, Address::repeat_byte(9));
        let error = plan(&elsewhere, contract).await.unwrap_err();
        assert!(
            matches!(error, AdminError::OtherBeside { beside, .. } if beside == other),
            "{contract}: {error}"
        );
    }
    let rates = network.at(Contract::RateRegistry).unwrap();
    network.contracts.set(Contract::PayerRegistry, rates);
    let error = plan(&network, Contract::PayerRegistry).await.unwrap_err().to_string();
    assert!(error.contains("does not answer feeToken as it should: it reverts"), "{error}");
}

/// The values belong to the names by their order, and a list without values seems to have none that is missing.
#[tokio::test]
async fn parameters_that_an_endpoint_leaves_out_end_no_process_and_are_not_taken_for_set() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let liar = Proxy::start(pair.settlement.endpoint(), 1).await;
    liar.set(|faults| faults.empties = true);
    let network = Network {
        settlement: Chain::connect(&liar.url(), SETTLEMENT_ID).await.unwrap(),
        app: None,
        app_id: APP_ID,
        contracts: Contracts::from(&deployment.addresses),
    };
    let refused = pauses::set(&network, Contract::PayerRegistry, PauseChange::Pause).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("it returns 0 values for 1 names"), "{error}");
    let [deployer, relayer] = [1, 2].map(Address::repeat_byte);
    let plan = DeploymentPlan::new(deployer, SETTLEMENT_ID, APP_ID, relayer);
    let arrived = have_parameters_arrived(&plan, &network.settlement).await;
    let error = arrived.unwrap_err().to_string();
    assert!(error.contains("it returns 0 values for 4 names"), "{error}");
}

/// The file with the addresses may name the splitter of another network, which would get the money.
#[tokio::test]
async fn a_splitter_for_other_contracts_gets_no_money() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let network = Network {
        settlement: pair.settlement.clone(),
        app: Some(pair.app.clone()),
        app_id: APP_ID,
        contracts: Contracts::from(&deployment.addresses),
    };
    let payer = deploy::deployer().address();
    let amount: MicroDollars = "10".parse().unwrap();
    let funding = Funding {
        payer,
        amount,
        app_recipient: payer,
        app_amount: amount,
        gas_limit: None,
        max_fee_per_gas: None,
        wrap: false,
    };
    let account = Account::Address(payer);
    let fund = async |network: &Network| funding::fund(network, &account, &funding).await;
    assert!(!fund(&network).await.unwrap().steps.is_empty());
    for other in [Contract::FeeToken, Contract::PayerRegistry, Contract::SettlementChainGateway] {
        let mut elsewhere = network.clone();
        elsewhere.contracts.set(other, Address::repeat_byte(9));
        let error = fund(&elsewhere).await.unwrap_err();
        assert!(
            matches!(error, AdminError::OtherBeside { beside, .. } if beside == other),
            "{other}: {error}"
        );
    }
    let error = fund(&Network { app_id: APP_ID + 1, ..network.clone() }).await.unwrap_err();
    let is_refused = matches!(error, AdminError::OtherImplementation { field: "appChainId", .. });
    assert!(is_refused, "{error}");
}

/// Returns the URL of the settlement chain, and an endpoint of that chain that does not answer.
async fn beside_a_dead_one(pair: &Pair) -> (String, Proxy) {
    let url = pair.settlement.endpoint().to_owned();
    let dead = Proxy::start(&url, 0).await;
    dead.set(|faults| faults.dead = true);
    (url, dead)
}

/// The balances of an account are read although one endpoint does not answer. A wrong token
/// address hides only the token balance.
#[tokio::test]
async fn balances_of_an_account_are_known_with_the_block_that_says_so() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let (url, dead) = beside_a_dead_one(&pair).await;
    let endpoints = Endpoints::new("settlement", &[dead.url(), url], SETTLEMENT_ID).unwrap();
    let (address, token) = (deploy::deployer().address(), deployment.addresses.fee_token);
    let watched = |token| {
        let account = WatchedAccount { address, fee_token: Some(token) };
        BalanceWatcher::start(endpoints.clone(), account)
    };
    let watcher = watched(token);
    assert_eq!(watcher.address(), address);
    until("they are read", || watcher.reading().balances.is_some()).await;
    let reading = watcher.reading();
    assert_eq!(reading.error, None);
    let read = reading.balances.unwrap();
    let call = FeeToken::balanceOfCall { account: address };
    let tokens: u128 = pair.settlement.view(token, &call).await.unwrap().to();
    let native: u128 = pair::native_balance(&pair.settlement, address).await.to();
    assert!(tokens > 0 && native > 0, "the deployer has both");
    assert_eq!((read.native.0, read.fee_token), (native, MicroDollars::new(tokens)));
    assert_eq!(read.block, pair.settlement.newest_block().await.unwrap());

    let elsewhere = watched(Address::repeat_byte(9));
    until("they are read", || elsewhere.reading().balances.is_some()).await;
    let reading = elsewhere.reading();
    let read = reading.balances.unwrap();
    assert_eq!((read.native.0, read.fee_token), (native, None));
    assert!(reading.error.unwrap().contains("there is no contract"));
}

/// The balance of a payer is read although one endpoint does not answer, and is unknown while none does.
#[tokio::test]
async fn the_balance_of_a_payer_is_known_while_an_endpoint_answers() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let (url, dead) = beside_a_dead_one(&pair).await;
    let payer = deploy::deployer().address();
    let watched = |urls: &[String]| {
        let endpoints = Endpoints::new("settlement", urls, SETTLEMENT_ID).unwrap();
        DepositWatcher::start(endpoints, deployment.addresses.payer_registry, payer)
    };
    let silent = watched(&[dead.url()]);
    let watcher = watched(&[dead.url(), url]);
    let known = watcher.subscribe();
    until("it is read", || known.borrow().is_some()).await;
    let call = PayerRegistry::getBalanceCall { payer_: payer };
    let registry = deployment.addresses.payer_registry;
    let balance = pair.settlement.view(registry, &call).await.unwrap();
    let balance = SignedMicroDollars(i128::try_from(balance).unwrap());
    assert_eq!(*known.borrow(), Some(balance));
    assert_eq!(*silent.subscribe().borrow(), None);
}
