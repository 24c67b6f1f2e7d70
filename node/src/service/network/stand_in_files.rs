//! Files that substitute for the registry, the rates and the app chain. They are read again when they change. An
//! invalid change is logged once, and the last valid state is kept.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;

use hawser_engine::runtime::{ChainAppendError, ChainAppender};
use hawser_proto::OriginatorId;
use hawser_rules::RateTable;
use hawser_storage::Store;

use super::{NetworkState, RecordRatesError, first_rates, now_ns};
use crate::files::chain::{ChainEvents, ChainFile, ChainFileError};
use crate::files::rates::RatesFileError;
use crate::files::{self, FileError, FileStamp, POLL_EVERY, rates, registry};

/// Error of loading the rates of a file.
#[derive(Debug, thiserror::Error)]
pub enum RatesError {
    /// The file could not be used.
    #[error(transparent)]
    File(#[from] FileError<RatesFileError>),
    /// The rates cannot be recorded.
    #[error(transparent)]
    Record(#[from] RecordRatesError),
}

/// Error of appending the events of a chain file.
#[derive(Debug, thiserror::Error)]
pub enum ChainAppendFileError {
    /// The file could not be used.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// The error in its content.
        error: ChainFileError,
    },
    /// The events could not be appended to the log.
    #[error("the chain strands cannot be written: {0}")]
    Append(#[from] ChainAppendError),
}

impl ChainAppendFileError {
    /// Returns true if the file does not exist.
    pub(in crate::service) fn is_of_missing_file(&self) -> bool {
        matches!(self, Self::File { error: ChainFileError::Read(error), .. }
            if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads and records the rates of a file. Returns all recorded rates, confirmed as of now, and complete up to the time
/// that the file states.
///
/// # Errors
/// Fails when the file cannot be read, or contradicts the recorded rates.
pub(in crate::service) fn load_rates(path: &Path, store: &Store) -> Result<RateTable, RatesError> {
    let read_ns = now_ns();
    Ok(first_rates(&files::read(path, rates::parse)?.found_at(read_ns), store)?)
}

/// Appends all new events of a chain file. Returns their number.
///
/// # Errors
/// Fails when the file or the log cannot be used. Events before the error are appended.
pub(in crate::service) fn append_chain(
    file: &mut ChainFile,
    appender: &ChainAppender,
) -> Result<usize, ChainAppendFileError> {
    let mut count = 0;
    loop {
        let before = file.place();
        let events = file
            .poll()
            .map_err(|error| ChainAppendFileError::File { path: file.path().to_owned(), error })?;
        if events.is_empty() {
            return Ok(count);
        }
        if let Err(error) = append_events(&events, appender) {
            file.go_back(before); // envelopes that are appended already are left out the next time
            return Err(error.into());
        }
        count += events.len();
    }
}

fn append_events(events: &ChainEvents, appender: &ChainAppender) -> Result<(), ChainAppendError> {
    appender.append(OriginatorId::GROUP_MESSAGES, &events.groups, None)?;
    appender.append(OriginatorId::IDENTITY_UPDATES, &events.identities, None)
}

/// The reader of the files, with the state that it updates.
pub(in crate::service) struct StandInReader {
    pub(in crate::service) network: NetworkState,
    pub(in crate::service) registry_file: Option<WatchedFile>,
    pub(in crate::service) rates_file: Option<WatchedFile>,
    /// The content of the rates file as last read, if the rates in force are those.
    pub(in crate::service) rates_taken: Option<RateTable>,
    pub(in crate::service) chain: Option<(ChainFile, ChainAppender)>,
    /// The last logged error of the chain file, so that it is logged only once.
    pub(in crate::service) chain_error: String,
}

/// The thread that watches the files.
pub(in crate::service) struct FileWatcher {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl StandInReader {
    /// Starts to watch the files.
    ///
    /// # Errors
    /// Fails when the system cannot start a thread.
    pub(in crate::service) fn watch(mut self) -> std::io::Result<FileWatcher> {
        let (stop, stopped) = mpsc::channel();
        let watch = move || {
            while stopped.recv_timeout(POLL_EVERY) == Err(RecvTimeoutError::Timeout) {
                self.look();
            }
        };
        let thread = std::thread::Builder::new().name("files".into()).spawn(watch)?;
        Ok(FileWatcher { stop, thread })
    }

    fn look(&mut self) {
        self.look_at_registry();
        self.look_at_rates();
        self.look_at_chain();
    }

    fn look_at_registry(&mut self) {
        let Some(file) = &mut self.registry_file else { return };
        let Some(Ok(new)) = file.read_change(registry::parse) else { return };
        if let Err(node) = self.network.take_registry(new) {
            let path = file.path.display();
            ignored(&format_args!("{path}: node {node} has another key than before"));
        }
    }

    fn look_at_rates(&mut self) {
        let Some(file) = &mut self.rates_file else { return };
        let looked_ns = now_ns();
        if let Some(read) = file.read_change(rates::parse) {
            self.rates_taken = read.ok().and_then(|table| {
                let taken = self.network.take_rates(&table.found_at(looked_ns));
                if taken.as_ref().is_err_and(RecordRatesError::is_of_disk) {
                    file.forget(); // to be taken over later, although it does not change
                }
                taken.inspect_err(|error| ignored(error)).is_ok().then_some(table)
            });
        }
        // A missing or invalid file may be about to change, so it confirms nothing.
        if let Some(table) = self.rates_taken.as_ref().filter(|_| file.path.exists()) {
            self.network.confirm_rates(&table.found_at(looked_ns));
        }
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
                self.chain_error.clear();
            }
            Err(error) => {
                let text = error.to_string();
                if text != self.chain_error {
                    ignored(&text);
                    self.chain_error = text;
                }
            }
        }
    }
}

fn ignored(error: &dyn std::fmt::Display) {
    tracing::error!(
        code = "file_ignored",
        "a changed file cannot be used, and its last contents stay in force: {error}"
    );
}

impl FileWatcher {
    /// Stops the thread. Blocks until the current read has ended.
    pub(in crate::service) fn stop(self) {
        drop(self.stop);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A small file that is read completely, with the stamp of its last read.
pub(in crate::service) struct WatchedFile {
    path: PathBuf,
    seen: Option<FileStamp>,
    /// The content counts as changed, although the stamp is the same.
    is_due: bool,
    /// The last failure to read this content, so that it is logged only once.
    failure: String,
}

impl WatchedFile {
    /// Starts to watch a file; its current content counts as read.
    pub(in crate::service) fn new(path: &Path) -> Self {
        let path = path.to_owned();
        let mut watched = Self { path, seen: None, is_due: false, failure: String::new() };
        watched.take_change();
        watched
    }

    /// Makes the current content count as a change.
    pub(in crate::service) fn forget(&mut self) {
        self.is_due = true;
    }

    /// Reads the file if its content counts as changed; `None` if not. Logs an error once for each change. A content
    /// that the system does not read counts as changed until it is read: the disk may fail for a moment.
    fn read_change<T, E: std::fmt::Display>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Result<T, FileError<E>>> {
        if !self.take_change() {
            return None;
        }
        let read = files::read(&self.path, parse);
        if let Err(error) = &read {
            if matches!(error, FileError::Read { .. }) {
                self.forget();
            }
            let failure = error.to_string();
            if failure != self.failure {
                ignored(&failure);
                self.failure = failure;
            }
        }
        Some(read)
    }

    /// Returns true if the file was replaced or written since the last call. A missing file is not a change, because an
    /// editor may be writing it anew.
    fn take_change(&mut self) -> bool {
        let Ok(found) = std::fs::metadata(&self.path) else { return false };
        let stamp = FileStamp::of(&found);
        let is_new = self.seen != Some(stamp);
        if is_new {
            self.seen = Some(stamp);
            self.failure.clear();
        }
        let is_due = std::mem::take(&mut self.is_due);
        is_new || is_due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hawser_engine::ports::NodeRecord;
    use hawser_proto::SecretKey;
    use hawser_rules::PicoDollarPrice;
    use hawser_storage::StoreIdentity;

    use super::*;
    use crate::files::key;
    use crate::files::rates::{RateRecord, RatesFile};
    use crate::files::registry::{RegistryFile, RegistryFileEntry};

    fn entry(node_id: u32, key: &SecretKey) -> RegistryFileEntry {
        RegistryFileEntry {
            node_id: OriginatorId(node_id),
            signer: key.public_key().address().to_string(),
            is_canonical: true,
            signing_public_key: key.public_key().to_string(),
            http_address: "http://127.0.0.1:5050".into(),
            quic_address: None,
            absences: Vec::new(),
        }
    }

    fn write_registry(path: &Path, nodes: Vec<RegistryFileEntry>) {
        let text = serde_json::to_string(&RegistryFile { nodes, source: None }).unwrap();
        files::write_whole(path, text.as_bytes()).unwrap();
    }

    fn write_rates(path: &Path, rates: Vec<RateRecord>) {
        let text = serde_json::to_string(&RatesFile { complete_until: None, rates }).unwrap();
        files::write_whole(path, text.as_bytes()).unwrap();
    }

    struct Files {
        folder: tempfile::TempDir,
        key: SecretKey,
        reader: StandInReader,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let key = key::generate();
            let registry_path = folder.path().join("registry.json");
            let rates_path = folder.path().join("rates.json");
            write_registry(&registry_path, vec![entry(100, &key)]);
            write_rates(&rates_path, vec![RateRecord::FIRST]);
            let identity = StoreIdentity {
                network: "test".into(),
                node: OriginatorId(100),
                public_key: key.public_key(),
            };
            let store = Store::in_memory(identity, hawser_engine::price::price).unwrap();
            let registry = files::read(&registry_path, registry::parse).unwrap();
            let rates = load_rates(&rates_path, &store).unwrap();
            let mut rates_file = WatchedFile::new(&rates_path);
            rates_file.forget();
            let reader = StandInReader {
                network: NetworkState::new(OriginatorId(100), store, registry, rates),
                registry_file: Some(WatchedFile::new(&registry_path)),
                rates_file: Some(rates_file),
                rates_taken: None,
                chain: None,
                chain_error: String::new(),
            };
            Self { folder, key, reader }
        }

        fn nodes(&self) -> Vec<u32> {
            self.reader
                .network
                .registry
                .borrow()
                .nodes()
                .map(|node: &NodeRecord| node.id.0)
                .collect()
        }
    }

    #[test]
    fn a_registry_that_changes_is_taken_over() {
        let mut files = Files::new();
        let path = files.folder.path().join("registry.json");
        files.reader.look();
        assert_eq!(files.nodes(), [100]);
        write_registry(&path, vec![entry(100, &files.key), entry(200, &key::generate())]);
        files.reader.look();
        assert_eq!(files.nodes(), [100, 200]);
    }

    #[test]
    fn a_registry_that_cannot_be_taken_leaves_the_old_one() {
        let mut files = Files::new();
        let path = files.folder.path().join("registry.json");
        std::fs::write(&path, "{").unwrap();
        files.reader.look();
        assert_eq!(files.nodes(), [100]);
        write_registry(&path, vec![entry(100, &key::generate()), entry(200, &files.key)]);
        files.reader.look();
        assert_eq!(files.nodes(), [100], "a key never changes");
        std::fs::remove_file(&path).unwrap();
        files.reader.look();
        assert_eq!(files.nodes(), [100]);
    }

    /// A file can lose a line for a while. The key of what the node has signed must not change meanwhile.
    #[test]
    fn a_node_that_was_away_comes_back_with_its_key_alone() {
        let mut files = Files::new();
        let path = files.folder.path().join("registry.json");
        let (own, away) = (files.key.clone(), key::generate());
        for (nodes, taken) in [
            (vec![entry(100, &own), entry(200, &away)], vec![100, 200]),
            (vec![entry(100, &own)], vec![100]),
            (vec![entry(100, &own), entry(200, &key::generate())], vec![100]),
            (vec![entry(100, &own), entry(200, &key::generate()), entry(300, &away)], vec![100]),
            (vec![entry(100, &own), entry(200, &away)], vec![100, 200]),
        ] {
            write_registry(&path, nodes);
            files.reader.look();
            assert_eq!(files.nodes(), taken);
        }
        let ids = files.reader.network.keys.lock().keys().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(ids, [100, 200], "a list that is refused leaves no key");
    }

    /// Played by a folder in the place of each file: it cannot be read, as a file on a disk that fails for a moment.
    #[test]
    fn what_the_system_does_not_read_is_read_again_although_it_does_not_change() {
        let mut files = Files::new();
        for name in ["registry.json", "rates.json"] {
            let path = files.folder.path().join(name);
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
        }
        files.reader.look();
        assert_eq!(files.nodes(), [100]);
        let StandInReader { registry_file, rates_file, .. } = &mut files.reader;
        for file in [registry_file, rates_file] {
            let file = file.as_mut().unwrap();
            assert!(!file.failure.is_empty(), "it is named, once");
            assert!(file.take_change(), "the next look reads it again");
            assert!(!file.take_change());
        }
    }

    #[test]
    fn prices_are_added_and_never_changed_or_forgotten() {
        let mut files = Files::new();
        let path = files.folder.path().join("rates.json");
        let later =
            RateRecord { start_time: 9, message_fee: PicoDollarPrice(7), ..RateRecord::FIRST };
        write_rates(&path, vec![later]);
        files.reader.look();
        let fees = |files: &Files| -> Vec<u64> {
            files
                .reader
                .network
                .rates
                .borrow()
                .rates()
                .iter()
                .map(|rate| rate.message_fee.0)
                .collect()
        };
        assert_eq!(fees(&files), [100, 7], "what was recorded stays");
        write_rates(&path, vec![RateRecord { message_fee: PicoDollarPrice(8), ..later }]);
        files.reader.look();
        assert_eq!(fees(&files), [100, 7], "what was recorded does not change");
    }

    #[test]
    fn prices_that_a_list_takes_back_stay_in_force_and_judge_nothing_until_it_has_them_again() {
        let mut files = Files::new();
        let path = files.folder.path().join("rates.json");
        let later = RateRecord { start_time: 9, ..RateRecord::FIRST };
        for (rates, is_judge) in [
            (vec![RateRecord::FIRST, later], true),
            (vec![RateRecord::FIRST], false),
            (vec![RateRecord::FIRST, later], true),
        ] {
            write_rates(&path, rates);
            // The second look finds the same file.
            for _ in 0..2 {
                let before_ns = now_ns();
                files.reader.look();
                let rates = files.reader.network.rates.borrow().clone();
                assert!(rates.rates().len() == 2 && rates.covers(before_ns), "{rates:?}");
                assert_eq!(rates.is_complete_at(0), is_judge, "{rates:?}");
            }
        }
    }

    /// The list may have a rate that a full disk did not take, and by which honest nodes charge.
    #[test]
    fn prices_that_cannot_be_recorded_at_the_start_are_neither_sold_at_nor_judged_by() {
        let files = Files::new();
        let path = files.folder.path().join("rates.json");
        let later =
            RateRecord { start_time: 9, message_fee: PicoDollarPrice(7), ..RateRecord::FIRST };
        write_rates(&path, vec![RateRecord::FIRST, later]);
        let store = &files.reader.network.store;
        store.fail_next_write();
        let rates = load_rates(&path, store).unwrap();
        assert_eq!(rates.rates().len(), 1, "the new one is not recorded");
        assert!(!rates.covers(0) && !rates.is_complete_at(0));
    }

    /// A copy of the chain's list may lack a rate by which honest nodes charge, however often it is looked at.
    #[test]
    fn a_copy_of_the_chains_prices_prices_on_and_judges_nothing_after_its_own_time() {
        let mut files = Files::new();
        let path = files.folder.path().join("rates.json");
        let noted_ns = files.reader.network.store.snapshot().rates_complete_until_ns().unwrap();
        let known_ns = files.reader.network.rates.borrow().complete_until_ns();
        assert!(noted_ns.is_some() && noted_ns == known_ns, "audits of the folder read it");
        let copied_s = 1_750_000_000;
        let copy = RatesFile { complete_until: Some(copied_s), rates: vec![RateRecord::FIRST] };
        files::write_whole(&path, serde_json::to_string(&copy).unwrap().as_bytes()).unwrap();
        let copied_ns = Some(hawser_rules::fees::complete_until_ns(copied_s));
        for _ in 0..2 {
            let before_ns = now_ns();
            files.reader.look();
            let rates = files.reader.network.rates.borrow().clone();
            assert!(rates.covers(before_ns), "it prices: {rates:?}");
            assert_eq!(rates.complete_until_ns(), copied_ns);
        }
        let started = load_rates(&path, &files.reader.network.store).unwrap();
        assert_eq!(started.complete_until_ns(), copied_ns);
        write_rates(&path, vec![RateRecord::FIRST]);
        let before_ns = now_ns();
        files.reader.look();
        assert!(files.reader.network.rates.borrow().is_complete_at(before_ns), "the source itself");
    }

    /// With each notice all envelopes whose fees wait for the list are read again.
    #[test]
    fn a_copy_that_is_complete_for_no_longer_is_told_of_every_five_minutes() {
        let files = Files::new();
        let network = &files.reader.network;
        let parsed = |complete_until| {
            let file = RatesFile { complete_until, rates: vec![RateRecord::FIRST] };
            rates::parse(&serde_json::to_string(&file).unwrap()).unwrap()
        };
        let (copy, source) = (parsed(Some(1_750_000_000)), parsed(None));
        let at = |after_s: i64| (1_800_000_000 + after_s) * 1_000_000_000;
        network.confirm_rates(&copy.found_at(at(0)));
        let mut told = network.rates.subscribe();
        let mut is_told = |file: &RateTable, after_s: i64| {
            network.confirm_rates(&file.found_at(at(after_s)));
            assert!(network.rates.borrow().covers(at(after_s)), "it prices");
            let is_told = told.has_changed().unwrap();
            told.mark_unchanged();
            is_told
        };
        assert!(!is_told(&copy, 1) && !is_told(&copy, 299));
        assert!(is_told(&copy, 300));
        assert!(is_told(&source, 301) && is_told(&source, 302), "it is complete for longer");
    }

    /// Rates may be held against other nodes only up to the time at which they were last confirmed.
    #[test]
    fn prices_are_confirmed_by_every_look_at_a_file_that_can_be_used() {
        let mut files = Files::new();
        let path = files.folder.path().join("rates.json");
        let confirmed_ns =
            |files: &Files| files.reader.network.rates.borrow().refreshed_ns().unwrap();
        let mut last_ns = confirmed_ns(&files);
        let mut is_confirmed = |files: &mut Files| {
            std::thread::sleep(Duration::from_millis(1)); // the clock moves
            files.reader.look();
            let before_ns = std::mem::replace(&mut last_ns, confirmed_ns(files));
            last_ns > before_ns
        };
        assert!(is_confirmed(&mut files));
        write_rates(&path, vec![RateRecord { start_time: 9, ..RateRecord::FIRST }]);
        assert!(is_confirmed(&mut files));
        std::fs::write(&path, "half of a pri").unwrap();
        assert!(!is_confirmed(&mut files));
        assert!(!is_confirmed(&mut files));
        std::fs::remove_file(&path).unwrap();
        assert!(!is_confirmed(&mut files));
        write_rates(&path, vec![RateRecord { start_time: 10, ..RateRecord::FIRST }]);
        assert!(is_confirmed(&mut files));
    }
}
