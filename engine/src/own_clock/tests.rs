//! Tests of the decision about this node's clock.

use super::*;

const WALL_NS: i64 = 1_750_000_000_000_000_000;
const HOUR_NS: i64 = 3_600_000_000_000;

struct TestClocks {
    others: OtherClocks,
    start: Instant,
}

impl TestClocks {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    fn new() -> Self {
        Self { others: OtherClocks::default(), start: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    /// A peer connects, and 1 s later signs an envelope at this distance from the right time.
    fn add_peer(&mut self, id: u32, offset_ns: i64) {
        let (id, at) = (OriginatorId(id), self.at(1));
        self.others.note_peer_up(id, SequenceId(7));
        self.others.note_envelope(id, SequenceId(8), WALL_NS + 1_000_000_000 + offset_ns);
        self.others.note_head(id, SequenceId(8), at);
    }

    fn check(&self, seconds: u64, offset_ns: i64) -> Result<(), ClockAheadError> {
        let right_ns = WALL_NS + i64::try_from(seconds).unwrap() * 1_000_000_000;
        self.others.check(self.at(seconds), right_ns + offset_ns)
    }
}

#[test]
fn a_clock_that_is_an_hour_ahead_of_a_chain_is_refused_until_it_is_right() {
    let mut clocks = TestClocks::new();
    assert_eq!(clocks.check(0, HOUR_NS), Ok(()), "nothing else is known");
    let at = clocks.at(0);
    clocks.others.note_block("app", WALL_NS, at);
    let ahead = Err(ClockAheadError::Chain { chain: "app", lead_s: 3600 });
    assert_eq!(clocks.check(0, HOUR_NS), ahead);
    assert_eq!(clocks.check(3000, HOUR_NS), ahead, "also while the chain has no new block");
    assert_eq!(clocks.check(3000, LEAD_NS_MAX), Ok(()));
    assert!(clocks.check(3000, LEAD_NS_MAX + 1).is_err());
    assert_eq!(clocks.check(0, -HOUR_NS), Ok(()), "a clock that is behind harms no other node");
    assert_eq!(clocks.check(3601, HOUR_NS), Ok(()), "too long ago");
}

#[test]
fn a_clock_is_off_by_more_than_two_seconds_and_blocks_show_only_that_it_is_behind() {
    const TWO_S: i64 = 2_000_000_000;
    let mut clocks = TestClocks::new();
    let at = clocks.at(1);
    clocks.others.note_block("app", WALL_NS + 1_000_000_000, at);
    let off_by = |clocks: &TestClocks, offset_ns: i64| -> Vec<&'static str> {
        let leads = clocks.others.leads(clocks.at(1), WALL_NS + 1_000_000_000 + offset_ns);
        leads.into_iter().filter(|lead| lead.is_off()).map(|lead| lead.source.name()).collect()
    };
    assert_eq!(off_by(&clocks, -TWO_S), [""; 0]);
    assert_eq!(off_by(&clocks, -TWO_S - 1), ["app"]);
    assert_eq!(off_by(&clocks, 10 * TWO_S), [""; 0], "a block may be old when it appears");
    clocks.add_peer(200, 0);
    clocks.add_peer(300, 0);
    assert_eq!(off_by(&clocks, TWO_S), [""; 0]);
    assert_eq!(off_by(&clocks, TWO_S + 1), ["peers"]);
    assert_eq!(off_by(&clocks, -TWO_S - 1), ["app", "peers"]);
}

#[test]
fn most_peers_decide_and_never_one_alone() {
    let mut clocks = TestClocks::new();
    clocks.add_peer(200, -HOUR_NS);
    assert_eq!(clocks.check(1, 0), Ok(()), "a liar, or the only node that is right");
    clocks.add_peer(300, 0);
    assert_eq!(clocks.check(1, 0), Ok(()), "one of two");
    clocks.add_peer(400, -HOUR_NS);
    let behind = Err(ClockAheadError::Peers { lead_s: 3600 });
    assert_eq!(clocks.check(1, 0), behind);
    clocks.add_peer(500, i64::MAX / 4);
    assert_eq!(clocks.check(1, 0), Ok(()), "two of four");
    clocks.others.note_peer_down(OriginatorId(500));
    assert_eq!(clocks.check(1, 0), behind);
}

/// Machines of one network that were suspended together: the wall clocks have gone on, the monotonic ones have not.
#[test]
fn clocks_that_step_ahead_together_are_right_once_a_later_block_agrees() {
    let mut clocks = TestClocks::new();
    clocks.add_peer(200, 0);
    clocks.add_peer(300, 0);
    let at = clocks.at(1);
    clocks.others.note_block("app", WALL_NS + 1_000_000_000, at);
    assert!(clocks.check(90, HOUR_NS).is_err(), "no source has shown that the step was right");
    let (soon, later) = (clocks.at(31), clocks.at(91));
    clocks.others.note_block("settlement", WALL_NS + 31_000_000_000 + HOUR_NS, soon);
    assert!(clocks.check(91, HOUR_NS).is_err(), "the others have shown their times just before");
    clocks.others.note_block("settlement", WALL_NS + 91_000_000_000 + HOUR_NS, later);
    assert_eq!(clocks.check(91, HOUR_NS), Ok(()));
    assert!(clocks.check(91, 2 * HOUR_NS).is_err(), "the same block shows a second step");
    // Peers that publish show new times all along, so a wrong endpoint does not outweigh most of them.
    for id in [200, 300] {
        let at = clocks.at(92);
        clocks.others.note_envelope(OriginatorId(id), SequenceId(9), WALL_NS + 92_000_000_000);
        clocks.others.note_head(OriginatorId(id), SequenceId(9), at);
    }
    assert_eq!(clocks.check(92, HOUR_NS), Err(ClockAheadError::Peers { lead_s: 3600 }));
}

#[test]
fn a_reading_that_a_block_outweighs_still_votes_against_peers_that_lie() {
    let mut clocks = TestClocks::new();
    clocks.add_peer(200, 0);
    clocks.add_peer(300, 0);
    let later = clocks.at(120);
    clocks.others.note_block("settlement", WALL_NS + 120_000_000_000, later);
    for id in [400, 500] {
        let (id, at) = (OriginatorId(id), clocks.at(121));
        clocks.others.note_peer_up(id, SequenceId(7));
        clocks.others.note_envelope(id, SequenceId(8), WALL_NS - HOUR_NS);
        clocks.others.note_head(id, SequenceId(8), at);
    }
    assert_eq!(clocks.check(121, 0), Ok(()), "two of four");
}

#[test]
fn what_was_signed_before_shows_no_clock() {
    let mut clocks = TestClocks::new();
    for id in [200, 300] {
        let id = OriginatorId(id);
        clocks.others.note_peer_up(id, SequenceId(1000));
        for place in 1..=1000 {
            clocks.others.note_envelope(id, SequenceId(place), WALL_NS - HOUR_NS);
        }
        let at = clocks.at(0);
        clocks.others.note_head(id, SequenceId(1000), at);
    }
    assert_eq!(clocks.check(0, 0), Ok(()), "a strand that is caught up with");
}

#[test]
fn an_envelope_that_comes_late_shows_the_time_of_its_announcement() {
    let mut clocks = TestClocks::new();
    for id in [200, 300] {
        let id = OriginatorId(id);
        clocks.others.note_peer_up(id, SequenceId(1000));
        let at = clocks.at(10);
        clocks.others.note_head(id, SequenceId(1005), at);
        let later = clocks.at(20);
        clocks.others.note_head(id, SequenceId(1009), later);
        // Half an hour later, behind a thousand older ones.
        for place in 1..=1009 {
            let ns = if place < 1005 { 0 } else { WALL_NS + 10_000_000_000 };
            clocks.others.note_envelope(id, SequenceId(place), ns);
        }
    }
    assert_eq!(clocks.check(1800, 0), Ok(()));
    assert_eq!(clocks.check(1800, HOUR_NS), Err(ClockAheadError::Peers { lead_s: 3600 }));
}

#[test]
fn a_place_that_never_comes_is_not_waited_for_without_end() {
    let mut clocks = TestClocks::new();
    for id in [200, 300] {
        let id = OriginatorId(id);
        clocks.others.note_peer_up(id, SequenceId(0));
        let (first, second) = (clocks.at(0), clocks.at(61));
        clocks.others.note_head(id, SequenceId(u64::MAX >> 2), first);
        clocks.others.note_head(id, SequenceId(u64::MAX >> 1), second);
        clocks.others.note_envelope(id, SequenceId(1), i64::MIN);
    }
    assert_eq!(clocks.check(62, 0), Ok(()));
    clocks.others.note_block("app", i64::MIN, clocks.start);
    assert!(clocks.check(62, i64::MAX - WALL_NS - HOUR_NS).is_err(), "and nothing overflows");
}

#[test]
fn leads_are_shown_of_each_source_that_is_known() {
    let mut clocks = TestClocks::new();
    let leads = |clocks: &TestClocks, seconds: u64| {
        let right_ns = WALL_NS + i64::try_from(seconds).unwrap() * 1_000_000_000;
        let leads = clocks.others.leads(clocks.at(seconds), right_ns).into_iter();
        leads.map(|lead| (lead.source.name(), lead.lead_ns)).collect::<Vec<_>>()
    };
    assert_eq!(leads(&clocks, 1), []);
    let at = clocks.at(0);
    clocks.others.note_block("app", WALL_NS + HOUR_NS, at);
    clocks.add_peer(200, HOUR_NS);
    assert_eq!(leads(&clocks, 1), [("app", -HOUR_NS)], "one peer is no median");
    clocks.add_peer(300, -5);
    clocks.add_peer(400, -7);
    assert_eq!(leads(&clocks, 1), [("app", -HOUR_NS), ("peers", 5)]);
    assert_eq!(leads(&clocks, 3602), [], "too long ago");
}

#[test]
fn a_clock_that_is_behind_takes_the_time_of_most_peers() {
    let mut clocks = TestClocks::new();
    let passed = |clocks: &TestClocks, offset_ns: i64| {
        let right_ns = WALL_NS + 1_000_000_000;
        clocks.others.majority_time_ns(clocks.at(1), right_ns + offset_ns) - right_ns
    };
    clocks.add_peer(200, HOUR_NS);
    assert_eq!(passed(&clocks, 0), 0, "one peer may lie");
    clocks.add_peer(300, 0);
    assert_eq!(passed(&clocks, 0), 0, "one of two");
    assert_eq!(passed(&clocks, -HOUR_NS), 0, "both are ahead");
    clocks.add_peer(400, 7);
    assert_eq!(passed(&clocks, 0), 7);
    assert_eq!(passed(&clocks, HOUR_NS / 2), HOUR_NS / 2, "its own is later");
    clocks.add_peer(500, i64::MAX / 4);
    assert_eq!(passed(&clocks, 0), 7, "two of four");
}
