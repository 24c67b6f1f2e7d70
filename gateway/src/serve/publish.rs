//! The path of one request: caller, routes, price, publishing, response.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hawser_proto::minute::CONGESTION_MINUTES;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::payer_api::{GetNodesResponse, PublishClientEnvelopesResponse};
use hawser_proto::{Bytes, InboxId};
use hawser_rules::congestion::congestion_units;
use hawser_rules::fees::base_fee;
use hawser_rules::{ENVELOPE_LEN_BYTES_MAX, PicoDollarPrice, Rate, RateTable};
use hawser_serve::{CallCharge, StatusDetails};
use hawser_validation::limits::{QUOTA_PERIOD, RETRY_AFTER_PLACE_S, RETRY_AFTER_SILENCE_S};
use prost::Message as _;
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::bill::{BillEntry, BillLine, RequestBill};
use crate::chain::{ChainItem, ChainPath, own_payload};
use crate::identity::{
    self, JudgeError, PlacedUpdate, TenantIdentity, UpdateError, UpdateItem, VouchError,
};
use crate::landed::{ClientKey, client_key};
use crate::metrics::GatewayMetrics;
use crate::nodes::{ANSWER_OVERHEAD_BYTES, Nodes, PlacedEnvelope};
use crate::policy::{CallerCost, CallerId, Policies, PolicyError};
use crate::publish::{NodePublisher, PublishItem};
use crate::routing::{ChainTopic, Route, Routed, route};
use crate::sharing::{SharedKnowledge, SharedQuery};
use crate::status::{self, EnvelopeError, Outcome};

/// Gas of a payload on the chain: see [`gas_of`].
const GAS_OF_PAYLOAD: u64 = 35_000;
const GAS_PER_BYTE: u64 = 40;
/// Wei per picodollar: the app chain's gas is paid in a token of 18 decimals that is worth a dollar.
const WEI_PER_PICODOLLAR: u128 = 1_000_000;

/// The reason for which the identity updates of a request are not published.
#[derive(Debug, thiserror::Error)]
enum UpdatesError {
    /// One of them is invalid, or they exceed a limit of the caller.
    #[error("{0}")]
    Refused(Status),
    /// The updates could not be judged now.
    #[error("{0}")]
    NotJudged(Status),
}

/// Serves the publish requests of clients.
pub(crate) struct PublishService {
    /// Name of the tenant; empty without tenants.
    pub(crate) tenant: Box<str>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) nodes: Nodes,
    pub(crate) publisher: NodePublisher,
    pub(crate) chain: ChainPath,
    pub(crate) identity: Option<Arc<TenantIdentity>>,
    pub(crate) rates: watch::Receiver<Arc<RateTable>>,
    pub(crate) retention_days: u32,
    pub(crate) chain_payload_bytes_max: usize,
    pub(crate) metrics: Arc<GatewayMetrics>,
}

impl PublishService {
    /// Returns the nodes from which clients should read, with their addresses.
    pub(crate) fn nodes(&self) -> GetNodesResponse {
        let readable = self.nodes.readable();
        let count = i64::try_from(readable.len()).unwrap_or(i64::MAX);
        self.metrics.available_nodes.set(count);
        let address = |node: &Arc<crate::nodes::Node>| (node.record.id.0, node.address.clone());
        GetNodesResponse { nodes: readable.iter().map(address).collect() }
    }

