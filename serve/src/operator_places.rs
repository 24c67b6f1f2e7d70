//! Bounds on the connections to the operators' port, so that no caller keeps the probes of another one out.
//!
//! The process cannot tell a probe from a flood before it has read a request. So each address has a part of the places
//! only, and an address with few connections takes the place of one with many. The machine itself has places of its
//! own: its probes decide whether a supervisor restarts the process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::connection_slots::{ConnectionLimits, ConnectionSlot, ConnectionSlots, NoSlotError};

/// Connections from other addresses than the machine's own. A guess: probes and scrapers need a few, and each costs a
/// descriptor. An eighth of them is taken only while others end.
const OTHERS_MAX: usize = 32;
/// Connections of one other address: a quarter. A guess: a machine that watches has a probe and a few scrapers.
const PER_ADDRESS_MAX: usize = 8;
/// Connections from the machine itself. A guess: as many as from all others, because a proxy on the machine may bring
/// all callers.
const OWN_MACHINE_MAX: usize = 32;
/// Connections in all.
pub(crate) const ALL_MAX: usize = OWN_MACHINE_MAX + OTHERS_MAX;

/// The places of the port.
#[derive(Debug)]
pub(crate) struct OperatorPlaces {
    own_machine: ConnectionSlots,
    others: ConnectionSlots,
}

impl OperatorPlaces {
    pub(crate) fn new() -> Self {
        let slots = |all_max, per_address_max| {
            ConnectionSlots::new(ConnectionLimits { all_max, per_address_max })
        };
        Self {
            own_machine: slots(OWN_MACHINE_MAX, OWN_MACHINE_MAX),
            others: slots(OTHERS_MAX, PER_ADDRESS_MAX),
        }
    }

    /// Takes a place for a connection. Its [`ended`](ConnectionSlot::ended) tells when another address gets the place.
    ///
    /// # Errors
    /// [`NoSlotError`]; the connection has to be closed.
    pub(crate) fn take(&self, caller: IpAddr) -> Result<ConnectionSlot, NoSlotError> {
        let slots = if is_own_machine(caller) { &self.own_machine } else { &self.others };
        slots.take(Some(caller.into()))
    }
}

/// Returns true for the two addresses at which programs on one machine reach each other by default. No packet from
/// outside has one of them.
fn is_own_machine(caller: IpAddr) -> bool {
    let caller = caller.to_canonical();
    caller == IpAddr::V4(Ipv4Addr::LOCALHOST) || caller == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use http::StatusCode;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::pages::{Page, Pages, bind, plain};

    struct Alive;

    impl Pages for Alive {
        fn show(&self, _: &str, _: &str) -> Page {
            plain(StatusCode::OK, "alive\n")
        }
    }

    /// Starts a port at a loopback address.
    async fn port(stop: &CancellationToken) -> SocketAddr {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        bind(Arc::new(Alive), any, stop.clone()).await.unwrap().0
    }

    /// Connects from a loopback address and asks for the sign of life. Returns the open connection if it is served.
    async fn ask(port: SocketAddr, from: u8) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
        let mut stream = socket.connect(port).await.unwrap();
        let mut answer = [0; 12];
        // Both fail if the port has closed the connection.
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.ok()?;
        stream.read_exact(&mut answer).await.ok()?;
        assert_eq!(&answer, b"HTTP/1.1 200");
        Some(stream)
    }

    #[tokio::test]
    async fn one_address_takes_a_part_of_the_places_and_keeps_no_probe_out() {
        let stop = CancellationToken::new();
        let port = port(&stop).await;
        let mut held = Vec::new();
        for _ in 0..3 * OTHERS_MAX {
            held.extend(ask(port, 2).await);
        }
        assert_eq!(held.len(), PER_ADDRESS_MAX);
        assert!(ask(port, 3).await.is_some(), "a probe from another machine");
        assert!(ask(port, 1).await.is_some(), "a probe from this machine");
        stop.cancel();
    }

    #[tokio::test]
    async fn addresses_that_dial_again_and_again_keep_no_probe_out() {
        let stop = CancellationToken::new();
        let port = port(&stop).await;
        let mut held = Vec::new();
        for _ in 0..3 * PER_ADDRESS_MAX {
            for from in 10..16 {
                held.extend(ask(port, from).await);
            }
        }
        assert!(held.len() >= OTHERS_MAX - OTHERS_MAX / 8, "all places are taken");
        assert!(ask(port, 3).await.is_some(), "a probe from another machine");
        assert!(ask(port, 1).await.is_some(), "a probe from this machine");
        stop.cancel();
    }

    #[tokio::test]
    async fn programs_on_the_machine_itself_leave_places_to_others() {
        let stop = CancellationToken::new();
        let port = port(&stop).await;
        let mut held = Vec::new();
        for _ in 0..3 * OWN_MACHINE_MAX {
            held.extend(ask(port, 1).await);
        }
        assert!(held.len() <= OWN_MACHINE_MAX);
        assert!(ask(port, 3).await.is_some());
        stop.cancel();
    }

    #[test]
    fn the_machine_is_known_by_the_addresses_of_its_loopback() {
        for (address, own) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("127.0.0.2", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!(is_own_machine(address.parse().unwrap()), own, "{address}");
        }
    }
}
