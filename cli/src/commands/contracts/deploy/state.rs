//! A deployment as the two chains show it, and its remaining steps.

use std::path::Path;

use alloy::primitives::utils::format_ether;
use alloy::primitives::{Address, U256};
use alloy::providers::Provider as _;
use hawser_chain::addresses::Addresses;
use hawser_chain::admin::bridge::{self, BridgeTerms};
use hawser_chain::admin::{Account, ChainRole, Contracts, Network, Plan, WeiPerGas};
use hawser_chain::contracts::{FeeToken, MockUnderlyingFeeToken};
use hawser_chain::deploy::{
    CREATE2_DEPLOYER, ChainDeployer, DeployError, DeployerAccount, DeploymentPlan, PlannedPlace,
    bridged_parameters,
};
use hawser_chain::send::{Call, Chain};
use hawser_node::error::RunError;
use hawser_node::files;
use serde_json::{Value, json};

use crate::args::contracts::DeployArgs;
use crate::commands::onchain::{self, Mode};
use crate::output::Reporter;

/// Stand-in tokens that the deployer makes for itself: ten dollars, many times the price of the bridge.
const STAND_IN_TOKENS: u64 = 10_000_000;
/// Decimals of the token that the fee token wraps. Specified: amounts are in millionths of a dollar.
const TOKEN_DECIMALS: u8 = 6;

/// A deployment as the two chains show it.
pub(super) struct DeployState<'a> {
    pub(super) args: &'a DeployArgs,
    pub(super) plan: DeploymentPlan,
    pub(super) settlement: Chain,
    pub(super) app: Chain,
    pub(super) deployer: Address,
    /// All contracts; true for those that exist.
    places: Vec<(PlannedPlace, bool)>,
    sides: Vec<DeploySide>,
}

/// The cost of the missing contracts on one chain, and the account that pays for it.
struct DeploySide {
    role: ChainRole,
    id: u64,
    gas_least: u64,
    gas_price_wei: u128,
    /// The price at which a transaction would be sent now.
    price: WeiPerGas,
    balance_wei: U256,
}

impl DeploySide {
    fn fee_least(&self) -> U256 {
        U256::from(self.gas_least) * U256::from(self.gas_price_wei)
    }
}

impl<'a> DeployState<'a> {
    /// Reads both chains.
    pub(super) async fn look(args: &'a DeployArgs, deployer: Address) -> Result<Self, RunError> {
        let (urls, app_urls) = ([args.rpc_url.clone()], [args.app_rpc_url.clone()]);
        let settlement = onchain::reach(&urls, args.chain_id, ChainRole::Settlement).await?;
        let app = onchain::reach(&app_urls, args.app_chain_id, ChainRole::App).await?;
        let foundations = args.foundations();
        for address in foundations.addresses() {
            if !settlement.has_code(address).await.map_err(RunError::failed)? {
                return Err(RunError::refused(format!(
                    "there is no contract at {address} on chain {}: a network cannot stand on it",
                    settlement.id()
                )));
            }
        }
        if let Some(token) = foundations.underlying {
            require_decimals(&settlement, token).await?;
        }
        let account = args.account(deployer);
        if let DeployerAccount::Contract(contract) = account {
            for chain in [&settlement, &app] {
                require_contract(chain, contract, "it has to be there first, with this address")
                    .await?;
                let why =
                    "the first contracts are created by it: deploy it first, as its authors say";
                require_contract(chain, CREATE2_DEPLOYER, why).await?;
            }
        }
        let plan = DeploymentPlan::on(foundations, account, settlement.id(), app.id());
        let mut places = Vec::new();
        for place in plan.places() {
            let chain = if place.chain == ChainRole::App { &app } else { &settlement };
            let len = chain.code_len(place.address).await.map_err(RunError::failed)?;
            // The creator's contracts have their addresses by their order, and a multisig may send a call twice.
            if args.multisig && len != 0 && len != place.code_len {
                return Err(RunError::refused(format!(
                    "the contract at {} on chain {} is not {}: a creation was sent twice or out of order, and no network \
                     can stand on this multisig's creator any more: deploy by another multisig",
                    place.address,
                    chain.id(),
                    place.name
                )));
            }
            places.push((place, len != 0));
        }
        if args.multisig {
            require_whole_factories(&plan, [&settlement, &app]).await?;
        }
        let sides = vec![
            side(ChainRole::Settlement, &settlement, account, &places).await?,
            side(ChainRole::App, &app, account, &places).await?,
        ];
        Ok(Self { args, plan, settlement, app, deployer, places, sides })
    }

