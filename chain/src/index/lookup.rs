//! Looks up single blocks and transactions, on which all answering endpoints have to agree.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, Bytes, U64};
use alloy::providers::Provider as _;
use alloy::rpc::types::Log;
use hawser_proto::SequenceId;
use serde::Deserialize;

use super::event::{ContractEvent, EventSource};
use super::fetch;
use super::walk::BlockHeader;
use crate::endpoints::Endpoints;
use crate::send::{BLOCK_NUMBER_MAX, Chain, RequestError};

/// The payloads that one transaction ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcasts {
    /// The number of the transaction's block.
    pub block: u64,
    /// The hash of that block.
    pub hash: B256,
    /// Pairs of sequence id and payload, in the order of the logs.
    pub payloads: Vec<(SequenceId, Bytes)>,
}

/// Error of a lookup on which endpoints have to agree.
#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    /// No endpoint answers.
    #[error(transparent)]
    Rpc(#[from] RequestError),
    /// An endpoint contradicts another one or itself.
    #[error("{endpoint} {how}")]
    Disputed {
        /// Scheme, host and port.
        endpoint: String,
        /// The endpoint's statement and what it contradicts.
        how: &'static str,
    },
    /// The endpoints that answer agree, but there are too few of them.
    #[error("only {answered} of the {wanted} endpoints that have to agree answer")]
    TooFew {
        /// The number of endpoints that answered. Endpoints with the same scheme, host and port count once.
        answered: usize,
        /// The number of endpoints that have to answer.
        wanted: usize,
    },
}

/// The answer of one endpoint about a transaction.
struct TransactionAnswer {
    endpoint: String,
    /// The transaction's payloads; `None` if the endpoint does not have the transaction. The header is `None`
    /// if it does not have the block.
    shown: Result<Option<(Broadcasts, Option<BlockHeader>)>, RequestError>,
    /// The number of its newest block.
    newest: u64,
}

/// Returns the header of the block with this number, on which all answering endpoints agree;
/// `None` if there is no such block.
///
/// # Errors
/// Fails when no endpoint answers, or the endpoints contradict each other.
pub async fn agreed_block(
    endpoints: &Endpoints,
    number: u64,
) -> Result<Option<BlockHeader>, AgreementError> {
    let shown = endpoints.each(|chain| async move {
        Ok((chain.endpoint().to_owned(), block_of(&chain, number).await?))
    });
    let (mut agreed, mut failure) = (None, None);
    for shown in shown.await {
        match shown {
            Ok((endpoint, header)) => match agreed {
                Some(before) if before != header => {
                    let how = "shows another block of that number than another endpoint";
                    return Err(AgreementError::Disputed { endpoint, how });
                }
                _ => agreed = Some(header),
            },
            Err(error) => failure = Some(error),
        }
    }
    agreed.ok_or_else(|| {
        failure.expect("there is at least one endpoint, and each leaves an error").into()
    })
}

/// Returns the header of the block with this number at one endpoint; `None` if it has no such block.
///
/// # Errors
/// Fails when the endpoint does not answer.
pub async fn block_of(chain: &Chain, number: u64) -> Result<Option<BlockHeader>, RequestError> {
    if number > BLOCK_NUMBER_MAX {
        return Ok(None); // endpoints refuse to look for it
    }
    Ok(fetch::headers(chain, &[number], None).await?.first().copied())
}

/// Returns the header of the newest block of one endpoint.
///
/// # Errors
/// Fails when the endpoint does not answer.
pub async fn newest_of(chain: &Chain) -> Result<BlockHeader, RequestError> {
    fetch::head(chain).await
}

/// Returns the payloads that a transaction broadcast through the contract at `address`, with the header of its block;
/// `None` if the chain does not contain the transaction.
///
/// All answering endpoints have to agree, and at least `wanted` of them have to answer. The block must not be newer
/// than the newest block of any of them. URLs with the same scheme, host and port count as one endpoint.
///
/// # Errors
/// Fails when no endpoint or fewer than `wanted` answer, or when endpoints contradict one another.
pub async fn agreed_broadcasts(
    endpoints: &Endpoints,
    source: EventSource,
    address: Address,
    transaction: B256,
    wanted: usize,
) -> Result<Option<(Broadcasts, BlockHeader)>, AgreementError> {
    let answers = endpoints.each(|chain| async move {
        let shown = with_header(&chain, source, address, transaction).await;
        // Requested last, so that it cannot be older than the transaction's block.
        let newest = fetch::head(&chain).await?.block.number;
        Ok(TransactionAnswer { endpoint: chain.endpoint().to_owned(), shown, newest })
    });
    agreed(answers.await, wanted)
}

