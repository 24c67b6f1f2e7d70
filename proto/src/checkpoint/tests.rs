//! Checkpoints have one form, in binary and as text, and only their signers can have made them.

use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;

use super::*;
use crate::ids::OriginatorId;
use crate::merkle::{LeafData, TreeHash, leaf_hash};
use crate::sign::{PublicKey, SecretKey, Signature, SignatureError, keccak256};

const NETWORK: &str = "testnet";
const WITNESS: &str = "witness.example/w1";

fn key(node: OriginatorId) -> SecretKey {
    SecretKey::from_bytes(&[u8::try_from(node.0 / 100).unwrap(); 32]).unwrap()
}

fn registry(node: OriginatorId) -> Option<PublicKey> {
    (100..=900).contains(&node.0).then(|| key(node).public_key())
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        node: OriginatorId(100),
        originator: OriginatorId(100),
        size: 20_852_163,
        root: leaf_hash(LeafData::Signed(b"root")),
        time_ns: 1_767_000_000_123_456_789,
    }
}

fn witness_key() -> (SigningKey, WitnessKey) {
    let secret = SigningKey::from_bytes(&[9; 32]);
    let name = WitnessName::new(WITNESS).unwrap();
    let key = WitnessKey::new(name, secret.verifying_key().as_bytes()).unwrap();
    (secret, key)
}

fn witnessed(of: &Checkpoint, time_unix_s: u64) -> WitnessCosignature {
    let (secret, key) = witness_key();
    let message = WitnessCosignature::message(NETWORK, of, time_unix_s);
    let signature = secret.sign(message.as_bytes()).to_bytes();
    let name = WitnessName::new(WITNESS).unwrap();
    WitnessCosignature { name, key_id: key.id(), time_unix_s, signature }
}

/// A checkpoint with two nodes and a witness behind it.
fn cosigned() -> CosignedCheckpoint {
    let checkpoint = checkpoint();
    let mut cosigned = CosignedCheckpoint::from(checkpoint.sign(&key(checkpoint.node)));
    for node in [OriginatorId(300), OriginatorId(200)] {
        assert!(cosigned.add_cosignature(checkpoint.cosign(node, 7, &key(node))));
    }
    assert!(cosigned.add_witness(witnessed(&checkpoint, 1_767_000_001)));
    cosigned
}

#[test]
fn the_digests_are_pinned() {
    let checkpoint = Checkpoint { root: TreeHash([0xab; 32]), ..checkpoint() };
    let layout = [
        b"checkpoint|".to_vec(),
        hex::decode("000000640000006400000000013e2dc3").unwrap(),
        vec![0xab; 32],
        checkpoint.time_ns.to_be_bytes().to_vec(),
    ];
    assert_eq!(checkpoint.digest(), keccak256(&[&layout.concat()]));
    let layout = [
        b"cosignature|".to_vec(),
        hex::decode("000000c8000000640000006400000000013e2dc3").unwrap(),
        vec![0xab; 32],
        7_u64.to_be_bytes().to_vec(),
    ];
    assert_eq!(checkpoint.cosignature_digest(OriginatorId(200), 7), keccak256(&[&layout.concat()]));
}

#[test]
fn only_the_node_can_have_signed() {
    let signed = cosigned().signed;
    let own = registry(OriginatorId(100)).unwrap();
    assert_eq!(signed.verify(&own), Ok(()));
    let other = registry(OriginatorId(200)).unwrap();
    assert_eq!(signed.verify(&other), Err(CheckpointError::OtherKey(OriginatorId(100))));
    let of = signed.checkpoint;
    let changes = [
        Checkpoint { node: OriginatorId(101), ..of },
        Checkpoint { originator: OriginatorId(101), ..of },
        Checkpoint { size: of.size + 1, ..of },
        Checkpoint { root: leaf_hash(LeafData::Void), ..of },
        Checkpoint { time_ns: of.time_ns + 1, ..of },
    ];
    for checkpoint in changes {
        assert!(SignedCheckpoint { checkpoint, ..signed }.verify(&own).is_err(), "{checkpoint:?}");
    }
    let mut high = *signed.signature.as_bytes();
    high[64] += 2;
    let signature = Signature::from_bytes(&high).unwrap();
    let error = SignedCheckpoint { signature, ..signed }.verify(&own);
    assert_eq!(error, Err(CheckpointError::Signature(SignatureError::NotCanonical)));
    let endless = Checkpoint { size: u64::MAX, ..of }.sign(&key(OriginatorId(100)));
    assert_eq!(endless.verify(&own), Err(CheckpointError::Size(u64::MAX)));
}

