//! Deployment files (`chain.json`): the contract addresses of a network, the ids of its two chains, and the
//! block from which each chain is read. The keys are those of the environment files of the deployed networks,
//! so one file serves any node software.
//!
//! `{"appChainId":31338,"appChainDeploymentBlock":0,"groupMessageBroadcaster":"0x…", …}`

mod environments;
mod given;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use serde_json::Value;

pub use given::{AddressesParseError, BYTES_MAX, GivenAddresses};

/// The addresses of a deployment's contracts on both chains. No address and no chain id is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The chain id of the app chain.
    pub app_chain_id: u64,
    /// The first block of the app chain that may contain events.
    pub app_chain_deployment_block: u64,
    /// App chain: the broadcaster of group messages.
    pub group_message_broadcaster: Address,
    /// App chain: the broadcaster of identity updates.
    pub identity_update_broadcaster: Address,
    /// App chain: the gateway of the bridge.
    pub app_chain_gateway: Address,
    /// App chain: the parameter registry.
    pub app_chain_parameter_registry: Address,
    /// The chain id of the settlement chain.
    pub settlement_chain_id: u64,
    /// The first block of the settlement chain that may contain events.
    pub settlement_chain_deployment_block: u64,
    /// Settlement chain: the node registry.
    pub node_registry: Address,
    /// Settlement chain: the rate registry.
    pub rate_registry: Address,
    /// Settlement chain: the payer registry.
    pub payer_registry: Address,
    /// Settlement chain: the payer report manager.
    pub payer_report_manager: Address,
    /// Settlement chain: the distribution manager.
    pub distribution_manager: Address,
    /// Settlement chain: the gateway of the bridge.
    pub settlement_chain_gateway: Address,
    /// Settlement chain: the parameter registry.
    pub settlement_chain_parameter_registry: Address,
    /// Settlement chain: the token in which fees are paid.
    pub fee_token: Address,
    /// Settlement chain: the token that the fee token wraps.
    pub underlying_fee_token: Address,
    /// Settlement chain: the splitter of deposits that go to both chains.
    pub deposit_splitter: Option<Address>,
    /// App chain: the factory of the other contracts.
    pub app_chain_factory: Option<Address>,
    /// Settlement chain: the factory of the other contracts.
    pub settlement_chain_factory: Option<Address>,
    /// The account that deployed everything.
    pub deployer: Option<Address>,
}

/// Error of [`Addresses::read`] and [`GivenAddresses::fetch`].
#[derive(Debug, thiserror::Error)]
pub enum AddressesError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The URL cannot be fetched, or is not a URL.
    #[error("{url}: {reason}")]
    Fetch {
        /// Scheme, host and port.
        url: String,
        /// The cause.
        reason: String,
    },
    /// The content is not a valid deployment file.
    #[error("{path}: {source}")]
    Content {
        /// The file, or the scheme, host and port of the URL.
        path: PathBuf,
        /// The defect.
        source: AddressesParseError,
    },
}

impl Addresses {
    /// Reads a deployment file of at most [`BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`AddressesError`] with the file's path, and with the key of the wrong value or the missing keys.
    pub fn read(path: &Path) -> Result<Self, AddressesError> {
        let wrong = |source| AddressesError::Content { path: path.to_owned(), source };
        Self::of(&GivenAddresses::read(path)?).map_err(wrong)
    }

    /// Parses the text of a deployment file. Unknown keys are ignored; a missing deployment block is read as 0.
    ///
    /// # Errors
    /// [`AddressesParseError`], with the key of the wrong value or all missing keys.
    pub fn parse(text: &str) -> Result<Self, AddressesParseError> {
        Self::of(&GivenAddresses::parse(text)?)
    }

