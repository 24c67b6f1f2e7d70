//! The handle by which callers query the log and open subscriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Address, Cursor, EnvelopeId, InboxId, OriginatorId, PayerAddress, Topic};
use hawser_rules::PicoDollarPrice;
use hawser_storage::{LedgerEntry, ReadError, Snapshot, Store, UsageRow};

use super::access::LogAccess;
use super::hub::Hub;
use super::inboxes_query::InboxesQuery;
use super::opening;
use super::originators_query::OriginatorsQuery;
use super::queries::{NewestQuery, TopicsQuery};
use super::subscription::Subscription;
use crate::ledger::PicoDollarBalance;
use crate::payer_reports::ChainReports;
use crate::ports::Clock;
use crate::read::PackedTopics;
use crate::read::error::QueryError;
use crate::read::feed::{Feed, LogFeed, TopicFeed};
use crate::read::limits::BatchLimits;
use crate::read::memory::ReadMemory;
use crate::read::plan::Cursors;
use crate::read::rows::ROWS_PER_SEEK;
use crate::runtime::Heads;
use crate::runtime::counters::{ReadCounters, StreamCounters};

/// Rows that say up to where the chain was read, behind a ledger. They are the same for all payers, so they are in
/// memory and count without a search.
const ROWS_OF_POSITIONS: usize = 2;

/// Reads the log. Cheap to clone; all clones read the same.
#[derive(Clone)]
pub struct Reader {
    log: LogAccess,
    clock: Arc<dyn Clock>,
}

impl Reader {
    /// Puts the parts together.
    #[must_use]
    pub(crate) fn new(store: Store, heads: Heads, hub: Hub, clock: Arc<dyn Clock>) -> Self {
        Self { log: LogAccess::new(store, heads, hub), clock }
    }

    /// Returns the same reader, whose streams of whole strands end at these heads. Without them they end at all heads.
    #[must_use]
    pub(crate) fn with_verified(self, verified: Heads) -> Self {
        Self { log: self.log.with_verified(verified), ..self }
    }

    /// Returns the same reader for a caller whose answers, and streams, take `memory` before they read.
    #[must_use]
    pub fn charged_to(&self, memory: Arc<dyn ReadMemory>) -> Self {
        Self { log: self.log.charged_to(memory), clock: Arc::clone(&self.clock) }
    }

    /// Returns the same reader, whose streams hold up to `len_bytes` in each of their two queues. A stream that is
    /// slower continues from disk. Without this call they hold up to
    /// [`QUEUE_LEN_BYTES_MAX`](crate::read::QUEUE_LEN_BYTES_MAX).
    #[must_use]
    pub fn queueing(self, len_bytes: usize) -> Self {
        Self { log: self.log.queueing(BatchLimits::queue(len_bytes)), ..self }
    }

    /// Returns a reader over a store that nothing commits to while it is read, as of now.
    ///
    /// # Errors
    /// If the heads cannot be read.
    pub fn over(store: Store, clock: Arc<dyn Clock>) -> Result<Self, hawser_storage::ReadError> {
        let heads = Heads::new(store.snapshot().heads()?);
        Ok(Self::new(store, heads, Hub::new(), clock))
    }

    /// Returns the page of envelopes that follows `last_seen` in `topics`: across originators by
    /// time, each originator ascending, nothing before the chain envelope it depends on unless
    /// `last_seen` covers that. An originator whose next envelope has to wait stops there.
    ///
    /// If one node's envelopes fill most of a page, half of the page goes to envelopes of other strands that had no
    /// room. So a node that dates its envelopes back cannot keep other strands away from readers.
    ///
    /// At most `limit` envelopes (0: as many as allowed) and less than 25 MiB; an envelope that fits
    /// into no answer is passed over. A query for identity updates only may have as many as there are: clients read the
    /// logs of inboxes at once. Logs of several inboxes that fit into no answer together are an error. Empty means that
    /// nothing more can be shown now. To read on, advance the cursor by the page. A topic that is named more than once
    /// counts once.
    ///
    /// Blocks on the disk. Costs a seek per topic and strand in it, and a read per envelope.
    ///
    /// # Errors
    /// [`QueryError`] if the log cannot be read, or [`QueryError::LogsTooLarge`].
    pub fn query_topics(
        &self,
        topics: &[Topic],
        last_seen: &Cursor,
        limit: usize,
    ) -> Result<Vec<Bytes>, QueryError> {
        let mut query = self.topics_query(topics.to_vec(), last_seen, limit);
        loop {
            if let Some(page) = query.turn()? {
                return Ok(page);
            }
        }
    }

