//! Strands of chains in copies of honest makers and of liars, and endpoints of a chain that contradict each other. The
//! comparison with a whole chain is in `cli/tests/joined.rs`.

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use alloy::rpc::types::Log;
use alloy::sol_types::SolEvent as _;
use hawser_chain::contracts::GroupMessageBroadcaster::MessageSent;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::event::EventSource;
use hawser_engine::chain_strand::{ChainEntry, ChainEnvelope};
use hawser_engine::price::price;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::{Address, SecretKey};
use hawser_rules::{NodeRecord, Registry};
use hawser_storage::{
    BootstrapChunk, BootstrapManifest, Durability, FileHash, FolderObjects, LogEntry,
    StoreIdentity, StoreSettings, encode_chunk,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::checkpoints::Evidence;
use super::super::verify;
use super::*;

const GROUPS: OriginatorId = OriginatorId::GROUP_MESSAGES;
const IDENTITIES: OriginatorId = OriginatorId::IDENTITY_UPDATES;
const OWN: OriginatorId = OriginatorId(400);
/// Places of a strand of the maker; the second one is void.
const PLACES: u64 = 6;

fn key(node: u32) -> SecretKey {
    SecretKey::from_bytes(&[u8::try_from(node / 100).unwrap(); 32]).unwrap()
}

/// Nodes 100 to 400 with these of them in the network.
fn registry(canonical: &[u32]) -> Registry {
    let record = |node: u32| NodeRecord {
        id: OriginatorId(node),
        public_key: key(node).public_key(),
        owner: Address([0; 20]),
        http_address: String::new(),
        quic_address: None,
        canonical: canonical.contains(&node),
    };
    [100, 200, 300, 400].into_iter().map(record).collect()
}

/// A place of a strand as an event of a recorded payload; `transaction` makes it another one.
fn entry(originator: OriginatorId, place: u64, transaction: u8) -> ChainEnvelope {
    let text = include_str!("../../../../../tests/vectors/client/envelopes.jsonl");
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

fn open(folder: &TempDir, name: &str, node: u32) -> Store {
    let identity = StoreIdentity {
        network: "testnet".to_owned(),
        node: OriginatorId(node),
        public_key: key(node).public_key(),
    };
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

/// A maker with both strands, and the place of its copies.
struct Maker {
    folder: TempDir,
    store: Store,
    place: Bootstraps,
}

impl Maker {
    fn new() -> Self {
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

    /// Stores what a node signs about a strand, and who cosigns it.
    fn sign(&self, node: u32, originator: OriginatorId, size: u64, cosigners: &[u32]) {
        let root = self.store.snapshot().root(originator, size).unwrap();
        let of = Checkpoint { node: OriginatorId(node), originator, size, root, time_ns: size };
        let mut checkpoint = CosignedCheckpoint::from(of.sign(&key(node)));
        for cosigner in cosigners {
            let cosignature = of.cosign(OriginatorId(*cosigner), size, &key(*cosigner));
            assert!(checkpoint.add_cosignature(cosignature));
        }
        self.store.put_checkpoint(&checkpoint).unwrap();
    }

    fn copy(&self) -> BootstrapManifest {
        let objects = Arc::new(FolderObjects::new(&self.folder.path().join("snapshots")));
        let go_on = &mut |_: u64| ControlFlow::Continue(());
        self.store.copy_for_new_nodes(objects, 1, go_on).unwrap().manifest
    }

    /// A copy in which the strand of group messages has other envelopes.
    fn altered(&self, envelopes: &[(SequenceId, Bytes)]) -> BootstrapManifest {
        let mut manifest = self.copy();
        let bytes = encode_chunk(GROUPS, envelopes);
        let hash = FileHash(*blake3::hash(&bytes).as_bytes());
        let path = self.folder.path().join("snapshots/chunks").join(&hash.to_string()[..2]);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(hash.to_string()), &bytes).unwrap();
        manifest.strands[0].chunks = vec![BootstrapChunk {
            from: envelopes[0].0,
            through: envelopes[envelopes.len() - 1].0,
            len_bytes: bytes.len() as u64,
            hash,
        }];
        manifest
    }

    fn envelopes(&self) -> Vec<(SequenceId, Bytes)> {
        let manifest = self.copy();
        self.place.chunk(GROUPS, &manifest.strands[0].chunks[0]).unwrap()
    }
}

fn majority(
    manifest: &BootstrapManifest,
    originator: OriginatorId,
    canonical: &[u32],
) -> Result<MajorityTree, BootstrapFetchError> {
    let registry = registry(canonical);
    Evidence::of(manifest, &registry)?.majority_tree(originator, &registry, OWN)
}

/// Appends events without a judge of identities: each is valid.
fn append(
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

/// Takes a strand over into a store, and compares its tree.
fn taken(
    maker: &Maker,
    store: &Store,
    manifest: &BootstrapManifest,
    signed: &MajorityTree,
    strand: usize,
) -> Result<FetchedStrand, BootstrapFetchError> {
    let stated = &manifest.strands[strand];
    let append = &|originator, events: &[_]| append(store, originator, events);
    let mut fetched = take_over(&maker.place, store, stated, signed, append, &mut |_| {})?;
    while !store.bring_up_trees(16).unwrap() {}
    require_tree(store, signed, &mut fetched)?;
    Ok(fetched)
}

fn places(store: &Store, originator: OriginatorId, through: u64) -> Vec<(u64, Option<Bytes>)> {
    let get = |place| store.snapshot().get(EnvelopeId::new(originator, SequenceId(place)));
    (1..=through).map(|place| (place, get(place).unwrap())).collect()
}

/// The envelopes of a strand, by their places.
type Envelopes = Vec<(SequenceId, Bytes)>;

#[test]
fn a_strand_is_taken_as_far_as_most_nodes_have_signed_one_tree() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, 5, &[300]);
    maker.sign(200, GROUPS, 6, &[]);
    // The same tree, signed by two nodes of their own.
    maker.sign(100, IDENTITIES, 6, &[]);
    maker.sign(300, IDENTITIES, 6, &[]);
    let manifest = maker.copy();
    assert!(manifest.strands[0].is_of_chain() && manifest.strands[1].is_of_chain());
    let all = [100, 200, 300, 400];
    let store = open(&maker.folder, "new", OWN.0);

    let signed = majority(&manifest, GROUPS, &all).unwrap();
    assert_eq!(
        (signed.end(), &signed.nodes[..]),
        (SequenceId(5), &[100, 300].map(OriginatorId)[..])
    );
    let fetched = taken(&maker, &store, &manifest, &signed, 0).unwrap();
    assert_eq!((fetched.head, fetched.reached.envelopes), (SequenceId(5), 4));
    assert_eq!(fetched.covered.unwrap().signed.checkpoint.size, 5);
    assert_eq!(
        store.snapshot().head(GROUPS).unwrap(),
        SequenceId(5),
        "nothing behind what was signed"
    );
    assert_eq!(places(&store, GROUPS, 5), places(&maker.store, GROUPS, 5));
    let (last, _) = last_envelope(&store, EnvelopeId::new(GROUPS, SequenceId(2))).unwrap().unwrap();
    assert_eq!(last.sequence, SequenceId(1), "the second place is void");
    // Again, as after an interruption.
    let again = taken(&maker, &store, &manifest, &signed, 0).unwrap();
    assert_eq!((again.head, again.reached), (SequenceId(5), Reached::default()));

    let signed = majority(&manifest, IDENTITIES, &all).unwrap();
    assert_eq!(signed.nodes, [100, 300].map(OriginatorId));
    taken(&maker, &store, &manifest, &signed, 1).unwrap();
    assert_eq!(places(&store, IDENTITIES, PLACES), places(&maker.store, IDENTITIES, PLACES));

    let verified = verify(&maker.place, &manifest, Some(&registry(&all)), &mut |_| {}).unwrap();
    let size = |at: usize| verified[at].covered.as_ref().unwrap().signed.checkpoint.size;
    assert_eq!((size(0), size(1)), (6, 6));
    assert!(!verified[0].is_signed && !verified[0].is_tree_short);
}

#[test]
fn the_word_of_too_few_nodes_is_no_ground() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, 5, &[400]);
    maker.sign(200, GROUPS, 6, &[]);
    let manifest = maker.copy();
    let refused = |canonical: &[u32], few: (usize, usize)| {
        let error = majority(&manifest, GROUPS, canonical).unwrap_err();
        let BootstrapFetchError::ChainUnsigned { most, wanted, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((most, wanted), few);
    };
    // Two of three are wanted, and this node is none of them.
    refused(&[100, 200, 300, 400], (1, 2));
    // A node that is not in the network does not count, on either side.
    refused(&[300, 400], (0, 1));
    assert_eq!(majority(&manifest, GROUPS, &[200, 400]).unwrap().end(), SequenceId(6));
    // Of a strand without any checkpoint nothing is taken.
    assert!(majority(&manifest, IDENTITIES, &[200, 400]).is_err());
}

#[test]
fn what_a_maker_has_altered_makes_another_tree_or_is_no_event() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, PLACES, &[200]);
    let other = entry(GROUPS, 3, 6).bytes;
    let with = |alter: &dyn Fn(&mut Envelopes)| {
        let mut envelopes = maker.envelopes();
        alter(&mut envelopes);
        maker.altered(&envelopes)
    };
    let all = [100, 200, 300, 400];
    let refused = |name: &str, manifest: &BootstrapManifest| {
        let store = open(&maker.folder, name, OWN.0);
        let signed = majority(manifest, GROUPS, &all).unwrap();
        let error = taken(&maker, &store, manifest, &signed, 0).unwrap_err();
        // A reader without a folder finds the same.
        let known = registry(&all);
        let verified = verify(&maker.place, manifest, Some(&known), &mut |_| {}).unwrap_err();
        assert_eq!(verified.to_string(), error.to_string(), "{name}");
        error
    };
    let is_other_tree = |error: BootstrapFetchError| {
        matches!(error, BootstrapFetchError::OtherTree { originator: GROUPS, size: PLACES, .. })
    };
    // The third place is the second envelope: the second place is void.
    assert!(is_other_tree(refused("exchanged", &with(&|it| it[1].1 = other.clone()))));
    assert!(is_other_tree(refused("left out", &with(&|it| drop(it.remove(1))))));
    assert!(is_other_tree(refused("cut off", &with(&|it| it.truncate(3)))));
    let invented = entry(GROUPS, 2, 5).bytes;
    let with_more = with(&|it| it.insert(1, (SequenceId(2), invented.clone())));
    assert!(is_other_tree(refused("made up", &with_more)));
    let flipped = with(&|it| {
        let mut bytes = it[1].1.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        it[1].1 = bytes.into();
    });
    let error = refused("flipped", &flipped);
    let is_no_event = matches!(error, BootstrapFetchError::NoEvent { place: SequenceId(3), .. })
        || is_other_tree(error);
    assert!(is_no_event);
    let moved = with(&|it| it[1].1 = it[2].1.clone());
    let error = refused("moved", &moved);
    assert!(matches!(error, BootstrapFetchError::NoEvent { place: SequenceId(3), .. }), "{error}");
    // The honest copy is still there.
    let (manifest, store) = (maker.copy(), open(&maker.folder, "honest", OWN.0));
    let signed = majority(&manifest, GROUPS, &all).unwrap();
    taken(&maker, &store, &manifest, &signed, 0).unwrap();
}

