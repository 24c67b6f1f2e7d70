//! The parameters of a request.

use std::fmt;

use alloy::primitives::U256;
use alloy::rpc::types::{Filter, Topic};
use serde::de::{DeserializeOwned, Error, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::error::{RpcError, invalid};

/// Positional parameters. Named parameters are treated as one object.
#[derive(Debug)]
pub(in crate::embedded) struct Args<'a>(Vec<&'a RawValue>);

impl<'a> Args<'a> {
    /// Parses the `params` member.
    pub(in crate::embedded) fn parse(params: Option<&'a str>) -> Result<Self, RpcError> {
        let params = params.unwrap_or("[]").trim();
        let parsed = if params.starts_with('{') {
            serde_json::from_str(params).map(|object| vec![object])
        } else {
            serde_json::from_str::<Option<_>>(params).map(Option::unwrap_or_default)
        };
        parsed.map(Self).map_err(|error| invalid(format!("parameters are no list: {error}")))
    }

    /// Returns the required parameter at a position.
    pub(in crate::embedded) fn get<T: DeserializeOwned>(&self, at: usize) -> Result<T, RpcError> {
        let missing = || invalid(format!("missing value for required argument {at}"));
        self.optional(at)?.ok_or_else(missing)
    }

    /// Returns the parameter at a position; `None` if it is absent or null.
    pub(in crate::embedded) fn optional<T: DeserializeOwned>(
        &self,
        at: usize,
    ) -> Result<Option<T>, RpcError> {
        let Some(value) = self.0.get(at) else { return Ok(None) };
        let wrong = |error| invalid(format!("invalid argument {at}: {error}"));
        serde_json::from_str(value.get()).map_err(wrong)
    }
}

/// The members of a log filter. Other members are ignored, as in go-ethereum.
const FILTER_FIELDS: [&str; 5] = ["address", "blockHash", "fromBlock", "toBlock", "topics"];
/// The largest number of addresses of a log filter, and of topics at each position: go-ethereum's default. A bound is
/// needed because each block is compared with all of them while the chain is locked, and each open filter keeps them.
const ALTERNATIVES_MAX: usize = 1000;

impl Args<'_> {
    /// Returns the log filter at a position.
    pub(in crate::embedded) fn filter(&self, at: usize) -> Result<Option<Filter>, RpcError> {
        let Some(mut fields) = self.optional::<Map<String, Value>>(at)? else { return Ok(None) };
        fields.retain(|name, _| FILTER_FIELDS.contains(&name.as_str()));
        let filter: Filter = serde_json::from_value(Value::Object(fields))
            .map_err(|error| invalid(format!("invalid argument {at}: {error}")))?;
        let is_too_long = |topic: &Topic| topic.len() > ALTERNATIVES_MAX;
        if filter.address.len() > ALTERNATIVES_MAX || filter.topics.iter().any(is_too_long) {
            let reason =
                format!("more than {ALTERNATIVES_MAX} addresses or topics at one position");
            return Err(invalid(format!("invalid argument {at}: {reason}")));
        }
        Ok(Some(filter))
    }
}

/// An integer as clients write it: a JSON number, or a string of hex or decimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RpcNumber(pub(super) u64);

impl<'de> Deserialize<'de> for RpcNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;

        impl Visitor<'_> for Digits {
            type Value = RpcNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number below 2^64")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<RpcNumber, E> {
                Ok(RpcNumber(number))
            }

            fn visit_str<E: Error>(self, digits: &str) -> Result<RpcNumber, E> {
                let number: U256 = digits.parse().map_err(E::custom)?;
                u64::try_from(number).map(RpcNumber).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_by_position_by_name_or_not_at_all() {
        let args = Args::parse(Some(r#" [1, null, "x"] "#)).unwrap();
        assert_eq!((args.0.len(), args.get::<u8>(0).unwrap()), (3, 1));
        assert_eq!(args.optional::<u8>(1).unwrap(), None);
        assert_eq!(args.get::<u8>(2).unwrap_err().code, -32602);
        assert_eq!(args.get::<u8>(3).unwrap_err().message, "missing value for required argument 3");
        assert_eq!(Args::parse(Some(r#"{"depth": 3}"#)).unwrap().0.len(), 1);
        assert_eq!(Args::parse(None).unwrap().0.len(), 0);
        assert_eq!(Args::parse(Some("null")).unwrap().0.len(), 0);
        assert!(Args::parse(Some("7")).is_err());
    }

    #[test]
    fn numbers_are_taken_as_clients_write_them() {
        for (text, number) in [("7", 7), (r#""7""#, 7), (r#""0x10""#, 16), (r#""0x0010""#, 16)] {
            assert_eq!(
                serde_json::from_str::<RpcNumber>(text).unwrap(),
                RpcNumber(number),
                "{text}"
            );
        }
        for text in ["-1", "1.5", r#""x""#, r#""0x10000000000000000""#, "[]", "null"] {
            assert!(serde_json::from_str::<RpcNumber>(text).is_err(), "{text}");
        }
    }
}
