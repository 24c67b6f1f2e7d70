//! A peer that says what a test wants it to say, over a QUIC of its own.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hawser_proto::frame::{
    ALPN, BatchBuilder, BatchPush, CloseCode, ControlDecoder, ControlFrame, DataDecoder, DataFrame,
    EXPORTER_LABEL, Hello, NodeProof, Role, StreamHeader, VERSION, WantFrame, WantRefused,
    proof_preimage,
};
use hawser_proto::sign::keccak256;
use hawser_proto::{Cursor, OriginatorId, SecretKey, SequenceId};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, VarInt,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;

use super::envelopes::key;
use super::network::{Node, WAIT_MAX};

/// One connection to a node under test.
pub struct RawPeer {
    pub connection: Connection,
    send: SendStream,
    receive: RecvStream,
    decoder: ControlDecoder,
    /// The bits of its hello.
    pub features: u64,
    endpoint: Endpoint,
}

impl RawPeer {
    /// Connects, and has proved nothing yet.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_from(Ipv4Addr::LOCALHOST, address).await.unwrap()
    }

    /// Connects from an address of this machine.
    ///
    /// # Errors
    /// The error of a connection that the node has refused.
    pub async fn connect_from(own: Ipv4Addr, address: SocketAddr) -> Result<Self, ConnectionError> {
        Self::connect_with(own, address, TransportConfig::default()).await
    }

    /// Connects, and lets the node send so many bytes on a stream before they are read.
    pub async fn connect_with_window(address: SocketAddr, window_bytes: u32) -> Self {
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(window_bytes));
        Self::connect_with(Ipv4Addr::LOCALHOST, address, transport).await.unwrap()
    }

    async fn connect_with(
        own: Ipv4Addr,
        address: SocketAddr,
        transport: TransportConfig,
    ) -> Result<Self, ConnectionError> {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_early_data = true;
        let config = QuicClientConfig::try_from(config).unwrap();
        let mut endpoint = Endpoint::client(SocketAddr::from((own, 0))).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(config));
        config.transport_config(Arc::new(transport));
        endpoint.set_default_client_config(config);
        let connection = endpoint.connect(address, "hawser").unwrap().await?;
        let (send, receive) = connection.open_bi().await.unwrap();
        let decoder = ControlDecoder::new();
        Ok(Self { connection, send, receive, decoder, features: 0, endpoint })
    }

    /// Returns true if the node takes data of this peer before the handshake of a further connection.
    pub fn may_send_early(&self) -> bool {
        let address = self.connection.remote_address();
        self.endpoint.connect(address, "hawser").unwrap().into_0rtt().is_ok()
    }

    /// Goes on from another port, like behind a gateway that has given it a new one.
    pub fn move_to_another_port(&self) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        self.endpoint.rebind(socket).unwrap();
    }

    /// Connects to a node and proves to be `own`.
    pub async fn join(node: &Node, own: u32) -> Self {
        Self::join_with(node, own, 0).await
    }

    /// Connects to a node, and proves to be `own`, which has these features.
    pub async fn join_with(node: &Node, own: u32, features: u64) -> Self {
        let mut raw = Self::connect(node.endpoint.local_addr()).await;
        raw.features = features;
        raw.prove(OriginatorId(own), &key(OriginatorId(own)), node.id).await;
        raw
    }

    /// Performs the handshake as `own` with this key, and returns the signed bytes.
    pub async fn prove(
        &mut self,
        own: OriginatorId,
        key: &SecretKey,
        peer: OriginatorId,
    ) -> [u8; 65] {
        let _ = self.greet(own).await;
        self.prove_after_greeting(own, key, peer).await
    }

    /// Sends the proof, after the greeting. Returns what it signed.
    pub async fn prove_after_greeting(
        &mut self,
        own: OriginatorId,
        key: &SecretKey,
        peer: OriginatorId,
    ) -> [u8; 65] {
        let digest = keccak256(&[&proof_preimage(Role::Dialler, own, peer, &self.exporter())]);
        let signature = *key.sign(digest).as_bytes();
        self.say(ControlFrame::Proof(NodeProof { node_id: own, signature })).await;
        signature
    }

    /// Says hello as `own`; gives the node's own proof.
    pub async fn greet(&mut self, own: OriginatorId) -> NodeProof {
        let clock = Cursor::new();
        let versions = vec![VERSION];
        let features = self.features;
        self.say(ControlFrame::Hello(Hello { versions, features, node_id: own, clock })).await;
        let ControlFrame::Hello(_) = self.hear().await else { panic!("a hello comes first") };
        let ControlFrame::Proof(proof) = self.hear().await else { panic!("then the proof") };
        proof
    }

    pub fn exporter(&self) -> [u8; 32] {
        let mut exporter = [0; 32];
        self.connection.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]).unwrap();
        exporter
    }

    pub async fn say(&mut self, frame: ControlFrame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes).unwrap();
        self.say_bytes(&bytes).await;
    }

    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.unwrap();
    }

    pub async fn hear(&mut self) -> ControlFrame {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let chunk = timeout(WAIT_MAX, self.receive.read_chunk(1 << 16, true)).await;
            let chunk = chunk.expect("the node says something").unwrap().unwrap();
            self.decoder.push(chunk.bytes);
        }
    }

    /// The next want for a strand; everything else is passed over.
    pub async fn hear_want(&mut self, originator: u32) -> WantFrame {
        loop {
            if let ControlFrame::Want(want) = self.hear().await
                && want.originator.0 == originator
            {
                return want;
            }
        }
    }

    /// The next want that is refused; everything else is passed over.
    pub async fn hear_refused(&mut self) -> WantRefused {
        loop {
            if let ControlFrame::Refused(refused) = self.hear().await {
                return refused;
            }
        }
    }

    /// Opens a stream that answers a want.
    pub async fn open(&self, originator: OriginatorId, after: SequenceId) -> Strand {
        self.open_for(StreamHeader { originator, after, want: None }).await
    }

    /// Opens a stream with this header.
    pub async fn open_for(&self, header: StreamHeader) -> Strand {
        let mut strand = Strand(self.connection.open_uni().await.unwrap());
        strand.send(DataFrame::Header(header)).await;
        strand
    }

    /// Opens a stream for the next want for a strand.
    pub async fn open_wanted(&mut self, originator: u32) -> Strand {
        let want = self.hear_want(originator).await;
        self.open(want.originator, want.after).await
    }

    /// Answers the next want for a strand with these envelopes.
    pub async fn answer(&mut self, originator: u32, envelopes: &[Bytes]) -> Strand {
        let mut strand = self.open_wanted(originator).await;
        strand.send_batch(envelopes).await;
        strand
    }

    /// Takes the next stream that the node opens.
    pub async fn accept(&self) -> SentStrand {
        let stream = timeout(WAIT_MAX, self.connection.accept_uni()).await;
        let stream = stream.expect("the node opens a stream").unwrap();
        SentStrand { stream, decoder: DataDecoder::new() }
    }

    /// Reads the next stream that the node opens to its end.
    pub async fn read_strand(&self) -> Vec<DataFrame> {
        let mut stream = self.connection.accept_uni().await.unwrap();
        let (mut decoder, mut frames) = (DataDecoder::new(), Vec::new());
        while let Some(chunk) = stream.read_chunk(1 << 16, true).await.unwrap() {
            decoder.push(chunk.bytes);
            while let Some(frame) = decoder.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        decoder.finish().unwrap();
        frames
    }

    /// With what the node closes the connection.
    pub async fn closed(&self) -> Option<CloseCode> {
        closed(&self.connection).await
    }
}

