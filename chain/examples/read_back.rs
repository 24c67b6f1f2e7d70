//! Reads nodes, rates and a payer's balance with alloy, through the bindings of this crate:
//!
//! ```sh
//! cargo run --release -p hawser-chain --example read_back -- RPC_URL CHAIN_JSON PAYER
//! ```

use std::error::Error;
use std::path::Path;

use alloy::primitives::{Address, U256};
use hawser_chain::addresses::Addresses;
use hawser_chain::contracts::{NodeRegistry, PayerRegistry, RateRegistry};
use hawser_chain::send::Chain;
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let [rpc_url, chain_json, payer]: [String; 3] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| USAGE)?;
    let payer: Address = payer.parse()?;
    let addresses = Addresses::read(Path::new(&chain_json))?;
    let chain = Chain::connect(&rpc_url, addresses.settlement_chain_id).await?;

    let registry = NodeRegistry::new(addresses.node_registry, chain.provider());
    let mut nodes = Vec::new();
    for entry in registry.getAllNodes().call().await? {
        nodes.push(json!({
            "nodeId": entry.nodeId,
            "owner": registry.ownerOf(U256::from(entry.nodeId)).call().await?.to_string(),
            "signer": entry.node.signer.to_string(),
            "isCanonical": entry.node.isCanonical,
            "signingPublicKey": entry.node.signingPublicKey,
            "httpAddress": entry.node.httpAddress,
        }));
    }

    let registry = RateRegistry::new(addresses.rate_registry, chain.provider());
    let count = registry.getRatesCount().call().await?;
    let entries = registry.getRates(U256::ZERO, count).call().await?;
    let rates = entries.iter().enumerate().map(|(index, entry)| {
        json!({
            "index": index,
            "messageFee": entry.messageFee,
            "storageFee": entry.storageFee,
            "congestionFee": entry.congestionFee,
            "targetRatePerMinute": entry.targetRatePerMinute,
            "startTime": entry.startTime,
        })
    });
    let rates: Vec<_> = rates.collect();

    let registry = PayerRegistry::new(addresses.payer_registry, chain.provider());
    let microdollars = registry.getBalance(payer).call().await?;
    let usd = alloy::primitives::utils::format_units(i128::try_from(microdollars)?, 6)?;
    let usd = usd.trim_end_matches('0').trim_end_matches('.');
    let balance = json!({ "microdollars": microdollars.to_string(), "usd": usd });

    println!("{}", json!({ "nodes": nodes, "rates": rates, "balance": balance }));
    Ok(())
}

const USAGE: &str = "usage: read_back RPC_URL CHAIN_JSON PAYER";
