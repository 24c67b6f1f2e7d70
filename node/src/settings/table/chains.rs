//! The settings of chains and contracts: of nodes, gateways, and the commands that read or change contracts.

use hawser_chain::admin::Contract;

use super::node::CONFIG_FILE;
use super::setting::{ABOVE_ZERO, Setting, place, urls, value};

/// The default chain id in the settings of the reference implementation. This id, or 0, is treated as not configured.
pub const UNSET_CHAIN_ID: u64 = 31337;

const DURATION_ABOVE_ZERO: &str = "a duration above 0 with units, such as 500ms, 30s or 5m";
const URLS: &str = "an http or https URL; several, comma separated, in order of preference";
const PUSH_URLS: &str = "a ws or wss URL; several, comma separated, in order of preference";
const NUMBER: &str = "a whole number";
const CHAIN_ID: &str = "the chain's id, a whole number";
const ADDRESS: &str = "an address: 20 bytes in hex, and not zero";
pub(in crate::settings) const EXAMPLE_ADDRESS: &str = "0xd1c78Dee5d58eCCF1cF1CAABbfc9837215f1B82B";

/// URLs of the settlement chain.
pub const SETTLEMENT_RPC: Setting = urls(
    ("contracts.settlement-chain.rpc-url", "XMTPD_SETTLEMENT_CHAIN_RPC_URL"),
    ("contracts.settlement-chain.rpc-url-file", "XMTPD_SETTLEMENT_CHAIN_RPC_URL_FILE"),
    URLS,
    "http://127.0.0.1:5061",
    "The settlement chain, http or https; several, comma separated, in order of preference",
);
pub(in crate::settings) const SETTLEMENT_ID: Setting = value(
    "contracts.settlement-chain.chain-id",
    "XMTPD_SETTLEMENT_CHAIN_CHAIN_ID",
    None,
    CHAIN_ID,
    "8453",
    "The settlement chain's id, if it is not in the file with the addresses",
);
/// URLs of the app chain.
pub const APP_RPC: Setting = urls(
    ("contracts.app-chain.rpc-url", "XMTPD_APP_CHAIN_RPC_URL"),
    ("contracts.app-chain.rpc-url-file", "XMTPD_APP_CHAIN_RPC_URL_FILE"),
    URLS,
    "http://127.0.0.1:5060",
    "The app chain, http or https; several, comma separated, in order of preference",
);
pub(in crate::settings) const APP_ID: Setting = value(
    "contracts.app-chain.chain-id",
    "XMTPD_APP_CHAIN_CHAIN_ID",
    None,
    CHAIN_ID,
    "241320162",
    "The app chain's id, if it is not in the file with the addresses",
);
/// The file with all addresses.
pub const FILE: Setting = place(
    "contracts.config-file-path",
    "XMTPD_CONTRACTS_CONFIG_FILE_PATH",
    "one of the three ways to give all addresses",
    "chain.json",
    "The file with all addresses, such as the chain.json of `hawser chain dev`: a path, file://…, \
     http(s)://… (redirects are not followed), or config://NAME for a deployed network",
);
/// The content of a file with all addresses.
pub const TEXT: Setting = value(
    "contracts.config-json",
    "XMTPD_CONTRACTS_CONFIG_JSON",
    None,
    "one of the three ways to give all addresses",
    "{\"nodeRegistry\":\"0x…\", …}",
    "All addresses as JSON: the content of the file that config-file-path would name",
);
pub(crate) const ENVIRONMENT: Setting = value(
    "contracts.environment",
    "XMTPD_CONTRACTS_ENVIRONMENT",
    None,
    "mainnet, testnet, testnet-dev, testnet-staging or anvil",
    "testnet",
    "A deployed network: mainnet, testnet, testnet-dev, testnet-staging; or anvil, the reference's \
     local chain",
);

/// The settings for reaching chains and finding their contracts, except the addresses of single contracts.
pub const GENERAL: [&Setting; 8] =
    [&SETTLEMENT_RPC, &SETTLEMENT_ID, &APP_RPC, &APP_ID, &FILE, &TEXT, &ENVIRONMENT, &CONFIG_FILE];

