//! A payer who is no member of a group publishes into its topic, and names places of the chain that are none of its
//! commits. Another one has the chain order commits that name such places.

use hawser_proto::SequenceId;
use hawser_storage::{Change, Family, SkipReason};

use super::*;

/// Commits of two groups, a void place, a missing one and one that breaks a rule; and messages of the first group which
/// depend on one of them each.
fn attacked() -> Node {
    let node = Node::new();
    let commit = |sequence, name, at| committed(id(0, sequence), topic(name), at, vec![]);
    let void = SequenceId(3);
    let reason = SkipReason::Void;
    let mut changes = vec![
        append(&commit(1, 1, 1)),
        append(&commit(2, 2, 2)),
        Change::Skip { originator: OriginatorId(0), from: void, through: void, reason },
        missing(id(0, 4)),
        append_invalid(&commit(5, 1, 5)),
        append(&commit(6, 1, 100)),
    ];
    let message = |sequence: u64, on: &[EnvelopeId]| {
        let at = 10 + i64::try_from(sequence).unwrap();
        append(&committed(id(100, sequence), topic(1), at, on.to_vec()))
    };
    changes.extend((1..=5).map(|sequence| message(sequence, &[id(0, sequence)])));
    changes.push(message(6, &[]));
    node.store.commit(&changes).unwrap();
    [id(0, 6), id(100, 6)].into_iter().for_each(|end| node.heads.announce(end));
    node
}

/// Returns the envelopes that members of the first group get. One that depends on a missing place may be theirs.
fn shown() -> Vec<EnvelopeId> {
    vec![id(0, 1), id(100, 1), id(100, 4), id(100, 6), id(0, 6)]
}

#[test]
fn queries_leave_out_what_depends_on_no_commit_of_its_topic() {
    let node = attacked();
    let ask = |name, from: &[(u32, u64)], limit| {
        ids_of(&node.reader.query_topics(&[topic(name)], &cursor(from), limit).unwrap())
    };
    assert_eq!(ask(1, &[], 0), shown());
    assert_eq!(ask(1, &[(0, 1), (100, 1)], 0), [id(100, 4), id(100, 6), id(0, 6)]);
    let all: Vec<EnvelopeId> = (1..=6).map(|sequence| id(100, sequence)).collect();
    assert_eq!(ask(1, &[(0, 6)], 0), all, "the reader takes these places for ones that it has");
    let strand = node.reader.query_originators(&[OriginatorId(100)], &Cursor::new(), 0).unwrap();
    assert_eq!(ids_of(&strand), all, "strands are whole");
}

/// Nothing shows whose commit it was. A payer names it in the topic of another group.
#[tokio::test]
async fn a_damaged_place_of_a_chain_ends_no_query_and_no_stream_of_a_topic_that_names_it() {
    let node = attacked();
    let key = [&0_u32.to_be_bytes()[..], &2_u64.to_be_bytes()].concat();
    node.store.put_raw_row(Family::Mark, &key, &[0xff]);
    let with_it = vec![id(0, 1), id(100, 1), id(100, 2), id(100, 4), id(100, 6), id(0, 6)];
    let page = node.reader.query_topics(&[topic(1)], &Cursor::new(), 0).unwrap();
    assert_eq!(ids_of(&page), with_it);
    let mut stream = node.reader.subscribe_topics([(topic(1), Cursor::new())]);
    assert_eq!(caught_up(&mut stream, WaveId::INITIAL).await, with_it);
}

/// An empty page says that there is no more.
#[test]
fn pages_of_strays_alone_are_passed_over() {
    let node = attacked();
    for sequence in 1..=50 {
        node.commit_one(id(200, sequence), 3, &[id(0, 2)]);
    }
    let ask =
        |limit| ids_of(&node.reader.query_topics(&[topic(3)], &Cursor::new(), limit).unwrap());
    assert_eq!(ask(1), []);
    node.commit_one(id(200, 51), 3, &[]);
    for limit in [1, 2, 50, 51, 0] {
        assert_eq!(ask(limit), [id(200, 51)], "{limit}");
    }
}

/// Commits of a group, and messages that depend on commits, by their ids: each with what it depends on.
fn attacked_by_commits() -> (Node, BTreeMap<EnvelopeId, Option<EnvelopeId>>) {
    let node = Node::new();
    node.commit_one(id(0, 1), 1, &[]);
    node.commit_one(id(0, 2), 2, &[]);
    let mut placed = BTreeMap::from([(id(0, 1), None)]);
    let mut add = |of: EnvelopeId, on: EnvelopeId| {
        node.commit_one(of, 1, &[on]);
        placed.insert(of, Some(on));
    };
    // Another group's commit, itself, what never comes, a place of another chain, and one that is left out itself.
    add(id(0, 3), id(0, 2));
    add(id(0, 4), id(0, 4));
    add(id(0, 5), id(0, 1 << 40));
    add(id(0, 6), id(1, 7));
    add(id(0, 7), id(0, 3));
    // A member's.
    add(id(0, 8), id(0, 1));
    add(id(100, 1), id(0, 3));
    add(id(100, 2), id(0, 8));
    (node, placed)
}

