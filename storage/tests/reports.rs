//! Reports of misbehaviour: each fact once, in order, within bounds, and for as long as it is promised.

use std::collections::BTreeMap;

use crate::support::*;
use bytes::Bytes;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{EvidenceTime, NewReport, ReportClass, ReportFact, Store, StoredReport};

const DAY_NS: u64 = 24 * 60 * 60 * 1_000_000_000;

fn report(class: ReportClass, sequence: u64) -> NewReport {
    let sequence = SequenceId(sequence);
    let fact = ReportFact { accused: PEER, class, kind: 5, detail: 0, sequence, digest: [0; 16] };
    NewReport { fact, signature: [7; 65], report: Bytes::from(sequence.0.to_be_bytes().to_vec()) }
}

fn all(store: &Store) -> Vec<StoredReport> {
    store.snapshot().reports(0, usize::MAX, usize::MAX).unwrap()
}

fn record(store: &Store, now_ns: u64, reports: Vec<NewReport>) -> usize {
    store.record_reports(now_ns, reports, None).unwrap().len()
}

fn counted(store: &Store, class: ReportClass) -> u64 {
    store.report_counts().get(&(PEER, class)).copied().unwrap_or(0)
}

#[test]
fn a_report_has_a_time_of_its_own_and_its_fact_is_stored_once() {
    on_each(|store| {
        let [one, two] = [1, 2].map(|sequence| report(ReportClass::Proven, sequence));
        assert_eq!(record(store, 7, vec![one.clone(), one.clone(), two.clone()]), 2);
        assert_eq!(record(store, 9, vec![two, one]), 0, "known already");
        // The clock has gone back.
        assert_eq!(record(store, 3, vec![report(ReportClass::Foreign, 1)]), 1);
        let found = all(store);
        let times: Vec<u64> = found.iter().map(|it| it.server_time_ns).collect();
        assert_eq!(times, [7, 8, 9]);
        let read = |after, limit, bytes| store.snapshot().reports(after, limit, bytes).unwrap();
        assert_eq!(read(7, usize::MAX, usize::MAX), found[1..]);
        assert_eq!(read(0, 2, usize::MAX), found[..2]);
        assert_eq!(read(0, 9, 1), found[..1], "at least one");
        let two_bytes = 2 * (67 + 8);
        assert_eq!(read(0, 9, two_bytes), found[..2]);
        assert_eq!(read(0, 9, two_bytes - 1), found[..1], "and never above the bound with more");
        assert_eq!(read(9, 9, usize::MAX), []);
        assert_eq!(read(u64::MAX, 9, usize::MAX), []);
    });
}

/// A stranger submits each pair of an envelope before one fault and one behind it: their number would fill the room for
/// proofs, which is never freed, and seem to be a number of faults.
#[test]
fn proofs_between_places_are_kept_once_for_all_that_have_places_in_common() {
    on_each(|store| {
        let between = |earlier, later| {
            let about = report(ReportClass::Proven, later);
            NewReport { fact: about.fact.behind(SequenceId(earlier)), ..about }
        };
        let pairs = |from: u64, through: u64| -> Vec<NewReport> {
            (from..from + 9)
                .flat_map(|at| (through..through + 9).map(move |to| between(at, to)))
                .collect()
        };
        assert_eq!(record(store, 7, pairs(1, 10)), 1, "they are written together");
        assert_eq!(record(store, 8, pairs(1, 10)), 0, "and again");
        assert_eq!(counted(store, ReportClass::Proven), 1);
        let ends: Vec<u64> = all(store).iter().map(|it| it.server_time_ns).collect();
        assert_eq!(ends, [7]);
        // The first pair was 1 and 10.
        let (beside, around, inside) = (between(10, 11), between(1, 99), between(4, 6));
        assert_eq!(record(store, 9, vec![around.clone(), inside.clone()]), 0);
        assert_eq!(record(store, 9, vec![beside, around, inside]), 1, "another fault");
        assert_eq!(record(store, 9, vec![between(12, 14), between(11, 13)]), 1);
        assert_eq!(record(store, 9, vec![between(11, 12)]), 1, "there is room between two");
        // Other facts hide none.
        let other = between(1, 99);
        let graver = ReportFact { detail: 1, ..other.fact };
        assert_eq!(record(store, 10, vec![NewReport { fact: graver, ..other.clone() }]), 1);
        let of_kind = ReportFact { kind: 4, ..other.fact };
        assert_eq!(record(store, 10, vec![NewReport { fact: of_kind, ..other }]), 1);
        assert_eq!(record(store, 10, vec![report(ReportClass::Equivocation, 5)]), 1);
        let accused = OriginatorId(PEER.0 + 1);
        let of_other = between(1, 99);
        let fact = ReportFact { accused, ..of_other.fact };
        assert_eq!(record(store, 11, vec![NewReport { fact, ..of_other }]), 1);
    });
}

