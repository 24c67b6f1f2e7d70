//! Looks up the host names of nodes. A node's operator chooses the name, and the name's DNS server chooses the
//! addresses. The server may never answer, or may return addresses at which no node is.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use std::vec::IntoIter;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::networks::DialledNetworks;

/// The maximum number of addresses of a name that are dialled. A guess: IPv4 and IPv6, and a few hosts. An answer has
/// room for thousands, which would make this process dial foreign hosts for hours.
pub(crate) const ADDRESSES_MAX: usize = 8;
/// The longest wait for an answer. A guess: DNS servers answer sooner, also across the world.
const LOOK_UP_MAX: Duration = Duration::from_secs(3);
/// The maximum number of look-ups of the process at a time. A guess: a quarter of the threads that tokio has for
/// blocking work.
const AT_ONCE_MAX: usize = 128;

const NEVER_CLOSED: &str = "the semaphore is never closed";

/// The turns of all look-ups of the process.
static TURNS: LazyLock<LookUpTurns> = LazyLock::new(|| LookUpTurns::new(AT_ONCE_MAX));

/// Looks up a host, and returns those of its first eight addresses that are in `networks`. A `host` that is an address
/// itself is not looked up.
///
/// # Errors
/// Fails when no server answers within 3 s, and with `PermissionDenied` when none of the addresses is in `networks`.
pub async fn look_up(
    host: String,
    port: u16,
    networks: DialledNetworks,
) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse() {
        return networks.of(vec![SocketAddr::new(address, port)]);
    }
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the name was not resolved in time");
    let name = host.clone();
    let found = TURNS.look_up(name, move || (host, port).to_socket_addrs());
    networks.of(timeout(LOOK_UP_MAX, found).await.unwrap_or_else(|_| Err(late()))?)
}

/// Turns of look-ups: one for each name, and some for all names together.
///
/// A look-up occupies a blocking thread until the system gives up, which may be long after its caller has. Without
/// turns, names whose servers never answer would occupy all of these threads.
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
        let of = |host: &str, networks| look_up(host.to_owned(), 1, networks);
        assert_eq!(of("127.0.0.1", DialledNetworks::All).await.unwrap(), addresses(1));
        assert!(!of("localhost", DialledNetworks::All).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_name_of_private_addresses_alone_has_none_to_dial() {
        for host in ["localhost", "127.0.0.1", "::1"] {
            let refused = look_up(host.to_owned(), 1, DialledNetworks::Public).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{host}");
        }
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
