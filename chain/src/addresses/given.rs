//! The values of a deployment file that may lack any of them: an operator may give the others by settings.

use std::collections::BTreeMap;

use alloy::primitives::Address;
use serde_json::{Map, Value};

/// The longest accepted file, in bytes. The reference implementation has the same bound;
/// the longest file in use has 2 kB.
pub const BYTES_MAX: usize = 10_240;

/// The keys whose values are addresses.
const ADDRESSES: [&str; 17] = [
    "appChainFactory",
    "appChainGateway",
    "appChainParameterRegistry",
    "deployer",
    "depositSplitter",
    "distributionManager",
    "feeToken",
    "groupMessageBroadcaster",
    "identityUpdateBroadcaster",
    "nodeRegistry",
    "payerRegistry",
    "payerReportManager",
    "rateRegistry",
    "settlementChainFactory",
    "settlementChainGateway",
    "settlementChainParameterRegistry",
    "underlyingFeeToken",
];
const APP_CHAIN_DEPLOYMENT_BLOCK: &str = "appChainDeploymentBlock";
const SETTLEMENT_CHAIN_DEPLOYMENT_BLOCK: &str = "settlementChainDeploymentBlock";

/// The known values of a deployment file, each checked. No address and no chain id is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenAddresses {
    addresses: BTreeMap<&'static str, Address>,
    numbers: BTreeMap<&'static str, u64>,
}

/// Error of parsing: the text is not a valid deployment file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressesParseError {
    /// The text has more than [`BYTES_MAX`] bytes.
    #[error("it has more than {BYTES_MAX} bytes")]
    TooLong,
    /// The text is empty.
    #[error("it is empty")]
    Empty,
    /// The text is not JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// The JSON value is not an object.
    #[error("it must be a JSON object")]
    NoObject,
    /// Required keys are missing.
    #[error("{} missing", named(.0))]
    Missing(Vec<&'static str>),
    /// A value is not an address, or is the zero address.
    #[error("`{key}` must be an address of 20 bytes in hex, and not zero; it is {given}")]
    Address {
        /// The key.
        key: &'static str,
        /// The value, shortened.
        given: String,
    },
    /// A value is not a valid chain id or block number.
    #[error("`{key}` must be a whole number{above}; it is {given}")]
    Number {
        /// The key.
        key: &'static str,
        /// The lower bound as text, if there is one.
        above: &'static str,
        /// The value, shortened.
        given: String,
    },
}

impl GivenAddresses {
    /// The key of the app chain's id.
    pub const APP_CHAIN_ID: &'static str = "appChainId";
    /// The key of the settlement chain's id.
    pub const SETTLEMENT_CHAIN_ID: &'static str = "settlementChainId";

    /// Parses the text of a deployment file, which may lack any key. Unknown keys are ignored.
    ///
    /// # Errors
    /// [`AddressesParseError`], with the key of the wrong value if there is one.
    pub fn parse(text: &str) -> Result<Self, AddressesParseError> {
        if text.len() > BYTES_MAX {
            return Err(AddressesParseError::TooLong);
        }
        if text.trim().is_empty() {
            return Err(AddressesParseError::Empty);
        }
        let value: Value = serde_json::from_str(text)
            .map_err(|error| AddressesParseError::Json(error.to_string()))?;
        let Value::Object(map) = value else { return Err(AddressesParseError::NoObject) };
        let mut given = Self::default();
        for key in ADDRESSES {
            given.addresses.extend(address(&map, key)?.map(|address| (key, address)));
        }
        for (key, above) in [
            (Self::APP_CHAIN_ID, Some(0)),
            (Self::SETTLEMENT_CHAIN_ID, Some(0)),
            (APP_CHAIN_DEPLOYMENT_BLOCK, None),
            (SETTLEMENT_CHAIN_DEPLOYMENT_BLOCK, None),
        ] {
            given.numbers.extend(number(&map, key, above)?.map(|number| (key, number)));
        }
        Ok(given)
    }

    /// Returns the address with this key of the file, if the file has it.
    #[must_use]
    pub fn address(&self, key: &str) -> Option<Address> {
        self.addresses.get(key).copied()
    }

    /// Returns the chain id or block with this key of the file, if the file has it.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.numbers.get(key).copied()
    }

    /// Returns the first block of the app chain that may contain events; 0 if the file lacks it.
    #[must_use]
    pub fn app_chain_deployment_block(&self) -> u64 {
        self.number(APP_CHAIN_DEPLOYMENT_BLOCK).unwrap_or(0)
    }

    /// Returns the first block of the settlement chain that may contain events; 0 if the file lacks it.
    #[must_use]
    pub fn settlement_chain_deployment_block(&self) -> u64 {
        self.number(SETTLEMENT_CHAIN_DEPLOYMENT_BLOCK).unwrap_or(0)
    }
}

fn address(
    map: &Map<String, Value>,
    key: &'static str,
) -> Result<Option<Address>, AddressesParseError> {
    let Some(value) = map.get(key) else { return Ok(None) };
    let parsed = value.as_str().and_then(|text| text.parse::<Address>().ok());
    let parsed = parsed.filter(|address| !address.is_zero());
    let wrong = || AddressesParseError::Address { key, given: shortened(value) };
    parsed.map(Some).ok_or_else(wrong)
}

/// Returns a number that is larger than `above`, if the file has the key.
fn number(
    map: &Map<String, Value>,
    key: &'static str,
    above: Option<u64>,
) -> Result<Option<u64>, AddressesParseError> {
    let Some(value) = map.get(key) else { return Ok(None) };
    let number = value.as_u64().filter(|number| above.is_none_or(|bound| *number > bound));
    let wrong = || AddressesParseError::Number {
        key,
        above: if above.is_some() { " above 0" } else { "" },
        given: shortened(value),
    };
    number.map(Some).ok_or_else(wrong)
}

/// Returns the missing keys with their verb.
fn named(keys: &[&str]) -> String {
    let verb = if keys.len() == 1 { "is" } else { "are" };
    format!("`{}` {verb}", keys.join("`, `"))
}

fn shortened(value: &Value) -> String {
    // A guess: a line of an error stays readable.
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

    #[test]
    fn a_file_may_lack_any_key_and_each_key_is_checked() {
        assert_eq!(GivenAddresses::parse("{}").unwrap(), GivenAddresses::default());
        let address = "0x1fe3B81F281872354f846930Da5D49263080eBB8";
        for key in ADDRESSES {
            let given = GivenAddresses::parse(&format!(r#"{{"{key}":"{address}"}}"#)).unwrap();
            assert_eq!(given.address(key), address.parse().ok(), "{key}");
            let error = GivenAddresses::parse(&format!(r#"{{"{key}":""}}"#)).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        let given = GivenAddresses::parse(r#"{"appChainId":7,"settlementChainDeploymentBlock":0}"#);
        let given = given.unwrap();
        assert_eq!(given.number(GivenAddresses::APP_CHAIN_ID), Some(7));
        assert_eq!(given.number(GivenAddresses::SETTLEMENT_CHAIN_ID), None);
        assert_eq!(given.number(SETTLEMENT_CHAIN_DEPLOYMENT_BLOCK), Some(0));
        assert_eq!(
            (given.app_chain_deployment_block(), given.settlement_chain_deployment_block()),
            (0, 0)
        );
    }
}
