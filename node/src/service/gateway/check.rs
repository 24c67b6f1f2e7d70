//! Checks of a gateway's settings, and of what they lead to, without a start.
//!
//! The checks write nothing, take no calls and send no transaction. Nodes, chains and Redis are not trusted: each is
//! asked within a time limit, and the number of nodes that are asked is bounded.

use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use hawser_chain::redis_link::RedisLink;
use hawser_engine::ports::Clock as _;
use hawser_engine::runtime::SystemClock;
use hawser_gateway::{REDIS_ANSWER_LEN_BYTES_MAX, check_policies, node_channel};
use hawser_proto::{one_line, root_cause};
use hawser_rules::{RateTable, Registry};

use super::{given, tenants};
use crate::error::RunError;
use crate::files::deployment::KnownDeployment;
use crate::files::{self, rates, registry};
use crate::service::doctor::DoctorCheck;
use crate::service::doctor::calls::call_node;
use crate::service::doctor::chains::{endpoint, websocket};
use crate::service::settlement::{APP, SETTLEMENT, SettlementReader};
use crate::service::tls;
use crate::settings::GatewayServiceSettings;

/// The number of nodes that are asked, and of those at the same time. Guesses: a gateway needs one that answers.
const ASKED_MAX: usize = 64;
const ASKED_AT_ONCE: usize = 16;
/// The message for a list whose watching has just been started.
const WATCHED: &str = "the list is watched";

/// Makes the checks of a start that need no network, and returns all errors. Contracts whose addresses are read from
/// the web are left out.
pub async fn check_settings(config: &GatewayServiceSettings) -> Vec<String> {
    let mut errors = Vec::new();
    errors.extend(usable_policies(config).err().map(|error| error.text));
    let registry = config.registry_file.as_ref().map(|path| files::read(path, registry::parse));
    errors.extend(registry.and_then(Result::err).map(|error| format!("--registry-file: {error}")));
    let rates = config.rates_file.as_ref().map(|path| files::read(path, rates::parse));
    errors.extend(rates.and_then(Result::err).map(|error| format!("--rates-file: {error}")));
    errors.extend(tls::load(config.tls.as_ref()).err().map(|error| error.to_string()));
    if !config.chains.contracts.is_read_from_the_web() {
        errors.extend(given::deployment(config).await.err().map(|error| error.text));
    }
    errors
}

/// Checks the policies, the files that they name, and the keys of tenants.
fn usable_policies(config: &GatewayServiceSettings) -> Result<(), RunError> {
    let policies = given::policies(config)?;
    tenants::payers(&policies)?;
    check_policies(&policies).map_err(|error| RunError::usage(format!("policies: {error}")))
}

/// Makes the checks that need the network: Redis, the endpoints of both chains, the node registry, the rates, and that
/// nodes answer.
pub async fn examine(config: &GatewayServiceSettings) -> Vec<DoctorCheck> {
    let deployment = match given::deployment(config).await {
        Ok(deployment) => deployment,
        Err(error) => {
            let remedy = "name the network or the file with the contracts' addresses";
            return vec![DoctorCheck::failed("contracts", error.text, remedy)];
        }
    };
    let mut checks = Vec::new();
    checks.extend(redis(config).await);
    if let Some(deployment) = &deployment {
        checks.extend(chains(config, deployment).await);
    }
    let lists = "check where registry and rates are read from: the endpoints, or the files";
    let mut reader = None;
    if let Some(deployment) = deployment.filter(|_| has_settlement(config)) {
        match SettlementReader::new(&config.chains, &deployment) {
            Ok(created) => reader = Some(created),
            Err(error) => checks.push(DoctorCheck::failed("registry", error.to_string(), lists)),
        }
    }
    checks.push(match known_rates(config, reader.as_mut()).await {
        Ok(count) => {
            DoctorCheck::fine("rates", format!("a rate is in force; known rates: {count}"))
        }
        Err(error) => DoctorCheck::failed("rates", error, lists),
    });
    match known_nodes(config, reader.as_mut()).await {
        Err(error) => checks.push(DoctorCheck::failed("registry", error, lists)),
        Ok(registry) => {
            let found = format!("the registry has {} nodes", registry.nodes().count());
            checks.push(DoctorCheck::fine("registry", found));
            checks.push(nodes(&registry, config.allow_private_nodes).await);
        }
    }
    checks
}

fn has_settlement(config: &GatewayServiceSettings) -> bool {
    !config.chains.contracts.settlement.urls.is_empty()
}

/// Checks that Redis answers; `None` if none is configured.
async fn redis(config: &GatewayServiceSettings) -> Option<DoctorCheck> {
    const NAME: &str = "redis";
    let access = config.redis.as_ref()?;
    Some(match RedisLink::connect(access, REDIS_ANSWER_LEN_BYTES_MAX).await {
        Ok(_) => DoctorCheck::fine(NAME, "Redis answers"),
        Err(error) => {
            let found = one_line(&error.to_string());
            DoctorCheck::failed(NAME, found, "start Redis, or correct --redis.redis-url")
        }
    })
}

