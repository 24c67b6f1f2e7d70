//! Leaf nodes: a member's keys, credential and capabilities (RFC 9420 §7.2).

use super::MlsParseError;
use super::reader::Reader;
use super::signature::SignedPart;

/// Extension type `application_id` (RFC 9420 §5.3.3): one vector.
pub(super) const APPLICATION_ID: u16 = 1;
/// Extension type `last_resort` (draft-ietf-mls-extensions), without content: the key package may be used more than
/// once.
pub const LAST_RESORT: u16 = 10;

/// The identity that the owner of a leaf claims (RFC 9420 §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// Bare bytes that the application interprets.
    Basic {
        /// The application's bytes.
        identity: &'a [u8],
    },
    /// A chain of X.509 certificates.
    X509 {
        /// The chain, beginning with the owner's certificate.
        certificates: Certificates<'a>,
    },
}

/// The certificates of an X.509 credential. Their framing was checked by the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificates<'a>(&'a [u8]);

impl<'a> Certificates<'a> {
    /// Iterates over the DER bytes of each certificate, beginning with the owner's.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || reader.vector().ok()) // fails only at the end
    }
}

/// The period in which a key package may be used, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// First second of the period.
    pub not_before: u64,
    /// Second after the period.
    pub not_after: u64,
}

/// A list of extensions. Its framing was checked by the parser; unknown types are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extensions<'a>(&'a [u8]);

/// One extension: its type and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extension<'a> {
    /// A registered, private or GREASE type.
    pub extension_type: u16,
    /// The content of the extension.
    pub data: &'a [u8],
}

impl Extension<'_> {
    /// Returns true if the content has only one encoding, so that readers who decode it encode the same bytes again.
    /// Returns false for types that readers decode and this parser does not.
    pub(super) fn has_one_form(&self) -> bool {
        match self.extension_type {
            APPLICATION_ID => {
                let mut content = Reader::new(self.data);
                content.vector().is_ok() && content.is_empty()
            }
            LAST_RESORT => self.data.is_empty(),
            // The other registered types, and the one that XMTP's branch of OpenMLS decodes.
            2..=9 | 0xf000 => false,
            _ => true,
        }
    }
}

impl<'a> Extensions<'a> {
    /// Iterates over the extensions in their written order.
    pub fn iter(&self) -> impl Iterator<Item = Extension<'a>> + use<'a> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || extension(&mut reader).ok()) // fails only at the end
    }

    /// Returns the content of the first extension of a type.
    #[must_use]
    pub fn get(&self, extension_type: u16) -> Option<&'a [u8]> {
        self.iter().find(|e| e.extension_type == extension_type).map(|e| e.data)
    }
}

/// The purpose of a leaf node, which decides its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum LeafSource {
    KeyPackage = 1,
    Update = 2,
    Commit = 3,
}

/// The fields of a leaf node that a node of the network uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeafNode<'a> {
    pub(super) encryption_key: &'a [u8],
    pub(super) signature_key: &'a [u8],
    pub(super) credential: Credential<'a>,
    /// Present for [`LeafSource::KeyPackage`] only.
    pub(super) lifetime: Option<Lifetime>,
    pub(super) extensions: Extensions<'a>,
    /// The fields with their signature. That of a leaf in a key package covers exactly them.
    pub(super) signed: SignedPart<'a>,
}

/// Reads a `LeafNode`. Its position decides the required source (RFC 9420 §7.3).
pub(super) fn leaf_node<'a>(
    reader: &mut Reader<'a>,
    source: LeafSource,
) -> Result<LeafNode<'a>, MlsParseError> {
    let start = *reader;
    let encryption_key = reader.vector()?;
    let signature_key = reader.vector()?;
    let credential = credential(reader)?;
    capabilities(reader)?;
    let lifetime = leaf_source(reader, source)?;
    let extensions = extensions(reader)?;
    let signed = SignedPart::read(reader, &start)?;
    Ok(LeafNode { encryption_key, signature_key, credential, lifetime, extensions, signed })
}

fn leaf_source(
    reader: &mut Reader<'_>,
    source: LeafSource,
) -> Result<Option<Lifetime>, MlsParseError> {
    let (expected, found) = (source as u8, reader.u8()?);
    if found != expected {
        return Err(MlsParseError::LeafNodeSource { expected, found });
    }
    match source {
        LeafSource::KeyPackage => {
            Ok(Some(Lifetime { not_before: reader.u64()?, not_after: reader.u64()? }))
        }
        LeafSource::Update => Ok(None),
        LeafSource::Commit => reader.vector().map(|_parent_hash| None),
    }
}

/// Reads a credential. An unknown type is an error, because its end is not defined.
pub(super) fn credential<'a>(reader: &mut Reader<'a>) -> Result<Credential<'a>, MlsParseError> {
    match reader.u16()? {
        1 => Ok(Credential::Basic { identity: reader.vector()? }),
        2 => {
            let certificates = reader.each(|chain| chain.vector().map(drop))?;
            Ok(Credential::X509 { certificates: Certificates(certificates) })
        }
        other => Err(MlsParseError::Selector { field: "credential_type", value: other }),
    }
}

/// Reads five lists of 16-bit values: versions, cipher suites, extensions, proposals, credentials.
/// Any value is allowed, including unknown ones and GREASE (RFC 9420 §13.5).
fn capabilities(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    for _ in 0..5 {
        reader.each(|values| values.u16().map(drop))?;
    }
    Ok(())
}

/// Reads `Extension extensions<V>`.
pub(super) fn extensions<'a>(reader: &mut Reader<'a>) -> Result<Extensions<'a>, MlsParseError> {
    reader.each(|list| extension(list).map(drop)).map(Extensions)
}

fn extension<'a>(reader: &mut Reader<'a>) -> Result<Extension<'a>, MlsParseError> {
    Ok(Extension { extension_type: reader.u16()?, data: reader.vector()? })
}
