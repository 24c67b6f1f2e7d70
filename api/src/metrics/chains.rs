//! Metrics of the chains that the node reads.

use std::fmt;

use hawser_serve::ChainListStatus;
use hawser_serve::metrics::Exposition;

use crate::views::{ChainState, ContractReading, ReadingState};

/// Writes the state of each chain.
pub(super) fn chains(out: &mut Exposition<'_>, chains: &[ChainState]) -> fmt::Result {
    let label = |chain: &ChainState| [("chain", chain.name)];
    let age = |chain: &ChainState| Some((label(chain), chain.unseen_for?.as_secs_f64()));
    out.gauges(
        "xmtp_chain_head_age_seconds",
        "Time since the last known head of the chain, seconds",
        chains.iter().filter_map(age),
    )?;
    out.gauges(
        "xmtp_chain_head_block",
        "The chain's last block",
        chains.iter().filter_map(|chain| Some((label(chain), chain.head?))),
    )?;
    out.gauges(
        "xmtp_chain_pushed",
        "1 if a WebSocket announces new heads of the chain",
        chains.iter().map(|chain| (label(chain), i64::from(chain.pushed))),
    )?;
    let native = |chain: &ChainState| {
        let balances = chain.account.as_ref()?.balances?;
        Some((label(chain), balances.native_wei as f64))
    };
    out.gauges(
        "xmtp_account_balance_wei",
        "The chain's native token that this node's account has, wei",
        chains.iter().filter_map(native),
    )?;
    let fee_tokens = |chain: &ChainState| {
        let amount = chain.account.as_ref()?.balances?.fee_token_microdollars?;
        Some((label(chain), amount as f64))
    };
    out.gauges(
        "xmtp_account_fee_token_microdollars",
        "The fee token that this node's account has, millionths of a dollar",
        chains.iter().filter_map(fee_tokens),
    )?;
    let lists: Vec<_> = chains.iter().flat_map(|chain| &chain.lists).collect();
    ChainListStatus::encode_all(&lists, out)?;
    faults(out, chains)
}

/// Writes the faults of the chains and their endpoints.
fn faults(out: &mut Exposition<'_>, chains: &[ChainState]) -> fmt::Result {
    let depths = |chain: &ChainState| {
        let name = chain.name;
        let labels = move |depth| [("chain", name), ("depth_bucket", depth)];
        let depths = chain.reorganisations.clone().into_iter();
        depths.map(move |(depth, count)| (labels(depth), count))
    };
    out.counters(
        "xmtp_chain_reorgs",
        "Reorganisations of blocks that had been read, by depth",
        chains.iter().flat_map(depths),
    )?;
    let faults = |chain: &ChainState| {
        let name = chain.name;
        let faults = chain.faults.clone().into_iter();
        faults.map(move |(kind, count)| ([("chain", name), ("kind", kind)], count))
    };
    out.counters(
        "xmtp_rpc_errors",
        "Failed requests to the chain's endpoints, by kind",
        chains.iter().flat_map(faults),
    )?;
    let active = |chain: &ChainState| {
        let name = chain.name;
        let endpoints = chain.endpoints.iter().map(|it| it.active).collect::<Vec<_>>();
        endpoints.into_iter().enumerate().map(move |(index, active)| {
            let labels = [("chain", name.to_owned()), ("endpoint_index", index.to_string())];
            (labels, i64::from(active))
        })
    };
    out.gauges(
        "xmtp_rpc_active",
        "1 for the endpoint that gave the last answer, counted from 0 in order of preference",
        chains.iter().flat_map(active),
    )
}

/// Writes the state of each contract that is read.
pub(super) fn contracts(out: &mut Exposition<'_>, chains: &[ChainState]) -> fmt::Result {
    progress(out, chains)?;
    reading(out, chains)
}

fn readings(chains: &[ChainState]) -> impl Iterator<Item = &ContractReading> {
    chains.iter().flat_map(|chain| &chain.contracts)
}

