//! The settings of a node, except those of chains and contracts.
//!
//! Settings that exist in the reference implementation keep its dotted flags and `XMTPD_*` variables, so that an
//! environment made for it also starts this node. All other settings have flags with dashes and `HAWSER_*` variables.

use super::setting::{
    DURATION, DURATION_ABOVE_ZERO, Setting, SettingKind, place, secret, switch, urls,
    urls_without_file, value,
};

const PORT: &str = "a port, 1 to 65535";

/// The file that may contain all other settings.
pub(in crate::settings) const CONFIG_FILE: Setting = value(
    "config",
    "HAWSER_CONFIG",
    None,
    "a TOML file with settings",
    "hawser.toml",
    "A TOML file whose keys are flags without their dashes; flags and variables win over it",
);
pub(in crate::settings) const API_ENABLE: Setting =
    switch("api.enable", "XMTPD_API_ENABLE", "true", "Serve clients, gateways and peers");
pub(in crate::settings) const REPLICATION_ENABLE: Setting = switch(
    "replication.enable",
    "XMTPD_REPLICATION_ENABLE",
    "true",
    "Deprecated name of api.enable, which wins over it",
);
pub(in crate::settings) const API_PORT: Setting = Setting {
    short: Some('p'),
    ..value(
        "api.port",
        "XMTPD_API_PORT",
        Some("5050"),
        PORT,
        "5050",
        "Port of the API on TCP, and of QUIC on UDP",
    )
};
pub(in crate::settings) const API_KEEP_ALIVE: Setting = value(
    "api.send-keep-alive-interval",
    "XMTPD_API_SEND_KEEP_ALIVE_INTERVAL",
    Some("30s"),
    DURATION_ABOVE_ZERO,
    "30s",
    "Time a stream may be silent before a keep-alive frame is sent",
);
pub(in crate::settings) const SYNC_ENABLE: Setting =
    switch("sync.enable", "XMTPD_SYNC_ENABLE", "true", "Follow the other nodes of the registry");
