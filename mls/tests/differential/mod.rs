//! Verdicts on identity updates and key packages, compared with those of a published client.
//!
//! `cases.jsonl` holds logs of inboxes, updates after them, and the verdict of `@xmtp/wasm-bindings` on each, when
//! a stand-in for a node served it the log and the update. `scripts/differential` makes the cases and asks the
//! client. The client fails as a whole if an update of a log is invalid. `packages.jsonl` holds the same for key
//! packages.

mod cases;
mod forms;
mod keys;
mod names;
mod packages;
mod random;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use hawser_mls::identity::{
    AssociationState, MemberIdentifier, UpdateJudgement, fold_trusted, judge,
};
use hawser_mls::key_package;
use hawser_proto::pb::xmtp::identity::associations as pb;
use prost::Message as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use cases::Case;
use packages::PackageCase;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential/cases.jsonl");

/// Cases in which the client and this library differ on purpose: the start of the case's name, and the reason.
/// `docs/protocol/identity.md` explains each.
const EXPLAINED: &[(&str, &str)] = &[];

#[test]
fn verdicts_and_states_are_those_of_a_published_client() {
    let mut logs: BTreeMap<String, Vec<pb::IdentityUpdate>> = BTreeMap::new();
    let (mut count, mut valid, mut differences) = (0, 0, String::new());
    for line in std::fs::read_to_string(FILE).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if let Some(updates) = line.get("updates") {
            let updates = updates.as_array().unwrap().iter();
            let updates = updates.map(|update| decode(update).expect("a log of valid updates"));
            logs.insert(text(&line["log"]), updates.collect());
            continue;
        }
        count += 1;
        let after = usize::try_from(line["after"].as_u64().unwrap()).unwrap();
        let before = &logs[&text(&line["log"])][..after];
        let update = decode(&line["update"]);
        let theirs = text(&line["client"]);
        let ours = match update {
            Some(update) if is_of_another_inbox(before, &update) => left_out(before),
            update => verdict(before, update),
        };
        valid += usize::from(theirs.starts_with("valid"));
        let is_equal = ours == theirs || (is_refusal(&ours) && is_refusal(&theirs));
        let name = text(&line["case"]);
        let explained = EXPLAINED.iter().find(|(start, _)| name.starts_with(start));
        if is_equal == explained.is_some() {
            writeln!(differences, "{name}: client {theirs}; here {ours}").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    assert!(count > 2_000 && valid > 300, "{count} cases, of which {valid} hold");
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn decode(update: &Value) -> Option<pb::IdentityUpdate> {
    let bytes = hex::decode(update.as_str().unwrap()).unwrap();
    pb::IdentityUpdate::decode(Bytes::from(bytes)).ok()
}

fn is_refusal(verdict: &str) -> bool {
    verdict.starts_with("refused")
}

/// Returns true if an update names another inbox than the log before it. Clients sort updates by the inbox that
/// they name, so they do not count such an update to this inbox; nodes mark it as invalid under this inbox's topic.
fn is_of_another_inbox(before: &[pb::IdentityUpdate], update: &pb::IdentityUpdate) -> bool {
    before.first().is_some_and(|first| first.inbox_id != update.inbox_id)
}

/// Returns the client's verdict on the log without a further update.
fn left_out(before: &[pb::IdentityUpdate]) -> String {
    let state = fold_trusted(None, before).expect("a log of valid updates");
    format!("valid {}", digest(&state.expect("it has an update")))
}

/// Returns `valid` with a digest of the state, or `refused` with the reason.
fn verdict(before: &[pb::IdentityUpdate], update: Option<pb::IdentityUpdate>) -> String {
    let state = fold_trusted(None, before).expect("a log of valid updates");
    let Some(update) = update else { return "refused: it is no update".into() };
    match judge(state.as_ref(), &update, |question| Some(cases::agrees(question))) {
        UpdateJudgement::Valid(after) => format!("valid {}", digest(&after)),
        UpdateJudgement::Invalid(error) => format!("refused: {error}"),
        UpdateJudgement::Waiting(questions) => panic!("{questions:?} were answered"),
    }
}

/// Returns a digest of the facts that a client shows of an inbox: one line each for the recovery identifier and the
/// members, sorted. `scripts/differential` computes the same digest of the client's answer.
fn digest(state: &AssociationState) -> String {
    let identifier = |identifier: &MemberIdentifier| match identifier {
        MemberIdentifier::Ethereum(text) => format!("account {text}"),
        MemberIdentifier::Passkey(passkey) => format!("passkey {}", hex::encode(&passkey.key)),
        MemberIdentifier::Installation(key) => format!("installation {}", hex::encode(key)),
    };
    let members = state.members().map(|member| match &member.identifier {
        MemberIdentifier::Installation(_) => {
            let time = member.client_timestamp_ns.unwrap_or(0);
            format!("{} {time}", identifier(&member.identifier))
        }
        other => identifier(other),
    });
    let recovery = format!("recovery {}", identifier(state.recovery()));
    let mut lines: Vec<String> = members.chain([recovery]).collect();
    lines.sort();
    hex::encode(&Sha256::digest(lines.join("\n"))[..8])
}

const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential/packages.jsonl");

/// Key packages in which the client and this library differ on purpose: the start of the case's name.
/// `docs/protocol/identity.md` explains each.
const EXPLAINED_PACKAGES: &[&str] = &[
    "credential in upper case",
    "credential with 0x",
    "credential of 63 digits",
    "credential of 65 digits",
    "credential of letters",
    "credential empty",
    "credential of no bytes",
];

#[test]
fn verdicts_on_key_packages_are_those_of_a_published_client() {
    let (mut count, mut valid, mut differences) = (0, 0, String::new());
    for line in std::fs::read_to_string(PACKAGES).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let bytes = hex::decode(text(&line["package"])).unwrap();
        let ours = match key_package(&bytes, line["now"].as_u64().unwrap()) {
            Ok(_) => "valid".to_owned(),
            Err(error) => format!("refused: {error}"),
        };
        let (name, theirs) = (text(&line["case"]), text(&line["client"]));
        let is_equal = ours == theirs || (is_refusal(&ours) && is_refusal(&theirs));
        let explained = EXPLAINED_PACKAGES.iter().any(|start| name.starts_with(start));
        if is_equal == explained {
            writeln!(differences, "{name}: client {theirs}; here {ours}").unwrap();
        }
        count += 1;
        valid += usize::from(theirs == "valid");
    }
    assert!(differences.is_empty(), "\n{differences}");
    assert!(count > 700 && valid > 15, "{count} packages, of which {valid} hold");
}

/// Nodes judge what others have signed by the bytes alone, and have to refuse nothing that a node admits.
#[test]
fn wrong_signatures_of_key_packages_are_those_that_a_published_client_refuses() {
    let (mut wrong, mut admitted) = (0, 0);
    for line in std::fs::read_to_string(PACKAGES).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let bytes = hex::decode(text(&line["package"])).unwrap();
        let (name, theirs) = (text(&line["case"]), text(&line["client"]));
        let refused_by_client = theirs.ends_with("signature is not valid.");
        let Ok(view) = hawser_proto::mls::parse_key_package(&bytes) else {
            assert!(!refused_by_client && theirs != "valid", "{name}: {theirs}");
            continue;
        };
        let is_wrong = view.check_signatures().is_err();
        assert_eq!(is_wrong, refused_by_client, "{name}: {theirs}");
        wrong += usize::from(is_wrong);
        // At a time of its lifetime, if there is one.
        let is_admitted = key_package(&bytes, view.lifetime.not_before).is_ok();
        assert!(!(is_admitted && is_wrong), "{name}");
        admitted += usize::from(is_admitted);
    }
    assert!(wrong > 200 && admitted > 25, "{wrong} wrong ones, {admitted} admitted");
}

/// Writes the cases, for the program that asks the client.
#[test]
#[ignore = "makes the input of scripts/differential"]
fn write_cases() {
    let path = std::env::var("HAWSER_CASES").expect("a path for the cases");
    let (logs, cases) = cases::all();
    let mut lines = String::new();
    for (log, updates) in &logs {
        let updates: Vec<String> =
            updates.iter().map(|update| hex::encode(update.encode_to_vec())).collect();
        writeln!(lines, "{}", json!({ "log": log, "updates": updates })).unwrap();
    }
    for PackageCase { name, package, now_unix_s } in packages::all() {
        // The installation that the client asks about.
        let view = hawser_proto::mls::parse_key_package(&package).ok();
        let key = view.map_or(vec![0; 32], |view| view.signature_key.to_vec());
        let (package, key) = (hex::encode(&package), hex::encode(key));
        let line = json!({ "case": name, "package": package, "key": key, "now": now_unix_s });
        writeln!(lines, "{line}").unwrap();
    }
    for Case { name, log, after, update } in cases {
        let line =
            json!({ "case": name, "log": log, "after": after, "update": hex::encode(update) });
        writeln!(lines, "{line}").unwrap();
    }
    std::fs::write(path, lines).unwrap();
}
