//! `QueryApi.Subscribe` (XIP-83): waves, the transition from history to live, history, times, limits and ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hawser_api::{ApiSettings, NoPeers};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb_env;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use pb::subscribe_request::V1;
use pb::subscribe_request::v1::mutate::Subscription as Add;
use pb::subscribe_request::v1::{Mutate, Request as Ask};
use pb::subscribe_response::v1::Response as Frame;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::common::*;

/// One bidirectional stream.
struct Talk {
    requests: Option<mpsc::Sender<pb::SubscribeRequest>>,
    frames: Streaming<pb::SubscribeResponse>,
}

impl Talk {
    async fn open(node: &Node) -> Self {
        Self::over(node.query().await).await.unwrap()
    }

    /// Opens a stream whose client reads nothing. The connection takes the first two frames, and no more.
    async fn unread(node: &Node) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", node.address())).unwrap();
        // Less than the first frame. The server takes one more before it waits for the window.
        let channel = endpoint.initial_stream_window_size(8).connect().await.unwrap();
        let (requests, receiver) = mpsc::channel(64);
        let called = QueryApiClient::new(channel).subscribe(ReceiverStream::new(receiver)).await;
        let talk = Self { requests: Some(requests), frames: called.unwrap().into_inner() };
        talk.ask(Some(Ask::Ping(pb::Ping { nonce: 1 }))).await;
        talk
    }

    async fn over(mut client: QueryApiClient<Channel>) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(64);
        let frames = client.subscribe(ReceiverStream::new(receiver)).await?.into_inner();
        let mut talk = Self { requests: Some(requests), frames };
        let first = talk.next_frame().await?;
        assert!(first.starts_with("started"), "{first}");
        Ok(talk)
    }

    async fn ask(&self, request: Option<Ask>) {
        let version = Some(pb::subscribe_request::Version::V1(V1 { request }));
        self.send(pb::SubscribeRequest { version }).await;
    }

    async fn send(&self, request: pb::SubscribeRequest) {
        // Fails if the stream has ended. The test finds that out by the frames.
        _ = self.requests.as_ref().unwrap().send(request).await;
    }

    async fn mutate(&self, mutate: Mutate) {
        self.ask(Some(Ask::Mutate(mutate))).await;
    }

    /// Ends the requests.
    fn half_close(&mut self) {
        self.requests = None;
    }

    /// Returns the next frame as text.
    async fn next_frame(&mut self) -> Result<String, Status> {
        let Some(frame) = self.frames.message().await? else { return Ok("end".into()) };
        let Some(pb::subscribe_response::Version::V1(v1)) = frame.version else {
            return Ok("no version".into());
        };
        Ok(match v1.response.unwrap() {
            Frame::Envelopes(frame) => format!("{}: {}", frame.mutate_id, ids(&frame.envelopes)),
            Frame::Started(frame) => format!("started {}", frame.keepalive_interval_ms),
            Frame::Ping(frame) => format!("ping {}", frame.nonce),
            Frame::Pong(frame) => format!("pong {}", frame.nonce),
            Frame::TopicsLive(frame) => {
                let groups: Vec<String> =
                    frame.topics.iter().map(|topic| topic[1].to_string()).collect();
                format!("live {}", groups.join(" "))
            }
            Frame::CatchupComplete(frame) => format!("complete {}", frame.mutate_id),
        })
    }

    async fn expect(&mut self, expected: &[&str]) {
        for expected in expected {
            let mut frame = self.next_frame().await.unwrap();
            // The envelopes of a wave may come in several frames.
            while expected.starts_with(&frame) && frame.len() < expected.len() {
                let (of, _) = frame.split_once(": ").unwrap();
                let more = self.next_frame().await.unwrap();
                let (wave, ids) = more.split_once(": ").unwrap();
                assert_eq!(of, wave, "{more} after {frame}");
                frame = format!("{frame} {ids}");
            }
            assert_eq!(frame, *expected);
        }
    }

    /// Skips frames up to the end and returns its status.
    async fn ended(&mut self) -> Status {
        loop {
            match self.next_frame().await {
                Ok(frame) => assert_ne!(frame, "end"),
                Err(status) => return status,
            }
        }
    }
}

