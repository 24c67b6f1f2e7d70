//! Typed settings of snapshots that strands are filled from.

use super::reader::SettingsReader;
use super::table::node as table;

/// The trust that the operator gives about strands of chains of a snapshot, in which nothing is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BootstrapTrust {
    /// True if they are taken where most nodes of the network have signed their trees.
    pub nodes_for_chains: bool,
    /// True if the word of one endpoint of the chain is enough for the comparison with it.
    pub one_endpoint: bool,
}

impl SettingsReader<'_> {
    /// The place of snapshots, if one is named, and the trust that is given beside it.
    pub(super) fn bootstrap(&mut self) -> (Option<String>, Option<BootstrapTrust>) {
        let from = self.non_empty(&table::BOOTSTRAP_FROM);
        let nodes = self.switch(&table::BOOTSTRAP_TRUST_NODES_FOR_CHAINS);
        let endpoint = self.switch(&table::BOOTSTRAP_TRUST_ONE_ENDPOINT);
        let trust = nodes.zip(endpoint).map(|(nodes_for_chains, one_endpoint)| BootstrapTrust {
            nodes_for_chains,
            one_endpoint,
        });
        (from, trust)
    }
}
