//! Chains and contracts: the settings of the commands that read or change them.

use std::time::Duration;

use alloy::primitives::Address;
use hawser_chain::admin::{Contract, Contracts};

use super::settings::{CONFIG_FILE, DURATION, Setting, urls, value};
use super::{Faults, Given, Reader, forms};

/// The id that the settings of chain ids begin with. Whoever says it, or 0, has said nothing.
pub const UNSAID_CHAIN_ID: u64 = 31337;

const URLS: &str = "an http or https URL; several, comma separated, in order of preference";
const PUSH_URLS: &str = "a ws or wss URL; several, comma separated, in order of preference";
const NUMBER: &str = "a whole number";
const ABOVE_ZERO: &str = "a whole number above 0";
const DURATION_ABOVE_ZERO: &str = "a duration above 0 with units, such as 500ms, 30s or 5m";
const CHAIN_ID: &str = "the chain's id, a whole number";
const ADDRESS: &str = "an address: 20 bytes in hex, and not zero";
const EXAMPLE_ADDRESS: &str = "0xd1c78Dee5d58eCCF1cF1CAABbfc9837215f1B82B";

/// How the settlement chain is reached.
pub const SETTLEMENT_RPC: Setting = urls(
    "contracts.settlement-chain.rpc-url",
    "XMTPD_SETTLEMENT_CHAIN_RPC_URL",
    URLS,
    "http://127.0.0.1:5061",
    "The settlement chain, http or https; several, comma separated, in order of preference",
);
const SETTLEMENT_ID: Setting = value(
    "contracts.settlement-chain.chain-id",
    "XMTPD_SETTLEMENT_CHAIN_CHAIN_ID",
    None,
    CHAIN_ID,
    "8453",
    "The settlement chain's id, if it is not in the file with the addresses",
);
/// How the app chain is reached.
pub const APP_RPC: Setting = urls(
    "contracts.app-chain.rpc-url",
    "XMTPD_APP_CHAIN_RPC_URL",
    URLS,
    "http://127.0.0.1:5060",
    "The app chain, http or https; several, comma separated, in order of preference",
);
const APP_ID: Setting = value(
    "contracts.app-chain.chain-id",
    "XMTPD_APP_CHAIN_CHAIN_ID",
    None,
    CHAIN_ID,
    "241320162",
    "The app chain's id, if it is not in the file with the addresses",
);
/// The file with all addresses.
pub const FILE: Setting = value(
    "contracts.config-file-path",
    "XMTPD_CONTRACTS_CONFIG_FILE_PATH",
    None,
    "one of the three ways to give all addresses",
    "chain.json",
    "The file with all addresses, such as the chain.json of `hawser chain dev`: a path, file://…, \
     http(s)://…, or config://NAME for a deployed network",
);
const TEXT: Setting = value(
    "contracts.config-json",
    "XMTPD_CONTRACTS_CONFIG_JSON",
    None,
    "one of the three ways to give all addresses",
    "{\"nodeRegistry\":\"0x…\", …}",
    "The content of such a file",
);
const ENVIRONMENT: Setting = value(
    "contracts.environment",
    "XMTPD_CONTRACTS_ENVIRONMENT",
    None,
    "one of the three ways to give all addresses",
    "testnet",
    "A deployed network: mainnet, testnet, testnet-dev, testnet-staging",
);

/// What is not an address of a single contract.
pub const GENERAL: [&Setting; 8] =
    [&SETTLEMENT_RPC, &SETTLEMENT_ID, &APP_RPC, &APP_ID, &FILE, &TEXT, &ENVIRONMENT, &CONFIG_FILE];

