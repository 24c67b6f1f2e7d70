//! Polls the state of the account and of its transactions.
//!
//! Most polls ask one endpoint for the counts, and a second one for the receipts that it shows: see `confirming`.
//! Counts that move nonces are asked of every endpoint, since one of them may lag behind or lie: see `agreement`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256};
use futures_util::StreamExt as _;
use futures_util::future::{join_all, try_join_all};
use tokio::time::timeout;

use super::agreement::confirmed;
use super::confirming::{ForeignTransactions, NonceProofs};
use super::heads::FollowingEndpoints;
use super::receipts::{MinedPayload, first_mined};
use super::seek::{NonceUser, SoughtPayload, seek, shown_user};
use super::slots::{AccountCounts, AccountState, NonceQuery, NonceUse, SlotId};
use crate::endpoints::Endpoints;
use crate::send::{Chain, RequestError};

/// The time limit for one of several endpoints to answer. A guess: many times the usual response time.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The time limit for an endpoint to show a transaction as proof of its count. A guess: some forty requests.
const PROOF_MAX: Duration = Duration::from_secs(5);
/// The time limit for an endpoint to search for the user of a nonce, so that a silent one does not hold up the polls. A
/// guess: three times that of a proof, because events are searched too.
const SEEK_MAX: Duration = Duration::from_secs(15);

/// The parameters of one poll.
#[derive(Debug, Default)]
pub(super) struct PollRequest {
    /// The driver's time at the start of the poll.
    pub(super) asked_at: Duration,
    /// The nonces in use.
    pub(super) queries: Vec<NonceQuery>,
    /// The payloads of the queried nonces for which the using transaction is sought.
    pub(super) sought: HashMap<SlotId, SoughtPayload>,
    /// True if the count of pending transactions is needed too.
    pub(super) wants_pending: bool,
    /// True if every endpoint has to be asked.
    pub(super) wants_all: bool,
    /// The known count of transactions. If the polled endpoint reports more, all endpoints are polled.
    pub(super) known_count: u64,
    /// True if an endpoint whose count exceeds the confirmed one may be asked for proof.
    pub(super) may_prove: bool,
    /// The endpoints that follow the chain.
    pub(super) following: FollowingEndpoints,
}

/// The newest block of each endpoint, by its host and port; `None` if it does not answer.
pub(super) type Heads = BTreeMap<String, Option<u64>>;

/// The result of one poll.
#[derive(Debug)]
pub(super) struct PollResponse {
    pub(super) state: AccountState,
    /// The mined transactions in `state`, by hash.
    pub(super) mined: HashMap<B256, MinedPayload>,
    /// A count above the confirmed one that an endpoint reported and failed to prove.
    pub(super) unproven: Option<u64>,
    /// A transaction that a single endpoint calls mined, after all endpoints were asked.
    pub(super) contested: Option<B256>,
    /// Empty unless all endpoints were asked.
    pub(super) heads: Heads,
}

/// The answers of one endpoint to one poll.
struct EndpointAnswer {
    endpoint: String,
    counts: AccountCounts,
    head: u64,
    /// The queried nonces that are used by this endpoint's count, and those for which another endpoint shows a proof.
    /// Each has the proof of its payload, if this endpoint shows one.
    uses: HashMap<SlotId, Option<MinedPayload>>,
}

impl EndpointAnswer {
    /// Adds the answer of another URL with the same host and port, which is no second endpoint. The higher numbers
    /// count.
    fn add(&mut self, other: Self) {
        let AccountCounts { mined, pending, .. } = other.counts;
        self.counts.mined = self.counts.mined.max(mined);
        self.counts.pending = self.counts.pending.max(pending);
        self.head = self.head.max(other.head);
        for (slot, proof) in other.uses {
            let known = self.uses.entry(slot).or_default();
            *known = known.take().or(proof);
        }
    }
}

