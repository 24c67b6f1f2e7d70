//! `hawser-oldest`: metadata that tells what has expired from what never was.

use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use tonic::Request;
use tonic::metadata::MetadataMap;

use crate::case::{Area, Case};
use crate::connection::REPLICATION_API;
use crate::context::{Context, heads, id_of};
use crate::envelopes::cursor;
use crate::failure::{Checked, Failure, ensure, same};
use crate::wire::{Framed, List};

/// Strands that are looked at. A guess: more than a network has nodes and chains.
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
fn told(metadata: &MetadataMap, originator: u32) -> Checked<Option<u64>> {
    let Some(value) = metadata.get("hawser-oldest") else { return Ok(None) };
    let wrong = || Failure::new("ORIGINATOR=SEQUENCE,… in hawser-oldest", format!("{value:?}"));
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

/// Reads the first place of a strand behind `after`, and what the metadata names for it.
async fn first_after(
    c: &Context,
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
    let answer = c.target.answered::<_, List>(&path, request).await?;
    let oldest = told(answer.metadata(), originator)?;
    let first = answer.get_ref().items.first().map(id_of).transpose()?;
    Ok((first.map(|id| id.sequence.0), oldest))
}

async fn oldest(c: &Context) -> Checked {
    let heads = heads(&c.target).await?.node_id_to_sequence_id;
    let strands = heads.into_iter().filter(|(id, _)| *id >= FIRST_NODE).take(STRANDS_MAX);
    let mut others = None;
    for (originator, head) in strands {
        let (first, oldest) = first_after(c, originator, 0).await?;
        let stream = streamed(c, originator).await?;
        let at = |failure: Failure| failure.at(format_args!("strand {originator}"));
        match oldest {
            Some(oldest) => names_it(c, originator, oldest).await.map_err(at)?,
            // The reference node deletes and tells nothing. So does a gap that was declared, which is no expiry.
            None if first.is_some_and(|first| first > 1) => others = Some((originator, first)),
            None => {}
        }
        // More may have expired between the two calls.
        ensure(stream >= oldest, format_args!("a stream told as the query, {oldest:?}"), || {
            format!("{stream:?}")
        })
        .map_err(at)?;
        let (_, at_the_end) = first_after(c, originator, head).await?;
        same("at the end of the strand nothing is named", &None, &at_the_end).map_err(at)?;
    }
    match others {
        None => Ok(()),
        Some((originator, first)) => Err(Failure::known(
            "xmtpd 1.3: it does not tell what has expired",
            format_args!("hawser-oldest about strand {originator}"),
            format!("none, and {first:?} as its first place"),
        )),
    }
}

/// Checks the place behind the last one that has expired: nothing is left right below it, and something is there from it
/// on, unless the strand ends before.
async fn names_it(c: &Context, originator: u32, oldest: u64) -> Checked {
    ensure(oldest > 1, "a place behind an expired one", || oldest.to_string())?;
    let head = heads(&c.target).await?.node_id_to_sequence_id.get(&originator).copied();
    let (first, _) = first_after(c, originator, oldest - 2).await?;
    let holds = match first {
        Some(first) => first >= oldest,
        None => head.unwrap_or(0) < oldest,
    };
    let expected = format_args!("nothing at {} and envelopes from {oldest} on", oldest - 1);
    ensure(holds, expected, || format!("{first:?} as the next place"))
}

async fn streamed(c: &Context, originator: u32) -> Checked<Option<u64>> {
    let filter = api::subscribe_originators_request::OriginatorFilter {
        originator_node_ids: vec![originator],
        last_seen: Some(cursor([(originator, 0)])),
    };
    let request = api::SubscribeOriginatorsRequest { filter: Some(filter) };
    let path = format!("{REPLICATION_API}/SubscribeOriginators");
    let opened = c.target.opened::<_, Framed>(&path, Request::new(request)).await?;
    told(opened.metadata(), originator)
}
