//! Reports and their ids are those of the contract and of other implementations.

use serde_json::Value;

use super::super::testing::{bytes, list, number, small, vectors, word as golden};
use super::*;

fn message(case: &Value, nodes: &Value) -> pb::PayerReport {
    pb::PayerReport {
        originator_node_id: small(&case["originator_node_id"]),
        start_sequence_id: number(&case["start_sequence_id"]),
        end_sequence_id: number(&case["end_sequence_id"]),
        end_minute_since_epoch: small(&case["end_minute_since_epoch"]),
        payers_merkle_root: bytes(&case["payers_merkle_root"]).into(),
        active_node_ids: nodes.as_array().unwrap().iter().map(small).collect(),
    }
}

fn domain_of(case: &Value) -> DomainSeparator {
    DomainSeparator::new(golden(&case["domain_separator"])).unwrap()
}

#[test]
fn types_and_the_domain_are_those_of_the_constants() {
    let constants = vectors("constants");
    for declared in [TYPE, DOMAIN_TYPE] {
        let hash = &constants["type_strings"][std::str::from_utf8(declared).unwrap()];
        assert_eq!(keccak256(&[declared]).0, golden(hash));
    }
    let domain = &constants["payer_report_manager_domain"];
    assert_eq!(domain["name"].as_str().unwrap().as_bytes(), CONTRACT_NAME);
    assert_eq!(domain["version"].as_str().unwrap().as_bytes(), CONTRACT_VERSION);
}

/// Returns the digest of a case with these nodes, in this order.
fn digest_of(case: &Value, domain: DomainSeparator, nodes: &Value) -> ReportId {
    let message = message(case, nodes);
    let end = RangeEnd {
        minute: message.end_minute_since_epoch,
        sequence: SequenceId(message.end_sequence_id),
    };
    let range = (SequenceId(message.start_sequence_id), end);
    let nodes: Vec<_> = message.active_node_ids.into_iter().map(OriginatorId).collect();
    let about = OriginatorId(message.originator_node_id);
    contract_digest(domain, about, range, &golden(&case["payers_merkle_root"]), &nodes)
}

#[test]
fn ids_are_those_of_the_contract() {
    let vectors = vectors("payer_report_digest");
    let mut compared = 0;
    for case in list(&vectors["cases"]) {
        let address = bytes(&case["verifying_contract"]).try_into().unwrap();
        let domain = DomainSeparator::of_contract(number(&case["chain_id"]), address);
        assert_eq!(domain, domain_of(case), "{case}");
        let id = ReportId(golden(&case["digest"]));
        assert_eq!(digest_of(case, domain, &case["node_ids"]), id, "{case}");
        // The contract also hashes a list with a duplicate node, an empty list, and numbers that a report cannot
        // have.
        let given = message(case, &case["node_ids"]);
        if let Ok(report) = PayerReport::from_message(&given)
            && report.nodes().numbers() == given.active_node_ids
        {
            assert_eq!(report.id(domain), id, "{case}");
            compared += 1;
        }
    }
    assert!(compared >= 3, "{compared}");
}

#[test]
fn ids_are_those_of_the_sorted_nodes() {
    let vectors = vectors("payer_report_digest");
    let cases = &vectors["off_chain_report_ids"];
    let address = bytes(&cases["verifying_contract"]).try_into().unwrap();
    let domain = DomainSeparator::of_contract(number(&cases["chain_id"]), address);
    for case in list(&cases["cases"]) {
        let id = ReportId(golden(&case["report_id"]));
        assert_eq!(digest_of(cases, domain, &case["node_ids_hashed"]), id, "{case}");
        let report = PayerReport::from_message(&message(cases, &case["node_ids_given"]));
        // The contract takes no list with a node twice, and no node stores an empty list or a number that is too
        // large.
        let hashed = case["node_ids_hashed"].as_array().unwrap();
        let is_twice = hashed.windows(2).any(|pair| pair[0] == pair[1]);
        let is_large = hashed.iter().any(|node| small(node) > SMALL_MAX);
        assert_eq!(report.is_err(), is_twice || is_large || hashed.is_empty(), "{case}");
        if let Ok(report) = report {
            assert_eq!(report.id(domain), id, "{case}");
        }
    }
}

