//! The listener: JSON-RPC over HTTP and WebSocket on one port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jsonrpsee::RpcModule;
use jsonrpsee::core::traits::IdProvider;
use jsonrpsee::server::{BatchRequestConfig, Server, ServerConfig, ServerHandle};
use jsonrpsee::types::SubscriptionId;
use tokio::task::JoinHandle;
use tower::ServiceBuilder;
use tower_http::cors::CorsLayer;

use super::node::Node;
use super::rpc;
use super::settings::{Settings, StartError};

/// A request, and all requests of a batch together. The largest payload of a broadcaster fits eight
/// times.
const REQUEST_BYTES_MAX: u32 = 5 << 20;
/// An answer, and all answers of a batch together.
const ANSWER_BYTES_MAX: u32 = 64 << 20;
const BATCH_MAX: u32 = 1000;
/// HTTP requests at work and WebSocket connections, together.
const CONNECTIONS_MAX: u32 = 512;
const SUBSCRIPTIONS_OF_CONNECTION_MAX: u32 = 128;
/// Messages that wait for a slow WebSocket client.
const MESSAGES_WAITING_MAX: u32 = 128;

/// A running development chain. It ends when it is stopped or dropped.
#[derive(Debug)]
pub struct EmbeddedChain {
    address: SocketAddr,
    node: Arc<Node>,
    server: ServerHandle,
    miner: JoinHandle<()>,
}

impl EmbeddedChain {
    /// Opens the chain, from its folder if it is kept in one, and serves it.
    ///
    /// # Errors
    /// If the address will not do, or the folder, or the genesis.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let address = settings.listen;
        if !address.ip().is_loopback() && !settings.allow_remote {
            return Err(StartError::Remote { address });
        }
        let listen = |source| StartError::Listen { address, source };
        let server = Server::builder()
            .set_config(config())
            .set_http_middleware(ServiceBuilder::new().layer(CorsLayer::permissive()))
            .build(address)
            .await
            .map_err(listen)?;
        let address = server.local_addr().map_err(listen)?;
        let chain_id = settings.chain_id;
        let opened = tokio::task::spawn_blocking(move || Node::open(&settings));
        let node = Arc::new(opened.await.expect("opening a chain does not panic")?);
        let miner = tokio::spawn(mine_at_intervals(node.clone()));
        let server = server.start(methods(node.clone()));
        tracing::warn!(
            chain_id,
            %address,
            height = node.read().height(),
            "an embedded chain runs: it is for development and tests, whoever reaches it controls it"
        );
        Ok(Self { address, node, server, miner })
    }

    /// Where it listens, with the port that was chosen if none was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, waits for that, and lets go of the folder.
    pub async fn stop(self) {
        self.miner.abort();
        if self.server.stop().is_ok() {
            self.server.clone().stopped().await;
        }
    }
}

impl Drop for EmbeddedChain {
    fn drop(&mut self) {
        self.miner.abort();
        // It may have been stopped before.
        let _ = self.server.stop();
        self.node.close();
    }
}

fn config() -> ServerConfig {
    ServerConfig::builder()
        .max_request_body_size(REQUEST_BYTES_MAX)
        .max_response_body_size(ANSWER_BYTES_MAX)
        .set_batch_request_config(BatchRequestConfig::Limit(BATCH_MAX))
        .max_connections(CONNECTIONS_MAX)
        .max_subscriptions_per_connection(SUBSCRIPTIONS_OF_CONNECTION_MAX)
        .set_message_buffer_capacity(MESSAGES_WAITING_MAX)
        .set_id_provider(HexIds::default())
        .build()
}

/// Subscription ids in the form that Ethereum clients expect.
#[derive(Debug, Default)]
struct HexIds(AtomicU64);

impl IdProvider for HexIds {
    fn next_id(&self) -> SubscriptionId<'static> {
        let id = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        SubscriptionId::Str(format!("{id:#x}").into())
    }
}

fn methods(node: Arc<Node>) -> RpcModule<Node> {
    const FREE: &str = "every method has its own name";
    let mut module = RpcModule::from_arc(node);
    for method in rpc::methods() {
        module
            .register_blocking_method(method.name, move |params, node, _| {
                method.call(&node, params.as_str())
            })
            .expect(FREE);
    }
    module
        .register_subscription(
            "eth_subscribe",
            "eth_subscription",
            "eth_unsubscribe",
            |params, pending, node, _| async move {
                rpc::subscribe::serve(node, params.as_str(), pending).await
            },
        )
        .expect(FREE);
    module
}

/// Makes a block at each interval while there is one, counting from when it was set.
async fn mine_at_intervals(node: Arc<Node>) {
    let mut setting = node.mining.subscribe();
    loop {
        let every = setting.borrow_and_update().every;
        let elapsed = async {
            match every {
                Some(every) => tokio::time::sleep(every).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = setting.changed() => if changed.is_err() { return },
            () = elapsed => {
                let node = node.clone();
                let mined = tokio::task::spawn_blocking(move || node.mine(&mut node.writer(), None));
                if let Ok(Err(error)) = mined.await {
                    tracing::error!(reason = error.message(), "no block was made");
                }
            }
        }
    }
}
