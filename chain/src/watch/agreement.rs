//! Readings on which the endpoints agree.
//!
//! The attacker is an endpoint that serves the right chain and lies about a contract's state. A price list is recorded
//! for ever, and a registry names the keys that verify logs, so one endpoint's word does not change either. A reading
//! that differs from the last one is accepted only if more endpoints say it than say otherwise. One endpoint of two can
//! therefore delay a change, and cannot make one. A reading that equals the last one is refused if more endpoints say
//! otherwise, also some seconds later: the preferred endpoint, which answers most readings, must not hide a change that
//! others show. Where only one endpoint is configured, it is believed. URLs with the same host and port count as one
//! endpoint, because one provider may have several. If no more than half of them answer a question about a change, they
//! are asked again, at least once and for a while, so that an honest endpoint that fails or hangs for a moment, such as
//! by a rate limit or a lost packet, leaves nothing to a liar. An endpoint whose contract answers with an error is left
//! in the same way, since it may invent the error.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::WatchError;
use crate::endpoints::{EndpointError, Endpoints, is_endpoints_fault};
use crate::send::{Chain, RequestError};

/// The time limit for one endpoint to read a whole list. Guess: a list of the longest permitted length is a hundred
/// calls.
const READ_MAX: Duration = Duration::from_secs(10);
/// The age of its newest block from which an endpoint counts as stuck, so that its state contradicts no newer one as
/// long as most endpoints are not stuck. A guess: longer than an endpoint lags behind in use, short compared with the
/// notice that a change of rates has.
const STUCK_AFTER: Duration = Duration::from_secs(300);

/// The least time and the least number of rounds for which endpoints are asked while no more than half of them answer,
/// and the pause between two rounds. Guesses: failures that pass do so within seconds.
const SILENT_MAX: Duration = Duration::from_secs(5);
const ROUNDS_MIN: u32 = 2;
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The time limit of an endpoint in the first round; in a later one it is [`READ_MAX`], which a long list needs. A
/// guess: an endpoint that hangs has its second round soon. A start waits at most 16 s beside a dead endpoint.
const FIRST_ROUND_MAX: Duration = Duration::from_secs(3);
/// The time after which an endpoint that others outvote is read once more. A guess: an honest endpoint has a new block
/// within seconds of the others.
const CATCH_UP: Duration = Duration::from_secs(5);

/// A reading that the other endpoints do not outvote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AgreedReading<T> {
    pub(super) value: T,
    /// The block at whose state it was read.
    pub(super) block: u64,
    /// The number of endpoints that say otherwise, if the value equals the last reading and as many say it: one of two
    /// may hide a change. The value stays in use, and proves nothing. 0 if fewer say otherwise.
    pub(super) contested_by: usize,
    /// True if more than half of the endpoints say it, each host once. Silent ones do not.
    pub(super) is_of_most: bool,
}

