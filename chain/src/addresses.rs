//! `chain.json`: which contracts there are, on which chains, and where reading begins. The keys
//! are those of the environment files of the deployed networks, so that one file serves any node
//! software.
//!
//! `{"appChainId":31338,"appChainDeploymentBlock":0,"groupMessageBroadcaster":"0x…", …}`

mod environments;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use serde_json::{Map, Value};

/// Longer files are refused: the longest in use has 2 kB.
pub const BYTES_MAX: usize = 10_000;

/// A deployment: the contracts of both chains. Addresses are never zero, chain ids neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The app chain's id.
    pub app_chain_id: u64,
    /// The app chain's first block with something to read.
    pub app_chain_deployment_block: u64,
    /// App chain: group messages.
    pub group_message_broadcaster: Address,
    /// App chain: identity updates.
    pub identity_update_broadcaster: Address,
    /// App chain: the end of the bridge.
    pub app_chain_gateway: Address,
    /// App chain: parameters.
    pub app_chain_parameter_registry: Address,
    /// The settlement chain's id.
    pub settlement_chain_id: u64,
    /// The settlement chain's first block with something to read.
    pub settlement_chain_deployment_block: u64,
    /// Settlement chain: the nodes.
    pub node_registry: Address,
    /// Settlement chain: the prices.
    pub rate_registry: Address,
    /// Settlement chain: the payers' balances.
    pub payer_registry: Address,
    /// Settlement chain: the payer reports.
    pub payer_report_manager: Address,
    /// Settlement chain: the nodes' and the protocol's shares.
    pub distribution_manager: Address,
    /// Settlement chain: the beginning of the bridge.
    pub settlement_chain_gateway: Address,
    /// Settlement chain: parameters.
    pub settlement_chain_parameter_registry: Address,
    /// Settlement chain: the token that fees are paid in.
    pub fee_token: Address,
    /// Settlement chain: the token that it wraps.
    pub underlying_fee_token: Address,
    /// Settlement chain: deposits that go to both chains at once.
    pub deposit_splitter: Option<Address>,
    /// App chain: what has deployed the rest.
    pub app_chain_factory: Option<Address>,
    /// Settlement chain: what has deployed the rest.
    pub settlement_chain_factory: Option<Address>,
    /// The account that has deployed everything.
    pub deployer: Option<Address>,
}

/// Why a text is no deployment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressesParseError {
    /// Too long to be one.
    #[error("it has more than {BYTES_MAX} bytes")]
    TooLong,
    /// No JSON.
    #[error("it is no JSON: {0}")]
    Json(String),
    /// Something else than an object.
    #[error("it must be a JSON object")]
    NoObject,
    /// A key that is needed is not there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A contract at no address.
    #[error("`{key}` must be an address of 20 bytes in hex, and not zero; it is {given}")]
    Address {
        /// Which key.
        key: &'static str,
        /// Its value, shortened.
        given: String,
    },
    /// Not a number of a chain or of a block.
    #[error("`{key}` must be a whole number{above}; it is {given}")]
    Number {
        /// Which key.
        key: &'static str,
        /// A bound, if there is one.
        above: &'static str,
        /// Its value, shortened.
        given: String,
    },
}

/// Why a deployment could not be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum AddressesError {
    /// The system does not give it.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nobody gives it.
    #[error("{url}: {reason}")]
    Fetch {
        /// Host and port.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// It holds something else.
    #[error("{path}: {fault}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        fault: AddressesParseError,
    },
}

impl Addresses {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the file, and the key if it is about one.
    pub fn read(path: &Path) -> Result<Self, AddressesError> {
        let failed = |source| AddressesError::Read { path: path.to_owned(), source };
        let wrong = |fault| AddressesError::Content { path: path.to_owned(), fault };
        let mut bytes = Vec::new();
        let bound = BYTES_MAX as u64 + 1;
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(bound).read_to_end(&mut bytes).map_err(failed)?;
        let text = String::from_utf8(bytes)
            .map_err(|error| wrong(AddressesParseError::Json(error.to_string())))?;
        Self::parse(&text).map_err(wrong)
    }

    /// Reads the text of a file. Keys that are not known are left out.
    ///
    /// # Errors
    /// Names the key that it is about.
    pub fn parse(text: &str) -> Result<Self, AddressesParseError> {
        if text.len() > BYTES_MAX {
            return Err(AddressesParseError::TooLong);
        }
        let value: Value = serde_json::from_str(text)
            .map_err(|error| AddressesParseError::Json(error.to_string()))?;
        let Value::Object(map) = value else { return Err(AddressesParseError::NoObject) };
        Self::from_keys(&Keys(map))
    }

