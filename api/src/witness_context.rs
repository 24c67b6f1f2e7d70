//! The parts of a witness that its calls need.

use hawser_engine::runtime::replication::Replication;
use hawser_proto::checkpoint::WitnessKey;

/// The parts of a witness that its calls need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WitnessContext {
    /// Receives the checkpoints that logs submit.
    pub replication: Replication,
    /// The witness's signing key.
    pub key: WitnessKey,
}
