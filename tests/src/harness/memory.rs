//! The memory of a process, watched while a test attacks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Interval between two measurements.
const EVERY: Duration = Duration::from_millis(5);

/// Returns the resident memory of a process, in bytes; `None` when it has ended.
#[must_use]
pub fn resident_bytes(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// A thread that measures a process periodically. It kills a process far above its limit, so that a failing test does
/// not exhaust the memory of the machine.
#[derive(Debug)]
pub struct MemoryWatch {
    most_bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    /// Starts to watch a process, until the result is dropped.
    #[must_use]
    pub fn start(process: u32, killed_from_bytes: u64) -> Self {
        let (most_bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (most, stopped) = (most_bytes.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed)
                && let Some(bytes) = resident_bytes(process)
            {
                most.fetch_max(bytes, Ordering::Relaxed);
                if bytes >= killed_from_bytes {
                    kill(process);
                    return;
                }
                std::thread::sleep(EVERY);
            }
        });
        Self { most_bytes, stop, thread: Some(thread) }
    }

    /// Returns the highest measured value in bytes.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        self.most_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it does not panic
        }
    }
}

#[expect(unsafe_code, reason = "the standard library kills only through the handle of the child")]
fn kill(process: u32) {
    if let Ok(process) = libc::pid_t::try_from(process) {
        // SAFETY: takes two numbers. The child is not waited for before its handle is dropped, so its
        // id is still its own.
        unsafe { libc::kill(process, libc::SIGKILL) };
    }
}
