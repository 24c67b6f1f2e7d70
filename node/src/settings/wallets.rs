//! Typed settings of contract wallets.

use hawser_validation::wallets::WalletChainList;

/// The chains of contract wallets that the network knows, and the endpoints that this process asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletSettings {
    /// Chain ids and RPC URLs, in order of preference.
    pub rpcs: Vec<(u64, String)>,
    /// Chains in addition to those that clients know without configuration.
    pub more_chains: Vec<u64>,
}

impl WalletSettings {
    /// Returns the chains that the network knows.
    #[must_use]
    pub fn list(&self) -> WalletChainList {
        WalletChainList::with(self.more_chains.iter().copied())
    }
}
