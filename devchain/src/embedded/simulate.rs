//! Calls and gas estimates: executes transactions without changing the chain.

use alloy::consensus::Header;
use alloy::primitives::{Address, Bytes, TxKind, U256, keccak256};
use alloy::rpc::types::state::{AccountOverride, StateOverride};
use alloy::rpc::types::{BlockOverrides, TransactionRequest};
use revm::DatabaseRef;
use revm::bytecode::Bytecode;
use revm::context::either::Either;
use revm::context::result::{
    EVMError, ExecutionResult, HaltReason, InvalidTransaction, ResultAndState,
};
use revm::context::{BlockEnv, TxEnv};

use super::block::GAS_LIMIT;
use super::evm::{self, SenderKind};
use super::state::{AccountDiff, ReorganisedError, StateOverlay};

/// The gas of a plain transfer, the lowest of any transaction (yellow paper, `G_transaction`).
const TRANSFER_GAS: u64 = 21_000;
/// The largest relative excess of an estimate, in thousandths: go-ethereum's error ratio.
const ESTIMATE_ERROR_PERMILLE: u64 = 15;

/// Error of a call or an estimate.
#[derive(Debug, thiserror::Error)]
pub(super) enum SimulationError {
    /// The call reverted with this data.
    #[error("execution reverted")]
    Reverted(Bytes),
    /// The EVM halted the call.
    #[error("{0}")]
    Halted(String),
    /// The request is contradictory or unsupported.
    #[error("{0}")]
    Request(String),
    /// The transaction could not be mined.
    #[error("{0}")]
    Refused(String),
    /// The call needs more gas than the sender may spend.
    #[error("gas required exceeds allowance ({allowance})")]
    NotEnoughGas { allowance: u64 },
    /// A rollback has removed the block at which the call runs.
    #[error(transparent)]
    Reorganised(#[from] ReorganisedError),
}

/// A transaction to simulate, with its state and block.
#[derive(Debug)]
pub(super) struct Simulation<B> {
    state: StateOverlay<B>,
    chain_id: u64,
    block: BlockEnv,
    tx: TxEnv,
    /// True if the request has a gas limit.
    gas_given: bool,
}

impl<B: DatabaseRef<Error = ReorganisedError>> Simulation<B> {
    /// Prepares a request. Without a gas price, gas is free in the simulation.
    pub(super) fn new(
        mut state: StateOverlay<B>,
        chain_id: u64,
        header: &Header,
        request: TransactionRequest,
        overrides: Option<StateOverride>,
        block_overrides: Option<BlockOverrides>,
    ) -> Result<Self, SimulationError> {
        let mut block = evm::block_env(header);
        if let Some(overrides) = block_overrides {
            override_block(&mut block, &mut state, overrides)?;
        }
        for (address, change) in overrides.unwrap_or_default() {
            override_account(&mut state, address, change)?;
        }
        let gas_given = request.gas.is_some();
        let tx = tx_env(request, chain_id, block.gas_limit)?;
        if tx.gas_price == 0 {
            block.basefee = 0;
        }
        Ok(Self { state, chain_id, block, tx, gas_given })
    }

    fn run(&self, gas_limit: u64) -> Result<ResultAndState, EVMError<ReorganisedError>> {
        let tx = TxEnv { gas_limit, ..self.tx.clone() };
        evm::execute(&self.state, self.chain_id, self.block.clone(), tx, SenderKind::Simulated)
    }

    /// Runs the call and returns its output.
    pub(super) fn call(&self) -> Result<Bytes, SimulationError> {
        let gas_limit = if self.gas_given { self.tx.gas_limit } else { self.allowance()? };
        let done = self.run(gas_limit).map_err(|error| self.refused(error))?;
        match done.result {
            ExecutionResult::Success { output, .. } => Ok(output.into_data()),
            ExecutionResult::Revert { output, .. } => Err(SimulationError::Reverted(output)),
            ExecutionResult::Halt { reason, .. } => {
                Err(SimulationError::Halted(evm::halt_message(&reason)))
            }
        }
    }