#[test]
fn only_the_cosigner_can_have_cosigned_and_only_this_tree() {
    let cosigned = cosigned();
    let of = cosigned.signed.checkpoint;
    let [first, _] = cosigned.cosignatures[..] else { panic!("two nodes cosigned") };
    let own = registry(first.cosigner).unwrap();
    assert_eq!(first.verify(&of, &own), Ok(()));
    // The tree counts, not the time at which the node stated it.
    assert_eq!(first.verify(&Checkpoint { time_ns: 0, ..of }, &own), Ok(()));
    assert!(first.verify(&Checkpoint { size: 1, ..of }, &own).is_err());
    assert!(Cosignature { time_ns: 8, ..first }.verify(&of, &own).is_err());
    let other = registry(OriginatorId(300)).unwrap();
    assert_eq!(first.verify(&of, &other), Err(CheckpointError::OtherKey(OriginatorId(200))));
    // A checkpoint is no cosignature of itself.
    let signature = cosigned.signed.signature;
    let own = Cosignature { cosigner: of.node, time_ns: of.time_ns, signature };
    assert!(own.verify(&of, &registry(of.node).unwrap()).is_err());
}

#[test]
fn witnesses_sign_the_text_of_the_note() {
    let (of, (_, key)) = (checkpoint(), witness_key());
    let witness = witnessed(&of, 5);
    assert_eq!(witness.verify(NETWORK, &of, &key), Ok(()));
    assert_eq!(witness.verify("mainnet", &of, &key), Err(WitnessError::Signature));
    let other = Checkpoint { size: 1, ..of };
    assert_eq!(witness.verify(NETWORK, &other, &key), Err(WitnessError::Signature));
    let later = WitnessCosignature { time_unix_s: 6, ..witness.clone() };
    assert_eq!(later.verify(NETWORK, &of, &key), Err(WitnessError::Signature));
    let name = WitnessName::new("witness.example/w2").unwrap();
    let renamed = WitnessCosignature { name, ..witness.clone() };
    assert_eq!(renamed.verify(NETWORK, &of, &key), Err(WitnessError::OtherKey));
    let time_unix_s = u64::MAX;
    let endless = WitnessCosignature { time_unix_s, ..witness };
    assert_eq!(endless.verify(NETWORK, &of, &key), Err(WitnessError::Time));
    for name in ["", "a b", "a+b", "a\u{a0}b", "a\nb", &"a".repeat(WITNESS_NAME_LEN_MAX + 1)] {
        assert_eq!(WitnessName::new(name), None, "{name:?}");
    }
}

#[test]
fn the_key_id_is_that_of_the_specification() {
    // The example of C2SP tlog-cosignature: its witness's key id is the beginning of the blob.
    let id = names::key_id("a", &[4], &[0; 32]);
    let hash = <sha2::Sha256 as sha2::Digest>::digest([&b"a\n\x04"[..], &[0; 32]].concat());
    assert_eq!(id, hash[..4]);
}

#[test]
fn both_forms_read_back() {
    let cosigned = cosigned();
    let bytes = cosigned.encode();
    assert_eq!(CosignedCheckpoint::decode(&bytes), Ok(cosigned.clone()));
    let signed = cosigned.signed;
    assert_eq!(SignedCheckpoint::decode(&signed.encode()), Ok(signed));
    let note = cosigned.to_note(NETWORK, registry);
    assert!(note.starts_with("testnet/strands/100/100\n20852163\n"), "{note}");
    assert!(note.contains("\n\n\u{2014} testnet/strands/100/100 "), "{note}");
    assert!(note.contains("\n\u{2014} testnet/nodes/200 "), "{note}");
    assert_eq!(CosignedCheckpoint::from_note(&note, NETWORK, registry), Ok(cosigned));
}

