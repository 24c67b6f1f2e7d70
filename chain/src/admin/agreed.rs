//! Payer reports on which the endpoints of the settlement chain agree.
//!
//! The attacker is an endpoint of the right chain that makes up a report, hides one, or states another root or end: a
//! payer's honest bill, which is judged by them, would differ.

use std::time::Duration;

use super::fees::{self, OnchainReport};
use super::{AdminError, Network};
use crate::endpoints::{AnswerTimes, Endpoints};
use crate::send::{Chain, RequestError, ViewError};

/// Time limit of one endpoint for all reports. A guess: many thousand calls at a slow endpoint. Each call has a limit
/// of its own.
const READ_MAX: Duration = Duration::from_secs(600);
/// Time left for the others once more than half have answered. A guess: endpoints differ by less.
const GRACE: Duration = Duration::from_secs(120);
/// Readings, and the pause between two of them. Guesses: a report may be submitted or settled during one reading, and
/// seldom during several; an endpoint has a new block some seconds later than another one.
const READINGS_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// Returns all reports, as [`fees::reports`] reads them, if more than half of the endpoints that answer show the same
/// ones. Those with the same host and port count once, and a single one is believed. If half or fewer answer, those
/// that do are believed after some attempts. Contracts are those of `network`, whose own endpoint is not preferred.
///
/// # Errors
/// [`AdminError::ReportsContradicted`]; the error of the contracts that most endpoints show; or the error of the last
/// endpoint, if none answers.
pub async fn reports(
    network: &Network,
    endpoints: &Endpoints,
) -> Result<Vec<OnchainReport>, AdminError> {
    let times = AnswerTimes { time_max: READ_MAX, paused_max: READ_MAX, grace: GRACE };
    let mut left = READINGS_MAX;
    loop {
        left -= 1;
        let ask = |settlement| read(network, settlement);
        let answers = endpoints.each_soon_even_paused(times, ask).await?;
        let (count, needs_more) = (answers.len(), answers.len() <= endpoints.hosts() / 2);
        match of_most(answers) {
            Some(_) if needs_more && left > 0 => {}
            Some(agreed) => return agreed,
            None if left > 0 => {}
            None => return Err(AdminError::ReportsContradicted { endpoints: count }),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads all reports at one endpoint. An error of a contract is an answer like any other.
async fn read(
    network: &Network,
    settlement: Chain,
) -> Result<Result<Vec<OnchainReport>, AdminError>, RequestError> {
    let network = Network { settlement, ..network.clone() };
    match fees::reports(&network, &[]).await {
        Err(AdminError::Rpc(error) | AdminError::View { source: ViewError::Rpc(error), .. }) => {
            Err(error)
        }
        answer => Ok(answer),
    }
}

/// Returns the answer that more than half of all answers equal; `None` if there is none.
fn of_most<T: PartialEq>(mut answers: Vec<T>) -> Option<T> {
    let equal = |one: &T| answers.iter().filter(|it| *it == one).count();
    let place = answers.iter().position(|it| 2 * equal(it) > answers.len())?;
    Some(answers.swap_remove(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_more_than_half_counts() {
        assert_eq!(of_most::<u8>(Vec::new()), None);
        assert_eq!(of_most(vec![1]), Some(1));
        assert_eq!(of_most(vec![1, 2]), None);
        assert_eq!(of_most(vec![1, 2, 2]), Some(2));
        assert_eq!(of_most(vec![1, 1, 2, 2]), None);
    }
}
