//! `hawser tail`: prints envelopes of a node as they arrive.

use std::collections::BTreeSet;
use std::sync::Arc;

use hawser_node::CheckedChannel;
use hawser_node::error::RunError;
use hawser_proto::codec::BoundedCodec;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::envelope_list::OriginatorsFrame;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_originators_request::OriginatorFilter;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_request::TopicFilter;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_response as topics_pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    SubscribeOriginatorsRequest, SubscribeTopicsRequest,
};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetSyncCursorRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};
use http::uri::PathAndQuery;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::args::TailArgs;
use crate::render::Rendered;
use crate::{client, output};

/// The maximum number of envelopes that wait to be printed. A guess: a slow terminal slows down its own streams only.
const WAITING_MAX: usize = 256;
/// The maximum number of bytes of envelopes that wait to be printed. A guess: far above the 26 MiB of the largest
/// envelope.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The maximum number of originators that are followed together: the node can name any number. A guess: the registry
/// takes 255 nodes at once (`maxCanonicalNodes`), and the chains, the older network and former nodes have strands, too.
const FOLLOWED_MAX: usize = 300;
/// The maximum number of originators of one stream: as many as a cursor names. Specified: `docs/protocol/api.md`.
const OF_ONE_STREAM_MAX: usize = 100;
/// The maximum number of streams that are read together. The node can have each of them hold a message of 26 MiB. A
/// guess: the originators that it names first take three at most, and later ones appear when a node joins the network.
const STREAMS_MAX: usize = 8;
const SUBSCRIBE_ORIGINATORS: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeOriginators";

/// The place at which printing starts.
#[derive(Debug, Clone, PartialEq, Eq)]
enum StartPoint {
    Now,
    After(Cursor),
}

/// The envelopes to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FollowTarget {
    Topic(Topic),
    Originator(OriginatorId),
    All,
}

/// The way to the printer, for all streams together. A slow terminal holds them up.
#[derive(Clone)]
struct StreamSender {
    waiting: mpsc::Sender<Result<WaitingEnvelope, RunError>>,
    /// The bytes for which there is room, of [`WAITING_BYTES_MAX`].
    room: Arc<Semaphore>,
}

/// An envelope that waits to be printed.
struct WaitingEnvelope {
    bytes: Bytes,
    /// Its room, until it is printed.
    _room: OwnedSemaphorePermit,
}

impl StreamSender {
    /// Returns a way, and its end at the printer.
    fn new() -> (Self, mpsc::Receiver<Result<WaitingEnvelope, RunError>>) {
        let (waiting, printer) = mpsc::channel(WAITING_MAX);
        (Self { waiting, room: Arc::new(Semaphore::new(WAITING_BYTES_MAX)) }, printer)
    }

    /// Hands over an envelope when there is room for it. Returns false if the printer has ended.
    async fn send(&self, envelope: &Bytes) -> bool {
        let len = u32::try_from(envelope.len().min(WAITING_BYTES_MAX)).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(len).await else { return false };
        // A copy, because the bytes that have come share the memory of their whole message.
        let bytes = Bytes::copy_from_slice(envelope);
        self.waiting.send(Ok(WaitingEnvelope { bytes, _room: room })).await.is_ok()
    }

    /// Hands over the error that ends the command.
    async fn fail(&self, error: RunError) {
        let _ = self.waiting.send(Err(error)).await; // fails only if the printer has ended
    }
}

/// Runs the command: ends with Ctrl-C, with the limit, or when the node ends the stream.
///
/// # Errors
/// When arguments are wrong, when the node refuses the call, or when its connection ends.
pub(super) async fn run(args: TailArgs, as_json: bool) -> Result<(), RunError> {
    let from = parse_from(&args.from)?;
    let target = parse_target(&args)?;
    let channel = client::connect(&args.node).await?;
    let (sender, receiver) = StreamSender::new();
    follow(channel, target, from, sender).await.map_err(|status| client::failure(&status))?;
    tokio::select! {
        ended = print_all(receiver, args.limit, as_json) => ended,
        signal = tokio::signal::ctrl_c() => signal.map_err(RunError::failed),
    }
}

