//! Trees, checkpoints and notes are those of `docs/protocol/checkpoints.md`. `tests/second/checkpoints.py` was written
//! from that page alone and made `data/checkpoints.jsonl`; both agree on every vector, and on mutated ones.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use hawser_proto::checkpoint::{
    CosignedCheckpoint, WitnessCosignature, WitnessKey, WitnessName, note_text,
};
use hawser_proto::merkle::{
    CompactRange, ConsistencyProof, InclusionProof, LeafData, PROOF_LEN_MAX, Tile, TreeHash,
    leaf_hash,
};
use hawser_proto::{OriginatorId, PublicKey, SequenceId};
use serde_json::{Value, json};

use crate::second::{self, Chance};

/// Mutated forms of each vector that both implementations judge.
const MUTATIONS: u64 = 3;

fn vectors() -> Vec<Value> {
    let lines = include_str!("data/checkpoints.jsonl").lines();
    let vectors: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(vectors.len() > 200, "the vectors are there");
    vectors
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn hash(value: &Value) -> TreeHash {
    TreeHash::from_slice(&bytes(value)).unwrap()
}

fn hashes(value: &Value) -> Vec<TreeHash> {
    value.as_array().unwrap().iter().map(hash).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn key_of(case: &Value) -> impl Fn(OriginatorId) -> Option<PublicKey> + '_ {
    |node| PublicKey::from_uncompressed(&bytes(case["registry"].get(node.0.to_string())?))
}

/// Judges a case as the other implementation does: true, false, or the value that it asks for.
fn verdict(case: &Value) -> Value {
    match case["kind"].as_str().unwrap() {
        "leaf" => {
            let unsigned = bytes(&case["unsigned"]);
            let transaction = case.get("transaction").map(|it| bytes(it).try_into().unwrap());
            let data = match &transaction {
                Some(transaction) => LeafData::OnChain(&unsigned, transaction),
                None if unsigned.is_empty() => LeafData::Void,
                None => LeafData::Signed(&unsigned),
            };
            json!(leaf_hash(data).to_string())
        }
        "root" => {
            let mut tree = CompactRange::default();
            hashes(&case["leaves"]).into_iter().for_each(|leaf| tree.append(leaf, |_, _| {}));
            json!(tree.root().to_string())
        }
        "inclusion" => {
            let (proof, size) = (hashes(&case["proof"]), number(&case["size"]));
            let fits = proof.len() <= PROOF_LEN_MAX && size <= SequenceId::MAX.0;
            let (leaf, root) = (hash(&case["leaf"]), hash(&case["root"]));
            let verified = InclusionProof(proof).verify(leaf, number(&case["index"]), size, root);
            json!(fits && verified.is_ok())
        }
        "consistency" => {
            let (proof, to) = (hashes(&case["proof"]), number(&case["to"]));
            let fits = proof.len() <= PROOF_LEN_MAX && to <= SequenceId::MAX.0;
            let (earlier, later) = (hash(&case["earlier"]), hash(&case["later"]));
            let verified =
                ConsistencyProof(proof).verify(number(&case["from"]), to, earlier, later);
            json!(fits && verified.is_ok())
        }
        "tile" => {
            let tile = Tile::of_path(case["path"].as_str().unwrap());
            json!(tile.map(|tile| (tile.level(), tile.index(), tile.width())))
        }
        "witness" => json!(is_witnessed(case)),
        "note" => note(case).unwrap_or(json!(false)),
        "checkpoint" => {
            let read = CosignedCheckpoint::decode(&bytes(&case["bytes"]));
            json!(read.is_ok_and(|read| is_signed(case, &read)))
        }
        kind => panic!("unknown kind {kind}"),
    }
}

fn is_signed(case: &Value, read: &CosignedCheckpoint) -> bool {
    let (key_of, of) = (key_of(case), read.signed.checkpoint);
    key_of(of.node).is_some_and(|key| read.signed.verify(&key).is_ok())
        && read
            .cosignatures
            .iter()
            .all(|it| key_of(it.cosigner).is_some_and(|key| it.verify(&of, &key).is_ok()))
}

fn note(case: &Value) -> Option<Value> {
    let (note, network) = (case["note"].as_str().unwrap(), case["network"].as_str().unwrap());
    let read = CosignedCheckpoint::from_note(note, network, key_of(case)).ok()?;
    let cosigners: Vec<u32> = read.cosignatures.iter().map(|it| it.cosigner.0).collect();
    let of = read.signed.checkpoint;
    is_signed(case, &read)
        .then(|| json!({ "time": of.time_ns, "size": of.size, "cosigners": cosigners }))
}

fn is_witnessed(case: &Value) -> bool {
    let (network, blob) = (case["network"].as_str().unwrap(), bytes(&case["blob"]));
    let node = OriginatorId(u32::try_from(number(&case["node"])).unwrap());
    let originator = OriginatorId(u32::try_from(number(&case["originator"])).unwrap());
    let (size, root) = (number(&case["size"]), hash(&case["root"]));
    let of = hawser_proto::checkpoint::Checkpoint { node, originator, size, root, time_ns: 0 };
    assert!(note_text(network, &of).starts_with(network));
    let name = WitnessName::new(case["name"].as_str().unwrap()).unwrap();
    let key = bytes(&case["public_key"]).try_into().unwrap();
    let Ok(key) = WitnessKey::new(name.clone(), &key) else { return false };
    let witness = WitnessCosignature {
        name,
        key_id: blob[..4].try_into().unwrap(),
        time_unix_s: u64::from_be_bytes(blob[4..12].try_into().unwrap()),
        signature: blob[12..].try_into().unwrap(),
    };
    witness.verify(network, &of, &key).is_ok()
}

impl Chance {
    fn flip(&mut self, value: &Value) -> Value {
        let mut bytes = bytes(value);
        if !bytes.is_empty() {
            let at = self.next(bytes.len());
            bytes[at] ^= 1 << self.next(8);
        }
        json!(hex::encode(bytes))
    }

    /// Replaces, removes or adds a letter of a path.
    fn other_path(&mut self, path: &str) -> String {
        let mut letters: Vec<char> = path.chars().collect();
        let others = ['0', '1', '7', '9', 'x', '/', '.', 'p', ' ', '+', '-', '%', '\u{661}'];
        let other = others[self.next(others.len())];
        let at = self.next(letters.len() + 1);
        match self.next(3) {
            0 if at < letters.len() => letters[at] = other,
            1 if at < letters.len() => _ = letters.remove(at),
            _ => letters.insert(at, other),
        }
        letters.into_iter().collect()
    }

    /// Changes one field of a case.
    fn mutate(&mut self, case: &Value) -> Value {
        let mut case = case.clone();
        let fields: Vec<String> = case.as_object().unwrap().keys().map(ToOwned::to_owned).collect();
        let field = &fields[self.next(fields.len())];
        let changed = match (field.as_str(), &case[field]) {
            ("kind" | "verdict" | "registry" | "network" | "name", value) => value.clone(),
            ("node" | "originator", value) => json!(number(value) ^ (1 << self.next(32))),
            ("note", Value::String(note)) => {
                let mut letters: Vec<char> = note.chars().collect();
                let at = self.next(letters.len());
                let others = ['0', '7', 'A', '/', '=', '\n', ' ', '\u{2014}', '+', '\r', 'é'];
                letters[at] = others[self.next(others.len())];
                json!(letters.into_iter().collect::<String>())
            }
            ("path", Value::String(path)) => json!(self.other_path(path)),
            (_, value @ Value::String(_)) => self.flip(value),
            (_, Value::Array(values)) if !values.is_empty() => {
                let mut values = values.clone();
                let at = self.next(values.len());
                match self.next(4) {
                    0 => values[at] = self.flip(&values[at]),
                    1 => _ = values.remove(at),
                    2 => values.push(values[at].clone()),
                    _ => values.swap(0, at),
                }
                json!(values)
            }
            (_, Value::Number(value)) => {
                let changes = [1, 2, u64::MAX, 1 << 63, (1 << 63) - 1];
                json!(value.as_u64().unwrap().wrapping_add(changes[self.next(changes.len())]))
            }
            (_, value) => value.clone(),
        };
        case[field] = changed;
        case
    }
}

#[test]
fn every_vector_gets_its_verdict() {
    for case in vectors() {
        assert_eq!(verdict(&case), case["verdict"], "{case}");
    }
}

#[test]
fn the_second_implementation_agrees_on_vectors_and_on_mutated_ones() {
    let mut chance = Chance(6962);
    let vectors = vectors();
    let mut cases = vectors.clone();
    for case in vectors.iter().filter(|case| case["kind"] != "leaf") {
        cases.extend((0..MUTATIONS).map(|_| chance.mutate(case)));
    }
    let found = second::run("checkpoints.py", &["check"], &cases);
    assert_eq!(found.len(), cases.len());
    for (case, found) in cases.iter().zip(found) {
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!(verdict(case), found, "{case}");
    }
}
