//! Payer reports that contradict those of other nodes, or of their own writer: no node attests them, and each other
//! node keeps them as evidence.

use hawser_engine::facts;
use hawser_engine::runtime::{Attested, ReportStep, Submitted, Written};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::misbehavior::{MisbehaviorVerdict, TreeEvidence, TreeFault, verify_trees};
use hawser_rules::payer_report::{Attestation, NodeIds, PayerReport, RangeEnd, ReportId};
use hawser_storage::{
    Change, Evidence, EvidenceTime, Facts, LogEntry, LogItem, Misbehavior, Validity,
};

use crate::common::START_NS;
use crate::payer_report_attacks::ABOUT;
use crate::report_contract::{NODES, key};
use crate::report_network::{Network, smuggle, smuggle_unseen};

const LIAR: OriginatorId = OriginatorId(300);

/// The evidence that a node has, in the order of its recording.
fn held(network: &Network, node: u32) -> Vec<Evidence> {
    let snapshot = network.stores[&node].snapshot();
    let all = snapshot.evidence(EvidenceTime::default(), 99, usize::MAX).unwrap();
    all.into_iter().map(|it| it.evidence).collect()
}

/// Returns the envelope of a report about node 100 with a root of its own.
fn false_report(end: RangeEnd, root: u8) -> Bytes {
    let nodes = NodeIds::new(NODES.map(OriginatorId)).unwrap();
    let lie = PayerReport::new(ABOUT, SequenceId::NONE, end, [root; 32], nodes).unwrap();
    lie.client_envelope()
}

/// Has the liar write a report about node 100 with a root of its own. Returns its place.
async fn lie(network: &Network, end: RangeEnd, root: u8) -> SequenceId {
    smuggle(network, LIAR.0, false_report(end, root)).await;
    network.stores[&LIAR.0].snapshot().head(LIAR).unwrap()
}

/// Returns the end of the report that is due.
fn end_of_report(network: &Network) -> RangeEnd {
    let snapshot = network.stores[&100].snapshot();
    let end = snapshot.last_used_minute(ABOUT, network.now_minute() - 2);
    let (minute, sequence) = end.unwrap().unwrap();
    RangeEnd { minute, sequence }
}

/// The liar signs two reports for one range. Neither is attested, both are evidence, also of the contradiction, and any
/// reader with the registry judges that alone. The node that writes the true report is accused by none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_reports_of_one_writer_for_one_range_are_evidence_and_get_no_attestation() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let end = end_of_report(&network);
    let first = lie(&network, end, 7).await;
    let dry = network.worker(200).step(ReportStep::Attest, ABOUT, true).await;
    assert_eq!(dry.len(), 1, "it is refused");
    assert_eq!(held(&network, 200), [], "a dry run records nothing");
    let second = lie(&network, end, 8).await;
    for look in 0..2 {
        // The worker of each look is new, as after a restart.
        let attested = network.attest(200, 100).await;
        let is_refused = |it: &Attested| matches!(it, Attested::Refused(_));
        assert!(attested.len() == 2 && attested.iter().all(is_refused), "{attested:?}");
        let all = held(&network, 200);
        let mut faults: Vec<_> = all.iter().map(|it| (it.misbehavior.label(), it.at)).collect();
        faults.sort_unstable();
        let at = |sequence| EnvelopeId::new(LIAR, sequence);
        let expected = [
            ("other_report", at(first)),
            ("other_report", at(second)),
            ("two_reports", at(second)),
        ];
        assert_eq!(faults, expected, "look {look}");
        for it in all {
            let fault = TreeFault::of_name(it.misbehavior.label()).unwrap();
            let evidence = TreeEvidence { fault, pieces: it.envelopes };
            let registry = network.contract.0.lock().membership.registry();
            let judgement = verify_trees(&evidence, &registry);
            assert_eq!(judgement.verdict, MisbehaviorVerdict::Claim, "{judgement:?}");
            assert_eq!(judgement.facts[0].name, fault.name());
            assert_eq!((judgement.accused, judgement.place), (Some(LIAR), it.at.sequence));
        }
    }

    let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
    for node in [100, 200] {
        let attested = network.attest(node, 100).await;
        let signed = attested.iter().filter(|it| **it == Attested::Signed).count();
        assert_eq!((signed, attested.len()), (1, 3), "node {node}: {attested:?}");
        assert!(held(&network, node).iter().all(|it| it.at.originator == LIAR));
    }
    assert_eq!(held(&network, 100).len(), 3, "also the node that the reports are about");
    assert_eq!(network.submit(100, 100).await, [Submitted::Now], "only the true one is attested");
    assert_eq!(network.settle(200, 100).await.unwrap(), 3);
}

/// The liar writes the true report behind its lie, and has that attested. The worker that has refused the lie before
/// records the contradiction, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_true_report_behind_a_refused_one_shows_the_contradiction() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let first = lie(&network, end_of_report(&network), 7).await;
    let worker = network.worker(200);
    let looked = worker.attest(ABOUT).await.unwrap();
    assert!(matches!(looked[..], [(_, Attested::Refused(_))]), "{looked:?}");
    assert_eq!(held(&network, 200).len(), 1);
    let Written::New(id) = network.write(LIAR.0, 100).await else { panic!("a report is due") };
    let second = network.stores[&LIAR.0].snapshot().head(LIAR).unwrap();
    let looked = worker.attest(ABOUT).await.unwrap();
    assert!(looked.contains(&(id, Attested::Signed)), "{looked:?}");
    let places = |it: &Evidence| (it.misbehavior, it.at.sequence);
    let all: Vec<_> = held(&network, 200).iter().map(places).collect();
    assert_eq!(all, [(Misbehavior::OtherReport, first), (Misbehavior::TwoReports, second)]);
}

