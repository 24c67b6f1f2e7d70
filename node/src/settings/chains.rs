//! Typed settings of chains and contracts.

use std::time::Duration;

use alloy::primitives::Address;
use hawser_chain::addresses::Addresses;
use hawser_chain::admin::Contracts;

use super::error::SettingsError;
use super::reader::SettingsReader;
use super::sources::SettingSources;
use super::table::{Setting, chains as table};

/// Access to both chains and their contracts. Nothing has been requested with it yet.
#[derive(Debug)]
pub struct ContractSettings {
    /// The settlement chain.
    pub settlement: ChainAccessSettings,
    /// The app chain.
    pub app: ChainAccessSettings,
    /// Source of all addresses.
    pub source: Option<AddressSource>,
    /// Individually configured addresses, which take precedence over the source.
    pub single: Contracts,
}

/// Access to one chain.
#[derive(Debug)]
pub struct ChainAccessSettings {
    /// RPC URLs in order of preference; may be empty.
    pub urls: Vec<String>,
    /// The chain id, if it is configured.
    pub id: Option<u64>,
}

/// Source of the addresses of all contracts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressSource {
    /// A path, or a URL of the schemes `file`, `http`, `https` and `config`.
    Place(String),
    /// The file's content.
    Text(String),
    /// A network whose file is built in: a deployed one, or the reference implementation's local chain.
    Environment(String),
}

/// Settings of the chains that a node or a gateway reads.
#[derive(Debug)]
pub struct ChainSettings {
    /// Access to chains and contracts. Either chain may be without a URL.
    pub contracts: ContractSettings,
    /// The settings for reading the app chain.
    pub app: ChainReadSettings,
    /// The settings for reading the settlement chain.
    pub settlement: ChainReadSettings,
    /// The interval between two reads of the node registry.
    pub nodes_refresh: Duration,
    /// The interval between two reads of the rates.
    pub rates_refresh: Duration,
}

/// Settings for reading one chain.
#[derive(Debug)]
pub struct ChainReadSettings {
    /// WebSocket URLs for new blocks, in order of preference.
    pub push_urls: Vec<String>,
    /// The time without the chain after which nothing is published.
    pub disconnect_max: Duration,
    /// The number of blocks in one query for events.
    pub page_blocks: u64,
    /// The first block that is read, if it is configured.
    pub first_block: Option<u64>,
    /// The number of blocks that must follow a block before its events are read.
    pub confirmations: u64,
}

/// The settings from which the [`ChainReadSettings`] of one chain are read.
struct ChainReadNames {
    push: &'static Setting,
    disconnect: &'static Setting,
    page: &'static Setting,
    first_block: &'static Setting,
    confirmations: &'static Setting,
}

/// The schemes of the endpoints of a chain.
const RPC_SCHEMES: [&str; 2] = ["http", "https"];
/// The schemes of WebSockets for new blocks.
const PUSH_SCHEMES: [&str; 2] = ["ws", "wss"];

const APP: ChainReadNames = ChainReadNames {
    push: &table::APP_PUSH,
    disconnect: &table::APP_DISCONNECT,
    page: &table::APP_PAGE,
    first_block: &table::APP_FIRST_BLOCK,
    confirmations: &table::APP_CONFIRMATIONS,
};
const SETTLEMENT: ChainReadNames = ChainReadNames {
    push: &table::SETTLEMENT_PUSH,
    disconnect: &table::SETTLEMENT_DISCONNECT,
    page: &table::SETTLEMENT_PAGE,
    first_block: &table::SETTLEMENT_FIRST_BLOCK,
    confirmations: &table::SETTLEMENT_CONFIRMATIONS,
};

impl ContractSettings {
    /// Reads and checks the settings of chains and contracts.
    ///
    /// # Errors
    /// [`SettingsError`] with all errors. A missing URL of the settlement chain is an error.
    pub fn read(sources: &SettingSources) -> Result<Self, SettingsError> {
        let mut reader = SettingsReader::new(sources);
        let settings = reader.contracts();
        if settings.settlement.urls.is_empty() {
            reader.error(&table::SETTLEMENT_RPC, None);
        }
        reader.finish(|| settings)
    }

    /// Reads the settings like [`read`](Self::read), for a command that reads the app chain alone.
    ///
    /// # Errors
    /// [`SettingsError`] with all errors. A missing URL of the app chain is an error, and not one of the other chain.
    pub fn read_for_app_chain(sources: &SettingSources) -> Result<Self, SettingsError> {
        let mut reader = SettingsReader::new(sources);
        let settings = reader.contracts();
        if settings.app.urls.is_empty() {
            reader.error(&table::APP_RPC, None);
        }
        reader.finish(|| settings)
    }

    /// Returns true if the addresses of contracts are in a file of the web.
    #[must_use]
    pub fn is_read_from_the_web(&self) -> bool {
        let of_web =
            |place: &String| ["http://", "https://"].iter().any(|it| place.starts_with(it));
        matches!(&self.source, Some(AddressSource::Place(place)) if of_web(place))
    }
}

