//! Typed settings of a replica that is a witness.

use hawser_proto::checkpoint::{WitnessName, WitnessSigner};

use super::reader::SettingsReader;
use super::table::node;

impl SettingsReader<'_> {
    /// Returns the witness that a replica cosigns as; `Some(None)` if none is named. A name without a key, or a key without
    /// a name, is refused: an operator who asks for a witness relies on it.
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
