//! Validates key packages: an installation can be added to a group with one (RFC 9420 §10).
//!
//! The framing parser of `hawser_proto` runs first. It allocates nothing and bounds size and number of
//! extensions before OpenMLS builds its own structures and verifies both signatures. OpenMLS checks
//! the lifetime last and by the system clock, so its result for the lifetime is ignored here and the
//! given time decides.

use std::sync::LazyLock;

use hawser_proto::mls::{
    Credential, KeyPackageView, LAST_RESORT, MlsParseError, parse_key_package,
};
use hawser_proto::pb::xmtp::identity::MlsCredential;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{KeyPackageIn, KeyPackageVerifyError, ProtocolVersion};
use openmls_rust_crypto::RustCrypto;
use prost::Message as _;

/// Largest key package in bytes. A guess: 40 times the 1.7 kB of those that clients upload.
pub const KEY_PACKAGE_LEN_BYTES_MAX: usize = 64 * 1024;
/// Largest number of extensions of a leaf or of a key package. A guess; clients use up to 3.
const EXTENSIONS_MAX: usize = 256;
/// Hexadecimal digits of an inbox id (XIP-46: a SHA-256).
const INBOX_ID_LEN: usize = 64;

/// The crypto provider of all validations. It can be shared because its only state is a random number generator, which
/// verification does not use.
static CRYPTO: LazyLock<RustCrypto> = LazyLock::new(RustCrypto::default);

/// The facts of a valid key package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPackage {
    /// The inbox that the owner claims to belong to: 64 hexadecimal digits. Only the log of that inbox
    /// proves it.
    pub inbox_id: String,
    /// The signature key of the owner, which identifies the installation.
    pub installation_key: Vec<u8>,
    /// Number of the cipher suite (IANA); XMTP uses 3.
    pub cipher_suite: u16,
    /// First second of its lifetime, unix time.
    pub not_before_unix_s: u64,
    /// Second after its lifetime, unix time.
    pub not_after_unix_s: u64,
    /// True if the key package may be used more than once.
    pub last_resort: bool,
}

/// The reason a key package is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyPackageError {
    /// The key package is longer than [`KEY_PACKAGE_LEN_BYTES_MAX`].
    #[error("key package of {0} bytes; at most {KEY_PACKAGE_LEN_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The bytes are not exactly one MLS 1.0 key package.
    #[error("not a key package: {0}")]
    Framing(#[from] MlsParseError),
    /// The key package has too many extensions.
    #[error("key package with more than {EXTENSIONS_MAX} extensions")]
    TooManyExtensions,
    /// A known extension, the cipher suite or a key does not decode.
    #[error("key package does not decode: {0}")]
    Decode(String),
    /// A signature is wrong, or the signed parts contradict each other.
    #[error("key package is not valid: {0}")]
    Verify(String),
    /// The credential is not a basic one, so it names no inbox.
    #[error("the credential of the key package is not a basic one")]
    CredentialType,
    /// The content of the credential names no inbox.
    #[error("the credential of the key package does not name an inbox: {0}")]
    Credential(&'static str),
    /// The lifetime has not begun.
    #[error(
        "the key package is valid only from unix second {not_before_unix_s} on, and it is {now_unix_s} now"
    )]
    NotYet {
        /// First second of the lifetime.
        not_before_unix_s: u64,
        /// Time of the validation.
        now_unix_s: u64,
    },
    /// The lifetime is over; the installation has to upload a new key package.
    #[error(
        "the key package was valid until unix second {not_after_unix_s}, and it is {now_unix_s} now"
    )]
    Expired {
        /// Second after the lifetime.
        not_after_unix_s: u64,
        /// Time of the validation.
        now_unix_s: u64,
    },
}

/// Validates a TLS-serialized `KeyPackage` at the time `now_unix_s`: decodes it to the last byte, and
/// checks both signatures, the capabilities, the lifetime and that the credential names an inbox.
/// Costs at most two signature checks and copies of the input.
///
/// # Errors
/// Returns the first rule that the key package breaks.
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

/// Runs all checks of OpenMLS and ignores a failure of the lifetime check, which is its last one.
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
