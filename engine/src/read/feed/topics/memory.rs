//! The memory that a stream of topics is charged for.

use std::collections::HashSet;
use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId};

use super::TopicFeed;
use super::live_floors::{CURSOR_BYTES, cursor_bytes};
use super::table::SHORT_LEN_BYTES;
use crate::read::feed::catch_up::CatchUpCause;

/// Length of the longest usual topics: a kind, and an identifier of 32 bytes.
const NAME_LEN_BYTES: usize = 33;
/// The most memory of a usual topic in the table of its stream, which grows by one topic. Calculated: an entry of 56
/// bytes, and a sixteenth of a list, with its room.
const TABLE_TOPIC_BYTES: usize = 64;
/// Memory of a topic while it is read from disk: its places in the catch-up and in the plan, and a name of its own.
/// Calculated: 112 bytes, and 48 and 32 bytes for the name and its handle if it shares no buffer with others.
const READ_TOPIC_BYTES: usize = 192;
/// Memory of a lane that waits, and of each topic in which envelopes of one over all topics do. Calculated: 120 bytes
/// in each of two trees, with the room of their nodes, and 48 and 32 bytes for a name of its own and its handle.
const HELD_LANE_BYTES: usize = 320;

impl TopicFeed {
    /// Memory of a topic's registration at the hub, whose table all streams share. Calculated: an entry of 16 bytes
    /// with the room of its list, and a part of the list, while the table shrinks.
    pub(crate) const REGISTRATION_BYTES: usize = 26;

    /// Returns the most memory that a topic takes until it is live, without its cursor.
    pub(crate) fn topic_bytes(name_len: usize) -> usize {
        let live_bytes =
            TABLE_TOPIC_BYTES + Self::REGISTRATION_BYTES + Self::long_name_bytes(name_len);
        live_bytes + READ_TOPIC_BYTES + name_len.saturating_sub(NAME_LEN_BYTES)
    }

    /// Returns the memory that a name of this length takes outside of the table as long as its topic is there.
    pub(crate) fn long_name_bytes(name_len: usize) -> usize {
        if name_len > SHORT_LEN_BYTES { name_len } else { 0 }
    }

    /// Returns the memory that topics take, without cursors, without that of topics that are
    /// [read again](Self::reread_bytes), and without what copies of names take above usual ones while they are read.
    pub(crate) fn topics_bytes(&self) -> usize {
        let registrations_bytes = self.topics.len() * Self::REGISTRATION_BYTES;
        let read_bytes = self.read_bytes(|cause| cause.wave().is_some());
        let names_bytes = self.topics.long_names_bytes();
        self.topics.held_bytes() + names_bytes + registrations_bytes + read_bytes
    }

    /// Returns the memory that live topics take besides while they are read again, because the hub's queue has
    /// overflowed.
    pub(crate) fn reread_bytes(&self) -> usize {
        self.read_bytes(|cause| cause.wave().is_none())
    }

    /// Returns the memory of lanes that wait for envelopes of chains.
    pub(crate) fn held_lanes_bytes(&self) -> usize {
        let in_tails: usize = self.catch_ups.values().map(|it| it.tail.held_len()).sum();
        (self.holds.len() + in_tails) * HELD_LANE_BYTES
    }

    fn read_bytes(&self, is_counted: impl Fn(CatchUpCause) -> bool) -> usize {
        let catch_ups = self.catch_ups.values().filter(|catch_up| is_counted(catch_up.cause));
        catch_ups.map(|catch_up| catch_up.topics.len() * READ_TOPIC_BYTES).sum()
    }

    /// Returns the memory of the cursors that waves have brought their topics to, and of those of the stream itself. An
    /// estimate, for a stream that changes too often to have its topics looked at. Cursors that are ahead of the heads
    /// are not among them.
    pub(crate) fn live_cursors_bytes(&self) -> usize {
        self.live_floors.bytes() + self.popped.entries_bytes() + self.ahead.entries_bytes()
    }

    /// Returns the most memory that a cursor with these entries takes. One that is ahead of `heads` is merged with
    /// those of a later time, and kept.
    pub(crate) fn cursor_bytes(entries: impl Iterator<Item = EnvelopeId>, heads: &Cursor) -> usize {
        let (mut len, mut is_ahead) = (0, false);
        for id in entries {
            len += 1;
            is_ahead |= !heads.covers(id);
        }
        let later = if is_ahead { heads.len() } else { 0 };
        CURSOR_BYTES + (len + later) * size_of::<EnvelopeId>()
    }

    /// Returns the memory that topics, with what their names have above usual ones, and cursors take.
    pub(crate) fn held_bytes(&self) -> usize {
        let read = self.catch_ups.values().flat_map(|catch_up| &catch_up.topics);
        let lens = read.map(|topic| topic.as_bytes().len());
        let read_names_bytes: usize = lens.map(|len| len.saturating_sub(NAME_LEN_BYTES)).sum();
        let mut counted = HashSet::new();
        let floors = self.topics.iter().map(|(_, state)| &state.floor);
        let cursors = floors.filter(|floor| counted.insert(Arc::as_ptr(floor)));
        let cursors_bytes: usize = cursors.map(|floor| cursor_bytes(floor)).sum();
        let own_bytes = self.popped.entries_bytes() + self.ahead.entries_bytes();
        self.topics_bytes() + read_names_bytes + cursors_bytes + own_bytes
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId, Topic};