fn parse_target(args: &TailArgs) -> Result<FollowTarget, RunError> {
    let Some(topic) = &args.topic else {
        return Ok(args
            .originator
            .map_or(FollowTarget::All, |id| FollowTarget::Originator(OriginatorId(id))));
    };
    parse_topic(topic).map(FollowTarget::Topic)
}

/// Returns the topic that a text names.
///
/// # Errors
/// If it is no hex, or no topic.
pub(super) fn parse_topic(text: &str) -> Result<Topic, RunError> {
    let wrong = |error: &dyn std::fmt::Display| {
        RunError::usage(format!("topic {text}: {error}; write kind byte and identifier in hex"))
    };
    let bytes = hex::decode(text.strip_prefix("0x").unwrap_or(text)).map_err(|e| wrong(&e))?;
    Topic::parse(bytes.into()).map_err(|error| wrong(&error))
}

/// Returns the cursor that ids such as `0:12,100:7` name; `None` for a text of another form.
pub(super) fn parse_cursor(ids: &str) -> Option<Cursor> {
    let id = |part: &str| {
        let (originator, sequence) = part.trim().split_once(':')?;
        let id = EnvelopeId::new(
            OriginatorId(originator.parse().ok()?),
            SequenceId(sequence.parse().ok()?),
        );
        Some(id)
    };
    ids.split(',').map(id).collect()
}

fn parse_from(text: &str) -> Result<StartPoint, RunError> {
    match text {
        "now" => Ok(StartPoint::Now),
        "start" => Ok(StartPoint::After(Cursor::new())),
        ids => parse_cursor(ids).map(StartPoint::After).ok_or_else(|| {
            RunError::usage(format!("--from {text}: must be now, start, or ids such as 0:12,100:7"))
        }),
    }
}

async fn follow(
    channel: CheckedChannel,
    target: FollowTarget,
    from: StartPoint,
    sender: StreamSender,
) -> Result<(), Status> {
    match target {
        FollowTarget::Topic(topic) => {
            let after = resolve(&channel, from).await?;
            follow_topic(channel, topic, &after, sender).await
        }
        FollowTarget::Originator(originator) => {
            let after = resolve(&channel, from).await?;
            follow_originators(channel, vec![originator], &after, sender).await
        }
        FollowTarget::All => follow_all(channel, from, sender).await,
    }
}

async fn resolve(channel: &CheckedChannel, from: StartPoint) -> Result<Cursor, Status> {
    match from {
        StartPoint::After(cursor) => Ok(cursor),
        StartPoint::Now => {
            let mut api = MetadataApiClient::new(channel.clone());
            let asked = api.get_sync_cursor(GetSyncCursorRequest {});
            let answer = client::whole(asked).await?.into_inner();
            Ok(Cursor::from(&answer.latest_sync.unwrap_or_default()))
        }
    }
}

async fn follow_topic(
    channel: CheckedChannel,
    topic: Topic,
    after: &Cursor,
    sender: StreamSender,
) -> Result<(), Status> {
    let mut api =
        QueryApiClient::new(channel).max_decoding_message_size(client::MESSAGE_LEN_BYTES_MAX);
    let filter = TopicFilter { topic: topic.as_bytes().clone(), last_seen: Some(after.to_pb()) };
    let request = SubscribeTopicsRequest { filters: vec![filter] };
    let response = client::whole(api.subscribe_topics(request)).await?;
    tell_expired(response.metadata());
    let of_others = move |bytes: &Bytes| {
        let envelope = OriginatorEnvelope::parse(bytes.clone()).ok()?;
        (*topic_of(&envelope) != topic).then(|| envelope.id())
    };
    tokio::spawn(forward(response.into_inner(), sender, of_others, |message| {
        match message.response {
            Some(topics_pb::Response::Envelopes(envelopes)) => envelopes.envelopes,
            _ => Vec::new(),
        }
    }));
    Ok(())
}