/// Reads a value at the newest block of the first usable endpoint. If that one lacks the block of the `known` value, an
/// endpoint that has it is read instead. If the value differs from the `known` one, every endpoint is asked for it at
/// its block. If it does not, or is older, every endpoint is asked for its newest one. If these outvote it, it is read
/// once more after [`CATCH_UP`].
///
/// # Errors
/// [`WatchError::Contradicted`] if too many endpoints say otherwise, or the error of the contract at the endpoint that
/// was read. That endpoint is then paused, so that the next reading asks another one. If no endpoint answers, the error
/// of the last one.
pub(super) async fn read<T, F, Fut>(
    endpoints: &Endpoints,
    known: Option<(&T, u64)>,
    read: F,
) -> Result<AgreedReading<T>, WatchError>
where
    T: PartialEq,
    F: Fn(Chain, u64) -> Fut + Sync,
    Fut: Future<Output = Result<T, WatchError>>,
{
    let hosts = endpoints.hosts();
    let known_block = known.map_or(0, |(_, block)| block);
    let (mut may_catch_up, mut preferred) = (true, None::<String>);
    loop {
        let (chain, value, block) = read_one(endpoints, preferred.as_deref(), &read).await?;
        if hosts == 1 {
            return Ok(AgreedReading { value, block, contested_by: 0, is_of_most: true });
        }
        let is_known = known.is_some_and(|(known, _)| *known == value);
        let is_old = block < known_block;
        if is_old && preferred.is_none() {
            preferred = with_block(endpoints, known_block).await;
            if preferred.is_some() {
                continue;
            }
        }
        let newest = match is_known || is_old {
            true => Some(votes(&value, &each_newest(endpoints, block, &read).await)),
            false => None,
        };
        let is_outvoted = newest.is_some_and(|(for_it, against)| against > for_it);
        if is_outvoted && may_catch_up {
            // Endpoints have a new block at different times: this one may have the change a moment later.
            may_catch_up = false;
            tokio::time::sleep(CATCH_UP).await;
            continue;
        }
        let (for_it, against) = match newest {
            Some(newest) if is_known || is_outvoted => newest,
            _ => {
                let stated = each_stated(endpoints, hosts, block, &read).await;
                votes(&value, &unless_stuck(stated))
            }
        };
        if against > for_it || (!is_known && against == for_it) {
            if may_catch_up {
                // This endpoint may be the first one that has the block of a change.
                may_catch_up = false;
                tokio::time::sleep(CATCH_UP).await;
                continue;
            }
            let error = WatchError::Contradicted { block, for_it, against };
            endpoints.distrust_asked(&chain, &error.to_string());
            return Err(error);
        }
        let contested_by = if against == for_it { against } else { 0 };
        if contested_by > 0 {
            let chain = endpoints.name();
            tracing::warn!(
                chain,
                "as many endpoints say otherwise as say what was read at block {block}: one lies or is behind"
            );
        }
        return Ok(AgreedReading { value, block, contested_by, is_of_most: 2 * for_it > hosts });
    }
}

/// Reads a value once, for a caller that does not come again. An endpoint may call an old block its newest one, and the
/// others state the same value for that block. So the value is compared with their newest ones as well.
///
/// # Errors
/// The errors of [`read`], and [`WatchError::Contradicted`] also if as many endpoints say otherwise.
pub(super) async fn read_now<T, F, Fut>(endpoints: &Endpoints, reading: F) -> Result<T, WatchError>
where
    T: PartialEq,
    F: Fn(Chain, u64) -> Fut + Sync,
    Fut: Future<Output = Result<T, WatchError>>,
{
    let first = read(endpoints, None, &reading).await?;
    if endpoints.hosts() == 1 {
        return Ok(first.value);
    }
    let again = read(endpoints, Some((&first.value, first.block)), &reading).await?;
    let AgreedReading { value, block, contested_by, .. } = again;
    match contested_by {
        0 => Ok(value),
        votes => Err(WatchError::Contradicted { block, for_it: votes, against: votes }),
    }
}

/// Returns the scheme, host and port of the endpoint whose newest block is this one, or the next later one that an
/// endpoint states; `None` if none has it. An endpoint may make up a high block, and must not be read instead of an
/// honest one for that. So the others are not paused for being behind, either.
async fn with_block(endpoints: &Endpoints, block: u64) -> Option<String> {
    let newest = |chain: Chain| async move { chain.newest_block().await };
    let newest = endpoints.each_within(FIRST_ROUND_MAX, newest).await;
    let stated = newest.into_iter().zip(endpoints.display_urls());
    let stated = stated.filter_map(|(newest, host)| Some((newest.ok()?, host)));
    let having = stated.filter(|(newest, _)| *newest >= block);
    having.min_by_key(|(newest, _)| *newest).map(|(_, host)| host)
}