#[test]
fn more_than_enough_nodes_vouch_for_now_is_never_kept() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, 5, &[200]);
    maker.sign(300, GROUPS, 6, &[]);
    let manifest = maker.copy();
    let store = open(&maker.folder, "new", OWN.0);
    // An earlier run with a registry in which one node was enough.
    let signed = majority(&manifest, GROUPS, &[300, 400]).unwrap();
    assert_eq!(taken(&maker, &store, &manifest, &signed, 0).unwrap().head, SequenceId(6));
    let signed = majority(&manifest, GROUPS, &[100, 200, 300, 400]).unwrap();
    let error = taken(&maker, &store, &manifest, &signed, 0).unwrap_err();
    let head = SequenceId(6);
    assert!(
        matches!(error, BootstrapFetchError::ChainAhead { head: it, signed: 5, .. } if it == head),
        "{error}"
    );
}

const CHAIN_ID: u64 = 7;
/// The contract of the stand-in endpoints.
const CONTRACT: alloy::primitives::Address = alloy::primitives::Address::repeat_byte(9);
/// The block of the event, and the newest one.
const BLOCK: u64 = 1000;
const NEWEST: u64 = 1100;

/// The statements of a stand-in endpoint about a chain on which one transaction has ordered the first place.
#[derive(Clone)]
struct EndpointStatements {
    number: u64,
    newest: u64,
    /// The first byte of the block's hash in the receipt, and in the header.
    hashes: [u8; 2],
    parent: u8,
    time_s: u64,
    payload: Vec<u8>,
    has_transaction: bool,
}

