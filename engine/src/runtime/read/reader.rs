//! Queries, each over one snapshot, and the way to a subscription.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{
    Address, Cursor, EnvelopeId, InboxId, OriginatorId, PayerAddress, Topic, TopicKind,
};
use hawser_storage::{Snapshot, Store};

use super::access::LogAccess;
use super::hub::Hub;
use super::subscription::Subscription;
use crate::read::error::ReadError;
use crate::read::feed::{Feed, LogFeed, TopicFeed};
use crate::read::limits::BatchLimits;
use crate::read::log_page::{LogRange, read_log};
use crate::read::newest::newest_visible;
use crate::read::plan::{Cursors, Plan, PlanTopic};
use crate::runtime::Heads;
use crate::runtime::counters::{ReadCounters, StreamCounters};

/// Reads what is in the log. Cheap to clone; all clones read the same.
#[derive(Debug, Clone)]
pub struct Reader {
    log: LogAccess,
}

impl Reader {
    /// Puts the parts together.
    #[must_use]
    pub fn new(store: Store, heads: Heads, hub: Hub) -> Self {
        Self { log: LogAccess::new(store, heads, hub) }
    }

    /// The page of envelopes that follows `last_seen` in `topics`: across originators by time,
    /// each originator ascending, nothing before the chain envelope it depends on unless
    /// `last_seen` covers that. An originator whose next envelope has to wait stops there.
    ///
    /// At most `limit` envelopes (0: as many as allowed) and less than 25 MiB; the first one comes
    /// regardless. Where only identity updates are asked for, as many are allowed as there are:
    /// clients read the logs of inboxes in one go. Empty means that nothing more can be shown now. To read on, advance the cursor
    /// by what came. A topic that is named more than once counts once.
    ///
    /// Blocks on the disk; costs a seek per topic and a read per envelope.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn query_topics(
        &self,
        topics: &[Topic],
        last_seen: &Cursor,
        limit: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        self.log.counters.query_topics.measure(|| self.page_of_topics(topics, last_seen, limit))
    }

    fn page_of_topics(
        &self,
        topics: &[Topic],
        last_seen: &Cursor,
        limit: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let snapshot = self.log.store.snapshot();
        let from = Arc::new(last_seen.clone());
        let resume: Arc<[EnvelopeId]> = Arc::default();
        let topics = topics.iter().map(|topic| PlanTopic {
            topic: topic.clone(),
            from: Arc::clone(&from),
            resume: Arc::clone(&resume),
        });
        let mut plan = Plan::new(Cursors::Shared, topics, Arc::new(snapshot.heads()?));
        let of_inboxes =
            plan.topics().iter().all(|it| it.topic.kind() == TopicKind::IdentityUpdates);
        let limits = match limit {
            0 if of_inboxes => BatchLimits::WHOLE_LOGS,
            limit => BatchLimits::of_query(limit),
        };
        let page = plan.next_page(&mut snapshot.topics(), limits)?;
        let ids: Vec<EnvelopeId> = page.rows.into_iter().map(|(_, id)| id).collect();
        fetch(&snapshot, &ids)
    }

    /// The page of valid envelopes that follows `last_seen` in the strands of `originators`:
    /// across originators by time, each one ascending. Nothing waits for a dependency. Bounds as
    /// for topics; an originator that is named more than once counts once.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn query_originators(
        &self,
        originators: &[OriginatorId],
        last_seen: &Cursor,
        limit: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let page = || self.page_of_originators(originators, last_seen, limit);
        self.log.counters.query_originators.measure(page)
    }

    fn page_of_originators(
        &self,
        originators: &[OriginatorId],
        last_seen: &Cursor,
        limit: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let snapshot = self.log.store.snapshot();
        let wanted: BTreeSet<OriginatorId> = originators.iter().copied().collect();
        let heads = snapshot.heads()?;
        let ranges = heads.iter().filter(|head| wanted.contains(&head.originator));
        let ranges = ranges.map(|head| LogRange {
            after: EnvelopeId { sequence: last_seen.get(head.originator), ..head },
            through: head.sequence,
        });
        let page = read_log(&snapshot, ranges, BatchLimits::of_query(limit))?;
        Ok(page.envelopes.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// For each topic, in the order asked and as often as asked, its newest envelope: highest
    /// `originator_ns`, ties by envelope id; `None` where there is none. What depends on a chain
    /// envelope that this node does not hold yet is passed over.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn newest(&self, topics: &[Topic]) -> Result<Vec<Option<Bytes>>, ReadError> {
        self.log.counters.newest.measure(|| self.newest_of(topics))
    }

    fn newest_of(&self, topics: &[Topic]) -> Result<Vec<Option<Bytes>>, ReadError> {
        let snapshot = self.log.store.snapshot();
        let heads = snapshot.heads()?;
        let newest = topics
            .iter()
            .map(|topic| newest_visible(&snapshot, &heads, topic))
            .collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<EnvelopeId> = newest.iter().flatten().copied().collect();
        let mut envelopes = fetch(&snapshot, &ids)?.into_iter();
        Ok(newest.into_iter().map(|id| id.and_then(|_| envelopes.next())).collect())
    }

    /// For each address, in the order asked, the inbox it is a member of; of several the one that
    /// it joined last. `None` for what is no address, and for one that is in no inbox.
    ///
    /// Blocks on the disk; costs a seek per address.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn inboxes(
        &self,
        addresses: &[Option<Address>],
    ) -> Result<Vec<Option<InboxId>>, ReadError> {
        self.log.counters.inboxes.measure(|| {
            let snapshot = self.log.store.snapshot();
            let inbox = |address: &Option<Address>| match *address {
                Some(address) => snapshot.inbox(address),
                None => Ok(None),
            };
            Ok(addresses.iter().map(inbox).collect::<Result<_, _>>()?)
        })
    }

    /// What a payer used at all originators together, in periods of `minutes` (above 0) that begin
    /// at multiples of that since 1970, ascending; periods without use are left out. Empty if this
    /// node knows of nothing.
    ///
    /// Blocks on the disk; reads a row for each originator and minute.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn usage(&self, payer: PayerAddress, minutes: u32) -> Result<Vec<UsedPeriod>, ReadError> {
        self.log.counters.usage.measure(|| {
            let mut periods: BTreeMap<u32, UsedPeriod> = BTreeMap::new();
            self.log.store.snapshot().usage_of_payer(payer, |_, minute, row| {
                let first_minute = minute - minute % minutes;
                let period = periods.entry(first_minute).or_default();
                period.start_unix_s = u64::from(first_minute) * 60;
                period.picodollars = period.picodollars.saturating_add(row.picodollars);
                period.messages = period.messages.saturating_add(row.messages);
            })?;
            Ok(periods.into_values().collect())
        })
    }

    /// A stream of `topics` from one cursor over all of them. Without a cursor it begins with what
    /// is committed from now on. An originator whose next envelope has to wait for a chain
    /// envelope stops in all topics, so that each originator ascends without exception.
    ///
    /// Listens from this call on, whenever the first event is asked for.
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

    /// A stream of topics, each from its own cursor; of a topic that is named again only the first
    /// counts. Where an envelope has to wait for a chain envelope, only that originator in that
    /// topic waits. The set may be changed while the stream goes on: see
    /// [`Subscription::change`].
    #[must_use]
    pub fn subscribe_topics(
        &self,
        topics: impl IntoIterator<Item = (Topic, Cursor)>,
    ) -> Subscription {
        let topics = topics.into_iter().map(|(topic, from)| (topic, Arc::new(from)));
        self.subscription(Feed::Topics(Box::new(TopicFeed::new(Cursors::PerTopic, topics))), true)
    }

    /// A stream of all valid envelopes of some originators. Without a cursor it begins with what
    /// is committed from now on. Nothing waits for a dependency.
    #[must_use]
    pub fn subscribe_originators(
        &self,
        originators: impl IntoIterator<Item = OriginatorId>,
        last_seen: Option<Cursor>,
    ) -> Subscription {
        let from_disk = last_seen.is_some();
        let feed =
            LogFeed::new(Some(originators.into_iter().collect()), last_seen.unwrap_or_default());
        self.subscription(Feed::Log(feed), from_disk)
    }

    /// A stream of every valid envelope that is committed from now on. Nothing waits for a
    /// dependency.
    #[must_use]
    pub fn subscribe_all(&self) -> Subscription {
        self.subscription(Feed::Log(LogFeed::new(None, Cursor::new())), false)
    }

    /// How far each strand is durable, newest value.
    #[must_use]
    pub fn heads(&self) -> Arc<Cursor> {
        self.log.heads.get()
    }

    /// What has been counted of queries and pages.
    #[must_use]
    pub fn counters(&self) -> &ReadCounters {
        &self.log.counters
    }

    /// What has been counted of all streams.
    #[must_use]
    pub fn streams(&self) -> &StreamCounters {
        self.log.hub.counters()
    }

    fn subscription(&self, mut feed: Feed, from_disk: bool) -> Subscription {
        let listener = self.log.hub.listener();
        for interest in feed.interests() {
            self.log.hub.listen(interest, &listener);
        }
        // Only now: what is committed before the hub knows the listener is below these heads.
        if !from_disk {
            feed.skip_to(&self.log.heads.get());
        }
        Subscription::new(self.log.clone(), listener, feed)
    }
}

