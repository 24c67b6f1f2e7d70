//! The setting that decides when readers are shown strands of other nodes.

/// The time at which readers are shown an envelope of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// An envelope is readable once its signatures are verified.
    #[default]
    Verified,
    /// An envelope of a backlog is readable once the strand's own node has signed a tree with it. Its signatures are
    /// verified right afterwards; until then no peer gets it, and no payer is charged for it.
    Checkpoints,
}
