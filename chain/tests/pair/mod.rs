//! Two chains to test on. They end with the test program, whichever way it ends.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use alloy::primitives::{Address, U256};
use alloy::providers::Provider as _;
use hawser_chain::deploy::{self, Deployment};
use hawser_chain::embedded::{EmbeddedChain, Genesis, Settings};
use hawser_chain::send::{Chain, Sender};

pub(crate) const SETTLEMENT_ID: u64 = 31337;
pub(crate) const APP_ID: u64 = 31338;

/// What a chain is run by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Embedded,
    Anvil,
}

/// Runs a test on each kind of chain.
#[macro_export]
macro_rules! on_both_kinds_of_chain {
    ($($name:ident)*) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::pair::Kind::Embedded).await;
            })*
        }
        mod anvil {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::pair::Kind::Anvil).await;
            })*
        }
    };
}

/// Two chains that run as long as this is held.
pub(crate) struct Pair {
    pub(crate) settlement: Chain,
    pub(crate) app: Chain,
    _processes: [Process; 2],
}

enum Process {
    Embedded { _chain: EmbeddedChain },
    Anvil { _anvil: Anvil },
}

impl Pair {
    /// Starts both without blocks.
    pub(crate) async fn start(kind: Kind) -> Self {
        let (settlement, first) = kind.start(SETTLEMENT_ID).await;
        let (app, second) = kind.start(APP_ID).await;
        Self { settlement, app, _processes: [first, second] }
    }

    /// Starts both, and deploys to them.
    pub(crate) async fn deployed(kind: Kind) -> (Self, Deployment) {
        let pair = Self::start(kind).await;
        let deployment = pair.deploy().await;
        (pair, deployment)
    }

    pub(crate) async fn deploy(&self) -> Deployment {
        deploy::deploy(&self.settlement, &self.app, &deploy::deployer()).await.unwrap()
    }
}

impl Kind {
    async fn start(self, chain_id: u64) -> (Chain, Process) {
        let (url, process) = match self {
            Self::Embedded => {
                let accounts = deploy::accounts();
                let balances = accounts.iter().map(|key| (key.address(), deploy::NATIVE_BALANCE));
                let genesis = Genesis { balances: balances.collect(), ..Genesis::default() };
                let settings = Settings { genesis, ..Settings::new(chain_id) };
                let chain = EmbeddedChain::start(settings).await.unwrap();
                let url = format!("http://{}", chain.local_addr());
                (url, Process::Embedded { _chain: chain })
            }
            Self::Anvil => {
                let (anvil, url) = Anvil::start(chain_id);
                (url, Process::Anvil { _anvil: anvil })
            }
        };
        (Chain::connect(&url, chain_id).await.unwrap(), process)
    }
}

/// The shell that anvil runs under: it ends anvil when its standard input is closed, which also
/// happens when the test program is killed.
struct Anvil(Child);

const UNDER_SHELL: &str = r#""$0" "$@" & anvil=$!; read -r _; kill "$anvil"; wait "$anvil""#;

impl Anvil {
    fn start(chain_id: u64) -> (Self, String) {
        let mut shell = Command::new("sh")
            .args(["-c", UNDER_SHELL])
            .arg(binary())
            .args(["--port", "0", "--chain-id", &chain_id.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let url = announced_url(shell.stdout.take().unwrap());
        (Self(shell), url)
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Reads where anvil listens, and lets it go on talking.
fn announced_url(stdout: ChildStdout) -> String {
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let listens = |line: String| line.strip_prefix("Listening on ").map(str::to_owned);
    let address = lines.find_map(listens).expect("anvil says where it listens");
    std::thread::spawn(move || lines.for_each(drop));
    format!("http://{address}")
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

/// A sender for one of the known accounts.
pub(crate) fn sender(chain: &Chain, account: usize) -> Sender {
    Sender::new(chain.clone(), deploy::accounts().swap_remove(account))
}

pub(crate) async fn native_balance(chain: &Chain, account: Address) -> U256 {
    chain.provider().get_balance(account).await.unwrap()
}
