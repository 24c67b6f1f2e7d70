//! One request: who asks, what goes where, and what is said in the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::{join, try_join_all};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::payer_api::{GetNodesResponse, PublishClientEnvelopesResponse};
use hawser_proto::{Bytes, OriginatorId};
use hawser_rules::RateTable;
use hawser_serve::MESSAGE_LEN_BYTES_MAX;
use http::HeaderMap;
use prost::Message as _;
use tokio::sync::watch;
use tonic::Status;

use crate::chain::{ChainItem, ChainPath};
use crate::identity::{self, IdentityCheck, InvalidUpdate, PlacedUpdate, UpdateItem, VouchError};
use crate::metrics::Numbers;
use crate::nodes::{Nodes, PlacedEnvelope};
use crate::policy::{CallerCost, CallerId, Policies, PolicyError};
use crate::publish::{PublishItem, Publisher};
use crate::routing::{ChainTopic, Route, Routed, route};
use crate::status::{self, Failure, Outcome};

/// What an answer holds of an envelope beside the client's bytes, with room to spare.
const ANSWER_OVERHEAD_BYTES: usize = 512;

/// Everything that a request needs.
pub(crate) struct Service {
    pub(crate) policies: Arc<Policies>,
    pub(crate) nodes: Nodes,
    pub(crate) publisher: Publisher,
    pub(crate) chain: ChainPath,
    pub(crate) identity: Option<Arc<dyn IdentityCheck>>,
    pub(crate) rates: watch::Receiver<Arc<RateTable>>,
    pub(crate) retention_days: u32,
    pub(crate) chain_payload_bytes_max: usize,
    pub(crate) numbers: Arc<Numbers>,
}

impl Service {
    /// The nodes that clients should use.
    pub(crate) fn nodes(&self) -> GetNodesResponse {
        let usable = self.nodes.usable();
        let count = i64::try_from(usable.len()).unwrap_or(i64::MAX);
        self.numbers.available_nodes.set(count);
        let address =
            |node: &Arc<crate::nodes::Node>| (node.record.id.0, node.record.http_address.clone());
        GetNodesResponse { nodes: usable.iter().map(address).collect() }
    }

    /// Publishes client envelopes, and returns when each of them can be read.
    pub(crate) async fn publish(
        &self,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
        envelopes: Vec<Bytes>,
    ) -> Result<PublishClientEnvelopesResponse, Status> {
        let now_ms = u64::try_from(crate::now_ns() / 1_000_000).unwrap_or(0);
        let caller = self.policies.caller(headers, peer, now_ms / 1000);
        let caller = caller.map_err(|refusal| self.refused(&refusal))?;
        let routed = route(envelopes, self.chain_payload_bytes_max).map_err(|error| {
            self.numbers.invalid.inc();
            Status::invalid_argument(error.to_string())
        })?;
        fits_into_an_answer(&routed)?;
        let rates = self.rates.borrow().clone();
        let fee = |envelope: &Routed| self.fee(envelope, &rates);
        let admitted = self.policies.admit(&caller, &routed, fee, now_ms);
        admitted.map_err(|refusal| self.refused(&refusal))?;
        let price_max = self.policies.price_max(&caller);
        // The rest of what the caller pays may go to nodes for being busy.
        let congestion_fee_max =
            |envelope: &Routed| price_max.map(|max| max.saturating_sub(fee(envelope)));
        let fees: Vec<u64> = routed.iter().map(fee).collect();
        let for_nodes = || routed.iter().filter(|envelope| envelope.route == Route::Node);
        let allowed = if for_nodes()
            .any(|envelope| self.nodes.all_are_expensive(congestion_fee_max(envelope)))
        {
            Err(self.refused(&PolicyError::AllNodesExpensive))
        } else {
            self.judge_identities(&routed).await
        };
        if let Err(refused) = allowed {
            self.policies.give_back(&caller, cost_of(fees), now_ms);
            return Err(refused);
        }
        let is_repeat = |it: &Routed| it.route != Route::Node && self.chain.knows(&it.bytes);
        let repeats: Vec<bool> = routed.iter().map(is_repeat).collect();
        let outcomes = self.carry(routed, congestion_fee_max).await;
        let is_unused = |index: &usize| repeats[*index] || was_not_published(&outcomes[*index]);
        let unused = cost_of((0..fees.len()).filter(is_unused).map(|index| fees[index]));
        self.policies.give_back(&caller, unused, now_ms);
        let taken = cost_of(fees).picodollars.saturating_sub(unused.picodollars);
        self.account(&caller, &outcomes, taken);
        status::answer(outcomes).inspect_err(|failed| {
            if failed.metadata().contains_key(status::PUBLISHED) {
                self.numbers.partial.inc();
            }
        })
    }

