//! The handshake: both ends prove their node ids inside the connection.
//!
//! The dialler speaks first, but proves itself last. A node that an unknown host dials therefore signs only for ids
//! of the registry (`docs/protocol/replication.md`).

use std::sync::Arc;

use hawser_engine::ports::Registry;
use hawser_proto::frame::{
    ControlFrame, EXPORTER_LABEL, FEATURE_CHECKPOINTS, FEATURE_GAPS_ALONE, FEATURE_PREFIXES,
    FEATURE_WANT_NUMBERS, Hello, MAX_CLOCK_ENTRIES, NodeProof, Role, VERSION, proof_preimage,
};
use hawser_proto::sign::keccak256;
use hawser_proto::{Cursor, OriginatorId, PublicKey, SecretKey, Signature};
use quinn::Connection;
use tokio::sync::watch;

use crate::control::{ControlReader, ControlWriter, SessionError};
use crate::counters::PeerError;
use crate::{registry_change, transport};

/// The optional features that every node asks for.
const FEATURES_ALWAYS: u64 = FEATURE_CHECKPOINTS | FEATURE_WANT_NUMBERS | FEATURE_GAPS_ALONE;
/// The optional features that this node knows.
const FEATURES: u64 = FEATURES_ALWAYS | FEATURE_PREFIXES;

/// This node's id and key, and the registry with the keys of its peers.
pub(crate) struct LocalIdentity {
    pub(crate) own: OriginatorId,
    pub(crate) key: SecretKey,
    pub(crate) registry: watch::Receiver<Arc<Registry>>,
    /// True if this node asks peers for signed prefixes.
    pub(crate) takes_prefixes: bool,
}

/// The optional features that a peer has and this node knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerFeatures(u64);

impl PeerFeatures {
    fn of(hello: &Hello) -> Self {
        Self(hello.features & FEATURES)
    }

    /// Returns true if the peer has the feature with this bit.
    pub(crate) fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }
}

/// A connection whose peer has proved its id.
pub(crate) struct ProvenConnection {
    pub(crate) connection: Connection,
    pub(crate) peer: OriginatorId,
    /// The key with which it has proved that.
    pub(crate) key: PublicKey,
    pub(crate) dialler: OriginatorId,
    pub(crate) features: PeerFeatures,
    /// The durable heads that the peer claims.
    pub(crate) clock: Cursor,
    pub(crate) reader: ControlReader,
    pub(crate) writer: ControlWriter,
}

impl LocalIdentity {
    /// Runs the handshake of the end that has dialled `peer`.
    ///
    /// # Errors
    /// When the connection fails, or the peer does not prove the id that was dialled.
    pub(crate) async fn dial(
        &self,
        connection: Connection,
        peer: OriginatorId,
        clock: &Cursor,
    ) -> Result<ProvenConnection, SessionError> {
        let exporter = export(&connection)?;
        let (send, receive) = connection.open_bi().await?;
        let (mut writer, mut reader) = (ControlWriter::new(send), ControlReader::new(receive));
        writer.send(self.hello(clock)).await?;
        let hello = read_hello(&mut reader).await?;
        if hello.node_id != peer {
            return Err(PeerError::WrongNode.into());
        }
        let key = self.key_of(peer)?;
        check_proof(
            read_proof(&mut reader).await?,
            key,
            Role::Acceptor,
            peer,
            self.own,
            &exporter,
        )?;
        writer.send(self.proof(Role::Dialler, peer, &exporter)).await?;
        transport::open_up(&connection);
        let features = PeerFeatures::of(&hello);
        let (dialler, clock) = (self.own, hello.clock);
        Ok(ProvenConnection { connection, peer, key, dialler, features, clock, reader, writer })
    }

