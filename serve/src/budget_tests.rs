//! Tests of the shares of connections and addresses, and of closing the largest consumers.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::Response;
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

use super::*;
use crate::call_metrics::CallMetrics;
use crate::call_share::CallCharge;
use crate::method::{MethodKind, RpcMethod};
use crate::response::{CountedCall, ResponseBody};
use crate::status_headers::status_of;

const MIB: usize = 1024 * 1024;
const LIMIT: usize = 64 * MIB;

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, number).into()
}

/// Takes memory, a MiB at a time, until a charge is refused.
fn greedy(connection: &ConnectionShare) -> usize {
    std::iter::repeat_with(|| connection.take(MIB)).take_while(Result::is_ok).count()
}

#[test]
fn a_greedy_connection_leaves_room_for_every_other_one() {
    let budget = MemoryBudget::new(LIMIT);
    let first = budget.connection(address(1), budget.account(None)).unwrap();
    assert_eq!(greedy(&first), 31, "half of the limit");
    let second = budget.connection(address(1), budget.account(None)).unwrap();
    assert!(greedy(&second) >= 10, "a connection of the same address gets a part of the rest");
    let other = budget.connection(address(2), budget.account(None)).unwrap();
    assert!(greedy(&other) >= 6, "and so does another address");
    assert!(budget.connection(address(3), budget.account(None)).unwrap().take(MIB).is_ok());
    drop((first, second, other));
    assert_eq!(budget.used_bytes(), 0, "given back");
    let callers = budget.0.callers.lock();
    assert!(callers.addresses.is_empty() && callers.consumers.is_empty(), "nothing stays");
}

/// Takes memory for long-lived state, a MiB at a time, until a charge is refused. Returns the bytes taken and the lent
/// part.
fn lasting(connection: &ConnectionShare) -> (usize, usize) {
    let taken = std::iter::repeat_with(|| connection.take_lasting(MIB)).map_while(Result::ok);
    taken.fold((0, 0), |(all, lent), source| {
        (all + 1, lent + usize::from(source == MemorySource::Lent))
    })
}

#[test]
fn what_lasts_is_lent_what_is_free_and_costs_others_nothing() {
    let budget = MemoryBudget::new(LIMIT);
    let first = budget.connection(address(1), budget.account(None)).unwrap();
    let (all, lent) = lasting(&first);
    assert!(
        (50..=53).contains(&all) && lent > 20,
        "ten parts of 64 stay free at least: {all}, {lent}"
    );
    assert!(!first.close.is_cancelled());
    // Another address gets as much as if nothing had been lent: the lent memory is taken back for it.
    let other = budget.connection(address(2), budget.account(None)).unwrap();
    assert_eq!(std::iter::repeat_with(|| other.take(MIB)).take(8).flatten().count(), 8);
    assert!(first.close.is_cancelled() && !other.close.is_cancelled());
    assert!(first.take(1).is_err() && first.take_lasting(1).is_err(), "it is closed");
    drop(first);
    assert!(greedy(&other) >= 20, "half of the limit in all");
    drop(other);
    assert_eq!(budget.used_bytes(), 0);
    assert_eq!(budget.0.lent_bytes.load(Relaxed), 0, "given back");
}

#[test]
fn a_flood_of_strangers_takes_back_what_was_lent_before_it_closes_others() {
    let budget = MemoryBudget::new(LIMIT);
    let small = budget.connection(address(1), budget.account(None)).unwrap();
    small.take(3 * MIB).unwrap();
    let lender = budget.connection(address(2), budget.account(None)).unwrap();
    lasting(&lender);
    let strangers = flood(&budget, 8 * MIB);
    assert!(lender.close.is_cancelled());
    assert!(!small.close.is_cancelled());
    drop((strangers, lender, small));
    assert_eq!(budget.used_bytes(), 0);
}

