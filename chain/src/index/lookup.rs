//! Looks up single blocks and transactions of a chain that is read.

use alloy::primitives::{Address, B256, Bytes, U64};
use alloy::providers::Provider as _;
use alloy::rpc::types::Log;
use serde::Deserialize;

use super::event::{ContractEvent, EventSource};
use super::fetch;
use super::walk::BlockHeader;
use crate::endpoints::Endpoints;
use crate::send::{Chain, RequestError};

/// The payloads that one transaction ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcasts {
    /// The number of the transaction's block.
    pub block: u64,
    /// Pairs of sequence id and payload, in the order of the logs.
    pub payloads: Vec<(u64, Bytes)>,
}

/// Returns the header of the block with this number on the present chain; `None` if there is no
/// such block.
///
/// # Errors
/// When no endpoint answers.
pub async fn block(
    endpoints: &Endpoints,
    number: u64,
) -> Result<Option<BlockHeader>, RequestError> {
    let asked = [number];
    let asked = &asked;
    let headers =
        endpoints.ask(|chain| async move { fetch::headers(&chain, asked, None).await }).await?;
    Ok(headers.first().copied())
}

/// Returns the header of the block with this number at one endpoint; `None` if it has no such block.
///
/// # Errors
/// When the endpoint does not answer.
pub async fn block_of(chain: &Chain, number: u64) -> Result<Option<BlockHeader>, RequestError> {
    if number > fetch::BLOCK_NUMBER_MAX {
        return Ok(None); // endpoints refuse to look for it
    }
    Ok(fetch::headers(chain, &[number], None).await?.first().copied())
}

/// Returns the header of the newest block of one endpoint.
///
/// # Errors
/// When the endpoint does not answer.
pub async fn newest_of(chain: &Chain) -> Result<BlockHeader, RequestError> {
    fetch::head(chain).await
}

/// Returns the payloads that a transaction ordered through the broadcaster at `address`, on the
/// present chain; `None` if the chain does not contain the transaction.
///
/// # Errors
/// When no endpoint answers.
pub async fn broadcasts(
    endpoints: &Endpoints,
    source: EventSource,
    address: Address,
    transaction: B256,
) -> Result<Option<Broadcasts>, RequestError> {
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Receipt {
        block_number: U64,
        logs: Vec<Log>,
    }
    const METHOD: &str = "eth_getTransactionReceipt";
    let receipt = endpoints.ask(|chain| async move {
        let client = chain.provider().client();
        let receipt = client.request::<_, Option<Receipt>>(METHOD, (transaction,));
        receipt.await.map_err(|error| chain.request_error(METHOD, error))
    });
    Ok(receipt.await?.map(|Receipt { block_number, logs }| {
        let own = logs.iter().filter(|log| log.address() == address);
        let payloads = own.filter_map(|log| match source.decode(log)? {
            ContractEvent::Payload { sequence_id, payload, .. } => Some((sequence_id, payload)),
            ContractEvent::BalanceChanged { .. }
            | ContractEvent::MembershipChanged { .. }
            | ContractEvent::ReportSubmitted(_)
            | ContractEvent::ReportSettled { .. } => None,
        });
        Broadcasts { block: block_number.to(), payloads: payloads.collect() }
    }))
}
