//! Settings of the reference implementation without effect here, each with the reason. They are accepted, so that its
//! environment also starts this node, and are reported once at the start. None of them requests a protection: an
//! operator would rely on it, so a node without it must not start.

/// A setting without effect.
#[derive(Debug, PartialEq, Eq)]
pub struct Ignored {
    /// The flag, without the two dashes; `None` for settings that are only variables.
    pub flag: Option<&'static str>,
    /// The environment variable.
    pub env: &'static str,
    /// True if the flag takes no value.
    pub switch: bool,
    /// The reason.
    pub reason: &'static str,
}

const CACHE: &str = "the list of originators is always exact";
const DATABASE: &str =
    "Postgres is not used: the log of a node lies in its data folder (--data-dir)";
const VALIDATION: &str = "a node validates payloads itself, and asks no validation service";
const PAYLOADS: &str = "a node takes from the chain whatever is there; gateways have a limit";
const GATEWAY: &str = "only a gateway uses it (hawser gateway)";
const PRUNE: &str = "`hawser prune --dry-run` counts";
const PROFILER: &str = "this version has no profiler";
pub(super) const TRACES: &str = "this version exports no traces";
const MIGRATION: &str = "nothing is imported from the older network";
const OLDER: &str = "no xmtpd since version 1.0 reads it";
const ONE_CHAIN: &str = "no xmtpd since version 1.0 reads it; each chain has settings of its own";

/// A setting with a value, by its flag and its variable.
pub(super) const fn takes(flag: &'static str, env: &'static str, reason: &'static str) -> Ignored {
    Ignored { flag: Some(flag), env, switch: false, reason }
}

/// A switch, by its flag and its variable.
pub(super) const fn switch(flag: &'static str, env: &'static str, reason: &'static str) -> Ignored {
    Ignored { flag: Some(flag), env, switch: true, reason }
}

const fn variable(env: &'static str, reason: &'static str) -> Ignored {
    Ignored { flag: None, env, switch: false, reason }
}

/// The flags that are secrets, which are refused on the command line like all secrets.
pub(in crate::settings) const SECRET_FLAGS: [&str; 6] = [
    "payer.private-key",
    "migration-server.payer-private-key",
    "migration-server.node-signing-key",
    "db.writer-connection-string",
    "db.reader-connection-string",
    "migration-server.reader-connection-string",
];

/// The variable with the URL of the only chain of earlier versions, which may contain a provider's key.
pub(super) const CONTRACTS_RPC_ENV: &str = "XMTPD_CONTRACTS_RPC_URL";