    /// Completes a file that may lack values. A missing deployment block is read as 0.
    ///
    /// # Errors
    /// [`AddressesParseError::Missing`] with all missing keys.
    pub fn of(given: &GivenAddresses) -> Result<Self, AddressesParseError> {
        let mut keys = RequiredKeys { given, missing: Vec::new() };
        let addresses = Self {
            app_chain_id: keys.chain_id(GivenAddresses::APP_CHAIN_ID),
            app_chain_deployment_block: given.app_chain_deployment_block(),
            group_message_broadcaster: keys.address("groupMessageBroadcaster"),
            identity_update_broadcaster: keys.address("identityUpdateBroadcaster"),
            app_chain_gateway: keys.address("appChainGateway"),
            app_chain_parameter_registry: keys.address("appChainParameterRegistry"),
            settlement_chain_id: keys.chain_id(GivenAddresses::SETTLEMENT_CHAIN_ID),
            settlement_chain_deployment_block: given.settlement_chain_deployment_block(),
            node_registry: keys.address("nodeRegistry"),
            rate_registry: keys.address("rateRegistry"),
            payer_registry: keys.address("payerRegistry"),
            payer_report_manager: keys.address("payerReportManager"),
            distribution_manager: keys.address("distributionManager"),
            settlement_chain_gateway: keys.address("settlementChainGateway"),
            settlement_chain_parameter_registry: keys.address("settlementChainParameterRegistry"),
            fee_token: keys.address("feeToken"),
            underlying_fee_token: keys.address("underlyingFeeToken"),
            deposit_splitter: given.address("depositSplitter"),
            app_chain_factory: given.address("appChainFactory"),
            settlement_chain_factory: given.address("settlementChainFactory"),
            deployer: given.address("deployer"),
        };
        if !keys.missing.is_empty() {
            return Err(AddressesParseError::Missing(keys.missing));
        }
        Ok(addresses)
    }

    /// Converts to JSON with the same keys and checksummed addresses.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let numbers = [
            ("appChainId", self.app_chain_id),
            ("appChainDeploymentBlock", self.app_chain_deployment_block),
            ("settlementChainId", self.settlement_chain_id),
            ("settlementChainDeploymentBlock", self.settlement_chain_deployment_block),
        ];
        let addresses = [
            ("appChainFactory", self.app_chain_factory),
            ("appChainGateway", Some(self.app_chain_gateway)),
            ("appChainParameterRegistry", Some(self.app_chain_parameter_registry)),
            ("deployer", self.deployer),
            ("depositSplitter", self.deposit_splitter),
            ("distributionManager", Some(self.distribution_manager)),
            ("feeToken", Some(self.fee_token)),
            ("groupMessageBroadcaster", Some(self.group_message_broadcaster)),
            ("identityUpdateBroadcaster", Some(self.identity_update_broadcaster)),
            ("nodeRegistry", Some(self.node_registry)),
            ("payerRegistry", Some(self.payer_registry)),
            ("payerReportManager", Some(self.payer_report_manager)),
            ("rateRegistry", Some(self.rate_registry)),
            ("settlementChainFactory", self.settlement_chain_factory),
            ("settlementChainGateway", Some(self.settlement_chain_gateway)),
            ("settlementChainParameterRegistry", Some(self.settlement_chain_parameter_registry)),
            ("underlyingFeeToken", Some(self.underlying_fee_token)),
        ];
        let numbers = numbers.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value)));
        let addresses = addresses
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), Value::from(value?.to_string()))));
        Value::Object(numbers.chain(addresses).collect())
    }
}

/// Reads required keys and notes those that are missing.
struct RequiredKeys<'a> {
    given: &'a GivenAddresses,
    missing: Vec<&'static str>,
}

impl RequiredKeys<'_> {
    /// Returns an address; zero if the key is missing.
    fn address(&mut self, key: &'static str) -> Address {
        self.noted(key, self.given.address(key)).unwrap_or_default()
    }

    /// Returns a chain id; zero if the key is missing.
    fn chain_id(&mut self, key: &'static str) -> u64 {
        self.noted(key, self.given.number(key)).unwrap_or_default()
    }

    fn noted<T>(&mut self, key: &'static str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.missing.push(key);
        }
        value
    }
}

