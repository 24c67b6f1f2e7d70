//! A gateway: it signs, pays and routes for its users.

use hawser_proto::pb::xmtp::xmtpv4::payer_api as payer;
use tonic::Code;

use crate::case::Need::Gateway;
use crate::case::{Area, Case};
use crate::connection::{GATEWAY_API, PAYER_API};
use crate::context::{Context, opened};
use crate::envelopes::{client, frame, group_payload, message, new_group, new_welcomes, welcome};
use crate::failure::{Checked, Failure, ensure, refused};
use crate::http::Address;
use crate::wire::List;

const AREA: Area = Area::EndToEnd;

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
];

/// Request of both services: the layout of a list.
fn request(envelopes: &[bytes::Bytes]) -> List {
    List { items: envelopes.to_vec() }
}

async fn publishes(c: &Context) -> Checked {
    let (group, welcomes) = (new_group(), new_welcomes());
    let mut stored = Vec::new();
    for service in [PAYER_API, GATEWAY_API] {
        let sent = [message(&group), welcome(&welcomes), message(&group)];
        let answer: List = c
            .gateway()?
            .unary(&format!("{service}/PublishClientEnvelopes"), request(&sent))
            .await
            .map_err(|status| Failure::from(status).at(service))?;
        ensure(answer.items.len() == 3, "three envelopes", || answer.items.len().to_string())?;
        for (sent, answered) in sent.iter().zip(&answer.items) {
            let answered = opened(answered)?;
            ensure(
                answered.unsigned().payer().client().as_bytes() == sent,
                "the client bytes as sent, in request order",
                || "others".into(),
            )?;
        }
        stored.extend([answer.items[0].clone(), answer.items[2].clone()]);
        // The gateway chooses the node; the others show it soon after.
        c.shows(&c.target, &group, &stored).await?;
    }
    Ok(())
}

async fn lists(c: &Context) -> Checked {
    for service in [PAYER_API, GATEWAY_API] {
        let path = format!("{service}/GetNodes");
        let answer: payer::GetNodesResponse = c
            .gateway()?
            .unary(&path, payer::GetNodesRequest {})
            .await
            .map_err(|status| Failure::from(status).at(service))?;
        ensure(!answer.nodes.is_empty(), "a node at least", || "none".into())?;
        for (id, url) in &answer.nodes {
            let can_be_called = url.contains("://") && Address::parse(url).is_some();
            ensure(can_be_called, format_args!("a URL of node {id}"), || url.clone())?;
        }
    }
    Ok(())
}

async fn refuses(c: &Context) -> Checked {
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
    // What follows in the topic comes from the same node: nothing may stand before it.
    let path = format!("{PAYER_API}/PublishClientEnvelopes");
    let later: List = c.gateway()?.unary(&path, request(&[message(&group)])).await?;
    c.shows(&c.target, &group, &later.items).await
}
