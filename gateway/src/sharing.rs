//! Limits, budgets, the nodes of topics and the ids of published envelopes, which several gateways share through
//! Redis.
//!
//! A request has to fit this gateway's own limits first; these count only this gateway's share. So with a Redis
//! that is down, empty or restored from an old state, each gateway still applies its own limits. After a failure
//! the gateway does not ask Redis for a second, so that not every caller waits for a Redis that is down.
//!
//! A request makes one call before it is published and one afterwards. Requests that come at the same time share
//! calls (`calls`). `count` keeps what Redis has counted for a request, even if Redis answers late. `owed` keeps the
//! places on the chain that Redis has not taken, which are told again.

mod calls;
mod count;
mod owed;
mod scripts;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use calls::REDIS_ANSWER_LEN_BYTES_MAX;
use calls::{OpAnswer, SharedCalls, SharedOp, read};
use count::bounded;
pub(crate) use count::{DAY_MS, HOUR_MS, SharedCost, SharedCount};
use hawser_chain::redis_link::{RedisLink, number};
use hawser_proto::{Address, EnvelopeId, OriginatorId};
use hawser_rules::PayloadClass;
use hawser_serve::bucket::BucketSize;
use hawser_serve::metrics::Counter;
use owed::{OwedPlace, OwedPlaces};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::landed::{
    ClientKey, LandedEnvelope, OF_CHAIN, OF_NODES, OF_TOPICS, PLACES_PER_CALL, PlaceMemory,
};

/// The digest under which the node of a topic is stored.
pub(crate) type TopicKey = [u8; 16];

/// Age at which the shared state is read again. A guess: a client needs longer to give up at one gateway and to ask
/// the next one.
const FRESH_MAX: Duration = Duration::from_millis(100);

/// Pause before Redis is told a place again that it has not taken. A guess: the pause after a failed call.
const OWED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Parses the answer to the operation `take`. An answer of another form counts as no answer.
fn taken(answer: &[i64]) -> SharedTake {
    match answer {
        [at_ms] => {
            u64::try_from(*at_ms).map_or(SharedTake::Skipped, |at_ms| SharedTake::Taken { at_ms })
        }
        [holder, place, wait_ms] => {
            let (holder, place) = (LimitHolder::of_number(*holder), usize::try_from(*place).ok());
            let wait_ms = u64::try_from(*wait_ms).ok();
            holder.zip(place).map_or(SharedTake::Skipped, |(holder, place)| {
                SharedTake::Exceeded(SharedLimitError { holder, place, wait_ms })
            })
        }
        _ => SharedTake::Skipped,
    }
}

/// The callers whose usage a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitHolder {
    /// One caller.
    Caller,
    /// All callers together.
    All,
    /// The callers of one network together.
    Network,
}

impl LimitHolder {
    /// Returns the holder that the script means by this number.
    fn of_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Caller),
            1 => Some(Self::All),
            2 => Some(Self::Network),
            _ => None,
        }
    }
}

/// The limits of one caller, of all callers together, or of those of a network; `None` is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SharedLimits {
    /// Token buckets of envelopes in a minute and in an hour: capacity, and the window in ms in which an empty
    /// bucket fills.
    pub(crate) buckets: [Option<(u64, u64)>; 2],
    /// Picodollars and gas in an hour.
    pub(crate) hour: [Option<u64>; 2],
    /// Envelopes, picodollars and gas in a day.
    pub(crate) day: [Option<u64>; 3],
}

impl SharedLimits {
    /// The number of limits: the two buckets, then the two of the hour, then the three of the day.
    pub(crate) const COUNT: usize = 7;
}

/// A token bucket of one kind of envelopes, with the envelopes that a request takes from it, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharedBucket {
    /// True for the bucket of all callers together, false for the caller's own bucket.
    pub(crate) of_total: bool,
    pub(crate) kind: PayloadClass,
    pub(crate) size: BucketSize,
    pub(crate) cost: u64,
}

/// The limit that a request exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharedLimitError {
    pub(crate) holder: LimitHolder,
    /// Index of the limit: those of [`SharedLimits`], then the buckets of kinds.
    pub(crate) place: usize,
    /// Time after which the same cost fits the bucket, or the hour or day has ended, ms. `None` if the cost alone
    /// exceeds the limit.
    pub(crate) wait_ms: Option<u64>,
}

