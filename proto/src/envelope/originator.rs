//! The two layers of an originator: its statement, and the statement with the proof of who made it.

use bytes::Bytes;
use prost::Message as _;

use super::{LayerError, PayerEnvelope};
use crate::ids::{EnvelopeId, OriginatorId, SequenceId};
use crate::pb::xmtp::identity::associations::RecoverableEcdsaSignature;
use crate::pb::xmtp::xmtpv4::envelopes as pb;
use crate::price::PicoDollarPrice;
use crate::sign::{PublicKey, SecretKey, Signature, SignatureError, originator_digest};

/// An originator's statement: a payer envelope with its place, time, fees and expiry.
#[derive(Debug, Clone)]
pub struct UnsignedOriginatorEnvelope {
    bytes: Bytes,
    id: EnvelopeId,
    originator_ns: i64,
    base_fee: PicoDollarPrice,
    congestion_fee: PicoDollarPrice,
    expiry_unix_s: u64,
    payer: PayerEnvelope,
}

/// An originator's statement, with the payer envelope inside as bytes. [`parse`](Self::parse) reads that, too, without
/// another look at the statement.
#[derive(Debug, Clone)]
pub struct OpenedStatement {
    bytes: Bytes,
    message: pb::UnsignedOriginatorEnvelope,
}

impl OpenedStatement {
    /// Reads the statement alone.
    ///
    /// # Errors
    /// Returns an error if the bytes do not decode as a protobuf message.
    pub fn read(bytes: Bytes) -> Result<Self, LayerError> {
        let message = pb::UnsignedOriginatorEnvelope::decode(bytes.clone())?;
        Ok(Self { bytes, message })
    }

    /// Returns the bytes that the originator signed.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns originator and sequence id.
    #[must_use]
    pub fn id(&self) -> EnvelopeId {
        EnvelopeId::new(
            OriginatorId(self.message.originator_node_id),
            SequenceId(self.message.originator_sequence_id),
        )
    }

    /// Returns the originator's time in unix nanoseconds.
    #[must_use]
    pub fn originator_ns(&self) -> i64 {
        self.message.originator_ns
    }

    /// Returns message and storage fee together.
    #[must_use]
    pub fn base_fee(&self) -> PicoDollarPrice {
        PicoDollarPrice(self.message.base_fee_picodollars)
    }

    /// Returns the surcharge for congestion at the originator.
    #[must_use]
    pub fn congestion_fee(&self) -> PicoDollarPrice {
        PicoDollarPrice(self.message.congestion_fee_picodollars)
    }

    /// Returns the bytes of the payer envelope, which may not decode.
    #[must_use]
    pub fn payer_envelope_bytes(&self) -> &Bytes {
        &self.message.payer_envelope_bytes
    }

    /// Parses the layers inside.
    ///
    /// # Errors
    /// The first malformed part.
    pub fn parse(self) -> Result<UnsignedOriginatorEnvelope, LayerError> {
        let id = self.id();
        let Self { bytes, message } = self;
        Ok(UnsignedOriginatorEnvelope {
            bytes,
            id,
            originator_ns: message.originator_ns,
            base_fee: PicoDollarPrice(message.base_fee_picodollars),
            congestion_fee: PicoDollarPrice(message.congestion_fee_picodollars),
            expiry_unix_s: message.expiry_unixtime,
            payer: PayerEnvelope::parse(message.payer_envelope_bytes)?,
        })
    }
}

impl UnsignedOriginatorEnvelope {
    /// Parses this layer and those inside.
    ///
    /// # Errors
    /// The first malformed part.
    pub fn parse(bytes: Bytes) -> Result<Self, LayerError> {
        OpenedStatement::read(bytes)?.parse()
    }

    /// Returns the bytes that the originator signed.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns originator and sequence id.
    #[must_use]
    pub fn id(&self) -> EnvelopeId {
        self.id
    }

    /// Returns the originator's time in unix nanoseconds.
    #[must_use]
    pub fn originator_ns(&self) -> i64 {
        self.originator_ns
    }

    /// Returns message and storage fee together.
    #[must_use]
    pub fn base_fee(&self) -> PicoDollarPrice {
        self.base_fee
    }

    /// Returns the surcharge for congestion at the originator.
    #[must_use]
    pub fn congestion_fee(&self) -> PicoDollarPrice {
        self.congestion_fee
    }

    /// Returns the time in unix seconds from which on the envelope may be pruned; 0 on chain traffic,
    /// which is kept.
    #[must_use]
    pub fn expiry_unix_s(&self) -> u64 {
        self.expiry_unix_s
    }

