//! Prices of envelopes, each with its unit in the type.

/// A price in picodollars. The rate registry takes any 64-bit number, and a node may state any, so a price may exceed
/// every amount that can be charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct PicoDollarPrice(pub u64);

/// A price in picodollars per byte of payer envelope and day of retention, with the range of a [`PicoDollarPrice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct PicoDollarsPerByteDay(pub u64);
