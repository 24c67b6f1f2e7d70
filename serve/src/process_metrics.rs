//! Metrics of the process, under the names that Prometheus's client libraries give them.

use std::{fmt, fs};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::metrics::Exposition;

/// The unit of times in `/proc/PID/stat`: on Linux always a hundredth of a second for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads time, memory and files of this process at each scrape. A value that the system does not show has no sample.
#[derive(Debug, Clone, Copy)]
pub struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition::new(encoder);
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let (stat, status) = (read("/proc/self/stat"), read("/proc/self/status"));
        out.fraction_counter(
            "process_cpu_seconds",
            "Processor time of this process, of user and system, seconds",
            cpu_seconds(&stat),
        )?;
        out.gauge(
            "process_resident_memory_bytes",
            "Memory of this process that lies in RAM, bytes",
            bytes_of(&status, "VmRSS:"),
        )?;
        out.gauge(
            "process_virtual_memory_bytes",
            "Address space of this process, bytes",
            bytes_of(&status, "VmSize:"),
        )?;
        out.gauge(
            "process_open_fds",
            "File descriptors that this process has open, connections included",
            open_files(),
        )?;
        out.gauge(
            "process_max_fds",
            "The most file descriptors that this process may have open",
            files_max(&read("/proc/self/limits")),
        )?;
        out.gauge(
            "process_start_time_seconds",
            "Start of this process by the system's clock, unix seconds",
            start_seconds(&stat, &read("/proc/stat")),
        )
    }
}

/// Returns a field of `/proc/PID/stat`, counted from 0 behind the name, which may contain spaces and brackets.
fn ticks(stat: &str, field: usize) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(field)?.parse().ok()
}

/// Returns the time in user mode and in system mode together.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let sum = ticks(stat, 11)?.checked_add(ticks(stat, 12)?)?;
    Some(sum as f64 / TICKS_PER_SECOND)
}

/// Returns the start of the process: its time since the start of the system, which `/proc/stat` has.
fn start_seconds(stat: &str, of_system: &str) -> Option<f64> {
    let since_boot = ticks(stat, 19)? as f64 / TICKS_PER_SECOND;
    let boot: u64 = of_system.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    Some(boot as f64 + since_boot)
}

/// Returns a size that `/proc/PID/status` states in units of 1024 bytes.
fn bytes_of(status: &str, name: &str) -> Option<u64> {
    let size = status.lines().find_map(|line| line.strip_prefix(name))?;
    size.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the lower one of the two limits of open files, which is the one in force; `None` if there is none.
fn files_max(limits: &str) -> Option<u64> {
    let limits = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    limits.split_whitespace().next()?.parse().ok()
}

/// Returns the number of open files.
fn open_files() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    // Since Linux 6.2 it is the length of the folder, so that no entry has to be read.
    let len = fs::metadata(FOLDER).ok()?.len();
    if len > 0 {
        return Some(len);
    }
    // One of the entries is the folder that is being read.
    let entries = fs::read_dir(FOLDER).ok()?.count();
    u64::try_from(entries.saturating_sub(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::MetricsPage;

    #[test]
    fn times_are_read_behind_any_name() {
        let fields: Vec<String> = (3..=52).map(|field: u64| (field * 100).to_string()).collect();
        for name in ["hawser", "a b", "a) S 1 (b", ""] {
            let stat = format!("17 ({name}) {}\n", fields.join(" "));
            // Fields 14 and 15, and field 22.
            assert_eq!(cpu_seconds(&stat), Some(29.0), "{name}");
            assert_eq!(start_seconds(&stat, "cpu 1 2\nbtime 1000\n"), Some(1022.0), "{name}");
            assert_eq!(start_seconds(&stat, "cpu 1 2\n"), None, "{name}");
        }
        for broken in ["", "17 (a", "17 (a) S 1 2", "17 (a) x x x x x x x x x x x x x"] {
            assert_eq!(cpu_seconds(broken), None, "{broken}");
        }
    }

    #[test]
    fn sizes_and_limits_are_read() {
        let status = "Name:\tVmRSS: 7 kB\nVmSize:\t   20 kB\nVmRSS:\t    3 kB\n";
        assert_eq!(bytes_of(status, "VmRSS:"), Some(3 * 1024));
        assert_eq!(bytes_of(status, "VmSize:"), Some(20 * 1024));
        assert_eq!(bytes_of("VmRSS:\t3 MB\n", "VmRSS:"), None);
        let limits = "Limit  Soft  Hard  Units\nMax open files  1024  4096  files\n";
        assert_eq!(files_max(limits), Some(1024));
        assert_eq!(files_max("Max open files  unlimited  unlimited  files\n"), None);
    }

    #[test]
    fn this_process_shows_its_own_values() {
        let page = MetricsPage::new([Box::new(ProcessMetrics) as Box<dyn Collector>]).render();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
        ] {
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let value: f64 = line.unwrap_or_else(|| panic!("{name}\n{page}")).parse().unwrap();
            assert!(value > 0.0 || name == "process_cpu_seconds_total", "{name} {value}");
        }
    }
}
