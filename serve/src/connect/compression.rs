//! Compression of answers for callers that ask for it (gzip, RFC 1952), with the rules and bounds of
//! [`crate::compression`].

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as HttpBody, Frame};
use tonic::Status;

use crate::budget::ConnectionShare;
use crate::call_share::CallCharge;
use crate::compression::{CompressedBody, CompressionAllowance, GZIP};
use crate::message_boundaries::{COMPRESSED, HEAD_LEN_BYTES};

/// The compression of one answer.
pub(super) struct AnswerCompression {
    share: Arc<ConnectionShare>,
    allowance: Arc<CompressionAllowance>,
}

impl AnswerCompression {
    /// Returns the compression of an answer, if the header of this name asks for it. The allowance is the listener's.
    pub(super) fn of(
        headers: &HeaderMap,
        name: &str,
        share: &Arc<ConnectionShare>,
        allowance: &Arc<CompressionAllowance>,
    ) -> Option<Self> {
        let (share, allowance) = (share.clone(), allowance.clone());
        names_gzip(headers, name).then_some(Self { share, allowance })
    }

    /// Compresses the messages of a stream's body.
    pub(super) fn messages<B>(self, body: B) -> CompressedBody<B>
    where
        B: HttpBody<Data = Bytes, Error = Status> + Unpin,
    {
        CompressedBody::new(body, CallCharge::new(self.share), self.allowance)
    }

    /// Compresses the only message of an answer, behind its head. Returns it without a head, and true if it is
    /// compressed: it may be short, not shrink, or find no memory. Charges the message whenever this waits, so its
    /// caller does not.
    pub(super) async fn message(self, framed: Bytes) -> (Bytes, bool) {
        let plain = framed.slice(HEAD_LEN_BYTES..);
        let frames = stream::iter([Ok::<_, Status>(Frame::data(framed))]);
        let mut body = self.messages(StreamBody::new(frames));
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(piece)) => pieces.push(piece),
                _ => return (plain, false),
            }
        }
        // A message that is not tried comes in one piece.
        match pieces.as_slice() {
            [head, message] => (message.clone(), head.first() == Some(&COMPRESSED)),
            _ => (plain, false),
        }
    }
}

/// Returns true if the lists under this name contain gzip, and not with the weight 0 (RFC 9110 §12.5.3).
fn names_gzip(headers: &HeaderMap, name: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|entry| {
        let (coding, weight) = entry.split_once(';').unwrap_or((entry, ""));
        // The name of the weight has no case (RFC 9110 §12.4.2).
        let weight = weight.trim().strip_prefix(['q', 'Q']).and_then(|it| it.strip_prefix('='));
        let weight = weight.and_then(|text| text.parse::<f32>().ok());
        coding.trim().eq_ignore_ascii_case(GZIP) && weight.is_none_or(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::FutureExt as _;
    use http::HeaderValue;
    use http::header::ACCEPT_ENCODING;

    use super::*;
    use crate::budget::MemoryBudget;

    #[test]
    fn gzip_is_wanted_if_it_is_named_and_not_refused() {
        let wants = |list: &str| {
            let list = HeaderValue::from_str(list).unwrap();
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, list)]);
            names_gzip(&headers, "accept-encoding")
        };
        for list in ["gzip", "br, GZIP", "deflate;q=1.0, gzip;q=0.5", "gzip;q=many"] {
            assert!(wants(list), "{list}");
        }
        for list in ["", "identity", "br,deflate", "gzip;q=0", "gzip; Q=0.0", "*", "gzipped"] {
            assert!(!wants(list), "{list}");
        }
        assert!(!names_gzip(&HeaderMap::new(), "accept-encoding"));
    }

    /// The memory of the encoder is the caller's, so a message without room for it goes as it is.
    #[tokio::test]
    async fn a_message_is_compressed_if_it_shrinks_and_there_is_room() {
        let framed = |len_bytes: usize| {
            let head = [&[0], &u32::try_from(len_bytes).unwrap().to_be_bytes()[..]].concat();
            Bytes::from([head, vec![7; len_bytes]].concat())
        };
        let compressed = async |budget_bytes: usize, len_bytes: usize| {
            let budget = MemoryBudget::new(budget_bytes);
            let address = Ipv4Addr::LOCALHOST.into();
            let share = budget.connection(address, budget.account(None)).unwrap();
            let before = budget.used_bytes();
            let allowance = Arc::new(CompressionAllowance::new());
            let compression = AnswerCompression { share: share.clone(), allowance };
            let (message, is_compressed) = compression.message(framed(len_bytes)).await;
            assert_eq!(budget.used_bytes(), before, "given back");
            (message.len(), is_compressed)
        };
        assert_eq!(compressed(1 << 30, 100).await, (100, false), "it fits into a packet");
        let (len_bytes, is_compressed) = compressed(1 << 30, 100_000).await;
        assert!(is_compressed && len_bytes < 10_000, "{len_bytes}");
        assert_eq!(compressed(1 << 20, 400_000).await, (400_000, false));
    }

    /// Played by two honest callers with the longest answers: charges beside each other would have both refused.
    #[tokio::test]
    async fn a_message_that_is_being_compressed_is_charged_once_beside_its_encoder() {
        const LEN: usize = 2 << 20;
        const TABLES: usize = 512 * 1024;
        let budget = MemoryBudget::new(1 << 30);
        let share = budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
        let before = budget.used_bytes();
        let allowance = Arc::new(CompressionAllowance::new());
        let compression = AnswerCompression { share: share.clone(), allowance };
        let head = [&[0], &u32::try_from(LEN).unwrap().to_be_bytes()[..]].concat();
        let framed = Bytes::from([head, vec![7; LEN]].concat());
        let mut compressed = Box::pin(compression.message(framed));
        assert!((&mut compressed).now_or_never().is_none(), "it takes several turns");
        let used = budget.used_bytes() - before;
        assert!((2 * LEN..2 * LEN + TABLES).contains(&used), "{used}");
        assert!(compressed.await.1);
        assert_eq!(budget.used_bytes(), before);
    }
}
