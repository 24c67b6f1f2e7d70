//! `hawser contracts deploy`: a new network on two chains.

use std::path::Path;
use std::time::{Duration, Instant};

use alloy::primitives::utils::format_ether;
use alloy::primitives::{Address, U256};
use alloy::providers::Provider as _;
use alloy::signers::local::PrivateKeySigner;
use hawser_chain::addresses::Addresses;
use hawser_chain::admin::bridge::{self, BridgeTerms};
use hawser_chain::admin::{Account, ChainRole, Contracts, Network};
use hawser_chain::contracts::MockUnderlyingFeeToken;
use hawser_chain::deploy::{
    self, ChainDeployer, DeployError, DeploymentPlan, PlannedPlace, bridged_parameters,
};
use hawser_chain::send::{Call, Chain};
use hawser_node::error::RunError;
use hawser_node::files;
use serde_json::{Value, json};

use crate::args::contracts::DeployArgs;
use crate::commands::onchain::{self, Mode, SENDER};
use crate::output::{self, Reporter};

/// Stand-in tokens that the deployer makes for itself: ten dollars, many times the price of the bridge.
const STAND_IN_TOKENS: u64 = 10_000_000;
/// Time between two reads of the app chain while the parameters are awaited. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A deployment as the two chains show it.
struct DeployState<'a> {
    args: &'a DeployArgs,
    plan: DeploymentPlan,
    settlement: Chain,
    app: Chain,
    deployer: Address,
    /// All contracts; true for those that are there.
    places: Vec<(PlannedPlace, bool)>,
    sides: Vec<DeploySide>,
}

/// The cost of the missing contracts on one chain, and the account that pays for it.
struct DeploySide {
    role: ChainRole,
    id: u64,
    gas_least: u64,
    gas_price_wei: u128,
    balance_wei: U256,
}

impl DeploySide {
    fn fee_least(&self) -> U256 {
        U256::from(self.gas_least) * U256::from(self.gas_price_wei)
    }
}

/// Runs the command.
///
/// # Errors
/// When a step would fail or has failed; the same command continues there.
pub(super) async fn run(args: &DeployArgs, as_json: bool) -> Result<(), RunError> {
    if args.chain_id == args.app_chain_id {
        return Err(RunError::usage(DeployError::SameChain(args.chain_id)));
    }
    let mode = Mode::of(&args.send);
    let account = onchain::account(&args.send, mode, SENDER)?;
    let reporter = Reporter { as_json };
    let state = DeployState::look(args, account.required()?).await?;
    state.show(reporter, mode);
    let result = match (mode, &account) {
        (Mode::Send { ask }, Account::Key(key)) => {
            state.refuse_without_gas()?;
            if ask {
                onchain::confirm(state.missing().max(1))?;
            }
            let addresses = state.write_addresses().await?;
            state.carry_out(key, reporter).await?;
            let file = args.out.display().to_string();
            reporter.text(format_args!("the network is complete; its addresses: {file}"));
            json!({ "file": file, "addresses": addresses.to_json() })
        }
        (Mode::Send { .. }, _) => return Err(onchain::no_key()),
        (Mode::DryRun, _) => {
            state.refuse_without_gas()?;
            reporter.text("nothing was sent: this was a dry run");
            Value::Null
        }
        (Mode::Calldata, _) => Value::Null,
    };
    if as_json {
        output::line(state.json(mode, &result));
    }
    Ok(())
}

impl<'a> DeployState<'a> {
    /// Looks at both chains.
    async fn look(args: &'a DeployArgs, deployer: Address) -> Result<Self, RunError> {
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
        let plan = DeploymentPlan::on(foundations, deployer, settlement.id(), app.id());
        let mut places = Vec::new();
        for place in plan.places() {
            let chain = if place.chain == ChainRole::App { &app } else { &settlement };
            let is_there = chain.has_code(place.address).await.map_err(RunError::failed)?;
            places.push((place, is_there));
        }
        let sides = vec![
            side(ChainRole::Settlement, &settlement, deployer, &places).await?,
            side(ChainRole::App, &app, deployer, &places).await?,
        ];
        Ok(Self { args, plan, settlement, app, deployer, places, sides })
    }

    fn missing(&self) -> usize {
        self.places.iter().filter(|(_, is_there)| !is_there).count()
    }

