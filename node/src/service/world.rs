//! What a node knows of the network, from files that stand for the chains. They are read again
//! when they change; a change that cannot be taken is reported once, and what was known stays.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use hawser_engine::fees::{Rate, RateTable, RateTableError};
use hawser_engine::ports::{Clock as _, Registry};
use hawser_engine::runtime::{ChainAppendError, ChainAppender};
use hawser_proto::OriginatorId;
use hawser_storage::{CommitError, RateRow, ReadError, Store};
use tokio::sync::watch;

use super::ports::SystemClock;
use crate::files::chain::{ChainFile, ChainFileError};
use crate::files::rates::RatesFault;
use crate::files::{self, FileError, rates, registry};

/// How often the files are looked at.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// Why the price list was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum RatesError {
    /// The file could not be used.
    #[error(transparent)]
    File(#[from] FileError<RatesFault>),
    /// It contradicts what was recorded, or that could not be done.
    #[error("the price list cannot be recorded: {0}")]
    Record(#[from] CommitError),
    /// What was recorded could not be read.
    #[error("the recorded rates cannot be read: {0}")]
    Read(#[from] ReadError),
    /// What was recorded is no price list.
    #[error("the recorded rates are no price list: {0}")]
    Table(#[from] RateTableError),
}

/// Why chain events were not taken over.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The file could not be used.
    #[error("{path}: {fault}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        fault: ChainFileError,
    },
    /// The log did not take them.
    #[error("the chain strands cannot be written: {0}")]
    Append(#[from] ChainAppendError),
}

/// Reads the price list of a file, records it, and returns all that is recorded, confirmed as of
/// the moment of reading: a price once known is never forgotten, because envelopes of its time are
/// judged by it.
///
/// # Errors
/// When it cannot be read, or contradicts what was recorded.
pub(super) fn load_rates(path: &Path, store: &Store) -> Result<RateTable, RatesError> {
    let read_ns = SystemClock.now_ns();
    let table = files::read(path, rates::parse)?;
    store.record_rates(&rates::rows(&table))?;
    let recorded = store.snapshot().rates()?;
    Ok(RateTable::new(recorded.iter().map(rate).collect(), Some(read_ns))?)
}

fn rate(row: &RateRow) -> Rate {
    Rate {
        start_unix_s: row.start_unix_s,
        message_fee: row.message_fee,
        storage_fee: row.storage_fee,
        congestion_fee: row.congestion_fee,
        target_rate_per_minute: row.target_rate_per_minute,
    }
}

/// Appends everything new in a chain file. Returns how many events it had.
///
/// # Errors
/// When the file or the log cannot be used; what came before is taken over.
pub(super) fn append_chain(
    file: &mut ChainFile,
    appender: &ChainAppender,
) -> Result<usize, ChainError> {
    let mut count = 0;
    loop {
        let events = file
            .poll()
            .map_err(|fault| ChainError::File { path: file.path().to_owned(), fault })?;
        if events.is_empty() {
            return Ok(count);
        }
        appender.append(OriginatorId::GROUP_MESSAGES, &events.groups, None)?;
        appender.append(OriginatorId::IDENTITY_UPDATES, &events.identities, None)?;
        count += events.len();
    }
}

/// The files, where what they say goes, and what has been said about them.
pub(super) struct World {
    pub(super) own: OriginatorId,
    pub(super) store: Store,
    pub(super) registry_file: Watched,
    pub(super) registry: watch::Sender<Arc<Registry>>,
    pub(super) rates_file: Watched,
    pub(super) rates: watch::Sender<Arc<RateTable>>,
    /// Whether the file, as it was last seen, is where `rates` is from.
    pub(super) rates_taken: bool,
    pub(super) chain: Option<(ChainFile, ChainAppender)>,
    pub(super) chain_complaint: String,
}

/// The thread that looks at the files.
pub(super) struct Watcher {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl World {
    /// Looks at the files from now on.
    ///
    /// # Errors
    /// When the system gives us no thread.
    pub(super) fn watch(mut self) -> std::io::Result<Watcher> {
        let (stop, stopped) = mpsc::channel();
        let watch = move || {
            while stopped.recv_timeout(POLL_EVERY) == Err(RecvTimeoutError::Timeout) {
                self.look();
            }
        };
        let thread = std::thread::Builder::new().name("files".into()).spawn(watch)?;
        Ok(Watcher { stop, thread })
    }

    fn look(&mut self) {
        if self.registry_file.changed() {
            self.look_at_registry();
        }
        self.look_at_rates();
        self.look_at_chain();
    }

    fn look_at_registry(&mut self) {
        let path = self.registry_file.path.display().to_string();
        let known = self.registry.borrow().clone();
        match files::read(&self.registry_file.path, registry::parse) {
            Err(error) => ignored(&error),
            Ok(new) if new == *known => {}
            Ok(new) => match changed_key(&known, &new) {
                Some(node) => {
                    ignored(&format_args!("{path}: node {node} has another key than before"));
                }
                None => {
                    if new.node(self.own).is_none() {
                        tracing::warn!(
                            node_id = self.own.0,
                            "this node is no longer in the registry: nothing can be published here"
                        );
                    }
                    tracing::info!(nodes = new.nodes().count(), "the registry has changed");
                    self.registry.send_replace(Arc::new(new));
                }
            },
        }
    }

    fn look_at_rates(&mut self) {
        let looked_ns = SystemClock.now_ns();
        if self.rates_file.changed() {
            self.rates_taken = self.take_rates();
        }
        // A file that is gone, or cannot be used, may have something new to say.
        if self.rates_taken && self.rates_file.path.exists() {
            self.rates.send_modify(|rates| *rates = Arc::new(rates.confirmed(looked_ns)));
        }
    }

    /// False if the file cannot be used as it is.
    fn take_rates(&mut self) -> bool {
        match load_rates(&self.rates_file.path, &self.store) {
            Err(error) => {
                ignored(&error);
                return false;
            }
            Ok(new) if new.rates() == self.rates.borrow().rates() => {}
            Ok(new) => {
                tracing::info!(rates = new.rates().len(), "the price list has changed");
                self.rates.send_replace(Arc::new(new));
            }
        }
        true
    }

    fn look_at_chain(&mut self) {
        let Some((file, appender)) = &mut self.chain else { return };
        match append_chain(file, appender) {
            Ok(0) => {}
            Ok(events) => {
                let [groups, identities] = file.heads();
                tracing::info!(
                    events,
                    groups = groups.0,
                    identities = identities.0,
                    "chain events"
                );
                self.chain_complaint.clear();
            }
            Err(error) => {
                // A file that is gone stays gone for many looks.
                let complaint = error.to_string();
                if complaint != self.chain_complaint {
                    ignored(&complaint);
                    self.chain_complaint = complaint;
                }
            }
        }
    }
}

fn ignored(error: &dyn std::fmt::Display) {
    tracing::error!(code = "file_ignored", "a file has changed and is not taken over: {error}");
}

/// A node whose key is not what it was: keys never change, so one of the two files is wrong.
fn changed_key(known: &Registry, new: &Registry) -> Option<OriginatorId> {
    let changed = |id, key| new.node(id).is_some_and(|record| record.public_key != key);
    known.nodes().find(|record| changed(record.id, record.public_key)).map(|record| record.id)
}

impl Watcher {
    /// Ends the thread. Blocks for the look under way.
    pub(super) fn stop(self) {
        drop(self.stop);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A small file that is read as a whole.
pub(super) struct Watched {
    path: PathBuf,
    seen: Option<(u64, u64, i64, i64)>,
}

impl Watched {
    /// The file as it is now counts as read.
    pub(super) fn new(path: &Path) -> Self {
        let mut watched = Self { path: path.to_owned(), seen: None };
        watched.changed();
        watched
    }

    /// Whether it is another file, or has another length or time, than when this was last asked.
    /// A file that is gone is no change: somebody may be writing it anew.
    fn changed(&mut self) -> bool {
        let Ok(found) = std::fs::metadata(&self.path) else { return false };
        let stamp = (found.ino(), found.len(), found.mtime(), found.mtime_nsec());
        let changed = self.seen != Some(stamp);
        self.seen = Some(stamp);
        changed
    }
}

#[cfg(test)]
mod tests {
    use hawser_engine::ports::NodeRecord;
    use hawser_proto::SecretKey;
    use hawser_storage::Identity;

    use super::*;
    use crate::files::key;
    use crate::files::rates::{RateEntry, RatesFile};
    use crate::files::registry::{NodeEntry, RegistryFile};

    fn entry(node_id: u32, key: &SecretKey) -> NodeEntry {
        NodeEntry {
            node_id,
            signer: key.public_key().address().to_string(),
            is_canonical: true,
            signing_public_key: key.public_key().to_string(),
            http_address: "http://127.0.0.1:5050".into(),
            quic_address: None,
        }
    }

    fn write_registry(path: &Path, nodes: Vec<NodeEntry>) {
        let text = serde_json::to_string(&RegistryFile { nodes }).unwrap();
        files::write_whole(path, text.as_bytes()).unwrap();
    }

    fn write_rates(path: &Path, rates: Vec<RateEntry>) {
        let text = serde_json::to_string(&RatesFile { rates }).unwrap();
        files::write_whole(path, text.as_bytes()).unwrap();
    }

    struct Files {
        folder: tempfile::TempDir,
        key: SecretKey,
        world: World,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let key = key::generate();
            let registry_path = folder.path().join("registry.json");
            let rates_path = folder.path().join("rates.json");
            write_registry(&registry_path, vec![entry(100, &key)]);
            write_rates(&rates_path, vec![RateEntry::FIRST]);
            let store = Store::in_memory(Identity {
                network: "test".into(),
                node: OriginatorId(100),
                public_key: key.public_key(),
            })
            .unwrap();
            let registry = files::read(&registry_path, registry::parse).unwrap();
            let rates = load_rates(&rates_path, &store).unwrap();
            let world = World {
                own: OriginatorId(100),
                store,
                registry_file: Watched::new(&registry_path),
                registry: watch::Sender::new(Arc::new(registry)),
                rates_file: Watched::new(&rates_path),
                rates: watch::Sender::new(Arc::new(rates)),
                rates_taken: true,
                chain: None,
                chain_complaint: String::new(),
            };
            Self { folder, key, world }
        }

        fn nodes(&self) -> Vec<u32> {
            self.world.registry.borrow().nodes().map(|node: &NodeRecord| node.id.0).collect()
        }
    }

    #[test]
    fn a_registry_that_changes_is_taken_over() {
        let mut files = Files::new();
        let path = files.folder.path().join("registry.json");
        files.world.look();
        assert_eq!(files.nodes(), [100]);
        write_registry(&path, vec![entry(100, &files.key), entry(200, &key::generate())]);
        files.world.look();
        assert_eq!(files.nodes(), [100, 200]);
    }

    #[test]
    fn a_registry_that_cannot_be_taken_leaves_the_old_one() {
        let mut files = Files::new();
        let path = files.folder.path().join("registry.json");
        std::fs::write(&path, "{").unwrap();
        files.world.look();
        assert_eq!(files.nodes(), [100]);
        write_registry(&path, vec![entry(100, &key::generate()), entry(200, &files.key)]);
        files.world.look();
        assert_eq!(files.nodes(), [100], "a key never changes");
        std::fs::remove_file(&path).unwrap();
        files.world.look();
        assert_eq!(files.nodes(), [100]);
    }

    #[test]
    fn prices_are_added_and_never_changed_or_forgotten() {
        let mut files = Files::new();
        let path = files.folder.path().join("rates.json");
        let later = RateEntry { start_time: 9, message_fee: 7, ..RateEntry::FIRST };
        write_rates(&path, vec![later]);
        files.world.look();
        let fees = |files: &Files| -> Vec<u64> {
            files.world.rates.borrow().rates().iter().map(|rate| rate.message_fee).collect()
        };
        assert_eq!(fees(&files), [100, 7], "what was recorded stays");
        write_rates(&path, vec![RateEntry { message_fee: 8, ..later }]);
        files.world.look();
        assert_eq!(fees(&files), [100, 7], "what was recorded does not change");
    }

    /// A price list may be held against other nodes only up to when it was last seen as it is.
    #[test]
    fn prices_are_confirmed_by_every_look_at_a_file_that_can_be_used() {
        let mut files = Files::new();
        let path = files.folder.path().join("rates.json");
        let confirmed_ns = |files: &Files| files.world.rates.borrow().refreshed_ns().unwrap();
        let mut last_ns = confirmed_ns(&files);
        let mut is_confirmed = |files: &mut Files| {
            std::thread::sleep(Duration::from_millis(1)); // the clock moves
            files.world.look();
            let before_ns = std::mem::replace(&mut last_ns, confirmed_ns(files));
            last_ns > before_ns
        };
        assert!(is_confirmed(&mut files));
        write_rates(&path, vec![RateEntry { start_time: 9, ..RateEntry::FIRST }]);
        assert!(is_confirmed(&mut files));
        std::fs::write(&path, "half of a pri").unwrap();
        assert!(!is_confirmed(&mut files));
        assert!(!is_confirmed(&mut files));
        std::fs::remove_file(&path).unwrap();
        assert!(!is_confirmed(&mut files));
        write_rates(&path, vec![RateEntry { start_time: 10, ..RateEntry::FIRST }]);
        assert!(is_confirmed(&mut files));
    }
}
