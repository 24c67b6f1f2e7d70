//! Tests of the meter of useless frames, and of a connection behind it.

use proptest::prelude::*;

use super::*;
use crate::read_turn::TURN_BYTES;
use crate::unflushed::ArrivingHeads;

fn frame(kind: u8, flags: u8, len: u32) -> Vec<u8> {
    frame_of(kind, flags, 0, len)
}

fn frame_of(kind: u8, flags: u8, stream: u32, len: u32) -> Vec<u8> {
    let [_, a, b, c] = len.to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.resize(HEAD_LEN_BYTES + len as usize, 0xff);
    frame
}

fn begun() -> FrameMeter {
    let mut meter = FrameMeter::new();
    assert!(meter.received(&mut HTTP2_PREFACE.to_vec(), 0));
    meter
}

/// A connection whose peer sends these bytes.
fn sending(bytes: Vec<u8>) -> Metered<std::io::Cursor<Vec<u8>>> {
    metered(std::io::Cursor::new(bytes), UnflushedHeads::default())
}

fn metered<T>(peer: T, unflushed: UnflushedHeads) -> Metered<T> {
    Metered::new(peer, Duration::from_secs(10), unflushed, || {})
}

/// Returns the number of copies of this frame that pass at once.
fn passing(meter: &mut FrameMeter, frame: &[u8], now_ms: u64) -> u64 {
    (0..100_000).take_while(|_| meter.received(&mut frame.to_vec(), now_ms)).count() as u64
}

#[test]
fn frames_that_carry_nothing_are_bounded_and_come_back_with_time() {
    for useless in [
        frame(PING, ACK, 8),
        frame(SETTINGS, ACK, 0),
        frame(3, 0, 4),
        frame(8, 0, 4),
        frame(2, 0, 5),
        frame(9, 0, 10),
        frame(DATA, 0, 0),
        frame(DATA, 0, 1),
        frame(77, 0, 100),
    ] {
        let mut meter = begun();
        assert_eq!(passing(&mut meter, &useless, 0), FRAMES.capacity, "{useless:?}");
        assert!(meter.received(&mut useless.clone(), 10), "a thousand a second");
    }
}

/// A peer that reads the answers to its pings would otherwise be entitled to more of them, and one that reads a long
/// answer to thousands.
#[test]
fn pings_and_settings_have_a_small_burst_and_their_answers_earn_nothing() {
    for (asking, answer_len) in [(frame(PING, 0, 8), 17), (frame(SETTINGS, 0, 0), 9)] {
        let mut meter = begun();
        let pass = |meter: &mut FrameMeter, count: u64, now_ms: u64| {
            for number in 0..count {
                assert!(meter.received(&mut asking.clone(), now_ms), "{asking:?}, {number}");
                meter.sent(answer_len);
            }
        };
        pass(&mut meter, ANSWERED_FRAMES.capacity, 0);
        // Calls have brought this.
        meter.sent(1 << 20);
        pass(&mut meter, EARNED_PINGS_MAX, 0);
        // Ten a second.
        pass(&mut meter, 10, 1000);
        assert!(!meter.received(&mut asking.clone(), 1000), "{asking:?}");
    }
}

/// Clients measure round trips while answers come, and on a near network these come fast. The answers are the shortest
/// that there are. Some clients send a window update before each ping, to which the bytes alone entitle them.
#[test]
fn a_client_may_send_a_ping_for_each_short_answer() {
    const EMPTY_MESSAGE_LEN: usize = HEAD_LEN_BYTES + 5;
    const TRAILERS_LEN: usize = HEAD_LEN_BYTES + 1;
    const PONG_LEN: usize = HEAD_LEN_BYTES + 8;
    for answer_len in [EMPTY_MESSAGE_LEN, TRAILERS_LEN, 65_536] {
        // A message may have been ready before the answer to the ping.
        for sent in [[PONG_LEN, answer_len], [answer_len, PONG_LEN]] {
            let mut meter = begun();
            for round in 0..20_000 {
                assert!(meter.received(&mut frame(8, 0, 4), round), "update {round}");
                assert!(meter.received(&mut frame(PING, 0, 8), round), "ping {round}");
                for len in sent {
                    meter.sent(len);
                }
            }
        }
    }
}

