//! What a node may sign, as pure functions: used before this node signs, and to judge what
//! another node has signed.
//!
//! The numbering of the rules is specified in `docs/protocol/rules.md`.

use hawser_proto::envelope::{ClientEnvelope, LayerError, Payload, UnsignedOriginatorEnvelope};
use hawser_proto::ids::EnvelopeId;
use hawser_proto::mls::{self, MlsParseError};
use hawser_proto::pb::xmtp::mls::api::v1 as mls_api;
use hawser_proto::sign::SignatureError;
use hawser_proto::{Address, Bytes, OriginatorId, PublicKey, TOPIC_LEN_BYTES_MAX, TopicKind};
use hawser_storage::InvalidRule;

use crate::fees::{Charged, FeeError, RateTable, WrongFee};

/// Retention in days that means "for ever".
pub const RETENTION_INFINITE: u32 = u32::MAX;
/// The expiry of such an envelope, unix seconds.
pub const EXPIRY_NEVER: u64 = i64::MAX as u64;

/// The mark of an identity update that its inbox does not allow.
pub const IDENTITY_UPDATE_RULE: InvalidRule = InvalidRule(15);

const RETENTION_DAYS_MIN: u32 = 2;
const RETENTION_DAYS_MAX: u32 = 365;
const DAY_S: u64 = 24 * 60 * 60;
/// Some nodes compute the expiry from a later reading of their clock.
const EXPIRY_TOLERANCE_S: u64 = 10 * 60;

