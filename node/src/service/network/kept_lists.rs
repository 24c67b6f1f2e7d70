//! The node registry and the rates that this host has last read from the settlement chain, in a file of the state
//! folder. A node whose chain is away at the start serves readers by them.
//!
//! The file names its network, chain and contracts, and counts for no others. A file that is damaged, or that another
//! node has left, counts as none: the start then fails as it does on a host that has none.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hawser_chain::watch::EarlierList;
use hawser_engine::ports::Registry;
use hawser_proto::PublicKey;
use hawser_rules::RateTable;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::{NetworkState, UNCONFIRMED_NS};
use crate::files::rates::{RateRecord, RatesFile};
use crate::files::registry::{RegistryFile, registry_of};
use crate::files::{self, write_whole};

/// The file of one node.
#[derive(Debug, Clone)]
pub(super) struct KeptListsFile {
    path: PathBuf,
    source: ListSource,
}

/// The contracts from which lists are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ListSource {
    /// The network's name in the settings.
    pub(super) network: String,
    /// The settlement chain's id.
    pub(super) chain_id: u64,
    /// Address of the node registry.
    pub(super) node_registry: String,
    /// Address of the rate registry.
    pub(super) rate_registry: String,
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    source: ListSource,
    registry: RegistryFile,
    rates: RatesFile,
}

/// The lists of an earlier run.
#[derive(Debug, Default)]
pub(super) struct KeptLists {
    pub(super) registry: Option<EarlierList<Registry>>,
    /// The rates, which are confirmed as of no time: nothing is published or judged by them.
    pub(super) rates: Option<EarlierList<RateTable>>,
}

impl KeptListsFile {
    /// Names the file of the node with this key. A state folder may have those of several nodes.
    pub(super) fn new(state_dir: &Path, key: &PublicKey, source: ListSource) -> Self {
        let name = format!("chain-lists-{}-{}", source.network, key.address());
        Self { path: state_dir.join(name), source }
    }