#[test]
fn calls_and_their_messages_are_free() {
    let mut meter = begun();
    assert_eq!(passing(&mut meter, &frame(DATA, 0, 64), 0), 100_000);
    assert_eq!(passing(&mut meter, &frame(DATA, END_STREAM, 64), 0), 100_000);
    for stream in 1..100_000 {
        assert!(meter.received(&mut frame_of(HEADERS, END_HEADERS, stream, 100), 0));
        assert!(meter.received(&mut frame_of(DATA, END_STREAM, stream, 5), 0));
    }
}

/// A client behind a proxy that passes frames on sends data without content. Data that is only padded takes a part of
/// the windows, which the library has to give back.
#[test]
fn empty_data_is_skipped_by_the_library_unless_it_ends_its_request() {
    const PADDED: u8 = 8;
    let mut meter = begun();
    assert!(meter.received(&mut frame_of(HEADERS, END_HEADERS, 1, 100), 0));
    for (flags, len, is_skipped) in
        [(0, 0, true), (PADDED, 10, false), (0, 1, false), (END_STREAM, 0, false)]
    {
        let mut expected = frame_of(DATA, flags, 1, len);
        let mut sent = expected.clone();
        assert!(meter.received(&mut sent, 0));
        expected[KIND_AT] = if is_skipped { UNASSIGNED } else { DATA };
        assert_eq!(sent, expected);
    }
}

/// A client behind a proxy that passes bytes on ends streams that the library has forgotten, each with nine bytes.
#[test]
fn a_request_ends_once() {
    let mut meter = begun();
    for stream in [1, 3] {
        assert!(meter.received(&mut frame_of(HEADERS, END_HEADERS, stream, 100), 0));
    }
    let whole = frame_of(HEADERS, END_HEADERS | END_STREAM, 5, 100);
    assert!(meter.received(&mut whole.clone(), 0), "it ends with its head");
    let end = frame_of(DATA, END_STREAM, 1, 0);
    assert_eq!(passing(&mut meter, &end, 0), 2 + FRAMES.capacity);
}

#[test]
fn trailers_with_fields_do_not_end_their_request() {
    let request = frame_of(HEADERS, END_HEADERS, 1, 20);
    let at = request.len() + FLAGS_AT;
    for (flags, len) in
        [(END_STREAM | END_HEADERS, 20), (END_STREAM, 20), (END_STREAM, 0), (END_HEADERS, 20)]
    {
        let sent = [request.clone(), frame_of(HEADERS, flags, 1, len)].concat();
        let (mut meter, mut read) = (begun(), sent.clone());
        assert!(meter.received(&mut read, 0));
        assert_eq!((meter.heads, meter.useless), (1, 1), "they begin no request");
        assert_eq!(read[at], flags & !END_STREAM);
        read[at] = flags;
        assert!(read == sent, "nothing else changes");
    }
    // The library has the flags already.
    let (mut meter, mut trailers) = (begun(), frame_of(HEADERS, END_STREAM, 1, 20));
    assert!(meter.received(&mut request.clone(), 0));
    let (passed_on, rest) = trailers.split_at_mut(FLAGS_AT + 1);
    assert!(meter.received(passed_on, 0));
    assert!(!meter.received(rest, 0));
}