    /// Returns a gas limit with which the transaction succeeds, at most 1.5 % above the lowest such limit.
    ///
    /// Bisects between the gas used with the whole allowance, and that allowance. The gas used can be too low as a
    /// limit, because each call withholds some gas and refunds come only at the end.
    pub(super) fn estimate(&self) -> Result<u64, SimulationError> {
        let allowance = self.allowance()?;
        if self.is_plain_transfer()? && self.suffices(TRANSFER_GAS)? {
            return Ok(TRANSFER_GAS);
        }
        let gas = match self.run(allowance) {
            Err(EVMError::Transaction(
                InvalidTransaction::CallGasCostMoreThanGasLimit { .. }
                | InvalidTransaction::GasFloorMoreThanGasLimit { .. },
            )) => return Err(SimulationError::NotEnoughGas { allowance }),
            Err(error) => return Err(self.refused(error)),
            Ok(done) => match done.result {
                ExecutionResult::Success { gas, .. } => gas,
                ExecutionResult::Revert { output, .. } => {
                    return Err(SimulationError::Reverted(output));
                }
                ExecutionResult::Halt { reason: HaltReason::OutOfGas(_), .. } => {
                    return Err(SimulationError::NotEnoughGas { allowance });
                }
                ExecutionResult::Halt { reason, .. } => {
                    return Err(SimulationError::Halted(evm::halt_message(&reason)));
                }
            },
        };
        // The gas used is a sufficient limit for transactions without refunds and calls.
        if self.suffices(gas.tx_gas_used())? {
            return Ok(gas.tx_gas_used());
        }
        let (mut too_little, mut enough) = (gas.tx_gas_used(), allowance);
        // A call withholds 1/64 of the gas (EIP-150), and a refund comes only at the end. 2,300 is the call stipend.
        let guess = (gas.total_gas_spent() + 2_300) * 64 / 63;
        let mut next = guess;
        while too_little + 1 < enough {
            if (enough - too_little) * 1000 / enough < ESTIMATE_ERROR_PERMILLE {
                break;
            }
            if next <= too_little || enough <= next {
                next = (too_little + (enough - too_little) / 2).min(too_little.saturating_mul(2));
            }
            if self.suffices(next)? {
                enough = next;
            } else {
                too_little = next;
            }
            next = 0;
        }
        Ok(enough)
    }

    /// Returns true if the transaction succeeds with this gas limit.
    fn suffices(&self, gas_limit: u64) -> Result<bool, SimulationError> {
        match self.run(gas_limit) {
            Ok(done) => Ok(done.result.is_success()),
            Err(EVMError::Database(moved)) => Err(moved.into()),
            Err(_) => Ok(false),
        }
    }

    fn is_plain_transfer(&self) -> Result<bool, SimulationError> {
        let TxKind::Call(to) = self.tx.kind else { return Ok(false) };
        let plain = self.tx.data.is_empty() && self.tx.authorization_list.is_empty();
        Ok(plain
            && self.state.account(to)?.code_hash == super::state::AccountState::EMPTY.code_hash)
    }

    /// Returns the largest gas limit of the call: the minimum of the request, the block limit and the sender's funds.
    fn allowance(&self) -> Result<u64, SimulationError> {
        let asked = if self.gas_given { self.tx.gas_limit } else { self.block.gas_limit };
        if self.tx.gas_price == 0 {
            return Ok(asked);
        }
        let balance = self.state.account(self.tx.caller)?.balance;
        let left = balance.checked_sub(self.tx.value).ok_or_else(|| {
            SimulationError::Refused("insufficient funds for transfer".to_owned())
        })?;
        let affordable = left / U256::from(self.tx.gas_price);
        Ok(u64::try_from(affordable).map_or(asked, |affordable| affordable.min(asked)))
    }