    fn from_keys(keys: &Keys) -> Result<Self, AddressesParseError> {
        Ok(Self {
            app_chain_id: keys.chain_id("appChainId")?,
            app_chain_deployment_block: keys.block("appChainDeploymentBlock")?,
            group_message_broadcaster: keys.address("groupMessageBroadcaster")?,
            identity_update_broadcaster: keys.address("identityUpdateBroadcaster")?,
            app_chain_gateway: keys.address("appChainGateway")?,
            app_chain_parameter_registry: keys.address("appChainParameterRegistry")?,
            settlement_chain_id: keys.chain_id("settlementChainId")?,
            settlement_chain_deployment_block: keys.block("settlementChainDeploymentBlock")?,
            node_registry: keys.address("nodeRegistry")?,
            rate_registry: keys.address("rateRegistry")?,
            payer_registry: keys.address("payerRegistry")?,
            payer_report_manager: keys.address("payerReportManager")?,
            distribution_manager: keys.address("distributionManager")?,
            settlement_chain_gateway: keys.address("settlementChainGateway")?,
            settlement_chain_parameter_registry: keys
                .address("settlementChainParameterRegistry")?,
            fee_token: keys.address("feeToken")?,
            underlying_fee_token: keys.address("underlyingFeeToken")?,
            deposit_splitter: keys.optional("depositSplitter")?,
            app_chain_factory: keys.optional("appChainFactory")?,
            settlement_chain_factory: keys.optional("settlementChainFactory")?,
            deployer: keys.optional("deployer")?,
        })
    }

    /// The deployment as JSON: the same keys, checksummed addresses.
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

/// The file's content, by key.
struct Keys(Map<String, Value>);

impl Keys {
    fn get(&self, key: &'static str) -> Result<&Value, AddressesParseError> {
        self.0.get(key).ok_or(AddressesParseError::Missing(key))
    }

    fn address(&self, key: &'static str) -> Result<Address, AddressesParseError> {
        self.get(key).and_then(|value| address(key, value))
    }

    fn optional(&self, key: &'static str) -> Result<Option<Address>, AddressesParseError> {
        self.0.get(key).map(|value| address(key, value)).transpose()
    }

    fn chain_id(&self, key: &'static str) -> Result<u64, AddressesParseError> {
        let value = self.get(key)?;
        value.as_u64().filter(|id| *id > 0).ok_or_else(|| AddressesParseError::Number {
            key,
            above: " above 0",
            given: shortened(value),
        })
    }

    /// Without the key, reading begins with the first block.
    fn block(&self, key: &'static str) -> Result<u64, AddressesParseError> {
        let Some(value) = self.0.get(key) else { return Ok(0) };
        value.as_u64().ok_or_else(|| AddressesParseError::Number {
            key,
            above: "",
            given: shortened(value),
        })
    }
}

fn address(key: &'static str, value: &Value) -> Result<Address, AddressesParseError> {
    let parsed = value.as_str().and_then(|text| text.parse::<Address>().ok());
    parsed
        .filter(|address| !address.is_zero())
        .ok_or_else(|| AddressesParseError::Address { key, given: shortened(value) })
}

fn shortened(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environments() -> Map<String, Value> {
        let text = include_str!("../../tests/vectors/contracts/environments.json");
        let vectors: Value = serde_json::from_str(text).unwrap();
        vectors["environments"].as_object().unwrap().clone()
    }

    fn mainnet() -> Value {
        environments()["mainnet"]["node"].clone()
    }

    fn fault_of(change: impl FnOnce(&mut Map<String, Value>)) -> String {
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
    fn keys_that_are_not_known_are_left_out() {
        let mut file = mainnet();
        file["somethingNew"] = serde_json::json!({ "a": [1] });
        file["payerRegistry"] = "d1c78dee5d58eccf1cf1caabbfc9837215f1b82b".into();
        let addresses = Addresses::parse(&file.to_string()).unwrap();
        assert_eq!(addresses, Addresses::parse(&mainnet().to_string()).unwrap());
    }

    #[test]
    fn blocks_and_what_no_node_reads_may_be_missing() {
        let mut file = mainnet();
        for key in ["deployer", "depositSplitter", "appChainFactory", "appChainDeploymentBlock"] {
            file.as_object_mut().unwrap().remove(key);
        }
        let addresses = Addresses::parse(&file.to_string()).unwrap();
        assert_eq!(addresses.deployer, None);
        assert_eq!(addresses.app_chain_deployment_block, 0);
    }

    #[test]
    fn a_fault_names_its_key() {
        let missing = fault_of(|file| drop(file.remove("nodeRegistry")));
        assert_eq!(missing, "`nodeRegistry` is missing");
        for wrong in [
            Value::Null,
            5.into(),
            "0x12".into(),
            "0x".into(),
            format!("{:#x}", Address::ZERO).into(),
        ] {
            let given = wrong.to_string();
            let text = fault_of(|file| drop(file.insert("feeToken".into(), wrong)));
            assert!(text.starts_with("`feeToken` must be an address"), "{text}");
            assert!(text.ends_with(&given), "{text}");
        }
        let wrong = fault_of(|file| drop(file.insert("deployer".into(), "me".into())));
        assert!(wrong.contains("`deployer`"), "{wrong}");
        for wrong in [Value::from(0), (-1).into(), "8453".into(), 1.5.into()] {
            let text = fault_of(|file| drop(file.insert("appChainId".into(), wrong)));
            assert!(text.starts_with("`appChainId` must be a whole number above 0"), "{text}");
        }
        let text = fault_of(|file| {
            drop(file.insert("settlementChainDeploymentBlock".into(), "x".repeat(500).into()))
        });
        assert!(text.starts_with("`settlementChainDeploymentBlock`") && text.len() < 200, "{text}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert_eq!(Addresses::parse("[]"), Err(AddressesParseError::NoObject));
        assert!(matches!(Addresses::parse("{"), Err(AddressesParseError::Json(_))));
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