fn label(reading: &ContractReading) -> [(&'static str, String); 1] {
    [("contract_address", reading.contract.clone())]
}

/// Writes the progress of reading each contract.
fn progress(out: &mut Exposition<'_>, chains: &[ChainState]) -> fmt::Result {
    let readings = || readings(chains);
    out.plain_counters(
        "xmtp_indexer_log_streamer_logs",
        "Events of the contract that were stored",
        readings().map(|it| (label(it), it.events)),
    )?;
    out.plain_counters(
        "xmtp_indexer_bytes_indexer",
        "Bytes of payloads in stored events of the contract",
        readings().map(|it| (label(it), it.bytes)),
    )?;
    out.gauges(
        "xmtp_indexer_log_streamer_current_block",
        "The last block that was read for the contract",
        readings().filter_map(|it| Some((label(it), it.read_block?))),
    )?;
    out.gauges(
        "xmtp_indexer_log_streamer_max_block",
        "The last block of the contract's chain",
        readings().filter_map(|it| Some((label(it), it.head_block?))),
    )?;
    out.gauges(
        "xmtp_indexer_log_streamer_block_lag",
        "Blocks between the last one read for the contract and its chain's last one",
        readings().map(|it| (label(it), it.lag_blocks())),
    )?;
    out.gauges(
        "xmtp_indexer_lag_seconds",
        "Time since the contract was last read to the head, seconds; 0 at the head",
        readings().map(|it| (label(it), it.behind_for.unwrap_or_default().as_secs_f64())),
    )?;
    out.gauges(
        "xmtp_indexer_halted",
        "1 if reading the contract has stopped until the operator decides",
        readings().map(|it| (label(it), i64::from(matches!(it.state, ReadingState::Halted(_))))),
    )?;
    out.gauges(
        "xmtp_chain_contract_paused",
        "1 if the operators of the network have paused the contract",
        readings().filter_map(|it| Some((label(it), i64::from(it.pause?.is_paused)))),
    )
}

/// Writes the requests for each contract's events, and the faults of the answers.
fn reading(out: &mut Exposition<'_>, chains: &[ChainState]) -> fmt::Result {
    let readings = || readings(chains);
    let requests = |it: &ContractReading| {
        let contract = it.contract.clone();
        let labels = move |success: &'static str| {
            [("contract_address", contract.clone()), ("success", success.to_owned())]
        };
        [(labels("true"), it.pages), (labels("false"), it.failed_pages)]
    };
    out.plain_counters(
        "xmtp_indexer_log_streamer_get_logs_requests",
        "Log queries (eth_getLogs) for the contract, by success",
        readings().flat_map(requests),
    )?;
    out.gauges(
        "xmtp_indexer_get_logs_seconds",
        "Total time of log queries for the contract, seconds",
        readings().map(|it| (label(it), it.asking.as_secs_f64())),
    )?;
    out.histograms(
        "xmtp_indexer_log_streamer_get_logs_duration",
        "Times of log queries for the contract, milliseconds",
        readings().map(|it| (label(it), &it.queries_ms)),
    )?;
    out.histograms(
        "xmtp_indexer_log_processing_time_seconds",
        "Times of storing a batch of the contract's events, seconds",
        readings().map(|it| (label(it), &it.batches_s)),
    )?;
    out.gauges(
        "xmtp_indexer_storing_seconds",
        "Total time of storing the contract's events, seconds",
        readings().map(|it| (label(it), it.storing.as_secs_f64())),
    )?;
    out.plain_counters(
        "xmtp_indexer_retryable_storage_error_count",
        "Retries of storing the contract's events",
        readings().map(|it| (label(it), it.retries)),
    )?;
    out.counters(
        "xmtp_indexer_gaps",
        "Gaps in the events that endpoints returned",
        readings().map(|it| (label(it), it.gaps)),
    )?;
    let odd = |it: &ContractReading| {
        let contract = it.contract.clone();
        let kinds = it.odd.clone().into_iter();
        kinds.map(move |(kind, count)| {
            ([("contract_address", contract.clone()), ("kind", kind.to_owned())], count)
        })
    };
    out.counters(
        "xmtp_indexer_odd_logs",
        "Unexpected logs in responses, left out, by kind",
        readings().flat_map(odd),
    )
}