/// Polls the first endpoint that answers, and all of them if one is not enough. Then searches every endpoint for the
/// users of the nonces in question.
pub(super) async fn poll(
    endpoints: &Endpoints,
    account: Address,
    request: &PollRequest,
) -> Result<PollResponse, RequestError> {
    let mut response = if endpoints.count() == 1 {
        let ask = |chain| async move { poll_at(&chain, account, request).await };
        merged(vec![endpoints.ask(ask).await?], request, 1)
    } else if request.wants_all {
        poll_all(endpoints, account, request).await?
    } else {
        let ask = |chain: Chain| async move {
            let answer = poll_in_time(&chain, account, request).await?;
            Ok((answer, chain))
        };
        let (answer, chain) = endpoints.ask(ask).await?;
        match answer.counts.mined > request.known_count {
            true => poll_all(endpoints, account, request).await?,
            false => confirm(endpoints, answer, &chain, request).await,
        }
    };
    search(endpoints, account, request, &mut response).await;
    Ok(response)
}

/// Asks the other endpoints about the payloads that the first one calls mined, until enough of them have answered.
async fn confirm(
    endpoints: &Endpoints,
    answer: EndpointAnswer,
    asked: &Chain,
    request: &PollRequest,
) -> PollResponse {
    let is_shown = |query: &&NonceQuery| matches!(answer.uses.get(&query.slot), Some(Some(_)));
    let shown: Vec<_> = request.queries.iter().filter(is_shown).collect();
    let mut shown_proofs: HashMap<SlotId, NonceProofs> = HashMap::new();
    for (slot, proof) in answer.uses {
        shown_proofs.entry(slot).or_default().add(&answer.endpoint, proof);
    }
    let is_open = |shown_proofs: &HashMap<SlotId, NonceProofs>| {
        shown.iter().any(|query| {
            let shown = &shown_proofs[&query.slot];
            shown.agreed(&request.following, &query.fillers).is_none()
        })
    };
    if is_open(&shown_proofs) {
        let shown = &shown;
        let ask = |chain: Chain| async move {
            let proofs = shown.iter().map(|query| first_mined(&chain, &query.hashes));
            Ok((try_join_all(proofs).await?, chain))
        };
        let mut others = pin!(endpoints.others_in_time(asked, ANSWER_MAX, &ask));
        while let Some(answer) = others.next().await {
            let Ok((proofs, chain)) = answer else { continue };
            for (query, proof) in shown.iter().zip(proofs) {
                shown_proofs.entry(query.slot).or_default().add(chain.endpoint(), proof);
            }
            if !is_open(&shown_proofs) {
                break;
            }
        }
    }
    response(request, vec![answer.counts], 0, answer.head, shown_proofs)
}

/// Searches every endpoint for the users of the nonces that are used and in question.
async fn search(
    endpoints: &Endpoints,
    account: Address,
    request: &PollRequest,
    response: &mut PollResponse,
) {
    let PollResponse { state, mined, contested, .. } = response;
    let configured = endpoints.display_urls().collect::<HashSet<_>>().len();
    let in_question =
        state.uses.iter_mut().filter(|(query, used)| query.seeks && *used == NonceUse::Unknown);
    let users = join_all(in_question.map(|(query, used)| async move {
        let (query, sought) = (&*query, request.sought.get(&query.slot));
        let users = endpoints.each(|chain| async move {
            let user = timeout(SEEK_MAX, seek(&chain, account, query, sought)).await;
            let user = user.unwrap_or_else(|_| Err(chain.too_slow(SEEK_MAX)))?;
            Ok((user, chain))
        });
        (used, query.fillers.clone(), users.await)
    }));
    for (used, fillers, users) in users.await {
        let (mut shown_proofs, mut others) =
            (NonceProofs::default(), ForeignTransactions::default());
        for user in users {
            match user {
                Ok((user, chain)) => {
                    let proof = match user {
                        Some(NonceUser::Payload(payload)) => Some(payload),
                        Some(NonceUser::Other(hash)) => {
                            others.add(chain.endpoint(), hash);
                            None
                        }
                        None => None,
                    };
                    shown_proofs.add(chain.endpoint(), proof);
                }
                Err(error) => tracing::debug!(%error, "an endpoint could not be searched"),
            }
        }
        let agreed = shown_proofs.agreed(&request.following, &fillers);
        match (agreed, shown_proofs.first(), others.first()) {
            (Some(payload), ..) => {
                *used = NonceUse::Mined(payload.hash());
                mined.insert(payload.hash(), payload.clone());
            }
            // Sending the payload again would pay twice if the one endpoint is right.
            (None, Some(payload), _) => *contested = Some(payload.hash()),
            (None, None, Some(hash)) => match others.agreed(configured) {
                Some(hash) => *used = NonceUse::Other(hash),
                // The one endpoint may have kept an earlier transaction of the account, which was never mined.
                None => *contested = Some(hash),
            },
            (None, None, None) => {}
        }
    }
}

