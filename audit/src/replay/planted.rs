//! Logs with a planted fault, one for each kind that a log alone shows: invalid payloads as in
//! `docs/protocol/misbehavior.md` (each rule), times, fees, and changes by the keeper of the log. For tests.
//!
//! Rules 15 to 17 need a chain, 25 MiB and a registry with absences, places that are called pruned a record, and
//! congestion fees a rate: they have tests of their own.

use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::envelope::{OriginatorEnvelope, Proof, UnsealedEnvelope};
use hawser_proto::merkle::TreeHash;
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
use hawser_proto::pb::xmtp::mls::api::v1::{
    GroupMessageInput, UploadKeyPackageRequest, WelcomeMessageInput,
};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use hawser_proto::{Address, Bytes, OriginatorId, SequenceId, minute_of};
use hawser_rules::{PicoDollarPrice, Rate};
use prost::Message as _;

use super::testing::{
    Draft, MemoryLog, NODE, RATE, WITNESS, checkpoint, declared, draft, draft_for, draft_of, key,
    ns_of,
};
use super::*;

/// A change by a dishonest keeper or signer, and the faults that it causes.
pub(crate) type PlantedFault =
    (&'static str, fn(&mut MemoryLog), &'static [(FaultKind, u64, Option<u8>)]);

/// Replaces an envelope by another one that the node signed, with everything that follows from it.
pub(crate) fn sign_at(log: &mut MemoryLog, sequence: u64, mark: StoredMark, draft: &Draft) {
    let mut envelopes = Vec::new();
    for row in &log.rows {
        let StrandRow::Envelope { bytes, mark, .. } = row else { panic!("no envelope") };
        envelopes.push((bytes.clone(), *mark));
    }
    envelopes[usize::try_from(sequence).unwrap() - 1] = (draft.seal(), mark);
    *log = MemoryLog::of(envelopes);
}

pub(crate) fn flip_signature(log: &mut MemoryLog) {
    let other = UnsealedEnvelope::new(&draft(7, ns_of(7)).statement).seal(&key(5));
    *log.bytes_at(7) = other;
}