    /// Returns the layer inside.
    #[must_use]
    pub fn payer(&self) -> &PayerEnvelope {
        &self.payer
    }
}

/// The proof of an originator's statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The originator's signature.
    Signature(Signature),
    /// Hash of the chain transaction with the event that the statement was made from.
    Transaction([u8; 32]),
}

/// The outermost layer, in its one canonical form: stored, replicated and answered.
#[derive(Debug, Clone)]
pub struct OriginatorEnvelope {
    bytes: Bytes,
    unsigned: UnsignedOriginatorEnvelope,
    proof: Proof,
}

impl OriginatorEnvelope {
    /// Parses all layers and requires the canonical form of this one: known fields in order, nothing
    /// else, a low-s signature of 65 bytes with v 0 or 1, or a 32-byte transaction hash.
    ///
    /// # Errors
    /// The first malformed part. [`OriginatorEnvelope::statement`] still reads the id of an
    /// envelope whose inner layers are broken.
    pub fn parse(bytes: Bytes) -> Result<Self, LayerError> {
        let (statement, proof) = Self::open(bytes.clone())?;
        Ok(Self { bytes, unsigned: UnsignedOriginatorEnvelope::parse(statement)?, proof })
    }

    /// Opens the outer layer only. Returns the statement's bytes and their proof.
    ///
    /// # Errors
    /// Returns an error if this layer is malformed or not canonical.
    pub fn open(bytes: Bytes) -> Result<(Bytes, Proof), LayerError> {
        let message = pb::OriginatorEnvelope::decode(bytes.clone())?;
        if !is_canonical(&message, &bytes) {
            return Err(LayerError::NotCanonical);
        }
        Self::parts(message)
    }

    /// Parses all layers of an envelope whose form was checked before it was stored. The form is not checked again:
    /// that would compare all of its bytes.
    ///
    /// # Errors
    /// The first malformed part.
    pub fn parse_stored(bytes: Bytes) -> Result<Self, LayerError> {
        let (statement, proof) = Self::parts(pb::OriginatorEnvelope::decode(bytes.clone())?)?;
        Ok(Self { bytes, unsigned: UnsignedOriginatorEnvelope::parse(statement)?, proof })
    }

    /// Returns the statement's bytes and their proof.
    fn parts(message: pb::OriginatorEnvelope) -> Result<(Bytes, Proof), LayerError> {
        let proof = match message.proof.ok_or(LayerError::ProofMissing)? {
            pb::originator_envelope::Proof::OriginatorSignature(signature) => {
                let signature = Signature::from_bytes(&signature.bytes)?;
                signature.require_canonical()?;
                Proof::Signature(signature)
            }
            pb::originator_envelope::Proof::BlockchainProof(proof) => {
                let hash = &proof.transaction_hash;
                Proof::Transaction(
                    hash.as_ref()
                        .try_into()
                        .map_err(|_| LayerError::TransactionHash(hash.len()))?,
                )
            }
        };
        Ok((message.unsigned_originator_envelope, proof))
    }

    /// Reads id and time of a statement without parsing the payer envelope.
    ///
    /// # Errors
    /// Returns an error if the statement does not decode as a protobuf message.
    pub fn statement(unsigned: Bytes) -> Result<(EnvelopeId, i64), LayerError> {
        let statement = OpenedStatement::read(unsigned)?;
        Ok((statement.id(), statement.originator_ns()))
    }

    /// Returns the time that an envelope states, unix nanoseconds, without parsing the payer envelope. `None` if the
    /// outer layers are malformed or not canonical.
    #[must_use]
    pub fn stated_ns(bytes: &Bytes) -> Option<i64> {
        let (statement, _) = Self::open(bytes.clone()).ok()?;
        Some(Self::statement(statement).ok()?.1)
    }

    /// Reads the time of an envelope whose form was checked before it was stored. The form is not checked again, which
    /// would cost more than the rest of reading it.
    ///
    /// # Errors
    /// Returns an error if a layer does not decode as a protobuf message.
    pub fn time_of_stored(bytes: Bytes) -> Result<i64, LayerError> {
        let message = pb::OriginatorEnvelope::decode(bytes)?;
        let (_, originator_ns) = Self::statement(message.unsigned_originator_envelope)?;
        Ok(originator_ns)
    }

    /// Reads the id of an envelope, and checks nothing else.
    ///
    /// # Errors
    /// Returns an error if a layer does not decode as a protobuf message.
    pub fn id_of(bytes: Bytes) -> Result<EnvelopeId, LayerError> {
        let message = pb::OriginatorEnvelope::decode(bytes)?;
        Ok(Self::statement(message.unsigned_originator_envelope)?.0)
    }

