//! Queries of topics, answered in turns. Each turn reads a bounded number of rows from a view of its own.
//!
//! A caller who asks for the most expensive page takes many turns, and other callers have theirs in between. Memory
//! that a query holds meanwhile is charged to its reader.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, Topic, TopicKind};
use hawser_storage::{Snapshot, TopicRow};

use super::access::LogAccess;
use super::fetch::fetch;
use crate::read::error::QueryError;
use crate::read::limits::{BatchLimits, wire_len_bytes};
use crate::read::memory::{HeldMemory, PageMemory};
use crate::read::newest::newest_visible;
use crate::read::page::{Filling, PlannedPage};
use crate::read::places::owner_of;
use crate::read::plan::{PagePlan, PlanTopic, SORTED_TOPICS_MIN, in_index};
use crate::read::rows::{BYTES_PER_ROW, ROWS_PER_SEEK, Rows as _};
use crate::runtime::ANSWER_LEN_BYTES_MAX;

/// Rows that one turn looks at; a seek counts as ten. A guess: a thousand seeks, some 5 ms of a thread
/// when everything is in memory. A turn goes beyond it by one topic at most.
pub const ROWS_PER_TURN: usize = 10_000;

/// The work of finding out if a place of a chain is an envelope of a topic, in rows: it seeks in the index, and in the
/// log and its marks.
const ROWS_PER_PLACE: usize = 3 * ROWS_PER_SEEK;

/// Memory that a query for newest envelopes takes for a topic, in bytes. Counted from the types, with room to spare.
const NEWEST_TOPIC_BYTES: usize = 256;

/// A page of topics that is being made: see [`Reader::topics_query`](super::Reader::topics_query).
pub struct TopicsQuery {
    log: LogAccess,
    /// Given to the plan at its start.
    topics: Vec<Topic>,
    from: Arc<Cursor>,
    limits: BatchLimits,
    plan: Option<PagePlan>,
    filling: Filling,
    is_shared: bool,
    /// The page is planned, and some of its envelopes are still to be read.
    reading: Option<LoadingPage>,
    /// Bytes of envelopes that rows may still bring along.
    room_bytes: usize,
    /// The page was planned over one view, and is read over the same one.
    is_one_view: bool,
    memory: HeldMemory,
}

impl TopicsQuery {
    pub(super) fn new(
        log: LogAccess,
        topics: Vec<Topic>,
        last_seen: &Cursor,
        limit: usize,
    ) -> Self {
        let of_inboxes = topics.iter().all(|it| it.kind() == TopicKind::IdentityUpdates);
        let limits = match limit {
            0 if of_inboxes => BatchLimits::WHOLE_LOGS,
            limit => BatchLimits::of_query(limit),
        };
        Self {
            memory: HeldMemory::new(Arc::clone(&log.memory)),
            log,
            topics,
            from: Arc::new(last_seen.clone()),
            limits,
            plan: None,
            filling: Filling::default(),
            is_shared: false,
            reading: None,
            room_bytes: BatchLimits::BESIDE_LEN_BYTES,
            is_one_view: true,
        }
    }

    /// Does one turn. Returns the page when it is complete; until then there is more to do. After that, or an error,
    /// the query is over.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`QueryError`] if the log cannot be read, or the reader may not have the memory. Also if the whole logs of
    /// several inboxes were requested and fit into no answer: a cut answer would hide the last changes of some of them.
    pub fn turn(&mut self) -> Result<Option<Vec<Bytes>>, QueryError> {
        let counters = Arc::clone(&self.log.counters);
        counters.query_topics.measure(|| self.work())
    }

