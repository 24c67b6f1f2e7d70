//! Scenarios that measure a node, one file each.

pub(crate) mod accounting;
pub(crate) mod backup;
pub(crate) mod balances;
pub(crate) mod bill;
pub(crate) mod bootstrap;
pub(crate) mod catch_up;
pub(crate) mod chain_index;
pub(crate) mod checkpoint_upkeep;
pub(crate) mod delivery;
pub(crate) mod expensive;
pub(crate) mod export;
pub(crate) mod false_reports;
pub(crate) mod fill;
pub(crate) mod floods;
pub(crate) mod gateway;
pub(crate) mod memory;
pub(crate) mod publish;
pub(crate) mod query;
pub(crate) mod readers;
pub(crate) mod rebuild;
pub(crate) mod reconnect;
pub(crate) mod replay;
pub(crate) mod sizes;
pub(crate) mod sources;
pub(crate) mod tls;
pub(crate) mod upkeep;