/// Memory that can be waited for is only what others do not need: nothing is refused or closed for it.
#[test]
fn what_can_wait_gets_only_what_is_spare() {
    let budget = MemoryBudget::new(LIMIT);
    let large = budget.connection(address(1), budget.account(None)).unwrap();
    let taken = std::iter::repeat_with(|| large.take_spare(MIB)).take_while(Option::is_some);
    let taken = taken.count();
    assert!((48..=51).contains(&taken), "thirteen parts of 64 stay free: {taken}");
    let small = budget.connection(address(2), budget.account(None)).unwrap();
    let spare = small.take_spare(MIB);
    assert_eq!(spare, Some(MemorySource::Share), "others have it from their own share");
    assert!(large.take(MIB).is_ok(), "answers of the same caller have room");
    assert!(!large.close.is_cancelled() && budget.0.refused.get() == 0);
    drop((large, small));
    assert_eq!((budget.used_bytes(), budget.0.lent_bytes.load(Relaxed)), (0, 0));
}

#[test]
fn what_is_lent_is_given_back_first() {
    let budget = MemoryBudget::new(LIMIT);
    let connection = budget.connection(address(1), budget.account(None)).unwrap();
    let call = crate::call_share::CallCharge::new(Arc::clone(&connection));
    for _ in 0..40 {
        call.take_lasting(MIB).unwrap();
    }
    let lent = || budget.0.lent_bytes.load(Relaxed);
    let before = lent();
    assert!(before > 10 * MIB && before < 40 * MIB, "{before}");
    call.give_back_lasting(10 * MIB);
    assert_eq!(lent(), before - 10 * MIB);
    call.give_back_lasting(20 * MIB);
    assert_eq!((lent(), connection.held.lent.load(Relaxed)), (0, 0));
    drop(call);
    assert_eq!(budget.used_bytes(), CONNECTION_BYTES);
}

#[test]
fn ten_thousand_streams_of_one_address_fit_and_go_when_others_need_the_memory() {
    // A topic while it is read and when it is live, and a cursor. More than `docs/protocol/api.md` states, so that a
    // part has to be lent.
    const READ_TOPIC_BYTES: usize = 288;
    const TOPIC_BYTES: usize = 166;
    const CURSOR_BYTES: usize = 224;
    let budget = MemoryBudget::new(CALLERS_BYTES_MAX);
    let (mut connections, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let connection = budget.connection(address(1), budget.account(None)).unwrap();
        for _ in 0..100 {
            let call = crate::call_share::CallCharge::new(Arc::clone(&connection));
            call.take_for_call(13 * 1024).unwrap();
            call.take_for_request(12 * 1024).unwrap();
            call.take_lasting(100 * READ_TOPIC_BYTES + CURSOR_BYTES).unwrap();
            call.keep_of_request(0).unwrap();
            call.answers();
            call.give_back_lasting(100 * (READ_TOPIC_BYTES - TOPIC_BYTES));
            streams.push(call);
        }
        connections.push(connection);
    }
    assert!(connections.iter().all(|it| !it.close.is_cancelled()));
    let other = budget.connection(address(2), budget.account(None)).unwrap();
    other.take(8 * MIB).expect("what large addresses leave free is there for others");
    assert!(connections.iter().all(|it| !it.close.is_cancelled()), "not short of memory yet");
    while !connections.iter().any(|it| it.close.is_cancelled()) {
        other.take(MIB).expect("others have room before streams that are lent memory");
    }
    drop((streams, connections, other));
    assert_eq!(budget.used_bytes(), 0);
    assert_eq!(budget.0.lent_bytes.load(Relaxed), 0, "given back");
}

#[test]
fn many_connections_of_one_address_cannot_take_everything() {
    let budget = MemoryBudget::new(LIMIT);
    let connections: Vec<_> =
        std::iter::repeat_with(|| budget.connection(address(1), budget.account(None)))
            .take(100)
            .flatten()
            .collect();
    let taken: usize = connections.iter().map(|connection| greedy(connection)).sum();
    assert!((38..=40).contains(&taken), "two thirds of the limit with their own: {taken}");
    let other = budget.connection(address(2), budget.account(None)).unwrap();
    assert!(other.take(8 * MIB).is_ok());
}

