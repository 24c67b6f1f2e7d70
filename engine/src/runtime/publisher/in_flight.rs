//! The envelopes of all requests in flight. A request holds its envelopes from before the look-up of their earlier
//! publishes until they are written, or the request has failed. What is signed for them meanwhile stays here, for all
//! holders. So a look-up does not get too old while its request waits: what came after the look-up is here, however
//! much else was stored.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use hawser_proto::Bytes;
use parking_lot::Mutex;

/// Names a publish; see [`crate::facts::receipt`].
pub(super) type Receipt = [u8; 32];

/// Parts of the table, each with its own lock. Receipts are hashes, so all parts have about the same size. A guess:
/// more than there are threads, and a part that grows is copied in a hundredth of the time.
const PARTS: usize = 64;
/// Envelopes for which a part keeps its memory when it is empty. A guess: a flood leaves a few MiB behind.
const KEPT_ROOM: usize = 1024;

/// The envelopes of all requests in flight, by receipt. Bounded by the bytes in flight: it has one signed envelope at
/// most for each envelope that a request holds.
#[derive(Debug)]
pub(super) struct EnvelopesInFlight {
    parts: [Mutex<HashMap<Receipt, HeldEnvelope>>; PARTS],
}

#[derive(Debug, Default)]
struct HeldEnvelope {
    /// The number of times that requests hold it; at least 1.
    holders: usize,
    /// The envelope with its place, if it was signed while it was held.
    signed: Option<Bytes>,
}

/// The envelopes that a request, or a piece of one, holds. Dropping it gives them up.
#[derive(Debug)]
pub(super) struct HeldReceipts {
    all: Arc<EnvelopesInFlight>,
    /// In the order of the request.
    receipts: VecDeque<Receipt>,
}

impl Default for EnvelopesInFlight {
    fn default() -> Self {
        Self { parts: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl EnvelopesInFlight {
    /// Holds the envelopes with these receipts.
    pub(super) fn hold(self: &Arc<Self>, receipts: impl Iterator<Item = Receipt>) -> HeldReceipts {
        let receipts: VecDeque<Receipt> = receipts.collect();
        for receipt in &receipts {
            self.part(receipt).lock().entry(*receipt).or_default().holders += 1;
        }
        HeldReceipts { all: self.clone(), receipts }
    }

    /// Keeps what was signed for an envelope until its last holder gives it up.
    pub(super) fn note_signed(&self, receipt: &Receipt, bytes: &Bytes) {
        if let Some(held) = self.part(receipt).lock().get_mut(receipt) {
            held.signed = Some(bytes.clone());
        }
    }

    /// Returns what was signed for an envelope. It may still be on its way to the disk.
    pub(super) fn signed(&self, receipt: &Receipt) -> Option<Bytes> {
        let part = self.part(receipt).lock();
        part.get(receipt).and_then(|held| held.signed.clone())
    }

    /// Forgets everything that was signed: it may not be stored.
    pub(super) fn forget_signed(&self) {
        for part in &self.parts {
            part.lock().values_mut().for_each(|held| held.signed = None);
        }
    }

    /// Returns true if no request holds an envelope.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.lock().is_empty())
    }

    fn give_up(&self, receipt: &Receipt) {
        let mut part = self.part(receipt).lock();
        if let Entry::Occupied(mut held) = part.entry(*receipt) {
            held.get_mut().holders -= 1;
            if held.get().holders == 0 {
                held.remove();
            }
        }
        if part.is_empty() {
            part.shrink_to(KEPT_ROOM);
        }
    }

    fn part(&self, receipt: &Receipt) -> &Mutex<HashMap<Receipt, HeldEnvelope>> {
        &self.parts[usize::from(receipt[0]) % PARTS]
    }
}

impl HeldReceipts {
    /// Returns the receipts, in the order of the request.
    pub(super) fn receipts(&self) -> impl Iterator<Item = Receipt> {
        self.receipts.iter().copied()
    }

    /// Takes the envelopes of a later part of the same request over.
    pub(super) fn append(&mut self, mut later: Self) {
        self.receipts.append(&mut later.receipts);
    }

    /// Splits the first envelopes off.
    pub(super) fn split_first(&mut self, count: usize) -> Self {
        let count = count.min(self.receipts.len());
        Self { all: self.all.clone(), receipts: self.receipts.drain(..count).collect() }
    }
}

impl Drop for HeldReceipts {
    fn drop(&mut self) {
        for receipt in &self.receipts {
            self.all.give_up(receipt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipts(numbers: std::ops::Range<u8>) -> impl Iterator<Item = Receipt> {
        numbers.map(|number| [number; 32])
    }

    /// Returns the numbers of the envelopes for which something signed is known.
    fn signed(all: &EnvelopesInFlight) -> Vec<u8> {
        (0..=u8::MAX).filter(|number| all.signed(&[*number; 32]).is_some()).collect()
    }

    #[test]
    fn what_was_signed_is_known_until_the_last_holder_gives_it_up() {
        let all = Arc::<EnvelopesInFlight>::default();
        let bytes = Bytes::from_static(b"signed");
        all.note_signed(&[1; 32], &bytes);
        assert!(all.is_empty(), "no request needs it");
        let (first, second) = (all.hold(receipts(0..3)), all.hold(receipts(2..5)));
        let twice = all.hold(receipts(4..5).chain(receipts(4..5)));
        receipts(0..6).for_each(|receipt| all.note_signed(&receipt, &bytes));
        assert_eq!(signed(&all), [0, 1, 2, 3, 4]);
        drop(first);
        assert_eq!(signed(&all), [2, 3, 4], "the second request holds one of them, too");
        drop(second);
        assert_eq!(signed(&all), [4]);
        drop(twice);
        assert!(all.is_empty());
    }

    #[test]
    fn nothing_signed_is_known_after_the_end_of_the_strand_was_read_again() {
        let all = Arc::<EnvelopesInFlight>::default();
        let held = all.hold(receipts(0..3));
        all.note_signed(&[1; 32], &Bytes::from_static(b"lost"));
        all.forget_signed();
        assert!(signed(&all).is_empty() && !all.is_empty());
        all.note_signed(&[1; 32], &Bytes::from_static(b"again"));
        assert_eq!(all.signed(&[1; 32]).unwrap(), "again", "it is still held");
        drop(held);
    }

    #[test]
    fn a_request_gives_its_envelopes_up_piece_by_piece() {
        let all = Arc::<EnvelopesInFlight>::default();
        let mut held = all.hold(receipts(0..3));
        held.append(all.hold(receipts(3..5)));
        receipts(0..5).for_each(|receipt| all.note_signed(&receipt, &Bytes::new()));
        let piece = held.split_first(4);
        assert_eq!(signed(&all), [0, 1, 2, 3, 4], "the piece is not written yet");
        drop(piece);
        assert_eq!(signed(&all), [4]);
        let last = held.split_first(4);
        assert_eq!(last.receipts().collect::<Vec<_>>(), [[4; 32]]);
        drop((last, held));
        assert!(all.is_empty());
    }

    /// A flood fills the bytes in flight with envelopes of some tens of bytes.
    #[test]
    fn a_flood_leaves_little_memory_behind() {
        let all = Arc::<EnvelopesInFlight>::default();
        let of_one_part = |number: u32| {
            let mut receipt = [0; 32];
            receipt[1..5].copy_from_slice(&number.to_be_bytes());
            receipt
        };
        drop(all.hold((0..50_000).map(of_one_part)));
        let room = all.parts[0].lock().capacity();
        assert!(room < 4 * KEPT_ROOM, "{room}");
    }
}
