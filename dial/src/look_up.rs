//! Looks up the names of nodes. A node's operator chooses its name, and the server of that name the addresses. The
//! server may never answer, and may name addresses at which no node is: those of this machine's link, where machines of
//! a cloud find their credentials.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use std::vec::IntoIter;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The most addresses of a name that are dialled. A guess: both versions of IP, and a few hosts. An answer has room for
/// thousands, which would make this process dial foreign hosts for hours.
pub(crate) const ADDRESSES_MAX: usize = 8;
/// The longest wait for an answer. A guess: servers of names answer sooner, also across the world.
const LOOK_UP_MAX: Duration = Duration::from_secs(3);
/// The most look-ups of the process at a time. A guess: a quarter of the threads that tokio has for blocking work.
const AT_ONCE_MAX: usize = 128;

/// The address at which machines of one cloud find their credentials over IPv6. It lies in a private range, in which
/// nodes may be.
const CREDENTIALS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

const NEVER_CLOSED: &str = "the semaphore is never closed";

/// The turns of all look-ups of the process.
static TURNS: LazyLock<LookUpTurns> = LazyLock::new(|| LookUpTurns::new(AT_ONCE_MAX));

/// Returns the first addresses of a host, eight at most, without those of no node.
///
/// # Errors
/// Fails when the name has no address of a node, or no server answers in time.
pub async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse() {
        return of_nodes(vec![SocketAddr::new(address, port)]);
    }
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the name was not resolved in time");
    let name = host.clone();
    let found = TURNS.look_up(name, move || (host, port).to_socket_addrs());
    of_nodes(timeout(LOOK_UP_MAX, found).await.unwrap_or_else(|_| Err(late()))?)
}

/// Returns the addresses at which a node may be.
///
/// # Errors
/// Fails when there are addresses, and no node may be at any of them.
pub fn of_nodes(mut addresses: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let first = addresses.first().copied();
    addresses.retain(|address| !is_of_no_node(address.ip()));
    match first {
        Some(first) if addresses.is_empty() => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("no node can be at {}: it is not dialled", first.ip()),
        )),
        _ => Ok(addresses),
    }
}

/// Returns true for an address at which no node can be, in whatever network: of this machine's link, of none or of many
/// machines, and of credentials.
#[must_use]
pub fn is_of_no_node(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => {
            let [a, b, c, _] = it.octets();
            // RFC 6890, section 2.2.2: not routed. One provider's machines get their credentials there.
            let is_of_protocols = [a, b, c] == [192, 0, 0];
            let is_of_many = it.is_multicast() || it.is_broadcast();
            a == 0 || it.is_link_local() || is_of_many || is_of_protocols
        }
        IpAddr::V6(it) => {
            it.is_unspecified()
                || it.is_multicast()
                || it.is_unicast_link_local()
                || it == CREDENTIALS_V6
        }
    }
}

/// Turns of look-ups: one for each name, and some for all names together.
///
/// A look-up holds a thread for blocking work until the system gives it up, which may be long after its caller has.
/// The names of nodes whose servers never answer would else take all of these threads.
struct LookUpTurns {
    all: Arc<Semaphore>,
    /// The names that are being looked up, or wait for that.
    names: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl LookUpTurns {
    fn new(at_once_max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(at_once_max)), names: Mutex::default() }
    }

    /// Returns the turn of one name.
    fn of_name(&self, name: String) -> Arc<Semaphore> {
        let mut names = self.names.lock();
        // The other names are no longer looked up.
        names.retain(|_, turn| Arc::strong_count(turn) > 1);
        names.entry(name).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }

    /// Resolves a name on another thread, once the name has its turn. The turn ends with the thread's work, also if the
    /// caller waits no longer.
    async fn look_up(
        &self,
        name: String,
        resolve: impl FnOnce() -> io::Result<IntoIter<SocketAddr>> + Send + 'static,
    ) -> io::Result<Vec<SocketAddr>> {
        let of_name = self.of_name(name).acquire_owned().await.expect(NEVER_CLOSED);
        let of_all = self.all.clone().acquire_owned().await.expect(NEVER_CLOSED);
        let resolving = tokio::task::spawn_blocking(move || {
            let found = resolve();
            drop((of_all, of_name));
            found
        });
        Ok(resolving.await.map_err(io::Error::other)??.take(ADDRESSES_MAX).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    #[tokio::test]
    async fn of_thousands_of_addresses_of_a_name_few_are_dialled() {
        let (turns, all) = (LookUpTurns::new(1), addresses(5000));
        for (known, dialled) in [(all.clone(), ADDRESSES_MAX), (addresses(1), 1)] {
            let found = turns.look_up("name".to_owned(), move || Ok(known.into_iter()));
            assert_eq!(found.await.unwrap(), all[..dialled]);
        }
        assert_eq!(look_up("127.0.0.1".to_owned(), 1).await.unwrap(), addresses(1));
        assert!(!look_up("localhost".to_owned(), 1).await.unwrap().is_empty());
    }

    /// A node with a record in the registry could have all others connect to services of their own machines.
    #[tokio::test]
    async fn no_peer_is_looked_for_where_no_node_can_be() {
        let none = [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "192.0.0.192",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
        ];
        for address in none {
            let refused = look_up(address.to_owned(), 80).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{address}");
        }
        // Networks on one machine, in a data centre and on the internet.
        let nodes = ["127.0.0.1", "10.1.2.3", "192.168.1.2", "100.64.0.1", "8.8.8.8", "::1"];
        for address in nodes.into_iter().chain(["fd00::1", "2606:4700::1111"]) {
            assert_eq!(look_up(address.to_owned(), 80).await.unwrap().len(), 1, "{address}");
        }
        // A name may have addresses of both kinds.
        let at = |address: &str| SocketAddr::new(address.parse().unwrap(), 80);
        let mixed = vec![at("169.254.1.1"), at("10.1.2.3")];
        assert_eq!(of_nodes(mixed).unwrap(), [at("10.1.2.3")]);
        assert!(of_nodes(Vec::new()).unwrap().is_empty(), "the caller names this failure");
    }

    /// Threads for blocking work sign, verify and read for all callers.
    #[tokio::test]
    async fn names_that_are_never_answered_hold_one_thread_each_and_a_part_of_all_threads() {
        let turns = LookUpTurns::new(3);
        let (answer, answers): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::channel::<()>()).unzip();
        let names = ["first", "first", "first", "second"];
        for (name, answered) in names.into_iter().zip(answers) {
            let hangs = move || {
                let _ = answered.recv(); // an error, when the test ends
                Ok(addresses(1).into_iter())
            };
            let waits = turns.look_up(name.to_owned(), hangs);
            assert!(timeout(Duration::ZERO, waits).await.is_err(), "it hangs");
        }
        let left = || turns.all.available_permits();
        assert_eq!(left(), 1, "the caller is gone, and the two threads are not");
        let works = |name: &str| turns.look_up(name.to_owned(), || Ok(addresses(1).into_iter()));
        assert_eq!(works("third").await.unwrap(), addresses(1), "others are looked up");
        drop(answer);
        works("first").await.unwrap();
        works("second").await.unwrap();
        assert_eq!(left(), 3);
        // Names that are no longer looked up are forgotten. Otherwise this never ends.
        while turns.names.lock().len() > 1 {
            works("third").await.unwrap();
        }
    }
}
