//! The nonces of one account that several processes share through Redis.
//!
//! ```text
//!  sync: a payload gets a nonce ─▶ record: its transaction ─▶ sent ─▶ finish: its result
//!  every second: sync as a sign of life; what a silent process leaves goes to another one
//! ```
//!
//! Redis only coordinates. That a payload is mined once still follows from the chain: see
//! [`Nonces`](super::nonces::Nonces). So nothing breaks when Redis loses everything, or is restored to an older
//! state: processes then register what they hold before the next nonce is given out, and no nonce below the
//! chain's own count is. An older state shows itself: each process remembers how many calls it has made, and each run of
//! Redis has an id of its own (decision 0027).
//!
//! The cost of gas in the last hour is counted there for all processes together. Each one says what it has spent itself,
//! so a count that was lost is there again with the next call. Each amount has a number, so that one that is late on its way
//! replaces no later one.

mod scripts;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes};

use super::slots::{JobId, SlotId};
use crate::redis_link::{RedisAccess, RedisFault, RedisLink, number};

/// Time after which a silent process counts as gone, and for which an empty or older Redis gives out no nonce. A
/// guess: five signs of life.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// Interval of the signs of life. A guess.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Pause before a payload that is under way at another process is looked up again. A guess: below the block time.
pub(super) const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Time limit of a call. A guess: far above what Redis takes, and far below [`GONE_AFTER`].
const CALL_MAX: Duration = Duration::from_secs(1);
/// Time for which results are kept for other processes: as long as a process keeps its own.
const RESULTS_KEPT: Duration = Duration::from_secs(600);
/// Payloads that one call names. A guess: more than are in flight at once.
pub(super) const WANTED_MAX: usize = 64;

/// The cost of this process' gas in the last hour.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HourCost {
    pub(super) wei: u128,
    /// The number of this amount among those that the process tells, in the order in which it took them.
    pub(super) number: u64,
}

/// A question for nonces, which is a sign of life as well.
#[derive(Debug, Default)]
pub(super) struct SyncRequest {
    /// The chain's count of mined and pending transactions, if it is known.
    pub(super) floor: Option<u64>,
    /// The chain's count of mined transactions.
    pub(super) mined: u64,
    /// Nonces for which no node has a transaction, and which later ones wait for.
    pub(super) gap: Option<Range<u64>>,
    /// The nonces that this process uses.
    pub(super) held: Vec<u64>,
    pub(super) spent: HourCost,
    /// The payloads that need a nonce.
    pub(super) wanted: Vec<(JobId, B256)>,
}

/// The answer to a payload that needs a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// The payload has this nonce.
    Nonce(u64),
    /// It is under way at another process.
    Elsewhere,
    /// This transaction of another process has put it on the chain.
    Mined(B256),
    /// Another process has sent this transaction, and its outcome cannot be found out.
    Unknown(B256),
    /// Redis gives out none yet.
    Later,
}

/// The answer to a [`SyncRequest`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyncResponse {
    /// The life of the state in Redis: another one after it was emptied or restored.
    pub(super) epoch: String,
    /// Held nonces that belong to another process now.
    pub(super) lost: Vec<u64>,
    /// Held nonces without a transaction on record.
    pub(super) unrecorded: Vec<u64>,
    /// Nonces that this process has to use up.
    pub(super) fill: Vec<u64>,
    /// Nonces of a process that has gone, with their transactions, the oldest first.
    pub(super) adopted: Vec<(u64, Vec<Bytes>)>,
    /// The answers for the payloads.
    pub(super) given: Vec<(JobId, Share)>,
}

/// A transaction to put on record.
#[derive(Debug)]
pub(super) struct SharedTransaction {
    pub(super) nonce: u64,
    /// The digest of the payload; `None` for a nonce that is only used up.
    pub(super) payload: Option<B256>,
    /// True if it follows others of its nonce.
    pub(super) is_next: bool,
    /// The cost that it adds to the hour, wei; 0 if that was counted before.
    pub(super) cost_wei: u128,
    pub(super) raw: Bytes,
}

/// The hour in which transactions are put on record.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharedHour {
    /// The most that it may cost all processes together, wei.
    pub(super) max_wei: u128,
    /// The cost of this process without what is to be put on record.
    pub(super) own: HourCost,
}

