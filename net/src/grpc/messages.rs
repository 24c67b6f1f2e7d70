//! Reading of a peer's answers, whose envelopes stay bytes.

use hawser_proto::envelope_list::{EnvelopeList, OriginatorsFrame};
use hawser_proto::{Bytes, budget};
use prost::Message;

use crate::counters::PeerError;

/// Bytes of a message for each of its entries. An empty entry takes two bytes on the wire and 32 here, so a list takes
/// no more memory than its message. Calculated: a place and time take 14 bytes, and the signature 69.
const ENTRY_LEN_BYTES: usize = 64;
/// Entries of a message of any length: those of a short one are not counted against its bytes. A guess: they take
/// 32 KiB.
const FREE_ENTRIES: usize = 1024;

/// Decodes a message whose caller has bounded its length to what its fields may take.
pub(super) fn read<A: Message + Default>(message: Bytes) -> Result<A, PeerError> {
    A::decode(message).map_err(|_| PeerError::Protocol)
}

/// Returns the envelopes of a `SubscribeEnvelopesResponse` or a `QueryEnvelopesResponse`.
pub(super) fn read_list(message: Bytes) -> Result<Vec<Bytes>, PeerError> {
    check_entries(&message, 1)?;
    Ok(read::<EnvelopeList>(message)?.envelopes)
}

/// Returns the envelopes of a `SubscribeOriginatorsResponse`, none for a keep-alive.
pub(super) fn read_frame(message: Bytes) -> Result<Vec<Bytes>, PeerError> {
    check_entries(&message, 2)?;
    Ok(read::<OriginatorsFrame>(message)?.into_envelopes())
}

/// Checks the number of entries before a message is decoded, on its top `levels` levels.
fn check_entries(message: &[u8], levels: usize) -> Result<(), PeerError> {
    let entries_max = FREE_ENTRIES + message.len() / ENTRY_LEN_BYTES;
    match budget::has_at_most(message, entries_max, levels) {
        true => Ok(()),
        false => Err(PeerError::Oversized),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_read_as_the_bytes_that_were_written() {
        let frame = Bytes::from_static(&[0x0a, 7, 0x0a, 2, 0xff, 0xff, 0x0a, 1, 3]);
        let written = [Bytes::from_static(&[0xff, 0xff]), Bytes::from_static(&[3])];
        assert_eq!(read_frame(frame.clone()).unwrap(), written);
        assert_eq!(read_list(frame.slice(2..)).unwrap(), written);
        assert_eq!(read_frame(Bytes::new()), Ok(Vec::new()), "a keep-alive");
    }

    #[test]
    fn garbage_is_the_peers_fault_and_many_empty_fields_are_not_read() {
        assert_eq!(read_list(Bytes::from_static(&[0x0a, 9])), Err(PeerError::Protocol));
        let empty = [0x0a, 0].repeat(2 * FREE_ENTRIES);
        let behind_a_group = [&[0x7b, 0x7c][..], &empty].concat();
        assert_eq!(read_list(behind_a_group.into()), Err(PeerError::Oversized));
        let list = EnvelopeList { envelopes: vec![Bytes::new(); 2 * FREE_ENTRIES] };
        let frame = OriginatorsFrame { envelopes: Some(list) }.encode_to_vec();
        assert_eq!(read_frame(frame.clone().into()), Err(PeerError::Oversized));
        let cut_off = Bytes::from(frame).split_to(2 * 2 * FREE_ENTRIES);
        assert_eq!(read_frame(cut_off), Err(PeerError::Protocol), "its length is wrong");
        assert_eq!(read_list(empty.into()), Err(PeerError::Oversized));
    }

    #[test]
    fn a_message_has_room_for_as_many_envelopes_as_fit_and_no_list_takes_more_memory_than_it() {
        for (len, is_read) in [(ENTRY_LEN_BYTES, true), (83, true), (8, false)] {
            let list = EnvelopeList { envelopes: vec![vec![7; len].into(); 100_000] };
            let frame = OriginatorsFrame { envelopes: Some(list.clone()) };
            let count = |envelopes: Vec<Bytes>| envelopes.len();
            let expected = if is_read { Ok(100_000) } else { Err(PeerError::Oversized) };
            assert_eq!(read_list(list.encode_to_vec().into()).map(count), expected, "{len}");
            assert_eq!(read_frame(frame.encode_to_vec().into()).map(count), expected, "{len}");
        }
        assert!(size_of::<Bytes>() <= ENTRY_LEN_BYTES / 2);
    }
}