    /// Begins what [`query_topics`](Self::query_topics) does, to be done in turns. Reads nothing yet.
    #[must_use]
    pub fn topics_query(
        &self,
        topics: Vec<Topic>,
        last_seen: &Cursor,
        limit: usize,
    ) -> TopicsQuery {
        TopicsQuery::new(self.log.clone(), topics, last_seen, limit)
    }

    /// Returns the page of valid envelopes that follows `last_seen` in the strands of `originators`:
    /// across originators by time, each one ascending. Nothing waits for a dependency. Bounds are
    /// those for topics; an originator that is named more than once counts once. A strand ends
    /// at its last verified place, because other nodes read strands by this query and rely on its envelopes.
    ///
    /// Blocks on the disk. Costs a search for the end of each strand, and one ordered scan of it.
    ///
    /// # Errors
    /// [`QueryError`] if the log cannot be read.
    pub fn query_originators(
        &self,
        originators: &[OriginatorId],
        last_seen: &Cursor,
        limit: usize,
    ) -> Result<Vec<Bytes>, QueryError> {
        let mut query = self.originators_query(originators, last_seen, limit);
        loop {
            if let Some(page) = query.turn()? {
                return Ok(page);
            }
        }
    }

    /// Begins what [`query_originators`](Self::query_originators) does, to be done in turns. Reads nothing yet.
    #[must_use]
    pub fn originators_query(
        &self,
        originators: &[OriginatorId],
        last_seen: &Cursor,
        limit: usize,
    ) -> OriginatorsQuery {
        let wanted: BTreeSet<OriginatorId> = originators.iter().copied().collect();
        let from = wanted.iter().map(|&it| EnvelopeId::new(it, last_seen.get(it)));
        OriginatorsQuery::new(self.log.clone(), from.collect(), limit)
    }

    /// Returns the result of [`oldest`](Self::oldest) if that needs no read; `None` if marks have changed since the
    /// last call. Never blocks on the disk.
    #[must_use]
    pub fn oldest_known(&self) -> Option<Arc<[EnvelopeId]>> {
        self.log.store.oldest_known()
    }

    /// Returns, for each strand in which places have expired, the place behind the last one of them.
    ///
    /// Blocks on the disk, if marks have changed since the last call.
    ///
    /// # Errors
    /// [`QueryError`] if a row cannot be read.
    pub fn oldest(&self) -> Result<Arc<[EnvelopeId]>, QueryError> {
        Ok(self.log.store.oldest()?)
    }

    /// Returns the newest envelope of each topic, in the order of the request and as often as requested; `None` for a
    /// topic without one.
    ///
    /// The candidate of each strand is its last envelope of the topic that is dated at most 5 minutes ahead of this
    /// node's clock. Of the candidates, the one whose strand has the highest time that has come is the newest, ties by
    /// envelope id. A strand without such a time comes after all others. Passes over envelopes that depend on a chain
    /// envelope which this node does not hold yet.
    ///
    /// The result is exact if, in each strand, the envelopes of the topic that count precede those that do not, or are
    /// among the last 64. Otherwise an earlier envelope of that strand may be returned.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`QueryError`] if the log cannot be read, or the answer would be larger than a message.
    pub fn newest(&self, topics: &[Topic]) -> Result<Vec<Option<Bytes>>, QueryError> {
        let mut query = self.newest_query(topics.to_vec());
        loop {
            if let Some(newest) = query.turn()? {
                return Ok(newest);
            }
        }
    }

