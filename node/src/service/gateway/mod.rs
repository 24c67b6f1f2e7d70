//! The gateway service: its inputs, start and stop.
//!
//! - `given`: policies and contracts; `check`: checks of the settings without a start;
//! - `files`: registry and rates from files; from the chain they come through `settlement`;
//! - `chain`: the gateway's access to the app chain; `tenants`: the keys of tenants, and their access to the app chain.

mod chain;
mod check;
mod files;
mod given;
mod tenants;

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_chain::admin::Contract;
use hawser_chain::broadcast::TransactionTimes;
use hawser_chain::index::ChainReader;
use hawser_chain::redis_link::RedisLink;
use hawser_chain::watch::{DepositWatcher, ListWatcher};
use hawser_gateway::chain::{ChainRecordError, ChainRecordPlace, ChainWriter};
use hawser_gateway::policy::config::PolicyFile;
use hawser_gateway::{
    GatewayHandle, GatewayPorts, GatewaySettings, REDIS_ANSWER_LEN_BYTES_MAX, StartError,
};
use hawser_proto::SecretKey;
use hawser_serve::ChainListsView;
use hawser_validation::precheck::UpdatePrecheck;
use hawser_validation::wallets::Wallets;
use tokio::sync::{Notify, watch};

use super::service_manager::serve_until_stopped;
use super::settlement::{SettlementLists, SettlementReader};
use super::stop_signal::{StopOn, StopSignals};
use super::stop_steps::StopSteps;
use super::system::{self, OpenFiles};
use super::tls;
use crate::environment;
use crate::error::RunError;
use crate::files::deployment::KnownDeployment;
use crate::settings::{GatewayServiceSettings, StopSettings};

pub use check::{check_settings, examine};

/// Runs a gateway until one of the events stops it.
///
/// # Errors
/// Fails when it does not start, or does not stop in order.
pub fn run(config: GatewayServiceSettings, stop_on: StopOn) -> Result<(), RunError> {
    let policies = given::policies(&config)?;
    let tenant_payers = tenants::payers(&policies)?;
    // After the last secret was read, and before there is a second thread.
    let of_tenants = policies.tenants.values().filter_map(|it| it.payer_key_env.as_deref());
    if !environment::erase_secrets(of_tenants) {
        environment::warn_of_secrets();
    }
    system::return_freed_memory();
    system::require_open_files().map_err(RunError::failed)?;
    let runtime = system::runtime().map_err(RunError::failed)?;
    let done = runtime.block_on(live(config, policies, tenant_payers, stop_on));
    runtime.shutdown_background();
    done
}

async fn live(
    config: GatewayServiceSettings,
    policies: PolicyFile,
    tenant_payers: BTreeMap<String, SecretKey>,
    stop_on: StopOn,
) -> Result<(), RunError> {
    let mut ends = StopSignals::listen(stop_on).map_err(RunError::failed)?;
    let stop = config.stop;
    let gateway = tokio::select! {
        gateway = start(config, policies, tenant_payers) => gateway?,
        end = ends.next() => {
            tracing::info!(?end, "stopped before the gateway had started");
            return Ok(());
        }
    };
    serve_until_stopped(&mut ends, None).await;
    end(gateway, stop, &mut ends).await;
    Ok(())
}

/// A gateway, and the settlement chain readers with the same lifetime.
struct Running {
    gateway: GatewayHandle,
    _reading: Option<SettlementReading>,
}

/// Keeps the lists of the settlement chain up to date until it is dropped.
struct SettlementReading {
    _lists: SettlementLists,
    _events: ChainReader,
    _deposit: Option<DepositWatcher>,
}

/// The message for a list whose watching has just been started.
const WATCHED: &str = "the list is watched";

