//! Typed settings of a gateway.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hawser_chain::redis_link::RedisAccess;
use hawser_chain::spending::SpendingLimits;
use hawser_gateway::select::Strategy;
use hawser_proto::{OriginatorId, SecretKey};
use hawser_serve::tls::TlsFiles;

use super::chains::ChainSettings;
use super::error::SettingsError;
use super::parse;
use super::reader::{CHECKED, LogSettings, SettingsReader, StopSettings};
use super::sources::{SettingOrigin, SettingSources};
use super::table::{Setting, chains, gateway, limits, node};
use super::wallets::WalletSettings;

/// Settings of a gateway process.
#[derive(Debug)]
pub struct GatewayServiceSettings {
    /// Address of the API.
    pub listen: SocketAddr,
    /// The address of metrics, health and status; `None` disables them.
    pub metrics: Option<SocketAddr>,
    /// The memory that callers may make the gateway use above its idle memory, in bytes.
    pub memory_limit_bytes: usize,
    /// The largest number of connections per client address.
    pub connections_per_address: usize,
    /// The certificate of the API; `None` without TLS.
    pub tls: Option<TlsFiles>,
    /// True if gRPC reflection is enabled.
    pub reflection: bool,
    /// The key of the paying account.
    pub payer: SecretKey,
    /// The selection of nodes, and the limits of calls to them.
    pub nodes: NodeSelectionSettings,
    /// The chains, as far as they are configured.
    pub chains: ChainSettings,
    /// Contract wallets.
    pub wallets: WalletSettings,
    /// The longest payload for the app chain, in bytes; 0 leaves the bound to the contracts.
    pub chain_payload_bytes_max: usize,
    /// True if nodes may have private network addresses.
    pub allow_private_nodes: bool,
    /// A file that substitutes for the node registry.
    pub registry_file: Option<PathBuf>,
    /// A file that substitutes for the rate registry.
    pub rates_file: Option<PathBuf>,
    /// The policy file.
    pub policies: Option<PathBuf>,
    /// The file of transactions in flight.
    pub nonce_record: Option<PathBuf>,
    /// The Redis that several gateways share.
    pub redis: Option<RedisAccess>,
    /// The cost ceilings of gas on the app chain.
    pub spending: SpendingLimits,
    /// Log lines.
    pub log: LogSettings,
    /// The time limits of stopping.
    pub stop: StopSettings,
    /// Warnings to log at the start: settings without effect, unknown names.
    pub notes: Vec<String>,
    /// The commit from which the program was built; empty if unknown. Not a setting: the program sets it.
    pub commit: &'static str,
}

/// The selection of nodes, and the limits of calls to them.
#[derive(Debug, Clone)]
pub struct NodeSelectionSettings {
    /// The selection strategy for a topic without an assigned node.
    pub strategy: Strategy,
    /// The interval between two measurements of the connect time.
    pub connect_time_every: Duration,
    /// The time limit of one such measurement.
    pub connect_timeout: Duration,
    /// The time limit of one call to a node.
    pub attempt_timeout: Duration,
    /// The largest number of nodes that are tried for one envelope.
    pub attempts_max: usize,
}

impl GatewayServiceSettings {
    /// Returns the part of the memory that is charged to calls; a fifth is reserved for the allocator.
    #[must_use]
    pub fn callers_bytes_max(&self) -> usize {
        self.memory_limit_bytes / 5 * 4
    }