    pub(super) fn missing(&self) -> usize {
        self.places.iter().filter(|(_, is_there)| !is_there).count()
    }

    /// Shows all contracts with their addresses, and the cost.
    pub(super) fn show(&self, reporter: Reporter, mode: Mode) {
        reporter.text(format_args!("deployer and administrator: {}", self.deployer));
        for (place, is_there) in &self.places {
            let PlannedPlace { chain, name, address, call, .. } = place;
            let state = if *is_there { "is there" } else { "to deploy" };
            reporter.text(format_args!("{chain}: {name} at {address}: {state}"));
            if mode == Mode::Calldata && !is_there {
                let to = call.to.map_or("a new contract".to_owned(), |to| to.to_string());
                let data = &call.data;
                reporter.text(format_args!("  to     {to}\n  value  0\n  data   {data}"));
            }
        }
        for side in &self.sides {
            reporter.text(format_args!(
                "{} ({}): at least {} gas, {} of the native token at the present price; the account has {}",
                side.role,
                side.id,
                side.gas_least,
                format_ether(side.fee_least()),
                format_ether(side.balance_wei)
            ));
            if !self.args.multisig {
                let price = side.price.0;
                reporter.text(format_args!(
                    "  transactions offer {price} wei for gas now, and eight times that at most"
                ));
            }
        }
        reporter.text(
            "then the first parameters are set and brought to the app chain, and the first rates begin",
        );
        if mode == Mode::Calldata && !self.args.multisig {
            reporter.text(
                "note: the first two on each chain must be the first two transactions of the deployer, \
                 so a multisig cannot send them: --multisig prints others; parameters follow with \
                 `registry params set`",
            );
        }
    }

    /// Refuses a deployment that would end half-way because its account cannot pay.
    pub(super) fn refuse_without_gas(&self) -> Result<(), RunError> {
        let poor = self.sides.iter().find(|side| side.balance_wei < side.fee_least());
        let Some(side) = poor else { return Ok(()) };
        Err(RunError::failed(format!(
            "{} has {} of the native token on chain {} and needs at least {}: send it some",
            self.deployer,
            format_ether(side.balance_wei),
            side.id,
            format_ether(side.fee_least())
        )))
    }

    /// Returns the price of gas that was shown for the transactions of a chain.
    pub(super) fn shown_price(&self, role: ChainRole) -> WeiPerGas {
        let side = self.sides.iter().find(|side| side.role == role);
        side.map_or_else(WeiPerGas::default, |side| side.price)
    }

    /// Returns true if a chain has the factory, before which no other contract can be there.
    fn has_factory(&self, role: ChainRole) -> bool {
        let factory = self.plan.factory();
        let is_factory = |place: &PlannedPlace| place.chain == role && place.address == factory;
        self.places.iter().any(|(place, is_there)| *is_there && is_factory(place))
    }

    /// Returns the block from which nodes read the events of a chain: the newest one, as long as there is no contract.
    /// Contracts that are there may have had events in any block.
    async fn first_block(&self, chain: &Chain, role: ChainRole) -> Result<u64, RunError> {
        if self.has_factory(role) {
            return Ok(0);
        }
        chain.newest_block().await.map_err(RunError::failed)
    }

