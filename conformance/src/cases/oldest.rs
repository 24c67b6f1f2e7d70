//! `hawser-oldest`: metadata that distinguishes expired envelopes from places that never held one.

use hawser_proto::merkle::{LeafData, TreeHash, leaf_hash};
use hawser_proto::pb::hawser::checkpoint_api::{GetInclusionRequest, GetInclusionResponse};
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request};

use crate::case::{Area, Case};
use crate::case_error::{CaseError, CaseErrorKind, Checked, ensure, same};
use crate::connection::{CHECKPOINT_API, REPLICATION_API};
use crate::context::{JudgedNodes, heads, id_of};
use crate::envelopes::cursor;
use crate::wire::{Framed, List};

/// The maximum number of strands that are checked. A guess: more than a network has nodes and chains.
const STRANDS_MAX: usize = 100;
/// The first originator id of nodes: below it are chains, whose strands never expire (docs/protocol/wire.md).
const FIRST_NODE: u32 = 100;

pub(super) const CASES: &[Case] = &[Case::new(
    Area::Ordering,
    "oldest-names-what-has-expired",
    "hawser-oldest names the strands that begin with expired places, and the place behind the \
     last of them",
    "docs/protocol/api.md#what-has-expired",
    |c| Box::pin(oldest(c)),
)];

/// Reads the place that the metadata names for a strand.
fn named_place(metadata: &MetadataMap, originator: u32) -> Checked<Option<u64>> {
    let Some(value) = metadata.get("hawser-oldest") else { return Ok(None) };
    let wrong = || CaseError::new("ORIGINATOR=SEQUENCE,… in hawser-oldest", format!("{value:?}"));
    let mut found = None;
    for entry in value.to_str().map_err(|_| wrong())?.split(',') {
        let (named, place) = entry.split_once('=').ok_or_else(wrong)?;
        let named: u32 = named.parse().map_err(|_| wrong())?;
        let place: u64 = place.parse().map_err(|_| wrong())?;
        if named == originator {
            found = Some(place);
        }
    }
    Ok(found)
}

/// Reads the first place of a strand after `after`, and the place that the metadata names for the strand.
async fn first_after(
    c: &JudgedNodes,
    originator: u32,
    after: u64,
) -> Checked<(Option<u64>, Option<u64>)> {
    let query = api::EnvelopesQuery {
        originator_node_ids: vec![originator],
        last_seen: Some(cursor([(originator, after)])),
        ..Default::default()
    };
    let request = api::QueryEnvelopesRequest { query: Some(query), limit: 1 };
    let path = format!("{REPLICATION_API}/QueryEnvelopes");
    let answer = c.target.unary_response::<_, List>(&path, request).await?;
    let oldest = named_place(answer.metadata(), originator)?;
    let first = answer.get_ref().items.first().map(id_of).transpose()?;
    Ok((first.map(|id| id.sequence.0), oldest))
}

async fn oldest(c: &JudgedNodes) -> Checked {
    let heads = heads(&c.target).await?.node_id_to_sequence_id;
    let strands = heads.into_iter().filter(|(id, _)| *id >= FIRST_NODE).take(STRANDS_MAX);
    let mut others = Ok(());
    let mut is_named = false;
    for (originator, head) in strands {
        let (first, oldest) = first_after(c, originator, 0).await?;
        let stream = streamed(c, originator).await?;
        let at = |failure: CaseError| failure.at(format_args!("strand {originator}"));
        is_named |= oldest.is_some();
        // A strand without envelopes begins after its head.
        let begins = first.unwrap_or(head.saturating_add(1));
        match oldest {
            Some(oldest) => names_it(c, originator, oldest).await.map_err(at)?,
            None if begins > 1 => match silent(c, originator, begins).await {
                // A known defect of other software is reported only if no strand breaks a rule.
                Err(failure) if failure.kind != CaseErrorKind::Broken => others = Err(failure),
                judged => judged.map_err(at)?,
            },
            None => {}
        }
        // More envelopes may have expired between the two calls.
        ensure(
            stream >= oldest,
            format_args!("a stream with the metadata of the query, {oldest:?}"),
            || format!("{stream:?}"),
        )
        .map_err(at)?;
        let (_, at_the_end) = first_after(c, originator, head).await?;
        same("at the end of the strand nothing is named", &None, &at_the_end).map_err(at)?;
    }
    others?;
    if is_named { Ok(()) } else { offered(c).await }
}

