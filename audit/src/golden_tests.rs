//! Golden reports of misbehaviour and evidence on signed trees, one or more of each kind and verdict, are judged as
//! `tests/data/misbehavior.jsonl` says. `tests/second/misbehavior.py` was written from
//! `docs/protocol/misbehavior.md`, and `misbehavior_golden.py` beside it made that file with it. Both implementations
//! agree on every case, and on mutated ones.

#[path = "../../tests/second/mod.rs"]
mod second;

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::{Address, Bytes, EnvelopeId, OriginatorId, PublicKey, TransactionHash};
use hawser_rules::misbehavior::{
    ChainRecord, EventAnswer, Judgement, MisbehaviorKind, Missing, PlaceAnswer, Report, ReportCase,
    TreeEvidence, TreeFault, verify, verify_trees,
};
use hawser_rules::{
    Absence, Absences, NodeRecord, PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable,
    Registry,
};
use serde_json::{Value, json};

use self::second::Chance;

const GOLDEN: &str = include_str!("../tests/data/misbehavior.jsonl");
/// Mutated forms of each case that both implementations judge.
const MUTATIONS: usize = 3;
/// Longer reports are not mutated: their sizes decide before their content does.
const MUTATED_LEN_BYTES_MAX: usize = 4096;

fn golden() -> Vec<Value> {
    let cases: Vec<Value> =
        GOLDEN.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(cases.len() > 100, "the reports are there");
    cases
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn entries<'a>(case: &'a Value, name: &str) -> &'a [Value] {
    case[name].as_array().map_or(&[][..], Vec::as_slice)
}

fn node_of(name: &str) -> OriginatorId {
    OriginatorId(name.parse().unwrap())
}

/// The chain data of a case.
struct CaseChain<'a>(&'a Value);

impl CaseChain<'_> {
    fn find(&self, name: &str, id: EnvelopeId) -> Option<&Value> {
        let is_at =
            |it: &&Value| it["originator"] == id.originator.0 && it["sequence"] == id.sequence.0;
        entries(self.0, name).iter().find(is_at)
    }
}

impl ChainRecord for CaseChain<'_> {
    fn event(&self, id: EnvelopeId, transaction: TransactionHash) -> EventAnswer {
        let found = self.find("events", id);
        let Some(event) = found.filter(|it| bytes(&it["transaction"]) == transaction.0) else {
            return EventAnswer::Unknown;
        };
        match event.get("client") {
            None => EventAnswer::Absent,
            Some(client) => EventAnswer::Event {
                identifier: bytes(&event["identifier"]).into(),
                client: bytes(client).into(),
            },
        }
    }

    fn place(&self, id: EnvelopeId) -> PlaceAnswer {
        let place = self.find("places", id);
        let ns = |name: &str| place.and_then(|place| place[name].as_i64());
        match (ns("block_ns"), ns("final_ns")) {
            (Some(block_ns), _) => PlaceAnswer::At { block_ns },
            (None, Some(final_ns)) => PlaceAnswer::NotYet { final_ns },
            (None, None) => PlaceAnswer::Unknown,
        }
    }

    fn anchor_ns(&self, id: EnvelopeId) -> Option<i64> {
        let is_at = |it: &&Value| it[0] == id.originator.0 && it[1] == id.sequence.0;
        entries(self.0, "anchors").iter().find(is_at)?[2].as_i64()
    }
}

fn registry(case: &Value) -> Registry {
    let has_left = |node: OriginatorId| entries(case, "left").iter().any(|it| *it == node.0);
    let record = |(node, key): (&String, &Value)| NodeRecord {
        id: node_of(node),
        public_key: PublicKey::from_uncompressed(&bytes(key)).unwrap(),
        owner: Address([0; 20]),
        http_address: None,
        quic_address: None,
        canonical: !has_left(node_of(node)),
    };
    let nodes: Registry = case["registry"].as_object().unwrap().iter().map(record).collect();
    let absence = |it: &Value| Absence { from_s: it[0].as_u64().unwrap(), until_s: it[1].as_u64() };
    let absences = case["absences"].as_object().into_iter().flatten().map(|(node, spans)| {
        let spans = spans.as_array().unwrap().iter().map(absence).collect();
        (node_of(node), Absences::new(spans).unwrap())
    });
    nodes.with_absences(absences)
}

