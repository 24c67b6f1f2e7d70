//! Reconstructs a block of a table file from known rows.
//!
//! RocksDB writes the rows of an uncompressed block one after the other: the number of key bytes shared with the
//! previous row, the number of further key bytes, the length of the value, these key bytes and the value. After the
//! last row come the offsets of the rows with complete keys, and their number. So keys and values determine every
//! byte of a block except eight of each row, which count the writes of the database. Those are taken from the
//! damaged block; the checksum shows if they are correct.

/// Number of rows from one complete key to the next. RocksDB's default, which no family here changes.
const RESTART_INTERVAL: usize = 16;
/// Length of RocksDB's suffix of each key: the kind of the row, and the number of its write.
const TAIL_LEN: usize = 8;
/// Kind of a row with a value.
const KIND_VALUE: u8 = 1;
/// Kind of a deletion.
const KIND_DELETION: u8 = 0;
/// Largest length of a reference to a blob: a kind, the number of the file, offset and length there, and a kind of
/// compression.
const REFERENCE_LEN_MAX: usize = 1 + 3 * 10 + 1;

/// A row that a reader of the database gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownRow {
    pub(super) key: Vec<u8>,
    pub(super) value: bytes::Bytes,
    /// True if the value may be in a blob file, where large values are. Those that came in a table file are in that,
    /// before a compaction moves them.
    pub(super) may_be_blob: bool,
}

/// Returns the original bytes of the block. `rows` ascend and start with the block's first row; rows after its last
/// one are ignored. `None` if the block cannot consist of these rows, or is too damaged to compare.
pub(super) fn mend(damaged: &[u8], rows: &[KnownRow]) -> Option<Vec<u8>> {
    let mut mended =
        Mended { damaged, out: Vec::with_capacity(damaged.len()), ..Mended::default() };
    for row in rows {
        while mended.take_deletion(&row.key) {}
        mended.take_row(row)?;
        if let Some(whole) = mended.finished() {
            let alike = whole.iter().zip(damaged).filter(|(a, b)| a == b).count();
            return (alike * 2 >= damaged.len()).then_some(whole);
        }
    }
    None
}

/// The reconstructed part of a block.
#[derive(Default)]
struct Mended<'a> {
    damaged: &'a [u8],
    out: Vec<u8>,
    /// Offsets of the rows with complete keys.
    restarts: Vec<u32>,
    rows: usize,
    last_key: Vec<u8>,
}

