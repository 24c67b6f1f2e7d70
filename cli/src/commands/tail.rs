//! `hawser tail`: prints envelopes of a node as they arrive.

use std::collections::BTreeSet;

use hawser_node::CheckedChannel;
use hawser_node::error::RunError;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_client::ReplicationApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_originators_request::OriginatorFilter;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_originators_response as originators_pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_request::TopicFilter;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_response as topics_pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    SubscribeOriginatorsRequest, SubscribeTopicsRequest,
};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetSyncCursorRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::args::TailArgs;
use crate::render::Rendered;
use crate::{client, output};

/// The most envelopes that wait to be printed. A guess: a slow terminal slows down its own streams
/// only.
const WAITING_MAX: usize = 256;
/// The most originators that are followed together. Each takes a stream, and the node can name any number. A guess: the
/// registry takes 255 nodes at once (`maxCanonicalNodes`), and the chains, the older network and former nodes have
/// strands, too.
const FOLLOWED_MAX: usize = 300;

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

/// The way to the printer. An error is the last item of a stream.
type StreamSender = mpsc::Sender<Result<Bytes, RunError>>;

/// Runs the command: ends with Ctrl-C, with the limit, or when the node ends the stream.
///
/// # Errors
/// When arguments are wrong, when the node refuses the call, or when its connection ends.
pub(super) async fn run(args: TailArgs, as_json: bool) -> Result<(), RunError> {
    let from = parse_from(&args.from)?;
    let target = parse_target(&args)?;
    let channel = client::connect(&args.node).await?;
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
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
            follow_originator(channel, originator, &after, sender).await
        }
        FollowTarget::All => follow_all(channel, from, sender).await,
    }
}

async fn resolve(channel: &CheckedChannel, from: StartPoint) -> Result<Cursor, Status> {
    match from {
        StartPoint::After(cursor) => Ok(cursor),
        StartPoint::Now => {
            let mut api = MetadataApiClient::new(channel.clone());
            let answer = api.get_sync_cursor(GetSyncCursorRequest {}).await?.into_inner();
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
    let response = api.subscribe_topics(request).await?;
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

async fn follow_originator(
    channel: CheckedChannel,
    originator: OriginatorId,
    after: &Cursor,
    sender: StreamSender,
) -> Result<(), Status> {
    let mut api =
        ReplicationApiClient::new(channel).max_decoding_message_size(client::MESSAGE_LEN_BYTES_MAX);
    let id = EnvelopeId::new(originator, after.get(originator));
    let filter = OriginatorFilter {
        originator_node_ids: vec![originator.0],
        last_seen: Some([id].into_iter().collect::<Cursor>().to_pb()),
    };
    let request = SubscribeOriginatorsRequest { filter: Some(filter) };
    let response = api.subscribe_originators(request).await?;
    tell_expired(response.metadata());
    let of_others = move |bytes: &Bytes| {
        let id = OriginatorEnvelope::id_of(bytes.clone()).ok()?;
        (id.originator != originator).then_some(id)
    };
    tokio::spawn(forward(response.into_inner(), sender, of_others, |message| {
        match message.response {
            Some(originators_pb::Response::Envelopes(envelopes)) => envelopes.envelopes,
            None => Vec::new(),
        }
    }));
    Ok(())
}

/// Opens one stream for each originator that the node knows now or later.
async fn follow_all(
    channel: CheckedChannel,
    from: StartPoint,
    sender: StreamSender,
) -> Result<(), Status> {
    let mut api = MetadataApiClient::new(channel.clone());
    let mut clocks = api.subscribe_sync_cursor(GetSyncCursorRequest {}).await?.into_inner();
    tokio::spawn(async move {
        let mut followed = BTreeSet::new();
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
            let new = match new_in(&clock, &mut followed) {
                Ok(new) => new,
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            for originator in new {
                let stream =
                    follow_originator(channel.clone(), originator, after, sender.clone()).await;
                if let Err(status) = stream {
                    let _ = sender.send(Err(client::failure(&status))).await;
                    return;
                }
            }
        };
        // Fails only if the printer has ended.
        let _ = sender.send(Err(client::failure(&ended))).await;
    });
    Ok(())
}

/// Returns the originators of a clock that are not followed yet, and notes them as followed.
///
/// # Errors
/// When they would be more than [`FOLLOWED_MAX`].
fn new_in(
    clock: &Cursor,
    followed: &mut BTreeSet<OriginatorId>,
) -> Result<Vec<OriginatorId>, RunError> {
    let named = clock.iter().map(|id| id.originator);
    let new: Vec<_> = named.filter(|originator| followed.insert(*originator)).collect();
    if followed.len() > FOLLOWED_MAX {
        return Err(RunError::failed(format!(
            "the node names more than {FOLLOWED_MAX} originators, and no more are followed together: name one \
             (--originator)"
        )));
    }
    Ok(new)
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
                let _ = sender.send(Err(client::failure(&ended))).await;
                return;
            }
            Err(status) => {
                let _ = sender.send(Err(client::failure(&status))).await;
                return;
            }
        };
        for bytes in items {
            let item = match of_others(&bytes) {
                Some(id) => Err(not_requested(id)),
                None => Ok(bytes),
            };
            let is_last = item.is_err();
            if sender.send(item).await.is_err() || is_last {
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
    mut receiver: mpsc::Receiver<Result<Bytes, RunError>>,
    limit: Option<u64>,
    as_json: bool,
) -> Result<(), RunError> {
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        match receiver.recv().await {
            Some(Ok(envelope)) => print(envelope, as_json),
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
        eprintln!("hawser: {note}");
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
    use super::*;
    use hawser_node::error::RunErrorKind;

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
        let mut followed = BTreeSet::new();
        assert_eq!(new_in(&clock(0, 300), &mut followed).unwrap().len(), FOLLOWED_MAX);
        assert!(new_in(&clock(0, 300), &mut followed).unwrap().is_empty(), "all are followed");
        let error = new_in(&clock(300, 1), &mut followed).unwrap_err();
        assert_eq!(error.kind, RunErrorKind::Failed);
        assert!(error.text.contains("more than 300 originators"), "{}", error.text);
        assert!(new_in(&clock(0, 301), &mut BTreeSet::new()).is_err(), "at once");
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