/// A node whose list of rates may lack the newest one accuses no other: its own amounts may be the wrong ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_is_no_evidence_while_rates_of_its_minutes_may_be_missing() {
    let mut network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let end = end_of_report(&network);
    let at = lie(&network, end, 7).await;
    network.rates_read_ns = Some(START_NS);
    network.restart(200);
    let attested = network.attest(200, 100).await;
    assert!(matches!(attested[..], [Attested::Refused(_)]), "{attested:?}");
    assert_eq!(held(&network, 200), []);
    network.rates_read_ns = None;
    network.restart(200);
    network.attest(200, 100).await;
    let all = held(&network, 200);
    let [it] = &all[..] else { panic!("{all:?}") };
    assert_eq!((it.misbehavior, it.at.sequence), (Misbehavior::OtherReport, at));
}

/// A lie that ends in a minute without usage: this node comes to no report that ends there, and keeps the lie alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_ends_where_none_can_end_is_evidence_without_figures() {
    let network = Network::start();
    network.traffic("some").await;
    let free = Attestation::sign(ReportId([7; 32]), ABOUT, &key(100));
    smuggle(&network, 100, free.client_envelope(ABOUT)).await;
    let sequence = network.stores[&100].snapshot().head(ABOUT).unwrap();
    lie(&network, RangeEnd { minute: network.now_minute(), sequence }, 7).await;
    let attested = network.attest(200, 100).await;
    assert!(matches!(attested[..], [Attested::Refused(_)]), "{attested:?}");
    let all = held(&network, 200);
    let [it] = &all[..] else { panic!("{all:?}") };
    assert_eq!((it.misbehavior, it.envelopes.len()), (Misbehavior::OtherReport, 1));
}

/// A second node writes the lie of the first one, after a worker has recorded that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_writer_of_a_refused_report_is_named_whenever_it_writes_it() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let end = end_of_report(&network);
    lie(&network, end, 7).await;
    let worker = network.worker(200);
    worker.attest(ABOUT).await.unwrap();
    let writers = || -> Vec<_> {
        held(&network, 200).iter().map(|it| (it.misbehavior, it.at.originator)).collect()
    };
    let first = (Misbehavior::OtherReport, LIAR);
    assert_eq!(writers(), [first]);
    smuggle(&network, ABOUT.0, false_report(end, 7)).await;
    let looked = worker.attest(ABOUT).await.unwrap();
    assert!(matches!(looked[..], [(_, Attested::Refused(_))]), "it is one report: {looked:?}");
    assert_eq!(writers(), [first, (Misbehavior::OtherReport, ABOUT)]);
}

/// Played by a peer that passes on an envelope which its node's signed tree has, with a signature of its own choice:
/// recorded with that, the evidence would be refuted by its readers, and keep the true envelope out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_whose_signature_is_not_checked_yet_is_no_evidence_until_it_is() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    smuggle_unseen(&network, LIAR.0, false_report(end_of_report(&network), 7)).await;
    let liar = network.stores[&LIAR.0].snapshot();
    let entries: Vec<_> = liar
        .log(EnvelopeId::new(LIAR, SequenceId::NONE), SequenceId::MAX)
        .map(|item| {
            let LogItem::Envelope { id, bytes, .. } = item.unwrap() else { panic!("a gap") };
            let facts = facts::of_stored(&bytes, Validity::Valid, OriginatorId(200));
            LogEntry { id, bytes, validity: Validity::Valid, facts }
        })
        .collect();
    let shown = |entry: &LogEntry| {
        let facts = entry.facts.clone().map(Facts::unbooked);
        Change::Append(LogEntry { facts, ..entry.clone() })
    };
    let store = &network.stores[&200];
    store.commit_shown(&entries.iter().map(shown).collect::<Vec<_>>()).unwrap();
    let worker = network.worker(200);
    let looked = worker.attest(ABOUT).await.unwrap();
    assert!(matches!(looked[..], [(_, Attested::Refused(_))]), "{looked:?}");
    assert_eq!(held(&network, 200), []);
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, OriginatorId(200));
    store.commit_verified(LIAR, &entries, &derive).unwrap();
    worker.attest(ABOUT).await.unwrap();
    let all = held(&network, 200);
    let [it] = &all[..] else { panic!("{all:?}") };
    assert_eq!((it.misbehavior, it.at), (Misbehavior::OtherReport, entries[0].id));
}

/// The liar contradicts many of its reports at once: each look computes a few of them again, and the next ones go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_contradictions_of_one_writer_are_computed_in_several_looks() {
    const LIES: u64 = 8;
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let minute = end_of_report(&network).minute;
    let worker = network.worker(200);
    let recorded = |fault| {
        let all = held(&network, 200);
        all.iter().filter(|it| it.misbehavior == fault).count()
    };
    for place in 1..=LIES {
        lie(&network, RangeEnd { minute, sequence: SequenceId(place) }, 7).await;
    }
    for look in 1..=2 {
        worker.attest(ABOUT).await.unwrap();
        assert_eq!(recorded(Misbehavior::OtherReport), 4 * look);
    }
    for place in 1..=LIES {
        lie(&network, RangeEnd { minute, sequence: SequenceId(place) }, 8).await;
    }
    worker.attest(ABOUT).await.unwrap();
    let found = recorded(Misbehavior::TwoReports);
    assert!((1..=4).contains(&found), "{found}");
    for _ in 0..4 {
        worker.attest(ABOUT).await.unwrap();
    }
    let both = (recorded(Misbehavior::OtherReport), recorded(Misbehavior::TwoReports));
    assert_eq!(both, (16, 8));
}
