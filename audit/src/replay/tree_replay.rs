//! The tree of a strand, computed again from its envelopes and compared with the stored tree and signed roots.

use hawser_proto::merkle::{CompactRange, CompactRangeError, TreeHash};
use serde::{Deserialize, Serialize};

/// The tree over the envelopes, and beside it the one over the stored leaves from where the two differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TreeReplay {
    derived: CompactRange,
    /// The tree over the stored leaves, from the first leaf on that is not the hash of its envelope.
    stored: Option<CompactRange>,
}

impl TreeReplay {
    /// Returns the number of leaves.
    pub(super) fn size(&self) -> u64 {
        self.derived.size()
    }

    /// Checks that this can be the tree over places up to `reached`.
    ///
    /// # Errors
    /// A sentence for people that names the impossible value.
    pub(super) fn check(&self, reached: u64) -> Result<(), &'static str> {
        if self.size() > reached {
            return Err("its tree has more leaves than places");
        }
        match &self.stored {
            Some(stored) if stored.size() != self.size() => Err("its two trees differ in size"),
            _ => Ok(()),
        }
    }

    /// Adds the leaf of the place after the last one. Returns false if the stored leaf differs.
    pub(super) fn add(&mut self, derived: TreeHash, stored: Option<TreeHash>) -> bool {
        let stored = stored.unwrap_or(derived);
        if self.stored.is_none() && stored != derived {
            self.stored = Some(self.derived.clone());
        }
        self.derived.append(derived, |_, _| {});
        if let Some(tree) = &mut self.stored {
            tree.append(stored, |_, _| {});
        }
        stored == derived
    }

    /// Compares a root with the tree of the envelopes and with the tree of the stored leaves, and keeps only the tree
    /// that matches. Returns false if neither does. A leaf that differs from its envelope was reported before, and is
    /// not reported again for each root above it.
    pub(super) fn match_root(&mut self, root: TreeHash) -> bool {
        if self.derived.root() == root {
            self.stored = None;
            return true;
        }
        match self.stored.take() {
            Some(stored) if stored.root() == root => {
                self.derived = stored;
                true
            }
            other => {
                self.stored = other;
                false
            }
        }
    }

    /// Returns the root over the envelopes.
    pub(super) fn root(&self) -> TreeHash {
        self.derived.root()
    }
}

/// The form of a tree's edge in a state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EdgeState {
    size: u64,
    peaks: Vec<[u8; 32]>,
}

impl EdgeState {
    fn of(range: &CompactRange) -> Self {
        let peaks = range.peaks().iter().map(|hash| hash.0).collect();
        Self { size: range.size(), peaks }
    }

    fn range(self) -> Result<CompactRange, CompactRangeError> {
        CompactRange::new(self.size, self.peaks.into_iter().map(TreeHash).collect())
    }
}

impl Serialize for TreeReplay {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (EdgeState::of(&self.derived), self.stored.as_ref().map(EdgeState::of)).serialize(to)
    }
}

impl<'de> Deserialize<'de> for TreeReplay {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let (derived, stored) = <(EdgeState, Option<EdgeState>)>::deserialize(from)?;
        let derived = derived.range().map_err(D::Error::custom)?;
        let stored = stored.map(EdgeState::range).transpose().map_err(D::Error::custom)?;
        Ok(Self { derived, stored })
    }
}
