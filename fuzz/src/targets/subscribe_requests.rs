//! Fuzz target: the requests of one stream of `QueryApi.Subscribe`, one after another.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hawser_api::CheckedStream;
use hawser_net::cut_messages;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use pb::subscribe_request::v1::mutate::Subscription as Add;
use pb::subscribe_request::v1::{Mutate, Request as Ask};
use pb::subscribe_request::{V1, Version};
use prost::{Message as _, Name as _};

use super::Target;
use crate::corpus;

/// An add takes six bytes on the wire at least. Here it is held three times, and its topic and its cursor are
/// in trees.
pub(super) const TARGET: Target =
    Target { name: "subscribe-requests", run, seeds, memory_factor: 512 };

/// Adds, entries of cursors, topics and waves that a stream may have (`docs/protocol/api.md`, *Subscribe*).
const ADDS_MAX: usize = 100_000;
const ENTRIES_MAX: usize = 1_000_000;
const TOPICS_MAX: usize = 1_000_000;
const WAVES_MAX: usize = 256;

fn framed(request: &[u8]) -> Vec<u8> {
    let len = u32::try_from(request.len()).expect("seeds are short");
    [&[0][..], &len.to_be_bytes(), request].concat()
}

fn request(ask: Ask) -> Vec<u8> {
    let request = pb::SubscribeRequest { version: Some(Version::V1(V1 { request: Some(ask) })) };
    framed(&request.encode_to_vec())
}

fn mutate(mutate_id: u64, adds: &[u16], removes: &[u16], history_only: bool) -> Vec<u8> {
    let topic = |name: &u16| {
        let [high, low] = name.to_be_bytes();
        Bytes::from(vec![low % 6, high, low])
    };
    let last_seen = |name: u16| Cursor { node_id_to_sequence_id: [(100, name.into())].into() };
    let add = |name: &u16| Add { topic: topic(name), last_seen: Some(last_seen(*name)) };
    let (adds, removes) = (adds.iter().map(add).collect(), removes.iter().map(topic).collect());
    request(Ask::Mutate(Mutate { adds, removes, mutate_id, history_only }))
}

/// The end of a wave, which a real stream reaches by itself.
fn caught_up(wave: u64) -> Vec<u8> {
    request(Ask::Pong(pb::Pong { nonce: wave }))
}

fn seeds() -> Vec<Vec<u8>> {
    let by_hand = [
        vec![mutate(1, &[1, 2, 3], &[], false), mutate(2, &[4, 1], &[2], false)],
        vec![mutate(1, &[1], &[], true), mutate(2, &[1], &[1], false)],
        vec![mutate(1, &[1], &[], true), caught_up(1), mutate(1, &[1], &[], false)],
        vec![mutate(1, &[1, 1], &[], false), mutate(2, &[1], &[1, 1], true), caught_up(2)],
        vec![mutate(0, &[], &[1], false), mutate(1, &[1], &[], false), mutate(1, &[], &[], false)],
        (1..=257_u16).map(|wave| mutate(wave.into(), &[wave], &[], true)).collect(),
    ];
    let of_corpus = corpus::messages_of(&pb::SubscribeRequest::full_name());
    let all: Vec<u8> = of_corpus.iter().flat_map(|it| framed(it)).collect();
    let each = of_corpus.iter().map(|it| framed(it));
    by_hand.into_iter().map(|requests| requests.concat()).chain(each).chain([all]).collect()
}

/// A stream as the page describes it.
#[derive(Default)]
struct Described {
    live: BTreeSet<Bytes>,
    history: BTreeMap<Bytes, u64>,
    waves: BTreeSet<u64>,
}

