//! Looking up single things of a chain that is read.

use alloy::primitives::{Address, B256, Bytes, U64};
use alloy::providers::Provider as _;
use alloy::rpc::types::Log;
use serde::Deserialize;

use super::event::{Said, Subject};
use super::fetch;
use super::walk::Header;
use crate::endpoints::Endpoints;
use crate::send::RpcFault;

/// What a transaction has put in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcasts {
    /// The block that has it.
    pub block: u64,
    /// Places and payloads.
    pub payloads: Vec<(u64, Bytes)>,
}

/// The block with this number, as the chain has it now; `None` if it has no such block.
///
/// # Errors
/// When no endpoint answers.
pub async fn block(endpoints: &Endpoints, number: u64) -> Result<Option<Header>, RpcFault> {
    let asked = [number];
    let asked = &asked;
    let headers =
        endpoints.ask(|chain| async move { fetch::headers(&chain, asked, None).await }).await?;
    Ok(headers.first().copied())
}

/// What a transaction has put in order through the broadcaster at `address`, as the chain has it
/// now; `None` if it does not have the transaction.
///
/// # Errors
/// When no endpoint answers.
pub async fn broadcasts(
    endpoints: &Endpoints,
    subject: Subject,
    address: Address,
    transaction: B256,
) -> Result<Option<Broadcasts>, RpcFault> {
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
        receipt.await.map_err(|error| chain.fault(METHOD, error))
    });
    Ok(receipt.await?.map(|Receipt { block_number, logs }| {
        let own = logs.iter().filter(|log| log.address() == address);
        let payloads = own.filter_map(|log| match subject.decode(log)? {
            Said::Payload { sequence_id, payload, .. } => Some((sequence_id, payload)),
            Said::Booked { .. } => None,
        });
        Broadcasts { block: block_number.to(), payloads: payloads.collect() }
    }))
}