impl EndpointStatements {
    fn truth() -> Self {
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

    fn answer(&self, asked: &Value) -> Value {
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
    async fn serve(self, mut stream: TcpStream) {
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

    /// Starts an endpoint that says this. Returns its URL.
    async fn start(self) -> String {
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

/// Compares the first place of a strand with a chain behind these endpoints. Returns the result with the position.
async fn compared(
    maker: &Maker,
    manifest: &BootstrapManifest,
    said: Vec<EndpointStatements>,
    dead: Option<&str>,
) -> (Result<(), BootstrapFetchError>, Option<ChainPosition>) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "new", OWN.0);
    let signed = majority(manifest, GROUPS, &[100, 200]).unwrap();
    let mut strand = taken(maker, &store, manifest, &signed, 0).unwrap();
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
    let compared = compare(&store, &ChainGrounds { signed, contract }, &mut strand).await;
    (compared, store.snapshot().chain_position(GROUPS).unwrap())
}

#[tokio::test]
async fn no_endpoint_alone_says_where_the_node_reads_on() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, 1, &[200]);
    let manifest = maker.copy();
    let truth = EndpointStatements::truth();
    let position = ChainPosition { block: BLOCK - 1, hash: [2; 32] };
    let far = 1 << 62;
    let lies = [
        ("far ahead", EndpointStatements { number: far, ..truth.clone() }),
        (
            "far ahead of a chain that is as long",
            EndpointStatements { number: far, newest: far, ..truth.clone() },
        ),
        ("another block", EndpointStatements { number: BLOCK + 1, ..truth.clone() }),
        ("another hash", EndpointStatements { hashes: [4; 2], ..truth.clone() }),
        ("a receipt of another block", EndpointStatements { hashes: [4, 1], ..truth.clone() }),
        ("another parent", EndpointStatements { parent: 4, ..truth.clone() }),
        ("another time", EndpointStatements { time_s: truth.time_s + 1, ..truth.clone() }),
        ("another payload", EndpointStatements { payload: vec![1], ..truth.clone() }),
        ("no transaction", EndpointStatements { has_transaction: false, ..truth.clone() }),
        ("a shorter chain", EndpointStatements { newest: BLOCK - 1, ..truth.clone() }),
    ];
    for (what, lie) in lies {
        for said in [vec![lie.clone(), truth.clone()], vec![truth.clone(), lie]] {
            let (result, position) = compared(&maker, &manifest, said, None).await;
            let error = result.unwrap_err();
            let is_disputed = matches!(error, BootstrapFetchError::ChainDisputed { .. });
            assert!(is_disputed, "{what}: {error}");
            assert_eq!(position, None, "{what}");
        }
    }
    // It need not be another one that finds a block out that the endpoint itself does not have yet.
    let (result, _) = compared(
        &maker,
        &manifest,
        vec![EndpointStatements { number: far, ..truth.clone() }],
        None,
    )
    .await;
    assert!(matches!(result, Err(BootstrapFetchError::ChainDisputed { .. })));

    let (result, found) =
        compared(&maker, &manifest, vec![truth.clone(), truth.clone()], None).await;
    result.unwrap();
    assert_eq!(found, Some(position));
    // One that does not answer contradicts nothing.
    let (result, found) =
        compared(&maker, &manifest, vec![truth.clone()], Some("http://127.0.0.1:1")).await;
    result.unwrap();
    assert_eq!(found, Some(position));
    let none = EndpointStatements { has_transaction: false, ..truth };
    let (result, _) = compared(&maker, &manifest, vec![none.clone(), none], None).await;
    assert!(matches!(result, Err(BootstrapFetchError::NotOnChain { .. })));
}