/// How the app chain tells what is new.
pub const APP_PUSH: Setting = urls(
    "contracts.app-chain.wss-url",
    "XMTPD_APP_CHAIN_WSS_URL",
    PUSH_URLS,
    "ws://127.0.0.1:5060",
    "The app chain's news, ws or wss; without it the chain is asked every second",
);
/// How the settlement chain tells what is new.
pub const SETTLEMENT_PUSH: Setting = urls(
    "contracts.settlement-chain.wss-url",
    "XMTPD_SETTLEMENT_CHAIN_WSS_URL",
    PUSH_URLS,
    "ws://127.0.0.1:5061",
    "The settlement chain's news, ws or wss; without it the chain is asked every second",
);
const APP_DISCONNECT: Setting = value(
    "contracts.app-chain.max-chain-disconnect-time",
    "XMTPD_APP_CHAIN_MAX_CHAIN_DISCONNECT_TIME",
    Some("60s"),
    DURATION,
    "60s",
    "Nothing is published after so long without the app chain; reading goes on",
);
const SETTLEMENT_DISCONNECT: Setting = value(
    "contracts.settlement-chain.max-chain-disconnect-time",
    "XMTPD_SETTLEMENT_CHAIN_MAX_CHAIN_DISCONNECT_TIME",
    Some("300s"),
    DURATION,
    "300s",
    "Nothing is published after so long without the settlement chain; reading goes on",
);
const APP_PAGE: Setting = value(
    "contracts.app-chain.backfill-block-page-size",
    "XMTPD_APP_CHAIN_BACKFILL_BLOCK_PAGE_SIZE",
    Some("500"),
    ABOVE_ZERO,
    "500",
    "Blocks of the app chain in one question for events; halved when a provider refuses",
);
const SETTLEMENT_PAGE: Setting = value(
    "contracts.settlement-chain.backfill-block-page-size",
    "XMTPD_SETTLEMENT_CHAIN_BACKFILL_BLOCK_PAGE_SIZE",
    Some("500"),
    ABOVE_ZERO,
    "500",
    "Blocks of the settlement chain in one question for events; halved when a provider refuses",
);
const APP_FIRST_BLOCK: Setting = value(
    "contracts.app-chain.deployment-block",
    "XMTPD_APP_CHAIN_DEPLOYMENT_BLOCK",
    None,
    NUMBER,
    "7243",
    "The app chain's first block with something to read, if it is not the file's; 0 says nothing",
);
const SETTLEMENT_FIRST_BLOCK: Setting = value(
    "contracts.settlement-chain.deployment-block",
    "XMTPD_SETTLEMENT_CHAIN_DEPLOYMENT_BLOCK",
    None,
    NUMBER,
    "7243",
    "The settlement chain's first block with something to read, if it is not the file's; 0 says \
     nothing",
);
const APP_CONFIRMATIONS: Setting = value(
    "app-chain-confirmations",
    "HAWSER_APP_CHAIN_CONFIRMATIONS",
    Some("0"),
    NUMBER,
    "0",
    "How many blocks of the app chain must follow an event before it is taken into the log",
);
const SETTLEMENT_CONFIRMATIONS: Setting = value(
    "settlement-chain-confirmations",
    "HAWSER_SETTLEMENT_CHAIN_CONFIRMATIONS",
    Some("0"),
    NUMBER,
    "0",
    "How many blocks of the settlement chain must follow a payment before it is booked",
);
const NODES_REFRESH: Setting = value(
    "contracts.settlement-chain.node-registry-refresh-interval",
    "XMTPD_SETTLEMENT_CHAIN_NODE_REGISTRY_REFRESH_INTERVAL",
    Some("60s"),
    DURATION_ABOVE_ZERO,
    "60s",
    "How often the node registry is read, whether it says that something has changed or not",
);
const RATES_REFRESH: Setting = value(
    "contracts.settlement-chain.rate-registry-refresh-interval",
    "XMTPD_SETTLEMENT_CHAIN_RATE_REGISTRY_REFRESH_INTERVAL",
    Some("300s"),
    DURATION_ABOVE_ZERO,
    "300s",
    "How often the rates are read, whether there is something new or not",
);

/// How a node reads the chains, beside [`GENERAL`] and [`SINGLE`].
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

