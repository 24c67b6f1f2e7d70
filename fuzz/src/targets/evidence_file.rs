//! Fuzz target: evidence files, which `hawser audit report` reads from any host.

use bytes::Bytes;
use hawser_audit::evidence_file::FiledReport;
use hawser_audit::{EvidenceFile, KnownKeys};
use hawser_proto::{Address, OriginatorId, SecretKey};
use hawser_rules::misbehavior::{
    MisbehaviorVerdict, NoChain, TreeEvidence, TreeFault, verify_trees,
};
use hawser_rules::{
    Absence, Absences, NodeRecord, PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable,
    Registry,
};

use super::Target;
use super::misbehavior_report;
use super::wire::DECODED_PER_BYTE;

/// Three bytes of a report are four of a file, so the share of its text covers the lists of the file, too.
pub(super) const TARGET: Target =
    Target { name: "evidence-file", run, seeds, memory_factor: DECODED_PER_BYTE };

const NODE: OriginatorId = OriginatorId(100);
/// Reports in the files that inputs are made of.
const REPORTS: usize = 8;

/// A file that is read is the same one after it was written. It proves nothing to a reader without keys.
fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(file) = EvidenceFile::parse(text) else { return };
    let written = serde_json::to_string(&file).expect("a file is JSON");
    assert_eq!(EvidenceFile::parse(&written).expect("what was written is read"), file);
    drop(written);
    let of_file = file.keys().ok();
    let none = KnownKeys { registry: Registry::default(), rates: None };
    for held in file.held().into_iter().flatten() {
        assert_eq!(none.judge(&held, &NoChain).verdict, MisbehaviorVerdict::Refuted);
        if let Some(keys) = &of_file {
            let judgement = keys.judge(&held, &NoChain);
            assert!(!judgement.facts.is_empty(), "each judgement names what it rests on");
        }
    }
    for held in file.held_trees().into_iter().flatten() {
        assert_eq!(verify_trees(&held, &none.registry).verdict, MisbehaviorVerdict::Refuted);
    }
}

fn keys() -> KnownKeys {
    let key = SecretKey::from_bytes(&[7; 32]).expect("a key");
    let record = NodeRecord {
        id: NODE,
        public_key: key.public_key(),
        owner: Address([0; 20]),
        http_address: None,
        quic_address: None,
        canonical: true,
    };
    let absences = [Absence { from_s: 5, until_s: Some(9) }, Absence { from_s: 12, until_s: None }];
    let absences = Absences::new(absences.into()).expect("one follows the other");
    let rate = Rate {
        start_unix_s: 1_600_000_000,
        message_fee: PicoDollarPrice(1),
        storage_fee: PicoDollarsPerByteDay(2),
        congestion_fee: PicoDollarPrice(3),
        target_rate_per_minute: 4,
    };
    let registry: Registry = [record].into_iter().collect();
    KnownKeys {
        registry: registry.with_absences([(NODE, absences)]),
        rates: Some(RateTable::new(vec![rate], Some(1_800_000_000_000_000_000)).expect("a list")),
    }
}

/// Files with a report each, with evidence on trees, with all of them, and with neither keys nor rates.
fn seeds() -> Vec<Vec<u8>> {
    let reports = (misbehavior_report::TARGET.seeds)().into_iter().take(REPORTS);
    let reports: Vec<FiledReport> = reports
        .map(|report| FiledReport {
            report: report.into(),
            host_signature: Some(Bytes::from_static(&[1; 65])),
            host: Some(NODE),
            server_time_ns: Some(1_700_000_000_000_000_000),
        })
        .collect();
    let trees = TreeFault::ALL.map(|fault| {
        let pieces = vec![Bytes::from_static(&[2; 121]), Bytes::from_static(b"a piece")];
        TreeEvidence { fault, pieces }
    });
    let nothing = KnownKeys { registry: Registry::default(), rates: None };
    let file = |reports: &[FiledReport], trees: &[TreeEvidence], keys: &KnownKeys| {
        let file = EvidenceFile::new("hawser", (reports, trees), Vec::new(), keys);
        serde_json::to_string(&file).expect("a file is JSON").into_bytes()
    };
    let mut seeds: Vec<_> = reports.chunks(1).map(|one| file(one, &[], &keys())).collect();
    seeds.push(file(&[], &trees, &keys()));
    seeds.push(file(&reports, &trees, &keys()));
    seeds.push(file(&reports, &[], &nothing));
    seeds
}
