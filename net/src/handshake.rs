//! Both ends prove their node ids inside the connection.

use std::sync::Arc;

use hawser_engine::ports::Registry;
use hawser_proto::frame::{
    ControlFrame, EXPORTER_LABEL, Hello, MAX_CLOCK_ENTRIES, Proof, Role, VERSION, proof_preimage,
};
use hawser_proto::sign::keccak256;
use hawser_proto::{Cursor, OriginatorId, PublicKey, SecretKey, Signature};
use quinn::Connection;
use tokio::sync::watch;

use crate::control::{Broken, ControlReader, ControlWriter};
use crate::counters::Refusal;

/// Who this node is, and whom it can know.
pub(crate) struct Identity {
    pub(crate) own: OriginatorId,
    pub(crate) key: SecretKey,
    pub(crate) registry: watch::Receiver<Arc<Registry>>,
}

/// A connection whose other end has proved its id.
pub(crate) struct Proven {
    pub(crate) connection: Connection,
    pub(crate) peer: OriginatorId,
    pub(crate) dialler: OriginatorId,
    /// How far the peer says it is.
    pub(crate) clock: Cursor,
    pub(crate) reader: ControlReader,
    pub(crate) writer: ControlWriter,
}

impl Identity {
    /// The end that has dialled `peer`.
    pub(crate) async fn dial(
        &self,
        connection: Connection,
        peer: OriginatorId,
        clock: &Cursor,
    ) -> Result<Proven, Broken> {
        let exporter = export(&connection)?;
        let (send, receive) = connection.open_bi().await?;
        let (mut writer, mut reader) = (ControlWriter::new(send), ControlReader::new(receive));
        writer.send(self.hello(clock)).await?;
        let hello = read_hello(&mut reader).await?;
        if hello.node_id != peer {
            return Err(Refusal::WrongNode.into());
        }
        let key = self.key_of(peer)?;
        check(read_proof(&mut reader).await?, key, Role::Acceptor, peer, self.own, &exporter)?;
        writer.send(self.proof(Role::Dialler, peer, &exporter)).await?;
        let dialler = self.own;
        Ok(Proven { connection, peer, dialler, clock: hello.clock, reader, writer })
    }

    /// The end that was dialled.
    pub(crate) async fn accept(
        &self,
        connection: Connection,
        clock: &Cursor,
    ) -> Result<Proven, Broken> {
        let exporter = export(&connection)?;
        let (send, receive) = connection.accept_bi().await?;
        let (mut writer, mut reader) = (ControlWriter::new(send), ControlReader::new(receive));
        let hello = read_hello(&mut reader).await?;
        let peer = hello.node_id;
        if peer == self.own {
            return Err(Refusal::WrongNode.into());
        }
        let key = self.key_of(peer)?;
        writer.send(self.hello(clock)).await?;
        writer.send(self.proof(Role::Acceptor, peer, &exporter)).await?;
        check(read_proof(&mut reader).await?, key, Role::Dialler, peer, self.own, &exporter)?;
        Ok(Proven { connection, peer, dialler: peer, clock: hello.clock, reader, writer })
    }

    fn key_of(&self, peer: OriginatorId) -> Result<PublicKey, Refusal> {
        let registry = self.registry.borrow();
        registry.node(peer).map(|record| record.public_key).ok_or(Refusal::UnknownNode)
    }

    fn hello(&self, clock: &Cursor) -> ControlFrame {
        ControlFrame::Hello(Hello {
            versions: vec![VERSION],
            features: 0,
            node_id: self.own,
            // What does not fit follows with the first clock.
            clock: clock.iter().take(MAX_CLOCK_ENTRIES).collect(),
        })
    }

    fn proof(&self, role: Role, peer: OriginatorId, exporter: &[u8; 32]) -> ControlFrame {
        let digest = keccak256(&[&proof_preimage(role, self.own, peer, exporter)]);
        let signature = *self.key.sign(digest).as_bytes();
        ControlFrame::Proof(Proof { node_id: self.own, signature })
    }
}

/// What only the two ends of this very connection know.
fn export(connection: &Connection) -> Result<[u8; 32], Broken> {
    let mut exporter = [0; 32];
    connection
        .export_keying_material(&mut exporter, EXPORTER_LABEL, &[])
        .map_err(|_| Broken::Lost("the TLS session exports nothing".to_owned()))?;
    Ok(exporter)
}

async fn read_hello(reader: &mut ControlReader) -> Result<Hello, Broken> {
    match reader.next().await? {
        ControlFrame::Hello(hello) if hello.versions.contains(&VERSION) => Ok(hello),
        ControlFrame::Hello(_) => Err(Refusal::NoCommonVersion.into()),
        _ => Err(Refusal::Protocol.into()),
    }
}

async fn read_proof(reader: &mut ControlReader) -> Result<Proof, Broken> {
    match reader.next().await? {
        ControlFrame::Proof(proof) => Ok(proof),
        _ => Err(Refusal::Protocol.into()),
    }
}

fn check(
    proof: Proof,
    key: PublicKey,
    role: Role,
    peer: OriginatorId,
    own: OriginatorId,
    exporter: &[u8; 32],
) -> Result<(), Refusal> {
    let digest = keccak256(&[&proof_preimage(role, peer, own, exporter)]);
    let signed = Signature::from_bytes(&proof.signature)
        .and_then(|signature| signature.require_canonical().map(|()| signature))
        .and_then(|signature| signature.recover(digest));
    if proof.node_id == peer && signed == Ok(key) { Ok(()) } else { Err(Refusal::BadProof) }
}
