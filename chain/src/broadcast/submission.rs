//! Requests for one transaction: its gas limit, its submission, and the reason of its failure.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alloy::primitives::{Address, Bytes};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionReceipt;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::error::BroadcastError;
use super::slots::{Recipients, SendOutcome};
use crate::contracts::GroupMessageBroadcaster::InvalidPayloadSize;
use crate::contracts::revert::Revert;
use crate::endpoints::{EndpointError, Endpoints, is_endpoints_fault, names_rate_limit};
use crate::prices::{self, Medians};
use crate::send::{Call, Chain, EthCallError, RequestError};

/// The time limit for one of several endpoints to accept a transaction. A guess.
const SEND_MAX: Duration = Duration::from_secs(5);
/// The time after which a transaction goes to every endpoint although the first one may still accept it. A guess: later
/// transactions wait until this one is sent, and honest endpoints answer within a second.
pub(super) const FIRST_MAX: Duration = Duration::from_secs(2);
/// The time left for the other endpoints once one has accepted a transaction that is sent again. A guess: their
/// refusals count, and later transactions wait meanwhile.
const REFUSAL_MAX: Duration = Duration::from_secs(1);
/// The base gas of a transaction (Yellow Paper, appendix G).
const GAS_OF_TRANSACTION: u64 = 21_000;
/// The minimum gas per byte of data (EIP-7623): for a zero byte, and for any other.
const FLOOR_GAS_OF_ZERO: u64 = 10;
const FLOOR_GAS_OF_OTHERS: u64 = 40;
/// The bound of a gas limit, as a multiple of the lower median of those that endpoints state. A guess: on rollups whose
/// gas contains the cost of data on another chain, a call costs a few times the floor of its data.
const GAS_FACTOR_MAX: u128 = 8;

/// Error of a gas estimate.
struct EstimateError(EthCallError);

impl From<RequestError> for EstimateError {
    fn from(error: RequestError) -> Self {
        Self(EthCallError::Rpc(error))
    }
}

impl fmt::Display for EstimateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            EthCallError::Reverted(revert) => revert.fmt(f),
            EthCallError::Rpc(error) => error.fmt(f),
        }
    }
}

impl EndpointError for EstimateError {
    fn request_error(&self) -> Option<&RequestError> {
        match &self.0 {
            EthCallError::Reverted(_) => None,
            EthCallError::Rpc(error) => Some(error),
        }
    }
}

/// Returns the lowest gas limit that a transaction with this data may have.
fn floor_gas(data: &[u8]) -> u64 {
    let zeros = data.iter().filter(|byte| **byte == 0).count() as u64;
    let others = data.len() as u64 - zeros;
    GAS_OF_TRANSACTION + zeros * FLOOR_GAS_OF_ZERO + others * FLOOR_GAS_OF_OTHERS
}

/// Simulates the call and returns its gas limit: a quarter above the estimate, and at least a tenth above the floor
/// price of its data, which older nodes leave out of their estimates. Of several endpoints, see [`estimated_by_most`].
pub(super) async fn gas_limit(
    endpoints: &Endpoints,
    account: Address,
    call: &Call,
) -> Result<u64, BroadcastError> {
    let floor = floor_gas(&call.data);
    let least = floor + floor / 10;
    let estimated = if endpoints.count() > 1 {
        estimated_by_most(endpoints, account, call, least).await
    } else {
        let estimated = endpoints.ask(|chain| async move {
            chain.gas_limit(call.request(account)).await.map_err(EstimateError)
        });
        estimated.await.map(|limit| limit.max(least)).map_err(|EstimateError(error)| error)
    };
    match estimated {
        Ok(limit) => Ok(limit),
        Err(EthCallError::Reverted(revert)) => Err(would_revert(revert, &call.data)),
        Err(EthCallError::Rpc(RequestError::Refused { message, .. })) => {
            Err(refused(account, endpoints.id(), message))
        }
        Err(EthCallError::Rpc(error)) => Err(error.into()),
    }
}

