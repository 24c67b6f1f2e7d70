//! Tests of the administration of contracts on both kinds of development chain: operations are planned, executed,
//! interrupted and planned again.

use std::time::{SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::providers::Provider as _;
use alloy::signers::local::PrivateKeySigner;
use hawser_chain::admin::bridge::BridgeTerms;
use hawser_chain::admin::fees::Beneficiary;
use hawser_chain::admin::nodes::NewNode;
use hawser_chain::admin::parameters::Adoption;
use hawser_chain::admin::rates::Prices;
use hawser_chain::admin::upgrades::{MigratorChoice, NewCode};
use hawser_chain::admin::{
    Account, AdminError, ChainRole, Contract, Contracts, MicroDollars, Network, PaymentToken, Plan,
    PlanStep, bridge, fees, funding, nodes, parameters, payers, rates, upgrades,
};
use hawser_chain::contracts::{Factory, FeeToken, artifact, parameter};
use hawser_chain::send::{Call, SendError, Sender};
use hawser_devchain::deploy::{self, Deployment};
use hawser_devchain::relay::{Relay, RelayPolicy};
use hawser_proto::OriginatorId;
use hawser_rules::PicoDollarPrice;
use serde_json::{Value, json};

use crate::pair::{self, ChainBackend, Pair};

pub(crate) const NODE: OriginatorId = OriginatorId(100);
pub(crate) const FEE_TOKEN: PaymentToken = PaymentToken::FeeToken;
pub(crate) const UNDERLYING: PaymentToken = PaymentToken::Underlying;

crate::on_both_kinds_of_chain! {
    nodes_are_added_once_chosen_and_moved
    refusals_of_the_contracts_have_names
    rates_that_were_added_half_way_are_finished
    parameters_are_adopted_in_the_order_that_contracts_accept
    parameters_are_brought_to_the_app_chain_once
    a_deposit_goes_by_permit_or_by_approval
    an_interrupted_deposit_from_underlying_tokens_is_finished
    a_withdrawal_is_requested_waited_for_and_paid_out
    an_interrupted_upgrade_is_finished_and_a_wrong_one_is_refused
}

pub(crate) struct Administration {
    pub(crate) pair: Pair,
    pub(crate) network: Network,
    pub(crate) admin: Sender,
    app_admin: Sender,
}

impl Administration {
    pub(crate) async fn new(kind: ChainBackend) -> Self {
        Self::of(Pair::deployed(kind).await)
    }

    pub(crate) fn of((pair, deployment): (Pair, Deployment)) -> Self {
        let contracts = Contracts::from(&deployment.addresses);
        let (settlement, app) = (pair.settlement.clone(), Some(pair.app.clone()));
        let network = Network { settlement, app, app_id: pair::APP_ID, contracts };
        let (admin, app_admin) = (pair::sender(&pair.settlement, 0), pair::sender(&pair.app, 0));
        Self { pair, network, admin, app_admin }
    }

    /// Sends all steps as the administrator.
    pub(crate) async fn carry_out(&self, plan: &Plan) {
        self.carry_out_as(&self.admin, plan).await.unwrap();
    }

    /// Sends all steps from another account.
    pub(crate) async fn carry_out_as(&self, sender: &Sender, plan: &Plan) -> Result<(), SendError> {
        for step in &plan.steps {
            let side = step.contract.chain();
            let sender = if side == ChainRole::App { &self.app_admin } else { sender };
            let receipt = sender.send(&step.call).await?;
            assert!(!self.network.events(side, &receipt).is_empty(), "{plan:?} leaves events");
        }
        Ok(())
    }

    pub(crate) fn at(&self, contract: Contract) -> Address {
        self.network.at(contract).unwrap()
    }

    async fn relay(&self) -> Relay {
        let inbox = parameter::inbox(pair::APP_ID);
        let inbox = parameters::get(&self.network, &[inbox]).await.unwrap()[0].value;
        let gateway = self.at(Contract::AppChainGateway);
        let inbox = Address::from_word(inbox);
        Relay::between(&self.pair.settlement, &self.pair.app, inbox, gateway).await.unwrap()
    }

    async fn pass_time(&self, seconds: u64) {
        let provider = self.pair.settlement.provider();
        let method = "evm_increaseTime";
        provider.raw_request::<_, Value>(method.into(), json!([seconds])).await.unwrap();
        provider.raw_request::<_, Value>("evm_mine".into(), json!([])).await.unwrap();
    }
}

pub(crate) fn functions(plan: &Plan) -> Vec<String> {
    let name = |step: &PlanStep| format!("{}.{}", step.contract, step.described().name);
    plan.steps.iter().map(name).collect()
}

pub(crate) fn key(account: usize) -> PrivateKeySigner {
    deploy::accounts().swap_remove(account)
}

pub(crate) fn usd(text: &str) -> MicroDollars {
    text.parse().unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn new_node(account: usize) -> NewNode {
    let key = key(account);
    let point = key.public_key();
    NewNode {
        owner: key.address(),
        signing_public_key: [&[4], &point[..]].concat().try_into().unwrap(),
        http_address: format!("http://node-{account}.example:5050"),
    }
}

async fn nodes_are_added_once_chosen_and_moved(kind: ChainBackend) {
    let setup = Administration::new(kind).await;
    let network = &setup.network;
    let new = new_node(1);
    let plan = nodes::add(network, &new).await.unwrap();
    assert_eq!(functions(&plan), ["NodeRegistry.addNode"]);
    assert!(plan.notes[0].contains(&setup.admin.account().to_string()), "{:?}", plan.notes);
    setup.carry_out(&plan).await;

    let again = nodes::add(network, &new).await.unwrap();
    assert!(again.steps.is_empty() && again.notes[0].contains("node 100"), "{again:?}");
    let other = NewNode { http_address: "http://elsewhere:1".into(), ..new.clone() };
    let refused = nodes::add(network, &other).await.unwrap_err();
    assert_eq!(refused, AdminError::KeyInUse { node_id: NODE });

    setup.carry_out(&nodes::add_canonical(network, NODE).await.unwrap()).await;
    assert!(nodes::get(network, NODE).await.unwrap().is_canonical);
    assert!(nodes::add_canonical(network, NODE).await.unwrap().steps.is_empty());
    setup.carry_out(&nodes::remove_canonical(network, NODE).await.unwrap()).await;
    assert!(!nodes::get(network, NODE).await.unwrap().is_canonical);
    assert!(nodes::remove_canonical(network, NODE).await.unwrap().steps.is_empty());
    let unknown = nodes::add_canonical(network, OriginatorId(200)).await.unwrap_err();
    assert_eq!(unknown, AdminError::UnknownNode { node_id: OriginatorId(200) });

    let plan = nodes::update_http(network, NODE, "https://moved.example").await.unwrap();
    let owner = pair::sender(&setup.pair.settlement, 1);
    setup.carry_out_as(&owner, &plan).await.unwrap();
    let listed = nodes::list(network).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].http_address, "https://moved.example");
    assert_eq!((listed[0].owner, listed[0].signer), (new.owner, key(1).address()));
    assert_eq!(listed[0].signing_public_key[..], new.signing_public_key);
    let same = nodes::update_http(network, NODE, "https://moved.example").await.unwrap();
    assert!(same.steps.is_empty());
}

