//! The settings of a gateway. Names that a node has too mean the same.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hawser_gateway::select::Strategy;
use hawser_proto::{OriginatorId, SecretKey};

use super::contracts::{self, ChainsConfig};
use super::settings::{self, Kind, Setting, value};
use super::{CHECKED, Fault, Faults, Given, LogConfig, Reader, StopConfig, forms};

const PAYER_PRIVATE_KEY: Setting = Setting {
    flag: "payer.private-key",
    short: None,
    env: "XMTPD_PAYER_PRIVATE_KEY",
    kind: Kind::Secret { file_flag: "payer.key-file", file_env: "XMTPD_PAYER_PRIVATE_KEY_FILE" },
    default: None,
    form: "32 bytes as 64 hex digits, 0x in front optional",
    example: "--payer.key-file payer.key",
    help: "The secret key of the account that pays: nodes from its balance, the app chain in gas",
};
const STRATEGY: Setting = value(
    "payer.node-selector-strategy",
    "XMTPD_PAYER_NODE_SELECTOR_STRATEGY",
    Some("stable"),
    "stable, manual, ordered, random or closest",
    "stable",
    "How a node is chosen for a topic: by its identifier, from a list, any, or the quickest",
);
const PREFERRED: Setting = value(
    "payer.node-selector-preferred-nodes",
    "XMTPD_PAYER_NODE_SELECTOR_PREFERRED_NODES",
    None,
    "ids of nodes, comma separated; manual and ordered need at least one",
    "100,200",
    "The nodes that manual, ordered and closest prefer, the first one most",
);
const CACHE_EXPIRY: Setting = value(
    "payer.node-selector-cache-expiry",
    "XMTPD_PAYER_NODE_SELECTOR_CACHE_EXPIRY",
    Some("5m"),
    DURATION_ABOVE_0,
    "5m",
    "How often closest measures how long it takes to connect",
);
const CONNECT_TIMEOUT: Setting = value(
    "payer.node-selector-connect-timeout",
    "XMTPD_PAYER_NODE_SELECTOR_CONNECT_TIMEOUT",
    Some("2s"),
    DURATION_ABOVE_0,
    "2s",
    "How long connecting may take then",
);
const PUBLISH_TIMEOUT: Setting = value(
    "payer.envelope-publish-timeout",
    "XMTPD_PAYER_ENVELOPE_PUBLISH_TIMEOUT",
    Some("30s"),
    DURATION_ABOVE_0,
    "30s",
    "How long a node may take before the next one is asked",
);
const PUBLISH_ATTEMPTS: Setting = value(
    "payer.envelope-publish-retries",
    "XMTPD_PAYER_ENVELOPE_PUBLISH_RETRIES",
    Some("5"),
    "a number from 1 to 100",
    "5",
    "How many nodes are asked in total",
);
const PAYLOAD_MAX: Setting = value(
    "contracts.app-chain.max-blockchain-payload-size",
    "XMTPD_APP_CHAIN_MAX_BLOCKCHAIN_PAYLOAD_SIZE",
    Some("200000"),
    "a number of bytes; 0 leaves it to the contracts",
    "200000",
    "The longest commit or identity update that is sent to the chain, bytes",
);
const POLICIES: Setting = value(
    "policies-file",
    "HAWSER_POLICIES_FILE",
    None,
    "a TOML file",
    "policies.toml",
    "Who may publish what, and how much; without it everybody may do everything",
);
const NONCE_RECORD: Setting = value(
    "nonce-record",
    "HAWSER_NONCE_RECORD",
    None,
    "a file",
    "gateway.nonces",
    "Where transactions are recorded before they are sent, so that a crash loses and doubles none",
);

const DURATION_ABOVE_0: &str = "a duration above 0 with units, such as 500ms, 30s, 5m or 1h30m";

/// Settings that no node has and that the reference has no name for.
pub const OWN: [&Setting; 2] = [&POLICIES, &NONCE_RECORD];

