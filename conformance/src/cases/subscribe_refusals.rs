//! `Subscribe` (XIP-83): the checks of a Mutate. Each failure ends the stream.

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use tonic::Code;

use crate::case::Need::Load;
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked};
use crate::context::JudgedNodes;
use crate::duplex::{DuplexStream, Mutate, add, adds};
use crate::envelopes::{cursor, new_group};

const AREA: Area = Area::Errors;
const SUBSCRIBE: &str = "docs/protocol/api.md#subscribe";

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "subscribe-no-version",
        "a request without a known version ends Subscribe with INVALID_ARGUMENT",
        SUBSCRIBE,
        |c| Box::pin(no_version(c)),
    ),
    Case::new(AREA, "mutate-without-id", "check 1: adds need a mutate_id", SUBSCRIBE, |c| {
        Box::pin(refused(c, adds(0, &[&new_group()]), Code::InvalidArgument, ""))
    }),
    Case::new(
        AREA,
        "mutate-too-many-adds",
        "check 3: at most 100,000 adds in a Mutate",
        SUBSCRIBE,
        |c| Box::pin(too_many_adds(c)),
    ),
    Case::new(
        AREA,
        "mutate-too-many-cursors",
        "check 4: at most 1,000,000 cursor entries in a Mutate",
        SUBSCRIBE,
        |c| Box::pin(too_many_cursors(c)),
    )
    .needs(&[Load]),
    Case::new(AREA, "mutate-bad-remove", "check 5: a remove is a topic", SUBSCRIBE, |c| {
        Box::pin(bad_removes(c))
    }),
    Case::new(AREA, "mutate-bad-add", "check 6: an add is a topic", SUBSCRIBE, |c| {
        Box::pin(bad_adds(c))
    }),
    Case::new(
        AREA,
        "mutate-bad-cursor",
        "check 6: originators of a cursor are below 2^31, sequence ids below 2^63",
        SUBSCRIBE,
        |c| Box::pin(bad_cursors(c)),
    ),
    Case::new(
        AREA,
        "mutate-history-of-a-live-topic",
        "check 6: no history_only add of a topic that is there already",
        SUBSCRIBE,
        |c| Box::pin(history_of_live(c)),
    ),
    Case::new(
        AREA,
        "mutate-is-atomic",
        "nothing of a Mutate is applied if a check fails",
        SUBSCRIBE,
        |c| Box::pin(atomic(c)),
    ),
];

/// Checks that a Mutate ends a new stream with this code and text.
async fn refused(c: &JudgedNodes, mutate: Mutate, code: Code, text: &str) -> Checked {
    let mut duplex = DuplexStream::open(&c.target).await?;
    duplex.mutate(mutate).await;
    duplex.ends_with(code, text).await
}

async fn no_version(c: &JudgedNodes) -> Checked {
    let mut duplex = DuplexStream::open(&c.target).await?;
    duplex.send(api::SubscribeRequest { version: None }).await;
    duplex.ends_with(Code::InvalidArgument, "unrecognized SubscribeRequest version").await
}

async fn too_many_adds(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let mutate =
        Mutate { adds: vec![add(&topic, None); 100_001], mutate_id: 1, ..Mutate::default() };
    // The reference node replaces the text by the name of the code, so only the code is compared.
    refused(c, mutate, Code::ResourceExhausted, "").await
}

async fn too_many_cursors(c: &JudgedNodes) -> Checked {
    let entries = || Some(cursor((0..100).map(|originator| (originator, 1))));
    let topic = new_group();
    let adds: Vec<_> = (0..10_001).map(|_| add(&topic, entries())).collect();
    refused(c, Mutate { adds, mutate_id: 1, ..Mutate::default() }, Code::ResourceExhausted, "")
        .await
}

/// Malformed topics: too short, or of an unknown kind.
const NO_TOPICS: [&[u8]; 3] = [b"", b"\0", b"\x09\x01"];

async fn bad_removes(c: &JudgedNodes) -> Checked {
    for topic in NO_TOPICS {
        let mutate =
            Mutate { removes: vec![Bytes::from_static(topic)], mutate_id: 1, ..Mutate::default() };
        refused(c, mutate, Code::InvalidArgument, "remove:").await?;
    }
    Ok(())
}

async fn bad_adds(c: &JudgedNodes) -> Checked {
    for topic in NO_TOPICS {
        refused(c, adds(1, &[&Bytes::from_static(topic)]), Code::InvalidArgument, "add:").await?;
    }
    Ok(())
}

async fn bad_cursors(c: &JudgedNodes) -> Checked {
    for entry in [(1 << 31, 1), (100, 1 << 63)] {
        let adds = vec![add(&new_group(), Some(cursor([entry])))];
        refused(c, Mutate { adds, mutate_id: 1, ..Mutate::default() }, Code::InvalidArgument, "")
            .await?;
    }
    Ok(())
}

async fn history_of_live(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let mut duplex = DuplexStream::open(&c.target).await?;
    duplex.mutate(adds(1, &[&topic])).await;
    duplex.wave(1).await?;
    duplex.mutate(Mutate { history_only: true, ..adds(2, &[&topic]) }).await;
    duplex.ends_with(Code::InvalidArgument, "").await
}

async fn atomic(c: &JudgedNodes) -> Checked {
    let mut duplex = DuplexStream::open(&c.target).await?;
    let bad = add(&Bytes::from_static(b"\x09\x01"), None);
    let adds = vec![add(&new_group(), None), bad];
    duplex.mutate(Mutate { adds, mutate_id: 1, ..Mutate::default() }).await;
    match duplex.receive_or_end().await? {
        Err(status) if status.code() == Code::InvalidArgument => Ok(()),
        other => {
            Err(CaseError::new("INVALID_ARGUMENT and no frame of the wave", format!("{other:?}")))
        }
    }
}