/// Reads a value at the newest block of the `preferred` endpoint, named by scheme, host and port, or else of the first
/// usable one. Returns it with the endpoint and the block.
async fn read_one<T, F, Fut>(
    endpoints: &Endpoints,
    preferred: Option<&str>,
    read: &F,
) -> Result<(Chain, T, u64), WatchError>
where
    F: Fn(Chain, u64) -> Fut + Sync,
    Fut: Future<Output = Result<T, WatchError>>,
{
    let order = endpoints.order_preferring(|url| preferred == Some(url));
    let asked = endpoints.ask_in(order, |chain| async move {
        let reading = async {
            let newest = chain.newest_block().await?;
            Ok::<_, WatchError>((read(chain.clone(), newest).await?, newest))
        };
        let reading = tokio::time::timeout(READ_MAX, reading).await;
        match reading.unwrap_or_else(|_| Err(chain.too_slow(READ_MAX).into())) {
            Err(error) if error.request_error().is_some_and(is_endpoints_fault) => Err(error),
            reading => Ok::<_, WatchError>((chain, reading)),
        }
    });
    let (chain, reading) = asked.await?;
    match reading {
        Ok((value, block)) => Ok((chain, value, block)),
        Err(error) => {
            // If the contract itself is at fault, all endpoints are paused, and requests then use them as if none were.
            endpoints.distrust_asked(&chain, &error.to_string());
            Err(error)
        }
    }
}

/// Returns how many of the answers equal the value, and how many do not.
fn votes<T: PartialEq>(value: &T, answers: &[T]) -> (usize, usize) {
    let for_it = answers.iter().filter(|other| *other == value).count();
    (for_it, answers.len() - for_it)
}

/// Asks every endpoint once for the value at its own newest block, and returns the answers, one for each host. An
/// endpoint that lacks `block` and is stuck cannot know of a change, so its answer does not count. Silence neither
/// counts nor pauses an endpoint, because this question is asked with each reading.
async fn each_newest<T, F, Fut>(endpoints: &Endpoints, block: u64, read: &F) -> Vec<T>
where
    F: Fn(Chain, u64) -> Fut + Sync,
    Fut: Future<Output = Result<T, WatchError>>,
{
    let answers = endpoints
        .each_within(FIRST_ROUND_MAX, |chain| async move {
            Ok::<_, RequestError>(newest(chain, block, read).await)
        })
        .await;
    let by_host = one_by_host(endpoints, answers).into_values();
    by_host.filter(|one| !one.is_stuck).map(|one| one.value).collect()
}

/// Returns the answers of endpoints that gave one, one for each host.
fn one_by_host<T>(
    endpoints: &Endpoints,
    answers: Vec<Result<Option<T>, RequestError>>,
) -> BTreeMap<String, T> {
    let mut by_host = BTreeMap::new();
    for (answer, host) in answers.into_iter().zip(endpoints.display_urls()) {
        if let Ok(Some(value)) = answer {
            by_host.entry(host).or_insert(value);
        }
    }
    by_host
}

/// Returns the answers that count. Those of stuck endpoints do not if most endpoints are not stuck. Otherwise the chain
/// itself may have no newer block, and the block that was read may be invented.
fn unless_stuck<T>(answers: Vec<StatedValue<T>>) -> Vec<T> {
    let stuck = answers.iter().filter(|one| one.is_stuck).count();
    let do_all_count = 2 * stuck >= answers.len();
    let counted = answers.into_iter().filter(|one| do_all_count || !one.is_stuck);
    counted.map(|one| one.value).collect()
}

/// The value that an endpoint states.
#[derive(Debug)]
struct StatedValue<T> {
    value: T,
    /// True if the endpoint lacks the block in question, and its newest one is older than [`STUCK_AFTER`].
    is_stuck: bool,
}

