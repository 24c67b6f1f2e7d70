//! Statements of a node about itself: version, cursor, usage and health.

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as meta;
use prost::Message as _;
use tonic::Code;

use crate::case::Need::Payer;
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, optional, refused, same};
use crate::connection::{HEALTH, METADATA_API};
use crate::context::{JudgedNodes, id_of};
use crate::envelopes::new_group;
use crate::listener::Listener;
use crate::wire::{List, Number32, ReflectionAnswer, ReflectionRequest};

const AREA: Area = Area::EndToEnd;
const USAGE: &str = "docs/protocol/api.md#usage-of-payers";

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "version-is-semantic",
        "GetVersion answers with three numbers and without a leading v",
        "docs/protocol/api.md#services",
        |c| Box::pin(version(c)),
    ),
    Case::new(
        AREA,
        "sync-cursor-is-streamed",
        "SubscribeSyncCursor sends the cursor at once and again when it has grown",
        "docs/protocol/api.md#streams",
        |c| Box::pin(cursor_stream(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "usage-of-a-payer-is-told",
        "GetPayerInfo counts a payer's messages under the text that named it, by hours and by days",
        USAGE,
        |c| Box::pin(payer_info(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "usage-of-an-unknown-payer",
        "a payer that the node does not know makes GetPayerInfo NOT_FOUND, and none INVALID_ARGUMENT",
        USAGE,
        |c| Box::pin(unknown_payer(c)),
    ),
    Case::new(
        AREA,
        "health-is-told-by-name",
        "Health/Check is SERVING for the node and its services, and NOT_FOUND for other names",
        "docs/protocol/api.md#health",
        |c| Box::pin(health(c)),
    ),
    Case::new(
        AREA,
        "reflection-tells-the-schema",
        "where reflection is on, both of its versions list the services and hold their schema",
        "docs/protocol/api.md#services",
        |c| Box::pin(reflection(c)),
    ),
];

async fn version(c: &JudgedNodes) -> Checked {
    let path = format!("{METADATA_API}/GetVersion");
    let answer: meta::GetVersionResponse =
        c.target.unary(&path, meta::GetVersionRequest {}).await?;
    let core = answer.version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<_> = core.split('.').collect();
    let is_number =
        |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    ensure(parts.len() == 3 && parts.iter().all(is_number), "a semantic version", || {
        answer.version.clone()
    })
}

async fn cursor_stream(c: &JudgedNodes) -> Checked {
    let path = format!("{METADATA_API}/SubscribeSyncCursor");
    let stream = c.target.stream(&path, meta::GetSyncCursorRequest {}).await?;
    let mut cursors =
        Listener::<meta::GetSyncCursorResponse>::new(stream, c.target.answer_timeout());
    cursors.next().await.map_err(|failure| failure.at("the cursor at once"))?;
    let id = id_of(&c.send(&new_group(), 1).await?[0])?;
    loop {
        let update = cursors
            .next()
            .await
            .map_err(|failure| failure.at(format_args!("a cursor that covers {id}")))?;
        let heads = update.latest_sync.unwrap_or_default().node_id_to_sequence_id;
        if heads.get(&id.originator.0).is_some_and(|head| *head >= id.sequence.0) {
            return Ok(());
        }
    }
}

async fn payer_info(c: &JudgedNodes) -> Checked {
    c.send(&new_group(), 2).await?;
    let address = c.payer()?.public_key().address().to_string();
    let path = format!("{METADATA_API}/GetPayerInfo");
    for granularity in [0, 1, 2] {
        let request =
            meta::GetPayerInfoRequest { payer_addresses: vec![address.clone()], granularity };
        let answer: meta::GetPayerInfoResponse = c.target.unary(&path, request).await?;
        let names: Vec<_> = answer.payer_info.keys().cloned().collect();
        same("payers", &vec![address.clone()], &names)?;
        let periods = answer.payer_info.into_values().flat_map(|info| info.period_summaries);
        let periods: Vec<_> =
            periods.map(|period| (period.period_start_unix_seconds, period.num_messages)).collect();
        let count: u64 = periods.iter().map(|(_, count)| *count).fold(0, u64::saturating_add);
        ensure(count >= 2, "two messages at least", || count.to_string())?;
        let len_s = if granularity == 2 { 86_400 } else { 3_600 };
        let aligned = periods.iter().all(|(start, _)| start % len_s == 0);
        let ascends = periods.windows(2).all(|pair| pair[0].0 < pair[1].0);
        ensure(aligned && ascends, format_args!("ascending periods of {len_s} s"), || {
            format!("{periods:?}")
        })?;
    }
    Ok(())
}

async fn unknown_payer(c: &JudgedNodes) -> Checked {
    let path = format!("{METADATA_API}/GetPayerInfo");
    let number: [u8; 20] = rand::random();
    let address = hawser_proto::Address(number).to_string();
    let request = meta::GetPayerInfoRequest { payer_addresses: vec![address], granularity: 0 };
    let answer = c.target.unary::<_, meta::GetPayerInfoResponse>(&path, request).await;
    refused("a payer that does not exist", answer, Code::NotFound, "")?;
    let none = c
        .target
        .unary::<_, meta::GetPayerInfoResponse>(&path, meta::GetPayerInfoRequest::default())
        .await;
    refused("no payer", none, Code::InvalidArgument, "payer_addresses cannot be empty").map(|_| ())
}

/// Request of the health service: field 1 is the name.
fn named(name: &str) -> Bytes {
    let mut bytes = Vec::new();
    prost::encoding::string::encode(1, &name.to_owned(), &mut bytes);
    bytes.into()
}

async fn health(c: &JudgedNodes) -> Checked {
    const SERVING: u32 = 1;
    let path = format!("{HEALTH}/Check");
    let services = [
        "",
        "xmtp.xmtpv4.message_api.QueryApi",
        "xmtp.xmtpv4.message_api.ReplicationApi",
        "xmtp.xmtpv4.message_api.NotificationApi",
        "xmtp.xmtpv4.metadata_api.MetadataApi",
    ];
    for service in services {
        let answer = c
            .target
            .raw(&path, named(service))
            .await
            .map_err(|status| CaseError::from(status).at(format_args!("{service:?}")))?;
        let answer = Number32::decode(answer)
            .map_err(|error| CaseError::new("an answer of the health service", error))?;
        same(&format!("the state of {service:?} is"), &SERVING, &answer.value)?;
    }
    let other = c.target.raw(&path, named("no.such.Service")).await;
    refused("another name", other, Code::NotFound, "").map(|_| ())
}

async fn reflection(c: &JudgedNodes) -> Checked {
    const SERVED: &str = "xmtp.xmtpv4.message_api.ReplicationApi";
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let requests = [
            ReflectionRequest { services: Some(String::new()), ..Default::default() },
            ReflectionRequest { symbol: Some(SERVED.to_owned()), ..Default::default() },
        ];
        let opened = c.target.duplex(&path, tokio_stream::iter(requests)).await;
        let opened = optional("reflection", opened)?;
        let mut answers = Listener::<ReflectionAnswer>::new(opened, c.target.answer_timeout());
        let services = answers.next().await?.services.unwrap_or_default().items;
        // Each is a message whose first field is the name.
        let name = |service: Bytes| List::decode(service).ok()?.items.into_iter().next();
        let names: Vec<Bytes> = services.into_iter().filter_map(name).collect();
        ensure(
            names.iter().any(|name| name == SERVED),
            format_args!("{SERVED} in {version}"),
            || format!("{names:?}"),
        )?;
        let files = answers.next().await?.files.unwrap_or_default().items;
        let is_there = files.iter().any(|file| !file.is_empty());
        ensure(is_there, format_args!("the schema of {SERVED}"), || "none".to_owned())?;
        answers.ends_with(Code::Ok, "").await?;
    }
    Ok(())
}
