//! Amounts of payer reports that this node keeps until the reports are settled. The log may give others by then.
//!
//! A report may have any number of payers, so its amounts are in pages, and a report is written when it is kept and not
//! again when others are.

use hawser_proto::price::PicoDollarPrice;
use hawser_proto::{OriginatorId, PayerAddress, SequenceId};
use rocksdb::{ReadOptions, WriteBatch};

use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::keys::Key;
use crate::keys::amounts_page::AmountsPageKey;
use crate::keys::meta::MetaKey;
use crate::meta;
use crate::store::Store;

/// Length of the amount of a payer in a row, bytes.
const AMOUNT_LEN_BYTES: usize = 28;
/// The maximum number of amounts in a page. A guess: 280 KB are written at once.
const PAGE_AMOUNTS: usize = 10_000;

/// The amounts of the payers in one payer report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportAmounts {
    /// The report's id.
    pub report: [u8; 32],
    /// The originator that it is about.
    pub about: OriginatorId,
    /// The sequence id before its range.
    pub start: SequenceId,
    /// The place among the recorded reports. One that was recorded later has a higher one.
    pub place: u64,
    /// The payers, each with its amount.
    pub amounts: Vec<(PayerAddress, PicoDollarPrice)>,
}

impl ReportAmounts {
    /// Writes what precedes the amounts of the first page.
    fn encode_head(&self) -> Vec<u8> {
        let mut head = self.about.0.to_be_bytes().to_vec();
        for number in [self.start.0, self.place, self.amounts.len() as u64] {
            head.extend(number.to_be_bytes());
        }
        head
    }

    /// Decodes the first report of a row that an older version wrote. Returns the rest of the row, too.
    fn decode_older(row: &[u8], place: u64) -> Option<(Self, &[u8])> {
        let (report, row) = row.split_first_chunk::<32>()?;
        let (about, row) = row.split_first_chunk::<4>()?;
        let (start, row) = row.split_first_chunk::<8>()?;
        let (count, row) = row.split_first_chunk::<8>()?;
        let count = usize::try_from(u64::from_be_bytes(*count)).ok()?;
        let (amounts, rest) = row.split_at_checked(count.checked_mul(AMOUNT_LEN_BYTES)?)?;
        let (amounts, _) = amounts.as_chunks::<AMOUNT_LEN_BYTES>();
        let found = Self {
            report: *report,
            about: OriginatorId(u32::from_be_bytes(*about)),
            start: SequenceId(u64::from_be_bytes(*start)),
            place,
            amounts: amounts.iter().map(decode_amount).collect(),
        };
        Some((found, rest))
    }

    /// Decodes the row of all of them that an older version wrote.
    fn decode_all_older(mut row: &[u8]) -> Option<Vec<Self>> {
        let mut all = Vec::new();
        while !row.is_empty() {
            let (first, rest) = Self::decode_older(row, all.len() as u64)?;
            all.push(first);
            row = rest;
        }
        Some(all)
    }
}

fn encode_amounts(amounts: &[(PayerAddress, PicoDollarPrice)], page: &mut Vec<u8>) {
    for (payer, amount) in amounts {
        page.extend(payer.0);
        page.extend(amount.0.to_be_bytes());
    }
}

fn decode_amount(bytes: &[u8; AMOUNT_LEN_BYTES]) -> (PayerAddress, PicoDollarPrice) {
    let (payer, picodollars) = bytes.split_first_chunk().expect("28 bytes");
    let picodollars = u64::from_be_bytes(picodollars.try_into().expect("8 bytes"));
    (hawser_proto::Address(*payer), PicoDollarPrice(picodollars))
}

/// A report whose pages are being read.
struct ReadPages {
    amounts: ReportAmounts,
    /// The number of amounts that the first page states. Nothing is allocated by it.
    stated: u64,
    /// The number of pages so far.
    pages: u32,
}

