//! The parameter registry: names and values of what the contracts read from it.
//!
//! Names are words joined by dots; an address in a name is lower-case hex. A value is one word
//! of 32 bytes, and numbers, flags and addresses stand at its end.

use alloy::primitives::{Address, B256, U256};

/// Who may add nodes and choose the canonical ones: an address.
pub const NODE_REGISTRY_ADMIN: &str = "xmtp.nodeRegistry.admin";
/// The most nodes that the canonical network can have: 8 bits.
pub const NODE_REGISTRY_MAX_CANONICAL_NODES: &str = "xmtp.nodeRegistry.maxCanonicalNodes";
/// Who may settle usage, the report manager: an address.
pub const PAYER_REGISTRY_SETTLER: &str = "xmtp.payerRegistry.settler";
/// Who gets the excess, the distribution manager: an address.
pub const PAYER_REGISTRY_FEE_DISTRIBUTOR: &str = "xmtp.payerRegistry.feeDistributor";
/// The least that can be deposited at once: microdollars, 96 bits.
pub const PAYER_REGISTRY_MINIMUM_DEPOSIT: &str = "xmtp.payerRegistry.minimumDeposit";
/// How long a withdrawal waits: seconds, 32 bits, at most a week.
pub const PAYER_REGISTRY_WITHDRAW_LOCK_PERIOD: &str = "xmtp.payerRegistry.withdrawLockPeriod";
/// Whether the payer registry stands still.
pub const PAYER_REGISTRY_PAUSED: &str = "xmtp.payerRegistry.paused";
/// The protocol's share: hundredths of a percent, at most 10000.
pub const PAYER_REPORT_MANAGER_PROTOCOL_FEE_RATE: &str = "xmtp.payerReportManager.protocolFeeRate";
/// Who gets the protocol's share: an address.
pub const DISTRIBUTION_MANAGER_PROTOCOL_FEES_RECIPIENT: &str =
    "xmtp.distributionManager.protocolFeesRecipient";
/// Whether claims and withdrawals stand still.
pub const DISTRIBUTION_MANAGER_PAUSED: &str = "xmtp.distributionManager.paused";
/// Price of a message: picodollars, 64 bits.
pub const RATE_REGISTRY_MESSAGE_FEE: &str = "xmtp.rateRegistry.messageFee";
/// Price of a byte and day: picodollars, 64 bits.
pub const RATE_REGISTRY_STORAGE_FEE: &str = "xmtp.rateRegistry.storageFee";
/// Price of congestion: picodollars, 64 bits.
pub const RATE_REGISTRY_CONGESTION_FEE: &str = "xmtp.rateRegistry.congestionFee";
/// Messages a minute from which congestion begins: 64 bits.
pub const RATE_REGISTRY_TARGET_RATE_PER_MINUTE: &str = "xmtp.rateRegistry.targetRatePerMinute";
/// When the next rates begin: unix seconds, 64 bits.
pub const RATE_REGISTRY_RATES_IN_EFFECT_AFTER: &str = "xmtp.rateRegistry.ratesInEffectAfter";
/// Whether deposits and parameters to the app chain stand still.
pub const SETTLEMENT_CHAIN_GATEWAY_PAUSED: &str = "xmtp.settlementChainGateway.paused";
/// Whether withdrawals from the app chain stand still.
pub const APP_CHAIN_GATEWAY_PAUSED: &str = "xmtp.appChainGateway.paused";
/// The least bytes of a group's payload: 32 bits, at least 1.
pub const GROUP_MESSAGE_MIN_PAYLOAD_SIZE: &str = "xmtp.groupMessageBroadcaster.minPayloadSize";
/// The most bytes of a group's payload: 32 bits, at most 262144.
pub const GROUP_MESSAGE_MAX_PAYLOAD_SIZE: &str = "xmtp.groupMessageBroadcaster.maxPayloadSize";
/// Whether group messages stand still.
pub const GROUP_MESSAGE_PAUSED: &str = "xmtp.groupMessageBroadcaster.paused";
/// Who may bring the history of groups: an address.
pub const GROUP_MESSAGE_PAYLOAD_BOOTSTRAPPER: &str =
    "xmtp.groupMessageBroadcaster.payloadBootstrapper";