    /// Publishes client envelopes of a caller. Returns when readers can get all of them. `charge` is the memory of the
    /// call.
    ///
    /// # Errors
    /// The status of the first failed envelope. Its metadata names the envelopes that were published nevertheless.
    pub(crate) async fn publish(
        &self,
        caller: CallerId,
        envelopes: Vec<Bytes>,
        charge: CallCharge,
    ) -> Result<PublishClientEnvelopesResponse, Status> {
        let refused = |refusal: PolicyError| self.refused(&refusal);
        self.policies.require_allowed(&caller, envelopes.len()).map_err(refused)?;
        let routed = route(envelopes, self.chain_payload_bytes_max).map_err(|error| {
            self.metrics.invalid.inc();
            status::of_routing(&error)
        })?;
        check_response_size(&routed)?;
        let (rates, retention_days) = (self.rates.borrow().clone(), self.retention_days(&caller));
        let price_max = self.policies.price_max(&caller);
        let price = |envelope: &Routed| self.price(envelope, &rates, retention_days, price_max);
        let admitted = self.policies.admit(&caller, &routed, price, crate::now_ms());
        let taken = admitted.map_err(refused)?;
        // Congestion fees may use the rest of the caller's largest price after the base fee.
        let fee_max = |it: &Routed| price_max.map(|max| max.less(price(it).picodollars));
        let all_are_expensive =
            |it: &Routed| it.route == Route::Node && self.nodes.all_are_expensive(fee_max(it));
        // Before the limits that callers share, so that a refused caller takes nothing from others.
        if let Some(index) = routed.iter().position(all_are_expensive) {
            return Err(self.refused(&PolicyError::AllNodesExpensive { index }));
        }
        self.policies.ask(&caller, &routed).await.map_err(refused)?;
        let keys: Vec<ClientKey> = routed.iter().map(|it| client_key(&it.bytes)).collect();
        let taking = taken.take_everywhere(&self.shared_query(&routed, &keys)).await;
        let (taken, known) = taking.map_err(refused)?;
        let (admission, prices) = taken.into_bill();
        let lines = routed.iter().zip(prices).map(|(it, price)| BillLine::new(it, price)).collect();
        // From here on the bill is responsible for the cost that was taken, even if the caller hangs up.
        let bill = Arc::new(RequestBill {
            tenant: self.tenant.clone(),
            caller: caller.clone(),
            admission,
            policies: self.policies.clone(),
            metrics: self.metrics.clone(),
            lines,
        });
        let for_chain = routed.iter().filter_map(|envelope| match envelope.route {
            Route::Chain(topic) => Some((topic, &envelope.bytes)),
            Route::Node => None,
        });
        let for_chain: Vec<_> = for_chain.collect();
        self.chain.recall(for_chain, &known.places).await;
        self.validate_at_cost(&bill, &routed).await?;
        let is_repeat = |it: &Routed| it.route != Route::Node && self.chain.knows(&it.bytes);
        let repeats: Vec<bool> = routed.iter().map(is_repeat).collect();
        let caller_watch = charge.watch_caller();
        let outcomes = self.dispatch(&bill, &charge, (routed, keys), known, fee_max).await;
        caller_watch.end();
        let is_free = |index: usize| costs_nothing(&outcomes[index], bill.is_entered(index));
        let is_unused = |index: &usize| repeats[*index] || is_free(*index);
        for (index, outcome) in outcomes.iter().enumerate() {
            if outcome.as_ref().is_err_and(EnvelopeError::may_be_published) {
                BillEntry::new(&bill, index).leave_open();
            }
        }
        bill.give_back((0..outcomes.len()).filter(is_unused)).await;
        bill.release_congestion(0..outcomes.len());
        log_answered(&outcomes);
        status::answer(outcomes).inspect_err(|failed| {
            if failed.metadata().contains_key(status::PUBLISHED) {
                self.metrics.partial.inc();
            }
        })
    }

    /// Returns the query about a request to the state that gateways share.
    fn shared_query(&self, routed: &[Routed], keys: &[ClientKey]) -> SharedQuery {
        if self.nodes.share().is_none() {
            return SharedQuery::default();
        }
        let (for_nodes, for_chain): (Vec<_>, Vec<_>) =
            routed.iter().zip(keys).partition(|(envelope, _)| envelope.route == Route::Node);
        let for_nodes = for_nodes.iter().map(|(envelope, key)| (&envelope.topic, **key));
        let mut query = self.publisher.query(for_nodes);
        let unknown = for_chain.iter().filter(|(envelope, _)| !self.chain.knows(&envelope.bytes));
        query.payloads.extend(unknown.map(|(_, key)| **key));
        query
    }