/// Opens one stream for some originators, at most [`OF_ONE_STREAM_MAX`].
async fn follow_originators(
    channel: CheckedChannel,
    originators: Vec<OriginatorId>,
    after: &Cursor,
    sender: StreamSender,
) -> Result<(), Status> {
    let seen = originators.iter().map(|&id| EnvelopeId::new(id, after.get(id)));
    let filter = OriginatorFilter {
        originator_node_ids: originators.iter().map(|id| id.0).collect(),
        last_seen: Some(seen.collect::<Cursor>().to_pb()),
    };
    let request = SubscribeOriginatorsRequest { filter: Some(filter) };
    let mut grpc = Grpc::new(channel).max_decoding_message_size(client::MESSAGE_LEN_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(SUBSCRIBE_ORIGINATORS);
    // The codec of the stub keeps only the last one of several lists in a message.
    let codec = BoundedCodec::<SubscribeOriginatorsRequest, OriginatorsFrame>::default();
    let opened = grpc.server_streaming(Request::new(request), path, codec);
    let response = client::whole(opened).await?;
    tell_expired(response.metadata());
    let of_others = move |bytes: &Bytes| {
        let id = OriginatorEnvelope::id_of(bytes.clone()).ok()?;
        (!originators.contains(&id.originator)).then_some(id)
    };
    let envelopes = OriginatorsFrame::into_envelopes;
    tokio::spawn(forward(response.into_inner(), sender, of_others, envelopes));
    Ok(())
}

/// Follows each originator that the node knows now or later.
async fn follow_all(
    channel: CheckedChannel,
    from: StartPoint,
    sender: StreamSender,
) -> Result<(), Status> {
    let mut api = MetadataApiClient::new(channel.clone());
    let opened = api.subscribe_sync_cursor(GetSyncCursorRequest {});
    let mut clocks = client::whole(opened).await?.into_inner();
    tokio::spawn(async move {
        let mut followed = Followed::default();
        let mut after = match from {
            StartPoint::Now => None,
            StartPoint::After(cursor) => Some(cursor),
        };
        let ended = loop {
            let clock = match clocks.message().await {
                Ok(Some(clock)) => Cursor::from(&clock.latest_sync.unwrap_or_default()),
                Ok(None) => break Status::unavailable("the node ended the stream"),
                Err(status) => break status,
            };
            // An originator that appears after the first clock is new, so it is followed from its
            // beginning.
            let after = after.get_or_insert_with(|| clock.clone());
            let groups = match followed.new_in(&clock) {
                Ok(groups) => groups,
                Err(error) => return sender.fail(error).await,
            };
            for group in groups {
                let stream =
                    follow_originators(channel.clone(), group, after, sender.clone()).await;
                if let Err(status) = stream {
                    return sender.fail(client::failure(&status)).await;
                }
            }
        };
        sender.fail(client::failure(&ended)).await;
    });
    Ok(())
}

/// The originators that are followed together.
#[derive(Default)]
struct Followed {
    originators: BTreeSet<OriginatorId>,
    streams: usize,
}

impl Followed {
    /// Returns the originators of a clock that are not followed yet, in groups of one stream each, and notes them as
    /// followed.
    ///
    /// # Errors
    /// When they would be more than [`FOLLOWED_MAX`], or need more than [`STREAMS_MAX`] streams.
    fn new_in(&mut self, clock: &Cursor) -> Result<Vec<Vec<OriginatorId>>, RunError> {
        let named = clock.iter().map(|id| id.originator);
        let new: Vec<_> = named.filter(|originator| self.originators.insert(*originator)).collect();
        if self.originators.len() > FOLLOWED_MAX {
            return Err(RunError::failed(format!(
                "the node names more than {FOLLOWED_MAX} originators, and no more are followed together: name one \
                 (--originator)"
            )));
        }
        let groups: Vec<_> = new.chunks(OF_ONE_STREAM_MAX).map(<[OriginatorId]>::to_vec).collect();
        self.streams += groups.len();
        if self.streams > STREAMS_MAX {
            return Err(RunError::failed(format!(
                "the node has named new originators too often, and no more than {STREAMS_MAX} streams are read \
                 together: start again, from the last ids that were printed (--from)"
            )));
        }
        Ok(groups)
    }
}

/// Passes envelopes on until the stream or the printer ends, or the node sends one that was not asked for. `of_others`
/// returns the id of such an envelope. Bytes that cannot be read are passed on, and printed as unreadable.
async fn forward<M: 'static>(
    mut stream: tonic::Streaming<M>,
    sender: StreamSender,
    of_others: impl Fn(&Bytes) -> Option<EnvelopeId>,
    envelopes: impl Fn(M) -> Vec<Bytes>,
) {
    loop {
        let items = match stream.message().await {
            Ok(Some(message)) => envelopes(message),
            Ok(None) => {
                let ended = Status::unavailable("the node ended the stream");
                return sender.fail(client::failure(&ended)).await;
            }
            Err(status) => return sender.fail(client::failure(&status)).await,
        };
        for bytes in items {
            if let Some(id) = of_others(&bytes) {
                return sender.fail(not_requested(id)).await;
            }
            if !sender.send(&bytes).await {
                return;
            }
        }
    }
}