    /// Reads the lists; none if there are none of this source.
    pub(super) fn read(&self) -> KeptLists {
        let read = || -> Result<Option<KeptLists>, String> {
            let parse = |text: &str| serde_json::from_str::<Content>(text);
            let content = match files::read(&self.path, parse) {
                Err(files::FileError::Read { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    return Ok(None);
                }
                content => content.map_err(|error| error.to_string())?,
            };
            if content.source != self.source {
                let path = self.path.display();
                return Err(format!("{path}: it is of other contracts or of another network"));
            }
            let changed = std::fs::metadata(&self.path).and_then(|found| found.modified());
            let kept_at = changed.unwrap_or(SystemTime::UNIX_EPOCH);
            let registry = registry_of(&content.registry).map_err(|error| error.to_string())?;
            let rates = content.rates.table_for_judging().map_err(|error| error.to_string())?;
            let rates = rates.confirmed(UNCONFIRMED_NS);
            Ok(Some(KeptLists {
                registry: Some(EarlierList { value: registry, kept_at }),
                rates: Some(EarlierList { value: rates, kept_at }),
            }))
        };
        match read() {
            Ok(lists) => lists.unwrap_or_default(),
            Err(error) => {
                tracing::warn!("the lists of an earlier run cannot be used: {error}");
                KeptLists::default()
            }
        }
    }

    /// Writes the lists in use now, and whenever one of them changes, until the node ends. They are those of the chain,
    /// or of the file itself until the chain has answered.
    pub(super) async fn follow(self, network: NetworkState) {
        let (mut registries, mut rates) = (network.registry.subscribe(), network.rates.subscribe());
        let mut written = None;
        let mut has_failed = false;
        loop {
            let registry = registries.borrow_and_update().clone();
            let table = rates.borrow_and_update().clone();
            let text = self.text(&registry, &table);
            // A reading that changes nothing costs no write.
            if written.as_ref() != Some(&text) {
                let (path, content) = (self.path.clone(), text.clone());
                let write = move || write(&path, &content);
                let done = spawn_blocking(write).await.expect("a panic ends the process");
                if let Err(error) = &done
                    && !has_failed
                {
                    let path = self.path.display();
                    tracing::warn!(%error, "{path} cannot be written: while the settlement chain is away, this node does not start");
                }
                has_failed = done.is_err();
                written = done.is_ok().then_some(text);
            }
            let changed = tokio::select! {
                changed = registries.changed() => changed,
                changed = rates.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn text(&self, registry: &Registry, rates: &RateTable) -> String {
        let content = Content {
            source: self.source.clone(),
            registry: RegistryFile::of(registry),
            rates: RatesFile {
                complete_until: None,
                rates: rates.rates().iter().map(RateRecord::of).collect(),
            },
        };
        serde_json::to_string(&content).expect("numbers and texts alone")
    }
}

/// Replaces the file. A replica has no host marker, so its state folder may not exist yet.
fn write(path: &Path, content: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    write_whole(path, content.as_bytes())
}

#[cfg(test)]
mod tests {
    use hawser_proto::OriginatorId;
    use hawser_rules::NodeRecord;

    use super::*;
    use crate::service::testing::key;

    fn source() -> ListSource {
        ListSource {
            network: "testnet".into(),
            chain_id: 5,
            node_registry: "0x01".into(),
            rate_registry: "0x02".into(),
        }
    }

    fn lists() -> (Registry, RateTable) {
        let record = |id: u32, http_address: Option<&str>, canonical| NodeRecord {
            id: OriginatorId(id),
            public_key: key(id).public_key(),
            owner: key(id).public_key().address(),
            http_address: http_address.map(str::to_owned),
            quic_address: None,
            canonical,
        };
        let records = [record(100, Some("http://a:1"), true), record(200, None, false)];
        let registry: Registry = records.into_iter().collect();
        let rate = |start_time: u64| RateRecord { start_time, ..RateRecord::FIRST }.rate();
        let rates = RateTable::new(vec![rate(0), rate(9)], Some(7)).unwrap();
        (registry.with_unusable([(OriginatorId(300), true)]), rates)
    }

    #[test]
    fn lists_are_read_back_and_nothing_is_published_by_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeptListsFile::new(folder.path(), &key(100).public_key(), source());
        assert!(file.read().registry.is_none(), "there is no file yet");
        let (registry, rates) = lists();
        write_whole(&file.path, file.text(&registry, &rates).as_bytes()).unwrap();
        let kept = file.read();
        assert_eq!(kept.registry.unwrap().value, registry);
        let kept = kept.rates.unwrap().value;
        assert_eq!(kept.rates(), rates.rates());
        assert!(!kept.covers(0) && !kept.is_complete_at(0), "{kept:?}");
    }

    /// A registry may have ids that no node can have.
    #[test]
    fn an_id_that_no_node_can_have_costs_no_list() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeptListsFile::new(folder.path(), &key(100).public_key(), source());
        let (known, rates) = lists();
        let ids = [OriginatorId(7), OriginatorId(300), OriginatorId::REPLICA];
        let registry = known.clone().with_unusable(ids.map(|id| (id, true)));
        write_whole(&file.path, file.text(&registry, &rates).as_bytes()).unwrap();
        assert_eq!(file.read().registry.unwrap().value, known);
    }

    /// Played by an operator who points the node at other contracts, and by a disk.
    #[test]
    fn lists_of_other_contracts_and_damaged_ones_count_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeptListsFile::new(folder.path(), &key(100).public_key(), source());
        let (registry, rates) = lists();
        let text = file.text(&registry, &rates);
        write_whole(&file.path, text.as_bytes()).unwrap();
        let others = [
            ListSource { chain_id: 6, ..source() },
            ListSource { node_registry: "0x03".into(), ..source() },
            ListSource { rate_registry: "0x03".into(), ..source() },
        ];
        for other in others {
            let of_other = KeptListsFile::new(folder.path(), &key(100).public_key(), other);
            assert!(of_other.read().registry.is_none());
        }
        for damaged in ["", "{}", &text[..text.len() - 1], &text.replace("0x04", "0x05")] {
            std::fs::write(&file.path, damaged).unwrap();
            let kept = file.read();
            assert!(kept.registry.is_none_or(|it| it.value.node(OriginatorId(100)).is_none()));
        }
    }
}