    /// Both ways at once; one outcome for each envelope, in the order of the request.
    async fn carry(
        &self,
        routed: Vec<Routed>,
        congestion_fee_max: impl Fn(&Routed) -> Option<u64>,
    ) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = routed.iter().map(|_| Err(Failure::Lost)).collect();
        let (mut for_nodes, mut for_chain) = (Vec::new(), Vec::new());
        for (index, envelope) in routed.into_iter().enumerate() {
            let congestion_fee_max = congestion_fee_max(&envelope);
            let Routed { bytes, topic, route, identity_update, .. } = envelope;
            match route {
                Route::Node => {
                    for_nodes.push(PublishItem { index, topic, client: bytes, congestion_fee_max });
                }
                Route::Chain(topic) => {
                    for_chain.push(ChainItem { index, topic, payload: bytes, identity_update });
                }
            }
        }
        let (by_nodes, by_chain) =
            join(self.publisher.publish(for_nodes), self.chain.publish(for_chain)).await;
        for (index, placed) in by_nodes {
            outcomes[index] = placed.map_err(Failure::Node);
        }
        for (index, shown) in by_chain {
            outcomes[index] = shown.map(placed_by_chain).map_err(Failure::Chain);
        }
        outcomes
    }

    /// What an envelope costs at a node that is not busy; nothing on the chain, where it is paid in
    /// gas.
    fn fee(&self, envelope: &Routed, rates: &RateTable) -> u64 {
        if envelope.route != Route::Node {
            return 0;
        }
        let size = payer_envelope_len(&envelope.bytes, self.retention_days);
        let rate = rates.at(crate::now_ns());
        let fee = rate.and_then(|rate| rate.base_fee(size as u64, self.retention_days));
        fee.unwrap_or(0) // nodes cannot price it either, and say so
    }

    async fn judge_identities(&self, routed: &[Routed]) -> Result<(), Status> {
        let Some(check) = &self.identity else { return Ok(()) };
        // Those of one inbox are judged one after the other, as nodes will.
        let mut inboxes: BTreeMap<[u8; 32], Vec<UpdateItem>> = BTreeMap::new();
        for (index, envelope) in routed.iter().enumerate() {
            let Route::Chain(ChainTopic::Inbox(inbox)) = envelope.route else { continue };
            let Some(update) = &envelope.identity_update else { continue };
            let client = envelope.bytes.clone();
            let is_known = self.chain.knows(&client);
            let update = UpdateItem { index, client, update: (**update).clone(), is_known };
            inboxes.entry(inbox).or_default().push(update);
        }
        let judged = inboxes
            .into_iter()
            .filter(|(_, updates)| updates.iter().any(|update| !update.is_known))
            .map(|(inbox, updates)| identity::judge(check, &self.nodes, inbox, updates));
        let judged = try_join_all(judged).await;
        let judged = judged
            .map_err(|InvalidUpdate { index, reason }| self.invalid_update(index, &reason))?;
        for PlacedUpdate { client, envelope } in judged.into_iter().flatten() {
            self.chain.record_found(&client, envelope);
        }
        let is_new = |envelope: &Routed| !self.chain.knows(&envelope.bytes);
        let new = routed.iter().enumerate().filter_map(|(index, envelope)| {
            let update = envelope.identity_update.as_deref()?;
            is_new(envelope).then_some((index, update))
        });
        identity::ask_wallets(&**check, new).await.map_err(|(index, fault)| match fault {
            VouchError::Refused(reason) => self.invalid_update(index, &reason),
            VouchError::Unavailable(reason) => {
                Status::unavailable(format!("envelope {index}: {reason}"))
            }
        })
    }

    fn invalid_update(&self, index: usize, reason: &str) -> Status {
        self.numbers.invalid.inc();
        Status::invalid_argument(format!("envelope {index}: invalid identity update: {reason}"))
    }

    /// Takes what nodes have charged beyond what was taken from the caller's budget, and remembers
    /// what each charges for being busy.
    fn account(&self, caller: &CallerId, outcomes: &[Outcome], taken: u64) {
        let placed = || outcomes.iter().flatten();
        let charged: u64 = placed().map(|placed| placed.fee_picodollars).sum();
        if charged > taken {
            self.policies.add_cost(caller, charged - taken);
        }
        for placed in placed() {
            if let Some(node) = self.nodes.get(placed.node) {
                node.record_congestion_fee(placed.congestion_fee_picodollars);
            }
        }
    }

    fn refused(&self, refusal: &PolicyError) -> Status {
        self.numbers.refused(refusal);
        status::of_policy(refusal)
    }
}