fn rates(case: &Value) -> Option<RateTable> {
    let rate = |it: &Value| {
        let number = |index: usize| it[index].as_u64().unwrap();
        Rate {
            start_unix_s: number(0),
            message_fee: PicoDollarPrice(number(1)),
            storage_fee: PicoDollarsPerByteDay(number(2)),
            congestion_fee: PicoDollarPrice(number(3)),
            target_rate_per_minute: number(4),
        }
    };
    let rates = entries(case, "rates").iter().map(rate).collect();
    RateTable::new(rates, case["rates_complete_until_ns"].as_i64()).ok()
}

fn judge(case: &Value) -> Judgement {
    let (registry, rates) = (registry(case), rates(case));
    if let Some(fault) = case["fault"].as_str() {
        let pieces = entries(case, "pieces").iter().map(|it| Bytes::from(bytes(it))).collect();
        let fault = TreeFault::of_name(fault).unwrap();
        return verify_trees(&TreeEvidence { fault, pieces }, &registry);
    }
    let report = Bytes::from(bytes(&case["report"]));
    let host_signature = case.get("host_signature").map(bytes);
    verify(&ReportCase {
        report: &report,
        host_signature: host_signature.as_deref(),
        host: None,
        registry: &registry,
        rates: rates.as_ref(),
        chain: &CaseChain(case),
        held_at_ns: case["held_at_ns"].as_i64(),
    })
}

/// Judges a case, in the form of the file.
fn verdict(case: &Value) -> Value {
    let it = judge(case);
    let fact = &it.facts[0];
    let rule = fact.numbers.iter().find(|(name, _)| *name == "rule");
    json!({
        "verdict": it.verdict.name(),
        "fact": fact.name,
        "place": it.place.0,
        "rule": rule.map_or(0, |(_, number)| u8::try_from(*number).unwrap()),
        "severity": it.difference.map(|difference| difference.name()),
        "missing": it.missing.iter().map(|it| Missing::name(*it)).collect::<Vec<_>>(),
        "host": it.host.node().map(|node| node.0),
    })
}

impl Chance {
    /// Changes, removes or adds one byte of a report or of one piece of evidence, in every other case one of its first
    /// 40, or cuts its end off.
    fn mutate(&mut self, case: &Value) -> Value {
        let mut case = case.clone();
        let pieces = entries(&case, "pieces").len();
        let part = match pieces {
            0 => &mut case["report"],
            count => &mut case["pieces"][self.next(count)],
        };
        let mut changed = bytes(part);
        let first = if self.next(2) == 0 { 40.min(changed.len()) } else { changed.len() };
        let at = self.next(first);
        match self.next(4) {
            0 => changed[at] ^= 1 << self.next(8),
            1 => _ = changed.remove(at),
            2 => changed.insert(at, changed[at]),
            _ => changed.truncate(at),
        }
        *part = json!(hex::encode(changed));
        case
    }
}

#[test]
fn every_golden_report_gets_its_verdict() {
    for case in golden() {
        assert_eq!(verdict(&case), case["expected"], "{}", case["name"]);
    }
}

fn expected(case: &Value) -> &str {
    case["expected"]["verdict"].as_str().unwrap()
}

/// The verdicts that the page gives each kind.
#[test]
fn every_verdict_of_every_kind_has_a_golden_report() {
    let cases = golden();
    let mut found: BTreeMap<MisbehaviorKind, BTreeSet<&str>> = BTreeMap::new();
    for case in &cases {
        let Some(report) = case.get("report") else { continue };
        if let Ok(report) = Report::decode(&bytes(report).into()) {
            found.entry(report.kind()).or_default().insert(expected(case));
        }
    }
    let (proven, claim) = ("proven", "claim");
    let (refuted, inconclusive) = ("refuted", "inconclusive");
    let page = [
        (MisbehaviorKind::UnresponsiveNode, vec![claim]),
        (MisbehaviorKind::SlowNode, vec![claim, refuted]),
        (MisbehaviorKind::FailedRequest, vec![claim, refuted]),
        (MisbehaviorKind::OutOfOrder, vec![proven, claim, refuted]),
        (MisbehaviorKind::DuplicateSequenceId, vec![proven, refuted]),
        (MisbehaviorKind::CausalOrdering, vec![proven, claim, inconclusive, refuted]),
        (MisbehaviorKind::InvalidPayload, vec![proven, claim, inconclusive, refuted]),
        (MisbehaviorKind::BlockchainInconsistency, vec![claim, inconclusive, refuted]),
    ];
    let page: BTreeMap<MisbehaviorKind, BTreeSet<&str>> =
        page.into_iter().map(|(kind, verdicts)| (kind, verdicts.into_iter().collect())).collect();
    assert_eq!(found, page);
}

