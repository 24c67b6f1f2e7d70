//! Reads the whole body of a request.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::EXPECT;
use http::{HeaderMap, Version};
use http_body_util::BodyExt as _;
use hyper::body::Body as HttpBody;
use tokio::time::timeout;
use tonic::Status;

use crate::budget::ConnectionShare;
use crate::charged_bytes::ChargedBytes;
use crate::request::DISCARDED_BYTES_MAX;

/// Silence of a client after which the rest of a refused body is no longer waited for. A guess: one that is still
/// sending pauses for less.
const SILENCE: Duration = Duration::from_secs(1);

/// Reads a body of at most `limit` bytes, and charges it before it is kept.
///
/// # Errors
/// The status that refuses the request. The rest of the body is still to be read.
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

/// Returns true if the client may read a response only after it has sent the request. Over HTTP/2 it need not, and one
/// that asks with `Expect` whether to go on waits for the response.
pub(super) fn reads_late(version: Version, headers: &HeaderMap) -> bool {
    version < Version::HTTP_2 && !headers.contains_key(EXPECT)
}

/// Reads on in a refused body until its end, a silence, or [`DISCARDED_BYTES_MAX`]: a client that reads late would
/// otherwise see a reset connection instead of the refusal.
pub(super) async fn discard<B>(body: &mut B)
where
    B: HttpBody<Data = Bytes, Error = Status> + Unpin,
{
    let mut discarded_bytes = 0;
    while discarded_bytes < DISCARDED_BYTES_MAX
        && let Ok(Some(Ok(frame))) = timeout(SILENCE, body.frame()).await
    {
        discarded_bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;
    use crate::budget::MemoryBudget;

    const PIECE_LEN_BYTES: usize = 1024 * 1024;

    /// A body of pieces of a MiB, which then ends or stays silent.
    struct Pieces {
        left: usize,
        has_end: bool,
        read: usize,
    }

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            if self.left == 0 {
                return if self.has_end { Poll::Ready(None) } else { Poll::Pending };
            }
            (self.left, self.read) = (self.left - 1, self.read + 1);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; PIECE_LEN_BYTES])))))
        }
    }

    fn pieces(left: usize, has_end: bool) -> Pieces {
        Pieces { left, has_end, read: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_body_is_read_to_its_end_within_bounds() {
        let budget = MemoryBudget::new(1 << 30);
        let share = budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
        let before = budget.used_bytes();
        for (mut body, read) in [
            (pieces(40, true), 40),
            (pieces(40, false), 40),
            (pieces(1000, true), 4 + DISCARDED_BYTES_MAX / PIECE_LEN_BYTES),
        ] {
            let limit = 3 * PIECE_LEN_BYTES;
            let too_long = || Status::resource_exhausted("too long");
            let refused = collect(&mut body, limit, too_long, &share).await.map(|_| ());
            assert_eq!(refused.unwrap_err().message(), "too long");
            assert_eq!((body.read, budget.used_bytes()), (4, before), "nothing is kept");
            discard(&mut body).await;
            assert_eq!(body.read, read);
        }
    }

    #[test]
    fn only_a_client_that_reads_late_has_its_body_read_on() {
        let (none, mut expecting) = (HeaderMap::new(), HeaderMap::new());
        expecting.insert(EXPECT, "100-continue".parse().unwrap());
        assert!(reads_late(Version::HTTP_11, &none) && reads_late(Version::HTTP_10, &none));
        assert!(!reads_late(Version::HTTP_2, &none) && !reads_late(Version::HTTP_11, &expecting));
    }
}