/// One of the clients of a proxy sends trailers again and again, until a read ends within the head of their frame.
#[tokio::test]
async fn trailers_whose_head_comes_in_parts_end_neither_their_request_nor_the_connection() {
    use tokio::io::AsyncReadExt as _;

    let before = [HTTP2_PREFACE, &frame_of(HEADERS, END_HEADERS, 1, 20)].concat();
    let trailers = frame_of(HEADERS, END_STREAM | END_HEADERS, 1, 20);
    let behind = frame_of(DATA, 0, 1, 70);
    let mut expected = [&before[..], &trailers, &behind].concat();
    expected[before.len() + FLAGS_AT] = END_HEADERS;
    for (cut, again) in (0..=HEAD_LEN_BYTES).flat_map(|cut| [(cut, cut), (cut, HEAD_LEN_BYTES)]) {
        for room in [1, 7, 1024] {
            let peer = std::io::Cursor::new([&before[..], &trailers[..cut]].concat())
                .chain(std::io::Cursor::new(trailers[cut..again].to_vec()))
                .chain(std::io::Cursor::new([&trailers[again..], &behind].concat()));
            let mut stream = metered(peer, UnflushedHeads::default());
            let (mut piece, mut read) = (vec![0; room], Vec::new());
            while let len @ 1.. = stream.read(&mut piece).await.unwrap() {
                read.extend_from_slice(&piece[..len]);
            }
            assert!(read == expected, "cut at {cut} and {again}, read by {room}");
            let meter = &stream.filter().meter;
            assert_eq!((meter.heads, meter.useless), (1, 1), "each counts once");
        }
    }
}

