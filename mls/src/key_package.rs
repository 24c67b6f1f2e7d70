//! Key packages: whether an installation may really be added with one (RFC 9420 §10).
//!
//! The framing parser of `hawser_proto` goes first: it allocates nothing, and what it lets through is
//! small and short-listed before OpenMLS builds its own picture and checks both signatures. OpenMLS
//! asks the system clock for the lifetime, as its last step, so its verdict on the lifetime is set
//! aside here and the given time decides.

use std::sync::LazyLock;

use hawser_proto::mls::{Credential, KeyPackageView, MlsParseError, parse_key_package};
use hawser_proto::pb::xmtp::identity::MlsCredential;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{KeyPackageIn, KeyPackageVerifyError, ProtocolVersion};
use openmls_rust_crypto::RustCrypto;
use prost::Message as _;

/// The longest key package that is looked at. Real ones have 1.7 KB.
pub const KEY_PACKAGE_LEN_BYTES_MAX: usize = 64 * 1024;
/// The most extensions of a leaf or of a key package. Real ones have up to 3.
const EXTENSIONS_MAX: usize = 256;
/// Digits of an inbox id.
const INBOX_ID_LEN: usize = 64;

/// Only its random numbers have a state, and checking draws none.
static CRYPTO: LazyLock<RustCrypto> = LazyLock::new(RustCrypto::default);

/// What a valid key package says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPackage {
    /// The inbox that the owner says to belong to: 64 hexadecimal digits. Whether the inbox agrees
    /// is for its log to tell.
    pub inbox_id: String,
    /// The key the owner signs with, which is the installation's name.
    pub installation_key: Vec<u8>,
    /// As registered with IANA; XMTP uses 3.
    pub cipher_suite: u16,
    /// The first second at which it may be used.
    pub not_before_unix_s: u64,
    /// The second from which on it may not be used any more.
    pub not_after_unix_s: u64,
    /// Whether it may be used more than once.
    pub last_resort: bool,
}

/// Why a key package cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyPackageError {
    /// Nobody's key package is that long.
    #[error("key package of {0} bytes; at most {KEY_PACKAGE_LEN_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The bytes are not exactly one MLS 1.0 key package.
    #[error("not a key package: {0}")]
    Framing(#[from] MlsParseError),
    /// More extensions than anybody has a use for.
    #[error("key package with more than {EXTENSIONS_MAX} extensions")]
    TooManyExtensions,
    /// A known extension, cipher suite or key that does not decode.
    #[error("key package does not decode: {0}")]
    Decode(String),
    /// A signature, or what the signed parts say of each other.
    #[error("key package is not valid: {0}")]
    Verify(String),
    /// Only basic credentials name inboxes.
    #[error("the credential of the key package is not a basic one")]
    CredentialType,
    /// The credential is not the message that names an inbox.
    #[error("the credential of the key package names no inbox: {0}")]
    Credential(&'static str),
    /// It may be used later.
    #[error("key package is valid from {not_before_unix_s} on and it is {now_unix_s}")]
    NotYet {
        /// Its first second.
        not_before_unix_s: u64,
        /// The time it was judged at.
        now_unix_s: u64,
    },
    /// Its time is over; the installation has to upload a new one.
    #[error("key package was valid until {not_after_unix_s} and it is {now_unix_s}")]
    Expired {
        /// The end of its time.
        not_after_unix_s: u64,
        /// The time it was judged at.
        now_unix_s: u64,
    },
}

/// Judges the TLS-serialized `KeyPackage` at the time `now_unix_s`: decoding to the last byte, both
/// signatures, capabilities, lifetime, and a credential that names an inbox. Costs two signature
/// checks and copies of the input, whatever the input.
///
/// # Errors
/// Says what is wrong.
pub fn key_package(bytes: &[u8], now_unix_s: u64) -> Result<KeyPackage, KeyPackageError> {
    if bytes.len() > KEY_PACKAGE_LEN_BYTES_MAX {
        return Err(KeyPackageError::TooLong(bytes.len()));
    }
    let view = parse_key_package(bytes)?;
    if view.extensions.iter().count().max(view.leaf_extensions.iter().count()) > EXTENSIONS_MAX {
        return Err(KeyPackageError::TooManyExtensions);
    }
    let inbox_id = inbox_of(&view)?;
    lifetime(&view, now_unix_s)?;
    signatures(bytes)?;
    Ok(KeyPackage {
        inbox_id,
        installation_key: view.signature_key.to_vec(),
        cipher_suite: view.cipher_suite,
        not_before_unix_s: view.lifetime.not_before,
        not_after_unix_s: view.lifetime.not_after,
        last_resort: view.extensions.get(LAST_RESORT).is_some(),
    })
}

/// The extension type of RFC 9420's successor drafts that marks a package as usable again.
const LAST_RESORT: u16 = 10;

/// Everything that OpenMLS checks but the lifetime, which it checks last.
fn signatures(bytes: &[u8]) -> Result<(), KeyPackageError> {
    let package = KeyPackageIn::tls_deserialize_exact_bytes(bytes)
        .map_err(|error| KeyPackageError::Decode(error.to_string()))?;
    match package.validate(&*CRYPTO, ProtocolVersion::Mls10) {
        Ok(_) | Err(KeyPackageVerifyError::LifetimeError(_)) => Ok(()),
        Err(error) => Err(KeyPackageError::Verify(error.to_string())),
    }
}

fn lifetime(view: &KeyPackageView<'_>, now_unix_s: u64) -> Result<(), KeyPackageError> {
    let (not_before_unix_s, not_after_unix_s) = (view.lifetime.not_before, view.lifetime.not_after);
    if not_after_unix_s <= now_unix_s {
        return Err(KeyPackageError::Expired { not_after_unix_s, now_unix_s });
    }
    if not_before_unix_s > now_unix_s {
        return Err(KeyPackageError::NotYet { not_before_unix_s, now_unix_s });
    }
    Ok(())
}

fn inbox_of(view: &KeyPackageView<'_>) -> Result<String, KeyPackageError> {
    let Credential::Basic { identity } = view.credential else {
        return Err(KeyPackageError::CredentialType);
    };
    let credential = MlsCredential::decode(identity)
        .map_err(|_| KeyPackageError::Credential("not the protobuf message of a credential"))?;
    let inbox = credential.inbox_id;
    let hexadecimal = inbox.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if inbox.len() != INBOX_ID_LEN || !hexadecimal {
        return Err(KeyPackageError::Credential("an inbox id has 64 hexadecimal digits"));
    }
    Ok(inbox)
}