/// Contracts that are elsewhere than the file says.
#[rustfmt::skip]
pub static SINGLE: [(Contract, Setting); 13] = [
    (Contract::NodeRegistry, single("contracts.settlement-chain.node-registry-address", "XMTPD_SETTLEMENT_CHAIN_NODE_REGISTRY_ADDRESS")),
    (Contract::RateRegistry, single("contracts.settlement-chain.rate-registry-address", "XMTPD_SETTLEMENT_CHAIN_RATE_REGISTRY_ADDRESS")),
    (Contract::PayerRegistry, single("contracts.settlement-chain.payer-registry-address", "XMTPD_SETTLEMENT_CHAIN_PAYER_REGISTRY_ADDRESS")),
    (Contract::PayerReportManager, single("contracts.settlement-chain.payer-report-manager-address", "XMTPD_SETTLEMENT_CHAIN_PAYER_REPORT_MANAGER_ADDRESS")),
    (Contract::DistributionManager, single("contracts.settlement-chain.distribution-manager-address", "XMTPD_SETTLEMENT_CHAIN_DISTRIBUTION_MANAGER_ADDRESS")),
    (Contract::SettlementChainGateway, single("contracts.settlement-chain.gateway-address", "XMTPD_SETTLEMENT_CHAIN_GATEWAY_ADDRESS")),
    (Contract::SettlementChainParameterRegistry, single("contracts.settlement-chain.parameter-registry-address", "XMTPD_SETTLEMENT_CHAIN_PARAMETER_REGISTRY_ADDRESS")),
    (Contract::FeeToken, single("contracts.settlement-chain.fee-token-address", "XMTPD_SETTLEMENT_CHAIN_FEE_TOKEN_ADDRESS")),
    (Contract::UnderlyingFeeToken, single("contracts.settlement-chain.underlying-fee-token-address", "XMTPD_SETTLEMENT_CHAIN_UNDERLYING_FEE_TOKEN_ADDRESS")),
    (Contract::AppChainGateway, single("contracts.app-chain.gateway-address", "XMTPD_APP_CHAIN_GATEWAY_ADDRESS")),
    (Contract::AppChainParameterRegistry, single("contracts.app-chain.parameter-registry-address", "XMTPD_APP_CHAIN_PARAMETER_REGISTRY_ADDRESS")),
    (Contract::GroupMessageBroadcaster, single("contracts.app-chain.group-message-broadcaster-address", "XMTPD_APP_CHAIN_GROUP_MESSAGE_BROADCAST_ADDRESS")),
    (Contract::IdentityUpdateBroadcaster, single("contracts.app-chain.identity-update-broadcaster-address", "XMTPD_APP_CHAIN_IDENTITY_UPDATE_BROADCAST_ADDRESS")),
];

const fn single(flag: &'static str, env: &'static str) -> Setting {
    value(flag, env, None, ADDRESS, EXAMPLE_ADDRESS, "Where this contract is")
}

/// The flag that says where a contract is.
#[must_use]
pub fn flag_of(contract: Contract) -> &'static str {
    let single = SINGLE.iter().find(|(named, _)| *named == contract);
    single.map(|(_, setting)| setting.flag).expect("every contract has a flag")
}

/// What was said of chains and contracts. Nothing was read or reached for it.
#[derive(Debug)]
pub struct ContractsConfig {
    /// At least one URL.
    pub settlement: ChainConfig,
    /// Maybe without a URL.
    pub app: ChainConfig,
    /// Where all addresses are.
    pub source: Option<Source>,
    /// Addresses that were said one by one: they win over the source.
    pub single: Contracts,
}

/// What was said of a chain.
#[derive(Debug)]
pub struct ChainConfig {
    /// In order of preference.
    pub urls: Vec<String>,
    /// Its id.
    pub id: Option<u64>,
}

/// Where all addresses are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path, or a URL of the schemes `file`, `http`, `https` and `config`.
    Place(String),
    /// The file's content.
    Text(String),
    /// A deployed network.
    Environment(String),
}

/// What a node was told of the chains that it reads.
#[derive(Debug)]
pub struct ChainsConfig {
    /// Where chains and contracts are. Either chain may be without a URL.
    pub contracts: ContractsConfig,
    /// How the app chain is read.
    pub app: ReadingConfig,
    /// How the settlement chain is read.
    pub settlement: ReadingConfig,
    /// How often the node registry is read.
    pub nodes_refresh: Duration,
    /// How often the rates are read.
    pub rates_refresh: Duration,
}