async fn refusals_of_the_contracts_have_names(kind: ChainBackend) {
    let setup = Administration::new(kind).await;
    let network = &setup.network;
    let stranger = pair::sender(&setup.pair.settlement, 2);
    let plan = nodes::add(network, &new_node(1)).await.unwrap();
    let error = setup.carry_out_as(&stranger, &plan).await.unwrap_err();
    assert_eq!(error.revert().unwrap().to_string(), "NotAdmin()");
    let (account, payer) = (Account::Key(key(2)), stranger.account());
    let error = payers::deposit(network, &account, payer, usd("9.999999"), FEE_TOKEN).await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "PayerRegistry would revert: InsufficientDeposit(amount: 9999999, minimumDeposit: 10000000)"
    );
    // A contract with the address of the registry could never give the money or the node away again.
    let (lost, ten, node) = (setup.at(Contract::PayerRegistry), usd("10"), Beneficiary::Node(NODE));
    let new = NewNode { owner: lost, ..new_node(1) };
    for refused in [
        payers::deposit(network, &account, lost, ten, FEE_TOKEN).await,
        payers::finalize_withdrawal(network, &account, lost, FEE_TOKEN).await,
        fees::withdraw(network, node, lost, FEE_TOKEN).await,
        nodes::add(network, &new).await,
        funding::unwrap(network, lost, ten),
        funding::from_app_chain(network, lost, ten, UNDERLYING),
    ] {
        let contract = Contract::PayerRegistry;
        assert_eq!(refused, Err(AdminError::OwnContract { contract, account: lost }));
    }
    let elsewhere = Network { contracts: Contracts::default(), ..network.clone() };
    let error = nodes::list(&elsewhere).await.unwrap_err();
    assert_eq!(error, AdminError::NoAddress(Contract::NodeRegistry));
    let mut elsewhere = network.clone();
    elsewhere.contracts.set(Contract::NodeRegistry, Address::repeat_byte(9));
    let error = nodes::list(&elsewhere).await.unwrap_err().to_string();
    assert!(error.contains("no contract at 0x0909"), "{error}");
}

