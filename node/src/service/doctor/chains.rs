//! Checks of the chains: endpoints, clock, the node's registry record, rates, and the paying account.

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::Address;
use alloy::providers::Provider as _;
use futures_util::future::join_all;
use hawser_chain::admin::Contract;
use hawser_chain::index::{PushError, display_url, try_push};
use hawser_chain::send::Chain;
use hawser_rules::NodeRecord;

use super::checked::DoctorCheck;
use crate::clock::signed_now_unix_s;
use crate::files::deployment::KnownDeployment;
use crate::service::network::chains::{Chains, needed};
use crate::service::open::{first_registry, own_record};
use crate::service::settlement::{APP, SETTLEMENT};
use crate::settings::{ChainReadSettings, NodeServiceSettings};

/// The lead of a block's time over this machine's clock, in seconds, above which the
/// operator should look. Specified: two.
const AHEAD_S_DOUBTFUL: i64 = 2;
/// The lead in seconds above which others accept nothing that this machine dates. Specified: five minutes.
const AHEAD_S_FAILED: i64 = 300;
const CLOCK_REMEDY: &str = "keep this machine's clock by NTP; if it is right, check the endpoint";
const ENDPOINT_REMEDY: &str = "check the URL and the provider's quota, or name another endpoint";

/// The results of the chain checks, with this node's record and its URL if the registry has them.
pub(super) struct SeenChains {
    pub(super) checks: Vec<DoctorCheck>,
    pub(super) own: Option<(NodeRecord, String)>,
}

/// Checks the configured chains, or the files that substitute for them.
pub(super) async fn examine(config: &NodeServiceSettings) -> SeenChains {
    let mut checks = Vec::new();
    let access = &config.chains.contracts;
    if !access.settlement.urls.is_empty() || !access.app.urls.is_empty() {
        match KnownDeployment::of(access, &needed(config)).await {
            Ok(deployment) => {
                checks.extend(endpoints(config, &deployment).await);
                checks.extend(websockets(config, &deployment).await);
            }
            Err(error) => {
                let remedy = "name the network or the file with the contracts' addresses";
                checks.push(DoctorCheck::failed("contracts", error.text, remedy));
                return SeenChains { checks, own: None };
            }
        }
    }
    let (more, own) = registry(config).await;
    checks.extend(more);
    SeenChains { checks, own }
}

/// Checks every endpoint of both chains concurrently.
async fn endpoints(config: &NodeServiceSettings, deployment: &KnownDeployment) -> Vec<DoctorCheck> {
    let access = &config.chains.contracts;
    let settlement = access.settlement.urls.iter();
    let settlement = settlement
        .map(|url| (SETTLEMENT, url, deployment.settlement_id, &config.chains.settlement));
    let app = access.app.urls.iter().map(|url| (APP, url, deployment.app_id, &config.chains.app));
    let pays = config.payer_reports.is_some()
        && deployment.contracts.get(Contract::PayerReportManager).is_some();
    let payer = pays.then(|| Address::from(config.signer.public_key().address().0));
    let looks = settlement.chain(app).map(|(name, url, id, reading)| {
        let payer = payer.filter(|_| name == SETTLEMENT);
        endpoint(name, url, id, reading, payer)
    });
    join_all(looks).await.into_iter().flatten().collect()
}

/// Checks every WebSocket of both chains concurrently.
async fn websockets(
    config: &NodeServiceSettings,
    deployment: &KnownDeployment,
) -> Vec<DoctorCheck> {
    let (settlement, app) = (&config.chains.settlement.push_urls, &config.chains.app.push_urls);
    let settlement = settlement.iter().map(|url| (SETTLEMENT, url, deployment.settlement_id));
    let app = app.iter().map(|url| (APP, url, deployment.app_id));
    join_all(settlement.chain(app).map(|(name, url, id)| websocket(name, url, id))).await
}

/// Checks one WebSocket. A process that can use none polls the chain. One of another chain is a wrong setting.
pub(in crate::service) async fn websocket(name: &str, url: &str, id: u64) -> DoctorCheck {
    const NAME: &str = "websocket";
    let at = format!("{name} chain: {}", display_url(url));
    match try_push(url, id).await {
        Ok(block) => DoctorCheck::fine(NAME, format!("{at} announces blocks, now at {block}")),
        Err(error @ PushError::WrongChain { .. }) => DoctorCheck::failed(
            NAME,
            format!("{at}: {error}; it is not used"),
            "correct the URL, or take it out of the settings",
        ),
        Err(error @ PushError::Unusable(_)) => DoctorCheck::doubtful(
            NAME,
            format!("{at}: {error}; the chain is asked for new blocks every second"),
            ENDPOINT_REMEDY,
        ),
    }
}

