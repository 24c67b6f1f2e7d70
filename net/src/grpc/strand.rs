//! A strand as a gRPC peer sends it: the decoders of messages and of envelopes together.

use std::time::Instant;

use hawser_engine::replication::{StrandItem, Want};
use hawser_proto::Bytes;
use hawser_proto::message_reader::{MessageReader, ReadStep};

use super::asked_peer::AskedPeer;
use super::feed::WantFeed;
use super::messages::read_frame;
use crate::counters::PeerError;

/// Splits the bytes of an answer, which arrive in these pieces, into messages of at most `bytes_max` bytes, as a
/// session does, but without a transport. Returns the messages, and the fault for which a session would end.
pub fn cut_messages(
    bytes_max: usize,
    pieces: impl IntoIterator<Item = Bytes>,
) -> (Vec<Bytes>, Result<(), PeerError>) {
    let (mut reader, mut messages) = (MessageReader::new(bytes_max), Vec::new());
    let mut pieces = pieces.into_iter();
    loop {
        match reader.step(true) {
            Ok(ReadStep::Message(message)) => messages.push(message),
            Ok(ReadStep::More) => match pieces.next() {
                Some(piece) => reader.push(piece),
                None => return (messages, Ok(())),
            },
            Ok(ReadStep::Long(_)) => unreachable!("long messages are allowed"),
            Err(error) => return (messages, Err(error.into())),
        }
    }
}

/// Reads messages of one `SubscribeOriginators` stream as a session does, without a transport. Returns the items for
/// the follower, and the fault for which the peer is left; what came before it counts. `unix_ns` is the wall clock.
pub fn read_strand(
    want: Want,
    now: Instant,
    unix_ns: i64,
    messages: impl IntoIterator<Item = Bytes>,
) -> (Vec<StrandItem<Bytes>>, Result<(), PeerError>) {
    let mut feed = WantFeed::new(want, AskedPeer::OwnNodeUnprotected, now);
    let mut items = Vec::new();
    for message in messages {
        let envelopes = match read_frame(message) {
            Ok(envelopes) => envelopes,
            Err(error) => return (items, Err(error)),
        };
        let fed = feed.take(now, unix_ns, envelopes);
        items.extend(fed.batches.into_iter().flatten());
        if let Some(violation) = fed.violation {
            return (items, Err(violation));
        }
    }
    (items, Ok(()))
}
