//! `hawser contracts`: versions, pauses, upgrades and deployments.

mod deploy;

use hawser_chain::admin::installed::{self, InstalledContract};
use hawser_chain::admin::pauses::{self, PauseChange};
use hawser_chain::admin::upgrades::{self, MigratorChoice, NewCode};
use hawser_chain::admin::{ChainRole, Contract, Network, splitter};
use hawser_chain::contracts::parameter::of_address;
use hawser_node::error::RunError;

use crate::args::contracts::{ContractsCommand, PauseArgs, UpgradeArgs};
use crate::args::onchain::{NetworkArgs, TransactionArgs};
use crate::commands::onchain::{self, ChainsNeeded, OnchainSession, ResultFields, SENDER};

/// Runs the command.
///
/// # Errors
/// When a step fails; the text says whether something was sent.
pub(super) async fn run(command: ContractsCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        ContractsCommand::List(args) => list(&args, as_json).await,
        ContractsCommand::Pause(args) => pause(&args, PauseChange::Pause, as_json).await,
        ContractsCommand::Unpause(args) => pause(&args, PauseChange::Resume, as_json).await,
        ContractsCommand::Upgrade(args) => upgrade(&args, as_json).await,
        ContractsCommand::Splitter(args) => another_splitter(&args, as_json).await,
        ContractsCommand::Deploy(args) => deploy::run(&args, as_json).await,
    }
}

async fn list(args: &NetworkArgs, as_json: bool) -> Result<(), RunError> {
    let network = onchain::connect(args, ChainsNeeded::AppIfGiven).await?;
    let all = installed::list(&network).await?;
    ResultFields::print_list(all.iter().map(fields), as_json);
    Ok(())
}

async fn pause(args: &PauseArgs, change: PauseChange, as_json: bool) -> Result<(), RunError> {
    let contract = args.contract;
    let key = pauses::parameter_of(contract)?;
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::AppIfGiven, SENDER, as_json).await?;
    let plan = pauses::set(&session.network, contract, change).await?;
    session.carry_out(plan).await?;
    if contract.chain() == ChainRole::App {
        onchain::bring(&mut session, &key, change.word(), &args.bridge.terms()).await?;
        let is_there = session.sends();
        let plan = pauses::adopt(&session.network, contract, change, is_there).await?;
        session.carry_out(plan).await?;
    }
    finish(session, contract).await
}

async fn upgrade(args: &UpgradeArgs, as_json: bool) -> Result<(), RunError> {
    let contract = args.contract;
    let new = args.implementation.map_or(NewCode::ThisBuild, NewCode::At);
    let choice = match (args.migrator, args.backfill) {
        (Some(migrator), _) => MigratorChoice::At(migrator),
        (None, true) => MigratorChoice::Backfill,
        (None, false) => MigratorChoice::Exact,
    };
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::AppIfGiven, SENDER, as_json).await?;
    let upgrade = upgrades::plan(&session.network, contract, new, choice).await?;
    session.carry_out(upgrade.prepare.clone()).await?;
    if upgrade.needs_bridge() {
        let migrator = of_address(upgrade.migrator);
        let terms = args.bridge.terms();
        onchain::bring(&mut session, &upgrade.parameter, migrator, &terms).await?;
    }
    let migrate = upgrade.migrate(&session.network, session.sends()).await?;
    session.carry_out(migrate).await?;
    if session.sends() {
        upgrade.verify(&session.network).await?;
    }
    finish(session, contract).await
}

async fn another_splitter(args: &TransactionArgs, as_json: bool) -> Result<(), RunError> {
    let mut session = OnchainSession::open(args, ChainsNeeded::Settlement, SENDER, as_json).await?;
    let (address, plan) = splitter::plan(&session.network).await?;
    session.carry_out(plan).await?;
    let result = session.sends().then(|| {
        ResultFields::default()
            .with("contract", Contract::DepositSplitter.name())
            .with("address", address.to_string())
    });
    session.finish(result);
    Ok(())
}

async fn finish(session: OnchainSession, contract: Contract) -> Result<(), RunError> {
    session
        .finish_with(async |network: &Network| {
            Ok(Some(fields(&installed::get(network, contract).await?)))
        })
        .await
}

fn fields(installed: &InstalledContract) -> ResultFields {
    let code = if installed.is_this_build { "this build" } else { "another build" };
    let fields = ResultFields::default()
        .with("contract", installed.contract.name())
        .with("chain", installed.contract.chain().to_string())
        .with("address", installed.address.to_string());
    let fields = match &installed.version {
        Some(version) => fields.with("version", version.as_str()),
        None => fields,
    };
    let fields = match installed.implementation {
        Some(implementation) => fields.with("implementation", implementation.to_string()),
        None => fields,
    };
    let fields = fields.with("code", code);
    match installed.paused {
        Some(paused) => fields.with("paused", paused),
        None => fields,
    }
}
