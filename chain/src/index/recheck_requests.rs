//! The requests of the recheck; its decisions are in `recheck`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::rpc::types::{Filter, Log};

use super::claim::{Claim, ClaimVerdict, ReceiptAnswer};
use super::context::blocking;
use super::event::BlockRef;
use super::event_set::{EventSet, RecheckPage, shown_by_all};
use super::fetch;
use super::proof::{self, EndpointAnswers};
use super::receipts;
use super::sink::{Sink, SinkError};
use super::walk::{BlockHeader, WalkSettings};
use crate::endpoints::Endpoints;
use crate::send::RequestError;

/// The time limit for all logs of one recheck of one endpoint, or of one batch that a sink refuses. A guess: an
/// endpoint that accepts only short ranges takes some seconds.
pub(super) const LOGS_MAX: Duration = Duration::from_secs(30);
/// The time limit for the receipts that decide a claim, and for those of a whole block, at one endpoint. They may take
/// a hundred requests, and an endpoint that makes a claim up may answer each of them just in time: rechecks would fall
/// behind without end. A guess: an honest endpoint shows the receipts of a full block one by one within it.
const EVIDENCE_MAX: Duration = Duration::from_secs(60);
/// The time for which an endpoint has to be silent before a recheck ends without it. A guess: failures that pass do so
/// within seconds.
const SILENT_MAX: Duration = Duration::from_secs(10);

/// The result of a recheck of some blocks.
pub(super) struct RecheckAnswer {
    pub(super) blocks: RangeInclusive<u64>,
    /// The outcome, with the endpoints that did not answer, by host and port.
    pub(super) outcome: Result<(RecheckOutcome, BTreeSet<String>), RecheckError>,
}

/// Error of a recheck. Nothing is known of the blocks then.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecheckError {
    /// No endpoint answered, or one that is needed did not.
    #[error("{0}")]
    Request(RequestError),
    /// No endpoint answered, and one at least refused the logs of the blocks, not for too many requests.
    #[error("{0}")]
    Refused(RequestError),
    /// The stored events cannot be read.
    #[error("{0}")]
    Sink(#[from] SinkError),
}

/// The endpoints that do not answer rechecks, by host and port, with the times since which they are silent.
#[derive(Debug, Default)]
pub(super) struct RecheckSilences {
    since: BTreeMap<String, Instant>,
    /// The time of the last recheck that was noted.
    noted_at: Option<Instant>,
    is_waiting: bool,
    /// The first block, for each endpoint, whose recheck has ended while the endpoint was silent.
    missed: BTreeMap<String, u64>,
}

impl RecheckSilences {
    /// Takes note of the endpoints that did not answer a recheck at `now`. The recheck is repeated for them until each
    /// has been silent for [`SILENT_MAX`].
    pub(super) fn note(&mut self, silent: BTreeSet<String>, now: Instant) {
        self.noted_at = Some(now);
        self.since.retain(|endpoint, _| silent.contains(endpoint));
        for endpoint in silent {
            self.since.entry(endpoint).or_insert(now);
        }
        let is_short = |since: &Instant| now.duration_since(*since) < SILENT_MAX;
        self.is_waiting = self.since.values().any(is_short);
    }

    /// Takes note that a recheck from the block `first` on has ended without these endpoints.
    pub(super) fn miss(&mut self, silent: &BTreeSet<String>, first: u64) {
        for endpoint in silent {
            let missed = self.missed.entry(endpoint.clone()).or_insert(first);
            *missed = first.min(*missed);
        }
    }

    /// Returns the first block whose recheck has ended without an endpoint that answers now; `silent` are those that do
    /// not. Returns it once.
    pub(super) fn back(&mut self, silent: &BTreeSet<String>) -> Option<u64> {
        let answers = |endpoint: &String| !silent.contains(endpoint);
        let of_those = self.missed.iter().filter(|(endpoint, _)| answers(endpoint));
        let first = of_those.map(|(_, first)| *first).min();
        self.missed.retain(|endpoint, _| !answers(endpoint));
        first
    }