    fn work(&mut self) -> Result<Option<Vec<Bytes>>, QueryError> {
        let log = self.log.clone();
        let (heads, snapshot) = log.heads_and_view();
        let mut left = ROWS_PER_TURN;
        loop {
            let spent = match &mut self.reading {
                None => self.plan_on(&snapshot, &heads, left)?,
                Some(reading) => reading.step(&snapshot, left)?,
            };
            if let Some(reading) = self.reading.take_if(|it| it.is_done()) {
                if let Some(page) = reading.finish(self.is_one_view)? {
                    return Ok(Some(page));
                }
                // All of it was pruned since it was planned. An empty page would say that there is no more.
                self.restart(false);
            }
            left = left.saturating_sub(spent.max(1));
            if left == 0 {
                self.is_one_view = false;
                self.memory.hold(self.held_bytes())?;
                return Ok(None);
            }
        }
    }

    /// Returns about the memory that the query takes between two turns, in bytes.
    fn held_bytes(&self) -> usize {
        let plan = self.plan.as_ref().map_or(0, PagePlan::held_bytes);
        // The memory of a page that is being read has been taken with it.
        let planned = if self.reading.is_some() {
            0
        } else {
            beside_bytes(self.room_bytes) + self.filling.held_bytes()
        };
        plan + planned
    }

    /// Plans for about `work` rows, and begins to read the page if it is complete then. Its first turn's heads are its
    /// ends. Returns the number of rows looked at.
    fn plan_on(
        &mut self,
        snapshot: &Snapshot<'_>,
        heads: &Arc<Cursor>,
        work: usize,
    ) -> Result<usize, QueryError> {
        let plan = match self.plan.take() {
            Some(plan) => self.plan.insert(plan),
            None => {
                let heads = Arc::clone(heads);
                let resume: Arc<[EnvelopeId]> = Arc::default();
                let planned = std::mem::take(&mut self.topics).into_iter().map(|topic| {
                    let (from, resume) = (Arc::clone(&self.from), Arc::clone(&resume));
                    PlanTopic { topic, from, resume, commits: None }
                });
                let plan = PagePlan::of_one_page(planned, heads, self.limits.envelopes);
                self.plan.insert(plan)
            }
        };
        let mut rows = snapshot.topics_with_envelopes(self.room_bytes);
        // Of one topic nearly all rows that are read go into the page.
        let shares_memory = plan.topics().len() == 1;
        if shares_memory {
            rows = rows.sharing_memory();
        }
        let is_complete = plan.fill(&mut rows, self.limits, &mut self.filling, work)?;
        self.room_bytes = rows.room_bytes();
        let mut spent = rows.looked_at();
        if is_complete {
            let mut page = std::mem::take(&mut self.filling).into_page();
            if self.limits == BatchLimits::WHOLE_LOGS && plan.topics().len() > 1 && !page.finished {
                let cut = plan.next_topic().unwrap_or(&plan.topics()[0].topic);
                return Err(QueryError::LogsTooLarge(cut.clone()));
            }
            // A single envelope has no halves.
            let may_share = self.limits.envelopes > 1 && !self.is_shared;
            if may_share && plan.is_crowded(&page) {
                self.restart(true);
                return Ok(spent);
            }
            let reached: Cursor = page.rows.iter().map(|row| row.id).collect();
            let asked =
                plan.leave_out_strays(&mut page, |topic, place| owner_of(snapshot, topic, place))?;
            spent += asked * ROWS_PER_PLACE;
            if page.rows.is_empty() && !page.finished {
                // An empty page would say that there is no more.
                plan.restart_after(&reached);
                self.restart(false);
                return Ok(spent);
            }
            page.end_strands_at_steps_back();
            // An envelope of the page keeps the memory of others that it shares.
            let kept_bytes = if shares_memory { beside_bytes(self.room_bytes) } else { 0 };
            PageMemory::new(Arc::clone(&self.log.memory), 0)
                .add(page.rows.len(), page.len_bytes.max(kept_bytes))?;
            // Rows that have no place in the page are not needed any more.
            plan.restart();
            self.reading = Some(LoadingPage::new(page));
        }
        Ok(spent)
    }

