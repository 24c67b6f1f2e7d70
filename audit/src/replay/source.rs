//! The source of a log: a folder, a snapshot, an export, or a node that answers.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::Rate;

use super::item::{SourceError, StrandRow, StrandRows};

/// The maximum number of strands of a log that are read. A guess: networks have far fewer. The time and the threads
/// that a log takes grow with their number, some steps with its square.
pub const STRANDS_MAX: usize = 10_000;

/// The rows of a strand.
pub type LogRows<'a> = Box<dyn Iterator<Item = Result<StrandRow, SourceError>> + Send + 'a>;

/// The names by which an export, or the state of a replay, recognises its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIdentity {
    /// The name of the network. A source that is a node states its address instead.
    pub network: String,
    /// The node whose folder this is; 0 for every other source.
    pub node: OriginatorId,
    /// Bytes that no other log has.
    pub log: Vec<u8>,
}

/// A log: a folder, or a node that answers.
pub trait LogSource {
    /// Returns the names of the log.
    fn identity(&self) -> LogIdentity;

    /// Returns the head of each strand.
    ///
    /// # Errors
    /// When they cannot be read.
    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError>;

    /// Returns the highest place that holds an envelope, if the source can hold one beyond its head.
    ///
    /// # Errors
    /// When it cannot be read.
    fn last_held(&self, originator: OriginatorId) -> Result<Option<SequenceId>, SourceError>;

    /// Returns the rows of a strand after a place, up to its head.
    fn rows(&self, after: EnvelopeId, head: SequenceId) -> LogRows<'_>;

    /// Returns everything that is kept beside a strand.
    fn beside(&self, originator: OriginatorId) -> Box<dyn StrandRows + '_>;

    /// Returns true if the source states why places have no envelope, and false for a source that omits such places.
    fn shows_gaps(&self) -> bool;

    /// Returns true if the source dates envelopes of chains by their blocks, as folders and snapshots do. A running
    /// node may be of other software, which dates them by its own clock.
    fn dates_chains_by_blocks(&self) -> bool {
        true
    }

    /// Returns the parts that the source does not show, in sentences for people.
    fn unchecked(&self) -> Vec<String>;

    /// Returns the rates that the keeper of the log recorded, ascending; empty if the source shows none.
    ///
    /// # Errors
    /// When they cannot be read.
    fn rates(&self) -> Result<Vec<Rate>, SourceError>;

    /// Returns the time up to which these are all rates that honest nodes may have applied, unix nanoseconds, by the
    /// keeper's own note; `None` if the source shows no note.
    ///
    /// # Errors
    /// When it cannot be read.
    fn rates_complete_until_ns(&self) -> Result<Option<i64>, SourceError> {
        Ok(None)
    }
}

/// Returns the heads of a log's strands. The maker of a backup or of a snapshot can list any number of empty strands.
///
/// # Errors
/// When they cannot be read, or are more than a network has.
pub(crate) fn heads_of(log: &dyn LogSource) -> Result<Vec<EnvelopeId>, SourceError> {
    let heads = log.heads()?;
    if heads.len() > STRANDS_MAX {
        let found = heads.len();
        let text = format!("it lists {found} strands, and at most {STRANDS_MAX} are read");
        return Err(SourceError(format!("{text}: its keeper or its maker lies")));
    }
    Ok(heads)
}

#[cfg(test)]
mod tests {
    use hawser_rules::Registry;

    use super::*;
    use crate::compare::{ComparedBy, compare};
    use crate::replay::{Replay, ReplaySettings, SampleSize, SecondCheckpoints, sample_signatures};

    /// A log that lists a number of strands, of which none may be read.
    struct StrandList(u32);

    impl LogSource for StrandList {
        fn identity(&self) -> LogIdentity {
            LogIdentity { network: "testnet".to_owned(), node: OriginatorId(100), log: Vec::new() }
        }

        fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
            let head = |at| EnvelopeId::new(OriginatorId(100 + at), SequenceId(1));
            Ok((0..self.0).map(head).collect())
        }

        fn last_held(&self, _: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
            panic!("the log is refused")
        }

        fn rows(&self, _: EnvelopeId, _: SequenceId) -> LogRows<'_> {
            panic!("the log is refused")
        }

        fn beside(&self, _: OriginatorId) -> Box<dyn StrandRows + '_> {
            panic!("the log is refused")
        }

        fn shows_gaps(&self) -> bool {
            false
        }

        fn unchecked(&self) -> Vec<String> {
            Vec::new()
        }

        fn rates(&self) -> Result<Vec<Rate>, SourceError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_log_that_lists_more_strands_than_a_network_has_is_refused_at_once() {
        let most = u32::try_from(STRANDS_MAX).unwrap();
        assert_eq!(heads_of(&StrandList(most)).unwrap().len(), STRANDS_MAX);
        let log = StrandList(most + 1);
        let text = heads_of(&log).unwrap_err().to_string();
        assert!(text.contains("10001 strands"), "{text}");
        assert!(compare(&log, &StrandList(0), ComparedBy::Rows).is_err());
        assert!(compare(&StrandList(0), &log, ComparedBy::StoredTrees).is_err());
        let (registry, rates, threads, now_ns) = (Registry::default(), None, 1, 0);
        assert!(sample_signatures(&log, &registry, SampleSize::All, 1, &mut |_| 0).is_err());
        assert!(SecondCheckpoints::read(&StrandList(0), &log, &registry).is_err());
        let settings = ReplaySettings { registry, rates, threads, now_ns };
        let mut replay = Replay::new(&log, &settings, None).unwrap();
        assert!(replay.run(|_, _| true).is_err());
    }
}
