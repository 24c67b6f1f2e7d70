//! A gateway at work: what it is told of the network, its start and its end.
//!
//! - `world`: registry and price list, from files or from the settlement chain;
//! - `chain`: the app chain, as the gateway writes to it.

mod chain;
mod world;

use std::sync::Arc;

use hawser_chain::index::ChainReader;
use hawser_gateway::policy::config::PolicyFile;
use hawser_gateway::{GatewayHandle, GatewaySettings, StartError, World};
use hawser_validation::precheck::UpdatePrecheck;
use hawser_validation::wallets::Wallets;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep_until};

use super::stop_signal::{End, Ends};
use super::supervisor::Supervisor;
use super::system;
use crate::failure::Failure;
use crate::files;
use crate::files::deployment::Deployment;
use crate::settings::GatewayServiceSettings;
use crate::settings::StopSettings;
use world::Settlement;

/// Runs a gateway until something tells it to stop. `exit_with_parent`: the end of the standard
/// input does.
///
/// # Errors
/// When it does not start, or does not stop in order.
pub fn run(config: GatewayServiceSettings, exit_with_parent: bool) -> Result<(), Failure> {
    system::require_open_files().map_err(Failure::failed)?;
    let runtime = Runtime::new().map_err(Failure::failed)?;
    let done = runtime.block_on(live(config, exit_with_parent));
    runtime.shutdown_background();
    done
}

async fn live(config: GatewayServiceSettings, exit_with_parent: bool) -> Result<(), Failure> {
    let mut ends = Ends::listen(exit_with_parent).map_err(Failure::failed)?;
    let stop = config.stop;
    let gateway = tokio::select! {
        gateway = start(config) => gateway?,
        end = ends.next() => {
            tracing::info!(?end, "told to stop before the gateway had started");
            return Ok(());
        }
    };
    let supervisor = Supervisor::from_env();
    supervisor.iter().for_each(Supervisor::ready);
    match ends.next().await {
        End::Signal(name) => tracing::info!(signal = name, "stopping"),
        End::Parent => tracing::info!("the parent has gone: stopping"),
    }
    supervisor.iter().for_each(Supervisor::stopping);
    end(gateway, stop, &mut ends).await
}

/// A gateway, and what it is told by.
struct Running {
    gateway: GatewayHandle,
    _reading: Option<ChainReader>,
}

async fn start(config: GatewayServiceSettings) -> Result<Running, Failure> {
    let policies = match &config.policies {
        Some(path) => files::read(path, PolicyFile::parse)?,
        None => PolicyFile::default(),
    };
    let (world, reading) = world(&config).await?;
    let settings = GatewaySettings {
        listen: config.listen,
        metrics: config.metrics,
        reflection: config.reflection,
        strategy: config.nodes.strategy.clone(),
        connect_time_every: config.nodes.connect_time_every,
        connect_timeout: config.nodes.connect_timeout,
        attempt_timeout: config.nodes.attempt_timeout,
        attempts_max: config.nodes.attempts_max,
        chain_payload_bytes_max: config.chain_payload_bytes_max,
        list_failing_max: config.chains.settlement.disconnect_max,
        policies,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("HAWSER_COMMIT").unwrap_or_default().to_owned(),
        ..GatewaySettings::new(config.payer.clone())
    };
    let gateway = hawser_gateway::start(settings, world).await.map_err(not_started)?;
    let address = gateway.address();
    let payer = config.payer.public_key().address();
    tracing::info!(port = address.port(), %payer, %address, "started gateway server");
    Ok(Running { gateway, _reading: reading })
}

fn not_started(error: StartError) -> Failure {
    let hint = match &error {
        StartError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            ": stop what uses it, or choose other ports (--api.port, --metrics.metrics-port)"
        }
        _ => "",
    };
    Failure::failed(format!("{error}{hint}"))
}

/// What the gateway is told, and what has to go on so that it is told the truth.
async fn world(config: &GatewayServiceSettings) -> Result<(World, Option<ChainReader>), Failure> {
    let said = &config.chains.contracts;
    let rates_wanted = Arc::new(tokio::sync::Notify::new());
    let deployment = if said.settlement.urls.is_empty() && said.app.urls.is_empty() {
        None
    } else {
        Some(Deployment::of(said).await?)
    };
    let mut settlement = match &deployment {
        Some(deployment) if !said.settlement.urls.is_empty() => {
            Some(Settlement::new(said, deployment)?)
        }
        _ => None,
    };
    let nodes = match (&config.registry_file, &mut settlement) {
        (Some(path), _) => world::nodes_of_file(path)?,
        (None, Some(settlement)) => settlement.nodes(config.chains.nodes_refresh).await?,
        (None, None) => return Err(Failure::usage("no node registry was named")),
    };
    let rates = match (&config.rates_file, &mut settlement) {
        (Some(path), _) => world::rates_of_file(path)?,
        (None, Some(settlement)) => {
            settlement.rates(config.chains.rates_refresh, rates_wanted.clone()).await?
        }
        (None, None) => return Err(Failure::usage("no price list was named")),
    };
    let chain = match &deployment {
        Some(deployment) if !said.app.urls.is_empty() => {
            Some(chain::writer(config, deployment).await?)
        }
        _ => {
            tracing::warn!(
                "no app chain was named: commits, proposals and identity updates are refused"
            );
            None
        }
    };
    let push_urls = config.chains.settlement.push_urls.clone();
    let (reading, lists) = settlement.map(|settlement| settlement.listen(push_urls)).unzip();
    let wallets = Arc::new(Wallets::over_rpc(config.wallet_rpcs.clone()));
    let identity = Some(Arc::new(UpdatePrecheck::new(wallets)) as _);
    Ok((World { nodes, rates, lists, rates_wanted, chain, identity }, reading))
}

/// Stops in order; gives up at the second signal, or when it takes too long.
async fn end(running: Running, stop: StopSettings, ends: &mut Ends) -> Result<(), Failure> {
    let late = Instant::now() + stop.drain + stop.grace;
    let why = tokio::select! {
        () = running.gateway.shutdown(stop.drain) => {
            tracing::info!("stopped");
            return Ok(());
        }
        () = sleep_until(late) => "it took too long",
        name = ends.next_signal() => name,
    };
    tracing::error!(code = "stop_forced", why, "not every call had ended");
    system::exit_now(1);
}
