//! Shares the nonces of one account among several processes through Redis.
//!
//! ```text
//!  sync: a payload gets a nonce ─▶ record: its transaction ─▶ sent ─▶ finish: its result
//!  every second: sync as a sign of life; what a silent process leaves goes to another one
//! ```
//!
//! Redis only coordinates; the guarantee that a payload is mined once still comes from the chain: see
//! [`Nonces`](super::nonces::Nonces). So it is safe for Redis to lose its data or to be restored to an older state.
//! Processes then register the nonces that they hold before the next nonce is assigned, and no nonce below the chain's
//! own count is assigned. An older state is detected because each process remembers the number of its calls, and each
//! run of Redis has its own id (decision 0027).
//!
//! Redis also sums the gas cost of the last hour over all processes. Each process reports its own cost with
//! every call, so a lost sum is restored by the next call. Each reported amount has a number, so that a delayed
//! report does not replace a later one.

#[cfg(test)]
mod lost_keys;
mod scripts;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes};
use redis::{FromRedisValue, ParsingError, Value};

use super::slots::{JobId, SlotId};
use crate::admin::Wei;
use crate::redis_link::{RedisAccess, RedisLink, RedisLinkError, number};

/// The time after which a silent process is considered gone, and for which an empty or older Redis assigns no
/// nonce. A guess: five heartbeats.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// The interval of heartbeats. A guess.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(1);
/// The pause before Redis is asked again about a payload that another process is broadcasting.
/// A guess: below the block time.
pub(super) const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// The time limit of a call. A guess: far above the usual response time of Redis, and far below [`GONE_AFTER`].
const CALL_MAX: Duration = Duration::from_secs(1);
/// The time for which results are kept for other processes: the same as for a process's own results.
const RESULTS_KEPT: Duration = Duration::from_secs(600);
/// The largest number of results in one call. A guess: they hold up Redis for some milliseconds, and all that a process
/// remembers take five calls.
const RESULTS_PER_CALL: usize = 2000;
/// The largest answer, in bytes. A guess: several times what [`scripts::SYNC`] returns of the transactions that ended
/// processes have left.
const ANSWER_LEN_BYTES_MAX: usize = 64 << 20;
/// The largest number of payloads in one call. A guess: more than are in flight at once.
pub(super) const WANTED_MAX: usize = 64;

/// The gas cost of this process in the last hour.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HourCost {
    pub(super) sum: Wei,
    /// The number of this amount: it ascends by one with each amount that the process takes.
    pub(super) number: u64,
}

/// A request for nonces, which is the process's heartbeat as well.
#[derive(Debug, Default)]
pub(super) struct SyncRequest {
    /// The chain's count of mined and pending transactions; `None` if unknown.
    pub(super) floor: Option<u64>,
    /// The chain's count of mined transactions.
    pub(super) mined: u64,
    /// Nonces without a transaction at any node, which block the later ones.
    pub(super) gap: Option<Range<u64>>,
    /// The nonces that this process uses.
    pub(super) held: Vec<u64>,
    pub(super) spent: HourCost,
    /// The payloads that need a nonce.
    pub(super) wanted: Vec<(JobId, B256)>,
}

/// The answer for one payload that needs a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// The payload is assigned this nonce.
    Nonce(u64),
    /// Another process is broadcasting the payload.
    Elsewhere,
    /// Another process has broadcast the payload in this mined transaction.
    Mined(B256),
    /// Another process has sent this transaction, and its outcome is unknown.
    Unknown(B256),
    /// Redis assigns no nonces yet; ask again later.
    Later,
}

/// The answer to a [`SyncRequest`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyncResponse {
    /// The id of the state in Redis. It changes when Redis is emptied or restored.
    pub(super) epoch: String,
    /// Nonces in the request's `held` that another process owns now.
    pub(super) lost: Vec<u64>,
    /// Nonces in the request's `held` without a recorded transaction.
    pub(super) unrecorded: Vec<u64>,
    /// Nonces for which this process has to send fillers.
    pub(super) fill: Vec<u64>,
    /// Nonces of a process that is gone, each with its transactions, oldest first. This process now owns them.
    pub(super) adopted: Vec<(u64, Vec<Bytes>)>,
    /// The answers for the payloads in the request's `wanted`.
    pub(super) given: Vec<(JobId, Share)>,
}

