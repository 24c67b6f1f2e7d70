//! Values of the parameters that contracts read from the parameter registry, and the names of those that deployments
//! and tests set. `admin::parameters` declares all of them.
//!
//! A name is a list of words joined by dots; an address in a name is lower-case hex. A value is one 32-byte word with
//! the number, flag or address in its last bytes.

use alloy::primitives::{Address, B256, U256};

/// The account that may add nodes and choose the canonical ones: an address.
pub const NODE_REGISTRY_ADMIN: &str = "xmtp.nodeRegistry.admin";
/// The largest number of canonical nodes: 8 bits.
pub const NODE_REGISTRY_MAX_CANONICAL_NODES: &str = "xmtp.nodeRegistry.maxCanonicalNodes";
/// The contract that may settle usage, the report manager: an address.
pub const PAYER_REGISTRY_SETTLER: &str = "xmtp.payerRegistry.settler";
/// The contract that receives the surplus of settled fees, the distribution manager: an address.
pub const PAYER_REGISTRY_FEE_DISTRIBUTOR: &str = "xmtp.payerRegistry.feeDistributor";
/// The smallest deposit: microdollars, 96 bits.
pub const PAYER_REGISTRY_MINIMUM_DEPOSIT: &str = "xmtp.payerRegistry.minimumDeposit";
/// The waiting time of a withdrawal: seconds, 32 bits, at most a week.
pub const PAYER_REGISTRY_WITHDRAW_LOCK_PERIOD: &str = "xmtp.payerRegistry.withdrawLockPeriod";
/// The pause flag of the payer registry.
pub const PAYER_REGISTRY_PAUSED: &str = "xmtp.payerRegistry.paused";
/// The protocol's fee share: hundredths of a percent, at most 10000.
pub const PAYER_REPORT_MANAGER_PROTOCOL_FEE_RATE: &str = "xmtp.payerReportManager.protocolFeeRate";
/// The recipient of the protocol's share: an address.
pub const DISTRIBUTION_MANAGER_PROTOCOL_FEES_RECIPIENT: &str =
    "xmtp.distributionManager.protocolFeesRecipient";
/// The fee per message: picodollars, 64 bits.
pub const RATE_REGISTRY_MESSAGE_FEE: &str = "xmtp.rateRegistry.messageFee";
/// The fee per byte and day of storage: picodollars, 64 bits.
pub const RATE_REGISTRY_STORAGE_FEE: &str = "xmtp.rateRegistry.storageFee";
/// The fee per unit of congestion: picodollars, 64 bits.
pub const RATE_REGISTRY_CONGESTION_FEE: &str = "xmtp.rateRegistry.congestionFee";
/// The rate in messages per minute above which congestion begins: 64 bits.
pub const RATE_REGISTRY_TARGET_RATE_PER_MINUTE: &str = "xmtp.rateRegistry.targetRatePerMinute";
/// The start of the next rates: unix seconds, 64 bits.
pub const RATE_REGISTRY_RATES_IN_EFFECT_AFTER: &str = "xmtp.rateRegistry.ratesInEffectAfter";
/// The smallest payload of a group in bytes: 32 bits, at least 1.
pub const GROUP_MESSAGE_MIN_PAYLOAD_SIZE: &str = "xmtp.groupMessageBroadcaster.minPayloadSize";
/// The largest payload of a group in bytes: 32 bits, at most 262144.
pub const GROUP_MESSAGE_MAX_PAYLOAD_SIZE: &str = "xmtp.groupMessageBroadcaster.maxPayloadSize";
/// The pause flag of group messages.
pub const GROUP_MESSAGE_PAUSED: &str = "xmtp.groupMessageBroadcaster.paused";
/// The smallest identity update in bytes: 32 bits, at least 1.
pub const IDENTITY_UPDATE_MIN_PAYLOAD_SIZE: &str = "xmtp.identityUpdateBroadcaster.minPayloadSize";
/// The largest identity update in bytes: 32 bits, at most 262144.
pub const IDENTITY_UPDATE_MAX_PAYLOAD_SIZE: &str = "xmtp.identityUpdateBroadcaster.maxPayloadSize";