    /// Publishes envelopes, with their keys, to nodes and to the chain at once. `known` is the state that other
    /// gateways have written. Returns one outcome for each envelope, in the order of the request.
    async fn dispatch(
        &self,
        bill: &Arc<RequestBill>,
        charge: &CallCharge,
        (routed, keys): (Vec<Routed>, Vec<ClientKey>),
        known: SharedKnowledge,
        congestion_fee_max: impl Fn(&Routed) -> Option<PicoDollarPrice>,
    ) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> =
            routed.iter().map(|_| Err(EnvelopeError::NoOutcome)).collect();
        let (mut for_nodes, mut for_chain) = (Vec::new(), Vec::new());
        let retention_days = self.retention_days(&bill.caller);
        for ((index, envelope), key) in routed.into_iter().enumerate().zip(keys) {
            let congestion_fee_max = congestion_fee_max(&envelope);
            let bill = BillEntry::new(bill, index);
            let Routed { bytes, topic, depends_on, route, identity_update, .. } = envelope;
            match route {
                Route::Node => {
                    let client = bytes;
                    for_nodes.push(PublishItem {
                        index,
                        topic,
                        is_topic_unplaced: false,
                        client,
                        key,
                        retention_days,
                        depends_on,
                        congestion_fee_max,
                        bill,
                        charge: charge.clone(),
                    });
                }
                Route::Chain(topic) => {
                    let (payload, identity_update) = own_payload(&bytes, identity_update.is_some());
                    for_chain.push(ChainItem { index, topic, payload, identity_update, bill });
                }
            }
        }
        let caller = &bill.caller;
        let (by_nodes, by_chain) = join(
            self.publisher.publish(caller, for_nodes, known),
            self.chain.publish(caller, for_chain),
        )
        .await;
        debug_assert_eq!(by_nodes.len() + by_chain.len(), outcomes.len(), "one outcome each");
        for (index, placed) in by_nodes {
            outcomes[index] = placed.map_err(EnvelopeError::Node);
        }
        for (index, shown) in by_chain {
            outcomes[index] = shown.map(placed_by_chain).map_err(EnvelopeError::Chain);
        }
        outcomes
    }

    /// Returns the retention of a caller's envelopes, days.
    fn retention_days(&self, caller: &CallerId) -> u32 {
        self.policies.retention_days(caller).unwrap_or(self.retention_days)
    }

    /// Returns the cost of an envelope: the base fee of a node, or gas at the current price. For congestion it counts
    /// the largest fee of the rate, but at most the part of the caller's largest price that the base fee leaves.
    fn price(
        &self,
        envelope: &Routed,
        rates: &RateTable,
        retention_days: u32,
        price_max: Option<PicoDollarPrice>,
    ) -> CallerCost {
        if envelope.route != Route::Node {
            let gas = gas_of(envelope.bytes.len());
            let wei = self.chain.gas_price().0.saturating_mul(u128::from(gas));
            let picodollars = u64::try_from(wei / WEI_PER_PICODOLLAR).unwrap_or(u64::MAX);
            let picodollars = PicoDollarPrice(picodollars);
            return CallerCost { envelopes: 1, picodollars, gas, ..CallerCost::default() };
        }
        let size = payer_envelope_len(&envelope.bytes, retention_days);
        let rate = rates.at(crate::now_ns()).ok();
        let fee = rate.and_then(|rate| base_fee(rate, size as u64, retention_days).ok());
        // Without a rate, nodes refuse the envelope too.
        let fee = fee.unwrap_or_default();
        let left = price_max.map_or(PicoDollarPrice(u64::MAX), |max| max.less(fee));
        let congestion_max = rate.map(full_congestion_fee).unwrap_or_default().min(left);
        CallerCost { envelopes: 1, picodollars: fee, gas: 0, congestion_max }
    }

    /// Validates the identity updates of a request before anything is published. If they are refused, their prices stay
    /// counted, because the check of an invalid update takes as long as that of a valid one, and all other prices in
    /// `bill` return to the caller's budget. If a caller hangs up meanwhile, they stay counted too. If they cannot be
    /// judged, all prices return.
    ///
    /// # Errors
    /// The status of the refusal.
    async fn validate_at_cost(&self, bill: &RequestBill, routed: &[Routed]) -> Result<(), Status> {
        let Some(identity) = &self.identity else { return Ok(()) };
        let is_checked = |it: &Routed| it.identity_update.is_some() && !self.chain.knows(&it.bytes);
        let checked: Vec<usize> =
            (0..routed.len()).filter(|index| is_checked(&routed[*index])).collect();
        bill.keep(&checked);
        let validated = self.validate_identities(identity, &bill.caller, routed).await;
        if !matches!(validated, Err(UpdatesError::Refused(_))) {
            bill.release(&checked);
        }
        let Err(UpdatesError::Refused(status) | UpdatesError::NotJudged(status)) = validated else {
            return Ok(());
        };
        bill.give_unused_back().await;
        Err(status)
    }

    async fn validate_identities(
        &self,
        identity: &TenantIdentity,
        caller: &CallerId,
        routed: &[Routed],
    ) -> Result<(), UpdatesError> {
        // Updates of one inbox are validated in their order, as nodes do.
        let mut inboxes: BTreeMap<InboxId, Vec<UpdateItem>> = BTreeMap::new();
        for (index, envelope) in routed.iter().enumerate() {
            let Route::Chain(ChainTopic::Inbox(inbox)) = envelope.route else { continue };
            let Some(update) = &envelope.identity_update else { continue };
            let client = envelope.bytes.clone();
            let is_known = self.chain.knows(&client);
            let update = UpdateItem { index, client, update: update.clone(), is_known };
            inboxes.entry(inbox).or_default().push(update);
        }
        let judged = inboxes
            .into_iter()
            .filter(|(_, updates)| updates.iter().any(|update| !update.is_known))
            .map(|(inbox, updates)| identity::judge(identity, &self.nodes, caller, inbox, updates));
        let judged = stream::iter(judged).buffer_unordered(identity::INBOXES_AT_ONCE);
        let judged: Result<Vec<_>, _> = judged.try_collect().await;
        let judged = judged.map_err(|failed| self.judge_error(&failed))?;
        for PlacedUpdate { client, envelope } in judged.into_iter().flatten() {
            self.chain.record_found(&client, envelope);
        }
        let is_new = |envelope: &Routed| !self.chain.knows(&envelope.bytes);
        let new = routed.iter().enumerate().filter_map(|(index, envelope)| {
            let update = envelope.identity_update.as_deref()?;
            is_new(envelope).then_some((index, update))
        });
        identity::ask_wallets(identity, caller, new).await.map_err(|(index, fault)| match fault {
            VouchError::Refused(reason) => {
                UpdatesError::Refused(self.invalid_update(index, &reason))
            }
            VouchError::TooMany(reason) => {
                let after_s = QUOTA_PERIOD.as_secs();
                let status = (Code::ResourceExhausted, "WALLET_CHECKS", after_s);
                UpdatesError::Refused(status::of_wallets(status, index, &reason))
            }
            VouchError::Busy(reason) => {
                let status = (Code::ResourceExhausted, "WALLET_CHECKS", RETRY_AFTER_PLACE_S);
                UpdatesError::NotJudged(status::of_wallets(status, index, &reason))
            }
            VouchError::Unavailable(reason) => {
                let status = (Code::Unavailable, "WALLET_SILENT", RETRY_AFTER_SILENCE_S);
                UpdatesError::NotJudged(status::of_wallets(status, index, &reason))
            }
        })
    }

    fn judge_error(&self, failed: &JudgeError) -> UpdatesError {
        let of_checks = |retry_after_s| {
            let details = StatusDetails { retry_after_s, ..StatusDetails::of("IDENTITY_CHECKS") };
            details.into_status(Code::ResourceExhausted, &failed.to_string())
        };
        match failed {
            JudgeError::Invalid(UpdateError { index, reason }) => {
                UpdatesError::Refused(self.invalid_update(*index, reason))
            }
            JudgeError::TooMany { .. } => UpdatesError::Refused(of_checks(None)),
            JudgeError::Busy(_) => UpdatesError::NotJudged(of_checks(Some(RETRY_AFTER_PLACE_S))),
            JudgeError::NoLog => {
                let retry_after_s = Some(RETRY_AFTER_SILENCE_S);
                let details =
                    StatusDetails { retry_after_s, ..StatusDetails::of("NO_IDENTITY_LOG") };
                let status = details.into_status(Code::Unavailable, &failed.to_string());
                UpdatesError::NotJudged(status)
            }
        }
    }

    fn invalid_update(&self, index: usize, reason: &str) -> Status {
        self.metrics.invalid.inc();
        let why = format!("invalid identity update: {reason}");
        status::of_envelope(index, &why, "IDENTITY_UPDATE")
    }

    /// Counts a refusal, and returns its status.
    pub(crate) fn refused(&self, refusal: &PolicyError) -> Status {
        self.metrics.count_refused(refusal);
        status::of_policy(refusal)
    }
}