/// A transaction to put on record.
#[derive(Debug)]
pub(super) struct SharedTransaction {
    pub(super) nonce: u64,
    /// The digest of the payload; `None` for a filler.
    pub(super) payload: Option<B256>,
    /// True if the nonce already has an earlier transaction.
    pub(super) is_next: bool,
    /// The cost that it adds to the last hour; 0 if it is already counted.
    pub(super) cost: Wei,
    pub(super) raw: Bytes,
}

/// The hourly ceiling against which transactions are recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharedHour {
    /// The ceiling of the total cost of all processes in an hour.
    pub(super) max: Wei,
    /// The cost of this process without the transactions to record.
    pub(super) own: HourCost,
}

/// The answer for a transaction to record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SharedRecord {
    /// The transaction is recorded and may be sent.
    Recorded,
    /// Another process owns the nonce; the transaction must not be sent.
    Taken,
    /// The total cost of all processes would exceed the ceiling. Holds the cost so far.
    TooExpensive(Wei),
}

/// The outcome of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SharedEnd {
    /// Nothing was sent; the nonce can be assigned again.
    Free,
    /// The nonce is used, and there is no result to remember.
    Used,
    /// The payload was mined in this transaction.
    Mined(B256),
    /// The payload's outcome is unknown; this is its latest transaction.
    Unknown(B256),
    /// The account has signed none of the recorded transactions, so none is resumed; the nonce can be assigned again.
    Foreign,
}

/// A nonce whose outcome has not been reported to Redis yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct FinishedNonce {
    pub(super) nonce: u64,
    pub(super) payload: Option<B256>,
    pub(super) end: SharedEnd,
}

/// A connection to the shared nonces of one account.
#[derive(Debug)]
pub(super) struct SharedNonces {
    link: RedisLink,
    /// The random id of this process.
    me: String,
    base: String,
    keys: Vec<String>,
    /// The highest count of calls of all processes that Redis has returned.
    seen: AtomicU64,
    /// The highest count of this process's calls that Redis has returned.
    calls: AtomicU64,
}

impl SharedNonces {
    /// Connects to Redis and waits for the answer to a ping.
    pub(super) async fn connect(
        access: &RedisAccess,
        chain_id: u64,
        account: Address,
    ) -> Result<Self, RedisLinkError> {
        let link = RedisLink::connect(access, ANSWER_LEN_BYTES_MAX).await?;
        let base = link.key(&format!("nonces:{{{chain_id}:{account}}}"));
        let names = ["state", "owner", "signed", "payload", "alive", "since", "free"];
        let keys = names.iter().map(|name| format!("{base}:{name}")).collect();
        let random = || RandomState::new().hash_one(std::process::id());
        let me = format!("{:016x}{:016x}", random(), random());
        Ok(Self { link, me, base, keys, seen: AtomicU64::new(0), calls: AtomicU64::new(0) })
    }

    /// Sends a heartbeat and requests nonces.
    pub(super) async fn sync(&self, request: &SyncRequest) -> Result<SyncResponse, RedisLinkError> {
        let or_none = |value: Option<u64>| value.map_or_else(|| b"-1".to_vec(), number);
        let mut arguments = vec![
            self.me.clone().into_bytes(),
            millis(GONE_AFTER),
            number(self.seen.load(Relaxed)),
            number(self.calls.load(Relaxed)),
            wei(request.spent.sum),
            number(request.spent.number),
            or_none(request.floor),
            number(request.mined),
            or_none(request.gap.as_ref().map(|gap| gap.start)),
            or_none(request.gap.as_ref().map(|gap| gap.end)),
            number(request.held.len() as u64),
        ];
        arguments.extend(request.held.iter().map(|nonce| number(*nonce)));
        arguments.extend(request.wanted.iter().map(|(_, digest)| hex_of(digest)));
        let digests = request.wanted.iter().map(|(_, digest)| Some(*digest));
        let keys = self.keys_with(digests);
        let answer: SyncAnswer = self.link.eval(CALL_MAX, scripts::SYNC, &keys, &arguments).await?;
        scripts::remember(&self.seen, answer.calls_of_all);
        scripts::remember(&self.calls, answer.own_calls);
        let adopted = answer.adopted.chunks_exact(2).filter_map(|pair| {
            let nonce = std::str::from_utf8(&pair[0]).ok()?.parse().ok()?;
            Some((nonce, split_raws(&pair[1])))
        });
        Ok(SyncResponse {
            adopted: adopted.collect(),
            given: shares(&request.wanted, &answer.given),
            epoch: answer.epoch,
            lost: answer.lost,
            unrecorded: answer.unrecorded,
            fill: answer.fill,
        })
    }