    /// Runs the handshake of the end that was dialled.
    ///
    /// # Errors
    /// When the connection fails, or the peer does not prove an id of the registry.
    pub(crate) async fn accept(
        &self,
        connection: Connection,
        clock: &Cursor,
    ) -> Result<ProvenConnection, SessionError> {
        let exporter = export(&connection)?;
        let (send, receive) = connection.accept_bi().await?;
        let (mut writer, mut reader) = (ControlWriter::new(send), ControlReader::new(receive));
        let hello = read_hello(&mut reader).await?;
        let peer = hello.node_id;
        if peer == self.own {
            return Err(PeerError::WrongNode.into());
        }
        let key = self.key_of(peer)?;
        writer.send(self.hello(clock)).await?;
        writer.send(self.proof(Role::Acceptor, peer, &exporter)).await?;
        check_proof(read_proof(&mut reader).await?, key, Role::Dialler, peer, self.own, &exporter)?;
        transport::open_up(&connection);
        let features = PeerFeatures::of(&hello);
        let (dialler, clock) = (peer, hello.clock);
        Ok(ProvenConnection { connection, peer, key, dialler, features, clock, reader, writer })
    }

    fn key_of(&self, peer: OriginatorId) -> Result<PublicKey, PeerError> {
        let registry = self.registry.borrow();
        registry.member(peer).map(|record| record.public_key).ok_or(PeerError::UnknownNode)
    }

    /// Waits until a peer has left the network, or the registry has another key for it. Cancel safe. Owns its data, so
    /// that it can live beside a borrowed session.
    pub(crate) fn left_network(
        &self,
        peer: OriginatorId,
        key: PublicKey,
    ) -> impl Future<Output = ()> + use<> {
        let mut registry = self.registry.clone();
        async move {
            let has_left = |registry: &Arc<Registry>| {
                registry.member(peer).is_none_or(|record| record.public_key != key)
            };
            registry_change::wait_for(&mut registry, has_left).await;
        }
    }

    fn hello(&self, clock: &Cursor) -> ControlFrame {
        ControlFrame::Hello(Hello {
            versions: vec![VERSION],
            features: if self.takes_prefixes { FEATURES } else { FEATURES_ALWAYS },
            node_id: self.own,
            // Entries beyond the limit follow in the first clock frame.
            clock: clock.iter().take(MAX_CLOCK_ENTRIES).collect(),
        })
    }

    fn proof(&self, role: Role, peer: OriginatorId, exporter: &[u8; 32]) -> ControlFrame {
        let digest = keccak256(&[&proof_preimage(role, self.own, peer, exporter)]);
        let signature = *self.key.sign(digest).as_bytes();
        ControlFrame::Proof(NodeProof { node_id: self.own, signature })
    }
}

/// Exports 32 bytes that only the two ends of this connection know. A proof signs them, so it is
/// useless on any other connection.
fn export(connection: &Connection) -> Result<[u8; 32], SessionError> {
    let mut exporter = [0; 32];
    connection
        .export_keying_material(&mut exporter, EXPORTER_LABEL, &[])
        .map_err(|_| SessionError::Lost("the TLS session exports nothing".to_owned()))?;
    Ok(exporter)
}

async fn read_hello(reader: &mut ControlReader) -> Result<Hello, SessionError> {
    match reader.next().await? {
        ControlFrame::Hello(hello) if hello.versions.contains(&VERSION) => Ok(hello),
        ControlFrame::Hello(_) => Err(PeerError::NoCommonVersion.into()),
        _ => Err(PeerError::Protocol.into()),
    }
}

async fn read_proof(reader: &mut ControlReader) -> Result<NodeProof, SessionError> {
    match reader.next().await? {
        ControlFrame::Proof(proof) => Ok(proof),
        _ => Err(PeerError::Protocol.into()),
    }
}

/// Verifies the peer's signature over both roles, both ids and the exported bytes.
fn check_proof(
    proof: NodeProof,
    key: PublicKey,
    role: Role,
    peer: OriginatorId,
    own: OriginatorId,
    exporter: &[u8; 32],
) -> Result<(), PeerError> {
    let digest = keccak256(&[&proof_preimage(role, peer, own, exporter)]);
    let signed = Signature::from_bytes(&proof.signature)
        .and_then(|signature| signature.require_canonical().map(|()| signature))
        .and_then(|signature| signature.recover(digest));
    if proof.node_id == peer && signed == Ok(key) { Ok(()) } else { Err(PeerError::BadProof) }
}