    /// Returns the first block whose recheck has ended without an endpoint that is silent since.
    pub(super) fn first_missed(&self) -> Option<u64> {
        self.missed.values().min().copied()
    }

    /// Returns true if the endpoint has answered no recheck for `time`, up to the last one. The time since then does
    /// not count: it may answer again, and the next recheck may be minutes away.
    pub(super) fn is_silent_for(&self, endpoint: &str, time: Duration) -> bool {
        let times = self.since.get(endpoint).zip(self.noted_at);
        times.is_some_and(|(since, noted_at)| noted_at.saturating_duration_since(*since) >= time)
    }

    /// Returns true if the last recheck has to be repeated.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting
    }
}

/// The outcome of a recheck.
pub(super) enum RecheckOutcome {
    /// No endpoint has more events than were read, or every claim of more is denied.
    Nothing,
    /// An endpoint claims more events, and the endpoints that could confirm it did not answer.
    Open {
        /// The first block with more events.
        block: u64,
        /// The indices of the endpoints that claim them.
        claimants: BTreeSet<usize>,
    },
    /// A block has more events than were read, as its hash proves. The endpoints are silent that could confirm the
    /// block, or name a transaction otherwise.
    Proven {
        /// The first such block.
        block: u64,
        /// The indices of the endpoints that answer without them.
        lacking: BTreeSet<usize>,
    },
    /// A block has more events than were read.
    More {
        /// The first such block.
        block: u64,
        /// The indices of the endpoints that answer without them, and of those that deny events that the block provably
        /// has.
        lacking: BTreeSet<usize>,
        /// True if an endpoint with another host or port than the one in use shows them, so that its branch counts. The
        /// one in use may have shown them alone, while the others were silent.
        is_of_others: bool,
    },
    /// An endpoint shows more events on another branch of the chain than others, or showed them
    /// earlier and does not answer now.
    Contradicted {
        /// The first block with more events.
        block: u64,
        /// The indices of the endpoints that claim them.
        claimants: BTreeSet<usize>,
    },
}

/// Asks every endpoint for the logs of blocks that were read, and then asks every endpoint about all events that any of
/// them shows beyond those read. If one endpoint denies a claim of another, a proof from the block decides: see
/// [`proof::judge`]. A denied claim causes no pause.
///
/// If it is not remembered which events were read, those count as read that the sink has. `held` are the indices of
/// endpoints that contradicted others before; if they do not answer, the contradiction remains. Returns the outcome,
/// with the endpoints that did not answer, by host and port.
pub(super) async fn recheck(
    endpoints: &Endpoints,
    sink: &Arc<dyn Sink>,
    settings: &WalkSettings,
    filter: &Filter,
    due: &RecheckPage,
    held: &BTreeSet<usize>,
) -> Result<(RecheckOutcome, BTreeSet<String>), RecheckError> {
    let blocks = &due.blocks;
    let shown = endpoints
        .each_in_whole_time(LOGS_MAX, |chain| async move {
            fetch::logs_in_parts(&chain, filter, std::slice::from_ref(blocks)).await
        })
        .await;
    let answering = endpoints.display_urls().zip(&shown).filter(|(_, logs)| logs.is_ok());
    let answered: BTreeSet<_> = answering.map(|(endpoint, _)| endpoint).collect();
    let silent = endpoints.display_urls().filter(|endpoint| !answered.contains(endpoint)).collect();
    let is_refused = is_refused(&shown);
    let known = match &due.known {
        Some(known) => Some(known.clone()),
        None => stored(sink, settings, blocks, &shown).await?,
    };
    match compared(endpoints, settings, blocks, known, held, &shown).await {
        Ok(outcome) => Ok((outcome, silent)),
        Err(error) if is_refused => Err(RecheckError::Refused(error)),
        Err(error) => Err(RecheckError::Request(error)),
    }
}

