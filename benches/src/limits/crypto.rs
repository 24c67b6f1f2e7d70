//! Measures how many signatures one core recovers and makes, with either library.

use std::hint::black_box;
use std::time::Duration;

use hawser_proto::{Digest, SecretKey};
use k256::ecdsa::{RecoveryId, SigningKey, VerifyingKey};
use secp256k1::ecdsa::RecoverableSignature;
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::process;

/// Number of digests, each signed by another key, so that operations cannot reuse cached values.
const SAMPLES: usize = 512;

/// CPU time of one operation, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CryptoLimits {
    /// Recovery of the public key from digest and signature.
    pub(crate) recover_k256_us: f64,
    pub(crate) recover_libsecp256k1_us: f64,
    /// Signing of a digest.
    pub(crate) sign_k256_us: f64,
    pub(crate) sign_libsecp256k1_us: f64,
    /// The part of the line above that blinds the context anew. The library's Rust interface does
    /// so with each signature.
    pub(crate) rerandomize_libsecp256k1_us: f64,
    /// Signing of a digest as a node does it.
    pub(crate) sign_node_us: f64,
}

impl CryptoLimits {
    /// Returns the time of one recovery with the faster library, in microseconds.
    pub(crate) fn t_verify_us(&self) -> f64 {
        self.recover_k256_us.min(self.recover_libsecp256k1_us)
    }

    /// Returns the time of one signature in the fastest way, in microseconds. Excludes the blinding of libsecp256k1,
    /// which a node can do once.
    pub(crate) fn t_sign_us(&self) -> f64 {
        let unblinded = self.sign_libsecp256k1_us - self.rerandomize_libsecp256k1_us;
        self.sign_k256_us.min(unblinded).min(self.sign_node_us)
    }
}

/// Measures each operation for about `time` of CPU time on this thread.
pub(crate) fn measure(time: Duration) -> Result<CryptoLimits, BenchError> {
    let samples = samples()?;
    let at = |index: usize| &samples[index % SAMPLES];
    Ok(CryptoLimits {
        recover_k256_us: cost(time, |index| {
            let sample = at(index);
            let signature = k256::ecdsa::Signature::from_slice(&sample.signature[..64]);
            let v = RecoveryId::from_byte(sample.signature[64]).expect("made by this library");
            let key = signature.and_then(|signature| {
                VerifyingKey::recover_from_prehash(&sample.digest, &signature, v)
            });
            black_box(key.expect("a valid signature").to_sec1_point(false));
        })?,
        recover_libsecp256k1_us: cost(time, |index| {
            let sample = at(index);
            let v = secp256k1::ecdsa::RecoveryId::from_u8_masked(sample.signature[64]);
            let key = RecoverableSignature::from_compact(&sample.signature[..64], v)
                .and_then(|signature| signature.recover(message(sample)));
            black_box(key.expect("a valid signature").serialize_uncompressed());
        })?,
        sign_k256_us: cost(time, |index| {
            let sample = at(index);
            black_box(sample.k256.sign_prehash_recoverable(&sample.digest));
        })?,
        sign_libsecp256k1_us: cost(time, |index| {
            let sample = at(index);
            let signature =
                RecoverableSignature::sign_ecdsa_recoverable(message(sample), &sample.libsecp256k1);
            black_box(signature.serialize_compact());
        })?,
        rerandomize_libsecp256k1_us: cost(time, |index| {
            secp256k1::rerandomize_global_context(&at(index).digest);
        })?,
        sign_node_us: cost(time, |index| {
            let sample = at(index);
            black_box(sample.node.sign(Digest(sample.digest)));
        })?,
    })
}

struct Sample {
    k256: SigningKey,
    libsecp256k1: secp256k1::SecretKey,
    node: SecretKey,
    digest: [u8; 32],
    signature: [u8; 65],
}

fn message(sample: &Sample) -> secp256k1::Message {
    secp256k1::Message::from_digest(sample.digest)
}

fn samples() -> Result<Vec<Sample>, BenchError> {
    (0..SAMPLES)
        .map(|index| {
            let index = index.to_be_bytes();
            let secret = blake3::derive_key("hawser-bench signer", &index);
            let digest = blake3::derive_key("hawser-bench digest", &index);
            let key = SigningKey::from_slice(&secret)?;
            let (rs, v) = key.sign_prehash_recoverable(&digest);
            let mut signature = [0; 65];
            signature[..64].copy_from_slice(&rs.to_bytes());
            signature[64] = v.to_byte();
            let libsecp256k1 = secp256k1::SecretKey::from_secret_bytes(secret)?;
            let node = SecretKey::from_bytes(&secret)?;
            Ok(Sample { k256: key, libsecp256k1, node, digest, signature })
        })
        .collect()
}

/// Returns the CPU time of one call in microseconds: the minimum of five rounds, because disturbances only add time.
fn cost(time: Duration, mut operation: impl FnMut(usize)) -> Result<f64, BenchError> {
    const ROUNDS: u32 = 5;
    (0..SAMPLES).for_each(&mut operation);
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = process::thread_cpu_time()?;
        let mut calls = 0_u32;
        let spent = loop {
            for index in 0..SAMPLES {
                operation(index);
                calls += 1;
            }
            let spent = process::thread_cpu_time()? - start;
            if spent >= time / ROUNDS {
                break spent;
            }
        };
        best = best.min(spent.as_secs_f64() * 1e6 / f64::from(calls));
    }
    Ok(best)
}