/// All of them, in the order of the help text; those of chains and contracts are beside.
pub const ALL: [&Setting; 25] = [
    &settings::CONFIG_FILE,
    &PAYER_PRIVATE_KEY,
    &settings::API_PORT,
    &settings::LISTEN_ADDRESS,
    &settings::METRICS_ENABLE,
    &settings::METRICS_ADDRESS,
    &settings::METRICS_PORT,
    &settings::REFLECTION_ENABLE,
    &settings::LOG_LEVEL,
    &settings::LOG_ENCODING,
    &POLICIES,
    &NONCE_RECORD,
    &STRATEGY,
    &PREFERRED,
    &CACHE_EXPIRY,
    &CONNECT_TIMEOUT,
    &PUBLISH_TIMEOUT,
    &PUBLISH_ATTEMPTS,
    &PAYLOAD_MAX,
    &settings::WALLET_RPC,
    &settings::REGISTRY_FILE,
    &settings::RATES_FILE,
    &settings::SHUTDOWN_DRAIN,
    &settings::SHUTDOWN_GRACE,
    &settings::ALLOW_SECRET_FLAGS,
];

/// Everything a gateway is told at its start.
#[derive(Debug)]
pub struct GatewayConfig {
    /// What clients call.
    pub listen: SocketAddr,
    /// Where metrics, health and status are served, if they are.
    pub metrics: Option<SocketAddr>,
    /// Whether gRPC reflection is answered.
    pub reflection: bool,
    /// Who pays.
    pub payer: SecretKey,
    /// How nodes are chosen and asked.
    pub nodes: NodesConfig,
    /// The chains, as far as they were named.
    pub chains: ChainsConfig,
    /// Chain ids and URLs where contract wallets are asked, in order of preference.
    pub wallet_rpcs: Vec<(u64, String)>,
    /// The longest payload for the app chain, bytes; 0 leaves it to the contracts.
    pub chain_payload_bytes_max: usize,
    /// A file that stands for the node registry.
    pub registry_file: Option<PathBuf>,
    /// A file that stands for the price list.
    pub rates_file: Option<PathBuf>,
    /// The file with policies.
    pub policies: Option<PathBuf>,
    /// Where transactions are recorded.
    pub nonce_record: Option<PathBuf>,
    /// Log lines.
    pub log: LogConfig,
    /// How it stops.
    pub stop: StopConfig,
    /// What should be said once there is a log.
    pub notes: Vec<String>,
}

/// How nodes are chosen and asked.
#[derive(Debug, Clone)]
pub struct NodesConfig {
    /// For a topic that has no node yet.
    pub strategy: Strategy,
    /// How often connecting is timed.
    pub connect_time_every: Duration,
    /// How long it may take then.
    pub connect_timeout: Duration,
    /// How long a node may take.
    pub attempt_timeout: Duration,
    /// How many are asked.
    pub attempts_max: usize,
}

impl GatewayConfig {
    /// Makes typed settings of what was given.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub fn read(given: &Given) -> Result<Self, Faults> {
        let mut reader = Reader { given, faults: misplaced(given) };
        let listen = reader.ip(&settings::LISTEN_ADDRESS);
        let port = reader.get(&settings::API_PORT, forms::port);
        let metrics = reader.metrics();
        let reflection = reader.switch(&settings::REFLECTION_ENABLE);
        let payer = reader.get(&PAYER_PRIVATE_KEY, |text| SecretKey::from_hex(text).ok());
        let nodes = reader.nodes();
        let payload_max = reader.get(&PAYLOAD_MAX, |text| text.parse::<usize>().ok());
        let wallet_rpcs = reader.wallet_rpcs();
        let registry_file = reader.optional_path(&settings::REGISTRY_FILE);
        let rates_file = reader.optional_path(&settings::RATES_FILE);
        let policies = reader.optional_path(&POLICIES);
        let nonce_record = reader.optional_path(&NONCE_RECORD);
        let (log, stop) = (reader.log(), reader.stop());
        reader.switch(&settings::ALLOW_SECRET_FLAGS);
        let chains = reader.chains();
        let has_files = registry_file.is_some() && rates_file.is_some();
        let is_named = |chains: &ChainsConfig| !chains.contracts.settlement.urls.is_empty();
        if !has_files && !chains.as_ref().is_some_and(is_named) {
            reader.fault(&contracts::SETTLEMENT_RPC, None);
        }
        let notes = given.notes_beside(&used());
        if !reader.faults.is_empty() {
            return Err(Faults(reader.faults));
        }
        Ok(Self {
            listen: SocketAddr::new(listen.expect(CHECKED), port.expect(CHECKED)),
            metrics: metrics.expect(CHECKED),
            reflection: reflection.expect(CHECKED),
            payer: payer.expect(CHECKED),
            nodes: nodes.expect(CHECKED),
            chains: chains.expect(CHECKED),
            wallet_rpcs: wallet_rpcs.expect(CHECKED),
            chain_payload_bytes_max: payload_max.expect(CHECKED),
            registry_file,
            rates_file,
            policies,
            nonce_record,
            log: log.expect(CHECKED),
            stop: stop.expect(CHECKED),
            notes,
        })
    }
}

