//! This node's usage of an originator, with which the amounts of a report are compared.

use hawser_proto::price::PicoDollarPrice;
use hawser_proto::{PayerAddress, SequenceId};

/// The usage of one payer in one minute, as this node has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinuteOfPayer {
    /// The minute, since the unix epoch.
    pub minute: u32,
    /// The payer.
    pub payer: PayerAddress,
    /// The fees by this node's own computation.
    pub own: PicoDollarPrice,
    /// The fees that the originator stated in its envelopes.
    pub stated: PicoDollarPrice,
    /// The sequence id of the last counted envelope.
    pub last: SequenceId,
}

/// A charged envelope, as this node has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChargedEnvelope {
    /// Its place.
    pub sequence: SequenceId,
    /// Its minute, since the unix epoch.
    pub minute: u32,
    /// Its payer.
    pub payer: PayerAddress,
    /// Its fee by this node's own computation.
    pub own: PicoDollarPrice,
    /// Its fee as the originator states it.
    pub stated: PicoDollarPrice,
}

/// This node's usage of an originator in and around the range of a report.
#[derive(Debug, Clone, Default)]
pub struct OwnUsage {
    /// All usage of the range, by ascending minute.
    pub rows: Vec<MinuteOfPayer>,
    /// Usage of the minutes before the range, by ascending minute.
    pub before: Vec<MinuteOfPayer>,
    /// Usage of the minutes behind the range, by ascending minute.
    pub behind: Vec<MinuteOfPayer>,
    /// Charged envelopes of the range; empty if they are too many to read.
    pub envelopes: Vec<ChargedEnvelope>,
}
