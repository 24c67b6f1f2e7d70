//! The parts of a witness that its calls need.

use hawser_engine::runtime::replication::Replication;
use hawser_proto::checkpoint::WitnessKey;

/// The parts of a witness that its calls need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WitnessContext {
    /// Takes the checkpoints that logs show.
    pub replication: Replication,
    /// The key that the witness signs with.
    pub key: WitnessKey,
}
