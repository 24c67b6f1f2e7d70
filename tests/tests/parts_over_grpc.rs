//! A long backlog that comes in parts, also from peers that prove no id.

use std::time::Duration;

use hawser_proto::OriginatorId;
use hawser_tests::sim::{Faults, Sim, seeds};

use super::for_each_seed;

/// Longer than the searches for places that no node holds.
const SEARCHED: Duration = Duration::from_secs(200);

/// Node 500 joins late. Nodes 300 and 400 are followed over gRPC. Node 300 has left places of its strand empty, and a
/// late node splits what follows them when it is connected to all.
#[test]
fn a_long_backlog_comes_in_parts_from_peers_over_grpc_too() {
    let (late, over_grpc) = (OriginatorId(500), [300, 400].map(OriginatorId));
    let mut shared = 0;
    for_each_seed(|seed| {
        let mut sim = Sim::beside_reference(seed, Faults::NONE);
        sim.lose(late);
        sim.publish(60, Duration::from_secs(5));
        sim.run_for(SEARCHED);
        sim.join(late);
        sim.run_for(SEARCHED);
        sim.assert_invariants();
        for originator in [100, 200].map(OriginatorId) {
            let held = sim.held(late, originator);
            assert_eq!(held, sim.held(originator, originator), "{originator}");
        }
        let sharers = sim.sharers(late);
        shared += usize::from(over_grpc.iter().all(|peer| sharers.contains(peer)));
    });
    println!("{shared} late nodes have asked both for parts");
    assert!(seeds().count() < 50 || shared > 0, "no backlog was split among peers over gRPC");
}