/// Returns the gas limit on which the endpoints without a pause agree, each at least `least`: see [`agreed_limit`]. If
/// none of these endpoints accepts the call, all endpoints are asked: see [`estimated_by_any`].
async fn estimated_by_most(
    endpoints: &Endpoints,
    account: Address,
    call: &Call,
    least: u64,
) -> Result<u64, EthCallError> {
    let ask = |chain: Chain| async move {
        match chain.gas_limit(call.request(account)).await {
            Err(EthCallError::Rpc(error)) if is_endpoints_fault(&error) => Err(error),
            estimated => Ok(estimated),
        }
    };
    let stated = endpoints.each_until_majority(SEND_MAX, prices::GRACE, &ask).await;
    let (mut limits, mut failure) = (Vec::new(), None);
    match stated {
        Ok(stated) => {
            for estimated in stated {
                match estimated {
                    Ok(limit) => limits.push(limit),
                    Err(refusal) => failure = failure.or(Some(refusal)),
                }
            }
        }
        Err(error) => failure = Some(EthCallError::Rpc(error)),
    }
    match failure.filter(|_| limits.is_empty()) {
        Some(failure) => estimated_by_any(endpoints, least, failure, ask).await,
        None => Ok(agreed_limit(&limits, least).unwrap_or(least)), // there is an answer or an error
    }
}

/// Returns the gas limit of a call that no endpoint without a pause accepts, from all endpoints: a paused one may
/// accept it. `failure` is what the others have said. A refusal needs two endpoints of different hosts, as every
/// failure does: a single one may lie while the others do not answer, and a client takes a refusal for final.
async fn estimated_by_any<Fut>(
    endpoints: &Endpoints,
    least: u64,
    failure: EthCallError,
    ask: impl Fn(Chain) -> Fut,
) -> Result<u64, EthCallError>
where
    Fut: Future<Output = Result<Result<u64, EthCallError>, RequestError>>,
{
    let asked = endpoints.each_in_time(SEND_MAX, |chain| {
        let (host, asked) = (chain.endpoint().to_owned(), ask(chain));
        async move { Ok::<_, RequestError>((host, asked.await?)) }
    });
    let (mut limits, mut refused_by, mut silence) = (Vec::new(), HashSet::new(), None);
    for answer in asked.await {
        match answer {
            Ok((_, Ok(limit))) => limits.push(limit),
            Ok((host, Err(_))) => _ = refused_by.insert(host),
            Err(error) => silence = Some(error),
        }
    }
    match (agreed_limit(&limits, least), silence) {
        (Some(limit), _) => Ok(limit),
        (None, Some(error)) if refused_by.len() < endpoints.hosts().min(2) => {
            Err(EthCallError::Rpc(error))
        }
        (None, _) => Err(failure),
    }
}

/// Returns the gas limit to use of those that endpoints state, each at least `least`; `None` without one.
///
/// A limit that is too low has the transaction fail, and be paid for. A limit that is too high costs nothing, but
/// counts for the ceilings and may exceed the balance. So the upper median is used, and at most [`GAS_FACTOR_MAX`]
/// times the lower median. With three endpoints, a single lie changes nothing. With two, an endpoint that states too
/// much raises the amount that counts for the ceilings by at most that factor, and an endpoint that states too little
/// changes nothing.
fn agreed_limit(limits: &[u64], least: u64) -> Option<u64> {
    let of_each = limits.iter().map(|limit| u128::from((*limit).max(least)));
    let Medians { lower, upper } = Medians::of(of_each)?;
    u64::try_from(upper.min(lower.saturating_mul(GAS_FACTOR_MAX))).ok()
}

/// Converts a revert by the contract into the error for the caller.
fn would_revert(revert: Revert, data: &[u8]) -> BroadcastError {
    if let Some(InvalidPayloadSize { actualSize_, minSize_, maxSize_ }) = revert.as_error() {
        let number = |value: alloy::primitives::U256| usize::try_from(value).unwrap_or(usize::MAX);
        let (bytes, min, max) = (number(actualSize_), number(minSize_), number(maxSize_));
        return match bytes < min {
            true => BroadcastError::TooShort { bytes: bytes.min(data.len()), min },
            false => BroadcastError::TooLong { bytes, max },
        };
    }
    if revert.name() == Some("Paused") {
        BroadcastError::Paused
    } else {
        BroadcastError::WouldRevert(revert)
    }
}

/// Converts the message of a node's final refusal into the error for the caller.
pub(super) fn refused(account: Address, chain_id: u64, reason: String) -> BroadcastError {
    if reason.to_ascii_lowercase().contains("insufficient funds") {
        BroadcastError::NoFunds { account, chain_id, reason }
    } else {
        BroadcastError::Refused { reason }
    }
}