    use super::super::topic_state::{LastCommit, TopicState};
    use super::*;
    use crate::read::feed::WaveId;
    use crate::read::plan::Cursors;

    /// The memory of 10,000 streams of a hundred topics depends on it. What tables and cursors have is counted, not
    /// estimated.
    #[test]
    fn a_hundred_live_topics_are_charged_less_than_nine_kilobytes() {
        let name = |n: u8| Topic::parse([&[0, n][..], &[7; 31]].concat().into()).unwrap();
        let heads: Arc<Cursor> = Arc::default();
        let charged = |topics: u8| {
            let all = (0..topics).map(|n| (name(n), Arc::clone(&heads)));
            let mut feed = TopicFeed::new(Cursors::PerTopic, all);
            let most = usize::from(topics) * TopicFeed::topic_bytes(NAME_LEN_BYTES) + CURSOR_BYTES;
            assert!(feed.held_bytes() <= most + 128, "{} for {topics}", feed.held_bytes());
            feed.skip_to(&heads);
            feed.held_bytes()
        };
        let at_most = |topics: usize| topics * (64 + 26) + CURSOR_BYTES + 128;
        for topics in 1..=200_u8 {
            let entries = usize::from(topics) * (56 + 26);
            assert!((entries..=at_most(topics.into())).contains(&charged(topics)), "{topics}");
        }
        assert!(charged(100) < 9_000, "{}", charged(100));
    }

    /// A request may have 10,000 topics whose names are four times as long as usual ones.
    #[test]
    fn long_names_count_as_long_as_their_topics() {
        let held = |len: usize| {
            let name = |n: u8| [&[0, n][..], &vec![7; len - 2]].concat();
            let topics = (0..10).map(|n| (Topic::parse(name(n).into()).unwrap(), Arc::default()));
            TopicFeed::new(Cursors::PerTopic, topics).held_bytes()
        };
        // Once in the table of the stream, and once more while they are read.
        let long = NAME_LEN_BYTES + 90;
        assert_eq!(held(long), held(NAME_LEN_BYTES) + 10 * (long + 90));
    }

    /// Played by a client that adds such a topic and removes it without end, beside one that stays.
    #[test]
    fn a_long_name_counts_until_its_topic_has_left() {
        let [short, long] = [17, 128].map(|len| Topic::parse(vec![0; len].into()).unwrap());
        let mut feed = TopicFeed::changing();
        feed.add(WaveId(1), [(short, Arc::default())]);
        let before = feed.topics_bytes() + READ_TOPIC_BYTES;
        feed.add(WaveId(2), [(long.clone(), Arc::default())]);
        assert_eq!(feed.topics_bytes(), before + TopicFeed::REGISTRATION_BYTES + 128);
        assert!(feed.remove(&long));
        assert_eq!(feed.topics_bytes(), before, "its wave has it until it ends");
    }

    /// Each stream that has caught up holds the heads of all strands, of which a network may have a hundred.
    #[test]
    fn a_cursor_counts_with_its_entries_alone() {
        let place = |originator| EnvelopeId::new(OriginatorId(originator), SequenceId(9));
        let floor: Arc<Cursor> = Arc::new((100..203).map(place).collect());
        let held = |floor: &Arc<Cursor>| {
            let name = |n: u8| Topic::parse(vec![0, n].into()).unwrap();
            let topics = (0..10).map(|n| (name(n), Arc::clone(floor)));
            TopicFeed::new(Cursors::PerTopic, topics).held_bytes()
        };
        assert_eq!(held(&floor) - held(&Arc::default()), 103 * 16);
        let mut merged = Cursor::new();
        merged.advance(place(7));
        merged.merge(&floor);
        assert_eq!(merged.entries_bytes(), 104 * 16, "a merged one has no room to spare");
    }

    #[test]
    fn the_state_of_a_topic_is_small_also_with_the_last_commit_of_its_reader() {
        assert_eq!(size_of::<TopicState>(), 16);
        let kept = |place: u64| LastCommit::at(SequenceId(place)).place().0;
        assert_eq!([0, 1, 4_294_967_294].map(kept), [0, 1, 4_294_967_294]);
        assert_eq!([4_294_967_295, 1 << 40].map(kept), [SequenceId::MAX.0; 2]);
    }

    /// A stream can add topics without end and remove them, or read their history, and is charged for none of them
    /// then.
    #[test]
    fn topics_that_have_left_keep_no_memory() {
        let name = |n: u16| Topic::parse([&[0], n.to_be_bytes().as_slice()].concat().into());
        let topics = || (0..20_000).map(|n| name(n).unwrap());
        let mut feed = TopicFeed::changing();
        feed.add(WaveId(1), topics().map(|topic| (topic, Arc::default())));
        assert!(feed.topics.held_bytes() >= 20_000 * 56);
        assert!(topics().all(|topic| feed.remove(&topic)));
        assert_eq!(feed.topics.held_bytes(), 0);

        let history = feed.begin(WaveId(2), true);
        topics().for_each(|topic| feed.add_to(history, topic, Arc::default()));
        feed.end(history);
        assert!(feed.topics.held_bytes() >= 20_000 * 56);
        feed.end_history(history);
        assert_eq!(feed.topics.held_bytes(), 0);
    }
}