/// Returns true if no endpoint answered, and at least one refused the logs. The others may never answer again. If one
/// such endpoint in the settings counted, later rechecks would wait for ever for blocks that all others have pruned.
fn is_refused(shown: &[Result<Vec<Log>, RequestError>]) -> bool {
    shown.iter().all(Result::is_err) && shown.iter().any(is_refusal)
}

/// Returns true if an endpoint refused the logs, and not for too many requests.
fn is_refusal(logs: &Result<Vec<Log>, RequestError>) -> bool {
    logs.as_ref().is_err_and(|error| fetch::refusal_message(error).is_some())
}

/// Returns those of the events that endpoints show for these blocks which the sink has; `None` if it does not say.
async fn stored(
    sink: &Arc<dyn Sink>,
    settings: &WalkSettings,
    blocks: &RangeInclusive<u64>,
    shown: &[Result<Vec<Log>, RequestError>],
) -> Result<Option<EventSet>, SinkError> {
    let answers = shown.iter().filter_map(|logs| logs.as_ref().ok());
    let events = shown_by_all(blocks, answers, settings.source, settings.address);
    let looked_up = blocking(sink, move |sink| (sink.known(&events), events));
    let (known, events) = looked_up.await;
    let Some(known) = known? else { return Ok(None) };
    let mut stored = EventSet::default();
    for (event, _) in events.iter().zip(known).filter(|(_, is_known)| *is_known) {
        let place = (event.block.number, event.log_index);
        stored.add(place, event.transaction, &event.decoded);
    }
    Ok(Some(stored))
}

/// Compares the logs that endpoints show with the events that were read: see [`recheck`]. If it is not known which
/// were, those count that the endpoint in use shows.
async fn compared(
    endpoints: &Endpoints,
    settings: &WalkSettings,
    blocks: &RangeInclusive<u64>,
    known: Option<EventSet>,
    held: &BTreeSet<usize>,
    shown: &[Result<Vec<Log>, RequestError>],
) -> Result<RecheckOutcome, RequestError> {
    let (source, address) = (settings.source, settings.address);
    let active = endpoints.active();
    let is_silent = |place: &usize| shown.get(*place).is_some_and(Result::is_err);
    let silent: BTreeSet<_> = held.iter().copied().filter(is_silent).collect();
    let read_from = shown.get(active).and_then(|logs| logs.as_ref().ok());
    let of_logs = |logs: &Vec<Log>| EventSet::shown(blocks, logs, source, address);
    let known = known.or_else(|| read_from.map(of_logs));
    let Some(known) = known.filter(|_| shown.iter().any(Result::is_ok)) else {
        // It failed, or no endpoint is in use yet.
        return failure(shown).map_or(Ok(RecheckOutcome::Nothing), Err);
    };
    let logs: Vec<_> = shown.iter().map(|logs| logs.as_deref().ok()).collect();
    let claim_in = |(place, logs): (usize, Option<&[Log]>)| {
        let claim = Claim::find(blocks, &known, logs?, source, address)?;
        Some((place, claim))
    };
    let claims: Vec<_> = logs.iter().copied().enumerate().filter_map(claim_in).collect();
    let time_max = EVIDENCE_MAX;
    let judging = Judging { endpoints, settings, known: &known, active, logs: &logs, time_max };
    let (mut verdicts, mut lacking) = (Vec::with_capacity(claims.len()), BTreeSet::new());
    for (by, claim) in &claims {
        verdicts.push(judging.verdict(*by, claim, &mut lacking).await);
    }
    let of = |wanted: ClaimVerdict| -> Option<(u64, BTreeSet<usize>)> {
        let all = claims.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == wanted);
        let all: Vec<_> = all.map(|((by, claim), _)| (claim.block.number, *by)).collect();
        let block = all.iter().map(|(block, _)| *block).min()?;
        Some((block, all.into_iter().map(|(_, by)| by).collect()))
    };
    if let Some((block, claimants)) = of(ClaimVerdict::Contradicted) {
        return Ok(RecheckOutcome::Contradicted { block, claimants: &claimants | &silent });
    }
    if !silent.is_empty() {
        return Ok(RecheckOutcome::Contradicted { block: *blocks.start(), claimants: silent });
    }
    if let Some((block, claimants)) = of(ClaimVerdict::Confirmed) {
        lacking.extend(heard_beside(&claimants, shown));
        let hosts: Vec<_> = endpoints.display_urls().collect();
        let is_of_others = claimants.iter().any(|place| hosts.get(*place) != hosts.get(active));
        return Ok(RecheckOutcome::More { block, lacking, is_of_others });
    }
    if let Some((block, claimants)) = of(ClaimVerdict::Proven) {
        let lacking = heard_beside(&claimants, shown);
        return Ok(RecheckOutcome::Proven { block, lacking });
    }
    let open = of(ClaimVerdict::Open);
    Ok(open.map_or(RecheckOutcome::Nothing, |(block, claimants)| RecheckOutcome::Open {
        block,
        claimants,
    }))
}

