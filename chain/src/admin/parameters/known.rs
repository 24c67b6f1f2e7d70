//! Declarations of all parameters that contracts read: the name, the accepted values, and the function by which
//! the contract adopts the value.

use alloy::primitives::{Address, B256, Bytes, U256};

use super::super::Contract;
use super::call_data;

/// A parameter that a contract reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// The name.
    pub key: String,
    /// The accepted values.
    pub kind: ParameterKind,
    /// The contract that reads it.
    pub reader: Contract,
    /// The function by which the contract adopts the value, if it has one.
    pub(super) update: Option<&'static str>,
    getter: Option<&'static str>,
    argument: Option<U256>,
}

/// The accepted values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// An account or a contract.
    Address {
        /// True if the contract refuses zero.
        required: bool,
    },
    /// True or false.
    Flag,
    /// A whole number.
    Number {
        /// The smallest accepted value.
        least: u128,
        /// The largest accepted value.
        most: u128,
    },
    /// An admin flag: every value other than zero means true.
    Admin,
}

impl ParameterKind {
    pub(super) fn read(self, text: &str) -> Option<B256> {
        let word = match self {
            Self::Address { .. } => address_of(text)?.into_word(),
            Self::Flag | Self::Admin => match text {
                "true" => U256::ONE.into(),
                "false" => B256::ZERO,
                _ => return None,
            },
            Self::Number { .. } => {
                let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                is_number.then(|| text.parse::<u128>().ok()).flatten().map(U256::from)?.into()
            }
        };
        self.takes(word).then_some(word)
    }

    pub(super) fn takes(self, word: B256) -> bool {
        let number = U256::from_be_bytes(word.0);
        match self {
            Self::Address { required } => {
                number.bit_len() <= 160 && !(required && number.is_zero())
            }
            Self::Flag => number <= U256::ONE,
            Self::Number { least, most } => {
                number >= U256::from(least) && number <= U256::from(most)
            }
            Self::Admin => true,
        }
    }

    pub(super) fn expected(self) -> String {
        match self {
            Self::Address { required } => {
                let not_zero = if required { ", not zero" } else { "" };
                format!(
                    "an address, 0x and 40 hex digits{not_zero}; in mixed case with its checksum"
                )
            }
            Self::Flag | Self::Admin => "true or false".into(),
            Self::Number { least, most } => format!("a number from {least} to {most}"),
        }
    }

    /// Formats a value as operators write it.
    #[must_use]
    pub fn show(self, word: B256) -> String {
        let number = U256::from_be_bytes(word.0);
        match self {
            Self::Address { .. } if number.bit_len() <= 160 => Address::from_word(word).to_string(),
            Self::Flag if number <= U256::ONE => (number == U256::ONE).to_string(),
            Self::Number { .. } => number.to_string(),
            Self::Admin => (!number.is_zero()).to_string(),
            Self::Address { .. } | Self::Flag => word.to_string(),
        }
    }
}

/// Returns the address that a text names. One in mixed case must have a valid checksum: a changed letter would give
/// another account the fees, or the rights of an administrator.
fn address_of(text: &str) -> Option<Address> {
    let digits = text.strip_prefix("0x")?;
    let address: Address = text.parse().ok()?;
    let is_mixed = digits.contains(|c: char| c.is_ascii_lowercase())
        && digits.contains(|c: char| c.is_ascii_uppercase());
    (!is_mixed || address.to_string() == text).then_some(address)
}

/// One row of the table of declarations.
struct Row {
    reader: Contract,
    name: &'static str,
    kind: ParameterKind,
    update: Option<&'static str>,
    getter: Option<&'static str>,
}

const fn row(
    reader: Contract,
    name: &'static str,
    kind: ParameterKind,
    update: &'static str,
    getter: &'static str,
) -> Row {
    Row { reader, name, kind, update: Some(update), getter: Some(getter) }
}

/// Declares a parameter that takes effect without a call, or by a call that this program does not make.
const fn read_only(reader: Contract, name: &'static str, kind: ParameterKind) -> Row {
    Row { reader, name, kind, update: None, getter: None }
}

const fn number(least: u128, most: u128) -> ParameterKind {
    ParameterKind::Number { least, most }
}

