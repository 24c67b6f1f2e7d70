//! Key packages: what lets others add an installation to a group (RFC 9420 §10).

use super::MlsParseError;
use super::framing::version;
use super::leaf::{Credential, Extensions, LeafSource, Lifetime, leaf_node};
use super::reader::Reader;

/// A well-formed key package, by reference. Its signatures are **not** checked here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPackageView<'a> {
    /// As registered with IANA; XMTP uses 3.
    pub cipher_suite: u16,
    /// The HPKE key that welcomes are encrypted to.
    pub init_key: &'a [u8],
    /// The HPKE key of the leaf.
    pub encryption_key: &'a [u8],
    /// The key that the owner signs with; in XMTP the installation key.
    pub signature_key: &'a [u8],
    /// Who the owner says to be.
    pub credential: Credential<'a>,
    /// When it may be used.
    pub lifetime: Lifetime,
    /// The extensions of the leaf node.
    pub leaf_extensions: Extensions<'a>,
    /// The extensions of the key package itself.
    pub extensions: Extensions<'a>,
}

/// Reads a bare `KeyPackage` (not wrapped in an `MLSMessage`) to its last byte.
///
/// # Errors
/// If `data` is not exactly one MLS 1.0 key package.
pub fn parse_key_package(data: &[u8]) -> Result<KeyPackageView<'_>, MlsParseError> {
    let mut reader = Reader::new(data);
    let view = key_package(&mut reader)?;
    reader.finish()?;
    Ok(view)
}

/// `KeyPackage`, which proposals to add a member carry too.
pub(super) fn key_package<'a>(
    reader: &mut Reader<'a>,
) -> Result<KeyPackageView<'a>, MlsParseError> {
    version(reader)?;
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