/// Every setting that has an effect on a gateway.
fn used() -> Vec<&'static Setting> {
    let single = contracts::SINGLE.iter().map(|(_, setting)| setting);
    ALL.into_iter().chain(contracts::GENERAL).chain(contracts::READING).chain(single).collect()
}

/// The payer's key is judged by its own setting.
fn misplaced(given: &Given) -> Vec<Fault> {
    let own = format!("--{}", PAYER_PRIVATE_KEY.flag);
    given.misplaced().into_iter().filter(|fault| fault.name != own).collect()
}

impl Reader<'_> {
    fn nodes(&mut self) -> Option<NodesConfig> {
        let preferred = self.preferred();
        let strategy = self.strategy(preferred);
        let connect_time_every = self.above_zero(&CACHE_EXPIRY);
        let connect_timeout = self.above_zero(&CONNECT_TIMEOUT);
        let attempt_timeout = self.above_zero(&PUBLISH_TIMEOUT);
        let attempts_max = self.get(&PUBLISH_ATTEMPTS, |text| {
            text.parse::<usize>().ok().filter(|attempts| (1..=100).contains(attempts))
        });
        Some(NodesConfig {
            strategy: strategy?,
            connect_time_every: connect_time_every?,
            connect_timeout: connect_timeout?,
            attempt_timeout: attempt_timeout?,
            attempts_max: attempts_max?,
        })
    }

    fn preferred(&mut self) -> Vec<OriginatorId> {
        let Some(value) = self.text(&PREFERRED) else { return Vec::new() };
        let ids = value.text.split(',').map(str::trim).filter(|id| !id.is_empty());
        let ids: Option<Vec<_>> =
            ids.map(|id| id.parse().ok().map(OriginatorId).filter(|id| id.is_node())).collect();
        ids.unwrap_or_else(|| {
            self.fault(&PREFERRED, Some(format!("{:?}", value.text.as_str())));
            Vec::new()
        })
    }

    fn strategy(&mut self, preferred: Vec<OriginatorId>) -> Option<Strategy> {
        let none = preferred.is_empty();
        let strategy = self.get(&STRATEGY, |text| match text {
            "stable" => Some(Strategy::Stable),
            "manual" => Some(Strategy::Manual(preferred.clone())),
            "ordered" => Some(Strategy::Ordered(preferred.clone())),
            "random" => Some(Strategy::Random),
            "closest" => Some(Strategy::Closest(preferred.clone())),
            _ => None,
        });
        if none && matches!(strategy, Some(Strategy::Manual(_) | Strategy::Ordered(_))) {
            self.fault(&PREFERRED, None);
        }
        strategy
    }

    fn above_zero(&mut self, setting: &Setting) -> Option<Duration> {
        self.get(setting, |text| forms::duration(text).filter(|time| !time.is_zero()))
    }

    fn optional_path(&mut self, setting: &Setting) -> Option<PathBuf> {
        let value = self.text(setting)?;
        (!value.text.is_empty()).then(|| PathBuf::from(value.text.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";

    fn read(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<GatewayConfig, String> {
        let owned = |pairs: &[(&str, &str)]| -> Vec<_> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let given = Given::new(owned(flags), owned(env));
        GatewayConfig::read(&given).map_err(|faults| faults.to_string())
    }

    #[test]
    fn the_environment_of_the_reference_starts_a_gateway() {
        let env = [
            ("XMTPD_PAYER_PRIVATE_KEY", KEY),
            ("XMTPD_PAYER_NODE_SELECTOR_STRATEGY", "ordered"),
            ("XMTPD_PAYER_NODE_SELECTOR_PREFERRED_NODES", "200, 100"),
            ("XMTPD_PAYER_ENVELOPE_PUBLISH_TIMEOUT", "10s"),
            ("XMTPD_SETTLEMENT_CHAIN_RPC_URL", "http://127.0.0.1:5061"),
            ("XMTPD_CONTRACTS_ENVIRONMENT", "testnet"),
            ("XMTPD_REDIS_URL", "redis://nowhere"),
        ];
        let config = read(&[], &env).unwrap();
        let preferred = vec![OriginatorId(200), OriginatorId(100)];
        assert_eq!(config.nodes.strategy, Strategy::Ordered(preferred));
        assert_eq!(config.nodes.attempt_timeout, Duration::from_secs(10));
        assert_eq!(config.nodes.attempts_max, 5);
        assert_eq!(config.listen.port(), 5050);
        assert!(!config.reflection);
        assert_eq!(config.chain_payload_bytes_max, 200_000);
        assert_eq!(config.chains.contracts.settlement.urls, ["http://127.0.0.1:5061"]);
        assert_eq!(config.notes.len(), 1, "{:?}", config.notes);
        assert!(config.notes[0].contains("XMTPD_REDIS_URL"));
    }

    #[test]
    fn files_stand_for_the_chains() {
        let flags = [("registry-file", "registry.json"), ("rates-file", "rates.json")];
        let config = read(&flags, &[("XMTPD_PAYER_PRIVATE_KEY", KEY)]).unwrap();
        assert!(config.chains.contracts.settlement.urls.is_empty());
        for (flags, env) in [
            ([&flags[..], &[("reflection.enable", "true")]].concat(), &[][..]),
            (flags.to_vec(), &[("XMTPD_REFLECTION_ENABLE", "true")][..]),
        ] {
            let env = [&[("XMTPD_PAYER_PRIVATE_KEY", KEY)], env].concat();
            assert!(read(&flags, &env).unwrap().reflection);
        }
        let wallets = [&flags[..], &[("wallet-rpc", "1=http://127.0.0.1:9")]].concat();
        let wallets = read(&wallets, &[("XMTPD_PAYER_PRIVATE_KEY", KEY)]).unwrap().wallet_rpcs;
        assert_eq!(wallets, [(1, "http://127.0.0.1:9".to_owned())]);
        let without_rates = read(&flags[..1], &[("XMTPD_PAYER_PRIVATE_KEY", KEY)]).unwrap_err();
        assert!(without_rates.contains("rpc-url"), "{without_rates}");
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let flags = [
            ("payer.private-key", KEY),
            ("payer.node-selector-strategy", "manual"),
            ("payer.envelope-publish-retries", "0"),
            ("payer.node-selector-connect-timeout", "0"),
            ("contracts.app-chain.max-blockchain-payload-size", "x"),
        ];
        let text = read(&flags, &[]).unwrap_err();
        for part in [
            "6 faults",
            "payer.private-key",
            "preferred-nodes",
            "retries",
            "connect-timeout",
            "payload-size",
            "rpc-url",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains(KEY), "secrets are not shown");
    }

    #[test]
    fn names_of_the_reference_are_its_own() {
        use super::super::ignored;
        for setting in ALL.iter().filter(|setting| setting.flag.starts_with("payer.")) {
            let known = ignored::ALL.iter().find(|other| other.flag == Some(setting.flag));
            assert_eq!(known.map(|known| known.env), Some(setting.env));
        }
    }
}