const ACCOUNT: ParameterKind = ParameterKind::Address { required: true };
const ACCOUNT_OR_NONE: ParameterKind = ParameterKind::Address { required: false };
/// The largest 32-bit number, an upper bound. All bounds below are those that the contracts enforce.
const U32_MAX: u128 = u32::MAX as u128;
const U64: ParameterKind = number(0, u64::MAX as u128);
const WEEK_SECONDS: u128 = 604_800;
const PAYLOAD_MAX: u128 = 262_144;
const HUNDRED_PERCENT: u128 = 10_000;
const MIGRATOR: &str = "migrator";
const UPPER_LIMIT: &str = "updateMaxPayloadSize";
const LOWER_LIMIT: &str = "updateMinPayloadSize";
const PAUSE: &str = "updatePauseStatus";

use Contract::{
    AppChainGateway as AppGateway, AppChainParameterRegistry as AppRegistry,
    DistributionManager as Distribution, FeeToken, GroupMessageBroadcaster as Groups,
    IdentityUpdateBroadcaster as Identities, NodeRegistry as Nodes, PayerRegistry as Payers,
    PayerReportManager as Reports, RateRegistry as Rates, SettlementChainFactory as Factory,
    SettlementChainGateway as Gateway, SettlementChainParameterRegistry as Registry,
};

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row(Nodes, "admin", ACCOUNT, "updateAdmin", "admin"),
    row(Nodes, "maxCanonicalNodes", number(0, 255), "updateMaxCanonicalNodes", "maxCanonicalNodes"),
    row(Payers, "settler", ACCOUNT, "updateSettler", "settler"),
    row(Payers, "feeDistributor", ACCOUNT, "updateFeeDistributor", "feeDistributor"),
    row(Payers, "minimumDeposit", number(1, (1 << 96) - 1), "updateMinimumDeposit", "minimumDeposit"),
    row(Payers, "withdrawLockPeriod", number(0, WEEK_SECONDS), "updateWithdrawLockPeriod", "withdrawLockPeriod"),
    row(Payers, "paused", ParameterKind::Flag, PAUSE, "paused"),
    row(Reports, "protocolFeeRate", number(0, HUNDRED_PERCENT), "updateProtocolFeeRate", "protocolFeeRate"),
    row(Distribution, "protocolFeesRecipient", ACCOUNT_OR_NONE, "updateProtocolFeesRecipient", "protocolFeesRecipient"),
    row(Distribution, "paused", ParameterKind::Flag, PAUSE, "paused"),
    row(Gateway, "paused", ParameterKind::Flag, PAUSE, "paused"),
    read_only(Rates, "messageFee", U64),
    read_only(Rates, "storageFee", U64),
    read_only(Rates, "congestionFee", U64),
    read_only(Rates, "targetRatePerMinute", U64),
    read_only(Rates, "ratesInEffectAfter", U64),
    row(Groups, "minPayloadSize", number(1, U32_MAX), LOWER_LIMIT, "minPayloadSize"),
    row(Groups, "maxPayloadSize", number(0, PAYLOAD_MAX), UPPER_LIMIT, "maxPayloadSize"),
    row(Groups, "paused", ParameterKind::Flag, PAUSE, "paused"),
    row(Groups, "payloadBootstrapper", ACCOUNT, "updatePayloadBootstrapper", "payloadBootstrapper"),
    row(Identities, "minPayloadSize", number(1, U32_MAX), LOWER_LIMIT, "minPayloadSize"),
    row(Identities, "maxPayloadSize", number(0, PAYLOAD_MAX), UPPER_LIMIT, "maxPayloadSize"),
    row(Identities, "paused", ParameterKind::Flag, PAUSE, "paused"),
    row(Identities, "payloadBootstrapper", ACCOUNT, "updatePayloadBootstrapper", "payloadBootstrapper"),
    row(AppGateway, "paused", ParameterKind::Flag, PAUSE, "paused"),
    read_only(Nodes, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(Rates, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(Payers, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(Reports, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(Distribution, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(Gateway, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(Registry, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(FeeToken, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(AppGateway, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(AppRegistry, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(Groups, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(Identities, MIGRATOR, ACCOUNT_OR_NONE),
    read_only(Factory, MIGRATOR, ACCOUNT_OR_NONE),
];

/// Returns a parameter's full name, such as `xmtp.payerRegistry.paused`: the contract's name begins in lower case.
pub(in crate::admin) fn key_of(reader: Contract, name: &str) -> String {
    // The factories of both chains are the same contract, so the interface's name is used.
    let (first, rest) = reader.interface().split_at(1);
    format!("xmtp.{}{rest}.{name}", first.to_ascii_lowercase())
}

/// Returns the names of all parameters without a variable part.
#[must_use]
pub fn names() -> Vec<String> {
    ROWS.iter().map(|row| key_of(row.reader, row.name)).collect()
}

/// Returns the declaration of a parameter; `None` if no contract reads it.
#[must_use]
pub fn known(key: &str) -> Option<Parameter> {
    let row = ROWS.iter().find(|row| key_of(row.reader, row.name) == key);
    let plain = row.map(|row| Parameter {
        key: key.to_owned(),
        kind: row.kind,
        reader: row.reader,
        update: row.update,
        getter: row.getter,
        argument: None,
    });
    plain.or_else(|| inbox(key)).or_else(|| admin(key))
}

/// Returns the declaration of the inbox of an app chain. The last part of the name is the chain id.
fn inbox(key: &str) -> Option<Parameter> {
    let chain_id = key.strip_prefix(&key_of(Gateway, "inbox."))?;
    let is_decimal = chain_id.parse::<u64>().is_ok_and(|id| id.to_string() == chain_id);
    is_decimal.then(|| Parameter {
        key: key.to_owned(),
        kind: ACCOUNT_OR_NONE,
        reader: Gateway,
        update: Some("updateInbox"),
        getter: Some("getInbox"),
        argument: chain_id.parse().ok(),
    })
}

/// Returns the declaration of an account's admin flag. The last part of the name is the address in lower case.
fn admin(key: &str) -> Option<Parameter> {
    [Registry, AppRegistry].into_iter().find_map(|reader| {
        let account = key.strip_prefix(&key_of(reader, "isAdmin."))?;
        let is_lower = |address: Address| format!("{address:#x}") == account;
        account.parse().is_ok_and(is_lower).then(|| Parameter {
            key: key.to_owned(),
            kind: ParameterKind::Admin,
            reader,
            update: None,
            getter: None,
            argument: None,
        })
    })
}

/// Returns a known name similar to `key`, if there is one.
pub(super) fn near(key: &str) -> Option<String> {
    // The address in the name of an admin flag is in lower case, and elsewhere addresses are shown with a checksum.
    let by_case =
        key.rsplit_once('.').map(|(head, last)| format!("{head}.{}", last.to_ascii_lowercase()));
    if let Some(name) = by_case.filter(|name| known(name).is_some()) {
        return Some(name);
    }
    let lower = key.to_ascii_lowercase();
    let last = lower.rsplit('.').next().filter(|last| last.len() > 3)?;
    let similar = |name: &String| {
        let name = name.to_ascii_lowercase();
        name == lower || name.ends_with(&format!(".{last}"))
    };
    names().into_iter().find(similar)
}

impl Parameter {
    /// Encodes the call by which the contract adopts the value.
    pub(super) fn update_data(&self) -> Option<Bytes> {
        self.update.map(|update| call_data(self.reader, update, self.argument))
    }

    /// Encodes the call that returns the adopted value.
    pub(super) fn getter_data(&self) -> Option<Bytes> {
        self.getter.map(|getter| call_data(self.reader, getter, self.argument))
    }

    /// Returns the adopting call in readable form, for the operator.
    pub(super) fn update_name(&self) -> String {
        let argument = self.argument.map(|word| word.to_string()).unwrap_or_default();
        format!("{}.{}({argument})", self.reader, self.update.unwrap_or_default())
    }

    /// Returns advice for the operator about a value that the contract does not adopt by any call of this program.
    pub(super) fn hint(&self) -> Option<String> {
        let key = &self.key;
        if self.update.is_some() {
            None
        } else if self.reader == Rates && !key.ends_with(MIGRATOR) {
            Some(format!("{key} takes effect with the others: `registry rates add` sees to that"))
        } else if key.ends_with(MIGRATOR) {
            Some(format!("{key} takes effect with a call of migrate() of {}", self.reader))
        } else {
            None
        }
    }

    pub(super) fn is_upper_limit(&self) -> bool {
        self.update == Some(UPPER_LIMIT)
    }

    pub(super) fn is_lower_limit(&self) -> bool {
        self.update == Some(LOWER_LIMIT)
    }

    /// Returns the sort rank among parameters that are adopted together.
    pub(super) fn rank(&self, lower_limit_first: bool) -> u8 {
        match (self.is_lower_limit(), lower_limit_first) {
            (true, true) => 0,
            (false, _) => 1,
            (true, false) => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn vectors() -> serde_json::Value {
        let text = include_str!("../../../../tests/vectors/contracts/parameter_keys.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_parameter_of_the_deployed_contracts_is_known_with_its_function() {
        let vectors = vectors();
        let mut seen = BTreeSet::new();
        for line in vectors["keys"].as_array().unwrap() {
            let text = |field: &str| line[field].as_str().unwrap();
            // A third-party token, and a key that no function reads.
            if text("contract") == "MockUnderlyingFeeToken" || text("key") == "xmtp.factory.paused"
            {
                continue;
            }
            let account = format!("{:#x}", Address::repeat_byte(0xab));
            let key = text("key").replace("{address}", &account).replace("{chainId}", "31338");
            let parameter = known(&key).unwrap_or_else(|| panic!("{key}"));
            assert_eq!(parameter.reader.interface(), text("contract"), "{key}");
            if let Some(update) = parameter.update {
                assert!(text("read_by").starts_with(&format!("{update}(")), "{key}: {update}");
                assert_eq!(parameter.update_data().unwrap().len() % 32, 4, "{key}");
                assert_eq!(parameter.getter_data().unwrap().len() % 32, 4, "{key}");
            }
            let kind = match text("value_type") {
                "address" => matches!(parameter.kind, ParameterKind::Address { .. }),
                "bool" => parameter.kind == ParameterKind::Flag,
                "nonzero = admin" => parameter.kind == ParameterKind::Admin,
                number => {
                    let bits: u32 = number.strip_prefix("uint").unwrap().parse().unwrap();
                    matches!(parameter.kind, ParameterKind::Number { most, .. } if most < 1 << bits)
                }
            };
            assert!(kind, "{key}: {:?}", parameter.kind);
            seen.insert(key);
        }
        for name in names() {
            assert!(seen.contains(&name), "{name} is not one of the deployed contracts");
        }
    }

    #[test]
    fn names_with_a_part_are_known_as_the_contracts_build_them() {
        let vectors = vectors();
        for case in vectors["key_building"].as_array().unwrap() {
            let parameter = known(case["key"].as_str().unwrap()).unwrap();
            match case["kind"].as_str().unwrap() {
                "admin" => assert_eq!(parameter.kind, ParameterKind::Admin, "{case}"),
                _ => assert_eq!(parameter.argument, case["chain_id"].as_u64().map(U256::from)),
            }
        }
    }

    #[test]
    fn values_are_read_and_shown_as_the_contracts_decode_them() {
        let kind_of = |name: &str| match name {
            "address" => ACCOUNT_OR_NONE,
            "bool" => ParameterKind::Flag,
            number => {
                let bits: u32 = number.strip_prefix("uint").unwrap().parse().unwrap();
                ParameterKind::Number { least: 0, most: (1 << bits) - 1 }
            }
        };
        let vectors = vectors();
        for case in vectors["values"].as_array().unwrap() {
            let kind = kind_of(case["type"].as_str().unwrap());
            let word: B256 = case["bytes32"].as_str().unwrap().parse().unwrap();
            let text = match &case["value"] {
                serde_json::Value::Null => {
                    assert!(!kind.takes(word), "{case}");
                    continue;
                }
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(kind.read(&text), Some(word), "{case}");
            // An address is shown with its checksum, however it was written.
            assert!(kind.show(word).eq_ignore_ascii_case(&text), "{case}");
        }
    }

    /// The contract's words, by hand: the last value of each type, and an address in each letter case.
    #[test]
    fn values_at_the_ends_of_their_types_stand_at_the_end_of_their_word() {
        let word = |last: &str| format!("{last:0>64}").parse::<B256>().unwrap();
        for (kind, text, last) in [
            (number(0, 255), "255", "ff"),
            (number(0, HUNDRED_PERCENT), "10000", "2710"),
            (number(0, WEEK_SECONDS), "604800", "93a80"),
            (number(0, PAYLOAD_MAX), "262144", "40000"),
            (number(1, U32_MAX), "4294967295", "ffffffff"),
            (U64, "18446744073709551615", "ffffffffffffffff"),
            (number(1, (1 << 96) - 1), "79228162514264337593543950335", "ffffffffffffffffffffffff"),
            (U64, "00", "0"),
            (ParameterKind::Admin, "true", "1"),
            (ACCOUNT_OR_NONE, "0x0000000000000000000000000000000000000000", "0"),
            (
                ACCOUNT,
                "0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ef",
                "74f3cc12197b6aa1cb71844e98922db008e4c1ef",
            ),
            (
                ACCOUNT,
                "0x74f3cc12197b6aa1cb71844e98922db008e4c1ef",
                "74f3cc12197b6aa1cb71844e98922db008e4c1ef",
            ),
        ] {
            assert_eq!(kind.read(text), Some(word(last)), "{kind:?} {text}");
        }
        for (kind, text) in [
            (number(0, HUNDRED_PERCENT), "10001"),
            (number(0, WEEK_SECONDS), "604801"),
            (number(0, PAYLOAD_MAX), "262145"),
            (number(1, U32_MAX), "4294967296"),
            (U64, "18446744073709551616"),
            (number(1, (1 << 96) - 1), "79228162514264337593543950336"),
            (ACCOUNT, "0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ef00"),
        ] {
            assert_eq!(kind.read(text), None, "{kind:?} {text}");
        }
    }

    #[test]
    fn values_that_the_contract_would_refuse_are_refused() {
        let refused = [
            (ACCOUNT, "0x0000000000000000000000000000000000000000"),
            (ACCOUNT, "0x12"),
            (ACCOUNT, "74f3CC12197b6Aa1cB71844E98922db008E4C1Ef"),
            // A digit was changed, and two letters have another case.
            (ACCOUNT, "0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ee"),
            (ACCOUNT_OR_NONE, "0x74F3cc12197b6Aa1cB71844E98922db008E4C1Ef"),
            (ParameterKind::Flag, "yes"),
            (ParameterKind::Flag, "2"),
            (number(0, 255), "256"),
            (number(1, 10), "0"),
            (number(0, 255), "-1"),
            (number(0, 255), "+1"),
            (number(0, 255), "0x10"),
            (number(0, 255), ""),
        ];
        for (kind, text) in refused {
            assert_eq!(kind.read(text), None, "{kind:?} {text}");
        }
    }

    #[test]
    fn names_that_only_look_known_are_not() {
        for key in [
            "",
            "xmtp.payerRegistry",
            "xmtp.payerRegistry.Paused",
            "xmtp.settlementChainGateway.inbox.",
            "xmtp.settlementChainGateway.inbox.07",
            "xmtp.settlementChainGateway.inbox.-7",
            "xmtp.appChainParameterRegistry.isAdmin.0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ef",
            "xmtp.factory.paused",
        ] {
            assert_eq!(known(key), None, "{key}");
        }
        let near_of = |key| near(key).unwrap_or_default();
        assert_eq!(
            near_of("xmtp.payerRegistry.minimumdeposit"),
            "xmtp.payerRegistry.minimumDeposit"
        );
        assert_eq!(near_of("xmtp.payers.minimumDeposit"), "xmtp.payerRegistry.minimumDeposit");
        assert_eq!(near("a"), None);
        let flag = "xmtp.settlementChainParameterRegistry.isAdmin.";
        let (shown, named) = (
            format!("{flag}0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ef"),
            format!("{flag}0x74f3cc12197b6aa1cb71844e98922db008e4c1ef"),
        );
        assert_eq!(near(&shown), Some(named));
    }
}
