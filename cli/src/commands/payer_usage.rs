//! `hawser payer usage` and `hawser payer estimate`.

use hawser_chain::admin::Contract;
use hawser_chain::watch;
use hawser_node::error::RunError;
use hawser_rules::PicoDollarPrice;
use hawser_rules::fees::base_fee;
use hawser_rules::payer_report::{PicoDollars, SettledAmount};
use serde_json::json;

use crate::args::payer::{EstimateArgs, UsageArgs};
use crate::clock::now_unix_s;
use crate::commands::onchain::{self, ChainsNeeded};
use crate::commands::report;
use crate::output;

/// Picodollars per dollar, and their decimal digits.
const PER_DOLLAR: u128 = 1_000_000_000_000;
const DECIMALS: usize = 12;

/// Shows a payer's usage as a node has booked it, apart: settled, and not settled yet.
///
/// # Errors
/// When the node does not answer.
pub(super) async fn usage(args: &UsageArgs, as_json: bool) -> Result<(), RunError> {
    let payer = args.payer;
    let file = report::of_network(&args.network);
    let usage = report::ask(&args.node, file.as_deref(), &format!("?payer={payer}")).await?;
    if as_json {
        output::line(&usage);
        return Ok(());
    }
    let envelopes = output::count(usage["envelopes"].as_u64().unwrap_or_default(), "envelope");
    output::line(format_args!("payer {payer}: {envelopes}"));
    for (name, field) in [
        ("not settled yet", "unsettled_picodollars"),
        ("settled", "settled_picodollars"),
        ("balance", "balance_picodollars"),
        ("available", "available_picodollars"),
    ] {
        let amount = report::amount(&usage[field]);
        let amount = amount.map_or_else(|| "?".to_owned(), in_dollars);
        output::line(format_args!("  {name}: {amount}"));
    }
    Ok(())
}

/// Formats picodollars as `-1.5 USD (-1500000000000 p$)`.
fn in_dollars(picodollars: i128) -> String {
    let sign = if picodollars < 0 { "-" } else { "" };
    let amount = picodollars.unsigned_abs();
    let decimal = format!("{}.{:0DECIMALS$}", amount / PER_DOLLAR, amount % PER_DOLLAR);
    let dollars = decimal.trim_end_matches('0').trim_end_matches('.');
    format!("{sign}{dollars} USD ({picodollars} p$)")
}

/// Estimates the cost of envelopes at the rates of the settlement chain, without congestion. Of several endpoints, more
/// have to show the same rates than show others.
///
/// # Errors
/// When the rates cannot be read, or give no price.
pub(super) async fn estimate(mut args: EstimateArgs, as_json: bool) -> Result<(), RunError> {
    let reached = onchain::connect_to_all(args.network(), ChainsNeeded::Settlement).await?;
    let registry = reached.network.at(Contract::RateRegistry)?;
    let now = now_unix_s();
    let rates = watch::rates_now(reached.settlement.endpoints(), registry).await;
    let rates = rates.map_err(RunError::failed)?;
    let in_force = rates.rates().iter().rev().find(|rate| rate.start_unix_s <= now);
    let none = || {
        RunError::not_found(
            "no rate of the rate registry is in force yet: hawser registry rates list shows when they start",
        )
    };
    let rate = in_force.ok_or_else(none)?;
    let too_large = || {
        RunError::usage(
            "the fee is larger than any amount can be: give a smaller --count or --size",
        )
    };
    let PicoDollarPrice(one) =
        base_fee(rate, args.size, args.retention).map_err(RunError::usage)?;
    let all = one.checked_mul(args.count).and_then(PicoDollars::new).ok_or_else(too_large)?;
    let SettledAmount(settled) = all.settled();
    if as_json {
        output::line(json!({
            "picodollars_each": one.to_string(),
            "picodollars": all.get().to_string(),
            "microdollars_at_least": settled.to_string(),
        }));
    } else {
        output::line(format_args!("each: {}", in_dollars(one.into())));
        output::line(format_args!("{} together: {}", args.count, in_dollars(all.get().into())));
        output::line(format_args!("settled: {settled} µ$, and up to one more for each report"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_shown_in_dollars_to_the_last_picodollar() {
        let cases = [
            (0, "0 USD (0 p$)"),
            (1, "0.000000000001 USD (1 p$)"),
            (100_000_000_000_000, "100 USD (100000000000000 p$)"),
            (-1_500_000_000_000, "-1.5 USD (-1500000000000 p$)"),
        ];
        for (amount, text) in cases {
            assert_eq!(in_dollars(amount), text);
        }
    }
}