fn add(group: u8, cursor: &[(u32, u64)]) -> Add {
    let last_seen = pb_env::Cursor { node_id_to_sequence_id: cursor.iter().copied().collect() };
    Add { topic: topic_bytes(group), last_seen: Some(last_seen) }
}

fn adds(mutate_id: u64, groups: &[u8]) -> Mutate {
    let adds = groups.iter().map(|&group| add(group, &[])).collect();
    Mutate { adds, mutate_id, ..Mutate::default() }
}

fn removes(mutate_id: u64, groups: &[u8]) -> Mutate {
    let removes = groups.iter().map(|&group| topic_bytes(group)).collect();
    Mutate { removes, mutate_id, ..Mutate::default() }
}

async fn node_with_interval(milliseconds: u64) -> Node {
    let interval = |settings: &mut ApiSettings| {
        settings.keepalive_interval = Duration::from_millis(milliseconds);
    };
    node_with(interval, Arc::new(NoPeers)).await
}

#[tokio::test]
async fn waves_bring_the_past_and_then_topics_are_live() {
    let node = node().await;
    node.publish(vec![message(1, "a"), message(2, "b"), message(1, "c"), message(3, "d")]).await;
    let mut talk = Talk::open(&node).await;
    let mutate = Mutate {
        adds: vec![add(2, &[]), add(1, &[(100, 1)]), add(2, &[(100, 9)]), add(9, &[])],
        mutate_id: 7,
        ..Mutate::default()
    };
    talk.mutate(mutate).await;
    talk.expect(&["7: 100:2 100:3", "live 2 1 9", "complete 7"]).await;
    node.publish(vec![message(3, "no"), message(2, "e"), message(9, "f")]).await;
    talk.expect(&["0: 100:6 100:7"]).await;

    talk.mutate(adds(7, &[1, 3])).await;
    talk.expect(&["7: 100:4 100:5", "live 3", "complete 7"]).await;
    talk.mutate(adds(8, &[1, 2])).await;
    talk.expect(&["complete 8"]).await;
    node.publish(vec![message(3, "g"), message(1, "h")]).await;
    talk.expect(&["0: 100:8 100:9"]).await;
}

#[tokio::test]
async fn a_topic_that_left_is_silent_and_one_that_begins_anew_is_replayed() {
    let node = node().await;
    let mut talk = Talk::open(&node).await;
    talk.mutate(adds(1, &[1, 2])).await;
    talk.expect(&["live 1 2", "complete 1"]).await;
    node.publish(vec![message(1, "a"), message(2, "b")]).await;
    talk.expect(&["0: 100:1 100:2"]).await;
    talk.mutate(removes(0, &[1, 5])).await;
    talk.expect(&["complete 0"]).await;
    node.publish(vec![message(1, "c"), message(2, "d")]).await;
    talk.expect(&["0: 100:4"]).await;
    let mutate = Mutate { adds: vec![add(2, &[(100, 2)]), add(1, &[])], ..removes(3, &[2]) };
    talk.mutate(mutate).await;
    talk.expect(&["3: 100:1 100:3 100:4", "live 2 1", "complete 3"]).await;
}

#[tokio::test]
async fn history_is_read_and_its_topics_are_never_live() {
    let node = node().await;
    node.publish(vec![message(1, "a"), message(2, "b"), message(1, "c")]).await;
    let mut talk = Talk::open(&node).await;
    talk.mutate(adds(1, &[2])).await;
    talk.expect(&["1: 100:2", "live 2", "complete 1"]).await;
    let history = |id, groups: &[u8]| Mutate { history_only: true, ..adds(id, groups) };
    for id in [5, 5] {
        talk.mutate(history(id, &[1, 4])).await;
        talk.expect(&["5: 100:1 100:3", "live 1 4", "complete 5"]).await;
    }
    node.publish(vec![message(1, "no"), message(2, "d")]).await;
    talk.expect(&["0: 100:5"]).await;
    talk.mutate(history(6, &[2])).await;
    let status = talk.ended().await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn a_dependent_waits_in_its_topic_and_comes_live() {
    let node = node().await;
    node.ordered_by_peer(1, 1, Some(wire_cursor([(0, 1)])));
    node.ordered_by_peer(2, 2, None);
    let mut talk = Talk::open(&node).await;
    talk.mutate(adds(1, &[1, 2])).await;
    talk.expect(&["1: 200:2", "live 1 2", "complete 1"]).await;
    node.commit_on_chain(1, 1);
    talk.expect(&["0: 0:1", "0: 200:1"]).await;
}

#[tokio::test]
async fn frames_that_say_nothing_are_ignored_and_pings_answered() {
    let node = node().await;
    let mut talk = Talk::open(&node).await;
    talk.ask(None).await;
    talk.ask(Some(Ask::Pong(pb::Pong { nonce: 9 }))).await;
    for nonce in 0..100 {
        talk.ask(Some(Ask::Ping(pb::Ping { nonce }))).await;
    }
    for nonce in 0..100 {
        talk.expect(&[&format!("pong {nonce}")]).await;
    }
    talk.send(pb::SubscribeRequest { version: None }).await;
    let status = talk.ended().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "unrecognized SubscribeRequest version");
}