#[test]
fn the_largest_checkpoint_fits_both_forms() {
    let of = checkpoint();
    let mut full = CosignedCheckpoint::from(of.sign(&key(of.node)));
    let cosignature = of.cosign(OriginatorId(200), 1, &key(OriginatorId(200)));
    for node in 0.. {
        let added =
            full.add_cosignature(Cosignature { cosigner: OriginatorId(node), ..cosignature });
        if !added {
            break;
        }
    }
    let witness = witnessed(&of, 1);
    for number in 0.. {
        let name = WitnessName::new(&format!("{number:0>128}")).unwrap();
        if !full.add_witness(WitnessCosignature { name, ..witness.clone() }) {
            break;
        }
    }
    assert_eq!(full.encode().len(), CODEC_LEN_BYTES_MAX);
    assert_eq!(CosignedCheckpoint::decode(&full.encode()), Ok(full.clone()));
    let network = "n".repeat(NETWORK_LEN_MAX);
    let note = full.to_note(&network, |_| registry(of.node));
    assert!(note.len() <= NOTE_LEN_BYTES_MAX, "{}", note.len());
    assert_eq!(CosignedCheckpoint::from_note(&note, &network, |_| registry(of.node)), Ok(full));
}

#[test]
fn another_form_is_refused_by_name() {
    let bytes = cosigned().encode();
    let decode = CosignedCheckpoint::decode;
    for len in 0..bytes.len() {
        assert_eq!(decode(&bytes[..len]), Err(CheckpointCodecError::Truncated), "{len} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(decode(&longer), Err(CheckpointCodecError::Trailing(1)));
    let with = |at: usize, value: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        decode(&bytes)
    };
    assert_eq!(with(8, &[0x80]), Err(CheckpointCodecError::Size((1 << 63) + 20_852_163)));
    let not_canonical = CheckpointCodecError::Signature(SignatureError::NotCanonical);
    assert_eq!(with(120, &[3]), Err(not_canonical));
    assert_eq!(with(121, &[2, 0]), Err(CheckpointCodecError::TooMany(512)));
    assert_eq!(with(121, &[1, 0]), Err(CheckpointCodecError::Truncated), "claimed, not sent");
    assert_eq!(with(123, &[0xff]), Err(CheckpointCodecError::Order));
    let witnesses = 123 + 2 * 77;
    assert_eq!(with(witnesses + 3, b" "), Err(CheckpointCodecError::WitnessName));
}

#[test]
fn notes_of_another_form_are_refused_by_name() {
    let note = cosigned().to_note(NETWORK, registry);
    let read = |note: &str| CosignedCheckpoint::from_note(note, NETWORK, registry);
    let with = |from: &str, to: &str| read(&note.replacen(from, to, 1));
    assert_eq!(with("testnet/", "mainnet/"), Err(NoteError::OtherNetwork));
    assert_eq!(with("/strands/", "/threads/"), Err(NoteError::Origin));
    assert_eq!(with("100/100", "100/0100"), Err(NoteError::Origin));
    assert_eq!(with("100/100", "100/4294967296"), Err(NoteError::Origin));
    assert_eq!(with("100/100", "100/100/1"), Err(NoteError::Origin));
    assert_eq!(with("\n2085", "\n02085"), Err(NoteError::Size));
    assert_eq!(with("\n2085", "\n+2085"), Err(NoteError::Size));
    assert_eq!(with("\n20852163", "\n9223372036854775808"), Err(NoteError::Size));
    assert_eq!(with("=\n\n", "\n\n"), Err(NoteError::Root));
    assert_eq!(with("=\n\n", "=\nextension\n\n"), Err(NoteError::NoNote));
    assert_eq!(with("\n\n", "\n"), Err(NoteError::NoNote));
    assert_eq!(with("\n\n", "\r\n\n"), Err(NoteError::NoNote));
    assert_eq!(read(note.trim_end()), Err(NoteError::NoNote));
    assert_eq!(with("\u{2014} ", "- "), Err(NoteError::Signature(1)));
    assert_eq!(with("100/100\n", "100/200\n"), Err(NoteError::Unsigned));
    assert_eq!(read(&"n".repeat(NOTE_LEN_BYTES_MAX + 1)), Err(NoteError::TooLong(131_073)));
    let in_another_form = |signature: Signature| {
        let mut bytes = *signature.as_bytes();
        bytes[64] += 2;
        Signature::from_bytes(&bytes).unwrap()
    };
    let mut other = cosigned();
    other.signed.signature = in_another_form(other.signed.signature);
    assert_eq!(read(&other.to_note(NETWORK, registry)), Err(NoteError::OtherForm(1)));
    let mut other = cosigned();
    other.cosignatures[0].signature = in_another_form(other.cosignatures[0].signature);
    assert_eq!(read(&other.to_note(NETWORK, registry)), Err(NoteError::OtherForm(2)));
    // The key is not the node's.
    let unknown = |node: OriginatorId| registry(OriginatorId(node.0 + 100));
    let error = CosignedCheckpoint::from_note(&note, NETWORK, unknown);
    assert_eq!(error, Err(NoteError::Unsigned));
}

#[test]
fn signatures_of_unknown_keys_and_types_are_left_out() {
    let cosigned = cosigned();
    let note = cosigned.to_note(NETWORK, registry) + "\u{2014} someone/else AAAAAAE=\n";
    let without_200 = |node: OriginatorId| registry(node).filter(|_| node.0 != 200);
    let read = CosignedCheckpoint::from_note(&note, NETWORK, without_200).unwrap();
    assert_eq!(read.signed, cosigned.signed);
    assert_eq!(read.cosignatures, cosigned.cosignatures[1..]);
    assert_eq!(read.witnesses, cosigned.witnesses);
}

#[test]
fn a_witness_signs_three_lines() {
    let of = checkpoint();
    let text = note_text(NETWORK, &of);
    assert_eq!(text.lines().count(), 3);
    let message = WitnessCosignature::message(NETWORK, &of, 5);
    assert_eq!(message, format!("cosignature/v1\ntime 5\n{text}"));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_the_one_form(mut at: usize, value: u8, cut: usize) {
        let mut bytes = cosigned().encode();
        at %= bytes.len();
        bytes[at] = value;
        bytes.truncate(bytes.len() - cut % 3);
        if let Ok(read) = CosignedCheckpoint::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn any_text_is_refused_or_read(at: usize, value in "[ -~\n\u{2014}]") {
        let mut note: Vec<char> = cosigned().to_note(NETWORK, registry).chars().collect();
        let at = at % note.len();
        note[at] = value.chars().next().unwrap();
        let note: String = note.into_iter().collect();
        if let Ok(read) = CosignedCheckpoint::from_note(&note, NETWORK, registry) {
            let again = read.to_note(NETWORK, registry);
            prop_assert_eq!(CosignedCheckpoint::from_note(&again, NETWORK, registry), Ok(read));
        }
    }
}

#[test]
fn a_witness_signs_what_readers_verify() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let name = WitnessName::new("witness.example/w1").unwrap();
    let signer = WitnessSigner::new(name, &[9; 32]);
    let of = Checkpoint {
        node: OriginatorId(100),
        originator: OriginatorId(1),
        size: 40,
        root: TreeHash([7; 32]),
        time_ns: 5,
    };
    let made = signer.cosign("testnet", &of, 1_767_000_001);
    assert_eq!(made.signer(), signer.signer());
    assert_eq!(made.verify("testnet", &of, &signer.key()), Ok(()));
    assert_eq!(made.verify("mainnet", &of, &signer.key()), Err(WitnessError::Signature));
    let other = WitnessSigner::new(WitnessName::new("witness.example/w2").unwrap(), &[9; 32]);
    assert_eq!(made.verify("testnet", &of, &other.key()), Err(WitnessError::OtherKey));
    // As the vectors have it, which another implementation made.
    let vectors = include_str!("../../tests/data/checkpoints.jsonl");
    let text = signer.verifier_key();
    let (_, key) = text.rsplit_once('+').unwrap();
    let key = STANDARD.decode(key).unwrap();
    assert!(vectors.contains(&format!("\"public_key\":\"{}\"", hex::encode(&key[1..]))));
    assert!(text.starts_with("witness.example/w1+") && key[0] == 4, "{text}");
    assert!(!format!("{signer:?}").contains("9, 9"), "the secret is not shown");
}
