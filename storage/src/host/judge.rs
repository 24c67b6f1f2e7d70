//! Compares a data folder with the host marker. Does no I/O.

use hawser_proto::SequenceId;

use super::marker::MarkerState;
use super::standing::{FolderFacts, FolderStanding, UnknownFolder};

/// Compares a folder with this host's marker of its node.
///
/// The folder may be one generation ahead, because the generation is written to the folder first and a crash may
/// follow. It may have a higher head, because the marker is written after the log. An older state of the folder has
/// neither.
pub(super) fn judge(marker: &MarkerState, folder: FolderFacts) -> FolderStanding {
    let unknown = |reason| FolderStanding::Unknown(reason);
    let marker = match marker {
        MarkerState::Absent if folder.head == SequenceId::NONE => {
            return unknown(UnknownFolder::Empty);
        }
        MarkerState::Absent => return unknown(UnknownFolder::NoMarker),
        MarkerState::Damaged => return unknown(UnknownFolder::DamagedMarker),
        MarkerState::Read(marker) => marker,
    };
    if marker.incarnation != folder.incarnation {
        return unknown(UnknownFolder::OtherFolder);
    }
    if let Some(reason) = marker.unknown {
        return unknown(reason);
    }
    let follows = folder.generation == marker.generation
        || folder.generation == marker.generation.saturating_add(1);
    if !follows || folder.head < marker.head {
        return unknown(UnknownFolder::Older);
    }
    if marker.inode != folder.inode {
        return unknown(UnknownFolder::Copied);
    }
    FolderStanding::Newest
}

/// Returns the generation after the marker's, which no older state of the folder has.
///
/// After a crash between the two writes the folder already has this generation and keeps it. A folder that replaces
/// another one gets a generation above both.
pub(super) fn next_generation(marker: &MarkerState, folder: u64, standing: FolderStanding) -> u64 {
    let marked = match marker {
        MarkerState::Read(marker) => marker.generation,
        MarkerState::Absent | MarkerState::Damaged => 0,
    };
    let base = if standing == FolderStanding::Newest { marked } else { marked.max(folder) };
    base.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::marker::Marker;

    const FOLDER: FolderFacts =
        FolderFacts { incarnation: [7; 16], generation: 5, inode: 9, head: SequenceId(42) };

    fn judged(marker: Option<Marker>, folder: FolderFacts) -> FolderStanding {
        judge(&marker.map_or(MarkerState::Absent, MarkerState::Read), folder)
    }

    fn marker(facts: FolderFacts) -> Option<Marker> {
        Some(Marker::test(facts, None))
    }

    #[test]
    fn only_the_state_that_was_written_last_is_the_newest() {
        use FolderStanding::{Newest, Unknown};
        assert_eq!(judged(marker(FOLDER), FOLDER), Newest);
        let crashed_between_the_writes = FolderFacts { generation: 6, ..FOLDER };
        assert_eq!(judged(marker(FOLDER), crashed_between_the_writes), Newest);
        let behind = FolderFacts { head: SequenceId(40), ..FOLDER };
        assert_eq!(judged(marker(behind), FOLDER), Newest, "the marker follows the log");

        let of_an_earlier_run = FolderFacts { generation: 4, ..FOLDER };
        assert_eq!(judged(marker(FOLDER), of_an_earlier_run), Unknown(UnknownFolder::Older));
        let of_the_same_run = FolderFacts { head: SequenceId(41), ..FOLDER };
        assert_eq!(judged(marker(FOLDER), of_the_same_run), Unknown(UnknownFolder::Older));
        let of_a_later_host = FolderFacts { generation: 7, ..FOLDER };
        assert_eq!(judged(marker(FOLDER), of_a_later_host), Unknown(UnknownFolder::Older));
        let elsewhere = FolderFacts { inode: 10, ..FOLDER };
        assert_eq!(judged(marker(FOLDER), elsewhere), Unknown(UnknownFolder::Copied));
        let made_anew = FolderFacts { incarnation: [8; 16], ..FOLDER };
        assert_eq!(judged(marker(FOLDER), made_anew), Unknown(UnknownFolder::OtherFolder));
        assert_eq!(judged(None, FOLDER), Unknown(UnknownFolder::NoMarker));
        let empty = FolderFacts { head: SequenceId::NONE, ..FOLDER };
        assert_eq!(judged(None, empty), Unknown(UnknownFolder::Empty));
        let damaged = judge(&MarkerState::Damaged, FOLDER);
        assert_eq!(damaged, Unknown(UnknownFolder::DamagedMarker));
        for reason in UnknownFolder::ALL {
            let stopped = Some(Marker::test(FOLDER, Some(reason)));
            assert_eq!(judged(stopped, FOLDER), Unknown(reason), "what was said last stands");
        }
    }
}
