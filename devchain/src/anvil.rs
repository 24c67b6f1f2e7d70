//! Anvil as a process: another development chain, for whoever wants to see that things work on more
//! than the embedded one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Anvil listens within this time, or something is wrong.
const START_MAX: Duration = Duration::from_secs(30);
/// A process that does not end within this time is killed.
const STOP_MAX: Duration = Duration::from_secs(10);
/// The shell that anvil runs under. It ends anvil when its standard input is closed, which also
/// happens when this program is killed; and it closes its own output, so that this ends with
/// anvil's.
const UNDER_SHELL: &str =
    r#""$0" "$@" & anvil=$!; exec >&-; read -r _; kill "$anvil"; wait "$anvil""#;

/// What anvil is started with.
#[derive(Debug, Clone)]
pub struct AnvilSettings {
    /// The program.
    pub program: PathBuf,
    /// The chain's id.
    pub chain_id: u64,
    /// The port on this machine; 0 takes a free one.
    pub port: u16,
    /// Where the chain is kept when it is stopped in order. Without a file it ends with the
    /// process.
    pub state: Option<PathBuf>,
}

/// Why there is no anvil.
#[derive(Debug, thiserror::Error)]
pub enum AnvilError {
    /// The shell does not start.
    #[error("cannot start anvil at {program}: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It has ended, or says nothing.
    #[error(
        "anvil at {program} does not listen on port {port}: {reason}. See what it says when it is \
         started by hand"
    )]
    Silent {
        /// The program.
        program: PathBuf,
        /// The port that it should listen on.
        port: u16,
        /// What happened.
        reason: String,
    },
}

/// A running anvil with the ten known accounts. It ends when this is dropped, but is kept only
/// when it is stopped.
#[derive(Debug)]
pub struct Anvil {
    shell: Child,
    address: SocketAddr,
}

impl Anvil {
    /// Starts it with blocks on demand, and one each second besides, as a live chain has heads
    /// also when nobody sends anything.
    ///
    /// # Errors
    /// When it does not start to listen.
    pub async fn start(settings: AnvilSettings) -> Result<Self, AnvilError> {
        let AnvilSettings { program, chain_id, port, state } = settings;
        let fail = |source| AnvilError::Spawn { program: program.clone(), source };
        let mut command = Command::new("sh");
        command
            .args(["-c", UNDER_SHELL])
            .arg(&program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--chain-id", &chain_id.to_string()])
            .args(["--block-time", "1", "--mixed-mining"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own: Ctrl-C in the terminal is for the program that has started it.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(state) = &state {
            command.arg("--state").arg(state);
        }
        let mut shell = command.spawn().map_err(fail)?;
        let stdout =
            shell.stdout.take().ok_or_else(|| fail(std::io::ErrorKind::BrokenPipe.into()))?;
        let silent = |reason: &str| AnvilError::Silent {
            program: program.clone(),
            port,
            reason: reason.into(),
        };
        match timeout(START_MAX, listens(stdout)).await {
            Ok(Some(port)) => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                Ok(Self { shell, address })
            }
            Ok(None) => Err(silent("it has ended")),
            Err(_) => Err(silent("it says nothing")),
        }
    }

    /// Where it listens, for HTTP and WebSocket.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, and keeps the chain if that was asked for.
    pub async fn stop(mut self) {
        drop(self.shell.stdin.take());
        if timeout(STOP_MAX, self.shell.wait()).await.is_err() {
            tracing::warn!("anvil does not end and is killed");
            // What cannot be killed has ended.
            let _ = self.shell.kill().await;
        }
    }
}

/// The port that it says it listens on. From then on it may say what it likes.
async fn listens(stdout: ChildStdout) -> Option<u16> {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(address) = line.strip_prefix("Listening on ") {
            let port = address.rsplit_once(':')?.1.trim().parse().ok()?;
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Some(port);
        }
    }
    None
}

/// Looks for the program: `HAWSER_ANVIL`, then what `scripts/contract-tools` has installed below
/// this folder or one above it, then `PATH`.
#[must_use]
pub fn find_program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("HAWSER_ANVIL") {
        return Some(named.into());
    }
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let os = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let installed = format!("contracts/node_modules/@foundry-rs/anvil-{os}-{arch}/bin/anvil");
    let here = std::env::current_dir().unwrap_or_default();
    let below = here.ancestors().map(|folder| folder.join(&installed));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<PathBuf> =
        std::env::split_paths(&path).map(|folder| folder.join("anvil")).collect();
    below.chain(in_path).find(|program: &PathBuf| is_file(program))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file())
}