    /// Reads and checks the settings of a gateway.
    ///
    /// # Errors
    /// [`SettingsError`] with all errors.
    pub fn read(sources: &SettingSources) -> Result<Self, SettingsError> {
        // The payer's key has no effect on a node, so the common check would refuse it as a flag without
        // advice; its own setting gives advice.
        let mut reader =
            SettingsReader::of_server(sources).without_errors_about(&gateway::PAYER_PRIVATE_KEY);
        // Every part is read before any is returned, so that all errors are found.
        let listen = reader.ip(&node::LISTEN_ADDRESS);
        let port = reader.get(&node::API_PORT, parse::port);
        let metrics = reader.metrics();
        reader.require_two_ports(listen.zip(port).map(SocketAddr::from), metrics);
        let memory_limit_bytes = reader.memory_limit();
        let connections = reader.above_zero(&limits::CONNECTIONS_PER_ADDRESS);
        let connections = connections.and_then(|number| usize::try_from(number).ok());
        let tls = reader.tls();
        let reflection = reader.switch(&node::REFLECTION_ENABLE);
        let payer = reader.get(&gateway::PAYER_PRIVATE_KEY, |text| SecretKey::from_hex(text).ok());
        let nodes = reader.node_selection();
        let payload_max = reader.get(&gateway::PAYLOAD_MAX, |text| text.parse::<usize>().ok());
        let wallets = reader.wallets();
        let registry_file = reader.optional_path(&node::REGISTRY_FILE);
        let rates_file = reader.optional_path(&node::RATES_FILE);
        let allow_private = reader.switch(&node::ALLOW_PRIVATE_NODES);
        let policies = reader.protecting_file(&gateway::POLICIES);
        let nonce_record = reader.protecting_file(&gateway::NONCE_RECORD);
        let redis = reader.gateway_redis();
        let gas_price_max = reader.gas_price(&gateway::GAS_PRICE_MAX);
        let per_hour_max = reader.get(&gateway::GAS_PER_HOUR_MAX, parse::token_wei);
        let (log, stop) = (reader.log(), reader.stop());
        reader.switch(&node::ALLOW_SECRET_FLAGS);
        let chains = reader.chains();
        let has_files = registry_file.is_some() && rates_file.is_some();
        let is_named = |chains: &ChainSettings| !chains.contracts.settlement.urls.is_empty();
        if !has_files && !chains.as_ref().is_some_and(is_named) {
            reader.error(&chains::SETTLEMENT_RPC, None);
        }
        reader.refuse_limits_of_nodes();
        let mut notes = sources.notes_of_gateway();
        notes.extend(sources.note_of_role());
        reader.finish(|| Self {
            listen: SocketAddr::new(listen.expect(CHECKED), port.expect(CHECKED)),
            metrics: metrics.expect(CHECKED),
            memory_limit_bytes: memory_limit_bytes.expect(CHECKED),
            connections_per_address: connections.expect(CHECKED),
            reflection: reflection.expect(CHECKED),
            tls,
            payer: payer.expect(CHECKED),
            nodes: nodes.expect(CHECKED),
            chains: chains.expect(CHECKED),
            wallets: wallets.expect(CHECKED),
            chain_payload_bytes_max: payload_max.expect(CHECKED),
            allow_private_nodes: allow_private.expect(CHECKED),
            registry_file,
            rates_file,
            policies,
            nonce_record,
            redis: redis.expect(CHECKED),
            spending: SpendingLimits {
                gas_price_max: gas_price_max.expect(CHECKED),
                per_hour_max: per_hour_max.expect(CHECKED),
            },
            log: log.expect(CHECKED),
            stop: stop.expect(CHECKED),
            notes,
            commit: "",
        })
    }
}

