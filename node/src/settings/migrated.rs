//! Typed settings of the strands of the older network.

use hawser_engine::runtime::replication::MigratedStrands;
use hawser_proto::OriginatorId;

use super::reader::SettingsReader;
use super::table::limits;
use crate::files::registry::public_key;

impl SettingsReader<'_> {
    /// Reads the source and the signer of the strands of the older network; `Some(None)` if no signer is configured.
    ///
    /// Refuses the two modes in which a node of the reference implementation accepts no publishes, because an operator
    /// who sets one relies on that, and this node would accept them.
    pub(super) fn migrated(&mut self) -> Option<Option<MigratedStrands>> {
        let refused = [
            (&limits::MIGRATION_SERVER, "imports nothing from the older network"),
            (&limits::MIGRATION_CLIENT, "follows its strands by --migration-key"),
        ];
        for (setting, instead) in refused {
            if self.switch(setting) == Some(true) {
                let given =
                    format!("\"true\", but this program {instead}, and takes publishes meanwhile");
                self.error(setting, Some(given));
            }
        }
        let source = self.get(&limits::MIGRATION_SOURCE, |text| {
            text.parse().ok().map(OriginatorId).filter(|id| id.is_node())
        });
        if self.non_empty(&limits::MIGRATION_KEY).is_none() {
            return source.map(|_| None);
        }
        let key = self.get(&limits::MIGRATION_KEY, |text| public_key(text.trim()));
        Some(Some(MigratedStrands { source: source?, key: key? }))
    }
}
