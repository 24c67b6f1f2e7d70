//! `hawser audit prove` and `verify`: a proof that an envelope is part of its strand, as a file.

use std::io::Write as _;

use hawser_audit::file::SCHEMA;
use hawser_audit::proof::{EnvelopeProof, PROOF_FILE_LEN_BYTES_MAX, ProofFile};
use hawser_audit::{EvidenceFile, KnownKeys};
use hawser_node::error::RunError;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use serde_json::json;

use super::source::{self, OpenLog};
use super::{exit_of, keys};
use crate::args::audit::{AuditProveArgs, AuditVerifyArgs};
use crate::output;
use hawser_rules::misbehavior::MisbehaviorVerdict;

/// The program's name in files that it writes.
const TOOL: &str = concat!("hawser ", env!("CARGO_PKG_VERSION"));

/// Writes a proof.
///
/// # Errors
/// When the log does not hold the envelope or a checkpoint that covers it, and when the proof would be refuted.
pub(in super::super) fn prove(args: &AuditProveArgs, as_json: bool) -> Result<(), RunError> {
    let id = parse_id(&args.envelope_id)?;
    let known = keys::load(&args.keys, None)?.known;
    let (network, proof) = match source::open(&args.from)? {
        OpenLog::Folder(store) => {
            (store.identity().network.clone(), source::prove_from_folder(&store, id)?)
        }
        OpenLog::Node(log) => (String::new(), log.prove(id)?),
        OpenLog::Snapshot(_) => {
            let text = "a snapshot has no tree: fetch it into a folder (hawser snapshot fetch), and prove from that";
            return Err(RunError::usage(text));
        }
    };
    let refuted = |error| RunError::failed(format!("the proof of {id} does not verify: {error}"));
    let proven = proof.verify(&known.registry).map_err(refuted)?;
    let file = ProofFile::new(TOOL, &network, &proof, &known.registry);
    let text = serde_json::to_string_pretty(&file).map_err(RunError::failed)?;
    let Some(path) = &args.out else {
        output::line(text);
        return Ok(());
    };
    let fail = |error| RunError::failed(format!("{}: {error}", path.display()));
    let mut out = std::fs::File::create_new(path).map_err(fail)?;
    out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).map_err(fail)?;
    match as_json {
        true => output::line(json!({ "file": path, "size": proven.size })),
        false => output::line(format_args!("{}: {proven}", path.display())),
    }
    Ok(())
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
pub(in super::super) fn verify(args: &AuditVerifyArgs, as_json: bool) -> Result<(), RunError> {
    let fail = |error: &dyn std::fmt::Display| {
        RunError::failed(format!("{}: {error}", args.proof.display()))
    };
    let text = keys::read_text(&args.proof, PROOF_FILE_LEN_BYTES_MAX as u64)?;
    let file = ProofFile::parse(&text).map_err(|error| fail(&error))?;
    let proof: EnvelopeProof = file.proof().map_err(|error| fail(&error))?;
    let of_file = "of the proof file, taken on trust: give those of the registry (--registry FILE)";
    let (known, origin, is_on_trust) = if args.keys.registry.is_some() {
        let loaded = keys::load(&args.keys, None)?;
        (loaded.known, loaded.origin, false)
    } else {
        (of_file_keys(&file)?, of_file.to_owned(), true)
    };
    let verdict = match proof.verify(&known.registry) {
        Ok(_) if is_on_trust => MisbehaviorVerdict::Claim,
        Ok(_) => MisbehaviorVerdict::Proven,
        Err(_) => MisbehaviorVerdict::Refuted,
    };
    let result = proof.verify(&known.registry);
    let sentence = result.as_ref().map_or_else(ToString::to_string, ToString::to_string);
    if as_json {
        let ids = |nodes: &[OriginatorId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
        let proven = result.ok().map(|it| {
            json!({
                "originator_id": it.id.originator.0,
                "sequence_id": it.id.sequence.0,
                "checkpoint_node_id": it.signer.0,
                "size": it.size,
                "root": it.root.to_string(),
                "cosigners": ids(&it.cosigners),
                "not_counted": ids(&it.not_counted),
            })
        });
        output::line(json!({
            "verdict": verdict.name(), "keys": origin, "text": sentence, "proof": proven,
        }));
    } else {
        output::line(format_args!("{}: {sentence}", verdict.name()));
        output::line(format_args!("keys: {origin}"));
    }
    exit_of(verdict)
}

/// Returns the keys that the writer of the file names.
fn of_file_keys(file: &ProofFile) -> Result<KnownKeys, RunError> {
    let evidence = EvidenceFile {
        schema: SCHEMA.to_owned(),
        tool: String::new(),
        reports: Vec::new(),
        trees: Vec::new(),
        registry: file.registry().to_vec(),
        registry_source: None,
        rates: Vec::new(),
        rates_confirmed_ns: None,
        verdicts: Vec::new(),
    };
    evidence.keys().map_err(RunError::usage)
}
