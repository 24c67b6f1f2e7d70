//! Reading the inboxes of addresses.

use hawser_proto::{Address, InboxId};
use rocksdb::ReadOptions;

use crate::error::{DatabaseError, ReadError};
use crate::keys::Key as _;
use crate::keys::inbox::{InboxKey, InboxRow};
use crate::snapshot::Snapshot;

impl Snapshot<'_> {
    /// Returns the inbox of which an Ethereum address is a member; of several, the one that it joined last. Reads a row
    /// for each inbox that the address has ever been in.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn inbox(&self, address: Address) -> Result<Option<InboxId>, ReadError> {
        let mut newest = None;
        self.inboxes_after(address, None, usize::MAX, |inbox, since| {
            newest = newest.max(since.map(|since| (since, inbox)));
        })?;
        Ok(newest.map(|(_, inbox)| inbox))
    }

    /// Calls `each` with at most `rows_max` inboxes that an Ethereum address has been in, ascending after `after`, and
    /// with the update by which it has become a member; `None` if it is no longer a member. Returns the last inbox if
    /// `rows_max` rows were read, since there may be more.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn inboxes_after(
        &self,
        address: Address,
        after: Option<InboxId>,
        rows_max: usize,
        mut each: impl FnMut(InboxId, Option<u64>),
    ) -> Result<Option<InboxId>, ReadError> {
        let mut rows = self.projected(InboxKey::FAMILY, ReadOptions::default())?;
        match after {
            Some(inbox) => {
                let key = InboxKey { address, inbox }.encode();
                rows.seek(key);
                if rows.key() == Some(key.as_ref()) {
                    rows.next();
                }
            }
            None => rows.seek(InboxKey::prefix(address)),
        }
        let mut last = after;
        for _ in 0..rows_max {
            let Some((key, value)) = rows.item() else {
                rows.status().map_err(DatabaseError::from)?;
                return Ok(None);
            };
            let corrupt = || ReadError::corrupt(InboxKey::FAMILY, key);
            let found = InboxKey::decode(key).ok_or_else(corrupt)?;
            if found.address != address {
                return Ok(None);
            }
            let row = InboxRow::decode(value).ok_or_else(corrupt)?;
            each(found.inbox, row.member_since());
            last = Some(found.inbox);
            rows.next();
        }
        Ok(last)
    }
}