    /// Words an error of revm like go-ethereum, because clients match on the text.
    fn refused(&self, error: EVMError<ReorganisedError>) -> SimulationError {
        let TxEnv { caller, gas_limit, gas_price, value, data, .. } = &self.tx;
        let reason = match error {
            EVMError::Database(moved) => return moved.into(),
            EVMError::Transaction(reason) => reason,
            other => return SimulationError::Refused(other.to_string()),
        };
        SimulationError::Refused(match reason {
            InvalidTransaction::LackOfFundForMaxFee { fee, balance } => format!(
                "insufficient funds for gas * price + value: address {caller} have {balance} want {fee}"
            ),
            InvalidTransaction::OverflowPaymentInTransaction => format!(
                "insufficient funds for gas * price + value: address {caller}, {gas_limit} gas at \
                 {gas_price} and {value} are more than there can be"
            ),
            InvalidTransaction::CallGasCostMoreThanGasLimit { initial_gas, gas_limit } => {
                format!("intrinsic gas too low: have {gas_limit}, want {initial_gas}")
            }
            InvalidTransaction::GasFloorMoreThanGasLimit { gas_floor, gas_limit } => format!(
                "insufficient gas for floor data gas cost: have {gas_limit}, want {gas_floor}"
            ),
            InvalidTransaction::GasPriceLessThanBasefee => format!(
                "max fee per gas less than block base fee: address {caller}, maxFeePerGas: \
                 {gas_price}, baseFee: {}",
                self.block.basefee
            ),
            InvalidTransaction::CreateInitCodeSizeLimit => {
                format!("max initcode size exceeded: code size {}", data.len())
            }
            InvalidTransaction::CallerGasLimitMoreThanBlock => "exceeds block gas limit".to_owned(),
            other => other.to_string(),
        })
    }
}

/// Converts a request into revm's form. A gas limit above the block's is reduced to it.
fn tx_env(
    request: TransactionRequest,
    chain_id: u64,
    block_gas_limit: u64,
) -> Result<TxEnv, SimulationError> {
    let wrong = |reason: &str| SimulationError::Request(reason.to_owned());
    if let Some(have) = request.chain_id.filter(|have| *have != chain_id) {
        let reason = format!("chainId does not match node's (have={have}, want={chain_id})");
        return Err(SimulationError::Request(reason));
    }
    if request.blob_versioned_hashes.is_some() || request.sidecar.is_some() {
        return Err(wrong("blob transactions are not supported"));
    }
    let (max_fee, tip) = (request.max_fee_per_gas, request.max_priority_fee_per_gas);
    let dynamic = max_fee.is_some() || tip.is_some();
    if dynamic && request.gas_price.is_some() {
        return Err(wrong("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified"));
    }
    if let (Some(max_fee), Some(tip)) = (max_fee, tip)
        && max_fee < tip
    {
        let reason = format!("maxFeePerGas ({max_fee}) < maxPriorityFeePerGas ({tip})");
        return Err(SimulationError::Request(reason));
    }
    let data = request.input.try_into_unique_input().map_err(|_| {
        wrong("both \"data\" and \"input\" are set and not equal: use \"input\" alone")
    })?;
    let kind = request.to.unwrap_or(TxKind::Create);
    let authorizations = request.authorization_list.unwrap_or_default();
    if !authorizations.is_empty() && kind.is_create() {
        return Err(wrong("authorizationList is given without a recipient"));
    }
    let tx_type = match (authorizations.is_empty(), dynamic, &request.access_list) {
        (false, ..) => 4,
        (true, true, _) => 2,
        (true, false, Some(_)) => 1,
        (true, false, None) => 0,
    };
    Ok(TxEnv {
        tx_type,
        caller: request.from.unwrap_or_default(),
        gas_limit: request.gas.unwrap_or(block_gas_limit).min(block_gas_limit),
        gas_price: request.gas_price.or(max_fee).unwrap_or_default(),
        kind,
        value: request.value.unwrap_or_default(),
        data: data.unwrap_or_default(),
        nonce: request.nonce.unwrap_or_default(),
        chain_id: Some(chain_id),
        access_list: request.access_list.unwrap_or_default(),
        gas_priority_fee: (tx_type == 2 || tx_type == 4)
            .then(|| tip.unwrap_or_default().min(max_fee.unwrap_or_default())),
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: authorizations.into_iter().map(Either::Left).collect(),
    })
}

/// Applies the block overrides of `eth_call`.
fn override_block<B>(
    block: &mut BlockEnv,
    state: &mut StateOverlay<B>,
    overrides: BlockOverrides,
) -> Result<(), SimulationError> {
    let too_large = |name: &str| SimulationError::Request(format!("{name} is too large"));
    if let Some(number) = overrides.number {
        block.number = number;
    }
    if let Some(time) = overrides.time {
        block.timestamp = U256::from(time);
    }
    if let Some(gas_limit) = overrides.gas_limit {
        block.gas_limit = gas_limit.min(GAS_LIMIT);
    }
    if let Some(beneficiary) = overrides.coinbase {
        block.beneficiary = beneficiary;
    }
    if let Some(random) = overrides.random {
        block.prevrandao = Some(random);
    }
    if let Some(base_fee) = overrides.base_fee {
        block.basefee = u64::try_from(base_fee).map_err(|_| too_large("baseFeePerGas"))?;
    }
    if let Some(hashes) = overrides.block_hash {
        state.hashes.extend(hashes);
    }
    Ok(())
}

/// Applies the override of one account of `eth_call`.
fn override_account<B: DatabaseRef<Error = ReorganisedError>>(
    state: &mut StateOverlay<B>,
    address: Address,
    change: AccountOverride,
) -> Result<(), SimulationError> {
    let wrong = |reason: &str| SimulationError::Request(format!("override of {address}: {reason}"));
    if change.move_precompile_to.is_some() {
        return Err(wrong("moving precompiles is not supported"));
    }
    let mut account = state.account(address)?;
    account.balance = change.balance.unwrap_or(account.balance);
    account.nonce = change.nonce.unwrap_or(account.nonce);
    if let Some(code) = change.code {
        account.code_hash = keccak256(&code);
        let code = Bytecode::new_raw_checked(code).map_err(|_| wrong("malformed delegation"))?;
        state.diff.code.insert(account.code_hash, code);
    }
    let wiped = change.state.is_some();
    let slots = match (change.state, change.state_diff) {
        (Some(_), Some(_)) => return Err(wrong("it has both state and stateDiff")),
        (slots, diff) => slots.or(diff).unwrap_or_default(),
    };
    let slots = slots.into_iter().map(|(slot, value)| (slot.into(), value.into()));
    let change = AccountDiff { account, wiped, slots: slots.collect() };
    state.diff.merge(super::state::StateDiff {
        accounts: [(address, change)].into(),
        ..Default::default()
    });
    Ok(())
}
