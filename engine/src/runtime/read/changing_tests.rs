//! Streams whose topics change: waves, history, and what leaves.

use super::*;

#[tokio::test]
async fn a_set_changes_while_the_rest_goes_on() {
    let node = Node::new();
    (1..=3).for_each(|sequence| node.commit_one(id(100, sequence), 2, &[]));
    let mut stream = node.reader.subscribe_topics([(topic(1), Cursor::new())]);
    caught_up(&mut stream, WaveId::INITIAL).await;
    let wave = WaveId(7);
    let adds = [(topic(2), cursor(&[(100, 1)])), (topic(1), Cursor::new())];
    change(&mut stream, wave, &adds, &[]).await;
    assert_eq!(caught_up(&mut stream, wave).await, [id(100, 2), id(100, 3)]);
    node.commit_one(id(100, 4), 1, &[]);
    node.commit_one(id(100, 5), 2, &[]);
    assert_eq!(take(&mut stream, 2).await, [id(100, 4), id(100, 5)]);

    change(&mut stream, WaveId(8), &[], &[topic(1)]).await;
    assert_eq!(caught_up(&mut stream, WaveId(8)).await, []);
    node.commit_one(id(100, 6), 1, &[]);
    node.commit_one(id(100, 7), 2, &[]);
    assert_eq!(take(&mut stream, 1).await, [id(100, 7)]);

    let again = [(topic(2), cursor(&[(100, 4)]))];
    change(&mut stream, WaveId(9), &again, &[topic(2)]).await;
    assert_eq!(caught_up(&mut stream, WaveId(9)).await, [id(100, 5), id(100, 7)], "begins anew");
}

#[tokio::test]
async fn history_is_read_once_and_its_topics_are_never_live() {
    let node = Node::new();
    (1..=1500).for_each(|sequence| node.commit_one(id(100, sequence), 1, &[]));
    node.commit_one(id(200, 1), 1, &[id(0, 1)]);
    let mut stream = node.reader.subscribe_changing();
    let past = vec![(topic(1), Arc::new(cursor(&[(100, 1)])))];
    stream.add(WaveId(3), HistoryMode::Only, past).await;
    assert!(stream.reads_history(&topic(1)) && !stream.contains(&topic(1)));
    assert_eq!(stream.remove([topic(1)]).await, 0, "history is not in the stream");
    let mut got = Vec::new();
    loop {
        match stream.next().await.unwrap() {
            SubscriptionEvent::Envelopes { wave, envelopes } => {
                assert_eq!(wave, Some(WaveId(3)));
                got.extend(ids_of(&envelopes));
            }
            SubscriptionEvent::TopicsLive { wave, topics } => {
                assert_eq!((wave, topics), (WaveId(3), vec![topic(1)]));
            }
            SubscriptionEvent::CaughtUp(wave) => {
                assert_eq!(wave, WaveId(3));
                break;
            }
            SubscriptionEvent::Entries { .. } => unreachable!("asked for by no stream here"),
        }
    }
    assert_eq!(got, (2..=1500).map(|sequence| id(100, sequence)).collect::<Vec<_>>());
    assert_eq!((node.hub.registrations(), stream.topics_len()), (0, 0));
    node.commit_one(id(0, 1), 1, &[]);
    node.commit_one(id(100, 1501), 1, &[]);
    assert!(is_silent(&mut stream).await);
    change(&mut stream, WaveId(3), &[(topic(1), cursor(&[(100, 1500), (0, 1)]))], &[]).await;
    assert_eq!(caught_up(&mut stream, WaveId(3)).await, [id(200, 1), id(100, 1501)], "now live");
}

#[tokio::test]
async fn the_topics_of_a_wave_are_named_in_their_order_without_those_that_left() {
    let node = Node::new();
    let mut stream = node.reader.subscribe_changing();
    assert!(poll(&mut stream).await.is_none(), "nothing is told of no topics");
    let names: Vec<u8> = (0..200).rev().collect();
    let adds: Vec<_> = names.iter().map(|&name| (topic(name), Cursor::new())).collect();
    change(&mut stream, WaveId(1), &adds, &[]).await;
    change(&mut stream, WaveId(2), &[(topic(7), Cursor::new())], &[topic(7), topic(8)]).await;
    assert_eq!((stream.topics_len(), node.hub.registrations()), (199, 199));
    let expected = [
        SubscriptionEvent::TopicsLive {
            wave: WaveId(1),
            topics: names.into_iter().filter(|name| ![7, 8].contains(name)).map(topic).collect(),
        },
        SubscriptionEvent::CaughtUp(WaveId(1)),
        SubscriptionEvent::TopicsLive { wave: WaveId(2), topics: vec![topic(7)] },
        SubscriptionEvent::CaughtUp(WaveId(2)),
    ];
    for event in expected {
        assert_eq!(stream.next().await.unwrap(), event);
    }
    assert!(!stream.has_events());
}

/// Played by a client that adds a topic at a time at a node whose heads move, which a network of a hundred nodes has.
#[tokio::test]
async fn each_wave_leaves_a_cursor_that_counts_until_its_topics_have_left() {
    let node = Node::new();
    let mut stream = node.reader.subscribe_changing();
    for wave in 1..=20_u8 {
        node.commit_one(id(100, wave.into()), 200, &[]);
        change(&mut stream, WaveId(wave.into()), &[(topic(wave), Cursor::new())], &[]).await;
        assert_eq!(caught_up(&mut stream, WaveId(wave.into())).await, []);
    }
    let bytes = stream.live_cursors_bytes();
    assert!(bytes >= 20 * (64 + 16), "{bytes}");
    let all: Vec<Topic> = (1..=20).map(topic).collect();
    change(&mut stream, WaveId(99), &[], &all).await;
    assert_eq!(stream.live_cursors_bytes(), 0);
}

/// Played by a client that reads nothing, at a node whose operator gives streams little room.
#[tokio::test]
async fn the_queue_of_a_stream_holds_what_its_reader_allows_and_the_stream_misses_nothing() {
    let node = Node::new();
    let one = committed(id(100, 1), topic(1), 1, Vec::new());
    let queue_bytes = 3 * crate::read::wire_len_bytes(one.bytes.len()) + 16;
    let open = |reader: &Reader| reader.subscribe_topics([(topic(1), Cursor::new())]);
    let (mut little, mut usual) =
        (open(&node.reader.clone().queueing(queue_bytes)), open(&node.reader));
    for stream in [&mut little, &mut usual] {
        caught_up(stream, WaveId::INITIAL).await;
    }
    for sequence in 1..=20 {
        node.commit_one(id(100, sequence), 1, &[]);
        assert!(little.listener.len_bytes() <= queue_bytes);
    }
    assert!(usual.listener.len_bytes() > queue_bytes, "others have their room");
    assert_eq!(node.hub.counters().demotions.get(), 1);
    let all: Vec<EnvelopeId> = (1..=20).map(|sequence| id(100, sequence)).collect();
    for stream in [&mut little, &mut usual] {
        assert_eq!(take(stream, all.len()).await, all);
    }
}