/// What envelopes take that cost so much at nodes.
fn cost_of(fees: impl IntoIterator<Item = u64>) -> CallerCost {
    fees.into_iter().fold(CallerCost::default(), |cost, fee| CallerCost {
        envelopes: cost.envelopes + 1,
        picodollars: cost.picodollars.saturating_add(fee),
    })
}

fn was_not_published(outcome: &Outcome) -> bool {
    outcome.as_ref().is_err_and(|failure| !failure.may_be_published())
}

fn placed_by_chain(envelope: OriginatorEnvelope) -> PlacedEnvelope {
    PlacedEnvelope {
        envelope,
        node: OriginatorId::GROUP_MESSAGES,
        fee_picodollars: 0,
        congestion_fee_picodollars: 0,
    }
}

/// An answer that could not be sent must not be published first.
fn fits_into_an_answer(routed: &[Routed]) -> Result<(), Status> {
    let answer: usize =
        routed.iter().map(|envelope| envelope.bytes.len() + ANSWER_OVERHEAD_BYTES).sum();
    if answer <= MESSAGE_LEN_BYTES_MAX {
        return Ok(());
    }
    Err(Status::resource_exhausted(format!(
        "the answer would exceed {MESSAGE_LEN_BYTES_MAX} bytes: publish less at once"
    )))
}

/// How long the payer envelope becomes, which is what is paid for. Ids of nodes take one or two
/// bytes; two are assumed.
fn payer_envelope_len(client: &Bytes, retention_days: u32) -> usize {
    use hawser_proto::pb::xmtp::identity::associations::RecoverableEcdsaSignature;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    let signature = RecoverableEcdsaSignature { bytes: Bytes::from_static(&[0; 65]) };
    let envelope = pb::PayerEnvelope {
        unsigned_client_envelope: client.clone(),
        payer_signature: Some(signature),
        target_originator: 200,
        message_retention_days: retention_days,
    };
    envelope.encoded_len()
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::envelope::PayerEnvelope;

    use super::*;
    use hawser_rules::PayloadClass;

    #[test]
    fn the_price_is_known_before_it_is_signed() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        for len in [0, 100, 200, 70_000] {
            let client = Bytes::from(vec![1; len]);
            let signed = PayerEnvelope::sign(client.clone(), OriginatorId(200), 60, &key);
            assert_eq!(payer_envelope_len(&client, 60), signed.encoded_len());
        }
    }

    #[test]
    fn what_could_not_be_answered_is_refused() {
        let envelope = |len| Routed {
            bytes: Bytes::from(vec![0; len]),
            topic: hawser_proto::Topic::parse(Bytes::from_static(&[1, 1])).unwrap(),
            kind: PayloadClass::Welcome,
            route: Route::Node,
            identity_update: None,
        };
        assert!(fits_into_an_answer(&vec![envelope(1024 * 1024); 24]).is_ok());
        let refused = fits_into_an_answer(&vec![envelope(1024 * 1024); 25]).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }
}
