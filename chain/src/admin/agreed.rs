//! Payer reports, and the amounts of their settlements, on which the endpoints of the settlement chain agree.
//!
//! The attacker is an endpoint of the right chain that makes up a report, hides one, or states another root or end: a
//! payer's honest bill, which is judged by them, would differ. It may also make up any number of reports, so that they
//! take memory and time. So the endpoints first agree on the originators, then on the number of reports about each, and
//! each endpoint is asked for these reports alone. Or it moves an amount from one payer of a settlement to another one,
//! so that an honest node seems to have lied.

use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;

use super::fees::{OnchainReport, all_originators};
use super::onchain_reports::{counted_reports, counts};
use super::settled::{SettledLeaves, leaves_of};
use super::{AdminError, Network};
use crate::endpoints::{AnswerTimes, Endpoints};
use crate::send::{Chain, RequestError, ViewError};

/// Time limits of one endpoint: for the originators, for the numbers of reports, for all reports, and for the
/// settlements of one. Guesses: one call; some dozen calls for each originator; many thousand calls at a slow endpoint;
/// some thousand searches. Each call has its own limit.
const LIST_MAX: Duration = Duration::from_secs(30);
const COUNTS_MAX: Duration = Duration::from_secs(150);
const READ_MAX: Duration = Duration::from_secs(420);
const SEARCH_MAX: Duration = Duration::from_secs(900);
/// The part of a limit that is left for the others once more than half have answered: one of this number. A guess:
/// endpoints differ by less.
const GRACE_PART: u32 = 5;
/// Readings, and the pause between two of them. Guesses: a report may be submitted or settled during one reading, and
/// seldom during several; an endpoint has a new block some seconds later than another one.
const READINGS_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// Returns all reports, as [`super::fees::reports`] reads them, if more than half of the endpoints that answer show the
/// same ones. Those with the same host and port count once, and a single one is believed. If half or fewer answer,
/// those that do are believed after some attempts. Contracts are those of `network`, whose own endpoint is not
/// preferred.
///
/// An endpoint that shows something else is logged. It is asked for no more reports than the others show.
///
/// # Errors
/// [`AdminError::ReportsContradicted`]; the error of the contracts that most endpoints show; or the error of the last
/// endpoint, if none answers.
pub async fn reports(
    network: &Network,
    endpoints: &Endpoints,
) -> Result<Vec<OnchainReport>, AdminError> {
    let ask = |settlement| {
        let network = at(network, settlement);
        async move { all_originators(&network).await }
    };
    let described = |all: &Vec<OriginatorId>| format!("originators: {}", all.len());
    let (originators, _) = agree(endpoints, LIST_MAX, ask, described).await?;

    let ask = |settlement| {
        let (network, originators) = (at(network, settlement), originators.clone());
        async move { counts(&network, &originators).await }
    };
    let described = |all: &Vec<(OriginatorId, u64)>| {
        let sum = all.iter().map(|(_, count)| *count).fold(0, u64::saturating_add);
        format!("reports: {sum}")
    };
    let (agreed, _) = agree(endpoints, COUNTS_MAX, ask, described).await?;

    let ask = |settlement| {
        let (network, agreed) = (at(network, settlement), agreed.clone());
        async move { counted_reports(&network, &agreed).await }
    };
    let described = |all: &Vec<OnchainReport>| {
        let settled = all.iter().filter(|report| report.is_settled).count();
        format!("reports: {}, settled: {settled}", all.len())
    };
    let (reports, _) = agree(endpoints, READ_MAX, ask, described).await?;
    Ok(reports)
}

/// Settled leaves, which are equal if their payers and amounts are. Each endpoint is searched from its newest block.
struct ShownLeaves(SettledLeaves);

impl PartialEq for ShownLeaves {
    fn eq(&self, other: &Self) -> bool {
        self.0.leaves == other.0.leaves
    }
}

/// Returns the settled leaves of a report by its id, if more than half of the endpoints that answer show the same ones:
/// see [`reports`]. Searches the newest `blocks_max` blocks, the last ones first, until `wanted` leaves are found.
/// Compare their sum with what is known of the report, because a single endpoint is believed.
///
/// # Errors
/// [`AdminError::ReportsContradicted`]; [`AdminError::NoAddress`] if the payer registry is not known; or the error of
/// the last endpoint, if none answers.
pub async fn settled_leaves(
    network: &Network,
    endpoints: &Endpoints,
    report: [u8; 32],
    wanted: u64,
    blocks_max: u64,
) -> Result<SettledLeaves, AdminError> {
    if endpoints.hosts() < 2 {
        return leaves_of(network, report, wanted, blocks_max).await;
    }
    let ask = |settlement| {
        let network = at(network, settlement);
        async move { leaves_of(&network, report, wanted, blocks_max).await.map(ShownLeaves) }
    };
    let described = |shown: &ShownLeaves| {
        let sum: u128 = shown.0.leaves.iter().map(|(_, amount)| amount.get()).sum();
        format!("settled leaves: {} of {sum} µ$", shown.0.leaves.len())
    };
    let (ShownLeaves(shown), shown_by) = agree(endpoints, SEARCH_MAX, ask, described).await?;
    Ok(SettledLeaves { shown_by, ..shown })
}