    /// Begins what [`newest`](Self::newest) does, to be done in turns. Reads nothing yet.
    #[must_use]
    pub fn newest_query(&self, topics: Vec<Topic>) -> NewestQuery {
        NewestQuery::new(self.log.clone(), topics, self.clock.now_ns())
    }

    /// Returns the inbox of each address, in the order of the request; of several the one that it
    /// joined last. `None` for a missing address, and for one that is in no inbox.
    ///
    /// Blocks on the disk. Costs a seek per address, and a row for each inbox that it has been in.
    ///
    /// # Errors
    /// [`QueryError`] if a row cannot be read.
    pub fn inboxes(
        &self,
        addresses: &[Option<Address>],
    ) -> Result<Vec<Option<InboxId>>, QueryError> {
        let mut query = self.inboxes_query(addresses.to_vec());
        loop {
            if let Some(inboxes) = query.turn()? {
                return Ok(inboxes);
            }
        }
    }

    /// Begins what [`inboxes`](Self::inboxes) does, to be done in turns. Reads nothing yet.
    #[must_use]
    pub fn inboxes_query(&self, addresses: Vec<Option<Address>>) -> InboxesQuery {
        InboxesQuery::new(self.log.clone(), addresses)
    }

    /// Reads on in a payer's usage and then in its ledger, until the work is `rows_max` rows. Returns the work in rows,
    /// where each of the two searches counts as ten: more than `rows_max` by less than two searches, since each call
    /// reads on.
    ///
    /// Blocks on the disk. Usage has a row for each originator and minute, the ledger one for each event of the payer.
    ///
    /// # Errors
    /// [`QueryError`] if a row cannot be read.
    pub fn read_usage(&self, scan: &mut UsageScan, rows_max: usize) -> Result<usize, QueryError> {
        let behind_a_seek = |work: usize| rows_max.saturating_sub(work + ROWS_PER_SEEK).max(1);
        self.log.counters.usage.measure(|| {
            let (snapshot, mut work) = (self.log.store.snapshot(), 0);
            if !scan.has_usage {
                work += ROWS_PER_SEEK + scan.read_usage(&snapshot, behind_a_seek(work))?;
            }
            if scan.has_usage && work < rows_max {
                work += ROWS_PER_SEEK + scan.read_ledger(&snapshot, behind_a_seek(work))?;
            }
            if scan.is_done {
                work += ROWS_OF_POSITIONS;
            }
            Ok(work)
        })
    }

    /// Opens a stream of `topics` from one cursor over all of them. Without a cursor it begins with
    /// the envelopes that are committed from now on. An originator whose next envelope has to wait
    /// for a chain envelope stops in all topics, so that each originator ascends without exception.
    ///
    /// Listens from this call on, also if the first event is requested later.
    #[must_use]
    pub fn subscribe_topics_sharing(
        &self,
        topics: impl IntoIterator<Item = Topic>,
        last_seen: Option<Cursor>,
    ) -> Subscription {
        let from_disk = last_seen.is_some();
        let from = Arc::new(last_seen.unwrap_or_default());
        let topics = topics.into_iter().map(|topic| (topic, Arc::clone(&from)));
        self.subscription(
            Feed::Topics(Box::new(TopicFeed::new(Cursors::Shared, topics))),
            from_disk,
        )
    }

    /// Opens a stream of topics, each from its own cursor. If a topic is named again, only the first
    /// one counts. Where an envelope has to wait for a chain envelope, only that originator in that
    /// topic waits. The set may be changed while the stream goes on: see [`Subscription::add`].
    #[must_use]
    pub fn subscribe_topics(
        &self,
        topics: impl IntoIterator<Item = (Topic, Cursor)>,
    ) -> Subscription {
        // Most clients give all topics one cursor.
        let mut last: Arc<Cursor> = Arc::default();
        let topics = topics.into_iter().map(|(topic, from)| {
            if *last != from {
                last = Arc::new(from);
            }
            (topic, Arc::clone(&last))
        });
        self.subscription(Feed::Topics(Box::new(TopicFeed::new(Cursors::PerTopic, topics))), true)
    }