/// Starts the parts of a gateway, the listener last.
async fn start(
    config: GatewayServiceSettings,
    policies: PolicyFile,
    tenant_payers: BTreeMap<String, SecretKey>,
) -> Result<Running, RunError> {
    tls::warn_without(config.tls.as_ref(), config.listen);
    let tls = tls::load(config.tls.as_ref()).map_err(RunError::usage)?;
    let (world, reading) = inputs(&config, &tenant_payers).await?;
    let settings = GatewaySettings {
        listen: config.listen,
        metrics: config.metrics,
        callers_bytes_max: config.callers_bytes_max(),
        connections_max: OpenFiles::of_process(None).gateway_connections,
        connections_per_address_max: config.connections_per_address,
        reflection: config.reflection,
        tls,
        strategy: config.nodes.strategy.clone(),
        connect_time_every: config.nodes.connect_time_every,
        connect_timeout: config.nodes.connect_timeout,
        attempt_timeout: config.nodes.attempt_timeout,
        attempts_max: config.nodes.attempts_max,
        chain_payload_bytes_max: config.chain_payload_bytes_max,
        allow_private_nodes: config.allow_private_nodes,
        policies,
        tenant_payers,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: config.commit.to_owned(),
        ..GatewaySettings::new(config.payer.clone())
    };
    let gateway = hawser_gateway::start(settings, world).await.map_err(not_started)?;
    let address = gateway.address();
    let payer = config.payer.public_key().address();
    tracing::info!(port = address.port(), %payer, %address, "started gateway server");
    Ok(Running { gateway, _reading: reading })
}

fn not_started(error: StartError) -> RunError {
    match &error {
        StartError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            RunError::failed(format!(
                "{error}: stop what uses it, or choose other ports (--api.port, --metrics.metrics-port)"
            ))
        }
        // Wrong policies stay wrong: with this kind, the unit of systemd does not start the gateway again.
        StartError::Policies(_) | StartError::NoTenantKey(_) => RunError::usage(&error),
        StartError::ChainRecord(ChainRecordError::Other { .. }) => RunError::refused(&error),
        _ => RunError::failed(&error),
    }
}

fn not_set(list: &str, flag: &str) -> RunError {
    let text = format!("no {list} is set: give --contracts.settlement-chain.rpc-url, or --{flag}");
    RunError::usage(text)
}

/// Returns the gateway's inputs, and the reader that keeps them up to date while it lives.
async fn inputs(
    settings: &GatewayServiceSettings,
    tenant_payers: &BTreeMap<String, SecretKey>,
) -> Result<(GatewayPorts, Option<SettlementReading>), RunError> {
    let access = &settings.chains.contracts;
    let rates_wanted = Arc::new(Notify::new());
    let deployment = given::deployment(settings).await?;
    let mut settlement = match &deployment {
        Some(deployment) if !access.settlement.urls.is_empty() => {
            Some(SettlementReader::new(&settings.chains, deployment)?)
        }
        _ => None,
    };
    let registry = match (&settings.registry_file, &mut settlement) {
        (Some(path), _) => files::follow_registry(path)?,
        (None, Some(settlement)) => {
            settlement.watch_registry(None).await?;
            values(settlement.lists.registry.as_ref().expect(WATCHED))
        }
        (None, None) => return Err(not_set("node registry", "registry-file")),
    };
    let rates = match (&settings.rates_file, &mut settlement) {
        (Some(path), _) => files::follow_rates(path)?,
        (None, Some(settlement)) => {
            settlement.watch_rates(Some(rates_wanted.clone()), None).await?;
            values(settlement.lists.rates.as_ref().expect(WATCHED))
        }
        (None, None) => return Err(not_set("price list", "rates-file")),
    };
    let app = app_chains(settings, deployment.as_ref(), tenant_payers).await?;
    let redis = redis(settings).await?;
    let push_urls = settings.chains.settlement.push_urls.clone();
    let watcher = deposit_watcher(settings, settlement.as_ref(), deployment.as_ref());
    let deposit =
        watcher.as_ref().map_or_else(|| watch::channel(None).1, DepositWatcher::subscribe);
    let listen = |settlement| listen(settlement, push_urls, watcher);
    let (reading, lists) = settlement.map(listen).unzip();
    let wallets =
        Arc::new(Wallets::over_rpc(settings.wallets.rpcs.clone(), settings.wallets.list()));
    let identity = Some(Arc::new(UpdatePrecheck::new(wallets, tenant_payers.len())) as _);
    let ports = GatewayPorts {
        registry,
        rates,
        lists,
        deposit,
        rates_wanted,
        chain: app.chain,
        tenant_chains: app.tenant_chains,
        transaction_times: app.times,
        chain_record: deployment.as_ref().and_then(|it| chain_record(settings, it)),
        identity,
        redis,
    };
    Ok((ports, reading))
}

