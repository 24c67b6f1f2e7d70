//! The record of transactions in flight: an append-only file that is synced before anything is
//! sent.
//!
//! ```text
//! hawser-nonces 1 <chain id> <account>\n
//! length: u32 BE, then the first 8 bytes of keccak256(body), then body   (any number of times)
//! body: 1, slot: u64 BE, former slot: u64 BE (0: none), nonce: u64 BE, raw transaction
//!       2, slot: u64 BE      the slot has ended: mined some time ago, or none of its transactions is out or will be
//! ```
//!
//! A torn last entry is cut off at the next start. Its transaction was never sent, because
//! it is sent only after the sync. A [`SpentFile`] keeps beside it what the last hour has cost.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use alloy::primitives::{Address, Bytes, keccak256};

use crate::private_file::{self, DirectorySync};
use crate::spending::{MinuteCost, SpentFile, present_minute};

use super::error::BroadcastStartError;
use super::slots::SlotId;

/// The beginning of each record.
const KIND: &str = "hawser-nonces ";
/// The length in bytes of the length field and digest before each body.
const HEAD_LEN: usize = 12;
/// The highest slot id that a record may have. Ids are counted up from 1, so no real record comes near it, and each
/// later slot still gets an id of its own.
const SLOT_ID_MAX: u64 = 1 << 63;
/// The size from which the file is rewritten if at most a quarter of it is live. Guess: 20 of the longest payloads.
const COMPACT_FROM_BYTES: u64 = 4 << 20;

/// An entry of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RecordEntry {
    /// The transaction may be sent from now on. The payload gives up its former slot.
    Signed { slot: SlotId, instead_of: Option<SlotId>, nonce: u64, raw: Bytes },
    /// The slot has ended: one of its transactions was mined some time ago, or none of them was or will be sent.
    Over { slot: SlotId },
}

/// The unfinished slots by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LiveSlots(pub(super) BTreeMap<SlotId, LiveSlot>);

/// The recorded transactions of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LiveSlot {
    pub(super) nonce: u64,
    /// The signed transactions, the oldest first.
    pub(super) raws: Vec<Bytes>,
}

impl LiveSlots {
    /// Applies an entry.
    pub(super) fn apply(&mut self, entry: &RecordEntry) {
        match entry {
            RecordEntry::Signed { slot, instead_of, nonce, raw } => {
                if let Some(former) = instead_of {
                    self.0.remove(former);
                }
                let new = LiveSlot { nonce: *nonce, raws: Vec::new() };
                let live = self.0.entry(*slot).or_insert(new);
                assert_eq!(live.nonce, *nonce, "a slot keeps its nonce");
                live.raws.push(raw.clone());
            }
            RecordEntry::Over { slot } => {
                self.0.remove(slot);
            }
        }
    }

    /// Returns why no broadcaster has written this entry after the earlier ones; `None` if one may have. Such an entry
    /// must not be passed to [`apply`](Self::apply), which panics for some of them. The text omits the transaction,
    /// because its payload is not published yet.
    fn flaw(&self, entry: &RecordEntry) -> Option<String> {
        let RecordEntry::Signed { slot, instead_of, nonce, .. } = entry else { return None };
        if slot.0 > SLOT_ID_MAX {
            return Some(format!("an entry has the slot id {}, above {SLOT_ID_MAX}", slot.0));
        }
        let live = self.0.get(slot).filter(|_| *instead_of != Some(*slot))?;
        let has = live.nonce;
        (has != *nonce)
            .then(|| format!("slot {} has nonce {has}, and a later entry says {nonce}", slot.0))
    }

    /// Returns the lowest nonce of the unfinished slots that have a transaction of their own account.
    pub(super) fn first_nonce(&self, is_own: impl Fn(u64, &Bytes) -> bool) -> Option<u64> {
        let has_own = |slot: &&LiveSlot| slot.raws.iter().any(|raw| is_own(slot.nonce, raw));
        self.0.values().filter(has_own).map(|slot| slot.nonce).min()
    }

    fn entries(&self) -> impl Iterator<Item = RecordEntry> {
        self.0.iter().flat_map(|(slot, LiveSlot { nonce, raws })| {
            let signed = |raw: &Bytes| RecordEntry::Signed {
                slot: *slot,
                instead_of: None,
                nonce: *nonce,
                raw: raw.clone(),
            };
            raws.iter().map(signed)
        })
    }

    fn bytes(&self) -> usize {
        self.0.values().flat_map(|slot| &slot.raws).map(|raw| raw.len()).sum()
    }
}