    /// Plans the page anew. If it `is_shared`, no node's strand gets more than half of it.
    fn restart(&mut self, is_shared: bool) {
        if let Some(plan) = &mut self.plan {
            plan.restart();
        }
        self.filling = if is_shared { Filling::shared() } else { Filling::default() };
        self.is_shared = is_shared;
        self.room_bytes = BatchLimits::BESIDE_LEN_BYTES;
    }
}

/// Returns the bytes of envelopes that came with rows, where `room_bytes` are left for more. Some of them may have been
/// dropped since.
fn beside_bytes(room_bytes: usize) -> usize {
    BatchLimits::BESIDE_LEN_BYTES.saturating_sub(room_bytes)
}

/// The envelopes of a planned page while those that did not come with their rows are read from the log.
struct LoadingPage {
    ids: Vec<EnvelopeId>,
    envelopes: Vec<Option<Bytes>>,
    lacking: Lacking,
}

/// Envelopes that are still to be read from the log, by their places in an answer.
struct Lacking {
    /// Remaining envelopes, in the order of the log.
    left: std::vec::IntoIter<(EnvelopeId, usize)>,
    /// The work of one of them, in rows.
    each: usize,
}

impl Lacking {
    /// Takes up the envelopes of an answer that has `len_bytes` in all, of `envelopes`.
    fn new(mut lacking: Vec<(EnvelopeId, usize)>, len_bytes: usize, envelopes: usize) -> Self {
        lacking.sort_unstable();
        let each = ROWS_PER_SEEK + len_bytes / envelopes.max(1) / BYTES_PER_ROW;
        Self { left: lacking.into_iter(), each }
    }

    /// Reads some of them, for about `work` rows, and gives each to `put` with its place. Returns the work that was
    /// done.
    fn read(
        &mut self,
        snapshot: &Snapshot<'_>,
        work: usize,
        mut put: impl FnMut(usize, Option<Bytes>),
    ) -> Result<usize, QueryError> {
        let some: Vec<_> = self.left.by_ref().take((work / self.each).max(1)).collect();
        let ids: Vec<EnvelopeId> = some.iter().map(|(id, _)| *id).collect();
        for ((_, place), bytes) in some.iter().zip(fetch(snapshot, &ids)?) {
            put(*place, bytes);
        }
        Ok(some.len() * self.each)
    }

    fn is_done(&self) -> bool {
        self.left.len() == 0
    }
}

impl LoadingPage {
    fn new(page: PlannedPage) -> Self {
        let PlannedPage { rows, envelopes, len_bytes, .. } = page;
        let ids: Vec<EnvelopeId> = rows.into_iter().map(|row| row.id).collect();
        let places = ids.iter().zip(&envelopes).enumerate();
        let lacking = places.filter(|(_, (_, bytes))| bytes.is_none());
        let lacking = lacking.map(|(place, (&id, _))| (id, place)).collect();
        let lacking = Lacking::new(lacking, len_bytes, ids.len());
        Self { ids, envelopes, lacking }
    }

    fn step(&mut self, snapshot: &Snapshot<'_>, work: usize) -> Result<usize, QueryError> {
        let envelopes = &mut self.envelopes;
        self.lacking.read(snapshot, work, |place, bytes| envelopes[place] = bytes)
    }

    fn is_done(&self) -> bool {
        self.lacking.is_done()
    }

    /// Returns the page; `None` if nothing of it is left in the log. Over one view, all of it has to be there.
    fn finish(self, is_one_view: bool) -> Result<Option<Vec<Bytes>>, QueryError> {
        let Self { ids, envelopes, .. } = self;
        let absent = ids.iter().zip(&envelopes).find(|(_, bytes)| bytes.is_none());
        if let Some((id, _)) = absent.filter(|_| is_one_view) {
            return Err(QueryError::Absent(*id));
        }
        let was_empty = ids.is_empty();
        let page: Vec<Bytes> = envelopes.into_iter().flatten().collect();
        Ok((was_empty || !page.is_empty()).then_some(page))
    }
}

