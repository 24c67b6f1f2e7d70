//! QUIC settings: windows, timeouts, and the reset key that survives a restart.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::SecretKey;
use hawser_proto::frame::MAX_CONTROL_FRAME;
use hawser_proto::sign::keccak256;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, EndpointConfig, ServerConfig,
    TransportConfig, VarInt,
};

use crate::tls::{self, PeerTlsError};

/// Receive window of one stream, which carries one strand. Calculated: with a round trip of 100 ms
/// it carries about 40 MB/s, several times the rate at which one machine verifies envelopes.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Window of a connection in each direction before the peer has proved its id: two control frames of the largest
/// size. Bounds the memory that an unproven peer can fill.
const UNPROVEN_WINDOW_BYTES: u32 = 2 * MAX_CONTROL_FRAME;
/// Connections that wait to be accepted, and bytes that are buffered for one of them and for all. They
/// are accepted at once, so these hold only while the node is overloaded. Guessed.
const INCOMING_MAX: usize = 256;
const INCOMING_BUFFER_BYTES: u64 = 16 * 1024;
const INCOMING_BUFFERS_BYTES: u64 = 1024 * 1024;
/// Receive window of one connection: eight full streams, of which seven may be left unread for long
/// (`receive::WaitingStreams`), because control frames share it. Bounds the receiver's memory per peer.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// Unacknowledged bytes of one connection. Bounds the sender's memory per peer; guessed as two full
/// streams.
const SEND_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// Streams that a peer may have open at a time, one per strand. Guessed: several times the number of
/// originators of any planned network.
const STREAMS_MAX: u32 = 1024;
/// A connection that is silent for this long is closed. Guessed: ten lost probes.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Interval of probes on an idle connection, so that a lost peer is noticed within [`IDLE_MAX`].
/// Guessed.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Round trip assumed before one is measured. A lost first packet is sent again after three of them.
/// Guessed; RFC 9002 §6.2.2 recommends 333 ms, which would delay sessions on lossy links.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Returns the settings of a connection until the peer's proof: small windows, and no stream but the
/// control stream. The window of a stream cannot be changed later; the window of the connection bounds it.
fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(UNPROVEN_WINDOW_BYTES))
        .send_window(UNPROVEN_WINDOW_BYTES.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(1)) // the control stream
        .datagram_receive_buffer_size(None)
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_MAX.try_into().expect("10 s fit QUIC's milliseconds")));
    config
}

/// Gives a connection whose peer has proved its id its streams and windows.
pub(crate) fn open_up(connection: &Connection) {
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    connection.set_send_window(SEND_WINDOW_BYTES);
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX));
}

/// Returns the settings for connections that peers dial.
pub(crate) fn server() -> Result<ServerConfig, PeerTlsError> {
    let mut config = ServerConfig::with_crypto(Arc::new(tls::server()?));
    config
        .transport_config(Arc::new(transport()))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFERS_BYTES);
    Ok(config)
}

/// Returns the settings for connections that this node dials.
pub(crate) fn client() -> Result<ClientConfig, PeerTlsError> {
    let mut config = ClientConfig::new(Arc::new(tls::client()?));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

/// Returns the settings of the socket, with a stateless reset key that is derived from the node's key.
///
/// With this key, a node that restarts after a crash can notify its peers that their old connections are dead
/// (RFC 9000 §10.3). Without it they would wait for the idle timeout.
pub(crate) fn endpoint(key: &SecretKey) -> EndpointConfig {
    let reset_key = keccak256(&[b"hawser-quic-reset|", &key.to_bytes()]);
    let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_key.0)));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Random connection ids. The default ones are recognised only by the process that made them, and a
/// packet with any other id would get no stateless reset.
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

/// Keccak-256 with the key in front as a keyed hash. Keccak has no length extension, so HMAC's second
/// pass is not needed.
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