#[test]
fn reports_outlive_restarts_and_remember_what_they_were_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    let at = EvidenceTime { server_time_ns: 5, counter: 3 };
    assert_eq!(store.reported_evidence().unwrap(), EvidenceTime::default());
    store.record_reports(7, vec![report(ReportClass::Proven, 1)], Some(at)).unwrap();
    let before = all(&store);
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(all(&store), before);
    assert_eq!(store.reported_evidence().unwrap(), at);
    assert_eq!(record(&store, 9, vec![report(ReportClass::Proven, 1)]), 0);
    assert_eq!(counted(&store, ReportClass::Proven), 1);
    record(&store, 1, vec![report(ReportClass::Proven, 2)]);
    assert_eq!(all(&store)[1].server_time_ns, 8, "times go on after a restart");
}

#[test]
fn a_flood_of_one_class_costs_only_that_class() {
    let store = in_memory();
    let many = |class, from: u64, to: u64| -> Vec<NewReport> {
        (from..=to).map(|sequence| report(class, sequence)).collect()
    };
    record(&store, 1, vec![report(ReportClass::OwnClaim, 1), report(ReportClass::Equivocation, 1)]);
    assert_eq!(record(&store, 2, many(ReportClass::Foreign, 1, 10_000)), 10_000);
    record(&store, 3, many(ReportClass::Foreign, 10_001, 10_001));
    assert_eq!(counted(&store, ReportClass::Foreign), 9_000, "the oldest ones are gone");
    assert_eq!(record(&store, 4, many(ReportClass::Proven, 1, 10_001)), 10_000);
    assert_eq!(store.reports_left_out(), BTreeMap::from([(PEER, 1)]), "only proofs are left out");
    assert_eq!(record(&store, 5, many(ReportClass::Proven, 10_001, 10_001)), 0);
    assert_eq!(store.reports_left_out()[&PEER], 2);
    assert_eq!(record(&store, 5, many(ReportClass::Proven, 1, 1)), 0, "known already");
    assert_eq!(store.reports_left_out()[&PEER], 2);
    assert_eq!(counted(&store, ReportClass::OwnClaim), 1);
    assert_eq!(counted(&store, ReportClass::Equivocation), 1);
    // Reports that prove nothing are removed after 30 days, once there are too many.
    record(&store, 31 * DAY_NS, many(ReportClass::Foreign, 20_001, 21_001));
    assert_eq!(counted(&store, ReportClass::Foreign), 1_001, "all old ones are gone at once");
    assert_eq!(counted(&store, ReportClass::Proven), 10_000, "and proofs never");
}

/// Strangers could otherwise have the room of each node of a network filled, and hide what was claimed about others.
#[test]
fn a_flood_about_many_nodes_takes_a_common_room_and_none_from_a_node_with_little() {
    let store = in_memory();
    let many = |accused: OriginatorId, class, count: u64| -> Vec<NewReport> {
        let of = |sequence| {
            let about = report(class, sequence);
            NewReport { fact: ReportFact { accused, ..about.fact }, ..about }
        };
        (1..=count).map(of).collect()
    };
    let flooded = [1001, 1002, 1003, 1004, 1005].map(OriginatorId);
    record(&store, 1, many(PEER, ReportClass::Foreign, 300));
    record(&store, 1, many(PEER, ReportClass::OwnClaim, 10_000));
    record(&store, 1, many(flooded[0], ReportClass::OwnLiveness, 20));
    record(&store, 1, many(flooded[0], ReportClass::Proven, 30));
    for accused in flooded {
        assert_eq!(record(&store, 2, many(accused, ReportClass::Foreign, 8_000)), 8_000);
    }
    // 40,300 exceed 40,000. Nine tenths of these are left, and 300 of them are no flood.
    let mut expected = BTreeMap::from([
        ((PEER, ReportClass::Foreign), 300),
        ((PEER, ReportClass::OwnClaim), 10_000),
        ((flooded[0], ReportClass::OwnLiveness), 20),
        ((flooded[0], ReportClass::Proven), 30),
    ]);
    expected.extend(flooded.map(|accused| ((accused, ReportClass::Foreign), 35_700 / 5)));
    assert_eq!(store.report_counts(), expected);
}

/// A reporter that fills a class with large reports must not evict all earlier ones.
#[test]
fn large_reports_take_the_room_of_a_few_old_ones() {
    let store = in_memory();
    for sequence in 1..=32 {
        let large = Bytes::from(vec![0; 8 * 1024 * 1024]);
        let large = NewReport { report: large, ..report(ReportClass::Foreign, sequence) };
        assert_eq!(record(&store, sequence, vec![large]), 1);
    }
    // The overhead of a report counts too. The last one exceeds 256 MiB, so a tenth of that (25.6 MiB) is freed.
    assert_eq!(counted(&store, ReportClass::Foreign), 28);
    let read = store.snapshot().reports(0, usize::MAX, 1).unwrap();
    assert_eq!(read[0].server_time_ns, 5, "the oldest four are gone");
}