#[test]
fn reports_travel_in_the_bytes_of_other_implementations() {
    let vectors = vectors("report_envelopes");
    assert_eq!(small(&vectors["payer_envelope"]["message_retention_days"]), RETENTION_DAYS);
    let mut compared = 0;
    for case in list(&vectors["cases"]) {
        let given = message(case, &case["active_node_ids"]);
        let golden = bytes(&case["client_envelope_report"]);
        assert_eq!(given.encode_to_vec(), bytes(&case["payer_report_proto"]), "{case}");
        let topic = Topic::payer_reports(OriginatorId(given.originator_node_id));
        assert_eq!(envelope(topic, Payload::PayerReport(given.clone())), golden, "{case}");
        // A node sends a report of its own with ascending nodes.
        if let Ok(report) = PayerReport::from_message(&given)
            && report.nodes().numbers() == given.active_node_ids
        {
            assert_eq!(report.client_envelope(), golden, "{case}");
            compared += 1;
        }
    }
    assert!(compared > 0);
}

fn unhex(text: &str) -> [u8; 32] {
    hex::decode(text).unwrap().try_into().unwrap()
}

fn domain_at(chain_id: u64, address: &str) -> DomainSeparator {
    DomainSeparator::of_contract(chain_id, hex::decode(address).unwrap().try_into().unwrap())
}

/// The vectors have ids of few contracts. Another program computed these from the specification.
#[test]
fn ids_at_the_contracts_of_all_networks_are_those_that_another_program_computes() {
    let report = PayerReport::from_message(&good()).unwrap();
    for (chain, address, separator, id) in [
        (
            31_337,
            "bBFAc1B3083E66b574342D23edD39ADeE6f78f80",
            "76ace86cec1f247eba50b6f71bff4bcb50ab4f527b560042d41fd6cb004a090d",
            "d0e49d0fafd327af7f2c3a809f84b3f1e6ca79ffc84a497c700713204bc61855",
        ),
        (
            8453,
            "Ef3E4F3606A297eE0E7D2346A3b0EcfA69eDb457",
            "d54a4928a2d21f1231083cef6947ab8594a8dcabbc97c076027dc2023a5a167b",
            "d82fb7614ae4a55b21ab1195828c2f266bdda06a18807a0c46174def24a5736e",
        ),
        (
            84_532,
            "9de0b8C883c01F28A0F3d39De90c098F0941176f",
            "bdba8a8aa780cebcfae94d6f5fd94ce7700d8d8d614091d5ed196fe00b8fc918",
            "c4c4c7fcf3f6f20163869eae635095a82d4d6f3041ef265278692b3c79fd6d6a",
        ),
        (
            84_532,
            "68F76B099B017CBC65EF5c4c99614843d82DaCAD",
            "cb40887e4619db3213ab06335c3b28f85e3ad54f55b9ddce116b9f43dd06b46c",
            "d2e453dc6f16ec60897dccdd18ffc12fe1d70eadb1fe4cf43ec2cd80e47bae03",
        ),
        (
            84_532,
            "6509Cf712e4C91Df12b55189180004fd367b811c",
            "b889db705d622f43cb56aeb296c3ef1cd1a6e7c085da9b4647bc3b2c31e826bc",
            "30125928acd4ae72f7c40595553575d28b0a062920a3ef2d5eb432ebac5026da",
        ),
    ] {
        let domain = domain_at(chain, address);
        let computed = (domain.get(), report.id(domain).0);
        assert_eq!(computed, (unhex(separator), unhex(id)), "{chain}");
    }
}

