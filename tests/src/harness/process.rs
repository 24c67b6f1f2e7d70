//! One running process, which does not outlive the test.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use super::wait::{POLL_EVERY, WAIT_MAX};

/// Bytes from the end of its output that a failing test shows.
const TAIL_BYTES: usize = 6_000;

/// A child process whose output goes to a file. Killed when dropped; if that happens because the
/// test fails, the end of the output is shown.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    output: PathBuf,
}

impl Process {
    /// Starts `command`; its output is appended to `output`.
    ///
    /// # Panics
    /// Panics if the process cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command, output: &Path) -> Self {
        let file = append(output);
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}: {command:?}"));
        Self { child, name: name.into(), output: output.into() }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process, as a crash does, and waits until the system has reaped it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the process to end and waits until it has.
    ///
    /// # Panics
    /// Panics if the process does not end in time.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        let deadline = Instant::now() + WAIT_MAX;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(POLL_EVERY);
        }
        panic!("{} does not end after SIGTERM", self.name);
    }

    /// Suspends the process (SIGSTOP), until [`Process::thaw`].
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Resumes the process.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Returns its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Returns the output so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Returns the peak resident memory in bytes.
    ///
    /// # Panics
    /// Panics if the process has ended.
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    #[expect(unsafe_code, reason = "the standard library knows one signal only")]
    fn signal(&self, signal: libc::c_int) {
        let id = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: takes two numbers. The child is not waited for yet, so its id is still its own.
        let result = unsafe { libc::kill(id, signal) };
        assert_eq!(result, 0, "signal {signal} to {}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended, or been waited for, already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let output = self.output();
            let tail = output.len().saturating_sub(TAIL_BYTES);
            let tail = (tail..output.len()).find(|&at| output.is_char_boundary(at)).unwrap_or(0);
            println!("--- the last that {} said:\n{}---", self.name, &output[tail..]);
        }
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}