/// The answer to a transaction that was to be put on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SharedRecord {
    /// The transaction is recorded and may be sent.
    Recorded,
    /// Another process owns its nonce.
    Taken,
    /// All processes together would pay more than an hour may cost; so much is spent, wei.
    TooExpensive(u128),
}

/// The end of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SharedEnd {
    /// Nothing was sent: it can be given to another payload.
    Free,
    /// It is used up, and there is nothing to remember.
    Used,
    /// The payload is on the chain.
    Mined(B256),
    /// The outcome of the payload cannot be found out.
    Unknown(B256),
}

/// A nonce whose end Redis does not know yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct FinishedNonce {
    pub(super) nonce: u64,
    pub(super) payload: Option<B256>,
    pub(super) end: SharedEnd,
}

/// Access to the shared nonces of one account.
#[derive(Debug)]
pub(super) struct SharedNonces {
    link: RedisLink,
    /// The name of this process.
    me: String,
    base: String,
    keys: Vec<String>,
    /// The highest count of all processes' calls that Redis has told.
    seen: AtomicU64,
    /// The highest count of the own calls that Redis has told.
    calls: AtomicU64,
}

impl SharedNonces {
    /// Connects, and waits for the answer to a ping.
    pub(super) async fn connect(
        access: &RedisAccess,
        chain_id: u64,
        account: Address,
    ) -> Result<Self, RedisFault> {
        let link = RedisLink::connect(access).await?;
        let base = link.key(&format!("nonces:{{{chain_id}:{account}}}"));
        let names = ["state", "owner", "signed", "payload", "alive", "since", "free"];
        let keys = names.iter().map(|name| format!("{base}:{name}")).collect();
        let random = || RandomState::new().hash_one(std::process::id());
        let me = format!("{:016x}{:016x}", random(), random());
        Ok(Self { link, me, base, keys, seen: AtomicU64::new(0), calls: AtomicU64::new(0) })
    }