/// Returns the place of the record of payloads on the app chain: beside the nonce record, whose lock excludes other
/// processes. With Redis no process locks that, and Redis has the places of payloads.
fn chain_record(
    settings: &GatewayServiceSettings,
    deployment: &KnownDeployment,
) -> Option<ChainRecordPlace> {
    let record = settings.nonce_record.as_ref().filter(|_| settings.redis.is_none());
    let path = record?.with_added_extension("on-chain");
    let contracts = [Contract::GroupMessageBroadcaster, Contract::IdentityUpdateBroadcaster];
    let contracts = contracts.into_iter().filter_map(|it| deployment.contracts.get(it));
    let contracts: Vec<_> = contracts.map(|address| address.to_string()).collect();
    Some(ChainRecordPlace { path, chain: format!("{} {}", deployment.app_id, contracts.join(" ")) })
}

/// The access to the app chain of the payer itself and of each tenant.
struct AppChains {
    chain: Option<Arc<dyn ChainWriter>>,
    tenant_chains: BTreeMap<String, Arc<dyn ChainWriter>>,
    times: TransactionTimes,
}

/// Connects to the app chain with the payer's account and those of tenants; without its endpoints no payload for the
/// chain is taken.
async fn app_chains(
    settings: &GatewayServiceSettings,
    deployment: Option<&KnownDeployment>,
    tenant_payers: &BTreeMap<String, SecretKey>,
) -> Result<AppChains, RunError> {
    let access = &settings.chains.contracts;
    let (mut tenant_chains, times) = (BTreeMap::new(), TransactionTimes::default());
    let chain = match deployment {
        Some(deployment) if !access.app.urls.is_empty() && !tenant_payers.is_empty() => {
            tenant_chains = tenants::writers(settings, deployment, tenant_payers, &times).await?;
            None
        }
        Some(deployment) if !access.app.urls.is_empty() => {
            let record = settings.nonce_record.clone();
            Some(chain::writer(settings, deployment, &settings.payer, record, &times).await?)
        }
        _ => {
            tracing::warn!(
                "no app chain is set (--contracts.app-chain.rpc-url): commits, proposals and identity updates are \
                 refused"
            );
            None
        }
    };
    Ok(AppChains { chain, tenant_chains, times })
}

/// Starts to read the payer's balance if the settlement chain is known.
fn deposit_watcher(
    settings: &GatewayServiceSettings,
    settlement: Option<&SettlementReader>,
    deployment: Option<&KnownDeployment>,
) -> Option<DepositWatcher> {
    let registry = deployment?.contracts.get(Contract::PayerRegistry)?;
    let payer = settings.payer.public_key().address().0.into();
    Some(DepositWatcher::start(settlement?.endpoints.clone(), registry, payer))
}

/// Connects to the Redis that several gateways share, if one is configured.
async fn redis(settings: &GatewayServiceSettings) -> Result<Option<Arc<RedisLink>>, RunError> {
    let Some(access) = &settings.redis else { return Ok(None) };
    let link = RedisLink::connect(access, REDIS_ANSWER_LEN_BYTES_MAX).await;
    let link = link.map_err(RunError::failed)?;
    Ok(Some(Arc::new(link)))
}

/// Starts to listen to the chain, so that changes of the lists are read at once.
fn listen(
    mut settlement: SettlementReader,
    push_urls: Vec<String>,
    deposit: Option<DepositWatcher>,
) -> (SettlementReading, Arc<dyn ChainListsView>) {
    let push = settlement.push_settings(push_urls);
    let events = ChainReader::start(settlement.endpoints, push, Vec::new());
    let view = Arc::new(settlement.lists.view());
    (SettlementReading { _lists: settlement.lists, _events: events, _deposit: deposit }, view)
}

/// Returns a receiver of the values alone, to which a failed read changes nothing.
fn values<T: Send + Sync + 'static>(watcher: &ListWatcher<T>) -> watch::Receiver<Arc<T>> {
    let mut snapshots = watcher.subscribe();
    let (sender, receiver) = watch::channel(snapshots.borrow_and_update().value.clone());
    tokio::spawn(async move {
        while snapshots.changed().await.is_ok() {
            let value = {
                let snapshot = snapshots.borrow_and_update();
                snapshot.error.is_none().then(|| snapshot.value.clone())
            };
            if let Some(value) = value {
                sender.send_replace(value);
            }
        }
    });
    receiver
}

/// Stops in order. Exits with 1 at the second signal, or when the time is over.
async fn end(running: Running, stop: StopSettings, ends: &mut StopSignals) {
    let Running { gateway, _reading } = running;
    let mut steps = StopSteps::default();
    for (name, step) in gateway.stop_steps(stop.drain) {
        steps.add(name, step);
    }
    steps.run_or_exit(stop, ends).await;
}