impl RecordEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; HEAD_LEN]);
        match self {
            Self::Signed { slot, instead_of, nonce, raw } => {
                out.push(1);
                out.extend(slot.0.to_be_bytes());
                out.extend(instead_of.map_or(0, |former| former.0).to_be_bytes());
                out.extend(nonce.to_be_bytes());
                out.extend_from_slice(raw);
            }
            Self::Over { slot } => {
                out.push(2);
                out.extend(slot.0.to_be_bytes());
            }
        }
        let body = start + HEAD_LEN;
        let length = u32::try_from(out.len() - body).expect("transactions are far below 4 GiB");
        let digest = keccak256(&out[body..]);
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        out[start + 4..body].copy_from_slice(&digest[..8]);
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (tag, mut rest) = body.split_first()?;
        let mut number = || {
            let (number, after) = rest.split_first_chunk()?;
            rest = after;
            Some(u64::from_be_bytes(*number))
        };
        let slot = SlotId(number()?);
        match tag {
            1 => {
                let instead_of = number().map(|former| (former != 0).then_some(SlotId(former)))?;
                let nonce = number()?;
                Some(Self::Signed { slot, instead_of, nonce, raw: rest.to_vec().into() })
            }
            2 if rest.is_empty() => Some(Self::Over { slot }),
            _ => None,
        }
    }
}

/// Splits off the first entry; `None` if it is incomplete or its digest does not match.
fn split_entry(bytes: &[u8]) -> Option<(RecordEntry, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (digest, rest) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (body, rest) = rest.split_at_checked(length)?;
    let is_whole = keccak256(body)[..8] == *digest;
    is_whole.then(|| RecordEntry::decode(body)).flatten().map(|entry| (entry, rest))
}

/// The open file. A lock file excludes every other process.
#[derive(Debug)]
pub(super) struct NonceRecord {
    path: PathBuf,
    head: String,
    file: File,
    /// The length in bytes up to the end of the last complete entry.
    len: u64,
    live: LiveSlots,
    /// True from the start of a write until it succeeds: meanwhile the content of the file's end is unknown.
    is_torn: bool,
    spent: SpentFile,
    /// The costs that an earlier process has left.
    spent_before: Vec<MinuteCost>,
    _lock: File,
}

impl NonceRecord {
    /// Opens the record of an account on a chain, or creates it.
    ///
    /// # Errors
    /// Fails when it is in use, belongs to another account or chain, or cannot be read.
    pub(super) fn open(
        path: &Path,
        chain_id: u64,
        account: Address,
    ) -> Result<Self, BroadcastStartError> {
        let failed = |source| BroadcastStartError::Record { path: path.to_owned(), source };
        let lock = lock(path)?;
        let head = format!("{KIND}1 {chain_id} {account}\n");
        let mut file = private_file::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let mut live = LiveSlots::default();
        let mut rest = match bytes.strip_prefix(head.as_bytes()) {
            Some(rest) => rest,
            // An earlier process was killed before it had written the whole first line.
            None if head.as_bytes().starts_with(&bytes) => &[],
            None => return Err(other(path, &bytes, &head)),
        };
        while let Some((entry, after)) = split_entry(rest) {
            // Entries have a digest and no signature, so another program may have written this one.
            if let Some(flaw) = live.flaw(&entry) {
                let reason = format!("{flaw}: find out what wrote it, and move the file away");
                return Err(failed(io::Error::new(io::ErrorKind::InvalidData, reason)));
            }
            live.apply(&entry);
            rest = after;
        }
        if !rest.is_empty() {
            tracing::warn!(path = %path.display(), bytes = rest.len(), "a torn entry of the nonce record was cut off");
        }
        let beside = path.with_added_extension("spent");
        let (spent, spent_before) = SpentFile::open(&beside, present_minute())
            .map_err(|source| BroadcastStartError::Record { path: beside, source })?;
        let (path, len, is_torn) = (path.to_owned(), 0, false);
        let mut record =
            Self { path, head, file, len, live, is_torn, spent, spent_before, _lock: lock };
        record.write_anew().map_err(failed)?;
        Ok(record)
    }

    /// Returns the slots that have not ended.
    pub(super) fn live(&self) -> &LiveSlots {
        &self.live
    }

    /// Returns the costs of the last hour that an earlier process has left, and perhaps older ones.
    pub(super) fn spent_before(&self) -> &[MinuteCost] {
        &self.spent_before
    }

