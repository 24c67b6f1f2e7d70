//! Fuzz targets: one function for each decoder that meets untrusted bytes.

mod backup_manifest;
mod chain_rpc;
mod checkpoints;
mod connect_request;
mod control_frames;
mod data_frames;
mod exported_part;
mod group_message;
mod grpc_strand;
mod identity_update;
mod json;
mod key_package;
mod layers;
mod misbehavior_report;
mod payer_report;
mod snapshot;
mod tree_evidence;
mod wire;

/// One decoder and what belongs to it.
#[derive(Debug)]
pub(crate) struct Target {
    /// As `--target` names it.
    pub(crate) name: &'static str,
    /// Decodes the input and panics if what came out breaks a promise.
    pub(crate) run: fn(&[u8]),
    /// The vectors that inputs are made of.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes of memory that a byte of input may cost.
    pub(crate) memory_factor: usize,
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    wire::TARGET,
    layers::TARGET,
    group_message::TARGET,
    key_package::TARGET,
    json::TARGET,
    connect_request::TARGET,
    identity_update::TARGET,
    checkpoints::TARGET,
    control_frames::TARGET,
    data_frames::TARGET,
    grpc_strand::TARGET,
    chain_rpc::TARGET,
    misbehavior_report::TARGET,
    tree_evidence::TARGET,
    payer_report::TARGET,
    backup_manifest::TARGET,
    exported_part::TARGET,
    snapshot::TARGET,
];
