//! Runs the `hawser` binary and observes it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod chains;
pub mod fake_node;
pub mod log_folder;
#[path = "../../../tests/src/harness/ports.rs"]
mod ports;
#[path = "../../../tests/src/harness/recorded_session.rs"]
mod recorded_session;
pub mod runbooks;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

// `ports` needs it, whose file the search for unused dependencies does not see.
use rand as _;
use serde_json::Value;

/// The time after which a wait fails. No test measures a time with it.
pub const WAIT_MAX: Duration = Duration::from_secs(60 * 3);

/// The envelopes of a recorded session of clients.
pub const VECTORS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");

/// Returns a file with the envelopes of the recorded session as nodes accept them at any time.
pub fn session_file() -> &'static str {
    static FILE: LazyLock<String> = LazyLock::new(|| {
        let lines =
            recorded_session::without_key_packages(&std::fs::read_to_string(VECTORS).unwrap());
        let file = format!("{}/session.jsonl", env!("CARGO_TARGET_TMPDIR"));
        // Renamed, because other processes of tests read and write the same file.
        let written = format!("{file}.{}", std::process::id());
        std::fs::write(&written, lines).unwrap();
        std::fs::rename(&written, &file).unwrap();
        file
    });
    &FILE
}

/// The binary, with no settings from outside.
pub fn hawser() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        let is_setting = text.starts_with("XMTPD_") || text.starts_with("HAWSER_");
        if is_setting && text != "HAWSER_ANVIL" {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command to its end.
pub fn run(args: &[&str]) -> Output {
    hawser().args(args).stdin(Stdio::null()).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command that succeeds and prints one JSON value.
pub fn json(args: &[&str]) -> Value {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}{}", stdout(&output), stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the payer reports about an originator, as the node with these metrics sees them.
pub fn reports(metrics: &str, about: u32) -> Vec<Value> {
    let output = run(&["report", "list", "--json", "--metrics", metrics]);
    let lines = stdout(&output);
    let reports = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    reports.filter(|report| report["originator_id"] == about).collect()
}

/// Returns a port that is free together with those that `hawser dev` assigns from it for `nodes` nodes; with 0, one
/// free port. No other process of tests gets them.
pub fn free_base(nodes: u16) -> u16 {
    match nodes {
        0 => ports::free(),
        nodes => ports::dev_base(nodes),
    }
}

/// Waits until something is so.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads a page of a node's operator port.
pub fn page(address: &str, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Sends a signal by the name that `kill` knows.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// A process whose output is read line by line. Killed when dropped.
pub struct Running {
    process: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    /// Starts a command; `from_stderr`: reads that instead of the standard output.
    pub fn start(mut command: Command, from_stderr: bool) -> Self {
        command.stdin(Stdio::null());
        if from_stderr {
            command.stdout(Stdio::null()).stderr(Stdio::piped());
        } else {
            command.stdout(Stdio::piped());
        }
        let mut process = command.spawn().unwrap();
        let output: Box<dyn std::io::Read + Send> = if from_stderr {
            Box::new(process.stderr.take().unwrap())
        } else {
            Box::new(process.stdout.take().unwrap())
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, lines, seen: Vec::new() }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns the next line that satisfies `wanted`; skips earlier lines.
    pub fn line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(error) => panic!("no {what} ({error}); it said:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// The next event of this name, of `hawser dev --json`.
    pub fn event(&mut self, name: &str) -> Value {
        let is = |line: &str| {
            serde_json::from_str::<Value>(line).is_ok_and(|value| value["event"] == name)
        };
        serde_json::from_str(&self.line(name, is)).unwrap()
    }

    /// Waits for its end.
    pub fn end(mut self) -> ExitStatus {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            let printed = || {
                let rest: Vec<_> = self.seen.iter().cloned().chain(self.lines.try_iter()).collect();
                rest.join("\n")
            };
            assert!(Instant::now() < deadline, "it does not end; it said:\n{}", printed());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A development network in a folder.
pub struct Dev {
    pub running: Running,
    pub network: Value,
}

impl Dev {
    /// Starts it and waits until it reports that it is ready.
    pub fn start(folder: &Path, base: u16, more: &[&str]) -> Self {
        let mut command = hawser();
        command.args(["dev", "--json", "--data-dir"]).arg(folder);
        command.args(["--base-port", &base.to_string()]).args(more);
        let mut running = Running::start(command, false);
        let network = running.event("ready")["network"].clone();
        Self { running, network }
    }

    /// Ends it as Ctrl-C does.
    pub fn stop(self) -> ExitStatus {
        signal(self.running.pid(), "INT");
        self.running.end()
    }

    pub fn text(&self, node: usize, field: &str) -> String {
        self.network["nodes"][node][field].as_str().unwrap().to_owned()
    }

    pub fn pid(&self, node: usize) -> u32 {
        u32::try_from(self.network["nodes"][node]["pid"].as_u64().unwrap()).unwrap()
    }

    pub fn payer_key(&self) -> PathBuf {
        self.network["payer_key_file"].as_str().unwrap().into()
    }

    /// Publishes a file at a node.
    pub fn publish(&self, node: usize, file: &str) -> Value {
        let (address, key) = (self.text(node, "grpc"), self.payer_key());
        let key = key.to_str().unwrap();
        json(&["publish", "--json", "--node", &address, "--payer-key-file", key, "--file", file])
    }

    /// The first `count` envelopes of an originator that a node gives, as hex, in order.
    pub fn strand(&self, node: usize, originator: &str, count: u64) -> Vec<Value> {
        let address = self.text(node, "grpc");
        let mut command = hawser();
        command.args(["tail", "--json", "--node", &address, "--originator", originator]);
        command.args(["--from", "start", "--limit", &count.to_string()]);
        let mut running = Running::start(command, false);
        let envelopes = (0..count)
            .map(|_| serde_json::from_str(&running.line("envelope", |_| true)).unwrap())
            .collect();
        assert!(running.end().success());
        envelopes
    }
}