#[test]
fn the_largest_connection_of_the_largest_address_is_closed_when_little_is_left() {
    let budget = MemoryBudget::new(LIMIT);
    let small = budget.connection(address(1), budget.account(None)).unwrap();
    small.take(4 * MIB).unwrap();
    let largest = budget.connection(address(2), budget.account(None)).unwrap();
    largest.take(16 * MIB).unwrap();
    let beside = budget.connection(address(2), budget.account(None)).unwrap();
    beside.take(8 * MIB).unwrap();
    // Finished answers are charged even beyond the limit.
    let other = budget.connection(address(3), budget.account(None)).unwrap();
    assert!(!largest.close.is_cancelled());
    other.take_anyway(20 * MIB);
    other.take_anyway(10 * MIB);
    let closed = [&small, &largest, &beside, &other].map(|it| it.close.is_cancelled());
    assert_eq!(closed, [false, false, false, true], "address 3 holds 30 MiB by now");
    let resting = [&small, &largest, &beside, &other].map(|it| it.paid_time().may_rest());
    assert_eq!(resting, [true, true, true, false], "others wait for its memory");
    // Its memory is returned before another connection has to be closed.
    search_again(&budget);
    assert!(small.take(8 * MIB).is_err());
    assert!(!largest.close.is_cancelled());
    other.give_back(30 * MIB + CONNECTION_BYTES);
    assert!(small.take(8 * MIB).is_ok());
}

#[test]
fn equal_addresses_do_not_close_each_others_connections() {
    let budget = MemoryBudget::new(LIMIT);
    let clients: Vec<_> = (1..=20)
        .map(|number| budget.connection(address(number), budget.account(None)).unwrap())
        .collect();
    let quarter = MIB / 4;
    let taken: usize = (0..12)
        .flat_map(|_| &clients)
        .map(|client| {
            search_again(&budget);
            usize::from(client.take(quarter).is_ok())
        })
        .sum();
    assert!(taken > 200, "most of the limit: {taken} quarters of a MiB");
    assert!(clients.iter().all(|it| !it.close.is_cancelled()));
    // A connection is closed for a caller that holds little.
    let small = budget.connection(address(100), budget.account(None)).unwrap();
    search_again(&budget);
    assert!(small.take(quarter).is_ok());
}

fn search_again(budget: &MemoryBudget) {
    budget.0.callers.lock().searched_at = None;
}

/// Opens connections of 42 addresses until one is refused. Connections that got the signal to close end.
fn flood(budget: &MemoryBudget, bytes: usize) -> Vec<Arc<ConnectionShare>> {
    let mut open = Vec::new();
    for number in 0..10_000_usize {
        let from = address(100 + u8::try_from(number % 42).unwrap());
        let connection = budget.connection(from, budget.account(None));
        open.extend(connection.ok().filter(|it| bytes == 0 || it.take(bytes).is_ok()));
    }
    open
}

#[test]
fn idle_connections_of_few_addresses_make_room_for_everyone_else() {
    for call_bytes in [0, 20 * 1024] {
        let budget = MemoryBudget::new(LIMIT);
        let early = budget.connection(address(1), budget.account(None)).unwrap();
        early.take(MIB).unwrap();
        let mut open = flood(&budget, call_bytes);
        assert!(budget.used_bytes() > LIMIT / 2, "{}", budget.used_bytes());
        let mut honest = Vec::new();
        for number in 2..60 {
            search_again(&budget);
            honest.extend(budget.connection(address(number), budget.account(None)));
            open.retain(|it| !it.close.is_cancelled());
        }
        assert!(honest.len() > 50, "{} of 58 got a connection", honest.len());
        assert!(honest.iter().all(|it| it.take(64 * 1024).is_ok()));
        honest.push(early);
        assert!(honest.iter().all(|it| !it.close.is_cancelled()), "{call_bytes}");
        assert!(budget.0.closed.get() > 100, "many at once: {}", budget.0.closed.get());
    }
}

