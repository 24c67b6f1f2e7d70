//! Looks up the names of peers. A peer chooses its name, and the server of that name the addresses.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{ToSocketAddrs, lookup_host};
use tokio::time::timeout;

/// The most addresses of a name that are dialled. A guess: both versions of IP, and a few hosts. An answer has room for
/// thousands, which would make this node dial foreign hosts for hours.
const ADDRESSES_MAX: usize = 8;
/// The longest wait for an answer. A guess: servers of names answer sooner, also across the world.
const LOOK_UP_MAX: Duration = Duration::from_secs(3);

/// Returns the first addresses of a name, eight at most.
///
/// # Errors
/// Fails when the name has no address, or no server answers in time.
pub(crate) async fn look_up(place: impl ToSocketAddrs) -> io::Result<Vec<SocketAddr>> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the name was not resolved in time");
    let found = timeout(LOOK_UP_MAX, lookup_host(place)).await.unwrap_or_else(|_| Err(late()))?;
    Ok(found.take(ADDRESSES_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_thousands_of_addresses_of_a_name_few_are_dialled() {
        let all: Vec<_> = (1..5000).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        assert_eq!(look_up(&all[..]).await.unwrap(), all[..ADDRESSES_MAX]);
        assert_eq!(look_up(&all[..1]).await.unwrap(), all[..1]);
    }
}