impl Mended<'_> {
    /// Returns the number of bytes that the next row's key shares with the one before.
    fn shared(&self, key: &[u8]) -> usize {
        if self.rows.is_multiple_of(RESTART_INTERVAL) {
            return 0;
        }
        self.last_key.iter().zip(key).take_while(|(a, b)| a == b).count()
    }

    /// Appends a row as RocksDB encodes it. The tail of its key, and a reference to a blob, exist in the damaged block
    /// only and are copied from there. `None` if the row does not fit the block.
    fn take_row(&mut self, row: &KnownRow) -> Option<()> {
        let shared = self.shared(&row.key);
        let at = self.out.len();
        let held_len = match row.may_be_blob {
            // Only the block itself has the reference to a blob, and its length.
            true => Some(RowHeader::read(self.damaged.get(at..)?)?.value_len),
            false => None,
        };
        // A value that may be in a blob file is longer than any reference.
        let reference_len = held_len.filter(|len| *len <= REFERENCE_LEN_MAX);
        let value_len = reference_len.unwrap_or(row.value.len());
        self.begin(&row.key);
        for number in [shared, row.key.len() - shared + TAIL_LEN, value_len] {
            put_varint(number, &mut self.out);
        }
        self.out.extend_from_slice(&row.key[shared..]);
        let tail = self.out.len();
        self.out.extend_from_slice(self.damaged.get(tail..tail.checked_add(TAIL_LEN)?)?);
        match reference_len {
            None => {
                self.out[tail] = KIND_VALUE;
                self.out.extend_from_slice(&row.value);
            }
            Some(len) => {
                let from = self.out.len();
                let reference = self.damaged.get(from..from.checked_add(len)?)?;
                self.out.extend_from_slice(reference);
            }
        }
        (self.out.len() < self.damaged.len()).then_some(())
    }

    /// Copies a deletion before `key`. Returns false if there is none.
    fn take_deletion(&mut self, key: &[u8]) -> bool {
        let at = self.out.len();
        let Some(rest) = self.damaged.get(at..) else { return false };
        let Some(header) = RowHeader::read(rest) else { return false };
        let RowHeader { shared, rest_len, value_len, len } = header;
        let Some(own_len) = rest_len.checked_sub(TAIL_LEN) else { return false };
        let Some(tail) = rest.get(len..len + rest_len) else { return false };
        if value_len != 0 || tail[own_len] != KIND_DELETION || shared > self.last_key.len() {
            return false;
        }
        let deleted = [&self.last_key[..shared], &tail[..own_len]].concat();
        if deleted.len() != key.len() || deleted.as_slice() >= key || deleted <= self.last_key {
            return false;
        }
        let entry = rest[..len + rest_len].to_vec();
        self.begin(&deleted);
        self.out.extend_from_slice(&entry);
        true
    }

    /// Records that a row with this key begins here.
    fn begin(&mut self, key: &[u8]) {
        if self.rows.is_multiple_of(RESTART_INTERVAL) {
            self.restarts.push(u32::try_from(self.out.len()).unwrap_or(u32::MAX));
        }
        self.rows += 1;
        key.clone_into(&mut self.last_key);
    }

    /// Returns the block if it is complete.
    fn finished(&self) -> Option<Vec<u8>> {
        let numbers = self.restarts.iter().copied().chain(u32::try_from(self.restarts.len()).ok());
        let is_whole = self.out.len() + 4 * (self.restarts.len() + 1) == self.damaged.len();
        is_whole.then(|| {
            let numbers = numbers.flat_map(u32::to_le_bytes);
            self.out.iter().copied().chain(numbers).collect()
        })
    }
}

/// The numbers before a row.
struct RowHeader {
    shared: usize,
    /// Length of the rest of the key, with the tail.
    rest_len: usize,
    value_len: usize,
    /// Length of the numbers themselves.
    len: usize,
}

impl RowHeader {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (shared, a) = varint(bytes)?;
        let (rest_len, b) = varint(&bytes[a..])?;
        let (value_len, c) = varint(&bytes[a + b..])?;
        Some(Self { shared, rest_len, value_len, len: a + b + c })
    }
}

/// Reads a number of 32 bits, seven to a byte, and returns its length too.
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut number = 0;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        number |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, index + 1));
        }
    }
    None
}