    /// Opens a stream of topics as [`subscribe_topics`](Self::subscribe_topics) does, which charges its reader for
    /// topics and cursors itself. Until its first turn on disk the stream holds little more than the names of its
    /// topics, and the hub does not know it. Addresses take turns, and so do the connections of each. In its first turn
    /// the stream takes the memory of a catch-up, if that leaves enough for other streams; otherwise it goes on
    /// waiting. So any number of streams may be opened at once.
    ///
    /// # Errors
    /// [`QueryError::NoMemory`].
    pub fn subscribe_topics_in_turn(
        &self,
        topics: PackedTopics,
    ) -> Result<Subscription, QueryError> {
        opening::open(self.log.clone(), Cursors::PerTopic, topics)
    }

    /// Opens a stream of `topics` from one cursor as [`subscribe_topics_sharing`](Self::subscribe_topics_sharing) does,
    /// which waits for its turn as [`subscribe_topics_in_turn`](Self::subscribe_topics_in_turn) does.
    ///
    /// # Errors
    /// [`QueryError::NoMemory`].
    pub fn subscribe_topics_sharing_in_turn(
        &self,
        topics: impl IntoIterator<Item = Topic>,
        last_seen: &Cursor,
    ) -> Result<Subscription, QueryError> {
        let topics = topics.into_iter().map(|topic| (topic, last_seen.clone())).collect();
        opening::open(self.log.clone(), Cursors::Shared, topics)
    }

    /// Opens a stream without topics. Topics are added and removed while it runs: see
    /// [`Subscription::add`]. The reader learns which topics of a wave are live.
    #[must_use]
    pub fn subscribe_changing(&self) -> Subscription {
        self.subscription(Feed::Topics(Box::new(TopicFeed::changing())), true)
    }

    /// Opens a stream of all valid envelopes of some originators, as they are verified. Without a cursor it begins with
    /// the envelopes that are verified from now on. Nothing waits for a dependency.
    #[must_use]
    pub fn subscribe_originators(
        &self,
        originators: impl IntoIterator<Item = OriginatorId>,
        last_seen: Option<Cursor>,
    ) -> Subscription {
        let from_disk = last_seen.is_some();
        let feed =
            LogFeed::new(Some(originators.into_iter().collect()), last_seen.unwrap_or_default());
        self.subscription(Feed::Log(Box::new(feed)), from_disk)
    }

    /// Opens a stream of every valid envelope that is verified from now on. Nothing waits for a
    /// dependency.
    #[must_use]
    pub fn subscribe_all(&self) -> Subscription {
        self.subscription(Feed::Log(Box::new(LogFeed::new(None, Cursor::new()))), false)
    }

    /// Opens a stream of every valid and verified envelope behind `last_seen`; of an originator that it does not name,
    /// from the beginning. Nothing waits for a dependency.
    #[must_use]
    pub fn subscribe_all_after(&self, last_seen: Cursor) -> Subscription {
        self.subscription(Feed::Log(Box::new(LogFeed::new(None, last_seen))), true)
    }

    /// Returns the durable heads of all strands.
    #[must_use]
    pub fn heads(&self) -> Arc<Cursor> {
        self.log.heads.get()
    }

    /// Returns the counters of queries and pages.
    #[must_use]
    pub fn counters(&self) -> &ReadCounters {
        &self.log.counters
    }

    /// Returns the counters of all streams.
    #[must_use]
    pub fn streams(&self) -> &StreamCounters {
        self.log.hub.counters()
    }

    fn subscription(&self, feed: Feed, from_disk: bool) -> Subscription {
        let mut stream = Subscription::listening(self.log.clone(), feed);
        if !from_disk {
            stream.skip_to_heads();
        }
        stream
    }
}

