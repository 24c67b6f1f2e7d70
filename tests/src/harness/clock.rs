//! Wall clocks of nodes that run ahead of the machine's, or behind it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::binary::syncspy;

/// As in `hawser-syncspy`.
const CLOCK_VARIABLE: &str = "HAWSER_SYNCSPY_CLOCK";

/// The wall clock of a process. The machine's own stays as it is, and so does the process's monotonic clock, as when
/// an operator sets the time.
#[derive(Debug, Clone)]
pub struct WallClock {
    path: PathBuf,
}

impl WallClock {
    /// A clock that shows the machine's time. `path` is the file that its processes read.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        fs::write(&path, 0_i64.to_le_bytes()).unwrap();
        Self { path }
    }

    /// Has a process that is about to be started read this clock.
    pub fn arm(&self, command: &mut Command) {
        command.env("LD_PRELOAD", syncspy()).env(CLOCK_VARIABLE, &self.path);
    }

    /// Moves it so far ahead of the machine's clock.
    pub fn set_ahead(&self, lead: Duration) {
        self.set(i64::try_from(lead.as_nanos()).unwrap());
    }

    /// Moves it so far behind the machine's clock.
    pub fn set_behind(&self, lag: Duration) {
        self.set(-i64::try_from(lag.as_nanos()).unwrap());
    }

    /// Sets it right.
    pub fn set_right(&self) {
        self.set(0);
    }

    /// Running processes have mapped the file, so its bytes are written in their place.
    fn set(&self, lead_ns: i64) {
        let file = OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(&lead_ns.to_le_bytes(), 0).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without this the stories about clocks would prove nothing.
    #[test]
    fn a_process_sees_the_clock_that_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let clock = WallClock::new(folder.path().join("clock"));
        let year = || -> i32 {
            let mut command = Command::new("date");
            command.args(["--utc", "+%Y"]);
            clock.arm(&mut command);
            String::from_utf8(command.output().unwrap().stdout).unwrap().trim().parse().unwrap()
        };
        let decades = Duration::from_secs(40 * 366 * 24 * 3600);
        let now = year();
        clock.set_ahead(decades);
        assert!(year() >= now + 40);
        clock.set_behind(decades);
        assert!(year() <= now - 39);
        clock.set_right();
        assert!(year() <= now + 1);
    }
}