    /// Shows all contracts with their addresses, and the cost.
    fn show(&self, reporter: Reporter, mode: Mode) {
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
        }
        reporter.text(
            "then the first parameters are set and brought to the app chain, and the first rates begin",
        );
        if mode == Mode::Calldata {
            reporter.text(
                "note: the first two on each chain must be the first two transactions of the deployer, \
                 so a multisig cannot send them; parameters follow with `registry params set`",
            );
        }
    }

    /// Refuses a deployment that would end half-way because its account cannot pay.
    fn refuse_without_gas(&self) -> Result<(), RunError> {
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

    /// Writes the addresses before the first transaction, so that an interrupted deployment is known. Nodes read events from
    /// the blocks that are newest now.
    async fn write_addresses(&self) -> Result<Addresses, RunError> {
        let out = &self.args.out;
        let newest = async |chain: &Chain| chain.newest_block().await.map_err(RunError::failed);
        let addresses = Addresses {
            settlement_chain_deployment_block: newest(&self.settlement).await?,
            app_chain_deployment_block: newest(&self.app).await?,
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
        let text = format!("{:#}\n", addresses.to_json());
        files::write_whole(out, text.as_bytes())
            .map_err(|error| RunError::failed(format!("{}: {error}", out.display())))?;
        Ok(addresses)
    }

    /// Sends what is missing, in order.
    async fn carry_out(&self, key: &PrivateKeySigner, reporter: Reporter) -> Result<(), RunError> {
        let plan = &self.plan;
        let new = async |chain| ChainDeployer::new(chain, key).await.map_err(RunError::failed);
        let (mut settlement, mut app) = (new(&self.settlement).await?, new(&self.app).await?);
        deploy::deploy_contracts(plan, &mut settlement, &mut app)
            .await
            .map_err(RunError::failed)?;
        reporter.text("all contracts are there");
        if deploy::has_prices(plan, &settlement).await.map_err(RunError::failed)? {
            return Ok(());
        }
        let configured = deploy::configure_settlement(plan, &mut settlement).await;
        configured.map_err(RunError::failed)?;
        reporter.text("the contracts of the settlement chain are configured");
        self.bring_parameters(key, &mut settlement, &app).await?;
        deploy::update_app_contracts(plan, &mut app).await.map_err(RunError::failed)?;
        deploy::publish_prices(plan, &mut settlement).await.map_err(RunError::failed)
    }

    /// Sends the parameters of the app chain over the bridge, and waits for them.
    async fn bring_parameters(
        &self,
        key: &PrivateKeySigner,
        settlement: &mut ChainDeployer,
        app: &ChainDeployer,
    ) -> Result<(), RunError> {
        let network = Network {
            settlement: self.settlement.clone(),
            app: Some(self.app.clone()),
            app_id: self.app.id(),
            contracts: Contracts::from(&self.plan.addresses),
        };
        if self.args.stand_in_token {
            self.make_stand_in_tokens(settlement).await?;
        }
        let terms = BridgeTerms { wrap: true, ..BridgeTerms::default() };
        let account = Account::Key(key.clone());
        let send = bridge::send(&network, &account, &bridged_parameters(), &terms).await?;
        for step in &send.steps {
            let sent = settlement.send(&step.described().name, &step.call).await;
            sent.map_err(RunError::failed)?;
        }
        let (begun, timeout) = (Instant::now(), self.args.send.timeout);
        let arrived = async || deploy::have_parameters_arrived(&self.plan, app).await;
        while !arrived().await.map_err(RunError::failed)? {
            if begun.elapsed() >= timeout {
                return Err(RunError::failed(format!(
                    "the parameters have not arrived on the app chain after {} s: run the same command \
                     again when the bridge has delivered them",
                    timeout.as_secs()
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn make_stand_in_tokens(&self, settlement: &mut ChainDeployer) -> Result<(), RunError> {
        let token = self.plan.addresses.underlying_fee_token;
        let amount_ = U256::from(STAND_IN_TOKENS);
        let has = settlement.balance(token, self.deployer).await.map_err(RunError::failed)?;
        if has >= amount_ {
            return Ok(());
        }
        let mint = MockUnderlyingFeeToken::mintCall { to_: self.deployer, amount_ };
        let sent = settlement.send("making stand-in tokens", &Call::new(token, &mint)).await;
        sent.map_err(RunError::failed)
    }

    fn json(&self, mode: Mode, result: &Value) -> Value {
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
                "balance_wei": side.balance_wei.to_string(),
            })
        };
        json!({
            "mode": mode.word(),
            "account": self.deployer.to_string(),
            "steps": self.places.iter().map(step).collect::<Vec<_>>(),
            "chains": self.sides.iter().map(side).collect::<Vec<_>>(),
            "result": result,
        })
    }
}

/// Looks at one chain. Refuses a deployer that has sent something else first: the addresses would be others.
async fn side(
    role: ChainRole,
    chain: &Chain,
    deployer: Address,
    places: &[(PlannedPlace, bool)],
) -> Result<DeploySide, RunError> {
    let failed = |method, error| RunError::failed(chain.request_error(method, error));
    let sent = chain.provider().get_transaction_count(deployer).await;
    let sent = sent.map_err(|error| failed("eth_getTransactionCount", error))?;
    let here = || places.iter().filter(|(place, _)| place.chain == role);
    let is_begun = here().next().is_some_and(|(_, is_there)| *is_there);
    if !is_begun && sent > 0 {
        let used = DeployError::DeployerUsed { account: deployer, chain_id: chain.id(), sent };
        return Err(RunError::refused(used));
    }
    let price = chain.provider().get_gas_price().await;
    let balance = chain.provider().get_balance(deployer).await;
    Ok(DeploySide {
        role,
        id: chain.id(),
        gas_least: here().filter(|(_, is_there)| !is_there).map(|(it, _)| it.gas_least).sum(),
        gas_price_wei: price.map_err(|error| failed("eth_gasPrice", error))?,
        balance_wei: balance.map_err(|error| failed("eth_getBalance", error))?,
    })
}

/// Reads the file of addresses, if there is one.
fn known(path: &Path) -> Result<Option<Addresses>, RunError> {
    if path.exists() {
        Addresses::read(path).map(Some).map_err(RunError::refused)
    } else {
        Ok(None)
    }
}
