//! Fuzz target: messages in which a peer without QUIC sends a strand.

use std::time::Instant;

use bytes::Bytes;
use hawser_engine::replication::{StrandItem, Want};
use hawser_net::{cut_messages, open_canonical, read_strand};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{OriginatorId, SequenceId};
use prost::{Message, Name as _};

use super::Target;
use crate::corpus;

/// An empty envelope takes two bytes on the wire, and the handle of its bytes here.
pub(super) const TARGET: Target = Target { name: "grpc-strand", run, seeds, memory_factor: 64 };

/// Field 1, repeated: how envelopes are laid out.
#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    envelopes: Vec<Bytes>,
}

/// A message of `SubscribeOriginators`.
#[derive(Clone, PartialEq, Message)]
struct Framed {
    #[prost(message, optional, tag = "1")]
    envelopes: Option<List>,
}

fn seeds() -> Vec<Vec<u8>> {
    let envelopes = corpus::messages_of(&pb::OriginatorEnvelope::full_name());
    let envelopes: Vec<Bytes> = envelopes.into_iter().map(Bytes::from).collect();
    let message = |envelopes: &[Bytes]| {
        let envelopes = Some(List { envelopes: envelopes.to_vec() });
        Framed { envelopes }.encode_to_vec()
    };
    let one = envelopes.chunks(1).map(message);
    let some = envelopes.windows(2).map(message);
    one.chain(some).chain([message(&envelopes), Vec::new()]).collect()
}

/// The originator of the first envelope, so that the input is an answer to what was asked for.
fn originator(input: &Bytes) -> Option<OriginatorId> {
    let message = Framed::decode(input.clone()).ok()?;
    let outer = open_canonical(message.envelopes?.envelopes.into_iter().next()?)?;
    Some(OriginatorEnvelope::statement(outer.statement).ok()?.0.originator)
}

/// Messages are the same wherever their bytes are cut, and their framing is all that is not in them.
fn cut(input: &Bytes) {
    let framed =
        [&[0][..], &u32::try_from(input.len()).expect("short").to_be_bytes(), input].concat();
    for (bytes, bytes_max) in [(input.clone(), 1000), (framed.into(), usize::MAX)] {
        let (messages, end) = cut_messages(bytes_max, [bytes.clone()]);
        assert!(messages.iter().all(|message| message.len() <= bytes_max));
        let read: usize = messages.iter().map(|message| message.len() + 5).sum();
        assert!(read <= bytes.len());
        let pieces = bytes.chunks(3).map(Bytes::copy_from_slice);
        assert_eq!(cut_messages(bytes_max, pieces), (messages.clone(), end));
        if bytes_max == usize::MAX {
            assert_eq!(messages, std::slice::from_ref(input));
        }
    }
}

/// Items ascend, cover every place, and have the one form in which envelopes are stored, however the peer cuts
/// what it sends. A second statement is for a place before.
fn run(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    cut(&input);
    let originator = originator(&input).unwrap_or(OriginatorId(100));
    let now = Instant::now();
    for (after, up_to) in [(0, None), (3, Some(SequenceId(1 << 40)))] {
        let want = Want::envelopes(originator, SequenceId(after), up_to);
        let (items, _) = read_strand(want, now, 0, [input.clone(), input.clone()]);
        let mut last = want.after;
        let id_of = |bytes| {
            let (statement, _) = OriginatorEnvelope::open(bytes).expect("one form");
            OriginatorEnvelope::statement(statement).expect("it has a place").0
        };
        for item in items {
            last = match item {
                StrandItem::Gap { from, to, .. } => {
                    assert_eq!(from, last.next());
                    to
                }
                StrandItem::Envelope(bytes) => {
                    let id = id_of(bytes);
                    assert_eq!((id.originator, id.sequence), (originator, last.next()));
                    id.sequence
                }
                StrandItem::Second(bytes) => {
                    let id = id_of(bytes);
                    assert!(id.originator == originator && id.sequence <= last, "{id}");
                    last
                }
                StrandItem::Prefix(_) | StrandItem::End | StrandItem::Closed => {
                    unreachable!("a stream names neither")
                }
            };
        }
    }
}