/// Returns the indices of the endpoints that answered and are not among the `claimants`. The events are read again from
/// an endpoint that shows them. It would not be enough to leave the one that answered last: the one that leaves the
/// events out may fail at other requests, so that another one has answered last.
fn heard_beside(
    claimants: &BTreeSet<usize>,
    shown: &[Result<Vec<Log>, RequestError>],
) -> BTreeSet<usize> {
    let heard = shown.iter().enumerate().filter(|(_, logs)| logs.is_ok());
    heard.map(|(place, _)| place).filter(|place| !claimants.contains(place)).collect()
}

/// Returns the error of an endpoint that did not answer. A refusal tells the operator more than silence does.
fn failure(shown: &[Result<Vec<Log>, RequestError>]) -> Option<RequestError> {
    let refused = shown.iter().find(|logs| is_refusal(logs));
    let failed = refused.or_else(|| shown.iter().find(|logs| logs.is_err()));
    failed.and_then(|logs| logs.as_ref().err().cloned())
}

/// The inputs for judging a claim.
struct Judging<'a> {
    endpoints: &'a Endpoints,
    settings: &'a WalkSettings,
    known: &'a EventSet,
    active: usize,
    /// The logs of each endpoint in this recheck; `None` for one that did not answer.
    logs: &'a [Option<&'a [Log]>],
    /// The time limit for the receipts of a claim, and for a proof, at one endpoint.
    time_max: Duration,
}