/// Returns one endpoint's payloads of a transaction, with the header of its block.
async fn with_header(
    chain: &Chain,
    source: EventSource,
    address: Address,
    transaction: B256,
) -> Result<Option<(Broadcasts, Option<BlockHeader>)>, RequestError> {
    let Some(found) = broadcasts_of(chain, source, address, transaction).await? else {
        return Ok(None);
    };
    let header = block_of(chain, found.block).await?;
    Ok(Some((found, header)))
}

/// Returns the common answer of all endpoints that answered, if there are enough of them.
fn agreed(
    answers: Vec<Result<TransactionAnswer, RequestError>>,
    wanted: usize,
) -> Result<Option<(Broadcasts, BlockHeader)>, AgreementError> {
    let (mut agreed, mut failure) = (None, None);
    let mut answered = BTreeSet::new();
    let mut lowest: Option<(u64, String)> = None;
    for answer in answers {
        let TransactionAnswer { endpoint, shown, newest } = match answer {
            Ok(answer) => answer,
            Err(error) => {
                failure = Some(error);
                continue;
            }
        };
        if lowest.as_ref().is_none_or(|(lowest, _)| newest < *lowest) {
            lowest = Some((newest, endpoint.clone()));
        }
        let name = endpoint.clone();
        let disputed = |how| AgreementError::Disputed { endpoint, how };
        let stated = match shown {
            Ok(Some((found, Some(header)))) if header.block.hash == found.hash => {
                Some((found, header))
            }
            Ok(Some((_, Some(_)))) => {
                return Err(disputed(
                    "has the transaction in another block than the one of that number",
                ));
            }
            Ok(Some((_, None))) => return Err(disputed("does not have the transaction's block")),
            Ok(None) => None,
            Err(error) => {
                failure = Some(error);
                continue;
            }
        };
        match &agreed {
            Some(before) if *before != stated => {
                return Err(disputed("shows the transaction otherwise than another endpoint"));
            }
            _ => agreed = Some(stated),
        }
        answered.insert(name);
    }
    let Some(agreed) = agreed else {
        return Err(failure
            .expect("there is at least one endpoint, and each leaves an error")
            .into());
    };
    if let (Some((_, header)), Some((newest, endpoint))) = (&agreed, lowest)
        && newest < header.block.number
    {
        let how = "has not come as far as the transaction's block";
        return Err(AgreementError::Disputed { endpoint, how });
    }
    if answered.len() < wanted {
        return Err(AgreementError::TooFew { answered: answered.len(), wanted });
    }
    Ok(agreed)
}

/// The part of a transaction's receipt that all chains have.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReceiptLogs {
    pub(super) block_number: U64,
    block_hash: B256,
    pub(super) logs: Vec<Log>,
}

/// Returns the receipt of a transaction at one endpoint; `None` if it does not know the transaction.
pub(super) async fn receipt_of(
    chain: &Chain,
    transaction: B256,
) -> Result<Option<ReceiptLogs>, RequestError> {
    const METHOD: &str = "eth_getTransactionReceipt";
    let receipt = chain.provider().client().request(METHOD, (transaction,));
    receipt.await.map_err(|error| chain.request_error(METHOD, error))
}

/// Returns the payloads that a transaction broadcast, and its block, as one endpoint shows them.
async fn broadcasts_of(
    chain: &Chain,
    source: EventSource,
    address: Address,
    transaction: B256,
) -> Result<Option<Broadcasts>, RequestError> {
    let receipt = receipt_of(chain, transaction).await?;
    Ok(receipt.map(|ReceiptLogs { block_number, block_hash, logs }| {
        let own = logs.iter().filter(|log| log.address() == address);
        let payloads = own.filter_map(|log| match source.decode(log)? {
            ContractEvent::Payload { sequence_id, payload, .. } => Some((sequence_id, payload)),
            ContractEvent::BalanceChanged { .. }
            | ContractEvent::MembershipChanged { .. }
            | ContractEvent::ReportSubmitted(_)
            | ContractEvent::ReportSettled { .. } => None,
        });
        Broadcasts { block: block_number.to(), hash: block_hash, payloads: payloads.collect() }
    }))
}
