//! Queries for the inboxes of addresses, answered in turns.
//!
//! The owner of an address may create any number of inboxes with it, and a caller may name the address a thousand
//! times. So each address is read once, and a turn reads a bounded number of its inboxes.

use std::collections::HashMap;
use std::sync::Arc;

use hawser_proto::{Address, InboxId};
use hawser_storage::Snapshot;

use super::access::LogAccess;
use super::queries::ROWS_PER_TURN;
use crate::read::error::QueryError;
use crate::read::rows::ROWS_PER_SEEK;

/// The inboxes of addresses that are being looked for: see [`Reader::inboxes_query`](super::Reader::inboxes_query).
pub struct InboxesQuery {
    log: LogAccess,
    addresses: Vec<Option<Address>>,
    /// The number of addresses, from the first, that are read.
    seen: usize,
    /// The last inbox that was read of the next address, if a turn has ended there.
    after: Option<InboxId>,
    /// For each address, the inbox that it has joined last so far, with the update by which it joined.
    newest: HashMap<Address, Option<(u64, InboxId)>>,
}

impl InboxesQuery {
    pub(super) fn new(log: LogAccess, addresses: Vec<Option<Address>>) -> Self {
        Self { log, addresses, seen: 0, after: None, newest: HashMap::new() }
    }

    /// Does one turn. Returns the inboxes when all are known, in the order of the request; until then there is more to
    /// do. After that, or an error, the query is over. An address is read from one view, if it has been in fewer
    /// inboxes than a turn reads.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`QueryError`] if a row cannot be read.
    pub fn turn(&mut self) -> Result<Option<Vec<Option<InboxId>>>, QueryError> {
        let counters = Arc::clone(&self.log.counters);
        counters.inboxes.measure(|| self.work())
    }

    fn work(&mut self) -> Result<Option<Vec<Option<InboxId>>>, QueryError> {
        let log = self.log.clone();
        let snapshot = log.store.snapshot();
        let mut spent = 0;
        while let Some(&address) = self.addresses.get(self.seen) {
            let is_unread = |it: &Address| self.after.is_some() || !self.newest.contains_key(it);
            let Some(address) = address.filter(is_unread) else {
                self.seen += 1;
                continue;
            };
            if spent >= ROWS_PER_TURN {
                return Ok(None);
            }
            spent += self.read(&snapshot, address)?;
        }
        let inbox = |address: &Option<Address>| {
            let (_, inbox) = (*self.newest.get(address.as_ref()?)?)?;
            Some(inbox)
        };
        Ok(Some(self.addresses.iter().map(inbox).collect()))
    }

    /// Reads on in the inboxes of the next address. Returns the work that was done, in rows.
    fn read(&mut self, snapshot: &Snapshot<'_>, address: Address) -> Result<usize, QueryError> {
        let newest = self.newest.entry(address).or_default();
        let mut rows = 0;
        let each = |inbox, since: Option<u64>| {
            rows += 1;
            *newest = (*newest).max(since.map(|since| (since, inbox)));
        };
        self.after = snapshot.inboxes_after(address, self.after, ROWS_PER_TURN, each)?;
        if self.after.is_none() {
            self.seen += 1;
        }
        Ok(ROWS_PER_SEEK + rows)
    }
}

#[cfg(test)]
mod tests {
    use hawser_storage::{AddressChange, Change, LogEntry};

    use super::*;
    use crate::read::testing::{StoppedClock, append, committed, id, store, topic};
    use crate::runtime::Reader;

    fn update(sequence: u64, addresses: Vec<AddressChange>) -> Change {
        let mut change = append(&committed(id(1, sequence), topic(1), 1, Vec::new()));
        if let Change::Append(LogEntry { facts: Some(facts), .. }) = &mut change {
            facts.addresses = addresses;
        }
        change
    }

    fn inbox(number: u32) -> InboxId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        InboxId(id)
    }

    #[test]
    fn an_address_in_many_inboxes_is_read_in_turns_and_once_however_often_it_is_named() {
        let (many, one, none) = (Address([1; 20]), Address([2; 20]), Address([3; 20]));
        let joins =
            |address, number| AddressChange { address, inbox: inbox(number), is_member: true };
        let turn = u32::try_from(ROWS_PER_TURN).unwrap();
        let last = turn / 3;
        let crowd = (0..2 * turn + 9).map(|number| joins(many, number)).collect();
        let store = store();
        let later = update(2, vec![joins(many, last), joins(one, 7)]);
        store.commit(&[update(1, crowd), later]).unwrap();
        let reader = Reader::over(store, Arc::new(StoppedClock(1))).unwrap();

        let asked = [vec![Some(many); 999], vec![Some(one), None, Some(none), Some(many)]].concat();
        let mut query = reader.inboxes_query(asked.clone());
        assert_eq!((query.turn(), query.turn()), (Ok(None), Ok(None)));
        let found = query.turn().unwrap().expect("the rest fits into a turn");
        assert_eq!(found.len(), asked.len());
        assert!(found[..999].iter().all(|found| *found == Some(inbox(last))));
        assert_eq!(found[999..], [Some(inbox(7)), None, None, Some(inbox(last))]);
        assert_eq!(reader.inboxes(&asked), Ok(found));
    }
}
