//! The projections whose rows must not be read, because they must be rebuilt or are being rebuilt.
//!
//! A snapshot may be taken while a rebuild begins or ends. So each change is counted, and a snapshot trusts only
//! projections that were current before and after it was taken, with no change in between.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::family::Family;
use crate::projection::{Projection, ProjectionSet};

/// Bits of a state for the projections. The other bits count changes.
const PROJECTION_BITS: u32 = 8;

/// The projections that have to be rebuilt.
#[derive(Debug)]
pub(crate) struct StaleProjections {
    list: Mutex<Vec<Projection>>,
    /// The number of changes, and a bit for each projection of the list.
    state: AtomicU64,
}

impl StaleProjections {
    pub(crate) fn new(list: Vec<Projection>) -> Self {
        Self { state: AtomicU64::new(bits_of(&list)), list: Mutex::new(list) }
    }

    /// Returns the projections.
    pub(crate) fn list(&self) -> Vec<Projection> {
        self.list.lock().clone()
    }

    /// Returns true if one of these projections has to be rebuilt. Takes no lock, because each publish asks.
    pub(crate) fn has_any_of(&self, set: ProjectionSet) -> bool {
        self.state.load(Ordering::Acquire) & u64::from(set.encode()) != 0
    }

    /// Returns true if all projections can be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.lock().is_empty()
    }

    /// Marks all projections as stale. Call it before the first of their rows is dropped.
    pub(crate) fn add_all(&self) {
        self.add(ProjectionSet::all());
    }

    /// Marks some projections as stale. Call it before the first of their rows is dropped.
    pub(crate) fn add(&self, more: ProjectionSet) {
        self.replace(ProjectionSet::of(self.list()).or(more).list());
    }

    /// Marks some projections as current, whose rows equal those of a rebuild.
    pub(crate) fn remove(&self, made: ProjectionSet) {
        self.replace(self.list().into_iter().filter(|it| !made.contains(*it)).collect());
    }

    /// Marks all projections as current. Call it after the last of their rows was written.
    pub(crate) fn clear(&self) {
        self.replace(Vec::new());
    }

    fn replace(&self, new: Vec<Projection>) {
        let mut list = self.list.lock();
        let changes = self.state.load(Ordering::Acquire) >> PROJECTION_BITS;
        let state = (changes.wrapping_add(1) << PROJECTION_BITS) | bits_of(&new);
        self.state.store(state, Ordering::Release);
        *list = new;
    }

    /// Takes a snapshot, and returns it with the projections that must not be read in it.
    pub(crate) fn view<T>(&self, take: impl FnOnce() -> T) -> (T, HiddenProjections) {
        let before = self.state.load(Ordering::Acquire);
        let view = take();
        let after = self.state.load(Ordering::Acquire);
        let is_same = before == after;
        (view, HiddenProjections(if is_same { before } else { u64::MAX }))
    }
}

fn bits_of(list: &[Projection]) -> u64 {
    list.iter().fold(0, |bits, it| bits | bit_of(*it))
}

fn bit_of(projection: Projection) -> u64 {
    u64::from(projection.bit())
}

/// The projections that must not be read in a snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HiddenProjections(u64);

impl HiddenProjections {
    /// Returns true if the family holds the rows of one of these projections.
    pub(crate) fn cover(self, family: Family) -> bool {
        let projection = Projection::ALL.into_iter().find(|it| it.family() == family);
        projection.is_some_and(|it| self.0 & bit_of(it) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_trusts_only_what_did_not_change_while_it_was_taken() {
        const { assert!(Projection::ALL.len() <= PROJECTION_BITS as usize) };
        let covers = |hidden: HiddenProjections| {
            [Family::Inbox, Family::Topic, Family::Log].map(|it| hidden.cover(it))
        };
        let stale = StaleProjections::new(vec![Projection::Inbox]);
        assert_eq!(covers(stale.view(|| ()).1), [true, false, false]);
        let has = |projection| stale.has_any_of(ProjectionSet::of([projection, Projection::Usage]));
        assert_eq!([Projection::Inbox, Projection::Topic].map(has), [true, false]);
        stale.clear();
        assert!(stale.is_empty());
        assert_eq!(covers(stale.view(|| ()).1), [false; 3]);
        stale.add(ProjectionSet::of([Projection::Inbox, Projection::Usage]));
        let ((), less) = stale.view(|| stale.remove(ProjectionSet::of(ProjectionSet::TALLIES)));
        assert_eq!(covers(less), [true, true, false], "they were removed while it was taken");
        assert_eq!(stale.list(), [Projection::Inbox]);
        stale.clear();
        let ((), ended) = stale.view(|| {
            stale.add_all();
            stale.clear();
        });
        assert_eq!(covers(ended), [true, true, false], "a whole rebuild came between");
        stale.add_all();
        let ((), ending) = stale.view(|| stale.clear());
        assert_eq!(covers(ending), [true, true, false], "its last rows are not in the view");
    }
}
