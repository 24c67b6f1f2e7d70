//! Random sequences of calls, compared with models of the contracts' state.
//!
//! A model predicts before each step if it succeeds, and after it every balance.
//! All random values come from one seed, which a failure prints.

mod broadcasters;
mod ledger;
mod money;
mod nodes;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::harness::cases::on_both_chains;
use crate::harness::network::TestNetwork;

on_both_chains! {
    money_is_neither_made_nor_lost
    numbers_of_payloads_step_by_one
    the_canonical_set_is_what_was_chosen
}

/// The environment variable with another seed than the default.
const SEED_VARIABLE: &str = "HAWSER_TEST_SEED";

/// Returns a generator, and prints its seed.
fn generator() -> StdRng {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().expect("the seed is a number"),
        Err(_) => 0x6861_7773_6572,
    };
    println!("seed {seed} (again with {SEED_VARIABLE}={seed})");
    StdRng::seed_from_u64(seed)
}

async fn money_is_neither_made_nor_lost(w: &TestNetwork) {
    money::run(w, &mut generator(), 600).await;
}

async fn numbers_of_payloads_step_by_one(w: &TestNetwork) {
    broadcasters::run(w, &mut generator(), 200).await;
}

async fn the_canonical_set_is_what_was_chosen(w: &TestNetwork) {
    nodes::run(w, &mut generator(), 200).await;
}
