//! The page of seeded faults names each invariant of the simulated network, and each of its faults has a test.

use crate::{assert_none, quoted, texts};

/// The page of seeded faults.
const PAGE: &str = "storage/src/faults.rs";
/// The tests that notice them.
const TESTS: &str = "tests/tests/faults.rs";
/// The invariants of the simulated network, a file each.
const INVARIANTS: &str = "tests/src/sim/invariants/";

#[test]
fn each_invariant_of_the_simulated_network_has_a_seeded_fault() {
    let texts = texts(&["rs"]);
    let text_of = |wanted: &str| &texts.iter().find(|(path, _)| path == wanted).unwrap().1;
    let named = quoted(text_of(PAGE));
    let invariants: Vec<&str> = texts
        .iter()
        .filter_map(|(path, _)| path.strip_prefix(INVARIANTS)?.strip_suffix(".rs"))
        .collect();
    assert!(invariants.len() > 10, "the invariants are found");
    let is_left_out = |name: &&str| *name != "mod" && !named.iter().any(|it| it == name);
    let left_out = invariants.into_iter().filter(is_left_out).map(ToOwned::to_owned);
    let left_out: Vec<String> = left_out.collect();
    assert_none(&left_out, "a fault of storage/src/faults.rs names each invariant");
    let faults = text_of(PAGE).lines().filter_map(|line| line.trim().strip_prefix("Self::"));
    let faults: Vec<&str> = faults.filter_map(|line| line.strip_suffix(',')).collect();
    assert!(!faults.is_empty(), "no faults in {PAGE}");
    let has_test = |name: &str| text_of(TESTS).contains(&format!("SeededFault::{name}"));
    let untested = faults.into_iter().filter(|name| !has_test(name)).map(ToOwned::to_owned);
    assert_none(&untested.collect::<Vec<String>>(), "each fault has a test");
}
