//! A WebSocket of a chain, tried once: for operators who want to know whether it serves.

use std::time::Duration;

use alloy::providers::{Provider as _, ProviderBuilder, WsConnect};
use tokio::time::timeout;

use super::fetch::FetchedBlock;
use crate::send::{innermost, install_cryptography};

/// Time limit for connecting, two questions and a subscription. That of the reader's own.
const TRY_MAX: Duration = Duration::from_secs(10);

/// Connects to a WebSocket, asks it for its chain and its newest block, and subscribes to new ones. Returns the number of the
/// block.
///
/// # Errors
/// The reason why a reader could not use it, without the URL.
pub async fn try_push(url: &str, chain_id: u64) -> Result<u64, String> {
    let tried = timeout(TRY_MAX, answer(url, chain_id)).await;
    tried.unwrap_or_else(|_| Err(format!("no answer within {} s", TRY_MAX.as_secs())))
}

async fn answer(url: &str, chain_id: u64) -> Result<u64, String> {
    install_cryptography();
    let connect = WsConnect::new(url).with_max_retries(1);
    let provider = ProviderBuilder::new().disable_recommended_fillers().connect_ws(connect);
    let provider = provider.await.map_err(|error| innermost(&error))?;
    let id = provider.get_chain_id().await.map_err(|error| innermost(&error))?;
    if id != chain_id {
        return Err(format!("it serves chain {id} instead of {chain_id}"));
    }
    let head = provider.get_block_number().await.map_err(|error| innermost(&error))?;
    let heads = provider.subscribe::<_, FetchedBlock>(("newHeads",)).await;
    heads.map_err(|error| innermost(&error)).map(|_| head)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_no_websocket_is_an_error_that_does_not_tell_the_url() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
            }
        });
        let error = try_push(&format!("ws://{address}/secret"), 1).await.unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        let error = try_push("no url/secret", 1).await.unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