impl ReadPages {
    /// Begins with the first page of a report; `None` if that is malformed.
    fn begin(report: [u8; 32], page: &[u8]) -> Option<Self> {
        let (about, page) = page.split_first_chunk::<4>()?;
        let (start, page) = page.split_first_chunk::<8>()?;
        let (place, page) = page.split_first_chunk::<8>()?;
        let (stated, page) = page.split_first_chunk::<8>()?;
        let amounts = ReportAmounts {
            report,
            about: OriginatorId(u32::from_be_bytes(*about)),
            start: SequenceId(u64::from_be_bytes(*start)),
            place: u64::from_be_bytes(*place),
            amounts: Vec::new(),
        };
        let mut begun = Self { amounts, stated: u64::from_be_bytes(*stated), pages: 0 };
        begun.add(AmountsPageKey { report, page: 0 }, page).then_some(begun)
    }

    /// Adds the amounts of the next page. Returns false if this is another page, or a malformed one.
    fn add(&mut self, key: AmountsPageKey, page: &[u8]) -> bool {
        let (amounts, rest) = page.as_chunks::<AMOUNT_LEN_BYTES>();
        let is_next = (key.report, key.page) == (self.amounts.report, self.pages);
        if !is_next || !rest.is_empty() {
            return false;
        }
        self.amounts.amounts.extend(amounts.iter().map(decode_amount));
        self.pages += 1;
        true
    }

    fn is_complete(&self) -> bool {
        self.amounts.amounts.len() as u64 == self.stated
    }
}

/// Gives away a report whose pages were all read. Returns false if some are missing.
fn give(read: Option<ReadPages>, each: &mut impl FnMut(ReportAmounts)) -> bool {
    match read {
        None => true,
        Some(pages) if pages.is_complete() => {
            each(pages.amounts);
            true
        }
        Some(_) => false,
    }
}

impl Store {
    /// Calls `each` with the amounts of every recorded report, by report. Passes over reports whose pages are not
    /// complete, as after a crash while they were recorded, and returns false if there is one.
    ///
    /// # Errors
    /// When a row cannot be read. The reports before it were given.
    pub fn each_report_amounts(
        &self,
        mut each: impl FnMut(ReportAmounts),
    ) -> Result<bool, ReadError> {
        let database = self.database();
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let family = database.family(AmountsPageKey::FAMILY);
        let mut rows = database.db.raw_iterator_cf_opt(family, options);
        rows.seek(AmountsPageKey::FIRST.encode());
        let (mut read, mut is_whole) = (None::<ReadPages>, true);
        while let Some((key, page)) = rows.item() {
            let Some(key) = AmountsPageKey::decode(key) else { break };
            if key.page == 0 {
                is_whole &= give(read.take(), &mut each);
                read = ReadPages::begin(key.report, page);
                is_whole &= read.is_some();
            } else if !read.as_mut().is_some_and(|read| read.add(key, page)) {
                // One of another report takes nothing from the report before it.
                give(read.take().filter(|read| read.amounts.report != key.report), &mut each);
                is_whole = false;
            }
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        is_whole &= give(read, &mut each);
        Ok(is_whole)
    }

    /// Records the amounts of a report, in place of those that were recorded of it before. The writes become durable
    /// with the next commit.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written. A part of the pages may be written then.
    pub fn record_report_amounts(&self, report: &ReportAmounts) -> Result<(), CommitError> {
        let database = self.database();
        database.check_writable()?;
        let mut batch = WriteBatch::default();
        stage_removal(&database, &mut batch, AmountsPageKey::pages_of(report.report));
        let mut value = report.encode_head();
        // A report without amounts has a first page, too.
        let (first, rest) = report.amounts.split_at(report.amounts.len().min(PAGE_AMOUNTS));
        let pages = std::iter::once(first).chain(rest.chunks(PAGE_AMOUNTS));
        for (page, amounts) in (0..).zip(pages) {
            encode_amounts(amounts, &mut value);
            let key = AmountsPageKey { report: report.report, page };
            batch.put_cf(database.family(AmountsPageKey::FAMILY), key.encode(), &value);
            database.write_buffered(std::mem::take(&mut batch))?;
            value.clear();
        }
        Ok(())
    }

    /// Removes the amounts of these reports. The write becomes durable with the next commit.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn forget_report_amounts(
        &self,
        reports: impl IntoIterator<Item = [u8; 32]>,
    ) -> Result<(), CommitError> {
        let database = self.database();
        database.check_writable()?;
        let mut batch = WriteBatch::default();
        for report in reports {
            stage_removal(&database, &mut batch, AmountsPageKey::pages_of(report));
        }
        database.write_buffered(batch)
    }

