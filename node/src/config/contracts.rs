//! Chains and contracts: the settings of the commands that read or change them.

use alloy::primitives::Address;
use hawser_chain::admin::{Contract, Contracts};

use super::settings::{CONFIG_FILE, Setting, value};
use super::{Faults, Given, Reader};

/// The id that the settings of chain ids begin with. Whoever says it, or 0, has said nothing.
pub const UNSAID_CHAIN_ID: u64 = 31337;

const URLS: &str = "an http or https URL; several, comma separated, in order of preference";
const CHAIN_ID: &str = "the chain's id, a whole number";
const ADDRESS: &str = "an address: 20 bytes in hex, and not zero";
const EXAMPLE_ADDRESS: &str = "0xd1c78Dee5d58eCCF1cF1CAABbfc9837215f1B82B";

/// How the settlement chain is reached.
pub const SETTLEMENT_RPC: Setting = value(
    "contracts.settlement-chain.rpc-url",
    "XMTPD_SETTLEMENT_CHAIN_RPC_URL",
    None,
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
pub const APP_RPC: Setting = value(
    "contracts.app-chain.rpc-url",
    "XMTPD_APP_CHAIN_RPC_URL",
    None,
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

/// Contracts that are elsewhere than the file says.
#[rustfmt::skip]
pub const SINGLE: [(Contract, Setting); 13] = [
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

impl ContractsConfig {
    /// Makes typed settings of what was given.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub fn read(given: &Given) -> Result<Self, Faults> {
        let mut reader = Reader { given, faults: given.misplaced() };
        let config = Self {
            settlement: reader.chain(&SETTLEMENT_RPC, &SETTLEMENT_ID),
            app: reader.chain(&APP_RPC, &APP_ID),
            source: reader.source(),
            single: reader.single(),
        };
        if config.settlement.urls.is_empty() {
            reader.fault(&SETTLEMENT_RPC, None);
        }
        if reader.faults.is_empty() { Ok(config) } else { Err(Faults(reader.faults)) }
    }
}

impl Reader<'_> {
    fn chain(&mut self, urls: &Setting, id: &Setting) -> ChainConfig {
        let text = self.said(urls).unwrap_or_default();
        let urls = text.split(',').map(str::trim).filter(|url| !url.is_empty());
        let urls = urls.map(str::to_owned).collect();
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

    use super::super::ignored;
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
    fn the_names_are_those_of_the_reference() {
        let settings = GENERAL.into_iter().chain(SINGLE.iter().map(|(_, setting)| setting));
        for setting in settings.filter(|setting| setting.flag != CONFIG_FILE.flag) {
            let known = |other: &&ignored::Ignored| other.flag == Some(setting.flag);
            let known = ignored::ALL.iter().find(known).unwrap_or_else(|| panic!("{setting:?}"));
            assert_eq!(known.env, setting.env);
        }
        let given: BTreeSet<_> = SINGLE.iter().map(|(contract, _)| *contract).collect();
        assert_eq!(given, Contract::ALL.into_iter().collect());
    }
}