/// Returns the name of the inbox through which the gateway reaches an app chain: an address.
#[must_use]
pub fn inbox(app_chain_id: u64) -> String {
    format!("xmtp.settlementChainGateway.inbox.{app_chain_id}")
}

/// Converts an address to a value.
#[must_use]
pub fn of_address(address: Address) -> B256 {
    address.into_word()
}

/// Converts a number to a value. The reading contract checks its bounds.
#[must_use]
pub fn of_uint(number: impl Into<u128>) -> B256 {
    U256::from(number.into()).into()
}

/// Converts a flag to a value.
#[must_use]
pub(crate) fn of_bool(flag: bool) -> B256 {
    of_uint(flag)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn vectors() -> serde_json::Value {
        let text = include_str!("../../../tests/vectors/contracts/parameter_keys.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn names_are_those_of_the_deployed_contracts() {
        let vectors = vectors();
        let known: BTreeSet<&str> = vectors["keys"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|key| key["key"].as_str())
            .collect();
        let ours = [
            NODE_REGISTRY_ADMIN,
            NODE_REGISTRY_MAX_CANONICAL_NODES,
            PAYER_REGISTRY_SETTLER,
            PAYER_REGISTRY_FEE_DISTRIBUTOR,
            PAYER_REGISTRY_MINIMUM_DEPOSIT,
            PAYER_REGISTRY_WITHDRAW_LOCK_PERIOD,
            PAYER_REGISTRY_PAUSED,
            PAYER_REPORT_MANAGER_PROTOCOL_FEE_RATE,
            DISTRIBUTION_MANAGER_PROTOCOL_FEES_RECIPIENT,
            RATE_REGISTRY_MESSAGE_FEE,
            RATE_REGISTRY_STORAGE_FEE,
            RATE_REGISTRY_CONGESTION_FEE,
            RATE_REGISTRY_TARGET_RATE_PER_MINUTE,
            RATE_REGISTRY_RATES_IN_EFFECT_AFTER,
            GROUP_MESSAGE_MIN_PAYLOAD_SIZE,
            GROUP_MESSAGE_MAX_PAYLOAD_SIZE,
            GROUP_MESSAGE_PAUSED,
            IDENTITY_UPDATE_MIN_PAYLOAD_SIZE,
            IDENTITY_UPDATE_MAX_PAYLOAD_SIZE,
        ];
        for name in ours {
            assert!(known.contains(name), "{name}");
        }
    }

    #[test]
    fn the_name_of_an_inbox_is_built_as_the_contracts_build_it() {
        let vectors = vectors();
        let cases = vectors["key_building"].as_array().unwrap().iter();
        let cases: Vec<_> = cases.filter(|case| case["kind"] == "inbox").collect();
        assert!(!cases.is_empty());
        for case in cases {
            assert_eq!(inbox(case["chain_id"].as_u64().unwrap()), case["key"].as_str().unwrap());
        }
    }

    #[test]
    fn values_stand_at_the_end_of_their_word() {
        let mut seen = 0;
        for case in vectors()["values"].as_array().unwrap() {
            let value = match (case["type"].as_str().unwrap(), &case["value"]) {
                (_, serde_json::Value::Null) => continue,
                ("address", value) => of_address(value.as_str().unwrap().parse().unwrap()),
                ("bool", value) => of_bool(value.as_bool().unwrap()),
                (_, serde_json::Value::String(digits)) => of_uint(digits.parse::<u128>().unwrap()),
                (_, number) => of_uint(number.as_u64().unwrap()),
            };
            assert_eq!(value, case["bytes32"].as_str().unwrap().parse::<B256>().unwrap());
            seen += 1;
        }
        assert!(seen > 3);
    }
}
