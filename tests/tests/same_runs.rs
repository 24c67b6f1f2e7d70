//! A seed is a run, also over stores that earlier nodes have used.

use std::time::Duration;

use hawser_tests::sim::{Faults, Sim};

use super::{BREAKS, LOSSY, run};

/// Asserts that two histories are equal, and shows where they differ.
fn assert_same(seed: u64, first: &[String], second: &[String]) {
    let differs = first.iter().zip(second).position(|(a, b)| a != b);
    let shown = |at: usize| format!("{:?}\n{:?}", first.get(at), second.get(at));
    assert_eq!(differs.map(shown), None, "seed {seed}");
    assert_eq!(first.len(), second.len(), "seed {seed}");
}

#[test]
fn one_seed_is_one_run() {
    let faults = Faults { lies: true, burns_ids: true, ..LOSSY };
    let run = |seed| {
        let mut sim = run(seed, faults);
        sim.settle();
        sim.trace().to_vec()
    };
    for seed in 0..3 {
        let (first, second) = (run(seed), run(seed));
        assert_same(seed, &first, &second);
        assert!(first.len() > 500, "hardly anything happened");
    }
    assert_ne!(run(0), run(1), "the seed decides");
}

/// Simulated nodes use the stores of earlier ones, emptied.
#[test]
fn a_run_over_used_stores_is_the_run_over_new_ones() {
    const SEEDS: [u64; 3] = [0, 3, 4];
    let run = |number: usize| {
        let mut sim = Sim::hostile(SEEDS[number % SEEDS.len()], BREAKS);
        sim.publish(12, Duration::from_secs(30));
        sim.run_for(Duration::from_secs(60));
        sim.assert_invariants();
        sim.settle_hostile();
        let mut history = sim.trace().to_vec();
        for node in sim.honest() {
            for strand in sim.honest() {
                history.push(format!("{node} {strand} {:?}", sim.held(node, strand)));
            }
        }
        (sim.used_stores(), history)
    };
    // A new thread has no used stores.
    let runs: Vec<(usize, Vec<String>)> =
        std::thread::spawn(move || (0..12).map(run).collect()).join().unwrap();
    let used: Vec<usize> = runs.iter().map(|(used, _)| *used).collect();
    assert_eq!(used, [0, 5, 5, 5, 0, 5, 5, 5, 0, 5, 5, 5], "each store serves four nodes");
    for (number, (_, history)) in runs.iter().enumerate() {
        let first = number % SEEDS.len();
        assert_same(SEEDS[first], &runs[first].1, history);
    }
}
