//! Wall clocks of nodes that run ahead of the machine's, or behind it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::binary::syncspy;

/// As in `hawser-syncspy`.
const CLOCK_VARIABLE: &str = "HAWSER_SYNCSPY_CLOCK";

/// The wall clock of a process. The machine's clock and the process's monotonic clock are not changed, as when an
/// operator sets the time.
#[derive(Debug, Clone)]
pub struct WallClock {
    path: PathBuf,
}

impl WallClock {
    /// Creates a clock that shows the machine's time. `path` is the file that its processes read.
    ///
    /// # Panics
    /// Panics if the file cannot be written.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        fs::write(&path, 0_i64.to_le_bytes()).unwrap();
        Self { path }
    }

    /// Makes a process that is about to start use this clock.
    pub fn arm(&self, command: &mut Command) {
        command.env("LD_PRELOAD", syncspy()).env(CLOCK_VARIABLE, &self.path);
    }

    /// Sets the clock ahead of the machine's by `lead`.
    pub fn set_ahead(&self, lead: Duration) {
        self.set(i64::try_from(lead.as_nanos()).unwrap());
    }

    /// Sets the clock behind the machine's by `lag`.
    pub fn set_behind(&self, lag: Duration) {
        self.set(-i64::try_from(lag.as_nanos()).unwrap());
    }

    /// Sets the clock to the machine's time.
    pub fn set_right(&self) {
        self.set(0);
    }

    /// Writes the offset in place, because running processes have mapped the file.
    fn set(&self, lead_ns: i64) {
        let file = OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(&lead_ns.to_le_bytes(), 0).unwrap();
    }
}
