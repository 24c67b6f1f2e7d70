//! Random sequences, against models of what the contracts keep.
//!
//! A model says before each step whether it can succeed, and after it what everything amounts to.
//! What is drawn comes from one seed, which a failure tells.

mod broadcasters;
mod ledger;
mod money;
mod nodes;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::harness::cases::on_both_chains;
use crate::harness::world::World;

on_both_chains! {
    money_is_neither_made_nor_lost
    numbers_of_payloads_step_by_one
    the_canonical_set_is_what_was_chosen
}

/// Set this to run with another seed than the usual one.
const SEED_VARIABLE: &str = "HAWSER_TEST_SEED";

/// A generator, whose seed is told.
fn generator() -> StdRng {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().expect("the seed is a number"),
        Err(_) => 0x6861_7773_6572,
    };
    println!("seed {seed} (again with {SEED_VARIABLE}={seed})");
    StdRng::seed_from_u64(seed)
}

async fn money_is_neither_made_nor_lost(w: &World) {
    money::run(w, &mut generator(), 600).await;
}

async fn numbers_of_payloads_step_by_one(w: &World) {
    broadcasters::run(w, &mut generator(), 200).await;
}

async fn the_canonical_set_is_what_was_chosen(w: &World) {
    nodes::run(w, &mut generator(), 200).await;
}
