//! Shares of connections and addresses, and the closing of the largest.

use std::net::Ipv4Addr;

use super::*;

const MIB: usize = 1024 * 1024;
const LIMIT: usize = 64 * MIB;

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, number).into()
}

/// Takes as much as is given, a MiB at a time.
fn greedy(connection: &ConnectionShare) -> usize {
    std::iter::repeat_with(|| connection.take(MIB)).take_while(Result::is_ok).count()
}

#[test]
fn a_greedy_connection_leaves_room_for_every_other_one() {
    let budget = MemoryBudget::new(LIMIT);
    let first = budget.connection(address(1)).unwrap();
    assert_eq!(greedy(&first), 31, "half of the limit");
    let second = budget.connection(address(1)).unwrap();
    assert!(greedy(&second) >= 10, "a connection of the same address gets a part of the rest");
    let other = budget.connection(address(2)).unwrap();
    assert!(greedy(&other) >= 6, "and so does another address");
    assert!(budget.connection(address(3)).unwrap().take(MIB).is_ok());
    drop((first, second, other));
    assert_eq!(budget.used_bytes(), 0, "given back");
    let callers = budget.0.callers.lock();
    assert!(callers.addresses.is_empty() && callers.connections.is_empty(), "nothing stays");
}

#[test]
fn many_connections_of_one_address_cannot_take_everything() {
    let budget = MemoryBudget::new(LIMIT);
    let connections: Vec<_> =
        std::iter::repeat_with(|| budget.connection(address(1))).take(100).flatten().collect();
    let taken: usize = connections.iter().map(|connection| greedy(connection)).sum();
    assert!((38..=40).contains(&taken), "two thirds of the limit with their own: {taken}");
    let other = budget.connection(address(2)).unwrap();
    assert!(other.take(8 * MIB).is_ok());
}

#[test]
fn addresses_of_one_ipv6_customer_are_one() {
    let block = |text: &str| block_of(text.parse().unwrap());
    assert_eq!(block("2001:db8:1:2:3::4"), block("2001:db8:1:2:ffff::1"));
    assert_ne!(block("2001:db8:1:2::"), block("2001:db8:1:3::"));
    assert_eq!(block("::ffff:192.0.2.1"), address(1));
}

#[test]
fn the_largest_connection_of_the_largest_address_is_closed_when_little_is_left() {
    let budget = MemoryBudget::new(LIMIT);
    let small = budget.connection(address(1)).unwrap();
    small.take(4 * MIB).unwrap();
    let largest = budget.connection(address(2)).unwrap();
    largest.take(16 * MIB).unwrap();
    let beside = budget.connection(address(2)).unwrap();
    beside.take(8 * MIB).unwrap();
    // Answers that are made already are charged whatever the limit is.
    let other = budget.connection(address(3)).unwrap();
    assert!(!largest.close.is_cancelled());
    other.take_anyway(20 * MIB);
    other.take_anyway(10 * MIB);
    let closed = [&small, &largest, &beside, &other].map(|it| it.close.is_cancelled());
    assert_eq!(closed, [false, false, false, true], "address 3 holds 30 MiB by now");
    // One at a time: its memory comes back before another one has to go.
    budget.0.callers.lock().searched_at = None;
    assert!(small.take(8 * MIB).is_err());
    assert!(!largest.close.is_cancelled());
    other.give_back(30 * MIB + CONNECTION_BYTES);
    assert!(small.take(8 * MIB).is_ok());
}

#[test]
fn a_peer_that_reads_nothing_is_noticed_and_a_slow_one_is_not() {
    let budget = MemoryBudget::new(LIMIT);
    let share = budget.connection(address(1)).unwrap();
    let mut seen = share.progress();
    assert!(!share.is_unread_since(&mut seen), "nothing waits");
    share.unwritten(MIB);
    assert!(!share.is_unread_since(&mut seen), "it has come since");
    share.wrote();
    assert!(!share.is_unread_since(&mut seen), "a byte was read");
    share.unwritten(MIB);
    assert!(share.is_unread_since(&mut seen), "more answers are no progress");
    share.written(2 * MIB);
    assert!(!share.is_unread_since(&mut seen));
}
