//! Tests of the decision about silent, slow and failing nodes.

use super::*;

const WALL_NS: i64 = 1_750_000_000_000_000_000;
const OTHERS: [u32; 4] = [200, 300, 400, 500];

struct Watching {
    watch: LivenessWatch,
    now: Instant,
    wall_ns: i64,
    is_fit: bool,
    others: BTreeMap<OriginatorId, OtherNode>,
}

impl Watching {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    fn new() -> Self {
        let connected = |id| {
            let (claimed, held) = (SequenceId(7), SequenceId(7));
            let seen = OtherNode { is_connected: true, claimed, held, ..OtherNode::default() };
            (OriginatorId(id), seen)
        };
        Self {
            watch: LivenessWatch::default(),
            now: Instant::now(),
            wall_ns: WALL_NS,
            is_fit: true,
            others: OTHERS.map(connected).into(),
        }
    }

    fn other(&mut self, id: u32) -> &mut OtherNode {
        self.others.get_mut(&OriginatorId(id)).unwrap()
    }

    fn cut(&mut self, ids: &[u32]) {
        ids.iter().for_each(|id| self.other(*id).is_connected = false);
    }

    fn reach(&mut self, ids: &[u32]) {
        ids.iter().for_each(|id| self.other(*id).is_connected = true);
    }

    fn pass(&mut self, duration: Duration) {
        self.now += duration;
        self.wall_ns += i64::try_from(duration.as_nanos()).unwrap();
    }

    fn look(&mut self) -> Vec<Complaint> {
        self.watch.look(self.now, self.wall_ns, self.is_fit, &self.others)
    }

    /// Looks every second; returns the complaints, each with the second after which it came.
    fn run(&mut self, seconds: u64) -> Vec<(u64, u32, MisbehaviorKind)> {
        let mut all = Vec::new();
        for second in 1..=seconds {
            self.pass(Duration::from_secs(1));
            all.extend(self.look().into_iter().map(|it| (second, it.accused.0, it.kind)));
        }
        all
    }

    /// Past the time in which nothing counts.
    fn settled() -> Self {
        let mut watching = Self::new();
        assert_eq!(watching.run(120), []);
        watching
    }
}

#[test]
fn a_silent_node_is_reported_at_once_and_then_in_each_slot() {
    let mut watching = Watching::settled();
    watching.cut(&[300]);
    assert_eq!(watching.run(9), []);
    assert_eq!(watching.run(1), [(1, 300, MisbehaviorKind::UnresponsiveNode)]);
    let hour = watching.run(3600);
    assert!(
        hour.iter().all(|(_, id, kind)| (*id, *kind) == (300, MisbehaviorKind::UnresponsiveNode))
    );
    assert!((11..=12).contains(&hour.len()), "one for each slot: {hour:?}");
    watching.reach(&[300]);
    assert_eq!(watching.run(3600), []);
}

#[test]
fn a_restart_that_is_over_soon_is_no_fault() {
    let mut watching = Watching::settled();
    for _ in 0..50 {
        watching.cut(&[300]);
        assert_eq!(watching.run(9), []);
        watching.reach(&[300]);
        assert_eq!(watching.run(1), []);
    }
}

/// Silence counts from the end of the last connection, also of one that no look has met.
#[test]
fn a_link_that_is_down_at_each_look_and_was_up_between_them_is_no_silence() {
    let mut watching = Watching::settled();
    watching.cut(&[300]);
    for _ in 0..600 {
        watching.other(300).lost_at = Some(watching.now + Duration::from_millis(300));
        assert_eq!(watching.run(1), []);
    }
    // The last one ended less than a second before the last look.
    assert_eq!(watching.run(9), []);
    assert_eq!(watching.run(1), [(1, 300, MisbehaviorKind::UnresponsiveNode)]);
}

#[test]
fn a_node_that_reaches_fewer_than_half_reports_no_one_and_gives_them_time_to_come_back() {
    let mut watching = Watching::settled();
    watching.cut(&[200, 300, 400]);
    assert_eq!(watching.run(7200), [], "the fault is its own");
    watching.reach(&[200]);
    // Half of them are reached again, and the other two may be on their way.
    assert_eq!(watching.run(60), []);
    watching.reach(&[300]);
    let found = watching.run(60);
    assert!(!found.is_empty(), "one is still missing");
    assert!(found.iter().all(|(_, id, _)| *id == 400), "{found:?}");
}

#[test]
fn of_two_nodes_neither_can_tell_which_one_is_cut_off() {
    let mut watching = Watching::new();
    watching.others.retain(|id, _| id.0 == 200);
    watching.run(120);
    watching.cut(&[200]);
    assert_eq!(watching.run(3600), []);
}

#[test]
fn a_node_with_a_wrong_clock_or_outside_of_the_network_or_just_awake_reports_no_one() {
    let mut watching = Watching::settled();
    watching.cut(&[300]);
    watching.is_fit = false;
    assert_eq!(watching.run(3600), []);
    watching.is_fit = true;
    assert_eq!(watching.run(60), []);
    assert!(!watching.run(30).is_empty());

    let mut watching = Watching::settled();
    watching.cut(&[300]);
    watching.pass(Duration::from_secs(3600));
    assert_eq!(watching.look(), [], "it has slept itself");
    watching.reach(&[300]);
    assert_eq!(watching.run(600), []);
}

#[test]
fn a_node_that_starts_or_that_joins_is_waited_for() {
    let mut watching = Watching::new();
    watching.cut(&[300]);
    assert_eq!(watching.run(60), []);
    assert!(!watching.run(30).is_empty());

    let mut watching = Watching::settled();
    watching.others.insert(OriginatorId(600), OtherNode::default());
    assert_eq!(watching.run(60), []);
    assert!(!watching.run(30).is_empty());
    watching.others.remove(&OriginatorId(600));
    assert_eq!(watching.run(600), [], "it has left the network");
}

