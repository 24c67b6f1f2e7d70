//! Two chains without the contracts of a network, on which `hawser contracts deploy` creates them.

use std::path::PathBuf;
use std::process::Stdio;

use hawser_chain::addresses::Addresses;
use hawser_chain::send::Chain;
use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings, Genesis};
use hawser_devchain::relay::{RELAYER, Relay, RelayPolicy};
use serde_json::Value;

use crate::support::{self, hawser, stderr};

/// Two chains in this process, and a folder for the files of a deployment.
pub(crate) struct EmptyChains {
    pub(crate) runtime: tokio::runtime::Runtime,
    _running: [EmbeddedChain; 2],
    /// The ids of the settlement chain and of the app chain.
    ids: [u64; 2],
    /// Their URLs.
    pub(crate) rpc: [String; 2],
    pub(crate) folder: tempfile::TempDir,
}

impl EmptyChains {
    /// Starts chains with these ids, which no deployed network has, and with this state of block 0.
    pub(crate) fn start(ids: [u64; 2], genesis: &Genesis) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let running = ids.map(|id| {
            let settings =
                EmbeddedSettings { genesis: genesis.clone(), ..EmbeddedSettings::new(id) };
            runtime.block_on(EmbeddedChain::start(settings)).unwrap()
        });
        let rpc = running.each_ref().map(|chain| format!("http://{}", chain.local_addr()));
        Self { runtime, _running: running, ids, rpc, folder: tempfile::tempdir().unwrap() }
    }

    /// Returns the path of the deployment file.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("chain.json")
    }

    /// Deploys with stand-ins for the token and the inbox; returns the exit code, the errors and the JSON output.
    pub(crate) fn deploy(&self, more: &[&str]) -> (Option<i32>, String, Value) {
        let mut command = hawser();
        command.args(["contracts", "deploy", "--json", "--stand-in-token"]);
        command.args(["--rpc-url", &self.rpc[0], "--app-rpc-url", &self.rpc[1]]);
        command.args(["--chain-id", &self.ids[0].to_string()]);
        command.args(["--app-chain-id", &self.ids[1].to_string()]);
        command.args(["--stand-in-inbox", &RELAYER.to_string()]);
        command.arg("--out").arg(self.file()).args(more);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let printed = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), stderr(&output), printed)
    }

    /// Delivers everything that waits at the inbox, as the bridge of a rollup does in its time.
    pub(crate) fn relay(&self, addresses: &Addresses) {
        self.runtime.block_on(async {
            let settlement = Chain::connect(&self.rpc[0], self.ids[0]).await.unwrap();
            let app = Chain::connect(&self.rpc[1], self.ids[1]).await.unwrap();
            let mut relay = Relay::of(&settlement, &app, addresses).await.unwrap();
            relay.step(RelayPolicy::default()).await.unwrap();
        });
    }

    /// Asserts that all contracts of the deployment file are there, with a parameter in force. Returns the message fees
    /// in the rate registry.
    pub(crate) fn fees_of_complete_network(&self) -> Vec<Value> {
        let file = self.file();
        let at = |command: &[&str]| {
            let urls = ["--rpc-url", &self.rpc[0], "--app-rpc-url", &self.rpc[1]];
            let file = ["--chain-json", file.to_str().unwrap(), "--json"];
            support::json(&[command, &urls, &file].concat())
        };
        let listed = at(&["contracts", "list"]);
        let rows = listed.as_array().unwrap();
        assert_eq!(rows.len(), 16, "{listed}");
        assert!(rows.iter().all(|row| row["code"] == "this build"), "{listed}");
        let size = "xmtp.groupMessageBroadcaster.maxPayloadSize";
        assert_eq!(at(&["registry", "params", "get", size])[0]["applied"], "262144");
        let rates = at(&["registry", "rates", "list"]);
        rates.as_array().unwrap().iter().map(|it| it["messageFee"].clone()).collect()
    }
}
