//! `hawser payer fund`, `mint`, `wrap`, `unwrap` and `leave-app`: money between tokens and chains.

use alloy::primitives::Address;
use hawser_chain::admin::bridge::Gas;
use hawser_chain::admin::funding::{self, Funding};
use hawser_chain::admin::{
    Account, AdminError, ChainRole, MicroDollars, Network, PaymentToken, WeiPerGas, payers,
};
use hawser_chain::send::Chain;
use hawser_node::error::RunError;

use crate::args::payer::{AmountArgs, FundArgs, LeaveAppArgs, UnwrapArgs};
use crate::commands::onchain::{ChainsNeeded, OnchainSession, PAYER, ResultFields};

/// Funds a payer on both chains.
///
/// # Errors
/// When a step fails; the text says whether something was sent.
pub(super) async fn fund(args: &FundArgs, as_json: bool) -> Result<(), RunError> {
    let nothing = MicroDollars::default();
    if args.registry_amount == nothing && args.app_amount == nothing {
        return Err(RunError::usage("name an amount: --registry-amount, --app-amount, or both"));
    }
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::AppIfGiven, PAYER, as_json).await?;
    session.refuse_repeated_payment(ChainRole::Settlement)?;
    let payer = payer(args.payer, &session.account)?;
    if args.app_recipient.is_none() && args.app_amount != nothing {
        refuse_contract(&session.network.settlement, payer, "--app-recipient").await?;
    }
    let funding = Funding {
        payer,
        amount: args.registry_amount,
        app_recipient: args.app_recipient.unwrap_or(payer),
        app_amount: args.app_amount,
        gas_limit: args.gas_limit.map(Gas),
        max_fee_per_gas: args.max_fee_per_gas.map(|wei| WeiPerGas(wei.into())),
        wrap: args.from_underlying,
    };
    let plan = funding::fund(&session.network, &session.account, &funding).await?;
    session.carry_out(plan).await?;
    finish(session, Some(payer)).await
}

/// Makes underlying tokens where they are a stand-in.
///
/// # Errors
/// When a step fails; the text says whether something was sent.
pub(super) async fn mint(args: &UnwrapArgs, as_json: bool) -> Result<(), RunError> {
    let mut session =
        OnchainSession::open(&args.sum.transactions, ChainsNeeded::Settlement, PAYER, as_json)
            .await?;
    session.refuse_repeated_payment(ChainRole::Settlement)?;
    let recipient = recipient(args.recipient, &session.account)?;
    let plan = funding::mint(&session.network, recipient, args.sum.amount)?;
    session.carry_out(plan).await?;
    finish(session, Some(recipient)).await
}

/// Wraps underlying tokens.
///
/// # Errors
/// When a step fails; the text says whether something was sent.
pub(super) async fn wrap(args: &AmountArgs, as_json: bool) -> Result<(), RunError> {
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, PAYER, as_json).await?;
    session.refuse_repeated_payment(ChainRole::Settlement)?;
    let plan = funding::wrap(&session.network, &session.account, args.amount).await?;
    session.carry_out(plan).await?;
    let account = session.account.address();
    finish(session, account).await
}

/// Unwraps fee tokens.
///
/// # Errors
/// When a step fails; the text says whether something was sent.
pub(super) async fn unwrap(args: &UnwrapArgs, as_json: bool) -> Result<(), RunError> {
    let mut session =
        OnchainSession::open(&args.sum.transactions, ChainsNeeded::Settlement, PAYER, as_json)
            .await?;
    session.refuse_repeated_payment(ChainRole::Settlement)?;
    let recipient = recipient(args.recipient, &session.account)?;
    let plan = funding::unwrap(&session.network, recipient, args.sum.amount)?;
    session.carry_out(plan).await?;
    let account = session.account.address();
    finish(session, account).await
}

/// Sends native tokens of the app chain back.
///
/// # Errors
/// When a step fails; the text says whether something was sent.
pub(super) async fn leave_app(args: &LeaveAppArgs, as_json: bool) -> Result<(), RunError> {
    let mut session =
        OnchainSession::open(&args.sum.transactions, ChainsNeeded::AppIfGiven, PAYER, as_json)
            .await?;
    session.refuse_repeated_payment(ChainRole::App)?;
    let recipient = recipient(args.recipient, &session.account)?;
    if let (None, Some(app)) = (args.recipient, &session.network.app) {
        refuse_contract(app, recipient, "--recipient").await?;
    }
    let token = PaymentToken::underlying_if(args.into_underlying);
    let plan = funding::from_app_chain(&session.network, recipient, args.sum.amount, token)?;
    session.carry_out(plan).await?;
    let account = session.account.address();
    finish(session, account).await
}

/// Refuses a contract on one chain as the recipient on the other one, unless it is named with `flag`: a contract, such
/// as a multisig, need not be there, and what its address gets is lost then.
async fn refuse_contract(chain: &Chain, account: Address, flag: &str) -> Result<(), RunError> {
    if !chain.has_keyless_code(account).await.map_err(RunError::failed)? {
        return Ok(());
    }
    Err(RunError::refused(format!(
        "{account} is a contract on chain {}, and may not be there on the other chain: name the recipient with {flag}",
        chain.id()
    )))
}

/// Returns the payer that was given, or else the account that sends.
pub(super) fn payer(named: Option<Address>, account: &Account) -> Result<Address, RunError> {
    named
        .or_else(|| account.address())
        .ok_or_else(|| RunError::usage("no payer is named: give --payer ADDRESS"))
}

/// Returns the recipient that was given, or else the account that sends.
pub(super) fn recipient(named: Option<Address>, account: &Account) -> Result<Address, RunError> {
    named
        .or_else(|| account.address())
        .ok_or_else(|| RunError::usage("no recipient is named: give --recipient ADDRESS"))
}

async fn finish(session: OnchainSession, account: Option<Address>) -> Result<(), RunError> {
    session
        .finish_with(async |network: &Network| {
            let Some(account) = account else { return Ok(None) };
            Ok(Some(balances(network, account).await?))
        })
        .await
}

/// Reads the balances of an account on both chains.
async fn balances(network: &Network, account: Address) -> Result<ResultFields, AdminError> {
    let balance = payers::balance(network, account).await?;
    let fields = ResultFields::default()
        .with("account", account.to_string())
        .with("registry_microdollars", balance.balance.0.to_string())
        .amount("fee_tokens", balance.fee_tokens);
    let fields = match balance.underlying_tokens {
        Some(tokens) => fields.amount("underlying_tokens", tokens),
        None => fields,
    };
    Ok(match funding::app_balance(network, account).await? {
        Some(wei) => fields.with("app_chain_wei", wei.0.to_string()),
        None => fields,
    })
}