/// The answer of Redis to the operation `take`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SharedTake {
    /// Redis has taken the cost at this unix time of its own clock.
    Taken {
        at_ms: u64,
    },
    /// Redis did not answer in time, or was not asked. If Redis takes the cost late, the [`SharedCount`] learns of
    /// it.
    Skipped,
    Exceeded(SharedLimitError),
}

/// The cost of a request, with the limits of its caller and of all callers together, in this order, and those of the
/// caller's network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SharedCharge<'a> {
    pub(crate) caller: &'a str,
    pub(crate) limits: [SharedLimits; 2],
    /// The name of the caller's network, if that has limits.
    pub(crate) network: Option<(&'a str, SharedLimits)>,
    /// The buckets of the kinds in the request that have one.
    pub(crate) kinds: &'a [SharedBucket],
    pub(crate) cost: SharedCost,
}

/// The topics and client envelopes of a request, by digest, for which other gateways may have written nodes and
/// ids.
#[derive(Debug, Default)]
pub(crate) struct SharedQuery {
    pub(crate) topics: Vec<TopicKey>,
    /// The client envelopes for nodes.
    pub(crate) clients: Vec<ClientKey>,
    /// The client envelopes for the chain.
    pub(crate) payloads: Vec<ClientKey>,
}

/// The answer to a [`SharedQuery`]: the state that other gateways have written. An envelope id in it is a hint, not
/// a proof.
#[derive(Debug)]
pub(crate) struct SharedKnowledge {
    /// The time at which Redis was asked.
    asked_at: Instant,
    /// The nodes of topics.
    pub(crate) nodes: Vec<(TopicKey, OriginatorId)>,
    /// The topics without a node in Redis.
    pub(crate) unplaced: Vec<TopicKey>,
    /// The ids of envelopes that were published.
    pub(crate) places: Vec<(ClientKey, LandedEnvelope)>,
}

impl Default for SharedKnowledge {
    /// Returns an empty answer as of now.
    fn default() -> Self {
        let (nodes, unplaced, places) = (Vec::new(), Vec::new(), Vec::new());
        Self { asked_at: Instant::now(), nodes, unplaced, places }
    }
}

impl SharedKnowledge {
    /// Returns true if the answer is newer than [`FRESH_MAX`] and need not be read again.
    pub(crate) fn is_fresh(&self) -> bool {
        self.asked_at.elapsed() < FRESH_MAX
    }
}

/// The state that the gateways of one payer share.
pub(crate) struct GatewayShare {
    calls: Arc<SharedCalls>,
    /// The prefix of all keys. The payer in braces is a hash tag, so a Redis cluster keeps all keys of a payer on
    /// one server.
    base: String,
    /// The places of payloads on the chain that Redis has not taken.
    owed: Mutex<OwedPlaces>,
}

impl std::fmt::Debug for GatewayShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GatewayShare({:?})", self.base)
    }
}

impl GatewayShare {
    /// Shares the state of one payer's gateways. A request waits at most `call_max` for an answer of Redis; `failures`
    /// counts the calls that fail.
    pub(crate) fn new(
        link: Arc<RedisLink>,
        payer: Address,
        call_max: Duration,
        failures: Counter,
    ) -> Self {
        let calls = Arc::new(SharedCalls::new(link, call_max, failures));
        let base = calls.key(&format!("gateway:{{{payer}}}"));
        Self { calls, base, owed: Mutex::default() }
    }

    /// Creates the count of a request, for [`admit`](Self::admit). The clock of Redis selects the hour and the day, so
    /// that a gateway whose clock is wrong counts to the same ones as the others.
    pub(crate) fn count(&self, charge: SharedCharge<'_>) -> Arc<SharedCount> {
        let holders = [self.caller_key(charge.caller), self.total_key()].into_iter();
        let holders = holders.chain(charge.network.map(|(network, _)| self.network_key(network)));
        let mut keys: Vec<_> = holders.flat_map(|base| limit_keys(&base)).collect();
        let holder_keys = keys.len();
        keys.extend(charge.kinds.iter().map(|bucket| self.bucket_key(charge.caller, bucket)));
        let arguments = charge.to_arguments();
        Arc::new(SharedCount::asked(self.calls.clone(), keys, holder_keys, arguments))
    }

