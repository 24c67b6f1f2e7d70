//! `hawser audit prove` and `verify`: a proof that an envelope is part of its strand, or that its place was declared
//! void, as a file.

use hawser_audit::evidence_file::NodeEntry;
use hawser_audit::proof::{EnvelopeProof, PROOF_FILE_LEN_BYTES_MAX, ProofFile, ProvenEnvelope};
use hawser_audit::replay::{LogSource, StrandRow};
use hawser_audit::void_proof::{AnyProofFile, ProvenVoid, VoidProof, VoidProofFile};
use hawser_node::error::{RunError, RunErrorKind};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::Registry;
use hawser_rules::misbehavior::MisbehaviorVerdict;
use serde_json::{Value, json};

use super::source::{self, OpenLog};
use super::{exit_of, keys};
use crate::args::audit::{AuditProveArgs, AuditVerifyArgs};
use crate::{output, output_file};

/// The program's name in files that it writes.
const TOOL: &str = concat!("hawser ", env!("CARGO_PKG_VERSION"));

/// A proof file that was made: its text, a sentence for people, and the size of the tree if it has one.
struct MadeProof {
    text: String,
    sentence: String,
    size: Option<u64>,
}

/// Writes a proof.
///
/// # Errors
/// When the log does not hold the envelope or a checkpoint that covers it, nor a statement about its place, and when
/// the proof would be refuted.
pub(super) fn prove(args: &AuditProveArgs, as_json: bool) -> Result<(), RunError> {
    let id = parse_id(&args.envelope_id)?;
    let registry = keys::load(&args.keys, None)?.known.registry;
    let log = source::open(&args.from)?;
    let made = if args.void {
        let stated = void_proof(&*log.view()?, id, &registry)?;
        let none = || {
            let node = id.originator;
            RunError::not_found(format!(
                "the log has no statement of node {node} that {id} is void"
            ))
        };
        of_void(&log, &stated.ok_or_else(none)?, &registry)?
    } else {
        match of_envelope(&log, id, &registry) {
            Err(error) if error.kind == RunErrorKind::NotFound => {
                let stated = void_proof(&*log.view()?, id, &registry)?;
                // Only the lack of the envelope is explained by a statement.
                let stated = stated.filter(|proof| proof.envelope.is_none()).ok_or(error)?;
                of_void(&log, &stated, &registry)?
            }
            made => made?,
        }
    };
    let MadeProof { text, sentence, size } = made;
    let Some(path) = &args.out else {
        output::line(text);
        return Ok(());
    };
    output_file::write_new(path, text.as_bytes())?;
    match as_json {
        true => {
            let file = output::shown_path(path);
            output::line(json!({ "file": file, "size": size, "text": sentence }));
        }
        false => output::line(format_args!("{}: {sentence}", path.display())),
    }
    Ok(())
}

/// Makes the file that proves that an envelope is part of its strand.
fn of_envelope(log: &OpenLog, id: EnvelopeId, registry: &Registry) -> Result<MadeProof, RunError> {
    let (network, proof) = match log {
        OpenLog::Folder(store) => {
            (store.identity().network.clone(), source::prove_from_folder(store, id, registry)?)
        }
        OpenLog::Node(log) => (String::new(), log.prove(id, registry)?),
        OpenLog::Snapshot(_) => {
            let text = "a snapshot has no tree: fetch it into a folder (hawser snapshot fetch), and prove from that. \
                        It may have the statement that the place is void (--void)";
            return Err(RunError::usage(text));
        }
    };
    let refuted = |error| RunError::failed(format!("the proof of {id} does not verify: {error}"));
    let proven = proof.verify(registry).map_err(refuted)?;
    let file = ProofFile::new(TOOL, &network, &proof, registry);
    let text = serde_json::to_string_pretty(&file).map_err(RunError::failed)?;
    Ok(MadeProof { text, sentence: proven.to_string(), size: Some(proven.size) })
}

/// Makes the file that proves that a place was declared void.
fn of_void(log: &OpenLog, proof: &VoidProof, registry: &Registry) -> Result<MadeProof, RunError> {
    let refuted = |error| RunError::failed(format!("the statement does not verify: {error}"));
    let proven = proof.verify(registry).map_err(refuted)?;
    let network = match log {
        OpenLog::Node(_) => String::new(), // it names none, and its address may have a key
        OpenLog::Folder(_) | OpenLog::Snapshot(_) => log.view()?.identity().network,
    };
    let file = VoidProofFile::new(TOOL, &network, proof, registry);
    let text = serde_json::to_string_pretty(&file).map_err(RunError::failed)?;
    Ok(MadeProof { text, sentence: proven.to_string(), size: None })
}