/// Sends a transaction to its recipients; to every endpoint if the first one does not accept it soon. A single endpoint
/// may lie about accepting or refusing it, or be slow, and later transactions wait meanwhile.
pub(super) async fn send(
    endpoints: &Endpoints,
    raw: &Bytes,
    recipients: Recipients,
) -> SendOutcome {
    if endpoints.count() == 1 {
        return send_to_first(endpoints, raw, &AtomicBool::new(false)).await;
    }
    let first = match recipients {
        Recipients::AllAgain => {
            let sent = send_to_each(endpoints, raw, REFUSAL_MAX).await;
            return weighed(sent.into_iter().flatten().collect());
        }
        Recipients::All => SendOutcome::Later,
        Recipients::First => send_to_first_soon(endpoints, raw).await,
    };
    match first {
        SendOutcome::Accepted => SendOutcome::Accepted,
        first => sent_at_first(first, send_to_each(endpoints, raw, prices::GRACE).await),
    }
}

/// Sends a transaction to the first endpoint that answers, and waits for at most [`FIRST_MAX`].
async fn send_to_first_soon(endpoints: &Endpoints, raw: &Bytes) -> SendOutcome {
    let is_out = AtomicBool::new(false);
    match timeout(FIRST_MAX, send_to_first(endpoints, raw, &is_out)).await {
        Ok(outcome) => outcome,
        Err(_) if is_out.load(Ordering::Relaxed) => SendOutcome::Lost,
        // No endpoint was reached.
        Err(_) => SendOutcome::Later,
    }
}

/// Returns the outcome of a transaction that was sent to one endpoint and then to each, for the first time.
///
/// [`SendOutcome::Underpriced`] says that another transaction of the account has the nonce, so the payload moves to
/// another nonce. An endpoint that lies may have passed the transaction on, and the payload would be paid for twice. So
/// every endpoint has to say it; one that was not reached does not.
///
/// A payload is given up at once only if every endpoint that was reached refuses its transaction. If some endpoints
/// refuse the transaction and another endpoint accepts none at present, the transaction is sent again. After a number
/// of such answers a filler with the same nonce takes the payload's place. See [`weighed`] for other answers beside a
/// refusal.
pub(super) fn sent_at_first(first: SendOutcome, each: Vec<Option<SendOutcome>>) -> SendOutcome {
    let all_say = each.iter().all(|it| *it == Some(SendOutcome::Underpriced));
    let all_refuse = each.iter().flatten().all(is_refusal);
    let mut outcomes = vec![first];
    outcomes.extend(each.into_iter().flatten());
    match weighed(outcomes) {
        SendOutcome::Underpriced if !all_say => SendOutcome::Lost,
        SendOutcome::Refused(reason) if !all_refuse => SendOutcome::Unclear(reason),
        SendOutcome::TooCheap(reason) if !all_refuse => SendOutcome::TooCheapForSome(reason),
        outcome => outcome,
    }
}

/// Sends a transaction to the first endpoint that answers, and to every endpoint unless the first one accepts it. The
/// transaction counts as refused only if every endpoint refuses it. An endpoint that refuses it may have passed it on,
/// and an endpoint that was not reached refuses nothing. The outcome is [`SendOutcome::Later`] if some endpoints refuse
/// the transaction and none is known to have it.
pub(super) async fn send_unless_all_refuse(endpoints: &Endpoints, raw: &Bytes) -> SendOutcome {
    let first = send_to_first(endpoints, raw, &AtomicBool::new(false)).await;
    if first == SendOutcome::Accepted {
        return first;
    }
    refused_by_all(first, send_to_each(endpoints, raw, SEND_MAX).await)
}

/// Returns the outcome of a transaction that was sent to one endpoint and then to each.
fn refused_by_all(first: SendOutcome, each: Vec<Option<SendOutcome>>) -> SendOutcome {
    let all_refuse = each.iter().all(|it| it.as_ref().is_some_and(is_refusal));
    let outcome = each.into_iter().flatten().fold(first, weightier);
    match outcome {
        SendOutcome::TooCheap(_) | SendOutcome::Refused(_) if !all_refuse => SendOutcome::Later,
        outcome => outcome,
    }
}

