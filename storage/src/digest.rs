//! Digests of projections. Equal digests mean equal rows.

use std::collections::BTreeMap;

use rocksdb::ReadOptions;

use crate::error::DatabaseError;
use crate::error::ReadError;
use crate::projection::Projection;
use crate::snapshot::Snapshot;

impl Snapshot<'_> {
    /// Returns for every projection BLAKE3 over all its keys and values, each with its length in front.
    /// A rebuild must reproduce them.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn projection_digests(&self) -> Result<BTreeMap<&'static str, [u8; 32]>, ReadError> {
        Projection::ALL
            .into_iter()
            .map(|projection| Ok((projection.name(), self.digest(projection)?)))
            .collect()
    }

    fn digest(&self, projection: Projection) -> Result<[u8; 32], ReadError> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        options.fill_cache(false);
        let mut rows = self.rows(projection.family(), options);
        let mut hasher = blake3::Hasher::new();
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
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
