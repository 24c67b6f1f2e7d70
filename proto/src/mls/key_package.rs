//! Key packages, with which members add an installation to a group (RFC 9420 §10).

use super::MlsParseError;
use super::leaf::{Credential, Extensions, LeafSource, Lifetime, leaf_node};
use super::reader::Reader;

/// A well-formed key package, by reference. Its signatures are **not** checked here.
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
    reader.protocol_version()?;
    let cipher_suite = reader.u16()?;
    let init_key = reader.vector()?;
    let leaf = leaf_node(reader, LeafSource::KeyPackage)?;
    let extensions = super::leaf::extensions(reader)?;
    reader.vector()?; // signature
    Ok(KeyPackageView {
        cipher_suite,
        init_key,
        encryption_key: leaf.encryption_key,
        signature_key: leaf.signature_key,
        credential: leaf.credential,
        lifetime: leaf.lifetime.expect("read with the source that carries one"),
        leaf_extensions: leaf.extensions,
        extensions,
    })
}