/// With what the other end closes a connection.
pub async fn closed(connection: &Connection) -> Option<CloseCode> {
    match timeout(WAIT_MAX, connection.closed()).await.expect("the connection is closed") {
        ConnectionError::ApplicationClosed(close) => {
            CloseCode::from_code(close.error_code.into_inner())
        }
        error => panic!("not closed by the node: {error}"),
    }
}

/// A listener that accepts connections and sends nothing.
pub struct SilentServer(Endpoint);

impl SilentServer {
    pub fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["hawser".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let config = QuicServerConfig::try_from(config).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(config));
        Self(Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Accepts the next connection.
    pub async fn accept(&self) -> Connection {
        self.0.accept().await.unwrap().await.unwrap()
    }
}

/// One stream of a node under test.
pub struct SentStrand {
    stream: RecvStream,
    decoder: DataDecoder,
}

impl SentStrand {
    /// Reads the next frame.
    pub async fn next(&mut self) -> DataFrame {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let chunk = timeout(WAIT_MAX, self.stream.read_chunk(1 << 16, true)).await;
            self.decoder.push(chunk.expect("the node sends on").unwrap().unwrap().bytes);
        }
    }
}

/// One stream to a node under test.
pub struct Strand(pub SendStream);

impl Strand {
    pub async fn send(&mut self, frame: DataFrame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.0.write_all(&bytes).await.unwrap();
    }

    /// Sends the envelopes as one batch.
    pub async fn send_batch(&mut self, envelopes: &[Bytes]) {
        let mut batch = BatchBuilder::new(u32::MAX);
        for envelope in envelopes {
            assert_eq!(batch.push(envelope).unwrap(), BatchPush::Taken);
        }
        if let Some(frame) = batch.finish() {
            // The node may refuse it before it has arrived as a whole.
            let _ = self.0.write_all(&frame).await;
        }
    }
}

#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
