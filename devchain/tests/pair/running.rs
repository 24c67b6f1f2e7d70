//! Chains to test on. They end with the test program, however that ends.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use hawser_devchain::deploy;
use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings, Genesis};

/// The program that runs a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChainBackend {
    Embedded,
    Anvil,
}

/// A chain that runs until this value is dropped.
pub(crate) struct RunningChain {
    pub(crate) url: String,
    _process: Process,
}

enum Process {
    Embedded { _chain: EmbeddedChain },
    Anvil { _anvil: Anvil },
}

impl ChainBackend {
    /// Starts a chain with the known accounts and blocks on demand.
    pub(crate) async fn start(self, chain_id: u64) -> RunningChain {
        match self {
            Self::Embedded => {
                let accounts = deploy::accounts();
                let balances = accounts.iter().map(|key| (key.address(), deploy::NATIVE_BALANCE));
                let genesis = Genesis { balances: balances.collect(), ..Genesis::default() };
                let settings = EmbeddedSettings { genesis, ..EmbeddedSettings::new(chain_id) };
                let chain = EmbeddedChain::start(settings).await.unwrap();
                let url = format!("http://{}", chain.local_addr());
                RunningChain { url, _process: Process::Embedded { _chain: chain } }
            }
            Self::Anvil => {
                let (anvil, url) = Anvil::start(chain_id);
                RunningChain { url, _process: Process::Anvil { _anvil: anvil } }
            }
        }
    }
}

/// The shell that anvil runs under: it ends anvil when its standard input is closed, which also
/// happens when the test program is killed. It closes its own output, so that this ends with anvil.
struct Anvil(Child);

const UNDER_SHELL: &str =
    r#""$0" "$@" & anvil=$!; exec >&-; read -r _; kill "$anvil"; wait "$anvil""#;

impl Anvil {
    fn start(chain_id: u64) -> (Self, String) {
        let binary = binary();
        let mut shell = Command::new("sh")
            .args(["-c", UNDER_SHELL])
            .arg(&binary)
            .args(["--port", "0", "--chain-id", &chain_id.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let stdout = shell.stdout.take().expect("it was asked for");
        let anvil = Self(shell);
        let url = announced_url(stdout).unwrap_or_else(|| {
            panic!(
                "anvil at {} has ended without listening: try it by hand, or name another one in \
                 HAWSER_ANVIL",
                binary.display()
            )
        });
        (anvil, url)
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Its exit code does not matter.
        let _ = self.0.wait();
    }
}

/// Reads the URL from anvil's output, and discards the rest. `None` if anvil ends before.
fn announced_url(stdout: ChildStdout) -> Option<String> {
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.strip_prefix("Listening on ").map(str::to_owned))?;
    std::thread::spawn(move || lines.for_each(drop));
    Some(format!("http://{address}"))
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("HAWSER_ANVIL") {
        return path.into();
    }
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let os = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../contracts/node_modules/@foundry-rs/anvil-{os}-{arch}/bin/anvil"));
    assert!(
        path.exists(),
        "anvil is not at {}: run scripts/test, which installs it, or name another one in \
         HAWSER_ANVIL",
        path.display()
    );
    path
}
