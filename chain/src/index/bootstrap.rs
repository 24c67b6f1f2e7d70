//! Distinguishes payloads that a contract numbered from those whose sequence id its operator chose.
//!
//! A broadcaster numbers payloads only while it is not paused; the bootstrap call, with which the operator
//! chooses sequence ids, works only while it is paused. For a transaction that calls the contract directly, its
//! input shows which call it is, and the transaction's hash proves its input. For a transaction that calls through
//! another contract, such as a multisig, the pause state in that block decides, which no hash proves here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alloy::consensus::Transaction as _;
use alloy::eips::BlockNumberOrTag;
use alloy::eips::eip2718::Encodable2718 as _;
use alloy::primitives::{Address, B256, Bytes, keccak256};
use alloy::providers::Provider as _;
use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::{Filter, Log, TransactionInput, TransactionRequest};
use alloy::sol_types::{SolCall as _, SolEvent as _};
use alloy::transports::TransportError;
use hawser_proto::SequenceId;
use serde::Deserialize;
use serde_json::Value;

use super::event::{ContractEvent, IndexedEvent};
use super::fetch::REQUESTS_PER_BATCH;
// Both broadcasters have the same call and event.
use crate::contracts::group_message_broadcaster::GroupMessageBroadcaster::{
    PauseStatusUpdated, pausedCall,
};
use crate::endpoints::{Endpoints, is_rate_limit};
use crate::send::{Chain, RequestError};

/// The time limit for one endpoint's answer about all transactions in question. It may take many requests, and an
/// endpoint that answers each of them just in time must not hold the others up. A guess.
const FIND_MAX: Duration = Duration::from_secs(30);
/// The same for the only endpoint, which holds up no other one. An attempt keeps nothing of the one before it, so a
/// slow endpoint needs time for all of it. A guess: thousands of requests.
const FIND_ALONE_MAX: Duration = Duration::from_secs(600);

/// The transactions, among those in question, that may have assigned sequence ids by the bootstrap call.
#[derive(Debug, Clone, Default)]
pub(super) struct Bootstraps {
    /// Transactions that call the contract directly with the bootstrap call.
    direct: BTreeSet<B256>,
    /// Transactions whose bytes have their hash, so they call what the endpoint says.
    proven: BTreeSet<B256>,
    /// Transactions that call it through another contract, with true if their input contains the bootstrap call.
    indirect: BTreeMap<B256, bool>,
    /// The pause states in the blocks of the latter.
    blocks: BTreeMap<u64, BlockPauses>,
}

/// The pause state of a contract during one block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct BlockPauses {
    /// Its changes, ascending: the log index, and true if a pause begins.
    changes: Vec<(u64, bool)>,
    /// True if it is paused at the end of the block; `None` if the endpoint has pruned that state.
    at_end: Option<bool>,
}

impl BlockPauses {
    /// Returns true if the contract was paused when it emitted the log with this index; `None` if that is unknown.
    fn at(&self, log_index: u64) -> Option<bool> {
        let before = self.changes.iter().rfind(|(index, _)| *index < log_index);
        let after = self.changes.iter().find(|(index, _)| *index > log_index);
        let before = before.map(|(_, is_paused)| *is_paused);
        before.or(after.map(|(_, is_paused)| !is_paused)).or(self.at_end)
    }
}

/// The origin of a sequence id that does not follow the previous one, as all endpoints together show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumberOrigin {
    /// The operator chose the sequence id.
    Operator,
    /// The operator chose the sequence id, if no events before it are missing: more than half of the endpoints say so
    /// and one says otherwise, or fewer say so and none says otherwise.
    DoubtfulOperator,
    /// The contract assigned the sequence id, so events before it are missing.
    Contract,
    /// The event may come from a bootstrap call, and no endpoint has the state that would decide.
    Unknown,
}

impl Bootstraps {
    /// Returns true if the operator chose the event's sequence id; `None` if the endpoint does not know.
    fn is_chosen(&self, event: &IndexedEvent) -> Option<bool> {
        if self.direct.contains(&event.transaction) {
            return Some(true);
        }
        if !self.indirect.contains_key(&event.transaction) {
            return Some(false);
        }
        self.blocks.get(&event.block.number)?.at(event.log_index)
    }
}