    /// Takes the cost from the limits of the caller, of all callers and of the caller's network, or from none of them,
    /// and reads the shared state in the same call. A query too large for one operation needs further calls, which are
    /// made only if the cost was not refused.
    pub(crate) async fn admit(
        &self,
        count: &Arc<SharedCount>,
        query: &SharedQuery,
    ) -> (SharedTake, SharedKnowledge) {
        let mut known = SharedKnowledge::default();
        let (first, others) = self.parts(query);
        let ops = std::iter::once(count.take()).chain(first.ops()).collect();
        let (sender, receiver) = oneshot::channel();
        let heard = count.clone();
        self.calls.ask(ops, move |answers| {
            let mut answers = answers.into_iter();
            let take = read::<Vec<i64>>(answers.next().flatten());
            let take = take.map_or(SharedTake::Skipped, |answer| taken(&answer));
            heard.answered(match take {
                SharedTake::Taken { at_ms } => Some(at_ms),
                SharedTake::Skipped | SharedTake::Exceeded(_) => None,
            });
            let _ = sender.send((take, answers.collect::<Vec<_>>())); // the request may have gone on
        });
        let answered = timeout(self.calls.answer_max(), receiver).await;
        let Ok(Ok((take, answers))) = answered else {
            return (SharedTake::Skipped, known);
        };
        first.read(answers, &mut known);
        if !matches!(take, SharedTake::Exceeded(_)) {
            self.learn(others, &mut known).await;
        }
        (take, known)
    }

    /// Returns the state that other gateways have written; empty if Redis does not answer in time.
    pub(crate) async fn known(&self, query: &SharedQuery) -> SharedKnowledge {
        let mut known = SharedKnowledge::default();
        let (first, others) = self.parts(query);
        self.learn(std::iter::once(first).chain(others), &mut known).await;
        known
    }

    async fn learn(&self, parts: impl Iterator<Item = QueryPart<'_>>, known: &mut SharedKnowledge) {
        for part in parts {
            let ops = part.ops();
            if !ops.is_empty() {
                part.read(self.ask(ops).await, known);
            }
        }
    }

