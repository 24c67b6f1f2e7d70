//! How QUIC is set up: windows, timeouts, and what survives a restart.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::SecretKey;
use hawser_proto::sign::keccak256;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, ServerConfig,
    TransportConfig, VarInt,
};

use crate::tls::{self, TlsError};

/// What may arrive of one strand before it is read. With a round trip of 100 ms it carries about
/// 40 MB/s, several times what one machine can check.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What may arrive of all strands of one connection. Bounds its memory here.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// What waits in one connection for acknowledgement. Bounds its memory at the sender.
const SEND_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// Strands that a peer may send at a time.
const STREAMS_MAX: u32 = 1024;
/// A connection on which nothing comes for this long is given up.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// An idle connection is probed this often, so that a peer that is gone is missed in time.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// What the round trip is taken for before it is measured; a lost first packet is sent again
/// after three of them.
const INITIAL_RTT: Duration = Duration::from_millis(100);

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(1)) // the control stream
        .datagram_receive_buffer_size(None)
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_MAX.try_into().expect("10 s fit QUIC's milliseconds")));
    config
}

pub(crate) fn server() -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::with_crypto(Arc::new(tls::server()?));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

pub(crate) fn client() -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::new(Arc::new(tls::client()?));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

/// Derives from the node's key what lets a node that was killed tell its peers, when it is back,
/// that their old connections are dead (RFC 9000 §10.3). Without it they would wait for the idle
/// timeout.
pub(crate) fn endpoint(key: &SecretKey) -> EndpointConfig {
    let reset_key = keccak256(&[b"hawser-quic-reset|", &key.to_bytes()]);
    let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_key.0)));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Connection ids that say nothing. The default ones are recognised only by the process that made
/// them, and a packet with any other would not be answered.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Keccak with the key in front is a keyed hash of its own: it has no length extension.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&keccak256(&[&self.0, data]).0);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if keccak256(&[&self.0, data]).0 == signature { Ok(()) } else { Err(CryptoError) }
    }
}
