//! A gateway: it signs, pays and routes for its users.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_proto::OriginatorId;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as payer;
use tonic::{Code, Status};

use crate::case::Need::Gateway;
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, refused, same};
use crate::connection::{Connection, GATEWAY_API, PAYER_API};
use crate::context::{JudgedNodes, POLL_EVERY, id_of, names, parse_envelope, seen};
use crate::envelopes::{client, frame, group_payload, message, new_group, new_welcomes, welcome};
use crate::http::TargetAddress;
use crate::wire::List;

const AREA: Area = Area::EndToEnd;
/// Time limit of a case that waits for a chain. A guess: a few blocks, and the time until nodes have read them.
const CHAIN_LIMIT: Duration = Duration::from_secs(120);

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "gateway-publishes-for-its-users",
        "what a gateway has acknowledged comes to every node, in request order",
        "docs/gateway.md#services",
        |c| Box::pin(publishes(c)),
    )
    .needs(&[Gateway]),
    Case::new(
        AREA,
        "gateway-lists-nodes",
        "GetNodes names nodes with URLs, under both names of the service",
        "docs/gateway.md#services",
        |c| Box::pin(lists(c)),
    )
    .needs(&[Gateway]),
    Case::new(
        AREA,
        "gateway-refuses-what-no-node-takes",
        "a gateway refuses an envelope that breaks a rule with INVALID_ARGUMENT, and nothing \
         of its request is stored",
        "docs/gateway.md#services",
        |c| Box::pin(refuses(c)),
    )
    .needs(&[Gateway]),
    Case::new(
        AREA,
        "gateway-has-a-chain-order-commits",
        "a commit gets its place from the chain, messages of the same request theirs from a node, \
         and what depends on the commit comes after it at every reader",
        "docs/gateway.md#services",
        |c| Box::pin(orders_commits(c)),
    )
    .needs(&[Gateway])
    .limit(CHAIN_LIMIT),
];

/// Request of both services: the layout of a list.
fn request(envelopes: &[Bytes]) -> List {
    List { items: envelopes.to_vec() }
}

async fn publishes(c: &JudgedNodes) -> Checked {
    let (group, welcomes) = (new_group(), new_welcomes());
    let mut stored = Vec::new();
    for service in [PAYER_API, GATEWAY_API] {
        let sent = [message(&group), welcome(&welcomes), message(&group)];
        let answer: List = c
            .gateway()?
            .unary(&format!("{service}/PublishClientEnvelopes"), request(&sent))
            .await
            .map_err(|status| CaseError::from(status).at(service))?;
        ensure(answer.items.len() == 3, "three envelopes", || answer.items.len().to_string())?;
        for (sent, answered) in sent.iter().zip(&answer.items) {
            let answered = parse_envelope(answered)?;
            ensure(
                answered.unsigned().payer().client().as_bytes() == sent,
                "the client bytes as sent, in request order",
                || "others".into(),
            )?;
        }
        stored.extend([answer.items[0].clone(), answer.items[2].clone()]);
        // The gateway chooses the node that sequences; the other nodes show the envelope after replication.
        c.shows(&c.target, &group, &stored).await?;
    }
    Ok(())
}

async fn lists(c: &JudgedNodes) -> Checked {
    for service in [PAYER_API, GATEWAY_API] {
        let path = format!("{service}/GetNodes");
        let answer: payer::GetNodesResponse = c
            .gateway()?
            .unary(&path, payer::GetNodesRequest {})
            .await
            .map_err(|status| CaseError::from(status).at(service))?;
        ensure(!answer.nodes.is_empty(), "a node at least", || "none".into())?;
        for (id, url) in &answer.nodes {
            let can_be_called = url.contains("://") && TargetAddress::parse(url).is_some();
            ensure(can_be_called, format_args!("a URL of node {id}"), || url.clone())?;
        }
    }
    Ok(())
}