impl Judging<'_> {
    /// Asks every endpoint about a claim of the endpoint at index `by` and returns the verdict. Adds to `denying` the
    /// endpoints that deny events that the block provably has.
    async fn verdict(
        &self,
        by: usize,
        claim: &Claim,
        denying: &mut BTreeSet<usize>,
    ) -> ClaimVerdict {
        let receipts = self.endpoints.each_in_whole_time(self.time_max, |chain| async move {
            receipts::receipts_of_claim(&chain, claim).await
        });
        let receipts: Vec<_> = receipts.await.into_iter().map(Result::ok).collect();
        let hosts: Vec<_> = self.endpoints.display_urls().collect();
        let verdict = match claim.judge(by, self.active, &hosts, &receipts) {
            ClaimVerdict::Contradicted => {
                let there: Vec<_> = receipts.iter().map(|answer| answer.as_ref()?.block).collect();
                let is_denied = receipts.iter().flatten().any(|answer| claim.is_denied_by(answer));
                self.of_branch(claim, &there, is_denied)
            }
            unclear @ (ClaimVerdict::Denied | ClaimVerdict::Open) => {
                let proven = self.proven(by, claim, &receipts).await;
                if proven == Some(ClaimVerdict::Confirmed) {
                    let denies = |answer: &Option<ReceiptAnswer>| {
                        answer.as_ref().is_some_and(|answer| claim.is_denied_by(answer))
                    };
                    let all = receipts.iter().enumerate();
                    denying
                        .extend(all.filter(|(_, answer)| denies(answer)).map(|(place, _)| place));
                }
                proven.unwrap_or(unclear)
            }
            clear => clear,
        };
        if verdict == ClaimVerdict::Denied {
            let block = claim.block.number;
            tracing::warn!(block, "an endpoint shows events that another one does not have");
        }
        verdict
    }

    /// Judges a claim of events on a branch that other endpoints contradict. The block at that height counts that
    /// [`chain_of_most`] names. `there` has the block of each endpoint at that height.
    fn of_branch(
        &self,
        claim: &Claim,
        there: &[Option<BlockRef>],
        is_denied: bool,
    ) -> ClaimVerdict {
        let stated = self.endpoints.display_urls().zip(there);
        let stated = stated.filter_map(|(endpoint, block)| Some((endpoint, (*block)?)));
        match chain_of_most(stated, self.endpoints.hosts()) {
            Some(block) if block != claim.block => ClaimVerdict::Denied,
            Some(_) if !is_denied => ClaimVerdict::Confirmed,
            _ => ClaimVerdict::Contradicted,
        }
    }

    /// Returns the block of each endpoint at the height of a claim. One that is silent about receipts is asked for it
    /// alone: it may keep none, and still tell whether the claimed block is on the chain.
    async fn blocks_there(
        &self,
        claim: &Claim,
        receipts: &[Option<ReceiptAnswer>],
    ) -> Vec<Option<BlockRef>> {
        let known = receipts.iter().map(|answer| answer.as_ref().and_then(|answer| answer.block));
        let known: Vec<_> = known.collect();
        if receipts.iter().all(Option::is_some) {
            return known;
        }
        let numbers = &[claim.block.number];
        let asked =
            self.endpoints.each(|chain| async move { fetch::headers(&chain, numbers, None).await });
        let first = |headers: Vec<BlockHeader>| headers.first().map(|header| header.block);
        let asked = asked.await.into_iter().map(|headers| headers.ok().and_then(first));
        let answered = receipts.iter().map(Option::is_some).zip(known).zip(asked);
        let there =
            answered.map(|((is_answered, known), asked)| if is_answered { known } else { asked });
        there.collect()
    }

    /// Judges a claim of the endpoint at index `by` by proofs of the block from any endpoint.
    /// Returns `None` if there is no proof.
    async fn proven(
        &self,
        by: usize,
        claim: &Claim,
        receipts: &[Option<ReceiptAnswer>],
    ) -> Option<ClaimVerdict> {
        let proofs = self.endpoints.each_in_whole_time(self.time_max, |chain| async move {
            receipts::proof(&chain, claim.block).await
        });
        let (shown, there) = tokio::join!(proofs, self.blocks_there(claim, receipts));
        let (active, logs) = (self.active, self.logs);
        let hosts: Vec<_> = self.endpoints.display_urls().collect();
        let (hosts, there) = (&hosts[..], &there[..]);
        let answers = EndpointAnswers { by, active, hosts, there, logs, shown: &shown };
        match proof::judge(claim, self.settings.source, self.known, &answers)? {
            // The block's hash proves the events, whichever endpoint of that branch denies them.
            ClaimVerdict::Contradicted => Some(self.of_branch(claim, there, false)),
            verdict => Some(verdict),
        }
    }
}

