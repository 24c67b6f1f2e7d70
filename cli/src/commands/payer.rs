//! `hawser payer`: deposits, balances and withdrawals.

use alloy::primitives::Address;
use hawser_chain::admin::payers::{self, PayerBalance};
use hawser_chain::admin::{ChainRole, Network, PaymentToken, funding};
use hawser_node::error::RunError;

use crate::args::onchain::TransactionArgs;
use crate::args::payer::{
    AmountArgs, BalanceArgs, DepositArgs, PayerCommand, WithdrawCommand, WithdrawFinalizeArgs,
};
use crate::commands::onchain::{self, ChainsNeeded, OnchainSession, PAYER, ResultFields};
use crate::commands::payer_funds::{payer, recipient};
use crate::commands::{payer_funds, payer_usage};
use crate::output;

/// Runs the command.
///
/// # Errors
/// When a step fails; the text says whether something was sent.
pub(super) async fn run(command: PayerCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        PayerCommand::Deposit(args) => deposit(&args, as_json).await,
        PayerCommand::Fund(args) => payer_funds::fund(&args, as_json).await,
        PayerCommand::Mint(args) => payer_funds::mint(&args, as_json).await,
        PayerCommand::Wrap(args) => payer_funds::wrap(&args, as_json).await,
        PayerCommand::Unwrap(args) => payer_funds::unwrap(&args, as_json).await,
        PayerCommand::LeaveApp(args) => payer_funds::leave_app(&args, as_json).await,
        PayerCommand::Balance(args) => balance(&args, as_json).await,
        PayerCommand::Usage(args) => payer_usage::usage(&args, as_json).await,
        PayerCommand::Estimate(args) => payer_usage::estimate(args, as_json).await,
        PayerCommand::Withdraw { command } => match command {
            WithdrawCommand::Request(args) => request(&args, as_json).await,
            WithdrawCommand::Cancel(args) => cancel(&args, as_json).await,
            WithdrawCommand::Finalize(args) => finalize(&args, as_json).await,
        },
    }
}

async fn deposit(args: &DepositArgs, as_json: bool) -> Result<(), RunError> {
    let mut session =
        OnchainSession::open(&args.sum.transactions, ChainsNeeded::Settlement, PAYER, as_json)
            .await?;
    session.refuse_repeated_payment(ChainRole::Settlement)?;
    let payer = payer(args.payer, &session.account)?;
    let OnchainSession { network, account, .. } = &session;
    let token = PaymentToken::underlying_if(args.from_underlying);
    let plan = payers::deposit(network, account, payer, args.sum.amount, token).await;
    session.carry_out(plan?).await?;
    finish(session, Some(payer)).await
}

async fn balance(args: &BalanceArgs, as_json: bool) -> Result<(), RunError> {
    let payer = match args.payer {
        Some(payer) => payer,
        None => match onchain::signer(args.key_file.as_deref(), PAYER)? {
            Some(key) => key.address(),
            None => {
                return Err(RunError::usage(
                    "no payer is named: give --payer ADDRESS, or --key-file FILE",
                ));
            }
        },
    };
    let network = onchain::connect(&args.network, ChainsNeeded::AppIfGiven).await?;
    let balance = payers::balance(&network, payer).await?;
    let bounds = payers::bounds(&network).await?;
    let fields = fields(&balance)
        .amount("minimum_deposit", bounds.minimum_deposit)
        .with("withdraw_lock_seconds", bounds.withdraw_lock_seconds)
        .with("paused", bounds.paused);
    let fields = match funding::app_balance(&network, payer).await? {
        Some(wei) => fields.with("app_chain_wei", wei.0.to_string()),
        None => fields,
    };
    if as_json {
        output::line(fields.into_json());
    } else {
        fields.print();
    }
    Ok(())
}

async fn request(args: &AmountArgs, as_json: bool) -> Result<(), RunError> {
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, PAYER, as_json).await?;
    let plan = payers::request_withdrawal(&session.network, args.amount).await?;
    session.carry_out(plan).await?;
    let payer = session.account.address();
    finish(session, payer).await
}

async fn cancel(args: &TransactionArgs, as_json: bool) -> Result<(), RunError> {
    let mut session = OnchainSession::open(args, ChainsNeeded::Settlement, PAYER, as_json).await?;
    let plan = payers::cancel_withdrawal(&session.network, &session.account).await;
    session.carry_out(plan?).await?;
    let payer = session.account.address();
    finish(session, payer).await
}

async fn finalize(args: &WithdrawFinalizeArgs, as_json: bool) -> Result<(), RunError> {
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, PAYER, as_json).await?;
    let recipient = recipient(args.recipient, &session.account)?;
    let OnchainSession { network, account, .. } = &session;
    let token = PaymentToken::underlying_if(args.into_underlying);
    let plan = payers::finalize_withdrawal(network, account, recipient, token).await;
    session.carry_out(plan?).await?;
    let payer = session.account.address();
    finish(session, payer).await
}

async fn finish(session: OnchainSession, payer: Option<Address>) -> Result<(), RunError> {
    session
        .finish_with(async |network: &Network| {
            let Some(payer) = payer else { return Ok(None) };
            Ok(Some(fields(&payers::balance(network, payer).await?)))
        })
        .await
}

fn fields(balance: &PayerBalance) -> ResultFields {
    let amount = balance.balance.magnitude();
    let fields = ResultFields::default()
        .with("payer", balance.payer.to_string())
        .signed_amount("balance", amount, balance.balance.0 < 0)
        .amount("fee_tokens", balance.fee_tokens);
    let fields = match balance.underlying_tokens {
        Some(tokens) => fields.amount("underlying_tokens", tokens),
        None => fields,
    };
    let fields = fields
        .with("settlement_chain_wei", balance.native.0.to_string())
        .with("block", balance.block);
    match balance.withdrawal {
        None => fields,
        Some(withdrawal) => fields
            .amount("withdrawal", withdrawal.amount)
            .with("withdrawal_nonce", withdrawal.nonce)
            .time("withdrawal_ready_at", withdrawal.ready_at)
            .with("withdrawal_ready_in_seconds", withdrawal.ready_at.saturating_sub(balance.now)),
    }
}