/// Returns the network with another endpoint of the settlement chain.
fn at(network: &Network, settlement: Chain) -> Network {
    Network { settlement, ..network.clone() }
}

/// Returns the answer that most of the endpoints give, and their number, and logs those that give another one. A
/// reading is repeated within `time_max`, which is also the limit of one endpoint.
async fn agree<T, F, Fut>(
    endpoints: &Endpoints,
    time_max: Duration,
    ask: F,
    described: fn(&T) -> String,
) -> Result<(T, usize), AdminError>
where
    T: PartialEq,
    F: Fn(Chain) -> Fut,
    Fut: Future<Output = Result<T, AdminError>>,
{
    let times = AnswerTimes { time_max, paused_max: time_max, grace: time_max / GRACE_PART };
    let (mut left, began) = (READINGS_MAX, Instant::now());
    loop {
        left -= 1;
        let named = |chain: Chain| {
            let (endpoint, answer) = (chain.endpoint().to_owned(), ask(chain));
            async move { Ok::<_, RequestError>((endpoint, answered(answer.await)?)) }
        };
        let answers = endpoints.each_until_majority_with_paused(times, named).await?;
        let is_last = left == 0 || began.elapsed() >= time_max;
        let answered_by = answers.len();
        let needs_more = answered_by <= endpoints.hosts() / 2;
        match of_most(answers) {
            Ok((agreed, others)) if is_last || !needs_more => {
                for (endpoint, other) in &others {
                    let shows = text_of(other, described);
                    tracing::warn!(
                        endpoint,
                        shows,
                        "an endpoint of the settlement chain shows other payer reports than most: they do not count"
                    );
                }
                return agreed.map(|agreed| (agreed, answered_by - others.len()));
            }
            Err(NoMajorityError(all)) if is_last => {
                let shown = all.iter().map(|(endpoint, answer)| {
                    let text = text_of(answer, described);
                    format!("{endpoint}: {text}")
                });
                return Err(AdminError::ReportsContradicted { shown: shown.collect() });
            }
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Returns the answer of one endpoint. An error of a contract is an answer like any other.
fn answered<T>(answer: Result<T, AdminError>) -> Result<Result<T, AdminError>, RequestError> {
    match answer {
        Err(AdminError::Rpc(error) | AdminError::View { source: ViewError::Rpc(error), .. }) => {
            Err(error)
        }
        answer => Ok(answer),
    }
}

fn text_of<T>(answer: &Result<T, AdminError>, described: fn(&T) -> String) -> String {
    match answer {
        Ok(answer) => described(answer),
        Err(error) => error.to_string(),
    }
}

/// An answer with the endpoint that gives it.
type NamedAnswer<T> = (String, T);
/// The answers of several endpoints, none of which more than half of them give.
struct NoMajorityError<T>(Vec<NamedAnswer<T>>);

/// Returns the answer that more than half of all answers equal, and the ones that differ from it; all of them as an
/// error if there is none.
fn of_most<T: PartialEq>(
    mut answers: Vec<NamedAnswer<T>>,
) -> Result<(T, Vec<NamedAnswer<T>>), NoMajorityError<T>> {
    let equal = |one: &T| answers.iter().filter(|(_, it)| it == one).count();
    let Some(place) = answers.iter().position(|(_, it)| 2 * equal(it) > answers.len()) else {
        return Err(NoMajorityError(answers));
    };
    let (_, agreed) = answers.swap_remove(place);
    answers.retain(|(_, it)| *it != agreed);
    Ok((agreed, answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_more_than_half_counts_and_others_are_named() {
        let named = |answers: &[u8]| -> Vec<_> {
            let place = |(place, answer): (usize, &u8)| (place.to_string(), *answer);
            answers.iter().enumerate().map(place).collect()
        };
        let of_most = |answers: &[u8]| {
            let other = |(name, _): NamedAnswer<u8>| name;
            of_most(named(answers))
                .map(|(agreed, others)| (agreed, others.into_iter().map(other).collect::<Vec<_>>()))
                .map_err(|NoMajorityError(all)| all.len())
        };
        assert_eq!(of_most(&[]), Err(0));
        assert_eq!(of_most(&[1]), Ok((1, vec![])));
        assert_eq!(of_most(&[1, 2]), Err(2));
        assert_eq!(of_most(&[1, 2, 2]), Ok((2, vec!["0".to_owned()])));
        assert_eq!(of_most(&[1, 1, 2, 2]), Err(4));
    }
}