pub(in crate::settings) const PEER_TRANSPORT: Setting = value(
    "peer-transport",
    "HAWSER_PEER_TRANSPORT",
    Some("auto"),
    "auto, quic or grpc",
    "grpc",
    "The way to reach peers: QUIC and else gRPC, QUIC only, or gRPC only",
);
pub(in crate::settings) const CATCH_UP: Setting = value(
    "catch-up",
    "HAWSER_CATCH_UP",
    Some("verified"),
    "verified or checkpoints",
    "checkpoints",
    "When readers are shown a backlog of another node: verified, or signed in a checkpoint of its node and verified behind",
);
pub(in crate::settings) const ALLOW_INSECURE_PEERS: Setting = switch(
    "allow-insecure-peers",
    "HAWSER_ALLOW_INSECURE_PEERS",
    "false",
    "Call peers that are registered with http:// at public addresses, too, without this node's token",
);
/// The switch that a gateway has, too.
pub(in crate::settings) const ALLOW_PRIVATE_NODES: Setting = switch(
    "allow-private-nodes",
    "HAWSER_ALLOW_PRIVATE_NODES",
    "false",
    "Call other nodes whose addresses in the registry, or in a registry file, lie in private networks; a node whose \
     own address is private calls them anyway",
);
pub(in crate::settings) const QUIC_ADDRESS: Setting = value(
    "quic-address",
    "HAWSER_QUIC_ADDRESS",
    None,
    "host:port, an IPv6 address in brackets",
    "node.example:5050",
    "The UDP address at which peers reach this node over QUIC, if it is another one than that of its registered URL",
);
pub(in crate::settings) const FOLLOW: Setting = urls_without_file(
    "follow",
    "HAWSER_FOLLOW",
    "http or https URLs, comma separated",
    "https://node-1.example,https://node-2.example",
    "For a replica (hawser audit watch): the nodes or replicas to follow; without it, all nodes of \
     the registry",
);
pub(in crate::settings) const SIGNER_PRIVATE_KEY: Setting = secret(
    ("signer.private-key", "XMTPD_SIGNER_PRIVATE_KEY"),
    ("signer.private-key-file", "XMTPD_SIGNER_PRIVATE_KEY_FILE"),
    "32 bytes as 64 hex digits, 0x in front optional",
    "--signer.private-key-file node.key",
    "The node's secret key",
);
pub(in crate::settings) const WITNESS_NAME: Setting = value(
    "witness-name",
    "HAWSER_WITNESS_NAME",
    None,
    "1 to 128 bytes without white space, control characters and +; only with --witness-key-file",
    "witness.example/w1",
    "For a replica (hawser audit watch): the name that it cosigns checkpoints with",
);
pub(in crate::settings) const WITNESS_KEY: Setting = secret(
    ("witness-key", "HAWSER_WITNESS_KEY"),
    ("witness-key-file", "HAWSER_WITNESS_KEY_FILE"),
    "32 bytes as 64 hex digits, 0x in front optional; only with --witness-name",
    "--witness-key-file witness.key",
    "For a replica: the secret Ed25519 key that it cosigns checkpoints with",
);
pub(in crate::settings) const CHECKPOINT_WITNESSES: Setting = Setting {
    kind: SettingKind::Witnesses,
    ..value(
        "checkpoint-witnesses",
        "HAWSER_CHECKPOINT_WITNESSES",
        None,
        "up to 64 verifier keys (NAME+ID+KEY), comma separated, each with a space and the witness's URL if it \
         is to be asked",
        "witness.example/w1+eb762cc2+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea https://witness.example",
        "Witnesses whose cosignatures of checkpoints are kept and shown; those with a URL are asked to cosign",
    )
};
pub(in crate::settings) const BOOTSTRAP_FROM: Setting = place(
    "bootstrap-from",
    "HAWSER_BOOTSTRAP_FROM",
    "a folder, s3://BUCKET/PREFIX or https://…",
    "https://snapshots.example/hawser",
    "Place of snapshots that a node fills its strands from while it runs",
);
pub(in crate::settings) const BOOTSTRAP_TRUST_NODES_FOR_CHAINS: Setting = switch(
    "bootstrap-trust-nodes-for-chains",
    "HAWSER_BOOTSTRAP_TRUST_NODES_FOR_CHAINS",
    "false",
    "Take strands of chains from the snapshot too, as far as most nodes of the network have signed the same tree of them",
);
pub(in crate::settings) const BOOTSTRAP_TRUST_ONE_ENDPOINT: Setting = switch(
    "bootstrap-trust-one-endpoint",
    "HAWSER_BOOTSTRAP_TRUST_ONE_ENDPOINT",
    "false",
    "Compare strands of chains of a snapshot with what one endpoint of the app chain says; two have to say the same otherwise",
);
pub(in crate::settings) const SNAPSHOT_SERVE: Setting = value(
    "snapshot-serve",
    "HAWSER_SNAPSHOT_SERVE",
    None,
    "a folder of snapshots; not with api.require-replication-node-auth, because their readers have no node token",
    "/var/lib/hawser-snapshots",
    "Folder whose snapshots are given out to new nodes, at /snapshot of the API's address",
);
pub(in crate::settings) const METRICS_ENABLE: Setting = switch(
    "metrics.enable",
    "XMTPD_METRICS_ENABLE",
    "true",
    "Serve metrics, health and status over HTTP",
);
pub(in crate::settings) const METRICS_ADDRESS: Setting = value(
    "metrics.metrics-address",
    "XMTPD_METRICS_METRICS_ADDRESS",
    Some("127.0.0.1"),
    "an IP address of this machine, or localhost",
    "127.0.0.1",
    "Address of metrics, health and status",
);
pub(in crate::settings) const METRICS_PORT: Setting = value(
    "metrics.metrics-port",
    "XMTPD_METRICS_METRICS_PORT",
    Some("8008"),
    PORT,
    "8008",
    "Port of metrics, health and status",
);
pub(in crate::settings) const REFLECTION_ENABLE: Setting = switch(
    "reflection.enable",
    "XMTPD_REFLECTION_ENABLE",
    "false",
    "Answer gRPC reflection, v1 and v1alpha",
);
pub(in crate::settings) const MISBEHAVIOR_API: Setting = switch(
    "misbehavior-api",
    "HAWSER_MISBEHAVIOR_API",
    "true",
    "Take reports of misbehaviour from strangers, and hand out those that are kept",
);
pub(in crate::settings) const LOG_LEVEL: Setting = Setting {
    short: Some('l'),
    ..value(
        "log.log-level",
        "XMTPD_LOG_LEVEL",
        Some("INFO"),
        "TRACE, DEBUG, INFO, WARN or ERROR, in any case",
        "INFO",
        "The least important lines that are logged",
    )
};
pub(in crate::settings) const LOG_ENCODING: Setting = value(
    "log.log-encoding",
    "XMTPD_LOG_ENCODING",
    Some("console"),
    "console or json",
    "json",
    "Log lines as text, or one JSON object per line",
);
pub(in crate::settings) const DATA_DIR: Setting = value(
    "data-dir",
    "HAWSER_DATA_DIR",
    Some("hawser-data"),
    "a folder",
    "/var/lib/hawser",
    "Folder of the database; created if it does not exist",
);
pub(in crate::settings) const STATE_DIR: Setting = value(
    "state-dir",
    "HAWSER_STATE_DIR",
    None,
    "a folder outside of the data folder; needed if neither XDG_STATE_HOME nor HOME is set",
    "/var/lib/hawser-state",
    "Folder of what this host knows of its nodes, kept out of backups and copies of the data folder \
     [default: $XDG_STATE_HOME/hawser, or $HOME/.local/state/hawser]",
);
pub(in crate::settings) const NEW_STRAND: Setting = switch(
    "new-strand",
    "HAWSER_NEW_STRAND",
    "false",
    "Say that this node's key has published nothing in this network yet, for the first start only; \
     refused once it has",
);
pub(in crate::settings) const MIN_FREE_DISK: Setting = value(
    "min-free-disk",
    "HAWSER_MIN_FREE_DISK",
    Some("1GiB"),
    "a whole number and KiB, MiB or GiB, or 0",
    "1GiB",
    "Free space on the disk of the data folder below which nothing is written; 0 for no bound",
);
pub(in crate::settings) const DATABASE_CACHE: Setting = value(
    "database-cache",
    "HAWSER_DATABASE_CACHE",
    Some("auto"),
    "auto, or a whole number and KiB, MiB or GiB, from 64MiB on",
    "1GiB",
    "Memory for what the database has read: a part of this machine's by default",
);
pub(in crate::settings) const DATABASE_OPEN_FILES: Setting = value(
    "database-open-files",
    "HAWSER_DATABASE_OPEN_FILES",
    Some("auto"),
    "auto, or a whole number from 64 on",
    "4096",
    "Files that the database may have open: a quarter of what the process may open by default",
);
pub(in crate::settings) const DURABILITY: Setting = value(
    "durability",
    "HAWSER_DURABILITY",
    Some("fsync"),
    "fsync or os",
    "fsync",
    "The point at which an envelope counts as stored: on disk (survives power loss), or with the operating \
     system (survives a crash of the node)",
);
pub(in crate::settings) const REGISTRY_FILE: Setting = value(
    "registry-file",
    "HAWSER_REGISTRY_FILE",
    None,
    "a JSON file with the records of the node registry",
    "registry.json",
    "The nodes of the network, instead of the settlement chain's; read again when it changes",
);
pub(in crate::settings) const RATES_FILE: Setting = value(
    "rates-file",
    "HAWSER_RATES_FILE",
    None,
    "a JSON file with the records of the rate registry",
    "rates.json",
    "The rates, instead of the settlement chain's; read again when it changes",
);
pub(in crate::settings) const CHAIN_FILE: Setting = value(
    "chain-file",
    "HAWSER_CHAIN_FILE",
    None,
    "a file of JSON lines",
    "chain.jsonl",
    "Envelopes ordered by a chain, instead of the app chain's; appended lines are read",
);
pub(in crate::settings) const INDEXER_ENABLE: Setting = switch(
    "indexer.enable",
    "XMTPD_INDEXER_ENABLE",
    "true",
    "Read the contracts of both chains into the log",
);
pub(in crate::settings) const LISTEN_ADDRESS: Setting = value(
    "listen-address",
    "HAWSER_LISTEN_ADDRESS",
    Some("0.0.0.0"),
    "an IP address of this machine, or localhost",
    "0.0.0.0",
    "IP address of API and QUIC",
);
pub(in crate::settings) const NETWORK: Setting = value(
    "network",
    "HAWSER_NETWORK",
    Some("hawser"),
    "a name of 1 to 64 letters, digits, dots, dashes and underscores",
    "testnet",
    "The network's name; a database belongs to one network",
);
pub(in crate::settings) const WALLET_RPC: Setting = urls(
    ("wallet-rpc", "HAWSER_WALLET_RPC"),
    ("wallet-rpc-file", "HAWSER_WALLET_RPC_FILE"),
    "pairs CHAIN=URL with the chain's id and an http or https URL, comma separated",
    "8453=https://base.example,1=https://ethereum.example",
    "RPC endpoints for signatures of contract wallets on other chains, as CHAIN=URL, comma \
     separated; several of one chain in order of preference",
);
pub(in crate::settings) const WALLET_CHAINS: Setting = value(
    "wallet-chains",
    "HAWSER_WALLET_CHAINS",
    None,
    "ids of chains, comma separated",
    "31337,31338",
    "Development networks only: chains of contract wallets beside those that every network knows",
);
pub(in crate::settings) const IDEMPOTENT_PUBLISH: Setting = switch(
    "idempotent-publish",
    "HAWSER_IDEMPOTENT_PUBLISH",
    "true",
    "Answer a repeated payer envelope with the first result",
);
pub(in crate::settings) const SHUTDOWN_DRAIN: Setting = value(
    "shutdown-drain",
    "HAWSER_SHUTDOWN_DRAIN",
    Some("5s"),
    DURATION,
    "5s",
    "Time the node still serves after the first signal, no longer ready, so that load balancers \
     notice",
);
pub(in crate::settings) const SHUTDOWN_GRACE: Setting = value(
    "shutdown-grace",
    "HAWSER_SHUTDOWN_GRACE",
    Some("30s"),
    DURATION,
    "30s",
    "Time limit of stopping after that",
);
pub(in crate::settings) const API_MEMORY_LIMIT: Setting = value(
    "api-memory-limit",
    "HAWSER_API_MEMORY_LIMIT",
    Some("512MiB"),
    "a size of at least 256MiB, such as 512MiB or 2GiB",
    "512MiB",
    "The most memory that callers may make the process hold, beyond what it takes when idle",
);
const PEM_FILE: &str = "the path of a PEM file; certificate and key belong together";
pub(in crate::settings) const TLS_CERT: Setting = value(
    "tls-cert",
    "HAWSER_TLS_CERT",
    None,
    PEM_FILE,
    "fullchain.pem",
    "The certificate of the API, followed by those of its issuers, PEM: the API then speaks TLS only. Read \
     again when it changes",
);
pub(in crate::settings) const TLS_KEY: Setting = value(
    "tls-key",
    "HAWSER_TLS_KEY",
    None,
    PEM_FILE,
    "privkey.pem",
    "The secret key of that certificate, PEM",
);
pub(in crate::settings) const TLS_CLIENT_CA: Setting = value(
    "tls-client-ca",
    "HAWSER_TLS_CLIENT_CA",
    None,
    "the path of a PEM file; only with --tls-cert",
    "clients.pem",
    "Authorities of clients' certificates, PEM: callers without a certificate of one of them are refused",
);
/// The switch that permits secrets on the command line.
pub(in crate::settings) const ALLOW_SECRET_FLAGS: Setting = switch(
    "allow-secret-flags",
    "HAWSER_ALLOW_SECRET_FLAGS",
    "false",
    "Accept secrets on the command line, where every user of the machine can read them",
);