/// Skips the case at a node that has named nothing and does not offer Hawser's other extensions either: its silence
/// says nothing about the metadata.
async fn offered(c: &JudgedNodes) -> Checked {
    let path = format!("{CHECKPOINT_API}/GetInclusion");
    let request = GetInclusionRequest { originator_id: 0, sequence_id: 0, size: None };
    match c.target.unary::<_, GetInclusionResponse>(&path, request).await {
        Err(status) if status.code() == Code::Unimplemented => {
            Err(CaseError::skip("nothing has expired, and the node offers no extensions of Hawser"))
        }
        _ => Ok(()),
    }
}

/// Judges a strand without a place in the metadata, that begins at `first`, or ends before it and has no envelopes. Its
/// beginning may have been declared void, which is no expiry. The leaf of the place in the node's tree distinguishes
/// the two.
async fn silent(c: &JudgedNodes, originator_id: u32, first: u64) -> Checked {
    let path = format!("{CHECKPOINT_API}/GetInclusion");
    let request = GetInclusionRequest { originator_id, sequence_id: first - 1, size: None };
    let expected = format!("hawser-oldest about strand {originator_id}");
    match c.target.unary::<_, GetInclusionResponse>(&path, request).await {
        Ok(answer) if TreeHash::from_slice(&answer.leaf) == Some(leaf_hash(LeafData::Void)) => {
            Ok(())
        }
        Ok(_) => Err(CaseError::new(
            expected,
            format_args!("none, {first} as its first place, and an envelope's leaf before it"),
        )),
        // The reference node deletes expired envelopes and has no metadata about it.
        Err(status) if status.code() == Code::Unimplemented => Err(CaseError::known(
            "xmtpd 1.3: it does not tell what has expired",
            expected,
            format_args!("none, and {first} as its first place"),
        )),
        Err(status) if status.code() == Code::NotFound => Err(CaseError::skip(format_args!(
            "strand {originator_id} has no checkpoint that says why it begins at {first}"
        ))),
        Err(status) => Err(status.into()),
    }
}

/// Checks the place after the last expired one: the place below it has no envelope, an envelope follows from it on
/// unless the strand ends before, and a reader whose cursor is past all expired places gets no such metadata.
async fn names_it(c: &JudgedNodes, originator: u32, oldest: u64) -> Checked {
    ensure(oldest > 1, "a place behind an expired one", || oldest.to_string())?;
    let head = heads(&c.target).await?.node_id_to_sequence_id.get(&originator).copied();
    let (first, _) = first_after(c, originator, oldest - 2).await?;
    let holds = match first {
        Some(first) => first >= oldest,
        None => head.unwrap_or(0) < oldest,
    };
    let expected = format_args!("nothing at {} and envelopes from {oldest} on", oldest - 1);
    ensure(holds, expected, || format!("{first:?} as the next place"))?;
    let (_, behind) = first_after(c, originator, oldest - 1).await?;
    // More envelopes may have expired since.
    let holds = behind.is_none_or(|behind| behind > oldest);
    ensure(holds, format_args!("nothing named behind {}", oldest - 1), || format!("{behind:?}"))
}

async fn streamed(c: &JudgedNodes, originator: u32) -> Checked<Option<u64>> {
    let filter = api::subscribe_originators_request::OriginatorFilter {
        originator_node_ids: vec![originator],
        last_seen: Some(cursor([(originator, 0)])),
    };
    let request = api::SubscribeOriginatorsRequest { filter: Some(filter) };
    let path = format!("{REPLICATION_API}/SubscribeOriginators");
    let opened = c.target.stream_response::<_, Framed>(&path, Request::new(request)).await?;
    named_place(opened.metadata(), originator)
}
