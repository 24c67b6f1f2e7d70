//! Port numbers that are free.

use std::collections::HashMap;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::LazyLock;

use parking_lot::Mutex;
use rand::RngExt as _;

/// The range of ports. Below the system's range for outgoing connections, so that a connection cannot take a port
/// between this check and the node's bind.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// The ports that this process has returned, each with the lock that keeps it from other processes of tests.
static GIVEN: LazyLock<Mutex<HashMap<u16, File>>> = LazyLock::new(Mutex::default);

/// Returns a port on the loopback interface that is free for TCP and UDP, and that this process has not returned
/// before.
///
/// # Panics
/// Panics if a few hundred guesses in a row are taken.
#[must_use]
pub fn free() -> u16 {
    take(&[0])
}

/// Returns a base port for `hawser dev`: all ports that it assigns for `nodes` nodes are free.
///
/// # Panics
/// Panics if a few hundred guesses in a row are taken.
#[must_use]
pub fn dev_base(nodes: u16) -> u16 {
    let nodes = (0..nodes).flat_map(|node| [100 * node, 100 * node + 1]);
    // The further offsets are those of the gateway and the chains.
    let offsets: Vec<u16> = nodes.chain([2, 3, 10, 11]).collect();
    take(&offsets)
}

/// Returns a port that is free together with those at `offsets` from it.
fn take(offsets: &[u16]) -> u16 {
    // Random, because concurrent test processes must not try the same ports in the same order.
    let mut rng = rand::rng();
    let mut given = GIVEN.lock();
    for _ in 0..500 {
        let base = rng.random_range(RANGE.start..RANGE.end - offsets.iter().max().unwrap_or(&0));
        let ports = offsets.iter().map(|offset| base + offset);
        let reserved: Option<Vec<(u16, File)>> = ports
            .map(|port| match given.contains_key(&port) {
                true => None,
                false => Some((port, reserve(port)?)),
            })
            .collect();
        if let Some(reserved) = reserved {
            given.extend(reserved);
            return base;
        }
    }
    panic!("no free ports in {RANGE:?}");
}

/// Returns a lock on the port, which ends with this process, or nothing if the port is in use. Between this check and
/// the node's bind only another process of tests would take a port of the range.
fn reserve(port: u16) -> Option<File> {
    let folder = std::env::temp_dir().join("hawser-test-ports");
    std::fs::create_dir_all(&folder).ok()?;
    let lock = File::create(folder.join(port.to_string())).ok()?;
    lock.try_lock().ok()?;
    let address = (Ipv4Addr::LOCALHOST, port);
    let is_free = TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok();
    is_free.then_some(lock)
}
