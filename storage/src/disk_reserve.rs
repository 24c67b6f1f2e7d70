//! The watermark below which nothing is written, so that the disk never becomes full.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::CommitError;

/// Share of the watermark, as a divisor, that has to be free above it before writing resumes. A guess: enough that
/// a node at the watermark does not stop and start with every compacted file.
const RESUME_ABOVE_SHARE: u64 = 8;

/// Settings of the free-space watermark.
#[derive(Clone)]
pub struct DiskReserveSettings {
    /// Free bytes on the disk below which nothing is written. 0 for no bound.
    pub free_bytes_min: u64,
    /// Returns the free bytes on the disk of the data folder; `None` if unknown.
    pub free_bytes: Arc<dyn Fn() -> Option<u64> + Send + Sync>,
}

impl std::fmt::Debug for DiskReserveSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskReserveSettings")
            .field("free_bytes_min", &self.free_bytes_min)
            .finish_non_exhaustive()
    }
}

/// The free-space watermark that all writers share.
#[derive(Debug, Default)]
pub(crate) struct DiskReserve {
    settings: OnceLock<DiskReserveSettings>,
    is_low: AtomicBool,
}

impl DiskReserve {
    /// Sets the watermark. Only the first call has an effect.
    pub(crate) fn keep(&self, settings: DiskReserveSettings) {
        let _ = self.settings.set(settings);
    }

    /// Returns true if the disk was below the watermark at the last check.
    pub(crate) fn is_low(&self) -> bool {
        self.is_low.load(Ordering::Acquire)
    }

    /// Checks the free space. Costs one system call.
    pub(crate) fn check(&self) -> Result<(), CommitError> {
        let Some(DiskReserveSettings { free_bytes_min, free_bytes }) = self.settings.get() else {
            return Ok(());
        };
        if *free_bytes_min == 0 {
            return Ok(());
        }
        // If the system does not report the free space, the write is tried and may fail.
        let Some(free) = free_bytes() else { return Ok(()) };
        let above = if self.is_low() { free_bytes_min / RESUME_ABOVE_SHARE } else { 0 };
        let wanted = free_bytes_min.saturating_add(above);
        let is_low = free < wanted;
        self.is_low.store(is_low, Ordering::Release);
        if is_low { Err(CommitError::NoRoom { free, wanted }) } else { Ok(()) }
    }
}

/// The watermark for files that are written beside the data folder: backups and copies for new nodes. It counts if they
/// are on the same disk: on another one, or in a bucket, they take no room that the log needs.
#[derive(Debug)]
pub(crate) struct DiskReserveBeside<'a> {
    /// The watermark; `None` on another disk.
    reserve: Option<&'a DiskReserve>,
    /// The refusal, for people.
    refused: Option<String>,
}

impl<'a> DiskReserveBeside<'a> {
    /// Finds out if two existing folders are on one disk: that of the files, and the data folder.
    pub(crate) fn new(reserve: &'a DiskReserve, folders: Option<(&Path, &Path)>) -> Self {
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
        let is_one = |(to, data)| device(to).is_some_and(|it| device(data) == Some(it));
        Self { reserve: folders.is_some_and(is_one).then_some(reserve), refused: None }
    }

    /// Returns `Break` if nothing more may be written.
    pub(crate) fn check(&mut self) -> ControlFlow<()> {
        match self.reserve.map_or(Ok(()), DiskReserve::check) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.refused = Some(error.to_string());
                ControlFlow::Break(())
            }
        }
    }

    /// Returns the reason if [`Self::check`] has refused.
    pub(crate) fn refused(self) -> Option<String> {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn writing_goes_on_only_clearly_above_the_watermark() {
        let free = Arc::new(AtomicU64::new(800));
        let seen = Arc::clone(&free);
        let reserve = DiskReserve::default();
        assert_eq!(reserve.check(), Ok(()), "no watermark");
        reserve.keep(DiskReserveSettings {
            free_bytes_min: 800,
            free_bytes: Arc::new(move || Some(seen.load(Ordering::SeqCst))),
        });
        let check = |bytes| {
            free.store(bytes, Ordering::SeqCst);
            reserve.check()
        };
        assert_eq!(check(800), Ok(()));
        assert_eq!(check(799), Err(CommitError::NoRoom { free: 799, wanted: 800 }));
        assert_eq!(check(899), Err(CommitError::NoRoom { free: 899, wanted: 900 }));
        assert!(reserve.is_low());
        assert_eq!(check(900), Ok(()));
        assert_eq!(check(800), Ok(()));
        assert!(!reserve.is_low());
    }
}
