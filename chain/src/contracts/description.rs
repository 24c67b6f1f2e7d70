//! Names and arguments of calls, events and errors, as text.

use std::fmt;

use alloy::dyn_abi::DynSolValue;
use alloy::json_abi::Param;

/// A call, an event or an error, by name and arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The name of the function, event or error: `addNode`.
    pub name: String,
    /// The arguments in the order of the declaration.
    pub arguments: Vec<Argument>,
}

/// One argument of a [`Description`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name in the ABI without its trailing underscore; empty if the ABI has no name for it.
    pub name: String,
    /// The Solidity type: `uint96`, `(uint32,bytes)[]`.
    pub kind: String,
    /// Numbers in decimal, bytes and addresses in hex, strings as they are.
    pub value: String,
    /// True if the value is a string, which is shown in quotes.
    pub is_text: bool,
}

impl Description {
    /// Joins a declaration with its values. `nested` describes bytes that are themselves an ABI-encoded error.
    pub(super) fn new(
        name: &str,
        params: &[Param],
        values: &[DynSolValue],
        nested: fn(&[u8]) -> Option<String>,
    ) -> Self {
        let argument = |(param, value): (&Param, &DynSolValue)| {
            let is_text = matches!(value, DynSolValue::String(_));
            Argument {
                name: param.name.trim_end_matches('_').to_owned(),
                kind: param.selector_type().into_owned(),
                value: match value {
                    DynSolValue::String(text) => text.clone(),
                    value => text(value, nested),
                },
                is_text,
            }
        };
        let arguments = params.iter().zip(values).map(argument).collect();
        Self { name: name.to_owned(), arguments }
    }

    /// Describes an error whose arguments do not decode: they are shown as one, in hex.
    pub(super) fn of_undecoded(name: &str, arguments: &[u8]) -> Self {
        let value = format!("0x{}", alloy::hex::encode(arguments));
        let kind = "bytes".to_owned();
        let argument = Argument { name: String::new(), kind, value, is_text: false };
        Self { name: name.to_owned(), arguments: vec![argument] }
    }
}

fn text(value: &DynSolValue, nested: fn(&[u8]) -> Option<String>) -> String {
    let list = |values: &[DynSolValue]| {
        values.iter().map(|value| text(value, nested)).collect::<Vec<_>>().join(", ")
    };
    match value {
        DynSolValue::Bool(value) => value.to_string(),
        DynSolValue::Int(value, _) => value.to_string(),
        DynSolValue::Uint(value, _) => value.to_string(),
        DynSolValue::FixedBytes(word, len) => format!("0x{}", alloy::hex::encode(&word[..*len])),
        DynSolValue::Address(address) => address.to_string(),
        DynSolValue::Function(function) => function.to_string(),
        DynSolValue::Bytes(bytes) => {
            let hex = format!("0x{}", alloy::hex::encode(bytes));
            nested(bytes).map_or(hex.clone(), |error| format!("{hex} ({error})"))
        }
        DynSolValue::String(text) => format!("{text:?}"),
        DynSolValue::Array(values) | DynSolValue::FixedArray(values) => {
            format!("[{}]", list(values))
        }
        DynSolValue::Tuple(values) => format!("({})", list(values)),
    }
}

/// `name(argument: value, …)`.
impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (index, argument) in self.arguments.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{argument}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            write!(f, "{}: ", self.name)?;
        }
        if self.is_text { write!(f, "{:?}", self.value) } else { f.write_str(&self.value) }
    }
}
