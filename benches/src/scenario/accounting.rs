//! The cost of accounting, beside that of a published envelope: usage and congestion are booked with each envelope
//! in the same write, so there is no node without them. Their cost is the difference between writes with and
//! without them.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use hawser_engine::price;
use hawser_engine::sequencer::{Admitted, Sequencer};
use hawser_proto::{SecretKey, SequenceId};
use hawser_rules::RateTable;
use hawser_storage::{Change, Durability, LogEntry, Store, StoreSettings};

use crate::error::BenchError;
use crate::micro::{NODE, identity, payer_envelopes, stored_change};
use crate::network::{Network, RATE};
use crate::process;
use crate::scenario::publish;
use crate::stats::{self, verdict};

/// Promised share of a published envelope's cost.
const SHARE_MAX: f64 = 0.05;
/// Envelopes of one minute: about 330 a second. A guess at a busy node.
const PER_MINUTE: u64 = 20_000;
/// A time after the rate's begin, unix nanoseconds.
const NOW_NS: i64 = 1_800_000_000_000_000_000;

/// The parameters of a run.
pub(crate) struct Plan {
    /// The load of the node whose cost is the measure.
    pub(crate) publish: publish::Plan,
    /// Envelopes that are written, each way in each round.
    pub(crate) envelopes: u64,
    pub(crate) rounds: u32,
}

impl Plan {
    /// Returns the number of envelopes that a busy node commits together.
    pub(crate) fn group(&self) -> Result<usize, BenchError> {
        Ok(usize::try_from(self.publish.per_request)? * self.publish.shape.in_flight.max(1))
    }
}

/// Prints a line for each part, and the verdict.
pub(crate) async fn run(plan: &Plan, hawser: &Path, data_dir: &Path) -> Result<(), BenchError> {
    let network = Network::new(hawser, data_dir, 1)?;
    let node = network.start(0).await?;
    let published = publish::run(&plan.publish, &node, &[]).await?;
    node.stop();
    let whole = published.node_cpu_us.unwrap_or(f64::NAN);
    println!(
        "published: {:.0} envelopes/s, {} in a request, {whole:.1} us CPU of the node each",
        published.envelopes_per_second, plan.publish.per_request
    );

    let entries = entries(&plan.publish, plan.envelopes)?;
    let group = plan.group()?;
    let (mut booked, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        booked.push(write(data_dir, &entries, group, true)?);
        plain.push(write(data_dir, &entries, group, false)?);
    }
    let (booked, plain) = (stats::median(&booked), stats::median(&plain));
    let booking = booked - plain;
    println!(
        "written in groups of {group}: {booked:.2} us CPU each, without a charge {plain:.2}; so booking takes {booking:.2}"
    );
    let priced = pricing(plan.publish.shape.payload_len)?;
    println!(
        "given a place, a time and a price: {priced:.2} us CPU each; the price is a part of it"
    );
    let share = (booking + priced) / whole;
    println!(
        "promised: below {:.0} % of the node's time, at most: {}, {:.1} %",
        100.0 * SHARE_MAX,
        verdict(share < SHARE_MAX),
        100.0 * share
    );
    Ok(())
}

/// Returns envelopes of a strand, from its first place on. Each request is of another payer.
pub(crate) fn entries(plan: &publish::Plan, count: u64) -> Result<Vec<LogEntry>, BenchError> {
    let envelopes = payer_envelopes(plan.shape.payload_len)?;
    let payers = u64::from(plan.payers.max(1));
    (1..=count)
        .map(|sequence| {
            let envelope = &envelopes[usize::try_from(sequence)? % envelopes.len()];
            let payer = sequence / plan.per_request.max(1) % payers;
            match stored_change(sequence, payer, sequence / PER_MINUTE, envelope)? {
                Change::Append(entry) => Ok(entry),
                Change::Skip { .. } => Err("a change that appends nothing".into()),
            }
        })
        .collect()
}

/// Writes all of them into a new database, and returns the CPU time of each, flushes and compactions beside it
/// included, in microseconds.
fn write(
    data_dir: &Path,
    entries: &[LogEntry],
    group: usize,
    is_booked: bool,
) -> Result<f64, BenchError> {
    let folder = tempfile::tempdir_in(data_dir)?;
    let store = new_store(folder.path())?;
    let mut groups: Vec<Vec<Change>> = Vec::new();
    for part in entries.chunks(group.max(1)) {
        let change = |entry: &LogEntry| {
            let mut entry = entry.clone();
            if let Some(facts) = entry.facts.as_mut().filter(|_| !is_booked) {
                (facts.charge, facts.counts_for_congestion) = (None, false);
            }
            Change::Append(entry)
        };
        groups.push(part.iter().map(change).collect());
    }
    let cpu = write_groups(&store, &groups)?;
    Ok(cpu.as_secs_f64() * 1e6 / stats::float(entries.len().max(1) as u64))
}

/// Opens a new database in a folder, with the rate of this program's networks.
pub(crate) fn new_store(folder: &Path) -> Result<Store, BenchError> {
    let store = Store::open(&StoreSettings {
        path: folder.join("db"),
        identity: identity()?,
        durability: Durability::Fsync,
        price: price::price,
        host: None,
        open_files_max: 1024,
        cache_bytes: hawser_storage::CACHE_BYTES_MIN,
    })?;
    store.record_rates(&[RATE])?;
    Ok(store)
}

/// Commits the groups one after the other. Returns the CPU time, flushes and compactions beside them included.
pub(crate) fn write_groups(store: &Store, groups: &[Vec<Change>]) -> Result<Duration, BenchError> {
    let before = process::cpu_time(std::process::id())?;
    for group in groups {
        store.commit(group)?;
    }
    store.flush()?;
    Ok(process::cpu_time(std::process::id())?.saturating_sub(before))
}

/// Returns the CPU time in which the sequencing thread gives an envelope its place, time and price, in microseconds.
fn pricing(payload_len: usize) -> Result<f64, BenchError> {
    const CALLS: u32 = 200_000;
    let payer = SecretKey::from_bytes(&[7; 32])?.public_key().address();
    let admitted = |envelope| Admitted { envelope, payer, receipt: [0; 32], depends_on_ns: None };
    let admitted: Vec<_> = payer_envelopes(payload_len)?.into_iter().map(admitted).collect();
    let rates = RateTable::new(vec![RATE], None)?;
    let mut sequencer = Sequencer::new(NODE, SequenceId::NONE, 0, |_| 0);
    let before = process::thread_cpu_time()?;
    for call in 0..CALLS {
        let one = &admitted[usize::try_from(call)? % admitted.len()];
        let now_ns = NOW_NS + i64::from(call) * 1000;
        black_box(sequencer.sequence(now_ns, &rates, [one]).map_err(|error| error.to_string())?);
    }
    let cpu = process::thread_cpu_time()?.saturating_sub(before);
    Ok(cpu.as_secs_f64() * 1e6 / f64::from(CALLS))
}
