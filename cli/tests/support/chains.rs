//! Two chains that `hawser chain dev` runs, with commands that act on them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use alloy::primitives::Address;
use alloy::providers::Provider as _;
use alloy::signers::local::PrivateKeySigner;
use hawser_chain::send::{Call, Chain, Sender};
use hawser_devchain::deploy;
use serde_json::{Value, json};

use super::{Running, free_base, hawser, stderr, stdout};

/// Two chains with all contracts, and the keys of their accounts in files.
pub struct Chains {
    _running: Running,
    pub folder: tempfile::TempDir,
    pub settlement: String,
    pub app: String,
    pub accounts: Vec<String>,
}

/// The accounts and their roles.
pub const ADMIN: usize = 0;
pub const STRANGER: usize = 1;

impl Chains {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = hawser();
        command.args(["chain", "dev", "--json", "--base-port", &free_base(1).to_string()]);
        command.arg("--chain-json").arg(folder.path().join("chain.json"));
        let mut running = Running::start(command, false);
        let ready = running.event("ready");
        let rpc = |chain: &str| ready[chain]["rpc"].as_str().unwrap().to_owned();
        let mut accounts = Vec::new();
        for (index, key) in deploy::accounts().iter().enumerate() {
            accounts.push(key.address().to_string());
            write_key(folder.path().join(format!("key-{index}")), &key.to_bytes().to_string());
        }
        Self {
            settlement: rpc("settlement_chain"),
            app: rpc("app_chain"),
            _running: running,
            folder,
            accounts,
        }
    }

    pub fn key(&self, account: usize) -> PathBuf {
        self.folder.path().join(format!("key-{account}"))
    }

    /// A command that knows the chains and acts for an account.
    pub fn command(&self, account: usize, args: &[&str]) -> Command {
        let mut command = hawser();
        command.args(args).stdin(Stdio::null());
        command.env("XMTPD_SETTLEMENT_CHAIN_RPC_URL", &self.settlement);
        command.env("XMTPD_APP_CHAIN_RPC_URL", &self.app);
        command.env("XMTPD_CONTRACTS_CONFIG_FILE_PATH", self.folder.path().join("chain.json"));
        command.env("HAWSER_KEY_FILE", self.key(account));
        command
    }

    /// Runs a command, and confirms what it would ask.
    pub fn run(&self, account: usize, args: &[&str]) -> Output {
        self.command(account, &confirmed(args)).output().unwrap()
    }

    /// Runs a command that succeeds; returns its JSON output.
    pub fn json(&self, account: usize, args: &[&str]) -> Value {
        let output = self.run(account, &[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}{}", stdout(&output), stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command that fails with this exit code; returns its output.
    pub fn failure(&self, account: usize, code: i32, args: &[&str]) -> String {
        let output = self.run(account, args);
        let printed = format!("{}{}", stdout(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {printed}");
        printed
    }

    /// Asks the settlement chain itself.
    pub fn rpc(&self, method: &'static str, params: Value) -> Value {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let chain = Chain::connect(&self.settlement, 31337).await.unwrap();
            chain.provider().raw_request(method.into(), params).await.unwrap()
        })
    }

    pub fn address_of(&self, key: &str) -> String {
        let file = fs::read(self.folder.path().join("chain.json")).unwrap();
        let addresses: Value = serde_json::from_slice(&file).unwrap();
        addresses[key].as_str().unwrap().to_owned()
    }

    /// Sends a call from an account with a key of its own, without the commands.
    pub fn send(&self, rpc: &str, chain_id: u64, account: usize, call: &Call) {
        let key: PrivateKeySigner = deploy::accounts().swap_remove(account);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let chain = Chain::connect(rpc, chain_id).await.unwrap();
            Sender::new(chain, key).send(call).await.unwrap()
        });
    }

    /// The address of a contract, for calls.
    pub fn contract(&self, key: &str) -> Address {
        self.address_of(key).parse().unwrap()
    }

    pub fn transactions_of(&self, account: usize) -> Value {
        self.rpc("eth_getTransactionCount", json!([self.accounts[account], "latest"]))
    }
}

/// Returns the words of a command, with `--yes` if it sends transactions: none is sent without it, as there is no
/// terminal.
pub fn confirmed<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let sends = matches!(
        args,
        ["registry", "canonical", ..]
            | ["registry", "node", "add" | "update-http" | "transfer" | "approve" | "base-uri", ..]
            | ["registry", "params", "set" | "bridge", ..]
            | ["registry", "rates", "add", ..]
            | ["payer", "deposit" | "withdraw" | "fund" | "mint" | "wrap" | "unwrap", ..]
            | ["payer", "leave-app", ..]
            | ["fees", "claim" | "withdraw" | "excess", ..]
            | ["contracts", "pause" | "unpause" | "upgrade" | "splitter" | "deploy", ..]
    );
    let mut words = args.to_vec();
    if sends && !args.contains(&"--yes") {
        words.push("--yes");
    }
    words
}

pub fn write_key(path: PathBuf, hex: &str) {
    fs::write(&path, hex).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

pub fn functions(done: &Value) -> Vec<&str> {
    let steps = done["steps"].as_array().unwrap();
    steps.iter().map(|step| step["function"].as_str().unwrap()).collect()
}