/// The least bytes of an identity update: 32 bits, at least 1.
pub const IDENTITY_UPDATE_MIN_PAYLOAD_SIZE: &str = "xmtp.identityUpdateBroadcaster.minPayloadSize";
/// The most bytes of an identity update: 32 bits, at most 262144.
pub const IDENTITY_UPDATE_MAX_PAYLOAD_SIZE: &str = "xmtp.identityUpdateBroadcaster.maxPayloadSize";
/// Whether identity updates stand still.
pub const IDENTITY_UPDATE_PAUSED: &str = "xmtp.identityUpdateBroadcaster.paused";
/// Who may bring the history of identities: an address.
pub const IDENTITY_UPDATE_PAYLOAD_BOOTSTRAPPER: &str =
    "xmtp.identityUpdateBroadcaster.payloadBootstrapper";

/// Whether an account may set parameters of the settlement chain: any value but zero is yes.
#[must_use]
pub fn settlement_admin(account: Address) -> String {
    format!("xmtp.settlementChainParameterRegistry.isAdmin.{account:#x}")
}

/// The inbox through which the gateway reaches an app chain: an address.
#[must_use]
pub fn inbox(app_chain_id: u64) -> String {
    format!("xmtp.settlementChainGateway.inbox.{app_chain_id}")
}

/// An address as a value.
#[must_use]
pub fn of_address(address: Address) -> B256 {
    address.into_word()
}

/// A number as a value. Whether it is too big decides the contract that reads it.
#[must_use]
pub fn of_uint(number: impl Into<u128>) -> B256 {
    U256::from(number.into()).into()
}

/// A flag as a value.
#[must_use]
pub fn of_bool(flag: bool) -> B256 {
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
            DISTRIBUTION_MANAGER_PAUSED,
            RATE_REGISTRY_MESSAGE_FEE,
            RATE_REGISTRY_STORAGE_FEE,
            RATE_REGISTRY_CONGESTION_FEE,
            RATE_REGISTRY_TARGET_RATE_PER_MINUTE,
            RATE_REGISTRY_RATES_IN_EFFECT_AFTER,
            SETTLEMENT_CHAIN_GATEWAY_PAUSED,
            APP_CHAIN_GATEWAY_PAUSED,
            GROUP_MESSAGE_MIN_PAYLOAD_SIZE,
            GROUP_MESSAGE_MAX_PAYLOAD_SIZE,
            GROUP_MESSAGE_PAUSED,
            GROUP_MESSAGE_PAYLOAD_BOOTSTRAPPER,
            IDENTITY_UPDATE_MIN_PAYLOAD_SIZE,
            IDENTITY_UPDATE_MAX_PAYLOAD_SIZE,
            IDENTITY_UPDATE_PAUSED,
            IDENTITY_UPDATE_PAYLOAD_BOOTSTRAPPER,
        ];
        for name in ours {
            assert!(known.contains(name), "{name}");
        }
    }

    #[test]
    fn names_with_a_part_are_built_as_the_contracts_build_them() {
        for case in vectors()["key_building"].as_array().unwrap() {
            let built = match case["kind"].as_str().unwrap() {
                "admin" => settlement_admin(case["account"].as_str().unwrap().parse().unwrap()),
                _ => inbox(case["chain_id"].as_u64().unwrap()),
            };
            assert_eq!(built, case["key"].as_str().unwrap());
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
                (_, value) => of_uint(value.as_str().unwrap().parse::<u128>().unwrap()),
            };
            assert_eq!(value, case["bytes32"].as_str().unwrap().parse::<B256>().unwrap());
            seen += 1;
        }
        assert!(seen > 3);
    }
}
