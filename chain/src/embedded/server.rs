//! The listener: JSON-RPC over HTTP and WebSocket on one port.

use std::net::SocketAddr;

use jsonrpsee::RpcModule;
use jsonrpsee::server::{Server, ServerHandle};

use super::settings::{Settings, StartError};

/// A running development chain. It ends when it is stopped or dropped.
#[derive(Debug)]
pub struct EmbeddedChain {
    address: SocketAddr,
    server: ServerHandle,
}

impl EmbeddedChain {
    /// Starts serving.
    ///
    /// # Errors
    /// `Remote` or `Listen` if the address will not do.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let address = settings.listen;
        if !address.ip().is_loopback() && !settings.allow_remote {
            return Err(StartError::Remote { address });
        }
        let listen = |source| StartError::Listen { address, source };
        let server = Server::builder().build(address).await.map_err(listen)?;
        let address = server.local_addr().map_err(listen)?;
        let mut methods = RpcModule::new(settings.chain_id);
        methods
            .register_method("eth_chainId", |_, chain_id, _| format!("{chain_id:#x}"))
            .expect("the first method has a free name");
        Ok(Self { address, server: server.start(methods) })
    }

    /// Where it listens, with the port that was chosen if none was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection and waits for that.
    pub async fn stop(self) {
        if self.server.stop().is_ok() {
            self.server.stopped().await;
        }
    }
}
