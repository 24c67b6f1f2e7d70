//! The cost of pruning by itself: one strand that has expired, in this process and without a publisher.

use std::ops::ControlFlow;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hawser_engine::price;
use hawser_engine::runtime::PruneRun;
use hawser_proto::SecretKey;
use hawser_storage::{Durability, Store, StoreSettings};

use crate::error::BenchError;
use crate::micro::{NODE, identity};
use crate::process;
use crate::stats::{self, float};
use crate::workload::Workload;
use crate::{expired, network};

const TOPICS: u64 = 10_000;
/// Time without work after which compactions count as done.
const REST: Duration = Duration::from_millis(500);

/// Writes a strand of `stored` envelopes that have expired, prunes it, and prints the CPU time of each part.
pub(crate) fn run(data_dir: &Path, stored: u64, payload_len: usize) -> Result<(), BenchError> {
    let folder = tempfile::tempdir_in(data_dir)?;
    let open = || -> Result<Store, BenchError> {
        Ok(Store::open(&StoreSettings {
            path: folder.path().join("db"),
            identity: identity()?,
            durability: Durability::Fsync,
            price: price::price,
            host: None,
            open_files_max: 1024,
            cache_bytes: hawser_storage::CACHE_BYTES_MIN,
        })?)
    };
    let past = Workload::new(NODE, 1, TOPICS, payload_len, [7; 32])?;
    let store = open()?;
    let key: SecretKey = network::node_key(NODE)?;
    expired::write_to(&store, NODE, &key, stored, &past)?;
    drop(store);
    let store = open()?;
    rest()?;
    let bytes = || process::folder_bytes(folder.path()) >> 20;
    println!("{stored} envelopes that have expired, {} MiB in the folder", bytes());

    let own_unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let run = PruneRun { own_unix_s, places_max: u64::MAX, dry_run: false };
    let (start, own) = (Instant::now(), process::thread_cpu_time()?);
    let all = process::cpu_time(std::process::id())?;
    let report = run.run(&store, &mut |_| ControlFlow::Continue(()))?;
    let elapsed = start.elapsed();
    let each = |spent: Duration| 1e6 * spent.as_secs_f64() / float(report.pruned().max(1));
    let own = process::thread_cpu_time()?.saturating_sub(own);
    let process = process::cpu_time(std::process::id())?.saturating_sub(all);
    println!(
        "pruned {} at {:.0}/s without pauses; CPU time of each: {:.2} us by pruning, {:.2} us with the database beside it",
        report.pruned(),
        stats::per_second(report.pruned(), elapsed),
        each(own),
        each(process)
    );
    rest()?;
    let settled = process::cpu_time(std::process::id())?.saturating_sub(all);
    println!("{:.2} us until the database rests: {} MiB in the folder", each(settled), bytes());
    store.compact_pruned()?;
    let compacted = process::cpu_time(std::process::id())?.saturating_sub(all);
    println!("{:.2} us with all compactions: {} MiB in the folder", each(compacted), bytes());
    // The end of the last report stays.
    match report.pruned() + 1 == stored {
        true => Ok(()),
        false => Err(format!("{} of {stored} envelopes have gone", report.pruned()).into()),
    }
}

/// Waits until this process has nothing to do.
fn rest() -> Result<(), BenchError> {
    let mut spent = process::cpu_time(std::process::id())?;
    loop {
        thread::sleep(REST);
        let now = process::cpu_time(std::process::id())?;
        // This loop itself may take one tick of the clock.
        if now.saturating_sub(spent) <= Duration::from_millis(10) {
            return Ok(());
        }
        spent = now;
    }
}
