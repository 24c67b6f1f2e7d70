//! The setting that decides when readers are shown strands of other nodes.

/// The time at which readers are shown an envelope of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// When its signatures are verified.
    #[default]
    Verified,
    /// In a backlog already when the strand's own node has signed a tree with it: its signatures are verified right behind,
    /// and until then no peer is sent it and no payer is charged for it.
    Checkpoints,
}