/// A peer sends a long body, or many requests at once, and then keeps its connection open.
#[tokio::test]
async fn a_long_buffer_for_reading_http1_is_charged_until_the_connection_ends() {
    use tokio::io::AsyncReadExt as _;

    let budget = crate::budget::MemoryBudget::new(1 << 30);
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let connection = budget.connection(address, budget.account(None)).unwrap();
    let idle_bytes = budget.used_bytes();
    let unflushed = UnflushedHeads::new(connection.clone(), 3, &ArrivingHeads::default());
    let mut stream = metered(tokio::io::repeat(b'x'), unflushed);
    let long = 4 * BUFFER_BYTES;
    for (room, charged_bytes) in
        [(24, 0), (BUFFER_BYTES, 0), (long, long - BUFFER_BYTES), (24, long - BUFFER_BYTES)]
    {
        assert!(stream.read(&mut vec![0; room]).await.unwrap() > 0);
        assert_eq!(budget.used_bytes(), idle_bytes + charged_bytes, "{room}");
    }
    drop((stream, connection));
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn trailers_without_fields_end_their_request_and_are_bounded() {
    let mut meter = begun();
    assert!(meter.received(&mut frame_of(HEADERS, END_HEADERS, 1, 20), 0));
    let sent = frame_of(HEADERS, END_STREAM | END_HEADERS, 1, 0);
    let mut read = sent.clone();
    assert!(meter.received(&mut read, 0));
    assert_eq!(read, sent);
    assert_eq!(passing(&mut meter, &sent, 0), FRAMES.capacity - 1);
}

#[test]
fn a_block_is_unfinished_until_the_last_byte_of_its_last_frame() {
    let blocks = |bytes: &[Vec<u8>]| {
        let mut meter = begun();
        let mut seen = Vec::new();
        for byte in bytes.concat() {
            assert!(meter.received(&mut [byte], 0));
            seen.push(meter.unfinished_block());
        }
        seen
    };
    let seen = blocks(&[
        frame_of(HEADERS, END_STREAM, 1, 2),
        frame_of(CONTINUATION, 0, 1, 2),
        frame_of(CONTINUATION, END_HEADERS, 1, 2),
        frame_of(HEADERS, END_HEADERS, 3, 2),
        frame_of(PUSH_PROMISE, 0, 3, 0),
        frame_of(CONTINUATION, END_HEADERS, 3, 0),
    ]);
    let frame_len = HEAD_LEN_BYTES + 2;
    let expected = [
        (HEAD_LEN_BYTES - 1, None),
        (3 * frame_len - HEAD_LEN_BYTES, Some(1)),
        (HEAD_LEN_BYTES + frame_len, None),
        (HEAD_LEN_BYTES, Some(2)),
        (1, None),
    ];
    let expected: Vec<_> =
        expected.into_iter().flat_map(|(count, block)| vec![block; count]).collect();
    assert_eq!(seen, expected);
}

/// Connections read on when the calls of earlier heads have had their turns.
#[tokio::test]
async fn nothing_is_read_while_many_heads_wait_for_their_calls() {
    use futures_util::FutureExt as _;
    use tokio::io::AsyncReadExt as _;

    let budget = crate::budget::MemoryBudget::new(1 << 30);
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let connection = budget.connection(address, budget.account(None)).unwrap();
    let mut stream = sending(HTTP2_PREFACE.to_vec());
    let mut head = stream.filter().unflushed.arrived(connection, 1 << 30);
    assert!(stream.read(&mut [0; 64]).now_or_never().is_none());
    head.begins();
    assert!(stream.read(&mut [0; 64]).now_or_never().is_some());
}

#[test]
fn a_peer_that_is_sent_much_may_update_its_windows() {
    let mut meter = begun();
    for _ in 0..1_000_000 {
        meter.sent(70);
        assert_eq!((0..2).filter(|_| meter.received(&mut frame(8, 0, 4), 0)).count(), 2);
    }
}

#[test]
fn other_protocols_are_not_metered() {
    let mut meter = FrameMeter::new();
    for _ in 0..100_000 {
        assert!(meter.received(&mut b"PRI * HTTP/1.1\r\n".to_vec(), 0));
    }
}

/// A peer updates its windows without pause: its connection reads some hundred frames, and then others have a turn.
#[tokio::test]
async fn frames_that_carry_nothing_make_a_turn_shorter() {
    use futures_util::FutureExt as _;
    use tokio::io::AsyncReadExt as _;

    let updates = [HTTP2_PREFACE, &frame(8, 0, 4).repeat(5000)].concat();
    let mut stream = sending(updates);
    let (mut piece, mut read_bytes) = ([0; 1024], 0);
    while let Some(read) = stream.read(&mut piece).now_or_never() {
        read_bytes += read.unwrap();
    }
    assert!((100 * 13..400 * 13).contains(&read_bytes), "{read_bytes} bytes in one turn");
}

/// A peer sends frames of data with one byte of content and the rest padding: they use up no window, and their places
/// in the library's table stay.
#[tokio::test]
async fn short_data_makes_a_turn_shorter_and_its_room_stays_charged() {
    use futures_util::FutureExt as _;
    use tokio::io::AsyncReadExt as _;

    let budget = crate::budget::MemoryBudget::new(1 << 30);
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let connection = budget.connection(address, budget.account(None)).unwrap();
    let idle_bytes = budget.used_bytes();
    let unflushed = UnflushedHeads::new(connection.clone(), 3, &ArrivingHeads::default());
    let padded = frame_of(DATA, 0, 1, PIECE_LEN_BYTES_MIN);
    let sent =
        [HTTP2_PREFACE, &frame_of(HEADERS, END_HEADERS, 1, 20), &padded.repeat(5000)].concat();
    let mut stream = metered(std::io::Cursor::new(sent), unflushed);
    let (mut piece, mut turns) = ([0; 1024], Vec::<usize>::new());
    while turns.iter().sum::<usize>() < 5000 * padded.len() {
        let mut read_bytes = 0;
        while let Some(read @ 1..) = stream.read(&mut piece).now_or_never().map(Result::unwrap) {
            read_bytes += read;
        }
        turns.push(read_bytes);
    }
    let most = turns.iter().max().unwrap() / padded.len();
    assert!((100..400).contains(&most), "{most} frames in one turn");
    // Some are free, and more of them as there is a stream.
    let least_bytes = (most - 50) * 512;
    let used_bytes = budget.used_bytes() - idle_bytes;
    assert!((least_bytes..most * 1024).contains(&used_bytes), "{used_bytes} bytes for {most}");
    drop((stream, connection));
    assert_eq!(budget.used_bytes(), 0);
}

/// Played by a stranger who has values of a byte each keep the buffers into which they were read.
#[tokio::test]
async fn fields_that_keep_their_buffers_are_charged_until_the_connection_ends() {
    use tokio::io::AsyncReadExt as _;

    const LEN: u32 = 14_000;
    let budget = crate::budget::MemoryBudget::new(1 << 30);
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let connection = budget.connection(address, budget.account(None)).unwrap();
    let idle_bytes = budget.used_bytes();
    let unflushed = UnflushedHeads::new(connection.clone(), 3, &ArrivingHeads::default());
    let mut sent = HTTP2_PREFACE.to_vec();
    for number in 0..100 {
        let mut head = frame_of(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, LEN);
        // `:authority: a` for the table, and then a field that fills the frame and stays out of it.
        let fields = b"\x41\x01a\x00\x01f\x7f\xa8\x6c";
        head[HEAD_LEN_BYTES..][..fields.len()].copy_from_slice(fields);
        sent.extend(head);
    }
    let mut stream = metered(std::io::Cursor::new(sent), unflushed);
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    let kept_bytes = budget.used_bytes() - idle_bytes;
    assert!(kept_bytes > 99 * LEN as usize, "{kept_bytes}");
    drop((stream, connection));
    assert_eq!(budget.used_bytes(), 0);
}

/// A peer sends data without pause: other tasks have turns in between.
#[tokio::test]
async fn one_connection_reads_a_bounded_number_of_bytes_in_a_turn() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::AsyncReadExt as _;

    let sent = vec![7; 16 * TURN_BYTES];
    let read_bytes = Arc::new(AtomicUsize::new(0));
    let seen = read_bytes.clone();
    let reading = tokio::spawn(async move {
        let mut stream = sending(sent);
        let mut piece = [0; 8192];
        while let Ok(len @ 1..) = stream.read(&mut piece).await {
            read_bytes.fetch_add(len, Ordering::Relaxed);
        }
    });
    let next_turn = || {
        let mut is_next = false;
        std::future::poll_fn(move |cx| {
            cx.waker().wake_by_ref();
            if std::mem::replace(&mut is_next, true) { Poll::Ready(()) } else { Poll::Pending }
        })
    };
    let beside = tokio::spawn(async move {
        let mut last = 0;
        while last < 16 * TURN_BYTES {
            next_turn().await;
            let now = seen.load(Ordering::Relaxed);
            // Two turns, because this task checks for the first time after its second turn.
            assert!(now - last <= 2 * (TURN_BYTES + 8192), "{last}, then {now}");
            last = now;
        }
    });
    reading.await.unwrap();
    beside.await.unwrap();
}