/// How one chain is read.
#[derive(Debug)]
pub struct ReadingConfig {
    /// Where news come from, in order of preference.
    pub push_urls: Vec<String>,
    /// Nothing is published after so long without the chain.
    pub disconnect_max: Duration,
    /// Blocks in one question for events.
    pub page_blocks: u64,
    /// The first block with something to read, if that was said.
    pub first_block: Option<u64>,
    /// How many blocks must follow before a block counts.
    pub confirmations: u64,
}

/// The settings of one chain's reading.
struct ReadingSettings {
    push: &'static Setting,
    disconnect: &'static Setting,
    page: &'static Setting,
    first_block: &'static Setting,
    confirmations: &'static Setting,
}

const APP: ReadingSettings = ReadingSettings {
    push: &APP_PUSH,
    disconnect: &APP_DISCONNECT,
    page: &APP_PAGE,
    first_block: &APP_FIRST_BLOCK,
    confirmations: &APP_CONFIRMATIONS,
};
const SETTLEMENT: ReadingSettings = ReadingSettings {
    push: &SETTLEMENT_PUSH,
    disconnect: &SETTLEMENT_DISCONNECT,
    page: &SETTLEMENT_PAGE,
    first_block: &SETTLEMENT_FIRST_BLOCK,
    confirmations: &SETTLEMENT_CONFIRMATIONS,
};

impl ContractsConfig {
    /// Makes typed settings of what was given.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub fn read(given: &Given) -> Result<Self, Faults> {
        let mut reader = Reader { given, faults: given.misplaced() };
        let config = reader.places();
        if config.settlement.urls.is_empty() {
            reader.fault(&SETTLEMENT_RPC, None);
        }
        if reader.faults.is_empty() { Ok(config) } else { Err(Faults(reader.faults)) }
    }
}

