//! `hawser registry rates`.

use std::time::{SystemTime, UNIX_EPOCH};

use hawser_chain::admin::rates::{self, Prices};
use hawser_chain::admin::{Contract, Network};
use hawser_chain::watch;
use hawser_node::error::RunError;
use hawser_node::files::rates::{RateRecord, RatesFile};
use hawser_rules::{PicoDollarPrice, PicoDollarsPerByteDay, Rate};

use crate::args::registry::{RatesAddArgs, RatesListArgs};
use crate::clock::now_unix_s;
use crate::commands::onchain::{
    self, ChainsNeeded, OnchainSession, ReachedNetwork, ResultFields, SENDER,
};
use crate::output;

pub(super) async fn add(args: &RatesAddArgs, as_json: bool) -> Result<(), RunError> {
    let prices = Prices {
        message_fee: PicoDollarPrice(args.message_fee),
        storage_fee: PicoDollarsPerByteDay(args.storage_fee),
        congestion_fee: PicoDollarPrice(args.congestion_fee),
        target_rate_per_minute: args.target_rate_per_minute,
    };
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, SENDER, as_json).await?;
    // Nodes price by their clocks, not by the chain's. A clock before 1970 must not choose a start of prices.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(RunError::failed)?.as_secs();
    let plan = rates::add(&session.network, &prices, args.start_time, now).await;
    session.carry_out(plan?).await?;
    session
        .finish_with(async |network: &Network| {
            let all = rates::list(network).await?;
            Ok(all.last().map(|newest| fields(all.len() - 1, newest)))
        })
        .await
}

pub(super) async fn list(args: &RatesListArgs, as_json: bool) -> Result<(), RunError> {
    let reached = onchain::connect_to_all(&args.network, ChainsNeeded::Settlement).await?;
    if args.rates_file {
        let file = rates_file(&reached).await?;
        output::line(serde_json::to_string_pretty(&file).map_err(RunError::failed)?);
        return Ok(());
    }
    let all = rates::list(&reached.network).await?;
    let rows = all.iter().enumerate().map(|(index, rate)| fields(index, rate));
    if all.is_empty() && !as_json {
        output::line("there are no rates");
    }
    ResultFields::print_list(rows, as_json);
    Ok(())
}

/// Reads all rates of the settlement chain as the content of a rates file, with the time of the chain's newest block.
/// Nodes and auditors judge others by such a file, so the other endpoints are asked, too.
///
/// # Errors
/// When the registry or the block cannot be read, and when endpoints contradict each other.
pub(in crate::commands) async fn rates_file(
    reached: &ReachedNetwork,
) -> Result<RatesFile, RunError> {
    let (network, now_unix_s) = (&reached.network, now_unix_s());
    let (all, stated) = rates::list_with_time(network).await?;
    let complete_until = complete_until(stated, now_unix_s);
    let file = RatesFile { complete_until, rates: all.iter().map(RateRecord::of).collect() };
    if !reached.settlement.are_several() {
        return Ok(file);
    }
    let of_file = file.table_for_judging().map_err(RunError::failed)?;
    let address = network.at(Contract::RateRegistry)?;
    let agreed = watch::rates_now(reached.settlement.endpoints(), address).await;
    if agreed.map_err(RunError::failed)?.rates() != of_file.rates() {
        return Err(reached.contradicted("rates"));
    }
    Ok(file)
}

/// Returns the time up to which a list is complete that was read at `now_unix_s` or later. An endpoint may state a time
/// that has not come, and by such a list honest fees of a later rate would be judged as wrong ones.
fn complete_until(stated_unix_s: Option<u64>, now_unix_s: u64) -> Option<u64> {
    stated_unix_s.map(|stated| stated.min(now_unix_s))
}

/// Returns a rate with the field names of `rates.json`, fees in picodollars, and its place in the list.
fn fields(index: usize, rate: &Rate) -> ResultFields {
    ResultFields::default()
        .with("index", index)
        .with("messageFee", rate.message_fee.0)
        .with("storageFee", rate.storage_fee.0)
        .with("congestionFee", rate.congestion_fee.0)
        .with("targetRatePerMinute", rate.target_rate_per_minute)
        .time("startTime", rate.start_unix_s)
}

#[cfg(test)]
mod tests {
    use super::complete_until;

    #[test]
    fn no_endpoint_makes_a_list_complete_for_times_that_have_not_come() {
        assert_eq!(complete_until(Some(u64::MAX), 1_750_000_000), Some(1_750_000_000));
        assert_eq!(complete_until(Some(7), 1_750_000_000), Some(7));
        assert_eq!(complete_until(None, 1_750_000_000), None);
    }
}