/// The findings of the endpoints that know all transactions in question, one for each host and port.
#[derive(Debug)]
pub(super) struct BootstrapFindings {
    all: Vec<Bootstraps>,
    /// The number of endpoints that were asked.
    asked: usize,
}

impl BootstrapFindings {
    /// Returns true if no endpoint knows all of them.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Combines the findings about an event of one of the transactions.
    ///
    /// A proven transaction decides if it calls the contract itself. If it calls another contract, endpoints that show
    /// another call do not count, and neither does an input that differs from the proven one. Otherwise one endpoint
    /// that contradicts, or half of all that do not know, is enough to doubt the operator's choice, because skipped
    /// sequence ids are void for good.
    fn origin_of(&self, event: &IndexedEvent) -> NumberOrigin {
        let (all, transaction) = (&self.all, &event.transaction);
        let proof = all.iter().find(|one| one.proven.contains(transaction));
        match proof {
            Some(proof) if proof.direct.contains(transaction) => return NumberOrigin::Operator,
            Some(proof) if !proof.indirect.contains_key(transaction) => {
                return NumberOrigin::Contract;
            }
            _ => {}
        }
        let counts = |one: &&Bootstraps| proof.is_none() || one.indirect.contains_key(transaction);
        let answers = all.iter().filter(counts).filter_map(|one| one.is_chosen(event));
        let (chosen, assigned): (Vec<_>, Vec<_>) = answers.partition(|is_chosen| *is_chosen);
        let carries_call = match proof {
            Some(proof) => proof.indirect.get(transaction) == Some(&true),
            None => all.iter().any(|one| one.indirect.get(transaction) == Some(&true)),
        };
        let most_say_so = 2 * chosen.len() > self.asked;
        match (chosen.len(), assigned.len()) {
            (0, 0) if carries_call => NumberOrigin::Unknown,
            (0, _) => NumberOrigin::Contract,
            (_, 0) if most_say_so => NumberOrigin::Operator,
            (_, assigned) if assigned == 0 || most_say_so => NumberOrigin::DoubtfulOperator,
            _ => NumberOrigin::Contract,
        }
    }
}

/// A transaction that emitted events of a contract.
#[derive(Debug, Deserialize)]
struct Transaction {
    to: Option<Address>,
    input: Bytes,
}

/// Returns the transactions of payloads whose sequence id does not follow the one before, with their blocks, and the
/// highest id. `last` is the id before the first payload. An id above those of places counts neither way: nothing is
/// missing before it, and the strand passes it over.
pub(super) fn doubtful(
    events: &[IndexedEvent],
    mut last: SequenceId,
) -> (BTreeMap<B256, u64>, SequenceId) {
    let mut doubtful = BTreeMap::new();
    for event in events {
        let ContractEvent::Payload { sequence_id, .. } = event.decoded else { continue };
        if sequence_id > SequenceId::MAX {
            continue;
        }
        if sequence_id != last.next() {
            doubtful.insert(event.transaction, event.block.number);
        }
        last = last.max(sequence_id);
    }
    (doubtful, last)
}

/// Marks the payloads of the `doubtful` transactions whose sequence ids the contract's operator chose, by the findings
/// of endpoints about these. `has_searched` is true if every endpoint has answered a search for missing events without
/// finding one: these transactions are then in doubt no more.
///
/// # Errors
/// The block of an event about which no endpoint can answer.
pub(super) fn mark(
    events: &mut [IndexedEvent],
    doubtful: &BTreeMap<B256, u64>,
    findings: &BootstrapFindings,
    has_searched: bool,
) -> Result<(), u64> {
    for event in events.iter_mut().filter(|event| doubtful.contains_key(&event.transaction)) {
        let is_chosen = match findings.origin_of(event) {
            NumberOrigin::Operator => true,
            NumberOrigin::DoubtfulOperator => has_searched,
            NumberOrigin::Contract => false,
            NumberOrigin::Unknown => return Err(event.block.number),
        };
        if let ContractEvent::Payload { bootstrapped, .. } = &mut event.decoded {
            *bootstrapped = is_chosen;
        }
    }
    Ok(())
}