impl Reader<'_> {
    fn places(&mut self) -> ContractsConfig {
        ContractsConfig {
            settlement: self.chain(&SETTLEMENT_RPC, &SETTLEMENT_ID),
            app: self.chain(&APP_RPC, &APP_ID),
            source: self.source(),
            single: self.single(),
        }
    }

    /// What a node was told of the chains. What is wrong leaves a fault, and `None`.
    pub(super) fn chains(&mut self) -> Option<ChainsConfig> {
        let contracts = self.places();
        let (app, settlement) = (self.reading(&APP), self.reading(&SETTLEMENT));
        let above_zero = |text: &str| forms::duration(text).filter(|time| !time.is_zero());
        let nodes_refresh = self.get(&NODES_REFRESH, above_zero);
        let rates_refresh = self.get(&RATES_REFRESH, above_zero);
        Some(ChainsConfig {
            contracts,
            app: app?,
            settlement: settlement?,
            nodes_refresh: nodes_refresh?,
            rates_refresh: rates_refresh?,
        })
    }

    fn reading(&mut self, settings: &ReadingSettings) -> Option<ReadingConfig> {
        let number = |text: &str| text.parse::<u64>().ok();
        let push_urls = self.urls(settings.push);
        let disconnect_max = self.get(settings.disconnect, forms::duration);
        let page_blocks = self.get(settings.page, |text| number(text).filter(|size| *size > 0));
        let first_block = match self.said(settings.first_block) {
            Some(_) => self.get(settings.first_block, number).filter(|block| *block > 0),
            None => None,
        };
        let confirmations = self.get(settings.confirmations, number);
        Some(ReadingConfig {
            push_urls,
            disconnect_max: disconnect_max?,
            page_blocks: page_blocks?,
            first_block,
            confirmations: confirmations?,
        })
    }

    fn urls(&mut self, urls: &Setting) -> Vec<String> {
        let text = self.said(urls).unwrap_or_default();
        let urls = text.split(',').map(str::trim).filter(|url| !url.is_empty());
        urls.map(str::to_owned).collect()
    }

    fn chain(&mut self, urls: &Setting, id: &Setting) -> ChainConfig {
        let urls = self.urls(urls);
        let id = self.said(id).and_then(|text| {
            let number = text.parse::<u64>().ok();
            if number.is_none() {
                self.fault(id, Some(format!("{text:?}")));
            }
            number.filter(|id| ![0, UNSAID_CHAIN_ID].contains(id))
        });
        ChainConfig { urls, id }
    }

    fn source(&mut self) -> Option<Source> {
        let ways = [
            self.said(&FILE).map(Source::Place),
            self.said(&TEXT).map(Source::Text),
            self.said(&ENVIRONMENT).map(Source::Environment),
        ];
        let mut given = ways.into_iter().flatten();
        let first = given.next();
        if given.next().is_some() {
            let names = format!(
                "more than one of --{}, --{}, --{}",
                FILE.flag, TEXT.flag, ENVIRONMENT.flag
            );
            self.fault(&FILE, Some(names));
        }
        first
    }

    fn single(&mut self) -> Contracts {
        let mut contracts = Contracts::default();
        for (contract, setting) in &SINGLE {
            let Some(text) = self.said(setting) else { continue };
            match text.parse::<Address>().ok().filter(|address| !address.is_zero()) {
                Some(address) => contracts.set(*contract, address),
                None => self.fault(setting, Some(format!("{text:?}"))),
            }
        }
        contracts
    }

    /// What somebody has said, and not as nothing.
    fn said(&mut self, setting: &Setting) -> Option<String> {
        let value = self.text(setting)?;
        Some(value.text.trim().to_owned()).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn read(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<ContractsConfig, String> {
        let owned = |pairs: &[(&str, &str)]| -> Vec<_> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let given = Given::new(owned(flags), owned(env));
        ContractsConfig::read(&given).map_err(|faults| faults.to_string())
    }

    #[test]
    fn urls_are_a_list_and_default_ids_say_nothing() {
        let env = [
            ("XMTPD_SETTLEMENT_CHAIN_RPC_URL", "http://a, ,https://b"),
            ("XMTPD_SETTLEMENT_CHAIN_CHAIN_ID", "31337"),
            ("XMTPD_APP_CHAIN_CHAIN_ID", "5"),
            ("XMTPD_CONTRACTS_ENVIRONMENT", "testnet"),
        ];
        let config = read(&[("contracts.config-json", "")], &env).unwrap();
        assert_eq!(config.settlement.urls, ["http://a", "https://b"]);
        assert_eq!((config.settlement.id, config.app.id), (None, Some(5)));
        assert!(config.app.urls.is_empty());
        assert_eq!(config.source, Some(Source::Environment("testnet".into())));
        let flags = [("contracts.settlement-chain.rpc-url", "http://c")];
        assert_eq!(read(&flags, &env).unwrap().settlement.urls, ["http://c"]);
    }

    #[test]
    fn single_addresses_are_taken() {
        let given = [
            ("contracts.settlement-chain.rpc-url", "http://a"),
            ("contracts.settlement-chain.fee-token-address", EXAMPLE_ADDRESS),
        ];
        let config = read(&given, &[]).unwrap();
        assert_eq!(config.single.get(Contract::FeeToken), EXAMPLE_ADDRESS.parse().ok());
        assert_eq!(config.single.get(Contract::NodeRegistry), None);
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let zero = "0x0000000000000000000000000000000000000000";
        let text = read(
            &[
                ("contracts.settlement-chain.chain-id", "x"),
                ("contracts.settlement-chain.fee-token-address", zero),
                ("contracts.environment", "mainnet"),
                ("contracts.config-json", "{}"),
            ],
            &[],
        )
        .unwrap_err();
        for part in ["4 faults", "chain-id", zero, "more than one", "rpc-url", "missing"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn every_contract_can_be_said_by_itself() {
        let given: BTreeSet<_> = SINGLE.iter().map(|(contract, _)| *contract).collect();
        assert_eq!(given, Contract::ALL.into_iter().collect());
    }
}
