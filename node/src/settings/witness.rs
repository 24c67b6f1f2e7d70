//! Typed settings of witnesses: the identity of a replica that is a witness, and the witnesses that a node trusts.

use hawser_proto::checkpoint::{WITNESSES_MAX, WitnessKey, WitnessName, WitnessSigner};

use super::parse;
use super::reader::SettingsReader;
use super::table::node;

/// A witness whose cosignatures are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessSource {
    /// The key of the witness.
    pub key: WitnessKey,
    /// The URL at which it accepts checkpoints; `None` if it is not asked.
    pub url: Option<String>,
}

/// Parses a list of verifier keys, each optionally followed by white space and the URL of its witness, which is then
/// asked. The list has at most [`WITNESSES_MAX`] entries, because a checkpoint has no room for more.
fn witnesses(text: &str) -> Option<Vec<WitnessSource>> {
    let one = |entry: &str| {
        let mut words = entry.split_whitespace();
        let key = WitnessKey::of_verifier_key(words.next()?).ok()?;
        let url = match words.next() {
            None => None,
            Some(url) => Some(parse::web_urls(url)?.pop()?),
        };
        words.next().is_none().then_some(WitnessSource { key, url })
    };
    let read: Option<Vec<_>> = text.split(',').map(one).collect();
    read.filter(|read| read.len() <= WITNESSES_MAX)
}

impl SettingsReader<'_> {
    /// Reads the witnesses whose cosignatures are stored.
    pub(super) fn trusted_witnesses(&mut self) -> Option<Vec<WitnessSource>> {
        self.unless_default(&node::CHECKPOINT_WITNESSES, witnesses)
    }

    /// Reads the witness identity of a replica; `Some(None)` if none is configured. A name without a key, or a key
    /// without a name, is refused, because an operator who configures a witness relies on it.
    pub(super) fn witness(&mut self) -> Option<Option<WitnessSigner>> {
        let has_name = self.non_empty(&node::WITNESS_NAME).is_some();
        let has_key = self.non_empty(&node::WITNESS_KEY).is_some();
        if !has_name && !has_key {
            return Some(None);
        }
        let name = self.get(&node::WITNESS_NAME, |text| WitnessName::new(text.trim()));
        let seed = self.get(&node::WITNESS_KEY, |text| {
            let text = text.trim();
            let bytes = hex::decode(text.strip_prefix("0x").unwrap_or(text)).ok()?;
            <[u8; 32]>::try_from(bytes).ok()
        });
        Some(Some(WitnessSigner::new(name?, &seed?)))
    }
}
