//! Crashes, callers that leave, and readers that are slow.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::case::Need::{Load, Payer, Restart};
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure};
use crate::connection::QUERY_API;
use crate::context::{JudgedNodes, RestartCommands, id_of, same_envelopes, seen};
use crate::duplex::{DuplexStream, adds};
use crate::envelopes::{message_of, new_group};
use crate::listener::CAUGHT_UP;

const AREA: Area = Area::Reliability;
const STREAMS: &str = "docs/protocol/api.md#streams";
/// Longest time until a restarted node answers. A guess: a start after a crash, with room for a slow disk.
const RETURN: Duration = Duration::from_secs(120);
/// Time limit of a command. A guess.
const COMMAND: Duration = Duration::from_secs(60);

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "streams-may-be-cancelled",
        "callers that open streams and leave cost others nothing",
        STREAMS,
        |c| Box::pin(cancelled(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "requests-may-be-abandoned",
        "connections that end in the middle of a request cost others nothing",
        "docs/protocol/api.md#the-port",
        |c| Box::pin(abandoned(c)),
    ),
    Case::new(
        AREA,
        "a-stream-resumes-at-its-cursor",
        "a stream that begins at the cursor where another ended has the rest, once",
        STREAMS,
        |c| Box::pin(resumes(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "a-slow-reader-misses-nothing",
        "a client that reads late gets everything, in order",
        STREAMS,
        |c| Box::pin(slow_reader(c)),
    )
    .needs(&[Payer, Load]),
    Case::new(
        AREA,
        "a-crash-loses-nothing",
        "after a kill every acknowledged envelope is there with its bytes, and new ones get \
         later places",
        "docs/protocol/api.md#publishing",
        |c| Box::pin(crash(c)),
    )
    .needs(&[Payer, Restart])
    .limit(Duration::from_secs(300)),
];

async fn cancelled(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    for _ in 0..50 {
        drop(c.subscribe_topics(&[(&topic, None)]).await?);
        let duplex = DuplexStream::open(&c.target).await?;
        duplex.mutate(adds(1, &[&topic])).await;
        drop(duplex);
    }
    let mut stream = c.subscribe_topics(&[(&topic, None)]).await?;
    stream.receive_until(CAUGHT_UP).await?;
    let sent = c.send(&topic, 1).await?;
    same_envelopes("the stream that stays", &sent, &stream.receive_envelopes(1).await?)
}

async fn abandoned(c: &JudgedNodes) -> Checked {
    for _ in 0..20 {
        let mut stream = c.target.address.connect(c.target.answer_timeout()).await?;
        let head = format!(
            "POST {QUERY_API}/QueryEnvelopes HTTP/1.1\r\nhost: node\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: 1000\r\n\r\n\0"
        );
        // The node may have closed the connection already: both outcomes are fine.
        let _ = stream.write_all(head.as_bytes()).await;
    }
    c.target.serves().await
}

async fn resumes(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let mut read = Vec::new();
    let mut sent = Vec::new();
    for _ in 0..4 {
        sent.extend(c.send(&topic, 3).await?);
        let mut stream = c.subscribe_topics(&[(&topic, Some(seen(&read)?))]).await?;
        read.extend(stream.receive_until(CAUGHT_UP).await?);
        let live = c.send(&topic, 1).await?;
        read.extend(stream.receive_envelopes(1).await?);
        sent.extend(live);
    }
    same_envelopes("all streams together", &sent, &read)
}

async fn slow_reader(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let mut duplex = DuplexStream::open(&c.target).await?;
    duplex.mutate(adds(1, &[&topic])).await;
    duplex.wave(1).await?;
    let mut stream = c.subscribe_topics(&[(&topic, None)]).await?;
    stream.receive_until(CAUGHT_UP).await?;
    // More bytes than socket buffers and HTTP/2 windows hold.
    let mut sent = Vec::new();
    for _ in 0..24 {
        sent.extend(c.publish(vec![c.sign(message_of(&topic, 512 * 1024))?]).await?);
    }
    same_envelopes("the stream", &sent, &stream.receive_envelopes(sent.len()).await?)?;
    same_envelopes("Subscribe", &sent, &duplex.live(sent.len()).await?)
}

/// Runs a command of the operator's in a shell.
async fn shell(command: &str) -> Checked {
    let mut child = Command::new("sh");
    child.arg("-c").arg(command).kill_on_drop(true);
    let failed =
        |text: String| CaseError::new(format_args!("the command {command:?} to succeed"), text);
    match tokio::time::timeout(COMMAND, child.status()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(status.to_string())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("no end".to_owned())),
    }
}

async fn crash(c: &JudgedNodes) -> Checked {
    let Some(RestartCommands { kill, start }) = &c.restart else {
        return Err(CaseError::skip("needs --kill-command and --start-command"));
    };
    let topic = new_group();
    let mut sent = c.send(&topic, 20).await?;
    sent.extend(c.send_one_by_one(&topic, 20).await?);
    shell(kill).await?;
    shell(start).await?;
    let deadline = Instant::now() + RETURN;
    // A publish without an answer may be stored all the same, so none of these is on the judged topic.
    while let Err(failure) = c.send(&new_group(), 1).await {
        if Instant::now() >= deadline {
            return Err(failure.at("the node takes publishes again"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let later = c.send(&topic, 1).await?;
    let last = id_of(sent.last().unwrap_or(&later[0]))?;
    let next = id_of(&later[0])?;
    ensure(next > last, format_args!("a place after {last}"), || next.to_string())?;
    sent.extend(later);
    same_envelopes("the topic afterwards", &sent, &c.query(&c.target, &[&topic], None, 0).await?)?;
    let mut stream = c.subscribe_topics(&[(&topic, Some(seen(&sent[..30])?))]).await?;
    same_envelopes("a stream from the middle", &sent[30..], &stream.receive_until(CAUGHT_UP).await?)
}