    /// Records transactions. Refuses those whose nonce another process owns, and those that
    /// would exceed the hourly ceiling.
    pub(super) async fn record(
        &self,
        transactions: &[SharedTransaction],
        hour: SharedHour,
    ) -> Result<Vec<SharedRecord>, RedisLinkError> {
        let mut arguments = vec![
            self.me.clone().into_bytes(),
            number(self.calls.load(Relaxed)),
            wei(hour.max),
            wei(hour.own.sum),
            number(hour.own.number),
        ];
        for SharedTransaction { nonce, payload, is_next, cost, raw } in transactions {
            let digest = payload.map(|digest| hex_of(&digest)).unwrap_or_default();
            let is_next = if *is_next { b"1" } else { b"0" };
            arguments.extend([number(*nonce), digest, is_next.to_vec()]);
            arguments.extend([wei(*cost), framed(raw)]);
        }
        let answer = self.link.eval(CALL_MAX, scripts::RECORD, &self.keys, &arguments).await?;
        let (calls, spent, recorded): (u64, Vec<u8>, Vec<u64>) = answer;
        scripts::remember(&self.calls, calls);
        let spent = read_wei(&spent).unwrap_or(hour.max);
        let of_place = |place: usize| match recorded.get(place) {
            Some(1) => SharedRecord::Recorded,
            Some(2) => SharedRecord::TooExpensive(spent),
            _ => SharedRecord::Taken,
        };
        Ok((0..transactions.len()).map(of_place).collect())
    }

    /// Reports the outcomes of nonces.
    pub(super) async fn finish(&self, finished: &[FinishedNonce]) -> Result<(), RedisLinkError> {
        let calls = number(self.calls.load(Relaxed));
        let mut arguments = vec![self.me.clone().into_bytes(), calls, millis(RESULTS_KEPT)];
        for FinishedNonce { nonce, payload, end } in finished {
            let digest = payload.map(|digest| hex_of(&digest)).unwrap_or_default();
            arguments.extend([number(*nonce), digest, end_text(*end, payload.is_some())]);
        }
        let keys = self.keys_with(finished.iter().map(|finished| finished.payload));
        let calls: u64 = self.link.eval(CALL_MAX, scripts::FINISH, &keys, &arguments).await?;
        scripts::remember(&self.calls, calls);
        Ok(())
    }

    /// Reports results of payloads once more, which Redis may have lost.
    pub(super) async fn tell_results(
        &self,
        results: &[(B256, SharedEnd)],
    ) -> Result<(), RedisLinkError> {
        for part in results.chunks(RESULTS_PER_CALL) {
            let keys = part.iter().map(|(payload, _)| self.result_key(Some(*payload)));
            let keys: Vec<String> = keys.collect();
            let mut arguments = vec![millis(RESULTS_KEPT)];
            arguments.extend(part.iter().map(|(_, end)| end_text(*end, true)));
            let _: u64 = self.link.eval(CALL_MAX, scripts::RESULTS, &keys, &arguments).await?;
        }
        Ok(())
    }

    /// Announces that this process ends, so that another process takes over its nonces at once.
    pub(super) async fn leave(&self) -> Result<(), RedisLinkError> {
        let me = [self.me.clone().into_bytes()];
        let _: u64 = self.link.eval(CALL_MAX, scripts::LEAVE, &self.keys, &me).await?;
        Ok(())
    }

    fn keys_with(&self, digests: impl Iterator<Item = Option<B256>>) -> Vec<String> {
        let results = digests.map(|digest| self.result_key(digest));
        self.keys.iter().cloned().chain(results).collect()
    }