    /// Splits a query into parts, one for each call. The first part may be empty.
    fn parts<'a>(
        &'a self,
        query: &'a SharedQuery,
    ) -> (QueryPart<'a>, impl Iterator<Item = QueryPart<'a>>) {
        let mut topics = query.topics.chunks(PLACES_PER_CALL);
        let mut clients = query.clients.chunks(PLACES_PER_CALL);
        let mut payloads = query.payloads.chunks(PLACES_PER_CALL);
        let mut next = move || {
            let digests = [topics.next(), clients.next(), payloads.next()];
            let is_end = digests.iter().all(Option::is_none);
            let [topics, clients, payloads] = digests.map(Option::unwrap_or_default);
            (!is_end).then_some(QueryPart { share: self, topics, clients, payloads })
        };
        let none = QueryPart { share: self, topics: &[], clients: &[], payloads: &[] };
        (next().unwrap_or(none), std::iter::from_fn(next))
    }

    /// Writes the ids of envelopes that nodes have published, and the nodes of topics that have moved or that Redis
    /// lacks. Returns the entries that another gateway had written before, with the same id: that gateway has them in a
    /// bill. An envelope may have several ids, so each entry is returned with the id of this request. Returns none if
    /// Redis does not answer.
    pub(crate) async fn tell(
        &self,
        places: &[(ClientKey, LandedEnvelope)],
        moved: &[(TopicKey, OriginatorId)],
    ) -> BTreeSet<(ClientKey, EnvelopeId)> {
        let mut known = BTreeSet::new();
        let mut places = places.chunks(PLACES_PER_CALL);
        let mut moved = moved.chunks(PLACES_PER_CALL);
        loop {
            let (told, moved) = (places.next(), moved.next());
            let tell = told.map(|places| self.tell_places("tell", &OF_NODES, places));
            let set = moved.map(|topics| self.set_nodes(topics));
            let ops: Vec<_> = tell.into_iter().chain(set).collect();
            if ops.is_empty() {
                return known;
            }
            let mut answers = self.ask(ops).await.into_iter();
            let Some(told) = told else { continue };
            let are_known: Option<Vec<i64>> = read(answers.next().flatten());
            let told = told.iter().zip(are_known.unwrap_or_default());
            let told = told.filter(|(_, is_known)| *is_known == 1);
            known.extend(told.map(|((client, place), _)| (*client, place.id)));
        }
    }

    /// Writes the place of a payload on the chain. With `is_billed`, this gateway enters the payload in a bill, unless
    /// the answer is true: another gateway has written the place of the same transaction before, and has it in a bill.
    ///
    /// A place that Redis does not take is written later: without it, another gateway would pay for the payload again.
    pub(crate) async fn tell_payload(
        self: &Arc<Self>,
        place: (ClientKey, LandedEnvelope),
        is_billed: bool,
    ) -> bool {
        let answers = self.ask(vec![self.tell_payloads(&[place], is_billed)]).await;
        let are_known: Option<Vec<i64>> = read(answers.into_iter().next().flatten());
        if are_known.is_none() && self.owed.lock().add(OwedPlace { place, is_billed }) {
            tokio::spawn(self.clone().tell_owed());
        }
        are_known.is_some_and(|are_known| are_known == [1_i64])
    }

    /// Writes the places that Redis has not taken, until it has all of them.
    async fn tell_owed(self: Arc<Self>) {
        loop {
            sleep(OWED_AGAIN_AFTER).await;
            let owed = self.owed.lock().take_next();
            if owed.is_empty() {
                return;
            }
            let mut ops = Vec::new();
            for is_billed in [true, false] {
                let places = owed.iter().filter(|owed| owed.is_billed == is_billed);
                let places: Vec<_> = places.map(|owed| owed.place).collect();
                if !places.is_empty() {
                    ops.push(self.tell_payloads(&places, is_billed));
                }
            }
            let count = ops.len();
            let answers = self.ask(ops).await;
            if answers.len() < count || answers.iter().any(Option::is_none) {
                self.owed.lock().put_back(owed);
            }
        }
    }

    fn tell_payloads(&self, places: &[(ClientKey, LandedEnvelope)], is_billed: bool) -> SharedOp {
        self.tell_places(if is_billed { "tell" } else { "note" }, &OF_CHAIN, places)
    }

    fn tell_places(
        &self,
        name: &'static str,
        memory: &PlaceMemory,
        places: &[(ClientKey, LandedEnvelope)],
    ) -> SharedOp {
        let entries = places.iter().map(|(client, place)| [client.to_vec(), place.to_text()]);
        self.store(name, memory, entries)
    }

    fn set_nodes(&self, topics: &[(TopicKey, OriginatorId)]) -> SharedOp {
        let entries = topics.iter().map(|(topic, node)| [topic.to_vec(), number(node.0.into())]);
        self.store("tell", &OF_TOPICS, entries)
    }

    /// Returns the operation that stores entries, each a digest and a text, in a memory.
    fn store(
        &self,
        name: &'static str,
        memory: &PlaceMemory,
        entries: impl Iterator<Item = [Vec<u8>; 2]>,
    ) -> SharedOp {
        let bounds = [number(memory.kept_ms), number(memory.places_max)];
        let arguments = bounds.into_iter().chain(entries.flatten()).collect();
        SharedOp { name, keys: self.place_keys(memory).into(), arguments }
    }

    /// Sends these operations in a call. Returns their answers, or none if Redis does not answer in time.
    async fn ask(&self, ops: Vec<SharedOp>) -> Vec<OpAnswer> {
        let (sender, receiver) = oneshot::channel();
        self.calls.ask(ops, |answers| {
            let _ = sender.send(answers); // the request may have gone on
        });
        match timeout(self.calls.answer_max(), receiver).await {
            Ok(Ok(answers)) => answers,
            _ => Vec::new(),
        }
    }

    fn place_keys(&self, memory: &PlaceMemory) -> [String; 3] {
        ["0", "1", "turn"].map(|name| format!("{}:{}:{name}", self.base, memory.name))
    }

    fn bucket_key(&self, caller: &str, bucket: &SharedBucket) -> String {
        let base = if bucket.of_total { self.total_key() } else { self.caller_key(caller) };
        format!("{base}:k:{}:{}", bucket.kind.name(), bucket.size.window_ms)
    }

    /// Returns the prefix of a caller's keys. A caller chooses its name, so the prefix has a digest of it: the name
    /// can neither lengthen keys nor collide with those of another caller.
    fn caller_key(&self, caller: &str) -> String {
        format!("{}:rl:{}", self.base, hex::encode(&Sha256::digest(caller)[..16]))
    }

    /// Returns the prefix of the keys of a network.
    fn network_key(&self, network: &str) -> String {
        format!("{}:rl-net:{}", self.base, hex::encode(&Sha256::digest(network)[..16]))
    }

    fn total_key(&self) -> String {
        format!("{}:rl-total", self.base)
    }
}