async fn rates_that_were_added_half_way_are_finished(kind: ChainBackend) {
    let setup = Administration::new(kind).await;
    let network = &setup.network;
    let before = rates::list(network).await.unwrap();
    let (message_fee, congestion_fee) = (PicoDollarPrice(101), PicoDollarPrice(7));
    let prices = Prices { message_fee, congestion_fee, ..Prices::of(&before[0]) };
    let plan = rates::add(network, &prices, None, now()).await.unwrap();
    assert_eq!(
        functions(&plan),
        ["SettlementChainParameterRegistry.set", "RateRegistry.updateRates"]
    );
    assert!(!plan.steps[0].waits && plan.steps[1].waits);
    // Another administrator changes a price that the plan leaves as it was.
    let other = parameters::assignment(parameter::RATE_REGISTRY_STORAGE_FEE, "999").unwrap();
    setup.carry_out(&parameters::set(network, &[other], Adoption::Noted).await.unwrap()).await;
    setup.admin.send(&plan.steps[0].call).await.unwrap();

    let rest = rates::add(network, &prices, None, now()).await.unwrap();
    assert_eq!(functions(&rest), ["RateRegistry.updateRates"]);
    assert!(!rest.steps[0].waits);
    setup.carry_out(&rest).await;
    let after = rates::list(network).await.unwrap();
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(Prices::of(&after[1]), prices);
    assert!(after[1].start_unix_s > now());

    assert!(rates::add(network, &prices, None, now()).await.unwrap().steps.is_empty());
    let start = after[1].start_unix_s;
    assert!(rates::add(network, &prices, Some(start), now()).await.unwrap().steps.is_empty());
    let refused = async |prices: &Prices, start| {
        rates::add(network, prices, Some(start), now()).await.unwrap_err().to_string()
    };
    assert!(refused(&prices, start + 1).await.ends_with("NoChange()"));
    let text = refused(&Prices::of(&before[0]), start).await;
    assert!(text.contains(&format!("InvalidStartTime(startTime: {start}, lastStart")), "{text}");
}

async fn parameters_are_adopted_in_the_order_that_contracts_accept(kind: ChainBackend) {
    let setup = Administration::new(kind).await;
    let network = &setup.network;
    let assigned = |key: &str, value: &str| parameters::assignment(key, value).unwrap();
    let lock = [assigned(parameter::PAYER_REGISTRY_WITHDRAW_LOCK_PERIOD, "60")];
    let quiet = parameters::set(network, &lock, Adoption::Noted).await.unwrap();
    assert_eq!(functions(&quiet), ["SettlementChainParameterRegistry.set"]);
    assert!(quiet.notes[0].ends_with("172800 becomes 60"), "{quiet:?}");
    assert!(quiet.notes[1].contains("PayerRegistry.updateWithdrawLockPeriod()"), "{quiet:?}");
    setup.carry_out(&quiet).await;
    let rest = parameters::set(network, &lock, Adoption::Planned).await.unwrap();
    assert_eq!(functions(&rest), ["PayerRegistry.updateWithdrawLockPeriod"]);
    setup.carry_out(&rest).await;
    assert!(parameters::set(network, &lock, Adoption::Planned).await.unwrap().steps.is_empty());
    assert_eq!(payers::bounds(network).await.unwrap().withdraw_lock_seconds, 60);

    // If the new upper limit is below the adopted lower limit, the lower limit is adopted first.
    for (least, most) in [("10", "20"), ("5000", "6000"), ("7000", "7000")] {
        let limits = [
            assigned(parameter::GROUP_MESSAGE_MIN_PAYLOAD_SIZE, least),
            assigned(parameter::GROUP_MESSAGE_MAX_PAYLOAD_SIZE, most),
        ];
        let keys: Vec<_> = limits.iter().map(|(key, _)| key.clone()).collect();
        let set = parameters::set(network, &limits, Adoption::Planned).await.unwrap();
        assert_eq!(functions(&set), ["SettlementChainParameterRegistry.set"]);
        assert!(set.notes[2].contains("params bridge"), "{set:?}");
        setup.carry_out(&set).await;
        let account = Account::Key(key(0));
        let send = bridge::send(network, &account, &keys, &BridgeTerms::default()).await.unwrap();
        setup.carry_out(&send).await;
        setup.relay().await.step(RelayPolicy::default()).await.unwrap();
        let apply = parameters::apply(network, &keys).await.unwrap();
        assert_eq!(apply.steps.len(), 2);
        assert!(!apply.steps[0].waits && apply.steps[1].waits, "tried before, it may be reverted");
        setup.carry_out(&apply).await;
        let states = parameters::get(network, &keys).await.unwrap();
        for state in &states {
            assert_eq!(state.applied, Some(state.value), "{state:?}");
            assert_eq!(state.on_app_chain, Some(state.value), "{state:?}");
        }
        assert_eq!(states[0].shown(states[0].value), least);
    }
    assert!(parameters::assignment("xmtp.payerRegistry.minimumDeposit", "0").is_err());
    assert!(parameters::assignment("xmtp.payerRegistry.nothing", "1").is_err());
    let word = B256::repeat_byte(1).to_string();
    assert!(parameters::assignment("xmtp.payerRegistry.nothing", &word).is_ok());
}

