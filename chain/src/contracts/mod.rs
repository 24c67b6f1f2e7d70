//! The contracts of both chains, bound from `contracts/artifacts/*.json`: the deployed ones and
//! ours have one interface, so the same types serve both.
//!
//! - One type per contract ([`NodeRegistry`], [`PayerRegistry`], …) with its calls, events and
//!   errors, as alloy's `sol!` makes them.
//! - [`artifact`]: the same contracts by name, with interface and code as data.
//! - [`describe`]: calls and errors in words; [`revert`]: what a failed call says, by name.
//! - [`parameter`]: names and values of the parameter registry.

#![expect(clippy::too_many_arguments, reason = "the contracts' functions have what they have")]

pub mod artifact;
pub mod describe;
pub mod parameter;
pub mod revert;

macro_rules! contracts {
    ($($module:ident $name:ident)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` and the structs of its interface.")]
            pub mod $module {
                alloy::sol!(
                    #![sol(rpc, extra_derives(Debug, PartialEq, Eq))]
                    $name,
                    concat!("../contracts/artifacts/", stringify!($name), ".json")
                );
            }
            pub use $module::$name;
        )*

        /// Name and artifact of every contract, as they are built into this program.
        const SOURCES: &[(&str, &str)] = &[$((
            stringify!($name),
            include_str!(concat!("../../../contracts/artifacts/", stringify!($name), ".json")),
        )),*];
    };
}

contracts! {
    app_chain_gateway AppChainGateway
    app_chain_parameter_registry AppChainParameterRegistry
    arb_sys ArbSys
    deposit_splitter DepositSplitter
    distribution_manager DistributionManager
    erc20_inbox ERC20Inbox
    factory Factory
    fee_token FeeToken
    generic_eip1967_migrator GenericEIP1967Migrator
    group_message_broadcaster GroupMessageBroadcaster
    identity_update_broadcaster IdentityUpdateBroadcaster
    initializable Initializable
    migrator Migrator
    mock_underlying_fee_token MockUnderlyingFeeToken
    node_registry NodeRegistry
    node_registry_backfill_migrator NodeRegistryBackfillMigrator
    payer_registry PayerRegistry
    payer_report_manager PayerReportManager
    proxy Proxy
    rate_registry RateRegistry
    settlement_chain_gateway SettlementChainGateway
    settlement_chain_parameter_registry SettlementChainParameterRegistry
    wallet_signature_check WalletSignatureCheck
}