/// Returns the statement of the strand's node about a place, with the envelope that the log has there. Of several
/// statements takes one that the envelope breaks, and else the first. `None` if the node has signed none.
fn void_proof(
    log: &dyn LogSource,
    id: EnvelopeId,
    registry: &Registry,
) -> Result<Option<VoidProof>, RunError> {
    let mut kept = log.beside(id.originator).void_statements().map_err(RunError::failed)?;
    let key = registry.node(id.originator).map(|record| record.public_key);
    kept.retain(|signed: &SignedVoid| {
        let VoidStatement { node, .. } = signed.statement;
        let is_about_it = node == id.originator && signed.statement.covers(id.sequence);
        is_about_it && key.is_some_and(|key| signed.verify(&key).is_ok())
    });
    let Some(first) = kept.first() else { return Ok(None) };
    let before = EnvelopeId { sequence: id.sequence.previous(), ..id };
    let row = log.rows(before, id.sequence).next().transpose().map_err(RunError::failed)?;
    let envelope = match row {
        Some(StrandRow::Envelope { sequence, bytes, .. }) if sequence == id.sequence => Some(bytes),
        _ => None,
    };
    let ns = envelope.as_ref().and_then(originator_ns);
    let is_broken = |it: &&SignedVoid| ns.is_some_and(|ns| it.statement.is_broken_by(ns));
    let signed = *kept.iter().find(is_broken).unwrap_or(first);
    Ok(Some(VoidProof { signed, envelope }))
}

fn originator_ns(bytes: &Bytes) -> Option<i64> {
    let (statement, _) = OriginatorEnvelope::open(bytes.clone()).ok()?;
    OriginatorEnvelope::statement(statement).ok().map(|(_, ns)| ns)
}

fn parse_id(text: &str) -> Result<EnvelopeId, RunError> {
    let parts = text.split_once(':').and_then(|(originator, sequence)| {
        let sequence: u64 = sequence.parse().ok()?;
        let id = EnvelopeId::new(OriginatorId(originator.parse().ok()?), SequenceId(sequence));
        (id.sequence > SequenceId::NONE && id.sequence <= SequenceId::MAX).then_some(id)
    });
    parts.ok_or_else(|| RunError::usage(format!("{text:?} is not an envelope id such as 100:7")))
}

/// Verifies a proof file.
///
/// # Errors
/// When the file cannot be read; and with the exit code of the verdict.
pub(super) fn verify(args: &AuditVerifyArgs, as_json: bool) -> Result<(), RunError> {
    let fail = |error: &dyn std::fmt::Display| {
        RunError::failed(format!("{}: {error}", args.proof.display()))
    };
    let text = keys::read_text(&args.proof, PROOF_FILE_LEN_BYTES_MAX as u64)?;
    let file = AnyProofFile::parse(&text).map_err(|error| fail(&error))?;
    let of_file = "of the proof file, taken on trust: give those of the registry (--registry FILE)";
    let (registry, origin, is_on_trust) = if args.keys.registry.is_some() {
        let loaded = keys::load(&args.keys, None)?;
        (loaded.known.registry, loaded.origin, false)
    } else {
        let registry = NodeEntry::registry(file.registry()).map_err(RunError::usage)?;
        (registry, of_file.to_owned(), true)
    };
    let judged = match &file {
        AnyProofFile::Envelope(file) => {
            let proof: EnvelopeProof = file.proof().map_err(|error| fail(&error))?;
            let proven = proof.verify(&registry);
            let told = proven.map(|it| (it.to_string(), shown(&it), false));
            told.map_err(|error| error.to_string())
        }
        AnyProofFile::Void(file) => {
            let proof = file.proof().map_err(|error| fail(&error))?;
            let proven = proof.verify(&registry);
            let told = proven.map(|it| (it.to_string(), shown_void(&it), it.is_claim()));
            told.map_err(|error| error.to_string())
        }
    };
    let verdict = match judged {
        Ok((.., is_claim)) if is_claim || is_on_trust => MisbehaviorVerdict::Claim,
        Ok(_) => MisbehaviorVerdict::Proven,
        Err(_) => MisbehaviorVerdict::Refuted,
    };
    let (sentence, proven) = match judged {
        Ok((sentence, proven, _)) => (sentence, Some(proven)),
        Err(sentence) => (sentence, None),
    };
    if as_json {
        output::line(json!({
            "verdict": verdict.name(), "keys": origin, "text": sentence, "proof": proven,
        }));
    } else {
        output::line(format_args!("{}: {sentence}", verdict.name()));
        output::line(format_args!("keys: {origin}"));
    }
    exit_of(verdict)
}

/// Returns a proven envelope as JSON.
fn shown(it: &ProvenEnvelope) -> Value {
    let ids = |nodes: &[OriginatorId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    json!({
        "originator_id": it.id.originator.0,
        "sequence_id": it.id.sequence.0,
        "checkpoint_node_id": it.signer.0,
        "size": it.size,
        "root": it.root.to_string(),
        "cosigners": ids(&it.cosigners),
        "not_counted": ids(&it.not_counted),
    })
}

/// Returns a proven statement about void places as JSON.
fn shown_void(it: &ProvenVoid) -> Value {
    let VoidStatement { node, from, through, time_ns, .. } = it.statement;
    let envelope = it.envelope.map(|at| {
        json!({
            "sequence_id": at.id.sequence.0,
            "originator_ns": at.originator_ns,
            "signed_afterwards": at.is_later,
        })
    });
    json!({
        "originator_id": node.0,
        "void_from": from.0,
        "void_through": through.0,
        "time_ns": time_ns,
        "envelope": envelope,
    })
}
