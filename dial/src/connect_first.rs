//! Connects to a host with several addresses, some of which may not answer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time after which the next address is tried beside those that have not answered. Specified: RFC 8305 §5.
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// Connects to the first of `addresses` that accepts a connection. The caller limits the time.
///
/// # Errors
/// The last error, when no address accepts one; `NotFound` when there is no address.
pub async fn connect_first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let stream = first_in_turn(addresses, TcpStream::connect).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn first_in_turn<T, F: Future<Output = io::Result<T>>>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut left = addresses.into_iter();
    let mut connecting = FuturesUnordered::new();
    loop {
        connecting.extend(left.next().map(&connect));
        let wait = if left.as_slice().is_empty() { Duration::MAX } else { NEXT_AFTER };
        match timeout(wait, connecting.next()).await {
            Ok(Some(Ok(stream))) => return Ok(stream),
            Ok(Some(Err(error))) => last = error,
            Ok(None) => return Err(last),
            Err(_) => {} // the next address has its turn beside this one
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Vec<SocketAddr> {
        [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port))).to_vec()
    }

    /// As in a network that drops what is sent over IPv6. One address after the other would never end.
    #[tokio::test]
    async fn an_address_that_never_answers_does_not_hide_the_next_one() {
        let second_answers = |address: SocketAddr| async move {
            if address.port() == 1 {
                std::future::pending::<()>().await;
            }
            Ok(address)
        };
        assert_eq!(first_in_turn(addresses(), second_answers).await.unwrap(), addresses()[1]);
    }

    #[tokio::test]
    async fn the_error_of_the_last_address_is_that_of_the_host() {
        let refused = |address: SocketAddr| async move {
            Err::<(), _>(io::Error::other(address.to_string()))
        };
        let error = first_in_turn(addresses(), refused).await.unwrap_err();
        assert_eq!(error.to_string(), addresses()[1].to_string());
        let none = first_in_turn(Vec::new(), refused).await.unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }
}