async fn parameters_are_brought_to_the_app_chain_once(kind: ChainBackend) {
    let setup = Administration::new(kind).await;
    let network = &setup.network;
    let paused = parameter::GROUP_MESSAGE_PAUSED.to_owned();
    let keys = [paused.clone(), parameter::GROUP_MESSAGE_MAX_PAYLOAD_SIZE.to_owned()];
    let on = [parameters::assignment(&paused, "true").unwrap()];
    setup.carry_out(&parameters::set(network, &on, Adoption::Noted).await.unwrap()).await;
    assert_eq!(bridge::missing(network, &keys).await.unwrap(), [paused.as_str()]);

    let account = Account::Key(key(0));
    let plan = bridge::send(network, &account, &keys, &BridgeTerms::default()).await.unwrap();
    assert_eq!(functions(&plan), ["SettlementChainGateway.sendParametersWithPermit"]);
    let call = plan.steps[0].described();
    let argument = |name: &str| {
        call.arguments.iter().find(|argument| argument.name == name).unwrap().value.clone()
    };
    assert_eq!(argument("keys"), format!("[{paused:?}]"), "what is there already is left out");
    assert_eq!(argument("gasLimit"), "141000");
    assert_eq!(argument("maxFeePerGas"), "2000000000");
    assert_eq!(argument("amountToSend"), "282", "gas × price, in microdollars, rounded up");
    setup.carry_out(&plan).await;

    let mut relay = setup.relay().await;
    relay.step(RelayPolicy { fail_once: true, ..RelayPolicy::default() }).await.unwrap();
    assert_eq!(bridge::missing(network, &keys).await.unwrap(), [paused.as_str()]);
    relay.step(RelayPolicy::default()).await.unwrap();
    let again = bridge::send(network, &account, &keys, &BridgeTerms::default()).await.unwrap();
    assert!(again.steps.is_empty(), "{again:?}");
    let apply = parameters::apply(network, &keys).await.unwrap();
    assert_eq!(functions(&apply), ["GroupMessageBroadcaster.updatePauseStatus"]);
    setup.carry_out(&apply).await;

    let multisig = Account::Address(Address::repeat_byte(7));
    let off = [parameters::assignment(&paused, "false").unwrap()];
    setup.carry_out(&parameters::set(network, &off, Adoption::Noted).await.unwrap()).await;
    let plan = bridge::send(network, &multisig, &keys, &BridgeTerms::default()).await.unwrap();
    assert_eq!(functions(&plan), ["FeeToken.approve", "SettlementChainGateway.sendParameters"]);

    // No call adopts a migrator, and the app chain has to get it all the same.
    let migrator = "xmtp.groupMessageBroadcaster.migrator";
    let set = [parameters::assignment(migrator, &Address::repeat_byte(7).to_string()).unwrap()];
    let plan = parameters::set(network, &set, Adoption::Planned).await.unwrap();
    let advice = format!("`params bridge {migrator}`");
    assert!(plan.notes.iter().any(|note| note.contains(&advice)), "{plan:?}");
}

