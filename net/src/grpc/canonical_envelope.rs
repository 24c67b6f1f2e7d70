//! The outer layer of envelopes from peers that write it in other ways than the canonical one.
//!
//! The originator signs the inner bytes, which never change. The outer layer is rewritten to the form in which
//! every Hawser node stores and sends it, so that equal statements have equal bytes.

use hawser_proto::Bytes;
use hawser_proto::Signature;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use prost::Message as _;

/// An envelope with its outer layer in canonical form, and the statement inside of it.
#[derive(Debug)]
pub struct CanonicalEnvelope {
    /// The whole envelope in canonical form.
    pub bytes: Bytes,
    /// The bytes that the originator has signed.
    pub statement: Bytes,
    /// The peer had written it in another way.
    pub was_rewritten: bool,
}

/// Opens an envelope as it came. `None` if it has no canonical form: the outer layer is malformed, or the
/// proof is missing or no signature.
#[must_use]
pub fn open(bytes: Bytes) -> Option<CanonicalEnvelope> {
    if let Ok((statement, _)) = OriginatorEnvelope::open(bytes.clone()) {
        return Some(CanonicalEnvelope { bytes, statement, was_rewritten: false });
    }
    let message = pb::OriginatorEnvelope::decode(bytes).ok()?;
    let pb::originator_envelope::Proof::OriginatorSignature(signature) = message.proof? else {
        return None;
    };
    let signature = Signature::canonicalize(&signature.bytes).ok()?;
    let statement = message.unsigned_originator_envelope;
    let bytes = OriginatorEnvelope::encode(statement.clone(), Proof::Signature(signature));
    Some(CanonicalEnvelope { bytes, statement, was_rewritten: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first field of an envelope and its second, each with head and content.
    fn fields() -> (Vec<u8>, Vec<u8>) {
        let statement = [vec![0x0a, 3], vec![1, 2, 3]].concat();
        let mut signature = vec![0x12, 67, 0x0a, 65];
        signature.extend([&[1; 64][..], &[0]].concat());
        (statement, signature)
    }

    #[test]
    fn a_canonical_envelope_stays_as_it_is() {
        let (statement, signature) = fields();
        let bytes = Bytes::from([statement, signature].concat());
        let outer = open(bytes.clone()).unwrap();
        assert_eq!((outer.bytes, outer.was_rewritten), (bytes, false));
        assert_eq!(outer.statement, [1, 2, 3][..]);
    }

    #[test]
    fn every_other_way_to_write_it_gets_the_same_bytes() {
        let (statement, signature) = fields();
        let canonical = Bytes::from([statement.clone(), signature.clone()].concat());
        let unknown = vec![0x7a, 1, 9];
        let mut ethereum = signature.clone();
        ethereum[68] = 27;
        for fields in [
            vec![signature.clone(), statement.clone()],
            vec![statement.clone(), signature.clone(), unknown.clone()],
            vec![unknown, statement.clone(), signature.clone()],
            vec![statement.clone(), ethereum],
        ] {
            let outer = open(fields.concat().into()).unwrap();
            assert!(outer.was_rewritten, "{fields:?}");
            assert_eq!(outer.bytes, canonical, "{fields:?}");
            assert_eq!(outer.statement, [1, 2, 3][..]);
        }
    }

    #[test]
    fn what_has_no_canonical_form_is_no_envelope() {
        let (statement, signature) = fields();
        let short = signature[..signature.len() - 1].to_vec();
        let transaction = vec![0x1a, 3, 0x0a, 1, 7];
        for fields in [
            vec![],
            vec![statement.clone()],
            vec![statement.clone(), short],
            vec![statement, transaction],
        ] {
            assert!(open(fields.concat().into()).is_none(), "{fields:?}");
        }
    }
}