pub(crate) const PLANTED: &[PlantedFault] = &[
    ("a forged envelope", flip_signature, &[(FaultKind::Forged, 7, None)]),
    (
        "bytes that are none",
        |log| *log.bytes_at(9) = Bytes::from_static(b"noise"),
        &[(FaultKind::NotCanonical, 9, None)],
    ),
    (
        "an envelope at another place",
        |log| {
            let other = log.bytes_at(12).clone();
            *log.bytes_at(11) = other;
        },
        &[(FaultKind::WrongPlace, 11, None)],
    ),
    (
        "an envelope for another node",
        |log| {
            let for_other = draft_for(5, ns_of(5), OriginatorId(300), &[1, 7]);
            sign_at(log, 5, StoredMark::Invalid(3), &for_other);
        },
        &[(FaultKind::BrokenRule, 5, Some(3))],
    ),
    (
        "a topic of another payload",
        |log| {
            let other = draft_for(5, ns_of(5), NODE, &[0, 7]);
            sign_at(log, 5, StoredMark::Invalid(4), &other);
        },
        &[(FaultKind::BrokenRule, 5, Some(4))],
    ),
    (
        "an expiry that does not follow",
        |log| {
            let mut other = draft(5, ns_of(5));
            other.statement.expiry_unixtime -= 86_400;
            sign_at(log, 5, StoredMark::Invalid(9), &other);
        },
        &[(FaultKind::BrokenRule, 5, Some(9))],
    ),
    (
        "a payer envelope that does not decode",
        |log| {
            let mut other = draft(5, ns_of(5));
            other.statement.payer_envelope_bytes = Bytes::from_static(b"noise");
            sign_at(log, 5, StoredMark::Invalid(1), &other);
        },
        &[(FaultKind::BrokenRule, 5, Some(1))],
    ),
    (
        "an envelope without a payer's signature",
        |log| {
            let mut other = draft(5, ns_of(5));
            let payer = &mut other.statement.payer_envelope_bytes;
            let mut unsigned = pb::PayerEnvelope::decode(payer.clone()).unwrap();
            unsigned.payer_signature = None;
            *payer = unsigned.encode_to_vec().into();
            sign_at(log, 5, StoredMark::Invalid(2), &other);
        },
        &[(FaultKind::BrokenRule, 5, Some(2))],
    ),
    (
        "a report of payers that a payer wrote",
        |log| {
            let report = Payload::PayerReport(pb::PayerReport::default());
            sign_at(log, 5, StoredMark::Invalid(5), &draft_of(5, &[4, 7], report, &[], 30));
        },
        &[(FaultKind::BrokenRule, 5, Some(5))],
    ),
    (
        "an identity update, which the chain orders",
        |log| {
            let update = Payload::IdentityUpdate(IdentityUpdate::default());
            sign_at(log, 5, StoredMark::Invalid(6), &draft_of(5, &[2, 7], update, &[], 30));
        },
        &[(FaultKind::BrokenRule, 5, Some(6))],
    ),
    (
        "a group message that is none",
        |log| {
            let message = Payload::GroupMessage(GroupMessageInput::default());
            sign_at(log, 5, StoredMark::Invalid(6), &draft_of(5, &[0, 7], message, &[], 30));
        },
        &[(FaultKind::BrokenRule, 5, Some(6))],
    ),
    (
        "a commit, which the chain orders",
        |log| {
            // A private message of the content type of commits.
            let data = [&[0, 1, 0, 2, 0][..], &[0; 8], &[3, 0, 0, 0, 0]].concat();
            let version = Some(Version::V1(V1 { data: data.into(), ..Default::default() }));
            let commit = Payload::GroupMessage(GroupMessageInput { version });
            sign_at(log, 5, StoredMark::Invalid(6), &draft_of(5, &[0, 7], commit, &[], 30));
        },
        &[(FaultKind::BrokenRule, 5, Some(6))],
    ),
    (
        "a dependency on a node",
        |log| {
            let welcome = Payload::WelcomeMessage(WelcomeMessageInput::default());
            let other = draft_of(5, &[1, 7], welcome, &[(300, 1)], 30);
            sign_at(log, 5, StoredMark::Invalid(7), &other);
        },
        &[(FaultKind::BrokenRule, 5, Some(7))],
    ),
    (
        "a retention of one day",
        |log| {
            let welcome = Payload::WelcomeMessage(WelcomeMessageInput::default());
            sign_at(log, 5, StoredMark::Invalid(8), &draft_of(5, &[1, 7], welcome, &[], 1));
        },
        &[(FaultKind::BrokenRule, 5, Some(8))],
    ),
    (
        "a key package that is none",
        |log| {
            let upload = Payload::UploadKeyPackage(UploadKeyPackageRequest::default());
            sign_at(log, 5, StoredMark::Invalid(14), &draft_of(5, &[3, 7], upload, &[], 30));
        },
        &[(FaultKind::BrokenRule, 5, Some(14))],
    ),
    (
        "a transaction in place of the node's signature",
        |log| {
            let (statement, _) = OriginatorEnvelope::open(log.bytes_at(13).clone()).unwrap();
            *log.bytes_at(13) = OriginatorEnvelope::encode(statement, Proof::Transaction([1; 32]));
        },
        &[(FaultKind::WrongProof, 13, None)],
    ),
    (
        "a fee for congestion where the rate is none",
        |log| {
            let mut other = draft(5, ns_of(5));
            other.statement.congestion_fee_picodollars += 1;
            sign_at(log, 5, StoredMark::Valid, &other);
        },
        &[(FaultKind::Fee, 5, None)],
    ),
    (
        "a mark on a valid envelope",
        |log| {
            let valid = draft(5, ns_of(5));
            sign_at(log, 5, StoredMark::Invalid(9), &valid);
        },
        &[(FaultKind::WrongMark, 5, None)],
    ),
    (
        "a fee that no rate explains",
        |log| {
            let mut other = draft(5, ns_of(5));
            other.statement.base_fee_picodollars += 1;
            sign_at(log, 5, StoredMark::Valid, &other);
        },
        &[(FaultKind::Fee, 5, None)],
    ),
    (
        "a time that goes back",
        |log| sign_at(log, 400, StoredMark::Valid, &draft(400, ns_of(100))),
        &[(FaultKind::TimeBack, 400, None)],
    ),
    (
        "a time in the future",
        |log| sign_at(log, 20, StoredMark::Valid, &draft(20, ns_of(2_000_000))),
        &[(FaultKind::TimeAhead, 20, None)],
    ),
    ("a place without a row", |log| drop(log.rows.remove(499)), &[(FaultKind::Hole, 500, None)]),
    (
        "an envelope beyond the head",
        |log| log.last_held = 777,
        &[(FaultKind::BeyondHead, 777, None)],
    ),
    (
        "a leaf of another envelope",
        |log| *log.row_at(33).1 = Some(TreeHash([3; 32])),
        &[(FaultKind::Leaf, 33, None)],
    ),
    ("another root", |log| log.root = TreeHash([3; 32]), &[(FaultKind::Root, 500, None)]),
    (
        "a checkpoint of another tree",
        |log| log.checkpoints[3] = checkpoint(40, TreeHash([4; 32])),
        &[(FaultKind::CheckpointRoot, 40, None)],
    ),
    (
        "a checkpoint that is later than a larger one",
        |log| {
            let of = log.checkpoints[3].signed.checkpoint;
            let time_ns = log.checkpoints[4].signed.checkpoint.time_ns + 1;
            log.checkpoints[3] = Checkpoint { time_ns, ..of }.sign(&key(1)).into();
        },
        &[(FaultKind::CheckpointTime, 50, None)],
    ),
    (
        "a checkpoint that another key signed",
        |log| {
            let of = log.checkpoints[3].signed.checkpoint;
            log.checkpoints[3].signed = of.sign(&key(5));
        },
        &[(FaultKind::CheckpointSignature, 40, None)],
    ),
    (
        "a cosignature that another key made",
        |log| {
            let of = log.checkpoints[3].signed.checkpoint;
            log.checkpoints[3].add_cosignature(of.cosign(WITNESS, 1, &key(5)));
        },
        &[(FaultKind::Cosignature, 40, None)],
    ),
    (
        "a statement about void places that another key signed",
        |log| log.voids.push(declared(501, 600, 500, 5)),
        &[(FaultKind::Forged, 0, None)],
    ),
    (
        "an envelope signed after its place was declared void",
        |log| log.voids.push(declared(450, 450, 100, 1)),
        &[(FaultKind::VoidSigned, 450, None)],
    ),
    (
        "a tally of a payer who never paid",
        |log| {
            let (picodollars, last_sequence) = (PicoDollarPrice(1), SequenceId(3));
            let usage = Usage { picodollars, last_sequence, ..Usage::default() };
            log.usage.insert((minute_of(ns_of(3)), Address([5; 20])), usage);
        },
        &[(FaultKind::Usage, 3, None)],
    ),
    (
        "a tally that is a picodollar short",
        |log| log.usage.values_mut().next().unwrap().picodollars.0 -= 1,
        &[(FaultKind::Usage, 1, None)],
    ),
    (
        "messages that were not counted",
        |log| *log.congestion.values_mut().next().unwrap() -= 1,
        &[(FaultKind::Congestion, 0, None)],
    ),
    (
        "a rate that the chain never had",
        |log| log.rates.push(Rate { start_unix_s: u64::MAX, ..RATE }),
        &[(FaultKind::Rates, 0, None)],
    ),
];