async fn a_deposit_goes_by_permit_or_by_approval(kind: ChainBackend) {
    let setup = Administration::new(kind).await;
    let network = &setup.network;
    let (payer, ten) = (Address::repeat_byte(5), usd("10"));
    let signing = Account::Key(key(0));
    let plan = payers::deposit(network, &signing, payer, ten, FEE_TOKEN).await.unwrap();
    assert_eq!(functions(&plan), ["PayerRegistry.depositWithPermit"]);
    setup.carry_out(&plan).await;

    let known = Account::Address(setup.admin.account());
    let plan = payers::deposit(network, &known, payer, ten, FEE_TOKEN).await.unwrap();
    assert_eq!(functions(&plan), ["FeeToken.approve", "PayerRegistry.deposit"]);
    setup.carry_out(&plan).await;
    let spender = setup.at(Contract::PayerRegistry);
    let approve = FeeToken::approveCall { spender, value: U256::from(ten.get()) };
    setup.admin.send(&Call::new(setup.at(Contract::FeeToken), &approve)).await.unwrap();
    let plan = payers::deposit(network, &signing, payer, ten, FEE_TOKEN).await.unwrap();
    assert_eq!(functions(&plan), ["PayerRegistry.deposit"], "it is approved already");
    setup.carry_out(&plan).await;
    assert_eq!(payers::balance(network, payer).await.unwrap().balance.0, 30_000_000);

    let unknown =
        payers::deposit(network, &Account::Unknown, payer, ten, UNDERLYING).await.unwrap();
    assert_eq!(
        functions(&unknown),
        [
            "UnderlyingFeeToken.approve",
            "FeeToken.deposit",
            "FeeToken.approve",
            "PayerRegistry.deposit"
        ]
    );
}

async fn an_interrupted_deposit_from_underlying_tokens_is_finished(kind: ChainBackend) {
    let setup = Administration::new(kind).await;
    let network = &setup.network;
    let account = Account::Key(key(0));
    let payer = setup.admin.account();
    let before = payers::balance(network, payer).await.unwrap();
    let amount = MicroDollars::new(before.fee_tokens.get() + 5_000_000).unwrap();
    let plan =
        async || payers::deposit(network, &account, payer, amount, UNDERLYING).await.unwrap();
    let whole = plan().await;
    assert_eq!(
        functions(&whole),
        ["UnderlyingFeeToken.approve", "FeeToken.deposit", "PayerRegistry.depositWithPermit"]
    );
    assert_eq!(whole.steps[1].described().arguments[0].value, "5000000", "only what is missing");
    setup.admin.send(&whole.steps[0].call).await.unwrap();
    let rest = plan().await;
    assert_eq!(functions(&rest), ["FeeToken.deposit", "PayerRegistry.depositWithPermit"]);
    setup.admin.send(&rest.steps[0].call).await.unwrap();
    let rest = plan().await;
    assert_eq!(functions(&rest), ["PayerRegistry.depositWithPermit"]);
    setup.carry_out(&rest).await;
    let after = payers::balance(network, payer).await.unwrap();
    assert_eq!(after.balance.0.unsigned_abs(), amount.get());
    assert_eq!(after.fee_tokens, MicroDollars::default());

    let too_much = payers::deposit(network, &account, payer, usd("99999999"), UNDERLYING).await;
    assert!(matches!(too_much, Err(AdminError::TooFewTokens { .. })), "{too_much:?}");
    let plan = payers::deposit(network, &account, payer, usd("10"), FEE_TOKEN).await.unwrap();
    assert!(plan.notes[0].contains("--from-underlying"), "{plan:?}");
    let error = setup.carry_out_as(&setup.admin, &plan).await.unwrap_err();
    assert_eq!(error.revert().unwrap().name(), Some("ERC20InsufficientBalance"), "{error}");
}

