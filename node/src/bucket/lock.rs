//! The lock of a bucket: an object that only one of several writers can create.
//!
//! A bucket has no lock that ends with its holder. So a holder rewrites the object while it works, and a
//! lock that was not rewritten for long may be taken over. Before a step that requires the lock, the holder
//! reads it back. It then notices if another writer has taken over, or if the service ignored the condition
//! on creation and admitted two writers.

use std::io::{self, ErrorKind, Read as _};
use std::time::{Duration, Instant};

use hawser_storage::HeldObjects;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

use super::connection::BucketConnection;
use super::reader::ObjectReader;
use crate::clock::now_unix_s;

/// Name of the object.
const LOCK: &str = "lock";
/// The prefix of its content; the rest is chosen at random by its holder.
const TITLE: &str = "hawser lock 1 ";
/// The longest content that is read, in bytes. A guess: several times the length that a holder writes.
const LEN_BYTES_MAX: u64 = 256;
/// The interval at which the holder rewrites it. A guess.
const KEEP_EVERY: Duration = Duration::from_secs(60);
/// The age above which the lock is considered abandoned, by the clocks of service and reader together. A guess: more
/// than the clocks differ, and many times as long as a holder takes for one file.
const LEFT_AFTER_S: u64 = 2 * 60 * 60;

/// The held lock of a bucket.
pub(super) struct HeldBucket<'a> {
    bucket: &'a BucketConnection,
    path: Path,
    content: String,
    kept: LastRenewal,
    is_lost: bool,
}

/// The time of the last renewal by both clocks. The first one stands still while the machine is suspended, and
/// meanwhile another writer may take the lock over.
struct LastRenewal {
    at: Instant,
    unix_s: u64,
}

impl LastRenewal {
    fn now() -> Self {
        Self { at: Instant::now(), unix_s: now_unix_s() }
    }

    fn is_due(&self, now_unix_s: u64) -> bool {
        self.at.elapsed() >= KEEP_EVERY || now_unix_s.abs_diff(self.unix_s) >= KEEP_EVERY.as_secs()
    }
}

impl<'a> HeldBucket<'a> {
    pub(super) fn new(bucket: &'a BucketConnection) -> io::Result<Self> {
        let content = format!("{TITLE}{:032x}", rand::random::<u128>());
        let path = bucket.path(LOCK)?;
        let mut held = Self { bucket, path, content, kept: LastRenewal::now(), is_lost: false };
        match held.put(PutMode::Create) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // A retried request may have found the object of its own first attempt.
                if held.confirm().is_ok() {
                    return Ok(held);
                }
                remove_left(bucket, &held.path)?;
                held.is_lost = false;
                held.put(PutMode::Create).map_err(|error| match error.kind() {
                    ErrorKind::AlreadyExists => ErrorKind::WouldBlock.into(),
                    _ => error,
                })?;
            }
            put => put?,
        }
        held.confirm()?;
        Ok(held)
    }

    fn put(&self, mode: PutMode) -> io::Result<()> {
        let payload = PutPayload::from(self.content.clone().into_bytes());
        let put = self.bucket.store.put_opts(&self.path, payload, PutOptions::from(mode));
        self.bucket.wait(put).map(drop)
    }
}

/// Removes a lock whose holder is gone.
fn remove_left(bucket: &BucketConnection, path: &Path) -> io::Result<()> {
    let Some(found) = bucket.find(path)? else { return Ok(()) };
    let written = u64::try_from(found.last_modified.timestamp()).unwrap_or_default();
    if now_unix_s().saturating_sub(written) < LEFT_AFTER_S {
        return Err(ErrorKind::WouldBlock.into());
    }
    tracing::warn!(lock = %path, "took over the lock of a bucket, which was not renewed for hours");
    bucket.wait(bucket.store.delete(path))
}

impl HeldObjects for HeldBucket<'_> {
    fn keep(&mut self) -> io::Result<()> {
        if !self.kept.is_due(now_unix_s()) {
            return Ok(());
        }
        self.confirm()?;
        self.put(PutMode::Overwrite)?;
        self.kept = LastRenewal::now();
        Ok(())
    }

    fn confirm(&mut self) -> io::Result<()> {
        let mut content = Vec::new();
        let object = ObjectReader::open(self.bucket, self.path.clone(), LEN_BYTES_MAX);
        let read = object.and_then(|mut it| it.read_to_end(&mut content));
        let is_other = match read {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Err(_) => true,
            Ok(_) => content != self.content.as_bytes(),
        };
        if is_other {
            self.is_lost = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(())
    }
}

impl Drop for HeldBucket<'_> {
    fn drop(&mut self) {
        if self.is_lost {
            return;
        }
        let (store, own) = (&self.bucket.store, self.content.as_bytes());
        // A remaining lock is taken over later. The stop of a node should not leave one.
        let _ = self.bucket.wait_final(async {
            let found = store.get_range(&self.path, 0..LEN_BYTES_MAX).await?;
            if found[..] == *own {
                store.delete(&self.path).await?;
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_looked_at_after_a_time_that_only_one_of_the_clocks_has_counted() {
        let kept = LastRenewal::now();
        assert!(!kept.is_due(kept.unix_s), "it was renewed just now");
        for seconds in [KEEP_EVERY.as_secs(), 3 * LEFT_AFTER_S] {
            assert!(kept.is_due(kept.unix_s + seconds), "the machine was suspended");
            assert!(kept.is_due(kept.unix_s - seconds), "a clock was set back");
        }
    }
}