proptest! {
    /// The result does not depend on how the bytes are cut into pieces.
    #[test]
    fn frames_are_found_however_the_bytes_arrive(
        frames in proptest::collection::vec((0u8..10, 0u8..2, 0u32..300), 0..40),
        piece in 1usize..50,
    ) {
        // Each on a stream of its own, so that there are no trailers.
        let frames: Vec<_> = (1..).zip(frames).collect();
        let sent = frames.iter().flat_map(|(stream, (k, f, len))| frame_of(*k, *f, *stream, *len));
        let mut bytes: Vec<u8> = sent.collect();
        let (mut whole, mut cut) = (begun(), begun());
        prop_assert!(whole.received(&mut bytes, 0));
        for piece in bytes.chunks_mut(piece) {
            prop_assert!(cut.received(piece, 0));
        }
        prop_assert_eq!(whole.frames, cut.frames);
        prop_assert_eq!(whole.answered_frames, cut.answered_frames);
        let (mut unended, mut useless) = (0, 0);
        for (stream, (kind, flags, len)) in frames {
            let head = FrameHead { len, kind, flags, stream };
            if head.kind == HEADERS {
                unended += u64::from(flags & END_STREAM == 0);
            } else if head.ends_data() && unended > 0 {
                unended -= 1;
            } else if !head.carries_data() && head.answer_len_bytes().is_none() {
                useless += 1;
            }
        }
        let mut expected = Bucket::default();
        expected.take(FRAMES, useless, 0);
        prop_assert_eq!(whole.frames, expected);
    }
}

