//! How reading goes, for people and for metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::event::{Mark, Subject};
use super::walk::Oddities;

/// What a strand's reader is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Doing {
    /// It has not begun.
    #[default]
    Starting,
    /// It reads what there is already.
    CatchingUp,
    /// It has read everything.
    AtHead,
    /// Something is in the way; it goes on trying.
    Stuck(String),
    /// It has stopped for good: somebody has to decide.
    Halted(String),
}

/// How deep a reorganisation was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// One block.
    One,
    /// Two to six.
    Few,
    /// Up to 64.
    Many,
    /// More.
    Deep,
}

impl Depth {
    /// All of them, shallow first.
    pub const ALL: [Self; 4] = [Self::One, Self::Few, Self::Many, Self::Deep];

    fn of(blocks: u64) -> Self {
        match blocks {
            0 | 1 => Self::One,
            2..=6 => Self::Few,
            7..=64 => Self::Many,
            _ => Self::Deep,
        }
    }

    /// For metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Few => "2-6",
            Self::Many => "7-64",
            Self::Deep => "65+",
        }
    }
}

/// A strand as it is read now.
#[derive(Debug, Clone)]
pub struct StrandStatus {
    /// What is read.
    pub subject: Subject,
    /// Where it is.
    pub address: alloy::primitives::Address,
    /// What its reader does.
    pub doing: Doing,
    /// The last block that was read.
    pub read: Option<u64>,
    /// The last block up to which everything is stored, with whatever came after it and was read.
    pub stored: Option<Mark>,
    /// The chain's head when it was last looked at.
    pub head: Option<u64>,
    /// Since when something is there that was not read.
    pub behind_since: Option<Instant>,
    /// Blocks in a page.
    pub page_blocks: u64,
    /// What was counted since the start.
    pub counts: Counts,
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Events that were stored, or were there already.
    pub events: u64,
    /// Bytes of payloads in them.
    pub bytes: u64,
    /// Pages that were answered.
    pub pages: u64,
    /// Pages that were not.
    pub failed_pages: u64,
    /// How long the answers took, together.
    pub asking: Duration,
    /// How long storing took, together.
    pub storing: Duration,
    /// Times that storing was tried again.
    pub retries: u64,
    /// Times that events were missing in what a provider had answered.
    pub gaps: u64,
    /// Reorganisations, by [`Depth::ALL`].
    pub reorganisations: [u64; 4],
    /// What was odd in the answers.
    pub oddities: Oddities,
}

impl StrandStatus {
    /// Blocks between what was read and the head.
    #[must_use]
    pub fn lag_blocks(&self) -> u64 {
        self.head.unwrap_or(0).saturating_sub(self.read.unwrap_or(0))
    }
}

/// A status that its strand writes and everybody may read.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<StrandStatus>>);

impl Shared {
    pub(super) fn new(subject: Subject, address: alloy::primitives::Address) -> Self {
        Self(Arc::new(Mutex::new(StrandStatus {
            subject,
            address,
            doing: Doing::Starting,
            read: None,
            stored: None,
            head: None,
            behind_since: Some(Instant::now()),
            page_blocks: 0,
            counts: Counts::default(),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, StrandStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is done now; a strand that has halted stays so.
    pub(super) fn doing(&self, doing: Doing) {
        let mut status = self.lock();
        if matches!(status.doing, Doing::Halted(_)) {
            return;
        }
        match doing {
            Doing::AtHead => status.behind_since = None,
            Doing::Starting | Doing::CatchingUp | Doing::Stuck(_) | Doing::Halted(_) => {
                status.behind_since.get_or_insert_with(Instant::now);
            }
        }
        status.doing = doing;
    }

    pub(super) fn reorganised(&self, blocks: u64) {
        let depth = Depth::of(blocks);
        self.lock().counts.reorganisations[depth as usize] += 1;
    }
}
