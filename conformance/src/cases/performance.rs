//! Response times that clients rely on. Only on request: the figures mean something only on a machine without other
//! load.

use std::time::{Duration, Instant};

use crate::case::Need::{Load, Payer, Second};
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure};
use crate::context::{JudgedNodes, same_envelopes};
use crate::envelopes::{message, new_group};
use crate::listener::CAUGHT_UP;

const AREA: Area = Area::Performance;
const TIMES: &str = "docs/conformance.md#times";
/// Tries of each measurement. A guess.
const TRIES: usize = 10;
/// Longest time until a published envelope is readable. Clients read it back at once, after 55 ms and after another 170
/// ms, then give up. Measured with published clients.
const READ_BACK_MAX: Duration = Duration::from_millis(160);
/// Longest time to an answer that reads no data. A guess: 50 times the time of a node on the same continent.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Envelopes a second that a node takes from one caller. A guess: far below the network's limits.
const PUBLISHED_PER_SECOND_MIN: usize = 100;

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "health-answers-in-time",
        "half of the health checks are answered within 500 ms",
        TIMES,
        |c| Box::pin(health(c)),
    )
    .needs(&[Load]),
    Case::new(
        AREA,
        "publish-and-read-in-time",
        "half of the messages are acknowledged and read back at the node within 500 ms",
        TIMES,
        |c| Box::pin(publish_read(c)),
    )
    .needs(&[Payer, Load]),
    Case::new(
        AREA,
        "second-shows-in-time",
        "half of the messages can be read at another node within 160 ms of the answer",
        TIMES,
        |c| Box::pin(second_shows(c)),
    )
    .needs(&[Payer, Second, Load]),
    Case::new(
        AREA,
        "stream-delivers-in-time",
        "half of the messages reach a stream within 160 ms of the answer",
        TIMES,
        |c| Box::pin(stream_delivers(c)),
    )
    .needs(&[Payer, Load]),
    Case::new(
        AREA,
        "a-hundred-envelopes-a-second",
        "a thousand envelopes are taken within ten seconds",
        TIMES,
        |c| Box::pin(thousand(c)),
    )
    .needs(&[Payer, Load]),
];

/// Checks the median of the measured times.
fn middle_within(limit: Duration, mut times: Vec<Duration>) -> Checked {
    times.sort();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    ensure(
        middle <= limit,
        format_args!("{} ms in the middle of {TRIES} tries", limit.as_millis()),
        || format!("{} ms", middle.as_millis()),
    )
}

async fn health(c: &JudgedNodes) -> Checked {
    let mut times = Vec::new();
    for _ in 0..TRIES {
        let started = Instant::now();
        c.target.serves().await?;
        times.push(started.elapsed());
    }
    middle_within(ANSWER_MAX, times)
}

async fn publish_read(c: &JudgedNodes) -> Checked {
    let mut times = Vec::new();
    for _ in 0..TRIES {
        let topic = new_group();
        let started = Instant::now();
        let sent = c.send(&topic, 1).await?;
        same_envelopes("the query", &sent, &c.query(&c.target, &[&topic], None, 0).await?)?;
        times.push(started.elapsed());
    }
    middle_within(ANSWER_MAX, times)
}

async fn second_shows(c: &JudgedNodes) -> Checked {
    let mut times = Vec::new();
    for _ in 0..TRIES {
        let topic = new_group();
        let sent = c.send(&topic, 1).await?;
        let started = Instant::now();
        c.shows(c.second()?, &topic, &sent).await?;
        times.push(started.elapsed());
    }
    middle_within(READ_BACK_MAX, times)
}

async fn stream_delivers(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let mut stream = c.subscribe_topics(&[(&topic, None)]).await?;
    stream.receive_until(CAUGHT_UP).await?;
    let mut times = Vec::new();
    for _ in 0..TRIES {
        let sent = c.send(&topic, 1).await?;
        let started = Instant::now();
        same_envelopes("the stream", &sent, &stream.receive_envelopes(1).await?)?;
        times.push(started.elapsed());
    }
    middle_within(READ_BACK_MAX, times)
}

async fn thousand(c: &JudgedNodes) -> Checked {
    const REQUEST: usize = 100;
    const COUNT: usize = 10 * PUBLISHED_PER_SECOND_MIN;
    let topic = new_group();
    let signed: Checked<Vec<_>> = (0..COUNT).map(|_| c.sign(message(&topic))).collect();
    let signed = signed?;
    let started = Instant::now();
    for request in signed.chunks(REQUEST) {
        c.publish(request.to_vec()).await?;
    }
    let took = started.elapsed();
    if took <= Duration::from_secs(10) {
        return Ok(());
    }
    Err(CaseError::new("10 s at most", format_args!("{} ms", took.as_millis())))
}
