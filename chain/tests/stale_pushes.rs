//! Tests of reading a chain while its WebSocket announces an old head again and again, or serves another chain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::broadcaster::{Memory, TestBroadcaster, until};
use crate::pair::{APP_ID, ChainBackend};

/// Starts a WebSocket of the chain `id` that announces a block of height 1 several times a second, and no log.
async fn repeating(id: Arc<AtomicU64>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(repeat(stream, id.clone()));
        }
    });
    url
}

async fn repeat(stream: TcpStream, id: Arc<AtomicU64>) {
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    let word = |digits: &str| format!("0x{}", digits.repeat(32));
    let head = json!({
        "number": "0x1", "hash": word("aa"), "parentHash": word("bb"), "timestamp": "0x1",
    });
    let params = json!({ "subscription": "0x11", "result": head });
    let news = json!({ "jsonrpc": "2.0", "method": "eth_subscription", "params": params });
    let mut is_subscribed = false;
    loop {
        let message = tokio::time::timeout(Duration::from_millis(200), socket.next()).await;
        let answer = match message {
            Ok(Some(Ok(message))) => {
                let Ok(asked) = serde_json::from_slice::<Value>(&message.into_data()) else {
                    continue;
                };
                let result = match asked["params"][0].as_str() {
                    Some("newHeads") => json!("0x11"),
                    Some(_) => json!("0x12"),
                    None if asked["method"] == "eth_subscribe" => json!("0x12"),
                    None => json!(format!("0x{:x}", id.load(Ordering::Relaxed))),
                };
                is_subscribed |= result == "0x11";
                json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result })
            }
            Ok(_) => return,
            Err(_) if is_subscribed => news.clone(),
            Err(_) => continue,
        };
        if socket.send(Message::text(answer.to_string())).await.is_err() {
            return;
        }
    }
}

/// While announcements are recent, the chain is hardly polled.
#[tokio::test]
async fn a_websocket_that_repeats_an_old_head_stops_no_reading() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let (memory, id) = (Arc::new(Memory::default()), Arc::new(AtomicU64::new(APP_ID)));
    let reader = chain.read(&[chain.url()], vec![repeating(id).await], &memory);
    let view = reader.view();
    until("heads are announced", || view.head().pushed).await;
    chain.send(2).await;
    until("what was sent is there", || memory.payloads() == chain.sent).await;
    assert!(view.head().pushed, "the WebSocket is still in use");
    reader.stop().await;
}

/// Each connection states its chain before it announces anything.
#[tokio::test]
async fn a_websocket_of_another_chain_is_named_and_announces_nothing() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let (memory, id) = (Arc::new(Memory::default()), Arc::new(AtomicU64::new(APP_ID + 1)));
    let reader = chain.read(&[chain.url()], vec![repeating(id.clone()).await], &memory);
    let view = reader.view();
    let foreign = BTreeMap::from([(0, APP_ID + 1)]);
    until("it is named", || view.head().foreign_pushes == foreign).await;
    chain.send(2).await;
    until("what was sent is there", || memory.payloads() == chain.sent).await;
    assert!(!view.head().pushed, "the chain is polled");
    id.store(APP_ID, Ordering::Relaxed);
    until("it serves this chain now", || view.head().pushed).await;
    assert!(view.head().foreign_pushes.is_empty());
    reader.stop().await;
}
