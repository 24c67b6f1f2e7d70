//! Caches the end of the expired places of each strand: every query reports them, and they seldom change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hawser_proto::{EnvelopeId, OriginatorId};
use parking_lot::Mutex;

use crate::error::ReadError;
use crate::keys::mark::Mark;

/// The cached places, valid until marks of ranges change.
#[derive(Debug, Default)]
pub(crate) struct ExpiredEnds {
    /// Counts the changes.
    generation: AtomicU64,
    /// Number of changes being written. While it is above 0, the cached places are not used.
    writing: AtomicU64,
    known: Mutex<Option<(u64, Arc<[EnvelopeId]>)>>,
    /// True if marks that cannot be read were logged, and some are still unreadable. Each query may find them.
    is_reported: AtomicBool,
}

impl ExpiredEnds {
    /// Returns the cached places if they are still valid; otherwise the state with which to store new ones.
    pub(crate) fn known(&self) -> Result<Arc<[EnvelopeId]>, EndsVersion> {
        let generation = self.generation.load(Ordering::SeqCst);
        let is_still = self.writing.load(Ordering::SeqCst) == 0;
        let known = self.known.lock();
        match &*known {
            Some((of, oldest)) if is_still && *of == generation => Ok(Arc::clone(oldest)),
            _ => Err(EndsVersion { generation, is_still }),
        }
    }

    /// Caches places that were found in a snapshot taken after `state`.
    pub(crate) fn note(&self, state: &EndsVersion, oldest: &Arc<[EnvelopeId]>) {
        if state.is_still {
            *self.known.lock() = Some((state.generation, Arc::clone(oldest)));
        }
    }

    /// Logs the strands whose marks could not be read, once until all can be read again.
    pub(crate) fn report(&self, unread: &[(OriginatorId, ReadError)]) {
        if self.is_reported.swap(!unread.is_empty(), Ordering::Relaxed) {
            return;
        }
        for (originator, error) in unread {
            tracing::error!(
                code = "marks_unreadable",
                originator_id = %originator,
                %error,
                "the last marks of a strand cannot be read: readers learn that all of it may have expired"
            );
        }
    }

    /// Starts a write that changes marks of ranges. It ends when the result is dropped.
    pub(crate) fn writing(&self) -> EndsWriting<'_> {
        self.writing.fetch_add(1, Ordering::SeqCst);
        EndsWriting(self)
    }

    /// Returns true if a change of this mark may move an end: all changes except verdicts on single envelopes.
    pub(crate) fn are_moved_by(mark: Option<&Mark>) -> bool {
        !matches!(mark, Some(Mark::Invalid(_) | Mark::Waiting))
    }
}

/// The version of the ends at a moment: the number of changes so far, and whether one is under way.
#[derive(Debug)]
pub(crate) struct EndsVersion {
    generation: u64,
    is_still: bool,
}

/// A write that changes marks of ranges.
pub(crate) struct EndsWriting<'a>(&'a ExpiredEnds);

impl Drop for EndsWriting<'_> {
    fn drop(&mut self) {
        self.0.generation.fetch_add(1, Ordering::SeqCst);
        self.0.writing.fetch_sub(1, Ordering::SeqCst);
    }
}
