//! Measures parts of a node separately, to find the ones worth optimising.

use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hawser_proto::batch::{SignatureClaim, recover_batch, recover_similar};
use hawser_proto::digests::payer_digests;
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::price::PicoDollarPrice;
use hawser_proto::sign::{keccak256, originator_digest};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PayerAddress, SecretKey, SequenceId};
use hawser_storage::{
    Change, Charge, Durability, Facts, LogEntry, Store, StoreIdentity, StoreSettings, Validity,
};
use prost::Message as _;

use crate::error::BenchError;
use crate::workload::Workload;
use crate::{process, stats};

pub(crate) const NODE: OriginatorId = OriginatorId(100);
/// Time of the first envelope.
const START_NS: i64 = 1_800_000_000_000_000_000;
const SAMPLES: u64 = 2000;
const TIME: Duration = Duration::from_secs(2);
/// Envelopes in one commit.
const BATCHES: [usize; 6] = [1, 10, 64, 100, 300, 1000];
const STORED_MAX: usize = 60_000;

/// Prints one line for each part.
pub(crate) fn run(data_dir: &Path, payload_len: usize) -> Result<(), BenchError> {
    let envelopes = payer_envelopes(payload_len)?;
    signatures(&envelopes)?;
    layers(&envelopes)?;
    for durability in [Durability::Fsync, Durability::Os] {
        for batch in BATCHES {
            commits(data_dir, durability, batch, &envelopes)?;
        }
    }
    Ok(())
}

pub(crate) fn payer_envelopes(payload_len: usize) -> Result<Vec<PayerEnvelope>, BenchError> {
    let workload = Workload::new(NODE, 64, 10_000, payload_len, [3; 32])?;
    let mut envelopes = Vec::new();
    for body in workload.requests(0, SAMPLES, 1) {
        let request = api::PublishPayerEnvelopesRequest::decode(body)?;
        for message in request.payer_envelopes {
            envelopes.push(PayerEnvelope::from_message(message)?);
        }
    }
    Ok(envelopes)
}

pub(crate) fn identity() -> Result<StoreIdentity, BenchError> {
    Ok(StoreIdentity { network: "micro".into(), node: NODE, public_key: key()?.public_key() })
}

/// The key of this program's own strand.
pub(crate) fn key() -> Result<SecretKey, BenchError> {
    Ok(SecretKey::from_bytes(&blake3::derive_key("hawser-bench node", &[]))?)
}

fn signatures(envelopes: &[PayerEnvelope]) -> Result<(), BenchError> {
    let key = key()?;
    let expected = Some(key.public_key());
    let claims: Vec<SignatureClaim> = envelopes
        .iter()
        .map(|envelope| {
            let digest = envelope.digest();
            SignatureClaim { digest, signature: key.sign(digest), expected }
        })
        .collect();
    let alone: Vec<SignatureClaim> =
        claims.iter().map(|it| SignatureClaim { expected: None, ..*it }).collect();
    let payers = (1..=10_u8).map(|seed| SecretKey::from_bytes(&[seed; 32]));
    let payers: Vec<SecretKey> = payers.collect::<Result<_, _>>()?;
    let signed = |(at, claim): (usize, &SignatureClaim)| {
        let signature = payers[at / 100].sign(claim.digest);
        SignatureClaim { signature, expected: None, ..*claim }
    };
    let in_runs: Vec<SignatureClaim> = claims.iter().take(1000).enumerate().map(signed).collect();
    for threads in [1, process::cores()] {
        on_threads("recover_similar, 10 payers with 100 claims each", threads, 1000, |_| {
            black_box(recover_similar(in_runs.clone()));
        })?;
        on_threads("recover_batch, 128 claims", threads, 128, |at| {
            let from = (at * 128) % (alone.len() - 128);
            black_box(recover_batch(&alone[from..from + 128]));
        })?;
        for len in [32, 64, 128, 256, 512, 1024] {
            let name = format!("recover_batch, {len} claims of one expected key");
            on_threads(&name, threads, len as u64, |at| {
                let from = (at * len) % (claims.len() - len);
                black_box(recover_batch(&claims[from..from + len]));
            })?;
        }
        on_threads("SecretKey::sign", threads, 1, |at| {
            black_box(key.sign(claims[at % claims.len()].digest));
        })?;
    }
    Ok(())
}

fn layers(envelopes: &[PayerEnvelope]) -> Result<(), BenchError> {
    let stored: Vec<Bytes> = envelopes
        .iter()
        .map(|envelope| Ok(originator_bytes(own(1), START_NS, envelope, &key()?)))
        .collect::<Result<_, BenchError>>()?;
    let at = |index: usize| &envelopes[index % envelopes.len()];
    on_threads("keccak-256 of a payer envelope", 1, 1, |index| {
        black_box(keccak256(&[at(index).as_bytes()]));
    })?;
    let signed: Vec<(OriginatorId, &[u8])> =
        envelopes.iter().take(256).map(|it| (it.target(), &it.client().as_bytes()[..])).collect();
    on_threads("payer_digests, 256 of them", 1, signed.len() as u64, |_| {
        black_box(payer_digests(signed.iter().copied()));
    })?;
    on_threads("PayerEnvelope::parse", 1, 1, |index| {
        black_box(PayerEnvelope::parse(at(index).as_bytes().clone())).expect("was parsed before");
    })?;
    on_threads("OriginatorEnvelope::parse", 1, 1, |index| {
        let bytes = stored[index % stored.len()].clone();
        black_box(OriginatorEnvelope::parse(bytes)).expect("made by this program");
    })
}