    /// Writes the addresses before the first transaction, so that an interrupted deployment is known.
    pub(super) async fn write_addresses(&self, reporter: Reporter) -> Result<Addresses, RunError> {
        let out = &self.args.out;
        let (settlement, app) = (ChainRole::Settlement, ChainRole::App);
        let addresses = Addresses {
            settlement_chain_deployment_block: self
                .first_block(&self.settlement, settlement)
                .await?,
            app_chain_deployment_block: self.first_block(&self.app, app).await?,
            ..self.plan.addresses.clone()
        };
        if let Some(known) = known(out)? {
            let same = Addresses {
                settlement_chain_deployment_block: known.settlement_chain_deployment_block,
                app_chain_deployment_block: known.app_chain_deployment_block,
                ..addresses
            };
            return if same == known {
                Ok(known)
            } else {
                Err(RunError::refused(format!(
                    "{} has the addresses of another deployment: name another file with --out",
                    out.display()
                )))
            };
        }
        self.write(&addresses)?;
        if [settlement, app].into_iter().any(|role| self.has_factory(role)) {
            reporter.text(format_args!(
                "note: contracts are there from an earlier run, and {} was not: where its deployment block is 0, nodes \
                 read the whole chain. Write the true blocks there if you know them",
                out.display()
            ));
        }
        Ok(addresses)
    }

    /// Writes 0 as the deployment block of a chain that has mined a transaction of the deployment below the written
    /// one: the chain was reorganised, or its endpoint stated a newest block that it did not have, and nodes would not
    /// read the events before.
    pub(super) fn correct_first_blocks(
        &self,
        mut addresses: Addresses,
        [settlement, app]: &[ChainDeployer; 2],
        reporter: Reporter,
    ) -> Result<Addresses, RunError> {
        let mut was_late = false;
        for (role, deployer, first) in [
            (ChainRole::Settlement, settlement, &mut addresses.settlement_chain_deployment_block),
            (ChainRole::App, app, &mut addresses.app_chain_deployment_block),
        ] {
            let mined = deployer.mined().iter().filter_map(|step| step.block).min();
            if let Some(mined) = mined.filter(|mined| *mined < *first) {
                reporter.text(format_args!(
                    "note: {role}: the deployment block was {first}, but block {mined} has a transaction of the \
                     deployment: it is 0 now, so nodes read the whole chain. Write the true block there if you know it"
                ));
                (*first, was_late) = (0, true);
            }
        }
        if was_late {
            self.write(&addresses)?;
        }
        Ok(addresses)
    }

    fn write(&self, addresses: &Addresses) -> Result<(), RunError> {
        let (out, text) = (&self.args.out, format!("{:#}\n", addresses.to_json()));
        files::write_whole(out, text.as_bytes())
            .map_err(|error| RunError::failed(format!("{}: {error}", out.display())))
    }

    /// Plans to send the parameters of the app chain over the bridge.
    pub(super) async fn bridging(&self, account: &Account) -> Result<Plan, RunError> {
        let network = Network {
            settlement: self.settlement.clone(),
            app: Some(self.app.clone()),
            app_id: self.app.id(),
            contracts: Contracts::from(&self.plan.addresses),
        };
        let terms = BridgeTerms { wrap: true, ..BridgeTerms::default() };
        Ok(bridge::send(&network, account, &bridged_parameters(), &terms).await?)
    }

    /// Returns the call that makes stand-in tokens for the deployer; `None` if it has enough.
    pub(super) async fn stand_in_tokens(&self) -> Result<Option<Call>, RunError> {
        let token = self.plan.addresses.underlying_fee_token;
        let amount_ = U256::from(STAND_IN_TOKENS);
        let balance = FeeToken::balanceOfCall { account: self.deployer };
        let has = self.settlement.view(token, &balance).await.map_err(RunError::failed)?;
        let mint = MockUnderlyingFeeToken::mintCall { to_: self.deployer, amount_ };
        Ok((has < amount_).then(|| Call::new(token, &mint)))
    }

