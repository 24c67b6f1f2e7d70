//! Tests a chain's WebSocket once, for operators who want to know whether a reader could use it.
//!
//! **The endpoint is not trusted.** Text from it is cut to one line without control characters, and a message
//! above a bound closes the connection.

use std::time::Duration;

use alloy::primitives::Address;
use alloy::providers::Provider as _;
use alloy::rpc::types::Filter;
use tokio::time::timeout;

use super::fetch::FetchedBlock;
use super::websocket::{PushError, connect};

/// The time limit for connecting, two requests and two subscriptions; the same as the reader's.
const TRY_MAX: Duration = Duration::from_secs(10);

/// Connects to a WebSocket, requests its chain id and newest block, and subscribes to new heads and to logs. Returns
/// the number of the newest block.
///
/// # Errors
/// The reason why a reader could not use it.
pub async fn try_push(url: &str, chain_id: u64) -> Result<u64, PushError> {
    let tried = timeout(TRY_MAX, answer(url, chain_id)).await;
    tried.unwrap_or_else(|_| {
        let reason = format!("the endpoint did not answer within {} s", TRY_MAX.as_secs());
        Err(PushError::Unusable(reason))
    })
}

/// Returns scheme, host and port of a URL, because the rest may contain a key.
#[must_use]
pub fn display_url(url: &str) -> String {
    let uri = url.parse::<http::Uri>().unwrap_or_default();
    let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", uri.scheme_str().unwrap_or("?"), uri.host().unwrap_or("?"))
}

