//! Silent liars at two failovers of one strand.

use std::time::Duration;

use hawser_proto::OriginatorId;
use hawser_tests::sim::{Faults, Sim};

use super::for_each_seed;

const STEP: Duration = Duration::from_millis(50);

/// Lets a node publish every 0.4 seconds, `count` times. A source that works is never silent for so long that another
/// peer is tried beside it, which would give the liars their pauses.
fn publish_on(sim: &mut Sim, originator: OriginatorId, count: u32) {
    for _ in 0..count {
        sim.publish_now(originator);
        sim.run_for(STEP * 8);
    }
}

/// Ends the link of `follower` to the source of a strand that goes on. Returns the time until it has another source.
fn failover(sim: &mut Sim, follower: OriginatorId, originator: OriginatorId) -> Duration {
    sim.publish_now(originator);
    sim.run_for(STEP * 2);
    let source = sim.source(follower, originator);
    sim.deaden(follower, source.expect("the strand is followed"));
    let mut steps = 0_u32;
    while sim.source(follower, originator) == source {
        if steps.is_multiple_of(8) {
            sim.publish_now(originator);
        }
        sim.run_for(STEP);
        steps += 1;
        assert!(STEP * steps <= Duration::from_secs(2), "{source:?} stays");
    }
    STEP * steps
}

/// Seven liars claim most, so they are tried first and fill three rounds. An honest peer of the fourth one ends their
/// trials without a pause.
#[test]
fn liars_that_lost_a_failover_to_an_honest_peer_do_not_delay_the_next_one() {
    let [follower, originator] = [100, 200].map(OriginatorId);
    let honest = [1000, 1100].map(OriginatorId);
    for_each_seed(|seed| {
        let mut sim = Sim::eleven(seed, Faults::NONE);
        sim.publish(2, Duration::from_secs(2));
        sim.run_for(Duration::from_secs(5));
        sim.mute(&[300, 400, 500, 600, 700, 800, 900].map(OriginatorId));
        publish_on(&mut sim, originator, 3);
        assert_eq!(sim.source(follower, originator), Some(originator));

        failover(&mut sim, follower, originator);
        let first = sim.source(follower, originator);
        assert!(honest.map(Some).contains(&first), "{first:?}");
        publish_on(&mut sim, originator, 3);
        assert_eq!(sim.source(follower, originator), first, "it goes on");

        let time = failover(&mut sim, follower, originator);
        let second = sim.source(follower, originator);
        assert!(honest.map(Some).contains(&second) && second != first, "{second:?}");
        // A peer is asked after 0.6 s without an envelope, and further ones each 0.25 s. A clock takes up to half a
        // second, so a liar may be asked before it. Behind three rounds of liars it would be asked after 1.25 s.
        assert!(time <= Duration::from_millis(1_100), "{time:?}");
        sim.run_for(Duration::from_secs(1));
        assert_eq!(sim.held(follower, originator), sim.held(originator, originator));
        sim.assert_invariants();
    });
}
