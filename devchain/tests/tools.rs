//! Tests of third-party tools (ethers and web3.py) against the embedded chain.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hawser_devchain::deploy;
use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings, Genesis};
use tokio::process::Command;

/// The time after which a tool is considered hanging. A guess: each takes a few seconds.
const WAIT_MAX: Duration = Duration::from_secs(120);

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools").join(file)
}

/// Returns the Python program that `scripts/chain-tools` installs.
fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let python = cache.unwrap().join("hawser-tools/web3/bin/python");
    assert!(python.exists(), "no web3.py: run scripts/test, which installs it");
    python
}

/// Runs a program with the URL of a new chain, and prints its output if it fails.
async fn run(program: &Path, script: &str) {
    let accounts = deploy::accounts();
    let balances = accounts.iter().map(|key| (key.address(), deploy::NATIVE_BALANCE)).collect();
    let chain = EmbeddedChain::start(EmbeddedSettings {
        genesis: Genesis { balances, ..Genesis::default() },
        signers: accounts,
        ..EmbeddedSettings::new(31337)
    });
    let chain = chain.await.unwrap();
    let mut command = Command::new(program);
    command.arg(here(script)).arg(format!("http://{}", chain.local_addr())).kill_on_drop(true);
    let output = tokio::time::timeout(WAIT_MAX, command.output()).await;
    let output = output.expect("the tool does not end").unwrap();
    let printed = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{script}:\n{}", String::from_utf8_lossy(&printed));
    chain.stop().await;
}

#[tokio::test]
async fn ethers_works() {
    let installed = here("../../../contracts/node_modules/ethers");
    assert!(installed.exists(), "no ethers: run scripts/test, which installs it");
    run(Path::new("node"), "ethers.mjs").await;
}

#[tokio::test]
async fn web3_py_works() {
    run(&python(), "web3_py.py").await;
}