    /// Gives a sign of life and takes nonces.
    pub(super) async fn sync(&self, request: &SyncRequest) -> Result<SyncResponse, RedisFault> {
        let or_none = |value: Option<u64>| value.map_or_else(|| b"-1".to_vec(), number);
        let mut arguments = vec![
            self.me.clone().into_bytes(),
            millis(GONE_AFTER),
            number(self.seen.load(Relaxed)),
            number(self.calls.load(Relaxed)),
            wei(request.spent.wei),
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
        let answer = self.link.eval(CALL_MAX, scripts::SYNC, &keys, &arguments).await?;
        let (epoch, seq, calls, lost, unrecorded, fill, adopted, given): SyncAnswer = answer;
        self.seen.fetch_max(seq, Relaxed);
        self.calls.fetch_max(calls, Relaxed);
        let adopted = adopted.chunks_exact(2).filter_map(|pair| {
            let nonce = std::str::from_utf8(&pair[0]).ok()?.parse().ok()?;
            Some((nonce, split_raws(&pair[1])))
        });
        let (adopted, given) = (adopted.collect(), shares(&request.wanted, &given));
        Ok(SyncResponse { epoch, lost, unrecorded, fill, adopted, given })
    }

    /// Puts transactions on record, as far as this process owns their nonces and the hour has room for their cost.
    pub(super) async fn record(
        &self,
        transactions: &[SharedTransaction],
        hour: SharedHour,
    ) -> Result<Vec<SharedRecord>, RedisFault> {
        let mut arguments = vec![
            self.me.clone().into_bytes(),
            number(self.calls.load(Relaxed)),
            wei(hour.max_wei),
            wei(hour.own.wei),
            number(hour.own.number),
        ];
        for SharedTransaction { nonce, payload, is_next, cost_wei, raw } in transactions {
            let digest = payload.map(|digest| hex_of(&digest)).unwrap_or_default();
            let is_next = if *is_next { b"1" } else { b"0" };
            arguments.extend([number(*nonce), digest, is_next.to_vec()]);
            arguments.extend([wei(*cost_wei), framed(raw)]);
        }
        let answer = self.link.eval(CALL_MAX, scripts::RECORD, &self.keys, &arguments).await?;
        let (calls, spent, recorded): (u64, Vec<u8>, Vec<u64>) = answer;
        self.calls.fetch_max(calls, Relaxed);
        let spent_wei = read_wei(&spent).unwrap_or(hour.max_wei);
        let of_place = |place: usize| match recorded.get(place) {
            Some(1) => SharedRecord::Recorded,
            Some(2) => SharedRecord::TooExpensive(spent_wei),
            _ => SharedRecord::Taken,
        };
        Ok((0..transactions.len()).map(of_place).collect())
    }

    /// Reports finished nonces.
    pub(super) async fn finish(&self, finished: &[FinishedNonce]) -> Result<(), RedisFault> {
        let calls = number(self.calls.load(Relaxed));
        let mut arguments = vec![self.me.clone().into_bytes(), calls, millis(RESULTS_KEPT)];
        for FinishedNonce { nonce, payload, end } in finished {
            let digest = payload.map(|digest| hex_of(&digest)).unwrap_or_default();
            let result = match (end, payload) {
                (SharedEnd::Free, _) => Vec::new(),
                (SharedEnd::Mined(hash), Some(_)) => [b"m".to_vec(), hex_of(hash)].concat(),
                (SharedEnd::Unknown(hash), Some(_)) => [b"u".to_vec(), hex_of(hash)].concat(),
                _ => b"-".to_vec(),
            };
            arguments.extend([number(*nonce), digest, result]);
        }
        let keys = self.keys_with(finished.iter().map(|finished| finished.payload));
        let calls: u64 = self.link.eval(CALL_MAX, scripts::FINISH, &keys, &arguments).await?;
        self.calls.fetch_max(calls, Relaxed);
        Ok(())
    }

    /// Announces that this process ends, so that another process takes over its nonces at once.
    pub(super) async fn leave(&self) -> Result<(), RedisFault> {
        let me = [self.me.clone().into_bytes()];
        let _: u64 = self.link.eval(CALL_MAX, scripts::LEAVE, &self.keys, &me).await?;
        Ok(())
    }

    fn keys_with(&self, digests: impl Iterator<Item = Option<B256>>) -> Vec<String> {
        let result = |digest: Option<B256>| {
            format!("{}:result:{}", self.base, digest.map(alloy::hex::encode).unwrap_or_default())
        };
        self.keys.iter().cloned().chain(digests.map(result)).collect()
    }
}

type SyncAnswer = (String, u64, u64, Vec<u64>, Vec<u64>, Vec<u64>, Vec<Vec<u8>>, Vec<Vec<u8>>);

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

/// Returns an answer for each payload that needs a nonce. One without an answer that is understood is asked for again
/// later, and not at once and without end.
fn shares(wanted: &[(JobId, B256)], given: &[Vec<u8>]) -> Vec<(JobId, Share)> {
    let told = given.chunks_exact(2).map(|pair| share(&pair[0], &pair[1]));
    let told = told.chain(std::iter::repeat(None));
    wanted.iter().zip(told).map(|((job, _), told)| (*job, told.unwrap_or(Share::Later))).collect()
}

fn millis(time: Duration) -> Vec<u8> {
    time.as_millis().to_string().into_bytes()
}

fn wei(amount: u128) -> Vec<u8> {
    amount.to_string().into_bytes()
}

/// Reads an amount. What another program has written may be none.
fn read_wei(told: &[u8]) -> Option<u128> {
    std::str::from_utf8(told).ok()?.parse().ok()
}

fn hex_of(hash: &B256) -> Vec<u8> {
    alloy::hex::encode(hash).into_bytes()
}

/// Puts the length before the bytes of a transaction.
fn framed(raw: &Bytes) -> Vec<u8> {
    let length = u32::try_from(raw.len()).expect("transactions are far below 4 GiB");
    [&length.to_be_bytes()[..], raw].concat()
}

/// Splits framed transactions. Ends at the first one that is not whole.
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

/// The nonces that a process shares, as far as it knows them.
#[derive(Debug)]
pub(super) struct Sharing {
    pub(super) shared: Arc<SharedNonces>,
    pub(super) is_syncing: bool,
    /// The time of the next sign of life.
    pub(super) sync_at: Instant,
    pub(super) epoch: Option<String>,
    /// The nonces in use with their payloads, by slot.
    pub(super) slots: HashMap<SlotId, (u64, Option<B256>)>,
    /// Payloads that got no nonce at the last question.
    pub(super) parked: HashSet<JobId>,
    /// Ends that Redis does not know yet.
    pub(super) finished: Vec<FinishedNonce>,
    /// The amounts of [`HourCost`] so far.
    costs: u64,
}

impl Sharing {
    pub(super) fn new(shared: SharedNonces) -> Self {
        Self {
            shared: Arc::new(shared),
            is_syncing: false,
            sync_at: Instant::now(),
            epoch: None,
            slots: HashMap::new(),
            parked: HashSet::new(),
            finished: Vec::new(),
            costs: 0,
        }
    }