/// Returns the proof that a transaction is mined on which the endpoints agree, and the newest block of each endpoint.
/// `following` are the endpoints that follow the chain.
pub(super) async fn mined(
    endpoints: &Endpoints,
    hash: B256,
    following: &FollowingEndpoints,
) -> (Option<MinedPayload>, Heads) {
    let asked = endpoints.each_in_time(ANSWER_MAX, |chain| async move {
        let hashes = [hash];
        let (proof, head) = tokio::try_join!(first_mined(&chain, &hashes), chain.newest_block())?;
        Ok((proof, head, chain))
    });
    let (mut shown_proofs, mut heads) = (NonceProofs::default(), unanswered(endpoints));
    for (proof, head, chain) in asked.await.into_iter().flatten() {
        note_head(&mut heads, chain.endpoint(), head);
        shown_proofs.add(chain.endpoint(), proof);
    }
    (shown_proofs.agreed(following, &[]).cloned(), heads)
}

fn unanswered(endpoints: &Endpoints) -> Heads {
    endpoints.display_urls().map(|endpoint| (endpoint, None)).collect()
}

/// Adds the head of an endpoint. If two URLs have the same host and port, the higher head counts.
fn note_head(heads: &mut Heads, endpoint: &str, head: u64) {
    let known = heads.entry(endpoint.to_owned()).or_default();
    *known = (*known).max(Some(head));
}

/// Polls every endpoint. An endpoint whose count exceeds the confirmed one has to prove it.
async fn poll_all(
    endpoints: &Endpoints,
    account: Address,
    request: &PollRequest,
) -> Result<PollResponse, RequestError> {
    let polled = endpoints.each_in_time(ANSWER_MAX, |chain| async move {
        let answer = poll_at(&chain, account, request).await?;
        Ok((answer, chain))
    });
    let (mut answers, mut chains, mut last) = (Vec::<EndpointAnswer>::new(), Vec::new(), None);
    let mut heads = unanswered(endpoints);
    for polled in polled.await {
        match polled {
            Ok((answer, chain)) => {
                note_head(&mut heads, &answer.endpoint, answer.head);
                match answers.iter_mut().find(|known| known.endpoint == answer.endpoint) {
                    Some(known) => known.add(answer),
                    None => {
                        answers.push(answer);
                        chains.push(chain);
                    }
                }
            }
            Err(error) => last = Some(error),
        }
    }
    if answers.is_empty() {
        return Err(last.expect("there is an endpoint, and each leaves an answer or an error"));
    }
    ask_for_shown(&mut answers, &chains, request).await;
    let stated = answers.iter().map(|it| it.counts.mined);
    // A single answer of several has no second endpoint that confirms it.
    let is_alone = answers.len() == 1 && heads.len() > 1;
    let agreed = if is_alone { 0 } else { confirmed(stated) }.max(request.known_count);
    let mut unproven = None;
    if request.may_prove {
        for (answer, chain) in answers.iter_mut().zip(&chains) {
            let count = answer.counts.mined;
            if count > agreed {
                let shown = timeout(PROOF_MAX, shown_user(chain, account, count - 1)).await;
                answer.counts.is_proven = matches!(shown, Ok(Ok(Some(_))));
                unproven = Some(count).filter(|_| !answer.counts.is_proven);
            }
        }
    }
    let asked = heads.len();
    Ok(PollResponse { unproven, heads, ..merged(answers, request, asked) })
}

