//! Looks up the names of nodes. A node's operator chooses its name, and the server of that name may never answer.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock};
use std::vec::IntoIter;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// The most look-ups of the process at a time. A guess: a quarter of the threads that tokio has for blocking work.
const AT_ONCE_MAX: usize = 128;

const NEVER_CLOSED: &str = "the semaphore is never closed";

/// The turns of all look-ups of the process.
static TURNS: LazyLock<NodeNameTurns> = LazyLock::new(|| NodeNameTurns::new(AT_ONCE_MAX));

/// Returns the addresses of a host. The caller limits the time.
///
/// # Errors
/// Fails when the name has no address.
pub(super) async fn look_up(host: &str, port: u16) -> io::Result<IntoIter<SocketAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![SocketAddr::new(address, port)].into_iter());
    }
    let place = (host.to_owned(), port);
    TURNS.look_up(host.to_owned(), move || place.to_socket_addrs()).await
}

/// Turns of look-ups: one for each name, and some for all names together.
///
/// A look-up holds a thread for blocking work until the system gives it up, which may be long after its caller has.
/// The names of nodes whose servers never answer would else take all of these threads.
struct NodeNameTurns {
    all: Arc<Semaphore>,
    /// The names that are being looked up, or wait for that.
    names: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl NodeNameTurns {
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
    ) -> io::Result<IntoIter<SocketAddr>> {
        let of_name = self.of_name(name).acquire_owned().await.expect(NEVER_CLOSED);
        let of_all = self.all.clone().acquire_owned().await.expect(NEVER_CLOSED);
        let resolving = tokio::task::spawn_blocking(move || {
            let found = resolve();
            drop((of_all, of_name));
            found
        });
        resolving.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Threads for blocking work sign and verify publishes.
    #[tokio::test]
    async fn names_that_are_never_answered_hold_one_thread_each_and_a_part_of_all_threads() {
        let turns = NodeNameTurns::new(3);
        let (answer, answers): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::channel::<()>()).unzip();
        let names = ["first", "first", "first", "second"];
        for (name, answered) in names.into_iter().zip(answers) {
            let hangs = move || {
                let _ = answered.recv(); // an error, when the test ends
                Ok(Vec::new().into_iter())
            };
            let waits = turns.look_up(name.to_owned(), hangs);
            assert!(timeout(Duration::ZERO, waits).await.is_err(), "it hangs");
        }
        let left = || turns.all.available_permits();
        assert_eq!(left(), 1, "the caller is gone, and the two threads are not");
        let works = |name: &str| turns.look_up(name.to_owned(), || Ok(Vec::new().into_iter()));
        assert!(works("third").await.is_ok(), "others are looked up");
        drop(answer);
        assert!(works("first").await.is_ok() && works("second").await.is_ok());
        assert_eq!(left(), 3);
        // Names that are no longer looked up are forgotten. Otherwise this never ends.
        while turns.names.lock().len() > 1 {
            assert!(works("third").await.is_ok());
        }
    }
}
