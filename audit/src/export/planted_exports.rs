//! Exports of logs in which faults were planted, for other engines: `scripts/audit-engines` writes them here, and
//! `tests/second/audit_engines.py` has Spark name the faults.

use std::fs;
use std::path::{Path, PathBuf};

use hawser_proto::merkle::TreeHash;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::retention::RETENTION_INFINITE;
use hawser_rules::{PicoDollarPrice, Rate, RateTable};
use serde_json::{Value, json};

use super::tests::SETTINGS;
use super::*;
use crate::partition::tests::needs_the_strand;
use crate::replay::dependency_tests::depending_on;
use crate::replay::planted::{PLANTED, sign_at};
use crate::replay::testing::{
    MemoryLog, NODE, RATE, checkpoint, declared, draft, ns_of, settings as replay_settings,
};
use crate::replay::tests::replay;
use crate::replay::{FaultKind, GapReason, LogSource, ReplaySettings, StoredMark, StrandRow};
use crate::{Judged, KnownKeys};

/// A time ahead of any clock: far beyond the time of the log, which clocks of this machine have passed.
const FAR_AHEAD: u64 = 1_000_000_000;

/// Exports a log of one strand, and writes the faults that are to be named beside it.
fn write(folder: &Path, name: &str, log: &MemoryLog, faults: &[(FaultKind, u64, Option<u8>)]) {
    write_case(folder, name, log, faults, declared_void(log));
}

/// Exports a log, and writes beside it the faults that are to be named and the number of places that are declared void.
fn write_case(
    folder: &Path,
    name: &str,
    log: &dyn LogSource,
    faults: &[(FaultKind, u64, Option<u8>)],
    declared_void: u64,
) {
    let of = |it: &&(FaultKind, u64, Option<u8>), beside: bool| needs_the_strand(it.0) == beside;
    let named = |beside: bool| {
        let faults = faults.iter().filter(|it| of(it, beside));
        faults.map(|(kind, place, _)| json!([kind.name(), place])).collect::<Vec<_>>()
    };
    write_named(folder, name, log, [&named(false)[..], &named(true)[..]], declared_void);
}

/// Exports a log, and writes beside it the faults that partitions name, and those that queries name.
fn write_named(
    folder: &Path,
    name: &str,
    log: &dyn LogSource,
    [by_partition, beside]: [&[Value]; 2],
    declared_void: u64,
) {
    let settings = ExportSettings { threads: 1, ..SETTINGS };
    fs::create_dir_all(folder).unwrap();
    export(log, &folder.join("export"), settings, |_| ()).unwrap();
    let case = json!({
        "name": name,
        "by_partition": by_partition,
        "beside": beside,
        "declared_void": declared_void,
    });
    fs::write(folder.join("case.json"), case.to_string()).unwrap();
}

/// A rate at which the honest log has congestion in the minutes behind those with nine envelopes: ten units.
const BUSY: Rate = Rate { congestion_fee: PicoDollarPrice(7), target_rate_per_minute: 8, ..RATE };

/// A log with the fees of ten units of congestion at two places, and of eleven at the place between them.
fn overcharged() -> MemoryLog {
    let mut log = MemoryLog::honest(500);
    for (place, units) in [(150, 10), (301, 11), (302, 10)] {
        let mut charged = draft(place, ns_of(place));
        charged.statement.congestion_fee_picodollars = units * BUSY.congestion_fee.0;
        sign_at(&mut log, place, StoredMark::Valid, &charged);
    }
    // Its tallies have no congestion.
    MemoryLog { rates: vec![BUSY], has_tallies: false, ..log }
}

/// Returns the number of places that a replay of the log counts as declared void.
fn declared_void(log: &MemoryLog) -> u64 {
    if log.voids.is_empty() {
        return 0;
    }
    let report = replay(log, &replay_settings());
    let gaps = report.strands.iter().flat_map(|strand| &strand.figures.gaps);
    let declared = gaps.filter(|gap| gap.reason == GapReason::DeclaredVoid);
    declared.map(|gap| gap.through.0 - gap.from.0 + 1).sum()
}