impl SettingsReader<'_> {
    /// Reads the settings of the chains that a node or a gateway reads.
    pub(super) fn chains(&mut self) -> Option<ChainSettings> {
        let contracts = self.contracts();
        let (app, settlement) = (self.chain_reading(&APP), self.chain_reading(&SETTLEMENT));
        let nodes_refresh = self.duration_above_zero(&table::NODES_REFRESH);
        let rates_refresh = self.duration_above_zero(&table::RATES_REFRESH);
        Some(ChainSettings {
            contracts,
            app: app?,
            settlement: settlement?,
            nodes_refresh: nodes_refresh?,
            rates_refresh: rates_refresh?,
        })
    }

    fn contracts(&mut self) -> ContractSettings {
        ContractSettings {
            settlement: self.chain_access(&table::SETTLEMENT_RPC, &table::SETTLEMENT_ID),
            app: self.chain_access(&table::APP_RPC, &table::APP_ID),
            source: self.address_source(),
            single: self.single_addresses(),
        }
    }

    fn chain_reading(&mut self, names: &ChainReadNames) -> Option<ChainReadSettings> {
        let number = |text: &str| text.parse::<u64>().ok();
        let push_urls = self.urls(names.push, PUSH_SCHEMES);
        let disconnect_max = self.duration_above_zero(names.disconnect);
        let page_blocks = self.get(names.page, |text| number(text).filter(|size| *size > 0));
        let first_block = match self.non_empty(names.first_block) {
            Some(_) => self.get(names.first_block, number).filter(|block| *block > 0),
            None => None,
        };
        let confirmations = self.get(names.confirmations, number);
        Some(ChainReadSettings {
            push_urls,
            disconnect_max: disconnect_max?,
            page_blocks: page_blocks?,
            first_block,
            confirmations: confirmations?,
        })
    }

    /// Reads URLs of these schemes. A URL of another scheme would be dialled for ever, or never be used.
    fn urls(&mut self, setting: &Setting, schemes: [&str; 2]) -> Vec<String> {
        let text = self.non_empty(setting).unwrap_or_default();
        let urls = text.split(',').map(str::trim).filter(|url| !url.is_empty());
        let urls: Vec<_> = urls.map(str::to_owned).collect();
        let is_of_schemes = |url: &String| {
            let url = reqwest::Url::parse(url);
            url.is_ok_and(|url| schemes.contains(&url.scheme()) && url.has_host())
        };
        if !self.refuses_spaces(setting, &text) && !urls.iter().all(is_of_schemes) {
            self.wrong(setting, &text);
        }
        urls
    }

    fn chain_access(&mut self, urls: &Setting, id: &Setting) -> ChainAccessSettings {
        let urls = self.urls(urls, RPC_SCHEMES);
        let id = self.non_empty(id).and_then(|text| {
            let number = text.parse::<u64>().ok();
            if number.is_none() {
                self.wrong(id, &text);
            }
            number.filter(|id| ![0, table::UNSET_CHAIN_ID].contains(id))
        });
        ChainAccessSettings { urls, id }
    }

    fn address_source(&mut self) -> Option<AddressSource> {
        let ways = [
            self.non_empty(&table::FILE).map(AddressSource::Place),
            self.non_empty(&table::TEXT).map(AddressSource::Text),
            self.non_empty(&table::ENVIRONMENT).map(AddressSource::Environment),
        ];
        let mut given = ways.into_iter().flatten();
        let first = given.next();
        if given.next().is_some() {
            let names = format!(
                "more than one of --{}, --{}, --{}",
                table::FILE.flag,
                table::TEXT.flag,
                table::ENVIRONMENT.flag
            );
            self.error(&table::FILE, Some(names));
        }
        if let Some(AddressSource::Environment(name)) = &first
            && !Addresses::ENVIRONMENTS.contains(&name.as_str())
        {
            self.wrong(&table::ENVIRONMENT, name);
        }
        first
    }

    fn single_addresses(&mut self) -> Contracts {
        let mut contracts = Contracts::default();
        for (contract, setting) in &table::SINGLE {
            let Some(text) = self.non_empty(setting) else { continue };
            match text.parse::<Address>().ok().filter(|address| !address.is_zero()) {
                Some(address) => contracts.set(*contract, address),
                None => self.wrong(setting, &text),
            }
        }
        contracts
    }
}

#[cfg(test)]
mod tests {
    use hawser_chain::admin::Contract;

    use super::super::table::chains::EXAMPLE_ADDRESS;
    use super::*;

    fn read(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<ContractSettings, String> {
        let owned = |pairs: &[(&str, &str)]| -> Vec<_> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let given = SettingSources::new(owned(flags), owned(env));
        ContractSettings::read(&given).map_err(|error| error.to_string())
    }

    #[test]
    fn urls_are_a_list_and_default_ids_count_as_none() {
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
        assert_eq!(config.source, Some(AddressSource::Environment("testnet".into())));
        let flags = [("contracts.settlement-chain.rpc-url", "http://c")];
        assert_eq!(read(&flags, &env).unwrap().settlement.urls, ["http://c"]);
    }

    #[test]
    fn every_built_in_network_is_known_and_another_name_is_refused_with_their_list() {
        let url = ("contracts.settlement-chain.rpc-url", "http://a");
        for name in Addresses::ENVIRONMENTS {
            let config = read(&[url, ("contracts.environment", name)], &[]).unwrap();
            assert_eq!(config.source, Some(AddressSource::Environment(name.to_owned())));
        }
        let text = read(&[url], &[("XMTPD_CONTRACTS_ENVIRONMENT", "moon")]).unwrap_err();
        for part in ["1 fault", "moon"].into_iter().chain(Addresses::ENVIRONMENTS) {
            assert!(text.contains(part), "{part} is not in {text}");
        }
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
    fn all_errors_are_told_at_once() {
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
}