/// URLs for new blocks of the app chain.
pub const APP_PUSH: Setting = urls(
    ("contracts.app-chain.wss-url", "XMTPD_APP_CHAIN_WSS_URL"),
    ("contracts.app-chain.wss-url-file", "XMTPD_APP_CHAIN_WSS_URL_FILE"),
    PUSH_URLS,
    "ws://127.0.0.1:5060",
    "WebSocket for new blocks of the app chain, ws or wss; without it the chain is polled every \
     second",
);
/// URLs for new blocks of the settlement chain.
pub const SETTLEMENT_PUSH: Setting = urls(
    ("contracts.settlement-chain.wss-url", "XMTPD_SETTLEMENT_CHAIN_WSS_URL"),
    ("contracts.settlement-chain.wss-url-file", "XMTPD_SETTLEMENT_CHAIN_WSS_URL_FILE"),
    PUSH_URLS,
    "ws://127.0.0.1:5061",
    "WebSocket for new blocks of the settlement chain, ws or wss; without it the chain is polled \
     every second",
);
pub(in crate::settings) const APP_DISCONNECT: Setting = value(
    "contracts.app-chain.max-chain-disconnect-time",
    "XMTPD_APP_CHAIN_MAX_CHAIN_DISCONNECT_TIME",
    Some("60s"),
    DURATION_ABOVE_ZERO,
    "60s",
    "Time without the app chain after which the node publishes nothing; it still serves reads",
);
pub(in crate::settings) const SETTLEMENT_DISCONNECT: Setting = value(
    "contracts.settlement-chain.max-chain-disconnect-time",
    "XMTPD_SETTLEMENT_CHAIN_MAX_CHAIN_DISCONNECT_TIME",
    Some("300s"),
    DURATION_ABOVE_ZERO,
    "300s",
    "Time without the settlement chain after which the node publishes nothing; it still serves reads",
);
pub(in crate::settings) const APP_PAGE: Setting = value(
    "contracts.app-chain.backfill-block-page-size",
    "XMTPD_APP_CHAIN_BACKFILL_BLOCK_PAGE_SIZE",
    Some("500"),
    ABOVE_ZERO,
    "500",
    "Blocks of the app chain in one query for events; halved when a provider refuses",
);
pub(in crate::settings) const SETTLEMENT_PAGE: Setting = value(
    "contracts.settlement-chain.backfill-block-page-size",
    "XMTPD_SETTLEMENT_CHAIN_BACKFILL_BLOCK_PAGE_SIZE",
    Some("500"),
    ABOVE_ZERO,
    "500",
    "Blocks of the settlement chain in one query for events; halved when a provider refuses",
);
pub(in crate::settings) const APP_FIRST_BLOCK: Setting = value(
    "contracts.app-chain.deployment-block",
    "XMTPD_APP_CHAIN_DEPLOYMENT_BLOCK",
    None,
    NUMBER,
    "7243",
    "The app chain's first block to read, if it differs from the file's; 0 counts as not given",
);
pub(in crate::settings) const SETTLEMENT_FIRST_BLOCK: Setting = value(
    "contracts.settlement-chain.deployment-block",
    "XMTPD_SETTLEMENT_CHAIN_DEPLOYMENT_BLOCK",
    None,
    NUMBER,
    "7243",
    "The settlement chain's first block to read, if it differs from the file's; 0 counts as not \
     given",
);
pub(in crate::settings) const APP_CONFIRMATIONS: Setting = value(
    "app-chain-confirmations",
    "HAWSER_APP_CHAIN_CONFIRMATIONS",
    Some("0"),
    NUMBER,
    "0",
    "Blocks of the app chain that must follow an event before it enters the log",
);
pub(in crate::settings) const SETTLEMENT_CONFIRMATIONS: Setting = value(
    "settlement-chain-confirmations",
    "HAWSER_SETTLEMENT_CHAIN_CONFIRMATIONS",
    Some("0"),
    NUMBER,
    "0",
    "Blocks of the settlement chain that must follow a payment before it is booked",
);
pub(in crate::settings) const NODES_REFRESH: Setting = value(
    "contracts.settlement-chain.node-registry-refresh-interval",
    "XMTPD_SETTLEMENT_CHAIN_NODE_REGISTRY_REFRESH_INTERVAL",
    Some("60s"),
    DURATION_ABOVE_ZERO,
    "60s",
    "Time between two reads of the node registry, even if it announces no change",
);
pub(in crate::settings) const RATES_REFRESH: Setting = value(
    "contracts.settlement-chain.rate-registry-refresh-interval",
    "XMTPD_SETTLEMENT_CHAIN_RATE_REGISTRY_REFRESH_INTERVAL",
    Some("300s"),
    DURATION_ABOVE_ZERO,
    "300s",
    "Time between two reads of the rates, even if they announce no change",
);

