//! Executes transactions with revm.

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{Header, Transaction, TxEnvelope};
use alloy::primitives::U256;
use revm::context::either::Either;
use revm::context::result::{EVMError, HaltReason, InvalidTransaction, ResultAndState};
use revm::context::{BlockEnv, CfgEnv, Context, TxEnv};
use revm::handler::MainnetContext;
use revm::handler::validation::validate_initial_tx_gas;
use revm::primitives::hardfork::SpecId;
use revm::{DatabaseRef, ExecuteEvm, InspectEvm, Inspector, MainBuilder, MainContext};

use super::state::StateOverlay;

/// The fork whose execution rules apply: the one for which the contracts are compiled.
pub(super) const RULES: SpecId = SpecId::PRAGUE;

/// The kind of a sender, which decides the checks of its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SenderKind {
    /// The transaction is signed: all checks apply.
    Signed,
    /// The account is impersonated: it may have code, against EIP-3607.
    Impersonated,
    /// The transaction is only simulated: the account may have code, and any nonce is accepted.
    Simulated,
}

/// Executes one transaction on a state and returns its changes. The state is left unchanged.
pub(super) fn execute<B: DatabaseRef>(
    state: &StateOverlay<B>,
    chain_id: u64,
    block: BlockEnv,
    tx: TxEnv,
    sender: SenderKind,
) -> Result<ResultAndState, EVMError<B::Error>> {
    context(state, chain_id, block, sender).build_mainnet().transact(tx)
}

/// Executes one transaction as [`execute`] does, and passes each call to an inspector.
pub(super) fn inspect<'a, B: DatabaseRef>(
    state: &'a StateOverlay<B>,
    chain_id: u64,
    block: BlockEnv,
    tx: TxEnv,
    sender: SenderKind,
    inspector: impl Inspector<MainnetContext<&'a StateOverlay<B>>>,
) -> Result<ResultAndState, EVMError<B::Error>> {
    let context = context(state, chain_id, block, sender);
    context.build_mainnet_with_inspector(inspector).inspect_tx(tx)
}

fn context<B: DatabaseRef>(
    state: &StateOverlay<B>,
    chain_id: u64,
    block: BlockEnv,
    sender: SenderKind,
) -> MainnetContext<&StateOverlay<B>> {
    let mut cfg = CfgEnv::new_with_spec(RULES).with_chain_id(chain_id);
    cfg.disable_eip3607 = sender != SenderKind::Signed;
    cfg.disable_nonce_check = sender == SenderKind::Simulated;
    Context::mainnet().with_db(state).with_cfg(cfg).with_block(block)
}

/// Returns the block in revm's form.
pub(super) fn block_env(header: &Header) -> BlockEnv {
    BlockEnv {
        number: U256::from(header.number),
        beneficiary: header.beneficiary,
        timestamp: U256::from(header.timestamp),
        gas_limit: header.gas_limit,
        basefee: header.base_fee_per_gas.unwrap_or_default(),
        prevrandao: Some(header.mix_hash),
        ..BlockEnv::default()
    }
}

/// Returns a signed transaction in revm's form.
pub(super) fn tx_env(tx: &Recovered<TxEnvelope>) -> TxEnv {
    let authorizations = tx.authorization_list().unwrap_or_default();
    TxEnv {
        tx_type: tx.inner().tx_type() as u8,
        caller: tx.signer(),
        gas_limit: tx.gas_limit(),
        gas_price: tx.max_fee_per_gas(),
        kind: tx.kind(),
        value: tx.value(),
        data: tx.input().clone(),
        nonce: tx.nonce(),
        chain_id: tx.chain_id(),
        access_list: tx.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: tx.max_priority_fee_per_gas(),
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: authorizations.iter().cloned().map(Either::Left).collect(),
    }
}

/// Checks that the gas limit covers the cost of a transaction before execution.
///
/// # Errors
/// The gas limit and the gas needed.
pub(super) fn check_intrinsic_gas(tx: &TxEnv) -> Result<(), InvalidTransaction> {
    validate_initial_tx_gas(tx, RULES, false, false, u64::MAX, None).map(|_| ())
}

/// Returns the error message for a halt in go-ethereum's words.
pub(super) fn halt_message(reason: &HaltReason) -> String {
    let message = match reason {
        HaltReason::OutOfGas(_) => "out of gas",
        HaltReason::OpcodeNotFound => "invalid opcode",
        HaltReason::InvalidFEOpcode => "invalid opcode: INVALID",
        HaltReason::StackOverflow => "stack limit reached 1024 (1024)",
        HaltReason::CreateCollision => "contract address collision",
        HaltReason::CreateContractSizeLimit => "max code size exceeded",
        HaltReason::CreateContractStartingWithEF => "invalid code: must not begin with 0xef",
        HaltReason::StateChangeDuringStaticCall => "write protection",
        HaltReason::CallTooDeep => "max call depth exceeded",
        HaltReason::OutOfFunds => "insufficient balance for transfer",
        other => return other.to_string(),
    };
    message.to_owned()
}
