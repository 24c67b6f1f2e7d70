//! Test fixtures: makers of snapshots, honest and lying, and chain endpoints with scripted answers.

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use alloy::primitives::B256;
use alloy::rpc::types::Log;
use alloy::sol_types::SolEvent as _;
use hawser_chain::contracts::GroupMessageBroadcaster::MessageSent;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::event::EventSource;
use hawser_engine::chain_strand::{ChainEntry, ChainEnvelope, ChainEvent};
use hawser_engine::runtime::ChainAppendError;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Address, Bytes, OriginatorId, SequenceId};
use hawser_rules::{NodeRecord, Registry};
use hawser_storage::{
    BootstrapChunk, BootstrapManifest, Bootstraps, Change, FileHash, FolderObjects, LogEntry,
    SkipReason, Store, encode_chunk,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::chain::AskedContract;
use super::checkpoints::{Evidence, MajorityTree};
use super::error::BootstrapFetchError;
use crate::service::network::chains::StrandContract;
pub(super) use crate::service::testing::{key, open};

pub(super) const GROUPS: OriginatorId = OriginatorId::GROUP_MESSAGES;
pub(super) const IDENTITIES: OriginatorId = OriginatorId::IDENTITY_UPDATES;
pub(super) const OWN: OriginatorId = OriginatorId(400);
/// The number of sequence ids of the maker's strands; the second one is void.
pub(super) const PLACES: u64 = 6;

/// Returns a registry of nodes 100 to 400, of which those in `canonical` are in the network.
pub(super) fn registry(canonical: &[u32]) -> Registry {
    let record = |node: u32| NodeRecord {
        id: OriginatorId(node),
        public_key: key(node).public_key(),
        owner: Address([0; 20]),
        http_address: None,
        quic_address: None,
        canonical: canonical.contains(&node),
    };
    [100, 200, 300, 400].into_iter().map(record).collect()
}

/// Returns a sequence id of a strand as an event of a recorded payload; `transaction` distinguishes variants.
pub(super) fn entry(originator: OriginatorId, place: u64, transaction: u8) -> ChainEnvelope {
    let text = include_str!("../../../../tests/vectors/client/envelopes.jsonl");
    let route = if originator == GROUPS { "chain:group" } else { "chain:identity" };
    let mut lines = text.lines().filter(|line| line.contains(route));
    let line: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let event = ChainEvent {
        sequence: SequenceId(place),
        block_time_s: 1_750_000_000 + place,
        transaction_hash: [transaction; 32],
        client_bytes: hex::decode(line["hex"].as_str().unwrap()).unwrap().into(),
        topic_identifier: None,
        bootstrapped: false,
    };
    match ChainEntry::from_event(originator, &event) {
        ChainEntry::Envelope(envelope) => *envelope,
        ChainEntry::Void(at) => panic!("{at} is void"),
    }
}

/// A maker with both chain strands, and the location of its snapshots.
pub(super) struct Maker {
    pub(super) folder: TempDir,
    pub(super) store: Store,
    pub(super) place: Bootstraps,
}

impl Maker {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "maker", 100);
        for originator in [GROUPS, IDENTITIES] {
            for place in 1..=PLACES {
                let from = SequenceId(place);
                let change = if place == 2 {
                    Change::Skip { originator, from, through: from, reason: SkipReason::Void }
                } else {
                    let ChainEnvelope { id, bytes, facts, .. } = entry(originator, place, 5);
                    Change::Append(LogEntry::valid(id, bytes, facts))
                };
                store.commit(&[change]).unwrap();
            }
        }
        let objects = FolderObjects::new(&folder.path().join("snapshots"));
        Self { place: Bootstraps::new(Arc::new(objects)), store, folder }
    }

    /// Stores a node's signature of a strand, with cosignatures.
    pub(super) fn sign(&self, node: u32, originator: OriginatorId, size: u64, cosigners: &[u32]) {
        let root = self.store.snapshot().root(originator, size).unwrap();
        let of = Checkpoint { node: OriginatorId(node), originator, size, root, time_ns: size };
        let mut checkpoint = CosignedCheckpoint::from(of.sign(&key(node)));
        for cosigner in cosigners {
            let cosignature = of.cosign(OriginatorId(*cosigner), size, &key(*cosigner));
            assert!(checkpoint.add_cosignature(cosignature));
        }
        self.store.put_checkpoint(&checkpoint).unwrap();
    }

    pub(super) fn copy(&self) -> BootstrapManifest {
        let objects = Arc::new(FolderObjects::new(&self.folder.path().join("snapshots")));
        let go_on = &mut |_: u64| ControlFlow::Continue(());
        self.store.create_bootstrap(objects, 1, go_on).unwrap().manifest
    }

    /// Creates a snapshot in which the strand of group messages has other envelopes.
    pub(super) fn altered(&self, envelopes: &[(SequenceId, Bytes)]) -> BootstrapManifest {
        let mut manifest = self.copy();
        manifest.strands[0].chunks = vec![self.put_chunk(GROUPS, envelopes)];
        manifest
    }

    /// Stores these envelopes as a chunk of a strand.
    pub(super) fn put_chunk(
        &self,
        originator: OriginatorId,
        envelopes: &[(SequenceId, Bytes)],
    ) -> BootstrapChunk {
        let bytes = encode_chunk(originator, envelopes);
        let hash = FileHash(*blake3::hash(&bytes).as_bytes());
        let path = self.folder.path().join("snapshots/chunks").join(&hash.to_string()[..2]);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(hash.to_string()), &bytes).unwrap();
        BootstrapChunk {
            from: envelopes[0].0,
            through: envelopes[envelopes.len() - 1].0,
            len_bytes: bytes.len() as u64,
            hash,
        }
    }

    pub(super) fn envelopes(&self) -> Vec<(SequenceId, Bytes)> {
        let manifest = self.copy();
        self.place.chunk(GROUPS, &manifest.strands[0].chunks[0]).unwrap()
    }
}

