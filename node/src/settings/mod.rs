//! The settings of a node and of a gateway: from flags, environment and file to typed values,
//! checked once. In reading order:
//!
//! - [`table`]: every setting with its names, form and meaning;
//! - [`SettingSources`]: the values that were given, and where;
//! - [`NodeServiceSettings`], [`GatewayServiceSettings`], [`ContractSettings`]: the typed values, or
//!   a [`SettingsError`] with everything that is wrong;
//! - [`effective()`]: every value in effect, for operators to look at.

mod bootstrap;
mod chains;
mod effective;
mod error;
mod file;
mod gateway;
mod limits;
mod migrated;
mod nearest;
mod node;
mod parse;
mod payer_reports;
mod prune;
mod reader;
mod scrub;
mod sources;
pub mod table;
mod wallets;
mod witness;

pub use bootstrap::BootstrapTrust;
pub use chains::{
    AddressSource, ChainAccessSettings, ChainReadSettings, ChainSettings, ContractSettings,
};
pub use effective::{EffectiveSetting, ShownValue, effective};
pub use error::{SettingError, SettingsError};
pub use gateway::{GatewayServiceSettings, NodeSelectionSettings};
pub use limits::CallerLimitSettings;
pub use node::{
    DatabaseSettings, NodeApiSettings, NodeServiceSettings, StandInFiles, data_dir,
    metrics_address, state_dir,
};
pub use parse::duration;
pub use reader::{LogSettings, StopSettings};
pub use sources::{SettingOrigin, SettingSources};
pub use wallets::WalletSettings;
pub use witness::WitnessSource;

#[cfg(test)]
mod environment_tests;
#[cfg(test)]
mod tests;