/// All settings of this file in the order of the help text.
pub(super) const ALL: [&Setting; 50] = [
    &CONFIG_FILE,
    &API_ENABLE,
    &REPLICATION_ENABLE,
    &API_PORT,
    &API_KEEP_ALIVE,
    &API_MEMORY_LIMIT,
    &TLS_CERT,
    &TLS_KEY,
    &TLS_CLIENT_CA,
    &SYNC_ENABLE,
    &PEER_TRANSPORT,
    &CATCH_UP,
    &ALLOW_INSECURE_PEERS,
    &ALLOW_PRIVATE_NODES,
    &QUIC_ADDRESS,
    &FOLLOW,
    &SIGNER_PRIVATE_KEY,
    &WITNESS_NAME,
    &WITNESS_KEY,
    &CHECKPOINT_WITNESSES,
    &BOOTSTRAP_FROM,
    &BOOTSTRAP_TRUST_NODES_FOR_CHAINS,
    &BOOTSTRAP_TRUST_ONE_ENDPOINT,
    &SNAPSHOT_SERVE,
    &METRICS_ENABLE,
    &METRICS_ADDRESS,
    &METRICS_PORT,
    &REFLECTION_ENABLE,
    &MISBEHAVIOR_API,
    &LOG_LEVEL,
    &LOG_ENCODING,
    &DATA_DIR,
    &STATE_DIR,
    &NEW_STRAND,
    &NETWORK,
    &REGISTRY_FILE,
    &RATES_FILE,
    &CHAIN_FILE,
    &INDEXER_ENABLE,
    &LISTEN_ADDRESS,
    &DURABILITY,
    &MIN_FREE_DISK,
    &DATABASE_CACHE,
    &DATABASE_OPEN_FILES,
    &WALLET_RPC,
    &WALLET_CHAINS,
    &IDEMPOTENT_PUBLISH,
    &SHUTDOWN_DRAIN,
    &SHUTDOWN_GRACE,
    &ALLOW_SECRET_FLAGS,
];
