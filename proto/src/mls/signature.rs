//! Signatures with labels (RFC 9420 §5.1.2), by Ed25519.

use ed25519_dalek::ed25519::signature::MultipartVerifier as _;
use ed25519_dalek::{Signature, VerifyingKey};

use super::MlsParseError;
use super::reader::Reader;

/// The label of a leaf node's signature (RFC 9420 §7.2), written as a vector.
pub(super) const LEAF_NODE_LABEL: &[u8] = b"\x13MLS 1.0 LeafNodeTBS";
/// The label of a key package's signature (RFC 9420 §10), written as a vector.
pub(super) const KEY_PACKAGE_LABEL: &[u8] = b"\x15MLS 1.0 KeyPackageTBS";

/// Signed bytes with the signature behind them, which was not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedPart<'a> {
    /// The bytes that the signature covers beside its label.
    pub content: &'a [u8],
    /// The signature, of any length.
    pub signature: &'a [u8],
}

impl<'a> SignedPart<'a> {
    /// Reads the signature of everything since `start`, a position of this reader.
    pub(super) fn read(reader: &mut Reader<'a>, start: &Reader<'a>) -> Result<Self, MlsParseError> {
        let content = reader.since(start);
        Ok(Self { content, signature: reader.vector()? })
    }

    /// Returns true if the signature is valid.
    ///
    /// Also accepts keys and signatures of small order, which OpenMLS refuses and other libraries accept.
    pub(super) fn is_by(&self, key: &VerifyingKey, label: &[u8]) -> bool {
        let Ok(signature) = Signature::from_slice(self.signature) else { return false };
        let Some(len) = vector_len(self.content.len()) else { return false };
        key.multipart_verify(&[label, &len, self.content], &signature).is_ok()
    }
}

/// Returns the length of a vector in its shortest form (RFC 9420 §2.1.2); `None` for lengths that have none.
fn vector_len(len: usize) -> Option<Vec<u8>> {
    let len = u32::try_from(len).ok()?;
    Some(match len {
        0..0x40 => len.to_be_bytes()[3..].to_vec(),
        0x40..0x4000 => (0x4000 | len).to_be_bytes()[2..].to_vec(),
        0x4000..0x4000_0000 => (0x8000_0000 | len).to_be_bytes().to_vec(),
        0x4000_0000.. => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_written_as_it_is_read() {
        for len in [0, 63, 64, 16_383, 16_384, 70_000] {
            let content = vec![7; len];
            let bytes = [vector_len(len).unwrap(), content.clone()].concat();
            assert_eq!(Reader::new(&bytes).vector(), Ok(&content[..]), "length {len}");
        }
        assert_eq!(vector_len(0x3fff_ffff), Some(vec![0xbf, 0xff, 0xff, 0xff]));
        assert_eq!(vector_len(0x4000_0000), None);
    }
}
