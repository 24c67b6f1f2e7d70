//! Remembers the topics of the newest envelopes.
//!
//! Most returning readers lack few envelopes: of ten thousand topics, only those of envelopes written meanwhile
//! have news. Without this memory each topic would cost a seek for each strand, mostly without a result. The memory
//! either knows with certainty that a topic has no news, or lets the reader search.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher as _;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, TopicHasher};
use parking_lot::RwLock;

use crate::change::{Change, LogEntry};

/// Largest number of envelopes whose topics are remembered. A guess: ten minutes at 160 envelopes a second.
/// Calculated: up to 130 bytes each, so 13 MB in total.
const ENVELOPES_MAX: usize = 100_000;
/// The part of a strand's envelopes that is forgotten at once, at least one. A guess: all strands are looked at for it.
const FORGOTTEN_PART: usize = 64;

/// The topics of the last envelopes of all strands.
///
/// Invariant: if [`has_news`](Self::has_news) returns false, no topic row in the given places was durable before
/// the call, except one that a commit below a head, or a verdict, was writing at that moment.
#[derive(Debug)]
pub(crate) struct Recent {
    state: RwLock<RecentState>,
    hasher: TopicHasher,
    envelopes_max: usize,
}

#[derive(Debug, Default)]
struct RecentState {
    known: HashMap<OriginatorId, RememberedPlaces>,
    /// Hashes of topics with the places of their envelopes, by strand, oldest first.
    order: BTreeMap<OriginatorId, VecDeque<(u64, SequenceId)>>,
    /// The number of envelopes in `order`.
    len: usize,
    /// The last envelope of each strand in each topic, by the topic's hash.
    topics: HashMap<u64, Vec<LastOfStrand>>,
    /// Changes whenever rows may have been written at unknown places.
    generation: u64,
}

/// The places of a strand whose topics are known.
#[derive(Debug, Clone, Copy)]
struct RememberedPlaces {
    after: SequenceId,
    through: SequenceId,
}

/// The envelopes of one strand in one topic.
#[derive(Debug)]
struct LastOfStrand {
    id: EnvelopeId,
    /// Number of these envelopes in `order`.
    entries: u32,
}

/// Places below the known ones, while they are read from the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OlderPlaces {
    /// The last of these places.
    pub(crate) through: EnvelopeId,
    generation: u64,
}

impl Recent {
    /// Creates the memory with nothing known up to these heads.
    pub(crate) fn new(heads: &[EnvelopeId]) -> Self {
        Self::with_max(heads, ENVELOPES_MAX)
    }

    fn with_max(heads: &[EnvelopeId], envelopes_max: usize) -> Self {
        let known = |head: &EnvelopeId| {
            (head.originator, RememberedPlaces { after: head.sequence, through: head.sequence })
        };
        let state = RecentState { known: heads.iter().map(known).collect(), ..Default::default() };
        Self { state: RwLock::new(state), hasher: TopicHasher::new(), envelopes_max }
    }

    /// Returns false if `topic` certainly has no rows after `after` and up to `ends`.
    pub(crate) fn has_news(
        &self,
        topic: &[u8],
        after: &dyn Fn(OriginatorId) -> SequenceId,
        ends: &[EnvelopeId],
    ) -> bool {
        let hash = self.hasher.hash_one(topic);
        let state = self.state.read();
        let lasts = state.topics.get(&hash).map_or(&[][..], Vec::as_slice);
        ends.iter().any(|end| {
            let after = after(end.originator);
            if after >= end.sequence {
                return false;
            }
            let Some(known) = state.known.get(&end.originator) else { return true };
            let is_known = after >= known.after && end.sequence <= known.through;
            let of_strand = |it: &&LastOfStrand| it.id.originator == end.originator;
            !is_known || lasts.iter().find(of_strand).is_some_and(|it| it.id.sequence > after)
        })
    }

    /// Adds the envelopes of a durable commit. The caller holds the heads of its strands.
    pub(crate) fn note(&self, changes: &[Change]) {
        let appended = changes.iter().filter_map(|change| match change {
            Change::Append(entry) => self.hashed(entry),
            Change::Skip { .. } => None,
        });
        let appended: Vec<_> = appended.collect();
        let mut state = self.state.write();
        changes.iter().for_each(|change| state.extend(change.start(), change.end()));
        appended.into_iter().for_each(|(hash, id)| state.add(hash, id));
        state.keep(self.envelopes_max);
    }

    /// Returns true if a place of a strand is forgotten once so many more of its envelopes are added.
    pub(crate) fn forgets_within(&self, envelopes: u64) -> bool {
        u64::try_from(self.envelopes_max).is_ok_and(|most| envelopes > most)
    }

