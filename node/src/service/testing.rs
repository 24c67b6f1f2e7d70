//! Test fixtures of several modules: the keys of nodes, their databases, the evidence in a database, and pages.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use hawser_engine::price::price;
use hawser_proto::{OriginatorId, SecretKey};
use hawser_storage::{
    Durability, EvidenceTime, Misbehavior, Store, StoreIdentity, StoreSettings, StoredEvidence,
};
use tempfile::TempDir;

/// Returns the key of a node, whose id is a multiple of 100 from 100 to 25,500.
pub(super) fn key(node: u32) -> SecretKey {
    SecretKey::from_bytes(&[u8::try_from(node / 100).unwrap(); 32]).unwrap()
}

/// Opens the database of a node in the subfolder `name`. Writes are not synced.
pub(super) fn open(folder: &TempDir, name: &str, node: u32) -> Store {
    let identity = StoreIdentity {
        network: "testnet".to_owned(),
        node: OriginatorId(node),
        public_key: key(node).public_key(),
    };
    open_as(folder, name, identity)
}

/// Opens the database of this identity in the subfolder `name`. Writes are not synced.
pub(super) fn open_as(folder: &TempDir, name: &str, identity: StoreIdentity) -> Store {
    Store::open(&StoreSettings {
        path: folder.path().join(name),
        identity,
        durability: Durability::Os,
        price,
        host: None,
        open_files_max: 64,
        cache_bytes: 8 << 20,
    })
    .unwrap()
}

/// Returns all evidence, at most 99 pieces, in the order in which it was recorded.
pub(super) fn evidence(store: &Store) -> Vec<StoredEvidence> {
    store.snapshot().evidence(EvidenceTime::default(), 99, usize::MAX).unwrap()
}

/// Returns the sequence ids of the evidence of one kind.
pub(super) fn places_of(all: &[StoredEvidence], kind: Misbehavior) -> Vec<u64> {
    let of_kind = all.iter().filter(|it| it.evidence.misbehavior == kind);
    of_kind.map(|it| it.evidence.at.sequence.0).collect()
}

/// Returns the answer of the operators' port at `address` to a request for `path`, as it is sent. Blocks until then.
pub(super) fn page(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