/// The owner of an IPv6 /48 has 65,536 addresses, each of which may hold too little to be closed for others.
#[test]
fn streams_of_all_addresses_of_a_site_make_room_for_everyone_else() {
    let budget = MemoryBudget::new(LIMIT);
    let early = budget.connection(address(1), budget.account(None)).unwrap();
    early.take(MIB).unwrap();
    let mut flood = Vec::new();
    for number in 0..4000 {
        let from = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, number, 0, 0, 0, 1));
        let connection = budget.connection(from, budget.account(None));
        flood.extend(connection.ok().filter(|it| it.take(20 * 1024).is_ok()));
    }
    assert!(budget.used_bytes() > LIMIT / 2, "{}", budget.used_bytes());
    let mut honest = vec![early];
    for number in 2..60 {
        search_again(&budget);
        let connection = budget.connection(address(number), budget.account(None)).unwrap();
        connection.take(MIB / 2).unwrap();
        honest.push(connection);
        flood.retain(|it| !it.close.is_cancelled());
    }
    assert!(honest.iter().all(|it| !it.close.is_cancelled()));
    drop((honest, flood));
    assert_eq!(budget.used_bytes(), 0);
    assert!(budget.0.callers.lock().addresses.is_empty(), "nothing stays");
}

/// Queues that are fair between sites know these by the numbers.
#[test]
fn addresses_of_a_site_share_its_number_and_have_their_own() {
    let budget = MemoryBudget::new(LIMIT);
    let connect = |site, number| {
        let from = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, site, number, 0, 0, 0, 1));
        budget.connection(from, budget.account(None)).unwrap()
    };
    let (one, same, other) = (connect(1, 1), connect(1, 2), connect(2, 1));
    assert_eq!(one.site(), same.site());
    assert_ne!(one.caller(), same.caller());
    assert_ne!(one.site(), other.site());
    let connect = |number| budget.connection(address(number), budget.account(None)).unwrap();
    let (one, same, other) = (connect(1), connect(1), connect(2));
    assert_eq!(one.site(), same.site(), "an address of IPv4 is a site of its own");
    assert_ne!(one.site(), other.site());
    assert_eq!(one.shares().count(), 2, "so each charge counts once for both");
}

/// Machines of one provider may each have a /64 of the same /48.
#[test]
fn a_greedy_address_takes_nothing_from_its_neighbours() {
    let of_site = |number| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, number, 0, 0, 0, 1));
    let budget = MemoryBudget::new(LIMIT);
    let connect = |number| budget.connection(of_site(number), budget.account(None)).unwrap();
    let flood: Vec<_> = (0..100).map(|_| connect(1)).collect();
    let taken: usize = flood.iter().map(|connection| greedy(connection)).sum();
    assert!((38..=40).contains(&taken), "as much as without neighbours: {taken}");
    let neighbours: Vec<_> = (2..10).map(connect).collect();
    assert!(neighbours.iter().all(|it| it.take(MIB).is_ok()));
    assert!(neighbours.iter().all(|it| !it.close.is_cancelled()));
}

/// Connections over TLS would otherwise be closed after connections with calls, and not at all at addresses that hold
/// little.
#[test]
fn connections_without_calls_are_idle_whatever_their_encryption_takes() {
    let budget = MemoryBudget::new(LIMIT);
    let connection = budget.connection(address(1), budget.account(None)).unwrap();
    connection.take_kept(40 * 1024).unwrap();
    assert!(connection.is_idle());
    connection.take(1).unwrap();
    assert!(!connection.is_idle());
    connection.give_back(1);
    assert!(connection.take_kept(2 * LIMIT).is_err());
    assert!(connection.is_idle(), "what was not taken does not count");
    drop(connection);
    assert_eq!(budget.used_bytes(), 0, "given back");
}

