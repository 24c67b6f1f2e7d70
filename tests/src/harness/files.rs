//! The files that a node needs for its start.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use hawser_proto::{OriginatorId, PublicKey, SecretKey};
use serde_json::{Value, json};

/// One record of a registry file.
#[derive(Debug, Clone)]
pub struct Record {
    /// The node's id.
    pub id: OriginatorId,
    /// Its key.
    pub key: PublicKey,
    /// `http://…`
    pub http_address: String,
    /// `host:port` of QUIC, if it differs from the URL's.
    pub quic_address: Option<String>,
    /// True while the node is canonical.
    pub canonical: bool,
}

impl Record {
    fn json(&self) -> Value {
        let mut record = json!({
            "nodeId": self.id.0,
            "signer": self.key.address().to_string(),
            "isCanonical": self.canonical,
            "signingPublicKey": self.key.to_string(),
            "httpAddress": self.http_address,
        });
        if let Some(address) = &self.quic_address {
            record["quicAddress"] = json!(address);
        }
        record
    }
}

/// Writes `registry.json`.
///
/// # Panics
/// Panics if it cannot be written.
pub fn write_registry(path: &Path, records: &[Record]) {
    let nodes: Vec<Value> = records.iter().map(Record::json).collect();
    replace(path, &json!({ "nodes": nodes }).to_string());
}

/// Writes `rates.json` from pairs of a start time in unix seconds and a price in picodollars for a byte and day. The
/// congestion target is far above the rate at which a test publishes.
///
/// # Panics
/// Panics if it cannot be written.
pub fn write_rates(path: &Path, rates: &[(u64, u64)]) {
    let rate = |&(start_time, storage_fee): &(u64, u64)| {
        json!({
            "messageFee": 100,
            "storageFee": storage_fee,
            "congestionFee": 300,
            "targetRatePerMinute": 1_000_000_000,
            "startTime": start_time,
        })
    };
    let rates: Vec<Value> = rates.iter().map(rate).collect();
    replace(path, &json!({ "rates": rates }).to_string());
}

/// Writes a key file that only its owner can read.
///
/// # Panics
/// Panics if it cannot be written.
pub fn write_key(path: &Path, key: &SecretKey) {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    writeln!(file, "{}", hex::encode(key.to_bytes())).unwrap();
}

/// Replaces a file atomically, so that a node that watches it never reads half of it.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// Copies a folder with everything in it but sockets.
///
/// # Panics
/// Panics if a file cannot be copied.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target: PathBuf = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy_folder(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