    /// Records the places of a durable commit without their topics. Nothing is known of these strands then, up to
    /// their ends. The caller holds the heads of the strands.
    pub(crate) fn pass_over(&self, changes: &[Change]) {
        let mut state = self.state.write();
        let RecentState { known, generation, .. } = &mut *state;
        for strand in changes.chunk_by(|a, b| a.originator() == b.originator()) {
            let (Some(first), Some(last)) = (strand.first(), strand.last()) else { continue };
            let end = last.end().sequence;
            let passed = RememberedPlaces { after: end, through: end };
            let known = known.entry(last.originator()).or_insert(passed);
            // Places that are being read from disk at the moment may lack a row.
            *generation += u64::from(first.start().sequence <= known.through);
            known.through = known.through.max(end);
            known.after = known.through;
        }
    }

    /// Adds the envelopes of durable verdicts, which have rows from now on.
    pub(crate) fn note_verdicts(&self, resolved: &[LogEntry]) {
        let mut state = self.state.write();
        let entries = resolved.iter().filter_map(|entry| self.hashed(entry));
        entries.for_each(|(hash, id)| state.add(hash, id));
        state.keep(self.envelopes_max);
    }

    fn hashed(&self, entry: &LogEntry) -> Option<(u64, EnvelopeId)> {
        let topic = entry.facts.as_ref()?.topic.as_ref()?;
        Some((self.hasher.hash_one(&topic.as_bytes()[..]), entry.id))
    }

    /// Forgets a strand, because rows may have been written anywhere in it.
    pub(crate) fn forget(&self, originator: OriginatorId) {
        let mut state = self.state.write();
        state.generation += 1;
        if let Some(known) = state.known.get_mut(&originator) {
            known.after = known.through;
        }
    }

    /// Forgets all strands and their ends.
    pub(crate) fn forget_all(&self) {
        let mut state = self.state.write();
        *state = RecentState { generation: state.generation + 1, ..Default::default() };
    }

    /// Returns the places below the known ones of a strand; `None` if all places are known, or none.
    pub(crate) fn older(&self, originator: OriginatorId) -> Option<OlderPlaces> {
        let state = self.state.read();
        let known = state.known.get(&originator)?;
        let through = EnvelopeId::new(originator, known.after);
        let generation = state.generation;
        (known.after > SequenceId::NONE).then_some(OlderPlaces { through, generation })
    }

    /// Returns the number of envelopes that can be added before half of the room is used up.
    pub(crate) fn room(&self) -> usize {
        (self.envelopes_max / 2).saturating_sub(self.state.read().len)
    }

    /// Adds all envelopes of a strand with rows after `after` and up to `older`, ascending, with their topics. Returns
    /// false if the strand has changed there since [`older`](Self::older).
    pub(crate) fn add_older(
        &self,
        older: OlderPlaces,
        after: SequenceId,
        envelopes: &[(impl AsRef<[u8]>, EnvelopeId)],
    ) -> bool {
        let originator = older.through.originator;
        let mut state = self.state.write();
        let is_same = state.generation == older.generation;
        let Some(known) = state.known.get_mut(&originator).filter(|_| is_same) else {
            return false;
        };
        if known.after != older.through.sequence {
            return false;
        }
        assert!(after <= known.after, "older places lie below the known ones");
        known.after = after;
        for (topic, id) in envelopes.iter().rev() {
            let hash = self.hasher.hash_one(topic.as_ref());
            state.order.entry(id.originator).or_default().push_front((hash, id.sequence));
            state.count(hash, *id);
        }
        state.keep(self.envelopes_max);
        true
    }
}

impl RecentState {
    /// Records that a strand has these places now.
    fn extend(&mut self, first: EnvelopeId, last: EnvelopeId) {
        let before = first.sequence.previous();
        let fresh = RememberedPlaces { after: before, through: before };
        let known = self.known.entry(first.originator).or_insert(fresh);
        if before > known.through {
            known.after = before;
        }
        known.through = known.through.max(last.sequence);
    }

    fn add(&mut self, hash: u64, id: EnvelopeId) {
        let is_known = self.known.get(&id.originator).is_some_and(|it| it.after < id.sequence);
        if !is_known {
            // Rows below the head are searched on disk. Places that are being read from disk at the moment may lack
            // the row.
            self.generation += 1;
            return;
        }
        // For a reader who has the last envelope, repeats and late finds below it are not news.
        let lasts = self.topics.get(&hash).map_or(&[][..], Vec::as_slice);
        let of_strand = |it: &&LastOfStrand| it.id.originator == id.originator;
        if lasts.iter().find(of_strand).is_none_or(|it| it.id.sequence < id.sequence) {
            self.order.entry(id.originator).or_default().push_back((hash, id.sequence));
            self.count(hash, id);
        }
    }