impl GivenAddresses {
    /// Reads a deployment file of at most [`BYTES_MAX`] bytes, which may lack any key.
    ///
    /// # Errors
    /// [`AddressesError`] with the file's path, and with the key of the wrong value if there is one.
    pub fn read(path: &Path) -> Result<Self, AddressesError> {
        let failed = |source| AddressesError::Read { path: path.to_owned(), source };
        let wrong = |source| AddressesError::Content { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let bound = BYTES_MAX as u64 + 1;
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(bound).read_to_end(&mut bytes).map_err(failed)?;
        let text = String::from_utf8(bytes)
            .map_err(|error| wrong(AddressesParseError::Json(error.to_string())))?;
        Self::parse(&text).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn environments() -> Map<String, Value> {
        let text = include_str!("../../tests/vectors/contracts/environments.json");
        let vectors: Value = serde_json::from_str(text).unwrap();
        vectors["environments"].as_object().unwrap().clone()
    }

    fn mainnet() -> Value {
        environments()["mainnet"]["node"].clone()
    }

    fn error_of(change: impl FnOnce(&mut Map<String, Value>)) -> String {
        let mut file = mainnet();
        change(file.as_object_mut().unwrap());
        Addresses::parse(&file.to_string()).unwrap_err().to_string()
    }

    #[test]
    fn the_files_of_the_deployed_networks_read_and_write_back_the_same() {
        for (name, environment) in environments() {
            let file = &environment["node"];
            let addresses = Addresses::parse(&file.to_string()).unwrap();
            assert_eq!(&addresses.to_json(), file, "{name}");
        }
    }

    #[test]
    fn unknown_keys_are_ignored() {
        let mut file = mainnet();
        file["somethingNew"] = serde_json::json!({ "a": [1] });
        file["payerRegistry"] = "d1c78dee5d58eccf1cf1caabbfc9837215f1b82b".into();
        let addresses = Addresses::parse(&file.to_string()).unwrap();
        assert_eq!(addresses, Addresses::parse(&mainnet().to_string()).unwrap());
    }

    #[test]
    fn blocks_and_unread_contracts_may_be_missing() {
        let mut file = mainnet();
        for key in ["deployer", "depositSplitter", "appChainFactory", "appChainDeploymentBlock"] {
            file.as_object_mut().unwrap().remove(key);
        }
        let addresses = Addresses::parse(&file.to_string()).unwrap();
        assert_eq!(addresses.deployer, None);
        assert_eq!(addresses.app_chain_deployment_block, 0);
    }

    #[test]
    fn an_error_names_its_key() {
        let missing = error_of(|file| drop(file.remove("nodeRegistry")));
        assert_eq!(missing, "`nodeRegistry` is missing");
        let missing = error_of(|file| {
            file.retain(|key, _| !["rateRegistry", "appChainId", "deployer"].contains(&&**key));
        });
        assert_eq!(missing, "`appChainId`, `rateRegistry` are missing");
        for wrong in [
            Value::Null,
            5.into(),
            "0x12".into(),
            "0x".into(),
            format!("{:#x}", Address::ZERO).into(),
        ] {
            let given = wrong.to_string();
            let text = error_of(|file| drop(file.insert("feeToken".into(), wrong)));
            assert!(text.starts_with("`feeToken` must be an address"), "{text}");
            assert!(text.ends_with(&given), "{text}");
        }
        let wrong = error_of(|file| drop(file.insert("deployer".into(), "me".into())));
        assert!(wrong.contains("`deployer`"), "{wrong}");
        for wrong in [Value::from(0), (-1).into(), "8453".into(), 1.5.into()] {
            let text = error_of(|file| drop(file.insert("appChainId".into(), wrong)));
            assert!(text.starts_with("`appChainId` must be a whole number above 0"), "{text}");
        }
        let text = error_of(|file| {
            drop(file.insert("settlementChainDeploymentBlock".into(), "x".repeat(500).into()))
        });
        assert!(text.starts_with("`settlementChainDeploymentBlock`") && text.len() < 200, "{text}");
    }

    #[test]
    fn a_text_that_is_no_object_is_refused() {
        assert_eq!(Addresses::parse("[]"), Err(AddressesParseError::NoObject));
        assert!(matches!(Addresses::parse("{"), Err(AddressesParseError::Json(_))));
        assert_eq!(Addresses::parse("\n"), Err(AddressesParseError::Empty));
        assert_eq!(Addresses::parse(&" ".repeat(BYTES_MAX + 1)), Err(AddressesParseError::TooLong));
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chain.json");
        let missing = Addresses::read(&path).unwrap_err();
        assert!(matches!(missing, AddressesError::Read { .. }));
        std::fs::write(&path, mainnet().to_string()).unwrap();
        assert_eq!(Addresses::read(&path).unwrap().settlement_chain_id, 8453);
        std::fs::write(&path, " ".repeat(1_000_000)).unwrap();
        let long = Addresses::read(&path).unwrap_err();
        assert!(long.to_string().contains("chain.json: it has more than"), "{long}");
    }
}