    /// Returns an amount that was taken now, with its number.
    pub(super) fn cost(&mut self, wei: u128) -> HourCost {
        self.costs += 1;
        HourCost { wei, number: self.costs }
    }
}

#[cfg(test)]
#[path = "../../tests/redis_server/process.rs"]
mod redis_process;

#[cfg(test)]
mod tests {
    use super::redis_process::RedisServer;
    use super::*;

    async fn process(redis: &RedisServer) -> SharedNonces {
        let access = RedisAccess {
            url: redis.url(),
            key_prefix: "test:".into(),
            connect_timeout: Duration::from_secs(60),
        };
        SharedNonces::connect(&access, 1, Address::ZERO).await.unwrap()
    }

    /// Gives a sign of life that tells this amount, and holds a nonce. Asks again while Redis is too busy to answer.
    async fn tell(process: &SharedNonces, nonce: u64, wei: u128, number: u64) {
        let spent = HourCost { wei, number };
        let request = SyncRequest { spent, held: vec![nonce], ..SyncRequest::default() };
        for _ in 0..60 {
            if process.sync(&request).await.is_ok() {
                return;
            }
        }
        panic!("Redis never answers")
    }

    /// Puts a transaction on record. On a machine so busy that the process counts as gone, it comes back with an amount
    /// that is older than all others.
    async fn put(
        process: &SharedNonces,
        nonce: u64,
        cost_wei: u128,
        hour: SharedHour,
    ) -> SharedRecord {
        for _ in 0..60 {
            let raw = Bytes::from_static(b"raw");
            let transaction =
                SharedTransaction { nonce, payload: None, is_next: false, cost_wei, raw };
            match process.record(&[transaction], hour).await.as_deref() {
                Ok([SharedRecord::Taken]) | Err(_) => tell(process, nonce, 0, 0).await,
                Ok(answers) => return answers[0],
            }
        }
        panic!("Redis never answers")
    }

    #[tokio::test]
    async fn an_amount_that_is_late_replaces_no_later_one() {
        let redis = RedisServer::start();
        let (first, second) = (process(&redis).await, process(&redis).await);
        let sum = async || {
            let hour = SharedHour { max_wei: 0, own: HourCost::default() };
            match put(&second, 8, 1, hour).await {
                SharedRecord::TooExpensive(wei) => wei,
                other => panic!("{other:?}"),
            }
        };
        tell(&second, 8, 0, 1).await;
        tell(&first, 7, 50, 1).await;
        assert_eq!(sum().await, 50);
        let hour = |wei, number| SharedHour { max_wei: 1000, own: HourCost { wei, number } };
        assert_eq!(put(&first, 7, 100, hour(50, 3)).await, SharedRecord::Recorded);
        assert_eq!(sum().await, 150);
        // Taken before the transaction was put on record, and told after it with all that is known by now.
        tell(&first, 7, 50, 2).await;
        assert_eq!(sum().await, 150);
        tell(&first, 7, 120, 4).await;
        assert_eq!(sum().await, 120, "minutes leave the hour");
        // A record that is late itself: its cost is in the amount that was told meanwhile.
        tell(&first, 7, 300, 6).await;
        assert_eq!(put(&first, 7, 100, hour(200, 5)).await, SharedRecord::Recorded);
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
