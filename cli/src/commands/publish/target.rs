//! The id of the node at an address: envelopes are signed for it.

use hawser_node::error::RunError;
use hawser_node::files;
use hawser_proto::OriginatorId;

use crate::args::PublishArgs;
use crate::network_file::NetworkFile;

/// `--target`, or the id that the network's file has for the address.
pub(super) fn find(args: &PublishArgs) -> Result<OriginatorId, RunError> {
    if let Some(target) = args.target {
        return Ok(OriginatorId(target));
    }
    let path = args.network.clone().unwrap_or_else(|| NetworkFile::beside(&args.payer_key_file));
    let file = files::read(&path, NetworkFile::parse).map_err(|error| {
        RunError::not_found(format!(
            "the id of the node at {} is not known ({error}): give it with --target ID, or name the network.json \
             of its network with --network",
            args.node
        ))
    })?;
    file.node_at(&args.node).map(|node| OriginatorId(node.node_id)).ok_or_else(|| {
        let known: Vec<_> = file.nodes.iter().map(|node| node.grpc.as_str()).collect();
        RunError::not_found(format!(
            "no node of {} is at {} (they are at {}): give its id with --target ID",
            path.display(),
            args.node,
            known.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use hawser_node::error::RunErrorKind;

    fn args(folder: &Path, node: &str) -> PublishArgs {
        PublishArgs {
            node: node.into(),
            payer_key_file: folder.join("payer.key"),
            file: "none".into(),
            target: None,
            network: None,
            retention_days: 60,
        }
    }

    fn network(folder: &Path) {
        let text = r#"{"nodes":[{"node_id":200,"grpc":"127.0.0.1:5150","quic":"","metrics":"",
            "address":"","public_key":"","data_dir":"","pid":1}],"payer_key_file":""}"#;
        std::fs::write(folder.join("network.json"), text).unwrap();
    }

    #[test]
    fn the_network_beside_the_payers_key_knows_the_id() {
        let folder = tempfile::tempdir().unwrap();
        network(folder.path());
        let found = find(&args(folder.path(), "http://localhost:5150")).unwrap();
        assert_eq!(found, OriginatorId(200));
        let with_target = PublishArgs { target: Some(7), ..args(folder.path(), "elsewhere:1") };
        assert_eq!(find(&with_target).unwrap(), OriginatorId(7));
    }

    #[test]
    fn a_node_that_is_not_found_is_an_error_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = find(&args(folder.path(), "127.0.0.1:5150")).unwrap_err();
        network(folder.path());
        let other = find(&args(folder.path(), "127.0.0.1:5050")).unwrap_err();
        for failure in [nothing, other] {
            assert_eq!(failure.kind, RunErrorKind::NotFound);
            assert!(failure.text.contains("--target"), "{failure}");
        }
    }
}
