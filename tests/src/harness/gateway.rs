//! A gateway in front of a network of nodes, as a process.

use std::path::Path;
use std::process::Command;

use super::binary::hawser;
use super::client::Client;
use super::envelopes::payer;
use super::network::{Network, forget_settings};
use super::process::Process;
use super::{files, ports, raw, wait};

/// A gateway that reads its network from files, without a chain.
#[derive(Debug)]
pub struct Gateway {
    /// Port of its API.
    pub port: u16,
    /// Port of its metrics.
    pub metrics_port: u16,
    /// Its process.
    pub process: Process,
}

impl Gateway {
    /// Starts a gateway and waits until it is ready.
    pub async fn start(network: &Network) -> Self {
        Self::start_with(network, &[]).await
    }

    /// Starts a gateway with further arguments.
    pub async fn start_with(network: &Network, arguments: &[&str]) -> Self {
        let registry = network.nodes[0].folder().join("registry.json");
        Self::with_registry(network, &registry, arguments).await
    }

    /// Starts a gateway that has a registry of its own, in which nodes may have other addresses.
    pub async fn with_registry(network: &Network, registry: &Path, arguments: &[&str]) -> Self {
        let folder = network.nodes[0].folder();
        let key = folder.join("gateway.key");
        files::write_key(&key, &payer(77));
        let (port, metrics_port) = (ports::free(), ports::free());
        let mut command = Command::new(hawser());
        command
            .arg("gateway")
            .arg("--payer.key-file")
            .arg(key)
            .arg("--registry-file")
            .arg(registry)
            .arg("--rates-file")
            .arg(folder.join("rates.json"))
            .args(["--allow-private-nodes", "--listen-address", "127.0.0.1"])
            .args(["--api.port", &port.to_string()])
            .args(["--metrics.metrics-port", &metrics_port.to_string()])
            .args(["--shutdown-drain", "0s"])
            .args(arguments);
        forget_settings(&mut command);
        let process = Process::start("gateway", command, &folder.join("gateway.output"));
        let gateway = Self { port, metrics_port, process };
        wait::until("the gateway is ready", async || {
            let answer = raw::get(gateway.metrics_port, "/readyz").await;
            answer.is_ok_and(|(status, _)| status == 200).then_some(())
        })
        .await;
        gateway
    }

    /// Returns a new connection to it.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.port)
    }
}
