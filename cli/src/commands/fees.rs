//! `hawser fees`: the fees that nodes and the protocol have earned.

use hawser_chain::admin::fees::{self, Beneficiary, OwedFees, ReportClaims};
use hawser_chain::admin::{Network, PaymentToken};
use hawser_node::error::RunError;
use hawser_proto::OriginatorId;
use serde_json::{Value, json};

use super::payer_funds::recipient;
use crate::args::onchain::TransactionArgs;
use crate::args::payer::{
    BeneficiaryArgs, FeesClaimArgs, FeesCommand, FeesShowArgs, FeesWithdrawArgs,
};
use crate::commands::onchain::{self, ChainsNeeded, OnchainSession, ResultFields, SENDER};
use crate::output;

/// Runs the command.
///
/// # Errors
/// When a step fails; the text says whether something was sent.
pub(super) async fn run(command: FeesCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        FeesCommand::Claim(args) => claim(&args, as_json).await,
        FeesCommand::Withdraw(args) => withdraw(&args, as_json).await,
        FeesCommand::Show(args) => show(&args, as_json).await,
        FeesCommand::Excess(args) => excess(&args, as_json).await,
    }
}

async fn claim(args: &FeesClaimArgs, as_json: bool) -> Result<(), RunError> {
    let whose = beneficiary(&args.whose)?;
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, SENDER, as_json).await?;
    let plan = fees::claim(&session.network, whose, &originators(&args.originator)).await?;
    session.carry_out(plan).await?;
    finish(session, whose).await
}

async fn withdraw(args: &FeesWithdrawArgs, as_json: bool) -> Result<(), RunError> {
    let whose = beneficiary(&args.whose)?;
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, SENDER, as_json).await?;
    let recipient = match whose {
        Beneficiary::Node(_) => recipient(args.recipient, &session.account)?,
        Beneficiary::Protocol => Default::default(),
    };
    let token = PaymentToken::underlying_if(args.into_underlying);
    let plan = fees::withdraw(&session.network, whose, recipient, token).await;
    session.carry_out(plan?).await?;
    finish(session, whose).await
}

async fn finish(session: OnchainSession, whose: Beneficiary) -> Result<(), RunError> {
    session
        .finish_with(async |network: &Network| {
            let owed = fees::owed_to(network, whose).await?;
            let fields = match whose {
                Beneficiary::Node(node_id) => ResultFields::default().with("node", node_id.0),
                Beneficiary::Protocol => ResultFields::default().with("protocol", true),
            };
            Ok(Some(fields.amount("owed", owed)))
        })
        .await
}

async fn excess(args: &TransactionArgs, as_json: bool) -> Result<(), RunError> {
    let mut session = OnchainSession::open(args, ChainsNeeded::Settlement, SENDER, as_json).await?;
    let plan = fees::send_excess(&session.network).await?;
    session.carry_out(plan).await?;
    session
        .finish_with(async |network: &Network| Ok(Some(totals(&fees::owed(network).await?))))
        .await
}

async fn show(args: &FeesShowArgs, as_json: bool) -> Result<(), RunError> {
    let network = onchain::connect(&args.network, ChainsNeeded::Settlement).await?;
    let owed = fees::owed(&network).await?;
    let claims = fees::claims(&network, &originators(&args.originator)).await?;
    let nodes = owed.nodes.iter().map(|(node_id, owed)| {
        ResultFields::default().with("node", node_id.0).amount("owed", *owed)
    });
    if as_json {
        output::line(json!({
            "nodes": nodes.map(ResultFields::into_json).collect::<Vec<_>>(),
            "totals": totals(&owed).into_json(),
            "reports": claims.iter().map(|claims| report(claims).into_json()).collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    nodes.for_each(|row| row.print_row());
    totals(&owed).print();
    claims.iter().for_each(|claims| report(claims).print_row());
    Ok(())
}

/// Returns the ids that an argument lists.
fn originators(ids: &[u32]) -> Vec<OriginatorId> {
    ids.iter().copied().map(OriginatorId).collect()
}

fn totals(owed: &OwedFees) -> ResultFields {
    ResultFields::default()
        .amount("protocol_owed", owed.protocol)
        .with("protocol_recipient", owed.protocol_recipient.to_string())
        .amount("available", owed.available)
        .amount("excess_of_payers", owed.excess)
}

fn report(claims: &ReportClaims) -> ResultFields {
    let ReportClaims { report, nodes, protocol } = claims;
    let state = if report.is_settled { "settled" } else { "not settled" };
    let ids = |ids: &mut dyn Iterator<Item = &OriginatorId>| ids.map(|id| id.0).collect::<Value>();
    ResultFields::default()
        .with("originator", report.originator.0)
        .with("index", report.index)
        .with("end_sequence_id", report.end_sequence_id.0)
        .with("state", state)
        .amount("fees", report.fees_settled)
        .amount("share_of_node", report.share_of_node())
        .amount("share_of_protocol", report.share_of_protocol())
        .with("nodes", ids(&mut report.node_ids.iter()))
        .with("claimed_by", ids(&mut nodes.iter()))
        .with("claimed_by_protocol", *protocol)
}

fn beneficiary(whose: &BeneficiaryArgs) -> Result<Beneficiary, RunError> {
    match (whose.node, whose.protocol) {
        (Some(node_id), false) => Ok(Beneficiary::Node(OriginatorId(node_id))),
        (None, true) => Ok(Beneficiary::Protocol),
        _ => Err(RunError::usage("give --node ID or --protocol")),
    }
}