/// Returns the error of a node that sends an envelope which no part of the request asks for.
pub(super) fn not_requested(id: EnvelopeId) -> RunError {
    RunError::failed(format!("the node sent {id}, which was not requested"))
}

/// Returns the topic that the client of an envelope names.
pub(super) fn topic_of(envelope: &OriginatorEnvelope) -> &Topic {
    envelope.unsigned().payer().client().topic()
}

async fn print_all(
    mut receiver: mpsc::Receiver<Result<WaitingEnvelope, RunError>>,
    limit: Option<u64>,
    as_json: bool,
) -> Result<(), RunError> {
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        match receiver.recv().await {
            Some(Ok(envelope)) => print(envelope.bytes, as_json),
            Some(Err(error)) => return Err(error),
            None => break,
        }
        left -= 1;
    }
    Ok(())
}

/// Says on the error output which of the places that were asked for have expired, if the node has told it. Without
/// that, their envelopes would seem never to have been.
pub(super) fn tell_expired(metadata: &MetadataMap) {
    if let Some(note) = expired_note(metadata) {
        output::note(format_args!("hawser: {note}"));
    }
}

/// Returns the note about the metadata `hawser-oldest`, which the node has written.
fn expired_note(metadata: &MetadataMap) -> Option<String> {
    let oldest = metadata.get("hawser-oldest")?.to_str().ok()?;
    let places = output::plain(oldest).replace('=', ":").replace(',', ", ");
    Some(format!("the node no longer has all of these envelopes: some have expired below {places}"))
}

/// Prints one envelope.
pub(super) fn print(bytes: Bytes, as_json: bool) {
    let hex = hex::encode(&bytes);
    let rendered = Rendered::new(bytes);
    match (rendered, as_json) {
        (Ok(rendered), false) => output::line(rendered.text()),
        (Ok(rendered), true) => match rendered.json() {
            Ok(json) => output::line(json),
            Err(error) => output::line(unreadable(&hex, &error)),
        },
        (Err(error), true) => output::line(unreadable(&hex, &error)),
        (Err(error), false) => output::line(format_args!("unreadable envelope: {error}  {hex}")),
    }
}

