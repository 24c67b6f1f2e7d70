//! Places, times, cursors and pages.

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;

use crate::case::Need::{Load, Payer, Second};
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure};
use crate::connection::REPLICATION_API;
use crate::context::{JudgedNodes, id_of, names, parse_envelope, query_with, same_envelopes, seen};
use crate::envelopes::{cursor, new_group};

const AREA: Area = Area::Ordering;
const PUBLISHING: &str = "docs/protocol/api.md#publishing";
const QUERIES: &str = "docs/protocol/api.md#queries";
const TIME: &str = "docs/protocol/rules.md#expiry-and-time";

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "places-of-a-request-are-contiguous",
        "the envelopes of one request get contiguous sequence ids in request order",
        PUBLISHING,
        |c| Box::pin(contiguous(c)),
    )
    .needs(&[Payer]),
    Case::new(AREA, "places-ascend", "a later request gets later sequence ids", PUBLISHING, |c| {
        Box::pin(ascend(c))
    })
    .needs(&[Payer]),
    Case::new(AREA, "times-ascend", "the times of a strand strictly increase", TIME, |c| {
        Box::pin(times(c))
    })
    .needs(&[Payer]),
    Case::new(
        AREA,
        "pages-are-cut-by-limit",
        "pages of a query end at its limit, and following the cursor gives everything once",
        QUERIES,
        |c| Box::pin(pages(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "cursor-is-exclusive",
        "a query returns what follows its cursor, and nothing at it",
        QUERIES,
        |c| Box::pin(exclusive(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "cursor-beyond-the-end-is-empty",
        "a cursor above the last envelope, also the highest number there is, returns nothing",
        QUERIES,
        |c| Box::pin(beyond(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "no-cursor-is-the-beginning",
        "without a cursor, with an empty one and with one of zeros a query begins at the \
         start",
        QUERIES,
        |c| Box::pin(beginnings(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "topics-share-a-cursor",
        "a query by several topics ascends in each originator over all of them, and holds no \
         other topic",
        QUERIES,
        |c| Box::pin(several_topics(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "repeated-topics-count-once",
        "a topic or an originator that a query names twice counts once",
        QUERIES,
        |c| Box::pin(repeated(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "originator-query-ascends",
        "a query by originator returns its strand in order, without a gap",
        QUERIES,
        |c| Box::pin(by_originator(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "cursor-means-the-same-elsewhere",
        "a cursor from one node resumes at another with the same envelopes",
        QUERIES,
        |c| Box::pin(resumes_elsewhere(c)),
    )
    .needs(&[Payer, Second]),
    Case::new(
        AREA,
        "a-page-has-a-thousand-at-most",
        "a limit of 0 and one above 1000 mean 1000",
        QUERIES,
        |c| Box::pin(thousand(c)),
    )
    .needs(&[Payer, Load]),
];

async fn contiguous(c: &JudgedNodes) -> Checked {
    let sent = c.send(&new_group(), 8).await?;
    let ids: Checked<Vec<_>> = sent.iter().map(id_of).collect();
    let is_next = |pair: &[hawser_proto::EnvelopeId]| {
        pair[0].originator == pair[1].originator
            && pair[0].sequence.0.checked_add(1) == Some(pair[1].sequence.0)
    };
    ensure(ids?.windows(2).all(is_next), "contiguous sequence ids", || names(&sent))
}

async fn ascend(c: &JudgedNodes) -> Checked {
    let mut all = Vec::new();
    for _ in 0..5 {
        all.extend(c.send(&new_group(), 2).await?);
    }
    let ids: Checked<Vec<_>> = all.iter().map(|bytes| Ok(id_of(bytes)?.sequence)).collect();
    ensure(ids?.is_sorted_by(|a, b| a < b), "ascending sequence ids", || names(&all))
}

async fn times(c: &JudgedNodes) -> Checked {
    let mut sent = c.send(&new_group(), 5).await?;
    sent.extend(c.send(&new_group(), 5).await?);
    let times: Checked<Vec<_>> =
        sent.iter().map(|bytes| Ok(parse_envelope(bytes)?.unsigned().originator_ns())).collect();
    let times = times?;
    if times.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let failure = CaseError::new("strictly increasing times", format!("{times:?}"));
    let request_has_one_time = |request: &[i64]| request.iter().all(|time| *time == request[0]);
    if times.chunks(5).all(request_has_one_time) && times.iter().all(|time| time % 1000 == 0) {
        return Err(CaseError::known(
            "xmtpd 1.3: a request has one time, in microseconds",
            failure.expected,
            failure.got,
        ));
    }
    Err(failure)
}

async fn pages(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 7).await?;
    let mut read: Vec<Bytes> = Vec::new();
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let page = c.query(&c.target, &[&topic], Some(seen(&read)?), 3).await?;
        sizes.push(page.len());
        read.extend(page);
    }
    same_envelopes("all pages", &sent, &read)?;
    ensure(sizes == [3, 3, 1, 0], "pages of 3, 3, 1 and 0", || format!("{sizes:?}"))
}

async fn exclusive(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 4).await?;
    for after in 0..=sent.len() {
        let page = c.query(&c.target, &[&topic], Some(seen(&sent[..after])?), 0).await?;
        same_envelopes(&format!("after {after}"), &sent[after..], &page)?;
    }
    Ok(())
}

async fn beyond(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let last =
        id_of(c.send(&topic, 2).await?.last().ok_or_else(|| CaseError::skip("nothing was sent"))?)?;
    let cursors = [
        last.sequence.0,
        last.sequence.0.saturating_add(1_000_000),
        i64::MAX.unsigned_abs(),
        u64::MAX,
    ];
    for sequence in cursors {
        let after = Some(cursor([(last.originator.0, sequence)]));
        let page = c.query(&c.target, &[&topic], after, 0).await?;
        if sequence == u64::MAX && page.len() == 2 {
            return Err(CaseError::known(
                "xmtpd 1.3: the highest numbers are below zero",
                "nothing",
                names(&page),
            ));
        }
        same_envelopes(&format!("after {sequence}"), &[], &page)?;
    }
    Ok(())
}

async fn beginnings(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 3).await?;
    for last_seen in [None, Some(cursor([])), Some(cursor([(c.node()?.0, 0), (0, 0), (12_345, 9)]))]
    {
        let page = c.query(&c.target, &[&topic], last_seen.clone(), 0).await?;
        same_envelopes(&format!("{last_seen:?}"), &sent, &page)?;
    }
    Ok(())
}

async fn several_topics(c: &JudgedNodes) -> Checked {
    let topics = [new_group(), new_group(), new_group()];
    let mut sent = Vec::new();
    for number in [0, 1, 2, 1, 0, 2, 0] {
        let answer = c.send(&topics[number], 1).await?;
        if number < 2 {
            sent.extend(answer);
        }
    }
    let page = c.query(&c.target, &[&topics[1], &topics[0]], None, 0).await?;
    same_envelopes("the query", &sent, &page)?;
    let page = c.query(&c.target, &[&topics[0], &topics[1]], Some(seen(&sent[..2])?), 2).await?;
    same_envelopes("its second page", &sent[2..4], &page)
}

async fn repeated(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 2).await?;
    let page = c.query(&c.target, &[&topic, &topic], None, 0).await?;
    if page == [&sent[..1], &sent[..1], &sent[1..], &sent[1..]].concat() {
        return Err(CaseError::known(
            "xmtpd 1.3: repeated topics repeat their rows",
            names(&sent),
            names(&page),
        ));
    }
    same_envelopes("the query", &sent, &page)
}

async fn by_originator(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 5).await?;
    let first = id_of(&sent[0])?;
    let query = api::EnvelopesQuery {
        originator_node_ids: vec![first.originator.0],
        last_seen: Some(cursor([(first.originator.0, first.sequence.0.saturating_sub(1))])),
        ..Default::default()
    };
    let page = query_with(&c.target, REPLICATION_API, query, 5).await?;
    same_envelopes("the query", &sent, &page)
}

async fn resumes_elsewhere(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 6).await?;
    let second = c.second()?;
    c.shows(second, &topic, &sent).await?;
    for after in 0..sent.len() {
        let last_seen = Some(seen(&sent[..after])?);
        let here = c.query(&c.target, &[&topic], last_seen.clone(), 2).await?;
        let there = c.query(second, &[&topic], last_seen, 2).await?;
        let expected = &sent[after..sent.len().min(after + 2)];
        same_envelopes(&format!("the target after {after}"), expected, &here)?;
        same_envelopes(&format!("the second node after {after}"), expected, &there)?;
    }
    Ok(())
}

async fn thousand(c: &JudgedNodes) -> Checked {
    const PAGE: usize = 1000;
    let topic = new_group();
    let sent = c.send(&topic, PAGE + 1).await?;
    for limit in [0, 1001, u32::MAX] {
        let page = c.query(&c.target, &[&topic], None, limit).await?;
        ensure(
            page == sent[..PAGE],
            format_args!("limit {limit}: the first 1000 envelopes"),
            || format!("{} envelopes", page.len()),
        )?;
    }
    Ok(())
}