/// Repeats an operation on several threads for some time. `each` is the number of items of one call.
fn on_threads(
    name: &str,
    threads: usize,
    each: u64,
    operation: impl Fn(usize) + Sync,
) -> Result<(), BenchError> {
    let start = Instant::now();
    let calls: u64 = thread::scope(|scope| {
        let work = || {
            let mut calls = 0;
            while start.elapsed() < TIME {
                operation(calls);
                calls += 1;
            }
            calls as u64
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("does not panic")).sum()
    });
    let rate = stats::per_second(calls * each, start.elapsed());
    println!("{name}, {threads} threads: {rate:.0}/s, {:.2} us each", 1e6 / rate);
    Ok(())
}

/// Returns the bytes of a stored envelope, signed by `key`.
pub(crate) fn originator_bytes(
    id: EnvelopeId,
    originator_ns: i64,
    payer: &PayerEnvelope,
    key: &SecretKey,
) -> Bytes {
    use hawser_proto::pb::xmtp::identity::associations::RecoverableEcdsaSignature;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    let unsigned = pb::UnsignedOriginatorEnvelope {
        originator_node_id: id.originator.0,
        originator_sequence_id: id.sequence.0,
        originator_ns,
        payer_envelope_bytes: payer.as_bytes().clone(),
        base_fee_picodollars: 7_000_000,
        congestion_fee_picodollars: 0,
        expiry_unixtime: 1_805_184_000,
    };
    let unsigned = Bytes::from(unsigned.encode_to_vec());
    let signature = key.sign(originator_digest(&unsigned));
    let signature =
        RecoverableEcdsaSignature { bytes: Bytes::copy_from_slice(signature.as_bytes()) };
    let proof = Some(pb::originator_envelope::Proof::OriginatorSignature(signature));
    pb::OriginatorEnvelope { unsigned_originator_envelope: unsigned, proof }.encode_to_vec().into()
}

/// Measures sequential commits of `batch` envelopes each into a new database.
fn commits(
    data_dir: &Path,
    durability: Durability,
    batch: usize,
    envelopes: &[PayerEnvelope],
) -> Result<(), BenchError> {
    let folder = tempfile::tempdir_in(data_dir)?;
    let store = Store::open(&StoreSettings {
        path: folder.path().join("db"),
        identity: identity()?,
        durability,
        price: |_, _| PicoDollarPrice(7_000_000),
        host: None,
        open_files_max: 1024,
        cache_bytes: hawser_storage::CACHE_BYTES_MIN,
    })?;
    let stored = originator_bytes(own(1), START_NS, &envelopes[0], &key()?);
    let (mut count, mut commits) = (0, 0);
    let cpu_before = process::cpu_time(std::process::id())?;
    let mut spent = Duration::ZERO;
    while spent < TIME && count < STORED_MAX {
        let changes: Vec<_> = (count..count + batch)
            .map(|index| {
                let sequence = index as u64 + 1;
                let payer = &envelopes[index % envelopes.len()];
                change(sequence, sequence % 64, START_NS, payer, &stored)
            })
            .collect();
        let start = Instant::now();
        store.commit(&changes)?;
        spent += start.elapsed();
        count += batch;
        commits += 1;
    }
    let cpu = process::cpu_time(std::process::id())? - cpu_before;
    let rate = stats::per_second(count as u64, spent);
    let each = spent.as_secs_f64() * 1e6 / stats::float(commits);
    let cpu_us = cpu.as_secs_f64() * 1e6 / stats::float(count as u64);
    println!(
        "commit of {batch}, {durability:?}: {rate:.0} envelopes/s, {each:.0} us a commit, \
         {cpu_us:.1} us CPU an envelope"
    );
    Ok(())
}

/// Returns the append of an envelope with its own bytes, `minute` minutes after the first one.
pub(crate) fn stored_change(
    sequence: u64,
    payer_index: u64,
    minute: u64,
    payer: &PayerEnvelope,
) -> Result<Change, BenchError> {
    let originator_ns = START_NS + i64::try_from(minute)? * 60_000_000_000;
    let stored = originator_bytes(own(sequence), originator_ns, payer, &key()?);
    Ok(change(sequence, payer_index, originator_ns, payer, &stored))
}

fn change(
    sequence: u64,
    payer_index: u64,
    originator_ns: i64,
    payer: &PayerEnvelope,
    stored: &Bytes,
) -> Change {
    let payer_address = *blake3::hash(&payer_index.to_be_bytes()).as_bytes();
    let facts = Facts {
        topic: Some(payer.client().topic().clone()),
        originator_ns,
        depends_on: Vec::new(),
        expiry_unix_s: Some(1_805_184_000),
        receipt: Some(*blake3::hash(&sequence.to_be_bytes()).as_bytes()),
        charge: Some(Charge {
            payer: address(payer_address),
            size_bytes: payer.as_bytes().len() as u64,
            retention_days: payer.retention_days(),
            stated_picodollars: PicoDollarPrice(7_000_000),
        }),
        counts_for_congestion: true,
        addresses: Vec::new(),
    };
    Change::Append(LogEntry {
        id: own(sequence),
        bytes: stored.clone(),
        validity: Validity::Valid,
        facts: Some(facts),
    })
}

/// Returns a place of this program's own strand.
fn own(sequence: u64) -> EnvelopeId {
    EnvelopeId::new(NODE, SequenceId(sequence))
}

fn address(hash: [u8; 32]) -> PayerAddress {
    let mut address = [0; 20];
    address.copy_from_slice(&hash[..20]);
    hawser_proto::Address(address)
}
