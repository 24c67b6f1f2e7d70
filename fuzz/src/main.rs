//! Runs every decoder of untrusted bytes on mutated vectors, on the stable toolchain.
//!
//! An input fails a target that panics on it, finds one of its properties broken, or makes it hold
//! more memory than its length accounts for. The run then stops, prints the input as hex for
//! `--input`, and exits with 1. A run is repeated by its seed.

mod corpus;
mod memory;
mod mutate;
mod runner;
mod targets;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use clap::builder::PossibleValuesParser;

use runner::Finding;
use targets::{TARGETS, Target};

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;

/// Looks for bytes that Hawser's decoders cannot take.
#[derive(Debug, Parser)]
struct Args {
    /// Run this target only.
    #[arg(long, value_parser = PossibleValuesParser::new(TARGETS.iter().map(|t| t.name)))]
    target: Option<String>,
    /// Print the name of each target, and run none.
    #[arg(long)]
    list: bool,
    /// Duration of the run of each target.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Decides every input. The same seed makes the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run only this input, in hex.
    #[arg(long, value_name = "HEX", value_parser = |text: &str| hex::decode(text).map(Input))]
    input: Option<Input>,
}

#[derive(Debug, Clone)]
struct Input(Vec<u8>);

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        return ExitCode::SUCCESS;
    }
    let chosen = |target: &&Target| args.target.as_ref().is_none_or(|name| name == target.name);
    for target in TARGETS.iter().filter(chosen) {
        if let Err(finding) = run(target, &args) {
            eprintln!("{finding}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(target: &Target, args: &Args) -> Result<(), Finding> {
    if let Some(Input(input)) = &args.input {
        (target.seeds)(); // what a target prepares with them is no part of what an input costs
        runner::check(target, input)
            .map_err(|failure| Finding::new(target, args.seed, 0, input, failure))?;
        println!("{:<14} takes the input", target.name);
        return Ok(());
    }
    let begun = Instant::now();
    let end = begun + Duration::from_secs(args.seconds);
    let executions = runner::run(target, args.seed, |_| Instant::now() < end)?;
    let per_second = u128::from(executions) * 1000 / begun.elapsed().as_millis().max(1);
    println!("{:<14} {executions:>10} executions, {per_second:>8} a second", target.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Executions of each target in `cargo test`.
    const ITERATIONS: u64 = 3_000;

    #[test]
    fn every_target_takes_what_a_fixed_seed_makes() {
        for target in TARGETS {
            let result = runner::run(target, 1, |iteration| iteration < ITERATIONS);
            let executions = result.unwrap_or_else(|finding| panic!("{finding}"));
            assert_eq!(executions, ITERATIONS, "{}", target.name);
        }
    }

    #[test]
    fn every_target_has_vectors_to_begin_with() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(seeds.len() > 5, "{} has {} seeds", target.name, seeds.len());
        }
    }
}