#[test]
fn a_charge_that_cannot_fit_fails_no_other() {
    let budget = MemoryBudget::new(LIMIT);
    let huge = budget.connection(address(1), budget.account(None)).unwrap();
    let small = budget.connection(address(2), budget.account(None)).unwrap();
    std::thread::scope(|scope| {
        let (huge, stop) = (&huge, CancellationToken::new());
        let stopped = stop.clone();
        scope.spawn(move || {
            while !stopped.is_cancelled() {
                assert!(huge.take(usize::MAX).is_err() && huge.take(2 * LIMIT).is_err());
            }
        });
        let refused = (0..100_000).filter(|_| match small.take(MIB) {
            Ok(()) => {
                small.give_back(MIB);
                false
            }
            Err(OverloadedError) => true,
        });
        let refused = refused.count();
        stop.cancel();
        assert_eq!(refused, 0);
    });
    assert_eq!(budget.used_bytes(), 2 * CONNECTION_BYTES);
    assert!(budget.0.callers.lock().searched_at.is_none(), "nor is a consumer looked for");
}

#[test]
fn clients_of_a_proxy_are_consumers_of_their_own() {
    let budget = MemoryBudget::new(LIMIT);
    let proxy = budget.proxy(address(1), budget.account(None)).unwrap();
    let [first, second] = [2, 3].map(|client| ClientAddress::from(address(client)));
    let calls: Vec<_> = (0..10).map(|_| proxy.of_call(first)).collect();
    let taken: usize = calls.iter().map(|call| greedy(call)).sum();
    assert!((40..=43).contains(&taken), "two thirds of the limit: {taken}");
    let other = proxy.of_call(second);
    assert!(other.take(8 * MIB).is_ok());
    assert_eq!(calls[0].caller(), calls[9].caller());
    assert_ne!(calls[0].caller(), other.caller());
    // Calls of the client that holds most end; the proxy's connection stays.
    other.take_anyway(8 * MIB);
    let closed = |it: &Arc<ConnectionShare>| it.close.is_cancelled();
    assert!(calls.iter().any(closed) && !closed(&proxy) && !closed(&other));
    let ended = calls.iter().find(|it| closed(it)).unwrap();
    ended.give_back(ended.used_bytes());
    assert!(ended.take(1).is_err(), "a call that has to end gets no more");
    other.unwritten(1);
    let mut seen = proxy.writing.progress();
    assert!(proxy.writing.note_unread(&mut seen), "whether a proxy reads is one question");
    other.written(1);
    drop((calls, other));
    assert_eq!(budget.used_bytes(), CONNECTION_BYTES);
}

#[test]
fn connections_and_calls_of_a_client_rest_together() {
    let budget = MemoryBudget::new(LIMIT);
    let connection = |number| budget.connection(address(number), budget.account(None)).unwrap();
    let proxy = budget.proxy(address(9), budget.account(None)).unwrap();
    let call = |number| proxy.of_call(ClientAddress::from(address(number)));
    let rest = |share: &Arc<ConnectionShare>| share.paid_time().next_turn().map(std::ptr::from_ref);
    let first = rest(&connection(1));
    assert!(first.is_some());
    assert_eq!([rest(&connection(1)), rest(&call(1))], [first, first]);
    assert_eq!(rest(&proxy), None, "its calls are many callers'");
    // Two addresses may share a place.
    assert!((2..6).any(|number| rest(&connection(number)) != first));
    assert!((2..6).any(|number| rest(&call(number)) != first));
}

#[test]
fn a_peer_that_reads_nothing_is_noticed_and_a_slow_one_is_not() {
    let budget = MemoryBudget::new(LIMIT);
    let share = budget.connection(address(1), budget.account(None)).unwrap();
    let mut seen = share.writing.progress();
    assert!(!share.writing.note_unread(&mut seen), "nothing waits");
    share.unwritten(MIB);
    assert!(!share.writing.note_unread(&mut seen), "it has come since");
    share.wrote();
    assert!(!share.writing.note_unread(&mut seen), "a byte was read");
    share.unwritten(MIB);
    assert!(share.writing.note_unread(&mut seen), "more answers are no progress");
    share.written(2 * MIB);
    assert!(!share.writing.note_unread(&mut seen));
}

