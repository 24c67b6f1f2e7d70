//! The lock of a bucket: an object that only one of several writers can make.
//!
//! A bucket has no lock that ends with its holder. So a holder writes the object again while it works, and one that
//! was not written for long is taken over. Each holder reads it back before a step that must be alone: it then
//! notices that another one has taken over, or that the service does not know conditions and let two of them in.

use std::io::{self, ErrorKind, Read as _};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hawser_storage::HeldObjects;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

use super::connection::BucketConnection;
use super::reader::ObjectReader;

/// Name of the object.
const LOCK: &str = "lock";
/// Begins its content; the rest is chosen at random by its holder.
const TITLE: &str = "hawser lock 1 ";
/// The longest content that is read, in bytes.
const LEN_BYTES_MAX: u64 = 256;
/// Time after which the holder writes it again. A guess.
const KEEP_EVERY: Duration = Duration::from_secs(60);
/// Age from which on a lock is void, by the clocks of service and reader together. A guess: more than they
/// differ, and many times the time of a holder for one file.
const LEFT_AFTER_S: u64 = 2 * 60 * 60;

/// The lock, held.
pub(super) struct HeldBucket<'a> {
    bucket: &'a BucketConnection,
    path: Path,
    content: String,
    kept: Instant,
    is_lost: bool,
}

impl<'a> HeldBucket<'a> {
    pub(super) fn new(bucket: &'a BucketConnection) -> io::Result<Self> {
        let content = format!("{TITLE}{:032x}", rand::random::<u128>());
        let path = bucket.path(LOCK)?;
        let mut held = Self { bucket, path, content, kept: Instant::now(), is_lost: false };
        match held.put(PutMode::Create) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // A request that was repeated may have met its own object.
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

/// Removes a lock whose holder has gone.
fn remove_left(bucket: &BucketConnection, path: &Path) -> io::Result<()> {
    let written = match bucket.wait(bucket.store.head(path)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?.last_modified.timestamp(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let written = u64::try_from(written).unwrap_or_default();
    if now.saturating_sub(written) < LEFT_AFTER_S {
        return Err(ErrorKind::WouldBlock.into());
    }
    tracing::warn!(lock = %path, "took over the lock of a bucket, which was not renewed for hours");
    bucket.wait(bucket.store.delete(path))
}

impl HeldObjects for HeldBucket<'_> {
    fn keep(&mut self) -> io::Result<()> {
        if self.kept.elapsed() < KEEP_EVERY {
            return Ok(());
        }
        self.confirm()?;
        self.put(PutMode::Overwrite)?;
        self.kept = Instant::now();
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
        // A lock that stays is taken over later. The stop of a node must not leave one.
        let _ = self.bucket.wait_final(async {
            let found = store.get_range(&self.path, 0..LEN_BYTES_MAX).await?;
            if found[..] == *own {
                store.delete(&self.path).await?;
            }
            Ok(())
        });
    }
}
