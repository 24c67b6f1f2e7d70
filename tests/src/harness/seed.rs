//! Randomness that a failure can repeat.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Set this to run with another seed than the usual one.
pub const VARIABLE: &str = "HAWSER_TEST_SEED";

/// Returns the seed of this run, and prints it: the test runner shows the output when the test fails.
#[must_use]
pub fn seed() -> u64 {
    let seed = match std::env::var(VARIABLE) {
        Ok(text) => text.parse().expect("the seed is a number"),
        Err(_) => 0x6861_7773_6572,
    };
    println!("seed {seed} (again with {VARIABLE}={seed})");
    seed
}

/// A generator for one of several users of the same seed.
#[must_use]
pub fn rng(seed: u64, user: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ user.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