/// What a payer used in one period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsedPeriod {
    /// Its beginning, unix seconds.
    pub start_unix_s: u64,
    /// Base and congestion fees together.
    pub picodollars: u64,
    /// Envelopes that were charged.
    pub messages: u64,
}

/// Pages of at least this many envelopes are read by two threads: each envelope mostly lies in a
/// block of its own, and a thread costs about as much as ten of them.
const READ_BY_TWO_FROM: usize = 64;

/// The envelopes of `ids`, in that order. Read in the order of the log, which is quicker.
pub(super) fn fetch(snapshot: &Snapshot<'_>, ids: &[EnvelopeId]) -> Result<Vec<Bytes>, ReadError> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_unstable_by_key(|&place| ids[place]);
    let ascending: Vec<EnvelopeId> = order.iter().map(|&place| ids[place]).collect();
    let mut envelopes = vec![Bytes::new(); ids.len()];
    for (&place, bytes) in order.iter().zip(get_many(snapshot, &ascending)?) {
        envelopes[place] = bytes.ok_or(ReadError::Absent(ids[place]))?;
    }
    Ok(envelopes)
}

fn get_many(
    snapshot: &Snapshot<'_>,
    ascending: &[EnvelopeId],
) -> Result<Vec<Option<Bytes>>, ReadError> {
    if ascending.len() < READ_BY_TWO_FROM {
        return Ok(snapshot.get_many(ascending)?);
    }
    let (low, high) = ascending.split_at(ascending.len() / 2);
    let (low, high) = std::thread::scope(|scope| {
        let high = scope.spawn(|| snapshot.get_many(high));
        (snapshot.get_many(low), high.join().expect("a panic ends the process"))
    });
    let mut both = low?;
    both.append(&mut high?);
    Ok(both)
}