/// All settings without effect.
#[rustfmt::skip]
pub const ALL: &[Ignored] = &[
    takes("api.originator-cache-ttl", "XMTPD_API_ORIGINATOR_CACHE_TTL", CACHE),
    takes("mls-validation.grpc-address", "XMTPD_MLS_VALIDATION_GRPC_ADDRESS", VALIDATION),
    takes("db.reader-connection-string", "XMTPD_DB_READER_CONNECTION_STRING", DATABASE),
    takes("db.writer-connection-string", "XMTPD_DB_WRITER_CONNECTION_STRING", DATABASE),
    takes("db.read-timeout", "XMTPD_DB_READ_TIMEOUT", DATABASE),
    takes("db.write-timeout", "XMTPD_DB_WRITE_TIMEOUT", DATABASE),
    takes("db.max-open-conns", "XMTPD_DB_MAX_OPEN_CONNS", DATABASE),
    takes("db.wait-for", "XMTPD_DB_WAIT_FOR", DATABASE),
    takes("db.name-override", "XMTPD_DB_NAME_OVERRIDE", DATABASE),
    switch("debug.enable", "XMTPD_DEBUG_ENABLE", PROFILER),
    takes("debug.port", "XMTPD_DEBUG_PORT", PROFILER),
    switch("tracing.enable", "XMTPD_TRACING_ENABLE", TRACES),
    takes("payer.private-key", "XMTPD_PAYER_PRIVATE_KEY", GATEWAY),
    switch("payer.enable", "XMTPD_PAYER_ENABLE", GATEWAY),
    takes("payer.node-selector-strategy", "XMTPD_PAYER_NODE_SELECTOR_STRATEGY", GATEWAY),
    takes("payer.node-selector-preferred-nodes", "XMTPD_PAYER_NODE_SELECTOR_PREFERRED_NODES", GATEWAY),
    takes("payer.node-selector-cache-expiry", "XMTPD_PAYER_NODE_SELECTOR_CACHE_EXPIRY", GATEWAY),
    takes("payer.node-selector-connect-timeout", "XMTPD_PAYER_NODE_SELECTOR_CONNECT_TIMEOUT", GATEWAY),
    takes("payer.envelope-publish-timeout", "XMTPD_PAYER_ENVELOPE_PUBLISH_TIMEOUT", GATEWAY),
    takes("payer.envelope-publish-retries", "XMTPD_PAYER_ENVELOPE_PUBLISH_RETRIES", GATEWAY),
    takes("migration-server.payer-private-key", "XMTPD_MIGRATION_PAYER_PRIVATE_KEY", MIGRATION),
    takes("migration-server.node-signing-key", "XMTPD_MIGRATION_NODE_SIGNING_KEY", MIGRATION),
    takes("migration-server.reader-connection-string", "XMTPD_MIGRATION_DB_READER_CONNECTION_STRING", MIGRATION),
    takes("migration-server.reader-timeout", "XMTPD_MIGRATION_DB_READER_TIMEOUT", MIGRATION),
    takes("migration-server.wait-for", "XMTPD_MIGRATION_DB_WAIT_FOR", MIGRATION),
    takes("migration-server.batch-size", "XMTPD_MIGRATION_DB_BATCH_SIZE", MIGRATION),
    takes("migration-server.process-interval", "XMTPD_MIGRATION_DB_PROCESS_INTERVAL", MIGRATION),
    takes("migration-server.namespace", "XMTPD_MIGRATION_DB_NAMESPACE", MIGRATION),
    takes("migration-server.lower-limits", "XMTPD_MIGRATION_LOWER_LIMITS", MIGRATION),
    takes("contracts.app-chain.max-blockchain-payload-size", "XMTPD_APP_CHAIN_MAX_BLOCKCHAIN_PAYLOAD_SIZE", PAYLOADS),
    switch("prune.count-deletable", "XMTPD_PRUNE_COUNT_DELETABLE", PRUNE),
    variable("XMTPD_MIGRATION_START_DATE", MIGRATION),
    variable("XMTPD_HTTP_API_PORT", OLDER),
    variable("XMTPD_METADATA_ENABLE", OLDER),
    variable("XMTPD_PAYER_ENABLE_API", OLDER),
    variable("XMTPD_SETTLEMENT_CHAIN_MOCK_UNDERLYING_FEE_TOKEN_ADDRESS", OLDER),
    variable("XMTPD_APP_CHAIN_BACKFILL_BLOCK_SIZE", ONE_CHAIN),
    variable("XMTPD_APP_CHAIN_GROUP_MESSAGE_BROADCAST_START_BLOCK", ONE_CHAIN),
    variable("XMTPD_APP_CHAIN_IDENTITY_UPDATE_BROADCAST_START_BLOCK", ONE_CHAIN),
    variable("XMTPD_SETTLEMENT_CHAIN_BACKFILL_BLOCK_SIZE", ONE_CHAIN),
    variable("XMTPD_SETTLEMENT_CHAIN_PAYER_REGISTRY_START_BLOCK", ONE_CHAIN),
    variable("XMTPD_SETTLEMENT_CHAIN_PAYER_REPORT_MANAGER_START_BLOCK", ONE_CHAIN),
    variable("XMTPD_CONTRACTS_BACKFILL_BLOCK_SIZE", ONE_CHAIN),
    variable("XMTPD_CONTRACTS_CHAIN_ID", ONE_CHAIN),
    variable("XMTPD_CONTRACTS_IDENTITY_UPDATES_ADDRESS", ONE_CHAIN),
    variable("XMTPD_CONTRACTS_MAX_CHAIN_DISCONNECT_TIME", ONE_CHAIN),
    variable("XMTPD_CONTRACTS_MESSAGES_ADDRESS", ONE_CHAIN),
    variable("XMTPD_CONTRACTS_NODES_ADDRESS", ONE_CHAIN),
    variable("XMTPD_CONTRACTS_RATES_MANAGER_ADDRESS", ONE_CHAIN),
    variable("XMTPD_CONTRACTS_RATES_REFRESH_INTERVAL", ONE_CHAIN),
    variable("XMTPD_CONTRACTS_RATES_REGISTRY_ADDRESS", ONE_CHAIN),
    variable("XMTPD_CONTRACTS_REFRESH_INTERVAL", ONE_CHAIN),
    variable("XMTPD_CONTRACTS_REGISTRY_REFRESH_INTERVAL", ONE_CHAIN),
    variable(CONTRACTS_RPC_ENV, ONE_CHAIN),
];
