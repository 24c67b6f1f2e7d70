//! Looks up single blocks and transactions of a chain that is read.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, Bytes, U64};
use alloy::providers::Provider as _;
use alloy::rpc::types::Log;
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
    pub payloads: Vec<(u64, Bytes)>,
}

/// Why endpoints give no answer that all of them share.
#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    /// No endpoint answers.
    #[error(transparent)]
    Rpc(#[from] RequestError),
    /// An endpoint contradicts another one, or itself.
    #[error("{endpoint} {how}")]
    Disputed {
        /// Scheme, host and port.
        endpoint: String,
        /// Its statement, and the fact that the statement contradicts.
        how: &'static str,
    },
    /// No endpoint contradicts another one, and too few of them say anything.
    #[error("only {answered} of the {wanted} endpoints that have to agree answer")]
    TooFew {
        /// Endpoints that answer, each scheme, host and port once.
        answered: usize,
        /// Endpoints that have to.
        wanted: usize,
    },
}

/// The statements of one endpoint about a transaction.
struct Testimony {
    endpoint: String,
    /// `None` if it does not have the transaction. The header is `None` if it does not have the block.
    shown: Result<Option<(Broadcasts, Option<BlockHeader>)>, RequestError>,
    /// The number of its newest block.
    newest: u64,
}

/// Returns the header of the block with this number on the present chain, as every endpoint shows it that answers; `None`
/// if there is no such block.
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

/// Returns the payloads that a transaction ordered through the broadcaster at `address`, on the present chain, with the
/// header of its block; `None` if the chain does not contain the transaction.
///
/// Every endpoint that answers has to agree, no block is newer than the newest one of any of them, and `wanted` of them
/// have to answer. Two URLs of one scheme, host and port count as one.
///
/// # Errors
/// Fails when no endpoint answers, or too few do, or the endpoints contradict each other.
pub async fn agreed_broadcasts(
    endpoints: &Endpoints,
    source: EventSource,
    address: Address,
    transaction: B256,
    wanted: usize,
) -> Result<Option<(Broadcasts, BlockHeader)>, AgreementError> {
    let testimonies = endpoints.each(|chain| async move {
        let shown = with_header(&chain, source, address, transaction).await;
        // Asked for last: it cannot be older than the block of the transaction then.
        let newest = fetch::head(&chain).await?.block.number;
        Ok(Testimony { endpoint: chain.endpoint().to_owned(), shown, newest })
    });
    agreed(testimonies.await, wanted)
}

/// Returns one endpoint's data of a transaction, with the header of its block.
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

/// Returns the common answer of all endpoints that answer, if they are enough.
fn agreed(
    testimonies: Vec<Result<Testimony, RequestError>>,
    wanted: usize,
) -> Result<Option<(Broadcasts, BlockHeader)>, AgreementError> {
    let (mut agreed, mut failure) = (None, None);
    let mut answered = BTreeSet::new();
    let mut lowest: Option<(u64, String)> = None;
    for testimony in testimonies {
        let Testimony { endpoint, shown, newest } = match testimony {
            Ok(testimony) => testimony,
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

/// Returns the payloads that a transaction ordered, and its block, as one endpoint shows them.
async fn broadcasts_of(
    chain: &Chain,
    source: EventSource,
    address: Address,
    transaction: B256,
) -> Result<Option<Broadcasts>, RequestError> {
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Receipt {
        block_number: U64,
        block_hash: B256,
        logs: Vec<Log>,
    }
    const METHOD: &str = "eth_getTransactionReceipt";
    let client = chain.provider().client();
    let receipt = client.request::<_, Option<Receipt>>(METHOD, (transaction,));
    let receipt = receipt.await.map_err(|error| chain.request_error(METHOD, error))?;
    Ok(receipt.map(|Receipt { block_number, block_hash, logs }| {
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