/// Returns the outcome with the most weight. A refusal counts whatever other endpoints answer beside it: an endpoint
/// that always gives the same answer would otherwise have a payload that all others refuse sent without end, and all
/// later nonces wait behind it. Beside an acceptance, it makes the transaction contested, unless its reason is the
/// price: that is raised anyway if the transaction is not mined. Beside any other answer, it counts as an error or
/// raises the price; if lower nonces are missing somewhere, only once these are mined. That another transaction has the
/// nonce raises the price in time too, whatever is answered beside it that is no acceptance.
pub(super) fn weighed(outcomes: Vec<SendOutcome>) -> SendOutcome {
    let (mut refusal, mut cheap) = (None, None);
    for outcome in &outcomes {
        match outcome {
            SendOutcome::Refused(reason) | SendOutcome::Unclear(reason) => refusal = Some(reason),
            SendOutcome::TooCheap(reason) => cheap = Some(reason),
            _ => {}
        }
    }
    let (refusal, cheap) = (refusal.cloned(), cheap.cloned());
    let is_ahead = outcomes.contains(&SendOutcome::NonceAhead);
    let is_outbid = outcomes.contains(&SendOutcome::Underpriced);
    match (outcomes.into_iter().fold(SendOutcome::Later, weightier), refusal, cheap) {
        (SendOutcome::Accepted, Some(reason), _) => SendOutcome::Contested(reason),
        (
            outcome @ (SendOutcome::Accepted
            | SendOutcome::TooCheap(_)
            | SendOutcome::Refused(_)
            | SendOutcome::Later),
            ..,
        ) => outcome,
        (
            outcome @ (SendOutcome::Lost | SendOutcome::NonceUsed | SendOutcome::NonceAhead),
            None,
            None,
        ) if is_outbid => SendOutcome::UnderpricedForSome(Box::new(outcome)),
        (outcome, None, None) => outcome,
        (_, refusal, cheap) => {
            let unclear = refusal.map(SendOutcome::Unclear);
            let refused = cheap.map(SendOutcome::TooCheapForSome).or(unclear);
            let refused = refused.unwrap_or(SendOutcome::Later); // one of the two is there
            match is_ahead {
                true => SendOutcome::NonceAheadForSome(Box::new(refused)),
                false => refused,
            }
        }
    }
}

fn is_refusal(outcome: &SendOutcome) -> bool {
    matches!(outcome, SendOutcome::TooCheap(_) | SendOutcome::Refused(_))
}

/// Sends a transaction to the first endpoint that answers. Sets `is_out` once an endpoint may have it.
///
/// An endpoint whose response was lost may have the transaction. A refusal by the next endpoint is then not conclusive,
/// so the outcome is [`SendOutcome::Lost`].
async fn send_to_first(endpoints: &Endpoints, raw: &Bytes, is_out: &AtomicBool) -> SendOutcome {
    let (raw, is_lost) = (&raw, &AtomicBool::new(false));
    let sent = endpoints.ask(|chain| async move {
        is_out.store(true, Ordering::Relaxed);
        let sent = send_to(&chain, raw).await;
        if matches!(sent, Err(RequestError::Unreachable { .. } | RequestError::Malformed { .. })) {
            is_lost.store(true, Ordering::Relaxed);
        }
        sent
    });
    match sent.await {
        Ok(()) => SendOutcome::Accepted,
        Err(_) if is_lost.load(Ordering::Relaxed) => SendOutcome::Lost,
        Err(RequestError::Refused { message, .. }) => classify(message),
        // No endpoint was reached.
        Err(_) => SendOutcome::Later,
    }
}

/// Sends a transaction to every endpoint at once. Once an endpoint has accepted the transaction, the other endpoints
/// have `grace` left. Returns their outcomes; `None` for one without a connection.
async fn send_to_each(
    endpoints: &Endpoints,
    raw: &Bytes,
    grace: Duration,
) -> Vec<Option<SendOutcome>> {
    // An endpoint without a connection has not received anything.
    let (raw, reached) = (&raw, &Mutex::new(HashSet::new()));
    let sent = endpoints.each_until_one(SEND_MAX, grace, |chain| async move {
        reached.lock().insert(chain.endpoint().to_owned());
        send_to(&chain, raw).await
    });
    let sent = sent.await;
    let is_reached = |endpoint: &String| reached.lock().contains(endpoint);
    let outcome = |sent| match sent {
        Ok(()) => Some(SendOutcome::Accepted),
        Err(RequestError::Refused { endpoint, message, .. }) => {
            is_reached(&endpoint).then(|| classify(message))
        }
        Err(
            RequestError::Unreachable { endpoint, .. } | RequestError::Malformed { endpoint, .. },
        ) => is_reached(&endpoint).then_some(SendOutcome::Lost),
    };
    sent.into_iter().map(outcome).collect()
}

