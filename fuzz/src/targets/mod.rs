//! Fuzz targets: one function for each decoder of untrusted bytes.

mod backup_manifest;
mod chain_rpc;
mod checkpoints;
mod connect_request;
mod control_frames;
mod data_frames;
mod evidence_file;
mod exported_part;
mod group_message;
mod grpc_strand;
mod identity_update;
mod json;
mod key_package;
mod layers;
mod misbehavior_report;
mod payer_report;
mod proof_file;
mod resume_text;
mod snapshot;
mod stream_requests;
mod subscribe_requests;
mod tree_evidence;
mod web_text;
mod wire;

/// One decoder with its properties, seeds and memory bound.
#[derive(Debug)]
pub(crate) struct Target {
    /// Name of the target for `--target`.
    pub(crate) name: &'static str,
    /// Decodes the input and panics if the result breaks a property.
    pub(crate) run: fn(&[u8]),
    /// The vectors that inputs are made of.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes of memory that a byte of input may cost.
    pub(crate) memory_factor: usize,
}

/// All targets.
pub(crate) const TARGETS: &[Target] = &[
    wire::TARGET,
    layers::TARGET,
    group_message::TARGET,
    key_package::TARGET,
    json::TARGET,
    connect_request::TARGET,
    web_text::TARGET,
    identity_update::TARGET,
    checkpoints::TARGET,
    control_frames::TARGET,
    data_frames::TARGET,
    grpc_strand::TARGET,
    chain_rpc::TARGET,
    misbehavior_report::TARGET,
    tree_evidence::TARGET,
    evidence_file::TARGET,
    payer_report::TARGET,
    proof_file::TARGET,
    resume_text::TARGET,
    subscribe_requests::TARGET,
    stream_requests::TARGET,
    backup_manifest::TARGET,
    exported_part::TARGET,
    snapshot::TARGET,
];
