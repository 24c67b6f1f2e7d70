//! The command that deploys another deposit splitter, through the binary, on chains that `hawser chain dev` runs.

use std::fs;

use serde_json::Value;

use crate::support::chains::{Chains, STRANGER, functions};
use crate::support::{stderr, stdout};

/// The splitter has no proxy: another one takes its place.
#[test]
fn another_splitter_is_deployed_beside_the_present_one() {
    let chains = Chains::start();
    let present = chains.json(STRANGER, &["contracts", "splitter"]);
    assert!(functions(&present).is_empty(), "{present}");
    assert_eq!(present["result"]["address"], chains.address_of("depositSplitter"));

    // For another registry it is another contract.
    let mut file: Value =
        serde_json::from_slice(&fs::read(chains.folder.path().join("chain.json")).unwrap())
            .unwrap();
    file["payerRegistry"] = file["rateRegistry"].clone();
    let path = chains.folder.path().join("other.json");
    fs::write(&path, file.to_string()).unwrap();
    let splitter = |more: &[&str]| -> Value {
        let args = [&["contracts", "splitter", "--json"], more].concat();
        let mut command = chains.command(STRANGER, &args);
        let output = command.env("XMTPD_CONTRACTS_CONFIG_FILE_PATH", &path).output().unwrap();
        assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let planned = splitter(&["--dry-run"]);
    assert_eq!(functions(&planned), ["deployImplementation"]);
    let done = splitter(&["--yes"]);
    assert_eq!(functions(&done), ["deployImplementation"]);
    let address = done["result"]["address"].as_str().unwrap();
    assert_ne!(address, chains.address_of("depositSplitter"));
    let notes = done["notes"].to_string();
    assert!(notes.contains(address) && notes.contains("allowances"), "{notes}");
    let again = splitter(&[]);
    assert!(functions(&again).is_empty() && again["result"]["address"] == address, "{again}");
}
