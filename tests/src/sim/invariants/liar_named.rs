//! Some honest node names a scripted liar within ten seconds of its first lie.

use std::time::Duration;

use crate::sim::world::Sim;

impl Sim {
    /// Asserts that the liar was named in time, and returns the time from its first lie.
    ///
    /// # Panics
    /// Panics if the node has not lied, was not named, or was named too late.
    pub fn assert_liar_named(&self) -> Duration {
        let role = self.role();
        let (lied_at, named_at) = self.lie_and_naming();
        let lied_at = lied_at.unwrap_or_else(|| panic!("{role:?} has not lied"));
        let named_at = named_at.unwrap_or_else(|| panic!("no node has named {role:?}"));
        let took = named_at.saturating_duration_since(lied_at);
        assert!(took <= Self::named_within(), "{role:?} was named after {took:?}");
        took
    }
}