#[test]
fn a_node_that_was_sent_away_is_not_called_silent_for_it() {
    let mut watching = Watching::settled();
    for _ in 0..20 {
        watching.cut(&[300]);
        watching.other(300).sent_away_at = Some(watching.now);
        assert_eq!(watching.run(20), []);
        watching.reach(&[300]);
        assert_eq!(watching.run(1), []);
    }
    watching.cut(&[300]);
    assert!(!watching.run(80).is_empty(), "and if it does not come back, it is");
}

/// Its URL has no TLS, for example, and this node's operator has not allowed such peers. Attempts are up to a minute
/// apart, with three seconds for QUIC before each.
#[test]
fn a_node_that_this_one_does_not_dial_is_not_called_silent_for_it() {
    let mut watching = Watching::settled();
    watching.cut(&[300]);
    for _ in 0..20 {
        watching.other(300).not_dialled_at = Some(watching.now);
        assert_eq!(watching.run(65), []);
    }
    assert!(!watching.run(80).is_empty(), "and if it is dialled and does not answer, it is");
}

/// Its record has an address for QUIC that no public node dials, beside a URL at which it does not answer.
#[test]
fn an_address_that_is_not_dialled_hides_no_silence_at_another_one() {
    let mut watching = Watching::settled();
    watching.cut(&[300]);
    let mut found = Vec::new();
    for _ in 0..10 {
        let now = Some(watching.now);
        let other = watching.other(300);
        (other.not_dialled_at, other.dialled_at) = (now, now);
        found.extend(watching.run(65));
    }
    assert!(found.len() > 1, "{found:?}");
    assert!(
        found.iter().all(|(_, id, kind)| (*id, *kind) == (300, MisbehaviorKind::UnresponsiveNode)),
        "{found:?}"
    );
    // It has no such URL any more.
    watching.run(DIALLED_WITHIN.as_secs());
    for _ in 0..20 {
        watching.other(300).not_dialled_at = Some(watching.now);
        assert_eq!(watching.run(65), []);
    }
}

#[test]
fn a_node_that_the_operator_keeps_apart_is_not_called_silent_for_it() {
    let mut watching = Watching::settled();
    watching.cut(&[300]);
    watching.other(300).partitioned_until = Some(watching.now + Duration::from_secs(3600));
    assert_eq!(watching.run(3600), []);
    assert_eq!(watching.run(60), [], "it is dialled again");
    assert!(!watching.run(30).is_empty(), "and if it does not come back, it is");

    let mut watching = Watching::settled();
    watching.cut(&[300]);
    watching.other(300).partitioned_until = Some(watching.now + Duration::from_secs(3600));
    assert_eq!(watching.run(30), []);
    watching.other(300).partitioned_until = None;
    assert_eq!(watching.run(60), [], "the order has ended before");
    assert!(!watching.run(30).is_empty());
}

#[test]
fn a_node_that_lags_with_its_own_strand_for_a_minute_is_slow() {
    let mut watching = Watching::settled();
    watching.other(300).held = SequenceId(9);
    assert_eq!(watching.run(71), []);
    assert_eq!(watching.run(1), [(1, 300, MisbehaviorKind::SlowNode)]);
    watching.other(300).claimed = SequenceId(9);
    assert_eq!(watching.run(3600), [], "it has caught up");

    // It is always behind by a place, and never for long by the same one.
    for place in 10..100 {
        watching.other(300).held = SequenceId(place);
        assert_eq!(watching.run(9), []);
        watching.other(300).claimed = SequenceId(place);
    }
    watching.other(300).held = SequenceId(200);
    watching.other(300).claimed = SequenceId::NONE;
    assert_eq!(watching.run(600), [], "it claims nothing at all");
    watching.other(300).claimed = SequenceId(1);
    watching.cut(&[300]);
    let found = watching.run(400);
    assert!(
        found.iter().all(|(_, _, kind)| *kind == MisbehaviorKind::UnresponsiveNode),
        "{found:?}"
    );
}

#[test]
fn claims_without_envelopes_and_failed_requests_are_reported_once_for_each_slot() {
    let mut watching = Watching::settled();
    watching.other(300).stalled_at = Some(watching.now);
    watching.other(400).failed = Some((watching.now, Duration::from_millis(30)));
    let found = watching.look();
    let complaint =
        |accused, kind, waited| Complaint { accused: OriginatorId(accused), kind, waited };
    assert_eq!(
        found,
        [
            complaint(300, MisbehaviorKind::UnresponsiveNode, SILENT_AFTER),
            complaint(400, MisbehaviorKind::FailedRequest, Duration::from_millis(30)),
        ]
    );
    assert_eq!(watching.run(3600), [], "it was noted once");
    // However often it happens.
    let mut reports = 0;
    for _ in 0..3600 {
        watching.pass(Duration::from_secs(1));
        watching.other(400).failed = Some((watching.now, Duration::ZERO));
        reports += watching.look().len();
    }
    assert!((12..=13).contains(&reports), "{reports}");
}

/// A clock that jumps between two slots makes no flood.
#[test]
fn reports_are_a_minute_apart_whatever_the_wall_clock_does() {
    let mut watching = Watching::settled();
    watching.cut(&[300]);
    let mut reports = 0;
    for second in 0..3600 {
        watching.pass(Duration::from_secs(1));
        let jump_ns = if second % 2 == 0 { i64::MAX } else { i64::MIN };
        reports += watching.watch.look(watching.now, jump_ns, true, &watching.others).len();
    }
    assert!((50..=60).contains(&reports), "{reports}");
}
