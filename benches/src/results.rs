//! Result files of a run: figures, and the limits of the machine that they were measured on.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::limits::Limits;
use crate::process::{self, Machine};
use crate::scenario::catch_up::CaughtUp;
use crate::scenario::delivery::Delivered;
use crate::scenario::fill::Grown;
use crate::scenario::memory::Resident;
use crate::scenario::publish::Published;
use crate::scenario::query::Queried;
use crate::scenario::sizes::Size;

/// One run of this program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    /// Time at which the run ended.
    pub(crate) unix_s: u64,
    /// The arguments it was started with.
    pub(crate) command: String,
    pub(crate) limits: Option<Limits>,
    #[serde(default)]
    pub(crate) publish: Vec<Published>,
    /// One client, one envelope at a time.
    pub(crate) latency: Option<Published>,
    pub(crate) delivery: Option<Delivered>,
    pub(crate) catch_up: Option<CaughtUp>,
    /// The catch-up of a follower with `--catch-up checkpoints`.
    #[serde(default)]
    pub(crate) catch_up_shown: Option<CaughtUp>,
    /// The node that pages and memory were measured on, while it was filled.
    #[serde(default)]
    pub(crate) grown: Option<Grown>,
    pub(crate) query: Option<Queried>,
    pub(crate) memory: Option<Resident>,
    /// Nodes of several sizes, or several nodes of one size.
    #[serde(default)]
    pub(crate) sizes: Vec<Size>,
}

impl Run {
    /// A run in which nothing has been measured yet.
    pub(crate) fn new(data_dir: &Path) -> Self {
        let arguments: Vec<_> = std::env::args().skip(1).collect();
        Self {
            commit: process::commit(),
            machine: process::machine(data_dir),
            unix_s: 0,
            command: format!("hawser-bench {}", arguments.join(" ")),
            limits: None,
            publish: Vec::new(),
            latency: None,
            delivery: None,
            catch_up: None,
            catch_up_shown: None,
            grown: None,
            query: None,
            memory: None,
            sizes: Vec::new(),
        }
    }

    /// Prints the run as JSON, or writes it to `out`.
    pub(crate) fn save(mut self, out: Option<&Path>) -> Result<(), BenchError> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.unix_s = since_1970.as_secs();
        let json = serde_json::to_string_pretty(&self)? + "\n";
        match out {
            None => print!("{json}"),
            Some(out) => {
                if let Some(folder) = out.parent() {
                    fs::create_dir_all(folder)?;
                }
                fs::write(out, json)?;
            }
        }
        Ok(())
    }

    /// Reads a file that [`Run::save`] has written.
    pub(crate) fn load(path: &Path) -> Result<Self, BenchError> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()).into())
    }
}
