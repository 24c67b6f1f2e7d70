//! The payer report manager as nodes use it: submits payer reports and settles them.
//!
//! The contract accepts a report once and settles each leaf once, so every call may be repeated, and several nodes may
//! make the same call. The cost of gas has ceilings, so that an endpoint that lies about prices cannot drain the node's
//! account. If a transaction is not mined because the price of gas has risen since, the next transaction replaces it.
//! If every endpoint refuses its fees, it is sent again with higher ones. A single endpoint of several that denies the
//! contract, or shows another contract, stops no call.

use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256};
use alloy::rpc::types::TransactionReceipt;
use alloy::signers::local::PrivateKeySigner;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::payer_report::leaves::LEAF_LEN_BYTES;
use hawser_rules::payer_report::{
    Attestation, ContractReport, DomainSeparator, LeafProof, PayerReport, Submitted,
};
use parking_lot::Mutex;

use crate::admin::Wei;
use crate::admin::bridge::Gas;
use crate::broadcast::Witnesses;
use crate::contracts::PayerReportManager;
use crate::contracts::payer_report_manager::PayerReportManager::PayerReportSignature;
use crate::endpoints::{AnswerTimes, Endpoints};
use crate::prices;
use crate::send::{
    Call, Chain, Quote, RECEIPT_MAX, RequestError, SendError, Sender, StuckNonce, ViewError,
    with_doubled_fees,
};
use crate::spending::{KeptSpending, SpendingLimits, SpentFileError};

/// The divisor of the part of the hour's ceiling that settlements leave to submissions. Chosen: a quarter. Payers need
/// no deposit, so reports may have any number of leaves, and a report that no node submits within hours is given up.
const LEFT_TO_SUBMISSIONS: u128 = 4;
/// The time limit for an endpoint to show the contract, if several are asked. Guess.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The time limits of such a question. An endpoint that has just failed has the whole time: if no other endpoint is
/// honest, its answer decides.
const ANSWER_TIMES: AnswerTimes =
    AnswerTimes { time_max: ANSWER_MAX, paused_max: ANSWER_MAX, grace: prices::GRACE };

/// Error of a call of the payer report manager.
#[derive(Debug, thiserror::Error)]
pub enum ReportManagerError {
    /// The contract cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The transaction was not sent, or it failed.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The cost of the hour is not kept, so nothing was sent.
    #[error(transparent)]
    Spent(#[from] SpentFileError),
    /// The endpoint's contract has another EIP-712 domain, so attestations of this node would not be valid there.
    #[error(
        "{endpoint} has another contract than the payer report manager at {address} (its domain separator is \
        {found}): check the address"
    )]
    OtherContract {
        /// Scheme, host and port of the endpoint.
        endpoint: String,
        /// The contract's address.
        address: Address,
        /// The domain separator that the endpoint returned.
        found: alloy::primitives::B256,
    },
}

/// A client of the payer report manager: its chain, its address, and the account that pays for transactions.
#[derive(Clone)]
pub struct ReportManager {
    endpoints: Endpoints,
    address: Address,
    signer: PrivateKeySigner,
    /// All endpoints: one alone neither makes up the outcome of a transaction nor states its price.
    witnesses: Witnesses,
    /// Computed and not requested, so that an endpoint cannot make a node sign for another contract.
    domain: DomainSeparator,
    limits: SpendingLimits,
    /// Shared by the clones, which use the same account.
    spending: Arc<Mutex<KeptSpending>>,
    /// The nonce that holds up the account, if a transaction was not mined in time. Shared by the clones.
    stuck: Arc<Mutex<Option<StuckNonce>>>,
    receipt_max: Duration,
}

impl ReportManager {
    /// Creates a client whose transactions cost at most `limits`, since its creation. Sends no request yet.
    #[must_use]
    pub fn new(
        endpoints: Endpoints,
        address: Address,
        signer: PrivateKeySigner,
        limits: SpendingLimits,
    ) -> Self {
        let domain = DomainSeparator::of_contract(endpoints.id(), address.into_array());
        let spending = Arc::new(Mutex::new(KeptSpending::new(limits, None)));
        let witnesses = Witnesses::new(endpoints.clone());
        let (stuck, receipt_max) = (Arc::default(), RECEIPT_MAX);
        Self { endpoints, address, signer, witnesses, domain, limits, spending, stuck, receipt_max }
    }

    /// Keeps what the last hour has cost in this file, so that a restart does not begin the hour anew. One process at a
    /// time may use the file. Nothing is sent while it cannot be written.
    #[must_use]
    pub fn with_spending_file(self, path: PathBuf) -> Self {
        let spending = Arc::new(Mutex::new(KeptSpending::new(self.limits, Some(path))));
        Self { spending, ..self }
    }