#[tokio::test]
async fn a_mutate_that_fails_a_check_ends_the_stream() {
    let node = node().await;
    let one =
        |topic: &'static [u8]| vec![Add { topic: Bytes::from_static(topic), last_seen: None }];
    let refused = [
        (adds(0, &[1]), Code::InvalidArgument, "mutate_id", &["MUTATE_ID_MISSING"][..]),
        (
            Mutate { adds: vec![add(1, &[]); 100_001], ..adds(2, &[]) },
            Code::ResourceExhausted,
            "too many adds",
            &["TOO_MANY_ADDS"],
        ),
        (
            Mutate { removes: vec![Bytes::from_static(b"x")], ..adds(2, &[]) },
            Code::InvalidArgument,
            "remove: topic must",
            &["REMOVE_TOPIC", "google.rpc.BadRequest", "v1.mutate.removes[0]"],
        ),
        (
            Mutate { adds: [adds(2, &[1, 2]).adds, one(&[9, 9])].concat(), ..adds(2, &[]) },
            Code::InvalidArgument,
            "add: unknown",
            &["ADD_TOPIC", "v1.mutate.adds[2]"],
        ),
        (
            Mutate { adds: vec![add(1, &[(1 << 31, 1)])], ..adds(2, &[]) },
            Code::InvalidArgument,
            "cursor entry",
            &["CURSOR_RANGE", "v1.mutate.adds[0]"],
        ),
    ];
    for (mutate, code, text, named) in refused {
        let mut talk = Talk::open(&node).await;
        talk.mutate(mutate).await;
        let status = talk.ended().await;
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
        let details = String::from_utf8_lossy(status.details()).into_owned();
        for part in named.iter().chain(&["google.rpc.ErrorInfo", "hawser"]) {
            assert!(details.contains(part), "{part} in {details:?}");
        }
    }
    node.until_sample("xmtp_subscribers", 0.0).await;
}

/// Decoding a million adds takes a thread of the runtime for a tenth of a second.
#[tokio::test]
async fn a_mutate_of_far_more_adds_than_it_may_have_is_not_decoded() {
    let node = node().await;
    let mut talk = Talk::open(&node).await;
    talk.mutate(Mutate { adds: vec![add(1, &[]); 200_001], ..adds(2, &[]) }).await;
    let status = talk.ended().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().starts_with("too many adds: 200001, at most 100000"), "{status}");
    let details = String::from_utf8_lossy(status.details()).into_owned();
    assert!(details.contains("TOO_MANY_ADDS"), "{details:?}");
}

/// Clients read some KiB of trailers at most, and what waits for them there is charged to no caller.
#[tokio::test]
async fn the_end_of_a_stream_names_a_long_topic_by_its_beginning() {
    let node = node().await;
    let name = Bytes::from([vec![0], vec![7; 60_000]].concat());
    let adding = |history_only| Mutate {
        adds: vec![Add { topic: name.clone(), last_seen: None }],
        mutate_id: if history_only { 2 } else { 1 },
        history_only,
        ..Mutate::default()
    };
    let mut talk = Talk::open(&node).await;
    talk.mutate(adding(false)).await;
    talk.mutate(adding(true)).await;
    let status = talk.ended().await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("0707... is subscribed already"), "{status}");
    assert!(status.message().len() < 1_000, "{status}");
}

