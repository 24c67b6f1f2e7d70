//! `network.json`: the description of the network that `hawser dev` runs.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file's name in the folder of `hawser dev`.
pub(crate) const FILE_NAME: &str = "network.json";

/// Default folder of `hawser dev`.
const DEFAULT_FOLDER: &str = "hawser-dev";

/// Content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkFile {
    /// Nodes, ascending by id.
    pub(crate) nodes: Vec<NetworkNode>,
    /// Key file of the payer for the gateway and for `hawser publish`. The account has native tokens of
    /// the app chain and a balance in the payer registry.
    pub(crate) payer_key_file: PathBuf,
    /// The gateway; none when the nodes read a chain file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<NetworkGateway>,
    /// The app chain: group commits and identity updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app_chain: Option<NetworkChain>,
    /// The settlement chain: registry, rates, payers, reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settlement_chain: Option<NetworkChain>,
    /// The addresses of the contracts, under the keys of `chain.json`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) contracts: Value,
}

/// The gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkGateway {
    /// The API, `host:port`.
    pub(crate) grpc: String,
    /// Metrics and health, `host:port`.
    pub(crate) metrics: String,
    /// Process id, when the file was written.
    pub(crate) pid: u32,
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkChain {
    /// JSON-RPC, `http://…`.
    pub(crate) rpc: String,
    /// JSON-RPC with subscriptions, `ws://…`.
    pub(crate) ws: String,
    /// Chain id.
    pub(crate) chain_id: u64,
    /// The process that runs both chains, when the file was written.
    pub(crate) pid: u32,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkNode {
    /// 100, 200, 300, …
    pub(crate) node_id: u32,
    /// The API, `host:port`.
    pub(crate) grpc: String,
    /// QUIC address, `host:port`.
    pub(crate) quic: String,
    /// Metrics, health and status, `host:port`.
    pub(crate) metrics: String,
    /// The account of the node's key.
    pub(crate) address: String,
    /// The node's key: 65 bytes, hex.
    pub(crate) public_key: String,
    /// Its database.
    pub(crate) data_dir: PathBuf,
    /// Process id, when the file was written.
    pub(crate) pid: u32,
}

/// Error of reading the text of the file: it is no JSON of this form.
#[derive(Debug, thiserror::Error)]
#[error("it is no network.json of `hawser dev`: {0}")]
pub(crate) struct NetworkFileError(#[from] serde_json::Error);

impl NetworkFile {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// When it is no JSON of this form.
    pub(crate) fn parse(text: &str) -> Result<Self, NetworkFileError> {
        Ok(serde_json::from_str(text)?)
    }

    /// The node whose API is at `address`: `host:port`, or the same as a URL.
    #[must_use]
    pub(crate) fn node_at(&self, address: &str) -> Option<&NetworkNode> {
        let wanted = host_and_port(address);
        self.nodes.iter().find(|node| host_and_port(&node.grpc) == wanted)
    }

    /// Returns the path of the network file that `hawser dev` has written below the current folder.
    #[must_use]
    pub(crate) fn of_current_folder() -> Option<PathBuf> {
        let path = Path::new(DEFAULT_FOLDER).join(FILE_NAME);
        path.exists().then_some(path)
    }

    /// Returns the path of the network file in the folder of another file.
    #[must_use]
    pub(crate) fn beside(path: &Path) -> PathBuf {
        path.with_file_name(FILE_NAME)
    }
}

/// Returns host and port of an address; all names of the loopback interface compare as equal.
fn host_and_port(address: &str) -> String {
    let address = address.trim();
    let bare = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    match bare.rsplit_once(':') {
        Some(("localhost" | "[::1]" | "0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        _ => bare.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node_id: u32, grpc: &str) -> NetworkNode {
        NetworkNode {
            node_id,
            grpc: grpc.into(),
            quic: grpc.into(),
            metrics: "127.0.0.1:5051".into(),
            address: "0x00".into(),
            public_key: "0x04".into(),
            data_dir: "data".into(),
            pid: 1,
        }
    }

    #[test]
    fn a_node_is_found_however_its_address_is_written() {
        let file = NetworkFile {
            nodes: vec![node(100, "127.0.0.1:5050"), node(200, "127.0.0.1:5150")],
            payer_key_file: "payer.key".into(),
            gateway: None,
            app_chain: None,
            settlement_chain: None,
            contracts: Value::Null,
        };
        let written = serde_json::to_string(&file).unwrap();
        assert_eq!(NetworkFile::parse(&written).unwrap(), file);
        let found = |address| file.node_at(address).map(|node| node.node_id);
        assert_eq!(found("127.0.0.1:5150"), Some(200));
        assert_eq!(found("http://127.0.0.1:5050/"), Some(100));
        assert_eq!(found("localhost:5050"), Some(100));
        assert_eq!(found("127.0.0.1:5250"), None);
        assert_eq!(found("127.0.0.2:5050"), None);
    }

    #[test]
    fn another_file_in_its_place_is_refused_by_its_name() {
        let error = NetworkFile::parse("[signer]").unwrap_err().to_string();
        assert!(error.starts_with("it is no network.json of `hawser dev`: "), "{error}");
    }
}
