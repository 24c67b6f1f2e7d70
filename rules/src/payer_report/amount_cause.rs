//! The causes of wrong amounts in a report, and their texts.

use std::fmt;

use hawser_proto::price::PicoDollarPrice;
use hawser_proto::{PayerAddress, SequenceId};

use super::leaves::PicoDollars;
use super::own_usage::{ChargedEnvelope, MinuteOfPayer};

/// The cause of wrong amounts in a report, if it can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AmountCause {
    /// The report uses the fees that the originator stated. Holds the minutes of payers where these are
    /// not the fees that the rates give.
    StatedFees(Vec<MinuteOfPayer>),
    /// The report omits this payer.
    WithoutPayer(PayerAddress),
    /// The report omits the minutes up to this one.
    AfterMinute(u32),
    /// The report omits the minutes from this one on.
    BeforeMinute(u32),
    /// The report also counts minutes behind its end, up to this one.
    ThroughMinute(u32),
    /// The report also counts minutes before its start, from this one on.
    FromMinute(u32),
    /// The report has another amount for one payer.
    OtherAmount {
        /// The payer.
        payer: PayerAddress,
        /// Its amount in the report.
        reported: PicoDollars,
        /// Its amount by this node's own computation.
        own: PicoDollars,
        /// The usage that explains the amount.
        part: AmountPart,
    },
    /// The report counts the usage of one payer for another payer.
    OtherPayer {
        /// The payer that has published.
        from: PayerAddress,
        /// The payer for whom it is counted.
        to: PayerAddress,
        /// The amount of this usage by this node's own computation.
        own: PicoDollarPrice,
        /// The usage: a minute or an envelope.
        part: AmountPart,
    },
    /// The report has the amounts of these two payers in each other's place.
    Exchanged(PayerAddress, PayerAddress),
    /// The report omits the envelopes up to this one.
    AfterEnvelope(SequenceId),
    /// The report omits the envelopes from this one on.
    BeforeEnvelope(SequenceId),
    /// None of the other causes, or there is too much usage to search.
    Unknown,
    /// No search was made, because it takes far longer than the comparison.
    NotSought,
}

/// The usage of a payer that explains a wrong amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmountPart {
    /// All of it: the amount is doubled, or nothing.
    All,
    /// This minute: it is left out, or counted twice, or charged as the originator stated it.
    Minute(u32),
    /// This envelope: it is left out, or counted twice, or charged as the originator stated it.
    Envelope(ChargedEnvelope),
}

impl fmt::Display for AmountCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StatedFees(rows) => {
                let rows = rows.len();
                write!(f, "the originator's own fees, which differ in {rows} minutes of payers")
            }
            Self::WithoutPayer(payer) => write!(f, "payer {payer} is left out"),
            Self::AfterMinute(minute) => write!(f, "the minutes up to {minute} are left out"),
            Self::BeforeMinute(minute) => write!(f, "the minutes from {minute} on are left out"),
            Self::ThroughMinute(minute) => {
                write!(f, "minutes behind its end are counted, up to {minute}")
            }
            Self::FromMinute(minute) => {
                write!(f, "minutes before its start are counted, from {minute} on")
            }
            Self::OtherAmount { payer, reported, own, part } => {
                write!(f, "payer {payer} has {reported} instead of {own}{part}")
            }
            Self::OtherPayer { from, to, own: PicoDollarPrice(own), part } => {
                write!(f, "{own} p$ of payer {from} are counted for payer {to}{part}")
            }
            Self::Exchanged(one, other) => {
                write!(f, "payers {one} and {other} have each other's amounts")
            }
            Self::AfterEnvelope(last) => write!(f, "the envelopes up to {last} are left out"),
            Self::BeforeEnvelope(first) => write!(f, "the envelopes from {first} on are left out"),
            Self::Unknown => f.write_str("the cause is not known"),
            Self::NotSought => f.write_str("an explanation of the report looks for the cause"),
        }
    }
}

impl fmt::Display for AmountPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::Minute(minute) => write!(f, ", by its usage in minute {minute}"),
            Self::Envelope(ChargedEnvelope { sequence, minute, .. }) => {
                write!(f, ", by envelope {sequence} in minute {minute}")
            }
        }
    }
}