/// Another program computed the ids from the specification.
#[test]
fn ids_of_the_largest_and_of_empty_reports_are_those_that_another_program_computes() {
    let mainnet = domain_at(8453, "ef3e4f3606a297ee0e7d2346a3b0ecfa69edb457");
    let most = SequenceId::MAX.0;
    let of = |originator, start, end, minute, nodes: Vec<u32>| pb::PayerReport {
        originator_node_id: originator,
        start_sequence_id: start,
        end_sequence_id: end,
        end_minute_since_epoch: minute,
        payers_merkle_root: vec![if start == end { 0 } else { 7 }; 32].into(),
        active_node_ids: nodes,
    };
    for (message, id) in [
        (
            of(SMALL_MAX, most - 1, most, SMALL_MAX, vec![SMALL_MAX, 0, 1]),
            "1a7a93e3532b9f0236653f0f085cd8d4ebfff967468042ece8efa322801a4a78",
        ),
        (
            of(200, 0, 1, 1, (1..=255).rev().collect()),
            "a03c0e44c465ac46f37b5d49cc0294f5405b071449673270658860f797a07556",
        ),
        (
            of(11, 5, 5, 7, vec![100]),
            "e2e2ddf87137df7725f953ca2a1ade1940b49c82fa34a31c6e913e055bddac3d",
        ),
    ] {
        let report = PayerReport::from_message(&message).unwrap();
        assert_eq!(report.id(mainnet).0, unhex(id), "{message:?}");
    }
}

fn good() -> pb::PayerReport {
    pb::PayerReport {
        originator_node_id: 100,
        start_sequence_id: 3,
        end_sequence_id: 9,
        end_minute_since_epoch: 10,
        payers_merkle_root: vec![7; 32].into(),
        active_node_ids: vec![300, 100],
    }
}

#[test]
fn what_is_no_report_is_refused_with_its_reason() {
    let refused = |change: fn(&mut pb::PayerReport)| {
        let mut message = good();
        change(&mut message);
        PayerReport::from_message(&message).err()
    };
    assert_eq!(refused(|_| {}), None);
    assert_eq!(
        refused(|it| it.payers_merkle_root = vec![7; 31].into()),
        Some(PayerReportError::Root(31))
    );
    assert_eq!(
        refused(|it| it.payers_merkle_root = vec![7; 33].into()),
        Some(PayerReportError::Root(33))
    );
    assert_eq!(refused(|it| it.originator_node_id = 0), Some(PayerReportError::Originator));
    assert_eq!(refused(|it| it.active_node_ids.clear()), Some(PayerReportError::NoNodes));
    assert_eq!(
        refused(|it| it.active_node_ids.push(300)),
        Some(PayerReportError::NodeTwice(OriginatorId(300)))
    );
    let many = |it: &mut pb::PayerReport| it.active_node_ids = (1..=256).collect();
    assert_eq!(refused(many), Some(PayerReportError::TooManyNodes(256)));
    let (start, end) = (SequenceId(3), SequenceId(2));
    assert_eq!(
        refused(|it| it.end_sequence_id = 2),
        Some(PayerReportError::Reversed { start, end })
    );
    assert_eq!(refused(|it| it.end_sequence_id = 3), Some(PayerReportError::RootOfNothing));
    let above = |what| Some(PayerReportError::TooLarge { what, number: 1 << 31 });
    assert_eq!(refused(|it| it.originator_node_id = 1 << 31), above("originator id"));
    assert_eq!(refused(|it| it.end_minute_since_epoch = 1 << 31), above("end minute"));
    assert_eq!(refused(|it| it.active_node_ids.push(1 << 31)), above("node id"));
    let sequence = Some(PayerReportError::TooLarge { what: "end", number: 1 << 63 });
    assert_eq!(refused(|it| it.end_sequence_id = 1 << 63), sequence);
}

#[test]
fn the_order_of_nodes_is_no_part_of_a_report() {
    let domain = DomainSeparator::new([1; 32]).unwrap();
    let report = PayerReport::from_message(&good()).unwrap();
    let mut other = good();
    other.active_node_ids.reverse();
    assert_eq!(PayerReport::from_message(&other).unwrap(), report);
    assert_eq!(report.nodes().numbers(), [100, 300]);
    let other_contract = DomainSeparator::new([2; 32]).unwrap();
    assert_ne!(report.id(domain), report.id(other_contract));
    assert_eq!(DomainSeparator::new([0; 32]), None);
    assert_eq!(report.id(domain).to_string().parse(), Ok(report.id(domain)));
    assert_eq!("0x12".parse::<ReportId>(), Err(ReportIdError));
    assert_eq!("g".repeat(64).parse::<ReportId>(), Err(ReportIdError));
}