fn unreadable(hex: &str, error: &dyn std::fmt::Display) -> serde_json::Value {
    serde_json::json!({ "error": error.to_string(), "hex": hex })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use hawser_node::error::RunErrorKind;
    use tokio::net::TcpListener;
    use tonic::Code;

    #[test]
    fn a_stream_begins_now_at_the_start_or_at_a_cursor() {
        assert_eq!(parse_from("now").unwrap(), StartPoint::Now);
        assert_eq!(parse_from("start").unwrap(), StartPoint::After(Cursor::new()));
        let StartPoint::After(cursor) = parse_from("0:12, 100:7").unwrap() else { panic!() };
        assert_eq!(cursor.get(OriginatorId(0)), SequenceId(12));
        assert_eq!(cursor.get(OriginatorId(100)), SequenceId(7));
        for wrong in ["", "100", "100:", "a:1", "1:2,"] {
            assert_eq!(parse_from(wrong).unwrap_err().kind, RunErrorKind::Usage, "{wrong}");
        }
    }

    /// A node could name new originators with each clock.
    #[test]
    fn originators_without_end_are_not_followed() {
        let clock = |first: u32, count: u32| -> Cursor {
            let ids = first..first + count;
            ids.map(|id| EnvelopeId::new(OriginatorId(id), SequenceId(1))).collect()
        };
        let mut followed = Followed::default();
        let lens = |groups: Vec<Vec<_>>| groups.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lens(followed.new_in(&clock(0, 250)).unwrap()), [100, 100, 50]);
        assert_eq!(lens(followed.new_in(&clock(0, 300)).unwrap()), [50]);
        assert!(followed.new_in(&clock(0, 300)).unwrap().is_empty(), "all are followed");
        let error = followed.new_in(&clock(300, 1)).unwrap_err();
        assert_eq!(error.kind, RunErrorKind::Failed);
        assert!(error.text.contains("more than 300 originators"), "{}", error.text);
        assert!(Followed::default().new_in(&clock(0, 301)).is_err(), "at once");

        let mut followed = Followed::default();
        for id in 0..8 {
            assert_eq!(lens(followed.new_in(&clock(id, 1)).unwrap()), [1]);
        }
        assert!(followed.new_in(&clock(0, 8)).unwrap().is_empty());
        let error = followed.new_in(&clock(8, 1)).unwrap_err();
        assert!(error.text.contains("no more than 8 streams"), "{}", error.text);
    }

    /// A node could send large envelopes faster than a terminal shows them.
    #[tokio::test]
    async fn envelopes_that_wait_for_a_slow_terminal_have_a_bound_in_all() {
        let (sender, mut printer) = StreamSender::new();
        let message = Bytes::from(vec![7; client::MESSAGE_LEN_BYTES_MAX]);
        let send = |bytes: &Bytes| {
            let (sender, bytes) = (sender.clone(), bytes.clone());
            Box::pin(async move { sender.send(&bytes).await })
        };
        assert!(send(&message).await && send(&message).await);
        let mut third = send(&message);
        tokio::select! {
            biased;
            _ = &mut third => panic!("78 MiB wait"),
            () = std::future::ready(()) => {}
        }
        let first = printer.recv().await.unwrap().unwrap();
        assert_eq!(first.bytes, message);
        assert_ne!(first.bytes.as_ptr(), message.as_ptr(), "it does not hold its message");
        drop(first);
        assert!(third.await, "what is printed makes room");
        assert!(send(&Bytes::new()).await);
        drop(printer);
        assert!(!send(&Bytes::new()).await, "the printer has ended");
    }

    /// A node that takes connections and never answers.
    #[tokio::test]
    async fn a_stream_that_a_node_does_not_open_holds_the_command_no_longer_than_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let channel = client::connect(&address).await.unwrap();
        tokio::time::pause();
        let topic = parse_topic("0x00ab").unwrap();
        for target in [
            FollowTarget::All,
            FollowTarget::Originator(OriginatorId(100)),
            FollowTarget::Topic(topic),
        ] {
            let (sender, _printer) = StreamSender::new();
            let from = StartPoint::After(Cursor::new());
            let opened = follow(channel.clone(), target.clone(), from, sender);
            let ended = tokio::time::timeout(Duration::from_secs(3600), opened).await;
            let ended = ended.unwrap_or_else(|_| panic!("{target:?} waits for ever"));
            assert_eq!(ended.unwrap_err().code(), Code::DeadlineExceeded, "{target:?}");
        }
    }

    #[test]
    fn what_has_expired_is_told_with_its_places() {
        let mut metadata = MetadataMap::new();
        assert_eq!(expired_note(&metadata), None);
        metadata.insert("hawser-oldest", "100=5123,200=77".parse().unwrap());
        let note = expired_note(&metadata).unwrap();
        assert!(note.ends_with("some have expired below 100:5123, 200:77"), "{note}");
        metadata.insert("hawser-oldest", "1".repeat(10_000).parse().unwrap());
        assert!(expired_note(&metadata).unwrap().len() < 300, "whatever the node has written");
    }

    #[test]
    fn a_topic_is_checked_before_the_node_is_asked() {
        let args = |topic: &str| TailArgs {
            node: String::new(),
            topic: Some(topic.into()),
            originator: None,
            from: "now".into(),
            limit: None,
        };
        assert!(matches!(parse_target(&args("0x00ab")), Ok(FollowTarget::Topic(_))));
        for wrong in ["zz", "00", "ff01", ""] {
            assert_eq!(
                parse_target(&args(wrong)).unwrap_err().kind,
                RunErrorKind::Usage,
                "{wrong}"
            );
        }
    }
}
