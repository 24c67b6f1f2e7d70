//! `Subscribe` (XIP-83): Mutates while waves are in flight, and while other clients publish.

use std::collections::BTreeMap;

use bytes::Bytes;
use tonic::Code;

use crate::case::Need::Payer;
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, status_text};
use crate::context::{JudgedNodes, names, parse_envelope, same_envelopes, seen};
use crate::duplex::{DuplexStream, Frame, Mutate, add, adds, removes};
use crate::envelopes::new_group;
use crate::listener::hold;

const AREA: Area = Area::Streams;
const SUBSCRIBE: &str = "docs/protocol/api.md#subscribe";
/// Envelopes of a wave that later waves overtake. A guess: several frames.
const STORED: usize = 60;
/// Tries to send a Mutate while a wave is in flight, each on a new stream. A guess: the first one nearly always
/// succeeds.
const TRIES: u64 = 5;
/// Envelopes of a wave that is in flight until its client reads: more than a page of 1000, so that its end cannot wait
/// in a buffer.
const IN_FLIGHT: usize = 1_100;
/// Envelopes of a request. A guess: few requests, none of them large.
const PUBLISHED_AT_ONCE: usize = 100;
/// Changes while other clients publish. A guess: enough that most of them fall between two envelopes.
const ROUNDS: u64 = 6;

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "subscribe-changes-during-a-wave",
        "Mutates that come while a wave is in flight add and remove topics; a wave is completed \
         once, with all of the topics that stay",
        SUBSCRIBE,
        |c| Box::pin(changes(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "mutate-id-in-flight",
        "check 2: no wave in flight has the mutate_id",
        SUBSCRIBE,
        |c| Box::pin(id_in_flight(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "mutate-history-in-flight",
        "check 6: no add of a topic whose history_only wave is in flight",
        SUBSCRIBE,
        |c| Box::pin(history_in_flight(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "subscribe-changes-during-publishes",
        "a topic that is added and removed while others publish loses and repeats nothing, nor \
         does a topic beside it",
        SUBSCRIBE,
        |c| Box::pin(during_publishes(c)),
    )
    .needs(&[Payer]),
];

async fn changes(c: &JudgedNodes) -> Checked {
    let (left, stays, late) = (new_group(), new_group(), new_group());
    let of_left = c.send(&left, STORED).await?;
    let of_stays = c.send(&stays, STORED).await?;
    let of_late = c.send(&late, 3).await?;
    let mut duplex = DuplexStream::open(&c.target).await?;
    duplex.mutate(adds(1, &[&left, &stays])).await;
    duplex.mutate(adds(2, &[&late])).await;
    duplex.mutate(removes(3, &[&left])).await;
    let mut waves: BTreeMap<u64, Vec<Bytes>> = BTreeMap::new();
    let (mut live, mut complete) = (Vec::new(), Vec::new());
    while complete.len() < 3 {
        match duplex.receive().await.map_err(|failure| failure.at("three waves"))? {
            Frame::Envelopes(id @ 1..=3, more) if !complete.contains(&id) => {
                let is_late = complete.contains(&3) && more.iter().any(|it| of_left.contains(it));
                ensure(!is_late, "nothing of a topic after its removal", || names(&more))?;
                hold(waves.entry(id).or_default(), more)?;
            }
            Frame::Live(topics) if live.len() + topics.len() <= 3 => live.extend(topics),
            Frame::Complete(id @ 1..=3) if !complete.contains(&id) => complete.push(id),
            other => {
                let text = "envelopes of a wave that is not complete, topics_live, and \
                            catchup_complete once";
                return Err(CaseError::new(text, format!("{other:?}")));
            }
        }
    }
    let mut wave = |id| waves.remove(&id).unwrap_or_default();
    // The wave may have sent the first envelopes of the removed topic; it continues with the other topic.
    let (early, rest): (Vec<Bytes>, Vec<Bytes>) =
        wave(1).into_iter().partition(|it| of_left.contains(it));
    same_envelopes(
        "wave 1, what it has of the topic that left",
        &of_left[..early.len().min(STORED)],
        &early,
    )?;
    same_envelopes("wave 1", &of_stays, &rest)?;
    same_envelopes("wave 2", &of_late, &wave(2))?;
    same_envelopes("wave 3", &[], &wave(3))?;
    live.retain(|topic| *topic != left);
    live.sort();
    let mut expected = vec![stays.clone(), late.clone()];
    expected.sort();
    ensure(live == expected, "topics_live with both topics that stay", || {
        format!("{} of them", live.len())
    })?;
    let sent = [c.send(&stays, 1).await?, c.send(&late, 1).await?];
    c.send(&left, 1).await?;
    let last = c.send(&stays, 1).await?;
    same_envelopes("live", &[sent.concat(), last].concat(), &duplex.live(3).await?)
}

async fn id_in_flight(c: &JudgedNodes) -> Checked {
    let (first, second) = (in_flight(c).await?, new_group());
    let other = c.send(&second, 1).await?;
    let is_applied =
        |frame: &Frame| matches!(frame, Frame::Envelopes(1, more) if more.contains(&other[0]));
    refused_in_flight(c, [adds(1, &[&first]), adds(1, &[&second])], is_applied).await
}

async fn history_in_flight(c: &JudgedNodes) -> Checked {
    let topic = in_flight(c).await?;
    let history = Mutate { history_only: true, ..adds(1, &[&topic]) };
    let is_applied = |frame: &Frame| matches!(frame, Frame::Envelopes(2, _) | Frame::Complete(2));
    refused_in_flight(c, [history, adds(2, &[&topic])], is_applied).await
}

/// Returns a topic whose wave is in flight until its client reads: it is longer than the HTTP/2 window.
async fn in_flight(c: &JudgedNodes) -> Checked<Bytes> {
    let topic = new_group();
    for _ in 0..IN_FLIGHT / PUBLISHED_AT_ONCE {
        c.send(&topic, PUBLISHED_AT_ONCE).await?;
    }
    Ok(topic)
}

/// Sends two Mutates and a ping before it reads any frame. The second Mutate has to be refused while wave 1, that of
/// the first one, is in flight. A node reads requests in order: a pong before the wave is complete shows that the node
/// read the second Mutate while the wave was in flight. `is_applied` finds the frames of a second Mutate that was
/// taken.
async fn refused_in_flight(
    c: &JudgedNodes,
    mutates: [Mutate; 2],
    is_applied: impl Fn(&Frame) -> bool,
) -> Checked {
    let narrow = c.target.narrow()?;
    for nonce in 1..=TRIES {
        let mut duplex = DuplexStream::open(&narrow).await?;
        for mutate in &mutates {
            duplex.mutate(mutate.clone()).await;
        }
        duplex.ping(nonce).await;
        if let MutateOutcome::Refused = of_second_mutate(&mut duplex, nonce, &is_applied).await? {
            return Ok(());
        }
    }
    Err(CaseError::skip("each wave was complete before the next Mutate was read"))
}

/// The outcome of a Mutate that a wave in flight forbids.
enum MutateOutcome {
    Refused,
    /// The wave was complete when the node read the Mutate, which was then allowed.
    WaveWasComplete,
}

async fn of_second_mutate(
    duplex: &mut DuplexStream,
    nonce: u64,
    is_applied: &impl Fn(&Frame) -> bool,
) -> Checked<MutateOutcome> {
    let expected = "the stream's end with INVALID_ARGUMENT";
    let mut was_read = false;
    loop {
        match duplex.receive_or_end().await.map_err(|failure| failure.at("two Mutates"))? {
            Ok(Some(frame)) if is_applied(&frame) => {
                return Err(CaseError::new(expected, "a wave of the second Mutate"));
            }
            Ok(Some(Frame::Pong(pong))) if pong == nonce => was_read = true,
            Ok(Some(Frame::Complete(1))) if was_read => {
                let got = "the end of the wave, and a ping behind the second Mutate was answered \
                           before";
                return Err(CaseError::new(expected, got));
            }
            Ok(Some(Frame::Complete(1))) => return Ok(MutateOutcome::WaveWasComplete),
            Ok(Some(_)) => {}
            Ok(None) => return Err(CaseError::new(expected, "its end with OK")),
            Err(status) if status.code() == Code::InvalidArgument => {
                return Ok(MutateOutcome::Refused);
            }
            Err(status) => return Err(CaseError::new(expected, status_text(&status))),
        }
    }
}

/// The envelopes of two topics that a stream has sent.
struct TwoTopics {
    duplex: DuplexStream,
    /// The topic that is added and removed.
    changing: Bytes,
    /// True while the topic's live envelopes are allowed.
    is_added: bool,
    of_steady: Vec<Bytes>,
    of_changing: Vec<Bytes>,
}

impl TwoTopics {
    /// Reads frames until the wave `id` is complete; for `None`, until both topics have `count` envelopes.
    async fn until(&mut self, id: Option<u64>, count: usize) -> Checked {
        while id.is_some() || self.of_steady.len() < count || self.of_changing.len() < count {
            let step = format_args!(
                "{} and {} envelopes came",
                self.of_steady.len(),
                self.of_changing.len()
            );
            match self.duplex.receive().await.map_err(|failure| failure.at(step))? {
                Frame::Envelopes(0, more) => {
                    for envelope in more {
                        self.live(envelope)?;
                    }
                }
                Frame::Envelopes(lane, more) if Some(lane) == id => {
                    hold(&mut self.of_changing, more)?
                }
                Frame::Live(_) => {}
                Frame::Complete(complete) if Some(complete) == id => return Ok(()),
                other => {
                    let expected = format!("live envelopes, or the frames of wave {id:?}");
                    return Err(CaseError::new(expected, format!("{other:?}")));
                }
            }
        }
        Ok(())
    }

    fn live(&mut self, envelope: Bytes) -> Checked {
        let topic =
            parse_envelope(&envelope)?.unsigned().payer().client().topic().as_bytes().clone();
        if topic != self.changing {
            return hold(&mut self.of_steady, vec![envelope]);
        }
        ensure(
            self.is_added,
            "nothing of a topic before its wave ends, and after its removal",
            || names(std::slice::from_ref(&envelope)),
        )?;
        hold(&mut self.of_changing, vec![envelope])
    }

    async fn add(&mut self, id: u64) -> Checked {
        let from = (!self.of_changing.is_empty()).then(|| seen(&self.of_changing)).transpose()?;
        let adds = vec![add(&self.changing, from)];
        self.duplex.mutate(Mutate { adds, mutate_id: id, ..Mutate::default() }).await;
        self.until(Some(id), 0).await?;
        // No live envelope of a topic comes before the end of its wave.
        self.is_added = true;
        Ok(())
    }

    async fn remove(&mut self, id: u64) -> Checked {
        self.duplex.mutate(removes(id, &[&self.changing])).await;
        self.until(Some(id), 0).await?;
        self.is_added = false;
        Ok(())
    }
}

async fn during_publishes(c: &JudgedNodes) -> Checked {
    const COUNT: usize = 20;
    let (steady, changing) = (new_group(), new_group());
    let mut duplex = DuplexStream::open(&c.target).await?;
    duplex.mutate(adds(1, &[&steady])).await;
    duplex.wave(1).await?;
    let mut received = TwoTopics {
        duplex,
        changing: changing.clone(),
        is_added: false,
        of_steady: Vec::new(),
        of_changing: Vec::new(),
    };
    let publish = async {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for _ in 0..COUNT {
            one.extend(c.send(&steady, 1).await?);
            other.extend(c.send(&changing, 1).await?);
        }
        Ok::<_, CaseError>((one, other))
    };
    let change = async {
        for round in 0..ROUNDS {
            received.add(10 + round).await?;
            received.remove(100 + round).await?;
        }
        Ok::<_, CaseError>(())
    };
    let ((of_steady, of_changing), ()) = tokio::try_join!(publish, change)?;
    received.add(200).await?;
    received.until(None, COUNT).await?;
    same_envelopes("the topic that stays", &of_steady, &received.of_steady)?;
    same_envelopes("the topic that comes and goes", &of_changing, &received.of_changing)
}