    /// Returns the whole output. `mined` are the transactions of this run.
    pub(super) fn json(&self, mode: Mode, mined: &[Value], result: &Value) -> Value {
        let id = |role: ChainRole| match role {
            ChainRole::Settlement => self.settlement.id(),
            ChainRole::App => self.app.id(),
        };
        let step = |(place, is_there): &(PlannedPlace, bool)| {
            json!({
                "chain_id": id(place.chain),
                "contract": place.name,
                "address": place.address.to_string(),
                "is_there": is_there,
                "gas_least": place.gas_least,
                "to": place.call.to.map(|to| to.to_string()),
                "value": "0",
                "data": (mode == Mode::Calldata).then_some(&place.call.data),
            })
        };
        let side = |side: &DeploySide| {
            json!({
                "chain_id": side.id,
                "gas_least": side.gas_least,
                "fee_least_wei": side.fee_least().to_string(),
                "price_wei": side.price.0.to_string(),
                "balance_wei": side.balance_wei.to_string(),
            })
        };
        json!({
            "mode": mode.word(),
            "account": self.deployer.to_string(),
            "steps": self.places.iter().map(step).collect::<Vec<_>>(),
            "chains": self.sides.iter().map(side).collect::<Vec<_>>(),
            "mined": mined,
            "result": result,
        })
    }
}

/// Refuses a factory whose first creation is another one than planned: all proxies would have other addresses. The
/// calls of this command leave none, because a factory makes its first creation as it is created.
async fn require_whole_factories(
    plan: &DeploymentPlan,
    chains: [&Chain; 2],
) -> Result<(), RunError> {
    let (factory, first) = (plan.factory(), plan.initializable());
    for chain in chains {
        let has_code = async |at| chain.has_code(at).await.map_err(RunError::failed);
        if has_code(factory).await? && !has_code(first).await? {
            return Err(RunError::refused(format!(
                "the factory at {factory} on chain {} was not created by the calls of this command, and would put contracts \
                 elsewhere: deploy by another multisig",
                chain.id()
            )));
        }
    }
    Ok(())
}

/// Reads one chain. Refuses a deployer that has sent something else first, because the addresses would differ.
async fn side(
    role: ChainRole,
    chain: &Chain,
    account: DeployerAccount,
    places: &[(PlannedPlace, bool)],
) -> Result<DeploySide, RunError> {
    let deployer = account.address();
    let failed = |method, error| RunError::failed(chain.request_error(method, error));
    let sent = chain.provider().get_transaction_count(deployer).await;
    let sent = sent.map_err(|error| failed("eth_getTransactionCount", error))?;
    let here = || places.iter().filter(|(place, _)| place.chain == role);
    let is_begun = here().next().is_some_and(|(_, is_there)| *is_there);
    if matches!(account, DeployerAccount::Key(_)) && !is_begun && sent > 0 {
        let used = DeployError::DeployerUsed { account: deployer, chain_id: chain.id(), sent };
        return Err(RunError::refused(used));
    }
    let price = chain.present_price().await.map_err(RunError::failed)?;
    let gas_price = chain.provider().get_gas_price().await;
    let balance = chain.provider().get_balance(deployer).await;
    Ok(DeploySide {
        role,
        id: chain.id(),
        gas_least: here().filter(|(_, is_there)| !is_there).map(|(it, _)| it.gas_least).sum(),
        gas_price_wei: gas_price.map_err(|error| failed("eth_gasPrice", error))?,
        price,
        balance_wei: balance.map_err(|error| failed("eth_getBalance", error))?,
    })
}

/// Refuses a token with another unit than a millionth: the fee token wraps unit by unit, and all amounts of the network
/// would be wrong for good.
async fn require_decimals(chain: &Chain, token: Address) -> Result<(), RunError> {
    let decimals = chain.view(token, &FeeToken::decimalsCall {}).await.map_err(RunError::failed)?;
    if decimals == TOKEN_DECIMALS {
        return Ok(());
    }
    Err(RunError::refused(format!(
        "the token at {token} has {decimals} decimals, and a network counts with {TOKEN_DECIMALS}: name another one"
    )))
}

/// Refuses a chain without a contract at an address.
async fn require_contract(chain: &Chain, address: Address, why: &str) -> Result<(), RunError> {
    if chain.has_code(address).await.map_err(RunError::failed)? {
        return Ok(());
    }
    let id = chain.id();
    Err(RunError::refused(format!("there is no contract at {address} on chain {id}: {why}")))
}

/// Reads the file of addresses, if there is one.
fn known(path: &Path) -> Result<Option<Addresses>, RunError> {
    if path.exists() {
        Addresses::read(path).map(Some).map_err(RunError::refused)
    } else {
        Ok(None)
    }
}