/// A payer's usage and balance while they are read in parts, with [`Reader::read_usage`].
#[derive(Debug, Clone)]
pub struct UsageScan {
    payer: PayerAddress,
    minutes: u32,
    after: Option<(OriginatorId, u32)>,
    /// True if all usage has been read.
    has_usage: bool,
    is_done: bool,
    periods: BTreeMap<u32, UsedPeriod>,
    /// The number of ledger entries so far. Entries are appended and never changed, so parts of several views fit
    /// together.
    entries: u64,
    /// Their sum.
    sum: PicoDollarBalance,
    /// True if the ledger has been read to an end at which this node knew the balances of payers.
    knows_balance: bool,
    /// The reports on the chain when the scan began: a report that is settled meanwhile moves nothing from one part to
    /// the other.
    chain: Arc<ChainReports>,
}

impl UsageScan {
    /// Begins with a payer's usage at all originators together, in periods of `minutes` (at least 1) that begin at
    /// multiples of that since 1970. `chain` distinguishes settled usage from other.
    #[must_use]
    pub fn new(payer: PayerAddress, minutes: u32, chain: Arc<ChainReports>) -> Self {
        let minutes = minutes.max(1);
        Self {
            payer,
            minutes,
            after: None,
            has_usage: false,
            is_done: false,
            periods: BTreeMap::new(),
            entries: 0,
            sum: PicoDollarBalance::default(),
            knows_balance: false,
            chain,
        }
    }

    /// Reads on in the usage. Returns the number of rows that were read.
    fn read_usage(&mut self, snapshot: &Snapshot<'_>, rows_max: usize) -> Result<usize, ReadError> {
        let mut read = 0;
        let (minutes, periods, chain) = (self.minutes, &mut self.periods, &self.chain);
        let each = |originator, minute: u32, row: UsageRow| {
            read += 1;
            let first_minute = minute - minute % minutes;
            let period = periods.entry(first_minute).or_default();
            period.start_unix_s = u64::from(first_minute) * 60;
            let part = match chain.is_settled(originator, minute) {
                true => &mut period.settled,
                false => &mut period.unsettled,
            };
            part.picodollars = part.picodollars.plus(row.picodollars);
            part.messages = part.messages.saturating_add(row.messages);
        };
        self.after = snapshot.usage_after(self.payer, self.after, rows_max, each)?;
        self.has_usage = self.after.is_none();
        Ok(read)
    }

    /// Reads on in the ledger. Returns the number of entries that were read.
    fn read_ledger(
        &mut self,
        snapshot: &Snapshot<'_>,
        entries_max: usize,
    ) -> Result<usize, ReadError> {
        let sum = &mut self.sum;
        let each = |entry: LedgerEntry| *sum = sum.after(entry.picodollars);
        let read = snapshot.ledger_after(self.payer, self.entries, entries_max, each)?;
        self.entries += read as u64;
        if read < entries_max {
            (self.is_done, self.knows_balance) = (true, snapshot.knows_balances()?);
        }
        Ok(read)
    }

    /// Returns true if all has been read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Returns true if this node has neither usage nor ledger entries of the payer, after all has been read.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.is_done && self.periods.is_empty() && self.entries == 0
    }

    /// Returns the payer's balance in the payer registry, in picodollars, once everything was read. It may be below 0.
    /// Returns `None` until this node has read the payer registry and the payer reports up to the head of their chain.
    #[must_use]
    pub fn balance(&self) -> Option<PicoDollarBalance> {
        self.knows_balance.then_some(self.sum)
    }

    /// Returns the number of periods so far.
    #[must_use]
    pub fn periods(&self) -> usize {
        self.periods.len()
    }

    /// Returns the periods that were read, ascending, without those that have no usage. Empty if this node has no
    /// usage rows for the payer.
    #[must_use]
    pub fn into_periods(self) -> Vec<UsedPeriod> {
        self.periods.into_values().collect()
    }
}

/// A payer's usage in one period, in two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsedPeriod {
    /// Beginning of the period, unix seconds.
    pub start_unix_s: u64,
    /// Usage of minutes that no report covers which is settled as a whole.
    pub unsettled: UsedAmount,
    /// Usage of minutes that such a report covers.
    pub settled: UsedAmount,
}

/// An amount of usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsedAmount {
    /// Base and congestion fees together.
    pub picodollars: PicoDollarPrice,
    /// Envelopes that were charged.
    pub messages: u64,
}