/// The newest envelopes of topics that are being looked for: see [`Reader::newest_query`](super::Reader::newest_query).
pub struct NewestQuery {
    log: LogAccess,
    topics: Vec<Topic>,
    now_ns: i64,
    /// The heads of the first turn.
    heads: Option<Arc<Cursor>>,
    /// The places of the topics, in the order in which they are looked for. The first turn makes it.
    order: Vec<usize>,
    /// The number of topics that have been looked for.
    seen: usize,
    newest: HashMap<Topic, Option<TopicRow>>,
    /// All rows are known, and some of their envelopes have not been read yet.
    lacking: Option<Lacking>,
    /// Topics, by their places, whose envelope was not in the log: they are to be looked for again.
    again: Vec<usize>,
    room_bytes: usize,
    is_one_view: bool,
    memory: HeldMemory,
}

impl NewestQuery {
    pub(super) fn new(log: LogAccess, topics: Vec<Topic>, now_ns: i64) -> Self {
        Self {
            memory: HeldMemory::new(Arc::clone(&log.memory)),
            log,
            topics,
            now_ns,
            heads: None,
            order: Vec::new(),
            seen: 0,
            newest: HashMap::new(),
            lacking: None,
            again: Vec::new(),
            room_bytes: BatchLimits::BESIDE_LEN_BYTES,
            is_one_view: true,
        }
    }

    /// Does one turn. Returns the envelopes when all are there, in the order of the request; until then there is more
    /// to do. After that, or an error, the query is over.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`QueryError`] if the log cannot be read, the reader may not have the memory, or the answer would be larger than
    /// a message.
    pub fn turn(&mut self) -> Result<Option<Vec<Option<Bytes>>>, QueryError> {
        let counters = Arc::clone(&self.log.counters);
        counters.newest.measure(|| self.work())
    }

    fn work(&mut self) -> Result<Option<Vec<Option<Bytes>>>, QueryError> {
        let log = self.log.clone();
        let (heads, snapshot) = log.heads_and_view();
        let mut left = ROWS_PER_TURN;
        loop {
            let spent = match &mut self.lacking {
                None => self.look(&snapshot, &heads, left)?,
                Some(_) => self.read(&snapshot, &heads, left)?,
            };
            if self.again.is_empty() && self.lacking.as_ref().is_some_and(Lacking::is_done) {
                // Topics that were looked for again may have longer envelopes than before.
                self.answer_len_bytes()?;
                let bytes = |topic: &Topic| self.newest.get(topic)?.as_ref()?.envelope.clone();
                return Ok(Some(self.topics.iter().map(bytes).collect()));
            }
            left = left.saturating_sub(spent.max(1));
            if left == 0 {
                self.is_one_view = false;
                // The memory of the answer is taken once all rows are known.
                let beside = if self.lacking.is_none() { beside_bytes(self.room_bytes) } else { 0 };
                self.memory.hold(self.topics.len() * NEWEST_TOPIC_BYTES + beside)?;
                return Ok(None);
            }
        }
    }

    /// Looks for the rows of topics, for about `work` rows. Returns the number of rows looked at.
    fn look(
        &mut self,
        snapshot: &Snapshot<'_>,
        heads: &Arc<Cursor>,
        work: usize,
    ) -> Result<usize, QueryError> {
        let mut rows = snapshot.topics_with_envelopes(self.room_bytes);
        if self.heads.is_none() {
            self.order = search_order(&self.topics);
        }
        let heads = self.heads.get_or_insert_with(|| Arc::clone(heads));
        while let Some(&place) = self.order.get(self.seen).filter(|_| rows.looked_at() < work) {
            let topic = &self.topics[place];
            self.seen += 1;
            if !self.newest.contains_key(topic) {
                let found = newest_visible(&mut rows, heads, topic, self.now_ns)?;
                self.newest.insert(topic.clone(), found);
            }
        }
        self.room_bytes = rows.room_bytes();
        if self.seen == self.topics.len() {
            self.lacking = Some(self.begin_reading()?);
        }
        Ok(rows.looked_at())
    }