/// Played by strangers at three addresses, on connections that the node has no time to end: each sends some KiB of
/// which the library keeps up to two MiB, frames of a byte to a call that reads nothing, or a head without its end.
#[tokio::test]
async fn what_the_library_keeps_of_a_flood_leaves_memory_to_a_small_caller() {
    use tokio::io::AsyncReadExt as _;

    use crate::budget::MemoryBudget;
    use crate::kept_frames::UnreadRequests;

    const CALL_BYTES: usize = 64 * 1024;
    let begun = [HTTP2_PREFACE, &frame_of(HEADERS, END_HEADERS, 1, 20)].concat();
    for flood in [frame_of(DATA, 0, 1, 1).repeat(4000), frame_of(HEADERS, 0, 3, 20)] {
        let budget = MemoryBudget::new(64 * 1024 * 1024);
        let connect = |number: u8| {
            let address = std::net::Ipv4Addr::new(192, 0, 2, number).into();
            budget.connection(address, budget.account(None)).unwrap()
        };
        let publisher = connect(9);
        let strangers: Vec<_> = (0..150).map(|number| connect(number % 3)).collect();
        let (mut open, mut ended) = (Vec::new(), 0);
        for stranger in &strangers {
            let unread = UnreadRequests::begin(stranger.writing.frames.clone());
            let heads = UnflushedHeads::new(stranger.clone(), 3, &ArrivingHeads::default());
            let sent = [begun.as_slice(), &flood].concat();
            let mut stream = metered(std::io::Cursor::new(sent), heads);
            let mut piece = [0; 1024];
            let end = loop {
                match stream.read(&mut piece).await {
                    Ok(1..) => {}
                    end => break end,
                }
            };
            ended += usize::from(end.is_err());
            open.push((stream, unread));
            assert!(publisher.take(CALL_BYTES).is_ok(), "beside {} of them", open.len());
            publisher.give_back(CALL_BYTES);
        }
        assert!((10..140).contains(&ended), "{ended} of them did not fit");
        assert!(!publisher.close.is_cancelled());
        drop((open, strangers, publisher));
        assert_eq!(budget.used_bytes(), 0);
    }
}

/// The connection of a proxy carries the calls of many clients, so the frames of one of them do not end it.
#[tokio::test]
async fn a_proxys_connection_goes_on_when_there_is_no_memory_for_its_frames() {
    use tokio::io::AsyncReadExt as _;

    use crate::budget::MemoryBudget;
    use crate::kept_frames::UnreadRequests;

    let budget = MemoryBudget::new(128 * 1024);
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let proxy = budget.proxy(address, budget.account(None)).unwrap();
    let _unread = UnreadRequests::begin(proxy.writing.frames.clone());
    let heads = UnflushedHeads::new(proxy.clone(), 3, &ArrivingHeads::default());
    let begun = [HTTP2_PREFACE, &frame_of(HEADERS, END_HEADERS, 1, 20)].concat();
    let flood = [frame_of(DATA, 0, 1, 1).repeat(4000), frame_of(HEADERS, 0, 3, 20)].concat();
    let mut stream = metered(std::io::Cursor::new([begun, flood].concat()), heads);
    let mut piece = [0; 1024];
    while stream.read(&mut piece).await.unwrap() > 0 {}
    assert!(budget.used_bytes() > 2 * 1024 * 1024, "they are charged all the same");
}