#[test]
fn what_callers_who_have_gone_hold_keeps_no_one_else_from_being_closed() {
    let budget = MemoryBudget::new(LIMIT);
    let mut left = Vec::new();
    for number in 1..=3 {
        let connection = budget.connection(address(number), budget.account(None)).unwrap();
        let call = crate::call_share::CallCharge::new(Arc::clone(&connection));
        call.take(8 * MIB).unwrap();
        drop(call.watch_caller());
        assert_eq!(connection.used_bytes(), CONNECTION_BYTES, "its end would free no more");
        left.push(call);
    }
    assert!(budget.used_bytes() > 24 * MIB, "the addresses and the budget stay charged");
    let hoarder = budget.connection(address(9), budget.account(None)).unwrap();
    greedy(&hoarder);
    let mut strangers = Vec::new();
    for number in 100..200 {
        // Allows another search at once.
        budget.0.callers.lock().searched_at = None;
        let connection = budget.connection(address(number), budget.account(None));
        strangers.extend(connection.ok().filter(|it| it.take(MIB).is_ok()));
    }
    assert!(hoarder.close.is_cancelled(), "the largest consumer that frees something");
    drop((strangers, hoarder, left));
    assert_eq!(budget.used_bytes(), 0, "given back");
}

#[test]
fn a_caller_who_is_answered_leaves_nothing() {
    let budget = MemoryBudget::new(LIMIT);
    let connection = budget.connection(address(1), budget.account(None)).unwrap();
    let call = crate::call_share::CallCharge::new(Arc::clone(&connection));
    call.take(8 * MIB).unwrap();
    call.watch_caller().end();
    assert_eq!(connection.used_bytes(), CONNECTION_BYTES + 8 * MIB);
    call.clear();
    drop(call);
    assert_eq!(budget.used_bytes(), CONNECTION_BYTES);
}

#[test]
fn what_a_task_holds_stays_charged_when_its_call_is_answered() {
    let budget = MemoryBudget::new(LIMIT);
    let connection = budget.connection(address(1), budget.account(None)).unwrap();
    let call = crate::call_share::CallCharge::new(Arc::clone(&connection));
    call.take(8 * MIB).unwrap();
    let (held, other) = (call.hold(), call.hold());
    drop(other);
    call.clear();
    assert_eq!(budget.used_bytes(), CONNECTION_BYTES + 8 * MIB);
    assert_eq!(connection.used_bytes(), CONNECTION_BYTES, "its end would free no more");
    // The answer is built and written meanwhile.
    call.take(MIB).unwrap();
    assert_eq!(connection.used_bytes(), CONNECTION_BYTES + MIB);
    call.give_back(MIB);
    call.clear();
    drop(call);
    assert_eq!(budget.used_bytes(), CONNECTION_BYTES + 8 * MIB);
    drop(connection);
    assert!(budget.used_bytes() >= 8 * MIB, "nor does the end of the connection give it back");
    drop(held);
    assert_eq!(budget.used_bytes(), 0);
}

/// A task gives back the state of a stream while its caller goes.
#[test]
fn a_call_that_ends_beside_its_task_gives_each_byte_back_once() {
    let budget = MemoryBudget::new(LIMIT);
    let connection = budget.connection(address(1), budget.account(None)).unwrap();
    let open = CallCharge::new(Arc::clone(&connection));
    for _ in 0..30 {
        open.take_lasting(MIB).unwrap();
    }
    let open_bytes = connection.used_bytes();
    for _ in 0..2_000 {
        let call = CallCharge::new(Arc::clone(&connection));
        let before = budget.0.lent_bytes.load(Relaxed);
        call.take_lasting(MIB).unwrap();
        assert_eq!(budget.0.lent_bytes.load(Relaxed), before + MIB);
        std::thread::scope(|scope| {
            scope.spawn(|| call.give_back_lasting(MIB));
            scope.spawn(|| drop(call.watch_caller()));
        });
        assert_eq!(format!("{call:?}"), "CallCharge(0)");
        assert_eq!(connection.used_bytes(), open_bytes);
        drop(call);
        assert_eq!(budget.0.lent_bytes.load(Relaxed), before);
        assert_eq!(budget.used_bytes(), open_bytes);
    }
}