/// Asks every endpoint for the value at a block, and returns the answers, one for each of the `hosts` that gives one.
/// While no more than half of them answer, asks again, at least [`ROUNDS_MIN`] times and for [`SILENT_MAX`].
async fn each_stated<T, F, Fut>(
    endpoints: &Endpoints,
    hosts: usize,
    block: u64,
    read: &F,
) -> Vec<StatedValue<T>>
where
    F: Fn(Chain, u64) -> Fut + Sync,
    Fut: Future<Output = Result<T, WatchError>>,
{
    let began = Instant::now();
    let mut rounds = 0;
    loop {
        let time_max = if rounds == 0 { FIRST_ROUND_MAX } else { READ_MAX };
        let answers = endpoints
            .each_in_whole_time(time_max, |chain| async move {
                Ok::<_, RequestError>(stated(chain, block, read).await)
            })
            .await;
        let by_host = one_by_host(endpoints, answers);
        rounds += 1;
        let is_over = rounds >= ROUNDS_MIN && began.elapsed() >= SILENT_MAX;
        if is_over || 2 * by_host.len() > hosts {
            return by_host.into_values().collect();
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Returns the value that an endpoint states for a block. If it does not have that block, because it is behind or the
/// block is made up, returns the value at its own newest block; `None` if it does not answer.
async fn stated<T, F, Fut>(chain: Chain, block: u64, read: &F) -> Option<StatedValue<T>>
where
    F: Fn(Chain, u64) -> Fut,
    Fut: Future<Output = Result<T, WatchError>>,
{
    if chain.newest_block().await.ok()? < block {
        return newest(chain, block, read).await;
    }
    Some(StatedValue { value: read(chain, block).await.ok()?, is_stuck: false })
}

/// Returns the value that an endpoint states for its own newest block; `None` if it does not answer.
async fn newest<T, F, Fut>(chain: Chain, block: u64, read: &F) -> Option<StatedValue<T>>
where
    F: Fn(Chain, u64) -> Fut,
    Fut: Future<Output = Result<T, WatchError>>,
{
    let newest = chain.newest_block().await.ok()?;
    let is_stuck =
        newest < block && is_stuck(chain.block_time(newest).await.ok()?, SystemTime::now());
    Some(StatedValue { value: read(chain, newest).await.ok()?, is_stuck })
}

/// Returns true if a newest block of this time, unix seconds, is of an endpoint that is stuck. Endpoints state any
/// time.
fn is_stuck(mined_s: u64, now: SystemTime) -> bool {
    let mined_at = UNIX_EPOCH.checked_add(Duration::from_secs(mined_s));
    let age = mined_at.and_then(|mined_at| now.duration_since(mined_at).ok());
    age.is_some_and(|age| age >= STUCK_AFTER)
}

impl EndpointError for WatchError {
    fn request_error(&self) -> Option<&RequestError> {
        match self {
            Self::View(error) => error.request_error(),
            Self::Behind { .. } | Self::Rates { .. } | Self::Contradicted { .. } => None,
        }
    }
}

impl From<RequestError> for WatchError {
    fn from(error: RequestError) -> Self {
        Self::View(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An endpoint that is behind and states a time beyond all times would end the task that reads registry and rates.
    #[test]
    fn an_endpoint_is_stuck_by_the_age_of_its_newest_block_whatever_time_it_states() {
        let now_s = 1_750_000_000;
        let stuck = |mined_s| is_stuck(mined_s, UNIX_EPOCH + Duration::from_secs(now_s));
        assert!(stuck(0) && stuck(now_s - 300));
        assert!(!stuck(now_s - 299) && !stuck(now_s) && !stuck(now_s + 1));
        assert!(!stuck(i64::MAX.unsigned_abs()) && !stuck(u64::MAX));
    }

    #[test]
    fn stuck_endpoints_count_only_while_the_chain_itself_may_be_stuck() {
        let counted = |answers: &[(char, bool)]| {
            let answers = answers
                .iter()
                .map(|(value, is_stuck)| StatedValue { value: *value, is_stuck: *is_stuck });
            unless_stuck(answers.collect())
        };
        assert_eq!(counted(&[('a', false), ('b', true), ('a', false)]), ['a', 'a']);
        assert_eq!(counted(&[('a', false), ('b', true)]), ['a', 'b'], "one of two decides nothing");
        assert_eq!(counted(&[('a', false), ('b', true), ('b', true)]), ['a', 'b', 'b']);
        assert_eq!(counted(&[('b', true)]), ['b']);
        assert!(counted(&[]).is_empty());
    }
}