    fn result_key(&self, digest: Option<B256>) -> String {
        format!("{}:result:{}", self.base, digest.map(alloy::hex::encode).unwrap_or_default())
    }
}

/// The answer of [`scripts::SYNC`], as Redis returns it.
struct SyncAnswer {
    epoch: String,
    /// The count of calls of all processes.
    calls_of_all: u64,
    /// The count of calls of this process.
    own_calls: u64,
    lost: Vec<u64>,
    unrecorded: Vec<u64>,
    fill: Vec<u64>,
    /// Nonces that were taken over, each followed by its transactions.
    adopted: Vec<Vec<u8>>,
    /// A letter and a value for each payload that needs a nonce.
    given: Vec<Vec<u8>>,
}

impl FromRedisValue for SyncAnswer {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        // A list, because scripts of Redis return no records. The order is that of the script's last line.
        let (epoch, calls_of_all, own_calls, lost, unrecorded, fill, adopted, given) =
            redis::from_redis_value(value)?;
        Ok(Self { epoch, calls_of_all, own_calls, lost, unrecorded, fill, adopted, given })
    }
}

fn share(kind: &[u8], value: &[u8]) -> Option<Share> {
    let text = std::str::from_utf8(value).ok()?;
    let hash = || text.parse::<B256>().ok();
    match kind {
        b"n" => text.parse().ok().map(Share::Nonce),
        b"e" => Some(Share::Elsewhere),
        b"w" => Some(Share::Later),
        b"m" => hash().map(Share::Mined),
        b"u" => hash().map(Share::Unknown),
        _ => None,
    }
}

/// Returns an answer for each payload in `wanted`. A payload whose answer cannot be parsed gets [`Share::Later`], so it
/// is asked for again after a pause.
fn shares(wanted: &[(JobId, B256)], given: &[Vec<u8>]) -> Vec<(JobId, Share)> {
    let shares = given.chunks_exact(2).map(|pair| share(&pair[0], &pair[1]));
    let shares = shares.chain(std::iter::repeat(None));
    wanted
        .iter()
        .zip(shares)
        .map(|((job, _), share)| (*job, share.unwrap_or(Share::Later)))
        .collect()
}

fn millis(time: Duration) -> Vec<u8> {
    time.as_millis().to_string().into_bytes()
}

fn wei(amount: Wei) -> Vec<u8> {
    amount.0.to_string().into_bytes()
}

/// Parses an amount in wei; `None` if it is malformed, because other programs may write to Redis.
fn read_wei(text: &[u8]) -> Option<Wei> {
    std::str::from_utf8(text).ok()?.parse().ok().map(Wei)
}

fn hex_of(hash: &B256) -> Vec<u8> {
    alloy::hex::encode(hash).into_bytes()
}

/// Encodes the outcome of a nonce, which only with a payload has a result to remember.
fn end_text(end: SharedEnd, has_payload: bool) -> Vec<u8> {
    match (end, has_payload) {
        (SharedEnd::Free, _) => Vec::new(),
        (SharedEnd::Foreign, _) => b"x".to_vec(),
        (SharedEnd::Mined(hash), true) => [b"m".to_vec(), hex_of(&hash)].concat(),
        (SharedEnd::Unknown(hash), true) => [b"u".to_vec(), hex_of(&hash)].concat(),
        _ => b"-".to_vec(),
    }
}

/// Prefixes a raw transaction with its length.
fn framed(raw: &Bytes) -> Vec<u8> {
    let length = u32::try_from(raw.len()).expect("transactions are far below 4 GiB");
    [&length.to_be_bytes()[..], raw].concat()
}

/// Splits length-prefixed transactions. Stops at the first incomplete one.
fn split_raws(mut bytes: &[u8]) -> Vec<Bytes> {
    let mut raws = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>()
        && let Ok(length) = usize::try_from(u32::from_be_bytes(*length))
        && let Some((raw, rest)) = rest.split_at_checked(length)
    {
        raws.push(Bytes::copy_from_slice(raw));
        bytes = rest;
    }
    raws
}