/// Returns the most that a node may charge for the congestion of an envelope.
fn full_congestion_fee(rate: &Rate) -> PicoDollarPrice {
    let units = congestion_units([u64::MAX; CONGESTION_MINUTES], rate.target_rate_per_minute);
    PicoDollarPrice(rate.congestion_fee.0.saturating_mul(units))
}

/// Returns an upper estimate of the gas for a payload of `len` bytes. Measured on a local chain: 37,000 for 78
/// bytes, 63,000 for 1 kB, 4.0 million for 100 kB.
fn gas_of(len: usize) -> u64 {
    GAS_OF_PAYLOAD + GAS_PER_BYTE * len as u64
}

/// Returns true if this request pays nothing for an envelope: the envelope is certainly not published, or another
/// request, which sent it earlier, pays for it. `is_entered` is true if this request pays.
fn costs_nothing(outcome: &Outcome, is_entered: bool) -> bool {
    match outcome {
        Ok(_) => !is_entered,
        Err(failure) => !failure.may_be_published(),
    }
}

/// Writes a line for each envelope whose publication is confirmed to the caller.
fn log_answered(outcomes: &[Outcome]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return; // an id is known only after parsing the envelope
    }
    for placed in outcomes.iter().flatten() {
        let unsigned = placed.envelope.unsigned_originator_envelope.clone();
        if let Ok((id, _)) = hawser_proto::envelope::OriginatorEnvelope::statement(unsigned) {
            tracing::debug!(envelope = %id, "answered");
        }
    }
}

