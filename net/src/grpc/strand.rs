//! A strand as a gRPC peer sends it: the decoders of messages and of envelopes together.

use std::time::Instant;

use hawser_engine::replication::{StrandItem, Want};
use hawser_proto::Bytes;

use super::feed::WantFeed;
use super::messages::{OriginatorsFrame, read};
use crate::counters::PeerError;

/// Reads messages of one `SubscribeOriginators` stream as a session does, without a transport. Returns the items for
/// the follower, and the fault for which the peer is left; what came before it counts. `unix_ns` is the wall clock.
pub fn read_strand(
    want: Want,
    now: Instant,
    unix_ns: i64,
    messages: impl IntoIterator<Item = Bytes>,
) -> (Vec<StrandItem<Bytes>>, Result<(), PeerError>) {
    let mut feed = WantFeed::new(want, false, now);
    let mut items = Vec::new();
    for message in messages {
        let frame: OriginatorsFrame = match read(message) {
            Ok(frame) => frame,
            Err(error) => return (items, Err(error)),
        };
        let envelopes = frame.envelopes.map(|list| list.envelopes).unwrap_or_default();
        let fed = feed.take(now, unix_ns, envelopes);
        items.extend(fed.batches.into_iter().flatten());
        if let Some(violation) = fed.violation {
            return (items, Err(violation));
        }
    }
    (items, Ok(()))
}
