//! Typed settings of contract wallets.

use hawser_validation::wallets::WalletChainList;

/// Access to contract wallets, and the chains that a development network knows beside those of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletSettings {
    /// Chain ids and RPC URLs, in order of preference.
    pub rpcs: Vec<(u64, String)>,
    /// Chains in addition to those of the protocol. Only development networks have any.
    pub more_chains: Vec<u64>,
}

impl WalletSettings {
    /// Returns the chains that the network knows.
    #[must_use]
    pub fn list(&self) -> WalletChainList {
        WalletChainList::with(self.more_chains.iter().copied())
    }
}
