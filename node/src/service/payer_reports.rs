//! The payer report worker with this node's access to its contract.

use std::path::Path;

use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hawser_chain::contracts::revert::RevertReason;
use hawser_chain::endpoints::{Endpoints, is_rate_limit};
use hawser_chain::reports::{ReportManager, ReportManagerError};
use hawser_chain::send::{RequestError, SendError};
use hawser_chain::spending::{CeilingError, SpendingLimits};
use hawser_engine::Engine;
use hawser_engine::runtime::{
    ContractError, GasUsed, PayerReportSettings, PayerReporter, ReportContract,
};
use hawser_proto::{OriginatorId, SecretKey};
use hawser_rules::payer_report::leaves::LEAF_LEN_BYTES;
use hawser_rules::payer_report::{Attestation, ContractReport, LeafProof, PayerReport, Submitted};

/// The contract and the endpoints of its chain.
#[derive(Clone)]
pub(super) struct ReportContractAt {
    pub(super) endpoints: Endpoints,
    pub(super) address: Address,
}

/// Creates the worker. `key` signs reports and pays for transactions. The state folder keeps what an hour has cost.
pub(super) fn reporter(
    engine: &Engine,
    key: &SecretKey,
    at: ReportContractAt,
    settings: PayerReportSettings,
    spending: SpendingLimits,
    state_dir: &Path,
) -> PayerReporter {
    let signer = PrivateKeySigner::from_slice(&key.to_bytes());
    let signer = signer.expect("a key of the same curve");
    // The folder may have those of several nodes.
    let costs = format!("report-costs-{}-{}", at.endpoints.id(), signer.address());
    let manager = ReportManager::new(at.endpoints, at.address, signer, spending)
        .with_spending_file(state_dir.join(costs));
    let domain = manager.domain();
    let contract = std::sync::Arc::new(Contract(manager));
    PayerReporter::new(engine, key.clone(), domain, settings.periods, contract)
}

struct Contract(ReportManager);

impl ReportContract for Contract {
    fn submit<'a>(
        &'a self,
        report: &'a PayerReport,
        attestations: &'a [Attestation],
    ) -> BoxFuture<'a, Result<Submitted, ContractError>> {
        async move { self.0.submit(report, attestations).await.map_err(contract_error) }.boxed()
    }

    fn held(
        &self,
        originator: OriginatorId,
        index: u64,
        known: ContractReport,
    ) -> BoxFuture<'_, Result<ContractReport, ContractError>> {
        async move { self.0.kept(originator, index, &known).await.map_err(contract_error) }.boxed()
    }

    fn settle<'a>(
        &'a self,
        originator: OriginatorId,
        index: u64,
        leaves: &'a [[u8; LEAF_LEN_BYTES]],
        proof: &'a LeafProof,
    ) -> BoxFuture<'a, Result<GasUsed, ContractError>> {
        async move {
            let settled = self.0.settle(originator, index, leaves, proof).await;
            Ok(GasUsed(settled.map_err(contract_error)?.0))
        }
        .boxed()
    }
}

fn contract_error(error: ReportManagerError) -> ContractError {
    // Nothing was sent in this case. After any other error, a transaction may be in flight, or a
    // smaller one would fail as well.
    let may_be_too_large = match &error {
        // An endpoint without time for one more request has none for two smaller ones.
        ReportManagerError::Send(SendError::Rpc(error @ RequestError::Refused { .. })) => {
            !is_rate_limit(error)
        }
        ReportManagerError::Send(SendError::RefusedByAll { .. }) => true,
        // The contracts are behind proxies: in a simulation, an inner call without enough gas reverts without data.
        ReportManagerError::Send(SendError::WouldRevert(revert)) => {
            revert.reason == RevertReason::Nothing
        }
        // Fewer leaves cost less.
        ReportManagerError::Send(SendError::Ceiling(CeilingError::Hour { .. })) => true,
        _ => false,
    };
    ContractError { text: error.to_string(), may_be_too_large }
}

#[cfg(test)]
mod tests {
    use hawser_chain::admin::{Wei, WeiPerGas};
    use hawser_chain::contracts::revert::Revert;

    use super::*;

    fn may_be_too_large(reason: RevertReason) -> bool {
        let revert = Revert { data: hawser_proto::Bytes::new().into(), reason };
        contract_error(ReportManagerError::Send(SendError::WouldRevert(revert))).may_be_too_large
    }

    #[test]
    fn a_trial_that_reverts_without_data_may_be_too_large_and_one_with_a_reason_is_not() {
        assert!(may_be_too_large(RevertReason::Nothing));
        assert!(!may_be_too_large(RevertReason::Text("paused".into())));
        assert!(!may_be_too_large(RevertReason::Unknown));
    }

    #[test]
    fn a_refusal_for_too_many_requests_is_not_about_the_size_and_another_one_may_be() {
        let refused = |code, message: &str| {
            let (endpoint, message) = (String::new(), message.to_owned());
            let method = "eth_estimateGas";
            let error = RequestError::Refused { endpoint, method, code, message };
            contract_error(ReportManagerError::Send(SendError::Rpc(error))).may_be_too_large
        };
        assert!(!refused(429, "HTTP status 429: too many requests"));
        assert!(!refused(-32005, "daily request limit reached"));
        assert!(refused(-32000, "gas required exceeds allowance (30000000)"));
    }

    #[test]
    fn a_transaction_above_the_ceiling_of_the_hour_may_be_too_large_and_one_above_that_of_the_price_is_not()
     {
        let stopped =
            |reached| contract_error(ReportManagerError::Send(SendError::Ceiling(reached)));
        assert!(stopped(CeilingError::Hour { spent: Wei(0), max: Wei(1) }).may_be_too_large);
        let (price, max) = (WeiPerGas(2), WeiPerGas(1));
        assert!(!stopped(CeilingError::GasPrice { price, max }).may_be_too_large);
    }
}