/// The state of a process that shares its nonces.
#[derive(Debug)]
pub(super) struct Sharing {
    pub(super) shared: Arc<SharedNonces>,
    pub(super) is_syncing: bool,
    /// The time of the next heartbeat.
    pub(super) sync_at: Instant,
    pub(super) epoch: Option<String>,
    /// True from the begin of an epoch until Redis has the results that this process remembers.
    pub(super) owes_results: bool,
    /// The nonces in use with their payloads, by slot.
    pub(super) slots: HashMap<SlotId, (u64, Option<B256>)>,
    /// The nonces of mined payloads that this process still holds, by slot.
    pub(super) mined: HashMap<SlotId, FinishedNonce>,
    /// Payloads that got no nonce from the last sync.
    pub(super) parked: HashSet<JobId>,
    /// Outcomes that have not been reported to Redis yet.
    pub(super) finished: Vec<FinishedNonce>,
    /// The number of [`HourCost`] values taken so far.
    costs: u64,
}

impl Sharing {
    pub(super) fn new(shared: SharedNonces) -> Self {
        Self {
            shared: Arc::new(shared),
            is_syncing: false,
            sync_at: Instant::now(),
            epoch: None,
            owes_results: false,
            slots: HashMap::new(),
            mined: HashMap::new(),
            parked: HashSet::new(),
            finished: Vec::new(),
            costs: 0,
        }
    }

    /// Returns an amount taken now, with the next number.
    pub(super) fn cost(&mut self, sum: Wei) -> HourCost {
        self.costs += 1;
        HourCost { sum, number: self.costs }
    }
}

#[cfg(test)]
#[path = "../../tests/redis_server/process.rs"]
mod redis_process;

#[cfg(test)]
mod tests {
    use super::redis_process::RedisServer;
    use super::*;

    pub(super) async fn process(redis: &RedisServer) -> SharedNonces {
        let access = RedisAccess {
            url: redis.url(),
            key_prefix: "test:".into(),
            connect_timeout: Duration::from_secs(60),
        };
        SharedNonces::connect(&access, 1, Address::ZERO).await.unwrap()
    }

    /// Sends a heartbeat that reports this amount and holds a nonce. Repeats the call
    /// while Redis is too busy to answer.
    async fn tell(process: &SharedNonces, nonce: u64, wei: u128, number: u64) {
        let spent = HourCost { sum: Wei(wei), number };
        let request = SyncRequest { spent, held: vec![nonce], ..SyncRequest::default() };
        for _ in 0..60 {
            if process.sync(&request).await.is_ok() {
                return;
            }
        }
        panic!("Redis never answers")
    }

    /// Records a transaction. On a machine so busy that the process is considered gone, the process comes back with
    /// an amount older than all others.
    async fn put(process: &SharedNonces, nonce: u64, cost: Wei, hour: SharedHour) -> SharedRecord {
        for _ in 0..60 {
            let raw = Bytes::from_static(b"raw");
            let transaction = SharedTransaction { nonce, payload: None, is_next: false, cost, raw };
            match process.record(&[transaction], hour).await.as_deref() {
                Ok([SharedRecord::Taken]) | Err(_) => tell(process, nonce, 0, 0).await,
                Ok(answers) => return answers[0],
            }
        }
        panic!("Redis never answers")
    }

    /// Sends a heartbeat that holds these nonces. Repeats the call while Redis is too busy to answer.
    async fn hold(process: &SharedNonces, nonces: &[u64]) -> SyncResponse {
        for _ in 0..60 {
            let request = SyncRequest { held: nonces.to_vec(), ..SyncRequest::default() };
            if let Ok(response) = process.sync(&request).await {
                return response;
            }
        }
        panic!("Redis never answers")
    }

