//! Typed settings of the snapshots from which strands are filled.

use std::path::PathBuf;

use super::limits::CallerLimitSettings;
use super::reader::SettingsReader;
use super::table::node as table;

/// The operator's trust decisions about the chain strands of a snapshot, which are unsigned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BootstrapTrust {
    /// True if they are taken where most nodes of the network have signed their trees.
    pub nodes_for_chains: bool,
    /// True if a single endpoint of the chain is enough for the comparison with it.
    pub one_endpoint: bool,
}

impl SettingsReader<'_> {
    /// Reads the source of snapshots, if one is configured, and the trust decisions.
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

    /// Returns the folder whose snapshots are given out, if one is named. Refused where only nodes may read the log,
    /// because a snapshot holds it and its readers have no node token.
    pub(super) fn snapshot_serve(
        &mut self,
        limits: Option<&CallerLimitSettings>,
    ) -> Option<PathBuf> {
        let folder = self.non_empty(&table::SNAPSHOT_SERVE)?;
        if limits.is_some_and(|limits| limits.require_node_auth) {
            let given = format!("{folder:?} with api.require-replication-node-auth");
            self.error(&table::SNAPSHOT_SERVE, Some(given));
        }
        Some(folder.into())
    }
}