/// Returns the block that more than half of all endpoints state at a height, each host and port once. `stated` has
/// the answers with the host and port of each, and `count` is the number of hosts and ports, also of silent ones.
///
/// Two endpoints that state different blocks decide nothing, and neither does one of which the others are silent.
fn chain_of_most(
    stated: impl Iterator<Item = (String, BlockRef)>,
    count: usize,
) -> Option<BlockRef> {
    let mut of_block: BTreeMap<BlockRef, BTreeSet<String>> = BTreeMap::new();
    for (endpoint, block) in stated {
        of_block.entry(block).or_default().insert(endpoint);
    }
    let mut most = of_block.into_iter().filter(|(_, endpoints)| endpoints.len() * 2 > count);
    most.next().filter(|_| count > 1).map(|(block, _)| block)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use alloy::primitives::{Address, B256};
    use http_body_util::{BodyExt as _, Full};
    use hyper::body::{Bytes, Incoming};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;
    use crate::index::event::EventSource;
    use crate::send::Chain;

    const SLOW: Duration = Duration::from_millis(100);

    /// Starts an endpoint that answers each batch after [`SLOW`] with nothing, and counts the batches. Returns its URL.
    async fn slow(batches: Arc<AtomicUsize>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = move |request: Request<Incoming>| {
            let batches = batches.clone();
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let said = |asked: &Value, result: Value| json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result });
                let asked: Value = serde_json::from_slice(&body).unwrap();
                let answer: Value = match asked {
                    Value::Array(asked) => {
                        batches.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(SLOW).await;
                        asked.iter().map(|one| said(one, Value::Null)).collect()
                    }
                    one => said(&one, json!("0x1")),
                };
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer.to_string()))))
            }
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(answer.clone());
                let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(served);
            }
        });
        url
    }

    /// An endpoint makes events up, and answers each question about them just before the time limit of a request.
    #[tokio::test]
    async fn an_endpoint_that_answers_slowly_about_its_own_claim_holds_up_no_recheck() {
        let batches = Arc::new(AtomicUsize::new(0));
        let endpoints = Endpoints::new("app", &[slow(batches.clone()).await], 1).unwrap();
        let newest = |chain: Chain| async move { chain.newest_block().await };
        assert_eq!(endpoints.ask(newest).await.unwrap(), 1, "it is connected");
        let (source, address) = (EventSource::PayerRegistry, Address::ZERO);
        let settings =
            WalkSettings { source, address, first_block: 0, page_blocks: 10, confirmations: 0 };
        let log = |number: u64| Log {
            log_index: Some(number),
            transaction_hash: Some(B256::left_padding_from(&number.to_be_bytes())),
            ..Log::default()
        };
        let block = BlockRef { number: 9, hash: B256::repeat_byte(9) };
        // Four batches, which take longer than the limit.
        let claim = Claim { block, logs: (0..200).map(log).collect() };
        let (known, time_max) = (&EventSet::default(), 2 * SLOW);
        let (endpoints, settings) = (&endpoints, &settings);
        let judging = Judging { endpoints, settings, known, active: 0, logs: &[None], time_max };
        judging.verdict(0, &claim, &mut BTreeSet::new()).await;
        let asked = batches.load(Ordering::Relaxed);
        assert!(asked < 4, "{asked} batches"); // a busy machine may not come to the first one in time
    }

    /// The endpoint that leaves the event out fails at all other requests.
    #[test]
    fn events_are_read_again_from_an_endpoint_that_shows_them_whichever_answered_last() {
        let shown = [Ok(Vec::new()), Ok(vec![Log::default()]), silent(), Ok(Vec::new())];
        assert_eq!(heard_beside(&BTreeSet::from([1]), &shown), BTreeSet::from([0, 3]));
    }

    #[test]
    fn a_branch_counts_if_more_than_half_of_all_endpoints_state_it() {
        let block = |byte| BlockRef { number: 9, hash: B256::repeat_byte(byte) };
        let most = |stated: &[(&str, u8)], count| {
            let stated = stated.iter().map(|(name, byte)| ((*name).to_owned(), block(*byte)));
            chain_of_most(stated, count)
        };
        assert_eq!(most(&[("a", 1), ("b", 2)], 2), None, "two decide nothing");
        assert_eq!(most(&[("a", 1), ("b", 1)], 2), Some(block(1)));
        assert_eq!(most(&[("a", 1), ("b", 2), ("c", 2)], 3), Some(block(2)));
        assert_eq!(most(&[("a", 1), ("b", 2)], 3), None, "the third one is silent");
        assert_eq!(most(&[("a", 1), ("a", 1), ("b", 2)], 3), None, "a host counts once");
        assert_eq!(most(&[("a", 1)], 1), None);
    }

    /// An endpoint that is down or limits the rate of requests may have the logs.
    #[test]
    fn only_an_endpoint_that_refuses_the_logs_counts_as_refusing() {
        let refused = |message: &str| {
            let (endpoint, message) = ("http://a:1".to_owned(), message.to_owned());
            Err(RequestError::Refused { endpoint, method: "eth_getLogs", code: -32000, message })
        };
        assert!(is_refusal(&refused("history has been pruned for this block")));
        assert!(!is_refusal(&refused("too many requests")));
        assert!(!is_refusal(&silent()));
        assert!(!is_refusal(&Ok(Vec::new())));
    }

    /// Returns the answer of an endpoint that is gone.
    fn silent() -> Result<Vec<Log>, RequestError> {
        let (endpoint, reason) = ("http://a:1".to_owned(), "no answer".to_owned());
        Err(RequestError::Unreachable { endpoint, reason })
    }

    /// An endpoint that is gone for good is left in the settings, and all others have pruned the blocks.
    #[test]
    fn a_recheck_is_refused_if_one_refuses_it_and_none_answers() {
        let pruned = || {
            let (endpoint, message) = ("http://b:1".to_owned(), "pruned".to_owned());
            let method = "eth_getLogs";
            Err(RequestError::Refused { endpoint, method, code: -32000, message })
        };
        assert!(is_refused(&[pruned(), silent()]) && is_refused(&[silent(), pruned(), pruned()]));
        assert!(!is_refused(&[silent(), silent()]), "the network may be down here");
        assert!(!is_refused(&[pruned(), Ok(Vec::new())]), "one has answered");
    }

    #[test]
    fn what_an_endpoint_has_missed_is_known_until_it_answers() {
        let silent = |names: &[&str]| -> BTreeSet<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let mut silences = RecheckSilences::default();
        silences.miss(&silent(&["a", "b"]), 7);
        silences.miss(&silent(&["b"]), 5);
        silences.miss(&silent(&["b"]), 9);
        assert_eq!((silences.first_missed(), silences.back(&silent(&["a", "b"]))), (Some(5), None));
        assert_eq!(silences.back(&silent(&["a"])), Some(5));
        assert_eq!(silences.back(&silent(&["a"])), None, "once");
        assert_eq!((silences.first_missed(), silences.back(&silent(&[]))), (Some(7), Some(7)));
        assert_eq!(silences.first_missed(), None);
    }

    #[test]
    fn a_recheck_is_repeated_while_an_endpoint_has_been_silent_for_a_moment_only() {
        let (mut silences, start) = (RecheckSilences::default(), Instant::now());
        let mut is_waiting_after = |names: &[&str], after: Duration| {
            silences.note(names.iter().map(|name| (*name).to_owned()).collect(), start + after);
            silences.is_waiting()
        };
        assert!(!is_waiting_after(&[], Duration::ZERO));
        assert!(is_waiting_after(&["a"], Duration::ZERO));
        assert!(is_waiting_after(&["a"], SILENT_MAX / 2));
        assert!(!is_waiting_after(&["a"], SILENT_MAX));
        assert!(is_waiting_after(&["a", "b"], SILENT_MAX), "another one too");
        assert!(!is_waiting_after(&["a"], SILENT_MAX), "b is back");
        assert!(!is_waiting_after(&[], 2 * SILENT_MAX));
        assert!(is_waiting_after(&["a"], 2 * SILENT_MAX), "a was back");
    }
}