/// The settings for reading the chains, in addition to [`GENERAL`] and [`SINGLE`].
pub const READING: [&Setting; 12] = [
    &APP_PUSH,
    &APP_DISCONNECT,
    &APP_PAGE,
    &APP_FIRST_BLOCK,
    &APP_CONFIRMATIONS,
    &SETTLEMENT_PUSH,
    &SETTLEMENT_DISCONNECT,
    &SETTLEMENT_PAGE,
    &SETTLEMENT_FIRST_BLOCK,
    &SETTLEMENT_CONFIRMATIONS,
    &NODES_REFRESH,
    &RATES_REFRESH,
];

/// The settings by which a node reads the events of contracts. A gateway reads none, and asks the app chain itself for
/// what becomes of its transactions.
pub(in crate::settings) const OF_EVENTS: [&Setting; 7] = [
    &APP_PUSH,
    &APP_PAGE,
    &APP_FIRST_BLOCK,
    &APP_CONFIRMATIONS,
    &SETTLEMENT_PAGE,
    &SETTLEMENT_FIRST_BLOCK,
    &SETTLEMENT_CONFIRMATIONS,
];

/// The addresses of single contracts; each takes precedence over the file.
#[rustfmt::skip]
pub static SINGLE: [(Contract, Setting); 13] = [
    (Contract::NodeRegistry, single("contracts.settlement-chain.node-registry-address", "XMTPD_SETTLEMENT_CHAIN_NODE_REGISTRY_ADDRESS", "Address of NodeRegistry")),
    (Contract::RateRegistry, single("contracts.settlement-chain.rate-registry-address", "XMTPD_SETTLEMENT_CHAIN_RATE_REGISTRY_ADDRESS", "Address of RateRegistry")),
    (Contract::PayerRegistry, single("contracts.settlement-chain.payer-registry-address", "XMTPD_SETTLEMENT_CHAIN_PAYER_REGISTRY_ADDRESS", "Address of PayerRegistry")),
    (Contract::PayerReportManager, single("contracts.settlement-chain.payer-report-manager-address", "XMTPD_SETTLEMENT_CHAIN_PAYER_REPORT_MANAGER_ADDRESS", "Address of PayerReportManager")),
    (Contract::DistributionManager, single("contracts.settlement-chain.distribution-manager-address", "XMTPD_SETTLEMENT_CHAIN_DISTRIBUTION_MANAGER_ADDRESS", "Address of DistributionManager")),
    (Contract::SettlementChainGateway, single("contracts.settlement-chain.gateway-address", "XMTPD_SETTLEMENT_CHAIN_GATEWAY_ADDRESS", "Address of SettlementChainGateway")),
    (Contract::SettlementChainParameterRegistry, single("contracts.settlement-chain.parameter-registry-address", "XMTPD_SETTLEMENT_CHAIN_PARAMETER_REGISTRY_ADDRESS", "Address of SettlementChainParameterRegistry")),
    (Contract::FeeToken, single("contracts.settlement-chain.fee-token-address", "XMTPD_SETTLEMENT_CHAIN_FEE_TOKEN_ADDRESS", "Address of FeeToken")),
    (Contract::UnderlyingFeeToken, single("contracts.settlement-chain.underlying-fee-token-address", "XMTPD_SETTLEMENT_CHAIN_UNDERLYING_FEE_TOKEN_ADDRESS", "Address of UnderlyingFeeToken")),
    (Contract::AppChainGateway, single("contracts.app-chain.gateway-address", "XMTPD_APP_CHAIN_GATEWAY_ADDRESS", "Address of AppChainGateway")),
    (Contract::AppChainParameterRegistry, single("contracts.app-chain.parameter-registry-address", "XMTPD_APP_CHAIN_PARAMETER_REGISTRY_ADDRESS", "Address of AppChainParameterRegistry")),
    (Contract::GroupMessageBroadcaster, single("contracts.app-chain.group-message-broadcaster-address", "XMTPD_APP_CHAIN_GROUP_MESSAGE_BROADCAST_ADDRESS", "Address of GroupMessageBroadcaster")),
    (Contract::IdentityUpdateBroadcaster, single("contracts.app-chain.identity-update-broadcaster-address", "XMTPD_APP_CHAIN_IDENTITY_UPDATE_BROADCAST_ADDRESS", "Address of IdentityUpdateBroadcaster")),
];

const fn single(flag: &'static str, env: &'static str, help: &'static str) -> Setting {
    value(flag, env, None, ADDRESS, EXAMPLE_ADDRESS, help)
}

/// Returns the flag for a contract's address. Optional contracts have no flag; only the deployment file contains them.
#[must_use]
pub(crate) fn flag_of(contract: Contract) -> &'static str {
    let single = SINGLE.iter().find(|(named, _)| *named == contract);
    single.map_or(FILE.flag, |(_, setting)| setting.flag)
}