fn placed_by_chain(envelope: OriginatorEnvelope) -> PlacedEnvelope {
    PlacedEnvelope {
        envelope,
        id: None,
        fee: PicoDollarPrice(0),
        congestion_fee: None,
        is_repeat: false,
    }
}

/// Checks that the response will fit into a message: an envelope whose response cannot be sent must not be
/// published. Nodes have the same bound for theirs, and would refuse the request one after the other.
fn check_response_size(routed: &[Routed]) -> Result<(), Status> {
    let answer: usize =
        routed.iter().map(|envelope| envelope.bytes.len() + ANSWER_OVERHEAD_BYTES).sum();
    if answer <= ENVELOPE_LEN_BYTES_MAX {
        return Ok(());
    }
    let text =
        format!("the answer would exceed {ENVELOPE_LEN_BYTES_MAX} bytes: publish less at once");
    Err(StatusDetails::of("ANSWER_TOO_LARGE").into_status(Code::ResourceExhausted, &text))
}

/// Returns the length of the payer envelope, which is the priced size. Assumes a node id of two bytes: ids
/// take one or two.
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
    use hawser_proto::envelope::PayerEnvelope;
    use hawser_proto::{OriginatorId, SecretKey};

    use super::*;

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
    fn a_request_whose_response_is_too_large_is_refused() {
        let envelope = |len| Routed {
            bytes: Bytes::from(vec![0; len]),
            topic: hawser_proto::Topic::parse(Bytes::from_static(&[1, 1])).unwrap(),
            depends_on: Vec::new(),
            kind: hawser_rules::PayloadClass::Welcome,
            route: Route::Node,
            identity_update: None,
        };
        assert!(check_response_size(&vec![envelope(1024 * 1024); 24]).is_ok());
        // No node takes one that is longer.
        let longest = ENVELOPE_LEN_BYTES_MAX - ANSWER_OVERHEAD_BYTES;
        assert!(check_response_size(&[envelope(longest)]).is_ok());
        for refused in [vec![envelope(1024 * 1024); 25], vec![envelope(longest + 1)]] {
            let refused = check_response_size(&refused).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        }
    }
}
