//! `Subscribe` with the most topics that a stream may have.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use tonic::Code;

use crate::case::Need::{Destructive, Load, Payer};
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, same};
use crate::context::{JudgedNodes, STREAM_TOPICS_MAX, same_envelopes};
use crate::duplex::{DuplexStream, Frame, Mutate, add};
use crate::envelopes::new_group;
use crate::listener::hold;

/// The maximum number of adds of a Mutate (`docs/protocol/api.md`, *Subscribe*).
const ADDS_MAX: u32 = 100_000;
/// The fewest Mutates that add the topics, so that a short run has several waves too. A guess.
const WAVES: u32 = 10;
/// Time for a million topics. A guess: a slow node adds a few thousand a second.
const LIMIT: Duration = Duration::from_secs(600);

pub(super) const CASES: &[Case] = &[Case::new(
    Area::Limits,
    "a-stream-of-a-million-topics",
    "a stream holds 1,000,000 topics, has the history and the new envelopes of the first and the \
     last, and refuses one more",
    "docs/protocol/api.md#subscribe",
    |c| Box::pin(million(c)),
)
.needs(&[Payer, Load, Destructive])
.limit(LIMIT)];

/// Topics that no other run has used. Only the first and the last are kept in memory; the others are made when they are
/// sent.
struct Groups {
    first: Bytes,
}

impl Groups {
    fn topic(&self, number: u32) -> Bytes {
        let mut topic = self.first.to_vec();
        if let Some(end) = topic.last_chunk_mut::<4>() {
            let number = u32::from_be_bytes(*end).wrapping_add(number);
            *end = number.to_be_bytes();
        }
        topic.into()
    }

    fn mutate(&self, mutate_id: u64, numbers: Range<u32>) -> Mutate {
        let adds = numbers.map(|number| add(&self.topic(number), None)).collect();
        Mutate { adds, mutate_id, ..Mutate::default() }
    }
}

async fn million(c: &JudgedNodes) -> Checked {
    let count = c.stream_topics;
    let groups = Groups { first: new_group() };
    let (first, last) = (groups.topic(0), groups.topic(count - 1));
    let history = [c.send(&first, 1).await?, c.send(&last, 1).await?].concat();
    let mut duplex = DuplexStream::open(&c.target).await?;
    let at_once = count.div_ceil(WAVES).min(ADDS_MAX);
    let mut envelopes = Vec::new();
    let mut added = 0;
    while added < count {
        let next = added.saturating_add(at_once).min(count);
        let id = u64::from(next);
        let topics = next - added;
        duplex.mutate(groups.mutate(id, added..next)).await;
        let step = |failure: CaseError| failure.at(format_args!("topics up to {next}"));
        wave(&mut duplex, id, topics, &mut envelopes).await.map_err(step)?;
        added = next;
    }
    same_envelopes("the waves", &history, &envelopes)?;
    let live = [c.send(&last, 1).await?, c.send(&first, 1).await?].concat();
    same_envelopes("live", &live, &duplex.live(2).await?)?;
    // The node serves other callers meanwhile.
    let both = [history[0].clone(), live[1].clone()];
    same_envelopes("a query", &both, &c.query(&c.target, &[&first], None, 0).await?)?;
    if count < STREAM_TOPICS_MAX {
        return Ok(());
    }
    duplex.mutate(groups.mutate(u64::from(count) + 1, count..count + 1)).await;
    duplex.ends_with(Code::ResourceExhausted, "").await
}

/// Reads a wave to its end, and checks that `topics_live` names each of its topics.
async fn wave(
    duplex: &mut DuplexStream,
    id: u64,
    topics: u32,
    envelopes: &mut Vec<Bytes>,
) -> Checked {
    let topics = topics as usize;
    let mut live = 0;
    loop {
        match duplex.receive().await? {
            Frame::Envelopes(lane, more) if lane == id => hold(envelopes, more)?,
            Frame::Live(more) => {
                live += more.len();
                ensure(live <= topics, "each topic live once", || live.to_string())?;
            }
            Frame::Complete(complete) if complete == id => {
                return same("live topics", &topics, &live);
            }
            other => return Err(CaseError::new("the frames of a wave", format!("{other:?}"))),
        }
    }
}