#[tokio::test]
async fn silence_is_pinged_and_a_client_that_does_not_answer_is_left() {
    let node = node_with_interval(20).await;
    let mut talk = Talk::open(&node).await;
    for nonce in 1..=3 {
        talk.expect(&[&format!("ping {nonce}")]).await;
        talk.ask(Some(Ask::Pong(pb::Pong { nonce }))).await;
    }
    talk.expect(&["ping 4"]).await;
    talk.ask(Some(Ask::Pong(pb::Pong { nonce: 3 }))).await;
    let status = talk.ended().await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.message(), "no Pong within deadline");
    assert!(String::from_utf8_lossy(status.details()).contains("NO_PONG"));
}

#[tokio::test]
async fn a_client_that_sends_no_more_gets_what_it_has_asked_for() {
    let node = node().await;
    node.publish((0..200).map(|_| message(1, "a")).collect()).await;
    let mut talk = Talk::open(&node).await;
    talk.mutate(adds(1, &[1])).await;
    talk.mutate(removes(2, &[5])).await;
    talk.half_close();
    let mut frames = Vec::new();
    loop {
        match talk.next_frame().await.unwrap().as_str() {
            "end" => break,
            frame if frame.starts_with("1: ") => frames.push("wave".to_owned()),
            frame => frames.push(frame.to_owned()),
        }
    }
    frames.dedup();
    frames.sort();
    assert_eq!(frames, ["complete 1", "complete 2", "live 1", "wave"]);

    let mut silent = Talk::open(&node).await;
    silent.half_close();
    silent.expect(&["end"]).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_misses_nothing() {
    let node = node().await;
    let mut slow =
        Talk::over(node.query().await.max_decoding_message_size(usize::MAX)).await.unwrap();
    slow.mutate(adds(1, &[1])).await;
    slow.expect(&["live 1", "complete 1"]).await;
    // Far more bytes than sockets, windows and queues hold.
    for sequence in 1..=30u8 {
        let text = vec![sequence; 1024 * 1024];
        let payload = group_payload(frame(1, 1, &text));
        node.publish(vec![sign(client(&group_topic(1), None, payload))]).await;
    }
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < 30 {
        let frame = slow.next_frame().await.unwrap();
        seen.extend(frame.strip_prefix("0: ").unwrap().split(' ').map(str::to_owned));
    }
    let all: Vec<String> = (1..=30).map(|sequence| format!("100:{sequence}")).collect();
    assert_eq!(seen, all);
}

#[tokio::test]
async fn a_client_that_reads_nothing_for_an_interval_is_left() {
    let node = node_with_interval(400).await;
    let client = node.query().await.max_decoding_message_size(usize::MAX);
    let mut talk = Talk::over(client).await.unwrap();
    talk.mutate(adds(1, &[1])).await;
    let answers = talk.requests.clone().unwrap();
    tokio::spawn(async move {
        for nonce in (1..=20).cycle() {
            let request = Some(Ask::Pong(pb::Pong { nonce }));
            let version = Some(pb::subscribe_request::Version::V1(V1 { request }));
            if answers.send(pb::SubscribeRequest { version }).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for text in 1..=30u8 {
        let payload = group_payload(frame(1, 1, &vec![text; 1024 * 1024]));
        node.publish(vec![sign(client_of(payload))]).await;
    }
    node.until_sample("xmtp_subscribers", 0.0).await;
    let status = talk.ended().await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.message(), "send stalled; client not reading");
}

#[tokio::test]
async fn what_is_left_after_the_end_of_a_client_is_read_within_an_interval() {
    let node = node_with_interval(1000).await;
    let mut talk = Talk::unread(&node).await;
    talk.ask(Some(Ask::Ping(pb::Ping { nonce: 2 }))).await;
    talk.half_close();
    node.until_sample("xmtp_subscribers", 0.0).await;
    let status = talk.ended().await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(status.message(), "the last frames were not read in time");
}

fn client_of(payload: hawser_proto::envelope::Payload) -> Bytes {
    client(&group_topic(1), None, payload)
}

#[tokio::test]
async fn a_stopping_server_delivers_what_is_committed_and_says_so() {
    let node = node().await;
    let mut talk = Talk::open(&node).await;
    talk.mutate(adds(1, &[1])).await;
    talk.expect(&["live 1", "complete 1"]).await;
    node.publish(vec![message(1, "a")]).await;
    let stopped = tokio::spawn(node.api.shutdown(Duration::ZERO));
    talk.expect(&["0: 100:1"]).await;
    let status = talk.ended().await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "server is shutting down"));
    drop(talk);
    stopped.await.unwrap();
}

#[tokio::test]
async fn streams_take_the_memory_of_their_topics_and_give_it_back() {
    let budget = |settings: &mut ApiSettings| settings.callers_bytes_max = 10 * 1024 * 1024;
    let node = node_with(budget, Arc::new(NoPeers)).await;
    let client = node.query().await;
    // Full windows of all of them together exceed the budget.
    let mut talks = Vec::new();
    for _ in 0..40 {
        let mut talk = Talk::over(client.clone()).await.unwrap();
        talk.mutate(adds(1, &[1, 2, 3])).await;
        talk.expect(&["live 1 2 3", "complete 1"]).await;
        talks.push(talk);
    }
    // A stream that has sent an envelope holds what it holds behind the next one.
    node.publish(vec![message(2, "a")]).await;
    for talk in &mut talks {
        talk.expect(&["0: 100:1"]).await;
    }
    let used = "xmtp_api_memory_bytes";
    let before = node.steady_sample(used).await;
    let name = |number: u32| Bytes::from([&[0][..], &number.to_be_bytes(), &[7; 28]].concat());
    let many = |range: std::ops::Range<u32>| {
        range.map(|number| Add { topic: name(number), last_seen: None }).collect::<Vec<_>>()
    };
    let mut greedy = Talk::over(client.clone()).await.unwrap();
    for wave in 1..=100u32 {
        let adds = many(wave * 1000..(wave + 1) * 1000);
        greedy.mutate(Mutate { adds, mutate_id: wave.into(), ..Mutate::default() }).await;
    }
    let status = greedy.ended().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.metadata().contains_key("retry-after"));
    drop(greedy);
    node.publish(vec![message(2, "b")]).await;
    for talk in &mut talks {
        talk.expect(&["0: 100:2"]).await;
    }
    node.until_sample(used, before).await;
}

