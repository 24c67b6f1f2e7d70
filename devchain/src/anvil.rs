//! Runs anvil as a child process: a second development chain, with which tests and developers compare the embedded one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// The time within which anvil must listen. A guess: it takes less than a second.
const START_MAX: Duration = Duration::from_secs(30);
/// The time within which anvil must end before it is killed. A guess: writing a large state takes seconds.
const STOP_MAX: Duration = Duration::from_secs(10);
/// The shell script that runs anvil.
///
/// It ends anvil when its standard input closes, which also happens when this program is killed. It closes its own
/// standard output, so that the pipe closes when anvil ends.
const UNDER_SHELL: &str =
    r#""$0" "$@" & anvil=$!; exec >&-; read -r _; kill "$anvil"; wait "$anvil""#;

/// Settings of an anvil process.
#[derive(Debug, Clone)]
pub struct AnvilSettings {
    /// Path of the program.
    pub program: PathBuf,
    /// The chain id.
    pub chain_id: u64,
    /// The port on the loopback interface; 0 selects a free one.
    pub port: u16,
    /// The file of the chain, written at an orderly stop. If `None`, the chain is lost when the process ends.
    pub state: Option<PathBuf>,
    /// Also makes a block each second in addition to those on demand, so that there are new heads without
    /// transactions, as on a live chain.
    pub idle_blocks: bool,
}

/// Error of starting anvil.
#[derive(Debug, thiserror::Error)]
pub enum AnvilError {
    /// The shell does not start.
    #[error("cannot start anvil at {program}: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// Anvil ended, or did not print its address in time.
    #[error(
        "anvil at {program} does not listen on port {port}: {reason}. Start it by hand to see its output"
    )]
    Silent {
        /// The program.
        program: PathBuf,
        /// The port in the settings.
        port: u16,
        /// The observed failure.
        reason: String,
    },
}

/// A running anvil process with the ten known accounts.
///
/// Dropping it closes the shell's standard input, which ends anvil. Only [`stop`](Self::stop) waits
/// until anvil has written its state.
#[derive(Debug)]
pub struct Anvil {
    shell: Child,
    address: SocketAddr,
}

impl Anvil {
    /// Starts anvil with blocks on demand, and with idle blocks if the settings ask for them.
    ///
    /// # Errors
    /// Returns an error if anvil does not start to listen.
    pub async fn start(settings: AnvilSettings) -> Result<Self, AnvilError> {
        let AnvilSettings { program, chain_id, port, state, idle_blocks } = settings;
        let fail = |source| AnvilError::Spawn { program: program.clone(), source };
        let mut command = Command::new("sh");
        command
            .args(["-c", UNDER_SHELL])
            .arg(&program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--chain-id", &chain_id.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A separate process group: Ctrl-C in the terminal must reach this program only,
            // which then stops anvil in order.
            .process_group(0);
        if idle_blocks {
            command.args(["--block-time", "1", "--mixed-mining"]);
        }
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

    /// Returns the address of the listener, HTTP and WebSocket.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Ends anvil. The chain is kept if the settings name a file.
    pub async fn stop(mut self) {
        drop(self.shell.stdin.take());
        if timeout(STOP_MAX, self.shell.wait()).await.is_err() {
            tracing::warn!("anvil does not end and is killed");
            // An error means that the process has already ended.
            let _ = self.shell.kill().await;
        }
    }
}

/// Reads the port from anvil's output, then discards the rest of it: a full pipe would block anvil.
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

/// Finds the anvil program: the path in `HAWSER_ANVIL`, then the program that `scripts/contract-tools` installs below
/// the current folder or one of its parents, then `PATH`.
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
