//! Child processes that end with their owner.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::process;

/// Time after which a process that was asked to end is killed.
const STOP_MAX: Duration = Duration::from_secs(40);

/// A child process that is killed and reaped on drop. Its standard input is a pipe from this program, so that it
/// notices the end of this program even without a drop.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self, BenchError> {
        match command.stdin(Stdio::piped()).spawn() {
            Ok(child) => Ok(Self(child)),
            Err(error) => {
                let program = command.get_program().to_string_lossy();
                Err(format!("cannot start {program}: {error}").into())
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Returns true once the process has ended by itself.
    pub(crate) fn poll_end(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Closes its input, which asks it to shut down, and waits for it. Blocks.
    pub(crate) fn stop(mut self) {
        drop(self.0.stdin.take());
        let until = Instant::now() + STOP_MAX;
        while !self.poll_end() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill(); // fails only when it has ended already
        let _ = self.0.wait();
    }
}

/// The time that a command took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommandTime {
    pub(crate) elapsed: Duration,
    /// User and system time, with a resolution of 10 ms.
    pub(crate) cpu: Duration,
}

/// Runs a command to its end.
///
/// # Errors
/// Returns an error if the program fails, with its error output.
pub(crate) fn to_its_end(command: &mut Command) -> Result<CommandTime, BenchError> {
    Ok(answer(command)?.0)
}

/// Runs a command to its end and returns its output too.
///
/// # Errors
/// The errors of [`to_its_end`].
pub(crate) fn answer(command: &mut Command) -> Result<(CommandTime, Vec<u8>), BenchError> {
    let cpu = process::children_cpu_time()?;
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let elapsed = start.elapsed();
    if !output.status.success() {
        let printed = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy);
        return Err(format!("{command:?}: {}\n{}{}", output.status, printed[0], printed[1]).into());
    }
    let cpu = process::children_cpu_time()?.saturating_sub(cpu);
    Ok((CommandTime { elapsed, cpu }, output.stdout))
}

/// A process of this program that answers without any work (see [`crate::idle_server`]), or only drops what comes (see
/// [`crate::sink`]).
pub(crate) struct IdleServer {
    process: Process,
    address: SocketAddr,
}

impl IdleServer {
    pub(crate) fn start(answer_len: usize) -> Result<Self, BenchError> {
        Self::run(&["idle-server", "--answer-len", &answer_len.to_string()])
    }

    /// Starts one that only drops what comes.
    pub(crate) fn sink() -> Result<Self, BenchError> {
        Self::run(&["sink"])
    }

    fn run(arguments: &[&str]) -> Result<Self, BenchError> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        let mut process = Process::start(command.stdout(Stdio::piped()))?;
        let stdout = process.0.stdout.take().expect("stdout was asked for as a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self { process, address: line.trim().parse()? })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}
