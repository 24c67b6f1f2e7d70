//! The times of the chains' places, by which dependencies are judged.

use hawser_proto::sign::keccak256;

use crate::replay::dependencies::TimesOfChains;

/// Minutes of a chain's strand that the verdict on one range has. A guess: a year, in 10 MiB.
pub(super) const MINUTES_OF_RANGE_MAX: usize = 500_000;

/// The times of the places of all chains in a log. By default they are not known, and dependencies are not judged.
#[derive(Debug, Clone, Default)]
pub struct ChainsOfLog {
    pub(super) times: TimesOfChains,
    /// The digest of these times, hex; `None` if they are not known.
    pub(super) digest: Option<String>,
}

impl ChainsOfLog {
    /// Takes the times of the chains that have places.
    pub(super) fn new(times: TimesOfChains) -> Self {
        let mut bytes = Vec::new();
        for (chain, of_chain) in &times {
            bytes.extend_from_slice(&chain.0.to_be_bytes());
            bytes.extend_from_slice(&(of_chain.len() as u64).to_be_bytes());
            bytes.extend_from_slice(&of_chain.to_bytes());
        }
        let digest = Some(hex::encode(keccak256(&[&bytes]).0));
        Self { times, digest }
    }
}