/// Checks one endpoint: its chain id, the time of its head compared with this machine's
/// clock, and the account's balance.
pub(in crate::service) async fn endpoint(
    name: &str,
    url: &str,
    id: u64,
    reading: &ChainReadSettings,
    payer: Option<Address>,
) -> Vec<DoctorCheck> {
    const NAME: &str = "rpc_endpoint";
    let failed = |error: &dyn std::fmt::Display| {
        DoctorCheck::failed(NAME, format!("{name} chain: {error}"), ENDPOINT_REMEDY)
    };
    let chain = match Chain::connect(url, id).await {
        Ok(chain) => chain,
        Err(error) => return vec![failed(&error)],
    };
    let block = chain.provider().get_block_by_number(BlockNumberOrTag::Latest).await;
    let block = block.map_err(|error| chain.request_error("eth_getBlockByNumber", error));
    let at = chain.endpoint();
    let mut checks = match block {
        Err(error) => vec![failed(&error)],
        Ok(None) => vec![failed(&format!("{at} has no newest block"))],
        Ok(Some(block)) => {
            let (number, time_s) = (block.header.number, block.header.timestamp);
            let found = format!("{name} chain: {at} serves chain {id} and has block {number}");
            let time_s = i64::try_from(time_s).unwrap_or(i64::MAX);
            let clock = judge_head(name, time_s.saturating_sub(signed_now_unix_s()), reading);
            vec![DoctorCheck::fine(NAME, found), clock]
        }
    };
    if let Some(payer) = payer {
        let balance = chain.provider().get_balance(payer).await;
        checks.push(match balance {
            Ok(wei) if wei.is_zero() => DoctorCheck::doubtful(
                "account",
                format!("{payer} has nothing of the settlement chain's native token"),
                "send it some: it pays for payer reports",
            ),
            Ok(wei) => DoctorCheck::fine("account", format!("{payer} has {wei} wei at {at}")),
            Err(error) => failed(&chain.request_error("eth_getBalance", error)),
        });
    }
    checks
}

/// Judges the time of the newest block, given in seconds ahead of this machine's clock.
fn judge_head(chain: &str, ahead_s: i64, reading: &ChainReadSettings) -> DoctorCheck {
    const NAME: &str = "clock";
    let behind_max_s = i64::try_from(reading.disconnect_max.as_secs()).unwrap_or(i64::MAX);
    match ahead_s {
        AHEAD_S_FAILED.. => {
            let found = format!("the {chain} chain is {ahead_s} s ahead of this machine's clock");
            DoctorCheck::failed(NAME, found, CLOCK_REMEDY)
        }
        ahead_s if ahead_s > AHEAD_S_DOUBTFUL => {
            let found = format!("the {chain} chain is {ahead_s} s ahead of this machine's clock");
            DoctorCheck::doubtful(NAME, found, CLOCK_REMEDY)
        }
        ahead_s if ahead_s < -behind_max_s => {
            let found = format!("the newest block of the {chain} chain is {} s old", -ahead_s);
            DoctorCheck::doubtful(NAME, found, CLOCK_REMEDY)
        }
        ahead_s => {
            let age_s = -ahead_s.min(0);
            DoctorCheck::fine(
                NAME,
                format!("the newest block of the {chain} chain is {age_s} s old"),
            )
        }
    }
}

/// Checks this node's registry record and the presence of rates. Also returns the record and its URL.
async fn registry(
    config: &NodeServiceSettings,
) -> (Vec<DoctorCheck>, Option<(NodeRecord, String)>) {
    const NAME: &str = "registry";
    let failed = |error: String| {
        let remedy = "check where registry and rates are read from: the endpoints, or the files";
        (vec![DoctorCheck::failed(NAME, error, remedy)], None)
    };
    let chains = match Chains::reach(config).await {
        Ok(chains) => chains,
        Err(error) => return failed(error.to_string()),
    };
    let registry = match first_registry(config, &chains) {
        Ok(registry) => registry,
        Err(error) => return failed(error.to_string()),
    };
    let (record, own) = match own_record(&registry, config, &chains) {
        Err(error) => {
            let remedy = "docs/operating.md, Joining the network, steps 3 and 4";
            (DoctorCheck::failed(NAME, error.to_string(), remedy), None)
        }
        Ok(own) => {
            let url = own.http_address.clone();
            let at = url.as_deref().unwrap_or("an address that is no URL");
            let found = format!("node {} has this key, at {at}", own.id);
            let checked = match (&url, own.canonical) {
                (None, _) => DoctorCheck::failed(
                    NAME,
                    format!("{found}: no peer, gateway or client can call it"),
                    format!(
                        "its owner corrects it: hawser registry node update-http {} URL",
                        own.id
                    ),
                ),
                (Some(_), true) => DoctorCheck::fine(NAME, found),
                (Some(_), false) => DoctorCheck::doubtful(
                    NAME,
                    format!("{found}, and is not canonical: it follows, and publishes nothing"),
                    format!("once it has caught up: hawser registry canonical add {}", own.id),
                ),
            };
            (checked, url.map(|url| (own.clone(), url)))
        }
    };
    let now_ns = signed_now_unix_s().saturating_mul(1_000_000_000);
    let rates = chains.rates().map(|table| match table.at(now_ns) {
        Ok(_) => DoctorCheck::fine(
            "rates",
            format!("a rate is in force; known rates: {}", table.rates().len()),
        ),
        Err(error) => {
            let remedy = "the network's administrator adds rates: hawser registry rates add";
            DoctorCheck::failed("rates", error.to_string(), remedy)
        }
    });
    ([record].into_iter().chain(rates).collect(), own)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::checked::CheckResult::{Doubtful, Failed, Fine};
    use super::*;

    #[test]
    fn a_clock_is_judged_beside_the_newest_block() {
        let reading = ChainReadSettings {
            push_urls: Vec::new(),
            disconnect_max: Duration::from_secs(60),
            page_blocks: 1,
            first_block: None,
            confirmations: 0,
        };
        let result = |ahead_s| judge_head("app", ahead_s, &reading).result;
        assert_eq!((result(300), result(299)), (Failed, Doubtful));
        assert_eq!((result(3), result(2), result(0)), (Doubtful, Fine, Fine));
        assert_eq!((result(-60), result(-61)), (Fine, Doubtful), "as long as a chain may be away");
        assert_eq!((result(i64::MAX), result(i64::MIN + 1)), (Failed, Doubtful));
    }
}
