//! Nodes that are registered at addresses of private networks, and the commands that ask all nodes of a registry.

use std::net::TcpListener;

use crate::network_watcher::registry_file;
use crate::support::{run, stderr, stdout};

/// A node's operator chooses its address, and could name a service of the machine on which a command runs.
#[test]
fn a_registered_node_is_called_at_a_private_address_only_if_the_operator_says_so() {
    let place = tempfile::tempdir().unwrap();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    service.set_nonblocking(true).unwrap();
    let registry = registry_file(place.path(), &[service.local_addr().unwrap()]);
    let registry = registry.to_str().unwrap();
    for line in [
        ["network-watcher", "--once", "--json", "--registry-file", registry],
        ["audit", "network", "--json", "--registry", registry],
    ] {
        let output = run(&line);
        assert!(!output.status.success(), "{output:?}");
        let shown = format!("{}{}", stdout(&output), stderr(&output));
        assert!(shown.contains("--allow-private-nodes"), "{shown}");
        assert!(service.accept().is_err(), "{line:?} has called it");
    }
}
