//! The settings of a node and of a gateway, converted from flags, environment and file to typed values and
//! checked once. In reading order:
//!
//! - [`table`]: all settings with their names, form and meaning;
//! - [`SettingSources`]: the given values and their sources;
//! - [`NodeServiceSettings`], [`GatewayServiceSettings`], [`ContractSettings`]: the typed values, or a
//!   [`SettingsError`] with all errors;
//! - [`effective()`]: the effective values, to be displayed to operators.

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
pub(crate) use effective::{hosts_of, place_of};
pub use error::{SettingError, SettingsError};
pub use gateway::{GatewayServiceSettings, NodeSelectionSettings};
pub use limits::CallerLimitSettings;
pub use node::{
    DatabaseSettings, NodeApiSettings, NodeServiceSettings, StandInFiles, data_dir,
    metrics_address, state_dir,
};
pub use parse::{duration, network};
pub use prune::prune_dry_run;
pub use reader::{LogSettings, StopSettings};
pub use sources::{SettingOrigin, SettingSources};
pub use wallets::WalletSettings;
pub use witness::WitnessSource;

#[cfg(test)]
mod environment_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod url_tests;
#[cfg(test)]
mod value_tests;