    /// A gateway that ends while the chain stands still leaves up to 64 payloads of 200 kB, each in many transactions.
    #[tokio::test]
    async fn long_transactions_are_taken_over_in_parts() {
        let redis = RedisServer::start();
        let owner = process(&redis).await;
        let nonces: Vec<u64> = (0..5).collect();
        assert_eq!(hold(&owner, &nonces).await.unrecorded.len(), 5);
        let raw = Bytes::from(vec![7_u8; 3_000_000]);
        for nonce in nonces {
            let (payload, raw) = (None, raw.clone());
            let long = [SharedTransaction { nonce, payload, is_next: false, cost: Wei(0), raw }];
            let hour = SharedHour { max: Wei(1), own: HourCost::default() };
            let mut tries = 0..60;
            while owner.record(&long, hour).await.is_err() && tries.next().is_some() {}
        }
        // It takes over what it does not hold, as it would from a process that has ended.
        let first = hold(&owner, &[]).await.adopted;
        let held: Vec<u64> = first.iter().map(|(nonce, _)| *nonce).collect();
        let rest = hold(&owner, &held).await;
        assert_eq!((first.len(), rest.adopted.len(), rest.unrecorded.len()), (3, 2, 0));
        let all: HashMap<u64, Vec<Bytes>> = first.into_iter().chain(rest.adopted).collect();
        assert!(all.len() == 5 && all.values().all(|raws| raws[..] == [raw.clone()]));
    }

    #[tokio::test]
    async fn an_amount_that_is_late_replaces_no_later_one() {
        let redis = RedisServer::start();
        let (first, second) = (process(&redis).await, process(&redis).await);
        let sum = async || {
            let hour = SharedHour { max: Wei(0), own: HourCost::default() };
            match put(&second, 8, Wei(1), hour).await {
                SharedRecord::TooExpensive(Wei(wei)) => wei,
                other => panic!("{other:?}"),
            }
        };
        tell(&second, 8, 0, 1).await;
        tell(&first, 7, 50, 1).await;
        assert_eq!(sum().await, 50);
        let hour =
            |wei, number| SharedHour { max: Wei(1000), own: HourCost { sum: Wei(wei), number } };
        assert_eq!(put(&first, 7, Wei(100), hour(50, 3)).await, SharedRecord::Recorded);
        assert_eq!(sum().await, 150);
        // This amount was taken before the transaction was recorded and is reported after it.
        tell(&first, 7, 50, 2).await;
        assert_eq!(sum().await, 150);
        tell(&first, 7, 120, 4).await;
        assert_eq!(sum().await, 120, "minutes leave the hour");
        // The record itself is late: its cost is part of the amount that was reported meanwhile.
        tell(&first, 7, 300, 6).await;
        assert_eq!(put(&first, 7, Wei(100), hour(200, 5)).await, SharedRecord::Recorded);
        assert!(sum().await >= 400, "counted twice until the next amount");
        tell(&first, 7, 300, 7).await;
        assert_eq!(sum().await, 300);
    }

    #[test]
    fn transactions_come_back_whole_and_a_torn_end_is_left_out() {
        let raws = [Bytes::from_static(b"first"), Bytes::new(), Bytes::from_static(b"third")];
        let all: Vec<u8> = raws.iter().flat_map(framed).collect();
        assert_eq!(split_raws(&all), raws);
        for len in 0..all.len() {
            let kept = split_raws(&all[..len]);
            assert!(kept.len() < raws.len() && kept == raws[..kept.len()], "of {len} bytes");
        }
        assert_eq!(split_raws(&[0xff; 20]), Vec::<Bytes>::new(), "a length is only a claim");
    }

    #[test]
    fn an_answer_of_another_form_gives_nothing() {
        assert_eq!(share(b"n", b"17"), Some(Share::Nonce(17)));
        assert_eq!(share(b"n", b"-1"), None);
        assert_eq!(share(b"n", b"99999999999999999999999"), None);
        assert_eq!(share(b"m", b"00"), None);
        assert_eq!(share(b"m", &hex_of(&B256::ZERO)), Some(Share::Mined(B256::ZERO)));
        assert_eq!(share(b"z", b"1"), None);
    }

    #[test]
    fn a_payload_without_an_answer_that_is_understood_is_asked_for_later() {
        let wanted = [1, 2, 3].map(|job| (JobId(job), B256::ZERO));
        let given = [&b"n"[..], b"-9", b"n", b"17"].map(<[u8]>::to_vec);
        let expected = [Share::Later, Share::Nonce(17), Share::Later];
        let shares: Vec<_> = shares(&wanted, &given).into_iter().map(|(_, share)| share).collect();
        assert_eq!(shares, expected);
    }
}