/// The client sends many changes at once, all with one cursor that is ahead of the node. Each wave copies it.
#[tokio::test]
async fn each_wave_is_charged_for_a_cursor_that_others_have_too() {
    const WAVES: u8 = 8;
    const ENTRIES: u32 = 250;
    let ahead: Vec<(u32, u64)> = (1000..1000 + ENTRIES).map(|originator| (originator, 5)).collect();
    let node = node().await;
    let mut client = node.query().await;
    let first = Talk::over(client.clone()).await.unwrap();
    let used = "xmtp_api_memory_bytes";
    let before = node.sample(used).await.unwrap();
    let (requests, receiver) = mpsc::channel(64);
    for wave in 1..=WAVES {
        let adds = vec![add(wave, &ahead)];
        let request =
            Some(Ask::Mutate(Mutate { adds, mutate_id: wave.into(), ..Mutate::default() }));
        let version = Some(pb::subscribe_request::Version::V1(V1 { request }));
        requests.send(pb::SubscribeRequest { version }).await.unwrap();
    }
    // All of them are there before the stream opens, so they come together, before the first wave has caught up.
    let frames = client.subscribe(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut talk = Talk { requests: Some(requests), frames };
    let mut complete = 0;
    while complete < WAVES {
        complete += u8::from(talk.next_frame().await.unwrap().starts_with("complete"));
    }
    let grown = node.sample(used).await.unwrap() - before;
    // 16 bytes for an entry (`docs/protocol/api.md`, Memory).
    let copies = f64::from(u32::from(WAVES) * ENTRIES * 16);
    assert!(grown >= copies, "{grown} bytes are charged for {copies}");
    drop((first, talk));
}

/// Windows of all of these streams would exceed the budget. A client that reads slowly changes its topics meanwhile.
#[tokio::test]
async fn a_change_that_waits_for_its_client_to_read_takes_no_window() {
    let budget = |settings: &mut ApiSettings| settings.callers_bytes_max = 16 * 1024 * 1024;
    let node = node_with(budget, Arc::new(NoPeers)).await;
    let mut talks = Vec::new();
    for number in 1..=40_u32 {
        let talk = Talk::unread(&node).await;
        talk.mutate(adds(1, &[1])).await;
        // The wave has been read. Its end waits, and so does the second Mutate.
        until(&node, "xmtp_subscriber_wakeups_total", |count| count >= f64::from(number)).await;
        talk.mutate(adds(2, &[2])).await;
        talks.push(talk);
    }
    for talk in &mut talks {
        let expected = ["pong 1", "live 1", "complete 1", "live 2", "complete 2"];
        assert!(talk.next_frame().await.unwrap().starts_with("started"));
        talk.expect(&expected).await;
    }
}

/// A client reads nothing, has the past of many topics read, and then makes its stream end.
#[tokio::test]
async fn topics_are_charged_until_the_frame_that_names_them_has_left() {
    let (used, node) = ("xmtp_api_memory_bytes", node().await);
    let before = node.sample(used).await.unwrap();
    let talk = Talk::unread(&node).await;
    let name = |number: u32| Bytes::from([&[0][..], &number.to_be_bytes(), &[7; 28]].concat());
    let adds = (0..20_000).map(|number| Add { topic: name(number), last_seen: None }).collect();
    talk.mutate(Mutate { adds, mutate_id: 1, history_only: true, ..Mutate::default() }).await;
    until(&node, "xmtp_subscriber_wakeups_total", |count| count > 0.0).await;
    let held = node.sample(used).await.unwrap() - before;
    assert!(held > 4e6, "{held}");
    // Ends the stream at once: what would end it after its events waits for a client that reads nothing.
    let adds = vec![Add::default(); 200_001];
    talk.mutate(Mutate { adds, mutate_id: 2, ..Mutate::default() }).await;
    node.until_sample("xmtp_subscribers", 0.0).await;
    let held = node.sample(used).await.unwrap() - before;
    assert!(held > 2e6, "{held}");
    drop(talk);
    until(&node, used, |bytes| bytes - before < 1e6).await;
}

/// Waits until a sample is as it should be; gives up when it has not been for very long.
async fn until(node: &Node, name: &str, is_right: impl Fn(f64) -> bool) {
    for _ in 0..4000 {
        if node.sample(name).await.is_some_and(&is_right) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{name} is {:?}", node.sample(name).await);
}

#[tokio::test]
async fn a_hundred_thousand_topics_are_added_at_once() {
    let node = node().await;
    node.publish(vec![message(1, "a")]).await;
    let mut talk = Talk::open(&node).await;
    let name = |number: u32| Bytes::from([&[0][..], &number.to_be_bytes(), &[7; 28]].concat());
    let mut many: Vec<Add> = (0..99_999)
        .map(|number| Add { topic: name(number), last_seen: Some(wire_cursor([(100, 1)])) })
        .collect();
    many.push(add(1, &[]));
    talk.mutate(Mutate { adds: many, mutate_id: 1, ..Mutate::default() }).await;
    talk.expect(&["1: 100:1"]).await;
    let mut named = Vec::new();
    loop {
        let frame = talk.next_frame().await.unwrap();
        let Some(topics) = frame.strip_prefix("live ") else {
            assert_eq!(frame, "complete 1");
            break;
        };
        named.push(topics.split(' ').count());
    }
    // 3.3 MB of names.
    assert_eq!((named.len(), named.iter().sum::<usize>()), (2, 100_000), "{named:?}");
    node.publish(vec![message(1, "b")]).await;
    talk.expect(&["0: 100:2"]).await;
}

#[tokio::test]
async fn a_stream_has_no_more_topics_than_its_node_allows() {
    let few = |settings: &mut ApiSettings| settings.topics_per_stream_max = 2;
    let node = node_with(few, Arc::new(NoPeers)).await;
    let mut talk = Talk::open(&node).await;
    talk.mutate(adds(1, &[1, 2])).await;
    talk.mutate(adds(2, &[3])).await;
    let status = talk.ended().await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "too many topics: 3, at most 2 are allowed on one stream");
    assert_eq!(node.sample("xmtp_subscriber_topics_refused_total").await, Some(1.0));
}