    /// Sets the time limit for a receipt.
    #[must_use]
    pub fn with_receipt_timeout(self, receipt_max: Duration) -> Self {
        Self { receipt_max, ..self }
    }

    /// Returns the domain separator of the contract's EIP-712 digests.
    #[must_use]
    pub fn domain(&self) -> DomainSeparator {
        self.domain
    }

    /// Submits a report. The caller guarantees that `attestations` are verified, sorted by
    /// node id, and sufficient in number.
    ///
    /// # Errors
    /// [`ReportManagerError`].
    pub async fn submit(
        &self,
        report: &PayerReport,
        attestations: &[Attestation],
    ) -> Result<Submitted, ReportManagerError> {
        let submission = submission(report, attestations);
        match self.send(&Call::new(self.address, &submission), Wei(u128::MAX)).await {
            Ok(_) => Ok(Submitted::Now),
            Err(ReportManagerError::Send(error)) => {
                match error.revert().and_then(|revert| revert.name()) {
                    Some("PayerReportAlreadySubmitted") => Ok(Submitted::Before),
                    Some("InvalidStartSequenceId" | "InvalidSequenceIds") => {
                        Ok(Submitted::Superseded)
                    }
                    _ => Err(error.into()),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the report at an index of an originator's list, as most of those endpoints show it that agree with
    /// `known`: the report by the contract's events, which may be behind the contract.
    ///
    /// # Errors
    /// Fails when there is no such report, or the contract cannot be read.
    pub async fn kept(
        &self,
        originator: OriginatorId,
        index: u64,
        known: &ContractReport,
    ) -> Result<ContractReport, ReportManagerError> {
        let each = |chain: Chain| async move {
            match self.stated(&chain, originator, index).await {
                Err(ViewError::Rpc(error)) => Err(error),
                stated => Ok(stated.ok()),
            }
        };
        let stated = self.endpoints.each_until_majority_with_paused(ANSWER_TIMES, each).await;
        let stated: Vec<_> = stated.unwrap_or_default().into_iter().flatten().collect();
        if let Some(agreed) = agreed(&stated, known) {
            return Ok(agreed);
        }
        let one = |chain: Chain| async move { self.stated(&chain, originator, index).await };
        Ok(self.endpoints.ask(one).await?)
    }

    /// Returns a report as one endpoint shows it.
    async fn stated(
        &self,
        chain: &Chain,
        originator: OriginatorId,
        index: u64,
    ) -> Result<ContractReport, ViewError> {
        let call = PayerReportManager::getPayerReportCall {
            originatorNodeId_: originator.0,
            payerReportIndex_: U256::from(index),
        };
        let report = chain.view(self.address, &call).await?;
        Ok(ContractReport {
            start: SequenceId(report.startSequenceId),
            end: SequenceId(report.endSequenceId),
            root: report.payersMerkleRoot.0,
            offset: report.offset.into(),
            is_settled: report.isSettled,
        })
    }

    /// Settles the next leaves of a report and returns when the transaction is mined, with the gas that it took.
    ///
    /// # Errors
    /// [`ReportManagerError`], with the contract's `InvalidProof` if another sender has settled them meanwhile.
    pub async fn settle(
        &self,
        originator: OriginatorId,
        index: u64,
        leaves: &[[u8; LEAF_LEN_BYTES]],
        proof: &LeafProof,
    ) -> Result<Gas, ReportManagerError> {
        let settlement = settlement(originator, index, leaves, proof);
        let Wei(all) = self.limits.per_hour_max;
        let hour_max = Wei(all - all / LEFT_TO_SUBMISSIONS);
        self.send(&Call::new(self.address, &settlement), hour_max).await
    }

    /// Sends a call if it would succeed, its highest cost is within the ceilings, and the hour then costs no more than
    /// `hour_max`. The cost counts for an hour. It also counts if the endpoint refuses the transaction, because the
    /// endpoint may have kept it. If the transaction takes the place of an earlier one, the part that both cost counts
    /// twice. Returns the gas that the transaction took.
    ///
    /// If every endpoint refuses the fees, the call is sent again with higher ones, up to a bound. The nonce stays: an
    /// endpoint may have kept the first transaction, and one of the two is mined.
    async fn send(&self, call: &Call, hour_max: Wei) -> Result<Gas, ReportManagerError> {
        let sender = self.sender().await?;
        let quote = sender.quote_up_to(call, self.limits.gas_price_max).await?;
        let present = quote.max_fee_per_gas;
        let (mut quote, mut replaced) = self.in_place_of_stuck(&sender, quote).await?;
        loop {
            self.take_cost(&quote, hour_max).await?;
            let sent = sender.send_in_place_of(replaced, call, &quote).await;
            self.note_outcome(&sender, replaced, &quote, &sent).await;
            match sent {
                Err(SendError::TooCheap { hash, nonce, said }) => {
                    let Some(raised) = with_doubled_fees(&quote, present) else {
                        return Err(SendError::TooCheap { hash, nonce, said }.into());
                    };
                    let price_wei = raised.max_fee_per_gas.0;
                    tracing::info!(
                        nonce,
                        price_wei,
                        said,
                        "raises fees that every endpoint refuses"
                    );
                    (quote, replaced) = (raised, Some(nonce));
                }
                sent => return Ok(Gas(sent?.gas_used)),
            }
        }
    }

    /// Adds the highest cost of a transaction with this quote to the cost of the hour.
    ///
    /// # Errors
    /// The ceiling that it would exceed: endpoints may state any price.
    async fn take_cost(&self, quote: &Quote, hour_max: Wei) -> Result<(), ReportManagerError> {
        let (price, cost) = (quote.max_fee_per_gas, Wei::of_chain(quote.fee_max()));
        let spending = self.spending.clone();
        let taking =
            tokio::task::spawn_blocking(move || spending.lock().take_up_to(hour_max, price, cost));
        let within = taking.await.expect("a panic ends the process");
        within?.map_err(SendError::Ceiling)?;
        Ok(())
    }

    /// Returns the nonce that holds up the account, if there is one, and the quote at fees for which nodes let its
    /// transaction be replaced. Without that, all later transactions would wait behind one that is too cheap. The
    /// contract takes a report and a leaf once, so the replaced call is made again if it is still to be made.
    async fn in_place_of_stuck(
        &self,
        sender: &Sender,
        quote: Quote,
    ) -> Result<(Quote, Option<u64>), SendError> {
        let stuck = *self.stuck.lock();
        let Some(stuck) = stuck else { return Ok((quote, None)) };
        if sender.first_agreed_pending().await? != Some(stuck.nonce) {
            *self.stuck.lock() = None;
            return Ok((quote, None));
        }
        let Some(quote) = stuck.outbid(quote) else {
            let (account, chain_id) = (sender.account(), sender.chain().id());
            return Err(SendError::NotSettled { account, chain_id, nonce: stuck.nonce });
        };
        let (nonce, price_wei) = (stuck.nonce, quote.max_fee_per_gas.0);
        tracing::info!(nonce, price_wei, "replaces a transaction that was not mined");
        Ok((quote, Some(nonce)))
    }

    /// Takes note of the nonce that holds up the account, after a transaction at the fees of this quote, with the nonce
    /// `replaced` if there was one.
    async fn note_outcome(
        &self,
        sender: &Sender,
        replaced: Option<u64>,
        quote: &Quote,
        sent: &Result<TransactionReceipt, SendError>,
    ) {
        let sent = match sent {
            Err(SendError::NotMined { nonce, .. }) => Some(*nonce),
            Err(SendError::Contested { .. }) => replaced,
            Ok(_) | Err(SendError::NonceTaken { .. } | SendError::Reverted { .. }) => {
                *self.stuck.lock() = None;
                return;
            }
            // Nothing was sent, or every endpoint refuses it.
            Err(_) => return,
        };
        // The first one may be of an earlier run of this node.
        let Ok(first) = sender.first_agreed_pending().await else { return };
        *self.stuck.lock() = first.map(|nonce| StuckNonce::new(nonce, sent, quote));
    }

    /// Returns a sender of the account at an endpoint that shows the contract.
    async fn sender(&self) -> Result<Sender, ReportManagerError> {
        let chain = self.connected().await?;
        let sender = Sender::new(chain, self.signer.clone()).with_receipt_timeout(self.receipt_max);
        Ok(sender.with_witnesses(self.witnesses.clone()))
    }

    /// Connects to an endpoint whose contract has the expected domain separator. If the preferred one has another
    /// contract or none, it is not used for a while, unless no endpoint has the contract: then the address is wrong.
    async fn connected(&self) -> Result<Chain, ReportManagerError> {
        let check = |chain: Chain| async move { self.checked(chain).await };
        let (chain, checked) = self.endpoints.ask(check).await.map_err(ViewError::from)?;
        let Err(wrong) = checked else { return Ok(chain) };
        let others = self.endpoints.each_until_majority_with_paused(ANSWER_TIMES, check).await;
        let mut others = others.unwrap_or_default().into_iter();
        let Some((other, _)) = others.find(|(_, checked)| checked.is_ok()) else {
            return Err(wrong);
        };
        self.endpoints.distrust_asked(&chain, &wrong.to_string());
        Ok(other)
    }

    /// Returns an endpoint's connection, with an error if it does not show the expected contract.
    async fn checked(
        &self,
        chain: Chain,
    ) -> Result<(Chain, Result<(), ReportManagerError>), RequestError> {
        let address = self.address;
        let separator = PayerReportManager::DOMAIN_SEPARATORCall {};
        let checked = match chain.view(address, &separator).await {
            Ok(found) if found.0 == self.domain.get() => Ok(()),
            Ok(found) => {
                let endpoint = chain.endpoint().to_owned();
                Err(ReportManagerError::OtherContract { endpoint, address, found })
            }
            Err(ViewError::Rpc(error)) => return Err(error),
            Err(error) => Err(error.into()),
        };
        Ok((chain, checked))
    }
}

/// Returns the call that submits a report with these attestations.
fn submission(
    report: &PayerReport,
    attestations: &[Attestation],
) -> PayerReportManager::submitCall {
    let signatures = attestations.iter().map(|attestation| PayerReportSignature {
        nodeId: attestation.node.0,
        signature: Bytes::copy_from_slice(&attestation.for_contract()),
    });
    PayerReportManager::submitCall {
        originatorNodeId_: report.originator().0,
        startSequenceId_: report.start().0,
        endSequenceId_: report.end().sequence.0,
        endMinuteSinceEpoch_: report.end().minute,
        payersMerkleRoot_: report.root().into(),
        nodeIds_: report.nodes().numbers(),
        signatures_: signatures.collect(),
    }
}

/// Returns the call that settles the next leaves of the report at an index.
fn settlement(
    originator: OriginatorId,
    index: u64,
    leaves: &[[u8; LEAF_LEN_BYTES]],
    proof: &LeafProof,
) -> PayerReportManager::settleCall {
    PayerReportManager::settleCall {
        originatorNodeId_: originator.0,
        payerReportIndex_: U256::from(index),
        payerFees_: leaves.iter().map(|leaf| Bytes::copy_from_slice(leaf)).collect(),
        proofElements_: proof.0.iter().map(|element| element.into()).collect(),
    }
}

/// Returns the statement that most endpoints make about a report; in a tie the one with fewer settled leaves, which
/// costs a request at worst. Statements about a report other than `known` count only if no endpoint makes one about
/// `known`. The same holds for statements with fewer settled leaves than are known, because the contract never takes
/// leaves back. Returns `None` without statements.
fn agreed(stated: &[ContractReport], known: &ContractReport) -> Option<ContractReport> {
    let rank = |it: &&ContractReport| {
        let is_same = (it.start, it.end, it.root) == (known.start, known.end, known.root);
        let is_behind = it.offset < known.offset;
        let alike = stated.iter().filter(|other| other == it).count();
        (is_same, !is_behind, alike, !it.is_settled, Reverse(it.offset))
    };
    stated.iter().max_by_key(rank).copied()
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use alloy::sol_types::SolCall as _;
    use hawser_proto::Signature;
    use hawser_rules::payer_report::tree::Hash;
    use hawser_rules::payer_report::{NodeIds, RangeEnd};
    use serde_json::Value;

    use super::*;

    /// Returns the calls of the vectors whose signature begins so.
    fn calls(function: &str) -> Vec<Value> {
        let text = include_str!("../../tests/vectors/contracts/calldata.json");
        let vectors: Value = serde_json::from_str(text).unwrap();
        let cases = vectors["cases"].as_array().unwrap().iter();
        let named = |case: &&Value| case["function"].as_str().unwrap().starts_with(function);
        cases.filter(named).cloned().collect()
    }

    fn bytes(value: &Value) -> Bytes {
        value.as_str().unwrap().parse().unwrap()
    }

    fn word(value: &Value) -> Hash {
        value.as_str().unwrap().parse::<B256>().unwrap().0
    }

    fn number(value: &Value) -> u64 {
        value.as_u64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
    }

    fn node(value: &Value) -> OriginatorId {
        OriginatorId(u32::try_from(number(value)).unwrap())
    }

    #[test]
    fn submissions_are_the_calls_of_the_vectors() {
        let mut compared = 0;
        for case in calls("submit(") {
            let args = &case["args"];
            let end = RangeEnd {
                minute: u32::try_from(number(&args[3])).unwrap(),
                sequence: SequenceId(number(&args[2])),
            };
            let start = SequenceId(number(&args[1]));
            // No node submits a list that is empty or not ascending, a number that it cannot store, or a signature of
            // another form.
            let listed: Vec<OriginatorId> = args[5].as_array().unwrap().iter().map(node).collect();
            let nodes = NodeIds::new(listed.iter().copied()).ok();
            let Some(nodes) = nodes.filter(|nodes| nodes.get() == listed) else { continue };
            let report = PayerReport::new(node(&args[0]), start, end, word(&args[4]), nodes);
            let Ok(report) = report else { continue };
            let id = report.id(DomainSeparator::of_contract(1, [1; 20]));
            let attestation = |given: &Value| {
                let mut signature = bytes(&given[1]).to_vec();
                let v = signature.get_mut(64)?;
                *v = v.checked_sub(27)?; // nodes exchange recovery ids of 0 and 1
                let signature = Signature::from_bytes(&signature).ok()?;
                Some(Attestation { report: id, node: node(&given[0]), signature })
            };
            let attestations = args[6].as_array().unwrap().iter().map(attestation);
            let Some(attestations) = attestations.collect::<Option<Vec<_>>>() else { continue };
            let call = submission(&report, &attestations).abi_encode();
            assert_eq!(Bytes::from(call), bytes(&case["calldata"]), "{case}");
            compared += 1;
        }
        assert!(compared > 0);
    }

    #[test]
    fn settlements_are_the_calls_of_the_vectors() {
        let mut compared = 0;
        for case in calls("settle(") {
            let args = &case["args"];
            let leaf = |leaf: &Value| -> Option<[u8; LEAF_LEN_BYTES]> {
                bytes(leaf).to_vec().try_into().ok()
            };
            // The contract also decodes longer leaves, which no node sends.
            let leaves = args[2].as_array().unwrap().iter().map(leaf);
            let Some(leaves) = leaves.collect::<Option<Vec<_>>>() else { continue };
            let proof = LeafProof(args[3].as_array().unwrap().iter().map(word).collect());
            let call = settlement(node(&args[0]), number(&args[1]), &leaves, &proof).abi_encode();
            assert_eq!(Bytes::from(call), bytes(&case["calldata"]), "{case}");
            compared += 1;
        }
        assert!(compared > 0);
    }

    const HONEST: ContractReport = ContractReport {
        start: SequenceId(3),
        end: SequenceId(9),
        root: [1; 32],
        offset: 0,
        is_settled: false,
    };

    #[test]
    fn one_endpoint_of_three_states_no_report_and_of_two_none_that_is_settled_already() {
        let honest = ContractReport { offset: 5, ..HONEST };
        let settled = ContractReport { offset: 10, is_settled: true, ..honest };
        let ahead = ContractReport { offset: 7, ..honest };
        let known = ContractReport { offset: 3, ..honest };
        let behind = ContractReport { offset: 2, ..honest };
        let other = ContractReport { root: [2; 32], offset: 0, ..honest };
        for lie in [settled, ahead, behind, other, ContractReport { end: SequenceId(8), ..settled }]
        {
            assert_eq!(agreed(&[lie, honest], &known), Some(honest), "{lie:?}");
            assert_eq!(agreed(&[honest, lie], &known), Some(honest), "{lie:?}");
            for stated in [[lie, honest, honest], [honest, lie, honest], [honest, honest, lie]] {
                assert_eq!(agreed(&stated, &known), Some(honest), "{lie:?}");
            }
        }
        // With less settled than is true, and no less than is known, until the caller knows more.
        let less = ContractReport { offset: 4, ..honest };
        assert_eq!(agreed(&[less, honest], &known), Some(less));
        assert_eq!(agreed(&[less, honest], &honest), Some(honest));
        assert_eq!(agreed(&[less, honest, honest], &known), Some(honest));
        for alone in [settled, behind, other] {
            assert_eq!(agreed(&[alone], &known), Some(alone), "a single endpoint is believed");
        }
        assert_eq!(agreed(&[], &known), None);
    }

    #[test]
    fn two_endpoints_of_three_show_no_other_report_than_the_known_one() {
        let honest = HONEST;
        for lie in [
            ContractReport { root: [2; 32], ..honest },
            ContractReport { start: SequenceId(0), ..honest },
            ContractReport { end: SequenceId(10), offset: 7, is_settled: true, ..honest },
        ] {
            assert_eq!(agreed(&[lie, honest, lie], &honest), Some(honest), "{lie:?}");
        }
    }
}