    /// Writes down what the transactions of a minute cost.
    ///
    /// # Errors
    /// Fails when the system fails to write.
    pub(super) fn note_spent(&self, spent: MinuteCost) -> io::Result<()> {
        self.spent.write(spent)
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends entries; with `durable`, syncs them before it returns. After a failure, the next call first rewrites the
    /// whole file, because the failed call may have left anything at its end.
    ///
    /// # Errors
    /// Fails when the system fails to write. None of the entries is on record then.
    pub(super) fn append(&mut self, entries: &[RecordEntry], durable: bool) -> io::Result<()> {
        let mut bytes = Vec::new();
        entries.iter().for_each(|entry| entry.encode(&mut bytes));
        if self.is_torn {
            self.write_anew()?;
        }
        self.is_torn = true;
        if let Err(error) = self.write(&bytes, durable) {
            // A restart must not read an entry whose transaction was not sent. If truncating fails too, the
            // next call still rewrites the file.
            let _ = self.file.set_len(self.len).and_then(|()| self.file.sync_data());
            return Err(error);
        }
        self.is_torn = false;
        self.len += bytes.len() as u64;
        entries.iter().for_each(|entry| self.live.apply(entry));
        if self.len > COMPACT_FROM_BYTES
            && self.len > 4 * self.live.bytes() as u64
            && let Err(error) = self.write_anew()
        {
            // The entries are on record; the file is only longer than necessary.
            tracing::warn!(path = %self.path.display(), %error, "the nonce record cannot be compacted");
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], durable: bool) -> io::Result<()> {
        self.file.write_all(bytes)?;
        if durable { self.file.sync_data() } else { Ok(()) }
    }

    /// Writes the unfinished slots to a new file, which atomically replaces the old one.
    fn write_anew(&mut self) -> io::Result<()> {
        let mut bytes = self.head.clone().into_bytes();
        self.live.entries().for_each(|entry| entry.encode(&mut bytes));
        // A recorded transaction may be sent, so the record must survive a power failure.
        let file = private_file::replace(&self.path, &bytes, DirectorySync::Wait)?;
        (self.file, self.len, self.is_torn) = (file, bytes.len() as u64, false);
        Ok(())
    }
}

#[cfg(test)]
impl NonceRecord {
    /// Makes writes fail until the returned folder is removed: the file is open for reading only, and a new one cannot
    /// be created in its place.
    pub(super) fn block_writes(&mut self) -> PathBuf {
        self.file = File::open(&self.path).unwrap();
        let blocked = self.path.with_added_extension("new");
        std::fs::create_dir(&blocked).unwrap();
        blocked
    }
}

fn lock(path: &Path) -> Result<File, BroadcastStartError> {
    let failed = |source| BroadcastStartError::Record { path: path.to_owned(), source };
    let file = private_file::open(&path.with_added_extension("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(BroadcastStartError::RecordInUse { path: path.to_owned() })
        }
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Returns the error about a file that has another first line. The content of a file that is no record is not shown:
/// the operator may have named the file of the account's key.
fn other(path: &Path, bytes: &[u8], head: &str) -> BroadcastStartError {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let found = match first.starts_with(KIND.as_bytes()) {
        true => {
            let first = String::from_utf8_lossy(&first[..first.len().min(100)]);
            format!("the nonce record {first:?}")
        }
        false => "no nonce record".to_owned(),
    };
    let expected = head.trim_end().to_owned();
    BroadcastStartError::OtherRecord { path: path.to_owned(), found, expected }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CHAIN: u64 = 31338;

    fn signed(slot: u64, raw: &'static [u8]) -> RecordEntry {
        let raw = Bytes::from_static(raw);
        RecordEntry::Signed { slot: SlotId(slot), instead_of: None, nonce: slot + 100, raw }
    }

    fn over(slot: u64) -> RecordEntry {
        RecordEntry::Over { slot: SlotId(slot) }
    }

    fn open(path: &Path) -> NonceRecord {
        NonceRecord::open(path, CHAIN, Address::repeat_byte(1)).unwrap()
    }

    #[test]
    fn a_file_of_costs_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nonces");
        fs::create_dir(path.with_added_extension("spent")).unwrap();
        let error = NonceRecord::open(&path, CHAIN, Address::repeat_byte(1)).unwrap_err();
        assert!(error.to_string().contains("nonces.spent: "), "{error}");
    }

    #[test]
    fn a_restart_knows_the_transactions_in_flight() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/nonces");
        let mut record = open(&path);
        record
            .append(&[signed(7, b"a"), signed(8, b"b"), signed(7, b"replacement")], true)
            .unwrap();
        record.append(&[over(8)], false).unwrap();
        let raw = Bytes::from_static(b"c");
        let instead_of = Some(SlotId(7));
        let moved = RecordEntry::Signed { slot: SlotId(9), instead_of, nonce: 107, raw };
        let before = record.live().clone();
        drop(record);
        let mut record = open(&path);
        assert_eq!(record.live(), &before);
        let raws = vec![Bytes::from_static(b"a"), Bytes::from_static(b"replacement")];
        assert_eq!(record.live().0[&SlotId(7)], LiveSlot { nonce: 107, raws });
        record.append(&[moved, signed(10, b"d"), over(10)], true).unwrap();
        drop(record);
        assert_eq!(slots(&open(&path)), [9]);
    }

    fn slots(record: &NonceRecord) -> Vec<u64> {
        record.live().0.keys().map(|slot| slot.0).collect()
    }

    #[test]
    fn whole_entries_survive_a_kill_at_any_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nonces");
        let mut record = open(&path);
        record.append(&[signed(1, b"first")], true).unwrap();
        let first = record.len;
        record.append(&[signed(2, b"second")], true).unwrap();
        drop(record);
        let whole = fs::read(&path).unwrap();
        for len in 0..=whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let live = open(&path).live().clone();
            let expected = if len == whole.len() {
                2
            } else if len as u64 >= first {
                1
            } else {
                0
            };
            assert_eq!(live.0.len(), expected, "of {len} bytes");
            fs::write(&path, &whole).unwrap();
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&path, flipped).unwrap();
        assert_eq!(open(&path).live().0.len(), 1);
    }

    #[test]
    fn entries_that_no_broadcaster_writes_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nonces");
        drop(open(&path));
        let head = fs::read(&path).unwrap();
        for (slot, says) in [(1, "a later entry says 7"), (u64::MAX, "above 9223372036854775808")] {
            let mut bytes = head.clone();
            signed(1, b"first").encode(&mut bytes);
            let (slot, raw) = (SlotId(slot), Bytes::from_static(b"second"));
            RecordEntry::Signed { slot, instead_of: None, nonce: 7, raw }.encode(&mut bytes);
            fs::write(&path, &bytes).unwrap();
            let refused = NonceRecord::open(&path, CHAIN, Address::repeat_byte(1)).unwrap_err();
            assert!(refused.to_string().contains(says), "{refused}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "the file stays as it was found");
        }
    }

    #[test]
    fn a_record_has_one_account_one_chain_and_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nonces");
        let record = open(&path);
        let again = NonceRecord::open(&path, CHAIN, Address::repeat_byte(1));
        assert!(matches!(again, Err(BroadcastStartError::RecordInUse { .. })));
        drop(record);
        for (chain, account) in [(CHAIN, 2), (CHAIN + 1, 1)] {
            let other = NonceRecord::open(&path, chain, Address::repeat_byte(account)).unwrap_err();
            assert!(matches!(other, BroadcastStartError::OtherRecord { .. }));
            assert!(other.to_string().contains("is the nonce record \"hawser-nonces 1 31338 0x"));
        }
    }

    /// Played by an operator who names the file of the account's key for the record. The error is in the log.
    #[test]
    fn a_file_that_is_no_record_is_neither_shown_nor_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("payer.key");
        let secret = "5e".repeat(32);
        for content in [secret.clone(), format!("0x{secret}\n")] {
            fs::write(&path, &content).unwrap();
            let other = NonceRecord::open(&path, CHAIN, Address::repeat_byte(1)).unwrap_err();
            assert!(matches!(other, BroadcastStartError::OtherRecord { .. }));
            let shown = format!("{other} {other:?}");
            assert!(shown.contains("is no nonce record") && !shown.contains(&secret), "{shown}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn after_a_failed_write_nothing_is_on_record_until_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nonces");
        let mut record = open(&path);
        record.append(&[signed(1, b"a")], true).unwrap();
        let blocked = record.block_writes();
        for _ in 0..2 {
            assert!(record.append(&[signed(2, b"b")], true).is_err());
            assert_eq!(slots(&record), [1]);
        }
        fs::remove_dir(&blocked).unwrap();
        record.append(&[signed(3, b"c")], true).unwrap();
        drop(record);
        assert_eq!(slots(&open(&path)), [1, 3]);
    }

    #[test]
    fn ended_slots_do_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nonces");
        let mut record = open(&path);
        let raw = Bytes::from(vec![7; 200_000]);
        for slot in 1..60 {
            let (raw, nonce) = (raw.clone(), slot);
            let signed = RecordEntry::Signed { slot: SlotId(slot), instead_of: None, nonce, raw };
            record.append(&[signed], false).unwrap();
            record.append(&[over(slot)], false).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < COMPACT_FROM_BYTES + 400_000);
        record.append(&[signed(60, b"x")], true).unwrap();
        drop(record);
        assert_eq!(slots(&open(&path)), [60]);
    }
}
