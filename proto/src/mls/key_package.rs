//! Key packages, with which members add an installation to a group (RFC 9420 §10).

use ed25519_dalek::VerifyingKey;

use super::MlsParseError;
use super::leaf::{Credential, Extensions, LeafSource, Lifetime, leaf_node};
use super::reader::Reader;
use super::signature::{KEY_PACKAGE_LABEL, LEAF_NODE_LABEL, SignedPart};

/// Cipher suites that sign with Ed25519 (RFC 9420 §17.1).
const ED25519_SUITES: [u16; 2] = [1, 3];

/// A well-formed key package, by reference. Its signatures are **not** checked by the parser; see
/// [`check_signatures`](Self::check_signatures).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPackageView<'a> {
    /// Cipher suite as registered with IANA; XMTP uses 3.
    pub cipher_suite: u16,
    /// The HPKE key that welcomes are encrypted to.
    pub init_key: &'a [u8],
    /// The HPKE key of the leaf.
    pub encryption_key: &'a [u8],
    /// The owner's signature key; in XMTP the installation key.
    pub signature_key: &'a [u8],
    /// The credential that the owner claims.
    pub credential: Credential<'a>,
    /// The period of validity.
    pub lifetime: Lifetime,
    /// The extensions of the leaf node.
    pub leaf_extensions: Extensions<'a>,
    /// The extensions of the key package itself.
    pub extensions: Extensions<'a>,
    /// The leaf node with its signature.
    pub signed_leaf: SignedPart<'a>,
    /// The key package with its signature.
    pub signed: SignedPart<'a>,
}

/// The reason the signatures of a key package are not those of its signature key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyPackageSignatureError {
    /// The signature key is not an Ed25519 public key.
    #[error("the signature key is not an Ed25519 key")]
    Key,
    /// The signature of the leaf node is wrong.
    #[error("the leaf node signature is not valid")]
    LeafNode,
    /// The signature of the key package is wrong.
    #[error("the key package signature is not valid")]
    KeyPackage,
}

impl KeyPackageView<'_> {
    /// Checks both signatures, as far as implementations agree on the result. Costs at most two checks of signatures.
    ///
    /// Accepts a key package without a check if its cipher suite does not sign with Ed25519, or if the content of an
    /// extension may have several encodings. For the latter, the published libraries check a signature over the bytes
    /// that they decode and encode again, which may differ from the signed ones.
    ///
    /// # Errors
    /// The first wrong signature, or a key that is not a valid one.
    pub fn check_signatures(&self) -> Result<(), KeyPackageSignatureError> {
        let mut extensions = self.leaf_extensions.iter().chain(self.extensions.iter());
        if !ED25519_SUITES.contains(&self.cipher_suite) || !extensions.all(|it| it.has_one_form()) {
            return Ok(());
        }
        let key = VerifyingKey::try_from(self.signature_key)
            .map_err(|_| KeyPackageSignatureError::Key)?;
        if !self.signed_leaf.is_by(&key, LEAF_NODE_LABEL) {
            return Err(KeyPackageSignatureError::LeafNode);
        }
        if !self.signed.is_by(&key, KEY_PACKAGE_LABEL) {
            return Err(KeyPackageSignatureError::KeyPackage);
        }
        Ok(())
    }
}

/// Parses a bare `KeyPackage` (not wrapped in an `MLSMessage`) to its last byte.
///
/// # Errors
/// If `data` is not exactly one MLS 1.0 key package.
pub fn parse_key_package(data: &[u8]) -> Result<KeyPackageView<'_>, MlsParseError> {
    let mut reader = Reader::new(data);
    let view = key_package(&mut reader)?;
    reader.finish()?;
    Ok(view)
}

/// Reads a `KeyPackage`, which proposals to add a member carry too.
pub(super) fn key_package<'a>(
    reader: &mut Reader<'a>,
) -> Result<KeyPackageView<'a>, MlsParseError> {
    let start = *reader;
    reader.protocol_version()?;
    let cipher_suite = reader.u16()?;
    let init_key = reader.vector()?;
    let leaf = leaf_node(reader, LeafSource::KeyPackage)?;
    let extensions = super::leaf::extensions(reader)?;
    let signed = SignedPart::read(reader, &start)?;
    Ok(KeyPackageView {
        cipher_suite,
        init_key,
        encryption_key: leaf.encryption_key,
        signature_key: leaf.signature_key,
        credential: leaf.credential,
        lifetime: leaf.lifetime.expect("read with the source that carries one"),
        leaf_extensions: leaf.extensions,
        extensions,
        signed_leaf: leaf.signed,
        signed,
    })
}
