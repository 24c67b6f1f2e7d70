//! `hawser contracts deploy`: a new network on two chains.

mod rounds;
mod state;

use std::time::{Duration, Instant};

use alloy::signers::local::PrivateKeySigner;
use hawser_chain::admin::{Account, ChainRole};
use hawser_chain::deploy::{self, ChainDeployer, DeployError, MinedStep};
use hawser_chain::send::Chain;
use hawser_node::error::RunError;
use serde_json::{Value, json};

use self::state::DeployState;
use crate::args::contracts::DeployArgs;
use crate::commands::onchain::{self, Mode, SENDER};
use crate::output::{self, Reporter};

/// Time between two reads of the app chain while the parameters are awaited. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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
    let mut mined: Vec<Value> = Vec::new();
    let result = match (mode, &account) {
        (Mode::Send { ask }, Account::Key(key)) => {
            state.refuse_without_gas()?;
            if ask {
                onchain::confirm(state.missing().max(1))?;
            }
            let addresses = state.write_addresses(reporter).await?;
            let mut deployers = state.deployers(key).await?;
            let done = state.carry_out(key, &mut deployers, reporter).await;
            mined = deployers.iter().flat_map(mined_by).collect();
            let corrected = state.correct_first_blocks(addresses, &deployers, reporter);
            // A script that saw nothing could not tell what is mined from what is missing.
            if as_json && done.is_err() && !mined.is_empty() {
                output::line(state.json(mode, &mined, &Value::Null));
            }
            done?;
            let addresses = corrected?;
            let file = args.out.display().to_string();
            reporter.text(format_args!("the network is complete; its addresses: {file}"));
            json!({ "file": file, "addresses": addresses.to_json() })
        }
        (Mode::Send { .. }, _) => return Err(onchain::no_key()),
        (Mode::Calldata, _) if args.multisig => {
            let addresses = state.write_addresses(reporter).await?;
            rounds::show(&state, &addresses, reporter).await?
        }
        (Mode::DryRun, _) => {
            // The members of a multisig pay for gas, and not the multisig.
            if !args.multisig {
                state.refuse_without_gas()?;
            }
            reporter.text("nothing was sent: this was a dry run");
            Value::Null
        }
        (Mode::Calldata, _) => Value::Null,
    };
    if as_json {
        output::line(state.json(mode, &mined, &result));
    }
    Ok(())
}

/// Returns the error of a step: one that is too dear is refused.
fn failed(error: DeployError) -> RunError {
    if matches!(error, DeployError::TooDear { .. }) {
        RunError::refused(error)
    } else {
        RunError::failed(error)
    }
}

/// Returns the mined transactions of one chain.
fn mined_by(deployer: &ChainDeployer) -> Vec<Value> {
    let chain_id = deployer.chain().id();
    let step = |step: &MinedStep| {
        let hash = step.hash.to_string();
        json!({ "chain_id": chain_id, "name": step.what, "transaction": hash })
    };
    deployer.mined().iter().map(step).collect()
}

impl DeployState<'_> {
    /// Returns the deployers of the settlement chain and of the app chain. Waits until all transactions of an earlier
    /// run are mined.
    async fn deployers(&self, key: &PrivateKeySigner) -> Result<[ChainDeployer; 2], RunError> {
        Ok([
            self.deployer_on(&self.settlement, ChainRole::Settlement, key).await?,
            self.deployer_on(&self.app, ChainRole::App, key).await?,
        ])
    }

    /// Returns the deployer of one chain, which pays no more than a multiple of the price that was shown.
    async fn deployer_on(
        &self,
        chain: &Chain,
        role: ChainRole,
        key: &PrivateKeySigner,
    ) -> Result<ChainDeployer, RunError> {
        let deployer = ChainDeployer::new(chain, key).await.map_err(failed)?;
        Ok(deployer.agreed_to(self.shown_price(role)))
    }

    /// Sends the missing transactions, in order.
    async fn carry_out(
        &self,
        key: &PrivateKeySigner,
        [settlement, app]: &mut [ChainDeployer; 2],
        reporter: Reporter,
    ) -> Result<(), RunError> {
        let plan = &self.plan;
        deploy::deploy_contracts(plan, settlement, app).await.map_err(failed)?;
        reporter.text("all contracts are there");
        let configured = deploy::configure_settlement(plan, settlement).await;
        configured.map_err(failed)?;
        reporter.text("the contracts of the settlement chain are configured");
        let have_arrived = deploy::have_parameters_arrived(plan, &self.app).await;
        if !have_arrived.map_err(RunError::failed)? {
            self.bring_parameters(key, settlement).await?;
        }
        deploy::update_app_contracts(plan, app).await.map_err(failed)?;
        deploy::publish_prices(plan, settlement).await.map_err(failed)
    }

    /// Sends the parameters of the app chain over the bridge, and waits for them.
    async fn bring_parameters(
        &self,
        key: &PrivateKeySigner,
        settlement: &mut ChainDeployer,
    ) -> Result<(), RunError> {
        if self.args.stand_in_token {
            self.make_stand_in_tokens(settlement).await?;
        }
        let send = self.bridging(&Account::Key(key.clone())).await?;
        for step in &send.steps {
            let sent = settlement.send(&step.described().name, &step.call).await;
            sent.map_err(failed)?;
        }
        let (begun, timeout) = (Instant::now(), self.args.send.timeout);
        let arrived = async || deploy::have_parameters_arrived(&self.plan, &self.app).await;
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
        let Some(call) = self.stand_in_tokens().await? else { return Ok(()) };
        settlement.send("making stand-in tokens", &call).await.map_err(failed)
    }
}