/// Any account may have the chain order a commit in the topic of a group. In a query, a client waits two minutes for
/// what it depends on.
#[tokio::test]
async fn queries_leave_out_commits_that_depend_on_no_earlier_one_of_their_topic() {
    let (node, placed) = attacked_by_commits();
    let ask =
        |from: &Cursor, limit| ids_of(&node.reader.query_topics(&[topic(1)], from, limit).unwrap());
    assert_eq!(ask(&Cursor::new(), 0), [id(0, 1), id(0, 8), id(100, 2)]);
    let covered = [id(100, 1), id(0, 7), id(0, 8), id(100, 2)];
    assert_eq!(ask(&cursor(&[(0, 5)]), 0), covered, "the reader has their places");
    for limit in 1..=9 {
        let (mut from, mut all) = (Cursor::new(), BTreeSet::new());
        loop {
            let page = ask(&from, limit);
            if page.is_empty() {
                break;
            }
            for shown in page {
                let on = placed[&shown];
                assert!(on.is_none_or(|on| from.covers(on)), "{shown} in pages of {limit}");
                from.advance(shown);
                all.insert(shown);
            }
        }
        assert!(all.contains(&id(0, 8)) && all.contains(&id(100, 2)), "{limit}: {all:?}");
    }
    let strand = node.reader.query_originators(&[OriginatorId(0)], &Cursor::new(), 0).unwrap();
    assert_eq!(ids_of(&strand).len(), 8, "strands are whole");
    let mut stream = node.reader.subscribe_topics([(topic(1), Cursor::new())]);
    let streamed: BTreeSet<EnvelopeId> =
        caught_up(&mut stream, WaveId::INITIAL).await.into_iter().collect();
    let all: BTreeSet<EnvelopeId> = placed.into_keys().collect();
    assert_eq!(streamed, all, "a client puts them aside at once");
}

#[tokio::test]
async fn streams_leave_out_strays_from_disk_and_live_and_go_on_behind_them() {
    let node = attacked();
    // Another group's commit, of which the hub of a node that has just started does not know.
    node.store.commit(&[append(&committed(id(0, 7), topic(2), 7, vec![]))]).unwrap();
    node.heads.announce(id(0, 7));
    let mut own = node.reader.subscribe_topics([(topic(1), Cursor::new())]);
    let mut shared = node.reader.subscribe_topics_sharing([topic(1)], Some(Cursor::new()));
    let mut ahead = node.reader.subscribe_topics([(topic(1), cursor(&[(0, 7), (100, 6)]))]);
    let mut all = node.reader.subscribe_all();
    assert_eq!(caught_up(&mut own, WaveId::INITIAL).await, shown());
    assert_eq!(caught_up(&mut shared, WaveId::INITIAL).await, shown());
    assert_eq!(caught_up(&mut ahead, WaveId::INITIAL).await, []);

    node.commit_one(id(100, 7), 1, &[id(0, 7)]);
    node.commit_one(id(100, 8), 1, &[id(0, 6)]);
    assert_eq!(take(&mut own, 1).await, [id(100, 8)]);
    assert_eq!(take(&mut shared, 1).await, [id(100, 8)]);
    assert_eq!(take(&mut ahead, 2).await, [id(100, 7), id(100, 8)], "its cursor covers the place");
    assert_eq!(take(&mut all, 2).await, [id(100, 7), id(100, 8)]);

    // The chain is behind: what waits for its next place turns out to be a stray.
    node.commit_one(id(100, 9), 1, &[id(0, 8)]);
    node.commit_one(id(0, 8), 2, &[]);
    for stream in [&mut own, &mut shared] {
        assert!(is_silent(stream).await);
    }
    node.commit_one(id(0, 9), 1, &[]);
    node.commit_one(id(100, 10), 1, &[id(0, 9)]);
    for stream in [&mut own, &mut shared] {
        assert_eq!(take(stream, 2).await, [id(0, 9), id(100, 10)]);
        assert!(is_silent(stream).await);
    }
}

/// A payer names places of strands that no chain orders, at a node which has them. Another node lacks these strands for
/// good.
#[tokio::test]
async fn what_depends_on_a_strand_of_no_chain_is_left_out_and_nothing_waits_for_it() {
    let node = Node::new();
    node.commit_one(id(10, 1), 2, &[]);
    node.commit_one(id(10, 2), 1, &[]);
    let through = SequenceId(3);
    let unused = Change::Skip {
        originator: OriginatorId(10),
        from: through,
        through,
        reason: SkipReason::Expired,
    };
    node.store.commit(&[unused]).unwrap();
    node.heads.announce(id(10, 3));
    // Another topic's, one that is not used, one beyond the end, and those of strands that are not here.
    let odd: [EnvelopeId; 5] = [id(10, 1), id(10, 3), id(10, 9), id(11, 7), id(50, 1)];
    for (sequence, on) in (1..).zip(odd) {
        node.commit_one(id(100, sequence), 1, &[on]);
    }
    node.commit_one(id(100, 6), 1, &[id(10, 2)]);
    node.commit_one(id(100, 7), 1, &[]);

    let shown = [id(10, 2), id(100, 6), id(100, 7)];
    let page = node.reader.query_topics(&[topic(1)], &Cursor::new(), 0).unwrap();
    assert_eq!(ids_of(&page), shown);
    let covered = node.reader.query_topics(&[topic(1)], &cursor(&[(10, 9), (11, 7)]), 0).unwrap();
    let all = [1, 2, 3, 4, 6, 7].map(|sequence| id(100, sequence));
    assert_eq!(ids_of(&covered), all, "the reader takes these places for ones that it has");

    let mut own = node.reader.subscribe_topics([(topic(1), Cursor::new())]);
    let mut shared = node.reader.subscribe_topics_sharing([topic(1)], Some(Cursor::new()));
    for stream in [&mut own, &mut shared] {
        assert_eq!(caught_up(stream, WaveId::INITIAL).await, shown);
    }
    node.commit_one(id(100, 8), 1, &[id(11, 7)]);
    node.commit_one(id(100, 9), 1, &[]);
    for stream in [&mut own, &mut shared] {
        assert_eq!(take(stream, 1).await, [id(100, 9)]);
        assert!(is_silent(stream).await);
    }
}