async fn refuses(c: &JudgedNodes) -> Checked {
    let group = new_group();
    let mut cut = frame(&group[1..], 1, 40);
    cut.pop();
    let broken = [
        ("a message that is cut off", client(&group, None, Some(group_payload(cut)))),
        (
            "a message for welcomes",
            client(&new_welcomes(), None, Some(group_payload(frame(&group[1..], 1, 40)))),
        ),
        ("no payload", client(&group, None, None)),
    ];
    for (what, envelope) in broken {
        let path = format!("{PAYER_API}/PublishClientEnvelopes");
        let answer =
            c.gateway()?.unary::<_, List>(&path, request(&[message(&group), envelope])).await;
        refused(what, answer, Code::InvalidArgument, "")?;
    }
    // The gateway sends a topic's later messages to the same node, so no envelope may come before it.
    let path = format!("{PAYER_API}/PublishClientEnvelopes");
    let later: List = c.gateway()?.unary(&path, request(&[message(&group)])).await?;
    c.shows(&c.target, &group, &later.items).await
}

async fn publish(c: &JudgedNodes, envelopes: &[Bytes]) -> Result<Vec<Bytes>, CaseError> {
    let path = format!("{PAYER_API}/PublishClientEnvelopes");
    let answer: Result<List, Status> = c.gateway()?.unary(&path, request(envelopes)).await;
    match answer {
        Ok(answer) => {
            same("envelopes in the answer", &envelopes.len(), &answer.items.len())?;
            Ok(answer.items)
        }
        Err(status) if String::from_utf8_lossy(status.details()).contains("NO_CHAIN") => {
            Err(CaseError::skip("the gateway has no chain"))
        }
        Err(status) => Err(status.into()),
    }
}

async fn orders_commits(c: &JudgedNodes) -> Checked {
    let group = new_group();
    let commit = client(&group, None, Some(group_payload(frame(&group[1..], 3, 40))));
    let mut sent = publish(c, &[message(&group), commit.clone()]).await?;
    let ordered = parse_envelope(&sent[1])?;
    same("originator of the commit", &OriginatorId::GROUP_MESSAGES, &ordered.id().originator)?;
    let is_proved = ordered.recover_originator().is_ok_and(|key| key.is_none());
    ensure(is_proved, "a chain's proof of the commit", || "a signature".to_owned())?;
    let bytes = ordered.unsigned().payer().client().as_bytes();
    ensure(*bytes == commit, "the client bytes of the commit", || "others".to_owned())?;
    ensure(id_of(&sent[0])?.originator.is_node(), "the message from a node", || names(&sent))?;

    let payload = group_payload(frame(&group[1..], 1, 40));
    let later = client(&group, Some(seen(&sent[1..])?), Some(payload));
    sent.extend(publish(c, &[later]).await?);
    for node in [Some(&c.target), c.second.as_ref()].into_iter().flatten() {
        shows_in_order(c, node, &group, &sent).await?;
    }
    Ok(())
}

/// Waits until a node shows three envelopes of a topic: the third comes after the second.
async fn shows_in_order(
    c: &JudgedNodes,
    node: &Connection,
    topic: &Bytes,
    expected: &[Bytes],
) -> Checked {
    let deadline = Instant::now() + node.answer_timeout();
    // Compared by id: other software gives a chain's envelope its own time, so the bytes differ.
    let ids =
        expected.iter().map(|it| Ok(parse_envelope(it)?.id())).collect::<Checked<Vec<_>>>()?;
    loop {
        let shown = c.query(node, &[topic], None, 0).await?;
        let place = |of: usize| {
            shown.iter().position(|it| parse_envelope(it).is_ok_and(|it| it.id() == ids[of]))
        };
        if shown.len() == 3 && place(0).is_some() && place(1).is_some() && place(1) < place(2) {
            return Ok(());
        }
        if shown.len() >= 3 || Instant::now() >= deadline {
            let text = format!("{}, the last one after the commit", names(expected));
            return Err(CaseError::new(text, names(&shown)));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