/// The verdicts that the page gives each fault.
#[test]
fn every_verdict_on_signed_trees_has_golden_evidence() {
    let cases = golden();
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for case in &cases {
        if let Some(fault) = case["fault"].as_str() {
            found.entry(fault).or_default().insert(expected(case));
        }
    }
    let page = [
        (TreeFault::TwoCheckpoints, vec!["proven", "claim", "inconclusive", "refuted"]),
        (TreeFault::TwoLeaves, vec!["proven", "claim", "refuted"]),
        (TreeFault::OtherLeaf, vec!["proven", "refuted"]),
        (TreeFault::Gap, vec!["claim", "refuted"]),
        (TreeFault::OtherTree, vec!["claim", "refuted"]),
        (TreeFault::LateRelease, vec!["proven", "claim", "refuted"]),
        (TreeFault::OtherReport, vec!["claim", "refuted"]),
        (TreeFault::TwoReports, vec!["claim", "refuted"]),
        (TreeFault::OtherThanPruned, vec!["claim", "refuted"]),
        (TreeFault::VoidSigned, vec!["claim", "refuted"]),
    ];
    let page: BTreeMap<&str, BTreeSet<&str>> = page
        .into_iter()
        .map(|(fault, verdicts)| (fault.name(), verdicts.into_iter().collect()))
        .collect();
    assert_eq!(found, page);
}

/// A mutated proof is refused, and the reason has a name.
#[test]
fn mutated_proofs_are_refused_with_a_named_reason() {
    let cases = golden();
    let mutated = cases.iter().filter(|case| {
        let name = case["name"].as_str().unwrap();
        name.starts_with("mutated: ") && name != "mutated: nothing"
    });
    let mut reasons = BTreeSet::new();
    for case in mutated {
        let judgement = judge(case);
        assert_eq!(judgement.verdict.name(), "refuted", "{}", case["name"]);
        reasons.insert(judgement.facts[0].name);
    }
    let named = [
        "bad_signature",
        "forged",
        "malformed",
        "not_of_accused",
        "one_place",
        "too_large",
        "unknown_node",
        "unknown_originator",
    ];
    assert_eq!(reasons.into_iter().collect::<Vec<_>>(), named);
}

#[test]
fn the_file_is_what_the_second_implementation_makes() {
    let made = second::run("misbehavior_golden.py", &[], &[]);
    assert_eq!(made.len(), golden().len());
    for (line, made) in GOLDEN.lines().zip(made) {
        assert_eq!(line, made);
    }
}

#[test]
fn the_second_implementation_agrees_on_golden_reports_and_on_mutated_ones() {
    let mut chance = Chance(49);
    let mut cases = golden();
    let is_mutated = |case: &&Value| {
        let is_short = |hex: &str| (1..=2 * MUTATED_LEN_BYTES_MAX).contains(&hex.len());
        // A node counts envelopes before it decodes them. It may then find too many where a field is malformed, too.
        let is_too_large = case["expected"]["fact"] == "too_large";
        !is_too_large && case["report"].as_str().is_none_or(is_short)
    };
    let mutated: Vec<Value> = cases
        .iter()
        .filter(is_mutated)
        .flat_map(|case| (0..MUTATIONS).map(|_| chance.mutate(case)).collect::<Vec<_>>())
        .collect();
    cases.extend(mutated);
    let found = second::run("misbehavior.py", &[], &cases);
    assert_eq!(found.len(), cases.len());
    for (case, found) in cases.iter().zip(found) {
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!(verdict(case), found, "{case}");
    }
}