impl Described {
    /// Applies the checks as the page lists them. Returns the topics that are added, or the name of the failed check.
    fn check(&self, mutate: &Mutate) -> Result<Vec<Bytes>, &'static str> {
        if mutate.mutate_id == 0 && !mutate.adds.is_empty() {
            return Err("MUTATE_ID_MISSING");
        }
        if self.waves.contains(&mutate.mutate_id) {
            return Err("MUTATE_ID_IN_FLIGHT");
        }
        if mutate.adds.len() > ADDS_MAX {
            return Err("TOO_MANY_ADDS");
        }
        let cursors = mutate.adds.iter().filter_map(|add| add.last_seen.as_ref());
        if cursors.map(|cursor| cursor.node_id_to_sequence_id.len()).sum::<usize>() > ENTRIES_MAX {
            return Err("CURSOR_ENTRIES");
        }
        if !mutate.removes.iter().all(is_topic) {
            return Err("REMOVE_TOPIC");
        }
        let removes: BTreeSet<&Bytes> = mutate.removes.iter().collect();
        let added = self.added(mutate, &removes)?;
        let kept = self.live.iter().filter(|topic| !removes.contains(topic)).count();
        if !mutate.history_only && kept + added.len() > TOPICS_MAX {
            return Err("TOO_MANY_TOPICS");
        }
        match added.is_empty() || self.waves.len() < WAVES_MAX {
            true => Ok(added),
            false => Err("TOO_MANY_WAVES"),
        }
    }

    fn added(
        &self,
        mutate: &Mutate,
        removes: &BTreeSet<&Bytes>,
    ) -> Result<Vec<Bytes>, &'static str> {
        let (mut seen, mut added) = (BTreeSet::new(), Vec::new());
        for Add { topic, last_seen } in &mutate.adds {
            let is_live = self.live.contains(topic) && !removes.contains(topic);
            let mut entries = last_seen.iter().flat_map(|it| &it.node_id_to_sequence_id);
            match () {
                () if !is_topic(topic) => return Err("ADD_TOPIC"),
                () if !seen.insert(topic) => {}
                () if is_live && mutate.history_only => return Err("HISTORY_OF_SUBSCRIBED"),
                () if is_live => {}
                () if self.history.contains_key(topic) => return Err("HISTORY_IN_FLIGHT"),
                () if entries.any(|(&id, &place)| id >= 1 << 31 || place >= 1 << 63) => {
                    return Err("CURSOR_RANGE");
                }
                () => added.push(topic.clone()),
            }
        }
        Ok(added)
    }

    fn apply(&mut self, mutate: &Mutate, added: &[Bytes]) {
        for topic in &mutate.removes {
            self.live.remove(topic);
        }
        for topic in added {
            self.waves.insert(mutate.mutate_id);
            match mutate.history_only {
                true => _ = self.history.insert(topic.clone(), mutate.mutate_id),
                false => _ = self.live.insert(topic.clone()),
            }
        }
    }

    fn catch_up(&mut self, wave: u64) {
        self.waves.remove(&wave);
        self.history.retain(|_, of| *of != wave);
    }
}

fn is_topic(topic: &Bytes) -> bool {
    topic.len() >= 2 && topic[0] < 6
}

/// Every request is decided as the page says, after all requests before it. The stream ends at the first that does not
/// decode or fails a check. A pong ends the wave that its nonce names.
fn run(input: &[u8]) {
    let (messages, _) = cut_messages(usize::MAX, [Bytes::copy_from_slice(input)]);
    let (mut stream, mut described) = (CheckedStream::default(), Described::default());
    for message in messages {
        let Ok(request) = pb::SubscribeRequest::decode(message) else { return };
        let Some(Version::V1(v1)) = request.version else { return };
        match v1.request {
            Some(Ask::Mutate(mutate)) => {
                let decided = stream.mutate(mutate.clone());
                assert_eq!(decided, described.check(&mutate));
                let Ok(added) = decided else { return };
                described.apply(&mutate, &added);
            }
            Some(Ask::Pong(pb::Pong { nonce })) => {
                stream.catch_up(nonce);
                described.catch_up(nonce);
            }
            Some(Ask::Ping(_)) | None => {}
        }
    }
}