/// Sends a transaction to one endpoint. Returns a success also if the endpoint has the transaction already, which nodes
/// answer with an error. An error would have a silent endpoint be waited for as long as if no endpoint had it.
async fn send_to(chain: &Chain, raw: &Bytes) -> Result<(), RequestError> {
    let sent = chain.provider().send_raw_transaction(raw).await.map(drop);
    let sent = sent.map_err(|error| chain.request_error("eth_sendRawTransaction", error));
    let has_it = |message: &str| classify(message.to_owned()) == SendOutcome::Accepted;
    match sent {
        Err(RequestError::Refused { message, .. }) if has_it(&message) => Ok(()),
        sent => sent,
    }
}

/// Returns the outcome with more weight. A node that accepted a transaction has it, whatever others answer; a refusal
/// outweighs only [`SendOutcome::Later`].
fn weightier(one: SendOutcome, other: SendOutcome) -> SendOutcome {
    let weight = |it: &SendOutcome| match it {
        SendOutcome::Accepted => 9,
        SendOutcome::Contested(_) => 8,
        SendOutcome::Lost | SendOutcome::UnderpricedForSome(_) => 7,
        SendOutcome::Unclear(_) => 6,
        SendOutcome::NonceUsed => 5,
        SendOutcome::NonceAhead | SendOutcome::NonceAheadForSome(_) => 4,
        SendOutcome::Underpriced => 3,
        SendOutcome::TooCheap(_) | SendOutcome::TooCheapForSome(_) => 2,
        SendOutcome::Refused(_) => 1,
        SendOutcome::Later => 0,
    };
    if weight(&other) > weight(&one) { other } else { one }
}

/// Parts of error messages with which nodes refuse a transaction for good, whichever node is asked. Taken from the
/// errors of go-ethereum's `core` and `txpool`, and of anvil.
const FINAL: [&str; 14] = [
    "insufficient funds",
    "insufficient balance",
    "insufficient gas for floor data gas",
    "floor data gas",
    "intrinsic gas too low",
    "exceeds block gas limit",
    "exceeds the configured cap",
    "oversized data",
    "max initcode size",
    "invalid sender",
    "invalid chain id",
    "invalid signature",
    "transaction type not supported",
    "only replay-protected",
];

/// Parts of error messages with which nodes refuse a transaction because of its fees.
const TOO_CHEAP: [&str; 4] =
    ["underpriced", "less than block base fee", "gas price too low", "gas price below minimum"];

/// Returns true if a node refuses a transaction with this message because of its fees.
pub(crate) fn is_too_cheap(message: &str) -> bool {
    matches!(classify(message.to_owned()), SendOutcome::TooCheap(_))
}

/// Classifies a node's error message. JSON-RPC has no codes for these cases; the wordings are those
/// of go-ethereum, which other nodes follow.
///
/// A node that answers with an unknown message, such as an error of a proxy, may have the transaction, so the message
/// never counts as a refusal. The transaction is then sent again, which is safe, and not moved to another nonce, which
/// would not be. After a number of such messages a filler uses the nonce.
fn classify(message: String) -> SendOutcome {
    let lower = message.to_ascii_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    if has(&["already known", "already imported", "already in the mempool", "known transaction"]) {
        SendOutcome::Accepted
    } else if has(&["nonce too low", "nonce has already been used"]) {
        SendOutcome::NonceUsed
    } else if has(&["replacement transaction underpriced", "replacement fee too low"]) {
        SendOutcome::Underpriced
    } else if has(&["nonce too high", "nonce gap"]) {
        SendOutcome::NonceAhead
    } else if has(&TOO_CHEAP) {
        SendOutcome::TooCheap(message)
    } else if has(&FINAL) {
        SendOutcome::Refused(message)
    } else if has(&["txpool is full", "limit exceeded"]) || names_rate_limit(&lower) {
        SendOutcome::Later
    } else {
        SendOutcome::Unclear(message)
    }
}

/// Returns the reason why a mined transaction failed, found by running its call again at the preceding block.
pub(super) async fn reason(
    endpoints: &Endpoints,
    account: Address,
    call: &Call,
    receipt: &TransactionReceipt,
) -> String {
    let reason = endpoints.ask(|chain| async move {
        Ok::<_, RequestError>(chain.reason_of_revert(account, call, receipt).await.0)
    });
    reason.await.unwrap_or_else(|error| format!("the reason is not known ({error})"))
}

#[cfg(test)]
mod tests;