    /// Takes the memory of the answer, whose size is known now: that of a topic which is named twice, too.
    fn begin_reading(&self) -> Result<Lacking, QueryError> {
        let row = |topic: &Topic| self.newest.get(topic).and_then(Option::as_ref);
        let len_bytes = self.answer_len_bytes()?;
        PageMemory::new(Arc::clone(&self.log.memory), 0).add(self.topics.len(), len_bytes)?;
        let places = self.topics.iter().enumerate();
        let mut lacking: Vec<_> = places
            .filter_map(|(place, topic)| Some((row(topic)?, place)))
            .filter(|(row, _)| row.envelope.is_none())
            .map(|(row, place)| (row.id, place))
            .collect();
        lacking.sort_unstable();
        lacking.dedup_by_key(|(id, _)| *id);
        Ok(Lacking::new(lacking, len_bytes, self.topics.len()))
    }

    /// Returns the length of the known part of the answer.
    fn answer_len_bytes(&self) -> Result<usize, QueryError> {
        let in_result = |row: &TopicRow| wire_len_bytes(wire_len_bytes(row.len_bytes as usize));
        let found = self.topics.iter().filter_map(|topic| self.newest.get(topic)?.as_ref());
        let len_bytes: usize = found.map(in_result).sum();
        if len_bytes > ANSWER_LEN_BYTES_MAX {
            return Err(QueryError::TooLarge(len_bytes));
        }
        Ok(len_bytes)
    }

    /// Reads envelopes from the log, for about `work` rows. Returns the work that was done.
    fn read(
        &mut self,
        snapshot: &Snapshot<'_>,
        heads: &Cursor,
        work: usize,
    ) -> Result<usize, QueryError> {
        if let Some(place) = self.again.pop() {
            return self.look_again(snapshot, heads, place);
        }
        let Some(lacking) = &mut self.lacking else { return Ok(0) };
        let (topics, newest, again) = (&self.topics, &mut self.newest, &mut self.again);
        lacking.read(snapshot, work, |place, bytes| match bytes {
            Some(bytes) => {
                let row = newest.get_mut(&topics[place]).and_then(Option::as_mut);
                row.into_iter().for_each(|row| row.envelope = Some(bytes.clone()));
            }
            None => again.push(place),
        })
    }

    /// Searches for the newest envelope of a topic again, because the log does not have the envelope that was found.
    /// Within one view of the store the log would have it, so the envelope was pruned meanwhile. Returns the work done,
    /// in rows.
    fn look_again(
        &mut self,
        snapshot: &Snapshot<'_>,
        heads: &Cursor,
        place: usize,
    ) -> Result<usize, QueryError> {
        let topic = &self.topics[place];
        let before = self.newest.get(topic).and_then(Option::as_ref).map(|row| row.id);
        if let Some(id) = before.filter(|_| self.is_one_view) {
            return Err(QueryError::Absent(id));
        }
        let mut rows = snapshot.topics();
        let mut found = newest_visible(&mut rows, heads, topic, self.now_ns)?;
        let mut spent = rows.looked_at();
        if let Some(row) = &mut found {
            let len_bytes = row.len_bytes as usize;
            spent += ROWS_PER_SEEK + len_bytes / BYTES_PER_ROW;
            PageMemory::new(Arc::clone(&self.log.memory), 0).add(1, len_bytes)?;
            row.envelope = Some(snapshot.get(row.id)?.ok_or(QueryError::Absent(row.id))?);
        }
        self.newest.insert(topic.clone(), found);
        Ok(spent)
    }
}

/// Returns the places of topics in the order in which they are looked for: if they are many, that of the index, so that
/// a seek finds what the last one has brought into memory.
fn search_order(topics: &[Topic]) -> Vec<usize> {
    let mut places: Vec<_> = (0..topics.len()).collect();
    if topics.len() > SORTED_TOPICS_MIN {
        places.sort_unstable_by(|&a, &b| in_index(&topics[a], &topics[b]));
    }
    places
}

#[cfg(test)]
#[path = "queries_tests.rs"]
mod tests;