/// Asks every endpoint about transactions, given with their block numbers. `selector` is the selector of the bootstrap
/// call.
///
/// # Errors
/// Fails when no endpoint answers.
pub(super) async fn find_all(
    endpoints: &Endpoints,
    transactions: &BTreeMap<B256, u64>,
    contract: Address,
    selector: [u8; 4],
) -> Result<BootstrapFindings, RequestError> {
    let asked = endpoints.display_urls().collect::<BTreeSet<_>>().len();
    let time_max = if asked > 1 { FIND_MAX } else { FIND_ALONE_MAX };
    let answers = endpoints
        .each_in_whole_time(time_max, |chain| async move {
            find(&chain, transactions, contract, selector).await
        })
        .await;
    let (mut all, mut failure, mut is_answered) = (BTreeMap::new(), None, false);
    for (answer, endpoint) in answers.into_iter().zip(endpoints.display_urls()) {
        match answer {
            Ok(found) => {
                is_answered = true;
                if let Some(found) = found {
                    all.entry(endpoint).or_insert(found);
                }
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(error) if !is_answered => Err(error),
        _ => Ok(BootstrapFindings { all: all.into_values().collect(), asked }),
    }
}

/// Asks one endpoint about transactions. Returns `None` if it does not know all of them.
async fn find(
    chain: &Chain,
    transactions: &BTreeMap<B256, u64>,
    contract: Address,
    selector: [u8; 4],
) -> Result<Option<Bootstraps>, RequestError> {
    let mut found = Bootstraps::default();
    let mut blocks = BTreeSet::new();
    let all: Vec<_> = transactions.iter().map(|(hash, block)| (*hash, *block)).collect();
    for some in all.chunks(REQUESTS_PER_BATCH) {
        let Some(known) = by_hash(chain, some).await? else { return Ok(None) };
        for ((hash, block), (Transaction { to, input }, is_proven)) in some.iter().zip(known) {
            found.proven.extend(is_proven.then_some(*hash));
            if to != Some(contract) {
                let carries_call = input.windows(selector.len()).any(|bytes| bytes == selector);
                found.indirect.insert(*hash, carries_call);
                blocks.insert(*block);
                continue;
            }
            found.direct.extend(input.starts_with(&selector).then_some(*hash));
        }
    }
    let blocks: Vec<_> = blocks.into_iter().collect();
    // There are two requests per block.
    for some in blocks.chunks(REQUESTS_PER_BATCH / 2) {
        found.blocks.extend(pauses(chain, contract, some).await?);
    }
    Ok(Some(found))
}

/// Requests transactions in one batch, each with true if it is proven by its hash; `None` if one is unknown.
async fn by_hash(
    chain: &Chain,
    transactions: &[(B256, u64)],
) -> Result<Option<Vec<(Transaction, bool)>>, RequestError> {
    const METHOD: &str = "eth_getTransactionByHash";
    let failed = |error: TransportError| chain.request_error(METHOD, error);
    let mut batch = BatchRequest::new(chain.provider().client());
    let mut waiters = Vec::with_capacity(transactions.len());
    for (hash, _) in transactions {
        waiters.push(batch.add_call::<_, Option<Value>>(METHOD, &(*hash,)).map_err(failed)?);
    }
    batch.send().await.map_err(failed)?;
    let mut known = Vec::with_capacity(waiters.len());
    for ((hash, _), waiter) in transactions.iter().zip(waiters) {
        let Some(shown) = waiter.await.map_err(failed)? else { return Ok(None) };
        let transaction = serde_json::from_value::<Transaction>(shown.clone());
        let transaction = transaction
            .map_err(|error| failed(TransportError::deser_err(error, shown.to_string())))?;
        let is_proven = proves(shown, *hash, &transaction);
        known.push((transaction, is_proven));
    }
    Ok(Some(known))
}

/// Returns true if the signed bytes of a shown transaction have its hash, and contain the same call. Kinds of
/// transactions that Ethereum does not have prove nothing.
fn proves(shown: Value, hash: B256, call: &Transaction) -> bool {
    let Ok(shown) = serde_json::from_value::<alloy::rpc::types::Transaction>(shown) else {
        return false;
    };
    let signed = shown.inner.inner();
    keccak256(signed.encoded_2718()) == hash
        && signed.to() == call.to
        && *signed.input() == call.input
}

/// Requests the pause state of the contract in several blocks, in one batch.
async fn pauses(
    chain: &Chain,
    contract: Address,
    blocks: &[u64],
) -> Result<Vec<(u64, BlockPauses)>, RequestError> {
    const STATE: &str = "eth_call";
    const LOGS: &str = "eth_getLogs";
    let no_state = |error: TransportError| chain.request_error(STATE, error);
    let no_logs = |error: TransportError| chain.request_error(LOGS, error);
    let input = TransactionInput::new(pausedCall::SELECTOR.into());
    let request = TransactionRequest { to: Some(contract.into()), input, ..Default::default() };
    let changes =
        Filter::new().address(contract).event_signature(PauseStatusUpdated::SIGNATURE_HASH);
    let mut batch = BatchRequest::new(chain.provider().client());
    let mut waiters = Vec::with_capacity(blocks.len());
    for block in blocks {
        let at_end = (request.clone(), BlockNumberOrTag::Number(*block));
        let state = batch.add_call::<_, Bytes>(STATE, &at_end).map_err(no_state)?;
        let changes = (changes.clone().from_block(*block).to_block(*block),);
        let logs = batch.add_call::<_, Vec<Log>>(LOGS, &changes).map_err(no_logs)?;
        waiters.push((*block, state, logs));
    }
    batch.send().await.map_err(no_state)?;
    let mut pauses = Vec::with_capacity(waiters.len());
    for (block, state, logs) in waiters {
        let at_end = match state.await.map_err(no_state) {
            Ok(returned) => pausedCall::abi_decode_returns(&returned).ok(),
            Err(error) if is_rate_limit(&error) => return Err(error),
            Err(RequestError::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        let changes = changes_in(&logs.await.map_err(no_logs)?, contract, block);
        pauses.push((block, BlockPauses { changes, at_end }));
    }
    Ok(pauses)
}

/// Selects a contract's pause changes in a block from the logs that an endpoint returned.
fn changes_in(logs: &[Log], contract: Address, block: u64) -> Vec<(u64, bool)> {
    let changes = logs.iter().filter_map(|log| {
        let is_asked_for = log.address() == contract && log.block_number == Some(block);
        let change = PauseStatusUpdated::decode_log_validate(&log.inner).ok()?;
        (is_asked_for && !log.removed).then_some((log.log_index?, change.paused))
    });
    let mut changes: Vec<_> = changes.collect();
    changes.sort_unstable();
    changes
}

#[cfg(test)]
mod tests {
    use hawser_proto::OriginatorId;

    use super::*;
    use crate::index::event::{BlockRef, ContractEvent};

    #[test]
    fn changes_in_the_block_tell_more_than_its_end() {
        let pauses = |changes: &[_], at_end| BlockPauses { changes: changes.to_vec(), at_end };
        assert_eq!(pauses(&[], Some(true)).at(3), Some(true));
        assert_eq!(pauses(&[], None).at(3), None);
        let inside = pauses(&[(2, true), (5, false)], Some(false));
        assert_eq!(
            [1, 3, 4, 6].map(|index| inside.at(index)),
            [false, true, true, false].map(Some)
        );
        let end = pauses(&[(4, false)], None);
        assert_eq!([3, 5].map(|index| end.at(index)), [true, false].map(Some));
    }

    /// The contract's operator chooses ids while it is paused, and an endpoint may make one up.
    #[test]
    fn an_id_that_does_not_follow_is_doubted_unless_no_place_has_it() {
        let payload = |block: u8, sequence_id| IndexedEvent {
            block: BlockRef { number: block.into(), hash: B256::ZERO },
            block_time_s: 0,
            log_index: 0,
            transaction: B256::repeat_byte(block),
            decoded: ContractEvent::Payload {
                identifier: Bytes::new(),
                sequence_id: SequenceId(sequence_id),
                payload: Bytes::new(),
                bootstrapped: false,
            },
        };
        let beyond = SequenceId::MAX.0 + 1;
        let events =
            [payload(1, 6), payload(2, beyond), payload(3, u64::MAX), payload(4, 7), payload(5, 9)];
        let (doubted, last) = doubtful(&events, SequenceId(5));
        assert_eq!(doubted, BTreeMap::from([(B256::repeat_byte(5), 5)]));
        assert_eq!(last, SequenceId(9));
        let (doubted, last) = doubtful(&[payload(6, 3)], last);
        assert_eq!(doubted, BTreeMap::from([(B256::repeat_byte(6), 6)]), "it goes back");
        assert_eq!(last, SequenceId(9));
    }

    #[test]
    fn a_number_is_chosen_if_a_proof_says_so_or_endpoints_do() {
        let transaction = B256::repeat_byte(1);
        let event = IndexedEvent {
            block: BlockRef { number: 7, hash: B256::ZERO },
            block_time_s: 0,
            log_index: 3,
            transaction,
            decoded: ContractEvent::MembershipChanged { node_id: OriginatorId(1), is_member: true },
        };
        let indirect = |carries_call, at_end| Bootstraps {
            indirect: BTreeMap::from([(transaction, carries_call)]),
            blocks: BTreeMap::from([(7, BlockPauses { changes: Vec::new(), at_end })]),
            ..Bootstraps::default()
        };
        let paused = |at_end| indirect(true, at_end);
        let of = |asked, all: &[Bootstraps]| {
            BootstrapFindings { all: all.to_vec(), asked }.origin_of(&event)
        };
        let together = |all: &[Bootstraps]| of(all.len(), all);
        assert_eq!(together(&[paused(None), paused(Some(true))]), NumberOrigin::DoubtfulOperator);
        assert_eq!(together(&[paused(Some(false)), paused(Some(true))]), NumberOrigin::Contract);
        assert_eq!(
            together(&[paused(None), paused(None)]),
            NumberOrigin::Unknown,
            "its input may lie"
        );
        assert_eq!(together(&[indirect(false, None)]), NumberOrigin::Contract);
        let (yes, no) = (|| paused(Some(true)), || paused(Some(false)));
        assert_eq!(together(&[no(), yes(), yes()]), NumberOrigin::DoubtfulOperator);
        assert_eq!(together(&[no(), yes(), no()]), NumberOrigin::Contract);
        assert_eq!(of(3, &[yes(), yes()]), NumberOrigin::Operator);
        assert_eq!(of(2, &[yes()]), NumberOrigin::DoubtfulOperator, "the other one is silent");
        let unknown = || paused(None);
        let two_of_five = [yes(), yes(), no(), unknown(), unknown()];
        assert_eq!(together(&two_of_five), NumberOrigin::Contract);
        let two_of_five = [yes(), yes(), unknown(), unknown(), unknown()];
        assert_eq!(together(&two_of_five), NumberOrigin::DoubtfulOperator);
        let one = || BTreeSet::from([transaction]);
        let direct = Bootstraps { direct: one(), ..Bootstraps::default() };
        assert_eq!(together(std::slice::from_ref(&direct)), NumberOrigin::Operator);
        let (liar, proven) =
            (Bootstraps::default(), Bootstraps { proven: one(), ..direct.clone() });
        assert_eq!(together(&[liar.clone(), direct.clone()]), NumberOrigin::Contract);
        assert_eq!(of(2, std::slice::from_ref(&proven)), NumberOrigin::Operator);
        assert_eq!(together(&[liar, proven]), NumberOrigin::Operator, "the hash proves the call");
        let proven = Bootstraps { proven: one(), ..Bootstraps::default() };
        assert_eq!(together(&[direct.clone(), proven]), NumberOrigin::Contract);
        // An endpoint that shows another call than the proven one says nothing about the pause.
        let proven = Bootstraps { proven: one(), ..yes() };
        assert_eq!(together(&[Bootstraps::default(), proven]), NumberOrigin::DoubtfulOperator);
        let proven = Bootstraps { proven: one(), ..no() };
        assert_eq!(together(&[direct.clone(), direct, proven]), NumberOrigin::Contract);
        // No endpoint has the state of the block, and one shows an input that has not the hash of the transaction.
        let proven = Bootstraps { proven: one(), ..indirect(false, None) };
        assert_eq!(together(&[paused(None), proven]), NumberOrigin::Contract);
        let proven = Bootstraps { proven: one(), ..paused(None) };
        assert_eq!(together(&[indirect(false, None), proven]), NumberOrigin::Unknown);
    }
}
