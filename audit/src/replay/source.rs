//! The source of a log: a folder, a snapshot, an export, or a node that answers.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::Rate;

use super::item::{SourceError, StrandRow, StrandRows};

/// The rows of a strand.
pub type LogRows<'a> = Box<dyn Iterator<Item = Result<StrandRow, SourceError>> + Send + 'a>;

/// A log: a folder, or a node that answers.
pub trait LogSource {
    /// Returns the name of the network, the node, and bytes that no other log has.
    fn identity(&self) -> (String, OriginatorId, Vec<u8>);

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

    /// Returns the parts that the source does not show, in sentences for people.
    fn unchecked(&self) -> Vec<String>;

    /// Returns the rates that the keeper of the log recorded, ascending; empty if the source shows none.
    ///
    /// # Errors
    /// When they cannot be read.
    fn rates(&self) -> Result<Vec<Rate>, SourceError>;
}

impl<T: LogSource + ?Sized> LogSource for &T {
    fn identity(&self) -> (String, OriginatorId, Vec<u8>) {
        (**self).identity()
    }

    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
        (**self).heads()
    }

    fn last_held(&self, originator: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
        (**self).last_held(originator)
    }

    fn rows(&self, after: EnvelopeId, head: SequenceId) -> LogRows<'_> {
        (**self).rows(after, head)
    }

    fn beside(&self, originator: OriginatorId) -> Box<dyn StrandRows + '_> {
        (**self).beside(originator)
    }

    fn shows_gaps(&self) -> bool {
        (**self).shows_gaps()
    }

    fn unchecked(&self) -> Vec<String> {
        (**self).unchecked()
    }

    fn rates(&self) -> Result<Vec<Rate>, SourceError> {
        (**self).rates()
    }
}
