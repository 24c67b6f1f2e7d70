//! Disks that fail temporarily, or are small.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::binary::syncspy;

/// The same name as in `hawser-syncspy`. If they differed no fault would occur, and the tests that wait for one would
/// fail.
const FAULTS_VARIABLE: &str = "HAWSER_SYNCSPY_FAULTS";

/// An operation that fails with EIO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Syncs of files.
    Sync,
    /// Reads at a place of a file.
    Read,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Read => "read",
        }
    }
}

/// Switches faults of a node's disk on and off while it runs.
#[derive(Debug, Clone)]
pub struct DiskFaults {
    folder: PathBuf,
}

impl DiskFaults {
    /// Makes the folder of the switches.
    ///
    /// # Panics
    /// Panics if the folder cannot be made.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        Self { folder }
    }

    /// Makes a process that is about to start obey the switches.
    pub fn arm(&self, command: &mut Command) {
        command.env("LD_PRELOAD", syncspy()).env(FAULTS_VARIABLE, &self.folder);
    }

    /// Makes an operation fail from now on.
    ///
    /// # Panics
    /// Panics if the switch cannot be written.
    pub fn begin(&self, operation: Operation) {
        fs::write(self.folder.join(operation.name()), "").unwrap();
    }

    /// Makes an operation succeed again.
    ///
    /// # Panics
    /// Panics if the operation was not set to fail.
    pub fn end(&self, operation: Operation) {
        fs::remove_file(self.folder.join(operation.name())).unwrap();
    }
}

/// A separate file system in memory. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Creates the folder and mounts a file system of `mib` MiB on it. Any user may within
    /// [namespaces](super::namespaces::run).
    ///
    /// # Panics
    /// Panics if the folder cannot be made, or nothing can be mounted on it.
    #[must_use]
    pub fn mount(path: &Path, mib: u32) -> Self {
        fs::create_dir_all(path).unwrap();
        let size = format!("size={mib}m,mode=0700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path)).unwrap();
        Self { path: path.to_owned() }
    }

    /// Fills the file system except for `left_mib` MiB.
    ///
    /// # Panics
    /// Panics if the file system cannot be filled.
    pub fn fill_but(&self, left_mib: u64) {
        let file = fs::File::create(self.path.join("ballast")).unwrap();
        let free = free_bytes(&self.path).saturating_sub(left_mib << 20);
        run(Command::new("fallocate")
            .args(["--length", &free.to_string()])
            .arg(self.path.join("ballast")))
        .unwrap();
        drop(file);
    }

    /// Removes the filling.
    ///
    /// # Panics
    /// Panics if the file system was not filled.
    pub fn clear(&self) {
        fs::remove_file(self.path.join("ballast")).unwrap();
    }

    /// Allows writes, or forbids them.
    ///
    /// # Panics
    /// Panics if the file system cannot be mounted again.
    pub fn allow_writes(&self, allowed: bool) {
        let mode = if allowed { "remount,rw" } else { "remount,ro" };
        run(Command::new("mount").args(["-o", mode]).arg(&self.path)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a node that a failed test left running may still use it.
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.path)) {
            eprintln!("{} stays mounted: {error}", self.path.display());
        }
    }
}

fn free_bytes(path: &Path) -> u64 {
    let output = Command::new("df").args(["-B1", "--output=avail"]).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().nth(1).unwrap().trim().parse().unwrap()
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
