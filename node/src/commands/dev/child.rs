//! A process of the network: how it is started, what it says, and how it ends.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncSeekExt as _, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::folder::Folder;
use super::ports::{ChainPorts, Ports};

/// A process that does not end within this time is killed.
const STOP_MAX: Duration = Duration::from_secs(35);
/// How often somebody looks whether a log has grown.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Lines of its log that are shown when a process does not start.
const LAST_LINES: usize = 20;

/// Which process of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// The one that runs both chains.
    Chains,
    /// The node of this id.
    Node(u32),
}

impl Who {
    /// The node's id, if it is a node.
    pub(super) fn node_id(self) -> Option<u32> {
        match self {
            Self::Chains => None,
            Self::Node(node_id) => Some(node_id),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chains => f.write_str("chains"),
            Self::Node(node_id) => write!(f, "node {node_id}"),
        }
    }
}

/// What a process is started with.
#[derive(Debug, Clone)]
pub(super) struct CommandLine {
    program: PathBuf,
    args: Vec<String>,
}

/// Something that happened to a process.
#[derive(Debug)]
pub(super) enum Event {
    /// A line of its log that a person should see.
    Said { who: Who, line: String },
    /// Its process has ended.
    Ended { who: Who, status: io::Result<ExitStatus> },
}

/// What the processes are told, all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Run,
    Stop,
    Kill,
}

/// A running process. It is killed when the program ends without stopping it.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) who: Who,
    pub(super) pid: u32,
    pub(super) command: CommandLine,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

impl CommandLine {
    /// `hawser node …` for one node of the network.
    pub(super) fn new(
        program: &Path,
        folder: &Folder,
        ports: Ports,
        chain_file: Option<&Path>,
    ) -> Self {
        let node = folder.node(ports.node_id);
        let path = |path: &Path| path.display().to_string();
        let mut args = vec!["node".to_owned()];
        let mut add = |flag: &str, value: String| args.extend([format!("--{flag}"), value]);
        add("network", "hawser-dev".into());
        add("data-dir", path(&node.data_dir));
        add("signer.private-key-file", path(&node.key_file));
        add("registry-file", path(&folder.registry()));
        add("rates-file", path(&folder.rates()));
        if let Some(chain_file) = chain_file {
            add("chain-file", path(chain_file));
        }
        add("listen-address", ports.api().ip().to_string());
        add("api.port", ports.api().port().to_string());
        add("metrics.metrics-address", ports.metrics().ip().to_string());
        add("metrics.metrics-port", ports.metrics().port().to_string());
        // Nothing balances load here, so nobody has to notice that a node stops.
        add("shutdown-drain", "0s".into());
        Self { program: program.to_owned(), args }
    }

    /// `hawser chain dev …` for the chains of the network.
    pub(super) fn of_chains(program: &Path, folder: &Folder, ports: ChainPorts) -> Self {
        let path = |path: PathBuf| path.display().to_string();
        let flags = [
            ("--base-port", ports.base().to_string()),
            ("--data-dir", path(folder.chains())),
            ("--chain-json", path(folder.chain_json())),
            ("--register-nodes", path(folder.registry())),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let args = ["chain", "dev"].map(str::to_owned).into_iter().chain(flags).collect();
        Self { program: program.to_owned(), args }
    }
}

/// As it can be typed into a shell.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", quoted(&self.program.display().to_string()))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

impl Child {
    /// Starts the process. It ends when this one does, however that ends: it watches the pipe to
    /// it.
    ///
    /// # Errors
    /// When the system starts no process, or the log cannot be written.
    pub(super) async fn start(
        command: CommandLine,
        who: Who,
        log_file: &Path,
        orders: watch::Receiver<Order>,
        events: mpsc::Sender<Event>,
    ) -> io::Result<Self> {
        // It writes its log itself: it goes on when nobody here reads it any more.
        let log = std::fs::File::options().create(true).append(true).open(log_file)?;
        let mut reader = File::open(log_file).await?;
        reader.seek(SeekFrom::End(0)).await?;
        let mut process = Command::new(&command.program);
        process
            .args(&command.args)
            .arg("--exit-with-parent")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // A group of its own: Ctrl-C in the terminal is ours to pass on.
            .process_group(0)
            .kill_on_drop(true);
        without_settings(&mut process);
        let mut process = process.spawn()?;
        let pid = process.id().unwrap_or_default();
        let input = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let follower = LogFollower {
            who,
            reader: BufReader::new(reader),
            line: Vec::new(),
            last_lines: Arc::default(),
            events: events.clone(),
        };
        let last_lines = follower.last_lines.clone();
        let (ended, has_ended) = oneshot::channel();
        let followed = tokio::spawn(follower.follow(has_ended));
        tokio::spawn(async move {
            let status = keep(process, input, orders).await;
            // What it said last comes before its end.
            drop(ended);
            let _ = followed.await;
            let _ = events.send(Event::Ended { who, status }).await;
        });
        Ok(Self { who, pid, command, last_lines })
    }