pub(super) fn majority(
    manifest: &BootstrapManifest,
    originator: OriginatorId,
    canonical: &[u32],
) -> Result<MajorityTree, BootstrapFetchError> {
    let registry = registry(canonical);
    Evidence::of(manifest, &registry)?.majority_tree(originator, &registry, OWN)
}

/// Appends events without validating identity updates, as if each were valid.
pub(super) fn append(
    store: &Store,
    originator: OriginatorId,
    events: &[ChainEvent],
) -> Result<(), ChainAppendError> {
    let mut head = store.snapshot().head(originator)?;
    for event in events {
        let (from, through) = (head.next(), event.sequence.previous());
        assert_eq!(event.bootstrapped, from <= through);
        if event.bootstrapped {
            let reason = SkipReason::Void;
            store.commit(&[Change::Skip { originator, from, through, reason }])?;
        }
        let ChainEntry::Envelope(made) = ChainEntry::from_event(originator, event) else {
            panic!("an event of a copy is an envelope");
        };
        let ChainEnvelope { id, bytes, facts, .. } = *made;
        store.commit(&[Change::Append(LogEntry::valid(id, bytes, facts))])?;
        head = event.sequence;
    }
    Ok(())
}

pub(super) const CHAIN_ID: u64 = 7;
/// The contract at the scripted endpoints.
pub(super) const CONTRACT: alloy::primitives::Address = alloy::primitives::Address::repeat_byte(9);
/// The block of the event, which is also the newest one.
pub(super) const BLOCK: u64 = 1000;
pub(super) const NEWEST: u64 = 1100;

/// The answers of a scripted endpoint about a chain on which one transaction ordered the first sequence id.
#[derive(Clone)]
pub(super) struct EndpointStatements {
    pub(super) number: u64,
    pub(super) newest: u64,
    /// The first byte of the block's hash in the receipt, and in the header.
    pub(super) hashes: [u8; 2],
    pub(super) parent: u8,
    pub(super) time_s: u64,
    pub(super) payload: Vec<u8>,
    pub(super) has_transaction: bool,
}

impl EndpointStatements {
    pub(super) fn truth() -> Self {
        let bytes = entry(GROUPS, 1, 5).bytes;
        let envelope = OriginatorEnvelope::parse(bytes).unwrap();
        Self {
            number: BLOCK,
            newest: NEWEST,
            hashes: [1; 2],
            parent: 2,
            time_s: 1_750_000_001,
            payload: envelope.unsigned().payer().client().as_bytes().to_vec(),
            has_transaction: true,
        }
    }

    pub(super) fn answer(&self, asked: &Value) -> Value {
        let hash = |byte: u8| B256::repeat_byte(byte);
        let quantity = |number: u64| json!(format!("{number:#x}"));
        let event = MessageSent {
            groupId: [3; 16].into(),
            message: self.payload.clone().into(),
            sequenceId: 1,
        };
        let log = Log {
            inner: alloy::primitives::Log { address: CONTRACT, data: event.encode_log_data() },
            block_hash: Some(hash(self.hashes[0])),
            block_number: Some(self.number),
            block_timestamp: None,
            transaction_hash: Some(hash(5)),
            transaction_index: Some(0),
            log_index: Some(0),
            removed: false,
        };
        let result = match asked["method"].as_str().unwrap() {
            "eth_chainId" => quantity(CHAIN_ID),
            "eth_getTransactionReceipt" if self.has_transaction => json!({
                "blockNumber": quantity(self.number),
                "blockHash": hash(self.hashes[0]),
                "logs": [log],
            }),
            "eth_getBlockByNumber" => {
                let is_latest = asked["params"][0] == "latest";
                json!({
                    "number": quantity(if is_latest { self.newest } else { self.number }),
                    "hash": hash(self.hashes[1]),
                    "parentHash": hash(self.parent),
                    "timestamp": quantity(self.time_s),
                })
            }
            _ => Value::Null,
        };
        json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result })
    }

    /// Answers one request.
    pub(super) async fn serve(self, mut stream: TcpStream) {
        let mut request = Vec::new();
        let asked: Value = loop {
            let mut part = [0; 4096];
            let len = stream.read(&mut part).await.unwrap_or(0);
            if len == 0 {
                return;
            }
            request.extend_from_slice(&part[..len]);
            let body = request.windows(4).position(|it| it == b"\r\n\r\n").map(|at| at + 4);
            if let Some(Ok(asked)) = body.map(|at| serde_json::from_slice(&request[at..])) {
                break asked;
            }
        };
        let body = self.answer(&asked).to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all((head + &body).as_bytes()).await;
    }

    /// Starts an endpoint with these answers. Returns its URL.
    pub(super) async fn start(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.clone().serve(stream));
            }
        });
        url
    }
}

/// Returns the contract behind endpoints with these answers, and behind one that does not answer if it is given.
pub(super) async fn asked(
    said: Vec<EndpointStatements>,
    dead: Option<&str>,
    trusts_one_endpoint: bool,
) -> Result<AskedContract, BootstrapFetchError> {
    let mut urls: Vec<_> = dead.map(str::to_owned).into_iter().collect();
    for said in said {
        urls.push(said.start().await);
    }
    let contract = StrandContract {
        endpoints: Endpoints::new("app", &urls, CHAIN_ID).unwrap(),
        source: EventSource::GroupMessages,
        address: CONTRACT,
        first_block: 1,
    };
    AskedContract::new(contract, trusts_one_endpoint)
}