/// Returns the keys of the limits of one holder. Those of the counts lack the number of their hour or day.
fn limit_keys(base: &str) -> [String; 5] {
    ["ts", "1", "2", "h", "d"].map(|name| format!("{base}:{name}"))
}

impl SharedCharge<'_> {
    fn to_arguments(self) -> Vec<Vec<u8>> {
        let or_none = |limit: Option<u64>| limit.map_or_else(|| b"-1".to_vec(), number);
        let holders: Vec<_> =
            self.limits.into_iter().chain(self.network.map(|(_, limits)| limits)).collect();
        let mut arguments = vec![number(holders.len() as u64)];
        for SharedLimits { buckets, hour, day } in holders {
            for bucket in buckets {
                arguments.push(or_none(bucket.map(|(capacity, _)| capacity)));
                arguments.push(or_none(bucket.map(|(_, window_ms)| window_ms)));
            }
            arguments.extend(bounded(self.cost));
            arguments.extend(hour.into_iter().chain(day).map(or_none));
        }
        for SharedBucket { of_total, size, cost, .. } in self.kinds {
            let of_bucket = [u64::from(*of_total), size.capacity, size.window_ms, *cost];
            arguments.extend(of_bucket.map(number));
        }
        arguments
    }
}

/// The part of a query that one call carries.
struct QueryPart<'a> {
    share: &'a GatewayShare,
    topics: &'a [TopicKey],
    clients: &'a [ClientKey],
    payloads: &'a [ClientKey],
}

impl QueryPart<'_> {
    /// Returns the digests of envelopes that are looked up, by memory, without empty ones.
    fn looked_up(&self) -> impl Iterator<Item = (&'static PlaceMemory, &[ClientKey])> {
        let all = [(&OF_NODES, self.clients), (&OF_CHAIN, self.payloads)];
        all.into_iter().filter(|(_, digests)| !digests.is_empty())
    }

    fn ops(&self) -> Vec<SharedOp> {
        let find = |(memory, digests): (&PlaceMemory, &[[u8; 16]])| SharedOp {
            name: "find",
            keys: self.share.place_keys(memory).into(),
            arguments: digests.iter().map(|digest| digest.to_vec()).collect(),
        };
        let topics = (!self.topics.is_empty()).then_some((&OF_TOPICS, self.topics));
        topics.into_iter().chain(self.looked_up()).map(find).collect()
    }

    /// Reads the answers to [`ops`](Self::ops).
    fn read(&self, answers: Vec<OpAnswer>, known: &mut SharedKnowledge) {
        let mut answers = answers.into_iter();
        if !self.topics.is_empty() {
            let nodes: Option<Vec<Option<Vec<u8>>>> = read(answers.next().flatten());
            for (topic, text) in self.topics.iter().zip(nodes.unwrap_or_default()) {
                match text.and_then(|text| std::str::from_utf8(&text).ok()?.parse::<u32>().ok()) {
                    Some(node) => known.nodes.push((*topic, OriginatorId(node))),
                    None => known.unplaced.push(*topic),
                }
            }
        }
        for (_, digests) in self.looked_up() {
            let places: Option<Vec<Option<Vec<u8>>>> = read(answers.next().flatten());
            let places = digests.iter().zip(places.unwrap_or_default());
            let places = places
                .filter_map(|(client, place)| Some((*client, LandedEnvelope::read(&place?)?)));
            known.places.extend(places);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_with_a_time_alone_says_that_a_cost_is_taken() {
        assert_eq!(taken(&[7]), SharedTake::Taken { at_ms: 7 });
        let holders = [LimitHolder::Caller, LimitHolder::All, LimitHolder::Network];
        for (number, holder) in (0..).zip(holders) {
            let exceeded = SharedLimitError { holder, place: 2, wait_ms: None };
            assert_eq!(taken(&[number, 2, -1]), SharedTake::Exceeded(exceeded));
        }
        for other in [&[][..], &[-1], &[0, 1], &[0, -1, 5], &[3, 2, 5], &[0, 1, 2, 3]] {
            assert_eq!(taken(other), SharedTake::Skipped, "{other:?}");
        }
    }
}
