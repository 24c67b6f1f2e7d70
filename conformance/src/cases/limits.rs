//! Maximum sizes and counts that a node accepts.

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use tonic::Code;

use crate::case::Need::{Load, Payer};
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, refused};
use crate::connection::PUBLISH_API;
use crate::context::{JudgedNodes, same_envelopes};
use crate::duplex::{DuplexStream, Frame, adds};
use crate::envelopes::{message_of, new_group};
use crate::listener::{CAUGHT_UP, hold};

const AREA: Area = Area::Limits;
const PORT: &str = "docs/protocol/api.md#the-port";
const STREAMS: &str = "docs/protocol/api.md#streams";
/// The protocol's limit of a message, bytes.
const MESSAGE_LEN_BYTES_MAX: usize = 25 * 1024 * 1024;

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "a-large-message-arrives",
        "a message of 1 MiB is published, queried and streamed",
        PORT,
        |c| Box::pin(large_message(c)),
    )
    .needs(&[Payer, Load]),
    Case::new(
        AREA,
        "a-request-of-25-mib-is-read",
        "a request of exactly 25 MiB is read",
        PORT,
        |c| Box::pin(just_within(c)),
    )
    .needs(&[Load]),
    Case::new(
        AREA,
        "a-larger-request-is-refused",
        "a request above 25 MiB is refused with RESOURCE_EXHAUSTED",
        PORT,
        |c| Box::pin(oversize(c)),
    )
    .needs(&[Load]),
    Case::new(
        AREA,
        "a-stream-of-10000-topics",
        "SubscribeTopics takes 10,000 filters and delivers to them",
        STREAMS,
        |c| Box::pin(many_filters(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "a-mutate-of-100000-topics",
        "a Mutate takes 100,000 adds and delivers to them",
        "docs/protocol/api.md#subscribe",
        |c| Box::pin(many_adds(c)),
    )
    .needs(&[Payer, Load]),
    Case::new(
        AREA,
        "a-hundred-streams-at-once",
        "a hundred streams of one connection each get what is published",
        STREAMS,
        |c| Box::pin(many_streams(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "a-hundred-envelopes-at-once",
        "a request of a hundred envelopes is taken as a whole, in order",
        "docs/protocol/api.md#publishing",
        |c| Box::pin(many_envelopes(c)),
    )
    .needs(&[Payer]),
];

async fn large_message(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let mut stream = c.subscribe_topics(&[(&topic, None)]).await?;
    stream.receive_until(CAUGHT_UP).await?;
    let sent = c.publish(vec![c.sign(message_of(&topic, 1024 * 1024))?]).await?;
    same_envelopes("the query", &sent, &c.query(&c.target, &[&topic], None, 0).await?)?;
    same_envelopes("the stream", &sent, &stream.receive_envelopes(1).await?)
}

/// Returns a request of `len` bytes that has one unknown field and no envelope.
fn padded(len: usize) -> Bytes {
    let mut message = vec![0x7a]; // field 15, bytes
    prost::encoding::encode_varint((len - 5) as u64, &mut message);
    message.resize(len, 0xff);
    message.into()
}

async fn just_within(c: &JudgedNodes) -> Checked {
    let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
    let answer = c.target.raw(&path, padded(MESSAGE_LEN_BYTES_MAX)).await;
    refused("25 MiB without an envelope", answer, Code::InvalidArgument, "missing payer envelope")
        .map(|_| ())
}

async fn oversize(c: &JudgedNodes) -> Checked {
    let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
    for more in [1, 1024 * 1024] {
        let answer = c.target.raw(&path, padded(MESSAGE_LEN_BYTES_MAX + more)).await;
        refused(&format!("{more} bytes more"), answer, Code::ResourceExhausted, "")?;
    }
    c.target.serves().await
}

fn groups(count: usize) -> Vec<Bytes> {
    (0..count).map(|_| new_group()).collect()
}

async fn many_filters(c: &JudgedNodes) -> Checked {
    let topics = groups(10_000);
    let (first, last) = (&topics[0], &topics[topics.len() - 1]);
    let history = [c.send(first, 1).await?, c.send(last, 1).await?].concat();
    let filters: Vec<_> = topics.iter().map(|topic| (topic, None)).collect();
    let mut stream = c.subscribe_topics(&filters).await?;
    same_envelopes("history", &history, &stream.receive_until(CAUGHT_UP).await?)?;
    let live = [c.send(last, 1).await?, c.send(first, 1).await?].concat();
    same_envelopes("live", &live, &stream.receive_envelopes(2).await?)
}

async fn many_adds(c: &JudgedNodes) -> Checked {
    let topics = groups(100_000);
    let (first, last) = (&topics[0], &topics[topics.len() - 1]);
    let history = [c.send(first, 1).await?, c.send(last, 1).await?].concat();
    let mut duplex = DuplexStream::open(&c.target).await?;
    let named: Vec<&Bytes> = topics.iter().collect();
    duplex.mutate(adds(1, &named)).await;
    let mut got = Vec::new();
    let mut live = 0;
    loop {
        match duplex.receive().await? {
            Frame::Envelopes(1, more) => hold(&mut got, more)?,
            Frame::Live(more) => {
                live += more.len();
                ensure(live <= topics.len(), "each topic live once", || live.to_string())?;
            }
            Frame::Complete(1) => break,
            other => return Err(CaseError::new("the frames of wave 1", format!("{other:?}"))),
        }
    }
    same_envelopes("the wave", &history, &got)?;
    crate::case_error::same("live topics", &topics.len(), &live)?;
    let sent = [c.send(last, 1).await?, c.send(first, 1).await?].concat();
    same_envelopes("live", &sent, &duplex.live(2).await?)
}

async fn many_streams(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let mut streams = Vec::new();
    for number in 0..100 {
        let mut stream = c
            .subscribe_topics(&[(&topic, None)])
            .await
            .map_err(|failure| failure.at(format_args!("stream {number}")))?;
        stream.receive_until(CAUGHT_UP).await?;
        streams.push(stream);
    }
    let sent = c.send(&topic, 2).await?;
    for (number, stream) in streams.iter_mut().enumerate() {
        same_envelopes(&format!("stream {number}"), &sent, &stream.receive_envelopes(2).await?)?;
    }
    Ok(())
}

async fn many_envelopes(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 100).await?;
    same_envelopes("the query", &sent, &c.query(&c.target, &[&topic], None, 0).await?)?;
    let one = api::EnvelopesQuery { topics: vec![topic], ..Default::default() };
    let page =
        crate::context::query_with(&c.target, crate::connection::QUERY_API, one, 100).await?;
    same_envelopes("a page of a hundred", &sent, &page)
}
