//! Measures commits beside thousands of streams that listen to all envelopes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hawser_engine::Engine;
use hawser_engine::ports::{Clock, PayloadValidator, Registry, TrustingJudge};
use hawser_engine::read::SubscriptionEvent;
use hawser_engine::runtime::{EngineSettings, Ports, PublishSettings};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SecretKey, SequenceId, Topic, TopicKind};
use hawser_rules::{PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable};
use hawser_storage::{
    CACHE_BYTES_MIN, Change, Durability, Facts, LogEntry, Store, StoreIdentity, StoreSettings,
};
use tokio::runtime::Builder;
use tokio::sync::watch;

use crate::error::BenchError;
use crate::stats::{Latencies, float};

const NODE: OriginatorId = OriginatorId(100);
const PEER: OriginatorId = OriginatorId(200);
const COMMITS: u64 = 300;
/// Pause between two commits. Long enough that two cores can serve ten thousand listeners meanwhile.
const PAUSE: Duration = Duration::from_millis(50);
const ENVELOPE_LEN: usize = 800;
const RATE: Rate = Rate {
    start_unix_s: 0,
    message_fee: PicoDollarPrice(0),
    storage_fee: PicoDollarsPerByteDay(0),
    congestion_fee: PicoDollarPrice(0),
    target_rate_per_minute: 0,
};

/// The time does not change: nothing here depends on it.
struct StoppedClock;

impl Clock for StoppedClock {
    fn now_ns(&self) -> i64 {
        1_800_000_000_000_000_000
    }
}

struct NoPackages;

impl PayloadValidator for NoPackages {
    fn key_package(&self, _: &Bytes) -> Result<(), String> {
        Ok(())
    }
}

/// Prints a line for no listeners and one for `listeners`.
pub(crate) fn run(data_dir: &Path, listeners: usize) -> Result<(), BenchError> {
    for count in [0, listeners] {
        measure(data_dir, count)?;
    }
    Ok(())
}

fn measure(data_dir: &Path, listeners: usize) -> Result<(), BenchError> {
    let folder = tempfile::tempdir_in(data_dir)?;
    let key = SecretKey::from_bytes(&blake3::derive_key("hawser-bench node", &[]))?;
    let identity =
        StoreIdentity { network: "streams".into(), node: NODE, public_key: key.public_key() };
    let store = Store::open(&StoreSettings {
        path: folder.path().join("db"),
        identity,
        durability: Durability::Fsync,
        price: |_, _| PicoDollarPrice(0),
        host: None,
        open_files_max: 1024,
        cache_bytes: CACHE_BYTES_MIN,
    })?;
    let (_registry, registry) = watch::channel(Arc::new(Registry::default()));
    let (_rates, rates) = watch::channel(Arc::new(RateTable::new(vec![RATE], None)?));
    let ports = Ports {
        clock: Arc::new(StoppedClock),
        validator: Arc::new(NoPackages),
        identities: Arc::new(TrustingJudge),
        registry,
        rates,
    };
    let settings = EngineSettings {
        publish: PublishSettings {
            idempotent: true,
            require_balance: false,
            publishes_per_payer: None,
        },
        workers: 2,
    };
    let (engine, _threads) = Engine::start(key, settings, ports, store)?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let delivered = Arc::new(AtomicU64::new(0));
    for _ in 0..listeners {
        let (mut stream, delivered) = (engine.reader().subscribe_all(), Arc::clone(&delivered));
        runtime.spawn(async move {
            while let Ok(event) = stream.next().await {
                if let SubscriptionEvent::Envelopes { envelopes, .. } = event {
                    delivered.fetch_add(envelopes.len() as u64, Ordering::Relaxed);
                }
            }
        });
    }
    let mut latencies = Latencies::new();
    for sequence in 1..=COMMITS {
        let change = envelope(sequence)?;
        let start = Instant::now();
        engine.committer().commit(vec![change])?;
        latencies.record(start.elapsed());
        std::thread::sleep(PAUSE);
    }
    let expected = COMMITS * listeners as u64;
    let start = Instant::now();
    while delivered.load(Ordering::Relaxed) < expected && start.elapsed() < Duration::from_secs(60)
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    let share = float(delivered.load(Ordering::Relaxed)) / float(expected.max(1));
    let quantiles = latencies.quantiles();
    println!(
        "{listeners} listeners: commit p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms; delivered {:.1} %",
        quantiles.p50_us / 1e3,
        quantiles.p99_us / 1e3,
        quantiles.max_us / 1e3,
        share * 100.0,
    );
    runtime.shutdown_background();
    Ok(())
}

/// Returns the next envelope of a peer's strand.
fn envelope(sequence: u64) -> Result<Change, BenchError> {
    let facts = Facts {
        topic: Some(Topic::new(TopicKind::GroupMessages, &sequence.to_be_bytes())?),
        originator_ns: 1_800_000_000_000_000_000,
        depends_on: Vec::new(),
        expiry_unix_s: None,
        receipt: None,
        charge: None,
        counts_for_congestion: false,
        addresses: Vec::new(),
    };
    let id = EnvelopeId::new(PEER, SequenceId(sequence));
    Ok(Change::Append(LogEntry::valid(id, vec![7; ENVELOPE_LEN].into(), facts)))
}
