//! `Subscribe` (XIP-83): waves, lanes, the switch to live envelopes, removal, history and liveness.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::Code;

use crate::case::Need::{Payer, Second};
use crate::case::{Area, Case};
use crate::case_error::{CaseError, CaseErrorKind, Checked, ensure, same};
use crate::context::{JudgedNodes, same_envelopes, seen};
use crate::duplex::{DuplexStream, Frame, Mutate, add, adds, removes};
use crate::envelopes::new_group;

const AREA: Area = Area::Streams;
const SUBSCRIBE: &str = "docs/protocol/api.md#subscribe";
/// Longest keepalive interval that the suite waits for. A guess: twice the default.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
const SLOW: Duration = Duration::from_secs(200);
/// Time for which the reference node reads a request, less a second of slack. Its first ping is due at the end of this
/// time, unless its interval is shorter.
const REQUEST_READ_FOR: Duration = Duration::from_secs(29);

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "subscribe-starts",
        "the first frame of Subscribe is started, with a keepalive interval",
        SUBSCRIBE,
        |c| Box::pin(starts(c)),
    ),
    Case::new(
        AREA,
        "subscribe-answers-pings",
        "each ping is answered with a pong of its nonce, and frames without content are \
         ignored",
        SUBSCRIBE,
        |c| Box::pin(answers_pings(c)),
    ),
    Case::new(
        AREA,
        "subscribe-wave-then-live",
        "a Mutate brings stored envelopes under its id, topics_live, catchup_complete, and \
         then live envelopes under 0",
        SUBSCRIBE,
        |c| Box::pin(wave_then_live(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "subscribe-cursor-counts",
        "a wave begins behind the cursor of each of its topics, and the first of equal adds \
         counts",
        SUBSCRIBE,
        |c| Box::pin(cursors_count(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "subscribe-seam",
        "between a wave and live envelopes nothing is missing and nothing comes twice",
        SUBSCRIBE,
        |c| Box::pin(seam(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "subscribe-removed-is-silent",
        "nothing more of a topic comes after its removal was completed",
        SUBSCRIBE,
        |c| Box::pin(removed_is_silent(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "subscribe-reset-replays",
        "a topic that a Mutate removes and adds is replayed from its cursor",
        SUBSCRIBE,
        |c| Box::pin(reset_replays(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "subscribe-again-is-nothing",
        "adding a topic that is there already is completed at once and repeats nothing",
        SUBSCRIBE,
        |c| Box::pin(again_is_nothing(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "subscribe-history-only",
        "a history_only wave brings what is stored and leaves no topic live",
        SUBSCRIBE,
        |c| Box::pin(history_only(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "subscribe-empty-mutate",
        "a Mutate without adds is completed at once, with id 0 too",
        SUBSCRIBE,
        |c| Box::pin(empty_mutate(c)),
    ),
    Case::new(
        AREA,
        "subscribe-id-is-used-again",
        "a mutate_id may be used again after its wave",
        SUBSCRIBE,
        |c| Box::pin(id_again(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "subscribe-live-ascends",
        "live envelopes of all topics ascend in each originator",
        SUBSCRIBE,
        |c| Box::pin(live_ascends(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "subscribe-shows-peers",
        "a stream at another node delivers what is published here",
        SUBSCRIBE,
        |c| Box::pin(elsewhere(c)),
    )
    .needs(&[Payer, Second]),
    Case::new(
        AREA,
        "subscribe-half-close",
        "after the client's last request running waves are finished and the stream ends with \
         OK",
        SUBSCRIBE,
        |c| Box::pin(half_close(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "subscribe-pings-a-silent-client",
        "the node pings after an interval of silence, and goes on while it is answered",
        SUBSCRIBE,
        |c| Box::pin(pings(c)),
    )
    .limit(SLOW),
    Case::new(
        AREA,
        "subscribe-leaves-a-dead-client",
        "a client that does not answer a ping within an interval is left with \
         DEADLINE_EXCEEDED",
        SUBSCRIBE,
        |c| Box::pin(leaves(c)),
    )
    .limit(SLOW),
];

async fn starts(c: &JudgedNodes) -> Checked {
    DuplexStream::open(&c.target).await.map(|_| ())
}

async fn answers_pings(c: &JudgedNodes) -> Checked {
    let mut duplex = DuplexStream::open(&c.target).await?;
    duplex.ask(None).await;
    duplex.pong(9).await;
    for nonce in [1, 7, 0, u64::MAX] {
        duplex.ping(nonce).await;
        let received = duplex.receive().await?;
        ensure(received == Frame::Pong(nonce), format_args!("pong {nonce}"), || {
            format!("{received:?}")
        })?;
    }
    Ok(())
}

fn same_topics(expected: &[&Bytes], got: &[Bytes]) -> Checked {
    let equal = got.len() == expected.len() && got.iter().zip(expected).all(|(a, b)| a == *b);
    ensure(
        equal,
        format_args!("topics_live with {} topics in the order of the adds", expected.len()),
        || format!("{} topics, or others", got.len()),
    )
}

async fn wave_then_live(c: &JudgedNodes) -> Checked {
    let (one, two, empty) = (new_group(), new_group(), new_group());
    let sent = [c.send(&one, 2).await?, c.send(&two, 2).await?, c.send(&one, 1).await?].concat();
    let mut duplex = DuplexStream::open(&c.target).await?;
    duplex.mutate(adds(7, &[&two, &one, &empty])).await;
    let (wave, live) = duplex.wave(7).await?;
    same_envelopes("the wave", &sent, &wave)?;
    same_topics(&[&two, &one, &empty], &live)?;
    let sent = [c.send(&empty, 1).await?, c.send(&one, 1).await?].concat();
    same_envelopes("live", &sent, &duplex.live(2).await?)
}

async fn cursors_count(c: &JudgedNodes) -> Checked {
    let (one, two) = (new_group(), new_group());
    let of_one = c.send(&one, 3).await?;
    let of_two = c.send(&two, 2).await?;
    let mut duplex = DuplexStream::open(&c.target).await?;
    let adds = vec![add(&one, Some(seen(&of_one[..2])?)), add(&two, None), add(&one, None)];
    duplex.mutate(Mutate { adds, mutate_id: 1, ..Mutate::default() }).await;
    let (wave, live) = duplex.wave(1).await?;
    same_envelopes("the wave", &[&of_one[2..], &of_two].concat(), &wave)?;
    same_topics(&[&one, &two], &live)
}

async fn seam(c: &JudgedNodes) -> Checked {
    const COUNT: usize = 30;
    let topic = new_group();
    let publish = c.send_one_by_one(&topic, COUNT);
    let listen = async {
        let mut all = Vec::new();
        for _ in 0..5 {
            let mut duplex = DuplexStream::open(&c.target).await?;
            duplex.mutate(adds(1, &[&topic])).await;
            let (mut received, _) = duplex.wave(1).await?;
            if received.len() < COUNT {
                received.extend(duplex.live(COUNT - received.len()).await?);
            }
            all.push(received);
        }
        Ok::<_, CaseError>(all)
    };
    let (sent, received) = tokio::try_join!(publish, listen)?;
    for received in received {
        same_envelopes("a wave and live envelopes", &sent, &received)?;
    }
    Ok(())
}

/// Opens a stream whose topics are live.
async fn live_on(c: &JudgedNodes, topics: &[&Bytes]) -> Checked<DuplexStream> {
    let mut duplex = DuplexStream::open(&c.target).await?;
    duplex.mutate(adds(1, topics)).await;
    duplex.wave(1).await?;
    Ok(duplex)
}

async fn removed_is_silent(c: &JudgedNodes) -> Checked {
    let (one, two) = (new_group(), new_group());
    let mut duplex = live_on(c, &[&one, &two]).await?;
    duplex.mutate(removes(2, &[&one, &new_group()])).await;
    let (wave, live) = duplex.wave(2).await?;
    ensure(wave.is_empty() && live.is_empty(), "catchup_complete alone", || "more".into())?;
    c.send(&one, 2).await?;
    let sent = c.send(&two, 1).await?;
    same_envelopes("live", &sent, &duplex.live(1).await?)
}

async fn reset_replays(c: &JudgedNodes) -> Checked {
    let (one, two) = (new_group(), new_group());
    let mut duplex = live_on(c, &[&one, &two]).await?;
    let of_one = c.send(&one, 3).await?;
    same_envelopes("live", &of_one, &duplex.live(3).await?)?;
    let reset = Mutate { adds: vec![add(&one, Some(seen(&of_one[..1])?))], ..removes(2, &[&one]) };
    duplex.mutate(reset).await;
    let (wave, live) = duplex.wave(2).await?;
    same_envelopes("the replay", &of_one[1..], &wave)?;
    same_topics(&[&one], &live)?;
    let sent = [c.send(&one, 1).await?, c.send(&two, 1).await?].concat();
    same_envelopes("live", &sent, &duplex.live(2).await?)
}

async fn again_is_nothing(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    c.send(&topic, 2).await?;
    let mut duplex = live_on(c, &[&topic]).await?;
    duplex.mutate(adds(2, &[&topic])).await;
    let (wave, live) = duplex.wave(2).await?;
    same_envelopes("the second wave", &[], &wave)?;
    ensure(live.is_empty(), "no topics_live", || format!("{} topics", live.len()))?;
    let sent = c.send(&topic, 2).await?;
    same_envelopes("live", &sent, &duplex.live(2).await?)
}

async fn history_only(c: &JudgedNodes) -> Checked {
    let (past, here) = (new_group(), new_group());
    let sent = c.send(&past, 3).await?;
    let mut duplex = live_on(c, &[&here]).await?;
    duplex.mutate(Mutate { history_only: true, ..adds(5, &[&past]) }).await;
    let (wave, live) = duplex.wave(5).await?;
    same_envelopes("the wave", &sent, &wave)?;
    same_topics(&[&past], &live)?;
    c.send(&past, 2).await?;
    let sent = c.send(&here, 1).await?;
    same_envelopes("live", &sent, &duplex.live(1).await?)
}

async fn empty_mutate(c: &JudgedNodes) -> Checked {
    let mut duplex = DuplexStream::open(&c.target).await?;
    for id in [0, 4] {
        duplex.mutate(Mutate { mutate_id: id, ..Mutate::default() }).await;
        let received = duplex.receive().await?;
        ensure(received == Frame::Complete(id), format_args!("catchup_complete {id}"), || {
            format!("{received:?}")
        })?;
    }
    Ok(())
}

async fn id_again(c: &JudgedNodes) -> Checked {
    let (one, two) = (new_group(), new_group());
    let sent = [c.send(&one, 1).await?, c.send(&two, 1).await?];
    let mut duplex = DuplexStream::open(&c.target).await?;
    for (topic, sent) in [one, two].iter().zip(sent) {
        duplex.mutate(adds(9, &[topic])).await;
        same_envelopes("the wave", &sent, &duplex.wave(9).await?.0)?;
    }
    Ok(())
}

async fn live_ascends(c: &JudgedNodes) -> Checked {
    let topics: Vec<Bytes> = (0..4).map(|_| new_group()).collect();
    let named: Vec<&Bytes> = topics.iter().collect();
    let mut duplex = live_on(c, &named).await?;
    let mut sent = Vec::new();
    for number in 0..12 {
        sent.extend(c.send(&topics[number % 4], 1 + number % 2).await?);
    }
    same_envelopes("live", &sent, &duplex.live(sent.len()).await?)
}

async fn elsewhere(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let mut duplex = DuplexStream::open(c.second()?).await?;
    duplex.mutate(adds(1, &[&topic])).await;
    duplex.wave(1).await?;
    let sent = c.send(&topic, 3).await?;
    same_envelopes("the stream of the second node", &sent, &duplex.live(3).await?)
}

async fn half_close(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 20).await?;
    let mut duplex = DuplexStream::open(&c.target).await?;
    duplex.mutate(adds(1, &[&topic])).await;
    duplex.half_close();
    same_envelopes("the wave", &sent, &duplex.wave(1).await?.0)?;
    duplex.ends_with(Code::Ok, "").await?;
    let mut idle = DuplexStream::open(&c.target).await?;
    idle.half_close();
    idle.ends_with(Code::Ok, "").await
}

/// Opens a stream with a timeout that is long enough for the node's pings.
async fn patient(c: &JudgedNodes) -> Checked<DuplexStream> {
    let mut duplex = DuplexStream::open(&c.target).await?;
    if duplex.interval > INTERVAL_MAX {
        let seconds = duplex.interval.as_secs();
        return Err(CaseError::skip(format_args!(
            "the node's interval of {seconds} s is too long to wait for"
        )));
    }
    duplex.set_answer_timeout(duplex.interval * 2 + c.target.answer_timeout());
    Ok(duplex)
}

async fn pings(c: &JudgedNodes) -> Checked {
    let opened = Instant::now();
    let judged = pings_come(patient(c).await?).await;
    unless_cut_off(judged, opened.elapsed())
}

async fn pings_come(mut duplex: DuplexStream) -> Checked {
    for nonce in 1..=2 {
        let received = duplex.receive_with_pings().await?;
        same("the frame", &Frame::Ping(nonce), &received)?;
        duplex.pong(nonce).await;
    }
    duplex.ping(77).await;
    same("the frame", &Frame::Pong(77), &duplex.receive_with_pings().await?)
}

async fn leaves(c: &JudgedNodes) -> Checked {
    let opened = Instant::now();
    let judged = client_is_left(patient(c).await?).await;
    unless_cut_off(judged, opened.elapsed())
}

async fn client_is_left(mut duplex: DuplexStream) -> Checked {
    same("the frame", &Frame::Ping(1), &duplex.receive_with_pings().await?)?;
    duplex.pong(1_000).await;
    duplex.ends_with(Code::DeadlineExceeded, "").await
}

/// Returns the result of a case, as a known defect if the stream has ended as the reference node ends each request
/// whose client still sends after 30 s.
fn unless_cut_off(judged: Checked, open_for: Duration) -> Checked {
    match judged {
        Err(failure)
            if failure.kind == CaseErrorKind::Broken
                && failure.got == r#"UNAVAILABLE "request has failed""#
                && open_for >= REQUEST_READ_FOR =>
        {
            let software = "xmtpd 1.3: it reads a request for 30 s, also that of a stream";
            Err(CaseError::known(software, failure.expected, failure.got))
        }
        judged => judged,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::case_error::status_text;

    #[test]
    fn only_the_end_after_30_s_is_the_one_that_is_known() {
        let end = |text: &str| {
            let status = Status::unavailable(text);
            Err(CaseError::new("a message of the stream", status_text(&status)))
        };
        let kind = |judged, seconds| {
            let judged = unless_cut_off(judged, Duration::from_secs(seconds));
            judged.err().map(|failure| failure.kind)
        };
        assert!(matches!(kind(end("request has failed"), 30), Some(CaseErrorKind::Known(_))));
        assert_eq!(kind(end("request has failed"), 3), Some(CaseErrorKind::Broken));
        assert_eq!(kind(end("out of memory"), 30), Some(CaseErrorKind::Broken));
        assert_eq!(kind(Ok(()), 30), None);
    }
}
