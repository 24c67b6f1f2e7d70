//! The two ends of a connection over QUIC, for tests of its streams.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;

use hawser_proto::SecretKey;
use quinn::{Connection, Endpoint, TokioRuntime};
use tokio::runtime::{Builder, Runtime};

use crate::tls::SERVER_NAME;
use crate::transport;

/// One end of a connection, with threads of its own.
pub(crate) struct ThreadedEnd {
    pub(crate) runtime: Runtime,
    endpoint: Endpoint,
}

impl ThreadedEnd {
    pub(crate) fn new(key: u8) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let within = runtime.enter();
        let key = SecretKey::from_bytes(&[key; 32]).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut endpoint = Endpoint::new(
            transport::endpoint(&key),
            Some(transport::server().unwrap()),
            socket,
            Arc::new(TokioRuntime),
        )
        .unwrap();
        endpoint.set_default_client_config(transport::client().unwrap());
        drop(within);
        Self { runtime, endpoint }
    }
}

/// Returns the connection of a node, and that of the peer, who has dialled it. Both have proved their ids.
pub(crate) fn connect(node: &ThreadedEnd, peer: &ThreadedEnd) -> (Connection, Connection) {
    let accepting = node.endpoint.clone();
    let accepted =
        node.runtime.spawn(async move { accepting.accept().await.unwrap().await.unwrap() });
    let address = node.endpoint.local_addr().unwrap();
    let dialled = peer
        .runtime
        .block_on(async { peer.endpoint.connect(address, SERVER_NAME).unwrap().await.unwrap() });
    let accepted = node.runtime.block_on(accepted).unwrap();
    [&accepted, &dialled].into_iter().for_each(transport::open_up);
    (accepted, dialled)
}