/// Returns the ways in which a call ends without an answer: a status in the headers, one in trailers, an error, and
/// nothing.
fn unanswered() -> Vec<(&'static str, Response<Body>)> {
    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    let trailers = || {
        let mut trailers = http::HeaderMap::new();
        Status::not_found("none").add_header(&mut trailers).unwrap();
        trailers
    };
    let frames = |frames: Vec<Result<Frame<bytes::Bytes>, Status>>| {
        Response::new(Body::new(StreamBody::new(stream::iter(frames))))
    };
    vec![
        ("headers", Status::not_found("none").into_http()),
        ("trailers", frames(vec![Ok(Frame::trailers(trailers()))])),
        ("error", frames(vec![Err(Status::internal("broken"))])),
        ("nothing", frames(Vec::new())),
    ]
}

#[tokio::test]
async fn a_call_that_ends_without_an_answer_leaves_its_connection() {
    let path = "/grpc.health.v1.Health/Check";
    let metrics = CallMetrics::new(&[RpcMethod::new(path, MethodKind::Unary)]);
    for (name, response) in unanswered() {
        let budget = MemoryBudget::new(LIMIT);
        let connection = budget.connection(address(1), budget.account(None)).unwrap();
        let charge = CallCharge::new(Arc::clone(&connection));
        charge.take(8 * MIB).unwrap();
        // A thread that works for the call continues after the end of the call.
        let worker = charge.clone();
        let mut call = CountedCall::start(metrics.method(path), tracing::Span::none());
        if let Some(code) = status_of(response.headers()) {
            call.end(code);
        }
        let body = ResponseBody::new(response.into_body(), call, charge, None);
        // The body stays until the peer has taken it.
        let mut body = std::pin::pin!(body);
        while let Some(Ok(_)) = body.frame().await {}
        assert_eq!(connection.used_bytes(), CONNECTION_BYTES, "{name}");
        assert_eq!(budget.used_bytes(), CONNECTION_BYTES + 8 * MIB, "{name}");
        worker.take(MIB).unwrap();
        worker.give_back(2 * MIB);
        assert_eq!(budget.used_bytes(), CONNECTION_BYTES + 7 * MIB, "{name}");
        worker.give_back(7 * MIB);
        assert_eq!(budget.used_bytes(), CONNECTION_BYTES, "{name}");
        assert_eq!(connection.used_bytes(), CONNECTION_BYTES, "{name}");
        drop(worker);
    }
}

#[tokio::test]
async fn an_answer_gives_everything_back_before_it_is_written() {
    let path = "/grpc.health.v1.Health/Check";
    let metrics = CallMetrics::new(&[RpcMethod::new(path, MethodKind::Unary)]);
    let budget = MemoryBudget::new(LIMIT);
    let connection = budget.connection(address(1), budget.account(None)).unwrap();
    let charge = CallCharge::new(Arc::clone(&connection));
    charge.take(8 * MIB).unwrap();
    let call = CountedCall::start(metrics.method(path), tracing::Span::none());
    let message = bytes::Bytes::from_static(&[0, 0, 0, 0, 0]);
    let body = ResponseBody::new(Body::new(http_body_util::Full::new(message)), call, charge, None);
    let mut body = std::pin::pin!(body);
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert_eq!(budget.used_bytes(), CONNECTION_BYTES);
    assert!(body.frame().await.is_none());
    assert_eq!(budget.used_bytes(), CONNECTION_BYTES);
}