fn put_varint(mut number: usize, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        if number == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// Returns a block in RocksDB's form: rows with the numbers of their writes, and deletions without a value.
    fn block(rows: &[(Vec<u8>, Option<Vec<u8>>)]) -> Vec<u8> {
        let (mut out, mut restarts, mut last) = (Vec::new(), Vec::<u32>::new(), Vec::new());
        for (index, (key, value)) in rows.iter().enumerate() {
            let mut shared = 0;
            if index % 16 == 0 {
                restarts.push(u32::try_from(out.len()).unwrap());
            } else {
                shared = key.iter().zip(&last).take_while(|(a, b)| a == b).count();
            }
            let value_len = value.as_ref().map_or(0, Vec::len);
            for number in [shared, key.len() - shared + 8, value_len] {
                put_varint(number, &mut out);
            }
            out.extend_from_slice(&key[shared..]);
            out.push(u8::from(value.is_some()));
            out.extend_from_slice(&(index as u64 * 31).to_le_bytes()[..7]);
            out.extend(value.iter().flatten());
            last.clone_from(key);
        }
        out.extend(restarts.iter().flat_map(|it| it.to_le_bytes()));
        out.extend(u32::try_from(restarts.len()).unwrap().to_le_bytes());
        out
    }

    fn key(number: u64) -> Vec<u8> {
        [&200u32.to_be_bytes()[..], &number.to_be_bytes()].concat()
    }

    fn known(rows: &[(Vec<u8>, Option<Vec<u8>>)]) -> Vec<KnownRow> {
        let row = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
            let value = Bytes::from(value.clone()?);
            Some(KnownRow { key: key.clone(), value, may_be_blob: false })
        };
        rows.iter().filter_map(row).collect()
    }

    /// Returns rows of which every ninth is deleted.
    fn rows(count: u64) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let value = |at: u64| {
            blake3::hash(&at.to_be_bytes()).as_bytes().repeat(usize::try_from(1 + at % 9).unwrap())
        };
        (1..=count).map(|at| (key(at), (at % 9 != 4).then(|| value(at)))).collect()
    }

    #[test]
    fn every_byte_of_rows_is_told_but_the_numbers_of_writes() {
        let rows: Vec<_> = rows(40).into_iter().filter(|(_, value)| value.is_some()).collect();
        let whole = block(&rows);
        let mut untold = 0;
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            if mend(&flipped, &known(&rows)).as_deref() != Some(&whole[..]) {
                untold += 1;
            }
        }
        assert!(untold <= 7 * rows.len(), "{untold} bytes of {} rows", rows.len());
    }

    #[test]
    fn deletions_stay_and_a_torn_sector_is_made_whole() {
        let whole = block(&rows(60));
        assert_eq!(mend(&whole, &known(&rows(60))), Some(whole.clone()));
        let mut torn = whole.clone();
        let value_at =
            whole.windows(32).position(|it| it == &rows(60)[20].1.as_ref().unwrap()[..32]);
        torn[value_at.unwrap()..][..32].fill(0);
        assert_eq!(mend(&torn, &known(&rows(60))), Some(whole));
    }

    #[test]
    fn other_rows_are_not_put_into_a_block() {
        let whole = block(&rows(30));
        assert_eq!(mend(&whole, &known(&rows(29))), None, "a row is not known");
        let others: Vec<_> = rows(30)
            .into_iter()
            .map(|(key, value)| (key, value.map(|it| vec![7; it.len()])))
            .collect();
        assert_eq!(mend(&whole, &known(&others)), None, "nothing of it is similar");
        assert_eq!(mend(&[], &known(&rows(3))), None);
    }

    /// The block has a reference to a blob for one large value, and another one itself.
    #[test]
    fn large_values_are_made_whole_where_the_block_has_them() {
        let large: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let reference = vec![9_u8; 12];
        let rows = |first: &[u8]| {
            let small = |at| (key(at), Some(vec![7; 40]));
            vec![small(1), (key(2), Some(first.to_vec())), (key(3), Some(large.clone())), small(4)]
        };
        let whole = block(&rows(&reference));
        let mut known = known(&rows(&large));
        known[1].may_be_blob = true;
        known[2].may_be_blob = true;
        let mut torn = whole.clone();
        let value_at = whole.windows(5000).position(|it| it == &large[..]).unwrap();
        torn[value_at + 512..][..512].fill(0);
        assert_eq!(mend(&torn, &known), Some(whole));
    }

    proptest! {
        /// Random bytes alone are like no known row, and would be refused at once.
        #[test]
        fn any_bytes_are_refused_or_mended_without_a_panic(
            changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..400),
            cut in prop_oneof![Just(0_usize), 1_usize..600],
            large in any::<bool>(),
        ) {
            let mut bytes = block(&rows(5));
            let len = bytes.len();
            for (at, byte) in changes {
                bytes[at % len] = byte;
            }
            bytes.truncate(len.saturating_sub(cut));
            let mut rows = known(&rows(5));
            rows[0].may_be_blob = large;
            if let Some(mended) = mend(&bytes, &rows) {
                prop_assert_eq!(mended.len(), bytes.len());
            }
        }
    }
}
