//! Digests of projections. Equal digests mean equal rows.

use std::collections::BTreeMap;

use rocksdb::ReadOptions;

use crate::error::DatabaseError;
use crate::error::ReadError;
use crate::family::Family;
use crate::projection::Projection;
use crate::snapshot::Snapshot;

impl Snapshot<'_> {
    /// Returns for every projection BLAKE3 over all its keys and values, each with its length in front. A rebuild
    /// must reproduce them. For expiries only the keys count, because the payer in their values is optional.
    /// Topics, which have most of the bytes, are hashed on a separate thread.
    ///
    /// # Errors
    /// An error if a row cannot be read.
    pub fn projection_digests(&self) -> Result<BTreeMap<&'static str, [u8; 32]>, ReadError> {
        let named = |projection: Projection| -> Result<_, ReadError> {
            Ok((projection.name(), self.digest(projection)?))
        };
        let is_topic = |it: &Projection| it.family() == Family::Topic;
        let (topic, others): (Vec<_>, Vec<_>) = Projection::ALL.into_iter().partition(is_topic);
        std::thread::scope(|scope| {
            let topic = scope.spawn(|| topic.into_iter().map(named).collect::<Vec<_>>());
            let others: Vec<_> = others.into_iter().map(named).collect();
            let topic = topic.join().expect("reading rows does not panic");
            others.into_iter().chain(topic).collect()
        })
    }

    fn digest(&self, projection: Projection) -> Result<[u8; 32], ReadError> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        options.fill_cache(false);
        let mut rows = self.rows(projection.family(), options);
        let mut hasher = blake3::Hasher::new();
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            let value = if projection == Projection::Expiry { &[] } else { value };
            for part in [key, value] {
                hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                hasher.update(part);
            }
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(hasher.finalize().into())
    }
}
