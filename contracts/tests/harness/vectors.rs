//! The golden data of the contracts.

use std::str::FromStr;

use alloy::primitives::Bytes;
use serde_json::Value;

/// A file of golden data.
pub(crate) fn vectors(name: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/contracts");
    let text = std::fs::read_to_string(format!("{folder}/{name}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The entries of a list.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("{key} is a list"))
}

/// Parses a field that is text or a number.
pub(crate) fn field<T: FromStr>(value: &Value, key: &str) -> T {
    scalar(&value[key])
}

/// Parses text or a number.
pub(crate) fn scalar<T: FromStr>(value: &Value) -> T {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().ok().unwrap_or_else(|| panic!("{text} can be read"))
}

/// Parses the entries of a list.
pub(crate) fn scalars<T: FromStr>(value: &Value, key: &str) -> Vec<T> {
    list(value, key).iter().map(scalar).collect()
}

/// The entries of a list of hex texts.
pub(crate) fn byte_strings(value: &Value, key: &str) -> Vec<Bytes> {
    scalars(value, key)
}
