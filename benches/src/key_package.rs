//! Measures how many key packages one core validates, and the cost of the two signatures in each.

use std::hint::black_box;
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use hawser_mls::key_package;
use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::ClientEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use prost::Message as _;

use crate::error::BenchError;
use crate::process;

/// Envelopes captured from a real client.
const CAPTURE: &str = include_str!("../../tests/vectors/client/envelopes.jsonl");
/// Time of the capture, unix seconds.
const THEN: u64 = 1_795_155_446;
const TIME: Duration = Duration::from_secs(3);
/// Promised rate, per second.
const PER_SECOND_MIN: f64 = 1000.0;

/// Prints one line for each figure.
pub(crate) fn run() -> Result<(), BenchError> {
    let packages = packages()?;
    let key = SigningKey::from_bytes(&[7; 32]);
    // The lengths of the signed parts of a real package: the leaf, and the whole package.
    let signed = [vec![1; 320], vec![2; 1640]];
    let signatures = signed.each_ref().map(|part| key.sign(part));
    let public = key.verifying_key();

    let judged_us = cost(|index| {
        let package = &packages[index % packages.len()];
        black_box(key_package(package, THEN)).map(drop)
    })?;
    let checked_us = cost(|_| {
        signed
            .iter()
            .zip(&signatures)
            .try_for_each(|(part, signature)| public.verify_strict(black_box(part), signature))
    })?;
    let (judged, checked) = (1e6 / judged_us, 1e6 / checked_us);
    println!("key packages judged on one core: {judged:.0}/s, {judged_us:.1} us each");
    println!("the same signatures alone:       {checked:.0}/s, {checked_us:.1} us each");
    let verdict = if judged >= PER_SECOND_MIN { "reached" } else { "NOT reached" };
    println!("promised: {PER_SECOND_MIN:.0}/s for each core: {verdict}");
    Ok(())
}

fn packages() -> Result<Vec<Bytes>, BenchError> {
    let mut packages = Vec::new();
    for line in CAPTURE.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let bytes = hex::decode(line["hex"].as_str().ok_or("a line without hex")?)?;
        let envelope = ClientEnvelope::decode(Bytes::from(bytes))?;
        if let Some(Payload::UploadKeyPackage(upload)) = envelope.payload {
            let package = upload.key_package.ok_or("an upload of nothing")?;
            packages.push(package.key_package_tls_serialized);
        }
    }
    Ok(packages)
}

/// CPU time of one call in microseconds.
fn cost<E: std::error::Error + Send + Sync + 'static>(
    mut operation: impl FnMut(usize) -> Result<(), E>,
) -> Result<f64, BenchError> {
    const CALLS: usize = 100;
    (0..CALLS).try_for_each(&mut operation)?;
    let start = process::thread_cpu_time()?;
    let mut calls = 0_u32;
    loop {
        for index in 0..CALLS {
            operation(index)?;
            calls += 1;
        }
        let spent = process::thread_cpu_time()? - start;
        if spent >= TIME {
            return Ok(spent.as_secs_f64() * 1e6 / f64::from(calls));
        }
    }
}
