//! Costs of what is computed from one long strand: proofs, and the payer report about it.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use hawser_engine::payer_reports::{self, Recomputed};
use hawser_engine::price;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::PicoDollarPrice;
use hawser_rules::payer_report::NodeIds;
use hawser_storage::{Durability, Store, StoreSettings};

use crate::error::BenchError;
use crate::micro::{NODE, identity, payer_envelopes, stored_change};
use crate::network::node_data_dir;
use crate::stats::{Latencies, verdict};

/// Envelopes in one commit. A large number, because commits are not measured here.
const BATCH: u64 = 1000;
/// Envelopes of one minute: about 330 a second. A guess at a busy node.
const PER_MINUTE: u64 = 20_000;
/// Proofs that are measured.
const PROOFS: u64 = 10_000;
/// The promised time of a proof.
const PROOF_MAX: Duration = Duration::from_millis(1);

/// Fills a strand, and prints a line for each part.
pub(crate) fn run(
    data_dir: &Path,
    stored: u64,
    payers: u64,
    payload_len: usize,
) -> Result<(), BenchError> {
    let folder = tempfile::tempdir_in(data_dir)?;
    let store = Store::open(&StoreSettings {
        path: folder.path().join("db"),
        identity: identity()?,
        durability: Durability::Os,
        price: |_, _| PicoDollarPrice(7_000_000),
        host: None,
        open_files_max: 1024,
        cache_bytes: hawser_storage::CACHE_BYTES_MIN,
    })?;
    let start = Instant::now();
    let envelopes = payer_envelopes(payload_len)?;
    for first in (1..=stored).step_by(usize::try_from(BATCH)?) {
        let changes = (first..(first + BATCH).min(stored + 1)).map(|sequence| {
            let payer = &envelopes[usize::try_from(sequence)? % envelopes.len()];
            stored_change(sequence, sequence % payers, sequence / PER_MINUTE, payer)
        });
        store.commit(&changes.collect::<Result<Vec<_>, BenchError>>()?)?;
    }
    println!("{stored} envelopes of {payers} payers in {:.0} s", start.elapsed().as_secs_f64());
    proofs(&store, NODE)?;
    report(&store)
}

/// Measures proofs in the strand of the first node of a network that is kept in this folder.
pub(crate) fn run_kept(folder: &Path) -> Result<(), BenchError> {
    let (store, identity) = Store::open_existing(&node_data_dir(folder, NODE), price::price)?;
    proofs(&store, identity.node)
}

/// Measures proofs for places all over the strand, in its newest tree.
fn proofs(store: &Store, originator: OriginatorId) -> Result<(), BenchError> {
    let size = store.snapshot().tree_size(originator)?;
    if size == 0 {
        return Err("the strand has no tree".into());
    }
    let mut latencies = Latencies::new();
    for index in 0..PROOFS {
        // An odd factor visits places in no order.
        let sequence = 1 + index.wrapping_mul(0x9E37_79B9_7F4A_7C15) % size;
        let id = EnvelopeId::new(originator, SequenceId(sequence));
        let start = Instant::now();
        black_box(store.snapshot().inclusion(id, size)?);
        latencies.record(start.elapsed());
    }
    let it = latencies.quantiles();
    println!(
        "an inclusion proof among {size} leaves: {:.0} us, p99 {:.0} us, at most {:.0} us",
        it.p50_us, it.p99_us, it.max_us
    );
    let kept = verdict(it.p99_us < PROOF_MAX.as_secs_f64() * 1e6);
    println!("promised: a p99 of less than {} ms: {kept}", PROOF_MAX.as_millis());
    Ok(())
}

/// The report about the whole strand, as its writer and as another node compute it.
fn report(store: &Store) -> Result<(), BenchError> {
    let nodes = NodeIds::new([NODE, OriginatorId(200), OriginatorId(300)]);
    let nodes = nodes.map_err(|error| error.to_string())?;
    let start = Instant::now();
    let draft = payer_reports::draft(&store.snapshot(), NODE, SequenceId::NONE, nodes, u32::MAX);
    let drafted = start.elapsed();
    let Some(report) = draft.map_err(|error| error.to_string())? else {
        return Err("there is too little for a report: it needs two minutes".into());
    };
    let start = Instant::now();
    let recomputed = payer_reports::recompute(&store.snapshot(), &report);
    let verified = start.elapsed();
    match recomputed.map_err(|error| error.to_string())? {
        Recomputed::Equal(leaves) => println!(
            "a report of {} envelopes and {} payers: written in {}, verified in {}",
            report.end().sequence,
            leaves.payers().len(),
            text(drafted),
            text(verified)
        ),
        other => return Err(format!("a report that differs from itself: {other:?}").into()),
    }
    Ok(())
}

fn text(duration: Duration) -> String {
    format!("{:.0} ms", 1e3 * duration.as_secs_f64())
}
