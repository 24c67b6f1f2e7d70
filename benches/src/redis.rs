//! A Redis for gateways under measurement, and what it counts.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::child::Process;
use crate::error::BenchError;
use crate::network::free_address;

/// Upper bound on the time until a new server answers.
const START_MAX: Duration = Duration::from_secs(20);
/// The longest report that is read. A guess: a hundred times that of a server of today.
const REPORT_LEN_MAX: usize = 1 << 20;

/// A Redis that the gateways share.
pub(crate) struct Redis {
    url: String,
    /// The address at which it answers without a password.
    address: Option<SocketAddr>,
    /// A server of this run, with its folder. It ends with this value.
    _own: Option<(Process, TempDir)>,
}

/// The counts of a Redis since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct RedisCounts {
    /// Calls of scripts.
    pub(crate) calls: u64,
    /// User and system time.
    pub(crate) cpu: Duration,
}

impl Redis {
    /// Takes the Redis at this URL, or starts one that keeps nothing on disk.
    pub(crate) async fn new(url: Option<&str>) -> Result<Self, BenchError> {
        let Some(url) = url else { return Self::start().await };
        let rest = url.strip_prefix("redis://").unwrap_or_default();
        let host = rest.split('/').next().unwrap_or_default();
        let address = (!host.contains('@')).then(|| host.to_socket_addrs().ok()?.next()).flatten();
        Ok(Self { url: url.to_owned(), address, _own: None })
    }

    async fn start() -> Result<Self, BenchError> {
        let (address, folder) = (free_address()?, TempDir::new()?);
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        command.arg(folder.path()).args(["--port", &address.port().to_string()]);
        command.stdout(Stdio::null());
        let mut process = Process::start(&mut command).map_err(|error| {
            format!("{error}: scripts/redis installs it, or name one by --redis")
        })?;
        let until = Instant::now() + START_MAX;
        while report(address, "server").await.is_err() {
            if process.poll_end() || Instant::now() > until {
                return Err("redis-server does not start".into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        let url = format!("redis://{address}/0");
        Ok(Self { url, address: Some(address), _own: Some((process, folder)) })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns its present counts; `None` if it needs a password.
    pub(crate) async fn counts(&self) -> Option<RedisCounts> {
        let address = self.address?;
        let commands = report(address, "commandstats").await.ok()?;
        let cpu = report(address, "cpu").await.ok()?;
        Some(RedisCounts { calls: script_calls(&commands), cpu: cpu_time(&cpu) })
    }
}

impl RedisCounts {
    pub(crate) fn since(self, before: Self) -> Self {
        let calls = self.calls.saturating_sub(before.calls);
        Self { calls, cpu: self.cpu.saturating_sub(before.cpu) }
    }
}

/// Asks for a section of the server's report.
async fn report(address: SocketAddr, section: &str) -> Result<String, BenchError> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.write_all(format!("INFO {section}\r\n").as_bytes()).await?;
    let mut head = String::new();
    stream.read_line(&mut head).await?;
    let len = head.trim_end().strip_prefix('$').ok_or_else(|| format!("Redis: {head}"))?;
    let len = len.parse::<usize>()?.min(REPORT_LEN_MAX);
    let mut text = vec![0; len];
    stream.read_exact(&mut text).await?;
    Ok(String::from_utf8(text)?)
}

/// Sums the calls of scripts, by text and by digest.
fn script_calls(report: &str) -> u64 {
    let calls = report.lines().filter_map(|line| {
        let (name, counts) = line.split_once(":calls=")?;
        matches!(name, "cmdstat_eval" | "cmdstat_evalsha").then_some(())?;
        counts.split(',').next()?.parse::<u64>().ok()
    });
    calls.sum()
}

fn cpu_time(report: &str) -> Duration {
    let seconds = report.lines().filter_map(|line| {
        let (name, seconds) = line.trim_end().split_once(':')?;
        matches!(name, "used_cpu_sys" | "used_cpu_user").then(|| seconds.parse::<f64>().ok())?
    });
    Duration::try_from_secs_f64(seconds.sum()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_scripts_and_both_times_are_summed() {
        let commands = "# Commandstats\r\ncmdstat_evalsha:calls=30,usec=5,usec_per_call=0.1\r\n\
            cmdstat_eval:calls=2,usec=5\r\ncmdstat_script|load:calls=9,usec=5\r\n";
        assert_eq!(script_calls(commands), 32);
        let cpu = "# CPU\r\nused_cpu_sys:1.250000\r\nused_cpu_user:0.5\r\n\
            used_cpu_sys_children:9.0\r\n";
        assert_eq!(cpu_time(cpu), Duration::from_millis(1750));
    }
}
