//! Reads the whole body of a request.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Body as HttpBody;
use tonic::Status;

use crate::budget::ConnectionShare;
use crate::charged_bytes::ChargedBytes;

/// Reads a body of at most `limit` bytes, and charges it before it is kept.
///
/// # Errors
/// The status that refuses the request. The rest of the body is not read.
pub(super) async fn collect<B>(
    body: &mut B,
    limit: usize,
    too_long: fn() -> Status,
    share: &Arc<ConnectionShare>,
) -> Result<(Bytes, ChargedBytes), Status>
where
    B: HttpBody<Data = Bytes, Error = Status> + Unpin,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(too_long());
    }
    let mut held = ChargedBytes::new(share.clone());
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        if bytes.len() + piece.len() > limit {
            return Err(too_long());
        }
        // Twice the length, because the buffer grows by doubling.
        held.take(2 * piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes.freeze(), held))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;
    use crate::budget::MemoryBudget;

    const PIECE_LEN_BYTES: usize = 1024 * 1024;

    #[tokio::test]
    async fn a_body_that_is_too_long_is_refused_and_nothing_is_kept() {
        let budget = MemoryBudget::new(1 << 30);
        let share = budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
        let before = budget.used_bytes();
        let piece = |_| Ok::<_, Status>(Frame::data(Bytes::from(vec![0; PIECE_LEN_BYTES])));
        let mut body = StreamBody::new(stream::iter((0..5).map(piece)));
        let too_long = || Status::resource_exhausted("too long");
        let refused = collect(&mut body, 3 * PIECE_LEN_BYTES, too_long, &share).await.map(drop);
        assert_eq!(refused.unwrap_err().message(), "too long");
        assert_eq!(budget.used_bytes(), before);
        assert!(body.frame().await.is_some(), "the fifth piece is left");
        assert!(body.frame().await.is_none());
    }
}