impl SettingsReader<'_> {
    /// Refuses the switch of a node's rate limits and its limit of streams, because an operator who sets them for a
    /// gateway would rely on limits that do not exist.
    fn refuse_limits_of_nodes(&mut self) {
        if self.switch(&limits::ENABLE) == Some(true) {
            let flag = gateway::POLICIES.flag;
            let given =
                format!("\"true\", but the limits of a gateway are in its policies (--{flag})");
            self.error(&limits::ENABLE, Some(given));
        }
        if self.origin(&limits::STREAMS_PER_CONNECTION) != SettingOrigin::Default {
            let given = "a limit that only a node has: leave it out of the settings of a gateway";
            self.error(&limits::STREAMS_PER_CONNECTION, Some(given.to_owned()));
        }
    }

    /// Reads the Redis that several gateways share; `Some(None)` if none is configured.
    fn gateway_redis(&mut self) -> Option<Option<RedisAccess>> {
        let url = self.redis_url();
        let key_prefix = self.text(&limits::REDIS_KEY_PREFIX)?.text.to_string();
        let connect_timeout = self.duration_above_zero(&limits::REDIS_CONNECT_TIMEOUT)?;
        Some(url.map(|url| RedisAccess { url, key_prefix, connect_timeout }))
    }

    fn node_selection(&mut self) -> Option<NodeSelectionSettings> {
        let preferred = self.preferred_nodes();
        let strategy = self.strategy(preferred);
        let connect_time_every = self.duration_above_zero(&gateway::CACHE_EXPIRY);
        let connect_timeout = self.duration_above_zero(&gateway::CONNECT_TIMEOUT);
        let attempt_timeout = self.duration_above_zero(&gateway::PUBLISH_TIMEOUT);
        let attempts_max = self.get(&gateway::PUBLISH_ATTEMPTS, |text| {
            let attempts = text.parse::<usize>().ok().filter(|attempts| *attempts <= 100);
            attempts.map(|attempts| attempts.max(1)) // as the reference implementation reads 0
        });
        Some(NodeSelectionSettings {
            strategy: strategy?,
            connect_time_every: connect_time_every?,
            connect_timeout: connect_timeout?,
            attempt_timeout: attempt_timeout?,
            attempts_max: attempts_max?,
        })
    }

    fn preferred_nodes(&mut self) -> Vec<OriginatorId> {
        let Some(value) = self.text(&gateway::PREFERRED) else { return Vec::new() };
        let ids = value.text.split(',').map(str::trim).filter(|id| !id.is_empty());
        let ids: Option<Vec<_>> =
            ids.map(|id| id.parse().ok().map(OriginatorId).filter(|id| id.is_node())).collect();
        ids.unwrap_or_else(|| {
            self.wrong(&gateway::PREFERRED, &value.text);
            Vec::new()
        })
    }

    fn strategy(&mut self, preferred: Vec<OriginatorId>) -> Option<Strategy> {
        let none = preferred.is_empty();
        let strategy = self.get(&gateway::STRATEGY, |text| match text {
            "stable" => Some(Strategy::Stable),
            "manual" => Some(Strategy::Manual(preferred.clone())),
            "ordered" => Some(Strategy::Ordered(preferred.clone())),
            "random" => Some(Strategy::Random),
            "closest" => Some(Strategy::Closest(preferred.clone())),
            _ => None,
        });
        if none && matches!(strategy, Some(Strategy::Manual(_) | Strategy::Ordered(_))) {
            self.error(&gateway::PREFERRED, None);
        }
        strategy
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

    fn read(
        flags: &[(&str, &str)],
        env: &[(&str, &str)],
    ) -> Result<GatewayServiceSettings, String> {
        let owned = |pairs: &[(&str, &str)]| -> Vec<_> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let given = SettingSources::new(owned(flags), owned(env));
        GatewayServiceSettings::read(&given).map_err(|error| error.to_string())
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
        assert_eq!(config.memory_limit_bytes, 512 << 20);
        assert_eq!(config.connections_per_address, 256);
        assert_eq!(config.chain_payload_bytes_max, 200_000);
        assert_eq!(
            config.spending,
            SpendingLimits::default(),
            "what the table says is the default"
        );
        assert_eq!(config.chains.contracts.settlement.urls, ["http://127.0.0.1:5061"]);
        assert_eq!(config.redis.unwrap().key_prefix, "xmtpd:");
        assert!(config.notes.is_empty(), "{:?}", config.notes);
    }

    /// An operator who runs a gateway as a standby has to learn that it pays like every other one.
    #[test]
    fn a_gateway_says_that_it_has_no_role() {
        let flags = [("registry-file", "registry.json"), ("rates-file", "rates.json")];
        for role in ["primary", "standby"] {
            let env = [("XMTPD_PAYER_PRIVATE_KEY", KEY), ("HAWSER_ROLE", role)];
            let config = read(&flags, &env).unwrap();
            let [note] = &config.notes[..] else { panic!("{:?}", config.notes) };
            assert!(note.contains("HAWSER_ROLE") && note.contains(role), "{note}");
        }
        assert!(read(&flags, &[("XMTPD_PAYER_PRIVATE_KEY", KEY)]).unwrap().notes.is_empty());
    }

    #[test]
    fn settings_of_the_reference_without_effect_are_taken_and_named() {
        let flags = [
            ("registry-file", "registry.json"),
            ("rates-file", "rates.json"),
            ("api.enable", "true"),
            ("tracing.enable", "true"),
        ];
        let env = [("XMTPD_PAYER_PRIVATE_KEY", KEY), ("XMTPD_PAYER_ENABLE", "true")];
        let notes = read(&flags, &env).unwrap().notes;
        assert_eq!(
            notes,
            [
                "--api.enable has no effect: a gateway always serves its API",
                "XMTPD_PAYER_ENABLE has no effect: a gateway always pays for its callers",
                "--tracing.enable has no effect: this version exports no traces",
            ]
        );
    }

    #[test]
    fn files_stand_for_the_chains() {
        let flags = [("registry-file", "registry.json"), ("rates-file", "rates.json")];
        let config = read(&flags, &[("XMTPD_PAYER_PRIVATE_KEY", KEY)]).unwrap();
        assert!(!config.allow_private_nodes, "the file may be a copy of the chain's list");
        assert!(config.chains.contracts.settlement.urls.is_empty());
        for (flags, env) in [
            ([&flags[..], &[("reflection.enable", "true")]].concat(), &[][..]),
            (flags.to_vec(), &[("XMTPD_REFLECTION_ENABLE", "true")][..]),
        ] {
            let env = [&[("XMTPD_PAYER_PRIVATE_KEY", KEY)], env].concat();
            assert!(read(&flags, &env).unwrap().reflection);
        }
        let memory = [&flags[..], &[("api-memory-limit", "1GiB")]].concat();
        let memory = read(&memory, &[("XMTPD_PAYER_PRIVATE_KEY", KEY)]).unwrap();
        assert_eq!(memory.callers_bytes_max(), (1 << 30) / 5 * 4);
        let few = [&flags[..], &[("connections-per-address", "3")]].concat();
        let few = read(&few, &[("XMTPD_PAYER_PRIVATE_KEY", KEY)]).unwrap();
        assert_eq!(few.connections_per_address, 3);
        let none = [&flags[..], &[("connections-per-address", "0")]].concat();
        assert!(read(&none, &[("XMTPD_PAYER_PRIVATE_KEY", KEY)]).is_err());
        let little = [&flags[..], &[("api-memory-limit", "8MiB")]].concat();
        assert!(read(&little, &[("XMTPD_PAYER_PRIVATE_KEY", KEY)]).is_err());
        let wallets = [&flags[..], &[("wallet-rpc", "1=http://127.0.0.1:9")]].concat();
        let wallets = read(&wallets, &[("XMTPD_PAYER_PRIVATE_KEY", KEY)]).unwrap().wallets.rpcs;
        assert_eq!(wallets, [(1, "http://127.0.0.1:9".to_owned())]);
        let without_rates = read(&flags[..1], &[("XMTPD_PAYER_PRIVATE_KEY", KEY)]).unwrap_err();
        assert!(without_rates.contains("rpc-url"), "{without_rates}");
    }

    #[test]
    fn the_settings_file_names_the_file_of_the_payers_key_as_a_flag_does() {
        use crate::settings::tests::secret_file;
        let (_keys, key_path) = secret_file(0o600, KEY);
        let files = "registry-file = \"registry.json\"\nrates-file = \"rates.json\"\n[payer]\n";
        let payer = |keys: &str| {
            let (_folder, path) = secret_file(0o644, &format!("{files}{keys}"));
            read(&[("config", &path)], &[]).map(|config| config.payer.public_key())
        };
        let known = SecretKey::from_hex(KEY).unwrap().public_key();
        let (short, long) =
            (format!("key-file = {key_path:?}\n"), format!("private-key-file = {key_path:?}\n"));
        assert_eq!(payer(&short), Ok(known));
        assert_eq!(payer(&long), Ok(known));
        let both = payer(&(short + &long)).unwrap_err();
        assert!(both.contains("payer.private-key-file in ") && both.contains("second value"));
    }

    #[test]
    fn a_certificate_needs_its_key_and_clients_certificates_need_both() {
        let files = [("registry-file", "registry.json"), ("rates-file", "rates.json")];
        let env = [("XMTPD_PAYER_PRIVATE_KEY", KEY)];
        let tls = |more: &[(&str, &str)]| {
            read(&[&files[..], more].concat(), &env).map(|config| config.tls)
        };
        assert_eq!(tls(&[]), Ok(None));
        let (cert, key) = (("tls-cert", "cert.pem"), ("tls-key", "key.pem"));
        let both = tls(&[cert, key]).unwrap().unwrap();
        assert_eq!((both.cert, both.key), ("cert.pem".into(), "key.pem".into()));
        let clients = ("tls-client-ca", "clients.pem");
        let mutual = tls(&[cert, key, clients]).unwrap().unwrap();
        assert_eq!(mutual.client_ca, Some("clients.pem".into()));
        for (given, missing) in
            [(&[cert][..], "--tls-key"), (&[key], "--tls-cert"), (&[clients], "--tls-cert")]
        {
            let error = tls(given).unwrap_err();
            assert!(error.contains(missing), "{given:?}: {error}");
        }
    }

    /// A script names the file by a variable that is not set. Without the file the gateway would serve every caller.
    #[test]
    fn an_empty_name_of_a_file_that_protects_is_refused() {
        let files = [("registry-file", "registry.json"), ("rates-file", "rates.json")];
        let tls = [("tls-cert", "cert.pem"), ("tls-key", "key.pem")];
        let env = [("XMTPD_PAYER_PRIVATE_KEY", KEY)];
        for flag in ["tls-client-ca", "policies-file", "nonce-record"] {
            for empty in ["", " "] {
                let given = [&files[..], &tls, &[(flag, empty)]].concat();
                let refused = read(&given, &env).unwrap_err();
                assert!(refused.starts_with("1 fault ") && refused.contains(flag), "{refused}");
            }
        }
        let plain = [&files[..], &[("tls-cert", ""), ("tls-key", "")]].concat();
        let refused = read(&plain, &env).unwrap_err();
        assert!(refused.contains("--tls-cert") && refused.contains("--tls-key"), "{refused}");
    }

    #[test]
    fn limits_that_a_gateway_does_not_have_are_refused() {
        let flags = [("registry-file", "registry.json"), ("rates-file", "rates.json")];
        let key = ("XMTPD_PAYER_PRIVATE_KEY", KEY);
        let refused = read(&flags, &[key, ("XMTPD_RATE_LIMIT_ENABLE", "true")]).unwrap_err();
        assert!(refused.contains("--rate-limit.enable") && refused.contains("(--policies-file)"));
        assert!(read(&flags, &[key, ("XMTPD_RATE_LIMIT_ENABLE", "false")]).is_ok());
    }

    /// A gateway beside a node may get the environment of both.
    #[test]
    fn settings_of_a_node_are_named_or_refused() {
        let flags = [("registry-file", "registry.json"), ("rates-file", "rates.json")];
        let key = ("XMTPD_PAYER_PRIVATE_KEY", KEY);
        let of_node =
            [("HAWSER_DATA_DIR", "data"), ("XMTPD_RATE_LIMIT_TRUSTED_PROXY_CIDRS", "10.0.0.0/8")];
        let notes = read(&flags, &[&[key], &of_node[..]].concat()).unwrap().notes;
        assert_eq!(
            notes,
            [
                "HAWSER_DATA_DIR has no effect: a gateway has no such setting",
                "XMTPD_RATE_LIMIT_TRUSTED_PROXY_CIDRS has no effect: the proxies of a gateway are in its policies \
                 (trusted_proxies)",
            ]
        );
        let limit = "HAWSER_STREAMS_PER_CONNECTION";
        let refused = read(&flags, &[key, (limit, "16")]).unwrap_err();
        assert!(refused.starts_with("1 fault ") && refused.contains(limit), "{refused}");
        let few = read(&flags, &[key, ("HAWSER_CONNECTIONS_PER_ADDRESS", "16")]).unwrap();
        assert_eq!(few.connections_per_address, 16, "a gateway has this one");
    }

    /// They are among the flags of a gateway, and an operator may expect confirmations, for instance, to hold.
    #[test]
    fn settings_of_events_are_named_because_a_gateway_reads_none() {
        let flags = [
            ("registry-file", "registry.json"),
            ("rates-file", "rates.json"),
            ("contracts.app-chain.wss-url", "ws://127.0.0.1:9"),
        ];
        let env = [
            ("XMTPD_PAYER_PRIVATE_KEY", KEY),
            ("XMTPD_SETTLEMENT_CHAIN_BACKFILL_BLOCK_PAGE_SIZE", "500"),
            ("HAWSER_APP_CHAIN_CONFIRMATIONS", "3"),
        ];
        let without_effect = "a gateway reads no events of contracts, so these have no effect: \
                              contracts.app-chain.wss-url, app-chain-confirmations, \
                              contracts.settlement-chain.backfill-block-page-size";
        assert_eq!(read(&flags, &env).unwrap().notes, [without_effect]);
        assert!(read(&flags[..2], &env[..1]).unwrap().notes.is_empty());
    }

    /// An operator of the reference implementation may have set it, and its gateway starts.
    #[test]
    fn no_retries_are_one_attempt() {
        let flags = [("registry-file", "registry.json"), ("rates-file", "rates.json")];
        let attempts = |given| {
            let retries = ("XMTPD_PAYER_ENVELOPE_PUBLISH_RETRIES", given);
            read(&flags, &[("XMTPD_PAYER_PRIVATE_KEY", KEY), retries]).unwrap().nodes.attempts_max
        };
        assert_eq!(["0", "1", "100"].map(attempts), [1, 1, 100]);
    }

    #[test]
    fn all_errors_are_told_at_once() {
        let flags = [
            ("payer.private-key", KEY),
            ("payer.node-selector-strategy", "manual"),
            ("payer.envelope-publish-retries", "101"),
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
}