/// A rule that an envelope breaks. The texts are what publishers read, and callers of the
/// reference implementation match on them.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Violation {
    /// Payer or client envelope is malformed.
    #[error("could not unmarshal payer envelope: {0}")]
    Undecodable(#[from] LayerError),
    /// The payer asked another node.
    #[error("invalid target originator")]
    Target,
    /// Nobody pays.
    #[error("payer signature is missing")]
    PayerSignatureMissing,
    /// Nobody can be found who pays.
    #[error("could not recover signer: {0}")]
    PayerSignature(#[from] SignatureError),
    /// The kind of the topic and the payload do not belong together.
    #[error("topic does not match payload")]
    TopicMismatch,
    /// Nobody could query it.
    #[error("topic has {0} bytes, at most 128 are allowed")]
    TopicTooLong(usize),
    /// Only what a chain has ordered can be depended on.
    #[error("a message can not depend on a non-commit: originator {}", .0.originator)]
    DependsOnNode(EnvelopeId),
    /// The chain strand is not known here.
    #[error("dependency {0} is on an originator that has not been seen by this node")]
    DependencyUnseen(EnvelopeId),
    /// The chain strand is known, but not that far.
    #[error("dependency {needed} exceeds last seen sequence id {seen}")]
    DependencyAhead {
        /// What the client names.
        needed: EnvelopeId,
        /// How far this node is.
        seen: u64,
    },
    /// Out of 2 to 365 days, and not "for ever".
    #[error("invalid expiry retention days: {0} is neither in 2..=365 nor 4294967295")]
    Retention(u32),
    /// Reports and attestations come from nodes.
    #[error("reserved topics cannot be published to by gateways")]
    Reserved,
    /// Identity updates get their order from the chain.
    #[error("identity updates must be published via the blockchain")]
    IdentityUpdate,
    /// Commits and proposals get their order from the chain.
    #[error("commits and proposals must be published via the blockchain")]
    ChainBoundMessage,
    /// The payload of a group message is no MLS message, or not exactly one.
    #[error("invalid group message: {0}")]
    GroupMessage(MlsParseError),
    /// There is no MLS message in it.
    #[error("invalid group message: no data")]
    GroupMessageEmpty,
    /// The validator refused it.
    #[error("key package validation failed: {0}")]
    KeyPackage(String),
    /// The expiry does not follow from time and retention.
    #[error("expiry {0} does not follow from time and retention")]
    Expiry(u64),
    /// The base fee is not the price of this envelope under any rate then in force.
    #[error("base fee {0} is not what the rates say")]
    BaseFee(u64),
    /// The congestion fee is no multiple of the rate.
    #[error("congestion fee {0} is not what the rates can give")]
    CongestionFee(u64),
    /// It has another price than any rate known here, and the price list may be older than it.
    #[error("the price list may be older than the envelope, so its price cannot be judged")]
    PriceUnknown,
}

impl Violation {
    /// The number under which an envelope is marked when a node has signed it nevertheless.
    /// `None`: depends on what this node knows, so it is no fault of the signer.
    #[must_use]
    pub fn rule(&self) -> Option<InvalidRule> {
        Some(InvalidRule(match self {
            Self::Undecodable(_) => 1,
            Self::PayerSignatureMissing | Self::PayerSignature(_) => 2,
            Self::Target => 3,
            Self::TopicMismatch | Self::TopicTooLong(_) => 4,
            Self::Reserved => 5,
            Self::IdentityUpdate
            | Self::ChainBoundMessage
            | Self::GroupMessage(_)
            | Self::GroupMessageEmpty => 6,
            Self::DependsOnNode(_) => 7,
            Self::Retention(_) => 8,
            Self::Expiry(_) => 9,
            Self::BaseFee(_) => 10,
            Self::CongestionFee(_) => 11,
            Self::KeyPackage(_) => 14,
            Self::DependencyUnseen(_) | Self::DependencyAhead { .. } | Self::PriceUnknown => {
                return None;
            }
        }))
    }
}

/// The kind byte belongs to the payload, and the topic can be queried.
///
/// # Errors
/// [`Violation::TopicMismatch`], [`Violation::TopicTooLong`].
pub fn topic(client: &ClientEnvelope) -> Result<(), Violation> {
    if client.topic().kind() != client.payload_kind() {
        return Err(Violation::TopicMismatch);
    }
    match client.topic().as_bytes().len() {
        len if len > TOPIC_LEN_BYTES_MAX => Err(Violation::TopicTooLong(len)),
        _ => Ok(()),
    }
}

/// Only chain strands may be named as dependencies.
///
/// # Errors
/// [`Violation::DependsOnNode`].
pub fn dependencies_on_chains(client: &ClientEnvelope) -> Result<(), Violation> {
    match client.depends_on().iter().find(|id| id.originator.is_node()) {
        Some(id) => Err(Violation::DependsOnNode(*id)),
        None => Ok(()),
    }
}

/// 2 to 365 days, or for ever.
///
/// # Errors
/// [`Violation::Retention`].
pub fn retention(days: u32) -> Result<(), Violation> {
    match days {
        RETENTION_DAYS_MIN..=RETENTION_DAYS_MAX | RETENTION_INFINITE => Ok(()),
        _ => Err(Violation::Retention(days)),
    }
}

/// The payload is one that a node orders, and well-formed to the last byte. `key_package` judges
/// the TLS bytes of a key package.
///
/// # Errors
/// Names the rule.
pub fn payload(
    client: &ClientEnvelope,
    key_package: impl FnOnce(&Bytes) -> Result<(), String>,
) -> Result<(), Violation> {
    match client.payload() {
        Payload::GroupMessage(message) => group_message(message),
        Payload::WelcomeMessage(_) => Ok(()),
        Payload::UploadKeyPackage(upload) => match &upload.key_package {
            Some(upload) => {
                key_package(&upload.key_package_tls_serialized).map_err(Violation::KeyPackage)
            }
            None => Err(Violation::KeyPackage("there is none in the upload".into())),
        },
        Payload::IdentityUpdate(_) => Err(Violation::IdentityUpdate),
        Payload::PayerReport(_) | Payload::PayerReportAttestation(_) => Err(Violation::Reserved),
    }
}

fn group_message(message: &mls_api::GroupMessageInput) -> Result<(), Violation> {
    let Some(mls_api::group_message_input::Version::V1(v1)) = &message.version else {
        return Err(Violation::GroupMessageEmpty);
    };
    let frame = mls::parse_group_message(&v1.data).map_err(Violation::GroupMessage)?;
    if frame.is_chain_bound() { Err(Violation::ChainBoundMessage) } else { Ok(()) }
}

/// A key package that parses to its end, whatever time it is.
///
/// # Errors
/// A sentence for people.
pub fn key_package_form(tls_bytes: &Bytes) -> Result<(), String> {
    mls::parse_key_package(tls_bytes).map(|_| ()).map_err(|error| error.to_string())
}

/// When an envelope that is signed at `now_s` for `days` may be pruned, unix seconds.
#[must_use]
pub fn expiry_unix_s(now_s: u64, days: u32) -> u64 {
    match days {
        RETENTION_INFINITE => EXPIRY_NEVER,
        days => now_s.saturating_add(u64::from(days) * DAY_S),
    }
}

/// What another node has signed, with the payer that was recovered from it, against every rule
/// that follows from bytes, registry and rates.
///
/// # Errors
/// The first rule broken; or [`Violation::PriceUnknown`], which is the only one here that has no
/// number.
pub fn judge(
    statement: &UnsignedOriginatorEnvelope,
    payer: Result<Address, Violation>,
    node_key: &PublicKey,
    rates: &RateTable,
) -> Result<(), Violation> {
    let envelope = statement.payer();
    if envelope.target() != statement.id().originator {
        return Err(Violation::Target);
    }
    let payer = payer?;
    let client = envelope.client();
    topic(client)?;
    dependencies_on_chains(client)?;
    retention(envelope.retention_days())?;
    if client.topic().kind().is_reserved() {
        if payer != node_key.address() {
            return Err(Violation::Reserved);
        }
    } else {
        payload(client, key_package_form)?;
    }
    expiry(statement)?;
    price(statement, rates)
}

fn expiry(statement: &UnsignedOriginatorEnvelope) -> Result<(), Violation> {
    let days = statement.payer().retention_days();
    let now_s = u64::try_from(statement.originator_ns() / 1_000_000_000).unwrap_or(0);
    let expected = expiry_unix_s(now_s, days);
    if days == RETENTION_INFINITE
        || statement.expiry_unix_s().abs_diff(expected) <= EXPIRY_TOLERANCE_S
    {
        Ok(())
    } else {
        Err(Violation::Expiry(statement.expiry_unix_s()))
    }
}

fn price(statement: &UnsignedOriginatorEnvelope, rates: &RateTable) -> Result<(), Violation> {
    let base = statement.base_fee_picodollars();
    let congestion = statement.congestion_fee_picodollars();
    let envelope = statement.payer();
    if envelope.client().topic().kind().is_reserved() {
        return match (base, congestion) {
            (0, 0) => Ok(()),
            (0, _) => Err(Violation::CongestionFee(congestion)),
            _ => Err(Violation::BaseFee(base)),
        };
    }
    fees(statement, rates).map_err(|violation| match rates.covers(statement.originator_ns()) {
        true => violation,
        false => Violation::PriceUnknown,
    })
}

fn fees(statement: &UnsignedOriginatorEnvelope, rates: &RateTable) -> Result<(), Violation> {
    let (base, congestion) =
        (statement.base_fee_picodollars(), statement.congestion_fee_picodollars());
    let envelope = statement.payer();
    let charged = Charged {
        at_ns: statement.originator_ns(),
        size_bytes: envelope.as_bytes().len() as u64,
        days: envelope.retention_days(),
        base,
        congestion,
    };
    rates.explain(&charged).map_err(|wrong| match wrong {
        WrongFee::Base => Violation::BaseFee(base),
        WrongFee::Congestion => Violation::CongestionFee(congestion),
    })
}

/// Every envelope named must be known here, so that no reader waits for what may never come.
/// `seen` tells how far this node is in a strand, 0 if it has seen nothing of it.
///
/// # Errors
/// [`Violation::DependencyUnseen`], [`Violation::DependencyAhead`].
pub fn dependencies_known(
    client: &ClientEnvelope,
    seen: impl Fn(OriginatorId) -> u64,
) -> Result<(), Violation> {
    for &needed in client.depends_on() {
        match seen(needed.originator) {
            0 => return Err(Violation::DependencyUnseen(needed)),
            seen if seen < needed.sequence.0 => {
                return Err(Violation::DependencyAhead { needed, seen });
            }
            _ => {}
        }
    }
    Ok(())
}

/// A price could not be told; publishers are told which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Message and storage fee.
    #[error("could not calculate base fee: {0}")]
    Base(FeeError),
    /// Congestion.
    #[error("could not calculate congestion fee: {0}")]
    Congestion(FeeError),
}

/// True for kinds that cost nothing and count as neither usage nor congestion.
#[must_use]
pub fn is_free(kind: TopicKind) -> bool {
    kind.is_reserved()
}