    /// The end of its log.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

/// Settings in our environment are for a node that is run by hand; only the log level is for all.
fn without_settings(process: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let setting = text.starts_with("XMTPD_") || text.starts_with("HAWSER_");
        if setting && text != "XMTPD_LOG_LEVEL" {
            process.env_remove(&name);
        }
    }
}

/// Waits until the process has ended, by itself or as ordered.
async fn keep(
    mut process: tokio::process::Child,
    input: ChildStdin,
    mut orders: watch::Receiver<Order>,
) -> io::Result<ExitStatus> {
    tokio::select! {
        status = process.wait() => return status,
        _ = orders.wait_for(|order| *order != Order::Run) => {}
    }
    drop(input); // for the process this is what a signal is
    tokio::select! {
        status = timeout(STOP_MAX, process.wait()) => {
            if let Ok(status) = status {
                return status;
            }
        }
        _ = orders.wait_for(|order| *order == Order::Kill) => {}
    }
    process.kill().await?;
    process.wait().await
}

/// Reads the log of a process as it grows, and passes on what a person should see.
struct LogFollower {
    who: Who,
    reader: BufReader<File>,
    /// The line that has no end yet.
    line: Vec<u8>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    events: mpsc::Sender<Event>,
}

impl LogFollower {
    /// Follows it to what was there when `has_ended` closed.
    async fn follow(mut self, mut has_ended: oneshot::Receiver<()>) {
        let mut last_look = false;
        loop {
            while let Ok(len) = self.reader.read_until(b'\n', &mut self.line).await
                && len > 0
            {
                if self.line.ends_with(b"\n") {
                    self.take_line().await;
                }
            }
            if last_look {
                return;
            }
            tokio::select! {
                _ = &mut has_ended => last_look = true,
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn take_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        if is_important(&text) {
            let event = Event::Said { who: self.who, line: text.clone() };
            let _ = self.events.send(event).await;
        }
        let mut lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back(text);
        if lines.len() > LAST_LINES {
            lines.pop_front();
        }
    }
}

/// Warnings, errors, and what is no log line at all.
fn is_important(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let Some(first) = words.next() else { return false };
    let is_log_line = first.starts_with(|c: char| c.is_ascii_digit()) && first.contains('T');
    !is_log_line || matches!(words.next(), Some("WARN" | "ERROR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_typed_into_a_shell() {
        let command = CommandLine {
            program: "/opt/my tools/hawser".into(),
            args: vec!["node".into(), "--data-dir".into(), "it's".into(), String::new()],
        };
        assert_eq!(command.to_string(), r"'/opt/my tools/hawser' node --data-dir 'it'\''s' ''");
    }

    #[test]
    fn warnings_and_strange_lines_are_for_people() {
        assert!(is_important("2025-06-15T15:06:41.000000000Z  WARN hawser_net: lost"));
        assert!(is_important("2025-06-15T15:06:41.000000000Z ERROR hawser_net: lost"));
        assert!(!is_important("2025-06-15T15:06:41.000000000Z  INFO hawser_net: found"));
        assert!(is_important("hawser: no"));
        assert!(!is_important(""));
    }
}
