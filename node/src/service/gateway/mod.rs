//! A gateway at work: what it is told of the network, its start and its end.
//!
//! - `world`: registry and price list, from files or from the settlement chain;
//! - `chain`: the app chain, as the gateway writes to it; `identity`: what must not get there.

mod chain;
mod identity;
mod world;

use std::sync::Arc;

use hawser_chain::admin::Network;
use hawser_gateway::policy::config::PolicyFile;
use hawser_gateway::{GatewayHandle, GatewaySettings, StartError, World};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep_until};

use super::ends::{End, Ends};
use super::supervisor::Supervisor;
use super::system;
use crate::commands::onchain::{Reach, connect_to};
use crate::config::StopConfig;
use crate::config::gateway::GatewayConfig;
use crate::failure::Failure;
use crate::files;

/// Runs a gateway until something tells it to stop. `exit_with_parent`: the end of the standard
/// input does.
///
/// # Errors
/// When it does not start, or does not stop in order.
pub fn run(config: GatewayConfig, exit_with_parent: bool) -> Result<(), Failure> {
    system::require_open_files().map_err(Failure::failed)?;
    let runtime = Runtime::new().map_err(Failure::failed)?;
    let done = runtime.block_on(live(config, exit_with_parent));
    runtime.shutdown_background();
    done
}

async fn live(config: GatewayConfig, exit_with_parent: bool) -> Result<(), Failure> {
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

async fn start(config: GatewayConfig) -> Result<GatewayHandle, Failure> {
    let policies = match &config.policies {
        Some(path) => files::read(path, PolicyFile::parse)?,
        None => PolicyFile::default(),
    };
    let network = match &config.contracts {
        Some(contracts) => Some(connect_to(contracts, Reach::AppIfGiven).await?),
        None => None,
    };
    let world = world(&config, network.map(Arc::new)).await?;
    let settings = GatewaySettings {
        listen: config.listen,
        metrics: config.metrics,
        strategy: config.nodes.strategy.clone(),
        connect_time_every: config.nodes.connect_time_every,
        connect_timeout: config.nodes.connect_timeout,
        attempt_timeout: config.nodes.attempt_timeout,
        attempts_max: config.nodes.attempts_max,
        chain_payload_bytes_max: config.chain_payload_bytes_max,
        policies,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("HAWSER_COMMIT").unwrap_or_default().to_owned(),
        ..GatewaySettings::new(config.payer.clone())
    };
    let gateway = hawser_gateway::start(settings, world).await.map_err(not_started)?;
    let address = gateway.address();
    let payer = config.payer.public_key().address();
    tracing::info!(port = address.port(), %payer, %address, "started gateway server");
    Ok(gateway)
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

async fn world(config: &GatewayConfig, network: Option<Arc<Network>>) -> Result<World, Failure> {
    let rates_wanted = Arc::new(tokio::sync::Notify::new());
    let nodes = match (&config.registry_file, &network) {
        (Some(path), _) => world::nodes_of_file(path)?,
        (None, Some(network)) => {
            world::nodes_of_chain(network.clone(), config.nodes_refresh).await?
        }
        (None, None) => return Err(Failure::usage("no node registry was named")),
    };
    let rates = match (&config.rates_file, &network) {
        (Some(path), _) => world::rates_of_file(path)?,
        (None, Some(network)) => {
            let wanted = rates_wanted.clone();
            world::rates_of_chain(network.clone(), config.rates_refresh, wanted).await?
        }
        (None, None) => return Err(Failure::usage("no price list was named")),
    };
    let chain = match &network {
        Some(network) if network.app.is_some() => {
            let urls = config.contracts.as_ref().map(|contracts| contracts.app.urls.clone());
            Some(chain::writer(config, urls.unwrap_or_default(), network).await?)
        }
        _ => {
            tracing::warn!(
                "no app chain was named: commits, proposals and identity updates are refused"
            );
            None
        }
    };
    Ok(World { nodes, rates, rates_wanted, chain, identity: Some(Arc::new(identity::Updates)) })
}

/// Stops in order; gives up at the second signal, or when it takes too long.
async fn end(gateway: GatewayHandle, stop: StopConfig, ends: &mut Ends) -> Result<(), Failure> {
    let late = Instant::now() + stop.drain + stop.grace;
    let why = tokio::select! {
        () = gateway.shutdown(stop.drain) => {
            tracing::info!("stopped");
            return Ok(());
        }
        () = sleep_until(late) => "it took too long",
        name = ends.next_signal() => name,
    };
    tracing::error!(code = "stop_forced", why, "not every call had ended");
    system::exit_now(1);
}