/// A log whose last 20 places are missing. Two statements of its node, which overlap, are about eight of them.
fn with_gap() -> MemoryLog {
    let mut log = MemoryLog::honest(480);
    let (from, through, reason) = (SequenceId(481), SequenceId(500), GapReason::Missing);
    log.rows.push(StrandRow::Gap { from, through, reason });
    log.head = 500;
    log.voids = vec![declared(485, 490, 480, 1), declared(488, 492, 480, 1)];
    log
}

#[test]
#[ignore = "writes what other engines read: scripts/audit-engines runs it"]
fn planted_faults_are_exported_for_other_engines() {
    let folder = std::env::var_os("HAWSER_PLANTED_EXPORTS").expect("scripts/audit-engines sets it");
    let folder = PathBuf::from(folder);
    let settings = replay_settings();
    // A file without the time of its rates proves nothing about fees.
    let rates = settings.rates.map(|rates| rates.confirmed(i64::MAX));
    let keys = KnownKeys { registry: settings.registry, rates };
    fs::create_dir_all(&folder).unwrap();
    let file = serde_json::to_string(&Judged::file("test", &[], &[], &keys)).unwrap();
    fs::write(folder.join("registry.evidence"), file).unwrap();
    let honest = MemoryLog::honest(500);
    write(&folder.join("00"), "an honest log", &honest, &[]);
    for (number, (name, plant, faults)) in (1..).zip(PLANTED) {
        let mut log = honest.clone();
        match *name {
            "a time in the future" => {
                sign_at(&mut log, 20, StoredMark::Valid, &draft(20, ns_of(FAR_AHEAD)));
            }
            _ => plant(&mut log),
        }
        write(&folder.join(format!("{number:02}")), name, &log, faults);
    }
    let log = overcharged();
    let rates = RateTable::new(vec![BUSY], None).unwrap().confirmed(i64::MAX);
    let busy = KnownKeys { registry: keys.registry.clone(), rates: Some(rates.clone()) };
    let judged = replay(&log, &ReplaySettings { rates: Some(rates), ..replay_settings() });
    let judged = judged.all_faults();
    let judged: Vec<_> = judged.kept().iter().map(|it| (it.kind, it.sequence_id.0)).collect();
    assert_eq!(judged, [(FaultKind::Fee, 301)], "as the queries have to name it");
    let named = [json!([FaultKind::Fee.name(), 301])];
    let name = "a fee for more congestion than there was";
    write_named(&folder.join("94"), name, &log, [&[], &named], 0);
    let file = serde_json::to_string(&Judged::file("test", &[], &[], &busy)).unwrap();
    fs::write(folder.join("94").join("registry.evidence"), file).unwrap();
    let with_chain = depending_on(OriginatorId::GROUP_MESSAGES.0, 3);
    let (name, faults) = ("a dependency on a later place", [(FaultKind::Dependency, 12, None)]);
    write_case(&folder.join("95"), name, &with_chain, &faults, 0);
    let faults = [(FaultKind::UnknownOriginator, 0, None)];
    write(&folder.join("96"), "a node that the registry does not name", &honest, &faults);
    let others = keys.registry.nodes().filter(|record| record.id != NODE).cloned().collect();
    let keys = KnownKeys { registry: others, ..keys };
    let file = serde_json::to_string(&Judged::file("test", &[], &[], &keys)).unwrap();
    fs::write(folder.join("96").join("registry.evidence"), file).unwrap();
    let mut log = with_gap();
    log.checkpoints.push(checkpoint(487, TreeHash([7; 32])));
    write(&folder.join("97"), "a declared gap of which a signed tree has a part", &log, &[]);
    write(&folder.join("98"), "a gap that its node has declared void in parts", &with_gap(), &[]);
    let mut log = honest;
    log.prune(7).charge.as_mut().expect("it was charged").retention_days = RETENTION_INFINITE;
    let faults = [(FaultKind::NotExpired, 7, None)];
    write(&folder.join("99"), "a place that was pruned and is for ever", &log, &faults);
}
