//! A payer's bill, computed again from a log: the part of `hawser payer usage --verify` that needs no chain.

use std::time::Instant;

use hawser_audit::replay::{
    BillSettings, BilledReport, LogIdentity, LogRows, LogSource, SourceError, StoredMark,
    StrandRow, StrandRows, bill,
};
use hawser_engine::price;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Rate, RateTable};
use hawser_storage::{LogPlace, Snapshot, Store, Validity};

use crate::error::BenchError;
use crate::network::{Network, RATE};
use crate::process;
use crate::stats::{self, verdict};
use crate::workload::Workload;

/// A log in the folder of a stopped node that holds nothing but valid envelopes.
struct StoppedLog<'s> {
    store: &'s Store,
    snapshot: Snapshot<'s>,
}

impl LogSource for StoppedLog<'_> {
    fn identity(&self) -> LogIdentity {
        let identity = self.store.identity();
        LogIdentity {
            network: identity.network.clone(),
            node: identity.node,
            log: self.store.incarnation().to_vec(),
        }
    }

    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
        Ok(self.snapshot.heads().map_err(failed)?.iter().collect())
    }

    fn last_held(&self, _: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
        Ok(None)
    }

    fn rows(&self, after: EnvelopeId, head: SequenceId) -> LogRows<'_> {
        Box::new(self.snapshot.places(after, head).map(|place| match place.map_err(failed)? {
            LogPlace::Held { id, bytes, validity: Validity::Valid } => {
                let (sequence, mark) = (id.sequence, StoredMark::Valid);
                Ok(StrandRow::Envelope { sequence, bytes, mark, leaf: None })
            }
            other => Err(failed(format!("the node was grown by publishing, and has {other:?}"))),
        }))
    }

    fn beside(&self, _: OriginatorId) -> Box<dyn StrandRows + '_> {
        unreachable!("a bill is computed from the strand alone")
    }

    fn shows_gaps(&self) -> bool {
        true
    }

    fn unchecked(&self) -> Vec<String> {
        Vec::new()
    }

    fn rates(&self) -> Result<Vec<Rate>, SourceError> {
        Ok(vec![RATE])
    }
}

fn failed(error: impl std::fmt::Display) -> SourceError {
    SourceError(error.to_string())
}

/// Computes the bill of one of the payers that published at the first node, which has stopped, with one report about
/// all of its strand. Prints a line for each figure. `one_by_one` is the number of envelopes per second whose two
/// signatures all cores check one by one.
pub(crate) fn run(network: &Network, one_by_one: Option<f64>) -> Result<(), BenchError> {
    let (store, _) = Store::open_existing(&network.data_dir(0), price::price)?;
    let originator = network.id(0);
    let head = EnvelopeId::new(originator, store.snapshot().head(originator)?);
    let payer = Workload::new(originator, 1, 1, 512, [0; 32])?.payer().public_key().address();
    let settings = BillSettings {
        migration_key: None,
        payer,
        registry: network.registry()?,
        rates: RateTable::new(vec![RATE], None)?,
        threads: process::cores(),
    };
    let report = BilledReport {
        index: 0,
        start: SequenceId::NONE,
        end: head.sequence,
        end_minute: u32::MAX,
        // No report has this root: the tree of all amounts is computed and compared all the same.
        root: [0; 32],
        is_settled: false,
    };
    let (cpu, start) = (process::cpu_time(std::process::id())?, Instant::now());
    let log = StoppedLog { store: &store, snapshot: store.snapshot() };
    let billed = bill(&log, head, &[report], &settings, |_| {})?;
    let elapsed = start.elapsed();
    let cpu = process::cpu_time(std::process::id())?.saturating_sub(cpu);
    let owed = billed.parts.first().map_or(0, |part| part.picodollars.0);
    if owed == 0 || billed.not_shown > 0 || billed.faults.count() > 0 {
        return Err(format!("a bill without its envelopes: {billed:?}").into());
    }
    let (places, rate) = (head.sequence.0, stats::per_second(head.sequence.0, elapsed));
    let cpu_us = cpu.as_secs_f64() * 1e6 / stats::float(places.max(1));
    println!(
        "a bill of {} envelopes among {places}: {rate:.0} places/s, {cpu_us:.1} us CPU each",
        billed.envelopes
    );
    let Some(limit) = one_by_one else { return Ok(()) };
    println!("two signatures each, one by one on {} cores: {limit:.0}/s", process::cores());
    let kept = verdict(rate >= limit);
    println!("promised: as fast as that: {kept}, {:.2} times", rate / limit);
    Ok(())
}