/// Checks each endpoint of both chains, and each WebSocket that a gateway uses.
async fn chains(config: &GatewayServiceSettings, known: &KnownDeployment) -> Vec<DoctorCheck> {
    let (access, reading) = (&config.chains.contracts, &config.chains);
    let settlement = access.settlement.urls.iter();
    let settlement =
        settlement.map(|url| (SETTLEMENT, url, known.settlement_id, &reading.settlement));
    let app = access.app.urls.iter().map(|url| (APP, url, known.app_id, &reading.app));
    let asked = settlement.chain(app);
    let asked = asked.map(|(name, url, id, reading)| endpoint(name, url, id, reading, None));
    let push_urls = reading.settlement.push_urls.iter().filter(|_| has_settlement(config));
    let pushes = push_urls.map(|url| websocket(SETTLEMENT, url, known.settlement_id));
    let (endpoints, pushes) = tokio::join!(join_all(asked), join_all(pushes));
    endpoints.into_iter().flatten().chain(pushes).collect()
}

/// Reads the rates as a start does, and returns their number.
async fn known_rates(
    config: &GatewayServiceSettings,
    reader: Option<&mut SettlementReader>,
) -> Result<usize, String> {
    let now_ns = SystemClock.now_ns();
    let table: Arc<RateTable> = match (&config.rates_file, reader) {
        (Some(path), _) => {
            let read = files::read(path, rates::parse).map_err(|error| error.to_string())?;
            Arc::new(read.confirmed(now_ns))
        }
        (None, Some(reader)) => {
            reader.watch_rates(None, None).await.map_err(|error| error.to_string())?;
            let snapshots = reader.lists.rates.as_ref().expect(WATCHED).subscribe();
            snapshots.borrow().value.clone()
        }
        (None, None) => return Err("no endpoint of the settlement chain can be used".into()),
    };
    table.at(now_ns).map_err(|error| error.to_string())?;
    Ok(table.rates().len())
}

/// Reads the node registry as a start does.
async fn known_nodes(
    config: &GatewayServiceSettings,
    reader: Option<&mut SettlementReader>,
) -> Result<Arc<Registry>, String> {
    match (&config.registry_file, reader) {
        (Some(path), _) => {
            let read = files::read(path, registry::parse).map_err(|error| error.to_string())?;
            Ok(Arc::new(read))
        }
        (None, Some(reader)) => {
            reader.watch_registry(None).await.map_err(|error| error.to_string())?;
            let snapshots = reader.lists.registry.as_ref().expect(WATCHED).subscribe();
            Ok(snapshots.borrow().value.clone())
        }
        (None, None) => Err("no endpoint of the settlement chain can be used".into()),
    }
}

/// Checks that nodes of the canonical network answer this machine.
async fn nodes(registry: &Registry, allow_private: bool) -> DoctorCheck {
    let canonical = registry.nodes().filter(|record| record.canonical);
    let addresses = canonical.filter_map(|record| Some((record.id, record.http_address.clone()?)));
    let addresses: Vec<_> = addresses.take(ASKED_MAX).collect();
    let asked = addresses.into_iter().map(|(id, url)| async move {
        let answered = answers(&url, allow_private).await;
        answered.map_err(|why| format!("node {id} at {url}: {why}"))
    });
    judge(stream::iter(asked).buffered(ASKED_AT_ONCE).collect().await)
}

/// Judges the answers of the nodes that were asked.
fn judge(answers: Vec<Result<(), String>>) -> DoctorCheck {
    const NAME: &str = "nodes";
    const REMEDY: &str =
        "see the network from here to them; nodes at private addresses need --allow-private-nodes";
    let asked = answers.len();
    let faults: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
    let found = format!("{} of {asked} canonical nodes answer", asked - faults.len());
    match faults.first() {
        None if asked == 0 => {
            let found = "the registry has no canonical node with an address";
            DoctorCheck::failed(NAME, found, "check where the registry is read from")
        }
        None => DoctorCheck::fine(NAME, found),
        Some(first) if faults.len() == asked => {
            DoctorCheck::failed(NAME, format!("{found}; {first}"), REMEDY)
        }
        Some(first) => DoctorCheck::doubtful(NAME, format!("{found}; {first}"), REMEDY),
    }
}

/// Makes a call to a node over the channel that a gateway with these settings uses.
async fn answers(url: &str, allow_private: bool) -> Result<(), String> {
    let channel = node_channel(url, allow_private);
    call_node(channel.map_err(|error| one_line(&root_cause(&error)))?).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::doctor::CheckResult;

    #[test]
    fn one_node_that_answers_suffices() {
        let silent = || Err("it is silent".to_owned());
        let result = |answers: Vec<_>| judge(answers).result;
        assert_eq!(result(vec![]), CheckResult::Failed, "no node is known");
        assert_eq!(result(vec![silent(), silent()]), CheckResult::Failed);
        assert_eq!(result(vec![silent(), Ok(())]), CheckResult::Doubtful);
        assert_eq!(result(vec![Ok(()), Ok(())]), CheckResult::Fine);
        let found = judge(vec![Ok(()), silent()]).found;
        assert_eq!(found, "1 of 2 canonical nodes answer; it is silent");
    }

    #[tokio::test]
    async fn a_private_address_is_not_called_unless_that_is_allowed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let urls = ["localhost", "127.0.0.1"].map(|host| format!("http://{host}:{port}"));
        for url in &urls {
            let refused = answers(url, false).await.unwrap_err();
            assert!(refused.contains("--allow-private-nodes"), "{url}: {refused}");
        }
        drop(listener);
        let refused = answers(&urls[1], true).await.unwrap_err();
        assert!(!refused.contains("private"), "{refused}");
    }

    #[tokio::test]
    async fn what_is_no_url_is_an_error() {
        for url in ["", "no url", "http://"] {
            answers(url, true).await.unwrap_err();
        }
    }
}