async fn a_withdrawal_is_requested_waited_for_and_paid_out(kind: ChainBackend) {
    let setup = Administration::new(kind).await;
    let network = &setup.network;
    let account = Account::Key(key(0));
    let payer = setup.admin.account();
    let recipient = Address::repeat_byte(6);
    let deposit = payers::deposit(network, &account, payer, usd("25"), FEE_TOKEN).await.unwrap();
    setup.carry_out(&deposit).await;
    let request = payers::request_withdrawal(network, usd("5.5")).await.unwrap();
    assert!(request.notes[0].contains("172800 s"), "{request:?}");
    setup.carry_out(&request).await;
    let error = setup.carry_out_as(&setup.admin, &request).await.unwrap_err();
    assert_eq!(error.revert().unwrap().to_string(), "PendingWithdrawalExists()");
    let balance = payers::balance(network, payer).await.unwrap();
    assert_eq!(balance.balance.0, 19_500_000);
    let withdrawal = balance.withdrawal.unwrap();
    assert_eq!((withdrawal.amount, withdrawal.nonce), (usd("5.5"), 1));

    setup.carry_out(&payers::cancel_withdrawal(network, &account).await.unwrap()).await;
    assert_eq!(payers::balance(network, payer).await.unwrap().withdrawal, None);
    setup.carry_out(&request).await;
    let early = payers::finalize_withdrawal(network, &account, recipient, FEE_TOKEN).await.unwrap();
    assert!(early.notes[0].contains("ready in"), "{early:?}");
    let error = setup.carry_out_as(&setup.admin, &early).await.unwrap_err();
    assert_eq!(error.revert().unwrap().name(), Some("WithdrawalNotReady"), "{error}");

    // The timestamps of blocks made on demand may be some minutes ahead of the clock.
    setup.pass_time(172_800 + 3600).await;
    let plan = payers::finalize_withdrawal(network, &account, recipient, FEE_TOKEN).await.unwrap();
    assert!(plan.notes[0].ends_with("ready"), "{plan:?}");
    setup.carry_out(&plan).await;
    assert_eq!(payers::balance(network, recipient).await.unwrap().fee_tokens, usd("5.5"));
    assert_eq!(payers::balance(network, payer).await.unwrap().balance.0, 19_500_000);
}

async fn an_interrupted_upgrade_is_finished_and_a_wrong_one_is_refused(kind: ChainBackend) {
    const GROUPS: Contract = Contract::GroupMessageBroadcaster;
    let setup = Administration::new(kind).await;
    let network = &setup.network;
    // Bytes appended to the constructor's arguments change only the address.
    let code = &artifact::named(GROUPS.name()).unwrap().creation_code;
    let registry = setup.at(Contract::AppChainParameterRegistry).into_word();
    let bytecode_: Bytes = [&code[..], &registry[..], b"other"].concat().into();
    let (factory, hash) = (setup.at(Contract::AppChainFactory), keccak256(&bytecode_));
    let deploy = Factory::deployImplementationCall { bytecode_ };
    setup.app_admin.send(&Call::new(factory, &deploy)).await.unwrap();
    let to = factory.create2(hash, hash);
    let plan = async || {
        upgrades::plan(network, GROUPS, NewCode::At(to), MigratorChoice::Exact).await.unwrap()
    };
    let first = plan().await;
    let deploys = "AppChainFactory.deployImplementation";
    assert_eq!(functions(&first.prepare), [deploys, "SettlementChainParameterRegistry.set"]);
    let registry = setup.at(Contract::AppChainParameterRegistry);
    assert!(first.prepare.notes[0].ends_with(&format!("parameterRegistry stays {registry}")));
    setup.app_admin.send(&first.prepare.steps[0].call).await.unwrap();
    let second = plan().await;
    assert_eq!(functions(&second.prepare), ["SettlementChainParameterRegistry.set"]);
    assert_eq!(second.migrator, first.migrator);
    setup.carry_out(&second.prepare).await;
    assert!(plan().await.prepare.steps.is_empty());
    let migrate = async || first.migrate(network, true).await.unwrap();
    let early = setup.carry_out_as(&setup.admin, &migrate().await).await;
    assert_eq!(early.unwrap_err().revert().unwrap().name(), Some("ZeroMigrator"));
    assert!(matches!(first.verify(network).await, Err(AdminError::NotUpgraded { .. })));

    let (key, migrator) = (first.parameter.clone(), parameter::of_address(first.migrator));
    assert!(!bridge::has(network, &key, migrator).await.unwrap());
    let account = Account::Key(self::key(0));
    let terms = BridgeTerms::default();
    let send = bridge::send_all(network, &account, vec![key.clone()], &terms).await.unwrap();
    setup.carry_out(&send).await;
    setup.relay().await.step(RelayPolicy::default()).await.unwrap();
    assert!(bridge::has(network, &key, migrator).await.unwrap());
    setup.carry_out(&migrate().await).await;
    // Any account may have made this call, and a second one would be reverted.
    assert!(migrate().await.steps.is_empty());
    assert_eq!(first.verify(network).await.unwrap().implementation, Some(to));
    assert!(plan().await.is_done());

    let foreign = upgrades::plan(
        network,
        Contract::IdentityUpdateBroadcaster,
        NewCode::At(to),
        MigratorChoice::Exact,
    );
    let foreign = foreign.await.unwrap_err();
    assert!(matches!(foreign, AdminError::OtherImplementation { field: "name", .. }), "{foreign}");
}