/// Asks the endpoints whose count is too low for a nonce about the payloads that another one calls mined. They may have
/// the receipts nevertheless.
async fn ask_for_shown(answers: &mut [EndpointAnswer], chains: &[Chain], request: &PollRequest) {
    let uses = answers.iter().flat_map(|it| &it.uses);
    let shown: HashSet<SlotId> =
        uses.filter(|(_, proof)| proof.is_some()).map(|(slot, _)| *slot).collect();
    let asked = answers.iter_mut().zip(chains).map(|(answer, chain)| async {
        let is_missing =
            |it: &&NonceQuery| shown.contains(&it.slot) && !answer.uses.contains_key(&it.slot);
        let missing: Vec<_> = request.queries.iter().filter(is_missing).collect();
        let proofs = try_join_all(missing.iter().map(|it| first_mined(chain, &it.hashes)));
        if let Ok(Ok(proofs)) = timeout(ANSWER_MAX, proofs).await {
            answer.uses.extend(missing.iter().map(|it| it.slot).zip(proofs));
        }
    });
    join_all(asked).await;
}

/// Merges the answers, one of each endpoint. `asked` is the number of all endpoints that were asked.
fn merged(answers: Vec<EndpointAnswer>, request: &PollRequest, asked: usize) -> PollResponse {
    let head = confirmed(answers.iter().map(|it| it.head));
    let counts = answers.iter().map(|it| it.counts).collect();
    let mut shown_proofs: HashMap<SlotId, NonceProofs> = HashMap::new();
    for EndpointAnswer { endpoint, uses, .. } in answers {
        for (slot, proof) in uses {
            shown_proofs.entry(slot).or_default().add(&endpoint, proof);
        }
    }
    response(request, counts, asked, head, shown_proofs)
}

/// Returns the response. It states the use of a nonce only if the endpoints agree on it, and else that it is unknown.
fn response(
    request: &PollRequest,
    counts: Vec<AccountCounts>,
    asked: usize,
    head: u64,
    shown_proofs: HashMap<SlotId, NonceProofs>,
) -> PollResponse {
    let (mut uses, mut mined, mut contested) = (Vec::new(), HashMap::new(), None);
    // In the order of the queries, so that nonces end in that order.
    for query in &request.queries {
        let Some(shown_proofs) = shown_proofs.get(&query.slot) else { continue };
        let agreed = shown_proofs.agreed(&request.following, &query.fillers);
        let used = agreed.map_or(NonceUse::Unknown, |it| NonceUse::Mined(it.hash()));
        let is_open = asked > 0 && agreed.is_none();
        contested = contested.or(shown_proofs.first().filter(|_| is_open).map(MinedPayload::hash));
        uses.push((query.clone(), used));
        mined.extend(agreed.map(|it| (it.hash(), it.clone())));
    }
    let state = AccountState { asked_at: request.asked_at, counts, asked, head, uses };
    PollResponse { state, mined, unproven: None, contested, heads: Heads::new() }
}

async fn poll_in_time(
    chain: &Chain,
    account: Address,
    request: &PollRequest,
) -> Result<EndpointAnswer, RequestError> {
    let polled = timeout(ANSWER_MAX, poll_at(chain, account, request)).await;
    polled.unwrap_or_else(|_| Err(chain.too_slow(ANSWER_MAX)))
}

async fn poll_at(
    chain: &Chain,
    account: Address,
    request: &PollRequest,
) -> Result<EndpointAnswer, RequestError> {
    let latest = chain.transaction_count(account, BlockId::latest());
    let pending = async {
        match request.wants_pending {
            true => chain.transaction_count(account, BlockId::pending()).await.map(Some),
            false => Ok(None),
        }
    };
    let (mined_count, head, pending_count) =
        tokio::try_join!(latest, chain.newest_block(), pending)?;
    let used = request.queries.iter().filter(|query| query.nonce < mined_count);
    let receipts = used.map(|query| async {
        Ok::<_, RequestError>((query.slot, first_mined(chain, &query.hashes).await?))
    });
    let uses = try_join_all(receipts).await?.into_iter().collect();
    let counts = AccountCounts { mined: mined_count, pending: pending_count, is_proven: false };
    let endpoint = chain.endpoint().to_owned();
    Ok(EndpointAnswer { endpoint, counts, head, uses })
}