    /// Counts an envelope that was put into `order`.
    fn count(&mut self, hash: u64, id: EnvelopeId) {
        self.len += 1;
        let lasts = self.topics.entry(hash).or_default();
        match lasts.iter_mut().find(|it| it.id.originator == id.originator) {
            Some(last) => {
                last.id = last.id.max(id);
                last.entries += 1;
            }
            None => lasts.push(LastOfStrand { id, entries: 1 }),
        }
    }

    /// Forgets envelopes until there are no more than `envelopes_max`: the oldest ones of the strand with the most. A
    /// hostile node that writes without end takes no room of the other strands.
    fn keep(&mut self, envelopes_max: usize) {
        while self.len > envelopes_max {
            let longest = self.order.iter_mut().max_by_key(|(_, entries)| entries.len());
            let Some((originator, entries)) = longest.filter(|(_, it)| !it.is_empty()) else {
                return;
            };
            let part = (entries.len() / FORGOTTEN_PART).max(1);
            for (hash, sequence) in entries.drain(..part.min(self.len - envelopes_max)) {
                self.len -= 1;
                // From here on the memory is certain only about later places, so readers below it search on disk.
                if let Some(known) = self.known.get_mut(originator) {
                    known.after = known.after.max(sequence);
                }
                let Some(lasts) = self.topics.get_mut(&hash) else { continue };
                lasts.retain_mut(|last| {
                    last.entries -= u32::from(last.id.originator == *originator);
                    last.entries > 0
                });
                if lasts.is_empty() {
                    self.topics.remove(&hash);
                }
            }
            if entries.len() < entries.capacity() / 4 {
                entries.shrink_to(2 * entries.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use hawser_proto::{Topic, TopicKind};
    use proptest::prelude::*;

    use super::*;
    use crate::change::{Facts, SkipReason};
    use crate::testing::bare_facts;

    fn id(originator: u32, sequence: u64) -> EnvelopeId {
        EnvelopeId::new(OriginatorId(originator), SequenceId(sequence))
    }

    fn topic(name: u8) -> Topic {
        Topic::new(TopicKind::GroupMessages, &[name]).unwrap()
    }

    fn entry(id: EnvelopeId, name: u8) -> LogEntry {
        let facts = Facts { topic: Some(topic(name)), ..bare_facts() };
        LogEntry::valid(id, Bytes::new(), facts)
    }

    /// An event of a strand.
    #[derive(Debug, Clone)]
    enum Step {
        /// An envelope, and whether its topic is to be remembered.
        Append(u8, bool),
        Skip(u64),
        /// A place below the head gets a row, as a late find or by a verdict.
        Below(u64, u8, bool),
        Forget,
        /// Reads this many places below the known ones from disk; the read takes as many steps.
        Older(u64),
        Stale,
    }

    fn steps() -> impl Strategy<Value = Vec<(u32, Step)>> {
        let step = prop_oneof![
            8 => (0u8..6, 0u8..8).prop_map(|(name, dice)| Step::Append(name, dice > 0)),
            1 => (1u64..4).prop_map(Step::Skip),
            2 => (1u64..40, 0u8..6, any::<bool>()).prop_map(|(at, name, is_verdict)| Step::Below(at, name, is_verdict)),
            1 => Just(Step::Forget),
            2 => (1u64..9).prop_map(Step::Older),
            1 => Just(Step::Stale),
        ];
        proptest::collection::vec((100u32..103, step), 1..80)
    }

    /// Envelopes with their topics.
    type Written = Vec<(Bytes, EnvelopeId)>;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// If `has_news` returns false, there is no row, for any order of writes.
        #[test]
        fn nothing_that_is_there_is_denied(before in 0u64..20, most in 1usize..30, steps in steps()) {
            let mut rows: BTreeMap<EnvelopeId, u8> = BTreeMap::new();
            let mut heads: BTreeMap<u32, u64> = (100..103).map(|it| (it, before)).collect();
            for originator in 100..103 {
                (1..=before).for_each(|at| _ = rows.insert(id(originator, at), u8::try_from(at % 6).unwrap()));
            }
            let stored: Vec<_> = heads.iter().map(|(&it, &head)| id(it, head)).collect();
            let recent = Recent::with_max(&stored, most);
            let mut stale: Vec<(OlderPlaces, SequenceId, Written)> = Vec::new();
            for (originator, step) in steps {
                let head = heads.get_mut(&originator).unwrap();
                match step {
                    Step::Append(name, is_kept) => {
                        *head += 1;
                        rows.insert(id(originator, *head), name);
                        let change = [Change::Append(entry(id(originator, *head), name))];
                        if is_kept { recent.note(&change) } else { recent.pass_over(&change) }
                    }
                    Step::Skip(places) => {
                        let (from, through) = (SequenceId(*head + 1), SequenceId(*head + places));
                        *head += places;
                        let originator = OriginatorId(originator);
                        let reason = SkipReason::Missing;
                        recent.note(&[Change::Skip { originator, from, through, reason }]);
                    }
                    Step::Below(at, name, is_verdict) => {
                        let at = id(originator, at.min(*head));
                        if at.sequence.0 > 0 && !rows.contains_key(&at) {
                            rows.insert(at, name);
                            match is_verdict {
                                true => recent.note_verdicts(&[entry(at, name)]),
                                false => recent.note(&[Change::Append(entry(at, name))]),
                            }
                        }
                    }
                    Step::Forget => {
                        // Like a change of marks: any free place may get a row.
                        let free = (1..=*head).map(|at| id(originator, at)).find(|at| !rows.contains_key(at));
                        free.into_iter().for_each(|at| _ = rows.insert(at, 0));
                        recent.forget(OriginatorId(originator));
                    }
                    Step::Older(places) => {
                        if let Some(older) = recent.older(OriginatorId(originator)) {
                            let after = SequenceId(older.through.sequence.0.saturating_sub(places));
                            let range = EnvelopeId { sequence: after.next(), ..older.through }..=older.through;
                            let read = rows.range(range);
                            let read = read.map(|(at, name)| (topic(*name).as_bytes().clone(), *at));
                            stale.push((older, after, read.collect()));
                        }
                    }
                    Step::Stale => {
                        for (older, after, envelopes) in stale.drain(..) {
                            recent.add_older(older, after, &envelopes);
                        }
                    }
                }
                let state = recent.state.read();
                prop_assert!(state.len <= most);
                prop_assert_eq!(state.order.values().map(VecDeque::len).sum::<usize>(), state.len);
            }
            let ends: Vec<_> = heads.iter().map(|(&it, &head)| id(it, head)).collect();
            for name in 0..6 {
                for after in 0..60 {
                    let is_there = rows.iter().any(|(at, it)| *it == name && at.sequence.0 > after);
                    let has_news = recent.has_news(topic(name).as_bytes(), &|_| SequenceId(after), &ends);
                    prop_assert!(has_news || !is_there, "topic {name} after {after}");
                }
            }
        }
    }

    /// A hostile node can write as many envelopes as are remembered, within a minute. Without room of their own, all
    /// others would be forgotten, and their readers would search the disk for each topic.
    #[test]
    fn a_strand_that_grows_without_end_takes_no_room_of_the_others() {
        let recent = Recent::with_max(&[id(100, 0), id(200, 0)], 100);
        let append = |originator: u32, at: u64| Change::Append(entry(id(originator, at), 1));
        recent.note(&(1..=20).map(|at| append(100, at)).collect::<Vec<_>>());
        for at in 1..=1_000 {
            recent.note(&[append(200, at)]);
        }
        let news = |originator: u32, after: u64, end: u64| {
            let ends = [id(originator, end)];
            recent.has_news(topic(2).as_bytes(), &|_| SequenceId(after), &ends)
        };
        assert!(!news(100, 0, 20), "all of it is remembered");
        assert!(news(200, 919, 1_000) && !news(200, 920, 1_000), "the newest of it are");
    }

    #[test]
    fn what_is_not_new_is_told_without_the_disk() {
        let recent = Recent::with_max(&[id(100, 50)], 10);
        let news = |name: u8, after: u64, end: u64| {
            recent.has_news(topic(name).as_bytes(), &|_| SequenceId(after), &[id(100, end)])
        };
        assert!(!news(1, 50, 50), "nothing is asked for");
        assert!(news(1, 49, 50), "what was there at the start is not known");
        let append = |at: u64, name: u8| Change::Append(entry(id(100, at), name));
        recent.note(&[append(51, 1), append(52, 2)]);
        assert!(
            news(1, 50, 52) && !news(1, 51, 52),
            "of the topic's envelopes, the last one counts"
        );
        assert!(!news(3, 50, 52) && news(3, 50, 53), "as far as it is known");
        let older = recent.older(OriginatorId(100)).unwrap();
        let envelopes = [(topic(4).as_bytes().clone(), id(100, 49))];
        assert!(recent.add_older(older, SequenceId(40), &envelopes));
        assert!(!recent.add_older(older, SequenceId(40), &envelopes), "once");
        assert!(!news(3, 40, 52) && news(4, 40, 52) && !news(4, 49, 52) && news(3, 39, 52));
        recent.note(&(53..=62).map(|at| append(at, 1)).collect::<Vec<_>>());
        assert!(news(3, 51, 62) && !news(3, 52, 62), "ten are remembered");
        assert!(!recent.state.read().topics.keys().collect::<BTreeSet<_>>().is_empty());
        recent.forget_all();
        assert!(news(3, 61, 62));
        recent.note(&[append(63, 1)]);
        assert!(news(3, 61, 63) && !news(3, 62, 63));
    }
}
