//! The ports of a development network.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use hawser_node::error::RunError;

use crate::commands::chain::{APP_OFFSET, SETTLEMENT_OFFSET};

/// Default port of the first node's API: that of the reference implementation.
pub(super) const BASE_DEFAULT: u16 = 5050;
/// Time that an earlier run, which is just ending, gets to free its ports. A guess.
const WAIT_FOR_PORTS: Duration = Duration::from_secs(5);
/// Time between two checks of the ports. A guess.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The ports of one node, on this machine only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DevPorts {
    pub(super) node_id: u32,
    api: u16,
    metrics: u16,
}

impl DevPorts {
    /// Returns the ports of all nodes of a network that has lost none, as [`Self::of_node`].
    ///
    /// # Errors
    /// When the ports do not fit below 65536.
    #[cfg(test)]
    pub(super) fn of_network(nodes: u16, base: u16) -> Result<Vec<Self>, RunError> {
        (1..=u32::from(nodes)).map(|number| Self::of_node(number * 100, base)).collect()
    }

    /// Returns the ports of a node. Node i, counted from 0, has the id 100·(i + 1), its API at `base` + 100·i, and its
    /// metrics on the next port.
    ///
    /// # Errors
    /// When the ports do not fit below 65536.
    pub(super) fn of_node(node_id: u32, base: u16) -> Result<Self, RunError> {
        let offset = node_id.checked_sub(100).and_then(|offset| u16::try_from(offset).ok());
        let api = offset.and_then(|offset| base.checked_add(offset));
        let ports = api.and_then(|api| Some(Self { node_id, api, metrics: api.checked_add(1)? }));
        ports.ok_or_else(|| {
            RunError::usage(format!(
                "the ports of node {node_id} from port {base} on do not fit below 65536: choose a lower --base-port"
            ))
        })
    }

    /// API over TCP and QUIC over UDP.
    pub(super) fn api(self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.api))
    }

    /// Metrics, health and status.
    pub(super) fn metrics(self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.metrics))
    }

    /// Returns the ports that another process uses.
    fn in_use(self) -> Vec<String> {
        let Self { node_id, api, metrics } = self;
        let taken = [
            (TcpListener::bind(self.api()).is_err(), format!("{api}/tcp (API of node {node_id})")),
            (UdpSocket::bind(self.api()).is_err(), format!("{api}/udp (QUIC of node {node_id})")),
            (
                TcpListener::bind(self.metrics()).is_err(),
                format!("{metrics}/tcp (metrics of node {node_id})"),
            ),
        ];
        taken.into_iter().filter(|(taken, _)| *taken).map(|(_, name)| name).collect()
    }
}

/// The ports of gateway and chains, on this machine only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SharedPorts {
    base: u16,
}

/// Port of the gateway's API, counted from the base port; its metrics are on the next one.
const GATEWAY_OFFSET: u16 = 2;

impl SharedPorts {
    /// Returns the ports of a network at `base`: the gateway is on `base` + 2 and its metrics on the
    /// next port, the app chain on `base` + 10, the settlement chain on `base` + 11.
    ///
    /// # Errors
    /// When the ports do not fit below 65536.
    pub(super) fn of_network(base: u16) -> Result<Self, RunError> {
        match base.checked_add(SETTLEMENT_OFFSET) {
            Some(_) => Ok(Self { base }),
            None => Err(RunError::usage(format!(
                "chains beside port {base} do not fit below 65536: choose a lower --base-port"
            ))),
        }
    }

    /// The network's base port.
    pub(super) fn base(self) -> u16 {
        self.base
    }

    fn at(self, offset: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.base + offset))
    }

    /// The gateway's API.
    pub(super) fn gateway(self) -> SocketAddr {
        self.at(GATEWAY_OFFSET)
    }

    /// The gateway's metrics and health.
    pub(super) fn gateway_metrics(self) -> SocketAddr {
        self.at(GATEWAY_OFFSET + 1)
    }

    /// HTTP and WebSocket of the app chain.
    pub(super) fn app(self) -> SocketAddr {
        self.at(APP_OFFSET)
    }

    /// HTTP and WebSocket of the settlement chain.
    pub(super) fn settlement(self) -> SocketAddr {
        self.at(SETTLEMENT_OFFSET)
    }

    fn in_use(self) -> Vec<String> {
        let all = [
            (self.gateway(), "gateway"),
            (self.gateway_metrics(), "metrics of the gateway"),
            (self.app(), "app chain"),
            (self.settlement(), "settlement chain"),
        ];
        let taken = all.into_iter().filter(|(address, _)| TcpListener::bind(address).is_err());
        taken.map(|(address, name)| format!("{}/tcp ({name})", address.port())).collect()
    }
}

/// Waits a moment for all ports to be free. Those of gateway and chains are left out if `shared` is `None`.
///
/// # Errors
/// When ports stay in use; the error names all of them.
pub(super) async fn require_free(
    nodes: &[DevPorts],
    shared: Option<SharedPorts>,
) -> Result<(), RunError> {
    let deadline = Instant::now() + WAIT_FOR_PORTS;
    loop {
        let in_use = nodes.iter().flat_map(|ports| ports.in_use());
        let of_others = shared.map(SharedPorts::in_use).unwrap_or_default();
        let in_use: Vec<_> = in_use.chain(of_others).collect();
        if in_use.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(RunError::failed(format!(
                "another process uses {}: stop it, or choose another --base-port",
                in_use.join(", ")
            )));
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_a_hundred_ports_apart() {
        let ports = DevPorts::of_network(3, BASE_DEFAULT).unwrap();
        let all: Vec<_> =
            ports.iter().map(|p| (p.node_id, p.api().port(), p.metrics().port())).collect();
        assert_eq!(all, [(100, 5050, 5051), (200, 5150, 5151), (300, 5250, 5251)]);
        assert!(DevPorts::of_network(2, 65_500).is_err());
        assert!(DevPorts::of_network(1, 65_535).is_err());
        assert!(DevPorts::of_network(1, 65_534).is_ok());
    }

    #[test]
    fn gateway_and_chains_lie_beside_the_first_node() {
        let shared = SharedPorts::of_network(BASE_DEFAULT).unwrap();
        assert_eq!((shared.gateway().port(), shared.gateway_metrics().port()), (5052, 5053));
        assert_eq!((shared.app().port(), shared.settlement().port()), (5060, 5061));
        assert!(SharedPorts::of_network(65_525).is_err());
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let shared = SharedPorts::of_network(port - APP_OFFSET).unwrap();
        assert!(shared.in_use().contains(&format!("{port}/tcp (app chain)")));
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let api = listener.local_addr().unwrap().port();
        let ports = DevPorts { node_id: 100, api, metrics: 1 };
        assert!(ports.in_use()[0].starts_with(&format!("{api}/tcp (API of node 100)")));
    }
}
