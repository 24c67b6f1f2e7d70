//! Publishing and reading back.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;

use crate::case::Need::{Payer, Second};
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, same};
use crate::connection::{PUBLISH_API, QUERY_API, REPLICATION_API};
use crate::context::{JudgedNodes, heads, names, parse_envelope, query_with, same_envelopes};
use crate::envelopes::{RETENTION_DAYS, message, new_group, new_welcomes, welcome};
use crate::wire::{List, NewestList};

const AREA: Area = Area::EndToEnd;
const PUBLISHING: &str = "docs/protocol/api.md#publishing";
const QUERIES: &str = "docs/protocol/api.md#queries";
const LAYERS: &str = "docs/protocol/wire.md#layers";
const SERVICES: &str = "docs/protocol/api.md#services";
/// The greatest accepted difference between the clocks of suite and node, in seconds: by as much an expiry may be early
/// between nodes (rule 9).
const CLOCKS_DIFFER_S: u64 = 600;

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "published-is-read-at-once",
        "what a node has acknowledged, its next query returns, byte for byte",
        PUBLISHING,
        |c| Box::pin(published_is_read(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "published-is-read-at-second",
        "another node shows what this one has acknowledged, byte for byte",
        PUBLISHING,
        |c| Box::pin(published_at_second(c)),
    )
    .needs(&[Payer, Second]),
    Case::new(
        AREA,
        "answer-has-the-client-bytes",
        "the answer has the payer's envelope as it was sent: client bytes, signature, target \
         and retention",
        LAYERS,
        |c| Box::pin(answer_has_bytes(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "answer-is-signed-by-one-key",
        "each envelope has a signature of 65 bytes that recovers the node's key",
        LAYERS,
        |c| Box::pin(signed_by_one_key(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "retention-sets-expiry",
        "the expiry is the time of signing and the days of retention",
        "docs/protocol/rules.md#expiry-and-time",
        |c| Box::pin(retention_sets_expiry(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "repeat-gets-the-same-answer",
        "a repeated payer envelope gets the stored answer and no new place",
        PUBLISHING,
        |c| Box::pin(repeat_same_answer(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "welcome-is-stored",
        "a welcome for an installation is published and read like a message",
        "docs/protocol/wire.md#topics",
        |c| Box::pin(welcome_is_stored(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "services-have-one-meaning",
        "publishing and querying are the same under both names of their services",
        SERVICES,
        |c| Box::pin(services_mean_one(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "newest-is-the-last-and-aligned",
        "GetNewestEnvelope has one result for each topic, in order, empty where there is none",
        QUERIES,
        |c| Box::pin(newest(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "inbox-ids-echo-identifiers",
        "GetInboxIds repeats each identifier byte for byte, in order, without an inbox where \
         there is none",
        QUERIES,
        |c| Box::pin(inbox_ids(c)),
    ),
    Case::new(
        AREA,
        "query-for-nothing-is-empty",
        "a query that names nothing has an empty answer",
        QUERIES,
        |c| Box::pin(query_for_nothing(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "cursor-covers-the-published",
        "GetSyncCursor covers an envelope soon after it was acknowledged",
        "docs/protocol/api.md#services",
        |c| Box::pin(cursor_covers(c)),
    )
    .needs(&[Payer]),
];

async fn published_is_read(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let answer = c.send(&topic, 3).await?;
    let read = c.query(&c.target, &[&topic], None, 0).await?;
    same_envelopes("the query", &answer, &read)
}

async fn published_at_second(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let answer = c.send(&topic, 3).await?;
    c.shows(c.second()?, &topic, &answer).await
}

async fn answer_has_bytes(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.sign(message(&topic))?;
    let answer = c.publish(vec![sent.clone()]).await?;
    let envelope = parse_envelope(&answer[0])?;
    let payer = envelope.unsigned().payer();
    same("originator", &c.node()?, &envelope.id().originator)?;
    ensure(
        *payer.client().as_bytes() == sent.unsigned_client_envelope,
        "the client bytes as sent",
        || "other bytes".into(),
    )?;
    let signature = sent.payer_signature.map(|signature| signature.bytes);
    ensure(payer.signature_bytes() == signature.as_ref(), "the payer's signature as sent", || {
        "another one".into()
    })?;
    same("target", &c.node()?, &payer.target())?;
    same("retention in days", &RETENTION_DAYS, &payer.retention_days())
}

async fn signed_by_one_key(c: &JudgedNodes) -> Checked {
    let mut keys = Vec::new();
    for _ in 0..2 {
        let answer = c.send(&new_group(), 2).await?;
        for envelope in &answer {
            let key = parse_envelope(envelope)?.recover_originator();
            keys.push(key.map_err(|error| CaseError::new("a signature of the originator", error))?);
        }
    }
    ensure(keys[0].is_some(), "a signature", || "a chain's proof".into())?;
    ensure(keys.iter().all(|key| *key == keys[0]), "one key of all envelopes", || {
        format!("{keys:?}")
    })
}

async fn retention_sets_expiry(c: &JudgedNodes) -> Checked {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for days in [2, 3] {
        let client = message(&new_group());
        let signed = PayerEnvelope::sign(client, c.node()?, days, c.payer()?);
        let answer = c.publish(vec![signed]).await?;
        let expiry = parse_envelope(&answer[0])?.unsigned().expiry_unix_s();
        let expected = now + u64::from(days) * 86_400;
        let text = format!("expiry {expected}, with {CLOCKS_DIFFER_S} s for clocks that differ");
        ensure(expiry.abs_diff(expected) <= CLOCKS_DIFFER_S, text, || expiry.to_string())?;
    }
    Ok(())
}

async fn repeat_same_answer(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let envelope = c.sign(message(&topic))?;
    let first = c.publish(vec![envelope.clone()]).await?;
    let again = c.publish(vec![envelope.clone()]).await?;
    let read = c.query(&c.target, &[&topic], None, 0).await?;
    if first == again {
        return same_envelopes("the query", &first, &read);
    }
    let (one, two) = (parse_envelope(&first[0])?, parse_envelope(&again[0])?);
    let same_content = |envelope: &hawser_proto::envelope::OriginatorEnvelope| {
        envelope.unsigned().payer().client().as_bytes() == &envelope_bytes(&one)
    };
    if read.len() == 2 && two.id() > one.id() && same_content(&two) {
        return Err(CaseError::known(
            "xmtpd 1.3: it stores a repeat again",
            "the first answer again",
            names(&again),
        ));
    }
    same_envelopes("the answer to the repeat", &first, &again)
}

fn envelope_bytes(envelope: &hawser_proto::envelope::OriginatorEnvelope) -> Bytes {
    envelope.unsigned().payer().client().as_bytes().clone()
}

async fn welcome_is_stored(c: &JudgedNodes) -> Checked {
    let topic = new_welcomes();
    let answer = c.publish(vec![c.sign(welcome(&topic))?]).await?;
    let read = c.query(&c.target, &[&topic], None, 0).await?;
    same_envelopes("the query", &answer, &read)
}

async fn services_mean_one(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let mut all = Vec::new();
    for service in [PUBLISH_API, REPLICATION_API] {
        let request =
            api::PublishPayerEnvelopesRequest { payer_envelopes: vec![c.sign(message(&topic))?] };
        let answer: List = c
            .target
            .unary(&format!("{service}/PublishPayerEnvelopes"), request)
            .await
            .map_err(|status| CaseError::from(status).at(service))?;
        all.extend(answer.items);
    }
    for service in [QUERY_API, REPLICATION_API] {
        let query = api::EnvelopesQuery { topics: vec![topic.clone()], ..Default::default() };
        let read = query_with(&c.target, service, query, 0)
            .await
            .map_err(|status| CaseError::from(status).at(service))?;
        same_envelopes(service, &all, &read)?;
    }
    Ok(())
}

async fn newest(c: &JudgedNodes) -> Checked {
    let (full, other, empty) = (new_group(), new_group(), new_group());
    // Each has a request of its own: other software gives the envelopes of a request one time, so none is the newest.
    let sent = c.send_one_by_one(&full, 3).await?;
    let more = c.send(&other, 1).await?;
    let request = api::GetNewestEnvelopeRequest { topics: vec![other, empty, full.clone(), full] };
    let path = format!("{REPLICATION_API}/GetNewestEnvelope");
    let answer: NewestList = c.target.unary(&path, request).await?;
    let got: Vec<Option<Bytes>> =
        answer.results.into_iter().map(|result| result.envelope).collect();
    let last = sent.last().cloned();
    // The reference node answers a repeated topic only at its last position, so the first one may be empty.
    same("results", &4, &got.len())?;
    let shown = |list: &[Option<Bytes>]| {
        let name = |it: &Option<Bytes>| {
            it.as_ref().map_or("none".into(), |bytes| names(std::slice::from_ref(bytes)))
        };
        list.iter().map(name).collect::<Vec<_>>().join(" ")
    };
    let expected = [more.first().cloned(), None, last.clone(), last.clone()];
    if got == expected {
        return Ok(());
    }
    let failure = CaseError::new(shown(&expected), shown(&got));
    if got == [more.first().cloned(), None, None, last] {
        return Err(CaseError::known(
            "xmtpd 1.3: it fills the last of equal topics only",
            failure.expected,
            failure.got,
        ));
    }
    Err(failure)
}

async fn inbox_ids(c: &JudgedNodes) -> Checked {
    let number: [u8; 20] = rand::random();
    let hex: String = number.iter().map(|byte| format!("{byte:02x}")).collect();
    let asked = [
        format!("0x{hex}"),
        hex.to_uppercase(),
        "no address: é\u{1F980}".to_owned(),
        String::new(),
    ];
    let request = |identifier: &String| api::get_inbox_ids_request::Request {
        identifier: identifier.clone(),
        identifier_kind: 1,
    };
    let request = api::GetInboxIdsRequest { requests: asked.iter().map(request).collect() };
    let path = format!("{REPLICATION_API}/GetInboxIds");
    let answer: api::GetInboxIdsResponse = c.target.unary(&path, request).await?;
    let echoed: Vec<String> =
        answer.responses.iter().map(|response| response.identifier.clone()).collect();
    same("identifiers", &asked.to_vec(), &echoed)?;
    let found: Vec<_> =
        answer.responses.into_iter().filter_map(|response| response.inbox_id).collect();
    ensure(found.is_empty(), "no inbox of a random address", || format!("{found:?}"))
}

async fn query_for_nothing(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    c.send(&topic, 1).await?;
    let nothing = query_with(&c.target, REPLICATION_API, api::EnvelopesQuery::default(), 0).await?;
    same_envelopes("a query for nothing", &[], &nothing)?;
    let other = c.query(&c.target, &[&new_group()], None, 0).await?;
    same_envelopes("a query for a topic without envelopes", &[], &other)
}

async fn cursor_covers(c: &JudgedNodes) -> Checked {
    // A node that cached its answer would show this one again.
    heads(&c.target).await?;
    let id = parse_envelope(&c.send(&new_group(), 1).await?[0])?.id();
    let deadline = std::time::Instant::now() + c.target.answer_timeout();
    loop {
        let heads = heads(&c.target).await?;
        let head = heads.node_id_to_sequence_id.get(&id.originator.0).copied().unwrap_or(0);
        if head >= id.sequence.0 {
            return Ok(());
        }
        if std::time::Instant::now() >= deadline {
            return Err(CaseError::new(
                format_args!("a cursor that covers {id}"),
                format!("{}:{head}", id.originator),
            ));
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
