//! The limits of this machine, measured in the same run as the node.

mod crypto;
pub(crate) mod disk;
mod fsync;
mod rpc;

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use self::crypto::CryptoLimits;
pub(crate) use self::rpc::{LoadShape, RpcLimit};
use crate::error::BenchError;
use crate::process;
use crate::stats::Quantiles;

/// Envelopes in each request of the promised figures.
pub(crate) const PER_REQUEST: [u64; 3] = [1, 20, 100];

/// The limits of one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub(crate) cores: usize,
    pub(crate) fdatasync: Quantiles,
    pub(crate) crypto: CryptoLimits,
    pub(crate) rpc: Vec<RpcLimit>,
}

/// The model that durable publishing is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct PublishLimit {
    /// `cores / (t_rpc / n + t_verify + t_sign)`, per second.
    pub(crate) by_cpu: f64,
    /// `in flight · n / (2 · fdatasync p50)`, per second.
    pub(crate) by_disk: f64,
}

impl PublishLimit {
    /// Returns the lower of both limits.
    pub(crate) fn envelopes_per_second(&self) -> f64 {
        self.by_cpu.min(self.by_disk)
    }
}

impl Limits {
    /// Returns the upper bound of publishing with `per_request` envelopes in each of `in_flight` requests. `None` if
    /// calls of that size were not measured.
    pub(crate) fn publish(&self, per_request: u64, in_flight: usize) -> Option<PublishLimit> {
        let rpc = self.rpc.iter().find(|rpc| rpc.per_request == per_request)?;
        let n = f64::from(u32::try_from(per_request).ok()?);
        let cores = f64::from(u32::try_from(self.cores).ok()?);
        let in_flight = f64::from(u32::try_from(in_flight).ok()?);
        let cpu_us = rpc.cpu_us / n + self.crypto.t_verify_us() + self.crypto.t_sign_us();
        Some(PublishLimit {
            by_cpu: cores * 1e6 / cpu_us,
            by_disk: in_flight * n * 1e6 / (2.0 * self.fdatasync.p50_us),
        })
    }

    /// Returns the upper bound of a follower in envelopes per second: it checks two signatures for each envelope.
    pub(crate) fn catch_up_per_second(&self) -> f64 {
        let cores = f64::from(u32::try_from(self.cores).unwrap_or(u32::MAX));
        cores * 1e6 / (2.0 * self.crypto.t_verify_us())
    }
}

/// Measures all limits; takes about half a minute.
pub(crate) async fn measure(dir: &Path, shape: &LoadShape) -> Result<Limits, BenchError> {
    eprintln!("limits: signatures");
    let crypto = crypto::measure(Duration::from_secs(2))?;
    eprintln!("limits: fdatasync");
    let fdatasync = fsync::measure(dir, Duration::from_secs(4))?;
    let mut rpc = Vec::new();
    for per_request in PER_REQUEST {
        eprintln!("limits: calls of {per_request} envelopes");
        rpc.push(rpc::measure(shape, per_request, Duration::from_secs(4)).await?);
    }
    Ok(Limits { cores: process::cores(), fdatasync, crypto, rpc })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_the_one_that_is_promised() {
        let fdatasync =
            Quantiles { count: 1, p50_us: 500.0, p99_us: 0.0, p999_us: 0.0, max_us: 0.0 };
        let crypto = CryptoLimits {
            recover_k256_us: 60.0,
            recover_libsecp256k1_us: 30.0,
            sign_k256_us: 20.0,
            sign_libsecp256k1_us: 40.0,
            rerandomize_libsecp256k1_us: 15.0,
            sign_node_us: 21.0,
        };
        let rpc = vec![RpcLimit { per_request: 10, cpu_us: 100.0, calls_per_second: 1.0 }];
        let limits = Limits { cores: 2, fdatasync, crypto, rpc };
        let limit = limits.publish(10, 64).unwrap();
        assert!((limit.by_cpu - 2.0 / 60e-6).abs() < 1e-6);
        assert!((limit.by_disk - 640.0 / 1e-3).abs() < 1e-6);
        assert!((limit.envelopes_per_second() - limit.by_cpu).abs() < 1e-6);
        assert!(limits.publish(11, 64).is_none());
        assert!((limits.catch_up_per_second() - 2.0 / 60e-6).abs() < 1e-6);
    }
}
