//! The serialised form of a strand's load in a state file.

use hawser_rules::misbehavior::{LOAD_MINUTES, StrandLoad};
use serde::{Deserialize, Serialize};

/// The form of a [`StrandLoad`] in a state file. Every value is valid.
#[derive(Serialize, Deserialize)]
#[serde(remote = "StrandLoad")]
pub(super) struct StoredLoad {
    counts: [(u32, u64); LOAD_MINUTES],
    since_ns: i64,
}
