//! Answers of a node whose envelopes stay bytes.
//!
//! On the wire a nested message looks like bytes, so these types read exactly the bytes that the node wrote, including
//! unknown fields and their order.

use bytes::Bytes;

/// Envelopes in field 1: `SubscribeEnvelopesResponse`, `QueryEnvelopesResponse`, and the member of
/// [`OriginatorsFrame`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct EnvelopeList {
    /// The envelopes, each as it was written.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub envelopes: Vec<Bytes>,
}

/// `SubscribeOriginatorsResponse` as a reader decodes it. The generated type, which nodes write, holds the list as
/// bytes. A message may have several lists, which together are one (`docs/protocol/wire.md`): this type joins them, and
/// the generated type would keep only the last.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OriginatorsFrame {
    /// The envelopes; without any, the message is a keep-alive.
    #[prost(message, optional, tag = "1")]
    pub envelopes: Option<EnvelopeList>,
}

impl OriginatorsFrame {
    /// Returns the envelopes, none of a keep-alive.
    #[must_use]
    pub fn into_envelopes(self) -> Vec<Bytes> {
        self.envelopes.unwrap_or_default().envelopes
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn envelopes(message: &'static [u8]) -> Vec<Bytes> {
        OriginatorsFrame::decode(message).unwrap().into_envelopes()
    }

    #[test]
    fn lists_that_follow_each_other_in_a_message_are_one_list() {
        let written = [Bytes::from_static(&[0xff, 0xff]), Bytes::from_static(&[3])];
        assert_eq!(envelopes(&[0x0a, 7, 0x0a, 2, 0xff, 0xff, 0x0a, 1, 3]), written);
        assert_eq!(envelopes(&[0x0a, 4, 0x0a, 2, 0xff, 0xff, 0x0a, 3, 0x0a, 1, 3]), written);
        assert_eq!(envelopes(&[0x0a, 4, 0x0a, 2, 0xff, 0xff, 0x0a, 0]), written[..1], "none more");
        assert!(envelopes(&[]).is_empty(), "a keep-alive");
    }
}