async fn answer(url: &str, chain_id: u64) -> Result<u64, PushError> {
    let provider = connect(url, chain_id).await?;
    let head = provider.get_block_number().await.map_err(|error| PushError::of(&error))?;
    let heads = provider.subscribe::<_, FetchedBlock>(("newHeads",)).await;
    let _heads = heads.map_err(|error| PushError::of(&error))?;
    // A reader subscribes to the logs of its contracts. Any address shows whether the
    // endpoint accepts the subscription.
    let logs = provider.subscribe_logs(&Filter::new().address(Address::ZERO)).await;
    logs.map_err(|error| PushError::of(&error)).map(|_| head)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::{SinkExt as _, StreamExt as _};
    use serde_json::{Value, json};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::sync::watch;
    use tokio_tungstenite::tungstenite::Message;

    use super::*;
    use crate::endpoints::Endpoints;
    use crate::index::head::{HeadStatus, HeadWatcher};
    use crate::index::websocket::MESSAGE_LEN_BYTES_MAX;

    /// Starts a WebSocket server that answers each method with the given function.
    async fn at(answer: impl Fn(&str) -> Value + Send + Sync + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    let Ok(asked) = serde_json::from_slice::<Value>(&message.into_data()) else {
                        continue;
                    };
                    let named = match asked["params"][0].as_str() {
                        Some(subscription) => subscription,
                        None => asked["method"].as_str().unwrap(),
                    };
                    let mut said = answer(named);
                    said["jsonrpc"] = "2.0".into();
                    said["id"] = asked["id"].clone();
                    let _ = socket.send(Message::text(said.to_string())).await;
                }
            }
        });
        url
    }

    /// The answers of a working endpoint.
    fn well(named: &str) -> Value {
        match named {
            "newHeads" => json!({ "result": "0x11" }),
            "logs" => json!({ "result": "0x12" }),
            "eth_chainId" => json!({ "result": "0x1" }),
            _ => json!({ "result": "0x7" }),
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_refuses_any_subscription_is_of_no_use() {
        assert_eq!(try_push(&at(well).await, 1).await, Ok(7));
        for refused in ["newHeads", "logs"] {
            let url = at(move |named| match named == refused {
                true => json!({ "error": { "code": -32601, "message": "not served" } }),
                false => well(named),
            });
            let error = try_push(&url.await, 1).await.unwrap_err().to_string();
            assert!(error.contains("not served"), "{refused}: {error}");
        }
    }

    #[tokio::test]
    async fn an_endpoint_of_another_chain_is_told_with_both_ids() {
        let told = try_push(&at(well).await, 7).await;
        assert_eq!(told, Err(PushError::WrongChain { found: 1, expected: 7 }));
    }

    /// A provider may lead an open connection to another chain.
    #[tokio::test]
    async fn an_open_websocket_that_changes_its_chain_is_left() {
        let id = Arc::new(AtomicU64::new(1));
        let served = id.clone();
        let url = at(move |named| match named {
            "eth_chainId" => json!({ "result": format!("0x{:x}", served.load(Ordering::Relaxed)) }),
            _ => well(named),
        });
        let (status, mut head) = watch::channel(HeadStatus::default());
        let (stop, stopped) = watch::channel(());
        let watcher = HeadWatcher {
            endpoints: Endpoints::new("test", &["http://127.0.0.1:1".to_owned()], 1).unwrap(),
            status,
            push_urls: vec![url.await],
            contracts: Vec::new(),
            notify: Vec::new(),
            check_every: Duration::from_millis(20),
        };
        let running = tokio::spawn(watcher.run(stopped));
        assert!(head.wait_for(|status| status.pushed).await.unwrap().foreign_pushes.is_empty());
        id.store(2, Ordering::Relaxed);
        let foreign = BTreeMap::from([(0, 2)]);
        let left = head.wait_for(|status| status.foreign_pushes == foreign).await.unwrap().clone();
        assert!(!left.pushed, "its heads do not count");
        drop(stop);
        running.await.unwrap();
    }

    #[test]
    fn a_url_is_told_without_its_path_and_its_user() {
        let url = "wss://me:word@rpc.example:8546/v2/key?a=b";
        assert_eq!(display_url(url), "wss://rpc.example:8546");
        assert_eq!(display_url("no url"), "?://?");
    }

    #[tokio::test]
    async fn an_endpoints_words_are_short_and_move_no_cursor() {
        let words = format!("\u{1b}[2J\r\n{}", "x".repeat(10_000));
        let url = at(move |_| json!({ "error": { "code": -32000, "message": words } })).await;
        let error = try_push(&url, 1).await.unwrap_err().to_string();
        assert!(error.contains("[2J  x"), "{error}");
        assert!(!error.contains(char::is_control), "{error:?}");
        assert!(error.chars().count() < 400, "{error}");
    }

    #[tokio::test]
    async fn a_message_above_the_bound_ends_the_connection() {
        let words = "x".repeat(MESSAGE_LEN_BYTES_MAX);
        let url = at(move |_| json!({ "error": { "code": -32000, "message": words } })).await;
        let error = try_push(&url, 1).await.unwrap_err().to_string();
        assert!(!error.contains("xxx"), "the message was taken: {error}");
    }

    /// Played by an endpoint that ends each connection after its handshake.
    #[tokio::test]
    async fn a_connection_that_has_ended_is_not_opened_again_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let opened = Arc::new(AtomicU64::new(0));
        let counted = opened.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                drop(tokio_tungstenite::accept_async(stream).await);
            }
        });
        let error = try_push(&url, 1).await.unwrap_err();
        assert_eq!(opened.load(Ordering::Relaxed), 1, "{error}");
    }

    /// Played by an endpoint that sends half a million pings before it reads an answer.
    #[tokio::test]
    async fn answers_to_pings_that_the_endpoint_does_not_read_fill_no_memory() {
        const LAST: &[u8] = b"last";
        const MIB: usize = 1024 * 1024;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let connecting = tokio::spawn(async move { connect(&url, 1).await.map(drop) });
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let ping = [&[0x89, 125][..], &[b'p'; 125]].concat();
        let pings = ping.repeat(MIB / ping.len());
        for _ in 0..64 {
            socket.get_mut().write_all(&pings).await.unwrap();
        }
        let (mut asking, mut answers) = socket.split();
        let asking = tokio::spawn(async move {
            while asking.send(Message::Ping(LAST.into())).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let mut answered = 0;
        while let Some(message) = answers.next().await {
            match message.unwrap() {
                Message::Pong(data) if data.as_ref() == LAST => break,
                _ => answered += 1,
            }
        }
        // The sockets hold some MiB, too.
        let answered_mib = answered * ping.len() / MIB;
        assert!(answered_mib < 32, "{answered_mib} MiB of answers had waited");
        asking.abort();
        connecting.abort();
    }

    #[tokio::test]
    async fn what_is_no_websocket_is_an_error_that_does_not_tell_the_url() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
            }
        });
        let error = try_push(&format!("ws://{address}/secret"), 1).await.unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        let error = try_push("no url/secret", 1).await.unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
