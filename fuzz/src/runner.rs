//! Runs a target on many inputs and stops at the first that fails.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::memory::peak_bytes;
use crate::mutate::Mutator;
use crate::targets::Target;

/// Memory in bytes that every input may take besides the share of its length.
const MEMORY_FLOOR_BYTES: usize = 64 * 1024;

/// Reason why an input fails a target.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TargetError {
    /// The run panicked: in the decoder, or where the target found a property broken.
    Panic,
    /// The run held more memory than the input's length accounts for.
    Memory { peak_bytes: usize, limit_bytes: usize },
}

/// An input that fails a target.
#[derive(Debug)]
pub(crate) struct Finding {
    target: &'static str,
    seed: u64,
    iteration: u64,
    input: Vec<u8>,
    failure: TargetError,
}

impl Finding {
    pub(crate) fn new(
        target: &Target,
        seed: u64,
        iteration: u64,
        input: &[u8],
        failure: TargetError,
    ) -> Self {
        Self { target: target.name, seed, iteration, input: input.to_vec(), failure }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, seed, iteration, input, failure } = self;
        match failure {
            TargetError::Panic => writeln!(f, "{target} panicked")?,
            TargetError::Memory { peak_bytes, limit_bytes } => {
                writeln!(f, "{target} held {peak_bytes} bytes, {limit_bytes} are allowed")?;
            }
        }
        writeln!(f, "seed {seed}, iteration {iteration}, input of {} bytes:", input.len())?;
        write!(f, "--target {target} --input {}", hex::encode(input))
    }
}

/// Runs one input.
pub(crate) fn check(target: &Target, input: &[u8]) -> Result<(), TargetError> {
    let (outcome, peak_bytes) =
        peak_bytes(|| catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    let limit_bytes = MEMORY_FLOOR_BYTES + target.memory_factor * input.len();
    match outcome {
        Err(_) => Err(TargetError::Panic), // the hook has printed where and why
        Ok(()) if peak_bytes > limit_bytes => Err(TargetError::Memory { peak_bytes, limit_bytes }),
        Ok(()) => Ok(()),
    }
}

/// Runs the target on its unchanged vectors and then on mutated ones, while `go_on(iteration)`. Returns the number of
/// inputs.
pub(crate) fn run(
    target: &Target,
    seed: u64,
    mut go_on: impl FnMut(u64) -> bool,
) -> Result<u64, Finding> {
    let vectors = (target.seeds)();
    let mut mutator = Mutator::new(seed, &vectors);
    let mutated = std::iter::from_fn(|| Some(mutator.input()));
    let inputs = vectors.iter().cloned().chain(mutated);
    let mut executions = 0;
    for (iteration, input) in (0..).zip(inputs) {
        if !go_on(iteration) {
            break;
        }
        check(target, &input)
            .map_err(|failure| Finding::new(target, seed, iteration, &input, failure))?;
        executions += 1;
    }
    Ok(executions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(run: fn(&[u8])) -> Target {
        Target { name: "test", run, seeds: || vec![vec![1, 2, 3]; 3], memory_factor: 32 }
    }

    #[test]
    fn a_panic_is_found_and_its_input_told() {
        let fragile = target(|input| assert!(input.len() < 5, "too long"));
        let finding = run(&fragile, 3, |iteration| iteration < 10_000).expect_err("a panic");
        assert_eq!(finding.failure, TargetError::Panic);
        assert!(finding.input.len() >= 5);
        assert!(finding.to_string().ends_with(&hex::encode(&finding.input)), "{finding}");
        assert_eq!(check(&fragile, &finding.input), Err(TargetError::Panic));
    }

    #[test]
    fn memory_beyond_the_input_is_found() {
        let greedy = target(|input| {
            let claimed = input.first().map_or(0, |first| usize::from(*first) * 1024);
            std::hint::black_box(vec![1u8; claimed]);
        });
        assert_eq!(check(&greedy, &[10, 1]), Ok(()));
        let limit_bytes = MEMORY_FLOOR_BYTES + 64;
        let failure = TargetError::Memory { peak_bytes: 65 * 1024, limit_bytes };
        assert_eq!(check(&greedy, &[65, 1]), Err(failure));
    }

    #[test]
    fn a_run_counts_its_vectors_too() {
        assert_eq!(run(&target(|_| ()), 1, |iteration| iteration < 3).ok(), Some(3));
        assert_eq!(run(&target(|_| ()), 1, |_| false).ok(), Some(0));
    }
}
