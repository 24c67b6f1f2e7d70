//! The requests of the second look.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use alloy::rpc::types::Filter;

use super::fetch;
use super::look::{Claim, Due, EventSet, Verdict};
use super::walk::WalkSettings;
use crate::endpoints::Endpoints;
use crate::send::RequestError;

/// The answer of a second look at some blocks.
pub(super) struct LookAnswer {
    pub(super) blocks: RangeInclusive<u64>,
    /// An error if the endpoints that have to answer did not.
    pub(super) outcome: Result<LookOutcome, RequestError>,
}

/// The result of a second look.
pub(super) enum LookOutcome {
    /// No endpoint has more than was read, or what one claims is denied.
    Nothing,
    /// An endpoint claims more, and those that could confirm it did not answer.
    Open {
        /// The first block with more.
        block: u64,
        /// The places of the endpoints that claim it.
        claimants: BTreeSet<usize>,
    },
    /// A block has more events than were read.
    More {
        /// The first such block.
        block: u64,
        /// The place of the endpoint that is read from, if it still does not show them.
        lacking: Option<usize>,
    },
    /// An endpoint has more on another branch of the chain than others, or had and is silent now.
    Contradicted {
        /// The first block with more.
        block: u64,
        /// The places of the endpoints that claim it.
        claimants: BTreeSet<usize>,
    },
}

/// Asks every endpoint for the logs of blocks that were read, and then every one about what any of them
/// shows beyond that. A claim that is denied leads to no pause: a false claim looks like a false denial.
///
/// `held` are the places of endpoints that contradicted others before: their silence changes nothing.
pub(super) async fn look(
    endpoints: &Endpoints,
    settings: &WalkSettings,
    filter: &Filter,
    due: &Due,
    held: &BTreeSet<usize>,
) -> Result<LookOutcome, RequestError> {
    let (blocks, source, address) = (&due.blocks, settings.source, settings.address);
    let shown = endpoints
        .each(|chain| async move { fetch::logs_in_parts(&chain, filter, blocks).await })
        .await;
    let active = endpoints.active();
    let is_silent = |place: &usize| shown.get(*place).is_some_and(Result::is_err);
    let silent: BTreeSet<_> = held.iter().copied().filter(is_silent).collect();
    let read_from = shown.get(active).and_then(|logs| logs.as_ref().ok());
    let known = match (&due.known, read_from) {
        (Some(known), _) => Some(known.clone()),
        (None, Some(logs)) => Some(EventSet::shown(blocks, logs, source, address)),
        (None, None) => None,
    };
    let is_active_heard = read_from.is_some();
    let (mut claims, mut failure, mut is_answered) = (Vec::new(), None, false);
    for (place, answer) in shown.into_iter().enumerate() {
        match answer {
            Ok(logs) => {
                is_answered = true;
                let known = known.as_ref();
                let claim =
                    known.and_then(|known| Claim::find(blocks, known, &logs, source, address));
                claims.extend(claim.map(|claim| (place, claim)));
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if let Some(error) = failure.filter(|_| !is_answered || known.is_none()) {
        return Err(error);
    }
    let verdicts = judge(endpoints, &claims, active).await;
    let of = |wanted: Verdict| -> Option<(u64, BTreeSet<usize>)> {
        let all = claims.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == wanted);
        let all: Vec<_> = all.map(|((by, claim), _)| (claim.block.number, *by)).collect();
        let block = all.iter().map(|(block, _)| *block).min()?;
        Some((block, all.into_iter().map(|(_, by)| by).collect()))
    };
    if let Some((block, claimants)) = of(Verdict::Contradicted) {
        return Ok(LookOutcome::Contradicted { block, claimants: &claimants | &silent });
    }
    if !silent.is_empty() {
        return Ok(LookOutcome::Contradicted { block: *blocks.start(), claimants: silent });
    }
    if let Some((block, claimants)) = of(Verdict::Confirmed) {
        let lacking = (is_active_heard && !claimants.contains(&active)).then_some(active);
        return Ok(LookOutcome::More { block, lacking });
    }
    let open = of(Verdict::Open);
    Ok(open
        .map_or(LookOutcome::Nothing, |(block, claimants)| LookOutcome::Open { block, claimants }))
}

/// Asks every endpoint about claims, and returns the verdict on each.
async fn judge(endpoints: &Endpoints, claims: &[(usize, Claim)], active: usize) -> Vec<Verdict> {
    let mut verdicts = Vec::with_capacity(claims.len());
    for (by, claim) in claims {
        let told = endpoints.each(|chain| async move { fetch::testimony(&chain, claim).await });
        let told: Vec<_> = told.await.into_iter().map(Result::ok).collect();
        let verdict = claim.judge(*by, active, &told);
        if verdict == Verdict::Denied {
            let block = claim.block.number;
            tracing::warn!(block, "an endpoint shows events that another one does not have");
        }
        verdicts.push(verdict);
    }
    verdicts
}