    /// Removes the amounts of all reports, also those that cannot be read. The write becomes durable with the next
    /// commit.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn forget_all_report_amounts(&self) -> Result<(), CommitError> {
        let database = self.database();
        database.check_writable()?;
        let mut batch = WriteBatch::default();
        stage_removal(&database, &mut batch, [AmountsPageKey::FIRST, AmountsPageKey::LAST]);
        database.write_buffered(batch)
    }

    /// Returns the amounts that an older version recorded, in their order.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn older_report_amounts(&self) -> Result<Vec<ReportAmounts>, ReadError> {
        self.database().read_list(MetaKey::ReportAmounts, ReportAmounts::decode_all_older)
    }

    /// Removes the amounts that an older version recorded. The write becomes durable with the next commit.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn forget_older_report_amounts(&self) -> Result<(), CommitError> {
        let database = self.database();
        database.check_writable()?;
        let mut batch = WriteBatch::default();
        meta::delete_older_report_amounts(&database.db, &mut batch);
        database.write_buffered(batch)
    }
}

/// Stages the removal of the rows from `from`, included, to `to`, excluded.
fn stage_removal(database: &Database, batch: &mut WriteBatch, [from, to]: [AmountsPageKey; 2]) {
    let family = database.family(AmountsPageKey::FAMILY);
    batch.delete_range_cf(family, &from.encode()[..], &to.encode()[..]);
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;

    use super::*;
    use crate::testing::store;

    fn of_report(number: u8, payers: u32) -> ReportAmounts {
        let payer = |payer: u32| {
            let mut address = [number; 20];
            address[..4].copy_from_slice(&payer.to_be_bytes());
            (Address(address), PicoDollarPrice(u64::MAX))
        };
        ReportAmounts {
            report: [number; 32],
            about: OriginatorId(200),
            start: SequenceId(7),
            place: u64::from(number),
            amounts: (0..payers).map(payer).collect(),
        }
    }

    /// Returns what is recorded, and if all of it can be used.
    fn recorded(store: &Store) -> (Vec<ReportAmounts>, bool) {
        let mut all = Vec::new();
        let is_whole = store.each_report_amounts(|amounts| all.push(amounts)).unwrap();
        (all, is_whole)
    }

    fn put(store: &Store, key: &[u8], value: &[u8]) {
        let database = store.database();
        let mut batch = WriteBatch::default();
        batch.put_cf(database.family(AmountsPageKey::FAMILY), key, value);
        database.write_buffered(batch).unwrap();
    }

    #[test]
    fn each_report_is_recorded_and_removed_alone_however_many_payers_it_has() {
        let store = store();
        assert_eq!(recorded(&store), (vec![], true));
        let page = u32::try_from(PAGE_AMOUNTS).unwrap();
        let mut all: Vec<_> = [(0, 3), (1, 0), (2, page), (3, 3 * page + 1), (0xff, page + 1)]
            .map(|(number, payers)| of_report(number, payers))
            .into();
        for amounts in &all {
            store.record_report_amounts(amounts).unwrap();
        }
        assert_eq!(recorded(&store), (all.clone(), true));
        all[3].amounts.truncate(4);
        store.record_report_amounts(&all[3]).unwrap();
        assert_eq!(recorded(&store), (all.clone(), true), "none of the pages before is left");
        store.forget_report_amounts([[2; 32], [0xff; 32]]).unwrap();
        let left = [0, 1, 3].map(|at: usize| all[at].clone());
        assert_eq!(recorded(&store), (left.to_vec(), true));
        store.forget_all_report_amounts().unwrap();
        assert_eq!(recorded(&store), (vec![], true));
        let format = meta::format(&store.database().db).unwrap();
        assert_eq!(format, Some(meta::FORMAT), "other rows of the family stay");
    }

    /// A crash while pages are written, and damage.
    #[test]
    fn a_report_without_all_of_its_pages_is_passed_over() {
        let page = u32::try_from(PAGE_AMOUNTS).unwrap();
        let key = |number, page| AmountsPageKey { report: [number; 32], page }.encode();
        let head = of_report(2, 5).encode_head();
        let damages = [
            (key(2, 0), head.clone(), "five amounts are missing"),
            (key(2, 0), head[..27].to_vec(), "a part of the head"),
            (key(2, 1), Vec::new(), "no first page"),
            (key(1, 2), vec![0; AMOUNT_LEN_BYTES], "more than it states"),
            (key(1, 1), vec![0; AMOUNT_LEN_BYTES + 1], "a part of an amount"),
            (key(1, 3), vec![0; AMOUNT_LEN_BYTES], "a page between is missing"),
        ];
        for (key, value, what) in damages {
            let store = store();
            for amounts in [of_report(0, 1), of_report(1, page + 1), of_report(3, 1)] {
                store.record_report_amounts(&amounts).unwrap();
            }
            put(&store, &key, &value);
            let (read, is_whole) = recorded(&store);
            assert!(!is_whole, "{what}");
            let read: Vec<_> = read.iter().map(|amounts| amounts.report[0]).collect();
            assert!(read.contains(&0) && read.contains(&3), "the others stay: {what}");
            assert_eq!(read.contains(&1), key[15] == 2, "{what}");
            store.forget_all_report_amounts().unwrap();
            assert_eq!(recorded(&store), (vec![], true), "{what}");
        }
    }

    #[test]
    fn the_form_of_a_page_is_pinned() {
        let store = store();
        let amounts = of_report(9, 1);
        store.record_report_amounts(&amounts).unwrap();
        let database = store.database();
        let key = AmountsPageKey { report: [9; 32], page: 0 }.encode();
        let page = database.db.get_cf(database.family(AmountsPageKey::FAMILY), key).unwrap();
        let numbers = [7u64, 9, 1].map(u64::to_be_bytes).concat();
        let amount = [&[0; 4][..], &[9; 16], &[255; 8]].concat();
        assert_eq!(page.unwrap(), [&[0, 0, 0, 200][..], &numbers, &amount].concat());
    }

    #[test]
    fn what_an_older_version_recorded_is_read_and_a_part_of_it_or_a_false_count_is_damage() {
        let head = [&[9; 32][..], &[0, 0, 0, 200], &[0, 0, 0, 0, 0, 0, 0, 7]].concat();
        let amount = [&[0; 4][..], &[9; 16], &[255; 8]].concat();
        let row = [&head[..], &[0, 0, 0, 0, 0, 0, 0, 1], &amount[..]].concat();
        let store = store();
        assert_eq!(store.older_report_amounts().unwrap(), []);
        put(&store, MetaKey::ReportAmounts.encode(), &row);
        let expected = ReportAmounts { place: 0, ..of_report(9, 1) };
        assert_eq!(store.older_report_amounts().unwrap(), [expected]);
        assert_eq!(recorded(&store), (vec![], true), "it is no page");
        store.forget_older_report_amounts().unwrap();
        assert_eq!(store.older_report_amounts().unwrap(), []);
        for len in 1..row.len() {
            assert_eq!(ReportAmounts::decode_all_older(&row[..len]), None, "{len} bytes");
        }
        for count in [2, u64::MAX / 28, u64::MAX] {
            let row = [&head[..], &count.to_be_bytes(), &amount[..]].concat();
            assert_eq!(ReportAmounts::decode_all_older(&row), None, "{count}");
        }
    }
}
