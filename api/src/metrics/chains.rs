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
        "For how long the chain has not said where it is, seconds",
        chains.iter().filter_map(age),
    )?;
    out.gauges(
        "xmtp_chain_head_block",
        "The chain's last block",
        chains.iter().filter_map(|chain| Some((label(chain), chain.head?))),
    )?;
    out.gauges(
        "xmtp_chain_pushed",
        "1 if the chain tells what is new over a WebSocket",
        chains.iter().map(|chain| (label(chain), i64::from(chain.pushed))),
    )?;
    let lists: Vec<_> = chains.iter().flat_map(|chain| &chain.lists).collect();
    ChainListStatus::encode_all(&lists, out)?;
    faults(out, chains)
}

/// Writes what went wrong with the chains and their endpoints.
fn faults(out: &mut Exposition<'_>, chains: &[ChainState]) -> fmt::Result {
    let depths = |chain: &ChainState| {
        let name = chain.name;
        let labels = move |depth| [("chain", name), ("depth_bucket", depth)];
        let depths = chain.reorganisations.clone().into_iter();
        depths.map(move |(depth, count)| (labels(depth), count))
    };
    out.counters(
        "xmtp_chain_reorgs",
        "Times that blocks which had been read were replaced, by how many they were",
        chains.iter().flat_map(depths),
    )?;
    let faults = |chain: &ChainState| {
        let name = chain.name;
        let faults = chain.faults.clone().into_iter();
        faults.map(move |(kind, count)| ([("chain", name), ("kind", kind)], count))
    };
    out.counters(
        "xmtp_rpc_errors",
        "Requests to the chain's endpoints that got no useful answer",
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

/// Writes how far each contract is read.
fn progress(out: &mut Exposition<'_>, chains: &[ChainState]) -> fmt::Result {
    let readings = || readings(chains);
    out.counters(
        "xmtp_indexer_log_streamer_logs",
        "Events of the contract that were stored",
        readings().map(|it| (label(it), it.events)),
    )?;
    out.counters(
        "xmtp_indexer_bytes_indexer",
        "Bytes of payloads in them",
        readings().map(|it| (label(it), it.bytes)),
    )?;
    out.gauges(
        "xmtp_indexer_log_streamer_current_block",
        "The last block that was read for the contract",
        readings().filter_map(|it| Some((label(it), it.read_block?))),
    )?;
    out.gauges(
        "xmtp_indexer_log_streamer_max_block",
        "The last block of its chain",
        readings().filter_map(|it| Some((label(it), it.head_block?))),
    )?;
    out.gauges(
        "xmtp_indexer_log_streamer_block_lag",
        "Blocks between the two",
        readings().map(|it| (label(it), it.lag_blocks())),
    )?;
    out.gauges(
        "xmtp_indexer_lag_seconds",
        "For how long not everything of the contract was read, seconds",
        readings().map(|it| (label(it), it.behind_for.unwrap_or_default().as_secs_f64())),
    )?;
    out.gauges(
        "xmtp_indexer_halted",
        "1 if reading the contract has stopped until the operator decides",
        readings().map(|it| (label(it), i64::from(matches!(it.state, ReadingState::Halted(_))))),
    )
}

/// Writes the requests for each contract's events and what was wrong with the answers.
fn reading(out: &mut Exposition<'_>, chains: &[ChainState]) -> fmt::Result {
    let readings = || readings(chains);
    let requests = |it: &ContractReading| {
        let contract = it.contract.clone();
        let labels = move |success: &'static str| {
            [("contract_address", contract.clone()), ("success", success.to_owned())]
        };
        [(labels("true"), it.pages), (labels("false"), it.failed_pages)]
    };
    out.counters(
        "xmtp_indexer_log_streamer_get_logs_requests",
        "Questions for events of the contract",
        readings().flat_map(requests),
    )?;
    out.gauges(
        "xmtp_indexer_get_logs_seconds",
        "How long the answers to these took, together, seconds",
        readings().map(|it| (label(it), it.asking.as_secs_f64())),
    )?;
    out.gauges(
        "xmtp_indexer_storing_seconds",
        "How long storing the contract's events took, together, seconds",
        readings().map(|it| (label(it), it.storing.as_secs_f64())),
    )?;
    out.counters(
        "xmtp_indexer_retryable_storage_error_count",
        "Times that storing events of the contract was tried again",
        readings().map(|it| (label(it), it.retries)),
    )?;
    out.counters(
        "xmtp_indexer_gaps",
        "Times that events were missing in what endpoints had answered",
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
        "Logs in answers that should not have been there, by kind",
        readings().flat_map(odd),
    )
}