    /// Encodes a statement and its proof in canonical form.
    #[must_use]
    pub fn encode(unsigned: Bytes, proof: Proof) -> Bytes {
        use pb::originator_envelope::Proof as Wire;
        let proof = match proof {
            Proof::Signature(signature) => Wire::OriginatorSignature(RecoverableEcdsaSignature {
                bytes: Bytes::copy_from_slice(signature.as_bytes()),
            }),
            Proof::Transaction(hash) => Wire::BlockchainProof(pb::BlockchainProof {
                transaction_hash: Bytes::copy_from_slice(&hash),
            }),
        };
        pb::OriginatorEnvelope { unsigned_originator_envelope: unsigned, proof: Some(proof) }
            .encode_to_vec()
            .into()
    }

    /// Returns the bytes as stored and sent.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns originator and sequence id.
    #[must_use]
    pub fn id(&self) -> EnvelopeId {
        self.unsigned.id
    }

    /// Returns the statement.
    #[must_use]
    pub fn unsigned(&self) -> &UnsignedOriginatorEnvelope {
        &self.unsigned
    }

    /// Returns the proof of the statement.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// Recovers the key that signed the statement; `None` for a statement of a chain.
    ///
    /// # Errors
    /// Returns an error if no key can be recovered from the signature.
    pub fn recover_originator(&self) -> Result<Option<PublicKey>, SignatureError> {
        match self.proof {
            Proof::Signature(signature) => {
                signature.recover(originator_digest(&self.unsigned.bytes)).map(Some)
            }
            Proof::Transaction(_) => Ok(None),
        }
    }
}

/// Returns true if the bytes are the encoding of the message that was decoded from them. The statement is compared
/// where it lies: to encode it again would copy nearly all of the envelope.
fn is_canonical(message: &pb::OriginatorEnvelope, bytes: &[u8]) -> bool {
    let statement = &message.unsigned_originator_envelope;
    let mut head = Vec::with_capacity(STATEMENT_HEAD_LEN_MAX);
    begin_statement(statement.len(), &mut head);
    let proof = message.proof.clone();
    let proof = pb::OriginatorEnvelope { unsigned_originator_envelope: Bytes::new(), proof };
    let behind = bytes.strip_prefix(&head[..]).and_then(|bytes| bytes.strip_prefix(&statement[..]));
    behind.is_some_and(|behind| behind == proof.encode_to_vec())
}

/// The length of a key of one byte and of a length of at most five bytes.
const STATEMENT_HEAD_LEN_MAX: usize = 6;

/// Writes what stands before a statement in an envelope: the key of its field and its length.
fn begin_statement(len_bytes: usize, to: &mut Vec<u8>) {
    use prost::encoding::{WireType, encode_key, encode_varint};

    // Protobuf omits an empty field, and the canonical form has nothing that it omits.
    if len_bytes > 0 {
        encode_key(1, WireType::LengthDelimited, to);
        encode_varint(len_bytes as u64, to);
    }
}

/// A statement in its final layout with room for the signature, so that signing appends 65 bytes and
/// copies nothing.
#[derive(Debug)]
pub struct UnsealedEnvelope {
    bytes: Vec<u8>,
    statement: std::ops::Range<usize>,
}

impl UnsealedEnvelope {
    /// Encodes a statement, once: the same bytes are signed and stored.
    #[must_use]
    pub fn new(message: &pb::UnsignedOriginatorEnvelope) -> Self {
        let statement_len = message.encoded_len();
        // 65 bytes of signature stand behind the statement.
        let len_bytes = STATEMENT_HEAD_LEN_MAX + statement_len + SIGNATURE_FIELD.len() + 65;
        let mut bytes = Vec::with_capacity(len_bytes);
        begin_statement(statement_len, &mut bytes);
        let start = bytes.len();
        message.encode(&mut bytes).expect("a Vec grows as needed");
        let statement = start..bytes.len();
        bytes.extend_from_slice(&SIGNATURE_FIELD);
        Self { bytes, statement }
    }

    /// Signs the statement. No other function makes an originator's signature.
    #[must_use]
    pub fn seal(mut self, key: &SecretKey) -> Bytes {
        let signature = key.sign(originator_digest(&self.bytes[self.statement]));
        self.bytes.extend_from_slice(signature.as_bytes());
        self.bytes.into()
    }
}

/// The bytes in front of the signature: the heads of field 2 (67 bytes) and of its field 1 (65 bytes).
const SIGNATURE_FIELD: [u8; 4] = [0x12, 67, 0x0a, 65];
